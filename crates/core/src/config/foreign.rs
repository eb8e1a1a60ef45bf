//! Other clients' files: JSON with the root `mcpServers`. They belong to somebody else, so what is odd in
//! them is a remark and never stops the daemon; only a file that cannot be read as such is a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::expand::expand;
use super::json::{Json, strict};
use super::raw::{Faults, Place, quoted};
use super::servers::{Surroundings, fold, good_name, program_path, tame_name};
use super::{Kind, Note, Secret, Source, Sources, Upstream};
use super::{address, values};

/// Roots under which other clients keep their servers, in shapes that are not read.
const OTHER_ROOTS: [&str; 5] = ["servers", "mcp", "mcp_servers", "context_servers", "extensions"];

/// Keys by which a client remembers what its user approved.
const APPROVALS: [&str; 4] = ["autoApprove", "alwaysAllow", "trust", "default_tools_approval_mode"];

/// Keys by which a client hides tools from its model.
const FILTERS: [&str; 7] = [
    "includeTools",
    "excludeTools",
    "enabledTools",
    "enabled_tools",
    "disabledTools",
    "disabled_tools",
    "available_tools",
];

/// Adds the servers of all foreign files to those of the own one.
pub(super) fn join(
    upstreams: &mut Vec<Upstream>,
    sources: &Sources<'_>,
    listen: SocketAddr,
    faults: &mut Faults,
    notes: &mut Vec<Note>,
) {
    let own = upstreams.len();
    let mut names: BTreeSet<_> = upstreams.iter().map(|upstream| fold(&upstream.name)).collect();
    for source in &sources.foreign {
        let before = upstreams.len();
        for (mut upstream, place) in read(source, sources, listen, faults, notes) {
            let key = upstream.key();
            let twin = upstreams.iter().enumerate().position(|(index, other)| {
                (index < before || fold(&other.name) == fold(&upstream.name)) && other.key() == key
            });
            if let Some(index) = twin {
                let other = &mut upstreams[index];
                notes.push(place.note(format!("the same server as `{}`: used once", other.name)));
                // The own file has the last word; among clients, one that uses it is enough.
                other.enabled |= index >= own && upstream.enabled;
                continue;
            }
            if !names.insert(fold(&upstream.name)) {
                let free = free_name(&upstream.name, &names);
                notes.push(place.note(format!("the name is taken by another server: used as `{free}`")));
                names.insert(fold(&free));
                upstream.name = free;
            }
            upstreams.push(upstream);
        }
    }
}

/// The name with the first free number from 2 up.
fn free_name(name: &str, taken: &BTreeSet<String>) -> String {
    let numbered = |number: usize| {
        let suffix = format!("-{number}");
        // Names are ASCII here, so that any cut is between characters.
        format!("{}{suffix}", &name[..name.len().min(32 - suffix.len())])
    };
    (2..)
        .map(numbered)
        .find(|name| !taken.contains(&fold(name)))
        .expect("the numbers do not end before the names")
}

fn read(
    source: &Source,
    sources: &Sources<'_>,
    listen: SocketAddr,
    faults: &mut Faults,
    notes: &mut Vec<Note>,
) -> Vec<(Upstream, Place)> {
    let place = |line: usize, key: &str| Place { path: source.path.clone(), line, key: key.to_owned() };
    let text = strict(&source.text);
    let root = match Json::parse(&text) {
        Ok(root) => root,
        Err(error) => {
            faults.push(place(error.line(), "").fault(format!("not valid JSON: {error}")));
            return Vec::new();
        }
    };
    let Some(members) = root.members() else {
        let message = format!("{} where an object with `mcpServers` is expected", root.kind());
        faults.push(place(root.line(), "").fault(message));
        return Vec::new();
    };
    let (servers, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, _)| name == "mcpServers");
    let Some((_, servers)) = servers.first() else {
        match others.iter().find(|(name, _)| OTHER_ROOTS.contains(&name.as_str())) {
            Some((name, value)) => {
                let remedy =
                    "write its servers in a file with the root `mcpServers`, or under [servers.NAME]";
                let message = format!("the format of another client: {remedy}");
                faults.push(place(value.line(), name).fault(message));
            }
            None => notes.push(place(root.line(), "").note("names no servers: there is no `mcpServers`")),
        }
        return Vec::new();
    };
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(|(name, _)| quoted(name)).collect();
        let message = format!("settings of the client, not read: {}", names.join(", "));
        notes.push(place(root.line(), "").note(message));
    }
    let Some(entries) = servers.members() else {
        let message = format!("{} where an object of servers is expected", servers.kind());
        faults.push(place(servers.line(), "mcpServers").fault(message));
        return Vec::new();
    };
    let base = source.path.parent().map_or_else(|| sources.base.clone(), |folder| sources.base.join(folder));
    let surroundings = Surroundings { environment: sources.environment, base: &base };
    let mut upstreams = Vec::new();
    for (name, entry) in entries {
        let place = place(entry.line(), &format!("mcpServers.{}", quoted(&name)));
        let mut reader =
            Entry { surroundings: &surroundings, place: &place, notes: &mut *notes, needs: Vec::new() };
        match reader.server(&name, entry) {
            Ok(upstream) if is_ourselves(&upstream.kind, listen) => {
                notes.push(place.note("this is Seawall itself: left out, or it would call itself"));
            }
            Ok(upstream) => upstreams.push((upstream, place)),
            Err(wrong) => {
                notes.push(Note { message: format!("{}; the server is left out", wrong.message), ..wrong })
            }
        }
    }
    upstreams
}

