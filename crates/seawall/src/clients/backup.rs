//! What files were before Seawall changed them: one record and one copy of the bytes for each write, kept in the state
//! directory and not beside the originals, because some clients read every file in their folder.

use super::edit::Fragment;
use super::file::{PRIVATE, digest};
use seawall_core::state;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

/// How many back-ups are kept of one file.
const KEPT: usize = 20;
/// The version of a record, which its readers ask for.
const VERSION: u32 = 1;
const RECORD: &str = "json";
const BYTES: &str = "bytes";
/// A record that is not whole yet.
const UNFINISHED: &str = "new";

/// What a file is to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The client's own file.
    Client,
    /// The file that holds what was moved out of the client's.
    Moved,
    /// `seawall.toml`.
    Settings,
}

/// A name whose entry was changed: what stood there before and after.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Touched {
    /// The server's name, or the path in `import`.
    pub name: String,
    /// What stood there before, if anything did.
    pub before: Option<Fragment>,
    /// What stands there since, if anything does.
    pub after: Option<Fragment>,
}

/// One write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Names the writes that were made together.
    pub change: String,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The client it was made for.
    pub client: String,
    /// Whether in a project's file.
    pub project: bool,
    /// Whether it took an earlier change back.
    pub undo: bool,
    /// What the file is to the change.
    pub role: Role,
    /// The file.
    pub file: PathBuf,
    /// Its permission bits before.
    pub mode: u32,
    /// The SHA-256 of its bytes before; `None` where it did not exist.
    pub sha256_before: Option<String>,
    /// The SHA-256 of its bytes after; `None` where it does not exist any more.
    pub sha256_after: Option<String>,
    /// The names that were changed in it.
    pub touched: Vec<Touched>,
}

/// What all writes of one change have in common.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    change: String,
    time_ms: u64,
    client: String,
    project: bool,
    undo: bool,
}

impl Origin {
    /// A change that is made now.
    pub(crate) fn new(client: &str, project: bool, undo: bool) -> Self {
        let now = now();
        Self {
            change: format!("{now:020}-{}", std::process::id()),
            time_ms: u64::try_from(now / 1_000_000).unwrap_or(u64::MAX),
            client: client.to_owned(),
            project,
            undo,
        }
    }

    /// The record of one of its writes.
    pub(crate) fn record(
        &self,
        role: Role,
        before: &super::file::Snapshot,
        after: Option<&[u8]>,
        touched: Vec<Touched>,
    ) -> Record {
        Record {
            version: VERSION,
            change: self.change.clone(),
            time_ms: self.time_ms,
            client: self.client.clone(),
            project: self.project,
            undo: self.undo,
            role,
            file: before.path.clone(),
            mode: before.mode,
            sha256_before: digest(before.bytes.as_deref()),
            sha256_after: digest(after),
            touched,
        }
    }
}

/// A back-up that was just made.
#[derive(Debug)]
pub(crate) struct Saved {
    stem: String,
}

/// The directory of back-ups.
#[derive(Debug)]
pub(crate) struct Backups {
    state: PathBuf,
    directory: PathBuf,
}

/// The writes of one change, and what was met on the way to them.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// The writes, oldest first, with the bytes from before.
    pub writes: Vec<(Record, Option<Vec<u8>>)>,
    /// Why newer records were passed over.
    pub unread: Vec<String>,
}

