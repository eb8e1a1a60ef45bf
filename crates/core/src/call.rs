//! The call path, as one page.
//!
//! [`Gateway::call`] is what one caller's request goes through; `run` is the work that is done for it, on
//! a task of its own. What ends a call, when, and who is told, is in `docs/design/call-path.md`.

pub mod admit;
mod attempt;
mod attempts;
pub mod auth;
pub mod breaker;
pub mod budget;
pub mod cache;
pub(crate) mod flight;
mod heartbeat;
pub mod idempotency;
pub mod journal;
pub(crate) mod large;
pub mod learned;
mod line;
pub mod park;
pub mod rate;
mod resolve;
pub mod track;

use crate::{Gateway, config::Duplicates, life::Task, time::Clock};
use attempt::Attempt;
use attempts::{Key, keep_end};
use auth::Caller;
use flight::Joined;
use heartbeat::Heartbeat;
use journal::Journal;
pub use line::InterestHandle;
use line::{CallerSide, WorkSide, line};
use resolve::Target;
use seawall_proto::{Code, Event, Fault, Reply, Request, Stage, era::cross};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How long the clock may stand still for questions to the caller, where nothing else is set.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long an attempt's place may be held past its deadline: for the upstream to take a cancel in.
const OVER: Duration = Duration::from_secs(2);
/// How long past its own deadline a call waits for the end of work that it shares, which may be due at that very moment.
const AFTER: Duration = Duration::from_millis(100);

/// Which upstreams a request can reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// All of them, their tools under public names.
    All,
    /// Those of the group with this name, likewise.
    Group(Arc<str>),
    /// One, its tools under their own names.
    One(Arc<str>),
}

/// One caller's request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// The conversation it belongs to, when it names one.
    pub conversation: Option<Arc<str>>,
    /// Which upstreams it can reach.
    pub endpoint: Endpoint,
    /// What is asked.
    pub request: Arc<Request>,
    /// How long its caller waits, when that is limited.
    pub limit: Option<Duration>,
    /// How often its caller hears that it goes on, if it asked to hear of progress.
    pub heartbeat: Option<Duration>,
    /// Whether the conversation's own messages have somebody to go to.
    pub followed: bool,
    /// The key under which its caller may repeat it, as it was given; only a tool's call has one.
    pub idempotency: Option<Arc<str>>,
}

/// Whether anybody still wants a call's end. It only ever falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Its caller took it back.
    Cancelled,
    /// Its caller has gone without a word.
    Left,
    /// Its caller waits.
    Wanted,
}

/// The answer to a call: events, the last of which is its end. Dropped before that, it takes its caller's interest
/// away, by the rule of the caller's era.
#[derive(Debug)]
pub struct Answer {
    line: CallerSide,
    /// The request it answers now, where that is not the one that began the call.
    readdress: Option<Arc<Request>>,
    heartbeat: Option<Heartbeat>,
    /// How often the tool is to tell that a call of it goes on, whoever calls.
    beats: Option<Duration>,
    journal: Option<Arc<Journal>>,
    waits_until: Option<Instant>,
    on_drop: Interest,
    ended: bool,
}

impl Gateway {
    /// Answers one caller.
    pub fn call(self: &Arc<Self>, call: Call) -> Answer {
        if large::reads(&call.request) {
            return self.read_result(call);
        }
        let target = match self.resolve(&call).and_then(|target| self.authorise(&call, target)) {
            Ok(target) => target,
            Err(fault) => return self.refuse(&call, None, Err(fault)),
        };
        if let Err(end) = target.validate(&call.request) {
            return self.refuse(&call, Some(&target), end);
        }
        if let Err(fault) = self.within_rates(&call, &target) {
            return self.refuse(&call, Some(&target), Err(fault));
        }
        self.keep_level(&call, &target.upstream);
        let journal = Arc::new(target.journal(&call, Clock::new(target.timeout, target.ask_limit)));
        let (answer, mut attempt) = match self.join(&call, &target, &journal) {
            Ok(begun) => begun,
            Err(answer) => return answer,
        };
        let this = Arc::clone(self);
        self.life.spawn(Task::Attempt, async move {
            let end = this.run(&call, &target, &mut attempt).await;
            let end = end.map_err(|fault| journal.complete(fault));
            attempt.free_caller_half();
            journal.ended(&this.telemetry, &end);
            for landed in attempt.end(end) {
                landed.journal.ended(&this.telemetry, &landed.end);
            }
            // The caller has its answer; what is left is to see the upstream through.
            attempt.over().await;
            target.release();
        });
        answer
    }

