//! Who may come in: the checks before a request is read.

use super::Front;
use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use seawall_core::call::auth::Caller;
use std::{net::IpAddr, sync::Arc};

/// A refusal: the answer to send.
pub(super) type Refusal = Box<Response<Body>>;

impl Front {
    /// Checks Host and Origin, on every path. A page of a foreign site that had its name point here (DNS
    /// rebinding) is told by either.
    pub(super) fn check_place(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let config = self.gateway.config();
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| uri.authority().map(|at| at.as_str()));
        let Some(host) = host else {
            return Err(refuse(StatusCode::BAD_REQUEST, "the request names no Host"));
        };
        let name = host_name(host);
        let own = self.address.ip();
        let known = is_loopback(name)
            || name.parse::<IpAddr>().is_ok_and(|address| address == own)
            || config
                .allowed_hosts
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host));
        if !known {
            return Err(refuse(StatusCode::FORBIDDEN, "this Host is not served; add it to `allowed_hosts`"));
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let place = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            let local = place.is_some_and(|place| is_loopback(host_name(place)));
            if !local && !config.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
                return Err(refuse(
                    StatusCode::FORBIDDEN,
                    "this Origin may not call; add it to `allowed_origins`",
                ));
            }
        }
        Ok(())
    }

    /// Checks everything, and that the caller may use every tool: who may see less may not restart servers for the
    /// others, nor read what they wrote.
    pub(super) fn check_operator(&self, request: &axum::extract::Request) -> Result<(), Refusal> {
        let caller = self.check(request.headers(), request.uri())?;
        if caller.sees_everything() {
            return Ok(());
        }
        Err(refuse(StatusCode::FORBIDDEN, "FORBIDDEN: this is for callers whose `tools` are [\"*\"]"))
    }

    /// Checks that an operator tells the daemon to do something, in JSON.
    pub(super) fn check_command(&self, request: &axum::extract::Request) -> Result<(), Refusal> {
        self.check_operator(request)?;
        check_json(request)
    }

    /// Checks everything, and says who calls.
    pub(super) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<Arc<Caller>, Refusal> {
        self.check_place(headers, uri)?;
        let token = match headers.get(header::AUTHORIZATION) {
            None => None,
            Some(value) => Some(bearer(value)?),
        };
        self.gateway.caller(token).ok_or_else(|| {
            let mut response = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED: no caller has this token");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        })
    }
}

/// The token of an `Authorization` header. One that was never filled in gets an answer that says so: clients send
/// `${TOKEN}` as it stands when the variable is not set, and read a 401 as a wish to log in.
fn bearer(value: &HeaderValue) -> Result<&str, Refusal> {
    let text = value.to_str().unwrap_or_default();
    let Some((_, token)) = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
    else {
        if text.eq_ignore_ascii_case("bearer") {
            return Err(unfilled("the token is empty; set the variable that your client takes it from"));
        }
        return Ok("");
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(unfilled("the token is empty; set the variable that your client takes it from"));
    }
    let variable = token
        .strip_prefix("${env:")
        .or_else(|| token.strip_prefix("${"))
        .or_else(|| token.strip_prefix("{env:"))
        .and_then(|rest| rest.strip_suffix('}'));
    if let Some(variable) = variable {
        return Err(unfilled(&format!(
            "the token still reads {token:?}: the variable {variable} is not set"
        )));
    }
    Ok(token)
}

fn unfilled(text: &str) -> Refusal {
    let error = serde_json::json!({"jsonrpc": "2.0", "id": null, "error": {"code": 1010, "message": format!("UNAUTHORIZED: {text}")}});
    json(StatusCode::BAD_REQUEST, error.to_string())
}

/// The host of `host[:port]` or `host[:port]/path`, without brackets.
fn host_name(place: &str) -> &str {
    let place = place.split('/').next().unwrap_or_default();
    if let Some(rest) = place.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    place.rsplit_once(':').map_or(place, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks that a request says that its body is JSON; browsers cannot say so to a foreign site without asking.
pub(super) fn check_json(request: &axum::extract::Request) -> Result<(), Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if is_json {
        return Ok(());
    }
    Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json"))
}

/// A refusal in plain text.
pub(super) fn refuse(status: StatusCode, text: &str) -> Refusal {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    Box::new(response)
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Refusal {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_loopback_names_are_loopback() {
        for (place, local) in [
            ("localhost:8079", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("LOCALHOST/path", true),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("evil.example", false),
        ] {
            assert_eq!(is_loopback(host_name(place)), local, "{place}");
        }
    }

    #[test]
    fn a_token_that_was_never_filled_in_is_named() {
        let unset = HeaderValue::from_static("Bearer ${SEAWALL_TOKEN}");
        assert_eq!(bearer(&unset).unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert!(bearer(&HeaderValue::from_static("Bearer")).is_err());
        assert_eq!(bearer(&HeaderValue::from_static("bearer abc")).unwrap(), "abc");
        assert_eq!(bearer(&HeaderValue::from_static("Basic abc")).unwrap(), "");
    }
}
