//! Two thousand tools of forty servers: their names fit every client, lists are quick, and each is what it says.

use seawall_tests::{Client, Daemon, PATIENCE, eventually, misbehave_command, note, quoted, send};
use serde_json::Value;
use std::{collections::HashSet, time::Duration};
use tokio::time::Instant;

const SERVERS: usize = 40;
/// With the ordinary ones, fifty of each server.
const ODD: usize = 26;
const TOOLS: usize = 2000;
/// How long a warm list may take, in all but one case of a hundred.
const PROMISED: Duration = Duration::from_millis(50);
/// What a debug build on a machine shared with others may take besides.
const ALLOWANCE: Duration = Duration::from_millis(200);

/// The name that a model sees, per client, and how long it may be (docs of the clients, as of November 2026).
const SEEN: [(&str, &str, usize); 12] = [
    ("Claude Code", "mcp__seawall__", 128),
    ("Codex", "mcp__seawall__", 128),
    ("VS Code", "mcp_seawall_", 64),
    ("Gemini", "mcp_seawall_", 63),
    ("Cursor", "seawall", 60),
    ("OpenCode", "seawall_", 128),
    ("Zed", "seawall_", 64),
    ("Goose", "seawall__", 64),
    ("Cline", "seawall__", 64),
    ("Roo Code", "mcp--seawall--", 64),
    ("Continue", "seawall_", 64),
    ("Amazon Q", "", 64),
];

fn table(name: &str) -> String {
    let (command, arguments) = misbehave_command(&["--era", "modern", "--many", &ODD.to_string()]);
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!(
        "[servers.{name}]\ncommand = {}\nargs = [{}]\nsharing = \"everyone\"\nstart_timeout = \"60s\"\n",
        quoted(&command),
        arguments.join(", ")
    )
}

#[tokio::test]
async fn many_tools_have_names_for_every_client_and_are_listed_at_once() {
    let names: Vec<String> = (1..=SERVERS).map(|number| format!("server{number}")).collect();
    let tables: String = names.iter().map(|name| table(name)).collect();
    let daemon = Daemon::start(&tables).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    eventually("every server is listed", PATIENCE * 4, async || client.list().await.names.len() == TOOLS)
        .await;

    let listed = client.list().await.names;
    for (who, prefix, longest) in SEEN {
        let mut seen = HashSet::new();
        for name in &listed {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            assert!(plain && name.as_bytes()[0].is_ascii_alphabetic() && name.len() <= 48, "{name}");
            let shown = format!("{prefix}{name}");
            assert!(shown.len() <= longest, "{who}: {shown}");
            // Clients fold case, dashes and dots, and lose one of two tools that are then equal.
            assert!(seen.insert(shown.to_lowercase().replace(['-', '.'], "_")), "{who}: {shown} twice");
        }
    }

    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let all = client.list().await.names.len();
        took.push(began.elapsed());
        assert_eq!(all, TOOLS);
    }
    took.sort();
    note(&format!("{TOOLS} tools listed: p50 {:?}, p99 {:?} (promised {PROMISED:?})", took[49], took[98]));
    assert!(took[98] <= PROMISED + ALLOWANCE, "p99 {:?}", took[98]);

    // Every name is explained as what a call of it reaches.
    let mut own = HashSet::new();
    for name in &listed {
        let explained = explain(&daemon, name).await;
        let (server, tool) = (&explained["server"], &explained["tool"]);
        assert_eq!(explained["name"], **name, "{explained}");
        assert!(own.insert(format!("{server} {tool}")), "{name} is explained like another");
        // The odd ones return their names.
        if explained["renamed"] != Value::Null {
            assert_eq!(client.call(name, "{}").await.said(), tool.as_str().unwrap_or_default(), "{name}");
        }
    }
    assert_eq!(own.len(), TOOLS);
}

async fn explain(daemon: &Daemon, name: &str) -> Value {
    let answer = send(&daemon.url(&format!("/api/v1/explain/{name}")), "GET", &[], "").await;
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{name}: {error} in {answer:?}"))
}
