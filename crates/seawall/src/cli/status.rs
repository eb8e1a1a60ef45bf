//! `seawall status`: what the running daemon is at.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use serde_json::Value;

/// Show upstreams, instances and calls of the running daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let status = client.get("/api/v1/status").await?;
    if arguments.json {
        say!("{status}");
        return Ok(Exit::Done);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    say!(
        "seawall {} at {} (pid {}): {} conversations, {} calls in flight",
        text(&status["version"]),
        text(&status["listen"]),
        status["pid"],
        status["conversations"],
        status["permits"].as_array().map_or(0, Vec::len)
    );
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        say!(
            "{} ({}): {}, {} tools",
            text(&upstream["name"]),
            text(&upstream["kind"]),
            text(&upstream["state"]),
            upstream["tools"]
        );
        if let Some(failure) = upstream["failure"].as_object() {
            say!("  last failure, at {}: {}", text(&failure["stage"]), text(&failure["message"]));
        }
        for instance in upstream["instances"].as_array().into_iter().flatten() {
            let pid = instance["pid"].as_u64().map_or_else(String::new, |pid| format!(", pid {pid}"));
            say!(
                "  for {}: MCP {}{pid}, {} in flight, {} s old",
                text(&instance["key"]),
                text(&instance["era"]),
                instance["in_flight"],
                instance["age_ms"].as_u64().unwrap_or_default() / 1000
            );
        }
    }
    Ok(Exit::Done)
}