/// Whether an entry is the one by which the client reaches us.
fn is_ourselves(kind: &Kind, listen: SocketAddr) -> bool {
    match kind {
        Kind::Stdio { command, args, .. } => {
            let program = Path::new(command).file_name();
            program.is_some_and(|name| name == "seawall") && args.first().is_some_and(|word| word == "stdio")
        }
        Kind::Http { url, .. } => address::is_own(url, listen),
    }
}

/// What an entry holds, by the keys that are known.
#[derive(Default)]
struct Fields<'a> {
    command: Option<Json<'a>>,
    args: Option<Json<'a>>,
    env: Option<Json<'a>>,
    cwd: Option<Json<'a>>,
    url: Option<Json<'a>>,
    headers: Option<Json<'a>>,
    transport: Option<Json<'a>>,
    timeout: Option<Json<'a>>,
    enabled: Option<bool>,
}

/// Reads one entry. An `Err` is why it cannot be used.
struct Entry<'r, 's> {
    surroundings: &'r Surroundings<'s>,
    place: &'r Place,
    notes: &'r mut Vec<Note>,
    needs: Vec<String>,
}

impl Entry<'_, '_> {
    fn note_at(&self, value: Json<'_>, key: &str, message: impl Into<String>) -> Note {
        let key = format!("{}.{}", self.place.key, quoted(key));
        Place { path: self.place.path.clone(), line: value.line(), key }.note(message)
    }

    fn unexpected(&self, value: Json<'_>, key: &str, expected: &str) -> Note {
        self.note_at(value, key, format!("{} where {expected} is expected", value.kind()))
    }

    fn remark(&mut self, value: Json<'_>, key: &str, message: impl Into<String>) {
        let note = self.note_at(value, key, message);
        self.notes.push(note);
    }

    fn server(&mut self, name: &str, entry: Json<'_>) -> Result<Upstream, Note> {
        let Some(members) = entry.members() else {
            return Err(self.place.note(format!("{} where an object is expected", entry.kind())));
        };
        let mut fields = Fields::default();
        for (key, value) in members {
            // One client nests the whole entry under its transport.
            let nested = if key == "transport" { value.members() } else { None };
            for (key, value) in nested.unwrap_or_else(|| vec![(key, value)]) {
                self.field(&mut fields, &key, value);
            }
        }
        let kind = self.kind(&fields)?;
        let tame = if good_name(name) { name.to_owned() } else { tame_name(name) };
        if tame != name {
            self.notes.push(self.place.note(format!("{name:?} cannot be a server's name: used as `{tame}`")));
        }
        let plain = Upstream::new(tame, kind);
        Ok(Upstream {
            enabled: fields.enabled.unwrap_or(plain.enabled),
            timeout: fields.timeout.and_then(|value| self.timeout(value)).unwrap_or(plain.timeout),
            needs: std::mem::take(&mut self.needs),
            ..plain
        })
    }

