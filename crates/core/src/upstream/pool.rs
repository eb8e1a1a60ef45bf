//! The pool: which instances an upstream has, how they come and how they go.
//!
//! One is opened when a call first needs it, once for all who want the same; a caller that gives up does not stop an
//! opening, so that the next try finds it warm. An instance that is not to be used any more (too old, too large, hung,
//! its conversation over) is out of the pool first and ended afterwards, and nobody waits for that. The lock here is
//! held for looking and changing, never while anything is started, ended or read.

mod show;
mod tend;

use super::{
    Broadcast, Connector, Failure, Instance, Lost, Plan, Sent, Upstream, Wanted,
    brake::{Brake, Braked, LASTING},
    keys::{InstanceKey, Isolation, ShareKey},
    stdio,
};
use crate::{
    call::ASK_LIMIT,
    config::Sharing,
    conversation::random_byte,
    life::Task,
    time::{Deadline, Passed},
};
use seawall_proto::era::Spoken;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Most instances of one caller that differ only in what its clients say they can do.
const PRIVATE: usize = 16;
/// Most instances' standard error kept for `seawall logs` after they ended.
const KEPT_LOGS: usize = 4;
/// After how long with nothing to do an instance for one call is given up that nobody has ended: longer than its caller
/// may take to answer a question.
const CALL_LEFT: Duration = Duration::from_secs(10 * 60);

#[derive(Default)]
pub(super) struct State {
    slots: HashMap<InstanceKey, Slot>,
    /// What takes no more calls, until nothing is left of it.
    leaving: HashMap<u64, Leaving>,
    /// Processes that nobody has asked for yet, oldest first.
    spares: VecDeque<stdio::Spare>,
    brake: Brake,
    /// The same for processes that nobody has asked for: that they end early, not being greeted, says little.
    spare_brake: Brake,
    /// Why nothing is opened any more, once the upstream is out of use.
    closed: Option<String>,
    pub(super) spoken: Spoken,
    /// Why it cannot be used, as far as is known.
    pub(super) failure: Option<Failure>,
    /// What went wrong last, whether or not it works again.
    pub(super) last_failure: Option<Failure>,
    next_slot: u64,
    pub(super) tails: VecDeque<(u32, seawall_proc::Tail)>,
}

struct Slot {
    id: u64,
    isolation: Isolation,
    /// Whether it is only for clients that can all do the same.
    private: bool,
    since: Instant,
    /// When it last had something to do.
    used: Instant,
    /// `None` while it is being opened.
    opened: Opened,
    /// Says why it is not to be opened any more.
    called_off: Arc<CalledOff>,
    fate: Arc<Fate>,
}

/// What is known of an instance's end before whoever watches it has come to it.
#[derive(Debug, Default)]
struct Fate {
    /// It is ended on purpose.
    dismissed: AtomicBool,
    /// The brake knows that it ended.
    counted: AtomicBool,
}

/// The word to an opening that nobody wants it to succeed any more.
#[derive(Debug, Default)]
struct CalledOff {
    why: OnceLock<String>,
    token: CancellationToken,
}

impl CalledOff {
    fn call_off(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        self.token.cancel();
    }

    async fn called_off(&self) -> Lost {
        self.token.cancelled().await;
        let why = self.why.get().map_or("it is not wanted any more", String::as_str);
        Lost::new(Sent::No, format!("its start was called off: {why}"))
    }
}

struct Leaving {
    isolation: Isolation,
    since: Instant,
    instance: Instance,
}

/// Why there is no room for another instance.
struct NoRoom {
    why: String,
    /// Whether there will be without anybody's doing.
    soon: bool,
}

/// What there is for a call.
enum Found {
    Open(Instance),
    /// It was being opened already, or is now.
    Opening(Opened),
    NoRoom(NoRoom),
}

type Opened = watch::Receiver<Option<Result<Instance, Lost>>>;

