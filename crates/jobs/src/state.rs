//! The state directory: private to its user, and used by one daemon at a time.
//!
//! `daemon.lock` is locked for as long as the daemon lives; the kernel releases it however the daemon ends.
//! `daemon.json` says who holds it and where it listens. The file alone proves nothing, for a killed daemon
//! leaves it behind: [`find`] believes it only while the process it names lives and the lock is held.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::format;

const LOCK: &str = "daemon.lock";
const HOLDER: &str = "daemon.json";
const HOLDER_BEING_WRITTEN: &str = "daemon.json.new";

/// How often, and how far apart, a held lock is tried before it is believed: [`find`] holds it for an
/// instant.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// The daemon that uses a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (field 22 of `/proc/PID/stat`): a later process
    /// with the same pid has another.
    pub start_time: u64,
    /// The boot (`/proc/sys/kernel/random/boot_id`) that pid and start time belong to.
    pub boot_id: String,
    /// The version of Seawall it runs.
    pub version: String,
    /// Where it listens, as bridges connect to it.
    pub address: String,
    /// The version of this format, [`format::HOLDER`] when written by this build.
    pub format: u32,
}

impl Holder {
    /// This process, as a daemon of `version` that listens at `address`.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current(version: &str, address: &str) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id()?,
            version: version.to_owned(),
            address: address.to_owned(),
            format: format::HOLDER,
        })
    }

    /// Whether the very process that wrote this still exists.
    fn lives(&self) -> bool {
        boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
            && start_time(self.pid).is_ok_and(|start_time| start_time == self.start_time)
    }
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon uses the directory.
    #[error("{}", held(.holder))]
    Held {
        /// Who, or `None` when that daemon is still starting or already ending.
        holder: Option<Holder>,
    },
    /// `daemon.json` was written by a newer Seawall, and its daemon runs.
    #[error(
        "{path} has format {found}, and this Seawall reads formats up to {supported}: use the newer \
         Seawall whose daemon runs, or stop that daemon"
    )]
    Newer {
        /// The format version of the file.
        found: u32,
        /// The newest format version this build reads.
        supported: u32,
        /// The file.
        path: PathBuf,
    },
    /// `daemon.json` makes no sense though a daemon runs.
    #[error("{path} is damaged ({reason}): restart the Seawall daemon, which writes it anew")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory is open to other users and holds files that are not Seawall's.
    #[error(
        "{path} is open to other users (mode {mode:03o}) and holds files that are not Seawall's: set \
         `state` to a directory of its own, or run `chmod 700` on this one"
    )]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory or a file in it cannot be created, read or locked.
    #[error(
        "cannot use {path} ({source}): give Seawall's user access to it, or set `state` to another directory"
    )]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn held(holder: &Option<Holder>) -> String {
    match holder {
        Some(Holder { pid, address, version, .. }) => format!(
            "a Seawall daemon (pid {pid}, version {version}) already runs at {address} with this state \
             directory: use that one, stop it first (`kill {pid}`), or set `state` to another directory"
        ),
        None => {
            "another Seawall daemon that is starting or ending holds this state directory: try again in a \
             moment, or set `state` to another directory"
                .to_owned()
        }
    }
}

/// The right to be the one daemon of a state directory, for as long as this value lives.
///
/// Its methods block for the time of a few small file operations.
#[derive(Debug)]
pub struct StateLock {
    directory: PathBuf,
    /// Locked; closing it unlocks. The file itself is never removed: that would let two daemons lock two
    /// files.
    _lock: File,
}

