//! Who may come in, what each caller may see, and what is refused at the door.

use seawall_tests::{Client, Daemon, Era, JSON, Response, Transport, Upstream, caller, send, well};

/// The tokens of a caller that may use one tool, and of one that may use all of one server.
const NARROW: &str = "narrow-token";
const BROAD: &str = "broad-token";

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const INITIALIZE: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","#,
    r#""capabilities":{},"clientInfo":{"name":"seawall-tests","version":"1"}}}"#
);

/// What needs a token, and what does not.
const GUARDED: [(&str, &str); 4] =
    [("POST", "/mcp"), ("POST", "/mcp/well"), ("GET", "/metrics"), ("GET", "/api/v1/status")];
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// The tables of the two callers.
fn callers() -> String {
    caller("narrow", NARROW, &["well__echo"]) + &caller("broad", BROAD, &["well__*"])
}

async fn guarded() -> Daemon {
    Daemon::start(&(callers() + &well())).await.as_caller(BROAD)
}

/// Opens a session with further headers.
async fn initialize(daemon: &Daemon, headers: &[(&str, &str)]) -> Response {
    send(&daemon.url("/mcp"), "POST", &[&JSON[..], headers].concat(), INITIALIZE).await
}

#[tokio::test]
async fn each_caller_lists_what_it_may_call() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let daemon = Daemon::start(&(callers() + &well() + other.table())).await;
    for era in [Era::Legacy, Era::Modern] {
        let narrow = Client::open(era, &daemon.url("/mcp"), Some(NARROW)).await;
        assert_eq!(narrow.list().await.names, ["well__echo"]);
        let narrow = Client::open(era, &daemon.url("/mcp/well"), Some(NARROW)).await;
        assert_eq!(narrow.list().await.names, ["echo"]);

        let broad = Client::open(era, &daemon.url("/mcp"), Some(BROAD)).await;
        let listing = broad.list().await;
        assert!(listing.has("well__echo") && listing.has("well__pid"), "{listing:#?}");
        assert!(listing.names.iter().all(|name| name.starts_with("well__")), "{listing:#?}");
    }
}

