//! `seawall`: a gateway through which agents reach every tool, and every call comes back.
#![expect(clippy::print_stderr, reason = "a command-line program tells what is wrong")]

mod cli;
mod clients;
mod serve;

use clap::Parser;
use std::{ffi::OsString, process::ExitCode};
use tokio::runtime::Builder;

/// Returns memory to the system after a burst, and costs a call less than the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that run tasks: half of the cores, at least one. A call touches little memory and waits for others most of
/// its life; handing it from thread to thread costs more than it gains (measured: a third of all CPU per call with
/// a thread for each of two cores). What blocks has threads of its own; a single thread needs no queue to share.
fn workers(cores: usize) -> usize {
    (cores / 2).max(1)
}

/// What was typed: `seawall -- COMMAND…` is short for `seawall wrap -- COMMAND…`.
fn typed() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_some_and(|first| first == "--") {
        words.insert(1, "wrap".into());
    }
    words
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse_from(typed());
    if matches!(cli.command, cli::Command::DemoServer) {
        return cli::demo::run();
    }
    let workers = workers(std::thread::available_parallelism().map_or(1, usize::from));
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let runtime = match builder.worker_threads(workers).enable_all().build() {
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
