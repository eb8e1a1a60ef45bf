//! After thousands of calls, sessions, cancels, hang-ups and killed servers everything is as it was before;
//! and a thousand calls that hang leave the tools of others alone.
//!
//! The two tests measure, so they take turns.

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use seawall_tests::{
    Answer, Call, Client, Daemon, Era, Held, PATIENCE, Transport, Upstream, descendants, eventually, mixed,
    note, pick, within,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Every upstream of the churn; those that are processes come first.
const UPSTREAMS: [&str; 5] = ["everyone", "session", "call", "legacy", "modern"];
const PROCESSES: usize = 3;
/// Clients that call at the same time, half of them of either era, and tasks that open sessions besides.
const CLIENTS: u64 = 24;
const OPENERS: usize = 4;

/// What bounds a call of the churn; the tables say the same.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How far an answer may overshoot its deadline, and what a loaded machine may add to that.
const ALLOWANCE: Duration = Duration::from_millis(100 + 400);
/// How long a session may be silent; the tables say the same.
const SESSION_IDLE: Duration = Duration::from_secs(3);
/// How long a call lasts that is not waited for, so that it is left in its middle.
const LEFT_MS: u64 = 250;
/// How soon everything is as it was, once nothing goes on any more.
const SETTLE: Duration = Duration::from_secs(5);

/// Calls that hang, and what may be in flight and in line at one upstream: its share of what there is.
const HUNG: usize = 1000;
const IN_FLIGHT: usize = 16;
const IN_LINE: usize = 128;
/// How soon a call is refused that there is no room for, while a thousand come at once.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);
/// How often the healthy tool is called in each measurement.
const HEALTHY: usize = 200;

static TURN: Semaphore = Semaphore::const_new(1);

/// How much is done, and how long it may take in all.
struct Size {
    calls: u64,
    sessions: u64,
    kills: u64,
    limit: Duration,
}

fn size() -> Size {
    if std::env::var("SEAWALL_TEST_SIZE").is_ok_and(|size| size == "full") {
        Size { calls: 10_000, sessions: 10_000, kills: 50, limit: Duration::from_secs(600) }
    } else {
        Size { calls: 1000, sessions: 1000, kills: 10, limit: Duration::from_secs(40) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_churn_everything_is_as_it_was() {
    let _turn = TURN.acquire().await.expect("nobody closes it");
    let size = size();
    within("the churn and what comes before and after it", size.limit, Box::pin(churn(size))).await;
}

async fn churn(size: Size) {
    let mut upstreams = Vec::new();
    for (name, transport, keys) in [
        ("everyone", Transport::Stdio, "sharing = \"everyone\""),
        ("session", Transport::Stdio, "sharing = \"session\""),
        ("call", Transport::Stdio, "sharing = \"call\""),
        ("legacy", Transport::LegacyHttp, ""),
        ("modern", Transport::ModernHttp, ""),
    ] {
        upstreams.push(Upstream::start(transport, name, &[], &format!("timeout = \"10s\"\n{keys}")).await);
    }
    let tables: String = upstreams.iter().map(Upstream::table).collect();
    let daemon = Daemon::start(&format!("[limits]\nsession_idle = \"3s\"\n{tables}")).await;

    for _ in 0..10 {
        call_everything(&daemon).await;
    }
    let before = Held::at_rest(&daemon).await;

    let churn = Arc::new(Churn::new(daemon, size));
    let began = Instant::now();
    Churn::run(&churn).await;
    let took = began.elapsed();
    // Whoever was killed last is started again by the next call.
    call_everything(&churn.daemon).await;

    let over = Instant::now();
    let reached = async |what, limit, holds: &dyn Fn(&Held) -> bool| {
        Held::until(&churn.daemon, &before, what, limit, holds).await
    };
    reached("no call is left", SETTLE, &|now| now.permits == 0 && now.pending == 0).await;
    reached("no session is left", SESSION_IDLE + SETTLE, &|now| now.conversations == 0).await;
    let after = reached("everything is as it was", SETTLE, &|now| now.is_as(&before)).await;
    note(&format!("{} in {took:.1?}", churn.tally().summary()));
    note(&format!(
        "before: {before:?}\nafter:  {after:?}\nas it was {:.1?} after the last call",
        over.elapsed()
    ));

    churn.tally().check(&churn.size);
    let status = churn.daemon.status().await;
    assert_eq!(instances(&status, "call").len(), 0, "a process outlives the one call it was for: {status:#}");
    let entries = upstreams[3].record().entries();
    let count = |name: &str, value: &str| entries.iter().filter(|entry| entry[name] == value).count();
    let (opened, ended) = (count("method", "initialize"), count("event", "session_deleted"));
    assert_eq!(opened - ended, instances(&status, "legacy").len(), "sessions are left behind upstream");
}

/// Calls a tool of every upstream, in a session that is ended afterwards and without one.
async fn call_everything(daemon: &Daemon) {
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        for upstream in UPSTREAMS {
            let answer = client.call(&format!("{upstream}__echo"), r#"{"text":"here"}"#).await;
            assert_eq!(answer.said(), "here", "{upstream}");
        }
        if era == Era::Legacy {
            client.delete().await;
        }
    }
}

fn instances<'a>(status: &'a Value, upstream: &str) -> &'a [Value] {
    let upstreams = status["upstreams"].as_array().map_or(&[][..], Vec::as_slice);
    let named = upstreams.iter().find(|candidate| candidate["name"] == upstream);
    named.and_then(|named| named["instances"].as_array()).map_or(&[], Vec::as_slice)
}

/// What goes on between the two looks at the daemon.
struct Churn {
    daemon: Daemon,
    size: Size,
    calls: AtomicU64,
    sessions: AtomicU64,
    tally: Mutex<Tally>,
}

/// How a client ends its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Wait,
    Disconnect,
    Cancel,
}

impl Churn {
    fn new(daemon: Daemon, size: Size) -> Self {
        Self { daemon, size, calls: AtomicU64::new(0), sessions: AtomicU64::new(0), tally: Mutex::default() }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(this: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let era = if number % 2 == 0 { Era::Legacy } else { Era::Modern };
            let this = Arc::clone(this);
            tasks.spawn(async move { this.make_calls(era).await });
        }
        for _ in 0..OPENERS {
            let this = Arc::clone(this);
            tasks.spawn(async move { this.open_sessions().await });
        }
        let all_over = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        };
        tokio::join!(all_over, this.kill_servers());
    }

    async fn make_calls(&self, era: Era) {
        let client = Client::open(era, &self.daemon.url("/mcp"), None).await;
        loop {
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            if number >= self.size.calls {
                break;
            }
            self.make_call(&client, era, number).await;
            self.tally().calls += 1;
        }
        if era == Era::Legacy {
            // What it left is over by now.
            sleep(Duration::from_millis(2 * LEFT_MS)).await;
            let deleted = client.delete().await;
            assert_eq!(deleted.status, 200, "{deleted:?}");
        }
    }

    async fn make_call(&self, client: &Client, era: Era, number: u64) {
        let ending = match number % 16 {
            3 => Ending::Disconnect,
            11 => Ending::Cancel,
            _ => Ending::Wait,
        };
        let upstream = pick(&UPSTREAMS, roll(number, 0));
        let tool = |name: &str| format!("{upstream}__{name}");
        let ms = if ending == Ending::Wait { 5 + roll(number, 1) % 46 } else { LEFT_MS };
        let kind = if ending == Ending::Wait { roll(number, 2) % 3 } else { 1 + roll(number, 2) % 2 };
        let (call, expected) = match kind {
            0 => {
                let text = format!("call {number}");
                (client.start_call(&tool("echo"), &json!({"text": text})), text)
            }
            1 => (client.start_call(&tool("sleep"), &json!({"ms": ms})), String::from("sleep")),
            _ => {
                let arguments = json!({"ms": ms, "steps": 5});
                (client.start_call_with_progress(&tool("slow"), &arguments), String::from("slow"))
            }
        };
        if ending != Ending::Wait {
            sleep(Duration::from_millis(5 + roll(number, 3) % 100)).await;
        }
        let mid_call = u64::from(!call.is_over());
        let id = call.id();
        match (ending, era) {
            (Ending::Disconnect, _) => {
                self.tally().disconnects += mid_call;
                drop(call);
            }
            (Ending::Cancel, Era::Modern) => {
                self.tally().cancels += mid_call;
                call.cancel().await;
            }
            (Ending::Cancel, Era::Legacy) => {
                self.tally().cancels += mid_call;
                client.notify("notifications/cancelled", &json!({"requestId": id})).await;
                let answer = call.answer().await;
                self.tally().take(&answer, upstream, &expected, true);
            }
            (Ending::Wait, _) => {
                let answer = call.answer().await;
                let theirs = |event: &Value| event["params"]["progressToken"] == json!(id);
                assert!(answer.events.iter().all(theirs), "progress of another call came: {answer:#?}");
                self.tally().take(&answer, upstream, &expected, false);
            }
        }
    }

    /// Opens sessions that nobody ends; in some of them one call is made.
    async fn open_sessions(&self) {
        loop {
            let number = self.sessions.fetch_add(1, Ordering::Relaxed);
            if number >= self.size.sessions {
                return;
            }
            // Few of them make a process of their own.
            let (path, upstream) = match number % 50 {
                0 => ("/mcp/session", "session"),
                25 => ("/mcp/call", "call"),
                _ => pick(
                    &[
                        ("/mcp", "everyone"),
                        ("/mcp", "modern"),
                        ("/mcp/everyone", "everyone"),
                        ("/mcp/legacy", "legacy"),
                        ("/mcp/modern", "modern"),
                    ],
                    roll(number, 4),
                ),
            };
            let client = loop {
                match Client::try_legacy(&self.daemon.url(path), None).await {
                    Ok(client) => break client,
                    // Its server was killed meanwhile.
                    Err(refusal) => self.tally().take(&refusal, upstream, "a session", false),
                }
            };
            self.tally().sessions += 1;
            if number.is_multiple_of(25) || roll(number, 5).is_multiple_of(5) {
                let tool = if path == "/mcp" { format!("{upstream}__echo") } else { String::from("echo") };
                let text = format!("session {number}");
                let answer = client.call(&tool, &json!({"text": text})).await;
                self.tally().inside += 1;
                self.tally().take(&answer, upstream, &text, false);
            }
        }
    }

    async fn kill_servers(&self) {
        for number in 0..self.size.kills {
            let due = (2 * number + 1) * self.size.calls / (2 * self.size.kills);
            eventually("the calls go on", self.size.limit, async || self.tally().calls >= due).await;
            eventually("a server to kill", PATIENCE, async || self.kill_one(number).await).await;
            self.tally().kills += 1;
        }
    }

    /// Kills the busiest process of an upstream, each time of another one where there is one.
    async fn kill_one(&self, number: u64) -> bool {
        let status = self.daemon.status().await;
        let processes = (number..).take(PROCESSES).map(|number| pick(&UPSTREAMS[..PROCESSES], number));
        let victim = processes.flat_map(|upstream| {
            let busy = |instance: &&Value| instance["in_flight"].as_u64();
            instances(&status, upstream).iter().filter(|instance| instance["pid"].is_u64()).max_by_key(busy)
        });
        let victim = victim.filter_map(|instance| instance["pid"].as_u64()).next();
        let Some(pid) = victim.and_then(|pid| u32::try_from(pid).ok()) else { return false };
        // It may have ended since.
        let theirs = descendants(self.daemon.pid()).contains(&pid);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| theirs);
        pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
}

