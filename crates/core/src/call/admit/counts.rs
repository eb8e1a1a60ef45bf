//! What calls are counted in, and how full it is.

use super::{
    Claim,
    scopes::{Scopes, conversation_limit, part},
};
use crate::config::Limits;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// How much of every scope is in use, and what is reserved in it. What nobody is in has no count, but for what
/// configuration names: upstreams, their tools and providers stay until the limits change.
#[derive(Debug, Default)]
pub(super) struct Counts {
    total: Count,
    callers: HashMap<Arc<str>, OfCaller>,
    upstreams: HashMap<Arc<str>, OfUpstream>,
    providers: HashMap<Arc<str>, Count>,
}

#[derive(Debug, Default)]
struct OfCaller {
    all: Count,
    conversations: HashMap<Arc<str>, Count>,
    /// Calls that name no conversation. It stands apart from the named ones, so that no name can be taken for it.
    unnamed: Count,
}

#[derive(Debug, Default)]
struct OfUpstream {
    all: Count,
    tools: HashMap<Arc<str>, Count>,
    held: Mean,
}

#[derive(Debug, Default)]
struct Count {
    used: usize,
    /// The tickets of those for whom a place is reserved.
    reserved: Vec<u64>,
    /// How much of it each upstream holds; only in scopes of the caller's half.
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Share {
    upstream: Arc<str>,
    used: usize,
    reserved: Vec<u64>,
}

/// How long places are held: a moving average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean(Option<f64>);

impl Mean {
    pub(super) fn add(&mut self, held: Duration) {
        let held = held.as_secs_f64() * 1000.0;
        self.0 = Some(self.0.map_or(held, |mean| mean + (held - mean) / 32.0));
    }

    /// In milliseconds; a guess where nothing was held yet.
    pub(super) fn ms(self) -> f64 {
        self.0.unwrap_or(100.0)
    }
}

impl Counts {
    /// The scopes that have no room for a call: what is in use, and what is reserved for those that came before
    /// `ticket`, is all there is. With ticket 0, which nobody has, reservations do not matter.
    pub(super) fn blocking(&self, limits: &Limits, claim: &Claim, ticket: u64) -> Scopes {
        let upstream = &claim.upstream;
        let of_caller = self.callers.get(&claim.caller);
        let of_upstream = self.upstreams.get(upstream);
        let full = |count: Option<&Count>, limit: usize, scope: Scopes| {
            scope.only_if(count.map_or(limit == 0, |count| count.is_full(limit, ticket)))
        };
        let full_or_share =
            |count: Option<&Count>, limit: usize, part: usize, scope: Scopes, share: Scopes| {
                let share_full = count.is_some_and(|count| count.share_is_full(upstream, part, ticket));
                full(count, limit, scope).or(share.only_if(share_full))
            };
        let (total, caller) = (limits.total, limits.caller);
        let (part_of_total, part_of_caller) = (part(total, limits.share), part(caller, limits.share));
        let count = Some(&self.total);
        let mut found = full_or_share(count, total, part_of_total, Scopes::TOTAL, Scopes::TOTAL_SHARE);
        let count = of_caller.map(|caller| &caller.all);
        let more = full_or_share(count, caller, part_of_caller, Scopes::CALLER, Scopes::CALLER_SHARE);
        found = found.or(more);
        if let Some(limit) = conversation_limit(limits, claim) {
            let count = of_caller.and_then(|caller| caller.conversation(claim));
            let part = part(limit, limits.conversation_share);
            let (scope, share) = (Scopes::CONVERSATION, Scopes::CONVERSATION_SHARE);
            found = found.or(full_or_share(count, limit, part, scope, share));
        }
        if let Some(limit) = claim.upstream_limit {
            found = found.or(full(of_upstream.map(|upstream| &upstream.all), limit, Scopes::UPSTREAM));
        }
        if let Some(limit) = claim.tool_limit {
            let count = of_upstream.and_then(|upstream| upstream.tools.get(&claim.tool));
            found = found.or(full(count, limit, Scopes::TOOL));
        }
        if let Some((provider, limit)) = &claim.provider {
            found = found.or(full(self.providers.get(provider), *limit, Scopes::PROVIDER));
        }
        found
    }

