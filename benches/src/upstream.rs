//! The fake upstream MCP server: fast when well, and able to hang, stall or crash on request.

use crate::proto::*;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

#[derive(clap::Args, Clone)]
pub(crate) struct Opts {
    /// Serve Streamable HTTP on this address, at any path.
    #[arg(long, required_unless_present = "stdio")]
    listen: Option<SocketAddr>,
    /// Serve stdin and stdout.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) stdio: bool,
    /// Protocol eras to speak.
    #[arg(long, value_enum, default_value = "both")]
    eras: Eras,
    /// Answer requests as text/event-stream (HTTP only).
    #[arg(long)]
    sse: bool,
    /// Do not hand out or require Mcp-Session-Id in the older era (HTTP only).
    #[arg(long)]
    sessionless: bool,
    /// Ignored; marks the process for whoever started it.
    #[arg(long)]
    tag: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq)]
enum Eras {
    Legacy,
    Modern,
    Both,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

impl<'a> Message<'a> {
    /// The version a modern request names for itself.
    fn version(&self) -> Option<&'a str> {
        self.params.as_ref()?.meta.as_ref()?.version
    }
}

#[derive(Deserialize)]
struct Params<'a> {
    name: Option<&'a str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(rename = "protocolVersion")]
    version: Option<&'a str>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a str>,
}

/// What to do about one message.
enum Action {
    Reply(String),
    ReplyAfter(Duration, String),
    Refuse(String),
    Nothing,
    NeverReply,
    Stall,
    Crash,
}

struct Server {
    eras: Eras,
    tools: String,
    executions: HashMap<String, u64>,
}

impl Server {
    fn new(eras: Eras) -> Self {
        let tool = |name: &str, what: &str, properties: serde_json::Value| {
            json!({"name": name, "description": what,
                   "inputSchema": {"type": "object", "properties": properties}})
        };
        let tools = json!([
            tool("echo", "Returns its text.", json!({"text": {"type": "string"}})),
            tool("sleep", "Answers after ms.", json!({"ms": {"type": "integer"}})),
            tool("hang", "Never answers.", json!({})),
            tool("blob", "Returns n bytes.", json!({"n": {"type": "integer"}})),
            tool(
                "count",
                "Counts its executions by key, each taking ms.",
                json!({"key": {"type": "string"}, "ms": {"type": "integer"}})
            ),
            tool("crash", "Exits the process.", json!({})),
            tool("stall_stdout", "Stops reading and writing for good.", json!({})),
        ]);
        Self { eras, tools: tools.to_string(), executions: HashMap::new() }
    }

    fn handle(&mut self, message: &Message<'_>) -> Action {
        let (Some(method), Some(id)) = (message.method, message.id) else {
            return Action::Nothing;
        };
        let id = id.get();
        let modern = match self.is_modern(message) {
            Ok(modern) => modern,
            Err(error) => return Action::Refuse(error_message(id, error)),
        };
        let reply = |result: serde_json::Value| Action::Reply(result_message(id, &result.to_string()));
        let identity = json!({"name": "mcp-bench-upstream", "version": env!("CARGO_PKG_VERSION")});
        match method {
            "tools/call" => self.call(id, modern, message.params.as_ref()),
            "tools/list" => {
                let cache = if modern {
                    r#","resultType":"complete","ttlMs":60000,"cacheScope":"public""#
                } else {
                    ""
                };
                let result = format!(r#"{{"tools":{}{cache}}}"#, self.tools);
                Action::Reply(result_message(id, &result))
            }
            "server/discover" if modern => reply(json!({
                "resultType": "complete", "ttlMs": 60000, "cacheScope": "public",
                "supportedVersions": self.versions(), "capabilities": {"tools": {}},
                "_meta": {META_SERVER: identity},
            })),
            "initialize" if !modern => {
                let asked = message.params.as_ref().and_then(|p| p.version).unwrap_or_default();
                let version = LEGACY.iter().find(|v| **v == asked).unwrap_or(&LEGACY[0]);
                reply(
                    json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": identity}),
                )
            }
            "ping" if !modern => reply(json!({})),
            _ => Action::Refuse(error_message(id, (METHOD_NOT_FOUND, "Method not found".into(), None))),
        }
    }

    fn versions(&self) -> Vec<&'static str> {
        let modern = (self.eras != Eras::Legacy).then_some(MODERN);
        let legacy = (self.eras != Eras::Modern).then_some(LEGACY);
        modern.into_iter().chain(legacy.into_iter().flatten()).collect()
    }