impl State {
    /// Makes room for one more instance: the one of the same caller that has been idle for longest goes where there
    /// are as many for its kinds of clients as may be. Beyond what the upstream may have at all, nothing does.
    fn make_room(
        &mut self,
        isolation: &Isolation,
        private: bool,
        max: Option<usize>,
    ) -> Result<Option<Slot>, NoRoom> {
        let others = self.slots.values().filter(|slot| slot.usable() && !slot.isolation.is_own()).count();
        let leaving = self.leaving.values().filter(|leaving| !leaving.isolation.is_own()).count();
        if let Some(max) = max.filter(|_| !isolation.is_own())
            && others + leaving >= max
        {
            return Err(NoRoom {
                soon: self.frees_soon(),
                why: format!("all {max} instances that `max` allows it are in use"),
            });
        }
        let mine = || self.slots.iter().filter(|(_, slot)| slot.private && slot.isolation == *isolation);
        if !private || !matches!(isolation, Isolation::Caller(_)) || mine().count() < PRIVATE {
            return Ok(None);
        }
        let idle =
            mine().filter(|(_, slot)| slot.instance().is_some_and(|instance| instance.in_flight() == 0));
        let Some(key) = idle.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone()) else {
            let why = format!("all {PRIVATE} instances that a caller's kinds of clients may have are in use");
            return Err(NoRoom { soon: false, why });
        };
        Ok(self.dismiss(&key))
    }

    /// Whether an instance will be gone without anybody's doing: one that ends, or one for a single call.
    fn frees_soon(&self) -> bool {
        self.leaving.values().any(|leaving| leaving.instance.in_flight() == 0)
            || self.slots.values().any(|slot| matches!(slot.isolation, Isolation::Call(_)))
    }

    /// Takes a slot out, to be ended; what it held is leaving from now on.
    fn dismiss(&mut self, key: &InstanceKey) -> Option<Slot> {
        let slot = self.take(key)?;
        slot.fate.dismissed.store(true, Ordering::Relaxed);
        Some(slot)
    }

    /// Takes a slot out; what it held is leaving from now on.
    fn take(&mut self, key: &InstanceKey) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        if let Some(instance) = slot.instance() {
            let leaving = Leaving { isolation: slot.isolation.clone(), since: slot.since, instance };
            self.leaving.insert(slot.id, leaving);
        }
        Some(slot)
    }

    fn take_where(&mut self, which: impl Fn(&Slot) -> bool) -> Vec<Slot> {
        let keys: Vec<InstanceKey> =
            self.slots.iter().filter(|(_, slot)| which(slot)).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.dismiss(key)).collect()
    }

    fn is(&self, key: &InstanceKey, id: u64) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.id == id)
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

impl Upstream {
    /// The instance for `wanted`, opened now if there is none. Cancel-safe: the opening goes on without its caller.
    ///
    /// # Errors
    /// Why it could not be opened; nothing of the call was sent.
    pub async fn instance(self: &Arc<Self>, wanted: &Wanted) -> Result<Instance, Lost> {
        let mut found = self.find_or_open(wanted)?;
        let mut opened = loop {
            match found {
                Found::Open(instance) => return Ok(instance),
                Found::Opening(opened) => break opened,
                Found::NoRoom(NoRoom { soon: false, why }) => {
                    return Err(Lost { crowded: true, ..Lost::new(Sent::No, why) });
                }
                Found::NoRoom(NoRoom { soon: true, .. }) => {}
            }
            let room = self.room.notified();
            tokio::pin!(room);
            // Before it is looked again, so that no word in between is missed.
            room.as_mut().enable();
            found = self.find_or_open(wanted)?;
            if matches!(found, Found::NoRoom(NoRoom { soon: true, .. })) {
                room.await;
                found = self.find_or_open(wanted)?;
            }
        };
        let opened = opened.wait_for(Option::is_some).await;
        match opened.as_deref() {
            Ok(Some(opened)) => opened.clone(),
            Ok(None) | Err(_) => Err(Lost::new(Sent::No, "its start was called off")),
        }
    }

    fn find_or_open(self: &Arc<Self>, wanted: &Wanted) -> Result<Found, Lost> {
        let (opened, crowded_out) = {
            let mut state = self.lock();
            let (key, isolation) = self.key_for(&state, wanted);
            if let Some(slot) = state.slots.get_mut(&key).filter(|slot| slot.usable()) {
                slot.used = Instant::now();
                return Ok(match &*slot.opened.borrow() {
                    Some(Ok(instance)) => Found::Open(instance.clone()),
                    _ => Found::Opening(slot.opened.clone()),
                });
            }
            if let Some(why) = &state.closed {
                return Err(Lost::new(Sent::No, why.clone()));
            }
            // One that cannot be used any more goes on to its end beside its successor.
            if let Some(slot) = state.take(&key) {
                self.count(&mut state, &slot);
            }
            state.brake.start(Instant::now()).map_err(left_alone)?;
            let max = self.config.pool.max.map(usize::from);
            let crowded_out = match state.make_room(&isolation, key.is_private(), max) {
                Ok(crowded_out) => crowded_out,
                Err(no_room) => {
                    state.brake.called_off();
                    return Ok(Found::NoRoom(no_room));
                }
            };
            let spare = state.spares.pop_front();
            if spare.is_some() {
                state.spare_brake.lasted();
            }
            (self.open(&mut state, key, isolation, wanted, spare), crowded_out)
        };
        if let Some(instance) = crowded_out.and_then(|slot| slot.instance()) {
            instance.end("another kind of client of its caller needs its place");
        }
        Ok(Found::Opening(opened))
    }

