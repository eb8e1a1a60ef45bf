//! TOML, edited at the offsets of its parser: written out by a library, its line ends would change.

use super::{Fragment, New, line_end, line_start, next_line};
use serde_json::{Map, Value};
use std::ops::Range;
use toml_edit::{Document, Item, Key, Table};

fn document(text: &str) -> Result<Document<&str>, String> {
    Document::parse(text).map_err(|error| {
        // Without the line itself, which may hold a secret.
        let before = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("not valid TOML in line {line}: {}", error.message())
    })
}

pub(super) fn parse(text: &str) -> Result<Value, String> {
    Ok(plain(document(text)?.as_item()))
}

fn plain(item: &Item) -> Value {
    if let Some(table) = item.as_table_like() {
        return Value::Object(table.iter().map(|(key, item)| (key.to_owned(), plain(item))).collect());
    }
    match item {
        Item::ArrayOfTables(tables) => tables
            .iter()
            .map(|table| {
                Value::Object(table.iter().map(|(key, item)| (key.to_owned(), plain(item))).collect())
            })
            .collect(),
        Item::Value(value) => plain_value(value),
        Item::None | Item::Table(_) => Value::Null,
    }
}

fn plain_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::from(*flag.value()),
        toml_edit::Value::Datetime(time) => Value::from(time.value().to_string()),
        toml_edit::Value::Array(array) => array.iter().map(plain_value).collect(),
        toml_edit::Value::InlineTable(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.to_owned(), plain_value(value))).collect())
        }
    }
}

pub(super) fn entries(text: &str, root: &str) -> Result<Vec<(String, Fragment)>, String> {
    let document = document(text)?;
    let Some(servers) = document.get(root).and_then(Item::as_table_like) else { return Ok(Vec::new()) };
    let entry = |name: &str, item: &Item| {
        let words: String =
            places(&document, text, root, name).into_iter().map(|place| &text[place]).collect();
        (name.to_owned(), Fragment { value: plain(item), text: words })
    };
    Ok(servers.iter().map(|(name, item)| entry(name, item)).collect())
}

pub(super) fn put(text: &str, root: &str, name: &str, new: New<'_>) -> Result<String, String> {
    let newline = line_end(text);
    let written = match new {
        New::Text(text) => text.to_owned(),
        New::Fields(fields) => table(root, name, fields, newline),
    };
    let written = if written.ends_with('\n') { written } else { written + newline };
    let document = document(text)?;
    let places = places(&document, text, root, name);
    if let Some(first) = places.first()
        && text[first.clone()].trim_start().starts_with('[')
    {
        let rest = cut(text, &places, false);
        return Ok(format!("{}{written}{}", &rest[..first.start], &rest[first.start..]));
    }
    let mut rest = cut(text, &places, true);
    if !rest.is_empty() && !rest.ends_with('\n') {
        rest.push_str(newline);
    }
    if !rest.trim().is_empty() {
        rest.push_str(newline);
    }
    Ok(rest + &written)
}

pub(super) fn remove(text: &str, root: &str, name: &str) -> Result<String, String> {
    let document = document(text)?;
    Ok(cut(text, &places(&document, text, root, name), true))
}

/// The whole lines that make up a server, in the order of the text; none where it stands within a line.
fn places(document: &Document<&str>, text: &str, root: &str, name: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if let Some(Item::Table(servers)) = document.get(root)
        && let Some((key, item)) = servers.get_key_value(name)
    {
        places_of(text, key, item, &mut found);
    }
    found.sort_by_key(|place| place.start);
    found
}

fn places_of(text: &str, key: &Key, item: &Item, found: &mut Vec<Range<usize>>) {
    match item {
        Item::None => {}
        Item::Value(value) => {
            if let (Some(key), Some(value)) = (key.span(), value.span()) {
                found.push(line_start(text, key.start)..next_line(text, value.end));
            }
        }
        Item::Table(table) => places_of_table(text, table, found),
        Item::ArrayOfTables(tables) => {
            tables.iter().for_each(|table| places_of_table(text, table, found));
        }
    }
}

/// A table with a header is one place, from the header to its last value. One without is as many as it has parts.
fn places_of_table(text: &str, table: &Table, found: &mut Vec<Range<usize>>) {
    let mut inner = Vec::new();
    for (name, _) in table.iter() {
        if let Some((key, item)) = table.get_key_value(name) {
            places_of(text, key, item, &mut inner);
        }
    }
    let Some(header) = table.span().filter(|_| !table.is_dotted() && !table.is_implicit()) else {
        found.append(&mut inner);
        return;
    };
    let mut end = next_line(text, header.end);
    for place in inner {
        if text[place.clone()].trim_start().starts_with('[') {
            found.push(place);
        } else {
            end = end.max(place.end);
        }
    }
    found.push(line_start(text, header.start)..end);
}