impl StateLock {
    /// Creates the directory (and missing parents) with mode 0700 and locks it. An existing directory that
    /// other users can enter is closed to them if it is empty or Seawall's, and refused otherwise.
    ///
    /// Blocks for up to 25 ms when the lock is held.
    ///
    /// # Errors
    /// [`StateError::Held`] when another daemon has it; [`StateError::Exposed`]; [`StateError::Io`].
    pub fn acquire(directory: &Path) -> Result<Self, StateError> {
        make_private(directory)?;
        let path = directory.join(LOCK);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StateError::Io { path: path.clone(), source })?;
        for _ in 0..TRIES {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { directory: directory.to_owned(), _lock: lock }),
                Err(Errno::WOULDBLOCK) => thread::sleep(BETWEEN_TRIES),
                Err(error) => return Err(StateError::Io { path, source: error.into() }),
            }
        }
        // A daemon that has the lock but has not published yet would be taken for its dead predecessor.
        let holder = read(directory).ok().flatten().filter(Holder::lives);
        Err(StateError::Held { holder })
    }

    /// Writes `daemon.json`, so that [`find`] finds this daemon. Readers see the old file or the new one,
    /// whole, also after a power cut.
    ///
    /// # Errors
    /// When the file cannot be written; an older one then stands unchanged.
    pub fn publish(&self, holder: &Holder) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(holder)?;
        bytes.push(b'\n');
        let new = self.directory.join(HOLDER_BEING_WRITTEN);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(HOLDER))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Removes `daemon.json`: the daemon takes no new bridges but keeps the directory. Dropping the lock does
    /// this too.
    pub fn withdraw(&self) {
        // A file that stays behind misleads nobody: its process is gone soon, and `find` checks.
        let _absent_or_left_behind = fs::remove_file(self.directory.join(HOLDER));
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        self.withdraw();
    }
}

/// The daemon that runs with this state directory and has published its address, if there is one.
///
/// Blocks for the time of a few small file operations; changes nothing.
///
/// # Errors
/// When a daemon runs but `daemon.json` cannot be understood, or the files cannot be read.
pub fn find(directory: &Path) -> Result<Option<Holder>, StateError> {
    match read(directory) {
        Ok(None) => Ok(None),
        // Asked before the lock is tried, so that a stale file never makes us stand in a starting daemon's
        // way.
        Ok(Some(holder)) if !holder.lives() => Ok(None),
        found => {
            if is_locked(directory)? {
                found
            } else {
                Ok(None)
            }
        }
    }
}

fn make_private(directory: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Io { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mode = fs::metadata(directory).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // Somebody may have named their home or /tmp: closing those would break more than it protects.
    let is_ours = directory.join(LOCK).exists() || fs::read_dir(directory).map_err(failed)?.next().is_none();
    if !is_ours {
        return Err(StateError::Exposed { path: directory.to_owned(), mode });
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed)
}

/// What `daemon.json` says, true or not.
fn read(directory: &Path) -> Result<Option<Holder>, StateError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }

    let path = directory.join(HOLDER);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, source }),
    };
    let malformed =
        |error: serde_json::Error| StateError::Malformed { path: path.clone(), reason: error.to_string() };
    let Versioned { format: found } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if found > format::HOLDER {
        return Err(StateError::Newer { found, supported: format::HOLDER, path });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

/// Whether a daemon holds the lock. A shared lock asks: it does not disturb others who ask at the same time.
fn is_locked(directory: &Path) -> Result<bool, StateError> {
    let path = directory.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StateError::Io { path, source }),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(StateError::Io { path, source: error.into() }),
    }
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    start_time_in(&String::from_utf8_lossy(&stat))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has no start time"))
}

