//! The era with sessions: a conversation between requests, streams that can be taken up again, and messages of the
//! upstream's own.

use super::{Door, SESSION, accepted, first_event, last, plain, refused};
use crate::serve::{
    Front,
    guard::{self, Refusal},
    stream,
};
use axum::{body::Body, extract::Request as HttpRequest, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use seawall_core::{
    call::{Answer, Endpoint},
    config::Sharing,
    conversation::{Conversation, Next, Open, RESUME_WINDOW, Stream},
    life::Task,
};
use seawall_proto::{
    Event, Message, Request,
    era::{peer::Outgoing, serve},
    jsonrpc::Kind,
    sse::{write_event, write_priming},
};
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;

const LAST_EVENT: &str = "last-event-id";
/// Milliseconds a client is asked to wait before it takes a broken stream up again.
const RETRY_MS: u64 = 1000;

pub(super) async fn answer(door: Door, message: Message) -> Result<Response<Body>, Refusal> {
    if message.method() == Some("initialize") && message.kind() == Kind::Request {
        return Box::pin(open(door, message)).await;
    }
    let conversation = find(&door.front, door.session.as_deref(), &door.caller.name, Some(&message))?;
    if conversation.endpoint != door.endpoint {
        return Err(refused(&serve::refuse(404, &message, -32001, "Session not found on this endpoint")));
    }
    conversation.touch();
    match message.kind() {
        Kind::Response => {
            conversation.answer(message);
            Ok(accepted())
        }
        Kind::Notification => {
            notified(&door, &conversation, &message);
            Ok(accepted())
        }
        Kind::Request => {
            let request = serve::in_session(message, &conversation.wire, &conversation.face)
                .map_err(|refusal| refused(&refusal))?;
            Ok(call(door, &conversation, request).await)
        }
    }
}

/// Opens a session and answers `initialize`.
async fn open(door: Door, message: Message) -> Result<Response<Body>, Refusal> {
    let (wire, face) = serve::initialize(&message).map_err(|refusal| refused(&refusal))?;
    let gateway = &door.front.gateway;
    let limits = gateway.config().limits.clone();
    let face = Arc::new(face);
    let opened = gateway.conversations().open(
        &door.caller.name,
        door.endpoint.clone(),
        wire,
        Arc::clone(&face),
        &limits,
    );
    let Some(conversation) = opened else {
        let text = format!(
            "OVER_CAPACITY: as many sessions are open as may be ({}, `limits.sessions`); close one, or try again later",
            limits.sessions
        );
        return Err(refused(&serve::refuse(503, &message, 1003, &text)));
    };
    let _open = conversation.open();
    let request = serve::in_session(message, &wire, &face).map_err(|refusal| refused(&refusal))?;
    let call = door.call(Arc::new(request), Some(Arc::clone(&conversation.id)), false);
    let end = door.own_answer(&call).await.map(|end| end.map(|listed| listed.reply));
    let mut response = match &end {
        Some(end) => plain(&call.request, end),
        None => plain(&call.request, &Ok(serve::method_not_found(&call.request))),
    };
    match (end, HeaderValue::try_from(&*conversation.id)) {
        (Some(Ok(_)), Ok(id)) => drop(response.headers_mut().insert(SESSION, id)),
        _ => drop(gateway.end_conversation(&conversation.id)),
    }
    Ok(response)
}

fn session_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION)?.to_str().ok()
}

/// The session a request belongs to.
fn find(
    front: &Front,
    id: Option<&str>,
    caller: &str,
    message: Option<&Message>,
) -> Result<Arc<Conversation>, Refusal> {
    let refuse = |status, text| match message {
        Some(message) => refused(&serve::refuse(status, message, -32001, text)),
        None => guard::refuse(StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND), text),
    };
    let Some(id) = id else {
        return Err(refuse(
            400,
            "this needs a session: open one with `initialize` and send its Mcp-Session-Id",
        ));
    };
    front
        .gateway
        .conversations()
        .get(id, caller)
        .ok_or_else(|| refuse(404, "Session not found; open another with `initialize`"))
}

