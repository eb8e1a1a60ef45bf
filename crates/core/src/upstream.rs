//! Upstreams: what calls go to, and the instances that answer them.
//!
//! An [`Upstream`] is one configured server: what is known of it, and its pool of instances.

mod brake;
pub mod channel;
pub mod http;
mod instance;
mod keys;
mod launches;
mod pool;
mod response;
#[cfg(test)]
pub(crate) mod script;
pub mod sse;
pub mod stdio;
pub mod ws;

use crate::{
    Ground,
    call::{Call, track::Track},
    config::{self, Sharing},
    life::Life,
    time::Deadline,
};
pub use channel::Oddities;
pub use instance::{Exchange, Instance};
pub use keys::ShareKey;
pub use launches::Launches;
use pool::State;
use seawall_proto::{
    Ask, Message,
    era::{Face, Pin, Spoken, Wire, peer::Topic},
};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Whether an upstream may have acted on what was to be sent: the one fact that decides a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing left, or what left was refused unread.
    No,
    /// Something left.
    Maybe,
}

/// Why an instance could not be used, or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whether the upstream may have acted.
    pub sent: Sent,
    /// What happened, as a clause: "it exited with status 1".
    pub why: String,
    /// Whether the upstream answered, though not with an answer.
    pub answered: bool,
    /// Whether a size limit was the reason.
    pub too_large: bool,
    /// Whether the start budget ran out.
    pub timed_out: bool,
    /// Whether it answered that it takes no calls now.
    pub busy: bool,
    /// Whether there are as many instances or processes as may be.
    pub crowded: bool,
    /// When another try makes sense, where that is known.
    pub retry_after: Option<Duration>,
}

impl Lost {
    /// Lost with `why`.
    pub fn new(sent: Sent, why: impl Into<String>) -> Self {
        Self {
            sent,
            why: why.into(),
            answered: false,
            too_large: false,
            timed_out: false,
            busy: false,
            crowded: false,
            retry_after: None,
        }
    }

    /// It answered with something that is no answer.
    pub fn nonsense(why: impl Into<String>) -> Self {
        Self { answered: true, ..Self::new(Sent::Maybe, why) }
    }
}

/// What an upstream says about a call, in order.
#[derive(Debug)]
pub enum Heard {
    /// It answers with a stream; nothing on it has been heard yet.
    Streaming,
    /// A notification about it.
    Notification(Message, Topic),
    /// A question to its caller.
    Ask(Ask),
    /// The stream was closed on purpose; the call goes on.
    Pause(Option<u64>),
    /// The response.
    Response(Message),
}

/// What an upstream says about no call in particular.
#[derive(Debug)]
pub enum Broadcast {
    /// A notification.
    Notification(Message, Topic),
    /// A question to the client of the conversation.
    Ask(Ask),
}

/// Takes what no call waits for: the upstream's name, and the conversation the instance belongs to, if to one.
pub type Outlet = Arc<dyn Fn(&Arc<str>, &Owner, Broadcast) + Send + Sync>;

/// Whose an instance is, where it is not everyone's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The conversation it belongs to.
    pub conversation: Option<Arc<str>>,
    /// The caller it belongs to, where it is no conversation's.
    pub caller: Option<Arc<str>>,
}

/// Who wants an instance.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The caller's name.
    pub caller: Arc<str>,
    /// The conversation, when there is one.
    pub conversation: Option<Arc<str>>,
    /// What the caller speaks.
    pub wire: Wire,
    /// Who the caller's client is.
    pub face: Arc<Face>,
    /// Whether the upstream's own messages have somebody to go to.
    pub followed: bool,
}

impl Wanted {
    /// Whom an instance for this call must be for.
    pub fn by(call: &Call) -> Self {
        Self {
            caller: Arc::clone(&call.caller.name),
            conversation: call.conversation.clone(),
            wire: *call.request.wire(),
            face: Arc::clone(call.request.face()),
            followed: call.followed,
        }
    }

    /// The same, for an instance that no other call shares where the upstream is shared by none.
    #[must_use]
    pub fn for_one_call(mut self, upstream: &Upstream) -> Self {
        if upstream.sharing() == Sharing::Call {
            self.conversation = Some(Arc::from(crate::conversation::random_id()));
        }
        self
    }
}

/// The connector of one configured upstream.
pub struct Upstream {
    config: Arc<config::Upstream>,
    name: Arc<str>,
    key: Arc<str>,
    life: Life,
    outlet: Outlet,
    connector: Connector,
    launches: Launches,
    track: Track,
    /// Bounds the longest of its calls, questions to their callers apart. The daemon's own limit is a part of it, and
    /// may change while this is in use.
    longest: Mutex<Duration>,
    /// Told when nothing is left of an instance.
    room: Notify,
    state: Mutex<State>,
}

/// How instances are made.
enum Connector {
    Stdio(stdio::Connector),
    Http(http::Connector),
    Sse(sse::Connector),
    WebSocket(ws::Connector),
    #[cfg(test)]
    Script(script::Connector),
}

/// Why the upstream could last not be used.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How far it came: `start`, `run` (an instance ended by itself), `list` or `answer`.
    pub stage: &'static str,
    /// What happened.
    pub message: String,
    /// When.
    pub at: jiff::Timestamp,
}

