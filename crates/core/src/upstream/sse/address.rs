//! Where a server wants its messages: what it says, seen from where its stream came from.

use crate::upstream::response::excerpt;
use http::Uri;

/// The URL that `said` means at `base`, which has to be of the same origin.
///
/// # Errors
/// When it is none, or leads to another server.
pub(super) fn resolve(base: &Uri, said: &[u8]) -> Result<Uri, String> {
    let bad = || format!("what it gave as the URL for messages is none: {}", excerpt(said));
    let text = std::str::from_utf8(said).map_err(|_| bad())?.trim();
    // A fragment is never sent.
    let text = text.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str().unwrap_or("http"), base.authority().ok_or_else(bad)?);
    let path = base.path();
    let whole = if text.is_empty() {
        base.to_string()
    } else if text.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        text.to_owned()
    } else if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('?') {
        format!("{scheme}://{authority}{path}{text}")
    } else {
        let (named, query) = text.find('?').map_or((text, ""), |at| text.split_at(at));
        let folder =
            if named.starts_with('/') { "" } else { &path[..path.rfind('/').map_or(0, |at| at + 1)] };
        format!("{scheme}://{authority}{}{query}", without_dots(&format!("{folder}{named}")))
    };
    let uri: Uri = whole.parse().map_err(|_| bad())?;
    if origin(&uri) != origin(base) {
        return Err(format!(
            "it wants its messages at another server ({}), and only the origin of `url` is spoken to",
            excerpt(said)
        ));
    }
    Ok(uri)
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = if scheme == "https" { 443 } else { 80 };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(usual)))
}

/// A path without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        if part == ".." {
            kept.pop();
        } else if part != "." {
            kept.push(part);
            continue;
        }
        if parts.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_where_the_server_says_on_the_same_origin() {
        let base: Uri = "https://a.example/x/sse?key=1".parse().unwrap();
        for (said, whole) in [
            ("/messages?id=1", "https://a.example/messages?id=1"),
            ("messages/?id=1", "https://a.example/x/messages/?id=1"),
            ("?id=1", "https://a.example/x/sse?id=1"),
            ("../m", "https://a.example/m"),
            ("./m?to=/../n", "https://a.example/x/m?to=/../n"),
            ("", "https://a.example/x/sse?key=1"),
            (" https://A.example:443/m \n", "https://A.example:443/m"),
            ("//a.example/m#part", "https://a.example/m"),
        ] {
            assert_eq!(
                resolve(&base, said.as_bytes()).map(|uri| uri.to_string()),
                Ok(whole.to_owned()),
                "{said}"
            );
        }
        for said in
            ["http://a.example/m", "https://b.example/m", "//a.example:8443/m", "javascript:1", "/a b"]
        {
            assert!(resolve(&base, said.as_bytes()).is_err(), "{said}");
        }
        assert!(resolve(&base, &[0xff]).is_err());
    }
}
