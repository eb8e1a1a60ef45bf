//! Seawall as an OAuth client of an upstream (OAuth 2.1, as the authorization specification of MCP has it).
//!
//! A request that is refused leaves a challenge behind. A login reads the server's metadata and that of its
//! authorization server, gives the URL at which a person says yes, and exchanges the code that comes back. What it
//! gave is kept per upstream and sent with each request; a token that has ended is renewed once for all that wait.

mod challenge;
mod discovery;
mod fetch;
mod flow;
mod registration;
mod tokens;

use crate::{
    config::{self, OAuth},
    life::{Life, Task},
};
pub(super) use challenge::Challenge;
use discovery::{Protected, Server, trusted};
use fetch::{Answer, fetch, is_loopback};
pub(crate) use flow::Attempt;
pub use flow::Redirected;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use registration::{Choice, Client};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
pub use tokens::Keep;
pub(super) use tokens::Tokens;
use tokens::{Granted, now};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

/// How long a token that could not be renewed is left alone.
const AGAIN: Duration = Duration::from_secs(5);
/// Asks for nothing that is needed: a server that wants a login says so before it reads it.
const PROBE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"tools/list"}"#;

/// The logins at one upstream.
pub(crate) struct Authorization {
    name: String,
    key: String,
    uri: Uri,
    /// What goes with each request to the upstream.
    headers: HeaderMap,
    config: OAuth,
    ca_file: Option<PathBuf>,
    keep: Keep,
    life: Life,
    state: Mutex<State>,
    /// One renewal at a time.
    turn: Semaphore,
}

#[derive(Default)]
struct State {
    /// Whether what was kept has been read.
    loaded: bool,
    tokens: Option<Arc<Tokens>>,
    /// What the upstream last refused.
    challenge: Option<Challenge>,
    /// When a renewal last failed.
    failed: Option<Instant>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Authorization {
    /// The logins at an upstream, whose requests carry `headers`; none where those authorize already.
    pub(super) fn of(
        config: &config::Upstream,
        uri: &Uri,
        headers: &HeaderMap,
        ca_file: Option<&Path>,
        keep: &Keep,
        life: &Life,
    ) -> Option<Arc<Self>> {
        if headers.contains_key(header::AUTHORIZATION) {
            return None;
        }
        Some(Arc::new(Self {
            name: config.name.clone(),
            key: config.key(),
            uri: uri.clone(),
            headers: headers.clone(),
            config: config.oauth.clone().unwrap_or_default(),
            ca_file: ca_file.map(Path::to_owned),
            keep: keep.clone(),
            life: life.clone(),
            state: Mutex::default(),
            turn: Semaphore::new(1),
        }))
    }

    /// Which upstream it is, apart from its name.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What to send a request with: renewed where it has ended. Cancel-safe.
    pub(super) async fn to_send(self: &Arc<Self>) -> Option<Arc<Tokens>> {
        let tokens = self.tokens().await?;
        if tokens.ended(now()) && tokens.refresh.is_some() {
            return Some(self.renewed(&tokens).await.unwrap_or(tokens));
        }
        Some(tokens)
    }

    /// What to send a request with again that was refused with `used`, where there is something else by now.
    /// Otherwise the challenge is remembered. Cancel-safe.
    pub(super) async fn instead(
        self: &Arc<Self>,
        used: &Arc<Tokens>,
        challenge: Challenge,
    ) -> Option<Arc<Tokens>> {
        let current = self.tokens().await;
        if let Some(current) = current.filter(|current| current.access != used.access) {
            return Some(current);
        }
        if !challenge.insufficient
            && used.refresh.is_some()
            && let Some(renewed) = self.renewed(used).await
        {
            return Some(renewed);
        }
        self.note(Some(used), challenge);
        None
    }

    /// Remembers what was refused, unless it was refused to tokens that are replaced by now.
    pub(super) fn note(&self, used: Option<&Arc<Tokens>>, challenge: Challenge) {
        let mut state = self.lock();
        if state.tokens.as_ref().map(|tokens| &tokens.access) == used.map(|used| &used.access) {
            state.challenge = Some(challenge);
        }
    }

    /// What a refusal means, as a clause.
    pub(super) fn wanted(&self, challenge: &Challenge) -> String {
        let name = &self.name;
        if !challenge.insufficient {
            return format!("it wants a login (HTTP 401): run `seawall login {name}`");
        }
        let scopes = challenge.scopes.as_ref().map_or_else(String::new, |scopes| {
            format!(", for the scope {:?}", flow::shown(&scopes.join(" ")))
        });
        format!("the login does not reach far enough (HTTP 403{scopes}): run `seawall login {name}`")
    }

    /// Begins a login whose redirect goes to `redirect`.
    ///
    /// # Errors
    /// Why there can be none, as a sentence's beginning.
    pub(crate) async fn begin(&self, redirect: &str) -> Result<Attempt, String> {
        let challenge = self.challenge().await?;
        let resource = self.resource(&challenge).await?;
        let server = self.server(&resource.issuer).await?;
        let before = self
            .tokens()
            .await
            .filter(|tokens| tokens.issuer == server.issuer && tokens.resource == resource.resource);
        let asked = before.as_ref().map(|tokens| tokens.asked.as_slice()).unwrap_or_default();
        let challenged = challenge.scopes.as_deref();
        let scopes = flow::scopes(&self.config.scopes, challenged, asked, &resource, &server);
        if challenge.insufficient && before.is_some_and(|tokens| tokens.asked_for(&scopes)) {
            return Err(format!(
                "the server refuses what the last login has already asked for ({:?}), so another would not help; \
                 ask its operator, or run `seawall logout {}` and log in as somebody else",
                flow::shown(&scopes.join(" ")),
                self.name
            ));
        }
        let client = self.client(&server, redirect).await?;
        Ok(Attempt::new(redirect, resource.resource, scopes, server, client))
    }

    /// Ends a login with what the browser brought back: exchanges the code and keeps the tokens.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn finish(&self, attempt: Attempt, answer: &Redirected) -> Result<(), String> {
        let code = attempt.code(answer)?;
        let form = attempt.exchange(code);
        let answer = self.ask_token_endpoint(&attempt.server.token_endpoint, &attempt.client, form).await?;
        if !answer.status.is_success() {
            let why = tokens::refusal(answer.status, &answer.body);
            if why.starts_with("invalid_client") {
                // It has forgotten the registration: the next login makes another.
                self.keep.forget_client(&self.key, &attempt.server.issuer, &attempt.redirect).await;
            }
            return Err(format!("the authorization server gave no token: {why}"));
        }
        let granted = Granted::read(&answer.body, now())?;
        let Attempt { resource, scopes, server, client, .. } = attempt;
        let tokens = granted.into_tokens(server.issuer, resource, server.token_endpoint, client, scopes);
        self.keep.put_tokens(&self.key, &tokens).await;
        self.set(Some(tokens));
        Ok(())
    }

