//! The chaos suite: each misdeed of an upstream over each transport ends as the [model] says, in time, without a
//! neighbour that notices or anything left behind.
//!
//! A row of the model is a test. Its cells share a daemon, in two groups, and with it a neighbour that does nothing
//! wrong. Where `SEAWALL_CHAOS_REPORT` names a directory, each cell leaves a file in it, however it ended.
#![expect(
    clippy::disallowed_methods,
    reason = "tests spawn tasks, write reports, and look at processes in /proc"
)]

use rustix::process::Signal;
use seawall_tests::model::{
    self, After, Cells, Does, ECHO, Ending, Meanwhile, PROMISED, PROMPT, RECOVERED, Row, SOON, Sibling,
    Starts, Stays, TIMEOUT, WATCHED, seen, shown, shown_text,
};
use seawall_tests::{
    Answer, Call, Client, Daemon, Era, PATIENCE, Process, Transport, Upstream, at, binary, eventually, note,
    well,
};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

/// Daemons at the same time, so that what is measured is theirs and not the machine's.
static TURN: Semaphore = Semaphore::const_new(4);

/// The cells that share a daemon.
const GROUPS: [&[Transport]; 2] = [
    &[Transport::Stdio, Transport::LegacyHttp, Transport::ModernHttp],
    &[Transport::Sse, Transport::WebSocket],
];
/// What a loaded machine may add to any time: it runs the tests, the daemons, their children and a compiler at once.
const ALLOWANCE: Duration = Duration::from_millis(400);
/// How often a neighbour is called at least, and how long it rests between two calls.
const NEIGHBOURLY: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// How soon nothing is left once a misdeed, or the daemon, is over.
const SETTLED: Duration = Duration::from_secs(5);
/// How large the arguments are that no pipe holds.
const BIG: usize = 300_000;
/// How often in turn a server must have been called before a call is told when to try again.
const PATIENT: usize = 6;
/// Where the reports go.
const REPORT: &str = "SEAWALL_CHAOS_REPORT";

macro_rules! rows {
    ($($test:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($test)),*];
        $(
            #[tokio::test]
            async fn $test() {
                Box::pin(LocalSet::new().run_until(check(stringify!($test)))).await;
            }
        )*
    };
}

rows! {
    call_never_answered headers_then_silence comments_only progress_then_silence half_a_reply one_byte_a_second
    valid_reply_after_the_deadline stopped_process list_never_answered list_headers_then_silence ping_refused
    ping_never_answered busy_then_answers busy_beyond_the_deadline idle_while_a_call_runs never_reads
    reads_one_byte_a_second child_of_the_server_eats_its_stdin stderr_flood stderr_without_a_line_end chatty_server
    list_changed_storm client_that_does_not_read line_of_64_kib line_over_the_limit garbage_flood
    garbage_between_replies banner_before_the_first_reply byte_order_mark carriage_return line_separators
    invalid_utf8 reply_with_an_unknown_id reply_with_the_id_zero reply_with_its_id_as_a_string two_replies
    progress_with_a_foreign_token neither_result_nor_error result_is_null result_without_content empty_body
    accepted_and_no_more page_instead_of_a_reply wrong_content_type redirected_elsewhere session_forgotten
    definitions_that_change crash_in_a_call crash_in_a_call_that_only_reads crash_that_leaves_stdout_open
    stream_that_ends stream_that_ends_after_progress exit_at_a_cancel crash_loop opening_never_answered
    exit_in_initialize cold_start start_storm probe_unanswered probe_that_kills probe_refused
    removed_while_it_starts survives_eof_and_term three_wrappers_deep grandchild_that_left_the_session
    close_that_takes_for_ever container_behind_its_client orphan_that_ends cancelled_and_goes_on
    equal_ids_of_two_callers question_of_a_shared_server question_with_the_id_of_the_call
    question_that_takes_its_time
}

#[test]
fn every_row_of_the_model_is_tested() {
    let rows: BTreeSet<&str> = model::rows().map(|row| row.test).collect();
    assert_eq!(rows, TESTED.iter().copied().collect::<BTreeSet<_>>());
}

