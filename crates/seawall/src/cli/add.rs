//! `seawall add`: one more server, tried before it is written down.

mod trial;

use super::{
    Exit, Failure,
    own_file::{OwnFile, table},
};
use clap::Args;
use seawall_core::config::{self, Kind, Secret, Source, Transport, Upstream};
use serde_json::{Value, json};
use std::{
    path::{PathBuf, absolute},
    sync::Arc,
};
use tokio::io::AsyncReadExt;

/// What stands for standard input.
const STDIN: &str = "-";

/// Add a server: start it once, show its tools, and write it to seawall.toml.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Its name; `-` reads servers from standard input, in the JSON, TOML or YAML of any client.
    name: String,
    /// Its URL, or after `--` its command and arguments; `-` reads one entry from standard input.
    #[arg(value_name = "URL | -- COMMAND")]
    target: Vec<String>,
    /// Its URL.
    #[arg(long, value_name = "URL", conflicts_with = "target")]
    url: Option<String>,
    /// stdio, http, sse or ws; needed only for SSE at a URL that does not end in /sse.
    #[arg(short, long)]
    transport: Option<String>,
    /// Where a client would keep the entry; there is one place here, so this is not used.
    #[arg(short, long)]
    scope: Option<String>,
    /// A variable for its process; may be given more than once. ${NAME} in the value is put in at each start.
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// A header for its URL, as "KEY: VALUE" or KEY=VALUE; may be given more than once.
    #[arg(short = 'H', long, value_name = "KEY: VALUE")]
    header: Vec<String>,
    /// The variable that holds the token to send to its URL.
    #[arg(long, value_name = "NAME")]
    bearer_token_env_var: Option<String>,
    /// Put it in the place of the server of that name.
    #[arg(long)]
    replace: bool,
    /// Write it without starting it.
    #[arg(long)]
    no_check: bool,
    /// The configuration file; without it, seawall.toml here or in $XDG_CONFIG_HOME/seawall.
    #[arg(long, value_name = "FILE", env = "SEAWALL_CONFIG")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A server that is to be added.
struct New {
    name: String,
    table: toml_edit::Table,
}

fn wrong(text: impl Into<String>) -> Failure {
    Failure::new(Exit::BadConfiguration, text)
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut own = OwnFile::open(arguments.config.as_deref()).await?;
    let (news, notes) = news(&arguments, &own).await?;
    for note in notes {
        eprintln!("note: {note}");
    }
    let names: Vec<String> = news.iter().map(|new| new.name.clone()).collect();
    for New { name, table } in news {
        if own.has_server(&name)? && !arguments.replace {
            let text =
                format!("{} has a server {name:?} already; --replace replaces it", own.path().display());
            return Err(Failure::new(Exit::Failed, text));
        }
        own.put_server(&name, table)?;
    }
    let (config, _) = own.lowered().await?;
    let mut servers = Vec::new();
    for name in &names {
        let found = config.upstreams.iter().find(|upstream| upstream.name == *name);
        let upstream = found.ok_or_else(|| wrong(format!("the server {name:?} did not come to be")))?;
        let tools = if arguments.no_check || !upstream.enabled {
            None
        } else {
            Some(tried(upstream, &config, arguments.json).await?)
        };
        servers.push((upstream, tools));
    }
    own.save().await?;
    if arguments.json {
        let servers: Vec<Value> = servers
            .iter()
            .map(|(upstream, tools)| json!({"name": upstream.name, "needs": upstream.needs, "tools": tools}))
            .collect();
        say!("{}", json!({"file": own.path(), "servers": servers}));
        return Ok(Exit::Done);
    }
    for (upstream, _) in &servers {
        say!("Added {} to {}.", upstream.name, own.path().display());
        if !upstream.needs.is_empty() {
            say!("It is not started before these variables are set: {}", upstream.needs.join(", "));
        }
    }
    Ok(Exit::Done)
}

/// Starts a server once and shows its tools.
async fn tried(upstream: &Arc<Upstream>, config: &config::Config, as_json: bool) -> Result<Value, Failure> {
    let name = &upstream.name;
    let failed = |why: String| {
        let text =
            format!("{name} does not work, and nothing was written (--no-check writes it anyway): {why}");
        Failure::new(Exit::Failed, text)
    };
    if !upstream.needs.is_empty() {
        return Err(failed(format!("set {}", upstream.needs.join(", "))));
    }
    let tools = trial::tools(upstream, config).await.map_err(failed)?;
    if !as_json {
        let count = if tools.len() == 1 { "one tool".to_owned() } else { format!("{} tools", tools.len()) };
        say!("{name} works and has {count}:");
        let width = tools.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, description) in &tools {
            say!("  {name:width$}  {description}");
        }
    }
    Ok(tools.into_iter().map(|(name, _)| Value::from(name)).collect())
}

