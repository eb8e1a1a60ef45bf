//! The record store in one SQLite file: write-ahead log, one connection that writes and one that reads.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _, Sqlite, SqliteConnection,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Draft, Expect, Record, StoreError};
use crate::format;

/// How long a statement waits for another process's lock. Seawall's own daemon is alone with its file; others
/// (a backup, a shell) should hold it for moments only.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// `STEPS[n]` brings format `n` to format `n + 1`. A step that was released never changes.
const STEPS: [&str; 1] = ["
CREATE TABLE record (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    expires INTEGER,
    PRIMARY KEY (namespace, key)
) STRICT;
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;
"];

const _: () = assert!(STEPS.len() == format::STORE as usize, "each format version has its step");

const IDENTIFY: &str = "
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version";

const GET: &str = "
SELECT namespace, key, owner, version, bytes, expires FROM record
WHERE namespace = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?3)";

const LIST: &str = "
SELECT namespace, key, owner, version, bytes, expires FROM record
WHERE namespace = ?1 AND (expires IS NULL OR expires > ?2) ORDER BY key";

const VERSION: &str = "
SELECT version FROM record WHERE namespace = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?3)";

const PUT_IF_ABSENT: &str = "
INSERT INTO record (namespace, key, owner, version, bytes, expires) VALUES (?1, ?2, ?3, 1, ?4, ?5)
ON CONFLICT (namespace, key) DO UPDATE SET
    owner = excluded.owner, version = 1, bytes = excluded.bytes, expires = excluded.expires
WHERE record.expires <= ?6 RETURNING version";

/// How often, and how long apart, the switch to a write-ahead log is tried while another process makes it.
const SWITCH_TRIES: u32 = 200;
const SWITCH_PAUSE: Duration = Duration::from_millis(10);

const PUT_IF_VERSION: &str = "
UPDATE record SET owner = ?3, version = version + 1, bytes = ?4, expires = ?5
WHERE namespace = ?1 AND key = ?2 AND (expires IS NULL OR expires > ?6) AND version = ?7 RETURNING version";

const PUT: &str = "
INSERT INTO record (namespace, key, owner, version, bytes, expires) VALUES (?1, ?2, ?3, 1, ?4, ?5)
ON CONFLICT (namespace, key) DO UPDATE SET
    owner = excluded.owner, bytes = excluded.bytes, expires = excluded.expires,
    version = CASE WHEN record.expires <= ?6 THEN 1 ELSE record.version + 1 END
RETURNING version";

const DELETE: &str = "
DELETE FROM record WHERE namespace = ?1 AND key = ?2 AND (?3 IS NULL OR version = ?3)";

const PURGE: &str = "DELETE FROM record WHERE expires <= ?1";

/// The record store in one SQLite file; used through [`Store`](super::Store).
#[derive(Debug)]
pub struct SqliteStore {
    writer: Lane,
    /// Apart from the writer, so that reads do not wait while a write waits for another process's lock.
    reader: Lane,
}

