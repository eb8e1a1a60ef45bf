use super::*;
use crate::era::MODERN;

fn message(value: &serde_json::Value) -> Message {
    Message::parse(value.to_string().into()).unwrap()
}

fn request(kind: Kind, able: &serde_json::Value, params: &serde_json::Value) -> Request {
    let wire = Wire { kind, version: if kind == Kind::Modern { MODERN } else { LEGACY[0] } };
    let face = Arc::new(Face::of(Raw::of(&json!({"name": "c"})), Raw::of(able)));
    let call = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params});
    Request::read(message(&call), wire, face).unwrap()
}

fn peer(kind: Kind) -> Peer {
    let version = if kind == Kind::Modern { MODERN } else { LEGACY[0] };
    let opening = json!({"capabilities": {"logging": {}}, "serverInfo": {"name": "s"}});
    Peer::recall(version, Raw::of(&opening)).unwrap()
}

fn question(method: &str, params: &serde_json::Value) -> Message {
    message(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
}

#[test]
fn only_what_a_modern_client_declares_is_asked_of_it() {
    let page = question(ELICIT, &json!({"mode": "url", "url": "https://x", "message": "m"}));
    let form = question(ELICIT, &json!({"message": "m", "requestedSchema": {}}));
    for (able, question, may) in [
        (json!({}), &form, false),
        (json!({"elicitation": {}}), &form, true),
        (json!({"elicitation": {"form": {}}}), &page, false),
        (json!({"elicitation": {"url": {}}}), &page, true),
        (json!({"elicitation": {}}), &question(SAMPLE, &json!({})), false),
        (json!({"sampling": {}}), &question(SAMPLE, &json!({})), true),
        (json!({"roots": {}}), &question(ROOTS, &json!({})), true),
    ] {
        let request = request(Kind::Modern, &able, &json!({"name": "t"}));
        assert_eq!(peer(Kind::Legacy).can_ask(&request, question), may, "{able} {question:?}");
    }
}

#[test]
fn what_a_legacy_client_can_do_is_told_by_its_version() {
    let able = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "tasks": {}, "roots": {"listChanged": true}, "x": 1});
    let face = Face::of(Raw::of(&json!({})), Raw::of(&able));
    let told = |version| serde_json::from_str::<serde_json::Value>(&capabilities(&face, version)).unwrap();
    assert_eq!(
        told("2025-11-25"),
        json!({"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}, "x": 1})
    );
    assert_eq!(told("2025-06-18"), json!({"elicitation": {"form": {}}, "sampling": {}, "roots": {}, "x": 1}));
    assert_eq!(told("2025-03-26"), json!({"sampling": {}, "roots": {}, "x": 1}));
}

#[test]
fn what_a_modern_upstream_wants_is_asked_and_goes_back_by_name() {
    let request = request(Kind::Legacy, &json!({}), &json!({"name": "t", "arguments": {"a": 1}}));
    let wanted = json!({"jsonrpc": "2.0", "id": 5, "result": {"resultType": "input_required", "requestState": "s",
        "inputRequests": {"who": {"method": ELICIT, "params": {"mode": "url", "url": "https://x", "message": "m"}}}}});
    let input = peer(Kind::Modern).input(&request, &message(&wanted)).unwrap();
    let (name, asked) = &input.questions[0];
    assert_eq!((name.as_str(), asked.method()), ("who", Some(ELICIT)));
    assert_eq!(asked.params().unwrap().value()["elicitationId"], "who", "the older era wants an id");

    let response = message(&json!({"jsonrpc": "2.0", "id": 9, "result": {"action": "accept"}}));
    let given = answer(asked, Answer::Response(response)).unwrap();
    let again = request.with_input(&[(name.clone(), given)], input.state.as_ref()).unwrap();
    let params = again.message().params().unwrap().value();
    assert_eq!(
        params,
        json!({"name": "t", "arguments": {"a": 1}, "inputResponses": {"who": {"action": "accept"}}, "requestState": "s"})
    );
    assert_eq!(again.without_input().unwrap().message().params().unwrap().value()["name"], "t");
    assert!(peer(Kind::Legacy).input(&request, &message(&wanted)).is_none());

    let refused = answer(asked, Answer::Refused("gone")).unwrap();
    assert_eq!(refused.value(), json!({"action": "cancel"}));
    assert!(answer(&question(SAMPLE, &json!({})), Answer::Refused("gone")).is_err());
}

#[test]
fn a_question_ends_a_modern_request_and_its_answer_comes_with_the_next() {
    let first = request(Kind::Modern, &json!({}), &json!({"name": "t"}));
    let asked =
        question(ELICIT, &json!({"message": "m", "elicitationId": "e", "_meta": {"progressToken": 0}}));
    let reply = wants_input(&first, [("question", &asked)], "seawall:1.2");
    let reply = message(&serde_json::from_slice(&reply.body).unwrap());
    assert_eq!(reply.id().unwrap().as_str(), "5");
    assert_eq!(
        reply.result().unwrap().value(),
        json!({"resultType": "input_required", "requestState": "seawall:1.2",
            "inputRequests": {"question": {"method": ELICIT, "params": {"message": "m"}}}})
    );
    let params = json!({"name": "t", "requestState": "seawall:1.2", "inputResponses": {"question": {"action": "decline"}}});
    let given = given(&request(Kind::Modern, &json!({}), &params)).unwrap();
    assert_eq!((given.state.as_str(), given.answers[0].0.as_str()), ("seawall:1.2", "question"));
    assert_eq!(given.answers[0].1.result().unwrap().value(), json!({"action": "decline"}));
    assert!(super::given(&first).is_none());
}

#[test]
fn what_an_earlier_request_was_told_is_addressed_to_the_one_that_goes_on() {
    let now = request(Kind::Modern, &json!({}), &json!({"name": "t", "_meta": {"progressToken": "mine"}}));
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1, "progressToken":"old"}}"#;
    assert_eq!(readdressed(&now, &Bytes::from_static(text.as_bytes())), text.replace("\"old\"", "\"mine\""));
    let text = r#"{"jsonrpc":"2.0","id":"first","result":{"n":1.10}}"#;
    assert_eq!(readdressed(&now, &Bytes::from_static(text.as_bytes())), text.replace("\"first\"", "5"));
}

