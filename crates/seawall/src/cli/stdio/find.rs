//! Where the daemon is: found through its state directory, started where there is none, and found anew when it is
//! no longer there.

use super::{endpoint::Http, tell};
use crate::cli::{ConfigArguments, Exit, Failure};
use seawall_core::state::{self, Detached};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// How long a daemon may take to answer, from the moment in which it is wanted.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a daemon that is wanted is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// How long after a daemon ended at once another is started: one that still drains holds the state directory.
const AGAIN: Duration = Duration::from_millis(500);
/// What the daemon does not inherit: the token is its caller's.
const NOT_INHERITED: [&str; 1] = ["SEAWALL_TOKEN"];

/// Something that several tasks use, and that is made anew, once for all of them, when one finds it no good.
#[derive(Debug)]
pub(super) struct Renewed<T> {
    known: watch::Sender<Known<T>>,
    /// The latest round that somebody found no good.
    bad: watch::Sender<u64>,
}

/// A value, and how often there was another before it.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    /// Counts up with each value.
    pub round: u64,
    /// The value of this round.
    pub value: T,
}

impl<T: Clone> Renewed<T> {
    /// Begins with `value`; in round 0 it is no good from the start.
    pub(super) fn new(round: u64, value: T) -> Self {
        Self { known: watch::Sender::new(Known { round, value }), bad: watch::Sender::new(0) }
    }

    /// The value as it is.
    pub(super) fn now(&self) -> Known<T> {
        self.known.borrow().clone()
    }

    /// Says that the value of round `bad` is no good.
    pub(super) fn doubt(&self, bad: u64) {
        self.bad.send_if_modified(|said| {
            let later = bad > *said;
            *said = bad.max(*said);
            later
        });
    }

    /// Says that the value of round `bad` is no good, and waits for a later one. Cancel-safe.
    pub(super) async fn after(&self, bad: u64) -> Known<T> {
        self.doubt(bad);
        self.until(|known| known.round > bad).await
    }

    /// Whether somebody has found the value of this round no good.
    pub(super) fn is_doubted(&self, round: u64) -> bool {
        *self.bad.borrow() >= round
    }

    /// Waits for a value that is as wanted. Cancel-safe.
    pub(super) async fn until(&self, wanted: impl FnMut(&Known<T>) -> bool) -> Known<T> {
        let mut known = self.known.subscribe();
        let found = known.wait_for(wanted).await;
        found.expect("its sender lives as long as `self`").clone()
    }

    /// Waits until the present value is no good. Cancel-safe.
    pub(super) async fn wanted(&self) {
        let mut bad = self.bad.subscribe();
        let woken = bad.wait_for(|bad| *bad >= self.known.borrow().round).await;
        drop(woken.expect("its sender lives as long as `self`"));
    }

    /// Puts a value in the place of the present one.
    pub(super) fn set(&self, value: T) {
        self.known.send_modify(|known| {
            known.round += 1;
            known.value = value;
        });
    }
}

/// The daemon of a state directory.
#[derive(Debug)]
pub(super) struct Daemon {
    state: PathBuf,
    start: Option<Start>,
    http: Http,
    /// Its address, or why there is none.
    place: Renewed<Result<Arc<str>, Arc<str>>>,
    /// The foreign version that was told of last.
    told: Mutex<Option<String>>,
}

/// What starts a daemon.
#[derive(Debug)]
pub(super) struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Start {
    /// This very program as a daemon, with the same configuration. Its files are to be absolute, for the daemon
    /// works elsewhere.
    ///
    /// # Errors
    /// When the program cannot be found.
    pub(super) fn new(config: &ConfigArguments) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::new(Exit::Failed, format!("the program does not know where it is: {error}"))
        })?;
        let mut arguments = vec![OsString::from("serve")];
        let files = config.config.iter().map(|file| ("--config", file));
        for (flag, file) in files.chain(config.mcp_config.iter().map(|file| ("--mcp-config", file))) {
            arguments.extend([OsString::from(flag), file.clone().into_os_string()]);
        }
        Ok(Self { program, arguments })
    }

    async fn run(&self, state: &Path) -> io::Result<Detached> {
        state::make_private(state).await?;
        // Not where the client works: a `seawall.toml` there may be anybody's, and would be the daemon's.
        state::start_detached(&self.program, &self.arguments, &NOT_INHERITED, state, &log_of(state))
    }
}

/// Where a daemon that was started here writes what does not go to its own log.
fn log_of(state: &Path) -> PathBuf {
    state.join("log").join("daemon.stderr")
}

