//! What the daemon tells of one tool.

use super::{Front, guard};
use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::Response,
};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;

/// Answers with everything known of a tool. It names every caller that may use it, so it is for operators.
pub(super) async fn explain(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    if let Err(refusal) = front.check_operator(&request) {
        return *refusal;
    }
    if let Some(explanation) = front.gateway.explain(&name) {
        return *guard::json(StatusCode::OK, explanation.to_json().to_string());
    }
    let nearest = front.gateway.nearest(&name);
    let nearest: Vec<&str> = nearest.iter().map(|name| &**name).collect();
    let remedy = if nearest.is_empty() {
        String::from("no server has listed any; `seawall status` says why")
    } else {
        format!("the nearest are {}", nearest.join(", "))
    };
    let text = format!("no tool is named {name:?}; {remedy}");
    *guard::json(StatusCode::NOT_FOUND, json!({"error": text, "nearest": nearest}).to_string())
}
