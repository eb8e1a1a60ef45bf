//! `seawall tools`: the tools of the running daemon.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use serde_json::{Value, json};

/// List the tools of the running daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Only those of this server or pack.
    #[arg(long, value_name = "NAME")]
    pack: Option<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let answer = client.ask("tools/list", &json!({}), |_| {}).await?;
    let tools = answer["result"]["tools"].as_array().cloned().unwrap_or_default();
    let prefix = arguments.pack.as_ref().map(|pack| format!("{pack}__"));
    let wanted = |tool: &&Value| {
        prefix
            .as_ref()
            .is_none_or(|prefix| tool["name"].as_str().is_some_and(|name| name.starts_with(prefix)))
    };
    let tools: Vec<&Value> = tools.iter().filter(wanted).collect();
    let missing = answer["result"]["_meta"]["seawall/missing"].as_object();
    for (server, why) in missing.into_iter().flatten() {
        if arguments.pack.as_ref().is_none_or(|pack| pack == server) {
            eprintln!("not listed: {server}: {}", why.as_str().unwrap_or_default());
        }
    }
    if arguments.json {
        say!("{}", json!(tools));
        return Ok(Exit::Done);
    }
    let width = tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::len).max().unwrap_or_default();
    for tool in &tools {
        let description = tool["description"].as_str().unwrap_or_default();
        let first = description.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let first: String = first.chars().take(100).collect();
        say!("{:width$}  {first}", tool["name"].as_str().unwrap_or_default());
    }
    Ok(Exit::Done)
}
