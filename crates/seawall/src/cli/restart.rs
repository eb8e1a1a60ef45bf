//! `seawall restart`: ends an upstream's instances.

use super::{Exit, Failure, OneServer, daemon::DaemonClient};

pub(super) async fn run(arguments: OneServer) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let answer = client.post(&format!("/api/v1/upstreams/{}/restart", arguments.name)).await?;
    if arguments.json {
        say!("{answer}");
    } else {
        say!("{} was restarted; calls that were under way at it have ended", arguments.name);
    }
    Ok(Exit::Done)
}
