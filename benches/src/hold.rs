//! Holding calls: a client that keeps as many calls open as it is told, while others look at what that costs.

use crate::checks::said;
use crate::client::{Endpoint, Fail, Session, Target};
use crate::load::{Stats, open};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How long no call may end before those that are held are taken to stay.
const QUIET: Duration = Duration::from_millis(200);

/// Each line of stdin is a command, and each is answered by a line of JSON: `hold N` begins N more calls, each in a
/// session of its own, `look` begins none, and `drop` hangs up on all of them.
#[derive(clap::Args)]
pub(crate) struct Opts {
    #[command(flatten)]
    target: Target,
    /// The tool, as `tool` or `upstream/tool`.
    #[arg(long, default_value = "hang")]
    tool: String,
    /// Bytes that each call's arguments are padded to.
    #[arg(long, default_value_t = 0)]
    bytes: usize,
    /// Calls begun per second.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
}

/// A call that has ended though it was to be held, and after what time.
type Ended = (Result<(), Fail>, Duration);

/// What is held, and what has ended.
struct Held {
    calls: JoinSet<Ended>,
    ended: BTreeMap<String, u64>,
    latency: Stats,
    first_ended: Option<String>,
}

/// Does what stdin says, until its end.
pub(crate) async fn run(opts: Opts) -> Result<(), String> {
    let endpoint = Endpoint::new(&opts.target)?;
    let arguments = match opts.bytes {
        0 => String::from("{}"),
        bytes => format!(r#"{{"pad":"{}"}}"#, "x".repeat(bytes)),
    };
    let mut held =
        Held { calls: JoinSet::new(), ended: BTreeMap::new(), latency: Stats::new(), first_ended: None };
    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        match command.split_whitespace().collect::<Vec<_>>()[..] {
            ["hold", count] => {
                let count = count.parse::<usize>().map_err(|error| format!("hold {count}: {error}"))?;
                held.begin(&endpoint, &opts, &arguments, count).await?;
                held.settle().await;
            }
            ["look"] => held.settle().await,
            ["drop"] => held.calls.shutdown().await,
            _ => return Err(format!("there are `hold N`, `look` and `drop`, not `{command}`")),
        }
        println!("{}", held.report());
    }
    Ok(())
}

/// The lines of stdin; a thread reads them, because nothing else waits for stdin.
fn commands() -> mpsc::Receiver<String> {
    let (command, commands) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if command.blocking_send(line).is_err() {
                return;
            }
        }
    });
    commands
}

impl Held {
    /// Begins calls one after the other, so that what their time is spent on is not this client.
    async fn begin(
        &mut self,
        endpoint: &Endpoint,
        opts: &Opts,
        arguments: &str,
        count: usize,
    ) -> Result<(), String> {
        let mut opening = Stats::new();
        let mut sessions = open(endpoint, count, &mut opening).await;
        if sessions.len() < count {
            return Err(format!("only {} of {count} sessions: {}", sessions.len(), opening.report()));
        }
        let Some(first) = sessions.first_mut() else { return Ok(()) };
        let tool = first.find(&opts.tool).await.map_err(said)?;
        let began = Instant::now();
        for (number, session) in sessions.into_iter().enumerate() {
            sleep_until(began + Duration::from_secs_f64(number as f64 / opts.rate)).await;
            self.calls.spawn(call(session, tool.clone(), arguments.to_owned()));
        }
        Ok(())
    }

    /// Waits until calls no longer end.
    async fn settle(&mut self) {
        loop {
            sleep(QUIET).await;
            let before = self.calls.len();
            while let Some(call) = self.calls.try_join_next() {
                let (end, after) = call.expect("a call does not panic");
                self.latency.took(after);
                let label = end.as_ref().map_or_else(label, |()| String::from("ok"));
                *self.ended.entry(label).or_default() += 1;
                if let Err(fail) = end {
                    self.first_ended.get_or_insert_with(|| said(fail));
                }
            }
            if self.calls.len() == before {
                return;
            }
        }
    }

    fn report(&self) -> Value {
        json!({
            "held": self.calls.len(),
            "returned": self.ended,
            "returned_ms": {
                "p50": self.latency.ms(0.5), "p99": self.latency.ms(0.99), "max": self.latency.ms(1.0),
            },
            "first_returned": self.first_ended,
        })
    }
}

async fn call(mut session: Session, tool: String, arguments: String) -> Ended {
    let start = Instant::now();
    match session.call(&tool, &arguments).await {
        Ok(reply) => (Ok(()), reply.at - start),
        Err(fail) => (Err(fail), start.elapsed()),
    }
}

/// How a failed call is counted: by its kind, and by the code that its text begins with where it has one.
pub(crate) fn label(fail: &Fail) -> String {
    let text = fail.detail.split_once(r#""text":""#).map_or("", |(_, text)| text);
    let code =
        text.split(|letter: char| !(letter.is_ascii_uppercase() || letter == '_')).next().unwrap_or_default();
    if code.len() > 1 { format!("{} {code}", fail.kind) } else { fail.kind.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_calls_are_counted_by_their_codes() {
        let result =
            r#"{"result":{"content":[{"type":"text","text":"OVER_CAPACITY: come back"}],"isError":true}}"#;
        assert_eq!(label(&Fail::new("tool_error", result)), "tool_error OVER_CAPACITY");
        assert_eq!(label(&Fail::new("tool_error", r#"{"text":"A file is missing"}"#)), "tool_error");
        assert_eq!(label(&Fail::new("io", "broken pipe")), "io");
    }
}
