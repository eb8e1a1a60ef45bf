//! How an upstream is opened: which era is tried first, what is said, and what the answer means.
//!
//! A pure state machine; the connector carries its messages. No answer to a probe is taken for more than it is:
//! servers of the older era answer `server/discover` with any error, with silence, or by exiting, and a Python
//! server that has once heard it refuses `initialize` for ever. So the second era is always tried on an instance
//! that has heard nothing yet.

use super::{
    Face, Kind, LEGACY, META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN, Pin, Spoken, Wire, peer::Peer,
};
use crate::jsonrpc::{Message, Raw};
use bytes::Bytes;
use serde_json::json;
use std::{collections::VecDeque, sync::Arc};

const UNSUPPORTED_VERSION: i64 = -32022;
/// The id of every opening request; an instance that is being opened has no other request under way.
pub const OPENING_ID: &str = "0";

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this and report what came of it.
    Send {
        /// The JSON-RPC request.
        body: Bytes,
        /// HTTP headers that go with it.
        headers: Vec<(&'static str, String)>,
        /// Whether it needs an instance to which nothing has been said yet.
        fresh: bool,
        /// Whether silence means only "not this era", so that waiting for all of the start budget is wrong.
        probe: bool,
    },
    /// It is open.
    Open(Box<Peer>),
    /// It cannot be opened, and why.
    Failed(String),
}

/// What came of the last message.
#[derive(Debug)]
pub enum Heard {
    /// A JSON-RPC response.
    Response(Message),
    /// An HTTP answer without a JSON-RPC response in it.
    Status(u16),
    /// Nothing within the time there was.
    Silence,
    /// The instance ended or the connection broke, and how.
    Gone(String),
}

/// The opening of one instance.
#[derive(Debug)]
pub struct Opening {
    face: Arc<Face>,
    left: VecDeque<Kind>,
    said: usize,
    spoken: Spoken,
    done: Option<Step>,
    reasons: Vec<String>,
    /// A refusal that contradicted itself has been heard, and the question asked again.
    again: bool,
}

impl Opening {
    /// Plans the opening for a caller that speaks `caller`.
    pub fn new(pin: Pin, known: Spoken, caller: &Wire, face: Arc<Face>) -> Self {
        let other = if caller.kind == Kind::Modern { Kind::Legacy } else { Kind::Modern };
        let left = match (pin, known.legacy, known.modern) {
            (Pin::Legacy, ..) => VecDeque::from([Kind::Legacy]),
            (Pin::Modern, ..) => VecDeque::from([Kind::Modern]),
            (Pin::Auto, Some(true), Some(false)) => VecDeque::from([Kind::Legacy, Kind::Modern]),
            (Pin::Auto, Some(false), Some(true)) => VecDeque::from([Kind::Modern, Kind::Legacy]),
            // Known to speak one and nothing known of the other: try the caller's own first, it may speak both.
            (Pin::Auto, ..) => VecDeque::from([caller.kind, other]),
        };
        Self { face, left, said: 0, spoken: Spoken::default(), done: None, reasons: Vec::new(), again: false }
    }

    /// What to do now. After [`Step::Send`], call [`Opening::heard`].
    pub fn step(&mut self) -> Step {
        if let Some(done) = self.done.take() {
            return done;
        }
        let Some(kind) = self.left.front() else {
            return Step::Failed(self.reasons.join("; "));
        };
        let fresh = self.said > 0;
        self.said += 1;
        let probe = self.left.len() > 1;
        match kind {
            Kind::Modern => {
                let meta = modern_meta(&self.face);
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{OPENING_ID},"method":"server/discover","params":{{"_meta":{meta}}}}}"#
                );
                let headers = vec![
                    ("mcp-protocol-version", MODERN.to_owned()),
                    ("mcp-method", "server/discover".to_owned()),
                ];
                Step::Send { body: body.into(), headers, fresh, probe }
            }
            Kind::Legacy => {
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{OPENING_ID},"method":"initialize","params":{}}}"#,
                    self.face.initialize()
                );
                Step::Send { body: body.into(), headers: Vec::new(), fresh, probe }
            }
        }
    }

    /// Takes what came of the message of the last step.
    pub fn heard(&mut self, heard: &Heard) {
        let Some(kind) = self.left.pop_front() else { return };
        if kind == Kind::Modern && !self.again && refuses_its_own_version(heard) {
            self.again = true;
            self.left.push_front(kind);
            return;
        }
        let opened = match heard {
            Heard::Response(message) => match (kind, message.result()) {
                (Kind::Modern, Some(result)) => open_modern(result),
                (Kind::Legacy, Some(result)) => open_legacy(result),
                (_, None) => Err(format!(
                    "it answered {} with {}",
                    first_method(kind),
                    message.error().map_or_else(String::new, |error| error
                        .as_str()
                        .chars()
                        .take(200)
                        .collect())
                )),
            },
            Heard::Status(status) => Err(format!("it answered {} with HTTP {status}", first_method(kind))),
            Heard::Silence => Err(format!("it did not answer {}", first_method(kind))),
            Heard::Gone(how) => Err(format!("it ended at {}: {how}", first_method(kind))),
        };
        // Only an answer says that an era is not spoken; silence and exits may have any cause.
        let says_no = matches!(heard, Heard::Response(_) | Heard::Status(400 | 404 | 405));
        let known = match &opened {
            Ok(_) => Some(true),
            Err(_) => says_no.then_some(false),
        };
        match kind {
            Kind::Modern => self.spoken.modern = known,
            Kind::Legacy => self.spoken.legacy = known,
        }
        match opened {
            Ok(peer) => self.done = Some(Step::Open(Box::new(peer))),
            Err(reason) => self.reasons.push(reason),
        }
    }

    /// What the opening has taught about the eras this upstream speaks.
    pub fn spoken(&self) -> Spoken {
        self.spoken
    }
}

