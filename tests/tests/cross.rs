//! Translation between the eras: what a client of the one gets from an upstream of the other.
#![expect(
    clippy::disallowed_methods,
    reason = "an upstream that a test plays itself runs in tasks of its own"
)]

use seawall_tests::{
    Answer, Client, Daemon, Era, Listening, PATIENCE, Transport, Upstream, caller, eventually, quoted,
};
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// The endpoints of a server `it`, and what the names of its tools begin with there.
const ENDPOINTS: [(&str, &str); 2] = [("/mcp/it", ""), ("/mcp", "it__")];
/// The tokens of two callers.
const ADA: &str = "ada-token";
const EVE: &str = "eve-token";

const ELICIT: &str = "elicitation/create";
const SAMPLE: &str = "sampling/createMessage";
const ROOTS: &str = "roots/list";

/// The capabilities of a client that can be asked everything.
fn able() -> Value {
    json!({"elicitation": {}, "sampling": {}, "roots": {}})
}

/// The daemon before the conformance fixture, which speaks one era and is called `it`.
struct Scene {
    daemon: Daemon,
    _fixture: Listening,
}

impl Scene {
    async fn start(upstream: Era) -> Self {
        let era = if upstream == Era::Legacy { "legacy" } else { "modern" };
        let fixture = Listening::start("conformance-fixture", &["--era", era]).await;
        let daemon = before(fixture.url()).await;
        Self { daemon, _fixture: fixture }
    }

    /// A modern client that can be asked everything.
    fn modern(&self, path: &str) -> Client {
        Client::modern(&self.daemon.url(path), None).able_to(able())
    }

    /// A legacy client that can be asked everything.
    async fn legacy(&self, path: &str) -> Client {
        Client::legacy_able(&self.daemon.url(path), None, &able()).await
    }
}

/// The daemon before one server `it` at this URL.
async fn before(url: &str) -> Daemon {
    Daemon::start(&format!("[servers.it]\nurl = {}\n", quoted(url))).await
}

/// Makes a request; its answer has to have its id.
async fn ask(client: &Client, method: &str, params: &Value) -> Answer {
    let call = client.start(method, params);
    let id = call.id();
    let answer = call.answer().await;
    assert_eq!(answer.value["id"], id, "{method} {params}: {answer:#?}");
    answer
}

async fn call(client: &Client, tool: &str, arguments: &Value) -> Answer {
    ask(client, "tools/call", &json!({"name": tool, "arguments": arguments})).await
}

/// The parameters by which a modern client calls again with answers.
fn again(tool: &str, arguments: &Value, state: &str, answers: &Value) -> Value {
    json!({"name": tool, "arguments": arguments, "inputResponses": answers, "requestState": state})
}

/// A legacy upstream asks one question after the other, always by this name.
fn answering(answer: &Value) -> Value {
    json!({"question": answer})
}

/// Calls again with the answer to what `asked` asks.
async fn go_on(client: &Client, tool: &str, arguments: &Value, asked: &Answer, answer: &Value) -> Answer {
    ask(client, "tools/call", &again(tool, arguments, asked.state(), &answering(answer))).await
}

#[track_caller]
fn assert_complete(answer: &Answer) {
    assert_eq!(answer.value["result"]["resultType"], "complete", "{answer:#?}");
}

/// Asserts a result without what only the modern era has.
#[track_caller]
fn assert_legacy(answer: &Answer) {
    let result = answer.value["result"].as_object().unwrap_or_else(|| panic!("no result came: {answer:#?}"));
    for member in ["resultType", "ttlMs", "cacheScope", "inputRequests", "requestState"] {
        assert!(!result.contains_key(member), "{member}: {answer:#?}");
    }
}

mod a_modern_client_before_a_legacy_upstream {
    use super::*;

    /// A tool that asks, what it is answered, and what it makes of it.
    struct Conversation {
        tool: &'static str,
        arguments: Value,
        method: &'static str,
        /// Where in the question's parameters something is, and what.
        detail: (&'static str, Value),
        answer: Value,
        said: &'static str,
    }