    /// Does the work of one call: takes a place, and tries until it is answered or must not try again.
    async fn run(&self, call: &Call, target: &Target, attempt: &mut Attempt) -> Result<Reply, Fault> {
        let journal = attempt.journal();
        let clock = &journal.clock;
        if let Some(kept) = self.kept(call, target) {
            return self.fit(call, target, clock, kept).await;
        }
        if !target.control {
            attempt.reach(Stage::Admit);
            attempt.admit(self, target.claim(call), OVER).await?;
        }
        let mut pending = None;
        if let Some(key) = &call.idempotency {
            match Box::pin(self.begin_under_key(call, key, clock)).await? {
                Key::First(first) => pending = Some(first),
                Key::Ended(reply) => return self.fit(call, target, clock, reply).await,
            }
        }
        let end = self.attempts(call, target, attempt).await;
        let end = end.map_err(|fault| attempt.complete(fault));
        if let Some(pending) = pending {
            Box::pin(keep_end(&self.life, pending, &end, clock)).await;
        }
        self.fit(call, target, clock, end?).await
    }

    /// Begins the work of a call, unless an equal one is under way whose work it shares or keeps it from being done: then
    /// its answer is there already.
    fn join(
        &self,
        call: &Call,
        target: &Target,
        journal: &Arc<Journal>,
    ) -> Result<(Answer, Attempt), Answer> {
        let Some(key) = target.flight(call) else { return Ok(Answer::begin(call, target, journal)) };
        let refuse = target.duplicates() == Duplicates::Reject;
        let about = call.idempotency.as_ref().map(|_| idempotency::asked(call));
        let mut side = None;
        let line = || {
            let (caller, line) = CallerSide::follower();
            side = Some(caller);
            line
        };
        let joined = self.flights.join(key, about, refuse, journal, line);
        let refused = match (joined, side) {
            (Joined::Began(flight), _) => {
                let (answer, mut attempt) = Answer::begin(call, target, journal);
                attempt.share(flight);
                return Ok((answer, attempt));
            }
            (Joined::Follows, Some(side)) => {
                self.telemetry.shared(target.upstream.name());
                return Err(Answer::following(side, call, target, journal));
            }
            (Joined::Refused(first), _) => flight::duplicate(&first),
            (Joined::Other | Joined::Follows, _) => idempotency::other(),
        };
        Err(self.refuse(call, Some(target), Err(refused)))
    }

    /// Ends a call that never became work.
    fn refuse(&self, call: &Call, target: Option<&Target>, end: Result<Reply, Fault>) -> Answer {
        let clock = Clock::new(Duration::ZERO, Duration::ZERO);
        let journal = match target {
            Some(target) => target.journal(call, clock),
            None => resolve::unresolved(call, clock),
        };
        let end = end.map_err(|fault| journal.complete(fault));
        journal.ended(&self.telemetry, &end);
        let mut answer = Answer::ready(end);
        answer.journal = Some(Arc::new(journal));
        answer
    }
}

impl Answer {
    /// An answer that is there already.
    pub fn ready(end: Result<Reply, Fault>) -> Self {
        let (answer, mut work) = Self::own();
        drop(work.end(Event::End(end)));
        answer
    }

    /// The two ends of an answer of Seawall's own.
    fn own() -> (Self, WorkSide) {
        let (line, work) = line();
        let answer = Self {
            line,
            readdress: None,
            heartbeat: None,
            beats: None,
            journal: None,
            waits_until: None,
            on_drop: Interest::Left,
            ended: false,
        };
        (answer, work)
    }

    /// The two ends of a call's answer.
    fn begin(call: &Call, target: &Target, journal: &Arc<Journal>) -> (Self, Attempt) {
        let (line, work) = line();
        (Self::to(line, call, target, journal), Attempt::new(work, Arc::clone(journal)))
    }

    /// The answer to a call that shares the work of another.
    fn following(line: CallerSide, call: &Call, target: &Target, journal: &Arc<Journal>) -> Self {
        let mut answer = Self::to(line, call, target, journal);
        answer.readdress = Some(Arc::clone(&call.request));
        // The clock of the work may stand still for a question to the call that began it; this one's does not.
        let own = Instant::now() + journal.clock.budget() + AFTER;
        answer.waits_until = answer.waits_until.or(Some(own));
        answer
    }

