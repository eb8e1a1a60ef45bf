//! Load: many sessions calling one tool, closed-loop or at a fixed rate.

use crate::client::{Endpoint, Fail, Session, Target};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

#[derive(clap::Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    target: Target,
    /// Concurrent client sessions.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// The tool, as `tool` or `upstream/tool`.
    #[arg(long, default_value = "echo")]
    tool: String,
    /// Arguments as JSON. Without them each call echoes a text of its own and checks the answer for it.
    #[arg(long)]
    args: Option<String>,
    /// Bytes that each echo's own text is padded to.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// Calls per second over all clients; latency then counts from when a call was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Milliseconds after which a call has failed.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

/// Latencies of the calls that were answered, and the failures by kind.
pub(crate) struct Stats {
    latency: Histogram<u64>,
    failures: BTreeMap<String, u64>,
    first_failure: Option<String>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        Self { latency, failures: BTreeMap::new(), first_failure: None }
    }

    /// Counts an answered call.
    pub(crate) fn took(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_micros() as u64);
    }

    /// Counts a failed call by its kind and keeps the first one's detail.
    pub(crate) fn failed(&mut self, fail: &Fail) {
        *self.failures.entry(fail.kind.clone()).or_default() += 1;
        self.first_failure.get_or_insert_with(|| fail.detail.clone());
    }

    /// Adds what another client saw.
    pub(crate) fn add(&mut self, other: Self) {
        self.latency += other.latency;
        for (kind, n) in other.failures {
            *self.failures.entry(kind).or_default() += n;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    /// A percentile of the latency in milliseconds, none without calls.
    pub(crate) fn ms(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.value_at_quantile(quantile) as f64 / 1000.0)
    }

    /// The counts and latencies as JSON.
    pub(crate) fn report(&self) -> Value {
        json!({
            "calls": self.latency.len(),
            "latency_ms": {
                "p50": self.ms(0.5), "p90": self.ms(0.9), "p99": self.ms(0.99), "p99.9": self.ms(0.999),
                "max": self.ms(1.0),
            },
            "errors": self.failures,
            "first_error": self.first_failure,
        })
    }
}

/// What every client of one run shares.
struct Plan {
    tool: String,
    arguments: Option<String>,
    /// The least length of an echo's text.
    bytes: usize,
    begin: Instant,
    /// Measured calls start within `from..until`.
    from: Instant,
    until: Instant,
    limit: Duration,
    rate: Option<f64>,
    due: Semaphore,
    taken: AtomicU64,
    completed: AtomicU64,
}

impl Plan {
    /// When call number `n` of an open-loop run is due.
    fn due_at(&self, n: u64, rate: f64) -> Instant {
        self.begin + Duration::from_secs_f64(n as f64 / rate)
    }

    /// Waits for the next call's turn and returns the moment its latency counts from.
    async fn next(&self) -> Option<Instant> {
        let start = match self.rate {
            None => Instant::now(),
            Some(rate) => {
                self.due.acquire().await.ok()?.forget();
                self.due_at(self.taken.fetch_add(1, Ordering::Relaxed), rate)
            }
        };
        (start < self.until).then_some(start)
    }

    /// Releases the calls of an open-loop run when due; a thread sleeps finer than tokio's timer.
    fn pace(&self, rate: f64) -> u64 {
        for n in 0.. {
            let due = self.due_at(n, rate);
            std::thread::sleep(due.min(self.until).saturating_duration_since(Instant::now()));
            if due >= self.until {
                self.due.close();
                return n;
            }
            self.due.add_permits(1);
        }
        unreachable!("the run ends")
    }

