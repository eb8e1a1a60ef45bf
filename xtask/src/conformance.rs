//! `cargo xtask conformance`: the official suite against our fixture through Seawall, and against Seawall as
//! a client. Where the fixture speaks the revision itself it is also asked directly, and that run is the
//! control: every check that passes there must pass through the gateway too, by name. `docs/conformance.md`
//! tells more.

mod caller;
mod cells;
mod client;
mod gateway;
mod http;
mod login;
mod outcome;
mod suite;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{cargo, run_captured, run_visibly};
use crate::provision::{self, Place};
use cells::{CELLS, Cell, Setup};
use outcome::{Outcome, as_json, table};
use suite::{Leg, Run};

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    cell: Option<String>,
    revision: Option<String>,
    release: bool,
    json: bool,
}

impl Options {
    /// The cells that are to be run.
    fn cells(&self) -> Vec<&'static Cell> {
        let named = |cell: &&Cell| self.cell.as_deref().is_none_or(|wanted| wanted == cell.name);
        let of_revision =
            |cell: &&Cell| self.revision.as_deref().is_none_or(|wanted| wanted == cell.revision);
        CELLS.iter().filter(named).filter(of_revision).collect()
    }
}

/// Runs the suite for every chosen cell. It is an error when one does not hold.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let place = provision::ensure()?;
    let binaries = build(options.release)?;
    let results = binaries.target.join("conformance");

    let mut outcomes = Vec::new();
    for cell in options.cells() {
        eprintln!("conformance: {}", cell.name);
        outcomes.push(observe(cell, &place, &binaries, &results.join(cell.name))?);
    }

    if options.json {
        println!("{:#}", as_json(&outcomes));
    } else {
        print!("{}", table(&outcomes));
    }
    let broken: Vec<&str> =
        outcomes.iter().filter(|outcome| !outcome.holds()).map(|outcome| outcome.cell.name).collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "conformance: {} of {} cells do not hold ({}); logs are in {}",
        broken.len(),
        outcomes.len(),
        broken.join(", "),
        results.display()
    ))
}

/// Plays the client of one scenario; the suite starts this in the cells where Seawall is a client.
pub(crate) fn client(arguments: &[String]) -> Result<(), String> {
    client::run(arguments)
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
                if !CELLS.iter().any(|cell| cell.revision == given) {
                    return Err(format!("--revision is 2025-11-25 or 2026-07-28, not `{given}`"));
                }
                options.revision = Some(given.clone());
            }
            "--cell" => {
                let given = rest.next().ok_or("--cell needs a value")?;
                let names: Vec<&str> = CELLS.iter().map(|cell| cell.name).collect();
                if !names.contains(&given.as_str()) {
                    return Err(format!("--cell is one of {}, not `{given}`", names.join(", ")));
                }
                options.cell = Some(given.clone());
            }
            other => return Err(format!("`conformance` does not know `{other}`")),
        }
    }
    if options.cells().is_empty() {
        return Err("that cell is of another revision".to_owned());
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

/// Runs one cell. What its processes write lies in `directory`.
fn observe(
    cell: &'static Cell,
    place: &Place,
    binaries: &Binaries,
    directory: &Path,
) -> Result<Outcome, String> {
    let named = |error: std::io::Error| format!("{}: {error}", directory.display());
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(named)?;
    }
    fs::create_dir_all(directory).map_err(named)?;

    match cell.setup {
        Setup::Compared { fixture } => {
            let direct = {
                let log = directory.join("direct-fixture.log");
                let (_fixture, url) = gateway::start_fixture(&binaries.fixture, fixture, &log)?;
                suite::run(place, Leg::Server, cell.revision, &url, &directory.join("direct"))?
            };
            // With a fixture of its own: what the control left behind in one must not show in the other.
            let gateway = through(cell, fixture, place, binaries, directory)?;
            Ok(Outcome { cell, direct: Some(direct), gateway })
        }
        Setup::Translated { fixture, .. } => {
            let gateway = through(cell, fixture, place, binaries, directory)?;
            Ok(Outcome { cell, direct: None, gateway })
        }
        Setup::Client { .. } => {
            let program = env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
            let command = client::command_line(&program, &binaries.gateway, &directory.join("clients"));
            let gateway =
                suite::run(place, Leg::Client, cell.revision, &command, &directory.join("results"))?;
            Ok(Outcome { cell, direct: None, gateway })
        }
    }
}

/// Runs the suite against a fixture behind the gateway.
fn through(
    cell: &Cell,
    fixture: &str,
    place: &Place,
    binaries: &Binaries,
    directory: &Path,
) -> Result<Run, String> {
    let log = directory.join("gateway-fixture.log");
    // Declared before the gateway, and so ended after it.
    let (_fixture, url) = gateway::start_fixture(&binaries.fixture, fixture, &log)?;
    let (_gateway, address) = gateway::start(&binaries.gateway, &url, directory, gateway::free_port()?, &[])?;
    let url = format!("http://{address}{}", gateway::PATH);
    suite::run(place, Leg::Server, cell.revision, &url, &directory.join("gateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_checked() {
        let options = parse(&words("--json --revision 2025-11-25")).unwrap();
        let revision = Some("2025-11-25".to_owned());
        assert_eq!(options, Options { revision, json: true, ..Options::default() });
        assert!(parse(&words("--revision 2024-01-01")).is_err());
        assert!(parse(&words("--cell elsewhere")).is_err());
        assert!(parse(&words("--cell")).is_err());
        assert!(parse(&words("--quick")).is_err());
    }

    #[test]
    fn cells_are_chosen_by_name_and_revision() {
        let chosen = |line| parse(&words(line)).map(|options| options.cells().len());
        assert_eq!(chosen(""), Ok(CELLS.len()));
        assert_eq!(chosen("--revision 2025-11-25"), Ok(4));
        assert_eq!(chosen("--cell 2026-07-28-client"), Ok(1));
        assert!(chosen("--cell 2026-07-28-client --revision 2025-11-25").is_err());
    }
}