    /// Whether the request is of the modern era, or the error for a version not served.
    fn is_modern(&self, message: &Message<'_>) -> Result<bool, Failure> {
        match message.version() {
            Some(MODERN) if self.eras != Eras::Legacy => Ok(true),
            Some(_) if self.eras == Eras::Legacy => Ok(false),
            None if self.eras != Eras::Modern => Ok(false),
            asked => Err((
                UNSUPPORTED_VERSION,
                "Unsupported protocol version".into(),
                Some(json!({"supported": self.versions(), "requested": asked})),
            )),
        }
    }

    fn call(&mut self, id: &str, modern: bool, params: Option<&Params<'_>>) -> Action {
        #[derive(Deserialize, Default)]
        struct Arguments<'a> {
            #[serde(borrow)]
            text: Option<&'a RawValue>,
            key: Option<String>,
            ms: Option<u64>,
            n: Option<usize>,
        }
        let arguments = params.and_then(|p| p.arguments).map_or("{}", RawValue::get);
        let Ok(arguments) = serde_json::from_str::<Arguments<'_>>(arguments) else {
            return Action::Reply(error_message(id, (INVALID_PARAMS, "Bad arguments".into(), None)));
        };
        let text = |text: &str| {
            let kind = if modern { r#","resultType":"complete""# } else { "" };
            result_message(
                id,
                &format!(r#"{{"content":[{{"type":"text","text":{text}}}],"isError":false{kind}}}"#),
            )
        };
        let pause = Duration::from_millis(arguments.ms.unwrap_or(0));
        match params.and_then(|p| p.name).unwrap_or_default() {
            "echo" => Action::Reply(text(arguments.text.map_or("\"\"", RawValue::get))),
            "sleep" => Action::ReplyAfter(pause, text("\"slept\"")),
            "blob" => Action::Reply(text(&format!("\"{}\"", "x".repeat(arguments.n.unwrap_or(0))))),
            "count" => {
                let executions = self.executions.entry(arguments.key.unwrap_or_default()).or_default();
                *executions += 1;
                Action::ReplyAfter(pause, text(&format!("\"{executions} in {}\"", std::process::id())))
            }
            "hang" => Action::NeverReply,
            "crash" => Action::Crash,
            "stall_stdout" => Action::Stall,
            _ => Action::Reply(error_message(id, (INVALID_PARAMS, "Unknown tool".into(), None))),
        }
    }
}

type Failure = (i32, String, Option<serde_json::Value>);

