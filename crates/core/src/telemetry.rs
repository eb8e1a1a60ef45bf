//! What the daemon tells about itself: one record per call, and counters.

mod counters;
mod gauges;

use crate::call::journal::Journal;
use counters::Counters;
use gauges::GaugeSet;
pub use gauges::Gauges;
use jiff::fmt::temporal::DateTimePrinter;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use seawall_proto::{Code, Fault, Reply, ReplyKind};
use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0];

/// Writes points in time as the other records of the log have them.
const TIMESTAMP: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

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
struct UpstreamLabel {
    upstream: Arc<str>,
}

/// The counters of one tool.
#[derive(Clone, Debug)]
struct ToolCounters {
    calls: Counter,
    seconds: Histogram,
}

/// Takes one line of JSON; must not block.
pub type CallWriter = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Counters by upstream and tool.
type ByTool = HashMap<Arc<str>, HashMap<Arc<str>, ToolCounters>>;

/// Every counter there is. Gauges are set when somebody looks.
pub struct Telemetry {
    registry: Registry,
    calls: Family<ToolLabel, Counter>,
    seconds: Family<ToolLabel, Histogram, fn() -> Histogram>,
    faults: Family<FaultLabel, Counter>,
    gauges: GaugeSet,
    load_counters: Counters,
    dropped: Counter,
    by_tool: RwLock<ByTool>,
    /// Stands for every tool the catalogue does not have: names that callers make up are not counted by name.
    unknown: Arc<str>,
    calls_to: OnceLock<CallWriter>,
    /// Held while gauges are set and written, so that of two who look neither sees what the other has half set.
    looking: Mutex<()>,
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
        let gauges = GaugeSet::new(&mut registry);
        let load_counters = Counters::new(&mut registry);
        let dropped = Counter::default();
        registry.register(
            "dropped_events",
            "Progress and log messages no queue had room for",
            dropped.clone(),
        );
        let (by_tool, calls_to) = (RwLock::default(), OnceLock::new());
        Self {
            registry,
            calls,
            seconds,
            faults,
            gauges,
            load_counters,
            dropped,
            by_tool,
            unknown: Arc::from(""),
            calls_to,
            looking: Mutex::default(),
        }
    }
}

/// The one record of a call.
struct Record<'a> {
    journal: &'a Journal,
    outcome: &'static str,
    fault: Option<&'a Fault>,
    elapsed: Duration,
}

impl<'a> Record<'a> {
    fn new(journal: &'a Journal, outcome: &'a Result<Reply, Fault>, elapsed: Duration) -> Self {
        let (word, fault) = match outcome {
            Ok(reply) => match reply.kind {
                ReplyKind::Result => ("result", None),
                ReplyKind::Ask => ("ask", None),
                ReplyKind::Task => ("task", None),
                ReplyKind::Error(_) => ("error", None),
            },
            Err(fault) => (fault.code.code(), Some(fault)),
        };
        Self { journal, outcome: word, fault, elapsed }
    }

    fn level(&self) -> &'static str {
        if self.fault.is_some_and(|fault| fault.code == Code::Internal) { "ERROR" } else { "INFO" }
    }

    /// The record as a line of JSON, with the members an event of `tracing` would have.
    fn line(&self) -> Vec<u8> {
        let journal = self.journal;
        let mut line = Vec::with_capacity(320);
        line.extend_from_slice(br#"{"timestamp":""#);
        // Writing to memory does not fail.
        let _ = TIMESTAMP.print_timestamp(&jiff::Timestamp::now(), &mut line);
        line.push(b'"');
        let mut text = |name: &str, value: &str| {
            line.extend_from_slice(b",\"");
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(b"\":");
            let _ = serde_json::to_writer(&mut line, value);
        };
        text("level", self.level());
        text("message", "call");
        text("caller", &journal.caller);
        text("upstream", &journal.upstream);
        text("tool", &journal.tool);
        text("request", journal.request.method());
        text("outcome", self.outcome);
        if let Some(fault) = self.fault {
            text("stage", fault.stage.name());
            text("reason", &fault.message);
            let _ = write!(line, r#","may_have_run":{}"#, fault.may_have_run);
        }
        let micros = self.elapsed.as_micros();
        let (ms, part) = (micros / 1000, micros % 1000);
        let _ = writeln!(line, r#","elapsed_ms":{ms}.{part:03},"target":"seawall::call"}}"#);
        line
    }

    fn trace(&self) {
        let journal = self.journal;
        let (caller, upstream, tool, request) =
            (&*journal.caller, &*journal.upstream, &*journal.tool, journal.request.method());
        let (outcome, elapsed_ms) = (self.outcome, self.elapsed.as_secs_f64() * 1000.0);
        match self.fault {
            None => {
                tracing::info!(target: "seawall::call", caller, upstream, tool, request, outcome, elapsed_ms, "call");
            }
            Some(fault) => {
                let (stage, reason, may_have_run) = (fault.stage.name(), &*fault.message, fault.may_have_run);
                if fault.code == Code::Internal {
                    tracing::error!(target: "seawall::call", caller, upstream, tool, request, outcome, stage, reason, elapsed_ms, "call");
                } else {
                    tracing::info!(target: "seawall::call", caller, upstream, tool, request, outcome, stage, may_have_run, reason, elapsed_ms, "call");
                }
            }
        }
    }
}

impl Telemetry {
    /// Gives the records of calls to `write` as lines of JSON, instead of as events of `tracing`: there is one per
    /// call, and an event costs more than all of admission.
    pub fn write_calls_with(&self, write: CallWriter) {
        // A second writer would be a fault of the program; the first stays.
        let _ = self.calls_to.set(write);
    }

    /// Writes the one record of a call and counts it.
    pub fn call_ended(&self, journal: &Journal, outcome: &Result<Reply, Fault>) {
        let tool = if journal.known { &journal.tool } else { &self.unknown };
        let counters = self.counters(&journal.upstream, tool);
        let elapsed = journal.elapsed();
        counters.calls.inc();
        counters.seconds.observe(elapsed.as_secs_f64());
        let record = Record::new(journal, outcome, elapsed);
        if let Err(fault) = outcome {
            self.faults.get_or_create(&FaultLabel { code: fault.code.code() }).inc();
        }
        match self.calls_to.get() {
            Some(write) => {
                if tracing::enabled!(target: "seawall::call", tracing::Level::INFO) {
                    write(&record.line());
                }
            }
            None => record.trace(),
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
        let _alone = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set(gauges);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Clock;
    use seawall_proto::{
        Request, Stage,
        era::{Face, Wire},
    };

    #[test]
    fn a_record_is_one_line_of_json_whatever_is_in_it() {
        let clock = Clock::new(Duration::from_secs(1), Duration::ZERO);
        let name = |text: &str| Arc::from(text);
        let request = Request::own("tools/call", &serde_json::json!({}), Wire::own(), Face::own());
        let journal = Journal::new(name("c\"aller"), name("u"), name("t\n"), Arc::new(request), true, clock);
        let fault = Fault::new(Code::Timeout, Stage::Answer, "no\nanswer");
        let line = Record::new(&journal, &Err(fault), Duration::from_millis(5)).line();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["caller"], &value["tool"]), (&"c\"aller".into(), &"t\n".into()));
        assert_eq!((&value["outcome"], &value["stage"]), (&"TIMEOUT".into(), &"answer".into()));
        assert_eq!(value["elapsed_ms"], 5.0);
    }
}