/// What the command line or standard input asks for, and what is to be said about it.
async fn news(arguments: &Arguments, own: &OwnFile) -> Result<(Vec<New>, Vec<String>), Failure> {
    let mut notes = Vec::new();
    if arguments.scope.is_some() {
        notes.push("--scope is not used: there is one place for servers here".to_owned());
    }
    let from_stdin = arguments.name == STDIN || arguments.target == [STDIN];
    if from_stdin {
        let mut news = from_text(arguments, own, &mut notes).await?;
        if arguments.name != STDIN {
            let [new] = &mut news[..] else {
                return Err(wrong("standard input holds more than one server; write `seawall add -`"));
            };
            new.name.clone_from(&arguments.name);
        }
        return Ok((news, notes));
    }
    let kind = kind(arguments)?;
    Ok((vec![New { name: arguments.name.clone(), table: table(&kind, None) }], notes))
}

/// Reads whatever a client's file could hold.
async fn from_text(
    arguments: &Arguments,
    own: &OwnFile,
    notes: &mut Vec<String>,
) -> Result<Vec<New>, Failure> {
    /// What an entry without a name is called after: the name of its file.
    const NAMELESS: &str = "stdin";
    let given = !arguments.env.is_empty() || !arguments.header.is_empty() || arguments.url.is_some();
    if given || arguments.bearer_token_env_var.is_some() {
        return Err(wrong("standard input says all there is to a server: leave the other flags out"));
    }
    let mut text = String::new();
    let read = tokio::io::stdin().read_to_string(&mut text).await;
    read.map_err(|error| wrong(format!("standard input could not be read: {error}")))?;
    let mut sources = own.sources(vec![Source { path: NAMELESS.into(), text }])?;
    sources.own = None;
    // Nothing says where the text lay, so its paths are meant from here.
    sources.base = std::env::current_dir().unwrap_or_default();
    let files = config::foreign(&sources).map_err(|faults| Failure {
        details: faults.iter().map(ToString::to_string).collect(),
        ..wrong("standard input holds no server that could be read")
    })?;
    let mut news = Vec::new();
    for file in files {
        notes.extend(file.notes.iter().map(ToString::to_string));
        for server in file.servers.into_iter().filter(|server| server.same_as.is_none()) {
            let name = server.upstream.name.clone();
            if server.key.is_empty() && name == NAMELESS && arguments.name == STDIN {
                return Err(wrong("the entry has no name: write `seawall add NAME -`"));
            }
            news.push(New { name, table: table(&server.written, Some(&server.upstream)) });
        }
    }
    if news.is_empty() {
        return Err(Failure { details: std::mem::take(notes), ..wrong("standard input holds no server") });
    }
    Ok(news)
}

fn kind(arguments: &Arguments) -> Result<Kind, Failure> {
    let Arguments { target, env, header, bearer_token_env_var, .. } = arguments;
    let is_url = |word: &&String| {
        ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| word.starts_with(scheme))
    };
    let url = arguments.url.as_ref().or_else(|| target.first().filter(is_url));
    match (arguments.transport.as_deref(), url) {
        (None | Some("http" | "streamable-http" | "streamableHttp" | "remote"), Some(_))
        | (None | Some("stdio" | "local"), None) => {}
        (Some("sse" | "ws" | "websocket"), Some(_)) => {}
        (
            Some("http" | "sse" | "ws" | "websocket" | "streamable-http" | "streamableHttp" | "remote"),
            None,
        ) => {
            return Err(wrong("that transport needs a URL, such as https://example.com/mcp"));
        }
        (Some("stdio" | "local"), Some(_)) => {
            return Err(wrong("a URL is no command: leave --transport out"));
        }
        (Some(other), _) => return Err(wrong(format!("{other:?} is no transport: leave --transport out"))),
    }
    let Some(url) = url else {
        if !header.is_empty() || bearer_token_env_var.is_some() {
            return Err(wrong("headers and tokens are for servers at a URL; give a command its --env"));
        }
        let Some((command, args)) = target.split_first() else {
            return Err(wrong("say how it is reached: by a URL, or after `--` by a command"));
        };
        // A path is meant from here, and seawall.toml may lie elsewhere.
        let path = command.contains('/').then(|| absolute(command).ok()).flatten();
        let path = path.and_then(|path| path.into_os_string().into_string().ok());
        let env = env.iter().map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Secret::new(value))),
            _ => {
                Err(wrong(format!("--env takes KEY=VALUE, not {:?}", pair.split('=').next().unwrap_or(pair))))
            }
        });
        return Ok(Kind::Stdio {
            command: path.unwrap_or_else(|| command.clone()),
            args: args.to_vec(),
            env: env.collect::<Result<_, _>>()?,
            cwd: None,
        });
    };
    if !env.is_empty() {
        return Err(wrong("variables are for commands; give a URL its --header"));
    }
    if arguments.url.is_none() && target.len() > 1 {
        return Err(wrong("nothing can follow the URL; give each header a -H of its own"));
    }
    let mut headers = Vec::new();
    for pair in header {
        let Some((name, value)) = pair.split_once([':', '=']) else {
            return Err(wrong("--header takes \"KEY: VALUE\" or KEY=VALUE"));
        };
        headers.push((name.trim().to_owned(), Secret::new(value.trim())));
    }
    if let Some(variable) = bearer_token_env_var {
        headers.push(("Authorization".to_owned(), Secret::new(format!("Bearer ${{{variable}}}"))));
    }
    let sse = arguments.transport.as_deref() == Some("sse");
    let transport = if sse { Transport::Sse } else { Transport::of(url) };
    Ok(Kind::Http { transport, url: url.clone(), headers, ca_file: None })
}
