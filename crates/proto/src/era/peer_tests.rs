use super::*;
use crate::era::{Face, LEGACY};

fn request(kind: Kind, body: &str) -> Request {
    let wire = Wire { kind, version: if kind == Kind::Modern { super::super::MODERN } else { LEGACY[0] } };
    Request::read(message(body), wire, Face::own()).unwrap()
}

fn message(body: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn peer(kind: Kind) -> Peer {
    let opening = match kind {
        Kind::Modern => {
            r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}"#
        }
        Kind::Legacy => {
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#
        }
    };
    let version = if kind == Kind::Modern { super::super::MODERN } else { LEGACY[0] };
    Peer::recall(version, Raw::parse(opening.to_owned().into()).unwrap()).unwrap()
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"s__t" ,"arguments":{"n":1e400, "b":[ ]},"_meta":{"progressToken":"p","vendor/x":1}}}"#;

#[test]
fn between_equal_eras_only_id_token_and_name_change() {
    for kind in [Kind::Legacy, Kind::Modern] {
        let request = request(kind, CALL);
        let outgoing = peer(kind).outgoing(&request, Some("t"), Some(Minted { id: 7 }), Vec::new()).unwrap();
        let expected = CALL.replace("\"a\"", "7").replace("s__t", "t").replace("\"p\"", "7");
        assert_eq!(outgoing.body, expected);
    }
    let request = request(Kind::Modern, CALL);
    let outgoing = peer(Kind::Modern).outgoing(&request, Some("s__t"), None, Vec::new()).unwrap();
    assert_eq!(outgoing.body, CALL, "an unshared channel gets the caller's own bytes");
    assert!(outgoing.headers.contains(&(Cow::Borrowed("mcp-name"), Cow::Borrowed("s__t"))));
}

#[test]
fn crossing_to_the_modern_era_adds_what_it_needs_wherever_params_stand() {
    for body in [
        CALL,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{ }}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"c"}}"#,
    ] {
        let body = body.replace("1e400", "1e40");
        let outgoing =
            peer(Kind::Modern).outgoing(&request(Kind::Legacy, &body), None, None, Vec::new()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&outgoing.body).unwrap();
        assert_eq!(value["params"]["_meta"][META_VERSION], "2026-07-28", "{body}");
        assert_eq!(value["params"]["_meta"][META_CAPABILITIES], serde_json::json!({}));
    }
}

#[test]
fn crossing_to_the_legacy_era_takes_only_the_modern_keys_away() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"n":1e400},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"traceparent":"x","progressToken":3}}}"#;
    let outgoing =
        peer(Kind::Legacy).outgoing(&request(Kind::Modern, body), None, Some(Minted { id: 9 }), Vec::new());
    let text = String::from_utf8(outgoing.unwrap().body.to_vec()).unwrap();
    assert!(text.contains(r#""_meta":{"traceparent":"x","progressToken":9}"#), "{text}");
    assert!(text.contains("1e400"));
}

#[test]
fn results_cross_with_the_members_the_other_era_wants() {
    let response = message(r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"n":1e400}]}}"#);
    let list = request(Kind::Modern, r#"{"jsonrpc":"2.0","id":"z","method":"tools/list","params":{}}"#);
    let reply = peer(Kind::Legacy).reply(&list, &response);
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(
        text.contains(r#""id":"z""#) && text.contains("1e400") && text.contains(r#""ttlMs":0"#),
        "{text}"
    );

    let response = message(
        r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete","structuredContent":[1]}}"#,
    );
    let reply = peer(Kind::Modern).reply(&request(Kind::Legacy, CALL), &response);
    let said = r#"{"jsonrpc":"2.0","id":"a","result":{"content":[{"text":"[1]","type":"text"}]}}"#;
    assert_eq!(reply.body, said, "what the older era cannot have structured is said in words");

    let ask =
        message(r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{}}}"#);
    assert_eq!(peer(Kind::Modern).reply(&request(Kind::Modern, CALL), &ask).kind, ReplyKind::Ask);
    assert_eq!(peer(Kind::Modern).reply(&request(Kind::Legacy, CALL), &ask).kind, ReplyKind::Error(-32601));
}

#[test]
fn what_needs_more_than_meta_is_refused_with_a_reason() {
    let listen =
        request(Kind::Modern, r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#);
    let refused = peer(Kind::Legacy).outgoing(&listen, None, None, Vec::new()).unwrap_err();
    assert_eq!(refused.kind, ReplyKind::Error(-32601));
}

#[test]
fn notifications_find_their_call_and_get_its_token_back() {
    let progress = message(
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#,
    );
    let peer = peer(Kind::Legacy);
    assert!(matches!(peer.incoming(&progress), Incoming::About { id: 7, topic: Topic::Progress }));
    let text = peer.notification(&request(Kind::Legacy, CALL), &progress, Topic::Progress).unwrap();
    assert!(
        text.starts_with(
            br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p""#
        )
    );
    let silent =
        request(Kind::Legacy, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#);
    assert!(peer.notification(&silent, &progress, Topic::Progress).is_none(), "no token, no progress");
}

#[test]
fn header_values_survive_what_headers_cannot_hold() {
    for text in ["plain", "é", " padded", "=?base64?x?="] {
        assert_eq!(header_text(&header_value(text)).as_deref(), Some(text));
    }
    assert_eq!(header_text("=?base64?!!?="), None);
    let arguments = Raw::parse(Bytes::from_static(br#"{"region":"eu","n":5,"none":null}"#)).unwrap();
    let annotated = [("region", "Region"), ("n", "N"), ("none", "None"), ("absent", "A")]
        .map(|(p, h)| (p.into(), h.into()));
    assert_eq!(
        parameter_headers(&annotated, Some(&arguments)),
        [("mcp-param-region".to_owned(), "eu".to_owned()), ("mcp-param-n".to_owned(), "5".to_owned())]
    );
}

#[test]
fn facts_that_are_structured_only_are_said_in_words_too() {
    let request = request(Kind::Modern, CALL);
    let reply = |result: &str| {
        let response = format!(r#"{{"jsonrpc":"2.0","id":"a","result":{result}}}"#);
        let reply = peer(Kind::Modern).reply(&request, &message(&response));
        (response, String::from_utf8(reply.body.to_vec()).unwrap())
    };
    let (_, body) = reply(r#"{"content":[],"structuredContent":{"n": 1.10}}"#);
    assert!(body.contains(r#""text":"{\"n\": 1.10}""#), "{body}");
    for untouched in
        [r#"{"content":[{"type":"text","text":"x"}],"structuredContent":{}}"#, r#"{"content":[]}"#]
    {
        let (response, body) = reply(untouched);
        assert_eq!(body, response);
    }
}

#[test]
fn headers_hold_any_name() {
    assert_eq!(header_value("well__echo"), "well__echo");
    assert_eq!(header_value("é"), "=?base64?w6k=?=");
    assert_eq!(header_value(" x"), "=?base64?IHg=?=");
    assert_eq!(header_value("=?base64?eA==?="), "=?base64?PT9iYXNlNjQ/ZUE9PT89?=");
}
