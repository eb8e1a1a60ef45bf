//! How many instances a server has, how it is reached, and what is refused of that.

use super::*;

#[test]
fn every_key_of_a_pool_has_an_effect() {
    let upstream = server(
        r#"
        command = "x"
        min = 1
        max = 4
        spare = 2
        idle = "5m"
        max_age = "2h"
        max_rss = "512MiB"
        stop = ["docker", "stop", "x"]
        pin = true
        result_limit = "8KiB"
        "#,
    );
    let pool = Pool {
        min: 1,
        max: NonZeroUsize::new(4),
        spare: 2,
        idle: Some(Duration::from_secs(300)),
        max_age: Some(Duration::from_secs(7200)),
        max_rss: Some(512 << 20),
        stop: ["docker", "stop", "x"].map(str::to_owned).into(),
    };
    assert_eq!(upstream.pool, pool);
    assert!(upstream.pin);
    assert_eq!(upstream.result_limit, Some(8 << 10));
    let plain = server("command = \"x\"");
    assert_eq!((plain.pool, plain.pin, plain.result_limit), (Pool::default(), false, None));
}

#[test]
fn what_fits_no_pool_is_refused() {
    for (line, key, word) in [
        ("min = 3\nmax = 2", "max", "`min` = 3"),
        ("spare = 3\nmax = 2", "max", "`spare` = 3"),
        ("max = 0", "max", "1 or more"),
        ("idle = \"0s\"", "idle", "no time"),
        ("max_rss = 0", "max_rss", "nothing"),
        ("stop = []", "stop", "names no program"),
    ] {
        let found = faults(&format!("[servers.x]\ncommand = \"x\"\n{line}"));
        assert!(
            found.iter().any(|fault| fault.contains(&format!("servers.x.{key}:")) && fault.contains(word)),
            "{line}: {found:?}"
        );
    }
    for line in ["min = 1", "spare = 1", "max_rss = \"1GiB\"", "stop = [\"x\"]"] {
        let found = faults(&format!("[servers.x]\nurl = \"http://a\"\n{line}"));
        assert!(found.iter().any(|fault| fault.contains("about processes")), "{line}: {found:?}");
    }
}

#[test]
fn a_url_says_how_it_is_reached_unless_a_key_does() {
    for (lines, expected) in [
        ("url = \"http://a/mcp\"", Transport::Streamable),
        ("url = \"http://a/sse\"", Transport::Sse),
        ("url = \"http://a/sse?key=x\"", Transport::Sse),
        ("url = \"http://a/mcp\"\ntransport = \"sse\"", Transport::Sse),
        ("url = \"http://a/sse\"\ntransport = \"http\"", Transport::Streamable),
        ("url = \"ws://a/sse\"", Transport::WebSocket),
        ("url = \"wss://a/\"", Transport::WebSocket),
    ] {
        let Kind::Http { transport, .. } = server(lines).kind else { panic!("{lines} is a URL") };
        assert_eq!(transport, expected, "{lines}");
    }
    for lines in ["url = \"ws://a\"\ntransport = \"sse\"", "command = \"x\"\ntransport = \"sse\""] {
        let found = faults(&format!("[servers.x]\n{lines}"));
        assert!(found.iter().any(|fault| fault.contains("servers.x.transport:")), "{lines}: {found:?}");
    }
}
