//! The three tests of the system that Seawall replaces, over `POST /api/v1/execute` and with its limits: one call,
//! two equal ones, and ten at once. What ran is counted where it ran.
#![expect(
    clippy::disallowed_methods,
    reason = "calls that are to be under way at once are tasks of the test"
)]

use seawall_tests::{Client, Daemon, PATIENCE, Response, Transport, Upstream, eventually, send};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);

/// The limits, and a server with these further lines.
async fn scene(limits: &str, keys: &str) -> (Daemon, Upstream) {
    let it = Upstream::start(Transport::Stdio, "it", &["--all"], keys).await;
    let daemon = Daemon::start(&format!("[limits]\n{limits}\n{}", it.table())).await;
    // What a tool does to the world is known once it is listed.
    let client = Client::modern(&daemon.url("/mcp"), None);
    eventually("the tools are listed", PATIENCE, async || client.list().await.has("it__work_read")).await;
    daemon.until_idle().await;
    (daemon, it)
}

/// Starts a call of a tool of the server `it`, in this conversation.
fn start(
    daemon: &Daemon,
    session: Option<&'static str>,
    tool: &str,
    arguments: &Value,
) -> JoinHandle<Response> {
    let url = daemon.url("/api/v1/execute");
    let body = json!({"tool": format!("it__{tool}"), "arguments": arguments}).to_string();
    tokio::spawn(async move {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(session.map(|name| ("seawall-session", name)));
        send(&url, "POST", &headers, body).await
    })
}

async fn ended(call: JoinHandle<Response>) -> Response {
    call.await.expect("the task of a call is not aborted")
}

/// The text of a result.
fn said(response: &Response) -> String {
    let answer = response.json();
    assert_eq!((response.status, &answer["ok"]), (200, &json!(true)), "{response:?}");
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text came: {response:?}")).to_owned()
}

/// The id of a call.
fn id(response: &Response) -> String {
    let answer = response.json();
    let id = answer["call"].as_str().unwrap_or_else(|| panic!("no id came: {response:?}")).to_owned();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{response:?}");
    id
}

/// Asserts that this is a refusal which says when to come back, in both places.
fn assert_refused(response: &Response) {
    let answer = response.json();
    assert_eq!((response.status, &answer["ok"]), (429, &json!(false)), "{response:?}");
    let error = &answer["error"];
    assert_eq!((&error["code"], &error["may_have_run"]), (&json!("OVER_CAPACITY"), &json!(false)), "{error}");
    let wait = error["retry_after_ms"].as_u64().unwrap_or_default();
    assert!(wait > 0, "it does not say when to come back: {error}");
    assert_eq!(response.header("retry-after"), wait.div_ceil(1000).to_string(), "{response:?}");
}

/// Asserts that nothing is held any more, wherever that is shown.
async fn assert_nothing_is_held(daemon: &Daemon) {
    daemon.until_idle().await;
    let shown = send(&daemon.url("/api/v1/calls"), "GET", &[("accept", "*/*")], "").await;
    assert_eq!((shown.status, &shown.json()["permits"]), (200, &json!([])), "{shown:?}");
    let status = daemon.status().await;
    let used = |load: &Value| load["in_use"] != 0 || load["waiting"] != 0;
    let loads = status["loads"].as_array().expect("status lists the scopes");
    assert!(!loads.iter().any(used), "a scope is in use: {status:#}");
}

#[tokio::test]
async fn one_call_works() {
    let (daemon, it) = scene("preset = \"prod\"", "").await;
    let response = ended(start(&daemon, None, "work", &json!({"key": "one"}))).await;
    assert!(said(&response).starts_with("1 in "), "{response:?}");
    assert_eq!(response.json()["tool"], "it__work", "{response:?}");
    id(&response);
    assert_eq!(it.record().calls("work").len(), 1);
    assert_nothing_is_held(&daemon).await;
}

#[tokio::test]
async fn two_equal_calls_of_a_tool_that_reads_run_once() {
    let (daemon, it) = scene("preset = \"prod\"", "").await;
    let (one, other) = two_equal_calls(&daemon, "work_read").await;
    assert_eq!(said(&one), said(&other), "they have different results");
    assert_ne!(id(&one), id(&other), "each is a call of its own");
    assert_eq!(it.record().calls("work_read").len(), 1);
    assert_nothing_is_held(&daemon).await;
}

#[tokio::test]
async fn two_equal_calls_of_a_tool_that_may_write_run_twice() {
    let (daemon, it) = scene("preset = \"prod\"", "").await;
    let (one, other) = two_equal_calls(&daemon, "work").await;
    assert_ne!(said(&one), said(&other), "one has the result of the other");
    assert_eq!(it.record().calls("work").len(), 2);
    assert_nothing_is_held(&daemon).await;
}

