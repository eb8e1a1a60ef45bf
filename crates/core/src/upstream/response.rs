//! What a response must be to be passed on as an answer.

use super::Lost;
use seawall_proto::{Message, Raw, jsonrpc::Members};

/// Most bytes of foreign text in a sentence.
const SHOWN: usize = 200;

/// A response that is one, or why it is none: an empty or malformed success is a fault. `wants_content` is set where
/// the schema wants the result to say something.
///
/// # Errors
/// When its result or error is no object, or a result says nothing.
pub(super) fn proper(message: Message, wants_content: bool) -> Result<Message, Lost> {
    let Some(result) = message.result() else {
        return match message.error() {
            Some(error) if !is_object(&error) => {
                Err(Lost::nonsense(format!("its error is no object but {}", excerpt(error.bytes()))))
            }
            _ => Ok(message),
        };
    };
    if !is_object(&result) {
        return Err(Lost::nonsense(format!("its result is no object but {}", excerpt(result.bytes()))));
    }
    if wants_content && !says_something(&result) {
        let said = excerpt(result.bytes());
        let why = format!("its result has neither `content` nor `structuredContent`: {said}");
        return Err(Lost::nonsense(why));
    }
    Ok(message)
}

fn is_object(value: &Raw) -> bool {
    value.bytes().starts_with(b"{")
}

/// Whether the result of a tool has what a caller can read, or is of a kind that says it elsewhere: a question, or a
/// task.
fn says_something(result: &Raw) -> bool {
    // Most servers write it first, and then nothing has to be read twice.
    result.bytes().starts_with(br#"{"content":"#)
        || Members::parse(result.as_str()).is_ok_and(|members| {
            let other = members.string("resultType").is_some_and(|kind| kind != "complete");
            other || ["content", "structuredContent", "task"].iter().any(|name| members.get(name).is_some())
        })
}

/// The beginning of foreign text, control characters escaped.
pub(super) fn excerpt(text: &[u8]) -> String {
    let mut shown = String::new();
    for character in String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.len() > SHOWN {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(member: &str) -> Message {
        Message::parse(format!(r#"{{"jsonrpc":"2.0","id":1,{member}}}"#).into()).unwrap()
    }

    #[test]
    fn an_empty_or_malformed_success_is_a_fault() {
        for (member, wants_content, fine) in [
            (r#""result":{"content":[]}"#, true, true),
            (r#""result":{"_meta":{},"content":[]}"#, true, true),
            (r#""result":{"structuredContent":{}}"#, true, true),
            (r#""result":{"task":{"taskId":"t"}}"#, true, true),
            (r#""result":{"resultType":"complete"}"#, true, false),
            (r#""result":{"resultType":"input_required","inputRequests":{}}"#, true, true),
            (r#""result":{"isError":true}"#, true, false),
            (r#""result":{"other":{"content":[]}}"#, true, false),
            (r#""result":{}"#, true, false),
            (r#""result":{}"#, false, true),
            (r#""result":null"#, false, false),
            (r#""result":"done""#, false, false),
            (r#""result":[]"#, false, false),
            (r#""error":{"code":1,"message":"m"}"#, true, true),
            (r#""error":null"#, true, false),
        ] {
            let proper = proper(response(member), wants_content);
            assert_eq!(proper.is_ok(), fine, "{member}");
            assert!(proper.err().is_none_or(|lost| lost.answered), "{member}");
        }
    }

    #[test]
    fn foreign_text_is_shown_in_one_short_line() {
        assert_eq!(excerpt(b"a\x1b[31m\nb"), "a\\u{1b}[31m\\nb");
        let shown = excerpt(&[0xff; 1000]);
        assert_eq!(shown.chars().count(), SHOWN + 1);
    }
}
