//! Other clients' files, in the shape each client gives them. They belong to somebody else, so what is odd in
//! them is a remark and never stops the daemon; only a file that cannot be read as such is a fault.
//!
//! A file becomes a tree of JSON whatever it is written in ([`tree`]); the tree is searched for servers
//! ([`roots`]), which says whose file it is ([`client`]); each server is read into our own notation
//! ([`entry`], [`dialect`]) and only then are its variables put in. So the same reading serves the daemon,
//! which uses the result, and `seawall import --copy`, which writes down what came before.

mod client;
mod dialect;
mod entry;
mod roots;
#[cfg(test)]
mod tests;
mod tree;
mod wrapped;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::expand::expand;
use super::json::Json;
use super::raw::{Faults, Place};
use super::servers::{Surroundings, fold, program_path};
use super::{ConfigFault, Kind, Note, Secret, Source, Sources, Upstream, address};

/// Another client's file, as it is used.
#[derive(Clone, Debug)]
pub struct ForeignFile {
    /// The file.
    pub path: PathBuf,
    /// The client that keeps such files; `None` where the file's path and shape do not say.
    pub client: Option<&'static str>,
    /// Its servers in the order of the file. Those that cannot be used are only in `notes`.
    pub servers: Vec<ForeignServer>,
    /// What was read differently from how it stands, or not at all.
    pub notes: Vec<Note>,
}

/// A server of another client's file.
#[derive(Clone, Debug)]
pub struct ForeignServer {
    /// Where it stands in its file, such as `mcpServers.time`.
    pub key: String,
    /// What it comes to, under the name it is used by.
    pub upstream: Upstream,
    /// The same in the notation of our own file: its variables are not put in.
    pub written: Kind,
    /// The name of an equal server of another file, which is used in its place.
    pub same_as: Option<String>,
}

