//! Each client's file: its text, and the servers and remarks that come of it.

mod together;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{ForeignFile, ForeignServer, foreign};
use crate::config::{Kind, Source, Sources};

const ENVIRONMENT: [(&str, &str); 4] =
    [("HOME", "/home/me"), ("SET", "value"), ("TOKEN", "t0ken"), ("GITHUB_TOKEN", "gh")];

fn files(own: &str, files: &[(&str, &str)]) -> Vec<ForeignFile> {
    let environment: HashMap<_, _> = ENVIRONMENT.into_iter().collect();
    let source = |path: &str, text: &str| Source { path: PathBuf::from(path), text: text.to_owned() };
    let sources = Sources {
        own: Some(source("seawall.toml", own)),
        foreign: files.iter().map(|(path, text)| source(path, text)).collect(),
        environment: &|name| environment.get(name).map(|value| (*value).to_owned()),
        overrides: Vec::new(),
        state_default: PathBuf::from("/state"),
        base: PathBuf::from("/base"),
    };
    foreign(&sources).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn file(path: &str, text: &str) -> ForeignFile {
    files("", &[(path, text)]).remove(0)
}

fn server<'f>(file: &'f ForeignFile, name: &str) -> &'f ForeignServer {
    let found = file.servers.iter().find(|server| server.upstream.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {file:#?}"))
}

/// Command, arguments and variables, with the variables of strings put in.
fn program(server: &ForeignServer) -> (&str, Vec<&str>, Vec<(&str, &str)>) {
    let Kind::Stdio { command, args, env, .. } = &server.upstream.kind else { panic!("{server:#?}") };
    let env = env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    (command, args.iter().map(String::as_str).collect(), env)
}

/// URL and headers.
fn service(kind: &Kind) -> (&str, Vec<(&str, &str)>) {
    let Kind::Http { url, headers, .. } = kind else { panic!("{kind:#?}") };
    (url, headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect())
}

#[track_caller]
fn noted(file: &ForeignFile, begins: &[&str]) {
    let notes: Vec<_> = file.notes.iter().map(ToString::to_string).collect();
    for begin in begins {
        assert!(notes.iter().any(|note| note.starts_with(begin)), "no {begin} in {notes:#?}");
    }
}

#[test]
fn claude_code_keeps_servers_of_the_user_and_of_each_project() {
    let file = file(
        "/home/me/.claude.json",
        r#"{"numStartups": 3,
"mcpServers": {"time": {"command": "uvx", "args": ["${SET}", "${NONE:-d}", "${env:SET}", "$SET"], "timeout": 90}},
"projects": {"/project/a": {"mcpServers": {
  "docs": {"type": "http", "url": "https://docs.example/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"},
           "timeout": 60000},
  "rel": {"command": "./bin/x", "env": {"A": "${MISSING}"}}
}}, "/project/b": {}}}"#,
    );
    assert_eq!(file.client, Some("claude-code"));
    let time = server(&file, "time");
    assert_eq!(program(time).1, ["value", "d", "${env:SET}", "$SET"], "only its own variables are put in");
    assert_eq!(time.upstream.timeout, Duration::from_secs(50), "below 1000 ms is ignored by the client");
    let docs = server(&file, "docs");
    assert_eq!(service(&docs.upstream.kind).1, [("Authorization", "Bearer t0ken")]);
    assert_eq!(service(&docs.written).1, [("Authorization", "Bearer ${TOKEN}")]);
    assert_eq!(
        (docs.key.as_str(), docs.upstream.timeout.as_secs()),
        ("projects.\"/project/a\".mcpServers.docs", 60)
    );
    let rel = server(&file, "rel");
    assert_eq!(program(rel).0, "/project/a/./bin/x");
    assert_eq!(rel.upstream.needs, ["MISSING"]);
    noted(&file, &["/home/me/.claude.json:2: mcpServers.time.timeout: below 1000 ms"]);
    assert_eq!(file.notes.len(), 1, "{:#?}", file.notes);
}

