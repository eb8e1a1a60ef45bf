//! Timeouts that are learned: what the last good calls of one tool say about how long the next one may take.

use crate::config::Learn;
use std::time::Duration;

/// How many good calls are looked at.
const LAST: usize = 256;
/// Fewer good calls than this say nothing.
const LEAST: u64 = 20;
/// After how many more good calls they are looked at again.
const EVERY: u64 = 16;
/// So many calls in a row that ran out of the time learned for them say that the tool has become slower.
const TOO_LATE: u32 = 8;

/// How long the last good calls of one tool took.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The last of them, in a ring.
    took: Vec<Duration>,
    /// How many there were in all.
    seen: u64,
    /// What 99 of 100 did not exceed, when they were last looked at.
    p99: Option<Duration>,
    late: u32,
}

impl Learned {
    /// A call has ended well.
    pub fn success(&mut self, took: Duration) {
        self.late = 0;
        match self.took.get_mut((self.seen % LAST as u64) as usize) {
            Some(oldest) => *oldest = took,
            None => self.took.push(took),
        }
        self.seen += 1;
        if self.seen.checked_sub(LEAST).is_some_and(|more| more.is_multiple_of(EVERY)) {
            let mut sorted = self.took.clone();
            let rank = (sorted.len() * 99).div_ceil(100);
            self.p99 = Some(*sorted.select_nth_unstable(rank - 1).1);
        }
    }

    /// A call has run out of the time that was learned for it. Good calls alone teach, and a tool that has become
    /// slower than its learned time has none any more; so after 8 of these in a row what was learned is forgotten.
    pub fn ran_out(&mut self) {
        self.late += 1;
        if self.late >= TOO_LATE {
            *self = Self::default();
        }
    }

    /// How long the next call may take: `factor` times what 99 of 100 of the last 256 good calls did not exceed, no
    /// less than `floor` and no more than `ceiling`. None while there were fewer than 20. What the last 15 add may not
    /// be in it yet.
    pub fn timeout(&self, learn: &Learn) -> Option<Duration> {
        let p99 = self.p99?;
        let wanted = Duration::try_from_secs_f64(p99.as_secs_f64() * learn.factor).unwrap_or(learn.ceiling);
        Some(wanted.max(learn.floor).min(learn.ceiling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const LEARN: Learn =
        Learn { floor: Duration::from_millis(10), ceiling: Duration::from_secs(50), factor: 2.0 };

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn nothing_is_known_before_twenty_good_calls() {
        let mut learned = Learned::default();
        for _ in 0..19 {
            learned.success(ms(500));
            assert_eq!(learned.timeout(&LEARN), None);
        }
        learned.success(ms(500));
        assert_eq!(learned.timeout(&LEARN), Some(ms(1000)));
    }

    #[test]
    fn it_stays_between_floor_and_ceiling() {
        for (took, timeout) in [(1, 10), (5, 10), (6, 12), (25_000, 50_000), (90_000, 50_000)] {
            let mut learned = Learned::default();
            for _ in 0..20 {
                learned.success(ms(took));
            }
            assert_eq!(learned.timeout(&LEARN), Some(ms(timeout)), "{took} ms");
        }
        let mut learned = Learned::default();
        for _ in 0..20 {
            learned.success(Duration::MAX);
        }
        assert_eq!(learned.timeout(&LEARN), Some(LEARN.ceiling));
    }

    #[test]
    fn a_tool_that_has_become_slower_is_learned_anew() {
        let mut learned = Learned::default();
        for _ in 0..20 {
            learned.success(ms(500));
        }
        for _ in 0..TOO_LATE - 1 {
            learned.ran_out();
        }
        learned.success(ms(500));
        for _ in 0..TOO_LATE - 1 {
            learned.ran_out();
        }
        assert!(learned.timeout(&LEARN).is_some(), "not so many in a row");
        learned.ran_out();
        assert_eq!(learned.timeout(&LEARN), None);
        for _ in 0..20 {
            learned.success(ms(3000));
        }
        assert_eq!(learned.timeout(&LEARN), Some(ms(6000)));
    }

    proptest! {
        /// The model keeps every call, and sorts the last 256 of those there were when they were looked at.
        #[test]
        fn it_is_the_time_that_99_of_100_good_calls_did_not_exceed(took in vec(0_u64..40_000, 0..700)) {
            let plain = Learn { floor: Duration::ZERO, ceiling: Duration::from_secs(60), factor: 1.0 };
            let mut learned = Learned::default();
            for (index, milliseconds) in took.iter().enumerate() {
                learned.success(ms(*milliseconds));
                let count = index + 1;
                let expected = (count >= 20).then(|| {
                    let looked_at = count - (count - 20) % 16;
                    let mut last = took[looked_at.saturating_sub(256)..looked_at].to_vec();
                    last.sort_unstable();
                    let allowed = last.len() / 100;
                    ms(last[last.len() - 1 - allowed])
                });
                prop_assert_eq!(learned.timeout(&plain), expected);
            }
        }
    }
}
