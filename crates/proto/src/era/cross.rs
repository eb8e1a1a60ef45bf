//! Questions between the eras. A legacy upstream asks in the middle of a call and waits; a modern one ends the call
//! with what it wants to know and is called again with the answers (2026-07-28, basic/patterns/mrtr). Each is put in
//! the other's words here; who waits for whom is the engine's business.

use super::{
    Face, Kind, LEGACY, META_LOG_LEVEL, META_SUBSCRIPTION, Wire,
    peer::{Outgoing, Peer, error_reply},
};
use crate::{
    event::{Answer, Reply, ReplyKind},
    jsonrpc::{Members, Message, Raw, span, splice},
    request::Request,
};
use bytes::Bytes;
use serde_json::{json, value::RawValue};
use std::{borrow::Cow, sync::Arc};

const ELICIT: &str = "elicitation/create";
const SAMPLE: &str = "sampling/createMessage";
const ROOTS: &str = "roots/list";
/// A legacy upstream's error that wants a page to be opened first.
const URL_WANTED: i64 = -32042;
/// Levels of log messages, from the least to the most grave.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What a modern upstream wants to know before it goes on.
#[derive(Debug)]
pub struct Input {
    /// The questions, each under the name its answer goes back by.
    pub questions: Vec<(String, Message)>,
    /// What has to go back with the answers.
    pub state: Option<Raw>,
}

/// What a modern caller gives when it calls again.
#[derive(Debug)]
pub struct Given {
    /// The state it was given with the questions.
    pub state: String,
    /// Its answers by the name of the question, each as the response it would have been.
    pub answers: Vec<(String, Message)>,
}