    /// Forgets the login; tells whether there was one.
    pub(crate) async fn forget(&self) -> bool {
        let had = self.tokens().await.is_some();
        self.keep.forget(&self.key).await;
        self.set(None);
        had
    }

    /// What was kept, read at the first time.
    async fn tokens(&self) -> Option<Arc<Tokens>> {
        {
            let state = self.lock();
            if state.loaded {
                return state.tokens.clone();
            }
        }
        let kept = self.keep.tokens(&self.key).await.map(Arc::new);
        let mut state = self.lock();
        if !state.loaded {
            state.loaded = true;
            state.tokens = kept;
        }
        state.tokens.clone()
    }

    fn set(&self, tokens: Option<Tokens>) -> Option<Arc<Tokens>> {
        let tokens = tokens.map(Arc::new);
        *self.lock() = State { loaded: true, tokens: tokens.clone(), challenge: None, failed: None };
        tokens
    }

    /// Renews tokens. A refresh token may be good for one time only, so the renewal goes on when whoever wanted it
    /// has gone.
    async fn renewed(self: &Arc<Self>, old: &Arc<Tokens>) -> Option<Arc<Tokens>> {
        let (give, given) = oneshot::channel();
        let (this, old) = (Arc::clone(self), Arc::clone(old));
        self.life.spawn(Task::Send, async move { drop(give.send(this.renew(&old).await)) });
        given.await.ok().flatten()
    }

