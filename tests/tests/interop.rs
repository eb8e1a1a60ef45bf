//! The real thing: servers and clients that others wrote, with Seawall between them.
#![expect(clippy::disallowed_methods, reason = "the clients and git are programs that the test itself runs")]

use rustix::process::{Pid, Signal, kill_process};
use seawall_tests::{
    Client, Daemon, Era, PATIENCE, Process, binary, eventually, free_address, note, provisioned, quoted,
    within,
};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

/// How long all six servers may take until their tools are known: they are slow, and start at once.
const START: Duration = Duration::from_secs(90);
/// How long one client may take for all it does.
const CLIENT: Duration = Duration::from_secs(90);

/// How soon a call must end once its server is gone.
const PROMISED: Duration = Duration::from_millis(100);
/// What a loaded machine may add to that: it runs the tests, the daemon and a dozen servers at once.
const ALLOWANCE: Duration = Duration::from_millis(400);

/// The server that the daemon does not start itself.
const REMOTE: &str = "remote";

/// One server, and a call that shows it at work.
struct Server {
    name: &'static str,
    /// How many tools it has for a client without capabilities.
    tools: usize,
    tool: &'static str,
    arguments: String,
    /// What the text of the result contains.
    fragment: &'static str,
}

impl Server {
    /// The tool's name on `/mcp`.
    fn public(&self) -> String {
        format!("{}__{}", self.name, self.tool)
    }

    fn assert_answered(&self, answer: &str, whose: &str) {
        assert!(answer.contains(self.fragment), "{whose}: {} said {answer:?}", self.name);
    }
}

fn node() -> String {
    provisioned("npm/bin/node")
}

/// The script of a reference server.
fn reference(name: &str) -> String {
    provisioned(&format!("npm/node_modules/@modelcontextprotocol/server-{name}/dist/index.js"))
}

fn python(program: &str) -> String {
    provisioned(&format!("python/bin/{program}"))
}

/// All six servers behind one daemon.
struct Scene {
    daemon: Daemon,
    /// The process of [`REMOTE`].
    remote: Process,
    remote_at: SocketAddr,
    servers: [Server; 6],
    directory: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let below = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).expect("a temporary directory can be written");
            path.into_os_string().into_string().expect("temporary paths are UTF-8")
        };
        let (repository, files) = (below("repository"), below("files"));
        let memory = directory.path().join("memory.json");
        let memory = memory.to_str().expect("temporary paths are UTF-8");
        make_repository(&repository).await;
        below("remote");
        let remote_at = free_address();
        let remote = start_remote(remote_at, directory.path()).await;

        let node = node();
        let config = [
            stdio("everything", &node, &[&reference("everything")], ""),
            table(REMOTE, &format!("url = \"http://{remote_at}/mcp\"")),
            stdio("files", &node, &[&reference("filesystem"), &files], ""),
            stdio(
                "memory",
                &node,
                &[&reference("memory")],
                &format!("env = {{ MEMORY_FILE_PATH = {} }}", quoted(memory)),
            ),
            stdio("git", &python("mcp-server-git"), &["--repository", &repository], ""),
            stdio("time", &python("mcp-server-time"), &["--local-timezone", "UTC"], ""),
        ];
        let daemon = Daemon::start(&config.concat()).await;
        let scene = Self { daemon, remote, remote_at, servers: servers(&repository), directory };
        scene.until_all_are_known().await;
        scene
    }

    async fn until_all_are_known(&self) {
        let mut tools = Vec::new();
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            let status = self.daemon.status().await;
            let upstreams = status["upstreams"].as_array().expect("status lists the upstreams");
            tools = upstreams
                .iter()
                .map(|upstream| (upstream["name"].clone(), upstream["tools"].clone()))
                .collect();
            if tools.len() == self.servers.len() && tools.iter().all(|(_, tools)| *tools != 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not every server's tools were known within {START:?}: {tools:?}");
    }

    /// What status says of a server's instances.
    async fn instances(&self, server: &str) -> Vec<Value> {
        let status = self.daemon.status().await;
        let upstreams = status["upstreams"].as_array().expect("status lists the upstreams");
        let upstream = upstreams.iter().find(|upstream| upstream["name"] == server);
        upstream.and_then(|upstream| upstream["instances"].as_array()).cloned().unwrap_or_default()
    }

    /// The processes that answer for a server.
    async fn processes(&self, server: &str) -> Vec<Pid> {
        if server == REMOTE {
            return vec![pid(u64::from(self.remote.pid()))];
        }
        let instances = self.instances(server).await;
        instances.iter().filter_map(|instance| instance["pid"].as_u64()).map(pid).collect()
    }

    /// Starts the killed remote server anew where it was before. A dying process still takes connections, so
    /// it has to be gone first.
    async fn restart_remote(&mut self) {
        self.remote.ended().await;
        self.remote = start_remote(self.remote_at, self.directory.path()).await;
    }

    fn server(&self, name: &str) -> &Server {
        self.servers.iter().find(|server| server.name == name).expect("it is one of the six")
    }

    /// Calls each server, so that none is measured before it has an instance for this client.
    async fn all_answer(&self, client: &Client) {
        for server in &self.servers {
            let answer = client.call(&server.public(), &server.arguments).await;
            server.assert_answered(answer.said(), "before");
        }
    }

    /// Stops a server, calls it, and kills it: its call ends at once with a fault, another server's is not
    /// touched.
    async fn hang_and_die(&self, client: &Client, server: &Server) {
        let name = server.name;
        let processes = self.processes(name).await;
        assert!(!processes.is_empty(), "{name} has no process");
        for process in &processes {
            kill_process(*process, Signal::STOP).expect("the process runs");
        }
        let call = client.start_call(&server.public(), &server.arguments);
        eventually(&format!("a call of {name} is pending"), PATIENCE, async || {
            self.instances(name).await.iter().any(|instance| instance["in_flight"] != 0)
        })
        .await;

        let other = self.servers.iter().find(|other| other.name != name).expect("there are six");
        let answer = client.call(&other.public(), &other.arguments).await;
        other.assert_answered(answer.said(), &format!("while {name} hung"));
        assert!(!call.is_over(), "{name} answered although it was stopped");

        let killed = Instant::now();
        for process in &processes {
            kill_process(*process, Signal::KILL).expect("a stopped process is still there");
        }
        let answer = call.answer().await;
        let took = killed.elapsed();
        // A call that only reads is made again, at another instance.
        if answer.succeeded() {
            note(&format!("{name}: its call was answered {took:?} after it was killed"));
            server.assert_answered(answer.said(), "at another instance");
            return;
        }
        let code = answer.code();
        note(&format!("{name}: its call ended {took:?} after it was killed, with {code}"));
        assert!(took <= PROMISED + ALLOWANCE, "{name}: the call ended {took:?} after the kill");
        let fault = answer.fault();
        assert_eq!(fault["upstream"], name, "{fault}");
        assert!(["OUTCOME_UNKNOWN", "UPSTREAM_UNAVAILABLE"].contains(&code), "{answer:#?}");
        assert_eq!(fault["may_have_run"], true, "{fault}");
    }

    async fn client(&self, era: Era) -> Client {
        Client::open(era, &self.daemon.url("/mcp"), None).await
    }
}