fn result_message(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn error_message(id: &str, (code, message, data): Failure) -> String {
    let mut error = json!({"code": code, "message": message});
    if let Some(data) = data {
        error["data"] = data;
    }
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

fn crash() -> ! {
    std::process::exit(42)
}

fn stall() -> ! {
    loop {
        std::thread::park();
    }
}

/// Serves stdin and stdout until stdin ends.
pub(crate) fn serve_stdio(opts: &Opts) {
    let mut server = Server::new(opts.eras);
    let mut input = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let (mut line, mut output) = (Vec::new(), Vec::new());
    // Late answers come from other threads, so stdout is locked for each write only.
    let write = |bytes: &[u8]| {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).is_ok()
    };
    loop {
        line.clear();
        if !matches!(input.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&line) else {
            continue;
        };
        match server.handle(&message) {
            Action::Reply(text) | Action::Refuse(text) => output.extend([text.as_bytes(), b"\n"].concat()),
            Action::ReplyAfter(pause, text) => drop(std::thread::spawn(move || {
                std::thread::sleep(pause);
                let mut stdout = std::io::stdout().lock();
                let _ = stdout.write_all(format!("{text}\n").as_bytes()).and_then(|()| stdout.flush());
            })),
            Action::Nothing | Action::NeverReply => {}
            Action::Stall => stall(),
            Action::Crash => crash(),
        }
        // Flush once no further whole line waits to be read.
        if !output.is_empty() && !input.buffer().contains(&b'\n') {
            if !write(&output) {
                return;
            }
            output.clear();
        }
    }
}

/// One HTTP upstream: single-threaded, so that a stall stops all of it.
struct HttpState {
    server: Server,
    sessions: HashSet<String>,
    sse: bool,
    sessionless: bool,
}

/// Serves HTTP until the process ends; an error where the address cannot be had.
pub(crate) async fn serve_http(opts: Opts) -> Result<(), String> {
    let address = opts.listen.expect("clap requires it");
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address}: {e}"))?;
    let state = Rc::new(RefCell::new(HttpState {
        server: Server::new(opts.eras),
        sessions: HashSet::new(),
        sse: opts.sse,
        sessionless: opts.sessionless,
    }));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let state = state.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(|request| respond(state.clone(), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
        .await
}

async fn respond(
    state: Rc<RefCell<HttpState>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Ok(response)
    };
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    if head.method == Method::DELETE {
        let ended = header(HEADER_SESSION).is_some_and(|s| state.borrow_mut().sessions.remove(s));
        return plain(if ended { StatusCode::OK } else { StatusCode::METHOD_NOT_ALLOWED });
    }
    if head.method != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(body) = body.collect().await else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let body = body.to_bytes();
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let initialize = message.method == Some("initialize");
    let mut session = None;
    let modern;
    let action = {
        let mut state = state.borrow_mut();
        modern = message.version().is_some() && state.server.eras != Eras::Legacy;
        if modern && let Err(why) = mirrored(&head.headers, &message) {
            let id = message.id.map_or("null", RawValue::get);
            Action::Refuse(error_message(id, (HEADER_MISMATCH, why, None)))
        } else {
            if !modern && !state.sessionless {
                match header(HEADER_SESSION) {
                    _ if initialize => {
                        let id = format!("{:016x}{:016x}", random(), random());
                        state.sessions.insert(id.clone());
                        session = Some(id);
                    }
                    Some(id) if state.sessions.contains(id) => {}
                    Some(_) => return plain(StatusCode::NOT_FOUND),
                    None if state.server.eras == Eras::Modern => {}
                    None => return plain(StatusCode::BAD_REQUEST),
                }
            }
            state.server.handle(&message)
        }
    };
    let (status, text) = match action {
        Action::Reply(text) => (StatusCode::OK, text),
        Action::ReplyAfter(pause, text) => {
            tokio::time::sleep(pause).await;
            (StatusCode::OK, text)
        }
        // The modern era gives protocol errors an HTTP status; the older one answers 200.
        Action::Refuse(text) if !modern => (StatusCode::OK, text),
        Action::Refuse(text) if text.contains("-32601") => (StatusCode::NOT_FOUND, text),
        Action::Refuse(text) => (StatusCode::BAD_REQUEST, text),
        Action::Nothing => return plain(StatusCode::ACCEPTED),
        Action::NeverReply => std::future::pending().await,
        Action::Stall => stall(),
        Action::Crash => crash(),
    };
    let sse = state.borrow().sse && status == StatusCode::OK;
    let (kind, text) = if sse {
        ("text/event-stream", format!("event: message\ndata: {text}\n\n"))
    } else {
        ("application/json", text)
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(id) = session {
        let id = HeaderValue::from_str(&id).expect("hex is a header value");
        response.headers_mut().insert(HEADER_SESSION, id);
    }
    Ok(response)
}

/// Checks the modern era's headers against the body they mirror.
fn mirrored(headers: &HeaderMap, message: &Message<'_>) -> Result<(), String> {
    let name = message.params.as_ref().and_then(|p| p.name);
    for (header, expected) in
        [(HEADER_VERSION, message.version()), (HEADER_METHOD, message.method), (HEADER_NAME, name)]
    {
        let found = headers.get(header).and_then(|v| v.to_str().ok());
        if expected.is_some() && found != expected {
            return Err(format!("Header mismatch: {header} is {found:?}, the body says {expected:?}"));
        }
    }
    Ok(())
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
