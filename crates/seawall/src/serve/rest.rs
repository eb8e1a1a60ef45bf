//! Calls of tools over plain HTTP: one JSON object in and one out, or a stream of events on the way.

use super::{
    Front,
    guard::{self, Refusal},
    mcp, stream,
};
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use seawall_core::{
    call::{Answer, Call, Endpoint, auth::Caller},
    profile,
};
use seawall_proto::{
    Ask, Code, Event, Fault, Reply, Stage,
    event::Answer as AskAnswer,
    rest::{self, End, Execute, invalid, milliseconds},
};
use std::{sync::Arc, time::Duration};

const TIMEOUT: &str = "seawall-timeout-ms";
const CONVERSATION: &str = "seawall-session";
const IDEMPOTENCY: &str = "idempotency-key";
const EVENTS: &str = "text/event-stream";
/// After how many milliseconds a daemon that stops may have been replaced.
const STOPPING: u64 = 1000;
/// What tells programs of these paths.
const DESCRIPTION: &str = include_str!("openapi.json");

/// Calls one tool.
pub(super) async fn execute(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    take(&front, request).await.unwrap_or_else(|refusal| *refusal)
}

/// Answers with what can be asked here, in OpenAPI.
pub(super) async fn description(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    match front.check(request.headers(), request.uri()) {
        Ok(_) => *guard::json(StatusCode::OK, DESCRIPTION),
        Err(refusal) => *refusal,
    }
}

async fn take(front: &Arc<Front>, request: Request) -> Result<Response<Body>, Refusal> {
    let caller = front.check(request.headers(), request.uri()).map_err(without_a_token)?;
    if guard::check_json(&request).is_err() {
        let fault = invalid("the body has to be application/json, and the header Content-Type to say so.");
        return Err(refused_as(StatusCode::UNSUPPORTED_MEDIA_TYPE, &fault));
    }
    if front.gateway.life().is_draining() {
        let text = "Seawall is stopping; try again shortly.";
        let fault = Fault::new(Code::UpstreamUnavailable, Stage::Resolve, text);
        return Err(refused(&Fault { retry_after_ms: Some(STOPPING), ..fault }));
    }
    let (head, body) = request.into_parts();
    let body = mcp::read(front, body).await.map_err(|refusal| unread(front, &refusal))?;
    let events = wants_events(&head.headers);
    let asked = asked(&body, &head.headers).map_err(|fault| refused(&fault))?;
    let call = call(front, caller, &asked, events).map_err(|fault| refused(&fault))?;
    let answer = front.gateway.call(call);
    if !events {
        return Ok(*whole(ended(&asked.tool, answer).await));
    }
    let streaming = Streaming { tool: asked.tool, answer: Some(answer) };
    Ok(stream::response(streaming, None, Streaming::next))
}

/// What is asked for: by the body, and by headers, which go over it.
fn asked(body: &Bytes, headers: &HeaderMap) -> Result<Execute, Fault> {
    let mut asked = Execute::read(body)?;
    if let Some(limit) = text_of(headers, TIMEOUT)? {
        asked.timeout_ms = Some(milliseconds("Seawall-Timeout-Ms", limit)?);
    }
    if let Some(name) = text_of(headers, CONVERSATION)? {
        asked.session = Some(name.to_owned());
    }
    if asked.session.as_ref().is_some_and(|name| name.len() > mcp::LONGEST_NAME) {
        let text =
            format!("`session` is too long: a conversation's name may have {} bytes.", mcp::LONGEST_NAME);
        return Err(invalid(text));
    }
    if let Some(key) = text_of(headers, IDEMPOTENCY)? {
        asked.idempotency_key = Some(key.to_owned());
    }
    Ok(asked)
}

/// A header that says something, once.
fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && values.next().is_none() => Ok(Some(text)),
        _ => Err(invalid(format!("the header {name} is empty, given twice, or no plain text."))),
    }
}