#[test]
fn errors_and_declarations_are_put_in_the_callers_words() {
    let read = |kind| {
        let wire = Wire { kind, version: if kind == Kind::Modern { MODERN } else { LEGACY[0] } };
        let read = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/read", "params": {"uri": "x:"}});
        Request::read(message(&read), wire, Face::own()).unwrap()
    };
    let missing =
        |code| message(&json!({"jsonrpc": "2.0", "id": 5, "error": {"code": code, "message": "no"}}));
    for (upstream, caller, code, told) in [
        (Kind::Legacy, Kind::Modern, -32002, -32602),
        (Kind::Modern, Kind::Legacy, -32602, -32002),
        (Kind::Legacy, Kind::Legacy, -32002, -32002),
        (Kind::Legacy, Kind::Modern, -32603, -32603),
    ] {
        let reply = peer(upstream).reply(&read(caller), &missing(code));
        let value: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(value["error"], json!({"code": told, "message": "no"}));
        assert_eq!(reply.kind, ReplyKind::Error(told));
    }
    let pages = json!({"code": URL_WANTED, "message": "m",
        "data": {"elicitations": [{"mode": "url", "elicitationId": "e", "url": "https://x", "message": "m"}]}});
    let wanted = message(&json!({"jsonrpc": "2.0", "id": 5, "error": pages}));
    let reply = peer(Kind::Legacy).reply(&request(Kind::Modern, &json!({}), &json!({"name": "t"})), &wanted);
    let value: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        value["result"]["inputRequests"]["e"]["params"],
        json!({"mode": "url", "url": "https://x", "message": "m"})
    );

    let legacy = Wire { kind: Kind::Legacy, version: LEGACY[0] };
    let tool = r#"{"name":"t","outputSchema":{"type":"array"},"execution":{"taskSupport":"optional"}}"#;
    assert_eq!(tool_for(&legacy, tool).unwrap(), r#"{"name":"t","execution":{"taskSupport":"optional"}}"#);
    assert_eq!(tool_for(&Wire::own(), tool).unwrap(), r#"{"name":"t","outputSchema":{"type":"array"}}"#);
    assert!(tool_for(&legacy, r#"{"name":"t","outputSchema":{"type":"object"}}"#).is_none());
}

#[test]
fn answers_that_make_a_message_none_may_send_are_no_request() {
    let request = request(Kind::Legacy, &json!({}), &json!({"name": "t"}));
    let deep = format!("{}1{}", "[".repeat(126), "]".repeat(126));
    let answers = [("who".to_owned(), Raw::parse(deep.into()).unwrap())];
    assert!(request.with_input(&answers, None).is_none());
}

#[test]
fn a_modern_caller_hears_of_the_log_what_it_asked_for_and_any_other_hears_all() {
    let said = |level: &str| {
        let params = json!({"level": level, "data": "x"});
        let said = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
        Bytes::from(said.to_string())
    };
    let plain = json!({"name": "t"});
    let wants = json!({"name": "t", "_meta": {(META_LOG_LEVEL): "warning"}});
    for (kind, params, heard) in [
        (Kind::Modern, &plain, [false, false]),
        (Kind::Modern, &wants, [false, true]),
        (Kind::Legacy, &plain, [true, true]),
    ] {
        let request = request(kind, &json!({}), params);
        assert_eq!(["info", "error"].map(|level| request.wants_log(&said(level))), heard);
    }
}
