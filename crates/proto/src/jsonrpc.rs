//! JSON-RPC messages as spans over the bytes they came in.
//!
//! A [`Message`] owns its body and remembers where the members it read lie, so that an edit (a new id, a plain
//! tool name) replaces exactly those bytes and leaves every other one as it came. Members that Seawall reads may
//! not occur twice in their object: another parser might pick the other one.

use bytes::Bytes;
use serde::de::IgnoredAny;
use smallvec::SmallVec;
use std::{borrow::Cow, fmt, ops::Range};

/// Deepest nesting accepted in one message, in objects and arrays.
pub const MAX_DEPTH: usize = 128;

/// Most members accepted in one of the objects that are read here.
const MAX_MEMBERS: usize = 256;

/// Why some bytes are not a JSON-RPC message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or JSON cut short.
    #[error("not valid JSON: {0}")]
    Syntax(String),
    /// JSON, but not a single JSON-RPC 2.0 request, notification or response.
    #[error("not a JSON-RPC 2.0 message: {0}")]
    Shape(&'static str),
    /// An object that Seawall reads has the same member twice.
    #[error("member `{0}` occurs twice")]
    Twice(String),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Deep,
}

/// The text of one JSON value, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Raw(Bytes);

impl Raw {
    /// A value that was read by a JSON parser as a part of `body`.
    pub fn part(body: &Bytes, value: &str) -> Self {
        Self(body.slice_ref(value.as_bytes()))
    }

