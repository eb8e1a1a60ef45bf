//! The side that faces callers: settles a caller's era once, and writes what Seawall itself answers.

use super::{
    Face, Kind, LEGACY, META_CAPABILITIES, META_CLIENT, META_SERVER, META_SUBSCRIPTION, META_VERSION, MODERN,
    Wire,
    peer::{Peer, cacheable, error_reply, has_subject, header_text},
};
use crate::{
    event::{Reply, ReplyKind},
    fault::{Code, Fault},
    jsonrpc::{Kind as MessageKind, Malformed, Members, Message, Parts, Raw},
    request::Request,
};
use bytes::Bytes;
use serde_json::json;
use std::{borrow::Cow, sync::Arc};

const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// The headers of one HTTP message that the protocol gives a meaning.
#[derive(Clone, Debug, Default)]
pub struct Head<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a str>,
    /// `Mcp-Method`.
    pub method: Option<&'a str>,
    /// `Mcp-Name`.
    pub name: Option<&'a str>,
    /// Whether one of these occurs more than once.
    pub repeated: bool,
    /// `Mcp-Param-*`, names in lower case.
    pub parameters: Vec<(String, String)>,
}

/// A message whose era is settled.
#[derive(Debug)]
pub enum Inbound {
    /// A message of the era with sessions: the session it belongs to says the rest.
    InSession(Message),
    /// A request that stands alone.
    Alone(Arc<Request>),
    /// A notification that stands alone.
    AloneNotification(Message),
}

/// An answer that ends a request before it became a call.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// A JSON-RPC error.
    pub body: Bytes,
}

/// Settles which era a message is of, and checks what the modern one requires of headers and `_meta`
/// (2026-07-28, basic/transports and basic/versioning).
///
/// # Errors
/// The answer to a message that is malformed or contradicts its headers.
pub fn inbound(body: &Bytes, head: &Head<'_>) -> Result<Inbound, Refusal> {
    let parts = Parts::find(body).map_err(|malformed| unreadable(&malformed))?;
    let message = Message::of(body, &parts.members).map_err(|malformed| unreadable(&malformed))?;
    let meta = &parts.meta;
    let version = meta.string(META_VERSION);
    let modern = version.is_some()
        || head.version.is_some_and(|version| !LEGACY.contains(&version) && version > LEGACY[0]);
    if !modern || message.kind() == MessageKind::Response {
        return Ok(Inbound::InSession(message));
    }
    if message.kind() == MessageKind::Notification {
        return Ok(Inbound::AloneNotification(message));
    }
    let refuse = |code: i64, text: &str| refusal(400, &message, code, text, None);
    let (Some(version), Some(capabilities)) = (version, meta.get(META_CAPABILITIES)) else {
        let text = format!("`_meta` must hold \"{META_VERSION}\" and \"{META_CAPABILITIES}\"");
        return Err(refuse(INVALID_PARAMS, &text));
    };
    if !capabilities.starts_with('{') {
        return Err(refuse(INVALID_PARAMS, &format!("\"{META_CAPABILITIES}\" is not an object")));
    }
    if head.repeated {
        return Err(refuse(HEADER_MISMATCH, "an MCP header occurs more than once"));
    }
    if head.version != Some(&*version) {
        let text = format!(
            "the header MCP-Protocol-Version says {:?} and `_meta` says {version:?}",
            head.version.unwrap_or_default()
        );
        return Err(refuse(HEADER_MISMATCH, &text));
    }
    if version != MODERN {
        let data = json!({"supported": [MODERN], "requested": version});
        return Err(refusal(400, &message, UNSUPPORTED_VERSION, "Unsupported protocol version", Some(data)));
    }
    if message.method().is_some_and(removed) {
        return Err(refusal(404, &message, METHOD_NOT_FOUND, "Method not found", None));
    }
    let part = |raw: &str| Raw::part(body, raw);
    let info =
        meta.get(META_CLIENT).map_or_else(|| Raw::of(&json!({"name": "unknown", "version": "0"})), part);
    let face = Arc::new(Face::of(info, part(capabilities)));
    let wire = Wire { kind: Kind::Modern, version: MODERN };
    let request = Request::of(message, &parts.params, Some(meta), wire, face);
    let subject = request.subject().filter(|_| has_subject(request.method()));
    for (header, found, wanted) in [
        ("Mcp-Method", head.method, Some(request.method())),
        ("Mcp-Name", head.name, subject.map(|name| &**name)),
    ] {
        let Some(wanted) = wanted else { continue };
        if found.and_then(header_text).as_deref() != Some(wanted) {
            let text =
                format!("the header {header} says {:?} and the body {wanted:?}", found.unwrap_or_default());
            return Err(refusal(400, request.message(), HEADER_MISMATCH, &text, None));
        }
    }
    Ok(Inbound::Alone(Arc::new(request.with_parameters(head.parameters.clone()))))
}