impl SqliteStore {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(|error| file_fault(&error, path))?;
        let mut writer = connect(path).await?;
        // First of all, so that a newer or foreign file is refused before anything in it changes.
        let version = identify(&mut writer, path).await?;
        use_write_ahead_log(&mut writer, path).await?;
        if version < format::STORE {
            migrate(&mut writer, path).await?;
        }
        Ok(Self { writer: Lane::new(path, Some(writer)), reader: Lane::new(path, None) })
    }

    pub(super) async fn get(
        &self,
        namespace: &str,
        key: &str,
        now_ms: i64,
    ) -> Result<Option<Record>, StoreError> {
        let mut lent = self.reader.lend().await?;
        let query = sqlx::query_as::<Sqlite, Record>(GET).bind(namespace).bind(key).bind(now_ms);
        let found = query.fetch_optional(lent.connection()).await;
        found.map_err(|error| lent.fault(&error))
    }

    pub(super) async fn list(&self, namespace: &str, now_ms: i64) -> Result<Vec<Record>, StoreError> {
        let mut lent = self.reader.lend().await?;
        let query = sqlx::query_as::<Sqlite, Record>(LIST).bind(namespace).bind(now_ms);
        let found = query.fetch_all(lent.connection()).await;
        found.map_err(|error| lent.fault(&error))
    }

    pub(super) async fn put(&self, draft: Draft<'_>, expect: Expect, now_ms: i64) -> Result<u64, StoreError> {
        let Draft { namespace, key, owner, bytes, expires } = draft;
        let statement = match expect {
            Expect::Absent => PUT_IF_ABSENT,
            Expect::Version(_) => PUT_IF_VERSION,
            Expect::Any => PUT,
        };
        let mut query = sqlx::query_scalar::<Sqlite, u64>(statement).bind(namespace).bind(key).bind(owner);
        query = query.bind(bytes).bind(expires).bind(now_ms);
        if let Expect::Version(version) = expect {
            query = query.bind(as_stored(version));
        }
        let mut lent = self.writer.lend().await?;
        // All rows, though there is one at most: to stop at the first would commit the statement in a place
        // where the driver drops errors, and a full disk would look like success.
        let written = query.fetch_all(lent.connection()).await.map_err(|error| lent.fault(&error))?;
        match written.first() {
            Some(version) => Ok(*version),
            None => Err(StoreError::Conflict { found: lent.version(namespace, key, now_ms).await? }),
        }
    }

    pub(super) async fn delete(
        &self,
        namespace: &str,
        key: &str,
        expect: Expect,
    ) -> Result<bool, StoreError> {
        let version = match expect {
            // No record has this version, so nothing is deleted and what is there shows below.
            Expect::Absent => Some(0),
            Expect::Version(version) => Some(as_stored(version)),
            Expect::Any => None,
        };
        let mut lent = self.writer.lend().await?;
        let query = sqlx::query::<Sqlite>(DELETE).bind(namespace).bind(key).bind(version);
        let done = query.execute(lent.connection()).await.map_err(|error| lent.fault(&error))?;
        let deleted = done.rows_affected() > 0;
        if deleted || expect == Expect::Any {
            return Ok(deleted);
        }
        // No moment is earlier, so an expired record counts as there.
        match lent.version(namespace, key, i64::MIN).await? {
            None => Ok(false),
            found => Err(StoreError::Conflict { found }),
        }
    }

    pub(super) async fn purge_expired(&self, now_ms: i64) -> Result<u64, StoreError> {
        let mut lent = self.writer.lend().await?;
        let done = sqlx::query::<Sqlite>(PURGE).bind(now_ms).execute(lent.connection()).await;
        done.map(|done| done.rows_affected()).map_err(|error| lent.fault(&error))
    }

    pub(super) async fn close(&self) {
        // The writer last: the last connection to close folds the log into the file.
        self.reader.close().await;
        self.writer.close().await;
    }
}

impl sqlx::FromRow<'_, SqliteRow> for Record {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            namespace: row.try_get("namespace")?,
            key: row.try_get("key")?,
            owner: row.try_get("owner")?,
            version: row.try_get("version")?,
            bytes: row.try_get("bytes")?,
            expires: row.try_get("expires")?,
        })
    }
}

