//! What may stand as a URL, a header, a host and an origin.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue, Uri};

/// Says what is wrong with the URL of a server, and what to write.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    let wrong = |remedy: &str| Err(format!("{} is not a usable URL: {remedy}", shown_url(text)));
    let Ok(uri) = text.parse::<Uri>() else {
        return wrong("write one such as \"https://example.com/mcp\"");
    };
    match uri.scheme_str() {
        Some("http" | "https" | "ws" | "wss") => {}
        Some(_) => return wrong("only http://, https://, ws:// and wss:// are spoken"),
        None => return wrong("begin it with http:// or https://"),
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            wrong("a name and password in it would not be sent; write headers = { Authorization = \"…\" }")
        }
        Some(authority) if authority.host().is_empty() => wrong("it names no host"),
        Some(authority) if authority.as_str() != authority.host() && authority.port_u16().is_none() => {
            wrong("its port is not a number up to 65535")
        }
        Some(_) => Ok(()),
        None => wrong("it names no host"),
    }
}

/// A URL as a message may show it: without credentials and without its query, which may hold a key.
fn shown_url(text: &str) -> String {
    let (head, query) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    let more = if query.is_empty() { "" } else { "?…" };
    match (head.find("://"), head.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("\"{}://…{}{more}\"", &head[..scheme], &head[at..])
        }
        _ => format!("\"{head}{more}\""),
    }
}

/// Whether a URL leads to this daemon's own listener.
pub(super) fn is_own(url: &str, listen: SocketAddr) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let usual = if matches!(uri.scheme_str(), Some("https" | "wss")) { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>().ok();
    let loopback =
        host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback());
    let ours = listen.ip();
    port == listen.port()
        && (address == Some(ours) || loopback && (ours.is_loopback() || ours.is_unspecified()))
}

/// Says what is wrong with a header's name.
pub(super) fn check_header_name(name: &str) -> Result<(), String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err("not a header name: write letters, digits and -, such as \"X-Api-Key\"".to_owned()),
    }
}

/// Says what is wrong with a header's value, without showing it.
pub(super) fn check_header_value(value: &str) -> Result<(), String> {
    match HeaderValue::from_str(value) {
        Ok(_) => Ok(()),
        Err(_) => Err("the value holds a line break or another control character: remove it".to_owned()),
    }
}

/// Says what is wrong with an extra host name.
pub(super) fn check_host(text: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    match text {
        "*" => Err("would accept every name and so let web pages in: write each name"),
        "" => Err("is empty: write a name such as \"box.example.com\""),
        _ if text.contains('/') => Err("is not a host name: leave out scheme and path"),
        _ if !text.chars().all(plain) => Err("is not a host name: write one such as \"box.example.com\""),
        _ => Ok(()),
    }
}

/// Says what is wrong with an extra origin.
pub(super) fn check_origin(text: &str) -> Result<(), &'static str> {
    const EXAMPLE: &str = "is not an origin: write scheme and host, such as \"https://app.example.com\"";
    match text.split_once("://") {
        _ if text == "*" => Err("would let every web page in: write each origin"),
        Some((_, rest)) if rest.contains('/') => {
            Err("is not an origin: leave out everything after the host and port")
        }
        Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => match HeaderValue::from_str(text) {
            Ok(_) => Ok(()),
            Err(_) => Err(EXAMPLE),
        },
        _ => Err(EXAMPLE),
    }
}
