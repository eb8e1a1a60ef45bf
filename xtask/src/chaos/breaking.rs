//! `cargo xtask chaos --break`: takes one guard at a time out of a copy of the source, and must see somebody notice.
//!
//! First everybody who is to notice looks at the copy as it is and must find nothing. The tests of the whole binary
//! are those of the workspace, with the `seawall` of the copy in the place of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::stderr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
};
use serde_json::{Value, json};

use super::copy::SourceCopy;
use super::guards::{GUARDS, Guard, Noticed};
use super::{build_workspace, chosen};
use crate::process::{cargo, run_visibly, workspace_root};
use crate::provision::{self, Place};
use crate::rig::{Process, at, descendants, emptied, target_directory};

/// How long one run of tests may take: one that hangs has noticed, too.
const LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// How long what a run left behind may take to be gone once it is killed.
const SWEEP: Duration = Duration::from_secs(10);

/// What came of one guard's absence.
struct Seen {
    guard: &'static Guard,
    /// Who noticed; nobody, in a bad run.
    red: Vec<String>,
    seconds: u64,
}

/// Breaks the guards of these names, or all of them, and prints a line for each. It is an error when nobody notices.
pub(super) fn run(only: &[String], as_json: bool) -> Result<(), String> {
    let guards = chosen(GUARDS, |guard| guard.name, only)?;
    let bench = Bench::prepare()?;
    bench.all_green(&guards)?;

    let mut all = Vec::new();
    for guard in guards {
        let seen = bench.without(guard).map_err(|why| format!("{}: {why}", guard.name))?;
        if !as_json {
            println!("{}", line(&seen));
        }
        all.push(seen);
    }
    if as_json {
        let guards: Vec<Value> = all
            .iter()
            .map(|seen| {
                let Seen { guard, red, seconds } = seen;
                json!({"guard": guard.name, "without": guard.without, "file": guard.file, "red": red,
                       "seconds": seconds})
            })
            .collect();
        println!("{:#}", json!({"guards": guards}));
    }
    let unseen: Vec<&str> =
        all.iter().filter(|seen| seen.red.is_empty()).map(|seen| seen.guard.name).collect();
    if unseen.is_empty() {
        return Ok(());
    }
    let logs = bench.logs.display();
    Err(format!("nobody notices that these guards are missing: {}; logs are in {logs}", unseen.join(", ")))
}

fn line(seen: &Seen) -> String {
    let Seen { guard, red, seconds } = seen;
    let (verdict, who) = match red.split_first() {
        None => ("STILL GREEN", String::new()),
        Some((first, [])) => ("red", format!(": {first}")),
        Some((first, more)) => ("red", format!(": {first} and {} more", more.len())),
    };
    format!("{:<32} {verdict}, {seconds} s: without it {}{who}", guard.name, guard.without)
}

struct Bench {
    copy: SourceCopy,
    place: Place,
    logs: PathBuf,
}

impl Bench {
    fn prepare() -> Result<Self, String> {
        // What a broken Seawall leaves behind becomes ours, so that it can be found and ended.
        set_child_subreaper(Some(getpid())).map_err(|error| format!("cannot adopt orphans: {error}"))?;
        let place = provision::ensure()?;
        build_workspace()?;
        let directory = target_directory().join("chaos");
        let logs = directory.join("break");
        emptied(&logs)?;
        let copy = SourceCopy::synced(&workspace_root(), &directory)?;
        Ok(Self { copy, place, logs })
    }

