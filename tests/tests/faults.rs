//! What a misbehaving upstream's callers are told, and that the next call is none the worse for it.

use seawall_tests::{Client, Daemon, Era, Transport, Upstream, caller, eventually, every_pair};
use serde_json::json;
use std::time::Duration;

/// Limits short enough to wait for, and long enough to tell what ended sooner.
const KEYS: &str = "timeout = \"3s\"";
const TIMEOUT: Duration = Duration::from_secs(3);

/// What JSON parsers like to change: large numbers, trailing zeros, the order of keys, escapes and spaces.
const DELICATE: &str = concat!(
    r#"{"z":12345678901234567890123456789,"a":1.10,"m":{"y":[3, 1,2],"b":-0.0},"#,
    r#""e\u00e9":"\u0041é","n":null}"#
);

/// A daemon, a server called `it` and a client of both.
struct Scene {
    client: Client,
    daemon: Daemon,
    it: Upstream,
}

impl Scene {
    async fn start(era: Era, transport: Transport, keys: &str) -> Self {
        Self::limited(era, transport, keys, "").await
    }

    async fn limited(era: Era, transport: Transport, keys: &str, limits: &str) -> Self {
        let it = Upstream::start(transport, "it", &[], keys).await;
        let daemon = Daemon::start(&format!("{limits}\n{}", it.table())).await;
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        Self { client, daemon, it }
    }

