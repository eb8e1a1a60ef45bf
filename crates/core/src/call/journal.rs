//! What is known of one call while it is under way, and the two hooks where it is written down: before anything is
//! sent to an upstream, and after the end.

use crate::{telemetry::Telemetry, time::Clock};
use seawall_proto::{Fault, Reply, Request, Stage};
use std::{
    sync::{
        Arc,
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
        let (stage, dispatched, dropped) = (AtomicU8::new(0), AtomicBool::new(false), AtomicU64::new(0));
        Self { caller, upstream, tool, request, known, clock, stage, dispatched, dropped }
    }

    /// The call has come to `stage`.
    pub fn reach(&self, stage: Stage) {
        let at = STAGES.iter().position(|known| *known == stage).unwrap_or_default();
        self.stage.store(u8::try_from(at).unwrap_or_default(), Ordering::Relaxed);
    }

    /// How far the call has come.
    pub fn stage(&self) -> Stage {
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
        self.dispatched.load(Ordering::Acquire)
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
