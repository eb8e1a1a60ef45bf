//! `seawall import`: the servers of other clients' files, used where they are or copied.

mod copy;

use super::{Exit, Failure, own_file::OwnFile};
use crate::clients::{self, Client};
use clap::Args;
use copy::Copied;
use seawall_core::config::{self, ForeignFile, ForeignServer, Source};
use serde_json::{Value, json};
use std::path::{Path, PathBuf, absolute};
use tokio::fs;

/// Use the servers of other clients: every client's file that is there, or those named.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Clients by name, or files; without any, every file of a client that is there.
    #[arg(value_name = "CLIENT | FILE")]
    what: Vec<String>,
    /// Write the servers to seawall.toml instead of reading them from the files at every start.
    #[arg(long)]
    copy: bool,
    /// Show what would come of it, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// The configuration file; without it, seawall.toml here or in $XDG_CONFIG_HOME/seawall.
    #[arg(long, value_name = "FILE", env = "SEAWALL_CONFIG")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is said of what an earlier copy has brought.
const COPIED: &str = "copied already";

/// A file to look at.
struct Target {
    client: Option<&'static Client>,
    path: PathBuf,
}

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is read from now on, or its servers are copied.
    Taken,
    /// It is imported already.
    There,
    /// All its servers are copied already.
    Copied,
    /// It has no server that could be used.
    Empty,
    /// It cannot be read, and why.
    Unreadable(String),
}

/// A file, and what becomes of it.
struct Outcome {
    target: Target,
    file: Option<ForeignFile>,
    verdict: Verdict,
    /// Its servers that were copied before, by name.
    copied: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut own = OwnFile::open(arguments.config.as_deref()).await?;
    let targets = targets(&arguments.what).await?;
    let mut outcomes = judged(&own, targets).await?;
    let mut copy = Copied::default();
    for outcome in &mut outcomes {
        let Some(file) = outcome.file.as_ref().filter(|_| outcome.verdict == Verdict::Taken) else {
            continue;
        };
        if arguments.copy {
            let mut verdict = Verdict::Copied;
            for server in file.servers.iter().filter(|server| server.same_as.is_none()) {
                let mut with = copy.clone();
                let table = with.table(server);
                if own.had_alike(&table) {
                    outcome.copied.push(server.upstream.name.clone());
                    continue;
                }
                copy = with;
                own.put_server(&server.upstream.name, table)?;
                verdict = Verdict::Taken;
            }
            outcome.verdict = verdict;
        } else if !own.add_import(&outcome.target.path)? {
            outcome.verdict = Verdict::There;
        }
    }
    own.lowered().await?;
    if !arguments.dry_run {
        own.save().await?;
    }
    let mut unset = copy.unset();
    let used = outcomes.iter().filter_map(|outcome| outcome.file.as_ref()).flat_map(|file| &file.servers);
    for name in used.filter(|server| server.same_as.is_none()).flat_map(|server| &server.upstream.needs) {
        // A need may be something else that is not there, such as a file.
        let is_variable = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_variable && !unset.iter().any(|(known, _)| known == name) {
            unset.push((name.clone(), None));
        }
    }
    if arguments.json {
        print_json(&arguments, &own, &outcomes, &unset);
    } else {
        print(&arguments, &own, &outcomes, &unset);
    }
    let asked = !arguments.what.is_empty();
    let failed = outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Unreadable(_)));
    Ok(if asked && failed { Exit::Failed } else { Exit::Done })
}

/// The files that are asked for, or all there are.
async fn targets(what: &[String]) -> Result<Vec<Target>, Failure> {
    let here = std::env::current_dir().unwrap_or_default();
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |client, path: PathBuf| {
        let path = absolute(&path).unwrap_or(path);
        if !targets.iter().any(|target| target.path == path) {
            targets.push(Target { client, path });
        }
    };
    if what.is_empty() {
        for client in clients::all() {
            for path in there(client, &here).await {
                add(Some(client), path);
            }
        }
    }
    for word in what {
        if let Some(client) = clients::all().iter().find(|client| client.name.eq_ignore_ascii_case(word)) {
            let files = there(client, &here).await;
            if files.is_empty() {
                let text = match client.user_file() {
                    Some(path) => {
                        format!("{} has no file here: {} is not there", client.title, path.display())
                    }
                    None => format!("{} keeps its servers in no file that could be read", client.title),
                };
                return Err(Failure::new(Exit::Failed, text));
            }
            files.into_iter().for_each(|path| add(Some(client), path));
        } else if fs::try_exists(word).await.unwrap_or(false) {
            add(None, PathBuf::from(word));
        } else {
            let names: Vec<_> = clients::all().iter().map(|client| client.name).collect();
            let text = format!("{word} is neither a file nor a client; the clients are {}", names.join(", "));
            return Err(Failure::new(Exit::Failed, text));
        }
    }
    Ok(targets)
}

/// The client's files that are there: the user's, and that of the project here.
async fn there(client: &Client, here: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in [client.user_file(), client.project_file(here)].into_iter().flatten() {
        if fs::metadata(&path).await.is_ok_and(|file| file.is_file()) {
            files.push(path);
        }
    }
    files
}

