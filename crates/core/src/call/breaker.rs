//! The breaker: a server most of whose last calls failed is left alone for a while, and then tried with one call.
//!
//! It looks at every ended call of a sliding window, not at buckets or averages: what it did can be counted by hand
//! from the log. A pure state machine; the time comes in as an argument.

use crate::config;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How many ended calls a window holds at most; beyond that the oldest leave before their time. So many say enough, and
/// a busy server costs no more memory than this.
const MOST: usize = 4096;
/// What a call is told to wait at least while another one tries the server: how long that one takes, nobody knows.
const TRYING: Duration = Duration::from_secs(1);

/// Whether calls to one server are let through.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: config::Breaker,
    /// When each call of the window ended, and whether it failed; oldest first.
    window: VecDeque<(Instant, bool)>,
    /// How many of them failed.
    failed: usize,
    phase: Phase,
    /// One more with each closing and each opening that follows it: a call that began in another episode says nothing
    /// of the server as it is now.
    episode: u64,
    probes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        since: Instant,
    },
    /// Nobody tries the server, and the next call may.
    HalfOpen,
    Probing {
        probe: u64,
        since: Instant,
    },
}

/// The leave of one call, which is to be given back with how it ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call that was let through has an end"]
pub struct Pass {
    episode: u64,
    /// Its number, where it is the one that tries a server that was left alone.
    probe: Option<u64>,
}

/// A call is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// When another try makes sense, at the earliest.
    pub retry_after: Duration,
}

/// How a call ended, as far as it says something about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server answered.
    Success,
    /// It did not, in time or at all.
    Failure,
    /// The call was taken back, or never came to the server.
    Neither,
}

/// What the end of a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on calls are not let through.
    Opened,
    /// From now on they are again.
    Closed,
}

impl Change {
    /// `opened` or `closed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
        }
    }
}

/// Whether calls are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They are.
    Closed,
    /// They are not.
    Open {
        /// Until the first one is again.
        next: Duration,
    },
    /// One is, or is under way.
    HalfOpen,
}

impl State {
    /// Its name in what people and programs read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl Breaker {
    /// A closed breaker. With `failures` at zero it never opens; a `least` beyond 4096 counts as 4096.
    pub fn new(config: config::Breaker) -> Self {
        Self { config, window: VecDeque::new(), failed: 0, phase: Phase::Closed, episode: 0, probes: 0 }
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// While the server is left alone, and while one call tries it. A try without an end stops mattering after the
    /// `open` of the configuration: then another call tries.
    pub fn try_pass(&mut self, now: Instant) -> Result<Pass, Open> {
        match self.phase {
            Phase::Closed => return Ok(Pass { episode: self.episode, probe: None }),
            Phase::HalfOpen => {}
            Phase::Open { since } => {
                let left = self.left(since, now);
                if !left.is_zero() {
                    return Err(Open { retry_after: left });
                }
            }
            Phase::Probing { since, .. } => {
                let left = self.left(since, now);
                if !left.is_zero() {
                    return Err(Open { retry_after: left.max(TRYING) });
                }
            }
        }
        self.probes += 1;
        self.phase = Phase::Probing { probe: self.probes, since: now };
        Ok(Pass { episode: self.episode, probe: Some(self.probes) })
    }

    /// A call that was let through has ended; says what that changed.
    ///
    /// It opens on a failure alone: that good answers bring the number of calls to its least is no reason.
    pub fn ended(&mut self, Pass { episode, probe }: Pass, end: End, now: Instant) -> Option<Change> {
        if episode != self.episode {
            return None;
        }
        let Some(probe) = probe else {
            return match end {
                End::Success => self.count(false, now),
                End::Failure => self.count(true, now),
                End::Neither => None,
            };
        };
        // A try that was given up counts all the same once it ends: a server may be slower than `open` is long.
        match end {
            End::Success => {
                self.turn(Phase::Closed);
                Some(Change::Closed)
            }
            End::Failure => {
                let was_open = matches!(self.state(now), State::Open { .. });
                self.phase = Phase::Open { since: now };
                (!was_open).then_some(Change::Opened)
            }
            End::Neither => {
                if matches!(self.phase, Phase::Probing { probe: last, .. } if last == probe) {
                    self.phase = Phase::HalfOpen;
                }
                None
            }
        }
    }

    /// Whether calls are let through.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::HalfOpen | Phase::Probing { .. } => State::HalfOpen,
            Phase::Open { since } => {
                let next = self.left(since, now);
                if next.is_zero() { State::HalfOpen } else { State::Open { next } }
            }
        }
    }

    /// How long a server that is left alone, or tried, since then still is.
    fn left(&self, since: Instant, now: Instant) -> Duration {
        self.config.open.saturating_sub(now.saturating_duration_since(since))
    }

    fn count(&mut self, failed: bool, now: Instant) -> Option<Change> {
        let config::Breaker { window, failures, least, .. } = self.config;
        if failures <= 0.0 {
            return None;
        }
        while let Some((at, failure)) = self.window.front().copied() {
            if self.window.len() < MOST && now.saturating_duration_since(at) <= window {
                break;
            }
            self.window.pop_front();
            self.failed -= usize::from(failure);
        }
        self.window.push_back((now, failed));
        self.failed += usize::from(failed);
        let ended = self.window.len();
        let enough = ended >= MOST.min(usize::try_from(least).unwrap_or(MOST));
        if !failed || !enough || (self.failed as f64 / ended as f64) < failures {
            return None;
        }
        self.turn(Phase::Open { since: now });
        Some(Change::Opened)
    }

    /// Begins another episode.
    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.episode += 1;
        self.window.clear();
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests;
