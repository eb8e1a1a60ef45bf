//! What every backend of the record store promises, as one suite over an open store; then what the SQLite
//! file promises besides.
#![expect(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use seawall_jobs::{Draft, Expect, Record, Store, StoreError, format};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::task::JoinSet;

/// Any moment, in Unix milliseconds.
const NOW: i64 = 1_800_000_000_000;

/// The suite. The store is empty, and each clause has a namespace of its own.
async fn contract(store: &Arc<Store>) {
    keeps_what_it_is_given(store).await;
    compares_before_it_sets(store).await;
    expired_is_absent(store).await;
    lists_one_namespace_in_order(store).await;
    deletes_what_was_expected(store).await;
    purges_the_expired_only(store).await;
    one_of_many_creates(store).await;
    no_increment_is_lost(store).await;
    a_dropped_write_is_whole_or_absent(store).await;
    ends_when_closed(store).await;
}

fn draft<'a>(namespace: &'a str, key: &'a str, bytes: &'a [u8]) -> Draft<'a> {
    Draft { namespace, key, owner: "local", bytes, expires: None }
}

fn expiring<'a>(namespace: &'a str, key: &'a str, expires: i64) -> Draft<'a> {
    Draft { expires: Some(expires), ..draft(namespace, key, b"short-lived") }
}

async fn value(store: &Store, namespace: &str, key: &str) -> Option<Vec<u8>> {
    store.get(namespace, key, NOW).await.expect("reads").map(|record| record.bytes)
}

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

async fn keeps_what_it_is_given(store: &Store) {
    let every_byte: Vec<u8> = (0..=255).collect();
    for (key, bytes) in [("", &b""[..]), ("it's \"50%\" _é/日本\n", &every_byte[..]), ("plain", &b"{}"[..])]
    {
        let given = Draft { owner: "ann", expires: Some(i64::MAX), ..draft("kept", key, bytes) };
        assert_eq!(store.put(given, Expect::Any, NOW).await, Ok(1));
        let record = Record {
            namespace: "kept".to_owned(),
            key: key.to_owned(),
            owner: "ann".to_owned(),
            version: 1,
            bytes: bytes.to_owned(),
            expires: Some(i64::MAX),
        };
        assert_eq!(store.get("kept", key, NOW).await, Ok(Some(record)));
    }
    assert_eq!(store.get("kept", "other", NOW).await, Ok(None));
    assert_eq!(store.get("other", "plain", NOW).await, Ok(None));

    let rewritten = Draft { owner: "bob", ..draft("kept", "plain", b"[]") };
    assert_eq!(store.put(rewritten, Expect::Version(1), NOW).await, Ok(2));
    let record = store.get("kept", "plain", NOW).await.expect("reads").expect("stands");
    assert_eq!((record.owner.as_str(), record.expires), ("bob", None), "a write replaces all of the record");
}

async fn compares_before_it_sets(store: &Store) {
    let put = |bytes, expect| store.put(draft("cas", "k", bytes), expect, NOW);
    let conflict = |found| Err(StoreError::Conflict { found });

    assert_eq!(put(b"no", Expect::Version(1)).await, conflict(None));
    assert_eq!(put(b"1", Expect::Absent).await, Ok(1));
    assert_eq!(put(b"no", Expect::Absent).await, conflict(Some(1)));
    assert_eq!(put(b"2", Expect::Version(1)).await, Ok(2));
    assert_eq!(put(b"no", Expect::Version(1)).await, conflict(Some(2)));
    assert_eq!(put(b"no", Expect::Version(u64::MAX)).await, conflict(Some(2)));
    assert_eq!(value(store, "cas", "k").await.as_deref(), Some(&b"2"[..]), "a conflict changes nothing");
    assert_eq!(put(b"3", Expect::Any).await, Ok(3));
    assert_eq!(value(store, "cas", "k").await.as_deref(), Some(&b"3"[..]));
    assert_eq!(store.put(draft("cas too", "k", b""), Expect::Absent, NOW).await, Ok(1));
}

