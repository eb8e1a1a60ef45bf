//! The bridge: a client that starts a command reaches the daemon through it, whatever becomes of the daemon.
#![expect(
    clippy::disallowed_methods,
    reason = "tests start programs, spawn tasks, and look at processes and files themselves"
)]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{
    Client, Era, Misbehave, PATIENCE, Process, Transport, Upstream, binary, eventually, note, quoted,
    request_text, within,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Barrier, Notify};

/// How many bridges are started at once.
const AT_ONCE: usize = 20;
/// How many calls each client has under way while the daemon is killed.
const UNDER_WAY: usize = 8;
/// How long a bridge may take to end whose client has said all it will.
const SOON: Duration = Duration::from_secs(6);

/// Calls, how often the daemon is killed meanwhile, and how long it may all take.
fn size() -> (usize, usize, Duration) {
    if std::env::var("SEAWALL_TEST_SIZE").is_ok_and(|size| size == "full") {
        (1000, 10, Duration::from_secs(180))
    } else {
        (200, 3, Duration::from_secs(60))
    }
}

/// A home directory with a configuration. Dropped, it takes the daemon with it that was started for it.
struct Home {
    directory: TempDir,
    state: PathBuf,
}

impl Home {
    /// A home in which nothing was ever done.
    fn empty() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let state = directory.path().join(".local/state/seawall");
        Self { directory, state }
    }

    /// A home with a configuration, which is without `listen` and `state`.
    fn with(config: &str) -> Self {
        let mut home = Self::empty();
        home.state = home.path().join("state");
        let whole = format!("listen = \"127.0.0.1:0\"\nstate = \"state\"\ngrace = \"1s\"\n{config}");
        fs::write(home.configuration(), whole).expect("a temporary directory can be written");
        home
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn configuration(&self) -> PathBuf {
        self.path().join("seawall.toml")
    }

    /// The process id of the daemon, from what it published.
    fn daemon(&self) -> Option<u32> {
        let text = fs::read(self.state.join("daemon.json")).ok()?;
        let pid = serde_json::from_slice::<Value>(&text).ok()?["pid"].as_u64()?;
        self.daemons().into_iter().find(|daemon| u64::from(*daemon) == pid)
    }

    /// The process ids of all daemons that were started in this home.
    fn daemons(&self) -> Vec<u32> {
        let home = format!("HOME={}", self.path().display());
        let holds = |file: PathBuf, wanted: &str| {
            // A process that ends meanwhile holds nothing.
            let bytes = fs::read(file).unwrap_or_default();
            bytes.split(|byte| *byte == 0).any(|part| part == wanted.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
        let mut found: Vec<u32> = entries
            .filter(|entry| {
                holds(entry.path().join("environ"), &home) && holds(entry.path().join("cmdline"), "serve")
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }

    /// Waits until a daemon runs and kills it.
    async fn kill_daemon(&self) {
        let mut daemon = None;
        eventually("a daemon runs", PATIENCE, async || {
            daemon = self.daemon();
            daemon.is_some()
        })
        .await;
        kill(daemon.expect("the condition held"));
    }

    /// Starts a bridge of this home.
    fn bridge(&self, arguments: &[&str]) -> Bridge {
        self.bridge_in(self.path(), arguments)
    }

    /// Starts a bridge of this home that works in another directory.
    fn bridge_in(&self, directory: &Path, arguments: &[&str]) -> Bridge {
        let mut command = Command::new(binary("seawall"));
        command.arg("stdio");
        if self.configuration().is_file() {
            command.arg("--config").arg(self.configuration());
        }
        let complaints = self.path().join("bridge.stderr");
        let complaints = File::options().append(true).create(true).open(complaints);
        command
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SEAWALL_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.expect("a temporary directory can be written"))
            .kill_on_drop(true);
        Bridge::over(command.spawn().expect("the bridge starts"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let read =
                |file: PathBuf| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
            let log = read(self.state.join("log/daemon.stderr"));
            note(&format!(
                "---- bridges said:\n{}---- daemons said:\n{log}",
                read(self.path().join("bridge.stderr"))
            ));
        }
        self.daemons().into_iter().for_each(kill);
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("no process has the number 0");
    // An error means that it ended just now.
    let _ = kill_process(pid, Signal::KILL);
}

/// What a bridge has written so far.
#[derive(Default)]
struct Said {
    /// By the id they answer.
    endings: HashMap<u64, Vec<Value>>,
    /// Messages of the server's own, and errors without an id.
    others: Vec<Value>,
    /// Lines that are no JSON-RPC message.
    foreign: Vec<String>,
    ended: bool,
}

impl Said {
    fn take(&mut self, line: String) {
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        if message["jsonrpc"] != "2.0" {
            return self.foreign.push(line);
        }
        match message["id"].as_u64() {
            Some(id) if message["method"].is_null() => self.endings.entry(id).or_default().push(message),
            _ => self.others.push(message),
        }
    }
}

/// A bridge, and its client's side of the pipes.
struct Bridge {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Said>>,
    more: Arc<Notify>,
    ids: u64,
}

impl Bridge {
    fn over(mut child: Child) -> Self {
        let stdout = child.stdout.take().expect("it is piped");
        let (said, more) = (Arc::<Mutex<Said>>::default(), Arc::<Notify>::default());
        let (into, wake) = (Arc::clone(&said), Arc::clone(&more));
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                lock(&into).take(line);
                wake.notify_waiters();
            }
            lock(&into).ended = true;
            wake.notify_waiters();
        });
        let stdin = child.stdin.take();
        Self { child, stdin, said, more, ids: 0 }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said)
    }

    async fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it has not been closed");
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("the bridge reads");
    }

    /// Starts a request and gives its id.
    async fn start(&mut self, era: Era, method: &str, params: &Value) -> u64 {
        self.ids += 1;
        self.send(&request_text(era, self.ids, method, &params.to_string(), false)).await;
        self.ids
    }

    async fn notify(&mut self, method: &str, params: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()).await;
    }

    /// Waits until `found` gives something.
    async fn until<T>(&self, what: &str, mut found: impl FnMut(&Said) -> Option<T>) -> T {
        within(what, PATIENCE, async {
            loop {
                let more = self.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                if let Some(value) = found(&self.said()) {
                    return value;
                }
                more.await;
            }
        })
        .await
    }

    async fn ending(&self, id: u64) -> Value {
        self.until(&format!("the ending of {id}"), |said| said.endings.get(&id)?.first().cloned()).await
    }

    async fn request(&mut self, era: Era, method: &str, params: &Value) -> Value {
        let id = self.start(era, method, params).await;
        self.ending(id).await
    }

    /// Opens a session where the era has one.
    async fn open(&mut self, era: Era) -> Value {
        if era == Era::Modern {
            return self.request(era, "server/discover", &json!({})).await;
        }
        let capabilities = json!({"elicitation": {}});
        let client = json!({"name": "bridge-test", "version": "1"});
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": client});
        let answer = self.request(era, "initialize", &params).await;
        self.notify("notifications/initialized", &json!({})).await;
        answer
    }

    async fn call(&mut self, era: Era, tool: &str, arguments: &Value) -> Value {
        self.request(era, "tools/call", &json!({"name": tool, "arguments": arguments})).await
    }

    /// Says no more and waits for the bridge's end; nothing but messages may have come, and each ending once.
    async fn close(mut self) -> Said {
        drop(self.stdin.take());
        let status = within("the end of the bridge", SOON, self.child.wait()).await;
        assert_eq!(status.expect("it can be waited for").code(), Some(0));
        self.until("the end of its output", |said| said.ended.then_some(())).await;
        let said = std::mem::take(&mut *self.said());
        assert!(said.foreign.is_empty(), "{:?}", said.foreign);
        for (id, endings) in &said.endings {
            assert_eq!(endings.len(), 1, "request {id} ended more than once: {endings:#?}");
        }
        said
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(answer: &Value) -> &str {
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text came: {answer:#}"))
}

async fn lists_and_calls(era: Era) {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&[]);
    let opened = bridge.open(era).await;
    assert!(opened["result"]["capabilities"]["tools"].is_object(), "{opened:#}");

    let listed = bridge.request(era, "tools/list", &json!({})).await;
    let names = listed["result"]["tools"].as_array().expect("a list");
    assert!(names.iter().any(|tool| tool["name"] == "it__echo"), "{listed:#}");
    let said = "line\nend, \u{e9} and \u{2028}";
    assert_eq!(text(&bridge.call(era, "it__echo", &json!({"text": said})).await), said);
    let raw = r#"{"name":"it__echo_raw","arguments":{"z":123456789012345678901234567890,"a":1.10}}"#;
    bridge.ids += 1;
    let id = bridge.ids;
    bridge.send(&request_text(era, id, "tools/call", raw, false)).await;
    let expected = r#"{"z":123456789012345678901234567890,"a":1.10}"#;
    assert_eq!(text(&bridge.ending(id).await), expected);

    bridge.ids += 1;
    let id = bridge.ids;
    let slow = r#"{"name":"it__slow","arguments":{"ms":1500,"steps":3}}"#;
    bridge.send(&request_text(era, id, "tools/call", slow, true)).await;
    assert_eq!(text(&bridge.ending(id).await), "slow");
    let progress = |said: &Said| {
        let mine = |message: &&Value| message["params"]["progressToken"] == json!(id);
        said.others.iter().filter(mine).count()
    };
    assert!(progress(&bridge.said()) >= 3, "no progress came");

    bridge.send("{not json").await;
    let refused = bridge
        .until("the refusal of a line", |said| {
            said.others.iter().find(|message| message["error"].is_object()).cloned()
        })
        .await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32700)));

    let absent = bridge.call(era, "it__nothing", &json!({})).await;
    assert_eq!(absent["error"]["code"], -32602, "{absent:#}");
    bridge.close().await;
}

