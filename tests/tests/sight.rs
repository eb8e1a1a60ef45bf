//! What can be seen of a daemon under load: who holds places and who waits, what was counted, and the live view.
#![expect(clippy::disallowed_methods, reason = "a test starts the live view itself and reads what it prints")]

use rustix::process::Signal;
use seawall_tests::{
    Call, Client, Daemon, PATIENCE, Transport, Upstream, at, binary, eventually, send, within,
};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with a server `it` that everyone shares, and a client that has seen its tools.
async fn scene(limits: &str, keys: &str) -> (Daemon, Upstream, Client) {
    let keys = format!("sharing = \"everyone\"\n{keys}");
    let it = Upstream::start(Transport::Stdio, "it", &["--all"], &keys).await;
    let daemon = Daemon::start(&format!("{limits}{}", it.table())).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    eventually("the tools are listed", PATIENCE, async || client.list().await.has("it__hang")).await;
    (daemon, it, client)
}

/// What `GET /api/v1/calls` says.
async fn calls(daemon: &Daemon) -> Value {
    let response = send(&daemon.url("/api/v1/calls"), "GET", &[("accept", "*/*")], "").await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// The rows of a list in what `GET /api/v1/calls` says.
fn rows<'a>(calls: &'a Value, list: &str) -> &'a [Value] {
    calls[list].as_array().unwrap_or_else(|| panic!("no {list} in {calls:#}"))
}

/// One scope of what `GET /api/v1/calls` says.
fn scope<'a>(calls: &'a Value, scope: &str, name: &str) -> &'a Value {
    let is_it = |row: &&Value| row["scope"] == scope && row["name"] == name;
    rows(calls, "scopes").iter().find(is_it).unwrap_or_else(|| panic!("no {scope} {name:?} in {calls:#}"))
}

/// Two calls that hang and one that waits for the place of one of them, all of the conversation `talk`.
async fn two_hang_and_one_waits(daemon: &Daemon, client: &Client) -> Vec<Call> {
    let client = client.in_conversation("talk");
    let hanging = (0..3).map(|number| client.start_call("it__hang", &json!({"number": number}))).collect();
    eventually("two calls hang and one waits", SOON, async || {
        let calls = calls(daemon).await;
        (rows(&calls, "permits").len(), rows(&calls, "waiting").len()) == (2, 1)
    })
    .await;
    hanging
}

/// A table as it is printed: the words of each line that begins with this one.
fn table(output: &str, first: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    output.lines().map(words).filter(|words| words.first().is_some_and(|word| word == first)).collect()
}

