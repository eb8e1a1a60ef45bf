//! `cargo xtask conformance`: the official suite against our fixture, once direct and once through Seawall.
//! The direct run is the control: every check that passes there must pass through the gateway too, by name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Server, cargo, remove_variables, run_captured, run_visibly};
use crate::provision::{self, Place};

/// Each revision is asked of a fixture that speaks only its era and of one that speaks both.
const CELLS: [(&str, &str); 4] =
    [("2025-11-25", "legacy"), ("2025-11-25", "both"), ("2026-07-28", "modern"), ("2026-07-28", "both")];

/// How long a server may take from its start until it can be used.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long one run of the suite may take; a scenario that hangs is ended by the suite itself after 30 s.
const SUITE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long one request for readiness may take, and the pause between two.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
const READY_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    revision: Option<String>,
    release: bool,
    json: bool,
}

/// One run of the suite. Checks are named `scenario/check`; one that a scenario makes several times counts as
/// often.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    passed: BTreeMap<String, usize>,
    /// Failed checks with what the suite says about them. Not all are required.
    failed: BTreeMap<String, String>,
    /// Whether every scenario that the revision requires passed, by the suite's own verdict.
    required_pass: bool,
}

impl Run {
    fn passes(&self) -> usize {
        self.passed.values().sum()
    }
}

#[derive(Debug)]
struct Comparison {
    revision: &'static str,
    fixture: &'static str,
    direct: Run,
    gateway: Run,
}

impl Comparison {
    /// The checks that pass direct but not, or not as often, through the gateway.
    fn missing(&self) -> Vec<&str> {
        let through = |name: &str| self.gateway.passed.get(name).copied().unwrap_or(0);
        self.direct
            .passed
            .iter()
            .filter(|(name, count)| through(name) < **count)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    fn holds(&self) -> bool {
        self.direct.required_pass && self.gateway.required_pass && self.missing().is_empty()
    }
}

/// Runs the suite for every chosen pair of revision and fixture and compares. It is an error when one does
/// not hold.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let place = provision::ensure()?;
    let binaries = build(options.release)?;
    let results = binaries.target.join("conformance");

    let mut comparisons = Vec::new();
    for (revision, fixture) in CELLS {
        if options.revision.as_deref().is_none_or(|wanted| wanted == revision) {
            let directory = results.join(format!("{revision}-{fixture}"));
            eprintln!("conformance: {revision}, fixture {fixture}");
            comparisons.push(compare(revision, fixture, &place, &binaries, &directory)?);
        }
    }

    if options.json {
        println!("{:#}", as_json(&comparisons));
    } else {
        print!("{}", table(&comparisons));
    }
    let broken = comparisons.iter().filter(|comparison| !comparison.holds()).count();
    if broken == 0 {
        return Ok(());
    }
    Err(format!(
        "conformance: {broken} of {} pairs do not hold; logs are in {}",
        comparisons.len(),
        results.display()
    ))
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--release" => options.release = true,
            "--revision" => {
                let given = rest.next().ok_or("--revision needs a value")?;
                if !CELLS.iter().any(|(revision, _)| revision == given) {
                    return Err(format!("--revision is 2025-11-25 or 2026-07-28, not `{given}`"));
                }
                options.revision = Some(given.clone());
            }
            other => return Err(format!("`conformance` does not know `{other}`")),
        }
    }
    Ok(options)
}

#[derive(Debug)]
struct Binaries {
    target: PathBuf,
    gateway: PathBuf,
    fixture: PathBuf,
}

