//! `cargo xtask load`: the load tests of the systems that Seawall replaces, under their limits, against a release
//! build: many calls at once, equal ones, and more than there is room for. A broken promise fails it.
//!
//! Each row of the table is one load: so many threads that call at the same moment over REST. What ran is counted by
//! the server that ran it, and so is how much ran at once.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::rig::{Gateway, Rig, emptied, quoted, target_directory};

/// How long one call may take, with the time it is told to stay away.
const CALL: Duration = Duration::from_secs(120);
/// How long until every server has listed its tools, and until nothing is held any more.
const SETTLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// The two sets of limits, and what they leave to one server: its half of all places, rounded up.
static PRESETS: [Preset; 2] = [
    Preset { name: "dev", server: 3, glm: 2, kimi: 3 },
    Preset { name: "prod", server: 12, glm: 4, kimi: 6 },
];

#[derive(Clone, Copy, Debug)]
struct Preset {
    name: &'static str,
    server: u64,
    glm: u64,
    kimi: u64,
}

impl Preset {
    /// How many calls of this load's server may be under way at once.
    fn at_once(&self, load: &Load) -> u64 {
        match load.provider {
            Some("glm") => self.glm.min(self.server),
            Some("kimi") => self.kimi.min(self.server),
            _ => self.server,
        }
    }
}

/// What becomes of the calls of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Each has its result, if need be after it came back as often as it was told to.
    AllSucceed,
    /// Each has the result of the one that ran.
    OneRuns,
    /// One has its result; the others are told which one that is.
    OthersAreDuplicates,
    /// Each has its result at once, or is told when to come back.
    SucceedOrAreRefused,
}

/// Calls that begin at the same moment.
#[derive(Debug)]
struct Load {
    what: &'static str,
    /// The server that is called, which has this provider.
    server: &'static str,
    provider: Option<&'static str>,
    calls: usize,
    conversations: usize,
    /// How long each runs.
    ms: u64,
    promise: Promise,
}

static LOADS: [Load; 8] = [
    Load { what: "one call", server: "one", calls: 1, conversations: 1, ms: 10, ..PLAIN },
    Load { what: "distinct, one conversation", server: "talk", calls: 10, conversations: 1, ..PLAIN },
    Load { what: "distinct, ten conversations", server: "talks", calls: 40, conversations: 10, ..PLAIN },
    Load {
        what: "equal, shared",
        server: "shared",
        calls: 20,
        conversations: 20,
        ms: 2000,
        promise: Promise::OneRuns,
        ..PLAIN
    },
    Load {
        what: "equal, rejected",
        server: "rejected",
        calls: 20,
        conversations: 20,
        ms: 2000,
        promise: Promise::OthersAreDuplicates,
        ..PLAIN
    },
    Load {
        what: "provider glm",
        server: "glm",
        provider: Some("glm"),
        calls: 30,
        conversations: 10,
        ..PLAIN
    },
    Load {
        what: "provider kimi",
        server: "kimi",
        provider: Some("kimi"),
        calls: 30,
        conversations: 10,
        ..PLAIN
    },
    Load {
        what: "high load",
        server: "high",
        calls: 400,
        conversations: 80,
        ms: 200,
        promise: Promise::SucceedOrAreRefused,
        ..PLAIN
    },
];

/// High load once more, from clients that do as they are told.
static COMING_BACK: Load =
    Load { what: "high load, coming back", server: "back", calls: 400, conversations: 80, ms: 20, ..PLAIN };

const PLAIN: Load = Load {
    what: "",
    server: "",
    provider: None,
    calls: 0,
    conversations: 1,
    ms: 200,
    promise: Promise::AllSucceed,
};

impl Load {
    fn equal(&self) -> bool {
        matches!(self.promise, Promise::OneRuns | Promise::OthersAreDuplicates)
    }

    /// Calls of tools that read are shared where they are equal.
    fn tool(&self) -> &'static str {
        if self.equal() { "work_read" } else { "work" }
    }
}

