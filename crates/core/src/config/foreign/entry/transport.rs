//! How a server of another client's file is reached: as a program, or at a URL.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::dialect::put_in;
use super::super::wrapped;
use super::{Fields, Reader};
use crate::config::expand::expand;
use crate::config::json::Json;
use crate::config::raw::quoted;
use crate::config::servers::program_path;
use crate::config::{Kind, Note, Secret, Transport, address};

/// Types of what only a client itself can run.
const BUILT_IN: [&str; 5] = ["builtin", "platform", "frontend", "inline_python", "sdk"];

impl Reader<'_, '_> {
    pub(super) fn kind(&mut self, fields: &Fields<'_>) -> Result<Kind, Note> {
        let transport = match fields.transport {
            Some(value) => Some(value.text().ok_or_else(|| self.unexpected(value, "type", "a string"))?),
            None => None,
        };
        let word = transport.as_deref();
        if let Some(word) = word.filter(|word| BUILT_IN.contains(word)) {
            return Err(self
                .place
                .note(format!("of the type {word:?}, which only the client itself can run")));
        }
        match (fields.command, &fields.url) {
            (Some(command), None) => self.program(command, fields),
            (None, Some((key, url))) => self.remote(key, *url, word, fields),
            (Some(command), Some(_)) if matches!(word, Some("stdio" | "local")) => {
                self.program(command, fields)
            }
            (Some(_), Some((key, url))) if word.is_some() => self.remote(key, *url, word, fields),
            (Some(_), Some(_)) => {
                Err(self.place.note("has both `command` and `url`, and no `type` says which counts"))
            }
            (None, None) => Err(self.place.note("has neither `command` nor `url`")),
        }
    }

    fn program(&mut self, command: Json<'_>, fields: &Fields<'_>) -> Result<Kind, Note> {
        for headers in &fields.headers {
            self.remark(*headers, "headers", "has no use beside `command`: not read");
        }
        // One client writes program and arguments as one list.
        let mut words = Vec::new();
        for value in command.elements().unwrap_or_else(|| vec![command]) {
            words.push(self.text(value, "command", self.client.dialect)?);
        }
        if words.first().is_none_or(String::is_empty) {
            return Err(self.note_at(command, "command", "is empty"));
        }
        let program = words.remove(0);
        if let Some(args) = fields.args {
            for value in args.elements().ok_or_else(|| self.unexpected(args, "args", "a list"))? {
                words.push(self.text(value, "args", self.client.dialect)?);
            }
        }
        let env = self.environment(fields)?;
        let (program, args) = wrapped::without_shell(program, words);
        if let Some(bridged) = wrapped::bridged(&program, &args) {
            let message = "starts `mcp-remote`: read as the URL that it connects to; a sign-in it holds and its \
                           other options are not taken over";
            self.remark(command, "command", message);
            let value = |text: &str| put_in(text, |name| env.get(name).cloned());
            let headers = bridged.headers.iter().map(|(name, text)| (name.clone(), value(text))).collect();
            return self.service(command, "args", value(&bridged.url), headers, None);
        }
        let cwd = fields.cwd.map(|cwd| self.text(cwd, "cwd", self.client.dialect)).transpose()?;
        let base = self.surroundings.base;
        let cwd = cwd.filter(|cwd| !cwd.is_empty());
        Ok(Kind::Stdio {
            command: if begins_with_variable(&program) { program } else { program_path(program, base) },
            args,
            env: env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            cwd: cwd.map(|cwd| if begins_with_variable(&cwd) { PathBuf::from(cwd) } else { base.join(cwd) }),
        })
    }

