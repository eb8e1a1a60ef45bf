//! How the tools of the daemon stand, and accepting what changed of them.

use super::{Front, admin, guard};
use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// Answers with all tools, those held back included, or those of the `server` that the query names. What differs
/// from what was accepted comes with both definitions.
pub(super) async fn standings(
    State(front): State<Arc<Front>>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_operator(&request) {
        return *refusal;
    }
    let gateway = &front.gateway;
    let upstreams = match query.get("server") {
        None => gateway.upstreams(),
        Some(name) => match gateway.upstream(name) {
            Some(upstream) => vec![upstream],
            None => return admin::unknown(name),
        },
    };
    let standings =
        upstreams.iter().flat_map(|upstream| gateway.catalog().standings(upstream.name(), upstream.key()));
    let tools: Vec<Value> = standings.map(|standing| standing.to_json()).collect();
    *guard::json(StatusCode::OK, json!({"tools": tools}).to_string())
}

/// Accepts the definitions of a server's tools as they are now: those of each `tool` that the query names, or all.
pub(super) async fn accept(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_command(&request) {
        return *refusal;
    }
    let Some(upstream) = front.gateway.upstream(&name) else { return admin::unknown(&name) };
    // A misspelt key must not accept everything.
    if let Some((key, _)) = query.iter().find(|(key, _)| key != "tool") {
        let text = format!("{key:?} is no key of this; name tools with `tool`");
        return *guard::json(StatusCode::BAD_REQUEST, json!({"error": text}).to_string());
    }
    let tools: Vec<String> = query.into_iter().map(|(_, tool)| tool).collect();
    match front.gateway.catalog().accept(upstream.name(), upstream.key(), &tools).await {
        Ok(accepted) => {
            let tools: Vec<&str> = accepted.tools.iter().map(|tool| &**tool).collect();
            *guard::json(StatusCode::OK, json!({"accepted": tools, "kept": accepted.kept}).to_string())
        }
        Err(strangers) => {
            let names: Vec<String> = strangers.iter().map(|name| format!("{name:?}")).collect();
            let names = names.join(", ");
            let text =
                format!("server {name:?} has no tool {names}; `seawall tools {name}` shows those it has");
            *guard::json(StatusCode::NOT_FOUND, json!({"error": text}).to_string())
        }
    }
}
