//! The streamable HTTP transport, in both eras at one endpoint, and the way to the other two that begin with HTTP.

use crate::Eras;
use crate::server::{Entry, Exchange, Part, Server, lock};
use crate::stdio::BYTE;
use crate::wire::{self, Era, Failure, JSON, Message};
use crate::{sse, websocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;

const PATH: &str = "/mcp";
const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

pub(crate) type Reply = Response<BoxBody<Bytes, Infallible>>;

pub(crate) struct Endpoint {
    pub(crate) server: Arc<Server>,
    /// The legacy sessions, each with its newest GET stream.
    sessions: Mutex<HashMap<String, Option<mpsc::UnboundedSender<Part>>>>,
    /// The streams of the older transport, by their sessions.
    pub(crate) streams: Mutex<HashMap<String, mpsc::UnboundedSender<Part>>>,
}

pub(crate) async fn serve(server: Arc<Server>, address: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}{PATH}", listener.local_addr()?);
    let endpoint = Arc::new(Endpoint { server, sessions: Mutex::default(), streams: Mutex::default() });
    tokio::spawn(announce(endpoint.clone(), endpoint.server.tools_changed.subscribe()));
    loop {
        let (stream, _) = listener.accept().await?;
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            // An error is a caller that is gone already.
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let service = service_fn(move |request| respond(endpoint.clone(), request));
            // An error is a caller that went away, which the unfinished request itself records.
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
    }
}

/// Tells the legacy sessions of changes to the list of tools.
async fn announce(endpoint: Arc<Endpoint>, mut changes: broadcast::Receiver<()>) {
    while !matches!(changes.recv().await, Err(broadcast::error::RecvError::Closed)) {
        for stream in lock(&endpoint.sessions).values().flatten() {
            // An error is a stream that was closed and has had no successor.
            let _ = stream.send(Part::Event(wire::tools_changed()));
        }
    }
}

async fn respond(endpoint: Arc<Endpoint>, mut request: Request<Incoming>) -> Result<Reply, Infallible> {
    if request.uri().path() == websocket::PATH {
        return Ok(websocket::open(&endpoint.server, &mut request));
    }
    let (head, body) = request.into_parts();
    let session = header(&head.headers, SESSION);
    Ok(match (&head.method, head.uri.path()) {
        (&Method::POST, PATH) => match body.collect().await {
            Ok(body) => endpoint.post(&head.headers, &body.to_bytes()).await,
            Err(_) => plain(StatusCode::BAD_REQUEST),
        },
        (&Method::GET, PATH) => endpoint.get(session),
        (&Method::DELETE, PATH) => endpoint.delete(session),
        (_, PATH) => plain(StatusCode::METHOD_NOT_ALLOWED),
        (&Method::GET, sse::PATH) => sse::open(&endpoint),
        (&Method::POST, sse::MESSAGES) => match body.collect().await {
            Ok(body) => sse::take(&endpoint, head.uri.query(), &body.to_bytes()),
            Err(_) => plain(StatusCode::BAD_REQUEST),
        },
        _ => plain(StatusCode::NOT_FOUND),
    })
}

impl Endpoint {
    /// Why a GET or DELETE without a known session is refused.
    fn no_session(&self, session: Option<&str>) -> Reply {
        plain(match (self.server.options.eras(), session) {
            (Eras::Legacy, None) => StatusCode::BAD_REQUEST,
            (Eras::Modern, _) | (Eras::Both, None) => StatusCode::METHOD_NOT_ALLOWED,
            (Eras::Legacy | Eras::Both, Some(_)) => StatusCode::NOT_FOUND,
        })
    }

    fn get(&self, session: Option<&str>) -> Reply {
        let mut sessions = lock(&self.sessions);
        let Some(stream) = sessions.get_mut(session.unwrap_or_default()) else {
            return self.no_session(session);
        };
        let (outlet, parts) = mpsc::unbounded_channel();
        if let Some(old) = stream.replace(outlet) {
            // An error is a stream that its client closed before.
            let _ = old.send(Part::Close);
        }
        Events::of(parts).into_reply()
    }

    fn delete(&self, session: Option<&str>) -> Reply {
        let removed = lock(&self.sessions).remove_entry(session.unwrap_or_default());
        let Some((session, stream)) = removed else {
            return self.no_session(session);
        };
        self.server.record(&Entry { event: "session_deleted", session: Some(&session), ..Entry::default() });
        self.server.forget(&session);
        if let Some(stream) = stream {
            let _ = stream.send(Part::Close);
        }
        plain(StatusCode::OK)
    }

