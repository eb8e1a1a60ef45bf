//! What the daemon has counted, read from its metrics, and what that is per second.

use std::{collections::BTreeMap, time::Duration};

/// The counters that are shown, summed over all their labels, and what each is called here.
const SHOWN: [(&str, &str); 8] = [
    ("seawall_calls_total", "calls"),
    ("seawall_faults_total", "faults"),
    ("seawall_refusals_total", "refusals"),
    ("seawall_shared_flights_total", "shared_flights"),
    ("seawall_cache_hits_total", "cache_hits"),
    ("seawall_retries_total", "retries"),
    ("seawall_retry_budget_spent_total", "retry_budget_spent"),
    ("seawall_breaker_changes_total", "breaker_changes"),
];

/// What each counter that is shown is called, the most telling first.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SHOWN.iter().map(|(_, name)| *name)
}

/// What was counted since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// By what is counted.
    pub(super) totals: BTreeMap<&'static str, u64>,
    /// Calls by upstream.
    pub(super) calls: BTreeMap<String, u64>,
}

/// What was counted per second between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// By what is counted.
    pub(super) totals: BTreeMap<&'static str, f64>,
    /// Calls by upstream.
    pub(super) calls: BTreeMap<String, f64>,
}

impl Counters {
    /// Reads the OpenMetrics text format; lines that say nothing of what is shown are passed over.
    pub(super) fn read(text: &str) -> Self {
        let totals = SHOWN.iter().map(|(_, shown)| (*shown, 0)).collect();
        let mut counters = Self { totals, calls: BTreeMap::new() };
        for sample in text.lines().filter_map(Sample::read) {
            let Some((_, shown)) = SHOWN.iter().find(|(name, _)| *name == sample.name) else { continue };
            *counters.totals.entry(*shown).or_default() += sample.value;
            if *shown == "calls" {
                *counters.calls.entry(sample.upstream.unwrap_or_default()).or_default() += sample.value;
            }
        }
        counters
    }

    /// How often each happened per second since `before`, which was read `elapsed` ago; `None` where counting began
    /// anew in between.
    pub(super) fn since(&self, before: &Self, elapsed: Duration) -> Option<Rates> {
        let seconds = elapsed.as_secs_f64();
        let rate = |now: u64, before: Option<&u64>| {
            let more = now.checked_sub(before.copied().unwrap_or_default())?;
            (seconds > 0.0).then(|| more as f64 / seconds)
        };
        let mut rates = Rates::default();
        for (name, now) in &self.totals {
            rates.totals.insert(*name, rate(*now, before.totals.get(name))?);
        }
        for (upstream, now) in &self.calls {
            rates.calls.insert(upstream.clone(), rate(*now, before.calls.get(upstream))?);
        }
        Some(rates)
    }
}

/// One line of the metrics.
struct Sample<'a> {
    name: &'a str,
    upstream: Option<String>,
    value: u64,
}

impl<'a> Sample<'a> {
    /// Reads `name{label="text",…} 12`; `None` where it is something else, or no whole number.
    fn read(line: &'a str) -> Option<Self> {
        let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
        let mut upstream = None;
        if let Some(labels) = rest.strip_prefix('{') {
            rest = labels;
            while let Some((key, after)) = rest.split_once("=\"") {
                let (text, after) = quoted(after)?;
                if key.trim_start_matches(',') == "upstream" {
                    upstream = Some(text);
                }
                rest = after;
                if rest.starts_with('}') {
                    break;
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name, upstream, value })
    }
}

/// The text up to the quote that closes it, and what comes after that.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut letters = rest.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((text, &rest[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# HELP seawall_calls Calls that ended, by upstream and tool.
# TYPE seawall_calls counter
seawall_calls_total{upstream=\"docs\",tool=\"search\"} 7
seawall_calls_total{upstream=\"docs\",tool=\"a \\\"b\\\\}, \\n\"} 2
seawall_calls_total{tool=\"\",upstream=\"it\"} 1
seawall_faults_total{code=\"TIMEOUT\"} 3
seawall_in_flight{scope=\"total\",name=\"\"} 5
seawall_conversations 1
seawall_call_seconds_sum{upstream=\"docs\",tool=\"search\"} 0.25
# EOF
";

    #[test]
    fn counters_are_summed_over_their_labels() {
        let counters = Counters::read(METRICS);
        assert_eq!((counters.totals["calls"], counters.totals["faults"]), (10, 3));
        assert_eq!(counters.totals["retries"], 0);
        assert_eq!(counters.calls, BTreeMap::from([("docs".to_owned(), 9), ("it".to_owned(), 1)]));
    }

    #[test]
    fn rates_are_differences_over_time_and_none_after_a_restart() {
        let before = Counters::read(METRICS);
        let now = Counters::read(&METRICS.replace("} 7", "} 12"));
        let rates = now.since(&before, Duration::from_secs(2)).expect("it only grew");
        assert_eq!((rates.totals["calls"], rates.totals["faults"]), (2.5, 0.0));
        assert_eq!((rates.calls["docs"], rates.calls["it"]), (2.5, 0.0));
        assert_eq!(before.since(&now, Duration::from_secs(2)), None, "a counter fell");
        assert_eq!(now.since(&before, Duration::ZERO), None);
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        for line in ["", "# EOF", "{", "a{b=\"c", "a{b=\"c\"", "a{b=\"c\"} x", "a 1.5", "a{}"] {
            assert!(Sample::read(line).is_none(), "{line}");
        }
        assert_eq!(Sample::read("a{} 4").map(|sample| sample.value), Some(4));
    }
}
