//! One caller's request as the call path sees it.

use crate::{
    era::{Face, Wire},
    jsonrpc::{Malformed, Members, Message, Raw, Span, span},
};
use std::{borrow::Cow, sync::Arc};

/// A request of either era: the caller's message, and where in it lies what routing and admission need.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) message: Message,
    pub(crate) wire: Wire,
    pub(crate) face: Arc<Face>,
    /// Where the name, URI or task id lies that the request is about.
    pub(crate) subject: Option<Span>,
    subject_text: Option<Arc<str>>,
    arguments: Option<Span>,
    pub(crate) meta: Option<Span>,
    pub(crate) progress_token: Option<Span>,
    /// Whether its parameters are what it is about and with which arguments, and nothing else.
    plain: bool,
    timeout_ms: Option<u64>,
    conversation: Option<Arc<str>>,
    idempotency_key: Option<Arc<str>>,
    /// The level of log messages that its session asked for, as JSON.
    pub(crate) log_level: Option<Arc<str>>,
    /// `Mcp-Param-*` headers as the caller sent them; only a caller of the modern era over HTTP has any.
    pub(crate) parameters: Vec<(String, String)>,
    /// Its caller speaks no era: headers are made for it, and a result goes back as the upstream said it.
    pub(crate) no_era: bool,
}

/// `_meta` of a request that bounds how long its caller waits, in milliseconds.
pub const META_TIMEOUT: &str = "seawall/timeout_ms";
/// `_meta` of a request that names the conversation it belongs to.
pub const META_SESSION: &str = "seawall/session";
/// `_meta` of a request that names a key under which its caller may repeat it.
pub const META_IDEMPOTENCY: &str = "seawall/idempotency_key";

impl Request {
    /// Reads what a request is about.
    ///
    /// # Errors
    /// When the parameters or their `_meta` have a member twice, or have the wrong type.
    pub fn read(message: Message, wire: Wire, face: Arc<Face>) -> Result<Self, Malformed> {
        let text = message.params();
        let params = Members::parse(text.as_ref().map_or("{}", Raw::as_str))?;
        let meta = match params.get("_meta") {
            Some(meta) if !meta.starts_with('{') => {
                return Err(Malformed::Shape("`_meta` is not an object"));
            }
            Some(meta) => Some(Members::parse(meta)?),
            None => None,
        };
        Ok(Self::of(message, &params, meta.as_ref(), wire, face))
    }

    /// A request whose parameters and `_meta` are read already; both were borrowed from the message.
    pub(crate) fn of(
        message: Message,
        params: &Members<'_>,
        meta: Option<&Members<'_>>,
        wire: Wire,
        face: Arc<Face>,
    ) -> Self {
        let body = message.body();
        let at = |value: &str| span(body, value);
        let member = subject_member(message.method().unwrap_or_default());
        Self {
            wire,
            face,
            subject: member.and_then(|member| params.get(member)).map(at),
            subject_text: member.and_then(|member| params.string(member)).map(Arc::from),
            arguments: params.get("arguments").map(at),
            meta: params.get("_meta").filter(|_| meta.is_some()).map(at),
            progress_token: meta.and_then(|meta| meta.get("progressToken")).map(at),
            plain: params.iter().all(|(name, _)| matches!(name, "name" | "arguments" | "_meta")),
            timeout_ms: meta.and_then(|meta| meta.get(META_TIMEOUT)).and_then(|value| value.parse().ok()),
            conversation: meta.and_then(|meta| meta.string(META_SESSION)).map(Arc::from),
            idempotency_key: meta.and_then(idempotency_key),
            log_level: None,
            parameters: Vec::new(),
            no_era: false,
            message,
        }
    }

