//! Agents that others wrote use Seawall's tools, with a stub in the place of their model: each is connected
//! by `seawall connect`, over HTTP and through the bridge, and is then run once.
#![expect(
    clippy::disallowed_methods,
    reason = "agents are programs that the test itself runs, with files that it writes and reads"
)]

use seawall_tests::{
    Client, Daemon, Era, PATIENCE, Process, Transport, Upstream, binary, caller, eventually, note,
    provisioned, quoted, within,
};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

/// How long one run of an agent may take. Alone, the slowest needs four seconds.
const RUN: Duration = Duration::from_secs(120);
/// What stands for the model's address in an agent's variables and files.
const MODEL: &str = "MODEL";
/// The token of the daemon's only caller.
const TOKEN: &str = "agents-token";
/// The tool that the stub calls, and what that says.
const TOOL: &str = "it__echo";
const SAID: &str = "hello";

/// A program that lets a model use tools.
struct Agent {
    /// The program, as it was provisioned.
    program: &'static str,
    /// What `seawall connect` calls it.
    client: &'static str,
    /// What its model finds before the names of Seawall's tools.
    prefix: &'static str,
    /// Its own file below the home as it was before, where it has to have one.
    file: Option<(&'static str, &'static str)>,
    /// Variables that send it to the model, and keep it from everything else.
    variables: &'static [(&'static str, &'static str)],
    /// Run once, without a terminal.
    arguments: &'static [&'static str],
}

/// As a user has it: it names Seawall's tools to the model and gives their schemas when asked.
const CLAUDE_CODE: Agent = Agent {
    program: "claude",
    client: "claude-code",
    prefix: "mcp__seawall__",
    file: None,
    variables: &[
        ("ANTHROPIC_BASE_URL", MODEL),
        ("ANTHROPIC_API_KEY", "stub"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
    ],
    arguments: &[
        "--print",
        "Use the tool.",
        "--model",
        "stub",
        "--output-format",
        "json",
        "--allowedTools",
        "mcp__seawall__it__echo",
    ],
};

/// It calls only read-only tools without being asked for approval, and `echo` is one.
const CODEX: Agent = Agent {
    program: "codex",
    client: "codex",
    prefix: "mcp__seawall/",
    file: Some((".codex/config.toml", include_str!("../interop/agents/codex.toml"))),
    variables: &[],
    arguments: &["exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", "Use the tool."],
};

#[cfg(target_arch = "x86_64")]
const OPENCODE: Agent = Agent {
    program: "opencode",
    client: "opencode",
    prefix: "seawall_",
    file: Some((".config/opencode/opencode.json", include_str!("../interop/agents/opencode.json"))),
    variables: &[
        ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
        ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
        ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
        // It would fetch a package for plug-ins, of which there are none.
        ("npm_config_offline", "true"),
    ],
    arguments: &["run", "--format", "json", "Use the tool."],
};

/// How an agent reaches the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By its URL, with a token.
    Http,
    /// By the command `seawall stdio`. A token is not passed on by every agent, so none is needed.
    Bridge,
}

/// The model that every agent speaks to. Dropped, it is ended.
struct Model {
    // Before the directory, so that the process ends while its files are there.
    _process: Process,
    directory: TempDir,
    url: String,
}

impl Model {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/stub-model.mjs");
        let record = directory.path().join("record");
        let arguments = [script.as_os_str(), OsStr::new("--record"), record.as_os_str()];
        let node = provisioned("npm/bin/node");
        let process = Process::run("the stub model", node, arguments, &[], directory.path());
        let mut url = None;
        eventually("the stub model listens", PATIENCE, async || {
            let output = process.output();
            let line = output.lines().next().filter(|_| output.ends_with('\n'));
            url = line.and_then(|line| line.strip_prefix("listening on ")).map(str::to_owned);
            url.is_some()
        })
        .await;
        Self { _process: process, directory, url: url.expect("the condition held") }
    }

    /// `text` with the model's address in it.
    fn placed(&self, text: &str) -> String {
        text.replace(MODEL, &self.url)
    }

    /// The requests that it got, in order; the stub's script says what each holds.
    fn requests(&self) -> Vec<Value> {
        // There is no file before the first request.
        let text = fs::read_to_string(self.directory.path().join("record")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("each entry is one whole line")).collect()
    }
}

/// A user's home.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("there is room for temporary files"));
        for directory in ["work", "temporary"] {
            fs::create_dir(home.path(directory)).expect("a temporary directory can be written");
        }
        home
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn put(&self, below: &str, text: &str) {
        let path = self.path(below);
        let parent = path.parent().expect("it lies in the home");
        fs::create_dir_all(parent).expect("a temporary directory can be written");
        fs::write(path, text).expect("a temporary directory can be written");
    }

    /// Runs a program as this user, to its end.
    async fn run(&self, program: &Path, arguments: &[&str], variables: &[(&str, String)]) -> Output {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.path("work"))
            // Nothing of the test run's surroundings: keys, proxies and the files of whoever runs it.
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.0.path())
            .env("TMPDIR", self.path("temporary"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let what = format!("the end of {}", program.display());
        let output = within(&what, RUN, command.output()).await;
        output.unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()))
    }
}