fn build(release: bool) -> Result<Binaries, String> {
    let mut command = cargo();
    command.args(["build", "--package", "seawall", "--package", "seawall-fixture", "--bins"]);
    if release {
        command.arg("--release");
    }
    if !run_visibly(&mut command)?.success() {
        return Err("the build failed".to_owned());
    }
    let metadata = run_captured(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    let target = PathBuf::from(target);
    let profile = target.join(if release { "release" } else { "debug" });
    Ok(Binaries { gateway: profile.join("seawall"), fixture: profile.join("conformance-fixture"), target })
}

fn compare(
    revision: &'static str,
    fixture: &'static str,
    place: &Place,
    binaries: &Binaries,
    directory: &Path,
) -> Result<Comparison, String> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;

    let direct = {
        let (_fixture, url) = start_fixture(binaries, fixture, &directory.join("direct-fixture.log"))?;
        suite(place, revision, &url, &directory.join("direct"))?
    };
    // A fixture of its own: what the control left behind in one must not show in the other. Declared before
    // the gateway, and so ended after it.
    let (_fixture, url) = start_fixture(binaries, fixture, &directory.join("gateway-fixture.log"))?;
    let (_gateway, url) = start_gateway(binaries, &url, directory)?;
    let gateway = suite(place, revision, &url, &directory.join("gateway"))?;
    Ok(Comparison { revision, fixture, direct, gateway })
}

/// Starts the fixture and returns it with the address it announces.
fn start_fixture(binaries: &Binaries, era: &str, log: &Path) -> Result<(Server, String), String> {
    let mut command = Command::new(&binaries.fixture);
    command.args(["--listen", "127.0.0.1:0", "--era", era]);
    let mut server = Server::start("conformance-fixture", &mut command, log, true)?;
    let output = server.take_output().ok_or("the fixture's output is not piped")?;

    let (announce, announced) = mpsc::channel();
    thread::spawn(move || {
        // Read to its end, so that the fixture never waits for a reader. Nobody may be waiting for the
        // address any more.
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("listening on ") {
                announce.send(url.trim().to_owned()).ok();
            }
        }
    });
    match announced.recv_timeout(START_LIMIT) {
        Ok(url) => Ok((server, url)),
        Err(_) => Err(server.failure("did not say where it listens")),
    }
}

/// Starts the gateway in front of `upstream` and returns it, ready, with the address that has plain tool
/// names.
fn start_gateway(binaries: &Binaries, upstream: &str, directory: &Path) -> Result<(Server, String), String> {
    let port = free_port()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let config = directory.join("seawall.toml");
    let text = config_text(address, &directory.join("state"), upstream);
    fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;

    let mut command = Command::new(&binaries.gateway);
    command.args(["serve", "--config"]).arg(&config).current_dir(directory);
    // Variables of this name override keys of the configuration.
    remove_variables(&mut command, &["SEAWALL_"]);
    let mut server = Server::start("seawall", &mut command, &directory.join("seawall.log"), false)?;

    let mut waited = Duration::ZERO;
    while !is_ready(address) {
        if let Some(status) = server.ended()? {
            return Err(server.failure(&format!("ended before it was ready ({status})")));
        }
        if waited >= START_LIMIT {
            return Err(server.failure("did not become ready"));
        }
        thread::sleep(READY_PAUSE);
        waited += READY_PAUSE;
    }
    Ok((server, format!("http://{address}/mcp/fixture")))
}

fn config_text(listen: SocketAddr, state: &Path, upstream: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        "listen = {}\nstate = {}\n\n[servers.fixture]\nurl = {}\n",
        quoted(&listen.to_string()),
        quoted(&state.to_string_lossy()),
        quoted(upstream)
    )
}

/// A port that was free a moment ago: told its port, the gateway need not be asked for it.
fn free_port() -> Result<u16, String> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("no free port: {error}"))?;
    Ok(address.port())
}

fn is_ready(address: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, READY_TIMEOUT)?;
        stream.set_read_timeout(Some(READY_TIMEOUT))?;
        stream.set_write_timeout(Some(READY_TIMEOUT))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = vec![0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status)?;
        Ok(String::from_utf8_lossy(&status).into_owned())
    };
    asked().is_ok_and(|status| status.ends_with(" 200"))
}

