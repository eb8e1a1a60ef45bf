//! The process itself: when it ended, and how it is ended.
//!
//! The child is observed through a pidfd and not reaped before its [`Process`] goes. Until then its number,
//! which is also that of its group and session, cannot be used again, so that a signal to the group can hit
//! nobody else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

use crate::cage::Cage;
use crate::leftover::{Identity, boot};
use crate::look::Kin;
use crate::run::{RunError, run};
use crate::tree::{Family, Spawning, peek_at, reap_registered};
use crate::{Command, Stdin, files};

/// How long to wait for the kernel after SIGKILL: only a process in an uninterruptible wait takes longer.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(2);

/// A child process, leader of its own session and group.
///
/// Exactly one owner ends it, with [`end`](Self::end). Dropping it un-ended kills it and all that descends
/// from it, at once.
#[derive(Debug)]
pub struct Process {
    child: tokio::process::Child,
    pidfd: AsyncFd<OwnedFd>,
    pid: Pid,
    id: u32,
    started: u64,
    family: Kin,
    stop: Option<Command>,
    status: Option<ExitStatus>,
    reaped: bool,
}

/// The step of the ladder at which the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndStep {
    /// It had ended by itself.
    Already,
    /// It ended when its stdin did.
    Eof,
    /// It ended while its stop command ran, or after it.
    Stop,
    /// It ended after SIGTERM.
    Terminate,
    /// It took SIGKILL.
    Kill,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it took to end the child itself; what it left behind may have taken more. Of a leftover, what it took to
    /// end all of it.
    pub step: EndStep,
    /// Its exit status; `None` if not even SIGKILL ended it in time (the kernel holds it), and of a leftover.
    pub status: Option<ExitStatus>,
    /// How many processes of its tree still lived after SIGKILL. Normally 0. Where `/proc` cannot be read, only the
    /// child itself is counted.
    pub survivors: usize,
    /// What became of its stop command; `None` if it has none.
    pub stop: Option<Result<(), RunError>>,
}

impl Process {
    #[expect(unsafe_code, reason = "Tokio asks for a promise about the descriptor")]
    pub(crate) fn new(
        child: tokio::process::Child,
        spawning: Spawning,
        mark: String,
        cage: Option<Cage>,
    ) -> io::Result<Self> {
        let id = child.id().expect("a child that nobody has waited for has a number");
        let pid = Pid::from_raw(id.cast_signed()).expect("no process has the number 0");
        let started = spawning.register(id);
        // It is only polled; to make it non-blocking takes Linux 5.10.
        let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: the `OwnedFd` owns its descriptor, is moved in here, and is neither replaced nor closed
        // until it is dropped.
        let pidfd = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        let family = Kin::new(Family::new(pid, started, mark, cage));
        Ok(Self { child, pidfd, pid, id, started, family, stop: None, status: None, reaped: false })
    }

    /// The process number, which is also that of its group and session.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The start time, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the number it names
    /// this process for good, until the next boot. 0 if `/proc` could not be read.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// What names this child for good, also for a later daemon: see [`end_leftover`](crate::end_leftover).
    pub fn identity(&self) -> Identity {
        let mark = self.family.last_seen().mark().to_owned();
        Identity { pid: self.id, started: self.started, boot: boot().to_owned(), mark }
    }

    /// Sets the command that [`end`](Self::end) runs where the process is not the server: one that ends a container,
    /// say. It is started like a child, and nothing is written to it. A process that is dropped un-ended has no time for
    /// it.
    pub fn stop_with(&mut self, command: Command) {
        self.stop = Some(command);
    }

    /// The resident memory of the child and all that descends from it, in bytes. What processes share is counted for
    /// each of them. 0 if `/proc` cannot be read.
    ///
    /// Reads all of `/proc`, on the thread for that. Descendants that are seen here are remembered: asked now and
    /// then, fewer can be lost. Cancel-safe.
    pub async fn resident_bytes(&mut self) -> u64 {
        let living = self.family.look().await.unwrap_or_default();
        living.iter().map(|entry| files::resident_bytes_of(&entry.pid.to_string())).sum()
    }

    /// Whether the child has not ended. Never waits.
    pub fn lives(&mut self) -> bool {
        self.look().is_none()
    }

