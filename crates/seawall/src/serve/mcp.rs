//! MCP over streamable HTTP, both eras on one endpoint.

pub(super) mod session;
mod stateless;

use super::{Front, guard, guard::Refusal, stream};
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use seawall_core::{
    call::{Answer, Call, Endpoint, auth::Caller},
    list::Listed,
    profile,
};
use seawall_proto::{
    Code, Event, Fault, Reply, Request as McpRequest,
    era::serve::{self, Head, Inbound},
    sse::write_event,
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

const SESSION: &str = "mcp-session-id";
const CONVERSATION: &str = "seawall-session";
const TIMEOUT: &str = "seawall-timeout-ms";
const IDEMPOTENCY: &str = "idempotency-key";
/// How long a call may go without an event before its answer becomes a stream.
const PLAIN: Duration = Duration::from_secs(1);
/// The size of a body in bytes up to which copying it is cheaper than keeping the buffer it came in.
const SMALL: usize = 4096;
/// The longest name of a conversation that a request may give, in bytes: it is kept as long as an instance of its own
/// is, and shown wherever that is.
pub(super) const LONGEST_NAME: usize = 255;
/// How long a client may take to send a request's body.
const BODY_LIMIT: Duration = Duration::from_secs(60);

/// Answers one HTTP request to an endpoint.
pub(super) async fn handle(front: &Arc<Front>, endpoint: Endpoint, request: Request) -> Response<Body> {
    let answered = match *request.method() {
        Method::POST => post(front, endpoint, request).await,
        Method::GET => session::get(front, &endpoint, &request),
        Method::DELETE => session::delete(front, &request),
        _ => Err(guard::refuse(StatusCode::METHOD_NOT_ALLOWED, "POST, GET or DELETE")),
    };
    answered.unwrap_or_else(|refusal| *refusal)
}

async fn post(front: &Arc<Front>, endpoint: Endpoint, request: Request) -> Result<Response<Body>, Refusal> {
    let caller = front.check(request.headers(), request.uri())?;
    guard::check_json(&request)?;
    if front.gateway.life().is_draining() {
        return Err(guard::refuse(StatusCode::SERVICE_UNAVAILABLE, "Seawall is stopping; try again shortly"));
    }
    if !front.gateway.may_enter(&endpoint, &caller) {
        let text = match endpoint {
            Endpoint::Group(_) => "there is no group of this name; `seawall check` shows them",
            Endpoint::All | Endpoint::One(_) => {
                "no server of this name is in use; `seawall status` shows them"
            }
        };
        return Err(guard::refuse(StatusCode::NOT_FOUND, text));
    }
    let (door, inbound) = {
        let (head, body) = request.into_parts();
        let body = read(front, body).await?;
        let inbound = serve::inbound(&body, &head_of(&head.headers)).map_err(|refusal| refused(&refusal))?;
        (Door::new(front, endpoint, caller, &head.headers), inbound)
    };
    match inbound {
        Inbound::Alone(request) => stateless::answer(door, request).await,
        Inbound::AloneNotification(_) => Ok(accepted()),
        // Five times the size of the other: every call would be as large.
        Inbound::InSession(message) => Box::pin(session::answer(door, message)).await,
    }
}

/// What is known of an HTTP request besides its message. It holds none of the headers themselves: they would keep the
/// buffer of their connection for as long as the call goes on.
pub(super) struct Door {
    pub(super) front: Arc<Front>,
    pub(super) endpoint: Endpoint,
    pub(super) caller: Arc<Caller>,
    /// The session its headers name.
    session: Option<Arc<str>>,
    /// The conversation its headers name.
    conversation: Option<Arc<str>>,
    /// The milliseconds its headers say that its caller waits.
    limit_ms: Option<u64>,
    /// What its headers say makes the call safe to repeat.
    idempotency: Option<Arc<str>>,
    /// Whether the client takes an answer as a stream.
    takes_streams: bool,
}

impl Door {
    pub(super) fn new(
        front: &Arc<Front>,
        endpoint: Endpoint,
        caller: Arc<Caller>,
        headers: &HeaderMap,
    ) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // Who says nothing takes anything.
        let takes_streams = text(header::ACCEPT.as_str())
            .is_none_or(|accept| accept.contains("text/event-stream") || accept.contains("*/*"));
        Self {
            front: Arc::clone(front),
            endpoint,
            caller,
            session: text(SESSION).map(Arc::from),
            conversation: text(CONVERSATION).map(Arc::from),
            limit_ms: text(TIMEOUT).and_then(|limit| limit.parse().ok()),
            idempotency: idempotency_key(headers),
            takes_streams,
        }
    }

    pub(super) fn call(
        &self,
        request: Arc<McpRequest>,
        conversation: Option<Arc<str>>,
        followed: bool,
    ) -> Call {
        let asked = self.limit_ms.or_else(|| request.timeout_ms());
        let asked = asked.filter(|limit| *limit > 0).map(Duration::from_millis);
        let calls_tool = request.method() == "tools/call";
        // Only calls of tools are given up by their clients' clocks while somebody works on them.
        let profile = calls_tool.then(|| profile::of(request.face(), &self.front.gateway.config()));
        // A list may stand for several requests, and what else there is can be repeated as it is.
        let idempotency = calls_tool
            .then(|| self.idempotency.clone().or_else(|| request.idempotency_key().cloned()))
            .flatten();
        Call {
            caller: Arc::clone(&self.caller),
            conversation,
            endpoint: self.endpoint.clone(),
            limit: asked.or_else(|| profile.and_then(|profile| profile.limit)),
            heartbeat: profile.and_then(|profile| profile.heartbeat),
            request,
            followed,
            idempotency,
        }
    }

    /// Answers what Seawall answers itself; `None` for what goes to an upstream as it is.
    pub(super) async fn own_answer(&self, call: &Call) -> Option<Result<Listed, Fault>> {
        let request = &call.request;
        let gateway = &self.front.gateway;
        let opens = matches!(request.method(), "server/discover" | "initialize");
        match &self.endpoint {
            _ if request.method() == "tools/list" => Some(Box::pin(gateway.list_tools(call.clone())).await),
            _ if request.method() == "tools/call" => None,
            Endpoint::All | Endpoint::Group(_) => Box::pin(gateway.answer_for_many(call)).await,
            Endpoint::One(name) if opens => {
                let upstream = gateway.upstream(name)?;
                Some(Box::pin(gateway.greet_for_one(call, &upstream)).await.map(Listed::from))
            }
            Endpoint::One(_) if serve::subscribes(request) && gateway.arranges(call) => {
                Box::pin(gateway.answer_for_many(call)).await
            }
            Endpoint::One(_) => None,
        }
    }

    /// What Seawall answers itself, in the form in which an upstream would.
    fn own_response(&self, request: &McpRequest, end: Result<Listed, Fault>) -> Response<Body> {
        let streamed = end.as_ref().is_ok_and(|listed| listed.streamed) && self.takes_streams;
        let end = end.map(|listed| listed.reply);
        match last(request, &end).filter(|_| streamed) {
            Some(message) => {
                stream::response((), Some(write_event(None, &message)), |()| async { ((), None) })
            }
            None => plain(request, &end),
        }
    }
}