    /// The variables declared for a program, and those that are to be passed on to it.
    fn environment(&mut self, fields: &Fields<'_>) -> Result<BTreeMap<String, String>, Note> {
        let mut env = BTreeMap::new();
        for (name, text, value) in self.table(fields.env, "env", self.client.dialect)? {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(self.note_at(value, "env", "holds a name that no variable can have"));
            }
            env.insert(name, text);
        }
        if let Some((key, list)) = fields.inherited {
            for value in list.elements().ok_or_else(|| self.unexpected(list, key, "a list"))? {
                let named = value.members().and_then(|members| {
                    members.into_iter().find(|(name, _)| name == "name").and_then(|(_, value)| value.text())
                });
                let name = value.text().or(named).ok_or_else(|| self.unexpected(value, key, "a string"))?;
                // What is passed on where it is set is no need; a key from the client's own safe is one.
                if key == "env_keys" || (self.surroundings.environment)(&name).is_some() {
                    env.entry(name.clone()).or_insert_with(|| format!("${{{name}}}"));
                }
            }
        }
        Ok(env)
    }

    fn remote(
        &mut self,
        key: &str,
        url: Json<'_>,
        transport: Option<&str>,
        fields: &Fields<'_>,
    ) -> Result<Kind, Note> {
        // One client declares the variables of its headers as those of a program.
        let declared = if self.client.header_dialect == self.client.dialect { fields.env } else { None };
        for (key, value) in [("args", fields.args), ("env", declared), ("cwd", fields.cwd)] {
            if let Some(value) = value {
                self.remark(value, key, "has no use beside `url`: not read");
            }
        }
        let mut spoken = None;
        match transport {
            Some("http" | "streamable-http" | "streamableHttp" | "streamable_http" | "remote") => {}
            Some("sse") => spoken = Some(Transport::Sse),
            Some("ws" | "websocket") => {}
            Some(other) => {
                self.remark(url, "type", format!("{other:?} is not spoken: Streamable HTTP is tried"));
            }
            None if key == "url" => {
                if let Some(untyped) = self.client.untyped {
                    self.remark(url, "url", untyped);
                }
            }
            None => {}
        }
        let address = self.text(url, "url", self.client.dialect)?;
        let mut headers = Vec::new();
        let env = if declared.is_none() { self.environment(fields)? } else { BTreeMap::new() };
        for table in &fields.headers {
            for (name, text, _) in self.table(Some(*table), "headers", self.client.header_dialect)? {
                let text = if env.is_empty() { text } else { put_in(&text, |name| env.get(name).cloned()) };
                headers.push((name, text));
            }
        }
        for (name, variable, _) in self.table(fields.header_variables, "env_http_headers", &[])? {
            headers.push((name, format!("${{{variable}}}")));
        }
        if let Some(value) = fields.bearer_variable {
            let variable = self.text(value, "bearer_token_env_var", &[])?;
            headers.push(("Authorization".to_owned(), format!("Bearer ${{{variable}}}")));
        }
        if let Some(value) = fields.api_key {
            let key = self.text(value, "apiKey", self.client.dialect)?;
            headers.push(("Authorization".to_owned(), format!("Bearer {key}")));
        }
        self.service(url, "url", address, headers, spoken)
    }

    /// A service, once its URL and headers are known to be usable.
    fn service(
        &mut self,
        value: Json<'_>,
        key: &str,
        url: String,
        headers: Vec<(String, String)>,
        transport: Option<Transport>,
    ) -> Result<Kind, Note> {
        let environment = self.surroundings.environment;
        let expanded = expand(&url, environment);
        if expanded.complete() {
            address::check_url(&expanded.text).map_err(|wrong| self.note_at(value, key, wrong))?;
        }
        let mut checked: Vec<(String, Secret)> = Vec::new();
        for (name, text) in headers {
            let result = address::check_header_name(&name)
                .and_then(|()| address::check_header_value(&expand(&text, environment).text));
            result.map_err(|wrong| self.note_at(value, "headers", format!("{}: {wrong}", quoted(&name))))?;
            if checked.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
                self.remark(value, "headers", format!("{} is given twice: the first is used", quoted(&name)));
                continue;
            }
            checked.push((name, Secret::new(text)));
        }
        let transport = transport.unwrap_or_else(|| Transport::of(&url));
        Ok(Kind::Http { transport, url, headers: checked, ca_file: None })
    }
}

/// Whether only the value of a variable will tell where a path leads.
fn begins_with_variable(text: &str) -> bool {
    text.starts_with("${")
}
