//! `cargo xtask soak`: random misdeeds under load for some minutes, in release builds. The test is
//! `tests/tests/soak.rs`, which every test run does for one minute.

use std::io::stderr;

use crate::process::{cargo, run_visibly};

/// Runs the soak test. Arguments: `--minutes N` (10), `--seed N`.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let built = ["build", "--release", "--package", "seawall", "--package", "seawall-misbehave", "--bins"];
    if !run_visibly(cargo().args(built).stdout(stderr()))?.success() {
        return Err("the build failed".to_owned());
    }
    let mut command = cargo();
    command
        .args(["test", "--release", "--package", "seawall-tests", "--test", "soak", "--", "--nocapture"])
        .env("SEAWALL_SOAK_MINUTES", options.minutes.to_string());
    if let Some(seed) = options.seed {
        command.env("SEAWALL_SOAK_SEED", seed.to_string());
    }
    let ended = run_visibly(&mut command)?;
    if ended.success() { Ok(()) } else { Err(format!("soak: the test ended with {ended}")) }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    minutes: u64,
    seed: Option<u64>,
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { minutes: 10, seed: None };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || {
            let given = rest.next().ok_or_else(|| format!("{argument} needs a number"))?;
            given.parse::<u64>().map_err(|error| format!("{argument} {given}: {error}"))
        };
        match argument.as_str() {
            "--minutes" => options.minutes = number()?,
            "--seed" => options.seed = Some(number()?),
            other => return Err(format!("`soak` does not know `{other}`")),
        }
    }
    if (1..=24 * 60).contains(&options.minutes) {
        Ok(options)
    } else {
        Err("--minutes is from 1 to 1440".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn ten_minutes_unless_said() {
        assert_eq!(parsed(""), Ok(Options { minutes: 10, seed: None }));
        assert_eq!(parsed("--minutes 3 --seed 7"), Ok(Options { minutes: 3, seed: Some(7) }));
        for line in ["--minutes", "--minutes 0", "--minutes x", "--seed", "--hours 1"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
