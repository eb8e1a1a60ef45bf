//! Servers as they are copied: secrets stay behind, and variables take their places.

use super::super::own_file;
use seawall_core::config::{ForeignServer, Kind, Secret};
use std::collections::BTreeMap;
use toml_edit::Table;

/// Words by which a key is known to hold a secret.
const SECRET: [&str; 5] = ["token", "key", "secret", "password", "authorization"];

/// The variables that have taken the places of secrets. It holds those and is never printed.
#[derive(Default)]
pub(super) struct Copied {
    /// By name: the secret, and where it stands.
    variables: BTreeMap<String, (String, String)>,
}

impl Copied {
    /// A server's table without the secrets it holds.
    pub(super) fn table(&mut self, server: &ForeignServer) -> Table {
        let name = &server.upstream.name;
        let kind = match &server.written {
            Kind::Stdio { command, args, env, cwd } => {
                let env = env.iter().map(|(key, value)| {
                    let origin = format!("{}.env.{key}", server.key);
                    let names = [variable(key), variable(&format!("{name}_{key}"))];
                    (key.clone(), Secret::new(self.hidden(key, value.expose(), &names, &origin)))
                });
                let env = env.collect();
                Kind::Stdio { command: command.clone(), args: args.clone(), env, cwd: cwd.clone() }
            }
            Kind::Http { url, headers, ca_file } => {
                let headers = headers.iter().map(|(key, value)| {
                    let origin = format!("{}.headers.{key}", server.key);
                    (key.clone(), Secret::new(self.header(name, key, value.expose(), &origin)))
                });
                let headers = headers.collect();
                Kind::Http { url: url.clone(), headers, ca_file: ca_file.clone() }
            }
        };
        own_file::table(&kind, Some(&server.upstream))
    }

    /// The variables that are to be set and are not, each with where its value stands.
    pub(super) fn unset(&self) -> Vec<(String, Option<String>)> {
        let unset = self.variables.iter().filter(|(name, _)| std::env::var_os(name).is_none());
        unset.map(|(name, (_, origin))| (name.clone(), Some(origin.clone()))).collect()
    }

    /// A header's value. What says how to read the secret stays.
    fn header(&mut self, server: &str, key: &str, value: &str, origin: &str) -> String {
        let scheme = value.split_once(' ').filter(|(scheme, rest)| {
            scheme.chars().all(|c| c.is_ascii_alphabetic()) && !rest.trim().is_empty()
        });
        match scheme {
            Some((scheme, rest)) => {
                let names = [variable(&format!("{server}_token")), variable(&format!("{server}_{key}"))];
                let origin = format!("{origin}, after {scheme:?}");
                format!("{scheme} {}", self.hidden(key, rest.trim(), &names, &origin))
            }
            None => {
                let name = variable(&format!("{server}_{key}"));
                let other = format!("{name}_2");
                self.hidden(key, value, &[name, other], origin)
            }
        }
    }

    /// A value, or the variable that takes its place: the first of these names that is not another value's.
    fn hidden(&mut self, key: &str, value: &str, names: &[String; 2], origin: &str) -> String {
        let folded = key.to_ascii_lowercase();
        if value.is_empty() || refers(value) || !SECRET.iter().any(|word| folded.contains(word)) {
            return value.to_owned();
        }
        let free = |name: &String| self.variables.get(name).is_none_or(|(known, _)| known == value);
        let numbered = (2..).map(|number| format!("{}_{number}", names[1]));
        let name = names.iter().cloned().chain(numbered).find(free);
        let name = name.expect("the numbers do not end before the names");
        let secret = (value.to_owned(), origin.to_owned());
        self.variables.entry(name.clone()).or_insert(secret);
        format!("${{{name}}}")
    }
}

/// Whether a value in our own notation holds a variable.
fn refers(value: &str) -> bool {
    value.match_indices("${").any(|(at, _)| !value[..at].ends_with('$'))
}

/// The name of a variable for something.
fn variable(what: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = what.chars().map(plain).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_become_variables_and_references_stay() {
        let mut copy = Copied::default();
        let mut hidden = |key: &str, value: &str| {
            copy.hidden(key, value, &[variable(key), variable(&format!("my-server_{key}"))], "x")
        };
        assert_eq!(hidden("GITHUB_TOKEN", "abc"), "${GITHUB_TOKEN}");
        assert_eq!(hidden("GITHUB_TOKEN", "abc"), "${GITHUB_TOKEN}", "the same value is one variable");
        assert_eq!(hidden("GITHUB_TOKEN", "def"), "${MY_SERVER_GITHUB_TOKEN}");
        assert_eq!(hidden("GITHUB_TOKEN", "ghi"), "${MY_SERVER_GITHUB_TOKEN_2}");
        assert_eq!(hidden("Api-Key", "${K}"), "${K}");
        assert_eq!(hidden("Api-Key", "$${K}"), "${API_KEY}", "a plain ${{ is no variable");
        assert_eq!(hidden("REGION", "eu"), "eu");
        assert_eq!(copy.header("docs", "Authorization", "Bearer abc", "x"), "Bearer ${DOCS_TOKEN}");
        assert_eq!(copy.header("docs", "X-Api-Key", "abc", "x"), "${DOCS_X_API_KEY}");
        assert_eq!(copy.header("docs", "X-Region", "eu west", "x"), "eu west");
        assert!(copy.unset().iter().any(|(name, origin)| name == "DOCS_TOKEN" && origin.is_some()));
    }
}
