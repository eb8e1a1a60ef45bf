//! An upstream that plays a script, for tests of the call path on a paused clock.
//!
//! Configured as `command = "script"`; each argument is what one call does, the last one for ever: steps joined by
//! `;`, each a word and milliseconds: `reply 100`, `progress 50`, `ask 0` (which waits for its answer), `hang`,
//! `lose-no 0`, `lose-maybe 0`.

use super::{Heard, Lost, Sent, Upstream};
use seawall_proto::{
    Ask, Message, Raw, ReplySlot, Request,
    era::peer::{Peer, Topic},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// What happened at a script, in order.
pub(crate) type Record = Arc<Mutex<Vec<String>>>;

impl Upstream {
    /// What happened at a script.
    pub(crate) fn record(&self) -> Vec<String> {
        let super::Connector::Script(connector) = &self.connector else { return Vec::new() };
        connector.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
pub(super) struct Connector {
    lines: Arc<Mutex<VecDeque<String>>>,
    pub(super) record: Record,
}

#[derive(Debug)]
pub struct Instance {
    lines: Arc<Mutex<VecDeque<String>>>,
    record: Record,
    peer: Peer,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    steps: VecDeque<(String, Duration)>,
    at: Option<Instant>,
    id: Raw,
    sent: Sent,
    record: Record,
    finished: bool,
    answered: Arc<Notify>,
}

const TOOLS: &str = r#"{"tools":[{"name":"read","annotations":{"readOnlyHint":true}},{"name":"write"},{"name":"strict","inputSchema":{"type":"object","required":["n"]}}]}"#;

impl Connector {
    pub(super) fn new(lines: &[String]) -> Self {
        Self { lines: Arc::new(Mutex::new(lines.iter().cloned().collect())), record: Record::default() }
    }

    pub(super) fn open(&self) -> Arc<Instance> {
        let opening = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#;
        let opening = Raw::parse(opening.to_owned().into()).expect("it is JSON");
        let peer = Peer::recall("2025-11-25", opening).expect("the version is known");
        Arc::new(Instance { lines: Arc::clone(&self.lines), record: Arc::clone(&self.record), peer })
    }
}

impl Instance {
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn exchange(&self, request: &Request) -> Exchange {
        let line = if request.method() == "tools/list" {
            String::from("list 0")
        } else {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() > 1 { lines.pop_front() } else { lines.front().cloned() }.unwrap_or_default()
        };
        let steps = line
            .split(';')
            .map(|step| {
                let (word, ms) = step.trim().split_once(' ').unwrap_or_else(|| (step.trim(), "0"));
                (word.to_owned(), Duration::from_millis(ms.parse().expect("milliseconds")))
            })
            .collect();
        let record = Arc::clone(&self.record);
        Exchange {
            steps,
            at: None,
            id: request.id(),
            sent: Sent::No,
            record,
            finished: false,
            answered: Arc::default(),
        }
    }
}

impl Exchange {
    fn note(&self, what: &str) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }

    pub(super) async fn next(&mut self) -> Result<Heard, Lost> {
        if self.sent == Sent::No {
            self.sent = Sent::Maybe;
            self.note(&format!("start {}", self.steps[0].0));
        }
        let (word, wait) = self.steps.front().cloned().expect("a script ends in an end");
        if word == "hang" {
            return std::future::pending().await;
        }
        if word == "answered" {
            self.answered.notified().await;
            self.steps.pop_front();
            return Box::pin(self.next()).await;
        }
        let at = *self.at.get_or_insert_with(|| Instant::now() + wait);
        sleep_until(at).await;
        self.at = None;
        self.steps.pop_front();
        let message = |text: String| Message::parse(text.into()).expect("it is a message");
        let id = self.id.as_str();
        match word.as_str() {
            "reply" | "list" => {
                self.finished = true;
                self.note(&format!("end {word}"));
                let result = if word == "list" { TOOLS } else { r#"{"content":[]}"# };
                Ok(Heard::Response(message(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))))
            }
            "progress" => {
                let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
                Ok(Heard::Notification(message(text.to_owned()), Topic::Progress))
            }
            "ask" => {
                self.steps.push_front((String::from("answered"), Duration::ZERO));
                let (record, answered) = (Arc::clone(&self.record), Arc::clone(&self.answered));
                let reply = ReplySlot::new(move |answer| {
                    answered.notify_one();
                    record.lock().unwrap_or_else(PoisonError::into_inner).push(format!("answer {answer:?}"));
                });
                let text = r#"{"jsonrpc":"2.0","id":0,"method":"elicitation/create"}"#;
                Ok(Heard::Ask(Ask { message: message(text.to_owned()), reply }))
            }
            lose => {
                self.finished = true;
                self.sent = if lose == "lose-no" { Sent::No } else { Sent::Maybe };
                Err(Lost::new(self.sent, "the script says so"))
            }
        }
    }

    pub(super) fn sent(&self) -> Sent {
        self.sent
    }

    pub(super) fn cancel(&mut self) {
        if !self.finished && self.sent == Sent::Maybe {
            self.finished = true;
            self.note("cancel");
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.cancel();
    }
}
