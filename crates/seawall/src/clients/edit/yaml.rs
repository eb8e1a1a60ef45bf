//! YAML, edited line by line: servers stand in block style, each on lines of its own.

use super::{Fragment, New, Shape, line_end};
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::{Map, Value};
use std::ops::Range;

/// Words that YAML readers of some kind take for something else than a string.
const TAKEN: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
const ONE_LINE: &str = "its servers are written in one line, which is not edited in place; use `--print` and add the entry by hand";

pub(super) fn parse(text: &str) -> Result<Value, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| format!("not valid YAML: {error}"))?;
    match documents.as_slice() {
        [] => Ok(Value::Object(Map::new())),
        [Yaml::Value(Scalar::Null)] => Ok(Value::Object(Map::new())),
        [document] => Ok(plain(document)),
        _ => Err("it holds several documents".to_owned()),
    }
}

fn plain(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Representation(text, ..) => Value::from(&**text),
        Yaml::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(flag) => Value::from(*flag),
            Scalar::Integer(number) => Value::from(*number),
            Scalar::FloatingPoint(number) => Value::from(number.into_inner()),
            Scalar::String(text) => Value::from(&**text),
        },
        Yaml::Sequence(elements) => elements.iter().map(plain).collect(),
        Yaml::Mapping(members) => Value::Object(
            members
                .iter()
                .map(|(key, value)| {
                    let key = plain(key);
                    (key.as_str().map_or_else(|| key.to_string(), str::to_owned), plain(value))
                })
                .collect(),
        ),
        Yaml::Tagged(_, inner) => plain(inner),
        Yaml::Alias(_) | Yaml::BadValue => Value::Null,
    }
}

/// Where the servers stand, in lines.
#[derive(Debug)]
struct Block {
    /// The line with the root key.
    header: usize,
    /// Whether something that is no remark follows the root key on its line.
    inline: bool,
    /// What servers are indented by.
    indent: usize,
    /// The lines of each server.
    items: Vec<Range<usize>>,
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Finds the block under `shape.root`.
fn block(lines: &[&str], shape: Shape) -> Option<Block> {
    let (header, rest) = lines.iter().enumerate().find_map(|(at, line)| {
        let (key, rest) = key(line)?;
        (indent(line) == 0 && key == shape.root).then_some((at, rest))
    })?;
    let rest = rest.trim();
    let mut block =
        Block { header, inline: !(rest.is_empty() || rest.starts_with('#')), indent: 0, items: Vec::new() };
    for (at, line) in lines.iter().enumerate().skip(header + 1) {
        let content = line.trim();
        let depth = indent(line);
        if content.is_empty() {
            continue;
        }
        let dash = shape.list && (content == "-" || content.starts_with("- "));
        if content.starts_with('#') {
            // Deeper than the servers themselves, it belongs to one of them and may even be text.
            if let Some(last) = block.items.last_mut().filter(|_| depth > block.indent) {
                last.end = at + 1;
            }
            continue;
        }
        if depth == 0 && !dash {
            break;
        }
        if block.items.is_empty() {
            block.indent = depth;
        }
        if depth == block.indent && (!shape.list || dash) {
            block.items.push(at..at + 1);
        } else if let Some(last) = block.items.last_mut() {
            last.end = at + 1;
        }
    }
    Some(block)
}

/// The key of a line and what follows its colon.
fn key(line: &str) -> Option<(String, &str)> {
    let content = line.trim();
    let quote = content.chars().next().filter(|letter| matches!(letter, '"' | '\''));
    match quote {
        Some(quote) => {
            let end = content[1..].find(quote)? + 1;
            Some((content[1..end].to_owned(), content[end + 1..].trim_start().strip_prefix(':')?))
        }
        None => {
            let (key, rest) = content.split_once(':')?;
            (rest.is_empty() || rest.starts_with(' ')).then(|| (key.trim_end().to_owned(), rest))
        }
    }
}

/// A server: its name if it has one, what it says, and its lines where they could be found.
type Found = (Option<String>, Value, Option<Range<usize>>);

/// The names of the servers with their values and their lines, where these could be found.
fn found(text: &str, shape: Shape) -> Result<Vec<Found>, String> {
    let whole = parse(text)?;
    let lines = lines(text);
    let items = block(&lines, shape).filter(|block| !block.inline).map_or_else(Vec::new, |block| block.items);
    match &whole[shape.root] {
        Value::Null => Ok(Vec::new()),
        Value::Array(elements) if shape.list => {
            let whole = items.len() == elements.len();
            let named = |(index, element): (usize, &Value)| {
                let name = element["name"].as_str().map(str::to_owned);
                (name, element.clone(), items.get(index).filter(|_| whole).cloned())
            };
            Ok(elements.iter().enumerate().map(named).collect())
        }
        Value::Object(members) if !shape.list => {
            let place = |name: &str| {
                items.iter().find(|item| key(lines[item.start]).is_some_and(|(key, _)| key == name)).cloned()
            };
            Ok(members.iter().map(|(name, value)| (Some(name.clone()), value.clone(), place(name))).collect())
        }
        _ => Err(format!("`{}` is not a {}", shape.root, if shape.list { "list" } else { "mapping" })),
    }
}

pub(super) fn entries(text: &str, shape: Shape) -> Result<Vec<(String, Fragment)>, String> {
    let lines = lines(text);
    let mut all = Vec::new();
    let mut found = found(text, shape)?;
    found.sort_by_key(|(_, _, place)| place.as_ref().map(|place| place.start));
    for (name, value, place) in found {
        if let Some(name) = name {
            let text = place.map_or_else(String::new, |place| lines[place].concat());
            all.push((name, Fragment { value, text }));
        }
    }
    Ok(all)
}

pub(super) fn put(text: &str, shape: Shape, name: &str, new: New<'_>) -> Result<String, String> {
    let newline = line_end(text);
    let mut lines: Vec<String> = lines(text).into_iter().map(str::to_owned).collect();
    if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
        last.push_str(newline);
    }
    let text = lines.concat();
    let borrowed: Vec<&str> = lines.iter().map(String::as_str).collect();
    let Some(block) = block(&borrowed, shape) else {
        lines.push(format!("{}:{newline}", shape.root));
        lines.push(written(shape, name, new, 2, newline));
        return Ok(lines.concat());
    };
    let known = found(&text, shape)?;
    if block.inline {
        if !known.is_empty() {
            return Err(ONE_LINE.to_owned());
        }
        let line = &lines[block.header];
        let remark = line.find(" #").map_or("", |at| line[at..].trim_end());
        lines[block.header] = format!("{}:{remark}{newline}", shape.root);
    }
    let place = known
        .into_iter()
        .find(|(known, ..)| known.as_deref() == Some(name))
        .map(|(_, _, place)| place.ok_or(ONE_LINE))
        .transpose()?;
    let depth = if block.items.is_empty() { 2 } else { block.indent };
    let written = written(shape, name, new, depth, newline);
    let place = place.unwrap_or_else(|| {
        let end = block.items.last().map_or(block.header + 1, |last| last.end);
        end..end
    });
    lines.splice(place, [written]);
    Ok(lines.concat())
}

