//! Processes above and below the server: wrappers, escapees, and children that hold what is not theirs.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// What a wrapper does: it waits for its program and passes on how that ended, but no signal.
const WRAPPER: &str = "\"$@\"; exit $?";

/// Becomes a shell that runs this program again, with one wrapper less to come. Returns only where that failed.
pub(crate) fn wrap(depth: u32) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (long, short) = (OsString::from("--wrapped"), format!("--wrapped={depth}"));
    if let Some(at) = arguments.iter().position(|argument| *argument == long) {
        arguments[at + 1] = (depth - 1).to_string().into();
    } else if let Some(at) = arguments.iter().position(|argument| *argument == *short) {
        arguments[at] = format!("--wrapped={}", depth - 1).into();
    }
    Command::new("sh").args(["-c", WRAPPER, "wrapper"]).arg(program).args(arguments).exec()
}

/// Leaves the session of whoever started this process.
pub(crate) fn leave() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Starts a child that leaves the session and stays. `holds` gives it this process's stdout to keep open.
pub(crate) fn escape(tag: Option<&str>, holds: bool) -> io::Result<()> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("--linger").args(tag.iter().flat_map(|tag| ["--tag", *tag]));
    child.stdin(Stdio::null()).stderr(Stdio::null());
    child.stdout(if holds { Stdio::inherit() } else { Stdio::null() });
    // Never waited for: it is to outlive this process.
    child.spawn().map(drop)
}

/// Leaves a process behind that has no parent any more, and ends by itself soon after.
pub(crate) fn orphan() -> io::Result<()> {
    let mut parent = Command::new("sh");
    parent.args(["-c", "sleep 0.3 & exit 0"]);
    parent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    parent.status().map(drop)
}

/// Starts a child that reads the stdin of this process and throws it away.
pub(crate) fn feed(tag: Option<&str>) -> io::Result<()> {
    let mut child = Command::new("sh");
    // What follows the command is its name, which is there to be found by.
    child.args(["-c", "cat; :"]).args(tag);
    child.stdout(Stdio::null()).stderr(Stdio::null());
    child.spawn().map(drop)
}
