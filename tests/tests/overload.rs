//! Too much at once, and servers that do not answer: who waits, who does not, what is tried again, and when it is
//! left alone.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seawall_tests::{
    Answer, Call, Client, Daemon, PATIENCE, Record, Response, Transport, Upstream, at, caller, eventually,
    note, send, well,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);
/// How soon a healthy tool answers, whatever else goes on; most of it is for a loaded machine.
const PROMPT: Duration = Duration::from_secs(1);
/// What a loaded machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(1);

/// A server that everyone shares, under this name and with further lines.
async fn shared(transport: Transport, name: &str, keys: &str) -> Upstream {
    Upstream::start(transport, name, &["--all"], &format!("sharing = \"everyone\"\n{keys}")).await
}

/// A client without a name for its conversation, once the daemon knows this tool.
async fn client_of(daemon: &Daemon, token: Option<&str>, tool: &str) -> Client {
    let client = Client::modern(&daemon.url("/mcp"), token);
    eventually(&format!("{tool} is listed"), PATIENCE, async || client.list().await.has(tool)).await;
    client
}

/// A daemon with one server `it`, and a client.
async fn with_it(transport: Transport, keys: &str) -> (Daemon, Upstream, Client) {
    let it = shared(transport, "it", keys).await;
    let daemon = Daemon::start(it.table()).await;
    let client = client_of(&daemon, None, "it__echo").await;
    (daemon, it, client)
}

/// The arguments of one call among many, no two of which are equal.
fn numbered(number: usize) -> Value {
    json!({"number": number})
}

/// How many calls are in a scope, and how many wait for it.
async fn load(daemon: &Daemon, scope: &str, name: &str) -> (u64, u64) {
    let status = daemon.status().await;
    let loads = status["loads"].as_array().expect("status lists the scopes");
    let load = loads.iter().find(|load| load["scope"] == scope && load["name"] == name);
    let number = |member: &str| load.and_then(|load| load[member].as_u64()).unwrap_or_default();
    (number("in_use"), number("waiting"))
}

/// Calls of a client that hang at a server, each of its own.
fn hang(client: &Client, server: &str, numbers: std::ops::Range<usize>) -> Vec<Call> {
    let tool = format!("{server}__hang");
    numbers.map(|number| client.start_call(&tool, &numbered(number))).collect()
}

