//! `seawall login`: has a person log the daemon in at an upstream.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the daemon is asked how far the login is.
const LOOK: Duration = Duration::from_millis(500);
/// How long the daemon waits for the browser.
const LIMIT: Duration = Duration::from_secs(600);

/// Log in at an upstream that wants it: open the address that is printed and say yes there.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The server.
    name: String,
    /// Print JSON objects, a line each: the address, then the outcome.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { daemon, name, json: as_json } = arguments;
    let client = DaemonClient::find(&daemon).await?;
    let path = format!("/api/v1/upstreams/{name}/login");
    let begun = client.post(&path).await?;
    let (Some(url), Some(state)) = (begun["url"].as_str(), begun["state"].as_str()) else {
        return Err(Failure::new(Exit::Failed, "the daemon gave no address to log in at"));
    };
    if as_json {
        say!("{}", json!({"url": url}));
    } else {
        say!("Open this address in a browser on this machine:\n\n  {url}\n");
    }
    let bar = if as_json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(format!("waiting for the login at {name}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    let outcome = until_over(&client, &format!("{path}/{state}")).await;
    bar.finish_and_clear();
    outcome?;
    if as_json {
        say!("{}", json!({"logged_in": name}));
    } else {
        say!("{name}: logged in");
    }
    Ok(Exit::Done)
}

/// Waits until the login is over.
async fn until_over(client: &DaemonClient, path: &str) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(Exit::Failed, why);
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let answer = client.get(path).await?;
        match (answer["status"].as_str(), answer["error"].as_str()) {
            (Some("done"), _) => return Ok(()),
            (Some("waiting"), _) => sleep(LOOK).await,
            (_, why) => return Err(failed(why.unwrap_or("the login came to nothing"))),
        }
    }
    Err(failed("nobody logged in within 10 minutes"))
}
