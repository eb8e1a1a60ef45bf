//! The daemon's own limits and use: open files and memory.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit the daemon was started with, once it has been raised; `None` inside is "no limit".
static STARTED_WITH: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit on open files to the hard one and returns both, before and after; `u64::MAX` stands
/// for no limit.
///
/// Children do not get the raised limit: many programs still close, or reserve room for, every descriptor
/// they may have, and `select` fails beyond 1,024.
///
/// # Errors
/// What the system said; the limit is then what it was.
pub fn raise_open_files() -> io::Result<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile);
    // Before the limit changes, so that no child started meanwhile gets the raised one.
    STARTED_WITH.get_or_init(|| limit.current);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok((limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX)))
}

/// The limit to give back to a child; `None` if the daemon never changed its own.
pub(crate) fn limit_for_children() -> Option<Rlimit> {
    let current = *STARTED_WITH.get()?;
    Some(Rlimit { current, maximum: getrlimit(Resource::Nofile).maximum })
}

/// Whether the daemon or the machine has too many open files or no memory: this says nothing about what was to be read.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// How many descriptors the daemon has open; 0 if `/proc` cannot be read.
pub fn open_descriptors() -> usize {
    // Reading the directory takes one of them.
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// The daemon's resident memory in bytes; 0 if `/proc` cannot be read.
pub fn resident_bytes() -> u64 {
    resident_bytes_of("self")
}

/// The resident memory of a process in bytes: a number, or `self`. 0 if there is no such process.
#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
pub(crate) fn resident_bytes_of(process: &str) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{process}/statm"))
        .ok()
        .and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_counted() {
        assert!(open_descriptors() >= 3);
    }

    #[test]
    fn memory_is_in_bytes() {
        let resident = resident_bytes();
        assert!((100_000..10_000_000_000).contains(&resident), "{resident}");
    }
}