#[tokio::test]
async fn a_legacy_client_lists_and_calls() {
    Box::pin(lists_and_calls(Era::Legacy)).await;
}

#[tokio::test]
async fn a_modern_client_lists_and_calls() {
    Box::pin(lists_and_calls(Era::Modern)).await;
}

#[tokio::test]
async fn a_server_can_be_served_alone() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&["--server", "it"]);
    bridge.open(Era::Legacy).await;
    assert_eq!(text(&bridge.call(Era::Legacy, "echo", &json!({"text": "x"})).await), "x");
    bridge.close().await;

    let mut bridge = home.bridge(&["--server", "nobody"]);
    let answer = bridge.open(Era::Modern).await;
    let text = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(text.contains("404") && text.contains("no server of this name"), "{answer:#}");
    bridge.close().await;
}

#[tokio::test]
async fn a_question_reaches_the_client_and_its_answer_the_server() {
    let it = Upstream::start(Transport::LegacyHttp, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&[]);
    bridge.open(Era::Legacy).await;
    let params = json!({"name": "it__ask_elicit", "arguments": {}});
    let call = bridge.start(Era::Legacy, "tools/call", &params).await;
    let question = bridge
        .until("the question", |said| {
            said.others.iter().find(|message| message["method"] == "elicitation/create").cloned()
        })
        .await;
    let content = json!({"action": "accept", "content": {"name": "Ada"}});
    bridge.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": content}).to_string()).await;
    let answer = bridge.ending(call).await;
    assert!(text(&answer).contains("Ada"), "{answer:#}");
    bridge.close().await;
}

