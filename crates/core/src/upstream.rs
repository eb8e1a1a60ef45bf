//! Upstreams: what calls go to, and the instances that answer them.
//!
//! An [`Upstream`] opens instances when they are first needed, one at a time per key, and keeps them until their
//! conversation ends, they end themselves, or it is told to restart. A caller that gives up does not stop an
//! opening: the next try finds it warm.

pub mod http;
mod instance;
mod keys;
#[cfg(test)]
pub(crate) mod script;
pub mod stdio;

use crate::{
    call::Call,
    config::{self, Sharing},
    life::{Life, Task},
    time::{Deadline, Passed},
};
pub use instance::{Exchange, Instance};
use keys::{InstanceKey, Isolation};
use seawall_proto::{
    Ask, Message,
    era::{Face, Spoken, Wire, peer::Topic},
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Most instances of one caller that differ only in what its clients say they can do.
const PRIVATE: usize = 16;
/// Most instances' standard error kept for `seawall logs` after they ended.
const KEPT_LOGS: usize = 4;

/// Whether an upstream may have acted on what was to be sent: the one fact that decides a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing left, or what left was refused unread.
    No,
    /// Something left.
    Maybe,
}

/// Why an instance could not be used, or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whether the upstream may have acted.
    pub sent: Sent,
    /// What happened, as a clause: "it exited with status 1".
    pub why: String,
    /// Whether the upstream answered, though not with an answer.
    pub answered: bool,
    /// Whether a size limit was the reason.
    pub too_large: bool,
    /// Whether the start budget ran out.
    pub timed_out: bool,
}

impl Lost {
    /// Lost with `why`.
    pub fn new(sent: Sent, why: impl Into<String>) -> Self {
        Self { sent, why: why.into(), answered: false, too_large: false, timed_out: false }
    }

    /// It answered with something that is no answer.
    pub fn nonsense(why: impl Into<String>) -> Self {
        Self { answered: true, ..Self::new(Sent::Maybe, why) }
    }
}

/// What an upstream says about a call, in order.
#[derive(Debug)]
pub enum Heard {
    /// It answers with a stream; nothing on it has been heard yet.
    Streaming,
    /// A notification about it.
    Notification(Message, Topic),
    /// A question to its caller.
    Ask(Ask),
    /// The stream was closed on purpose; the call goes on.
    Pause(Option<u64>),
    /// The response.
    Response(Message),
}

/// What an upstream says about no call in particular.
#[derive(Debug)]
pub enum Broadcast {
    /// A notification.
    Notification(Message, Topic),
    /// A question to the client of the conversation.
    Ask(Ask),
}

/// Takes what no call waits for: the upstream's name, and the conversation the instance belongs to, if to one.
pub type Outlet = Arc<dyn Fn(&Arc<str>, &Owner, Broadcast) + Send + Sync>;

/// Whose an instance is, where it is not everyone's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The conversation it belongs to.
    pub conversation: Option<Arc<str>>,
    /// The caller it belongs to, where it is no conversation's.
    pub caller: Option<Arc<str>>,
}

/// Who wants an instance.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The caller's name.
    pub caller: Arc<str>,
    /// The conversation, when there is one.
    pub conversation: Option<Arc<str>>,
    /// What the caller speaks.
    pub wire: Wire,
    /// Who the caller's client is.
    pub face: Arc<Face>,
    /// Whether the upstream's own messages have somebody to go to.
    pub followed: bool,
}

impl Wanted {
    /// Whom an instance for this call must be for.
    pub fn by(call: &Call) -> Self {
        Self {
            caller: Arc::clone(&call.caller.name),
            conversation: call.conversation.clone(),
            wire: *call.request.wire(),
            face: Arc::clone(call.request.face()),
            followed: call.followed,
        }
    }

    /// The same, for an instance that no other call shares where the upstream is shared by none.
    #[must_use]
    pub fn for_one_call(mut self, upstream: &Upstream) -> Self {
        if upstream.sharing() == Sharing::Call {
            self.conversation = Some(Arc::from(crate::conversation::random_id()));
        }
        self
    }
}

