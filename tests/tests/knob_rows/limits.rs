//! What is counted: calls in flight, in line and left to themselves; sessions, bytes and processes; rates.

use crate::scene::{EVERYONE, Headers, Place, SOON, Scene, comes_to_hold, ended, settled};
use seawall_tests::{Client, Transport, Upstream, caller, eventually};

const ONE_OR_THREE: [(&str, &str); 2] = [("1", "1"), ("3", "3")];
const TWO_OR_FOUR: [(&str, &str); 2] = [("2/h", "2"), ("4/h", "4")];
/// A call of a conversation.
const NAMED: Headers = &[("seawall-session", "one")];

row!(total, "limits.total", ONE_OR_THREE, |value| at_work(
    4,
    &[],
    &format!("[limits]\ntotal = {value}\nshare = 1.0"),
    ""
));

row!(of_a_caller, "limits.caller", ONE_OR_THREE, |value| at_work(
    4,
    &[],
    &format!("[limits]\ncaller = {value}\nshare = 1.0"),
    ""
));

row!(of_a_conversation, "limits.conversation", ONE_OR_THREE, |value| at_work(
    4,
    NAMED,
    &format!("[limits]\nconversation = {value}\nshare = 1.0"),
    ""
));

row!(unnamed, "limits.count_unnamed", [("false", "3"), ("true", "1")], |value| at_work(
    3,
    &[],
    &format!("[limits]\nconversation = 1\nshare = 1.0\ncount_unnamed = {value}"),
    ""
));

row!(share, "limits.share", [("0.25", "1"), ("1.0", "4")], |value| at_work(
    5,
    &[],
    &format!("[limits]\ntotal = 4\nshare = {value}"),
    ""
));

row!(share_of_a_conversation, "limits.conversation_share", [("0.25", "1"), ("1.0", "4")], |value| at_work(
    5,
    NAMED,
    &format!("[limits]\nconversation = 4\nshare = 1.0\nconversation_share = {value}"),
    ""
));

row!(preset, "limits.preset", [("dev", "2"), ("prod", "8")], |value| at_work(
    9,
    &[],
    &format!("[limits]\npreset = \"{value}\""),
    ""
));

row!(providers, "limits.providers", [("{ glm = 1 }", "1"), ("{ glm = 3 }", "3")], |value| at_work(
    4,
    &[],
    &format!("[limits]\nproviders = {value}"),
    "provider = \"glm\""
));

row!(provider, "servers.*.provider", [("glm", "1"), ("kimi", "3")], |value| at_work(
    4,
    &[],
    "[limits]\nproviders = { glm = 1, kimi = 3 }",
    &format!("provider = \"{value}\"")
));

row!(of_a_server, "servers.*.limit", ONE_OR_THREE, |value| at_work(4, &[], "", &format!("limit = {value}")));

row!(of_a_tool, "servers.*.tools.*.limit", ONE_OR_THREE, |value| at_work(
    4,
    &[],
    "",
    &Place::Tool("hang").sets(&format!("limit = {value}"))
));

/// How many of so many calls that never end are at work; the others wait.
async fn at_work(wanted: u64, headers: Headers, config: &str, keys: &str) -> String {
    let scene = Scene::start(config, keys).await.warm().await;
    for _ in 0..wanted {
        drop(scene.begin("hang", "{}", headers));
    }
    let mut at_work = 0;
    eventually("each call is at work or waits", SOON, async || {
        let (in_use, waiting) = scene.total().await;
        at_work = in_use;
        in_use + waiting == wanted
    })
    .await;
    at_work.to_string()
}

row!(queue, "limits.queue", ONE_OR_THREE, |value| in_line(value));

/// How many of five calls wait where there is room for one.
async fn in_line(queue: &str) -> String {
    let config = format!("[limits]\ntotal = 1\nshare = 1.0\nqueue = {queue}");
    let scene = Scene::start(&config, "").await.warm().await;
    let calls: Vec<_> = (0..5).map(|_| scene.begin("hang", "{}", &[])).collect();
    let mut in_line = 0;
    eventually("each call is at work, waits or is over", SOON, async || {
        let (in_use, waiting) = scene.total().await;
        in_line = waiting;
        let over = calls.iter().filter(|call| call.is_finished()).count() as u64;
        in_use + waiting + over == 5
    })
    .await;
    in_line.to_string()
}

row!(detached, "limits.detached", ONE_OR_THREE, |value| left_behind(&format!("detached = {value}")));

row!(detached_of_a_caller, "limits.detached_caller", ONE_OR_THREE, |value| left_behind(&format!(
    "detached_caller = {value}"
)));

/// How many of four calls go on without counting for anybody, once all of their callers have waited enough.
async fn left_behind(limit: &str) -> String {
    let scene = Scene::start(&format!("[limits]\n{limit}"), "").await.warm().await;
    let calls: Vec<_> = (0..4).map(|_| scene.begin("hang", "{}", &[("seawall-timeout-ms", "300")])).collect();
    for call in calls {
        let outcome = ended(call).await;
        assert_eq!(outcome.value["error"]["code"], "TIMEOUT", "{outcome:?}");
    }
    let left_behind = settled(async || {
        let status = scene.daemon.status().await;
        let permits = status["permits"].as_array().expect("status lists the permits");
        permits.iter().filter(|permit| permit["caller_half"] == false).count()
    })
    .await;
    left_behind.to_string()
}