async fn takes_back(era: Era) {
    let it = Upstream::start(Transport::ModernHttp, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&[]);
    bridge.open(era).await;
    let id = bridge.start(era, "tools/call", &json!({"name": "it__hang", "arguments": {}})).await;
    it.record().until_called("hang").await;
    bridge.notify("notifications/cancelled", &json!({"requestId": id, "reason": "enough"})).await;
    eventually("the server hears of it", PATIENCE, async || it.record().took_back("hang")).await;
    // Taking back what has ended is nothing, and nothing else suffers.
    bridge.notify("notifications/cancelled", &json!({"requestId": id})).await;
    assert_eq!(text(&bridge.call(era, "it__echo", &json!({"text": "on"})).await), "on");
    let said = bridge.close().await;
    assert!(!said.endings.contains_key(&id), "{:#?}", said.endings[&id]);
}

#[tokio::test]
async fn a_legacy_client_takes_a_call_back() {
    Box::pin(takes_back(Era::Legacy)).await;
}

#[tokio::test]
async fn a_modern_client_takes_a_call_back() {
    Box::pin(takes_back(Era::Modern)).await;
}

#[tokio::test]
async fn bridges_started_at_once_start_one_daemon() {
    let home = Home::empty();
    let mut bridges: Vec<Bridge> = (0..AT_ONCE).map(|_| home.bridge(&[])).collect();
    for (number, bridge) in bridges.iter_mut().enumerate() {
        let era = if number % 2 == 0 { Era::Legacy } else { Era::Modern };
        let opened = bridge.open(era).await;
        assert!(opened["result"].is_object(), "{opened:#}");
    }
    // Those that came second end by themselves.
    eventually("one daemon is left", PATIENCE, async || home.daemons().len() == 1).await;
    assert_eq!(home.daemons(), home.daemon().into_iter().collect::<Vec<_>>());
    for bridge in bridges {
        bridge.close().await;
    }
    assert_eq!(home.daemons().len(), 1, "the daemon outlives its bridges");
}