pub(super) async fn read(front: &Front, body: Body) -> Result<Bytes, Refusal> {
    let limit = front.gateway.config().limits.message;
    let collected = timeout(BODY_LIMIT, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(apart(collected.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("TOO_LARGE: a message may have {limit} bytes (`limits.message`)");
            Err(guard::refuse(StatusCode::PAYLOAD_TOO_LARGE, &text))
        }
        Ok(Err(_)) => Err(guard::refuse(StatusCode::BAD_REQUEST, "the request broke off")),
        Err(_) => Err(guard::refuse(StatusCode::REQUEST_TIMEOUT, "the request's body took too long")),
    }
}

/// The key that the client gives in a header. One that is no text, or given twice, comes to something that cannot be a
/// key: it must be refused, and not overlooked.
fn idempotency_key(headers: &HeaderMap) -> Option<Arc<str>> {
    let given = headers.get_all(IDEMPOTENCY).iter();
    let keys: Vec<_> = given.map(|key| String::from_utf8_lossy(key.as_bytes())).collect();
    (!keys.is_empty()).then(|| Arc::from(keys.join(", ")))
}

/// A body in memory of its own where it is small: a part of what was read with it would keep the connection's whole
/// buffer, and the connection would take another.
fn apart(body: Bytes) -> Bytes {
    if body.len() <= SMALL { Bytes::copy_from_slice(&body) } else { body }
}

fn head_of(headers: &HeaderMap) -> Head<'_> {
    let mut head = Head::default();
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("mcp-") {
            continue;
        }
        // What is no text contradicts whatever the body says.
        let value = value.to_str().unwrap_or_default();
        let place = match name {
            "mcp-protocol-version" => &mut head.version,
            "mcp-method" => &mut head.method,
            "mcp-name" => &mut head.name,
            _ if name.starts_with("mcp-param-") => {
                head.parameters.push((name.to_owned(), value.to_owned()));
                continue;
            }
            _ => continue,
        };
        head.repeated |= place.replace(value).is_some();
    }
    head
}

pub(super) fn refused(refusal: &serve::Refusal) -> Refusal {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    guard::json(status, refusal.body.clone())
}

pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// The end of a call as one JSON body. A call that was taken back gets no answer: the specification says so.
fn plain(request: &McpRequest, end: &Result<Reply, Fault>) -> Response<Body> {
    let (status, body) = match end {
        Ok(reply) => (serve::status(request.wire(), reply), Some(reply.body.clone())),
        Err(fault) if fault.code == Code::Cancelled => return accepted(),
        Err(fault) => serve::fault(request, fault),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut response = *guard::json(status, body.unwrap_or_default());
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The end of a call as the last message of a stream; `None` for a call that was taken back.
pub(super) fn last(request: &McpRequest, end: &Result<Reply, Fault>) -> Option<Bytes> {
    match end {
        Ok(reply) => Some(reply.body.clone()),
        Err(fault) if fault.code == Code::Cancelled => None,
        Err(fault) => serve::fault(request, fault).1,
    }
}

/// What a call says first, if it says anything soon. A client that takes no streams waits for the end, or for the
/// question where `asks` says that a question ends its request.
async fn first_event(door: &Door, answer: &mut Answer, asks: bool) -> Option<Event> {
    if door.takes_streams {
        return timeout(PLAIN, answer.next()).await.ok();
    }
    loop {
        let event = answer.next().await;
        if matches!(event, Event::End(_)) || (asks && matches!(event, Event::Ask(_))) {
            return Some(event);
        }
    }
}
