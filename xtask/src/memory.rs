//! `cargo xtask memory`: what calls that hang weigh, held against the bare proxy, and how soon is refused what there
//! is no room for.
//!
//! `mcp-bench` holds the calls. What a process weighs is read when it no longer changes; what it grew by is the
//! difference to what it weighed with a client that had listed the tools.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::Server;
use crate::rig::{Gateway, Rig, free_port, quoted, resident_bytes};

const THOUSAND: usize = 1000;
/// What the arguments of larger calls are padded to.
const BYTES: usize = 16 * 1024;
/// What Seawall may grow by, compared with the bare proxy under the same calls over HTTP.
const TIMES: f64 = 1.5;
/// What a call at a shared child may weigh, in KiB.
const EACH_KIB: f64 = 16.0;
/// What the third thousand may add, compared with the second.
const THIRD: f64 = 1.15;
/// How soon a call is refused that there is no room for, in ms.
const REFUSED_MS: f64 = 100.0;

const PAUSE: Duration = Duration::from_millis(100);
/// How long until everything is as it is to be measured.
const SETTLE: Duration = Duration::from_secs(30);
/// A process whose weight changed by less than this, over so many looks, weighs what it weighs.
const STEADY_BYTES: u64 = 64 * 1024;
const LOOKS: usize = 5;

/// Raised so that every call is in flight.
const ROOM: &str = "[limits]\ntotal = 8192\ncaller = 8192\nconversation = 8192\nqueue = 8192\n";

struct Row {
    what: &'static str,
    unit: &'static str,
    figure: f64,
    bound: Option<f64>,
}

impl Row {
    fn passed(&self) -> bool {
        self.bound.is_none_or(|bound| self.figure <= bound)
    }
}

/// Measures everything, prints the figures, and fails where a bound is missed.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let as_json = match arguments {
        [] => false,
        [flag] if flag == "--json" => true,
        other => return Err(format!("`memory` takes --json, not `{}`", other.join(" "))),
    };
    let rig = Rig::prepare("memory")?;
    let rows = measure(&rig)?;
    if as_json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({"what": row.what, "unit": row.unit, "figure": row.figure, "bound": row.bound,
                              "passed": row.passed()})
            })
            .collect();
        println!("{:#}", json!({"figures": rows}));
    } else {
        print!("{}", table(&rows));
    }
    let missed: Vec<&str> = rows.iter().filter(|row| !row.passed()).map(|row| row.what).collect();
    if missed.is_empty() { Ok(()) } else { Err(format!("bounds missed: {}", missed.join("; "))) }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<66} {:>10} {:>10}\n", "", "figure", "bound");
    for row in rows {
        let number = |value: f64| format!("{value:.2} {}", row.unit);
        let bound = row.bound.map_or_else(|| "-".to_owned(), number);
        let verdict = match row.bound {
            None => "",
            Some(_) if row.passed() => "pass",
            Some(_) => "FAIL",
        };
        let line = format!("{:<66} {:>10} {bound:>10}  {verdict}", row.what, number(row.figure));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn measure(rig: &Rig) -> Result<Vec<Row>, String> {
    let said = |what: &str| eprintln!("memory: {what}");
    said("the bare proxy, over HTTP");
    let [bare, bare_large] = [bare_growth(rig, "bare", 0)?, bare_growth(rig, "bare-large", BYTES)?];
    said("seawall, over HTTP");
    let http = http_growth(rig)?;
    said("seawall, one shared child");
    let child = steps(rig, "child", 0, &[Step::Hold, Step::Hold])?;
    let [child_first, child_second] = child[..] else {
        return Err("two thousands were not measured".to_owned());
    };
    let large = steps(rig, "child-large", BYTES, &[Step::Hold, Step::Hold, Step::Hold])?;
    let [first, second, third] = large[..] else {
        return Err("three thousands were not measured".to_owned());
    };
    said("seawall, one thousand after the other");
    let turns = [Step::Hold, Step::LetGo, Step::Hold, Step::LetGo, Step::Hold];
    let in_turn = steps(rig, "child-in-turn", BYTES, &turns)?;
    let [_, _, second_turn, _, third_turn] = in_turn[..] else {
        return Err("three thousands in turn were not measured".to_owned());
    };
    said("seawall, with its default limits");
    let refused = refusals(rig)?;

    // Less is no ratio: two differences below zero would make one that any bound lets pass.
    let (second_more, third_more) = (growth(first, second)?, growth(second, third)?);
    // The first thousand also pays for what a daemon that was just started touches once.
    let child_more = growth(child_first, child_second)?;

    let each = |bytes: f64| bytes / THOUSAND as f64 / 1024.0;
    let row = |what, unit, figure, bound| Row { what, unit, figure, bound };
    Ok(vec![
        row("1,000 calls over HTTP, seawall / bare proxy", "x", http / bare, Some(TIMES)),
        row(
            "1,000 calls with 16 KiB at one shared child / bare proxy, HTTP",
            "x",
            first / bare_large,
            Some(TIMES),
        ),
        row("each call of the second 1,000 at one shared child", "KiB", each(child_more), Some(EACH_KIB)),
        row(
            "the third thousand with 16 KiB / the second, all in flight",
            "x",
            third_more / second_more,
            Some(THIRD),
        ),
        row(
            "the third thousand with 16 KiB / the second, in turn",
            "x",
            third_turn / second_turn,
            Some(THIRD),
        ),
        row("the slowest refusal of what there is no room for", "ms", refused, Some(REFUSED_MS)),
        row("each call of the first 1,000 at one shared child", "KiB", each(child_first), None),
        row("each of 1,000 calls over HTTP, seawall", "KiB", each(http), None),
        row("each of 1,000 calls over HTTP, bare proxy", "KiB", each(bare), None),
        row("each of 1,000 calls with 16 KiB at one shared child", "KiB", each(first), None),
        row("each of 1,000 calls with 16 KiB over HTTP, bare proxy", "KiB", each(bare_large), None),
    ])
}

/// What the bare proxy grows by, in bytes.
fn bare_growth(rig: &Rig, name: &str, bytes: usize) -> Result<f64, String> {
    let (_upstream, url) = upstream(rig, &format!("{name}-upstream"))?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let _proxy = rig.start(name, "bare-proxy", &["--listen", &listen, "--upstream", &url])?;
    let url = format!("http://{listen}/mcp");
    probe(rig, &url)?;
    let pid = rig.process("bare-proxy")?;
    let before = steady(pid)?;
    let mut held = Held::start(rig, &url, bytes)?;
    held.all(THOUSAND)?;
    growth(before, steady(pid)?)
}

fn http_growth(rig: &Rig) -> Result<f64, String> {
    let (_upstream, url) = upstream(rig, "http-upstream")?;
    let config = format!("{ROOM}[servers.alpha]\nurl = \"{url}\"\ntimeout = \"10m\"\n");
    let gateway = rig.seawall("http", &config)?;
    Ok(taken(rig, &gateway, 0, &[Step::Hold])?[0])
}

/// What is done to a daemon before its growth is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A thousand calls more are held.
    Hold,
    /// All that are held are taken back.
    LetGo,
}

