//! `cargo xtask chaos --measure`: what a neighbour notices of a misdeed.
//!
//! Slices of a second alternate: the neighbour alone, while the misdeed goes on, alone again. Compared are the
//! medians of the slices' 99th percentiles, and the bound is held against the quicker of the two kinds alone. What
//! those differ by is the machine: where the bound is missed and they are outside each other's, nothing is said about
//! the misdeed, and the measurement has failed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::chosen;
use crate::rig::{Rig, median, quoted};

/// What a neighbour on another upstream may take: so many times what it takes alone, or a millisecond more.
const ELSEWHERE: f64 = 1.2;
/// The same for another tool on the same upstream.
const SAME_UPSTREAM: f64 = 1.5;
const MORE_MS: f64 = 1.0;

const WELL: &str = "well/echo";
const SAME: &str = "bad/echo";

/// One class of misdeed, as callers bring it about.
#[derive(Debug)]
struct Class {
    name: &'static str,
    tool: &'static str,
    /// What the tool is called with: a JSON object.
    arguments: &'static str,
    /// Bytes of text besides.
    padding: usize,
    sharing: &'static str,
    clients: usize,
    /// A tool of the same upstream that each client calls before each call.
    before: Option<&'static str>,
    /// How most of its calls that end do so: `ok`, or the kind and the code of an error. Nothing where most are
    /// under way until their clients hang up.
    ends: Option<&'static str>,
    /// How long a client waits before it calls again.
    pause_ms: u32,
    /// Whether another tool of the same upstream is held to a bound as well.
    same: bool,
    /// Whether the limits are raised so that every call is in flight.
    room: bool,
}

const PLAIN: Class = Class {
    name: "",
    tool: "",
    arguments: "{}",
    padding: 0,
    sharing: "everyone",
    clients: 1,
    before: None,
    ends: Some("ok"),
    pause_ms: 20,
    same: true,
    room: true,
};

