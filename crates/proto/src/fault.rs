//! What ends a call without a result, and the one map from there to every wire.
#![deny(clippy::wildcard_enum_match_arm)]

use crate::jsonrpc::Raw;
use serde_json::json;
use std::{fmt, sync::Arc};

/// What went wrong, in one word. Each has a page under `docs/faults/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No tool of that name, or none this caller may know of.
    ToolNotFound,
    /// The arguments do not fit the tool's schema, or the request is malformed.
    InvalidArguments,
    /// No place in the time there was; try again after `retry_after_ms`.
    OverCapacity,
    /// The same call is already under way.
    Duplicate,
    /// Time ended the wait.
    Timeout,
    /// The upstream could not be reached; nothing was sent, or the tool has no effects.
    UpstreamUnavailable,
    /// The upstream answered, with something that is not an answer.
    UpstreamError,
    /// Something was sent and lost; the tool may have acted.
    OutcomeUnknown,
    /// The caller took the call back.
    Cancelled,
    /// No caller has this token.
    Unauthorized,
    /// This caller may not do this.
    Forbidden,
    /// Over a size limit.
    TooLarge,
    /// A fault of Seawall's own.
    Internal,
}

/// How a fault of `tools/call` reaches an MCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON-RPC error with this code, its message "Unknown tool".
    UnknownTool,
    /// An HTTP status without a JSON-RPC answer.
    Status,
    /// A JSON-RPC error with this code.
    Error(i32),
    /// A result with `isError: true`.
    Result,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::ToolNotFound,
        Self::InvalidArguments,
        Self::OverCapacity,
        Self::Duplicate,
        Self::Timeout,
        Self::UpstreamUnavailable,
        Self::UpstreamError,
        Self::OutcomeUnknown,
        Self::Cancelled,
        Self::Unauthorized,
        Self::Forbidden,
        Self::TooLarge,
        Self::Internal,
    ];

    /// Its name on every wire and in the log.
    pub fn code(self) -> &'static str {
        match self {
            Self::ToolNotFound => "TOOL_NOT_FOUND",
            Self::InvalidArguments => "INVALID_ARGUMENTS",
            Self::OverCapacity => "OVER_CAPACITY",
            Self::Duplicate => "DUPLICATE",
            Self::Timeout => "TIMEOUT",
            Self::UpstreamUnavailable => "UPSTREAM_UNAVAILABLE",
            Self::UpstreamError => "UPSTREAM_ERROR",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::Cancelled => "CANCELLED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::TooLarge => "TOO_LARGE",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status of a REST answer.
    pub fn status(self) -> u16 {
        match self {
            Self::ToolNotFound | Self::Forbidden => 404,
            Self::InvalidArguments => 400,
            Self::OverCapacity => 429,
            Self::Duplicate => 409,
            Self::Timeout => 504,
            Self::UpstreamUnavailable => 503,
            Self::UpstreamError | Self::OutcomeUnknown => 502,
            Self::Cancelled => 499,
            Self::Unauthorized => 401,
            Self::TooLarge => 413,
            Self::Internal => 500,
        }
    }

    /// The JSON-RPC error code on any method but `tools/call`; above 1000, outside what JSON-RPC and MCP
    /// reserve.
    pub fn number(self) -> i32 {
        match self {
            Self::ToolNotFound => 1001,
            Self::InvalidArguments => 1002,
            Self::OverCapacity => 1003,
            Self::Duplicate => 1004,
            Self::Timeout => 1005,
            Self::UpstreamUnavailable => 1006,
            Self::UpstreamError => 1007,
            Self::OutcomeUnknown => 1008,
            Self::Cancelled => 1009,
            Self::Unauthorized => 1010,
            Self::Forbidden => 1011,
            Self::TooLarge => 1012,
            Self::Internal => 1013,
        }
    }

    /// How it is told on `tools/call`.
    pub fn shape(self) -> Shape {
        match self {
            Self::ToolNotFound | Self::Forbidden => Shape::UnknownTool,
            Self::Unauthorized => Shape::Status,
            Self::Internal => Shape::Error(-32603),
            Self::InvalidArguments
            | Self::OverCapacity
            | Self::Duplicate
            | Self::Timeout
            | Self::UpstreamUnavailable
            | Self::UpstreamError
            | Self::OutcomeUnknown
            | Self::Cancelled
            | Self::TooLarge => Shape::Result,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// How far a call had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Finding the tool.
    #[default]
    Resolve,
    /// Checking that this caller may use it.
    Authorise,
    /// Checking the arguments.
    Validate,
    /// Waiting for a place.
    Admit,
    /// Starting or connecting the upstream, its handshake included.
    Start,
    /// Handing over the request.
    Send,
    /// Waiting for the upstream's answer.
    Answer,
}

impl Stage {
    /// Its name on the wire and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Authorise => "authorise",
            Self::Validate => "validate",
            Self::Admit => "admit",
            Self::Start => "start",
            Self::Send => "send",
            Self::Answer => "answer",
        }
    }
}