    /// Sorts one member in, or remarks on it. Null is as good as absent.
    fn field<'a>(&mut self, fields: &mut Fields<'a>, key: &str, value: Json<'a>) {
        let field = match key {
            _ if value.is_null() => return,
            "command" => &mut fields.command,
            "args" => &mut fields.args,
            "env" => &mut fields.env,
            "cwd" => &mut fields.cwd,
            "url" => &mut fields.url,
            "headers" => &mut fields.headers,
            "timeout" => &mut fields.timeout,
            "type" | "transport" => &mut fields.transport,
            "disabled" | "enabled" => {
                match value.flag() {
                    Some(flag) => fields.enabled = Some(flag == (key == "enabled")),
                    None => {
                        let message = format!("{} is neither true nor false: not read", value.kind());
                        self.remark(value, key, message);
                    }
                }
                return;
            }
            _ if APPROVALS.contains(&key) => {
                return self.remark(value, key, "an approval given to the client: not taken over");
            }
            _ if FILTERS.contains(&key) => {
                let message =
                    "the client's choice of tools: not taken over; a caller's `tools` restrict them";
                return self.remark(value, key, message);
            }
            _ => return self.remark(value, key, "unknown key: not read"),
        };
        *field = Some(value);
    }

    fn kind(&mut self, fields: &Fields<'_>) -> Result<Kind, Note> {
        let transport = match fields.transport {
            Some(value) => Some(value.text().ok_or_else(|| self.unexpected(value, "type", "a string"))?),
            None => None,
        };
        let word = transport.as_deref();
        match (fields.command, fields.url) {
            (Some(command), None) => self.stdio(command, fields),
            (None, Some(url)) => self.http(url, word, fields),
            (Some(command), Some(_)) if word == Some("stdio") => self.stdio(command, fields),
            (Some(_), Some(url)) if word.is_some() => self.http(url, word, fields),
            (Some(_), Some(_)) => {
                Err(self.place.note("has both `command` and `url`, and no `type` says which counts"))
            }
            (None, None) => Err(self.place.note("has neither `command` nor `url`")),
        }
    }

    fn stdio(&mut self, command: Json<'_>, fields: &Fields<'_>) -> Result<Kind, Note> {
        if let Some(headers) = fields.headers {
            self.remark(headers, "headers", "has no use beside `command`: not read");
        }
        let program = self.text(command, "command")?;
        if program.is_empty() {
            return Err(self.note_at(command, "command", "is empty"));
        }
        let mut arguments = Vec::new();
        if let Some(args) = fields.args {
            for value in args.elements().ok_or_else(|| self.unexpected(args, "args", "a list"))? {
                arguments.push(self.text(value, "args")?);
            }
        }
        let mut env = BTreeMap::new();
        for (name, text, value) in self.table(fields.env, "env")? {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(self.note_at(value, "env", "holds a name that no variable can have"));
            }
            env.insert(name, Secret::new(text));
        }
        let cwd = fields.cwd.map(|cwd| self.text(cwd, "cwd")).transpose()?;
        let base = self.surroundings.base;
        Ok(Kind::Stdio {
            command: program_path(program, base),
            args: arguments,
            env,
            cwd: cwd.filter(|cwd| !cwd.is_empty()).map(|cwd| base.join(cwd)),
        })
    }

    fn http(&mut self, url: Json<'_>, transport: Option<&str>, fields: &Fields<'_>) -> Result<Kind, Note> {
        for (key, value) in [("args", fields.args), ("env", fields.env), ("cwd", fields.cwd)] {
            if let Some(value) = value {
                self.remark(value, key, "has no use beside `url`: not read");
            }
        }
        match transport {
            Some("http" | "streamable-http" | "streamableHttp" | "streamable_http" | "remote") => {}
            Some(other) => {
                self.remark(url, "type", format!("{other:?} is not spoken: Streamable HTTP is tried"));
            }
            None => self.remark(url, "url", "has no `type`: Streamable HTTP is tried"),
        }
        let needs = self.needs.len();
        let address = self.text(url, "url")?;
        if self.needs.len() == needs {
            address::check_url(&address).map_err(|wrong| self.note_at(url, "url", wrong))?;
        }
        let mut headers = Vec::new();
        for (name, text, value) in self.table(fields.headers, "headers")? {
            let checked = address::check_header_name(&name).and_then(|()| address::check_header_value(&text));
            checked.map_err(|wrong| self.note_at(value, "headers", format!("{}: {wrong}", quoted(&name))))?;
            headers.push((name, Secret::new(text)));
        }
        Ok(Kind::Http { url: address, headers, ca_file: None })
    }

    /// An object of strings, each with its value's place.
    fn table<'a>(
        &mut self,
        table: Option<Json<'a>>,
        key: &str,
    ) -> Result<Vec<(String, String, Json<'a>)>, Note> {
        let Some(table) = table else { return Ok(Vec::new()) };
        let members = table.members().ok_or_else(|| self.unexpected(table, key, "an object"))?;
        let mut texts = Vec::new();
        // Null unsets a variable in one client, and means nothing in the others.
        for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
            let text = self.text(value, key)?;
            texts.push((name, text, value));
        }
        Ok(texts)
    }

    /// A string (numbers and booleans count as what they look like) with its variables put in.
    fn text(&mut self, value: Json<'_>, key: &str) -> Result<String, Note> {
        let text = value.plain().ok_or_else(|| self.unexpected(value, key, "a string"))?;
        if text.contains('\0') {
            return Err(self.note_at(value, key, "holds a NUL character"));
        }
        let expanded = expand(&text, self.surroundings.environment);
        for name in expanded.needs {
            self.need(name);
        }
        for strange in expanded.strange {
            self.remark(value, key, format!("${{{strange}}} is not known here: the server is not started"));
            self.need(strange);
        }
        Ok(expanded.text)
    }

    fn need(&mut self, name: String) {
        if !self.needs.contains(&name) {
            self.needs.push(name);
        }
    }

    /// Clients count in seconds or in milliseconds, and nothing in the file says which.
    fn timeout(&mut self, value: Json<'_>) -> Option<Duration> {
        let number = value.number().filter(|number| *number >= 0.001);
        let (unit, seconds) = match number {
            Some(number) if number >= 1000.0 => ("milliseconds", number / 1000.0),
            Some(number) => ("seconds", number),
            None => {
                self.remark(value, "timeout", "not a number above 0: not read");
                return None;
            }
        };
        self.remark(value, "timeout", format!("taken as {unit}"));
        Some(Duration::try_from_secs_f64(seconds).map_or(values::LONGEST, |time| time.min(values::LONGEST)))
    }
}
