//! Several upstreams as one: merged lists, where requests go, what is told of changes, and groups.
#![expect(clippy::disallowed_methods, reason = "a stream is read by a task of the test")]

use seawall_tests::{
    Answer, Client, Daemon, Era, Listening, PATIENCE, caller, eventually, quoted, request_text, send, well,
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];
/// The resource of the fixture that can be made to change.
const WATCHED: &str = "test://watched-resource";
const NARROW: &str = "narrow-token";

/// A daemon with two servers that offer the same, `a` of the older era and `b` of the modern one, and one that has
/// tools and logs.
struct Scene {
    daemon: Daemon,
    _servers: [Listening; 2],
}

impl Scene {
    async fn start(more: &str) -> Self {
        Self::start_in(["a", "b"], more).await
    }

    /// The same with the servers in this order.
    async fn start_in(order: [&str; 2], more: &str) -> Self {
        let a = Listening::start("conformance-fixture", &["--era", "legacy"]).await;
        let b = Listening::start("conformance-fixture", &["--era", "modern"]).await;
        let table = |name: &str| {
            let url = if name == "a" { a.url() } else { b.url() };
            format!("[servers.{name}]\nurl = {}\n", quoted(url))
        };
        let config = format!("{more}{}{}{}", table(order[0]), table(order[1]), well());
        Self { daemon: Daemon::start(&config).await, _servers: [a, b] }
    }

    /// A client of all servers, once everything they have is known.
    async fn client(&self, era: Era) -> Client {
        self.client_at(era, "/mcp", None).await
    }

    async fn client_at(&self, era: Era, path: &str, token: Option<&str>) -> Client {
        let client = Client::open(era, &self.daemon.url(path), token).await;
        eventually("every list is known", PATIENCE, async || {
            let mut whole = true;
            for (method, _, _) in LISTS {
                let answer = client.request(method, "{}").await;
                whole &= answer.value["result"]["_meta"]["seawall/missing"].is_null();
            }
            whole
        })
        .await;
        client
    }
}

/// Each list with the member of its items, and what tells one from the others.
const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

/// What a list holds.
async fn listed(client: &Client, list: usize) -> Vec<String> {
    let (method, member, key) = LISTS[list];
    let answer = client.request(method, "{}").await;
    let items = answer.value["result"][member].as_array();
    let items = items.unwrap_or_else(|| panic!("no list came: {answer:#?}"));
    items.iter().filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}

fn count(names: &[String], begin: &str) -> usize {
    names.iter().filter(|name| name.starts_with(begin)).count()
}

fn error(answer: &Answer) -> (i64, &str) {
    let error = &answer.value["error"];
    (error["code"].as_i64().unwrap_or_default(), error["message"].as_str().unwrap_or_default())
}

