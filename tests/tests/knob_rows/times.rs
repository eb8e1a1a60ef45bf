//! What runs out: the time of a call, of one attempt, of a start and of a list; and what is learned of time.

use crate::scene::{EVERYONE, Place, SHORT_OR_LONG, SOON, Scene, ended, lasted};
use seawall_tests::{Client, Transport, at, eventually};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tokio::time::Instant;

/// A call is never repeated, so that one attempt is all of it.
const ONCE: &str = "retries = { max = 0 }\n";

row!(of_the_daemon, "timeouts.daemon", SHORT_OR_LONG, |value| hanging(
    "hang",
    &format!("[timeouts]\ndaemon = \"{value}\""),
    "timeout = \"0s\""
));

row!(of_a_server, "servers.*.timeout", SHORT_OR_LONG, |value| hanging(
    "hang",
    "",
    &format!("timeout = \"{value}\"")
));

row!(of_a_tool, "servers.*.tools.*.timeout", SHORT_OR_LONG, |value| hanging(
    "hang",
    "",
    &Place::Tool("hang").sets(&format!("timeout = \"{value}\""))
));

row!(of_a_class, "timeouts.classes", SHORT_OR_LONG, |value| hanging(
    "hang_read",
    &format!("[timeouts.classes]\nquick = \"{value}\""),
    &format!("{ONCE}class = \"quick\"")
));

/// Two classes, one of which is named by a server or a tool.
const CLASSES: &str = "[timeouts.classes]\nquick = \"300ms\"\nslow = \"2s\"";

row!(class_of_a_server, "servers.*.class", [("quick", "300ms"), ("slow", "2s")], |value| hanging(
    "hang_read",
    CLASSES,
    &format!("{ONCE}class = \"{value}\"")
));

row!(class_of_a_tool, "servers.*.tools.*.class", [("quick", "300ms"), ("slow", "2s")], |value| hanging(
    "hang_read",
    CLASSES,
    &format!("{ONCE}{}", Place::Tool("hang_read").sets(&format!("class = \"{value}\"")))
));

row!(of_an_attempt, "servers.*.attempt_timeout", SHORT_OR_LONG, |value| hanging(
    "hang_read",
    "",
    &format!("{ONCE}attempt_timeout = \"{value}\"")
));

row!(of_a_tools_attempt, "servers.*.tools.*.attempt_timeout", SHORT_OR_LONG, |value| hanging(
    "hang_read",
    "",
    &format!("{ONCE}{}", Place::Tool("hang_read").sets(&format!("attempt_timeout = \"{value}\"")))
));

/// After how long a call ends that is never answered.
async fn hanging(tool: &str, config: &str, keys: &str) -> String {
    let scene = Scene::start(config, keys).await.warm().await;
    let outcome = scene.execute(tool, "{}").await;
    assert!(!outcome.succeeded(), "{outcome:?}");
    lasted(outcome.elapsed)
}

row!(of_the_bridge, "timeouts.bridge", [("110s", "110000"), ("120s", "120000")], |value| link(
    "bridge", value
));

row!(of_the_client, "timeouts.client", [("150s", "150000"), ("160s", "160000")], |value| link(
    "client", value
));

/// What `seawall check` says of a link of the chain, in milliseconds: nothing but a person heeds these two.
async fn link(link: &str, value: &str) -> String {
    let scene = Scene::start(&format!("[timeouts]\n{link} = \"{value}\""), "").await;
    let said = at(&scene.daemon, &["check", "--json"]).await.json();
    let ms = milliseconds(&said, link);
    ms.unwrap_or_else(|| panic!("nothing is said of {link}: {said:#}")).to_string()
}

/// The value of the first link of this name.
fn milliseconds(value: &Value, link: &str) -> Option<u64> {
    if value["link"] == link {
        return value["ms"].as_u64();
    }
    match value {
        Value::Array(items) => items.iter().find_map(|item| milliseconds(item, link)),
        Value::Object(members) => members.values().find_map(|member| milliseconds(member, link)),
        _ => None,
    }
}

row!(limit_of_a_client, "clients.*.limit", SHORT_OR_LONG, |value| client_waits(value));

/// How long a client of a known name waits.
async fn client_waits(limit: &str) -> String {
    let config = format!("[clients.seawall-tests]\nlimit = \"{limit}\"");
    let scene = Scene::start(&config, "").await.warm().await;
    let answer = scene.client().call("it__hang", "{}").await;
    assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    lasted(answer.elapsed)
}

row!(of_a_start, "servers.*.start_timeout", [("300ms", "fails"), ("10s", "starts")], |value| slow_start(
    value
));

