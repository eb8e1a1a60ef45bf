//! Configuration: from the text of files and variables to one value that cannot be wrong.
//!
//! Nothing here reads a file or a variable by itself. The binary hands over texts ([`Sources`]) and gets back
//! either a whole [`Config`] with remarks, or every fault there is, each with its file, line, key and remedy.
//! A `Config` never changes: a new one replaces it whole.

mod address;
mod expand;
mod foreign;
mod json;
mod limits;
mod lower;
mod pool;
mod raw;
mod servers;
mod terms;
#[cfg(test)]
mod tests;
mod timeouts;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_proto::{era::Pin, mcp::Effects};
use sha2::{Digest, Sha256};

pub use foreign::{ForeignFile, ForeignServer, foreign};
pub use limits::Preset;
pub use lower::{imports, lower};
pub use pool::Pool;
pub use servers::{LEAST_RESULT, tame_name};
pub use terms::{Breaker, Duplicates, Learn, Rate, Retries, Terms};
pub use timeouts::{Chain, Link, Timeouts, chain};

pub(crate) use raw::quoted;

/// The embedded configuration file: every key with its default, as comments (`#key = value`). It stands in
/// where there is no `seawall.toml`.
pub const DEFAULT: &str = include_str!("config/default.toml");

/// Bounds one call where nothing else is set.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(50);

/// One file's text. Its `Debug` form leaves the text out, because it may hold secrets.
#[derive(Clone)]
pub struct Source {
    /// The file's path, as it should be named in faults and notes.
    pub path: PathBuf,
    /// The file's whole text.
    pub text: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).field("bytes", &self.text.len()).finish()
    }
}

/// What a configuration is made from.
pub struct Sources<'a> {
    /// `seawall.toml`; `None` stands for the embedded defaults.
    pub own: Option<Source>,
    /// Other clients' files: those of `--mcp-config FILE` and of `import = [...]`, in that order.
    pub foreign: Vec<Source>,
    /// Looks up a variable of the environment, for `${VAR}` in servers.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The `SEAWALL_*` variables by name and value; they take precedence over the own file.
    pub overrides: Vec<(String, String)>,
    /// The state directory where neither the file nor `SEAWALL_STATE` names one.
    pub state_default: PathBuf,
    /// The directory that relative paths of the own file are resolved against: the directory of that file.
    pub base: PathBuf,
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.overrides.iter().map(|(name, _)| name).collect();
        f.debug_struct("Sources")
            .field("own", &self.own)
            .field("foreign", &self.foreign)
            .field("overrides", &names)
            .field("state_default", &self.state_default)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// Something wrong in the configuration: the daemon does not start, or keeps the configuration it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file; `environment` for a variable.
    pub path: PathBuf,
    /// The line, counted from 1; 0 for a variable, which has none.
    pub line: usize,
    /// The full key path (`servers.x.timeout`) or the variable's name; empty where no key could be read.
    pub key: String,
    /// What the value was and what to write instead. Never a secret.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        placed(f, &self.path, self.line, &self.key, &self.message)
    }
}

impl std::error::Error for ConfigFault {}

/// A remark on something that was read differently from how it stands, or not at all. Nothing is refused for
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The full key path (`mcpServers.x.timeout`); empty where the remark is on the whole file.
    pub key: String,
    /// What was done, and why. Never a secret.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        placed(f, &self.path, self.line, &self.key, &self.message)
    }
}

fn placed(f: &mut fmt::Formatter<'_>, path: &Path, line: usize, key: &str, message: &str) -> fmt::Result {
    write!(f, "{}:", path.display())?;
    if line > 0 {
        write!(f, "{line}:")?;
    }
    if !key.is_empty() {
        write!(f, " {key}:")?;
    }
    write!(f, " {message}")
}

/// The whole configuration, valid by construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the daemon listens; key `listen`, default `127.0.0.1:8079`. Beyond loopback only with `callers`.
    pub listen: SocketAddr,
    /// Host names accepted besides the loopback names and the listen address; key `allowed_hosts`, default
    /// none.
    pub allowed_hosts: Vec<String>,
    /// Origins accepted besides our own; key `allowed_origins`, default none.
    pub allowed_origins: Vec<String>,
    /// The state directory; key `state`, default [`Sources::state_default`].
    pub state: PathBuf,
    /// Who may call, `[callers.NAME]` in file order. Empty means that loopback is the caller `local`.
    pub callers: Vec<Caller>,
    /// The upstreams in file order, those of the own file first.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What holds for clients by their names, `[clients.NAME]` in file order.
    pub clients: Vec<Client>,
    /// Parts of the upstreams with a path of their own, `[groups.NAME]` in file order.
    pub groups: Vec<Group>,
    /// Limits of admission, memory and sessions; table `[limits]`.
    pub limits: Limits,
    /// What bounds calls from outside of their tools; table `[timeouts]`.
    pub timeouts: Timeouts,
    /// How long running calls may go on once the daemon is told to stop; key `grace`, default 10 s. Zero ends
    /// them at once.
    pub grace: Duration,
}

