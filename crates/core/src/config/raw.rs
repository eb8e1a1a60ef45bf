//! What a file says: TOML values with their places, so that every fault can name file, line and key.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigFault, Note, Source};

pub(super) type Faults = Vec<ConfigFault>;

/// Where something stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) line: usize,
    pub(super) key: String,
}

impl Place {
    pub(super) fn fault(&self, message: impl Into<String>) -> ConfigFault {
        ConfigFault {
            path: self.path.clone(),
            line: self.line,
            key: self.key.clone(),
            message: message.into(),
        }
    }

    pub(super) fn note(&self, message: impl Into<String>) -> Note {
        Note { path: self.path.clone(), line: self.line, key: self.key.clone(), message: message.into() }
    }
}

/// The number of the line, from 1, in which a byte of the text stands.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[derive(Clone, Copy, Debug)]
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn place(self, offset: usize, key: String) -> Place {
        Place { path: self.path.to_owned(), line: line_of(self.text, offset), key }
    }
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Document<'a> {
    file: File<'a>,
    root: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses a file and reports every error of syntax. `None` means that the rest cannot be judged; a key
    /// that stands twice does not hide the rest.
    pub(super) fn parse(source: &'a Source, faults: &mut Faults) -> Option<Self> {
        const TWICE: &str = "duplicate key";
        let file = File { path: &source.path, text: &source.text };
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            let span = error.span().unwrap_or_default();
            let (key, message) = if error.message() == TWICE {
                let key = source.text.get(span.clone()).unwrap_or_default();
                (key.to_owned(), "stands twice: keep one of the two".to_owned())
            } else {
                (String::new(), format!("not valid TOML: {}", error.message()))
            };
            faults.push(file.place(span.start, key).fault(message));
        }
        let whole = errors.iter().all(|error| error.message() == TWICE);
        whole.then(|| Self { file, root: root.into_inner() })
    }

    /// A file that says nothing.
    pub(super) fn empty(source: &'a Source) -> Self {
        Self { file: File { path: &source.path, text: &source.text }, root: DeTable::new() }
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section::of(self.file, String::new(), 1, Some(&self.root))
    }
}

#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    offset: usize,
    value: &'a DeValue<'a>,
}

/// A table from which keys are taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Section<'a> {
    file: File<'a>,
    key: String,
    line: usize,
    /// In the order of the file.
    entries: Vec<Entry<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn of(file: File<'a>, key: String, line: usize, table: Option<&'a DeTable<'a>>) -> Self {
        let mut entries: Vec<_> = table
            .into_iter()
            .flatten()
            .map(|(name, value)| Entry {
                name: name.get_ref(),
                offset: name.span().start,
                value: value.get_ref(),
            })
            .collect();
        entries.sort_by_key(|entry| entry.offset);
        Self { file, key, line, entries, known: Vec::new() }
    }

    /// Where the table itself stands.
    pub(super) fn place(&self) -> Place {
        Place { path: self.file.path.to_owned(), line: self.line, key: self.key.clone() }
    }

    /// The full path of a key in this table.
    pub(super) fn key_of(&self, name: &str) -> String {
        if self.key.is_empty() { quoted(name) } else { format!("{}.{}", self.key, quoted(name)) }
    }

    fn item(&self, entry: &Entry<'a>) -> Item<'a> {
        let place = self.file.place(entry.offset, self.key_of(entry.name));
        Item { place, file: self.file, value: Value::Toml(entry.value), hidden: false }
    }

    /// Takes one key out, and learns that it is known.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Item<'a>> {
        self.known.push(name);
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        let entry = self.entries.remove(index);
        Some(self.item(&entry))
    }

    /// Takes a table out; one without entries where there is none.
    pub(super) fn take_section(&mut self, name: &'static str, faults: &mut Faults) -> Self {
        self.take(name)
            .and_then(|item| item.section(faults))
            .unwrap_or_else(|| Self::of(self.file, self.key_of(name), self.line, None))
    }

    /// The names in a table whose keys the user chose.
    pub(super) fn names(&self) -> Vec<&'a str> {
        self.entries.iter().map(|entry| entry.name).collect()
    }

    /// Everything in a table whose keys are names that the user chose.
    pub(super) fn named(self) -> Vec<(&'a str, Item<'a>)> {
        self.entries.iter().map(|entry| (entry.name, self.item(entry))).collect()
    }

    /// Reports what nobody took. `remedies` says what to write instead of words that other programs use.
    pub(super) fn finish(self, remedies: &[(&str, &str)], faults: &mut Faults) {
        for entry in &self.entries {
            let remedy = remedies.iter().find(|(word, _)| *word == entry.name);
            let message = match (remedy, closest(entry.name, self.known.iter().copied())) {
                (Some((_, remedy)), _) => format!("unknown key: {remedy}"),
                (None, Some(known)) => format!("unknown key: did you mean `{known}`?"),
                (None, None) => format!("unknown key: the keys here are {}", self.known.join(", ")),
            };
            faults.push(self.item(entry).place.fault(message));
        }
    }
}

