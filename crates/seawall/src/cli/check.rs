//! `seawall check`: what the configuration comes to.

use super::{ConfigArguments, Exit, Failure, sources};
use clap::Args;
use seawall_core::config::{Kind, Sharing};
use serde_json::json;

/// Check the configuration and print what it comes to.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let loaded = match sources::load(&arguments.config).await {
        Err(failure) if arguments.json => {
            let faults = if failure.details.is_empty() { vec![failure.message] } else { failure.details };
            say!("{}", json!({"faults": faults}));
            return Ok(failure.exit);
        }
        loaded => loaded?,
    };
    let config = &loaded.config;
    if arguments.json {
        let servers: Vec<_> = config
            .upstreams
            .iter()
            .map(|server| {
                json!({
                    "name": server.name,
                    "kind": kind(&server.kind),
                    "enabled": server.enabled,
                    "needs": server.needs,
                    "sharing": sharing(server.sharing),
                    "timeout_ms": u64::try_from(server.timeout.as_millis()).unwrap_or(u64::MAX),
                })
            })
            .collect();
        let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
        let callers: Vec<_> = config.callers.iter().map(|caller| caller.name.as_str()).collect();
        let object = json!({
            "listen": config.listen.to_string(), "state": config.state, "callers": callers,
            "servers": servers, "notes": notes,
            "groups": config.groups.iter().map(|group| json!({
                "name": group.name, "servers": group.servers, "tools": group.tools,
            })).collect::<Vec<_>>(),
        });
        say!("{object}");
        return Ok(Exit::Done);
    }
    for note in &loaded.notes {
        say!("note: {note}");
    }
    say!("listen   {}", config.listen);
    say!("state    {}", config.state.display());
    let limits = &config.limits;
    say!(
        "limits   total {}, caller {}, conversation {}, queue {}; one server holds at most {:.0} % of each",
        limits.total,
        limits.caller,
        limits.conversation,
        limits.queue,
        limits.share * 100.0
    );
    if config.callers.is_empty() {
        say!("callers  none: whoever reaches the loopback address may call");
    }
    for caller in &config.callers {
        say!("caller   {}: {}", caller.name, caller.tools.join(", "));
    }
    for server in &config.upstreams {
        let state = if !server.enabled {
            String::from("disabled")
        } else if server.needs.is_empty() {
            format!("timeout {:?}", server.timeout)
        } else {
            format!("not started: needs {}", server.needs.join(", "))
        };
        say!("server   {} ({}): {}; {state}", server.name, kind(&server.kind), sharing(server.sharing));
    }
    for group in &config.groups {
        say!("group    {}: {}; tools {}", group.name, group.servers.join(", "), group.tools.join(", "));
    }
    say!("The configuration is good.");
    Ok(Exit::Done)
}

fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::Stdio { .. } => "stdio",
        Kind::Http { .. } => "http",
    }
}

fn sharing(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Session => "one instance per conversation; requests that name none share one per caller",
        Sharing::Caller => "one instance per caller",
        Sharing::Everyone => "one instance for everyone",
        Sharing::Call => "one instance per call",
    }
}
