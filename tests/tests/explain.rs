//! The verbs that tell how things stand, and the one that wraps a command: `explain`, `doctor`, `completions`, `wrap`.
#![expect(clippy::disallowed_methods, reason = "tests start programs, and read and write files themselves")]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{
    Client, Daemon, PATIENCE, Process, Transport, Upstream, at, binary, caller, eventually, free_address,
    misbehave_command, seawall, send, well,
};
use serde_json::{Value, json};
use std::{fs, net::TcpListener};
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

/// A directory with a configuration file, and the path of that.
fn configuration(text: &str) -> (TempDir, String) {
    let directory = directory();
    let file = directory.path().join("seawall.toml");
    fs::write(&file, text).expect("a temporary directory can be written");
    (directory, file.into_os_string().into_string().expect("temporary paths are UTF-8"))
}

/// What is told of a tool.
async fn explained(daemon: &Daemon, tool: &str) -> Value {
    let said = at(daemon, &["explain", tool, "--json"]).await;
    assert_eq!(said.code, 0, "{tool}: {said:?}");
    said.json()
}

#[tokio::test]
async fn explain_tells_where_a_tool_comes_from_and_what_bounds_it() {
    let keys = "sharing = \"everyone\"\ntimeout = \"7s\"\nlimit = 3\nretries = { max = 1 }\nheartbeat = \"3s\"\n\
                rate = \"100/s\"\n\n[servers.it.tools.hang]\ntimeout = \"2s\"\nattempt_timeout = \"1s\"\nlimit = 2\n\
                cache = \"30s\"\nresult_limit = \"4KiB\"\neffects = \"idempotent\"";
    let it = Upstream::start(Transport::Stdio, "it", &[], keys).await;
    let doubtful = Upstream::start(Transport::Stdio, "doubtful", &[], "trust_hints = false").await;
    let limits = "[limits]\ntotal = 9\ncaller = 8\nconversation = 7\nqueue = 6\nshare = 0.25\n";
    let daemon = Daemon::start(&format!("{limits}{}{}{}", it.table(), doubtful.table(), well())).await;
    Client::modern(&daemon.url("/mcp"), None).list().await;

    // However a model spells it.
    let hang = explained(&daemon, "IT--Hang").await;
    let expected = json!({
        "name": "it__hang", "server": "it", "kind": "stdio", "tool": "hang", "renamed": null,
        "timeout": {"ms": 2000, "from": "tool"},
        "chain": [
            {"link": "attempt", "ms": 1000, "from": "servers.it.tools.hang.attempt_timeout"},
            {"link": "tool", "ms": 2000, "from": "servers.it.tools.hang.timeout"},
            {"link": "daemon", "ms": 75_000, "from": "1.5 × default"},
            {"link": "bridge", "ms": 100_000, "from": "2.0 × default"},
            {"link": "client", "ms": 125_000, "from": "2.5 × default"},
        ],
        "terms": {
            "ask_limit": {"ms": 300_000, "from": "default"},
            "heartbeat": {"ms": 3000, "from": "servers.it.heartbeat"},
            "duplicates": {"value": "share", "from": "effects"},
            "cache": {"ms": 30_000, "from": "servers.it.tools.hang.cache"},
            "rate": {"value": "100/s", "from": "servers.it.rate"},
            "learn": {"value": null, "from": "default"},
            "retries": {
                "value": {"max": 1, "backoff_ms": 100, "budget": 0.1, "floor": 10},
                "from": "servers.it.retries",
            },
            "breaker": {
                "value": {"window_ms": 30_000, "failures": 0.8, "least": 20, "open_ms": 10_000},
                "from": "default",
            },
        },
        "effects": {"value": "idempotent", "from": "configuration"},
        "sharing": "everyone", "limit": 3, "tool_limit": 2, "provider": null, "result_limit": 4096,
        "limits": {
            "total": 9, "caller": 8, "conversation": 7, "queue": 6, "share": 0.25, "conversation_share": 0.25,
        },
        "callers": ["local"], "schema": {"state": "compiles", "fault": null},
        "listed": hang["listed"], "failure": null,
    });
    assert_eq!(hang, expected);
    assert!(hang["listed"].as_str().is_some_and(|listed| listed.starts_with("20")), "{hang}");

    let told = [
        ("it__echo", json!({"ms": 7000, "from": "server"}), json!({"value": "none", "from": "annotations"})),
        (
            "well__slow",
            json!({"ms": 50_000, "from": "default"}),
            json!({"value": "writes", "from": "nobody"}),
        ),
        (
            "doubtful__echo",
            json!({"ms": 50_000, "from": "default"}),
            json!({"value": "writes", "from": "distrust"}),
        ),
    ];
    for (tool, timeout, effects) in told {
        let known = explained(&daemon, tool).await;
        assert_eq!((&known["timeout"], &known["effects"]), (&timeout, &effects), "{tool}");
        assert!(known["result_limit"].is_null(), "{tool}: {known}");
    }

    let plain = at(&daemon, &["explain", "it__hang"]).await;
    assert_eq!(plain.code, 0, "{plain:?}");
    for fact in [
        "it__hang\n",
        "server it (stdio)",
        "2s, set in",
        "attempt 1s (servers.it.tools.hang.attempt_timeout) < tool 2s (servers.it.tools.hang.timeout) < daemon 75s",
        "results are kept for 30s (servers.it.tools.hang.cache)",
        "1 at most",
        "every 3s (servers.it.heartbeat)",
        "2 of it, 3 at its server",
        "one instance for everyone",
        "25 %",
        "4096 bytes at most",
        "local",
    ] {
        assert!(plain.output.contains(fact), "it does not say {fact:?}: {plain:?}");
    }
}

