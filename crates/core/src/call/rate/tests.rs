use super::*;
use proptest::{collection::vec, prelude::*};

fn rate(calls: u32, milliseconds: u64) -> Rate {
    Rate { calls, per: Duration::from_millis(milliseconds) }
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn a_burst_and_then_one_by_one() {
    let (now, ten) = (Instant::now(), rate(10, 1000));
    let mut bucket = Bucket::new(ten, now);
    for _ in 0..10 {
        assert_eq!(bucket.try_take(ten, now), Ok(()));
    }
    let wait = Duration::from_millis(100);
    assert_eq!(bucket.try_take(ten, now), Err(wait));
    assert_eq!(bucket.try_take(ten, now + wait / 2), Err(wait / 2));
    assert_eq!(bucket.try_take(ten, now + wait), Ok(()));
    assert_eq!(bucket.try_take(ten, now + wait), Err(wait));
}

#[test]
fn a_bucket_never_holds_more_than_the_burst() {
    let (now, two) = (Instant::now(), rate(2, 1000));
    let mut bucket = Bucket::new(two, now);
    let later = now + Duration::from_secs(3600);
    assert_eq!([bucket.try_take(two, later), bucket.try_take(two, later)], [Ok(()), Ok(())]);
    assert!(bucket.try_take(two, later).is_err());
}

#[test]
fn a_changed_rate_takes_effect_at_once() {
    let now = Instant::now();
    let (slow, fast) = (rate(1, 3_600_000), rate(100, 1000));
    let mut bucket = Bucket::new(slow, now);
    assert_eq!(bucket.try_take(slow, now), Ok(()));
    assert_eq!(bucket.try_take(fast, now), Err(Duration::from_millis(10)), "it fills faster from now on");
    assert_eq!(bucket.try_take(fast, now + Duration::from_millis(10)), Ok(()));
    let full = now + Duration::from_secs(60);
    assert_eq!(bucket.try_take(slow, full), Ok(()), "one of the hundred fits in");
    assert_eq!(bucket.try_take(slow, full), Err(slow.per));
    assert_eq!(bucket.try_take(rate(0, 1000), full), Err(Duration::from_secs(1)), "none means none");
}

#[test]
fn a_clock_that_steps_back_adds_nothing() {
    let (now, one) = (Instant::now(), rate(1, 1000));
    let later = now + Duration::from_secs(5);
    let mut bucket = Bucket::new(one, now);
    assert_eq!(bucket.try_take(one, later), Ok(()));
    assert_eq!(bucket.try_take(one, now), Err(one.per));
    assert_eq!(bucket.try_take(one, later), Err(one.per));
    assert_eq!(bucket.try_take(one, later + one.per), Ok(()));
}

#[test]
fn callers_and_tools_have_buckets_of_their_own() {
    let (rates, now, one) = (Rates::default(), Instant::now(), rate(1, 1000));
    let [ann, bob, x, y, t, u] = ["ann", "bob", "x", "y", "t", "u"].map(name);
    for (caller, tool) in [
        (&ann, None),
        (&bob, None),
        (&ann, Some((&x, &t))),
        (&ann, Some((&x, &u))),
        (&ann, Some((&y, &t))),
        (&bob, Some((&x, &t))),
    ] {
        assert_eq!(rates.take(caller, tool, one, now), Ok(()));
        assert_eq!(rates.take(caller, tool, one, now), Err(one.per));
    }
}

#[test]
fn full_buckets_are_forgotten_and_then_those_that_are_full_next() {
    let (rates, now, ten) = (Rates::default(), Instant::now(), rate(10, 1000));
    let [busy, other] = ["busy", "other"].map(name);
    for _ in 0..10 {
        assert_eq!(rates.take(&busy, None, ten, now), Ok(()));
    }
    for number in 0..10 * MOST {
        assert_eq!(rates.take(&name(&number.to_string()), None, ten, now), Ok(()));
        assert!(rates.lock().len() <= MOST);
    }
    assert!(rates.take(&busy, None, ten, now).is_err(), "an empty bucket is none of those");
    let later = now + Duration::from_millis(500);
    let before = rates.lock().len();
    for number in 0..=MOST - before {
        assert_eq!(rates.take(&other, Some((&other, &name(&number.to_string()))), ten, later), Ok(()));
    }
    let left = rates.lock().len();
    assert!(left <= MOST - before + 2, "of the old ones only the empty one was not full: {left}");
}

/// The obviously right bucket: the times of all calls that were let through, and the rule that a stretch of time holds
/// no more of them than the burst and what it fills.
fn has_room(taken: &[u64], at: u64, calls: u64, per: u64) -> bool {
    (0..taken.len()).all(|first| {
        let inside = (taken.len() - first) as u64 + 1;
        inside * per <= calls * per + (at - taken[first]) * calls
    })
}

proptest! {
    #[test]
    fn a_bucket_lets_through_all_that_the_rate_allows_and_no_more(
        calls in 1_u32..8,
        per in 1_u64..5_000,
        steps in vec(0_u64..2_000, 0..80),
    ) {
        let (began, rate) = (Instant::now(), rate(calls, per));
        let mut bucket = Bucket::new(rate, began);
        let (mut at, mut taken) = (0_u64, Vec::<u64>::new());
        for step in steps {
            // Many at once, then a while nothing.
            at += step.saturating_sub(1_000);
            let now = began + Duration::from_millis(at);
            let allowed = has_room(&taken, at, calls.into(), per);
            match bucket.try_take(rate, now) {
                Ok(()) => {
                    prop_assert!(allowed);
                    taken.push(at);
                }
                Err(wait) => {
                    prop_assert!(!allowed && !wait.is_zero());
                    let nanosecond = Duration::from_nanos(1);
                    prop_assert!(bucket.clone().try_take(rate, now + wait - nanosecond).is_err());
                    prop_assert_eq!(bucket.clone().try_take(rate, now + wait), Ok(()));
                }
            }
        }
    }

    /// However a rate changes, no more than its burst comes at once, and the time that was told is right.
    #[test]
    fn a_changing_rate_never_gives_more_than_the_burst(
        steps in vec((0_u32..6, 1_u64..5_000, 0_u64..3_000), 0..60),
    ) {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(rate(3, 1000), now);
        for (calls, per, wait) in steps {
            now += Duration::from_millis(wait);
            let rate = rate(calls, per);
            let mut at_once = 0;
            let told = loop {
                match bucket.try_take(rate, now) {
                    Ok(()) => at_once += 1,
                    Err(wait) => break wait,
                }
                prop_assert!(at_once <= calls);
            };
            prop_assert_eq!(bucket.clone().try_take(rate, now + told).is_ok(), calls > 0);
        }
    }
}

#[test]
fn what_is_given_back_can_be_taken_again_and_is_never_more_than_the_burst() {
    let (now, two) = (Instant::now(), rate(2, 1000));
    let (rates, caller) = (Rates::default(), name("c"));
    rates.give_back(&caller, None);
    for _ in 0..3 {
        assert_eq!(rates.take(&caller, None, two, now), Ok(()));
        rates.give_back(&caller, None);
        rates.give_back(&caller, None);
    }
    assert_eq!([rates.take(&caller, None, two, now), rates.take(&caller, None, two, now)], [Ok(()), Ok(())]);
    assert!(rates.take(&caller, None, two, now).is_err());
}
