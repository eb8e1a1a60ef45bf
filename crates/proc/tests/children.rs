//! Real children: how they start, talk, misbehave and end.
#![expect(clippy::disallowed_methods, reason = "tests read /proc and run the draining on a task")]

#[path = "support/look.rs"]
mod look;
#[path = "support/start.rs"]
mod start;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use look::{lives, stat};
use seawall_proc::{Child, EndStep, Line, Lines, MARK, SpawnErrorKind, spawn};
use start::{command, shell};
use tokio::time::{Instant, sleep, timeout};

const GRACE: Duration = Duration::from_millis(300);
/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn line(lines: &mut Lines) -> String {
    let line = timeout(PATIENCE, lines.next()).await.expect("a line in time").expect("a readable pipe");
    match line {
        Some(Line::Text(text)) => String::from_utf8(text.to_vec()).expect("UTF-8"),
        other => panic!("expected a line, got {other:?}"),
    }
}

async fn pid(lines: &mut Lines) -> u32 {
    line(lines).await.parse().expect("a process number")
}

async fn dies(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} still lives");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_child_answers_and_obeys_end_of_file() {
    let Child { process, mut stdin, mut stdout, stderr: _stderr } =
        spawn(&command("cat", &[])).expect("cat starts");
    let id = process.id();
    stdin.write(b"one\ntwo\n").await.expect("cat reads");
    assert_eq!(line(&mut stdout).await, "one");
    assert_eq!(line(&mut stdout).await, "two");

    let ended = process.end(Some(stdin), PATIENCE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Eof, 0));
    assert!(ended.status.expect("reaped").success());
    assert_eq!(stat(id), None);
    assert_eq!(stdout.next().await.expect("a readable pipe"), None);
}

#[tokio::test]
async fn a_child_that_ignores_end_of_file_is_terminated() {
    let child = spawn(&command("sleep", &["1000"])).expect("sleep starts");
    let ended = child.process.end(Some(child.stdin), GRACE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Terminate, 0));
    assert_eq!(ended.status.expect("reaped").signal(), Some(15));
}

#[tokio::test]
async fn a_child_that_ignores_termination_is_killed_with_its_children() {
    let mut child = shell("trap '' TERM; sleep 1000 & echo $!; while :; do sleep 1; done");
    let grandchild = pid(&mut child.stdout).await;
    let ended = child.process.end(Some(child.stdin), GRACE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Kill, 0));
    assert_eq!(ended.status.expect("reaped").signal(), Some(9));
    assert!(!lives(grandchild));
}

#[tokio::test]
async fn a_grandchild_in_another_session_dies_too() {
    let mut child = shell("setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait");
    let grandchild = pid(&mut child.stdout).await;
    assert_ne!(stat(grandchild).expect("it lives")[3], child.process.id().to_string(), "it left the session");
    let ended = child.process.end(Some(child.stdin), GRACE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Terminate, 0));
    assert!(!lives(grandchild));
}

#[tokio::test]
async fn what_an_obedient_child_leaves_behind_is_swept() {
    // The shell ends with its stdin; both of its children would live on, one of them in a session of its own.
    let mut child = shell("setsid sleep 1000 & echo $!; sleep 1000 & echo $!; cat >/dev/null");
    let (far, near) = (pid(&mut child.stdout).await, pid(&mut child.stdout).await);
    // `setsid` has run once the session is its own; ending before that would test less.
    while stat(far).is_some_and(|fields| fields[3] != far.to_string()) {
        sleep(Duration::from_millis(5)).await;
    }
    let ended = child.process.end(Some(child.stdin), PATIENCE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Eof, 0));
    assert!(!lives(far) && !lives(near));
}

#[tokio::test]
async fn exit_follows_the_process_and_not_the_pipe() {
    let mut child = shell("sleep 1000 & echo $!; exit 3");
    let grandchild = pid(&mut child.stdout).await;
    // A wait given up early costs nothing.
    let _ = timeout(Duration::ZERO, child.process.exited()).await;
    let status = timeout(PATIENCE, child.process.exited()).await.expect("the shell ends");
    assert_eq!(status.code(), Some(3));
    assert_eq!(child.process.exited().await, status, "the answer stays the same");
    assert!(lives(grandchild));
    // The grandchild holds the pipe: no end of file.
    assert!(timeout(Duration::from_millis(50), child.stdout.next()).await.is_err());

    let ended = child.process.end(None, GRACE).await;
    assert_eq!((ended.step, ended.status, ended.survivors), (EndStep::Already, Some(status), 0));
    assert!(!lives(grandchild));
}

#[tokio::test]
async fn kill_and_drop_take_the_whole_tree() {
    let script = "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait";
    for explicit in [true, false] {
        let Child { mut process, stdin: _stdin, mut stdout, stderr: _stderr } = shell(script);
        let all = [process.id(), pid(&mut stdout).await, pid(&mut stdout).await];
        if explicit {
            process.kill();
            let status = timeout(PATIENCE, process.exited()).await.expect("it is killed");
            assert_eq!(status.signal(), Some(9));
        }
        drop(process);
        for pid in all {
            dies(pid).await;
        }
    }
}

