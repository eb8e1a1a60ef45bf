//! The version of every durable format, with what each version changed.
//!
//! A version is raised when an older Seawall could misread or destroy what a newer one writes. The newer one
//! brings old data forward when it opens it; the older one refuses, and touches nothing.

/// Version of the record store, kept in the database itself (`PRAGMA user_version`).
///
/// - 1: the table `record`: namespace, key, owner, version, bytes, expiry.
pub const STORE: u32 = 1;

/// Marks a database as a Seawall record store (`PRAGMA application_id`): the letters `SEAW`.
///
/// It never changes. A database with another mark belongs to another program and is left alone.
pub const STORE_MARK: u32 = u32::from_be_bytes(*b"SEAW");

/// Version of `daemon.json`, kept in its member `format`, which every version has.
///
/// - 1: pid, start time, boot id, version, address. Unknown members are ignored.
pub const HOLDER: u32 = 1;

/// Version of a result that is kept, in the member `format` of its file's first line.
///
/// A result is a copy with an hour to live, so one of another version is neither brought forward nor refused: it is
/// removed at the start.
///
/// - 1: format, owner, kind, part, size and time, then the bytes.
pub const RESULT: u32 = 1;