/// What becomes of a server that needs a second to start.
async fn slow_start(limit: &str) -> String {
    let keys = format!("{EVERYONE}start_timeout = \"{limit}\"");
    let scene = Scene::with(Transport::Stdio, &["--slow-start", "1000"], "", &keys).await;
    let starts = scene.execute("pid", "{}").await.succeeded();
    String::from(if starts { "starts" } else { "fails" })
}

row!(of_a_list, "servers.*.list_timeout", [("300ms", "TIMEOUT"), ("10s", "listed")], |value| slow_list(
    value
));

/// What becomes of a list that comes after a second.
async fn slow_list(limit: &str) -> String {
    let keys = format!("{EVERYONE}list_timeout = \"{limit}\"");
    let scene = Scene::with(Transport::ModernHttp, &["--slow-list", "1000"], "", &keys).await;
    let client = Client::modern(&scene.daemon.url("/mcp/it"), None);
    assert_eq!(client.request("server/discover", "{}").await.status, 200);
    let answer = client.request("tools/list", "{}").await;
    if answer.value["result"]["tools"].is_array() { "listed".to_owned() } else { answer.code().to_owned() }
}

row!(stop_grace, "servers.*.stop_grace", SHORT_OR_LONG, |value| outlives_its_stop(value));

/// How long a process lives on that does not heed the end of its input.
async fn outlives_its_stop(grace: &str) -> String {
    let keys = format!("{EVERYONE}stop_grace = \"{grace}\"");
    let scene = Scene::with(Transport::Stdio, &["--ignore-eof"], "", &keys).await.warm().await;
    let process = scene.client().call("it__pid", "{}").await.said().to_owned();
    // A process that has ended has no program any more, even before it is reaped.
    let lives = || fs::read_link(format!("/proc/{process}/exe")).is_ok();
    assert!(lives());
    let began = Instant::now();
    scene.daemon.restart("it").await;
    eventually("the process is gone", SOON, async || !lives()).await;
    lasted(began.elapsed())
}

row!(asking, "servers.*.ask_limit", SHORT_OR_LONG, |value| unanswered(Place::Server, value));

row!(asking_of_a_tool, "servers.*.tools.*.ask_limit", SHORT_OR_LONG, |value| unanswered(
    Place::Tool("ask_elicit"),
    value
));

/// How much longer than its own time a call lasts whose question is never answered.
async fn unanswered(place: Place, limit: &str) -> String {
    let timeout = Duration::from_millis(600);
    let keys = format!("timeout = \"{timeout:?}\"\n{}", place.sets(&format!("ask_limit = \"{limit}\"")));
    let scene = Scene::with(Transport::ModernHttp, &[], "", &keys).await;
    let able = json!({"elicitation": {}});
    let client = Client::legacy_able(&scene.daemon.url("/mcp/it"), None, &able).await;
    eventually("the server answers", SOON, async || client.call("pid", "{}").await.succeeded()).await;
    let answer = client.call("ask_elicit", "{}").await;
    assert_eq!(answer.code(), "TIMEOUT", "{answer:#?}");
    lasted(answer.elapsed.saturating_sub(timeout))
}

row!(learned_floor, "servers.*.learn.floor", SHORT_OR_LONG, |value| learned(
    Place::Server,
    0,
    &format!("floor = \"{value}\", ceiling = \"20s\", factor = 1.0")
));

row!(learned_ceiling, "servers.*.learn.ceiling", SHORT_OR_LONG, |value| learned(
    Place::Server,
    100,
    &format!("floor = \"1ms\", ceiling = \"{value}\", factor = 1000.0")
));

row!(learned_factor, "servers.*.learn.factor", [("1.5", "300ms"), ("10.0", "2s")], |value| learned(
    Place::Server,
    250,
    &format!("floor = \"1ms\", ceiling = \"20s\", factor = {value}")
));

row!(learned_of_a_tool, "servers.*.tools.*.learn.floor", SHORT_OR_LONG, |value| learned(
    Place::Tool("sleep"),
    0,
    &format!("floor = \"{value}\", ceiling = \"20s\", factor = 1.0")
));

/// How long a tool is given that has always answered after `ms`.
async fn learned(place: Place, ms: u64, learn: &str) -> String {
    let keys = format!("{ONCE}{}", place.sets(&format!("learn = {{ {learn} }}")));
    let scene = Scene::start("", &keys).await.warm().await;
    // Arguments that differ, so that no call takes the answer of another.
    let calls = (0..24).map(|key| scene.begin("sleep", &format!(r#"{{"ms":{ms},"key":"{key}"}}"#), &[]));
    for call in calls.collect::<Vec<_>>() {
        let outcome = ended(call).await;
        assert!(outcome.succeeded(), "{outcome:?}");
    }
    lasted(scene.execute("sleep", r#"{"ms":6000}"#).await.elapsed)
}
