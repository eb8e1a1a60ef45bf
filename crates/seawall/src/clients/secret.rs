//! What may be secret in a client's file, and lines without it.

use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Members of which every value may be secret.
const HOLDERS: [&str; 6] = ["env", "environment", "envs", "headers", "http_headers", "requestOptions"];
/// What stands in the names of secrets.
const WORDS: [&str; 7] = ["token", "key", "secret", "password", "passwd", "credential", "authorization"];
/// Members that hold names of variables, which anybody may know.
const NAMES: [&str; 3] = ["env_keys", "env_vars", "bearer_token_env_var"];
/// What stands before a secret in a header.
const SCHEMES: [&str; 3] = ["bearer ", "basic ", "token "];
/// A text shorter than this, in bytes, is hidden only where it stands as a word.
const SHORT: usize = 8;

/// Every text in these documents that may be secret, as it may be written in them, the longest first.
pub(crate) fn collect(documents: &[Value]) -> Vec<String> {
    let mut found = BTreeSet::new();
    documents.iter().for_each(|document| walk(document, false, &mut found));
    let mut found: Vec<String> = found.into_iter().collect();
    found.sort_by_key(|text| Reverse(text.len()));
    found
}

/// The line with `…` in the place of each of these texts.
pub(crate) fn hide(secrets: &[String], line: String) -> String {
    secrets.iter().fold(line, |line, secret| {
        if secret.len() < SHORT { without_word(&line, secret) } else { line.replace(secret.as_str(), "…") }
    })
}

fn without_word(line: &str, word: &str) -> String {
    let joins = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut shown = String::with_capacity(line.len());
    let mut from = 0;
    for (at, _) in line.match_indices(word) {
        let end = at + word.len();
        let inside = line[..at].ends_with(joins) || line[end..].starts_with(joins);
        if !inside {
            shown.push_str(&line[from..at]);
            shown.push('…');
            from = end;
        }
    }
    shown.push_str(&line[from..]);
    shown
}

/// Collects from a value, of which everything may be secret or only what is named like that.
fn walk(value: &Value, all: bool, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if !NAMES.contains(&key.as_str()) {
                    let holds = HOLDERS.contains(&key.as_str()) || (tells(key) && is_text(value));
                    walk(value, all || holds, found);
                }
            }
        }
        Value::Array(elements) => {
            // `--api-key`, and then the key.
            let mut awaited = false;
            for element in elements {
                walk(element, all || awaited, found);
                let option = element.as_str().filter(|text| text.starts_with('-') && !text.contains('='));
                awaited = option.is_some_and(tells);
            }
        }
        Value::String(text) if all => add(text, found),
        Value::String(text) => add(assigned(text).unwrap_or_default(), found),
        Value::Number(number) if all => {
            // A smaller one is no secret, and stands in too many places.
            let text = number.to_string();
            add(if text.len() < 4 { "" } else { text.as_str() }, found);
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// Whether a name tells that what it names is secret.
pub(crate) fn tells(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

fn is_text(value: &Value) -> bool {
    value.is_string() || value.as_array().is_some_and(|elements| elements.iter().all(Value::is_string))
}

/// What a text gives to the name of a secret, as in `API_KEY=…` or `Authorization: …`.
fn assigned(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let name = WORDS.iter().filter_map(|word| lower.find(word)).min()?;
    let given = name + lower[name..].find(['=', ':'])? + 1;
    Some(&text[given..])
}

/// Adds what a text says besides references to variables.
fn add(text: &str, found: &mut BTreeSet<String>) {
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '{']) {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        let alone = literal.is_empty() || literal.ends_with(char::is_whitespace);
        let (kept, length) = reference(rest, alone).map_or((&rest[..1], 1), |length| ("\n", length));
        literal.push_str(kept);
        rest = &rest[length..];
    }
    literal.push_str(rest);
    for piece in literal.lines() {
        let lower = piece.trim_start().to_ascii_lowercase();
        let scheme =
            SCHEMES.iter().find(|scheme| lower.starts_with(**scheme)).map_or(0, |scheme| scheme.len());
        let piece = piece.trim_start()[scheme..].trim();
        if piece.contains(char::is_alphanumeric) {
            let quoted = Value::from(piece).to_string();
            let escaped = &quoted[1..quoted.len() - 1];
            found.extend([piece.replace('\'', "''"), escaped.replace('/', "\\/")]);
            found.extend([piece.to_owned(), escaped.to_owned()]);
        }
    }
}

/// The length of the reference to a variable with which a text begins.
fn reference(text: &str, alone: bool) -> Option<usize> {
    for (open, close) in [("${{", "}}"), ("${", "}"), ("{env:", "}"), ("{file:", "}")] {
        if let Some(inside) = text.strip_prefix(open)
            && let Some(end) = inside.find(close)
        {
            let name = &inside[..end];
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "_.:/- ".contains(letter);
            // What is to stand in for an unset variable may be secret.
            let named = name.chars().all(plain) && !name.contains(":-");
            return named.then_some(open.len() + end + close.len());
        }
    }
    let name = text.strip_prefix('$')?.split(char::is_whitespace).next()?;
    let fits = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    (alone && !name.is_empty() && name.chars().all(fits)).then_some(name.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::{collect, hide};
    use serde_json::json;

    #[test]
    fn what_may_be_secret_is_hidden_and_the_rest_is_not() {
        let secrets = collect(&[json!({
            "env": {"A": "quote\"d-secret", "B": "${B}", "C": "$C", "D": "pin", "E": 123_456, "F": "${F:-fall-back}"},
            "headers": {"X": "Bearer sk-live-1", "Y": "Bearer ${env:TOKEN}"},
            "apiKey": "plain/secret",
            "args": ["--api-key", "after", "--token=joined", "-e", "X_SECRET=given", "--header", "Authorization: Bearer told", "stays"],
            "url": "https://host/mcp?token=asked",
            "env_keys": ["NAME"],
        })]);
        for (line, shown) in [
            (r#""A": "quote\"d-secret""#, r#""A": "…""#),
            ("B: ${B} $C NAME stays https://host", "B: ${B} $C NAME stays https://host"),
            ("pinned pin: 'pin'", "pinned …: '…'"),
            ("123456 ${F:-fall-back}", "… …"),
            ("Bearer sk-live-1 Bearer ${env:TOKEN}", "Bearer … Bearer ${env:TOKEN}"),
            (r"plain/secret plain\/secret", "… …"),
            ("after --token=joined X_SECRET=given told asked", "… --token=… X_SECRET=… … …"),
        ] {
            assert_eq!(hide(&secrets, line.to_owned()), shown);
        }
    }
}
