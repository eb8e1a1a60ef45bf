//! A program that is run to its end, beside the children that are kept.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use crate::{Command, SpawnError, launch, tree::Spawning};

/// Why a program that was run did not do what it was to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It could not be started; the text says why and what to do.
    #[error("{0}")]
    Start(String),
    /// It ended, but not with exit code 0.
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    /// It had not ended within this time, and was killed.
    #[error("it had not ended after {0:?}")]
    Late(Duration),
}

/// Runs a program to its end, or kills it after `limit`. It reads nothing, and its output is thrown away. What it
/// started and left running is killed.
///
/// Started as every child is, so within a Tokio runtime with I/O enabled. Dropping the future kills it.
///
/// # Errors
/// [`RunError`]: it did not start, failed or was late.
pub async fn run(command: &Command, limit: Duration) -> Result<(), RunError> {
    // What is run to its end is no server, and does not count against their number before it is started.
    let spawning =
        Spawning::begin(usize::MAX).ok_or_else(|| RunError::Start("too many processes".to_owned()))?;
    let mut process = launch(command, [Stdio::null(), Stdio::null(), Stdio::null()], spawning)
        .map_err(|source| RunError::Start(SpawnError::explain(command, source).to_string()))?;
    match timeout(limit, process.exited()).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(RunError::Failed(status)),
        Err(_) => Err(RunError::Late(limit)),
    }
}
