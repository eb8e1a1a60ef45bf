//! `cargo xtask bench`: what a call through Seawall costs, held against the proxies beside it.
//!
//! Proxies share a machine with their client and their upstream, so absolute times say little. Every figure is
//! a ratio or a difference within one round, reported as the median of the rounds, next to a control: the same
//! figure for one thing measured twice. Everything listens on loopback and ends with the run.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write, stderr, stdout};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::rig::{at, emptied, free_port, median, target_directory};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
const CLIENTS: usize = 16;
/// The bytes of each echo's text.
const ECHO: &str = "64";
const PEER: &str = "mcp-proxy";
const PEER_VERSION: &str = "0.6.0";
const TOKEN: &str = "bench-token";
/// What Seawall's configuration has of the token: its SHA-256.
const TOKEN_HASH: &str = "7137e16f75a1d75b6fd65930672814806cdc1a0d6e0aa38611afc996a402258b";
/// How often something is looked at while it starts or ends, and how many times before giving up.
const TICK: Duration = Duration::from_millis(20);
const TICKS_TO_START: usize = 1000;
const TICKS_TO_END: usize = 250;

/// What stands between client and upstream.
#[derive(Clone, Copy)]
enum Kind {
    Direct,
    Nginx,
    Bare,
    Seawall,
    SeawallStdio,
    PeerStdio,
}

impl Kind {
    /// The eras measured. The peer that fronts stdio speaks the older one only.
    fn eras(self) -> &'static [&'static str] {
        if self.fronts_stdio() { &[LEGACY] } else { &[MODERN, LEGACY] }
    }

    fn fronts_stdio(self) -> bool {
        matches!(self, Self::SeawallStdio | Self::PeerStdio)
    }
}

/// What each round measures; those named "again" are the controls.
const SUBJECTS: [(&str, Kind); 9] = [
    ("direct", Kind::Direct),
    ("nginx", Kind::Nginx),
    ("bare proxy", Kind::Bare),
    ("seawall", Kind::Seawall),
    ("seawall, stdio", Kind::SeawallStdio),
    ("mcp-proxy, stdio", Kind::PeerStdio),
    ("direct, again", Kind::Direct),
    ("bare proxy, again", Kind::Bare),
    ("mcp-proxy, stdio, again", Kind::PeerStdio),
];

/// Measures every subject in turn, prints the figures, and fails where a bound is missed.
///
/// Arguments: `--rounds N` (5), `--seconds S` of each measurement (4), `--json`.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let bench = Bench::prepare(options.seconds)?;
    let mut figures = Figures::default();
    for number in 0..options.rounds.get() {
        bench.round(number, &mut figures)?;
    }
    let rows = figures.rows();
    let text = if options.json { as_json(&options, &figures, &rows) } else { as_table(&figures, &rows) };
    writeln!(stdout(), "{text}").map_err(|error| format!("cannot print the figures: {error}"))?;
    let missed: Vec<_> = rows.iter().filter(|row| !row.passed()).map(|row| row.what).collect();
    if missed.is_empty() { Ok(()) } else { Err(format!("bounds missed: {}", missed.join("; "))) }
}

struct Options {
    rounds: NonZeroUsize,
    seconds: f64,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let rounds = const { NonZeroUsize::new(5).expect("five is not zero") };
        let mut options = Self { rounds, seconds: 4.0, json: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let bad = |error: &dyn std::fmt::Display| format!("{word}: {error}");
            match word.as_str() {
                "--json" => options.json = true,
                "--rounds" => {
                    options.rounds = value()?.parse::<NonZeroUsize>().map_err(|error| bad(&error))?
                }
                "--seconds" => options.seconds = value()?.parse::<f64>().map_err(|error| bad(&error))?,
                _ => return Err(format!("{word} is not known; there are --rounds, --seconds and --json")),
            }
        }
        if !(0.5..=600.0).contains(&options.seconds) {
            return Err("--seconds must be between 0.5 and 600".to_owned());
        }
        Ok(options)
    }
}

