//! `seawall connect`: one entry goes into each client's own file, and comes out again without a trace.
#![expect(clippy::disallowed_methods, reason = "tests start programs, and read and write files themselves")]

use hyper::body::Bytes;
use rustix::process::geteuid;
use seawall_tests::{Process, binary, eventually, free_address, send};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

const CURSOR: &str = include_str!("../samples/clients/cursor.json");
const CURSOR_FILE: &str = ".cursor/mcp.json";
/// The last server of the sample.
const CURSOR_LAST: &str = "\"docs\":   { \"url\": \"https://docs.example/mcp\" } // fast";

/// A home directory of its own.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for temporary files"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it lies in the home")).expect("the home can be used");
        fs::write(&path, text).expect("the home can be used");
        path
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(binary("seawall"));
        command.arg("connect").args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.0.path()).envs(variables.iter().copied());
        command.output().await.expect("the binary starts")
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.run_with(arguments, &[]).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    }

    /// What a run says that must be refused.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run_with(arguments, &[]).await;
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("it is text")
    }

    /// Runs a script of `sh` in the home; `$0` is the binary.
    async fn script(&self, script: &str) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(binary("seawall")).current_dir(self.0.path()).stdin(Stdio::null());
        command.env("HOME", self.0.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
        command.env_remove("SEAWALL_CONFIG").env_remove("SEAWALL_TOKEN");
        command.output().await.expect("there is a shell")
    }

    /// How many records of back-ups there are.
    fn records(&self) -> usize {
        let Ok(listing) = fs::read_dir(self.path(".local/state/seawall/backups")) else { return 0 };
        listing
            .filter(|entry| {
                entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "json"))
            })
            .count()
    }
}

/// The path that entries name.
fn program() -> String {
    fs::canonicalize(binary("seawall")).expect("it is built").to_str().expect("its path is text").to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the home can be used").permissions().mode() & 0o7777
}

/// Connects and undoes. Between, the file must be the sample with `old` in it replaced by `new`, where `@` is our
/// program; after, the sample again, and after a second undo connected again.
async fn cycle(client: &str, path: &str, sample: &str, old: &str, new: &str) {
    assert_eq!(sample.matches(old).count(), 1, "the sample of {client} has no single place for the entry");
    let home = Home::new();
    let file = home.put(path, sample);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("the home can be used");
    let connected = sample.replace(old, &new.replace('@', &program()));

    home.run(&[client]).await;
    assert_eq!(home.text(path), connected, "{client}");
    assert_eq!(mode(&file), 0o640, "{client}");
    assert!(home.run(&[client]).await.contains("already connected"), "{client}");
    home.run(&["--undo", client]).await;
    assert_eq!(home.text(path), sample, "{client}");
    assert_eq!(mode(&file), 0o640, "{client}");
    home.run(&["--undo", client]).await;
    assert_eq!(home.text(path), connected, "{client}");
}

#[tokio::test]
async fn cursor() {
    let new = r#""docs":   { "url": "https://docs.example/mcp" }, // fast
        "seawall": {
            "type": "stdio",
            "command": "@",
            "args": ["stdio"]
        }"#;
    cycle("cursor", CURSOR_FILE, CURSOR, CURSOR_LAST, new).await;
}

