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
    let timeout = time(&known["timeout"]["ms"]);
    let set = match text(&known["timeout"]["from"]) {
        "tool" => format!("set in [servers.{server}.tools.{own:?}]"),
        "server" => format!("set for server {server}"),
        "daemon" => String::from("the daemon's own limit"),
        "attempt" => String::from("1.5 times that of an attempt"),
        _ => String::from("the default"),
    };
    lines.push(("timeout", format!("{timeout:?}, {set}")));
    lines.push(("chain", chain(&known["chain"])));
    lines.push(("effects", effects(&known["effects"], server, own)));
    lines.push(("sharing", sharing(text(&known["sharing"])).to_owned()));
    lines.push(("in flight", in_flight(known)));
    lines.extend(terms(&known["terms"]));
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

/// The time-outs from the inside out, each with where it comes from.
fn chain(links: &Value) -> String {
    let link = |link: &Value| {
        let (name, from) = (text(&link["link"]), text(&link["from"]));
        match link["ms"].as_u64() {
            Some(_) => format!("{name} {:?} ({from})", time(&link["ms"])),
            None => format!("{name} without limit ({from})"),
        }
    };
    let links: Vec<String> = links.as_array().into_iter().flatten().map(link).collect();
    links.join(" < ")
}

/// On which terms calls of it are taken, a line each.
fn terms(terms: &Value) -> Vec<(&'static str, String)> {
    let from = |term: &str| format!("({})", text(&terms[term]["from"]));
    let some = |term: &str| terms[term]["ms"].as_u64().filter(|ms| *ms > 0).map(Duration::from_millis);
    let duplicates = match text(&terms["duplicates"]["value"]) {
        "share" => "a call that equals one under way shares its answer",
        "reject" => "a call that equals one under way is refused",
        _ => "a call that equals one under way is made as well",
    };
    let (retries, breaker) = (&terms["retries"]["value"], &terms["breaker"]["value"]);
    let percent = |part: &Value| part.as_f64().unwrap_or_default() * 100.0;
    let retries = match retries["max"].as_u64() {
        Some(0) => String::from("never"),
        _ => format!(
            "{} at most, the first after about {:?}, for {:.0} % of all calls and {} more",
            retries["max"],
            time(&retries["backoff_ms"]),
            percent(&retries["budget"]),
            retries["floor"]
        ),
    };
    let breaker = if percent(&breaker["failures"]) == 0.0 {
        String::from("none: calls are made however many failed")
    } else {
        format!(
            "no calls for {:?} once {:.0} % of at least {} in {:?} failed",
            time(&breaker["open_ms"]),
            percent(&breaker["failures"]),
            breaker["least"],
            time(&breaker["window_ms"])
        )
    };
    let heartbeat = match (some("heartbeat"), terms["heartbeat"]["ms"].is_null()) {
        (Some(every), _) => format!("every {every:?}"),
        (None, true) => String::from("as its client has it"),
        (None, false) => String::from("none"),
    };
    let none = || String::from("none");
    let cache = some("cache").map_or_else(none, |time| format!("results are kept for {time:?}"));
    let rate = terms["rate"]["value"].as_str().map_or_else(none, |rate| format!("{rate} for each caller"));
    let ask_limit = some("ask_limit").map_or_else(none, |time| format!("{time:?}"));
    let mut lines = vec![
        ("duplicates", format!("{duplicates} {}", from("duplicates"))),
        ("cache", format!("{cache} {}", from("cache"))),
        ("retries", format!("{retries} {}", from("retries"))),
        ("breaker", format!("{breaker} {}", from("breaker"))),
        ("rate", format!("{rate} {}", from("rate"))),
        ("heartbeat", format!("{heartbeat} {}", from("heartbeat"))),
        ("ask limit", format!("{ask_limit} {}", from("ask_limit"))),
    ];
    let learn = &terms["learn"]["value"];
    if !learn.is_null() {
        let (floor, ceiling) = (time(&learn["floor_ms"]), time(&learn["ceiling_ms"]));
        let learned =
            format!("attempts get {} times what they took, {floor:?} to {ceiling:?}", learn["factor"]);
        lines.push(("learn", format!("{learned} {}", from("learn"))));
    }
    lines
}

/// A number of milliseconds as a time.
fn time(ms: &Value) -> Duration {
    Duration::from_millis(ms.as_u64().unwrap_or_default())
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
    if let Some(limit) = known["tool_limit"].as_u64() {
        line = format!("{limit} of it, {line}");
    }
    if let Some(limit) = known["provider"]["limit"].as_u64() {
        // Writing to a string does not fail.
        let _ = write!(line, "; {limit} at provider {}", text(&known["provider"]["name"]));
    }
    let percent = |share: &str| limits[share].as_f64().unwrap_or_default() * 100.0;
    // Writing to a string does not fail.
    let _ = write!(
        line,
        "; {} in all, {} per caller, {} per conversation, of which one server holds at most {:.0} %, {:.0} % of a \
         conversation's; {} may wait",
        limits["total"],
        limits["caller"],
        limits["conversation"],
        percent("share"),
        percent("conversation_share"),
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