/// Methods of the older era that the modern one has no more.
fn removed(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/list"
            | "tasks/result"
    )
}

fn unreadable(malformed: &Malformed) -> Refusal {
    let code = match malformed {
        Malformed::Syntax(_) => -32700,
        Malformed::Shape(_) | Malformed::Twice(_) | Malformed::Deep => -32600,
    };
    let error = json!({"code": code, "message": malformed.to_string()});
    Refusal { status: 400, body: format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#).into() }
}

fn refusal(
    status: u16,
    message: &Message,
    code: i64,
    text: &str,
    data: Option<serde_json::Value>,
) -> Refusal {
    let id = message.id().unwrap_or_else(|| Raw::of(&serde_json::Value::Null));
    let mut error = json!({"code": code, "message": text});
    if let Some(data) = data {
        error["data"] = data;
    }
    Refusal { status, body: format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.as_str()).into() }
}

/// A JSON-RPC error for a message that has no session to go to, or for another reason told by `text`.
pub fn refuse(status: u16, message: &Message, code: i64, text: &str) -> Refusal {
    refusal(status, message, code, text, None)
}

/// Reads a request of a session. `version` is the session's.
///
/// # Errors
/// The answer to parameters that cannot be read.
pub fn in_session(message: Message, wire: &Wire, face: &Arc<Face>) -> Result<Request, Refusal> {
    Request::read(message, *wire, Arc::clone(face)).map_err(|malformed| unreadable(&malformed))
}

/// What a legacy client opens its session with.
///
/// # Errors
/// The answer to an `initialize` without a protocol version.
pub fn initialize(message: &Message) -> Result<(Wire, Face), Refusal> {
    let params = message.params();
    let face = params.as_ref().and_then(Face::of_initialize).ok_or_else(|| {
        refusal(400, message, INVALID_PARAMS, "`initialize` needs `params.protocolVersion`", None)
    })?;
    let sent = face.initialize();
    let asked = Members::parse(&sent).ok().and_then(|members| members.string("protocolVersion"));
    let version = LEGACY.into_iter().find(|known| asked.as_deref() == Some(*known)).unwrap_or(LEGACY[0]);
    Ok((Wire { kind: Kind::Legacy, version }, face))
}

/// The HTTP status that carries a reply.
pub fn status(wire: &Wire, reply: &Reply) -> u16 {
    match (wire.kind, reply.kind) {
        (Kind::Modern, ReplyKind::Error(METHOD_NOT_FOUND)) => 404,
        (Kind::Modern, ReplyKind::Error(-32022..=-32020)) => 400,
        _ => 200,
    }
}

/// How a fault is told to its caller: an HTTP status, and a JSON-RPC response where there is one.
pub fn fault(request: &Request, fault: &Fault) -> (u16, Option<Bytes>) {
    let complete: &[(&str, &str)] =
        if request.wire.kind == Kind::Modern { &[("resultType", "complete")] } else { &[] };
    match fault.response(&request.id(), request.method(), complete) {
        Some(body) => (200, Some(body.into())),
        None => (Code::Unauthorized.status(), None),
    }
}

