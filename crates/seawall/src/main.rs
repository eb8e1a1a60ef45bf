//! `seawall`: a gateway through which agents reach every tool, and every call comes back.
#![expect(clippy::print_stderr, reason = "a command-line program tells what is wrong")]

mod cli;
mod serve;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if matches!(cli.command, cli::Command::DemoServer) {
        return cli::demo::run();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("seawall: the runtime could not be started: {error}");
            return cli::Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(cli::run(cli));
    // Whatever has not ended by now has had its grace.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    exit.into()
}