/// Reads the files, each by itself and then all together: one that is broken does not hide the others.
async fn judged(own: &OwnFile, targets: Vec<Target>) -> Result<Vec<Outcome>, Failure> {
    let imported = own.imported().await?;
    let (mut outcomes, mut good) = (Vec::new(), imported.clone());
    for target in targets {
        let mut outcome = Outcome { target, file: None, verdict: Verdict::Taken, copied: Vec::new() };
        let path = &outcome.target.path;
        if own.imports(path) {
            outcome.verdict = Verdict::There;
            outcomes.push(outcome);
            continue;
        }
        match fs::read_to_string(path).await {
            Err(error) => outcome.verdict = Verdict::Unreadable(error.to_string()),
            Ok(text) => {
                let source = Source { path: path.clone(), text };
                let alone = imported.iter().cloned().chain([source.clone()]).collect();
                match config::foreign(&own.sources(alone)?) {
                    Ok(_) => good.push(source),
                    Err(faults) => {
                        let (its, others): (Vec<_>, Vec<_>) =
                            faults.into_iter().partition(|fault| fault.path == *path);
                        if !others.is_empty() {
                            return Err(faulty(&others));
                        }
                        let its: Vec<_> = its.iter().map(ToString::to_string).collect();
                        outcome.verdict = Verdict::Unreadable(its.join("; "));
                    }
                }
            }
        }
        outcomes.push(outcome);
    }
    let files = config::foreign(&own.sources(good)?).map_err(|faults| faulty(&faults))?;
    for file in files {
        let whole = absolute(&file.path).unwrap_or_else(|_| file.path.clone());
        let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.target.path == whole) else {
            continue;
        };
        if file.servers.is_empty() && outcome.verdict == Verdict::Taken {
            outcome.verdict = Verdict::Empty;
        }
        outcome.file = Some(file);
    }
    Ok(outcomes)
}

fn faulty(faults: &[config::ConfigFault]) -> Failure {
    Failure {
        details: faults.iter().map(ToString::to_string).collect(),
        ..Failure::new(Exit::BadConfiguration, "the configuration is wrong, and nothing was written")
    }
}

impl Outcome {
    fn title(&self) -> &str {
        let by_shape = self.file.as_ref().and_then(|file| file.client);
        self.target.client.map_or_else(|| by_shape.unwrap_or("a file"), |client| client.title)
    }

    fn verdict(&self, arguments: &Arguments) -> String {
        let would = if arguments.dry_run { "would be " } else { "" };
        match &self.verdict {
            Verdict::Taken if arguments.copy => format!("{would}copied"),
            Verdict::Taken => format!("{would}imported"),
            Verdict::There => "imported already".to_owned(),
            Verdict::Copied => COPIED.to_owned(),
            Verdict::Empty => "no servers".to_owned(),
            Verdict::Unreadable(why) => format!("not readable: {why}"),
        }
    }

    /// What becomes of a server of it.
    fn fate(&self, server: &ForeignServer) -> String {
        let upstream = &server.upstream;
        if let Some(other) = &server.same_as {
            format!("the same as {other}")
        } else if self.copied.contains(&upstream.name) {
            COPIED.to_owned()
        } else if !upstream.enabled {
            "disabled".to_owned()
        } else if !upstream.needs.is_empty() {
            format!("needs {}", upstream.needs.join(", "))
        } else {
            "used".to_owned()
        }
    }
}

/// Variables that are to be set, and where the value of each stands that was not copied.
type Unset = [(String, Option<String>)];

fn print(arguments: &Arguments, own: &OwnFile, outcomes: &[Outcome], unset: &Unset) {
    for outcome in outcomes {
        let path = outcome.target.path.display();
        say!("{}  {path}: {}", outcome.title(), outcome.verdict(arguments));
        let Some(file) = &outcome.file else { continue };
        let width = file.servers.iter().map(|server| server.upstream.name.len()).max().unwrap_or_default();
        for server in &file.servers {
            say!("  {:width$}  {}", server.upstream.name, outcome.fate(server));
        }
        for note in &file.notes {
            let key = if note.key.is_empty() { String::new() } else { format!("{}: ", note.key) };
            say!("  note: line {}: {key}{}", note.line, note.message);
        }
    }
    let taken = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Taken).count();
    let path = own.path().display();
    match (taken, arguments.dry_run) {
        _ if outcomes.is_empty() => say!("No client has a file here; `seawall add` adds a server."),
        (0, _) => say!("\n{path} stays as it is."),
        (_, true) => say!("\nNothing was written; {path} would change."),
        (_, false) => say!("\nWrote {path}. `seawall check` says what it comes to."),
    }
    if !unset.is_empty() {
        say!("\nSet these variables where Seawall runs:");
        for (name, origin) in unset {
            match origin {
                Some(origin) => say!("  {name}  the value of {origin}"),
                None => say!("  {name}"),
            }
        }
    }
}

fn print_json(arguments: &Arguments, own: &OwnFile, outcomes: &[Outcome], unset: &Unset) {
    let files: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let servers = outcome.file.iter().flat_map(|file| &file.servers);
            let servers: Vec<_> = servers
                .map(|server| {
                    json!({
                        "name": server.upstream.name, "key": server.key, "verdict": outcome.fate(server),
                        "same_as": server.same_as, "enabled": server.upstream.enabled,
                        "needs": server.upstream.needs,
                    })
                })
                .collect();
            let notes = outcome.file.iter().flat_map(|file| &file.notes);
            let notes: Vec<_> = notes.map(ToString::to_string).collect();
            json!({
                "client": outcome.title(), "file": outcome.target.path, "verdict": outcome.verdict(arguments),
                "servers": servers, "notes": notes,
            })
        })
        .collect();
    let variables: Vec<_> =
        unset.iter().map(|(name, origin)| json!({"name": name, "value_of": origin})).collect();
    let written = !arguments.dry_run && outcomes.iter().any(|outcome| outcome.verdict == Verdict::Taken);
    say!("{}", json!({"file": own.path(), "written": written, "files": files, "variables": variables}));
}
