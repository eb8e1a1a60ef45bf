//! Results that were too large to be handed on whole, kept for a while so that the rest can be read.
//!
//! Each is a file of its own: a line of JSON that says whose it is and what it holds, then its bytes. They are copies
//! that nobody was promised to keep. They go when their time is over, the oldest of them sooner where they take too
//! much room, and what an earlier run left is taken over if it is whole and removed if it is not.

use crate::format;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a result is kept: whoever was told of it is in the middle of something, and comes soon or not at all.
pub const LIFE: Duration = Duration::from_secs(60 * 60);

/// Bytes that all results may take on disk: enough for some that are as large as a message may be, and little on
/// any disk that a daemon runs from.
const ROOM: u64 = 256 << 20;
/// What a file system gives out at once: small results take whole blocks, so this bounds their number too.
const BLOCK: u64 = 4096;
/// Longest first line that is read; none that is written comes near it.
const LONGEST_HEAD: u64 = 64 << 10;

/// The results that are kept in one directory.
///
/// Its methods block: for a few small file operations, [`Results::keep`] and [`Results::read`] for as long as the
/// bytes take. Only [`Results::find`] touches no file.
#[derive(Debug)]
pub struct Results {
    directory: PathBuf,
    room: u64,
    state: Mutex<State>,
}

/// A result to be kept.
#[derive(Clone, Copy, Debug)]
pub struct NewResult<'a> {
    /// Its name, which no other has and nobody can guess: 32 hex digits in lower case.
    pub id: &'a str,
    /// Who may read it.
    pub owner: &'a str,
    /// What its bytes are; kept as it is.
    pub kind: &'a str,
    /// How many of its bytes are read at once where the reader does not say, see [`Kept::part`].
    pub part: u64,
    /// All of it.
    pub bytes: &'a [u8],
}

/// What is known of a result that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// See [`NewResult::kind`].
    pub kind: String,
    /// See [`NewResult::part`].
    pub part: u64,
    /// How many bytes it has.
    pub size: u64,
    id: String,
    begins: u64,
}

/// The first line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    owner: String,
    kind: String,
    part: u64,
    size: u64,
    /// Unix milliseconds.
    made: i64,
}

#[derive(Debug)]
struct Entry {
    head: Head,
    /// Where in the file its bytes begin.
    begins: u64,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Entry>,
    /// From the oldest to the newest.
    order: VecDeque<String>,
    /// Bytes on disk.
    taken: u64,
}

