//! The line between a call's work and its caller: events one way, interest the other.
//!
//! It is made once per call, so it is one allocation and a short lock; a channel for each direction costs several
//! times as much as all of admission.

use super::Interest;
use seawall_proto::Event;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Events that may wait for a caller to take them, besides the end, which always has room.
pub(super) const EVENTS: usize = 64;

#[derive(Debug)]
struct Line(Mutex<State>);

#[derive(Debug)]
struct State {
    events: VecDeque<Event>,
    end: Option<Event>,
    /// The work ended, or was dropped: nothing more will come.
    closed: bool,
    interest: Interest,
    caller: Option<Waker>,
    work: Option<Waker>,
}

/// The caller's side.
#[derive(Debug)]
pub(super) struct CallerSide(Arc<Line>);

/// The work's side.
#[derive(Debug)]
pub(super) struct WorkSide(Arc<Line>);

/// Changes a call's interest, for as long as anybody may.
#[derive(Clone, Debug)]
pub struct InterestHandle(Arc<Line>);

/// The two sides of a new line.
pub(super) fn line() -> (CallerSide, WorkSide) {
    let state = State {
        events: VecDeque::new(),
        end: None,
        closed: false,
        interest: Interest::Wanted,
        caller: None,
        work: None,
    };
    let line = Arc::new(Line(Mutex::new(state)));
    (CallerSide(Arc::clone(&line)), WorkSide(line))
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lowers the interest; it never rises again.
    fn lower(&self, interest: Interest) {
        let waker = {
            let mut state = self.lock();
            if interest >= state.interest {
                return;
            }
            state.interest = interest;
            state.work.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl InterestHandle {
    /// The call's caller has gone, or has taken it back. Interest that is gone does not come back.
    pub fn lower(&self, interest: Interest) {
        self.0.lower(interest);
    }
}

impl CallerSide {
    /// The next event; `None` when the work was dropped without an end. Cancel-safe.
    pub(super) async fn next(&self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&self, context: &Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.0.lock();
        let event = state.events.pop_front();
        if let Some(event) = event.or_else(|| state.end.take()) {
            return Poll::Ready(Some(event));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        remember(&mut state.caller, context);
        Poll::Pending
    }

    pub(super) fn lower(&self, interest: Interest) {
        self.0.lower(interest);
    }

    pub(super) fn handle(&self) -> InterestHandle {
        InterestHandle(Arc::clone(&self.0))
    }
}

impl WorkSide {
    /// Puts an event on the line; false, and the event is dropped, when there is no room.
    pub(super) fn push(&self, event: Event) -> bool {
        let waker = {
            let mut state = self.0.lock();
            if state.events.len() >= EVENTS || state.interest != Interest::Wanted {
                // Dropped without the lock: a question that is dropped answers its upstream.
                drop(state);
                drop(event);
                return false;
            }
            state.events.push_back(event);
            state.caller.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Puts the end on the line.
    pub(super) fn end(&self, end: Event) {
        self.close(Some(end));
    }

    /// Waits until the interest is lower than `than`. Cancel-safe.
    pub(super) async fn lower(&self, than: Interest) -> Interest {
        poll_fn(|context| {
            let mut state = self.0.lock();
            if state.interest < than {
                return Poll::Ready(state.interest);
            }
            remember(&mut state.work, context);
            Poll::Pending
        })
        .await
    }

    fn close(&self, end: Option<Event>) {
        let waker = {
            let mut state = self.0.lock();
            if state.closed {
                return;
            }
            state.closed = true;
            state.end = end;
            state.caller.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for WorkSide {
    fn drop(&mut self) {
        self.close(None);
    }
}

impl Drop for CallerSide {
    /// Nobody will take what still waits; what has to be answered is answered by being dropped.
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.0.lock().events);
        drop(left);
    }
}

fn remember(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(context.waker()) => {}
        _ => *place = Some(context.waker().clone()),
    }
}
