//! What the daemon adopts it reaps, and nothing else.
//!
//! A test binary of its own, since adopting is a property of the whole process.

#[path = "support/start.rs"]
mod start;

use std::path::Path;
use std::time::Duration;

use seawall_proc::{EndStep, Line, become_subreaper, reap_orphans};
use start::shell;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn only_adopted_processes_are_reaped() {
    become_subreaper().expect("Linux can");

    let mut parent = shell("setsid sleep 0.3 >/dev/null 2>&1 & echo $!");
    let line = timeout(PATIENCE, parent.stdout.next()).await.expect("in time").expect("a readable pipe");
    let Some(Line::Text(text)) = line else { panic!("expected a process number, got {line:?}") };
    let orphan: u32 = std::str::from_utf8(&text).expect("UTF-8").parse().expect("a process number");
    assert!(timeout(PATIENCE, parent.process.exited()).await.expect("it exits").success());

    // Dead and not reaped either, but somebody waits for it.
    let mut own = shell("exit 7");
    assert_eq!(own.process.exited().await.code(), Some(7));

    let entry = format!("/proc/{orphan}");
    let reap = async {
        while reap_orphans(&|_| false) == 0 {
            // Never reaped before it is dead, and gone once it is reaped.
            assert!(Path::new(&entry).exists());
            assert_eq!(reap_orphans(&|pid| pid == orphan), 0);
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, reap).await.expect("the orphan is adopted and reaped");
    assert!(!Path::new(&entry).exists());

    let ended = own.process.end(None, PATIENCE).await;
    assert_eq!((ended.step, ended.status.and_then(|status| status.code())), (EndStep::Already, Some(7)));
    let ended = parent.process.end(None, PATIENCE).await;
    assert_eq!((ended.step, ended.survivors), (EndStep::Already, 0));
}
