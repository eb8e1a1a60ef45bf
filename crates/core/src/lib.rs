//! The engine of Seawall: the call path, admission, upstreams, the catalogue and conversations.
//!
//! A [`Gateway`] is all of a daemon but its front doors. Whatever reaches an upstream goes through
//! [`Gateway::call`]; lists are answered by [`Gateway::list_tools`] from the catalogue, which is filled through it,
//! and what stands for several upstreams by [`Gateway::answer_for_many`].

pub mod call;
pub mod catalog;
pub mod config;
pub mod conversation;
pub mod explain;
mod groups;
mod hear;
mod ledger;
pub mod life;
pub mod list;
pub mod login;
pub mod offer;
pub mod profile;
pub mod state;
pub mod status;
mod switches;
pub mod telemetry;
pub mod time;
pub mod upstream;

use call::{
    admit::Admission,
    auth::{Caller, Callers},
    cache::Cache,
    flight::Flights,
    idempotency::Keys,
    large,
    park::Parking,
    rate::Rates,
};
use catalog::Catalog;
use config::Config;
use conversation::Conversations;
use hear::Refreshing;
use ledger::Ledger;
use life::{Life, Task};
use login::Logins;
use offer::audience::Audience;
use seawall_jobs::{Results, Store};
use seawall_proto::mcp::Effects;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};
pub use switches::Switched;
use switches::Switches;
use telemetry::Telemetry;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use upstream::{Launches, Upstream, http::oauth::Keep};

/// How often the admission counters are compared with the holder table and the line on that is logged, and expired
/// results removed.
const AUDIT: Duration = Duration::from_secs(30);
/// How often upstreams let go of instances and start spares, where that is due.
const TEND: Duration = Duration::from_secs(1);
/// How long each step may take of ending what a killed daemon left.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How often processes are reaped that outlived the instance which started them.
const REAP: Duration = Duration::from_secs(10);

/// A daemon without its front doors.
#[derive(Debug)]
pub struct Gateway {
    setup: RwLock<Arc<Setup>>,
    catalog: Catalog,
    admission: Admission,
    flights: Arc<Flights>,
    rates: Rates,
    cache: Cache,
    keys: Keys,
    conversations: Conversations,
    audience: Audience,
    parking: Parking,
    refreshing: Refreshing,
    /// Told when an upstream could not be listed.
    unlisted: Notify,
    logins: Logins,
    switches: Switches,
    ground: Ground,
    /// What is kept of results that were too large; `None` where nothing is kept.
    results: Option<Arc<Results>>,
    life: Life,
    telemetry: Telemetry,
    own: Arc<Caller>,
    this: Weak<Self>,
}

/// What all upstreams stand on, whatever the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) keep: Keep,
    pub(crate) launches: Launches,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) life: Life,
}

/// What one configuration has become. Replaced whole.
#[derive(Debug)]
struct Setup {
    config: Arc<Config>,
    callers: Callers,
    upstreams: Vec<Arc<Upstream>>,
    by_name: HashMap<Arc<str>, Arc<Upstream>>,
}