/// The text without these lines and, where it is asked for, without a blank line that stood before each of them and
/// would be left over.
fn cut(text: &str, places: &[Range<usize>], blank_too: bool) -> String {
    let mut rest = text.to_owned();
    for place in places.iter().rev() {
        let mut start = place.start;
        let after = &rest[place.end..];
        let open = after.is_empty() || after.starts_with('\n') || after.starts_with("\r\n");
        if blank_too && open && start > 0 {
            let line = line_start(text, start - 1);
            if text[line..start].trim().is_empty() {
                start = line;
            }
        }
        rest.replace_range(start..place.end, "");
    }
    rest
}

fn table(root: &str, name: &str, fields: &[(&str, Value)], newline: &str) -> String {
    let mut text = format!("[{}.{}]{newline}", key(root), key(name));
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        text.push_str(&format!("{} = {}{newline}", key(name), words(value)));
    }
    text
}

fn key(name: &str) -> String {
    Key::new(name).display_repr().into_owned()
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(words).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Object(fields) => inline(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn inline(fields: &Map<String, Value>) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{} = {}", key(name), words(value))).collect();
    if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
}

fn string(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// A `seawall.toml` whose `import` lists this path too.
///
/// # Errors
/// Why the file cannot be read, or not be edited in place.
pub(crate) fn add_import(text: &str, path: &str) -> Result<String, String> {
    let newline = line_end(text);
    let mut wanted = imports(text)?;
    if wanted.iter().any(|known| known == path) {
        return Ok(text.to_owned());
    }
    wanted.push(path.to_owned());
    let parsed = document(text)?;
    let after = match parsed.get("import") {
        None => {
            // Before the first header; behind it the key would belong to that table.
            let values = parsed.as_table().get_values();
            let last = values.iter().filter_map(|(_, value)| value.span()).map(|span| span.end).max();
            let at = last.map_or(0, |end| next_line(text, end));
            let gap = if at > 0 && !text[..at].ends_with('\n') { newline } else { "" };
            let blank = if at == 0 && !text.is_empty() { newline } else { "" };
            format!("{}{gap}import = [{}]{newline}{blank}{}", &text[..at], string(path), &text[at..])
        }
        Some(list) => {
            let array = list.as_array().ok_or("`import` is not a list")?;
            let span = array.span().ok_or("`import` has no place")?;
            match array.iter().last().and_then(toml_edit::Value::span) {
                None => format!("{}{}{}", &text[..=span.start], string(path), &text[span.start + 1..]),
                Some(last) => {
                    let before = &text[line_start(text, last.start)..last.start];
                    let own = before.trim().is_empty();
                    let between = if own { format!("{newline}{before}") } else { " ".to_owned() };
                    format!("{},{between}{}{}", &text[..last.end], string(path), &text[last.end..])
                }
            }
        }
    };
    if imports(&after).is_ok_and(|got| got == wanted) { Ok(after) } else { Err(by_hand(path)) }
}

/// A `seawall.toml` whose `import` does not list this path; the same text where it does not.
///
/// # Errors
/// As [`add_import`].
pub(crate) fn remove_import(text: &str, path: &str) -> Result<String, String> {
    let mut wanted = imports(text)?;
    let Some(index) = wanted.iter().position(|known| known == path) else { return Ok(text.to_owned()) };
    wanted.remove(index);
    let parsed = document(text)?;
    let spans: Vec<Range<usize>> = parsed
        .get("import")
        .and_then(Item::as_array)
        .map_or_else(Vec::new, |array| array.iter().filter_map(toml_edit::Value::span).collect());
    let span = spans.get(index).cloned().ok_or_else(|| by_hand(path))?;
    let place = match (index.checked_sub(1).map(|before| &spans[before]), spans.get(index + 1)) {
        (Some(before), _) => before.end..span.end,
        (None, Some(next)) => span.start..next.start,
        (None, None) => span,
    };
    let after = format!("{}{}", &text[..place.start], &text[place.end..]);
    if imports(&after).is_ok_and(|got| got == wanted) { Ok(after) } else { Err(by_hand(path)) }
}

fn by_hand(path: &str) -> String {
    format!("its `import` cannot be edited in place; add or remove {path:?} there by hand")
}

fn imports(text: &str) -> Result<Vec<String>, String> {
    let document = document(text)?;
    let Some(list) = document.get("import") else { return Ok(Vec::new()) };
    let array = list.as_array().ok_or("`import` is not a list")?;
    Ok(array.iter().map(|path| path.as_str().unwrap_or_default().to_owned()).collect())
}