async fn expired_is_absent(store: &Store) {
    let end = NOW + 10;
    for key in ["a", "b", "c"] {
        let renewed = store.put(expiring("expiry", key, NOW + 1), Expect::Absent, NOW).await;
        assert_eq!(renewed, Ok(1));
        assert_eq!(store.put(expiring("expiry", key, end), Expect::Version(1), NOW).await, Ok(2));
        assert!(store.get("expiry", key, end - 1).await.expect("reads").is_some());
        assert_eq!(store.get("expiry", key, end).await, Ok(None), "gone at the very moment");
    }
    assert_eq!(store.list("expiry", end - 1).await.expect("reads").len(), 3);
    assert_eq!(store.list("expiry", end).await, Ok(Vec::new()));

    let anew = |key| draft("expiry", key, b"anew");
    let conflict = Err(StoreError::Conflict { found: None });
    assert_eq!(store.put(anew("a"), Expect::Version(2), end).await, conflict);
    assert_eq!(
        store.put(anew("a"), Expect::Absent, end - 1).await,
        Err(StoreError::Conflict { found: Some(2) })
    );
    assert_eq!(store.put(anew("a"), Expect::Absent, end).await, Ok(1), "created again");
    assert_eq!(store.put(anew("b"), Expect::Any, end).await, Ok(1), "created again");
    assert_eq!(keys(&store.list("expiry", end).await.expect("reads")), ["a", "b"]);
}

async fn lists_one_namespace_in_order(store: &Store) {
    for key in ["b", "a/2", "B", "a", "ä"] {
        assert_eq!(store.put(draft("list", key, b""), Expect::Absent, NOW).await, Ok(1));
    }
    assert_eq!(store.put(draft("listing", "c", b""), Expect::Absent, NOW).await, Ok(1));
    assert_eq!(keys(&store.list("list", NOW).await.expect("reads")), ["B", "a", "a/2", "b", "ä"]);
    assert_eq!(store.list("lis", NOW).await, Ok(Vec::new()));
}

async fn deletes_what_was_expected(store: &Store) {
    let delete = |expect| store.delete("delete", "k", expect);
    for expect in [Expect::Absent, Expect::Version(1), Expect::Any] {
        assert_eq!(delete(expect).await, Ok(false), "nothing is there");
    }
    for (expect, last) in [(Expect::Version(2), 2), (Expect::Any, 1)] {
        for version in 1..=last {
            assert_eq!(store.put(draft("delete", "k", b""), Expect::Any, NOW).await, Ok(version));
        }
        let conflict = Err(StoreError::Conflict { found: Some(last) });
        assert_eq!(delete(Expect::Absent).await, conflict);
        assert_eq!(delete(Expect::Version(last + 1)).await, conflict);
        assert!(store.get("delete", "k", NOW).await.expect("reads").is_some(), "a conflict deletes nothing");
        assert_eq!(delete(expect).await, Ok(true));
        assert_eq!(store.get("delete", "k", NOW).await, Ok(None));
    }
    assert_eq!(store.put(expiring("delete", "k", NOW), Expect::Absent, NOW).await, Ok(1));
    assert_eq!(delete(Expect::Version(2)).await, Err(StoreError::Conflict { found: Some(1) }));
    assert_eq!(delete(Expect::Version(1)).await, Ok(true), "an expired record is there until it is purged");
}

async fn purges_the_expired_only(store: &Store) {
    store.purge_expired(NOW + 1_000).await.expect("purges what other clauses left");
    for (key, expires) in [("first", NOW + 1), ("second", NOW + 2), ("third", NOW + 3)] {
        assert_eq!(store.put(expiring("purge", key, expires), Expect::Absent, NOW).await, Ok(1));
    }
    assert_eq!(store.put(draft("purge", "lasting", b""), Expect::Absent, NOW).await, Ok(1));

    assert_eq!(store.purge_expired(NOW).await, Ok(0));
    assert_eq!(store.purge_expired(NOW + 2).await, Ok(2));
    assert_eq!(store.purge_expired(NOW + 2).await, Ok(0));
    assert_eq!(keys(&store.list("purge", NOW).await.expect("reads")), ["lasting", "third"]);
}

