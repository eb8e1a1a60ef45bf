//! The tools of the tests under load: work that is counted, calls that are held until they are let go, and answers
//! that are none. They are listed only with `--all`.

use crate::server::{Exchange, Part, lock};
use crate::tools::{Tool, text};
use crate::wire::{Failure, Params};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// The arguments of whatever counts.
const COUNTED: &[(&str, &str)] = &[("key", "string"), ("ms", "integer")];
/// The arguments of whatever is held.
const HELD: &[(&str, &str)] = &[("key", "string")];

pub(crate) const TOOLS: &[Tool] = &[
    ("work", "Takes ms and returns how often it ran with this key, and in which process.", COUNTED),
    ("work_read", "The same, and is read-only.", COUNTED),
    ("hold", "Answers once this key is let go.", HELD),
    ("hold_read", "The same, and is read-only.", HELD),
    ("let_go", "Lets go what is held with this key, and what comes with it later.", HELD),
    ("decline_read", "Returns an error with how often it ran with this key, and is read-only.", COUNTED),
    (
        "unavailable",
        "HTTP: answers 503 so many times with this key, and then as `work` does.",
        &[("key", "string"), ("ms", "integer"), ("times", "integer")],
    ),
    ("most_at_once", "Returns how many calls of `work` were under way at once at most.", &[]),
];
pub(crate) const READ_ONLY: [&str; 3] = ["work_read", "hold_read", "decline_read"];

/// What these tools remember.
#[derive(Default)]
pub(crate) struct Loads {
    /// How often something ran with a key.
    runs: Mutex<HashMap<String, u64>>,
    under_way: AtomicUsize,
    most_at_once: AtomicUsize,
    let_go: watch::Sender<HashSet<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Arguments {
    key: String,
    ms: u64,
    times: u64,
}

/// One piece of work under way, however it ends.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Loads {
    /// How often something ran with this key, this time among them.
    fn count(&self, key: &str) -> u64 {
        let mut runs = lock(&self.runs);
        let count = runs.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn begin(&self) -> UnderWay<'_> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        UnderWay(&self.under_way)
    }

    /// Takes the time it is said to take, and tells how often that was.
    async fn work(&self, arguments: &Arguments) -> String {
        let count = self.count(&arguments.key);
        let under_way = self.begin();
        sleep(Duration::from_millis(arguments.ms)).await;
        drop(under_way);
        format!("{count} in {}", std::process::id())
    }
}

/// Does what the tool `name` does; whether there is one.
pub(crate) async fn call(exchange: &Exchange, name: &str, params: &Params) -> bool {
    if !TOOLS.iter().any(|(known, ..)| *known == name) {
        return false;
    }
    let raw = params.arguments.as_deref().map_or("{}", RawValue::get);
    let Ok(arguments) = serde_json::from_str::<Arguments>(raw) else {
        exchange.refuse(&Failure::parameters("Bad arguments"));
        return true;
    };
    let loads = &exchange.server.loads;
    let say = |said: &str| exchange.reply(text(said));
    match name {
        "hold" | "hold_read" => {
            // The sender is this server's own, so there is always one.
            let _ = loads.let_go.subscribe().wait_for(|let_go| let_go.contains(&arguments.key)).await;
            say(&format!("held {}", arguments.key));
        }
        "let_go" => {
            loads.let_go.send_modify(|let_go| {
                let_go.insert(arguments.key);
            });
            say("let go");
        }
        "decline_read" => {
            let mut result = text(&format!("declined {}", loads.count(&arguments.key)));
            result["isError"] = true.into();
            exchange.reply(result);
        }
        "unavailable" if loads.count(&format!("unavailable {}", arguments.key)) <= arguments.times => {
            let body = b"try again later".to_vec();
            exchange.send(Part::Whole { status: 503, kind: "text/plain", body });
        }
        "most_at_once" => say(&loads.most_at_once.load(Ordering::SeqCst).to_string()),
        _ => say(&loads.work(&arguments).await),
    }
    true
}