/// What was measured of one subject, with the era it was measured in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Measure {
    /// µs of the proxy's CPU time per call.
    Cpu(&'static str),
    /// Calls per second over all clients.
    Rate(&'static str),
    /// The median latency at one connection, in µs.
    Latency,
}

/// One value per round, in the order of the rounds.
#[derive(Default)]
struct Figures(BTreeMap<(&'static str, Measure), Vec<f64>>);

struct Row {
    what: &'static str,
    unit: &'static str,
    figure: f64,
    /// What the figure may be at most; without one it is for information.
    bound: Option<f64>,
    control: f64,
}

impl Row {
    fn passed(&self) -> bool {
        self.bound.is_none_or(|bound| self.figure <= bound)
    }
}

impl Figures {
    fn add(&mut self, subject: &'static str, measure: Measure, value: f64) {
        self.0.entry((subject, measure)).or_default().push(value);
    }

    fn rounds(&self, subject: &'static str, measure: Measure) -> &[f64] {
        self.0.get(&(subject, measure)).map_or(&[], Vec::as_slice)
    }

    /// The median over the rounds of what `compare` makes of two subjects in the same round.
    fn compared(
        &self,
        of: &'static str,
        to: &'static str,
        measure: Measure,
        compare: fn(f64, f64) -> f64,
    ) -> f64 {
        let pairs = self.rounds(of, measure).iter().zip(self.rounds(to, measure));
        median(pairs.map(|(of, to)| compare(*of, *to)).collect())
    }

    fn ratio(&self, of: &'static str, to: &'static str, era: &'static str) -> f64 {
        self.compared(of, to, Measure::Cpu(era), |of, to| of / to)
    }

    fn rows(&self) -> Vec<Row> {
        let http = |what, of, to, era, bound| Row {
            what,
            unit: "x",
            figure: self.ratio(of, to, era),
            bound,
            control: self.ratio("bare proxy, again", "bare proxy", era),
        };
        let added = |of| self.compared(of, "direct", Measure::Latency, |of, to| of - to);
        vec![
            http("CPU, seawall / bare proxy, 2026-07-28", "seawall", "bare proxy", MODERN, Some(1.7)),
            http("CPU, seawall / nginx, 2026-07-28", "seawall", "nginx", MODERN, Some(2.5)),
            http("CPU, bare proxy / nginx, 2026-07-28", "bare proxy", "nginx", MODERN, Some(1.8)),
            http("CPU, seawall / bare proxy, 2025-11-25", "seawall", "bare proxy", LEGACY, None),
            http("CPU, seawall / nginx, 2025-11-25", "seawall", "nginx", LEGACY, None),
            http("CPU, bare proxy / nginx, 2025-11-25", "bare proxy", "nginx", LEGACY, None),
            Row {
                what: "p50 at one connection, seawall - direct",
                unit: "µs",
                figure: added("seawall"),
                bound: Some(100.0),
                control: added("direct, again"),
            },
            Row {
                what: "CPU, seawall / mcp-proxy, shared stdio child",
                unit: "x",
                figure: self.ratio("seawall, stdio", "mcp-proxy, stdio", LEGACY),
                bound: Some(0.7),
                control: self.ratio("mcp-proxy, stdio, again", "mcp-proxy, stdio", LEGACY),
            },
        ]
    }
}

fn as_table(figures: &Figures, rows: &[Row]) -> String {
    let mut lines =
        vec![format!("{:<46} {:>9} {:>9} {:>9}", "median of the rounds", "figure", "bound", "control")];
    for row in rows {
        let digits = if row.unit == "x" { 2 } else { 0 };
        let number = |value: f64| format!("{value:.digits$} {}", row.unit);
        let bound = row.bound.map_or_else(|| "-".to_owned(), number);
        let verdict = match row.bound {
            None => "",
            Some(_) if row.passed() => "pass",
            Some(_) => "FAIL",
        };
        let (what, figure, control) = (row.what, number(row.figure), number(row.control));
        lines.push(format!("{what:<46} {figure:>9} {bound:>9} {control:>9}  {verdict}"));
    }
    lines.push(format!(
        "\n{:<24} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "16 clients, 64 B echo", "CPU µs/call", "older era", "calls/s", "older era", "1 client p50"
    ));
    for (name, _) in SUBJECTS {
        let cell = |measure| {
            let value = median(figures.rounds(name, measure).to_vec());
            if value.is_nan() { "-".to_owned() } else { format!("{value:.1}") }
        };
        lines.push(format!(
            "{name:<24} {:>11} {:>11} {:>11} {:>11} {:>11}",
            cell(Measure::Cpu(MODERN)),
            cell(Measure::Cpu(LEGACY)),
            cell(Measure::Rate(MODERN)),
            cell(Measure::Rate(LEGACY)),
            cell(Measure::Latency),
        ));
    }
    lines.join("\n")
}

fn as_json(options: &Options, figures: &Figures, rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({"what": row.what, "unit": row.unit, "figure": row.figure, "bound": row.bound,
                   "control": row.control, "passed": row.bound.map(|_| row.passed())})
        })
        .collect();
    let rounds: Vec<_> = figures
        .0
        .iter()
        .map(|((subject, measure), values)| {
            let (measure, era) = match measure {
                Measure::Cpu(era) => ("cpu_us_per_call", *era),
                Measure::Rate(era) => ("calls_per_s", *era),
                Measure::Latency => ("p50_us", MODERN),
            };
            json!({"subject": subject, "measure": measure, "era": era, "rounds": values})
        })
        .collect();
    let seconds = options.seconds;
    format!(
        "{:#}",
        json!({"rounds": options.rounds, "seconds": seconds, "figures": rows, "measured": rounds})
    )
}

/// Where everything is that a round needs.
struct Bench {
    /// The folder of the release binaries.
    binaries: PathBuf,
    peer: PathBuf,
    scratch: PathBuf,
    seconds: f64,
    /// The kernel's clock ticks per second, in which it tells CPU time.
    clock: f64,
}

/// A subject that has started, or the upstream itself.
struct Server {
    url: String,
    token: bool,
    process: Option<Running>,
}

impl Bench {
    /// Builds what is ours and installs what is not.
    fn prepare(seconds: f64) -> Result<Self, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace has no folder")?;
        let target = target_directory();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--release", "-p", "seawall", "-p", "seawall-bench"];
        succeed(Command::new(&cargo).args(build).current_dir(root))?;
        install_nginx()?;
        let peers = target.join("peers");
        let installed = fs::read_to_string(peers.join(".crates.toml")).unwrap_or_default();
        if !installed.contains(&format!("\"{PEER} {PEER_VERSION} ")) {
            let install = ["install", PEER, "--version", PEER_VERSION, "--locked", "--root"];
            succeed(Command::new(&cargo).args(install).arg(&peers).current_dir(root))?;
        }
        let scratch = target.join("bench");
        emptied(&scratch)?;
        let binaries = target.join("release");
        // The kernel names running programs by their resolved paths.
        let binaries = fs::canonicalize(&binaries).map_err(at(&binaries))?;
        let ticks =
            Command::new("getconf").arg("CLK_TCK").output().map_err(|error| format!("getconf: {error}"))?;
        let ticks = String::from_utf8_lossy(&ticks.stdout).trim().parse::<f64>();
        let clock = ticks.map_err(|error| format!("getconf CLK_TCK: {error}"))?;
        Ok(Self { binaries, peer: peers.join("bin").join(PEER), scratch, seconds, clock })
    }

    /// One round: a new upstream, then every subject in front of it, beginning with another one each time.
    fn round(&self, number: usize, figures: &mut Figures) -> Result<(), String> {
        let folder = self.scratch.join(format!("round-{}", number + 1));
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(self.binaries.join("mcp-bench"));
        let process =
            Running::start(command.args(["upstream", "--listen", &listen]), folder.join("upstream.log"))?;
        let upstream = Server { url: format!("http://{listen}/mcp"), token: false, process: Some(process) };
        self.probe(&upstream, MODERN)?;
        let order =
            SUBJECTS.into_iter().enumerate().cycle().skip(number * 2 % SUBJECTS.len()).take(SUBJECTS.len());
        for (place, (name, kind)) in order {
            let _ = writeln!(stderr(), "round {}: {name}", number + 1);
            let folder = folder.join(place.to_string());
            fs::create_dir_all(&folder).map_err(at(&folder))?;
            let measured = self.start(kind, &upstream.url, &folder).and_then(|server| {
                self.probe(&server, kind.eras()[0])?;
                self.measure(name, kind, &server, figures)
            });
            measured.map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }

    fn measure(
        &self,
        name: &'static str,
        kind: Kind,
        server: &Server,
        figures: &mut Figures,
    ) -> Result<(), String> {
        for &era in kind.eras() {
            // Warming up is a run of its own, so that the CPU time below is that of counted calls.
            self.load(server, era, CLIENTS, 0.0, 1.0)?;
            let before = self.cpu_seconds(server);
            let report = self.load(server, era, CLIENTS, 0.0, self.seconds)?;
            if let (Some(before), Some(after)) = (before, self.cpu_seconds(server)) {
                let calls = number(&report, "/calls")?;
                figures.add(name, Measure::Cpu(era), (after - before) * 1e6 / calls);
            }
            figures.add(name, Measure::Rate(era), number(&report, "/calls_per_s")?);
        }
        if !kind.fronts_stdio() {
            let report = self.load(server, MODERN, 1, 0.5, self.seconds)?;
            figures.add(name, Measure::Latency, number(&report, "/latency_ms/p50")? * 1000.0);
        }
        Ok(())
    }

    fn start(&self, kind: Kind, upstream: &str, folder: &Path) -> Result<Server, String> {
        let port = free_port()?;
        let listen = format!("127.0.0.1:{port}");
        let log = folder.join("log");
        let configure = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(at(&path)).map(|()| path)
        };
        let plain =
            |process, path: &str| Server { url: format!("http://{listen}{path}"), token: false, process };
        let child = quoted(&self.binaries.join("mcp-bench"));
        match kind {
            Kind::Direct => Ok(Server { url: upstream.to_owned(), token: false, process: None }),
            Kind::Nginx => {
                let host = upstream.trim_start_matches("http://").trim_end_matches("/mcp");
                let path = configure("nginx.conf", nginx_config(&listen, host))?;
                let temporary = folder.join("tmp");
                fs::create_dir_all(&temporary).map_err(at(&temporary))?;
                let mut command = Command::new("nginx");
                let process = Running::start(command.arg("-p").arg(folder).arg("-c").arg(path), log)?;
                Ok(plain(Some(process), "/alpha/mcp"))
            }
            Kind::Bare => {
                let mut command = Command::new(self.binaries.join("bare-proxy"));
                let process =
                    Running::start(command.args(["--listen", &listen, "--upstream", upstream]), log)?;
                Ok(plain(Some(process), "/mcp"))
            }
            Kind::PeerStdio => {
                let text = format!(
                    "[proxy]\nname = \"peer\"\nseparator = \"/\"\n\
                     [proxy.listen]\nhost = \"127.0.0.1\"\nport = {port}\n\
                     [[backends]]\nname = \"alpha\"\ntransport = \"stdio\"\n\
                     command = {child}\nargs = [\"upstream\", \"--stdio\"]\n"
                );
                let path = configure("proxy.toml", text)?;
                let mut command = Command::new(&self.peer);
                command.env("RUST_LOG", "error").arg("--config").arg(path);
                Ok(plain(Some(Running::start(&mut command, log)?), "/"))
            }
            Kind::Seawall | Kind::SeawallStdio => {
                let alpha = if kind.fronts_stdio() {
                    format!("command = {child}\nargs = [\"upstream\", \"--stdio\"]\nsharing = \"everyone\"\n")
                } else {
                    format!("url = \"{upstream}\"\n")
                };
                let text = format!(
                    "listen = \"{listen}\"\nstate = {}\n\n\
                     [callers.bench]\ntoken = \"sha256:{TOKEN_HASH}\"\ntools = [\"alpha__*\"]\n\n\
                     [servers.alpha]\n{alpha}",
                    quoted(&folder.join("state"))
                );
                let path = configure("seawall.toml", text)?;
                let mut command = Command::new(self.binaries.join("seawall"));
                let mut process = Running::start(command.args(["serve", "--config"]).arg(path), log)?;
                process.wait_for_health(port)?;
                Ok(Server { url: format!("http://{listen}/mcp"), token: true, process: Some(process) })
            }
        }
    }

    /// Waits until the server lists the tool.
    fn probe(&self, server: &Server, era: &str) -> Result<(), String> {
        self.client(server, &["probe", "--era", era, "--limit", "20"]).map(drop)
    }

    /// Echoes from `clients` connections; any failed call fails the run.
    fn load(
        &self,
        server: &Server,
        era: &str,
        clients: usize,
        warmup: f64,
        seconds: f64,
    ) -> Result<Value, String> {
        let (count, warmup, seconds) = (clients.to_string(), warmup.to_string(), seconds.to_string());
        let report = self.client(
            server,
            &[
                "load",
                "--era",
                era,
                "--bytes",
                ECHO,
                "--clients",
                &count,
                "--warmup",
                &warmup,
                "--duration",
                &seconds,
            ],
        )?;
        let failed = report["errors"].as_object().is_none_or(|errors| !errors.is_empty());
        if failed || report["clients"] != clients {
            return Err(format!("calls failed: {report}{}", server.said()));
        }
        Ok(report)
    }

    /// One `mcp-bench` command's report.
    fn client(&self, server: &Server, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(self.binaries.join("mcp-bench"));
        command.args(arguments).args(["--url", &server.url, "--tool", "alpha/echo"]);
        if server.token {
            command.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        }
        let output = command.output().map_err(|error| format!("cannot run mcp-bench: {error}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}{}", why.trim(), server.said()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("mcp-bench printed no report: {error}"))
    }

    /// The CPU time so far of the server's processes, without those of an upstream that it started.
    fn cpu_seconds(&self, server: &Server) -> Option<f64> {
        let upstream = self.binaries.join("mcp-bench");
        let family = Process::family(server.process.as_ref()?.child.id());
        let own = family.iter().filter(|process| process.program().is_none_or(|program| program != upstream));
        Some(own.map(|process| process.ticks as f64).sum::<f64>() / self.clock)
    }
}

impl Server {
    /// The end of what the server wrote, to go with an error.
    fn said(&self) -> String {
        let log = self.process.as_ref().map(|process| fs::read_to_string(&process.log).unwrap_or_default());
        let lines: Vec<_> = log.as_deref().unwrap_or_default().lines().rev().take(10).collect();
        lines.into_iter().rev().map(|line| format!("\n  {line}")).collect()
    }
}

/// A server process; dropping it ends it and all that it started.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self, String> {
        let output = File::create(&log).map_err(at(&log))?;
        let errors = output.try_clone().map_err(at(&log))?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.map_err(|error| format!("cannot start {command:?}: {error}"))?;
        Ok(Self { child, log })
    }

    fn wait_for_health(&mut self, port: u16) -> Result<(), String> {
        for _ in 0..TICKS_TO_START {
            if healthy(port) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(format!("it ended while starting, {status}:\n{said}"));
            }
            sleep(TICK);
        }
        Err("/healthz did not answer 200 in time".to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = Process::family(self.child.id());
        let left = || family.iter().filter(|process| process.alive());
        if let Ok(None) = self.child.try_wait() {
            signal("-TERM", self.child.id());
        }
        for _ in 0..TICKS_TO_END {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended && left().next().is_none() {
                return;
            }
            sleep(TICK);
        }
        left().for_each(|process| signal("-KILL", process.pid));
        let _ = self.child.wait();
    }
}

fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// A process as /proc shows it.
struct Process {
    pid: u32,
    parent: u32,
    /// When it started, in clock ticks since boot: with the pid it names one process for good.
    started: u64,
    /// The CPU time it has used, in clock ticks.
    ticks: u64,
}

impl Process {
    /// A running process, none once it has ended.
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, so fields count from behind it.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Nobody may ever reap an orphan, but a zombie has ended all the same.
        if fields.first() == Some(&"Z") {
            return None;
        }
        let field = |n: usize| fields.get(n)?.parse::<u64>().ok();
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { pid, parent, started: field(19)?, ticks: field(11)? + field(12)? })
    }

    /// The process and all its descendants.
    fn family(root: u32) -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all = pids.filter_map(Self::read);
        let (mut family, mut others): (Vec<_>, Vec<_>) = all.partition(|process| process.pid == root);
        let mut next = 0;
        while let Some(parent) = family.get(next).map(|process: &Self| process.pid) {
            let (children, rest): (Vec<_>, Vec<_>) =
                others.into_iter().partition(|process| process.parent == parent);
            family.extend(children);
            others = rest;
            next += 1;
        }
        family
    }

    fn alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    fn program(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }
}

fn healthy(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let limit = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let request = format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let mut status = [0; 12];
    limit
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.read_exact(&mut status))
        .is_ok()
        && status == *b"HTTP/1.1 200"
}

fn install_nginx() -> Result<(), String> {
    if Command::new("nginx").arg("-v").output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        succeed(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
    };
    let install = ["install", "-y", "--no-install-recommends", "nginx-light"];
    // The package lists may never have been fetched, or be old.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
}

fn nginx_config(listen: &str, upstream: &str) -> String {
    format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp;\n\
         uwsgi_temp_path tmp; scgi_temp_path tmp; keepalive_requests 100000000;\n\
         upstream alpha {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}\n\
         server {{\n\
         listen {listen};\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;\n\
         location /alpha/ {{ proxy_pass http://alpha/; }}\n\
         }}\n\
         }}\n"
    )
}

/// Runs a command to its end; its output goes to our stderr, so that stdout has the figures alone.
fn succeed(command: &mut Command) -> Result<(), String> {
    match command.stdout(stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} failed: {status}")),
        Err(error) => Err(format!("cannot run {command:?}: {error}")),
    }
}

fn number(report: &Value, pointer: &str) -> Result<f64, String> {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.filter(|value| *value > 0.0).ok_or_else(|| format!("no {pointer} in {report}"))
}

/// A path as a TOML string, which JSON's are as well.
fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy()).to_string()
}
