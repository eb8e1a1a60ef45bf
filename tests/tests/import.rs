//! How servers come into the configuration: from other clients' files, and from the command line.
#![expect(clippy::disallowed_methods, reason = "tests start programs, and read and write files themselves")]

use seawall_tests::{PATIENCE, binary, misbehave_command, within};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The files of three clients, and where they lie under the home directory.
const CLIENTS: [(&str, &str); 3] = [
    (".claude.json", include_str!("../samples/import/claude.json")),
    (".cursor/mcp.json", include_str!("../samples/import/cursor.json")),
    (".codex/config.toml", include_str!("../samples/import/codex.toml")),
];

/// A home directory with a directory to work in.
struct Home(TempDir);

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: i32,
    output: String,
    errors: String,
}

impl Done {
    fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    #[track_caller]
    fn well(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

impl Home {
    fn empty() -> Self {
        let home = Self(tempfile::tempdir().expect("there is room for temporary files"));
        fs::create_dir(home.path("work")).expect("a temporary directory can be used");
        home
    }

    fn with_clients() -> Self {
        let home = Self::empty();
        for (path, text) in CLIENTS {
            home.write(path, text);
        }
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it is under the home"))
            .expect("a temporary directory can be used");
        fs::write(path, text).expect("a temporary directory can be used");
    }

    /// The configuration file of the user.
    fn own(&self) -> PathBuf {
        self.path(".config/seawall/seawall.toml")
    }

    fn own_text(&self) -> String {
        fs::read_to_string(self.own()).expect("a temporary directory can be used")
    }

    async fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, "").await
    }