#[tokio::test]
async fn claude_desktop() {
    let sample = include_str!("../samples/clients/claude-desktop.json");
    let new = r#"["/home"]}, "seawall": { "command": "@", "args": ["stdio"] }}"#;
    let path = ".config/Claude/claude_desktop_config.json";
    cycle("claude-desktop", path, sample, r#"["/home"]}}"#, new).await;
}

#[tokio::test]
async fn claude_code() {
    let sample = include_str!("../samples/clients/claude-code.json");
    let old = r#""oauthAccount": { "accountUuid": "0000" }"#;
    let new = r#""oauthAccount": { "accountUuid": "0000" },
  "mcpServers": {
    "seawall": {
      "type": "stdio",
      "command": "@",
      "args": ["stdio"]
    }
  }"#;
    cycle("claude-code", ".claude.json", sample, old, new).await;
}

#[tokio::test]
async fn vscode() {
    let sample = include_str!("../samples/clients/vscode.json");
    let old = "\t\t\t\"command\": \"files\", // ours\n\t\t},\n";
    let entry = "\t\t\"seawall\": {\n\t\t\t\"type\": \"stdio\",\n\t\t\t\"command\": \"@\",\n\t\t\t\"args\": [\"stdio\"]\n\t\t},\n";
    cycle("vscode", ".config/Code/User/mcp.json", sample, old, &format!("{old}{entry}")).await;
}

#[tokio::test]
async fn codex() {
    let sample = include_str!("../samples/clients/codex.toml");
    let old = "unknown_key = 1\n";
    let entry = concat!(
        "\n[mcp_servers.seawall]\ncommand = \"@\"\nargs = [\"stdio\"]\n",
        "env_vars = [\"SEAWALL_TOKEN\", \"SEAWALL_CONFIG\", \"XDG_CONFIG_HOME\", \"XDG_STATE_HOME\"]\n",
        "tool_timeout_sec = 3600\n"
    );
    cycle("codex", ".codex/config.toml", sample, old, &format!("{old}{entry}")).await;
}

#[tokio::test]
async fn gemini() {
    let sample = include_str!("../samples/clients/gemini.json");
    let new = "\"mcpServers\": {\n    \"seawall\": {\n      \"command\": \"@\",\n      \"args\": [\"stdio\"],\n      \"env\": {\n        \"SEAWALL_TOKEN\": \"$SEAWALL_TOKEN\"\n      },\n      \"timeout\": 3600000\n    }\n  }";
    cycle("gemini", ".gemini/settings.json", sample, "\"mcpServers\": {\n  }", new).await;
}

#[tokio::test]
async fn opencode() {
    let sample = include_str!("../samples/clients/opencode.json");
    let new = r#""model": "x/y",
  "mcp": {
    "seawall": {
      "type": "local",
      "command": ["@", "stdio"],
      "timeout": 3600000
    }
  }"#;
    cycle("opencode", ".config/opencode/opencode.json", sample, "\"model\": \"x/y\"", new).await;
}

#[tokio::test]
async fn windsurf_with_the_line_ends_of_windows() {
    let sample = include_str!("../samples/clients/windsurf.json");
    let entry = "    },\r\n    \"seawall\": {\r\n      \"command\": \"@\",\r\n      \"args\": [\"stdio\"]\r\n    }\r\n";
    cycle("windsurf", ".codeium/windsurf/mcp_config.json", sample, "    }\r\n", entry).await;
}

#[tokio::test]
async fn zed() {
    let sample = include_str!("../samples/clients/zed.json");
    let old = "\"enabled\": true,\n    },\n";
    let entry = "    \"seawall\": {\n      \"command\": \"@\",\n      \"args\": [\"stdio\"],\n      \"timeout\": 3600\n    },\n";
    cycle("zed", ".config/zed/settings.json", sample, old, &format!("{old}{entry}")).await;
}

#[tokio::test]
async fn goose() {
    let sample = include_str!("../samples/clients/goose.yaml");
    let old = "      # not a remark\n";
    let entry = "  seawall:\n    enabled: true\n    type: stdio\n    name: seawall\n    description: Seawall\n    cmd: @\n    args: [stdio]\n    timeout: 3600\n";
    cycle("goose", ".config/goose/config.yaml", sample, old, &format!("{old}{entry}")).await;
}

#[tokio::test]
async fn continue_() {
    let sample = include_str!("../samples/clients/continue.yaml");
    let old = "- uses: someone/server\n";
    let entry = "- name: seawall\n  type: stdio\n  command: @\n  args: [stdio]\n";
    cycle("continue", ".continue/config.yaml", sample, old, &format!("{old}{entry}")).await;
}

#[tokio::test]
async fn cline() {
    let sample = include_str!("../samples/clients/cline.json");
    let old = "\"command\": \"weather\" }\n    }\n";
    let new = "\"command\": \"weather\" }\n    },\n    \"seawall\": {\n      \"type\": \"stdio\",\n      \"command\": \"@\",\n      \"args\": [\"stdio\"],\n      \"timeout\": 3600\n    }\n";
    cycle("cline", ".cline/data/settings/cline_mcp_settings.json", sample, old, new).await;
}

#[tokio::test]
async fn the_lock_of_cline_is_waited_for_and_given_back() {
    let home = Home::new();
    let path = ".cline/data/settings/cline_mcp_settings.json";
    home.put(path, "{}");
    let lock = home.path(&format!("{path}.lock"));
    fs::create_dir(&lock).unwrap();
    let begun = Instant::now();
    let error = home.refused(&["cline"]).await;
    assert!(error.contains("held by another program"), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(5), "it did not wait: {:?}", begun.elapsed());
    assert_eq!((home.text(path).as_str(), home.records()), ("{}", 0));
    fs::remove_dir(&lock).unwrap();
    home.run(&["cline"]).await;
    assert!(!lock.exists());
}

#[tokio::test]
async fn a_missing_file_is_created_and_taken_away_again() {
    for (client, path) in [
        ("cursor", CURSOR_FILE),
        ("codex", ".codex/config.toml"),
        ("goose", ".config/goose/config.yaml"),
        ("continue", ".continue/config.yaml"),
        ("kiro", ".kiro/settings/mcp.json"),
        ("junie", ".junie/mcp/mcp.json"),
        ("amazon-q", ".aws/amazonq/mcp.json"),
        ("roo", ".config/Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json"),
    ] {
        let home = Home::new();
        home.run(&[client]).await;
        assert!(home.text(path).contains(&program()), "{client}");
        assert_eq!(mode(&home.path(path)), 0o600, "{client}");
        home.run(&["--undo"]).await;
        assert!(!home.path(path).exists(), "{client}");
    }
}

#[tokio::test]
async fn what_changed_since_stays_and_only_our_entry_goes() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    home.run(&["cursor"]).await;
    let edited = home.text(CURSOR_FILE).replace("[1, 2.50, 1e3]", "\"edited\"");
    home.put(CURSOR_FILE, &edited);
    let text = home.run(&["--undo", "cursor"]).await;
    assert!(text.contains("changed since") && text.contains("- ") && text.contains("\"seawall\""), "{text}");
    let expected = CURSOR.replace("[1, 2.50, 1e3]", "\"edited\"");
    assert_eq!(home.text(CURSOR_FILE), expected);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_left_alone() {
    for (client, path, text) in [
        ("cursor", CURSOR_FILE, "{ \"mcpServers\": { "),
        ("claude-code", ".mcp.json", "{} // a remark makes it malformed"),
        ("codex", ".codex/config.toml", "[mcp_servers\n"),
        ("goose", ".config/goose/config.yaml", "extensions: {a: [}\n"),
        ("opencode", ".config/opencode/opencode.json", "{\"mcp\": {\"servers\": {}}}"),
    ] {
        let home = Home::new();
        home.put(path, text);
        let mut arguments = vec![client];
        arguments.extend(path.starts_with(".mcp").then_some("--project"));
        let error = home.refused(&arguments).await;
        assert!(error.contains("left as it is"), "{client}: {error}");
        assert_eq!((home.text(path), home.records()), (text.to_owned(), 0), "{client}");
    }
}

#[tokio::test]
async fn a_symbolic_link_stays_one() {
    let home = Home::new();
    let target = home.put("dotfiles/cursor.json", CURSOR);
    fs::create_dir(home.path(".cursor")).unwrap();
    symlink(&target, home.path(CURSOR_FILE)).unwrap();
    home.run(&["cursor"]).await;
    assert_eq!(fs::read_link(home.path(CURSOR_FILE)).unwrap(), target);
    assert!(fs::read_to_string(&target).unwrap().contains("\"seawall\""));
    assert_eq!(fs::metadata(&target).unwrap().uid(), geteuid().as_raw());
    home.run(&["--undo", "cursor"]).await;
    assert_eq!(fs::read_to_string(&target).unwrap(), CURSOR);
    assert!(fs::read_link(home.path(CURSOR_FILE)).is_ok());
}

#[tokio::test]
async fn a_preview_writes_nothing() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    let text = home.run(&["cursor", "zed", "--dry-run"]).await;
    assert!(text.contains("+         \"seawall\": {") && text.contains("// fast"), "{text}");
    assert_eq!((home.text(CURSOR_FILE).as_str(), home.records()), (CURSOR, 0));
    assert!(!home.path(".config").exists() && !home.path(".local").exists());
    let text = home.run(&["cursor", "--dry-run", "--json"]).await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["clients"][0]["status"], "preview", "{text}");
}

