//! Development tasks of Seawall, run as `cargo xtask VERB`: one command each, with nothing to prepare by
//! hand.

#![expect(clippy::disallowed_methods, reason = "a synchronous tool that starts processes and reads files")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod bench;
mod chaos;
mod conformance;
mod load;
mod memory;
mod process;
mod provision;
mod rig;
mod simulate;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask VERB

  test [--size ci|full] [FILTER…]   provision, build, run every test; FILTER goes to `cargo test`
  full                              the tests at full size, then everything below but `tidy`
  provision                         fetch what the tests run against and say where it is
  conformance [--cell NAME] [--revision 2025-11-25|2026-07-28] [--release] [--json]
                                    the official suite: through Seawall as direct, across eras, as a client
  chaos [--json]                    every misdeed of an upstream over every transport, as a matrix
  chaos --break [NAME…] [--json]    takes out one guard at a time: a test must fail each time
  chaos --measure [NAME…] [--slices N] [--json]
                                    what neighbours notice of each class of misdeed
  simulate [--steps N] [--days N]   admission: random steps against a model, and a year of calls
  soak [--minutes N] [--seed N]     random misdeeds under load; afterwards everything is as it was
  memory [--json]                   what calls that hang weigh, against the bare proxy
  load [--json]                     many calls at once, equal ones, and more than there is room for
  tidy                              the rules that no compiler knows: walls, budgets, links, pages
  bench [ARGUMENTS…]                the benchmarks";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode, String> {
    let Some((verb, rest)) = arguments.split_first() else {
        return Err(format!("which task?\n\n{USAGE}"));
    };
    match verb.as_str() {
        "test" => test::run(rest).map(ExitCode::from),
        "full" => full(rest),
        "provision" => succeeded(provision::run(rest)),
        "conformance" => succeeded(conformance::run(rest)),
        // What the suite starts as a client; see docs/conformance.md.
        "conformance-client" => succeeded(conformance::client(rest)),
        "chaos" => succeeded(chaos::run(rest)),
        "simulate" => succeeded(simulate::run(rest)),
        "soak" => succeeded(soak::run(rest)),
        "memory" => succeeded(memory::run(rest)),
        "load" => succeeded(load::run(rest)),
        "tidy" => succeeded(tidy::run(rest)),
        "bench" => succeeded(bench::run(rest)),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        unknown => Err(format!("there is no task `{unknown}`\n\n{USAGE}")),
    }
}

/// A task that ends well or says why it did not.
type Part = fn(&[String]) -> Result<(), String>;

/// Everything, at full size. Each part runs whatever became of the one before, so that one run tells all.
fn full(arguments: &[String]) -> Result<ExitCode, String> {
    no_arguments("full", arguments)?;
    let mut failures = Vec::new();
    match test::run(&["--size".to_owned(), "full".to_owned()]) {
        Ok(0) => {}
        Ok(code) => failures.push(format!("tests: the runner ended with {code}")),
        Err(message) => failures.push(format!("tests: {message}")),
    }
    let parts: [(&str, Part, &[&str]); 9] = [
        ("conformance", conformance::run, &[]),
        ("chaos", chaos::run, &[]),
        ("guards", chaos::run, &["--break"]),
        ("neighbours", chaos::run, &["--measure"]),
        ("simulation", simulate::run, &[]),
        ("soak", soak::run, &["--minutes", "10"]),
        ("memory", memory::run, &[]),
        ("load", load::run, &[]),
        ("benchmarks", bench::run, &[]),
    ];
    for (name, run, arguments) in parts {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        if let Err(message) = run(&arguments) {
            failures.push(format!("{name}: {message}"));
        }
    }
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(failures.join("\n")) }
}

fn succeeded(result: Result<(), String>) -> Result<ExitCode, String> {
    result.map(|()| ExitCode::SUCCESS)
}

/// Refuses arguments where a verb takes none.
fn no_arguments(verb: &str, arguments: &[String]) -> Result<(), String> {
    match arguments.first() {
        None => Ok(()),
        Some(argument) => Err(format!("`{verb}` takes no arguments, not `{argument}`")),
    }
}