    /// A request of Seawall's own, such as the list that fills the catalogue, with the `_meta` its era wants.
    pub fn own(method: &str, params: &serde_json::Value, wire: Wire, face: Arc<Face>) -> Self {
        let mut params = params.clone();
        if let Some(serde_json::Value::Object(meta)) = face.meta_for(&wire) {
            for (name, value) in meta {
                params["_meta"][name] = value;
            }
        }
        let body =
            serde_json::json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).to_string();
        let message = Message::parse(body.into()).expect("it was just written");
        Self::read(message, wire, face).expect("it was just written")
    }

    /// The same request, made for a caller that speaks no era of the protocol.
    #[must_use]
    pub(crate) fn of_no_era(self) -> Self {
        Self { no_era: true, ..self }
    }

    /// The method.
    pub fn method(&self) -> &str {
        self.message.method().unwrap_or_default()
    }

    /// The caller's id for it.
    pub fn id(&self) -> Raw {
        self.message.id().unwrap_or_else(|| Raw::of(&serde_json::Value::Null))
    }

    /// What it is about: the tool's or prompt's name, the resource's URI, or the task's id.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject_text.as_ref()
    }

    /// The tool's arguments as they came.
    pub fn arguments(&self) -> Option<Raw> {
        self.arguments.clone().map(|span| self.message.slice(span))
    }

    /// Whether it says nothing but what it is about and with which arguments, besides its `_meta`.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether the caller wants to hear of progress.
    pub fn wants_progress(&self) -> bool {
        self.progress_token.is_some()
    }

    /// Milliseconds the caller will wait, where it says so in `_meta`.
    pub fn timeout_ms(&self) -> Option<u64> {
        self.timeout_ms
    }

    /// The conversation the request names in `_meta`.
    pub fn conversation(&self) -> Option<&Arc<str>> {
        self.conversation.as_ref()
    }

    /// The key that the request names in `_meta`, under which its caller may repeat it; whether it can be one is not
    /// checked.
    pub fn idempotency_key(&self) -> Option<&Arc<str>> {
        self.idempotency_key.as_ref()
    }

    /// The words that results for it are written in: the version of the protocol, or `rest`. Results in the same words
    /// differ in nothing but what they are addressed with.
    pub fn words(&self) -> &'static str {
        if self.no_era { "rest" } else { self.wire.version() }
    }

    /// What the caller speaks.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Who the caller says it is, and what it can do.
    pub fn face(&self) -> &Arc<Face> {
        &self.face
    }

    /// Size of the whole message, in bytes.
    pub fn size(&self) -> usize {
        self.message.body().len()
    }

    /// The caller's message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Says which log messages its session wants: the JSON text of the level.
    #[must_use]
    pub fn with_log_level(mut self, level: Option<Arc<str>>) -> Self {
        self.log_level = level;
        self
    }

    /// Keeps the `Mcp-Param-*` headers that came with it.
    #[must_use]
    pub fn with_parameters(mut self, parameters: Vec<(String, String)>) -> Self {
        self.parameters = parameters;
        self
    }
}

/// A key that is no string is its own text: whoever gives one means it, and must not find it overlooked.
fn idempotency_key(meta: &Members<'_>) -> Option<Arc<str>> {
    let text = meta.get(META_IDEMPOTENCY).filter(|text| *text != "null")?;
    Some(Arc::from(&*meta.string(META_IDEMPOTENCY).unwrap_or(Cow::Borrowed(text))))
}

/// The member of the parameters that says what a request of this method is about; it is what `Mcp-Name` repeats.
pub(crate) fn subject_member(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_overlooked() {
        for (meta, key) in [
            (r#"{"seawall/idempotency_key":"a\u0062"}"#, Some("ab")),
            (r#"{"seawall/idempotency_key":""}"#, Some("")),
            (r#"{"seawall/idempotency_key":7}"#, Some("7")),
            (r#"{"seawall/idempotency_key":[1, 2]}"#, Some("[1, 2]")),
            (r#"{"seawall/idempotency_key":null}"#, None),
            ("{}", None),
        ] {
            let text =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{meta}}}}}"#);
            let message = Message::parse(text.into()).unwrap();
            let request = Request::read(message, Wire::own(), Face::own()).unwrap();
            assert_eq!(request.idempotency_key().map(|key| &**key), key, "{meta}");
        }
    }
}
