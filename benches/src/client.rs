//! A test client session: one MCP session on one connection of its own.

use crate::proto::*;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

#[derive(clap::Args, Clone)]
pub(crate) struct Target {
    /// The MCP endpoint, http only.
    #[arg(long, required_unless_present = "spawn")]
    url: Option<String>,
    /// Instead of a URL: a command to start once and share, spoken to over stdio.
    #[arg(long, conflicts_with = "url")]
    spawn: Option<String>,
    /// The URL speaks the deprecated HTTP+SSE transport of 2024-11-05.
    #[arg(long)]
    sse: bool,
    /// Protocol version: 2026-07-28 is stateless, older ones shake hands first.
    #[arg(long, default_value = LEGACY[0])]
    era: String,
    /// An extra request header, "Name: value"; may be given again.
    #[arg(long = "header")]
    headers: Vec<String>,
}

/// A parsed target, shared by its sessions.
#[derive(Clone)]
pub(crate) struct Endpoint(Arc<Shared>);

struct Shared {
    era: String,
    wire: Wire,
}

enum Wire {
    Http { authority: String, path: String, headers: Vec<(HeaderName, HeaderValue)>, sse: bool },
    Stdio(Mux),
}

/// Why a call failed: a short kind to count by, and the detail.
#[derive(Debug, Clone)]
pub(crate) struct Fail {
    pub(crate) kind: String,
    pub(crate) detail: String,
}

impl Fail {
    pub(crate) fn new(kind: impl Into<String>, detail: impl Display) -> Self {
        Self { kind: kind.into(), detail: detail.to_string().chars().take(300).collect() }
    }
}

/// An answer that was matched to its request.
pub(crate) struct Reply {
    /// The JSON-RPC message.
    pub(crate) message: Bytes,
    /// When its last byte needed had been read.
    pub(crate) at: Instant,
}

impl Endpoint {
    pub(crate) fn new(target: &Target) -> Result<Self, String> {
        let wire = match (&target.url, &target.spawn) {
            (_, Some(command)) => Wire::Stdio(Mux::start(command)?),
            (Some(url), None) => {
                let rest = url.strip_prefix("http://").ok_or("the URL must start with http://")?;
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let mut headers = Vec::new();
                for header in &target.headers {
                    let (name, value) = header.split_once(':').ok_or("a header is \"Name: value\"")?;
                    headers.push((
                        name.trim().parse().map_err(|_| format!("bad header name {name}"))?,
                        value.trim().parse().map_err(|_| format!("bad value of header {name}"))?,
                    ));
                }
                Wire::Http { authority: authority.into(), path: format!("/{path}"), headers, sse: target.sse }
            }
            (None, None) => return Err("no target".into()),
        };
        Ok(Self(Arc::new(Shared { era: target.era.clone(), wire })))
    }

    /// The same target at another URL.
    pub(crate) fn at(target: &Target, url: &str) -> Result<Self, String> {
        Self::new(&Target { url: Some(url.into()), ..target.clone() })
    }

    /// The same target in another era.
    pub(crate) fn speaking(target: &Target, era: &str) -> Result<Self, String> {
        Self::new(&Target { era: era.into(), ..target.clone() })
    }

    fn modern(&self) -> bool {
        self.0.era.as_str() >= MODERN
    }
}

/// One client's session and the connection it holds.
pub(crate) struct Session {
    endpoint: Endpoint,
    sender: Option<SendRequest<Full<Bytes>>>,
    session_id: Option<HeaderValue>,
    /// Over HTTP+SSE, the one stream of answers and where to post.
    events: Option<(Events, String)>,
    pub(crate) version: String,
    /// Whether the last answer came as an event stream.
    pub(crate) streamed: bool,
    /// Whether calls ask for progress; the stateless era only.
    pub(crate) progress: bool,
    next_id: u64,
}

