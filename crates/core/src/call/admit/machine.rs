//! Admission as a state machine: no clock, no lock and no task. What happens is a method, `now` is an argument, and
//! what comes of it is who has been let in.

use super::{
    Claim, Load, Row,
    counts::{Counts, Mean},
    line::{Line, OVERTAKINGS, Waiter},
    scopes::{Scopes, part, places},
};
use crate::config::Limits;
use seawall_proto::{Code, Fault, Stage};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// What became of a call that asked for a place.
#[derive(Debug)]
pub(super) enum Entered {
    /// It holds its places, in the row with this ticket. What it took may have changed what is reserved, and so
    /// have let others in.
    In(u64, Admitted),
    /// It waits, under this ticket; its claim is handed back.
    Waits(u64, Claim),
}

/// The limit of what has none any more.
const UNLIMITED: usize = usize::MAX;

/// Those who have been let in, by their tickets: each has a row from now on.
pub(super) type Admitted = Vec<u64>;

#[derive(Debug)]
pub(super) struct Machine {
    limits: Limits,
    counts: Counts,
    line: Line,
    /// By ticket, which is the order in which they came.
    rows: BTreeMap<u64, Row>,
    /// Rows that nobody waits for, by caller.
    detached: HashMap<Arc<str>, usize>,
    last: u64,
    held: Mean,
    /// What was full when a call was refused last.
    refused: &'static str,
}

