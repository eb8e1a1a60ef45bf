//! Admission: who may be in flight, and who waits.
//!
//! A permit has two halves. The caller's half counts against the total, the caller and the conversation and is
//! freed with the answer; the upstream's half counts against the upstream and is freed when the attempt is over.
//! All scopes are taken at once or none is. No upstream holds more than its share of any scope of a caller's half,
//! so one that hangs never uses up what others need. See `docs/design/call-path.md`.

use crate::{config::Limits, time::Clock};
use seawall_proto::{Code, Fault, Stage};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
}

/// Something calls are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope<'a> {
    Total,
    Caller(&'a Arc<str>),
    Conversation(&'a Arc<str>),
    Upstream(&'a Arc<str>),
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
}

/// How full a scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// `total`, `caller`, `conversation` or `upstream`.
    pub scope: &'static str,
    /// Its name; empty for the total.
    pub name: Arc<str>,
    /// Calls that hold a place in it.
    pub in_use: usize,
    /// Calls that wait and would need a place in it.
    pub waiting: usize,
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
    limits: Limits,
    counts: Counts,
    waiting: VecDeque<Waiter>,
    /// By ticket, which is the order of admission.
    rows: BTreeMap<u64, Row>,
    next: u64,
    /// Moving average of how long permits are held, for the advice when to come back.
    held_ms: f64,
}

/// How much of every scope is in use; a scope that nobody is in has no count.
#[derive(Debug, Default)]
struct Counts {
    total: Count,
    callers: ByName,
    conversations: ByName,
    upstreams: ByName,
}

type ByName = HashMap<Arc<str>, Count>;

#[derive(Debug, Default)]
struct Count {
    used: usize,
    /// How much of it each upstream holds.
    by_upstream: Vec<(Arc<str>, usize)>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    claim: Claim,
    until: Instant,
    admitted: oneshot::Sender<Permit>,
}

/// The right to be in flight. Dropped, it frees whatever it still holds.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    row: u64,
}

impl Admission {
    /// Admission with these limits.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            limits,
            counts: Counts::default(),
            waiting: VecDeque::new(),
            rows: BTreeMap::new(),
            next: 0,
            held_ms: 100.0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state) }))
    }

    /// Takes other limits; what is held stays held.
    pub fn set_limits(&self, limits: Limits) {
        let granted = {
            let mut state = self.0.lock();
            state.limits = limits;
            state.grant_waiting(&self.0)
        };
        drop(granted);
    }

    /// Waits for a place, in line behind those who need the same. `hold` is how long the place may be held at most.
    /// Dropping the future leaves the line.
    ///
    /// # Errors
    /// OVER_CAPACITY, at once when the line is full, and when the clock runs out first.
    pub async fn enter(&self, claim: Claim, clock: &Clock, hold: Duration) -> Result<Permit, Fault> {
        let (ticket, mut admitted) =
            {
                let mut state = self.0.lock();
                let until = clock.runs_out() + hold;
                if !state.waiting.iter().any(|waiter| {
                    waiter.claim.caller == claim.caller && waiter.claim.upstream == claim.upstream
                }) && state.fits(&claim)
                {
                    return Ok(state.take(&self.0, claim, until));
                }
                if let Some(fault) = state.refuse(&claim) {
                    return Err(fault);
                }
                let (admit, admitted) = oneshot::channel();
                let ticket = state.ticket();
                state.waiting.push_back(Waiter { ticket, claim: claim.clone(), until, admitted: admit });
                (ticket, admitted)
            };
        let place = InLine { shared: &self.0, ticket };
        let permit = tokio::select! {
            biased;
            permit = &mut admitted => permit.ok(),
            () = clock.expired() => None,
        };
        drop(place);
        permit.ok_or_else(|| self.0.lock().over_capacity(&claim, "no place came free in time"))
    }

    /// The holder table.
    pub fn rows(&self) -> Vec<Row> {
        self.0.lock().rows.values().cloned().collect()
    }

    /// How full every scope is that anybody is in or waits for; the total comes first.
    pub fn loads(&self) -> Vec<Load> {
        let state = self.0.lock();
        let waits = |scope: Scope<'_>| {
            state.waiting.iter().filter(|waiter| scopes(&waiter.claim).any(|wanted| wanted == scope)).count()
        };
        let mut loads: Vec<Load> = state
            .counts
            .iter()
            .map(|(scope, count)| {
                let (kind, name) = scope.label();
                Load { scope: kind, name, in_use: count.used, waiting: waits(scope) }
            })
            .collect();
        loads.sort_by(|a, b| {
            (a.scope != "total", a.scope, &a.name).cmp(&(b.scope != "total", b.scope, &b.name))
        });
        loads
    }

    /// Compares the counters with the table and looks for rows past their time; says what is wrong. Nothing is
    /// ever recovered: a finding is a fault of Seawall's.
    pub fn audit(&self) -> Vec<String> {
        let state = self.0.lock();
        let mut counted: HashMap<Scope<'_>, usize> = HashMap::new();
        for row in state.rows.values() {
            for scope in scopes(&row.claim) {
                let held =
                    if matches!(scope, Scope::Upstream(_)) { row.upstream_half } else { row.caller_half };
                *counted.entry(scope).or_default() += usize::from(held);
            }
        }
        counted.retain(|_, count| *count > 0);
        let mut found = Vec::new();
        for (scope, count) in state.counts.iter() {
            let rows = counted.remove(&scope).unwrap_or_default();
            if rows != count.used {
                found.push(format!("{scope:?} counts {} calls and the table has {rows}", count.used));
            }
        }
        found.extend(
            counted.iter().map(|(scope, rows)| format!("{scope:?} counts none and the table has {rows}")),
        );
        let late = Instant::now() - Duration::from_secs(1);
        let overdue = state.rows.values().filter(|row| row.until < late);
        found.extend(
            overdue.map(|row| format!("{} of {} is held past its time", row.claim.tool, row.claim.upstream)),
        );
        found
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scope<'_> {
    fn label(self) -> (&'static str, Arc<str>) {
        match self {
            Self::Total => ("total", Arc::from("")),
            Self::Caller(name) => ("caller", Arc::clone(name)),
            Self::Conversation(name) => ("conversation", Arc::clone(name)),
            Self::Upstream(name) => ("upstream", Arc::clone(name)),
        }
    }
}

