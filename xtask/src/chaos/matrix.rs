//! What the chaos suite reported: one file for each misdeed, transport and era of the caller, read back and shown
//! as a matrix.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::rig::at;

/// How far answers may overshoot their deadlines, as the 99th percentile over all cells, in ms.
const OVERSHOOT: f64 = 100.0;
const COLUMNS: [&str; 5] = ["stdio", "legacy HTTP", "modern HTTP", "SSE", "WebSocket"];

/// One misdeed over one transport, seen by a caller of one era.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    row: String,
    class: String,
    column: usize,
    era: String,
    expected: String,
    seen: String,
    ok: bool,
    overshoot_ms: Option<f64>,
    neighbour_ms: Option<f64>,
    /// What was left behind; empty as it should be.
    left: String,
    /// What else the suite found wrong, where it says.
    problems: Vec<String>,
}

impl Cell {
    fn parse(value: &Value) -> Result<Self, String> {
        let text = |key: &str| match &value[key] {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Err(format!("has no `{key}`")),
            other => Ok(other.to_string()),
        };
        let transport = text("transport")?;
        let column = column(&transport).ok_or_else(|| format!("has an unknown transport, `{transport}`"))?;
        let problems = value["problems"].as_array().into_iter().flatten();
        Ok(Self {
            row: text("row")?,
            class: text("class")?,
            column,
            era: text("era")?,
            expected: text("expected")?,
            seen: text("seen")?,
            ok: value["ok"].as_bool().ok_or("has no `ok`")?,
            overshoot_ms: value["overshoot_ms"].as_f64(),
            neighbour_ms: value["neighbour_p99_ms"].as_f64(),
            left: text("left")?,
            problems: problems.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    fn as_json(&self) -> Value {
        json!({
            "row": self.row, "class": self.class, "transport": COLUMNS[self.column], "era": self.era,
            "expected": self.expected, "seen": self.seen, "ok": self.ok, "overshoot_ms": self.overshoot_ms,
            "neighbour_p99_ms": self.neighbour_ms, "left": self.left, "problems": self.problems,
        })
    }
}

/// The column of a transport, by any of its spellings.
fn column(transport: &str) -> Option<usize> {
    let plain: String = transport.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    let known: [&[&str]; 5] =
        [&["stdio"], &["legacyhttp"], &["modernhttp"], &["sse", "legacysse"], &["websocket", "ws"]];
    known.iter().position(|spellings| spellings.contains(&plain.as_str()))
}

/// Every cell that was reported, by row, transport and era.
pub(super) fn read(directory: &Path) -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        cells.push(Cell::parse(&value).map_err(|why| format!("{} {why}", path.display()))?);
    }
    cells.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(cells)
}

/// Rows that begin with a number stand in the order of their numbers.
fn order(cell: &Cell) -> (u32, &str, usize, &str) {
    let digits: String = cell.row.chars().take_while(char::is_ascii_digit).collect();
    (digits.parse().unwrap_or(u32::MAX), cell.row.as_str(), cell.column, cell.era.as_str())
}

/// What is not as it should be: nothing, in a good run.
pub(super) fn broken(cells: &[Cell]) -> Vec<String> {
    let mut broken = Vec::new();
    if cells.is_empty() {
        broken.push("no cell was reported".to_owned());
    }
    let wrong = cells.iter().filter(|cell| !cell.ok).count();
    if wrong > 0 {
        broken.push(format!("{wrong} of {} cells are not as the model says", cells.len()));
    }
    let p99 = percentile(&overshoots(cells), 0.99);
    if let Some(p99) = p99.filter(|p99| *p99 > OVERSHOOT) {
        broken.push(format!("the deadline overshoot's p99 is {p99:.0} ms, its bound is {OVERSHOOT:.0} ms"));
    }
    broken
}

/// The matrix, what is wrong in it, and how late and how disturbed answers were.
pub(super) fn table(cells: &[Cell]) -> String {
    let mut rows: Vec<(&str, Vec<&Cell>)> = Vec::new();
    for cell in cells {
        match rows.last_mut() {
            Some((row, of_row)) if *row == cell.row.as_str() => of_row.push(cell),
            _ => rows.push((cell.row.as_str(), vec![cell])),
        }
    }
    let width = |texts: &mut dyn Iterator<Item = usize>, least: usize| texts.fold(least, usize::max);
    let first = width(&mut rows.iter().map(|(row, _)| row.chars().count()), "misdeed".len());
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            width(
                &mut rows.iter().map(|(_, of_row)| ending(of_row, column).chars().count()),
                COLUMNS[column].len(),
            )
        })
        .collect();

    let mut text = String::new();
    let mut line = |name: &str, of_columns: &dyn Fn(usize) -> String| {
        let columns: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, wide)| format!("{:<1$}", of_columns(column), *wide))
            .collect();
        let line = format!("{name:<first$}  {}", columns.join("  "));
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line("misdeed", &|column| COLUMNS[column].to_owned());
    for (row, of_row) in &rows {
        line(row, &|column| ending(of_row, column));
    }

    let wrong: Vec<&Cell> = cells.iter().filter(|cell| !cell.ok).collect();
    if !wrong.is_empty() {
        text.push_str("\nnot as the model says:\n");
    }
    for cell in wrong {
        let Cell { row, column, era, expected, seen, left, problems, .. } = cell;
        let left = if left.is_empty() { String::new() } else { format!("; left behind: {left}") };
        let more = problems.iter().map(|problem| format!("; {problem}")).collect::<String>();
        let column = COLUMNS[*column];
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "  {row}, {column}, {era} caller: expected {expected}, seen {seen}{left}{more}");
    }
    text.push_str(&summary(cells));
    text
}

