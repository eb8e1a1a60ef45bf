//! The machine against a model that only counts: it knows who holds what, and nothing of lanes or reservations.

use super::*;
use crate::config::Config;
use proptest::{collection::vec, prelude::*, sample::select};
use std::{collections::VecDeque, path::PathBuf};

/// No place is held longer than this.
const LONGEST: Duration = Duration::from_millis(20);
/// What happens in one case.
const STEPS: usize = 400;
const CALLERS: [&str; 3] = ["a", "b", "c"];

/// 256 cases, or as many as `SEAWALL_STEPS` steps need.
fn cases() -> u32 {
    let Ok(steps) = std::env::var("SEAWALL_STEPS") else { return 256 };
    let steps: usize = steps.parse().expect("SEAWALL_STEPS is a number of steps");
    u32::try_from(steps.div_ceil(STEPS)).expect("so many steps take years")
}

fn defaults() -> Limits {
    Config::default_for(PathBuf::from("/nowhere")).limits
}

fn claim(caller: &str, conversation: &str, upstream: &str, upstream_limit: Option<usize>) -> Claim {
    Claim {
        caller: caller.into(),
        conversation: (!conversation.is_empty()).then(|| conversation.into()),
        upstream: upstream.into(),
        upstream_limit,
        tool: "t".into(),
        tool_limit: None,
        provider: None,
    }
}

