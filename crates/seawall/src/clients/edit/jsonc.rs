//! JSON, with or without comments and trailing commas, edited at the offsets of its parser.

use super::{Fragment, New, line_end, line_start, next_line};
use jsonc_parser::ast::{self, Object, ObjectProp};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};

/// What a level is indented by where the file does not show it.
const UNIT: &str = "  ";

/// How a text is laid out.
#[derive(Clone, Copy, Debug)]
struct Style<'a> {
    unit: &'a str,
    newline: &'static str,
}

fn tree(text: &str, strict: bool) -> Result<Option<ast::Value<'_>>, String> {
    let options = ParseOptions {
        allow_comments: !strict,
        allow_trailing_commas: !strict,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options);
    Ok(parsed.map_err(|error| format!("not valid JSON: {error}"))?.value)
}

pub(super) fn parse(text: &str, strict: bool) -> Result<Value, String> {
    Ok(tree(text, strict)?.map_or_else(|| Value::Object(Map::new()), |value| plain(&value)))
}

fn plain(value: &ast::Value<'_>) -> Value {
    match value {
        ast::Value::StringLit(text) => Value::from(&*text.value),
        // A number that is too large for one is kept apart from all others as its text.
        ast::Value::NumberLit(number) => {
            serde_json::from_str(number.value).unwrap_or_else(|_| Value::from(number.value))
        }
        ast::Value::BooleanLit(flag) => Value::from(flag.value),
        ast::Value::Object(object) => Value::Object(
            object
                .properties
                .iter()
                .map(|property| (property.name.as_str().to_owned(), plain(&property.value)))
                .collect(),
        ),
        ast::Value::Array(array) => array.elements.iter().map(plain).collect(),
        ast::Value::NullKeyword(_) => Value::Null,
    }
}

/// The property of this name and its place among its siblings. One that stands twice is refused: parsers differ in
/// which of the two counts.
fn find<'o, 't>(object: &'o Object<'t>, name: &str) -> Result<Option<(usize, &'o ObjectProp<'t>)>, String> {
    let mut named =
        object.properties.iter().enumerate().filter(|(_, property)| property.name.as_str() == name);
    let first = named.next();
    if named.next().is_some() { Err(format!("the key `{name}` stands twice")) } else { Ok(first) }
}

/// The object under `root` in a document; `None` where there is none.
fn servers<'o, 't>(whole: Option<&'o ast::Value<'t>>, root: &str) -> Result<Option<&'o Object<'t>>, String> {
    let Some(object) = whole.and_then(ast::Value::as_object) else { return Ok(None) };
    match find(object, root)? {
        None => Ok(None),
        Some((_, property)) => match &property.value {
            ast::Value::Object(servers) => Ok(Some(servers)),
            ast::Value::NullKeyword(_) => Ok(None),
            _ => Err(format!("`{root}` is not an object")),
        },
    }
}

pub(super) fn entries(text: &str, strict: bool, root: &str) -> Result<Vec<(String, Fragment)>, String> {
    let whole = tree(text, strict)?;
    let Some(servers) = servers(whole.as_ref(), root)? else { return Ok(Vec::new()) };
    let entry = |property: &ObjectProp<'_>| {
        let words = text[property.value.start()..property.value.end()].to_owned();
        (property.name.as_str().to_owned(), Fragment { value: plain(&property.value), text: words })
    };
    Ok(servers.properties.iter().map(entry).collect())
}

