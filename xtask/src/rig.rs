//! What the measuring tasks stand on: release builds in one place, servers that answer, and what a process weighs.

use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write, stderr};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use crate::process::{Server, cargo, remove_variables, run_captured, run_visibly, workspace_root};

/// How long a server may take until it answers, and how often it is asked meanwhile.
const START_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// How long one answer of the daemon about itself may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The release binaries, and a directory for what a run leaves.
#[derive(Debug)]
pub(crate) struct Rig {
    binaries: PathBuf,
    scratch: PathBuf,
}

/// A running `seawall serve`.
#[derive(Debug)]
pub(crate) struct Gateway {
    server: Server,
    port: u16,
}

impl Rig {
    /// Builds what is measured and what measures it. `name` is that of the directory under the target directory.
    pub(crate) fn prepare(name: &str) -> Result<Self, String> {
        let packages =
            ["--package", "seawall", "--package", "seawall-bench", "--package", "seawall-misbehave"];
        let mut build = cargo();
        build.args(["build", "--release", "--bins"]).args(packages).stdout(stderr());
        if !run_visibly(&mut build)?.success() {
            return Err("the build failed".to_owned());
        }
        raise_descriptor_limit()?;
        let target = target_directory();
        let scratch = target.join(name);
        emptied(&scratch)?;
        let binaries = target.join("release");
        // The kernel names running programs by their resolved paths.
        let binaries = fs::canonicalize(&binaries).map_err(at(&binaries))?;
        Ok(Self { binaries, scratch })
    }

    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Starts one of the programs; what it writes goes to a file of this `name`.
    pub(crate) fn start(&self, name: &str, program: &str, arguments: &[&str]) -> Result<Server, String> {
        let mut command = Command::new(self.binary(program));
        command.args(arguments);
        Server::start(program, &mut command, &self.scratch.join(format!("{name}.log")), false)
    }

    /// Starts Seawall on a free port, with this configuration and a state directory of its own, and waits until it
    /// answers.
    pub(crate) fn seawall(&self, name: &str, config: &str) -> Result<Gateway, String> {
        let port = free_port()?;
        let directory = self.scratch.join(name);
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let file = directory.join("seawall.toml");
        let state = quoted(&directory.join("state"));
        let text = format!("listen = \"127.0.0.1:{port}\"\nstate = {state}\ngrace = \"1s\"\n{config}");
        fs::write(&file, text).map_err(at(&file))?;
        let mut command = Command::new(self.binary("seawall"));
        command.args(["serve", "--log-format", "json", "--config"]).arg(&file).current_dir(&directory);
        // Variables of this name override keys of the configuration.
        remove_variables(&mut command, &["SEAWALL_"]);
        let mut server = Server::start("seawall", &mut command, &directory.join("log"), false)?;
        let mut waited = Duration::ZERO;
        while get(port, "/healthz").is_err() {
            if let Some(status) = server.ended()? {
                return Err(server.failure(&format!("ended while starting ({status})")));
            }
            if waited >= START_LIMIT {
                return Err(server.failure("did not become healthy"));
            }
            sleep(PAUSE);
            waited += PAUSE;
        }
        Ok(Gateway { server, port })
    }

    /// The report of one `mcp-bench` command.
    pub(crate) fn bench(&self, arguments: &[&str]) -> Result<Value, String> {
        let report = run_captured(Command::new(self.binary("mcp-bench")).args(arguments))?;
        serde_json::from_str(&report).map_err(|error| format!("mcp-bench printed no report: {error}"))
    }

    /// The process that this one started from a program of the rig, of which there must be one.
    pub(crate) fn process(&self, program: &str) -> Result<u32, String> {
        let path = self.binary(program);
        let own = std::process::id();
        let theirs = |process: &Process| {
            process.parent == own
                && fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|exe| exe == path)
        };
        let found: Vec<u32> =
            descendants(own).iter().filter(|process| theirs(process)).map(|one| one.pid).collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => Err(format!("{} processes of {program} run, not one", found.len())),
        }
    }
}

impl Gateway {
    /// The endpoint with all servers.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let status = get(self.port, "/api/v1/status").map_err(|why| self.server.failure(&why))?;
        serde_json::from_str(&status).map_err(|error| format!("its status is no JSON: {error}"))
    }
}

/// Where cargo puts what it builds in the workspace.
pub(crate) fn target_directory() -> PathBuf {
    let root = workspace_root();
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |given| root.join(given))
}

/// Makes a directory that holds nothing.
pub(crate) fn emptied(directory: &Path) -> Result<(), String> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(directory)(error)),
        _ => fs::create_dir_all(directory).map_err(at(directory)),
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// A path as a TOML string, which JSON's are as well.
pub(crate) fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy()).to_string()
}

pub(crate) fn at(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// The median; of nothing it is not a number, which keeps no bound.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Thousands of connections need as many descriptors, here and in what is started from here.
fn raise_descriptor_limit() -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| format!("the limit of descriptors cannot be raised: {error}"))
}

/// The body of an answer that must be a 200.
fn get(port: u16, path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("GET {path}: {error}");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("GET {path}: no HTTP answer"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("GET {path}: {}", head.lines().next().unwrap_or_default()));
    }
    Ok(body.to_owned())
}

/// A process as /proc shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// When it started, in clock ticks since boot: with the pid it names one process for good.
    pub(crate) started: u64,
    /// Ended, and not reaped.
    pub(crate) dead: bool,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, so fields count from behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (state, parent, started) = (fields.first()?, fields.get(1)?, fields.get(19)?);
        let dead = matches!(*state, "Z" | "X");
        Some(Self { pid, parent: parent.parse().ok()?, started: started.parse().ok()?, dead })
    }
}

/// Every process that descends from this one, the unreaped included.
pub(crate) fn descendants(ancestor: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut others: Vec<Process> = pids.filter_map(Process::read).collect();
    let (mut found, mut next): (Vec<Process>, usize) = (Vec::new(), 0);
    let mut parent = Some(ancestor);
    while let Some(of) = parent {
        let (children, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|process| process.parent == of);
        found.extend(children);
        others = rest;
        parent = found.get(next).map(|process| process.pid);
        next += 1;
    }
    found
}

/// The memory of a process that is in RAM, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(at(Path::new(&path)))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(|| format!("{path} has no VmRSS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_descends_from_this_process_and_weighs_something() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants(std::process::id());
        assert!(
            found.iter().any(|process| process.pid == child.id() && process.parent == std::process::id())
        );
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
