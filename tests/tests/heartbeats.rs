//! A long call that has to wait for its place tells all the time that it goes on, over every way in to the daemon.
//!
//! The call is scaled down. `SEAWALL_FULL=1` makes it the whole thing: thirty seconds of work after ten in the line.
#![expect(
    clippy::disallowed_methods,
    reason = "a test starts the bridge itself, and drives its own connections"
)]

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use seawall_tests::{
    Call, Client, Daemon, Era, JSON, PATIENCE, Transport, Upstream, binary, eventually, note, request_text,
    send, within,
};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often a call tells that it goes on; the server's table says the same.
const EVERY: Duration = Duration::from_secs(2);
/// What a loaded machine may add to that.
const SLACK: Duration = Duration::from_millis(1500);
/// The id of the call, and its progress token.
const ID: u64 = 77;
/// How often the server itself tells of progress.
const STEPS: u64 = 2;
/// What a place in the line is told with.
const WAITING: (&str, &str) = ("waiting for a place: ", " ahead");

/// What follows the answer to the beginning of a session.
const OPENED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A message, and when it came.
type Heard = (Instant, Value);

/// How long the only place is taken, and how long the work lasts after that.
fn lengths() -> (Duration, Duration) {
    let is = |name: &str, wanted: &str| std::env::var(name).is_ok_and(|value| value == wanted);
    if is("SEAWALL_FULL", "1") || is("SEAWALL_TEST_SIZE", "full") {
        (Duration::from_secs(10), Duration::from_secs(30))
    } else {
        (Duration::from_secs(4), Duration::from_secs(12))
    }
}

/// A daemon with a server that has one place.
struct Scene {
    daemon: Daemon,
    _it: Upstream,
}

impl Scene {
    async fn start() -> Self {
        let keys = "sharing = \"everyone\"\nlimit = 1\nheartbeat = \"2s\"";
        let it = Upstream::start(Transport::Stdio, "it", &[], keys).await;
        Self { daemon: Daemon::start(it.table()).await, _it: it }
    }

    /// Starts a call that takes the only place for a while.
    async fn take_the_place(&self) -> Call {
        let client = Client::modern(&self.daemon.url("/mcp"), None);
        eventually("the tools are listed", PATIENCE, async || client.list().await.has("it__slow")).await;
        let arguments = format!(r#"{{"ms":{}}}"#, lengths().0.as_millis());
        let call = client.start_call("it__late", &arguments);
        let taken =
            async || self.daemon.status().await["permits"].as_array().is_some_and(|all| all.len() == 1);
        eventually("the only place is taken", PATIENCE, taken).await;
        call
    }

    /// Asserts that the call, which began at that moment, told in time that it goes on, and ended with its result.
    /// `in_the_way` had its place before.
    async fn check(self, began: Instant, heard: &[Heard], in_the_way: Call) {
        let (ended, answer) = heard.last().expect("at least the answer was heard");
        assert_eq!(answer["result"]["content"][0]["text"], "slow", "{answer:#}");
        let told: Vec<(Instant, &Value)> = heard
            .iter()
            .filter(|(_, message)| message["method"] == "notifications/progress")
            .map(|(at, message)| (*at, &message["params"]))
            .collect();
        assert!(told.iter().all(|(_, params)| params["progressToken"] == ID), "{told:#?}");

        let times = || told.iter().map(|(at, _)| *at);
        let gaps = std::iter::once(began).chain(times()).zip(times().chain([*ended]));
        let longest = gaps.map(|(from, to)| to - from).max().expect("there is one more than was told");
        let (held, work) = lengths();
        note(&format!("{} signs of life in {:.1?}, at most {longest:.1?} apart", told.len(), *ended - began));
        assert!(longest <= EVERY + SLACK, "nothing was told for {longest:?}: {told:#?}");
        assert!(*ended - began >= work, "the work did not last as long as it should");

        let values: Vec<f64> = told.iter().filter_map(|(_, params)| params["progress"].as_f64()).collect();
        assert_eq!(values.len(), told.len(), "progress without a number: {told:#?}");
        assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "progress did not rise: {values:?}");
        let has_own = (1..=STEPS).all(|step| values.contains(&(step as f64)));
        assert!(has_own, "the server's own progress is missing: {values:?}");

        // In the last second of the wait the call may have its place already, but not when it tells for the first
        // time.
        let queued = told.iter().filter(|(at, _)| *at - began + Duration::from_secs(1) < held).count();
        for (_, params) in &told[..queued.max(1)] {
            let text = params["message"].as_str().unwrap_or_default();
            let number = text.strip_prefix(WAITING.0).and_then(|rest| rest.strip_suffix(WAITING.1));
            assert!(number.is_some_and(|number| number.parse::<usize>().is_ok()), "{text:?}: {told:#?}");
        }
        assert_eq!(in_the_way.answer().await.said(), "late");
        self.daemon.until_idle().await;
    }
}

/// The call under its id, as a client of this era writes it.
fn call(era: Era) -> String {
    let work = lengths().1.as_millis();
    let params = format!(r#"{{"name":"it__slow","arguments":{{"ms":{work},"steps":{STEPS}}}}}"#);
    request_text(era, ID, "tools/call", &params, true)
}

/// The beginning of a session, as request 1, in this version of the protocol.
fn opening(version: &str) -> String {
    let client = json!({"name": "seawall-tests", "version": "1"});
    let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client});
    request_text(Era::Legacy, 1, "initialize", &params.to_string(), false)
}

/// Whether this is the answer to a request.
fn is_answer(message: &Value, id: u64) -> bool {
    message["id"] == id && message.get("method").is_none()
}