#[test]
fn claude_desktop_puts_no_variables_in_and_wraps_what_is_remote() {
    let file = file(
        "/home/me/.config/Claude/claude_desktop_config.json",
        r#"{"mcpServers": {
"plain": {"command": "cmd", "args": ["/c", "npx", "-y", "server", "$HOME", "${SET}"]},
"bridge": {"command": "npx", "args": ["-y", "mcp-remote@latest", "https://r.example/mcp", "--header",
  "Authorization:${AUTH}", "--header", "X-Other: ${SET}"], "env": {"AUTH": "Bearer abc"}},
"seawall": {"command": "/usr/bin/seawall", "args": ["stdio"]},
"loop": {"command": "npx", "args": ["mcp-remote", "http://127.0.0.1:8079/mcp"]}
}}"#,
    );
    assert_eq!(file.client, Some("claude-desktop"));
    assert_eq!(program(server(&file, "plain")), ("npx", vec!["-y", "server", "$HOME", "${SET}"], vec![]));
    let (url, headers) = service(&server(&file, "bridge").upstream.kind);
    assert_eq!(url, "https://r.example/mcp");
    assert_eq!(headers, [("Authorization", "Bearer abc"), ("X-Other", "value")]);
    assert_eq!(file.servers.len(), 2);
    let path = "/home/me/.config/Claude/claude_desktop_config.json";
    noted(
        &file,
        &[
            &format!("{path}:3: mcpServers.bridge.command: starts `mcp-remote`"),
            &format!("{path}:5: mcpServers.seawall: this is Seawall itself"),
            &format!("{path}:6: mcpServers.loop: this is Seawall itself"),
        ],
    );
}

#[test]
fn codex_writes_toml_and_counts_seconds() {
    let file = file(
        "/home/me/.codex/config.toml",
        r#"model = "x"

[mcp_servers.time]
command = "uvx"
args = ["time", "$HOME", "${SET}"]
env = { A = "b" }
env_vars = ["SET", "NOT_SET"]
tool_timeout_sec = 120
startup_timeout_sec = 7.5
enabled_tools = ["now"]

[mcp_servers.time.tools.now]
approval_mode = "approve"

[mcp_servers.docs]
url = "https://docs.example/mcp"
bearer_token_env_var = "TOKEN"
http_headers = { X-A = "1" }
env_http_headers = { X-B = "SET", X-C = "MISSING" }
enabled = false
"#,
    );
    assert_eq!(file.client, Some("codex"));
    let time = server(&file, "time");
    let expected = ("uvx", vec!["time", "$HOME", "${SET}"], vec![("A", "b"), ("SET", "value")]);
    assert_eq!(program(time), expected);
    assert_eq!(time.upstream.timeout, Duration::from_secs(120));
    assert_eq!(time.upstream.start_timeout, Duration::from_millis(7500));
    let docs = server(&file, "docs");
    assert!(!docs.upstream.enabled);
    assert_eq!(docs.upstream.needs, ["MISSING"]);
    let headers =
        [("X-A", "1"), ("X-B", "${SET}"), ("X-C", "${MISSING}"), ("Authorization", "Bearer ${TOKEN}")];
    assert_eq!(service(&docs.written), ("https://docs.example/mcp", headers.to_vec()));
    noted(
        &file,
        &[
            "/home/me/.codex/config.toml:10: mcp_servers.time.enabled_tools: the client's choice of tools",
            "/home/me/.codex/config.toml:12: mcp_servers.time.tools: an approval",
        ],
    );
    assert_eq!(file.notes.len(), 2, "{:#?}", file.notes);
}

#[test]
fn vs_code_asks_for_inputs_and_knows_its_folders() {
    let file = file(
        "/project/p/.vscode/mcp.json",
        r#"{
  // asked once
  "inputs": [{"type": "promptString", "id": "github-token", "password": true},
             {"type": "promptString", "id": "zone", "default": "UTC"}],
  "servers": {
    "gh": {"type": "http", "url": "https://gh.example", "headers": {"Authorization": "Bearer ${input:github-token}"}},
    "fs": {"type": "stdio", "command": "${workspaceFolder}/bin/fs", "cwd": "sub",
           "args": ["${env:SET}", "${SET}", "${input:zone}", "${userHome}", "a${/}b", "${command:pick}"],
           "envFile": "${workspaceFolder}/.env", "dev": {}},
  },
}"#,
    );
    assert_eq!(file.client, Some("vscode"));
    let gh = server(&file, "gh");
    assert_eq!(service(&gh.upstream.kind).1, [("Authorization", "Bearer gh")]);
    assert_eq!(service(&gh.written).1, [("Authorization", "Bearer ${GITHUB_TOKEN}")]);
    let fs = server(&file, "fs");
    let args = vec!["value", "${SET}", "UTC", "/home/me", "a/b", "${command:pick}"];
    assert_eq!(program(fs), ("/project/p/bin/fs", args, vec![]));
    assert_eq!(fs.upstream.needs, ["command:pick"]);
    let Kind::Stdio { cwd, .. } = &fs.upstream.kind else { panic!("{fs:#?}") };
    assert_eq!(cwd.as_deref(), Some(std::path::Path::new("/project/p/sub")));
    noted(
        &file,
        &[
            "/project/p/.vscode/mcp.json:3: inputs.github-token: asked for by the client: taken from the variable \
             GITHUB_TOKEN",
            "/project/p/.vscode/mcp.json:8: servers.fs.args: ${command:pick} is not known here",
            "/project/p/.vscode/mcp.json:9: servers.fs.envFile: a file of variables",
            "/project/p/.vscode/mcp.json:9: servers.fs.dev: unknown key",
        ],
    );
}

