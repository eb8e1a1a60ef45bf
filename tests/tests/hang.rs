//! What hangs hurts nobody but its own caller, and that one only until the deadline.

use seawall_tests::{Client, Daemon, Era, Transport, Upstream, eventually, every_pair, note, well};
use serde_json::json;
use std::time::Duration;

/// The limits of the bad server; the constants below say the same.
const KEYS: &str = "timeout = \"1s\"\nstart_timeout = \"1500ms\"\nlist_timeout = \"1s\"";
const TIMEOUT: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_millis(1500);
const LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// How far an answer may overshoot its deadline.
const PROMISED: Duration = Duration::from_millis(100);
/// What a loaded machine may add to that: it runs the tests, the daemon, its children and a compiler at once.
const ALLOWANCE: Duration = Duration::from_millis(400);
/// How soon a healthy tool answers while another one hangs.
const PROMPT: Duration = Duration::from_millis(500);
/// How long the first list may take where one server does not contribute to it.
const FIRST_LIST: Duration = Duration::from_secs(6);

mod a_tool_that_never_answers_ends_at_its_deadline {
    use super::{a_tool_ends_at_its_deadline, every_pair};
    every_pair!(a_tool_ends_at_its_deadline, "hang");
}

mod a_tool_that_sends_headers_and_nothing_more_ends_at_its_deadline {
    use super::{a_tool_ends_at_its_deadline, every_pair};
    every_pair!(a_tool_ends_at_its_deadline, "headers_then_nothing");
}

mod a_tool_that_dribbles_without_a_result_ends_at_its_deadline {
    use super::{a_tool_ends_at_its_deadline, every_pair};
    every_pair!(a_tool_ends_at_its_deadline, "dribble");
}

mod a_list_that_never_comes_is_missing_from_the_whole_and_ends_by_itself {
    use super::{a_list_ends_at_its_deadline, every_pair};
    every_pair!(a_list_ends_at_its_deadline);
}

mod an_upstream_that_never_opens_ends_its_calls_at_the_start {
    use super::{an_opening_ends_at_its_deadline, every_pair};
    every_pair!(an_opening_ends_at_its_deadline);
}

/// A daemon with a healthy server that runs already, a bad one, and a client of both.
struct Scene {
    client: Client,
    daemon: Daemon,
    bad: Upstream,
}

impl Scene {
    async fn start(era: Era, transport: Transport, flags: &[&str]) -> Self {
        let bad = Upstream::start(transport, "bad", flags, KEYS).await;
        let daemon = Daemon::start(&format!("{}{}", bad.table(), well())).await;
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        let scene = Self { client, daemon, bad };
        scene.until_it_answers("well__echo").await;
        scene
    }

    /// Calls an echo until its server is up, so that no start is measured later.
    async fn until_it_answers(&self, echo: &str) {
        eventually(&format!("{echo} answers"), Duration::from_secs(20), async || {
            let answer = self.client.call(echo, &json!({"text": "ready"})).await;
            answer.value["result"]["content"][0]["text"] == "ready"
        })
        .await;
    }

    async fn assert_the_healthy_tool_answers_promptly(&self) {
        let answer = self.client.call("well__echo", &json!({"text": "well"})).await;
        assert_eq!(answer.said(), "well");
        assert!(answer.elapsed < PROMPT, "the healthy tool took {:?}", answer.elapsed);
    }
}

fn assert_in_time(what: &str, elapsed: Duration, deadline: Duration) {
    let over = elapsed.saturating_sub(deadline);
    note(&format!("{what}: {over:?} over its deadline of {deadline:?}"));
    assert!(over <= PROMISED + ALLOWANCE, "{what} took {elapsed:?}, its deadline was {deadline:?}");
}

async fn a_tool_ends_at_its_deadline(era: Era, transport: Transport, tool: &str) {
    let scene = Scene::start(era, transport, &[]).await;
    scene.until_it_answers("bad__echo").await;

    let bad = scene.client.start_call(&format!("bad__{tool}"), "{}");
    scene.bad.record().until_called(tool).await;
    assert!(!bad.is_over(), "the call ended before its deadline");
    scene.assert_the_healthy_tool_answers_promptly().await;
    assert!(scene.client.list().await.has("well__echo"));

    let answer = bad.answer().await;
    let fault = answer.fault();
    assert!(answer.complaint().starts_with("TIMEOUT"), "{answer:#?}");
    assert_eq!((answer.code(), &fault["stage"]), ("TIMEOUT", &json!("answer")), "{fault}");
    assert_eq!((&fault["upstream"], &fault["may_have_run"]), (&json!("bad"), &json!(true)), "{fault}");
    assert!(answer.elapsed >= TIMEOUT, "the call was cut short after {:?}", answer.elapsed);
    assert_in_time(tool, answer.elapsed, TIMEOUT);
    scene.daemon.until_idle().await;
}

async fn a_list_ends_at_its_deadline(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, &["--never", "tools/list"]).await;

    let listing = scene.client.list().await;
    assert!(listing.elapsed < FIRST_LIST, "the list took {:?}", listing.elapsed);
    assert!(listing.has("well__echo"), "{listing:#?}");
    assert!(!listing.names.iter().any(|name| name.starts_with("bad__")), "{listing:#?}");
    let missing = listing.meta("seawall/missing");
    assert!(missing.to_string().contains("\"bad\""), "the list does not say what is missing: {listing:#?}");

    let own = Client::open(era, &scene.daemon.url("/mcp/bad"), None).await;
    if era == Era::Modern {
        // The other era has opened the upstream with its session.
        assert_eq!(own.request("server/discover", "{}").await.status, 200);
    }
    let list = own.start("tools/list", "{}");
    scene.assert_the_healthy_tool_answers_promptly().await;
    let answer = list.answer().await;
    assert_eq!(answer.value["error"]["data"]["code"], "TIMEOUT", "{answer:#?}");
    assert_in_time("tools/list", answer.elapsed, LIST_TIMEOUT);
    scene.daemon.until_idle().await;
}

async fn an_opening_ends_at_its_deadline(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, &["--never", "initialize"]).await;
    let url = scene.daemon.url("/mcp/bad");

    let bad = async {
        match era {
            Era::Modern => (Client::modern(&url, None).call("echo", r#"{"text":"x"}"#).await, TIMEOUT),
            // A session with an upstream that cannot be opened may itself be refused, by the start's limit.
            Era::Legacy => match Client::try_legacy(&url, None).await {
                Ok(own) => (own.call("echo", r#"{"text":"x"}"#).await, TIMEOUT),
                Err(refusal) => (*refusal, START_TIMEOUT),
            },
        }
    };
    let well = async {
        scene.assert_the_healthy_tool_answers_promptly().await;
        let listing = scene.client.list().await;
        assert!(listing.has("well__echo"), "{listing:#?}");
        assert!(listing.elapsed < FIRST_LIST, "the list took {:?}", listing.elapsed);
    };
    let ((answer, deadline), ()) = tokio::join!(bad, well);

    let fault = answer.fault();
    assert_eq!((answer.code(), &fault["stage"]), ("TIMEOUT", &json!("start")), "{fault}");
    assert_eq!(fault["may_have_run"], false, "{fault}");
    assert_in_time("opening", answer.elapsed, deadline.min(START_TIMEOUT));
    scene.daemon.until_idle().await;
}