/// What ended a call without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub code: Code,
    /// One plain sentence: what happened and what to do. Never a secret.
    pub message: String,
    /// Whose fault it is, when it is an upstream's.
    pub upstream: Option<Arc<str>>,
    /// How far the call had come.
    pub stage: Stage,
    /// The id of the call that a duplicate repeats.
    pub original: Option<Arc<str>>,
    /// Milliseconds since the call came in.
    pub elapsed_ms: u64,
    /// Milliseconds it had.
    pub budget_ms: u64,
    /// Whether the tool may have acted.
    pub may_have_run: bool,
    /// Milliseconds after which another try makes sense.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault about which nothing else is known yet; the call path fills in the rest.
    pub fn new(code: Code, stage: Stage, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            upstream: None,
            stage,
            original: None,
            elapsed_ms: 0,
            budget_ms: 0,
            may_have_run: false,
            retry_after_ms: None,
        }
    }

    /// The object that travels as `_meta["seawall/fault"]`, as a JSON-RPC error's `data` and as a REST body.
    pub fn object(&self) -> serde_json::Value {
        let mut object = json!({
            "code": self.code.code(),
            "upstream": self.upstream.as_deref(),
            "stage": self.stage.name(),
            "elapsed_ms": self.elapsed_ms,
            "budget_ms": self.budget_ms,
            "may_have_run": self.may_have_run,
            "retry_after_ms": self.retry_after_ms,
        });
        if let Some(original) = &self.original {
            object["original"] = json!(**original);
        }
        object
    }

    /// What the model reads: the code, then the sentence.
    pub fn text(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }

    /// The JSON-RPC response that tells it. `None` where the answer is an HTTP status alone.
    ///
    /// `complete` are the members the caller's era wants on every result, such as `"resultType":"complete"`.
    pub(crate) fn response(&self, id: &Raw, method: &str, complete: &[(&str, &str)]) -> Option<String> {
        let error = |code: i32, message: &str, data: Option<serde_json::Value>| {
            let mut error = json!({"code": code, "message": message});
            if let Some(data) = data {
                error["data"] = data;
            }
            format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.as_str())
        };
        let shape = if method == "tools/call" { self.code.shape() } else { Shape::Error(self.code.number()) };
        match shape {
            Shape::Status => None,
            Shape::UnknownTool => Some(error(-32602, "Unknown tool", None)),
            Shape::Error(code) => Some(error(code, &self.text(), Some(self.object()))),
            Shape::Result => {
                let mut result = json!({
                    "content": [{"type": "text", "text": self.text()}],
                    "isError": true,
                    "_meta": {"seawall/fault": self.object()},
                });
                for (name, value) in complete {
                    result[*name] = serde_json::Value::from(*value);
                }
                Some(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_str()))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn every_code_has_a_name_a_number_and_a_shape_of_its_own() {
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        numbers.dedup();
        assert_eq!(numbers, (1001..=1013).collect::<Vec<_>>());
        for code in Code::ALL {
            assert!(code.code().chars().all(|letter| letter.is_ascii_uppercase() || letter == '_'));
            assert!((400..600).contains(&code.status()));
        }
    }

    #[test]
    fn a_fault_tells_the_model_in_the_text_and_the_client_in_meta() {
        let id = Raw::parse(Bytes::from_static(b"\"x\"")).unwrap();
        let fault =
            Fault { may_have_run: true, ..Fault::new(Code::Timeout, Stage::Answer, "no answer in 50 s.") };
        let text = fault.response(&id, "tools/call", &[("resultType", "complete")]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["id"], "x");
        assert_eq!(value["result"]["isError"], true);
        assert_eq!(value["result"]["resultType"], "complete");
        assert_eq!(value["result"]["content"][0]["text"], "TIMEOUT: no answer in 50 s.");
        assert_eq!(value["result"]["_meta"]["seawall/fault"]["may_have_run"], true);

        let text = fault.response(&id, "resources/read", &[]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["code"], 1005);
        assert_eq!(value["error"]["data"]["stage"], "answer");

        let hidden = Fault::new(Code::Forbidden, Stage::Authorise, "secret tool");
        let text = hidden.response(&id, "tools/call", &[]).unwrap();
        assert!(text.contains("Unknown tool") && !text.contains("secret"), "{text}");
        let unknown = Fault::new(Code::ToolNotFound, Stage::Resolve, "none");
        assert_eq!(unknown.response(&id, "tools/call", &[]), Some(text));
    }
}