/// The calls. Their facts are these servers' own, not Seawall's.
fn servers(repository: &str) -> [Server; 6] {
    let server = |name, tools, tool, arguments: &str, fragment| Server {
        name,
        tools,
        tool,
        arguments: arguments.to_owned(),
        fragment,
    };
    let in_repository = format!(r#"{{"repo_path":{}}}"#, quoted(repository));
    [
        server("everything", 13, "echo", r#"{"message":"hi"}"#, "Echo: hi"),
        server(REMOTE, 13, "echo", r#"{"message":"hi"}"#, "Echo: hi"),
        server("files", 14, "list_allowed_directories", "{}", "Allowed directories:"),
        server("memory", 9, "read_graph", "{}", "\"entities\": []"),
        server("git", 12, "git_status", &in_repository, "Repository status:"),
        server("time", 2, "get_current_time", r#"{"timezone":"UTC"}"#, "\"timezone\": \"UTC\""),
    ]
}

/// One instance serves everyone, so that status shows the one that a call is at.
fn table(name: &str, keys: &str) -> String {
    format!(
        "[servers.{name}]\nsharing = \"everyone\"\nstart_timeout = \"60s\"\nlist_timeout = \"60s\"\n{keys}\n"
    )
}

fn stdio(name: &str, command: &str, arguments: &[&str], keys: &str) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    table(name, &format!("command = {}\nargs = [{}]\n{keys}", quoted(command), arguments.join(", ")))
}

fn pid(number: u64) -> Pid {
    let number = i32::try_from(number).ok().and_then(Pid::from_raw);
    number.expect("status shows the ids of processes")
}

/// The everything server over HTTP; its output goes below `directory`.
async fn start_remote(address: SocketAddr, directory: &Path) -> Process {
    let arguments = [reference("everything"), "streamableHttp".to_owned()];
    let port = address.port().to_string();
    let directory = directory.join("remote");
    let process = Process::run("everything over HTTP", node(), arguments, &[("PORT", &port)], &directory);
    eventually("the remote server listens", START, async || TcpStream::connect(address).await.is_ok()).await;
    process
}

async fn make_repository(path: &str) {
    let identity = ["-c", "user.name=Seawall", "-c", "user.email=seawall@localhost"];
    for arguments in [&["init", "--quiet"][..], &["commit", "--quiet", "--allow-empty", "--message", "first"]]
    {
        let mut git = Command::new("git");
        git.args(["-C", path]).args(identity).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null");
        assert_success("git", &run(git, PATIENCE).await);
    }
}

async fn run(mut command: Command, limit: Duration) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("the end of {:?}", command.as_std());
    let output = within(&what, limit, command.output()).await;
    output.unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.as_std()))
}

