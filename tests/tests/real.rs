//! Servers that others wrote, as people run them, stopped in the middle of a call with all their descendants.
//!
//! Each test is one server: its calls end at their deadline, a neighbour notices nothing, another tree takes the
//! place of the stopped one, and nothing of either is left. The last test kills the daemon as well.
#![expect(clippy::disallowed_methods, reason = "tests look at processes in /proc and write files themselves")]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{
    Call, Client, Daemon, JSON, PATIENCE, Process, binary, eventually, note, provisioned, quoted, send, well,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// What bounds a call and an opening; the constant below says the same. One instance serves everyone, so that status
/// shows the one that a call is at.
const KEYS: &str =
    "sharing = \"everyone\"\ntimeout = \"3s\"\nstart_timeout = \"60s\"\nlist_timeout = \"60s\"\n";
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long slow servers may take until they answer, when several start at once.
const START: Duration = Duration::from_secs(90);
/// How far an answer may overshoot its deadline.
const PROMISED: Duration = Duration::from_millis(100);
/// What a loaded machine may add to that: it runs the tests, the daemons and their servers at once.
const ALLOWANCE: Duration = Duration::from_millis(400);
/// How soon a healthy tool answers while another one hangs.
const PROMPT: Duration = Duration::from_millis(500);
/// How soon another process answers once a call has ended in silence: the child has five seconds to say anything,
/// and the next one starts slowly.
const REPLACED: Duration = Duration::from_secs(20);
/// How soon a stopped tree is gone once another has taken its place: two steps of its end, and the last one.
const GONE: Duration = Duration::from_secs(15);
/// How soon the next daemon has ended what a killed one left.
const CLEARED: Duration = Duration::from_secs(15);
/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// How often standard error is flooded, and with how much each time: two hundred times what a pipe holds.
const FLOODS: usize = 26;
const FLOOD: usize = 500_000;

/// A process for as long as it lives: its number may be another one's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    pid: u32,
    /// When it started, in clock ticks since the machine did.
    started: u64,
}

/// What the kernel says of a process.
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

impl Stat {
    /// Nothing where the process is dead, even if nobody has reaped it.
    fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, which may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        let stat =
            Self { state, parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? };
        (!matches!(state, 'Z' | 'X')).then_some(stat)
    }
}

impl Member {
    fn stat(self) -> Option<Stat> {
        Stat::of(self.pid).filter(|stat| stat.started == self.started)
    }

    /// The program that it runs.
    fn program(self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.pid)).expect("it runs")
    }

    fn number(self) -> Pid {
        Pid::from_raw(self.pid.cast_signed()).expect("no process has the number 0")
    }

    fn signal(self, signal: Signal) {
        kill_process(self.number(), signal).expect("it runs");
    }
}

/// A process and all who descend from it now, parents first.
fn family(root: u32) -> Vec<Member> {
    let numbers = fs::read_dir("/proc").expect("there is /proc").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: BTreeMap<u32, Stat> = numbers.filter_map(|pid| Some((pid, Stat::of(pid)?))).collect();
    let mut family = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let Some(stat) = all.get(&pid) else { continue };
        family.push(Member { pid, started: stat.started });
        next.extend(all.iter().filter(|(_, other)| other.parent == pid).map(|(child, _)| *child));
    }
    family
}

/// Processes that must end. Dropped, it kills those that have not: what is stopped would stay for ever after a test
/// that failed.
struct Doomed(Vec<Member>);

impl Doomed {
    /// Stops every one of them.
    async fn stop(&self) {
        for member in &self.0 {
            member.signal(Signal::STOP);
        }
        eventually("all of them stand still", SOON, async || {
            self.0.iter().all(|member| member.stat().is_some_and(|stat| stat.state == 'T'))
        })
        .await;
    }

    fn living(&self) -> Vec<Member> {
        self.0.iter().copied().filter(|member| member.stat().is_some()).collect()
    }

    fn assert_gone(&self) {
        let living = self.living();
        assert!(living.is_empty(), "these outlive their daemon: {living:?}");
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        for member in self.living() {
            // An error means that it ended just now.
            let _ = kill_process(member.number(), Signal::KILL);
        }
    }
}

/// A call of one tool, and what its answer contains.
struct Ask {
    tool: &'static str,
    arguments: Value,
    says: &'static str,
}