#[tokio::test]
async fn what_lies_in_the_clients_directory_is_not_run() {
    let home = Home::empty();
    let project = home.path().join("project");
    fs::create_dir(&project).expect("a temporary directory can be written");
    let touched = project.join("touched");
    let config = format!("[servers.bad]\ncommand = \"touch\"\nargs = [{}]\n", json!(touched));
    fs::write(project.join("seawall.toml"), config).expect("a temporary directory can be written");

    let mut bridge = home.bridge_in(&project, &[]);
    bridge.open(Era::Modern).await;
    let listed = bridge.request(Era::Modern, "tools/list", &json!({})).await;
    assert_eq!(listed["result"]["tools"], json!([]), "{listed:#}");
    let daemon = home.daemon().expect("it has answered");
    let works_in = fs::read_link(format!("/proc/{daemon}/cwd")).expect("it runs");
    assert_eq!(works_in, fs::canonicalize(&home.state).expect("it is there"));
    bridge.close().await;
    assert!(!touched.exists(), "a server of the client's directory was started");
}

#[tokio::test]
async fn a_request_waits_for_a_daemon_that_somebody_else_starts() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&["--no-start"]);
    let id = bridge.start(Era::Modern, "tools/list", &json!({})).await;
    // It says what is wrong with a line at once, so by then it has read the request, too.
    bridge.send("?").await;
    bridge.until("the refusal of a line", |said| (!said.others.is_empty()).then_some(())).await;
    assert!(home.daemons().is_empty(), "it started a daemon");
    assert!(bridge.said().endings.is_empty());

    let config = home.configuration();
    let arguments = [OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()];
    let _daemon = Process::run("seawall", binary("seawall"), arguments, &[], home.path());
    let listed = bridge.ending(id).await;
    assert!(listed["result"]["tools"].is_array(), "{listed:#}");
    bridge.close().await;
}