    fn conversations() -> [Conversation; 4] {
        let accept = |content: Value| json!({"action": "accept", "content": content});
        let text = |text: &str| json!({"type": "text", "text": text});
        [
            Conversation {
                tool: "test_elicitation",
                arguments: json!({"message": "Who are you?"}),
                method: ELICIT,
                detail: ("/message", json!("Who are you?")),
                answer: accept(json!({"username": "ada"})),
                said: r#"User response: action=accept, content={"username":"ada"}"#,
            },
            Conversation {
                tool: "test_elicitation_sep1034_defaults",
                arguments: json!({}),
                method: ELICIT,
                detail: ("/requestedSchema/properties/score/default", json!(95.5)),
                answer: accept(json!({"age": 31})),
                said: r#"Elicitation completed: action=accept, content={"age":31}"#,
            },
            Conversation {
                tool: "test_sampling",
                arguments: json!({"prompt": "Say something."}),
                method: SAMPLE,
                detail: ("/messages/0/content/text", json!("Say something.")),
                answer: json!({"role": "assistant", "model": "none", "content": text("a sample")}),
                said: "LLM response: a sample",
            },
            Conversation {
                tool: "test_input_required_result_list_roots",
                arguments: json!({}),
                method: ROOTS,
                detail: ("", json!({})),
                answer: json!({"roots": [{"uri": "file:///home"}]}),
                said: r#"Roots: [{"uri":"file:///home"}]"#,
            },
        ]
    }

    #[tokio::test]
    async fn is_asked_by_the_end_of_its_request_and_goes_on_with_the_answer() {
        let scene = Scene::start(Era::Legacy).await;
        for (path, prefix) in ENDPOINTS {
            let client = scene.modern(path);
            for Conversation { tool, arguments, method, detail: (place, detail), answer, said } in
                conversations()
            {
                let tool = format!("{prefix}{tool}");
                let asked = call(&client, &tool, &arguments).await;
                let question = &asked.questions()["question"];
                assert_eq!(question["method"], method, "{path} {tool}: {asked:#?}");
                assert!(asked.state().starts_with("seawall:"), "{path} {tool}: {asked:#?}");
                if !place.is_empty() {
                    let found = question["params"].pointer(place);
                    assert_eq!(found, Some(&detail), "{path} {tool}: {asked:#?}");
                }
                assert!(asked.events.is_empty(), "{path} {tool}: {asked:#?}");

                let answered = go_on(&client, &tool, &arguments, &asked, &answer).await;
                assert_eq!(answered.said(), said, "{path} {tool}");
                assert_complete(&answered);
            }
        }
        scene.daemon.until_idle().await;
    }

    #[tokio::test]
    async fn is_asked_again_for_each_further_question() {
        let scene = Scene::start(Era::Legacy).await;
        let (client, tool) = (scene.modern("/mcp/it"), "test_input_required_result_multi_round");
        let first = call(&client, tool, &json!({})).await;
        let step = |asked: &Answer| asked.questions()["question"]["params"]["message"].clone();
        assert_eq!(step(&first), "Step 1: What is your name?");
        let accept = |field: &str, value: &str| json!({"action": "accept", "content": {field: value}});
        let second = go_on(&client, tool, &json!({}), &first, &accept("name", "Ada")).await;
        assert_eq!(step(&second), "Step 2: What is your favorite color?");
        assert_ne!(first.state(), second.state());
        let end = go_on(&client, tool, &json!({}), &second, &accept("color", "red")).await;
        assert_eq!(end.said(), "Both rounds are over");
    }

    #[tokio::test]
    async fn is_asked_in_a_prompt_too() {
        let scene = Scene::start(Era::Legacy).await;
        let client = scene.modern("/mcp/it");
        let name = "test_input_required_result_prompt";
        let asked = ask(&client, "prompts/get", &json!({"name": name})).await;
        assert_eq!(asked.questions()["question"]["method"], ELICIT);
        let answers = answering(&json!({"action": "accept", "content": {"context": "the sea"}}));
        let params = json!({"name": name, "inputResponses": answers, "requestState": asked.state()});
        let prompt = ask(&client, "prompts/get", &params).await;
        let text = &prompt.value["result"]["messages"][0]["content"]["text"];
        assert_eq!(text, "Use this context: the sea", "{prompt:#?}");
        assert_complete(&prompt);
    }

