//! A call over plain HTTP: one JSON object in, one out, and events in between for who wants to hear of them.
//!
//! Its caller speaks no era of the protocol. The request is Seawall's own around the bytes of the caller's arguments,
//! and what the upstream's result says goes back byte for byte.

use crate::{
    era::{Face, META_LOG_LEVEL, Wire},
    event::{Event, Reply, ReplyKind},
    fault::{Code, Fault, Stage},
    jsonrpc::{Malformed, Members, Message, Raw},
    request::Request,
    sse::write_typed,
};
use bytes::Bytes;
use serde_json::json;

/// The members that the body of a request may have.
const MEMBERS: [&str; 5] = ["tool", "arguments", "timeout_ms", "session", "idempotency_key"];
/// The level from which on a caller that hears of events hears of log messages.
const LOG_LEVEL: &str = "info";

/// What a caller asks for, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// The tool's name.
    pub tool: String,
    /// Its arguments as they came, always an object.
    pub arguments: Raw,
    /// Milliseconds its caller waits; 0 is as long as the work may take.
    pub timeout_ms: Option<u64>,
    /// The conversation it belongs to, as a name of the caller's own.
    pub session: Option<String>,
    /// What makes the call safe to repeat.
    pub idempotency_key: Option<String>,
}

impl Execute {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(body: &Bytes) -> Result<Self, Fault> {
        let text = Raw::parse(body.clone()).map_err(|malformed| unreadable(&malformed))?;
        if !text.as_str().trim_start().starts_with('{') {
            return Err(invalid("the body is not an object with `tool` and `arguments`."));
        }
        let members = Members::parse(text.as_str()).map_err(|malformed| unreadable(&malformed))?;
        let unknown: Vec<String> = members
            .iter()
            .filter(|(name, _)| !MEMBERS.contains(name))
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        if !unknown.is_empty() {
            let text = format!("the body may not have {}; it may have {MEMBERS:?}.", unknown.join(", "));
            return Err(invalid(text));
        }
        let Some(tool) = string(&members, "tool")? else {
            return Err(invalid("`tool` is missing; it names the tool, as in \"server__tool\"."));
        };
        let arguments = match members.get("arguments") {
            None => Raw::of(&json!({})),
            Some(arguments) if arguments.starts_with('{') => Raw::part(body, arguments),
            Some(_) => return Err(invalid("`arguments` is not an object.")),
        };
        Ok(Self {
            tool,
            arguments,
            timeout_ms: members.get("timeout_ms").map(|text| milliseconds("timeout_ms", text)).transpose()?,
            session: string(&members, "session")?,
            idempotency_key: string(&members, "idempotency_key")?,
        })
    }

    /// The request that makes the call. With `events` the caller hears of progress and of log messages.
    ///
    /// # Errors
    /// Where the arguments are nested too deeply to be sent.
    pub fn request(&self, events: bool) -> Result<Request, Fault> {
        let (wire, face) = (Wire::own(), Face::own());
        let mut meta = face.meta_for(&wire).unwrap_or_else(|| json!({}));
        if events {
            meta["progressToken"] = json!(0);
            meta[META_LOG_LEVEL] = json!(LOG_LEVEL);
        }
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{{"name":{},"arguments":{},"_meta":{meta}}}}}"#,
            json!(self.tool),
            self.arguments.as_str()
        );
        let message = Message::parse(body.into()).map_err(|malformed| unreadable(&malformed))?;
        let request = Request::read(message, wire, face).map_err(|malformed| unreadable(&malformed))?;
        Ok(request.of_no_era())
    }
}

/// Reads a number of milliseconds; `name` is what it was given as.
///
/// # Errors
/// When it is none.
pub fn milliseconds(name: &str, text: &str) -> Result<u64, Fault> {
    text.parse().map_err(|_| invalid(format!("`{name}` is not a whole number of milliseconds.")))
}

/// The fault of a request that cannot become a call.
pub fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArguments, Stage::Validate, text)
}

fn unreadable(malformed: &Malformed) -> Fault {
    invalid(format!("the body cannot be read: {malformed}."))
}

