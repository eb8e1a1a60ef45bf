//! Signs of life of a call whose upstream says nothing: progress with the caller's own token, which resets the limits
//! of clients that count silence. Its value only ever rises, and stays just above what the upstream said last.

use bytes::Bytes;
use seawall_proto::{Request, era::serve};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// What a sign of life adds to the progress told last.
const STEP: f64 = 1e-6;

/// The signs of life of one call.
#[derive(Debug)]
pub(super) struct Heartbeat {
    request: Arc<Request>,
    every: Duration,
    /// When the next one is due, unless something is heard before.
    pub(super) due: Instant,
    /// The progress told last, by the upstream or by a sign of life.
    told: f64,
    beaten: bool,
}

impl Heartbeat {
    /// Signs of life every so often for a request that wants to hear of progress.
    pub(super) fn new(request: &Arc<Request>, every: Option<Duration>) -> Option<Self> {
        let every = every.filter(|every| !every.is_zero() && request.wants_progress())?;
        Some(Self {
            request: Arc::clone(request),
            every,
            due: Instant::now() + every,
            told: 0.0,
            beaten: false,
        })
    }

    /// Hears progress of the upstream; false where a sign of life went past it, so that it must not be passed on.
    pub(super) fn rises(&mut self, message: &Bytes) -> bool {
        let Some(progress) = serve::progress(message) else { return true };
        if self.beaten && progress <= self.told {
            return false;
        }
        self.told = progress;
        self.due = Instant::now() + self.every;
        true
    }

    /// The sign of life that is due. `ahead` is how many calls are in front while it waits for a place.
    pub(super) fn beat(&mut self, ahead: Option<usize>) -> Option<Bytes> {
        self.due = Instant::now() + self.every;
        self.told = (self.told + STEP).max(self.told.next_up());
        self.beaten = true;
        let message = ahead.map(|ahead| format!("waiting for a place: {ahead} ahead"));
        serve::still_there(&self.request, self.told, message.as_deref())
    }
}
