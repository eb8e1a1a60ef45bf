//! What is done about attempts that fail: another one, or none for a while.

use crate::scene::{Place, Scene, comes_to_hold};

/// A server of which one tool without effects always runs out of time, after a fifth of a second.
async fn failing(keys: &str) -> Scene {
    let attempts = Place::Tool("hang_read").sets("attempt_timeout = \"200ms\"");
    let keys = format!("timeout = \"3s\"\nduplicates = \"run\"\n{keys}\n{attempts}");
    Scene::start("", &keys).await.warm().await
}

row!(max, "servers.*.retries.max", [("0", "1"), ("2", "3")], |value| attempts(&format!(
    "max = {value}, backoff = \"1ms\""
)));

row!(budget, "servers.*.retries.budget", [("0.01", "1"), ("1.0", "2")], |value| attempts(&format!(
    "max = 1, backoff = \"1ms\", budget = {value}, floor = 0"
)));

row!(floor, "servers.*.retries.floor", [("0", "1"), ("1", "2")], |value| attempts(&format!(
    "max = 2, backoff = \"1ms\", budget = 0.01, floor = {value}"
)));

/// How often one call is tried.
async fn attempts(retries: &str) -> String {
    let scene = failing(&format!("retries = {{ {retries} }}")).await;
    let outcome = scene.execute("hang_read", "{}").await;
    assert!(!outcome.succeeded(), "{outcome:?}");
    scene.executions("hang_read").to_string()
}

row!(backoff, "servers.*.retries.backoff", [("1ms", "all"), ("10s", "some")], |value| {
    attempts_that_fit(value)
});

/// Whether all six attempts fit into the time of the call. A single pause may happen to be short; five are not.
async fn attempts_that_fit(backoff: &str) -> String {
    let all = attempts(&format!("max = 5, backoff = \"{backoff}\"")).await == "6";
    String::from(if all { "all" } else { "some" })
}

/// How many calls are made at most to open a breaker.
const MOST: usize = 8;

row!(least, "servers.*.breaker.least", [("3", "opens"), ("100", "stays shut")], |value| breaker(
    0,
    &format!("window = \"10m\", failures = 0.3, least = {value}, open = \"10m\"")
));

row!(failures, "servers.*.breaker.failures", [("0.3", "opens"), ("1.0", "stays shut")], |value| breaker(
    4,
    &format!("window = \"10m\", failures = {value}, least = 4, open = \"10m\"")
));

row!(window, "servers.*.breaker.window", [("50ms", "stays shut"), ("10m", "opens")], |value| breaker(
    0,
    &format!("window = \"{value}\", failures = 0.3, least = 4, open = \"10m\"")
));

/// What the breaker does, after so many good calls, about calls that all run out of time.
async fn breaker(good: usize, breaker: &str) -> String {
    let scene = failing(&format!("retries = {{ max = 0 }}\nbreaker = {{ {breaker} }}")).await;
    for _ in 0..good {
        let outcome = scene.execute("echo", r#"{"text":"x"}"#).await;
        assert!(outcome.succeeded(), "{outcome:?}");
    }
    String::from(if opens(&scene).await { "opens" } else { "stays shut" })
}

/// Whether one of the next calls does not reach the server any more.
async fn opens(scene: &Scene) -> bool {
    for made in 1..=MOST {
        let outcome = scene.execute("hang_read", "{}").await;
        assert!(!outcome.succeeded(), "{outcome:?}");
        if scene.executions("hang_read") < made {
            return true;
        }
    }
    false
}

row!(open, "servers.*.breaker.open", [("300ms", "tried again"), ("10m", "left alone")], |value| {
    once_open(value)
});

/// What becomes of a server in a while, once its breaker is open.
async fn once_open(open: &str) -> String {
    let breaker = format!("window = \"10m\", failures = 0.3, least = 3, open = \"{open}\"");
    let scene = failing(&format!("retries = {{ max = 0 }}\nbreaker = {{ {breaker} }}")).await;
    assert!(opens(&scene).await, "the breaker does not open");
    let before = scene.executions("hang_read");
    let tried = comes_to_hold(async || {
        scene.execute("hang_read", "{}").await;
        scene.executions("hang_read") > before
    })
    .await;
    String::from(if tried { "tried again" } else { "left alone" })
}
