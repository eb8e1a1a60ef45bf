//! What came over a channel and meant nothing to anybody, counted and shown.

use seawall_proto::jsonrpc::Malformed;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// What an instance said that was of no use, in messages since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Lines or frames that are no message, such as banners.
    pub skipped: u64,
    /// How the last of them began, control characters escaped.
    pub last_skipped: Option<String>,
    /// Messages with bytes that are not UTF-8, which were replaced.
    pub garbled: u64,
    /// Responses to requests that were over.
    pub late: u64,
    /// Responses to requests that were never made.
    pub unknown: u64,
    /// Messages about a call that its caller did not read in time.
    pub dropped: u64,
    /// Messages over the limit.
    pub oversize: u64,
}

/// The counters behind [`Oddities`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    skipped: AtomicU64,
    last_skipped: Mutex<Option<String>>,
    garbled: AtomicU64,
    late: AtomicU64,
    unknown: AtomicU64,
    dropped: AtomicU64,
    oversize: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> Oddities {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Oddities {
            skipped: count(&self.skipped),
            last_skipped: self.last_skipped.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            garbled: count(&self.garbled),
            late: count(&self.late),
            unknown: count(&self.unknown),
            dropped: count(&self.dropped),
            oversize: count(&self.oversize),
        }
    }

    /// Something that is no message, and how it began.
    pub(super) fn skipped(&self, place: &str, text: String, malformed: &Malformed) {
        let count = self.skipped.fetch_add(1, Ordering::Relaxed) + 1;
        if count == 1 {
            tracing::info!(
                place,
                text,
                "what is no message was skipped; `seawall status` counts what follows"
            );
        } else if count.is_power_of_two() {
            tracing::debug!(place, %malformed, count, "what is no message was skipped");
        }
        *self.last_skipped.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(super) fn garbled(&self, place: &str) {
        note(&self.garbled, place, "bytes that are not UTF-8 were replaced");
    }

    pub(super) fn late(&self, place: &str) {
        note(&self.late, place, "a response to a call that was over was dropped");
    }

    pub(super) fn unknown(&self, place: &str) {
        note(&self.unknown, place, "a response that nobody asked for was dropped");
    }

    pub(super) fn dropped(&self, place: &str) {
        note(&self.dropped, place, "a message was dropped: its caller does not read");
    }

    pub(super) fn oversize(&self) {
        self.oversize.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts, and tells the log of the 1st, 2nd, 4th, 8th.
fn note(counter: &AtomicU64, place: &str, what: &str) {
    let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_power_of_two() {
        tracing::debug!(place, count, "{what}");
    }
}
