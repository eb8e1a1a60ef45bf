//! The record store: small opaque values under a namespace and a key, with an owner, an expiry and a
//! version to compare and set.
//!
//! The set of backends is closed, and every one of them passes the same suite (`tests/contract.rs`).

use std::fmt;
use std::path::{Path, PathBuf};

mod sqlite;

pub use sqlite::SqliteStore;

/// One stored value.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Which part of Seawall the record belongs to; keys of different namespaces never meet.
    pub namespace: String,
    /// The name of the record within its namespace.
    pub key: String,
    /// Who the record belongs to; the store keeps it and does not interpret it.
    pub owner: String,
    /// Counts the writes: 1 on creation, one more with each write. A record that was deleted or has expired
    /// starts again at 1.
    pub version: u64,
    /// The value, opaque to the store.
    pub bytes: Vec<u8>,
    /// The moment from which the record counts as absent, in Unix milliseconds; `None` means never.
    pub expires: Option<i64>,
}

impl fmt::Debug for Record {
    /// Shows the length of the value instead of the value: it may hold what no log should.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("namespace", &self.namespace)
            .field("key", &self.key)
            .field("owner", &self.owner)
            .field("version", &self.version)
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .field("expires", &self.expires)
            .finish()
    }
}

/// A record to write: all of it but the version, which the store gives.
#[derive(Clone, Copy)]
pub struct Draft<'a> {
    /// See [`Record::namespace`].
    pub namespace: &'a str,
    /// See [`Record::key`].
    pub key: &'a str,
    /// See [`Record::owner`].
    pub owner: &'a str,
    /// See [`Record::bytes`].
    pub bytes: &'a [u8],
    /// See [`Record::expires`].
    pub expires: Option<i64>,
}

impl fmt::Debug for Draft<'_> {
    /// Shows the length of the value instead of the value: it may hold what no log should.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("namespace", &self.namespace)
            .field("key", &self.key)
            .field("owner", &self.owner)
            .field("bytes", &format_args!("{} bytes", self.bytes.len()))
            .field("expires", &self.expires)
            .finish()
    }
}

/// What a writer believes is there; when it is not, nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No record, or an expired one.
    Absent,
    /// A record with exactly this version.
    Version(u64),
    /// Whatever is there, or nothing.
    Any,
}

/// Why the store did not do what was asked; nothing was changed. [`Conflict`](Self::Conflict) is an answer
/// to a write, and the others are faults of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file was written by a newer Seawall. It was not touched.
    #[error(
        "the store {path} has format {found}, and this Seawall reads formats up to {supported}: start the \
         newer Seawall that wrote it, or set `state` to another directory"
    )]
    Newer {
        /// The format version of the file.
        found: u32,
        /// The newest format version this build reads.
        supported: u32,
        /// The file.
        path: PathBuf,
    },
    /// The record is not what the writer expected.
    #[error("{}", conflict(.found))]
    Conflict {
        /// The version that is there, or `None` when nothing is.
        found: Option<u64>,
    },
    /// The disk or the quota is full.
    #[error("the disk that holds the store {path} is full ({reason}): free some space there and try again")]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file or its directory cannot be written.
    #[error(
        "the store {path} cannot be written ({reason}): mount its disk writable, make the file and its \
         directory writable for the user that runs Seawall, or set `state` to another directory"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Another process kept the file locked.
    #[error("another process keeps the store {path} locked ({reason}): end that process, or try again later")]
    Busy {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is damaged, or not a Seawall store at all.
    #[error(
        "the store {path} is damaged or not a Seawall store ({reason}): move it and its `-wal` and `-shm` \
         files away, then restore a backup or start Seawall with an empty store"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed in some other way.
    #[error(
        "the store {path} failed ({reason}): check that its directory exists on a local disk in good \
         health, then restart Seawall"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The store was closed while this waited for it, or before.
    #[error("the store is closed because Seawall is shutting down: try again when it has started again")]
    Closed,
}

fn conflict(found: &Option<u64>) -> String {
    let there = found.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"));
    format!("the record is not what was expected, {there} is there now: read it again and decide anew")
}

/// An open record store. Methods take `&self`; share it behind an `Arc`.
///
/// Every method is cancel-safe: a change is one statement, so that a dropped future leaves it either done
/// whole or not begun, and the store usable. Whether it was done, the dropper does not learn; a
/// compare-and-set tells.
///
/// A write that returned survives the end of the process, however it ends. A power cut may undo the last
/// moments' writes, in order and whole, and never damages the rest.
#[derive(Debug)]
pub enum Store {
    /// One SQLite file.
    Sqlite(SqliteStore),
}

impl Store {
    /// Opens the SQLite store at `path`, creates it if it is missing (its directory must exist) and brings an
    /// older format forward. The file is readable and writable for its owner only.
    ///
    /// # Errors
    /// [`StoreError::Newer`] and, for another program's file, [`StoreError::Corrupt`], before anything is
    /// written; otherwise whatever kept the file from being opened.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        SqliteStore::open(path).await.map(Self::Sqlite)
    }

    /// The record, unless there is none or it has expired by `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// Only faults of the store.
    pub async fn get(&self, namespace: &str, key: &str, now_ms: i64) -> Result<Option<Record>, StoreError> {
        match self {
            Self::Sqlite(store) => store.get(namespace, key, now_ms).await,
        }
    }

    /// All records of a namespace that have not expired by `now_ms` (Unix milliseconds), in the order of
    /// their keys' bytes.
    ///
    /// # Errors
    /// Only faults of the store.
    pub async fn list(&self, namespace: &str, now_ms: i64) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::Sqlite(store) => store.list(namespace, now_ms).await,
        }
    }

    /// Writes `draft` if what is there at `now_ms` (Unix milliseconds) is as expected, and returns the
    /// record's new version. An expired record counts as absent and is replaced whole.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the expectation does not hold, or a fault of the store.
    pub async fn put(&self, draft: Draft<'_>, expect: Expect, now_ms: i64) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(store) => store.put(draft, expect, now_ms).await,
        }
    }

    /// Deletes a record. `true`: it was there. `false`: nothing was, whatever was expected.
    ///
    /// This one takes no time: an expired record counts as there until it is purged or replaced.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there is a record other than the expected one, or a fault of the store.
    pub async fn delete(&self, namespace: &str, key: &str, expect: Expect) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(store) => store.delete(namespace, key, expect).await,
        }
    }

    /// Deletes all records that have expired by `now_ms` (Unix milliseconds) and returns how many there were.
    ///
    /// # Errors
    /// Only faults of the store.
    pub async fn purge_expired(&self, now_ms: i64) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(store) => store.purge_expired(now_ms).await,
        }
    }

    /// Closes the store: what was asked before is done first, what is asked later ends with
    /// [`StoreError::Closed`]. A store that is dropped instead loses nothing.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
        }
    }
}
