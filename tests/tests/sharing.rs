//! Who meets whom in one process, for each way to share a server, with `server-memory` as the witness.
//!
//! All that `server-memory` remembers is in a file, so that two of its processes could share it. Here each process
//! has a file of its own, named by the process: what a graph holds was written by those who met in that process.
#![expect(clippy::disallowed_methods, reason = "the test reads what the servers wrote")]

use seawall_tests::{Client, Daemon, Era, caller, eventually, note, provisioned, quoted};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The two callers and their tokens.
const CALLERS: [(&str, &str); 2] = [("a", "token-a"), ("b", "token-b")];
/// The conversations of each caller in each era.
const CONVERSATIONS: [&str; 2] = ["one", "two"];
/// How soon something must show that has no reason to wait, with the start of a slow server.
const SOON: Duration = Duration::from_secs(30);

/// Starts `server-memory` in the process that the shell was, with a file that this process alone knows. What comes
/// first among the arguments is the directory of the files, then the command.
const ONE_FILE_EACH: &str = r#"export MEMORY_FILE_PATH="$0/$$.jsonl"; exec "$@""#;

/// Whoever calls: one conversation of one caller in one era, or what belongs to no conversation.
struct Member {
    caller: &'static str,
    conversation: Option<&'static str>,
    era: Era,
    client: Client,
}

impl Member {
    /// What it writes into the graph.
    fn name(&self) -> String {
        let conversation = self.conversation.unwrap_or("none");
        format!("{:?} caller {}, conversation {conversation}", self.era, self.caller)
    }

    /// All of them: for each caller two conversations in each era, and modern requests that name none.
    async fn all(url: &str) -> Vec<Self> {
        let mut members = Vec::new();
        for (caller, token) in CALLERS {
            for name in CONVERSATIONS {
                let legacy = Client::legacy(url, Some(token)).await;
                members.push(Self { caller, conversation: Some(name), era: Era::Legacy, client: legacy });
                // Both callers use the same names: a name is only its own caller's.
                let modern = Client::modern(url, Some(token)).in_conversation(name);
                members.push(Self { caller, conversation: Some(name), era: Era::Modern, client: modern });
            }
            let nameless = Client::modern(url, Some(token));
            members.push(Self { caller, conversation: None, era: Era::Modern, client: nameless });
        }
        members
    }

    fn is(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// A directory for the files of the processes of one server.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for temporary files"))
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("temporary paths are UTF-8")
    }

    /// The processes that were written to, and what each holds.
    fn graphs(&self) -> Vec<(u64, BTreeSet<String>)> {
        let entries = fs::read_dir(self.0.path()).expect("the directory is there");
        let mut graphs = Vec::new();
        for entry in entries {
            let path = entry.expect("the directory can be read").path();
            graphs.push((process_of(&path), names_in(&path)));
        }
        graphs
    }
}

/// The process whose file this is.
fn process_of(path: &Path) -> u64 {
    let name = path.file_stem().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.parse().ok());
    number.unwrap_or_else(|| panic!("{} is named by no process", path.display()))
}

/// The entities in a file, which has one as JSON in each line.
fn names_in(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).expect("the file can be read");
    let entities = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    entities.map(|entity| entity["name"].as_str().expect("it has a name").to_owned()).collect()
}

/// The table of a `server-memory` with a file for each of its processes. `more` are arguments that it does not
/// heed, `keys` further lines.
fn memory(name: &str, files: &Files, more: &[&str], keys: &str) -> String {
    let node = provisioned("npm/bin/node");
    let script = provisioned("npm/node_modules/@modelcontextprotocol/server-memory/dist/index.js");
    let own: [&str; 5] = ["-c", ONE_FILE_EACH, files.path(), &node, &script];
    let arguments: Vec<String> = own.iter().chain(more).map(|argument| quoted(argument)).collect();
    let arguments = arguments.join(", ");
    format!("[servers.{name}]\ncommand = \"/bin/sh\"\nargs = [{arguments}]\n{keys}\n")
}