/// Whether the answer is to be a stream: for who takes one and no JSON.
fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT);
    let accepted = accepted.iter().filter_map(|accept| accept.to_str().ok());
    let mut kinds = accepted
        .flat_map(|accept| accept.split(','))
        .filter_map(|kind| kind.split(';').next())
        .map(str::trim)
        .filter(|kind| !kind.is_empty())
        .peekable();
    kinds.peek().is_some() && kinds.all(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

fn call(front: &Front, caller: Arc<Caller>, asked: &Execute, events: bool) -> Result<Call, Fault> {
    let request = Arc::new(asked.request(events)?);
    let profile = profile::of(request.face(), &front.gateway.config());
    let limit = asked.timeout_ms.filter(|limit| *limit > 0).map(Duration::from_millis);
    // A conversation's name is its caller's own: nobody else can mean the same one.
    let conversation = asked.session.as_ref().map(|name| Arc::from(format!("{}/{name}", caller.name)));
    Ok(Call {
        caller,
        conversation,
        endpoint: Endpoint::All,
        limit: limit.or(profile.limit),
        heartbeat: profile.heartbeat,
        request,
        followed: false,
        idempotency: asked.idempotency_key.as_deref().map(Arc::from),
    })
}

/// Waits for the end of a call. Dropped, it takes the call back, as a closed connection does.
async fn ended(tool: &str, mut answer: Answer) -> End {
    loop {
        match answer.next().await {
            Event::End(end) => return told(tool, &answer, end),
            Event::Ask(ask) => unasked(ask),
            Event::Streaming
            | Event::Progress(_)
            | Event::Log(_)
            | Event::Notification(_)
            | Event::Pause { .. } => {}
        }
    }
}

/// An answer as a stream of events; dropped with it, the call is taken back.
struct Streaming {
    tool: String,
    /// None once the stream has had its last event.
    answer: Option<Answer>,
}

impl Streaming {
    async fn next(mut self) -> (Self, Option<Bytes>) {
        let Some(mut answer) = self.answer.take() else { return (self, None) };
        loop {
            let piece = match answer.next().await {
                Event::End(end) => {
                    let last = told(&self.tool, &answer, end).into_event();
                    return (self, Some(last));
                }
                Event::Ask(ask) => {
                    unasked(ask);
                    None
                }
                event => rest::event(&event),
            };
            if let Some(piece) = piece {
                self.answer = Some(answer);
                return (self, Some(piece));
            }
        }
    }
}

/// Who calls over REST has said that it can be asked nothing; some questions are asked all the same.
fn unasked(ask: Ask) {
    ask.reply.answer(AskAnswer::Refused("a caller over REST cannot be asked"));
}

/// The end of a call in the words of this surface.
fn told(tool: &str, answer: &Answer, end: Result<Reply, Fault>) -> End {
    let journal = answer.journal();
    let id = journal.map(|journal| journal.id());
    let result = end.and_then(|reply| {
        let result = rest::result(&reply);
        result.map_err(|fault| match journal {
            Some(journal) => journal.complete(fault),
            None => fault,
        })
    });
    match result {
        Ok(result) => End::result(id.as_deref(), tool, &result),
        Err(fault) => End::fault(id.as_deref(), &fault),
    }
}

/// An end as one body.
fn whole(end: End) -> Refusal {
    let status = StatusCode::from_u16(end.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let retry_after = end.retry_after();
    let mut response = guard::json(status, end.into_body());
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The answer to a request that becomes no call.
fn refused(fault: &Fault) -> Refusal {
    whole(End::fault(None, fault))
}

/// The same, where HTTP has a status for it that says more than the fault's own.
fn refused_as(status: StatusCode, fault: &Fault) -> Refusal {
    let mut response = refused(fault);
    *response.status_mut() = status;
    response
}

/// A refusal at the door: who has no token is told by a fault. What is wrong with the place that a request comes from
/// or goes to has nothing to do with calls.
fn without_a_token(refusal: Refusal) -> Refusal {
    if refusal.status() != StatusCode::UNAUTHORIZED {
        return refusal;
    }
    refused(&Fault::new(Code::Unauthorized, Stage::Authorise, "no caller has this token."))
}

/// A refusal of a body that could not be read, by the status that it was refused with.
fn unread(front: &Front, refusal: &Response<Body>) -> Refusal {
    let status = refusal.status();
    let fault = match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = front.gateway.config().limits.message;
            let text = format!("a request may have {limit} bytes (`limits.message`).");
            Fault::new(Code::TooLarge, Stage::Resolve, text)
        }
        StatusCode::REQUEST_TIMEOUT => {
            Fault::new(Code::Timeout, Stage::Resolve, "the request's body took too long.")
        }
        _ => invalid("the request broke off."),
    };
    refused_as(status, &fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_who_takes_nothing_but_a_stream_gets_one() {
        for (accept, events) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; q=0.9", true),
            ("application/json, text/event-stream", false),
            ("text/event-stream, */*", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(wants_events(&headers(&[("accept", accept)])), events, "{accept}");
        }
        assert!(!wants_events(&headers(&[])));
        assert!(!wants_events(&headers(&[("accept", EVENTS), ("accept", "application/json")])));
    }

    #[test]
    fn headers_go_over_the_body() {
        let body = Bytes::from_static(
            br#"{"tool":"t","timeout_ms":5,"session":"of the body","idempotency_key":"of the body"}"#,
        );
        let plain = asked(&body, &headers(&[])).unwrap();
        assert_eq!((plain.timeout_ms, plain.session.as_deref()), (Some(5), Some("of the body")));
        let given = headers(&[(TIMEOUT, "7"), (CONVERSATION, "s"), (IDEMPOTENCY, "k")]);
        let over = asked(&body, &given).unwrap();
        assert_eq!((over.timeout_ms, over.session.as_deref()), (Some(7), Some("s")));
        assert_eq!(over.idempotency_key.as_deref(), Some("k"));
        for wrong in [(TIMEOUT, "soon"), (CONVERSATION, ""), (IDEMPOTENCY, "")] {
            assert_eq!(asked(&body, &headers(&[wrong])).unwrap_err().code, Code::InvalidArguments);
        }
        let twice = headers(&[(IDEMPOTENCY, "k"), (IDEMPOTENCY, "l")]);
        assert_eq!(asked(&body, &twice).unwrap_err().code, Code::InvalidArguments);
        let named = |length: usize| {
            let body = format!(r#"{{"tool":"t","session":"{}"}}"#, "s".repeat(length));
            asked(&Bytes::from(body), &headers(&[]))
        };
        assert!(named(mcp::LONGEST_NAME).is_ok());
        assert_eq!(named(mcp::LONGEST_NAME + 1).unwrap_err().code, Code::InvalidArguments);
    }

    #[test]
    fn the_description_has_every_status_and_code() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
        assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
        let responses = &description["paths"]["/api/v1/execute"]["post"]["responses"];
        let codes = &description["components"]["schemas"]["Fault"]["properties"]["code"]["enum"];
        let told =
            |code: &Code| codes.as_array().is_some_and(|codes| codes.iter().any(|told| told == code.code()));
        for code in Code::ALL {
            assert!(responses[code.status().to_string()].is_object(), "{code} has no response");
            // What may not be used is told as what is not there.
            assert_eq!(told(&code), code != Code::Forbidden, "{code}");
        }
        for status in ["200", "408", "415"] {
            assert!(responses[status].is_object(), "{status} has no response");
        }
    }

    #[test]
    fn the_description_has_every_member_of_a_fault() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let fault = Fault::new(Code::Timeout, Stage::Answer, "x").object();
        let properties = &description["components"]["schemas"]["Fault"]["properties"];
        for member in fault.as_object().unwrap().keys() {
            assert!(properties[member].is_object(), "{member} is not described");
        }
    }

    #[tokio::test]
    async fn a_refusal_has_the_body_of_a_fault_and_its_headers() {
        use http_body_util::BodyExt;
        let fault = Fault::new(Code::UpstreamUnavailable, Stage::Resolve, "x");
        let told = refused(&Fault { retry_after_ms: Some(STOPPING), ..fault });
        assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told.headers()[header::RETRY_AFTER], "1");
        let body = told.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["ok"], &body["call"]), (&Value::Bool(false), &Value::Null));
        assert_eq!(body["error"]["code"], "UPSTREAM_UNAVAILABLE");

        let told = without_a_token(guard::refuse(StatusCode::UNAUTHORIZED, "x"));
        assert_eq!(told.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let kept = without_a_token(guard::refuse(StatusCode::FORBIDDEN, "x"));
        assert_eq!(kept.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused_as(StatusCode::UNSUPPORTED_MEDIA_TYPE, &invalid("x")).status(), 415);
    }
}
