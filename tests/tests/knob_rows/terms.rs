//! What equal calls share, what is kept of a result, and what a silent call says of itself.

use crate::scene::{Place, Scene, comes_to_hold, ended};
use std::time::Duration;
use tokio::time::sleep;

/// How often the signs of life of a call can be heard that takes a second.
const HEARD_OR_NOT: [(&str, &str); 2] = [("200ms", "heard"), ("0s", "silent")];

row!(heartbeat, "servers.*.heartbeat", HEARD_OR_NOT, |value| signs_of_life(
    "",
    &Place::Server.sets(&format!("heartbeat = \"{value}\""))
));

row!(heartbeat_of_a_tool, "servers.*.tools.*.heartbeat", HEARD_OR_NOT, |value| signs_of_life(
    "",
    &Place::Tool("late").sets(&format!("heartbeat = \"{value}\""))
));

row!(heartbeat_of_a_client, "clients.*.heartbeat", HEARD_OR_NOT, |value| signs_of_life(
    &format!("[clients.seawall-tests]\nheartbeat = \"{value}\""),
    ""
));

/// Whether a call tells that it goes on, while its server says nothing for a second.
async fn signs_of_life(config: &str, keys: &str) -> String {
    let scene = Scene::start(config, keys).await.warm().await;
    let answer = scene.client().start_call_with_progress("it__late", r#"{"ms":1000}"#).answer().await;
    assert_eq!(answer.said(), "late");
    let silent = answer.heard("notifications/progress").is_empty();
    String::from(if silent { "silent" } else { "heard" })
}

row!(duplicates, "servers.*.duplicates", [("share", "1"), ("run", "2")], |value| two_at_once(
    Place::Server,
    value
));

row!(duplicates_of_a_tool, "servers.*.tools.*.duplicates", [("share", "1"), ("run", "2")], |value| {
    two_at_once(Place::Tool("sleep"), value)
});

/// How often a tool without effects runs for two equal calls at once.
async fn two_at_once(place: Place, duplicates: &str) -> String {
    let (scene, outcomes) = twice(place, duplicates).await;
    assert_eq!(outcomes, [200, 200]);
    scene.executions("sleep").to_string()
}

row!(duplicates_refused, "servers.*.duplicates", [("reject", "409"), ("run", "200")], |value| {
    status_of_the_second(value)
});

async fn status_of_the_second(duplicates: &str) -> String {
    let (_scene, [first, second]) = twice(Place::Server, duplicates).await;
    assert_eq!(first, 200);
    second.to_string()
}

/// The statuses of two equal calls, the second of which comes while the first is at work.
async fn twice(place: Place, duplicates: &str) -> (Scene, [u16; 2]) {
    let keys = place.sets(&format!("duplicates = \"{duplicates}\""));
    let scene = Scene::start("", &keys).await.warm().await;
    let first = scene.begin("sleep", r#"{"ms":1000}"#, &[]);
    scene.it.record().until_called("sleep").await;
    let second = scene.execute("sleep", r#"{"ms":1000}"#).await.status;
    let first = ended(first).await.status;
    (scene, [first, second])
}

/// The time between two calls: more than the shorter of the times below.
const APART: Duration = Duration::from_millis(300);
/// How often a tool runs for two equal calls, that far apart: what is kept for long is there for the second.
const KEPT_OR_NOT: [(&str, &str); 2] = [("50ms", "2"), ("10m", "1")];

row!(cache, "servers.*.cache", KEPT_OR_NOT, |value| one_after_the_other(
    "",
    &Place::Server.sets(&format!("cache = \"{value}\""))
));

row!(cache_of_a_tool, "servers.*.tools.*.cache", KEPT_OR_NOT, |value| one_after_the_other(
    "",
    &Place::Tool("echo").sets(&format!("cache = \"{value}\""))
));

row!(cache_in_all, "limits.cache", [("1KiB", "2"), ("1MiB", "1")], |value| one_after_the_other(
    &format!("[limits]\ncache = \"{value}\""),
    "cache = \"10m\""
));

async fn one_after_the_other(config: &str, keys: &str) -> String {
    let scene = Scene::start(config, keys).await.warm().await;
    let arguments = format!(r#"{{"text":"{}"}}"#, "x".repeat(5000));
    let first = scene.execute("echo", &arguments).await;
    sleep(APART).await;
    let second = scene.execute("echo", &arguments).await;
    assert!(first.succeeded() && second.succeeded(), "{first:?} {second:?}");
    scene.executions("echo").to_string()
}

row!(idempotency, "limits.idempotency", [("300ms", "forgotten"), ("1h", "remembered")], |value| {
    under_the_same_key(value)
});

/// What becomes of a key that a call was made under.
async fn under_the_same_key(idempotency: &str) -> String {
    let config = format!("[limits]\nidempotency = \"{idempotency}\"");
    let scene = Scene::start(&config, "").await.warm().await;
    let forgotten = comes_to_hold(async || {
        let outcome = ended(scene.begin("count", r#"{"key":"a"}"#, &[("idempotency-key", "one")])).await;
        assert!(outcome.succeeded(), "{outcome:?}");
        scene.executions("count") > 1
    })
    .await;
    String::from(if forgotten { "forgotten" } else { "remembered" })
}
