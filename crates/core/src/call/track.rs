//! What past calls to one upstream say about the next: whether it is made at all, whether it may be tried again and
//! after what pause, and how long an attempt of it may take.

use super::{
    breaker::{Breaker, Change, End, Open, Pass, State},
    budget::{RetryBudget, backoff},
    learned::Learned,
};
use crate::{
    config::{Learn, Retries, Upstream},
    conversation::random_byte,
};
use seawall_proto::{Code, Fault, Stage};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// For how many tools of an upstream a time is learned at most; those beyond keep the time they are given.
const TOOLS: usize = 1024;

/// What is kept of the past calls to one upstream.
#[derive(Debug)]
pub struct Track(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    retries: Retries,
    /// How the time of every tool is learned.
    learn: Option<Learn>,
    /// How that of single tools is, which goes over it.
    tools: HashMap<String, Learn>,
    /// Held for a few steps, never across an await.
    past: Mutex<Past>,
}

#[derive(Debug)]
struct Past {
    breaker: Breaker,
    budget: RetryBudget,
    learned: HashMap<Arc<str>, Learned>,
}

/// The leave to make one attempt. Dropped without an end, as when its call is taken back, it says nothing of the
/// upstream.
#[derive(Debug)]
#[must_use = "dropping it ends the attempt as far as the breaker can see"]
pub struct Passed {
    shared: Arc<Shared>,
    pass: Option<Pass>,
}

/// What the status shows of a [`Track`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// `closed`, `open` or `half-open`: the breaker's state.
    pub breaker: &'static str,
    /// Milliseconds until the upstream is tried again, while the breaker is open.
    pub next_try_ms: Option<u64>,
    /// How many retries the budget has left.
    pub retries_left: u64,
    /// The timeouts that are learned, in milliseconds, by the upstream's own names of the tools.
    pub learned_ms: BTreeMap<Arc<str>, u64>,
}

impl Track {
    /// The track of an upstream that has not been called yet.
    pub fn new(upstream: &Upstream) -> Self {
        let tools = upstream.tools.iter();
        let past = Past {
            breaker: Breaker::new(upstream.breaker),
            budget: RetryBudget::new(&upstream.retries),
            learned: HashMap::new(),
        };
        Self(Arc::new(Shared {
            name: Arc::from(&*upstream.name),
            retries: upstream.retries,
            learn: upstream.terms.learn,
            tools: tools.filter_map(|(name, tool)| Some((name.clone(), tool.terms.learn?))).collect(),
            past: Mutex::new(past),
        }))
    }

    /// Asks for leave to make an attempt.
    ///
    /// # Errors
    /// UPSTREAM_UNAVAILABLE while the breaker is open; nothing was sent.
    pub fn pass(&self) -> Result<Passed, Fault> {
        let passed = self.0.lock().breaker.try_pass(Instant::now());
        match passed {
            Ok(pass) => Ok(Passed { shared: Arc::clone(&self.0), pass: Some(pass) }),
            Err(open) => Err(self.0.not_tried(open)),
        }
    }

    /// A call was made, which is not one of those that repeat another: it adds its share to the budget of retries.
    pub fn called(&self) {
        self.0.lock().budget.called();
    }

    /// Takes a retry out of the budget, where there is one left. Whether the call can be repeated at all, and how
    /// often, is for the caller to know.
    pub fn may_retry(&self) -> bool {
        self.0.lock().budget.try_retry()
    }

    /// How long to wait before another attempt, when `attempt` of them, at least one, have failed.
    pub fn backoff(&self, attempt: u32) -> Duration {
        backoff(&self.0.retries, attempt, f64::from(random_byte()) / 255.0)
    }

    /// How long an attempt at this tool may take by what was learned, where that is wanted and enough is known.
    pub fn learned(&self, tool: &str) -> Option<Duration> {
        let learn = self.0.learn(tool)?;
        self.0.lock().learned.get(tool)?.timeout(&learn)
    }

    /// An attempt at this tool has ended well after `took`.
    pub fn succeeded(&self, tool: &Arc<str>, took: Duration) {
        if self.0.learn(tool).is_none() {
            return;
        }
        let mut past = self.0.lock();
        let learned = &mut past.learned;
        if let Some(known) = learned.get_mut(tool) {
            known.success(took);
        } else if learned.len() < TOOLS {
            learned.entry(Arc::clone(tool)).or_default().success(took);
        }
    }

    /// An attempt at this tool has run out of the time that [`Track::learned`] gave it.
    pub fn ran_out(&self, tool: &str) {
        if let Some(learned) = self.0.lock().learned.get_mut(tool) {
            learned.ran_out();
        }
    }

    /// What the status shows.
    pub fn show(&self) -> Shown {
        let past = self.0.lock();
        let state = past.breaker.state(Instant::now());
        let timeout = |(tool, learned): (&Arc<str>, &Learned)| {
            let timeout = learned.timeout(&self.0.learn(tool)?)?;
            Some((Arc::clone(tool), milliseconds(timeout)))
        };
        Shown {
            breaker: state.name(),
            next_try_ms: match state {
                State::Open { next } => Some(milliseconds(next)),
                State::Closed | State::HalfOpen => None,
            },
            retries_left: past.budget.left(),
            learned_ms: past.learned.iter().filter_map(timeout).collect(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, tool: &str) -> Option<Learn> {
        self.tools.get(tool).copied().or(self.learn)
    }

    fn not_tried(&self, Open { retry_after }: Open) -> Fault {
        let text = format!(
            "calls to server {:?} are not tried now, because so many of the last ones failed; nothing was sent. It is \
             tried next in {:.1} s.",
            self.name,
            retry_after.as_secs_f64()
        );
        Fault {
            upstream: Some(Arc::clone(&self.name)),
            retry_after_ms: Some(milliseconds(retry_after)),
            ..Fault::new(Code::UpstreamUnavailable, Stage::Start, text)
        }
    }
}

impl Passed {
    /// The attempt has ended. Says what that changed for the calls after it.
    pub fn ended(mut self, end: End) -> Option<Change> {
        self.end(end)
    }

    fn end(&mut self, end: End) -> Option<Change> {
        let pass = self.pass.take()?;
        self.shared.lock().breaker.ended(pass, end, Instant::now())
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.end(End::Neither);
    }
}

/// No fewer than there are: whoever waits so long has waited long enough.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
