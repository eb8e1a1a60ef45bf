//! `seawall logout`: forgets the login at an upstream.

use super::{Exit, Failure, OneServer, daemon::DaemonClient};

pub(super) async fn run(arguments: OneServer) -> Result<Exit, Failure> {
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
