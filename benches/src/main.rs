//! Measures MCP proxies from both sides: a fake upstream server behind them and test clients in front.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool reports through its streams"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a bench tool starts tasks, sleeps on a thread, and crashes when asked"
)]

mod checks;
mod client;
mod hold;
mod load;
mod proto;
mod slices;
mod upstream;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the fake upstream MCP server, over HTTP or stdio.
    Upstream(upstream::Opts),
    /// Call one tool from many sessions and report rates and latencies.
    Load(load::Opts),
    /// Compare a good tool's latency alone and while other calls hang.
    Isolate(checks::IsolateOpts),
    /// Compare tools' latency in alternating slices: alone, and while a misdeed goes on.
    Slices(slices::Opts),
    /// Hold calls that hang, as many as the lines of stdin say.
    Hold(hold::Opts),
    /// Show what a client sees when the upstream hangs or dies, and whether the proxy recovers.
    Fault(checks::FaultOpts),
    /// Send identical calls at once and count how many reach the upstream.
    Dedupe(checks::DedupeOpts),
    /// Wait for the first complete tools/list and report how long it took.
    Probe(checks::ProbeOpts),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Upstream(opts) = &cli.command
        && opts.stdio
    {
        upstream::serve_stdio(opts);
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio runtime");
    let report = runtime.block_on(async {
        match cli.command {
            Command::Upstream(opts) => Box::pin(upstream::serve_http(opts)).await.map(|()| None),
            Command::Load(opts) => Box::pin(load::run(opts)).await.map(Some),
            Command::Isolate(opts) => Box::pin(checks::isolate(opts)).await.map(Some),
            Command::Slices(opts) => Box::pin(slices::run(opts)).await.map(Some),
            Command::Hold(opts) => Box::pin(hold::run(opts)).await.map(|()| None),
            Command::Fault(opts) => Box::pin(checks::fault(opts)).await.map(Some),
            Command::Dedupe(opts) => Box::pin(checks::dedupe(opts)).await.map(Some),
            Command::Probe(opts) => Box::pin(checks::probe(opts)).await.map(Some),
        }
    });
    match report {
        Ok(Some(json)) => println!("{json:#}"),
        Ok(None) => {}
        Err(why) => {
            eprintln!("mcp-bench: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
