//! Our own `seawall.toml`, changed in place: what is not changed stays as it is, comments included.

#[cfg(test)]
mod tests;

use super::{Exit, Failure, sources};
use crate::clients::{
    self,
    file::{self, Snapshot},
};
use seawall_core::config::{self, Config, Kind, Note, Source, Sources, Transport, Upstream};
use std::{
    path::{Path, PathBuf, absolute},
    time::Duration,
};
use tokio::fs;
use toml_edit::{Array, DocumentMut, InlineTable, Item, RawString, Table, TableLike, TomlError, Value};

/// The name of the file.
const NAME: &str = "seawall.toml";
/// The line of the commented file that shows `import`; the key takes its place.
const SHOWN_IMPORT: &str = "#import = []";

/// The file, as it was read and as it shall be.
pub(super) struct OwnFile {
    path: PathBuf,
    before: Snapshot,
    text: String,
}

/// Where a new file goes: the one that is named, or the user's.
///
/// # Errors
/// Where there is no home directory.
pub(super) fn location(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let home = || clients::config_home().map(|config| config.join("seawall").join(NAME));
    named.map(Path::to_path_buf).or_else(home).ok_or_else(|| {
        let text = "there is no home directory to keep seawall.toml in; name a file with --config";
        Failure::new(Exit::BadConfiguration, text)
    })
}

impl OwnFile {
    /// Reads the file that `seawall serve` would use here, or begins the one it would use next.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is no TOML.
    pub(super) async fn open(named: Option<&Path>) -> Result<Self, Failure> {
        let here = PathBuf::from(NAME);
        let path = match named {
            None if fs::try_exists(&here).await.unwrap_or(false) => here,
            named => location(named)?,
        };
        let before = read(&path).await?;
        let own = Self { path, text: text(&before)?.to_owned(), before };
        own.document()?;
        Ok(own)
    }

    /// Takes a file to replace whole, whatever it holds.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) async fn replace(path: &Path) -> Result<Self, Failure> {
        let before = read(path).await?;
        Ok(Self { path: path.to_path_buf(), text: String::new(), before })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a file already.
    pub(super) fn exists(&self) -> bool {
        self.before.bytes.is_some()
    }

    /// Puts another text in the place of all it holds.
    pub(super) fn set_text(&mut self, text: String) {
        self.text = text;
    }

    /// What relative paths in it are resolved against.
    fn base(&self) -> PathBuf {
        self.path.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    fn source(&self) -> Source {
        Source { path: self.path.clone(), text: self.text.clone() }
    }

    fn document(&self) -> Result<DocumentMut, Failure> {
        self.text.parse().map_err(|error: TomlError| {
            // Without the line itself, which may hold a secret.
            let before = error.span().map_or(0, |span| span.start.min(self.text.len()));
            let line = self.text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
            let (path, why) = (self.path.display(), error.message());
            let text = format!("{path} is not valid TOML in line {line}, and is left as it is: {why}");
            Failure::new(Exit::BadConfiguration, text)
        })
    }

    /// The other clients' files that it imports.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(super) async fn imported(&self) -> Result<Vec<Source>, Failure> {
        let mut imported = Vec::new();
        for path in config::imports(&self.source(), &self.base()) {
            let imports = read(&path).await?;
            if imports.bytes.is_none() {
                let text = format!("{} imports {}, which is not there", self.path.display(), path.display());
                return Err(Failure::new(Exit::BadConfiguration, text));
            }
            imported.push(Source { path, text: text(&imports)?.to_owned() });
        }
        Ok(imported)
    }

