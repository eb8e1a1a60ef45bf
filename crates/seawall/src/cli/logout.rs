//! `seawall logout`: forgets the login at an upstream.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;

/// Forget the login at an upstream.
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
    let answer = client.post(&format!("/api/v1/upstreams/{}/logout", arguments.name)).await?;
    if arguments.json {
        say!("{answer}");
    } else if answer["had_login"] == true {
        say!("{}: logged out", arguments.name);
    } else {
        say!("{}: there was no login", arguments.name);
    }
    Ok(Exit::Done)
}
