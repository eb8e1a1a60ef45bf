//! Servers that are switched off while the daemon runs: `seawall disable` and `seawall enable`.
//!
//! It is the operator's word beside the configuration, and holds until it is taken back, across restarts. What the
//! configuration itself turns off stays off.

use crate::Gateway;
use seawall_jobs::{Draft, Expect, Store};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

const NAMESPACE: &str = "disabled";
/// Version of the bytes of a record, which say nothing more.
const FORMAT: &[u8] = &[1];

/// Which servers are switched off, by name.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    off: Mutex<BTreeSet<String>>,
    store: Option<Arc<Store>>,
}

/// What became of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// It is as wanted now. `kept` says whether that outlives the daemon.
    Done {
        /// Whether the store has it.
        kept: bool,
    },
    /// It was so already.
    Already,
    /// The configuration has `enabled = false`, which only an edit changes.
    Configured,
    /// No server has this name.
    Unknown,
}

impl Switches {
    /// Those that were kept.
    pub(crate) async fn load(store: Option<Arc<Store>>) -> Self {
        let records = match &store {
            Some(store) => store.list(NAMESPACE, jiff::Timestamp::now().as_millisecond()).await,
            None => Ok(Vec::new()),
        };
        let off = records.unwrap_or_else(|fault| {
            tracing::error!(%fault, "which servers are disabled could not be read; all are enabled");
            Vec::new()
        });
        Self { off: Mutex::new(off.into_iter().map(|record| record.key).collect()), store }
    }

    /// The names of those that are off.
    pub(crate) fn off(&self) -> BTreeSet<String> {
        self.off.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Turns one; whether that changed anything.
    fn turn(&self, name: &str, on: bool) -> bool {
        let mut off = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        if on { off.remove(name) } else { off.insert(name.to_owned()) }
    }

    /// Keeps how one is turned, and says whether that could be done.
    async fn keep(&self, name: &str, on: bool) -> bool {
        let Some(store) = &self.store else { return false };
        let now = jiff::Timestamp::now().as_millisecond();
        let kept = if on {
            store.delete(NAMESPACE, name, Expect::Any).await.map(drop)
        } else {
            let draft = Draft { namespace: NAMESPACE, key: name, owner: "", bytes: FORMAT, expires: None };
            store.put(draft, Expect::Any, now).await.map(drop)
        };
        kept.inspect_err(|fault| tracing::error!(%fault, name, "which servers are disabled was not kept"))
            .is_ok()
    }
}

impl Gateway {
    /// Switches a server off or on again; off, its instances end and its tools are gone from every list.
    pub async fn switch(self: &Arc<Self>, name: &str, on: bool) -> Switched {
        let config = self.config();
        let Some(configured) = config.upstreams.iter().find(|upstream| upstream.name == name) else {
            return Switched::Unknown;
        };
        if !configured.enabled {
            return if on { Switched::Configured } else { Switched::Already };
        }
        let changed = self.switches.turn(name, on);
        if changed && let Err(faults) = self.rebuild(None) {
            // What was valid before is so still, but for files that may have gone meanwhile.
            tracing::error!(?faults, name, "the server could not be switched");
        }
        // Also where nothing changed: it may not have been possible before.
        let kept = self.switches.keep(name, on).await;
        if changed { Switched::Done { kept } } else { Switched::Already }
    }

    /// Whether a server was switched off by hand.
    pub fn is_switched_off(&self, name: &str) -> bool {
        self.switches.off().contains(name)
    }
}
