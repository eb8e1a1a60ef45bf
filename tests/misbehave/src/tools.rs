//! The tools: each does one thing, most of them bad.

use crate::server::{Exchange, Part, lock};
use crate::wire::{self, Era, Failure, Params};
use crate::{loads, misdeeds};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::collections::BTreeMap;
use std::future::pending;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

/// Name, what it does, and its arguments with their types.
pub(crate) type Tool = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const TOOLS: &[Tool] = &[
    ("echo", "Returns its text.", &[("text", "string")]),
    ("echo_raw", "Returns its arguments byte for byte, as structured content and as text.", &[]),
    ("sleep", "Answers after ms; can be cancelled.", &[("ms", "integer")]),
    (
        "slow",
        "Answers after ms, with progress at each of the steps.",
        &[("ms", "integer"), ("steps", "integer")],
    ),
    ("late", "Answers after ms, cancelled or not.", &[("ms", "integer")]),
    ("hang", "Never answers.", &[]),
    ("hang_read", "Never answers, and is read-only.", &[]),
    ("headers_then_nothing", "HTTP: sends the headers of an event stream and no more. Stdio: hangs.", &[]),
    ("dribble", "Each second a comment (HTTP) or log message (stdio), but never the result.", &[]),
    ("crash", "Exits with 42 at once.", &[]),
    ("half_reply", "Sends half of its reply; then the stream, or all of stdout, stalls.", &[]),
    ("close_stream", "HTTP: ends the event stream without a result. Stdio: exits.", &[]),
    (
        "garbage",
        "HTTP: a malformed body. Stdio: a line that is not JSON, then the reply unless false.",
        &[("reply", "boolean")],
    ),
    ("wrong_id", "Answers with id 999999 first, then rightly.", &[]),
    ("big", "Returns a text of so many bytes.", &[("bytes", "integer")]),
    ("count", "Returns how often it ran with this key in this process.", &[("key", "string")]),
    ("ask_elicit", "Elicits a name and returns the answer's JSON, whatever the client says it can do.", &[]),
    (
        "ask_sample",
        "Asks for a sample and returns the answer's JSON, whatever the client says it can do.",
        &[],
    ),
    ("env", "Returns its environment as JSON.", &[]),
    ("pid", "Returns its process id.", &[]),
    ("conversation", "Returns how often it ran in this session, or in this process if there are none.", &[]),
    ("add_tool", "Adds a tool `added_N` and says that the list has changed.", &[]),
    ("stderr", "Writes so many bytes to stderr, then answers.", &[("bytes", "integer")]),
    ("stop_reading", "Answers; on stdio, never reads stdin again.", &[]),
];
const READ_ONLY: [&str; 4] = ["echo", "sleep", "hang_read", "crash_read"];

/// The key and the state of the one question the modern tools ask.
const QUESTION: &str = "question";
const STATE: &str = "asked-once";

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Arguments {
    pub(crate) text: Option<String>,
    key: String,
    pub(crate) ms: u64,
    steps: Option<u32>,
    pub(crate) bytes: usize,
    reply: Option<bool>,
}

/// Answers tools/list with the page at `cursor`.
pub(crate) fn list(exchange: &Exchange, cursor: Option<&str>) {
    let added = (1..=exchange.server.added.load(Ordering::SeqCst)).map(|number| format!("added_{number}"));
    let odd = (0..exchange.server.options.many).map(odd_name);
    let added = added.chain(odd).map(
        |name| json!({"name": name, "description": "Returns its name.", "inputSchema": {"type": "object"}}),
    );
    let further = misdeeds::TOOLS.iter().chain(loads::TOOLS).filter(|_| exchange.server.options.all);
    let mut tools: Vec<Value> = TOOLS.iter().chain(further).map(definition).chain(added).collect();
    let listed = exchange.server.listed.fetch_add(1, Ordering::SeqCst) + 1;
    if exchange.server.options.changing {
        // With its number, so that the lists of two processes differ as well.
        let process = std::process::id();
        tools[0]["description"] =
            format!("Returns its text; listed for the {listed}. time by {process}.").into();
    }
    let Some(start) =
        cursor.map_or(Some(0), |cursor| cursor.parse::<usize>().ok().filter(|start| *start < tools.len()))
    else {
        return exchange.refuse(&Failure::parameters("No such cursor"));
    };
    let size = exchange.server.options.pages.map_or(tools.len(), NonZeroUsize::get);
    let end = tools.len().min(start.saturating_add(size));
    let mut result = json!({"tools": &tools[start..end]});
    if end < tools.len() {
        result["nextCursor"] = end.to_string().into();
    }
    if exchange.era == Era::Modern {
        result["ttlMs"] = json!(60_000);
        result["cacheScope"] = json!("public");
    }
    exchange.reply(result);
}