    /// What the configuration is made from, with these files of other clients.
    ///
    /// # Errors
    /// When there is no place for state.
    pub(super) fn sources(&self, foreign: Vec<Source>) -> Result<Sources<'static>, Failure> {
        Ok(Sources {
            own: Some(self.source()),
            foreign,
            environment: &variable,
            overrides: std::env::vars().filter(|(name, _)| name.starts_with("SEAWALL_")).collect(),
            state_default: sources::state_directory()?,
            base: self.base(),
        })
    }

    /// The configuration as it shall be.
    ///
    /// # Errors
    /// Every fault there is, a line each.
    pub(super) async fn lowered(&self) -> Result<(Config, Vec<Note>), Failure> {
        let sources = self.sources(self.imported().await?)?;
        config::lower(&sources).map_err(|faults| Failure {
            details: faults.iter().map(ToString::to_string).collect(),
            ..Failure::new(
                Exit::BadConfiguration,
                "the configuration would be wrong, and nothing was written",
            )
        })
    }

    /// Whether it imports a file.
    pub(super) fn imports(&self, path: &Path) -> bool {
        let whole = |path: &Path| absolute(path).unwrap_or_else(|_| path.to_path_buf());
        config::imports(&self.source(), &self.base()).iter().any(|known| whole(known) == whole(path))
    }

    /// Adds a file to `import`; says whether it was missing there.
    ///
    /// # Errors
    /// When `import` is no list, or the path is not UTF-8.
    pub(super) fn add_import(&mut self, path: &Path) -> Result<bool, Failure> {
        if self.imports(path) {
            return Ok(false);
        }
        let failed = |text: String| Failure::new(Exit::BadConfiguration, text);
        let whole = absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let path = whole.to_str().ok_or_else(|| failed(format!("{} is not UTF-8", whole.display())))?;
        let mut document = self.document()?;
        if let Some(item) = document.get_mut("import") {
            let list = item.as_array_mut();
            push(list.ok_or_else(|| failed("`import` in seawall.toml is not a list".to_owned()))?, path);
            self.text = document.to_string();
            return Ok(true);
        }
        let line = format!("import = [{}]", Value::from(path).to_string().trim());
        self.text = if self.text.lines().any(|shown| shown == SHOWN_IMPORT) && document.is_empty() {
            self.text.replacen(SHOWN_IMPORT, &line, 1)
        } else if document.is_empty() {
            format!("{}{line}\n", ended(&self.text))
        } else if document.iter().any(|(_, item)| item.is_value()) {
            document.insert("import", Item::Value(Value::Array([path].into_iter().collect())));
            document.to_string()
        } else {
            format!("{line}\n\n{}", self.text)
        };
        self.document().map(|_| true)
    }

    /// Whether it has a table for a server of this very name.
    pub(super) fn has_server(&self, name: &str) -> Result<bool, Failure> {
        let document = self.document()?;
        let servers = document.get("servers").and_then(Item::as_table_like);
        Ok(servers.is_some_and(|servers| servers.contains_key(name)))
    }

    /// Whether the file had, as it was read, a server with the same command and arguments, or the same URL, whatever
    /// its variables are called.
    pub(super) fn had_alike(&self, table: &Table) -> bool {
        let before: Option<DocumentMut> = self.before.text().ok().and_then(|text| text.parse().ok());
        let servers = before.as_ref().and_then(|before| before.get("servers")?.as_table_like());
        let mut known = servers.into_iter().flat_map(|servers| servers.iter());
        let wanted = reached(table);
        wanted.is_some() && known.any(|(_, item)| item.as_table_like().and_then(reached) == wanted)
    }

    /// Puts a server under `[servers.NAME]`, in the place of the one that is there.
    ///
    /// # Errors
    /// When `servers` is written in a way to which nothing can be added.
    pub(super) fn put_server(&mut self, name: &str, mut table: Table) -> Result<(), Failure> {
        let mut document = self.document()?;
        let old = document.get_mut("servers").and_then(Item::as_table_like_mut);
        if let Some(servers) = old
            && let Some(old) = servers.get(name)
        {
            let new = match old.as_table() {
                Some(old) => {
                    *table.decor_mut() = old.decor().clone();
                    table.set_position(old.position());
                    Item::Table(table)
                }
                None => Item::Value(Value::InlineTable(table.into_inline_table())),
            };
            servers.insert(name, new);
            self.text = document.to_string();
        } else {
            // At the end as text: what the file holds stays, byte for byte.
            let mut added = DocumentMut::new();
            let mut servers = Table::new();
            servers.set_implicit(true);
            servers.insert(name, Item::Table(table));
            added.insert("servers", Item::Table(servers));
            let gap = if self.text.trim().is_empty() { "" } else { "\n" };
            self.text = format!("{}{gap}{}", ended(&self.text), added.to_string().trim_start());
        }
        self.document().map(|_| ())
    }

    /// Writes the file, if it changed: in one step, and only over what was read.
    ///
    /// # Errors
    /// When somebody else changed it meanwhile, or it cannot be written.
    pub(super) async fn save(&self) -> Result<(), Failure> {
        let text = Some(self.text.as_bytes());
        if self.before.bytes.as_deref() == text {
            return Ok(());
        }
        let replaced = file::replace(&self.before, text, self.before.mode).await;
        replaced.map_err(|error| Failure::new(Exit::Failed, error))
    }
}