impl Config {
    /// The configuration of a daemon without any file or variable, with its state in `state`.
    pub fn default_for(state: PathBuf) -> Self {
        let sources = Sources {
            own: None,
            foreign: Vec::new(),
            environment: &|_| None,
            overrides: Vec::new(),
            state_default: state,
            base: PathBuf::new(),
        };
        lower(&sources).expect("the embedded defaults hold no value that could be wrong").0
    }
}

/// A configured principal, `[callers.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 . _ @ -`.
    pub name: String,
    /// The SHA-256 of its token; key `token = "sha256:HEX"`, required.
    pub token_sha256: [u8; 32],
    /// What it may see and call: patterns over `server__tool` in which `*` stands for anything, also nothing;
    /// key `tools`, default `["*"]`. An empty list allows no tool.
    pub tools: Vec<String>,
    /// How many calls it may make; key `rate`, default `rate` of `[limits]`.
    pub rate: Option<Rate>,
}

/// What holds for the calls of clients of one name, `[clients.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The name it gives itself in `clientInfo`.
    pub name: String,
    /// By when it wants an answer; key `limit`, default what is known of it. Zero: never.
    pub limit: Option<Duration>,
    /// How often a call that it asked for progress tells that it goes on; key `heartbeat`, default 8 s. Zero: never.
    pub heartbeat: Option<Duration>,
}

/// Some upstreams under the path `/mcp/group/NAME`, `[groups.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name: 1 to 32 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// The names of its upstreams, each of them configured; key `servers`, required.
    pub servers: Vec<String>,
    /// Which of their tools it has: patterns like those of [`Caller::tools`]; key `tools`, default `["*"]`.
    pub tools: Vec<String>,
}

/// A server that answers calls, `[servers.NAME]` or an entry of another client's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name: 1 to 32 of `A-Z a-z 0-9 _ -`, without `__`, unique also when case and `-`/`_` are not told
    /// apart.
    pub name: String,
    /// Whether it is used at all; key `enabled`, default true.
    pub enabled: bool,
    /// Variables that it names, that are unset and have no default: it is listed as "needs V" and not
    /// started.
    pub needs: Vec<String>,
    /// How it is reached.
    pub kind: Kind,
    /// Who shares one process or connection; key `sharing`, default [`Sharing::Session`].
    pub sharing: Sharing,
    /// As which client Seawall logs in at it; key `oauth`, default none: a client that registers itself.
    pub oauth: Option<OAuth>,
    /// The protocol era it is held to; key `era = "auto" | "legacy" | "modern"`, default auto.
    pub era: Pin,
    /// Bounds one call; key `timeout`, default 50 s. Zero: no limit of its own, so that only the daemon's holds.
    /// [`Config::timeout_of`] says what comes of it.
    pub timeout: Duration,
    /// Bounds spawning or connecting together with the handshake; key `start_timeout`, default 60 s, never
    /// zero.
    pub start_timeout: Duration,
    /// Bounds the reading of one whole list; key `list_timeout`, default 10 s, never zero.
    pub list_timeout: Duration,
    /// Calls in flight at once; key `limit`, default none (the daemon's own limits hold anyway).
    pub limit: Option<NonZeroUsize>,
    /// Whose limit in `limits.providers` its calls count against; key `provider`, default none.
    pub provider: Option<String>,
    /// On which terms calls of its tools are taken.
    pub terms: Terms,
    /// The class of `timeouts.classes` that bounds attempts; key `class`, default none. Its time is in `terms`.
    pub class: Option<String>,
    /// When its calls are made again; key `retries`.
    pub retries: Retries,
    /// When its calls are not made because so many failed; key `breaker`.
    pub breaker: Breaker,
    /// Whether its tools' annotations are believed about effects; key `trust_hints`, default true.
    pub trust_hints: bool,
    /// What is known about single tools, by their own names; tables `[servers.NAME.tools.TOOL]`.
    pub tools: BTreeMap<String, ToolConfig>,
    /// How long each step of ending its process may take; key `stop_grace`, default 2 s. Zero goes on at
    /// once.
    pub stop_grace: Duration,
    /// How many instances there are, and how long each of them lives.
    pub pool: Pool,
    /// Whether a tool whose definition changes is refused until the change is accepted; key `pin`, default false.
    pub pin: bool,
    /// The largest result that is handed on whole, in bytes; what goes beyond is kept behind a link. Key
    /// `result_limit`, default none, never below [`LEAST_RESULT`].
    pub result_limit: Option<usize>,
}

