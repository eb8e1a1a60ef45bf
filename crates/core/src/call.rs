//! The call path, as one page.
//!
//! [`Gateway::call`] is what one caller's request goes through; `run` is the work that is done for it, on
//! a task of its own. What ends a call, when, and who is told, is in `docs/design/call-path.md`.

pub mod admit;
mod attempt;
pub mod auth;
mod heartbeat;
pub mod journal;
pub(crate) mod large;
mod line;
pub mod park;
mod resolve;

use crate::{Gateway, life::Task, time::Clock};
use attempt::{Attempt, Ended};
use auth::Caller;
use heartbeat::Heartbeat;
use journal::Journal;
pub use line::InterestHandle;
use line::{CallerSide, WorkSide, line};
use resolve::Target;
use seawall_proto::{Code, Event, Fault, Reply, Request, Stage, era::cross};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How long the clock may stand still for questions to the caller.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long an attempt's place may be held past its deadline: for the upstream to take a cancel in.
const OVER: Duration = Duration::from_secs(2);

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
        self.keep_level(&call, &target.upstream);
        let journal = Arc::new(target.journal(&call, Clock::new(target.timeout, ASK_LIMIT)));
        let (answer, mut attempt) = Answer::begin(&call, &journal);
        let this = Arc::clone(self);
        self.life.spawn(Task::Attempt, async move {
            let end = this.run(&call, &target, &mut attempt).await;
            let end = end.map_err(|fault| journal.complete(fault));
            attempt.free_caller_half();
            journal.ended(&this.telemetry, &end);
            attempt.end(end);
            // The caller has its answer; what is left is to see the upstream through.
            attempt.over().await;
            target.release();
        });
        answer
    }

    /// Does the work of one call: takes a place, and tries until it is answered or must not try again.
    async fn run(&self, call: &Call, target: &Target, attempt: &mut Attempt) -> Result<Reply, Fault> {
        if !target.control {
            attempt.reach(Stage::Admit);
            attempt.admit(&self.admission, target.claim(call), OVER).await?;
        }
        let mut retried = false;
        loop {
            match attempt.run(call, target).await {
                Ok(reply) => {
                    target.upstream.noted(None);
                    return match target.exceeded(&reply) {
                        None => Ok(reply),
                        Some(limit) => Box::pin(self.cut(call, target, attempt.clock(), reply, limit)).await,
                    };
                }
                // Nothing was sent: the instance was gone before the call came to it. Once more, on another.
                Err(Ended::Lost(lost)) if target.may_retry(&lost) && !retried => retried = true,
                Err(ended) => return Err(target.fault(ended, attempt)),
            }
        }
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
        Answer::ready(end)
    }
}

impl Answer {
    /// An answer that is there already.
    pub fn ready(end: Result<Reply, Fault>) -> Self {
        let (answer, work) = Self::own();
        work.end(Event::End(end));
        answer
    }

    /// The two ends of an answer of Seawall's own.
    fn own() -> (Self, WorkSide) {
        let (line, work) = line();
        let answer = Self {
            line,
            readdress: None,
            heartbeat: None,
            journal: None,
            waits_until: None,
            on_drop: Interest::Left,
            ended: false,
        };
        (answer, work)
    }

    /// The two ends of a call's answer.
    fn begin(call: &Call, journal: &Arc<Journal>) -> (Self, Attempt) {
        let (line, work) = line();
        let answer = Self {
            line,
            readdress: None,
            heartbeat: Heartbeat::new(&call.request, call.heartbeat),
            journal: Some(Arc::clone(journal)),
            // A limit that is no shorter than the work's own adds nothing but a second answer to choose from.
            waits_until: call
                .limit
                .filter(|limit| *limit < journal.clock.budget())
                .map(|limit| Instant::now() + limit),
            on_drop: if call.request.wire().close_cancels() { Interest::Cancelled } else { Interest::Left },
            ended: false,
        };
        (answer, Attempt::new(work, Arc::clone(journal)))
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
                    if let Some(beat) = self.heartbeat.as_mut().and_then(Heartbeat::beat) {
                        return Some(Event::Progress(beat));
                    }
                }
            }
        }
    }

    /// The same answer for a request that goes on with the call.
    #[must_use]
    fn for_call(mut self, call: &Call) -> Self {
        self.waits_until = call.limit.map(|limit| Instant::now() + limit);
        self.heartbeat = Heartbeat::new(&call.request, call.heartbeat);
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
        let text = "the caller's own time limit passed before there was an answer.";
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