/// A key as it must be written in a path.
pub(crate) fn quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") }
}

/// The known word that was probably meant.
pub(super) fn closest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let fold = |word: &str| word.to_ascii_lowercase().replace('-', "_");
    let word = fold(word);
    known
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &fold(candidate));
            let longer = word.len().max(candidate.len());
            let begun = word.len() >= 3 && fold(candidate).starts_with(&word);
            (distance <= (longer / 3).max(1) || begun).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Toml(&'a DeValue<'a>),
    Variable(&'a str),
}

/// One value, of a file or of a variable, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub(super) place: Place,
    file: File<'a>,
    value: Value<'a>,
    hidden: bool,
}

impl<'a> Item<'a> {
    /// The value of a variable that overrides a key.
    pub(super) fn variable(name: &str, text: &'a str) -> Self {
        let file = File { path: Path::new("environment"), text: "" };
        let place = Place { path: file.path.to_owned(), line: 0, key: name.to_owned() };
        Self { place, file, value: Value::Variable(text), hidden: false }
    }

    /// The same value, which no message may show.
    pub(super) fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    pub(super) fn refuse(&self, faults: &mut Faults, message: impl Into<String>) {
        faults.push(self.place.fault(message));
    }

    /// The value as a message may show it.
    pub(super) fn shown(&self) -> String {
        let kind = match self.value {
            Value::Toml(value) => value.type_str(),
            Value::Variable(_) => "string",
        };
        match self.value {
            _ if self.hidden => format!("this {kind}"),
            Value::Variable(text) => shortened(text),
            Value::Toml(DeValue::String(text)) => shortened(text),
            Value::Toml(DeValue::Integer(number)) => number.to_string(),
            Value::Toml(DeValue::Float(number)) => number.to_string(),
            Value::Toml(DeValue::Boolean(flag)) => flag.to_string(),
            Value::Toml(DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_)) => {
                format!("this {kind}")
            }
        }
    }

    /// A part of the value as a message may show it.
    pub(super) fn shown_part(&self, part: &str) -> String {
        if self.hidden { "what stands between ${ and } here".to_owned() } else { part.to_owned() }
    }

    /// A string; anything else is a fault that shows an example.
    pub(super) fn text(&self, example: &str, faults: &mut Faults) -> Option<&'a str> {
        match self.value {
            Value::Variable(text) => Some(text),
            Value::Toml(DeValue::String(text)) => Some(text),
            Value::Toml(_) => {
                let message = format!("{} is not a string: write one, such as {example}", self.shown());
                self.refuse(faults, message);
                None
            }
        }
    }

    /// True or false, also where a variable holds it as text.
    pub(super) fn flag(&self, faults: &mut Faults) -> Option<bool> {
        let flag = match self.value {
            Value::Variable(text) => text.trim().parse().ok(),
            Value::Toml(DeValue::Boolean(flag)) => Some(*flag),
            Value::Toml(_) => None,
        };
        if flag.is_some() {
            return flag;
        }
        self.refuse(faults, format!("{} is neither true nor false: write one of them", self.shown()));
        None
    }

    /// A whole number, also one that a variable holds as text.
    pub(super) fn integer(&self) -> Option<i128> {
        match self.value {
            Value::Variable(text) => text.trim().parse().ok(),
            Value::Toml(DeValue::Integer(number)) => {
                i128::from_str_radix(number.as_str(), number.radix()).ok()
            }
            Value::Toml(_) => None,
        }
    }

    /// Any number, also one that a variable holds as text.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Variable(text) => text.trim().parse().ok(),
            Value::Toml(DeValue::Float(number)) => number.as_str().parse().ok(),
            Value::Toml(_) => self.integer().map(|number| number as f64),
        }
    }

    /// The strings of an array, each with its own place.
    pub(super) fn texts(&self, example: &str, faults: &mut Faults) -> Option<Vec<(Self, &'a str)>> {
        let Value::Toml(DeValue::Array(array)) = self.value else {
            let message = format!("{} is not a list of strings: write one, such as {example}", self.shown());
            self.refuse(faults, message);
            return None;
        };
        let element = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let key = format!("{}[{index}]", self.place.key);
            let place = self.file.place(value.span().start, key);
            let item =
                Self { place, file: self.file, value: Value::Toml(value.get_ref()), hidden: self.hidden };
            let text = item.text("\"8080\" in quotes", faults)?;
            Some((item, text))
        };
        Some(array.iter().enumerate().filter_map(element).collect())
    }

    pub(super) fn section(&self, faults: &mut Faults) -> Option<Section<'a>> {
        if let Value::Toml(DeValue::Table(table)) = self.value {
            return Some(Section::of(self.file, self.place.key.clone(), self.place.line, Some(table)));
        }
        let key = &self.place.key;
        self.refuse(faults, format!("{} is not a table: write it under [{key}]", self.shown()));
        None
    }
}

/// A quoted text, cut where it is long.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}", format!("{}…", &text[..cut])),
        None => format!("{text:?}"),
    }
}