    #[tokio::test]
    async fn is_not_asked_what_it_has_not_said_it_can_answer() {
        let scene = Scene::start(Era::Legacy).await;
        for conversation in conversations() {
            let capability = conversation.method.split('/').next().expect("a split has a first part");
            let mut others = able();
            others.as_object_mut().expect("capabilities are an object").remove(capability);
            for capabilities in [json!({}), others] {
                let client = Client::modern(&scene.daemon.url("/mcp/it"), None).able_to(capabilities);
                let refused = call(&client, conversation.tool, &conversation.arguments).await;
                // The tool was told that nobody answers, and this is what it makes of it.
                assert!(refused.complaint().contains("was not answered"), "{refused:#?}");
                assert_complete(&refused);
            }
        }
        scene.daemon.until_idle().await;
    }

    #[tokio::test]
    async fn has_a_state_that_is_good_for_its_caller_its_request_and_one_use() {
        let it = Upstream::start(Transport::LegacyHttp, "it", &[], "").await;
        let callers = caller("ada", ADA, &["it__*"]) + &caller("eve", EVE, &["it__*"]);
        let daemon = Daemon::start(&(callers + it.table())).await.as_caller(ADA);
        let of = |token| Client::modern(&daemon.url("/mcp/it"), Some(token)).able_to(able());
        let (client, other) = (of(ADA), of(EVE));
        let (none, tool) = (json!({}), "ask_elicit");
        let asked = call(&client, tool, &none).await;
        let state = asked.state();
        let decline = json!({"action": "decline"});
        let answers = answering(&decline);

        let last = if state.ends_with('0') { "1" } else { "0" };
        let changed = format!("{}{last}", &state[..state.len() - 1]);
        let other_call = state.replacen("seawall:", "seawall:0", 1);
        for tampered in
            [changed.as_str(), &other_call, &state[..state.len() - 2], "seawall:", "seawall:made.up"]
        {
            let refused = ask(&client, "tools/call", &again(tool, &none, tampered, &answers)).await;
            assert_eq!(refused.error_code(), -32602, "{tampered}: {refused:#?}");
        }
        for (who, tool, arguments) in [
            (&other, tool, json!({})),
            (&client, tool, json!({"text": "other arguments"})),
            (&client, "ask_sample", json!({})),
        ] {
            let refused = ask(who, "tools/call", &again(tool, &arguments, state, &answers)).await;
            assert_eq!(refused.error_code(), -32602, "{tool} {arguments}: {refused:#?}");
        }

        let without = json!({"something else": decline});
        for answers in [&none, &without] {
            let once_more = ask(&client, "tools/call", &again(tool, &none, state, answers)).await;
            assert_eq!(once_more.questions(), asked.questions(), "{answers}");
            assert_eq!(once_more.state(), state, "{answers}");
        }

        // Of two at once, one goes on.
        let params = again(tool, &none, state, &answers);
        let (one, two) =
            tokio::join!(ask(&client, "tools/call", &params), ask(&client, "tools/call", &params));
        let (taken, refused) = if one.value["result"]["isError"] == true { (two, one) } else { (one, two) };
        let heard: Value = serde_json::from_str(taken.said()).expect("it says what it was answered");
        assert_eq!(heard, decline);
        let late = ask(&client, "tools/call", &params).await;
        for refused in [refused, late] {
            assert_eq!(refused.code(), "OUTCOME_UNKNOWN", "{refused:#?}");
            assert_eq!(refused.fault()["may_have_run"], true, "{refused:#?}");
        }
        assert_eq!(it.record().calls(tool).len(), 1, "{:#?}", it.record().entries());
        assert!(it.record().calls("ask_sample").is_empty(), "{:#?}", it.record().entries());
        daemon.until_idle().await;
    }

