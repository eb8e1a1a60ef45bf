//! The answer to one request of a legacy client as a stream that can be taken up again after a break.

use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How long the answer to a call waits for a client that went away without taking the call back.
pub const RESUME_WINDOW: Duration = Duration::from_secs(30);
/// Most events kept for a client to read again; the oldest are dropped.
const KEPT: usize = 256;

/// One stream: its last events, kept with their numbers.
#[derive(Debug)]
pub struct Stream {
    number: u64,
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(u64, Bytes)>,
    last: u64,
    ended: bool,
    /// Which reader is the current one; an older one stops.
    reader: u64,
    reading: bool,
    /// A reader has read all there was.
    read: bool,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// An event and its number.
    Event(u64, Bytes),
    /// There will be no more, or another reader took over.
    End,
}

impl Stream {
    pub(super) fn new(number: u64) -> Self {
        Self { number, state: Mutex::default(), moved: Notify::new() }
    }

    /// The stream's number in its conversation.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The id of an event: the stream's number and the event's.
    pub fn event_id(&self, event: u64) -> String {
        format!("{}-{event}", self.number)
    }

    /// Adds an event.
    pub fn push(&self, data: Bytes) {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        if state.events.len() == KEPT {
            state.events.pop_front();
        }
        state.events.push_back((number, data));
        drop(state);
        self.moved.notify_waiters();
    }

    /// Says that nothing more will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.moved.notify_waiters();
    }

    /// Makes whoever reads it stop and come back; the stream goes on.
    pub fn pause(&self) {
        self.lock().reader += 1;
        self.moved.notify_waiters();
    }

    /// Becomes its reader, and the only one.
    pub fn attach(&self) -> u64 {
        let mut state = self.lock();
        state.reader += 1;
        state.reading = true;
        let reader = state.reader;
        drop(state);
        self.moved.notify_waiters();
        reader
    }

    /// Stops reading, if this is still the reader.
    pub fn detach(&self, reader: u64) {
        let mut state = self.lock();
        if state.reader == reader || !state.reading {
            state.reading = false;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Waits until it has been read to its end, or nobody has read it for `window`.
    pub async fn abandoned(&self, window: Duration) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let (reading, read) = {
                let state = self.lock();
                (state.reading, state.read)
            };
            if read {
                return;
            }
            if reading {
                moved.await;
                continue;
            }
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep(window) => {
                    if !self.lock().reading {
                        return;
                    }
                }
            }
        }
    }

    /// The first event after `seen`. Cancel-safe.
    pub async fn next(&self, reader: u64, seen: u64) -> Next {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut state = self.lock();
                if state.reader != reader {
                    return Next::End;
                }
                if let Some((number, data)) = state.events.iter().find(|(number, _)| *number > seen) {
                    return Next::Event(*number, data.clone());
                }
                if state.ended {
                    state.read = true;
                    drop(state);
                    self.moved.notify_waiters();
                    return Next::End;
                }
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
