//! Where a file keeps its servers, which differs from client to client.

use std::path::{Path, PathBuf};

use super::client::{self, Client};
use super::dialect::Input;
use crate::config::json::Json;
use crate::config::raw::quoted;

/// An entry that should be a server.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    /// Where it stands, such as `mcpServers.time`.
    pub(super) key: String,
    /// Its name; in a list it stands in the entry itself.
    pub(super) name: Option<String>,
    pub(super) value: Json<'a>,
    /// The project it is for, where the file holds those of many.
    pub(super) folder: Option<PathBuf>,
    /// Whether the client is told elsewhere not to use it.
    pub(super) off: bool,
}

/// All of a file that concerns servers.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) client: Client,
    pub(super) candidates: Vec<Candidate<'a>>,
    pub(super) inputs: Vec<Input>,
    /// Remarks: line, key and text.
    pub(super) remarks: Vec<(usize, String, String)>,
}

/// Why a file has no servers that could be read.
#[derive(Debug)]
pub(super) struct NoServers {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) message: String,
}

/// Members that say that an object is a server.
const OF_A_SERVER: [&str; 6] = ["command", "cmd", "url", "httpUrl", "serverUrl", "uri"];

/// A place where servers stand.
struct Root<'a> {
    /// Its path, and the word by which clients are told apart.
    key: String,
    word: &'static str,
    value: Json<'a>,
    folder: Option<PathBuf>,
}

/// Finds the servers of a file.
pub(super) fn find<'a>(root: Json<'a>, path: &Path) -> Result<Found<'a>, NoServers> {
    let Some(members) = root.members() else {
        let message = format!("{} where an object with `mcpServers` is expected", root.kind());
        return Err(NoServers { line: root.line(), key: String::new(), message });
    };
    let (places, used) = places(&members, path)?;
    let mut remarks = Vec::new();
    if places.is_empty() {
        if members.iter().any(|(name, value)| OF_A_SERVER.contains(&name.as_str()) && !value.is_null()) {
            let name = get(&members, "name").and_then(Json::text);
            let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let candidate = Candidate {
                key: String::new(),
                name: name.or_else(stem),
                value: root,
                folder: None,
                off: false,
            };
            let client = client::of_root("", path);
            return Ok(Found { client, candidates: vec![candidate], inputs: Vec::new(), remarks });
        }
        remarks.push((root.line(), String::new(), "names no servers: there is no `mcpServers`".to_owned()));
    }
    let mut client = client::of_root(places.first().map_or("", |place| place.word), path);
    let mut candidates = Vec::new();
    for place in &places {
        let entries = entries(place)?;
        if place.value.elements().is_some() {
            client = client::of_root("list", path);
        }
        candidates.extend(entries);
    }
    let others: Vec<_> =
        members.iter().map(|(name, _)| name.as_str()).filter(|name| !used.contains(name)).collect();
    // The settings of a known client are no surprise in its own file.
    if !others.is_empty() && client.name.is_none() {
        let names: Vec<_> = others.iter().map(|name| quoted(name)).collect();
        let message = format!("settings of the client, not read: {}", names.join(", "));
        remarks.push((root.line(), String::new(), message));
    }
    switch_off(&mut candidates, get(&members, "mcp"));
    let asked = get(&members, "inputs").or_else(|| get(&get(&members, "mcp")?.members()?, "inputs"));
    let inputs = asked.and_then(Json::elements).unwrap_or_default();
    let inputs: Vec<_> = inputs.into_iter().filter_map(|value| Some((input(value)?, value.line()))).collect();
    for (input, line) in &inputs {
        let message = format!("asked for by the client: taken from the variable {} here", input.variable());
        remarks.push((*line, format!("inputs.{}", quoted(&input.id)), message));
    }
    let inputs = inputs.into_iter().map(|(input, _)| input).collect();
    Ok(Found { client, candidates, inputs, remarks })
}

fn get<'a>(members: &[(String, Json<'a>)], wanted: &str) -> Option<Json<'a>> {
    members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value)
}