    #[tokio::test]
    async fn is_asked_by_a_process_too() {
        let it = Upstream::start(Transport::Stdio, "it", &["--era", "legacy"], "").await;
        let daemon = Daemon::start(it.table()).await;
        let able = Client::modern(&daemon.url("/mcp/it"), None).able_to(able());
        let asked = call(&able, "ask_elicit", &json!({})).await;
        let question = &asked.questions()["question"];
        assert_eq!(question["method"], ELICIT, "{asked:#?}");
        assert_eq!(question["params"]["message"], "What is your name?", "{asked:#?}");
        let answer = json!({"action": "accept", "content": {"name": "Ada"}});
        let answered = go_on(&able, "ask_elicit", &json!({}), &asked, &answer).await;
        let heard: Value = serde_json::from_str(answered.said()).expect("it says what it was answered");
        assert_eq!(heard, answer);
        assert_eq!(it.record().calls("ask_elicit").len(), 1, "{:#?}", it.record().entries());

        let unable = Client::modern(&daemon.url("/mcp/it"), None);
        let refused = call(&unable, "ask_elicit", &json!({})).await;
        let heard: Value = serde_json::from_str(refused.said()).expect("it says what it was answered");
        assert!(heard["error"]["code"].is_i64(), "{refused:#?}");
        daemon.until_idle().await;
    }

    #[tokio::test]
    async fn gets_results_and_errors_in_its_own_words() {
        let scene = Scene::start(Era::Legacy).await;
        let client = scene.modern("/mcp/it");
        for (method, params) in [
            ("tools/list", json!({})),
            ("prompts/list", json!({})),
            ("resources/list", json!({})),
            ("resources/templates/list", json!({})),
            ("resources/read", json!({"uri": "test://static-text"})),
        ] {
            let answer = ask(&client, method, &params).await;
            assert_complete(&answer);
            let result = &answer.value["result"];
            assert!(result["ttlMs"].is_u64(), "{method}: {answer:#?}");
            // What one caller was given is nobody else's.
            assert_eq!(result["cacheScope"], "private", "{method}: {answer:#?}");
        }
        let prompt = ask(&client, "prompts/get", &json!({"name": "test_simple_prompt"})).await;
        assert_complete(&prompt);
        assert!(prompt.value["result"].get("ttlMs").is_none(), "{prompt:#?}");
        let missing = ask(&client, "resources/read", &json!({"uri": "test://no-such-resource"})).await;
        assert_eq!(missing.error_code(), -32602, "{missing:#?}");
        let unknown = ask(&client, "ping", &json!({})).await;
        assert_eq!(unknown.error_code(), -32601, "{unknown:#?}");
    }

    #[tokio::test]
    async fn hears_of_progress_by_its_own_token() {
        let scene = Scene::start(Era::Legacy).await;
        for (path, prefix) in ENDPOINTS {
            let client = scene.modern(path);
            let call = client.start_call_with_progress(&format!("{prefix}test_tool_with_progress"), "{}");
            let id = call.id();
            let answer = call.answer().await;
            assert_eq!(answer.said(), "Progress was reported");
            assert_eq!(
                progress(&answer),
                [(json!(id), 0.0), (json!(id), 50.0), (json!(id), 100.0)],
                "{path}"
            );
        }
    }

    /// The token and the progress of each message of progress.
    fn progress(answer: &Answer) -> Vec<(Value, f64)> {
        let told = answer.heard("notifications/progress").into_iter();
        told.map(|params| {
            let progress = params["progress"].as_f64().unwrap_or_else(|| panic!("{params} has none"));
            (params["progressToken"].clone(), progress)
        })
        .collect()
    }