/// A number that follows from these two, and looks as if it did not.
fn roll(number: u64, salt: u64) -> u64 {
    mixed(number << 3 | salt)
}

/// What came back.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    sessions: u64,
    /// Calls in those sessions.
    inside: u64,
    kills: u64,
    results: u64,
    /// Calls that were taken back and had no answer, as it should be.
    nothing: u64,
    disconnects: u64,
    cancels: u64,
    faults: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    /// Counts an answer, which must have come in time and be a result, a fault that a killed process
    /// explains, or nothing where the call was taken back.
    fn take(&mut self, answer: &Answer, upstream: &str, expected: &str, taken_back: bool) {
        self.slowest = self.slowest.max(answer.elapsed);
        assert!(answer.elapsed <= TIMEOUT + ALLOWANCE, "it came too late: {answer:#?}");
        if answer.value.is_null() {
            assert!(taken_back, "nothing came: {answer:#?}");
            self.nothing += 1;
        } else if answer.value["result"]["isError"] == true || !answer.value["error"].is_null() {
            let killed = UPSTREAMS[..PROCESSES].contains(&upstream) && answer.text.contains("signal");
            let explained = matches!(answer.code(), "UPSTREAM_UNAVAILABLE" | "OUTCOME_UNKNOWN") && killed;
            assert!(explained, "{upstream} failed, and not because it was killed: {answer:#?}");
            *self.faults.entry(answer.code().to_owned()).or_default() += 1;
        } else {
            assert_eq!(answer.said(), expected, "the answer to another call came");
            self.results += 1;
        }
    }

    fn summary(&self) -> String {
        let Self { calls, sessions, inside, kills, results, nothing, disconnects, cancels, faults, slowest } =
            self;
        format!(
            "{calls} calls, {sessions} sessions never ended with {inside} calls, {kills} kills: \
             {results} results, faults {faults:?}, {disconnects} disconnects, {cancels} cancels, \
             {nothing} of them answered by nothing; the slowest answer took {slowest:.1?}"
        )
    }

    fn check(&self, size: &Size) {
        assert_eq!((self.calls, self.sessions, self.kills), (size.calls, size.sessions, size.kills));
        let twentieth = size.calls / 20;
        assert!(self.disconnects >= twentieth && self.cancels >= twentieth, "too few were in mid-call");
        // Only what is under way at a process can be lost with it.
        assert!(self.faults.values().sum::<u64>() <= size.kills * CLIENTS, "more was lost than was killed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_that_hang_leave_a_healthy_tool_alone() {
    let _turn = TURN.acquire().await.expect("nobody closes it");
    // Each call has a connection of its own.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit can be raised");

    let hung = Upstream::start(Transport::ModernHttp, "hung", &[], "").await;
    let limits = "[limits]\ntotal = 64\ncaller = 32\nqueue = 256\nshare = 0.5";
    let daemon = Daemon::start(&format!("{limits}\n{}{}", hung.table(), seawall_tests::well())).await;
    let healthy = Client::legacy(&daemon.url("/mcp"), None).await;
    let other = Client::modern(&daemon.url("/mcp"), None);
    assert!(other.list().await.has("hung__hang"));
    time_calls(&healthy).await;

    let alone = time_calls(&healthy).await;
    let calls: Vec<Call> = (0..HUNG).map(|_| other.start_call("hung__hang", "{}")).collect();
    let at_first = time_calls(&healthy).await;
    let over = || calls.iter().filter(|call| call.is_over()).count();
    eventually("what there is no room for is refused", REFUSED_WITHIN, async || {
        over() == HUNG - IN_FLIGHT - IN_LINE
    })
    .await;
    let during = time_calls(&healthy).await;

    let status = daemon.status().await;
    let held = status["permits"].as_array().map_or(0, Vec::len);
    assert_eq!((held, &status["pending"]), (IN_FLIGHT, &json!(IN_FLIGHT)), "{status:#}");
    let (refused, waiting): (Vec<Call>, Vec<Call>) = calls.into_iter().partition(Call::is_over);
    assert_eq!(waiting.len(), IN_FLIGHT + IN_LINE);
    let mut slowest = Duration::ZERO;
    for call in refused {
        let answer = call.answer().await;
        assert_eq!(answer.code(), "OVER_CAPACITY", "{answer:#?}");
        assert!(answer.fault()["retry_after_ms"].is_u64(), "{answer:#?}");
        assert!(answer.elapsed <= REFUSED_WITHIN, "{:?} to be refused", answer.elapsed);
        slowest = slowest.max(answer.elapsed);
    }
    note(&format!("a healthy tool alone: {alone}; while {HUNG} come: {at_first}; while they hang: {during}"));
    note(&format!("{} were refused, the slowest in {slowest:.1?}", HUNG - waiting.len()));

    drop(waiting);
    daemon.until_idle().await;
    assert_eq!(daemon.status().await["pending"], 0);
}

/// Calls a healthy tool many times, one call after the other, and says how long they took.
async fn time_calls(client: &Client) -> String {
    let mut times = Vec::with_capacity(HEALTHY);
    for number in 0..HEALTHY {
        let text = format!("well {number}");
        let answer = client.call("well__echo", &json!({"text": text})).await;
        assert_eq!(answer.said(), text);
        times.push(answer.elapsed);
    }
    times.sort_unstable();
    format!("p50 {:.1?} p99 {:.1?}", times[HEALTHY / 2], times[HEALTHY * 99 / 100])
}
