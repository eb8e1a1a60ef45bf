//! `cargo xtask test`: everything a test needs is put in place, then the ordinary test runner runs.

use crate::process::{cargo, run_visibly};
use crate::provision;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    size: String,
    passed_on: Vec<String>,
}

/// Runs the tests of the whole workspace and returns the runner's own exit code. Its output passes untouched.
pub(crate) fn run(arguments: &[String]) -> Result<u8, String> {
    let options = parse(arguments)?;
    let place = provision::ensure()?;

    // Whole-binary tests run programs of other packages, which `cargo test` alone would not build.
    let built = run_visibly(cargo().args(["build", "--workspace", "--bins"]))?;
    if !built.success() {
        return Ok(code_of(built.code()));
    }
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(&options.passed_on)
        .env("SEAWALL_TEST_SIZE", &options.size)
        .env("SEAWALL_PROVISION", place.root());
    let ended = run_visibly(&mut command)?;
    Ok(code_of(ended.code()))
}

/// An exit code, or 1 where a signal ended the runner.
fn code_of(code: Option<i32>) -> u8 {
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { size: "ci".to_owned(), passed_on: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            options.passed_on.push(argument.clone());
            options.passed_on.extend(rest.cloned());
            break;
        }
        let given = if argument == "--size" {
            Some(rest.next().ok_or("--size needs a value: ci or full")?.as_str())
        } else {
            argument.strip_prefix("--size=")
        };
        match given {
            Some(size @ ("ci" | "full")) => options.size = size.to_owned(),
            Some(other) => return Err(format!("--size is ci or full, not `{other}`")),
            None => options.passed_on.push(argument.clone()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_size_is_ci_unless_said() {
        assert_eq!(parsed("").unwrap().size, "ci");
        assert_eq!(parsed("--size full").unwrap().size, "full");
        assert_eq!(parsed("--size=full").unwrap().size, "full");
    }

    #[test]
    fn the_rest_goes_to_the_runner() {
        assert_eq!(parsed("--size full deadline").unwrap().passed_on, ["deadline"]);
        assert_eq!(parsed("name -- --size ci").unwrap().passed_on, ["name", "--", "--size", "ci"]);
    }

    #[test]
    fn an_unknown_or_missing_size_is_refused() {
        assert!(parsed("--size huge").is_err());
        assert!(parsed("--size").is_err());
    }
}