pub(in crate::serve) fn notified(door: &Door, conversation: &Arc<Conversation>, message: &Message) {
    if let Some(id) = serve::cancelled(message) {
        conversation.cancel(&id);
        return;
    }
    if serve::opened(message) {
        return;
    }
    for upstream in door.front.gateway.upstreams() {
        for instance in upstream.instances_of(&conversation.id) {
            // The modern era's requests say themselves what a session would be told.
            if !instance.peer().has_session() {
                continue;
            }
            instance.notify(Outgoing { body: message.body().clone(), headers: Vec::new() });
        }
    }
}

async fn call(door: Door, conversation: &Arc<Conversation>, request: Request) -> Response<Body> {
    if request.method() == "ping" {
        return plain(&request, &Ok(serve::pong(&request)));
    }
    let open = conversation.open();
    if let Some(level) = serve::log_level(&request) {
        conversation.set_log_level(&level);
    }
    let id = Arc::clone(&conversation.id);
    let request = Arc::new(request.with_log_level(conversation.log_level()));
    let call = door.call(request, Some(id), conversation.is_followed());
    if let Some(end) = door.own_answer(&call).await {
        return door.own_response(&call.request, end);
    }
    let request = call.request.clone();
    let mut answer = door.front.gateway.call(call);
    let started = conversation.started(request.id(), answer.interest());
    match first_event(&door, &mut answer, false).await {
        Some(Event::End(end)) => plain(&request, &end),
        first => {
            let stream = conversation.stream();
            let reader = Reading::new(&stream);
            let conversation = Arc::clone(conversation);
            let (life, kept) = (door.front.gateway.life().clone(), Arc::clone(&stream));
            let priming = conversation.wire.polls().then(|| write_priming(&stream.event_id(0), RETRY_MS));
            life.spawn(Task::Stream, async move {
                pump(&conversation, &kept, &request, answer, first).await;
                // The session may be idle from now on; whoever lost the connection may still come for the end.
                drop((open, started));
                tokio::select! {
                    () = kept.abandoned(RESUME_WINDOW) => {}
                    () = conversation.ended() => {}
                }
                conversation.drop_stream(&kept);
            });
            respond(stream, reader, 0, priming)
        }
    }
}

/// Puts a call's events on its stream, whether or not its client reads; gives up when the client has been away for
/// too long.
async fn pump(
    conversation: &Conversation,
    stream: &Stream,
    request: &Request,
    mut answer: Answer,
    first: Option<Event>,
) {
    let mut next = first;
    let mut asked = Vec::new();
    loop {
        let event = match next.take() {
            Some(event) => event,
            None => tokio::select! {
                biased;
                event = answer.next() => event,
                () = stream.abandoned(RESUME_WINDOW) => break,
                () = conversation.ended() => break,
            },
        };
        match event {
            Event::Progress(message) | Event::Log(message) | Event::Notification(message) => {
                stream.push(message)
            }
            Event::Ask(ask) => {
                let (question, message) = conversation.ask(ask);
                asked.push(question);
                stream.push(message);
            }
            Event::Pause { .. } if conversation.wire.polls() => stream.pause(),
            Event::Streaming | Event::Pause { .. } => {}
            Event::End(end) => {
                if let Some(message) = last(request, &end) {
                    stream.push(message);
                }
                break;
            }
        }
    }
    asked.into_iter().for_each(|question| conversation.withdraw(question));
    stream.end();
}

/// The reader of a stream; dropped, the stream waits to be taken up again.
struct Reading {
    stream: Arc<Stream>,
    number: u64,
}

