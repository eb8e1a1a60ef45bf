//! What is said about one call, from whoever routes it to whoever waits for it.
//!
//! It is made once per call, and a call may hang for long: a channel of tokio's takes room for 32 messages at once,
//! some 8 KiB, of which almost every call uses one. This one takes none before something is said.

use super::Lost;
use crate::upstream::Heard;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};
use tokio::sync::Notify;

/// Messages that may wait for a call to take them, besides the end, which always has room.
pub(super) const MESSAGES: usize = 64;

type End = Result<Heard, Lost>;

struct Shared {
    state: Mutex<State>,
    /// Told when nobody takes any more.
    closed: Notify,
}

#[derive(Default)]
struct State {
    said: VecDeque<Heard>,
    end: Option<End>,
    /// Nothing more will be said.
    ended: bool,
    /// Nobody takes any more.
    closed: bool,
    taker: Option<Waker>,
}

/// The end at which is said. Any number of them may be there.
#[derive(Clone)]
pub(in crate::upstream) struct Way(Arc<Shared>);

/// The end at which is taken.
pub(super) struct Mailbox(Arc<Shared>);

/// The two ends of a new one.
pub(super) fn mailbox() -> (Way, Mailbox) {
    let shared = Arc::new(Shared { state: Mutex::default(), closed: Notify::new() });
    (Way(Arc::clone(&shared)), Mailbox(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

impl Way {
    /// Says something; false, and it is dropped, when there is no room or nobody takes it.
    pub(super) fn tell(&self, heard: Heard) -> bool {
        let waker = {
            let mut state = self.0.lock();
            if state.closed || state.ended || state.said.len() >= MESSAGES {
                // Dropped without the lock: a question that is dropped answers its asker.
                drop(state);
                drop(heard);
                return false;
            }
            state.said.push_back(heard);
            state.taker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Says the last. What comes after the first last is dropped.
    pub(super) fn end(&self, end: End) {
        self.finish(Some(end));
    }

    /// Nothing more will be said, if the last was not said before.
    pub(super) fn hang_up(&self) {
        self.finish(None);
    }

    fn finish(&self, end: Option<End>) {
        let waker = {
            let mut state = self.0.lock();
            if state.closed || state.ended {
                drop(state);
                drop(end);
                return;
            }
            state.ended = true;
            state.end = end;
            state.taker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Completes when nobody takes any more. Cancel-safe.
    pub(in crate::upstream) async fn closed(&self) {
        loop {
            let closed = self.0.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.0.lock().closed {
                return;
            }
            closed.await;
        }
    }
}

impl Mailbox {
    /// The next that was said, the end last; after the end there is nothing, for ever. Cancel-safe.
    pub(super) async fn next(&self) -> Option<End> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&self, context: &Context<'_>) -> Poll<Option<End>> {
        let mut state = self.0.lock();
        if let Some(heard) = state.said.pop_front() {
            return Poll::Ready(Some(Ok(heard)));
        }
        if let Some(end) = state.end.take() {
            return Poll::Ready(Some(end));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        match &mut state.taker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            taker => *taker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Mailbox {
    /// Nobody will take what still waits; what has to be answered is answered by being dropped.
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.closed = true;
            (std::mem::take(&mut state.said), state.end.take())
        };
        drop(left);
        self.0.closed.notify_waiters();
    }
}