/// Methods whose calls may want input.
fn may_want_input(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

impl Face {
    /// Whether the client says that it can be asked this. Of questions that no revision knows, it need not say so.
    pub fn can_be_asked(&self, question: &Message) -> bool {
        let Ok(able) = Members::parse(self.capabilities.as_str()) else { return false };
        match question.method() {
            Some(ELICIT) => able.get("elicitation").is_some_and(|able| {
                let params = question.params();
                let params = params.as_ref().map_or("{}", Raw::as_str);
                let by_page = Members::parse(params)
                    .is_ok_and(|params| params.string("mode").as_deref() == Some("url"));
                !by_page || Members::parse(able).is_ok_and(|able| able.get("url").is_some())
            }),
            Some(SAMPLE) => able.get("sampling").is_some(),
            Some(ROOTS) => able.get("roots").is_some(),
            _ => true,
        }
    }
}

impl Peer {
    /// Whether a question of this upstream can be put to the caller of a request: the caller says that it can be
    /// asked this, and speaks the same era or one in which the question can be put.
    pub fn can_ask(&self, request: &Request, question: &Message) -> bool {
        if self.speaks_as(request) {
            return request.face.can_be_asked(question);
        }
        let known = matches!(question.method(), Some(ELICIT | SAMPLE | ROOTS));
        known
            && request.wire.kind == Kind::Modern
            && may_want_input(request.method())
            && request.face.can_be_asked(question)
    }

    /// The message that has a legacy upstream log, for a modern request that wants logs.
    pub fn log_request(&self, request: &Request) -> Option<Outgoing> {
        if self.speaks_as(request) || request.wire.kind == Kind::Legacy {
            return None;
        }
        let meta = std::str::from_utf8(&request.message.body()[request.meta.clone()?]).ok()?;
        Members::parse(meta).ok()?.get(META_LOG_LEVEL)?;
        let able = Members::parse(self.opening().as_str()).ok()?.get("capabilities")?;
        Members::parse(able).ok()?.get("logging")?;
        let body = br#"{"jsonrpc":"2.0","id":"seawall-logs","method":"logging/setLevel","params":{"level":"debug"}}"#;
        Some(Outgoing { body: Bytes::from_static(body), headers: Vec::new() })
    }

    /// What a modern upstream's response wants to know from a legacy caller; `None` for every other response.
    pub fn input(&self, request: &Request, response: &Message) -> Option<Input> {
        if self.wire.kind == Kind::Legacy || request.wire.kind == Kind::Modern {
            return None;
        }
        let result = response.result()?;
        let members = Members::parse(result.as_str()).ok()?;
        if members.string("resultType")? != "input_required" {
            return None;
        }
        let wanted = Members::parse(members.get("inputRequests").unwrap_or("{}")).unwrap_or_default();
        let questions = wanted.iter().filter_map(|(name, question)| {
            let question = Members::parse(question).ok()?;
            let method = question.string("method")?;
            let params = question.get("params").unwrap_or("{}");
            let params = if method == ELICIT { with_page_id(params, name) } else { params.to_owned() };
            let text = format!(r#"{{"jsonrpc":"2.0","id":0,"method":{},"params":{params}}}"#, json!(method));
            Some((name.to_owned(), Message::parse(text.into()).ok()?))
        });
        let state = members.get("requestState").map(|state| Raw::part(result.bytes(), state));
        Some(Input { questions: questions.collect(), state })
    }

    /// The result by which a legacy upstream's wish for a page to be opened is told to a modern caller.
    pub(super) fn page_wanted(&self, request: &Request, response: &Message) -> Option<Reply> {
        let error = response.error()?;
        if (self.wire.kind, request.wire.kind) != (Kind::Legacy, Kind::Modern)
            || response.error_code() != Some(URL_WANTED)
        {
            return None;
        }
        let error = error.value();
        let pages = error["data"]["elicitations"].as_array()?;
        let mut wanted = serde_json::Map::new();
        for (number, page) in pages.iter().enumerate() {
            let mut params = page.clone();
            let id = params.as_object_mut()?.remove("elicitationId");
            let name =
                id.as_ref().and_then(|id| id.as_str()).map_or_else(|| number.to_string(), str::to_owned);
            params["mode"] = json!("url");
            wanted.insert(name, json!({"method": ELICIT, "params": params}));
        }
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#,
            request.id().as_str(),
            json!({"resultType": "input_required", "inputRequests": wanted})
        );
        Some(Reply { body: body.into(), kind: ReplyKind::Ask })
    }
}

/// A question that opens a page names its elicitation in the older era.
fn with_page_id(params: &str, name: &str) -> String {
    let Ok(members) = Members::parse(params) else { return params.to_owned() };
    if members.string("mode").as_deref() != Some("url") || members.get("elicitationId").is_some() {
        return params.to_owned();
    }
    members.edited(&[("elicitationId", Some(&json!(name).to_string()))])
}

impl Request {
    /// The same request with answers to what its upstream wanted to know, by the name of each question.
    ///
    /// `None` where the message would be none that may be sent: nested too deeply, or with too many members.
    pub fn with_input(&self, answers: &[(String, Raw)], state: Option<&Raw>) -> Option<Self> {
        let answers: Vec<(&str, Option<&str>)> =
            answers.iter().map(|(name, answer)| (name.as_str(), Some(answer.as_str()))).collect();
        let answers = Members::default().edited(&answers);
        self.with_members(&[("inputResponses", Some(&answers)), ("requestState", state.map(Raw::as_str))])
    }

    /// Whether its caller wants to hear of a log message that was said about an equal request. One that says with each
    /// request what it wants hears nothing else; to any other it may be said.
    pub fn wants_log(&self, body: &Bytes) -> bool {
        self.wire.kind != Kind::Modern
            || Message::parse(body.clone()).is_ok_and(|message| wants_log(self, &message))
    }

    /// The same request without answers, for an upstream that takes none; `None` where it has none.
    pub(super) fn without_input(&self) -> Option<Self> {
        let params = self.message.params()?;
        let members = Members::parse(params.as_str()).ok()?;
        (members.get("inputResponses").is_some() || members.get("requestState").is_some())
            .then(|| self.with_members(&[("inputResponses", None), ("requestState", None)]))
            .flatten()
    }

    fn with_members(&self, edits: &[(&str, Option<&str>)]) -> Option<Self> {
        let params = self.message.params();
        let members = Members::parse(params.as_ref().map_or("{}", Raw::as_str)).unwrap_or_default();
        let body = self.message.with_params(&members.edited(edits));
        let message = Message::parse(body).ok()?;
        let mut request = Self::read(message, self.wire, Arc::clone(&self.face)).ok()?;
        request.log_level.clone_from(&self.log_level);
        Some(request)
    }
}

/// The result that asks a modern caller: it calls again with the answers and `state`.
pub fn wants_input<'a>(
    request: &Request,
    questions: impl IntoIterator<Item = (&'a str, &'a Message)>,
    state: &str,
) -> Reply {
    let questions: Vec<(&str, String)> = questions
        .into_iter()
        .map(|(name, question)| {
            let params = question.params();
            let params = Members::parse(params.as_ref().map_or("{}", Raw::as_str)).unwrap_or_default();
            let method = json!(question.method().unwrap_or_default()).to_string();
            // The id of an elicitation is the older era's, and a token for progress that of a request there is not.
            let meta = Members::parse(params.get("_meta").unwrap_or("{}")).unwrap_or_default();
            let meta = meta.edited(&[("progressToken", None)]);
            let meta = Some(meta.as_str()).filter(|meta| *meta != "{}");
            let params = params.edited(&[("elicitationId", None), ("_meta", meta)]);
            (name, Members::default().edited(&[("method", Some(&method)), ("params", Some(&params))]))
        })
        .collect();
    let questions: Vec<(&str, Option<&str>)> =
        questions.iter().map(|(name, question)| (*name, Some(question.as_str()))).collect();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{},"result":{{"resultType":"input_required","inputRequests":{},"requestState":{}}}}}"#,
        request.id().as_str(),
        Members::default().edited(&questions),
        json!(state)
    );
    Reply { body: body.into(), kind: ReplyKind::Ask }
}