fn summary(cells: &[Cell]) -> String {
    let over = overshoots(cells);
    let shown =
        |quantile| percentile(&over, quantile).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    let mut text = format!(
        "\n{} cells, {} as the model says\ndeadline overshoot of {} answers: p50 {}, p99 {} (bound {OVERSHOOT:.0} ms), \
         max {}\n",
        cells.len(),
        cells.iter().filter(|cell| cell.ok).count(),
        over.len(),
        shown(0.5),
        shown(0.99),
        shown(1.0),
    );
    text.push_str("a neighbour's worst, by class of misdeed:\n");
    for (class, ms) in worst(cells) {
        let _ = writeln!(text, "  {class:<16} {ms:>7.1} ms");
    }
    text
}

pub(super) fn as_json(cells: &[Cell]) -> Value {
    let over = overshoots(cells);
    json!({
        "cells": cells.iter().map(Cell::as_json).collect::<Vec<_>>(),
        "overshoot_ms": {
            "answers": over.len(), "p50": percentile(&over, 0.5), "p99": percentile(&over, 0.99),
            "max": percentile(&over, 1.0), "bound": OVERSHOOT,
        },
        "neighbour_worst_ms": worst(cells),
        "broken": broken(cells),
    })
}

/// How the cells of a row ended over one transport, in short; a mark where one is not as the model says.
fn ending(of_row: &[&Cell], column: usize) -> String {
    let mut endings: Vec<String> = Vec::new();
    for cell in of_row.iter().filter(|cell| cell.column == column) {
        let mark = if cell.ok { "" } else { " ✗" };
        let ending = format!("{}{mark}", short(&cell.seen));
        if !endings.contains(&ending) {
            endings.push(ending);
        }
    }
    if endings.is_empty() { "-".to_owned() } else { endings.join(", ") }
}

/// An ending in a word or two: a code, `result`, `nothing`, or whose error came. What is none of these is told below
/// the matrix.
fn short(seen: &str) -> &str {
    let first = word(seen);
    match first {
        "result" | "nothing" => first,
        "error" | "HTTP" => {
            let more = seen[first.len()..].trim_start();
            seen[..seen.len() - more.len() + word(more).len()].trim_end()
        }
        _ if seen.starts_with("the tool's own error") => "isError",
        code if !code.is_empty()
            && code.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_') =>
        {
            code
        }
        _ => "?",
    }
}

/// The word, code or number that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == '-'));
    &text[..end.unwrap_or(text.len())]
}

