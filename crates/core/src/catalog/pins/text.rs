//! The two texts of a definition: one to compare, which says the same of equal definitions, and one to read.

use serde_json::Value;
use std::fmt::Write;

/// Levels of lists and objects that are taken apart; what lies deeper is compared as it is written.
const DEEPEST: usize = 100;

/// A definition with the members of its objects in the order of their names. A name that is there twice stays there
/// twice: readers differ in which of the two they take.
enum Node<'a> {
    /// Numbers stand as they are written, and so does what is not taken apart.
    Plain(&'a str),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// The text that equal definitions have in common, however they are laid out. `text` is JSON that a parser has
/// accepted.
pub(super) fn canonical(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    Reader { text, at: 0 }.node(0).compact(&mut out);
    out
}

/// The text for people, in lines. Letters that do not show, or that turn others round, are written as escapes: a
/// definition may try to hide something from whoever reads it. `text` is JSON that a parser has accepted.
pub(super) fn pretty(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    Reader { text, at: 0 }.node(0).lines(0, &mut out);
    out
}

impl Node<'_> {
    fn compact(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(nodes) => {
                out.push('[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    node.compact(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, node)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&quoted(name));
                    out.push(':');
                    node.compact(out);
                }
                out.push('}');
            }
        }
    }

    fn lines(&self, depth: usize, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(&visible(text)),
            Self::Text(text) => out.push_str(&visible(&quoted(text))),
            Self::List(nodes) if nodes.is_empty() => out.push_str("[]"),
            Self::Object(members) if members.is_empty() => out.push_str("{}"),
            Self::List(nodes) => {
                out.push('[');
                for (index, node) in nodes.iter().enumerate() {
                    begin_line(index, depth + 1, out);
                    node.lines(depth + 1, out);
                }
                end_lines(depth, ']', out);
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, node)) in members.iter().enumerate() {
                    begin_line(index, depth + 1, out);
                    out.push_str(&visible(&quoted(name)));
                    out.push_str(": ");
                    node.lines(depth + 1, out);
                }
                end_lines(depth, '}', out);
            }
        }
    }
}

fn begin_line(index: usize, depth: usize, out: &mut String) {
    out.push_str(if index > 0 { ",\n" } else { "\n" });
    out.push_str(&"  ".repeat(depth));
}

fn end_lines(depth: usize, bracket: char, out: &mut String) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
    out.push(bracket);
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The same text with escapes for what nobody could see. It is JSON, where such letters stand in strings only.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_hidden(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(letter);
        }
    }
    out
}

/// Letters without a shape: controls, those that change the direction or join others, blanks of no width, tags.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A place in JSON that a parser has accepted.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Moves behind white space and `separator`.
    fn skip(&mut self, separator: u8) {
        while self.peek().is_some_and(|byte| byte == separator || byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Reads the value at the place, which moves behind it.
    fn node(&mut self, depth: usize) -> Node<'a> {
        self.skip(b' ');
        match self.peek() {
            Some(b'"') => {
                let text = self.string();
                serde_json::from_str(text).map_or(Node::Plain(text), Node::Text)
            }
            Some(b'{') if depth < DEEPEST => {
                self.at += 1;
                let mut members = Vec::new();
                while self.has_more(b'}') {
                    let name = self.string();
                    let name = serde_json::from_str(name).unwrap_or_else(|_| name.to_owned());
                    self.skip(b':');
                    members.push((name, self.node(depth + 1)));
                }
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                Node::Object(members)
            }
            Some(b'[') if depth < DEEPEST => {
                self.at += 1;
                let mut nodes = Vec::new();
                while self.has_more(b']') {
                    nodes.push(self.node(depth + 1));
                }
                Node::List(nodes)
            }
            Some(b'{' | b'[') => Node::Plain(self.nested()),
            _ => {
                let begin = self.at;
                let ends = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'}' | b']');
                while self.peek().is_some_and(|byte| !ends(byte)) {
                    self.at += 1;
                }
                Node::Plain(&self.text[begin..self.at])
            }
        }
    }

    /// Moves to the next item of a list or object; behind its end where there is none.
    fn has_more(&mut self, end: u8) -> bool {
        self.skip(b',');
        match self.peek() {
            Some(byte) if byte != end => true,
            Some(_) => {
                self.at += 1;
                false
            }
            None => false,
        }
    }

    /// The string at the place, with its quotes.
    fn string(&mut self) -> &'a str {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'\\') => self.at += 2,
                Some(b'"') | None => break,
                Some(_) => self.at += 1,
            }
        }
        self.at = (self.at + 1).min(self.text.len());
        &self.text[begin..self.at]
    }

    /// The list or object at the place, as it is written.
    fn nested(&mut self) -> &'a str {
        let begin = self.at;
        let mut open = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string();
                }
                Some(b'{' | b'[') => {
                    open += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') => {
                    open -= 1;
                    self.at += 1;
                }
                Some(_) => self.at += 1,
                None => break,
            }
            if open == 0 {
                break;
            }
        }
        &self.text[begin..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_definitions_have_one_text_however_they_are_laid_out() {
        let spaced = " { \"b\" : [ 1.10 , true, { } ,[]] ,\n\"a\":\"\\u0041\\/\" } ";
        assert_eq!(canonical(spaced), r#"{"a":"A/","b":[1.10,true,{},[]]}"#);
        assert_eq!(canonical(r#"{"b":[1.10,true,{},[]],"a":"A/"}"#), canonical(spaced));
        for (one, other) in [
            ("1.10", "1.1"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("[1,2]", "[2,1]"),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#""\ud800""#, r#""\ud801""#),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
        let marks = r#"{"a\"}":"]\\","b":"}"}"#;
        assert_eq!(canonical(marks), marks);
    }

    #[test]
    fn what_is_very_deep_is_compared_as_it_is_written() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(canonical(&deep("1")), deep("1"));
        assert_ne!(canonical(&deep("1")), canonical(&deep("\"]\"")));
    }

    #[test]
    fn whoever_reads_a_definition_sees_all_of_it() {
        let text = "{\"d\":\"a\u{200b}b\u{202e}\u{e0041}\u{9b}\\u001b\",\"c\":[1,{}],\"e\":[]}";
        let shown = "{\n  \"c\": [\n    1,\n    {}\n  ],\n  \
                     \"d\": \"a\\u200bb\\u202e\\udb40\\udc41\\u009b\\u001b\",\n  \"e\": []\n}";
        assert_eq!(pretty(text), shown);
    }
}
