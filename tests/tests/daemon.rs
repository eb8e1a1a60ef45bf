//! The daemon over its life: what it takes in while it runs, how it ends and what it keeps; and the command line,
//! which finds it.
#![expect(clippy::disallowed_methods, reason = "tests start programs, and read and write files themselves")]

use rustix::process::Signal;
use seawall_tests::{
    Client, Daemon, Era, Said, Transport, Upstream, at, caller, eventually, misbehave_command, seawall, send,
    well,
};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

/// How soon something must show that has no reason to wait.
const SOON: Duration = Duration::from_secs(10);
/// How soon something happens that happens at once, on a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What makes a process one that only SIGKILL ends, and a key that lets it come soon.
const STUBBORN: [&str; 2] = ["--ignore-eof", "--ignore-term"];
const SHORT_STOP: &str = "stop_grace = \"100ms\"";

/// The process that answers a client's calls of a server; none where the call fails.
async fn process_of(client: &Client, server: &str) -> Option<u32> {
    let answer = client.call(&format!("{server}__pid"), "{}").await;
    answer.value["result"]["content"][0]["text"].as_str()?.parse().ok()
}

/// Whether a process runs: one that has ended has no program any more, even before it is reaped.
fn lives(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

#[tokio::test]
async fn a_changed_file_is_taken_and_what_did_not_change_keeps_its_process() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let daemon = Daemon::start(&well()).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let process = process_of(&client, "well").await;
    assert!(process.is_some());

    daemon.configure(&format!("{}{}", well(), other.table()));
    eventually("the new server is listed", SOON, async || client.list().await.has("other__echo")).await;
    assert_eq!(client.call("other__echo", r#"{"text":"new"}"#).await.said(), "new");
    assert_eq!(process_of(&client, "well").await, process);

    daemon.configure(&format!("{}env = {{ CHANGED = \"yes\" }}\n", well()));
    eventually("the changed server has another process", SOON, async || {
        process_of(&client, "well").await.is_some_and(|now| Some(now) != process)
    })
    .await;
    assert!(!client.list().await.has("other__echo"), "a server that was taken out is still there");
}

#[tokio::test]
async fn a_broken_file_is_refused_whole_and_the_log_says_why() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let daemon = Daemon::start(&well()).await;
    daemon.configure(&format!("{}{}[servers.bad]\ncommnd = \"x\"\n", well(), other.table()));
    eventually("the file is refused", SOON, async || daemon.log().contains("the old configuration stays"))
        .await;
    let log = daemon.log();
    assert!(
        log.contains("seawall.toml:") && log.contains("servers.bad.commnd"),
        "it does not say why: {log}"
    );
    let listing = Client::modern(&daemon.url("/mcp"), None).list().await;
    assert!(listing.has("well__echo") && !listing.has("other__echo"), "{listing:#?}");
}

#[tokio::test]
async fn sighup_reads_the_configuration_anew() {
    let daemon = Daemon::start(&well()).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let process = process_of(&client, "well").await;
    let read = || daemon.log().matches("the configuration was read anew").count();
    assert_eq!(read(), 0, "nothing has changed");
    daemon.signal(Signal::HUP);
    eventually("the configuration is read", SOON, async || read() == 1).await;
    assert_eq!(process_of(&client, "well").await, process);
}

#[tokio::test]
async fn while_it_drains_it_is_not_ready_and_takes_no_new_calls() {
    let it = Upstream::start(Transport::Stdio, "it", &[], "").await;
    let mut daemon = Daemon::start(&format!("grace = \"4s\"\n{}", it.table())).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let late = client.start_call("it__late", r#"{"ms":2500}"#);
    it.record().until_called("late").await;
    daemon.signal(Signal::TERM);
    eventually("it is not ready", AT_ONCE, async || {
        send(&daemon.url("/readyz"), "GET", &[], "").await.status == 503
    })
    .await;
    let refused = client.call("it__echo", r#"{"text":"x"}"#).await;
    assert_eq!(refused.status, 503, "{refused:#?}");
    assert!(!late.is_over(), "the running call was cut short");
    assert_eq!(late.answer().await.said(), "late");
    assert_eq!(daemon.ended().await, 0);
    assert!(it.record().calls("echo").is_empty(), "{:#?}", it.record().entries());
}

#[tokio::test]
async fn a_running_call_of_a_legacy_client_ends_before_the_daemon_does() {
    a_running_call_ends_before_the_daemon(Era::Legacy).await;
}

#[tokio::test]
async fn a_running_call_of_a_modern_client_ends_before_the_daemon_does() {
    a_running_call_ends_before_the_daemon(Era::Modern).await;
}

async fn a_running_call_ends_before_the_daemon(era: Era) {
    let it = Upstream::start(Transport::Stdio, "it", &STUBBORN, SHORT_STOP).await;
    let mut daemon = Daemon::start(&format!("grace = \"4s\"\n{}", it.table())).await;
    let client = Client::open(era, &daemon.url("/mcp"), None).await;
    let child = process_of(&client, "it").await.expect("the server answers");
    let late = client.start_call("it__late", r#"{"ms":2500}"#);
    it.record().until_called("late").await;
    daemon.signal(Signal::TERM);
    assert_eq!(late.answer().await.said(), "late");
    assert_eq!(daemon.ended().await, 0);
    assert!(!lives(child), "the process {child} outlives its daemon");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let it = Upstream::start(Transport::Stdio, "it", &STUBBORN, "").await;
    let mut daemon = Daemon::start(&format!("grace = \"1m\"\n{}", it.table())).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let child = process_of(&client, "it").await.expect("the server answers");
    let _hang = client.start_call("it__hang", "{}");
    it.record().until_called("hang").await;
    daemon.signal(Signal::TERM);
    eventually("it is stopping", AT_ONCE, async || daemon.log().contains("stopping")).await;
    assert!(lives(daemon.pid()), "one signal left it no grace");
    // Again and again, since it may not listen for the second one yet.
    eventually("it ends at once", AT_ONCE, async || {
        daemon.signal(Signal::TERM);
        !lives(daemon.pid())
    })
    .await;
    assert_eq!(daemon.ended().await, 0);
    assert!(!lives(child), "the process {child} outlives its daemon");
}

#[tokio::test]
async fn a_state_directory_has_one_daemon_at_a_time() {
    let daemon = Daemon::start(&well()).await;
    let second = at(&daemon, &["serve"]).await;
    assert_eq!(second.code, 1, "{second:?}");
    let address = daemon.url("").trim_start_matches("http://").to_owned();
    for fact in [format!("pid {}", daemon.pid()), address] {
        assert!(second.error.contains(&fact), "it does not say {fact}: {second:?}");
    }
    assert_eq!(daemon.status().await["pid"], daemon.pid());
}

#[tokio::test]
async fn a_restarted_daemon_lists_from_memory_what_a_silent_server_offers() {
    let directory = directory();
    let path = |name: &str| {
        directory.path().join(name).into_os_string().into_string().expect("temporary paths are UTF-8")
    };
    let (state, silent) = (path("state"), path("silent"));
    let (command, arguments) = misbehave_command(&[]);
    // The same command to the daemon; what it does is up to the file.
    let script = format!("test -e '{silent}' && exec sleep 600; exec \"$0\" \"$@\"");
    let arguments = [vec!["-c".to_owned(), script, command], arguments].concat();
    let table = format!(
        "[servers.it]\ncommand = \"/bin/sh\"\nargs = {arguments:?}\nstart_timeout = \"5m\"\n{SHORT_STOP}\n"
    );
    let variables = [("SEAWALL_STATE", state.as_str())];

    let first = Daemon::start_with(&table, &variables).await;
    let known = Client::modern(&first.url("/mcp"), None).list().await;
    assert!(known.has("it__echo"), "{known:#?}");
    // The process that was asked goes once everything it said is kept.
    eventually("what is offered is kept", SOON, async || {
        first.status().await["upstreams"][0]["state"] == "idle"
    })
    .await;
    drop(first);

    fs::write(&silent, "").expect("a temporary directory can be written");
    let second = Daemon::start_with(&table, &variables).await;
    for era in [Era::Legacy, Era::Modern] {
        let listing = Client::open(era, &second.url("/mcp"), None).await.list().await;
        assert_eq!(listing.names, known.names, "{era:?}");
        assert!(listing.elapsed < Duration::from_secs(1), "{era:?}: the list took {:?}", listing.elapsed);
    }
}

/// A directory with a configuration file, and the path of that.
fn configuration(text: &str) -> (TempDir, String) {
    let directory = directory();
    let file = directory.path().join("seawall.toml");
    fs::write(&file, text).expect("a temporary directory can be written");
    (directory, file.into_os_string().into_string().expect("temporary paths are UTF-8"))
}

#[tokio::test]
async fn check_names_every_fault_with_its_line() {
    let text = "listen = \"here\"\n\n[servers.x]\ncommand = \"x\"\ntimout = \"5s\"\nera = \"old\"\n";
    let (_directory, file) = configuration(text);
    let said = seawall(&["check", "--config", &file]).await;
    assert_eq!(said.code, 2, "{said:?}");
    let named: Vec<&str> = said.error.lines().filter(|line| line.starts_with(&file)).collect();
    assert_eq!(named.len(), 3, "{said:?}");
    for (line, place) in named.iter().zip(["1: listen: ", "5: servers.x.timout: ", "6: servers.x.era: "]) {
        assert!(line.starts_with(&format!("{file}:{place}")), "{line} is not about {place}");
    }
}

#[tokio::test]
async fn check_prints_what_a_good_file_comes_to() {
    let text = format!("{}{}", caller("me", "a-token", &["*"]), well());
    let (_directory, file) = configuration(&text);
    let said = seawall(&["check", "--config", &file]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.output.contains("well (stdio)"), "{said:?}");

    let said = seawall(&["check", "--config", &file, "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let value = said.json();
    assert_eq!((&value["listen"], &value["callers"][0]), (&json!("127.0.0.1:8079"), &json!("me")));
    assert_eq!(
        (&value["servers"][0]["name"], &value["servers"][0]["kind"]),
        (&json!("well"), &json!("stdio"))
    );
}

#[tokio::test]
async fn a_printed_token_lets_its_caller_in() {
    let made = seawall(&["token", "ci"]).await;
    assert_eq!(made.code, 0, "{made:?}");
    let lines: Vec<&str> = made.output.lines().map(str::trim).collect();
    let token = *lines.iter().find(|line| line.starts_with("seawall_")).expect("a token is printed");
    let table = lines.iter().position(|line| *line == "[callers.ci]").expect("a table is printed");
    assert!(lines[table + 1].starts_with("token = \"sha256:"), "{made:?}");

    let daemon = Daemon::start(&format!("{}\n{}", lines[table..].join("\n"), well())).await;
    let runs: [(&[&str], i32); 3] =
        [(&["status", "--token", token], 0), (&["status", "--token", "seawall_0"], 1), (&["status"], 1)];
    for (arguments, code) in runs {
        let said = at(&daemon, arguments).await;
        assert_eq!(said.code, code, "{arguments:?}: {said:?}");
        assert_eq!(said.error.contains("seawall token"), code == 1, "{arguments:?}: {said:?}");
    }
}

#[tokio::test]
async fn tools_lists_all_or_those_of_one_server() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let daemon = Daemon::start(&format!("{}{}", well(), other.table())).await;
    let listing = Client::modern(&daemon.url("/mcp"), None).list().await;
    let names = |said: &Said| -> Vec<String> {
        let value = said.json();
        let tools = value.as_array().unwrap_or_else(|| panic!("no array: {said:?}"));
        tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned).collect()
    };
    let all = at(&daemon, &["tools", "--json"]).await;
    assert_eq!((all.code, names(&all)), (0, listing.names.clone()));

    let of_other: Vec<String> =
        listing.names.into_iter().filter(|name| name.starts_with("other__")).collect();
    let pack = at(&daemon, &["tools", "--pack", "other", "--json"]).await;
    assert_eq!((pack.code, names(&pack)), (0, of_other.clone()));

    let plain = at(&daemon, &["tools", "--pack", "other"]).await;
    let first_words: Vec<&str> =
        plain.output.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first_words, of_other);
}

#[tokio::test]
async fn call_exits_by_what_became_of_the_call() {
    let daemon = Daemon::start(&well()).await;
    let good = at(&daemon, &["call", "well__echo", "text=hello"]).await;
    assert_eq!((good.code, good.output.as_str()), (0, "hello\n"), "{good:?}");
    let good = at(&daemon, &["call", "--json", "well__echo", r#"{"text":"hello"}"#]).await;
    assert_eq!((good.code, &good.json()["content"][0]["text"]), (0, &json!("hello")));

    let fault = at(&daemon, &["call", "--timeout-ms", "200", "well__hang"]).await;
    assert_eq!((fault.code, fault.output.as_str()), (4, ""), "{fault:?}");
    assert!(fault.error.starts_with("TIMEOUT"), "{fault:?}");
    let fault = at(&daemon, &["call", "--timeout-ms", "200", "--json", "well__hang"]).await;
    assert_eq!((fault.code, &fault.json()["_meta"]["seawall/fault"]["code"]), (4, &json!("TIMEOUT")));
    let unknown = at(&daemon, &["call", "well__none"]).await;
    assert_eq!((unknown.code, unknown.error.as_str()), (4, "Unknown tool\n"), "{unknown:?}");
}

#[tokio::test]
async fn status_tells_what_the_daemon_is_at() {
    let daemon = Daemon::start(&well()).await;
    let process = process_of(&Client::modern(&daemon.url("/mcp"), None), "well").await;
    let said = at(&daemon, &["status", "--json"]).await;
    let value = said.json();
    assert_eq!((said.code, &value["pid"]), (0, &json!(daemon.pid())), "{said:?}");
    assert_eq!(value["upstreams"][0]["instances"][0]["pid"].as_u64(), process.map(u64::from), "{said:?}");
    let plain = at(&daemon, &["status"]).await;
    assert!(plain.code == 0 && plain.output.contains("well (stdio): running"), "{plain:?}");
}

#[tokio::test]
async fn logs_show_what_was_written_and_restart_replaces_the_process() {
    let daemon = Daemon::start(&well()).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    let process = process_of(&client, "well").await.expect("the server answers");
    client.call("well__stderr", r#"{"bytes":80}"#).await.said();
    let written = format!("[{process}] {}\n", "x".repeat(79));
    eventually("what was written is shown", SOON, async || {
        let said = at(&daemon, &["logs", "well"]).await;
        said.code == 0 && said.output.contains(&written)
    })
    .await;

    let said = at(&daemon, &["restart", "well"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let now = process_of(&client, "well").await;
    assert!(now.is_some_and(|now| now != process), "{now:?} after {process}");
    for verb in ["logs", "restart"] {
        let said = at(&daemon, &[verb, "none"]).await;
        assert!(said.code == 1 && said.error.contains("none"), "{verb}: {said:?}");
    }
}

#[tokio::test]
async fn without_a_daemon_each_verb_says_how_to_start_one() {
    let (_directory, file) = configuration("state = \"state\"");
    let runs: [&[&str]; 5] = [&["tools"], &["call", "a__b"], &["status"], &["logs", "a"], &["restart", "a"]];
    for verb in runs {
        let said = seawall(&[verb, &["--config", file.as_str()][..]].concat()).await;
        assert_eq!(said.code, 3, "{verb:?}: {said:?}");
        assert!(said.error.contains("seawall serve"), "{verb:?}: {said:?}");
    }
}

#[tokio::test]
async fn the_tour_shows_a_result_progress_and_a_call_that_hangs() {
    let said = seawall(&["try", "--exit", "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let calls: Vec<Value> =
        said.output.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let [greeting, counting, hanging] = &calls[..] else { panic!("not three lines: {said:?}") };
    assert_eq!((&greeting["text"], &greeting["is_error"]), (&json!("Hello, world!"), &json!(false)));
    assert!(counting["is_error"] == false && counting["progress"].as_u64() > Some(0), "{counting}");
    let text = hanging["text"].as_str().unwrap_or_default();
    assert!(hanging["is_error"] == true && text.starts_with("TIMEOUT"), "{hanging}");
}

#[tokio::test]
async fn without_a_terminal_the_log_is_a_file_of_json_lines_without_secrets() {
    const SECRETS: [&str; 4] = ["token-of-me", "token-of-nobody", "secret-of-env", "secret-of-header"];
    let it = Upstream::start(Transport::Stdio, "it", &[], "env = { KEY = \"secret-of-env\" }").await;
    let service =
        Upstream::start(Transport::ModernHttp, "service", &[], "headers = { X-Key = \"secret-of-header\" }")
            .await;
    let config = format!("{}{}{}", caller("me", SECRETS[0], &["*"]), it.table(), service.table());
    let daemon = Daemon::start_as(&config, &[("SEAWALL_LOG", "trace")], &[]).await;
    let client = Client::modern(&daemon.url("/mcp"), Some(SECRETS[0]));
    for tool in ["it__echo", "service__echo"] {
        assert_eq!(client.call(tool, r#"{"text":"x"}"#).await.said(), "x");
        assert_eq!(client.with_token(SECRETS[1]).call(tool, r#"{"text":"x"}"#).await.status, 401);
    }

    let files = || fs::read_dir(daemon.directory().join("state/log")).into_iter().flatten().flatten();
    let log = || files().filter_map(|file| fs::read_to_string(file.path()).ok()).collect::<String>();
    eventually("the calls are in the log", SOON, async || {
        log().lines().filter(|line| line.contains("\"tool\":\"echo\"")).count() == 2
    })
    .await;
    let log = log();
    // The last line may not be whole yet.
    for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record["level"].is_string() && record["target"].is_string(), "{line}");
    }
    for secret in SECRETS {
        assert!(!log.contains(secret) && !daemon.log().contains(secret), "{secret} was logged: {log}");
    }
}
