use super::*;
use crate::{
    era::peer::{Minted, Peer},
    sse::SseReader,
};
use std::sync::Arc;

/// What JSON parsers like to change.
const DELICATE: &str = r#"{"z":12345678901234567890123456789,"a":1.10,"b":[ 1,-0.0],"e":"\u0041"}"#;
const LEGACY_OPENING: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
const MODERN_OPENING: &str = r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#;

fn read(body: &str) -> Result<Execute, Fault> {
    Execute::read(&Bytes::copy_from_slice(body.as_bytes()))
}

fn peers() -> [Peer; 2] {
    [("2025-11-25", LEGACY_OPENING), ("2026-07-28", MODERN_OPENING)].map(|(version, opening)| {
        Peer::recall(version, Raw::parse(Bytes::from_static(opening.as_bytes())).unwrap()).unwrap()
    })
}

fn value(bytes: &Bytes) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The one event that was written: its type and its data.
fn written(bytes: &Bytes) -> (String, serde_json::Value) {
    let mut reader = SseReader::new(10_000);
    reader.feed(bytes);
    let event = reader.next_event().unwrap().unwrap();
    assert_eq!(reader.next_event(), Ok(None));
    (event.event.unwrap(), value(&event.data))
}

#[test]
fn a_body_is_read_whole() {
    let body = format!(
        "\n{{\"tool\": \"s__t\", \"arguments\": {DELICATE}, \"timeout_ms\": 5, \"session\": \"s\", \
         \"idempotency_key\": \"k\"}} "
    );
    let asked = read(&body).unwrap();
    assert_eq!((asked.tool.as_str(), asked.arguments.as_str()), ("s__t", DELICATE));
    assert_eq!((asked.timeout_ms, asked.session.as_deref()), (Some(5), Some("s")));
    assert_eq!(asked.idempotency_key.as_deref(), Some("k"));

    let least = read(r#"{"tool":"t"}"#).unwrap();
    assert_eq!((least.arguments.as_str(), least.timeout_ms, least.session), ("{}", None, None));
}

#[test]
fn what_is_wrong_with_a_body_is_named() {
    for (body, named) in [
        ("", "not valid JSON"),
        ("{\"tool\":\"t\"", "not valid JSON"),
        ("[]", "not an object"),
        ("{}", "`tool`"),
        (r#"{"tool":5}"#, "`tool`"),
        (r#"{"tool":""}"#, "`tool`"),
        (r#"{"tool":"t","tool":"u"}"#, "`tool` occurs twice"),
        (r#"{"tool":"t","argument":{},"name":1}"#, r#""argument", "name""#),
        (r#"{"tool":"t","arguments":[]}"#, "`arguments`"),
        (r#"{"tool":"t","arguments":null}"#, "`arguments`"),
        (r#"{"tool":"t","timeout_ms":"5"}"#, "`timeout_ms`"),
        (r#"{"tool":"t","timeout_ms":-1}"#, "`timeout_ms`"),
        (r#"{"tool":"t","session":""}"#, "`session`"),
        (r#"{"tool":"t","idempotency_key":5}"#, "`idempotency_key`"),
    ] {
        let fault = read(body).unwrap_err();
        assert_eq!(fault.code, Code::InvalidArguments, "{body}");
        assert!(fault.message.contains(named), "{body}: {}", fault.message);
    }
    let deep = format!(r#"{{"tool":"t","arguments":{{"a":{}{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let fault = read(&deep).unwrap().request(false).unwrap_err();
    assert!(fault.message.contains("nested deeper"), "{}", fault.message);
}

#[test]
fn arguments_reach_either_era_byte_for_byte() {
    let asked = read(&format!(r#"{{"arguments":{DELICATE},"tool":"s__t"}}"#)).unwrap();
    for peer in peers() {
        let request = asked.request(false).unwrap();
        let outgoing = peer.outgoing(&request, Some("t"), Some(Minted { id: 7 }), Vec::new()).unwrap();
        let sent = std::str::from_utf8(&outgoing.body).unwrap();
        assert!(sent.contains(&format!(r#""name":"t","arguments":{DELICATE}"#)), "{sent}");
        assert!(!sent.contains("progressToken"), "{sent}");
    }
}

#[test]
fn a_modern_upstream_gets_the_headers_that_repeat_arguments() {
    let request = read(r#"{"tool":"s__t","arguments":{"a":"x"}}"#).unwrap().request(false).unwrap();
    let annotated: [(Arc<str>, Arc<str>); 1] = [("a".into(), "A".into())];
    assert!(crate::era::serve::check_parameters(&request, &annotated).is_none());
    let [_, modern] = peers();
    let made = vec![("mcp-param-a".to_owned(), "x".to_owned())];
    let outgoing = modern.outgoing(&request, Some("t"), None, made).unwrap();
    assert!(outgoing.headers.iter().any(|(name, value)| name == "mcp-param-a" && value == "x"));
}

#[test]
fn a_result_comes_back_as_the_upstream_said_it() {
    let request = read(r#"{"tool":"s__t"}"#).unwrap().request(false).unwrap();
    for peer in peers() {
        for result in [
            format!(r#"{{"structuredContent":{DELICATE}, "content":[]}}"#),
            String::from(r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#),
        ] {
            let response = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#);
            let reply = peer.reply(&request, &Message::parse(response.into()).unwrap());
            let said = super::result(&reply).unwrap();
            assert_eq!(said.as_str(), result);
            let failed = result.contains("isError");
            let end = End::result(Some("c"), "s__t", &said);
            assert_eq!((end.status(), end.retry_after()), (200, None));
            let body = format!(r#"{{"ok":{},"call":"c","tool":"s__t","result":{result}}}"#, !failed);
            assert_eq!(end.clone().into_body(), body);
            let (event, data) = written(&end.into_event());
            assert_eq!(
                (event.as_str(), &data["status"], &data["call"]),
                ("result", &json!(200), &json!("c"))
            );
        }
    }
}

#[test]
fn what_is_no_result_is_the_upstreams_error() {
    let request = read(r#"{"tool":"s__t"}"#).unwrap().request(false).unwrap();
    let [legacy, modern] = peers();
    let wanted =
        r#""error":{"code":-32042,"message":"m","data":{"elicitations":[{"elicitationId":"e","url":"u"}]}}"#;
    for (peer, answer, named) in [
        (&legacy, r#""error":{"code":-32602,"message":"Bad arguments"}"#, "-32602, and said: Bad arguments"),
        (&legacy, wanted, "cannot be asked"),
        (&modern, r#""result":{"resultType":"input_required","inputRequests":{}}"#, "cannot be asked"),
        (&modern, r#""result":{"resultType":"task","taskId":"t"}"#, "cannot be followed"),
    ] {
        let response = format!(r#"{{"jsonrpc":"2.0","id":7,{answer}}}"#);
        let reply = peer.reply(&request, &Message::parse(response.into()).unwrap());
        let fault = super::result(&reply).unwrap_err();
        assert_eq!((fault.code, fault.may_have_run), (Code::UpstreamError, true), "{answer}");
        assert!(fault.message.contains(named), "{answer}: {}", fault.message);
    }
}

#[test]
fn a_fault_is_told_with_its_status_and_when_to_come_back() {
    let fault = Fault { retry_after_ms: Some(1001), ..Fault::new(Code::OverCapacity, Stage::Admit, "full.") };
    let end = End::fault(Some("c"), &fault);
    assert_eq!((end.status(), end.retry_after()), (429, Some(2)));
    let (event, streamed) = written(&end.clone().into_event());
    assert_eq!((event.as_str(), &streamed["status"]), ("error", &json!(429)));
    let body = value(&end.into_body());
    assert_eq!((&body["ok"], &body["call"]), (&json!(false), &json!("c")));
    assert_eq!(
        (&body["error"]["code"], &body["error"]["message"]),
        (&json!("OVER_CAPACITY"), &json!("full."))
    );
    assert_eq!(body["error"]["retry_after_ms"], 1001);
    assert_eq!(streamed["error"], body["error"]);

    for code in Code::ALL {
        assert_eq!(End::fault(None, &Fault::new(code, Stage::Answer, "x")).status(), code.status());
    }
}

#[test]
fn a_tool_that_may_not_be_used_is_one_that_is_not_there() {
    let hidden = Fault::new(Code::Forbidden, Stage::Authorise, "a secret");
    let unknown = Fault::new(Code::ToolNotFound, Stage::Resolve, "none");
    assert_eq!(End::fault(None, &hidden), End::fault(None, &unknown));
    assert!(!End::fault(None, &hidden).body.contains("secret"));
}

#[test]
fn progress_and_log_messages_are_events_without_an_envelope() {
    let request = read(r#"{"tool":"s__t"}"#).unwrap().request(true).unwrap();
    assert!(request.wants_progress());
    let notification = |method: &str, params: &str| {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{params}}}"#))
    };
    let progress = notification("progress", r#"{"progressToken":0,"progress":1.5,"total":3,"message":"m"}"#);
    let (name, data) = written(&event(&Event::Progress(progress)).unwrap());
    assert_eq!((name.as_str(), data), ("progress", json!({"progress": 1.5, "total": 3, "message": "m"})));
    let log = notification("message", r#"{"level":"info","data":"said"}"#);
    let (name, data) = written(&event(&Event::Log(log)).unwrap());
    assert_eq!((name.as_str(), data), ("log", json!({"level": "info", "data": "said"})));
    assert!(event(&Event::Streaming).is_none());

    let beat = crate::era::serve::still_there(&request, 0.5, None).unwrap();
    let (_, data) = written(&event(&Event::Progress(beat)).unwrap());
    assert_eq!(data, json!({"progress": 0.5}));
}