/// A server, how it is asked, and how it looks.
struct Server {
    name: &'static str,
    table: String,
    /// How many processes it is while it works on the slow call.
    processes: usize,
    /// What it answers at once.
    quick: Ask,
    /// What it takes its time for, so that it can be stopped in the middle of it.
    slow: Option<Ask>,
}

impl Server {
    /// Whether it answers as it should.
    async fn answers(&self, client: &Client, ask: &Ask) -> bool {
        let answer = client.call(&self.public(ask), &ask.arguments).await;
        let text = answer.value["result"]["content"][0]["text"].as_str();
        text.is_some_and(|text| text.contains(ask.says))
    }

    fn public(&self, ask: &Ask) -> String {
        format!("{}__{}", self.name, ask.tool)
    }
}

fn table(name: &str, command: &str, arguments: &[&str], keys: &str) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    let (command, arguments) = (quoted(command), arguments.join(", "));
    format!("[servers.{name}]\ncommand = {command}\nargs = [{arguments}]\n{KEYS}{keys}\n")
}

/// The table of a package's program that `npx` starts: npm, a shell and the server, each the next one's parent.
/// Nothing is fetched.
fn through_npx(name: &str, program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").expect("a test run has a PATH");
    let path = format!("{}:{path}", provisioned("npm/bin"));
    let keys = format!(
        "cwd = {}\nenv = {{ PATH = {}, npm_config_offline = \"true\", npm_config_update_notifier = \"false\" }}",
        quoted(&provisioned("npm")),
        quoted(&path),
    );
    table(name, "npx", &[&["--no-install", program][..], arguments].concat(), &keys)
}

fn everything() -> Server {
    Server {
        name: "everything",
        table: through_npx("everything", "mcp-server-everything", &[]),
        processes: 3,
        quick: Ask { tool: "echo", arguments: json!({"message": "hi"}), says: "Echo: hi" },
        // Shorter than the deadline: it would be answered.
        slow: Some(Ask {
            tool: "trigger-long-running-operation",
            arguments: json!({"duration": 2, "steps": 4}),
            says: "completed",
        }),
    }
}

fn filesystem(directory: &Path) -> Server {
    let directory = directory.to_str().expect("temporary paths are UTF-8");
    Server {
        name: "files",
        table: through_npx("files", "mcp-server-filesystem", &[directory]),
        processes: 3,
        quick: Ask { tool: "list_allowed_directories", arguments: json!({}), says: "Allowed directories:" },
        slow: None,
    }
}

/// A server that does not end when its standard input does.
fn old_everything() -> Server {
    let script = provisioned("npm/node_modules/server-everything-2025.4/dist/index.js");
    Server {
        name: "old",
        table: table("old", &provisioned("npm/bin/node"), &[&script], ""),
        processes: 1,
        quick: Ask { tool: "echo", arguments: json!({"message": "hi"}), says: "Echo: hi" },
        slow: Some(Ask {
            tool: "longRunningOperation",
            arguments: json!({"duration": 2, "steps": 4}),
            says: "completed",
        }),
    }
}

fn sqlite(directory: &Path) -> Server {
    let file = directory.join("it.db");
    let file = file.to_str().expect("temporary paths are UTF-8");
    let count = "SELECT count(*) AS counted FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 \
                 FROM c WHERE x < 4000000) SELECT x FROM c)";
    Server {
        name: "sqlite",
        table: table("sqlite", &provisioned("python-sqlite/bin/mcp-server-sqlite"), &["--db-path", file], ""),
        processes: 1,
        quick: Ask { tool: "list_tables", arguments: json!({}), says: "[]" },
        slow: Some(Ask { tool: "read_query", arguments: json!({"query": count}), says: "counted" }),
    }
}

/// What Playwright takes for a browser: it fails at once, or hangs in a session of its own, which is where
/// Playwright starts browsers.
struct Browser(PathBuf);

