//! The clients that Seawall knows: where their files lie, how a server is written in them, and what is due after one
//! was written.

pub(crate) mod backup;
pub(crate) mod change;
pub(crate) mod diff;
pub(crate) mod edit;
pub(crate) mod file;
pub(crate) mod secret;
mod table;

use edit::{Fields, Shape};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The name under which clients know Seawall: letters only, because some of them split names at `_` or drop `-`.
pub(crate) const ENTRY: &str = "seawall";
/// The variable that holds a caller's token.
pub(crate) const TOKEN: &str = "SEAWALL_TOKEN";

/// Where a client's user file lies.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Under the home directory.
    Home(&'static str),
    /// Under `$XDG_CONFIG_HOME`.
    Config(&'static str),
    /// Nowhere that is documented.
    Unknown,
}

/// How a client's entry can name a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// By a reference to the variable, in the client's own words.
    Reference(&'static str),
    /// Only as it is.
    Literal,
}

/// A program that a client starts to reach Seawall.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The absolute path of the binary.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// How a client writes the entry of a server that it starts.
type Stdio = fn(&Program) -> Fields;
/// How a client writes the entry of a server at a URL, with the words after `Bearer`.
type Http = fn(&str, Option<&str>) -> Fields;

/// A program that uses MCP servers, and how it is told of one.
#[derive(Debug)]
pub(crate) struct Client {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it calls itself.
    pub title: &'static str,
    /// How servers stand in its user file.
    pub shape: Shape,
    /// Whether its files are shown only, because it keeps its servers elsewhere or wants them added in its window.
    pub print_only: bool,
    /// Whether writers of its file take a lock directory beside it.
    pub lock: bool,
    /// What must follow for a file that it is created with, besides the servers.
    pub preamble: &'static str,
    user: Place,
    /// Variables that move the user file: the name, and what is appended to the value.
    variables: &'static [(&'static str, &'static str)],
    project: Option<(&'static str, Shape)>,
    stdio: Stdio,
    http: Option<(Http, Token)>,
    due: &'static str,
    due_in_project: &'static str,
}

/// Every client that Seawall knows.
pub(crate) fn all() -> &'static [Client] {
    &table::CLIENTS
}

/// The client of this name.
pub(crate) fn find(name: &str) -> Option<&'static Client> {
    all().iter().find(|client| client.name == name)
}

impl Client {
    /// The file with the user's servers, whether it exists or not; `None` where it has none that is known, or where
    /// there is no home directory.
    pub(crate) fn user_file(&self) -> Option<PathBuf> {
        let moved = self.variables.iter().find_map(|(variable, rest)| {
            let path = absolute(variable)?;
            Some(if rest.is_empty() { path } else { path.join(rest) })
        });
        moved.or_else(|| match self.user {
            Place::Home(path) => home().map(|home| home.join(path)),
            Place::Config(path) => config_home().map(|config| config.join(path)),
            Place::Unknown => None,
        })
    }

    /// The file with a project's servers under `directory`, whether it exists or not; `None` where it has none.
    pub(crate) fn project_file(&self, directory: &Path) -> Option<PathBuf> {
        self.project.map(|(path, _)| directory.join(path))
    }

    /// How servers stand in the user's file, or in a project's.
    pub(crate) fn shape_in(&self, project: bool) -> Shape {
        match self.project {
            Some((_, shape)) if project => shape,
            _ => self.shape,
        }
    }

    /// How a token can be named in its files; `None` where the client cannot use a URL.
    pub(crate) fn token(&self, project: bool) -> Option<Token> {
        let (_, token) = self.http?;
        // A reference is a word of the user file's format.
        let same = !project || self.shape_in(true) == self.shape;
        Some(if same { token } else { Token::Literal })
    }

    /// The entry of a server at a URL, with what follows `Bearer`; `None` where the client cannot use one.
    pub(crate) fn http_entry(&self, url: &str, bearer: Option<&str>, project: bool) -> Option<Fields> {
        let (http, _) = self.http?;
        let other = project && self.shape_in(true) != self.shape;
        Some(if other { table::typed_http(url, bearer) } else { http(url, bearer) })
    }

    /// The entry of a server that the client starts, in the user's file or in a project's.
    pub(crate) fn stdio_entry(&self, program: &Program, project: bool) -> Fields {
        let other = project && self.shape_in(true) != self.shape;
        if other { table::plain_stdio(program) } else { (self.stdio)(program) }
    }

    /// What the user must do after the file was written.
    pub(crate) fn due(&self, project: bool) -> &'static str {
        if project { self.due_in_project } else { self.due }
    }

    /// Why a file of the client should not be written, although it can be read.
    pub(crate) fn objection(&self, whole: &Value) -> Option<&'static str> {
        let servers = &whole["mcp"]["servers"];
        let newer = self.name == "opencode" && servers.is_object() && servers.get("type").is_none();
        newer.then_some(
            "it has the shape of OpenCode 2 (`mcp.servers`), which is not written; add the entry there",
        )
    }
}

/// The home directory.
fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// A variable that holds an absolute path.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// `$XDG_CONFIG_HOME`, or what stands for it.
pub(crate) fn config_home() -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for client in all() {
            assert!(std::ptr::eq(find(client.name).unwrap(), client), "{} stands twice", client.name);
        }
        assert!(find("nobody").is_none());
    }

    #[test]
    fn every_entry_can_be_written_and_read() {
        let program = Program { command: "/opt/sea wall/seawall".into(), args: vec!["stdio".into()] };
        for client in all() {
            for project in [false, true] {
                let shape = client.shape_in(project);
                let http = client.http_entry("http://127.0.0.1:8079/mcp", Some("${SEAWALL_TOKEN}"), project);
                for fields in [Some(client.stdio_entry(&program, project)), http].into_iter().flatten() {
                    let preamble = if shape == client.shape { client.preamble } else { "" };
                    let text = edit::set(shape, preamble, ENTRY, &fields);
                    let text = text.unwrap_or_else(|error| panic!("{}: {error}", client.name));
                    let entries = edit::entries(shape, &text).unwrap();
                    assert_eq!(entries.len(), 1, "{}: {text}", client.name);
                    assert_eq!(entries[0].1.value, edit::value_of(&fields), "{}: {text}", client.name);
                }
            }
        }
    }
}
