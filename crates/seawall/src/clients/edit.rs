//! Changes one server in a client's file and leaves every other byte as it is.
//!
//! Each format finds the place to change by its parser's offsets, or line by line, and changes the text there. Whatever
//! comes out is parsed again and must be exactly the old document with that one difference; else nothing is changed
//! and the file's owner is told.

mod jsonc;
pub(crate) mod toml;
mod yaml;

use serde_json::{Map, Value};

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON without comments.
    Json,
    /// JSON with comments and trailing commas.
    Jsonc,
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

/// How servers stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The file's syntax.
    pub format: Format,
    /// The key under which the servers stand.
    pub root: &'static str,
    /// Whether they are a list of tables with a `name`, and not a table by name.
    pub list: bool,
}

/// The members of an entry, in the order in which they are written.
pub(crate) type Fields = Vec<(&'static str, Value)>;

/// A server as it stands in a file.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Fragment {
    /// What it says.
    pub value: Value,
    /// How it is written; empty where it cannot be cut out of its surroundings.
    pub text: String,
}

/// What is written under a name.
#[derive(Clone, Copy, Debug)]
enum New<'a> {
    Fields(&'a [(&'a str, Value)]),
    Text(&'a str),
}

/// The document as a value; an empty one is an empty object.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn parse(format: Format, text: &str) -> Result<Value, String> {
    let text = split_mark(text).1;
    let value = match format {
        Format::Json => jsonc::parse(text, true),
        Format::Jsonc => jsonc::parse(text, false),
        Format::Toml => toml::parse(text),
        Format::Yaml => yaml::parse(text),
    }?;
    if value.is_object() { Ok(value) } else { Err("the whole file is not an object".to_owned()) }
}

/// The servers of a file, by name and in its order. Entries of a list that have no name are left out.
///
/// # Errors
/// Why the file cannot be read.
pub(crate) fn entries(shape: Shape, text: &str) -> Result<Vec<(String, Fragment)>, String> {
    parse(shape.format, text)?;
    let text = split_mark(text).1;
    match shape.format {
        Format::Json => jsonc::entries(text, true, shape.root),
        Format::Jsonc => jsonc::entries(text, false, shape.root),
        Format::Toml => toml::entries(text, shape.root),
        Format::Yaml => yaml::entries(text, shape),
    }
}

/// The text with this entry under this name, in the place of the one that is there or as the last one.
///
/// # Errors
/// Why the file cannot be read, or not be edited in place.
pub(crate) fn set(shape: Shape, text: &str, name: &str, fields: &Fields) -> Result<String, String> {
    let after = put(shape, text, name, New::Fields(fields))?;
    checked(shape, text, after, name, Some(value_of(fields)))
}

/// The text with an entry as it once stood: in the very words if they fit, else in ours.
///
/// # Errors
/// As [`set`].
pub(crate) fn restore(shape: Shape, text: &str, name: &str, old: &Fragment) -> Result<String, String> {
    if !old.text.is_empty()
        && let Ok(after) = put(shape, text, name, New::Text(&old.text))
        && let Ok(after) = checked(shape, text, after, name, Some(old.value.clone()))
    {
        return Ok(after);
    }
    let members = old.value.as_object().ok_or_else(|| format!("`{name}` is not an object"))?;
    let fields: Vec<(&str, Value)> =
        members.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let after = put(shape, text, name, New::Fields(&fields))?;
    checked(shape, text, after, name, Some(old.value.clone()))
}

/// The text without the entry of this name; the same text where there is none.
///
/// # Errors
/// As [`set`].
pub(crate) fn remove(shape: Shape, text: &str, name: &str) -> Result<String, String> {
    let (mark, body) = split_mark(text);
    let after = match shape.format {
        Format::Json => jsonc::remove(body, true, shape.root, name),
        Format::Jsonc => jsonc::remove(body, false, shape.root, name),
        Format::Toml => toml::remove(body, shape.root, name),
        Format::Yaml => yaml::remove(body, shape, name),
    }?;
    checked(shape, text, format!("{mark}{after}"), name, None)
}

/// Whether the document says nothing besides an empty table of servers.
pub(crate) fn is_bare(shape: Shape, text: &str) -> bool {
    parse(shape.format, text)
        .is_ok_and(|value| without_empty_root(value, shape.root).as_object().is_some_and(Map::is_empty))
}

/// The value that these members are.
pub(crate) fn value_of(fields: &Fields) -> Value {
    Value::Object(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn put(shape: Shape, text: &str, name: &str, new: New<'_>) -> Result<String, String> {
    parse(shape.format, text)?;
    let (mark, body) = split_mark(text);
    let after = match shape.format {
        Format::Json => jsonc::put(body, true, shape.root, name, new),
        Format::Jsonc => jsonc::put(body, false, shape.root, name, new),
        Format::Toml => toml::put(body, shape.root, name, new),
        Format::Yaml => yaml::put(body, shape, name, new),
    }?;
    Ok(format!("{mark}{after}"))
}

/// A byte order mark and what follows it.
fn split_mark(text: &str) -> (&str, &str) {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    text.split_at(start)
}

/// `after`, if it is `before` with nothing but the entry `name` changed to `expected`.
fn checked(
    shape: Shape,
    before: &str,
    after: String,
    name: &str,
    expected: Option<Value>,
) -> Result<String, String> {
    const UNUSUAL: &str = "its servers are written in a way that cannot be edited in place; use `--print` and add the entry by hand";
    let mut wanted = parse(shape.format, before)?;
    let got = parse(shape.format, &after).map_err(|_| UNUSUAL)?;
    change(&mut wanted, shape, name, expected).ok_or(UNUSUAL)?;
    let same = without_empty_root(wanted, shape.root) == without_empty_root(got, shape.root);
    if same { Ok(after) } else { Err(UNUSUAL.to_owned()) }
}

/// Makes in a value the change that was made in its text. `None` where the servers are no table or list.
fn change(whole: &mut Value, shape: Shape, name: &str, expected: Option<Value>) -> Option<()> {
    let servers = whole.as_object_mut()?.entry(shape.root).or_insert(Value::Null);
    if shape.list {
        if servers.is_null() {
            *servers = Value::Array(Vec::new());
        }
        let list = servers.as_array_mut()?;
        let at = list.iter().position(|entry| entry["name"] == name);
        match (at, expected) {
            (Some(at), Some(value)) => list[at] = value,
            (Some(at), None) => drop(list.remove(at)),
            (None, Some(value)) => list.push(value),
            (None, None) => {}
        }
    } else {
        if servers.is_null() {
            *servers = Value::Object(Map::new());
        }
        let table = servers.as_object_mut()?;
        match expected {
            Some(value) => drop(table.insert(name.to_owned(), value)),
            None => drop(table.remove(name)),
        }
    }
    Some(())
}

/// A document without a root that holds no servers, which is as good as none.
fn without_empty_root(mut whole: Value, root: &str) -> Value {
    let empty = match whole.get(root) {
        Some(Value::Null) => true,
        Some(Value::Object(table)) => table.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    if empty && let Some(members) = whole.as_object_mut() {
        members.remove(root);
    }
    whole
}

/// How lines end in a text.
fn line_end(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The offset of the first byte of the line in which `at` stands.
fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The offset behind the end of the line in which `at` stands.
fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

#[cfg(test)]
mod tests;
