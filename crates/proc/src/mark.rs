//! The mark: a variable that says from which child a process comes, whoever its parent is by now.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::files::is_shortage;

/// The variable that every child is started with, and that its descendants inherit. Its value is drawn for each child
/// and is no secret.
///
/// It does not begin with `SEAWALL_`: those are settings, and a Seawall that is a child itself refuses unknown ones.
pub const MARK: &str = "STARTED_BY_SEAWALL";

/// What the marks of all children of this process begin with. It ends in a point, and is never only that; `None` if
/// the kernel gives no random numbers, and then there are no marks.
pub(crate) fn run() -> Option<&'static str> {
    static RUN: OnceLock<Option<String>> = OnceLock::new();
    RUN.get_or_init(|| Some(format!("{}.", draw()?))).as_deref()
}

/// A mark that nobody has.
pub(crate) fn mint() -> Option<String> {
    Some(format!("{}{}", run()?, draw()?))
}

/// 32 digits that nobody else has drawn. Asked of the kernel, not of `/proc`: where a part of that is hidden, all would
/// draw the same.
fn draw() -> Option<String> {
    let mut bytes = [0_u8; 16];
    let drawn = retry_on_intr(|| getrandom(&mut bytes, GetRandomFlags::empty())).ok()?;
    (drawn == bytes.len()).then(|| format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// What the kernel says under `/proc/sys/kernel/random`, or nothing.
#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
pub(crate) fn kernel_random(name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/random/{name}")).unwrap_or_default();
    text.trim().to_owned()
}

/// Whether a mark names no child and no run, so that anybody might fit it.
pub(crate) fn is_nobodys(mark: &str) -> bool {
    mark.is_empty() || mark == "."
}

/// Whether a value is this mark, or, of one that ends in a point, begins with it.
pub(crate) fn fits(value: &[u8], mark: &str) -> bool {
    value == mark.as_bytes() || (mark.ends_with('.') && value.starts_with(mark.as_bytes()))
}

/// Whether a process was started with a mark that [`fits`]; `None` if that cannot be said, or not yet: a process in the
/// middle of becoming a program has no environment. Only processes of this user are asked.
///
/// # Errors
/// This process lacks what it takes to ask.
#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
pub(crate) fn carries(pid: u32, mark: &str) -> io::Result<Option<bool>> {
    let read = || -> io::Result<Vec<u8>> {
        let owner = std::fs::metadata(format!("/proc/{pid}"))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Ok(Vec::new());
        }
        std::fs::read(format!("/proc/{pid}/environ"))
    };
    let environment = match read() {
        Ok(environment) => environment,
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(None),
    };
    let is_mark = |variable: &[u8]| {
        let value = variable.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| fits(value, mark))
    };
    Ok((!environment.is_empty()).then(|| environment.split(|byte| *byte == 0).any(is_mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_drawn_for_each() {
        let mark = mint().expect("random numbers");
        assert_eq!(mark.len(), 65, "{mark}");
        assert!(mark.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.'), "{mark}");
        let run = run().expect("random numbers");
        assert!(run.len() == 33 && run.ends_with('.') && mark.starts_with(run), "{run} {mark}");
        assert_ne!(mint(), Some(mark));
    }

    #[test]
    fn only_a_mark_with_a_point_fits_what_it_begins() {
        assert!(fits(b"0af3.1", "0af3.1") && fits(b"0af3.1", "0af3."));
        assert!(!fits(b"0af3.12", "0af3.1") && !fits(b"0af31", "0af3."));
        assert!(is_nobodys("") && is_nobodys(".") && !is_nobodys("0af3."));
    }

    #[test]
    fn a_stranger_carries_none() {
        let mark = mint().expect("random numbers");
        assert_eq!(carries(std::process::id(), &mark).expect("descriptors to spare"), Some(false));
        assert_eq!(carries(u32::MAX, &mark).expect("descriptors to spare"), None);
    }
}