/// How one call ended.
#[derive(Clone, Debug, Default)]
struct Ended {
    status: u16,
    body: Value,
    took: Duration,
    /// How often it was refused before that, by how much it was told to wait each time; 0 where it was not told.
    refused: Vec<u64>,
}

/// What came of a load.
#[derive(Debug)]
struct Row {
    preset: &'static str,
    what: &'static str,
    calls: usize,
    results: usize,
    refused: usize,
    duplicates: usize,
    /// Calls with a result that did not run themselves.
    shared: usize,
    p50: f64,
    p99: f64,
    at_once: u64,
    at_most: u64,
    permits: usize,
    broken: Vec<String>,
}

/// Runs every load under both presets, prints the table, and fails where a promise is broken.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let as_json = match arguments {
        [] => false,
        [flag] if flag == "--json" => true,
        other => return Err(format!("`load` takes --json, not `{}`", other.join(" "))),
    };
    let rig = Rig::prepare("load")?;
    let mut rows = Vec::new();
    for preset in &PRESETS {
        rows.extend(under(&rig, preset)?);
    }
    if as_json {
        println!("{:#}", json!({"loads": rows.iter().map(as_value).collect::<Vec<_>>()}));
    } else {
        print!("{}", table(&rows));
    }
    let broken: Vec<String> = rows
        .iter()
        .flat_map(|row| row.broken.iter().map(|what| format!("{}, {}: {what}", row.preset, row.what)))
        .collect();
    if broken.is_empty() { Ok(()) } else { Err(format!("promises broken:\n{}", broken.join("\n"))) }
}

/// All loads under one preset.
fn under(rig: &Rig, preset: &Preset) -> Result<Vec<Row>, String> {
    let records = target_directory().join("load").join(format!("records-{}", preset.name));
    emptied(&records)?;
    let record = |load: &Load| records.join(load.server);
    let loads: Vec<&Load> = LOADS.iter().chain([&COMING_BACK]).collect();
    let tables: String = loads.iter().map(|load| server(rig, load, &record(load))).collect();
    let gateway = rig.seawall(preset.name, &format!("[limits]\npreset = \"{}\"\n{tables}", preset.name))?;
    until("every server has listed its tools", || {
        let status = gateway.status()?;
        let listed = |server: &&Value| server["tools"].as_u64().is_some_and(|tools| tools > 0);
        Ok(status["upstreams"].as_array().is_some_and(|all| all.iter().filter(listed).count() == loads.len()))
    })?;
    loads
        .iter()
        .map(|load| {
            eprintln!("load: {}, {}", preset.name, load.what);
            measure(&gateway, preset, load, &record(load))
        })
        .collect()
}

/// The table of a load's server: a process of its own that everyone shares.
fn server(rig: &Rig, load: &Load, record: &Path) -> String {
    let (program, record) = (quoted(&rig.binary("misbehave")), quoted(record));
    let provider = load.provider.map_or_else(String::new, |name| format!("provider = \"{name}\"\n"));
    let duplicates = match load.promise {
        Promise::OthersAreDuplicates => "duplicates = \"reject\"\n",
        Promise::AllSucceed | Promise::OneRuns | Promise::SucceedOrAreRefused => "",
    };
    format!(
        "[servers.{}]\ncommand = {program}\nargs = [\"--stdio\", \"--all\", \"--record\", {record}]\n\
         sharing = \"everyone\"\n{provider}{duplicates}",
        load.server
    )
}

