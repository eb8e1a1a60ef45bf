//! Gauges: what is so now. They are set when somebody looks.

use super::{Telemetry, ToolLabel, UpstreamLabel};
use crate::call::admit::Load;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
    name: Arc<str>,
}

/// What gauges are set from when somebody looks.
#[derive(Debug, Default)]
pub struct Gauges {
    /// How full each scope is.
    pub loads: Vec<Load>,
    /// Attempts that go on although nobody waits for them.
    pub detached: usize,
    /// Open conversations.
    pub conversations: usize,
    /// Instances by upstream, of every upstream that is in use.
    pub instances: Vec<(Arc<str>, usize)>,
}

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// The time-outs that were learned, by upstream and tool.
type Learned = HashMap<(Arc<str>, Arc<str>), Duration>;

#[derive(Debug)]
pub(super) struct GaugeSet {
    in_flight: Family<ScopeLabel, Gauge>,
    waiting: Family<ScopeLabel, Gauge>,
    limit: Family<ScopeLabel, Gauge>,
    oldest: Family<ScopeLabel, Seconds>,
    detached: Gauge,
    conversations: Gauge,
    instances: Family<UpstreamLabel, Gauge>,
    learned_timeout: Family<ToolLabel, Seconds>,
    learned: Mutex<Learned>,
}

impl GaugeSet {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut by_scope = |name: &str, text: &str| {
            let gauges: Family<ScopeLabel, Gauge> = Family::default();
            registry.register(name, text, gauges.clone());
            gauges
        };
        let in_flight = by_scope("in_flight", "Calls that hold a place, by scope");
        let waiting = by_scope("waiting", "Calls that wait for a place, by scope");
        let limit = by_scope("limit", "Places there are, by scope, where they are limited");
        let oldest = Family::default();
        let text = "Seconds since the oldest holder of a place was admitted, by scope";
        registry.register("oldest_seconds", text, oldest.clone());
        let detached = Gauge::default();
        registry.register("detached", "Attempts that go on with nobody waiting", detached.clone());
        let conversations = Gauge::default();
        registry.register("conversations", "Open conversations", conversations.clone());
        let instances = Family::default();
        registry.register("instances", "Running instances, by upstream", instances.clone());
        let learned_timeout = Family::default();
        registry.register(
            "learned_timeout_seconds",
            "What bounds one attempt, where that was learned, by upstream and tool",
            learned_timeout.clone(),
        );
        let learned = Mutex::default();
        Self {
            in_flight,
            waiting,
            limit,
            oldest,
            detached,
            conversations,
            instances,
            learned_timeout,
            learned,
        }
    }

    /// Sets every gauge; what there is no more is no gauge any more.
    pub(super) fn set(&self, gauges: &Gauges) {
        for family in [&self.in_flight, &self.waiting, &self.limit] {
            family.clear();
        }
        self.oldest.clear();
        self.instances.clear();
        self.learned_timeout.clear();
        let now = Instant::now();
        for load in &gauges.loads {
            let label = ScopeLabel { scope: load.scope, name: Arc::clone(&load.name) };
            self.in_flight.get_or_create(&label).set(number(load.in_use));
            self.waiting.get_or_create(&label).set(number(load.waiting));
            if let Some(limit) = load.limit {
                self.limit.get_or_create(&label).set(number(limit));
            }
            let age = load.oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
            self.oldest.get_or_create(&label).set(age.as_secs_f64());
        }
        self.detached.set(number(gauges.detached));
        self.conversations.set(number(gauges.conversations));
        for (upstream, running) in &gauges.instances {
            let label = UpstreamLabel { upstream: Arc::clone(upstream) };
            self.instances.get_or_create(&label).set(number(*running));
        }
        let mut learned = self.learned();
        learned.retain(|(upstream, _), _| gauges.instances.iter().any(|(known, _)| known == upstream));
        for ((upstream, tool), timeout) in &*learned {
            let label = ToolLabel { upstream: upstream.to_string(), tool: tool.to_string() };
            self.learned_timeout.get_or_create(&label).set(timeout.as_secs_f64());
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    /// Notes the time-out that was learned for the attempts of a tool. It is shown as long as the upstream is in use.
    pub fn learned(&self, upstream: &Arc<str>, tool: &Arc<str>, timeout: Duration) {
        self.gauges.learned().insert((Arc::clone(upstream), Arc::clone(tool)), timeout);
    }
}

fn number(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(scope: &'static str, limit: Option<usize>, oldest: Option<Instant>) -> Load {
        Load { scope, name: Arc::from("x"), in_use: 2, waiting: 1, limit, oldest }
    }

    #[tokio::test(start_paused = true)]
    async fn scopes_have_their_limit_and_the_age_of_their_oldest_holder() {
        let telemetry = Telemetry::default();
        let loads = vec![load("caller", Some(5), Some(Instant::now())), load("upstream", None, None)];
        tokio::time::advance(Duration::from_millis(2500)).await;
        let text = telemetry.render(&Gauges { loads, detached: 3, ..Gauges::default() });
        for line in [
            "seawall_in_flight{scope=\"caller\",name=\"x\"} 2",
            "seawall_waiting{scope=\"caller\",name=\"x\"} 1",
            "seawall_limit{scope=\"caller\",name=\"x\"} 5",
            "seawall_oldest_seconds{scope=\"caller\",name=\"x\"} 2.5",
            "seawall_oldest_seconds{scope=\"upstream\",name=\"x\"} 0.0",
            "seawall_detached 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("seawall_limit{scope=\"upstream\""), "{text}");
        let text = telemetry.render(&Gauges::default());
        assert!(!text.contains("seawall_in_flight{"), "what nobody is in any more is still there: {text}");
    }

    #[test]
    fn what_was_learned_goes_with_its_upstream() {
        let telemetry = Telemetry::default();
        let [docs, search]: [Arc<str>; 2] = ["docs", "search"].map(Arc::from);
        telemetry.learned(&docs, &search, Duration::from_secs(9));
        telemetry.learned(&docs, &search, Duration::from_millis(1500));
        let shown = "seawall_learned_timeout_seconds{upstream=\"docs\",tool=\"search\"} 1.5";
        let instances = vec![(Arc::clone(&docs), 0)];
        assert!(telemetry.render(&Gauges { instances, ..Gauges::default() }).contains(shown));
        assert!(!telemetry.render(&Gauges::default()).contains("seawall_learned_timeout_seconds{"));
    }
}
