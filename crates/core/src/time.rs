//! Time as a value: a deadline is fixed once and only spent after.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

/// A point in time by which something must be over, and when its time began to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    began: Instant,
    at: Instant,
}

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Passed;

impl Deadline {
    /// `budget` from now.
    pub fn after(budget: Duration) -> Self {
        let began = Instant::now();
        Self { began, at: began + budget }
    }

    /// Waits for `work`, at most until the deadline. As cancel-safe as `work` is.
    ///
    /// # Errors
    /// When the deadline passes first; `work` is dropped.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, Passed> {
        timeout_at(self.at, work).await.map_err(|_| Passed)
    }

    /// The point in time.
    pub fn at(self) -> Instant {
        self.at
    }

    /// Time since it began to run.
    pub fn elapsed(self) -> Duration {
        self.began.elapsed()
    }

    /// The time there was at first.
    pub fn budget(self) -> Duration {
        self.at - self.began
    }
}

/// The deadline of one piece of work, which moves in one case: while a question to the caller is open, its time
/// stands still, for at most the ask limit in all.
#[derive(Debug)]
pub struct Clock {
    state: Mutex<Reading>,
    moved: Notify,
    began: Instant,
    budget: Duration,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    open: u32,
    asked: Option<Instant>,
    ask_left: Duration,
}

impl Clock {
    /// A clock that runs out after `budget` and stands still for at most `ask_limit`.
    pub fn new(budget: Duration, ask_limit: Duration) -> Self {
        let began = Instant::now();
        let state = Reading { at: began + budget, open: 0, asked: None, ask_left: ask_limit };
        Self { state: Mutex::new(state), moved: Notify::new(), began, budget }
    }

    /// A question was put: the clock stands still until [`Clock::answered`].
    pub fn asking(&self) {
        let mut state = self.lock();
        state.open += 1;
        if state.open == 1 {
            state.asked = Some(Instant::now());
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// A question was answered or taken back; after the last one the clock runs on.
    pub fn answered(&self) {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        if state.open == 0
            && let Some(asked) = state.asked.take()
        {
            let stood = asked.elapsed().min(state.ask_left);
            state.ask_left -= stood;
            state.at += stood;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// When it runs out, as things stand.
    pub fn runs_out(&self) -> Instant {
        let state = self.lock();
        state.asked.map_or(state.at, |asked| state.at + asked.elapsed().min(state.ask_left))
    }

    /// For how long it may still stand still.
    pub fn ask_left(&self) -> Duration {
        self.lock().ask_left
    }

    /// The time that is left, as things stand.
    pub fn left(&self) -> Duration {
        self.runs_out().saturating_duration_since(Instant::now())
    }

    /// Waits until it has run out. Cancel-safe.
    pub async fn expired(&self) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let (until, standing) = {
                let state = self.lock();
                match state.asked {
                    // While it stands still, only the ask limit ends it, with what was left before.
                    Some(asked) => (state.at.max(asked) + state.ask_left, true),
                    None => (state.at, false),
                }
            };
            tokio::select! {
                () = sleep_until(until) => {
                    let again = self.lock().asked.is_some() != standing;
                    if !again {
                        return;
                    }
                }
                () = moved => {}
            }
        }
    }

    /// Time since the call came in.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time there was at first.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_clock_runs_out_at_its_budget() {
        let began = Instant::now();
        Clock::new(5 * SECOND, SECOND).expired().await;
        assert_eq!(began.elapsed(), 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stands_still_while_a_question_is_open_and_no_longer() {
        let began = Instant::now();
        let clock = Clock::new(5 * SECOND, 60 * SECOND);
        tokio::join!(clock.expired(), async {
            tokio::time::sleep(2 * SECOND).await;
            clock.asking();
            clock.asking();
            tokio::time::sleep(10 * SECOND).await;
            clock.answered();
            tokio::time::sleep(10 * SECOND).await;
            clock.answered();
        });
        assert_eq!(began.elapsed(), 25 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_question_ends_at_the_ask_limit() {
        let began = Instant::now();
        let clock = Clock::new(5 * SECOND, 30 * SECOND);
        clock.asking();
        clock.expired().await;
        assert_eq!(began.elapsed(), 35 * SECOND);
    }
}
