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
    assert!(matches!(parse("[]"), Err(Malformed::Syntax(_))));
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

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(Bytes::from(bytes));
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
