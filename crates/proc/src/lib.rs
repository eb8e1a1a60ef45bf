//! Child processes, and nothing else.
//!
//! This is the only crate of Seawall that starts a process or contains `unsafe`. It knows no protocol and no
//! configuration, and it spawns no task: [`spawn`] hands out the parts of a child, and the caller runs their
//! futures. One thread of its own looks at `/proc` for those that wait for it.
//!
//! * [`Process`] follows the pid and owns the end ladder. That a pipe is at its end says nothing about a
//!   process: a grandchild may hold the pipe open for ever, and a living child may close it.
//! * [`Stdin`] and [`Lines`] are the two directions of the conversation. They are apart so that reading never
//!   waits for writing.
//! * [`Stderr`] must be drained: a child whose stderr pipe is full stops in the middle of whatever it does.
//! * [`Identity`] names a child for a later daemon, which ends with [`end_leftover`] what this one could not.
//!
//! What comes from a child is found in four ways: by the sessions, by the line of parents, by the [`MARK`] in its
//! environment, and by its control group where the daemon may make one below its own (cgroup v2).
//!
//! Every child leads a session of its own, so that a Ctrl-C on the daemon's terminal does not reach it and
//! one signal reaches all of its group. Linux 5.4 or later is required (pidfd).

mod cage;
mod detached;
mod end;
mod files;
mod leftover;
mod lines;
mod look;
mod mark;
mod run;
mod stderr;
mod tree;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{fmt, io};

use rustix::fs::Access;
use rustix::process::{Resource, Rlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

pub use detached::{Detached, start_detached};
pub use end::{EndStep, Ended, Process};
pub use files::{open_descriptors, raise_open_files, resident_bytes};
pub use leftover::{Identity, IdentityError, end_leftover};
pub use lines::{Line, Lines};
pub use mark::MARK;
pub use run::{RunError, run};
pub use stderr::{Stderr, Tail};
pub use tree::{become_subreaper, reap_orphans};

/// What a child may inherit from the daemon besides `LC_*`: where things are and how to show them, nothing
/// that authorises.
const INHERITED: [&str; 14] = [
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
];

/// What to start.
#[derive(Clone)]
pub struct Command {
    /// A path, or a bare name that is looked up on the `PATH` of `environment`.
    pub program: OsString,
    /// The arguments after the program's own name.
    pub args: Vec<OsString>,
    /// The whole environment of the child; nothing but [`MARK`] is added to it. A later entry of the same name wins.
    pub environment: Vec<(OsString, OsString)>,
    /// The working directory; the daemon's own when absent.
    pub directory: Option<PathBuf>,
    /// The longest line of stdout that is handed out, in bytes without its line end.
    pub max_line: usize,
    /// How much of the end of stderr is kept, in bytes.
    pub stderr_ring: usize,
}

/// Shows neither argument nor environment values: either may be a secret.
impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&OsString> = self.environment.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .field("environment", &names)
            .field("directory", &self.directory)
            .field("max_line", &self.max_line)
            .field("stderr_ring", &self.stderr_ring)
            .finish()
    }
}

/// A started child, in parts that belong to different owners.
#[derive(Debug)]
pub struct Child {
    /// The process itself: its exit and its end.
    pub process: Process,
    /// What the child reads.
    pub stdin: Stdin,
    /// What the child says, line by line.
    pub stdout: Lines,
    /// What the child complains about; drain it.
    pub stderr: Stderr,
}

/// The writing end of a child's stdin. Dropping it is end of file to the child.
#[derive(Debug)]
pub struct Stdin {
    pipe: pipe::Sender,
}

impl Stdin {
    /// Writes all of `bytes`; the caller brings the newlines.
    ///
    /// Waits while the pipe is full, which may be for ever with a child that does not read: give it a time
    /// limit. Not cancel-safe: a write that is dropped half-way leaves half a line behind, and the child must
    /// then be ended.
    ///
    /// # Errors
    /// `BrokenPipe` if the child has closed its stdin or is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pipe.write_all(bytes).await
    }
}

