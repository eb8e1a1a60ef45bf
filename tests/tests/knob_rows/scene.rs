//! What the rows stand on: a daemon, one server, calls over REST, and words for what was seen.

use seawall_tests::{Client, Daemon, Transport, Upstream, eventually, send};
use serde_json::Value;
use std::panic::resume_unwind;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How soon something must show that has no reason to wait.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long is waited for what may never come: much longer than it takes where it does.
const WHILE: Duration = Duration::from_millis(2500);
/// What has not changed for so long is taken for the end of a change.
const STILL: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(20);

/// The two times that rows about time set, as the rows write them: far enough apart for a loaded machine.
pub(crate) const SHORT_OR_LONG: [(&str, &str); 2] = [("300ms", "300ms"), ("2s", "2s")];
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(2);

/// The key that lets all calls share one instance.
pub(crate) const EVERYONE: &str = "sharing = \"everyone\"\n";

/// Further headers of a call.
pub(crate) type Headers = &'static [(&'static str, &'static str)];

/// Where terms are set.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// For all tools of the server.
    Server,
    /// For this one.
    Tool(&'static str),
}

impl Place {
    /// Lines for the end of the server's table that set these terms.
    pub(crate) fn sets(self, terms: &str) -> String {
        match self {
            Self::Server => terms.to_owned(),
            Self::Tool(tool) => format!("[servers.it.tools.{tool}]\n{terms}"),
        }
    }
}

/// What came back for a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// The body; null where that is no JSON.
    pub(crate) value: Value,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn succeeded(&self) -> bool {
        self.status == 200
    }
}

/// A daemon and its server `it`.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) it: Upstream,
}

impl Scene {
    /// A daemon whose server everyone shares. `config` stands before the server's table, `keys` at its end.
    pub(crate) async fn start(config: &str, keys: &str) -> Self {
        Self::with(Transport::ModernHttp, &[], config, &format!("{EVERYONE}{keys}")).await
    }

    /// The same over any transport, with these flags of the server and without any key but these.
    pub(crate) async fn with(transport: Transport, flags: &[&str], config: &str, keys: &str) -> Self {
        let it = Upstream::start(transport, "it", flags, keys).await;
        let daemon = Daemon::start(&format!("grace = \"0s\"\n{config}\n{}", it.table())).await;
        Self { daemon, it }
    }

    /// The same once the tools are known.
    pub(crate) async fn known(self) -> Self {
        eventually("the tools are known", SOON, async || {
            self.daemon.status().await["upstreams"][0]["tools"].as_u64().is_some_and(|tools| tools > 0)
        })
        .await;
        self
    }

    /// The same once the tools are known, and the server is open and at rest.
    pub(crate) async fn warm(self) -> Self {
        let this = self.known().await;
        eventually("the server answers", SOON, async || this.execute("pid", "{}").await.succeeded()).await;
        this.daemon.until_idle().await;
        this
    }

    /// Begins a call over REST and leaves it under way.
    pub(crate) fn begin(&self, tool: &str, arguments: &str, headers: Headers) -> JoinHandle<Outcome> {
        let url = self.daemon.url("/api/v1/execute");
        let body = format!(r#"{{"tool":"it__{tool}","arguments":{arguments}}}"#);
        tokio::spawn(async move {
            let mut all = vec![("content-type", "application/json"), ("accept", "application/json")];
            all.extend_from_slice(headers);
            let began = Instant::now();
            let response = send(&url, "POST", &all, body).await;
            let value = serde_json::from_str(&response.body).unwrap_or_default();
            Outcome { status: response.status, value, elapsed: began.elapsed() }
        })
    }

    /// Calls over REST.
    pub(crate) async fn execute(&self, tool: &str, arguments: &str) -> Outcome {
        ended(self.begin(tool, arguments, &[])).await
    }

    /// How often a tool was called at the server.
    pub(crate) fn executions(&self, tool: &str) -> usize {
        self.it.record().calls(tool).len()
    }

    /// A client of all servers.
    pub(crate) fn client(&self) -> Client {
        Client::modern(&self.daemon.url("/mcp"), None)
    }

    /// How many calls hold a place, and how many wait for one.
    pub(crate) async fn total(&self) -> (u64, u64) {
        let status = self.daemon.status().await;
        let loads = status["loads"].as_array().expect("status lists the loads");
        let total = loads.iter().find(|load| load["scope"] == "total").expect("the total is always there");
        let number = |name: &str| total[name].as_u64().expect("a load has numbers");
        (number("in_use"), number("waiting"))
    }
}

/// The end of a call that was begun.
pub(crate) async fn ended(call: JoinHandle<Outcome>) -> Outcome {
    match call.await {
        Ok(outcome) => outcome,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// Which of the two times something lasted.
pub(crate) fn lasted(time: Duration) -> String {
    match [LONG, SHORT].into_iter().find(|mark| time >= *mark) {
        Some(mark) => format!("{mark:?}"),
        None => format!("only {time:?}"),
    }
}

/// Whether a condition comes to hold in a while.
pub(crate) async fn comes_to_hold(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + WHILE;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
}

/// What is read once it does not change any more.
pub(crate) async fn settled(mut read: impl AsyncFnMut() -> usize) -> usize {
    let (mut last, mut since) = (read().await, Instant::now());
    while since.elapsed() < STILL {
        sleep(PAUSE).await;
        let now = read().await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}