#[test]
fn gemini_puts_bare_variables_in_and_names_who_is_allowed() {
    let file = file(
        "/home/me/.gemini/settings.json",
        r#"{"theme": "x", "mcp": {"excluded": ["off"]}, "mcpServers": {
"on": {"command": "a", "args": ["$SET/x", "${SET}", "${NONE:-d}", "$5", "${env:SET}"], "timeout": 2500,
       "trust": true, "includeTools": ["x"]},
"off": {"httpUrl": "https://h.example/mcp"},
"typed": {"url": "https://t.example/mcp"}
}}"#,
    );
    assert_eq!(file.client, Some("gemini"));
    let on = server(&file, "on");
    assert_eq!(program(on).1, ["value/x", "value", "d", "$5", "${env:SET}"]);
    assert_eq!(on.upstream.timeout, Duration::from_millis(2500));
    assert!(on.upstream.enabled && !server(&file, "off").upstream.enabled);
    noted(
        &file,
        &[
            "/home/me/.gemini/settings.json:3: mcpServers.on.trust: an approval",
            "/home/me/.gemini/settings.json:3: mcpServers.on.includeTools: the client's choice",
            "/home/me/.gemini/settings.json:5: mcpServers.typed.url: has no `type`, which means SSE",
        ],
    );
    assert_eq!(file.notes.len(), 3, "{:#?}", file.notes);
}

#[test]
fn opencode_writes_commands_as_lists_and_variables_in_its_own_way() {
    let first = file(
        "/project/p/opencode.json",
        r#"{"$schema": "https://opencode.ai/config.json", "mcp": {
"local": {"type": "local", "command": ["npx", "-y", "x", "${SET}"], "environment": {"A": "{env:SET}"},
          "enabled": false, "timeout": 5000},
"far": {"type": "remote", "url": "https://f.example/mcp", "oauth": false,
        "headers": {"Authorization": "Bearer {env:MISSING}", "X": "{file:./secret}"}}
}}"#,
    );
    assert_eq!(first.client, Some("opencode"));
    let local = server(&first, "local");
    assert_eq!(program(local), ("npx", vec!["-y", "x", "${SET}"], vec![("A", "value")]));
    assert_eq!((local.upstream.enabled, local.upstream.timeout.as_secs()), (false, 5));
    assert_eq!(server(&first, "far").upstream.needs, ["MISSING", "file:./secret"]);
    noted(&first, &["/project/p/opencode.json:4: mcp.far.oauth: unknown key"]);

    let second = file(
        "/home/me/.config/opencode/opencode.json",
        r#"{"mcp": {"servers": {"x": {"type": "local", "command": ["x"], "disabled": true,
            "timeout": {"startup": 30000, "catalog": 2000, "execution": 43200000}}}}}"#,
    );
    let x = &server(&second, "x").upstream;
    assert!(!x.enabled);
    assert_eq!((x.start_timeout.as_secs(), x.list_timeout.as_secs(), x.timeout.as_secs()), (30, 2, 43200));
}

#[test]
fn zed_and_goose_count_seconds() {
    let zed = file(
        "/home/me/.config/zed/settings.json",
        r#"{"theme": "One", "context_servers": {
"new": {"command": "a", "args": ["b"], "timeout": 3600, "enabled": true},
"old": {"source": "custom", "command": {"path": "p", "args": ["q"], "env": {"A": "$SET"}}},
"extension": {"source": "extension", "settings": {}}
}}"#,
    );
    assert_eq!(zed.client, Some("zed"));
    assert_eq!(server(&zed, "new").upstream.timeout, Duration::from_secs(3600));
    assert_eq!(program(server(&zed, "old")), ("p", vec!["q"], vec![("A", "$SET")]));
    noted(&zed, &["/home/me/.config/zed/settings.json:4: context_servers.extension: has neither"]);

    let goose = file(
        "/home/me/.config/goose/config.yaml",
        "GOOSE_MODEL: x\nextensions:\n  developer:\n    type: builtin\n    enabled: true\n  time:\n    \
         enabled: true\n    type: stdio\n    cmd: uvx\n    args: [time]\n    envs: { A: b }\n    \
         env_keys: [GITHUB_TOKEN, MISSING]\n    timeout: 300\n    available_tools: []\n  docs:\n    \
         type: streamable_http\n    uri: \"https://d.example/mcp\"\n    envs:\n      KEY: k\n    headers:\n      \
         X-Key: \"${KEY}\"\n      X-Token: $TOKEN\n",
    );
    assert_eq!(goose.client, Some("goose"));
    let time = server(&goose, "time");
    let env = vec![("A", "b"), ("GITHUB_TOKEN", "gh"), ("MISSING", "${MISSING}")];
    assert_eq!(program(time), ("uvx", vec!["time"], env));
    assert_eq!(
        (time.upstream.timeout.as_secs(), time.upstream.needs.as_slice()),
        (300, &["MISSING".to_owned()][..])
    );
    let docs = &server(&goose, "docs").upstream.kind;
    assert_eq!(service(docs), ("https://d.example/mcp", vec![("X-Key", "k"), ("X-Token", "t0ken")]));
    noted(
        &goose,
        &[
            "/home/me/.config/goose/config.yaml:3: extensions.developer: of the type \"builtin\"",
            "/home/me/.config/goose/config.yaml:14: extensions.time.available_tools: the client's choice",
        ],
    );
}

