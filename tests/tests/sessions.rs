//! How conversations begin and end, and how calls are taken back or taken up again.

use seawall_tests::{
    Call, Client, Daemon, Era, JSON, Transport, Upstream, eventually, every_pair, send, well,
};
use serde_json::{Value, json};
use std::time::Duration;

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with one server called `it`.
async fn with(transport: Transport) -> (Daemon, Upstream) {
    let it = Upstream::start(transport, "it", &[], "").await;
    (Daemon::start(it.table()).await, it)
}

#[tokio::test]
async fn an_idle_session_expires_but_not_while_a_call_is_open() {
    let it = Upstream::start(Transport::LegacyHttp, "it", &[], "").await;
    let config = format!("[limits]\nsession_idle = \"1s\"\n{}", it.table());
    let daemon = Daemon::start(&config).await;
    let client = Client::legacy(&daemon.url("/mcp"), None).await;

    // Longer than a session may be idle, by far.
    let late = client.call("it__late", r#"{"ms":2500}"#).await;
    assert_eq!(late.said(), "late");
    assert_eq!(daemon.status().await["conversations"], 1);

    daemon.until_no_conversation().await;
    assert_eq!(client.request("tools/list", "{}").await.status, 404);
    let ended = |entry: &Value| entry["event"] == "session_deleted";
    it.record().until("the upstream's session is ended, too", ended).await;
}

#[tokio::test]
async fn a_session_over_the_cap_is_refused_until_another_ends() {
    let daemon = Daemon::start(&format!("[limits]\nsessions = 2\n{}", well())).await;
    let url = daemon.url("/mcp");
    let first = Client::legacy(&url, None).await;
    let second = Client::legacy(&url, None).await;

    let refusal = Client::try_legacy(&url, None).await.expect_err("two sessions are open");
    assert_eq!(refusal.status, 503, "{refusal:#?}");
    assert!(refusal.text.contains("session"), "it does not say why: {refusal:#?}");
    assert_eq!(second.request("tools/list", "{}").await.status, 200);

    first.delete().await;
    Client::legacy(&url, None).await;
}

#[tokio::test]
async fn a_deleted_session_is_unknown() {
    let (daemon, it) = with(Transport::LegacyHttp).await;
    let client = Client::legacy(&daemon.url("/mcp"), None).await;
    client.call("it__echo", r#"{"text":"x"}"#).await.said();

    let deleted = client.delete().await;
    assert!((200..300).contains(&deleted.status), "{deleted:?}");
    assert_eq!(client.request("tools/list", "{}").await.status, 404);
    assert_eq!(client.delete().await.status, 404);
    daemon.until_no_conversation().await;
    let ended = |entry: &Value| entry["event"] == "session_deleted";
    it.record().until("the upstream's session is ended, too", ended).await;
}

#[tokio::test]
async fn a_session_that_nobody_opened_is_unknown() {
    let daemon = Daemon::start(&well()).await;
    for path in ["/mcp", "/mcp/well"] {
        let client = Client::legacy(&daemon.url(path), None).await.with_session("made-up");
        assert_eq!(client.request("tools/list", "{}").await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_legacy_request_without_a_session_is_malformed() {
    let daemon = Daemon::start(&well()).await;
    let version = [("mcp-protocol-version", "2025-11-25")];
    let response = send(&daemon.url("/mcp"), "POST", &[&JSON[..], &version].concat(), LIST).await;
    assert_eq!(response.status, 400, "{response:?}");
}

mod taking_a_call_back_reaches_the_upstream {
    use super::{a_cancel_reaches_the_upstream, every_pair};
    every_pair!(a_cancel_reaches_the_upstream);
}

async fn a_cancel_reaches_the_upstream(era: Era, transport: Transport) {
    let (daemon, it) = with(transport).await;
    let client = Client::open(era, &daemon.url("/mcp"), None).await;
    let call = client.start_call("it__hang", "{}");
    let sent = it.record().until_called("hang").await;
    call.cancel().await;

    let what = "the call is taken back upstream";
    if transport == Transport::ModernHttp {
        let closed = |entry: &Value| entry["event"] == "stream_closed" && entry["id"] == sent["id"];
        it.record().until(what, closed).await;
    } else {
        let named =
            |entry: &Value| entry["method"] == "notifications/cancelled" && entry["requestId"] == sent["id"];
        it.record().until(what, named).await;
        // It was understood: the request it names was found.
        it.record().until(what, |entry| entry["event"] == "cancelled").await;
    }
    daemon.until_idle().await;
    assert_eq!(client.call("it__echo", r#"{"text":"next"}"#).await.said(), "next");
}

#[tokio::test]
async fn a_legacy_client_that_goes_away_cancels_no_work_over_stdio() {
    Box::pin(work_outlives_its_legacy_client(Transport::Stdio)).await;
}

#[tokio::test]
async fn a_legacy_client_that_goes_away_cancels_no_work_over_legacy_http() {
    Box::pin(work_outlives_its_legacy_client(Transport::LegacyHttp)).await;
}

#[tokio::test]
async fn a_legacy_client_that_goes_away_cancels_no_work_over_modern_http() {
    Box::pin(work_outlives_its_legacy_client(Transport::ModernHttp)).await;
}

async fn work_outlives_its_legacy_client(transport: Transport) {
    let (daemon, it) = with(transport).await;
    let client = Client::legacy(&daemon.url("/mcp"), None).await;

    // `slow` is not annotated, so it is taken to write.
    let slow = client.start_call("it__slow", r#"{"ms":1500}"#);
    it.record().until_called("slow").await;
    drop(slow);
    daemon.until_idle().await;
    assert!(!it.record().took_back("slow"), "{:#?}", it.record().entries());
    assert_eq!(it.record().calls("slow").len(), 1);

    let count = client.start_call("it__count", r#"{"key":"k"}"#);
    it.record().until_called("count").await;
    drop(count);
    daemon.until_idle().await;
    // The call that nobody waited for ran once, so this is the second run.
    assert_eq!(client.call("it__count", r#"{"key":"k"}"#).await.said(), "2");
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_again_and_delivers_the_result() {
    let (daemon, it) = with(Transport::Stdio).await;
    let client = Client::legacy(&daemon.url("/mcp"), None).await;
    let call = client.start_call_with_progress("it__slow", r#"{"ms":3000,"steps":30}"#);
    let (id, last_event) = (call.id(), last_event_of(&call).await);
    assert!(!call.is_over(), "the stream was not broken in time");
    drop(call);

    let answer = client.resume(&last_event, id).await;
    assert_eq!(answer.said(), "slow");
    let mut progress = answer.events.iter().filter(|event| event["method"] == "notifications/progress");
    assert!(progress.all(|event| event["params"]["progressToken"] == json!(id)), "{answer:#?}");
    assert_eq!(it.record().calls("slow").len(), 1, "resuming is no second call");
    assert!(!it.record().took_back("slow"), "{:#?}", it.record().entries());
    daemon.until_idle().await;
}

/// Waits for the first event that a stream can be resumed from.
async fn last_event_of(call: &Call) -> String {
    eventually("an event with an id", SOON, async || call.last_event_id().is_some()).await;
    call.last_event_id().expect("the condition held")
}

#[tokio::test]
async fn a_named_conversation_expires_and_the_daemons_own_listening_does_not() {
    let it = Upstream::start(Transport::LegacyHttp, "it", &[], "").await;
    let daemon = Daemon::start(&format!("[limits]\nsession_idle = \"300ms\"\n{}", it.table())).await;
    let client = Client::modern(&daemon.url("/mcp"), None).in_conversation("named");
    client.list().await;
    client.call("it__echo", r#"{"text":"x"}"#).await.said();

    let ended = |entry: &Value| entry["event"] == "session_deleted";
    it.record().until("the named conversation's session is ended", ended).await;
    let instances = daemon.status().await["upstreams"][0]["instances"].clone();
    let keys: Vec<_> = instances.as_array().into_iter().flatten().map(|instance| &instance["key"]).collect();
    assert_eq!(keys, ["conversation seawall"], "what hears of changed tools has to stay");
}