    /// Parses `text` as one JSON value.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: Bytes) -> Result<Self, Malformed> {
        check(&text)?;
        Ok(Self(text))
    }

    /// Serialises `value`.
    pub fn of(value: &serde_json::Value) -> Self {
        Self(Bytes::from(value.to_string()))
    }

    /// The value's text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a JSON parser accepted it, so it is UTF-8")
    }

    /// The value's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The string it holds, when it is one.
    pub fn string(&self) -> Option<Cow<'_, str>> {
        string(self.as_str())
    }

    /// The value as a tree; big integers lose digits here, so it is never what is passed on.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0).unwrap_or(serde_json::Value::Null)
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The string that a part of accepted JSON holds, when it is one.
fn string(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(text).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Whether a text is one JSON value.
fn check(text: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(text).map_err(|error| Malformed::Syntax(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| Malformed::Syntax(error.to_string()))?;
    Ok(text)
}

/// Where a part lies in a body, in bytes.
pub(crate) type Span = Range<usize>;

/// Where `part` lies in `body`, which it was borrowed from.
pub(crate) fn span(body: &[u8], part: &str) -> Span {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an id, and wants a response.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// One JSON-RPC message: its bytes, and where its members lie in them.
#[derive(Clone)]
pub struct Message {
    body: Bytes,
    id: Option<Span>,
    method: Option<Box<str>>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
}

impl Message {
    /// Reads the envelope of one message. Batches (2025-03-26 only) are refused.
    ///
    /// # Errors
    /// When the bytes are not one well-formed message within the limits.
    #[expect(clippy::needless_pass_by_value, reason = "the message keeps its bytes")]
    pub fn parse(body: Bytes) -> Result<Self, Malformed> {
        let members = Parts::find(&body)?.members;
        Self::of(&body, &members)
    }

    /// The message whose members were found in `body`.
    ///
    /// # Errors
    /// When they are not those of a message.
    pub(crate) fn of(body: &Bytes, members: &Members<'_>) -> Result<Self, Malformed> {
        let at = |name| members.get(name).map(|value| span(body, value));
        let method = match members.get("method") {
            None => None,
            Some(value) => Some(string(value).ok_or(Malformed::Shape("`method` is not a string"))?.into()),
        };
        if members.get("jsonrpc").is_none_or(|version| version != "\"2.0\"") {
            return Err(Malformed::Shape("`jsonrpc` is not \"2.0\""));
        }
        let id = members.get("id").filter(|id| *id != "null");
        if id.is_some_and(|id| !id.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))) {
            return Err(Malformed::Shape("`id` is neither a string nor a number"));
        }
        let params = members.get("params");
        if params.is_some_and(|params| !params.starts_with('{')) {
            return Err(Malformed::Shape("`params` is not an object"));
        }
        let message = Self {
            id: id.map(|id| span(body, id)),
            params: at("params"),
            result: at("result"),
            error: at("error"),
            method,
            body: body.clone(),
        };
        let halves = usize::from(message.result.is_some()) + usize::from(message.error.is_some());
        match (&message.method, halves) {
            (Some(_), 0) => {}
            (None, 1) => {}
            (Some(_), _) => return Err(Malformed::Shape("it is a request and a response at once")),
            (None, 0) => return Err(Malformed::Shape("it has no `method`, `result` or `error`")),
            (None, _) => return Err(Malformed::Shape("it has a `result` and an `error`")),
        }
        Ok(message)
    }

    /// What the message is.
    pub fn kind(&self) -> Kind {
        match (&self.method, &self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) => Kind::Response,
        }
    }

    /// The whole message as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The id, never null.
    pub fn id(&self) -> Option<Raw> {
        self.part(self.id.as_ref())
    }

    /// The id where it is one that Seawall minted.
    pub fn minted_id(&self) -> Option<u64> {
        std::str::from_utf8(&self.body[self.id.clone()?]).ok()?.parse().ok()
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The parameters, always an object.
    pub fn params(&self) -> Option<Raw> {
        self.part(self.params.as_ref())
    }

    /// The result of a response.
    pub fn result(&self) -> Option<Raw> {
        self.part(self.result.as_ref())
    }

    /// The error of a response.
    pub fn error(&self) -> Option<Raw> {
        self.part(self.error.as_ref())
    }

    /// The error's code, when it has one.
    pub fn error_code(&self) -> Option<i64> {
        let error = self.error.clone()?;
        Members::parse(std::str::from_utf8(&self.body[error]).ok()?).ok()?.get("code")?.parse().ok()
    }

    /// The same message with another id; every other byte as it came.
    pub fn with_id(&self, id: &str) -> Bytes {
        match &self.id {
            Some(span) => splice(&self.body, [(span.clone(), Cow::Borrowed(id))]),
            None => self.body.clone(),
        }
    }

    /// The same message with other parameters; every other byte as it came.
    pub fn with_params(&self, params: &str) -> Bytes {
        match &self.params {
            Some(span) => splice(&self.body, [(span.clone(), Cow::Borrowed(params))]),
            None => self.body.clone(),
        }
    }

    /// The same response with another id and, where given, another result.
    pub fn answering(&self, id: &str, result: Option<String>) -> Bytes {
        let mut edits: SmallVec<[(Span, Cow<'_, str>); 2]> = SmallVec::new();
        match &self.id {
            Some(span) => edits.push((span.clone(), Cow::Borrowed(id))),
            // An upstream that could not read the request has no id to answer to; its caller knows which it was.
            None => {
                let error = self.error().map_or_else(String::new, |error| error.as_str().to_owned());
                return format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into();
            }
        }
        if let (Some(span), Some(result)) = (&self.result, result) {
            edits.push((span.clone(), Cow::Owned(result)));
        }
        splice(&self.body, edits)
    }

    /// The same error response with another id and code.
    pub(crate) fn answering_error(&self, id: &str, code: i64) -> Bytes {
        let (Some(at), Some(error)) = (&self.id, &self.error) else { return self.answering(id, None) };
        let mut edits: SmallVec<[(Span, Cow<'_, str>); 2]> = SmallVec::new();
        edits.push((at.clone(), Cow::Borrowed(id)));
        let old = std::str::from_utf8(&self.body[error.clone()]).ok();
        let old = old.and_then(|text| Members::parse(text).ok()?.get("code"));
        if let Some(old) = old.filter(|old| old.parse() != Ok(code)) {
            edits.push((span(&self.body, old), Cow::Owned(code.to_string())));
        }
        splice(&self.body, edits)
    }

    pub(crate) fn id_span(&self) -> Option<Span> {
        self.id.clone()
    }

    pub(crate) fn params_span(&self) -> Option<Span> {
        self.params.clone()
    }

    /// A value inside the message that a parser has found there.
    pub(crate) fn slice(&self, at: Span) -> Raw {
        Raw(self.body.slice(at))
    }

    fn part(&self, span: Option<&Span>) -> Option<Raw> {
        span.map(|span| Raw(self.body.slice(span.clone())))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("method", &self.method).field("bytes", &self.body.len()).finish()
    }
}

/// Replaces parts of `body`, which may come in any order and must not overlap.
pub(crate) fn splice<'a>(body: &Bytes, edits: impl IntoIterator<Item = (Span, Cow<'a, str>)>) -> Bytes {
    let mut edits: SmallVec<[(Span, Cow<'a, str>); 6]> = edits.into_iter().collect();
    if edits.is_empty() {
        return body.clone();
    }
    edits.sort_by_key(|(span, _)| span.start);
    let grown: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + grown);
    let mut done = 0;
    for (span, text) in edits {
        out.extend_from_slice(&body[done..span.start]);
        out.extend_from_slice(text.as_bytes());
        done = span.end;
    }
    out.extend_from_slice(&body[done..]);
    Bytes::from(out)
}

/// Refuses what nests deeper than [`MAX_DEPTH`].
fn check_depth(body: &[u8]) -> Result<(), Malformed> {
    // A message with few brackets cannot be deep; counting them in bytes is one pass the compiler makes wide.
    let count = |part: &[u8]| part.iter().map(|byte| u8::from(matches!(byte, b'{' | b'['))).sum::<u8>();
    let opening: usize = body.chunks(usize::from(u8::MAX)).map(|part| usize::from(count(part))).sum();
    if opening <= MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Malformed::Deep);
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The members of a message, and of those objects in it that say what a request is, found in one pass.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// Of the message.
    pub(crate) members: Members<'a>,
    /// Of its `params`; none where those are no object.
    pub(crate) params: Members<'a>,
    /// Of the `_meta` in them; none where that is no object.
    pub(crate) meta: Members<'a>,
}

impl<'a> Parts<'a> {
    /// # Errors
    /// When the bytes are not JSON within the limits, or one of the objects has a member twice.
    pub(crate) fn find(body: &'a [u8]) -> Result<Self, Malformed> {
        check_depth(body)?;
        let mut inner = Vec::with_capacity(2);
        let members = Scan { text: check(body)?, at: 0 }.object(&["params", "_meta"], &mut inner)?;
        let params = inner.pop().unwrap_or_default();
        Ok(Self { members, params, meta: inner.pop().unwrap_or_default() })
    }
}

/// The members of one JSON object in their order, their values as text.
#[derive(Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Members<'a> {
    /// Finds the members of one object. `text` is JSON that a parser has accepted, as every part of a [`Message`]
    /// and every [`Raw`] is; nothing is checked again, so what is found in other text is without meaning.
    ///
    /// # Errors
    /// When `text` is not an object, or has a member twice.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        Scan { text, at: 0 }.object(&[], &mut Vec::new())
    }

    /// The text of a member's value.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The string of a member.
    pub fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.get(name)?)
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    /// Writes the object again with some members set (`Some`) or left out (`None`); the others keep their text
    /// and order, and what was not there comes last.
    pub fn edited(&self, edits: &[(&str, Option<&str>)]) -> String {
        let mut out = String::from("{");
        let mut put = |name: &str, value: &str| {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&serde_json::Value::from(name).to_string());
            out.push(':');
            out.push_str(value);
        };
        for (name, value) in self.iter() {
            match edits.iter().find(|(edited, _)| *edited == name) {
                None => put(name, value),
                Some((_, Some(value))) => put(name, value),
                Some((_, None)) => {}
            }
        }
        for (name, value) in edits {
            if let (None, Some(value)) = (self.get(name), value) {
                put(name, value);
            }
        }
        out.push('}');
        out
    }
}

