//! What is known of one call while it is under way, and the two hooks where it is written down: before anything is
//! sent to an upstream, and after the end.

use super::admit::Place;
use crate::{conversation::random_byte, telemetry::Telemetry, time::Clock};
use seawall_proto::{Fault, Reply, Request, Stage};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The record of one call. Its facts are what every fault of the call is made from.
#[derive(Debug)]
pub struct Journal {
    /// Who called.
    pub caller: Arc<str>,
    /// Where the call goes; empty while that is not known.
    pub upstream: Arc<str>,
    /// The tool, or what else the request is about.
    pub tool: Arc<str>,
    /// What was asked.
    pub request: Arc<Request>,
    /// Whether the catalogue has the tool.
    pub known: bool,
    /// The deadline of the work.
    pub clock: Clock,
    /// Its place in the line, while it waits for one.
    pub place: Place,
    number: u64,
    /// The record of the call whose work this one shares.
    follows: OnceLock<Arc<Self>>,
    stage: AtomicU8,
    dispatched: AtomicBool,
    dropped: AtomicU64,
}

const STAGES: [Stage; 7] = [
    Stage::Resolve,
    Stage::Authorise,
    Stage::Validate,
    Stage::Admit,
    Stage::Start,
    Stage::Send,
    Stage::Answer,
];

impl Journal {
    /// Begins the record of a call.
    pub fn new(
        caller: Arc<str>,
        upstream: Arc<str>,
        tool: Arc<str>,
        request: Arc<Request>,
        known: bool,
        clock: Clock,
    ) -> Self {
        Self {
            caller,
            upstream,
            tool,
            request,
            known,
            clock,
            place: Place::default(),
            number: number(),
            follows: OnceLock::new(),
            stage: AtomicU8::new(0),
            dispatched: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    /// The call's id: 16 hexadecimal digits, which no other call of this run has, nor in all likelihood one of another.
    pub fn id(&self) -> Arc<str> {
        Arc::from(format!("{:016x}", self.number))
    }

    /// Shares the work of another call from now on: how far that is, this one is.
    pub fn follow(&self, first: &Arc<Self>) {
        // A call joins one flight and stays in it.
        let _ = self.follows.set(Arc::clone(first));
    }

    /// The call has come to `stage`.
    pub fn reach(&self, stage: Stage) {
        let at = STAGES.iter().position(|known| *known == stage).unwrap_or_default();
        self.stage.store(u8::try_from(at).unwrap_or_default(), Ordering::Relaxed);
    }

    /// How far the call has come.
    pub fn stage(&self) -> Stage {
        if let Some(first) = self.follows.get() {
            return first.stage();
        }
        STAGES[usize::from(self.stage.load(Ordering::Relaxed))]
    }

    /// The hook before dispatch: from here on the upstream may have acted.
    pub fn dispatching(&self) {
        self.dispatched.store(true, Ordering::Release);
        self.reach(Stage::Send);
    }

    /// What was dispatched did not leave: the upstream has not acted.
    pub fn recalled(&self) {
        self.dispatched.store(false, Ordering::Release);
    }

    /// Whether the upstream may have acted.
    pub fn may_have_run(&self) -> bool {
        self.follows
            .get()
            .map_or_else(|| self.dispatched.load(Ordering::Acquire), |first| first.may_have_run())
    }

    /// How many calls are in front of it in the line, while it waits for a place.
    pub fn ahead(&self) -> Option<usize> {
        self.follows.get().map_or_else(|| self.place.ahead(), |first| first.ahead())
    }

    /// An event was dropped because its caller did not read.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// The hook after the end: the record is written and counted.
    pub fn ended(&self, telemetry: &Telemetry, outcome: &Result<Reply, Fault>) {
        telemetry.dropped_events(self.dropped.load(Ordering::Relaxed));
        telemetry.call_ended(self, outcome);
    }

    /// Fills in what the journal knows of a fault.
    #[must_use]
    pub fn complete(&self, mut fault: Fault) -> Fault {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if fault.upstream.is_none() && !self.upstream.is_empty() {
            fault.upstream = Some(Arc::clone(&self.upstream));
        }
        fault.elapsed_ms = ms(self.elapsed());
        fault.budget_ms = ms(self.clock.budget());
        fault.may_have_run |= self.may_have_run();
        fault
    }

    /// Time since the call came in.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

/// Numbers of calls: one after the other, from one that was drawn by lot.
fn number() -> u64 {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next =
        NEXT.get_or_init(|| AtomicU64::new(u64::from_be_bytes(std::array::from_fn(|_| random_byte()))));
    next.fetch_add(1, Ordering::Relaxed)
}
