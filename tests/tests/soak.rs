//! Minutes of random misdeeds under load: neighbours answer all the time, memory stays what it was, and afterwards
//! everything is as it was before. What a killed daemon leaves behind goes with its next start.
//!
//! It takes one minute unless `SEAWALL_SOAK_MINUTES` says otherwise; `SEAWALL_SOAK_SEED` has the same calls chosen
//! again.
#![expect(clippy::disallowed_methods, reason = "tests look at processes and their descriptors in /proc")]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{
    Answer, Client, Daemon, Era, Held, Transport, Upstream, eventually, mixed, note, pick, well,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Every server that misbehaves: a row for each transport there is, and for each way to share a process.
const UPSTREAMS: [(&str, Transport, &str); 7] = [
    ("everyone", Transport::Stdio, "sharing = \"everyone\""),
    ("session", Transport::Stdio, "sharing = \"session\""),
    ("call", Transport::Stdio, "sharing = \"call\""),
    ("legacy", Transport::LegacyHttp, ""),
    ("modern", Transport::ModernHttp, ""),
    ("sse", Transport::Sse, ""),
    ("websocket", Transport::WebSocket, ""),
];

/// What they are told to do. Good calls are among them, since misdeeds have to hit something.
const MISDEEDS: [(&str, &str); 22] = [
    ("echo", r#"{"text":"well"}"#),
    ("echo", r#"{"text":"well"}"#),
    ("sleep", r#"{"ms":50}"#),
    ("slow", r#"{"ms":200,"steps":20}"#),
    ("slow", r#"{"ms":2000,"steps":1000}"#),
    ("late", r#"{"ms":1500}"#),
    ("hang", "{}"),
    ("hang_read", "{}"),
    ("headers_then_nothing", "{}"),
    ("dribble", "{}"),
    ("crash", "{}"),
    ("half_reply", "{}"),
    ("close_stream", "{}"),
    ("garbage", "{}"),
    ("garbage", r#"{"reply":false}"#),
    ("wrong_id", "{}"),
    ("big", r#"{"bytes":65536}"#),
    ("big", r#"{"bytes":1000000}"#),
    ("ask_elicit", "{}"),
    ("ask_sample", "{}"),
    ("stderr", r#"{"bytes":200000}"#),
    ("stop_reading", "{}"),
];

/// Clients that have things done, half of them of either era, and those that call the healthy server meanwhile.
const CLIENTS: u64 = 12;
const NEIGHBOURS: u64 = 2;
/// How many calls a client makes before it goes on as another one.
const CALLS: u64 = 10;

/// What bounds a call; the tables say the same.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How far an answer may overshoot that, and what a loaded machine may add.
const ALLOWANCE: Duration = Duration::from_millis(100 + 900);
/// How long a healthy tool may take while all that goes on: many times what it takes.
const PROMPT: Duration = Duration::from_secs(2);
/// How often the healthy tool is called.
const OFTEN: Duration = Duration::from_millis(20);

/// How soon servers that were left hanging, or that died too often, are of use again.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long it may be quiet until everything is as it was.
const QUIET: Duration = Duration::from_secs(10);
/// How soon processes are gone whose daemon has ended, or found them at its start.
const GONE: Duration = Duration::from_secs(20);
const SAMPLE: Duration = Duration::from_secs(1);
/// Samples of memory that are taken together, so that one call's does not count.
const SAMPLES: usize = 10;
const MIB: f64 = 1024.0 * 1024.0;

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} = {text:?}: {error}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_minutes_of_misdeeds_everything_is_as_it_was() {
    let minutes = number_of("SEAWALL_SOAK_MINUTES").unwrap_or(1);
    let seed = number_of("SEAWALL_SOAK_SEED").unwrap_or_else(a_seed);
    note(&format!("{minutes} minutes, SEAWALL_SOAK_SEED={seed}"));
    Box::pin(soak(minutes, seed)).await;
}

fn a_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
    mixed(u64::from(now.subsec_nanos()) ^ now.as_secs())
}

async fn soak(minutes: u64, seed: u64) {
    let tag = Tag::new("soak");
    let mut upstreams = Vec::new();
    for (name, transport, keys) in UPSTREAMS {
        // Only what the daemon starts is its own to end.
        let flags = if transport == Transport::Stdio { vec!["--tag", tag.0.as_str()] } else { Vec::new() };
        let keys = format!("timeout = \"1s\"\n{keys}");
        upstreams.push(Upstream::start(transport, name, &flags, &keys).await);
    }
    let tables: String = upstreams.iter().map(Upstream::table).collect();
    let daemon = Daemon::start(&format!("[limits]\nsession_idle = \"3s\"\n{tables}{}", well())).await;

    until_everything_answers(&daemon).await;
    let before = Held::at_rest(&daemon).await;
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let soak = Arc::new(Soak { daemon, seed, until, calls: AtomicU64::new(0), tally: Mutex::default() });
    let samples = Soak::run(&soak).await;
    soak.tally().check();
    check_memory(&samples, minutes);

    let mut daemon = Arc::into_inner(soak).expect("its tasks are over").daemon;
    until_everything_answers(&daemon).await;
    daemon.until_idle().await;
    daemon.until_no_conversation().await;
    let what = "everything is as it was";
    let after = Held::until(&daemon, &before, what, QUIET, |now| now.is_as(&before)).await;
    note(&format!("before: {before:?}\nafter:  {after:?}"));

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, 0, "{}", daemon.log());
    eventually("no process outlives the daemon", GONE, async || tag.processes().is_empty()).await;
}

/// Calls a tool of every server, in a session that is ended afterwards and without one, until each has answered.
async fn until_everything_answers(daemon: &Daemon) {
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        for upstream in UPSTREAMS.map(|(name, ..)| name).into_iter().chain(["well"]) {
            eventually(&format!("{upstream} answers a {era:?} client"), RECOVERY, async || {
                let answer = client.call(&format!("{upstream}__echo"), r#"{"text":"here"}"#).await;
                answer.value["result"]["content"][0]["text"] == "here"
            })
            .await;
        }
        if era == Era::Legacy {
            client.delete().await;
        }
    }
}

/// What goes on between the two looks at the daemon.
struct Soak {
    daemon: Daemon,
    seed: u64,
    until: Instant,
    calls: AtomicU64,
    tally: Mutex<Tally>,
}

impl Soak {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// A number that follows from the seed and these two.
    fn roll(&self, number: u64, salt: u64) -> u64 {
        mixed(self.seed.wrapping_add(mixed(number << 3 | salt)))
    }

    /// Runs everybody until it is over; gives what the daemon weighed, second by second.
    async fn run(this: &Arc<Self>) -> Vec<f64> {
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let (this, era) = (Arc::clone(this), era_of(number));
            tasks.spawn(async move { this.misbehave(era).await });
        }
        for number in 0..NEIGHBOURS {
            let (this, era) = (Arc::clone(this), era_of(number));
            tasks.spawn(async move { this.behave(era).await });
        }
        let mut samples = Vec::new();
        while !this.is_over() {
            tokio::select! {
                // Whoever fails ends the test at once.
                Some(ended) = tasks.join_next() => end_with(ended),
                () = sleep(SAMPLE) => samples.push(this.resident_bytes().await),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            end_with(ended);
        }
        samples
    }

    async fn resident_bytes(&self) -> f64 {
        let status = self.daemon.status().await;
        status["resident_bytes"].as_f64().unwrap_or_else(|| panic!("no resident_bytes in {status:#}"))
    }

    /// Has servers misbehave, as one client after the other.
    async fn misbehave(&self, era: Era) {
        while !self.is_over() {
            let first = self.calls.fetch_add(CALLS, Ordering::Relaxed);
            let mut client = Client::open(era, &self.daemon.url("/mcp"), None).await;
            if era == Era::Modern && self.roll(first, 0).is_multiple_of(2) {
                client = client.in_conversation(&format!("conversation-{first}"));
            }
            for number in first..first + CALLS {
                if !self.is_over() {
                    self.make_call(&client, number).await;
                }
            }
            // The others' sessions are left to expire.
            if era == Era::Legacy && self.roll(first, 0).is_multiple_of(2) {
                client.delete().await;
            }
        }
    }

    async fn make_call(&self, client: &Client, number: u64) {
        let (upstream, transport, _) = pick(&UPSTREAMS, self.roll(number, 1));
        let (misdeed, arguments) = match pick(&MISDEEDS, self.roll(number, 2)) {
            // Nobody would start a service again.
            ("crash", _) if transport != Transport::Stdio => ("close_stream", "{}"),
            misdeed => misdeed,
        };
        let tool = format!("{upstream}__{misdeed}");
        let call = if self.roll(number, 3).is_multiple_of(3) {
            client.start_call_with_progress(&tool, arguments)
        } else {
            client.start_call(&tool, arguments)
        };
        let way = self.roll(number, 4) % 16;
        if way < 2 {
            sleep(Duration::from_millis(self.roll(number, 5) % 200)).await;
            if way == 0 {
                drop(call)
            } else {
                call.cancel().await
            }
            self.tally().given_up += 1;
        } else {
            let answer = call.answer().await;
            self.tally().take(&tool, &answer);
        }
    }

    /// Calls the healthy server all the time.
    async fn behave(&self, era: Era) {
        let client = Client::open(era, &self.daemon.url("/mcp"), None).await;
        let mut number = 0_u64;
        while !self.is_over() {
            number += 1;
            let text = format!("neighbour {number}");
            let answer = client.call("well__echo", &json!({"text": text})).await;
            assert_eq!(answer.said(), text);
            assert!(answer.elapsed <= PROMPT, "a neighbour waited for {:?}", answer.elapsed);
            self.tally().neighbours.push(answer.elapsed);
            sleep(OFTEN).await;
        }
        if era == Era::Legacy {
            client.delete().await;
        }
    }
}

fn end_with(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn era_of(number: u64) -> Era {
    if number.is_multiple_of(2) { Era::Legacy } else { Era::Modern }
}

/// What came back.
#[derive(Debug, Default)]
struct Tally {
    /// How calls ended, by what was done to them.
    ends: BTreeMap<String, u64>,
    given_up: u64,
    slowest: Duration,
    neighbours: Vec<Duration>,
}

impl Tally {
    /// Counts an answer, which must have come in time and be a result or say who failed.
    fn take(&mut self, tool: &str, answer: &Answer) {
        self.slowest = self.slowest.max(answer.elapsed);
        assert!(answer.elapsed <= TIMEOUT + ALLOWANCE, "{tool} ended too late: {answer:#?}");
        let end = ending(answer);
        let no_end = ["nothing", "INTERNAL", "error -32602"];
        assert!(!no_end.contains(&end.as_str()), "{tool} ended in {end}: {answer:#?}");
        *self.ends.entry(end).or_default() += 1;
    }

    fn check(&mut self) {
        let Self { ends, given_up, slowest, neighbours } = self;
        neighbours.sort_unstable();
        let worst = neighbours.last().copied().unwrap_or_default();
        let p99 = neighbours.get(neighbours.len() * 99 / 100).copied().unwrap_or_default();
        note(&format!(
            "{ends:?}, {given_up} given up, the slowest answer took {slowest:.1?}; {} calls of neighbours: p99 \
             {p99:.1?}, max {worst:.1?}",
            neighbours.len()
        ));
        for end in ["result", "TIMEOUT", "OUTCOME_UNKNOWN"] {
            assert!(ends.contains_key(end), "nothing ended in {end}: {ends:?}");
        }
        assert!(*given_up > 0 && !neighbours.is_empty(), "too little went on");
    }
}

/// How a call ended, in a word or two.
fn ending(answer: &Answer) -> String {
    let (result, error) = (&answer.value["result"], &answer.value["error"]);
    let fault = [&result["_meta"]["seawall/fault"]["code"], &error["data"]["code"]];
    if let Some(code) = fault.into_iter().find_map(Value::as_str) {
        code.to_owned()
    } else if !error.is_null() {
        format!("error {}", error["code"])
    } else if result["isError"] == true {
        "isError".to_owned()
    } else if result.is_object() {
        "result".to_owned()
    } else {
        "nothing".to_owned()
    }
}

/// What the daemon weighs at the end is what it weighed at minute 2. A run too short for that is compared with its
/// first third, in which not everything has happened yet, and so by a wider bound.
fn check_memory(samples: &[f64], minutes: u64) {
    let at = |second: usize| {
        let end = second.clamp(1, samples.len());
        median(&samples[end.saturating_sub(SAMPLES)..end])
    };
    assert!(samples.len() > 2 * SAMPLES, "the daemon was looked at {} times only", samples.len());
    let (early, most) = match minutes {
        0..3 => {
            let early = at(20);
            (early, early * 1.25 + 8.0 * MIB)
        }
        _ => {
            let early = at(120);
            (early, early * 1.05 + 2.0 * MIB)
        }
    };
    let last = at(samples.len());
    note(&format!("resident: {:.1} MiB early, {:.1} MiB at the end", early / MIB, last / MIB));
    assert!(
        last <= most,
        "the daemon grew from {early:.0} to {last:.0} bytes; {most:.0} is the bound: {samples:?}"
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// An argument by which processes are known. Dropped, it ends those that are left.
struct Tag(String);

impl Tag {
    fn new(name: &str) -> Self {
        Self(format!("{name}-{}-{:016x}", std::process::id(), a_seed()))
    }

    /// The living processes that were started with it.
    fn processes(&self) -> Vec<u32> {
        let has_it = |pid: &u32| {
            // A process that has ended has no command line.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == self.0.as_bytes())
        };
        processes().into_iter().filter(has_it).collect()
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        for pid in self.processes() {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // An error means that it ended just now.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

#[tokio::test]
async fn what_a_killed_daemon_leaves_behind_goes_with_its_next_start() {
    let tag = Tag::new("killed");
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let state =
        directory.path().join("state").into_os_string().into_string().expect("temporary paths are UTF-8");
    let variables = [("SEAWALL_STATE", state.as_str())];
    let stubborn = ["--tag", tag.0.as_str(), "--ignore-eof", "--ignore-term"];
    let keys = "stop_grace = \"200ms\"\nsharing = ";
    let upstreams = [
        Upstream::start(Transport::Stdio, "shared", &stubborn, &format!("{keys}\"everyone\"")).await,
        Upstream::start(Transport::Stdio, "own", &stubborn, &format!("{keys}\"session\"")).await,
    ];
    let tables: String = upstreams.iter().map(Upstream::table).collect();

    let mut first = Daemon::start_with(&tables, &variables).await;
    let client = Client::legacy(&first.url("/mcp"), None).await;
    for tool in ["shared__echo", "own__echo"] {
        assert_eq!(client.call(tool, r#"{"text":"here"}"#).await.said(), "here");
    }
    first.signal(Signal::KILL);
    assert_eq!(first.ended().await, -1);
    let left = tag.processes();
    assert!(left.len() >= 2, "nothing was left behind to find: {left:?}");

    let mut second = Daemon::start_with(&tables, &variables).await;
    eventually("what the killed daemon left behind is gone", GONE, async || {
        let now = tag.processes();
        !left.iter().any(|pid| now.contains(pid))
    })
    .await;
    let client = Client::legacy(&second.url("/mcp"), None).await;
    assert_eq!(client.call("shared__echo", r#"{"text":"again"}"#).await.said(), "again");
    second.signal(Signal::TERM);
    assert_eq!(second.ended().await, 0, "{}", second.log());
    eventually("no process outlives the daemon", GONE, async || tag.processes().is_empty()).await;
}
