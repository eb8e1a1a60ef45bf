//! Logins at upstreams: begun and asked about by operators, ended by a browser.

use super::{Front, admin, guard};
use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use seawall_core::login::{NoLogin, Progress, Redirected};
use serde_json::json;
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// Where browsers come back to.
pub(super) const CALLBACK: &str = "/oauth/callback";

/// Begins a login and tells where a person says yes.
pub(super) async fn begin(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_command(&request) {
        return *refusal;
    }
    match front.gateway.begin_login(&name, &redirect(&front)).await {
        Ok(begun) => {
            *guard::json(StatusCode::OK, json!({"url": begun.url, "state": begun.state}).to_string())
        }
        Err(no_login) => refused(&name, no_login),
    }
}

/// How far a login is.
pub(super) async fn outcome(
    State(front): State<Arc<Front>>,
    Path((name, state)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_operator(&request) {
        return *refusal;
    }
    let (status, answer) = match front.gateway.login(&name, &state) {
        Some(Progress::Waiting) => (StatusCode::OK, json!({"status": "waiting"})),
        Some(Progress::Done) => (StatusCode::OK, json!({"status": "done"})),
        Some(Progress::Failed(why)) => (StatusCode::OK, json!({"status": "failed", "error": why})),
        None => {
            (StatusCode::NOT_FOUND, json!({"error": "there is no such login, or no more; begin another"}))
        }
    };
    *guard::json(status, answer.to_string())
}

/// Forgets a login.
pub(super) async fn forget(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_command(&request) {
        return *refusal;
    }
    match front.gateway.logout(&name).await {
        Ok(had) => *guard::json(StatusCode::OK, json!({"logged_out": name, "had_login": had}).to_string()),
        Err(no_login) => refused(&name, no_login),
    }
}

/// Takes what the browser brings back. Whoever comes needs no token of ours: what it brings is worth something only
/// with the state that nobody can guess, and that once.
pub(super) async fn callback(
    State(front): State<Arc<Front>>,
    Query(mut query): Query<HashMap<String, String>>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_place(request.headers(), request.uri()) {
        return *refusal;
    }
    let error = query.remove("error").map(|error| match query.remove("error_description") {
        Some(text) => format!("{error}: {text}"),
        None => error,
    });
    let redirected = Redirected {
        state: query.remove("state").unwrap_or_default(),
        code: query.remove("code"),
        issuer: query.remove("iss"),
        error,
    };
    let (status, text) = match front.gateway.finish_login(redirected).await {
        Ok(name) => (StatusCode::OK, format!("Seawall is logged in at {name}. This page can be closed.\n")),
        Err(why) => (StatusCode::BAD_REQUEST, format!("Seawall could not log in: {why}.\n")),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    // The address holds the code; what it says is text and nothing else.
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Where browsers of this machine reach us.
fn redirect(front: &Front) -> String {
    let mut address = front.address;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from([127, 0, 0, 1]));
    }
    format!("http://{address}{CALLBACK}")
}

fn refused(name: &str, no_login: NoLogin) -> Response<Body> {
    match no_login {
        NoLogin::Unknown => admin::unknown(name),
        NoLogin::Because(why) => {
            *guard::json(StatusCode::CONFLICT, json!({"error": format!("{name}: {why}")}).to_string())
        }
    }
}