async fn one_of_many_creates(store: &Arc<Store>) {
    let mut racers = JoinSet::new();
    for racer in 0..16_u8 {
        let store = Arc::clone(store);
        racers.spawn(async move {
            let outcome = store.put(draft("race", "k", &[racer]), Expect::Absent, NOW).await;
            (racer, outcome)
        });
    }
    let (won, lost): (Vec<_>, Vec<_>) =
        racers.join_all().await.into_iter().partition(|(_, outcome)| outcome.is_ok());
    let [(winner, Ok(1))] = won[..] else { panic!("exactly one wins: {won:?}") };
    assert_eq!(value(store, "race", "k").await, Some(vec![winner]));
    for (_, outcome) in lost {
        assert_eq!(outcome, Err(StoreError::Conflict { found: Some(1) }));
    }
}

async fn no_increment_is_lost(store: &Arc<Store>) {
    assert_eq!(store.put(draft("count", "k", &[0]), Expect::Absent, NOW).await, Ok(1));
    let mut racers = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(store);
        racers.spawn(async move {
            loop {
                let record = store.get("count", "k", NOW).await.expect("reads").expect("stands");
                let next = [record.bytes[0] + 1];
                match store.put(draft("count", "k", &next), Expect::Version(record.version), NOW).await {
                    Ok(_) => return,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(fault) => panic!("{fault}"),
                }
            }
        });
    }
    racers.join_all().await;
    let record = store.get("count", "k", NOW).await.expect("reads").expect("stands");
    assert_eq!((record.bytes, record.version), (vec![8], 9));
}

async fn a_dropped_write_is_whole_or_absent(store: &Store) {
    let (old, new) = (vec![1; 10], vec![2; 1 << 20]);
    assert_eq!(store.put(draft("dropped", "k", &old), Expect::Absent, NOW).await, Ok(1));
    for _ in 0..8 {
        tokio::select! {
            biased;
            written = store.put(draft("dropped", "k", &new), Expect::Any, NOW) => {
                written.expect("writes");
            }
            () = std::future::ready(()) => {}
        }
        let found = value(store, "dropped", "k").await.expect("stands");
        assert!(found == old || found == new, "{} bytes", found.len());
        store.put(draft("dropped", "k", &old), Expect::Any, NOW).await.expect("the store still works");
        assert_eq!(value(store, "dropped", "k").await.as_ref(), Some(&old));
    }
}

async fn ends_when_closed(store: &Store) {
    store.close().await;
    store.close().await;
    assert_eq!(store.get("closed", "k", NOW).await, Err(StoreError::Closed));
    assert_eq!(store.list("closed", NOW).await, Err(StoreError::Closed));
    assert_eq!(store.put(draft("closed", "k", b""), Expect::Any, NOW).await, Err(StoreError::Closed));
    assert_eq!(store.delete("closed", "k", Expect::Any).await, Err(StoreError::Closed));
    assert_eq!(store.purge_expired(NOW).await, Err(StoreError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("records.db")).await.unwrap();
    contract(&Arc::new(store)).await;
}

/// A closed store at `path` with one record, its log folded into the file.
async fn one_record(path: &Path) {
    let store = Store::open(path).await.expect("opens");
    store.put(draft("n", "k", b"kept"), Expect::Absent, NOW).await.expect("writes");
    store.close().await;
    assert!(!path.with_extension("db-wal").exists(), "the last connection folds the log into the file");
}

fn overwrite(path: &Path, offset: usize, bytes: &[u8]) {
    let mut file = fs::read(path).expect("reads");
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    fs::write(path, file).expect("writes");
}

#[tokio::test]
async fn reopening_finds_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    one_record(&path).await;

    let store = Store::open(&path).await.unwrap();
    assert_eq!(value(&store, "n", "k").await, Some(b"kept".to_vec()));
    assert_eq!(store.put(draft("n", "k", b"more"), Expect::Version(1), NOW).await, Ok(2));
    // Dropped, not closed, as when the process is killed.
    drop(store);
    let store = Store::open(&path).await.unwrap();
    assert_eq!(value(&store, "n", "k").await, Some(b"more".to_vec()));
}