/// What a program printed and logged.
fn printed(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}\n{err}", output.status)
}

/// The texts in a list of a request.
fn texts<'a>(request: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    let list = request[key].as_array().unwrap_or_else(|| panic!("{key} is no list in {request}"));
    list.iter().filter_map(Value::as_str)
}

/// Connects an agent, runs it, and looks at what its model and the server behind Seawall got.
async fn uses_the_tools(agent: &Agent, way: Way) {
    let upstream = Upstream::start(Transport::Stdio, "it", &[], "sharing = \"everyone\"").await;
    let mut config = upstream.table().to_owned();
    let mut token = None;
    if way == Way::Http {
        config += &caller("agent", TOKEN, &["*"]);
        token = Some(TOKEN);
    }
    let mut daemon = Daemon::start(&config).await;
    if let Some(token) = token {
        daemon = daemon.as_caller(token);
    }
    let tools = every_tool(&daemon, token).await;

    let (model, home) = (Model::start().await, Home::new());
    if let Some((path, text)) = agent.file {
        home.put(path, &model.placed(text));
    }
    connect(agent, way, &home, &daemon).await;
    let variables = agent.variables.iter().map(|(name, value)| (*name, model.placed(value)));
    let token = token.map(|token| ("SEAWALL_TOKEN", token.to_owned()));
    let variables: Vec<_> = variables.chain(token).collect();
    let began = Instant::now();
    let program = provisioned(&format!("agents/bin/{}", agent.program));
    let output = home.run(Path::new(&program), agent.arguments, &variables).await;
    note(&format!("{}, {way:?}: it ran for {:?}", agent.client, began.elapsed()));

    let (printed, requests) = (printed(&output), model.requests());
    let seen = format!("{}, {way:?}: {printed}\nits model got {requests:#?}", agent.client);
    assert!(output.status.success(), "{seen}");
    let offers = |tool: &str| {
        let name = format!("{}{tool}", agent.prefix);
        requests.iter().any(|request| {
            texts(request, "offered").chain(texts(request, "named")).any(|offered| offered == name)
        })
    };
    let missing: Vec<&String> = tools.iter().filter(|tool| !offers(tool)).collect();
    assert!(missing.is_empty(), "the model was not offered {missing:?}; {seen}");

    let call = format!("call {}{TOOL}", agent.prefix);
    assert_eq!(requests.iter().filter(|request| request["answer"] == call).count(), 1, "{seen}");
    assert_eq!(upstream.record().calls("echo").len(), 1, "{seen}");
    let results: Vec<&str> = requests.iter().flat_map(|request| texts(request, "results")).collect();
    assert!(!results.is_empty() && results.iter().all(|result| result.contains(SAID)), "{seen}");
    assert!(printed.contains("The tool said: "), "{seen}");
    daemon.until_idle().await;
}

/// The names of all tools, once they are known.
async fn every_tool(daemon: &Daemon, token: Option<&str>) -> Vec<String> {
    let client = Client::open(Era::Legacy, &daemon.url("/mcp"), token).await;
    let mut names = Vec::new();
    eventually("the tools are known", PATIENCE, async || {
        names = client.list().await.names;
        names.iter().any(|name| name == TOOL)
    })
    .await;
    names
}

/// Lets Seawall write the agent's file.
async fn connect(agent: &Agent, way: Way, home: &Home, daemon: &Daemon) {
    let configuration = daemon.configuration();
    let configuration = configuration.to_str().expect("temporary paths are UTF-8");
    let arguments = match way {
        Way::Http => vec!["connect", agent.client, "--yes", "--http", "--config", configuration],
        Way::Bridge => {
            // The bridge gets no flags, so it finds the running daemon by the user's configuration.
            let state = daemon.directory().join("state");
            let state = quoted(state.to_str().expect("temporary paths are UTF-8"));
            let text = format!("listen = \"127.0.0.1:0\"\nstate = {state}\n");
            home.put(".config/seawall/seawall.toml", &text);
            vec!["connect", agent.client, "--yes"]
        }
    };
    let output = home.run(&binary("seawall"), &arguments, &[]).await;
    assert!(output.status.success(), "{arguments:?}: {}", printed(&output));
}

#[tokio::test]
async fn claude_code_over_http() {
    Box::pin(uses_the_tools(&CLAUDE_CODE, Way::Http)).await;
}

#[tokio::test]
async fn claude_code_through_the_bridge() {
    Box::pin(uses_the_tools(&CLAUDE_CODE, Way::Bridge)).await;
}

#[tokio::test]
async fn codex_over_http() {
    Box::pin(uses_the_tools(&CODEX, Way::Http)).await;
}

#[tokio::test]
async fn codex_through_the_bridge() {
    Box::pin(uses_the_tools(&CODEX, Way::Bridge)).await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn opencode_over_http() {
    Box::pin(uses_the_tools(&OPENCODE, Way::Http)).await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn opencode_through_the_bridge() {
    Box::pin(uses_the_tools(&OPENCODE, Way::Bridge)).await;
}
