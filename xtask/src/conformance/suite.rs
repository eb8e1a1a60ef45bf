//! Runs the official suite and reads what it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Server, run_captured};
use crate::provision::Place;

/// How long one run of the suite may take; a scenario that hangs is ended by the suite itself long before.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long the suite waits for one scenario, in milliseconds. It starts all clients at once, each with a
/// gateway of its own; a client gives up by itself before that.
const SERVER_TIMEOUT: &str = "30000";
const CLIENT_TIMEOUT: &str = "150000";

/// Which side the suite tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// A server, which it is given the address of.
    Server,
    /// A client, which it is given the command line of.
    Client,
}

/// What became of one scenario.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    /// How often each check passed; a scenario may make one several times.
    pub(super) passed: BTreeMap<String, usize>,
    /// Failed checks with what the suite says about them.
    pub(super) failed: BTreeMap<String, String>,
}

impl Checks {
    /// Whether something was checked and nothing failed.
    pub(super) fn pass(&self) -> bool {
        !self.passed.is_empty() && self.failed.is_empty()
    }

    /// How many checks passed.
    pub(super) fn passes(&self) -> usize {
        self.passed.values().sum()
    }

    /// The first failed check, with the first line of why.
    pub(super) fn why(&self) -> String {
        match self.failed.first_key_value() {
            Some((check, message)) => {
                format!("{check}: {}", message.lines().next().unwrap_or_default())
            }
            None => "no check was made".to_owned(),
        }
    }
}

/// One run of the suite.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) scenarios: BTreeMap<String, Checks>,
    /// The scenarios that the revision requires. More are run, which no verdict is about.
    pub(super) required: Vec<String>,
}

impl Run {
    /// How many checks passed, required or not.
    pub(super) fn passes(&self) -> usize {
        self.scenarios.values().map(Checks::passes).sum()
    }

    /// Whether the scenario was run and passed.
    pub(super) fn pass(&self, scenario: &str) -> bool {
        self.scenarios.get(scenario).is_some_and(Checks::pass)
    }

    /// The required scenarios that did not pass.
    pub(super) fn failing(&self) -> Vec<&str> {
        self.required.iter().map(String::as_str).filter(|scenario| !self.pass(scenario)).collect()
    }

    /// Why the scenario did not pass.
    pub(super) fn why(&self, scenario: &str) -> String {
        self.scenarios.get(scenario).map_or_else(|| "it was not run to its end".to_owned(), Checks::why)
    }

    /// How often the check passed.
    pub(super) fn passed(&self, scenario: &str, check: &str) -> usize {
        self.scenarios.get(scenario).and_then(|checks| checks.passed.get(check)).copied().unwrap_or(0)
    }
}

/// Runs what `revision` requires against `subject`: a server's address or a client's command line. What the
/// suite writes goes to `output` and to a log beside it.
pub(super) fn run(
    place: &Place,
    leg: Leg,
    revision: &str,
    subject: &str,
    output: &Path,
) -> Result<Run, String> {
    let list = run_captured(command(place).args(["list", "--requirements", revision]))?;
    let required = listed(&list, leg);
    if required.is_empty() {
        return Err(format!("the suite lists nothing that {revision} requires:\n{list}"));
    }

    let mut command = command(place);
    match leg {
        Leg::Server => command.args(["server", "--url", subject, "--timeout", SERVER_TIMEOUT]),
        Leg::Client => command.args(["client", "--command", subject, "--timeout", CLIENT_TIMEOUT]),
    };
    command.args(["--requirements", revision, "--output-dir"]).arg(output);
    let mut process =
        Server::start("the conformance suite", &mut command, &output.with_extension("log"), false)?;
    let Some(status) = process.wait(LIMIT)? else {
        return Err(process.failure(&format!("did not end within {} s", LIMIT.as_secs())));
    };

    let mut run = Run { required, ..Run::default() };
    read_results(output, "", leg, &mut run.scenarios)?;
    if run.scenarios.is_empty() {
        return Err(process.failure("reported no check at all"));
    }
    if !status.success() && run.failing().is_empty() {
        return Err(process.failure(&format!("ended with {status}, and yet nothing required fails")));
    }
    Ok(run)
}

fn command(place: &Place) -> Command {
    let mut command = Command::new(place.node());
    command.arg(place.node_modules().join("@modelcontextprotocol/conformance/dist/index.js"));
    command
}

/// The required scenarios of one leg in what `list --requirements` prints.
fn listed(text: &str, leg: Leg) -> Vec<String> {
    let heading = match leg {
        Leg::Server => "Server scenarios",
        Leg::Client => "Client scenarios",
    };
    text.lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip(1)
        .map_while(|line| line.strip_prefix("  - "))
        .map(str::to_owned)
        .collect()
}