    /// Waits until the child has ended. Follows the process, never its pipes.
    ///
    /// Cancel-safe, and answers the same again when asked again. If somebody else reaped the child, its
    /// status is unknown and reads as exit code 255.
    pub async fn exited(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.look() {
                return status;
            }
            match self.pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is shutting down; nobody will wait for the answer.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Ends the child and all that descends from it, step by step, and returns when they are gone: end of
    /// file on stdin, `grace`, the [stop command](Self::stop_with) if there is one, for `grace` at most, SIGTERM,
    /// `grace`, SIGKILL, reap.
    ///
    /// Each wait ends as soon as there is nothing left to wait for. The stop command runs whenever there is one, also
    /// when the child has ended: what it is to end may not have. SIGTERM and SIGKILL go to the group, and
    /// to the descendants that left it; what the child leaves behind when it obeys is treated alike. `stdin`
    /// is whatever the caller still holds of it: where another task has it, that task must drop it for the
    /// first step to do anything. Takes at most two `grace`, or three with a stop command, and two seconds; that long
    /// also where `/proc` cannot be read, since then nobody knows whether somebody lives.
    ///
    /// Dropping the future kills at once, as dropping the process does.
    pub async fn end(mut self, stdin: Option<Stdin>, grace: Duration) -> Ended {
        let mut step = self.look().map(|_| EndStep::Already);
        if step.is_none() {
            // While the parents still live: afterwards only the mark and the cage tell who left the session.
            self.family.look().await;
        }
        drop(stdin);
        if step.is_none() && timeout(grace, self.exited()).await.is_ok() {
            step = Some(EndStep::Eof);
        }
        let stop = self.run_stop(grace).await;
        if step.is_none() && stop.is_some() && self.look().is_some() {
            step = Some(EndStep::Stop);
        }

        let mut survivors = 0;
        let living = self.family.look().await;
        if step.is_none() || living.as_ref().is_none_or(|living| !living.is_empty()) {
            self.family.signal(living.as_deref().unwrap_or_default(), Signal::TERM);
            let _ = timeout(grace, self.gone()).await;
            if step.is_none() && self.look().is_some() {
                step = Some(EndStep::Terminate);
            }
            if timeout(KILL_WAIT, self.killed()).await.is_err() {
                let living = self.family.look().await;
                survivors = living.map_or_else(|| usize::from(self.lives()), |living| living.len());
            }
        }
        self.reap();
        Ended { step: step.unwrap_or(EndStep::Kill), status: self.status, survivors, stop }
    }

    /// Runs the stop command. One that went well has the rest of `grace` to show in the child.
    async fn run_stop(&mut self, grace: Duration) -> Option<Result<(), RunError>> {
        let command = self.stop.take()?;
        let began = Instant::now();
        let outcome = run(&command, grace).await;
        if outcome.is_ok() {
            let _ = timeout(grace.saturating_sub(began.elapsed()), self.exited()).await;
        }
        Some(outcome)
    }

    /// Kills the child, its group and every descendant that can be found, now, without waiting for any of
    /// them. Reads all of `/proc`, on the thread of whoever calls.
    pub fn kill(&self) {
        let mut family = self.family.last_seen();
        let living = family.look();
        family.signal(living.as_deref().unwrap_or_default(), Signal::KILL);
    }

    /// Waits until the child and all of its family have ended.
    async fn gone(&mut self) {
        self.exited().await;
        self.family.gone().await;
    }

    /// Kills until the child and all of its family have ended.
    async fn killed(&mut self) {
        self.family.killed().await;
        self.exited().await;
    }

    /// The exit status, if the child has ended.
    fn look(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = peek(self.pid);
        }
        self.status
    }

    /// Reaps the child if it has ended. Otherwise the runtime will, once the child is dropped.
    fn reap(&mut self) {
        if !self.reaped && self.look().is_some() {
            reap_registered(self.id, || {
                // The status is known already; this only lets go of the number.
                let _ = self.child.try_wait();
            });
            self.reaped = true;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.reap();
        }
    }
}

/// The exit status of a child that has ended, which stays unreaped.
fn peek(pid: Pid) -> Option<ExitStatus> {
    match peek_at(pid) {
        Ok(Some(status)) => {
            // The classic encoding of wait(2): exit code in the second byte, or signal in the first and 0x80
            // for a core.
            let raw = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => (code & 0xff) << 8,
                (None, Some(signal)) => signal | if status.dumped() { 0x80 } else { 0 },
                (None, None) => return None,
            };
            Some(ExitStatus::from_raw(raw))
        }
        Err(Errno::CHILD) => Some(ExitStatus::from_raw(0xff << 8)),
        Ok(None) | Err(_) => None,
    }
}