pub(super) fn remove(text: &str, shape: Shape, name: &str) -> Result<String, String> {
    let place = found(text, shape)?.into_iter().find(|(known, ..)| known.as_deref() == Some(name));
    let Some((_, _, place)) = place else { return Ok(text.to_owned()) };
    let mut lines = lines(text);
    lines.drain(place.ok_or(ONE_LINE)?);
    Ok(lines.concat())
}

fn written(shape: Shape, name: &str, new: New<'_>, depth: usize, newline: &str) -> String {
    let fields = match new {
        New::Text(text) if text.ends_with('\n') => return text.to_owned(),
        New::Text(text) => return format!("{text}{newline}"),
        New::Fields(fields) => fields,
    };
    let fields: Vec<(&str, &Value)> = fields.iter().map(|(key, value)| (*key, value)).collect();
    let step = if depth == 0 { 2 } else { depth };
    let margin = " ".repeat(depth);
    if shape.list {
        // The first member stands behind the dash, the others under it.
        let body = members(&fields, depth + 2, 2, newline);
        return format!("{margin}- {}", body.trim_start_matches(' '));
    }
    format!("{margin}{}:{newline}{}", word(name), members(&fields, depth + step, step, newline))
}

fn members(fields: &[(&str, &Value)], depth: usize, step: usize, newline: &str) -> String {
    let margin = " ".repeat(depth);
    let line = |(key, value): &(&str, &Value)| match value {
        Value::Object(inner) if !inner.is_empty() => {
            let inner: Vec<(&str, &Value)> = inner.iter().map(|(key, value)| (key.as_str(), value)).collect();
            format!("{margin}{}:{newline}{}", word(key), members(&inner, depth + step, step, newline))
        }
        _ => format!("{margin}{}: {}{newline}", word(key), flow(value)),
    };
    fields.iter().map(line).collect()
}

/// A value in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(flow).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{}: {}", word(key), flow(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A string, bare where every reader takes it for one, else as in JSON, which is YAML too.
fn word(text: &str) -> String {
    let mut letters = text.chars();
    let starts = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic() || letter == '/');
    let goes_on = letters.all(|letter| letter.is_ascii_alphanumeric() || "_./-".contains(letter));
    let bare = starts && goes_on && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    if bare { text.to_owned() } else { Value::from(text).to_string() }
}
