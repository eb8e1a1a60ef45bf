//! The daemon under test.

use crate::http::{Response, send, try_send};
use crate::process::{Process, binary};
use crate::{PATIENCE, eventually};
use hyper::body::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long the daemon may take to become healthy.
const START: Duration = Duration::from_secs(20);
/// How long a call's permits may be held once its outcome is known.
const SETTLE: Duration = Duration::from_secs(5);
/// The arguments that send a daemon's log to standard error.
const LOG_HERE: &[&str] = &["--log-format", "json"];
/// The name of a daemon's configuration file.
const CONFIGURATION: &str = "seawall.toml";

/// A running `seawall serve` with a configuration and a state directory of its own. Dropped, it is ended;
/// where the test failed, its log is printed.
#[derive(Debug)]
pub struct Daemon {
    // Before the directory, so that the process ends while its files are there.
    process: Process,
    directory: TempDir,
    base: String,
    token: Option<String>,
}

impl Daemon {
    /// Starts a daemon on a free port and waits until it is healthy. `config` is a `seawall.toml` without
    /// `listen` and `state`; where it sets no `grace`, that is one second.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// Starts a daemon like [`Daemon::start`], with further environment variables.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn start_with(config: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_as(config, variables, LOG_HERE).await
    }

    /// Starts a daemon like [`Daemon::start_with`], with these arguments in the place of those that send its
    /// log to standard error.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn start_as(config: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        for _ in 0..3 {
            match Self::try_start(config, variables, arguments).await {
                Ok(daemon) => return daemon,
                // Another test took the port in between.
                Err(log) if log.contains("in use") => {}
                Err(log) => panic!("the daemon ended before it was healthy:\n{log}"),
            }
        }
        panic!("three free ports in turn were taken before the daemon could listen on them");
    }

    async fn try_start(config: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Result<Self, String> {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let base = format!("http://{}", free_address());
        let process = serve(&whole(&base, config), variables, arguments, directory.path());
        let mut daemon = Self { process, directory, base, token: None };
        let deadline = Instant::now() + START;
        loop {
            let healthy = try_send(&daemon.url("/healthz"), "GET", &[], Bytes::new()).await;
            // First, because whatever answers on the port of a daemon that ended is another one.
            if daemon.process.exit_code().is_some() {
                return Err(format!("{}{}", daemon.process.output(), daemon.log()));
            }
            if healthy.is_ok_and(|response| response.status == 200) {
                return Ok(daemon);
            }
            assert!(Instant::now() < deadline, "the daemon is not healthy after {START:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a daemon that should refuse its configuration; gives its exit code and all it printed. `config`
    /// is a `seawall.toml` without `state`.
    pub async fn refused(config: &str) -> (i32, String) {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let mut process = serve(&format!("state = \"state\"\n{config}"), &[], LOG_HERE, directory.path());
        let code = process.ended().await;
        (code, format!("{}{}", process.output(), process.log()))
    }

    /// The same daemon, asked as the caller with this token.
    #[must_use]
    pub fn as_caller(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// The address of a path of it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its directory, which holds its configuration and its state.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join(CONFIGURATION)
    }

    /// Puts another configuration, as for [`Daemon::start`], in the place of its own, in one step.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, config: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, whole(&self.base, config)).expect("a temporary directory can be written");
        fs::rename(new, self.configuration()).expect("a temporary directory can be written");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When its end has been waited for.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("no process has the number 0");
        kill_process(pid, signal).expect("a child that nobody has waited for can be signalled");
    }

    /// Waits for its end and gives its exit code, -1 where a signal ended it.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`](crate::PATIENCE).
    pub async fn ended(&mut self) -> i32 {
        self.process.ended().await
    }

    /// Kills it outright, and starts another with the same configuration and the same state.
    ///
    /// # Panics
    /// When the other does not become healthy.
    pub async fn kill_and_start_again(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
        self.start_again().await;
    }

    /// Starts another in the place of one that has ended, with the same configuration and the same state.
    ///
    /// # Panics
    /// When it does not become healthy.
    pub async fn start_again(&mut self) {
        let text = fs::read_to_string(self.configuration()).expect("its configuration is there");
        self.process = serve(&text, &[], LOG_HERE, self.directory.path());
        eventually("the daemon is healthy again", START, async || {
            let healthy = try_send(&self.url("/healthz"), "GET", &[], Bytes::new()).await;
            healthy.is_ok_and(|response| response.status == 200)
        })
        .await;
    }

    /// Switches an upstream off, or on again.
    pub async fn switch(&self, upstream: &str, on: bool) -> Value {
        let verb = if on { "enable" } else { "disable" };
        let response = self.request("POST", &format!("/api/v1/upstreams/{upstream}/{verb}"), "{}").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// The instances of an upstream, as status shows them.
    pub async fn instances(&self, upstream: &str) -> Vec<Value> {
        let status = self.status().await;
        let upstreams = status["upstreams"].as_array().expect("status lists the upstreams");
        let found = upstreams.iter().find(|found| found["name"] == upstream).expect("it is configured");
        found["instances"].as_array().expect("status lists instances").clone()
    }

    /// What it has logged to standard error so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What `GET /api/v1/status` says.
    pub async fn status(&self) -> Value {
        let response = self.request("GET", "/api/v1/status", "").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// What `GET /metrics` says.
    pub async fn metrics(&self) -> String {
        let response = self.request("GET", "/metrics", "").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.body
    }

    /// Restarts the instances of an upstream.
    pub async fn restart(&self, upstream: &str) {
        let response = self.request("POST", &format!("/api/v1/upstreams/{upstream}/restart"), "{}").await;
        assert!((200..300).contains(&response.status), "{response:?}");
    }

    /// Waits until no permit is held.
    pub async fn until_idle(&self) {
        eventually("every permit is given back", SETTLE, async || {
            self.status().await["permits"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    }

    /// Waits until no conversation is open.
    pub async fn until_no_conversation(&self) {
        eventually("every conversation is over", PATIENCE, async || {
            self.status().await["conversations"] == 0
        })
        .await;
    }

    async fn request(&self, verb: &str, path: &str, body: &'static str) -> Response {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json"), ("accept", "*/*")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        send(&self.url(path), verb, &headers, body).await
    }
}

/// The table of a caller with this token and these patterns of tools.
pub fn caller(name: &str, token: &str, tools: &[&str]) -> String {
    let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[callers.{name}]\ntoken = \"sha256:{hash}\"\ntools = {tools:?}\n")
}

/// The whole of a daemon's configuration: `config` and what comes before it.
fn whole(base: &str, config: &str) -> String {
    let address = base.trim_start_matches("http://");
    let grace = if config.lines().any(|line| line.starts_with("grace")) { "" } else { "grace = \"1s\"\n" };
    format!("listen = \"{address}\"\nstate = \"state\"\n{grace}{config}")
}

fn serve(config: &str, variables: &[(&str, &str)], arguments: &[&str], directory: &Path) -> Process {
    let file = directory.join(CONFIGURATION);
    fs::write(&file, config).expect("a temporary directory can be written");
    let all = ["serve", "--config"].map(OsStr::new).into_iter().chain([file.as_os_str()]);
    let all = all.chain(arguments.iter().map(OsStr::new));
    Process::run("seawall", binary("seawall"), all, variables, directory)
}

/// A loopback address that nothing listens on at the moment.
///
/// # Panics
/// When loopback has no free port.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address")
}
