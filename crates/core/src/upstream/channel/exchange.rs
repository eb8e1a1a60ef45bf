//! One request on a channel.

use super::{Data, Instance, Lost, mailbox::Mailbox};
use crate::upstream::{Heard, Sent};
use bytes::Bytes;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::timeout;

/// How long a request that was taken back is still counted as under way: the protocol wants no answer to it.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// One request on a channel.
pub struct Exchange {
    instance: Arc<Instance>,
    id: u64,
    to_send: Option<Bytes>,
    sent: Sent,
    /// How many requests the instance had answered when this one was sent.
    answers_before: u64,
    heard: Mailbox,
    finished: bool,
    recalled: bool,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Exchange {
    pub(super) fn new(instance: Arc<Instance>, id: u64, to_send: Option<Bytes>, heard: Mailbox) -> Self {
        Self {
            answers_before: instance.answers(),
            instance,
            id,
            to_send,
            sent: Sent::No,
            heard,
            finished: false,
            recalled: false,
        }
    }

    pub(in crate::upstream) async fn next(&mut self) -> Result<Heard, Lost> {
        if self.to_send.is_some() && !self.hand_over().await {
            let why = self.instance.why();
            self.forget();
            return Err(Lost::new(Sent::No, why));
        }
        let heard = self.heard.next().await.unwrap_or_else(|| Err(Lost::new(self.sent, "it is gone")));
        match heard {
            Err(lost) => {
                self.finished = true;
                // What it never got, it cannot have acted on; and a carrier may know that it was refused unread.
                if lost.sent == Sent::No {
                    self.sent = Sent::No;
                }
                Err(Lost { sent: self.sent, ..lost })
            }
            Ok(heard) => {
                self.finished = matches!(heard, Heard::Response(_));
                Ok(heard)
            }
        }
    }

    /// Puts the request into the carrier's queue once there is room; tells whether there was. Cancel-safe.
    async fn hand_over(&mut self) -> bool {
        let instance = &self.instance;
        if instance.gone.is_cancelled() {
            return false;
        }
        let room = tokio::select! {
            biased;
            room = instance.data.reserve() => room.ok(),
            () = instance.gone.cancelled() => None,
        };
        let (Some(room), Some(body)) = (room, self.to_send.take()) else { return false };
        // From here on the other side may read it at any time.
        self.sent = Sent::Maybe;
        self.answers_before = instance.answers();
        room.send(Data { id: self.id, body });
        true
    }

    pub(in crate::upstream) fn sent(&self) -> Sent {
        self.sent
    }

    /// Takes the request back because its time is over. That nothing was answered meanwhile puts the instance in
    /// doubt.
    pub(in crate::upstream) fn expire(&mut self, reason: &str) {
        if !self.finished && self.instance.answers() == self.answers_before {
            self.instance.unanswered.fetch_add(1, Ordering::Relaxed);
            self.instance.doubt.notify_one();
        }
        self.cancel(reason);
    }

    pub(in crate::upstream) fn cancel(&mut self, reason: &str) {
        self.to_send = None;
        if self.finished || self.sent == Sent::No {
            self.forget();
            return;
        }
        if let Some(pending) = self.instance.lock().open.get_mut(&self.id) {
            pending.recalled = true;
        }
        self.recalled = true;
        if let Some(cancel) = self.instance.peer.cancel(self.id, false, reason) {
            self.instance.notify(cancel);
        }
    }

    pub(in crate::upstream) async fn over(&mut self) {
        let ended = async {
            while let Some(Ok(heard)) = self.heard.next().await {
                if matches!(heard, Heard::Response(_)) {
                    return;
                }
            }
        };
        if self.recalled {
            let _ = timeout(CANCEL_GRACE, ended).await;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.finished = true;
        drop(self.instance.take(self.id));
    }
}

impl Drop for Exchange {
    /// An exchange that is dropped unfinished is taken back; its late answer finds nobody.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if !self.recalled {
            self.cancel("the call was dropped");
        }
        self.forget();
    }
}