/// Writes an entity.
async fn write(client: &Client, server: &str, name: &str) {
    let entity = json!({"name": name, "entityType": "member", "observations": []});
    let answer = client.call(&format!("{server}__create_entities"), &json!({"entities": [entity]})).await;
    assert!(answer.said().contains(name), "{name} wrote, and {answer:#?}");
}

/// What the graph holds that this client sees; nothing where the call fails.
async fn seen(client: &Client, server: &str) -> Option<BTreeSet<String>> {
    let answer = client.call(&format!("{server}__read_graph"), "{}").await;
    let graph: Value = serde_json::from_str(answer.value["result"]["content"][0]["text"].as_str()?).ok()?;
    let entities = graph["entities"].as_array()?;
    entities.iter().map(|entity| Some(entity["name"].as_str()?.to_owned())).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// Everybody has written.
struct Scene {
    members: Vec<Member>,
    // Before the files, so that the servers end while these are there.
    daemon: Daemon,
    files: Files,
}

impl Scene {
    async fn of(sharing: &str) -> Self {
        let files = Files::new();
        let callers: String = CALLERS.iter().map(|(name, token)| caller(name, token, &["*"])).collect();
        let server = memory("memory", &files, &[], &format!("sharing = \"{sharing}\""));
        let daemon = Daemon::start(&(callers + &server)).await.as_caller(CALLERS[0].1);
        let members = Member::all(&daemon.url("/mcp")).await;
        for member in &members {
            write(&member.client, "memory", &member.name()).await;
        }
        Self { members, daemon, files }
    }

    /// The processes that status shows.
    async fn processes(&self) -> Vec<u64> {
        let status = self.daemon.status().await;
        let instances = status["upstreams"][0]["instances"].as_array().expect("status lists them");
        instances.iter().filter_map(|instance| instance["pid"].as_u64()).collect()
    }

    /// Asserts that exactly those met of whom `meet` says so, by what each sees and by what each process holds,
    /// and that these processes go on.
    async fn assert_who_met(&self, meet: impl Fn(&Member, &Member) -> bool) {
        let mut groups = BTreeSet::new();
        for member in &self.members {
            let met = self.members.iter().filter(|other| meet(member, other));
            let expected: BTreeSet<String> = met.map(Member::name).collect();
            let seen = seen(&member.client, "memory").await;
            assert_eq!(seen.as_ref(), Some(&expected), "what {} sees", member.name());
            groups.insert(expected);
        }
        let (processes, held): (Vec<u64>, Vec<BTreeSet<String>>) = self.files.graphs().into_iter().unzip();
        assert_eq!(held.len(), groups.len(), "as many processes as groups: {held:#?}");
        assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), groups, "who met in one process");
        let running = self.processes().await;
        assert!(processes.iter().all(|process| running.contains(process)), "{processes:?}, {running:?}");
        note(&format!("{} members met in {} processes", self.members.len(), processes.len()));
    }
}

#[tokio::test]
async fn session_keeps_each_conversation_to_itself() {
    let scene = Scene::of("session").await;
    // Requests that name no conversation are one group for each caller, and so is each of them here.
    scene.assert_who_met(Member::is).await;

    // A conversation is its name, not the client that uses it, and the name is its own caller's alone.
    let url = scene.daemon.url("/mcp");
    let again = Client::modern(&url, Some("token-a")).in_conversation("one");
    let expected = set(["Modern caller a, conversation one"]);
    assert_eq!(seen(&again, "memory").await, Some(expected));
    let nameless = Client::modern(&url, Some("token-b"));
    assert_eq!(seen(&nameless, "memory").await, Some(set(["Modern caller b, conversation none"])));
    let third = Client::modern(&url, Some("token-b")).in_conversation("three");
    assert_eq!(seen(&third, "memory").await, Some(BTreeSet::new()));

    // What a session knew ends with it; whoever comes next starts with nothing.
    let ended = scene.members.iter().find(|member| member.era == Era::Legacy).expect("there are four");
    let process = scene.files.graphs().into_iter().find(|(_, names)| names.contains(&ended.name()));
    let (process, _) = process.expect("it has written");
    ended.client.delete().await;
    eventually("the session's process ends", SOON, async || !scene.processes().await.contains(&process))
        .await;
    let next = Client::legacy(&url, Some("token-a")).await;
    assert_eq!(seen(&next, "memory").await, Some(BTreeSet::new()));
}

