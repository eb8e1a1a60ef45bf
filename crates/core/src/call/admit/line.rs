//! The line of waiting calls: whose turn it is, and what is reserved for whom.
//!
//! Callers have turns: whoever is let in sends its caller to the back. A caller's calls that need exactly the same
//! stand in one lane, of which only the first is ever looked at, so a look costs what the lanes cost and not what
//! the waiters do. Of the lanes of a caller the one goes first that has waited longest among those that have room.
//!
//! **Overtaking.** A call is overtaken when a younger one takes the last place of a scope that both need; one that
//! takes nothing away does not count. After [`OVERTAKINGS`] of these (calls of other callers in their turn count
//! only beyond one for each of them) the full scopes that the first of a lane waits for are reserved for it: the
//! next place in each is kept from all that came after it. What it reserves is what was full when it was looked
//! at, and of that:
//!
//! - while anything is full because of where the call goes (its tool, upstream or provider, or the upstream's
//!   share of total, caller or conversation) only that is reserved. Who waits for a hung upstream so keeps places
//!   from nobody but calls to it: total, caller and conversation stay with those who can use them;
//! - then what is full of conversation, caller and total.
//!
//! Of one caller's lanes to the same upstream and tool one at a time reserves, so a caller that is at its own limit
//! keeps at most one place of each idle.
//!
//! **The bound that follows.** Let no place be held longer than H. What is full has room within H and keeps it
//! until somebody takes it: either one that came earlier, or one that overtakes. An overtaken call reserves;
//! reserving never goes back but when a scope by upstream fills up, which then is reserved in its turn and stays so:
//! at most two waits for each of nine scopes. One that came earlier can make all this happen once. So no call waits
//! longer than (E + 1) × ([`OVERTAKINGS`] + C + 18 + E) × H, with E the calls that waited when it came and C the
//! callers that wait. Only what goes over a limit on purpose (an answered question, a lowered limit) adds to it,
//! H each time.

use super::{Claim, counts::Counts, scopes::Scopes};
use crate::config::Limits;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// How often a waiting call is overtaken before what it waits for is reserved for it.
pub(super) const OVERTAKINGS: usize = 16;

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) claim: Claim,
    /// Until when it will hold its place at most.
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Line {
    /// How often a call is overtaken before something is reserved for it.
    overtakings: usize,
    /// The callers that wait; whose turn is next comes first.
    turns: VecDeque<Turn>,
    waiting: usize,
    by_upstream: HashMap<Arc<str>, usize>,
}

/// The waiting calls of one caller.
#[derive(Debug)]
struct Turn {
    caller: Arc<str>,
    /// The one that has waited longest comes first.
    lanes: Vec<Lane>,
}

/// Waiting calls of one caller that need exactly the same; there is at least one.
#[derive(Debug)]
struct Lane {
    needs: Claim,
    waiting: VecDeque<Waiter>,
    /// What had no room for the first when it was last looked at.
    waits_for: Scopes,
    /// What is reserved for the first.
    reserved: Scopes,
    /// How often the first was overtaken by others of its caller, or when it was its caller's turn.
    overtaken: usize,
    /// How often it was overtaken by calls of other callers in their turn.
    passed: usize,
}

/// What a look at a caller's lanes found.
struct Look {
    /// The lane whose first has room for all it needs.
    room: Option<usize>,
    /// Whether something is reserved no more, so that others may have room.
    again: bool,
}