/// A result of Seawall's own: `members` is the text of a JSON object.
pub fn result(request: &Request, members: &str, ttl_ms: u64) -> Reply {
    let ttl = ttl_ms.to_string();
    let own = own_server();
    let mut edits: Vec<(&str, Option<&str>)> = Vec::new();
    let read = Members::parse(members).unwrap_or_default();
    let meta = Members::parse(read.get("_meta").unwrap_or("{}"))
        .unwrap_or_default()
        .edited(&[(META_SERVER, Some(&own))]);
    if request.wire.kind == Kind::Modern {
        edits.push(("resultType", Some("\"complete\"")));
        if cacheable(request.method()) || request.method() == "server/discover" {
            edits.push(("ttlMs", Some(&ttl)));
            edits.push(("cacheScope", Some("\"private\"")));
        }
        edits.push(("_meta", Some(&meta)));
    }
    let members = read.edited(&edits);
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{members}}}"#, request.id().as_str());
    Reply { body: body.into(), kind: ReplyKind::Result }
}

/// A JSON-RPC error of Seawall's own, for a method it does not serve.
pub fn method_not_found(request: &Request) -> Reply {
    let text = format!("Method not found: `{}`", request.method());
    error_reply(&request.id(), METHOD_NOT_FOUND, &text)
}

fn own_server() -> String {
    json!({"name": "seawall", "title": "seawall", "version": env!("CARGO_PKG_VERSION")}).to_string()
}

/// The answer to `initialize` or `server/discover` on the endpoint of one upstream: its own, or one made from it
/// where the caller's era is the other.
pub fn greeting_of(request: &Request, peer: &Peer) -> Reply {
    if request.wire.kind == peer.wire().kind {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#,
            request.id().as_str(),
            peer.opening().as_str()
        );
        return Reply { body: body.into(), kind: ReplyKind::Result };
    }
    let opening = peer.opening().value();
    let mut capabilities = json!({});
    for kind in ["tools", "prompts", "resources", "completions", "logging"] {
        let Some(offered) = opening["capabilities"].get(kind) else { continue };
        // What else there is in them belongs to one era.
        capabilities[kind] = json!({});
        for what in ["listChanged", "subscribe"] {
            if offered[what] == true {
                capabilities[kind][what] = json!(true);
            }
        }
    }
    let mut members = json!({"capabilities": capabilities});
    if let Some(instructions) = opening.get("instructions") {
        members["instructions"] = instructions.clone();
    }
    let server = peer.server().map_or_else(|| json!({"name": "unknown", "version": "0"}), Raw::value);
    match request.wire.kind {
        Kind::Modern => {
            members["supportedVersions"] = json!([MODERN]);
            members["resultType"] = json!("complete");
            members["ttlMs"] = json!(0);
            members["cacheScope"] = json!("private");
            members["_meta"] = json!({META_SERVER: server});
        }
        Kind::Legacy => {
            members["protocolVersion"] = json!(request.wire.version);
            members["serverInfo"] = server;
        }
    }
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{members}}}"#, request.id().as_str());
    Reply { body: body.into(), kind: ReplyKind::Result }
}

/// Whether a request opens a stream of changes rather than asking for one answer.
pub fn listens(request: &Request) -> bool {
    request.method() == "subscriptions/listen"
}

/// Tells that the tools changed: on a modern caller's stream of changes, or to a session (`None`).
pub fn tools_changed(listener: Option<&Request>) -> Bytes {
    match listener {
        Some(request) => tagged(request, "notifications/tools/list_changed", None),
        None => Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#),
    }
}

/// The result that ends a stream of changes in good order.
pub fn listening_ended(request: &Request) -> Bytes {
    let id = request.id();
    format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"resultType":"complete","_meta":{{"{META_SUBSCRIPTION}":{}}}}}}}"#,
        id.as_str(),
        id.as_str()
    )
    .into()
}

fn tagged(request: &Request, method: &str, filter: Option<serde_json::Value>) -> Bytes {
    let filter = filter.map_or_else(String::new, |filter| format!(r#","notifications":{filter}"#));
    format!(
        r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"_meta":{{"{META_SUBSCRIPTION}":{}}}{filter}}}}}"#,
        request.id().as_str()
    )
    .into()
}

