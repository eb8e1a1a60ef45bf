//! What the tasks share about processes: the workspace's own cargo, steps that fail loudly, servers that end
//! with their guard.

use std::env;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// What `cargo run` tells this process about its own package. Handed on, it would make build scripts that
/// watch these variables (ring's does) run anew each time a task and a plain `cargo build` take turns.
const OWN_PACKAGE: [&str; 5] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this package lies directly in the workspace").to_owned()
}

/// The cargo that started this process, to be run in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).stdin(Stdio::null());
    remove_variables(&mut command, &OWN_PACKAGE);
    command
}

/// Keeps every variable whose name starts with one of `prefixes` from reaching `command`.
pub(crate) fn remove_variables(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// Runs `command` with this process's own output streams and returns how it ended.
pub(crate) fn run_visibly(command: &mut Command) -> Result<ExitStatus, String> {
    command.status().map_err(|error| format!("{}: {error}", shown(command)))
}

/// Runs `command` with its output captured and returns its standard output. A failure carries the command
/// line, how it ended and everything it printed.
pub(crate) fn run_captured(command: &mut Command) -> Result<String, String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{}: {error}", shown(command)))?;
    let standard = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(standard);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed ({}):\n{standard}{errors}", shown(command), output.status))
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// A process that ends when this value is dropped: SIGTERM, a grace, SIGKILL, reaped in any case.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    /// Starts `command`. Its standard error goes to `log`, and its standard output too unless that is to be
    /// `piped`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path, piped: bool) -> Result<Self, String> {
        let opened = || -> io::Result<(File, File)> {
            let file = File::create(log)?;
            let second = file.try_clone()?;
            Ok((file, second))
        };
        let (errors, standard) = opened().map_err(|error| format!("{}: {error}", log.display()))?;
        command.stdin(Stdio::null()).stderr(errors);
        if piped {
            command.stdout(Stdio::piped());
        } else {
            command.stdout(standard);
        }
        let child = command.spawn().map_err(|error| format!("{}: {error}", shown(command)))?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// The process's standard output, once, if it was piped.
    pub(crate) fn take_output(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))
    }

    /// An error about this process that carries what it wrote.
    pub(crate) fn failure(&self, what: &str) -> String {
        let written = std::fs::read(&self.log).unwrap_or_default();
        let written = String::from_utf8_lossy(&written);
        format!("{} {what}\n{}:\n{written}", self.name, self.log.display())
    }

    /// Waits until the process has ended by itself; `None` when it still runs after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let mut waited = Duration::ZERO;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || waited >= limit {
                return Ok(ended);
            }
            sleep(POLL);
            waited += POLL;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        // The child is not reaped yet, so its pid is still its own. An error means that it has just ended.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        if !matches!(self.wait(GRACE), Ok(Some(_))) {
            eprintln!("xtask: {} did not end within {} s of SIGTERM: killed", self.name, GRACE.as_secs());
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
