//! Every task of the daemon, and how each ends. Nothing is spawned anywhere else.

use std::time::Duration;
use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// What a task is for, which decides how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One flight's work. An error is its caller's answer; a cancel or a lost caller ends it by the rules of the
    /// call path; at shutdown it may finish within the grace.
    Attempt,
    /// Opening an instance. It goes on when the caller that wanted it has gone; its own start budget ends it,
    /// shutdown at once.
    Opening,
    /// One of the tasks of an instance: owner, reader, writer, standard error. They end with their child or
    /// connection, which shutdown ends by the ladder.
    Instance,
    /// A stream of an upstream that no call waits for. Ends with its instance, at shutdown at once.
    Follow,
    /// One message that nobody waits for: a cancel, an answer to a question, the end of a session. Bounded by its
    /// own time-out.
    Send,
    /// Writes down what became of a call that its caller may repeat. Bounded by the store; at shutdown it may finish
    /// within the grace.
    Keep,
    /// Keeps a legacy client's stream going while the client is away. Ends with its call or the resume window.
    Stream,
    /// One connection of a client. At shutdown it ends after the answer under way.
    Connection,
    /// Accepts connections. While the daemon drains it still does, so that whoever comes is told; it ends when the
    /// last of the work has.
    Listener,
    /// Housekeeping that lives as long as the daemon; shutdown ends it at once.
    Housekeeping,
}

impl Task {
    /// When the task is dropped, if it has not ended by then.
    fn ends(self) -> Phase {
        match self {
            Self::Opening | Self::Follow | Self::Housekeeping => Phase::Draining,
            Self::Listener => Phase::Closing,
            Self::Attempt | Self::Send | Self::Keep | Self::Stream | Self::Connection | Self::Instance => {
                Phase::Ended
            }
        }
    }
}

/// The steps of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No new work.
    Draining,
    /// No work is left, or its grace is over.
    Closing,
    /// Whatever is left is dropped.
    Ended,
}

/// Spawns tasks and ends them in order.
#[derive(Clone, Debug, Default)]
pub struct Life {
    draining: CancellationToken,
    closing: CancellationToken,
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl Life {
    /// Runs `work` as a task of its own. Work that does not drain is dropped when draining begins; all of it is
    /// dropped when the grace is over.
    pub fn spawn(&self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        let end = match task.ends() {
            Phase::Draining => self.draining.clone(),
            Phase::Closing => self.closing.clone(),
            Phase::Ended => self.ended.clone(),
        };
        // Boxed where it is made: each wrapper around it would move it once more.
        let work = Box::pin(work);
        let work = async move {
            let _ = end.run_until_cancelled(work).await;
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        drop(tokio::spawn(self.tasks.track_future(work)));
    }

    /// Runs blocking `work` on a thread of its own and gives its result, or `None` if it panicked.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// Completes when the daemon begins to drain.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.draining.cancelled()
    }

    /// Whether the daemon drains.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Begins to drain: no new work is taken, housekeeping ends.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Waits at most `grace` for what still runs, then drops it. Returns how many tasks were dropped.
    pub async fn end(&self, grace: Duration) -> usize {
        self.draining.cancel();
        self.closing.cancel();
        self.tasks.close();
        let _ = timeout(grace, self.tasks.wait()).await;
        let left = self.tasks.len();
        self.ended.cancel();
        let _ = timeout(Duration::from_secs(1), self.tasks.wait()).await;
        left
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[tokio::test(start_paused = true)]
    async fn what_drains_may_finish_within_the_grace_and_the_rest_ends_at_once() {
        let life = Life::default();
        let finished = [Task::Attempt, Task::Housekeeping].map(|task| {
            let finished = Arc::new(AtomicBool::new(false));
            let mark = Arc::clone(&finished);
            life.spawn(task, async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                mark.store(true, Ordering::Relaxed);
            });
            finished
        });
        life.spawn(Task::Attempt, std::future::pending());
        tokio::task::yield_now().await;
        assert_eq!(life.end(Duration::from_secs(5)).await, 1, "one task never ends by itself");
        assert_eq!(finished.map(|mark| mark.load(Ordering::Relaxed)), [true, false]);
        assert_eq!(life.tasks(), 0);
    }
}