/// A place in JSON that a parser has accepted.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves behind white space and `separator`.
    fn skip(&mut self, separator: u8) {
        while self.peek().is_some_and(|byte| byte == separator || byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// The members of the object at the place, which moves behind it. Where a member has the first name of `path`
    /// and is an object, its members go to `inner`, behind those of the member in it that has the next name.
    fn object(&mut self, path: &[&str], inner: &mut Vec<Members<'a>>) -> Result<Members<'a>, Malformed> {
        self.skip(b' ');
        if self.peek() != Some(b'{') {
            return Err(Malformed::Shape("it is not an object"));
        }
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, &'a str)> = Vec::with_capacity(6);
        loop {
            self.skip(b',');
            if self.peek() != Some(b'"') {
                break;
            }
            let name = self.name()?;
            if members.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Malformed::Twice(name.into_owned()));
            }
            if members.len() == MAX_MEMBERS {
                return Err(Malformed::Shape("an object has too many members"));
            }
            self.skip(b':');
            let start = self.at;
            match path {
                [first, rest @ ..] if name == *first && self.peek() == Some(b'{') => {
                    let found = self.object(rest, inner)?;
                    inner.push(found);
                }
                _ => self.value(),
            }
            members.push((name, &self.text[start..self.at]));
        }
        self.at = (self.at + 1).min(self.text.len());
        Ok(Members(members))
    }

    /// The name of the member at the place, which moves behind it.
    fn name(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let start = self.at;
        let plain = self.string();
        let text = &self.text[start..self.at];
        match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(name) if plain => Ok(Cow::Borrowed(name)),
            _ => string(text).ok_or(Malformed::Shape("the name of a member is no text")),
        }
    }

    /// Moves behind the value at the place.
    fn value(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Moves behind the string at the place; says whether it is free of escapes.
    fn string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let (mut at, mut plain) = (self.at + 1, true);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    at += 1;
                }
                _ => {}
            }
        }
        self.at = at.min(bytes.len());
        plain
    }
}

#[cfg(test)]
#[path = "jsonrpc_tests.rs"]
mod tests;
