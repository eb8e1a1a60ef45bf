//! Results over `result_limit`: the beginning at once, the rest behind a link, for whoever called and nobody else.
#![expect(clippy::disallowed_methods, reason = "tests write programs and stand in a daemon's way themselves")]

use seawall_tests::{Answer, Client, Daemon, Era, JSON, Transport, Upstream, caller, quoted, send};
use serde_json::{Value, json};
use std::fs;

const LIMIT: usize = 4096;
const LIMITED: &str = "sharing = \"everyone\"\nresult_limit = \"4KiB\"";
const ROOT: &str = "seawall://results/";
const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// A text of letters that take one to four bytes, with all that JSON has to escape.
fn long_text() -> String {
    "a\u{e4}\u{20ac}\u{1f600} \"quoted\" \\ \t\n".repeat(1500)
}

/// The URI in a text, without what it asks for.
fn uri_in(text: &str) -> &str {
    let start = text.find(ROOT).unwrap_or_else(|| panic!("no URI in {text:?}"));
    &text[start..start + ROOT.len() + 32]
}

async fn read(client: &Client, uri: &str) -> Answer {
    client.request("resources/read", &json!({"uri": uri})).await
}

/// The only content of what was read.
fn content(answer: &Answer) -> &Value {
    let contents = &answer.value["result"]["contents"];
    assert_eq!(contents.as_array().map(Vec::len), Some(1), "{answer:#?}");
    &contents[0]
}

/// Everything behind a URI, part after part.
async fn read_whole(client: &Client, uri: &str) -> String {
    let (mut whole, mut next) = (String::new(), Some(uri.to_owned()));
    let mut parts = 0;
    while let Some(uri) = next.take() {
        parts += 1;
        assert!(parts < 1000, "the parts have no end");
        let answer = read(client, &uri).await;
        let content = content(&answer);
        assert_eq!(content["uri"], *uri);
        let text = content["text"].as_str().unwrap_or_else(|| panic!("no text came: {answer:#?}"));
        next = answer.value["result"]["_meta"]["seawall/next"].as_str().map(str::to_owned);
        match &next {
            Some(next) => {
                let (part, line) = text.rsplit_once('\n').expect("the last line says where it goes on");
                assert!(line.ends_with(next.as_str()), "{line:?} does not name {next}");
                whole.push_str(part);
            }
            None => whole.push_str(text),
        }
    }
    whole
}

async fn limited(keys: &str) -> (Upstream, Daemon) {
    let it = Upstream::start(Transport::Stdio, "it", &[], keys).await;
    let daemon = Daemon::start(it.table()).await;
    (it, daemon)
}

#[tokio::test]
async fn a_large_result_is_its_beginning_and_the_rest_is_read_in_parts() {
    let (_it, daemon) = limited(LIMITED).await;
    let whole = long_text();
    for era in ERAS {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        let answer = client.call("it__echo", &json!({"text": whole})).await;
        let result = &answer.value["result"];
        assert!(result.to_string().len() <= LIMIT, "{era:?}: {result}");
        assert_eq!(result["isError"], false);
        let complete = if era == Era::Modern { json!("complete") } else { Value::Null };
        assert_eq!(result["resultType"], complete);

        let (head, sentence) =
            answer.said().rsplit_once("\n\n").expect("a blank line stands before the sentence");
        assert!(head.len() > LIMIT / 4 && whole.starts_with(head), "{era:?}: {head:?}");
        let link = &result["content"][1];
        let uri = link["uri"].as_str().unwrap_or_else(|| panic!("no link came: {answer:#?}"));
        assert_eq!((&link["type"], &link["mimeType"]), (&json!("resource_link"), &json!("text/plain")));
        assert_eq!(link["size"], whole.len());
        let rest = format!("{uri}?offset={}", head.len());
        assert!(sentence.contains(&rest) && sentence.contains("bytes"), "{sentence}");

        assert!(read_whole(&client, uri).await == whole, "{era:?}: the parts are not the whole");
        assert!(read_whole(&client, &format!("{uri}?length=999")).await == whole, "{era:?}");
        assert!(format!("{head}{}", read_whole(&client, &rest).await) == whole, "{era:?}");
        // On the server's own endpoint, too; from within one character up to the middle of the next.
        let alone = Client::open(era, &daemon.url("/mcp/it"), None).await;
        let part = read(&alone, &format!("{uri}?offset=2&length=2")).await;
        assert_eq!(content(&part)["mimeType"], "text/plain");
        assert!(content(&part)["text"].as_str().is_some_and(|text| text.starts_with("\u{20ac}\nThe next")));

        for wrong in [format!("{uri}?offset={}", whole.len() + 1), format!("{uri}?page=2")] {
            assert_eq!(read(&client, &wrong).await.error_code(), -32602, "{era:?}: {wrong}");
        }
    }
}