/// What a modern caller gives to go on with a call; `None` where it goes on with none.
pub fn given(request: &Request) -> Option<Given> {
    if request.wire.kind == Kind::Legacy || !may_want_input(request.method()) {
        return None;
    }
    let params = request.message.params()?;
    // Almost no request has any: the word is looked for before anything is read.
    if !params.as_str().contains("\"requestState\"") {
        return None;
    }
    let members = Members::parse(params.as_str()).ok()?;
    let state = members.string("requestState")?.into_owned();
    let answers = Members::parse(members.get("inputResponses").unwrap_or("{}")).unwrap_or_default();
    let answers = answers.iter().filter_map(|(name, answer)| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{answer}}}"#);
        Some((name.to_owned(), Message::parse(text.into()).ok()?))
    });
    Some(Given { state, answers: answers.collect() })
}

/// The answer to a question, by what its client responded.
///
/// # Errors
/// Why there is none: only an elicitation has an answer that says so.
pub fn answer(question: &Message, answer: Answer) -> Result<Raw, String> {
    let refused = match answer {
        Answer::Response(response) => match response.result() {
            Some(result) => return Ok(result),
            None => response.error().map_or_else(String::new, |error| error.as_str().to_owned()),
        },
        Answer::Refused(why) => why.to_owned(),
    };
    match question.method() {
        Some(ELICIT) => Ok(Raw::of(&json!({"action": "cancel"}))),
        method => Err(format!("the client did not answer `{}`: {refused}", method.unwrap_or_default())),
    }
}

/// The reply to a request whose state was not given to its caller, or not for this request.
pub fn foreign_state(request: &Request) -> Reply {
    let text = "`requestState` is not one that was given to this caller for this request; call without it";
    error_reply(&request.id(), -32602, text)
}

/// The reply to a call whose upstream wanted to know what nobody told it.
pub fn unanswered(request: &Request, reason: &str) -> Reply {
    error_reply(&request.id(), -32603, &format!("the call could not go on: {reason}"))
}

/// A message of the call that `request` goes on with, addressed to `request`: its id, its progress token.
pub fn readdressed(request: &Request, body: &Bytes) -> Bytes {
    let Ok(message) = Message::parse(body.clone()) else { return body.clone() };
    if message.method().is_none() {
        return message.answering(request.id().as_str(), None);
    }
    let params = message.params();
    let token = params
        .as_ref()
        .and_then(|params| Members::parse(params.as_str()).ok()?.get("progressToken"))
        .map(|token| span(params.as_ref().map_or("", Raw::as_str).as_bytes(), token));
    let (Some(at), Some(start), Some(mine)) = (token, message.params_span(), request.progress_token.clone())
    else {
        return body.clone();
    };
    let Ok(mine) = std::str::from_utf8(&request.message.body()[mine]) else { return body.clone() };
    splice(body, [(start.start + at.start..start.start + at.end, Cow::Borrowed(mine))])
}

