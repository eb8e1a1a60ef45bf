//! The daemon's open-file limit is its own.
//!
//! A test binary of its own, since the limit is a property of the whole process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seawall_proc::{Command, Line, inherited_environment, raise_open_files, spawn};

#[tokio::test]
async fn children_get_the_limit_the_daemon_started_with() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum }).expect("lowering is always allowed");

    let (before, after) = raise_open_files().expect("up to the hard limit is always allowed");
    assert_eq!((before, after), (300, maximum.unwrap_or(u64::MAX)));
    assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    // A second time there is nothing to raise, and what was remembered stays.
    assert_eq!(raise_open_files().expect("nothing to do"), (after, after));

    let command = Command {
        program: "sh".into(),
        args: vec!["-c".into(), "ulimit -Sn; ulimit -Hn".into()],
        environment: inherited_environment(),
        directory: None,
        max_line: 1024,
        stderr_ring: 1024,
    };
    let mut child = spawn(&command).expect("sh starts");
    let mut line = async || match child.stdout.next().await.expect("a readable pipe") {
        Some(Line::Text(text)) => String::from_utf8(text.to_vec()).expect("UTF-8"),
        other => panic!("expected a line, got {other:?}"),
    };
    assert_eq!(line().await, "300");
    assert_eq!(line().await, maximum.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string()));
}
