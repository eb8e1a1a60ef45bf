//! Children that the tests start.

use std::ffi::OsString;

use seawall_proc::{Child, Command, inherited_environment, spawn};

pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    Command {
        program: program.into(),
        args: args.iter().map(OsString::from).collect(),
        environment: inherited_environment(),
        directory: None,
        max_line: 1024,
        stderr_ring: 4096,
    }
}

pub(crate) fn shell(script: &str) -> Child {
    spawn(&command("sh", &["-c", script])).expect("sh starts")
}
