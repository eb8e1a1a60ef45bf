//! An upstream that is open: how a request is put to it, and what its messages mean to the caller.

use super::{
    Kind, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, META_SERVER, META_SUBSCRIPTION, META_VERSION, Wire,
    cross, opening::modern_meta,
};
use crate::{
    event::{Reply, ReplyKind},
    jsonrpc::{Members, Message, Raw, Span, span, splice},
    request::{Request, subject_member},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use smallvec::SmallVec;
use std::{borrow::Cow, sync::Arc};

/// The older era's error for a resource that is not there; the modern one has [`INVALID_PARAMS`] for it.
const NO_RESOURCE: i64 = -32002;
const INVALID_PARAMS: i64 = -32602;

/// What an upstream's instance speaks and offers, as its opening told.
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) wire: Wire,
    opening: Raw,
    list_changes: bool,
    server: Option<Raw>,
}

/// A request as it leaves for an upstream.
#[derive(Debug)]
pub struct Outgoing {
    /// The JSON-RPC message.
    pub body: Bytes,
    /// HTTP headers that go with it besides [`Peer::standing_headers`]; names in lower case.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

/// Ids minted for a channel that several callers share.
#[derive(Clone, Copy, Debug)]
pub struct Minted {
    /// The request's id, which is its progress token too.
    pub id: u64,
}

/// What a message of an upstream is, once it is read.
#[derive(Debug)]
pub enum Incoming {
    /// The response to the request with this minted id, or to one whose id was kept.
    Response {
        /// The minted id, where the response has one that could be.
        id: Option<u64>,
    },
    /// A notification about one call: the minted id its progress token or subscription names.
    About {
        /// The minted id.
        id: u64,
        /// What it is about.
        topic: Topic,
    },
    /// A notification about no call in particular.
    Broadcast(Topic),
    /// A request to the client.
    Ask,
    /// `ping`, which is answered on the spot.
    Ping,
}

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// How far a call is.
    Progress,
    /// A line of log.
    Log,
    /// The tools changed.
    Tools,
    /// Anything else.
    Other,
}

impl Peer {
    pub(super) fn new(wire: Wire, opening: Raw, value: &serde_json::Value) -> Self {
        let offered = &value["capabilities"];
        let list_changes =
            ["tools", "prompts", "resources"].iter().any(|kind| offered[kind]["listChanged"] == true)
                || offered["resources"]["subscribe"] == true;
        let server = match wire.kind {
            Kind::Legacy => value.get("serverInfo"),
            Kind::Modern => value["_meta"].get(META_SERVER),
        };
        Self { wire, server: server.map(Raw::of), list_changes, opening }
    }

    /// Reads an opening that was kept, as [`Peer::opening`] and [`Wire::version`] gave it.
    pub fn recall(version: &str, opening: Raw) -> Option<Self> {
        let kind = if version == super::MODERN { Kind::Modern } else { Kind::Legacy };
        let version = super::LEGACY.into_iter().chain([super::MODERN]).find(|known| *known == version)?;
        let value = opening.value();
        Some(Self::new(Wire { kind, version }, opening, &value))
    }

    /// What it speaks.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The result of `initialize` or `server/discover` as the upstream gave it.
    pub fn opening(&self) -> &Raw {
        &self.opening
    }

    /// The upstream's name and version for itself.
    pub fn server(&self) -> Option<&Raw> {
        self.server.as_ref()
    }

    /// Whether it tells when its lists or resources change.
    pub fn list_changes(&self) -> bool {
        self.list_changes
    }

    /// Whether it keeps a session that is opened, followed and ended, rather than requests that stand alone.
    pub fn has_session(&self) -> bool {
        self.wire.kind == Kind::Legacy
    }

    /// The notification that ends the opening, where the era has one.
    pub fn opened(&self) -> Option<Outgoing> {
        (self.wire.kind == Kind::Legacy).then(|| Outgoing {
            body: Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            headers: Vec::new(),
        })
    }

    /// The notification that takes a call back; `None` where closing its stream does.
    pub fn cancel(&self, id: u64, over_http: bool, reason: &str) -> Option<Outgoing> {
        if over_http && self.wire.kind == Kind::Modern {
            return None;
        }
        let params = serde_json::json!({"requestId": id, "reason": reason});
        let body =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#).into();
        Some(Outgoing { body, headers: Vec::new() })
    }

