//! A control group for each child, where the daemon may make one: nobody leaves it by a new session or the death of a
//! parent, and the kernel kills all that is in it at once.
//!
//! Everything here is an extra. Where there is no cgroup v2, or its directory is not ours to write, children are
//! started, found and ended without.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

use crate::files::is_shortage;
use crate::mark::fits;

/// How the names of the directories begin; the number of the daemon and the mark of the child follow.
const PREFIX: &str = "seawall-";

/// The directories that could not be removed yet, because somebody in them was still dying.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A control group of one child and all that comes from it. Dropped, its directory is removed, or will be by
/// [`sweep`]; the processes in it are left alone.
#[derive(Debug)]
pub(crate) struct Cage {
    path: PathBuf,
}

impl Cage {
    /// Makes one below the daemon's own, and opens the file in which a process writes `0` to enter it.
    pub(crate) fn make(mark: &str) -> Option<(Self, File)> {
        static FORMER: Once = Once::new();
        sweep();
        if mark.is_empty() {
            return None;
        }
        FORMER.call_once(sweep_former);
        Self::make_in(&directory("self")?, mark)
    }

    fn make_in(parent: &Path, mark: &str) -> Option<(Self, File)> {
        let path = parent.join(format!("{PREFIX}{}-{mark}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let cage = Self { path };
        let door = OpenOptions::new().write(true).open(cage.path.join("cgroup.procs")).ok()?;
        Some((cage, door))
    }

    /// Those that a former daemon made for a mark that fits: below our own, as when the daemon was started in the same
    /// way again, and above any of the `living`. Never one that holds any of the `spared`, or that cannot be read.
    pub(crate) fn find(mark: &str, living: &[u32], spared: &BTreeSet<u32>) -> Vec<Self> {
        let is_it = |path: &Path| made_by(path).is_some_and(|(_, of)| fits(of.as_bytes(), mark));
        let around = |pid: &u32| {
            let directory = directory(&pid.to_string())?;
            directory.ancestors().find(|path| is_it(path)).map(Path::to_owned)
        };
        let mut paths: BTreeSet<PathBuf> = living.iter().filter_map(around).collect();
        let beside = directory("self").and_then(|own| inner(&own)).unwrap_or_default();
        paths.extend(beside.into_iter().filter(|path| is_it(path)));
        let is_free =
            |path: &PathBuf| members(path).is_some_and(|found| found.iter().all(|pid| !spared.contains(pid)));
        // Made only where it is used: dropped, it would be removed.
        paths.into_iter().filter(is_free).map(|path| Self { path }).collect()
    }

    /// The numbers of all processes in it, at any depth; `None` if they cannot be known now. The dead are not among
    /// them.
    pub(crate) fn members(&self) -> Option<Vec<u32>> {
        members(&self.path)
    }

    /// Kills all that is in it, at any depth; nothing can be born meanwhile. Linux 5.14 or later, else nothing.
    #[expect(clippy::disallowed_methods, reason = "cgroupfs is memory: writing to it waits for no device")]
    pub(crate) fn kill(&self) {
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if !remove(&self.path) {
            left().push(std::mem::take(&mut self.path));
        }
    }
}

/// Removes the directories of families that have ended since.
pub(crate) fn sweep() {
    left().retain(|path| !remove(path));
}

/// Removes the empty directories that daemons which are gone made below our own.
pub(crate) fn sweep_former() {
    for path in directory("self").and_then(|own| inner(&own)).unwrap_or_default() {
        let former =
            made_by(&path).is_some_and(|(daemon, _)| !Path::new(&format!("/proc/{daemon}")).exists());
        if former && members(&path).is_some_and(|found| found.is_empty()) {
            remove(&path);
        }
    }
}

fn left() -> MutexGuard<'static, Vec<PathBuf>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The daemon that made this directory, and for which mark.
fn made_by(path: &Path) -> Option<(u32, &str)> {
    let (daemon, mark) = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
    Some((daemon.parse().ok()?, mark))
}

/// Whether the directory is gone, with those that the child made in it.
fn remove(path: &Path) -> bool {
    let Some(directories) = within(path) else { return false };
    let mut removed = Ok(());
    for directory in directories.iter().rev() {
        removed = std::fs::remove_dir(directory);
    }
    match removed {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[expect(clippy::disallowed_methods, reason = "cgroupfs is memory: reading it waits for no device")]
fn members(path: &Path) -> Option<Vec<u32>> {
    let mut found = Vec::new();
    for directory in within(path)? {
        match std::fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            Err(error) if is_shortage(&error) => return None,
            // It is gone, or holds threads only, whose processes are listed further up.
            Err(_) => {}
        }
    }
    Some(found)
}

/// A directory and all below it, the outer before the inner; `None` if they cannot be known now.
fn within(path: &Path) -> Option<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next) {
        let deeper = inner(directory)?;
        found.extend(deeper);
        next += 1;
    }
    Some(found)
}

/// The directories in a directory, none if it is gone; `None` if they cannot be known now.
fn inner(path: &Path) -> Option<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_shortage(&error) => return None,
        Err(_) => return Some(Vec::new()),
    };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Some(directories.map(|entry| entry.path()).collect())
}