/// SQLite counts in `i64`; a version beyond that was never given out, and neither was the greatest.
fn as_stored(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// One connection, lent to one operation at a time in the order they asked.
///
/// Those who wait are the callers themselves, each until its own deadline. The driver's pool would do this
/// with timers and tasks of its own; under a paused clock its timers fire while SQLite's thread still
/// works.
#[derive(Debug)]
struct Lane {
    path: PathBuf,
    turns: Semaphore,
    /// Empty while the connection is lent, and when there is none yet or no more: the next to ask connects.
    idle: Mutex<Option<SqliteConnection>>,
}

impl Lane {
    fn new(path: &Path, connection: Option<SqliteConnection>) -> Self {
        Self { path: path.to_owned(), turns: Semaphore::new(1), idle: Mutex::new(connection) }
    }

    async fn lend(&self) -> Result<Lent<'_>, StoreError> {
        let turn = self.turns.acquire().await.map_err(|_closed| StoreError::Closed)?;
        let idle = self.idle().take();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path).await?,
        };
        Ok(Lent { lane: self, connection: Some(connection), _turn: turn })
    }

    async fn close(&self) {
        let Ok(_turn) = self.turns.acquire().await else { return };
        self.turns.close();
        let idle = self.idle().take();
        if let Some(connection) = idle {
            // Fails only when the connection's thread is gone, and then it is closed already.
            let _gone = connection.close().await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Option<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane's connection while an operation has it; goes back on drop, also in the middle of a statement: the
/// connection's thread finishes that one before it begins the next.
struct Lent<'a> {
    lane: &'a Lane,
    connection: Option<SqliteConnection>,
    _turn: SemaphorePermit<'a>,
}

impl Lent<'_> {
    fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("only a crash takes the connection away, and it ends the operation")
    }

    /// The version of a record that has not expired.
    async fn version(&mut self, namespace: &str, key: &str, now_ms: i64) -> Result<Option<u64>, StoreError> {
        let query = sqlx::query_scalar::<Sqlite, u64>(VERSION).bind(namespace).bind(key).bind(now_ms);
        let found = query.fetch_optional(self.connection()).await;
        found.map_err(|error| self.fault(&error))
    }

    /// Classifies an error that ends the operation.
    fn fault(&mut self, error: &sqlx::Error) -> StoreError {
        if matches!(error, sqlx::Error::WorkerCrashed) {
            self.connection = None;
        }
        fault(error, &self.lane.path)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            *self.lane.idle() = Some(connection);
        }
    }
}

/// Creates the file if it is missing and closes it to other users. SQLite gives its `-wal` and `-shm` files
/// the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_created) => Ok(()),
        // By path, never by opening it: closing the file would drop every lock that this process holds on it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
                return Ok(());
            }
            fs::set_permissions(path, Permissions::from_mode(0o600))
        }
        Err(error) => Err(error),
    }
}

async fn connect(path: &Path) -> Result<SqliteConnection, StoreError> {
    // NORMAL syncs the log when it is folded into the file, not at each commit. A crash of the process loses
    // nothing; a power cut may lose the last commits and damages nothing. FULL would cost each write a sync.
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_WAIT)
        .synchronous(SqliteSynchronous::Normal);
    options.connect().await.map_err(|error| fault(&error, path))
}

/// The format version of the file, 0 when it is empty.
async fn identify(connection: &mut SqliteConnection, path: &Path) -> Result<u32, StoreError> {
    let query = sqlx::query_as::<Sqlite, (i64, i64, i64)>(IDENTIFY);
    let (mark, version, tables) = query.fetch_one(connection).await.map_err(|error| fault(&error, path))?;
    let foreign = |reason: String| StoreError::Corrupt { path: path.to_owned(), reason };
    if (mark, version, tables) == (0, 0, 0) {
        return Ok(0);
    }
    if mark != i64::from(format::STORE_MARK) {
        return Err(foreign(format!("it is another program's database, application id {mark:#x}")));
    }
    match u32::try_from(version) {
        Ok(found @ 1..=format::STORE) => Ok(found),
        Ok(found) if found > format::STORE => {
            Err(StoreError::Newer { found, supported: format::STORE, path: path.to_owned() })
        }
        _ => Err(foreign(format!("it has the impossible format version {version}"))),
    }
}

