//! JSON-RPC messages: what is read from one, and how one is written.
//!
//! Ids, arguments and answers are kept as the bytes that came, so that they go back unchanged.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::collections::HashMap;

/// The media type of a message.
pub(crate) const JSON: &str = "application/json";
/// The one version of the modern era.
pub(crate) const MODERN: &str = "2026-07-28";
/// The versions of the legacy era, newest first.
pub(crate) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) params: Params,
    pub(crate) result: Option<Box<RawValue>>,
    pub(crate) error: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Params {
    pub(crate) name: Option<String>,
    pub(crate) arguments: Option<Box<RawValue>>,
    pub(crate) protocol_version: Option<String>,
    pub(crate) request_id: Option<Box<RawValue>>,
    pub(crate) cursor: Option<String>,
    #[serde(default)]
    pub(crate) notifications: Filter,
    pub(crate) input_responses: Option<HashMap<String, Box<RawValue>>>,
    pub(crate) request_state: Option<String>,
    #[serde(default, rename = "_meta")]
    pub(crate) meta: Meta,
}

/// What `subscriptions/listen` asks for, as far as there is anything to tell.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Filter {
    #[serde(default, rename = "toolsListChanged")]
    pub(crate) tools_list_changed: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Meta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    pub(crate) version: Option<String>,
    #[serde(rename = "io.modelcontextprotocol/clientCapabilities")]
    pub(crate) capabilities: Option<Box<RawValue>>,
    #[serde(rename = "io.modelcontextprotocol/logLevel")]
    pub(crate) log_level: Option<String>,
    #[serde(rename = "progressToken")]
    pub(crate) progress_token: Option<Box<RawValue>>,
}

impl Message {
    /// The message in `bytes`, if there is one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The method, or nothing for an answer.
    pub(crate) fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// The version a modern request names for itself.
    pub(crate) fn version(&self) -> Option<&str> {
        self.params.meta.version.as_deref()
    }

    /// The tool a call names.
    pub(crate) fn tool(&self) -> Option<&str> {
        self.params.name.as_deref().filter(|_| self.method() == "tools/call")
    }
}

/// A JSON-RPC error, with the HTTP status the modern era gives it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    code: i32,
    message: String,
    data: Option<Value>,
}

impl Failure {
    fn new(status: u16, code: i32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), data: None }
    }

    /// An ordinary complaint about the parameters of a request.
    pub(crate) fn parameters(message: impl Into<String>) -> Self {
        Self::new(200, -32602, message)
    }

    /// A modern request without what `_meta` must hold.
    pub(crate) fn meta(message: impl Into<String>) -> Self {
        Self::new(400, -32602, message)
    }

    pub(crate) fn method_not_found() -> Self {
        Self::new(404, -32601, "Method not found")
    }

    pub(crate) fn header_mismatch(message: impl Into<String>) -> Self {
        Self::new(400, -32020, message)
    }

    pub(crate) fn unsupported_version(supported: &[&str], requested: Option<&str>) -> Self {
        let data = json!({"supported": supported, "requested": requested});
        Self { data: Some(data), ..Self::new(400, -32022, "Unsupported protocol version") }
    }
}

pub(crate) fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

pub(crate) fn error(id: &str, failure: &Failure) -> String {
    let mut error = json!({"code": failure.code, "message": failure.message});
    if let Some(data) = &failure.data {
        error["data"] = data.clone();
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// A notification; `params` is a JSON object.
pub(crate) fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

/// The legacy era's word that the list of tools has changed.
pub(crate) fn tools_changed() -> String {
    notification("notifications/tools/list_changed", "{}")
}