/// What a child may inherit from the daemon's own environment: `HOME`, `PATH`, locale, time zone and the
/// like.
///
/// Exported shell functions are left out, whatever their name: shells run them.
pub fn inherited_environment() -> Vec<(OsString, OsString)> {
    let harmless =
        |name: &OsStr| name.as_bytes().starts_with(b"LC_") || INHERITED.iter().any(|known| name == *known);
    std::env::vars_os()
        .filter(|(name, value)| harmless(name) && !value.as_bytes().starts_with(b"()"))
        .collect()
}

/// Starts a child in a session of its own, with its three streams piped, default signal handling, an empty
/// signal mask and the open-file limit that the daemon itself was started with.
///
/// Returns once the program has been executed, or could not be: blocks for a millisecond, and for some tens of them
/// where the child enters a control group, so that a runtime thread should not be the one to call this. Must be called
/// within a Tokio runtime with I/O enabled; a thread for blocking work is within.
///
/// # Errors
/// [`SpawnError`] says what stood in the way and what to do about it.
pub fn spawn(command: &Command) -> Result<Child, SpawnError> {
    spawn_within(command, usize::MAX)
}

/// The same as [`spawn`], where there are fewer than `most` children already, those that are ending included.
///
/// # Errors
/// [`SpawnErrorKind::Limit`] where there are as many, else as [`spawn`].
pub fn spawn_within(command: &Command, most: usize) -> Result<Child, SpawnError> {
    let Some(spawning) = tree::Spawning::begin(most) else {
        return Err(SpawnError {
            program: command.program.clone(),
            kind: SpawnErrorKind::Limit,
            remedy: format!("there are {most} processes of servers already"),
            source: io::ErrorKind::QuotaExceeded.into(),
        });
    };
    start(command, spawning).map_err(|source| SpawnError::explain(command, source))
}

fn start(command: &Command, spawning: tree::Spawning) -> io::Result<Child> {
    let (child_stdin, stdin) = io::pipe()?;
    let (stdout, child_stdout) = io::pipe()?;
    let (stderr, child_stderr) = io::pipe()?;
    let process = launch(command, [child_stdin.into(), child_stdout.into(), child_stderr.into()], spawning)?;
    Ok(Child {
        process,
        stdin: Stdin { pipe: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))? },
        stdout: Lines::new(pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?, command.max_line),
        stderr: Stderr::new(pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?, command.stderr_ring),
    })
}

/// Starts a child on these three streams.
#[expect(clippy::disallowed_methods, reason = "the one place that starts a process")]
#[expect(unsafe_code, reason = "what a child does between fork and exec has no safe interface")]
fn launch(
    command: &Command,
    [stdin, stdout, stderr]: [Stdio; 3],
    spawning: tree::Spawning,
) -> io::Result<Process> {
    let open_files = files::limit_for_children();
    let mark = mark::mint().unwrap_or_default();
    let (cage, door) = cage::Cage::make(&mark).unzip();

    let mut starter = tokio::process::Command::new(&command.program);
    starter
        .args(&command.args)
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .kill_on_drop(true);
    if !mark.is_empty() {
        starter.env(MARK, &mark);
    }
    if let Some(directory) = &command.directory {
        starter.current_dir(directory);
    }
    let enter = move || {
        if let Some(door) = &door {
            // A kernel that refuses leaves the child where it is.
            let _ = rustix::io::write(door, b"0");
        }
        prepare(open_files)
    };
    // SAFETY: `enter` runs in the forked child, where other threads' locks may be held for ever. It makes
    // system calls only: it neither allocates nor locks, and what it captures is a plain value and an open
    // file, which it does not close.
    unsafe { starter.pre_exec(enter) };

    Process::new(starter.spawn()?, spawning, mark, cage)
}

