//! Server-sent events (WHATWG HTML, "server-sent events"), read and written without I/O.

use bytes::{Bytes, BytesMut};

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The event's id, where it has one.
    pub id: Option<String>,
    /// The event's type, where it names one.
    pub event: Option<String>,
    /// Its data, lines joined by newlines.
    pub data: Bytes,
    /// Milliseconds to wait before reconnecting, where the stream says so.
    pub retry_ms: Option<u64>,
}

/// An event grew over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {limit} bytes")]
pub struct TooLarge {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Cuts a byte stream into events; holds at most one event's bytes.
#[derive(Debug)]
pub struct SseReader {
    buffer: BytesMut,
    /// How much of the buffer has been searched for a line's end.
    searched: usize,
    data: Vec<u8>,
    has_data: bool,
    event: SseEvent,
    limit: usize,
    started: bool,
}

impl SseReader {
    /// A reader that refuses events larger than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            data: Vec::new(),
            has_data: false,
            event: SseEvent::default(),
            limit,
            started: false,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if !self.started && self.buffer.len() >= 3 {
            self.started = true;
            if self.buffer.starts_with(b"\xef\xbb\xbf") {
                let _ = self.buffer.split_to(3);
            }
        }
    }

    /// The next whole event, if there is one.
    ///
    /// # Errors
    /// When an event is over the limit; the stream cannot be read on.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, TooLarge> {
        loop {
            if self.data.len() + self.buffer.len() > self.limit && !self.buffer.contains(&b'\n') {
                return Err(TooLarge { limit: self.limit });
            }
            let found = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let Some(found) = found else {
                self.searched = self.buffer.len();
                return Ok(None);
            };
            let end = self.searched + found;
            // A CR may be the first half of a CRLF that is not here yet.
            let crlf = self.buffer[end] == b'\r';
            if crlf && end + 1 == self.buffer.len() {
                self.searched = end;
                return Ok(None);
            }
            let line = self.buffer.split_to(end);
            let _ = self.buffer.split_to(if crlf && self.buffer.get(1) == Some(&b'\n') { 2 } else { 1 });
            self.searched = 0;
            if line.is_empty() {
                if let Some(event) = self.finish() {
                    return Ok(Some(event));
                }
            } else {
                self.field(&line);
                if self.data.len() > self.limit {
                    return Err(TooLarge { limit: self.limit });
                }
            }
        }
    }

    fn field(&mut self, line: &[u8]) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => self.event.id = Some(text()),
            b"event" => self.event.event = Some(text()),
            b"retry" => {
                self.event.retry_ms = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok())
            }
            _ => {}
        }
    }

    fn finish(&mut self) -> Option<SseEvent> {
        let mut event = std::mem::take(&mut self.event);
        event.data = std::mem::take(&mut self.data).into();
        let had_data = std::mem::take(&mut self.has_data);
        (had_data || event.id.is_some() || event.retry_ms.is_some()).then_some(event)
    }
}

/// Writes one message as an event. JSON text has no raw newlines but between tokens, where they mean nothing.
pub fn write_event(id: Option<&str>, data: &[u8]) -> Bytes {
    write(id, "message", data)
}

/// Writes JSON as an event of this type, likewise.
pub fn write_typed(event: &str, data: &[u8]) -> Bytes {
    write(None, event, data)
}

fn write(id: Option<&str>, event: &str, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 32 + event.len() + id.map_or(0, str::len));
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    if data.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend(data.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    } else {
        out.extend_from_slice(data);
    }
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// The event that opens a resumable stream: an id and no data, and how long to wait before coming back.
pub fn write_priming(id: &str, retry_ms: u64) -> Bytes {
    format!("id: {id}\nretry: {retry_ms}\ndata: \n\n").into()
}

/// A comment, which keeps a quiet connection open.
pub const COMMENT: &[u8] = b": \n\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> Vec<SseEvent> {
        let mut reader = SseReader::new(1000);
        let mut events = Vec::new();
        for chunk in chunks {
            reader.feed(chunk);
            while let Some(event) = reader.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn fields_comments_and_line_ends_are_read_as_the_standard_says() {
        let events =
            read(&[b"\xef\xbb\xbf: hi\r\nid: 7\rretry:30\ndata: a\ndata:b\n\n\n\nevent: x\n\ndata\n\n"]);
        assert_eq!(events.len(), 2);
        assert_eq!(
            (events[0].id.as_deref(), events[0].retry_ms, &events[0].data[..]),
            (Some("7"), Some(30), &b"a\nb"[..])
        );
        assert_eq!(events[1].data, "");
    }

    #[test]
    fn an_event_without_an_end_is_refused_at_the_limit() {
        let mut reader = SseReader::new(10);
        reader.feed(b"data: 0123456789abc");
        assert_eq!(reader.next_event(), Err(TooLarge { limit: 10 }));
    }

    #[test]
    fn what_is_written_is_one_line_of_data() {
        assert_eq!(write_event(Some("1"), b"{\n}"), &b"id: 1\nevent: message\ndata: { }\n\n"[..]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(parts in proptest::collection::vec("[a-z]{0,9}", 1..6), cut in 0..200_usize) {
            let text: Vec<u8> = parts.iter().flat_map(|part| write_event(Some("1"), part.as_bytes())).collect();
            let cut = cut.min(text.len());
            let events = read(&[&text[..cut], &text[cut..]]);
            prop_assert_eq!(events.len(), parts.len());
            for (event, part) in events.iter().zip(&parts) {
                prop_assert_eq!(&event.data[..], part.as_bytes());
            }
        }
    }
}
