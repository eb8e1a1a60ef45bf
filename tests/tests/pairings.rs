//! The official SDKs as clients of each era, before an upstream of each era, with Seawall between them.
//!
//! What they do here is what both eras have words for: to be asked, to hear of progress, to take a call back, to
//! hear that tools have changed, and to subscribe to a resource and hear that it has. Left out is:
//! - The TypeScript SDK v1 as a modern client: it speaks the legacy era only.
//! - Log messages. A modern client may be sent them only for a request that names a level, and the fixture, as a
//!   legacy server, sends them on its session's own stream, where they belong to no request. `cross.rs` has an
//!   upstream that sends them with the call.
#![expect(clippy::disallowed_methods, reason = "the clients are programs that the test itself runs")]

use seawall_tests::{
    Client, Daemon, Era, Listening, PATIENCE, Transport, Upstream, eventually, note, provisioned, quoted,
    within,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// How long one client may take for all it does.
const CLIENT: Duration = Duration::from_secs(90);

/// The content of every form that a client fills in.
const FORM: &str = r#"{"email":"a@b","username":"ada"}"#;
const SAMPLE: &str = "a sample";
/// The resource of the fixture that one of its tools makes it tell of.
const WATCHED: &str = "test://watched-resource";

/// A client program on one of the official SDKs.
struct Sdk {
    name: &'static str,
    program: String,
    arguments: Vec<String>,
}

fn script(name: &str) -> String {
    text_of(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name))
}

fn text_of(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("paths of builds are UTF-8")
}

impl Sdk {
    fn typescript(name: &'static str, sdk: &str, era: &str) -> Self {
        let arguments = [&script("client.mjs"), "--sdk", sdk, "--era", era].map(str::to_owned).into();
        Self { name, program: provisioned("npm/bin/node"), arguments }
    }

    fn python(name: &'static str, era: &str) -> Self {
        let arguments = [&script("client.py"), "--era", era].map(str::to_owned).into();
        Self { name, program: provisioned("python/bin/python"), arguments }
    }

    fn all(era: Era) -> Vec<Self> {
        match era {
            Era::Legacy => vec![
                Self::typescript("the TypeScript SDK v1, legacy", "v1", "legacy"),
                Self::typescript("the TypeScript SDK v2, legacy", "v2", "legacy"),
                Self::python("the Python SDK, legacy", "legacy"),
            ],
            Era::Modern => vec![
                Self::typescript("the TypeScript SDK v2, modern", "v2", "modern"),
                Self::python("the Python SDK, modern", "modern"),
            ],
        }
    }

    /// Runs the client once, over one connection; gives what it told, line by line.
    async fn run(&self, url: &str, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--url", url]).args(arguments);
        command.env("NODE_PATH", provisioned("npm/node_modules")).stdin(Stdio::null()).kill_on_drop(true);
        let output = within(&format!("the end of {}", self.name), CLIENT, command.output()).await;
        let output = output.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        let printed = String::from_utf8_lossy(&output.stdout);
        let logged = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{printed}\n{logged}", self.name, output.status);
        let line = |line: &str| {
            let line = serde_json::from_str(line);
            told(&line.unwrap_or_else(|error| panic!("{}: {error} in {printed}", self.name)))
        };
        printed.lines().filter_map(line).collect()
    }
}

/// A line of a client in short; nothing for what its SDK made up.
fn told(line: &Value) -> Option<String> {
    if let Some(method) = line["asked"].as_str() {
        return Some(format!("asked {method}"));
    }
    if let Some(progress) = line["progress"]["progress"].as_f64() {
        // The TypeScript SDK v2 tells of its own rounds of questions as progress, which has no total.
        return line["progress"]["total"].is_number().then(|| format!("progress {progress}"));
    }
    let text = line["result"]["content"][0]["text"].as_str().filter(|_| line["result"]["isError"] != true);
    Some(text.map_or_else(|| line.to_string(), str::to_owned))
}

/// The daemon before two servers of one era: `it`, the conformance fixture, and `other`, which notes what
/// reaches it.
struct Scene {
    daemon: Daemon,
    other: Upstream,
    _fixture: Listening,
}

impl Scene {
    async fn start(upstream: Era) -> Self {
        let (era, transport) = match upstream {
            Era::Legacy => ("legacy", Transport::LegacyHttp),
            Era::Modern => ("modern", Transport::ModernHttp),
        };
        let fixture = Listening::start("conformance-fixture", &["--era", era]).await;
        let other = Upstream::start(transport, "other", &[], "").await;
        let config = format!("[servers.it]\nurl = {}\n{}", quoted(fixture.url()), other.table());
        Self { daemon: Daemon::start(&config).await, other, _fixture: fixture }
    }
}

async fn the_sdks_do_what_their_era_can(client: Era, upstream: Era) {
    for sdk in Sdk::all(client) {
        // Each has servers of its own: what one did is not taken for another's.
        let scene = Scene::start(upstream).await;
        let began = Instant::now();
        converses(&scene, &sdk).await;
        takes_back_and_hears_of_changes(&scene, &sdk, upstream).await;
        subscribes(&scene, &sdk).await;
        if client == upstream {
            hears_of_the_servers_own_change(&scene, &sdk).await;
        }
        scene.daemon.until_idle().await;
        note(&format!("{} before a server of the {upstream:?} era took {:?}", sdk.name, began.elapsed()));
    }
}

