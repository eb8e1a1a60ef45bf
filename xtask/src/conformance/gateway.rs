//! Starts what the suite talks to: the fixture, and Seawall in front of a server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::http;
use crate::process::{Server, remove_variables};

/// Where the one server is, with plain tool names.
pub(super) const PATH: &str = "/mcp/fixture";

/// How long a server may take from its start until it can be used.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The pause between two requests for readiness.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// Starts the fixture and returns it with the address it announces.
pub(super) fn start_fixture(program: &Path, era: &str, log: &Path) -> Result<(Server, String), String> {
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--era", era]);
    let mut server = Server::start("conformance-fixture", &mut command, log, true)?;
    let output = server.take_output().ok_or("the fixture's output is not piped")?;

    let (announce, announced) = mpsc::channel();
    thread::spawn(move || {
        // Read to its end, so that the fixture never waits for a reader. Nobody may be waiting for the
        // address any more.
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("listening on ") {
                announce.send(url.trim().to_owned()).ok();
            }
        }
    });
    match announced.recv_timeout(START_LIMIT) {
        Ok(url) => Ok((server, url)),
        Err(_) => Err(server.failure("did not say where it listens")),
    }
}

/// Starts the gateway on `port` in front of `upstream` and returns it, ready, with its address. Its
/// configuration, state and log lie in `directory`; `oauth` are the keys by which it logs in at the upstream.
pub(super) fn start(
    program: &Path,
    upstream: &str,
    directory: &Path,
    port: u16,
    oauth: &[(&str, &str)],
) -> Result<(Server, SocketAddr), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let config = directory.join("seawall.toml");
    let text = config_text(address, &directory.join("state"), upstream, oauth);
    fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;

    let mut command = Command::new(program);
    command.args(["serve", "--config"]).arg(&config).current_dir(directory);
    // Variables of this name override keys of the configuration.
    remove_variables(&mut command, &["SEAWALL_"]);
    let mut server = Server::start("seawall", &mut command, &directory.join("seawall.log"), false)?;

    let mut waited = Duration::ZERO;
    while !is_ready(address) {
        if let Some(status) = server.ended()? {
            return Err(server.failure(&format!("ended before it was ready ({status})")));
        }
        if waited >= START_LIMIT {
            return Err(server.failure("did not become ready"));
        }
        thread::sleep(READY_PAUSE);
        waited += READY_PAUSE;
    }
    Ok((server, address))
}

/// A port that was free a moment ago: told its port, the gateway need not be asked for it.
pub(super) fn free_port() -> Result<u16, String> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
    let address = listener.local_addr().map_err(|error| format!("no free port: {error}"))?;
    Ok(address.port())
}

fn is_ready(address: SocketAddr) -> bool {
    http::send(address, "GET", "/readyz", &[], "").is_ok_and(|answer| answer.status == 200)
}

fn config_text(listen: SocketAddr, state: &Path, upstream: &str, oauth: &[(&str, &str)]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!(
        "listen = {}\nstate = {}\n\n[servers.fixture]\nurl = {}\n",
        quoted(&listen.to_string()),
        quoted(&state.to_string_lossy()),
        quoted(upstream)
    );
    if !oauth.is_empty() {
        text.push_str("\n[servers.fixture.oauth]\n");
    }
    for (key, value) in oauth {
        text.push_str(&format!("{key} = {}\n", quoted(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_quotes_its_values() {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
        let oauth = [("client_id", "a \"b\"")];
        let text = config_text(listen, Path::new("/a \"b\""), "http://127.0.0.1:1/mcp", &oauth);
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["listen"].as_str(), Some("127.0.0.1:4000"));
        assert_eq!(read["state"].as_str(), Some("/a \"b\""));
        assert_eq!(read["servers"]["fixture"]["url"].as_str(), Some("http://127.0.0.1:1/mcp"));
        assert_eq!(read["servers"]["fixture"]["oauth"]["client_id"].as_str(), Some("a \"b\""));
    }
}
