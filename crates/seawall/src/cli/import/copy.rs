//! Servers as they are copied: secrets stay behind, and variables take their places.

use super::super::own_file;
use crate::clients::secret::tells;
use seawall_core::config::{ForeignServer, Kind, Secret};
use std::collections::BTreeMap;
use toml_edit::Table;

/// The longest value that is too short for a secret, in bytes.
const SHORT: usize = 3;

/// The variables that have taken the places of secrets. It holds those and is never printed.
#[derive(Clone, Default)]
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
                let args = self.arguments(name, args, &format!("{}.args", server.key));
                Kind::Stdio { command: command.clone(), args, env, cwd: cwd.clone() }
            }
            Kind::Http { transport, url, headers, ca_file } => {
                let headers = headers.iter().map(|(key, value)| {
                    let origin = format!("{}.headers.{key}", server.key);
                    (key.clone(), Secret::new(self.header(name, key, value.expose(), &origin)))
                });
                let headers = headers.collect();
                let url = self.url(name, url, &format!("{}.url", server.key));
                Kind::Http { transport: *transport, url, headers, ca_file: ca_file.clone() }
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
            let is_scheme = key.to_ascii_lowercase().contains("authorization");
            is_scheme && scheme.chars().all(|c| c.is_ascii_alphabetic()) && !rest.trim().is_empty()
        });
        match scheme {
            Some((scheme, rest)) => {
                let names = [variable(&format!("{server}_token")), variable(&format!("{server}_{key}"))];
                let origin = format!("{origin}, after {scheme:?}");
                format!("{scheme} {}", self.hidden(key, rest.trim(), &names, &origin))
            }
            None => self.hidden(key, value, &named(server, key), origin),
        }
    }

    /// The arguments of a command: what follows a name that tells of a secret, headers, and what URLs hold.
    fn arguments(&mut self, server: &str, arguments: &[String], origin: &str) -> Vec<String> {
        let mut flag = "";
        let mut copied = Vec::new();
        for (number, argument) in arguments.iter().enumerate() {
            let origin = format!("{origin}[{number}]");
            let is_flag = argument.starts_with('-');
            copied.push(if !is_flag && tells(flag) {
                self.replaced(argument, &named(server, flag), &origin)
            } else if !is_flag && is_for_headers(flag) {
                self.header_line(server, argument, &origin)
            } else {
                self.argument(server, argument, &origin)
            });
            flag = if is_flag && !argument.contains('=') { argument.as_str() } else { "" };
        }
        copied
    }

    fn argument(&mut self, server: &str, argument: &str, origin: &str) -> String {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let Some((name, value)) = argument.split_once('=').filter(|(name, _)| is_name(name)) else {
            return self.url(server, argument, origin);
        };
        let value = if tells(name) {
            self.replaced(value, &named(server, name), &format!("{origin}, after \"{name}=\""))
        } else if name.starts_with('-') && is_for_headers(name) {
            self.header_line(server, value, origin)
        } else {
            self.argument(server, value, origin)
        };
        format!("{name}={value}")
    }

    /// A header as it is given to a command: its name, a colon, its value.
    fn header_line(&mut self, server: &str, line: &str, origin: &str) -> String {
        let Some((key, rest)) = line.split_once(':') else { return self.argument(server, line, origin) };
        let value = rest.trim_start();
        let gap = &rest[..rest.len() - value.len()];
        let value = self.header(server, key.trim(), value, &format!("{origin}, after \"{key}:\""));
        format!("{key}:{gap}{value}")
    }

    /// A text without the name and password of a URL in it, and without what its query tells to be secret.
    fn url(&mut self, server: &str, text: &str, origin: &str) -> String {
        let Some(start) = text.find("://").map(|scheme| scheme + 3) else { return text.to_owned() };
        let (scheme, rest) = text.split_at(start);
        let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let host = match host.rsplit_once('@') {
            None => host.to_owned(),
            Some((user, host)) => {
                let origin = format!("{origin}, before \"@\"");
                format!("{}@{host}", self.replaced(user, &named(server, "userinfo"), &origin))
            }
        };
        let query = query.map(|query| {
            let pairs = query.split('&').map(|pair| match pair.split_once('=') {
                Some((key, value)) if tells(key) => {
                    let origin = format!("{origin}, after \"{key}=\"");
                    format!("{key}={}", self.replaced(value, &named(server, key), &origin))
                }
                _ => pair.to_owned(),
            });
            pairs.collect::<Vec<_>>().join("&")
        });
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}{host}{path}{query}{fragment}")
    }

    /// A value, or the variable that takes its place where it is not plainly harmless.
    fn hidden(&mut self, key: &str, value: &str, names: &[String; 2], origin: &str) -> String {
        if !tells(key) && is_harmless(value) {
            return value.to_owned();
        }
        self.replaced(value, names, origin)
    }

    /// The variable that takes a value's place: the first of these names that is not another value's. What is empty
    /// or holds a variable stays.
    fn replaced(&mut self, value: &str, names: &[String; 2], origin: &str) -> String {
        if value.is_empty() || refers(value) {
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

/// Whether a flag takes a header.
fn is_for_headers(flag: &str) -> bool {
    flag == "-H" || flag.to_ascii_lowercase().contains("header")
}

/// Whether a value is too plain to be secret.
fn is_harmless(value: &str) -> bool {
    let is_truth = ["true", "false"].iter().any(|truth| value.eq_ignore_ascii_case(truth));
    value.len() <= SHORT || is_truth || value.parse::<f64>().is_ok() || value.starts_with('/')
}

/// Whether a value in our own notation holds a variable.
fn refers(value: &str) -> bool {
    value.match_indices("${").any(|(at, _)| !value[..at].ends_with('$'))
}

/// What a variable for something of a server is called, and what where that is taken.
fn named(server: &str, what: &str) -> [String; 2] {
    let name = variable(&format!("{server}_{}", what.trim_start_matches('-')));
    let other = format!("{name}_2");
    [name, other]
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
        assert_eq!(hidden("DATABASE", "db://u:p@h"), "${DATABASE}", "whatever it is called");
        for harmless in ["eu", "true", "FALSE", "8080", "-1.5", "/var/lib/x", ""] {
            assert_eq!(hidden("REGION", harmless), harmless);
        }
        assert_eq!(copy.header("docs", "Authorization", "Bearer abc", "x"), "Bearer ${DOCS_TOKEN}");
        assert_eq!(copy.header("docs", "X-Api-Key", "abc", "x"), "${DOCS_X_API_KEY}");
        assert_eq!(copy.header("docs", "X-Session", "my word", "x"), "${DOCS_X_SESSION}");
        assert!(copy.unset().iter().any(|(name, origin)| name == "DOCS_TOKEN" && origin.is_some()));
    }

    #[test]
    fn secrets_in_arguments_and_urls_become_variables() {
        let mut copy = Copied::default();
        for (written, expected) in [
            ("-y --api-key s3cret x", "-y --api-key ${S_API_KEY} x"),
            ("--api-key=s3cret --no-token -v", "--api-key=${S_API_KEY} --no-token -v"),
            ("-e GH_TOKEN=s3cret -e A=b", "-e GH_TOKEN=${S_GH_TOKEN} -e A=b"),
            ("--env=GH_TOKEN=s3cret --key ${K}", "--env=GH_TOKEN=${S_GH_TOKEN} --key ${K}"),
            ("--header Authorization:s3cret", "--header Authorization:${S_AUTHORIZATION}"),
            ("-H X-Who:s3cret --header=X-A:b", "-H X-Who:${S_X_WHO} --header=X-A:b"),
            ("db://u:s3cret@h:1/d?a=b", "db://${S_USERINFO}@h:1/d?a=b"),
            ("--db=db://u:s3cret@h", "--db=db://${S_USERINFO}@h"),
            ("https://h/p@q?a=b&apikey=s3cret#f", "https://h/p@q?a=b&apikey=${S_APIKEY}#f"),
            ("keycloak:1 @a/token-server@1.2 x/key", "keycloak:1 @a/token-server@1.2 x/key"),
        ] {
            let words: Vec<String> = written.split(' ').map(str::to_owned).collect();
            let copied = copy.arguments("s", &words, "mcpServers.s.args").join(" ");
            assert_eq!(copied, expected);
        }
        assert_eq!(copy.variables["S_API_KEY"].1, "mcpServers.s.args[2]");
        let spaced = copy.arguments("t", &["-H".to_owned(), "Authorization: Bearer s3cret".to_owned()], "x");
        assert_eq!(spaced[1], "Authorization: Bearer ${T_TOKEN}");
    }
}
