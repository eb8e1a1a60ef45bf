//! The oldest HTTP transport: one stream that carries everything, and a path that messages are posted to.
#![expect(
    clippy::disallowed_methods,
    reason = "a client of this transport reads its stream in a task of its own"
)]

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use seawall_tests::{
    Daemon, JSON, PATIENCE, Response, Transport, Upstream, caller, eventually, send, well, within,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);
const NOT_OPENED: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

/// A client of the transport. Dropped, it closes its stream.
struct Session {
    url: String,
    token: Option<String>,
    /// The type and the data of each event.
    events: mpsc::UnboundedReceiver<(String, String)>,
    tasks: [JoinHandle<()>; 2],
    id: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Session {
    /// Opens the stream and learns the path of the messages.
    async fn connect(daemon: &Daemon, token: Option<&str>) -> Self {
        Self::try_connect(daemon, token).await.expect("a stream is opened")
    }

    /// Opens the stream like [`Session::connect`], or gives the status that refused it.
    async fn try_connect(daemon: &Daemon, token: Option<&str>) -> Result<Self, u16> {
        let base = daemon.url("");
        let authority = base.trim_start_matches("http://");
        let socket = TcpStream::connect(authority).await.expect("the daemon listens");
        let (mut sender, connection) = handshake(TokioIo::new(socket)).await.expect("HTTP is spoken");
        let connection = tokio::spawn(async move {
            // What goes wrong shows in the stream as well.
            let _ = connection.await;
        });
        let mut request =
            Request::get("/sse").header("host", authority).header("accept", "text/event-stream");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("every part is valid");
        let response = sender.send_request(request).await.expect("an answer comes");
        if response.status() != 200 {
            connection.abort();
            return Err(response.status().as_u16());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{response:?}");

        let (found, events) = mpsc::unbounded_channel();
        let mut body = response.into_body();
        let reader = tokio::spawn(async move {
            // The connection ends with its last sender.
            let _sender = sender;
            let mut pending = String::new();
            while let Some(Ok(frame)) = body.frame().await {
                pending.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |data| data)));
                while let Some((event, rest)) = pending.split_once("\n\n") {
                    let field = |name: &str| {
                        event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                    };
                    if let (Some(kind), Some(data)) = (field("event: "), field("data: ")) {
                        // An error means that the test has seen enough.
                        let _ = found.send((kind, data));
                    }
                    pending = rest.to_owned();
                }
            }
        });
        let tasks = [connection, reader];
        let token = token.map(str::to_owned);
        let mut session = Self { url: String::new(), token, events, tasks, id: 0 };
        let (kind, path) = session.event().await.expect("a stream begins with an event");
        assert_eq!(kind, "endpoint");
        assert!(path.starts_with("/sse/message?session="), "{path}");
        session.url = format!("{base}{path}");
        Ok(session)
    }

    /// Opens the stream and the session on it.
    async fn open(daemon: &Daemon, capabilities: &Value) -> Self {
        let mut session = Self::connect(daemon, None).await;
        let params = json!({
            "protocolVersion": "2024-11-05",
            "capabilities": capabilities,
            "clientInfo": {"name": "seawall-tests", "version": "1"},
        });
        let id = session.request("initialize", &params).await;
        let (answer, before) = session.answer(id).await;
        assert_eq!(answer["result"]["protocolVersion"], "2024-11-05", "{answer}");
        assert!(before.is_empty(), "something came before the session was open: {before:?}");
        session.notify("notifications/initialized", &json!({})).await;
        session
    }

    /// The next event; none when the stream has ended.
    async fn event(&mut self) -> Option<(String, String)> {
        within("an event on the stream", PATIENCE, self.events.recv()).await
    }

    /// The next message.
    async fn message(&mut self) -> Value {
        let (kind, data) = self.event().await.expect("the stream goes on");
        assert_eq!(kind, "message", "{data}");
        serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data:?}"))
    }

    async fn post(&self, message: &Value) -> Response {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = JSON.to_vec();
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        send(&self.url, "POST", &headers, message.to_string()).await
    }

    /// Posts a request and gives its id.
    async fn request(&mut self, method: &str, params: &Value) -> u64 {
        self.id += 1;
        let message = json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params});
        let response = self.post(&message).await;
        assert_eq!((response.status, response.body.as_str()), (202, ""), "{method}: {response:?}");
        self.id
    }

    async fn notify(&self, method: &str, params: &Value) {
        let response = self.post(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
        assert_eq!(response.status, 202, "{method}: {response:?}");
    }

    /// The response to a request, and what came before it.
    async fn answer(&mut self, id: u64) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let message = self.message().await;
            if message["id"] == id && message.get("method").is_none() {
                return (message, before);
            }
            before.push(message);
        }
    }

    /// Calls a tool and gives the text it answers with.
    async fn call(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.request("tools/call", &json!({"name": tool, "arguments": arguments})).await;
        let (answer, _) = self.answer(id).await;
        let text = answer["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text came: {answer}")).to_owned()
    }
}

