//! Who cannot be seen is not taken for gone.
//!
//! A test binary of its own, since the limit on open files is a property of the whole process.
#![expect(clippy::disallowed_methods, reason = "tests read /proc themselves")]

#[path = "support/look.rs"]
mod look;
#[path = "support/start.rs"]
mod start;

use std::time::Duration;

use look::lives;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seawall_proc::{Line, become_subreaper, reap_orphans};
use start::shell;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing can be seen: shorter than the end may take.
const BLIND: Duration = Duration::from_millis(300);
const GRACE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn who_cannot_be_seen_is_not_taken_for_gone() {
    become_subreaper().expect("Linux can");
    // It ends with its stdin, and leaves behind one that left its session.
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; cat >/dev/null";
    let mut child = shell(script);
    let line = timeout(PATIENCE, child.stdout.next()).await.expect("in time").expect("a readable pipe");
    let Some(Line::Text(text)) = line else { panic!("expected a process number, got {line:?}") };
    let stray: u32 = std::str::from_utf8(&text).expect("UTF-8").parse().expect("a process number");
    let sleeps = async {
        while !std::fs::read(format!("/proc/{stray}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep")) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, sleeps).await.expect("it runs");

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: limit.maximum }).expect("it is lower");
    assert_eq!(reap_orphans(&|_| false), 0);
    assert_eq!(child.process.resident_bytes().await, 0);
    let end = child.process.end(Some(child.stdin), GRACE);
    let see_again = async {
        sleep(BLIND).await;
        setrlimit(Resource::Nofile, limit).expect("up to the hard limit is always allowed");
    };
    let (ended, ()) = tokio::join!(end, see_again);
    assert_eq!(ended.survivors, 0);
    assert!(!lives(stray));
}