#[tokio::test]
async fn twenty_backups_of_a_file_are_kept() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    for round in 0..21 {
        home.run(&["cursor", "--group", &format!("g{round}")]).await;
    }
    assert_eq!(home.records(), 20);
    let directory = home.path(".local/state/seawall/backups");
    assert_eq!(mode(&directory), 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    home.run(&["--undo"]).await;
    assert!(home.text(CURSOR_FILE).contains("\"g19\""));
}

#[tokio::test]
async fn every_client_with_a_file_is_connected() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    home.put(".gemini/settings.json", "{}");
    let text = home.run(&["--all"]).await;
    assert!(text.contains("Cursor: done") && text.contains("Gemini CLI: done"), "{text}");
    assert!(!home.path(".codex").exists() && !home.path(".claude.json").exists());
    home.run(&["--undo"]).await;
    assert_eq!(
        (home.text(CURSOR_FILE).as_str(), home.text(".gemini/settings.json").as_str()),
        (CURSOR, "{}")
    );
}

#[tokio::test]
async fn the_other_servers_move_and_come_back() {
    let home = Home::new();
    let sample = include_str!("../samples/clients/goose.yaml");
    let (goose, settings) = (".config/goose/config.yaml", ".config/seawall/seawall.toml");
    home.put(goose, sample);
    home.put(settings, "# mine\nlisten = \"127.0.0.1:9\" # here\n\n[limits]\ntotal = 5\n");
    let before = home.text(settings);
    home.run(&["goose", "--only"]).await;
    let text = home.text(goose);
    // What is built into the client stays.
    assert!(text.contains("  developer:\n") && text.contains("  seawall:\n"), "{text}");
    assert!(!text.contains("cmd: notes") && text.contains("# what the notes come from"), "{text}");
    let moved = home.path(".config/seawall/from-goose.json");
    let value: Value = serde_json::from_str(&fs::read_to_string(&moved).unwrap()).unwrap();
    assert_eq!(value["extensions"]["notes"]["args"][1], "/home");
    assert_eq!(mode(&moved), 0o600);
    let import = format!("here\nimport = [\"{}\"]\n\n[limits]", moved.to_str().unwrap());
    assert!(home.text(settings).contains(&import), "{}", home.text(settings));

    // Somebody edits the client's file: the server comes back by its key, in its own words.
    home.put(goose, &text.replace("smart_approve", "auto"));
    home.run(&["--undo", "goose"]).await;
    let back = home.text(goose);
    assert!(back.contains("  notes:\n    enabled: false\n") && !back.contains("seawall"), "{back}");
    assert!(back.contains("      # not a remark\n") && back.contains("GOOSE_MODE: auto"), "{back}");
    assert_eq!(home.text(settings), before);
    assert!(!moved.exists());
}

