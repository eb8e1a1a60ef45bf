//! A stream of messages in each direction that many requests share: what a child's pipes, a stream of events and a
//! WebSocket have in common.
//!
//! The carrier under it has two duties. Its reader gives every message to `Instance::hear`, which never waits, and
//! waits for nothing but the other side itself. Its writer empties two queues: requests wait for room in theirs,
//! within their deadline; cancels and answers have a lane of their own that requests cannot fill. What a call is told
//! (progress, log) is dropped and counted when its queue is full, but room for its response is set aside beforehand.
//!
//! Any message is a sign of life. A call that ran out of time while nothing was answered puts the instance in doubt: it
//! is pinged, and if nothing at all comes it is hung. One that goes on talking and answers nothing, call after call, is
//! deaf. Either is unfit, and another takes its place.

mod exchange;
mod mailbox;
mod oddities;
mod opening;
#[cfg(test)]
mod tests;

use super::{Broadcast, Heard, Lost, Plan, Sent, response::excerpt};
use crate::life::{Life, Task};
use bytes::Bytes;
pub use exchange::Exchange;
use mailbox::{Way, mailbox};
use oddities::Counts;
pub use oddities::Oddities;
pub(super) use opening::{Early, Guard, Starting, early, open};
use seawall_proto::{
    Ask, Message, Raw, Reply, ReplySlot, Request,
    era::peer::{Incoming, Minted, Outgoing, Peer, Topic, answer_upstream},
    event::Answer,
    jsonrpc::{Malformed, Members},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Requests that may wait for the carrier to take them.
const DATA_QUEUE: usize = 64;
/// Cancels, answers and notifications that may wait for it; beyond that they are dropped.
const CONTROL_QUEUE: usize = 256;
/// How long an instance in doubt has to say anything at all.
const DOUBT: Duration = Duration::from_secs(5);
/// How long it may say things without answering any, and how many calls that has to have cost, before it is taken to be
/// deaf.
const DEAF: Duration = Duration::from_secs(15);
const DEAF_CALLS: u32 = 3;

/// An open instance on a channel.
pub struct Instance {
    peer: Peer,
    /// The process at the other end, where it is a child.
    pid: Option<u32>,
    /// What it is, for the log.
    place: Box<str>,
    data: mpsc::Sender<Data>,
    control: mpsc::Sender<Bytes>,
    calls: Mutex<Calls>,
    /// Whether it takes no new calls although those under way go on.
    draining: AtomicBool,
    gone: CancellationToken,
    ending: CancellationToken,
    /// Messages that have come. Only the reader writes it.
    heard: AtomicU64,
    /// Requests that it has answered. Only the reader writes it.
    answers: AtomicU64,
    /// It has given its first answer.
    answered: CancellationToken,
    /// Calls in a row that ran out of time while it answered nothing.
    unanswered: AtomicU32,
    doubt: Notify,
    unfit: CancellationToken,
    /// Why it is unfit, once it is.
    unfit_for: OnceLock<String>,
    /// Nothing is left of the process at the other end, where there is one.
    over: CancellationToken,
    odd: Counts,
    say: Arc<dyn Fn(Broadcast) + Send + Sync>,
    /// Whether messages about no call in particular have a conversation to go to.
    exclusive: bool,
    /// Whether it was opened for a caller that has no stream but those of its calls.
    calls_only: bool,
    pub(super) logs: AtomicBool,
}

#[derive(Debug, Default)]
struct Calls {
    /// The last id that was issued. Ids are never used again, so any up to it that is not open is over.
    last: u64,
    open: HashMap<u64, Pending>,
    /// The id of the last ping.
    pinged: Option<u64>,
    /// Why no new calls are taken, while those under way go on.
    draining: Option<String>,
    /// Why no more calls are taken, once none are.
    closed: Option<String>,
}

/// A request whose answer will be routed.
#[derive(Debug)]
struct Pending {
    heard: Way,
    /// Whether only the end of it is still of interest.
    recalled: bool,
}

/// A request for the carrier.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) id: u64,
    pub(super) body: Bytes,
}

/// What the carrier is to carry away.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) data: mpsc::Receiver<Data>,
    pub(super) control: mpsc::Receiver<Bytes>,
}