    /// An instance of the wanted isolation that is open already.
    pub fn ready(&self, wanted: &Wanted) -> Option<Instance> {
        let state = self.lock();
        let (key, _) = self.key_for(&state, wanted);
        state.slots.get(&key).filter(|slot| slot.usable())?.instance()
    }

    /// Every open instance of a conversation.
    pub fn instances_of(&self, conversation: &Arc<str>) -> Vec<Instance> {
        let of = Isolation::Conversation(Arc::clone(conversation));
        let state = self.lock();
        state.slots.values().filter(|slot| slot.isolation == of).filter_map(Slot::instance).collect()
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
                Isolation::Everyone => false,
                // Its call is over, and nobody came to say so.
                Isolation::Call(_) => slot.used.elapsed() >= CALL_LEFT,
            };
            let idle = if matches!(slot.isolation, Isolation::Call(_)) { CALL_LEFT } else { idle };
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
            let idle_process = |instance: Instance| instance.is_process() && instance.in_flight() == 0;
            slot.isolation == of && slot.instance().is_some_and(idle_process)
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

    /// Ends every instance and forgets how the last ones ended; the next call opens a new one.
    pub fn restart(&self, why: &str) {
        self.end_where(|_| true, why);
        let (spares, leaving): (_, Vec<Instance>) = {
            let mut state = self.lock();
            state.brake = Brake::default();
            state.spare_brake = Brake::default();
            let leaving = state.leaving.values().map(|leaving| leaving.instance.clone()).collect();
            (std::mem::take(&mut state.spares), leaving)
        };
        Self::end_spares(spares);
        for instance in leaving {
            instance.end(why);
        }
        self.room.notify_waiters();
        self.noted(None);
    }

    /// Ends every instance, and opens none any more: what still has this upstream in its hands must not revive it.
    pub fn close(&self, why: &str) {
        self.lock().closed = Some(why.to_owned());
        self.restart(why);
    }

    fn end_where(&self, which: impl Fn(&Slot) -> bool, why: &str) {
        let ended = self.lock().take_where(which);
        for slot in ended {
            match slot.instance() {
                Some(instance) => instance.end(why),
                None => slot.called_off.call_off(why),
            }
        }
        self.room.notify_waiters();
    }

    /// Starts an opening on a task of its own.
    fn open(
        self: &Arc<Self>,
        state: &mut State,
        key: InstanceKey,
        isolation: Isolation,
        wanted: &Wanted,
        spare: Option<stdio::Spare>,
    ) -> Opened {
        let (opening, opened) = watch::channel(None);
        state.next_slot += 1;
        let id = state.next_slot;
        let now = Instant::now();
        let age = spare.as_ref().map_or(Duration::ZERO, stdio::Spare::age);
        let since = now.checked_sub(age).unwrap_or(now);
        let private = key.is_private();
        let called_off = Arc::new(CalledOff::default());
        let off = Arc::clone(&called_off);
        let fate = Arc::<Fate>::default();
        let slot = Slot {
            id,
            isolation,
            private,
            since,
            used: now,
            opened: opened.clone(),
            called_off,
            fate: Arc::clone(&fate),
        };
        state.slots.insert(key.clone(), slot);
        let (this, wanted) = (Arc::clone(self), wanted.clone());
        self.life.spawn(Task::Opening, async move {
            let outcome = select! {
                biased;
                lost = off.called_off() => Err(lost),
                outcome = Box::pin(this.connect(&key, &wanted, spare)) => outcome,
            };
            this.opened(&key, id, &wanted, outcome, fate, &opening);
        });
        opened
    }

    /// Opens an instance within the budget of a start, which begins when it is its turn.
    async fn connect(
        &self,
        key: &InstanceKey,
        wanted: &Wanted,
        spare: Option<stdio::Spare>,
    ) -> Result<Instance, Lost> {
        let turn = if spare.is_none() { self.turn().await } else { None };
        let budget = Deadline::after(self.config.start_timeout);
        let opened = match budget.bound(Box::pin(self.connect_now(key, wanted, budget, spare))).await {
            Ok(opened) => opened,
            Err(Passed) => Err(Lost {
                timed_out: true,
                ..Lost::new(Sent::No, format!("it was not ready within {:?}", self.config.start_timeout))
            }),
        };
        if let (Ok(_), Some(turn)) = (&opened, turn) {
            turn.installed();
        }
        opened
    }

