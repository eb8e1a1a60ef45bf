//! Admission: who may be in flight, and who waits.
//!
//! A permit has two halves. The caller's half counts against the total, the caller and the conversation and is
//! freed with the answer; the upstream's half counts against the upstream, the tool and the provider and is freed
//! when the attempt is over. All scopes are taken at once or none is. No upstream holds more than its share of any
//! scope of a caller's half, so one that hangs never uses up what others need. See `docs/design/call-path.md`.
//!
//! What is decided is decided by `machine`, a state machine without clock and lock, by the `counts` of what is in
//! use and the `line` of those who wait. Here is what makes calls wait for it: a lock that is never held
//! across an await, and a channel for each call in the line.

mod counts;
mod line;
mod machine;
mod scopes;

use crate::{config::Limits, time::Clock};
use machine::{Admitted, Entered, Machine};
use seawall_proto::Fault;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// What a call asks a place in.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who calls.
    pub caller: Arc<str>,
    /// The conversation it belongs to, when it names one.
    pub conversation: Option<Arc<str>>,
    /// Where it goes.
    pub upstream: Arc<str>,
    /// How many calls the upstream takes at once, when that is limited.
    pub upstream_limit: Option<usize>,
    /// The tool or method, for the holder table.
    pub tool: Arc<str>,
    /// How many calls of the tool the upstream takes at once, when that is limited.
    pub tool_limit: Option<usize>,
    /// Whose limit it shares with other upstreams, and how many calls that one takes at once.
    pub provider: Option<(Arc<str>, usize)>,
}

/// One row of the holder table: who holds what, since when, and until when at the latest.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was claimed.
    pub claim: Claim,
    /// When it was admitted.
    pub since: Instant,
    /// When it will have been freed at the latest.
    pub until: Instant,
    /// Whether somebody still waits for the answer.
    pub caller_half: bool,
    /// Whether the upstream may still be at work.
    pub upstream_half: bool,
    /// Whether it goes on with nobody waiting, and counts in the limits for that.
    pub detached: bool,
}

/// How full a scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// `total`, `caller`, `conversation`, `upstream`, `tool` or `provider`.
    pub scope: &'static str,
    /// Its name; empty for the total, `upstream/tool` for a tool.
    pub name: Arc<str>,
    /// Calls that hold a place in it.
    pub in_use: usize,
    /// Calls that wait and would need a place in it.
    pub waiting: usize,
    /// How many places it has, when that is limited.
    pub limit: Option<usize>,
    /// Since when the one is in that has been in longest.
    pub oldest: Option<Instant>,
}

/// Gives out permits.
#[derive(Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    /// Since when a call waits and where its permit goes, by its ticket.
    waiting: HashMap<u64, (Instant, oneshot::Sender<Permit>)>,
}

/// The right to be in flight. Dropped, it frees whatever it still holds.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    row: u64,
}

/// Where a call is while it waits for its permit, for others to see.
#[derive(Debug, Default)]
pub struct Place {
    at: Mutex<Option<(Arc<Shared>, u64)>>,
    refused: OnceLock<&'static str>,
}

impl Admission {
    /// Admission with these limits.
    pub fn new(limits: Limits) -> Self {
        let state = State { machine: Machine::new(limits), waiting: HashMap::new() };
        Self(Arc::new(Shared { state: Mutex::new(state) }))
    }

    /// Takes other limits; what is held stays held.
    pub fn set_limits(&self, limits: Limits) {
        self.0.change(|machine| machine.set_limits(limits, Instant::now()));
    }

    /// Waits for a place, in line behind those who need the same. `hold` is how long the place may be held at most
    /// once the clock has run out; `place` says where the call is meanwhile. Dropping the future leaves the line.
    ///
    /// # Errors
    /// OVER_CAPACITY, at once when the line is full or the wait cannot end in time, and when the clock runs out
    /// first.
    pub async fn enter(
        &self,
        claim: Claim,
        clock: &Clock,
        hold: Duration,
        place: &Place,
    ) -> Result<Permit, Fault> {
        let deadline = clock.runs_out();
        let waits = {
            let mut state = self.0.lock();
            let entered = state.machine.enter(claim, deadline, deadline + hold, Instant::now());
            match entered.inspect_err(|_| place.refuse(state.machine.refused()))? {
                Entered::In(row, others) => Err((row, state.hand_over(&self.0, &others))),
                Entered::Waits(ticket, claim) => {
                    let (admit, admitted) = oneshot::channel();
                    state.waiting.insert(ticket, (Instant::now(), admit));
                    Ok((ticket, claim, admitted))
                }
            }
        };
        let (ticket, claim, mut admitted) = match waits {
            Ok(waits) => waits,
            Err((row, left)) => {
                drop(left);
                return Ok(Permit { shared: Arc::clone(&self.0), row });
            }
        };
        place.set(Some((Arc::clone(&self.0), ticket)));
        let in_line = InLine { shared: &self.0, ticket, place };
        let permit = tokio::select! {
            biased;
            permit = &mut admitted => permit.ok(),
            () = clock.expired() => None,
        };
        drop(in_line);
        permit.ok_or_else(|| {
            let state = self.0.lock();
            place.refuse(state.machine.full(&claim));
            state.machine.over_capacity(&claim, "no place came free in time")
        })
    }