/// The last thing that happens before the child becomes its program.
#[expect(unsafe_code, reason = "signal dispositions and the mask are only reachable through libc")]
fn prepare(open_files: Option<Rlimit>) -> io::Result<()> {
    rustix::process::setsid()?;
    if let Some(limit) = open_files {
        rustix::process::setrlimit(Resource::Nofile, limit)?;
    }
    // What the daemon ignores or blocks, or was started with ignored or blocked, would stay so in the child.
    // SAFETY: `signal`, `sigemptyset` and `pthread_sigmask` are safe to call between fork and exec, the set
    // is initialised before it is read, and no handler is installed. KILL and STOP refuse, which changes
    // nothing.
    unsafe {
        for number in 1..32 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut nothing = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(nothing.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, nothing.as_ptr(), std::ptr::null_mut());
    }
    Ok(())
}

/// Why a child could not be started, for deciding whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpawnErrorKind {
    /// No such program.
    NotFound,
    /// The program is a script whose interpreter does not exist.
    Interpreter,
    /// The file may not be executed, or is not a program for this machine.
    NotExecutable,
    /// The working directory does not exist or may not be entered.
    Directory,
    /// The daemon or the machine has too many open files. May pass.
    OpenFiles,
    /// The machine has no memory or no process number to spare. May pass.
    Resources,
    /// Arguments and environment together are longer than the system takes.
    TooLong,
    /// There are as many children as the caller allows. May pass.
    Limit,
    /// A NUL byte in the program, an argument, the environment or the directory.
    Invalid,
    /// Anything else; the source says what.
    Other,
}

/// A child that could not be started: which, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot start `{}`: {remedy}", .program.display())]
pub struct SpawnError {
    /// The program as it was given.
    pub program: OsString,
    /// Why, for code.
    pub kind: SpawnErrorKind,
    /// Why and what to do, for people.
    pub remedy: String,
    /// What the system said.
    pub source: io::Error,
}

impl SpawnError {
    fn explain(command: &Command, source: io::Error) -> Self {
        let absent = |code| code == libc::ENOENT || code == libc::ENOTDIR;
        let kind = match source.raw_os_error() {
            Some(code) if (absent(code) || code == libc::EACCES) && !can_enter(command) => {
                SpawnErrorKind::Directory
            }
            Some(code) if absent(code) && exists(command) => SpawnErrorKind::Interpreter,
            Some(code) if absent(code) => SpawnErrorKind::NotFound,
            Some(libc::EACCES | libc::EPERM | libc::ENOEXEC) => SpawnErrorKind::NotExecutable,
            Some(libc::EMFILE | libc::ENFILE) => SpawnErrorKind::OpenFiles,
            Some(libc::EAGAIN | libc::ENOMEM) => SpawnErrorKind::Resources,
            Some(libc::E2BIG) => SpawnErrorKind::TooLong,
            None if source.kind() == io::ErrorKind::InvalidInput => SpawnErrorKind::Invalid,
            Some(_) | None => SpawnErrorKind::Other,
        };
        let remedy = match kind {
            SpawnErrorKind::NotFound if is_path(&command.program) => {
                "there is no such file; correct the path".to_owned()
            }
            SpawnErrorKind::NotFound => match path_of(command) {
                Some(path) => {
                    format!("not found on PATH ({}); install it or give its full path", path.display())
                }
                None => {
                    "its environment has no PATH to find it on; set PATH or give its full path".to_owned()
                }
            },
            SpawnErrorKind::Interpreter => {
                "the file exists, but the interpreter in its first line does not; install that".to_owned()
            }
            SpawnErrorKind::NotExecutable => {
                "it may not be executed; make it executable (chmod +x) or name its interpreter as the command"
                    .to_owned()
            }
            SpawnErrorKind::Directory => format!(
                "the working directory `{}` does not exist or may not be entered",
                command.directory.as_deref().unwrap_or_else(|| Path::new(".")).display()
            ),
            SpawnErrorKind::OpenFiles => {
                "too many open files; raise `ulimit -n` (LimitNOFILE= in a unit)".to_owned()
            }
            SpawnErrorKind::Resources => {
                "the system has no memory or process to spare; lower what runs at once".to_owned()
            }
            SpawnErrorKind::TooLong => "its arguments and environment are too long; shorten them".to_owned(),
            SpawnErrorKind::Invalid => {
                "the command, an argument, the environment or the directory contains a NUL byte".to_owned()
            }
            SpawnErrorKind::Limit | SpawnErrorKind::Other => source.to_string(),
        };
        Self { program: command.program.clone(), kind, remedy, source }
    }
}

