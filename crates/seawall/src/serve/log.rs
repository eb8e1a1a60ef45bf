//! Where log records go: text to a terminal; without one, JSON lines to a rotated file in the state directory, and
//! warnings to standard error besides.

use crate::cli::{Exit, Failure, LogFormat};
use seawall_core::{Gateway, life::Task};
use std::{
    io::{IsTerminal, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::sleep;
use tracing_appender::{
    non_blocking::{NonBlocking, WorkerGuard},
    rolling::{RollingFileAppender, Rotation},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Days of log files that are kept.
const KEPT: usize = 7;
/// Records that may wait to be written; beyond that they are dropped rather than waited for.
const QUEUE: usize = 16 * 1024;

/// How often the records of calls are written.
const TOGETHER: Duration = Duration::from_millis(100);
/// Bytes of records that may wait to be written; beyond that they are dropped.
const WAITING: usize = 8 * 1024 * 1024;

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Keeps the writers going; dropped, what is queued is written.
#[derive(Debug)]
pub(crate) struct Logging {
    /// Where lines of JSON go, if they go anywhere.
    lines: Option<NonBlocking>,
    /// Records of calls that are not written yet.
    waiting: Arc<Mutex<Vec<u8>>>,
    _guards: Vec<WorkerGuard>,
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(writer) = &mut self.lines {
            write_waiting(&self.waiting, writer);
        }
    }
}

fn write_waiting(waiting: &Mutex<Vec<u8>>, writer: &mut NonBlocking) {
    let lines = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
    if !lines.is_empty() {
        // Over the queue's bound they are dropped rather than waited for.
        let _ = writer.write_all(&lines);
    }
}

impl Logging {
    /// Takes the records of calls as lines of JSON, where that is the format. They are written together every
    /// [`TOGETHER`]: one by one, the system calls would cost as much as the calls they tell of.
    pub(crate) fn write_calls(&self, gateway: &Gateway) {
        let Some(mut writer) = self.lines.clone() else { return };
        let waiting = Arc::clone(&self.waiting);
        let lines = Arc::clone(&waiting);
        gateway.telemetry().write_calls_with(Box::new(move |line| {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < WAITING {
                lines.extend_from_slice(line);
            }
        }));
        // What is told of while the daemon drains is written when logging ends.
        gateway.life().spawn(Task::Housekeeping, async move {
            loop {
                sleep(TOGETHER).await;
                write_waiting(&waiting, &mut writer);
            }
        });
    }
}

/// Starts logging for a daemon. `SEAWALL_LOG` filters, as in `info,seawall::call=debug`.
///
/// # Errors
/// When the log file cannot be made.
pub(crate) async fn start(format: Option<LogFormat>, state: &Path) -> Result<Logging, Failure> {
    let terminal = std::io::stderr().is_terminal();
    let (stderr, stderr_guard) = writer(std::io::stderr());
    let mut guards = vec![stderr_guard];
    let mut layers: Vec<Output> = Vec::new();
    let mut lines = None;
    match (format, terminal) {
        (Some(LogFormat::Json), _) => {
            lines = Some(stderr.clone());
            layers.push(fmt::layer().json().flatten_event(true).with_writer(stderr).boxed());
        }
        (Some(LogFormat::Text), _) | (None, true) => {
            layers.push(fmt::layer().with_ansi(terminal).with_writer(stderr).boxed());
        }
        (None, false) => {
            let warnings = fmt::layer().with_ansi(false).with_writer(stderr).with_filter(LevelFilter::WARN);
            layers.push(warnings.boxed());
            let (layer, writer) = file(state, &mut guards).await?;
            lines = Some(writer);
            layers.push(layer);
        }
    }
    tracing_subscriber::registry().with(layers).with(filter()).init();
    Ok(Logging { lines, waiting: Arc::default(), _guards: guards })
}

/// Starts logging to the file only, for a command whose terminal shows something else.
///
/// # Errors
/// When the log file cannot be made.
pub(crate) async fn quiet(state: &Path) -> Result<Logging, Failure> {
    let mut guards = Vec::new();
    let (layer, writer) = file(state, &mut guards).await?;
    tracing_subscriber::registry().with(vec![layer]).with(filter()).init();
    Ok(Logging { lines: Some(writer), waiting: Arc::default(), _guards: guards })
}

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("SEAWALL_LOG").unwrap_or_else(|_| EnvFilter::new("info"))
}

fn writer(output: impl std::io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    tracing_appender::non_blocking::NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        .finish(output)
}

async fn file(state: &Path, guards: &mut Vec<WorkerGuard>) -> Result<(Output, NonBlocking), Failure> {
    let directory = state.join("log");
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("no log can be written in {}: {error}", directory.display()))
    };
    let mut private = tokio::fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&directory).await.map_err(|error| failed(&error))?;
    let appender = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("seawall")
        .filename_suffix("jsonl")
        .max_log_files(KEPT)
        .build(&directory)
        .map_err(|error| failed(&error))?;
    let (writer, guard) = writer(appender);
    guards.push(guard);
    Ok((fmt::layer().json().flatten_event(true).with_writer(writer.clone()).boxed(), writer))
}