/// Field 22. The second field is the program's name in parentheses, which may itself hold spaces and
/// parentheses, so counting begins after the last one, at field 3.
fn start_time_in(stat: &str) -> Option<u64> {
    let (_name, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn this_process() -> Holder {
        Holder::current("0.1.0", "http://127.0.0.1:7400").unwrap()
    }

    #[test]
    fn creates_private_directories_and_files() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("parent/seawall");
        let lock = StateLock::acquire(&directory).unwrap();
        lock.publish(&this_process()).unwrap();

        assert_eq!(mode(&root.path().join("parent")), 0o700);
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(LOCK)), 0o600);
        assert_eq!(mode(&directory.join(HOLDER)), 0o600);
        assert!(!directory.join(HOLDER_BEING_WRITTEN).exists());
    }

    #[test]
    fn closes_its_own_directory_and_refuses_a_shared_one() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("open");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        drop(StateLock::acquire(&directory).unwrap());
        assert_eq!(mode(&directory), 0o700, "an empty directory becomes ours");

        fs::set_permissions(&directory, Permissions::from_mode(0o750)).unwrap();
        drop(StateLock::acquire(&directory).unwrap());
        assert_eq!(mode(&directory), 0o700, "one with our lock is ours");

        let shared = root.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("letter"), "dear").unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
        let refused = StateLock::acquire(&shared).unwrap_err();
        assert!(matches!(refused, StateError::Exposed { mode: 0o755, .. }), "{refused}");
        assert_eq!(mode(&shared), 0o755, "somebody else's directory is left alone");
    }

    #[test]
    fn a_second_daemon_learns_who_is_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(directory.path()).unwrap();

        let error = StateLock::acquire(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::Held { holder: None }), "nothing is published: {error}");

        let holder = this_process();
        first.publish(&holder).unwrap();
        let error = StateLock::acquire(directory.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("pid {}", holder.pid)), "{message}");
        assert!(message.contains(&holder.address), "{message}");
        assert!(matches!(error, StateError::Held { holder: Some(found) } if found == holder));

        drop(first);
        StateLock::acquire(directory.path()).expect("the lock ends with its holder");
    }

    #[test]
    fn a_dead_predecessor_is_not_taken_for_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(directory.path()).unwrap();
        let mut dead = this_process();
        dead.start_time += 1;
        lock.publish(&dead).unwrap();
        let error = StateLock::acquire(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::Held { holder: None }), "{error}");
    }

    #[test]
    fn find_sees_a_daemon_from_publish_to_withdraw() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert_eq!(find(&missing).unwrap(), None);
        assert!(!missing.exists(), "looking creates nothing");

        let lock = StateLock::acquire(directory.path()).unwrap();
        assert_eq!(find(directory.path()).unwrap(), None);
        let holder = this_process();
        lock.publish(&holder).unwrap();
        assert_eq!(find(directory.path()).unwrap(), Some(holder.clone()));
        lock.withdraw();
        assert_eq!(find(directory.path()).unwrap(), None);

        lock.publish(&holder).unwrap();
        drop(lock);
        assert!(!directory.path().join(HOLDER).exists(), "drop withdraws");
        assert_eq!(find(directory.path()).unwrap(), None);
    }

    #[test]
    fn find_believes_no_stale_file() {
        let directory = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(directory.path()).unwrap();
        let holder = this_process();

        let other_process = Holder { start_time: holder.start_time + 1, ..holder.clone() };
        let other_boot = Holder { boot_id: "another".to_owned(), ..holder.clone() };
        for stale in [other_process, other_boot] {
            lock.publish(&stale).unwrap();
            assert_eq!(find(directory.path()).unwrap(), None, "{stale:?}");
        }

        lock.publish(&holder).unwrap();
        let left_behind = fs::read(directory.path().join(HOLDER)).unwrap();
        drop(lock);
        fs::write(directory.path().join(HOLDER), left_behind).unwrap();
        assert_eq!(find(directory.path()).unwrap(), None, "the process lives but does not hold the lock");
    }

    #[test]
    fn find_fails_on_a_file_it_cannot_read_only_while_a_daemon_runs() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(HOLDER);
        let newer = r#"{"format": 2, "everything": "else"}"#;

        let lock = StateLock::acquire(directory.path()).unwrap();
        fs::write(&file, "half a fi").unwrap();
        let error = find(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::Malformed { .. }), "{error}");
        fs::write(&file, newer).unwrap();
        let error = find(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 2, supported: format::HOLDER, .. }), "{error}");

        drop(lock);
        for rubbish in ["half a fi", newer] {
            fs::write(&file, rubbish).unwrap();
            assert_eq!(find(directory.path()).unwrap(), None);
        }
    }

    #[test]
    fn start_time_is_found_behind_any_program_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        assert_eq!(start_time_in(&format!("42 (seawall) {tail}")), Some(987_654));
        assert_eq!(start_time_in(&format!("42 (a) b (c)) {tail}")), Some(987_654));
        assert_eq!(start_time_in("42 (seawall) S 1"), None);
        assert!(start_time(std::process::id()).unwrap() > 0);
    }
}
