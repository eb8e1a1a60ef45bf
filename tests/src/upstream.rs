//! Upstreams for the daemon under test: the `misbehave` server over each transport, and what it recorded.

use crate::process::{Process, binary};
use crate::{PATIENCE, eventually};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

/// How an upstream is reached, and what it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A process that speaks its caller's era.
    Stdio,
    /// A service with sessions.
    LegacyHttp,
    /// A service whose requests stand alone.
    ModernHttp,
    /// A service of the transport before that: requests by POST, answers on one stream of events.
    Sse,
    /// A connection over WebSocket.
    WebSocket,
}

impl Transport {
    /// Its name in reports, which a server may have too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::LegacyHttp => "legacy-http",
            Self::ModernHttp => "modern-http",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
        }
    }
}

/// One `misbehave` server as a configuration names it.
#[derive(Debug)]
pub struct Upstream {
    table: String,
    record: Record,
    /// The process; the daemon starts its own where they speak over stdio.
    _process: Option<Misbehave>,
}

impl Upstream {
    /// A server with these flags. `keys` are further lines of its table.
    pub async fn start(transport: Transport, name: &str, flags: &[&str], keys: &str) -> Self {
        let record = Record::new();
        let path = record.path();
        let mut all = vec!["--record", path.as_str()];
        all.extend_from_slice(flags);
        let era = match transport {
            Transport::Stdio => {
                let table = stdio_table(name, &all, keys);
                return Self { table, record, _process: None };
            }
            Transport::LegacyHttp | Transport::Sse | Transport::WebSocket => "legacy",
            Transport::ModernHttp => "modern",
        };
        // Flags may say the era themselves.
        if !flags.contains(&"--era") {
            all.extend_from_slice(&["--era", era]);
        }
        let process = Misbehave::http(&all).await;
        let base = process.url().trim_end_matches("/mcp");
        let place = match transport {
            Transport::Sse => format!("url = {}\ntransport = \"sse\"", quoted(&format!("{base}/sse"))),
            Transport::WebSocket => {
                format!("url = {}", quoted(&format!("{}/ws", base.replacen("http", "ws", 1))))
            }
            Transport::Stdio | Transport::LegacyHttp | Transport::ModernHttp => {
                format!("url = {}", quoted(process.url()))
            }
        };
        let table = format!("[servers.{name}]\n{place}\n{keys}\n");
        Self { table, record, _process: Some(process) }
    }

    /// Its `[servers.NAME]` table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What has reached it.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// The table of a healthy server `well` that everyone shares.
pub fn well() -> String {
    stdio_table("well", &[], "sharing = \"everyone\"")
}

fn stdio_table(name: &str, flags: &[&str], keys: &str) -> String {
    let (command, arguments) = misbehave_command(flags);
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    let (command, arguments) = (quoted(&command), arguments.join(", "));
    format!("[servers.{name}]\ncommand = {command}\nargs = [{arguments}]\n{keys}\n")
}

/// A string of JSON is one of TOML, too.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The command and the arguments that start a `misbehave` server on stdio.
pub fn misbehave_command(flags: &[&str]) -> (String, Vec<String>) {
    let command = binary("misbehave").into_os_string().into_string().expect("paths of builds are UTF-8");
    let arguments = ["--stdio"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    (command, arguments)
}

/// A `misbehave` server over HTTP. Dropped, it is ended.
#[derive(Debug)]
pub struct Misbehave(Listening);

impl Misbehave {
    /// Starts one on a free port and waits until it listens.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub async fn http(flags: &[&str]) -> Self {
        Self(Listening::start("misbehave", flags).await)
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        self.0.url()
    }
}

/// A program of this workspace that serves HTTP and prints where. Dropped, it is ended.
#[derive(Debug)]
pub struct Listening {
    // Before the directory, so that the process ends while its files are there.
    _process: Process,
    _directory: TempDir,
    url: String,
}

impl Listening {
    /// Starts one on a free port and waits until it listens.
    ///
    /// # Panics
    /// When it does not come to listen.
    pub async fn start(name: &'static str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let arguments = ["--listen", "127.0.0.1:0"].iter().chain(flags);
        let process = Process::start(name, arguments, directory.path());
        let mut url = None;
        eventually(&format!("{name} listens"), PATIENCE, async || {
            let output = process.output();
            let line = output.lines().next().filter(|_| output.ends_with('\n'));
            url = line.and_then(|line| line.strip_prefix("listening on ")).map(str::to_owned);
            url.is_some()
        })
        .await;
        Self { _process: process, _directory: directory, url: url.expect("the condition held") }
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// What reached a `misbehave` server, as it noted it itself.
#[derive(Debug)]
pub struct Record(TempDir);

impl Record {
    /// A record that nothing has been written to.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[expect(clippy::new_without_default, reason = "it makes a directory, which a default should not")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for temporary files"))
    }

    /// The file, for the flag `--record`.
    pub fn path(&self) -> String {
        self.0.path().join("record").to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// All entries so far.
    pub fn entries(&self) -> Vec<Value> {
        // There is no file before the first process.
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("each entry is one whole line")).collect()
    }

    /// The calls of a tool, in the order in which they came.
    pub fn calls(&self, tool: &str) -> Vec<Value> {
        let mut entries = self.entries();
        entries.retain(|entry| entry["event"] == "message" && entry["name"] == tool);
        entries
    }

    /// Whether a call of a tool was taken back: by a notification, or by a stream closed before its answer.
    pub fn took_back(&self, tool: &str) -> bool {
        let calls = self.calls(tool);
        let names = |id: &Value| calls.iter().any(|call| call["id"] == *id);
        self.entries().iter().any(|entry| {
            entry["method"] == "notifications/cancelled" && names(&entry["requestId"])
                || entry["event"] == "stream_closed" && names(&entry["id"])
        })
    }

    /// Waits for an entry and gives it.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`](crate::PATIENCE).
    pub async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually(what, PATIENCE, async || {
            found = self.entries().into_iter().find(|entry| is_it(entry));
            found.is_some()
        })
        .await;
        found.expect("the condition held")
    }

    /// Waits until a call of a tool has come and gives its entry.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`](crate::PATIENCE).
    pub async fn until_called(&self, tool: &str) -> Value {
        let what = format!("a call of {tool} reaches the upstream");
        self.until(&what, |entry| entry["event"] == "message" && entry["name"] == tool).await
    }
}

/// A test for each pair of a client's era and an upstream's [`Transport`]: each calls
/// `check(era, transport, arguments…)`.
#[macro_export]
macro_rules! every_pair {
    ($check:ident $(, $argument:expr)*) => {
        $crate::every_pair!(@ legacy_client_to_stdio, Legacy, Stdio, $check $(, $argument)*);
        $crate::every_pair!(@ legacy_client_to_legacy_http, Legacy, LegacyHttp, $check $(, $argument)*);
        $crate::every_pair!(@ legacy_client_to_modern_http, Legacy, ModernHttp, $check $(, $argument)*);
        $crate::every_pair!(@ modern_client_to_stdio, Modern, Stdio, $check $(, $argument)*);
        $crate::every_pair!(@ modern_client_to_legacy_http, Modern, LegacyHttp, $check $(, $argument)*);
        $crate::every_pair!(@ modern_client_to_modern_http, Modern, ModernHttp, $check $(, $argument)*);
    };
    (@ $name:ident, $era:ident, $transport:ident, $check:ident $(, $argument:expr)*) => {
        #[tokio::test]
        async fn $name() {
            Box::pin($check($crate::Era::$era, $crate::Transport::$transport $(, $argument)*)).await;
        }
    };
}
