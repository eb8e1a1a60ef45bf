//! Checks of behaviour: isolation, faults, in-flight dedupe and readiness.

use crate::client::{Endpoint, Fail, Reply, Session, Target};
use crate::load::{Stats, open};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

type Report = Result<Value, String>;

fn ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10_000.0).round() / 10.0
}

pub(crate) fn said(Fail { kind, detail }: Fail) -> String {
    format!("{kind}: {detail}")
}

/// How a call ended: "ok" or the kind of failure, when, and the detail.
fn outcome(result: Result<Reply, Fail>, since: Instant) -> Value {
    let (kind, detail) = match result {
        Ok(_) => ("ok".into(), Value::Null),
        Err(fail) => (fail.kind, fail.detail.into()),
    };
    json!({"outcome": kind, "ms": ms(since), "detail": detail})
}

#[derive(clap::Args)]
pub(crate) struct IsolateOpts {
    #[command(flatten)]
    target: Target,
    /// The tool that must stay fast, as `tool` or `upstream/tool`.
    #[arg(long, default_value = "echo")]
    good: String,
    /// A tool to hold calls to, `tool[@URL]`; each one given makes a phase of its own, in order.
    #[arg(long, default_value = "hang")]
    bad: Vec<String>,
    #[arg(long, default_value_t = 16)]
    bad_clients: usize,
    #[arg(long, default_value_t = 4)]
    good_clients: usize,
    /// Seconds per phase.
    #[arg(long, default_value_t = 4.0)]
    duration: f64,
    /// Milliseconds after which a good call has failed.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

/// Compares a good tool's latency alone and while calls to each bad tool are held.
pub(crate) async fn isolate(opts: IsolateOpts) -> Report {
    let endpoint = Endpoint::new(&opts.target)?;
    let limit = Duration::from_millis(opts.timeout_ms);
    let mut opening = Stats::new();
    let mut sessions = open(&endpoint, opts.good_clients, &mut opening).await;
    let first = sessions.first_mut().ok_or_else(|| format!("no session: {}", opening.report()))?;
    let good = first.find(&opts.good).await.map_err(said)?;

    // One unmeasured second first: connections, caches and compilers warm up.
    good_calls(&mut sessions, &good, 1.0, limit).await;
    let alone = good_calls(&mut sessions, &good, opts.duration, limit).await;
    let mut phases = Vec::new();
    for bad in &opts.bad {
        let (tool, url) = bad.split_once('@').map_or((bad.as_str(), None), |(tool, url)| (tool, Some(url)));
        let place = match url {
            Some(url) => Endpoint::at(&opts.target, url)?,
            None => endpoint.clone(),
        };
        let mut held = match hold(&place, tool, opts.bad_clients).await {
            Ok(held) => held,
            Err(fail) => {
                phases.push(json!({"bad": bad, "skipped": said(fail)}));
                continue;
            }
        };
        let fresh = tokio::spawn(fresh_session(endpoint.clone(), opts.good.clone(), limit));
        let during = good_calls(&mut sessions, &good, opts.duration, limit).await;
        let fresh = fresh.await.expect("it does not panic");
        let mut returned = Stats::new();
        while let Some(Ok(early)) = held.try_join_next() {
            returned.failed(&early.err().unwrap_or_else(|| Fail::new("ok", "it answered")));
        }
        let still_held = held.len();
        held.shutdown().await;
        let after = good_calls(&mut sessions, &good, 1.0, limit).await;
        let ratio = |q: f64| Some((during.ms(q)? / alone.ms(q)? * 100.0).round() / 100.0);
        let returned = returned.report();
        phases.push(json!({
            "bad": bad, "held": still_held, "returned": returned["errors"], "why": returned["first_error"],
            "good": during.report(), "ratio_p50": ratio(0.5), "ratio_p99": ratio(0.99),
            "fresh_session": fresh, "p50_after_ms": after.ms(0.5),
        }));
    }
    Ok(json!({"good": good, "alone": alone.report(), "phases": phases}))
}

/// Starts calls that are meant to hang, each in a session of its own, and lets them arrive.
async fn hold(endpoint: &Endpoint, tool: &str, n: usize) -> Result<JoinSet<Result<Reply, Fail>>, Fail> {
    let mut opening = Stats::new();
    let mut sessions = open(endpoint, n, &mut opening).await;
    let first = sessions.first_mut().ok_or_else(|| Fail::new("no_session", opening.report()))?;
    let tool = first.find(tool).await?;
    let mut held = JoinSet::new();
    for mut session in sessions {
        let tool = tool.clone();
        held.spawn(async move { session.call(&tool, "{}").await });
    }
    sleep(Duration::from_millis(300)).await;
    Ok(held)
}

/// Calls from every session with short pauses; a call that times out counts as that long.
pub(crate) async fn good_calls(
    sessions: &mut Vec<Session>,
    tool: &str,
    seconds: f64,
    limit: Duration,
) -> Stats {
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut clients = JoinSet::new();
    for mut session in sessions.drain(..) {
        let tool = tool.to_owned();
        clients.spawn(async move {
            let mut stats = Stats::new();
            while Instant::now() < until {
                let start = Instant::now();
                match session.call_within(limit, &tool, r#"{"text":"good"}"#).await {
                    Ok(reply) => stats.took(reply.at - start),
                    Err(fail) => {
                        if fail.kind == "timeout" {
                            stats.took(limit);
                        }
                        stats.failed(&fail);
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            (stats, session)
        });
    }
    let mut all = Stats::new();
    while let Some(client) = clients.join_next().await {
        let (stats, session) = client.expect("a client does not panic");
        all.add(stats);
        sessions.push(session);
    }
    all
}

/// Whether a new client can come, list the tools and call the good one, and in what time.
async fn fresh_session(endpoint: Endpoint, good: String, limit: Duration) -> Value {
    let start = Instant::now();
    let work = async {
        let mut session = Session::open(&endpoint).await?;
        let tool = session.find(&good).await?;
        let reply = session.call(&tool, r#"{"text":"fresh"}"#).await?;
        session.close().await;
        Ok(reply)
    };
    let late = Err(Fail::new("timeout", format!("not within {limit:?}")));
    outcome(timeout(limit, work).await.unwrap_or(late), start)
}

#[derive(clap::Args)]
pub(crate) struct FaultOpts {
    #[command(flatten)]
    target: Target,
    /// A tool that works, on the upstream that will crash.
    #[arg(long, default_value = "echo")]
    good: String,
    /// The tool that never answers; "" skips it.
    #[arg(long, default_value = "hang")]
    hang: String,
    /// Seconds to wait for an error from it.
    #[arg(long, default_value_t = 70.0)]
    hang_limit: f64,
    /// The tool that ends the upstream; "" skips it.
    #[arg(long, default_value = "crash")]
    crash: String,
    /// A tool of another upstream, called right after the crash.
    #[arg(long)]
    other: Option<String>,
    /// Seconds to wait for the proxy to work again.
    #[arg(long, default_value_t = 20.0)]
    recover_limit: f64,
}

/// Reports what callers of a hung and of a crashed upstream see, and when the good tool works again.
pub(crate) async fn fault(opts: FaultOpts) -> Report {
    let endpoint = Endpoint::new(&opts.target)?;
    let mut report = json!({});
    if !opts.hang.is_empty() {
        let mut session = Session::open(&endpoint).await.map_err(said)?;
        let tool = session.find(&opts.hang).await.map_err(said)?;
        let start = Instant::now();
        let result = session.call_within(Duration::from_secs_f64(opts.hang_limit), &tool, "{}").await;
        report["hang"] = outcome(result, start);
        session.close().await;
    }
    if !opts.crash.is_empty() {
        let mut session = Session::open(&endpoint).await.map_err(said)?;
        let tool = session.find(&opts.crash).await.map_err(said)?;
        let good = session.find(&opts.good).await.map_err(said)?;
        let mut bystander = Session::open(&endpoint).await.map_err(said)?;
        let other = match &opts.other {
            Some(other) => Some(bystander.find(other).await.map_err(said)?),
            None => None,
        };
        let start = Instant::now();
        let result = session.call_within(Duration::from_secs(30), &tool, "{}").await;
        report["crash"] = outcome(result, start);
        if let Some(other) = other {
            let limit = Duration::from_secs(5);
            let start = Instant::now();
            let result = bystander.call_within(limit, &other, r#"{"text":"other"}"#).await;
            report["other_upstream"] = outcome(result, start);
        }
        let limit = Duration::from_secs_f64(opts.recover_limit);
        let (same, fresh) = tokio::join!(
            recovery(Some(session), &endpoint, &good, &opts.good, start, limit),
            recovery(None, &endpoint, &good, &opts.good, start, limit),
        );
        report["same_session"] = same;
        report["fresh_session"] = fresh;
    }
    Ok(report)
}

/// Retries a good call, in one session or in a new one each time, until it works.
async fn recovery(
    mut session: Option<Session>,
    endpoint: &Endpoint,
    tool: &str,
    good: &str,
    crashed: Instant,
    limit: Duration,
) -> Value {
    let attempt = Duration::from_secs(2);
    let mut last = Value::Null;
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let result = match &mut session {
            Some(session) => {
                outcome(session.call_within(attempt, tool, r#"{"text":"again"}"#).await, crashed)
            }
            None => fresh_session(endpoint.clone(), good.to_owned(), attempt).await,
        };
        if result["outcome"] == "ok" {
            return json!({"recovered": true, "ms": ms(crashed)});
        }
        last = result;
        sleep(Duration::from_millis(100)).await;
    }
    json!({"recovered": false, "ms": ms(crashed), "last": last})
}

#[derive(clap::Args)]
pub(crate) struct DedupeOpts {
    #[command(flatten)]
    target: Target,
    /// The counting tool.
    #[arg(long, default_value = "count")]
    tool: String,
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Milliseconds each execution takes.
    #[arg(long, default_value_t = 500)]
    ms: u64,
}

/// Sends equal calls at once and counts the executions behind their answers.
pub(crate) async fn dedupe(opts: DedupeOpts) -> Report {
    let endpoint = Endpoint::new(&opts.target)?;
    let mut stats = Stats::new();
    let mut sessions = open(&endpoint, opts.clients, &mut stats).await;
    let first = sessions.first_mut().ok_or_else(|| format!("no session: {}", stats.report()))?;
    let tool = first.find(&opts.tool).await.map_err(said)?;
    let arguments = format!(r#"{{"key":"dedupe {}","ms":{}}}"#, std::process::id(), opts.ms);
    let mut calls = JoinSet::new();
    for mut session in sessions {
        let (tool, arguments) = (tool.clone(), arguments.clone());
        calls.spawn(async move { session.call_within(Duration::from_secs(30), &tool, &arguments).await });
    }
    // Each execution answers with its number and process, so distinct texts are executions.
    let mut executions = HashSet::new();
    let mut answered = 0;
    while let Some(call) = calls.join_next().await {
        match call.expect("a client does not panic") {
            Ok(reply) => {
                answered += 1;
                let message: Value = serde_json::from_slice(&reply.message).unwrap_or_default();
                executions.insert(message["result"]["content"][0]["text"].to_string());
            }
            Err(fail) => stats.failed(&fail),
        }
    }
    Ok(json!({"calls": answered, "executions": executions.len(), "errors": stats.report()["errors"]}))
}

#[derive(clap::Args)]
pub(crate) struct ProbeOpts {
    #[command(flatten)]
    target: Target,
    /// Tools that must be listed.
    #[arg(long, default_value = "echo")]
    tool: Vec<String>,
    /// Seconds to keep trying.
    #[arg(long, default_value_t = 60.0)]
    limit: f64,
}

/// Waits for the first `tools/list` that has every tool asked for.
pub(crate) async fn probe(opts: ProbeOpts) -> Report {
    let endpoint = Endpoint::new(&opts.target)?;
    let start = Instant::now();
    loop {
        let attempt = async {
            let mut session = Session::open(&endpoint).await?;
            let names = session.tools().await?;
            for wanted in &opts.tool {
                session.find(wanted).await?;
            }
            let seen = json!({
                "ready_ms": ms(start), "version": session.version, "streamed": session.streamed, "tools": names,
            });
            session.close().await;
            Ok::<_, Fail>(seen)
        };
        let late = Err(Fail::new("timeout", "no tool list within 5 s"));
        match timeout(Duration::from_secs(5), attempt).await.unwrap_or(late) {
            Ok(seen) => return Ok(seen),
            Err(fail) if start.elapsed().as_secs_f64() >= opts.limit => return Err(said(fail)),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