    pub(super) fn take_caller_half(&mut self, claim: &Claim) {
        self.total.add(&claim.upstream);
        self.of_caller(claim, |caller, conversation| {
            caller.add(&claim.upstream);
            conversation.add(&claim.upstream);
        });
    }

    pub(super) fn free_caller_half(&mut self, claim: &Claim) {
        self.total.remove(&claim.upstream);
        self.of_caller(claim, |caller, conversation| {
            caller.remove(&claim.upstream);
            conversation.remove(&claim.upstream);
        });
    }

    pub(super) fn take_upstream_half(&mut self, claim: &Claim) {
        self.of_upstream(claim, None, |count| count.used += 1);
    }

    /// Frees the upstream's half of a call that held it for so long.
    pub(super) fn free_upstream_half(&mut self, claim: &Claim, held: Duration) {
        self.of_upstream(claim, Some(held), |count| count.used -= 1);
    }

    /// Keeps a place in these scopes for the call with this ticket.
    pub(super) fn reserve(&mut self, claim: &Claim, scopes: Scopes, ticket: u64) {
        self.reservations(claim, scopes, |reserved| reserved.push(ticket));
    }

    pub(super) fn release(&mut self, claim: &Claim, scopes: Scopes, ticket: u64) {
        self.reservations(claim, scopes, |reserved| reserved.retain(|other| *other != ticket));
    }

    /// How long places of an upstream are held.
    pub(super) fn held(&self, upstream: &Arc<str>) -> Mean {
        self.upstreams.get(upstream).map(|upstream| upstream.held).unwrap_or_default()
    }

    /// Forgets upstreams that nobody is in, because they may be configured no more.
    pub(super) fn prune(&mut self) {
        self.providers.retain(|_, count| !count.is_idle());
        self.upstreams.retain(|_, upstream| {
            upstream.tools.retain(|_, count| !count.is_idle());
            !upstream.all.is_idle() || !upstream.tools.is_empty()
        });
    }

    /// Every number that is not zero, by what it counts: how much is used, and how much is reserved.
    pub(super) fn numbers(&self) -> BTreeMap<String, (usize, usize)> {
        let mut found = BTreeMap::new();
        let mut note = |name: String, count: &Count| {
            for share in &count.shares {
                found.insert(
                    format!("{name}, share of {}", share.upstream),
                    (share.used, share.reserved.len()),
                );
            }
            found.insert(name, (count.used, count.reserved.len()));
        };
        note("total".to_owned(), &self.total);
        for (name, caller) in &self.callers {
            note(format!("caller {name}"), &caller.all);
            note(format!("caller {name}, no conversation"), &caller.unnamed);
            for (conversation, count) in &caller.conversations {
                note(format!("caller {name}, conversation {conversation}"), count);
            }
        }
        for (name, upstream) in &self.upstreams {
            note(format!("upstream {name}"), &upstream.all);
            for (tool, count) in &upstream.tools {
                note(format!("upstream {name}, tool {tool}"), count);
            }
        }
        for (name, count) in &self.providers {
            note(format!("provider {name}"), count);
        }
        found.retain(|_, numbers| *numbers != (0, 0));
        found
    }

    /// Changes the counts of a claim's caller and conversation, and forgets those that nobody is in any more.
    fn of_caller(&mut self, claim: &Claim, change: impl FnOnce(&mut Count, &mut Count)) {
        let caller = self.callers.entry(Arc::clone(&claim.caller)).or_default();
        match &claim.conversation {
            None => change(&mut caller.all, &mut caller.unnamed),
            Some(name) => {
                let conversation = caller.conversations.entry(Arc::clone(name)).or_default();
                change(&mut caller.all, conversation);
                if conversation.is_idle() {
                    caller.conversations.remove(name);
                }
            }
        }
        if caller.all.is_idle() && caller.unnamed.is_idle() && caller.conversations.is_empty() {
            self.callers.remove(&claim.caller);
        }
    }

