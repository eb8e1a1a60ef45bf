use super::*;

fn body(method: &str, params: &serde_json::Value) -> Bytes {
    json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params}).to_string().into()
}

fn modern_params() -> serde_json::Value {
    json!({"name": "t", "_meta": {META_VERSION: MODERN, META_CAPABILITIES: {}}})
}

fn head<'a>() -> Head<'a> {
    Head { version: Some(MODERN), method: Some("tools/call"), name: Some("t"), ..Head::default() }
}

fn code(result: Result<Inbound, Refusal>) -> (u16, i64) {
    let refusal = result.expect_err("it was let in");
    let value: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
    (refusal.status, value["error"]["code"].as_i64().unwrap())
}

#[test]
fn each_contradiction_between_headers_and_body_is_refused() {
    let call = || body("tools/call", &modern_params());
    assert!(matches!(inbound(&call(), &head()), Ok(Inbound::Alone(_))));
    for (change, expected) in [
        (Head { version: Some("2025-11-25"), ..head() }, (400, HEADER_MISMATCH)),
        (Head { version: None, ..head() }, (400, HEADER_MISMATCH)),
        (Head { method: Some("tools/list"), ..head() }, (400, HEADER_MISMATCH)),
        (Head { method: None, ..head() }, (400, HEADER_MISMATCH)),
        (Head { name: Some("u"), ..head() }, (400, HEADER_MISMATCH)),
        (Head { name: Some("=?base64?!?="), ..head() }, (400, HEADER_MISMATCH)),
        (Head { repeated: true, ..head() }, (400, HEADER_MISMATCH)),
    ] {
        assert_eq!(code(inbound(&call(), &change)), expected, "{change:?}");
    }
    let wrapped = Head { name: Some("=?base64?dA==?="), ..head() };
    assert!(inbound(&call(), &wrapped).is_ok());
}

#[test]
fn a_modern_request_must_say_what_it_is() {
    for params in
        [json!({}), json!({"_meta": {META_VERSION: MODERN}}), json!({"_meta": {META_CAPABILITIES: {}}})]
    {
        assert_eq!(code(inbound(&body("tools/call", &params), &head())), (400, INVALID_PARAMS), "{params}");
    }
    let unknown = json!({"_meta": {META_VERSION: "v999", META_CAPABILITIES: {}}});
    let at = Head { version: Some("v999"), ..head() };
    assert_eq!(code(inbound(&body("tools/call", &unknown), &at)), (400, UNSUPPORTED_VERSION));
    let at = Head { method: Some("ping"), name: None, ..head() };
    assert_eq!(code(inbound(&body("ping", &modern_params()), &at)), (404, METHOD_NOT_FOUND));
}

#[test]
fn the_older_era_is_what_says_nothing_or_says_initialize() {
    for (text, version) in [
        (body("initialize", &json!({"protocolVersion": "2025-06-18"})), None),
        (body("tools/list", &json!({})), None),
        (body("tools/list", &json!({})), Some("2025-11-25")),
    ] {
        assert!(matches!(inbound(&text, &Head { version, ..Head::default() }), Ok(Inbound::InSession(_))));
    }
    assert_eq!(code(inbound(&Bytes::from_static(b"[1"), &Head::default())), (400, -32700));
}

#[test]
fn a_client_gets_the_version_it_asked_for_or_the_newest() {
    for (asked, given) in [("2024-11-05", "2024-11-05"), ("2099-01-01", "2025-11-25")] {
        let message = Message::parse(body("initialize", &json!({"protocolVersion": asked}))).unwrap();
        assert_eq!(initialize(&message).unwrap().0.version(), given);
    }
    assert!(initialize(&Message::parse(body("initialize", &json!({}))).unwrap()).is_err());
}

#[test]
fn a_greeting_of_the_other_era_offers_only_what_crosses() {
    let discover = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true,"x":1},"logging":{},"tasks":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}}"#;
    let peer = Peer::recall(MODERN, Raw::parse(discover.to_owned().into()).unwrap()).unwrap();
    let message = Message::parse(body("initialize", &json!({"protocolVersion": "2025-06-18"}))).unwrap();
    let (wire, face) = initialize(&message).unwrap();
    let request = in_session(message, &wire, &Arc::new(face)).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&greeting_of(&request, &peer).body).unwrap();
    assert_eq!(
        value["result"],
        json!({"capabilities": {"tools": {"listChanged": true}, "logging": {}}, "protocolVersion": "2025-06-18", "serverInfo": {"name": "s", "version": "1"}})
    );
}
