//! JSON as editors write it: comments and trailing commas are let through, and every value knows its line.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::raw::line_of;

/// Blanks comments and trailing commas (and a byte order mark) without moving any line.
pub(super) fn strict(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    // Where the last comma stands that nothing but blanks and comments have followed.
    let mut comma = None;
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek().copied()) {
            ('/', Some('/')) => while rest.next_if(|c| *c != '\n').is_some() {},
            ('/', Some('*')) => {
                rest.next();
                let mut last = ' ';
                for c in rest.by_ref() {
                    if c == '\n' {
                        result.push(c);
                    }
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
                result.push(' ');
            }
            ('"', _) => {
                comma = None;
                result.push(c);
                let mut escaped = false;
                for c in rest.by_ref() {
                    result.push(c);
                    match c {
                        '"' if !escaped => break,
                        _ => escaped = c == '\\' && !escaped,
                    }
                }
            }
            (',', _) => {
                comma = Some(result.len());
                result.push(c);
            }
            _ => {
                if let (']' | '}', Some(at)) = (c, comma) {
                    result.replace_range(at..=at, " ");
                }
                if !c.is_whitespace() {
                    comma = None;
                }
                result.push(c);
            }
        }
    }
    result
}

/// A value in a text of strict JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a> {
    whole: &'a str,
    raw: &'a str,
}

impl<'a> Json<'a> {
    pub(super) fn parse(whole: &'a str) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(whole)?;
        Ok(Self { whole, raw: raw.get() })
    }

    /// Where the value begins in the whole text, of which it is a slice.
    fn offset(self) -> usize {
        self.raw.as_ptr() as usize - self.whole.as_ptr() as usize
    }

    /// The line, from 1, on which the value begins.
    pub(super) fn line(self) -> usize {
        line_of(self.whole, self.offset())
    }

    /// The members of an object in the order of the text. Of equal names the last counts.
    pub(super) fn members(self) -> Option<Vec<(String, Self)>> {
        let members: BTreeMap<String, &'a RawValue> = serde_json::from_str(self.raw).ok()?;
        let mut members: Vec<_> =
            members.into_iter().map(|(name, value)| (name, self.inner(value))).collect();
        members.sort_by_key(|(_, value)| value.offset());
        Some(members)
    }

    pub(super) fn elements(self) -> Option<Vec<Self>> {
        let elements: Vec<&'a RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(elements.into_iter().map(|value| self.inner(value)).collect())
    }

    fn inner(self, value: &'a RawValue) -> Self {
        Self { whole: self.whole, raw: value.get() }
    }

    pub(super) fn text(self) -> Option<String> {
        serde_json::from_str(self.raw).ok()
    }

    /// A string; numbers and booleans as they are written.
    pub(super) fn plain(self) -> Option<String> {
        self.text()
            .or_else(|| (self.flag().is_some() || self.number().is_some()).then(|| self.raw.to_owned()))
    }

    pub(super) fn flag(self) -> Option<bool> {
        serde_json::from_str(self.raw).ok()
    }

    pub(super) fn number(self) -> Option<f64> {
        serde_json::from_str(self.raw).ok()
    }

    pub(super) fn is_null(self) -> bool {
        self.raw == "null"
    }

    /// What the value is, for a message; never the value itself, which may be a secret.
    pub(super) fn kind(self) -> &'static str {
        match self.raw.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }
}