#[tokio::test]
async fn a_tool_that_is_not_allowed_is_unknown_and_never_reached() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let tables = caller("narrow", NARROW, &["other__echo"]) + other.table();
    let daemon = Daemon::start(&tables).await;
    for era in [Era::Legacy, Era::Modern] {
        for (path, allowed, hidden) in [("/mcp", "other__echo", "other__pid"), ("/mcp/other", "echo", "pid")]
        {
            let client = Client::open(era, &daemon.url(path), Some(NARROW)).await;
            client.call(hidden, "{}").await.assert_unknown_tool();
            client.call("no_such_tool", "{}").await.assert_unknown_tool();
            assert_eq!(client.call(allowed, r#"{"text":"allowed"}"#).await.said(), "allowed");
        }
    }
    assert!(other.record().calls("pid").is_empty(), "{:#?}", other.record().entries());
}

#[tokio::test]
async fn without_a_known_token_only_health_is_told() {
    let daemon = guarded().await;
    for token in [None, Some("Bearer wrong-token"), Some("Basic bmFycm93OnRva2Vu")] {
        let mut headers = JSON.to_vec();
        headers.extend(token.map(|token| ("authorization", token)));
        for (verb, path) in GUARDED {
            let body = if verb == "POST" { PING } else { "" };
            let response = send(&daemon.url(path), verb, &headers, body).await;
            assert_eq!(response.status, 401, "{verb} {path} with {token:?}: {response:?}");
            let challenge = response.header("www-authenticate");
            assert!(challenge.starts_with("Bearer"), "{verb} {path} with {token:?}: {response:?}");
        }
        for path in OPEN {
            let response = send(&daemon.url(path), "GET", &headers, "").await;
            assert_eq!(response.status, 200, "{path} with {token:?}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_known_token_opens_status_and_metrics() {
    let daemon = guarded().await;
    assert_eq!(daemon.status().await["pid"], daemon.pid());
    assert!(!daemon.metrics().await.is_empty());
}

#[tokio::test]
async fn a_token_that_was_never_filled_in_is_told_from_a_wrong_one() {
    let daemon = guarded().await;
    let unexpanded = initialize(&daemon, &[("authorization", "Bearer ${TOKEN}")]).await;
    assert_eq!(unexpanded.status, 400, "{unexpanded:?}");
    assert!(unexpanded.body.contains("TOKEN"), "the variable is not named: {unexpanded:?}");

    let empty = initialize(&daemon, &[("authorization", "Bearer ")]).await;
    assert_eq!(empty.status, 400, "{empty:?}");
    assert!(empty.body.to_lowercase().contains("token"), "it does not say what is empty: {empty:?}");
}

#[tokio::test]
async fn a_foreign_host_is_refused_everywhere() {
    let daemon = Daemon::start(&well()).await;
    let foreign = ("host", "seawall.example");
    assert_eq!(initialize(&daemon, &[foreign]).await.status, 403);
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(send(&daemon.url(path), "GET", &[foreign], "").await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn a_foreign_origin_is_refused_and_one_of_this_machine_is_not() {
    let daemon = Daemon::start(&well()).await;
    for origin in ["https://seawall.example", "http://localhost.seawall.example", "null"] {
        let response = initialize(&daemon, &[("origin", origin)]).await;
        assert_eq!(response.status, 403, "{origin}: {response:?}");
    }
    for origin in ["http://localhost:5173", &daemon.url("")] {
        let response = initialize(&daemon, &[("origin", origin)]).await;
        assert_eq!(response.status, 200, "{origin}: {response:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_say_it_is_json_is_refused() {
    let daemon = Daemon::start(&well()).await;
    let headers = [("content-type", "text/plain"), JSON[1]];
    let response = send(&daemon.url("/mcp"), "POST", &headers, INITIALIZE).await;
    assert_eq!(response.status, 415, "{response:?}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let daemon = Daemon::start(&format!("[limits]\nmessage = \"4KiB\"\n{}", well())).await;
    let long = INITIALIZE.replace("seawall-tests", &"x".repeat(8 * 1024));
    let response = send(&daemon.url("/mcp"), "POST", &JSON, long).await;
    assert_eq!(response.status, 413, "{response:?}");
    assert_eq!(initialize(&daemon, &[]).await.status, 200);
}

#[tokio::test]
async fn a_session_belongs_to_the_caller_that_opened_it() {
    let daemon = guarded().await;
    let owner = Client::legacy(&daemon.url("/mcp"), Some(NARROW)).await;
    let thief = owner.with_token(BROAD);
    assert_eq!(thief.request("tools/list", "{}").await.status, 404);
    assert_eq!(thief.delete().await.status, 404);
    assert_eq!(owner.list().await.names, ["well__echo"]);
}

#[tokio::test]
async fn beyond_loopback_nothing_starts_without_callers() {
    let (code, said) = Daemon::refused(&format!("listen = \"0.0.0.0:0\"\n{}", well())).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("callers"), "it does not say what is missing: {said}");
}

#[tokio::test]
async fn whoever_may_not_use_every_tool_may_not_touch_the_servers_of_others() {
    let other = Upstream::start(Transport::Stdio, "other", &[], "").await;
    let daemon =
        Daemon::start(&(callers() + &caller("all", "all-token", &["*"]) + &well() + other.table())).await;
    for (token, allowed) in [(NARROW, false), (BROAD, false), ("all-token", true)] {
        let bearer = format!("Bearer {token}");
        let headers = [&JSON[..], &[("authorization", bearer.as_str())]].concat();
        let restart = send(&daemon.url("/api/v1/upstreams/well/restart"), "POST", &headers, "{}").await;
        assert_eq!(restart.status, if allowed { 200 } else { 403 }, "{token}: {restart:?}");
        let logs = send(&daemon.url("/api/v1/upstreams/well/logs"), "GET", &headers, "").await;
        assert_eq!(logs.status, if allowed { 200 } else { 403 }, "{token}: {logs:?}");
        // An endpoint none of whose tools a caller may use does not exist for it, prompts and resources included.
        let elsewhere = send(&daemon.url("/mcp/other"), "POST", &headers, INITIALIZE).await;
        assert_eq!(elsewhere.status, if allowed { 200 } else { 404 }, "{token}: {elsewhere:?}");
    }
}