impl Line {
    /// A line with nobody in it, in which a call is overtaken so often before something is reserved for it.
    pub(super) fn new(overtakings: usize) -> Self {
        Self { overtakings, turns: VecDeque::new(), waiting: 0, by_upstream: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// How many calls to an upstream wait.
    pub(super) fn of(&self, upstream: &Arc<str>) -> usize {
        self.by_upstream.get(upstream).copied().unwrap_or_default()
    }

    /// Waiting calls, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.lanes().flat_map(|lane| &lane.waiting)
    }

    /// What those that wait need, to be changed in nothing that it is counted by.
    pub(super) fn claims(&mut self) -> impl Iterator<Item = &mut Claim> {
        self.turns.iter_mut().flat_map(|turn| &mut turn.lanes).flat_map(|lane| {
            let Lane { needs, waiting, .. } = lane;
            std::iter::once(needs).chain(waiting.iter_mut().map(|waiter| &mut waiter.claim))
        })
    }

    /// How many reservations there are.
    pub(super) fn reservations(&self) -> usize {
        self.lanes().map(|lane| lane.reserved.len()).sum()
    }

    /// How many of those that wait came before `ticket` and need one of these scopes of a claim.
    pub(super) fn ahead(&self, claim: &Claim, scopes: Scopes, ticket: u64) -> usize {
        self.lanes()
            .filter(|lane| Scopes::shared(&lane.needs, claim).meet(scopes))
            .map(|lane| lane.before(ticket))
            .sum()
    }

    /// What a waiting call needs, and what had no room for it when it was last looked at.
    pub(super) fn waits_for(&self, ticket: u64) -> Option<(&Claim, Scopes)> {
        self.lanes().find(|lane| lane.place(ticket).is_some()).map(|lane| (&lane.needs, lane.waits_for))
    }

    /// Puts a call that has no room at the end.
    pub(super) fn join(&mut self, waiter: Waiter, waits_for: Scopes) {
        let caller = &waiter.claim.caller;
        let at = self.turns.iter().position(|turn| turn.caller == *caller).unwrap_or_else(|| {
            self.turns.push_back(Turn { caller: Arc::clone(caller), lanes: Vec::new() });
            self.turns.len() - 1
        });
        self.waiting += 1;
        *self.by_upstream.entry(Arc::clone(&waiter.claim.upstream)).or_default() += 1;
        let lanes = &mut self.turns[at].lanes;
        match lanes.iter_mut().find(|lane| lane.takes(&waiter.claim)) {
            Some(lane) => lane.waiting.push_back(waiter),
            None => lanes.push(Lane {
                needs: waiter.claim.clone(),
                waiting: VecDeque::from([waiter]),
                waits_for,
                reserved: Scopes::default(),
                overtaken: 0,
                passed: 0,
            }),
        }
    }

    /// Takes out a call that waits no more. Whether something is reserved no more, so that others may have room.
    pub(super) fn leave(&mut self, ticket: u64, counts: &mut Counts) -> bool {
        let found = self.turns.iter().enumerate().find_map(|(at, turn)| {
            let mut lanes = turn.lanes.iter().enumerate();
            lanes.find_map(|(index, lane)| Some((at, index, lane.place(ticket)?, !lane.reserved.is_empty())))
        });
        let Some((at, index, place, reserves)) = found else { return false };
        self.take_out(at, index, place, counts);
        self.forget_if_empty(at);
        reserves && place == 0
    }

    /// Lets in whoever has room, in turns, and takes their places.
    pub(super) fn settle(&mut self, counts: &mut Counts, limits: &Limits) -> Vec<Waiter> {
        let mut admitted = Vec::new();
        let mut at = 0;
        while at < self.turns.len() {
            let enough = self.overtakings;
            let callers = self.turns.len();
            let Look { room, mut again } = self.turns[at].look(counts, limits, callers, enough);
            if let Some(waiter) = room.and_then(|lane| self.take_out(at, lane, 0, counts)) {
                counts.take_caller_half(&waiter.claim);
                counts.take_upstream_half(&waiter.claim);
                again |= self.overtaken_by(&waiter.claim, waiter.ticket, at, counts, limits);
                admitted.push(waiter);
                if !self.forget_if_empty(at)
                    && let Some(turn) = self.turns.remove(at)
                {
                    self.turns.push_back(turn);
                }
            } else {
                at += 1;
            }
            if again {
                at = 0;
            }
        }
        admitted
    }

    /// Notes whom a call has overtaken that was let in and has taken its places. Callers before `turn` had theirs
    /// first; a call that never waited comes after them all. Whether anybody was overtaken too often, and must be
    /// looked at.
    pub(super) fn overtaken_by(
        &mut self,
        claim: &Claim,
        ticket: u64,
        turn: usize,
        counts: &Counts,
        limits: &Limits,
    ) -> bool {
        let filled = counts.blocking(limits, claim, 0);
        if filled.is_empty() {
            return false;
        }
        let (callers, enough, mut due) = (self.turns.len(), self.overtakings, false);
        for (at, waiting) in self.turns.iter_mut().enumerate() {
            let own = waiting.caller == claim.caller;
            for lane in waiting.lanes.iter_mut().take_while(|lane| lane.first() < ticket) {
                // Others take nothing from a call that its own caller's limits keep out.
                let could = own || !lane.waits_for.meet(Scopes::BY_CALLER);
                if could && Scopes::shared(&lane.needs, claim).meet(filled) {
                    let count = if own || at < turn { &mut lane.overtaken } else { &mut lane.passed };
                    *count += 1;
                    due |= lane.is_due(callers, enough);
                }
            }
        }
        due
    }

    /// Takes one waiter out of a lane, and the lane if it was its last.
    fn take_out(&mut self, at: usize, index: usize, place: usize, counts: &mut Counts) -> Option<Waiter> {
        let lanes = &mut self.turns[at].lanes;
        let lane = &mut lanes[index];
        if place == 0 {
            if !lane.reserved.is_empty() {
                counts.release(&lane.needs, lane.reserved, lane.first());
            }
            (lane.reserved, lane.overtaken, lane.passed) = (Scopes::default(), 0, 0);
        }
        let waiter = lane.waiting.remove(place)?;
        if lane.waiting.is_empty() {
            lanes.remove(index);
        } else if place == 0 {
            lanes.sort_by_key(Lane::first);
        }
        self.waiting -= 1;
        if let Some(count) = self.by_upstream.get_mut(&waiter.claim.upstream) {
            *count -= 1;
            if *count == 0 {
                self.by_upstream.remove(&waiter.claim.upstream);
            }
        }
        Some(waiter)
    }

    /// Whether nobody of a caller waits any more, and it has no turn.
    fn forget_if_empty(&mut self, at: usize) -> bool {
        let empty = self.turns[at].lanes.is_empty();
        if empty {
            self.turns.remove(at);
        }
        empty
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.turns.iter().flat_map(|turn| &turn.lanes)
    }
}

impl Turn {
    /// Looks at the first of each lane, until one has room, and reserves for those that were overtaken too often.
    fn look(&mut self, counts: &mut Counts, limits: &Limits, callers: usize, enough: usize) -> Look {
        let mut again = false;
        for index in 0..self.lanes.len() {
            let (earlier, rest) = self.lanes.split_at_mut(index);
            let Some(lane) = rest.first_mut() else { break };
            lane.waits_for = counts.blocking(limits, &lane.needs, lane.first());
            if lane.waits_for.is_empty() {
                return Look { room: Some(index), again };
            }
            let alone = || !earlier.iter().any(|other| other.reserves_beside(lane));
            if !lane.reserved.is_empty() || (lane.is_due(callers, enough) && alone()) {
                again |= lane.reserve(counts);
            }
        }
        Look { room: None, again }
    }
}

impl Lane {
    /// The ticket of the first.
    fn first(&self) -> u64 {
        self.waiting.front().map_or(u64::MAX, |waiter| waiter.ticket)
    }

