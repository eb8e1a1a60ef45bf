//! A server started once, in a gateway of its own that keeps nothing.

use indicatif::{ProgressBar, ProgressStyle};
use seawall_core::{
    Gateway,
    config::{Config, Upstream},
    life::Life,
    state,
};
use serde_json::Value;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How often the server is looked at, besides when its list has come.
const LOOK: Duration = Duration::from_millis(50);
/// How much longer than the server's own limits it may take to tell what went wrong.
const SPARE: Duration = Duration::from_secs(2);
/// Lines of standard error that are shown of a server that does not start.
const LINES: usize = 10;

/// The server's tools: their names and the first lines of their descriptions.
///
/// # Errors
/// Why it did not start or list them, with the end of what it wrote to standard error.
pub(super) async fn tools(
    upstream: &Arc<Upstream>,
    config: &Config,
) -> Result<Vec<(String, String)>, String> {
    state::prepare_process();
    // No store, so that nothing is written anywhere.
    let alone = Config {
        limits: config.limits.clone(),
        upstreams: vec![Arc::clone(upstream)],
        ..Config::default_for(PathBuf::new())
    };
    let gateway = Gateway::new(Arc::new(alone), None, Life::default()).await;
    let gateway = gateway.map_err(|faults| faults.join("; "))?;
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(format!("starting {}", upstream.name));
    bar.enable_steady_tick(Duration::from_millis(120));
    let limit = upstream.start_timeout + upstream.list_timeout + SPARE;
    let listed = timeout(limit, listed(&gateway, &upstream.name)).await;
    bar.finish_and_clear();
    let listed = listed.unwrap_or_else(|_| Err(format!("it did not list its tools in {limit:?}")));
    let listed = listed.map_err(|why| with_tail(&gateway, &upstream.name, why));
    gateway.end(Duration::ZERO).await;
    listed
}

/// Waits until the server's tools are known, or why they will not be. Cancel-safe.
async fn listed(gateway: &Gateway, name: &str) -> Result<Vec<(String, String)>, String> {
    let mut changes = gateway.catalog().changes();
    loop {
        if let Some(listing) = gateway.catalog().listing(name, "") {
            let described = |tool: &str| -> String {
                let tool: Value = serde_json::from_str(tool).unwrap_or_default();
                let text = tool["description"].as_str().unwrap_or_default();
                let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
                line.chars().take(100).collect()
            };
            let tools = listing.tools.iter().map(|tool| &tool.declared);
            return Ok(tools
                .map(|tool| (tool.name.to_string(), described(tool.declaration.as_str())))
                .collect());
        }
        let failure = gateway.upstream(name).ok_or("it is not in use")?.failure();
        if let Some(failure) = failure {
            return Err(format!("{}: {}", failure.stage, failure.message));
        }
        tokio::select! {
            _ = changes.recv() => {}
            () = sleep(LOOK) => {}
        }
    }
}

fn with_tail(gateway: &Gateway, name: &str, why: String) -> String {
    let tails = gateway.upstream(name).map(|upstream| upstream.tails()).unwrap_or_default();
    let lines = tails.last().map(|(_, tail)| tail.lines(LINES)).unwrap_or_default();
    // The fault itself may show them already.
    if lines.is_empty() || lines.last().is_some_and(|last| why.contains(last.as_str())) {
        return why;
    }
    format!("{why}\nIts standard error ended with:\n  {}", lines.join("\n  "))
}
