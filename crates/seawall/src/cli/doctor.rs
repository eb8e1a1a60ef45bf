//! `seawall doctor`: what stands in the way of a daemon that works, and what mends it.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient, sources};
use clap::Args;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use seawall_core::config::{Config, Kind, Upstream};
use serde_json::{Value, json};
use std::{
    ffi::{OsStr, OsString},
    io::ErrorKind,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    fs,
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Check what a working daemon needs, and say what mends what is missing.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How one check came out, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Warn,
    Fail,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check: what was looked at, what was found, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    what: String,
    outcome: Outcome,
    found: String,
    mend: Option<String>,
}

impl Check {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), outcome: Outcome::Ok, found: found.into(), mend: None }
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warn, mend: Some(mend.into()), ..Self::ok(what, found) }
    }

    fn fail(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, mend: Some(mend.into()), ..Self::ok(what, found) }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let checks = Box::pin(check(&arguments.daemon)).await;
    let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    if arguments.json {
        let checks: Vec<Value> = checks
            .iter()
            .map(|Check { what, outcome, found, mend }| {
                json!({"check": what, "outcome": outcome.word(), "found": found, "mend": mend})
            })
            .collect();
        say!("{}", json!({"good": !failed, "checks": checks}));
    } else {
        for Check { what, outcome, found, mend } in &checks {
            let mend = mend.as_ref().map_or_else(String::new, |mend| format!("; mend it: {mend}"));
            say!("{:4}  {what}: {found}{mend}", outcome.word());
        }
    }
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Makes every check that can be made.
async fn check(arguments: &DaemonArguments) -> Vec<Check> {
    let mut checks = Vec::new();
    let config = match sources::load(&arguments.config).await {
        Ok(loaded) => {
            let found = format!("it reads: {} servers", loaded.config.upstreams.len());
            checks.push(match loaded.notes.len() {
                0 => Check::ok("configuration", found),
                notes => Check::warn("configuration", format!("{found}, {notes} remarks"), "seawall check"),
            });
            loaded.config
        }
        // Nothing else is known without one.
        Err(failure) => {
            let faults = if failure.details.is_empty() { vec![failure.message] } else { failure.details };
            let fails = |fault: String| {
                Check::fail("configuration", fault, "correct it, then look again: seawall check")
            };
            return faults.into_iter().map(fails).collect();
        }
    };
    checks.push(state(&config.state).await);
    let running = daemon(&config, arguments, &mut checks).await;
    checks.push(port(&config, running.as_deref()).await);
    for server in config.upstreams.iter().filter(|server| server.enabled) {
        checks.push(reach(server).await);
    }
    checks
}

/// Whether the state directory can be written and is its user's alone.
async fn state(directory: &Path) -> Check {
    let what = "state directory";
    let shown = directory.display();
    let (existing, meta) = match existing(directory).await {
        Ok(found) => found,
        Err(error) => {
            let mend = format!("set `state` to another directory, or see why: ls -ld {shown}");
            return Check::fail(what, format!("{shown} cannot be looked at: {error}"), mend);
        }
    };
    if !meta.is_dir() {
        let found = format!("{} is no directory", existing.display());
        return Check::fail(what, found, "set `state` to another directory");
    }
    // What permissions say is not all there is: the way to know is to write.
    let probe = existing.join(format!(".seawall-doctor-{}", std::process::id()));
    if let Err(error) = fs::OpenOptions::new().write(true).create_new(true).open(&probe).await {
        let found = format!("{} cannot be written: {error}", existing.display());
        let mend = format!("set `state` to another directory, or: chown $USER {}", existing.display());
        return Check::fail(what, found, mend);
    }
    // Left behind it does no harm.
    drop(fs::remove_file(&probe).await);
    let mode = meta.permissions().mode() & 0o777;
    if existing != directory {
        Check::ok(what, format!("{shown} will be made"))
    } else if mode & 0o077 != 0 {
        let found = format!("{shown} is open to other users (mode {mode:03o})");
        Check::warn(what, found, format!("chmod 700 {shown}"))
    } else {
        Check::ok(what, format!("{shown} is writable and private"))
    }
}