    fn open_session(&self) -> String {
        let session = new_session();
        lock(&self.sessions).insert(session.clone(), None);
        session
    }

    async fn post(&self, headers: &HeaderMap, body: &[u8]) -> Reply {
        let named = header(headers, SESSION);
        let Some(mut message) = self.server.receive(body, named) else {
            return plain(StatusCode::BAD_REQUEST);
        };
        if let Some(named) = named
            && lock(&self.server.forgotten).remove(named)
        {
            lock(&self.sessions).remove(named);
        }
        let era = self.server.era(&message, header(headers, VERSION));
        let opening = message.method() == "initialize";
        let mut session = None;
        // A silenced method hangs even where its session would be refused.
        if era == Era::Legacy && !self.server.options.silences(message.method()) {
            session = match named {
                _ if opening => Some(self.open_session()),
                Some(named) if lock(&self.sessions).contains_key(named) => Some(named.to_owned()),
                Some(_) => return plain(StatusCode::NOT_FOUND),
                None => return plain(StatusCode::BAD_REQUEST),
            };
        }
        let Some(id) = message.id.take_if(|_| message.method.is_some()) else {
            self.server.notice(session, &message);
            return plain(StatusCode::ACCEPTED);
        };
        if era == Era::Modern
            && let Err(failure) = mirrored(headers, &message)
        {
            return whole(failure.status, wire::error(id.get(), &failure));
        }
        let mut reply = self.call(era, session.clone(), id, message).await;
        if opening && let Some(session) = session {
            let session = HeaderValue::from_str(&session).expect("its hex digits fit a header");
            reply.headers_mut().insert(SESSION, session);
        }
        reply
    }

    /// Starts a request and waits for the first part of its answer, which decides how the answer is sent.
    async fn call(&self, era: Era, session: Option<String>, id: Box<RawValue>, message: Message) -> Reply {
        let (outlet, mut parts) = mpsc::unbounded_channel();
        let server = self.server.clone();
        let exchange =
            Exchange { server: server.clone(), era, session, over_http: true, id: id.clone(), outlet };
        let task = exchange.start(message);
        let task = (era == Era::Modern).then_some(task);
        let mut request = Unfinished { server, id, task, finished: false };
        match parts.recv().await {
            Some(Part::Reply { status, text }) => {
                request.finished = true;
                whole(status, text)
            }
            Some(Part::Garbage(text)) => {
                request.finished = true;
                whole(200, text)
            }
            Some(Part::Whole { status, kind, body }) => {
                request.finished = true;
                any(status, kind, body)
            }
            Some(Part::Half(text)) => {
                let length = HeaderValue::from(text.len());
                let mut reply = Events::answering(request, Part::Half(text), parts).into_reply();
                reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
                reply.headers_mut().insert(CONTENT_LENGTH, length);
                reply
            }
            Some(Part::Trickle(text)) => {
                let mut reply = Events::answering(request, Part::Trickle(text), parts).into_reply();
                reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
                reply
            }
            Some(first) => Events::answering(request, first, parts).into_reply(),
            // Cancelled: no reply ever comes, and the caller's hanging up is recorded when it happens.
            None => pending().await,
        }
    }
}

/// A request that has had no reply yet. Dropped unfinished, it is a stream that its caller closed.
struct Unfinished {
    server: Arc<Server>,
    id: Box<RawValue>,
    /// What ends with the stream. A closed stream is a cancel in the modern era only.
    task: Option<AbortHandle>,
    finished: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            self.server.record(&Entry { event: "stream_closed", id: Some(&self.id), ..Entry::default() });
            if let Some(task) = &self.task {
                task.abort();
            }
        }
    }
}

/// The body of a streamed answer, or a stream that outlives its replies.
pub(crate) struct Events {
    first: Option<Part>,
    parts: mpsc::UnboundedReceiver<Part>,
    /// The request that this answers; none for a stream that answers none, or all.
    request: Option<Unfinished>,
    /// Bytes that come one a second, before anything else does.
    trickle: Option<mpsc::UnboundedReceiver<u8>>,
    /// Whether nothing comes any more, though the stream stays open.
    stalled: bool,
    ended: bool,
}

impl Events {
    /// A stream that answers no request in particular.
    pub(crate) fn of(parts: mpsc::UnboundedReceiver<Part>) -> Self {
        Self { first: None, parts, request: None, trickle: None, stalled: false, ended: false }
    }

