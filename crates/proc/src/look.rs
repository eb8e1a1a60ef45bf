//! The looks at `/proc` that somebody waits for, on a thread of their own.
//!
//! A look reads something of every process of the machine, and for environments may have to wait for the memory of
//! one. No runtime thread has the time for that. One reading of the table serves all who asked before it began, so
//! that many ends at once cost little more than one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::tree::{Entry, Family, Table, read_table};

/// Most of a family are no children of ours, so their end is looked for: soon, then less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// How long a look may take: an environment may be that of a process whose memory is locked. Shorter than the wait
/// after SIGKILL, which is sent to the group and the cages also where nothing can be known.
const MOST: Duration = Duration::from_secs(1);

/// What is to be done with a table, and whom it is for.
struct Asked<T, F> {
    look: F,
    answer: oneshot::Sender<T>,
}

trait Look: Send {
    /// Whether somebody waits for the answer.
    fn is_wanted(&self) -> bool;

    /// Looks at a table; there is none where it could not be read.
    fn take(self: Box<Self>, table: Option<&Table>);
}

impl<T: Send, F: FnOnce(Option<&Table>) -> T + Send> Look for Asked<T, F> {
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn take(self: Box<Self>, table: Option<&Table>) {
        let Self { look, answer } = *self;
        // Whoever asked may have given up by now.
        let _ = answer.send(look(table));
    }
}

type Waiting = Vec<Box<dyn Look>>;

struct Looks {
    /// Those that are asked for and have not begun: of each family one at a time.
    waiting: Waiting,
    /// Whether there is a thread for them.
    served: bool,
}

static LOOKS: Mutex<Looks> = Mutex::new(Looks { waiting: Vec::new(), served: false });
static ASKED: Condvar = Condvar::new();

fn looks() -> MutexGuard<'static, Looks> {
    LOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `look` says of a table that is read after this was asked; `None` if it panicked.
///
/// Cancel-safe: a look that has begun goes on, one that has not does not take place.
async fn ask<T: Send + 'static>(look: impl FnOnce(Option<&Table>) -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let (unserved, given_up) = {
        let mut looks = looks();
        // Without them it would grow for as long as one look takes.
        let (mut waiting, given_up): (Waiting, Waiting) =
            std::mem::take(&mut looks.waiting).into_iter().partition(|look| look.is_wanted());
        waiting.push(Box::new(Asked { look, answer }));
        if !looks.served {
            looks.served = thread::Builder::new().name("looks".to_owned()).spawn(serve).is_ok();
        }
        if looks.served {
            looks.waiting = waiting;
            (Vec::new(), given_up)
        } else {
            (waiting, given_up)
        }
    };
    // Not under the lock: a family may go with the last that asked for it.
    drop(given_up);
    if unserved.is_empty() {
        ASKED.notify_one();
    } else {
        // A machine that has no thread to spare is slow anyway.
        take(unserved);
    }
    answered.await.ok()
}

/// What the thread does, as long as the daemon lives.
fn serve() {
    loop {
        let mut looks = looks();
        while looks.waiting.is_empty() {
            looks = ASKED.wait(looks).unwrap_or_else(PoisonError::into_inner);
        }
        let asked = std::mem::take(&mut looks.waiting);
        drop(looks);
        take(asked);
    }
}

/// Takes these looks, all at one table. One that panics has no answer, and who waits for it asks again.
fn take(looks: Waiting) {
    let table = catch_unwind(read_table).ok().flatten();
    for look in looks.into_iter().filter(|look| look.is_wanted()) {
        let _ = catch_unwind(AssertUnwindSafe(|| look.take(table.as_ref())));
    }
}

/// A family that is looked for on the thread for that.
#[derive(Debug)]
pub(crate) struct Kin(Arc<Mutex<Family>>);

impl Kin {
    pub(crate) fn new(family: Family) -> Self {
        Self(Arc::new(Mutex::new(family)))
    }

    /// The family of a child that a former daemon started. Waits as long as `/proc` cannot be read.
    pub(crate) async fn find(pid: u32, started: u64, mark: &str) -> Self {
        loop {
            let mark = mark.to_owned();
            let found = ask(move |table| Family::left(table?, pid, started, &mark)).await;
            if let Some(family) = found.flatten() {
                return Self::new(family);
            }
            sleep(LAST_LOOK).await;
        }
    }

    /// The family as it was seen last.
    pub(crate) fn last_seen(&self) -> Family {
        seen(&self.0).clone()
    }

    /// Looks for the family, as [`Family::look`] does; `None` also where that takes longer than a second. Cancel-safe:
    /// what a look has seen that began is remembered, also where nobody waits for it any more.
    pub(crate) async fn look(&self) -> Option<Vec<Entry>> {
        let kin = Arc::clone(&self.0);
        let look = move |table: Option<&Table>| {
            // A copy looks: whoever drops the child meanwhile does not wait for it. There is one thread for all looks,
            // so none overtakes another.
            let mut family = seen(&kin).clone();
            let living = family.look_at(table?)?;
            *seen(&kin) = family;
            Some(living)
        };
        timeout(MOST, ask(look)).await.ok().flatten().flatten()
    }

    /// As [`Family::signal`].
    pub(crate) fn signal(&self, living: &[Entry], signal: Signal) {
        self.last_seen().signal(living, signal);
    }

    /// Waits until it is known that none of it lives.
    pub(crate) async fn gone(&self) {
        let mut pause = FIRST_LOOK;
        while self.look().await.is_none_or(|living| !living.is_empty()) {
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Kills until it is known that none of it lives, at least once: whoever was born between look and signal is found
    /// the next time.
    pub(crate) async fn killed(&self) {
        let mut pause = FIRST_LOOK;
        loop {
            let living = self.look().await;
            self.signal(living.as_deref().unwrap_or_default(), Signal::KILL);
            if living.is_some_and(|living| living.is_empty()) {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }
}

fn seen(family: &Mutex<Family>) -> MutexGuard<'_, Family> {
    family.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a child that nothing here is to know")]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn all_who_wait_share_a_table_that_is_read_after_they_asked() {
        // A look that lasts until it is told to end.
        let (begun, has_begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let first = ask(move |_| {
            begun.send(()).expect("it is waited for");
            let _ = ends.recv();
        });
        tokio::pin!(first);
        assert!(timeout(Duration::ZERO, first.as_mut()).await.is_err());
        has_begun.recv().expect("it begins");

        // Born after the table was read for it.
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        let pid = child.id();
        let look = move |table: Option<&Table>| {
            let table = table.expect("a readable /proc");
            (std::ptr::from_ref(table).addr(), table.contains_key(&pid))
        };
        let both = async { tokio::join!(ask(look), ask(look)) };
        tokio::pin!(both);
        assert!(timeout(Duration::ZERO, both.as_mut()).await.is_err());
        end.send(()).expect("it waits");
        let (one, other) = both.await;
        assert!(one.is_some_and(|(_, found)| found) && one == other, "{one:?} {other:?}");
        assert_eq!(first.await, Some(()));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    #[tokio::test]
    async fn a_look_that_panics_has_no_answer_and_the_next_one_has() {
        assert_eq!(ask(|_| -> u32 { panic!("on purpose") }).await, None);
        assert_eq!(ask(|table| table.is_some()).await, Some(true));
    }
}