/// A member that is a text and says something.
fn string(members: &Members<'_>, name: &str) -> Result<Option<String>, Fault> {
    if members.get(name).is_none() {
        return Ok(None);
    }
    match members.string(name) {
        Some(text) if !text.is_empty() => Ok(Some(text.into_owned())),
        _ => Err(invalid(format!("`{name}` is not a text, or is empty."))),
    }
}

/// The result that a reply carries.
///
/// # Errors
/// What it carries instead: an error, a question, or work that goes on.
pub fn result(reply: &Reply) -> Result<Raw, Fault> {
    let answered =
        |text: String| Fault { may_have_run: true, ..Fault::new(Code::UpstreamError, Stage::Answer, text) };
    let message = Message::parse(reply.body.clone())
        .map_err(|malformed| answered(format!("the answer cannot be read: {malformed}.")))?;
    match (reply.kind, message.result()) {
        (ReplyKind::Result, Some(result)) => Ok(result),
        (ReplyKind::Ask, _) => Err(answered(String::from(
            "the tool asks its caller before it goes on, and a caller over REST cannot be asked. Call it over MCP.",
        ))),
        (ReplyKind::Task, _) => Err(answered(String::from(
            "the tool answered with work that goes on, which cannot be followed over REST. Call it over MCP.",
        ))),
        (ReplyKind::Result | ReplyKind::Error(_), _) => {
            let error = message.error().map(|error| error.value()).unwrap_or_default();
            let said = error["message"].as_str().unwrap_or("nothing");
            let code = &error["code"];
            Err(answered(format!("the server refused the call with the error {code}, and said: {said}")))
        }
    }
}

/// The end of a call, or of a request that became none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    status: u16,
    retry_after: Option<u64>,
    event: &'static str,
    body: String,
}

impl End {
    /// The end of a call of `tool` with this result; `call` is its id.
    pub fn result(call: Option<&str>, tool: &str, result: &Raw) -> Self {
        let members = Members::parse(result.as_str()).unwrap_or_default();
        let ok = members.get("isError") != Some("true");
        let body = format!(
            r#"{{"ok":{ok},"call":{},"tool":{},"result":{}}}"#,
            json!(call),
            json!(tool),
            result.as_str()
        );
        Self { status: 200, retry_after: None, event: "result", body }
    }

    /// The end of a call in a fault; `call` is its id, where it became one. Callers do not learn of tools that they
    /// may not use.
    pub fn fault(call: Option<&str>, fault: &Fault) -> Self {
        if matches!(fault.code, Code::ToolNotFound | Code::Forbidden) {
            let text = "there is no tool of this name, or none that this caller may use.";
            return Self::told(call, &Fault::new(Code::ToolNotFound, Stage::Resolve, text));
        }
        Self::told(call, fault)
    }

    fn told(call: Option<&str>, fault: &Fault) -> Self {
        let mut error = fault.object();
        error["message"] = json!(fault.message);
        Self {
            status: fault.code.status(),
            retry_after: fault.retry_after_ms.map(|wait| wait.div_ceil(1000)),
            event: "error",
            body: format!(r#"{{"ok":false,"call":{},"error":{error}}}"#, json!(call)),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Seconds after which another try makes sense, for the header `Retry-After`.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The body of the answer.
    pub fn into_body(self) -> Bytes {
        self.body.into()
    }

    /// The last event of a stream: the same, and the status that the stream itself can no longer have.
    pub fn into_event(self) -> Bytes {
        let rest = self.body.strip_prefix('{').unwrap_or_default();
        write_typed(self.event, format!(r#"{{"status":{},{rest}"#, self.status).as_bytes())
    }
}

/// An event of a call that is not over, for a stream; `None` for what callers have no use for.
pub fn event(event: &Event) -> Option<Bytes> {
    let (name, notification) = match event {
        Event::Progress(notification) => ("progress", notification),
        Event::Log(notification) => ("log", notification),
        Event::Notification(_) | Event::Streaming | Event::Ask(_) | Event::Pause { .. } | Event::End(_) => {
            return None;
        }
    };
    let message = Message::parse(notification.clone()).ok()?;
    let params = message.params()?;
    // The token is Seawall's own.
    let members = Members::parse(params.as_str()).ok()?.edited(&[("progressToken", None)]);
    Some(write_typed(name, members.as_bytes()))
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