impl Upstream {
    /// An upstream of which only name and kind are known; everything else is at its default.
    fn new(name: String, kind: Kind) -> Self {
        Self {
            name,
            enabled: true,
            needs: Vec::new(),
            kind,
            oauth: None,
            sharing: Sharing::default(),
            era: Pin::default(),
            timeout: TIMEOUT,
            start_timeout: Duration::from_secs(60),
            list_timeout: Duration::from_secs(10),
            limit: None,
            provider: None,
            terms: Terms::default(),
            class: None,
            retries: Retries::default(),
            breaker: Breaker::default(),
            trust_hints: true,
            tools: BTreeMap::new(),
            stop_grace: Duration::from_secs(2),
            pool: Pool::default(),
            pin: false,
            result_limit: None,
        }
    }

    /// The largest result of one of its tools that is handed on whole, in bytes, where that is limited.
    pub fn result_limit_of(&self, tool: &str) -> Option<usize> {
        self.tools.get(tool).and_then(|tool| tool.result_limit).or(self.result_limit)
    }

    /// Whether any of its results may be kept behind a link.
    pub fn limits_results(&self) -> bool {
        self.result_limit.is_some() || self.tools.values().any(|tool| tool.result_limit.is_some())
    }

    /// What makes this upstream another process or service than the next one, as 64 hex digits: its kind,
    /// command, arguments, environment and directory, or its URL, headers, certificates and OAuth
    /// client, and its era. Neither its name nor any time or limit is part of it. Parts go in with their lengths, so that no two
    /// lists look alike.
    pub fn key(&self) -> String {
        let mut hash = Fingerprint(Sha256::new());
        match &self.kind {
            Kind::Stdio { command, args, env, cwd } => {
                hash.part(b"stdio");
                hash.part(command.as_bytes());
                hash.count(args.len());
                args.iter().for_each(|argument| hash.part(argument.as_bytes()));
                hash.count(env.len());
                for (name, value) in env {
                    hash.part(name.as_bytes());
                    hash.part(value.expose().as_bytes());
                }
                hash.path(cwd.as_deref());
            }
            Kind::Http { transport, url, headers, ca_file } => {
                hash.part(match transport {
                    Transport::Streamable => b"http",
                    Transport::Sse => b"sse",
                    Transport::WebSocket => b"websocket",
                });
                hash.part(url.as_bytes());
                hash.count(headers.len());
                for (name, value) in headers {
                    hash.part(name.as_bytes());
                    hash.part(value.expose().as_bytes());
                }
                hash.path(ca_file.as_deref());
            }
        }
        hash.part(format!("{:?}", self.era).as_bytes());
        if let Some(OAuth { client_id, client_secret, client_metadata, scopes: _ }) = &self.oauth {
            hash.part(b"oauth");
            let secret = client_secret.as_ref().map(Secret::expose);
            for part in [client_id.as_deref(), secret, client_metadata.as_deref()] {
                hash.count(usize::from(part.is_some()));
                hash.part(part.unwrap_or_default().as_bytes());
            }
        }
        let digest: [u8; 32] = hash.0.finalize().into();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A hash over parts that cannot run into each other.
struct Fingerprint(Sha256);

impl Fingerprint {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn path(&mut self, path: Option<&Path>) {
        self.count(usize::from(path.is_some()));
        if let Some(path) = path {
            self.part(path.as_os_str().as_encoded_bytes());
        }
    }
}

/// How an upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process that speaks over its stdin and stdout.
    Stdio {
        /// The program: a name looked up in `PATH`, or a path; key `command`.
        command: String,
        /// Its arguments; key `args`, default none.
        args: Vec<String>,
        /// Variables declared for it; key `env`, default none.
        env: BTreeMap<String, Secret>,
        /// Its working directory; key `cwd`, default the daemon's own.
        cwd: Option<PathBuf>,
    },
    /// A service that is spoken to over HTTP, or over what HTTP was upgraded to.
    Http {
        /// In which of the ways; key `transport`, default what the URL says.
        transport: Transport,
        /// A valid `http` or `https` URL without credentials (as written, where the upstream needs a variable
        /// that is unset); key `url`.
        url: String,
        /// Headers sent with every request, in file order; key `headers`, default none.
        headers: Vec<(String, Secret)>,
        /// A PEM file of certificates trusted besides the system's; key `ca_file`, default none.
        ca_file: Option<PathBuf>,
    },
}

/// How messages travel to and from a remote server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Each request is a POST (`"http"`, the default of `http://` and `https://`).
    #[default]
    Streamable,
    /// Requests are POSTs, and all answers come on one stream: the transport of 2024-11-05 (`"sse"`, the default of
    /// a URL whose path ends in `/sse`).
    Sse,
    /// All messages travel on one WebSocket (the only way of `ws://` and `wss://`).
    WebSocket,
}

