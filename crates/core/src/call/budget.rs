//! What retries may cost: a budget that calls fill and retries use up, and the pause before each of them.
//!
//! A server that is down is asked a few times more, not three times as often.

use crate::config::Retries;
use std::time::Duration;

/// The longest pause before another attempt.
const LONGEST: Duration = Duration::from_secs(5);
/// The shares of calls that are saved for later, beside the floor: what a good month has left unused is not spent in a
/// bad minute.
const SAVED: u64 = 100;
/// One retry. Shares of one are whole numbers of its parts, so that nothing is lost or gained by adding them up.
const ONE: u64 = 1_000_000;

/// The retries that calls to one server may cost. In its life they never exceed `budget` × calls + `floor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// What there is, in parts of a retry.
    left: u64,
    /// What each call adds.
    share: u64,
    most: u64,
}

impl RetryBudget {
    /// A budget with its floor in it, and nothing at all where calls are never retried. `budget` is taken to a
    /// millionth.
    pub fn new(retries: &Retries) -> Self {
        if retries.max == 0 {
            return Self { left: 0, share: 0, most: 0 };
        }
        // A cast from a float saturates, and takes what is no number for zero.
        let share = (retries.budget * ONE as f64).round() as u64;
        let floor = u64::from(retries.floor) * ONE;
        Self { left: floor, share, most: floor.saturating_add(share.saturating_mul(SAVED)) }
    }

    /// A call was made. Its retries are no calls.
    pub fn called(&mut self) {
        self.left = self.left.saturating_add(self.share).min(self.most);
    }

    /// Takes a retry, where there is one left.
    pub fn try_retry(&mut self) -> bool {
        let left = self.left.checked_sub(ONE);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// How many retries are left.
    pub fn left(&self) -> u64 {
        self.left / ONE
    }
}

/// How long to wait before another attempt, when `attempt` of them, at least one, have failed: a part of a time that
/// doubles with each and is 5 s at most. `jitter`, from 0 to 1, is that part, so that calls that failed together do not
/// come back together.
pub fn backoff(retries: &Retries, attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1);
    let longest = retries.backoff.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST);
    longest.mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn retries(budget: f64, floor: u32) -> Retries {
        Retries { max: 2, backoff: Duration::from_millis(100), budget, floor }
    }

    #[test]
    fn a_hundred_failing_calls_cost_ten_retries_and_the_floor() {
        let mut budget = RetryBudget::new(&retries(0.1, 10));
        let mut extra = 0;
        for _ in 0..100 {
            budget.called();
            extra += [budget.try_retry(), budget.try_retry()].into_iter().filter(|granted| *granted).count();
        }
        assert_eq!((extra, budget.left()), (20, 0));
    }

    #[test]
    fn a_good_month_leaves_no_more_than_a_hundred_calls_do() {
        let mut budget = RetryBudget::new(&retries(0.1, 3));
        for _ in 0..1_000_000 {
            budget.called();
        }
        assert_eq!(budget.left(), 13);
    }

    #[test]
    fn whoever_never_retries_has_no_budget() {
        let mut budget = RetryBudget::new(&Retries { max: 0, ..retries(1.0, 10) });
        budget.called();
        assert!(!budget.try_retry() && budget.left() == 0);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retries = retries(0.1, 10);
        let pauses: Vec<u128> =
            [0, 1, 2, 3, 6, 7, 40, u32::MAX].map(|n| backoff(&retries, n, 1.0).as_millis()).to_vec();
        assert_eq!(pauses, [100, 100, 200, 400, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff(&retries, 3, 0.0), Duration::ZERO);
        assert_eq!(backoff(&retries, 3, 0.5), Duration::from_millis(200));
    }

    proptest! {
        /// The model counts: a retry is granted exactly when one is left of what calls have added, and of that no more
        /// than a hundred calls' is ever saved.
        #[test]
        fn retries_never_exceed_their_share_of_calls(
            thousandths in 0_u64..2_000,
            floor in 0_u32..20,
            steps in vec(any::<bool>(), 0..600),
        ) {
            let mut budget = RetryBudget::new(&retries(thousandths as f64 / 1000.0, floor));
            let (mut calls, mut granted) = (0_u64, 0_u64);
            let mut saved = u64::from(floor) * 1000;
            for call in steps {
                if call {
                    calls += 1;
                    budget.called();
                    saved = (saved + thousandths).min(u64::from(floor) * 1000 + thousandths * 100);
                } else {
                    let retried = budget.try_retry();
                    prop_assert_eq!(retried, saved >= 1000);
                    granted += u64::from(retried);
                    saved -= u64::from(retried) * 1000;
                }
                prop_assert!(granted * 1000 <= thousandths * calls + u64::from(floor) * 1000);
                prop_assert_eq!(budget.left(), saved / 1000);
            }
        }

        #[test]
        fn no_pause_is_longer_than_the_one_jitter_takes_a_part_of(
            first in 0_u64..20_000,
            attempt in any::<u32>(),
            jitter in 0.0..=1.0_f64,
        ) {
            let retries = Retries { backoff: Duration::from_millis(first), ..retries(0.1, 10) };
            let longest = backoff(&retries, attempt, 1.0);
            prop_assert!(backoff(&retries, attempt, jitter) <= longest && longest <= LONGEST);
            prop_assert!(longest <= backoff(&retries, attempt.saturating_add(1), 1.0));
        }
    }
}