/// Calls an echo until it answers, so that no process is started while time is taken.
async fn ready(client: &Client, tool: &str) {
    let answers = async || client.call(tool, r#"{"text":"ready"}"#).await.succeeded();
    eventually(&format!("{tool} answers"), PATIENCE, answers).await;
}

async fn assert_prompt(client: &Client, tool: &str) -> Duration {
    let answer = client.call(tool, r#"{"text":"prompt"}"#).await;
    assert_eq!(answer.said(), "prompt");
    assert!(answer.elapsed < PROMPT, "{tool} took {:?}", answer.elapsed);
    answer.elapsed
}

/// What of the calls was answered by `code`, and the slowest of all.
fn ended_by(answers: &[Answer], code: &str) -> (usize, Duration) {
    let slowest = answers.iter().map(|answer| answer.elapsed).max().unwrap_or_default();
    (answers.iter().filter(|answer| !answer.succeeded() && answer.code() == code).count(), slowest)
}

#[tokio::test]
async fn a_healthy_server_is_reached_at_once_while_500_calls_of_the_same_caller_wait_for_a_hung_one() {
    const CALLS: usize = 500;
    // The caller's share of its own 32 places.
    const HANGING: u64 = 16;
    // Each call has a connection of its own.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit can be raised");

    let hung = shared(Transport::Stdio, "hung", "").await;
    let daemon = Daemon::start(&format!("[limits]\nqueue = 2000\n{}{}", hung.table(), well())).await;
    let client = client_of(&daemon, None, "hung__hang").await;
    ready(&client, "well__echo").await;

    let calls = hang(&client, "hung", 0..CALLS);
    eventually("all of them hang or wait", PATIENCE, async || {
        load(&daemon, "upstream", "hung").await == (HANGING, CALLS as u64 - HANGING)
    })
    .await;
    let mut times = Vec::new();
    for _ in 0..50 {
        times.push(assert_prompt(&client, "well__echo").await);
    }
    // Many at once find their places as well; equal ones would be one.
    let at_once: Vec<Call> =
        (0..8).map(|number| client.start_call("well__echo", &json!({"text": number.to_string()}))).collect();
    for (number, call) in at_once.into_iter().enumerate() {
        let answer = call.answer().await;
        assert!(answer.said() == number.to_string() && answer.elapsed < PROMPT, "{answer:#?}");
    }
    times.sort_unstable();
    note(&format!(
        "a healthy tool while {CALLS} calls wait: p50 {:.1?}, at most {:.1?}",
        times[25], times[49]
    ));
    assert!(!calls.iter().any(Call::is_over), "a call ended that was to hang or wait");
    drop(calls);
    eventually("nobody hangs or waits any more", PATIENCE, async || {
        load(&daemon, "upstream", "hung").await == (0, 0)
    })
    .await;
    daemon.until_idle().await;
}

#[tokio::test]
async fn with_the_default_limits_a_hung_server_leaves_half_of_a_callers_places_to_the_others() {
    Box::pin(half_is_left(&["one"], None, 16)).await;
}

#[tokio::test]
async fn with_the_default_limits_a_hung_server_leaves_half_of_a_conversations_places_to_the_others() {
    Box::pin(half_is_left(&["one"], Some("talk"), 8)).await;
}

#[tokio::test]
async fn with_the_default_limits_a_hung_server_leaves_half_of_all_places_to_the_others() {
    Box::pin(half_is_left(&["one", "two"], None, 32)).await;
}

/// Has these callers call a hung server until their calls wait, and asserts that as many calls as hang there, `half`
/// of what there is, run elsewhere at once.
async fn half_is_left(callers: &[&str], conversation: Option<&str>, half: usize) {
    let (hung, other) =
        (shared(Transport::Stdio, "hung", "").await, shared(Transport::Stdio, "other", "").await);
    let tables: String = callers.iter().map(|name| caller(name, &format!("token-{name}"), &["*"])).collect();
    let daemon = Daemon::start(&format!("{tables}{}{}", hung.table(), other.table())).await;
    let daemon = daemon.as_caller(&format!("token-{}", callers[0]));
    let mut clients = Vec::new();
    for name in callers {
        let client = client_of(&daemon, Some(&format!("token-{name}")), "hung__hang").await;
        eventually("the other server is listed", PATIENCE, async || client.list().await.has("other__hang"))
            .await;
        clients.push(match conversation {
            Some(name) => client.in_conversation(name),
            None => client,
        });
    }
    let each = half / callers.len();
    let more = 4;

    let hanging: Vec<Call> = clients.iter().flat_map(|client| hang(client, "hung", 0..each + more)).collect();
    let waiting = more * callers.len();
    eventually("the hung server has all it can have", SOON, async || {
        load(&daemon, "upstream", "hung").await == (half as u64, waiting as u64)
    })
    .await;

    let elsewhere: Vec<Call> = clients.iter().flat_map(|client| hang(client, "other", 0..each)).collect();
    eventually("as many calls run elsewhere", SOON, async || other.record().calls("hang").len() == half)
        .await;
    assert_eq!(hung.record().calls("hang").len(), half, "more than its half ran at the hung server");
    assert!(!hanging.iter().chain(&elsewhere).any(Call::is_over), "a call ended that was to hang or wait");
    drop((hanging, elsewhere));
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_provider_that_hangs_for_one_conversation_leaves_another_as_it_was() {
    let keys = "provider = \"glm\"\nheartbeat = \"1s\"";
    let glm = Upstream::start(Transport::Stdio, "glm", &["--all"], keys).await;
    let config = format!("[limits]\npreset = \"prod\"\n{}{}", glm.table(), well());
    let daemon = Daemon::start(&config).await;
    let client = client_of(&daemon, None, "glm__hang").await;
    let (hung, other) = (client.in_conversation("hung"), client.in_conversation("other"));
    let before = what_a_conversation_sees(&daemon, &other).await;

    // All but one of the places that there are at the provider.
    let calls = hang(&hung, "glm", 0..3);
    eventually("they hang", SOON, async || glm.record().calls("hang").len() == 3).await;
    let during = what_a_conversation_sees(&daemon, &other).await;
    note(&format!("another conversation's calls before: {before:.1?}; while a provider hangs: {during:.1?}"));
    assert!(!calls.iter().any(Call::is_over), "a call ended that was to hang");
    drop(calls);
    daemon.until_idle().await;
}

/// Calls both servers many times and gives the median of their times; hears signs of life of a silent call, and asks
/// for the status.
async fn what_a_conversation_sees(daemon: &Daemon, client: &Client) -> Duration {
    for tool in ["glm__echo", "well__echo"] {
        ready(client, tool).await;
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        times.push(assert_prompt(client, "glm__echo").await);
        times.push(assert_prompt(client, "well__echo").await);
    }
    let silent = client.start_call_with_progress("glm__work", r#"{"key":"silent","ms":3500}"#);
    let began = Instant::now();
    let status = at(daemon, &["status", "--json"]).await;
    assert!(status.code == 0 && status.json()["upstreams"].is_array(), "{status:?}");
    assert!(began.elapsed() < PROMPT + SLACK, "status took {:?}", began.elapsed());
    let answer = silent.answer().await;
    assert!(answer.succeeded(), "{answer:#?}");
    let beats = answer.heard("notifications/progress").len();
    assert!(beats >= 3, "it said {beats} times in 3.5 s that it goes on, not every second: {answer:#?}");
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_server_that_times_out_a_hundred_times_costs_a_tenth_and_ten_more_calls() {
    const CALLS: usize = 100;
    const AT_ONCE: usize = 10;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let keys = "timeout = \"5s\"\nbreaker = { failures = 0.0 }\n\
                [servers.it.tools.hang_read]\nattempt_timeout = \"200ms\"";
    let (daemon, it, client) = with_it(Transport::Stdio, keys).await;

    let mut answers = Vec::new();
    for first in (0..CALLS).step_by(AT_ONCE) {
        let calls: Vec<Call> = (first..first + AT_ONCE)
            .map(|number| client.start_call("it__hang_read", &numbered(number)))
            .collect();
        for call in calls {
            answers.push(call.answer().await);
        }
    }
    let (timed_out, slowest) = ended_by(&answers, "TIMEOUT");
    let tried = it.record().calls("hang_read").len();
    note(&format!("{CALLS} calls that time out: tried {tried} times, the slowest over after {slowest:.1?}"));
    assert_eq!(timed_out, CALLS, "{answers:#?}");
    assert!(slowest <= TIMEOUT + SLACK, "a call took {slowest:?}, which is more than its one deadline");
    // The floor is there to be used: ten of them are tried again in any case.
    assert!((CALLS + 10..=CALLS + CALLS / 10 + 10).contains(&tried), "it was tried {tried} times");
    assert_eq!(client.call("it__echo", r#"{"text":"on"}"#).await.said(), "on");
    daemon.until_idle().await;
}

#[tokio::test]
async fn however_often_a_call_may_be_tried_it_ends_at_its_one_deadline() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let keys = "timeout = \"2s\"\nbreaker = { failures = 0.0 }\n\
                retries = { max = 10, backoff = \"10ms\", budget = 1.0, floor = 100 }\n\
                [servers.it.tools.hang_read]\nattempt_timeout = \"300ms\"";
    let (daemon, it, client) = with_it(Transport::Stdio, keys).await;
    let answer = client.call("it__hang_read", "{}").await;
    let tried = it.record().calls("hang_read").len();
    assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    assert!(answer.elapsed <= TIMEOUT + SLACK, "it took {:?}", answer.elapsed);
    assert!((2..=7).contains(&tried), "it was tried {tried} times in 2 s, for 300 ms each");
    daemon.until_idle().await;
}

#[tokio::test]
async fn what_may_write_is_never_repeated_once_it_was_sent() {
    let keys = "timeout = \"5s\"\nattempt_timeout = \"300ms\"\nretries = { max = 5, backoff = \"10ms\" }";
    let (daemon, it, client) = with_it(Transport::Stdio, keys).await;
    for (tool, code) in [("hang", "TIMEOUT"), ("crash", "OUTCOME_UNKNOWN")] {
        let answer = client.call(&format!("it__{tool}"), "{}").await;
        assert_eq!((answer.code(), &answer.fault()["may_have_run"]), (code, &json!(true)), "{answer:#?}");
        assert_eq!(it.record().calls(tool).len(), 1, "{tool} was sent again");
    }
    let table = "retries = { max = 5, backoff = \"10ms\" }";
    let (other, over_http, client) = with_it(Transport::ModernHttp, table).await;
    let answer = client.call("it__unavailable", r#"{"key":"write","times":1}"#).await;
    assert!(!answer.succeeded(), "it was tried again: {answer:#?}");
    assert_eq!(over_http.record().calls("unavailable").len(), 1, "it was sent again");
    daemon.until_idle().await;
    other.until_idle().await;
}

#[tokio::test]
async fn a_server_that_says_when_to_come_back_is_tried_again_then() {
    // It answers 503 once, with `Retry-After: 1`.
    for transport in [Transport::LegacyHttp, Transport::ModernHttp] {
        let keys = "[servers.it.tools.unavailable]\neffects = \"none\"";
        let (daemon, it, client) = with_it(transport, keys).await;
        let answer = client.call("it__unavailable", r#"{"key":"a","times":1}"#).await;
        assert!(answer.said().starts_with("1 in "), "{transport:?}: {answer:#?}");
        assert!(answer.elapsed >= Duration::from_secs(1), "{transport:?}: {:?}", answer.elapsed);
        assert_eq!(it.record().calls("unavailable").len(), 2, "{transport:?}");

        // Each further try waits for a second, and there are two of them.
        let answer = client.call("it__unavailable", r#"{"key":"b","times":9}"#).await;
        assert!(
            !answer.succeeded() && answer.elapsed >= Duration::from_secs(2),
            "{transport:?}: {answer:#?}"
        );
        assert_eq!(it.record().calls("unavailable").len(), 2 + 3, "{transport:?}");
        daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_server_that_says_to_come_back_after_the_deadline_is_left_at_once() {
    let keys = "timeout = \"800ms\"\n[servers.it.tools.unavailable]\neffects = \"none\"";
    let (daemon, it, client) = with_it(Transport::ModernHttp, keys).await;
    let answer = client.call("it__unavailable", r#"{"key":"a","times":9}"#).await;
    assert!(!answer.succeeded() && answer.elapsed < Duration::from_millis(800), "{answer:#?}");
    let wait = answer.fault()["retry_after_ms"].as_u64().unwrap_or_default();
    assert!((1..=1000).contains(&wait), "{answer:#?}");
    assert_eq!(it.record().calls("unavailable").len(), 1);
    daemon.until_idle().await;
}

/// A breaker that a few failures open, for two seconds.
const BREAKER: &str = "retries = { max = 0 }\n\
    breaker = { window = \"1m\", failures = 0.5, least = 4, open = \"2s\" }\n\
    [servers.it.tools.hang_read]\ntimeout = \"300ms\"";
const OPEN: Duration = Duration::from_secs(2);

/// Lets calls fail until they are not tried any more.
async fn until_open(client: &Client, record: &Record) {
    let before = record.calls("hang_read").len();
    for number in 0..20 {
        let answer = client.call("it__hang_read", &numbered(number)).await;
        if answer.code() == "UPSTREAM_UNAVAILABLE" {
            let failed = record.calls("hang_read").len() - before;
            assert!((3..=8).contains(&failed), "it took {failed} failures");
            return;
        }
        assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    }
    panic!("after 20 failures the server is still tried");
}

/// Asserts that a call is refused at once, because the server is not tried at the moment, and told to come back after
/// so long at most.
async fn assert_not_tried(client: &Client, record: &Record, most: Duration) {
    let before = record.calls("echo").len();
    let answer = client.call("it__echo", r#"{"text":"x"}"#).await;
    let fault = answer.fault();
    assert_eq!(
        (answer.code(), &fault["may_have_run"]),
        ("UPSTREAM_UNAVAILABLE", &json!(false)),
        "{answer:#?}"
    );
    assert!(answer.complaint().contains("\"it\""), "it does not say which server: {answer:#?}");
    let wait = fault["retry_after_ms"].as_u64().unwrap_or_default();
    assert!(wait > 0 && Duration::from_millis(wait) <= most, "the next try is in {wait} ms: {answer:#?}");
    assert!(answer.elapsed < PROMPT, "it took {:?} to be refused", answer.elapsed);
    assert_eq!(record.calls("echo").len(), before, "it was tried all the same");
}

/// Calls a tool until a call of it is the one that tries the server again, and gives that one under way.
async fn probe(client: &Client, record: &Record, tool: &str, arguments: &str) -> Call {
    let before = record.calls(tool).len();
    let sent = || record.calls(tool).len() > before;
    let began = Instant::now();
    while began.elapsed() < OPEN + SOON {
        let call = client.start_call(&format!("it__{tool}"), arguments);
        eventually("the call is refused or sent", SOON, async || call.is_over() || sent()).await;
        if sent() {
            return call;
        }
    }
    panic!("the server is not tried again after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_breaker_opens_says_when_it_tries_again_and_closes_after_one_that_succeeds() {
    let (daemon, it, client) = with_it(Transport::Stdio, BREAKER).await;
    until_open(&client, it.record()).await;
    let opened = Instant::now();
    assert_not_tried(&client, it.record(), OPEN).await;

    let one = probe(&client, it.record(), "work", r#"{"key":"probe","ms":1500}"#).await;
    assert!(opened.elapsed() + SLACK >= OPEN, "it was tried again after {:?}", opened.elapsed());
    // Half open: it is one call that tries, and no other.
    assert_not_tried(&client, it.record(), Duration::from_secs(60)).await;
    assert!(one.answer().await.said().starts_with("1 in "));
    for _ in 0..5 {
        assert_eq!(client.call("it__echo", r#"{"text":"closed"}"#).await.said(), "closed");
    }
    daemon.until_idle().await;
}

#[tokio::test]
async fn a_breaker_stays_open_after_one_that_fails() {
    let (daemon, it, client) = with_it(Transport::Stdio, BREAKER).await;
    until_open(&client, it.record()).await;
    let one = probe(&client, it.record(), "hang_read", r#"{"number":99}"#).await;
    assert_eq!(one.answer().await.code(), "TIMEOUT");
    assert_not_tried(&client, it.record(), OPEN).await;
    // And the next one tries again.
    let next = probe(&client, it.record(), "work", r#"{"key":"probe","ms":10}"#).await;
    assert!(next.answer().await.said().starts_with("1 in "));
    assert_eq!(client.call("it__echo", r#"{"text":"closed"}"#).await.said(), "closed");
    daemon.until_idle().await;
}

/// Calls `it__TOOL` over REST as the caller with this token.
async fn execute(daemon: &Daemon, token: &str, tool: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let body = json!({"tool": format!("it__{tool}"), "arguments": {"text": "x", "key": "x"}});
    send(&daemon.url("/api/v1/execute"), "POST", &headers, body.to_string()).await
}

#[tokio::test]
async fn more_calls_than_the_rate_allows_are_refused_until_there_is_one_again() {
    const OF_A_TOOL: &str = "[servers.it.tools.echo]\nrate = \"2/m\"";
    // Where the rate is set, and whether other tools draw on it too.
    for (limits, own, keys, other_tools) in [
        ("", "", OF_A_TOOL, false),
        ("[limits]\nrate = \"2/m\"\n", "", "", true),
        ("", "rate = \"2/m\"\n", "", true),
    ] {
        let which = format!("{limits}{own}{keys}");
        let it = shared(Transport::Stdio, "it", keys).await;
        let callers =
            [caller("one", "token-one", &["*"]), own.to_owned(), caller("two", "token-two", &["*"])];
        let config = format!("{limits}{}{}", callers.concat(), it.table());
        let daemon = Daemon::start(&config).await.as_caller("token-one");
        client_of(&daemon, Some("token-one"), "it__echo").await;

        for _ in 0..2 {
            assert_eq!(execute(&daemon, "token-one", "echo").await.status, 200, "{which}");
        }
        let refused = execute(&daemon, "token-one", "echo").await;
        let error = &refused.json()["error"];
        assert_eq!((refused.status, &error["code"]), (429, &json!("OVER_CAPACITY")), "{which}: {refused:?}");
        let wait = error["retry_after_ms"].as_u64().unwrap_or_default();
        assert!((1..=30_000).contains(&wait), "{which}: the next one in {wait} ms");
        assert_eq!(refused.header("retry-after"), wait.div_ceil(1000).to_string(), "{which}: {refused:?}");
        assert_eq!(it.record().calls("echo").len(), 2, "{which}: it was sent all the same");

        let other_tool = execute(&daemon, "token-one", "count").await.status;
        assert_eq!(other_tool, if other_tools { 429 } else { 200 }, "{which}");
        assert_eq!(execute(&daemon, "token-two", "echo").await.status, 200, "{which}: another caller");
        daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_rate_that_is_used_up_fills_again() {
    let (daemon, _it, client) = with_it(Transport::Stdio, "rate = \"2/s\"").await;
    let echo = async || client.call("it__echo", r#"{"text":"x"}"#).await;
    eventually("the rate is used up", SOON, async || {
        let answer = echo().await;
        !answer.succeeded() && answer.code() == "OVER_CAPACITY"
    })
    .await;
    eventually("there is one again", SOON, async || echo().await.succeeded()).await;
    daemon.until_idle().await;
}