    #[tokio::test]
    async fn gets_log_messages_and_progress_on_both_sides_of_a_question() {
        let daemon = before(&play(Era::Legacy).await).await;
        let able = Client::modern(&daemon.url("/mcp/it"), None).able_to(able());
        let levels = |answer: &Answer| -> Vec<Value> {
            answer.heard("notifications/message").iter().map(|params| params["level"].clone()).collect()
        };
        // The level, and what is heard of it before and after the question.
        let cases: [(Option<&str>, &[&str], &[&str]); 4] = [
            (None, &[], &[]),
            (Some("debug"), &["debug", "info", "error"], &["info"]),
            (Some("info"), &["info", "error"], &["info"]),
            (Some("warning"), &["error"], &[]),
        ];
        for (level, before, after) in cases {
            let client = level.map_or_else(|| able.clone(), |level| able.wanting_logs(level));
            let first = client.start_call_with_progress("play", "{}");
            let id = first.id();
            let asked = first.answer().await;
            assert_eq!(asked.value["id"], id, "{asked:#?}");
            assert_eq!(asked.questions()["question"]["params"]["message"], "Go on?");
            assert_eq!(levels(&asked), before, "{level:?}: {asked:#?}");
            assert_eq!(progress(&asked), [(json!(id), 1.0)], "{level:?}");

            let answers = answering(&json!({"action": "decline"}));
            let params = again("play", &json!({}), asked.state(), &answers);
            let second = client.start_with_progress("tools/call", &params);
            let id = second.id();
            let answer = second.answer().await;
            assert_eq!(answer.value["id"], id, "{answer:#?}");
            assert_eq!(answer.said(), r#"{"action":"decline"}"#);
            assert_eq!(levels(&answer), after, "{level:?}: {answer:#?}");
            // Told by the token of the request that goes on, not of the one that was asked.
            assert_eq!(progress(&answer), [(json!(id), 2.0)], "{level:?}");
        }
        daemon.until_idle().await;
    }

    #[tokio::test]
    async fn takes_a_call_back_by_closing_its_stream() {
        let ways: [(Transport, &[&str]); 2] =
            [(Transport::Stdio, &["--era", "legacy"]), (Transport::LegacyHttp, &[])];
        for (transport, flags) in ways {
            let it = Upstream::start(transport, "it", flags, "").await;
            let daemon = Daemon::start(it.table()).await;
            let client = Client::modern(&daemon.url("/mcp/it"), None).able_to(able());
            let call = client.start_call("hang", "{}");
            let sent = it.record().until_called("hang").await;
            call.cancel().await;
            let named = |entry: &Value| {
                entry["method"] == "notifications/cancelled" && entry["requestId"] == sent["id"]
            };
            it.record().until("the call is taken back upstream", named).await;
            it.record().until("it was understood", |entry| entry["event"] == "cancelled").await;
            daemon.until_idle().await;
            assert_eq!(client.call("echo", r#"{"text":"next"}"#).await.said(), "next");
        }
    }
}

mod a_legacy_client_before_a_modern_upstream {
    use super::*;

    /// Tools, the questions they ask, in any order, and what they say once they are answered.
    const ROUNDS: [(&str, &[&str], &str); 6] = [
        ("elicitation", &[ELICIT], "Hello, Ada!"),
        ("sampling", &[SAMPLE], "a sample"),
        ("list_roots", &[ROOTS], r#"Roots: [{"uri":"file:///home"}]"#),
        ("request_state", &[ELICIT], "state-ok"),
        ("multiple_inputs", &[ELICIT, ROOTS, SAMPLE], "Everything was answered"),
        ("multi_round", &[ELICIT, ELICIT], "Both rounds are over"),
    ];

    /// The client, with a response to each question.
    fn responding(client: &Client) -> Client {
        let form = json!({"action": "accept", "content": {"name": "Ada", "color": "red", "ok": true}});
        let content = json!({"type": "text", "text": "a sample"});
        let sample = json!({"role": "assistant", "model": "none", "content": content});
        client
            .responding(ELICIT, json!({"result": form}))
            .responding(SAMPLE, json!({"result": sample}))
            .responding(ROOTS, json!({"result": {"roots": [{"uri": "file:///home"}]}}))
    }

    /// The methods of the questions on the stream of an answer, sorted.
    fn asked(answer: &Answer) -> Vec<&str> {
        let questions = answer.events.iter().filter(|event| !event["id"].is_null());
        let mut methods: Vec<_> = questions.filter_map(|question| question["method"].as_str()).collect();
        methods.sort_unstable();
        methods
    }

    #[tokio::test]
    async fn is_asked_on_the_stream_of_its_request() {
        let scene = Scene::start(Era::Modern).await;
        for (path, prefix) in ENDPOINTS {
            let client = responding(&scene.legacy(path).await);
            for (tool, questions, said) in ROUNDS {
                let tool = format!("{prefix}test_input_required_result_{tool}");
                let answer = call(&client, &tool, &json!({})).await;
                assert_eq!(asked(&answer), questions, "{path} {tool}: {answer:#?}");
                assert_eq!(answer.said(), said, "{path} {tool}");
                assert_legacy(&answer);
            }
        }
        scene.daemon.until_idle().await;
    }

    #[tokio::test]
    async fn is_asked_in_a_prompt_too() {
        let scene = Scene::start(Era::Modern).await;
        let form = json!({"action": "accept", "content": {"context": "the sea"}});
        let client = scene.legacy("/mcp/it").await.responding(ELICIT, json!({"result": form}));
        let name = "test_input_required_result_prompt";
        let prompt = ask(&client, "prompts/get", &json!({"name": name})).await;
        assert_eq!(asked(&prompt), [ELICIT], "{prompt:#?}");
        let text = &prompt.value["result"]["messages"][0]["content"]["text"];
        assert_eq!(text, "Use this context: the sea", "{prompt:#?}");
        assert_legacy(&prompt);
    }

    #[tokio::test]
    async fn is_asked_what_it_opened_its_session_with() {
        let scene = Scene::start(Era::Modern).await;
        let tool = "test_input_required_result_capabilities";
        let cases: [(Value, &[&str]); 3] = [
            (json!({}), &[]),
            (json!({"elicitation": {}}), &[ELICIT]),
            (json!({"roots": {"listChanged": true}, "sampling": {}}), &[ROOTS, SAMPLE]),
        ];
        for (capabilities, questions) in cases {
            let client = Client::legacy_able(&scene.daemon.url("/mcp/it"), None, &capabilities).await;
            let answer = call(&responding(&client), tool, &json!({})).await;
            assert_eq!(asked(&answer), questions, "{capabilities}: {answer:#?}");
            assert_eq!(answer.said(), format!("{} questions were answered", questions.len()));
        }
    }

    #[tokio::test]
    async fn may_answer_with_an_error() {
        let scene = Scene::start(Era::Modern).await;
        let error = json!({"error": {"code": -1, "message": "the user has left"}});
        let client = scene.legacy("/mcp/it").await;
        let client = client.responding(ELICIT, error.clone()).responding(SAMPLE, error.clone());
        let client = client.responding(ROOTS, error);

        let cancelled = call(&client, "test_elicitation", &json!({"message": "Who are you?"})).await;
        assert_eq!(asked(&cancelled), [ELICIT], "{cancelled:#?}");
        assert_eq!(cancelled.said(), "User response: action=cancel, content=null");

        // These have no answer that says no.
        for (tool, method) in [("sampling", SAMPLE), ("list_roots", ROOTS)] {
            let ended = call(&client, &format!("test_input_required_result_{tool}"), &json!({})).await;
            assert_eq!(asked(&ended), [method], "{ended:#?}");
            assert_eq!(ended.error_code(), -32603, "{ended:#?}");
            let message = ended.value["error"]["message"].as_str().unwrap_or_default();
            assert!(message.contains(method) && message.contains("the user has left"), "{ended:#?}");
        }
        scene.daemon.until_idle().await;
    }

    #[tokio::test]
    async fn sets_a_level_of_log_messages() {
        let scene = Scene::start(Era::Modern).await;
        let client = scene.legacy("/mcp/it").await;
        // A level, and how many messages come at it; without one the modern era sends none.
        for (level, messages) in [(None, 0), (Some("warning"), 0), (Some("info"), 1)] {
            if let Some(level) = level {
                let set = ask(&client, "logging/setLevel", &json!({"level": level})).await;
                assert_eq!(set.value["result"], json!({}), "{set:#?}");
            }
            let answer = call(&client, "test_logging_tool", &json!({})).await;
            assert_eq!(answer.heard("notifications/message").len(), messages, "{level:?}: {answer:#?}");
        }
    }

    #[tokio::test]
    async fn gets_results_and_errors_in_its_own_words() {
        let scene = Scene::start(Era::Modern).await;
        let client = scene.legacy("/mcp/it").await;
        let pong = ask(&client, "ping", &json!({})).await;
        assert_eq!(pong.value["result"], json!({}), "{pong:#?}");
        for (method, params) in [
            ("tools/list", json!({})),
            ("prompts/list", json!({})),
            ("prompts/get", json!({"name": "test_simple_prompt"})),
            ("resources/list", json!({})),
            ("resources/templates/list", json!({})),
            ("resources/read", json!({"uri": "test://static-text"})),
        ] {
            assert_legacy(&ask(&client, method, &params).await);
        }
        let missing = ask(&client, "resources/read", &json!({"uri": "test://no-such-resource"})).await;
        assert_eq!(missing.error_code(), -32002, "{missing:#?}");
    }

    #[tokio::test]
    async fn hears_of_progress_by_its_own_token() {
        let scene = Scene::start(Era::Modern).await;
        let client = scene.legacy("/mcp/it").await;
        let call = client.start_call_with_progress("test_tool_with_progress", "{}");
        let id = call.id();
        let answer = call.answer().await;
        let told = answer.heard("notifications/progress");
        assert_eq!(told.len(), 3, "{answer:#?}");
        assert!(told.iter().all(|params| params["progressToken"] == id), "{answer:#?}");
        assert_eq!(answer.said(), "Progress was reported");
        assert_legacy(&answer);
    }

    #[tokio::test]
    async fn gets_no_structured_content_but_objects() {
        let daemon = before(&play(Era::Modern).await).await;
        for (era, kept) in [(Era::Legacy, Value::Null), (Era::Modern, json!([1, 2]))] {
            let client = Client::open(era, &daemon.url("/mcp/it"), None).await;
            let answer = call(&client, "play", &json!({})).await;
            // The text says the same.
            assert_eq!(answer.said(), "[1,2]");
            assert_eq!(answer.value["result"]["structuredContent"], kept, "{era:?}: {answer:#?}");
        }
        let upstream = Upstream::start(Transport::ModernHttp, "it", &[], "").await;
        let daemon = Daemon::start(upstream.table()).await;
        let client = Client::legacy(&daemon.url("/mcp/it"), None).await;
        let answer = call(&client, "echo_raw", &json!({"a": 1})).await;
        assert_eq!(answer.value["result"]["structuredContent"], json!({"a": 1}), "{answer:#?}");
    }

    #[tokio::test]
    async fn takes_a_call_back() {
        let it = Upstream::start(Transport::ModernHttp, "it", &[], "").await;
        let daemon = Daemon::start(it.table()).await;
        let client = Client::legacy(&daemon.url("/mcp/it"), None).await;
        let call = client.start_call("hang", "{}");
        let sent = it.record().until_called("hang").await;
        call.cancel().await;
        let closed = |entry: &Value| entry["event"] == "stream_closed" && entry["id"] == sent["id"];
        it.record().until("the call is taken back upstream", closed).await;
        daemon.until_idle().await;
        assert_eq!(client.call("echo", r#"{"text":"next"}"#).await.said(), "next");
    }

    #[tokio::test]
    async fn takes_a_call_back_while_it_is_asked() {
        let it = Upstream::start(Transport::ModernHttp, "it", &[], "").await;
        let daemon = Daemon::start(it.table()).await;
        // It responds to nothing.
        let client = Client::legacy_able(&daemon.url("/mcp/it"), None, &able()).await;
        let call = client.start_call("ask_elicit", "{}");
        eventually("the stream of the question begins", PATIENCE, async || call.last_event_id().is_some())
            .await;
        call.cancel().await;
        daemon.until_idle().await;
        // The upstream had answered, and is not called again.
        assert_eq!(it.record().calls("ask_elicit").len(), 1, "{:#?}", it.record().entries());
        assert_eq!(client.call("echo", r#"{"text":"next"}"#).await.said(), "next");
    }
}

/// The way of an answer to the call that waits for it: one call is played at a time.
type Waiting = Mutex<Option<oneshot::Sender<Value>>>;

/// An upstream that the test plays, for what no other one does: its URL. Its one tool is `play`.
async fn play(era: Era) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let waiting: Arc<Waiting> = Arc::default();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                // What goes wrong on a connection shows at its other end.
                let _ = serve(BufReader::new(stream), era, &waiting).await;
            });
        }
    });
    format!("http://{address}/mcp")
}

/// Answers one HTTP request and closes.
async fn serve(mut stream: BufReader<TcpStream>, era: Era, waiting: &Waiting) -> io::Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = head.to_ascii_lowercase();
    if !head.starts_with("post ") {
        return reply(&mut stream, "405 Method Not Allowed", "").await;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let message: Value = serde_json::from_slice(&body)?;

    let Some(method) = message["method"].as_str() else {
        let asking = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(asking) = asking {
            // An error means that the call has been given up.
            let _ = asking.send(message["result"].clone());
        }
        return reply(&mut stream, "202 Accepted", "").await;
    };
    if message["id"].is_null() {
        return reply(&mut stream, "202 Accepted", "").await;
    }
    let mut result = match (era, method) {
        (Era::Legacy, "tools/call") => return converse(&mut stream, &message, waiting).await,
        (Era::Legacy, "initialize") => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "played", "version": "1"},
        }),
        (Era::Modern, "server/discover") => {
            json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        }
        (Era::Modern, "tools/call") => {
            json!({"content": [{"type": "text", "text": "[1,2]"}], "structuredContent": [1, 2]})
        }
        (_, "tools/list") => json!({"tools": [{"name": "play", "inputSchema": {"type": "object"}}]}),
        _ => {
            let error = json!({"code": -32601, "message": "Method not found"});
            let response = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
            return reply(&mut stream, "200 OK", &response.to_string()).await;
        }
    };
    if era == Era::Modern {
        result["resultType"] = json!("complete");
        if method != "tools/call" {
            result["ttlMs"] = json!(0);
            result["cacheScope"] = json!("private");
        }
    }
    let response = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    reply(&mut stream, "200 OK", &response.to_string()).await
}