/// The `_meta` of a modern request of ours, or of a legacy caller's on its way to a modern upstream.
pub(super) fn modern_meta(face: &Face) -> String {
    format!(
        r#"{{"{META_VERSION}":"{MODERN}","{META_CLIENT}":{},"{META_CAPABILITIES}":{}}}"#,
        face.info.as_str(),
        face.capabilities.as_str()
    )
}

/// Whether a refusal of the version names that very version as one it takes: it is asked once more.
fn refuses_its_own_version(heard: &Heard) -> bool {
    let Heard::Response(message) = heard else { return false };
    message.error_code() == Some(UNSUPPORTED_VERSION)
        && message.error().is_some_and(|error| {
            error.value()["data"]["supported"]
                .as_array()
                .is_some_and(|supported| supported.iter().any(|version| version == MODERN))
        })
}

fn first_method(kind: Kind) -> &'static str {
    match kind {
        Kind::Modern => "server/discover",
        Kind::Legacy => "initialize",
    }
}

fn open_modern(result: Raw) -> Result<Peer, String> {
    let value = result.value();
    let versions = value["supportedVersions"].as_array().cloned().unwrap_or_default();
    if !versions.iter().any(|version| version == MODERN) {
        return Err(format!("it speaks none of Seawall's versions but {}", json!(versions)));
    }
    Ok(Peer::new(Wire { kind: Kind::Modern, version: MODERN }, result, &value))
}

fn open_legacy(result: Raw) -> Result<Peer, String> {
    let value = result.value();
    let version = value["protocolVersion"].as_str().unwrap_or_default();
    let Some(version) = LEGACY.into_iter().find(|known| *known == version) else {
        return Err(format!("it chose the protocol version {version:?}, which Seawall does not speak"));
    };
    Ok(Peer::new(Wire { kind: Kind::Legacy, version }, result, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Heard {
        Heard::Response(Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap())
    }

    fn method(step: Step) -> (String, bool, bool) {
        let Step::Send { body, fresh, probe, .. } = step else { panic!("{step:?}") };
        (Message::parse(body).unwrap().method().unwrap().to_owned(), fresh, probe)
    }

    #[test]
    fn a_refusal_of_the_version_that_it_names_is_asked_once_more() {
        let mut opening = Opening::new(Pin::Auto, Spoken::default(), &Wire::own(), Face::own());
        opening.step();
        let odd = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"message":"m","data":{"supported":["2026-07-28"]}}}"#;
        opening.heard(&answer(odd));
        assert_eq!(method(opening.step()).0, "server/discover");
        opening.heard(&answer(odd));
        assert_eq!(method(opening.step()).0, "initialize");
    }

    const REFUSED: &str = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#;

    #[test]
    fn a_server_that_refuses_discover_is_initialised_afresh_and_remembered() {
        let mut opening = Opening::new(Pin::Auto, Spoken::default(), &Wire::own(), Face::own());
        assert_eq!(method(opening.step()), ("server/discover".into(), false, true));
        opening.heard(&answer(REFUSED));
        assert_eq!(method(opening.step()), ("initialize".into(), true, false));
        opening.heard(&answer(
            r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}"#,
        ));
        let Step::Open(peer) = opening.step() else { panic!() };
        assert_eq!(peer.wire().version(), "2025-06-18");
        let spoken = opening.spoken();
        assert_eq!(Spoken::from_byte(spoken.to_byte()), spoken);

        let mut again = Opening::new(Pin::Auto, spoken, &Wire::own(), Face::own());
        assert_eq!(method(again.step()).0, "initialize");
    }

    #[test]
    fn silence_and_exits_teach_nothing_about_an_era() {
        for heard in [Heard::Silence, Heard::Gone("exit status 1".into())] {
            let mut opening = Opening::new(Pin::Auto, Spoken::default(), &Wire::own(), Face::own());
            opening.step();
            opening.heard(&heard);
            assert_eq!(opening.spoken(), Spoken::default());
            assert_eq!(method(opening.step()), ("initialize".into(), true, false));
            opening.heard(&heard);
            assert!(matches!(opening.step(), Step::Failed(_)));
        }
    }

    #[test]
    fn a_pin_and_the_callers_era_decide_what_comes_first() {
        let legacy = Wire { kind: Kind::Legacy, version: LEGACY[0] };
        for (pin, caller, first) in [
            (Pin::Auto, legacy, "initialize"),
            (Pin::Auto, Wire::own(), "server/discover"),
            (Pin::Legacy, Wire::own(), "initialize"),
            (Pin::Modern, legacy, "server/discover"),
        ] {
            let mut opening = Opening::new(pin, Spoken::default(), &caller, Face::own());
            assert_eq!(method(opening.step()).0, first, "{pin:?} {caller:?}");
        }
    }
}
