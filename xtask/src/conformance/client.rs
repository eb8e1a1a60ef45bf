//! `cargo xtask conformance-client`: what the suite starts as "the client" of a scenario. It starts a gateway
//! in front of the scenario's server and makes, as a client of the gateway, the requests that the scenario is
//! about. It prints nothing unless something goes wrong.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::caller::{Caller, Era, arguments, responses};
use super::{gateway, login};

/// How long the requests of one scenario may take together.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a person logs in again in one scenario before giving up.
const LOGINS: usize = 3;
/// The document that the suite's scenario about such documents expects as the client's id.
const CLIENT_METADATA: &str = "https://conformance-test.local/client-metadata.json";
/// The scenarios in which Seawall must not get as far as a call.
const DECLINED: [&str; 7] = [
    "auth/scope-retry-limit",
    "auth/resource-mismatch",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
];

/// The arguments. The suite adds the server's address to the command line that it is given.
#[derive(Debug, PartialEq, Eq)]
struct Task {
    gateway: PathBuf,
    directory: PathBuf,
    url: String,
}

/// The command line that makes `program` the client. The suite hands it to a shell.
pub(super) fn command_line(program: &Path, gateway: &Path, directory: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
    format!(
        "{} conformance-client --gateway {} --directory {}",
        quoted(program),
        quoted(gateway),
        quoted(directory)
    )
}

/// Plays one scenario.
pub(super) fn run(arguments: &[String]) -> Result<(), String> {
    let task = parse(arguments)?;
    let scenario = variable("MCP_CONFORMANCE_SCENARIO")?;
    let revision = variable("MCP_CONFORMANCE_PROTOCOL_VERSION")?;
    let context = match env::var("MCP_CONFORMANCE_CONTEXT") {
        Ok(text) => {
            serde_json::from_str(&text).map_err(|error| format!("MCP_CONFORMANCE_CONTEXT: {error}"))?
        }
        Err(_) => Value::Null,
    };
    let directory = task.directory.join(scenario.replace('/', "-"));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let port = claimed_port(&task.directory.join("ports"))?;
    let (_gateway, address) =
        gateway::start(&task.gateway, &task.url, &directory, port, &oauth(&scenario, &context))?;

    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let era = era(&scenario, &revision);
        // Nobody waits any more when the time is over.
        tell.send(play(&scenario, era, address, &context)).ok();
    });
    match told.recv_timeout(LIMIT) {
        Ok(played) => played,
        Err(RecvTimeoutError::Timeout) => {
            Err(format!("the scenario was not over within {} s", LIMIT.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => Err("the scenario broke off".to_owned()),
    }
}

fn parse(arguments: &[String]) -> Result<Task, String> {
    let (mut gateway, mut directory, mut url) = (None, None, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--gateway" => gateway = rest.next().map(PathBuf::from),
            "--directory" => directory = rest.next().map(PathBuf::from),
            option if option.starts_with('-') => {
                return Err(format!("`conformance-client` does not know `{option}`"));
            }
            given => url = Some(given.to_owned()),
        }
    }
    match (gateway, directory, url) {
        (Some(gateway), Some(directory), Some(url)) => Ok(Task { gateway, directory, url }),
        _ => Err("`conformance-client` wants `--gateway PROGRAM --directory DIRECTORY URL`".to_owned()),
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}, which the suite sets for its clients: {error}"))
}

/// A free port that no other client of the same run has. They start all at once, and a port that was free a
/// moment ago may be free for two.
fn claimed_port(claims: &Path) -> Result<u16, String> {
    let named = |error: std::io::Error| format!("{}: {error}", claims.display());
    fs::create_dir_all(claims).map_err(named)?;
    loop {
        let port = gateway::free_port()?;
        match File::create_new(claims.join(port.to_string())) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(error)),
        }
    }
}

/// The era of the scenario's client: the revision's own. But where the scenario is about headers made of
/// arguments, or about what such headers may be made of, a client of that revision would do itself what
/// Seawall does for one of the older era, and Seawall's work would not show.
fn era(scenario: &str, revision: &str) -> Era {
    match scenario {
        "http-custom-headers" | "http-invalid-tool-headers" => Era::Legacy,
        _ if revision == "2026-07-28" => Era::Modern,
        _ => Era::Legacy,
    }
}

/// As which client Seawall logs in, where the scenario says it.
fn oauth<'c>(scenario: &str, context: &'c Value) -> Vec<(&'static str, &'c str)> {
    if scenario == "auth/basic-cimd" {
        return vec![("client_metadata", CLIENT_METADATA)];
    }
    let keys = ["client_id", "client_secret"].into_iter();
    keys.filter(|_| scenario == "auth/pre-registration")
        .filter_map(|key| Some((key, context[key].as_str()?)))
        .collect()
}

fn play(scenario: &str, era: Era, address: SocketAddr, context: &Value) -> Result<(), String> {
    if scenario.starts_with("auth/") {
        let played = play_with_logins(era, address);
        return match played {
            Ok(()) if DECLINED.contains(&scenario) => Err("nothing was declined".to_owned()),
            Err(_) if DECLINED.contains(&scenario) => Ok(()),
            played => played,
        };
    }
    let mut caller = Caller::open(address, era)?;
    let tools = caller.list("tools/list", "tools")?;
    match scenario {
        "http-standard-headers" => {
            call_all(&mut caller, &tools)?;
            read_all(&mut caller)
        }
        "http-custom-headers" => call_as_told(&mut caller, context),
        "json-schema-2020-12-preservation" => echo_schema(&mut caller, &tools),
        "json-schema-ref-no-deref" => {
            // With and without the property whose schema is elsewhere, so that the arguments are checked
            // against it. The server knows no `tools/call`: whatever it answers will do.
            for arguments in [json!({ "id": "ada" }), json!({ "id": "ada", "profile": {} })] {
                caller.request("tools/call", &json!({ "name": "lookup_user", "arguments": arguments }))?;
            }
            Ok(())
        }
        "sep-2322-client-request-state" => answer_questions(&mut caller),
        _ => call_all(&mut caller, &tools),
    }
}