impl Results {
    /// Takes over what `directory` holds that has not expired by `now_ms` (Unix milliseconds), and removes the rest.
    /// A directory that is not there is made when something is kept.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(directory: &Path, now_ms: i64) -> io::Result<Self> {
        Self::open_with(directory, ROOM, now_ms)
    }

    fn open_with(directory: &Path, room: u64, now_ms: i64) -> io::Result<Self> {
        let results = Self { directory: directory.to_owned(), room, state: Mutex::default() };
        let files = match fs::read_dir(directory) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(results),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for file in files {
            let name = file?.file_name();
            let Some(id) = name.to_str().filter(|name| is_id(name)) else { continue };
            match Entry::read(&results.path(id)) {
                Some(entry) => found.push((id.to_owned(), entry)),
                None => results.remove(id),
            }
        }
        found.sort_by_key(|(_, entry)| entry.head.made);
        let gone = {
            let mut state = results.lock();
            found.into_iter().for_each(|(id, entry)| state.add(id, entry));
            state.let_go(room, now_ms)
        };
        gone.iter().for_each(|id| results.remove(id));
        Ok(results)
    }

    /// Keeps a result from `now_ms` (Unix milliseconds) on. Where there is no room, the oldest others go.
    ///
    /// # Errors
    /// When it is larger than all the room there is, or cannot be written; nothing of it is left then.
    pub fn keep(&self, new: &NewResult<'_>, now_ms: i64) -> io::Result<()> {
        if !is_id(new.id) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is not 32 hex digits"));
        }
        let head = Head {
            format: format::RESULT,
            owner: new.owner.to_owned(),
            kind: new.kind.to_owned(),
            part: new.part,
            size: length(new.bytes),
            made: now_ms,
        };
        let mut line = serde_json::to_vec(&head)?;
        line.push(b'\n');
        let entry = Entry { head, begins: length(&line) };
        if entry.takes() > self.room {
            let text = format!("its {} bytes are more than may be kept", new.bytes.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.path(new.id);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // Not synced: one that a power cut takes is found to be cut short, and removed.
        if let Err(error) = file.write_all(&line).and_then(|()| file.write_all(new.bytes)) {
            self.remove(new.id);
            return Err(error);
        }
        let gone = {
            let mut state = self.lock();
            state.add(new.id.to_owned(), entry);
            state.let_go(self.room, now_ms)
        };
        gone.iter().for_each(|id| self.remove(id));
        Ok(())
    }

    /// The result of this name, if it is kept for `owner` and has not expired by `now_ms` (Unix milliseconds).
    pub fn find(&self, id: &str, owner: &str, now_ms: i64) -> Option<Kept> {
        let state = self.lock();
        let entry =
            state.known.get(id).filter(|entry| entry.head.owner == owner && !entry.expired(now_ms))?;
        let Head { kind, part, size, .. } = &entry.head;
        Some(Kept { kind: kind.clone(), part: *part, size: *size, id: id.to_owned(), begins: entry.begins })
    }

    /// At most `length` bytes of a result, from `offset` on; fewer at its end.
    ///
    /// # Errors
    /// When its file cannot be read: `NotFound` where it has gone since it was found.
    pub fn read(&self, kept: &Kept, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let count = length.min(kept.size.saturating_sub(offset));
        let count = usize::try_from(count).map_err(io::Error::other)?;
        let mut bytes = vec![0; count];
        File::open(self.path(&kept.id))?.read_exact_at(&mut bytes, kept.begins.saturating_add(offset))?;
        Ok(bytes)
    }

    /// Removes what has expired by `now_ms` (Unix milliseconds).
    pub fn sweep(&self, now_ms: i64) {
        let gone = self.lock().let_go(self.room, now_ms);
        gone.iter().for_each(|id| self.remove(id));
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    fn remove(&self, id: &str) {
        // One that stays behind is nobody's, and is looked at again at the next start.
        let _gone_or_left_behind = fs::remove_file(self.path(id));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, id: String, entry: Entry) {
        self.taken += entry.takes();
        self.order.push_back(id.clone());
        self.known.insert(id, entry);
    }

    /// Forgets what has expired, and the oldest for as long as all of them take more than `room`; gives their names.
    fn let_go(&mut self, room: u64, now_ms: i64) -> Vec<String> {
        let mut gone = Vec::new();
        while let Some(id) = self.order.front() {
            let expired = self.known.get(id).is_none_or(|entry| entry.expired(now_ms));
            if !expired && self.taken <= room {
                break;
            }
            let Some(id) = self.order.pop_front() else { break };
            if let Some(entry) = self.known.remove(&id) {
                self.taken = self.taken.saturating_sub(entry.takes());
            }
            gone.push(id);
        }
        gone
    }
}

impl Entry {
    /// What a file says of itself; `None` where it is not whole, or of another version.
    fn read(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let whole = file.metadata().ok()?.len();
        let mut line = Vec::new();
        BufReader::new(file).take(LONGEST_HEAD).read_until(b'\n', &mut line).ok()?;
        let head: Head = serde_json::from_slice(&line).ok()?;
        let begins = length(&line);
        let fits = head.format == format::RESULT && begins.checked_add(head.size) == Some(whole);
        fits.then_some(Self { head, begins })
    }

    /// Bytes that its file takes on disk.
    fn takes(&self) -> u64 {
        self.begins.saturating_add(self.head.size).div_ceil(BLOCK).saturating_mul(BLOCK)
    }

    /// Whether its time is over. A clock that was set back does not make it live for longer than twice.
    fn expired(&self, now_ms: i64) -> bool {
        let age = Duration::from_millis(now_ms.abs_diff(self.head.made));
        age >= LIFE
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Whether a file's name is that of a result; any other file is left alone.
fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const NOW: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn id(number: u8) -> String {
        format!("{number:032x}")
    }

    fn opened() -> (TempDir, Results) {
        let root = tempfile::tempdir().unwrap();
        let results = Results::open(&root.path().join("results"), NOW).unwrap();
        (root, results)
    }

    fn keep(results: &Results, number: u8, bytes: &[u8], now_ms: i64) -> io::Result<()> {
        let id = id(number);
        results.keep(&NewResult { id: &id, owner: "ann", kind: "text/plain", part: 4, bytes }, now_ms)
    }

    #[test]
    fn what_is_kept_is_read_in_parts_by_its_owner_alone() {
        let (root, results) = opened();
        let directory = root.path().join("results");
        assert!(!directory.exists(), "nothing is made before something is kept");
        keep(&results, 1, b"one\ntwo\n", NOW).unwrap();

        let kept = results.find(&id(1), "ann", NOW).unwrap();
        assert_eq!((kept.kind.as_str(), kept.part, kept.size), ("text/plain", 4, 8));
        assert_eq!(results.read(&kept, 0, u64::MAX).unwrap(), b"one\ntwo\n");
        assert_eq!(results.read(&kept, 4, 3).unwrap(), b"two");
        assert_eq!(results.read(&kept, 7, 9).unwrap(), b"\n");
        assert_eq!(results.read(&kept, 9, 9).unwrap(), b"");
        assert!(results.find(&id(1), "bob", NOW).is_none() && results.find(&id(2), "ann", NOW).is_none());

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(id(1)))), (0o700, 0o600));
        assert!(keep(&results, 1, b"again", NOW).is_err(), "a name is given once");
        assert_eq!(results.read(&kept, 0, 3).unwrap(), b"one");
    }

    #[test]
    fn an_hour_later_it_is_gone() {
        let (root, results) = opened();
        keep(&results, 1, b"x", NOW).unwrap();
        keep(&results, 2, b"y", NOW + 1).unwrap();
        let kept = results.find(&id(1), "ann", NOW + HOUR - 1).unwrap();
        assert!(results.find(&id(1), "ann", NOW + HOUR).is_none());
        results.sweep(NOW + HOUR);
        assert_eq!(results.read(&kept, 0, 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(results.find(&id(2), "ann", NOW + HOUR).is_some());
        let left: Vec<_> = fs::read_dir(root.path().join("results")).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn the_oldest_make_room() {
        let root = tempfile::tempdir().unwrap();
        let results = Results::open_with(root.path(), 3 * BLOCK, NOW).unwrap();
        for number in 1..=3 {
            keep(&results, number, b"small", NOW).unwrap();
        }
        keep(&results, 4, &[b'x'; 4096], NOW).unwrap();
        let there = |number| results.find(&id(number), "ann", NOW).is_some();
        assert_eq!([1, 2, 3, 4].map(there), [false, false, true, true], "two blocks for one");
        let error = keep(&results, 5, &[b'x'; 3 * 4096], NOW).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(there(3) && there(4), "what never fits pushes nothing out");
    }

    #[test]
    fn a_next_run_takes_over_what_is_whole_and_removes_the_rest() {
        let (root, results) = opened();
        for number in 1..=3 {
            keep(&results, number, b"some bytes", NOW + i64::from(number)).unwrap();
        }
        let path = |number| root.path().join("results").join(id(number));
        let whole = fs::read(path(1)).unwrap();
        fs::write(path(2), &whole[..whole.len() - 1]).unwrap();
        let text = String::from_utf8(whole).unwrap();
        fs::write(path(4), text.replace(r#""format":1"#, r#""format":2"#)).unwrap();
        fs::write(path(5), "rubbish").unwrap();
        fs::write(root.path().join("results/letter"), "dear").unwrap();

        let results = Results::open(&root.path().join("results"), NOW + HOUR + 1).unwrap();
        let left: Vec<bool> = (1..=5).map(|number| path(number).exists()).collect();
        assert_eq!(left, [false, false, true, false, false], "the first has expired");
        let kept = results.find(&id(3), "ann", NOW + HOUR + 1).unwrap();
        assert_eq!(results.read(&kept, 5, 5).unwrap(), b"bytes");
        assert!(root.path().join("results/letter").exists(), "what is not ours is left alone");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let (root, results) = opened();
        fs::write(root.path().join("results"), "in the way").unwrap();
        assert!(keep(&results, 1, b"x", NOW).is_err());
        assert!(results.find(&id(1), "ann", NOW).is_none());
        let strange = NewResult { id: "../escape", owner: "ann", kind: "k", part: 1, bytes: b"x" };
        assert_eq!(results.keep(&strange, NOW).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
