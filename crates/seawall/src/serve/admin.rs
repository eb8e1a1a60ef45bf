//! What the daemon says of itself, and what can be done to it.

use super::{Front, guard};
use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use seawall_core::Switched;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

pub(super) async fn healthz(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    match front.check_place(request.headers(), request.uri()) {
        Ok(()) => Response::new(Body::from("ok\n")),
        Err(refusal) => *refusal,
    }
}

pub(super) async fn readyz(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    if let Err(refusal) = front.check_place(request.headers(), request.uri()) {
        return *refusal;
    }
    if front.gateway.life().is_draining() {
        return *guard::refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    if !front.gateway.answers().await {
        return *guard::refuse(StatusCode::SERVICE_UNAVAILABLE, "a call did not come back");
    }
    Response::new(Body::from("ready\n"))
}

pub(super) async fn metrics(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    if let Err(refusal) = front.check(request.headers(), request.uri()) {
        return *refusal;
    }
    let mut response = Response::new(Body::from(front.gateway.metrics()));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) async fn status(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    match front.check(request.headers(), request.uri()) {
        Ok(_) => *guard::json(StatusCode::OK, front.gateway.status().to_string()),
        Err(refusal) => *refusal,
    }
}

/// Who holds places, who waits for one, and how full each scope is.
pub(super) async fn calls(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    match front.check(request.headers(), request.uri()) {
        Ok(_) => *guard::json(StatusCode::OK, front.gateway.permits().to_string()),
        Err(refusal) => *refusal,
    }
}

pub(super) async fn restart(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_command(&request) {
        return *refusal;
    }
    match front.gateway.restart(&name) {
        Some(()) => *guard::json(StatusCode::OK, json!({"restarted": name}).to_string()),
        None => unknown(&name),
    }
}

pub(super) async fn enable(front: State<Arc<Front>>, name: Path<String>, request: Request) -> Response<Body> {
    switch(front, name, request, true).await
}

pub(super) async fn disable(
    front: State<Arc<Front>>,
    name: Path<String>,
    request: Request,
) -> Response<Body> {
    switch(front, name, request, false).await
}

async fn switch(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    request: Request,
    on: bool,
) -> Response<Body> {
    if let Err(refusal) = front.check_command(&request) {
        return *refusal;
    }
    match front.gateway.switch(&name, on).await {
        Switched::Done { kept } => {
            *guard::json(StatusCode::OK, json!({"enabled": on, "changed": true, "kept": kept}).to_string())
        }
        Switched::Already => {
            *guard::json(StatusCode::OK, json!({"enabled": on, "changed": false}).to_string())
        }
        Switched::Configured => {
            let text = format!("{name:?} has `enabled = false` in the configuration; change it there");
            *guard::json(StatusCode::CONFLICT, json!({"error": text}).to_string())
        }
        Switched::Unknown => unknown(&name),
    }
}

/// Lines of standard error after a cursor, which is `pid:line` for each process that was seen, joined by commas.
pub(super) async fn logs(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_operator(&request) {
        return *refusal;
    }
    let Some(upstream) = front.gateway.upstream(&name) else { return unknown(&name) };
    let since = query.get("since").map_or("", String::as_str);
    let seen: HashMap<u32, u64> = since
        .split(',')
        .filter_map(|part| part.split_once(':'))
        .filter_map(|(pid, line)| Some((pid.parse().ok()?, line.parse().ok()?)))
        .collect();
    let (mut lines, mut cursor) = (Vec::<Value>::new(), Vec::new());
    for (pid, tail) in upstream.tails() {
        let (new, at) = tail.since(seen.get(&pid).copied().unwrap_or_default());
        lines.extend(new.into_iter().map(|text| json!({"pid": pid, "text": text})));
        cursor.push(format!("{pid}:{at}"));
    }
    *guard::json(StatusCode::OK, json!({"lines": lines, "cursor": cursor.join(",")}).to_string())
}

pub(super) fn unknown(name: &str) -> Response<Body> {
    let text = format!("no server is named {name:?}; `seawall status` shows those there are");
    *guard::json(StatusCode::NOT_FOUND, json!({"error": text}).to_string())
}

pub(super) async fn nothing_here(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    match front.check(request.headers(), request.uri()) {
        Ok(_) => *guard::refuse(StatusCode::NOT_FOUND, "nothing is served here; the endpoint is /mcp"),
        Err(refusal) => *refusal,
    }
}
