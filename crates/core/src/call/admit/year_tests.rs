//! A year of calls, one a minute from each of twenty callers, in virtual time: some upstreams are slow, one hangs for
//! hours every day.

use super::{
    Claim, Limits,
    machine::{Admitted, Entered, Machine},
};
use crate::config::Config;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const CALLERS: usize = 20;
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// How long a call may take, waiting included.
const BUDGET: u64 = 50_000;
/// How many calls may be in flight.
const TOTAL: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends(u64),
    GivesUp(u64),
    LosesCaller(u64),
    Calls(usize),
}

/// One that waits or is in.
#[derive(Clone, Copy, Debug)]
struct Flight {
    caller: usize,
    upstream: usize,
    came: u64,
    takes: u64,
    caller_half: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    called: u64,
    served: u64,
    refused: u64,
    gave_up: u64,
}

impl Tally {
    fn served_part(self) -> f64 {
        self.served as f64 / self.called as f64
    }
}

const QUICK: usize = 0;
const HANGS: usize = 3;

struct Year {
    machine: Machine,
    began: Instant,
    now: u64,
    until: u64,
    random: u64,
    names: Vec<Arc<str>>,
    upstreams: [(Arc<str>, Option<usize>); 4],
    events: BinaryHeap<Reverse<(u64, Event)>>,
    waits: HashMap<u64, Flight>,
    holds: HashMap<u64, Flight>,
    /// Places of caller's halves by upstream.
    used: [usize; 4],
    by_caller: [Tally; CALLERS],
    by_upstream: [Tally; 4],
}

