//! Isolation in slices: tools that must stay fast, alone and while a misdeed goes on, by turns.
//!
//! Each round has three slices: alone, during, and alone again, in this order and in the reverse one by turns. What
//! differs between the two kinds of slices alone is noise.

use crate::checks::{good_calls, said};
use crate::client::{Endpoint, Fail, Session, Target};
use crate::hold::label;
use crate::load::{Stats, open};
use crate::proto::MODERN;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long a client waits that would otherwise call again at once.
const LEAST_PAUSE: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    target: Target,
    /// A tool that must stay fast, as `tool` or `upstream/tool`; may be given again.
    #[arg(long, default_value = "echo")]
    good: Vec<String>,
    #[arg(long, default_value_t = 4)]
    good_clients: usize,
    /// The tool that misbehaves.
    #[arg(long, default_value = "hang")]
    bad: String,
    /// Its arguments as JSON.
    #[arg(long, default_value = "{}")]
    bad_args: String,
    /// The era its clients speak; in the stateless one, hanging up takes a call back.
    #[arg(long, default_value = MODERN)]
    bad_era: String,
    #[arg(long, default_value_t = 16)]
    bad_clients: usize,
    /// A tool of the same upstream that is called before each call of that, with `{"text":"before"}`.
    #[arg(long)]
    bad_before: Option<String>,
    /// Milliseconds until a client whose call has ended calls again.
    #[arg(long, default_value_t = 0)]
    bad_pause_ms: u64,
    /// Slices of each kind.
    #[arg(long, default_value_t = 20)]
    slices: usize,
    /// Seconds per slice.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before each slice for what has begun, or has ended, to take effect: an answer that hangs becomes a
    /// stream after one.
    #[arg(long, default_value_t = 1.5)]
    settle: f64,
    /// Milliseconds after which a good call has failed.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Alone,
    During,
    Again,
}

/// A good tool, its clients, and the 99th percentile of each slice in milliseconds.
struct Good {
    wanted: String,
    tool: String,
    sessions: Vec<Session>,
    alone: Vec<f64>,
    during: Vec<f64>,
    again: Vec<f64>,
    all: Stats,
}

/// How the calls of those that misbehave ended.
#[derive(Default)]
struct Ends {
    begun: u64,
    by_label: BTreeMap<String, u64>,
}

/// What those that misbehave share.
struct Bad {
    tool: String,
    arguments: String,
    /// What is called before each call.
    before: Option<String>,
    pause: Duration,
    ends: Mutex<Ends>,
}

/// Measures the good tools slice by slice.
pub(crate) async fn run(opts: Opts) -> Result<Value, String> {
    let endpoint = Endpoint::new(&opts.target)?;
    let place = Endpoint::speaking(&opts.target, &opts.bad_era)?;
    let (limit, settle) = (Duration::from_millis(opts.timeout_ms), Duration::from_secs_f64(opts.settle));

    let mut goods = Vec::new();
    for wanted in &opts.good {
        goods.push(Good::open(&endpoint, wanted, opts.good_clients).await?);
    }
    let mut finder = bad_sessions(&place, 1).await?;
    let tool = finder[0].find(&opts.bad).await.map_err(said)?;
    let before = match &opts.bad_before {
        Some(before) => Some(finder[0].find(before).await.map_err(said)?),
        None => None,
    };
    drop(finder);
    let bad = Arc::new(Bad {
        tool,
        arguments: opts.bad_args.clone(),
        before,
        pause: Duration::from_millis(opts.bad_pause_ms).max(LEAST_PAUSE),
        ends: Mutex::default(),
    });

    // One unmeasured slice first: connections, caches and processors warm up.
    slice(&mut goods, opts.seconds, limit, None).await;
    for round in 0..opts.slices {
        let mut order = [Kind::Alone, Kind::During, Kind::Again];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let mut misdeed = JoinSet::new();
            if kind == Kind::During {
                // One after the other within a pause: clients that all call in the same moment are one client's loop, and
                // not a crowd.
                let apart = bad.pause / u32::try_from(opts.bad_clients.max(1)).unwrap_or(u32::MAX);
                let mut wait = Duration::ZERO;
                for session in bad_sessions(&place, opts.bad_clients).await? {
                    misdeed.spawn(Arc::clone(&bad).go_on(session, wait));
                    wait += apart;
                }
            }
            sleep(settle).await;
            slice(&mut goods, opts.seconds, limit, Some(kind)).await;
            misdeed.shutdown().await;
        }
    }
    let ends = bad.ends.lock().expect("no panic holds it");
    let good: Vec<Value> = goods.iter().map(Good::report).collect();
    Ok(json!({"good": good, "bad": {"tool": bad.tool, "calls": ends.begun, "ends": ends.by_label}}))
}