row!(sessions, "limits.sessions", [("1", "1"), ("2", "2")], |value| sessions_that_open(value));

async fn sessions_that_open(sessions: &str) -> String {
    let scene = Scene::start(&format!("[limits]\nsessions = {sessions}"), "").await;
    let mut open = 0;
    for _ in 0..3 {
        open += usize::from(Client::try_legacy(&scene.daemon.url("/mcp"), None).await.is_ok());
    }
    open.to_string()
}

row!(
    session_idle,
    "limits.session_idle",
    [("600ms", "closed"), ("10m", "open")],
    |value| session_in_silence(value)
);

async fn session_in_silence(idle: &str) -> String {
    let scene = Scene::start(&format!("[limits]\nsession_idle = \"{idle}\""), "").await;
    let _session = Client::legacy(&scene.daemon.url("/mcp"), None).await;
    let closed = comes_to_hold(async || scene.daemon.status().await["conversations"] == 0).await;
    String::from(if closed { "closed" } else { "open" })
}

row!(message, "limits.message", [("4KiB", "413"), ("1MiB", "200")], |value| status_of_ten_kilobytes(value));

async fn status_of_ten_kilobytes(message: &str) -> String {
    let scene = Scene::start(&format!("[limits]\nmessage = \"{message}\""), "").await;
    let text = "x".repeat(10_000);
    scene.execute("echo", &format!(r#"{{"text":"{text}"}}"#)).await.status.to_string()
}

row!(processes, "limits.processes", [("1", "1"), ("2", "2")], |value| servers_that_run(value));

/// How many of two servers that are processes answer, one right after the other.
async fn servers_that_run(processes: &str) -> String {
    let other = Upstream::start(Transport::Stdio, "other", &[], EVERYONE).await;
    let config = format!("[limits]\nprocesses = {processes}\n{}", other.table());
    let scene = Scene::with(Transport::Stdio, &[], &config, EVERYONE).await;
    let client = scene.client();
    let mut most = 0;
    comes_to_hold(async || {
        let mut answering = 0;
        for tool in ["it__pid", "other__pid"] {
            answering += usize::from(client.call(tool, "{}").await.succeeded());
        }
        most = most.max(answering);
        most == 2
    })
    .await;
    most.to_string()
}

row!(result_of_a_server, "servers.*.result_limit", [("1KiB", "cut"), ("64KiB", "whole")], |value| {
    large_result(Place::Server, value)
});

row!(result_of_a_tool, "servers.*.tools.*.result_limit", [("1KiB", "cut"), ("64KiB", "whole")], |value| {
    large_result(Place::Tool("big"), value)
});

/// What becomes of a text of five thousand bytes.
async fn large_result(place: Place, limit: &str) -> String {
    let scene = Scene::start("", &place.sets(&format!("result_limit = \"{limit}\""))).await.warm().await;
    let outcome = scene.execute("big", r#"{"bytes":5000}"#).await;
    let text = outcome.value["result"]["content"][0]["text"].as_str();
    let bytes = text.unwrap_or_else(|| panic!("no text came: {outcome:?}")).len();
    String::from(if bytes == 5000 { "whole" } else { "cut" })
}

row!(rate_of_each_caller, "limits.rate", TWO_OR_FOUR, |value| let_through(
    &[],
    &format!("[limits]\nrate = \"{value}\""),
    ""
));

row!(rate_of_a_caller, "callers.*.rate", TWO_OR_FOUR, |value| let_through(
    &[("authorization", "Bearer a-token-of-ci")],
    &format!("{}rate = \"{value}\"\n", caller("ci", "a-token-of-ci", &["*"])),
    ""
));

row!(rate_of_a_servers_tools, "servers.*.rate", TWO_OR_FOUR, |value| let_through(
    &[],
    "",
    &Place::Server.sets(&format!("rate = \"{value}\""))
));

row!(rate_of_a_tool, "servers.*.tools.*.rate", TWO_OR_FOUR, |value| let_through(
    &[],
    "",
    &Place::Tool("echo").sets(&format!("rate = \"{value}\""))
));

/// How many of five calls are let through.
async fn let_through(headers: Headers, config: &str, keys: &str) -> String {
    let scene = Scene::start(config, keys).await;
    // Tools that are not known yet share one rate. A daemon with callers shows its status to none but them.
    let scene = if headers.is_empty() { scene.known().await } else { scene };
    let mut through = 0;
    for _ in 0..5 {
        let outcome = ended(scene.begin("echo", r#"{"text":"x"}"#, headers)).await;
        assert!(outcome.succeeded() || outcome.status == 429, "{outcome:?}");
        through += usize::from(outcome.succeeded());
    }
    through.to_string()
}