impl Failure {
    /// What happens now.
    pub fn now(stage: &'static str, message: String) -> Self {
        Self { stage, message, at: jiff::Timestamp::now() }
    }
}

/// One instance as status shows it.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// Who it is for.
    pub key: String,
    /// What it is at: `starting`, `open`, `draining` (its calls end, it takes no more), `ending` or `spare`.
    pub state: &'static str,
    /// The protocol version it speaks; empty while it is being opened.
    pub version: &'static str,
    /// Its process, where it is one.
    pub pid: Option<u32>,
    /// Calls under way at it.
    pub in_flight: usize,
    /// Time since it was wanted first.
    pub age: Duration,
    /// What it said that was no answer to anything.
    pub oddities: Oddities,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// An upstream without instances.
    ///
    /// # Errors
    /// When its certificates cannot be read.
    pub(crate) fn new(
        config: Arc<config::Upstream>,
        limits: &config::Limits,
        longest: Duration,
        outlet: Outlet,
        ground: &Ground,
    ) -> Result<Arc<Self>, String> {
        let Ground { keep, launches, life, .. } = ground;
        let connector = match &config.kind {
            #[cfg(test)]
            config::Kind::Stdio { command, args, .. } if command == "script" => {
                Connector::Script(script::Connector::new(args))
            }
            config::Kind::Stdio { .. } => {
                Connector::Stdio(stdio::Connector::new(Arc::clone(&config), limits, ground))
            }
            config::Kind::Http { transport, url, headers, ca_file } => {
                let ca_file = ca_file.as_deref();
                let at = http::Address { transport: *transport, url, headers, ca_file };
                let endpoint = http::Endpoint::new(&config, &at, limits.message, keep, life)?;
                match transport {
                    config::Transport::Streamable => Connector::Http(http::Connector::new(endpoint)),
                    config::Transport::Sse => Connector::Sse(sse::Connector::new(endpoint)),
                    config::Transport::WebSocket => Connector::WebSocket(ws::Connector::new(endpoint)),
                }
            }
        };
        let name = Arc::from(config.name.as_str());
        let key = Arc::from(config.key());
        let (launches, life, state) = (launches.clone(), life.clone(), Mutex::default());
        let (room, track) = (Notify::new(), Track::new(&config));
        Ok(Arc::new(Self {
            name,
            key,
            life,
            outlet,
            connector,
            launches,
            track,
            longest: Mutex::new(longest),
            room,
            state,
            config,
        }))
    }

    /// How it is configured.
    pub fn config(&self) -> &config::Upstream {
        &self.config
    }

    /// Says what bounds the longest of its calls from now on.
    pub(crate) fn bound(&self, longest: Duration) {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner) = longest;
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it is, apart from its name: the key of what is remembered about it.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// What past calls to it say about the next.
    pub(crate) fn track(&self) -> &Track {
        &self.track
    }

    /// What is remembered of the eras it speaks.
    pub fn spoken(&self) -> Spoken {
        self.lock().spoken
    }

    /// Whether it is spoken to in another era than a caller's, as far as is known.
    pub fn crosses(&self, caller: &Wire) -> bool {
        self.spoken().towards(self.pin(), caller).crosses(caller)
    }

    /// The only era to be tried, if only one is: a transport may belong to one.
    fn pin(&self) -> Pin {
        if matches!(self.connector, Connector::Sse(_)) { Pin::Legacy } else { self.config.era }
    }

    /// Remembers which eras it speaks.
    pub fn remember(&self, spoken: Spoken) {
        let mut state = self.lock();
        state.spoken = state.spoken.and(spoken);
    }

    /// Why it could last not be used, if it could not.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// Notes that it worked, or how it failed.
    pub fn noted(&self, failure: Option<Failure>) {
        let mut state = self.lock();
        if failure.is_some() {
            state.last_failure.clone_from(&failure);
        }
        state.failure = failure;
    }

    /// What went wrong at it last, whether or not it works again.
    pub fn last_failure(&self) -> Option<Failure> {
        self.lock().last_failure.clone()
    }

    /// The standard error of its last instances, by process id.
    pub fn tails(&self) -> Vec<(u32, seawall_proc::Tail)> {
        self.lock().tails.iter().cloned().collect()
    }

    /// Waits until it may be launched, where that takes turns.
    async fn turn(&self) -> Option<launches::Turn> {
        match &self.config.kind {
            config::Kind::Stdio { command, args, .. } => self.launches.turn(command, args).await,
            config::Kind::Http { .. } => None,
        }
    }

    fn sharing(&self) -> Sharing {
        self.config.sharing
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connector opens an instance with.
pub struct Plan {
    pin: Pin,
    spoken: Spoken,
    wire: Wire,
    face: Arc<Face>,
    /// Takes what no call waits for.
    say: Arc<dyn Fn(Broadcast) + Send + Sync>,
    exclusive: bool,
    budget: Deadline,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl Plan {
    /// Whether the instance is for one conversation alone.
    fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// How long a probe may take that only some servers answer: long enough for a cold start, short enough to leave
    /// time for the other era.
    fn probe_budget(&self) -> Duration {
        (self.budget.budget() / 3).min(Duration::from_secs(10))
    }
}