#[tokio::test]
async fn where_duplicates_are_rejected_the_second_call_is_told_of_the_first() {
    for tool in ["work_read", "work"] {
        let keys = format!("[servers.it.tools.{tool}]\nduplicates = \"reject\"");
        let (daemon, it) = scene("preset = \"prod\"", &keys).await;
        let (one, other) = two_equal_calls(&daemon, tool).await;
        let (first, second) = if one.status == 200 { (one, other) } else { (other, one) };
        assert!(said(&first).starts_with("1 in "), "{tool}: {first:?}");
        let refusal = second.json();
        assert_eq!(
            (second.status, &refusal["error"]["code"]),
            (409, &json!("DUPLICATE")),
            "{tool}: {second:?}"
        );
        assert_eq!(refusal["error"]["original"], json!(id(&first)), "{tool}: {second:?}");
        assert_eq!(refusal["error"]["may_have_run"], false, "{tool}: {second:?}");
        assert_eq!(it.record().calls(tool).len(), 1, "{tool}");

        // What is over is no original: the same call runs anew.
        let again = ended(start(&daemon, Some("one"), tool, &json!({"key": "equal", "ms": 1500}))).await;
        assert!(said(&again).starts_with("2 in "), "{tool}: {again:?}");
        assert_nothing_is_held(&daemon).await;
    }
}

/// The answers to two equal calls of one conversation that begin at the same time and last for a while.
async fn two_equal_calls(daemon: &Daemon, tool: &str) -> (Response, Response) {
    let arguments = json!({"key": "equal", "ms": 1500});
    let calls = [(); 2].map(|()| start(daemon, Some("one"), tool, &arguments));
    let [one, other] = calls.map(ended);
    tokio::join!(one, other)
}

#[tokio::test]
async fn ten_calls_of_one_conversation_at_once_all_succeed() {
    for session in [Some("one"), None] {
        let (daemon, it) = scene("preset = \"prod\"", "").await;
        let arguments = |number: usize| json!({"key": number.to_string(), "ms": 500});
        let calls: Vec<_> =
            (0..10).map(|number| start(&daemon, session, "work", &arguments(number))).collect();
        for call in calls {
            let response = ended(call).await;
            assert!(said(&response).starts_with("1 in "), "{session:?}: {response:?}");
        }
        assert_eq!(it.record().calls("work").len(), 10, "{session:?}");
        assert_nothing_is_held(&daemon).await;
    }
}

#[tokio::test]
async fn without_a_queue_exactly_two_of_ten_calls_are_refused() {
    // Under a preset, calls that name no conversation count as one.
    for session in [Some("one"), None] {
        Box::pin(so_many_run_and_the_rest_is_refused("prod", session, 10, 8)).await;
    }
}

#[tokio::test]
async fn without_a_queue_the_smaller_limits_refuse_two_of_four() {
    Box::pin(so_many_run_and_the_rest_is_refused("dev", Some("one"), 4, 2)).await;
}

async fn so_many_run_and_the_rest_is_refused(
    preset: &str,
    session: Option<&'static str>,
    at_once: usize,
    run: usize,
) {
    // One process, so that another conversation can let go what is held.
    let limits = format!("preset = \"{preset}\"\nqueue = 0");
    let (daemon, it) = scene(&limits, "sharing = \"everyone\"").await;
    let mut held: Vec<_> =
        (0..at_once).map(|_| start(&daemon, session, "hold", &json!({"key": "all"}))).collect();
    let over = |held: &[JoinHandle<Response>]| held.iter().filter(|call| call.is_finished()).count();
    eventually("all are refused or under way", SOON, async || {
        it.record().calls("hold").len() + over(&held) >= at_once
    })
    .await;
    assert_eq!((it.record().calls("hold").len(), over(&held)), (run, at_once - run), "{preset}, {session:?}");
    let mut refused = Vec::new();
    while let Some(at) = held.iter().position(JoinHandle::is_finished) {
        refused.push(ended(held.swap_remove(at)).await);
    }
    refused.iter().for_each(assert_refused);

    let let_go = ended(start(&daemon, Some("other"), "let_go", &json!({"key": "all"}))).await;
    assert_eq!(said(&let_go), "let go");
    for call in held {
        assert_eq!(said(&ended(call).await), "held all", "{preset}, {session:?}");
    }
    assert_eq!(it.record().calls("hold").len(), run, "a refused call ran all the same");
    // What was refused finds its place once there is one.
    assert_eq!(said(&ended(start(&daemon, session, "hold", &json!({"key": "all"}))).await), "held all");
    assert_nothing_is_held(&daemon).await;
}
