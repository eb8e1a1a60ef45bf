//! What the daemon shows of itself to whoever may ask.

mod permits;

use crate::{Gateway, telemetry::Gauges};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Lines of standard error that stand beside a failure.
const LAST_LINES: usize = 5;

impl Gateway {
    /// Everything `seawall status` shows, as JSON.
    pub fn status(&self) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let in_use = self.upstreams();
        let upstreams: Vec<Value> = self
            .config()
            .upstreams
            .iter()
            .map(|configured| {
                let upstream = in_use.iter().find(|upstream| **upstream.name() == *configured.name);
                let listing = self.catalog.listing(&configured.name, "");
                let failure = upstream.and_then(|upstream| upstream.failure());
                let instances = upstream.map_or_else(Vec::new, |upstream| upstream.statuses());
                let left_alone = upstream.and_then(|upstream| upstream.left_alone());
                let state = if !configured.enabled || self.is_switched_off(&configured.name) {
                    String::from("disabled")
                } else if !configured.needs.is_empty() {
                    format!("needs {}", configured.needs.join(", "))
                } else if left_alone.is_some() {
                    String::from("left alone")
                } else if failure.is_some() {
                    String::from("failed")
                } else if !instances.is_empty() {
                    String::from("running")
                } else if listing.is_some() {
                    String::from("idle")
                } else {
                    String::from("starting")
                };
                json!({
                    "name": configured.name,
                    "kind": match configured.kind {
                        crate::config::Kind::Stdio { .. } => "stdio",
                        crate::config::Kind::Http { .. } => "http",
                    },
                    "state": state,
                    "tools": listing.map_or(0, |listing| listing.tools.len()),
                    "changed": self.catalog.held_back(&configured.name).len(),
                    "failure": failure.map(|failure| json!({"stage": failure.stage, "message": failure.message})),
                    "last_failure": upstream.and_then(|upstream| upstream.last_failure()).map(|failure| json!({
                        "stage": failure.stage,
                        "message": failure.message,
                        "at": failure.at.to_string(),
                        "stderr": upstream.and_then(|upstream| upstream.tails().pop())
                            .map_or_else(Vec::new, |(_, tail)| tail.lines(LAST_LINES)),
                    })),
                    "breaker": upstream.map(|upstream| {
                        let shown = upstream.track().show();
                        let learned = shown.learned_ms.iter().map(|(tool, ms)| (tool.to_string(), json!(ms)));
                        json!({
                            "state": shown.breaker,
                            "next_try_ms": shown.next_try_ms,
                            "retries_left": shown.retries_left,
                            "learned_ms": learned.collect::<serde_json::Map<_, _>>(),
                        })
                    }),
                    "left_alone": left_alone.map(|(times, next)| json!({"times": times, "next_try_ms": ms(next)})),
                    "instances": instances.iter().map(|instance| json!({
                        "key": instance.key,
                        "state": instance.state,
                        "era": instance.version,
                        "pid": instance.pid,
                        "in_flight": instance.in_flight,
                        "age_ms": ms(instance.age),
                        "skipped": instance.oddities.skipped,
                        "last_skipped": instance.oddities.last_skipped,
                        "garbled": instance.oddities.garbled,
                        "late": instance.oddities.late,
                        "unknown": instance.oddities.unknown,
                        "dropped": instance.oddities.dropped,
                        "oversize": instance.oddities.oversize,
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        let now = Instant::now();
        let permits: Vec<Value> = self.admission.rows().iter().map(|row| permits::permit(row, now)).collect();
        let loads: Vec<Value> = self.admission.loads().iter().map(|load| permits::scope(load, now)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "listen": self.config().listen.to_string(),
            "conversations": self.conversations.len(),
            "pending": in_use.iter().map(|upstream| upstream.pending()).sum::<usize>(),
            "permits": permits,
            "loads": loads,
            "descriptors": seawall_proc::open_descriptors(),
            "children": in_use.iter().map(|upstream| upstream.processes()).sum::<usize>(),
            "resident_bytes": seawall_proc::resident_bytes(),
            "tasks": self.life.tasks(),
            "draining": self.life.is_draining(),
            "upstreams": upstreams,
        })
    }

    /// Every metric in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        let instances = self
            .upstreams()
            .iter()
            .map(|upstream| (Arc::clone(upstream.name()), upstream.running()))
            .collect();
        let gauges = Gauges {
            loads: self.admission.loads(),
            detached: self.admission.rows().iter().filter(|row| row.detached).count(),
            conversations: self.conversations.len(),
            instances,
        };
        self.telemetry.render(&gauges)
    }
}