impl Session {
    /// Opens a session: the handshake of the older era, or server/discover.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, Fail> {
        let mut session = Self {
            endpoint: endpoint.clone(),
            sender: None,
            session_id: None,
            events: None,
            version: endpoint.0.era.clone(),
            streamed: false,
            progress: false,
            next_id: 1,
        };
        if matches!(endpoint.0.wire, Wire::Http { sse: true, .. }) {
            session.open_events().await?;
        }
        if endpoint.modern() {
            session.request("server/discover", None, "").await?;
            return Ok(session);
        }
        let params = format!(
            r#""protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"mcp-bench","version":"{}"}}"#,
            session.version,
            env!("CARGO_PKG_VERSION"),
        );
        let reply = session.request("initialize", None, &params).await?;
        #[derive(Deserialize)]
        struct Initialized {
            #[serde(rename = "protocolVersion")]
            version: String,
        }
        session.version = result::<Initialized>(&reply)?.version;
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        session.send("notifications/initialized", None, initialized.into(), None).await?;
        Ok(session)
    }

    /// Every tool's name, in the order listed.
    pub(crate) async fn tools(&mut self) -> Result<Vec<String>, Fail> {
        #[derive(Deserialize)]
        struct Page {
            tools: Vec<Tool>,
            #[serde(rename = "nextCursor")]
            next: Option<serde_json::Value>,
        }
        #[derive(Deserialize)]
        struct Tool {
            name: String,
        }
        let (mut names, mut params) = (Vec::new(), String::new());
        loop {
            let page: Page = result(&self.request("tools/list", None, &params).await?)?;
            names.extend(page.tools.into_iter().map(|t| t.name));
            match page.next {
                Some(cursor) if !cursor.is_null() => params = format!(r#""cursor":{cursor}"#),
                _ => return Ok(names),
            }
        }
    }

    /// The listed name of a tool given as `tool` or `upstream/tool`.
    pub(crate) async fn find(&mut self, wanted: &str) -> Result<String, Fail> {
        let names = self.tools().await?;
        let found = names.iter().find(|name| tool_matches(name, wanted));
        found.cloned().ok_or_else(|| Fail::new("no_tool", format!("{wanted} is not in {names:?}")))
    }

    /// Calls a tool; a result marked as an error is a failure.
    pub(crate) async fn call(&mut self, tool: &str, arguments: &str) -> Result<Reply, Fail> {
        #[derive(Deserialize)]
        struct Outcome {
            #[serde(default, rename = "isError")]
            is_error: bool,
        }
        let params = format!(r#""name":"{tool}","arguments":{arguments}"#);
        let reply = self.request("tools/call", Some(tool), &params).await?;
        if result::<Outcome>(&reply)?.is_error {
            return Err(Fail::new("tool_error", String::from_utf8_lossy(&reply.message)));
        }
        Ok(reply)
    }

    /// Like `call`, but no longer than `limit`; a late call loses its connection.
    pub(crate) async fn call_within(
        &mut self,
        limit: Duration,
        tool: &str,
        arguments: &str,
    ) -> Result<Reply, Fail> {
        match tokio::time::timeout(limit, self.call(tool, arguments)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.sender = None;
                Err(Fail::new("timeout", format!("no answer within {limit:?}")))
            }
        }
    }

    /// Ends the session, so that a stateful proxy can let go of what it holds for it.
    pub(crate) async fn close(mut self) {
        if let (Some(_), Wire::Http { .. }) = (&self.session_id, &self.endpoint.0.wire) {
            let end = self.exchange(Method::DELETE, "", None, Bytes::new());
            let _ = tokio::time::timeout(Duration::from_secs(2), end).await;
        }
    }

    async fn request(&mut self, method: &str, name: Option<&str>, params: &str) -> Result<Reply, Fail> {
        let id = self.next_id;
        self.next_id += 1;
        let meta = if self.endpoint.modern() {
            let comma = if params.is_empty() { "" } else { "," };
            let token = if self.progress { format!(r#","progressToken":{id}"#) } else { String::new() };
            format!(
                r#"{comma}"_meta":{{"{META_VERSION}":"{}","{META_CLIENT}":{{"name":"mcp-bench","version":"{}"}},"{META_CAPABILITIES}":{{}}{token}}}"#,
                self.version,
                env!("CARGO_PKG_VERSION"),
            )
        } else {
            String::new()
        };
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{meta}}}}}"#);
        let reply = self.send(method, name, body, Some(id)).await?;
        reply.ok_or_else(|| Fail::new("no_answer", format!("{method} was accepted without an answer")))
    }

    /// Sends one message and, where it has an id, reads its answer.
    async fn send(
        &mut self,
        method: &str,
        name: Option<&str>,
        body: String,
        id: Option<u64>,
    ) -> Result<Option<Reply>, Fail> {
        if let Wire::Stdio(mux) = &self.endpoint.0.wire {
            return mux.send(body, id).await;
        }
        let response = self.exchange(Method::POST, method, name, body.into()).await?;
        if self.events.is_some() {
            return self.receive(response, id).await;
        }
        let status = response.status();
        let stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if method == "initialize" {
            self.session_id = response.headers().get(HEADER_SESSION).cloned();
        }
        let body = response.into_body();
        if !status.is_success() {
            let text = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            return Err(Fail::new(format!("http_{}", status.as_u16()), String::from_utf8_lossy(&text)));
        }
        let Some(id) = id else {
            self.drain(body).await;
            return Ok(None);
        };
        self.streamed = stream;
        if stream {
            let mut events = Events { body, pending: Vec::new() };
            let reply = events.answer(id).await?;
            self.drain(events.body).await;
            return Ok(Some(reply));
        }
        let message = body.collect().await.map_err(|e| Fail::new("io", e))?.to_bytes();
        if !answers(&message, id) {
            return Err(Fail::new("bad_body", String::from_utf8_lossy(&message)));
        }
        Ok(Some(Reply { message, at: Instant::now() }))
    }

    async fn exchange(
        &mut self,
        verb: Method,
        method: &str,
        name: Option<&str>,
        body: Bytes,
    ) -> Result<Response<Incoming>, Fail> {
        match self.try_exchange(&verb, method, name, body.clone()).await {
            // The connection had been closed while idle and nothing was sent: use a new one.
            Err(fail) if fail.kind == "stale" => self.try_exchange(&verb, method, name, body).await,
            outcome => outcome,
        }
    }

    async fn try_exchange(
        &mut self,
        verb: &Method,
        method: &str,
        name: Option<&str>,
        body: Bytes,
    ) -> Result<Response<Incoming>, Fail> {
        let endpoint = self.endpoint.clone();
        let Wire::Http { authority, path, headers, .. } = &endpoint.0.wire else {
            unreachable!("only HTTP exchanges")
        };
        let path = self.events.as_ref().map_or(path, |(_, post)| post);
        let mut request = Request::builder()
            .method(verb)
            .uri(path)
            .header(HOST, authority)
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json");
        if method != "initialize" {
            request = request.header(HEADER_VERSION, &self.version);
        }
        if endpoint.modern() {
            request = request.header(HEADER_METHOD, method);
            if let Some(name) = name {
                request = request.header(HEADER_NAME, name);
            }
        }
        if let Some(id) = &self.session_id {
            request = request.header(HEADER_SESSION, id);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|e| Fail::new("request", e))?;
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(authority).await?,
        };
        sender.ready().await.map_err(|e| Fail::new("stale", e))?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|e| Fail::new(if e.is_canceled() { "stale" } else { "io" }, e))?;
        self.sender = Some(sender);
        Ok(response)
    }

    /// Opens the stream of the HTTP+SSE transport; its first event says where to post.
    async fn open_events(&mut self) -> Result<(), Fail> {
        let response = self.exchange(Method::GET, "", None, Bytes::new()).await?;
        let mut events = Events { body: response.into_body(), pending: Vec::new() };
        let post = String::from_utf8_lossy(&events.next().await?).into_owned();
        // The stream keeps its connection; posts get another.
        self.sender = None;
        let path =
            post.strip_prefix("http://").map_or(post.as_str(), |rest| &rest[rest.find('/').unwrap_or(0)..]);
        self.events = Some((events, path.to_owned()));
        Ok(())
    }

    /// Reads the answer to a message posted over the HTTP+SSE transport.
    async fn receive(&mut self, posted: Response<Incoming>, id: Option<u64>) -> Result<Option<Reply>, Fail> {
        let status = posted.status();
        self.drain(posted.into_body()).await;
        if !status.is_success() {
            return Err(Fail::new(format!("http_{}", status.as_u16()), "posting failed"));
        }
        let (Some(id), Some((events, _))) = (id, &mut self.events) else { return Ok(None) };
        self.streamed = true;
        events.answer(id).await.map(Some)
    }

    /// Reads a body to its end so that the connection can be used again, or gives the connection up.
    async fn drain(&mut self, body: Incoming) {
        let drained = tokio::time::timeout(Duration::from_secs(1), body.collect()).await;
        if !matches!(drained, Ok(Ok(_))) {
            self.sender = None;
        }
    }
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>, Fail> {
    let stream = tokio::net::TcpStream::connect(authority).await.map_err(|e| Fail::new("connect", e))?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| Fail::new("connect", e))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A stream of server-sent events.
