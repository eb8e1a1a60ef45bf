//! The command line, run to its end.

use crate::{Daemon, PATIENCE, binary, within};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

/// What a run of the command line came to.
#[derive(Debug)]
pub struct Said {
    /// Its exit code, -1 where a signal ended it.
    pub code: i32,
    /// What it printed.
    pub output: String,
    /// What it said on standard error.
    pub error: String,
}

impl Said {
    /// The one JSON value that it printed.
    ///
    /// # Panics
    /// When it printed something else.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the command line in an empty home.
///
/// # Panics
/// When it does not end.
pub async fn seawall(arguments: &[&str]) -> Said {
    let home = tempfile::tempdir().expect("there is room for temporary files");
    let mut command = Command::new(binary("seawall"));
    command.args(arguments).env_clear().env("HOME", home.path()).current_dir(home.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(&format!("seawall {}", arguments.join(" ")), PATIENCE, command.output()).await;
    let output = output.expect("a program that has been built can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what is printed is UTF-8");
    Said { code: output.status.code().unwrap_or(-1), output: text(output.stdout), error: text(output.stderr) }
}

/// Runs a verb with the configuration of a daemon.
///
/// # Panics
/// When it does not end.
pub async fn at(daemon: &Daemon, arguments: &[&str]) -> Said {
    let file = daemon.configuration();
    let file = file.to_str().expect("temporary paths are UTF-8");
    let (verb, rest) = arguments.split_first().expect("there is a verb");
    seawall(&[&[*verb, "--config", file][..], rest].concat()).await
}
