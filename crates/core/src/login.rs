//! Logins at upstreams: begun by an operator, ended by the redirect that a browser brings.

use crate::{
    Gateway,
    life::Task,
    upstream::http::oauth::{Attempt, Authorization},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

pub use crate::upstream::http::oauth::Redirected;

/// How long a login may take, and how long its outcome is told after that began.
const KEPT: Duration = Duration::from_secs(600);
/// Most logins that may be under way; the oldest makes room.
const MOST: usize = 64;

/// A login that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// Where a person says yes.
    pub url: String,
    /// What the login is known by; as good as a password until it is over.
    pub state: String,
}

/// How far a login is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody has come back yet, or the tokens are being fetched.
    Waiting,
    /// The upstream has its tokens.
    Done,
    /// It came to nothing, and why.
    Failed(String),
}

/// Why a login could not be begun, or nothing be logged out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLogin {
    /// There is no such upstream.
    Unknown,
    /// Why not.
    Because(String),
}

/// The logins under way.
#[derive(Debug, Default)]
pub(crate) struct Logins(Mutex<HashMap<String, Login>>);

#[derive(Debug)]
struct Login {
    upstream: Arc<str>,
    /// The upstream's key: after a change it is another one.
    key: String,
    since: Instant,
    /// Taken by the redirect, which counts once.
    attempt: Option<Box<Attempt>>,
    progress: Progress,
}

impl Logins {
    fn begin(&self, upstream: &Arc<str>, key: &str, attempt: Attempt) {
        let mut logins = self.lock();
        if logins.len() >= MOST
            && let Some(oldest) =
                logins.iter().min_by_key(|(_, login)| login.since).map(|(state, _)| state.clone())
        {
            logins.remove(&oldest);
        }
        let state = attempt.state.clone();
        let login = Login {
            upstream: Arc::clone(upstream),
            key: key.to_owned(),
            since: Instant::now(),
            attempt: Some(Box::new(attempt)),
            progress: Progress::Waiting,
        };
        logins.insert(state, login);
    }

    /// The login that a redirect belongs to, once.
    fn take(&self, state: &str) -> Option<(Arc<str>, String, Box<Attempt>)> {
        let mut logins = self.lock();
        let login = logins.get_mut(state)?;
        let attempt = login.attempt.take()?;
        Some((Arc::clone(&login.upstream), login.key.clone(), attempt))
    }

    fn end(&self, state: &str, outcome: &Result<(), String>) {
        if let Some(login) = self.lock().get_mut(state) {
            login.progress = match outcome {
                Ok(()) => Progress::Done,
                Err(why) => Progress::Failed(why.clone()),
            };
        }
    }

    fn progress(&self, upstream: &str, state: &str) -> Option<Progress> {
        let logins = self.lock();
        logins.get(state).filter(|login| &*login.upstream == upstream).map(|login| login.progress.clone())
    }

    /// Those that are not too old.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Login>> {
        let mut logins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logins.retain(|_, login| login.since.elapsed() < KEPT);
        logins
    }
}

impl Gateway {
    /// Begins a login at an upstream; a browser that has said yes is sent to `redirect`.
    ///
    /// # Errors
    /// Why there can be none.
    pub async fn begin_login(&self, name: &str, redirect: &str) -> Result<Begun, NoLogin> {
        let (name, authorization) = self.authorization(name)?;
        let attempt = authorization.begin(redirect).await.map_err(NoLogin::Because)?;
        let begun = Begun { url: attempt.url(), state: attempt.state.clone() };
        self.logins.begin(&name, authorization.key(), attempt);
        Ok(begun)
    }

    /// Ends the login that a redirect belongs to, and has the upstream opened anew; gives the upstream's name. It
    /// goes on when whoever brought the redirect has gone.
    ///
    /// # Errors
    /// Why it came to nothing.
    pub async fn finish_login(self: &Arc<Self>, redirected: Redirected) -> Result<Arc<str>, String> {
        let taken = self.logins.take(&redirected.state);
        let (name, key, attempt) =
            taken.ok_or("no login waits for this: it is too old, or over; begin another")?;
        let (give, given) = oneshot::channel();
        let (this, upstream) = (Arc::clone(self), Arc::clone(&name));
        self.life().spawn(Task::Send, async move {
            let outcome = match this.authorization(&upstream) {
                Ok((_, authorization)) if authorization.key() == key => {
                    authorization.finish(*attempt, &redirected).await
                }
                Ok(_) | Err(_) => Err("the server's configuration has changed; begin again".to_owned()),
            };
            match &outcome {
                Ok(()) => {
                    tracing::info!(upstream = &*upstream, "logged in");
                    this.restart(&upstream);
                }
                Err(why) => tracing::warn!(upstream = &*upstream, why, "a login came to nothing"),
            }
            this.logins.end(&redirected.state, &outcome);
            drop(give.send(outcome));
        });
        given.await.unwrap_or_else(|_| Err("Seawall is stopping".to_owned())).map(|()| name)
    }

    /// How far a login at an upstream is; `None` where it is not known, or no more.
    pub fn login(&self, name: &str, state: &str) -> Option<Progress> {
        self.logins.progress(name, state)
    }

    /// Forgets the login at an upstream, and has it opened anew; tells whether there was one.
    ///
    /// # Errors
    /// When there is no such upstream, or it can have no login.
    pub async fn logout(self: &Arc<Self>, name: &str) -> Result<bool, NoLogin> {
        let (name, authorization) = self.authorization(name)?;
        let had = authorization.forget().await;
        self.restart(&name);
        Ok(had)
    }

    fn authorization(&self, name: &str) -> Result<(Arc<str>, Arc<Authorization>), NoLogin> {
        let upstream = self.upstream(name).ok_or(NoLogin::Unknown)?;
        let authorization = upstream.authorization().cloned().ok_or_else(|| {
            let why = "it is a program, or its `headers` hold an Authorization already: there is nothing to log in to";
            NoLogin::Because(why.to_owned())
        })?;
        Ok((Arc::clone(upstream.name()), authorization))
    }
}
