//! A process that outlives whoever started it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;

/// A log that has grown beyond this many bytes is begun anew.
const LARGEST_LOG: u64 = 1 << 20;

/// A process that was started to go on by itself. Dropped, it is left alone.
#[derive(Debug)]
pub struct Detached {
    child: tokio::process::Child,
}

impl Detached {
    /// Its exit code once it has ended: -1 where a signal ended it, or where its status is not known.
    pub fn exit_code(&mut self) -> Option<i32> {
        match self.child.try_wait() {
            Ok(status) => status.map(|status| status.code().unwrap_or(-1)),
            // Somebody else has waited for it.
            Err(_) => Some(-1),
        }
    }
}

/// Starts a program in a session of its own, so that neither a Ctrl-C on the terminal nor the end of its parent
/// reaches it. It reads nothing, and all it writes is appended to `log`, whose directory is made where there is none,
/// for this user only. It works in `directory`, which must be there, and has the whole environment of this process,
/// but for the variables in `without`; signals are handled by default, as in every child.
///
/// It belongs to none of the children that this crate ends. To a process that reaps orphans it is one of them when it
/// ends, and its status is then lost. Must be called within a Tokio runtime with I/O enabled.
///
/// # Errors
/// What the system said to opening the log or to starting the program.
#[expect(clippy::disallowed_methods, reason = "this crate is the one that starts processes")]
#[expect(unsafe_code, reason = "what a child does between fork and exec has no safe interface")]
pub fn start_detached(
    program: &Path,
    args: &[OsString],
    without: &[&str],
    directory: &Path,
    log: &Path,
) -> io::Result<Detached> {
    let log = open_log(log)?;
    let open_files = crate::files::limit_for_children();
    let mut starter = tokio::process::Command::new(program);
    starter.args(args).current_dir(directory).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    for name in without {
        starter.env_remove(name);
    }
    // Where this process itself comes from a child of a Seawall, the mark would have it ended with that child also
    // after its parent is gone. As long as the parent lives, and in a control group of that child, it still is.
    starter.env_remove(crate::MARK);
    // SAFETY: `prepare` makes system calls only: it neither allocates nor locks, and what it captures is a plain
    // value.
    unsafe { starter.pre_exec(move || crate::prepare(open_files)) };
    Ok(Detached { child: starter.spawn()? })
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if log.metadata()?.len() > LARGEST_LOG {
        log.set_len(0)?;
    }
    Ok(log)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read the log themselves")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    async fn ended(process: &mut Detached) -> i32 {
        loop {
            if let Some(code) = process.exit_code() {
                return code;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn shell(script: &str, without: &[&str], log: &Path) -> Detached {
        let args = ["-c".into(), script.into()];
        start_detached(Path::new("/bin/sh"), &args, without, Path::new("/usr"), log).expect("a shell")
    }

    #[tokio::test]
    async fn it_leads_its_own_session_reads_nothing_and_logs_to_a_private_file() {
        let directory = std::env::temp_dir().join(format!("seawall-detached-{}", std::process::id()));
        let log = directory.join("log/of-it");
        let script = "cat; echo \"home=$HOME in=$(pwd -P) path=$PATH\"; \
            cut -d' ' -f6 /proc/$$/stat >&2; echo $$; exit 3";
        let mut process = shell(script, &["HOME"], &log);
        assert_eq!(ended(&mut process).await, 3);
        let said = std::fs::read_to_string(&log).expect("the log");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[0].starts_with("home= in=/usr path="), "{said}");
        assert_eq!(lines[1], lines[2], "it does not lead its session: {said}");
        let mode = |path: &Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&log)), (0o700, 0o600));

        let mut again = shell("echo more", &[], &log);
        assert_eq!(ended(&mut again).await, 0);
        let more = std::fs::read_to_string(&log).expect("the log");
        assert_eq!(more, format!("{said}more\n"));
        std::fs::remove_dir_all(&directory).expect("it is ours");
    }
}