fn overshoots(cells: &[Cell]) -> Vec<f64> {
    let mut over: Vec<f64> = cells.iter().filter_map(|cell| cell.overshoot_ms).collect();
    over.sort_by(f64::total_cmp);
    over
}

fn worst(cells: &[Cell]) -> BTreeMap<&str, f64> {
    let mut worst = BTreeMap::new();
    for cell in cells {
        if let Some(ms) = cell.neighbour_ms {
            let of_class = worst.entry(cell.class.as_str()).or_insert(ms);
            *of_class = ms.max(*of_class);
        }
    }
    worst
}

/// The value at a quantile, by the nearest rank.
fn percentile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(row: &str, transport: &str, seen: &str, ok: bool, overshoot: Option<f64>) -> Cell {
        Cell::parse(&json!({
            "row": row, "class": "silence", "transport": transport, "era": "legacy", "expected": "TIMEOUT",
            "seen": seen, "ok": ok, "overshoot_ms": overshoot, "neighbour_p99_ms": 3.5, "left": "",
        }))
        .unwrap()
    }

    #[test]
    fn transports_are_known_by_any_spelling() {
        for (spelling, expected) in [
            ("stdio", 0),
            ("LegacyHttp", 1),
            ("legacy-http", 1),
            ("modern HTTP", 2),
            ("sse", 3),
            ("WebSocket", 4),
        ] {
            assert_eq!(column(spelling), Some(expected), "{spelling}");
        }
        assert_eq!(column("pigeon"), None);
    }

    #[test]
    fn a_report_that_lacks_something_is_refused() {
        let whole = cell("1 hang", "stdio", "TIMEOUT", true, None).as_json();
        for key in ["row", "class", "transport", "era", "expected", "seen", "ok", "left"] {
            let mut value = whole.clone();
            value[key] = Value::Null;
            assert!(Cell::parse(&value).is_err(), "{key}");
        }
    }

    #[test]
    fn the_matrix_marks_what_is_not_as_the_model_says() {
        let cells = [
            cell("1 hang", "stdio", "TIMEOUT at answer", true, Some(4.0)),
            cell("1 hang", "sse", "result \"x\"", false, None),
            cell("2 dribble", "stdio", "TIMEOUT", true, Some(8.0)),
        ];
        let table = table(&cells);
        assert!(
            table.lines().any(|line| line.starts_with("1 hang") && line.contains("TIMEOUT  ")),
            "{table}"
        );
        assert!(table.contains("result ✗") && table.contains("1 hang, SSE, legacy caller"), "{table}");
        assert!(table.contains("p50 4 ms, p99 8 ms"), "{table}");
        assert_eq!(broken(&cells).len(), 1);
        assert!(broken(&cells[2..]).is_empty());
    }

    #[test]
    fn an_ending_is_told_in_a_word_or_two() {
        for (seen, expected) in [
            ("result", "result"),
            ("TIMEOUT at answer, may have run", "TIMEOUT"),
            ("error -32602", "error -32602"),
            ("error {\"code\":-32602}", "error"),
            ("HTTP 404 not found", "HTTP 404"),
            ("the tool's own error \"x\"", "isError"),
            ("the daemon ended", "?"),
            ("", "?"),
        ] {
            assert_eq!(short(seen), expected, "{seen}");
        }
    }

    #[test]
    fn late_answers_and_no_answers_at_all_are_broken() {
        assert_eq!(broken(&[cell("1 hang", "stdio", "TIMEOUT", true, Some(101.0))]).len(), 1);
        assert_eq!(broken(&[]).len(), 1);
    }

    #[test]
    fn rows_stand_in_the_order_of_their_numbers() {
        let mut cells = [
            cell("half a reply", "stdio", "TIMEOUT", true, None),
            cell("16 stderr", "stdio", "result", true, None),
            cell("2 eof", "stdio", "result", true, None),
        ];
        cells.sort_by(|a, b| order(a).cmp(&order(b)));
        assert_eq!(cells.map(|cell| cell.row), ["2 eof", "16 stderr", "half a reply"]);
    }

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values, 1.0), Some(100.0));
        assert_eq!(percentile(&[], 0.99), None);
    }
}