/// Calls every tool, and logs in whenever it is told to.
fn play_with_logins(era: Era, address: SocketAddr) -> Result<(), String> {
    let play = || {
        let mut caller = Caller::open(address, era)?;
        let tools = caller.list("tools/list", "tools")?;
        call_all(&mut caller, &tools)
    };
    let mut played = play();
    for _ in 0..LOGINS {
        match &played {
            Err(why) if login::is_wanted(why) => login::log_in(address)?,
            Ok(()) | Err(_) => break,
        }
        played = play();
    }
    played
}

/// Calls every tool that is offered, with arguments that it takes.
fn call_all(caller: &mut Caller, tools: &[Value]) -> Result<(), String> {
    for tool in tools {
        caller.call(name_of(tool)?, &arguments(tool))?;
    }
    Ok(())
}

/// Reads every resource and gets every prompt.
fn read_all(caller: &mut Caller) -> Result<(), String> {
    for resource in caller.list("resources/list", "resources")? {
        caller.result("resources/read", &json!({ "uri": resource["uri"] }))?;
    }
    for prompt in caller.list("prompts/list", "prompts")? {
        caller.result("prompts/get", &json!({ "name": name_of(&prompt)? }))?;
    }
    Ok(())
}

/// Makes the calls in the scenario's context.
fn call_as_told(caller: &mut Caller, context: &Value) -> Result<(), String> {
    let calls = context["toolCalls"].as_array().ok_or("the scenario's context has no `toolCalls`")?;
    for call in calls {
        let mut arguments = call["arguments"].clone();
        if let Some(members) = arguments.as_object_mut() {
            // A `null` where the tool's schema wants another type would not get past Seawall. Whoever has no
            // value leaves the argument out, and for the header that must not be sent it is the same.
            members.retain(|_, value| !value.is_null());
        }
        caller.call(name_of(call)?, &arguments)?;
    }
    Ok(())
}

/// Sends back the schema of one tool, as it was listed, as an argument of another.
fn echo_schema(caller: &mut Caller, tools: &[Value]) -> Result<(), String> {
    let focal = tools.iter().find(|tool| tool["name"] == "json_schema_2020_12_tool");
    let schema = &focal.ok_or("the tool with the schema is not listed")?["inputSchema"];
    caller.call("json_schema_echo", &json!({ "schema": schema }))?;
    Ok(())
}

/// Calls tools that want more input, and answers them.
fn answer_questions(caller: &mut Caller) -> Result<(), String> {
    for tool in ["test_mrtr_echo_state", "test_mrtr_no_state"] {
        let asked = caller.call(tool, &json!({}))?;
        if asked["resultType"] != "input_required" {
            return Err(format!("{tool} asked nothing: {asked}"));
        }
        // In between, so that an answer at the wrong place would show.
        caller.call("test_mrtr_unrelated", &json!({}))?;
        let answers = responses(&asked["inputRequests"]);
        let mut params = json!({ "name": tool, "arguments": {}, "inputResponses": answers });
        if let Some(state) = asked.get("requestState") {
            params["requestState"] = state.clone();
        }
        let result = caller.result("tools/call", &params)?;
        if result["resultType"] != "complete" {
            return Err(format!("{tool} was answered and is not complete: {result}"));
        }
    }
    caller.call("test_mrtr_no_result_type", &json!({}))?;
    Ok(())
}

fn name_of(item: &Value) -> Result<&str, String> {
    item["name"].as_str().ok_or_else(|| format!("something without a name: {item}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_url_comes_last_and_everything_is_needed() {
        let task = parse(&words("--gateway /g --directory /d http://localhost:1/mcp")).unwrap();
        assert_eq!(task.url, "http://localhost:1/mcp");
        assert_eq!((task.gateway, task.directory), (PathBuf::from("/g"), PathBuf::from("/d")));
        assert!(parse(&words("--gateway /g http://localhost:1/mcp")).is_err());
        assert!(parse(&words("--gateway /g --directory /d")).is_err());
        assert!(parse(&words("--gateway /g --directory /d --other http://localhost:1/mcp")).is_err());
    }

    #[test]
    fn the_command_line_survives_a_shell() {
        let line = command_line(Path::new("/a b/x"), Path::new("/it's"), Path::new("/d"));
        assert_eq!(line, r"'/a b/x' conformance-client --gateway '/it'\''s' --directory '/d'");
    }

    #[test]
    fn seawall_is_told_which_client_it_is_where_the_scenario_is_about_that() {
        let context = json!({ "client_id": "a", "client_secret": "b" });
        let told = vec![("client_id", "a"), ("client_secret", "b")];
        assert_eq!(oauth("auth/pre-registration", &context), told);
        assert_eq!(oauth("auth/basic-cimd", &Value::Null)[0].0, "client_metadata");
        assert!(oauth("auth/metadata-default", &context).is_empty());
    }

    #[test]
    fn the_client_speaks_the_revision_unless_that_would_hide_what_seawall_does() {
        assert_eq!(era("tools_call", "2026-07-28"), Era::Modern);
        assert_eq!(era("tools_call", "2025-11-25"), Era::Legacy);
        assert_eq!(era("http-custom-headers", "2026-07-28"), Era::Legacy);
    }
}