#[tokio::test]
async fn a_dropped_ending_kills() {
    let mut child = shell("trap '' TERM; echo ready; while :; do sleep 1; done");
    assert_eq!(line(&mut child.stdout).await, "ready");
    let id = child.process.id();
    let ending = child.process.end(Some(child.stdin), PATIENCE);
    assert!(timeout(Duration::from_millis(20), ending).await.is_err());
    dies(id).await;
}

#[tokio::test]
async fn a_flood_on_stderr_neither_blocks_nor_grows() {
    let script = "head -c 10485760 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2; echo done";
    let Child { mut process, stdin, mut stdout, stderr } = shell(script);
    let tail = stderr.tail();
    let draining = tokio::spawn(stderr.drain());
    assert_eq!(line(&mut stdout).await, "done");
    assert!(process.exited().await.success());
    timeout(PATIENCE, draining).await.expect("end of file").expect("no panic");

    let lines = tail.lines(100);
    assert_eq!(lines.last().map(String::as_str), Some("last"));
    assert!(lines.concat().len() <= 4096);
    assert_eq!(tail.since(1), (vec!["last".to_owned()], 2));
    assert_eq!(process.end(Some(stdin), GRACE).await.step, EndStep::Already);
}

#[tokio::test]
async fn a_line_over_the_limit_is_reported_and_skipped() {
    let mut child = shell("head -c 1000000 /dev/zero | tr '\\0' x; echo; printf 'next\\r\\n'");
    let first = timeout(PATIENCE, child.stdout.next()).await.expect("in time").expect("a readable pipe");
    assert_eq!(first, Some(Line::TooLong { bytes: 1_000_000 }));
    assert_eq!(line(&mut child.stdout).await, "next");
}

#[tokio::test]
async fn writing_to_a_child_that_is_gone_is_an_error() {
    let mut child = spawn(&command("true", &[])).expect("true starts");
    child.process.exited().await;
    let refused = async {
        loop {
            // Another test's child may hold the reading end for the moment between its fork and its exec.
            match child.stdin.write(b"anybody?\n").await {
                Ok(()) => sleep(Duration::from_millis(5)).await,
                Err(error) => return error,
            }
        }
    };
    let error = timeout(PATIENCE, refused).await.expect("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_child_starts_clean() {
    let mut plain = command("env", &[]);
    plain.program = "/usr/bin/env".into();
    plain.environment = vec![("ONLY".into(), "this".into())];
    plain.directory = Some("/".into());
    let mut child = spawn(&plain).expect("env starts");
    assert_eq!(line(&mut child.stdout).await, "ONLY=this");
    let mark = child.process.identity().mark;
    assert_eq!(line(&mut child.stdout).await, format!("{MARK}={mark}"));
    assert_eq!(child.stdout.next().await.expect("a readable pipe"), None);

    // This process ignores SIGPIPE, as every Rust program does; its children must not.
    let arguments = ["-E", "^Sig(Blk|Ign):", "/proc/self/status"];
    let mut child = spawn(&command("grep", &arguments)).expect("grep starts");
    for name in ["SigBlk", "SigIgn"] {
        let line = line(&mut child.stdout).await;
        let mask = line.strip_prefix(&format!("{name}:\t")).expect("one line for each");
        let mask = u64::from_str_radix(mask, 16).expect("a mask in hex");
        // The C library keeps signals from 32 on for itself.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }

    let mut rooted = command("pwd", &[]);
    rooted.directory = Some("/".into());
    let mut child = spawn(&rooted).expect("pwd starts");
    assert_eq!(line(&mut child.stdout).await, "/");
}

#[tokio::test]
async fn a_child_leads_its_own_session() {
    let child = spawn(&command("cat", &[])).expect("cat starts");
    let id = child.process.id();
    let fields = stat(id).expect("it lives");
    assert_eq!((&fields[2], &fields[3]), (&id.to_string(), &id.to_string()), "group and session");
    assert_eq!(fields[19], child.process.started().to_string());
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let error = spawn(&command("seawall-no-such-program", &[])).expect_err("it does not exist");
    assert_eq!(error.kind, SpawnErrorKind::NotFound);
    assert!(error.to_string().contains("seawall-no-such-program"), "{error}");
    assert!(error.to_string().contains("not found on PATH"), "{error}");

    let error = spawn(&command("/etc/passwd", &[])).expect_err("it is no program");
    assert_eq!(error.kind, SpawnErrorKind::NotExecutable);

    let mut lost = command("cat", &[]);
    lost.directory = Some("/no/such/directory".into());
    assert_eq!(spawn(&lost).expect_err("no directory").kind, SpawnErrorKind::Directory);

    let error = spawn(&command("cat", &["a\0b"])).expect_err("a NUL byte");
    assert_eq!(error.kind, SpawnErrorKind::Invalid);
}

#[tokio::test]
async fn the_parts_can_live_on_tasks() {
    fn on_a_task<T: Send + 'static>(_: &T) {}
    let Child { process, stdin, stdout, stderr } = spawn(&command("cat", &[])).expect("cat starts");
    on_a_task(&stdout);
    on_a_task(&stderr);
    let ending = tokio::spawn(process.end(Some(stdin), PATIENCE));
    assert_eq!(ending.await.expect("no panic").step, EndStep::Eof);
}