/// The connector of one configured upstream.
pub struct Upstream {
    config: Arc<config::Upstream>,
    name: Arc<str>,
    key: String,
    life: Life,
    outlet: Outlet,
    connector: Connector,
    state: Mutex<State>,
}

/// How instances are made.
enum Connector {
    Stdio(stdio::Connector),
    Http(http::Connector),
    #[cfg(test)]
    Script(script::Connector),
}

#[derive(Default)]
struct State {
    slots: HashMap<InstanceKey, Slot>,
    spoken: Spoken,
    failure: Option<Failure>,
    next_slot: u64,
    tails: VecDeque<(u32, seawall_proc::Tail)>,
}

impl State {
    /// Makes room for one more instance of a caller, each for another kind of its clients: where there are as many as
    /// may be, takes out the one that has been idle for longest.
    fn make_room(&mut self, isolation: &Isolation) -> Result<Option<Instance>, Lost> {
        let mine = || self.slots.iter().filter(|(_, slot)| slot.private && slot.isolation == *isolation);
        if !matches!(isolation, Isolation::Caller(_)) || mine().count() < PRIVATE {
            return Ok(None);
        }
        let idle =
            mine().filter(|(_, slot)| slot.instance().is_some_and(|instance| instance.in_flight() == 0));
        let Some(key) = idle.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone()) else {
            let why = format!("all {PRIVATE} instances that a caller's kinds of clients may have are in use");
            return Err(Lost::new(Sent::No, why));
        };
        Ok(self.slots.remove(&key).and_then(|slot| slot.instance()))
    }
}

struct Slot {
    id: u64,
    isolation: Isolation,
    /// Whether it is only for clients that can all do the same.
    private: bool,
    since: Instant,
    used: Instant,
    /// `None` while it is being opened.
    opened: watch::Receiver<Option<Result<Instance, Lost>>>,
}

/// Why the upstream could last not be used.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How far it came: `start` or `answer`.
    pub stage: &'static str,
    /// What happened.
    pub message: String,
}

