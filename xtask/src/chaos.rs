//! `cargo xtask chaos`: what becomes of every misdeed of an upstream, and that the guards against them matter.
//!
//! Plain, it runs the chaos suite and prints what came of each misdeed over each transport, as a matrix.
//! `--break` takes one guard at a time out of a copy of the source and must see a test fail each time.
//! `--measure` holds what a neighbour notices of a misdeed to bounds.

mod breaking;
mod copy;
mod guards;
mod matrix;
mod measure;

use std::io::stderr;

use crate::process::{cargo, run_visibly};
use crate::provision;
use crate::rig::{emptied, target_directory};

/// What is measured at most: a neighbour's slices of each kind.
const SLICES: usize = 20;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    json: bool,
    task: Task,
}

#[derive(Debug, PartialEq, Eq)]
enum Task {
    Matrix,
    /// Breaks the guards of these names, or all of them.
    Break(Vec<String>),
    /// Measures the classes of these names, or all of them.
    Measure {
        only: Vec<String>,
        slices: usize,
    },
}

/// Runs the suite, breaks guards or measures. It is an error when a promise is not kept.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    match &options.task {
        Task::Matrix => run_suite(options.json),
        Task::Break(only) => breaking::run(only, options.json),
        Task::Measure { only, slices } => measure::run(only, *slices, options.json),
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let (mut json, mut breaks, mut measures, mut slices) = (false, false, false, None);
    let mut names = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--break" => breaks = true,
            "--measure" => measures = true,
            "--slices" => {
                let given = rest.next().ok_or("--slices needs a number")?;
                let count = given.parse().ok().filter(|count| (1..=1000).contains(count));
                slices = Some(count.ok_or_else(|| format!("--slices is from 1 to 1000, not `{given}`"))?);
            }
            flag if flag.starts_with('-') => return Err(format!("`chaos` does not know `{flag}`")),
            name => names.push(name.to_owned()),
        }
    }
    if slices.is_some() && !measures {
        return Err("--slices goes with --measure".to_owned());
    }
    let task = match (breaks, measures) {
        (true, true) => return Err("--break and --measure are two tasks: run one after the other".to_owned()),
        (true, false) => Task::Break(names),
        (false, true) => Task::Measure { only: names, slices: slices.unwrap_or(SLICES) },
        (false, false) if names.is_empty() => Task::Matrix,
        (false, false) => return Err(format!("names go with --break or --measure: `{}`", names.join(" "))),
    };
    Ok(Options { json, task })
}

fn run_suite(json: bool) -> Result<(), String> {
    let place = provision::ensure()?;
    build_workspace()?;
    let reports = target_directory().join("chaos/report");
    emptied(&reports)?;

    // What the test runner prints goes to our stderr, so that stdout has the matrix alone.
    let tests = run_visibly(
        cargo()
            .args(["test", "--package", "seawall-tests", "--test", "chaos", "--no-fail-fast"])
            .env("SEAWALL_PROVISION", place.root())
            .env("SEAWALL_CHAOS_REPORT", &reports)
            .stdout(stderr()),
    )?;
    let cells = matrix::read(&reports)?;
    if json {
        println!("{:#}", matrix::as_json(&cells));
    } else {
        print!("{}", matrix::table(&cells));
    }
    let mut broken = matrix::broken(&cells);
    if !tests.success() {
        broken.push(format!("the suite failed ({tests})"));
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("chaos: {}", broken.join("; "))) }
}

/// Builds every program that the whole-binary tests start.
fn build_workspace() -> Result<(), String> {
    let built = run_visibly(cargo().args(["build", "--workspace", "--bins"]).stdout(stderr()))?;
    if built.success() { Ok(()) } else { Err(format!("the build failed ({built})")) }
}

/// Those of `all` that have one of the wanted names, or all where none is wanted.
fn chosen<T>(
    all: &'static [T],
    name: fn(&T) -> &'static str,
    only: &[String],
) -> Result<Vec<&'static T>, String> {
    if let Some(unknown) = only.iter().find(|wanted| !all.iter().any(|one| name(one) == **wanted)) {
        let names: Vec<&str> = all.iter().map(name).collect();
        return Err(format!("there is no `{unknown}`; there are {}", names.join(", ")));
    }
    Ok(all.iter().filter(|one| only.is_empty() || only.iter().any(|wanted| wanted == name(one))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_matrix_is_what_comes_without_a_flag() {
        assert_eq!(parsed("--json"), Ok(Options { json: true, task: Task::Matrix }));
        assert!(parsed("a-name").is_err());
    }

    #[test]
    fn names_choose_what_to_break_and_what_to_measure() {
        assert_eq!(parsed("--break a b").unwrap().task, Task::Break(vec!["a".to_owned(), "b".to_owned()]));
        let measure = Task::Measure { only: vec!["hang".to_owned()], slices: 3 };
        assert_eq!(parsed("--measure hang --slices 3").unwrap().task, measure);
        let all = Task::Measure { only: Vec::new(), slices: SLICES };
        assert_eq!(parsed("--measure").unwrap().task, all);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in
            ["--break --measure", "--slices 3", "--measure --slices", "--measure --slices 0", "--quick"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        static NAMES: [&str; 2] = ["a", "b"];
        let choose = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&NAMES, |name| *name, &only).map(|chosen| chosen.len())
        };
        assert_eq!((choose(&[]), choose(&["b"])), (Ok(2), Ok(1)));
        assert!(choose(&["c"]).is_err());
    }
}
