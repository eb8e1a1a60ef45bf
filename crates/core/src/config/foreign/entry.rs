//! One server of another client's file, read into our own notation.

mod transport;

use std::time::Duration;

use super::client::{Client, Unit};
use super::dialect::{Dialect, Words};
use crate::config::expand::expand;
use crate::config::json::Json;
use crate::config::raw::{Place, quoted};
use crate::config::servers::{Surroundings, good_name, tame_name};
use crate::config::{Kind, Note, values};

/// Keys by which a client remembers what its user approved.
const APPROVALS: [&str; 7] = [
    "autoApprove",
    "autoApproved",
    "alwaysAllow",
    "trust",
    "approval_mode",
    "default_tools_approval_mode",
    "disabledAutoApprove",
];

/// Keys by which a client hides tools from its model.
const FILTERS: [&str; 8] = [
    "includeTools",
    "excludeTools",
    "enabledTools",
    "enabled_tools",
    "disabledTools",
    "disabled_tools",
    "available_tools",
    "allowedTools",
];

/// Keys that say nothing that would be used.
const LABELS: [&str; 6] = ["name", "title", "description", "source", "bundled", "display_name"];

/// A server in our own notation: its variables are not put in.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) enabled: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) start_timeout: Option<Duration>,
    pub(super) list_timeout: Option<Duration>,
}

/// What an entry holds, by what it means. A key is kept where messages must tell synonyms apart.
#[derive(Default)]
struct Fields<'a> {
    command: Option<Json<'a>>,
    args: Option<Json<'a>>,
    env: Option<Json<'a>>,
    inherited: Option<(&'static str, Json<'a>)>,
    cwd: Option<Json<'a>>,
    url: Option<(String, Json<'a>)>,
    headers: Vec<Json<'a>>,
    header_variables: Option<Json<'a>>,
    bearer_variable: Option<Json<'a>>,
    api_key: Option<Json<'a>>,
    transport: Option<Json<'a>>,
    enabled: Option<bool>,
    timeout: Option<Duration>,
    start_timeout: Option<Duration>,
    list_timeout: Option<Duration>,
}

/// Reads one entry. An `Err` is why it cannot be used.
pub(super) struct Reader<'r, 's> {
    surroundings: &'r Surroundings<'s>,
    client: &'r Client,
    words: Words<'r>,
    place: &'r Place,
    notes: &'r mut Vec<Note>,
}

impl<'r, 's> Reader<'r, 's> {
    pub(super) fn new(
        surroundings: &'r Surroundings<'s>,
        client: &'r Client,
        words: Words<'r>,
        place: &'r Place,
        notes: &'r mut Vec<Note>,
    ) -> Self {
        Self { surroundings, client, words, place, notes }
    }

    pub(super) fn server(&mut self, name: Option<&str>, entry: Json<'_>) -> Result<Written, Note> {
        let Some(members) = entry.members() else {
            return Err(self.place.note(format!("{} where an object is expected", entry.kind())));
        };
        let mut fields = Fields::default();
        for (key, value) in members {
            self.nested(&mut fields, &key, value);
        }
        let kind = self.kind(&fields)?;
        let Some(name) = name else { return Err(self.place.note("has no `name`")) };
        let tame = if good_name(name) { name.to_owned() } else { tame_name(name) };
        if tame != name {
            self.notes.push(self.place.note(format!("{name:?} cannot be a server's name: used as `{tame}`")));
        }
        Ok(Written {
            name: tame,
            kind,
            enabled: fields.enabled.unwrap_or(true),
            timeout: fields.timeout,
            start_timeout: fields.start_timeout,
            list_timeout: fields.list_timeout,
        })
    }