    /// Changes the counts of the upstream's half, and notes how long it was held.
    fn of_upstream(&mut self, claim: &Claim, held: Option<Duration>, mut change: impl FnMut(&mut Count)) {
        let upstream = self.upstreams.entry(Arc::clone(&claim.upstream)).or_default();
        if let Some(held) = held {
            upstream.held.add(held);
        }
        change(&mut upstream.all);
        if claim.tool_limit.is_some() {
            change(upstream.tools.entry(Arc::clone(&claim.tool)).or_default());
        }
        if let Some((provider, _)) = &claim.provider {
            change(self.providers.entry(Arc::clone(provider)).or_default());
        }
    }

    fn reservations(&mut self, claim: &Claim, scopes: Scopes, mut change: impl FnMut(&mut Vec<u64>)) {
        let mut of_count = |count: &mut Count, whole: Scopes, share: Scopes| {
            if scopes.meet(whole) {
                change(&mut count.reserved);
            }
            if scopes.meet(share) {
                count.change_share(&claim.upstream, |share| change(&mut share.reserved));
            }
        };
        of_count(&mut self.total, Scopes::TOTAL, Scopes::TOTAL_SHARE);
        if scopes.meet(Scopes::BY_CALLER) {
            self.of_caller(claim, |caller, conversation| {
                of_count(caller, Scopes::CALLER, Scopes::CALLER_SHARE);
                of_count(conversation, Scopes::CONVERSATION, Scopes::CONVERSATION_SHARE);
            });
        }
        let upstream = self.upstreams.entry(Arc::clone(&claim.upstream)).or_default();
        if scopes.meet(Scopes::UPSTREAM) {
            change(&mut upstream.all.reserved);
        }
        if scopes.meet(Scopes::TOOL) {
            change(&mut upstream.tools.entry(Arc::clone(&claim.tool)).or_default().reserved);
        }
        if let Some((provider, _)) = claim.provider.as_ref().filter(|_| scopes.meet(Scopes::PROVIDER)) {
            change(&mut self.providers.entry(Arc::clone(provider)).or_default().reserved);
        }
    }
}

impl OfCaller {
    fn conversation(&self, claim: &Claim) -> Option<&Count> {
        match &claim.conversation {
            Some(name) => self.conversations.get(name),
            None => Some(&self.unnamed),
        }
    }
}

/// How many of these came before `ticket`.
fn before(reserved: &[u64], ticket: u64) -> usize {
    reserved.iter().filter(|other| **other < ticket).count()
}

impl Count {
    fn is_idle(&self) -> bool {
        self.used == 0 && self.reserved.is_empty() && self.shares.is_empty()
    }

    fn is_full(&self, limit: usize, ticket: u64) -> bool {
        self.used + before(&self.reserved, ticket) >= limit
    }

    fn share_is_full(&self, upstream: &Arc<str>, places: usize, ticket: u64) -> bool {
        let share = self.shares.iter().find(|share| share.upstream == *upstream);
        share.is_some_and(|share| share.used + before(&share.reserved, ticket) >= places)
    }

    fn add(&mut self, upstream: &Arc<str>) {
        self.used += 1;
        self.change_share(upstream, |share| share.used += 1);
    }

    fn remove(&mut self, upstream: &Arc<str>) {
        self.used -= 1;
        self.change_share(upstream, |share| share.used -= 1);
    }

    fn change_share(&mut self, upstream: &Arc<str>, change: impl FnOnce(&mut Share)) {
        let at = self.shares.iter().position(|share| share.upstream == *upstream).unwrap_or_else(|| {
            self.shares.push(Share { upstream: Arc::clone(upstream), used: 0, reserved: Vec::new() });
            self.shares.len() - 1
        });
        let share = &mut self.shares[at];
        change(share);
        if share.used == 0 && share.reserved.is_empty() {
            self.shares.swap_remove(at);
        }
    }
}
