//! JSON-RPC messages as spans over the bytes they came in.
//!
//! A [`Message`] owns its body and remembers where the members it read lie, so that an edit (a new id, a plain
//! tool name) replaces exactly those bytes and leaves every other one as it came. Members that Seawall reads may
//! not occur twice in their object: another parser might pick the other one.

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
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
    pub fn part(body: &Bytes, value: &RawValue) -> Self {
        Self(body.slice_ref(value.get().as_bytes()))
    }

    /// Parses `text` as one JSON value.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(text: Bytes) -> Result<Self, Malformed> {
        serde_json::from_slice::<&RawValue>(&text).map_err(|error| Malformed::Syntax(error.to_string()))?;
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

/// The string a JSON text holds, when it is one.
fn string(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Key<'_>>(text).ok().map(|key| key.0)
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
    pub fn parse(body: Bytes) -> Result<Self, Malformed> {
        check_depth(&body)?;
        let text = std::str::from_utf8(&body).map_err(|error| Malformed::Syntax(error.to_string()))?;
        let members = Members::parse(text)?;
        let at = |name| members.get(name).map(|value| span(&body, value.get()));
        let method = match members.get("method") {
            None => None,
            Some(value) => {
                Some(string(value.get()).ok_or(Malformed::Shape("`method` is not a string"))?.into())
            }
        };
        if members.get("jsonrpc").is_none_or(|version| version.get() != "\"2.0\"") {
            return Err(Malformed::Shape("`jsonrpc` is not \"2.0\""));
        }
        let id = members.get("id").filter(|id| id.get() != "null");
        if id.is_some_and(|id| !id.get().starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'))) {
            return Err(Malformed::Shape("`id` is neither a string nor a number"));
        }
        let params = members.get("params");
        if params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(Malformed::Shape("`params` is not an object"));
        }
        let message = Self {
            id: id.map(|id| span(&body, id.get())),
            params: at("params"),
            result: at("result"),
            error: at("error"),
            method,
            body: Bytes::new(),
        };
        let halves = usize::from(message.result.is_some()) + usize::from(message.error.is_some());
        match (&message.method, halves) {
            (Some(_), 0) => {}
            (None, 1) => {}
            (Some(_), _) => return Err(Malformed::Shape("it is a request and a response at once")),
            (None, 0) => return Err(Malformed::Shape("it has no `method`, `result` or `error`")),
            (None, _) => return Err(Malformed::Shape("it has a `result` and an `error`")),
        }
        Ok(Self { body, ..message })
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
        Members::parse(std::str::from_utf8(&self.body[error]).ok()?).ok()?.get("code")?.get().parse().ok()
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
    // A message with few brackets cannot be deep; counting them is one pass the compiler makes wide.
    let opening = body.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
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

/// The members of one JSON object in their order, their values unread.
#[derive(Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads the members of one object.
    ///
    /// # Errors
    /// When `text` is not one object, or has a member twice.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let members: Self =
            serde_json::from_str(text).map_err(|error| Malformed::Syntax(error.to_string()))?;
        for (index, (name, _)) in members.0.iter().enumerate() {
            if members.0[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Malformed::Twice(name.clone().into_owned()));
            }
        }
        Ok(members)
    }

    /// The value of a member.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The string of a member.
    pub fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.get(name)?.get())
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
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
                None => put(name, value.get()),
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

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(6);
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(serde::de::Error::custom("an object with too many members"));
                    }
                    members.push((key.0, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string borrowed from the text where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
#[path = "jsonrpc_tests.rs"]
mod tests;
