//! `seawall connect`: puts Seawall into the configuration of MCP clients, and takes it out again.

use super::{ConfigArguments, Exit, Failure, sources};
use crate::clients::{
    self, Client, ENTRY, Program, TOKEN, Token,
    backup::Backups,
    change::{self, Others, Plan},
    edit::{self, Fields},
    file,
};
use base64::Engine as _;
use clap::Args;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// Connect MCP clients to Seawall, or undo that.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// The clients: claude-desktop, claude-code, cursor, vscode, codex, gemini, opencode, windsurf, zed, goose, cline,
    /// roo, continue, junie, kiro, amazon-q, lm-studio, jetbrains-ai.
    #[arg(value_name = "CLIENT", required_unless_present_any = ["all", "undo"])]
    clients: Vec<String>,
    /// Every client whose file exists.
    #[arg(long, conflicts_with = "clients")]
    all: bool,
    /// Write the file of the project in the working directory instead of the user's.
    #[arg(long)]
    project: bool,
    /// Write the daemon's URL instead of a command that starts it.
    #[arg(long)]
    http: bool,
    /// Offer only the tools of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Move the client's other servers into Seawall.
    #[arg(long, conflicts_with_all = ["project", "print", "undo"])]
    only: bool,
    /// Show what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the entry instead of writing it.
    #[arg(long)]
    print: bool,
    /// Take back the newest change of these clients, or of all.
    #[arg(long, conflicts_with_all = ["print", "project", "http", "group"])]
    undo: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Do not ask before writing.
    #[arg(long)]
    yes: bool,
}

/// What was done for one client.
#[derive(Debug)]
struct Outcome {
    client: &'static Client,
    status: &'static str,
    facts: Value,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let backups = Backups::new(&sources::state_directory()?);
    let chosen = choose(&arguments, &backups).await?;
    let reach = if arguments.undo { None } else { Some(Reach::find(&arguments).await?) };
    let mut outcomes = Vec::new();
    let mut exit = Exit::Done;
    for client in chosen {
        let done = match &reach {
            None => match change::undo(client, &backups).await {
                Ok(plan) => carry_out(&arguments, &plan, &backups).await,
                Err(error) => Err(error),
            },
            Some(reach) if arguments.print || client.print_only => print(&arguments, client, reach),
            Some(reach) => match plan(&arguments, client, reach).await {
                Ok(plan) => carry_out(&arguments, &plan, &backups).await,
                Err(error) => Err(error),
            },
        };
        outcomes.push(done.unwrap_or_else(|error| {
            exit = Exit::Failed;
            if !arguments.json {
                eprintln!("{}: {error}", client.title);
            }
            Outcome { client, status: "failed", facts: json!({"error": error}) }
        }));
    }
    if arguments.json {
        let clients: Vec<Value> = outcomes
            .into_iter()
            .map(|outcome| {
                let mut object = json!({"client": outcome.client.name, "status": outcome.status});
                if let (Value::Object(object), Value::Object(facts)) = (&mut object, outcome.facts) {
                    object.extend(facts);
                }
                object
            })
            .collect();
        say!("{}", json!({"clients": clients}));
    } else if outcomes.is_empty() {
        let nothing = if arguments.undo { "nothing to undo" } else { "no client whose file exists" };
        say!("There is {nothing}.");
    }
    Ok(exit)
}

/// The clients that are meant.
async fn choose(arguments: &Arguments, backups: &Backups) -> Result<Vec<&'static Client>, Failure> {
    if arguments.undo && arguments.clients.is_empty() {
        let (names, unread) = backups.clients().await.map_err(|error| Failure::new(Exit::Failed, error))?;
        unread.iter().for_each(|error| eprintln!("{error}; it is passed over"));
        return Ok(clients::all()
            .iter()
            .filter(|client| names.iter().any(|name| name == client.name))
            .collect());
    }
    if arguments.all {
        let mut found = Vec::new();
        for client in clients::all().iter().filter(|client| !client.print_only) {
            if let Some(path) = path_of(client, arguments.project)
                && tokio::fs::try_exists(path).await.unwrap_or(false)
            {
                found.push(client);
            }
        }
        return Ok(found);
    }
    let mut chosen: Vec<&'static Client> = Vec::new();
    for name in &arguments.clients {
        let Some(client) = clients::find(name) else {
            let known: Vec<&str> = clients::all().iter().map(|client| client.name).collect();
            let text = format!("{name:?} is no client that is known; these are: {}", known.join(", "));
            return Err(Failure::new(Exit::BadConfiguration, text));
        };
        if !chosen.iter().any(|known| known.name == client.name) {
            chosen.push(client);
        }
    }
    Ok(chosen)
}