fn definition((name, what, arguments): &Tool) -> Value {
    let properties: BTreeMap<_, _> =
        arguments.iter().map(|(name, kind)| (*name, json!({"type": kind}))).collect();
    let mut tool = json!({"name": name, "description": what,
                          "inputSchema": {"type": "object", "properties": properties}});
    if *name == "echo" {
        tool["inputSchema"]["required"] = json!(["text"]);
    }
    if READ_ONLY.contains(name) || loads::READ_ONLY.contains(name) {
        tool["annotations"] = json!({"readOnlyHint": true});
    }
    tool
}

pub(crate) async fn call(exchange: &Exchange, params: &Params) {
    let server = &exchange.server;
    let say = |said: &str| exchange.reply(text(said));
    let name = params.name.as_deref().unwrap_or_default();
    let raw = params.arguments.as_deref().map_or("{}", RawValue::get);
    if name == "echo_raw" {
        return echo_raw(exchange, raw);
    }
    let Ok(arguments) = serde_json::from_str::<Arguments>(raw) else {
        return exchange.refuse(&Failure::parameters("Bad arguments"));
    };
    match name {
        "echo" => match &arguments.text {
            Some(text) => say(text),
            None => exchange.refuse(&Failure::parameters("echo needs a text")),
        },
        "sleep" | "late" => {
            sleep(Duration::from_millis(arguments.ms)).await;
            say(name);
        }
        "slow" => {
            slow(exchange, params, &arguments).await;
            say("slow");
        }
        "hang" | "hang_read" => pending().await,
        "headers_then_nothing" => {
            exchange.send(Part::Open);
            pending().await
        }
        "dribble" => dribble(exchange, params).await,
        "crash" => std::process::exit(42),
        "half_reply" => {
            exchange.send(Part::Half(exchange.result(text("the whole of a reply"))));
            pending().await
        }
        "close_stream" => {
            exchange.send(Part::Open);
            exchange.send(Part::Close);
        }
        "garbage" => {
            exchange.send(Part::Garbage("Server ready! {not json".to_owned()));
            if arguments.reply == Some(false) {
                pending().await
            }
            say("after garbage");
        }
        "wrong_id" => {
            exchange.send(Part::Event(wire::result("999999", &text("for someone else").to_string())));
            say("right");
        }
        "big" => say(&"x".repeat(arguments.bytes)),
        "count" => say(&increment(lock(&server.executions).entry(arguments.key).or_default())),
        "conversation" => {
            say(&increment(lock(&server.conversations).entry(exchange.session.clone()).or_default()));
        }
        "ask_elicit" => {
            let schema =
                json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
            let question = json!({"message": "What is your name?", "requestedSchema": schema});
            ask(exchange, params, "elicitation/create", &question).await;
        }
        "ask_sample" => {
            let content = json!({"type": "text", "text": "Say hello."});
            let question = json!({"messages": [{"role": "user", "content": content}], "maxTokens": 16});
            ask(exchange, params, "sampling/createMessage", &question).await;
        }
        "env" => {
            let variables: BTreeMap<_, _> = std::env::vars_os()
                .map(|(name, value)| {
                    (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
                })
                .collect();
            say(&json!(variables).to_string());
        }
        "pid" => say(&std::process::id().to_string()),
        "add_tool" => {
            let number = server.added.fetch_add(1, Ordering::SeqCst) + 1;
            // An error means that nobody listens.
            let _ = server.tools_changed.send(());
            say(&format!("added_{number}"));
        }
        "stderr" => {
            let end = arguments.bytes.saturating_sub(1);
            let lines: Vec<u8> = (0..arguments.bytes)
                .map(|at| if at % 80 == 79 || at == end { b'\n' } else { b'x' })
                .collect();
            match tokio::io::stderr().write_all(&lines).await {
                Ok(()) => say("written"),
                Err(error) => say(&format!("stderr: {error}")),
            }
        }
        "stop_reading" => say("stopped"),
        _ if is_added(exchange, name) || is_odd(exchange, name) => say(name),
        _ => {
            // Boxed, because most calls are of the tools above.
            if !Box::pin(misdeeds::call(exchange, name, params, &arguments)).await
                && !Box::pin(loads::call(exchange, name, params)).await
            {
                exchange.refuse(&Failure::parameters("Unknown tool"));
            }
        }
    }
}

pub(crate) fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": false})
}

