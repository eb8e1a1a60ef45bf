//! What the daemon tells about itself: one record per call, and counters.

use crate::call::journal::Journal;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use seawall_proto::{Code, Fault, Reply, ReplyKind};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToolLabel {
    upstream: String,
    tool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

/// The counters of one tool.
#[derive(Clone, Debug)]
struct ToolCounters {
    calls: Counter,
    seconds: Histogram,
}

/// Counters by upstream and tool.
type ByTool = HashMap<Arc<str>, HashMap<Arc<str>, ToolCounters>>;

/// Every counter there is. Gauges are set when somebody looks.
pub struct Telemetry {
    registry: Registry,
    calls: Family<ToolLabel, Counter>,
    seconds: Family<ToolLabel, Histogram, fn() -> Histogram>,
    faults: Family<FaultLabel, Counter>,
    in_flight: Family<ScopeLabel, Gauge>,
    waiting: Family<ScopeLabel, Gauge>,
    conversations: Gauge,
    instances: Family<UpstreamLabel, Gauge>,
    dropped: Counter,
    by_tool: RwLock<ByTool>,
}

/// What gauges are set from when somebody looks.
#[derive(Debug, Default)]
pub struct Gauges {
    /// How full each scope is.
    pub loads: Vec<crate::call::admit::Load>,
    /// Open conversations.
    pub conversations: usize,
    /// Instances by upstream.
    pub instances: Vec<(Arc<str>, usize)>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("seawall");
        let calls = Family::default();
        registry.register("calls", "Calls that ended, by upstream and tool", calls.clone());
        let seconds = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register("call_seconds", "Time from a call's arrival to its end", seconds.clone());
        let faults = Family::default();
        registry.register("faults", "Calls that ended in a fault, by its code", faults.clone());
        let in_flight = Family::default();
        registry.register("in_flight", "Calls that hold a place, by scope", in_flight.clone());
        let waiting = Family::default();
        registry.register("waiting", "Calls that wait for a place, by scope", waiting.clone());
        let conversations = Gauge::default();
        registry.register("conversations", "Open conversations", conversations.clone());
        let instances = Family::default();
        registry.register("instances", "Running instances, by upstream", instances.clone());
        let dropped = Counter::default();
        registry.register(
            "dropped_events",
            "Progress and log messages no queue had room for",
            dropped.clone(),
        );
        let by_tool = RwLock::default();
        Self {
            registry,
            calls,
            seconds,
            faults,
            in_flight,
            waiting,
            conversations,
            instances,
            dropped,
            by_tool,
        }
    }
}

impl Telemetry {
    /// Writes the one record of a call and counts it. `known` says whether the tool is one the catalogue has:
    /// names that callers make up are not counted by name.
    pub fn call_ended(&self, journal: &Journal, known: bool, outcome: &Result<Reply, Fault>) {
        let tool = if known { &journal.tool } else { &journal.unknown };
        let counters = self.counters(&journal.upstream, tool);
        let elapsed = journal.elapsed();
        counters.calls.inc();
        counters.seconds.observe(elapsed.as_secs_f64());
        let elapsed_ms = elapsed.as_secs_f64() * 1000.0;
        let (caller, upstream, tool, request) =
            (&*journal.caller, &*journal.upstream, &*journal.tool, &*journal.method);
        match outcome {
            Ok(reply) => {
                let outcome = match reply.kind {
                    ReplyKind::Result => "result",
                    ReplyKind::Ask => "ask",
                    ReplyKind::Task => "task",
                    ReplyKind::Error(_) => "error",
                };
                tracing::info!(target: "seawall::call", caller, upstream, tool, request, outcome, elapsed_ms, "call");
            }
            Err(fault) => {
                self.faults.get_or_create(&FaultLabel { code: fault.code.code() }).inc();
                let (outcome, stage, reason) = (fault.code.code(), fault.stage.name(), &*fault.message);
                let may_have_run = fault.may_have_run;
                if fault.code == Code::Internal {
                    tracing::error!(target: "seawall::call", caller, upstream, tool, request, outcome, stage, reason, elapsed_ms, "call");
                } else {
                    tracing::info!(target: "seawall::call", caller, upstream, tool, request, outcome, stage, may_have_run, reason, elapsed_ms, "call");
                }
            }
        }
    }

    /// Counts progress and log messages that a call's queue had no room for.
    pub fn dropped_events(&self, count: u64) {
        if count > 0 {
            self.dropped.inc_by(count);
        }
    }

    /// Everything in the OpenMetrics text format.
    pub fn render(&self, gauges: &Gauges) -> String {
        for family in [&self.in_flight, &self.waiting] {
            family.clear();
        }
        self.instances.clear();
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        for load in &gauges.loads {
            let label = ScopeLabel { scope: load.scope, name: load.name.to_string() };
            self.in_flight.get_or_create(&label).set(count(load.in_use));
            self.waiting.get_or_create(&label).set(count(load.waiting));
        }
        self.conversations.set(count(gauges.conversations));
        for (upstream, running) in &gauges.instances {
            self.instances
                .get_or_create(&UpstreamLabel { upstream: upstream.to_string() })
                .set(count(*running));
        }
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }

    fn counters(&self, upstream: &Arc<str>, tool: &Arc<str>) -> ToolCounters {
        let known = self.by_tool.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = known.get(upstream).and_then(|tools| tools.get(tool)) {
            return counters.clone();
        }
        drop(known);
        let label = ToolLabel { upstream: upstream.to_string(), tool: tool.to_string() };
        let counters = ToolCounters {
            calls: self.calls.get_or_create(&label).clone(),
            seconds: self.seconds.get_or_create(&label).clone(),
        };
        let mut known = self.by_tool.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(Arc::clone(upstream)).or_default().insert(Arc::clone(tool), counters.clone());
        counters
    }
}