    async fn renew(&self, old: &Arc<Tokens>) -> Option<Arc<Tokens>> {
        let _turn = self.turn.acquire().await.ok()?;
        let current = self.tokens().await?;
        if current.access != old.access {
            return Some(current);
        }
        if self.lock().failed.is_some_and(|failed| failed.elapsed() < AGAIN) {
            return None;
        }
        let form = current.renewal(current.refresh.as_ref()?);
        let asked = self.ask_token_endpoint(&current.token_endpoint, &current.client, form).await;
        let why = match asked {
            Ok(answer) if answer.status.is_success() => match Granted::read(&answer.body, now()) {
                Ok(granted) => {
                    let tokens = current.renewed(granted);
                    // A logout or another login has come in between.
                    if self.lock().tokens.as_ref().is_none_or(|tokens| tokens.access != current.access) {
                        return None;
                    }
                    self.keep.put_tokens(&self.key, &tokens).await;
                    return self.set(Some(tokens));
                }
                Err(why) => why,
            },
            Ok(answer) => {
                let why = tokens::refusal(answer.status, &answer.body);
                if answer.status.is_client_error() && answer.status.as_u16() != 429 {
                    // It will not be good for anything again.
                    let useless = Tokens { refresh: None, ..Tokens::clone(&current) };
                    self.keep.put_tokens(&self.key, &useless).await;
                    self.set(Some(useless));
                }
                why
            }
            Err(why) => why,
        };
        tracing::warn!(upstream = self.name, why, "its login could not be renewed");
        self.lock().failed = Some(Instant::now());
        None
    }

    /// What the upstream refuses: what it last did, or what it does when it is asked now.
    async fn challenge(&self) -> Result<Challenge, String> {
        if let Some(challenge) = self.lock().challenge.clone() {
            return Ok(challenge);
        }
        let ca_file = self.ca_file.as_deref();
        let answer = fetch(Method::POST, &self.uri, self.headers.clone(), PROBE.to_owned(), ca_file).await?;
        Ok(Challenge::of(answer.status, &answer.headers).unwrap_or_default())
    }

    /// What the upstream says of itself; a server of before there was such metadata is its own authorization server.
    async fn resource(&self, challenge: &Challenge) -> Result<Protected, String> {
        let told = challenge.metadata.as_deref();
        match self.first(&discovery::resource_places(&self.uri, told)).await? {
            Some(body) => discovery::protected(&body, &self.uri),
            None if told.is_none() => Ok(discovery::unpublished(&self.uri)),
            None => Err(format!("the server has no metadata where it says: {:?}", told.unwrap_or_default())),
        }
    }

    async fn server(&self, issuer: &str) -> Result<Server, String> {
        trusted(issuer, is_loopback(&self.uri))?;
        let body = self.first(&discovery::server_places(issuer)?).await?;
        let body =
            body.ok_or_else(|| format!("the authorization server {issuer:?} publishes no metadata"))?;
        let server = discovery::server(&body, issuer)?;
        // A browser is sent there.
        trusted(&server.authorization_endpoint, is_loopback(&self.uri))?;
        Ok(server)
    }

    /// The first of these documents that there is.
    async fn first(&self, places: &[String]) -> Result<Option<Vec<u8>>, String> {
        for place in places {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            let answer = self.fetch(Method::GET, place, headers, String::new()).await?;
            if answer.status.is_success() {
                return Ok(Some(answer.body.to_vec()));
            }
            if answer.status.is_server_error() {
                return Err(format!("{place} answered HTTP {}", answer.status));
            }
        }
        Ok(None)
    }

    /// The client to come as, registered now where it must.
    async fn client(&self, server: &Server, redirect: &str) -> Result<Client, String> {
        let endpoint = match registration::choose(&self.config, server)? {
            Choice::Known(client) => return Ok(client),
            Choice::Register(endpoint) => endpoint,
        };
        // A client is good at the issuer alone that registered it.
        if let Some(client) = self.keep.client(&self.key, &server.issuer, redirect).await {
            return Ok(client);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let body = registration::request(redirect, server).to_string();
        let answer = self.fetch(Method::POST, &endpoint, headers, body).await?;
        if !answer.status.is_success() {
            let why = tokens::refusal(answer.status, &answer.body);
            return Err(format!("the authorization server refused to register Seawall: {why}"));
        }
        let (client, expires) = registration::registered(&answer.body, server)?;
        self.keep.put_client(&self.key, &server.issuer, redirect, &client, expires).await;
        Ok(client)
    }

    async fn ask_token_endpoint(
        &self,
        endpoint: &str,
        client: &Client,
        mut form: Vec<(&'static str, String)>,
    ) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        if let Some(proof) = client.prove(&mut form) {
            headers.insert(header::AUTHORIZATION, proof);
        }
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        self.fetch(Method::POST, endpoint, headers, flow::form(&form)).await
    }

    async fn fetch(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, String> {
        let uri = trusted(url, is_loopback(&self.uri))?;
        fetch(method, &uri, headers, body, self.ca_file.as_deref()).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    /// What goes into `Authorization`.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.access.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests;