impl Year {
    fn new(days: u64) -> Self {
        let (share, conversation_share) = (0.5, 0.5);
        let (total, caller, conversation, queue) = (TOTAL, 3, 2, 64);
        let defaults = Config::default_for(PathBuf::from("/nowhere")).limits;
        let limits = Limits { total, caller, conversation, queue, share, conversation_share, ..defaults };
        Self {
            machine: Machine::new(limits),
            began: Instant::now(),
            now: 0,
            until: days * DAY,
            random: 0x9e37_79b9_7f4a_7c15,
            names: (0..CALLERS).map(|caller| format!("caller {caller}").into()).collect(),
            upstreams: [
                ("quick".into(), None),
                ("steady".into(), Some(1)),
                ("slow".into(), Some(3)),
                ("hangs".into(), None),
            ],
            events: (0..CALLERS).map(|caller| Reverse((0, Event::Calls(caller)))).collect(),
            waits: HashMap::new(),
            holds: HashMap::new(),
            used: [0; 4],
            by_caller: [Tally::default(); CALLERS],
            by_upstream: [Tally::default(); 4],
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    /// A number below `end` (xorshift).
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    /// Where a call goes, and how long it takes if nothing ends it.
    fn errand(&mut self) -> (usize, u64) {
        match self.below(100) {
            0..40 => (QUICK, 100 + self.below(1_900)),
            40..65 => (1, 5_000 + self.below(15_000)),
            65..85 => (2, 20_000 + self.below(25_000)),
            // From two to five o'clock it answers nothing.
            _ if (2..5).contains(&(self.now % DAY / (60 * MINUTE))) => (HANGS, u64::MAX),
            _ => (HANGS, 1_000 + self.below(2_000)),
        }
    }

    fn run(mut self) -> Self {
        let mut audited = 0;
        while let Some(Reverse((now, event))) = self.events.pop() {
            self.now = now;
            let at = self.at(now);
            match event {
                Event::Calls(caller) => self.call(caller),
                Event::Ends(ticket) => {
                    let flight = self.holds.remove(&ticket).expect("what ends was in");
                    self.used[flight.upstream] -= usize::from(flight.caller_half);
                    let admitted = self.machine.end(ticket, at);
                    self.admitted(admitted);
                }
                Event::GivesUp(ticket) => {
                    if let Some(flight) = self.waits.remove(&ticket) {
                        self.tally(flight, |tally| tally.gave_up += 1);
                        let admitted = self.machine.leave(ticket, at);
                        self.admitted(admitted);
                    }
                }
                Event::LosesCaller(ticket) => {
                    if let Some(flight) = self.holds.get_mut(&ticket)
                        && let Some(admitted) = self.machine.detach(ticket, at)
                    {
                        flight.caller_half = false;
                        self.used[flight.upstream] -= 1;
                        self.admitted(admitted);
                    }
                }
            }
            if now / DAY > audited {
                audited = now / DAY;
                self.check();
            }
        }
        self.check();
        self
    }

    fn call(&mut self, caller: usize) {
        // Once a minute, at any time in it.
        let minute = self.now / MINUTE + 1;
        if minute * MINUTE < self.until {
            let next = minute * MINUTE + self.below(MINUTE);
            self.events.push(Reverse((next, Event::Calls(caller))));
        }
        let (upstream, takes) = self.errand();
        let (name, upstream_limit) = self.upstreams[upstream].clone();
        let claim = Claim {
            caller: Arc::clone(&self.names[caller]),
            conversation: Some(Arc::from(if minute.is_multiple_of(2) { "even" } else { "odd" })),
            upstream: name,
            upstream_limit,
            tool: "t".into(),
            tool_limit: None,
            provider: None,
        };
        let flight = Flight { caller, upstream, came: self.now, takes, caller_half: true };
        self.tally(flight, |tally| tally.called += 1);
        let deadline = self.at(self.now + BUDGET);
        match self.machine.enter(claim, deadline, deadline, self.at(self.now)) {
            Ok(Entered::In(ticket, others)) => {
                self.begin(ticket, flight);
                self.admitted(others);
            }
            Ok(Entered::Waits(ticket, _)) => {
                self.waits.insert(ticket, flight);
                self.events.push(Reverse((self.now + BUDGET, Event::GivesUp(ticket))));
            }
            Err(_) => self.tally(flight, |tally| tally.refused += 1),
        }
    }

    fn admitted(&mut self, tickets: Admitted) {
        for ticket in tickets {
            let flight = self.waits.remove(&ticket).expect("who is let in has waited");
            self.begin(ticket, flight);
        }
    }

    fn begin(&mut self, ticket: u64, flight: Flight) {
        self.tally(flight, |tally| tally.served += 1);
        self.holds.insert(ticket, flight);
        self.used[flight.upstream] += 1;
        assert!(self.used[flight.upstream] <= TOTAL / 2, "an upstream holds more than its share");
        assert!(self.used.iter().sum::<usize>() <= TOTAL);
        let ends = self.now.saturating_add(flight.takes).min(flight.came + BUDGET);
        self.events.push(Reverse((ends, Event::Ends(ticket))));
        if flight.takes == u64::MAX && ticket.is_multiple_of(2) && self.now + 20_000 < ends {
            self.events.push(Reverse((self.now + 20_000, Event::LosesCaller(ticket))));
        }
    }

    fn tally(&mut self, flight: Flight, note: impl Fn(&mut Tally)) {
        note(&mut self.by_caller[flight.caller]);
        note(&mut self.by_upstream[flight.upstream]);
    }

    /// Nothing is lost: not in the counters, not in the table, and no call without an end.
    fn check(&self) {
        assert_eq!(self.machine.audit(self.at(self.now)), Vec::<String>::new());
        assert_eq!(self.machine.rows().count(), self.holds.len());
        let ended = |tally: &Tally| tally.served + tally.refused + tally.gave_up;
        let called = self.by_caller.iter().map(|tally| tally.called).sum::<u64>();
        let over = self.by_caller.iter().map(ended).sum::<u64>();
        assert_eq!(called, over + u64::try_from(self.waits.len()).unwrap());
    }

    /// Twenty callers who ask for the same get the same, within this part of their calls.
    fn is_fair_within(&self, part: f64) {
        assert!(self.waits.is_empty() && self.holds.is_empty());
        let parts: Vec<f64> = self.by_caller.iter().map(|tally| tally.served_part()).collect();
        let mean = parts.iter().sum::<f64>() / CALLERS as f64;
        for served in &parts {
            assert!((served - mean).abs() <= part, "{mean} of all calls are served, and of each {parts:?}");
        }
        let [quick, steady, slow, hangs] = self.by_upstream.map(Tally::served_part);
        assert!(quick >= 0.98, "{quick} of the calls to a healthy upstream are served");
        let contended = self.by_upstream.iter().any(|tally| tally.served < tally.called);
        assert!(contended, "nobody ever waited in vain: {:?}", [quick, steady, slow, hangs]);
    }
}

#[test]
fn a_day_of_calls_is_fair_and_loses_nothing() {
    Year::new(1).run().is_fair_within(0.05);
}

/// A year, or as many days as `SEAWALL_DAYS` says.
fn days() -> u64 {
    std::env::var("SEAWALL_DAYS").map_or(365, |days| days.parse().expect("SEAWALL_DAYS is a number of days"))
}

#[test]
#[ignore = "ten million calls: run by cargo xtask simulate"]
fn a_year_of_calls_is_fair_and_loses_nothing() {
    let days = days();
    let year = Year::new(days).run();
    let called = year.by_caller.iter().map(|tally| tally.called).sum::<u64>();
    assert_eq!(called, days * (DAY / MINUTE) * u64::try_from(CALLERS).unwrap());
    // What is left to chance evens out with the root of the time.
    year.is_fair_within(0.005 * (365.0 / days as f64).sqrt());
}