/// One instance as status shows it.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// Who it is for.
    pub key: String,
    /// The protocol version it speaks; empty while it is being opened.
    pub version: &'static str,
    /// Its process, where it is one.
    pub pid: Option<u32>,
    /// Calls under way at it.
    pub in_flight: usize,
    /// Time since it was wanted first.
    pub age: Duration,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// An upstream without instances. `message` bounds one message, in bytes; its logins are in `keep`.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub fn new(
        config: Arc<config::Upstream>,
        message: usize,
        life: Life,
        outlet: Outlet,
        keep: &http::oauth::Keep,
    ) -> Result<Arc<Self>, String> {
        let connector = match &config.kind {
            #[cfg(test)]
            config::Kind::Stdio { command, args, .. } if command == "script" => {
                Connector::Script(script::Connector::new(args))
            }
            config::Kind::Stdio { .. } => {
                Connector::Stdio(stdio::Connector::new(Arc::clone(&config), message))
            }
            config::Kind::Http { url, headers, ca_file } => {
                let at = http::Address { url, headers, ca_file: ca_file.as_deref() };
                Connector::Http(http::Connector::new(&config, &at, message, keep, &life)?)
            }
        };
        let name = Arc::from(config.name.as_str());
        let key = config.key();
        Ok(Arc::new(Self { name, key, life, outlet, connector, state: Mutex::default(), config }))
    }

    /// How it is configured.
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it is, apart from its name: the key of what is remembered about it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is remembered of the eras it speaks.
    pub fn spoken(&self) -> Spoken {
        self.lock().spoken
    }

    /// Whether it is spoken to in another era than a caller's, as far as is known.
    pub fn crosses(&self, caller: &Wire) -> bool {
        self.spoken().towards(self.config.era, caller).crosses(caller)
    }

    /// Remembers which eras it speaks.
    pub fn remember(&self, spoken: Spoken) {
        let mut state = self.lock();
        state.spoken = state.spoken.and(spoken);
    }

    /// Why it could last not be used, if it could not.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Notes that it worked, or how it failed.
    pub fn noted(&self, failure: Option<Failure>) {
        self.lock().failure = failure;
    }

    /// The instance for `wanted`, opened now if there is none. Cancel-safe: the opening goes on without its caller.
    ///
    /// # Errors
    /// Why it could not be opened; nothing of the call was sent.
    pub async fn instance(self: &Arc<Self>, wanted: &Wanted) -> Result<Instance, Lost> {
        let mut crowded_out = None;
        let mut opened = {
            let mut state = self.lock();
            let (key, isolation) = self.key_for(&state, wanted);
            match state.slots.get_mut(&key).filter(|slot| slot.usable()) {
                Some(slot) => {
                    slot.used = Instant::now();
                    if let Some(Ok(instance)) = &*slot.opened.borrow() {
                        return Ok(instance.clone());
                    }
                    slot.opened.clone()
                }
                None => {
                    if key.is_private() {
                        crowded_out = state.make_room(&isolation)?;
                    }
                    self.open(&mut state, key, isolation, wanted)
                }
            }
        };
        if let Some(instance) = crowded_out {
            instance.end("another kind of client of its caller needs its place");
        }
        let opened = opened.wait_for(Option::is_some).await;
        match opened.as_deref() {
            Ok(Some(opened)) => opened.clone(),
            Ok(None) | Err(_) => Err(Lost::new(Sent::No, "its start was called off")),
        }
    }

    /// An instance of the wanted isolation that is open already.
    pub fn ready(&self, wanted: &Wanted) -> Option<Instance> {
        let state = self.lock();
        let (key, _) = self.key_for(&state, wanted);
        let slot = state.slots.get(&key).filter(|slot| slot.usable())?;
        slot.opened.borrow().as_ref().and_then(|opened| opened.clone().ok())
    }

    /// Every open instance of a conversation.
    pub fn instances_of(&self, conversation: &Arc<str>) -> Vec<Instance> {
        let of = Isolation::Conversation(Arc::clone(conversation));
        let state = self.lock();
        let mine = state.slots.values().filter(|slot| slot.isolation == of);
        mine.filter_map(|slot| slot.opened.borrow().as_ref().and_then(|opened| opened.clone().ok())).collect()
    }

    /// Ends every instance of a conversation.
    pub fn end_conversation(&self, conversation: &Arc<str>) {
        let of = Isolation::Conversation(Arc::clone(conversation));
        self.end_where(|slot| slot.isolation == of, "its conversation ended");
    }

    /// Ends instances of conversations that are named by requests alone, and those for what single requests say of
    /// their client, once they have been idle for `idle`: nobody says that such a one is over. `open` tells which
    /// conversations are kept by a session.
    pub fn expire(&self, idle: Duration, open: impl Fn(&str) -> bool) {
        let idle = |slot: &Slot| {
            let over = match &slot.isolation {
                Isolation::Conversation(name) => !open(name),
                // Another of its caller's requests may never say the same of its client.
                Isolation::Caller(_) => slot.private,
                Isolation::Everyone | Isolation::Call(_) => false,
            };
            over && slot.used.elapsed() >= idle
                && slot.instance().is_some_and(|instance| instance.in_flight() == 0)
        };
        self.end_where(idle, "it was idle");
    }

    /// Ends the process that was started to learn what the upstream offers, unless everyone shares it.
    pub fn end_probe(&self, wanted: &Wanted) {
        if self.sharing() == Sharing::Everyone {
            return;
        }
        let of = Isolation::of(self.sharing(), wanted);
        let process = |slot: &Slot| {
            slot.isolation == of && slot.instance().is_some_and(|instance| instance.is_process())
        };
        self.end_where(process, "it was only asked what it offers");
    }

    /// Ends one instance that was made for a single call or probe.
    pub fn end_call(&self, wanted: &Wanted) {
        if self.sharing() == Sharing::Call
            && let Some(of) = wanted.conversation.clone().map(Isolation::Call)
        {
            self.end_where(|slot| slot.isolation == of, "its call ended");
        }
    }

    /// Ends every instance; the next call opens a new one.
    pub fn restart(&self, why: &str) {
        self.end_where(|_| true, why);
        self.noted(None);
    }

    /// How many instances there are, those being opened included.
    pub fn running(&self) -> usize {
        self.lock().slots.values().filter(|slot| slot.usable()).count()
    }

    /// How many of its instances are processes.
    pub fn processes(&self) -> usize {
        self.lock().slots.values().filter_map(Slot::instance).filter(Instance::is_process).count()
    }

    /// Requests that wait for an answer of it.
    pub fn pending(&self) -> usize {
        let state = self.lock();
        state.slots.values().filter_map(Slot::instance).map(|instance| instance.in_flight()).sum()
    }

    /// Its instances, oldest first.
    pub fn statuses(&self) -> Vec<InstanceStatus> {
        let state = self.lock();
        let mut statuses: Vec<InstanceStatus> = state
            .slots
            .values()
            .filter(|slot| slot.usable())
            .map(|slot| {
                let instance = slot.instance();
                InstanceStatus {
                    key: slot.isolation.to_string(),
                    version: instance.as_ref().map_or("", |instance| instance.peer().wire().version()),
                    pid: instance.as_ref().and_then(Instance::pid),
                    in_flight: instance.as_ref().map_or(0, Instance::in_flight),
                    age: slot.since.elapsed(),
                }
            })
            .collect();
        statuses.sort_by_key(|status| std::cmp::Reverse(status.age));
        statuses
    }

    /// The standard error of its last instances, by process id.
    pub fn tails(&self) -> Vec<(u32, seawall_proc::Tail)> {
        self.lock().tails.iter().cloned().collect()
    }

    fn sharing(&self) -> Sharing {
        self.config.sharing
    }

    fn end_where(&self, which: impl Fn(&Slot) -> bool, why: &str) {
        let ended: Vec<Slot> = {
            let mut state = self.lock();
            let keys: Vec<InstanceKey> =
                state.slots.iter().filter(|(_, slot)| which(slot)).map(|(key, _)| key.clone()).collect();
            keys.into_iter().filter_map(|key| state.slots.remove(&key)).collect()
        };
        for slot in ended {
            match slot.instance() {
                Some(instance) => instance.end(why),
                // Still being opened: whoever opens it finds its slot gone and ends it.
                None => drop(slot),
            }
        }
    }

    /// Starts an opening on a task of its own.
    fn open(
        self: &Arc<Self>,
        state: &mut State,
        key: InstanceKey,
        isolation: Isolation,
        wanted: &Wanted,
    ) -> watch::Receiver<Option<Result<Instance, Lost>>> {
        let (opening, opened) = watch::channel(None);
        state.next_slot += 1;
        let id = state.next_slot;
        let now = Instant::now();
        let private = key.is_private();
        let slot = Slot { id, isolation, private, since: now, used: now, opened: opened.clone() };
        state.slots.insert(key.clone(), slot);
        let (this, wanted) = (Arc::clone(self), wanted.clone());
        self.life.spawn(Task::Opening, async move {
            let budget = Deadline::after(this.config.start_timeout);
            let mut outcome = match budget.bound(this.connect(&key, &wanted, budget)).await {
                Ok(outcome) => outcome,
                Err(Passed) => Err(Lost {
                    timed_out: true,
                    ..Lost::new(Sent::No, format!("it was not ready within {:?}", this.config.start_timeout))
                }),
            };
            this.opened(&key, id, &wanted, &mut outcome);
            opening.send_replace(Some(outcome));
        });
        opened
    }

    async fn connect(&self, key: &InstanceKey, wanted: &Wanted, budget: Deadline) -> Result<Instance, Lost> {
        let name = Arc::clone(&self.name);
        let outlet = Arc::clone(&self.outlet);
        let private = key.is_private();
        let face = if private { Arc::clone(&wanted.face) } else { wanted.face.without_capabilities() };
        let owner = key.owner();
        let say: Arc<dyn Fn(Broadcast) + Send + Sync> =
            Arc::new(move |broadcast| outlet(&name, &owner, broadcast));
        let (pin, spoken, wire) = (self.config.era, self.spoken(), wanted.wire);
        let plan = Plan { pin, spoken, wire, face, say, exclusive: private, budget };
        let (instance, spoken) = match &self.connector {
            Connector::Stdio(connector) => {
                let tails = |pid, tail| self.keep_tail(pid, tail);
                let (opened, spoken) = connector.open(&plan, &self.life, &tails).await;
                (opened.map(Instance::Stdio), spoken)
            }
            Connector::Http(connector) => {
                let (opened, spoken) = connector.open(&plan, &self.life).await;
                (opened.map(Instance::Http), spoken)
            }
            #[cfg(test)]
            Connector::Script(connector) => (Ok(Instance::Script(connector.open())), Spoken::default()),
        };
        self.remember(spoken);
        instance
    }

    /// What becomes of an opening: the instance is kept and watched, or ended where nobody wants it any more or
    /// there is one like it already.
    fn opened(
        self: &Arc<Self>,
        key: &InstanceKey,
        id: u64,
        wanted: &Wanted,
        outcome: &mut Result<Instance, Lost>,
    ) {
        let instance = match outcome {
            Ok(instance) => instance.clone(),
            Err(lost) => {
                tracing::warn!(upstream = &*self.name, reason = lost.why, "an instance could not be opened");
                self.noted(Some(Failure { stage: "start", message: lost.why.clone() }));
                self.forget(key, id);
                return;
            }
        };
        let kept = {
            let mut state = self.lock();
            // The opening may have taught that the upstream speaks one era only: then that is its key.
            let (learnt, _) = self.key_for(&state, wanted);
            let twin = state
                .slots
                .get(&learnt)
                .filter(|slot| slot.id != id && slot.usable())
                .and_then(Slot::instance);
            let mine = state.slots.get(key).is_some_and(|slot| slot.id == id);
            match (twin, if mine { state.slots.remove(key) } else { None }) {
                (Some(twin), Some(_)) => {
                    *outcome = Ok(twin);
                    None
                }
                (None, Some(slot)) => {
                    state.slots.insert(learnt.clone(), slot);
                    Some(learnt)
                }
                (_, None) => None,
            }
        };
        let Some(key) = kept else {
            instance.end("nobody wants it any more");
            return;
        };
        if wanted.followed {
            instance.follow();
        }
        let this = Arc::clone(self);
        self.life.spawn(Task::Follow, async move {
            instance.gone().await;
            this.forget(&key, id);
        });
    }

    fn key_for(&self, state: &State, wanted: &Wanted) -> (InstanceKey, Isolation) {
        let isolation = Isolation::of(self.sharing(), wanted);
        let era = state.spoken.towards(self.config.era, &wanted.wire);
        (InstanceKey::new(isolation.clone(), wanted, self.sharing(), era), isolation)
    }

    fn forget(&self, key: &InstanceKey, id: u64) {
        let mut state = self.lock();
        if state.slots.get(key).is_some_and(|slot| slot.id == id) {
            state.slots.remove(key);
        }
    }

    fn keep_tail(&self, pid: u32, tail: seawall_proc::Tail) {
        let mut state = self.lock();
        state.tails.push_back((pid, tail));
        while state.tails.len() > KEPT_LOGS.max(state.slots.len()) {
            state.tails.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether a call may use it: it is being opened, or open and not gone.
    fn usable(&self) -> bool {
        match &*self.opened.borrow() {
            None => self.opened.has_changed().is_ok(),
            Some(Ok(instance)) => !instance.is_gone(),
            Some(Err(_)) => false,
        }
    }

    fn instance(&self) -> Option<Instance> {
        self.opened.borrow().as_ref().and_then(|opened| opened.clone().ok())
    }
}

/// What a connector opens an instance with.
pub struct Plan {
    pin: seawall_proto::era::Pin,
    spoken: Spoken,
    wire: Wire,
    face: Arc<Face>,
    /// Takes what no call waits for.
    say: Arc<dyn Fn(Broadcast) + Send + Sync>,
    exclusive: bool,
    budget: Deadline,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl Plan {
    /// Whether the instance is for one conversation alone.
    fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// How long a probe may take that only some servers answer: long enough for a cold start, short enough to leave
    /// time for the other era.
    fn probe_budget(&self) -> Duration {
        (self.budget.budget() / 3).min(Duration::from_secs(10))
    }
}