#[tokio::test]
async fn caller_shares_among_the_conversations_of_one_caller() {
    let scene = Scene::of("caller").await;
    scene.assert_who_met(|one, other| one.caller == other.caller).await;
}

#[tokio::test]
async fn everyone_shares_among_all() {
    let scene = Scene::of("everyone").await;
    scene.assert_who_met(|_, _| true).await;
}

#[tokio::test]
async fn call_shares_with_nobody_not_even_the_next_call() {
    let scene = Scene::of("call").await;
    for member in &scene.members {
        let seen = seen(&member.client, "memory").await;
        assert_eq!(seen, Some(BTreeSet::new()), "what {} sees", member.name());
    }
    let held: Vec<BTreeSet<String>> = scene.files.graphs().into_iter().map(|(_, names)| names).collect();
    assert_eq!(held.len(), scene.members.len(), "a process for each call: {held:#?}");
    for member in &scene.members {
        assert!(held.contains(&BTreeSet::from([member.name()])), "{} met somebody: {held:#?}", member.name());
    }
    eventually("the processes end with their calls", SOON, async || {
        let running = scene.processes().await;
        scene.files.graphs().iter().all(|(process, _)| !running.contains(process))
    })
    .await;
}

#[tokio::test]
async fn servers_of_one_command_share_nothing_under_different_names() {
    let (files, elsewhere) = (Files::new(), Files::new());
    let everyone = |more: &str| format!("sharing = \"everyone\"\n{more}");
    let in_another_directory = everyone(&format!("cwd = {}", quoted(elsewhere.path())));
    let tables = [
        memory("plain", &files, &[], &everyone("")),
        memory("twin", &files, &[], &everyone("")),
        memory("variable", &files, &[], &everyone("env = { OTHER = \"yes\" }")),
        memory("directory", &files, &[], &in_another_directory),
        memory("argument", &files, &["--other"], &everyone("")),
    ];
    let names = ["plain", "twin", "variable", "directory", "argument"];
    let daemon = Daemon::start(&tables.concat()).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    for name in names {
        write(&client, name, name).await;
    }
    for name in names {
        assert_eq!(seen(&client, name).await, Some(set([name])), "{name}");
    }
    let held: Vec<BTreeSet<String>> = files.graphs().into_iter().map(|(_, names)| names).collect();
    assert_eq!(held.len(), names.len(), "{held:#?}");
    assert!(held.iter().all(|names| names.len() == 1), "{held:#?}");
}

#[tokio::test]
async fn a_name_alone_is_not_what_a_process_is_shared_by() {
    let (files, elsewhere) = (Files::new(), Files::new());
    let everyone = "sharing = \"everyone\"";
    let twin = memory("twin", &files, &[], everyone);
    let daemon = Daemon::start(&(memory("changing", &files, &[], everyone) + &twin)).await;
    let client = Client::modern(&daemon.url("/mcp"), None);
    write(&client, "twin", "kept").await;

    let variable = format!("{everyone}\nenv = {{ OTHER = \"yes\" }}");
    let directory = format!("{everyone}\ncwd = {}", quoted(elsewhere.path()));
    let changes = [
        ("another variable", memory("changing", &files, &[], &variable)),
        ("another argument", memory("changing", &files, &["--other"], everyone)),
        ("another directory", memory("changing", &files, &[], &directory)),
        ("what it had at first", memory("changing", &files, &[], everyone)),
    ];
    for (what, table) in changes {
        write(&client, "changing", what).await;
        assert_eq!(seen(&client, "changing").await, Some(set([what])));
        daemon.configure(&(table + &twin));
        let what = format!("with {what} it has a process of its own");
        eventually(&what, SOON, async || seen(&client, "changing").await == Some(BTreeSet::new())).await;
    }
    // Nothing of it changed, so its process is the one that it was.
    assert_eq!(seen(&client, "twin").await, Some(set(["kept"])));
}