/// What Seawall has grown by after each step, in bytes, with one child that everyone shares.
fn steps(rig: &Rig, name: &str, bytes: usize, steps: &[Step]) -> Result<Vec<f64>, String> {
    let gateway = rig.seawall(name, &format!("{ROOM}{}timeout = \"10m\"\n", shared_child(rig)))?;
    taken(rig, &gateway, bytes, steps)
}

fn taken(rig: &Rig, gateway: &Gateway, bytes: usize, steps: &[Step]) -> Result<Vec<f64>, String> {
    let url = gateway.url();
    probe(rig, &url)?;
    let pid = rig.process("seawall")?;
    let before = steady(pid)?;
    let mut held = Held::start(rig, &url, bytes)?;
    let (mut count, mut grown) = (0, Vec::new());
    for step in steps {
        match step {
            Step::Hold => {
                count += THOUSAND;
                held.all(count)?;
            }
            Step::LetGo => {
                count = 0;
                held.command("drop")?;
            }
        }
        until_pending(gateway, count)?;
        let now = steady(pid)?;
        grown.push(if *step == Step::Hold { growth(before, now)? } else { 0.0 });
    }
    Ok(grown)
}

/// How long the slowest refusal took, in ms, when a thousand calls that hang come and the limits are what they are
/// by default.
fn refusals(rig: &Rig) -> Result<f64, String> {
    let gateway = rig.seawall("default-limits", &shared_child(rig))?;
    let url = gateway.url();
    probe(rig, &url)?;
    let mut held = Held::start(rig, &url, 0)?;
    let report = held.command(&format!("hold {THOUSAND}"))?;
    let returned = report["returned"].as_object().ok_or_else(|| format!("nothing was refused: {report}"))?;
    let refused = returned.get("tool_error OVER_CAPACITY").and_then(Value::as_u64).unwrap_or_default();
    if refused == 0 || returned.len() != 1 {
        return Err(format!("not every call was held or refused: {report}"));
    }
    report["returned_ms"]["max"].as_f64().ok_or_else(|| format!("nothing was refused: {report}"))
}

