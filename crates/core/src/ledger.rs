//! The ledger of processes: what this daemon has started and not yet seen the end of, kept in the store, so that the
//! next one can end what a killed one left behind.

use seawall_jobs::{Draft, Expect, Store};
use seawall_proc::Identity;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};

const NAMESPACE: &str = "processes";
const KEY: &str = "started";
/// Version of the bytes kept.
const FORMAT: u64 = 1;
/// How often the ledger is written at most: processes may come and go with every call.
const PAUSE: Duration = Duration::from_millis(50);

/// The processes that live, as far as this daemon knows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    living: Mutex<BTreeSet<String>>,
    changed: Notify,
    store: Option<Arc<Store>>,
}

/// One process in the ledger. Dropped, it is struck out.
#[derive(Debug)]
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    identity: String,
}

impl Ledger {
    /// An empty ledger. Without a store it is good for nothing, and does no harm.
    pub(crate) fn new(store: Option<Arc<Store>>) -> Arc<Self> {
        Arc::new(Self { living: Mutex::default(), changed: Notify::new(), store })
    }

    /// Begins the ledger of this run: from now on, what it starts can be found by the next. To be awaited before
    /// anything is started.
    pub(crate) async fn begin(&self) {
        let run = Identity::of_this_run().to_string();
        self.living.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        self.write().await;
    }

    /// Enters a process until the entry is dropped, which has to be when nothing is left of it.
    pub(crate) fn enter(self: &Arc<Self>, identity: &Identity) -> Entry {
        let identity = identity.to_string();
        self.living.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
        self.changed.notify_one();
        Entry { ledger: Arc::clone(self), identity }
    }

    /// What the daemon before this one left in the ledger. To be asked before anything is entered.
    pub(crate) async fn leftovers(&self) -> Vec<Identity> {
        let Some(store) = &self.store else { return Vec::new() };
        let record = match store.get(NAMESPACE, KEY, jiff::Timestamp::now().as_millisecond()).await {
            Ok(record) => record,
            Err(fault) => {
                tracing::error!(%fault, "the ledger of processes could not be read; what a killed daemon left stays");
                return Vec::new();
            }
        };
        let value = record.and_then(|record| serde_json::from_slice::<Value>(&record.bytes).ok());
        let value = value.filter(|value| value["format"] == FORMAT).unwrap_or_default();
        let identities = value["processes"].as_array().into_iter().flatten();
        identities.filter_map(|identity| identity.as_str()?.parse().ok()).collect()
    }

    /// Writes the ledger whenever it has changed, for ever. Cancel-safe.
    pub(crate) async fn keep(&self) {
        loop {
            self.changed.notified().await;
            self.write().await;
            sleep(PAUSE).await;
        }
    }

    /// Writes the ledger as it stands.
    pub(crate) async fn write(&self) {
        let Some(store) = &self.store else { return };
        let living: Vec<String> =
            self.living.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let bytes = json!({"format": FORMAT, "processes": living}).to_string().into_bytes();
        let draft = Draft { namespace: NAMESPACE, key: KEY, owner: "", bytes: &bytes, expires: None };
        if let Err(fault) = store.put(draft, Expect::Any, jiff::Timestamp::now().as_millisecond()).await {
            tracing::warn!(%fault, "the ledger of processes could not be written");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.living.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
        self.ledger.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_struck_out_is_left_over() {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let store = Arc::new(Store::open(&directory.path().join("store.db")).await.expect("a store"));
        let identity = |pid: u32| Identity { pid, started: 7, boot: "b".to_owned(), mark: "m".to_owned() };
        let ledger = Ledger::new(Some(Arc::clone(&store)));
        let (gone, left) = (ledger.enter(&identity(1)), ledger.enter(&identity(2)));
        drop(gone);
        ledger.write().await;
        // A killed daemon strikes nothing out.
        std::mem::forget(left);
        let next = Ledger::new(Some(store));
        assert_eq!(next.leftovers().await, [identity(2)]);
    }
}