impl Gateway {
    /// Builds a gateway. What the store has kept is read; without one nothing is kept. Upstreams are asked what
    /// they offer in tasks of their own.
    ///
    /// # Errors
    /// What cannot work, one sentence each: certificates that cannot be read.
    pub async fn new(
        config: Arc<Config>,
        store: Option<Store>,
        life: Life,
    ) -> Result<Arc<Self>, Vec<String>> {
        let results = match &store {
            Some(_) => large::open(&config.state, &life).await,
            None => None,
        };
        let store = store.map(Arc::new);
        let switches = Switches::load(store.clone()).await;
        let ground = Ground {
            keep: Keep::new(store.clone()),
            launches: Launches::default(),
            ledger: Ledger::new(store.clone()),
            life: life.clone(),
        };
        end_leftovers(&ground).await;
        ground.ledger.begin().await;
        let keys = Keys::new(store.clone());
        let catalog = Catalog::new(store);
        let spoken = catalog.load(&config.upstreams).await;
        let config_for_limits = Arc::clone(&config);
        let mut faults = Vec::new();
        let gateway = Arc::new_cyclic(|this: &Weak<Self>| {
            let (setup, found) = Setup::new(config, &switches.off(), &ground, this, None);
            faults = found;
            for upstream in &setup.upstreams {
                upstream.remember(spoken.get(&**upstream.name()).copied().unwrap_or_default());
            }
            Self {
                setup: RwLock::new(Arc::new(setup)),
                catalog,
                admission: Admission::new(config_for_limits.limits.clone()),
                flights: Arc::default(),
                rates: Rates::default(),
                cache: Cache::new(config_for_limits.limits.cache),
                keys,
                conversations: Conversations::default(),
                audience: Audience::default(),
                parking: Parking::default(),
                refreshing: Refreshing::default(),
                unlisted: Notify::new(),
                logins: Logins::default(),
                switches,
                ground,
                results,
                life,
                telemetry: Telemetry::default(),
                own: Arc::new(Caller::unlimited("seawall")),
                this: this.clone(),
            }
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        gateway.keep_house();
        for upstream in gateway.upstreams() {
            gateway.probe(&upstream);
        }
        Ok(gateway)
    }

    /// Takes another configuration: upstreams that did not change keep their instances, the others end theirs.
    ///
    /// # Errors
    /// Why it cannot work; the old one stays.
    pub fn reload(self: &Arc<Self>, config: &Arc<Config>) -> Result<(), Vec<String>> {
        self.rebuild(Some(config))
    }

    /// Builds what a configuration asks for, or anew what the one in force does, and puts it in the place of what is.
    fn rebuild(self: &Arc<Self>, config: Option<&Arc<Config>>) -> Result<(), Vec<String>> {
        let (old, new) = loop {
            let old = self.setup();
            let config = Arc::clone(config.unwrap_or(&old.config));
            let (new, faults) =
                Setup::new(config, &self.switches.off(), &self.ground, &self.this, Some(&old));
            if !faults.is_empty() {
                return Err(faults);
            }
            let new = Arc::new(new);
            let mut setup = self.setup.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever was quicker has made what this one was built from the past.
            if Arc::ptr_eq(&setup, &old) {
                *setup = Arc::clone(&new);
                break (old, new);
            }
        };
        let config = &new.config;
        self.admission.set_limits(config.limits.clone());
        self.cache.set_limit(config.limits.cache);
        for gone in &old.upstreams {
            let kept = new.by_name.get(gone.name());
            if kept.is_some_and(|kept| Arc::ptr_eq(kept, gone)) {
                continue;
            }
            gone.close("its configuration changed");
            let listed_as_before = |kept: &Arc<Upstream>| {
                kept.key() == gone.key()
                    && configured_effects(kept.config()) == configured_effects(gone.config())
            };
            if !kept.is_some_and(listed_as_before) {
                self.catalog.forget(gone.name());
            }
        }
        let names: Vec<Arc<str>> = new.upstreams.iter().map(|upstream| Arc::clone(upstream.name())).collect();
        self.catalog.retain(&names);
        for upstream in &new.upstreams {
            upstream.bound(config.longest_of(upstream.config()));
            if old.by_name.get(upstream.name()).is_none_or(|kept| !Arc::ptr_eq(kept, upstream)) {
                self.probe(upstream);
            }
        }
        Ok(())
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.setup().config)
    }

    /// Who presents this token, or `local` where none is needed.
    pub fn caller(&self, token: Option<&str>) -> Option<Arc<Caller>> {
        self.setup().callers.find(token).cloned()
    }

    /// Whether callers must present tokens.
    pub fn needs_tokens(&self) -> bool {
        self.setup().callers.need_tokens()
    }

    /// An upstream by name.
    pub fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.setup().by_name.get(name).cloned()
    }