#[tokio::test]
async fn a_bridge_ends_with_its_client_whatever_is_under_way() {
    let it = Upstream::start(Transport::ModernHttp, "it", &[], "").await;
    let home = Home::with(it.table());
    let mut bridge = home.bridge(&[]);
    let listen = json!({"notifications": {"toolsListChanged": true}});
    bridge.start(Era::Modern, "subscriptions/listen", &listen).await;
    bridge.start(Era::Modern, "tools/call", &json!({"name": "it__hang", "arguments": {}})).await;
    it.record().until_called("hang").await;
    bridge.close().await;
    eventually("the call was given up", PATIENCE, async || it.record().took_back("hang")).await;

    let mut bridge = home.bridge(&[]);
    bridge.open(Era::Legacy).await;
    let pid = bridge.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
    kill_process(pid, Signal::TERM).expect("it runs");
    let status = within("the end of the bridge", SOON, bridge.child.wait()).await;
    assert_eq!(status.expect("it can be waited for").code(), Some(0));
}

/// How a client's calls ended, by their keys: with what the tool said, or lost.
type Endings = HashMap<String, Option<String>>;

/// Makes calls through a bridge, several at a time, and counts each that has ended.
async fn call_often(home: &Home, era: Era, calls: usize, over: &Mutex<usize>, ready: &Barrier) -> Endings {
    let mut bridge = home.bridge(&[]);
    let opened = bridge.open(era).await;
    assert!(opened["result"].is_object(), "{opened:#}");
    ready.wait().await;
    let (mut under_way, mut endings) = (Vec::new(), Endings::new());
    for number in 0..calls + UNDER_WAY {
        if number < calls {
            let key = format!("{era:?}-{number}");
            let params = json!({"name": "it__count", "arguments": {"key": key}});
            under_way.push((bridge.start(era, "tools/call", &params).await, key));
        }
        if number < UNDER_WAY || under_way.is_empty() {
            continue;
        }
        let (id, key) = under_way.remove(0);
        let answer = bridge.ending(id).await;
        let fault = &answer["result"]["_meta"]["seawall/fault"];
        let said = if fault.is_null() {
            Some(text(&answer).to_owned())
        } else {
            assert_eq!(fault["code"], "OUTCOME_UNKNOWN", "{answer:#}");
            assert_eq!(fault["may_have_run"], true, "{answer:#}");
            assert!(answer["result"]["isError"] == true && text(&answer).starts_with("OUTCOME_UNKNOWN: "));
            None
        };
        endings.insert(key, said);
        *over.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }
    let said = bridge.close().await;
    assert!(said.endings.len() >= calls);
    endings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_loses_no_reply_and_repeats_no_call() {
    let (calls, kills, limit) = size();
    let it = Misbehave::http(&["--era", "modern"]).await;
    let home = Home::with(&format!("[servers.it]\nurl = {}\n", quoted(it.url())));
    let (over, ready) = (Mutex::new(0), Barrier::new(2));
    let done = || *over.lock().unwrap_or_else(PoisonError::into_inner);
    let killing = async {
        for number in 1..=kills {
            eventually("calls end", PATIENCE, async || done() >= number * calls / (kills + 1)).await;
            home.kill_daemon().await;
        }
    };
    let clients = async {
        tokio::join!(
            call_often(&home, Era::Legacy, calls / 2, &over, &ready),
            call_often(&home, Era::Modern, calls / 2, &over, &ready),
            killing
        )
    };
    let (legacy, modern, ()) = within("the calls", limit, Box::pin(clients)).await;

    let direct = Client::modern(it.url(), None);
    let mut lost = 0;
    for (key, ending) in legacy.iter().chain(&modern) {
        let now = direct.call("count", &json!({"key": key})).await;
        match ending {
            Some(said) => assert_eq!((said.as_str(), now.said()), ("1", "2"), "{key} did not run once"),
            None => {
                lost += 1;
                assert!(matches!(now.said(), "1" | "2"), "{key} ran more than once: {now:#?}");
            }
        }
    }
    assert_eq!(legacy.len() + modern.len(), calls / 2 * 2);
    note(&format!("{calls} calls, {kills} kills: {lost} ended as OUTCOME_UNKNOWN"));
    // A process that dies closes its connections one by one, and those still open take a request each.
    assert!(lost <= kills * 4 * UNDER_WAY, "{lost} calls were lost in {kills} kills");
}
