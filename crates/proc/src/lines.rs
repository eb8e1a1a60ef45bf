//! Stdout, cut into lines: bounded, without copying, and without losing the place after a line that is too
//! long.

use std::{io, mem};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Room for one read: what a pipe holds, so that whatever a child wrote at once costs one system call.
const READ: usize = 64 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One line of a child's stdout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The line without its line end; it may be empty, and need not be UTF-8.
    ///
    /// It shares its memory with its neighbours: whoever keeps a short line for long should copy it.
    Text(Bytes),
    /// A line over the limit, which was thrown away; the next line is whole again.
    TooLong {
        /// How long it was, without its line end.
        bytes: usize,
    },
}

/// A child's stdout, line by line.
///
/// Lines end at 0x0A only (U+2028 and the like are text). One carriage return before it is removed, and so is
/// a byte order mark at the very start. Memory is bounded by the longest line allowed plus one read; while a
/// child is silent nothing is held.
#[derive(Debug)]
pub struct Lines {
    pipe: Receiver,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    scanned: usize,
    /// How much of the current line was thrown away already, if it is too long.
    dropped: usize,
    first: bool,
    ended: bool,
    max: usize,
}

impl Lines {
    pub(crate) fn new(pipe: Receiver, max: usize) -> Self {
        Self { pipe, buffer: BytesMut::new(), scanned: 0, dropped: 0, first: true, ended: false, max }
    }

    /// The next line, or `None` at end of file. What stands after the last line end counts as a line.
    ///
    /// Cancel-safe: nothing that was read is lost when the future is dropped.
    ///
    /// # Errors
    /// What reading the pipe said. End of file is not an error, and not a sign that the process is gone.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.rest());
            }
            if self.buffer.is_empty() {
                // Lets go of a block that earlier lines may still share, and of one that a long line made
                // large.
                self.buffer = BytesMut::new();
            }
            if fill(&mut self.pipe, &mut self.buffer, READ).await? == 0 {
                self.ended = true;
            }
        }
    }

    /// The next line that is whole in the buffer.
    fn take(&mut self) -> Option<Line> {
        if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
            let mut line = self.buffer.split_to(self.scanned + end + 1);
            line.truncate(line.len() - 1);
            self.scanned = 0;
            return Some(self.finish(line));
        }
        self.scanned = self.buffer.len();
        // The mark and the carriage return are not part of the line, so they may come on top.
        let full = self.max.saturating_add(BYTE_ORDER_MARK.len() + 1);
        if self.dropped > 0 || self.scanned > full {
            self.dropped += self.scanned;
            self.buffer.clear();
            self.scanned = 0;
        }
        None
    }

    /// What is left when the file has ended without a line end.
    fn rest(&mut self) -> Option<Line> {
        let line = mem::take(&mut self.buffer);
        self.scanned = 0;
        (!line.is_empty() || self.dropped > 0).then(|| self.finish(line))
    }

    fn finish(&mut self, mut line: BytesMut) -> Line {
        let first = mem::take(&mut self.first);
        let dropped = mem::take(&mut self.dropped);
        if line.ends_with(b"\r") {
            line.truncate(line.len() - 1);
        }
        if first && dropped == 0 && line.starts_with(BYTE_ORDER_MARK) {
            line.advance(BYTE_ORDER_MARK.len());
        }
        let bytes = dropped + line.len();
        if dropped > 0 || bytes > self.max { Line::TooLong { bytes } } else { Line::Text(line.freeze()) }
    }
}

/// Reads once, with at least `room` bytes of space, and returns how many bytes came: 0 is end of file.
///
/// Cancel-safe. Space is made only when there is something to read.
pub(crate) async fn fill(pipe: &mut Receiver, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    pipe.readable().await?;
    buffer.reserve(room);
    pipe.read_buf(buffer).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::unix::pipe;
    use tokio::time::timeout;

    use super::*;

    fn text(line: &str) -> Line {
        Line::Text(Bytes::copy_from_slice(line.as_bytes()))
    }

    async fn lines_of(input: &[u8], max: usize) -> Vec<Line> {
        let (mut sender, receiver) = pipe::pipe().expect("a pipe");
        let mut lines = Lines::new(receiver, max);
        let write = async move { sender.write_all(input).await.expect("a reader") };
        let read = async {
            let mut all = Vec::new();
            while let Some(line) = lines.next().await.expect("a readable pipe") {
                all.push(line);
            }
            all
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn lines_end_at_newlines_only() {
        let lines = lines_of("one\ntwo\u{2028}still two\n\nfour".as_bytes(), 100).await;
        assert_eq!(lines, [text("one"), text("two\u{2028}still two"), text(""), text("four")]);
        assert!(lines_of(b"", 100).await.is_empty());
    }

    #[tokio::test]
    async fn one_carriage_return_and_one_leading_mark_are_removed() {
        let lines = lines_of(b"\xEF\xBB\xBFone\r\ntwo\r\r\n\xEF\xBB\xBFthree\r\n", 100).await;
        assert_eq!(lines, [text("one"), text("two\r"), text("\u{FEFF}three")]);
        assert_eq!(lines_of(b"a\n\xEF\xBB\xBFb\n", 100).await, [text("a"), text("\u{FEFF}b")]);
    }

    #[tokio::test]
    async fn the_limit_counts_the_line_alone() {
        assert_eq!(lines_of(b"\xEF\xBB\xBF12345\r\n", 5).await, [text("12345")]);
        assert_eq!(lines_of(b"123456\n1\n", 5).await, [Line::TooLong { bytes: 6 }, text("1")]);
    }

    #[tokio::test]
    async fn reading_goes_on_behind_a_line_that_is_too_long() {
        let mut input = vec![b'x'; 1_000_000];
        input.extend_from_slice(b"\nwhole\n");
        input.extend(std::iter::repeat_n(b'y', 200_000));
        let lines = lines_of(&input, 1000).await;
        assert_eq!(
            lines,
            [Line::TooLong { bytes: 1_000_000 }, text("whole"), Line::TooLong { bytes: 200_000 }]
        );
    }

    #[tokio::test]
    async fn a_line_longer_than_one_read_is_whole() {
        let mut input = vec![b'x'; 5 * READ];
        input.push(b'\n');
        let lines = lines_of(&input, 5 * READ).await;
        assert_eq!(lines, [Line::Text(Bytes::from(vec![b'x'; 5 * READ]))]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_holds_no_memory() {
        let (mut sender, receiver) = pipe::pipe().expect("a pipe");
        let mut lines = Lines::new(receiver, 1000);
        let flood = vec![b'x'; 10 * READ];
        // The line never ends, so the reading never does.
        let read = timeout(Duration::from_millis(200), lines.next());
        let (written, read) = tokio::join!(sender.write_all(&flood), read);
        written.expect("a reader");
        assert!(read.is_err());
        assert!(lines.buffer.capacity() <= 2 * READ, "{}", lines.buffer.capacity());
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let (mut sender, receiver) = pipe::pipe().expect("a pipe");
        let mut lines = Lines::new(receiver, 100);
        sender.write_all(b"half").await.expect("a reader");
        assert!(timeout(Duration::from_millis(20), lines.next()).await.is_err());
        sender.write_all(b" and half\n").await.expect("a reader");
        assert_eq!(lines.next().await.expect("a readable pipe"), Some(text("half and half")));
    }
}