impl Reading {
    fn new(stream: &Arc<Stream>) -> Self {
        Self { stream: Arc::clone(stream), number: stream.attach() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stream.detach(self.number);
    }
}

/// A stream's events after `seen` as a response.
fn respond(stream: Arc<Stream>, reading: Reading, seen: u64, first: Option<Bytes>) -> Response<Body> {
    stream::response((stream, reading, seen), first, |(stream, reading, seen)| async move {
        match stream.next(reading.number, seen).await {
            Next::Event(number, data) => {
                let piece = write_event(Some(&stream.event_id(number)), &data);
                ((stream, reading, number), Some(piece))
            }
            Next::End => ((stream, reading, seen), None),
        }
    })
}

/// GET: the session's own messages, or a broken stream taken up again.
pub(super) fn get(
    front: &Arc<Front>,
    endpoint: &Endpoint,
    request: &HttpRequest,
) -> Result<Response<Body>, Refusal> {
    let headers = request.headers();
    let caller = front.check(headers, request.uri())?;
    if headers.get(SESSION).is_none() {
        return Err(guard::refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET needs the Mcp-Session-Id of a session",
        ));
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("*/*");
    if !accept.contains("text/event-stream") && !accept.contains("*/*") {
        return Err(guard::refuse(StatusCode::NOT_ACCEPTABLE, "GET answers with text/event-stream"));
    }
    let conversation = find(front, session_of(headers), &caller.name, None)?;
    if conversation.endpoint != *endpoint {
        return Err(guard::refuse(StatusCode::NOT_FOUND, "Session not found on this endpoint"));
    }
    conversation.touch();
    if let Some(last) = headers.get(LAST_EVENT).and_then(|last| last.to_str().ok()) {
        let Some((stream, seen)) = conversation.stream_of(last) else {
            return Err(guard::refuse(StatusCode::NOT_FOUND, "what this stream said is no longer kept"));
        };
        let reading = Reading::new(&stream);
        return Ok(respond(stream, reading, seen, None));
    }
    Ok(listen(front, &conversation))
}

struct Own {
    listening: seawall_core::conversation::Listening,
    changes: Receiver<Arc<str>>,
    front: Arc<Front>,
    endpoint: Endpoint,
    _open: Open,
}

/// The stream of a session's own messages, changed lists among them.
fn listen(front: &Arc<Front>, conversation: &Arc<Conversation>) -> Response<Body> {
    let changes = front.gateway.catalog().changes();
    let own = Own {
        listening: conversation.listen(),
        changes,
        front: Arc::clone(front),
        endpoint: conversation.endpoint.clone(),
        _open: conversation.open(),
    };
    for upstream in front.gateway.upstreams() {
        for instance in upstream.instances_of(&conversation.id) {
            instance.follow();
        }
    }
    stream::response(own, None, |mut own| async move {
        let piece = tokio::select! {
            message = own.listening.next() => message,
            () = changed(&mut own.changes, &own.front, &own.endpoint) => Some(serve::tools_changed(None)),
            () = own.front.gateway.life().draining() => None,
        };
        (own, piece.map(|message| write_event(None, &message)))
    })
}

/// Completes when tools that this endpoint shows have changed, other than by a message of the session's own
/// instance, which passes on what that says itself.
async fn changed(changes: &mut Receiver<Arc<str>>, front: &Front, endpoint: &Endpoint) {
    loop {
        let changed = changes.recv().await;
        match (endpoint, changed) {
            (_, Err(tokio::sync::broadcast::error::RecvError::Closed)) => std::future::pending().await,
            (Endpoint::All | Endpoint::Group(_), Ok(upstream))
                if !front.gateway.includes(endpoint, &upstream) => {}
            (Endpoint::All | Endpoint::Group(_), _) => return,
            (Endpoint::One(mine), Ok(upstream)) if *mine != upstream => {}
            (Endpoint::One(mine), _) => {
                let shared =
                    front.gateway.upstream(mine).is_some_and(|own| own.config().sharing != Sharing::Session);
                if shared {
                    return;
                }
            }
        }
    }
}

/// DELETE: ends the session and what was its own.
pub(super) fn delete(front: &Arc<Front>, request: &HttpRequest) -> Result<Response<Body>, Refusal> {
    let caller = front.check(request.headers(), request.uri())?;
    if request.headers().get(SESSION).is_none() {
        return Err(guard::refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "DELETE needs the Mcp-Session-Id of a session",
        ));
    }
    let conversation = find(front, session_of(request.headers()), &caller.name, None)?;
    front.gateway.end_conversation(&conversation.id);
    Ok(Response::new(Body::empty()))
}