    /// The request that asks for changes of lists to be told, for an upstream that wants to be asked.
    /// `id` names the subscription.
    pub fn listen(&self, id: u64) -> Option<Outgoing> {
        if self.wire.kind != Kind::Modern || !self.list_changes {
            return None;
        }
        let meta = modern_meta(&super::Face::own());
        let filter = super::offer::told_lists(self);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"_meta":{meta},"notifications":{filter}}}}}"#
        );
        let headers = vec![(Cow::Borrowed("mcp-method"), Cow::Borrowed("subscriptions/listen"))];
        Some(Outgoing { body: body.into(), headers })
    }

    /// Headers of every HTTP message to it.
    pub fn standing_headers(&self) -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
        vec![(Cow::Borrowed("mcp-protocol-version"), Cow::Borrowed(self.wire.version))]
    }

    /// Headers that name the method and subject, where the era wants them.
    fn naming_headers(
        &self,
        method: &str,
        subject: Option<&str>,
    ) -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
        if self.wire.kind == Kind::Legacy {
            return Vec::new();
        }
        let mut headers = vec![(Cow::Borrowed("mcp-method"), Cow::Owned(method.to_owned()))];
        if let Some(subject) = subject {
            headers.push((Cow::Borrowed("mcp-name"), Cow::Owned(header_value(subject))));
        }
        headers
    }

    /// Puts a request into this upstream's words. `subject` is the name it knows the tool by; `minted` is set on
    /// channels that several callers share, elsewhere the caller's id and token go through. `parameters` are the
    /// `Mcp-Param-*` headers worked out for a caller that sent none itself.
    ///
    /// # Errors
    /// The JSON-RPC error for what cannot be said in this upstream's era.
    pub fn outgoing(
        &self,
        request: &Request,
        subject: Option<&str>,
        minted: Option<Minted>,
        parameters: Vec<(String, String)>,
    ) -> Result<Outgoing, Reply> {
        let message = request.message();
        let mut edits: SmallVec<[(Span, Cow<'_, str>); 6]> = SmallVec::new();
        if let (Some(minted), Some(at)) = (minted, message.id_span()) {
            edits.push((at, Cow::Owned(minted.id.to_string())));
        }
        if let (Some(subject), Some(at)) = (subject, request.subject.clone())
            && request.subject().is_some_and(|named| **named != *subject)
        {
            edits.push((at, Cow::Owned(serde_json::Value::from(subject).to_string())));
        }
        let token = minted.map(|minted| minted.id.to_string());
        if request.wire.kind == self.wire.kind {
            if let (Some(token), Some(at)) = (token, request.progress_token.clone()) {
                edits.push((at, Cow::Owned(token)));
            }
        } else {
            if self.wire.kind == Kind::Modern && matches!(request.method(), "ping" | "logging/setLevel") {
                // The modern era has neither: Seawall answers the one, and each request says the other itself.
                return Err(result_reply(&request.id(), "{}"));
            }
            if !crosses(request.method()) {
                return Err(self.untranslatable(request));
            }
            if self.wire.kind == Kind::Legacy
                && let Some(plain) = request.without_input()
            {
                return self.outgoing(&plain, subject, minted, parameters);
            }
            self.cross_meta(request, token.as_deref(), &mut edits);
        }
        let mut headers = self.naming_headers(
            request.method(),
            subject.or_else(|| request.subject().map(|subject| &**subject)),
        );
        if self.wire.kind == Kind::Modern {
            // A caller of this era has sent them itself, and they were checked.
            let has_sent = request.wire.kind == Kind::Modern && !request.no_era;
            let sent = if has_sent { request.parameters.clone() } else { parameters };
            headers.extend(sent.into_iter().map(|(name, value)| (Cow::Owned(name), Cow::Owned(value))));
        }
        Ok(Outgoing { body: splice(message.body(), edits), headers })
    }

    /// Rewrites `_meta` for the other era: the modern one's own keys come or go, the caller's others stay.
    fn cross_meta<'a>(
        &self,
        request: &'a Request,
        token: Option<&str>,
        edits: &mut SmallVec<[(Span, Cow<'a, str>); 6]>,
    ) {
        let body = request.message().body();
        let old = request.meta.clone().map_or("{}", |at| {
            std::str::from_utf8(&body[at]).expect("a JSON parser accepted it, so it is UTF-8")
        });
        let members = Members::parse(old).expect("it was read before");
        let token = token.filter(|_| request.wants_progress());
        let mut changes: Vec<(&str, Option<&str>)> = Vec::with_capacity(5);
        if let Some(token) = token {
            changes.push(("progressToken", Some(token)));
        }
        let version = format!("\"{}\"", self.wire.version);
        let able = cross::capabilities(&request.face, request.wire.version);
        match self.wire.kind {
            Kind::Modern => {
                changes.push((META_VERSION, Some(&version)));
                changes.push((META_CLIENT, Some(request.face.info.as_str())));
                changes.push((META_CAPABILITIES, Some(&able)));
                if let Some(level) = &request.log_level {
                    changes.push((META_LOG_LEVEL, Some(level)));
                }
            }
            Kind::Legacy => changes.extend(
                [META_VERSION, META_CLIENT, META_CAPABILITIES, META_LOG_LEVEL].map(|name| (name, None)),
            ),
        }
        let meta = members.edited(&changes);
        match (&request.meta, request.message().params_span()) {
            (Some(at), _) => edits.push((at.clone(), Cow::Owned(meta))),
            (None, Some(params)) => {
                // Right after the opening brace, so that no member's text is touched.
                let empty = body[params.start + 1..params.end - 1].iter().all(u8::is_ascii_whitespace);
                let comma = if empty { "" } else { "," };
                let at = params.start + 1..params.start + 1;
                edits.push((at, Cow::Owned(format!(r#""_meta":{meta}{comma}"#))));
            }
            (None, None) => {
                let end = body.iter().rposition(|byte| *byte == b'}').expect("a message is an object");
                edits.push((end..end, Cow::Owned(format!(r#","params":{{"_meta":{meta}}}"#))));
            }
        }
    }

    /// An upstream's response in the caller's words.
    pub fn reply(&self, request: &Request, response: &Message) -> Reply {
        let id = request.id();
        if let Some(code) = response.error_code() {
            if let Some(wanted) = self.page_wanted(request, response) {
                return wanted;
            }
            let crossed = self.crossed_code(request, code);
            return Reply {
                body: response.answering_error(id.as_str(), crossed),
                kind: ReplyKind::Error(crossed),
            };
        }
        let Some(result) = response.result() else {
            return Reply { body: response.answering(id.as_str(), None), kind: ReplyKind::Error(0) };
        };
        let Ok(members) = Members::parse(result.as_str()) else {
            return Reply { body: response.answering(id.as_str(), None), kind: ReplyKind::Result };
        };
        let kind = match (self.wire.kind, members.string("resultType").as_deref()) {
            (Kind::Modern, Some("input_required")) => ReplyKind::Ask,
            (Kind::Modern, Some("task")) => ReplyKind::Task,
            _ => ReplyKind::Result,
        };
        if request.no_era {
            return Reply { body: response.answering(id.as_str(), None), kind };
        }
        let text = as_text(&members);
        let text = text.as_deref().map(|text| ("content", Some(text)));
        let crossed = match (self.wire.kind, request.wire.kind) {
            (Kind::Legacy, Kind::Modern) => Some(to_modern(&members, request, self.server.as_ref(), text)),
            (Kind::Modern, Kind::Legacy) if kind == ReplyKind::Result => {
                Some(to_legacy(&members, request, text))
            }
            (Kind::Modern, Kind::Legacy) => return self.untranslatable(request),
            _ => resubscribed(request, &members, &id).or_else(|| text.map(|text| members.edited(&[text]))),
        };
        if crossed.is_none() && response.id().as_ref() == Some(&id) {
            return Reply { body: response.body().clone(), kind };
        }
        Reply { body: response.answering(id.as_str(), crossed), kind }
    }

    /// The code by which the caller's era tells an error of this upstream.
    fn crossed_code(&self, request: &Request, code: i64) -> i64 {
        match (self.wire.kind, request.wire.kind, code) {
            (Kind::Legacy, Kind::Modern, NO_RESOURCE) => INVALID_PARAMS,
            (Kind::Modern, Kind::Legacy, INVALID_PARAMS) if request.method() == "resources/read" => {
                NO_RESOURCE
            }
            _ => code,
        }
    }

    fn untranslatable(&self, request: &Request) -> Reply {
        let text = format!(
            "`{}` between a client that speaks MCP {} and an upstream that speaks MCP {} needs a translation that \
             Seawall does not do; use a client that speaks {}",
            request.method(),
            request.wire.version,
            self.wire.version,
            self.wire.version
        );
        error_reply(&request.id(), -32601, &text)
    }

    /// Whether it speaks the era of a request's caller.
    pub fn speaks_as(&self, request: &Request) -> bool {
        self.wire.kind == request.wire.kind
    }

    /// What a message of this upstream is.
    pub fn incoming(&self, message: &Message) -> Incoming {
        let Some(method) = message.method() else {
            return Incoming::Response { id: message.minted_id() };
        };
        if message.id().is_some() {
            return if method == "ping" { Incoming::Ping } else { Incoming::Ask };
        }
        let topic = match method {
            "notifications/progress" => Topic::Progress,
            "notifications/message" => Topic::Log,
            "notifications/tools/list_changed" => Topic::Tools,
            _ => Topic::Other,
        };
        match about(message, topic) {
            Some(id) => Incoming::About { id, topic },
            None => Incoming::Broadcast(topic),
        }
    }

    /// A notification about a call, with the caller's own progress token or subscription in place of the minted
    /// one. `None` where the caller did not ask for it, or could not read it.
    pub fn notification(&self, request: &Request, message: &Message, topic: Topic) -> Option<Bytes> {
        let caller = request.wire.kind;
        if topic == Topic::Log && caller == Kind::Modern && self.wire.kind == Kind::Legacy {
            cross::wants_log(request, message).then_some(())?;
        }
        if topic != Topic::Progress && topic != Topic::Log && caller != self.wire.kind {
            return None;
        }
        let mine = if topic == Topic::Progress {
            let at = request.progress_token.clone()?;
            std::str::from_utf8(&request.message().body()[at]).ok()?.to_owned()
        } else {
            request.id().as_str().to_owned()
        };
        Some(match about_span(message, topic) {
            Some(at) => splice(message.body(), [(at, Cow::Owned(mine))]),
            None => message.body().clone(),
        })
    }
}

/// The answer to an upstream's `ping`, or its refusal of another request.
pub fn answer_upstream(message: &Message, refusal: Option<&str>) -> Bytes {
    let id = message.id().unwrap_or_else(|| Raw::of(&serde_json::Value::Null));
    match refusal {
        None => format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.as_str()).into(),
        Some(why) => {
            let error = serde_json::json!({"code": -32601, "message": why});
            format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.as_str()).into()
        }
    }
}

/// A result of Seawall's own as a reply.
pub(crate) fn result_reply(id: &Raw, result: &str) -> Reply {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_str()).into();
    Reply { body, kind: ReplyKind::Result }
}

/// A JSON-RPC error of Seawall's own as a reply.
pub(crate) fn error_reply(id: &Raw, code: i64, message: &str) -> Reply {
    let error = serde_json::json!({"code": code, "message": message});
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.as_str()).into();
    Reply { body, kind: ReplyKind::Error(code) }
}

/// Requests that mean the same in both eras, but for `_meta` and what the results must carry.
fn crosses(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "tools/call"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "completion/complete"
    )
}

/// Whether results of this method say how long they may be kept.
pub(super) fn cacheable(method: &str) -> bool {
    matches!(
        method,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" | "resources/read"
    )
}

/// A member of a result with its new value, or to be left out.
type Edit<'a> = (&'a str, Option<&'a str>);

fn to_modern(
    members: &Members<'_>,
    request: &Request,
    server: Option<&Raw>,
    text: Option<Edit<'_>>,
) -> String {
    let mut edits: Vec<Edit<'_>> = Vec::with_capacity(5);
    edits.push(("resultType", Some("\"complete\"")));
    let tools = members.get("tools").filter(|_| request.method() == "tools/list");
    let tools = tools.and_then(|tools| cross::tools_for(&request.wire, tools));
    if let Some(tools) = &tools {
        edits.push(("tools", Some(tools)));
    }
    if cacheable(request.method()) {
        edits.push(("ttlMs", Some("0")));
        edits.push(("cacheScope", Some("\"private\"")));
    }
    let meta = server.map(|server| {
        let old = members.get("_meta").unwrap_or("{}");
        Members::parse(old).unwrap_or_default().edited(&[(META_SERVER, Some(server.as_str()))])
    });
    if let Some(meta) = &meta {
        edits.push(("_meta", Some(meta)));
    }
    edits.extend(text);
    members.edited(&edits)
}

fn to_legacy(members: &Members<'_>, request: &Request, text: Option<Edit<'_>>) -> String {
    let mut edits: Vec<Edit<'_>> = vec![("resultType", None), ("ttlMs", None), ("cacheScope", None)];
    edits.extend(text);
    // The older schemas allow an object only; the same facts are in `content`.
    if members.get("structuredContent").is_some_and(|content| !content.starts_with('{')) {
        edits.push(("structuredContent", None));
    }
    let tools = members.get("tools").filter(|_| request.method() == "tools/list");
    let tools = tools.and_then(|tools| cross::tools_for(&request.wire, tools));
    if let Some(tools) = &tools {
        edits.push(("tools", Some(tools)));
    }
    members.edited(&edits)
}

/// The result that ends a stream of changes names its subscription, which is the request's id: the caller's own.
fn resubscribed(request: &Request, members: &Members<'_>, id: &Raw) -> Option<String> {
    if request.method() != "subscriptions/listen" {
        return None;
    }
    let meta = Members::parse(members.get("_meta")?).ok()?;
    meta.get(META_SUBSCRIPTION)?;
    Some(members.edited(&[("_meta", Some(&meta.edited(&[(META_SUBSCRIPTION, Some(id.as_str()))])))]))
}

/// The `content` of a result whose facts are in `structuredContent` alone: some clients show their model only the one,
/// some only the other.
fn as_text(members: &Members<'_>) -> Option<String> {
    let structured = members.get("structuredContent")?;
    if members.get("content").is_some_and(|content| !content.trim_matches(['[', ']', ' ']).is_empty()) {
        return None;
    }
    Some(serde_json::json!([{"type": "text", "text": structured}]).to_string())
}

/// The minted id a notification names.
fn about(message: &Message, topic: Topic) -> Option<u64> {
    let at = about_span(message, topic)?;
    std::str::from_utf8(&message.body()[at]).ok()?.parse().ok()
}

/// Where a notification says what it is about: its progress token, or the subscription in its `_meta`.
fn about_span(message: &Message, topic: Topic) -> Option<Span> {
    let params = message.params_span()?;
    let text = std::str::from_utf8(&message.body()[params]).ok()?;
    let members = Members::parse(text).ok()?;
    let value = match topic {
        Topic::Progress => members.get("progressToken")?,
        _ => Members::parse(members.get("_meta")?).ok()?.get(META_SUBSCRIPTION)?,
    };
    Some(span(message.body(), value))
}

/// A text as a header's value: as it is where it is plain ASCII, else wrapped as the specification says (2026-07-28,
/// basic/transports).
pub fn header_value(text: &str) -> String {
    let plain = text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.trim() == text;
    let wrapped = text.starts_with("=?base64?") && text.ends_with("?=");
    if plain && !wrapped { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
}

/// What a header's value stands for; `None` where it is wrapped and its wrapping is broken.
pub(super) fn header_text(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    Some(Cow::Owned(String::from_utf8(STANDARD.decode(inner).ok()?).ok()?))
}

/// The `Mcp-Param-*` headers for a call with these arguments, for a caller that sent none.
pub fn parameter_headers(
    annotated: &[(Arc<str>, Arc<str>)],
    arguments: Option<&Raw>,
) -> Vec<(String, String)> {
    let Some(arguments) = arguments.filter(|_| !annotated.is_empty()) else { return Vec::new() };
    let Ok(members) = Members::parse(arguments.as_str()) else { return Vec::new() };
    annotated
        .iter()
        .filter_map(|(property, header)| {
            let value = members.get(property)?;
            let text = members.string(property).unwrap_or(Cow::Borrowed(value));
            (value != "null").then(|| (format!("mcp-param-{header}").to_lowercase(), header_value(&text)))
        })
        .collect()
}

/// The subject's member name, for a front door that must check a header against it.
pub(super) fn has_subject(method: &str) -> bool {
    subject_member(method).is_some()
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