    /// Everybody who is to notice something looks at the source as it is.
    fn all_green(&self, guards: &[&'static Guard]) -> Result<(), String> {
        eprintln!("chaos: before anything is broken");
        self.build(Step::Seawall)?;
        let (mut checked, mut tested) = (BTreeSet::new(), BTreeSet::new());
        for guard in guards {
            if let Noticed::Checking { package, .. } = guard.noticed {
                if checked.insert(package) {
                    let log = self.logs.join(format!("intact-{package}.log"));
                    let ended = run_limited(&mut self.check(package), &log)?;
                    if !ended.is_some_and(|status| status.success()) {
                        return Err(format!("the source does not pass as it is; see {}", log.display()));
                    }
                }
                continue;
            }
            self.build(Step::Tests(&guard.noticed))?;
            if !tested.insert(format!("{:?}", guard.noticed)) {
                continue;
            }
            let outcome = self.test(&guard.noticed, &format!("intact-{}", guard.name))?;
            if !outcome.red.is_empty() {
                let red = outcome.red.join(", ");
                return Err(format!(
                    "{}: {red} fails with nothing broken; see {}",
                    guard.name,
                    self.logs.display()
                ));
            }
        }
        Ok(())
    }

    fn without(&self, guard: &'static Guard) -> Result<Seen, String> {
        eprintln!("chaos: without {}", guard.name);
        let began = SystemTime::now();
        let broken = self.copy.without(guard)?;
        let red = match &guard.noticed {
            Noticed::Checking { package, words } => {
                let log = self.logs.join(format!("{}.log", guard.name));
                let ended = run_limited(&mut self.check(package), &log)?;
                let said = fs::read_to_string(&log).map_err(at(&log))?;
                let word = words.iter().find(|word| said.contains(**word));
                // That it fails for another reason would say nothing about this guard.
                match (ended.is_some_and(|status| status.success()), word) {
                    (true, _) => Vec::new(),
                    (false, Some(word)) => vec![(*word).to_owned()],
                    (false, None) => {
                        return Err(format!("it fails for another reason; see {}", log.display()));
                    }
                }
            }
            Noticed::Beside { .. } => {
                self.build(Step::Tests(&guard.noticed))?;
                self.test(&guard.noticed, guard.name)?.red
            }
            Noticed::Whole { .. } => {
                self.build(Step::Seawall)?;
                self.test(&guard.noticed, guard.name)?.red
            }
        };
        drop(broken);
        // An unsteady clock is no reason to fail.
        let seconds = began.elapsed().map_or(0, |time| time.as_secs());
        Ok(Seen { guard, red, seconds })
    }

    fn check(&self, package: &str) -> Command {
        let mut command = self.copy.cargo("clippy");
        command.args(["--package", package, "--", "--deny", "warnings"]);
        command
    }

    /// Builds what the next run needs. What does not compile is a fault of the list of guards.
    fn build(&self, step: Step<'_>) -> Result<(), String> {
        let mut command = match step {
            Step::Seawall => {
                let mut command = self.copy.cargo("build");
                command.args(["--quiet", "--package", "seawall", "--bin", "seawall"]);
                command
            }
            Step::Tests(noticed) => {
                let mut command = self.command(noticed)?;
                command.args(["--quiet", "--no-run"]);
                command
            }
        };
        let built = run_visibly(command.stdout(stderr()))?;
        if built.success() { Ok(()) } else { Err(format!("it does not compile ({built})")) }
    }

    /// The cargo command for tests, without the filter of their names.
    fn command(&self, noticed: &Noticed) -> Result<Command, String> {
        match noticed {
            Noticed::Checking { .. } => Err("the compiler is no test".to_owned()),
            Noticed::Beside { package, target, .. } => {
                let mut command = self.copy.cargo("test");
                command.args(["--package", *package]).args(*target);
                Ok(command)
            }
            Noticed::Whole { file, .. } => {
                let mut command = cargo();
                command
                    .args(["test", "--package", "seawall-tests", "--test", *file])
                    .env("SEAWALL_PROVISION", self.place.root())
                    .env("SEAWALL_BINARY", self.copy.seawall());
                Ok(command)
            }
        }
    }

    fn test(&self, noticed: &Noticed, name: &str) -> Result<Outcome, String> {
        let mut command = self.command(noticed)?;
        command.arg("--").args(noticed.tests());
        let log = self.logs.join(format!("{name}.log"));
        let before = descendants(std::process::id());
        let ended = run_limited(&mut command, &log)?;
        sweep(&before)?;
        let said = fs::read_to_string(&log).map_err(at(&log))?;
        let mut outcome = Outcome::read(&said);
        if ended.is_none() {
            outcome.red.push(format!("no end within {} s", LIMIT.as_secs()));
        }
        if outcome.green == 0 && outcome.red.is_empty() {
            return Err(format!("no test ran; see {}", log.display()));
        }
        Ok(outcome)
    }
}

/// What is built before a run.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// The `seawall` of the copy.
    Seawall,
    /// The tests.
    Tests(&'a Noticed),
}

/// What the test runner printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    red: Vec<String>,
    green: usize,
}