/// Runs every cell of a row.
async fn check(test: &str) {
    let row = model::rows().find(|row| row.test == test).expect("another test compares the names");
    let mut wrong = Vec::new();
    for group in GROUPS {
        let cell = |transport: &Transport| {
            let cells = row.cells.iter().find(|cells| cells.transports.contains(transport))?;
            Some(Place { row, transport: *transport, era: era(row, *transport), cells })
        };
        let places: Vec<Place> = group.iter().filter_map(cell).collect();
        if places.is_empty() {
            continue;
        }
        let _turn = TURN.acquire().await.expect("nobody closes it");
        let reports = match spawn_local(together(places.clone())).await {
            Ok(reports) => reports,
            Err(error) => {
                let why = why(error);
                places.iter().map(|place| Report::broken(*place, &why)).collect()
            }
        };
        for report in reports {
            report.write();
            note(&report.summary());
            if !report.problems.is_empty() {
                wrong.push(report.summary());
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", row.row, wrong.join("\n"));
}

/// The eras take turns over rows and transports, so that each meets both.
fn era(row: &Row, transport: Transport) -> Era {
    let at = model::rows().position(|other| other.test == row.test).unwrap_or_default();
    let even = (at + transport as usize).is_multiple_of(2);
    row.era.unwrap_or(if even { Era::Legacy } else { Era::Modern })
}

/// Where a cell is.
#[derive(Clone, Copy)]
struct Place {
    row: &'static Row,
    transport: Transport,
    era: Era,
    cells: &'static Cells,
}

/// What became of a cell.
struct Report {
    place: Place,
    seen: String,
    problems: Vec<String>,
    overshoot: Option<Duration>,
    neighbour: Duration,
    left: String,
}

impl Report {
    fn of(place: Place) -> Self {
        Self {
            place,
            seen: String::new(),
            problems: Vec::new(),
            overshoot: None,
            neighbour: Duration::ZERO,
            left: String::new(),
        }
    }

    fn broken(place: Place, why: &str) -> Self {
        let seen = why.lines().next().unwrap_or_default().to_owned();
        Self { seen, problems: vec![why.to_owned()], ..Self::of(place) }
    }

    fn blame(&mut self, right: bool, problem: impl FnOnce() -> String) {
        if !right {
            self.problems.push(problem());
        }
    }

    /// Notes what was left behind.
    fn leave(&mut self, left: &str) {
        if !left.is_empty() {
            self.left = format!("{} {left}", self.left).trim().to_owned();
            self.problems.push(format!("left behind: {left}"));
        }
    }

    fn era(&self) -> &'static str {
        match self.place.era {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }

    fn summary(&self) -> String {
        let Place { row, transport, .. } = self.place;
        let overshoot = self.overshoot.map_or_else(|| "no".to_owned(), |over| format!("{:.0} ms", ms(over)));
        let head =
            format!("{} over {} by a {} client: {}", row.test, transport.name(), self.era(), self.seen);
        let tail =
            if self.problems.is_empty() { "as it should".to_owned() } else { self.problems.join("; ") };
        format!("{head}, {overshoot} overshoot, neighbour {:.0} ms: {tail}", ms(self.neighbour))
    }

    /// Writes the file of this cell, where reports are wanted.
    fn write(&self) {
        let Some(directory) = std::env::var_os(REPORT).map(PathBuf::from) else { return };
        let Place { row, transport, cells, .. } = self.place;
        let report = json!({
            "row": row.row,
            "class": row.class.name(),
            "transport": transport.name(),
            "era": self.era(),
            "expected": shown(cells.ending),
            "seen": self.seen,
            "ok": self.problems.is_empty(),
            "overshoot_ms": self.overshoot.map(ms),
            "neighbour_p99_ms": ms(self.neighbour),
            "left": self.left,
            "problems": self.problems,
        });
        let file = directory.join(format!("{}-{}-{}.json", row.test, transport.name(), self.era()));
        fs::write(file, format!("{report}\n")).expect("the directory for reports can be written");
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a task that panicked said.
fn why(error: JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// One misbehaving server.
struct Bad {
    upstream: Upstream,
    tag: String,
    /// What its client leaves running, where it is one of a container.
    _container: Option<(Process, TempDir)>,
}

impl Bad {
    async fn start(Place { row, transport, .. }: Place) -> Self {
        let name = transport.name();
        let tag = format!("chaos-{}-{name}-{}", row.test, std::process::id());
        let container = row.container.then(|| {
            let directory = tempfile::tempdir().expect("there is room for temporary files");
            let arguments = ["--linger", "--tag", &tag];
            let process = Process::run("container", binary("misbehave"), arguments, &[], directory.path());
            (process, directory)
        });
        let mut keys = vec![
            format!("timeout = \"{0}ms\"\nlist_timeout = \"{0}ms\"", TIMEOUT.as_millis()),
            format!("start_timeout = \"{}\"", row.start_timeout),
            row.keys.to_owned(),
        ];
        if !row.keys.contains("retries") {
            // The model says how a connector ends, and a second try would hide that; retries have tests of their own.
            keys.push("retries = { max = 0 }".to_owned());
        }
        if transport == Transport::Stdio {
            keys.push("stop_grace = \"300ms\"".to_owned());
        }
        if let Some((process, _)) = &container {
            keys.push(format!("stop = [\"sh\", \"-c\", \"kill -KILL {}\"]", process.pid()));
        }
        // Known before the tools are listed, so that no ending hangs on that.
        for tool in ["echo", "sleep", "crash_read"] {
            keys.push(format!("[servers.{name}.tools.{tool}]\neffects = \"none\""));
        }
        let mut flags = vec!["--all", "--tag", &tag];
        flags.extend_from_slice(row.flags);
        let upstream = Upstream::start(transport, name, &flags, &keys.join("\n")).await;
        Self { upstream, tag, _container: container }
    }

    /// How often a call of the tool has reached it.
    fn calls(&self, tool: &str) -> usize {
        self.upstream.record().calls(tool).len()
    }

    /// How often it has been opened.
    fn starts(&self) -> usize {
        let opens =
            |entry: &&Value| matches!(entry["method"].as_str(), Some("initialize" | "server/discover"));
        self.upstream.record().entries().iter().filter(opens).count()
    }
}

/// What the cells of a group share.
struct Scene {
    daemon: Daemon,
    /// When the daemon, and so the first process of any upstream, had not started yet.
    since: Instant,
    bad: Vec<Bad>,
}

/// Runs the cells of a group side by side, then looks at what is left.
async fn together(places: Vec<Place>) -> Vec<Report> {
    let row = places[0].row;
    let mut bad = Vec::new();
    for place in &places {
        bad.push(Bad::start(*place).await);
    }
    let tables: String = bad.iter().map(|bad| bad.upstream.table()).collect();
    let since = Instant::now();
    let daemon = Daemon::start(&format!("{}{}{tables}", row.limits, well())).await;
    until_it_answers(&Client::modern(&daemon.url("/mcp"), None), "well__echo").await;
    let scene = Rc::new(Scene { daemon, since, bad });

    let cells: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(at, place)| (*place, spawn_local(cell(*place, at, Rc::clone(&scene)))))
        .collect();
    let mut reports = Vec::new();
    for (place, task) in cells {
        reports.push(task.await.unwrap_or_else(|error| Report::broken(place, &why(error))));
    }

    let Scene { mut daemon, bad, .. } = Rc::into_inner(scene).expect("every cell is over");
    let unsettled = unsettled(&daemon).await;
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    for (report, bad) in reports.iter_mut().zip(&bad) {
        report.leave(&unsettled);
        if report.place.transport == Transport::Stdio {
            let gone = until(SETTLED, async || processes(&bad.tag).is_empty()).await;
            if !gone {
                report.leave(&format!("processes {:?}", processes(&bad.tag)));
            }
        }
    }
    if reports.iter().any(|report| !report.problems.is_empty()) {
        note(&daemon.log());
    }
    reports
}

/// What the daemon still holds though nothing goes on; nothing, as it should be.
async fn unsettled(daemon: &Daemon) -> String {
    let mut left = Vec::new();
    until(SETTLED, async || {
        let status = daemon.status().await;
        left.clear();
        if status["permits"].as_array().is_none_or(|permits| !permits.is_empty()) {
            left.push(format!("permits {}", status["permits"]));
        }
        if status["pending"] != 0 {
            left.push(format!("pending {}", status["pending"]));
        }
        let defunct = defunct(daemon.pid());
        if !defunct.is_empty() {
            left.push(format!("defunct {defunct:?}"));
        }
        left.is_empty()
    })
    .await;
    left.join(", ")
}

/// Whether the condition comes to hold in time.
async fn until(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition().await {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}

async fn until_it_answers(client: &Client, echo: &str) {
    let arguments = json!({"text": "ready"});
    eventually(&format!("{echo} answers"), PATIENCE, async || {
        shown_text(&client.call(echo, &arguments).await) == Some("ready")
    })
    .await;
}

/// One misdeed over one transport.
async fn cell(place: Place, which: usize, scene: Rc<Scene>) -> Report {
    let Place { row, transport, era, cells } = place;
    let bad = &scene.bad[which];
    let client = open(row.client, era, &scene.daemon.url("/mcp")).await;
    let tool = |tool: &str| format!("{}__{tool}", transport.name());
    let mut report = Report::of(place);

    if row.warm {
        until_it_answers(&client, &tool("echo")).await;
    }
    let defined = if row.redefined { described(&client, &tool("echo")).await } else { None };
    if let Some(before) = row.before {
        let set = seen(Some(&client.call(&tool(before), "{}").await));
        report.blame(set == "result", || format!("the trap was not set, {before} ended with {set}"));
    }
    let opened = bad.starts();
    let watched = match row.stays {
        Stays::Free => None,
        Stays::Alone | Stays::Talking => Some(client.call(&tool("pid"), "{}").await.said().to_owned()),
    };
    let reached = row.does.tool().map_or(0, |tool| bad.calls(tool));
    let mut there = processes(&bad.tag);

    let over = Cell::new(false);
    let acting = async {
        let acted = Box::pin(act(place, bad, &scene, &client)).await;
        over.set(true);
        acted
    };
    let (acted, (neighbour, upset)) = tokio::join!(acting, neighbour(&scene.daemon, &over));

    report.neighbour = neighbour;
    report.blame(upset.is_none(), || format!("the neighbour was told {}", upset.unwrap_or_default()));
    report.blame(neighbour <= PROMPT + ALLOWANCE, || format!("the neighbour waited {neighbour:?}"));
    judge(&mut report, acted);
    if let Some(times) = row.reaches {
        let reached = row.does.tool().map_or(0, |tool| bad.calls(tool)) - reached;
        report.blame(reached == times, || format!("it reached the upstream {reached} times, not {times}"));
    }

    if let Some(pid) = watched {
        let problem = stayed(row.stays, &scene.daemon, &client, transport.name(), &pid).await;
        report.problems.extend(problem);
    }
    if row.replaced {
        there.extend(processes(&bad.tag));
    }
    let echo = tool("echo");
    match cells.after {
        After::Works => {
            let mut met = String::new();
            let works = until(RECOVERED, async || {
                let answer = client.call(&echo, ECHO).await;
                met = seen(Some(&answer));
                shown_text(&answer) == Some("here")
            });
            report.blame(works.await, || format!("it does not work afterwards: {met}"));
        }
        After::Fault(code) => {
            let answer = client.call(&echo, ECHO).await;
            let met = seen(Some(&answer));
            report.blame(met.starts_with(code), || format!("afterwards comes {met}, not {code}"));
            report.blame(answer.elapsed <= SOON + ALLOWANCE, || {
                format!("afterwards {met} takes {:?}", answer.elapsed)
            });
        }
        After::Nobody(_) => {}
    }
    if row.replaced {
        let gone = until(RECOVERED, async || processes(&bad.tag).is_disjoint(&there)).await;
        report.blame(gone, || format!("still there: {:?} of {there:?}", processes(&bad.tag)));
    }
    if row.redefined {
        report.problems.extend(redefined(&scene.daemon, &client, transport.name(), defined).await);
    }
    let starts = bad.starts();
    let right = match row.starts {
        Starts::Any => starts..=starts,
        Starts::AtMost(most) => 1..=most,
        Starts::OnceMore => opened + 1..=opened + 1,
        // The time is looked at after the starts were counted.
        // Seawall's own look at the server runs beside the first calls: one start may be under way twice.
        Starts::Braked => 1..=model::braked_starts(scene.since.elapsed()) + 1,
    };
    report.blame(right.contains(&starts), || format!("it was started {starts} times, {right:?} are right"));
    if era == Era::Legacy {
        client.delete().await;
    }
    report
}

/// What the client is told that a tool does.
async fn described(client: &Client, name: &str) -> Option<String> {
    let listing = client.list().await;
    let mut tools = listing.pages.iter().filter_map(|page| page["result"]["tools"].as_array()).flatten();
    let tool = tools.find(|tool| tool["name"] == *name)?;
    tool["description"].as_str().map(str::to_owned)
}

/// Waits until the client is told something else of the echo than before, and the daemon shows that it has changed;
/// says what does not come to be.
async fn redefined(daemon: &Daemon, client: &Client, name: &str, before: Option<String>) -> Option<String> {
    let echo = format!("{name}__echo");
    if before.is_none() {
        return Some(format!("{echo} was not listed before"));
    }
    let told = until(RECOVERED, async || {
        let now = described(client, &echo).await;
        now.is_some() && now != before
    });
    if !told.await {
        return Some(format!("{echo} is still described as before: {before:?}"));
    }
    let said = at(daemon, &["tools", "diff", name, "echo", "--json"]).await;
    let changed = said.code == 0 && said.json()[0]["state"] == "changed";
    (!changed).then(|| format!("the change of {echo} is not shown: {said:?}"))
}

/// A client that can be asked what the row says.
async fn open(can: model::Client, era: Era, url: &str) -> Client {
    let name = json!({"result": {"action": "accept", "content": {"name": "Ada"}}});
    let asked = |able: Value, method: &'static str, response: Value| async move {
        Client::legacy_able(url, None, &able).await.responding(method, response)
    };
    match can {
        model::Client::Mute => Client::open(era, url, None).await,
        model::Client::Named => asked(json!({"elicitation": {}}), "elicitation/create", name).await,
        model::Client::Slow => {
            let client = asked(json!({"elicitation": {}}), "elicitation/create", name).await;
            client.thinking_for(TIMEOUT + Duration::from_secs(1))
        }
        model::Client::Rooted => {
            asked(json!({"roots": {}}), "roots/list", json!({"result": {"roots": []}})).await
        }
    }
}

/// Calls the neighbour until the misdeed is over; gives its p99, which of less than a hundred calls is that of the
/// second slowest, and what it was told instead of its echo.
async fn neighbour(daemon: &Daemon, over: &Cell<bool>) -> (Duration, Option<String>) {
    let client = Client::modern(&daemon.url("/mcp"), None);
    let (mut times, mut upset) = (Vec::new(), None);
    while times.len() < NEIGHBOURLY || !over.get() {
        let answer = client.call("well__echo", ECHO).await;
        if shown_text(&answer) != Some("here") {
            upset = Some(seen(Some(&answer)));
        }
        times.push(answer.elapsed);
        sleep(PAUSE).await;
    }
    times.sort();
    let rank = (times.len() * 99).div_ceil(100).min(times.len() - 1);
    (times[rank - 1], upset)
}

/// What came of a call that misbehaves, and of its sibling.
#[derive(Default)]
struct Acted {
    answer: Option<Answer>,
    /// The progress token of the call, where it was given one.
    token: Option<u64>,
    sibling: Option<Answer>,
    problems: Vec<String>,
}

/// Has the upstream misbehave, and calls another tool of it meanwhile.
async fn act(place: Place, bad: &Bad, scene: &Scene, client: &Client) -> Acted {
    let Place { row, transport, era, cells } = place;
    let tool = |tool: &str| format!("{}__{tool}", transport.name());
    let url = scene.daemon.url("/mcp");
    let mut acted = Acted::default();
    let mut sibling = None;
    if let Sibling::InFlight(_) = cells.sibling {
        sibling = Some(client.start_call(&tool("sleep"), &json!({"ms": 1000})));
        bad.upstream.record().until_called("sleep").await;
    }
    let called = || match cells.sibling {
        Sibling::Called(_) => Some(client.start_call(&tool("echo"), ECHO)),
        Sibling::InFlight(_) | Sibling::Nobody(_) => None,
    };
    match row.does {
        Does::Call(name, arguments) => {
            let unread = match row.meanwhile {
                Meanwhile::SlowReader => Some(unread_stream(&scene.daemon, client).await),
                Meanwhile::Nothing | Meanwhile::Cancel | Meanwhile::Restart | Meanwhile::Remove => None,
            };
            let arguments = arguments.replace("BIG", &"x".repeat(BIG));
            let call = client.start_call_with_progress(&tool(name), &arguments);
            acted.token = Some(call.id());
            let waits = cells.ending.at_deadline() || row.meanwhile != Meanwhile::Nothing;
            if waits && row.reaches != Some(0) {
                bad.upstream.record().until_called(name).await;
            }
            sibling = sibling.or_else(called);
            acted.answer = meanwhile(row, &scene.daemon, transport.name(), call).await;
            if row.meanwhile == Meanwhile::Cancel {
                let told = until(SOON + ALLOWANCE, async || taken_back(bad, transport, name)).await;
                if !told {
                    acted.problems.push("its upstream did not learn that it was taken back".to_owned());
                }
            }
            drop(unread);
        }
        Does::List => {
            let own = Client::open(era, &scene.daemon.url(&format!("/mcp/{}", transport.name())), None).await;
            if era == Era::Modern {
                // The other era has opened the upstream with its session.
                own.request("server/discover", "{}").await;
            }
            let list = own.start("tools/list", "{}");
            sibling = called();
            let all = client.list().await;
            if !all.has("well__echo") {
                acted.problems.push(format!("the neighbour is not listed: {:?}", all.names));
            }
            acted.answer = Some(list.answer().await);
        }
        Does::Together(name, times) => {
            let calls: Vec<Call> = (0..times).map(|_| client.start_call(&tool(name), "{}")).collect();
            let mut texts = BTreeSet::new();
            for call in calls {
                let answer = call.answer().await;
                texts.insert(shown_text(&answer).map_or_else(|| seen(Some(&answer)), str::to_owned));
                acted.answer = Some(answer);
            }
            if texts.len() != 1 {
                acted.problems.push(format!("the answers differ: {texts:?}"));
            }
        }
        Does::InTurn(times) => {
            let mut told = false;
            for number in 1..=times {
                let answer = client.call(&tool("echo"), ECHO).await;
                let fault = &answer.value["result"]["_meta"]["seawall/fault"];
                told = number > PATIENT && fault["retry_after_ms"].is_u64();
                acted.answer = Some(answer);
                if told {
                    break;
                }
            }
            if !told {
                acted.problems.push(format!("none of {times} is told when to try again"));
            }
        }
        Does::Twins => {
            let (one, two) = (Client::open(era, &url, None).await, Client::open(era, &url, None).await);
            let twin = |client: &Client, text: &str| {
                client.start_call_with_progress(&tool("echo_late"), &json!({"text": text, "ms": 300}))
            };
            let (first, second) = (twin(&one, "own"), twin(&two, "other"));
            if first.id() != second.id() {
                acted.problems.push(format!("the ids differ: {} and {}", first.id(), second.id()));
            }
            sibling = called();
            acted.token = Some(first.id());
            let other = second.answer().await;
            if shown_text(&other) != Some("other") {
                acted.problems.push(format!("the other one was told {}", seen(Some(&other))));
            }
            acted.answer = Some(first.answer().await);
        }
    }
    if let Some(sibling) = sibling {
        acted.sibling = Some(sibling.answer().await);
    }
    acted
}

/// Does what the row does besides, and waits for the answer, where there is to be one.
async fn meanwhile(row: &Row, daemon: &Daemon, name: &str, call: Call) -> Option<Answer> {
    match row.meanwhile {
        Meanwhile::Nothing | Meanwhile::SlowReader => {}
        // Beyond the deadline, at which a call that was not taken back would be answered.
        Meanwhile::Cancel => return call.cancel_and_read_on(TIMEOUT + PROMISED + ALLOWANCE).await,
        Meanwhile::Restart => daemon.restart(name).await,
        Meanwhile::Remove => {
            eventually("the call waits for its upstream", PATIENCE, async || {
                let status = daemon.status().await;
                let permits = status["permits"].as_array();
                permits.is_some_and(|permits| permits.iter().any(|permit| permit["upstream"] == *name))
            })
            .await;
            daemon.configure(&format!("{}{}", row.limits, well()));
            daemon.signal(Signal::HUP);
        }
    }
    Some(call.answer().await)
}

/// Whether the server has stopped what it did for a call of the tool, as its transport has it stop: because it was
/// told to, or because the stream was closed.
fn taken_back(bad: &Bad, transport: Transport, tool: &str) -> bool {
    let event = if transport == Transport::ModernHttp { "stream_closed" } else { "cancelled" };
    let calls = bad.upstream.record().calls(tool);
    let entries = bad.upstream.record().entries();
    entries.iter().any(|entry| entry["event"] == event && calls.iter().any(|call| call["id"] == entry["id"]))
}

/// The own stream of a legacy session, open and never read.
async fn unread_stream(daemon: &Daemon, client: &Client) -> TcpStream {
    let url = daemon.url("");
    let authority = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).await.expect("the daemon listens");
    let session = client.session().expect("a legacy client has one");
    let request = format!(
        "GET /mcp HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n\
         MCP-Protocol-Version: 2025-11-25\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("the daemon reads");
    stream
}

/// Compares what came with what is right.
fn judge(report: &mut Report, acted: Acted) {
    let Place { row, cells, .. } = report.place;
    report.problems.extend(acted.problems);
    report.seen = seen(acted.answer.as_ref());
    compare(report, "it", cells.ending, acted.answer.as_ref());
    if let Some(answer) = &acted.answer {
        if cells.ending.at_deadline() {
            report.overshoot = Some(answer.elapsed.saturating_sub(TIMEOUT));
        }
        let foreign: Vec<_> = answer
            .heard("notifications/progress")
            .into_iter()
            .filter(|progress| acted.token.is_some_and(|token| progress["progressToken"] != token))
            .collect();
        report.blame(foreign.is_empty(), || format!("it heard of another's progress: {foreign:?}"));
        let told = row.says.is_empty() || answer.text.contains(row.says);
        report.blame(told, || format!("{:?} is not in {}", row.says, answer.text));
    }
    match cells.sibling {
        Sibling::Called(ending) | Sibling::InFlight(ending) => {
            compare(report, "its sibling", ending, acted.sibling.as_ref());
        }
        Sibling::Nobody(_) => {}
    }
}

fn compare(report: &mut Report, who: &str, ending: Ending, answer: Option<&Answer>) {
    let seen = seen(answer);
    report.blame(seen == shown(ending), || format!("{who} ended with {seen}, not {}", shown(ending)));
    if let Ending::Result(part) = ending
        && seen == shown(ending)
    {
        let text = answer.and_then(shown_text).unwrap_or_default();
        report.blame(text.contains(part), || format!("{part:?} is not in what {who} returned: {text:.200}"));
    }
    let Some(elapsed) = answer.map(|answer| answer.elapsed) else { return };
    if ending.at_deadline() {
        report.blame(elapsed >= TIMEOUT, || format!("{who} was cut short after {elapsed:?}"));
        report.blame(elapsed <= TIMEOUT + PROMISED + ALLOWANCE, || format!("{who} took {elapsed:?}"));
    } else {
        let takes = Duration::from_millis(report.place.row.takes_ms);
        // One in turn may wait for those before it to be over.
        report.blame(elapsed <= takes + SOON + ALLOWANCE, || format!("{who} took {elapsed:?}"));
    }
}

/// Watches a process that has to stay; says why it did not.
async fn stayed(stays: Stays, daemon: &Daemon, client: &Client, name: &str, pid: &str) -> Option<String> {
    let (echo, whose) = (format!("{name}__echo"), format!("{name}__pid"));
    if name == Transport::Stdio.name() {
        let replaced = until(WATCHED, async || {
            if stays == Stays::Talking {
                client.call(&echo, ECHO).await;
            }
            let status = daemon.status().await;
            let upstreams = status["upstreams"].as_array().into_iter().flatten();
            let mut instances = upstreams
                .filter(|upstream| upstream["name"] == *name)
                .filter_map(|upstream| upstream["instances"].as_array())
                .flatten();
            !instances
                .any(|instance| instance["pid"].as_u64().is_some_and(|number| number.to_string() == pid))
        });
        if replaced.await {
            return Some(format!("the process {pid} was replaced"));
        }
    }
    let now = timeout(PATIENCE, client.call(&whose, "{}")).await.ok()?;
    let now = shown_text(&now).map_or_else(|| seen(Some(&now)), str::to_owned);
    (now != pid).then(|| format!("the process {pid} became {now}"))
}

/// The processes with this tag among their arguments, each with the time of its start.
fn processes(tag: &str) -> BTreeSet<(u32, u64)> {
    let has_tag = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == tag.as_bytes())
    };
    let test = std::process::id();
    pids()
        .filter(|pid| *pid != test && has_tag(pid))
        // One that has ended since has no time of its start.
        .filter_map(|pid| Some((pid, stat(pid)?.get(19)?.parse().ok()?)))
        .collect()
}

/// The children of a process that have ended and were not waited for.
fn defunct(parent: u32) -> Vec<u32> {
    let is_one =
        |pid: &u32| stat(*pid).is_some_and(|stat| stat.starts_with(&["Z".to_owned(), parent.to_string()]));
    pids().filter(is_one).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The fields of a process behind its name, its state first.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
