//! `seawall call`: one call of one tool.

use super::{DaemonArguments, Exit, Failure, daemon::DaemonClient};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::time::Duration;

/// Call a tool of the running daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// The tool, as `seawall tools` shows it.
    tool: String,
    /// Its arguments: a JSON object, or name=value pairs, whose values are JSON where they can be.
    arguments: Vec<String>,
    /// How long to wait, in milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Print the whole result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let values = parse(&arguments.arguments)?;
    let client = DaemonClient::find(&arguments.daemon).await?;
    let mut params = json!({"name": arguments.tool, "arguments": values, "_meta": {"progressToken": "cli"}});
    if let Some(timeout) = arguments.timeout_ms {
        params["_meta"]["seawall/timeout_ms"] = json!(timeout);
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {elapsed} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message(arguments.tool.clone());
    bar.enable_steady_tick(Duration::from_millis(120));
    let answer =
        client.ask("tools/call", &params, |event| bar.set_message(progress(&arguments.tool, event))).await;
    bar.finish_and_clear();
    Ok(print(&answer?, arguments.json))
}

/// What a progress notification says, for people.
pub(super) fn progress(tool: &str, event: &Value) -> String {
    let params = &event["params"];
    let message = params["message"].as_str().unwrap_or_default();
    match (params["progress"].as_f64(), params["total"].as_f64()) {
        (Some(done), Some(total)) => format!("{tool}: {done} of {total} {message}"),
        (Some(done), None) => format!("{tool}: {done} {message}"),
        (None, _) => tool.to_owned(),
    }
}

/// Prints a response and says how to exit.
fn print(answer: &Value, as_json: bool) -> Exit {
    if let Some(error) = answer.get("error") {
        if as_json {
            say!("{answer}");
        } else {
            eprintln!("{}", error["message"].as_str().unwrap_or_default());
        }
        return Exit::CallFailed;
    }
    let result = &answer["result"];
    let failed = result["isError"] == true;
    if as_json {
        say!("{result}");
    } else {
        for content in result["content"].as_array().into_iter().flatten() {
            match content["text"].as_str() {
                Some(text) if failed => eprintln!("{text}"),
                Some(text) => say!("{text}"),
                None => say!("{content}"),
            }
        }
    }
    if failed { Exit::CallFailed } else { Exit::Done }
}

fn parse(arguments: &[String]) -> Result<Value, Failure> {
    if let [only] = arguments
        && only.trim_start().starts_with('{')
    {
        return serde_json::from_str(only).map_err(|error| {
            Failure::new(Exit::BadConfiguration, format!("the arguments are not a JSON object: {error}"))
        });
    }
    let mut object = serde_json::Map::new();
    for pair in arguments {
        let Some((name, value)) = pair.split_once('=') else {
            let text = format!("{pair:?} is neither name=value nor a JSON object");
            return Err(Failure::new(Exit::BadConfiguration, text));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        object.insert(name.to_owned(), value);
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_where_they_can_be() {
        let words = ["n=1", "t=plain text", "l=[1,2]", "q=a=b"].map(String::from);
        assert_eq!(parse(&words).unwrap(), json!({"n": 1, "t": "plain text", "l": [1, 2], "q": "a=b"}));
        assert_eq!(parse(&[r#"{"a":{}}"#.into()]).unwrap(), json!({"a": {}}));
        assert!(parse(&["nonsense".into()]).is_err());
    }
}