/// How a server is reached, with its variables nameless: its URL, or its command and arguments.
fn reached(table: &dyn TableLike) -> Option<Vec<String>> {
    let nameless = |text: &str| {
        let (mut rest, mut shown) = (text, String::new());
        while let Some((before, inside)) = rest.split_once("${")
            && let Some((_, after)) = inside.split_once('}')
        {
            shown.push_str(before);
            shown.push_str("${}");
            rest = after;
        }
        shown + rest
    };
    let text = |key: &str| table.get(key).and_then(Item::as_str);
    let args = table.get("args").and_then(Item::as_array).into_iter().flatten();
    let words = text("url").or_else(|| text("command")).into_iter().chain(args.filter_map(Value::as_str));
    let words: Vec<String> = words.map(nameless).collect();
    (!words.is_empty()).then_some(words)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A text that ends with a line end, or is empty.
fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

async fn read(path: &Path) -> Result<Snapshot, Failure> {
    file::read(path).await.map_err(|error| Failure::new(Exit::BadConfiguration, error))
}

fn text(file: &Snapshot) -> Result<&str, Failure> {
    file.text().map_err(|error| Failure::new(Exit::BadConfiguration, error))
}

/// Adds to a list in the way its last element is written.
fn push(list: &mut Array, text: &str) {
    let own_line = |value: &Value| {
        let prefix = value.decor().prefix()?.as_str()?;
        prefix.rfind('\n').map(|start| prefix[start..].to_owned())
    };
    let Some(prefix) = list.iter().last().and_then(own_line) else {
        list.push(text);
        return;
    };
    let mut value = Value::from(text);
    value.decor_mut().set_prefix(prefix);
    if let Some(last) = list.len().checked_sub(1).and_then(|index| list.get_mut(index)) {
        // What stands between the last element and the bracket stays there.
        let suffix = last.decor().suffix().and_then(RawString::as_str).unwrap_or_default().to_owned();
        last.decor_mut().set_suffix("");
        value.decor_mut().set_suffix(suffix);
    }
    list.push_formatted(value);
}

/// The table of a server in our own notation, with what is not at its default in `upstream`.
pub(super) fn table(kind: &Kind, upstream: Option<&Upstream>) -> Table {
    let mut table = Table::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            table.insert(key, Item::Value(value));
        }
    };
    match kind {
        Kind::Stdio { command, args, env, cwd } => {
            put("command", Some(Value::from(command)));
            let args: Array = args.iter().collect();
            put("args", (!args.is_empty()).then_some(Value::Array(args)));
            put("env", pairs(env.iter().map(|(name, value)| (name.as_str(), value.expose()))));
            put("cwd", cwd.as_ref().map(|cwd| Value::from(cwd.to_string_lossy().into_owned())));
        }
        Kind::Http { transport, url, headers, ca_file } => {
            put("url", Some(Value::from(url)));
            let said = match transport {
                _ if *transport == Transport::of(url) => None,
                Transport::Streamable => Some("http"),
                Transport::Sse => Some("sse"),
                Transport::WebSocket => None,
            };
            put("transport", said.map(Value::from));
            put("headers", pairs(headers.iter().map(|(name, value)| (name.as_str(), value.expose()))));
            put("ca_file", ca_file.as_ref().map(|path| Value::from(path.to_string_lossy().into_owned())));
        }
    }
    if let Some(upstream) = upstream {
        put("enabled", (!upstream.enabled).then(|| Value::from(false)));
        for (key, time, usual) in [
            ("timeout", upstream.timeout, 50),
            ("start_timeout", upstream.start_timeout, 60),
            ("list_timeout", upstream.list_timeout, 10),
        ] {
            let time = (time != Duration::from_secs(usual)).then(|| written_time(time));
            put(key, time.map(Value::from));
        }
    }
    table
}

/// A table on one line; none where there is nothing in it.
fn pairs<'p>(pairs: impl Iterator<Item = (&'p str, &'p str)>) -> Option<Value> {
    let pairs: InlineTable = pairs.collect();
    (!pairs.is_empty()).then_some(Value::InlineTable(pairs))
}

fn written_time(time: Duration) -> String {
    if time.subsec_millis() == 0 && time.as_secs() > 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{}ms", time.as_millis().max(1))
    }
}