    fn answering(request: Unfinished, first: Part, parts: mpsc::UnboundedReceiver<Part>) -> Self {
        Self { first: Some(first), request: Some(request), ..Self::of(parts) }
    }

    pub(crate) fn into_reply(self) -> Reply {
        let mut reply = Response::new(self.boxed());
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        reply
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(request) = &mut self.request {
            request.finished = true;
        }
    }

    /// The bytes of one part; none where it has none.
    fn bytes_of(&mut self, part: Part) -> Option<Bytes> {
        let answers_one = self.request.is_some();
        Some(match part {
            Part::Open => return None,
            Part::Comment => Bytes::from_static(b": x\n\n"),
            Part::Event(text) => event(text.as_bytes()),
            Part::Reply { text, .. } => {
                if answers_one {
                    self.end();
                }
                event(text.as_bytes())
            }
            Part::Whole { body, .. } => {
                if answers_one {
                    self.end();
                }
                event(&body)
            }
            Part::Half(text) => {
                self.stalled = true;
                let whole = if answers_one { Bytes::from(text) } else { event(text.as_bytes()) };
                whole.slice(..whole.len() / 2)
            }
            Part::Trickle(text) => {
                let whole = if answers_one { Bytes::from(text) } else { event(text.as_bytes()) };
                self.trickle = Some(trickle(whole));
                return None;
            }
            Part::Garbage(text) if answers_one => Bytes::from(text),
            Part::Garbage(text) => event(text.as_bytes()),
            Part::Line(bytes) => Bytes::from(bytes),
            Part::Close => {
                self.end();
                return None;
            }
        })
    }
}

/// The bytes of `whole`, one a second, for as long as somebody takes them.
fn trickle(whole: Bytes) -> mpsc::UnboundedReceiver<u8> {
    let (sender, bytes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for byte in whole {
            if sender.send(byte).is_err() {
                return;
            }
            tokio::time::sleep(BYTE).await;
        }
    });
    bytes
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        while !this.ended {
            if this.stalled {
                // Nothing is to wake it: the connection itself notices that its caller is gone.
                return Poll::Pending;
            }
            if let Some(bytes) = &mut this.trickle {
                if let Some(byte) = ready!(bytes.poll_recv(context)) {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&[byte])))));
                }
                this.trickle = None;
            }
            let part = match this.first.take() {
                Some(part) => part,
                None => match ready!(this.parts.poll_recv(context)) {
                    Some(part) => part,
                    // The call was cancelled: the stream stays open, silent, until its caller closes it.
                    None => return Poll::Pending,
                },
            };
            if let Some(bytes) = this.bytes_of(part) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        Poll::Ready(None)
    }
}

/// A message as an event.
fn event(message: &[u8]) -> Bytes {
    let mut event = b"event: message\n".to_vec();
    for line in message.split(|byte| *byte == b'\n') {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    event.into()
}

pub(crate) fn new_session() -> String {
    format!("session-{:016x}", RandomState::new().build_hasher().finish())
}

pub(crate) fn plain(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::<Bytes>::default().boxed());
    *reply.status_mut() = status;
    reply
}

fn whole(status: u16, text: String) -> Reply {
    any(status, JSON, text.into_bytes())
}

fn any(status: u16, kind: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::<Bytes>::from(body).boxed());
    *reply.status_mut() = StatusCode::from_u16(status).expect("the statuses of this server are valid");
    if reply.status().is_redirection() {
        reply.headers_mut().insert(LOCATION, HeaderValue::from_static("/elsewhere"));
    }
    if reply.status() == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Checks the headers of a modern request against the body they mirror.
fn mirrored(headers: &HeaderMap, message: &Message) -> Result<(), Failure> {
    let mirrors = [
        (VERSION, message.version()),
        ("mcp-method", message.method.as_deref()),
        ("mcp-name", message.tool()),
    ];
    for (name, body) in mirrors {
        let found = header(headers, name).map(decoded);
        if body.is_some() && found.as_deref() != body {
            let why = format!("The header {name} is {found:?}, the body says {body:?}");
            return Err(Failure::header_mismatch(why));
        }
    }
    Ok(())
}

/// A header's value, out of the Base64 that wraps what a header cannot hold.
fn decoded(value: &str) -> String {
    let wrapped = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    let bytes = wrapped.and_then(|encoded| STANDARD.decode(encoded).ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| value.to_owned())
}