/// A stream that is read as it comes. Dropped, it is closed.
struct Stream {
    said: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Stream {
    async fn open(url: &str, verb: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let rest = url.strip_prefix("http://").expect("the daemon speaks HTTP");
        let (host, path) = rest.split_once('/').expect("an endpoint has a path");
        let mut head =
            format!("{verb} /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut connection = TcpStream::connect(host).await.expect("the daemon listens");
        connection.write_all(format!("{head}\r\n{body}").as_bytes()).await.expect("the daemon reads");
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        let task = tokio::spawn(async move {
            let mut buffer = [0_u8; 4096];
            while let Ok(count @ 1..) = connection.read(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                heard.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Self { said, task }
    }

    /// What a session's client is told beside its calls.
    async fn of_session(daemon: &Daemon, session: &str) -> Self {
        let headers = [("accept", "text/event-stream"), ("mcp-session-id", session)];
        let stream = Self::open(&daemon.url("/mcp"), "GET", &headers, "").await;
        stream.until("HTTP/1.1 200").await;
        stream
    }

    /// A modern client's stream of changes, and the filter that was granted.
    async fn of_changes(daemon: &Daemon, path: &str, filter: &Value) -> (Self, Value) {
        let params = json!({"notifications": filter}).to_string();
        let body = request_text(Era::Modern, 77, "subscriptions/listen", &params, false);
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "subscriptions/listen"),
        ];
        let stream = Self::open(&daemon.url(path), "POST", &headers, &body).await;
        stream.until("notifications/subscriptions/acknowledged").await;
        let granted = stream.messages().remove(0)["params"]["notifications"].clone();
        (stream, granted)
    }

    fn text(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn until(&self, words: &str) {
        eventually(&format!("the stream says {words}"), PATIENCE, async || self.text().contains(words)).await;
    }

    /// Calls the tool that makes a server tell something until it is told here: a server tells nobody whose own
    /// stream is not open yet, and when it is cannot be seen from here.
    async fn until_told(&self, client: &Client, trigger: &str, words: &str) {
        eventually(&format!("the stream says {words}"), PATIENCE, async || {
            client.call(trigger, "{}").await.said();
            self.text().contains(words)
        })
        .await;
    }

    fn messages(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.trim_end().strip_prefix("data:"));
        data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
    }

    /// The first message with this method.
    fn message(&self, method: &str) -> Value {
        self.messages().into_iter().find(|message| message["method"] == method).unwrap_or_default()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A session opened by hand, for its id: the stream of its own messages, and a client in it.
async fn session(scene: &Scene) -> (Client, Stream) {
    let opening = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "seawall-tests", "version": "1"},
    });
    let client = scene.client(Era::Legacy).await;
    let answer = client.request("initialize", &opening).await;
    let id = answer.header("mcp-session-id").to_owned();
    let client = client.with_session(&id);
    let stream = Stream::of_session(&scene.daemon, &id).await;
    (client, stream)
}

#[tokio::test]
async fn lists_hold_what_all_servers_have() {
    let scene = Scene::start("").await;
    for era in ERAS {
        let client = scene.client(era).await;
        let tools = listed(&client, 0).await;
        assert!(
            ["a__greet", "b__greet", "well__echo"].iter().all(|tool| tools.iter().any(|had| had == tool))
        );
        let prompts = listed(&client, 1).await;
        assert_eq!((count(&prompts, "a__test_"), count(&prompts, "b__test_")), (5, 5), "{prompts:?}");
        // The same URIs at both: each is listed once, as it is.
        let resources = listed(&client, 2).await;
        assert_eq!(resources, ["test://static-text", "test://static-binary", WATCHED]);
        assert_eq!(listed(&client, 3).await, ["test://template/{id}/data"]);
    }
}

#[tokio::test]
async fn what_some_server_has_is_declared() {
    let scene = Scene::start("[groups.plain]\nservers = [\"well\"]\n").await;
    let method = |era: Era| if era == Era::Legacy { "initialize" } else { "server/discover" };
    let opening = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    for era in ERAS {
        let client = scene.client(era).await;
        let answer = client.request(method(era), &opening).await;
        let offered = &answer.value["result"]["capabilities"];
        assert_eq!(offered["resources"], json!({"listChanged": true, "subscribe": true}), "{answer:#?}");
        for kind in ["tools", "prompts", "completions", "logging"] {
            assert!(offered[kind].is_object(), "{kind}: {answer:#?}");
        }
        let plain = scene.client_at(era, "/mcp/group/plain", None).await;
        let answer = plain.request(method(era), &opening).await;
        let all_it_has = json!({"tools": {"listChanged": true}, "logging": {}});
        assert_eq!(answer.value["result"]["capabilities"], all_it_has, "{answer:#?}");
    }
}

#[tokio::test]
async fn prompts_are_found_by_every_spelling_of_their_names() {
    let scene = Scene::start("").await;
    for era in ERAS {
        let client = scene.client(era).await;
        for server in ["a", "b"] {
            for name in ["__test_simple_prompt", "__Test-Simple_Prompt", ".test_simple_prompt"] {
                let name = format!("{server}{name}");
                let answer = client.request("prompts/get", &json!({"name": name})).await;
                let text = &answer.value["result"]["messages"][0]["content"]["text"];
                assert_eq!(text, "This is a simple prompt for testing.", "{name}: {answer:#?}");
            }
        }
        for name in ["a__none", "test_simple_prompt"] {
            let answer = client.request("prompts/get", &json!({"name": name})).await;
            let (code, text) = error(&answer);
            assert!(code == -32602 && text.contains(name), "{answer:#?}");
        }
    }
}

#[tokio::test]
async fn resources_are_read_where_they_are() {
    let scene = Scene::start("").await;
    for era in ERAS {
        let client = scene.client(era).await;
        for (uri, words) in
            [("test://static-text", "static text resource"), ("test://template/5/data", "Data for ID: 5")]
        {
            let answer = client.request("resources/read", &json!({"uri": uri})).await;
            let text = answer.value["result"]["contents"][0]["text"].as_str().unwrap_or_default();
            assert!(text.contains(words), "{answer:#?}");
        }
        let answer = client.request("resources/read", &json!({"uri": "none://x"})).await;
        let (code, text) = error(&answer);
        assert_eq!(code, if era == Era::Legacy { -32002 } else { -32602 }, "{answer:#?}");
        assert!(text.contains("none://x"), "{answer:#?}");
    }
}

#[tokio::test]
async fn completions_come_from_the_server_of_the_prompt_or_template() {
    let scene = Scene::start("").await;
    for era in ERAS {
        let client = scene.client(era).await;
        for server in ["a", "b"] {
            let name = format!("{server}__test_prompt_with_arguments");
            let params = json!({
                "ref": {"type": "ref/prompt", "name": name},
                "argument": {"name": "arg1", "value": "test"},
            });
            let answer = client.request("completion/complete", &params).await;
            let values = &answer.value["result"]["completion"]["values"];
            assert_eq!(*values, json!(["test value 1", "test value 2"]), "{answer:#?}");
        }
        let params = json!({
            "ref": {"type": "ref/resource", "uri": "test://template/{id}/data"},
            "argument": {"name": "id", "value": "1"},
        });
        let answer = client.request("completion/complete", &params).await;
        assert_eq!(answer.value["result"]["completion"]["values"], json!(["1", "123"]), "{answer:#?}");
    }
}

#[tokio::test]
async fn tools_are_found_by_a_dot_and_by_a_name_that_one_server_has() {
    let scene = Scene::start("").await;
    for era in ERAS {
        let client = scene.client(era).await;
        for name in ["well__echo", "well.echo", "echo"] {
            assert_eq!(client.call(name, r#"{"text":"x"}"#).await.said(), "x", "{name}");
        }
        // Both fixtures have it.
        client.call("greet", r#"{"name":"x"}"#).await.assert_unknown_tool();
        client.call("b.greet", r#"{"name":"x"}"#).await.said();
    }
}

#[tokio::test]
async fn a_session_hears_of_what_it_subscribed_to_at_a_legacy_server() {
    Box::pin(a_session_hears_of_its_resource(["a", "b"])).await;
}

#[tokio::test]
async fn a_session_hears_of_what_it_subscribed_to_at_a_modern_server() {
    Box::pin(a_session_hears_of_its_resource(["b", "a"])).await;
}

async fn a_session_hears_of_its_resource(order: [&str; 2]) {
    let scene = Scene::start_in(order, "").await;
    let (client, stream) = session(&scene).await;
    let none = client.request("resources/subscribe", &json!({"uri": "none://x"})).await;
    assert_eq!(error(&none).0, -32002, "{none:#?}");
    let params = json!({"uri": WATCHED});
    let subscribed = client.request("resources/subscribe", &params).await;
    assert_eq!(subscribed.value["result"], json!({}), "{subscribed:#?}");
    let trigger = format!("{}__test_trigger_resource_update", order[0]);
    stream.until_told(&client, &trigger, "notifications/resources/updated").await;
    assert_eq!(stream.message("notifications/resources/updated")["params"]["uri"], WATCHED);
    let unsubscribed = client.request("resources/unsubscribe", &params).await;
    assert_eq!(unsubscribed.value["result"], json!({}), "{unsubscribed:#?}");
}

#[tokio::test]
async fn a_stream_of_changes_tells_of_resources_of_a_legacy_server() {
    Box::pin(a_stream_tells_of_a_resource(["a", "b"])).await;
}

#[tokio::test]
async fn a_stream_of_changes_tells_of_resources_of_a_modern_server() {
    Box::pin(a_stream_tells_of_a_resource(["b", "a"])).await;
}

async fn a_stream_tells_of_a_resource(order: [&str; 2]) {
    let scene = Scene::start_in(order, "").await;
    let client = scene.client(Era::Modern).await;
    let asked = json!({"resourceSubscriptions": [WATCHED, "none://x"], "promptsListChanged": true});
    let (stream, granted) = Stream::of_changes(&scene.daemon, "/mcp", &asked).await;
    assert_eq!(granted, json!({"resourceSubscriptions": [WATCHED], "promptsListChanged": true}));
    let trigger = format!("{}__test_trigger_resource_update", order[0]);
    stream.until_told(&client, &trigger, "notifications/resources/updated").await;
    let update = stream.message("notifications/resources/updated");
    assert_eq!(update["params"]["uri"], WATCHED);
    assert_eq!(update["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 77);
}

#[tokio::test]
async fn changed_prompts_are_told_to_whoever_asked_for_it() {
    for server in ["a", "b"] {
        let scene = Scene::start("").await;
        let (client, session) = session(&scene).await;
        let filter = json!({"promptsListChanged": true});
        let (wanting, granted) = Stream::of_changes(&scene.daemon, "/mcp", &filter).await;
        assert_eq!(granted, filter);
        let (other, granted) =
            Stream::of_changes(&scene.daemon, "/mcp", &json!({"toolsListChanged": true})).await;
        assert_eq!(granted, json!({"toolsListChanged": true}));
        let trigger = format!("{server}__test_trigger_prompt_change");
        wanting.until_told(&client, &trigger, "notifications/prompts/list_changed").await;
        session.until("notifications/prompts/list_changed").await;
        assert!(!other.text().contains("prompts"), "{}", other.text());
    }
}

#[tokio::test]
async fn a_level_of_log_messages_is_taken_and_nonsense_is_not() {
    let scene = Scene::start("").await;
    let client = scene.client(Era::Legacy).await;
    let taken = client.request("logging/setLevel", &json!({"level": "error"})).await;
    assert_eq!(taken.value["result"], json!({}), "{taken:#?}");
    let refused = client.request("logging/setLevel", &json!({"level": "loud"})).await;
    assert_eq!(error(&refused).0, -32602, "{refused:#?}");
}

#[tokio::test]
async fn a_group_has_its_servers_and_no_others() {
    let groups = concat!(
        "[groups.some]\nservers = [\"b\", \"well\"]\n",
        "[groups.few]\nservers = [\"b\", \"well\"]\ntools = [\"b__greet\", \"*__echo\"]\n",
    );
    let scene = Scene::start(groups).await;
    for era in ERAS {
        let client = scene.client_at(era, "/mcp/group/some", None).await;
        let tools = listed(&client, 0).await;
        assert!(count(&tools, "b__") > 5 && count(&tools, "well__") > 5 && count(&tools, "a__") == 0);
        let prompts = listed(&client, 1).await;
        assert_eq!((count(&prompts, "a__"), count(&prompts, "b__")), (0, 5), "{prompts:?}");
        assert_eq!(client.call("well__echo", r#"{"text":"x"}"#).await.said(), "x");
        client.call("a__greet", r#"{"name":"x"}"#).await.assert_unknown_tool();
        // In the group it is the only one.
        client.call("greet", r#"{"name":"x"}"#).await.said();
        let answer = client.request("prompts/get", &json!({"name": "a__test_simple_prompt"})).await;
        assert_eq!(error(&answer).0, -32602, "{answer:#?}");

        let few = scene.client_at(era, "/mcp/group/few", None).await;
        assert_eq!(listed(&few, 0).await, ["b__greet", "well__echo"]);
        few.call("well__pid", "{}").await.assert_unknown_tool();
    }
    let none = Client::modern(&scene.daemon.url("/mcp/group/none"), None);
    assert_eq!(none.request("tools/list", "{}").await.status, 404);
    let refused = Client::try_legacy(&scene.daemon.url("/mcp/group/none"), None).await;
    assert_eq!(refused.expect_err("there is no such group").status, 404);
}

#[tokio::test]
async fn a_group_of_a_server_that_is_not_there_is_refused() {
    let (code, said) = Daemon::refused(&format!("[groups.g]\nservers = [\"wel\"]\n{}", well())).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("groups.g.servers[0]") && said.contains("\"well\""), "{said}");
}

#[tokio::test]
async fn a_caller_sees_nothing_of_a_server_that_it_may_not_reach() {
    let groups = "[groups.other]\nservers = [\"b\"]\n";
    let scene = Scene::start(&format!("{}{groups}", caller("narrow", NARROW, &["a__greet"]))).await;
    for era in ERAS {
        let client = scene.client_at(era, "/mcp", Some(NARROW)).await;
        assert_eq!(listed(&client, 0).await, ["a__greet"]);
        let prompts = listed(&client, 1).await;
        assert_eq!((count(&prompts, "a__"), count(&prompts, "b__")), (5, 0), "{prompts:?}");
        let answer = client.request("prompts/get", &json!({"name": "b__test_simple_prompt"})).await;
        assert_eq!(error(&answer).0, -32602, "{answer:#?}");
    }
    let bearer = format!("Bearer {NARROW}");
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("authorization", bearer.as_str()),
    ];
    let elsewhere = send(&scene.daemon.url("/mcp/group/other"), "POST", &headers, "{}").await;
    assert_eq!(elsewhere.status, 404, "{elsewhere:?}");
}
