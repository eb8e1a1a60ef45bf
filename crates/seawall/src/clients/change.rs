//! Changes of a client's files: planned whole, shown, and then made with a back-up of each file, or taken back.

use super::backup::{Backups, Origin, Record, Role, Touched};
use super::edit::{self, Fields, Format, Fragment, Shape};
use super::file::{self, Lock, PRIVATE, Snapshot, digest};
use super::{Client, ENTRY, config_home, diff::diff, secret};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The keys of which a server has at least one that can be moved: what is built into a client cannot.
const REACHED_BY: [&str; 7] = ["command", "cmd", "url", "uri", "httpUrl", "serverUrl", "transport"];
/// What asks the user for a value when the client starts a server, which Seawall cannot.
const ASKED_FOR: &str = "${input:";

/// What one file becomes.
#[derive(Debug)]
pub(crate) struct Step {
    /// What the file is to the change.
    pub role: Role,
    /// The file as it is.
    pub before: Snapshot,
    /// What it shall hold; `None` deletes it.
    pub after: Option<Vec<u8>>,
    mode: u32,
    touched: Vec<Touched>,
}

/// A change that has not been made yet.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The client it is for.
    pub client: &'static Client,
    /// Whether it is of a project's file.
    pub project: bool,
    /// The files it changes, in the order in which they are written. None where everything is as it should be.
    pub steps: Vec<Step>,
    /// Remarks for the user.
    pub notes: Vec<String>,
    undo: bool,
}

/// Where a client's other servers go.
#[derive(Clone, Debug)]
pub(crate) enum Others {
    /// They stay where they are.
    Stay,
    /// Into Seawall, by an import in this file; `None` stands for the user's `seawall.toml`.
    Move(Option<PathBuf>),
}

/// Plans to write Seawall's entry into a client's file, and to move the client's other servers into Seawall.
///
/// # Errors
/// Why the file cannot be changed.
pub(crate) async fn connect(
    client: &'static Client,
    path: &Path,
    project: bool,
    fields: &Fields,
    others: &Others,
) -> Result<Plan, String> {
    let before = file::read(path).await?;
    let shape = client.shape_in(project);
    let wrong = |error: String| format!("{}: {error}; it is left as it is", path.display());
    let text = before.text()?;
    let whole = edit::parse(shape.format, text).map_err(wrong)?;
    if let Some(objection) = client.objection(&whole) {
        return Err(wrong(objection.to_owned()));
    }
    let entries = edit::entries(shape, text).map_err(wrong)?;
    let mut touched = Vec::new();
    let mut after = text.to_owned();
    let old = entries.iter().find(|(name, _)| name == ENTRY).map(|(_, fragment)| fragment);
    let value = edit::value_of(fields);
    if old.is_none_or(|old| old.value != value) {
        if text.trim().is_empty() && !project {
            after.push_str(client.preamble);
        }
        after = edit::set(shape, &after, ENTRY, fields).map_err(wrong)?;
        touched.push(Touched { name: ENTRY.to_owned(), before: old.cloned(), after: Some(unplaced(value)) });
    }
    let movable = |name: &str, fragment: &Fragment| {
        let only = matches!(others, Others::Move(_));
        only && name != ENTRY && REACHED_BY.iter().any(|key| fragment.value.get(key).is_some())
    };
    let (asking, moved): (Vec<&(String, Fragment)>, Vec<_>) = entries
        .iter()
        .filter(|(name, fragment)| movable(name, fragment))
        .partition(|(_, fragment)| fragment.value.to_string().contains(ASKED_FOR));
    for (name, fragment) in &moved {
        after = edit::remove(shape, &after, name).map_err(wrong)?;
        touched.push(Touched { name: name.clone(), before: Some(fragment.clone()), after: None });
    }
    let mut plan = Plan { client, project, steps: Vec::new(), notes: Vec::new(), undo: false };
    for (name, _) in asking {
        let title = client.title;
        plan.notes.push(format!("`{name}` stays: {title} asks the user for a value, which Seawall cannot."));
    }
    if let Others::Move(settings) = others
        && !moved.is_empty()
    {
        take_over(&mut plan, &moved, settings.as_deref()).await?;
    }
    if !touched.is_empty() {
        // Last: until here the client still has its servers.
        let mode = before.mode;
        plan.steps.push(Step { role: Role::Client, before, after: Some(after.into_bytes()), mode, touched });
    }
    Ok(plan)
}