    /// Every upstream that is in use, in configured order.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.setup().upstreams.clone()
    }

    /// Open conversations.
    pub fn conversations(&self) -> &Conversations {
        &self.conversations
    }

    /// The catalogue.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Counters and records.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// The daemon's tasks.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Ends a conversation and the instances that were its own.
    pub fn end_conversation(&self, id: &str) -> bool {
        let Some(ended) = self.conversations.end(id) else { return false };
        self.end_instances(&ended.id);
        self.audience.end(&ended.id);
        true
    }

    /// Ends every instance of an upstream; `None` when there is no such upstream.
    pub fn restart(self: &Arc<Self>, name: &str) -> Option<()> {
        let upstream = self.upstream(name)?;
        upstream.restart("it was restarted");
        self.probe(&upstream);
        Some(())
    }

    /// Drains: no new work, then at most `grace` for what runs, then the end of every instance. Returns how many
    /// tasks did not end by themselves.
    pub async fn end(&self, grace: Duration) -> usize {
        self.life.drain();
        let waited = tokio::time::Instant::now();
        while !self.admission.rows().is_empty() && waited.elapsed() < grace {
            sleep(Duration::from_millis(10)).await;
        }
        for conversation in self.conversations.all() {
            self.conversations.end(&conversation.id);
        }
        for upstream in self.upstreams() {
            upstream.close("Seawall is stopping");
        }
        let left = grace.saturating_sub(waited.elapsed()).max(Duration::from_secs(5));
        let left = self.life.end(left).await;
        self.ground.ledger.write().await;
        left
    }

    fn end_instances(&self, conversation: &Arc<str>) {
        for upstream in self.upstreams() {
            upstream.end_conversation(conversation);
        }
    }

    fn setup(&self) -> Arc<Setup> {
        Arc::clone(&self.setup.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts what runs as long as the daemon does.
    fn keep_house(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.life.spawn(Task::Housekeeping, async move {
            loop {
                sleep(AUDIT).await;
                this.tell_health();
                this.cache.sweep(Instant::now());
                this.keys.sweep().await;
                this.sweep_results().await;
            }
        });
        let ledger = Arc::clone(&self.ground.ledger);
        self.life.spawn(Task::Housekeeping, async move { ledger.keep().await });
        let this = Arc::clone(self);
        self.life.spawn(Task::Housekeeping, async move {
            loop {
                for upstream in this.upstreams() {
                    upstream.tend().await;
                }
                sleep(TEND).await;
            }
        });
        let life = self.life.clone();
        self.life.spawn(Task::Housekeeping, async move {
            loop {
                sleep(REAP).await;
                life.blocking(|| seawall_proc::reap_orphans(&|_| false)).await;
            }
        });
        let this = Arc::clone(self);
        self.life.spawn(Task::Housekeeping, async move {
            loop {
                let idle = this.config().limits.session_idle;
                sleep((idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(30))).await;
                this.parking.expire();
                for expired in this.conversations.expire(idle) {
                    this.end_instances(&expired.id);
                    this.audience.end(&expired.id);
                }
                for upstream in this.upstreams() {
                    // Seawall's own listens for changes of the tools as long as the daemon runs.
                    upstream.expire(idle, |conversation| {
                        conversation == list::OWN
                            || this.conversations.find(conversation).is_some()
                            || this.audience.holds(conversation)
                    });
                }
            }
        });
    }
}

/// What is configured of an upstream's tools that their listing shows.
fn configured_effects(upstream: &config::Upstream) -> Vec<(&String, Effects)> {
    upstream.tools.iter().filter_map(|(name, tool)| Some((name, tool.effects?))).collect()
}

/// Ends what a killed daemon left behind, in tasks of their own: nothing waits for that.
async fn end_leftovers(ground: &Ground) {
    for identity in ground.ledger.leftovers().await {
        // It stays in the ledger until nothing is left of it: this daemon may be killed as well.
        let entry = ground.ledger.enter(&identity);
        ground.life.spawn(Task::Instance, async move {
            let _entry = entry;
            if let Some(ended) = seawall_proc::end_leftover(&identity, LEFTOVER_GRACE).await {
                tracing::warn!(
                    pid = identity.pid,
                    ?ended,
                    "a process that a killed daemon had left was ended"
                );
            }
        });
    }
}

impl Setup {
    /// Builds what a configuration asks for, taking over what did not change; what could not be built is told.
    fn new(
        config: Arc<Config>,
        off: &BTreeSet<String>,
        ground: &Ground,
        gateway: &Weak<Gateway>,
        old: Option<&Self>,
    ) -> (Self, Vec<String>) {
        let (mut upstreams, mut faults) = (Vec::new(), Vec::new());
        let used = |upstream: &&Arc<config::Upstream>| {
            upstream.enabled && upstream.needs.is_empty() && !off.contains(&upstream.name)
        };
        for configured in config.upstreams.iter().filter(used) {
            let same_limits = old.is_some_and(|old| {
                let (old, new) = (&old.config.limits, &config.limits);
                (old.message, old.processes) == (new.message, new.processes)
            });
            let kept = old
                .and_then(|old| old.by_name.get(configured.name.as_str()))
                .filter(|old| same_limits && *old.config() == **configured);
            if let Some(kept) = kept {
                upstreams.push(Arc::clone(kept));
                continue;
            }
            let outlet = hear::outlet(gateway.clone());
            let limits = &config.limits;
            let longest = config.longest_of(configured);
            match Upstream::new(Arc::clone(configured), limits, longest, outlet, ground) {
                Ok(upstream) => {
                    if let Some(old) = old.and_then(|old| old.by_name.get(configured.name.as_str()))
                        && old.key() == upstream.key()
                    {
                        upstream.remember(old.spoken());
                    }
                    upstreams.push(upstream);
                }
                Err(fault) => faults.push(format!("server {:?}: {fault}", configured.name)),
            }
        }
        let by_name =
            upstreams.iter().map(|upstream| (Arc::clone(upstream.name()), Arc::clone(upstream))).collect();
        let setup = Self { callers: Callers::new(&config.callers), upstreams, by_name, config };
        (setup, faults)
    }
}