impl Browser {
    fn new(directory: &Path) -> Self {
        let path = directory.join("browser");
        fs::write(&path, "#!/bin/sh\nif [ -e \"$0.hangs\" ]; then exec sleep 600; fi\nexit 1\n")
            .expect("a temporary directory can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("temporary paths are UTF-8")
    }

    fn sign(&self) -> PathBuf {
        self.0.with_extension("hangs")
    }

    fn hang(&self) {
        fs::write(self.sign(), "").expect("a temporary directory can be written");
    }

    fn fail(&self) {
        fs::remove_file(self.sign()).expect("it was written");
    }
}

fn playwright(directory: &Path, browser: &Browser) -> Server {
    let script = provisioned("npm/node_modules/@playwright/mcp/cli.js");
    let arguments =
        [script.as_str(), "--headless", "--isolated", "--no-sandbox", "--executable-path", browser.path()];
    // It keeps profiles and output in these.
    let directory = quoted(directory.to_str().expect("temporary paths are UTF-8"));
    let keys = format!("cwd = {directory}\nenv = {{ TMPDIR = {directory} }}");
    let navigate =
        || Ask { tool: "browser_navigate", arguments: json!({"url": "about:blank"}), says: "<launching>" };
    Server {
        name: "playwright",
        table: table("playwright", &provisioned("npm/bin/node"), &arguments, &keys),
        processes: 2,
        quick: navigate(),
        slow: Some(navigate()),
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

/// A daemon with servers that answer, a healthy neighbour among them.
struct Scene {
    client: Client,
    daemon: Daemon,
}

impl Scene {
    async fn start(servers: &[&Server]) -> Self {
        let tables: String = servers.iter().map(|server| server.table.as_str()).collect();
        let daemon = Daemon::start(&(tables + &well())).await;
        let client = Client::modern(&daemon.url("/mcp"), None);
        let scene = Self { client, daemon };
        for server in servers {
            scene.until_it_answers(server, START).await;
        }
        scene.assert_the_neighbour_answers().await;
        scene
    }

    async fn until_it_answers(&self, server: &Server, limit: Duration) {
        let what = format!("{} answers", server.name);
        eventually(&what, limit, async || server.answers(&self.client, &server.quick).await).await;
    }

    async fn assert_the_neighbour_answers(&self) -> Duration {
        let answer = self.client.call("well__echo", r#"{"text":"well"}"#).await;
        assert_eq!(answer.said(), "well");
        answer.elapsed
    }

    /// What status says of a server's instances.
    async fn instances(&self, server: &Server) -> Vec<Value> {
        let status = self.daemon.status().await;
        let upstreams = status["upstreams"].as_array().expect("status lists the upstreams");
        let upstream = upstreams.iter().find(|upstream| upstream["name"] == server.name);
        upstream.and_then(|upstream| upstream["instances"].as_array()).cloned().unwrap_or_default()
    }

    /// The processes of a server that the daemon itself started.
    async fn roots(&self, server: &Server) -> Vec<u32> {
        let instances = self.instances(server).await;
        let numbers = instances.iter().filter_map(|instance| instance["pid"].as_u64());
        numbers.map(|number| u32::try_from(number).expect("status shows the ids of processes")).collect()
    }

    /// The one process of a server that the daemon itself started.
    async fn root(&self, server: &Server) -> u32 {
        let mut roots = Vec::new();
        eventually(&format!("{} is one instance", server.name), SOON, async || {
            roots = self.roots(server).await;
            roots.len() == 1
        })
        .await;
        roots[0]
    }

    /// Waits until so many calls, at least, were handed to one instance and are not answered.
    async fn until_calls_are_at(&self, server: &Server, count: u64) {
        let what = format!("{count} calls are at {}", server.name);
        eventually(&what, SOON, async || {
            let instances = self.instances(server).await;
            let most = instances.iter().filter_map(|instance| instance["in_flight"].as_u64()).max();
            most.is_some_and(|most| most >= count)
        })
        .await;
    }

    /// Begins the slow call, if there is one; gives it with the processes that work on it.
    async fn begin(&self, server: &Server) -> (Option<Call>, Doomed) {
        let root = self.root(server).await;
        let call = match &server.slow {
            Some(slow) => {
                let call = self.client.start_call(&server.public(slow), &slow.arguments);
                self.until_calls_are_at(server, 1).await;
                Some(call)
            }
            None => None,
        };
        let what = format!("{} is {} processes", server.name, server.processes);
        eventually(&what, SOON, async || family(root).len() == server.processes).await;
        (call, Doomed(family(root)))
    }

    /// Stops the server in the middle of a call and makes another one: both end at their deadline, and meanwhile the
    /// neighbour answers. Gives the stopped processes.
    async fn calls_end_at_their_deadline(&self, server: &Server) -> Doomed {
        let (under_way, stopped) = self.begin(server).await;
        stopped.stop().await;
        assert!(under_way.as_ref().is_none_or(|call| !call.is_over()), "{} was too fast", server.name);
        let late = self.client.start_call(&server.public(&server.quick), &server.quick.arguments);
        let calls: Vec<_> = under_way.into_iter().chain([late]).collect();
        // A server that answers everything at once cannot be stopped in the middle of anything. A call that is written
        // to it when it stands still is in the same place: it was sent, and nobody can tell how far it has come.
        self.until_calls_are_at(server, calls.len() as u64).await;

        let mut times = Vec::new();
        while calls.iter().any(|call| !call.is_over()) {
            times.push(self.assert_the_neighbour_answers().await);
            sleep(PAUSE).await;
        }
        times.sort();
        assert!(times.len() > 1, "while {} was stopped, its neighbour took {times:?}", server.name);
        // The 99th percentile, which of less than a hundred is the second slowest: the slowest may be the machine's.
        let rank = (times.len() * 99).div_ceil(100).min(times.len() - 1);
        let slow = times[rank - 1];
        assert!(slow <= PROMPT + ALLOWANCE, "while {} was stopped, its neighbour took {slow:?}", server.name);

        for call in calls {
            let answer = call.answer().await;
            let fault = answer.fault();
            assert_eq!((answer.code(), &fault["stage"]), ("TIMEOUT", &json!("answer")), "{fault}");
            assert_eq!(
                (&fault["upstream"], &fault["may_have_run"]),
                (&json!(server.name), &json!(true)),
                "{fault}"
            );
            let over = answer.elapsed.saturating_sub(TIMEOUT);
            note(&format!("{}: {over:?} over the deadline, neighbour {slow:?}", server.name));
            assert!(answer.elapsed >= TIMEOUT, "the call was cut short after {:?}", answer.elapsed);
            assert!(over <= PROMISED + ALLOWANCE, "the call took {:?}", answer.elapsed);
        }
        stopped
    }

    /// Waits until another process answers in the place of those that stand still, and until those are gone.
    async fn another_takes_its_place(&self, server: &Server, stopped: &Doomed) {
        let ended = Instant::now();
        self.until_it_answers(server, REPLACED).await;
        note(&format!("{}: another one answered after {:?}", server.name, ended.elapsed()));
        let old = stopped.0[0].pid;
        let roots = self.roots(server).await;
        assert!(roots.iter().any(|root| *root != old), "the stopped process {old} answered: {roots:?}");

        let what = format!("all that was stopped of {} is gone", server.name);
        eventually(&what, GONE, async || stopped.living().is_empty()).await;
        note(&format!("{}: the old one was gone after {:?}", server.name, ended.elapsed()));
        self.daemon.until_idle().await;
    }

    /// Ends the daemon in good order: no process of it is left.
    async fn ends_with_all_its_own(mut self) {
        let all = Doomed(family(self.daemon.pid()));
        assert!(all.0.len() > 2, "a server and its neighbour should run: {:?}", all.0);
        let told = Instant::now();
        self.daemon.signal(Signal::TERM);
        assert_eq!(self.daemon.ended().await, 0);
        note(&format!("{} processes ended within {:?}", all.0.len(), told.elapsed()));
        all.assert_gone();
    }

    /// All of it.
    async fn stopped_and_replaced(self, server: &Server) {
        if let Some(slow) = &server.slow {
            assert!(server.answers(&self.client, slow).await, "{} takes too long", server.name);
        }
        let stopped = self.calls_end_at_their_deadline(server).await;
        self.another_takes_its_place(server, &stopped).await;
        self.ends_with_all_its_own().await;
        stopped.assert_gone();
    }
}

/// Asserts that `npx` brought up three processes deep what was provisioned, on the Node that was.
async fn assert_npx_started_it(scene: &Scene, server: &Server) {
    let root = scene.root(server).await;
    let family = family(root);
    let node = fs::canonicalize(provisioned("npm/bin/node")).expect("it is there");
    let programs: Vec<PathBuf> = family.iter().map(|member| member.program()).collect();
    assert!(programs.len() == 3 && programs[0] == node && programs[2] == node, "{programs:?}");
    for (parent, child) in family.iter().zip(&family[1..]) {
        let stat = child.stat().expect("it runs");
        assert_eq!(stat.parent, parent.pid, "{family:?}");
    }
}

#[tokio::test]
async fn everything_through_npx() {
    let server = everything();
    let scene = Scene::start(&[&server]).await;
    assert_npx_started_it(&scene, &server).await;
    Box::pin(scene.stopped_and_replaced(&server)).await;
}

#[tokio::test]
async fn filesystem_through_npx() {
    let directory = directory();
    let server = filesystem(directory.path());
    let scene = Scene::start(&[&server]).await;
    assert_npx_started_it(&scene, &server).await;
    Box::pin(scene.stopped_and_replaced(&server)).await;
}

#[tokio::test]
async fn sqlite_that_floods_standard_error() {
    let directory = directory();
    let server = sqlite(directory.path());
    let scene = Scene::start(&[&server]).await;

    // It logs what it makes of a query as long as the query is.
    let query = json!({"query": format!("SELECT {}", "x".repeat(FLOOD))});
    let began = Instant::now();
    for _ in 0..FLOODS {
        let answer = scene.client.call("sqlite__read_query", &query).await;
        assert!(answer.said().contains("no such column"), "{:.200}", answer.text);
    }
    note(&format!("{} bytes of standard error in {:?}", FLOODS * FLOOD, began.elapsed()));
    let logs = send(&scene.daemon.url("/api/v1/upstreams/sqlite/logs"), "GET", &JSON, "").await;
    assert!(logs.body.contains(&"x".repeat(1000)), "the flood did not go to standard error");

    Box::pin(scene.stopped_and_replaced(&server)).await;
}

#[tokio::test]
async fn everything_that_ignores_the_end_of_its_input() {
    let server = old_everything();
    let scene = Scene::start(&[&server]).await;
    Box::pin(scene.stopped_and_replaced(&server)).await;
}

#[tokio::test]
async fn playwright_whose_browser_hangs_in_a_session_of_its_own() {
    let directory = directory();
    let browser = Browser::new(directory.path());
    let server = playwright(directory.path(), &browser);
    let scene = Scene::start(&[&server]).await;

    browser.hang();
    let stopped = Box::pin(scene.calls_end_at_their_deadline(&server)).await;
    browser.fail();
    scene.another_takes_its_place(&server, &stopped).await;

    // Once more, so that the daemon ends with such a browser.
    browser.hang();
    let (call, working) = scene.begin(&server).await;
    drop(call);
    scene.ends_with_all_its_own().await;
    working.assert_gone();
}

#[tokio::test]
async fn what_a_killed_daemon_leaves_is_ended_by_the_next_one() {
    let directory = directory();
    let browser = Browser::new(directory.path());
    let (npx, old) = (everything(), old_everything());
    let playwright = playwright(directory.path(), &browser);
    let mut scene = Scene::start(&[&npx, &old, &playwright]).await;

    // What stands still does not heed the end of its input either.
    browser.hang();
    let (call, working) = scene.begin(&playwright).await;
    working.stop().await;
    browser.fail();
    let tree = Doomed(family(scene.root(&npx).await));
    tree.stop().await;
    drop(call);

    let mut left = Doomed(family(scene.daemon.pid()));
    left.0.retain(|member| member.pid != scene.daemon.pid());
    let neighbour = scene.daemon.instances("well").await[0]["pid"].clone();
    let heeds = |member: &Member| neighbour == member.pid;
    scene.daemon.signal(Signal::KILL);
    assert_eq!(scene.daemon.ended().await, -1);
    // Its neighbour ends with its input. Whoever is there after that does so because nobody ends it.
    eventually("the neighbour is gone", SOON, async || !left.living().iter().any(heeds)).await;
    let outlived = left.living();
    note(&format!("{} of {} processes outlived the daemon that was killed", outlived.len(), left.0.len()));
    assert!(outlived.len() >= 2, "there is next to nothing for the next daemon to end: {outlived:?}");

    let file = scene.daemon.configuration();
    let arguments = ["serve", "--config", file.to_str().expect("temporary paths are UTF-8")];
    let began = Instant::now();
    let mut next = Process::run("seawall", binary("seawall"), arguments, &[], scene.daemon.directory());
    let address = scene.daemon.url("");
    let address = address.trim_start_matches("http://");
    eventually("the next daemon listens", PATIENCE, async || TcpStream::connect(address).await.is_ok()).await;
    eventually("all that the killed daemon left is gone", CLEARED, async || left.living().is_empty()).await;
    note(&format!("it was gone {:?} after the next daemon started", began.elapsed()));
    for server in [&npx, &old, &playwright] {
        scene.until_it_answers(server, START).await;
    }

    let all = Doomed(family(next.pid()));
    all.0[0].signal(Signal::TERM);
    assert_eq!(next.ended().await, 0);
    all.assert_gone();
}