/// Reads what the suite left: a directory per scenario with a list of checks in it. A scenario's name may
/// contain `/`; `prefix` is what lies above `directory` of it.
fn read_results(
    directory: &Path,
    prefix: &str,
    leg: Leg,
    scenarios: &mut BTreeMap<String, Checks>,
) -> Result<(), String> {
    let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(directory, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| named(directory, &error))?;
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let file = path.join("checks.json");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // The suite makes the directory first: a scenario that broke has no checks, and so does not pass.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                read_results(&path, &format!("{name}/"), leg, scenarios)?;
                continue;
            }
            Err(error) => return Err(named(&file, &error)),
        };
        let checks = scenarios.entry(scenario_of(&name, leg).to_owned()).or_default();
        add_checks(checks, &text).map_err(|error| named(&file, &error))?;
        if leg == Leg::Client {
            // The suite does not mind how a client ends. Ours writes nothing unless it fails.
            let written = fs::read_to_string(path.join("stderr.txt")).unwrap_or_default();
            if !written.trim().is_empty() {
                checks.failed.insert("client".to_owned(), written.trim().to_owned());
            }
        }
    }
    Ok(())
}

/// The scenario in a directory's name, `server-SCENARIO-TIMESTAMP` or `SCENARIO-TIMESTAMP`.
fn scenario_of(directory: &str, leg: Leg) -> &str {
    const TIMESTAMP: &str = "-2026-01-01T00-00-00-000Z";
    let name = match leg {
        Leg::Server => directory.strip_prefix("server-").unwrap_or(directory),
        Leg::Client => directory,
    };
    name.len().checked_sub(TIMESTAMP.len()).and_then(|end| name.get(..end)).unwrap_or(name)
}

pub(super) fn add_checks(checks: &mut Checks, text: &str) -> Result<(), String> {
    let list: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for check in &list {
        let id = check["id"].as_str().ok_or("a check without an id")?;
        match check["status"].as_str() {
            Some("SUCCESS") => *checks.passed.entry(id.to_owned()).or_default() += 1,
            Some("FAILURE") => {
                let message = check["errorMessage"].as_str().or_else(|| check["description"].as_str());
                checks.failed.insert(id.to_owned(), message.unwrap_or("no message").to_owned());
            }
            // Informational, skipped and warning checks neither pass nor fail.
            Some(_) => {}
            None => return Err(format!("{id} has no status")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_its_scenario() {
        let server = |name| scenario_of(name, Leg::Server);
        assert_eq!(server("server-tools-list-2026-11-20T09-52-40-620Z"), "tools-list");
        assert_eq!(server("server-server-stateless-2026-11-20T09-52-40-620Z"), "server-stateless");
        assert_eq!(server("odd"), "odd");
        let client = |name| scenario_of(name, Leg::Client);
        assert_eq!(client("auth/metadata-var1-2026-11-20T09-52-40-620Z"), "auth/metadata-var1");
        assert_eq!(client("server-like-2026-11-20T09-52-40-620Z"), "server-like");
    }

    #[test]
    fn what_is_required_is_read_leg_by_leg() {
        let text = "Required for 2025-11-25 (3 scenarios):\n\n\
                    Server scenarios (test against a server):\n  - ping\n  - tools-list\n\n\
                    Client scenarios (test against a client):\n  - auth/basic-cimd\n\n\
                    Run and reported, but never scored:\n  pending (1):\n    - other [server]\n";
        assert_eq!(listed(text, Leg::Server), ["ping", "tools-list"]);
        assert_eq!(listed(text, Leg::Client), ["auth/basic-cimd"]);
        assert!(listed("", Leg::Client).is_empty());
    }

    #[test]
    fn a_scenario_passes_when_something_was_checked_and_nothing_failed() {
        let checks = |text: &str| {
            let mut checks = Checks::default();
            add_checks(&mut checks, text).unwrap();
            checks
        };
        let passed = r#"{"id": "a", "status": "SUCCESS"}"#;
        let failed = r#"{"id": "b", "status": "FAILURE", "errorMessage": "no tools\nand more"}"#;
        let skipped = r#"{"id": "c", "status": "SKIPPED"}"#;
        assert!(checks(&format!("[{passed}, {skipped}]")).pass());
        assert!(!checks(&format!("[{passed}, {failed}]")).pass());
        assert_eq!(checks(&format!("[{passed}, {failed}]")).why(), "b: no tools");
        assert!(!checks(&format!("[{skipped}]")).pass());
        assert_eq!(checks("[]").why(), "no check was made");
        assert!(add_checks(&mut Checks::default(), r#"[{"id": "a"}]"#).is_err());
    }

    #[test]
    fn a_required_scenario_that_was_not_run_fails() {
        let required = vec!["ping".to_owned()];
        let run = Run { required, ..Run::default() };
        assert_eq!(run.failing(), ["ping"]);
        assert_eq!(run.why("ping"), "it was not run to its end");
    }
}