fn assert_success(whose: &str, output: &Output) {
    let (printed, logged) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{whose}: {}\n{printed}\n{logged}", output.status);
}

/// A client program on one of the official SDKs.
struct Sdk {
    name: &'static str,
    command: Command,
}

impl Sdk {
    fn new<A: AsRef<OsStr>>(
        name: &'static str,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self { name, command }
    }

    fn all() -> Vec<Self> {
        let script = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name);
            path.into_os_string().into_string().expect("paths of builds are UTF-8")
        };
        let typescript = |name, sdk: &str, era: &str| {
            let arguments = [&script("client.mjs"), "--sdk", sdk, "--era", era];
            let mut client = Self::new(name, node(), arguments);
            client.command.env("NODE_PATH", provisioned("npm/node_modules"));
            client
        };
        let python =
            |name, era: &str| Self::new(name, python("python"), [&script("client.py"), "--era", era]);
        let rmcp = |name, era: &str| Self::new(name, binary("rmcp-client"), ["--era", era]);
        vec![
            typescript("the TypeScript SDK v1, legacy", "v1", "legacy"),
            typescript("the TypeScript SDK v2, legacy", "v2", "legacy"),
            typescript("the TypeScript SDK v2, modern", "v2", "modern"),
            python("the Python SDK, legacy", "legacy"),
            python("the Python SDK, modern", "modern"),
            rmcp("rmcp, legacy", "legacy"),
            rmcp("rmcp, modern", "modern"),
        ]
    }

    /// Lists the tools and makes the calls over one connection; gives the lines printed.
    async fn lines(mut self, url: &str, servers: &[Server]) -> Vec<Value> {
        self.command.args(["--url", url, "--list"]);
        for server in servers {
            self.command.args(["--call", &server.public(), "--arguments", &server.arguments]);
        }
        let output = run(self.command, CLIENT).await;
        assert_success(self.name, &output);
        let printed = String::from_utf8_lossy(&output.stdout);
        let parsed = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        parsed.unwrap_or_else(|error| panic!("{}: {error} in {printed}", self.name))
    }
}

#[tokio::test]
async fn every_client_sees_and_calls_the_tools_of_every_server() {
    let scene = Scene::start().await;
    let mut expected = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        let listing = scene.client(era).await.list().await;
        for server in &scene.servers {
            let prefix = format!("{}__", server.name);
            let own = listing.names.iter().filter(|name| name.starts_with(&prefix)).count();
            assert_eq!(own, server.tools, "{era:?}, {}: {:#?}", server.name, listing.names);
            assert!(listing.has(&server.public()), "{era:?}: {:#?}", listing.names);
        }
        let all: usize = scene.servers.iter().map(|server| server.tools).sum();
        assert_eq!(listing.names.len(), all, "{era:?}: {:#?}", listing.names);
        expected = listing.names;
    }

    let url = scene.daemon.url("/mcp");
    for sdk in Sdk::all() {
        let (name, began) = (sdk.name, Instant::now());
        let lines = sdk.lines(&url, &scene.servers).await;
        assert_eq!(lines.len(), 1 + scene.servers.len(), "{name}: {lines:#?}");
        let tools = lines[0]["tools"].as_array().unwrap_or_else(|| panic!("{name}: {lines:#?}"));
        assert!(tools.iter().eq(expected.iter()), "{name} lists {tools:#?}");
        for (server, line) in scene.servers.iter().zip(&lines[1..]) {
            let text = line["result"]["content"][0]["text"].as_str();
            let text = text.unwrap_or_else(|| panic!("{name}: {} answered {line}", server.name));
            assert_ne!(line["result"]["isError"], true, "{name}: {} answered {line}", server.name);
            server.assert_answered(text, name);
        }
        note(&format!("{name}: a list and six calls took {:?}", began.elapsed()));
    }
    scene.daemon.until_idle().await;
}

#[tokio::test]
async fn a_process_that_hangs_and_dies_ends_its_calls_and_no_others() {
    let scene = Scene::start().await;
    let client = scene.client(Era::Modern).await;
    scene.all_answer(&client).await;
    for server in scene.servers.iter().filter(|server| server.name != REMOTE) {
        scene.hang_and_die(&client, server).await;
        let answer = client.call(&server.public(), &server.arguments).await;
        server.assert_answered(answer.said(), "after it was killed");
    }
    scene.daemon.until_idle().await;
}

#[tokio::test]
async fn a_service_that_hangs_and_dies_ends_its_calls_and_no_others() {
    let mut scene = Scene::start().await;
    let client = scene.client(Era::Modern).await;
    scene.all_answer(&client).await;
    scene.hang_and_die(&client, scene.server(REMOTE)).await;
    scene.restart_remote().await;
    let server = scene.server(REMOTE);
    let answer = client.call(&server.public(), &server.arguments).await;
    server.assert_answered(answer.said(), "after it was killed and started anew");
    scene.daemon.until_idle().await;
}