    async fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new(binary("seawall"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.path("work"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // Most commands end without reading it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let what = format!("the end of seawall {arguments:?}");
        let output =
            within(&what, PATIENCE, child.wait_with_output()).await.expect("a child can be waited for");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            output: text(&output.stdout),
            errors: text(&output.stderr),
        }
    }
}

fn verdicts(files: &Value) -> Vec<(&str, &str)> {
    let files = files.as_array().expect("a list").iter();
    files
        .map(|file| (file["client"].as_str().expect("a string"), file["verdict"].as_str().expect("a string")))
        .collect()
}

#[tokio::test]
async fn every_clients_file_is_found_and_read_where_it_is() {
    let home = Home::with_clients();
    let done = home.run(&["import", "--json"]).await.well().json();
    let expected = [("Claude Code", "imported"), ("Cursor", "imported"), ("Codex CLI", "imported")];
    assert_eq!(verdicts(&done["files"]), expected, "{done:#}");
    let servers: Vec<_> = done["files"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|file| file["servers"].as_array().expect("a list"))
        .map(|server| {
            (server["name"].as_str().expect("a string"), server["verdict"].as_str().expect("a string"))
        })
        .collect();
    let expected = [
        ("time", "used"),
        ("docs", "used"),
        ("clock", "the same as time"),
        ("time-cursor", "used"),
        ("github", "used"),
        ("search", "needs SEARCH_TOKEN"),
    ];
    assert_eq!(servers, expected, "{done:#}");
    assert_eq!(done["variables"], json!([{"name": "SEARCH_TOKEN", "value_of": null}]));

    let checked = home.run(&["check", "--json"]).await.well().json();
    let names: Vec<_> =
        checked["servers"].as_array().expect("a list").iter().map(|server| &server["name"]).collect();
    assert_eq!(names, ["time", "docs", "time-cursor", "github", "search"], "{checked:#}");
    for (path, text) in CLIENTS {
        assert_eq!(
            fs::read_to_string(home.path(path)).expect("a temporary directory can be used"),
            text,
            "{path} was touched"
        );
    }

    let before = home.own_text();
    let again = home.run(&["import", "--json"]).await.well().json();
    assert!(verdicts(&again["files"]).iter().all(|(_, verdict)| *verdict == "imported already"), "{again:#}");
    assert_eq!(home.own_text(), before);
    let said = home.run(&["import"]).await.well().output;
    assert!(said.contains("imported already") && said.contains("stays as it is"), "{said}");
}

#[tokio::test]
async fn a_broken_file_is_told_and_the_others_are_imported() {
    let home = Home::with_clients();
    home.write(".cursor/mcp.json", "{\"mcpServers\": {");
    let done = home.run(&["import", "--json"]).await.well().json();
    let files = verdicts(&done["files"]);
    assert_eq!(files[0], ("Claude Code", "imported"));
    assert!(files[1].0 == "Cursor" && files[1].1.contains("not valid JSON"), "{files:?}");
    assert!(!home.own_text().contains(".cursor"), "{}", home.own_text());
    assert_eq!(home.run(&["import", "cursor"]).await.code, 1, "what was asked for did not come");
    assert_eq!(home.run(&["import", "nobody"]).await.code, 1);
}

#[tokio::test]
async fn a_copy_leaves_the_secrets_behind() {
    let home = Home::with_clients();
    let dry = home.run(&["import", "--copy", "--dry-run", "--json"]).await.well().json();
    assert_eq!(dry["written"], false);
    assert!(!home.own().exists(), "a dry run wrote");

    let done = home.run(&["import", "claude-code", "cursor", "--copy"]).await.well();
    let text = home.own_text();
    assert!(!text.contains("s3cret") && !done.output.contains("s3cret"), "{text}\n{done:#?}");
    for line in [
        "[servers.github]",
        "env = { GITHUB_TOKEN = \"${GITHUB_TOKEN}\", REGION = \"eu\" }",
        "headers = { Authorization = \"Bearer ${DOCS_TOKEN}\" }",
        "[servers.time-cursor]",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    assert!(!text.contains("clock") && !text.contains("import"), "{text}");
    for variable in ["GITHUB_TOKEN", "DOCS_TOKEN"] {
        assert!(done.output.contains(&format!("{variable}  the value of mcpServers.")), "{}", done.output);
    }
    let checked = home.run(&["check", "--json"]).await.well().json();
    assert_eq!(checked["servers"].as_array().expect("a list").len(), 4, "{checked:#}");

    let again = home.run(&["import", "claude-code", "cursor", "--copy", "--json"]).await.well().json();
    let expected = [("Claude Code", "copied already"), ("Cursor", "copied already")];
    assert_eq!(
        (verdicts(&again["files"]), &again["written"]),
        (expected.to_vec(), &json!(false)),
        "{again:#}"
    );
    assert_eq!(home.own_text(), text);
}

#[tokio::test]
async fn a_server_is_tried_before_it_is_added() {
    let home = Home::empty();
    let own = "# mine\n[limits]\ntotal = 8 # few\n";
    home.write(".config/seawall/seawall.toml", own);
    let (command, arguments) = misbehave_command(&[]);
    let mut add = vec!["add", "well", "-e", "A=b", "--", command.as_str()];
    add.extend(arguments.iter().map(String::as_str));
    let done = home.run(&add).await.well();
    assert!(done.output.contains("  echo") && done.output.contains("Added well"), "{done:#?}");
    let text = home.own_text();
    assert!(text.starts_with(own), "{text}");
    assert!(text.contains("[servers.well]") && text.contains("env = { A = \"b\" }"), "{text}");

    let refused = home.run(&add).await;
    assert!(refused.code == 1 && refused.errors.contains("--replace"), "{refused:#?}");
    let mut replace = vec!["add", "--replace", "--json", "well", "--", command.as_str()];
    replace.extend(arguments.iter().map(String::as_str));
    let done = home.run(&replace).await.well().json();
    let tools = done["servers"][0]["tools"].as_array().expect("a list");
    assert!(tools.contains(&json!("echo")), "{done:#}");
    let text = home.own_text();
    assert!(text.starts_with(own) && !text.contains("env ="), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_start_is_not_added() {
    let home = Home::empty();
    let missing = home.path("missing");
    let missing = missing.to_str().expect("temporary paths are UTF-8");
    let done = home.run(&["add", "broken", "--", missing]).await;
    assert!(done.code == 1 && done.errors.contains("broken does not work"), "{done:#?}");
    assert!(!home.own().exists());
    let needs = home.run(&["add", "needy", "--", "x", "${NOT_SET}"]).await;
    assert!(needs.code == 1 && needs.errors.contains("NOT_SET"), "{needs:#?}");
    home.run(&["add", "broken", "--no-check", "--", missing]).await.well();
    assert!(home.own_text().contains("[servers.broken]"));
    let bad = home.run(&["add", "a b", "--no-check", "--", "x"]).await;
    assert!(bad.code == 2 && bad.errors.contains("a_b"), "{bad:#?}");
    assert!(!home.own_text().contains("a b"));
}

#[tokio::test]
async fn the_flags_of_other_clients_are_understood() {
    let home = Home::empty();
    let claude = ["-t", "http", "-s", "user", "docs", "https://d.example/mcp", "-H", "X-A: a=b"];
    let codex = ["codex", "--url", "https://c.example/mcp", "--bearer-token-env-var", "T"];
    let opencode = ["open", "--url", "https://o.example/mcp", "--header", "X-B=a:b"];
    for flags in [&claude[..], &codex, &opencode] {
        let all: Vec<_> = ["add", "--no-check"].iter().chain(flags).copied().collect();
        let done = home.run(&all).await.well();
        assert_eq!(done.errors.contains("--scope is not used"), flags.contains(&"-s"), "{done:#?}");
    }
    let json = r#"{"mcpServers": {"local": {"command": "x", "args": ["${V}"], "disabled": true}}}"#;
    home.run_with(&["add", "--no-check", "-"], json).await.well();
    home.run_with(&["add", "--no-check", "named", "-"], "url = \"https://t.example/mcp\"").await.well();
    let nameless = home.run_with(&["add", "--no-check", "-"], r#"{"command": "x"}"#).await;
    assert!(nameless.code == 2 && nameless.errors.contains("no name"), "{nameless:#?}");
    let expected = r#"[servers.docs]
url = "https://d.example/mcp"
headers = { X-A = "a=b" }

[servers.codex]
url = "https://c.example/mcp"
headers = { Authorization = "Bearer ${T}" }

[servers.open]
url = "https://o.example/mcp"
headers = { X-B = "a:b" }

[servers.local]
command = "x"
args = ["${V}"]
enabled = false

[servers.named]
url = "https://t.example/mcp"
"#;
    assert_eq!(home.own_text(), expected);
}

#[tokio::test]
async fn a_configuration_to_start_from_is_written_once() {
    let home = Home::with_clients();
    let done = home.run(&["init"]).await.well();
    assert!(done.output.contains("seawall import") && done.output.contains("seawall serve"), "{done:#?}");
    assert_eq!(mode(&home.own()), 0o600);
    home.run(&["check"]).await.well();
    let refused = home.run(&["init"]).await;
    assert!(refused.code == 1 && refused.errors.contains("--force"), "{refused:#?}");

    home.run(&["import", "claude-code"]).await.well();
    let text = home.own_text();
    let line = format!("import = [{:?}]", home.path(".claude.json"));
    assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    assert!(text.contains("#grace = ") && text.contains("#[limits]"), "{text}");
    home.run(&["init", "--force"]).await.well();
    assert!(home.own_text().contains("#import = []"));
    let elsewhere = home.path("work/other.toml");
    home.run(&["init", "--config", elsewhere.to_str().expect("temporary paths are UTF-8")]).await.well();
    assert!(elsewhere.exists());
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("a temporary directory can be used").permissions().mode() & 0o777
}