pub(super) fn put(text: &str, strict: bool, root: &str, name: &str, new: New<'_>) -> Result<String, String> {
    let whole = tree(text, strict)?;
    let newline = line_end(text);
    let Some(whole) = whole else {
        let style = Style { unit: UNIT, newline };
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
        return Ok(format!("{text}{gap}{}{newline}", document(root, name, new, style)));
    };
    let top = whole.as_object().ok_or("the whole file is not an object")?;
    let unit = top.properties.iter().find_map(|property| own_line(text, property.name.start()));
    let style = Style { unit: unit.filter(|unit| !unit.is_empty()).unwrap_or(UNIT), newline };
    let inside = |indent: Option<&str>| around(name, new, indent, style);
    match find(top, root)? {
        None => Ok(insert(text, top, style, &|indent| property(root, &inside(indent)))),
        Some((_, old)) => match &old.value {
            ast::Value::NullKeyword(_) => {
                Ok(replace(text, &old.value, &inside(own_line(text, old.name.start()))))
            }
            ast::Value::Object(servers) => match find(servers, name)? {
                None => Ok(insert(text, servers, style, &|indent| property(name, &body(new, indent, style)))),
                Some((_, old)) => {
                    Ok(replace(text, &old.value, &body(new, own_line(text, old.name.start()), style)))
                }
            },
            _ => Err(format!("`{root}` is not an object")),
        },
    }
}

pub(super) fn remove(text: &str, strict: bool, root: &str, name: &str) -> Result<String, String> {
    let whole = tree(text, strict)?;
    let Some(servers) = servers(whole.as_ref(), root)? else { return Ok(text.to_owned()) };
    let Some((index, property)) = find(servers, name)? else { return Ok(text.to_owned()) };
    let comma = comma_after(text, property.value.end());
    let (mut start, mut end) =
        (property.name.start(), comma.map_or_else(|| property.value.end(), |at| at + 1));
    let line = line_start(text, start);
    let next = next_line(text, end);
    if text[line..start].trim().is_empty() && text[end..next].trim().is_empty() {
        (start, end) = (line, next);
    } else if comma.is_some() {
        end += text[end..].len() - text[end..].trim_start_matches([' ', '\t']).len();
    } else {
        start = text[..start].trim_end_matches([' ', '\t']).len();
    }
    let mut after = format!("{}{}", &text[..start], &text[end..]);
    // What is last now has no comma, as the one that was last had none.
    if comma.is_none()
        && index > 0
        && let Some(at) = comma_after(text, servers.properties[index - 1].value.end())
    {
        after.remove(at);
    }
    Ok(after)
}

/// A whole document with one server.
fn document(root: &str, name: &str, new: New<'_>, style: Style<'_>) -> String {
    let servers = around(name, new, Some(style.unit), style);
    members(&[(root, servers)], Some(""), style)
}

/// The object of servers with only this one.
fn around(name: &str, new: New<'_>, indent: Option<&str>, style: Style<'_>) -> String {
    let deeper = indent.map(|indent| format!("{indent}{}", style.unit));
    members(&[(name, body(new, deeper.as_deref(), style))], indent, style)
}

fn body(new: New<'_>, indent: Option<&str>, style: Style<'_>) -> String {
    match new {
        New::Text(text) => text.to_owned(),
        New::Fields(fields) => object(fields.iter().map(|(key, value)| (*key, value)), indent, style),
    }
}

fn object<'v>(
    fields: impl Iterator<Item = (&'v str, &'v Value)>,
    indent: Option<&str>,
    style: Style<'_>,
) -> String {
    let deeper = indent.map(|indent| format!("{indent}{}", style.unit));
    let fields: Vec<(&str, String)> =
        fields.map(|(key, value)| (key, words(value, deeper.as_deref(), style))).collect();
    members(&fields, indent, style)
}

