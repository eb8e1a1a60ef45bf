//! `seawall check`: what the configuration comes to.

use super::{ConfigArguments, Exit, Failure, sources};
use clap::Args;
use seawall_core::config::{Chain, Config, Kind, Link, Preset, Sharing, Upstream, chain};
use serde_json::{Value, json};
use std::time::Duration;

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
                    "timeout_ms": milliseconds(config.timeout_of(server, None)),
                    "chain": chain(config, server, None).to_json(),
                    "tools": tools(config, server),
                })
            })
            .collect();
        let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
        let callers: Vec<_> = config.callers.iter().map(|caller| caller.name.as_str()).collect();
        let object = json!({
            "listen": config.listen.to_string(), "state": config.state, "callers": callers,
            "servers": servers, "notes": notes,
            "chain": config.timeouts.outer().iter().map(Link::to_json).collect::<Value>(),
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
        "limits   {}total {}, caller {}, conversation {}, queue {}; \
         one server holds at most {:.0} % of each, {:.0} % of \
         a conversation's",
        match limits.preset {
            Some(Preset::Dev) => "preset dev: ",
            Some(Preset::Prod) => "preset prod: ",
            None => "",
        },
        limits.total,
        limits.caller,
        limits.conversation,
        limits.queue,
        limits.share * 100.0,
        limits.conversation_share * 100.0
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
            format!("timeout {:?}", config.timeout_of(server, None))
        } else {
            format!("not started: needs {}", server.needs.join(", "))
        };
        say!("server   {} ({}): {}; {state}", server.name, kind(&server.kind), sharing(server.sharing));
    }
    for line in chain_lines(config) {
        say!("chain    {line}");
    }
    for group in &config.groups {
        say!("group    {}: {}; tools {}", group.name, group.servers.join(", "), group.tools.join(", "));
    }
    say!("The configuration is good.");
    Ok(Exit::Done)
}

/// The tools of a server that have time-outs of their own.
fn tools(config: &Config, server: &Upstream) -> Value {
    let all = chain(config, server, None);
    let own = server.tools.keys().map(|tool| (tool, chain(config, server, Some(tool.as_str()))));
    own.filter(|(_, own)| *own != all)
        .map(|(tool, own)| json!({"name": tool, "chain": own.to_json()}))
        .collect()
}

/// The different chains of time-outs, each after whose they are; their links stand below each other.
fn chain_lines(config: &Config) -> Vec<String> {
    let mut chains: Vec<(String, Chain)> = Vec::new();
    let mut add = |name: String, chain: Chain| match chains.iter_mut().find(|(_, known)| *known == chain) {
        Some((names, _)) => {
            names.push_str(", ");
            names.push_str(&name);
        }
        None => chains.push((name, chain)),
    };
    for server in config.upstreams.iter().filter(|server| server.enabled) {
        let all = chain(config, server, None);
        add(server.name.clone(), all.clone());
        for tool in server.tools.keys() {
            let own = chain(config, server, Some(tool.as_str()));
            if own != all {
                add(format!("{}__{tool}", server.name), own);
            }
        }
    }
    let rows: Vec<Vec<String>> = chains
        .into_iter()
        .map(|(names, chain)| [names + ":"].into_iter().chain(chain.links.iter().map(cell)).collect())
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..=5).map(width).collect();
    rows.iter()
        .map(|row| {
            let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            let padded: Vec<String> = padded.collect();
            format!("{} {}", padded[0], padded[1..].join(" < ")).trim_end().to_owned()
        })
        .collect()
}

/// A time-out with where it comes from.
fn cell(link: &Link) -> String {
    match link.value {
        Some(value) => format!("{} {value:?} ({})", link.name, link.from),
        None => format!("{} without limit ({})", link.name, link.from),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
