//! Whole trees of processes: what a daemon left behind, what hides, what it weighs, and who else can end it.
#![expect(clippy::disallowed_methods, reason = "tests read /proc, and start a daemon to kill it")]

#[path = "support/look.rs"]
mod look;
#[path = "support/start.rs"]
mod start;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use look::{lives, stat};
use seawall_proc::{
    EndStep, Identity, Line, Lines, MARK, RunError, become_subreaper, end_leftover, reap_orphans, run, spawn,
};
use start::{command, shell};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::time::{Instant, sleep, timeout};

const GRACE: Duration = Duration::from_millis(300);
/// Long enough for a stop command to run.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a daemon that is to be killed runs, as its one child.
const SCRIPT: &str = "SCRIPT_OF_A_DAEMON_TO_BE_KILLED";

async fn pid(lines: &mut Lines) -> u32 {
    match timeout(PATIENCE, lines.next()).await.expect("a line in time").expect("a readable pipe") {
        Some(Line::Text(text)) => {
            std::str::from_utf8(&text).expect("UTF-8").parse().expect("a process number")
        }
        other => panic!("expected a line, got {other:?}"),
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Not a test by itself: the daemon that other tests start, in a process of its own, and kill.
#[tokio::test]
async fn a_daemon_to_be_killed() {
    let Some(script) = std::env::var_os(SCRIPT) else { return };
    let mut arguments = command("sh", &["-c"]);
    arguments.args.push(script);
    let mut child = spawn(&arguments).expect("sh starts");
    eprintln!("{}", child.process.identity());
    while let Ok(Some(Line::Text(text))) = child.stdout.next().await {
        eprintln!("{}", String::from_utf8_lossy(&text));
    }
    std::future::pending().await
}

/// A daemon that has one child.
struct Daemon {
    process: tokio::process::Child,
    said: tokio::io::Lines<BufReader<ChildStderr>>,
    child: Identity,
}

impl Daemon {
    async fn start(script: &str) -> Self {
        let mut process =
            tokio::process::Command::new(std::env::current_exe().expect("this test is a program"))
                .args(["--exact", "a_daemon_to_be_killed", "--nocapture"])
                .env(SCRIPT, script)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("this test can be run");
        let mut said = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let child = next(&mut said).await.parse().expect("an identity");
        Self { process, said, child }
    }

    /// The number that the script says next.
    async fn pid(&mut self) -> u32 {
        next(&mut self.said).await.parse().expect("a process number")
    }

    /// Kills the daemon, and returns what names its child.
    async fn kill(mut self) -> Identity {
        self.process.kill().await.expect("it runs");
        self.child
    }
}

async fn next(said: &mut tokio::io::Lines<BufReader<ChildStderr>>) -> String {
    let line = timeout(PATIENCE, said.next_line()).await.expect("a line in time");
    line.expect("a readable pipe").expect("more lines")
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_ended() {
    let script = "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait";
    let mut daemon = Daemon::start(script).await;
    let (far, near) = (daemon.pid().await, daemon.pid().await);
    let left = daemon.kill().await;
    assert!(lives(left.pid) && lives(far) && lives(near));

    let ended = end_leftover(&left, PATIENCE).await.expect("something was left");
    assert_eq!((ended.step, ended.survivors), (EndStep::Terminate, 0));
    assert!(!lives(left.pid) && !lives(far) && !lives(near));
    assert_eq!(end_leftover(&left, GRACE).await, None, "nothing is left any more");
}

#[tokio::test]
async fn a_leftover_that_ignores_termination_is_killed() {
    let mut daemon = Daemon::start("trap '' TERM; echo $$; while :; do sleep 1; done").await;
    let child = daemon.pid().await;
    let left = daemon.kill().await;
    let ended = end_leftover(&left, GRACE).await.expect("something was left");
    assert_eq!((ended.step, ended.survivors), (EndStep::Kill, 0));
    assert!(!lives(child));
}

#[tokio::test]
async fn what_is_left_is_found_when_the_child_itself_is_gone() {
    become_subreaper().expect("Linux can");
    // One that left the session, one that stayed, and one that stayed and does not carry the mark.
    let script = format!(
        "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; env -u {MARK} sleep 1000 & echo $!; exit 0"
    );
    let mut daemon = Daemon::start(&script).await;
    let all = [daemon.pid().await, daemon.pid().await, daemon.pid().await];
    // The programs have to run: before that, the environment is the shell's.
    for pid in all {
        eventually("it sleeps", || {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
        })
        .await;
    }
    let left = daemon.kill().await;
    eventually("the child is reaped", || {
        reap_orphans(&|pid| pid != left.pid);
        stat(left.pid).is_none()
    })
    .await;
    assert!(all.into_iter().all(lives));

    let ended = end_leftover(&left, PATIENCE).await.expect("something was left");
    assert_eq!((ended.step, ended.survivors), (EndStep::Terminate, 0));
    assert!(!all.into_iter().any(lives));
}

#[tokio::test]
async fn another_process_with_the_number_is_no_leftover() {
    let mut daemon = Daemon::start("sleep 1000 & echo $!; wait").await;
    let grandchild = daemon.pid().await;
    let left = daemon.kill().await;
    let unknown = "0".repeat(32);
    let strangers = [
        Identity { started: left.started + 1, mark: unknown.clone(), ..left.clone() },
        Identity { started: left.started - 1, mark: unknown.clone(), ..left.clone() },
        Identity { started: 0, ..left.clone() },
        Identity { boot: "another".to_owned(), ..left.clone() },
        Identity { boot: String::new(), ..left.clone() },
        Identity { pid: std::process::id(), mark: unknown, ..left.clone() },
        // Known by no mark: whoever has none, or a bad one, would be meant.
        Identity { mark: String::new(), ..left.clone() },
        Identity { mark: ".".to_owned(), ..left.clone() },
        Identity { pid: 0, started: 1, mark: ".".to_owned(), ..left.clone() },
    ];
    for stranger in strangers {
        assert_eq!(end_leftover(&stranger, GRACE).await, None, "{stranger}");
    }
    assert!(lives(left.pid) && lives(grandchild));

    assert!(end_leftover(&left, PATIENCE).await.is_some());
    assert!(!lives(left.pid) && !lives(grandchild));
}

#[tokio::test]
async fn a_child_of_this_daemon_is_no_leftover() {
    let child = spawn(&command("cat", &[])).expect("cat starts");
    let identity = child.process.identity();
    assert_eq!((identity.pid, identity.started), (child.process.id(), child.process.started()));
    assert_eq!(end_leftover(&identity, GRACE).await, None);
    assert!(lives(identity.pid));
}

#[tokio::test]
async fn who_detached_itself_before_anybody_looked_is_ended_too() {
    become_subreaper().expect("Linux can");
    let mut child = shell("(setsid sh -c 'sleep 1000 >/dev/null & echo $!; exec true'); cat >/dev/null");
    let stray = pid(&mut child.stdout).await;
    // Its parent led its session, and has ended.
    let leader: u32 = stat(stray).expect("it lives")[3].parse().expect("a session");
    eventually("its parent is gone", || !lives(leader)).await;
    let ended = child.process.end(Some(child.stdin), PATIENCE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Eof, 0));
    assert!(!lives(stray));
}

/// The name of the control group (version 2) that a process is in.
fn group_of(process: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

#[tokio::test]
async fn a_control_group_holds_whoever_hides_otherwise() {
    // No mark, a session of its own, and no parent.
    let script = "(setsid env -i /bin/sh -c '/bin/sleep 1000 >/dev/null & echo $!; exec /bin/true'); \
        cat >/dev/null";
    let mut child = shell(script);
    let stray = pid(&mut child.stdout).await;
    let leader: u32 = stat(stray).expect("it lives")[3].parse().expect("a session");
    eventually("its parent is gone", || !lives(leader)).await;

    let Identity { pid, mark, .. } = child.process.identity();
    let (own, group) = (group_of("self"), group_of(&pid.to_string()));
    let ended = child.process.end(Some(child.stdin), PATIENCE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Eof, 0));
    if group == own {
        // None can be made here, and then nothing tells this one from a stranger.
        assert!(lives(stray));
        run(&command("sh", &["-c", "kill -9 $0", &stray.to_string()]), PATIENCE)
            .await
            .expect("it can be killed");
    } else {
        let group = group.expect("it is in one");
        assert!(group.ends_with(&format!("/seawall-{}-{mark}", std::process::id())), "{group}");
        eventually("the group is removed", || {
            // Where it cannot be removed at once, it is with the next orphans.
            reap_orphans(&|_| true);
            !["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                .iter()
                .any(|mount| Path::new(&format!("{mount}{group}")).exists())
        })
        .await;
    }
    eventually("it is dead", || !lives(stray)).await;
}

#[tokio::test]
async fn the_stop_command_ends_what_end_of_file_does_not() {
    let mut child = spawn(&command("sleep", &["1000"])).expect("sleep starts");
    let kill =
        command("sh", &["-c", "echo loud; echo loud >&2; kill -9 $0", &child.process.id().to_string()]);
    child.process.stop_with(kill);
    let ended = child.process.end(Some(child.stdin), STOP_GRACE).await;
    assert_eq!((ended.step, ended.survivors, ended.stop), (EndStep::Stop, 0, Some(Ok(()))));
}

#[tokio::test]
async fn the_stop_command_runs_for_a_child_that_has_ended() {
    let witness = std::env::temp_dir().join(format!("seawall-stop-{}", std::process::id()));
    let mut child = shell("exit 0");
    child.process.exited().await;
    child.process.stop_with(command("mkdir", &[witness.to_str().expect("UTF-8")]));
    let ended = child.process.end(None, PATIENCE).await;
    assert_eq!((ended.step, ended.stop), (EndStep::Already, Some(Ok(()))));
    std::fs::remove_dir(&witness).expect("the stop command made it");
}

#[tokio::test]
async fn a_stop_command_that_fails_does_not_stop_the_ladder() {
    let cases: [(&str, &[&str]); 3] =
        [("false", &[]), ("sleep", &["1000"]), ("seawall-no-such-program", &[])];
    for (program, args) in cases {
        let mut child = spawn(&command("sleep", &["1000"])).expect("sleep starts");
        child.process.stop_with(command(program, args));
        let ended = child.process.end(Some(child.stdin), STOP_GRACE).await;
        assert_eq!((ended.step, ended.survivors), (EndStep::Terminate, 0), "{program}");
        let error = ended.stop.expect("it has one").expect_err("it failed");
        match program {
            "false" => {
                assert!(matches!(error, RunError::Failed(status) if status.code() == Some(1)), "{error}")
            }
            "sleep" => assert_eq!(error, RunError::Late(STOP_GRACE)),
            _ => assert!(matches!(&error, RunError::Start(why) if why.contains(program)), "{error}"),
        }
    }
}

#[tokio::test]
async fn the_memory_of_a_tree_is_that_of_all_in_it() {
    const HELD: u64 = 60_000_000;
    // It keeps what it has read until the end of file.
    let script = format!("{{ head -c {HELD} /dev/zero; sleep 1000; }} | tail -c {HELD} | cat >/dev/null");
    let mut child = shell(&script);
    let reads_all = async {
        while child.process.resident_bytes().await <= HELD {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reads_all).await.expect("the grandchild reads it all in time");
    child.process.kill();
    child.process.exited().await;
    let is_freed = async {
        while child.process.resident_bytes().await > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, is_freed).await.expect("nobody holds it any more");
}