static CLASSES: &[Class] = &[
    Class { name: "hang", tool: "hang", clients: 1000, ends: None, ..PLAIN },
    // What there is no room for is refused, and comes back.
    Class {
        name: "crowd",
        tool: "hang",
        clients: 1000,
        ends: Some("tool_error OVER_CAPACITY"),
        pause_ms: 1000,
        same: false,
        room: false,
        ..PLAIN
    },
    Class { name: "dribble", tool: "dribble", clients: 16, ends: None, ..PLAIN },
    // Each call is over well within a slice, though a timer may take twice as long as it is asked to.
    Class { name: "flood", tool: "slow", arguments: r#"{"ms":250,"steps":250}"#, clients: 8, ..PLAIN },
    Class { name: "stderr", tool: "stderr", arguments: r#"{"bytes":262144}"#, clients: 2, ..PLAIN },
    // Its own process, so that another conversation's is the neighbour.
    Class {
        name: "stop-reading",
        tool: "stop_reading",
        padding: 16 * 1024,
        sharing: "session",
        clients: 16,
        ends: None,
        ..PLAIN
    },
    Class { name: "big", tool: "big", arguments: r#"{"bytes":1048576}"#, pause_ms: 50, ..PLAIN },
    // What dies in every call is no neighbour to itself. It has answered before it dies: one that only ever dies is
    // left alone after a while, and then it would be refusals that are measured.
    Class {
        name: "crash",
        tool: "crash",
        sharing: "session",
        before: Some("bad/echo"),
        ends: Some("tool_error OUTCOME_UNKNOWN"),
        pause_ms: 100,
        same: false,
        ..PLAIN
    },
    Class { name: "garbage", tool: "garbage", clients: 4, ..PLAIN },
];

/// What one neighbour noticed of one class.
#[derive(Debug)]
struct Row {
    class: &'static str,
    neighbour: &'static str,
    alone_ms: f64,
    during_ms: f64,
    again_ms: f64,
    times: f64,
    /// The first call that failed, if one did.
    failed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    /// The bound is missed, but so it is between the two measurements without a misdeed.
    Noisy,
}

impl Row {
    /// What it takes alone: the better of what was measured.
    fn quiet_ms(&self) -> f64 {
        self.alone_ms.min(self.again_ms)
    }

    fn within(&self, ms: f64) -> bool {
        ms <= self.quiet_ms() * self.times || ms <= self.quiet_ms() + MORE_MS
    }

    fn verdict(&self) -> Verdict {
        // A neighbour whose calls fail is disturbed on any machine.
        if self.failed.is_some() {
            return Verdict::Fail;
        }
        match (self.within(self.during_ms), self.within(self.alone_ms.max(self.again_ms))) {
            // Noise has not made a bound easier that the better measurement sets.
            (true, _) => Verdict::Pass,
            (false, true) => Verdict::Fail,
            (false, false) => Verdict::Noisy,
        }
    }
}

/// Measures the classes of these names, or all of them, in so many slices of each kind. It is an error when a bound
/// is missed, and when the machine is too noisy to tell.
pub(super) fn run(only: &[String], slices: usize, as_json: bool) -> Result<(), String> {
    let classes = chosen(CLASSES, |class| class.name, only)?;
    let rig = Rig::prepare("chaos/measure")?;
    let mut rows = Vec::new();
    for class in classes {
        eprintln!("chaos: measuring {}", class.name);
        rows.extend(measure(&rig, class, slices).map_err(|why| format!("{}: {why}", class.name))?);
    }
    if as_json {
        println!("{:#}", json!({"slices": slices, "rows": rows.iter().map(row_as_json).collect::<Vec<_>>()}));
    } else {
        print!("{}", table(&rows, slices));
    }
    let problems = [
        (Verdict::Fail, "neighbours are disturbed"),
        (Verdict::Noisy, "the machine was too noisy to tell whether neighbours are disturbed"),
    ];
    let problems: Vec<String> = problems
        .into_iter()
        .filter_map(|(verdict, what)| {
            let with = rows.iter().filter(|row| row.verdict() == verdict);
            let names: Vec<String> = with.map(|row| format!("{} at {}", row.class, row.neighbour)).collect();
            (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn measure(rig: &Rig, class: &'static Class, slices: usize) -> Result<Vec<Row>, String> {
    let gateway = rig.seawall(class.name, &configuration(rig, class))?;
    let url = gateway.url();
    for good in [WELL, SAME] {
        rig.bench(&["probe", "--url", &url, "--tool", good, "--limit", "20"])?;
    }
    let (clients, pause, slices) =
        (class.clients.to_string(), class.pause_ms.to_string(), slices.to_string());
    let (bad, arguments) = (format!("bad/{}", class.tool), arguments(class));
    let mut command: Vec<&str> = vec!["slices", "--url", &url, "--bad", &bad, "--bad-args", &arguments];
    command.extend(["--bad-clients", &clients, "--bad-pause-ms", &pause, "--slices", &slices]);
    if let Some(before) = class.before {
        command.extend(["--bad-before", before]);
    }
    command.extend(["--good", WELL]);
    if class.same {
        command.extend(["--good", SAME]);
    }
    let report = rig.bench(&command)?;
    misbehaved(&report["bad"], class)?;
    let neighbours = [(WELL, "another upstream", ELSEWHERE), (SAME, "the same upstream", SAME_UPSTREAM)];
    let asked = neighbours.into_iter().take(if class.same { 2 } else { 1 });
    asked.map(|(tool, neighbour, times)| row(&report, class, tool, neighbour, times)).collect()
}

/// Makes sure that what went on was the misdeed, by how most of its calls ended.
fn misbehaved(bad: &Value, class: &Class) -> Result<(), String> {
    let calls = bad["calls"].as_u64().unwrap_or_default();
    let ended: u64 =
        bad["ends"].as_object().into_iter().flatten().filter_map(|(_, times)| times.as_u64()).sum();
    let right = match class.ends {
        Some(label) => ended > 0 && bad["ends"][label].as_u64().unwrap_or_default() * 2 >= ended,
        None => calls > 0 && ended * 2 <= calls,
    };
    let expected = class.ends.unwrap_or("under way");
    if right { Ok(()) } else { Err(format!("most calls should have been \"{expected}\": {bad}")) }
}

fn row(
    report: &Value,
    class: &'static Class,
    tool: &str,
    neighbour: &'static str,
    times: f64,
) -> Result<Row, String> {
    let goods = report["good"].as_array().map_or(&[][..], Vec::as_slice);
    let good =
        goods.iter().find(|good| good["tool"] == tool).ok_or_else(|| format!("no {tool} in {report}"))?;
    let of = |kind: &str| {
        let slices = good["p99_ms"][kind].as_array().map_or(&[][..], Vec::as_slice);
        let middle = median(slices.iter().filter_map(Value::as_f64).collect());
        if middle.is_nan() { Err(format!("{tool} was not measured {kind}: {report}")) } else { Ok(middle) }
    };
    let failed = good["errors"].as_object().is_none_or(|errors| !errors.is_empty());
    let failed = failed.then(|| format!("{} {}", good["errors"], good["first_error"]));
    Ok(Row {
        class: class.name,
        neighbour,
        alone_ms: of("alone")?,
        during_ms: of("during")?,
        again_ms: of("again")?,
        times,
        failed,
    })
}

fn arguments(class: &Class) -> String {
    match class.padding {
        0 => class.arguments.to_owned(),
        bytes => json!({"text": "x".repeat(bytes)}).to_string(),
    }
}

fn configuration(rig: &Rig, class: &Class) -> String {
    let misbehave = quoted(&rig.binary("misbehave"));
    let limits = if class.room {
        "[limits]\ntotal = 4096\ncaller = 4096\nconversation = 4096\nqueue = 4096\n"
    } else {
        ""
    };
    // Held to one era, the process that misbehaves is that of all callers, whatever they speak.
    let bad = format!(
        "[servers.bad]\ncommand = {misbehave}\nargs = [\"--stdio\", \"--era\", \"legacy\"]\nera = \"legacy\"\n\
         sharing = \"{}\"\nstop_grace = \"200ms\"\n",
        class.sharing
    );
    let well = format!(
        "[servers.well]\ncommand = {misbehave}\nargs = [\"--stdio\"]\nsharing = \"everyone\"\nstop_grace = \"200ms\"\n"
    );
    format!("{limits}{bad}{well}")
}

fn table(rows: &[Row], slices: usize) -> String {
    let mut text = format!(
        "{:<14} {:<18} {:>10} {:>10} {:>8} {:>8} {:>8}\n",
        "misdeed", "neighbour on", "alone", "during", "ratio", "bound", "control"
    );
    for row in rows {
        let verdict = match row.verdict() {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Fail => "FAIL".to_owned(),
            Verdict::Noisy => "NOISY: alone and control are outside each other's bound".to_owned(),
        };
        let failed =
            row.failed.as_ref().map_or_else(String::new, |failed| format!(" calls failed: {failed}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<14} {:<18} {:>7.2} ms {:>7.2} ms {:>8.2} {:>8.1} {:>8.2}  {verdict}{failed}",
            row.class,
            row.neighbour,
            row.alone_ms,
            row.during_ms,
            row.during_ms / row.quiet_ms(),
            row.times,
            row.again_ms / row.alone_ms,
        );
    }
    let _ = writeln!(
        text,
        "\nmedians of the 99th percentiles of {slices} slices of each kind; the ratio is to the quicker of alone and \
         control, and {MORE_MS:.0} ms more than that is within every bound"
    );
    text
}

fn row_as_json(row: &Row) -> Value {
    json!({
        "class": row.class, "neighbour": row.neighbour, "alone_ms": row.alone_ms, "during_ms": row.during_ms,
        "control_ms": row.again_ms, "bound": row.times, "failed": row.failed,
        "verdict": match row.verdict() {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Noisy => "noisy",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(alone_ms: f64, during_ms: f64, again_ms: f64) -> Row {
        let (class, neighbour, times) = ("hang", "another upstream", ELSEWHERE);
        Row { class, neighbour, alone_ms, during_ms, again_ms, times, failed: None }
    }

    #[test]
    fn the_bound_is_a_ratio_or_a_millisecond() {
        assert_eq!(row(10.0, 12.0, 10.0).verdict(), Verdict::Pass);
        assert_eq!(row(10.0, 12.1, 10.0).verdict(), Verdict::Fail);
        assert_eq!(row(0.5, 1.5, 0.5).verdict(), Verdict::Pass);
        assert_eq!(row(0.5, 1.6, 0.5).verdict(), Verdict::Fail);
    }

    #[test]
    fn the_bound_is_that_of_the_quicker_measurement_alone() {
        assert_eq!(row(12.0, 12.1, 10.0).verdict(), Verdict::Fail);
        assert_eq!(row(10.0, 12.1, 12.0).verdict(), Verdict::Fail);
        assert_eq!(row(12.0, 12.0, 10.0).verdict(), Verdict::Pass);
    }

    #[test]
    fn a_noisy_machine_says_nothing_but_a_failed_call_does() {
        assert_eq!(row(10.0, 13.0, 12.5).verdict(), Verdict::Noisy);
        assert_eq!(row(12.5, 13.0, 10.0).verdict(), Verdict::Noisy);
        assert_eq!(row(10.0, 11.0, 12.5).verdict(), Verdict::Pass);
        let failed = Row { failed: Some("timeout".to_owned()), ..row(10.0, 11.0, 12.5) };
        assert_eq!(failed.verdict(), Verdict::Fail);
    }

    #[test]
    fn what_was_measured_is_the_misdeed() {
        let class = |ends| Class { ends, ..PLAIN };
        let bad = |calls: u64, ends: Value| json!({"calls": calls, "ends": ends});
        let unknown = class(Some("tool_error OUTCOME_UNKNOWN"));
        let refused = json!({"tool_error OUTCOME_UNKNOWN": 5, "tool_error UPSTREAM_UNAVAILABLE": 95});
        assert!(misbehaved(&bad(100, refused), &unknown).is_err());
        assert!(misbehaved(&bad(100, json!({"tool_error OUTCOME_UNKNOWN": 50, "io": 49})), &unknown).is_ok());
        assert!(misbehaved(&bad(100, json!({})), &unknown).is_err());
        assert!(misbehaved(&bad(100, json!({"ok": 1})), &class(None)).is_ok());
        assert!(misbehaved(&bad(100, json!({"ok": 99})), &class(None)).is_err());
        assert!(misbehaved(&bad(0, json!({})), &class(None)).is_err());
    }

    #[test]
    fn a_report_is_read() {
        let slices = json!({"alone": [1.0, 2.0, 3.0], "during": [4.0], "again": [2.0, 3.0]});
        let report = json!({"good": [{"tool": WELL, "p99_ms": slices, "errors": {}, "first_error": null}]});
        let read = super::row(&report, &CLASSES[0], WELL, "another upstream", ELSEWHERE).unwrap();
        assert_eq!((read.alone_ms, read.during_ms, read.again_ms, read.failed), (2.0, 4.0, 2.5, None));
        assert!(super::row(&report, &CLASSES[0], SAME, "the same upstream", SAME_UPSTREAM).is_err());
    }
}
