//! Files as trees of JSON: JSON with comments and trailing commas, TOML and YAML all become one text of strict
//! JSON in which every value stands on the line it came from.

use std::fmt::Write as _;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::config::Source;
use crate::config::json::{Json, strict};
use crate::config::raw::line_of;

/// Why a file cannot be read at all.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The line, from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) message: String,
}

/// The file as strict JSON. What is written as JSON is not checked here.
pub(super) fn json_text(source: &Source) -> Result<String, Unreadable> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let extension = source.path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "json" | "jsonc" | "json5" => Ok(strict(text)),
        "toml" => of_toml(text),
        "yaml" | "yml" => of_yaml(text),
        _ => by_content(text),
    }
}

fn by_content(text: &str) -> Result<String, Unreadable> {
    let json = strict(text);
    if Json::parse(&json).is_ok() {
        return Ok(json);
    }
    if let Ok(json) = of_toml(text) {
        return Ok(json);
    }
    match of_yaml(text) {
        // Nearly any text is a string of YAML.
        Ok(yaml) if yaml.trim_start().starts_with(['{', '[']) && !json.trim_start().starts_with('{') => {
            Ok(yaml)
        }
        _ => Ok(json),
    }
}

fn of_toml(text: &str) -> Result<String, Unreadable> {
    let table = DeTable::parse(text).map_err(|error| Unreadable {
        line: line_of(text, error.span().unwrap_or_default().start),
        message: format!("not valid TOML: {}", error.message()),
    })?;
    let mut writer = Writer::new();
    writer.toml_table(table.get_ref(), text);
    Ok(writer.text)
}

fn of_yaml(text: &str) -> Result<String, Unreadable> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| Unreadable {
        line: error.marker().line(),
        message: format!("not valid YAML: {}", error.info()),
    })?;
    let mut writer = Writer::new();
    match documents.first() {
        Some(document) => writer.yaml(document),
        None => writer.push("{}"),
    }
    Ok(writer.text)
}

/// A text that grows, and the line it has come to.
struct Writer {
    text: String,
    line: usize,
}

impl Writer {
    fn new() -> Self {
        Self { text: String::new(), line: 1 }
    }

    /// Goes on to a line. Tables that stand in disorder are a little late.
    fn go_to_line(&mut self, line: usize) {
        while self.line < line {
            self.text.push('\n');
            self.line += 1;
        }
    }

    /// Adds what has no line end in it.
    fn push(&mut self, piece: &str) {
        self.text.push_str(piece);
    }

    fn scalar(&mut self, value: impl Into<Value>) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "{}", value.into());
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.push(",");
        }
    }

    fn toml_table(&mut self, table: &DeTable<'_>, text: &str) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        self.push("{");
        for (index, (name, value)) in entries.into_iter().enumerate() {
            self.comma(index);
            self.go_to_line(line_of(text, name.span().start));
            self.scalar(&**name.get_ref());
            self.push(":");
            self.toml(value.get_ref(), text);
        }
        self.push("}");
    }

    fn toml(&mut self, value: &DeValue<'_>, text: &str) {
        match value {
            DeValue::String(string) => self.scalar(&**string),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => self.scalar(number),
                Err(_) => self.scalar(number.as_str()),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                // A number that JSON does not have becomes null.
                Ok(number) => self.scalar(number),
                Err(_) => self.scalar(number.as_str()),
            },
            DeValue::Boolean(flag) => self.scalar(*flag),
            DeValue::Datetime(datetime) => self.scalar(datetime.to_string()),
            DeValue::Array(elements) => {
                self.push("[");
                for (index, element) in elements.iter().enumerate() {
                    self.comma(index);
                    self.go_to_line(line_of(text, element.span().start));
                    self.toml(element.get_ref(), text);
                }
                self.push("]");
            }
            DeValue::Table(table) => self.toml_table(table, text),
        }
    }

    fn yaml(&mut self, node: &MarkedYaml<'_>) {
        match &node.data {
            YamlData::Value(Scalar::Null) | YamlData::Alias(_) | YamlData::BadValue => self.push("null"),
            YamlData::Value(Scalar::Boolean(flag)) => self.scalar(*flag),
            YamlData::Value(Scalar::Integer(number)) => self.scalar(*number),
            YamlData::Value(Scalar::FloatingPoint(number)) => self.scalar(number.0),
            YamlData::Value(Scalar::String(string)) => self.scalar(&**string),
            YamlData::Representation(string, ..) => self.scalar(&**string),
            YamlData::Tagged(_, inner) => self.yaml(inner),
            YamlData::Sequence(elements) => {
                self.push("[");
                for (index, element) in elements.iter().enumerate() {
                    self.comma(index);
                    self.go_to_line(element.span.start.line());
                    self.yaml(element);
                }
                self.push("]");
            }
            YamlData::Mapping(members) => {
                self.push("{");
                for (index, (name, value)) in members.iter().enumerate() {
                    self.comma(index);
                    self.go_to_line(name.span.start.line());
                    self.scalar(yaml_name(name));
                    self.push(":");
                    self.yaml(value);
                }
                self.push("}");
            }
        }
    }
}

/// A key as text. Lists and mappings can be keys in YAML; no client has such.
fn yaml_name(name: &MarkedYaml<'_>) -> String {
    match &name.data {
        YamlData::Value(Scalar::String(string)) | YamlData::Representation(string, ..) => string.to_string(),
        YamlData::Value(Scalar::Integer(number)) => number.to_string(),
        YamlData::Value(Scalar::Boolean(flag)) => flag.to_string(),
        YamlData::Value(Scalar::FloatingPoint(number)) => number.0.to_string(),
        YamlData::Tagged(_, inner) => yaml_name(inner),
        _ => String::from("null"),
    }
}