async fn reply(stream: &mut BufReader<TcpStream>, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}"
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
    stream.flush().await
}

/// Logs, tells of progress and asks; once answered, it does the first two again and says what the answer was.
async fn converse(stream: &mut BufReader<TcpStream>, call: &Value, waiting: &Waiting) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for level in ["debug", "info", "error"] {
        log(stream, level).await?;
    }
    tell(stream, call, 1).await?;
    let (give, given) = oneshot::channel();
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(give);
    let form = json!({"message": "Go on?", "requestedSchema": {"type": "object", "properties": {}}});
    event(stream, &json!({"jsonrpc": "2.0", "id": "ours", "method": ELICIT, "params": form})).await?;
    // Without an answer the call ends as if there were an empty one.
    let answer = given.await.unwrap_or_default();
    tell(stream, call, 2).await?;
    log(stream, "info").await?;
    let content = json!([{"type": "text", "text": answer.to_string()}]);
    event(stream, &json!({"jsonrpc": "2.0", "id": call["id"], "result": {"content": content}})).await
}

async fn log(stream: &mut BufReader<TcpStream>, level: &str) -> io::Result<()> {
    let params = json!({"level": level, "data": level});
    event(stream, &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params})).await
}

/// Tells of progress, if the call asks for it.
async fn tell(stream: &mut BufReader<TcpStream>, call: &Value, progress: u32) -> io::Result<()> {
    let token = &call["params"]["_meta"]["progressToken"];
    if token.is_null() {
        return Ok(());
    }
    let params = json!({"progressToken": token, "progress": progress});
    event(stream, &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await
}

async fn event(stream: &mut BufReader<TcpStream>, message: &Value) -> io::Result<()> {
    stream.write_all(format!("data: {message}\n\n").as_bytes()).await?;
    stream.flush().await
}