impl Transport {
    /// How a URL is spoken to where nothing else is said.
    pub fn of(url: &str) -> Self {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        if url.starts_with("ws://") || url.starts_with("wss://") {
            Self::WebSocket
        } else if path.ends_with("/sse") {
            Self::Sse
        } else {
            Self::Streamable
        }
    }
}

/// As which client Seawall logs in at an upstream, table `[servers.NAME.oauth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OAuth {
    /// The client that was registered beforehand; key `client_id`, default none.
    pub client_id: Option<String>,
    /// Its secret; key `client_secret`, default none. Only with a `client_id`.
    pub client_secret: Option<Secret>,
    /// The https URL of a document that describes Seawall, used as the client's id where the authorization server
    /// reads such documents; key `client_metadata`, default none.
    pub client_metadata: Option<String>,
    /// What to ask for; key `scopes`, default what the server wants.
    pub scopes: Vec<String>,
}

/// What is known about one tool, `[servers.NAME.tools.TOOL]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolConfig {
    /// What the tool does to the world; key `effects`, default what its annotations say.
    pub effects: Option<Effects>,
    /// Bounds one call of this tool; key `timeout`, default the server's. Zero: no limit of its own.
    pub timeout: Option<Duration>,
    /// Calls of it in flight at once; key `limit`, default none (those of its server hold anyway).
    pub limit: Option<NonZeroUsize>,
    /// On which terms calls of it are taken; what is absent is the server's.
    pub terms: Terms,
    /// The class of `timeouts.classes` that bounds attempts; key `class`, default the server's. Its time is in `terms`.
    pub class: Option<String>,
    /// The largest result of this tool that is handed on whole, in bytes; key `result_limit`, default the server's.
    pub result_limit: Option<usize>,
}

/// Who shares one instance of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// One instance per conversation (`"session"`, the default).
    #[default]
    Session,
    /// One instance per caller (`"caller"`).
    Caller,
    /// One instance for all (`"everyone"`).
    Everyone,
    /// One instance per call (`"call"`).
    Call,
}

/// Limits of the whole daemon, table `[limits]`. `conversation <= caller <= total` and `detached_caller <= detached`
/// hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Under which name the limits stand that are not set; key `preset`, default none: the defaults below.
    pub preset: Option<Preset>,
    /// Calls in flight at once; key `total`, default 64.
    pub total: usize,
    /// Calls of one caller in flight at once; key `caller`, default 32, or `total` where that is less.
    pub caller: usize,
    /// Calls of one conversation in flight at once; key `conversation`, default 16, or `caller` where that is
    /// less.
    pub conversation: usize,
    /// Calls that may wait; key `queue`, default 256. Zero refuses whatever cannot run at once.
    pub queue: usize,
    /// The part of any of these that one upstream may hold, above 0 and at most 1; key `share`, default 0.5.
    pub share: f64,
    /// The part of `conversation` that one upstream may hold; key `conversation_share`, default `share`.
    pub conversation_share: f64,
    /// Whether the calls of a caller that name no conversation count as one; key `count_unnamed`, default false.
    pub count_unnamed: bool,
    /// Attempts at once that go on with nobody waiting; key `detached`, default 32.
    pub detached: usize,
    /// Those of one caller; key `detached_caller`, default 16, or `detached` where that is less.
    pub detached_caller: usize,
    /// Calls in flight at once of all servers that name one `provider`; key `providers`, default none.
    pub providers: BTreeMap<String, usize>,
    /// How many calls each caller may make that has no `rate` of its own; key `rate`, default none.
    pub rate: Option<Rate>,
    /// The bytes of results that are kept for tools with `cache`; key `cache`, default 64 MiB.
    pub cache: usize,
    /// How long an `Idempotency-Key` is remembered; key `idempotency`, default 24 h, never zero.
    pub idempotency: Duration,
    /// Legacy sessions open at once; key `sessions`, default 16384.
    pub sessions: usize,
    /// How long a legacy session may be silent before it is closed; key `session_idle`, default 30 min, never
    /// zero.
    pub session_idle: Duration,
    /// The largest request, response or line in bytes; key `message` (`"16MiB"` or a number of bytes),
    /// default 16 MiB.
    pub message: usize,
    /// Processes of servers at once, those that are ending included; key `processes`, default 256.
    pub processes: usize,
}

/// A text that is never printed: its `Debug` form is `Secret(…)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for handing it to a process or a service.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