#[tokio::test]
async fn a_chain_of_time_outs_is_the_same_wherever_it_is_shown() {
    let keys = "sharing = \"everyone\"\ntimeout = \"8s\"\n\n\
                [servers.it.tools.hang]\nclass = \"long\"\ntimeout = \"0s\"";
    let it = Upstream::start(Transport::Stdio, "it", &[], keys).await;
    let timeouts = "[timeouts]\ndaemon = \"20s\"\nclasses = { long = \"15s\" }\n";
    let daemon = Daemon::start(&format!("{timeouts}{}{}", it.table(), well())).await;
    Client::modern(&daemon.url("/mcp"), None).list().await;
    let file = daemon.configuration().into_os_string().into_string().expect("temporary paths are UTF-8");

    let outer = json!([
        {"link": "daemon", "ms": 20_000, "from": "timeouts.daemon"},
        {"link": "bridge", "ms": 100_000, "from": "2.0 × default"},
        {"link": "client", "ms": 125_000, "from": "2.5 × default"},
    ]);
    let around = |attempt: Value, tool: Value| {
        let mut links = vec![attempt, tool];
        links.extend(outer.as_array().into_iter().flatten().cloned());
        Value::from(links)
    };
    let none = json!({"link": "attempt", "ms": null, "from": "default"});
    let of_it = around(none.clone(), json!({"link": "tool", "ms": 8000, "from": "servers.it.timeout"}));
    let of_hang = around(
        json!({"link": "attempt", "ms": 15_000, "from": "timeouts.classes.long"}),
        json!({"link": "tool", "ms": null, "from": "servers.it.tools.hang.timeout"}),
    );
    let of_well = around(none, json!({"link": "tool", "ms": 20_000, "from": "timeouts.daemon"}));

    let said = seawall(&["check", "--config", &file, "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let checked = said.json();
    assert_eq!(checked["chain"], outer);
    let (it, well) = (&checked["servers"][0], &checked["servers"][1]);
    assert_eq!((&it["chain"], &it["timeout_ms"], &well["chain"]), (&of_it, &json!(8000), &of_well));
    assert_eq!((&it["tools"], &well["tools"]), (&json!([{"name": "hang", "chain": of_hang}]), &json!([])));
    for (tool, chain, timeout, from) in [
        ("it__echo", &of_it, 8000, "server"),
        ("it__hang", &of_hang, 20_000, "daemon"),
        ("well__echo", &of_well, 20_000, "daemon"),
    ] {
        let known = explained(&daemon, tool).await;
        let timeout = json!({"ms": timeout, "from": from});
        assert_eq!((&known["chain"], &known["timeout"]), (chain, &timeout), "{tool}");
    }

    let said = seawall(&["check", "--config", &file]).await;
    let lines: Vec<&str> = said.output.lines().filter(|line| line.starts_with("chain ")).collect();
    assert_eq!(lines.len(), 3, "{said:?}");
    for before in [" < tool ", " < daemon ", " < bridge ", " < client "] {
        let ends: Vec<_> =
            lines.iter().map(|line| line.find(before).map(|end| line[..end].chars().count())).collect();
        assert!(ends[0].is_some() && ends.iter().all(|end| *end == ends[0]), "{before}: {said:?}");
    }
    let log = daemon.log();
    for line in [
        "tool 8s < daemon 20s < bridge 100s < client 125s",
        "tool 20s < daemon 20s < bridge 100s < client 125s",
    ] {
        let told = log.lines().filter(|told| told.contains("time-outs of server") && told.contains(line));
        assert_eq!(told.count(), 1, "{line}: {log}");
    }
}

#[tokio::test]
async fn explain_offers_the_nearest_names_for_one_that_no_tool_has() {
    let daemon = Daemon::start(&well()).await;
    Client::modern(&daemon.url("/mcp"), None).list().await;
    for name in ["well__ecko", "ecko"] {
        let said = at(&daemon, &["explain", name]).await;
        assert_eq!((said.code, said.output.as_str()), (1, ""), "{said:?}");
        assert!(said.error.contains("well__echo"), "{said:?}");
        let said = at(&daemon, &["explain", name, "--json"]).await;
        assert_eq!(said.code, 1, "{said:?}");
        let nearest = said.json()["nearest"].clone();
        assert_eq!(
            (nearest.as_array().map(Vec::len), &nearest[0]),
            (Some(3), &json!("well__echo")),
            "{said:?}"
        );
    }
    let strange = at(&daemon, &["explain", "a b/c?d%"]).await;
    assert!(strange.code == 1 && strange.error.contains("a b/c?d%"), "{strange:?}");
}

#[tokio::test]
async fn explain_names_those_who_may_call_to_who_may_call_everything() {
    let callers = caller("all", "token-all", &["*"])
        + &caller("narrow", "token-narrow", &["well__echo"])
        + &caller("other", "token-other", &["other__*"]);
    let daemon = Daemon::start(&(callers + &well())).await;
    Client::modern(&daemon.url("/mcp"), Some("token-all")).list().await;
    for (tool, names) in [("well__echo", json!(["all", "narrow"])), ("well__pid", json!(["all"]))] {
        let said = at(&daemon, &["explain", "--token", "token-all", "--json", tool]).await;
        assert_eq!((said.code, &said.json()["callers"]), (0, &names), "{tool}: {said:?}");
    }
    let refused = at(&daemon, &["explain", "--token", "token-narrow", "well__echo"]).await;
    assert!(refused.code == 1 && refused.error.contains("FORBIDDEN"), "{refused:?}");
    let url = daemon.url("/api/v1/explain/well__echo");
    assert_eq!(send(&url, "GET", &[], "").await.status, 401);
    assert_eq!(send(&url, "GET", &[("host", "evil.example")], "").await.status, 403);
}

#[tokio::test]
async fn explain_needs_a_daemon() {
    let (_directory, file) = configuration("state = \"state\"");
    let said = seawall(&["explain", "--config", &file, "a__b"]).await;
    assert!(said.code == 3 && said.error.contains("seawall serve"), "{said:?}");
}

/// The outcome of a check, and what mends it.
fn checked<'a>(report: &'a Value, what: &str) -> (&'a str, &'a str) {
    let check = report["checks"].as_array().into_iter().flatten().find(|check| check["check"] == what);
    let check = check.unwrap_or_else(|| panic!("{what} was not checked: {report}"));
    (check["outcome"].as_str().unwrap_or_default(), check["mend"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_daemon_that_works() {
    let service = Upstream::start(Transport::ModernHttp, "service", &[], "").await;
    let daemon = Daemon::start(&format!("{}{}", well(), service.table())).await;
    Client::modern(&daemon.url("/mcp"), None).list().await;
    let said = at(&daemon, &["doctor", "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let report = said.json();
    assert_eq!(report["good"], true);
    let all = [
        "configuration",
        "state directory",
        "daemon",
        "port",
        "server well",
        "server service",
        "tools of well",
        "tools of service",
    ];
    for what in all {
        assert_eq!(checked(&report, what), ("ok", ""), "{what}: {report}");
    }
    let plain = at(&daemon, &["doctor"]).await;
    assert_eq!((plain.code, plain.output.lines().count()), (0, all.len()), "{plain:?}");
    assert!(plain.output.lines().all(|line| line.starts_with("ok    ")), "{plain:?}");
}

#[tokio::test]
async fn doctor_names_what_is_missing_and_what_mends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let listen = taken.local_addr().expect("a bound socket has an address");
    let silent = free_address();
    let text = format!(
        "listen = \"{listen}\"\nstate = \"state\"\n\
         [servers.absent]\ncommand = \"no-such-program\"\n\
         [servers.node]\ncommand = \"npx\"\nargs = [\"server\"]\n\
         [servers.file]\ncommand = \"./seawall.toml\"\n\
         [servers.silent]\nurl = \"http://{silent}/mcp\"\n\
         [servers.needy]\nurl = \"${{DOCTOR_NEEDS_THIS}}\"\n\
         [servers.unused]\nurl = \"http://{silent}/mcp\"\nenabled = false\n"
    );
    let (_directory, file) = configuration(&text);
    let said = seawall(&["doctor", "--config", &file, "--json"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let report = said.json();
    assert_eq!(report["good"], false);
    for (what, mend) in [
        ("server absent", "install it"),
        ("server node", "Node.js"),
        ("server file", "chmod +x"),
        ("server silent", "curl"),
        ("server needy", "export DOCTOR_NEEDS_THIS"),
        ("port", "`listen`"),
    ] {
        let (outcome, found) = checked(&report, what);
        assert!(outcome == "fail" && found.contains(mend), "{what}: {report}");
    }
    for what in ["configuration", "state directory", "daemon"] {
        assert_eq!(checked(&report, what).0, "ok", "{what}: {report}");
    }
    assert!(!report.to_string().contains("server unused"), "{report}");
}

#[tokio::test]
async fn doctor_names_the_faults_of_a_configuration() {
    let (_directory, file) = configuration("listen = \"here\"\nstat = \"x\"\n");
    let said = seawall(&["doctor", "--config", &file]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let lines: Vec<&str> = said.output.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert!(lines.iter().all(|line| line.starts_with("fail  configuration: ")), "{said:?}");
}

#[tokio::test]
async fn each_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = seawall(&["completions", shell]).await;
        assert!(said.code == 0 && said.output.contains("completions"), "{shell}: {said:?}");
    }
    assert_eq!(seawall(&["completions", "tcl"]).await.code, 2);
}

/// A command that is wrapped, and its endpoint. The directory has its output and its temporary files.
async fn wrapped(directory: &TempDir, flags: &[&str]) -> (Process, String) {
    let (command, arguments) = misbehave_command(&[]);
    let mut all = vec!["wrap", "--listen", "127.0.0.1:0"];
    all.extend_from_slice(flags);
    all.extend_from_slice(&["--", command.as_str()]);
    all.extend(arguments.iter().map(String::as_str));
    let temporary = directory.path().to_str().expect("temporary paths are UTF-8");
    let process = Process::run("seawall", binary("seawall"), all, &[("TMPDIR", temporary)], directory.path());
    let mut url = None;
    eventually("it says where it listens", PATIENCE, async || {
        let output = process.output();
        let line = output.lines().find_map(|line| line.strip_prefix("Point a client at "));
        url = line.and_then(|line| line.split(';').next()).map(str::to_owned);
        url.is_some()
    })
    .await;
    (process, url.expect("the condition held"))
}

#[tokio::test]
async fn wrap_serves_one_command_and_leaves_nothing_behind() {
    let directory = directory();
    let (mut process, url) = wrapped(&directory, &[]).await;
    assert!(url.ends_with("/mcp/misbehave"), "{url}");
    let (first, second) = (Client::legacy(&url, None).await, Client::legacy(&url, None).await);
    assert_eq!(first.call("echo", r#"{"text":"hello"}"#).await.said(), "hello");
    let pids = [first.call("pid", "{}").await, second.call("pid", "{}").await];
    assert_ne!(pids[0].said(), pids[1].said(), "two conversations share a process");

    let pid = Pid::from_raw(process.pid().cast_signed()).expect("no process has the number 0");
    kill_process(pid, Signal::INT).expect("a child that nobody has waited for can be signalled");
    assert_eq!(process.ended().await, 0);
    let left = fs::read_dir(directory.path()).expect("a temporary directory can be read").flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name != "stdout" && name != "stderr").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn wrap_is_named_and_shared_as_it_is_told() {
    let directory = directory();
    let (_process, url) = wrapped(&directory, &["--name", "it", "--sharing", "everyone"]).await;
    assert!(url.ends_with("/mcp/it"), "{url}");
    let (first, second) = (Client::legacy(&url, None).await, Client::legacy(&url, None).await);
    let pids = [first.call("pid", "{}").await, second.call("pid", "{}").await];
    assert_eq!(pids[0].said(), pids[1].said(), "each conversation has a process of its own");
}

#[tokio::test]
async fn wrap_says_what_is_wrong_with_a_command_line() {
    // Two dashes alone are short for the verb.
    let nothing = seawall(&["--"]).await;
    assert!(nothing.code == 2 && nothing.error.contains("seawall wrap"), "{nothing:?}");
    let name = seawall(&["wrap", "--name", "a b", "--", "true"]).await;
    assert!(name.code == 2 && name.error.contains("a b"), "{name:?}");
    let sharing = seawall(&["wrap", "--sharing", "nobody", "--", "true"]).await;
    assert!(sharing.code == 2 && sharing.error.contains("everyone"), "{sharing:?}");
    let far = seawall(&["wrap", "--listen", "0.0.0.0:0", "--", "true"]).await;
    assert!(far.code == 2 && far.error.contains("callers"), "{far:?}");
}