/// It is asked for a form and for a sample, and hears of progress.
async fn converses(scene: &Scene, sdk: &Sdk) {
    let answers = ["--answer", FORM, "--sample", SAMPLE, "--progress"];
    let calls = [
        ["--call", "test_elicitation", "--arguments", r#"{"message":"Who are you?"}"#],
        ["--call", "test_sampling", "--arguments", r#"{"prompt":"Say something."}"#],
        ["--call", "test_tool_with_progress", "--arguments", "{}"],
    ];
    let arguments = [&answers[..], calls.as_flattened()].concat();
    let told = sdk.run(&scene.daemon.url("/mcp/it"), &arguments).await;
    let expected = [
        "asked elicitation/create",
        &format!("User response: action=accept, content={FORM}"),
        "asked sampling/createMessage",
        &format!("LLM response: {SAMPLE}"),
        "progress 0",
        "progress 50",
        "progress 100",
        "Progress was reported",
    ];
    assert_eq!(told, expected, "{}", sdk.name);
}

/// It takes a call back, and hears of a tool that was added.
///
/// On the endpoint of all servers, where it is Seawall that tells, whatever the eras.
async fn takes_back_and_hears_of_changes(scene: &Scene, sdk: &Sdk, upstream: Era) {
    // The second takes some time, so that the session is not ended right after the cancel, which could then be
    // overtaken by that end.
    let slow = ["--call", "other__slow", "--arguments", r#"{"ms":60000,"steps":600}"#];
    let arguments = [&["--cancel-on-progress"][..], &slow, &["--until-changed", "other__add_tool"]].concat();
    let told = sdk.run(&scene.daemon.url("/mcp"), &arguments).await;
    assert_eq!(told, [r#"{"cancelled":true}"#, r#"{"changed":"tools"}"#], "{}", sdk.name);

    let record = scene.other.record();
    let sent = record.until_called("slow").await;
    let what = format!("{} takes the call back upstream", sdk.name);
    match upstream {
        Era::Legacy => {
            let named = |entry: &Value| {
                entry["method"] == "notifications/cancelled"
                    && entry["requestId"] == sent["id"]
                    && entry["session"] == sent["session"]
            };
            record.until(&what, named).await;
        }
        Era::Modern => {
            let closed = |entry: &Value| entry["event"] == "stream_closed" && entry["id"] == sent["id"];
            record.until(&what, closed).await;
        }
    }
    assert_eq!(record.calls("slow").len(), 1, "{}: {:#?}", sdk.name, record.entries());
}

/// It subscribes to a resource, hears that it has changed, and takes the subscription back.
///
/// On the endpoint of all servers Seawall finds the resource's server and arranges what is told. On that of one
/// it does so across the eras; within one, the subscription is a request to the server like any other.
async fn subscribes(scene: &Scene, sdk: &Sdk) {
    // Whose a resource is cannot be told before the servers have been listed.
    let lists = Client::modern(&scene.daemon.url("/mcp"), None);
    eventually("the resource is listed", PATIENCE, async || {
        let answer = lists.request("resources/list", "{}").await;
        let resources = answer.value["result"]["resources"].as_array();
        resources.is_some_and(|all| all.iter().any(|resource| resource["uri"] == WATCHED))
    })
    .await;
    for (path, tool) in
        [("/mcp", "it__test_trigger_resource_update"), ("/mcp/it", "test_trigger_resource_update")]
    {
        let arguments = ["--until-updated", WATCHED, "--by", tool];
        let told = sdk.run(&scene.daemon.url(path), &arguments).await;
        assert_eq!(told, [json!({"updated": WATCHED}).to_string()], "{} at {path}", sdk.name);
    }
}

/// Within one era, the endpoint of one server tells what that server itself tells.
async fn hears_of_the_servers_own_change(scene: &Scene, sdk: &Sdk) {
    let arguments = ["--until-changed", "test_trigger_tool_change"];
    let told = sdk.run(&scene.daemon.url("/mcp/it"), &arguments).await;
    assert_eq!(told, [r#"{"changed":"tools"}"#], "{}", sdk.name);
}

#[tokio::test]
async fn legacy_clients_before_legacy_servers() {
    Box::pin(the_sdks_do_what_their_era_can(Era::Legacy, Era::Legacy)).await;
}

#[tokio::test]
async fn legacy_clients_before_modern_servers() {
    Box::pin(the_sdks_do_what_their_era_can(Era::Legacy, Era::Modern)).await;
}

#[tokio::test]
async fn modern_clients_before_legacy_servers() {
    Box::pin(the_sdks_do_what_their_era_can(Era::Modern, Era::Legacy)).await;
}

#[tokio::test]
async fn modern_clients_before_modern_servers() {
    Box::pin(the_sdks_do_what_their_era_can(Era::Modern, Era::Modern)).await;
}
