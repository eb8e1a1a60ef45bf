//! How an instance on a channel is opened, whatever carries it.

use super::{Lost, Plan, Sent};
use bytes::Bytes;
use seawall_proto::{
    Message,
    era::{
        Spoken,
        opening::{Heard, OPENING_ID, Opening, Step},
        peer::{Peer, answer_upstream},
    },
};
use tokio::time::timeout;

/// A carrier that is being opened.
pub(in crate::upstream) trait Starting: Send + Sized {
    /// Sends an opening request and waits for its answer, for the end of the carrier, or for ever.
    fn ask(&mut self, body: &Bytes) -> impl Future<Output = Heard> + Send;

    /// What it said last besides its messages, as a clause to put behind a reason; may be empty.
    fn last_words(&self) -> String;

    /// Ends it, in a task of its own.
    fn end(self);
}

/// Ends a carrier whose opening is dropped half-way.
pub(in crate::upstream) struct Guard<S: Starting>(Option<S>);

impl<S: Starting> Guard<S> {
    pub(in crate::upstream) fn new(starting: S) -> Self {
        Self(Some(starting))
    }

    /// The carrier, not to be ended.
    pub(in crate::upstream) fn release(mut self) -> Option<S> {
        self.0.take()
    }

    fn end(&mut self) {
        if let Some(starting) = self.0.take() {
            starting.end();
        }
    }
}

impl<S: Starting> Drop for Guard<S> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens what `start` starts. Whatever happens, no carrier is left behind.
pub(in crate::upstream) async fn open<S, F>(
    mut opening: Opening,
    plan: &Plan,
    start: impl Fn() -> F + Send,
) -> (Result<(S, Peer), Lost>, Spoken)
where
    S: Starting,
    F: Future<Output = Result<S, Lost>> + Send,
{
    let mut guard = Guard::<S>(None);
    loop {
        match opening.step() {
            Step::Send { body, fresh, probe, .. } => {
                if fresh {
                    guard.end();
                }
                if guard.0.is_none() {
                    match start().await {
                        Ok(started) => guard.0 = Some(started),
                        Err(lost) => return (Err(lost), opening.spoken()),
                    }
                }
                let starting = guard.0.as_mut().expect("it was put there if there was none");
                let heard = if probe {
                    let waited = timeout(plan.probe_budget(), starting.ask(&body)).await;
                    waited.unwrap_or(Heard::Silence)
                } else {
                    starting.ask(&body).await
                };
                opening.heard(&heard);
            }
            Step::Open(peer) => {
                let opened = guard.0.take().map(|starting| (starting, *peer));
                let opened = opened.ok_or_else(|| Lost::new(Sent::No, "it was opened without being started"));
                return (opened, opening.spoken());
            }
            Step::Failed(reason) => {
                let said = guard.0.as_ref().map_or_else(String::new, S::last_words);
                return (Err(Lost::new(Sent::No, format!("{reason}{said}"))), opening.spoken());
            }
        }
    }
}

/// What a message means that comes before an instance is open.
#[derive(Debug)]
pub(in crate::upstream) enum Early {
    /// The answer to the opening request.
    Response(Message),
    /// A request, and what is to be said to it: nobody is there to answer.
    Answer(Bytes),
    /// Nothing.
    Nothing,
}

/// Reads what comes before an instance is open.
pub(in crate::upstream) fn early(text: Bytes) -> Early {
    let Ok(message) = Message::parse(text) else { return Early::Nothing };
    let Some(method) = message.method() else {
        let opening = message.id().is_some_and(|id| id.as_str() == OPENING_ID);
        return if opening { Early::Response(message) } else { Early::Nothing };
    };
    if message.id().is_none() {
        return Early::Nothing;
    }
    let refusal = (method != "ping").then_some("not open yet");
    Early::Answer(answer_upstream(&message, refusal))
}
