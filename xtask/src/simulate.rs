//! `cargo xtask simulate`: admission at full size, in a release build. Ten million random steps against a model that
//! only counts, and a year of calls in virtual time; every test run does a little of both.

use std::io::stderr;
use std::time::SystemTime;

use crate::process::{cargo, run_captured, run_visibly};

/// How many steps are taken and how many days pass where nothing else is said.
const STEPS: u64 = 10_000_000;
const DAYS: u64 = 365;
/// The most of either that makes sense.
const MOST_STEPS: u64 = 100_000_000_000;
const MOST_DAYS: u64 = 36_500;

/// The tests of the engine itself.
const TESTS: [&str; 5] = ["test", "--release", "--package", "seawall-core", "--lib"];

/// A test that a variable tells how much of it there is to do.
#[derive(Debug)]
struct Simulation {
    /// The test's whole name.
    test: &'static str,
    variable: &'static str,
    /// What it does so many of.
    unit: &'static str,
}

static SCHEDULE: Simulation = Simulation {
    test: "call::admit::machine::tests::no_schedule_oversteps_a_limit_loses_a_permit_or_keeps_a_call_waiting",
    variable: "SEAWALL_STEPS",
    unit: "random steps of admission",
};

static YEAR: Simulation = Simulation {
    test: "call::admit::year_tests::a_year_of_calls_is_fair_and_loses_nothing",
    variable: "SEAWALL_DAYS",
    unit: "days of calls",
};

/// Runs both. Arguments: `--steps N` (ten million), `--days N` (365).
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    if !run_visibly(cargo().args(TESTS).arg("--no-run").stdout(stderr()))?.success() {
        return Err("the build failed".to_owned());
    }
    let runs = [SCHEDULE.run(options.steps), YEAR.run(options.days)];
    let failures: Vec<String> = runs.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

impl Simulation {
    fn run(&self, size: u64) -> Result<(), String> {
        let Self { test, variable, unit } = *self;
        eprintln!("simulate: {size} {unit}");
        let began = SystemTime::now();
        let mut command = cargo();
        command.args(TESTS).args(["--", "--exact", "--include-ignored", test]);
        // For this test alone: to a daemon, a variable of that name is one that it does not know.
        command.env(variable, size.to_string());
        let said = run_captured(&mut command).map_err(|why| format!("{size} {unit}: {why}"))?;
        if !ran(&said) {
            return Err(format!("{size} {unit}: no test is named {test}:\n{said}"));
        }
        // An unsteady clock is no reason to fail.
        let seconds = began.elapsed().map_or(0, |time| time.as_secs());
        println!("{size} {unit}: nothing was found, in {seconds} s");
        Ok(())
    }
}

/// Whether a test was run: to the runner a name that nothing has is no failure.
fn ran(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("test result: ok. 1 passed;"))
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    steps: u64,
    days: u64,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { steps: STEPS, days: DAYS };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = |most: u64| {
            let given = rest.next().ok_or_else(|| format!("{argument} needs a number"))?;
            let number = given.parse::<u64>().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("{argument} is from 1 to {most}, not `{given}`"))
        };
        match argument.as_str() {
            "--steps" => options.steps = number(MOST_STEPS)?,
            "--days" => options.days = number(MOST_DAYS)?,
            other => return Err(format!("`simulate` does not know `{other}`")),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::workspace_root;
    use std::fs;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn ten_million_steps_and_a_year_unless_said() {
        assert_eq!(parsed(""), Ok(Options { steps: 10_000_000, days: 365 }));
        assert_eq!(parsed("--days 3 --steps 800"), Ok(Options { steps: 800, days: 3 }));
        for line in ["--steps", "--steps 0", "--days x", "--days 40000", "--years 1"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn each_test_is_there_and_listens_to_its_variable() {
        for (simulation, file) in [(&SCHEDULE, "model_tests.rs"), (&YEAR, "year_tests.rs")] {
            let path = workspace_root().join("crates/core/src/call/admit").join(file);
            let text = fs::read_to_string(path).unwrap();
            let name = simulation.test.rsplit("::").next().unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{name} is not in {file}");
            assert!(text.contains(&format!("\"{}\"", simulation.variable)), "{file}");
        }
    }

    #[test]
    fn a_test_that_did_not_run_is_told_from_one_that_did() {
        assert!(ran("running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 500 filtered out\n"));
        assert!(!ran("running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored; 501 filtered out\n"));
    }
}