/// Where cgroup v2 is mounted, and which part of it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        // Blanks and the like are written as numbers there. Nobody mounts it at such a place.
        let mut fields = place.split(' ').skip(3).filter(|field| !field.contains('\\'));
        Some(Self { root: fields.next()?.into(), point: fields.next()?.into() })
    }

    /// The directory of the group that the kernel calls `path`, if it can be seen through this mount.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let inner = Path::new(path).strip_prefix(&self.root).ok()?;
        // One outside of our namespace begins with "..".
        let visible = inner.components().all(|part| matches!(part, Component::Normal(_)));
        visible.then(|| self.point.join(inner))
    }
}

/// The directory of the group that a process is in: a number, or `self`.
#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
fn directory(process: &str) -> Option<PathBuf> {
    static MOUNTS: OnceLock<Vec<Mount>> = OnceLock::new();
    let mounts = MOUNTS.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        text.lines().filter_map(Mount::parse).collect()
    });
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    // Version 2 is the one without a name and with the number 0.
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.iter().filter_map(|mount| mount.directory(path)).find(|directory| directory.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_through_their_mount() {
        let line = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let mount = Mount::parse(line).expect("a mount of cgroup v2");
        assert_eq!(mount, Mount { root: "/".into(), point: "/sys/fs/cgroup".into() });
        assert_eq!(mount.directory("/"), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount.directory("/a.slice/b"), Some("/sys/fs/cgroup/a.slice/b".into()));
        assert_eq!(mount.directory("/../b"), None);

        let bound = Mount::parse("41 31 0:38 /a /there rw - cgroup2 cgroup2 rw").expect("a part of it");
        assert_eq!(bound.directory("/a/b"), Some("/there/b".into()));
        assert_eq!(bound.directory("/ab"), None);

        for other in ["28 31 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "41 31 0:38 / /x rw"] {
            assert_eq!(Mount::parse(other), None);
        }
    }

    #[test]
    fn where_none_can_be_made_nothing_is_left_behind() {
        let parent = std::env::temp_dir().join(format!("seawall-cage-{}", std::process::id()));
        assert!(Cage::make_in(&parent, "m").is_none(), "there is no such directory");
        std::fs::create_dir(&parent).expect("a temporary directory can be made");
        assert!(Cage::make_in(&parent, "m").is_none(), "it is no control group");
        std::fs::remove_dir(&parent).expect("it is empty again");
        assert!(Cage::make("").is_none(), "there is nothing to name it by");
    }

    #[test]
    fn what_was_made_is_found_and_removed() {
        let mark = crate::mark::mint().expect("random numbers");
        let nobody = BTreeSet::new();
        // One that no other test makes a child with, so that what begins with it is ours.
        let (run, _) = mark.split_once('.').expect("a mark of a run");
        let (run, mark) = (format!("{run}-test."), format!("{run}-test.1"));
        let Some((cage, _door)) = Cage::make(&mark) else {
            assert!(Cage::find(&mark, &[std::process::id()], &nobody).is_empty());
            return;
        };
        let path = cage.path.clone();
        assert!(path.is_dir() && cage.members() == Some(Vec::new()));
        std::fs::create_dir(path.join("inner")).expect("what is in it may make more");
        for whose in [&run, &mark] {
            let found = Cage::find(whose, &[], &nobody);
            assert_eq!(found.iter().map(|cage| &cage.path).collect::<Vec<_>>(), [&path], "{whose}");
            // Dropped, it would be removed.
            std::mem::forget(found);
        }
        drop(Cage::find(&run, &[], &nobody));
        assert!(!path.exists());
        // Gone already: nothing is left to sweep.
        drop(cage);
        assert!(!left().contains(&path));
    }

    #[test]
    fn only_what_a_daemon_made_is_a_cage() {
        assert_eq!(made_by(Path::new("/x/seawall-42-0af3")), Some((42, "0af3")));
        for other in ["/x/seawall.service", "/x/seawall-42", "/x/seawall-x-0af3", "/"] {
            assert_eq!(made_by(Path::new(other)), None, "{other}");
        }
    }
}