impl Daemon {
    /// The daemon whose state is in `state`; where none runs, `start` says how one is started.
    pub(super) fn new(state: PathBuf, start: Option<Start>, http: Http) -> Self {
        let place = Renewed::new(0, Err(Arc::from("it has not been looked for yet")));
        Self { state, start, http, place, told: Mutex::default() }
    }

    /// Finds the daemon whenever it is wanted, and starts it where that may be done. Never returns.
    pub(super) async fn keep(&self) {
        loop {
            self.place.wanted().await;
            let found = self.locate().await;
            if let Err(why) = &found {
                tell(why);
            }
            self.place.set(found);
        }
    }

    /// Where it is as far as is known.
    pub(super) fn place(&self) -> Known<Result<Arc<str>, Arc<str>>> {
        self.place.now()
    }

    /// The round that is no good for a request that comes now: none where the daemon's place is known and nobody
    /// doubts it.
    pub(super) fn stale(&self) -> u64 {
        let now = self.place.now();
        if now.value.is_ok() && !self.place.is_doubted(now.round) { now.round - 1 } else { now.round }
    }

    /// Something broke on the way to the daemon of this round: whoever comes now waits until it has been looked for.
    /// A daemon that dies closes its connections one after the other, and what is still open takes requests that
    /// nobody will read.
    pub(super) fn doubt(&self, round: u64) {
        self.place.doubt(round);
    }

    /// Where it is after round `bad` was found no good, or why it is nowhere. Takes at most [`PATIENCE`], or twice
    /// that where somebody else has begun to look for it. Cancel-safe.
    pub(super) async fn after(&self, bad: u64) -> Known<Result<Arc<str>, Arc<str>>> {
        self.place.after(bad).await
    }

    /// Whether somebody else has started a daemon.
    pub(super) fn is_there(&self) -> bool {
        state::holder(&self.state).is_ok_and(|holder| holder.is_some())
    }

    async fn locate(&self) -> Result<Arc<str>, Arc<str>> {
        let deadline = Instant::now() + PATIENCE;
        let mut why = format!(
            "no daemon is running with its state in {}; start one with `seawall serve`",
            self.state.display()
        );
        let mut started: Option<Detached> = None;
        let mut next = Instant::now();
        loop {
            let found = state::holder(&self.state);
            if let Ok(Some(holder)) = &found
                && self.http.is_healthy(&holder.address).await
            {
                self.compare(&holder.version);
                return Ok(holder.address.as_str().into());
            }
            match found {
                Ok(Some(holder)) => why = format!("the daemon at {} does not answer", holder.address),
                Ok(None) => {
                    let start = self.start.as_ref().filter(|_| started.is_none() && Instant::now() >= next);
                    if let Some(start) = start {
                        match start.run(&self.state).await {
                            Ok(child) => started = Some(child),
                            Err(error) => {
                                let program = start.program.display();
                                return Err(format!("`{program} serve` cannot be started: {error}").into());
                            }
                        }
                    }
                }
                Err(text) => why = text,
            }
            if let Some(code) = started.as_mut().and_then(Detached::exit_code) {
                let log = log_of(&self.state);
                why = format!("`seawall serve` ended with exit code {code}; {} says why", log.display());
                if code == Exit::BadConfiguration as i32 {
                    return Err(why.into());
                }
                // Most often somebody else was faster, or the daemon before it has not ended yet.
                started = None;
                next = Instant::now() + AGAIN;
            }
            if Instant::now() >= deadline {
                return Err(why.into());
            }
            sleep(LOOK).await;
        }
    }

    /// Says once that the daemon is of another version; it is used all the same.
    fn compare(&self, version: &str) {
        let own = env!("CARGO_PKG_VERSION");
        if version == own {
            return;
        }
        let before = self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(version.to_owned());
        if before.as_deref() != Some(version) {
            tell(&format!(
                "the daemon has version {version} and this is {own}; restart it to have both equal"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_good_is_renewed_once_for_all_who_say_so() {
        let value = Arc::new(Renewed::new(0, 0_u32));
        value.wanted().await;
        value.set(1);
        assert_eq!(value.after(0).await.value, 1, "a good value is given at once");

        let (first, second) = (value.after(1), value.after(1));
        let renewing = async {
            value.wanted().await;
            value.set(2);
        };
        let (first, second, ()) = tokio::join!(first, second, renewing);
        assert_eq!((first.value, first.round, second.round), (2, 2, 2));
        let idle = tokio::time::timeout(Duration::from_millis(20), value.wanted()).await;
        assert!(idle.is_err(), "one renewal serves both");
    }
}