impl Outcome {
    fn read(said: &str) -> Self {
        let mut outcome = Self::default();
        for line in said.lines() {
            let Some(rest) = line.strip_prefix("test ") else { continue };
            if let Some(name) = rest.strip_suffix(" ... FAILED") {
                outcome.red.push(name.to_owned());
            } else if rest.ends_with(" ... ok") {
                outcome.green += 1;
            }
        }
        outcome
    }
}

/// Runs a command in a process group of its own with its output in a file; one that takes too long is killed and has
/// no status.
fn run_limited(command: &mut Command, log: &Path) -> Result<Option<ExitStatus>, String> {
    let file = fs::File::create(log).map_err(at(log))?;
    let second = file.try_clone().map_err(at(log))?;
    let shown = format!("{command:?}");
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let spawned = command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(second).spawn();
    let mut child = spawned.map_err(failed)?;
    let mut waited = Duration::ZERO;
    while waited < LIMIT {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(Some(status));
        }
        sleep(POLL);
        waited += POLL;
    }
    // It is not reaped yet, so the number is still that of its group.
    kill_process_group(Pid::from_child(&child), Signal::KILL).ok();
    child.wait().map_err(failed)?;
    Ok(None)
}

/// Ends what a run left behind: everything that descends from this process and did not before.
fn sweep(before: &[Process]) -> Result<(), String> {
    let same = |one: &Process, other: &Process| one.pid == other.pid && one.started == other.started;
    let mut waited = Duration::ZERO;
    loop {
        let now = descendants(std::process::id());
        let left: Vec<&Process> =
            now.iter().filter(|process| !before.iter().any(|known| same(known, process))).collect();
        if left.is_empty() {
            return Ok(());
        }
        if waited >= SWEEP {
            let left: Vec<u32> = left.iter().map(|process| process.pid).collect();
            return Err(format!("a run left processes that cannot be ended: {left:?}"));
        }
        for process in left {
            let Some(pid) = Pid::from_raw(process.pid.cast_signed()) else { continue };
            if process.dead {
                // Only ours can be reaped; others are reaped by their parents, or become ours.
                waitpid(Some(pid), WaitOptions::NOHANG).ok();
            } else {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        sleep(POLL);
        waited += POLL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_read_by_name() {
        let said =
            "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... ok\nfailures:\n    a::c\n";
        assert_eq!(Outcome::read(said), Outcome { red: vec!["a::c".to_owned()], green: 2 });
        assert_eq!(Outcome::read("test result: ok. 0 passed"), Outcome::default());
    }

    #[test]
    fn a_line_says_who_noticed() {
        let guard = &GUARDS[0];
        let seen = |red: &[&str]| {
            let red = red.iter().map(|name| (*name).to_owned()).collect();
            line(&Seen { guard, red, seconds: 3 })
        };
        assert!(seen(&[]).contains("STILL GREEN"));
        assert!(seen(&["a"]).ends_with(": a"));
        assert!(seen(&["a", "b"]).ends_with(": a and 1 more"));
    }
}