/// Brings one load about and looks at what came of it.
fn measure(gateway: &Gateway, preset: &Preset, load: &Load, record: &Path) -> Result<Row, String> {
    let port = port(gateway)?;
    // The process is not to be started by the calls that are measured.
    let warm = execute(port, "warm", &format!("{}__echo", load.server), &json!({"text": "warm"}))?;
    if warm.status != 200 {
        return Err(format!("server {} does not answer: {}", load.server, warm.body));
    }
    let begin = &Barrier::new(load.calls);
    let ended: Vec<Result<Ended, String>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..load.calls).map(|number| scope.spawn(move || call(port, load, number, begin))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("its thread panicked".to_owned())))
            .collect()
    });
    let permits = permits_at_the_end(gateway)?;
    let most = execute(port, "most", &format!("{}__most_at_once", load.server), &json!({}))?;
    let most = most.body["result"]["content"][0]["text"].as_str().and_then(|text| text.parse().ok());
    let most = most.ok_or("the server does not say how much it did at once")?;
    let ran = executions(record, load.tool())?;
    Ok(judged(preset, load, &ended, ran, most, permits))
}

/// One client's call; where the load promises that all succeed, it comes back for as long as it is told to.
fn call(port: u16, load: &Load, number: usize, begin: &Barrier) -> Result<Ended, String> {
    let key = if load.equal() { "equal".to_owned() } else { number.to_string() };
    let arguments = json!({"key": key, "ms": load.ms});
    let conversation = format!("conversation-{}", number % load.conversations);
    let tool = format!("{}__{}", load.server, load.tool());
    begin.wait();
    let began = SystemTime::now();
    let mut refused = Vec::new();
    loop {
        let answer = execute(port, &conversation, &tool, &arguments)?;
        let wait = answer.body["error"]["retry_after_ms"].as_u64().unwrap_or_default();
        if answer.status == 429 {
            refused.push(wait);
        }
        let took = began.elapsed().unwrap_or_default();
        let comes_back = answer.status == 429 && load.promise == Promise::AllSucceed && wait > 0;
        if !comes_back || took >= CALL {
            return Ok(Ended { status: answer.status, body: answer.body, took, refused });
        }
        sleep(Duration::from_millis(wait));
    }
}

/// Compares what came with what is promised. `ran` is how many calls reached the server, `most` how many were under
/// way there at once.
fn judged(
    preset: &Preset,
    load: &Load,
    ended: &[Result<Ended, String>],
    ran: usize,
    most: u64,
    permits: usize,
) -> Row {
    let mut broken: BTreeSet<String> =
        ended.iter().filter_map(|one| one.as_ref().err()).map(|why| format!("no answer: {why}")).collect();
    let answers: Vec<&Ended> = ended.iter().flatten().collect();
    let of_status = |status: u16| answers.iter().copied().filter(move |one| one.status == status);
    let results: Vec<&Ended> = of_status(200).collect();
    let duplicates: Vec<&Ended> = of_status(409).collect();
    let refusals: Vec<u64> = answers.iter().flat_map(|one| one.refused.iter().copied()).collect();
    for other in answers.iter().filter(|one| !matches!(one.status, 200 | 409 | 429)) {
        broken.insert(format!("HTTP {}: {}", other.status, other.body["error"]["message"]));
    }

    let at_most = preset.at_once(load);
    let shared = results.len().saturating_sub(ran);
    let mut holds = |kept: bool, what: String| {
        if !kept {
            broken.insert(what);
        }
    };
    holds(permits == 0, format!("{permits} permits are held at the end"));
    holds(most <= at_most, format!("{most} calls were under way at once, and {at_most} may be"));
    holds(refusals.iter().all(|wait| *wait > 0), "a refusal does not say when to come back".to_owned());
    let all = load.calls;
    match load.promise {
        Promise::AllSucceed => {
            holds(results.len() == all, format!("{} of {all} have a result", results.len()));
            holds(ran == all, format!("{ran} of {all} ran"));
        }
        Promise::OneRuns => {
            let texts: BTreeSet<String> =
                results.iter().map(|one| one.body["result"]["content"].to_string()).collect();
            holds(results.len() == all, format!("{} of {all} have a result", results.len()));
            holds(ran == 1 && texts.len() == 1, format!("{ran} ran, with {} results", texts.len()));
        }
        Promise::OthersAreDuplicates => {
            let original = results.first().map(|one| &one.body["call"]);
            let told = |one: &&&Ended| original == Some(&one.body["error"]["original"]);
            holds(ran == 1 && results.len() == 1, format!("{ran} ran, {} have a result", results.len()));
            let told = duplicates.iter().filter(told).count();
            holds(told + 1 == all, format!("{told} of {} duplicates are told of the first", all - 1));
        }
        Promise::SucceedOrAreRefused => {
            let answered = results.len() + refusals.len();
            holds(answered == all, format!("{answered} of {all} have a result or are refused"));
            holds(ran == results.len(), format!("{ran} ran, {} have a result", results.len()));
            holds(!refusals.is_empty(), "nothing was refused, so that this was no high load".to_owned());
        }
    }

    let mut times: Vec<f64> = results.iter().map(|one| one.took.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    Row {
        preset: preset.name,
        what: load.what,
        calls: all,
        results: results.len(),
        refused: refusals.len(),
        duplicates: duplicates.len(),
        shared,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        at_once: most,
        at_most,
        permits,
        broken: broken.into_iter().collect(),
    }
}

/// The least of the sorted values that so many of them are no larger than; of nothing it is not a number.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn as_value(row: &Row) -> Value {
    json!({
        "preset": row.preset, "what": row.what, "calls": row.calls, "results": row.results,
        "refused": row.refused, "duplicates": row.duplicates, "shared": row.shared,
        "p50_ms": row.p50, "p99_ms": row.p99, "at_once": row.at_once, "at_most": row.at_most,
        "permits": row.permits, "broken": row.broken,
    })
}