/// A daemon with one server called `it`.
async fn with_it() -> (Daemon, Upstream) {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    (Daemon::start(it.table()).await, it)
}

#[tokio::test]
async fn it_lists_and_calls() {
    let (daemon, _it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({})).await;
    let id = session.request("tools/list", &json!({})).await;
    let (list, _) = session.answer(id).await;
    let tools = list["result"]["tools"].as_array().expect("a list comes");
    assert!(tools.iter().any(|tool| tool["name"] == "it__echo"), "{list}");
    assert_eq!(session.call("it__echo", json!({"text": "hello"})).await, "hello");
    let id = session.request("ping", &json!({})).await;
    assert_eq!(session.answer(id).await.0["result"], json!({}));
    let id = session.request("no/such", &json!({})).await;
    assert_eq!(session.answer(id).await.0["error"]["code"], -32601);
    // Both calls are of one conversation, which has one process.
    let first = session.call("it__conversation", json!({})).await;
    let second = session.call("it__conversation", json!({})).await;
    assert_eq!((first.as_str(), second.as_str()), ("1", "2"));
}

#[tokio::test]
async fn progress_comes_before_the_result() {
    let (daemon, _it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({})).await;
    let arguments = json!({"ms": 300, "steps": 3});
    let params = json!({"name": "it__slow", "arguments": arguments, "_meta": {"progressToken": "mine"}});
    let id = session.request("tools/call", &params).await;
    let (answer, before) = session.answer(id).await;
    assert_eq!(answer["result"]["content"][0]["text"], "slow", "{answer}");
    let steps: Vec<_> = before
        .iter()
        .filter(|message| message["method"] == "notifications/progress")
        .map(|message| (&message["params"]["progressToken"], message["params"]["progress"].as_u64()))
        .collect();
    let mine = json!("mine");
    assert_eq!(steps, [1, 2, 3].map(|step| (&mine, Some(step))), "{before:?}");
}

#[tokio::test]
async fn a_call_that_is_taken_back_ends_without_an_answer() {
    let (daemon, it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({})).await;
    let id = session.request("tools/call", &json!({"name": "it__hang", "arguments": {}})).await;
    it.record().until_called("hang").await;
    session.notify("notifications/cancelled", &json!({"requestId": id})).await;
    it.record().until("the call is taken back upstream", |entry| entry["event"] == "cancelled").await;
    daemon.until_idle().await;

    let next = session.request("tools/call", &json!({"name": "it__echo", "arguments": {"text": "x"}})).await;
    let (_, before) = session.answer(next).await;
    assert!(!before.iter().any(|message| message["id"] == id), "it was answered: {before:?}");
}

#[tokio::test]
async fn a_question_comes_on_the_stream_and_its_answer_is_posted() {
    let (daemon, _it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({"sampling": {}})).await;
    let id = session.request("tools/call", &json!({"name": "it__ask_sample", "arguments": {}})).await;
    let question = loop {
        let message = session.message().await;
        if message["method"] == "sampling/createMessage" {
            break message;
        }
        assert_ne!(message["id"], id, "it ended without a question: {message}");
    };
    let content = json!({"type": "text", "text": "Hello from the model."});
    let result = json!({"role": "assistant", "model": "none", "content": content});
    let posted = session.post(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result})).await;
    assert_eq!(posted.status, 202, "{posted:?}");
    let (answer, _) = session.answer(id).await;
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(text.contains("Hello from the model."), "{answer}");
}