struct Events {
    body: Incoming,
    pending: Vec<u8>,
}

impl Events {
    /// The data of the next event that has any.
    async fn next(&mut self) -> Result<Vec<u8>, Fail> {
        loop {
            while let Some((event, rest)) = split_event(&self.pending) {
                let data = event_data(&self.pending[..event]);
                self.pending.drain(..rest);
                if !data.is_empty() {
                    return Ok(data);
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(e)) => return Err(Fail::new("io", e)),
                None => return Err(Fail::new("stream_ended", "the event stream ended without an answer")),
            }
        }
    }

    /// Passes over notifications and late answers until the answer to `id`.
    async fn answer(&mut self, id: u64) -> Result<Reply, Fail> {
        loop {
            let message = self.next().await?;
            if answers(&message, id) {
                return Ok(Reply { message: message.into(), at: Instant::now() });
            }
        }
    }
}

/// The length of the first whole event and where the next one starts.
fn split_event(buffer: &[u8]) -> Option<(usize, usize)> {
    let find = |end: &[u8]| buffer.windows(end.len()).position(|w| w == end).map(|at| (at, at + end.len()));
    [find(b"\n\n"), find(b"\r\n\r\n")].into_iter().flatten().min()
}

fn event_data(event: &[u8]) -> Vec<u8> {
    let lines = event.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let data: Vec<_> = lines.filter_map(|l| l.strip_prefix(b"data:")).map(|d| d.trim_ascii_start()).collect();
    data.join(&b'\n')
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

fn answers(message: &[u8], id: u64) -> bool {
    serde_json::from_slice::<Envelope<'_>>(message).is_ok_and(|m| {
        let ours = m.id.is_some_and(|found| found.get().trim_matches('"').parse() == Ok(id));
        ours && (m.result.is_some() || m.error.is_some())
    })
}