#[test]
fn cline_and_roo_count_seconds_and_nest_transports() {
    let cline = file(
        "/home/me/.cline/data/settings/cline_mcp_settings.json",
        r#"{"mcpServers": {
"nested": {"transport": {"type": "streamableHttp", "url": "https://n.example"}, "timeout": 5},
"long": {"command": "a", "args": ["${env:SET}", "${SET}"], "timeout": 9000, "autoApprove": ["x"]},
"sse": {"url": "https://s.example"}
}}"#,
    );
    assert_eq!(cline.client, Some("cline"));
    assert_eq!(server(&cline, "nested").upstream.timeout, Duration::from_secs(5));
    let long = server(&cline, "long");
    assert_eq!(program(long).1, ["value", "${SET}"]);
    assert_eq!(long.upstream.timeout, Duration::from_secs(3600), "the client's own bound");
    let path = "/home/me/.cline/data/settings/cline_mcp_settings.json";
    noted(&cline, &[&format!("{path}:4: mcpServers.sse.url: has no `type`, which means SSE to Cline")]);

    let roo = file(
        "/project/p/.roo/mcp.json",
        r#"{"mcpServers": {"x": {"command": "./x", "disabledTools": ["a"]}}}"#,
    );
    assert_eq!(roo.client, Some("roo"));
    assert_eq!(program(server(&roo, "x")).0, "/project/p/./x");
}

#[test]
fn continue_writes_lists_in_yaml() {
    let file = file(
        "/home/me/.continue/config.yaml",
        "name: mine\nmcpServers:\n  - name: docs\n    type: streamable-http\n    url: https://d.example/mcp\n    \
         requestOptions:\n      headers:\n        Authorization: \"Bearer ${{ secrets.TOKEN }}\"\n    \
         connectionTimeout: 20000\n  - name: keyed\n    type: sse\n    url: https://k.example/mcp\n    \
         apiKey: ${{ secrets.MISSING }}\n  - command: nameless\n",
    );
    assert_eq!(file.client, Some("continue"));
    let docs = server(&file, "docs");
    assert_eq!(docs.key, "mcpServers[0]");
    assert_eq!(service(&docs.upstream.kind).1, [("Authorization", "Bearer t0ken")]);
    assert_eq!((docs.upstream.start_timeout.as_secs(), docs.upstream.timeout.as_secs()), (20, 20));
    let keyed = server(&file, "keyed");
    assert_eq!(service(&keyed.written).1, [("Authorization", "Bearer ${MISSING}")]);
    assert_eq!(keyed.upstream.needs, ["MISSING"]);
    let path = "/home/me/.continue/config.yaml";
    noted(&file, &[&format!("{path}:14: mcpServers[2]: has no `name`; the server is left out")]);
}

#[test]
fn windsurf_cursor_and_the_others_are_told_by_their_paths() {
    let text = r#"{"mcpServers": {"x": {"serverUrl": "https://w.example", "headers": {"A": "${env:SET}"}}}}"#;
    for (path, client) in [
        ("/home/me/.codeium/windsurf/mcp_config.json", Some("windsurf")),
        ("/home/me/.config/devin/config.json", Some("devin")),
        ("/home/me/.cursor/mcp.json", Some("cursor")),
        ("/home/me/.lmstudio/mcp.json", Some("lmstudio")),
        ("/home/me/.aws/amazonq/mcp.json", Some("amazonq")),
        ("/project/p/.mcp.json", Some("claude-code")),
        ("/project/p/any.json", None),
    ] {
        let file = file(path, text);
        assert_eq!(file.client, client, "{path}");
        assert_eq!(service(&server(&file, "x").upstream.kind).1, [("A", "value")], "{path}");
    }
    let kiro = file(
        "/home/me/.kiro/settings/mcp.json",
        r#"{"mcpServers": {"x": {"command": "a", "args": ["${SET}", "${env:SET}"], "timeout": 2000}}}"#,
    );
    assert_eq!(program(server(&kiro, "x")).1, ["value", "${env:SET}"]);
    noted(&kiro, &["/home/me/.kiro/settings/mcp.json:1: mcpServers.x.timeout: taken as milliseconds"]);
}