#[tokio::test]
async fn two_that_create_the_same_file_share_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    let (one, other) = tokio::join!(Store::open(&path), Store::open(&path));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.put(draft("n", "k", b"1"), Expect::Absent, NOW).await, Ok(1));
    assert_eq!(other.put(draft("n", "k", b"2"), Expect::Version(1), NOW).await, Ok(2));
    assert_eq!(value(&one, "n", "k").await, Some(b"2".to_vec()));
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    one_record(&path).await;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();

    let store = Store::open(&path).await.unwrap();
    assert!(store.get("n", "k", NOW).await.unwrap().is_some());
    for file in ["records.db", "records.db-wal", "records.db-shm"] {
        let mode = fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    // SQLite's header: the user version at 60, the application id at 68.
    let newer = (60, (format::STORE + 1).to_be_bytes());
    let impossible = (60, (-1_i32).to_be_bytes());
    let foreign = (68, *b"ABCD");
    for (name, (offset, bytes)) in [("newer", newer), ("impossible", impossible), ("foreign", foreign)] {
        let path = directory.path().join(name).with_extension("db");
        one_record(&path).await;
        overwrite(&path, offset, &bytes);
        let before = fs::read(&path).unwrap();

        let error = Store::open(&path).await.unwrap_err();
        if name == "newer" {
            let (found, supported) = (format::STORE + 1, format::STORE);
            assert_eq!(error, StoreError::Newer { found, supported, path: path.clone() }, "{name}");
        } else {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{name}: {error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    for garbage in [&b"not a database"[..], &[0xAB; 20_000][..]] {
        let path = directory.path().join(format!("{}.db", garbage.len()));
        fs::write(&path, garbage).unwrap();
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), garbage, "evidence is kept");
    }

    let path = directory.path().join("records.db");
    one_record(&path).await;
    // All but the first page, which holds the schema.
    let rest = fs::read(&path).unwrap().len() - 4096;
    overwrite(&path, 4096, &vec![0xFF; rest]);
    let store = Store::open(&path).await.unwrap();
    let error = store.get("n", "k", NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = store.put(draft("n", "k", b""), Expect::Any, NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_read_only_file_still_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    one_record(&path).await;
    // A file whose write version (byte 18) SQLite does not know is read-only, even to root.
    overwrite(&path, 18, &[3]);

    let store = Store::open(&path).await.unwrap();
    let results = [
        store.put(draft("n", "k", b"new"), Expect::Any, NOW).await.map(drop),
        store.delete("n", "k", Expect::Any).await.map(drop),
        store.purge_expired(NOW).await.map(drop),
    ];
    for result in results {
        assert!(matches!(result, Err(StoreError::ReadOnly { .. })), "{result:?}");
    }
    assert_eq!(value(&store, "n", "k").await, Some(b"kept".to_vec()));
}

#[tokio::test]
async fn a_missing_directory_is_a_fault_that_names_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/records.db");
    let error = Store::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_lock_held_elsewhere_delays_writes_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.db");
    one_record(&path).await;
    let store = Store::open(&path).await.unwrap();
    let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();

    let mut write = pin!(store.put(draft("n", "k", b"new"), Expect::Any, NOW));
    tokio::select! {
        biased;
        written = &mut write => panic!("written against a lock: {written:?}"),
        read = value(&store, "n", "k") => assert_eq!(read, Some(b"kept".to_vec())),
    }
    let error = write.await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");

    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(store.put(draft("n", "k", b"new"), Expect::Any, NOW).await, Ok(2));
}

/// The store sets no timer: with one, a paused clock would jump to it while SQLite's thread works.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still() {
    let directory = tempfile::tempdir().unwrap();
    let before = tokio::time::Instant::now();
    let store = Store::open(&directory.path().join("records.db")).await.unwrap();
    let writes = (
        store.put(draft("n", "1", b""), Expect::Absent, NOW),
        store.put(draft("n", "2", b""), Expect::Absent, NOW),
    );
    assert_eq!(tokio::join!(writes.0, writes.1), (Ok(1), Ok(1)));
    assert_eq!(store.list("n", NOW).await.unwrap().len(), 2);
    store.close().await;
    assert_eq!(tokio::time::Instant::now(), before);
}
