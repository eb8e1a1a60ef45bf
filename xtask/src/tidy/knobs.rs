//! The rule that each key about limits and times has a row in the harness that turns it: `tests/tests/knob_rows`. The
//! keys are read off the types of the configuration, so that a new field is a finding until it has one.

use std::collections::BTreeSet;

use super::{Finding, TextFile, line_at};

/// Where the types of the configuration are; in `config/`, too.
const CONFIG: &str = "crates/core/src/config";
/// Where the rows are; in the directory of this name, too.
const ROWS: &str = "tests/tests/knob_rows";
/// What a row begins with. Its first literal is its key.
const ROW: &str = "row!(";

/// A struct of the configuration whose fields are keys.
struct Table {
    name: &'static str,
    /// The key paths of the tables that it is read from.
    places: &'static [&'static str],
    fields: Fields,
}

/// Which fields of a struct have to have rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fields {
    /// Each.
    All,
    /// Each whose documentation names a key.
    Keys,
    /// Of those, each that is a limit or a time, by its type or its name.
    Bounds,
}

const TABLES: [Table; 10] = [
    Table { name: "Limits", places: &["limits"], fields: Fields::All },
    Table { name: "Timeouts", places: &["timeouts"], fields: Fields::All },
    Table { name: "Terms", places: &["servers.*", "servers.*.tools.*"], fields: Fields::All },
    Table { name: "Retries", places: &["servers.*.retries"], fields: Fields::All },
    Table { name: "Breaker", places: &["servers.*.breaker"], fields: Fields::All },
    Table { name: "Learn", places: &["servers.*.learn"], fields: Fields::All },
    Table { name: "Client", places: &["clients.*"], fields: Fields::Keys },
    Table { name: "Caller", places: &["callers.*"], fields: Fields::Bounds },
    Table { name: "Upstream", places: &["servers.*"], fields: Fields::Bounds },
    Table { name: "ToolConfig", places: &["servers.*.tools.*"], fields: Fields::Bounds },
];

/// What makes a field a limit or a time: its type holds one of the first, or its name ends in one of the second.
const BOUND_TYPES: [&str; 3] = ["Duration", "NonZeroUsize", "Rate"];
const BOUND_NAMES: [&str; 3] = ["class", "limit", "provider"];

/// A public field of a struct.
#[derive(Debug, PartialEq, Eq)]
struct Field<'a> {
    name: &'a str,
    of: &'a str,
    /// The key that its documentation names.
    key: Option<String>,
    /// The line it stands in, counted from 1.
    line: usize,
}

impl Fields {
    fn has(self, field: &Field<'_>) -> bool {
        let bounds = || {
            let by_type = BOUND_TYPES.iter().any(|bound| field.of.contains(bound));
            by_type || BOUND_NAMES.iter().any(|bound| field.name.ends_with(bound))
        };
        match self {
            Self::All => true,
            Self::Keys => field.key.is_some(),
            Self::Bounds => field.key.is_some() && bounds(),
        }
    }
}

pub(super) fn check(files: &[TextFile], findings: &mut Vec<Finding>) {
    let rows: BTreeSet<&str> = below(files, ROWS).flat_map(|file| rows(&file.text)).collect();
    // A row for what stands below a key, such as `learn.floor` for `learn`, turns that key as well.
    let has_row = |key: &str| {
        let under = |row: &&str| row.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        rows.contains(key) || rows.iter().any(under)
    };
    for table in &TABLES {
        let found = below(files, CONFIG).find_map(|file| Some((file, fields(&file.text, table.name)?)));
        let Some((file, fields)) = found else {
            let message = format!("`pub struct {}`, whose fields are keys, is not here", table.name);
            findings.push(Finding::new(&format!("{CONFIG}.rs"), 1, message));
            continue;
        };
        for field in fields.iter().filter(|field| table.fields.has(field)) {
            let name = field.key.as_deref().unwrap_or(field.name);
            for key in table.places.iter().map(|place| format!("{place}.{name}")) {
                if !has_row(&key) {
                    let message =
                        format!("the key `{key}` has no row in {ROWS}, so nothing shows that it works");
                    findings.push(Finding::new(&file.path, field.line, message));
                }
            }
        }
    }
}

