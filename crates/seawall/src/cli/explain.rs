//! `seawall explain`: where a tool of the running daemon comes from, and what bounds a call of it.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use serde_json::Value;
use std::{fmt::Write, time::Duration};

/// Show where a tool comes from, what bounds a call of it, and who may make one.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The tool, as `seawall tools` shows it; case, dashes and dots do not count.
    tool: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    let known = client.get(&format!("/api/v1/explain/{}", encoded(&arguments.tool))).await?;
    if arguments.json {
        say!("{known}");
        return Ok(if known["error"].is_null() { Exit::Done } else { Exit::Failed });
    }
    if let Some(error) = known["error"].as_str() {
        return Err(Failure::new(Exit::Failed, error));
    }
    say!("{}", text(&known["name"]));
    for (what, value) in lines(&known) {
        say!("  {what:10} {value}");
    }
    Ok(Exit::Done)
}

/// What is shown of a tool, a line each.
fn lines(known: &Value) -> Vec<(&'static str, String)> {
    let (server, own) = (text(&known["server"]), text(&known["tool"]));
    let mut lines =
        vec![("from", format!("server {server} ({}), where it is {own:?}", text(&known["kind"])))];
    if let Some(why) = known["renamed"].as_str() {
        lines.push(("name", format!("changed: {why}")));
    }
    let timeout = Duration::from_millis(known["timeout"]["ms"].as_u64().unwrap_or_default());
    let set = match text(&known["timeout"]["from"]) {
        "tool" => format!("set in [servers.{server}.tools.{own:?}]"),
        "server" => format!("set for server {server}"),
        _ => String::from("the default"),
    };
    lines.push(("timeout", format!("{timeout:?}, {set}")));
    lines.push(("effects", effects(&known["effects"], server, own)));
    lines.push(("sharing", sharing(text(&known["sharing"])).to_owned()));
    lines.push(("in flight", in_flight(known)));
    if let Some(limit) = known["result_limit"].as_u64() {
        lines.push(("result", format!("{limit} bytes at most; the rest of a larger one is behind a link")));
    }
    let callers: Vec<&str> = known["callers"].as_array().into_iter().flatten().map(text).collect();
    lines.push(("callers", if callers.is_empty() { String::from("none") } else { callers.join(", ") }));
    lines.push((
        "schema",
        match text(&known["schema"]["state"]) {
            "compiles" => String::from("compiles: arguments are checked before anything is sent"),
            "absent" => String::from("none: arguments pass unchecked"),
            _ => format!("does not compile: arguments pass unchecked ({})", text(&known["schema"]["fault"])),
        },
    ));
    if let Some(pinned) = known["pinned"].as_str() {
        lines.push(("pinned", pinned_as(pinned, server)));
    }
    let listed = known["listed"].as_str();
    lines.push((
        "listed",
        listed.unwrap_or("not since the daemon started; kept from an earlier run").to_owned(),
    ));
    if let Some(failure) = known["failure"].as_object() {
        lines.push(("failure", format!("at {}: {}", text(&failure["stage"]), text(&failure["message"]))));
    }
    lines
}

fn effects(effects: &Value, server: &str, own: &str) -> String {
    let what = match text(&effects["value"]) {
        "none" => "only reads: it may be called again when its outcome is not known",
        "idempotent" => "the same call twice changes no more than once",
        _ => "may change anything: it is never called twice by itself",
    };
    let who = match text(&effects["from"]) {
        "configuration" => format!("set in [servers.{server}.tools.{own:?}]"),
        "annotations" => String::from("by its own annotations"),
        "distrust" => format!("its annotations are not trusted, by `trust_hints` of server {server}"),
        _ => String::from("it has no annotations that say otherwise"),
    };
    format!("{what}; {who}")
}

fn pinned_as(state: &str, server: &str) -> String {
    match state {
        "changed" => format!("changed since it was accepted, and not called: `seawall tools diff {server}`"),
        _ => String::from("as it was accepted"),
    }
}

fn sharing(sharing: &str) -> &str {
    match sharing {
        "session" => "one instance per conversation",
        "caller" => "one instance per caller",
        "everyone" => "one instance for everyone",
        "call" => "one instance per call",
        other => other,
    }
}

fn in_flight(known: &Value) -> String {
    let limits = &known["limits"];
    let mut line = match known["limit"].as_u64() {
        Some(limit) => format!("{limit} at its server"),
        None => String::from("no limit of its server's own"),
    };
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "; {} in all, {} per caller, {} per conversation, of each of which one server holds at most {:.0} %; {} may wait",
        limits["total"],
        limits["caller"],
        limits["conversation"],
        limits["share"].as_f64().unwrap_or_default() * 100.0,
        limits["queue"]
    );
    line
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A name as one part of a path.
pub(super) fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path_whatever_it_holds() {
        assert_eq!(encoded("time__get-now"), "time__get-now");
        assert_eq!(encoded("a.b/c d?ü"), "a%2Eb%2Fc%20d%3F%C3%BC");
    }
}
