//! Child processes of a test: found, started, watched and ended.

use crate::{PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// How long a process may take to end once it is told to; then it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The program to test in the place of this workspace's own `seawall`.
const BINARY: &str = "SEAWALL_BINARY";

/// A program of this workspace, beside the running test; the variable `SEAWALL_BINARY` names another `seawall`.
///
/// # Panics
/// When it has not been built.
pub fn binary(name: &str) -> PathBuf {
    if name == "seawall"
        && let Some(path) = std::env::var_os(BINARY)
    {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask test`, which builds every program that the tests start",
        path.display()
    );
    path
}

/// Variables that would send the requests of a process under test elsewhere.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// A running process whose output goes to files. Dropped, it is ended and reaped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program of this workspace in `directory`, which gets its output too.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
        directory: &Path,
    ) -> Self {
        Self::run(name, binary(name), arguments, &[], directory)
    }

    /// Starts any program in `directory`, which gets its output too, with these variables besides those of
    /// the test run that do not concern it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run<A: AsRef<OsStr>>(
        name: &'static str,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
        directory: &Path,
    ) -> Self {
        let (stdout, stderr) = (directory.join("stdout"), directory.join("stderr"));
        let file = |path: &Path| File::create(path).expect("a temporary directory can be written");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file(&stdout))
            .stderr(file(&stderr))
            .env("HOME", directory)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME");
        // The variables of the test run itself are no keys of the daemon's configuration.
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"SEAWALL_") {
                command.env_remove(variable);
            }
        }
        for variable in PROXIES {
            command.env_remove(variable);
        }
        command.envs(variables.iter().copied());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        read(&self.stdout)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        read(&self.stderr)
    }

    /// Its exit code if it has ended, -1 where a signal ended it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("a child of this process can be waited for");
        status.map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for its end; gives its exit code, -1 where a signal ended it.
    ///
    /// # Panics
    /// When it does not end soon.
    pub async fn ended(&mut self) -> i32 {
        let mut code = None;
        let what = format!("the end of {}", self.name);
        eventually(&what, PATIENCE, async || {
            code = self.exit_code();
            code.is_some()
        })
        .await;
        code.expect("the condition held")
    }

    fn end(&mut self) {
        if self.exit_code().is_some() {
            return;
        }
        // An error means that it ended just now.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while self.exit_code().is_none() {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} printed:\n{}\n---- and logged:\n{}", self.name, self.output(), self.log());
        }
        self.end();
    }
}

fn read(path: &Path) -> String {
    // Read while a failed test unwinds, too, where another panic would hide the first.
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
