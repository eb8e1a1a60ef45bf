//! The clients whose files are known, and what differs between them: units of time, variables, and what a URL
//! without a type means.

use std::path::{Path, PathBuf};

use super::dialect::{Dialect, Form};

/// What a bare number of a time-out counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    /// Nothing in the file says which.
    Unknown,
}

/// A client, as far as its files are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Its name; `None` where path and shape of the file do not say.
    pub(super) name: Option<&'static str>,
    pub(super) unit: Unit,
    /// The variables it puts in.
    pub(super) dialect: Dialect,
    /// Those it puts in in headers only.
    pub(super) header_dialect: Dialect,
    /// What it takes a URL without a type for, where that is worth a remark.
    pub(super) untyped: Option<&'static str>,
}

const OURS: Dialect = &[Form::Ours, Form::Places, Form::Inputs];
const ENV: Dialect = &[Form::Env];
const SHELL: Dialect = &[Form::Plain, Form::Fallback, Form::Bare];

const UNKNOWN: Client = Client {
    name: None,
    unit: Unit::Unknown,
    dialect: OURS,
    header_dialect: OURS,
    untyped: Some("has no `type`: Streamable HTTP is tried"),
};

const fn client(name: &'static str, unit: Unit, dialect: Dialect) -> Client {
    Client { name: Some(name), unit, dialect, header_dialect: dialect, untyped: None }
}

const CLAUDE_CODE: Client = Client {
    untyped: Some("has no `type`, for which Claude Code refuses it: Streamable HTTP is tried"),
    ..client("claude-code", Unit::Milliseconds, &[Form::Plain, Form::Fallback])
};
/// `.mcp.json` is Claude Code's, and others read it in their own ways.
const SHARED: Client = Client { name: Some("claude-code"), ..UNKNOWN };
const CLINE: Client = Client {
    untyped: Some("has no `type`, which means SSE to Cline: Streamable HTTP is tried"),
    ..client("cline", Unit::Seconds, ENV)
};
const GEMINI: Client = Client {
    untyped: Some("has no `type`, which means SSE to Gemini: Streamable HTTP is tried"),
    ..client("gemini", Unit::Milliseconds, SHELL)
};
const GOOSE: Client =
    Client { header_dialect: &[Form::Plain, Form::Bare], ..client("goose", Unit::Seconds, &[]) };
const VS_CODE: Client = client("vscode", Unit::Unknown, &[Form::Env, Form::Inputs, Form::Places]);
const CURSOR: Client = client("cursor", Unit::Unknown, &[Form::Env, Form::Places]);
const CODEX: Client = client("codex", Unit::Seconds, &[]);
const OPENCODE: Client = client("opencode", Unit::Milliseconds, &[Form::Braced]);
const ZED: Client = client("zed", Unit::Seconds, &[]);
const CONTINUE: Client = client("continue", Unit::Milliseconds, &[Form::Secrets, Form::Plain]);

/// Whole names of files.
const FILES: [(&str, Client); 8] = [
    ("claude_desktop_config.json", client("claude-desktop", Unit::Unknown, &[])),
    (".claude.json", CLAUDE_CODE),
    (".mcp.json", SHARED),
    ("cline_mcp_settings.json", CLINE),
    ("mcp_settings.json", client("roo", Unit::Seconds, ENV)),
    ("mcp_config.json", client("windsurf", Unit::Unknown, ENV)),
    ("opencode.json", OPENCODE),
    ("opencode.jsonc", OPENCODE),
];

/// Parts of paths, in lower case.
const FOLDERS: [(&str, Client); 18] = [
    ("/.cursor/", CURSOR),
    ("/.gemini/", GEMINI),
    ("/.codex/", CODEX),
    ("/.vscode/", VS_CODE),
    ("/code/user/", VS_CODE),
    ("/.roo/", client("roo", Unit::Seconds, ENV)),
    ("/.cline/", CLINE),
    ("/.continue/", CONTINUE),
    ("/.codeium/", client("windsurf", Unit::Unknown, ENV)),
    ("/.devin/", client("devin", Unit::Unknown, ENV)),
    ("/.config/devin/", client("devin", Unit::Unknown, ENV)),
    ("/.config/goose/", GOOSE),
    ("/.config/zed/", ZED),
    ("/.config/opencode/", OPENCODE),
    // These write down little of their files: what is not known is read as in a file of unknown origin.
    ("/.lmstudio/", Client { name: Some("lmstudio"), untyped: None, ..UNKNOWN }),
    ("/.junie/", Client { name: Some("junie"), ..UNKNOWN }),
    ("/.kiro/", client("kiro", Unit::Unknown, &[Form::Plain])),
    ("amazonq/", client("amazonq", Unit::Milliseconds, ENV)),
];

/// The client that has this name for the place where its servers stand. `mcpServers` is used by too many.
pub(super) fn of_root(root: &str, path: &Path) -> Client {
    match root {
        "context_servers" => ZED,
        "extensions" => GOOSE,
        "mcp_servers" => CODEX,
        "projects" => CLAUDE_CODE,
        "servers" => VS_CODE,
        "list" => CONTINUE,
        // The settings of an editor have it inside of `mcp`.
        "mcp.servers" if of_path(path).name == VS_CODE.name => VS_CODE,
        "mcp" | "mcp.servers" => OPENCODE,
        _ => of_path(path),
    }
}

fn of_path(path: &Path) -> Client {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some((_, client)) = FILES.iter().find(|(file, _)| *file == name) {
        return *client;
    }
    let path = format!("/{}", path.to_string_lossy().to_lowercase().replace('\\', "/"));
    FOLDERS.iter().find(|(folder, _)| path.contains(folder)).map_or(UNKNOWN, |(_, client)| *client)
}

/// Folders of a project that hold a client's file.
const PROJECT_FOLDERS: [&str; 11] = [
    ".vscode",
    ".cursor",
    ".codex",
    ".gemini",
    ".zed",
    ".roo",
    ".kiro",
    ".amazonq",
    ".junie",
    ".continue",
    ".devin",
];
/// Files that stand in a project's own folder.
const PROJECT_FILES: [&str; 3] = [".mcp.json", "opencode.json", "opencode.jsonc"];

/// The project that a file belongs to; `None` for a user's own file.
pub(super) fn workspace(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let named = |path: &Path, names: &[&str]| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(&name))
    };
    let workspace = if named(path, &PROJECT_FILES) {
        path.parent()
    } else {
        // The client's folder may have one more inside.
        path.ancestors().skip(1).take(2).find(|folder| named(folder, &PROJECT_FOLDERS)).and_then(Path::parent)
    }?;
    let home = environment("HOME").map(PathBuf::from);
    let of_user = home.is_some_and(|home| home == workspace || workspace.starts_with(home.join(".config")));
    (workspace.is_absolute() && !of_user).then(|| workspace.to_owned())
}