#[tokio::test]
async fn changed_tools_are_told_on_the_stream() {
    let (daemon, _it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({})).await;
    assert_eq!(session.call("it__echo", json!({"text": "x"})).await, "x");
    session.request("tools/call", &json!({"name": "it__add_tool", "arguments": {}})).await;
    // What is told is there: the list that follows has the tool, unless the message told of something earlier.
    let mut listed = None;
    loop {
        let message = session.message().await;
        if message["method"] == "notifications/tools/list_changed" {
            listed = Some(session.request("tools/list", &json!({})).await);
        } else if listed.is_some_and(|listed| message["id"] == listed)
            && message["result"].to_string().contains("it__added_1")
        {
            break;
        }
    }
    assert_eq!(session.call("it__added_1", json!({})).await, "added_1");
}

#[tokio::test]
async fn what_belongs_to_no_session_is_refused() {
    let tables = caller("one", "token-one", &["*"]) + &caller("other", "token-other", &["*"]) + &well();
    let daemon = Daemon::start(&tables).await;
    let refused = send(&daemon.url("/sse"), "GET", &[], "").await;
    assert_eq!(refused.status, 401, "{refused:?}");

    let mut session = Session::connect(&daemon, Some("token-one")).await;
    let message: Value = serde_json::from_str(NOT_OPENED).expect("it is JSON");
    let early = session.post(&message).await;
    assert!(early.status == 400 && early.body.contains("initialize"), "{early:?}");

    session.token = Some("token-other".to_owned());
    assert_eq!(session.post(&message).await.status, 404, "another caller's session");
    session.token = Some("token-one".to_owned());
    for query in ["", "?session=", "?session=made-up"] {
        session.url = daemon.url(&format!("/sse/message{query}"));
        assert_eq!(session.post(&message).await.status, 404, "{query:?}");
    }
}

#[tokio::test]
async fn the_end_of_the_stream_ends_the_session() {
    let (daemon, it) = with_it().await;
    let mut session = Session::open(&daemon, &json!({})).await;
    // Only reads, so it is taken back when nobody waits for it.
    session.request("tools/call", &json!({"name": "it__hang_read", "arguments": {}})).await;
    it.record().until_called("hang_read").await;
    assert_eq!(daemon.status().await["conversations"], 1);

    let url = session.url.clone();
    drop(session);
    daemon.until_no_conversation().await;
    daemon.until_idle().await;
    assert_eq!(send(&url, "POST", &JSON, NOT_OPENED).await.status, 404);
    let none = async || {
        let instances = daemon.status().await["upstreams"][0]["instances"].clone();
        instances.as_array().is_some_and(Vec::is_empty)
    };
    eventually("the conversation's process ends with it", SOON, none).await;
}

#[tokio::test]
async fn streams_count_as_sessions() {
    let daemon = Daemon::start(&format!("[limits]\nsessions = 1\n{}", well())).await;
    let first = Session::connect(&daemon, None).await;
    assert_eq!(Session::try_connect(&daemon, None).await.err(), Some(503));
    drop(first);
    let has_room = async || Session::try_connect(&daemon, None).await.is_ok();
    eventually("there is room again", SOON, has_room).await;
}

#[tokio::test]
async fn what_is_under_way_is_answered_before_the_stream_of_a_stopping_daemon_ends() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let daemon = Daemon::start(&format!("grace = \"10s\"\n{}", it.table())).await;
    let mut session = Session::open(&daemon, &json!({})).await;
    let id = session.request("tools/call", &json!({"name": "it__late", "arguments": {"ms": 1500}})).await;
    it.record().until_called("late").await;
    daemon.signal(rustix::process::Signal::TERM);
    let (answer, _) = session.answer(id).await;
    assert_eq!(answer["result"]["content"][0]["text"], "late", "{answer}");
    while let Some((_, data)) = session.event().await {
        assert!(data.contains("list_changed"), "{data}");
    }
}