impl Queues {
    /// The next message, control first. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            message = self.control.recv() => message,
            data = self.data.recv() => data.map(|data| data.body),
        }
    }

    /// The next message, if one is there already.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        self.control.try_recv().or_else(|_| self.data.try_recv().map(|data| data.body)).ok()
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Instance {
    /// An instance and what its carrier is to carry. `place` names it in the log.
    pub(super) fn new(peer: Peer, pid: Option<u32>, place: &str, plan: &Plan) -> (Arc<Self>, Queues) {
        let (data, data_queue) = mpsc::channel(DATA_QUEUE);
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let has_session = peer.has_session();
        let instance = Self {
            peer,
            pid,
            place: place.into(),
            data,
            control,
            calls: Mutex::default(),
            draining: AtomicBool::new(false),
            gone: CancellationToken::new(),
            ending: CancellationToken::new(),
            heard: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            answered: CancellationToken::new(),
            unanswered: AtomicU32::new(0),
            doubt: Notify::new(),
            unfit: CancellationToken::new(),
            unfit_for: OnceLock::new(),
            over: CancellationToken::new(),
            odd: Counts::default(),
            say: Arc::clone(&plan.say),
            exclusive: plan.exclusive(),
            calls_only: plan.exclusive() && plan.wire.close_cancels() && has_session,
            logs: AtomicBool::new(false),
        };
        (Arc::new(instance), Queues { data: data_queue, control: control_queue })
    }

    /// Looks after it in a task of its own until it is gone: finds out whether it lives where that is in doubt, and
    /// ends it when Seawall stops, after the calls under way.
    pub(super) fn tend(self: &Arc<Self>, life: &Life) {
        let (this, seawall) = (Arc::clone(self), life.clone());
        life.spawn(Task::Instance, async move {
            let stop = async {
                seawall.draining().await;
                // Whoever drains ends this task when the grace is over.
                while this.in_flight() > 0 {
                    sleep(Duration::from_millis(20)).await;
                }
                this.end("Seawall is stopping");
            };
            tokio::select! {
                () = this.gone.cancelled() => {}
                () = stop => {}
                () = this.settle_doubts() => {}
            }
        });
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().open.values().filter(|pending| !pending.recalled).count()
    }

    pub(super) fn oddities(&self) -> Oddities {
        self.odd.read()
    }

    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Completes when its carrier is to end it.
    pub(super) async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Whether it is gone, calls under way included.
    pub(super) fn is_lost(&self) -> bool {
        self.gone.is_cancelled()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || self.gone.is_cancelled() || self.ending.is_cancelled()
    }

    /// Completes with the reason when another instance should take its place.
    pub(super) async fn unfit(&self) -> String {
        self.unfit.cancelled().await;
        self.unfit_for.get().cloned().unwrap_or_default()
    }

    /// Says that another instance should take its place. The first reason counts.
    pub(super) fn declare_unfit(&self, why: String) {
        let _ = self.unfit_for.set(why);
        self.unfit.cancel();
    }

    /// Completes when nothing is left of it, its process included.
    pub(super) async fn ended(&self) {
        if self.pid.is_some() { self.over.cancelled().await } else { self.gone().await }
    }

    /// Whether it has answered anything since it was opened.
    pub(super) fn answered(&self) -> bool {
        self.answers() > 0
    }

    /// Completes when it has given its first answer.
    pub(super) async fn has_answered(&self) {
        self.answered.cancelled().await;
    }

    /// Notes that it has answered something.
    fn has_answer(&self) {
        let before = self.answers();
        self.answers.store(before.wrapping_add(1), Ordering::Relaxed);
        if before == 0 {
            self.answered.cancel();
        }
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Nothing is left of its process.
    pub(super) fn is_over(&self) {
        self.over.cancel();
    }

    /// Why it takes no calls, where it takes none.
    pub(super) fn why_gone(&self) -> String {
        self.why()
    }

    pub(super) fn end(&self, why: &str) {
        self.close(why);
        self.ending.cancel();
    }

    /// Takes no new calls, and ends when the last of those under way has.
    pub(super) fn drain(&self, why: &str) {
        self.draining.store(true, Ordering::Relaxed);
        let idle = {
            let mut calls = self.lock();
            calls.draining.get_or_insert_with(|| why.to_owned());
            calls.open.is_empty()
        };
        if idle {
            self.end(why);
        }
    }

    /// Takes no more calls and ends those under way.
    pub(super) fn close(&self, why: &str) {
        let open = {
            let mut calls = self.lock();
            calls.closed.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut calls.open)
        };
        for pending in open.into_values() {
            pending.lose(Lost::new(Sent::Maybe, why));
        }
        self.gone.cancel();
    }

    pub(super) fn notify(&self, message: Outgoing) {
        if self.control.try_send(message.body).is_err() {
            tracing::debug!(place = %self.place, "a notification was dropped: the server does not read");
        }
    }

    pub(super) fn exchange(
        this: &Arc<Self>,
        request: &Request,
        subject: Option<&str>,
    ) -> Result<Exchange, Reply> {
        let id = this.lock().issue();
        let outgoing = this.peer.outgoing(request, subject, Some(Minted { id }), Vec::new())?;
        let (heard, queue) = mailbox();
        let pending = Pending { heard, recalled: false };
        let taken = {
            let mut calls = this.lock();
            match calls.refuses().map(str::to_owned) {
                None => {
                    calls.open.insert(id, pending);
                    true
                }
                Some(why) => {
                    drop(calls);
                    pending.lose(Lost::new(Sent::No, why));
                    false
                }
            }
        };
        // What was refused is told so by its queue, and must not reach a carrier that still carries for others.
        Ok(Exchange::new(Arc::clone(this), id, taken.then_some(outgoing.body), queue))
    }

    /// Takes one message of the other side. Never waits.
    pub(super) fn hear(&self, text: &Bytes) {
        match Message::parse(text.clone()) {
            Ok(message) => {
                self.lives();
                self.route(message);
            }
            Err(malformed) => match mended(text).and_then(|text| Message::parse(text).ok()) {
                Some(message) => {
                    self.odd.garbled(&self.place);
                    self.lives();
                    self.route(message);
                }
                None => self.skip(text, &malformed),
            },
        }
    }

    /// A message over the limit: nobody can tell whose answer it was, so it is the only call's, or nobody's.
    pub(super) fn too_long(&self, bytes: usize) {
        tracing::warn!(place = %self.place, bytes, "a message over the limit was dropped");
        self.odd.oversize();
        let only = {
            let calls = self.lock();
            if calls.open.len() == 1 { calls.open.keys().next().copied() } else { None }
        };
        if let Some(id) = only {
            let why = format!("its answer was larger than the limit ({bytes} bytes)");
            self.lose(id, Lost { too_large: true, ..Lost::nonsense(why) });
        }
    }

    /// Ends one call.
    pub(super) fn lose(&self, id: u64, lost: Lost) {
        if let Some(pending) = self.take(id) {
            pending.lose(lost);
        }
    }

    /// The way to a call that is still open: it is closed once the call has given up.
    pub(super) fn way_to(&self, id: u64) -> Option<Way> {
        self.lock().open.get(&id).map(|pending| pending.heard.clone())
    }

    fn route(&self, message: Message) {
        match self.peer.incoming(&message) {
            Incoming::Response { id } => match id.and_then(|id| self.take(id)) {
                Some(pending) => {
                    self.has_answer();
                    pending.finish(Ok(Heard::Response(message)));
                }
                None => self.unexpected(id),
            },
            Incoming::About { id, topic } => {
                let heard = self
                    .lock()
                    .open
                    .get(&id)
                    .filter(|pending| !pending.recalled)
                    .map(|pending| pending.heard.clone());
                if let Some(heard) = heard {
                    self.tell(&heard, Heard::Notification(message, topic));
                }
            }
            Incoming::Broadcast(Topic::Log) if self.calls_only => {
                // It names no call; only where there is one alone is it that one's.
                if let Some(heard) = self.only_call() {
                    self.tell(&heard, Heard::Notification(message, Topic::Log));
                }
            }
            Incoming::Broadcast(topic) => (self.say)(Broadcast::Notification(message, topic)),
            Incoming::Ping => drop(self.control.try_send(answer_upstream(&message, None))),
            Incoming::Ask => self.ask(message),
        }
    }

    /// Tells a call, if it has room to be told.
    fn tell(&self, way: &Way, heard: Heard) {
        if !way.tell(heard) {
            self.odd.dropped(&self.place);
        }
    }

    /// A question: it belongs to the one call under way, or to the conversation; with several conversations on one
    /// channel nobody can tell whose it is.
    fn ask(&self, message: Message) {
        let control = self.control.clone();
        let id = message.id();
        let question = message.clone();
        let reply = ReplySlot::new(move |answer| {
            let body = match answer {
                Answer::Response(response) => response.with_id(id.as_ref().map_or("null", |id| id.as_str())),
                Answer::Refused(why) => answer_upstream(&question, Some(why)),
            };
            let _ = control.try_send(body);
        });
        if !self.exclusive {
            reply.answer(Answer::Refused(
                "this server is shared between clients, so it can ask none of them; set sharing = \"session\"",
            ));
            return;
        }
        let ask = Ask { message, reply };
        match self.only_call() {
            // A full queue drops the ask, which refuses it.
            Some(heard) => self.tell(&heard, Heard::Ask(ask)),
            None => (self.say)(Broadcast::Ask(ask)),
        }
    }

    /// The way to the one call that is under way, where there is exactly one.
    fn only_call(&self) -> Option<Way> {
        let calls = self.lock();
        let mut open = calls.open.values().filter(|pending| !pending.recalled);
        match (open.next(), open.next()) {
            (Some(pending), None) => Some(pending.heard.clone()),
            _ => None,
        }
    }

    /// A response that no open call is waiting for.
    fn unexpected(&self, id: Option<u64>) {
        let (last, pinged) = {
            let calls = self.lock();
            (calls.last, calls.pinged)
        };
        match id {
            Some(id) if pinged == Some(id) => self.has_answer(),
            Some(id) if id <= last => {
                self.has_answer();
                self.odd.late(&self.place);
            }
            Some(_) | None => self.odd.unknown(&self.place),
        }
    }

    /// What is no message: the malformed answer of an open call ends it, anything else is passed over.
    fn skip(&self, text: &Bytes, malformed: &Malformed) {
        if text.trim_ascii().is_empty() {
            return;
        }
        match answers(text).and_then(|id| self.take(id)) {
            Some(pending) => {
                self.lives();
                pending.lose(Lost::nonsense(format!("its answer is {malformed}")));
            }
            None => self.odd.skipped(&self.place, excerpt(text), malformed),
        }
    }

    /// Takes a call out of the table; the last one of an instance that drains ends it.
    fn take(&self, id: u64) -> Option<Pending> {
        let (pending, drained) = {
            let mut calls = self.lock();
            let pending = calls.open.remove(&id);
            let drained = if calls.open.is_empty() { calls.draining.clone() } else { None };
            (pending, drained)
        };
        if let Some(why) = drained {
            self.end(&why);
        }
        pending
    }

    /// Notes a sign of life.
    fn lives(&self) {
        self.heard.store(self.heard().wrapping_add(1), Ordering::Relaxed);
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Answers doubts one after the other, until one is confirmed. Never completes.
    async fn settle_doubts(&self) {
        // Since when it has answered nothing, and how many answers it had given by then.
        let mut silent = None;
        let why = loop {
            self.doubt.notified().await;
            let (heard, answers) = (self.heard(), self.answers());
            self.ping();
            sleep(DOUBT).await;
            if self.heard() == heard {
                let why = "it gave no sign of life after a call had run out of time, not even to a ping";
                break format!("{why} within {DOUBT:?}");
            }
            if self.answers() != answers {
                silent = None;
                self.unanswered.store(0, Ordering::Relaxed);
                continue;
            }
            let (since, before) = *silent.get_or_insert_with(|| (Instant::now(), answers));
            let unanswered = self.unanswered.load(Ordering::Relaxed);
            if before != answers {
                silent = None;
                self.unanswered.store(0, Ordering::Relaxed);
            } else if since.elapsed() >= DEAF && unanswered >= DEAF_CALLS {
                break format!(
                    "it talks, but {unanswered} calls in a row ran out of time and it answered nothing"
                );
            }
        };
        self.declare_unfit(why);
        std::future::pending::<()>().await;
    }

    /// Asks for a sign of life. Any answer is one, also that there is no such method.
    fn ping(&self) {
        let id = {
            let mut calls = self.lock();
            let id = calls.issue();
            calls.pinged = Some(id);
            id
        };
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        // One that finds no room needs none: what is before it was not read either.
        drop(self.control.try_send(body.into()));
    }

    /// Why it takes no calls.
    fn why(&self) -> String {
        self.lock().refuses().unwrap_or("it takes no more requests").to_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn issue(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn refuses(&self) -> Option<&str> {
        self.closed.as_deref().or(self.draining.as_deref())
    }
}

impl Pending {
    fn finish(self, end: Result<Heard, Lost>) {
        self.heard.end(end);
    }

    fn lose(self, lost: Lost) {
        self.finish(Err(lost));
    }
}

impl Drop for Pending {
    /// Nothing more will be said about it.
    fn drop(&mut self) {
        self.heard.hang_up();
    }
}

/// What is not UTF-8, with U+FFFD for what is not.
fn mended(text: &Bytes) -> Option<Bytes> {
    match String::from_utf8_lossy(text) {
        Cow::Owned(mended) => Some(mended.into()),
        Cow::Borrowed(_) => None,
    }
}

/// The minted id that something answers which is JSON, yet no message.
fn answers(text: &Bytes) -> Option<u64> {
    let value = Raw::parse(text.clone()).ok()?;
    let members = Members::parse(value.as_str()).ok()?;
    // A line of somebody's log may be an object with an id, too.
    let meant = members.get("jsonrpc").or_else(|| members.get("result")).is_some();
    if !meant || members.get("method").is_some() {
        return None;
    }
    members.get("id")?.parse().ok()
}