fn is_path(program: &OsStr) -> bool {
    program.as_bytes().contains(&b'/')
}

fn path_of(command: &Command) -> Option<&OsStr> {
    command.environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str())
}

fn can_enter(command: &Command) -> bool {
    let Some(directory) = &command.directory else { return true };
    directory.is_dir() && rustix::fs::access(directory, Access::EXEC_OK).is_ok()
}

/// Whether the program is there at all, where the child would have looked.
fn exists(command: &Command) -> bool {
    let here = command.directory.as_deref().unwrap_or_else(|| Path::new("."));
    if is_path(&command.program) {
        return here.join(&command.program).is_file();
    }
    path_of(command).is_some_and(|path| {
        std::env::split_paths(path).any(|entry| here.join(entry).join(&command.program).is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(program: &str, path: &str) -> Command {
        Command {
            program: program.into(),
            args: vec!["--token=hunter2".into()],
            environment: vec![("PATH".into(), path.into()), ("KEY".into(), "hunter2".into())],
            directory: None,
            max_line: 1024,
            stderr_ring: 1024,
        }
    }

    fn explain(command: &Command, code: i32) -> SpawnError {
        SpawnError::explain(command, io::Error::from_raw_os_error(code))
    }

    #[test]
    fn one_system_error_has_several_causes() {
        let bare = explain(&command("no-such-program", "/nowhere:/usr/bin"), libc::ENOENT);
        assert_eq!(bare.kind, SpawnErrorKind::NotFound);
        let text = bare.to_string();
        assert!(text.contains("no-such-program") && text.contains("/nowhere:/usr/bin"), "{text}");

        assert_eq!(explain(&command("/no/such", "/bin"), libc::ENOENT).kind, SpawnErrorKind::NotFound);
        assert_eq!(explain(&command("/etc/passwd", "/bin"), libc::ENOENT).kind, SpawnErrorKind::Interpreter);
        assert_eq!(explain(&command("passwd", "/etc"), libc::ENOENT).kind, SpawnErrorKind::Interpreter);

        let mut lost = command("sh", "/bin");
        lost.directory = Some("/no/such".into());
        let lost = explain(&lost, libc::ENOENT);
        assert_eq!(lost.kind, SpawnErrorKind::Directory);
        assert!(lost.to_string().contains("/no/such"), "{lost}");
    }

    #[test]
    fn what_may_pass_is_told_from_what_may_not() {
        let command = command("sh", "/bin");
        assert_eq!(explain(&command, libc::EACCES).kind, SpawnErrorKind::NotExecutable);
        assert_eq!(explain(&command, libc::EMFILE).kind, SpawnErrorKind::OpenFiles);
        assert_eq!(explain(&command, libc::EAGAIN).kind, SpawnErrorKind::Resources);
        assert_eq!(explain(&command, libc::EIO).kind, SpawnErrorKind::Other);
    }

    #[tokio::test]
    async fn there_are_no_more_children_than_allowed() {
        let refused = spawn_within(&command("true", "/bin:/usr/bin"), 0).expect_err("none is allowed");
        assert_eq!(refused.kind, SpawnErrorKind::Limit);
        assert!(refused.to_string().contains("already"), "{refused}");
    }

    #[test]
    fn a_command_does_not_show_secrets() {
        let shown = format!("{:?}", command("sh", "/bin"));
        assert!(shown.contains("KEY") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_is_inherited_is_an_allow_list() {
        // Cargo sets this for every test that it runs, and no server needs it.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let inherited = inherited_environment();
        assert!(inherited.iter().any(|(name, _)| name == "PATH"));
        assert!(!inherited.iter().any(|(name, _)| name == "CARGO_MANIFEST_DIR"));
    }
}