    async fn client(&self, number: usize, mut session: Session) -> (Stats, Session) {
        let mut stats = Stats::new();
        for n in 0u64.. {
            let Some(start) = self.next().await else { break };
            // The dot after the number keeps one text from being the start of another.
            let text = format!("{:.<1$}", format!("mcp-bench {number}.{n}."), self.bytes);
            let own;
            let arguments = match &self.arguments {
                Some(arguments) => arguments,
                None => {
                    own = format!(r#"{{"text":"{text}"}}"#);
                    &own
                }
            };
            let mut outcome = session.call_within(self.limit, &self.tool, arguments).await;
            if let Ok(reply) = &outcome
                && self.arguments.is_none()
                && !reply.message.windows(text.len()).any(|w| w == text.as_bytes())
            {
                outcome = Err(Fail::new("wrong_answer", format!("no {text:?} in {:?}", reply.message)));
            }
            match outcome {
                Ok(reply) => {
                    if (self.from..self.until).contains(&reply.at) {
                        self.completed.fetch_add(1, Ordering::Relaxed);
                    }
                    if start >= self.from {
                        stats.took(reply.at - start);
                    }
                }
                Err(fail) => {
                    if start >= self.from {
                        stats.failed(&fail);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        (stats, session)
    }
}

/// Opens the sessions, runs the load and reports rates, latencies and failures.
pub(crate) async fn run(opts: Opts) -> Result<Value, String> {
    let endpoint = Endpoint::new(&opts.target)?;
    let mut stats = Stats::new();
    let opening = Instant::now();
    let mut sessions = open(&endpoint, opts.clients, &mut stats).await;
    let opened = opening.elapsed();
    let first = sessions.first_mut().ok_or_else(|| format!("no session: {}", stats.report()))?;
    let tool = first.find(&opts.tool).await.map_err(|fail| format!("{fail:?}"))?;
    let (version, open_sessions) = (first.version.clone(), sessions.len());

    let begin = Instant::now();
    let from = begin + Duration::from_secs_f64(opts.warmup);
    let echo = opts.tool.ends_with("echo");
    let plan = Arc::new(Plan {
        tool,
        arguments: opts.args.or_else(|| (!echo).then(|| "{}".into())),
        bytes: opts.bytes,
        begin,
        from,
        until: from + Duration::from_secs_f64(opts.duration),
        limit: Duration::from_millis(opts.timeout_ms),
        rate: opts.rate,
        due: Semaphore::new(0),
        taken: AtomicU64::new(0),
        completed: AtomicU64::new(0),
    });
    let pacer = opts.rate.map(|rate| {
        let plan = Arc::clone(&plan);
        std::thread::spawn(move || plan.pace(rate))
    });
    let clients: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(number, session)| {
            let plan = Arc::clone(&plan);
            tokio::spawn(async move { plan.client(number, session).await })
        })
        .collect();
    let mut streamed = false;
    let mut done = Vec::new();
    for client in clients {
        let (of_client, session) = client.await.expect("a client does not panic");
        stats.add(of_client);
        streamed |= session.streamed;
        done.push(tokio::spawn(session.close()));
    }
    for closing in done {
        let _ = closing.await;
    }
    let mut report = stats.report();
    if let Some(pacer) = pacer {
        let planned = pacer.join().expect("the pacer does not panic");
        report["unsent"] = planned.saturating_sub(plan.taken.load(Ordering::Relaxed)).into();
    }
    let completed = plan.completed.load(Ordering::Relaxed);
    report["calls_per_s"] = json!((completed as f64 / opts.duration * 10.0).round() / 10.0);
    report["clients"] = open_sessions.into();
    report["opened_ms"] = (opened.as_millis() as u64).into();
    report["version"] = version.into();
    report["streamed"] = streamed.into();
    Ok(report)
}

/// Opens sessions side by side; those that fail are counted and left out.
pub(crate) async fn open(endpoint: &Endpoint, n: usize, stats: &mut Stats) -> Vec<Session> {
    let tasks: Vec<_> = (0..n)
        .map(|_| {
            let endpoint = endpoint.clone();
            tokio::spawn(async move {
                let opened = timeout(Duration::from_secs(30), Session::open(&endpoint)).await;
                opened.unwrap_or_else(|_| Err(Fail::new("open_timeout", "no session within 30 s")))
            })
        })
        .collect();
    let mut sessions = Vec::new();
    for task in tasks {
        match task.await.expect("opening does not panic") {
            Ok(session) => sessions.push(session),
            Err(fail) => stats.failed(&fail),
        }
    }
    sessions
}
