//! The person who logs Seawall in: says yes to whatever an authorization server asks.

use std::net::{SocketAddr, ToSocketAddrs};

use serde_json::Value;

use super::http::{self, Response};

/// Where a login at the one server begins.
const BEGIN: &str = "/api/v1/upstreams/fixture/login";
/// Most redirects that are followed: to the authorization server, and back.
const REDIRECTS: usize = 5;

/// What the gateway says of a call that waits for a login.
const WANTED: &str = "seawall login";

/// Whether a fault is told that a login would mend.
pub(super) fn is_wanted(why: &str) -> bool {
    why.contains(WANTED)
}

/// Begins a login at the gateway and goes where it leads, until the gateway says how it ended.
pub(super) fn log_in(gateway: SocketAddr) -> Result<(), String> {
    let kind = ("Content-Type", "application/json".to_owned());
    let begun = http::send(gateway, "POST", BEGIN, &[kind], "{}");
    let text = read(begun.map_err(|error| format!("no login could be begun: {error}"))?)?;
    let begun: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text:?}"))?;
    let mut url = begun["url"].as_str().ok_or_else(|| format!("a login without a URL: {text}"))?.to_owned();
    for _ in 0..REDIRECTS {
        let (host, path) = split(&url)?;
        let answer =
            http::send(address(host)?, "GET", path, &[], "").map_err(|error| format!("{url}: {error}"))?;
        let next = answer.header("location").filter(|_| (300..400).contains(&answer.status));
        let Some(next) = next.map(str::to_owned) else { return read(answer).map(drop) };
        url = next;
    }
    Err(format!("the login leads on and on, now to {url}"))
}

/// The body of an answer that is no refusal.
fn read(answer: Response) -> Result<String, String> {
    let status = answer.status;
    let text = answer.text().map_err(|error| format!("a broken answer: {error}"))?;
    if (200..300).contains(&status) { Ok(text) } else { Err(format!("HTTP {status}: {}", text.trim())) }
}

/// Host and port, and the path with its query.
fn split(url: &str) -> Result<(&str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url} is no plain HTTP"))?;
    Ok(rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash)))
}

fn address(host: &str) -> Result<SocketAddr, String> {
    let found = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    // The suite's servers listen on both, and not every machine has the newer one.
    found.sort_by_key(|address| !address.is_ipv4());
    found.first().copied().ok_or_else(|| format!("{host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_at_their_path() {
        assert_eq!(split("http://localhost:1/a?b=http://c/"), Ok(("localhost:1", "/a?b=http://c/")));
        assert_eq!(split("http://h:1"), Ok(("h:1", "/")));
        assert!(split("https://h/").is_err());
        assert_eq!(address("127.0.0.1:9").unwrap(), SocketAddr::from(([127, 0, 0, 1], 9)));
    }
}