fn caller_scopes(claim: &Claim) -> impl Iterator<Item = Scope<'_>> {
    let conversation = claim.conversation.as_ref().map(Scope::Conversation);
    [Scope::Total, Scope::Caller(&claim.caller)].into_iter().chain(conversation)
}

fn scopes(claim: &Claim) -> impl Iterator<Item = Scope<'_>> {
    caller_scopes(claim).chain([Scope::Upstream(&claim.upstream)])
}

impl Counts {
    fn get(&self, scope: Scope<'_>) -> Option<&Count> {
        match scope {
            Scope::Total => Some(&self.total),
            Scope::Caller(name) => self.callers.get(name),
            Scope::Conversation(name) => self.conversations.get(name),
            Scope::Upstream(name) => self.upstreams.get(name),
        }
    }

    /// The counts by name of a scope that has a name.
    fn named<'a>(&mut self, scope: Scope<'a>) -> Option<(&mut ByName, &'a Arc<str>)> {
        match scope {
            Scope::Total => None,
            Scope::Caller(name) => Some((&mut self.callers, name)),
            Scope::Conversation(name) => Some((&mut self.conversations, name)),
            Scope::Upstream(name) => Some((&mut self.upstreams, name)),
        }
    }

    fn add(&mut self, scope: Scope<'_>, upstream: &Arc<str>) {
        match self.named(scope) {
            None => self.total.add(upstream),
            Some((counts, name)) => match counts.get_mut(name) {
                Some(count) => count.add(upstream),
                None => counts.entry(Arc::clone(name)).or_default().add(upstream),
            },
        }
    }

    fn remove(&mut self, scope: Scope<'_>, upstream: &Arc<str>) {
        let Some((counts, name)) = self.named(scope) else { return self.total.remove(upstream) };
        let Some(count) = counts.get_mut(name) else { return };
        count.remove(upstream);
        if count.used == 0 {
            counts.remove(name);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Scope<'_>, &Count)> {
        std::iter::once((Scope::Total, &self.total))
            .chain(self.callers.iter().map(|(name, count)| (Scope::Caller(name), count)))
            .chain(self.conversations.iter().map(|(name, count)| (Scope::Conversation(name), count)))
            .chain(self.upstreams.iter().map(|(name, count)| (Scope::Upstream(name), count)))
    }
}

impl State {
    fn limit(&self, scope: Scope<'_>, claim: &Claim) -> usize {
        match scope {
            Scope::Total => self.limits.total,
            Scope::Caller(_) => self.limits.caller,
            Scope::Conversation(_) => self.limits.conversation,
            Scope::Upstream(_) => claim.upstream_limit.unwrap_or(usize::MAX),
        }
    }