/// Adds the steps that give a client's servers to Seawall: a file with them, and its import.
async fn take_over(
    plan: &mut Plan,
    moved: &[&(String, Fragment)],
    settings: Option<&Path>,
) -> Result<(), String> {
    let directory =
        config_home().ok_or("there is no home directory; set HOME or XDG_CONFIG_HOME")?.join("seawall");
    let path = directory.join(moved_file(plan.client));
    let shape = Shape { format: Format::Json, root: plan.client.shape.root, list: false };
    let before = file::read(&path).await?;
    let wrong = |error: String| format!("{}: {error}; nothing was moved", path.display());
    let whole = edit::parse(shape.format, before.text()?).map_err(wrong)?;
    if let Some(key) = whole.as_object().and_then(|whole| whole.keys().find(|key| *key != shape.root)) {
        return Err(wrong(format!("it holds `{key}`, which was not written there now")));
    }
    let known = edit::entries(shape, before.text()?).map_err(wrong)?;
    let mut servers: Map<String, Value> =
        known.into_iter().map(|(name, fragment)| (name, fragment.value)).collect();
    for (name, fragment) in moved {
        let other = servers.insert(name.clone(), fragment.value.clone());
        if other.is_some_and(|other| other != fragment.value) {
            return Err(wrong(format!("another server `{name}` is in it already")));
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&json!({ (shape.root): servers }))
        .map_err(|error| wrong(error.to_string()))?;
    bytes.push(b'\n');
    let touched = moved
        .iter()
        .map(|(name, fragment)| Touched { name: name.clone(), before: None, after: Some(fragment.clone()) })
        .collect();
    plan.steps.push(Step { role: Role::Moved, before, after: Some(bytes), mode: PRIVATE, touched });

    let settings = settings.map_or_else(|| directory.join("seawall.toml"), Path::to_path_buf);
    let before = file::read(&settings).await?;
    let wrong = |error: String| format!("{}: {error}; nothing was moved", settings.display());
    let import = path.to_str().ok_or_else(|| wrong("its directory's name is not UTF-8".to_owned()))?;
    let after = edit::toml::add_import(before.text()?, import).map_err(wrong)?;
    if after != before.text()? {
        let touched = vec![Touched {
            name: import.to_owned(),
            before: None,
            after: Some(unplaced(Value::from(import))),
        }];
        let mode = before.mode;
        plan.steps.push(Step {
            role: Role::Settings,
            before,
            after: Some(after.into_bytes()),
            mode,
            touched,
        });
    }
    plan.notes.push(format!("The other servers move to {}, which Seawall imports.", path.display()));
    Ok(())
}

/// The file below Seawall's own directory that holds what was moved out of a client's. Whoever imports it must see
/// which client that was, whose units of time and variables its servers are written with. Where many clients share a
/// root, the path says it; and it must not look like a project's.
fn moved_file(client: &Client) -> String {
    match client.name {
        "claude-desktop" => "moved/claude_desktop_config.json".to_owned(),
        "claude-code" => "moved/.claude.json".to_owned(),
        "cline" => "moved/cline_mcp_settings.json".to_owned(),
        "roo" => "moved/mcp_settings.json".to_owned(),
        "windsurf" => "moved/mcp_config.json".to_owned(),
        "amazon-q" => "moved/amazonq/mcp.json".to_owned(),
        name if client.shape.root == "mcpServers" => format!("moved/.{name}/user/servers/mcp.json"),
        name => format!("from-{name}.json"),
    }
}

/// Plans to take the newest change of a client back.
///
/// # Errors
/// Why that cannot be done.
pub(crate) async fn undo(client: &'static Client, backups: &Backups) -> Result<Plan, String> {
    let newest = backups.newest(client.name).await?;
    let nothing = || {
        let mut parts = vec![format!("there is nothing to undo for {}", client.title)];
        parts.extend_from_slice(&newest.unread);
        parts.join("; ")
    };
    let project = newest.writes.first().map(|(record, _)| record.project).ok_or_else(nothing)?;
    let is_client = |(record, _): &(Record, Option<Vec<u8>>)| record.role == Role::Client;
    if !newest.unread.is_empty() && !newest.writes.iter().any(is_client) {
        // What was moved would be gone, and not be back where it came from.
        return Err(newest.unread.join("; "));
    }
    let moved: Vec<String> = newest
        .writes
        .iter()
        .filter(|(record, _)| record.role == Role::Moved)
        .flat_map(|(record, _)| record.touched.iter().map(|one| one.name.clone()))
        .collect();
    let mut plan = Plan { client, project, steps: Vec::new(), notes: newest.unread, undo: true };
    // Names that are not as they were before, so that what was moved of them is still wanted.
    let mut left: Vec<String> = Vec::new();
    // The client's file comes first, so that its servers are back before they are gone elsewhere.
    for (record, bytes) in newest.writes.into_iter().rev() {
        if record.role != Role::Client && left.iter().any(|name| moved.contains(name)) {
            let name = record.file.display();
            plan.notes.push(format!("{name} is left as it is, for what could not be taken back needs it."));
            continue;
        }
        let before = file::read(&record.file).await?;
        let touched: Vec<Touched> = record
            .touched
            .iter()
            .map(|one| Touched {
                name: one.name.clone(),
                before: one.after.clone(),
                after: one.before.clone(),
            })
            .collect();
        let (after, mode) = if digest(before.bytes.as_deref()) == record.sha256_after {
            // Whoever closed the file since did not mean to have it opened again.
            (bytes, if before.bytes.is_some() { before.mode } else { record.mode })
        } else {
            let name = record.file.display();
            let text = before.text()?;
            let wrong = |error: String| format!("{name}: {error}; it is left as it is");
            let changed = match record.role {
                Role::Client => {
                    let shape = client.shape_in(record.project);
                    let text = by_key(shape, text, &record.touched, &mut left).map_err(wrong)?;
                    for name in &left {
                        plan.notes.push(format!("`{name}` was changed since; it is left as it is."));
                    }
                    let ours = record.sha256_before.is_none() && edit::is_bare(shape, &text);
                    if ours || (before.bytes.is_none() && text.is_empty()) { None } else { Some(text) }
                }
                Role::Settings => Some(imports_back(text, &record.touched).map_err(wrong)?),
                Role::Moved => {
                    plan.notes.push(format!("{name} was changed since; it is left as it is."));
                    continue;
                }
            };
            plan.notes.push(format!("{name} was changed since; only Seawall's own part is taken back."));
            (changed.map(String::into_bytes), before.mode)
        };
        if after != before.bytes {
            plan.steps.push(Step { role: record.role, before, after, mode, touched });
        }
    }
    Ok(plan)
}

/// Takes the changes of single servers back, where they still are what they were made; `left` gets the other names.
fn by_key(shape: Shape, text: &str, touched: &[Touched], left: &mut Vec<String>) -> Result<String, String> {
    let mut text = text.to_owned();
    for one in touched {
        let entries = edit::entries(shape, &text)?;
        let now = entries.iter().find(|(name, _)| *name == one.name).map(|(_, fragment)| &fragment.value);
        if one.name != ENTRY && now != one.after.as_ref().map(|fragment| &fragment.value) {
            left.push(one.name.clone());
            continue;
        }
        text = match &one.before {
            Some(old) => edit::restore(shape, &text, &one.name, old)?,
            None => edit::remove(shape, &text, &one.name)?,
        };
    }
    Ok(text)
}

fn imports_back(text: &str, touched: &[Touched]) -> Result<String, String> {
    let mut text = text.to_owned();
    for one in touched {
        text = match &one.before {
            Some(_) => edit::toml::add_import(&text, &one.name)?,
            None => edit::toml::remove_import(&text, &one.name)?,
        };
    }
    Ok(text)
}

/// Something that stands in a file, but of which only the meaning is known.
fn unplaced(value: Value) -> Fragment {
    Fragment { value, text: String::new() }
}

impl Plan {
    /// The file of the client that the plan is about, if it changes.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.steps.iter().find(|step| step.role == Role::Client).map(|step| &step.before.path)
    }

    /// What differs in a file after its step, in lines without what may be secret in them.
    pub(crate) fn lines(&self, step: &Step) -> Vec<String> {
        let format = match step.role {
            Role::Client => self.client.shape_in(self.project).format,
            Role::Moved => Format::Json,
            Role::Settings => Format::Toml,
        };
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let (old, new) = (text(step.before.bytes.as_deref()), text(step.after.as_deref()));
        let parsed: Result<Vec<Value>, String> =
            [&old, &new].into_iter().map(|text| edit::parse(format, text)).collect();
        match parsed {
            Ok(values) => {
                let secrets = secret::collect(&values);
                diff(&old, &new).into_iter().map(|line| secret::hide(&secrets, line)).collect()
            }
            // Where nobody can say what is secret, all of it may be.
            Err(_) => vec!["  …".to_owned()],
        }
    }

    /// Makes the change, with a back-up before each write.
    ///
    /// # Errors
    /// Why it could not be made; the files that were written already are put back.
    pub(crate) async fn make(&self, backups: &Backups) -> Result<(), String> {
        let locked = self.file().filter(|_| self.client.lock);
        let _lock = match locked {
            Some(path) => Some(Lock::take(path).await?),
            None => None,
        };
        let origin = Origin::new(self.client.name, self.project, self.undo);
        let mut done = Vec::new();
        for step in &self.steps {
            let after = step.after.as_deref();
            let record = origin.record(step.role, &step.before, after, step.touched.clone());
            let made = match backups.save(&record, step.before.bytes.as_deref()).await {
                Err(error) => Err(error),
                Ok(saved) => match file::replace(&step.before, after, step.mode).await {
                    Ok(()) => Ok(saved),
                    Err(error) => {
                        backups.forget(&saved).await;
                        Err(error)
                    }
                },
            };
            match made {
                Ok(saved) => done.push((step, saved)),
                Err(error) => {
                    let mut text = error;
                    for (step, saved) in done.iter().rev() {
                        let now = step.before.holding(step.after.clone());
                        match file::replace(&now, step.before.bytes.as_deref(), step.before.mode).await {
                            Ok(()) => backups.forget(saved).await,
                            Err(error) => text = format!("{text}; and {error}"),
                        }
                    }
                    return Err(text);
                }
            }
        }
        Ok(())
    }
}
