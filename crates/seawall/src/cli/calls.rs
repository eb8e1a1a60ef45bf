//! Who holds places, who waits for one and how full each scope is, as `GET /api/v1/calls` tells it, for people.

use ratatui::text::Span;
use serde_json::Value;

/// Stands where there is nothing to say.
pub(super) const NOTHING: &str = "–";

/// A call under way: it holds a place, or waits for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) caller: String,
    pub(super) conversation: String,
    pub(super) upstream: String,
    pub(super) tool: String,
    /// Since when, in milliseconds.
    pub(super) since_ms: u64,
    /// How much longer at most it holds its place; negative where that time is over, nothing while it waits.
    pub(super) until_ms: Option<i64>,
    /// Which halves it holds: `both`, `caller` or `upstream`; `none` while it waits.
    pub(super) halves: &'static str,
    pub(super) detached: bool,
}

impl UnderWay {
    fn read(row: &Value) -> Self {
        let halves = match (row["caller_half"] == true, row["upstream_half"] == true) {
            (true, true) => "both",
            (true, false) => "caller",
            (false, true) => "upstream",
            (false, false) => "none",
        };
        Self {
            caller: word(&row["caller"]),
            conversation: word(&row["conversation"]),
            upstream: word(&row["upstream"]),
            tool: word(&row["tool"]),
            since_ms: row["since_ms"].as_u64().unwrap_or_default(),
            until_ms: row["until_ms"].as_i64(),
            halves,
            detached: row["detached"] == true,
        }
    }

    /// What it is at, in a word.
    pub(super) fn state(&self) -> &'static str {
        match (self.halves, self.detached) {
            ("none", _) => "waits",
            (_, true) => "detached",
            ("both", false) => "in flight",
            // It was answered, or its caller was asked or has left, and the server is still at it.
            (_, false) => "ending",
        }
    }

    /// How much longer it holds its place, in words.
    pub(super) fn until(&self) -> String {
        match self.until_ms {
            None => NOTHING.to_owned(),
            Some(left @ 0..) => age(left.unsigned_abs()),
            Some(over) => format!("{} over", age(over.unsigned_abs())),
        }
    }
}

/// How full a scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) scope: String,
    pub(super) name: String,
    pub(super) in_use: u64,
    pub(super) limit: Option<u64>,
    pub(super) waiting: u64,
    /// Since when its oldest holder is in, in milliseconds.
    pub(super) oldest_ms: Option<u64>,
}

impl Scope {
    fn read(row: &Value) -> Self {
        Self {
            scope: word(&row["scope"]),
            name: word(&row["name"]),
            in_use: row["in_use"].as_u64().unwrap_or_default(),
            limit: row["limit"].as_u64(),
            waiting: row["waiting"].as_u64().unwrap_or_default(),
            oldest_ms: row["oldest_ms"].as_u64(),
        }
    }

    /// Its limit, in words.
    pub(super) fn limit(&self) -> String {
        self.limit.map_or_else(|| NOTHING.to_owned(), |limit| limit.to_string())
    }

    /// How long its oldest holder is in, in words.
    pub(super) fn oldest(&self) -> String {
        self.oldest_ms.map_or_else(|| NOTHING.to_owned(), age)
    }
}

/// Every call under way, the oldest first.
pub(super) fn under_way(calls: &Value) -> Vec<UnderWay> {
    let rows = |key: &str| calls[key].as_array().into_iter().flatten().map(UnderWay::read);
    let mut all: Vec<UnderWay> = rows("permits").chain(rows("waiting")).collect();
    all.sort_by_key(|call| std::cmp::Reverse(call.since_ms));
    all
}

/// Every scope that somebody is in or waits for.
pub(super) fn scopes(calls: &Value) -> Vec<Scope> {
    calls["scopes"].as_array().into_iter().flatten().map(Scope::read).collect()
}

