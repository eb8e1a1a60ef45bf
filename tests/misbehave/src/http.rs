//! The streamable HTTP transport, in both eras at one endpoint.

use crate::Eras;
use crate::server::{Entry, Exchange, Part, Server, lock};
use crate::wire::{self, Era, Failure, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
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
const JSON: &str = "application/json";

type Reply = Response<BoxBody<Bytes, Infallible>>;

struct Endpoint {
    server: Arc<Server>,
    /// The legacy sessions, each with its newest GET stream.
    sessions: Mutex<HashMap<String, Option<mpsc::UnboundedSender<Part>>>>,
}

pub(crate) async fn serve(server: Arc<Server>, address: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}{PATH}", listener.local_addr()?);
    let endpoint = Arc::new(Endpoint { server, sessions: Mutex::default() });
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
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
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

async fn respond(endpoint: Arc<Endpoint>, request: Request<Incoming>) -> Result<Reply, Infallible> {
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
        Events { first: None, parts, request: None, ended: false }.into_reply()
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
        let session = format!("session-{:016x}", RandomState::new().build_hasher().finish());
        lock(&self.sessions).insert(session.clone(), None);
        session
    }

    async fn post(&self, headers: &HeaderMap, body: &[u8]) -> Reply {
        let named = header(headers, SESSION);
        let Some(mut message) = self.server.receive(body, named) else {
            return plain(StatusCode::BAD_REQUEST);
        };
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
            Some(Part::Half(text)) => {
                let length = HeaderValue::from(text.len());
                let first = Some(Part::Half(text));
                let mut reply = Events { first, parts, request: Some(request), ended: false }.into_reply();
                reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
                reply.headers_mut().insert(CONTENT_LENGTH, length);
                reply
            }
            Some(first) => {
                Events { first: Some(first), parts, request: Some(request), ended: false }.into_reply()
            }
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

/// The body of a streamed answer.
struct Events {
    first: Option<Part>,
    parts: mpsc::UnboundedReceiver<Part>,
    /// The request that this answers; none for a GET stream.
    request: Option<Unfinished>,
    ended: bool,
}

impl Events {
    fn into_reply(self) -> Reply {
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
            let part = match this.first.take() {
                Some(part) => part,
                None => match ready!(this.parts.poll_recv(context)) {
                    Some(part) => part,
                    // The call was cancelled: the stream stays open, silent, until its caller closes it.
                    None => return Poll::Pending,
                },
            };
            let bytes = match part {
                Part::Open => continue,
                Part::Comment => Bytes::from_static(b": x\n\n"),
                Part::Event(text) => event(&text),
                Part::Reply { text, .. } => {
                    this.end();
                    event(&text)
                }
                Part::Half(text) => Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]),
                Part::Garbage(text) => Bytes::from(text),
                Part::Close => {
                    this.end();
                    continue;
                }
            };
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        Poll::Ready(None)
    }
}

fn event(text: &str) -> Bytes {
    let data: String = text.lines().map(|line| format!("data: {line}\n")).collect();
    Bytes::from(format!("event: message\n{data}\n"))
}

fn plain(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::<Bytes>::default().boxed());
    *reply.status_mut() = status;
    reply
}

fn whole(status: u16, text: String) -> Reply {
    let mut reply = Response::new(Full::<Bytes>::from(text).boxed());
    *reply.status_mut() = StatusCode::from_u16(status).expect("the statuses of this server are valid");
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    reply
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
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