    /// The holder table.
    pub fn rows(&self) -> Vec<Row> {
        self.0.lock().machine.rows().cloned().collect()
    }

    /// How full every scope is that anybody is in or waits for; the total comes first.
    pub fn loads(&self) -> Vec<Load> {
        self.0.lock().machine.loads()
    }

    /// Who waits, and since when, in the order in which they came.
    pub fn waiting(&self) -> Vec<(Claim, Instant)> {
        let state = self.0.lock();
        let mut waiting: Vec<_> = state.machine.waiting().collect();
        waiting.sort_by_key(|(ticket, _)| *ticket);
        let since = |ticket: u64| state.waiting.get(&ticket).map(|(since, _)| *since);
        waiting.into_iter().filter_map(|(ticket, claim)| Some((claim.clone(), since(ticket)?))).collect()
    }

    /// Compares the counters with the table and looks for rows past their time; says what is wrong. Nothing is
    /// ever recovered: a finding is a fault of Seawall's.
    pub fn audit(&self) -> Vec<String> {
        self.0.lock().machine.audit(Instant::now())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that may let others in, and hands them their permits.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Machine) -> Admitted) {
        let left = {
            let mut state = self.lock();
            let admitted = change(&mut state.machine);
            state.hand_over(self, &admitted)
        };
        drop(left);
    }
}

impl State {
    /// Gives those who were let in their permits. The permits of those who left meanwhile are handed back, to be
    /// dropped without the lock.
    #[must_use]
    fn hand_over(&mut self, shared: &Arc<Shared>, admitted: &[u64]) -> Vec<Permit> {
        let mut left = Vec::new();
        for row in admitted {
            let permit = Permit { shared: Arc::clone(shared), row: *row };
            left.extend(match self.waiting.remove(row) {
                Some((_, admit)) => admit.send(permit).err(),
                None => Some(permit),
            });
        }
        left
    }
}

/// A place in the line, given up when dropped.
struct InLine<'a> {
    shared: &'a Arc<Shared>,
    ticket: u64,
    place: &'a Place,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.place.set(None);
        let left = {
            let mut state = self.shared.lock();
            // Who was let in is not in the line any more, and its permit is on its way.
            let waits = state.waiting.remove(&self.ticket);
            let admitted = match &waits {
                Some(_) => state.machine.leave(self.ticket, Instant::now()),
                None => Admitted::new(),
            };
            (waits, state.hand_over(self.shared, &admitted))
        };
        drop(left);
    }
}

impl Place {
    /// How many calls are in front that need what this one waits for; `None` when it is not in the line.
    pub fn ahead(&self) -> Option<usize> {
        let (shared, ticket) = self.lock().clone()?;
        shared.lock().machine.ahead(ticket)
    }

    /// What was full when it was refused a place: `queue`, or the kind of scope.
    pub fn refused(&self) -> Option<&'static str> {
        self.refused.get().copied()
    }

    fn refuse(&self, full: &'static str) {
        // A call asks for a place once.
        let _ = self.refused.set(full);
    }

    fn set(&self, place: Option<(Arc<Shared>, u64)>) {
        let before = std::mem::replace(&mut *self.lock(), place);
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Shared>, u64)>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Frees the caller's half: it has its answer, or a question instead.
    pub fn free_caller_half(&self) {
        self.shared.change(|machine| machine.free_caller_half(self.row, Instant::now()));
    }

    /// Takes the caller's half back after a question was answered. It may go over a limit by the calls that came
    /// in meanwhile: an answered call is never made to wait again. A detached one stays detached.
    pub fn reclaim_caller_half(&self) {
        self.shared.lock().machine.reclaim_caller_half(self.row);
    }

    /// Nobody waits any more: frees the caller's half, and counts the call as detached from now on. Where there
    /// are as many detached calls as there may be, of its caller or in all, nothing changes and this is `false`.
    pub fn detach(&self) -> bool {
        let mut detached = true;
        self.shared.change(|machine| {
            let admitted = machine.detach(self.row, Instant::now());
            detached = admitted.is_some();
            admitted.unwrap_or_default()
        });
        detached
    }

    /// Says until when it is held at most, after the clock was moved by a question.
    pub fn held_until(&self, until: Instant) {
        self.shared.lock().machine.held_until(self.row, until);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.change(|machine| machine.end(self.row, Instant::now()));
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod year_tests;
