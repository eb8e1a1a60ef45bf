//! The table of clients, and the words each of them uses.

use super::edit::{Fields, Format, Shape};
use super::{Client, ENTRY, Place, Program, TOKEN, Token};
use serde_json::{Value, json};

/// The longest time limit that all clients with one take, in seconds: calls end by Seawall's own limits.
const SECONDS: u64 = 3600;
/// The same in milliseconds.
const MILLISECONDS: u64 = SECONDS * 1000;

const STRICT: Shape = Shape { format: Format::Json, root: "mcpServers", list: false };
const LENIENT: Shape = Shape { format: Format::Jsonc, ..STRICT };

/// What most clients have in common.
const COMMON: Client = Client {
    name: "",
    title: "",
    shape: LENIENT,
    print_only: false,
    lock: false,
    preamble: "",
    user: Place::Unknown,
    variables: &[],
    project: None,
    stdio: plain_stdio,
    http: None,
    due: "New sessions use it.",
    due_in_project: "New sessions in this directory use it.",
};

pub(super) static CLIENTS: [Client; 18] = [
    Client {
        name: "claude-desktop",
        title: "Claude Desktop",
        shape: STRICT,
        user: Place::Config("Claude/claude_desktop_config.json"),
        due: "Restart Claude Desktop.",
        ..COMMON
    },
    Client {
        name: "claude-code",
        title: "Claude Code",
        shape: STRICT,
        user: Place::Home(".claude.json"),
        variables: &[("CLAUDE_CONFIG_DIR", ".claude.json")],
        project: Some((".mcp.json", STRICT)),
        stdio: typed_stdio,
        http: Some((typed_http, Token::Reference("${SEAWALL_TOKEN}"))),
        due_in_project: "Approve the server when Claude Code asks, at the next start in this directory.",
        ..COMMON
    },
    Client {
        name: "cursor",
        title: "Cursor",
        user: Place::Home(".cursor/mcp.json"),
        project: Some((".cursor/mcp.json", LENIENT)),
        stdio: typed_stdio,
        http: Some((plain_http, Token::Reference("${env:SEAWALL_TOKEN}"))),
        due: "Restart Cursor.",
        due_in_project: "Restart Cursor.",
        ..COMMON
    },
    Client {
        name: "vscode",
        title: "VS Code",
        shape: Shape { root: "servers", ..LENIENT },
        user: Place::Config("Code/User/mcp.json"),
        project: Some((".vscode/mcp.json", Shape { root: "servers", ..LENIENT })),
        stdio: typed_stdio,
        http: Some((typed_http, Token::Reference("${env:SEAWALL_TOKEN}"))),
        due: "Trust the server when VS Code asks.",
        due_in_project: "Trust the server when VS Code asks.",
        ..COMMON
    },
    Client {
        name: "codex",
        title: "Codex CLI",
        shape: Shape { format: Format::Toml, root: "mcp_servers", list: false },
        user: Place::Home(".codex/config.toml"),
        project: Some((
            ".codex/config.toml",
            Shape { format: Format::Toml, root: "mcp_servers", list: false },
        )),
        stdio: |program| {
            // It passes on only the variables that are named.
            let mut fields = plain_stdio(program);
            let variables = [TOKEN, "SEAWALL_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"];
            fields.push(("env_vars", json!(variables)));
            with(fields, "tool_timeout_sec", SECONDS)
        },
        http: Some((
            |url, bearer| {
                let mut fields = vec![("url", json!(url))];
                fields.extend(bearer.map(|_| ("bearer_token_env_var", json!(TOKEN))));
                with(fields, "tool_timeout_sec", SECONDS)
            },
            Token::Reference(TOKEN),
        )),
        due_in_project: "Trust this directory when Codex asks: until then its file does not count.",
        ..COMMON
    },
    Client {
        name: "gemini",
        title: "Gemini CLI",
        user: Place::Home(".gemini/settings.json"),
        project: Some((".gemini/settings.json", LENIENT)),
        stdio: |program| {
            // It takes variables that look like secrets away, unless they are named.
            let mut fields = plain_stdio(program);
            fields.push(("env", json!({ (TOKEN): "$SEAWALL_TOKEN" })));
            with(fields, "timeout", MILLISECONDS)
        },
        http: Some((
            |url, bearer| with(typed_http(url, bearer), "timeout", MILLISECONDS),
            Token::Reference("${SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "opencode",
        title: "OpenCode",
        shape: Shape { root: "mcp", ..LENIENT },
        user: Place::Config("opencode/opencode.json"),
        project: Some(("opencode.json", Shape { root: "mcp", ..LENIENT })),
        stdio: |program| {
            let words: Vec<&String> = std::iter::once(&program.command).chain(&program.args).collect();
            with(vec![("type", json!("local")), ("command", json!(words))], "timeout", MILLISECONDS)
        },
        http: Some((
            |url, bearer| {
                let mut fields =
                    vec![("type", json!("remote")), ("url", json!(url)), ("oauth", json!(false))];
                fields.extend(headers(bearer));
                with(fields, "timeout", MILLISECONDS)
            },
            Token::Reference("{env:SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "windsurf",
        title: "Windsurf",
        user: Place::Home(".codeium/windsurf/mcp_config.json"),
        http: Some((|url, bearer| remote("serverUrl", url, bearer), Token::Literal)),
        due: "Refresh the servers in Cascade, or restart Windsurf.",
        ..COMMON
    },
    Client {
        name: "zed",
        title: "Zed",
        shape: Shape { root: "context_servers", ..LENIENT },
        user: Place::Config("zed/settings.json"),
        project: Some((".zed/settings.json", Shape { root: "context_servers", ..LENIENT })),
        stdio: |program| with(plain_stdio(program), "timeout", SECONDS),
        http: Some((|url, bearer| with(plain_http(url, bearer), "timeout", SECONDS), Token::Literal)),
        ..COMMON
    },
    Client {
        name: "goose",
        title: "Goose",
        shape: Shape { format: Format::Yaml, root: "extensions", list: false },
        user: Place::Config("goose/config.yaml"),
        stdio: |program| {
            let mut fields = goose("stdio");
            fields.extend([("cmd", json!(program.command)), ("args", json!(program.args))]);
            with(fields, "timeout", SECONDS)
        },
        http: Some((
            |url, bearer| {
                let mut fields = goose("streamable_http");
                fields.push(("uri", json!(url)));
                if bearer.is_some() {
                    fields.extend(headers(bearer));
                    fields.push(("env_keys", json!([TOKEN])));
                }
                with(fields, "timeout", SECONDS)
            },
            Token::Reference("${SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "cline",
        title: "Cline",
        lock: true,
        user: Place::Home(".cline/data/settings/cline_mcp_settings.json"),
        variables: &[("CLINE_MCP_SETTINGS_PATH", ""), ("CLINE_DATA_DIR", "settings/cline_mcp_settings.json")],
        stdio: |program| with(typed_stdio(program), "timeout", SECONDS),
        http: Some((
            |url, bearer| with(named_http("streamableHttp", url, bearer), "timeout", SECONDS),
            Token::Reference("${env:SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "roo",
        title: "Roo Code",
        user: Place::Config("Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json"),
        project: Some((".roo/mcp.json", LENIENT)),
        stdio: |program| with(typed_stdio(program), "timeout", SECONDS),
        http: Some((
            |url, bearer| with(named_http("streamable-http", url, bearer), "timeout", SECONDS),
            Token::Reference("${env:SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "continue",
        title: "Continue",
        shape: Shape { format: Format::Yaml, root: "mcpServers", list: true },
        // Its schema refuses a file without these three.
        preamble: "name: Local\nversion: 1.0.0\nschema: v1\n",
        user: Place::Home(".continue/config.yaml"),
        project: Some((".continue/mcpServers/seawall.json", STRICT)),
        stdio: |program| {
            let mut fields = vec![("name", json!(ENTRY))];
            fields.extend(typed_stdio(program));
            fields
        },
        http: Some((
            |url, bearer| {
                let mut fields =
                    vec![("name", json!(ENTRY)), ("type", json!("streamable-http")), ("url", json!(url))];
                fields
                    .extend(headers(bearer).map(|(key, value)| ("requestOptions", json!({ (key): value }))));
                fields
            },
            Token::Reference("${{ secrets.SEAWALL_TOKEN }}"),
        )),
        ..COMMON
    },
    Client {
        name: "junie",
        title: "Junie",
        user: Place::Home(".junie/mcp/mcp.json"),
        project: Some((".junie/mcp/mcp.json", LENIENT)),
        ..COMMON
    },
    Client {
        name: "kiro",
        title: "Kiro",
        user: Place::Home(".kiro/settings/mcp.json"),
        project: Some((".kiro/settings/mcp.json", LENIENT)),
        http: Some((plain_http, Token::Reference("${SEAWALL_TOKEN}"))),
        due: "Trust the server when Kiro asks; it expands only variables that were approved.",
        due_in_project: "Trust the server when Kiro asks; it expands only variables that were approved.",
        ..COMMON
    },
    Client {
        name: "amazon-q",
        title: "Amazon Q Developer CLI",
        user: Place::Home(".aws/amazonq/mcp.json"),
        project: Some((".amazonq/mcp.json", LENIENT)),
        stdio: |program| with(typed_stdio(program), "timeout", MILLISECONDS),
        http: Some((
            |url, bearer| with(typed_http(url, bearer), "timeout", MILLISECONDS),
            Token::Reference("${env:SEAWALL_TOKEN}"),
        )),
        ..COMMON
    },
    Client {
        name: "lm-studio",
        title: "LM Studio",
        print_only: true,
        user: Place::Home(".lmstudio/mcp.json"),
        http: Some((plain_http, Token::Literal)),
        due: "Open the link, or paste the entry in LM Studio's own editor of mcp.json.",
        ..COMMON
    },
    Client {
        name: "jetbrains-ai",
        title: "JetBrains AI Assistant",
        print_only: true,
        due: "Paste it under Settings | Tools | AI Assistant | Model Context Protocol.",
        ..COMMON
    },
];

pub(super) fn plain_stdio(program: &Program) -> Fields {
    vec![("command", json!(program.command)), ("args", json!(program.args))]
}

fn typed_stdio(program: &Program) -> Fields {
    let mut fields = vec![("type", json!("stdio"))];
    fields.extend(plain_stdio(program));
    fields
}

fn plain_http(url: &str, bearer: Option<&str>) -> Fields {
    remote("url", url, bearer)
}

pub(super) fn typed_http(url: &str, bearer: Option<&str>) -> Fields {
    named_http("http", url, bearer)
}

fn named_http(transport: &str, url: &str, bearer: Option<&str>) -> Fields {
    let mut fields = vec![("type", json!(transport))];
    fields.extend(plain_http(url, bearer));
    fields
}

fn remote(key: &'static str, url: &str, bearer: Option<&str>) -> Fields {
    let mut fields = vec![(key, json!(url))];
    fields.extend(headers(bearer));
    fields
}

fn headers(bearer: Option<&str>) -> Option<(&'static str, Value)> {
    bearer.map(|bearer| ("headers", json!({"Authorization": format!("Bearer {bearer}")})))
}

fn goose(kind: &str) -> Fields {
    vec![
        ("enabled", json!(true)),
        ("type", json!(kind)),
        ("name", json!(ENTRY)),
        ("description", json!("Seawall")),
    ]
}

fn with(mut fields: Fields, key: &'static str, limit: u64) -> Fields {
    fields.push((key, json!(limit)));
    fields
}
