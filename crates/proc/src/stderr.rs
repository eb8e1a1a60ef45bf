//! Stderr: always drained, and its end kept in a ring for whoever asks what went wrong.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::net::unix::pipe::Receiver;

use crate::lines::fill;

const READ: usize = 16 * 1024;

/// A child's stderr. Run [`drain`](Self::drain) for as long as the child lives.
#[derive(Debug)]
pub struct Stderr {
    pipe: Receiver,
    tail: Tail,
}

impl Stderr {
    pub(crate) fn new(pipe: Receiver, capacity: usize) -> Self {
        let ring = Ring { bytes: VecDeque::new(), capacity, ended_lines: 0, open: false };
        Self { pipe, tail: Tail { ring: Arc::new(Mutex::new(ring)) } }
    }

    /// Reads until end of file and keeps the end of what was read. A line may be of any length, or never end.
    ///
    /// End of file comes when the last process that holds the pipe is gone, which may be a grandchild.
    /// Dropping the future closes the pipe; a child that still writes to it gets SIGPIPE.
    pub async fn drain(mut self) {
        loop {
            let mut chunk = BytesMut::new();
            match fill(&mut self.pipe, &mut chunk, READ).await {
                // A pipe that cannot be read will not become readable again.
                Ok(0) | Err(_) => break,
                Ok(_) => self.tail.ring().push(&chunk),
            }
        }
        self.tail.ring().close();
    }

    /// A handle on what was kept; it outlives the draining and the child.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }
}

/// The end of what a child wrote to stderr. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tail {
    ring: Arc<Mutex<Ring>>,
}

impl Tail {
    /// The last `count` lines, an unfinished one included; bytes that are not UTF-8 become U+FFFD.
    pub fn lines(&self, count: usize) -> Vec<String> {
        let (_, mut lines) = self.ring().lines();
        lines.split_off(lines.len().saturating_sub(count))
    }

    /// The finished lines from number `cursor` on, and the cursor to ask with next time.
    ///
    /// Lines are numbered from 0 since the child started. Those that the ring has already lost are skipped:
    /// then fewer lines come than the cursor moved. A last line without line end counts as finished at end of
    /// file.
    pub fn since(&self, cursor: u64) -> (Vec<String>, u64) {
        let ring = self.ring();
        let (first, lines) = ring.lines();
        let end = ring.ended_lines;
        let from = cursor.max(first);
        let count = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
        (lines.into_iter().skip(skipped).take(count).collect(), end)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// How many lines have ended since the start; those still in `bytes` are the last of them.
    ended_lines: u64,
    /// Whether the last line has not ended yet.
    open: bool,
}

impl Ring {
    fn push(&mut self, bytes: &[u8]) {
        self.ended_lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.open = bytes.last().map_or(self.open, |byte| *byte != b'\n');
        let kept = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    fn close(&mut self) {
        if self.open {
            self.push(b"\n");
        }
    }

    /// The number of the first line that is (at least in part) kept, and all kept lines from there on.
    fn lines(&self) -> (u64, Vec<String>) {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let first = self.ended_lines - (lines.len() - 1) as u64;
        // What stands after the last line end is a line only if there is something.
        if lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        let readable =
            |line: &[u8]| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
        (first, lines.into_iter().map(readable).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(capacity: usize) -> Tail {
        let ring = Ring { bytes: VecDeque::new(), capacity, ended_lines: 0, open: false };
        Tail { ring: Arc::new(Mutex::new(ring)) }
    }

    #[test]
    fn the_last_lines_are_kept() {
        let tail = tail(1024);
        assert_eq!(tail.lines(5), [] as [&str; 0]);
        tail.ring().push(b"one\r\ntw");
        assert_eq!(tail.lines(5), ["one", "tw"]);
        tail.ring().push(b"o\n\nfour \xff\n");
        assert_eq!(tail.lines(5), ["one", "two", "", "four \u{FFFD}"]);
        assert_eq!(tail.lines(2), ["", "four \u{FFFD}"]);
    }

    #[test]
    fn a_follower_gets_each_finished_line_once() {
        let tail = tail(1024);
        tail.ring().push(b"one\ntwo\nth");
        let (lines, cursor) = tail.since(0);
        assert_eq!((lines, cursor), (vec!["one".to_owned(), "two".to_owned()], 2));
        assert_eq!(tail.since(cursor), (vec![], 2));
        tail.ring().push(b"ree\nfour");
        assert_eq!(tail.since(cursor), (vec!["three".to_owned()], 3));
        tail.ring().close();
        tail.ring().close();
        assert_eq!(tail.since(3), (vec!["four".to_owned()], 4));
        assert_eq!(tail.since(99), (vec![], 4));
    }

    #[test]
    fn numbers_stay_true_when_lines_are_lost() {
        let tail = tail(10);
        for number in 0..100 {
            tail.ring().push(format!("{number:03}\n").as_bytes());
        }
        // Ten bytes: half of line 97, lines 98 and 99.
        assert_eq!(tail.since(0), (vec!["7".to_owned(), "098".to_owned(), "099".to_owned()], 100));
        assert_eq!(tail.since(98), (vec!["098".to_owned(), "099".to_owned()], 100));
    }

    #[test]
    fn a_line_longer_than_the_ring_does_not_outgrow_it() {
        let tail = tail(100);
        tail.ring().push(&vec![b'x'; 1_000_000]);
        tail.ring().push(b"end\n");
        let ring = tail.ring();
        assert_eq!(ring.bytes.len(), 100);
        assert!(ring.bytes.capacity() <= 256, "{}", ring.bytes.capacity());
        drop(ring);
        assert!(tail.lines(1)[0].ends_with("xend"));
    }

    #[test]
    fn a_ring_of_nothing_keeps_nothing() {
        let tail = tail(0);
        tail.ring().push(b"one\n");
        assert_eq!(tail.since(0), (vec![], 1));
    }
}