/// Lines of two tables: calls under way, and scopes.
pub(super) fn tables(calls: &Value) -> Vec<String> {
    let calls_under_way: Vec<[String; 8]> = under_way(calls)
        .into_iter()
        .map(|call| {
            let (since, until) = (age(call.since_ms), call.until());
            let detached = if call.detached { "yes" } else { "no" }.to_owned();
            let UnderWay { caller, conversation, upstream, tool, halves, .. } = call;
            [caller, conversation, upstream, tool, since, until, halves.to_owned(), detached]
        })
        .collect();
    let mut lines = if calls_under_way.is_empty() {
        vec!["No call holds a place or waits for one.".to_owned()]
    } else {
        let header = ["CALLER", "CONVERSATION", "SERVER", "TOOL", "SINCE", "UNTIL", "HALVES", "DETACHED"];
        aligned(header, &calls_under_way)
    };
    let scopes: Vec<[String; 6]> = scopes(calls)
        .into_iter()
        .map(|scope| {
            let (limit, oldest) = (scope.limit(), scope.oldest());
            [scope.scope, scope.name, scope.in_use.to_string(), limit, scope.waiting.to_string(), oldest]
        })
        .collect();
    lines.push(String::new());
    lines.extend(aligned(["SCOPE", "NAME", "IN USE", "LIMIT", "WAITING", "OLDEST"], &scopes));
    lines
}

/// A header and rows, each column as wide as its widest cell.
pub(super) fn aligned<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    // In columns of a terminal, of which some characters take two and some none.
    let columns = |text: &str| Span::raw(text).width();
    let mut widths = header.map(columns);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| {
            let rest = width.saturating_sub(columns(cell));
            format!("{cell}{}", " ".repeat(rest))
        });
        padded.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(header)).chain(rows).collect()
}

/// A time for people, short.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{seconds}.{}s", ms % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A name or a sentence in one line. Callers and servers choose what is in it: nothing that a terminal obeys is left.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) => {
            text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn calls() -> Value {
        json!({
            "permits": [
                {"caller": "me", "conversation": "one", "upstream": "docs", "tool": "search", "since_ms": 1200,
                 "until_ms": 50_800, "caller_half": true, "upstream_half": true, "detached": false},
                {"caller": "me", "conversation": null, "upstream": "slow", "tool": "re\u{1b}[2Jport", "since_ms": 70_000,
                 "until_ms": -2500, "caller_half": false, "upstream_half": true, "detached": true},
            ],
            "waiting": [
                {"caller": "you", "conversation": null, "upstream": "slow", "tool": "report", "since_ms": 3000},
            ],
            "scopes": [
                {"scope": "total", "name": "", "in_use": 1, "limit": 64, "waiting": 1, "oldest_ms": 1200},
                {"scope": "upstream", "name": "slow", "in_use": 1, "limit": null, "waiting": 1, "oldest_ms": null},
            ],
        })
    }

    #[test]
    fn tables_are_aligned_and_the_oldest_call_comes_first() {
        let expected = "\
CALLER  CONVERSATION  SERVER  TOOL        SINCE  UNTIL      HALVES    DETACHED
me      –             slow    re\u{fffd}[2Jport  1m10s  2.5s over  upstream  yes
you     –             slow    report      3.0s   –          none      no
me      one           docs    search      1.2s   50s        both      no

SCOPE     NAME  IN USE  LIMIT  WAITING  OLDEST
total     –     1       64     1        1.2s
upstream  slow  1       –      1        –";
        assert_eq!(tables(&calls()).join("\n"), expected);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let rows = [["日本", "x"], ["abc", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(["A", "B"], &rows), ["A     B", "日本  x", "abc   y"]);
    }

    #[test]
    fn each_call_has_a_state() {
        let states: Vec<&str> = under_way(&calls()).iter().map(UnderWay::state).collect();
        assert_eq!(states, ["detached", "waits", "in flight"]);
    }

    #[test]
    fn nothing_under_way_is_said() {
        assert_eq!(tables(&json!({}))[0], "No call holds a place or waits for one.");
    }

    #[test]
    fn times_are_short() {
        let shown = [0, 950, 9_999, 10_000, 59_999, 60_000, 3_599_000, 3_600_000, 90_000_000].map(age);
        let expected = ["0.0s", "0.9s", "9.9s", "10s", "59s", "1m00s", "59m59s", "1h00m", "1d01h"];
        assert_eq!(shown, expected);
    }
}