    async fn connect_now(
        &self,
        key: &InstanceKey,
        wanted: &Wanted,
        budget: Deadline,
        spare: Option<stdio::Spare>,
    ) -> Result<Instance, Lost> {
        let name = Arc::clone(&self.name);
        let outlet = Arc::clone(&self.outlet);
        let private = key.is_private();
        let face = if private { Arc::clone(&wanted.face) } else { wanted.face.without_capabilities() };
        let owner = key.owner();
        let say: Arc<dyn Fn(Broadcast) + Send + Sync> =
            Arc::new(move |broadcast| outlet(&name, &owner, broadcast));
        let (pin, spoken, wire) = (self.pin(), self.spoken(), wanted.wire);
        let plan = Plan { pin, spoken, wire, face, say, exclusive: private, budget };
        let (instance, spoken) = match &self.connector {
            Connector::Stdio(connector) => {
                let tails = |pid, tail| self.keep_tail(pid, tail);
                let (opened, spoken) = connector.open(&plan, spare, &self.life, &tails).await;
                (opened.map(Instance::Channel), spoken)
            }
            Connector::Http(connector) => {
                let (opened, spoken) = connector.open(&plan, &self.life).await;
                (opened.map(Instance::Http), spoken)
            }
            Connector::Sse(connector) => {
                let (opened, spoken) = connector.open(&plan, &self.life).await;
                (opened.map(Instance::Channel), spoken)
            }
            Connector::WebSocket(connector) => {
                let (opened, spoken) = connector.open(&plan, &self.life).await;
                (opened.map(Instance::Channel), spoken)
            }
            #[cfg(test)]
            Connector::Script(connector) => (Ok(Instance::Script(connector.open())), Spoken::default()),
        };
        self.remember(spoken);
        instance
    }

    /// What becomes of an opening: the instance is kept and watched, or ended where nobody wants it any more or
    /// there is one like it already. Whoever waits for it is told.
    fn opened(
        self: &Arc<Self>,
        key: &InstanceKey,
        id: u64,
        wanted: &Wanted,
        outcome: Result<Instance, Lost>,
        fate: Arc<Fate>,
        opening: &watch::Sender<Option<Result<Instance, Lost>>>,
    ) {
        let instance = match outcome {
            Ok(instance) => instance,
            Err(lost) => {
                tracing::warn!(upstream = &*self.name, reason = lost.why, "an instance could not be opened");
                let mine = {
                    let mut state = self.lock();
                    let mine = state.is(key, id);
                    if mine {
                        state.slots.remove(key);
                    }
                    if !mine || lost.crowded {
                        state.brake.called_off();
                    }
                    mine
                };
                if mine && !lost.crowded {
                    self.failed_to_start(lost.why.clone());
                }
                opening.send_replace(Some(Err(lost)));
                self.room.notify_waiters();
                return;
            }
        };
        let kept = {
            let mut state = self.lock();
            // The opening may have taught that the upstream speaks one era only: then that is its key.
            let (learnt, _) = self.key_for(&state, wanted);
            let other = state.slots.get(&learnt).filter(|slot| slot.id != id && slot.usable());
            let twin = other.and_then(Slot::instance);
            if let (None, Some(other)) = (&twin, other) {
                other.called_off.call_off("one like it was opened first");
            }
            let mine = if state.is(key, id) { state.slots.remove(key) } else { None };
            match (twin, mine) {
                (Some(twin), Some(_)) => {
                    opening.send_replace(Some(Ok(twin)));
                    None
                }
                (None, Some(slot)) => {
                    // Told before anybody else can look: from now on whoever takes it out finds the instance.
                    opening.send_replace(Some(Ok(instance.clone())));
                    state.slots.insert(learnt.clone(), slot);
                    Some(learnt)
                }
                (_, None) => {
                    opening.send_replace(Some(Err(Lost::new(Sent::No, "its start was called off"))));
                    None
                }
            }
        };
        let Some(key) = kept else {
            self.lock().brake.called_off();
            instance.end("nobody wants it any more");
            self.room.notify_waiters();
            return;
        };
        if wanted.followed {
            instance.follow();
        }
        let this = Arc::clone(self);
        self.life.spawn(Task::Follow, async move { this.watch(&key, id, &instance, &fate).await });
    }