fn table(rows: &[Row]) -> String {
    let heads = ["calls", "results", "refused", "dupl.", "shared", "p50 ms", "p99 ms", "at once", "permits"];
    let mut text = format!("{:<6}{:<28}", "", "");
    for head in heads {
        let _ = write!(text, "{head:>9}");
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{:<6}{:<28}", row.preset, row.what);
        for count in [row.calls, row.results, row.refused, row.duplicates, row.shared] {
            let _ = write!(text, "{count:>9}");
        }
        let at_once = format!("{}/{}", row.at_once, row.at_most);
        let verdict = if row.broken.is_empty() { "pass" } else { "FAIL" };
        let _ = writeln!(text, "{:>9.1}{:>9.1}{at_once:>9}{:>9}  {verdict}", row.p50, row.p99, row.permits);
        for what in &row.broken {
            let _ = writeln!(text, "      {what}");
        }
    }
    text
}

/// How many permits are held when nothing goes on any more.
fn permits_at_the_end(gateway: &Gateway) -> Result<usize, String> {
    let mut held = 0;
    // Where they are not given back, that is for the table to say.
    let settled = until("nothing is held", || {
        let status = gateway.status()?;
        held = status["permits"].as_array().map(Vec::len).ok_or("its status has no permits")?;
        Ok(held == 0)
    });
    if held == 0 { settled.map(|()| 0) } else { Ok(held) }
}

/// Looks until something holds.
fn until(what: &str, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    while !holds()? {
        if waited >= SETTLE {
            return Err(format!("{what}: not within {} s", SETTLE.as_secs()));
        }
        sleep(PAUSE);
        waited += PAUSE;
    }
    Ok(())
}

/// How many calls of a tool reached a server, by its own record.
fn executions(record: &Path, tool: &str) -> Result<usize, String> {
    let text = fs::read_to_string(record).map_err(|error| format!("{}: {error}", record.display()))?;
    let is_call = |line: &&str| {
        serde_json::from_str::<Value>(line)
            .is_ok_and(|entry| entry["event"] == "message" && entry["name"] == tool)
    };
    Ok(text.lines().filter(is_call).count())
}

fn port(gateway: &Gateway) -> Result<u16, String> {
    let url = gateway.url();
    let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let port = authority.rsplit(':').next().and_then(|port| port.parse().ok());
    port.ok_or_else(|| format!("{url} has no port"))
}

