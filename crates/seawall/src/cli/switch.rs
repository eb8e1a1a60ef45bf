//! `seawall disable` and `seawall enable`: switches a server off, and on again.

use super::{Exit, Failure, OneServer, daemon::DaemonClient};

pub(super) async fn run(arguments: OneServer, on: bool) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let (name, verb) = (&arguments.name, if on { "enable" } else { "disable" });
    let answer = client.post(&format!("/api/v1/upstreams/{name}/{verb}")).await?;
    if arguments.json {
        say!("{answer}");
    } else if answer["changed"] == false {
        say!("{name} was {verb}d already");
    } else if on {
        say!("{name} is enabled again");
    } else {
        say!("{name} is disabled, and its calls have ended; `seawall enable {name}` undoes this");
    }
    if answer["kept"] == false {
        say!("the store cannot be written, so this lasts only as long as the daemon");
    }
    Ok(Exit::Done)
}
