//! The stream of events of a server: bounded, and without losing the place after an event that is too long.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use seawall_proto::sse::{SseEvent, SseReader};
use std::collections::VecDeque;

/// What an event may have besides its message: names of fields, line ends, an id.
const BESIDES: usize = 1024;

/// What a stream says next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// An event.
    Event(SseEvent),
    /// An event over the limit, which was thrown away; its length in bytes.
    TooLong(usize),
}

/// The events of one stream.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    cutter: Cutter,
}

impl Events {
    /// The events of `body`, with messages of at most `limit` bytes.
    pub(super) fn new(body: Incoming, limit: usize) -> Self {
        Self { body, cutter: Cutter::new(limit) }
    }

    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// How the stream ended, as a clause.
    pub(super) async fn next(&mut self) -> Result<Said, String> {
        loop {
            if let Some(said) = self.cutter.next() {
                return Ok(said);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.cutter.feed(data);
                    }
                }
                Some(Err(error)) => return Err(format!("its stream broke: {error}")),
                None => return Err(String::from("it closed its stream")),
            }
        }
    }
}

/// Cuts a stream into events, and finds the end of those it throws away.
#[derive(Debug)]
struct Cutter {
    reader: SseReader,
    /// What has come and was not looked at yet.
    rest: Bytes,
    /// The largest message.
    limit: usize,
    /// How much of the current event has come.
    size: usize,
    /// Whether the current line has anything in it.
    in_line: bool,
    /// Whether the last byte was a carriage return, of which a line feed would be the second half.
    after_return: bool,
    /// Whether the current event is thrown away.
    skipping: bool,
    /// What was found out and not told yet.
    said: VecDeque<Said>,
}

impl Cutter {
    fn new(limit: usize) -> Self {
        Self {
            reader: Self::reader(limit),
            rest: Bytes::new(),
            limit,
            size: 0,
            in_line: false,
            after_return: false,
            skipping: false,
            said: VecDeque::new(),
        }
    }

    fn reader(limit: usize) -> SseReader {
        SseReader::new(limit.saturating_add(BESIDES))
    }

    /// Takes the next bytes; what was fed before has to be used up.
    fn feed(&mut self, bytes: Bytes) {
        self.rest = bytes;
    }

    /// What the bytes say next; `None` when they are used up.
    fn next(&mut self) -> Option<Said> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return Some(said);
            }
            match self.reader.next_event() {
                Ok(Some(event)) if event.data.len() > self.limit => {
                    return Some(Said::TooLong(event.data.len()));
                }
                Ok(Some(event)) => return Some(Said::Event(event)),
                // It never gets as much as it may have.
                Ok(None) | Err(_) => {}
            }
            if self.rest.is_empty() {
                return None;
            }
            let (length, ends) = self.part();
            let part = self.rest.split_to(length);
            self.size = self.size.saturating_add(length);
            if !self.skipping && self.size > self.limit.saturating_add(BESIDES) {
                self.skipping = true;
                let mut before = std::mem::replace(&mut self.reader, Self::reader(self.limit));
                if self.size == length {
                    // Nothing of it was read yet, but the reader may still have to be told that the event before is
                    // over: a carriage return alone leaves that open.
                    before.feed(b"\n");
                    self.said.extend(before.next_event().ok().flatten().map(Said::Event));
                }
            }
            if !self.skipping {
                self.reader.feed(&part);
            }
            if ends {
                let size = std::mem::take(&mut self.size);
                if std::mem::take(&mut self.skipping) {
                    self.said.push_back(Said::TooLong(size));
                }
            }
        }
    }

    /// How much of the rest belongs to the current event, and whether the event ends there.
    fn part(&mut self) -> (usize, bool) {
        if self.after_return && self.rest.first() == Some(&b'\n') {
            // The other half of a line end that has been counted; of the event before, where it was its last.
            self.after_return = false;
            return (1, false);
        }
        for (at, byte) in self.rest.iter().enumerate() {
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    if !std::mem::take(&mut self.in_line) {
                        return (at + 1, true);
                    }
                }
                _ => {
                    self.after_return = false;
                    self.in_line = true;
                }
            }
        }
        (self.rest.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stream: &str, chunk: usize, limit: usize) -> Vec<String> {
        let mut cutter = Cutter::new(limit);
        let mut said = Vec::new();
        for chunk in stream.as_bytes().chunks(chunk) {
            cutter.feed(Bytes::copy_from_slice(chunk));
            while let Some(next) = cutter.next() {
                said.push(match next {
                    Said::Event(event) => String::from_utf8(event.data.to_vec()).unwrap(),
                    Said::TooLong(_) => String::from("too long"),
                });
            }
        }
        said
    }

    #[test]
    fn an_event_over_the_limit_is_thrown_away_and_the_next_is_whole() {
        let long = "x".repeat(20_000);
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!(
                "event: message{end}data: one{end}{end}data: {long}{end}{end}: comment{end}{end}data: two{end}{end}\
                 data: {long}{end}data: {long}{end}{end}data: three{end}{end}: more{end}{end}"
            );
            for chunk in [1, 2, 7, 100, 4096, stream.len()] {
                let said = cut(&stream, chunk, 100);
                assert_eq!(said, ["one", "too long", "two", "too long", "three"], "{end:?} in {chunk}");
            }
        }
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        for (length, whole) in [(2000, true), (2001, false), (2000 + BESIDES, false)] {
            let text = "x".repeat(length);
            let said = cut(&format!("data: {text}\n\n"), 300, 2000);
            assert_eq!(said, [if whole { text } else { String::from("too long") }]);
        }
    }
}
