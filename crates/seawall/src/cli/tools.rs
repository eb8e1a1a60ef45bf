//! `seawall tools`: the tools of the running daemon, what changed of their definitions, and accepting that.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient, explain::encoded};
use crate::clients::diff::diff;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    io::IsTerminal,
};

/// List the tools of the running daemon, see what changed of their definitions, and accept that.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(mut_arg("config", |argument| argument.global(true)))]
#[command(mut_arg("mcp_config", |argument| argument.global(true)))]
#[command(mut_arg("token", |argument| argument.global(true)))]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Only those of this server.
    server: Option<String>,
    /// Only those of this server or pack.
    #[arg(long, value_name = "NAME", conflicts_with = "server")]
    pack: Option<String>,
    /// Print one JSON value.
    #[arg(long, global = true)]
    json: bool,
}

/// What can be done about definitions.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what changed of the tools' definitions since they were accepted.
    Diff(Changes),
    /// Accept the definitions of a server's tools as they are now.
    Accept(Acceptance),
}

/// What to show.
#[derive(Debug, Args)]
struct Changes {
    /// Only those of this server.
    server: Option<String>,
    /// Only this tool of it.
    tool: Option<String>,
}

/// What to accept.
#[derive(Debug, Args)]
struct Acceptance {
    /// The server.
    server: String,
    /// Only these tools of it.
    tools: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    match arguments.verb {
        None => list(&client, arguments.server.or(arguments.pack).as_deref(), arguments.json).await,
        Some(Verb::Diff(changes)) => show_changes(&client, &changes, arguments.json).await,
        Some(Verb::Accept(acceptance)) => accept(&client, &acceptance, arguments.json).await,
    }
}

async fn list(client: &DaemonClient, server: Option<&str>, json: bool) -> Result<Exit, Failure> {
    // Who may not use every tool may not ask how they stand, and sees what there is to use.
    let standings = standings(client, server).await.unwrap_or_default();
    let by_name: HashMap<&str, &Value> =
        standings.iter().map(|standing| (text(&standing["name"]), standing)).collect();
    let answer = client.ask("tools/list", &json!({}), |_| {}).await?;
    let prefix = server.map(|server| format!("{server}__"));
    let listed = answer["result"]["tools"].as_array().into_iter().flatten();
    let mut tools: Vec<Value> = listed
        .filter(|tool| prefix.as_ref().is_none_or(|prefix| text(&tool["name"]).starts_with(prefix)))
        .map(|tool| {
            let mut tool = tool.clone();
            if let Some(standing) = by_name.get(text(&tool["name"])) {
                for member in ["server", "effects", "state"] {
                    tool[member] = standing[member].clone();
                }
            }
            tool
        })
        .collect();
    let shown: HashSet<String> = tools.iter().map(|tool| text(&tool["name"]).to_owned()).collect();
    for standing in standings.iter().filter(|standing| standing["state"] == "new") {
        if !shown.contains(text(&standing["name"])) {
            let (name, server, effects) = (&standing["name"], &standing["server"], &standing["effects"]);
            tools.push(json!({"name": name, "server": server, "effects": effects, "state": "new"}));
        }
    }
    let missing = answer["result"]["_meta"]["seawall/missing"].as_object();
    for (name, why) in missing.into_iter().flatten() {
        if server.is_none_or(|server| server == name) {
            eprintln!("not listed: {name}: {}", text(why));
        }
    }
    if json {
        say!("{}", json!(tools));
        return Ok(Exit::Done);
    }
    let width = tools.iter().map(|tool| text(&tool["name"]).len()).max().unwrap_or_default();
    // Where nothing is pinned and nothing changed there is nothing to say of it.
    let told = tools.iter().any(|tool| tool["state"].is_string());
    for tool in &tools {
        let state =
            if told { format!("{:8}  ", tool["state"].as_str().unwrap_or("–")) } else { String::new() };
        let description = text(&tool["description"]);
        let first = description.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let first: String = first.chars().take(100).collect();
        say!("{:width$}  {state}{first}", text(&tool["name"]));
    }
    Ok(Exit::Done)
}

async fn show_changes(client: &DaemonClient, wanted: &Changes, json: bool) -> Result<Exit, Failure> {
    let mut standings = standings(client, wanted.server.as_deref()).await?;
    if let (Some(server), Some(wanted)) = (&wanted.server, &wanted.tool) {
        standings.retain(|standing| standing["name"] == **wanted || standing["tool"] == **wanted);
        if standings.is_empty() {
            let text = format!(
                "server {server:?} has no tool {wanted:?}; `seawall tools {server}` shows those it has"
            );
            return Err(Failure::new(Exit::Failed, text));
        }
    }
    standings.retain(|standing| standing["now"].as_array().is_some_and(|now| !now.is_empty()));
    if json {
        say!("{}", json!(standings));
        return Ok(Exit::Done);
    }
    if standings.is_empty() {
        say!("No definition has changed.");
        return Ok(Exit::Done);
    }
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut held = Vec::new();
    for standing in &standings {
        let (server, held_back) = (text(&standing["server"]), standing["held"] == true);
        let what = match (text(&standing["state"]), held_back) {
            ("new", _) => "new, and not shown",
            (_, true) => "changed, and calls of it are refused",
            (_, false) => "changed",
        };
        say!("{} ({what})", text(&standing["name"]));
        for now in standing["now"].as_array().into_iter().flatten() {
            for line in diff(text(&standing["before"]), text(now)) {
                say!("  {}", if coloured { painted(&line) } else { line });
            }
        }
        say!("");
        if held_back && !held.contains(&server) {
            held.push(server);
        }
    }
    for server in held {
        say!("If that is as it should be: seawall tools accept {server}");
    }
    Ok(Exit::Done)
}

async fn accept(client: &DaemonClient, wanted: &Acceptance, json: bool) -> Result<Exit, Failure> {
    let server = &wanted.server;
    let tools: Vec<String> = wanted.tools.iter().map(|tool| format!("tool={}", encoded(tool))).collect();
    let path = format!("/api/v1/upstreams/{}/accept?{}", encoded(server), tools.join("&"));
    let answer = client.post(&path).await?;
    if json {
        say!("{answer}");
        return Ok(Exit::Done);
    }
    let accepted: Vec<&str> = answer["accepted"].as_array().into_iter().flatten().map(text).collect();
    if accepted.is_empty() {
        say!("{server}: there was nothing to accept");
        return Ok(Exit::Done);
    }
    say!("{server}: accepted {}", accepted.join(", "));
    if answer["kept"] != true {
        eprintln!("That could not be kept: it holds until the daemon ends. Its log says why.");
    }
    Ok(Exit::Done)
}

/// How the tools of one server stand, or of all.
async fn standings(client: &DaemonClient, server: Option<&str>) -> Result<Vec<Value>, Failure> {
    let query = server.map_or_else(String::new, |server| format!("?server={}", encoded(server)));
    let mut answer = client.get(&format!("/api/v1/tools{query}")).await?;
    if let Some(error) = answer["error"].as_str() {
        return Err(Failure::new(Exit::Failed, error));
    }
    match answer["tools"].take() {
        Value::Array(standings) => Ok(standings),
        _ => Ok(Vec::new()),
    }
}

/// A line of a comparison in the colours that such lines have.
fn painted(line: &str) -> String {
    match line.as_bytes().first() {
        Some(b'-') => format!("\u{1b}[31m{line}\u{1b}[0m"),
        Some(b'+') => format!("\u{1b}[32m{line}\u{1b}[0m"),
        _ => line.to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
