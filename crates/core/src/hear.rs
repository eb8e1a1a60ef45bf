//! What upstreams say of their own accord, and to whom it goes.

use crate::{
    Gateway,
    life::Task,
    upstream::{Broadcast, Outlet},
};
use seawall_proto::{
    era::{
        cross,
        offer::{self, Told},
    },
    event::Answer,
};
use std::sync::{Arc, Weak};

/// The way from an upstream's instances to the conversations.
pub(crate) fn outlet(gateway: Weak<Gateway>) -> Outlet {
    Arc::new(move |upstream, conversation, broadcast| {
        let Some(gateway) = gateway.upgrade() else { return };
        gateway.hear(upstream, conversation, broadcast);
    })
}

impl Gateway {
    fn hear(self: &Arc<Self>, upstream: &Arc<str>, owner: Option<&Arc<str>>, broadcast: Broadcast) {
        let conversation = owner.and_then(|id| self.conversations.find(id));
        match (broadcast, conversation) {
            (Broadcast::Notification(message, _), conversation) => {
                match (offer::told(&message), conversation) {
                    (Some(Told::Changed(offering)), conversation) => {
                        // The catalogue has it before anybody is told.
                        let (this, upstream) = (Arc::clone(self), Arc::clone(upstream));
                        self.life.spawn(Task::Follow, async move {
                            this.refresh(&upstream, conversation.as_ref(), Some(offering)).await;
                            if let Some(conversation) = conversation {
                                conversation.say(cross::without_subscription(&message));
                            }
                        });
                    }
                    (_, Some(conversation)) => conversation.say(cross::without_subscription(&message)),
                    (Some(Told::Updated(uri)), None) => self.updated(upstream, owner, &uri),
                    (None, None) => {}
                }
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
