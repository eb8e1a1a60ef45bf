//! First launches of one package take turns: `npx` and its like install into a place they share, and two of them at
//! once have been seen to wreck it (npm/cli#8224).

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Programs that fetch what they run.
const LAUNCHERS: [&str; 10] = ["npx", "npm", "pnpx", "pnpm", "bunx", "bun", "uvx", "uv", "pipx", "deno"];
/// Their words before the package's name.
const VERBS: [&str; 7] = ["exec", "x", "dlx", "run", "tool", "start", "install"];
/// Their flags that are followed by the package's name.
const NAMES: [&str; 4] = ["-p", "--package", "--from", "--spec"];

/// Which packages have been launched, and whose turn it is for the others.
#[derive(Clone, Debug, Default)]
pub struct Launches(Arc<Mutex<HashMap<String, State>>>);

#[derive(Debug)]
enum State {
    /// It has never been up: one start at a time.
    New(Arc<Semaphore>),
    /// It has been up once, so it is installed.
    Installed,
}

/// The turn of one launch. Dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    launches: Launches,
    package: String,
    _permit: OwnedSemaphorePermit,
}

impl Launches {
    /// Whether this command needs no turn: it installs nothing, or has been up.
    pub(super) fn is_installed(&self, command: &str, args: &[String]) -> bool {
        package(command, args)
            .is_none_or(|package| matches!(self.lock().get(&package), Some(State::Installed)))
    }

    /// Waits for the turn of this command; none where it needs none. Dropping the future gives up the wait.
    pub(super) async fn turn(&self, command: &str, args: &[String]) -> Option<Turn> {
        let package = package(command, args)?;
        let turns = {
            let mut launches = self.lock();
            let state =
                launches.entry(package.clone()).or_insert_with(|| State::New(Arc::new(Semaphore::new(1))));
            match state {
                State::New(turns) => Arc::clone(turns),
                State::Installed => return None,
            }
        };
        let permit = turns.acquire_owned().await.ok()?;
        // Whoever was before may have seen it up meanwhile.
        let installed = matches!(self.lock().get(&package), Some(State::Installed));
        (!installed).then(|| Turn { launches: self.clone(), package, _permit: permit })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// It is up: from now on nobody waits.
    pub(super) fn installed(self) {
        self.launches.lock().insert(self.package.clone(), State::Installed);
    }
}

/// What a launcher launches, with its own name before it; none for other programs.
fn package(command: &str, args: &[String]) -> Option<String> {
    let launcher = Path::new(command).file_name()?.to_str()?;
    if !LAUNCHERS.contains(&launcher) {
        return None;
    }
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let package = match word.split_once('=') {
            Some((flag, package)) if NAMES.contains(&flag) => Some(package),
            _ if NAMES.contains(&word) => words.next(),
            _ if word.starts_with('-') || VERBS.contains(&word) => None,
            _ => Some(word),
        };
        if let Some(package) = package {
            return Some(format!("{launcher} {package}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn words(text: &str) -> Vec<String> {
        text.split_ascii_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_package_is_found_behind_flags_and_verbs() {
        for (command, args, found) in [
            ("npx", "-y @playwright/mcp --headless", Some("npx @playwright/mcp")),
            ("/usr/bin/npx", "--package=a b", Some("npx a")),
            ("uvx", "--from pkg tool", Some("uvx pkg")),
            ("uv", "tool run pkg", Some("uv pkg")),
            ("npm", "exec -y -- @a/b", Some("npm @a/b")),
            ("npx", "--help", None),
            ("node", "index.js", None),
        ] {
            assert_eq!(package(command, &words(args)).as_deref(), found, "{command} {args}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_launches_take_turns_until_one_is_up() {
        let launches = Launches::default();
        let args = words("-y a");
        let first = launches.turn("npx", &args).await.expect("it is the first");
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, launches.turn("npx", &args)).await.is_err(), "the second waits");
        assert!(launches.turn("npx", &words("-y b")).await.is_some(), "another package does not");
        drop(first);
        let again = launches.turn("npx", &args).await.expect("the first one failed");
        let waiting = {
            let (launches, args) = (launches.clone(), args.clone());
            async move { launches.turn("npx", &args).await }
        };
        let (waited, ()) = tokio::join!(waiting, async { again.installed() });
        assert!(waited.is_none() && launches.turn("npx", &args).await.is_none(), "nobody waits any more");
    }
}
