//! What upstreams say of their own accord, and to whom it goes.

use crate::{
    Gateway,
    life::Task,
    upstream::{Broadcast, Outlet, Owner},
};
use seawall_proto::{
    Message,
    era::{
        cross,
        offer::{self, Offering, Told},
    },
    event::Answer,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::time::sleep;

/// How long to wait between two refreshes of the same lists: an upstream may tell of changes as often as it likes.
const PACE: Duration = Duration::from_millis(250);

/// An upstream, and the conversation whose own instance said something.
type Said = (Arc<str>, Option<Arc<str>>);

/// The refreshes under way, one for each that said something, with what was said meanwhile: the last word of each
/// kind.
#[derive(Debug, Default)]
pub(crate) struct Refreshing(Mutex<HashMap<Said, Vec<(Offering, Message)>>>);

impl Refreshing {
    /// Adds what was said; whether a refresh is under way, which will take it.
    fn add(&self, key: &Said, offering: Offering, message: Message) -> bool {
        let mut under_way = self.lock();
        let running = under_way.contains_key(key);
        let told = under_way.entry(key.clone()).or_default();
        told.retain(|(other, _)| *other != offering);
        told.push((offering, message));
        running
    }

    /// Takes what was said; `None` ends the refresh.
    fn take(&self, key: &Said) -> Option<Vec<(Offering, Message)>> {
        let mut under_way = self.lock();
        let told = under_way.get_mut(key).map(std::mem::take).filter(|told| !told.is_empty());
        if told.is_none() {
            under_way.remove(key);
        }
        told
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Said, Vec<(Offering, Message)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way from an upstream's instances to the conversations.
pub(crate) fn outlet(gateway: Weak<Gateway>) -> Outlet {
    Arc::new(move |upstream, owner, broadcast| {
        let Some(gateway) = gateway.upgrade() else { return };
        gateway.hear(upstream, owner, broadcast);
    })
}

impl Gateway {
    fn hear(self: &Arc<Self>, upstream: &Arc<str>, owner: &Owner, broadcast: Broadcast) {
        let conversation = owner.conversation.as_ref().and_then(|id| self.conversations.find(id));
        match (broadcast, conversation) {
            (Broadcast::Notification(message, _), conversation) => {
                match (offer::told(&message), conversation) {
                    (Some(Told::Changed(offering)), conversation) => {
                        let id = conversation.as_ref().map(|conversation| Arc::clone(&conversation.id));
                        let key = (Arc::clone(upstream), id);
                        if self.refreshing.add(&key, offering, message) {
                            return;
                        }
                        let this = Arc::clone(self);
                        self.life.spawn(Task::Follow, async move {
                            while let Some(told) = this.refreshing.take(&key) {
                                for (offering, message) in told {
                                    // The catalogue has it before anybody is told.
                                    this.refresh(&key.0, conversation.as_ref(), Some(offering)).await;
                                    this.end_own_process(&key.0);
                                    if let Some(conversation) = &conversation {
                                        conversation.say(cross::without_subscription(&message));
                                    }
                                }
                                sleep(PACE).await;
                            }
                        });
                    }
                    (_, Some(conversation)) => conversation.say(cross::without_subscription(&message)),
                    (Some(Told::Updated(uri)), None) => self.updated(upstream, owner, &uri),
                    (None, None) => {}
                }
            }
            (Broadcast::Ask(ask), Some(conversation)) if !conversation.face.can_be_asked(&ask.message) => {
                ask.reply.answer(Answer::Refused("the client has not said that it can be asked this"));
            }
            (Broadcast::Ask(ask), Some(conversation)) => {
                let (_, question) = conversation.ask(ask);
                conversation.say(question);
            }
            (Broadcast::Ask(ask), None) => {
                ask.reply.answer(Answer::Refused("there is no client to ask"));
            }
        }
    }
}
