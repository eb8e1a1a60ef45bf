//! `seawall status`: what the running daemon is at.

use super::{DaemonArguments, Exit, Failure, calls, daemon::DaemonClient};
use clap::Args;
use serde_json::Value;

/// Show upstreams, instances and calls of the running daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Show who holds places and who waits for one, and how full each scope is.
    #[arg(long)]
    permits: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let client = DaemonClient::find(&arguments.daemon).await?;
    if arguments.permits {
        let calls = client.get("/api/v1/calls").await?;
        if arguments.json {
            say!("{calls}");
        } else {
            calls::tables(&calls).iter().for_each(|line| say!("{line}"));
        }
        return Ok(Exit::Done);
    }
    let status = client.get("/api/v1/status").await?;
    if arguments.json {
        say!("{status}");
        return Ok(Exit::Done);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    say!(
        "seawall {} at {} (pid {}): {} conversations, {} calls in flight",
        text(&status["version"]),
        text(&status["listen"]),
        status["pid"],
        status["conversations"],
        status["permits"].as_array().map_or(0, Vec::len)
    );
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        say!(
            "{} ({}): {}, {} tools",
            text(&upstream["name"]),
            text(&upstream["kind"]),
            text(&upstream["state"]),
            upstream["tools"]
        );
        if let Some(held @ 1..) = upstream["changed"].as_u64() {
            let name = text(&upstream["name"]);
            say!("  {held} tools changed or are new, and are held back: `seawall tools diff {name}`");
        }
        if let Some(failure) = upstream["last_failure"].as_object() {
            say!(
                "  last failure, at {}, {}: {}",
                text(&failure["stage"]),
                text(&failure["at"]),
                text(&failure["message"])
            );
            for line in failure["stderr"].as_array().into_iter().flatten() {
                say!("    stderr: {}", text(line));
            }
        }
        if let Some(left_alone) = upstream["left_alone"].as_object() {
            let seconds = left_alone["next_try_ms"].as_f64().unwrap_or_default() / 1000.0;
            say!("  it did not stay up, {} times in a row; next try in {seconds:.1} s", left_alone["times"]);
        }
        for instance in upstream["instances"].as_array().into_iter().flatten() {
            let pid = instance["pid"].as_u64().map_or_else(String::new, |pid| format!(", pid {pid}"));
            let era = text(&instance["era"]);
            let era = if era.is_empty() { era } else { format!(", MCP {era}") };
            say!(
                "  for {}: {}{era}{pid}, {} in flight, {} s old{}",
                text(&instance["key"]),
                text(&instance["state"]),
                instance["in_flight"],
                instance["age_ms"].as_u64().unwrap_or_default() / 1000,
                odd(instance)
            );
        }
    }
    Ok(Exit::Done)
}

/// What an instance said that was no answer to anything, in short; nothing where there was nothing.
fn odd(instance: &Value) -> String {
    let words = [
        ("skipped", "lines skipped that are no message"),
        ("garbled", "messages that were not UTF-8"),
        ("late", "late answers"),
        ("unknown", "answers to nothing"),
        ("oversize", "messages over the limit"),
    ];
    let counted = words.iter().filter_map(|(key, what)| {
        let count = instance[*key].as_u64().filter(|count| *count > 0)?;
        Some(format!("; {count} {what}"))
    });
    let last =
        instance["last_skipped"].as_str().map(|line| format!(", the last: {line}")).unwrap_or_default();
    counted.collect::<String>() + &last
}
