//! Keys of the configuration that no other test turns: each test fails where its key does nothing.
#![expect(
    clippy::disallowed_methods,
    reason = "the forwarder is a task of the test, and other clients' files are its own"
)]

use rustix::process::Signal;
use seawall_tests::{
    Answer, Client, Daemon, Era, JSON, Misbehave, Record, Transport, Upstream, eventually, misbehave_command,
    quoted, send, well,
};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);
/// What a loaded machine may add to a time that the daemon keeps.
const SLACK: Duration = Duration::from_millis(1500);

async fn echo(client: &Client) -> Answer {
    client.call("it__echo", r#"{"text":"x"}"#).await
}

/// What a tool of the server `it` says to a call without arguments.
async fn said_by(client: &Client, tool: &str) -> String {
    client.call(&format!("it__{tool}"), "{}").await.said().to_owned()
}

#[tokio::test]
async fn an_allowed_host_is_served() {
    let daemon = Daemon::start("allowed_hosts = [\"box.example\"]").await;
    for (host, status) in [("box.example", 200), ("box.example:8079", 200), ("other.example", 403)] {
        let response = send(&daemon.url("/readyz"), "GET", &[("host", host)], "").await;
        assert_eq!(response.status, status, "{host}: {response:?}");
    }
}

#[tokio::test]
async fn an_allowed_origin_may_call() {
    let daemon = Daemon::start("allowed_origins = [\"https://app.example\"]").await;
    for (origin, status) in
        [("https://app.example", 200), ("http://app.example", 403), ("https://other.example", 403)]
    {
        let response = send(&daemon.url("/readyz"), "GET", &[("origin", origin)], "").await;
        assert_eq!(response.status, status, "{origin}: {response:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_enabled_is_neither_started_nor_listed() {
    let off = Upstream::start(Transport::Stdio, "off", &[], "enabled = false").await;
    let daemon = Daemon::start(&format!("{}{}", off.table(), well())).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let listing = client.list().await;
    assert!(listing.has("well__echo"), "{listing:#?}");
    assert!(!listing.names.iter().any(|name| name.starts_with("off__")), "{listing:#?}");
    client.call("off__echo", r#"{"text":"x"}"#).await.assert_unknown_tool();
    let own = Client::modern(&daemon.url("/mcp/off"), None);
    assert_eq!(own.call("echo", r#"{"text":"x"}"#).await.status, 404);
    assert_eq!(daemon.status().await["upstreams"][0]["state"], "disabled");
    assert!(off.record().entries().is_empty(), "{:#?}", off.record().entries());
}

/// What `era` can be set to, the version spoken then, the request that opens, and the one that is not sent.
const ERAS: [(&str, &str, &str, &str); 2] = [
    ("legacy", "2025-11-25", "initialize", "server/discover"),
    ("modern", "2026-07-28", "server/discover", "initialize"),
];

#[tokio::test]
async fn a_process_of_both_eras_is_held_to_one() {
    for (era, version, opening, never) in ERAS {
        let keys = format!("sharing = \"everyone\"\nera = \"{era}\"");
        let it = Upstream::start(Transport::Stdio, "it", &[], &keys).await;
        assert_held_to(it.table(), it.record(), version, opening, never).await;
    }
}

#[tokio::test]
async fn a_service_of_both_eras_is_held_to_one() {
    for (era, version, opening, never) in ERAS {
        let record = Record::new();
        let it = Misbehave::http(&["--record", &record.path()]).await;
        let url = quoted(it.url());
        let table = format!("[servers.it]\nurl = {url}\nsharing = \"everyone\"\nera = \"{era}\"\n");
        assert_held_to(&table, &record, version, opening, never).await;
    }
}

/// Calls from clients of either era; left to itself, the daemon would speak to the server as each of them does.
async fn assert_held_to(table: &str, record: &Record, version: &str, opening: &str, never: &str) {
    let daemon = Daemon::start(table).await;
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        assert_eq!(echo(&client).await.said(), "x", "{era:?}");
    }
    let status = daemon.status().await;
    let instances = status["upstreams"][0]["instances"].as_array().expect("status lists instances");
    assert!(!instances.is_empty(), "{status:#}");
    assert!(instances.iter().all(|instance| instance["era"] == version), "{version}: {status:#}");
    let entries = record.entries();
    let sent = |method: &str| entries.iter().any(|entry| entry["method"] == method);
    assert!(sent(opening) && !sent(never), "{version}: {entries:#?}");
}

#[tokio::test]
async fn a_process_that_obeys_nothing_is_gone_after_two_short_stop_graces() {
    let gone = gone_after("200ms", &["--ignore-eof", "--ignore-term"]).await;
    let two = Duration::from_millis(400);
    assert!(gone >= two && gone < two + SLACK, "it was gone after {gone:?}");
}

#[tokio::test]
async fn a_process_is_left_the_whole_of_a_long_stop_grace() {
    // At its end comes SIGTERM, which this one obeys.
    let gone = gone_after("3s", &["--ignore-eof"]).await;
    let one = Duration::from_secs(3);
    assert!(gone >= one && gone < one + SLACK, "it was gone after {gone:?}");
}

/// How long a process with these flags outlives its restart.
async fn gone_after(stop_grace: &str, flags: &[&str]) -> Duration {
    let keys = format!("sharing = \"everyone\"\nstop_grace = \"{stop_grace}\"");
    let it = Upstream::start(Transport::Stdio, "it", flags, &keys).await;
    let mut daemon = Daemon::start(it.table()).await;
    let process = said_by(&Client::modern(&daemon.url("/mcp"), None), "pid").await;
    assert!(lives(&process));
    let began = Instant::now();
    daemon.restart("it").await;
    eventually("the process is gone", SOON, async || !lives(&process)).await;
    let gone = began.elapsed();
    // What took its place is as stubborn, and a daemon that is killed would leave it.
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    gone
}

/// Whether a process runs: one that has ended has no program any more, even before it is reaped.
fn lives(pid: &str) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[tokio::test]
async fn a_process_gets_the_variables_declared_for_it_and_none_of_the_daemons_own() {
    let keys = "env = { DECLARED = \"for ${WHOM}\" }";
    let it = Upstream::start(Transport::Stdio, "it", &[], keys).await;
    let own = [("WHOM", "you"), ("DEPLOY_KEY", "not for servers")];
    let daemon = Daemon::start_with(it.table(), &own).await;
    let environment = said_by(&Client::modern(&daemon.url("/mcp"), None), "env").await;
    let environment: Value = serde_json::from_str(&environment).expect("the tool says JSON");
    assert_eq!(environment["DECLARED"], "for you", "{environment:#}");
    for (variable, _) in own {
        assert!(environment[variable].is_null(), "{variable} went to the server: {environment:#}");
    }
}

#[tokio::test]
async fn a_process_starts_in_its_directory() {
    let directory = directory();
    let path = directory.path().canonicalize().expect("the directory is there");
    let keys = format!("cwd = {}", quoted(path.to_str().expect("temporary paths are UTF-8")));
    let it = Upstream::start(Transport::Stdio, "it", &[], &keys).await;
    let daemon = Daemon::start(it.table()).await;
    let process = said_by(&Client::modern(&daemon.url("/mcp"), None), "pid").await;
    let found = fs::read_link(format!("/proc/{process}/cwd")).expect("the process runs");
    assert_eq!(found, path);
}

#[tokio::test]
async fn the_headers_of_a_service_go_with_every_request() {
    for era in ["legacy", "modern"] {
        let server = Misbehave::http(&["--era", era]).await;
        let wire = Wiretap::start(server.url()).await;
        let headers = "headers = { X-Key = \"given\", Authorization = \"Bearer ${SERVICE_TOKEN}\" }";
        let table = format!("[servers.it]\nurl = \"{}\"\n{headers}\n", wire.url);
        let daemon = Daemon::start_with(&table, &[("SERVICE_TOKEN", "expanded")]).await;
        let client = Client::legacy(&daemon.url("/mcp"), None).await;
        assert_eq!(echo(&client).await.said(), "x");
        client.delete().await;
        drop(daemon);

        let heard = wire.heard();
        let count = |text: &str| heard.matches(text).count();
        let requests = count(" /mcp HTTP/1.1\r\n");
        assert!(requests >= 3, "{era}: {heard}");
        assert_eq!(count("x-key: given\r\n"), requests, "{era}: {heard}");
        assert_eq!(count("authorization: Bearer expanded\r\n"), requests, "{era}: {heard}");
    }
}

/// Stands before a server and keeps what is sent to it.
struct Wiretap {
    url: String,
    heard: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Wiretap {
    /// Begins to pass on to the server at this URL.
    async fn start(url: &str) -> Self {
        let authority = url.trim_start_matches("http://").trim_end_matches("/mcp");
        let server: SocketAddr = authority.parse().expect("a misbehave server prints its address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
        let noted = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                tokio::spawn(async move {
                    // What goes wrong on one connection is for its two ends to see.
                    let _ = pass_on(stream, server, &noted).await;
                });
            }
        });
        Self { url: format!("http://{address}/mcp"), heard, task }
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects the two, until either has nothing more to say.
async fn pass_on(client: TcpStream, server: SocketAddr, heard: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    tokio::select! {
        passed = note_down(from_client, &mut to_server, heard) => passed,
        passed = copy(&mut from_server, &mut to_client) => passed.map(drop),
    }
}

async fn note_down(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    heard: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        to.write_all(&buffer[..count]).await?;
    }
}

#[tokio::test]
async fn within_the_grace_a_running_call_ends_with_its_result() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let mut daemon = Daemon::start(&format!("grace = \"5s\"\n{}", it.table())).await;
    let late = Client::modern(&daemon.url("/mcp"), None).start_call("it__late", r#"{"ms":1500}"#);
    it.record().until_called("late").await;
    daemon.signal(Signal::TERM);
    assert_eq!(late.answer().await.said(), "late");
    assert_eq!(daemon.ended().await, 0);
}

#[tokio::test]
async fn without_a_grace_a_running_call_ends_at_once() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let mut daemon = Daemon::start(&format!("grace = \"0s\"\n{}", it.table())).await;
    let late = Client::modern(&daemon.url("/mcp"), None).start_call("it__late", r#"{"ms":8000}"#);
    it.record().until_called("late").await;
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    // In a fault or with its connection: whichever is first.
    eventually("the call is over", SOON, async || late.is_over()).await;
    assert!(told.elapsed() < SLACK, "the call went on for {:?}", told.elapsed());
    assert_eq!(daemon.ended().await, 0);
}

#[tokio::test]
async fn a_message_over_the_limit_passes_neither_way() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let daemon = Daemon::start(&format!("[limits]\nmessage = \"64KiB\"\n{}", it.table())).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    for (bytes, status) in [(10_000, 200), (100_000, 413)] {
        let answer = client.call("it__echo", &json!({"text": "x".repeat(bytes)})).await;
        assert_eq!(answer.status, status, "{bytes} bytes in");
    }
    assert_eq!(client.call("it__big", r#"{"bytes":10000}"#).await.said().len(), 10_000);
    assert_eq!(client.call("it__big", r#"{"bytes":100000}"#).await.code(), "TOO_LARGE");
}

/// Limits of the daemon and keys of the server that leave room for one call.
const ROOM_FOR_ONE: [(&str, &str); 5] = [
    ("total = 1", ""),
    ("caller = 1", ""),
    ("conversation = 1", ""),
    ("total = 4\nshare = 0.25", ""),
    ("", "limit = 1"),
];

#[tokio::test]
async fn where_there_is_room_for_one_call_the_next_one_waits() {
    for (limits, keys) in ROOM_FOR_ONE {
        assert_the_second_call_waits(limits, keys, &[]).await;
    }
}

#[tokio::test]
async fn a_variable_overrides_the_limit_in_the_file() {
    assert_the_second_call_waits("total = 64", "", &[("SEAWALL_LIMITS_TOTAL", "1")]).await;
}

async fn assert_the_second_call_waits(limits: &str, keys: &str, variables: &[(&str, &str)]) {
    let (daemon, it, client) = limited(limits, keys, variables).await;
    let late = client.start_call("it__late", r#"{"ms":1500}"#);
    it.record().until_called("late").await;
    let second = echo(&client);
    let waits = async {
        eventually(&format!("{limits} {keys}: a call waits"), SOON, async || {
            let status = daemon.status().await;
            status["loads"].as_array().is_some_and(|loads| loads.iter().any(|load| load["waiting"] == 1))
        })
        .await;
        assert!(!late.is_over(), "{limits} {keys}: the first call is over already");
    };
    let (second, ()) = tokio::join!(second, waits);
    assert_eq!(second.said(), "x", "{limits} {keys}");
    assert_eq!(late.answer().await.said(), "late", "{limits} {keys}");
}

#[tokio::test]
async fn without_a_queue_what_cannot_run_at_once_is_refused() {
    let (_daemon, it, client) = limited("total = 1\nqueue = 0", "", &[]).await;
    let late = client.start_call("it__late", r#"{"ms":1500}"#);
    it.record().until_called("late").await;
    assert_eq!(echo(&client).await.code(), "OVER_CAPACITY");
    assert_eq!(late.answer().await.said(), "late");
}

/// A daemon with these limits, at rest after its first call, a server with these keys, and a client with a name.
async fn limited(limits: &str, keys: &str, variables: &[(&str, &str)]) -> (Daemon, Upstream, Client) {
    let keys = format!("sharing = \"everyone\"\n{keys}");
    let it = Upstream::start(Transport::Stdio, "it", &[], &keys).await;
    let config = format!("[limits]\n{limits}\n{}", it.table());
    let daemon = Daemon::start_with(&config, variables).await;
    let client = Client::modern(&daemon.url("/mcp"), None).in_conversation("one");
    // The daemon's own list of tools may take the only place first.
    eventually("the server answers", SOON, async || echo(&client).await.value["result"]["isError"] == false)
        .await;
    daemon.until_idle().await;
    (daemon, it, client)
}

#[tokio::test]
async fn what_is_known_of_effects_decides_how_a_lost_call_is_told() {
    for (keys, tool, code) in [
        ("", "hang", "OUTCOME_UNKNOWN"),
        ("[servers.it.tools.hang]\neffects = \"none\"", "hang", "UPSTREAM_UNAVAILABLE"),
        ("", "hang_read", "UPSTREAM_UNAVAILABLE"),
        ("trust_hints = false", "hang_read", "OUTCOME_UNKNOWN"),
    ] {
        let keys = format!("retries = {{ max = 0 }}\n{keys}");
        let it = Upstream::start(Transport::Stdio, "it", &[], &keys).await;
        let daemon = Daemon::start(it.table()).await;
        let client = Client::modern(&daemon.url("/mcp"), None);
        // Hints are known once the tools are.
        client.list().await;
        let call = client.start_call(&format!("it__{tool}"), "{}");
        it.record().until_called(tool).await;
        daemon.restart("it").await;
        assert_eq!(call.answer().await.code(), code, "{tool} with {keys:?}");
    }
}

/// Another client's file with a server `theirs` and one that is turned off there.
fn foreign_file() -> (TempDir, String) {
    let directory = directory();
    let path = directory.path().join("mcp.json");
    let path = path.to_str().expect("temporary paths are UTF-8").to_owned();
    // Servers that are the same are used once, so that this one needs a mark of its own.
    let (command, arguments) = misbehave_command(&["--tag", "theirs"]);
    let servers = json!({"mcpServers": {
        "theirs": {"command": command, "args": arguments},
        "off": {"command": "no-such-program", "disabled": true},
    }});
    fs::write(&path, servers.to_string()).expect("a temporary directory can be written");
    (directory, path)
}

#[tokio::test]
async fn the_servers_of_a_client_file_on_the_command_line_are_used() {
    let (_directory, path) = foreign_file();
    let arguments = ["--log-format", "json", "--mcp-config", &path];
    assert_both_answer(&Daemon::start_as(&well(), &[], &arguments).await).await;
}

#[tokio::test]
async fn the_servers_of_an_imported_file_are_used() {
    let (_directory, path) = foreign_file();
    let import = format!("import = [{}]\n{}", quoted(&path), well());
    assert_both_answer(&Daemon::start(&import).await).await;
}

async fn assert_both_answer(daemon: &Daemon) {
    for era in [Era::Legacy, Era::Modern] {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        for tool in ["well__echo", "theirs__echo"] {
            assert_eq!(client.call(tool, r#"{"text":"x"}"#).await.said(), "x", "{era:?}: {tool}");
        }
    }
    let status = daemon.status().await;
    let off = status["upstreams"].as_array().into_iter().flatten().find(|upstream| upstream["name"] == "off");
    assert_eq!(off.map(|off| &off["state"]), Some(&json!("disabled")), "{status:#}");
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(send(&daemon.url("/mcp/off"), "POST", &JSON, ping).await.status, 404);
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}