fn suite(place: &Place, revision: &str, url: &str, output: &Path) -> Result<Run, String> {
    let script = place.node_modules().join("@modelcontextprotocol/conformance/dist/index.js");
    let mut command = Command::new(place.node());
    command
        .arg(script)
        .args(["server", "--url", url, "--requirements", revision, "--timeout", "30000", "--output-dir"])
        .arg(output);
    let mut process =
        Server::start("the conformance suite", &mut command, &output.with_extension("log"), false)?;
    let Some(status) = process.wait(SUITE_LIMIT)? else {
        return Err(process.failure(&format!("did not end within {} s", SUITE_LIMIT.as_secs())));
    };
    let run = read_results(output, status.success())?;
    if run.passed.is_empty() && run.failed.is_empty() {
        return Err(process.failure("reported no check at all"));
    }
    Ok(run)
}

/// Reads what the suite left: a directory per scenario with a list of checks in it.
fn read_results(output: &Path, required_pass: bool) -> Result<Run, String> {
    let mut run = Run { required_pass, ..Run::default() };
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(run),
        Err(error) => return Err(format!("{}: {error}", output.display())),
    };
    for entry in entries {
        let entry = entry.map_err(|error| format!("{}: {error}", output.display()))?;
        let name = entry.file_name();
        let path = entry.path().join("checks.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // The suite makes the directory first: a scenario that broke has no checks, which the comparison
            // shows.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        add_checks(&mut run, scenario_of(&name.to_string_lossy()), &text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(run)
}

/// The scenario in a directory's name, `server-SCENARIO-TIMESTAMP`.
fn scenario_of(directory: &str) -> &str {
    const TIMESTAMP: &str = "-2026-01-01T00-00-00-000Z";
    let name = directory.strip_prefix("server-").unwrap_or(directory);
    name.len().checked_sub(TIMESTAMP.len()).and_then(|end| name.get(..end)).unwrap_or(name)
}

fn add_checks(run: &mut Run, scenario: &str, text: &str) -> Result<(), String> {
    let checks: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for check in &checks {
        let id = check["id"].as_str().ok_or("a check without an id")?;
        let name = format!("{scenario}/{id}");
        match check["status"].as_str() {
            Some("SUCCESS") => *run.passed.entry(name).or_default() += 1,
            Some("FAILURE") => {
                let message = check["errorMessage"].as_str().or_else(|| check["description"].as_str());
                run.failed.insert(name, message.unwrap_or("no message").to_owned());
            }
            // Informational, skipped and warning checks neither pass nor fail.
            Some(_) => {}
            None => return Err(format!("{name} has no status")),
        }
    }
    Ok(())
}

fn table(comparisons: &[Comparison]) -> String {
    let mut text = format!(
        "{:<12}{:<9}{:>7}{:>9}{:>9}  result\n",
        "revision", "fixture", "direct", "gateway", "missing"
    );
    for comparison in comparisons {
        let Comparison { revision, fixture, direct, gateway } = comparison;
        let missing = comparison.missing();
        let result = if !direct.required_pass {
            "the control fails a required scenario"
        } else if !gateway.required_pass {
            "a required scenario fails"
        } else if missing.is_empty() {
            "ok"
        } else {
            "checks are missing"
        };
        let (direct_passes, gateway_passes, count) = (direct.passes(), gateway.passes(), missing.len());
        text.push_str(&format!(
            "{revision:<12}{fixture:<9}{direct_passes:>7}{gateway_passes:>9}{count:>9}  {result}\n"
        ));
    }
    for comparison in comparisons {
        let missing = comparison.missing();
        if !missing.is_empty() {
            text.push_str(&format!(
                "\nmissing through Seawall, {} {}:\n",
                comparison.revision, comparison.fixture
            ));
        }
        for name in missing {
            let why = comparison.gateway.failed.get(name).map_or("not reported", String::as_str);
            text.push_str(&format!("  {name}: {why}\n"));
        }
        if !comparison.direct.required_pass {
            text.push_str(&format!("\nfailed direct, {} {}:\n", comparison.revision, comparison.fixture));
            for (name, why) in &comparison.direct.failed {
                text.push_str(&format!("  {name}: {why}\n"));
            }
        }
    }
    text
}

fn as_json(comparisons: &[Comparison]) -> Value {
    let run = |run: &Run| {
        let passed = run.passes();
        json!({ "passed": passed, "required_pass": run.required_pass, "failed": run.failed })
    };
    comparisons
        .iter()
        .map(|comparison| {
            json!({
                "revision": comparison.revision,
                "fixture": comparison.fixture,
                "direct": run(&comparison.direct),
                "gateway": run(&comparison.gateway),
                "missing": comparison.missing(),
                "holds": comparison.holds(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(checks: &str) -> Run {
        let mut run = Run { required_pass: true, ..Run::default() };
        add_checks(&mut run, "tools-list", checks).unwrap();
        run
    }

    fn compared(direct: &str, gateway: &str) -> Comparison {
        Comparison {
            revision: "2026-07-28",
            fixture: "both",
            direct: run_of(direct),
            gateway: run_of(gateway),
        }
    }

    const PASSED: &str = r#"{"id": "a", "status": "SUCCESS"}"#;
    const FAILED: &str = r#"{"id": "a", "status": "FAILURE", "errorMessage": "no tools"}"#;
    const WARNING: &str = r#"{"id": "a", "status": "WARNING"}"#;

    #[test]
    fn a_directory_names_its_scenario() {
        assert_eq!(scenario_of("server-tools-list-2026-11-20T09-52-40-620Z"), "tools-list");
        assert_eq!(scenario_of("server-server-stateless-2026-11-20T09-52-40-620Z"), "server-stateless");
        assert_eq!(scenario_of("odd"), "odd");
    }

    #[test]
    fn what_passes_direct_must_pass_through() {
        let same = compared(&format!("[{PASSED}]"), &format!("[{PASSED}]"));
        assert!(same.holds());
        for worse in [format!("[{FAILED}]"), format!("[{WARNING}]"), "[]".to_owned()] {
            let comparison = compared(&format!("[{PASSED}]"), &worse);
            assert_eq!(comparison.missing(), ["tools-list/a"]);
            assert!(!comparison.holds());
        }
    }

    #[test]
    fn a_check_made_twice_must_pass_twice() {
        let comparison = compared(&format!("[{PASSED}, {PASSED}]"), &format!("[{PASSED}, {FAILED}]"));
        assert_eq!(comparison.missing(), ["tools-list/a"]);
        assert!(table(&[comparison]).contains("tools-list/a: no tools"));
    }

    #[test]
    fn what_fails_direct_is_not_asked_of_the_gateway() {
        assert!(compared(&format!("[{FAILED}]"), &format!("[{FAILED}]")).holds());
    }

    #[test]
    fn a_failed_requirement_does_not_hold() {
        let mut comparison = compared(&format!("[{PASSED}]"), &format!("[{PASSED}]"));
        comparison.gateway.required_pass = false;
        assert!(!comparison.holds());
        assert_eq!(as_json(&[comparison])[0]["holds"], false);
    }

    #[test]
    fn options_are_checked() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let options = parse(&words("--json --revision 2025-11-25")).unwrap();
        assert_eq!(options, Options { revision: Some("2025-11-25".to_owned()), release: false, json: true });
        assert!(parse(&words("--revision 2024-01-01")).is_err());
        assert!(parse(&words("--quick")).is_err());
    }

    #[test]
    fn the_configuration_quotes_its_values() {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
        let text = config_text(listen, Path::new("/a \"b\""), "http://127.0.0.1:1/mcp");
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["listen"].as_str(), Some("127.0.0.1:4000"));
        assert_eq!(read["state"].as_str(), Some("/a \"b\""));
        assert_eq!(read["servers"]["fixture"]["url"].as_str(), Some("http://127.0.0.1:1/mcp"));
    }
}