    async fn assert_the_next_call_works(&self) {
        assert_eq!(self.client.call("it__echo", r#"{"text":"next"}"#).await.said(), "next");
        self.daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_crash_in_a_call_that_may_write_leaves_its_outcome_unknown() {
    let scene = Scene::start(Era::Modern, Transport::Stdio, KEYS).await;
    let answer = scene.client.call("it__crash", "{}").await;
    assert!(answer.complaint().starts_with("OUTCOME_UNKNOWN"), "{answer:#?}");
    assert_eq!((answer.code(), &answer.fault()["may_have_run"]), ("OUTCOME_UNKNOWN", &json!(true)));
    assert!(answer.elapsed < TIMEOUT, "it took {:?} to see a process gone", answer.elapsed);
    assert_eq!(scene.it.record().calls("crash").len(), 1, "what may have written was sent again");
    scene.assert_the_next_call_works().await;
}

mod a_stream_that_closes_without_an_answer_leaves_the_outcome_unknown {
    use super::{a_closed_stream_is_an_unknown_outcome, every_pair};
    every_pair!(a_closed_stream_is_an_unknown_outcome);
}

async fn a_closed_stream_is_an_unknown_outcome(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, KEYS).await;
    let answer = scene.client.call("it__close_stream", "{}").await;
    assert_eq!((answer.code(), &answer.fault()["may_have_run"]), ("OUTCOME_UNKNOWN", &json!(true)));
    assert!(answer.elapsed < TIMEOUT, "it took {:?} to see a stream closed", answer.elapsed);
    assert_eq!(scene.it.record().calls("close_stream").len(), 1, "what may have written was sent again");
    scene.assert_the_next_call_works().await;
}

mod half_a_reply_ends_at_the_deadline {
    use super::{every_pair, half_a_reply_times_out};
    every_pair!(half_a_reply_times_out);
}

async fn half_a_reply_times_out(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, "timeout = \"1s\"").await;
    let url = scene.daemon.url("/mcp");
    // So that the start of the server spends nothing of the call's time.
    until_it_answers(&scene.client).await;
    let answer = scene.client.call("it__half_reply", "{}").await;
    assert_eq!((answer.code(), &answer.fault()["may_have_run"]), ("TIMEOUT", &json!(true)));
    scene.daemon.until_idle().await;
    // All of stdout stalls, so that this instance is of no more use to its own conversation; others go on.
    until_it_answers(&Client::open(era, &url, None).await.in_conversation("another")).await;
}

async fn until_it_answers(client: &Client) {
    eventually("the server answers", Duration::from_secs(20), async || {
        let answer = client.call("it__echo", r#"{"text":"ready"}"#).await;
        answer.value["result"]["content"][0]["text"] == "ready"
    })
    .await;
}

#[tokio::test]
async fn an_http_body_that_is_no_message_is_the_upstreams_error() {
    for transport in [Transport::LegacyHttp, Transport::ModernHttp] {
        let scene = Scene::start(Era::Modern, transport, KEYS).await;
        let answer = scene.client.call("it__garbage", "{}").await;
        assert_eq!(answer.code(), "UPSTREAM_ERROR", "{transport:?}: {answer:#?}");
        assert!(answer.elapsed < TIMEOUT, "it took {:?} to read a body", answer.elapsed);
        scene.assert_the_next_call_works().await;
    }
}

#[tokio::test]
async fn a_line_that_is_no_message_does_not_hide_the_answer_after_it() {
    let scene = Scene::start(Era::Modern, Transport::Stdio, "timeout = \"3s\"\nsharing = \"everyone\"").await;
    assert_eq!(scene.client.call("it__garbage", "{}").await.said(), "after garbage");
    let answer = scene.client.call("it__garbage", r#"{"reply":false}"#).await;
    assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    scene.assert_the_next_call_works().await;
}

mod an_answer_to_a_request_nobody_made_is_passed_over {
    use super::{a_wrong_id_is_passed_over, every_pair};
    every_pair!(a_wrong_id_is_passed_over);
}

async fn a_wrong_id_is_passed_over(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, KEYS).await;
    assert_eq!(scene.client.call("it__wrong_id", "{}").await.said(), "right");
    scene.assert_the_next_call_works().await;
}

mod a_late_answer_is_not_taken_for_the_next_calls {
    use super::{a_late_answer_is_dropped, every_pair};
    every_pair!(a_late_answer_is_dropped);
}

async fn a_late_answer_is_dropped(era: Era, transport: Transport) {
    let keys = format!("{KEYS}\n[servers.it.tools.late]\ntimeout = \"500ms\"");
    let scene = Scene::start(era, transport, &keys).await;
    until_it_answers(&scene.client).await;
    assert_eq!(scene.client.call("it__late", r#"{"ms":1000}"#).await.code(), "TIMEOUT");
    // The late answer comes while this one is awaited.
    assert_eq!(scene.client.call("it__sleep", r#"{"ms":1000}"#).await.said(), "sleep");
    scene.assert_the_next_call_works().await;
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_with_the_field_named_before_anything_is_sent() {
    let scene = Scene::start(Era::Legacy, Transport::Stdio, KEYS).await;
    // The schema is known once the tools are.
    scene.client.list().await;
    for arguments in ["{}", r#"{"text":5}"#] {
        let answer = scene.client.call("it__echo", arguments).await;
        assert!(answer.complaint().starts_with("INVALID_ARGUMENTS"), "{arguments}: {answer:#?}");
        assert!(answer.complaint().contains("text"), "{arguments}: the field is not named: {answer:#?}");
        assert_eq!(answer.code(), "INVALID_ARGUMENTS");
    }
    assert!(scene.it.record().calls("echo").is_empty(), "{:#?}", scene.it.record().entries());
    scene.assert_the_next_call_works().await;
}

#[tokio::test]
async fn a_tool_that_does_not_exist_is_unknown_on_every_endpoint() {
    let scene = Scene::start(Era::Modern, Transport::Stdio, KEYS).await;
    for era in [Era::Legacy, Era::Modern] {
        for (path, tool) in [("/mcp", "it__none"), ("/mcp", "none__echo"), ("/mcp/it", "none")] {
            let client = Client::open(era, &scene.daemon.url(path), None).await;
            client.call(tool, "{}").await.assert_unknown_tool();
        }
    }
}

mod an_answer_over_the_limit_is_refused {
    use super::{a_huge_answer_is_refused, every_pair};
    every_pair!(a_huge_answer_is_refused);
}

async fn a_huge_answer_is_refused(era: Era, transport: Transport) {
    let scene = Scene::limited(era, transport, KEYS, "[limits]\nmessage = \"64KiB\"").await;
    let answer = scene.client.call("it__big", r#"{"bytes":100000}"#).await;
    assert!(["TOO_LARGE", "UPSTREAM_ERROR"].contains(&answer.code()), "{answer:#?}");
    assert!(answer.elapsed < TIMEOUT, "it took {:?} to refuse an answer", answer.elapsed);
    scene.assert_the_next_call_works().await;
    let fits = scene.client.call("it__big", r#"{"bytes":10000}"#).await;
    assert_eq!(fits.said().len(), 10_000);
}

#[tokio::test]
async fn a_restart_replaces_a_wedged_process() {
    let keys = "timeout = \"1s\"\nsharing = \"everyone\"";
    let scene = Scene::start(Era::Modern, Transport::Stdio, keys).await;
    until_it_answers(&scene.client).await;
    let before = process_of(&scene.client).await;
    let wedged = scene.client.call("it__half_reply", "{}").await;
    assert_eq!(wedged.code(), "TIMEOUT", "{wedged:#?}");

    scene.daemon.restart("it").await;
    until_it_answers(&scene.client).await;
    assert_ne!(process_of(&scene.client).await, before);
}

/// The clients that the tests of sharing tell apart: two conversations of one caller, and another caller.
struct Clients {
    _daemon: Daemon,
    _it: Upstream,
    one: Client,
    two: Client,
    other: Client,
}

impl Clients {
    async fn of(era: Era, transport: Transport, sharing: &str) -> Self {
        let it = Upstream::start(transport, "it", &[], &format!("sharing = \"{sharing}\"")).await;
        let callers = caller("a", "token-a", &["*"]) + &caller("b", "token-b", &["*"]);
        let daemon = Daemon::start(&(callers + it.table())).await;
        let url = daemon.url("/mcp");
        let (one, two, other) = match era {
            Era::Legacy => (
                Client::legacy(&url, Some("token-a")).await,
                Client::legacy(&url, Some("token-a")).await,
                Client::legacy(&url, Some("token-b")).await,
            ),
            // The names are equal where the callers are not: a name is only its own caller's.
            Era::Modern => (
                Client::modern(&url, Some("token-a")).in_conversation("one"),
                Client::modern(&url, Some("token-a")).in_conversation("two"),
                Client::modern(&url, Some("token-b")).in_conversation("one"),
            ),
        };
        Self { _daemon: daemon, _it: it, one, two, other }
    }

    /// The processes that answer the first conversation twice, the second one, and the other caller.
    async fn processes(&self) -> [String; 4] {
        [
            process_of(&self.one).await,
            process_of(&self.one).await,
            process_of(&self.two).await,
            process_of(&self.other).await,
        ]
    }

    /// How many calls the upstream's session has seen, each time the same clients ask.
    async fn counts(&self) -> [String; 4] {
        [
            count_of(&self.one).await,
            count_of(&self.one).await,
            count_of(&self.two).await,
            count_of(&self.other).await,
        ]
    }
}

async fn process_of(client: &Client) -> String {
    client.call("it__pid", "{}").await.said().to_owned()
}

async fn count_of(client: &Client) -> String {
    client.call("it__conversation", "{}").await.said().to_owned()
}

#[tokio::test]
async fn sharing_session_gives_each_conversation_an_instance() {
    for era in [Era::Legacy, Era::Modern] {
        let [first, again, second, other] =
            Clients::of(era, Transport::Stdio, "session").await.processes().await;
        assert_eq!(first, again, "{era:?}");
        assert!(first != second && first != other && second != other, "{era:?}: {first} {second} {other}");
    }
    let clients = Clients::of(Era::Legacy, Transport::LegacyHttp, "session").await;
    assert_eq!(clients.counts().await, ["1", "2", "1", "1"]);
}

#[tokio::test]
async fn sharing_caller_gives_each_caller_an_instance() {
    for era in [Era::Legacy, Era::Modern] {
        let [first, again, second, other] =
            Clients::of(era, Transport::Stdio, "caller").await.processes().await;
        assert!(first == again && first == second, "{era:?}: {first} {again} {second}");
        assert_ne!(first, other, "{era:?}");
    }
    let clients = Clients::of(Era::Legacy, Transport::LegacyHttp, "caller").await;
    assert_eq!(clients.counts().await, ["1", "2", "3", "1"]);
}

#[tokio::test]
async fn sharing_everyone_gives_all_of_them_one_instance() {
    for era in [Era::Legacy, Era::Modern] {
        let processes = Clients::of(era, Transport::Stdio, "everyone").await.processes().await;
        assert!(processes.iter().all(|process| *process == processes[0]), "{era:?}: {processes:?}");
    }
    let clients = Clients::of(Era::Legacy, Transport::LegacyHttp, "everyone").await;
    assert_eq!(clients.counts().await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn sharing_call_gives_each_call_an_instance() {
    for era in [Era::Legacy, Era::Modern] {
        let [first, again, second, other] =
            Clients::of(era, Transport::Stdio, "call").await.processes().await;
        let mut different = vec![first, again, second, other];
        different.sort();
        different.dedup();
        assert_eq!(different.len(), 4, "{era:?}: {different:?}");
    }
    let clients = Clients::of(Era::Legacy, Transport::LegacyHttp, "call").await;
    assert_eq!(clients.counts().await, ["1", "1", "1", "1"]);
}

#[tokio::test]
async fn modern_requests_that_name_no_conversation_share_one_instance_per_caller() {
    let scene = Scene::start(Era::Modern, Transport::Stdio, "sharing = \"session\"").await;
    let unnamed = process_of(&scene.client).await;
    assert_eq!(process_of(&Client::modern(&scene.daemon.url("/mcp"), None)).await, unnamed);
    assert_ne!(process_of(&scene.client.in_conversation("named")).await, unnamed);
}

mod payloads_cross_byte_for_byte {
    use super::{a_payload_is_not_touched, every_pair};
    every_pair!(a_payload_is_not_touched);
}

async fn a_payload_is_not_touched(era: Era, transport: Transport) {
    let scene = Scene::start(era, transport, KEYS).await;
    let answer = scene.client.call("it__echo_raw", DELICATE).await;
    // What the upstream received, and what came back of what it sent.
    assert_eq!(answer.said(), DELICATE);
    assert!(answer.text.contains(&format!(r#""structuredContent":{DELICATE}"#)), "{}", answer.text);
}

#[tokio::test]
async fn a_list_in_pages_shows_every_tool() {
    let paged = Upstream::start(Transport::Stdio, "paged", &["--pages", "2"], "").await;
    let whole = Upstream::start(Transport::Stdio, "whole", &[], "").await;
    let daemon = Daemon::start(&format!("{}{}", paged.table(), whole.table())).await;
    for era in [Era::Legacy, Era::Modern] {
        let listing = Client::open(era, &daemon.url("/mcp"), None).await.list().await;
        let of = |server: &str| {
            let own = listing.names.iter().filter_map(|name| name.strip_prefix(server)?.strip_prefix("__"));
            own.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("paged"), of("whole"), "{era:?}");
        assert!(of("paged").len() > 2, "{era:?}: {listing:#?}");

        let own = Client::open(era, &daemon.url("/mcp/paged"), None).await.list().await;
        assert_eq!(own.names, of("whole"), "{era:?}");
    }
}
