use super::*;
use proptest::{collection::vec, prelude::*};

const SECOND: Duration = Duration::from_secs(1);
const CONFIG: config::Breaker = config::Breaker {
    window: Duration::from_secs(30),
    failures: 0.8,
    least: 20,
    open: Duration::from_secs(10),
};

/// Makes a call and ends it.
fn call(breaker: &mut Breaker, end: End, now: Instant) -> Option<Change> {
    let pass = breaker.try_pass(now).expect("it is let through");
    breaker.ended(pass, end, now)
}

/// A breaker that opened at `now`.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(CONFIG);
    let changes: Vec<_> = (0..20).filter_map(|_| call(&mut breaker, End::Failure, now)).collect();
    assert_eq!(changes, [Change::Opened]);
    breaker
}

fn refused(breaker: &mut Breaker, now: Instant) -> Duration {
    breaker.try_pass(now).expect_err("it is open").retry_after
}

#[test]
fn it_opens_when_enough_calls_ended_and_enough_of_them_failed() {
    let (mut breaker, now) = (Breaker::new(CONFIG), Instant::now());
    for _ in 0..15 {
        assert_eq!(call(&mut breaker, End::Failure, now), None);
    }
    for _ in 0..4 {
        assert_eq!(call(&mut breaker, End::Success, now), None);
        assert_eq!(call(&mut breaker, End::Neither, now), None);
    }
    assert_eq!(breaker.state(now), State::Closed, "19 ended");
    assert_eq!(call(&mut breaker, End::Failure, now), Some(Change::Opened), "16 of 20 failed");
    assert_eq!(breaker.state(now), State::Open { next: 10 * SECOND });
    assert_eq!(refused(&mut breaker, now + 3 * SECOND), 7 * SECOND);
}

#[test]
fn a_good_answer_never_opens_it() {
    let (mut breaker, now) = (Breaker::new(CONFIG), Instant::now());
    for _ in 0..19 {
        assert_eq!(call(&mut breaker, End::Failure, now), None);
    }
    assert_eq!(call(&mut breaker, End::Success, now), None);
    assert_eq!(breaker.state(now), State::Closed);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let (mut breaker, now) = (Breaker::new(CONFIG), Instant::now());
    for _ in 0..19 {
        call(&mut breaker, End::Failure, now);
    }
    let just_in = now + CONFIG.window;
    let out = just_in + Duration::from_nanos(1);
    assert_eq!(call(&mut breaker, End::Failure, out), None);
    assert_eq!((breaker.window.len(), breaker.failed), (1, 1));
    for _ in 0..18 {
        call(&mut breaker, End::Failure, out);
    }
    assert_eq!(call(&mut breaker, End::Failure, out + CONFIG.window), Some(Change::Opened));
}

#[test]
fn one_probe_is_let_through_and_its_success_closes_it() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + 10 * SECOND;
    assert_eq!(breaker.state(later), State::HalfOpen);
    let probe = breaker.try_pass(later).expect("one is let through");
    assert_eq!(refused(&mut breaker, later + 2 * SECOND), 8 * SECOND);
    assert_eq!(
        refused(&mut breaker, later + 10 * SECOND - Duration::from_nanos(1)),
        SECOND,
        "at least a second"
    );
    assert_eq!(breaker.ended(probe, End::Success, later + SECOND), Some(Change::Closed));
    assert_eq!((breaker.state(later), breaker.window.len()), (State::Closed, 0));
}

#[test]
fn a_failed_probe_opens_it_again_and_one_that_says_nothing_lets_the_next_one_try() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let later = now + 10 * SECOND;
    let probe = breaker.try_pass(later).expect("one is let through");
    assert_eq!(breaker.ended(probe, End::Neither, later), None);
    let next = breaker.try_pass(later).expect("the next one is");
    assert_eq!(breaker.ended(next, End::Failure, later + 2 * SECOND), Some(Change::Opened));
    assert_eq!(refused(&mut breaker, later + 3 * SECOND), 9 * SECOND);
}

#[test]
fn a_probe_that_never_ends_holds_up_the_next_one_only_so_long() {
    let now = Instant::now();
    let mut breaker = opened(now);
    let second = now + 20 * SECOND;
    let slow = breaker.try_pass(now + 10 * SECOND).expect("one is let through");
    let stuck = breaker.try_pass(second).expect("one more is");
    refused(&mut breaker, second);
    assert_eq!(
        breaker.ended(slow, End::Success, second + SECOND),
        Some(Change::Closed),
        "late, and an answer"
    );
    assert_eq!(breaker.ended(stuck, End::Failure, second + SECOND), None, "it is closed");
}

#[test]
fn calls_from_before_it_opened_say_nothing_after_it_closed() {
    let (mut breaker, now) = (Breaker::new(CONFIG), Instant::now());
    let old: Vec<Pass> = (0..40).map(|_| breaker.try_pass(now).expect("it is closed")).collect();
    for _ in 0..20 {
        call(&mut breaker, End::Failure, now);
    }
    let later = now + 10 * SECOND;
    assert_eq!(call(&mut breaker, End::Success, later), Some(Change::Closed));
    for pass in old {
        assert_eq!(breaker.ended(pass, End::Failure, later), None);
    }
    assert_eq!((breaker.state(later), breaker.window.len()), (State::Closed, 0));
}

#[test]
fn without_a_share_of_failures_it_never_opens() {
    let now = Instant::now();
    let mut breaker = Breaker::new(config::Breaker { failures: 0.0, least: 1, ..CONFIG });
    for _ in 0..100 {
        assert_eq!(call(&mut breaker, End::Failure, now), None);
    }
    assert_eq!((breaker.state(now), breaker.window.len()), (State::Closed, 0));
}