/// One of the claims that a number can stand for: three callers, three upstreams and all kinds of limits.
fn any_claim(number: u8) -> Claim {
    let number = usize::from(number);
    let (upstream, upstream_limit) = [("free", None), ("one", Some(1)), ("two", Some(2))][(number / 9) % 3];
    let conversation = ["", "k", "l"][(number / 3) % 3];
    let narrow = upstream != "two" && (number / 27) % 2 == 1;
    Claim {
        tool: if narrow { "narrow" } else { "wide" }.into(),
        tool_limit: narrow.then_some(1),
        provider: (upstream != "free").then(|| ("provider".into(), 2)),
        ..claim(CALLERS[number % 3], conversation, upstream, upstream_limit)
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let counts = (1_usize..7, 1_usize..6, 1_usize..5, 0_usize..7);
    let shares = (select(vec![0.25, 0.5, 1.0]), select(vec![0.5, 1.0]));
    (counts, shares, any::<bool>(), 0_usize..4, 0_usize..3).prop_map(
        |(
            (total, caller, conversation, queue),
            (share, conversation_share),
            count_unnamed,
            detached,
            mine,
        )| {
            Limits {
                total,
                caller,
                conversation,
                queue,
                share,
                conversation_share,
                count_unnamed,
                detached,
                detached_caller: mine,
                providers: BTreeMap::from([("provider".to_owned(), 2)]),
                ..defaults()
            }
        },
    )
}

#[derive(Clone, Debug)]
struct Holds {
    claim: Claim,
    ends: Instant,
    caller_half: bool,
    detached: bool,
}

#[derive(Clone, Debug)]
struct Waits {
    claim: Claim,
    since: Instant,
    takes: Duration,
    /// How many waited when it came.
    ahead: usize,
    /// How often limits had been overstepped on purpose by then.
    overstepped: usize,
}

struct Model {
    machine: Machine,
    limits: Limits,
    now: Instant,
    holds: BTreeMap<u64, Holds>,
    waits: BTreeMap<u64, Waits>,
    overstepped: usize,
}

impl Model {
    fn new(limits: Limits) -> Self {
        Self {
            machine: Machine::new(limits.clone()),
            limits,
            now: Instant::now(),
            holds: BTreeMap::new(),
            waits: BTreeMap::new(),
            overstepped: 0,
        }
    }

    /// What both calls are counted in, where that is limited, with its limit and whether it is of the caller's half.
    fn meet(&self, one: &Claim, other: &Claim) -> [(bool, usize, bool); 9] {
        let limits = &self.limits;
        let caller = one.caller == other.caller;
        let limited = one.conversation.is_some() || limits.count_unnamed;
        let conversation = limited && caller && one.conversation == other.conversation;
        let upstream = one.upstream == other.upstream;
        let share = |limit: usize, share: f64| {
            (1..limit).find(|n| *n as f64 >= limit as f64 * share).unwrap_or(limit)
        };
        let tool = upstream && one.tool == other.tool && one.tool_limit.is_some();
        let provider = one.provider.is_some() && one.provider == other.provider;
        let of_provider = one.provider.as_ref().map_or(usize::MAX, |(_, limit)| *limit);
        [
            (true, limits.total, true),
            (upstream, share(limits.total, limits.share), true),
            (caller, limits.caller, true),
            (caller && upstream, share(limits.caller, limits.share), true),
            (conversation, limits.conversation, true),
            (conversation && upstream, share(limits.conversation, limits.conversation_share), true),
            (upstream, one.upstream_limit.unwrap_or(usize::MAX), false),
            (tool, one.tool_limit.unwrap_or(usize::MAX), false),
            (provider, of_provider, false),
        ]
    }

    /// By how much each scope of a claim is below its limit, by counting all who hold a place.
    fn free(&self, claim: &Claim) -> [isize; 9] {
        let mut free =
            self.meet(claim, claim).map(|(_, limit, _)| isize::try_from(limit).unwrap_or(isize::MAX));
        for holds in self.holds.values() {
            for (free, (meets, _, by_caller)) in free.iter_mut().zip(self.meet(claim, &holds.claim)) {
                *free -= isize::from(meets && (holds.caller_half || !by_caller));
            }
        }
        free
    }

    fn enter(&mut self, claim: Claim, takes: Duration) -> Option<u64> {
        let far = self.now + Duration::from_secs(3600);
        let fits = self.free(&claim).iter().all(|free| *free > 0);
        match self.machine.enter(claim.clone(), far, far, self.now) {
            Ok(Entered::In(ticket, others)) => {
                assert!(fits, "it was let in without room: {claim:?}");
                let ends = self.now + takes;
                self.holds.insert(ticket, Holds { claim, ends, caller_half: true, detached: false });
                self.admitted(others);
                Some(ticket)
            }
            Ok(Entered::Waits(ticket, claim)) => {
                let (since, ahead, overstepped) = (self.now, self.waits.len(), self.overstepped);
                assert!(ahead < self.limits.queue, "the line is longer than it may be");
                self.waits.insert(ticket, Waits { claim, since, takes, ahead, overstepped });
                Some(ticket)
            }
            Err(fault) => {
                assert_eq!(fault.code, Code::OverCapacity);
                assert!((100..=60_000).contains(&fault.retry_after_ms.unwrap()));
                let of_upstream =
                    self.waits.values().filter(|waits| waits.claim.upstream == claim.upstream).count();
                let share = part(self.limits.queue, self.limits.share);
                assert!(self.waits.len() >= self.limits.queue || of_upstream >= share);
                None
            }
        }
    }

    /// Others were let in: there is room for each, and nobody was passed over who needs the same.
    fn admitted(&mut self, tickets: Admitted) {
        for ticket in &tickets {
            let Waits { claim, takes, .. } = self.waits.remove(ticket).expect("who is let in has waited");
            let ends = self.now + takes;
            self.holds.insert(*ticket, Holds { claim, ends, caller_half: true, detached: false });
        }
        for ticket in tickets {
            let claim = &self.holds[&ticket].claim;
            assert!(self.free(claim).iter().all(|free| *free >= 0), "over a limit: {claim:?}");
            let passed_over = self.waits.range(..ticket).any(|(_, waits)| {
                let other = &waits.claim;
                other.caller == claim.caller
                    && other.conversation == claim.conversation
                    && other.upstream == claim.upstream
                    && other.tool == claim.tool
            });
            assert!(!passed_over, "an earlier call that needs the same still waits: {claim:?}");
        }
    }

    /// Ends whatever is over by then, each at its time.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self.holds.iter().map(|(ticket, holds)| (holds.ends, *ticket)).min();
            let Some((ends, ticket)) = next.filter(|(ends, _)| *ends <= until) else { break };
            self.now = self.now.max(ends);
            self.end(ticket);
        }
        self.now = until;
    }

    fn end(&mut self, ticket: u64) {
        self.holds.remove(&ticket);
        let admitted = self.machine.end(ticket, self.now);
        self.admitted(admitted);
    }

    fn nth<T>(of: &BTreeMap<u64, T>, number: u8) -> Option<u64> {
        of.keys().nth(usize::from(number) % of.len().max(1)).copied()
    }

    fn step(&mut self, what: u32, others: &Limits) {
        let [kind, number, more, time] = what.to_le_bytes();
        let takes = Duration::from_millis(1 + u64::from(more) % 20).min(LONGEST);
        let held = Self::nth(&self.holds, number);
        match (kind % 16, held) {
            (0..=7, _) => {
                self.enter(any_claim(number), takes);
            }
            (8, _) => {
                if let Some(ticket) = Self::nth(&self.waits, number) {
                    self.waits.remove(&ticket);
                    let admitted = self.machine.leave(ticket, self.now);
                    self.admitted(admitted);
                }
            }
            (9, Some(ticket)) => {
                self.holds.get_mut(&ticket).unwrap().caller_half = false;
                let admitted = self.machine.free_caller_half(ticket, self.now);
                self.admitted(admitted);
            }
            (10, Some(ticket)) => {
                let holds = self.holds.get_mut(&ticket).unwrap();
                self.overstepped += usize::from(!holds.caller_half);
                holds.caller_half |= !holds.detached;
                self.machine.reclaim_caller_half(ticket);
            }
            (11, Some(ticket)) => self.detach(ticket),
            (12, _) if more < 16 => {
                self.limits = others.clone();
                self.overstepped += 2;
                let admitted = self.machine.set_limits(self.limits.clone(), self.now);
                self.admitted(admitted);
            }
            (13, Some(ticket)) => self.end(ticket),
            _ => {}
        }
        self.pass(Duration::from_millis(u64::from(time) % 20));
        self.check();
    }

    fn detach(&mut self, ticket: u64) {
        let caller = self.holds[&ticket].claim.caller.clone();
        let detached = self.holds.values().filter(|holds| holds.detached);
        let of_caller = detached.clone().filter(|holds| holds.claim.caller == caller).count();
        let may = self.holds[&ticket].detached
            || (of_caller < self.limits.detached_caller && detached.count() < self.limits.detached);
        let admitted = self.machine.detach(ticket, self.now);
        assert_eq!(admitted.is_some(), may);
        if may {
            let holds = self.holds.get_mut(&ticket).unwrap();
            (holds.detached, holds.caller_half) = (true, false);
        }
        self.admitted(admitted.unwrap_or_default());
    }

    fn check(&self) {
        let rows = (self.machine.rows().count(), self.machine.rows().filter(|row| row.caller_half).count());
        let held = (self.holds.len(), self.holds.values().filter(|holds| holds.caller_half).count());
        assert_eq!(rows, held, "a permit was lost");
        assert_eq!(self.machine.line.len(), self.waits.len());
        for (ticket, waits) in &self.waits {
            let room = self.free(&waits.claim).iter().all(|free| *free > 0);
            let blocking = self.machine.counts.blocking(&self.limits, &waits.claim, *ticket);
            assert!(!room || !blocking.is_empty(), "it waits for nothing: {waits:?}");
            let earlier = self.waits.range(..*ticket).next();
            assert!(!room || earlier.is_some(), "what it needs is reserved for nobody: {waits:?}");
            let bound = (waits.ahead + 1) * (OVERTAKINGS + CALLERS.len() + 18 + waits.ahead)
                + (self.overstepped - waits.overstepped);
            let bound = LONGEST * u32::try_from(bound).unwrap();
            assert!(self.now - waits.since <= bound, "it waits longer than {bound:?}: {waits:?}");
        }
    }

    fn audit(&self) {
        // The rows say when their calls end at the latest, an hour from their beginning.
        assert_eq!(self.machine.audit(self.now), Vec::<String>::new());
    }

    /// Nobody comes any more: whoever waits gets in, and nothing is left.
    fn drain(&mut self) {
        while !self.holds.is_empty() {
            self.pass(LONGEST);
            self.check();
        }
        assert!(self.waits.is_empty(), "all places are free and these wait: {:?}", self.waits);
        self.audit();
        assert_eq!(self.machine.line.reservations(), 0);
        assert!(self.machine.counts.numbers().is_empty() && self.machine.detached.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_schedule_oversteps_a_limit_loses_a_permit_or_keeps_a_call_waiting(
        limits in limits(),
        others in limits(),
        // With few overtakings places are reserved all the time, and with many hardly ever.
        overtakings in select(vec![1, 2, OVERTAKINGS]),
        steps in vec(any::<u32>(), STEPS),
    ) {
        let mut model = Model::new(limits);
        model.machine.line = Line::new(overtakings);
        for (number, step) in steps.into_iter().enumerate() {
            model.step(step, &others);
            if number % 16 == 0 {
                model.audit();
            }
        }
        model.drain();
    }
}

fn wide() -> Limits {
    let (share, conversation_share) = (1.0, 1.0);
    let (total, caller, conversation, queue) = (64, 32, 16, 1000);
    Limits { total, caller, conversation, queue, share, conversation_share, ..defaults() }
}

#[test]
fn callers_have_turns() {
    let mut model = Model::new(wide());
    let narrow = |caller: &str| claim(caller, "", "narrow", Some(1));
    let mut last = model.enter(narrow("z"), LONGEST).unwrap();
    for (caller, calls) in [("a", 6), ("b", 3), ("c", 2)] {
        for _ in 0..calls {
            model.enter(narrow(caller), LONGEST).unwrap();
        }
    }
    let mut order = String::new();
    while !model.waits.is_empty() {
        model.end(last);
        last = *model.holds.keys().next().unwrap();
        order.push_str(&model.holds[&last].claim.caller);
    }
    assert_eq!(order, "abcabcabaaa");
}

#[test]
fn calls_to_a_healthy_upstream_go_in_while_five_hundred_wait_for_a_hung_one() {
    for (upstream_limit, share) in [(None, 0.5), (Some(8), 1.0), (Some(1), 1.0)] {
        let mut model = Model::new(Limits { share, conversation_share: share, queue: 1000, ..wide() });
        let hung = || claim("a", "k", "hung", upstream_limit);
        let healthy = || claim("a", "k", "healthy", None);
        for _ in 0..upstream_limit.unwrap_or(8) + 500 {
            model.enter(hung(), Duration::from_secs(3600)).unwrap();
        }
        assert_eq!(model.waits.len(), 500);
        let mut held: VecDeque<u64> = VecDeque::new();
        while model.free(&healthy()).iter().all(|free| *free > 0) {
            held.push_back(model.enter(healthy(), LONGEST).unwrap());
        }
        // From here on each of them takes the last place of the conversation.
        for _ in 0..10 * OVERTAKINGS {
            model.end(held.pop_front().unwrap());
            let ticket = model.enter(healthy(), LONGEST).unwrap();
            assert!(model.holds.contains_key(&ticket), "a healthy call waits for a hung upstream");
            held.push_back(ticket);
        }
        assert_eq!(model.waits.len(), 500);
        model.audit();
    }
}

/// One needs the conversation and the upstream, and whenever one is free the other is not.
#[test]
fn a_call_that_needs_two_full_scopes_is_overtaken_only_so_often() {
    let mut model = Model::new(Limits { conversation: 1, ..wide() });
    let (mine, theirs) = (|| claim("a", "k", "v", None), || claim("b", "", "u", Some(1)));
    let (mut in_conversation, mut at_upstream) =
        (model.enter(mine(), LONGEST).unwrap(), model.enter(theirs(), LONGEST).unwrap());
    let waiting = model.enter(claim("a", "k", "u", Some(1)), LONGEST).unwrap();
    let mut overtaken = 0;
    while !model.holds.contains_key(&waiting) {
        model.end(at_upstream);
        at_upstream = model.enter(theirs(), LONGEST).unwrap();
        model.end(in_conversation);
        if model.holds.contains_key(&waiting) {
            break;
        }
        in_conversation = model.enter(mine(), LONGEST).unwrap();
        overtaken += 1;
        assert!(overtaken <= OVERTAKINGS, "it is overtaken without end");
    }
    assert_eq!(overtaken, OVERTAKINGS);
    model.audit();
    model.drain();
}