fn increment(count: &mut u64) -> String {
    *count += 1;
    count.to_string()
}

fn is_added(exchange: &Exchange, name: &str) -> bool {
    let number = name.strip_prefix("added_").and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| (1..=exchange.server.added.load(Ordering::SeqCst)).contains(&number))
}

fn is_odd(exchange: &Exchange, name: &str) -> bool {
    (0..exchange.server.options.many).any(|number| odd_name(number) == name)
}

/// A name of one of five kinds: with a dot and a space, with a digit first, too long, and two that differ by no more
/// than case and dash.
fn odd_name(number: usize) -> String {
    match number % 5 {
        0 => format!("do.thing {number}"),
        1 => format!("{number}-first"),
        2 => format!("a_name_that_goes_on_and_on_beyond_what_any_client_takes_{number}"),
        3 => format!("Case_{number}"),
        _ => format!("case-{}", number - 1),
    }
}

/// Written by hand, because a parsed value would lose large numbers and the order of keys.
fn echo_raw(exchange: &Exchange, raw: &str) {
    let kind = if exchange.era == Era::Modern { r#","resultType":"complete""# } else { "" };
    let text = Value::from(raw);
    let result = format!(
        r#"{{"content":[{{"type":"text","text":{text}}}],"structuredContent":{raw},"isError":false{kind}}}"#
    );
    exchange.send(Part::Reply { status: 200, text: wire::result(exchange.id.get(), &result) });
}

async fn slow(exchange: &Exchange, params: &Params, arguments: &Arguments) {
    let steps = arguments.steps.unwrap_or(1).max(1);
    for step in 1..=steps {
        sleep(Duration::from_millis(arguments.ms) / steps).await;
        if let Some(token) = &params.meta.progress_token {
            let progress = format!(r#"{{"progressToken":{token},"progress":{step},"total":{steps}}}"#);
            exchange.send(Part::Event(wire::notification("notifications/progress", &progress)));
        }
    }
}

async fn dribble(exchange: &Exchange, params: &Params) {
    // Without a level of its own, a modern request gets no log messages.
    let may_log = exchange.era == Era::Legacy || params.meta.log_level.is_some();
    loop {
        if exchange.over_http {
            exchange.send(Part::Comment);
        } else if may_log {
            let log = r#"{"level":"info","logger":"dribble","data":"still here"}"#;
            exchange.send(Part::Event(wire::notification("notifications/message", log)));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Asks the client and returns its answer's JSON: by a request of our own in the legacy era, by a result that
/// wants input in the modern one.
async fn ask(exchange: &Exchange, params: &Params, method: &str, question: &Value) {
    if exchange.era == Era::Legacy {
        let answer = exchange.ask(method, question).await;
        return exchange.reply(text(&answer));
    }
    let answers = params.input_responses.as_ref();
    if answers.is_some() && params.request_state.as_deref() != Some(STATE) {
        return exchange.refuse(&Failure::parameters("requestState is not what was sent"));
    }
    match answers.and_then(|answers| answers.get(QUESTION)) {
        Some(answer) => exchange.reply(text(answer.get())),
        None => exchange.reply(json!({
            "resultType": "input_required",
            "inputRequests": {QUESTION: {"method": method, "params": question}},
            "requestState": STATE,
        })),
    }
}
