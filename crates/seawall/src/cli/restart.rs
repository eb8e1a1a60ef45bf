//! `seawall restart`: ends an upstream's instances.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;

/// End an upstream's instances; the next call starts new ones.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The server.
    name: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let answer = client.post(&format!("/api/v1/upstreams/{}/restart", arguments.name)).await?;
    if arguments.json {
        say!("{answer}");
    } else {
        say!("{} was restarted; calls that were under way at it have ended", arguments.name);
    }
    Ok(Exit::Done)
}