#[tokio::test]
async fn status_shows_who_holds_a_place_who_waits_and_how_full_each_scope_is() {
    let (daemon, _it, client) = scene("", "limit = 2").await;
    let hanging = two_hang_and_one_waits(&daemon, &client).await;

    let said = at(&daemon, &["status", "--permits", "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for shown in [said.json(), calls(&daemon).await] {
        for permit in rows(&shown, "permits") {
            let whose = [&permit["caller"], &permit["conversation"], &permit["upstream"], &permit["tool"]];
            assert_eq!(whose, ["local", "local/talk", "it", "hang"], "{shown:#}");
            let halves = [&permit["caller_half"], &permit["upstream_half"], &permit["detached"]];
            assert_eq!(halves, [&json!(true), &json!(true), &json!(false)], "{shown:#}");
            assert!(permit["since_ms"].is_u64() && permit["until_ms"].is_u64(), "{shown:#}");
        }
        let waits = &rows(&shown, "waiting")[0];
        assert_eq!([&waits["conversation"], &waits["tool"]], ["local/talk", "hang"], "{shown:#}");
        assert!(waits["since_ms"].is_u64() && waits["until_ms"].is_null(), "{shown:#}");
        for (kind, name, limit) in [("total", "", 64), ("caller", "local", 32), ("upstream", "it", 2)] {
            let scope = scope(&shown, kind, name);
            let numbers = [&scope["in_use"], &scope["waiting"], &scope["limit"]];
            assert_eq!(numbers, [&json!(2), &json!(1), &json!(limit)], "{kind}: {shown:#}");
            assert!(scope["oldest_ms"].is_u64(), "{kind}: {shown:#}");
        }
        assert!(rows(&shown, "scopes").iter().any(|scope| scope["scope"] == "conversation"), "{shown:#}");
    }

    let said = at(&daemon, &["status", "--permits"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let header = ["CALLER", "CONVERSATION", "SERVER", "TOOL", "SINCE", "UNTIL", "HALVES", "DETACHED"];
    assert_eq!(table(&said.output, "CALLER"), [header], "{}", said.output);
    let under_way = table(&said.output, "local");
    assert!(under_way.iter().all(|row| row[1..4] == ["local/talk", "it", "hang"]), "{}", said.output);
    let halves = |wanted: &str| under_way.iter().filter(|row| row[6] == wanted).count();
    assert_eq!((under_way.len(), halves("both"), halves("none")), (3, 2, 1), "{}", said.output);
    let upstream = table(&said.output, "upstream");
    assert!(upstream.len() == 1 && upstream[0][1..5] == ["it", "2", "2", "1"], "{}", said.output);

    drop(hanging);
    daemon.until_idle().await;
    let said = at(&daemon, &["status", "--permits"]).await;
    assert!(said.output.starts_with("No call holds a place or waits for one.\n"), "{}", said.output);
    assert!(table(&said.output, "upstream").is_empty(), "{}", said.output);
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_seen_until_it_is_over() {
    let (daemon, _it, client) = scene("", "").await;
    let headers = [("content-type", "application/json"), ("seawall-timeout-ms", "300")];
    let body = r#"{"tool":"it__hold","arguments":{"key":"k"}}"#;
    let left = send(&daemon.url("/api/v1/execute"), "POST", &headers, body).await;
    assert_eq!((left.status, &left.json()["error"]["code"]), (504, &json!("TIMEOUT")), "{left:?}");

    eventually("the call goes on with nobody waiting", SOON, async || {
        let calls = calls(&daemon).await;
        rows(&calls, "permits").iter().any(|permit| permit["detached"] == true)
    })
    .await;
    let shown = calls(&daemon).await;
    let permit = &rows(&shown, "permits")[0];
    assert_eq!(
        [&permit["caller_half"], &permit["upstream_half"]],
        [&json!(false), &json!(true)],
        "{shown:#}"
    );
    assert_eq!(scope(&shown, "total", "")["in_use"], 0, "{shown:#}");
    assert_eq!(scope(&shown, "upstream", "it")["in_use"], 1, "{shown:#}");
    assert_eq!(sample(&daemon.metrics().await, "seawall_detached", &[]), Some(1.0));
    let said = at(&daemon, &["status", "--permits"]).await;
    let row = table(&said.output, "local");
    assert!(row.len() == 1 && row[0][6..] == ["upstream", "yes"], "{}", said.output);

    assert_eq!(client.call("it__let_go", r#"{"key":"k"}"#).await.said(), "let go");
    daemon.until_idle().await;
    assert_eq!(sample(&daemon.metrics().await, "seawall_detached", &[]), Some(0.0));
}

/// The value of the one series with this name and these labels.
fn sample(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    metrics.lines().find_map(|line| {
        let (found, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let has = |(label, value): &(&str, &str)| found.contains(&format!("{label}=\"{value}\""));
        let is_it = (found.is_empty() || found.starts_with('{')) && labels.iter().all(has);
        is_it.then(|| value.parse().ok()).flatten()
    })
}

#[tokio::test]
async fn gauges_show_how_full_it_is_now() {
    let keys = "limit = 2\n[servers.it.tools.count]\nlearn = { floor = \"2s\", ceiling = \"9s\" }";
    let (daemon, _it, client) = scene("", keys).await;
    let _session = Client::legacy(&daemon.url("/mcp"), None).await;
    // So many good calls that a time is learned from them.
    for number in 0..20 {
        let answer = client.call("it__count", &json!({"key": number.to_string()})).await;
        assert_eq!(answer.said(), "1", "{answer:#?}");
    }
    let hanging = two_hang_and_one_waits(&daemon, &client).await;
    let metrics = daemon.metrics().await;
    let of_it = [("scope", "upstream"), ("name", "it")];
    let of_all = [("scope", "total"), ("name", "")];
    for (name, labels, expected) in [
        ("seawall_in_flight", &of_it[..], 2.0),
        ("seawall_waiting", &of_it[..], 1.0),
        ("seawall_limit", &of_it[..], 2.0),
        ("seawall_in_flight", &of_all[..], 2.0),
        ("seawall_limit", &of_all[..], 64.0),
        ("seawall_detached", &[], 0.0),
        ("seawall_conversations", &[], 1.0),
        ("seawall_instances", &[("upstream", "it")], 1.0),
        // The floor: the calls took hardly any time.
        ("seawall_learned_timeout_seconds", &[("upstream", "it"), ("tool", "count")], 2.0),
    ] {
        assert_eq!(sample(&metrics, name, labels), Some(expected), "{name} {labels:?} in\n{metrics}");
    }
    let oldest = sample(&metrics, "seawall_oldest_seconds", &of_it);
    assert!(oldest.is_some_and(|age| age > 0.0 && age < PATIENCE.as_secs_f64()), "{oldest:?} in\n{metrics}");

    drop(hanging);
    daemon.until_idle().await;
    let metrics = daemon.metrics().await;
    assert_eq!(sample(&metrics, "seawall_in_flight", &of_it), None, "nobody is in it any more:\n{metrics}");
    assert_eq!(sample(&metrics, "seawall_in_flight", &of_all), Some(0.0), "{metrics}");
}

/// Waits until a counter has this value.
async fn until_counted(daemon: &Daemon, name: &str, labels: &[(&str, &str)], expected: f64) {
    eventually(&format!("{name} {labels:?} is {expected}"), SOON, async || {
        sample(&daemon.metrics().await, name, labels) == Some(expected)
    })
    .await;
}

#[tokio::test]
async fn counters_show_what_the_load_did() {
    let keys = "retries = { max = 1, backoff = \"10ms\", budget = 0.0, floor = 1 }\n\
                breaker = { window = \"10m\", failures = 0.5, least = 4, open = \"10m\" }\n\
                [servers.it.tools.echo]\nrate = \"1/h\"\n\
                [servers.it.tools.hold]\nlimit = 1\n\
                [servers.it.tools.work_read]\ncache = \"10m\"\n\
                [servers.it.tools.hang_read]\nattempt_timeout = \"200ms\"";
    let (daemon, it, client) = scene("[limits]\nqueue = 0\n", keys).await;
    let of_it = [("upstream", "it")];

    // More than the rate allows, and more than there is room for.
    assert_eq!(client.call("it__echo", r#"{"text":"x"}"#).await.said(), "x");
    assert_eq!(client.call("it__echo", r#"{"text":"x"}"#).await.code(), "OVER_CAPACITY");
    until_counted(&daemon, "seawall_refusals_total", &[("why", "rate")], 1.0).await;
    let held = client.start_call("it__hold", r#"{"key":"held"}"#);
    it.record().until_called("hold").await;
    assert_eq!(client.call("it__hold", r#"{"key":"other"}"#).await.code(), "OVER_CAPACITY");
    until_counted(&daemon, "seawall_refusals_total", &[("why", "tool")], 1.0).await;
    assert_eq!(client.call("it__let_go", r#"{"key":"held"}"#).await.said(), "let go");
    assert_eq!(held.answer().await.said(), "held held");

    // Work that is shared, and a result that is kept.
    let first = client.start_call("it__hold_read", r#"{"key":"shared"}"#);
    it.record().until_called("hold_read").await;
    let second = client.start_call("it__hold_read", r#"{"key":"shared"}"#);
    until_counted(&daemon, "seawall_shared_flights_total", &of_it, 1.0).await;
    assert_eq!(client.call("it__let_go", r#"{"key":"shared"}"#).await.said(), "let go");
    assert_eq!((first.answer().await.said(), second.answer().await.said()), ("held shared", "held shared"));
    for _ in 0..2 {
        assert!(client.call("it__work_read", r#"{"key":"kept"}"#).await.said().starts_with("1 in "));
    }
    until_counted(&daemon, "seawall_cache_hits_total", &of_it, 1.0).await;

    // The one retry that there is, one for which there is none, and then no call any more.
    for number in 0..2 {
        let answer = client.call("it__hang_read", &json!({"number": number})).await;
        assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    }
    until_counted(&daemon, "seawall_retries_total", &of_it, 1.0).await;
    until_counted(&daemon, "seawall_retry_budget_spent_total", &of_it, 1.0).await;
    until_counted(&daemon, "seawall_faults_total", &[("code", "TIMEOUT")], 2.0).await;
    let mut number = 2;
    eventually("the server is not tried any more", PATIENCE, async || {
        number += 1;
        let answer = client.call("it__hang_read", &json!({"number": number})).await;
        answer.code() == "UPSTREAM_UNAVAILABLE"
    })
    .await;
    until_counted(&daemon, "seawall_breaker_changes_total", &of_it, 1.0).await;

    // The live view reads the same, and shows what it says of the server.
    let said = at(&daemon, &["top", "--json"]).await;
    let snapshot = said.json();
    let totals = &snapshot["counters"]["totals"];
    let expected =
        [("refusals", 2), ("shared_flights", 1), ("cache_hits", 1), ("retries", 1), ("breaker_changes", 1)];
    for (name, count) in expected {
        assert_eq!(totals[name], count, "{name}: {said:?}");
    }
    let breaker = &snapshot["status"]["upstreams"][0]["breaker"];
    assert_eq!(breaker["state"], "open", "{breaker:#}");
    assert!(breaker["next_try_ms"].as_u64().is_some_and(|wait| wait <= 600_000), "{breaker:#}");
    let said = at(&daemon, &["top"]).await;
    let server = table(&said.output, "it");
    assert!(server.len() == 1 && server[0].contains(&"open".to_owned()), "{}", said.output);
    daemon.until_idle().await;
}

#[tokio::test]
async fn without_a_terminal_the_live_view_is_printed_once() {
    let (daemon, _it, client) = scene("", "limit = 2").await;
    let hanging = two_hang_and_one_waits(&daemon, &client).await;

    let said = at(&daemon, &["top", "--json"]).await;
    assert_eq!((said.code, said.output.lines().count()), (0, 1), "{said:?}");
    let snapshot = said.json();
    assert_eq!(snapshot["status"]["pid"], daemon.pid(), "{snapshot:#}");
    assert_eq!(snapshot["status"]["upstreams"][0]["name"], "it", "{snapshot:#}");
    let shown = &snapshot["calls"];
    assert_eq!((rows(shown, "permits").len(), rows(shown, "waiting").len()), (2, 1), "{snapshot:#}");
    assert!(snapshot["counters"]["totals"]["calls"].is_u64(), "{snapshot:#}");
    assert_eq!(snapshot["per_second"], Value::Null, "there was nothing before: {snapshot:#}");

    let said = at(&daemon, &["top"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let pid = format!("(pid {})", daemon.pid());
    assert!(said.output.starts_with("seawall ") && said.output.contains(&pid), "{}", said.output);
    assert!(said.output.contains("since it started: calls "), "{}", said.output);
    // Name, state, instances, calls in flight and calls that wait.
    let server = table(&said.output, "it");
    assert!(server.len() == 1 && server[0][1..5] == ["running", "1", "2", "1"], "{}", said.output);
    assert_eq!(table(&said.output, "local").len(), 3, "{}", said.output);
    assert_eq!(table(&said.output, "upstream").len(), 1, "{}", said.output);
    assert!(!said.output.contains('\u{1b}'), "that is for terminals: {said:?}");
    drop(hanging);
    daemon.until_idle().await;
}

/// `seawall top --json --every 100ms`. Dropped, it is killed.
struct Top {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Top {
    fn start(daemon: &Daemon) -> Self {
        let mut command = Command::new(binary("seawall"));
        command.args(["top", "--json", "--every", "100ms", "--config"]).arg(daemon.configuration());
        command.env_clear().env("HOME", daemon.directory()).current_dir(daemon.directory());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a program that has been built can be run");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The next line of which this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        within(what, PATIENCE, async {
            loop {
                let line = self.lines.next_line().await.expect("it can be read").expect("it goes on");
                let value: Value = serde_json::from_str(&line).expect("each line is one JSON object");
                if holds(&value) {
                    return value;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn the_live_view_goes_on_over_the_end_of_its_daemon() {
    let (mut daemon, _it, client) = scene("", "").await;
    let mut top = Top::start(&daemon);
    let first = top.until("the first look", |_| true).await;
    assert_eq!((&first["status"]["pid"], &first["per_second"]), (&json!(daemon.pid()), &Value::Null));

    assert_eq!(client.call("it__echo", r#"{"text":"x"}"#).await.said(), "x");
    let rate = |value: &Value| value["per_second"]["calls"]["it"].as_f64().unwrap_or_default();
    let counted = top.until("the call is in a rate", |value| rate(value) > 0.0).await;
    assert!(counted["per_second"]["totals"]["calls"].as_f64() >= Some(rate(&counted)), "{counted:#}");

    daemon.signal(Signal::KILL);
    daemon.ended().await;
    let gone = top.until("the daemon is missed", |value| value["waiting"].is_string()).await;
    assert_eq!(gone.as_object().map(serde_json::Map::len), Some(1), "{gone:#}");
    daemon.start_again().await;
    let pid = json!(daemon.pid());
    let back = top.until("the other daemon is found", |value| value["status"]["pid"] == pid).await;
    assert_eq!(back["per_second"], Value::Null, "it counts anew: {back:#}");

    // Whoever reads goes away.
    let Top { mut child, lines } = top;
    drop(lines);
    let ended = within("the end of the live view", PATIENCE, child.wait()).await;
    assert_eq!(ended.expect("a child can be waited for").code(), Some(0));
}

#[tokio::test]
async fn without_a_daemon_there_is_nothing_to_see_and_that_is_said() {
    let mut daemon = Daemon::start("").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, 0);
    for arguments in [
        &["top"][..],
        &["top", "--json"],
        &["top", "--every", "100ms"],
        &["status"],
        &["status", "--permits"],
        &["status", "--permits", "--json"],
    ] {
        let said = at(&daemon, arguments).await;
        assert_eq!((said.code, said.output.as_str()), (3, ""), "{arguments:?}: {said:?}");
        assert!(said.error.contains("no daemon is running"), "{arguments:?}: {said:?}");
        assert!(said.error.contains("seawall serve"), "it does not say what to do: {said:?}");
    }
    let wrong = at(&daemon, &["top", "--every", "5"]).await;
    assert_eq!((wrong.code, wrong.output.as_str()), (2, ""), "{wrong:?}");
}