impl Machine {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            counts: Counts::default(),
            line: Line::new(OVERTAKINGS),
            rows: BTreeMap::new(),
            detached: HashMap::new(),
            last: 0,
            held: Mean::default(),
            refused: "",
        }
    }

    /// Takes other limits; what is held stays held, and who waits for a provider waits for its new limit.
    pub(super) fn set_limits(&mut self, limits: Limits, now: Instant) -> Admitted {
        self.limits = limits;
        let held = self.rows.values_mut().map(|row| &mut row.claim);
        for claim in self.line.claims().chain(held) {
            if let Some((name, limit)) = &mut claim.provider {
                // What has no limit any more still counts, so that what was taken in it is freed in it.
                *limit = self.limits.providers.get(&**name).copied().unwrap_or(UNLIMITED);
            }
        }
        self.counts.prune();
        self.settle(now)
    }

    /// Asks for a place until `until` at the latest, for a call that waits for it until `deadline`.
    ///
    /// Nobody is let in out of turn by this: whoever waits and could use a place has it already.
    pub(super) fn enter(
        &mut self,
        claim: Claim,
        deadline: Instant,
        until: Instant,
        now: Instant,
    ) -> Result<Entered, Fault> {
        self.last += 1;
        let ticket = self.last;
        let waits_for = self.counts.blocking(&self.limits, &claim, ticket);
        if waits_for.is_empty() {
            self.counts.take_caller_half(&claim);
            self.counts.take_upstream_half(&claim);
            let due = self.line.len() > 0
                && self.line.overtaken_by(&claim, ticket, usize::MAX, &self.counts, &self.limits);
            self.hold(Waiter { ticket, claim, until }, now);
            return Ok(Entered::In(ticket, if due { self.settle(now) } else { Admitted::new() }));
        }
        if let Some(why) = self.refusal(&claim, waits_for, deadline, now) {
            self.refused = self.full(&claim);
            return Err(self.over_capacity(&claim, why));
        }
        self.line.join(Waiter { ticket, claim: claim.clone(), until }, waits_for);
        Ok(Entered::Waits(ticket, claim))
    }

    /// A waiting call waits no more.
    pub(super) fn leave(&mut self, ticket: u64, now: Instant) -> Admitted {
        if self.line.leave(ticket, &mut self.counts) { self.settle(now) } else { Admitted::new() }
    }

    pub(super) fn free_caller_half(&mut self, row: u64, now: Instant) -> Admitted {
        let Some(row) = self.rows.get_mut(&row) else { return Admitted::new() };
        if !std::mem::take(&mut row.caller_half) {
            return Admitted::new();
        }
        self.counts.free_caller_half(&row.claim);
        self.settle(now)
    }

    /// Takes a caller's half back, over any limit. Who is detached has nobody to take it back for.
    pub(super) fn reclaim_caller_half(&mut self, row: u64) {
        let Some(row) = self.rows.get_mut(&row).filter(|row| !row.caller_half && !row.detached) else {
            return;
        };
        row.caller_half = true;
        self.counts.take_caller_half(&row.claim);
    }

    /// Nobody waits for a call any more, and it goes on; `None` when there are as many of these as there may be.
    pub(super) fn detach(&mut self, ticket: u64, now: Instant) -> Option<Admitted> {
        let row = self.rows.get_mut(&ticket)?;
        if row.detached {
            return Some(Admitted::new());
        }
        let caller = &row.claim.caller;
        let of_caller = self.detached.get(caller).copied().unwrap_or_default();
        if of_caller >= self.limits.detached_caller
            || self.detached.values().sum::<usize>() >= self.limits.detached
        {
            return None;
        }
        *self.detached.entry(Arc::clone(caller)).or_default() += 1;
        row.detached = true;
        Some(self.free_caller_half(ticket, now))
    }

    /// A call is over: whatever it still holds is free.
    pub(super) fn end(&mut self, ticket: u64, now: Instant) -> Admitted {
        let Some(row) = self.rows.remove(&ticket) else { return Admitted::new() };
        let held = now.saturating_duration_since(row.since);
        self.held.add(held);
        if row.caller_half {
            self.counts.free_caller_half(&row.claim);
        }
        self.counts.free_upstream_half(&row.claim, held);
        if row.detached
            && let Some(count) = self.detached.get_mut(&row.claim.caller)
        {
            *count -= 1;
            if *count == 0 {
                self.detached.remove(&row.claim.caller);
            }
        }
        self.settle(now)
    }

    pub(super) fn held_until(&mut self, row: u64, until: Instant) {
        if let Some(row) = self.rows.get_mut(&row) {
            row.until = until;
        }
    }

    /// Who waits, by ticket, in no order that means anything.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (u64, &Claim)> {
        self.line.iter().map(|waiter| (waiter.ticket, &waiter.claim))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// How many calls are in front of a waiting one: those that came earlier and need what it waits for.
    pub(super) fn ahead(&self, ticket: u64) -> Option<usize> {
        let (claim, waits_for) = self.line.waits_for(ticket)?;
        Some(self.line.ahead(claim, waits_for, ticket))
    }

    /// What was full when a call was refused last.
    pub(super) fn refused(&self) -> &'static str {
        self.refused
    }

    /// What keeps a call from a place now: `queue` where it could not even wait, or the kind of scope.
    pub(super) fn full(&self, claim: &Claim) -> &'static str {
        if self.limits.queue > 0 && self.line_is_full(claim).is_some() {
            return "queue";
        }
        self.counts.blocking(&self.limits, claim, u64::MAX).name()
    }

    /// The fault of a call that has no place, with the advice when to come back: as long as places are held in the
    /// mean, times those who want the same, over the places there are.
    pub(super) fn over_capacity(&self, claim: &Claim, why: &str) -> Fault {
        let waits_for = self.counts.blocking(&self.limits, claim, u64::MAX);
        let ahead = self.line.ahead(claim, waits_for, u64::MAX) + 1;
        let waits_for = if waits_for.is_empty() { Scopes::ALL } else { waits_for };
        let by_upstream = waits_for.meet(Scopes::BY_UPSTREAM);
        let mean = if by_upstream { self.counts.held(&claim.upstream) } else { self.held };
        let places = places(&self.limits, claim, waits_for).max(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an estimate in milliseconds"
        )]
        let wait = (mean.ms() * ahead as f64 / places as f64).clamp(100.0, 60_000.0) as u64;
        let text = format!("{why}; nothing was sent. Try again in about {wait} ms, or call less at once.");
        Fault { retry_after_ms: Some(wait), ..Fault::new(Code::OverCapacity, Stage::Admit, text) }
    }

    /// How full every scope is that anybody is in or waits for; the total comes first.
    pub(super) fn loads(&self) -> Vec<Load> {
        let mut loads = Loads { limits: &self.limits, found: BTreeMap::new() };
        loads.at("total", Arc::from(""), &Arc::from(""), Some(self.limits.total));
        for row in self.rows.values() {
            loads.each(&row.claim, |load, by_caller| {
                if !by_caller || row.caller_half {
                    load.in_use += 1;
                    load.oldest = Some(load.oldest.map_or(row.since, |oldest| oldest.min(row.since)));
                }
            });
        }
        for waiter in self.line.iter() {
            loads.each(&waiter.claim, |load, _| load.waiting += 1);
        }
        let used = |load: &Load| load.scope == "total" || load.in_use + load.waiting > 0;
        loads.found.into_values().filter(used).collect()
    }

    /// Compares the counters with the table and the line, and looks for rows past their time; says what is wrong.
    pub(super) fn audit(&self, now: Instant) -> Vec<String> {
        let mut recount = Counts::default();
        let mut detached: HashMap<Arc<str>, usize> = HashMap::new();
        for row in self.rows.values() {
            recount.take_upstream_half(&row.claim);
            if row.caller_half {
                recount.take_caller_half(&row.claim);
            }
            if row.detached {
                *detached.entry(Arc::clone(&row.claim.caller)).or_default() += 1;
            }
        }
        let (counted, mut table) = (self.counts.numbers(), recount.numbers());
        let mut found = Vec::new();
        let mut reserved = 0;
        for (scope, (used, kept)) in counted {
            reserved += kept;
            let rows = table.remove(&scope).unwrap_or_default().0;
            if rows != used {
                found.push(format!("{scope} counts {used} calls and the table has {rows}"));
            }
        }
        found.extend(
            table.iter().map(|(scope, (rows, _))| format!("{scope} counts none and the table has {rows}")),
        );
        if reserved != self.line.reservations() {
            let waiting = self.line.reservations();
            found.push(format!("{reserved} places are reserved and those who wait have {waiting}"));
        }
        if self.line.len() != self.line.iter().count() {
            found.push(format!("the line counts {} and has {}", self.line.len(), self.line.iter().count()));
        }
        if detached != self.detached {
            found.push(format!("detached are {detached:?} and {:?} are counted", self.detached));
        }
        let overdue = self.rows.values().filter(|row| row.until + Duration::from_secs(1) < now);
        found.extend(
            overdue.map(|row| format!("{} of {} is held past its time", row.claim.tool, row.claim.upstream)),
        );
        found
    }

    /// Why nobody may join the line, if nobody may.
    ///
    /// Of waits, only those are refused that cannot end in time whatever happens: the deadline has passed, or a
    /// scope has no places at all. When those who hold places will be done nobody knows: a row says until when at
    /// the latest, and the mean says what was. A refusal by either would turn away calls that could have run.
    fn refusal(
        &self,
        claim: &Claim,
        waits_for: Scopes,
        deadline: Instant,
        now: Instant,
    ) -> Option<&'static str> {
        let never = || deadline <= now || places(&self.limits, claim, waits_for) == 0;
        self.line_is_full(claim).or_else(|| never().then_some("no place came free in time"))
    }

    /// Why there is no room in the line for a call, if there is none.
    fn line_is_full(&self, claim: &Claim) -> Option<&'static str> {
        let queue = self.limits.queue;
        if self.line.len() >= queue {
            return Some("the line of waiting calls is full");
        }
        (self.line.of(&claim.upstream) >= part(queue, self.limits.share))
            .then_some("this upstream's share of the line of waiting calls is full")
    }

    fn hold(&mut self, waiter: Waiter, now: Instant) {
        let Waiter { ticket, claim, until } = waiter;
        let (caller_half, upstream_half, detached) = (true, true, false);
        self.rows.insert(ticket, Row { claim, since: now, until, caller_half, upstream_half, detached });
    }

    /// Lets in whoever has room now.
    fn settle(&mut self, now: Instant) -> Admitted {
        if self.line.len() == 0 {
            return Admitted::new();
        }
        let admitted = self.line.settle(&mut self.counts, &self.limits);
        let tickets = admitted.iter().map(|waiter| waiter.ticket).collect();
        for waiter in admitted {
            self.hold(waiter, now);
        }
        tickets
    }
}

