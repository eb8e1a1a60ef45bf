//! What the daemon is at, at one moment, and where that is got from.

use super::counters::{Counters, Rates, names};
use crate::cli::{
    DaemonArguments, Exit, Failure,
    calls::{self, NOTHING, age, word},
    daemon::DaemonClient,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the daemon may take to say what it is at.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that is shown of one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// `GET /api/v1/status`.
    pub(super) status: Value,
    /// `GET /api/v1/calls`.
    pub(super) calls: Value,
    /// What was counted since the daemon started.
    pub(super) counters: Counters,
    /// What was counted per second since the snapshot before; none in the first of a daemon.
    pub(super) per_second: Option<Rates>,
}

/// One server, as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) instances: usize,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
    pub(super) breaker: String,
    /// Calls that ended per second.
    pub(super) calls: Option<f64>,
    /// Why it cannot be used now; in brackets, why it last could not.
    pub(super) failure: String,
}

impl Snapshot {
    /// All of it as one JSON object.
    pub(super) fn json(&self) -> Value {
        let per_second =
            self.per_second.as_ref().map(|rates| json!({"totals": rates.totals, "calls": rates.calls}));
        json!({
            "status": self.status,
            "calls": self.calls,
            "counters": {"totals": self.counters.totals, "calls": self.counters.calls},
            "per_second": per_second,
        })
    }

    /// The daemon itself, in one line.
    pub(super) fn headline(&self) -> String {
        let status = &self.status;
        let mebibytes = status["resident_bytes"].as_u64().unwrap_or_default() >> 20;
        let draining = if status["draining"] == true { ", stopping" } else { "" };
        format!(
            "seawall {} at {} (pid {}): {} conversations, {} processes, {mebibytes} MiB{draining}",
            word(&status["version"]),
            word(&status["listen"]),
            word(&status["pid"]),
            word(&status["conversations"]),
            word(&status["children"]),
        )
    }

    /// What happened per second, or where that is not known since the daemon started, in one line.
    pub(super) fn figures(&self) -> String {
        let figures = names().map(|name| {
            let figure = match &self.per_second {
                Some(rates) => format!("{:.1}", rates.totals.get(name).copied().unwrap_or_default()),
                None => self.counters.totals.get(name).copied().unwrap_or_default().to_string(),
            };
            format!("{} {figure}", name.replace('_', " "))
        });
        let since = if self.per_second.is_some() { "per second" } else { "since it started" };
        format!("{since}: {}", figures.collect::<Vec<_>>().join(", "))
    }

    /// The servers, in configured order.
    pub(super) fn servers(&self) -> Vec<Server> {
        let scopes = calls::scopes(&self.calls);
        let rows = self.status["upstreams"].as_array().into_iter().flatten();
        rows.map(|row| {
            let name = word(&row["name"]);
            let instances = row["instances"].as_array().map_or(&[][..], Vec::as_slice);
            let in_flight: u64 = instances.iter().filter_map(|instance| instance["in_flight"].as_u64()).sum();
            let scope = scopes.iter().find(|scope| scope.scope == "upstream" && scope.name == name);
            let rates = self.per_second.as_ref();
            Server {
                state: word(&row["state"]),
                instances: instances.len(),
                in_flight,
                waiting: scope.map_or(0, |scope| scope.waiting),
                breaker: breaker(&row["breaker"]),
                calls: rates.map(|rates| rates.calls.get(&name).copied().unwrap_or_default()),
                failure: failure(row),
                name,
            }
        })
        .collect()
    }
}

/// A breaker's state, and where it lets nothing pass for how long.
fn breaker(value: &Value) -> String {
    match value {
        Value::Object(breaker) => {
            let state = breaker.get("state").map_or_else(|| NOTHING.to_owned(), word);
            match breaker.get("next_try_ms").and_then(Value::as_u64) {
                Some(next) => format!("{state} {}", age(next)),
                None => state,
            }
        }
        other => word(other),
    }
}

fn failure(row: &Value) -> String {
    let told = |failure: &Value| format!("{}: {}", word(&failure["stage"]), word(&failure["message"]));
    if row["failure"].is_object() {
        told(&row["failure"])
    } else if row["last_failure"].is_object() {
        format!("({})", told(&row["last_failure"]))
    } else {
        NOTHING.to_owned()
    }
}

/// Where snapshots come from: the daemon, which is looked for anew when it does not answer.
#[derive(Debug)]
pub(super) struct Source {
    arguments: DaemonArguments,
    client: Option<DaemonClient>,
    before: Option<Reading>,
}

/// What was counted, when, and by which daemon.
#[derive(Debug)]
struct Reading {
    at: Instant,
    pid: Value,
    counters: Counters,
}

