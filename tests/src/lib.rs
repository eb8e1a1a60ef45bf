//! What the tests of the whole binary stand on: real processes, a client of either era, and waits that end.
//!
//! Nothing here sleeps and hopes. A test waits for a condition with a deadline ([`eventually`]) or for an
//! answer with one ([`within`]), and what did not come in time is named.
#![expect(
    clippy::disallowed_methods,
    reason = "tests start processes, spawn tasks and read files themselves"
)]
#![expect(
    clippy::print_stderr,
    reason = "what a test measured and a daemon logged goes to the test's output"
)]

mod answer;
mod chance;
mod client;
mod command;
mod daemon;
mod held;
mod http;
#[path = "../model.rs"]
pub mod model;
mod process;
mod provision;
mod sse;
mod upstream;

pub use answer::{Answer, Listing};
pub use chance::{mixed, pick};
pub use client::{Call, Client, Era, request_text};
pub use command::{Said, at, seawall};
pub use daemon::{Daemon, caller, free_address};
pub use held::{Held, descendants};
pub use http::{JSON, Response, send};
pub use process::{Process, binary};
pub use provision::provisioned;
pub use upstream::{Listening, Misbehave, Record, Transport, Upstream, misbehave_command, quoted, well};

use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long anything may take that has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before a condition is looked at again.
const PAUSE: Duration = Duration::from_millis(20);

/// What `future` gives, or a panic that names `what` did not come within `limit`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    match timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing came within {limit:?}"),
    }
}

/// Looks at `condition` until it holds, or panics naming `what` did not come to hold within `limit`.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(true) => return,
            Ok(false) if Instant::now() < deadline => sleep(PAUSE).await,
            Ok(false) | Err(_) => panic!("{what}: it did not come to hold within {limit:?}"),
        }
    }
}

/// Prints what a test measured; the test runner shows it with `--nocapture` or when the test fails.
pub fn note(text: &str) {
    eprintln!("{text}");
}