#[tokio::test]
async fn what_is_kept_is_nobody_elses() {
    let it = Upstream::start(Transport::Stdio, "it", &[], LIMITED).await;
    let callers = caller("ann", "token-ann", &["*"]) + &caller("bob", "token-bob", &["*"]);
    let daemon = Daemon::start(&format!("{callers}{}", it.table())).await;
    for (era, missing) in [(Era::Legacy, -32002), (Era::Modern, -32602)] {
        let url = daemon.url("/mcp");
        let ann = Client::open(era, &url, Some("token-ann")).await;
        let bob = Client::open(era, &url, Some("token-bob")).await;
        let said = ann.call("it__big", r#"{"bytes":20000}"#).await.said().to_owned();
        let uri = uri_in(&said);
        let strange = format!("{ROOT}{}", "0".repeat(32));
        for (client, uri) in [(&bob, uri), (&ann, strange.as_str())] {
            let answer = read(client, uri).await;
            assert_eq!(answer.error_code(), missing, "{era:?}: {answer:#?}");
        }
        assert_eq!(read_whole(&ann, uri).await, "x".repeat(20_000), "{era:?}");
    }
}

#[tokio::test]
async fn structured_content_stays_where_it_fits() {
    let (_it, daemon) = limited(LIMITED).await;
    for era in ERAS {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        let fits = format!(r#"{{"n":1.10,"t":"{}"}}"#, "x".repeat(2200));
        let answer = client.call("it__echo_raw", &fits).await;
        assert!(answer.text.contains(&format!(r#""structuredContent":{fits}"#)), "{era:?}: {answer:#?}");
        assert!(answer.said().contains(ROOT) && answer.value["result"].to_string().len() <= LIMIT);

        let over = format!(r#"{{"n":1.10,"t":"{}"}}"#, "x".repeat(5000));
        let answer = client.call("it__echo_raw", &over).await;
        assert!(answer.value["result"].get("structuredContent").is_none(), "{era:?}: {answer:#?}");
        assert!(answer.said().contains("without its structuredContent"), "{era:?}");
        // The text says the same, and is what is kept.
        assert_eq!(answer.value["result"]["content"][1]["mimeType"], "text/plain");
        assert!(read_whole(&client, uri_in(answer.said())).await == over, "{era:?}");
    }
}

/// A server with tools that declare what they return, and do.
const DECLARING: &str = r#"
long='{"content":[{"type":"text","text":"a summary"}],"structuredContent":{"t":"LONG"}}'
short='{"content":[{"type":"text","text":"LONG"}],"structuredContent":{"n":1}}'
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  case "$line" in
    *'"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}' ;;
    *'"tools/list"'*) result='{"tools":[
      {"name":"short","inputSchema":{"type":"object"},"outputSchema":{"type":"object"}},
      {"name":"long","inputSchema":{"type":"object"},"outputSchema":{"type":"object"}}]}' ;;
    *'"short"'*) result=$short ;;
    *'"long"'*) result=$long ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$(printf '%s' "$result" | tr '\n' ' ')"
done
"#;

#[tokio::test]
async fn what_a_schema_promises_is_whole_or_the_call_fails_with_a_link() {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let program = directory.path().join("declaring.sh");
    fs::write(&program, DECLARING.replace("LONG", &"x".repeat(9000)))
        .expect("a temporary directory can be written");
    let program = quoted(program.to_str().expect("temporary paths are UTF-8"));
    let table = format!("[servers.it]\ncommand = \"sh\"\nargs = [{program}]\nera = \"legacy\"\n{LIMITED}\n");
    let daemon = Daemon::start(&table).await;
    for era in ERAS {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        assert!(client.list().await.has("it__short"));
        let answer = client.call("it__short", "{}").await;
        assert_eq!(answer.value["result"]["structuredContent"], json!({"n": 1}), "{era:?}: {answer:#?}");
        assert!(read_whole(&client, uri_in(answer.said())).await == "x".repeat(9000), "{era:?}");

        let answer = client.call("it__long", "{}").await;
        assert_eq!((answer.code(), &answer.fault()["may_have_run"]), ("TOO_LARGE", &json!(true)));
        let complaint = answer.complaint();
        assert!(complaint.contains("It has run"), "{era:?}: {complaint}");
        let kept = read_whole(&client, uri_in(complaint)).await;
        let kept: Value = serde_json::from_str(&kept).expect("what is kept is the result's JSON");
        assert_eq!(kept["content"][0]["text"], "a summary", "{era:?}");
        assert_eq!(kept["structuredContent"]["t"], "x".repeat(9000), "{era:?}");
    }
}

#[tokio::test]
async fn what_is_not_over_a_limit_is_left_as_it_is() {
    let keys = format!("{LIMITED}\n\n[servers.it.tools.big]\nresult_limit = \"64KiB\"");
    let it = Upstream::start(Transport::Stdio, "it", &[], &keys).await;
    let free = Upstream::start(Transport::Stdio, "free", &[], "sharing = \"everyone\"").await;
    let daemon = Daemon::start(&format!("{}{}", it.table(), free.table())).await;
    for era in ERAS {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        // Digits and spaces that no parser would keep.
        let odd = format!(r#"{{ "n":1.10, "big":12345678901234567890123, "t":"{}" }}"#, "x".repeat(600));
        for server in ["it", "free"] {
            let answer = client.call(&format!("{server}__echo_raw"), &odd).await;
            let untouched = format!(r#""structuredContent":{odd},"isError":false"#);
            assert!(answer.text.contains(&untouched), "{era:?}: {answer:#?}");
            assert_eq!(answer.value["result"]["content"].as_array().map(Vec::len), Some(1));
        }
        // The tool's own limit holds in the place of its server's.
        for (tool, bytes, cut) in
            [("free__big", 100_000, false), ("it__big", 60_000, false), ("it__big", 70_000, true)]
        {
            let answer = client.call(tool, &json!({"bytes": bytes})).await;
            assert_eq!(answer.said().contains(ROOT), cut, "{era:?}: {tool} {bytes}");
            assert!(cut || answer.said().len() == bytes, "{era:?}: {tool} {bytes}");
        }
    }
    let kept = fs::read_dir(daemon.directory().join("state/results")).expect("something was kept");
    assert_eq!(kept.count(), ERAS.len(), "only what was cut is kept");
}

#[tokio::test]
async fn a_client_of_before_there_were_links_has_the_uri_in_the_text() {
    let (_it, daemon) = limited(LIMITED).await;
    let url = daemon.url("/mcp");
    let open = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-03-26",
            "capabilities": {},
            "clientInfo": {"name": "old", "version": "1"},
        },
    });
    let opened = send(&url, "POST", &JSON, open.to_string()).await;
    let client = Client::legacy(&url, None).await.with_session(opened.header("mcp-session-id"));
    let answer = client.call("it__big", r#"{"bytes":20000}"#).await;
    assert_eq!(answer.value["result"]["content"].as_array().map(Vec::len), Some(1), "{answer:#?}");
    assert_eq!(read_whole(&client, uri_in(answer.said())).await, "x".repeat(20_000));
}

#[tokio::test]
async fn a_result_that_cannot_be_kept_is_cut_all_the_same() {
    let (_it, daemon) = limited(LIMITED).await;
    // What is there is no directory, so nothing can be written into it.
    fs::write(daemon.directory().join("state/results"), "").expect("a daemon's directory can be written");
    for era in ERAS {
        let client = Client::open(era, &daemon.url("/mcp"), None).await;
        let answer = client.call("it__big", r#"{"bytes":20000}"#).await;
        let said = answer.said();
        assert!(said.starts_with("xxxx") && said.contains("could not be kept"), "{era:?}: {said}");
        assert!(!said.contains(ROOT) && said.len() <= LIMIT, "{era:?}: {said}");
        assert_eq!(answer.value["result"]["content"].as_array().map(Vec::len), Some(1));
    }
}

#[tokio::test]
async fn links_can_be_followed_where_no_server_has_resources() {
    let well = Upstream::start(Transport::Stdio, "it", &[], "sharing = \"everyone\"").await;
    let (plain, (_it, limited)) = (Daemon::start(well.table()).await, limited(LIMITED).await);
    for (daemon, declared) in [(&plain, false), (&limited, true)] {
        let client = Client::modern(&daemon.url("/mcp"), None);
        client.list().await;
        let greeting = client.request("server/discover", &json!({})).await;
        let resources = greeting.value["result"]["capabilities"].get("resources");
        assert_eq!(resources.is_some(), declared, "{greeting:#?}");
    }
}
