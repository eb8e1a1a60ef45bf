//! What is counted besides calls and faults: calls that were refused, shared or repeated, and servers held back.

use super::{Telemetry, UpstreamLabel};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerLabel {
    upstream: Arc<str>,
    to: &'static str,
}

/// Counters by upstream.
type ByUpstream = Family<UpstreamLabel, Counter>;

#[derive(Debug)]
pub(super) struct Counters {
    refusals: Family<RefusalLabel, Counter>,
    shared_flights: ByUpstream,
    cache_hits: ByUpstream,
    retries: ByUpstream,
    retry_budget_spent: ByUpstream,
    breaker_changes: Family<BreakerLabel, Counter>,
}

impl Counters {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let refusals = Family::default();
        let text = "Calls that were refused because too much is under way, by what was full or used up";
        registry.register("refusals", text, refusals.clone());
        let mut by_upstream = |name: &str, text: &str| {
            let counters = ByUpstream::default();
            registry.register(name, text, counters.clone());
            counters
        };
        let shared_flights =
            by_upstream("shared_flights", "Calls that were answered by the work of an equal one under way");
        let cache_hits = by_upstream("cache_hits", "Calls that were answered by a kept result");
        let retries = by_upstream("retries", "Attempts that were made after one of the same call had failed");
        let retry_budget_spent = by_upstream(
            "retry_budget_spent",
            "Attempts that were not made because the retries of their upstream were used up",
        );
        let breaker_changes = Family::default();
        registry.register(
            "breaker_changes",
            "Changes of breakers, by their new state",
            breaker_changes.clone(),
        );
        Self { refusals, shared_flights, cache_hits, retries, retry_budget_spent, breaker_changes }
    }
}

fn count(counters: &ByUpstream, upstream: &Arc<str>) {
    counters.get_or_create(&UpstreamLabel { upstream: Arc::clone(upstream) }).inc();
}

impl Telemetry {
    /// Counts a call that was refused because of the load: `why` is the scope that is full (`total`, `caller`,
    /// `conversation`, `upstream`, `tool`, `provider`), `queue` for the line, or `rate`.
    pub fn refused(&self, why: &'static str) {
        self.load_counters.refusals.get_or_create(&RefusalLabel { why }).inc();
    }

    /// Counts a call that is answered by the work of an equal one.
    pub fn shared(&self, upstream: &Arc<str>) {
        count(&self.load_counters.shared_flights, upstream);
    }

    /// Counts a call that is answered by a kept result.
    pub fn hit(&self, upstream: &Arc<str>) {
        count(&self.load_counters.cache_hits, upstream);
    }

    /// Counts a further attempt of a call.
    pub fn retried(&self, upstream: &Arc<str>) {
        count(&self.load_counters.retries, upstream);
    }

    /// Counts a further attempt that the upstream's budget had nothing left for.
    pub fn budget_spent(&self, upstream: &Arc<str>) {
        count(&self.load_counters.retry_budget_spent, upstream);
    }

    /// Counts a change of an upstream's breaker to the state `to`.
    pub fn breaker(&self, upstream: &Arc<str>, to: &'static str) {
        let label = BreakerLabel { upstream: Arc::clone(upstream), to };
        self.load_counters.breaker_changes.get_or_create(&label).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Gauges;

    #[test]
    fn each_event_counts_once_where_it_belongs() {
        let telemetry = Telemetry::default();
        let docs: Arc<str> = Arc::from("docs");
        telemetry.refused("caller");
        telemetry.refused("rate");
        telemetry.refused("rate");
        telemetry.shared(&docs);
        telemetry.hit(&docs);
        telemetry.retried(&docs);
        telemetry.budget_spent(&docs);
        telemetry.breaker(&docs, "open");
        let text = telemetry.render(&Gauges::default());
        for line in [
            "seawall_refusals_total{why=\"caller\"} 1",
            "seawall_refusals_total{why=\"rate\"} 2",
            "seawall_shared_flights_total{upstream=\"docs\"} 1",
            "seawall_cache_hits_total{upstream=\"docs\"} 1",
            "seawall_retries_total{upstream=\"docs\"} 1",
            "seawall_retry_budget_spent_total{upstream=\"docs\"} 1",
            "seawall_breaker_changes_total{upstream=\"docs\",to=\"open\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
