//! Which calls may share an instance.

use super::{Owner, Wanted};
use crate::{call::cache::copied, config::Sharing, list};
use seawall_proto::{Raw, era::EraKey};
use std::{fmt, sync::Arc};

/// Whom an instance is for. Calls that differ here never meet in one process or session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Isolation {
    Everyone,
    Caller(Arc<str>),
    Conversation(Arc<str>),
    Call(Arc<str>),
}

impl Isolation {
    pub(super) fn of(sharing: Sharing, wanted: &Wanted) -> Self {
        let caller = || Self::Caller(Arc::clone(&wanted.caller));
        match sharing {
            Sharing::Everyone => Self::Everyone,
            Sharing::Caller => caller(),
            // A request that names no conversation shares with its caller's others.
            Sharing::Session => wanted.conversation.clone().map_or_else(caller, Self::Conversation),
            Sharing::Call => wanted.conversation.clone().map_or_else(caller, Self::Call),
        }
    }
}

impl Isolation {
    /// Whether it is for what Seawall itself asks: what an upstream offers, and what changes.
    pub(super) fn is_own(&self) -> bool {
        match self {
            Self::Conversation(name) | Self::Caller(name) => **name == *list::OWN,
            Self::Everyone | Self::Call(_) => false,
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Caller(name) => write!(f, "caller {name}"),
            Self::Conversation(name) => write!(f, "conversation {name:.8}"),
            Self::Call(name) => write!(f, "call {name}"),
        }
    }
}

/// The whole key: whom it is for, what is spoken to it, and what its client can do where that is passed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct InstanceKey {
    isolation: Isolation,
    era: EraKey,
    fingerprint: Option<Raw>,
}

impl InstanceKey {
    pub(super) fn new(isolation: Isolation, wanted: &Wanted, sharing: Sharing, era: EraKey) -> Self {
        // Only an instance of one client is opened with its capabilities: of one conversation, or of those of a
        // caller's requests that stand alone and say the same of their client.
        let own = sharing == Sharing::Session
            && (matches!(isolation, Isolation::Conversation(_)) || wanted.wire.close_cancels());
        let fingerprint = own.then(|| wanted.face.fingerprint().clone());
        Self { isolation, era, fingerprint }
    }

    /// Whether it is for clients that can all do the same, and nobody else's.
    pub(super) fn is_private(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Whose the instance is.
    pub(super) fn owner(&self) -> Owner {
        match &self.isolation {
            Isolation::Conversation(name) => Owner { conversation: Some(Arc::clone(name)), caller: None },
            Isolation::Caller(name) => Owner { conversation: None, caller: Some(Arc::clone(name)) },
            Isolation::Everyone | Isolation::Call(_) => Owner::default(),
        }
    }
}

/// Which calls share an instance, as far as others need to know: those whose keys are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShareKey {
    upstream: Arc<str>,
    instance: InstanceKey,
}

impl ShareKey {
    pub(super) fn new(upstream: &Arc<str>, instance: InstanceKey) -> Self {
        Self { upstream: Arc::clone(upstream), instance }
    }

    /// The same apart from the request it was made for, and how many bytes it holds.
    pub(crate) fn apart(mut self) -> (Self, usize) {
        self.instance.fingerprint = self.instance.fingerprint.as_ref().map(copied);
        let whose = match &self.instance.isolation {
            Isolation::Everyone => 0,
            Isolation::Caller(name) | Isolation::Conversation(name) | Isolation::Call(name) => name.len(),
        };
        let client = self.instance.fingerprint.as_ref().map_or(0, |client| client.bytes().len());
        (self, whose + client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_be_shown() {
        for (name, shown) in [("local/aé", "conversation local/aé"), ("0123456789", "conversation 01234567")]
        {
            assert_eq!(Isolation::Conversation(name.into()).to_string(), shown);
        }
    }
}