fn path_of(client: &Client, project: bool) -> Option<PathBuf> {
    if project { client.project_file(Path::new(".")) } else { client.user_file() }
}

/// How clients reach Seawall.
#[derive(Debug)]
enum Reach {
    /// They start this program.
    Start(Program),
    /// They go to this URL, where a token is needed or not.
    Url { url: String, needed: bool, token: Option<String> },
}

impl Reach {
    async fn find(arguments: &Arguments) -> Result<Self, Failure> {
        let bad = |text: &str| Failure::new(Exit::BadConfiguration, text);
        if let Some(group) = &arguments.group {
            let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
            if group.is_empty() || !group.chars().all(fits) {
                return Err(bad("a group's name consists of A-Z a-z 0-9 _ -"));
            }
        }
        if !arguments.http {
            let program = std::env::current_exe().map_err(|error| {
                Failure::new(Exit::Failed, format!("where seawall lies is unknown: {error}"))
            })?;
            let command = program.into_os_string().into_string();
            let command =
                command.map_err(|_| bad("the path of seawall is not UTF-8, which no client can hold"))?;
            let mut args = vec!["stdio".to_owned()];
            if let Some(group) = &arguments.group {
                args.extend(["--group".to_owned(), group.clone()]);
            }
            args.extend(config_arguments(&arguments.config).await?);
            return Ok(Self::Start(Program { command, args }));
        }
        let config = sources::load(&arguments.config).await?.config;
        let mut address = config.listen;
        if address.port() == 0 {
            return Err(bad("`listen` has port 0, so the URL is another one at every start; give it a port"));
        }
        if address.ip().is_unspecified() {
            let loopback: std::net::IpAddr = match address {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            address.set_ip(loopback);
        }
        let group = arguments.group.as_ref().map_or_else(String::new, |group| format!("/group/{group}"));
        let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        let needed = token.is_some() || !config.callers.is_empty();
        Ok(Self::Url { url: format!("http://{address}/mcp{group}"), needed, token })
    }

    /// The entry of a client; `literal` says whether a token may stand in it as it is.
    fn entry(
        &self,
        client: &Client,
        project: bool,
        literal: impl FnOnce() -> Result<String, String>,
    ) -> Result<Fields, String> {
        let (url, needed) = match self {
            Self::Start(program) => return Ok(client.stdio_entry(program, project)),
            Self::Url { url, needed, .. } => (url, *needed),
        };
        let by = client.token(project);
        let bearer = match by {
            Some(Token::Reference(reference)) if needed => Some(reference.to_owned()),
            Some(Token::Literal) if needed => Some(literal()?),
            Some(_) | None => None,
        };
        client.http_entry(url, bearer.as_deref(), project).ok_or_else(|| {
            "it cannot use a URL; connect it without --http, which starts a bridge to the same daemon"
                .to_owned()
        })
    }

    fn token(&self) -> Option<&str> {
        match self {
            Self::Start(_) => None,
            Self::Url { token, .. } => token.as_deref(),
        }
    }
}

/// What tells `seawall stdio` of the configuration that was named here, from whatever directory it is started.
async fn config_arguments(config: &ConfigArguments) -> Result<Vec<String>, Failure> {
    let files = config.config.iter().map(|file| ("--config", file));
    let files: Vec<_> = files.chain(config.mcp_config.iter().map(|file| ("--mcp-config", file))).collect();
    if !files.is_empty() {
        // As `stdio` will: its faults are told now, and not by a client that cannot start its server.
        sources::load_elsewhere(config).await?;
    }
    let mut words = Vec::new();
    for (flag, file) in files {
        let bad = |text: &str| Failure::new(Exit::BadConfiguration, format!("{}: {text}", file.display()));
        let path = std::path::absolute(file).map_err(|error| bad(&error.to_string()))?;
        let path = path.into_os_string().into_string();
        words.extend([
            flag.to_owned(),
            path.map_err(|_| bad("its path is not UTF-8, which no client can hold"))?,
        ]);
    }
    Ok(words)
}

async fn plan(arguments: &Arguments, client: &'static Client, reach: &Reach) -> Result<Plan, String> {
    let project = arguments.project;
    let path = path_of(client, project).ok_or(if project {
        "it has no file for a project"
    } else {
        "there is no home directory to find its file in; set HOME"
    })?;
    let now = file::read(&path).await?;
    let open = now.mode & 0o077 != 0;
    let fields = reach.entry(client, project, || {
        if project {
            return Err("it knows no reference to a variable, and a token has no place in a project's file"
                .to_owned());
        }
        if open {
            let text = "others can read it, so that no token is written there; run `chmod 600` on it first";
            return Err(format!("{}: {text}", path.display()));
        }
        let token = reach.token().map(str::to_owned);
        token.ok_or_else(|| format!("it knows no reference to a variable; set {TOKEN} to the token to write"))
    })?;
    let settings = arguments.config.config.as_deref().map(std::path::absolute).transpose();
    let settings = settings.map_err(|error| format!("where the configuration lies is unknown: {error}"))?;
    let named = settings.is_some();
    let others = if arguments.only { Others::Move(settings) } else { Others::Stay };
    let mut plan = change::connect(client, &path, project, &fields, &others).await?;
    if matches!(reach, Reach::Url { needed: false, .. }) {
        plan.notes.push("No callers are configured, so the entry carries no token.".to_owned());
    }
    if arguments.only && !named && tokio::fs::try_exists("seawall.toml").await.unwrap_or(false) {
        let text = "A daemon started in this directory reads ./seawall.toml, which does not import them.";
        plan.notes.push(text.to_owned());
    }
    Ok(plan)
}

/// Shows a plan and, unless that was all that was asked for, makes the change.
async fn carry_out(arguments: &Arguments, plan: &Plan, backups: &Backups) -> Result<Outcome, String> {
    let (client, project) = (plan.client, plan.project);
    let secret = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    let hide = |line: String| match &secret {
        Some(secret) => line.replace(secret.as_str(), "…"),
        None => line,
    };
    let mut files = Vec::new();
    for step in &plan.steps {
        let lines: Vec<String> = plan.lines(step).into_iter().map(hide).collect();
        let what = match (&step.before.bytes, &step.after) {
            (None, _) => "create",
            (Some(_), None) => "delete",
            (Some(_), Some(_)) => "change",
        };
        if !arguments.json {
            say!("{}: {what} {}", client.title, step.before.path.display());
            lines.iter().for_each(|line| say!("  {line}"));
        }
        files.push(json!({"file": step.before.path, "what": what, "diff": lines}));
    }
    let status = if plan.steps.is_empty() {
        "unchanged"
    } else if arguments.dry_run {
        "preview"
    } else if !confirmed(arguments) {
        "declined"
    } else {
        plan.make(backups).await?;
        "written"
    };
    let due = (status == "written").then(|| client.due(project));
    if !arguments.json {
        match status {
            "unchanged" if arguments.undo => say!("{}: nothing of the change is left.", client.title),
            "unchanged" => say!("{}: already connected.", client.title),
            "preview" => say!("{}: nothing was written.", client.title),
            "declined" => say!("{}: left as it is.", client.title),
            _ => say!("{}: done. {}", client.title, client.due(project)),
        }
        plan.notes.iter().for_each(|note| say!("  {note}"));
    }
    Ok(Outcome { client, status, facts: json!({"files": files, "due": due, "notes": plan.notes}) })
}

/// Asks before anything is written, where somebody is there to be asked.
fn confirmed(arguments: &Arguments) -> bool {
    if arguments.yes || arguments.json || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal()
    {
        return true;
    }
    let mut out = std::io::stdout();
    // A terminal that cannot be written to cannot answer either.
    drop(write!(out, "Write this? [y/N] ").and_then(|()| out.flush()));
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Prints a client's entry, for whoever wants to add it by hand.
fn print(arguments: &Arguments, client: &'static Client, reach: &Reach) -> Result<Outcome, String> {
    let project = arguments.project;
    let fields = reach.entry(client, project, || Ok("YOUR_TOKEN".to_owned()))?;
    let snippet = edit::set(client.shape_in(project), "", ENTRY, &fields)?;
    let link = (client.name == "lm-studio").then(|| link(&fields));
    let path = path_of(client, project).filter(|_| !client.print_only);
    if !arguments.json {
        match &path {
            Some(path) => say!("{}, {}:", client.title, path.display()),
            None => say!("{}:", client.title),
        }
        say!("{}", snippet.trim_end());
        link.iter().for_each(|link| say!("{link}"));
        if client.print_only {
            say!("{}", client.due(project));
        }
    }
    let due = client.print_only.then(|| client.due(project));
    Ok(Outcome {
        client,
        status: "printed",
        facts: json!({"file": path, "snippet": snippet, "link": link, "due": due}),
    })
}

/// A link that opens LM Studio with the entry filled in.
fn link(fields: &Fields) -> String {
    let entry = edit::value_of(fields).to_string();
    let config = base64::engine::general_purpose::STANDARD.encode(entry);
    let config = config.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("lmstudio://add_mcp?name={ENTRY}&config={config}")
}
