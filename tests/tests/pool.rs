//! How many instances of a server there are, how long each lives, and what becomes of those that will not: each key
//! of the pool has a test that fails where the key does nothing.
#![expect(clippy::disallowed_methods, reason = "tests look at processes in /proc and write small programs")]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{Answer, Client, Daemon, Transport, Upstream, binary, eventually, quoted, well};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);

/// A daemon with the server `it`, which is given these keys.
async fn with(keys: &str) -> Scene {
    with_flags(&[], keys).await
}

async fn with_flags(flags: &[&str], keys: &str) -> Scene {
    let it = Upstream::start(Transport::Stdio, "it", flags, keys).await;
    let daemon = Daemon::start(&format!("{}{}", it.table(), well())).await;
    until_listed(&daemon).await;
    Scene { daemon, _it: it }
}

/// A daemon, and the server that it starts.
struct Scene {
    daemon: Daemon,
    _it: Upstream,
}

impl Deref for Scene {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

fn client(daemon: &Daemon) -> Client {
    Client::modern(&daemon.url("/mcp"), None)
}

async fn pid(client: &Client) -> String {
    client.call("it__pid", "{}").await.said().to_owned()
}

/// Whether a process runs: one that has ended has no program any more, even before it is reaped.
fn lives(pid: &str) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

async fn until_gone(pid: &str) {
    eventually(&format!("process {pid} is gone"), SOON, async || !lives(pid)).await;
}

fn signal(pid: &str, signal: Signal) {
    let pid = pid.parse().ok().and_then(Pid::from_raw).expect("it is a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// The process ids of the instances that are in this state.
async fn pids(daemon: &Daemon, state: &str) -> Vec<String> {
    let instances = daemon.instances("it").await;
    let found = instances.iter().filter(|instance| instance["state"] == state);
    found.map(|instance| instance["pid"].to_string()).collect()
}

async fn until_spares(daemon: &Daemon, count: usize) -> Vec<String> {
    let mut spares = Vec::new();
    eventually(&format!("there are {count} spares"), SOON, async || {
        spares = pids(daemon, "spare").await;
        spares.len() == count
    })
    .await;
    spares
}

/// Waits until what is listed is known, and so the process that was started to ask for it is gone.
async fn until_listed(daemon: &Daemon) {
    eventually("the tools are known", SOON, async || client(daemon).list().await.has("it__pid")).await;
}

#[tokio::test]
async fn a_spare_is_there_before_anybody_asks_and_is_the_next_ones() {
    let daemon = with("spare = 2").await;
    let before = until_spares(&daemon, 2).await;
    let first = pid(&client(&daemon).in_conversation("first")).await;
    assert!(before.contains(&first), "{first} is none of {before:?}");
    let after = until_spares(&daemon, 2).await;
    assert!(!after.contains(&first) && after != before, "{before:?} {after:?}");
}

#[tokio::test]
async fn at_least_min_processes_run() {
    let daemon = with("min = 1\nsharing = \"everyone\"\nidle = \"200ms\"").await;
    let only = pid(&client(&daemon)).await;
    eventually("a second has passed", SOON, async || {
        daemon.instances("it").await[0]["age_ms"].as_u64().is_some_and(|age| age > 2500)
    })
    .await;
    assert_eq!(pid(&client(&daemon)).await, only, "it was ended for being idle");
    signal(&only, Signal::KILL);
    eventually("another is started", SOON, async || {
        let mut all = pids(&daemon, "spare").await;
        all.extend(pids(&daemon, "open").await);
        all.iter().any(|pid| *pid != only && lives(pid))
    })
    .await;
}

#[tokio::test]
async fn what_has_nothing_to_do_is_ended_and_what_is_at_work_is_not() {
    let daemon = with("idle = \"400ms\"").await;
    let client = client(&daemon).in_conversation("a");
    let first = pid(&client).await;
    let slow = client.call("it__sleep", r#"{"ms":2500}"#).await;
    assert_eq!(slow.said(), "sleep", "{slow:#?}");
    assert_eq!(pid(&client).await, first, "the time to be idle began before the call had ended");
    until_gone(&first).await;
    assert_ne!(pid(&client).await, first);
}

#[tokio::test]
async fn there_are_no_more_than_max_instances() {
    let daemon = with("max = 1").await;
    let first = Client::legacy(&daemon.url("/mcp"), None).await;
    let used = pid(&first).await;
    let second = client(&daemon).in_conversation("second");
    let refused = second.call("it__pid", "{}").await;
    assert_eq!(refused.code(), "OVER_CAPACITY", "{refused:#?}");
    assert!(refused.complaint().contains("`max`"), "{refused:#?}");
    assert!(refused.fault()["retry_after_ms"].is_u64(), "it is not told when to come back: {refused:#?}");
    assert_eq!(pid(&first).await, used);
    first.delete().await;
    eventually("there is room again", SOON, async || second.call("it__pid", "{}").await.succeeded()).await;
}

#[tokio::test]
async fn calls_that_each_have_an_instance_wait_for_one_of_max() {
    let daemon = with("max = 1\nsharing = \"call\"").await;
    let client = client(&daemon);
    let calls: Vec<_> = (0..3).map(|_| client.start_call("it__pid", "{}")).collect();
    let mut pids = Vec::new();
    for call in calls {
        pids.push(call.answer().await.said().to_owned());
    }
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
}

#[tokio::test]
async fn an_instance_is_replaced_at_its_age_and_finishes_its_calls() {
    let daemon = with("max_age = \"1s\"\nsharing = \"everyone\"").await;
    let client = client(&daemon);
    let first = pid(&client).await;
    let slow = client.start_call("it__sleep", r#"{"ms":3000}"#);
    let mut second = first.clone();
    eventually("another instance takes calls", SOON, async || {
        second = pid(&client).await;
        second != first
    })
    .await;
    assert!(!slow.is_over() && lives(&first), "the old one was ended with a call under way");
    assert_eq!(slow.answer().await.said(), "sleep");
    until_gone(&first).await;
}

#[tokio::test]
async fn an_instance_that_grows_too_large_is_replaced() {
    // Whatever a process needs at least is more than this.
    let daemon = with("max_rss = \"64KiB\"\nsharing = \"everyone\"").await;
    let client = client(&daemon);
    let first = pid(&client).await;
    until_gone(&first).await;
    assert_ne!(pid(&client).await, first);
    let failure = daemon.status().await["upstreams"][0]["last_failure"]["message"].to_string();
    assert!(failure.contains("max_rss"), "{failure}");
}

#[tokio::test]
async fn what_is_small_enough_stays() {
    let daemon = with("max_rss = \"1GiB\"\nsharing = \"everyone\"").await;
    let client = client(&daemon);
    let first = pid(&client).await;
    eventually("it was looked at", SOON, async || {
        daemon.instances("it").await[0]["age_ms"].as_u64().is_some_and(|age| age > 6000)
    })
    .await;
    assert_eq!(pid(&client).await, first);
}

#[tokio::test]
async fn a_stop_command_is_run_before_the_process_is_told_to_end() {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let mark = directory.path().join("stopped");
    let mark = mark.to_str().expect("temporary paths are UTF-8");
    let keys = format!("sharing = \"everyone\"\nstop = [\"touch\", {}]", quoted(mark));
    let mut daemon = with_flags(&["--ignore-eof", "--ignore-term"], &keys).await;
    let first = pid(&client(&daemon)).await;
    assert!(!Path::new(mark).exists());
    daemon.restart("it").await;
    eventually("the stop command has run", SOON, async || Path::new(mark).exists()).await;
    until_gone(&first).await;
    // What took its place is as stubborn, and a daemon that is killed would leave it.
    daemon.signal(Signal::TERM);
    daemon.ended().await;
}

#[tokio::test]
async fn all_servers_together_have_no_more_processes_than_may_be() {
    let one = Upstream::start(Transport::Stdio, "one", &[], "").await;
    let two = Upstream::start(Transport::Stdio, "two", &[], "").await;
    let config = format!("[limits]\nprocesses = 1\n{}{}", one.table(), two.table());
    let daemon = Daemon::start(&config).await;
    let client = client(&daemon).in_conversation("a");
    // The processes that were started to ask what the servers offer come and go first.
    let mut last: Option<Answer> = None;
    eventually("one has the only process", SOON, async || {
        let answer = client.call("one__pid", "{}").await;
        let said = answer.succeeded();
        last = Some(answer);
        said && daemon.status().await["children"] == 1
    })
    .await;
    let refused = client.call("two__pid", "{}").await;
    assert_eq!(refused.code(), "OVER_CAPACITY", "{refused:#?} {last:#?}");
    assert!(refused.complaint().contains("limits.processes"), "{refused:#?}");
}

/// A program that runs these lines of shell.
fn program(directory: &TempDir, name: &str, lines: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("a temporary directory can be written");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is our file");
    path.into_os_string().into_string().expect("temporary paths are UTF-8")
}

#[tokio::test]
async fn a_server_that_will_not_stay_up_is_left_alone_and_says_until_when() {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let tries = directory.path().join("tries");
    let command = program(&directory, "broken", &format!("echo >> {}\nexit 3", tries.display()));
    let daemon = Daemon::start(&format!("[servers.it]\ncommand = {}\n{}", quoted(&command), well())).await;
    let own = Client::modern(&daemon.url("/mcp/it"), None);
    let began = Instant::now();
    let mut refused = own.call("x", "{}").await;
    for _ in 0..60 {
        refused = own.call("x", "{}").await;
        assert_eq!(refused.code(), "UPSTREAM_UNAVAILABLE", "{refused:#?}");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "calls waited: {:?}", began.elapsed());
    assert!(refused.complaint().contains("tried again"), "{refused:#?}");
    assert!(refused.fault()["retry_after_ms"].as_u64().is_some(), "{refused:#?}");
    let tried = fs::read_to_string(&tries).expect("it was tried").lines().count();
    assert!(tried <= 24, "it was started {tried} times");
    let status = daemon.status().await;
    assert_eq!(status["upstreams"][0]["state"], "left alone", "{status:#}");
    assert!(status["upstreams"][0]["left_alone"]["times"].as_u64() > Some(5), "{status:#}");
    // Whoever has mended it need not wait.
    daemon.restart("it").await;
    eventually("it is tried at once", SOON, async || {
        fs::read_to_string(&tries).expect("it was tried").lines().count() > tried
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_left_alone_is_everybodys_again_once_it_is_mended() {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let mended = directory.path().join("mended");
    let misbehave = binary("misbehave");
    let lines = format!("test -e {} || exit 3\nexec {} --stdio", mended.display(), misbehave.display());
    let command = quoted(&program(&directory, "broken", &lines));
    let daemon = Daemon::start(&format!("[servers.it]\ncommand = {command}\n{}", well())).await;
    let client = client(&daemon);
    let own = Client::modern(&daemon.url("/mcp/it"), None);
    eventually("it is left alone", SOON, async || {
        own.call("pid", "{}").await;
        daemon.status().await["upstreams"][0]["state"] == "left alone"
    })
    .await;
    fs::write(&mended, "").expect("a temporary directory can be written");
    eventually("it is tried again", Duration::from_secs(30), async || {
        own.call("pid", "{}").await.succeeded()
    })
    .await;
    for name in ["a", "b", "c"] {
        let answer = client.in_conversation(name).call("it__pid", "{}").await;
        assert!(answer.succeeded(), "{answer:#?}");
    }
    assert!(daemon.status().await["upstreams"][0]["left_alone"].is_null());
}

#[tokio::test]
async fn first_launches_of_one_package_take_turns() {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (turn, overlaps, launches) = (at("turn"), at("overlaps"), at("launches"));
    let lines = format!(
        "echo >> {launches}\nmkdir {turn} 2>/dev/null || echo >> {overlaps}\nsleep 0.3\nrmdir {turn}\nexec {} --stdio",
        binary("misbehave").display()
    );
    let command = quoted(&program(&directory, "npx", &lines));
    let servers: String = (0..4)
        .map(|number| format!("[servers.s{number}]\ncommand = {command}\nargs = [\"-y\", \"package\"]\n"))
        .collect();
    let daemon = Daemon::start(&servers).await;
    let client = client(&daemon);
    eventually("all four are known", Duration::from_secs(20), async || {
        let listing = client.list().await;
        (0..4).all(|number| listing.has(&format!("s{number}__echo")))
    })
    .await;
    assert!(fs::read_to_string(&launches).expect("it was launched").lines().count() >= 4);
    // Once it has been up nobody waits, so only those that began together count: the first two.
    let overlaps = fs::read_to_string(&overlaps).unwrap_or_default().lines().count();
    assert!(overlaps <= 2, "{overlaps} launches met another before the package had been up once");
}

#[tokio::test]
async fn a_hung_process_is_replaced_and_then_ended() {
    let daemon = with("timeout = \"1s\"\nsharing = \"everyone\"").await;
    let client = client(&daemon);
    let hung = pid(&client).await;
    signal(&hung, Signal::STOP);
    let lost = client.call("it__echo", r#"{"text":"x"}"#).await;
    assert_eq!(lost.code(), "TIMEOUT", "{lost:#?}");
    let mut other = String::new();
    eventually("another process answers", Duration::from_secs(20), async || {
        let answer = client.call("it__pid", "{}").await;
        other = answer.value["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        answer.succeeded()
    })
    .await;
    assert_ne!(other, hung);
    until_gone(&hung).await;
}

#[tokio::test]
async fn a_busy_process_is_not_a_hung_one() {
    let daemon = with("timeout = \"1s\"\nsharing = \"everyone\"").await;
    let client = client(&daemon);
    let busy = pid(&client).await;
    signal(&busy, Signal::STOP);
    let lost = client.call("it__echo", r#"{"text":"x"}"#).await;
    assert_eq!(lost.code(), "TIMEOUT", "{lost:#?}");
    signal(&busy, Signal::CONT);
    eventually("it answers again", SOON, async || pid(&client).await == busy).await;
    // Longer than a process in doubt is given.
    eventually("it is still there", SOON, async || {
        daemon.instances("it").await[0]["age_ms"].as_u64().is_some_and(|age| age > 8000)
    })
    .await;
    assert_eq!(pid(&client).await, busy);
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_ended_by_the_next() {
    let mut daemon = with_flags(&["--ignore-eof"], "sharing = \"everyone\"").await;
    let left = pid(&client(&daemon)).await;
    eventually("the ledger has it", SOON, async || {
        // It is written within a moment; the answer of a second call comes after it.
        pid(&client(&daemon)).await == left
            && daemon.instances("it").await[0]["age_ms"].as_u64().is_some_and(|age| age > 500)
    })
    .await;
    daemon.signal(Signal::KILL);
    daemon.ended().await;
    assert!(lives(&left), "it ended with its daemon, so this shows nothing");
    daemon.start_again().await;
    until_gone(&left).await;
    assert_ne!(pid(&client(&daemon)).await, left);
}

#[tokio::test]
async fn a_disabled_server_is_gone_until_it_is_enabled_also_across_a_restart() {
    let mut daemon = with("sharing = \"everyone\"").await;
    let used = pid(&client(&daemon)).await;
    let said = daemon.switch("it", false).await;
    assert_eq!(said, json!({"enabled": false, "changed": true, "kept": true}));
    until_gone(&used).await;
    for _ in 0..2 {
        let listing = client(&daemon).list().await;
        assert!(!listing.names.iter().any(|name| name.starts_with("it__")), "{listing:#?}");
        client(&daemon).call("it__pid", "{}").await.assert_unknown_tool();
        assert_eq!(daemon.status().await["upstreams"][0]["state"], "disabled");
        daemon.kill_and_start_again().await;
        eventually("the other is known", SOON, async || client(&daemon).list().await.has("well__echo")).await;
    }
    assert_eq!(daemon.switch("it", false).await["changed"], Value::Bool(false));
    assert_eq!(daemon.switch("it", true).await["changed"], Value::Bool(true));
    until_listed(&daemon).await;
    assert_ne!(pid(&client(&daemon)).await, used);
}