    /// Follows an instance from its opening until nothing is left of it.
    async fn watch(self: &Arc<Self>, key: &InstanceKey, id: u64, instance: &Instance, fate: &Fate) {
        let since = Instant::now();
        let ends = async {
            select! {
                biased;
                () = instance.gone() => None,
                why = instance.unfit() => Some(why),
            }
        };
        tokio::pin!(ends);
        let unfit = select! {
            biased;
            unfit = &mut ends => unfit,
            // It does come up.
            () = instance.has_answered() => {
                self.lock().brake.lasted();
                ends.await
            }
            () = sleep_until(since + LASTING) => {
                self.lock().brake.lasted();
                ends.await
            }
        };
        {
            let mut state = self.lock();
            if state.is(key, id) {
                state.take(key);
            }
        }
        match unfit {
            Some(why) => {
                tracing::warn!(upstream = &*self.name, pid = instance.pid(), why, "an instance is replaced");
                self.lock().brake.called_off();
                self.noted(Some(Failure::now("answer", why.clone())));
                drain(instance, &why, self.longest_call()).await;
            }
            None if fate.dismissed.load(Ordering::Relaxed) => self.lock().brake.called_off(),
            None => {
                self.noted(Some(Failure::now("run", instance.why_gone())));
                if !fate.counted.swap(true, Ordering::Relaxed) {
                    self.brake_for(&mut self.lock(), instance, since.elapsed());
                }
            }
        }
        instance.ended().await;
        self.lock().leaving.remove(&id);
        self.room.notify_waiters();
    }

    /// How long a call can be under way, questions to its caller included; a stream of changes may be longer.
    fn longest_call(&self) -> Duration {
        let tools = self.config.tools.values();
        let asks = tools.filter_map(|tool| tool.terms.ask_limit).chain(self.config.terms.ask_limit);
        let longest = *self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest + asks.fold(ASK_LIMIT, Duration::max)
    }

    /// Tells the brake of an instance that was found ended, unless it is ended on purpose or has been told already.
    fn count(&self, state: &mut State, slot: &Slot) {
        let Some(instance) = slot.instance().filter(Instance::is_lost) else { return };
        if !slot.fate.dismissed.load(Ordering::Relaxed) && !slot.fate.counted.swap(true, Ordering::Relaxed) {
            self.brake_for(state, &instance, slot.since.elapsed());
        }
    }

    /// Tells the brake of an instance that ended by itself. What has answered does come up, whatever a call then did to
    /// it.
    fn brake_for(&self, state: &mut State, instance: &Instance, uptime: Duration) {
        if matches!(self.connector, Connector::Stdio(_)) {
            let uptime = if instance.answered() { LASTING } else { uptime };
            state.brake.ended(Instant::now(), uptime, chance());
        }
    }

    /// A start failed.
    fn failed_to_start(&self, why: String) {
        self.noted(Some(Failure::now("start", why)));
        if matches!(self.connector, Connector::Stdio(_)) {
            self.lock().brake.ended(Instant::now(), Duration::ZERO, chance());
        }
    }

    /// Which other calls would have the same instance as this one; `None` where each has its own.
    pub(crate) fn share_key(&self, wanted: &Wanted) -> Option<ShareKey> {
        if self.sharing() == Sharing::Call {
            return None;
        }
        let (key, _) = self.key_for(&self.lock(), wanted);
        Some(ShareKey::new(self.name(), key))
    }

    fn key_for(&self, state: &State, wanted: &Wanted) -> (InstanceKey, Isolation) {
        let isolation = Isolation::of(self.sharing(), wanted);
        let era = state.spoken.towards(self.pin(), &wanted.wire);
        (InstanceKey::new(isolation.clone(), wanted, self.sharing(), era), isolation)
    }

    fn keep_tail(&self, pid: u32, tail: seawall_proc::Tail) {
        let mut state = self.lock();
        state.tails.push_back((pid, tail));
        let instances = state.slots.len() + state.leaving.len() + state.spares.len();
        while state.tails.len() > KEPT_LOGS.max(instances) {
            state.tails.pop_front();
        }
    }
}

/// Takes calls away from an instance and waits for those under way, as long as one can be; a stream of changes, which can
/// be longer, ends with it.
async fn drain(instance: &Instance, why: &str, longest: Duration) {
    instance.drain(why);
    if timeout(longest, instance.gone()).await.is_err() {
        instance.end(why);
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    f64::from(random_byte()) / 255.0
}

/// What a call is told that comes while a server is left alone.
fn left_alone(braked: Braked) -> Lost {
    let Braked { times, next } = braked;
    let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
    let when = match wait {
        Some(wait) => format!("it is tried again in {:.1} s", wait.as_secs_f64()),
        None => String::from("it is being tried again now"),
    };
    let why = format!("it did not stay up, {times} times in a row; {when}");
    Lost { retry_after: Some(wait.unwrap_or(Duration::from_secs(1))), ..Lost::new(Sent::No, why) }
}
