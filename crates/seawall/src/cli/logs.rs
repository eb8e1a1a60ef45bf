//! `seawall logs`: what an upstream's processes wrote to standard error.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use std::time::Duration;

/// How often new lines are asked for.
const AGAIN: Duration = Duration::from_millis(500);

/// Show what an upstream's processes wrote to standard error.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The server.
    name: String,
    /// Go on showing new lines.
    #[arg(short, long)]
    follow: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let mut since = String::new();
    loop {
        let path = format!("/api/v1/upstreams/{}/logs?since={since}", arguments.name);
        let answer = client.get(&path).await?;
        if let Some(error) = answer["error"].as_str() {
            return Err(Failure::new(Exit::Failed, error));
        }
        for line in answer["lines"].as_array().into_iter().flatten() {
            if arguments.json {
                say!("{line}");
            } else {
                say!("[{}] {}", line["pid"], line["text"].as_str().unwrap_or_default());
            }
        }
        if !arguments.follow {
            return Ok(Exit::Done);
        }
        answer["cursor"].as_str().unwrap_or_default().clone_into(&mut since);
        tokio::time::sleep(AGAIN).await;
    }
}