/// Checks the `Mcp-Param-*` headers of a request that stands alone against the arguments they repeat
/// (2026-07-28, basic/transports); gives the refusal where they differ.
pub fn check_parameters(request: &Request, annotated: &[(Arc<str>, Arc<str>)]) -> Option<Reply> {
    if request.wire.kind == Kind::Legacy || request.no_era || annotated.is_empty() {
        return None;
    }
    let arguments = request.arguments();
    let members = Members::parse(arguments.as_ref().map_or("{}", Raw::as_str)).unwrap_or_default();
    annotated.iter().find_map(|(property, header)| {
        let name = format!("mcp-param-{header}").to_lowercase();
        let found =
            request.parameters.iter().find(|(sent, _)| *sent == name).map(|(_, value)| value.as_str());
        let value = members.get(property).filter(|value| *value != "null");
        let wanted = value.map(|value| members.string(property).unwrap_or(Cow::Borrowed(value)));
        let same = match (found.map(header_text), &wanted) {
            (None, None) => true,
            (Some(Some(found)), Some(wanted)) => found == *wanted || same_number(&found, wanted),
            _ => false,
        };
        if same {
            return None;
        }
        let text = format!("the header Mcp-Param-{header} does not say what the argument {property:?} says");
        Some(error_reply(&request.id(), HEADER_MISMATCH, &text))
    })
}

fn same_number(a: &str, b: &str) -> bool {
    matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a.to_bits() == b.to_bits())
}

/// The id of the request that a `notifications/cancelled` takes back.
pub fn cancelled(message: &Message) -> Option<Raw> {
    if message.method() != Some("notifications/cancelled") {
        return None;
    }
    let params = message.params()?;
    let members = Members::parse(params.as_str()).ok()?;
    Some(Raw::part(params.bytes(), members.get("requestId")?))
}

/// Whether a notification of a client ends its opening, which Seawall does towards upstreams itself.
pub fn opened(message: &Message) -> bool {
    message.method() == Some("notifications/initialized")
}

/// Whether a session's request begins or ends a subscription to a resource.
pub fn subscribes(request: &Request) -> bool {
    matches!(request.method(), "resources/subscribe" | "resources/unsubscribe")
}

/// The level that a session's `logging/setLevel` asks for, as JSON.
pub fn log_level(request: &Request) -> Option<String> {
    let params = request.message.params().filter(|_| request.method() == "logging/setLevel")?;
    Some(Members::parse(params.as_str()).ok()?.get("level")?.to_owned())
}

/// How far a notification of progress says that its call is.
pub fn progress(notification: &Bytes) -> Option<f64> {
    let message = Message::parse(notification.clone()).ok()?;
    Members::parse(message.params()?.as_str()).ok()?.get("progress")?.parse().ok()
}

/// Progress that tells no more than that a request is still being worked on, with its own token.
pub fn still_there(request: &Request, progress: f64, message: Option<&str>) -> Option<Bytes> {
    let token =
        std::str::from_utf8(&request.message.body()[request.progress_token.clone()?]).ok()?.to_owned();
    let message = message.map_or_else(String::new, |message| format!(r#","message":{}"#, json!(message)));
    Some(
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{}{message}}}}}"#,
            json!(progress)
        )
        .into(),
    )
}

/// The empty answer to a session's `ping`.
pub fn pong(request: &Request) -> Reply {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, request.id().as_str());
    Reply { body: body.into(), kind: ReplyKind::Result }
}

/// The request of a command-line client: one call that stands alone, and the headers that go with it.
pub fn client_request(method: &str, params: &serde_json::Value) -> (Bytes, Vec<(Cow<'static, str>, String)>) {
    let request = Request::own(method, params, Wire::own(), Face::own());
    let mut headers = vec![
        (Cow::Borrowed("mcp-protocol-version"), MODERN.to_owned()),
        (Cow::Borrowed("mcp-method"), method.to_owned()),
    ];
    if let Some(subject) = request.subject() {
        headers.push((Cow::Borrowed("mcp-name"), subject.to_string()));
    }
    (request.message().body().clone(), headers)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
