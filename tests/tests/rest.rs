//! Calls over plain HTTP: what comes back, with which status, as a body and as a stream, and what is sent on.

use rustix::process::Signal;
use seawall_tests::{
    Daemon, Listening, Response, Transport, Upstream, caller, eventually, quoted, send, within,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_secs(1);

const TYPE: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("accept", "text/event-stream");
const ECHO: &str = r#"{"tool":"it__echo","arguments":{"text":"said"}}"#;
const PLAIN: &str = r#"{"tool":"echo","arguments":{"text":"plain"}}"#;
const HANG: &str = r#"{"tool":"it__hang"}"#;

/// What JSON parsers like to change: a number that no integer of 64 bits holds, trailing zeros, the order of keys, escapes and spaces.
const DELICATE: &str = concat!(
    r#"{"z":92345678901234567890,"a":1.10,"m":{"y":[3, 1,2],"b":-0.0},"#,
    r#""e\u00e9":"\u0041é","n":null}"#
);

const TRANSPORTS: [Transport; 3] = [Transport::Stdio, Transport::LegacyHttp, Transport::ModernHttp];

/// A daemon with one server called `it`.
struct Scene {
    daemon: Daemon,
    it: Upstream,
}

impl Scene {
    async fn start(transport: Transport, keys: &str) -> Self {
        Self::with(transport, &[], keys, "").await
    }

    /// With flags and keys of the server, and with what comes before its table.
    async fn with(transport: Transport, flags: &[&str], keys: &str, before: &str) -> Self {
        let it = Upstream::start(transport, "it", flags, keys).await;
        let daemon = Daemon::start(&format!("{before}\n{}", it.table())).await;
        Self { daemon, it }
    }

    /// The same with the server up, its tools known and nothing under way.
    async fn at_rest(self) -> Self {
        // A plain name is known once the tools are.
        eventually("the server answers", SOON, async || self.execute(&[], PLAIN).await.status == 200).await;
        self.daemon.until_idle().await;
        self
    }

    async fn execute(&self, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = [&[TYPE][..], headers].concat();
        send(&self.daemon.url("/api/v1/execute"), "POST", &headers, body.to_owned()).await
    }

    /// The events of a stream, to its end.
    async fn events(&self, headers: &[(&str, &str)], body: &str) -> Vec<(String, Value)> {
        let response = self.execute(&[&[EVENTS][..], headers].concat(), body).await;
        assert_eq!((response.status, response.header("content-type")), (200, "text/event-stream"));
        response.body.split("\n\n").filter_map(event).collect()
    }
}

/// The type and the data of an event; none of a comment.
fn event(text: &str) -> Option<(String, Value)> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let data = serde_json::from_str(line("data: ")?).expect("the data of each event is JSON");
    Some((line("event: ")?.to_owned(), data))
}