/// The fake upstream over HTTP, and where it is.
fn upstream(rig: &Rig, name: &str) -> Result<(Server, String), String> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let server = rig.start(name, "mcp-bench", &["upstream", "--listen", &listen])?;
    let url = format!("http://{listen}/mcp");
    probe(rig, &url)?;
    Ok((server, url))
}

fn shared_child(rig: &Rig) -> String {
    let program = quoted(&rig.binary("mcp-bench"));
    format!(
        "[servers.alpha]\ncommand = {program}\nargs = [\"upstream\", \"--stdio\"]\nsharing = \"everyone\"\n"
    )
}

/// Waits until the tools are listed.
fn probe(rig: &Rig, url: &str) -> Result<(), String> {
    rig.bench(&["probe", "--url", url, "--era", "2026-07-28", "--tool", "hang", "--limit", "20"]).map(drop)
}

fn until_pending(gateway: &Gateway, count: usize) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    loop {
        let status = gateway.status()?;
        if status["pending"] == json!(count) {
            return Ok(());
        }
        if waited >= SETTLE {
            return Err(format!("{} calls are under way, not {count}", status["pending"]));
        }
        sleep(PAUSE);
        waited += PAUSE;
    }
}

/// What a process weighs, in bytes, once that does not change any more.
fn steady(pid: u32) -> Result<f64, String> {
    let mut looks = vec![resident_bytes(pid)?];
    let mut waited = Duration::ZERO;
    while waited < SETTLE {
        sleep(PAUSE);
        waited += PAUSE;
        looks.push(resident_bytes(pid)?);
        let last = &looks[looks.len().saturating_sub(LOOKS)..];
        let (least, most) = (last.iter().min(), last.iter().max());
        if let (LOOKS, Some(least), Some(most)) = (last.len(), least, most)
            && most - least <= STEADY_BYTES
        {
            return Ok(*most as f64);
        }
    }
    Err(format!("what process {pid} weighs does not settle: {looks:?}"))
}

/// By how many bytes a process grew: what did not grow at all was not measured.
fn growth(before: f64, after: f64) -> Result<f64, String> {
    let grown = after - before;
    if grown > 0.0 { Ok(grown) } else { Err(format!("a thousand calls changed {before} bytes to {after}")) }
}

/// A client that holds calls, and does what it is told line by line. Dropped, it ends and they with it.
struct Held {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Held {
    fn start(rig: &Rig, url: &str, bytes: usize) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("mcp-bench hold: {error}");
        let mut child = Command::new(rig.binary("mcp-bench"))
            .args(["hold", "--url", url, "--era", "2026-07-28", "--tool", "hang"])
            .args(["--bytes", &bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let input = child.stdin.take().expect("it was just piped");
        let output = BufReader::new(child.stdout.take().expect("it was just piped"));
        Ok(Self { child, input, output })
    }

    /// Begins another thousand calls, after which so many must be held.
    fn all(&mut self, count: usize) -> Result<(), String> {
        let report = self.command(&format!("hold {THOUSAND}"))?;
        if report["held"] == json!(count) {
            Ok(())
        } else {
            Err(format!("not {count} calls are held: {report}"))
        }
    }

    fn command(&mut self, line: &str) -> Result<Value, String> {
        let failed = |error: std::io::Error| format!("mcp-bench hold: {error}");
        writeln!(self.input, "{line}").map_err(failed)?;
        let mut report = String::new();
        self.output.read_line(&mut report).map_err(failed)?;
        serde_json::from_str(&report).map_err(|error| format!("mcp-bench hold printed no report: {error}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may have ended by itself; in any case it is reaped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_measured_or_missing() {
        assert_eq!(growth(100.0, 150.0), Ok(50.0));
        assert!(growth(100.0, 100.0).is_err() && growth(100.0, 50.0).is_err());
    }

    #[test]
    fn a_bound_is_kept_or_missed() {
        let row = |figure, bound| Row { what: "a", unit: "x", figure, bound };
        assert!(row(1.0, Some(1.0)).passed() && row(9.0, None).passed());
        assert!(!row(1.1, Some(1.0)).passed() && !row(f64::NAN, Some(1.0)).passed());
        assert!(table(&[row(1.1, Some(1.0))]).contains("FAIL"));
    }
}