/// A notification of an upstream's stream of changes as a session hears it: the session has not asked for a
/// subscription, and knows none by its id. Any other notification stays as it is.
pub fn without_subscription(message: &Message) -> Bytes {
    let edited = || {
        let params = message.params()?;
        let members = Members::parse(params.as_str()).ok()?;
        let meta = Members::parse(members.get("_meta")?).ok()?;
        meta.get(META_SUBSCRIPTION)?;
        let rest = meta.edited(&[(META_SUBSCRIPTION, None)]);
        let rest = Some(rest.as_str()).filter(|rest| *rest != "{}");
        Some(message.with_params(&members.edited(&[("_meta", rest)])))
    };
    edited().unwrap_or_else(|| message.body().clone())
}

/// What a legacy client can do, in the words of the modern era: nothing its version does not have, and nothing that
/// belongs to a session.
pub(super) fn capabilities(face: &Face, version: &str) -> String {
    let Ok(able) = Members::parse(face.capabilities.as_str()) else { return "{}".to_owned() };
    let newest = version >= LEGACY[0];
    let elicitation = able.get("elicitation").filter(|_| version >= LEGACY[1]).map(|able| {
        let empty = Members::parse(able).is_ok_and(|able| able.iter().next().is_none());
        if newest && !empty { able.to_owned() } else { r#"{"form":{}}"#.to_owned() }
    });
    let sampling = able.get("sampling").map(|able| if newest { able } else { "{}" });
    able.edited(&[
        ("tasks", None),
        ("elicitation", elicitation.as_deref()),
        ("sampling", sampling),
        ("roots", able.get("roots").map(|_| "{}")),
    ])
}

/// The list of tools in the words of one era: the older one has object schemas for results only, the newer one has no
/// tasks that are declared by a tool. `None` where nothing has to change.
pub(super) fn tools_for(wire: &Wire, tools: &str) -> Option<String> {
    let items: Vec<&RawValue> = serde_json::from_str(tools).ok()?;
    let mut changed = false;
    let items: Vec<Cow<'_, str>> = items
        .iter()
        .map(|item| match tool_for(wire, item.get()) {
            Some(edited) => {
                changed = true;
                Cow::Owned(edited)
            }
            None => Cow::Borrowed(item.get()),
        })
        .collect();
    changed.then(|| format!("[{}]", items.join(",")))
}

/// A tool's declaration in the words of one era.
pub fn fitting<'a>(wire: &Wire, declaration: &'a str) -> Cow<'a, str> {
    // Almost every declaration fits both: the words are looked for before anything is read.
    let word = if wire.kind == Kind::Modern { "\"execution\"" } else { "\"outputSchema\"" };
    let edited = if declaration.contains(word) { tool_for(wire, declaration) } else { None };
    edited.map_or(Cow::Borrowed(declaration), Cow::Owned)
}

/// The same; `None` where it can stay as it is.
fn tool_for(wire: &Wire, declaration: &str) -> Option<String> {
    let members = Members::parse(declaration).ok()?;
    let unfit = match wire.kind {
        Kind::Modern => members.get("execution").is_some().then_some("execution"),
        Kind::Legacy => {
            let output = members.get("outputSchema")?;
            let object =
                Members::parse(output).is_ok_and(|schema| schema.string("type").as_deref() == Some("object"));
            (!object).then_some("outputSchema")
        }
    }?;
    Some(members.edited(&[(unfit, None)]))
}

/// Whether a log message of a legacy upstream is one that a modern request asked for.
pub(super) fn wants_log(request: &Request, message: &Message) -> bool {
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let wanted = || {
        let meta = std::str::from_utf8(&request.message.body()[request.meta.clone()?]).ok()?;
        rank(&Members::parse(meta).ok()?.string(META_LOG_LEVEL)?)
    };
    let said = || rank(&Members::parse(message.params()?.as_str()).ok()?.string("level")?);
    // A level that nobody knows is as good as any.
    wanted().is_some_and(|wanted| said().is_none_or(|said| said >= wanted))
}

#[cfg(test)]
#[path = "cross_tests.rs"]
mod tests;