    /// Some clients nest the whole entry under its transport, or parts of it.
    fn nested<'a>(&mut self, fields: &mut Fields<'a>, key: &str, value: Json<'a>) {
        let inside = match key {
            "transport" | "requestOptions" => value.members(),
            "command" => value.members().map(|members| {
                let renamed = |(name, value): (String, Json<'a>)| {
                    (if name == "path" { "command".to_owned() } else { name }, value)
                };
                members.into_iter().map(renamed).collect()
            }),
            _ => None,
        };
        for (key, value) in inside.unwrap_or_else(|| vec![(key.to_owned(), value)]) {
            self.field(fields, &key, value);
        }
    }

    /// Sorts one member in, or remarks on it. Null is as good as absent.
    fn field<'a>(&mut self, fields: &mut Fields<'a>, key: &str, value: Json<'a>) {
        let field = match key {
            _ if value.is_null() || LABELS.contains(&key) => return,
            "command" | "cmd" => &mut fields.command,
            "args" => &mut fields.args,
            "env" | "environment" | "envs" => &mut fields.env,
            "env_vars" => return fields.inherited = Some(("env_vars", value)),
            "env_keys" => return fields.inherited = Some(("env_keys", value)),
            "cwd" => &mut fields.cwd,
            "url" | "httpUrl" | "serverUrl" | "uri" => return fields.url = Some((key.to_owned(), value)),
            "headers" | "http_headers" => return fields.headers.push(value),
            "env_http_headers" => &mut fields.header_variables,
            "bearer_token_env_var" => &mut fields.bearer_variable,
            "apiKey" => &mut fields.api_key,
            "type" | "transport" | "transportType" => &mut fields.transport,
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
            "timeout" => return self.timeout(fields, value),
            "tool_timeout_sec" => return fields.timeout = self.time(value, key, Unit::Seconds),
            "startup_timeout_sec" => return fields.start_timeout = self.time(value, key, Unit::Seconds),
            "startup_timeout_ms" => return fields.start_timeout = self.time(value, key, Unit::Milliseconds),
            "connectionTimeout" => {
                fields.start_timeout = self.time(value, key, Unit::Milliseconds);
                // The client bounds its calls by the same number.
                return fields.timeout = fields.start_timeout;
            }
            "envFile" => {
                let message = "a file of variables: not read; write what it holds as `env`";
                return self.remark(value, key, message);
            }
            // A table of approvals in one client, a list of tools in another.
            _ if APPROVALS.contains(&key) || key == "tools" && value.members().is_some() => {
                return self.remark(value, key, "an approval given to the client: not taken over");
            }
            _ if FILTERS.contains(&key) || key == "tools" => {
                let message =
                    "the client's choice of tools: not taken over; a caller's `tools` restrict them";
                return self.remark(value, key, message);
            }
            _ => return self.remark(value, key, "unknown key: not read"),
        };
        *field = Some(value);
    }

    /// An object of strings, each with its value's place.
    fn table<'a>(
        &mut self,
        table: Option<Json<'a>>,
        key: &str,
        dialect: Dialect,
    ) -> Result<Vec<(String, String, Json<'a>)>, Note> {
        let Some(table) = table else { return Ok(Vec::new()) };
        let members = table.members().ok_or_else(|| self.unexpected(table, key, "an object"))?;
        let mut texts = Vec::new();
        // Null unsets a variable in one client, and means nothing in the others.
        for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
            let text = self.text(value, key, dialect)?;
            texts.push((name, text, value));
        }
        Ok(texts)
    }

    /// A string (numbers and booleans count as what they look like) in our own notation.
    fn text(&mut self, value: Json<'_>, key: &str, dialect: Dialect) -> Result<String, Note> {
        let text = value.plain().ok_or_else(|| self.unexpected(value, key, "a string"))?;
        if text.contains('\0') {
            return Err(self.note_at(value, key, "holds a NUL character"));
        }
        let text = self.words.translate(&text, dialect);
        for strange in expand(&text, self.surroundings.environment).strange {
            self.remark(value, key, format!("${{{strange}}} is not known here: the server is not started"));
        }
        Ok(text)
    }

    /// What bounds a call; in one format an object of three times.
    fn timeout(&mut self, fields: &mut Fields<'_>, value: Json<'_>) {
        let Some(members) = value.members() else {
            fields.timeout = self.time(value, "timeout", self.client.unit);
            return;
        };
        for (key, value) in members {
            let time = self.time(value, "timeout", self.client.unit);
            match key.as_str() {
                "startup" => fields.start_timeout = time,
                "catalog" => fields.list_timeout = time,
                "execution" => fields.timeout = time,
                _ => self.remark(value, "timeout", format!("{} is not known: not read", quoted(&key))),
            }
        }
    }

    /// A time in the unit of its format. Where nothing says which that is, the size of the number must.
    fn time(&mut self, value: Json<'_>, key: &str, unit: Unit) -> Option<Duration> {
        let Some(number) = value.number().filter(|number| *number >= 0.001) else {
            self.remark(value, key, "not a number above 0: not read");
            return None;
        };
        let seconds = match unit {
            Unit::Seconds => number,
            Unit::Milliseconds => number / 1000.0,
            Unit::Unknown if number >= 1000.0 => {
                self.remark(value, key, "taken as milliseconds");
                number / 1000.0
            }
            Unit::Unknown => {
                self.remark(value, key, "taken as seconds");
                number
            }
        };
        let bounds = match self.client.name {
            // What these clients themselves make of a number that is out of their bounds.
            Some("claude-code") if unit == Unit::Milliseconds && number < 1000.0 => {
                self.remark(value, key, "below 1000 ms, which the client ignores: not read");
                return None;
            }
            Some("cline") => Duration::from_secs(1)..=Duration::from_secs(3600),
            _ => Duration::from_millis(1)..=values::LONGEST,
        };
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(values::LONGEST);
        Some(time.clamp(*bounds.start(), *bounds.end()))
    }

    fn note_at(&self, value: Json<'_>, key: &str, message: impl Into<String>) -> Note {
        let key = match self.place.key.as_str() {
            "" => quoted(key),
            place => format!("{place}.{}", quoted(key)),
        };
        Place { path: self.place.path.clone(), line: value.line(), key }.note(message)
    }

    fn unexpected(&self, value: Json<'_>, key: &str, expected: &str) -> Note {
        self.note_at(value, key, format!("{} where {expected} is expected", value.kind()))
    }

    fn remark(&mut self, value: Json<'_>, key: &str, message: impl Into<String>) {
        let note = self.note_at(value, key, message);
        self.notes.push(note);
    }
}