/// What a load is of: whether it is not the total, the kind of scope, its name, and whose it is.
type LoadKey = (bool, &'static str, Arc<str>, Arc<str>);

/// Loads by what they are of.
struct Loads<'a> {
    limits: &'a Limits,
    found: BTreeMap<LoadKey, Load>,
}

impl Loads<'_> {
    fn at(&mut self, scope: &'static str, name: Arc<str>, of: &Arc<str>, limit: Option<usize>) -> &mut Load {
        let key = (scope != "total", scope, Arc::clone(&name), Arc::clone(of));
        let load = self.found.entry(key).or_insert_with(|| Load {
            scope,
            name,
            in_use: 0,
            waiting: 0,
            limit,
            oldest: None,
        });
        // Of two claims that know other limits the later one was made with the later configuration.
        load.limit = limit;
        load
    }

    /// Goes through the scopes of a claim, and says of each whether it is of the caller's half.
    fn each(&mut self, claim: &Claim, mut change: impl FnMut(&mut Load, bool)) {
        let limits = self.limits;
        let nobody: Arc<str> = Arc::from("");
        change(self.at("total", Arc::clone(&nobody), &nobody, Some(limits.total)), true);
        change(self.at("caller", Arc::clone(&claim.caller), &nobody, Some(limits.caller)), true);
        let conversation = match &claim.conversation {
            Some(name) => Some(Arc::clone(name)),
            None => limits.count_unnamed.then(|| format!("{} (unnamed)", claim.caller).into()),
        };
        if let Some(name) = conversation {
            change(self.at("conversation", name, &claim.caller, Some(limits.conversation)), true);
        }
        change(self.at("upstream", Arc::clone(&claim.upstream), &nobody, claim.upstream_limit), false);
        if let Some(limit) = claim.tool_limit {
            let name = format!("{}/{}", claim.upstream, claim.tool).into();
            change(self.at("tool", name, &nobody, Some(limit)), false);
        }
        if let Some((name, limit)) = &claim.provider {
            let limit = Some(*limit).filter(|limit| *limit != UNLIMITED);
            change(self.at("provider", Arc::clone(name), &nobody, limit), false);
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