fn assert_fault(response: &Response, status: u16, code: &str) -> Value {
    assert_eq!(
        (response.status, response.header("content-type")),
        (status, "application/json"),
        "{response:?}"
    );
    let body = response.json();
    assert_eq!((&body["ok"], &body["error"]["code"]), (&json!(false), &json!(code)), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    body["error"].clone()
}

#[tokio::test]
async fn a_call_comes_back_with_its_result_and_its_id() {
    let scene = Scene::start(Transport::Stdio, "").await;
    let response = scene.execute(&[], ECHO).await;
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"), "{response:?}");
    let body = response.json();
    assert_eq!((&body["ok"], &body["tool"]), (&json!(true), &json!("it__echo")), "{body}");
    assert_eq!(body["result"]["content"][0]["text"], "said", "{body}");
    let id = body["call"].as_str().unwrap_or_default();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{body}");
    scene.daemon.until_idle().await;
}

#[tokio::test]
async fn a_plain_name_will_do_where_one_server_has_it() {
    let scene = Scene::start(Transport::Stdio, "").await;
    eventually("the tools are listed", SOON, async || {
        let response = scene.execute(&[], PLAIN).await;
        response.status == 200 && response.json()["result"]["content"][0]["text"] == "plain"
    })
    .await;
}

#[tokio::test]
async fn arguments_and_results_pass_byte_for_byte() {
    for transport in TRANSPORTS {
        let scene = Scene::start(transport, "").await;
        let body = format!(r#"{{ "arguments": {DELICATE} ,"tool":"it__echo_raw"}}"#);
        let response = scene.execute(&[], &body).await;
        let kind = if transport == Transport::LegacyHttp { "" } else { r#","resultType":"complete""# };
        // All that the server says, and nothing else: not a member more or less.
        let result = format!(
            r#""result":{{"content":[{{"type":"text","text":{}}}],"structuredContent":{DELICATE},"isError":false{kind}}}}}"#,
            json!(DELICATE)
        );
        assert!(response.body.ends_with(&result), "{transport:?}: {response:?}");
    }
}

#[tokio::test]
async fn a_tools_own_error_is_a_result() {
    for era in ["legacy", "modern"] {
        let fixture = Listening::start("conformance-fixture", &["--era", era]).await;
        let daemon = Daemon::start(&format!("[servers.it]\nurl = {}\n", quoted(fixture.url()))).await;
        let body = r#"{"tool":"it__test_error_handling"}"#;
        let response = send(&daemon.url("/api/v1/execute"), "POST", &[TYPE], body).await;
        assert_eq!(response.status, 200, "{era}: {response:?}");
        let body = response.json();
        assert_eq!((&body["ok"], &body["result"]["isError"]), (&json!(false), &json!(true)), "{era}: {body}");
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused_and_nothing_is_sent() {
    let scene = Scene::with(Transport::Stdio, &[], "", "[limits]\nmessage = \"64KiB\"").await.at_rest().await;
    let before = scene.it.record().calls("echo").len();
    for (body, named) in [
        ("{", "JSON"),
        (r#"{"arguments":{}}"#, "`tool`"),
        (r#"{"tool":"it__echo","argument":{"text":"x"},"id":1}"#, r#""argument", "id""#),
        (r#"{"tool":"it__echo","arguments":["x"]}"#, "`arguments`"),
        (r#"{"tool":"it__echo","arguments":{"text":5}}"#, "text"),
    ] {
        let error = assert_fault(&scene.execute(&[], body).await, 400, "INVALID_ARGUMENTS");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(named)), "{body}: {error}");
        assert_eq!(error["may_have_run"], false, "{body}: {error}");
    }
    assert_fault(&scene.execute(&[("seawall-timeout-ms", "soon")], ECHO).await, 400, "INVALID_ARGUMENTS");

    let url = scene.daemon.url("/api/v1/execute");
    let kinds: [&[(&str, &str)]; 2] = [&[], &[("content-type", "text/plain")]];
    for headers in kinds {
        assert_fault(&send(&url, "POST", headers, ECHO).await, 415, "INVALID_ARGUMENTS");
    }
    let long = ECHO.replace("said", &"x".repeat(100_000));
    assert_fault(&scene.execute(&[], &long).await, 413, "TOO_LARGE");
    // A stream begins only where there is a call.
    assert_fault(&scene.execute(&[EVENTS], "{").await, 400, "INVALID_ARGUMENTS");
    assert_eq!(send(&url, "GET", &[TYPE], "").await.status, 405);
    assert_eq!(scene.it.record().calls("echo").len(), before, "{:#?}", scene.it.record().entries());
}

#[tokio::test]
async fn who_may_not_call_learns_nothing() {
    let callers = caller("narrow", "narrow-token", &["it__echo"]);
    let scene = Scene::with(Transport::Stdio, &[], "", &callers).await;
    let strangers: [&[(&str, &str)]; 2] = [&[], &[("authorization", "Bearer another")]];
    for headers in strangers {
        let response = scene.execute(headers, ECHO).await;
        assert_fault(&response, 401, "UNAUTHORIZED");
        assert_eq!(response.header("www-authenticate"), "Bearer");
    }
    let mine = [("authorization", "Bearer narrow-token")];
    assert_eq!(scene.execute(&mine, ECHO).await.status, 200);
    let hidden = assert_fault(&scene.execute(&mine, r#"{"tool":"it__pid"}"#).await, 404, "TOOL_NOT_FOUND");
    for unknown in [r#"{"tool":"it__none"}"#, r#"{"tool":"none__echo"}"#] {
        assert_eq!(assert_fault(&scene.execute(&mine, unknown).await, 404, "TOOL_NOT_FOUND"), hidden);
    }
    assert!(scene.it.record().calls("pid").is_empty(), "{:#?}", scene.it.record().entries());
}

#[tokio::test]
async fn where_there_is_no_place_the_answer_says_when_to_come_back() {
    let scene = Scene::with(Transport::Stdio, &[], "limit = 1", "[limits]\nqueue = 0").await.at_rest().await;
    let refused = async {
        scene.it.record().until_called("hang").await;
        let response = scene.execute(&[], ECHO).await;
        let error = assert_fault(&response, 429, "OVER_CAPACITY");
        let wait = error["retry_after_ms"].as_u64().expect("it says when");
        assert_eq!(response.header("retry-after"), wait.div_ceil(1000).to_string(), "{response:?}");
    };
    tokio::select! {
        response = scene.execute(&[], HANG) => panic!("the hanging call ended: {response:?}"),
        () = refused => {}
    }
    scene.daemon.until_idle().await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_or_at_its_callers() {
    let scene = Scene::start(Transport::Stdio, "timeout = \"2s\"").await.at_rest().await;
    let error = assert_fault(&scene.execute(&[], HANG).await, 504, "TIMEOUT");
    assert_eq!((&error["stage"], &error["upstream"]), (&json!("answer"), &json!("it")), "{error}");
    assert_eq!((&error["budget_ms"], &error["may_have_run"]), (&json!(2000), &json!(true)), "{error}");

    let short = r#"{"tool":"it__hang","timeout_ms":200}"#;
    let long = r#"{"tool":"it__hang","timeout_ms":60000}"#;
    let limits: [(&[(&str, &str)], &str); 2] = [(&[], short), (&[("seawall-timeout-ms", "200")], long)];
    for (headers, body) in limits {
        let began = Instant::now();
        assert_fault(&scene.execute(headers, body).await, 504, "TIMEOUT");
        assert!(began.elapsed() < Duration::from_millis(1500), "{body} took {:?}", began.elapsed());
    }
    scene.daemon.until_idle().await;
}

#[tokio::test]
async fn what_goes_wrong_at_the_server_has_a_status_of_its_own() {
    let scene = Scene::with(Transport::Stdio, &["--exit-on", "initialize"], "", "").await;
    let error = assert_fault(&scene.execute(&[], ECHO).await, 503, "UPSTREAM_UNAVAILABLE");
    assert_eq!((&error["upstream"], &error["may_have_run"]), (&json!("it"), &json!(false)), "{error}");

    let scene = Scene::start(Transport::Stdio, "").await;
    let error = assert_fault(&scene.execute(&[], r#"{"tool":"it__crash"}"#).await, 502, "OUTCOME_UNKNOWN");
    assert_eq!(error["may_have_run"], true, "{error}");
    assert_eq!(scene.it.record().calls("crash").len(), 1, "what may have written was sent again");

    let scene = Scene::with(Transport::Stdio, &["--refuse", "tools/call"], "", "").await;
    let response = scene.execute(&[], ECHO).await;
    let error = assert_fault(&response, 502, "UPSTREAM_ERROR");
    assert!(error["message"].to_string().contains("-32601"), "{error}");
    assert_eq!((&error["upstream"], &error["stage"]), (&json!("it"), &json!("answer")), "{error}");
    assert!(response.json()["call"].is_string(), "{response:?}");
}

#[tokio::test]
async fn a_tool_that_asks_is_told_that_nobody_can_be_asked() {
    let scene = Scene::start(Transport::ModernHttp, "").await;
    let response = scene.execute(&[], r#"{"tool":"it__ask_elicit"}"#).await;
    let error = assert_fault(&response, 502, "UPSTREAM_ERROR");
    assert!(error["message"].to_string().contains("cannot be asked"), "{error}");
    let scene = Scene::start(Transport::LegacyHttp, "").await;
    let response = scene.execute(&[], r#"{"tool":"it__ask_elicit"}"#).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert!(response.body.contains("-32601"), "the question was not refused: {response:?}");
}

#[tokio::test]
async fn while_it_drains_a_call_is_refused_and_running_ones_end() {
    let mut scene = Scene::with(Transport::Stdio, &[], "", "grace = \"5s\"").await;
    let refused = async {
        scene.it.record().until_called("late").await;
        scene.daemon.signal(Signal::TERM);
        eventually("it is not ready", SOON, async || {
            send(&scene.daemon.url("/readyz"), "GET", &[], "").await.status == 503
        })
        .await;
        let response = scene.execute(&[], ECHO).await;
        assert_fault(&response, 503, "UPSTREAM_UNAVAILABLE");
        assert_eq!(response.header("retry-after"), "1", "{response:?}");
    };
    let (late, ()) =
        tokio::join!(scene.execute(&[], r#"{"tool":"it__late","arguments":{"ms":2500}}"#), refused);
    assert_eq!(late.status, 200, "{late:?}");
    assert_eq!(scene.daemon.ended().await, 0);
}

#[tokio::test]
async fn a_conversation_is_named_by_header_or_body() {
    let scene = Scene::start(Transport::Stdio, "sharing = \"session\"").await;
    let process = async |header: Option<&str>, body: &str| {
        let headers: Vec<(&str, &str)> = header.map(|name| ("seawall-session", name)).into_iter().collect();
        let response = scene.execute(&headers, body).await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()["result"]["content"][0]["text"].to_string()
    };
    let (plain, named) = (r#"{"tool":"it__pid"}"#, r#"{"tool":"it__pid","session":"one"}"#);
    let one = process(None, named).await;
    assert_eq!(process(Some("one"), plain).await, one);
    let two = process(Some("two"), named).await;
    assert_ne!(two, one, "the header does not go over the body");
    assert_ne!(process(None, plain).await, one);
}

#[tokio::test]
async fn a_stream_tells_progress_and_then_the_result() {
    for transport in TRANSPORTS {
        let scene = Scene::start(transport, "").await;
        let slow = r#"{"tool":"it__slow","arguments":{"ms":600,"steps":3}}"#;
        let mut events = scene.events(&[], slow).await;
        let (kind, last) = events.pop().expect("a stream has an end");
        assert_eq!((kind.as_str(), &last["status"]), ("result", &json!(200)), "{transport:?}: {last}");
        assert_eq!((&last["ok"], &last["tool"]), (&json!(true), &json!("it__slow")), "{transport:?}: {last}");
        assert_eq!(last["result"]["content"][0]["text"], "slow", "{transport:?}: {last}");
        let steps = (1..=3).map(|step| ("progress".to_owned(), json!({"progress": step, "total": 3})));
        assert_eq!(events, steps.collect::<Vec<_>>(), "{transport:?}");
        scene.daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_stream_ends_in_the_fault_of_its_call() {
    let scene = Scene::with(Transport::Stdio, &["--era", "legacy"], "", "").await.at_rest().await;
    let mut events = scene.events(&[("seawall-timeout-ms", "1500")], r#"{"tool":"it__dribble"}"#).await;
    let (kind, last) = events.pop().expect("a stream has an end");
    assert_eq!(
        (kind.as_str(), &last["status"], &last["ok"]),
        ("error", &json!(504), &json!(false)),
        "{last}"
    );
    assert_eq!(
        (&last["error"]["code"], &last["error"]["upstream"]),
        (&json!("TIMEOUT"), &json!("it")),
        "{last}"
    );
    let log = json!({"level": "info", "logger": "dribble", "data": "still here"});
    assert_eq!(events.first(), Some(&("log".to_owned(), log)), "{events:#?}");

    let events = scene.events(&[], r#"{"tool":"none__none"}"#).await;
    let [(kind, only)] = &events[..] else { panic!("not one event: {events:#?}") };
    assert_eq!((kind.as_str(), &only["status"]), ("error", &json!(404)), "{only}");
}

#[tokio::test]
async fn a_silent_call_shows_signs_of_life_on_its_stream() {
    let heartbeat = "[clients.seawall]\nheartbeat = \"300ms\"";
    let scene = Scene::with(Transport::Stdio, &[], "", heartbeat).await.at_rest().await;
    let mut events = scene.events(&[], r#"{"tool":"it__late","arguments":{"ms":1800}}"#).await;
    let (kind, last) = events.pop().expect("a stream has an end");
    assert_eq!((kind.as_str(), &last["status"]), ("result", &json!(200)), "{last}");
    assert!(events.iter().all(|(kind, _)| kind == "progress"), "{events:#?}");
    let told: Vec<f64> = events.iter().filter_map(|(_, data)| data["progress"].as_f64()).collect();
    assert!(told.len() >= 3, "too few signs of life: {events:#?}");
    assert!(told.is_sorted_by(|one, next| one < next), "progress has to rise: {told:?}");
}

#[tokio::test]
async fn a_closed_connection_takes_the_call_back() {
    for transport in TRANSPORTS {
        let scene = Scene::start(transport, "").await;
        tokio::select! {
            response = scene.execute(&[], HANG) => panic!("the hanging call ended: {response:?}"),
            _ = scene.it.record().until_called("hang") => {}
        }
        let what = format!("{transport:?}: the server is told");
        eventually(&what, SOON, async || scene.it.record().took_back("hang")).await;
        scene.daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_stream_begins_at_once_and_closing_it_takes_the_call_back() {
    for transport in TRANSPORTS {
        let scene = Scene::start(transport, "").await.at_rest().await;
        let address = scene.daemon.url("").trim_start_matches("http://").to_owned();
        let mut socket = TcpStream::connect(&address).await.expect("the daemon listens");
        let length = HANG.len();
        let request = format!(
            "POST /api/v1/execute HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Accept: text/event-stream\r\nContent-Length: {length}\r\n\r\n{HANG}"
        );
        socket.write_all(request.as_bytes()).await.expect("the daemon reads");
        let mut head = Vec::new();
        within("the headers of the stream", AT_ONCE, async {
            while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                let read = socket.read_buf(&mut head).await.expect("the connection holds");
                assert!(read > 0, "the daemon closed the connection");
            }
        })
        .await;
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        scene.it.record().until_called("hang").await;
        assert!(!scene.it.record().took_back("hang"));
        drop(socket);
        let what = format!("{transport:?}: the server is told");
        eventually(&what, SOON, async || scene.it.record().took_back("hang")).await;
        scene.daemon.until_idle().await;
    }
}

#[tokio::test]
async fn the_description_is_there_for_whoever_may_call() {
    let callers = caller("me", "my-token", &["*"]);
    let scene = Scene::with(Transport::Stdio, &[], "", &callers).await;
    let url = scene.daemon.url("/api/v1/openapi.json");
    assert_eq!(send(&url, "GET", &[], "").await.status, 401);
    let response = send(&url, "GET", &[("authorization", "Bearer my-token")], "").await;
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
    let description = response.json();
    assert!(description["paths"]["/api/v1/execute"]["post"].is_object(), "{description}");
}