impl Source {
    /// The daemon that these arguments name.
    pub(super) fn new(arguments: DaemonArguments) -> Self {
        Self { arguments, client: None, before: None }
    }

    /// Asks what the daemon is at.
    ///
    /// # Errors
    /// When none is running, or it cannot be reached, refuses or takes too long.
    pub(super) async fn look(&mut self) -> Result<Snapshot, Failure> {
        let client = match self.client.take() {
            Some(client) => client,
            None => DaemonClient::find(&self.arguments).await?,
        };
        let asked = Box::pin(async {
            tokio::try_join!(
                client.get("/api/v1/status"),
                client.get("/api/v1/calls"),
                client.text("/metrics")
            )
        });
        let Ok(answers) = timeout(PATIENCE, asked).await else {
            let text = format!("the daemon did not say what it is at within {} s", PATIENCE.as_secs());
            return Err(Failure::new(Exit::NoDaemon, text));
        };
        let (status, calls, metrics) = answers?;
        self.client = Some(client);
        let now =
            Reading { at: Instant::now(), pid: status["pid"].clone(), counters: Counters::read(&metrics) };
        let before = self.before.as_ref().filter(|before| before.pid == now.pid);
        let per_second = before.and_then(|before| now.counters.since(&before.counters, now.at - before.at));
        let counters = now.counters.clone();
        self.before = Some(now);
        Ok(Snapshot { status, calls, counters, per_second })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A snapshot with something of everything.
    pub(in crate::cli::top) fn sample() -> Snapshot {
        let counters = Counters::read("seawall_calls_total{upstream=\"docs\"} 120\n");
        let before = Counters::read("seawall_calls_total{upstream=\"docs\"} 100\n");
        let per_second = counters.since(&before, Duration::from_secs(4));
        let status = json!({
            "version": "1.2.3", "listen": "127.0.0.1:8079", "pid": 42, "conversations": 3, "children": 2,
            "resident_bytes": 20 << 20,
            "upstreams": [
                {"name": "docs", "state": "running", "failure": null, "last_failure": null,
                 "breaker": {"state": "closed", "next_try_ms": null},
                 "instances": [{"in_flight": 2}, {"in_flight": 1}]},
                {"name": "slow", "state": "failed", "failure": {"stage": "start", "message": "it exited\nwith 1"},
                 "last_failure": null, "breaker": {"state": "open", "next_try_ms": 4200}, "instances": []},
            ],
        });
        let permits: Vec<Value> = (0..30)
            .map(|number: u64| {
                json!({
                    "caller": "me", "conversation": null, "upstream": "docs", "tool": format!("tool{number:02}"),
                    "since_ms": 60_000 - number * 1000, "until_ms": 1000,
                    "caller_half": true, "upstream_half": true, "detached": false,
                })
            })
            .collect();
        let calls = json!({
            "permits": permits,
            "waiting": [{"caller": "you", "conversation": null, "upstream": "slow", "tool": "late", "since_ms": 5}],
            "scopes": [
                {"scope": "total", "name": "", "in_use": 30, "limit": 64, "waiting": 1, "oldest_ms": 60_000},
                {"scope": "upstream", "name": "slow", "in_use": 4, "limit": 4, "waiting": 1, "oldest_ms": 900},
            ],
        });
        Snapshot { status, calls, counters, per_second }
    }

    #[test]
    fn a_server_is_told_with_its_load_its_breaker_and_its_failure() {
        let servers = sample().servers();
        let docs = Server {
            name: "docs".to_owned(),
            state: "running".to_owned(),
            instances: 2,
            in_flight: 3,
            waiting: 0,
            breaker: "closed".to_owned(),
            calls: Some(5.0),
            failure: NOTHING.to_owned(),
        };
        assert_eq!(servers[0], docs);
        let slow = &servers[1];
        assert_eq!((slow.waiting, &*slow.breaker, slow.calls), (1, "open 4.2s", Some(0.0)));
        assert_eq!(slow.failure, "start: it exited\u{fffd}with 1");
    }

    #[test]
    fn the_first_snapshot_has_counts_and_later_ones_have_rates() {
        let mut snapshot = sample();
        assert!(snapshot.figures().contains("calls 5.0"), "{}", snapshot.figures());
        assert_eq!(snapshot.json()["per_second"]["calls"]["docs"], 5.0);
        snapshot.per_second = None;
        assert!(snapshot.figures().contains("calls 120"), "{}", snapshot.figures());
        assert_eq!(snapshot.json()["per_second"], Value::Null);
        assert_eq!(snapshot.json()["counters"]["totals"]["calls"], 120);
    }
}