/// The result in a reply, or the failure it reports.
fn result<'a, T: Deserialize<'a>>(reply: &'a Reply) -> Result<T, Fail> {
    let bad = |e: serde_json::Error| {
        Fail::new("bad_body", format!("{e}: {:?}", String::from_utf8_lossy(&reply.message)))
    };
    let envelope: Envelope<'_> = serde_json::from_slice(&reply.message).map_err(bad)?;
    match (envelope.result, envelope.error) {
        (Some(result), None) => serde_json::from_str(result.get()).map_err(bad),
        (_, Some(error)) => Err(Fail::new("rpc_error", error.get())),
        (None, None) => Err(Fail::new("bad_body", String::from_utf8_lossy(&reply.message))),
    }
}

/// One stdio server shared by every session of an endpoint; answers find their way back by id.
struct Mux {
    input: mpsc::Sender<String>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    last_id: u64,
    calls: HashMap<u64, tokio::sync::oneshot::Sender<Bytes>>,
}

impl Mux {
    fn start(command: &str) -> Result<Self, String> {
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("cannot start {command}: {e}"))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let output = child.stdout.take().expect("stdout is piped");
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let calls = waiting.clone();
        tokio::spawn(async move {
            let _child = child;
            let mut lines = BufReader::with_capacity(1 << 16, output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let id =
                    serde_json::from_str::<Envelope<'_>>(&line).ok().and_then(|m| m.id?.get().parse().ok());
                let call = id.and_then(|id| calls.lock().expect("no panic holds it").calls.remove(&id));
                if let Some(call) = call {
                    let _ = call.send(line.into());
                }
            }
            calls.lock().expect("no panic holds it").calls.clear();
        });
        // A full queue makes a session wait, as a full pipe would.
        let (input, mut lines) = mpsc::channel::<String>(64);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if stdin.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { input, waiting })
    }

    /// Sessions number their own requests, so each gets an id unique to the process here.
    async fn send(&self, body: String, id: Option<u64>) -> Result<Option<Reply>, Fail> {
        let (mut body, mut answer) = (body, None);
        if let Some(id) = id {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let mut waiting = self.waiting.lock().expect("no panic holds it");
            waiting.last_id += 1;
            let unique = waiting.last_id;
            waiting.calls.insert(unique, sender);
            body = body.replacen(&format!(r#""id":{id},"#), &format!(r#""id":{unique},"#), 1);
            answer = Some(receiver);
        }
        body.push('\n');
        self.input.send(body).await.map_err(|_| Fail::new("io", "the server closed its stdin"))?;
        let Some(answer) = answer else { return Ok(None) };
        let message = answer.await.map_err(|_| Fail::new("io", "the server closed its stdout"))?;
        Ok(Some(Reply { message, at: Instant::now() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_whatever_their_line_ends() {
        for stream in
            ["event: message\ndata: {\ndata: }\n\nrest", "event: message\r\ndata:{\r\ndata:}\r\n\r\nrest"]
        {
            let (event, next) = split_event(stream.as_bytes()).expect("a whole event");
            assert_eq!(event_data(&stream.as_bytes()[..event]), b"{\n}");
            assert_eq!(&stream[next..], "rest");
        }
        assert!(split_event(b"data: {}\n").is_none());
        assert!(event_data(b": keep-alive").is_empty());
    }

    #[test]
    fn knows_its_answer() {
        assert!(answers(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#, 7));
        assert!(answers(br#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}"#, 7));
        assert!(!answers(br#"{"jsonrpc":"2.0","id":8,"result":{}}"#, 7));
        assert!(!answers(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, 7));
    }
}
