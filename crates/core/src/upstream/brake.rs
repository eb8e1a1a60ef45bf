//! The brake on a server that will not stay up: after a few quick ends it is left alone for a while, and each further
//! one makes that longer. Only staying up takes it off; that a process could be started says nothing.
//!
//! A pure state machine: time and chance come in as arguments.

use std::time::Duration;
use tokio::time::Instant;

/// How many quick ends in a row are nobody's concern: a server may be killed, or be installed anew.
const FORGIVEN: u32 = 5;
/// The first pause; each further quick end doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause: a server that was mended is tried again within this.
const LONGEST: Duration = Duration::from_secs(60);
/// How long an instance has to stay up for what was before it to be forgotten.
pub(super) const LASTING: Duration = Duration::from_secs(10);

/// Whether an upstream may be started now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Brake {
    /// Quick ends and failed starts in a row.
    quick: u32,
    until: Option<Instant>,
    /// The one start that is tried after a pause is under way.
    trying: bool,
}

/// Why an upstream is not started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Braked {
    /// How often in a row it did not stay up.
    pub(super) times: u32,
    /// When it is tried again; none where that is under way.
    pub(super) next: Option<Instant>,
}

impl Brake {
    /// Asks for leave to start an instance; given after a pause, it is given once until the outcome is told.
    pub(super) fn start(&mut self, now: Instant) -> Result<(), Braked> {
        let Some(until) = self.until else { return Ok(()) };
        if now < until {
            return Err(Braked { times: self.quick, next: Some(until) });
        }
        if self.trying {
            return Err(Braked { times: self.quick, next: None });
        }
        self.trying = true;
        Ok(())
    }

    /// The start that was asked for did not come to anything that says something about the server.
    pub(super) fn called_off(&mut self) {
        self.trying = false;
    }

    /// A start failed, or an instance ended by itself that was up for `uptime`. `chance`, from 0 to 1, spreads the
    /// next tries of many daemons.
    pub(super) fn ended(&mut self, now: Instant, uptime: Duration, chance: f64) {
        self.trying = false;
        if uptime >= LASTING {
            *self = Self::default();
            return;
        }
        self.quick = self.quick.saturating_add(1);
        let Some(over) = self.quick.checked_sub(FORGIVEN + 1) else { return };
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST);
        self.until = Some(now + pause.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0));
    }

    /// An instance has stayed up.
    pub(super) fn lasted(&mut self) {
        *self = Self::default();
    }

    /// How often in a row it did not stay up, and when it is tried next, where it is being left alone.
    pub(super) fn braked(&self, now: Instant) -> Option<Braked> {
        let until = self.until?;
        Some(Braked { times: self.quick, next: (now < until).then_some(until) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const QUICK: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn pauses_begin_after_some_quick_ends_double_and_are_bounded() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for _ in 0..FORGIVEN {
            brake.start(now).expect("it may be started");
            brake.ended(now, QUICK, 0.0);
        }
        let mut pauses = Vec::new();
        for _ in 0..10 {
            brake.ended(now, QUICK, 0.0);
            let next =
                brake.start(now).expect_err("it is left alone").next.expect("it says when it is tried");
            pauses.push(next - now);
        }
        let ms = |number| Duration::from_millis(number);
        assert_eq!(pauses[..4], [ms(500), ms(1000), ms(2000), ms(4000)]);
        assert_eq!(pauses[9], LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_start_is_tried_at_a_time() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for _ in 0..=FORGIVEN {
            brake.ended(now, QUICK, 1.0);
        }
        let later = now + FIRST * 2;
        assert_eq!(brake.start(later), Ok(()));
        assert_eq!(brake.start(later), Err(Braked { times: FORGIVEN + 1, next: None }));
        brake.called_off();
        assert_eq!(brake.start(later), Ok(()));
        brake.ended(later, LASTING, 0.0);
        assert_eq!((brake.start(later), brake), (Ok(()), Brake::default()), "it stayed up");
    }

    proptest! {
        /// Whatever happens, a server is tried again within the longest pause and its spread.
        #[test]
        fn nothing_is_left_alone_for_ever(ends in vec((0_u64..100_000, 0_u64..20_000, 0.0..=1.0_f64), 0..200)) {
            let mut brake = Brake::default();
            let mut now = Instant::now();
            for (wait, uptime, chance) in ends {
                now += Duration::from_millis(wait);
                let asked = brake.start(now);
                if let Err(Braked { next: Some(next), .. }) = asked {
                    prop_assert!(next - now <= LONGEST.mul_f64(1.25));
                    prop_assert_eq!(brake.clone().start(next), Ok(()));
                }
                if asked.is_ok() {
                    brake.ended(now, Duration::from_millis(uptime), chance);
                }
            }
        }
    }
}
