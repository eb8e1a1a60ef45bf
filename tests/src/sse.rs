//! Reads server-sent events.

use crate::http::Exchange;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    /// Its lines of data; empty for an event that only carries an id.
    pub(crate) data: String,
}

/// The events of a response.
#[derive(Debug)]
pub(crate) struct Events {
    exchange: Exchange,
    pending: Vec<u8>,
}

impl Events {
    pub(crate) fn new(exchange: Exchange) -> Self {
        Self { exchange, pending: Vec::new() }
    }

    /// The next event that says anything; nothing once the stream has ended. Comments are passed over.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(event) = take_event(&mut self.pending) {
                if event != Event::default() {
                    return Some(event);
                }
            }
            self.pending.extend_from_slice(&self.exchange.chunk().await?);
        }
    }
}

/// Takes the first whole event off the front of `pending`.
fn take_event(pending: &mut Vec<u8>) -> Option<Event> {
    let end_after = |blank: &[u8]| {
        pending.windows(blank.len()).position(|bytes| bytes == blank).map(|start| start + blank.len())
    };
    let end = [end_after(b"\n\n"), end_after(b"\r\n\r\n")].into_iter().flatten().min()?;
    let text: Vec<u8> = pending.drain(..end).collect();
    let text = String::from_utf8_lossy(&text);
    let mut id = None;
    let mut data = Vec::new();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.to_owned()),
            "data" => data.push(value),
            _ => {}
        }
    }
    Some(Event { id, data: data.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_blank_lines_of_either_kind() {
        let mut pending =
            b": hello\n\nid: 7\r\ndata: a\r\ndata:b\r\n\r\nid: 8\ndata:\n\ndata: not yet".to_vec();
        assert_eq!(take_event(&mut pending), Some(Event::default()));
        assert_eq!(take_event(&mut pending), Some(Event { id: Some("7".into()), data: "a\nb".into() }));
        assert_eq!(take_event(&mut pending), Some(Event { id: Some("8".into()), data: String::new() }));
        assert_eq!(take_event(&mut pending), None);
    }
}