#[tokio::test]
async fn a_url_comes_with_a_reference_or_not_at_all() {
    const SECRET: (&str, &str) = ("SEAWALL_TOKEN", "seawall_secret");
    let home = Home::new();
    home.put(".config/seawall/seawall.toml", "listen = \"127.0.0.1:8111\"\n");
    let arguments =
        ["claude-code", "codex", "vscode", "opencode", "continue", "goose", "--http", "--group", "g"];
    let output = home.run_with(&arguments, &[SECRET]).await;
    assert!(output.status.success(), "{output:?}");
    let code: Value = serde_json::from_str(&home.text(".claude.json")).unwrap();
    let entry = &code["mcpServers"]["seawall"];
    assert_eq!(entry["url"], "http://127.0.0.1:8111/mcp/group/g");
    assert_eq!((&entry["type"], entry.get("timeout")), (&Value::from("http"), None));
    assert_eq!(entry["headers"]["Authorization"], "Bearer ${SEAWALL_TOKEN}");
    let codex = home.text(".codex/config.toml");
    assert!(codex.contains("bearer_token_env_var = \"SEAWALL_TOKEN\"\n"), "{codex}");
    let vscode = home.text(".config/Code/User/mcp.json");
    assert!(vscode.contains("\"Bearer ${env:SEAWALL_TOKEN}\""), "{vscode}");
    let opencode = home.text(".config/opencode/opencode.json");
    assert!(opencode.contains("\"oauth\": false") && opencode.contains("{env:SEAWALL_TOKEN}"), "{opencode}");
    let yaml = home.text(".continue/config.yaml");
    assert!(yaml.contains("Authorization: \"Bearer ${{ secrets.SEAWALL_TOKEN }}\"\n"), "{yaml}");
    let goose = home.text(".config/goose/config.yaml");
    assert!(
        goose.contains("type: streamable_http") && goose.contains("env_keys: [SEAWALL_TOKEN]"),
        "{goose}"
    );

    // One that knows no reference gets the token itself: into a private file of the user, and nowhere else.
    let output = home.run_with(&["zed", "--http"], &[SECRET]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("seawall_secret"), "{output:?}");
    assert!(home.text(".config/zed/settings.json").contains("\"Bearer seawall_secret\""));
    let output = home.run_with(&["zed", "--http", "--project"], &[SECRET]).await;
    assert!(!output.status.success() && !home.path(".zed").exists(), "{output:?}");
    let open = home.put(".codeium/windsurf/mcp_config.json", "{}");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let output = home.run_with(&["windsurf", "--http"], &[SECRET]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"), "{output:?}");
    for client in ["claude-desktop", "junie", "jetbrains-ai"] {
        assert!(home.refused(&[client, "--http"]).await.contains("cannot use a URL"), "{client}");
    }
}

#[tokio::test]
async fn a_project_has_files_of_its_own() {
    let home = Home::new();
    let text = home.run(&["claude-code", "continue", "--project"]).await;
    assert!(text.contains("Approve the server"), "{text}");
    for path in [".mcp.json", ".continue/mcpServers/seawall.json"] {
        let value: Value = serde_json::from_str(&home.text(path)).unwrap();
        assert_eq!(value["mcpServers"]["seawall"]["command"], program(), "{path}");
    }
    assert!(home.refused(&["goose", "--project"]).await.contains("no file for a project"));
    home.run(&["--undo"]).await;
    assert!(!home.path(".mcp.json").exists());
}

#[tokio::test]
async fn an_entry_can_be_printed() {
    let home = Home::new();
    let text = home.run(&["jetbrains-ai", "lm-studio", "codex", "--print"]).await;
    assert!(text.contains("lmstudio://add_mcp?name=seawall&config=ey"), "{text}");
    assert!(text.contains("[mcp_servers.seawall]") && text.contains("Settings | Tools"), "{text}");
    assert!(!home.path(".codex").exists() && !home.path(".lmstudio").exists());
    assert!(home.refused(&["nobody"]).await.contains("is no client"));
}

#[tokio::test]
async fn a_disk_that_takes_no_more_is_told_and_nothing_changes() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    // The signal would end the program, where a full disk is an error.
    let output = home.script("trap '' XFSZ; ulimit -f 0; exec \"$0\" connect cursor").await;
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(home.text(CURSOR_FILE), CURSOR);
    assert_eq!(fs::read_dir(home.path(".local/state/seawall/backups")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_state_directory_is_one_that_the_daemon_takes() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    let output = home.script("umask 022; exec \"$0\" connect cursor").await;
    assert!(output.status.success(), "{output:?}");
    // The daemon refuses one that is open to others and not empty.
    assert_eq!(mode(&home.path(".local/state/seawall")), 0o700);
    assert_eq!(mode(&home.path(".local/state/seawall/backups")), 0o700);
    let address = free_address();
    home.put(".config/seawall/seawall.toml", &format!("listen = \"{address}\"\n"));
    let daemon = Process::run("seawall", binary("seawall"), ["serve"], &[], home.0.path());
    eventually("the daemon listens", Duration::from_secs(30), async || {
        TcpStream::connect(address).await.is_ok()
    })
    .await;
    let health = send(&format!("http://{address}/healthz"), "GET", &[], Bytes::new()).await;
    assert_eq!(health.status, 200, "{}", daemon.log());
}

#[tokio::test]
async fn secrets_are_not_shown() {
    const FILE: &str = r#"{
  "mcpServers": {
    "a": {
      "command": "a", "args": ["--api-key", "argument-secret"],
      "env": { "A_TOKEN": "quote\"d-secret", "B": "${env:B}" }
    }
  }
}
"#;
    let home = Home::new();
    home.put(CURSOR_FILE, FILE);
    for arguments in [&["cursor", "--only", "--dry-run"][..], &["cursor", "--only", "--json"], &["--undo"]] {
        let text = home.run(arguments).await;
        assert!(text.contains("${env:B}") && text.contains('…') && !text.contains("secret"), "{text}");
    }
    assert_eq!(home.text(CURSOR_FILE), FILE);
}

#[tokio::test]
async fn what_moved_stays_where_its_name_was_taken_since() {
    let home = Home::new();
    home.put(CURSOR_FILE, r#"{"mcpServers": {"a": {"command": "first"}, "b": {"url": "${input:b}"}}}"#);
    let text = home.run(&["cursor", "--only"]).await;
    assert!(text.contains("`b` stays") && home.text(CURSOR_FILE).contains("${input:b}"), "{text}");
    let moved = ".config/seawall/moved/.cursor/user/servers/mcp.json";
    assert!(home.text(moved).contains("first"));
    home.put(CURSOR_FILE, r#"{"mcpServers": {"a": {"command": "second"}}}"#);
    let text = home.run(&["--undo"]).await;
    assert!(text.contains("`a` was changed since"), "{text}");
    assert!(home.text(moved).contains("first") && home.text(CURSOR_FILE).contains("second"));
    assert!(home.text(".config/seawall/seawall.toml").contains(moved));
}

#[tokio::test]
async fn a_bare_undo_redoes_nothing_and_passes_over_what_it_cannot_read() {
    let home = Home::new();
    home.put(CURSOR_FILE, CURSOR);
    home.run(&["cursor"]).await;
    home.put(".local/state/seawall/backups/99999999999999999999-0.json", "{");
    // Closed by its owner since.
    fs::set_permissions(home.path(CURSOR_FILE), fs::Permissions::from_mode(0o600)).unwrap();
    home.run(&["--undo"]).await;
    assert_eq!((home.text(CURSOR_FILE).as_str(), mode(&home.path(CURSOR_FILE))), (CURSOR, 0o600));
    let output = home.run_with(&["--undo"], &[]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("passed over"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to undo"), "{output:?}");
    assert_eq!(home.text(CURSOR_FILE), CURSOR);
}

#[tokio::test]
async fn a_configuration_that_is_named_is_used() {
    let home = Home::new();
    let config = home.put("mine.toml", "listen = \"127.0.0.1:8111\"\n");
    home.put(CURSOR_FILE, r#"{"mcpServers": {"a": {"command": "a"}}}"#);
    home.run(&["cursor", "--only", "--config", "mine.toml"]).await;
    let value: Value = serde_json::from_str(&home.text(CURSOR_FILE)).unwrap();
    let named = fs::canonicalize(value["mcpServers"]["seawall"]["args"][2].as_str().unwrap()).unwrap();
    assert_eq!(value["mcpServers"]["seawall"]["args"][1], "--config");
    assert_eq!(named, fs::canonicalize(config).unwrap());
    assert!(home.text("mine.toml").contains("import = ["));
    assert!(!home.path(".config/seawall/seawall.toml").exists());
    home.put("bad.toml", "listen = 5\n");
    assert!(home.refused(&["cursor", "--config", "bad.toml"]).await.contains("fault"));
}
