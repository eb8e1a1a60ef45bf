//! One piece of work for several calls: equal calls at the same time, results that are kept, and calls that are safe
//! to repeat because they carry a key.
#![expect(
    clippy::disallowed_methods,
    reason = "calls that are to be under way at once are tasks of the test"
)]

use rustix::process::Signal;
use seawall_tests::{
    Answer, Client, Daemon, Era, PATIENCE, Response, Transport, Upstream, caller, eventually, send,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with a server `it`, whose table has these keys, and a client that names no conversation.
async fn scene(limits: &str, keys: &str) -> (Daemon, Upstream, Client) {
    let it = Upstream::start(Transport::Stdio, "it", &["--all"], keys).await;
    let daemon = Daemon::start(&format!("{limits}{}", it.table())).await;
    let client = client_of(&daemon, None).await;
    (daemon, it, client)
}

/// The same with a server that everyone shares.
async fn shared_scene(keys: &str) -> (Daemon, Upstream, Client) {
    scene("", &format!("sharing = \"everyone\"\n{keys}")).await
}

/// A client, once it is known what the tools do to the world.
async fn client_of(daemon: &Daemon, token: Option<&str>) -> Client {
    let client = Client::modern(&daemon.url("/mcp"), token);
    eventually("the tools are listed", PATIENCE, async || client.list().await.has("it__work_read")).await;
    client
}

/// Waits until so many calls have joined the work of another one.
async fn until_joined(daemon: &Daemon, count: usize) {
    let ending = format!(" {count}");
    eventually(&format!("{count} calls share the work of another"), SOON, async || {
        let metrics = daemon.metrics().await;
        let counted = |line: &str| line.contains("shared_flights") && line.ends_with(&ending);
        metrics.lines().any(|line| !line.starts_with('#') && counted(line))
    })
    .await;
}

/// What a result says of having been kept; null where it was not.
fn cached(answer: &Answer) -> &Value {
    &answer.value["result"]["_meta"]["seawall/cached"]
}

// Equal calls at the same time.

#[tokio::test]
async fn progress_reaches_whoever_joined() {
    let (daemon, it, client) = shared_scene("[servers.it.tools.slow]\neffects = \"none\"").await;
    let arguments = r#"{"ms":3000,"steps":12}"#;
    let first = client.start_call_with_progress("it__slow", arguments);
    it.record().until_called("slow").await;
    let second = client.start_call_with_progress("it__slow", arguments);
    until_joined(&daemon, 1).await;
    // Each hears of it under its own token.
    let token = json!(second.id());
    assert_ne!(token, json!(first.id()));

    let (first, second) = tokio::join!(first.answer(), second.answer());
    assert_eq!((first.said(), second.said()), ("slow", "slow"));
    let heard = second.heard("notifications/progress");
    assert!(heard.len() >= 2, "it heard of too little progress: {second:#?}");
    assert!(heard.iter().all(|progress| progress["progressToken"] == token), "{heard:#?}");
    let values: Vec<f64> = heard.iter().filter_map(|progress| progress["progress"].as_f64()).collect();
    assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "progress fell: {values:?}");
    assert_eq!(it.record().calls("slow").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn whoever_joined_with_a_shorter_limit_leaves_alone() {
    let (daemon, it, _client) = shared_scene("").await;
    let first = Execute::new(&daemon, "hold_read", r#"{"key":"k"}"#).start();
    it.record().until_called("hold_read").await;
    let short = Execute::new(&daemon, "hold_read", r#"{"key":"k"}"#).with("seawall-timeout-ms", "500");
    let short = short.send().await;
    assert_eq!((short.status, code(&short).as_str()), (504, "TIMEOUT"), "{short:?}");
    assert!(!first.is_finished(), "the first call ended with the second one's limit");

    let let_go = Execute::new(&daemon, "let_go", r#"{"key":"k"}"#).send().await;
    assert_eq!(let_go.status, 200, "{let_go:?}");
    assert_eq!(said(&ended(first).await), "held k");
    assert_eq!(it.record().calls("hold_read").len(), 1);
    assert!(!it.record().took_back("hold_read"), "the work was taken back with the one that left");
    daemon.until_idle().await;
}

#[tokio::test]
async fn the_work_goes_on_for_whoever_joined_when_the_one_that_began_it_leaves() {
    let (daemon, it, client) = shared_scene("").await;
    let first = client.start_call("it__hold_read", r#"{"key":"k"}"#);
    it.record().until_called("hold_read").await;
    let second = client.start_call("it__hold_read", r#"{"key":"k"}"#);
    until_joined(&daemon, 1).await;
    first.cancel().await;
    // Long enough for a cancel to show, if there were one.
    assert_eq!(client.call("it__sleep", r#"{"ms":500}"#).await.said(), "sleep");
    assert!(!it.record().took_back("hold_read") && !second.is_over(), "the work went with the first call");

    assert_eq!(client.call("it__let_go", r#"{"key":"k"}"#).await.said(), "let go");
    assert_eq!(second.answer().await.said(), "held k");
    assert_eq!(it.record().calls("hold_read").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn the_work_is_taken_back_when_the_last_one_leaves() {
    let (daemon, it, client) = shared_scene("").await;
    let first = client.start_call("it__hold_read", r#"{"key":"k"}"#);
    it.record().until_called("hold_read").await;
    let second = client.start_call("it__hold_read", r#"{"key":"k"}"#);
    until_joined(&daemon, 1).await;
    first.cancel().await;
    second.cancel().await;
    eventually("the work is taken back", SOON, async || it.record().took_back("hold_read")).await;
    daemon.until_idle().await;
}

#[tokio::test]
async fn after_a_refusal_the_same_call_runs_anew() {
    for duplicates in ["share", "reject"] {
        let keys = format!("limit = 1\n[servers.it.tools.work_read]\nduplicates = \"{duplicates}\"");
        let (daemon, it, client) = scene("[limits]\nqueue = 0\n", &keys).await;
        let in_the_way = client.start_call("it__hold", r#"{"key":"k"}"#);
        it.record().until_called("hold").await;
        for _ in 0..3 {
            let refused = client.call("it__work_read", r#"{"key":"same"}"#).await;
            assert_eq!(refused.code(), "OVER_CAPACITY", "{duplicates}: {refused:#?}");
        }
        in_the_way.cancel().await;
        daemon.until_idle().await;
        let answer = client.call("it__work_read", r#"{"key":"same"}"#).await;
        assert!(answer.said().starts_with("1 in "), "{duplicates}: {answer:#?}");
        daemon.until_idle().await;
    }
}

#[tokio::test]
async fn after_a_cancel_the_same_call_runs_anew() {
    for duplicates in ["share", "reject"] {
        let keys = format!("[servers.it.tools.hold_read]\nduplicates = \"{duplicates}\"");
        let (daemon, it, client) = shared_scene(&keys).await;
        let first = client.start_call("it__hold_read", r#"{"key":"k"}"#);
        it.record().until_called("hold_read").await;
        first.cancel().await;
        eventually("it is taken back", SOON, async || it.record().took_back("hold_read")).await;
        assert_eq!(client.call("it__let_go", r#"{"key":"k"}"#).await.said(), "let go");
        let again = client.call("it__hold_read", r#"{"key":"k"}"#).await;
        assert_eq!(again.said(), "held k", "{duplicates}");
        assert_eq!(it.record().calls("hold_read").len(), 2, "{duplicates}");
        daemon.until_idle().await;
    }
}

#[tokio::test]
async fn after_a_time_out_the_same_call_runs_anew() {
    for duplicates in ["share", "reject"] {
        let table = format!("timeout = \"500ms\"\nduplicates = \"{duplicates}\"");
        let keys = format!("retries = {{ max = 0 }}\n[servers.it.tools.hang_read]\n{table}");
        let (daemon, it, client) = shared_scene(&keys).await;
        for times in 1..=2 {
            let answer = client.call("it__hang_read", "{}").await;
            assert_eq!(answer.code(), "TIMEOUT", "{duplicates}: {answer:#?}");
            assert_eq!(it.record().calls("hang_read").len(), times, "{duplicates}");
        }
        daemon.until_idle().await;
    }
}

/// A daemon with the callers `one` and `two`, and a server with this sharing and further keys. Gives a client of each
/// caller.
async fn two_callers(sharing: &str, keys: &str) -> (Daemon, Upstream, [Client; 2]) {
    let keys = format!("sharing = \"{sharing}\"\n{keys}");
    let it = Upstream::start(Transport::Stdio, "it", &["--all"], &keys).await;
    let callers = [caller("one", "token-one", &["*"]), caller("two", "token-two", &["*"])].concat();
    let daemon = Daemon::start(&format!("{callers}{}", it.table())).await.as_caller("token-one");
    let clients = [client_of(&daemon, Some("token-one")).await, client_of(&daemon, Some("token-two")).await];
    (daemon, it, clients)
}

/// By the sharing of a server: whether calls of one conversation, of two conversations of one caller, and of two
/// callers have one answer.
const SHARED: [(&str, [bool; 3]); 4] = [
    ("call", [false, false, false]),
    ("session", [true, false, false]),
    ("caller", [true, true, false]),
    ("everyone", [true, true, true]),
];

/// Two clients of one conversation, of two conversations of one caller, and of two callers.
fn pairs([one, two]: &[Client; 2]) -> [[Client; 2]; 3] {
    let named = |client: &Client, name: &str| client.in_conversation(name);
    [
        [named(one, "a"), named(one, "a")],
        [named(one, "a"), named(one, "b")],
        [named(one, "a"), named(two, "a")],
    ]
}

#[tokio::test]
async fn calls_that_would_not_share_an_instance_never_share_an_answer() {
    for (sharing, expected) in SHARED {
        let (daemon, it, clients) = two_callers(sharing, "").await;
        for (number, ([first, second], shared)) in pairs(&clients).into_iter().zip(expected).enumerate() {
            let before = it.record().calls("work_read").len();
            let arguments = json!({"key": format!("pair {number}"), "ms": 1000});
            let (one, other) = tokio::join!(
                first.call("it__work_read", &arguments),
                second.call("it__work_read", &arguments)
            );
            let ran = it.record().calls("work_read").len() - before;
            let which = format!("sharing {sharing}, pair {number}: {} and {}", one.said(), other.said());
            assert_eq!(ran, if shared { 1 } else { 2 }, "{which}");
            assert_eq!(one.said() == other.said(), shared, "{which}");
        }
        daemon.until_idle().await;
    }
}

// Results that are kept.

#[tokio::test]
async fn a_kept_result_is_given_again_marked_until_its_time_is_over() {
    let (daemon, it, client) = shared_scene("[servers.it.tools.work_read]\ncache = \"2s\"").await;
    let first = client.call("it__work_read", r#"{"key":"k"}"#).await;
    assert!(first.said().starts_with("1 in ") && cached(&first).is_null(), "{first:#?}");
    let again = client.call("it__work_read", r#"{"key":"k"}"#).await;
    assert_eq!(again.said(), first.said());
    assert!(cached(&again)["age_ms"].as_u64().is_some_and(|age| age <= 2000), "{again:#?}");
    let other = client.call("it__work_read", r#"{"key":"other"}"#).await;
    assert!(other.said().starts_with("1 in ") && cached(&other).is_null(), "{other:#?}");
    assert_eq!(it.record().calls("work_read").len(), 2);

    eventually("its time is over", SOON, async || {
        client.call("it__work_read", r#"{"key":"k"}"#).await.said().starts_with("2 in ")
    })
    .await;
    daemon.until_idle().await;
}

#[tokio::test]
async fn without_the_key_no_result_is_kept() {
    let (daemon, it, client) = shared_scene("").await;
    for times in 1..=3 {
        let answer = client.call("it__work_read", r#"{"key":"k"}"#).await;
        assert!(answer.said().starts_with(&format!("{times} in ")), "{answer:#?}");
        assert!(cached(&answer).is_null(), "{answer:#?}");
    }
    assert_eq!(it.record().calls("work_read").len(), 3);
    daemon.until_idle().await;
}

#[tokio::test]
async fn what_went_wrong_is_never_kept() {
    let keys = "retries = { max = 0 }\n[servers.it.tools.decline_read]\ncache = \"1m\"\n\
                [servers.it.tools.hang_read]\ncache = \"1m\"\ntimeout = \"300ms\"";
    let (daemon, it, client) = shared_scene(keys).await;
    for times in 1..=2 {
        let declined = client.call("it__decline_read", r#"{"key":"k"}"#).await;
        assert_eq!(declined.complaint(), format!("declined {times}"));
        assert!(cached(&declined).is_null(), "{declined:#?}");
        let timed_out = client.call("it__hang_read", "{}").await;
        assert_eq!(timed_out.code(), "TIMEOUT", "{timed_out:#?}");
        assert_eq!(it.record().calls("hang_read").len(), times);
    }
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_kept_result_is_for_those_who_would_share_the_instance() {
    for (sharing, expected) in SHARED {
        let (daemon, _it, clients) =
            two_callers(sharing, "[servers.it.tools.work_read]\ncache = \"1m\"").await;
        for (number, ([first, second], shared)) in pairs(&clients).into_iter().zip(expected).enumerate() {
            let arguments = json!({"key": format!("pair {number}")});
            let one = first.call("it__work_read", &arguments).await;
            let other = second.call("it__work_read", &arguments).await;
            let which = format!("sharing {sharing}, pair {number}: {one:#?} and {other:#?}");
            assert!(cached(&one).is_null(), "{which}");
            assert_eq!(!cached(&other).is_null(), shared, "{which}");
            assert_eq!(one.said() == other.said(), shared, "{which}");
        }
        daemon.until_idle().await;
    }
}

// Calls with a key of their own.

/// A call of the server `it` over REST, with its headers.
#[derive(Clone)]
struct Execute {
    url: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Execute {
    fn new(daemon: &Daemon, tool: &str, arguments: &str) -> Self {
        Self {
            url: daemon.url("/api/v1/execute"),
            headers: vec![("content-type", "application/json".to_owned())],
            body: format!(r#"{{"tool":"it__{tool}","arguments":{arguments}}}"#),
        }
    }

    fn with(mut self, header: &'static str, value: &str) -> Self {
        self.headers.push((header, value.to_owned()));
        self
    }

    fn keyed(self, key: &str) -> Self {
        self.with("idempotency-key", key)
    }

    async fn send(&self) -> Response {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        send(&self.url, "POST", &headers, self.body.clone()).await
    }

    /// Begins the call and leaves it under way.
    fn start(self) -> JoinHandle<Response> {
        tokio::spawn(async move { self.send().await })
    }
}

async fn ended(call: JoinHandle<Response>) -> Response {
    call.await.expect("the daemon answers")
}

/// The text of a result.
fn said(response: &Response) -> String {
    let answer = response.json();
    let text = answer["result"]["content"][0]["text"].as_str().filter(|_| response.status == 200);
    text.unwrap_or_else(|| panic!("no result came: {response:?}")).to_owned()
}

/// The code of a fault.
fn code(response: &Response) -> String {
    response.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_call_that_is_repeated_with_its_key_ran_once() {
    let (daemon, it, _client) = scene("", "").await;
    let call = Execute::new(&daemon, "work", r#"{"key":"k"}"#).keyed("order-1");
    let first = call.send().await;
    assert!(said(&first).starts_with("1 in "), "{first:?}");
    for _ in 0..2 {
        let again = call.send().await;
        assert_eq!(again.json()["result"]["content"], first.json()["result"]["content"]);
    }
    assert_eq!(it.record().calls("work").len(), 1);

    // Another key is another call, and so is none.
    let other = Execute::new(&daemon, "work", r#"{"key":"k"}"#);
    assert!(said(&other.clone().keyed("order-2").send().await).starts_with("2 in "));
    assert!(said(&other.send().await).starts_with("3 in "));
    daemon.until_idle().await;
}

#[tokio::test]
async fn equal_keys_at_the_same_time_run_once() {
    let (daemon, it, _client) = scene("", "").await;
    let call = Execute::new(&daemon, "work", r#"{"key":"k","ms":1500}"#).keyed("order-1");
    let [first, second] = [call.clone(), call].map(|call| ended(call.start()));
    let (first, second) = tokio::join!(first, second);
    assert_eq!(said(&first), said(&second));
    assert_eq!(it.record().calls("work").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn other_arguments_under_a_key_are_refused() {
    let (daemon, it, _client) = scene("", "").await;
    let first = Execute::new(&daemon, "work", r#"{"key":"k"}"#).keyed("order-1").send().await;
    assert!(said(&first).starts_with("1 in "), "{first:?}");
    for (tool, arguments) in [("work", r#"{"key":"other"}"#), ("work_read", r#"{"key":"k"}"#)] {
        let refused = Execute::new(&daemon, tool, arguments).keyed("order-1").send().await;
        assert_eq!((refused.status, code(&refused).as_str()), (400, "INVALID_ARGUMENTS"), "{refused:?}");
    }
    assert_eq!((it.record().calls("work").len(), it.record().calls("work_read").len()), (1, 0));
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_key_belongs_to_its_caller() {
    let (daemon, it, _clients) = two_callers("everyone", "").await;
    for (token, times) in [("token-one", 1), ("token-two", 2), ("token-one", 1)] {
        let call = Execute::new(&daemon, "work", r#"{"key":"k"}"#).keyed("order-1");
        let response = call.with("authorization", &format!("Bearer {token}")).send().await;
        assert!(said(&response).starts_with(&format!("{times} in ")), "{token}: {response:?}");
    }
    assert_eq!(it.record().calls("work").len(), 2);
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_client_of_the_protocol_names_its_key_in_the_request() {
    let (daemon, it, _client) = scene("", "").await;
    let client = Client::open(Era::Legacy, &daemon.url("/mcp"), None).await;
    let params = json!({
        "name": "it__work",
        "arguments": {"key": "k"},
        "_meta": {"seawall/idempotency_key": "order-1"},
    });
    let first = client.request("tools/call", &params).await;
    let again = client.request("tools/call", &params).await;
    assert_eq!(first.said(), again.said());
    assert_eq!(again.value["id"], 3, "it is the answer to another request: {again:#?}");
    assert_eq!(it.record().calls("work").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_refused_call_may_use_its_key_again() {
    let (daemon, it, client) = scene("[limits]\nqueue = 0\n", "limit = 1").await;
    let in_the_way = client.start_call("it__hold", r#"{"key":"k"}"#);
    it.record().until_called("hold").await;
    let call = Execute::new(&daemon, "work", r#"{"key":"k"}"#).keyed("order-1");
    let refused = call.send().await;
    assert_eq!((refused.status, code(&refused).as_str()), (429, "OVER_CAPACITY"), "{refused:?}");
    in_the_way.cancel().await;
    daemon.until_idle().await;
    assert!(said(&call.send().await).starts_with("1 in "));
    assert!(said(&call.send().await).starts_with("1 in "));
    assert_eq!(it.record().calls("work").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_key_holds_across_a_restart() {
    let (mut daemon, it, _client) = scene("", "").await;
    let call = Execute::new(&daemon, "work", r#"{"key":"k"}"#).keyed("order-1");
    let first = call.send().await;
    assert!(said(&first).starts_with("1 in "), "{first:?}");
    // Once in order, and once without notice.
    for signal in [Signal::TERM, Signal::KILL] {
        daemon.signal(signal);
        daemon.ended().await;
        daemon.start_again().await;
        client_of(&daemon, None).await;
        let again = call.send().await;
        assert_eq!(again.json()["result"]["content"], first.json()["result"]["content"], "{signal:?}");
        let other = Execute::new(&daemon, "work", r#"{"key":"other"}"#).keyed("order-1").send().await;
        assert_eq!(code(&other), "INVALID_ARGUMENTS", "{signal:?}: {other:?}");
    }
    assert_eq!(it.record().calls("work").len(), 1);
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_call_whose_daemon_was_killed_in_its_middle_has_an_unknown_outcome_and_never_runs_again() {
    let (mut daemon, it, _client) = scene("", "").await;
    let call = Execute::new(&daemon, "hold", r#"{"key":"k"}"#).keyed("order-1");
    let lost = call.clone().start();
    it.record().until_called("hold").await;
    daemon.kill_and_start_again().await;
    assert!(lost.await.is_err(), "the killed daemon answered");
    client_of(&daemon, None).await;
    for _ in 0..2 {
        let again = call.send().await;
        assert_eq!((again.status, code(&again).as_str()), (502, "OUTCOME_UNKNOWN"), "{again:?}");
        assert_eq!(again.json()["error"]["may_have_run"], true, "{again:?}");
    }
    assert_eq!(it.record().calls("hold").len(), 1, "it ran again");
    daemon.until_idle().await;
}