#[test]
fn the_window_is_bounded_and_its_oldest_leave() {
    let (mut breaker, now) = (Breaker::new(config::Breaker { least: u32::MAX, ..CONFIG }), Instant::now());
    for _ in 0..MOST {
        call(&mut breaker, End::Success, now);
    }
    let mut calls = 0;
    while breaker.state(now) == State::Closed {
        call(&mut breaker, End::Failure, now);
        calls += 1;
        assert!(breaker.window.len() <= MOST);
    }
    assert_eq!(calls, 3277, "the first that is 0.8 of 4096");
}

/// The obviously right breaker: it forgets nothing, and works all out anew each time.
#[derive(Debug)]
struct Model {
    config: config::Breaker,
    /// Every ended call of this episode: when, and whether it failed.
    ended: Vec<(Instant, bool)>,
    /// When the first call is let through, and which probe that waits for; none while it is closed.
    next: Option<(Instant, Option<usize>)>,
    opened: usize,
    closed: usize,
}

/// A call of the model: its number, how often it had opened and closed before, and whether it was a probe.
#[derive(Clone, Copy, Debug)]
struct Began {
    number: usize,
    changes: (usize, usize),
    probe: bool,
}

impl Model {
    fn begin(&mut self, number: usize, now: Instant) -> Result<Began, Duration> {
        let changes = (self.opened, self.closed);
        match &mut self.next {
            None => Ok(Began { number, changes, probe: false }),
            Some((at, None)) if *at > now => Err(*at - now),
            Some((at, Some(_))) if *at > now => Err((*at - now).max(SECOND)),
            Some(next) => {
                *next = (now + self.config.open, Some(number));
                Ok(Began { number, changes, probe: true })
            }
        }
    }

    fn end(&mut self, began: Began, end: End, now: Instant) -> Option<Change> {
        if began.changes != (self.opened, self.closed) || end == End::Neither {
            if began.changes == (self.opened, self.closed)
                && let Some((at, Some(probe))) = &mut self.next
                && *probe == began.number
            {
                *at = now;
            }
            return None;
        }
        if began.probe {
            if end == End::Success {
                (self.next, self.closed) = (None, self.closed + 1);
                self.ended.clear();
                return Some(Change::Closed);
            }
            let waited = matches!(self.next, Some((at, None)) if at > now);
            self.next = Some((now + self.config.open, None));
            return (!waited).then_some(Change::Opened);
        }
        self.ended.push((now, end == End::Failure));
        let inside: Vec<bool> = self
            .ended
            .iter()
            .filter(|(at, _)| now - *at <= self.config.window)
            .map(|(_, failed)| *failed)
            .collect();
        let failed = inside.iter().filter(|failed| **failed).count();
        let opens = end == End::Failure
            && inside.len() >= self.config.least as usize
            && failed as f64 / inside.len() as f64 >= self.config.failures;
        opens.then(|| {
            (self.next, self.opened) = (Some((now + self.config.open, None)), self.opened + 1);
            Change::Opened
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Call,
    /// One of the calls under way ends, chosen by the number.
    End(usize, End),
}

fn schedules() -> impl Strategy<Value = Vec<Step>> {
    // Most calls fail, or it would hardly ever open.
    let end = prop_oneof![4 => Just(End::Failure), 1 => Just(End::Success), 1 => Just(End::Neither)];
    let step = prop_oneof![
        2 => (0_u64..4_000).prop_map(Step::Wait),
        4 => Just(Step::Call),
        4 => (any::<usize>(), end).prop_map(|(which, end)| Step::End(which, end)),
    ];
    vec(step, 0..300)
}

fn configs() -> impl Strategy<Value = config::Breaker> {
    (1_u64..20, 1_u32..=10, 1_u32..8, 1_u64..15).prop_map(|(window, tenths, least, open)| config::Breaker {
        window: Duration::from_secs(window),
        failures: f64::from(tenths) / 10.0,
        least,
        open: Duration::from_secs(open),
    })
}

proptest! {
    #[test]
    fn it_does_as_the_model_does(config in configs(), steps in schedules()) {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(config);
        let mut model = Model { config, ended: Vec::new(), next: None, opened: 0, closed: 0 };
        let mut under_way = Vec::new();
        let mut probes = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Call => match (breaker.try_pass(now), model.begin(number, now)) {
                    (Ok(pass), Ok(began)) => {
                        prop_assert_eq!(pass.probe.is_some(), began.probe);
                        if began.probe {
                            probes.push(now);
                        }
                        under_way.push((pass, began));
                    }
                    (Err(open), Err(wait)) => prop_assert_eq!(open.retry_after, wait),
                    different => return Err(TestCaseError::fail(format!("{different:?}"))),
                },
                Step::End(which, end) => {
                    if under_way.is_empty() {
                        continue;
                    }
                    let (pass, began) = under_way.swap_remove(which % under_way.len());
                    let change = breaker.ended(pass, end, now);
                    prop_assert_eq!(change, model.end(began, end, now));
                    if change.is_some() || end == End::Neither {
                        probes.clear();
                    }
                }
            }
            let expected = match model.next {
                None => State::Closed,
                Some((at, None)) if at > now => State::Open { next: at - now },
                Some(_) => State::HalfOpen,
            };
            prop_assert_eq!(breaker.state(now), expected);
            let open = model.config.open;
            prop_assert!(probes.windows(2).all(|pair| pair[1] - pair[0] >= open), "one probe at a time");
            // Whatever happens, nobody is kept out longer than `open` from now.
            prop_assert!(breaker.clone().try_pass(now + open).is_ok());
        }
    }
}