/// Reads the foreign files of `sources` beside the own one and gives each with what becomes of its servers.
/// Nothing is read from disk.
///
/// # Errors
///
/// What is wrong in the own file, and each foreign file that cannot be read as one.
pub fn foreign(sources: &Sources<'_>) -> Result<Vec<ForeignFile>, Vec<ConfigFault>> {
    let (config, _) = super::lower(sources)?;
    // Those of the own file come first, and without a fault there is one for each table.
    let tables = sources.own.as_ref().map_or(0, |own| {
        let (root, _) = DeTable::parse_recoverable(&own.text);
        let servers = root.get_ref().get("servers").and_then(|servers| servers.get_ref().as_table());
        servers.map_or(0, |servers| servers.iter().count())
    });
    let own = config.upstreams.iter().take(tables);
    let mut upstreams: Vec<_> = own.map(|upstream| Upstream::clone(upstream)).collect();
    let mut faults = Vec::new();
    let files = join_files(&mut upstreams, sources, config.listen, &mut faults);
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

/// Adds the servers of all foreign files to those of the own one.
pub(super) fn join(
    upstreams: &mut Vec<Upstream>,
    sources: &Sources<'_>,
    listen: SocketAddr,
    faults: &mut Faults,
    notes: &mut Vec<Note>,
) {
    notes.extend(join_files(upstreams, sources, listen, faults).into_iter().flat_map(|file| file.notes));
}

fn join_files(
    upstreams: &mut Vec<Upstream>,
    sources: &Sources<'_>,
    listen: SocketAddr,
    faults: &mut Faults,
) -> Vec<ForeignFile> {
    let own = upstreams.len();
    let mut names: BTreeSet<_> = upstreams.iter().map(|upstream| fold(&upstream.name)).collect();
    let mut files: Vec<ForeignFile> = Vec::new();
    for source in &sources.foreign {
        let before = upstreams.len();
        let mut file = read(source, sources, listen, faults);
        for server in &mut file.servers {
            let upstream = &mut server.upstream;
            let place = Place { path: file.path.clone(), line: server.line, key: server.key.clone() };
            // Two of one file are two on purpose, unless even their names are the same.
            let twin = upstreams.iter().enumerate().position(|(index, other)| {
                (index < before || fold(&other.name) == fold(&upstream.name))
                    && same(&other.kind, &upstream.kind)
            });
            if let Some(index) = twin {
                let other = &mut upstreams[index];
                file.notes.push(place.note(same_as(other, upstream)));
                if index >= own {
                    // The own file has the last word; among clients, one that uses it is enough.
                    other.enabled |= upstream.enabled;
                    adopt_headers(&mut other.kind, &upstream.kind, || {
                        other.needs.clone_from(&upstream.needs)
                    });
                    let first = files
                        .iter_mut()
                        .flat_map(|file| &mut file.servers)
                        .find(|first| first.same_as.is_none() && first.upstream.name == other.name);
                    if let Some(first) = first {
                        adopt_headers(&mut first.written, &server.written, || {});
                        first.upstream.clone_from(other);
                    }
                }
                server.same_as = Some(other.name.clone());
                continue;
            }
            if !names.insert(fold(&upstream.name)) {
                let free = free_name(&upstream.name, file.client, &names);
                let message = format!("the name is taken by another server: used as `{free}`");
                file.notes.push(place.note(message));
                names.insert(fold(&free));
                upstream.name = free;
            }
            upstreams.push(upstream.clone());
        }
        files.push(ForeignFile {
            path: file.path,
            client: file.client,
            servers: file.servers.into_iter().map(Entry::into_server).collect(),
            notes: file.notes,
        });
    }
    files
}

/// Whether two entries mean one server: the same program called in the same way, or the same URL.
fn same(one: &Kind, other: &Kind) -> bool {
    match (one, other) {
        (Kind::Http { url: one, .. }, Kind::Http { url: other, .. }) => one == other,
        _ => one == other,
    }
}

fn same_as(other: &Upstream, upstream: &Upstream) -> String {
    let headers = |upstream: &Upstream| match &upstream.kind {
        Kind::Http { headers, .. } => headers.clone(),
        Kind::Stdio { .. } => Vec::new(),
    };
    let (theirs, ours) = (headers(other), headers(upstream));
    let which = if theirs.is_empty() || ours.is_empty() || theirs == ours {
        ""
    } else {
        ", with the headers that are given there"
    };
    format!("the same server as `{}`: used once{which}", other.name)
}

/// A client that signs in by itself writes no headers, where another has a token for the same URL.
fn adopt_headers(theirs: &mut Kind, ours: &Kind, then: impl FnOnce()) {
    if let (Kind::Http { headers: theirs, .. }, Kind::Http { headers: ours, .. }) = (theirs, ours)
        && theirs.is_empty()
        && !ours.is_empty()
    {
        theirs.clone_from(ours);
        then();
    }
}

/// The name with its client's behind it, or with the first free number from 2 up.
fn free_name(name: &str, client: Option<&str>, taken: &BTreeSet<String>) -> String {
    let suffixed = |suffix: String| {
        let suffix = format!("-{suffix}");
        // Names are ASCII here, so that any cut is between characters.
        format!("{}{suffix}", &name[..name.len().min(32 - suffix.len())])
    };
    let numbered = (2..).map(|number| match client {
        Some(client) => suffixed(format!("{client}-{number}")),
        None => suffixed(number.to_string()),
    });
    client
        .map(|client| suffixed(client.to_owned()))
        .into_iter()
        .chain(numbered)
        .find(|name| !taken.contains(&fold(name)))
        .expect("the numbers do not end before the names")
}

/// A file before its servers are compared with others.
struct Read {
    path: PathBuf,
    client: Option<&'static str>,
    servers: Vec<Entry>,
    notes: Vec<Note>,
}

/// A server that can be used.
struct Entry {
    key: String,
    line: usize,
    upstream: Upstream,
    written: Kind,
    same_as: Option<String>,
}

impl Entry {
    fn into_server(self) -> ForeignServer {
        let Self { key, upstream, written, same_as, .. } = self;
        ForeignServer { key, upstream, written, same_as }
    }
}

fn read(source: &Source, sources: &Sources<'_>, listen: SocketAddr, faults: &mut Faults) -> Read {
    let mut file = Read { path: source.path.clone(), client: None, servers: Vec::new(), notes: Vec::new() };
    let place = |line: usize, key: &str| Place { path: source.path.clone(), line, key: key.to_owned() };
    let text = match tree::json_text(source) {
        Ok(text) => text,
        Err(wrong) => {
            faults.push(place(wrong.line, "").fault(wrong.message));
            return file;
        }
    };
    let root = match Json::parse(&text) {
        Ok(root) => root,
        Err(error) => {
            faults.push(place(error.line(), "").fault(format!("not valid JSON: {error}")));
            return file;
        }
    };
    let found = match roots::find(root, &source.path) {
        Ok(found) => found,
        Err(wrong) => {
            faults.push(place(wrong.line, &wrong.key).fault(wrong.message));
            return file;
        }
    };
    file.client = found.client.name;
    file.notes.extend(found.remarks.into_iter().map(|(line, key, text)| place(line, &key).note(text)));
    let workspace = client::workspace(&source.path, sources.environment);
    let folder =
        source.path.parent().map_or_else(|| sources.base.clone(), |folder| sources.base.join(folder));
    for candidate in found.candidates {
        let place = place(candidate.value.line(), &candidate.key);
        let base = candidate.folder.as_ref().or(workspace.as_ref()).unwrap_or(&folder);
        let surroundings = Surroundings { environment: sources.environment, base };
        let words = dialect::Words {
            workspace: candidate.folder.as_deref().or(workspace.as_deref()),
            inputs: &found.inputs,
        };
        let mut reader = entry::Reader::new(&surroundings, &found.client, words, &place, &mut file.notes);
        let written = match reader.server(candidate.name.as_deref(), candidate.value) {
            Ok(written) => written,
            Err(wrong) => {
                let message = format!("{}; the server is left out", wrong.message);
                file.notes.push(Note { message, ..wrong });
                continue;
            }
        };
        let entry::Written { name, kind: written, enabled, timeout, start_timeout, list_timeout } = written;
        let (kind, needs) = filled(&written, &surroundings);
        if is_ourselves(&kind, listen) {
            file.notes.push(place.note("this is Seawall itself: left out, or it would call itself"));
            continue;
        }
        let plain = Upstream::new(name, kind);
        let upstream = Upstream {
            enabled: enabled && !candidate.off,
            needs,
            timeout: timeout.unwrap_or(plain.timeout),
            start_timeout: start_timeout.unwrap_or(plain.start_timeout),
            list_timeout: list_timeout.unwrap_or(plain.list_timeout),
            ..plain
        };
        let Place { line, key, .. } = place;
        file.servers.push(Entry { key, line, upstream, written, same_as: None });
    }
    file
}

/// Puts the variables in, and says which of them are unset.
fn filled(written: &Kind, surroundings: &Surroundings<'_>) -> (Kind, Vec<String>) {
    let mut needs: Vec<String> = Vec::new();
    let mut fill = |text: &str| {
        let expanded = expand(text, surroundings.environment);
        for name in expanded.needs.into_iter().chain(expanded.strange) {
            if !needs.contains(&name) {
                needs.push(name);
            }
        }
        expanded.text
    };
    let kind = match written {
        Kind::Stdio { command, args, env, cwd } => {
            let command = program_path(fill(command), surroundings.base);
            let args = args.iter().map(|argument| fill(argument)).collect();
            let env: BTreeMap<_, _> =
                env.iter().map(|(name, value)| (name.clone(), Secret::new(fill(value.expose())))).collect();
            let cwd = cwd.as_ref().map(|cwd| fill(&cwd.to_string_lossy()));
            let cwd = cwd.filter(|cwd| !cwd.is_empty()).map(|cwd| surroundings.base.join(cwd));
            Kind::Stdio { command, args, env, cwd }
        }
        Kind::Http { transport, url, headers, ca_file } => Kind::Http {
            transport: *transport,
            url: fill(url),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), Secret::new(fill(value.expose()))))
                .collect(),
            ca_file: ca_file.clone(),
        },
    };
    (kind, needs)
}

/// Whether an entry is the one by which the client reaches us.
fn is_ourselves(kind: &Kind, listen: SocketAddr) -> bool {
    match kind {
        Kind::Stdio { command, args, .. } => {
            let program = Path::new(command).file_stem();
            program.is_some_and(|name| name == "seawall") && args.iter().any(|word| word == "stdio")
        }
        Kind::Http { url, .. } => address::is_own(url, listen),
    }
}