/// All that is heard until the call is answered. `next` gives the next message.
async fn until_answered(mut next: impl AsyncFnMut() -> Value) -> Vec<Heard> {
    let (held, work) = lengths();
    within("the answer to the long call", held + work + PATIENCE, async {
        let mut heard = Vec::new();
        loop {
            let message = next().await;
            let last = is_answer(&message, ID);
            heard.push((Instant::now(), message));
            if last {
                return heard;
            }
        }
    })
    .await
}

/// A stream of events. Dropped, it closes its connection.
struct Stream {
    body: Incoming,
    pending: String,
    // Kept because the connection ends with its last sender.
    _sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// Makes a request whose answer is a stream of events.
    async fn open(daemon: &Daemon, verb: &str, path: &str, headers: &[(&str, &str)], body: String) -> Self {
        let base = daemon.url("");
        let authority = base.trim_start_matches("http://");
        let socket = TcpStream::connect(authority).await.expect("the daemon listens");
        let (mut sender, connection) = handshake(TokioIo::new(socket)).await.expect("HTTP is spoken");
        let connection = tokio::spawn(async move {
            // What goes wrong shows in the stream as well.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(verb).uri(path).header("host", authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("every part is valid");
        let began = Instant::now();
        let response = sender.send_request(request).await.expect("an answer comes");
        assert!(began.elapsed() <= Duration::from_secs(1) + SLACK, "no headers for {:?}", began.elapsed());
        assert_eq!(response.headers()["content-type"], "text/event-stream", "{response:?}");
        Self { body: response.into_body(), pending: String::new(), _sender: sender, connection }
    }

    /// The data of the next event that has any.
    async fn data(&mut self) -> String {
        loop {
            while let Some((event, rest)) = self.pending.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                self.pending = rest.to_owned();
                if let Some(data) = data.filter(|data| !data.is_empty()) {
                    return data;
                }
            }
            let frame = self.body.frame().await.expect("the stream goes on").expect("the stream is whole");
            let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
            self.pending.push_str(&String::from_utf8_lossy(bytes));
        }
    }

    /// The next message.
    async fn message(&mut self) -> Value {
        let data = self.data().await;
        serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data:?}"))
    }
}

#[tokio::test]
async fn over_http_with_a_session() {
    let scene = Scene::start().await;
    let client = Client::legacy(&scene.daemon.url("/mcp"), None).await;
    let session = client.session().expect("it has a session").to_owned();
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let headers = [&JSON[..], &headers[..]].concat();
    let in_the_way = scene.take_the_place().await;
    let began = Instant::now();
    let mut stream = Stream::open(&scene.daemon, "POST", "/mcp", &headers, call(Era::Legacy)).await;
    let heard = until_answered(async || stream.message().await).await;
    scene.check(began, &heard, in_the_way).await;
}

#[tokio::test]
async fn over_http_without_a_session() {
    let scene = Scene::start().await;
    let headers =
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "it__slow")];
    let headers = [&JSON[..], &headers[..]].concat();
    let in_the_way = scene.take_the_place().await;
    let began = Instant::now();
    let mut stream = Stream::open(&scene.daemon, "POST", "/mcp", &headers, call(Era::Modern)).await;
    let heard = until_answered(async || stream.message().await).await;
    scene.check(began, &heard, in_the_way).await;
}

#[tokio::test]
async fn over_the_transport_with_one_stream_of_events() {
    let scene = Scene::start().await;
    let accept = [("accept", "text/event-stream")];
    let mut stream = Stream::open(&scene.daemon, "GET", "/sse", &accept, String::new()).await;
    let place = scene.daemon.url(&stream.data().await);
    let post = async |message: String| {
        let response = send(&place, "POST", &JSON, message).await;
        assert_eq!(response.status, 202, "{response:?}");
    };
    post(opening("2024-11-05")).await;
    while !is_answer(&stream.message().await, 1) {}
    post(OPENED.to_owned()).await;

    let in_the_way = scene.take_the_place().await;
    let began = Instant::now();
    post(call(Era::Legacy)).await;
    let heard = until_answered(async || stream.message().await).await;
    scene.check(began, &heard, in_the_way).await;
}

#[tokio::test]
async fn over_the_bridge_with_a_session() {
    Box::pin(over_the_bridge(Era::Legacy)).await;
}

#[tokio::test]
async fn over_the_bridge_without_a_session() {
    Box::pin(over_the_bridge(Era::Modern)).await;
}

async fn over_the_bridge(era: Era) {
    let scene = Scene::start().await;
    let mut bridge = Bridge::start(&scene.daemon);
    // The bridge has found the daemon before time is taken.
    let first = match era {
        Era::Legacy => opening("2025-11-25"),
        Era::Modern => request_text(era, 1, "server/discover", "{}", false),
    };
    bridge.say(&first).await;
    while !is_answer(&bridge.message().await, 1) {}
    if era == Era::Legacy {
        bridge.say(OPENED).await;
    }
    let in_the_way = scene.take_the_place().await;
    let began = Instant::now();
    bridge.say(&call(era)).await;
    let heard = until_answered(async || bridge.message().await).await;
    scene.check(began, &heard, in_the_way).await;
}

/// A bridge, and its client's side of the pipes.
struct Bridge {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Bridge {
    fn start(daemon: &Daemon) -> Self {
        let mut command = Command::new(binary("seawall"));
        command.args(["stdio", "--no-start", "--config"]).arg(daemon.configuration());
        command.env_clear().env("HOME", daemon.directory()).current_dir(daemon.directory());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the bridge starts");
        let stdin = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { _child: child, stdin, lines }
    }

    async fn say(&mut self, message: &str) {
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.expect("the bridge reads");
    }

    /// The next message.
    async fn message(&mut self) -> Value {
        let line = self.lines.next_line().await.expect("the bridge writes").expect("the bridge goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}