/// A value: an object over several lines where there is an indent, everything else in one.
fn words(value: &Value, indent: Option<&str>, style: Style<'_>) -> String {
    match value {
        Value::Object(fields) => {
            object(fields.iter().map(|(key, value)| (key.as_str(), value)), indent, style)
        }
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| words(element, None, style)).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// An object of members that are written already; with an indent, each on a line of its own.
fn members(fields: &[(&str, String)], indent: Option<&str>, style: Style<'_>) -> String {
    let fields: Vec<String> = fields.iter().map(|(key, text)| property(key, text)).collect();
    match indent {
        _ if fields.is_empty() => "{}".to_owned(),
        None => format!("{{ {} }}", fields.join(", ")),
        Some(indent) => {
            let newline = style.newline;
            let between = format!("{newline}{indent}{}", style.unit);
            let lines = fields.join(&format!(",{between}"));
            format!("{{{between}{lines}{newline}{indent}}}")
        }
    }
}

fn property(key: &str, text: &str) -> String {
    format!("{}: {text}", Value::from(key))
}

fn replace(text: &str, old: &ast::Value<'_>, new: &str) -> String {
    format!("{}{new}{}", &text[..old.start()], &text[old.end()..])
}

/// Adds a property behind the last one of an object; `written` gives it for the indent of its line, if it has one.
fn insert(
    text: &str,
    object: &Object<'_>,
    style: Style<'_>,
    written: &dyn Fn(Option<&str>) -> String,
) -> String {
    let newline = style.newline;
    let Some(last) = object.properties.last() else { return fill(text, object, style, written) };
    let end = last.value.end();
    let comma = comma_after(text, end);
    match (own_line(text, last.name.start()), comma) {
        (Some(indent), Some(comma)) => {
            let at = remarks_end(text, comma + 1);
            let new = written(Some(indent));
            format!("{}{newline}{indent}{new},{}", &text[..at], &text[at..])
        }
        (Some(indent), None) => {
            let at = remarks_end(text, end);
            let new = written(Some(indent));
            format!("{},{}{newline}{indent}{new}{}", &text[..end], &text[end..at], &text[at..])
        }
        (None, Some(comma)) => format!("{} {},{}", &text[..=comma], written(None), &text[comma + 1..]),
        (None, None) => format!("{}, {}{}", &text[..end], written(None), &text[end..]),
    }
}

/// Adds a property to an object without any.
fn fill(
    text: &str,
    object: &Object<'_>,
    style: Style<'_>,
    written: &dyn Fn(Option<&str>) -> String,
) -> String {
    let (open, close) = (object.start(), object.end() - 1);
    let at = open + 1 + text[open + 1..close].trim_end().len();
    let whole = text.trim();
    if !whole.contains('\n') && object.end() - object.start() < whole.len() {
        return format!("{} {} {}", &text[..at], written(None), &text[at..]);
    }
    let line = &text[line_start(text, open)..];
    let closing = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
    let indent = format!("{closing}{}", style.unit);
    let newline = style.newline;
    let tail = if text[at..close].contains('\n') { String::new() } else { format!("{newline}{closing}") };
    format!("{}{newline}{indent}{}{tail}{}", &text[..at], written(Some(&indent)), &text[at..])
}

/// The indent of what stands first on its line at this offset; `None` where something stands before it.
fn own_line(text: &str, at: usize) -> Option<&str> {
    let before = &text[line_start(text, at)..at];
    before.chars().all(|letter| matches!(letter, ' ' | '\t')).then_some(before)
}

/// The comma behind a value, with nothing but blanks and comments between.
fn comma_after(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        at += blank;
        let rest = &text[at..];
        if rest.starts_with("//") {
            at = next_line(text, at);
        } else if rest.starts_with("/*") {
            at += rest.find("*/")? + 2;
        } else {
            return rest.starts_with(',').then_some(at);
        }
    }
}

/// Where the comments end that stand on the same line behind an offset; the offset itself where there are none.
fn remarks_end(text: &str, from: usize) -> usize {
    let mut end = from;
    loop {
        let rest = &text[end..];
        let start = end + rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let rest = &text[start..];
        if rest.starts_with("//") {
            return start + rest.lines().next().unwrap_or_default().len();
        }
        match rest.strip_prefix("/*").and_then(|comment| comment.find("*/")) {
            Some(length) if !rest[..length + 4].contains('\n') => end = start + length + 4,
            _ => return end,
        }
    }
}
