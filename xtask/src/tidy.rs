//! `cargo xtask tidy`: the project's rules that no compiler or lint knows. Every rule is a function of text;
//! this file finds the files, runs the rules and reports all that is wrong at once.

mod knobs;
mod manifests;
mod prose;
mod rust;
mod walls;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{run_captured, workspace_root};

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    /// `line` counts from 1.
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A text file of the project; `path` is relative to the workspace, with `/`.
#[derive(Debug)]
struct TextFile {
    path: String,
    text: String,
}

/// Checks the workspace and prints what is wrong.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    crate::no_arguments("tidy", arguments)?;
    let findings = check(&workspace_root())?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err("tidy: 1 finding".to_owned()),
        count => Err(format!("tidy: {count} findings")),
    }
}

fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let paths = project_files(root)?;
    let files = read(root, &paths)?;
    let mut findings = Vec::new();

    let sources = rust::sources(&files);
    walls::check(&sources, &mut findings);
    let manifests: Vec<&TextFile> = files.iter().filter(|file| is_named(&file.path, "Cargo.toml")).collect();
    manifests::check(&manifests, &mut findings);
    prose::check(&files, &paths, &mut findings);
    knobs::check(&files, &mut findings);

    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// Every file that git has or would take, that is, all but what `.gitignore` names.
fn project_files(root: &Path) -> Result<BTreeSet<String>, String> {
    let listed = run_captured(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root),
    )
    .map_err(|error| format!("tidy takes the list of files from git: {error}"))?;
    let paths = listed.split('\0').filter(|path| !path.is_empty() && root.join(path).is_file());
    Ok(paths.map(str::to_owned).collect())
}

/// The files that are text.
fn read(root: &Path, paths: &BTreeSet<String>) -> Result<Vec<TextFile>, String> {
    let mut files = Vec::new();
    for path in paths {
        let content = fs::read(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
        if let Ok(text) = String::from_utf8(content) {
            files.push(TextFile { path: path.clone(), text });
        }
    }
    Ok(files)
}

fn is_named(path: &str, name: &str) -> bool {
    path.rsplit('/').next() == Some(name)
}

/// The line, counted from 1, in which byte `offset` of `text` lies.
fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings = check(&workspace_root()).unwrap();
        let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(report.is_empty(), "\n{}", report.join("\n"));
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!([0, 1, 2, 3, 9].map(|offset| line_at("a\nb\n", offset)), [1, 1, 2, 2, 3]);
    }
}