impl Backups {
    /// The back-ups in a state directory.
    pub(crate) fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), directory: state.join("backups") }
    }

    /// Keeps what a file is before it is written, and lets go of the oldest back-ups of that file.
    ///
    /// # Errors
    /// When it cannot be kept; the file must then stay as it is.
    pub(crate) async fn save(&self, record: &Record, before: Option<&[u8]>) -> Result<Saved, String> {
        let wrong = |error: std::io::Error| {
            format!("no back-up could be made in {}: {error}", self.directory.display())
        };
        // The daemon takes a state directory that is open to others for somebody else's.
        state::make_private(&self.state).await.map_err(wrong)?;
        state::make_private(&self.directory).await.map_err(wrong)?;
        let file = key_of(&record.file);
        // The time comes first, so that names sort by age.
        let stem = format!("{:020}-{file}", now());
        let text = serde_json::to_vec_pretty(record).map_err(|error| wrong(error.into()))?;
        let saved = Saved { stem };
        if let Err(error) = self.keep(&saved.stem, before, &text).await {
            self.forget(&saved).await;
            return Err(wrong(error));
        }
        let stems: Vec<String> =
            self.stems().await?.into_iter().filter(|stem| stem.ends_with(&file)).collect();
        for old in &stems[..stems.len().saturating_sub(KEPT)] {
            self.forget(&Saved { stem: old.clone() }).await;
        }
        Ok(saved)
    }

    /// Lets go of a back-up.
    pub(crate) async fn forget(&self, saved: &Saved) {
        for ending in [RECORD, UNFINISHED, BYTES] {
            // One that is left over is let go of by its age.
            let _ = fs::remove_file(self.path(&saved.stem, ending)).await;
        }
    }

    /// The newest change that was made for a client. Records that cannot be read are passed over.
    ///
    /// # Errors
    /// When the directory cannot be read, or the bytes of the change.
    pub(crate) async fn newest(&self, client: &str) -> Result<Newest, String> {
        let mut newest = Newest::default();
        for stem in self.stems().await?.into_iter().rev() {
            let record = match self.record(&stem).await {
                Ok(record) => record,
                Err(error) => {
                    newest.unread.push(error);
                    continue;
                }
            };
            if record.client != client {
                continue;
            }
            if newest.writes.first().is_some_and(|(first, _)| first.change != record.change) {
                break;
            }
            let bytes = match &record.sha256_before {
                None => None,
                Some(hash) => {
                    let path = self.path(&stem, BYTES);
                    let read = fs::read(&path).await;
                    let bytes =
                        read.map_err(|error| format!("{} could not be read: {error}", path.display()))?;
                    if digest(Some(&bytes)).as_ref() != Some(hash) {
                        return Err(format!("{} is damaged: its hash is another one", path.display()));
                    }
                    Some(bytes)
                }
            };
            newest.writes.push((record, bytes));
        }
        newest.writes.reverse();
        Ok(newest)
    }

    /// The names of all clients whose newest change was not an undo, and why records were passed over.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) async fn clients(&self) -> Result<(Vec<String>, Vec<String>), String> {
        let (mut clients, mut unread) = (Vec::new(), Vec::new());
        for stem in self.stems().await? {
            match self.record(&stem).await {
                Ok(record) => {
                    clients.retain(|client| *client != record.client);
                    if !record.undo {
                        clients.push(record.client);
                    }
                }
                Err(error) => unread.push(error),
            }
        }
        Ok((clients, unread))
    }

    /// Writes a back-up. The record gets its name last: whoever sees it sees all of it, and its bytes.
    async fn keep(&self, stem: &str, before: Option<&[u8]>, record: &[u8]) -> std::io::Result<()> {
        if let Some(bytes) = before {
            self.create(stem, BYTES, bytes).await?;
        }
        self.create(stem, UNFINISHED, record).await?;
        fs::rename(self.path(stem, UNFINISHED), self.path(stem, RECORD)).await
    }

    async fn create(&self, stem: &str, ending: &str, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.path(stem, ending);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path).await?;
        file.write_all(bytes).await?;
        // What the write itself met is told here, and only here.
        file.flush().await?;
        file.sync_all().await
    }

    async fn record(&self, stem: &str) -> Result<Record, String> {
        let path = self.path(stem, RECORD);
        let wrong = |text: String| format!("{} could not be read: {text}", path.display());
        let text = fs::read(&path).await.map_err(|error| wrong(error.to_string()))?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if record.version == VERSION { Ok(record) } else { Err(wrong("another version wrote it".to_owned())) }
    }

    /// The names of all records without their ending, oldest first.
    async fn stems(&self) -> Result<Vec<String>, String> {
        let wrong =
            |error: std::io::Error| format!("{} could not be read: {error}", self.directory.display());
        let mut listing = match fs::read_dir(&self.directory).await {
            Ok(listing) => listing,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(wrong(error)),
        };
        let mut stems = Vec::new();
        while let Some(entry) = listing.next_entry().await.map_err(wrong)? {
            let path = PathBuf::from(entry.file_name());
            if path.extension().is_some_and(|ending| ending == RECORD)
                && let Some(stem) = path.file_stem()
            {
                stems.push(stem.to_string_lossy().into_owned());
            }
        }
        stems.sort();
        Ok(stems)
    }

    fn path(&self, stem: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{stem}.{ending}"))
    }
}

/// What tells the back-ups of one file from those of another.
fn key_of(file: &Path) -> String {
    let hash = digest(Some(file.as_os_str().as_encoded_bytes())).unwrap_or_default();
    hash.chars().take(16).collect()
}

/// Nanoseconds since 1970.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}
