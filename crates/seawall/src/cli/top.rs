//! `seawall top`: what the running daemon is at, live on a terminal, else printed.

mod counters;
mod live;
mod plain;
mod screen;
mod snapshot;
mod view;

use super::{DaemonArguments, Exit, Failure};
use clap::Args;
use serde_json::json;
use snapshot::{Snapshot, Source};
use std::{
    io::{IsTerminal, Write},
    time::Duration,
};
use tokio::time::sleep;

/// How often a terminal is drawn anew.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest and the longest that may lie between two looks at the daemon.
const BOUNDS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];

/// Watch servers, scopes and calls of the running daemon.
///
/// On a terminal: q quits, p pauses, s sorts the calls, the arrows scroll, ? explains.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// How often to look: "500ms", "5s", "1m". Without it a terminal shows every second, and what is printed is printed
    /// once.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    every: Option<Duration>,
    /// Print one JSON object, or with --every one a line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut source = Source::new(arguments.daemon);
    let first = source.look().await?;
    if !arguments.json && std::io::stdout().is_terminal() {
        return Box::pin(live::run(source, first, arguments.every.unwrap_or(EVERY))).await;
    }
    let mut looked = Ok(first);
    loop {
        // Whoever read it may have gone.
        if writeln!(std::io::stdout(), "{}", printed(&looked, arguments.json)).is_err() {
            return Ok(Exit::Done);
        }
        let Some(every) = arguments.every else { return Ok(Exit::Done) };
        sleep(every).await;
        looked = source.look().await;
    }
}

/// What is printed of one look at the daemon.
fn printed(looked: &Result<Snapshot, Failure>, as_json: bool) -> String {
    match looked {
        Ok(snapshot) if as_json => snapshot.json().to_string(),
        Ok(snapshot) => plain::lines(snapshot).join("\n"),
        Err(failure) if as_json => json!({"waiting": failure.message}).to_string(),
        Err(failure) => waiting(failure),
    }
}

/// What is said while there is no daemon, or none that answers.
fn waiting(failure: &Failure) -> String {
    format!("waiting for the daemon: {}", failure.message)
}

/// Reads "500ms", "5s" or "1m".
fn interval(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("write a whole number with its unit, such as \"500ms\", \"5s\" or \"1m\"".to_owned()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    let [least, most] = BOUNDS;
    ms.map(Duration::from_millis)
        .filter(|every| (least..=most).contains(every))
        .ok_or_else(|| "write something from \"100ms\" to \"60m\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(interval("60m"), Ok(Duration::from_secs(3600)));
        for wrong in
            ["", "5", "s", "99ms", "61m", "1h", "-1s", "99999999999999999999s", "18446744073709551615m"]
        {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_printed_is_a_snapshot_or_why_there_is_none() {
        let looked = Ok(snapshot::tests::sample());
        assert!(printed(&looked, false).starts_with("seawall 1.2.3 at 127.0.0.1:8079"));
        let value: serde_json::Value = serde_json::from_str(&printed(&looked, true)).unwrap();
        assert_eq!(value["status"]["pid"], 42);
        let gone = Err(Failure::new(Exit::NoDaemon, "it is away"));
        assert_eq!(printed(&gone, false), "waiting for the daemon: it is away");
        assert_eq!(printed(&gone, true), r#"{"waiting":"it is away"}"#);
    }
}