    /// The part of a limit that one upstream may hold; at least one place.
    fn share(&self, limit: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a positive fraction of a small count"
        )]
        let share = (limit as f64 * self.limits.share).ceil() as usize;
        share.max(1)
    }

    fn fits(&self, claim: &Claim) -> bool {
        scopes(claim).all(|scope| {
            let limit = self.limit(scope, claim);
            let Some(count) = self.counts.get(scope) else { return limit > 0 };
            let shared = !matches!(scope, Scope::Upstream(_));
            count.used < limit && (!shared || count.of(&claim.upstream) < self.share(limit))
        })
    }

    fn take(&mut self, shared: &Arc<Shared>, claim: Claim, until: Instant) -> Permit {
        for scope in scopes(&claim) {
            self.counts.add(scope, &claim.upstream);
        }
        let row = self.ticket();
        let held = Row { claim, since: Instant::now(), until, caller_half: true, upstream_half: true };
        self.rows.insert(row, held);
        Permit { shared: Arc::clone(shared), row }
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Why nobody may join the line, if nobody may.
    fn refuse(&self, claim: &Claim) -> Option<Fault> {
        let mine = self.waiting.iter().filter(|waiter| waiter.claim.upstream == claim.upstream).count();
        if self.waiting.len() >= self.limits.queue {
            return Some(self.over_capacity(claim, "the line of waiting calls is full"));
        }
        (mine >= self.share(self.limits.queue))
            .then(|| self.over_capacity(claim, "this upstream's share of the line of waiting calls is full"))
    }

    fn over_capacity(&self, claim: &Claim, why: &str) -> Fault {
        let ahead = self.waiting.iter().filter(|waiter| waiter.claim.upstream == claim.upstream).count() + 1;
        let places = self.share(self.limits.total).min(claim.upstream_limit.unwrap_or(usize::MAX)).max(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an estimate in milliseconds"
        )]
        let wait = (self.held_ms * ahead as f64 / places as f64).clamp(100.0, 60_000.0) as u64;
        let text = format!("{why}; nothing was sent. Try again in about {wait} ms, or call less at once.");
        Fault { retry_after_ms: Some(wait), ..Fault::new(Code::OverCapacity, Stage::Admit, text) }
    }

    /// Admits whoever has room now, in the order they came. The permits of those who left meanwhile are handed
    /// back, to be dropped without the lock.
    #[must_use]
    fn grant_waiting(&mut self, shared: &Arc<Shared>) -> Vec<Permit> {
        let mut left = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() {
            if !self.fits(&self.waiting[index].claim) {
                index += 1;
                continue;
            }
            let Some(waiter) = self.waiting.remove(index) else { break };
            let permit = self.take(shared, waiter.claim, waiter.until);
            if let Err(permit) = waiter.admitted.send(permit) {
                left.push(permit);
            }
        }
        left
    }
}

impl Count {
    fn of(&self, upstream: &Arc<str>) -> usize {
        self.by_upstream.iter().find(|(name, _)| name == upstream).map_or(0, |(_, held)| *held)
    }

    fn add(&mut self, upstream: &Arc<str>) {
        self.used += 1;
        match self.by_upstream.iter_mut().find(|(name, _)| name == upstream) {
            Some((_, held)) => *held += 1,
            None => self.by_upstream.push((Arc::clone(upstream), 1)),
        }
    }

    fn remove(&mut self, upstream: &Arc<str>) {
        self.used -= 1;
        if let Some((_, held)) = self.by_upstream.iter_mut().find(|(name, _)| name == upstream) {
            *held -= 1;
        }
        self.by_upstream.retain(|(_, held)| *held > 0);
    }
}

/// A place in the line, given up when dropped.
struct InLine<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.shared.lock();
            let at = state.waiting.iter().position(|waiter| waiter.ticket == self.ticket);
            at.and_then(|at| state.waiting.remove(at))
        };
        drop(left);
    }
}

impl Permit {
    /// Frees the caller's half: it has its answer, or a question instead.
    pub fn free_caller_half(&self) {
        self.free(true, false);
    }

    /// Takes the caller's half back after a question was answered. It may go over a limit by the calls that came
    /// in meanwhile: an answered call is never made to wait again.
    pub fn reclaim_caller_half(&self) {
        let mut state = self.shared.lock();
        let State { rows, counts, .. } = &mut *state;
        let Some(row) = rows.get_mut(&self.row).filter(|row| !row.caller_half) else { return };
        row.caller_half = true;
        for scope in caller_scopes(&row.claim) {
            counts.add(scope, &row.claim.upstream);
        }
    }

    /// Says until when it is held at most, after the clock was moved by a question.
    pub fn held_until(&self, until: Instant) {
        if let Some(row) = self.shared.lock().rows.get_mut(&self.row) {
            row.until = until;
        }
    }

    fn free(&self, caller: bool, upstream: bool) {
        let granted = {
            let mut state = self.shared.lock();
            let State { rows, counts, held_ms, .. } = &mut *state;
            let Some(row) = rows.get_mut(&self.row) else { return };
            let claim = &row.claim;
            if caller && std::mem::take(&mut row.caller_half) {
                for scope in caller_scopes(claim) {
                    counts.remove(scope, &claim.upstream);
                }
            }
            if upstream && std::mem::take(&mut row.upstream_half) {
                counts.remove(Scope::Upstream(&claim.upstream), &claim.upstream);
            }
            if !row.caller_half && !row.upstream_half {
                let held = row.since.elapsed().as_secs_f64() * 1000.0;
                *held_ms += (held - *held_ms) / 32.0;
                rows.remove(&self.row);
            }
            if state.waiting.is_empty() { Vec::new() } else { state.grant_waiting(&self.shared) }
        };
        drop(granted);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.free(true, true);
    }
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
