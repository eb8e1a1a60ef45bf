//! What the daemon holds, before and after.

use crate::Daemon;
use std::collections::HashMap;
use std::fs;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longer than the daemon keeps a connection to an upstream that it does not use.
const UNUSED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// What the daemon holds. Processes and descriptors are counted from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Rows of the holder table.
    pub permits: usize,
    /// Requests that wait for an upstream's answer.
    pub pending: u64,
    /// Open sessions.
    pub conversations: u64,
    /// Processes that came from it, the dead that nobody has reaped among them.
    pub processes: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Tasks.
    pub tasks: u64,
}

impl Held {
    /// What is held now.
    ///
    /// # Panics
    /// When its status lacks a number.
    pub async fn now(daemon: &Daemon) -> Self {
        // Counted first and after a pause, so that no connection of the last question is among them.
        sleep(PAUSE).await;
        let (processes, descriptors) = (descendants(daemon.pid()).len(), descriptors(daemon.pid()));
        let status = daemon.status().await;
        let number = |name: &str| status[name].as_u64().unwrap_or_else(|| panic!("no {name} in {status:#}"));
        let permits = status["permits"].as_array().map_or(usize::MAX, Vec::len);
        let (pending, conversations, tasks) = (number("pending"), number("conversations"), number("tasks"));
        Self { permits, pending, conversations, processes, descriptors, tasks }
    }

    /// What is held when nothing goes on: the least there is in a time in which the unused is given up.
    ///
    /// # Panics
    /// When a call or a session is held all the same.
    pub async fn at_rest(daemon: &Daemon) -> Self {
        daemon.until_idle().await;
        daemon.until_no_conversation().await;
        let mut least = Self::now(daemon).await;
        let began = Instant::now();
        while began.elapsed() < UNUSED {
            let now = Self::now(daemon).await;
            let (descriptors, tasks) = (now.descriptors.min(least.descriptors), now.tasks.min(least.tasks));
            least = Self { descriptors, tasks, ..now };
        }
        assert_eq!((least.permits, least.pending, least.conversations), (0, 0, 0), "{least:?}");
        least
    }

    /// Whether no more is held than `before`: as much of everything, and no more descriptors and tasks.
    pub fn is_as(&self, before: &Self) -> bool {
        let equal = Self { descriptors: before.descriptors, tasks: before.tasks, ..*self } == *before;
        equal && self.descriptors <= before.descriptors && self.tasks <= before.tasks
    }

    /// Waits until `holds` is true of what is held, and gives that. What was held before is told where it is not.
    ///
    /// # Panics
    /// When it is not within `limit`.
    pub async fn until(
        daemon: &Daemon,
        before: &Self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Self {
        let deadline = Instant::now() + limit;
        loop {
            let now = Self::now(daemon).await;
            if holds(&now) {
                return now;
            }
            if Instant::now() >= deadline {
                let status = daemon.status().await;
                panic!("{what}: not within {limit:?}\nbefore: {before:?}\nafter:  {now:?}\n{status:#}");
            }
        }
    }
}

/// The descriptors that a process has open.
fn descriptors(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs as the same user");
    entries.count()
}

/// Every process that came from this one, the dead that nobody has reaped among them.
///
/// # Panics
/// When there is no `/proc`.
pub fn descendants(ancestor: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").expect("there is a /proc").flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name stands in parentheses and may hold anything; after it come the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&ancestor).unwrap_or_default();
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found
}
