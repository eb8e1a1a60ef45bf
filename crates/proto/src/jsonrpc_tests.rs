use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<Message, Malformed> {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn an_edit_leaves_every_other_byte_alone() {
    let text = r#"{ "params" : {"n":123456789012345678901234567890, "b":1.10}, "x-vendor":[1 ],"id": "a" , "method":"m","jsonrpc":"2.0"}"#;
    let message = parse(text).unwrap();
    assert_eq!(message.kind(), Kind::Request);
    assert_eq!(message.with_id("7"), text.replace("\"a\"", "7"));
    assert_eq!(
        message.with_params("{}"),
        text.replace(r#"{"n":123456789012345678901234567890, "b":1.10}"#, "{}")
    );
}

#[test]
fn what_another_parser_might_read_differently_is_refused() {
    for (text, fault) in [
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, Malformed::Twice("id".into())),
        (r#"{"jsonrpc":"2.0","\u0069d":1,"id":2,"method":"m"}"#, Malformed::Twice("id".into())),
        (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, Malformed::Shape("`jsonrpc` is not \"2.0\"")),
        (
            r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#,
            Malformed::Shape("`id` is neither a string nor a number"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#,
            Malformed::Shape("`params` is not an object"),
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, Malformed::Shape("it has no `method`, `result` or `error`")),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            Malformed::Shape("it has a `result` and an `error`"),
        ),
    ] {
        assert_eq!(parse(text).err(), Some(fault), "{text}");
    }
    assert!(matches!(parse("[]"), Err(Malformed::Shape(_))));
    assert!(matches!(parse(r#"{"jsonrpc":"2.0","id":1,"method":"m""#), Err(Malformed::Syntax(_))));
}

#[test]
fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
    let nested = |levels: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"a":{}{}}}}}"#,
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert!(parse(&nested(MAX_DEPTH - 2)).is_ok());
    assert_eq!(parse(&nested(MAX_DEPTH - 1)).err(), Some(Malformed::Deep));
    let text = format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"a":"\"{}"}}}}"#, "[".repeat(1000));
    assert!(parse(&text).is_ok());
}

#[test]
fn members_are_edited_in_place_and_new_ones_come_last() {
    let members = Members::parse(r#"{"a":1,"b":[ 2 ],"c":3}"#).unwrap();
    assert_eq!(members.edited(&[("b", Some("0")), ("a", None), ("d", Some("4"))]), r#"{"b":0,"c":3,"d":4}"#);
}

/// JSON whose strings hold what could be taken for structure.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let text = || r#"[a-c"\\\\{}\[\]:, \n\u{e9}\u{1f600}]{0,6}"#;
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map(text(), inner, 0..5)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(Bytes::from(bytes));
    }

    #[test]
    fn no_text_makes_the_search_for_members_panic(text in r#"[{]?["\\\\{}\[\]:, a\u{e9}]{0,20}"#) {
        let _ = Members::parse(&text);
    }

    #[test]
    fn members_are_those_that_a_parser_finds(value in json(), pretty in any::<bool>()) {
        let object = serde_json::json!({"first": value, "": value, "last": 1.5});
        let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
        let text = format!(" {} ", text.unwrap());
        let found = Members::parse(&text).unwrap();
        let parsed: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
            serde_json::from_str(&text).unwrap();
        let found: std::collections::BTreeMap<&str, &str> = found.iter().collect();
        let parsed: std::collections::BTreeMap<&str, &str> =
            parsed.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
        prop_assert_eq!(found, parsed);
        if let serde_json::Value::Object(inner) = &object["first"] {
            let text = Members::parse(&text).unwrap().get("first").unwrap();
            prop_assert_eq!(Members::parse(text).unwrap().iter().count(), inner.len());
        }
    }

    #[test]
    fn any_request_keeps_its_arguments(text in "\\PC{0,40}", number in any::<i64>()) {
        let arguments = serde_json::json!({"text": text, "n": number}).to_string();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"arguments":{arguments}}}}}"#);
        let message = parse(&body).unwrap();
        let edited = Message::parse(message.with_id("1")).unwrap();
        prop_assert_eq!(edited.params(), message.params());
    }
}