/// The Rust file `stem.rs` and those in the directory of that name.
fn below<'a>(files: &'a [TextFile], stem: &'a str) -> impl Iterator<Item = &'a TextFile> {
    files.iter().filter(move |file| {
        let rest = file.path.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".rs"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The keys of the rows in `text`.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(ROW).filter_map(|(start, _)| {
        let line = text[..start].rsplit('\n').next().unwrap_or_default();
        let (_, literal) = text[start..].split_once('"')?;
        let (key, _) = literal.split_once('"')?;
        line.trim().is_empty().then_some(key)
    })
}

/// The public fields of `pub struct name`; `None` where `text` does not have it.
fn fields<'a>(text: &'a str, name: &str) -> Option<Vec<Field<'a>>> {
    let head = format!("pub struct {name} {{\n");
    let mut starts = text.match_indices(&head).map(|(start, _)| start);
    let start = starts.find(|start| *start == 0 || text[..*start].ends_with('\n'))?;
    let body = &text[start + head.len()..];
    let first = line_at(text, start) + 1;
    let mut fields = Vec::new();
    let mut documentation = Vec::new();
    for (index, line) in body.lines().take_while(|line| *line != "}").enumerate() {
        let line = line.trim();
        if let Some(said) = line.strip_prefix("///") {
            documentation.push(said.trim());
        } else if let Some((name, of)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            let key = key_in(&documentation.join(" "));
            fields.push(Field { name, of: of.trim().trim_end_matches(','), key, line: first + index });
            documentation.clear();
        }
    }
    Some(fields)
}

/// The key that a field's documentation names, as "key `limit`" or "key `cache = "30s"`".
fn key_in(documentation: &str) -> Option<String> {
    const BEFORE: &str = "key `";
    // At the beginning of a sentence it is written with a capital.
    let start = documentation.to_ascii_lowercase().find(BEFORE)?;
    let (key, _) = documentation[start + BEFORE.len()..].split_once('`')?;
    key.split([' ', '=']).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
/// Limits.
pub struct Limits {
    /// Calls in all; key `total`, default 64.
    pub total: usize,
    /// Without a word about its key.
    pub queue: usize,
}

pub struct Client {
    /// Its name.
    pub name: String,
    /// By when it wants an answer;
    /// key `limit`, default none.
    pub limit: Option<Duration>,
}

pub struct Upstream {
    /// Bounds one call; key `timeout = \"50s\"`.
    #[serde(default)]
    pub timeout: Duration,
    /// Whether it is used; key `enabled`.
    pub enabled: bool,
    /// Whose calls it makes; key `provider`.
    pub provider: Option<String>,
    /// Made here.
    pub made: Duration,
    /// The largest result. Key
    /// `result_limit`, default none.
    pub result_limit: Option<usize>,
}
";

    /// What is found where the rest of the types has no fields.
    fn found(config: &str, rows: &str) -> Vec<(usize, String)> {
        let missing = TABLES.iter().filter(|table| !config.contains(&format!("pub struct {} ", table.name)));
        let rest: String = missing.map(|table| format!("pub struct {} {{\n}}\n", table.name)).collect();
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/core/src/config.rs", &rest),
            file("crates/core/src/config/types.rs", config),
            file("tests/tests/knob_rows.rs", "macro_rules! row {}\n"),
            file("tests/tests/knob_rows/all.rs", rows),
        ];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    fn keys(config: &str, rows: &str) -> Vec<(usize, String)> {
        let key = |message: &str| message.split('`').nth(1).unwrap_or_default().to_owned();
        found(config, rows).into_iter().map(|(line, message)| (line, key(&message))).collect()
    }

    #[test]
    fn each_key_wants_a_row() {
        let all = [
            (4, "limits.total"),
            (6, "limits.queue"),
            (14, "clients.*.limit"),
            (20, "servers.*.timeout"),
            (24, "servers.*.provider"),
            (29, "servers.*.result_limit"),
        ];
        assert_eq!(keys(SAMPLE, ""), all.map(|(line, key)| (line, key.to_owned())));
        let rows: String = all
            .iter()
            .map(|(_, key)| format!("row!(\n    a,\n    \"{key}\", [(\"1\", \"2\")]);\n"))
            .collect();
        assert!(found(SAMPLE, &rows).is_empty());
        assert_eq!(
            keys(SAMPLE, &rows.replace("limits.total", "limits.other")),
            [(4, "limits.total".to_owned())]
        );
        assert_eq!(found(SAMPLE, &rows.replace("row!", "// row!")).len(), all.len());
    }

    #[test]
    fn terms_want_a_row_for_the_server_and_one_for_the_tool() {
        let terms = "pub struct Terms {\n    /// Key `learn = { }`.\n    pub learn: Option<Learn>,\n}\n";
        let server = "row!(a, \"servers.*.learn.floor\", b);\n";
        assert_eq!(keys(terms, server), [(3, "servers.*.tools.*.learn".to_owned())]);
        let tool = "row!(a, \"servers.*.tools.*.learn\", b);\n";
        assert!(found(terms, &format!("{server}{tool}")).is_empty());
        assert_eq!(keys(terms, "row!(a, \"servers.*.learned\", b);\n").len(), 2);
    }

    #[test]
    fn a_type_that_is_gone_is_found() {
        let mut findings = Vec::new();
        check(&[], &mut findings);
        assert_eq!(findings.len(), TABLES.len());
    }
}