/// Opens all of the sessions, or fails.
async fn bad_sessions(endpoint: &Endpoint, count: usize) -> Result<Vec<Session>, String> {
    let mut opening = Stats::new();
    let mut sessions = open(endpoint, count, &mut opening).await;
    if sessions.len() < count || sessions.is_empty() {
        return Err(format!("only {} of {count} sessions: {}", sessions.len(), opening.report()));
    }
    for session in &mut sessions {
        session.progress = true;
    }
    Ok(sessions)
}

/// One slice of every good tool at the same time; without a kind it is not kept.
async fn slice(goods: &mut [Good], seconds: f64, limit: Duration, kind: Option<Kind>) {
    let mut running = JoinSet::new();
    for (index, good) in goods.iter_mut().enumerate() {
        let (mut sessions, tool) = (std::mem::take(&mut good.sessions), good.tool.clone());
        running.spawn(async move {
            let stats = good_calls(&mut sessions, &tool, seconds, limit).await;
            (index, sessions, stats)
        });
    }
    while let Some(done) = running.join_next().await {
        let (index, sessions, stats) = done.expect("a client does not panic");
        let good = &mut goods[index];
        good.sessions = sessions;
        // A slice without a single answer is as bad as can be told.
        let p99 = stats.ms(0.99).unwrap_or(limit.as_secs_f64() * 1000.0);
        match kind {
            None => continue,
            Some(Kind::Alone) => good.alone.push(p99),
            Some(Kind::During) => good.during.push(p99),
            Some(Kind::Again) => good.again.push(p99),
        }
        good.all.add(stats);
    }
}

impl Good {
    async fn open(endpoint: &Endpoint, wanted: &str, clients: usize) -> Result<Self, String> {
        let mut opening = Stats::new();
        let mut sessions = open(endpoint, clients, &mut opening).await;
        let first = sessions.first_mut().ok_or_else(|| format!("no session: {}", opening.report()))?;
        let tool = first.find(wanted).await.map_err(said)?;
        let (alone, during, again) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { wanted: wanted.to_owned(), tool, sessions, alone, during, again, all: Stats::new() })
    }

    fn report(&self) -> Value {
        let all = self.all.report();
        json!({
            "tool": self.wanted,
            "p99_ms": {"alone": self.alone, "during": self.during, "again": self.again},
            "calls": all["calls"], "errors": all["errors"], "first_error": all["first_error"],
        })
    }
}

impl Bad {
    /// Misbehaves once; what fails comes with the words that say when it was not the misdeed that did.
    async fn call(&self, session: &mut Session) -> Result<(), (&'static str, Fail)> {
        if let Some(before) = &self.before {
            session.call(before, r#"{"text":"before"}"#).await.map_err(|fail| ("before: ", fail))?;
        }
        session.call(&self.tool, &self.arguments).await.map(drop).map_err(|fail| ("", fail))
    }

    /// Calls again and again after a first wait, until it is dropped in the middle of a call.
    async fn go_on(self: Arc<Self>, mut session: Session, wait: Duration) {
        sleep(wait).await;
        loop {
            self.ends.lock().expect("no panic holds it").begun += 1;
            let label = match self.call(&mut session).await {
                Ok(()) => String::from("ok"),
                Err((when, fail)) => format!("{when}{}", label(&fail)),
            };
            *self.ends.lock().expect("no panic holds it").by_label.entry(label).or_default() += 1;
            sleep(self.pause).await;
        }
    }
}
