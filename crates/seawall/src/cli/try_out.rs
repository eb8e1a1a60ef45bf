//! `seawall try`: a daemon on embedded defaults, and three calls through it.

use super::{
    Exit, Failure,
    call::progress,
    daemon::DaemonClient,
    serve::{Daemon, Signals},
    sources::state_directory,
};
use crate::serve::log;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use seawall_core::config::{self, Config, Source, Sources};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{net::TcpListener, time::Instant};

/// See it work: a daemon with a small built-in server, and three calls through it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// End after the calls instead of staying up.
    #[arg(long)]
    exit: bool,
    /// Print one JSON object per call, and nothing else.
    #[arg(long)]
    json: bool,
}

/// One call of the tour.
struct Stop {
    what: &'static str,
    tool: &'static str,
    arguments: Value,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let config = configuration().await?;
    let _logging = log::quiet(&config.state).await?;
    let daemon = Daemon::start(config).await?;
    if !arguments.json {
        say!(
            "Seawall is up, with a small built-in server behind it. Three calls through http://{}/mcp:\n",
            daemon.address
        );
    }
    let client = DaemonClient::at(&daemon.address.to_string(), None);
    let stops = [
        Stop { what: "a healthy tool", tool: "demo__greet", arguments: json!({"name": "world"}) },
        Stop {
            what: "a slow one, which tells how far it is",
            tool: "demo__count_slowly",
            arguments: json!({"to": 5}),
        },
        Stop { what: "one that hangs; its time limit is 3 s", tool: "demo__hang", arguments: json!({}) },
    ];
    // The tools are listed first, as any client does.
    client.ask("tools/list", &json!({}), |_| {}).await?;
    for stop in &stops {
        make(&client, stop, arguments.json).await?;
    }
    if !arguments.exit {
        say!("It stays up. Point a client at http://{}/mcp; Ctrl-C ends it.", daemon.address);
        signals.stop().await;
    }
    daemon.end(&mut signals).await;
    Ok(Exit::Done)
}

async fn make(client: &DaemonClient, stop: &Stop, as_json: bool) -> Result<(), Failure> {
    let bar = if as_json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {elapsed_precise} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.set_message(stop.tool);
    let began = Instant::now();
    let params = json!({"name": stop.tool, "arguments": stop.arguments, "_meta": {"progressToken": "try"}});
    let mut heard = 0;
    let answer = client.ask("tools/call", &params, |event| {
        heard += 1;
        bar.set_message(progress(stop.tool, event));
    });
    let answer = answer.await?;
    let after = began.elapsed();
    bar.finish_and_clear();
    let result = &answer["result"];
    let text = result["content"][0]["text"]
        .as_str()
        .or_else(|| answer["error"]["message"].as_str())
        .unwrap_or_default();
    let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    if as_json {
        say!(
            "{}",
            json!({"tool": stop.tool, "ms": ms, "progress": heard, "is_error": result["isError"] == true, "text": text})
        );
        return Ok(());
    }
    say!("{}: {}", stop.tool, stop.what);
    if heard > 0 {
        say!("  after {ms} ms, with {heard} progress notifications on the way: {text}\n");
    } else {
        say!("  after {ms} ms: {text}\n");
    }
    Ok(())
}

async fn configuration() -> Result<Config, Failure> {
    let failed = |what: String| Failure::new(Exit::Failed, what);
    let program =
        std::env::current_exe().map_err(|error| failed(format!("this program cannot be found: {error}")))?;
    let default = SocketAddr::from(([127, 0, 0, 1], 8079));
    let listen = match TcpListener::bind(default).await {
        Ok(_) => default,
        Err(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    let text = format!(
        "listen = \"{listen}\"\ngrace = \"0s\"\n\n[servers.demo]\ncommand = {}\nargs = [\"demo-server\"]\nsharing = \"everyone\"\ntimeout = \"3s\"\nstop_grace = \"1s\"\n",
        json!(program.to_string_lossy())
    );
    let sources = Sources {
        own: Some(Source { path: PathBuf::from("the configuration of `seawall try`"), text }),
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: state_directory()?.join("try"),
        base: PathBuf::new(),
    };
    let (config, _) = config::lower(&sources)
        .map_err(|faults| failed(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    Ok(config)
}