    fn to(line: CallerSide, call: &Call, target: &Target, journal: &Arc<Journal>) -> Self {
        let beats = target.terms.heartbeat;
        Self {
            line,
            readdress: None,
            heartbeat: Heartbeat::new(&call.request, beats.or(call.heartbeat)),
            beats,
            journal: Some(Arc::clone(journal)),
            // A limit that is no shorter than the work's own adds nothing but a second answer to choose from.
            waits_until: call
                .limit
                .filter(|limit| *limit < journal.clock.budget())
                .map(|limit| Instant::now() + limit),
            on_drop: if call.request.wire().close_cancels() { Interest::Cancelled } else { Interest::Left },
            ended: false,
        }
    }

    /// What is known of the call; nothing of an answer of Seawall's own.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    /// The next event; after [`Event::End`] there is none, and asking again waits for ever. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        if self.ended {
            return std::future::pending().await;
        }
        let event = self.heard().await.unwrap_or_else(|| {
            let text = "the call ended without an answer, which is a fault of Seawall; its log says more.";
            let fault = Fault::new(Code::Internal, Stage::Answer, text);
            Event::End(Err(self
                .journal
                .as_ref()
                .map_or_else(|| fault.clone(), |journal| journal.complete(fault.clone()))))
        });
        self.ended = matches!(event, Event::End(_));
        match &self.readdress {
            Some(request) => readdressed(request, event),
            None => event,
        }
    }

    /// What comes first: word of the work, the caller's limit, or a sign of life. `None` when the work was dropped.
    async fn heard(&mut self) -> Option<Event> {
        let never = std::future::pending;
        loop {
            let (limit, due) = (self.waits_until, self.heartbeat.as_ref().map(|beats| beats.due));
            tokio::select! {
                biased;
                event = self.line.next() => {
                    if let (Some(Event::Progress(message)), Some(beats)) = (&event, &mut self.heartbeat)
                        && !beats.rises(message)
                    {
                        continue;
                    }
                    return event;
                }
                () = async { match limit { Some(limit) => sleep_until(limit).await, None => never().await } } => {
                    return Some(Event::End(Err(self.waited_out())));
                }
                () = async { match due { Some(due) => sleep_until(due).await, None => never().await } } => {
                    if let Some(beat) = self.beat() {
                        return Some(Event::Progress(beat));
                    }
                }
            }
        }
    }

    fn beat(&mut self) -> Option<bytes::Bytes> {
        let ahead = self.journal.as_ref().and_then(|journal| journal.ahead());
        self.heartbeat.as_mut()?.beat(ahead)
    }

    /// The same answer for a request that goes on with the call.
    #[must_use]
    fn for_call(mut self, call: &Call) -> Self {
        self.waits_until = call.limit.map(|limit| Instant::now() + limit);
        self.heartbeat = Heartbeat::new(&call.request, self.beats.or(call.heartbeat));
        self.readdress = Some(Arc::clone(&call.request));
        self
    }

    /// Takes the call back, through a handle that outlives this borrow.
    pub fn interest(&self) -> InterestHandle {
        self.line.handle()
    }

    /// The caller's own limit has passed: the work goes on by the rules, its caller does not wait for it.
    fn waited_out(&self) -> Fault {
        self.line.lower(Interest::Left);
        let own = self.journal.as_ref().is_none_or(|journal| !journal.clock.left().is_zero());
        let text = if own {
            "the caller's own time limit passed before there was an answer."
        } else {
            "the time limit of the call passed, and the equal call whose work it shares is not over."
        };
        let stage = self.journal.as_ref().map_or(Stage::Answer, |journal| journal.stage());
        let fault = Fault::new(Code::Timeout, stage, text);
        self.journal.as_ref().map_or_else(|| fault.clone(), |journal| journal.complete(fault.clone()))
    }
}

/// An event of a call in the words of another request for it.
fn readdressed(request: &Request, event: Event) -> Event {
    let to = |body| cross::readdressed(request, &body);
    match event {
        Event::Progress(body) => Event::Progress(to(body)),
        Event::Log(body) => Event::Log(to(body)),
        Event::Notification(body) => Event::Notification(to(body)),
        Event::End(Ok(reply)) => Event::End(Ok(Reply { body: to(reply.body), ..reply })),
        event => event,
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            self.line.lower(self.on_drop);
        }
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