/// The directory itself, or the nearest above it that exists.
async fn existing(directory: &Path) -> std::io::Result<(&Path, std::fs::Metadata)> {
    for above in directory.ancestors() {
        // The last above a relative path is the empty one, which means here.
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs::metadata(above).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            meta => return meta.map(|meta| (above, meta)),
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// Looks at the running daemon, if one is, and gives its address.
async fn daemon(config: &Config, arguments: &DaemonArguments, checks: &mut Vec<Check>) -> Option<String> {
    let what = "daemon";
    let address = match seawall_core::state::find(&config.state) {
        Ok(Some(address)) => address,
        Ok(None) => {
            checks.push(Check::ok(what, "none is running; `seawall serve` starts one"));
            return None;
        }
        Err(error) => {
            checks.push(Check::fail(what, error, "stop it and start it again: seawall serve"));
            return None;
        }
    };
    let client = DaemonClient::at(&address, arguments.token.clone());
    match client.get("/api/v1/status").await {
        Ok(status) => {
            checks.push(version(&address, &status));
            checks.extend(lists(config, &status));
        }
        Err(failure) => {
            let mend = "seawall doctor --token TOKEN, or start it again: seawall serve";
            checks.push(Check::fail(what, failure.message, mend));
        }
    }
    Some(address)
}

/// Whether the daemon is of the same version as this program.
fn version(address: &str, status: &Value) -> Check {
    let (theirs, ours) =
        (status["version"].as_str().unwrap_or("of an unknown version"), env!("CARGO_PKG_VERSION"));
    if theirs == ours {
        return Check::ok("daemon", format!("{ours}, at {address}"));
    }
    let found = format!("the one at {address} is {theirs}, and this program is {ours}");
    Check::warn("daemon", found, format!("kill {}, then: seawall serve", status["pid"]))
}

/// Whether each server could last be used.
fn lists(config: &Config, status: &Value) -> Vec<Check> {
    let mut checks = Vec::new();
    for server in status["upstreams"].as_array().into_iter().flatten() {
        let name = server["name"].as_str().unwrap_or_default();
        let what = format!("tools of {name}");
        let in_use = config
            .upstreams
            .iter()
            .any(|known| known.name == name && known.enabled && known.needs.is_empty());
        if let Some(failure) = server["failure"]["message"].as_str() {
            let mend = format!("seawall logs {name}; seawall restart {name}");
            checks.push(Check::fail(what, format!("it failed: {failure}"), mend));
        } else if let Some(held @ 1..) = server["changed"].as_u64() {
            let found =
                format!("{held} of them changed or are new, and are held back until they are accepted");
            let mend = format!("seawall tools diff {name}; seawall tools accept {name}");
            checks.push(Check::warn(what, found, mend));
        } else if server["state"] == "starting" {
            checks.push(Check::warn(what, "not listed yet", "look again in a moment: seawall status"));
        } else if in_use {
            checks.push(Check::ok(what, format!("{} listed", server["tools"])));
        }
    }
    checks
}

/// Whether the daemon can listen where it should, or does.
async fn port(config: &Config, running: Option<&str>) -> Check {
    let (what, listen) = ("port", config.listen);
    if running == Some(listen.to_string().as_str()) {
        return Check::ok(what, format!("the daemon listens on {listen}"));
    }
    match (TcpListener::bind(listen).await, running) {
        (Ok(_), None) => Check::ok(what, format!("{listen} is free")),
        // A configuration that asks for any port is met by any.
        (Ok(_), Some(_)) if listen.port() == 0 => Check::ok(what, "the daemon listens on one of its choice"),
        (Ok(_), Some(address)) => {
            let found = format!("the daemon listens on {address}, and `listen` now says {listen}");
            Check::warn(what, found, "stop it and start it again: seawall serve")
        }
        (Err(error), _) => {
            let mend = format!(
                "set `listen` to a free address, or find who holds it: ss -ltnp 'sport = :{}'",
                listen.port()
            );
            Check::fail(what, format!("{listen} cannot be listened on: {error}"), mend)
        }
    }
}

/// Whether a server can be started or reached.
async fn reach(server: &Upstream) -> Check {
    let what = format!("server {}", server.name);
    if let Some(needed) = server.needs.first() {
        let found = format!("it needs {}, not set here", server.needs.join(", "));
        let mend = format!("export {needed}=… where the daemon is started");
        return Check::fail(what, found, mend);
    }
    match &server.kind {
        Kind::Stdio { command, env, cwd, .. } => {
            let path = match env.get("PATH") {
                Some(path) => Some(OsString::from(path.expose())),
                None => std::env::var_os("PATH"),
            };
            program(what, command, path.as_deref(), cwd.as_deref()).await
        }
        Kind::Http { url, ca_file, .. } => {
            if let Some(file) = ca_file
                && let Err(error) = fs::File::open(file).await
            {
                let found = format!("its certificates in {} cannot be read: {error}", file.display());
                return Check::fail(what, found, format!("correct `ca_file` in [servers.{}]", server.name));
            }
            connects(what, url).await
        }
    }
}

/// Whether a command can be found and executed, and what it runs on, too.
async fn program(what: String, command: &str, path: Option<&OsStr>, directory: Option<&Path>) -> Check {
    let here = directory.unwrap_or_else(|| Path::new("."));
    if !fs::metadata(here).await.is_ok_and(|meta| meta.is_dir()) {
        let found = format!("its directory {} does not exist", here.display());
        return Check::fail(what, found, format!("mkdir -p {}, or correct `cwd`", here.display()));
    }
    if command.contains('/') {
        let file = here.join(command);
        return match fs::metadata(&file).await {
            Ok(meta) if is_program(&meta) => Check::ok(what, format!("{} can be executed", file.display())),
            Ok(_) => {
                let found = format!("{} may not be executed", file.display());
                Check::fail(what, found, format!("chmod +x {}", file.display()))
            }
            Err(error) => {
                let found = format!("{} cannot be found: {error}", file.display());
                Check::fail(what, found, "correct `command`")
            }
        };
    }
    let Some(found) = find(command, path, here).await else {
        return Check::fail(what, format!("{command} is not on PATH"), installs(command));
    };
    // These are scripts that another program runs.
    if matches!(command, "npx" | "npm" | "pnpm" | "pnpx" | "yarn") && find("node", path, here).await.is_none()
    {
        return Check::fail(what, format!("{command} is there, but node is not on PATH"), installs("node"));
    }
    Check::ok(what, format!("{command} is {}", found.display()))
}

/// The file that a bare name stands for.
async fn find(command: &str, path: Option<&OsStr>, here: &Path) -> Option<PathBuf> {
    for entry in std::env::split_paths(path?) {
        let file = here.join(entry).join(command);
        if fs::metadata(&file).await.is_ok_and(|meta| is_program(&meta)) {
            return Some(file);
        }
    }
    None
}

fn is_program(meta: &std::fs::Metadata) -> bool {
    meta.is_file() && meta.permissions().mode() & 0o111 != 0
}

/// What brings a command that is not there.
fn installs(command: &str) -> String {
    match command {
        "node" | "npx" | "npm" => {
            String::from("install Node.js, from https://nodejs.org or the system's packages")
        }
        "uv" | "uvx" => String::from("install uv, as in: pipx install uv"),
        other => format!("install it, or write the full path of {other} in `command`"),
    }
}

/// Whether what a URL names takes a connection, or the proxy that is in between does.
async fn connects(what: String, url: &str) -> Check {
    let Ok(uri) = url.parse::<Uri>() else {
        return Check::fail(what, "its `url` is not one", "correct `url`, then look again: seawall check");
    };
    let proxy = if is_loopback(&uri) { None } else { Matcher::from_env().intercept(&uri) };
    let place = proxy.as_ref().map_or(&uri, |proxy| proxy.uri());
    let usual = if place.scheme_str() == Some("https") { 443 } else { 80 };
    let (host, port) = (host_of(place), place.port_u16().unwrap_or(usual));
    let by = if proxy.is_some() { "its proxy " } else { "" };
    let why = match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => return Check::ok(what, format!("{by}{host}:{port} takes connections")),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("nothing came within {CONNECT:?}"),
    };
    let mend = if proxy.is_some() {
        String::from("correct HTTPS_PROXY, HTTP_PROXY or NO_PROXY")
    } else {
        format!(
            "start it, or correct its `url`; look: curl -v {}://{host}:{port}/",
            uri.scheme_str().unwrap_or("http")
        )
    };
    Check::fail(what, format!("{by}{host}:{port} takes no connection: {why}"), mend)
}

/// The host of a URL, without brackets.
fn host_of(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

fn is_loopback(uri: &Uri) -> bool {
    let host = host_of(uri);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_another_version_is_told_apart() {
        let ours = json!({"version": env!("CARGO_PKG_VERSION"), "pid": 7});
        assert_eq!(version("127.0.0.1:1", &ours).outcome, Outcome::Ok);
        let other = version("127.0.0.1:1", &json!({"version": "0.0.1-other", "pid": 7}));
        assert_eq!(
            (other.outcome, other.mend.as_deref()),
            (Outcome::Warn, Some("kill 7, then: seawall serve"))
        );
    }

    #[tokio::test]
    async fn a_command_is_looked_for_where_its_child_would() {
        let path = Some(OsStr::new("/nowhere:/bin"));
        let check =
            async |command: &str, path: Option<&OsStr>| program(String::new(), command, path, None).await;
        assert_eq!(check("sh", path).await.outcome, Outcome::Ok);
        assert_eq!(check("/bin/sh", None).await.outcome, Outcome::Ok);
        assert_eq!(check("sh", None).await.outcome, Outcome::Fail);
        let missing = check("uvx-that-is-not-there", path).await;
        assert!(missing.outcome == Outcome::Fail && missing.mend.is_some(), "{missing:?}");
        let no_program = check("/etc/passwd", path).await;
        assert_eq!(no_program.mend.as_deref(), Some("chmod +x /etc/passwd"));
        let lost = program(String::new(), "sh", path, Some(Path::new("/no/such"))).await;
        assert!(lost.outcome == Outcome::Fail && lost.found.contains("/no/such"), "{lost:?}");
    }

    #[tokio::test]
    async fn an_address_that_nobody_listens_on_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        assert_eq!(connects(String::new(), &url).await.outcome, Outcome::Ok);
        drop(listener);
        assert_eq!(connects(String::new(), &url).await.outcome, Outcome::Fail);
    }
}