/// Calls a tool over REST, in a conversation.
fn execute(port: u16, conversation: &str, tool: &str, arguments: &Value) -> Result<Ended, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    stream.set_read_timeout(Some(CALL)).map_err(failed)?;
    let body = json!({"tool": tool, "arguments": arguments}).to_string();
    let request = format!(
        "POST /api/v1/execute HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nSeawall-Session: {conversation}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let (status, body) = answer(&text).ok_or_else(|| format!("no HTTP answer: {text:?}"))?;
    Ok(Ended { status, body, ..Ended::default() })
}

/// The status and the JSON of an HTTP answer.
fn answer(text: &str) -> Option<(u16, Value)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, body: Value, refused: &[u64]) -> Result<Ended, String> {
        Ok(Ended { status, body, took: Duration::from_millis(10), refused: refused.to_vec() })
    }

    fn load(calls: usize, promise: Promise) -> Load {
        Load { what: "a load", calls, promise, ..PLAIN }
    }

    fn broken(load: &Load, ended: &[Result<Ended, String>], ran: usize, most: u64, permits: usize) -> usize {
        judged(&PRESETS[0], load, ended, ran, most, permits).broken.len()
    }

    #[test]
    fn all_that_is_promised_is_looked_at() {
        let result = || ended(200, json!({}), &[]);
        let all = load(2, Promise::AllSucceed);
        assert_eq!(broken(&all, &[result(), ended(200, json!({}), &[100])], 2, 2, 0), 0);
        assert_eq!(
            broken(&all, &[result(), ended(200, json!({}), &[0])], 2, 2, 0),
            1,
            "no time to come back"
        );
        assert_eq!(broken(&all, &[result(), result()], 2, 4, 1), 2, "too many at once, and a permit is held");
        assert_eq!(broken(&all, &[result(), Err("reset".to_owned())], 2, 2, 0), 2, "one has no answer");
        assert_eq!(broken(&all, &[result(), result()], 3, 2, 0), 1, "one ran twice");

        let either = load(2, Promise::SucceedOrAreRefused);
        assert_eq!(broken(&either, &[result(), ended(429, json!({}), &[100])], 1, 1, 0), 0);
        assert_eq!(broken(&either, &[result(), ended(504, json!({}), &[])], 1, 1, 0), 3);
    }

    #[test]
    fn equal_calls_share_a_result_or_are_told_of_the_first() {
        let result = |text: &str| ended(200, json!({"call": "a", "result": {"content": text}}), &[]);
        let one = load(2, Promise::OneRuns);
        assert_eq!(broken(&one, &[result("x"), result("x")], 1, 1, 0), 0);
        assert_eq!(broken(&one, &[result("x"), result("y")], 2, 1, 0), 1);
        assert_eq!(judged(&PRESETS[0], &one, &[result("x"), result("x")], 1, 1, 0).shared, 1);

        let others = load(2, Promise::OthersAreDuplicates);
        let told = |id: &str| ended(409, json!({"error": {"original": id}}), &[]);
        assert_eq!(broken(&others, &[told("a"), result("x")], 1, 1, 0), 0);
        assert_eq!(broken(&others, &[told("b"), result("x")], 1, 1, 0), 1);
    }

    #[test]
    fn a_broken_promise_stands_in_the_table() {
        let row = judged(&PRESETS[1], &load(1, Promise::AllSucceed), &[], 0, 0, 0);
        let text = table(&[row]);
        assert!(text.contains("FAIL") && text.contains("0 of 1 have a result"), "{text}");
    }

    #[test]
    fn the_least_that_so_many_are_no_larger_than() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (50.0, 99.0));
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn an_answer_has_a_status_and_json() {
        let text = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n\r\n{\"ok\":false}";
        assert_eq!(answer(text), Some((429, json!({"ok": false}))));
        assert_eq!(answer("nonsense"), None);
    }
}