/// Switches the file to a write-ahead log, once for its life. SQLite does not wait for a lock here, busy timeout or
/// not, because two that switch at once would wait for each other; so whoever finds it locked comes again shortly.
async fn use_write_ahead_log(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let mut tries = 0;
    let mode = loop {
        let query = sqlx::query_scalar::<Sqlite, String>("PRAGMA journal_mode = WAL");
        match query.fetch_all(&mut *connection).await.map_err(|error| fault(&error, path)) {
            Err(StoreError::Busy { .. }) if tries < SWITCH_TRIES => {
                tries += 1;
                tokio::time::sleep(SWITCH_PAUSE).await;
            }
            switched => break switched?,
        }
    };
    if mode.first().is_some_and(|mode| mode == "wal") {
        return Ok(());
    }
    Err(StoreError::Io {
        path: path.to_owned(),
        reason: "its file system does not support SQLite's write-ahead log".to_owned(),
    })
}

/// Brings the file to the newest format, whole or not at all.
async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: sqlx::Error| fault(&error, path);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    // Again, now that nobody else can write: another process may have migrated the file meanwhile.
    let version = identify(&mut transaction, path).await?;
    for (step, statements) in (0_u32..).zip(STEPS) {
        if step >= version {
            transaction.execute(statements).await.map_err(failed)?;
        }
    }
    let (mark, newest) = (format::STORE_MARK, format::STORE);
    let stamp = format!("PRAGMA application_id = {mark}; PRAGMA user_version = {newest};");
    // Safe: pragmas take no parameters, and both values are this crate's own numbers.
    transaction.execute(AssertSqlSafe(stamp)).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

fn fault(error: &sqlx::Error, path: &Path) -> StoreError {
    let owned = path.to_owned();
    let reason = error.to_string();
    match error {
        sqlx::Error::Io(error) => file_fault(error, path),
        sqlx::Error::Database(error) => {
            let code = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
            result_code_fault(code, owned, error.to_string())
        }
        // The rows are not what this crate writes.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::RowNotFound => {
            StoreError::Corrupt { path: owned, reason }
        }
        _ => StoreError::Io { path: owned, reason },
    }
}

/// Classifies SQLite's extended result codes, whose low byte is the primary code.
fn result_code_fault(code: i32, path: PathBuf, reason: String) -> StoreError {
    /// The shared-memory file could not grow.
    const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
    match (code, code & 0xff) {
        // PERM, READONLY
        (_, 3 | 8) => StoreError::ReadOnly { path, reason },
        // BUSY, LOCKED
        (_, 5 | 6) => StoreError::Busy { path, reason },
        // FULL
        (IOERR_SHMSIZE, _) | (_, 13) => StoreError::Full { path, reason },
        // CORRUPT, NOTADB; ERROR is a statement that does not fit the tables, and the statements are tested
        (_, 1 | 11 | 26) => StoreError::Corrupt { path, reason },
        _ => StoreError::Io { path, reason },
    }
}

fn file_fault(error: &io::Error, path: &Path) -> StoreError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path, reason },
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            StoreError::ReadOnly { path, reason }
        }
        _ => StoreError::Io { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be provoked in a test that may run as root on any disk.
    #[test]
    fn a_full_or_read_only_disk_has_its_own_fault() {
        let path = Path::new("/state/records.db");
        let of_code = |code| result_code_fault(code, path.to_owned(), String::new());
        let of_kind = |kind: io::ErrorKind| file_fault(&kind.into(), path);

        for full in [of_code(13), of_code(4874), of_kind(io::ErrorKind::StorageFull)] {
            assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
        }
        for read_only in [of_code(8), of_code(1032), of_kind(io::ErrorKind::ReadOnlyFilesystem)] {
            assert!(matches!(read_only, StoreError::ReadOnly { .. }), "{read_only:?}");
        }
        for other in [of_code(10), of_code(14), of_kind(io::ErrorKind::NotFound)] {
            assert!(matches!(other, StoreError::Io { .. }), "{other:?}");
        }
    }
}
