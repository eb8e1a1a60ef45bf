//! Who hears of what: sessions and streams of changes, and what each session has asked for.

use super::watch::{Seats, WATCHES, Watch};
use crate::{
    Gateway,
    call::{Endpoint, auth::Caller},
    upstream::Instance,
};
use seawall_proto::era::offer::{self, Offering};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;

/// Changes a listener may lag behind before it is told only that something changed.
const CHANGES: usize = 64;

/// Everybody who is told something, besides what a session's own instances say to it.
#[derive(Debug)]
pub(crate) struct Audience {
    changes: broadcast::Sender<(Arc<str>, Offering)>,
    sessions: Mutex<HashMap<Arc<str>, Session>>,
    /// Who is told of single resources.
    pub(super) seats: Seats,
}

/// The instances, by upstream, that have been told something.
type Told = HashMap<Arc<str>, Instance>;

/// What is kept of a session on an endpoint of several upstreams.
#[derive(Debug)]
struct Session {
    caller: Arc<Caller>,
    /// From which level on its instances log, as JSON, and which instance of each upstream has been told.
    level: Option<(Arc<str>, Told)>,
    /// The resources whose changes it wants to hear of.
    watches: HashMap<String, Watch>,
}

impl Default for Audience {
    fn default() -> Self {
        Self { changes: broadcast::channel(CHANGES).0, sessions: Mutex::default(), seats: Seats::default() }
    }
}

impl Audience {
    /// Hears of each changed list of prompts or resources, and whose it is.
    pub(crate) fn changes(&self) -> broadcast::Receiver<(Arc<str>, Offering)> {
        self.changes.subscribe()
    }

    /// Keeps what a session asks for from now on.
    pub(super) fn open(&self, conversation: &Arc<str>, caller: &Arc<Caller>) {
        let session = Session { caller: Arc::clone(caller), level: None, watches: HashMap::new() };
        self.lock().insert(Arc::clone(conversation), session);
    }

    /// Forgets a session that has ended.
    pub(crate) fn end(&self, conversation: &str) {
        // What it watched is given up after the lock.
        let ended = self.lock().remove(conversation);
        drop(ended);
    }

    pub(super) fn set_level(&self, conversation: &str, level: &str) {
        if let Some(session) = self.lock().get_mut(conversation) {
            session.level = Some((Arc::from(level), HashMap::new()));
        }
    }

    pub(super) fn has_level(&self, conversation: &str) -> bool {
        self.lock().get(conversation).is_some_and(|session| session.level.is_some())
    }

    /// Whether an instance has been told the session's level.
    pub(super) fn knows_level(&self, conversation: &str, upstream: &str, instance: &Instance) -> bool {
        let sessions = self.lock();
        let told = sessions.get(conversation).and_then(|session| session.level.as_ref());
        told.is_some_and(|(_, told)| told.get(upstream).is_some_and(|told| told.is(instance)))
    }

    /// The session's level for an instance that has not been told; from now on it has.
    pub(super) fn level_for(
        &self,
        conversation: &str,
        upstream: &Arc<str>,
        instance: &Instance,
    ) -> Option<Arc<str>> {
        let mut sessions = self.lock();
        let (level, told) = sessions.get_mut(conversation)?.level.as_mut()?;
        if told.get(upstream).is_some_and(|told| told.is(instance)) {
            return None;
        }
        told.insert(Arc::clone(upstream), instance.clone());
        Some(Arc::clone(level))
    }

    /// Whether a session may watch one more resource, or this one again.
    pub(super) fn may_watch(&self, conversation: &str, uri: &str) -> bool {
        self.lock()
            .get(conversation)
            .is_none_or(|session| session.watches.len() < WATCHES || session.watches.contains_key(uri))
    }

    /// Keeps what a session watches; a session that has ended by now keeps nothing.
    pub(super) fn keep(&self, conversation: &str, uri: &str, watch: Watch) {
        let dropped = match self.lock().get_mut(conversation) {
            Some(session) => session.watches.insert(uri.to_owned(), watch),
            None => Some(watch),
        };
        drop(dropped);
    }

    pub(super) fn give_up(&self, conversation: &str, uri: &str) {
        let given_up = self.lock().get_mut(conversation).and_then(|session| session.watches.remove(uri));
        drop(given_up);
    }

    /// Whether something is told by instances of this conversation, which have to stay for it.
    pub(crate) fn holds(&self, conversation: &str) -> bool {
        self.seats.holds(conversation)
    }

    fn sessions(&self) -> Vec<(Arc<str>, Arc<Caller>)> {
        let sessions = self.lock();
        sessions.iter().map(|(id, session)| (Arc::clone(id), Arc::clone(&session.caller))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Tells every session and every stream of changes that a list of an upstream changed, as far as they see the
    /// upstream. The session `except` has it from its own instance.
    pub(crate) fn tell(&self, upstream: &Arc<str>, offering: Offering, except: Option<&Arc<str>>) {
        // An error means that nobody listens.
        let _ = self.audience.changes.send((Arc::clone(upstream), offering));
        for (id, caller) in self.audience.sessions() {
            if except.is_some_and(|except| *except == id) {
                continue;
            }
            let Some(conversation) = self.conversations.find(&id) else { continue };
            // Who does not listen has missed nothing: it will ask for the list.
            if !matches!(conversation.endpoint, Endpoint::One(_))
                && conversation.is_followed()
                && self.view(&conversation.endpoint, &caller).reaches(upstream)
            {
                conversation.say(offer::changed(None, offering));
            }
        }
    }
}