/// The places where servers stand, and the members of the file that concern them.
fn places<'a>(
    members: &[(String, Json<'a>)],
    path: &Path,
) -> Result<(Vec<Root<'a>>, Vec<&'static str>), NoServers> {
    let root = |word: &'static str, value| Root { key: word.to_owned(), word, value, folder: None };
    let mut used = vec!["$schema", "mcpServers"];
    let mut places: Vec<_> =
        get(members, "mcpServers").map(|value| root("mcpServers", value)).into_iter().collect();
    for (folder, project) in get(members, "projects").and_then(Json::members).unwrap_or_default() {
        let Some(value) = project.members().and_then(|members| get(&members, "mcpServers")) else { continue };
        used.push("projects");
        places.push(Root {
            key: format!("projects.{}.mcpServers", quoted(&folder)),
            word: "projects",
            value,
            folder: Some(PathBuf::from(folder)).filter(|folder| folder.is_absolute()),
        });
    }
    if !places.is_empty() {
        // Beside its servers, one client says there which of them it may use.
        used.push("mcp");
        return Ok((places, used));
    }
    for word in ["mcp_servers", "context_servers"] {
        if let Some(value) = get(members, word) {
            return Ok((vec![root(word, value)], vec![word]));
        }
    }
    if let Some(value) = get(members, "mcp")
        && let Some(inside) = value.members()
    {
        if let Some(servers) = get(&inside, "servers").filter(|servers| servers.members().is_some()) {
            return Ok((vec![root("mcp.servers", servers)], vec!["mcp"]));
        }
        if inside.iter().any(|(_, value)| value.members().is_some()) {
            return Ok((vec![root("mcp", value)], vec!["mcp"]));
        }
    }
    if let Some(value) = get(members, "servers") {
        // The word is a common one: something must say that these are servers of this kind.
        let named = path.file_name().is_some_and(|name| name == "mcp.json");
        let entries = value.members().unwrap_or_default();
        let like_servers = entries.iter().any(|(_, entry)| is_server(*entry));
        if named || like_servers || get(members, "inputs").is_some() {
            return Ok((vec![root("servers", value)], vec!["servers", "inputs"]));
        }
        let message = "the format of another client or program, and none of its entries is a server: write \
                       servers with the root `mcpServers`, or under [servers.NAME]";
        return Err(NoServers { line: value.line(), key: "servers".to_owned(), message: message.to_owned() });
    }
    if let Some(value) = get(members, "extensions") {
        return Ok((vec![root("extensions", value)], vec!["extensions"]));
    }
    Ok((Vec::new(), used))
}

fn is_server(entry: Json<'_>) -> bool {
    let members = entry.members().unwrap_or_default();
    members.iter().any(|(name, _)| OF_A_SERVER.contains(&name.as_str()))
}

fn entries<'a>(place: &Root<'a>) -> Result<Vec<Candidate<'a>>, NoServers> {
    let Root { key, value, folder, .. } = place;
    let candidate =
        |key: String, name, value| Candidate { key, name, value, folder: folder.clone(), off: false };
    if let Some(members) = value.members() {
        let named = |(name, value): (String, Json<'a>)| {
            candidate(format!("{key}.{}", quoted(&name)), Some(name), value)
        };
        return Ok(members.into_iter().map(named).collect());
    }
    if let Some(elements) = value.elements() {
        let numbered = |(index, value): (usize, Json<'a>)| {
            let name = value.members().and_then(|members| get(&members, "name")?.text());
            candidate(format!("{key}[{index}]"), name, value)
        };
        return Ok(elements.into_iter().enumerate().map(numbered).collect());
    }
    if value.is_null() {
        return Ok(Vec::new());
    }
    let message = format!("{} where an object of servers is expected", value.kind());
    Err(NoServers { line: value.line(), key: key.clone(), message })
}

/// One client names the servers it may use, and those it may not, apart from the servers.
fn switch_off(candidates: &mut [Candidate<'_>], mcp: Option<Json<'_>>) {
    let members = mcp.and_then(Json::members).unwrap_or_default();
    let names = |key: &str| -> Option<Vec<String>> {
        let elements = get(&members, key)?.elements()?;
        Some(elements.into_iter().filter_map(Json::text).collect())
    };
    let (allowed, excluded) = (names("allowed"), names("excluded").unwrap_or_default());
    for candidate in candidates {
        let Some(name) = &candidate.name else { continue };
        candidate.off =
            excluded.contains(name) || allowed.as_ref().is_some_and(|allowed| !allowed.contains(name));
    }
}

fn input(value: Json<'_>) -> Option<Input> {
    let members = value.members()?;
    let text = |name: &str| get(&members, name).and_then(Json::plain);
    Some(Input { id: text("id")?, default: text("default") })
}
