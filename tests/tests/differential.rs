//! What comes through Seawall is what comes without it, byte for byte, where both sides speak one era.
#![expect(
    clippy::disallowed_methods,
    reason = "a server that is asked without Seawall is started by the test"
)]

use seawall_tests::{
    Answer, Client, Daemon, Era, Listening, PATIENCE, Record, binary, eventually, quoted, request_text,
    within,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// What JSON parsers like to change: large numbers, trailing zeros, the order of keys, escapes and spaces.
const DELICATE: &str = concat!(
    r#"{"z":12345678901234567890123456789,"a":1.10,"m":{"y":[3, 1,2],"b":-0.0,"10":1E2,"9":0.1e-7},"#,
    r#" "e\u00e9":"\u0041é\/\ud83d\ude00","n":null , "empty":{} ,"":[ ]}"#
);

/// A request: its method, its parameters, and whether it asks for progress.
struct Ask {
    method: &'static str,
    params: String,
    progress: bool,
}

fn ask(method: &'static str, params: &str) -> Ask {
    Ask { method, params: params.to_owned(), progress: false }
}

fn call(tool: &str, arguments: &str) -> Ask {
    ask("tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#))
}

fn call_with_progress(tool: &str, arguments: &str) -> Ask {
    Ask { progress: true, ..call(tool, arguments) }
}

/// What the conformance fixture is asked.
fn of_the_fixture(era: Era) -> Vec<Ask> {
    let completing = |reference: &str, argument: &str| {
        ask("completion/complete", &format!(r#"{{"ref":{reference},"argument":{argument}}}"#))
    };
    let mut asks = vec![
        ask("tools/list", "{}"),
        call("test_simple_text", "{}"),
        ask("tools/call", r#"{ "x-unknown":[1e2, {"deep":true}],"name" : "test_simple_text" }"#),
        call("test_image_content", "{}"),
        call("test_audio_content", "{}"),
        call("test_embedded_resource", "{}"),
        call("test_multiple_content_types", "{}"),
        call("test_error_handling", "{}"),
        call("test_tool_with_progress", "{}"),
        call_with_progress("test_tool_with_progress", "{}"),
        call(
            "json_schema_2020_12_tool",
            r#"{"name":"a","address":{"city":"b"},"contactMethod":"phone","phone":"1"}"#,
        ),
        call("greet", r#"{"name":"\u0041é\n"}"#),
        call("no_such_tool", "{}"),
        ask("resources/list", "{}"),
        ask("resources/templates/list", "{}"),
        ask("resources/read", r#"{"uri":"test://static-text"}"#),
        ask("resources/read", r#"{"uri":"test://static-binary"}"#),
        ask("resources/read", r#"{"uri":"test://template/5/data"}"#),
        ask("resources/read", r#"{"uri":"test://no-such-resource"}"#),
        ask("prompts/list", "{}"),
        ask("prompts/get", r#"{"name":"test_simple_prompt"}"#),
        ask("prompts/get", r#"{"name":"test_prompt_with_arguments","arguments":{"arg2":"2","arg1":"é"}}"#),
        ask("prompts/get", r#"{"name":"test_prompt_with_image"}"#),
        ask("prompts/get", r#"{"name":"no_such_prompt"}"#),
        completing(
            r#"{"type":"ref/prompt","name":"test_prompt_with_arguments"}"#,
            r#"{"name":"arg1","value":"te"}"#,
        ),
        completing(
            r#"{"type":"ref/resource","uri":"test://template/{id}/data"}"#,
            r#"{"name":"id","value":"1"}"#,
        ),
        ask("no/such/method", r#"{"a":1}"#),
    ];
    if era == Era::Modern {
        asks.push(ask("server/discover", "{}"));
    }
    asks
}

/// What the misbehaving server is asked, which misbehaves only when told to.
fn of_misbehave(era: Era) -> Vec<Ask> {
    let mut asks = vec![
        ask("tools/list", "{}"),
        ask("tools/list", r#"{"cursor":"2"}"#),
        ask("tools/list", r#"{"cursor":"no such cursor"}"#),
        call("echo", r#"{"text":"\u0041é\n\t\"\\"}"#),
        call("echo_raw", DELICATE),
        call("echo_raw", r#"{"big":[-9223372036854775809,18446744073709551616,1e300,0.30000000000000004]}"#),
        call("echo_raw", r#"{"b":1,"a":{"d":[],"c":{}},"B":2}"#),
        ask(
            "tools/call",
            &format!(r#"{{"x-unknown":{DELICATE},"arguments":{DELICATE} , "name":"echo_raw"}}"#),
        ),
        ask("tools/call", r#"{"name":"echo_raw"}"#),
        call("big", r#"{"bytes":200000}"#),
        call("slow", r#"{"ms":60,"steps":3}"#),
        call_with_progress("slow", r#"{"steps":3,"ms":60}"#),
        call("wrong_id", "{}"),
        call("no_such_tool", "{}"),
        ask("prompts/list", "{}"),
        ask("resources/read", r#"{"uri":"test://none"}"#),
        ask("no/such/method", &format!(r#"{{"x":{DELICATE}}}"#)),
    ];
    if era == Era::Modern {
        asks.push(ask("server/discover", "{}"));
    }
    asks
}

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    /// `result` or `error`, and its bytes.
    payload: String,
    /// The parameters of the progress that was told, without the token, which is each client's own.
    progress: Vec<Value>,
}

impl Came {
    fn new(text: &str, events: &[Value]) -> Self {
        let members: BTreeMap<&str, &RawValue> =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let of = |name: &str| members.get(name).map(|raw| format!("{name}: {}", raw.get()));
        let payload = of("result").or_else(|| of("error"));
        let progress = events.iter().filter(|event| event["method"] == "notifications/progress");
        let progress = progress.map(|event| {
            let mut params = event["params"].clone();
            params.as_object_mut().expect("progress has parameters").remove("progressToken");
            params
        });
        Self {
            payload: payload.unwrap_or_else(|| panic!("this is no response: {text}")),
            progress: progress.collect(),
        }
    }

    /// Whether it is a list that Seawall gave from memory, because the upstream took long.
    fn is_stale(&self) -> bool {
        self.payload.contains("\"seawall/stale\"")
    }
}

impl From<Answer> for Came {
    fn from(answer: Answer) -> Self {
        Self::new(&answer.text, &answer.events)
    }
}

/// A way to a server, with or without Seawall on it.
enum Way {
    Http(Box<Client>),
    Pipe(Box<Pipe>),
}

impl Way {
    async fn ask(&mut self, ask: &Ask) -> Came {
        match self {
            Self::Http(client) if ask.progress => {
                client.start_with_progress(ask.method, &ask.params).answer().await.into()
            }
            Self::Http(client) => client.request(ask.method, &ask.params).await.into(),
            Self::Pipe(pipe) => pipe.ask(ask).await,
        }
    }
}

/// A server on stdio without anything in between.
struct Pipe {
    era: Era,
    next: u64,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    // Killed when dropped.
    _child: Child,
}

impl Pipe {
    async fn open(era: Era, program: &str, flags: &[&str]) -> Self {
        let mut child = Command::new(binary(program))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut pipe = Self { era, next: 0, stdin, stdout, _child: child };
        if era == Era::Legacy {
            let params = json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "seawall-tests", "version": "1"},
            });
            let opened = pipe.ask(&ask("initialize", &params.to_string())).await;
            assert!(opened.payload.starts_with("result"), "{opened:?}");
            pipe.write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        } else {
            let opened = pipe.ask(&ask("server/discover", "{}")).await;
            assert!(opened.payload.starts_with("result"), "{opened:?}");
        }
        pipe
    }

    async fn write(&mut self, message: &str) {
        let line = format!("{message}\n");
        self.stdin.write_all(line.as_bytes()).await.expect("the server reads its stdin");
        self.stdin.flush().await.expect("the server reads its stdin");
    }

    async fn ask(&mut self, ask: &Ask) -> Came {
        self.next += 1;
        let id = self.next;
        self.write(&request_text(self.era, id, ask.method, &ask.params, ask.progress)).await;
        let mut events = Vec::new();
        let answer = async {
            loop {
                let line = self.stdout.next_line().await.expect("the server writes text");
                let line = line.expect("the server goes on");
                let message: Value = serde_json::from_str(&line).expect("each line is a message");
                if message["id"] == id && message.get("method").is_none() {
                    return Came::new(&line, &events);
                }
                events.push(message);
            }
        };
        within(&format!("the answer to {} {}", ask.method, ask.params), PATIENCE, answer).await
    }
}

/// One server and the ways to two processes of it: straight, and through Seawall.
struct Ways {
    direct: Way,
    through: Way,
    /// What reached the servers, where they note it.
    records: [Record; 2],
    daemon: Daemon,
    _servers: Vec<Listening>,
}

impl Ways {
    /// Both over HTTP, the server speaking the era only.
    async fn http(era: Era, program: &'static str) -> Self {
        let records = [Record::new(), Record::new()];
        let word = if era == Era::Legacy { "legacy" } else { "modern" };
        let mut servers = Vec::new();
        for record in &records {
            let mut flags = vec!["--era".to_owned(), word.to_owned()];
            flags.extend(record_flags(program, record));
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            servers.push(Listening::start(program, &flags).await);
        }
        let direct = Way::Http(Box::new(Client::open(era, servers[0].url(), None).await));
        let keys = format!("url = {}", quoted(servers[1].url()));
        let (daemon, through) = Self::through(era, &keys).await;
        Self { direct, through, records, daemon, _servers: servers }
    }

    /// Both over stdio, the server speaking either era.
    async fn stdio(era: Era, program: &'static str) -> Self {
        let records = [Record::new(), Record::new()];
        let flags = |record| [vec!["--stdio".to_owned()], record_flags(program, record)].concat();
        let straight = flags(&records[0]);
        let straight: Vec<&str> = straight.iter().map(String::as_str).collect();
        let direct = Way::Pipe(Box::new(Pipe::open(era, program, &straight).await));
        let command = binary(program).into_os_string().into_string().expect("paths of builds are UTF-8");
        let flags: Vec<String> = flags(&records[1]).iter().map(|flag| quoted(flag)).collect();
        let keys = format!("command = {}\nargs = [{}]", quoted(&command), flags.join(", "));
        let (daemon, through) = Self::through(era, &keys).await;
        Self { direct, through, records, daemon, _servers: Vec::new() }
    }

    async fn through(era: Era, keys: &str) -> (Daemon, Way) {
        let daemon = Daemon::start(&format!("[servers.it]\n{keys}\n")).await;
        let client = Client::open(era, &daemon.url("/mcp/it"), None).await;
        (daemon, Way::Http(Box::new(client)))
    }

    async fn assert_the_same(mut self, asks: &[Ask]) {
        for ask in asks {
            let direct = self.direct.ask(ask).await;
            assert_eq!(
                direct.progress.is_empty(),
                !ask.progress,
                "{} {}: {direct:?}",
                ask.method,
                ask.params
            );
            let mut through = self.through.ask(ask).await;
            if ask.method == "tools/list" {
                // A list that the upstream did not give in time says so, and is not what is compared here.
                eventually("the upstream's own list comes", PATIENCE, async || {
                    if through.is_stale() {
                        through = self.through.ask(ask).await;
                    }
                    !through.is_stale()
                })
                .await;
            }
            assert_eq!(through, direct, "{} {}", ask.method, ask.params);
        }
        // Nothing was left out, sent twice or put in another order.
        let [direct, through] = &self.records;
        assert_eq!(requests(through), requests(direct));
        self.daemon.until_idle().await;
    }
}

/// Only one of the two programs notes what reaches it.
fn record_flags(program: &str, record: &Record) -> Vec<String> {
    if program == "misbehave" { vec!["--record".to_owned(), record.path()] } else { Vec::new() }
}

/// The requests that reached a server: their methods and tools. Opening it and listing its tools is done for
/// Seawall itself, too.
fn requests(record: &Record) -> Vec<(Value, Value)> {
    const OWN: [&str; 4] = ["initialize", "server/discover", "subscriptions/listen", "tools/list"];
    let entries = record.entries().into_iter().filter(|entry| {
        let method = entry["method"].as_str().unwrap_or_default();
        !method.is_empty() && !method.starts_with("notifications/") && !OWN.contains(&method)
    });
    entries.map(|entry| (entry["method"].clone(), entry["name"].clone())).collect()
}

#[tokio::test]
async fn the_fixture_over_legacy_http() {
    Ways::http(Era::Legacy, "conformance-fixture").await.assert_the_same(&of_the_fixture(Era::Legacy)).await;
}

#[tokio::test]
async fn the_fixture_over_modern_http() {
    Ways::http(Era::Modern, "conformance-fixture").await.assert_the_same(&of_the_fixture(Era::Modern)).await;
}

#[tokio::test]
async fn the_fixture_over_stdio_in_the_legacy_era() {
    Ways::stdio(Era::Legacy, "conformance-fixture").await.assert_the_same(&of_the_fixture(Era::Legacy)).await;
}

#[tokio::test]
async fn the_fixture_over_stdio_in_the_modern_era() {
    Ways::stdio(Era::Modern, "conformance-fixture").await.assert_the_same(&of_the_fixture(Era::Modern)).await;
}

#[tokio::test]
async fn misbehave_over_legacy_http() {
    Ways::http(Era::Legacy, "misbehave").await.assert_the_same(&of_misbehave(Era::Legacy)).await;
}

#[tokio::test]
async fn misbehave_over_modern_http() {
    Ways::http(Era::Modern, "misbehave").await.assert_the_same(&of_misbehave(Era::Modern)).await;
}

#[tokio::test]
async fn misbehave_over_stdio_in_the_legacy_era() {
    Ways::stdio(Era::Legacy, "misbehave").await.assert_the_same(&of_misbehave(Era::Legacy)).await;
}

#[tokio::test]
async fn misbehave_over_stdio_in_the_modern_era() {
    Ways::stdio(Era::Modern, "misbehave").await.assert_the_same(&of_misbehave(Era::Modern)).await;
}