    /// How many of it came before `ticket`.
    fn before(&self, ticket: u64) -> usize {
        self.waiting.partition_point(|waiter| waiter.ticket < ticket)
    }

    /// Where in it a ticket is.
    fn place(&self, ticket: u64) -> Option<usize> {
        let place = self.before(ticket);
        self.waiting.get(place).filter(|waiter| waiter.ticket == ticket).map(|_| place)
    }

    /// Whether a claim needs exactly what those in it need.
    fn takes(&self, claim: &Claim) -> bool {
        let needs = &self.needs;
        let same_tool = claim.tool_limit.is_none() || needs.tool == claim.tool;
        needs.conversation == claim.conversation
            && needs.upstream == claim.upstream
            && needs.upstream_limit == claim.upstream_limit
            && needs.tool_limit == claim.tool_limit
            && needs.provider == claim.provider
            && same_tool
    }

    /// Whether the first was overtaken often enough, while calls of so many callers wait.
    fn is_due(&self, callers: usize, enough: usize) -> bool {
        self.overtaken + self.passed.saturating_sub(callers) >= enough
    }

    /// Whether it reserves, and goes where another lane goes.
    fn reserves_beside(&self, other: &Self) -> bool {
        let shared = Scopes::shared(&self.needs, &other.needs);
        let tools_do_not_matter = self.needs.tool_limit.is_none() && other.needs.tool_limit.is_none();
        !self.reserved.is_empty()
            && shared.meet(if tools_do_not_matter { Scopes::UPSTREAM } else { Scopes::TOOL })
    }

    /// Reserves what it waits for, by the rule above. Whether that gave something back.
    fn reserve(&mut self, counts: &mut Counts) -> bool {
        let by_upstream = self.waits_for.and(Scopes::BY_UPSTREAM);
        let (wanted, kept) = if by_upstream.is_empty() {
            (self.waits_for, self.reserved)
        } else {
            (by_upstream, self.reserved.and(Scopes::BY_UPSTREAM))
        };
        let (added, given_back) = (wanted.without(self.reserved), self.reserved.without(kept));
        if !given_back.is_empty() {
            counts.release(&self.needs, given_back, self.first());
        }
        if !added.is_empty() {
            counts.reserve(&self.needs, added, self.first());
        }
        self.reserved = kept.or(wanted);
        !given_back.is_empty()
    }
}
