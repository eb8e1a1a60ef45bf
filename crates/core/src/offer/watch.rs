//! Subscriptions to single resources, towards the upstreams that have them.
//!
//! An upstream of the era with sessions is asked once and tells beside all calls: whoever wants to hear takes a seat
//! with the resource's URI, and the last to leave takes the request back. An upstream of the other era tells on a
//! stream that is opened for one listener and closed with it.

use crate::{
    Gateway,
    call::{Answer, Call, Endpoint},
    config::Sharing,
    life::Task,
    time::Deadline,
    upstream::{Owner, Upstream, Wanted},
};
use seawall_proto::{
    Code, Event, Fault, Message, Reply, ReplyKind, Stage,
    era::offer::{self, Offered, Subscribing, Told},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a broken stream of an upstream waits before it is opened again, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// Most resources that one session or one stream of changes may watch.
pub(super) const WATCHES: usize = 64;
/// How long a resource's upstream may take to say that it will tell.
pub(super) const SUBSCRIBE: Duration = Duration::from_secs(5);

/// Where it is told.
#[derive(Clone, Debug)]
pub(super) enum Ear {
    /// The stream of a session's own messages.
    Session(Arc<str>),
    /// A stream of changes; what it has no room for is dropped.
    Stream(mpsc::Sender<Arc<str>>),
}

/// Whose instance tells. Of two that are equal here one instance tells both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    conversation: Option<Arc<str>>,
    caller: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Seat {
    upstream: Arc<str>,
    uri: Arc<str>,
    place: Place,
    ear: Ear,
}

/// Everybody who is told of resources of upstreams that tell beside all calls.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<(u64, BTreeMap<u64, Seat>)>);

/// One resource that is watched for one listener. Dropped, it is watched no more.
#[derive(Debug)]
pub(super) struct Watch {
    _hold: Hold,
}

#[derive(Debug)]
enum Hold {
    Seat { _taken: Taken },
    Stream { _open: DropGuard },
}

/// A seat that is left when this is dropped.
#[derive(Debug)]
struct Taken {
    gateway: Weak<Gateway>,
    number: u64,
    call: Call,
    upstream: Arc<Upstream>,
}

impl Place {
    fn of(call: &Call, upstream: &Upstream) -> Self {
        let caller = Some(Arc::clone(&call.caller.name));
        match (upstream.config().sharing, &call.conversation) {
            (Sharing::Everyone, _) => Self { conversation: None, caller: None },
            (Sharing::Session, Some(conversation)) => {
                Self { conversation: Some(Arc::clone(conversation)), caller }
            }
            (Sharing::Session | Sharing::Caller | Sharing::Call, _) => Self { conversation: None, caller },
        }
    }
}

impl Seats {
    fn take(&self, seat: Seat) -> u64 {
        let mut seats = self.lock();
        seats.0 += 1;
        let number = seats.0;
        seats.1.insert(number, seat);
        number
    }

    /// Leaves a seat; gives it where nobody else is told the same by the same instance.
    fn leave(&self, number: u64) -> Option<Seat> {
        let mut seats = self.lock();
        let left = seats.1.remove(&number)?;
        let same = |other: &Seat| {
            other.upstream == left.upstream && other.uri == left.uri && other.place == left.place
        };
        if seats.1.values().any(same) { None } else { Some(left) }
    }

    pub(super) fn holds(&self, conversation: &str) -> bool {
        self.lock().1.values().any(|seat| seat.place.conversation.as_deref() == Some(conversation))
    }

    /// Who is to be told that an upstream said of a resource, or of one below it, that it changed. `owner` is the
    /// conversation whose instance said it, if one's.
    fn ears(&self, upstream: &str, owner: &Owner, uri: &str) -> Vec<Ear> {
        let seats = self.lock();
        let told = seats.1.values().filter(|seat| {
            *seat.upstream == *upstream
                && seat.place.conversation == owner.conversation
                && (owner.conversation.is_some() || seat.place.caller == owner.caller)
                && is_or_is_below(uri, &seat.uri)
        });
        told.map(|seat| seat.ear.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Seat>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        let Some(seat) = gateway.audience.seats.leave(self.number) else { return };
        let wanted = Wanted::by(&self.call);
        // An instance that is gone tells nothing any more.
        let Some(instance) = self.upstream.ready(&wanted) else { return };
        let request = offer::unsubscribing(instance.peer(), &seat.uri, self.call.request.face());
        let call = Call { request: Arc::new(request), ..self.call.clone() };
        gateway.life.clone().spawn(Task::Send, async move {
            let _ = Deadline::after(SUBSCRIBE).bound(gateway.whole(call)).await;
        });
    }
}

impl Gateway {
    /// Subscribes a session to a resource, wherever it is.
    pub(super) async fn subscribe(self: &Arc<Self>, call: &Call, uri: &str) -> Result<Reply, Fault> {
        let Some(conversation) = &call.conversation else {
            return Ok(offer::invalid(&call.request, "only a session can subscribe"));
        };
        let Some(upstream) = self.find_resource(call, uri).and_then(|name| self.upstream(&name)) else {
            return Ok(offer::no_resource(&call.request, uri));
        };
        if !self.audience.may_watch(conversation, uri) {
            let text = format!("a session may subscribe to {WATCHES} resources; unsubscribe from one first");
            return Ok(offer::invalid(&call.request, &text));
        }
        let ear = Ear::Session(Arc::clone(conversation));
        let most = upstream.config().start_timeout + SUBSCRIBE;
        let budget = Deadline::after(call.limit.unwrap_or(most).min(most));
        match budget.bound(Box::pin(self.watch(call, &upstream, uri, ear))).await {
            Ok(Ok(watch)) => {
                self.audience.keep(conversation, uri, watch);
                Ok(offer::done(&call.request))
            }
            Ok(Err(end)) => end.map(|refused| offer::readdressed(&refused, &call.request)),
            Err(_) => {
                let text = "the server did not say in time that it will tell of changes; try again.";
                let fault = Fault::new(Code::Timeout, Stage::Answer, text);
                Err(Fault { upstream: Some(Arc::clone(upstream.name())), ..fault })
            }
        }
    }

    /// Takes a session's subscription back; one that never was is no error.
    pub(super) fn unsubscribe(&self, call: &Call, uri: &str) -> Reply {
        if let Some(conversation) = &call.conversation {
            self.audience.give_up(conversation, uri);
        }
        offer::done(&call.request)
    }

    /// Passes on that a resource of an upstream changed.
    pub(crate) fn updated(&self, upstream: &str, owner: &Owner, uri: &str) {
        for ear in self.audience.seats.ears(upstream, owner, uri) {
            self.whisper(&ear, uri);
        }
    }

    fn whisper(&self, ear: &Ear, uri: &str) {
        match ear {
            Ear::Session(id) => {
                if let Some(conversation) = self.conversations.find(id) {
                    conversation.say(offer::updated(None, uri));
                }
            }
            // A stream that is this far behind has as many changes to look into as it can hold.
            Ear::Stream(stream) => drop(stream.try_send(Arc::from(uri))),
        }
    }

    /// Watches a resource for one listener.
    ///
    /// # Errors
    /// The upstream's refusal, addressed to nobody in particular, or why it could not be asked.
    pub(super) async fn watch(
        self: &Arc<Self>,
        call: &Call,
        upstream: &Arc<Upstream>,
        uri: &str,
        ear: Ear,
    ) -> Result<Watch, Result<Reply, Fault>> {
        let refused = |text: &str| Err(Ok(offer::invalid(&call.request, text)));
        if upstream.config().sharing == Sharing::Call {
            return refused(
                "the server has an instance for each call, and none that stays to tell of changes",
            );
        }
        let call = Call { endpoint: Endpoint::One(Arc::clone(upstream.name())), limit: None, ..call.clone() };
        let peer = self.peer(upstream, &call).await.map_err(Err)?;
        if !Offered::of(&peer).subscriptions {
            return refused("the server does not tell when its resources change");
        }
        match offer::subscribing(&peer, uri, call.request.face()) {
            Subscribing::Asked(request) => {
                let call = Call { request: Arc::new(request), ..call };
                // Its words decide which instance it goes to, which is the one that has to be heard.
                self.peer(upstream, &call).await.map_err(Err)?;
                if let Some(instance) = upstream.ready(&Wanted::by(&call)) {
                    instance.follow();
                }
                let seat = Seat {
                    upstream: Arc::clone(upstream.name()),
                    uri: Arc::from(uri),
                    place: Place::of(&call, upstream),
                    ear,
                };
                // Before it is asked for, so that nothing is missed; left again where it is refused.
                let taken = Taken {
                    gateway: self.this.clone(),
                    number: self.audience.seats.take(seat),
                    call: call.clone(),
                    upstream: Arc::clone(upstream),
                };
                let reply = self.whole(call).await.map_err(Err)?.reply;
                if matches!(reply.kind, ReplyKind::Error(_)) {
                    return Err(Ok(reply));
                }
                Ok(Watch { _hold: Hold::Seat { _taken: taken } })
            }
            Subscribing::Stream(request) => {
                let call = Call { request: Arc::new(request), ..call };
                let mut answer = self.call(call.clone());
                begun(&mut answer).await?;
                let over = CancellationToken::new();
                let (this, guard) = (Arc::clone(self), over.clone().drop_guard());
                self.life.spawn(Task::Follow, async move {
                    let _ = over.run_until_cancelled(this.pass_on_updates(&call, answer, &ear)).await;
                });
                Ok(Watch { _hold: Hold::Stream { _open: guard } })
            }
        }
    }

    /// The same for a stream of changes, which does not wait for longer than `until`; `None` where there is nothing
    /// to hear.
    pub(super) async fn watch_soon(
        self: &Arc<Self>,
        call: &Call,
        uri: &str,
        ear: Ear,
        until: Deadline,
    ) -> Option<Watch> {
        let upstream = self.find_resource(call, uri).and_then(|name| self.upstream(&name))?;
        let watched = until.bound(Box::pin(self.watch(call, &upstream, uri, ear))).await;
        watched.ok()?.ok()
    }

    /// Passes on what a stream of an upstream tells, and opens it anew when it breaks.
    async fn pass_on_updates(self: &Arc<Self>, call: &Call, mut answer: Answer, ear: &Ear) {
        let [mut pause, longest] = AGAIN;
        loop {
            match answer.next().await {
                Event::Notification(body) => {
                    pause = AGAIN[0];
                    let told = Message::parse(body).ok().and_then(|message| offer::told(&message));
                    if let Some(Told::Updated(uri)) = told {
                        self.whisper(ear, &uri);
                    }
                }
                Event::End(_) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(longest);
                    answer = self.call(call.clone());
                }
                _ => {}
            }
        }
    }
}

/// Whether a resource is another, or a part of it.
fn is_or_is_below(uri: &str, above: &str) -> bool {
    uri.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || above.ends_with('/') || rest.starts_with(['/', '?', '#']))
}

/// Waits until a stream of changes has begun.
async fn begun(answer: &mut Answer) -> Result<(), Result<Reply, Fault>> {
    loop {
        match answer.next().await {
            Event::Notification(_) => return Ok(()),
            Event::End(end) => return Err(end),
            _ => {}
        }
    }
}
