//! What a daemon left behind that had no time to end its children: it was killed, or the machine's memory ran out.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use crate::cage;
use crate::end::{EndStep, Ended, KILL_WAIT};
use crate::look::Kin;
use crate::mark::{is_nobodys, kernel_random};
use crate::tree::is_child;

/// A child, named for good: also for a later daemon, and when its number has gone to another process.
///
/// Its text form is `PID:STARTED:BOOT:MARK`, by [`Display`](fmt::Display) and [`FromStr`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process number, which is also that of its session.
    pub pid: u32,
    /// The start time, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
    /// The boot in which it was started (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The value of [`MARK`](crate::MARK) in its environment; empty if none could be drawn.
    pub mark: String,
}

impl Identity {
    /// What stands for all children of this process together: it has no number, and what every one of their marks
    /// begins with. Kept before the first of them is started, it lets a later daemon find also those that there was no
    /// time to keep. Where there are no marks it stands for nobody.
    pub fn of_this_run() -> Self {
        let mark = crate::mark::run().unwrap_or_default().to_owned();
        Self { pid: 0, started: 1, boot: boot().to_owned(), mark }
    }
}

/// A text that names no child.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form PID:STARTED:BOOT:MARK")]
pub struct IdentityError(String);

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, started, boot, mark } = self;
        write!(formatter, "{pid}:{started}:{boot}:{mark}")
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let parse = || {
            let mut parts = text.split(':');
            let identity = Self {
                pid: parts.next()?.parse().ok()?,
                started: parts.next()?.parse().ok()?,
                boot: parts.next()?.to_owned(),
                mark: parts.next()?.to_owned(),
            };
            parts.next().is_none().then_some(identity)
        };
        parse().ok_or_else(|| IdentityError(text.to_owned()))
    }
}

/// The present boot; empty if `/proc` cannot be read.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| kernel_random("boot_id"))
}

/// Ends what is left of a child that a former daemon started and did not end: SIGTERM, `grace`, SIGKILL. Returns when
/// all of it is gone, or two seconds after SIGKILL. `None` if nothing was left, or if `/proc` could not be read for the
/// whole of `grace`.
///
/// The child itself may be long gone. Its are the session that it led, everybody who carries its mark or is in its
/// control group, the sessions of those, and all that descends from any of them. Of another boot, nothing is, nor is
/// anything where the mark is empty or only a point. Where the child's number has another start time now, its session is
/// not taken for the child's, nor where the child is gone and nobody in the session carries the mark. Neither process 1
/// nor this process nor any of its ancestors is signalled, nor is a child of this daemon a leftover.
///
/// They are no children of ours, so their [`status`](Ended::status) is not known, and they are looked for in `/proc`
/// until they are gone. The first look reads the environment of every process of this user that is younger than the
/// child, except of those that wait in the kernel at that moment: reading might wait with them. At the end, control
/// groups that former daemons left empty are removed. Dropping the future leaves whatever still lives.
pub async fn end_leftover(identity: &Identity, grace: Duration) -> Option<Ended> {
    // A start time that was never known would fit nobody, and everybody is younger.
    if identity.started == 0 || identity.boot.is_empty() || identity.boot != boot() {
        return None;
    }
    // Nor is anybody known by no mark at all.
    if is_nobodys(&identity.mark) || is_child(identity.pid, identity.started) {
        return None;
    }
    let ended = end_family(identity, grace).await;
    // The family is gone, and what it was in with it.
    cage::sweep_former();
    ended
}

async fn end_family(identity: &Identity, grace: Duration) -> Option<Ended> {
    let find = Kin::find(identity.pid, identity.started, &identity.mark);
    let family = timeout(grace, find).await.ok()?;
    let living = family.look().await;
    if living.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    family.signal(living.as_deref().unwrap_or_default(), Signal::TERM);
    let mut ended = Ended { step: EndStep::Terminate, status: None, survivors: 0, stop: None };
    if timeout(grace, family.gone()).await.is_err() {
        ended.step = EndStep::Kill;
        if timeout(KILL_WAIT, family.killed()).await.is_err() {
            ended.survivors = family.look().await.map_or(0, |living| living.len());
        }
    }
    Some(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_as_text() {
        let identity =
            Identity { pid: 42, started: 104_824, boot: "4b0c-587b".to_owned(), mark: "0af3".to_owned() };
        let text = identity.to_string();
        assert_eq!(text, "42:104824:4b0c-587b:0af3");
        assert_eq!(text.parse::<Identity>(), Ok(identity));
        for wrong in ["", "42", "42:1:b", "42:1:b:m:x", "-1:1:b:m", "42:x:b:m"] {
            let error = wrong.parse::<Identity>().expect_err("it is no identity");
            assert!(error.to_string().contains("PID:STARTED"), "{error}");
        }
    }

    #[tokio::test]
    async fn without_a_mark_nobody_is_left() {
        let run = Identity::of_this_run();
        assert!(run.pid == 0 && run.mark.len() == 33 && run.mark.ends_with('.'), "{run}");
        for mark in ["", "."] {
            let nobody = Identity { mark: mark.to_owned(), ..run.clone() };
            assert_eq!(end_leftover(&nobody, Duration::ZERO).await, None, "{nobody}");
        }
    }

    #[test]
    fn the_boot_is_known() {
        assert_eq!(boot().len(), 36, "{}", boot());
    }
}
