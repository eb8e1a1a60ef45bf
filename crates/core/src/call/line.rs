//! The line between a call's work and its caller: events one way, interest the other.
//!
//! It is made once per call, so it is one allocation and a short lock; a channel for each direction costs several
//! times as much as all of admission. Work that is done for several equal calls has a line to each of them.

use super::{
    Interest,
    flight::{InFlight, Landed},
};
use seawall_proto::Event;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Events that may wait for a caller to take them, besides the end, which always has room.
pub(super) const EVENTS: usize = 64;

/// What is between the work and one caller.
#[derive(Debug)]
pub(super) struct Line(Mutex<State>);

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
pub(super) struct WorkSide {
    line: Arc<Line>,
    /// The callers that share the work, where it can be shared.
    flight: Option<Box<InFlight>>,
}

/// Changes a call's interest, for as long as anybody may.
#[derive(Clone, Debug)]
pub struct InterestHandle(Arc<Line>);

/// The two sides of a new line.
pub(super) fn line() -> (CallerSide, WorkSide) {
    let line = Line::new();
    (CallerSide(Arc::clone(&line)), WorkSide { line, flight: None })
}

impl Line {
    fn new() -> Arc<Self> {
        let state = State {
            events: VecDeque::new(),
            end: None,
            closed: false,
            interest: Interest::Wanted,
            caller: None,
            work: None,
        };
        Arc::new(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event on the line; false, and the event is dropped, when there is no room or nobody to hear it.
    pub(super) fn push(&self, event: Event) -> bool {
        let waker = {
            let mut state = self.lock();
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

    /// Ends the line, with an end or without; a second time it does nothing.
    pub(super) fn close(&self, end: Option<Event>) {
        let waker = {
            let mut state = self.lock();
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

    /// The interest, which wakes the work when it falls.
    pub(super) fn watch(&self, work: &Waker) -> Interest {
        let mut state = self.lock();
        if state.work.as_ref().is_none_or(|waker| !waker.will_wake(work)) {
            state.work = Some(work.clone());
        }
        state.interest
    }

    /// The interest as it is.
    pub(super) fn interest(&self) -> Interest {
        self.lock().interest
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
    /// The side of a caller that shares work already under way, and the line to it.
    pub(super) fn follower() -> (Self, Arc<Line>) {
        let line = Line::new();
        (Self(Arc::clone(&line)), line)
    }

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
    /// Lets other calls share the work.
    pub(super) fn share(&mut self, flight: Box<InFlight>) {
        self.flight = Some(flight);
    }

    /// Puts an event on the line, and on those of all who share the work; false when the call that began it has no room
    /// for it. A question goes to that call alone.
    pub(super) fn push(&self, event: Event) -> bool {
        if let Some(flight) = &self.flight {
            flight.pass_on(&event);
        }
        self.line.push(event)
    }

    /// Puts the end on the line. Whoever shares the work gets it too, and is handed back.
    pub(super) fn end(&mut self, end: Event) -> Vec<Landed> {
        let landed = self.flight.take().map_or_else(Vec::new, |flight| flight.land(&end));
        self.line.close(Some(end));
        landed
    }

    /// Waits until nobody's interest is as high as `than`. Cancel-safe.
    pub(super) async fn lower(&self, than: Interest) -> Interest {
        poll_fn(|context| {
            let own = self.line.watch(context.waker());
            let highest = self.flight.as_ref().map_or(own, |flight| flight.watch(context.waker()).max(own));
            if highest < than { Poll::Ready(highest) } else { Poll::Pending }
        })
        .await
    }

    /// Gives the work up because nobody's interest is higher than `seen`, so that nobody joins it any more; false when
    /// somebody has joined meanwhile.
    pub(super) fn give_up(&self, seen: Interest) -> bool {
        self.flight.as_ref().is_none_or(|flight| flight.give_up(seen))
    }
}

impl Drop for WorkSide {
    fn drop(&mut self) {
        self.line.close(None);
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
