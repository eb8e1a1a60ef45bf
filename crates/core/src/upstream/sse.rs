//! Upstreams over the transport of 2024-11-05: one stream of events with all that the server says, and a POST for
//! each message to it.
//!
//! An instance is a channel that lasts as long as its stream. Every POST is a task of its own, so that one that is
//! not answered holds up neither the reader nor another: a request's until its call gives up, any other for a bounded
//! time. What a POST is answered with says only whether the message was taken; the reply comes on the stream.

mod address;
mod events;

use super::{
    Lost, Plan, Sent,
    channel::{self, Data, Early, Instance, Queues, Starting, early},
    http::{Endpoint, Head, SEND_LIMIT, STREAM, extend, is_stream},
};
use crate::life::{Life, Task};
use address::resolve;
use bytes::Bytes;
use events::{Events, Said};
use http::{HeaderMap, Method, StatusCode, Uri};
use seawall_proto::era::{
    Spoken,
    opening::{Heard, Opening},
    peer::Peer,
};
use std::sync::Arc;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

/// POSTs of cancels, answers and notifications at once; those beyond it wait in their queue.
const CONTROL_AT_ONCE: usize = 32;

/// Makes instances of one endpoint.
#[derive(Debug)]
pub struct Connector {
    pub(super) endpoint: Arc<Endpoint>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint) }
    }

    /// Opens a stream, and a session on it.
    pub(super) async fn open(&self, plan: &Plan, life: &Life) -> (Result<Arc<Instance>, Lost>, Spoken) {
        let opening = Opening::new(plan.pin, plan.spoken, &plan.wire, Arc::clone(&plan.face));
        let (opened, spoken) = channel::open(opening, plan, || self.connect(life)).await;
        match opened {
            Ok((stream, peer)) => (Opened::run(stream, peer, plan).await, spoken),
            Err(lost) => (Err(lost), spoken),
        }
    }

    /// Opens the stream and waits until it says where messages go.
    async fn connect(&self, life: &Life) -> Result<Opened, Lost> {
        let no = |why: String| Lost::new(Sent::No, why);
        let headers = self.endpoint.headers_for_get(Some(STREAM));
        let response = self.endpoint.send(Method::GET, headers, Bytes::new()).await;
        let response = response.map_err(|lost| no(lost.why))?;
        if let Some(lost) = self.endpoint.wants_login(&response) {
            return Err(no(lost.why));
        }
        if !response.status().is_success() || !is_stream(&response) {
            let head = Head::of(&response);
            let body = self.endpoint.collect(response).await.unwrap_or_default();
            let instead = head.instead(&body);
            return Err(no(format!(
                "{instead}, where a stream of events was to open; if it speaks Streamable HTTP, set `transport = \
                 \"http\"`"
            )));
        }
        let mut events = Events::new(response.into_body(), self.endpoint.message);
        loop {
            let Said::Event(event) = events.next().await.map_err(no)? else { continue };
            if event.event.as_deref() != Some("endpoint") {
                continue;
            }
            let to = resolve(&self.endpoint.uri, &event.data).map_err(no)?;
            let (endpoint, headers) = (Arc::clone(&self.endpoint), self.endpoint.headers.clone());
            return Ok(Opened { outbox: Outbox { endpoint, to, headers }, events, life: life.clone() });
        }
    }
}

/// Where messages are posted to, and what goes with each.
#[derive(Clone, Debug)]
struct Outbox {
    endpoint: Arc<Endpoint>,
    to: Uri,
    headers: HeaderMap,
}

/// Why a message was not taken.
struct Refused {
    lost: Lost,
    /// Whether the server does not know the session any more.
    forgotten: bool,
}

impl From<Lost> for Refused {
    fn from(lost: Lost) -> Self {
        Self { lost, forgotten: false }
    }
}

impl Refused {
    fn of(head: &Head, body: &[u8]) -> Self {
        let (forgotten, unread) = match head.status.as_u16() {
            404 | 410 => (true, true),
            400 | 405 | 406 | 411 | 413 | 414 | 415 | 421 | 422 | 429 | 431 => (false, true),
            _ => (false, false),
        };
        let why = head.instead(body);
        let lost = match head.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Lost::nonsense(why),
            _ => Lost::new(if unread { Sent::No } else { Sent::Maybe }, why),
        };
        Self { lost, forgotten }
    }
}

impl Outbox {
    /// Posts one message and waits until it is taken.
    async fn post(&self, body: Bytes) -> Result<(), Refused> {
        let sent = self.endpoint.send_to(&self.to, Method::POST, self.headers.clone(), body);
        let response = sent.await?;
        if let Some(lost) = self.endpoint.wants_login(&response) {
            return Err(lost.into());
        }
        let head = Head::of(&response);
        // The connection can be used again only once the answer is read.
        let body = self.endpoint.collect(response).await.unwrap_or_default();
        if head.status.is_success() { Ok(()) } else { Err(Refused::of(&head, &body)) }
    }

    /// Posts what nobody waits for.
    async fn send(&self, body: Bytes) {
        if !matches!(timeout(SEND_LIMIT, self.post(body)).await, Ok(Ok(()))) {
            tracing::debug!(uri = %self.endpoint.uri, "a notification did not arrive");
        }
    }
}

/// A stream that was opened.
struct Opened {
    outbox: Outbox,
    events: Events,
    life: Life,
}

impl Starting for Opened {
    async fn ask(&mut self, body: &Bytes) -> Heard {
        let Self { outbox, events, life } = self;
        let post = outbox.post(body.clone());
        tokio::pin!(post);
        let mut posted = false;
        loop {
            let said = tokio::select! {
                taken = &mut post, if !posted => match taken {
                    Ok(()) => {
                        posted = true;
                        continue;
                    }
                    Err(refused) => return Heard::Gone(refused.lost.why),
                },
                said = events.next() => said,
            };
            match said {
                Ok(Said::Event(event)) => match early(event.data) {
                    Early::Response(message) => return Heard::Response(message),
                    Early::Answer(answer) => {
                        let outbox = outbox.clone();
                        life.spawn(Task::Send, async move { outbox.send(answer).await });
                    }
                    Early::Nothing => {}
                },
                Ok(Said::TooLong(_)) => {}
                Err(why) => return Heard::Gone(why),
            }
        }
    }

    fn last_words(&self) -> String {
        String::new()
    }

    /// The server learns it from the end of the stream.
    fn end(self) {}
}

impl Opened {
    /// Hands it over to the tasks of an instance.
    async fn run(self, peer: Peer, plan: &Plan) -> Result<Arc<Instance>, Lost> {
        let Self { mut outbox, events, life } = self;
        outbox.headers = extend(outbox.headers, peer.standing_headers());
        if let Some(opened) = peer.opened() {
            outbox.post(opened.body).await.map_err(|refused| {
                let why = refused.lost.why;
                Lost::new(Sent::No, format!("the end of its opening did not arrive: {why}"))
            })?;
        }
        let place = outbox.endpoint.place();
        let (instance, queues) = Instance::new(peer, None, &place, plan);
        instance.tend(&life);
        life.spawn(Task::Instance, read(Arc::clone(&instance), events));
        life.spawn(Task::Instance, write(Arc::clone(&instance), outbox, queues, life.clone()));
        Ok(instance)
    }
}

/// The reader: passes on what the server says, and waits for nothing but the server. The instance ends with the
/// stream.
async fn read(instance: Arc<Instance>, mut events: Events) {
    let why = loop {
        let said = tokio::select! {
            said = events.next() => said,
            () = instance.gone() => return,
        };
        match said {
            Ok(Said::Event(event)) if event.event.as_deref().is_none_or(|kind| kind == "message") => {
                instance.hear(&event.data);
            }
            Ok(Said::Event(_)) => {}
            Ok(Said::TooLong(bytes)) => instance.too_long(bytes),
            Err(why) => break why,
        }
    };
    instance.end(&why);
}

/// The writer: gives every message a task that posts it.
async fn write(instance: Arc<Instance>, outbox: Outbox, queues: Queues, life: Life) {
    let Queues { mut data, mut control } = queues;
    let outbox = Arc::new(outbox);
    let lanes = Arc::new(Semaphore::new(CONTROL_AT_ONCE));
    loop {
        let next_control = async {
            let lane = Arc::clone(&lanes).acquire_owned().await;
            (lane, control.recv().await)
        };
        tokio::select! {
            biased;
            () = instance.gone() => return,
            (lane, message) = next_control => {
                let Some(message) = message else { return };
                let outbox = Arc::clone(&outbox);
                life.spawn(Task::Send, async move {
                    outbox.send(message).await;
                    drop(lane);
                });
            }
            message = data.recv() => {
                let Some(message) = message else { return };
                life.spawn(Task::Send, request(Arc::clone(&instance), Arc::clone(&outbox), message));
            }
        }
    }
}

/// Posts one request, as long as its call wants an answer and a little longer: the answer to the POST may come after
/// the reply.
async fn request(instance: Arc<Instance>, outbox: Arc<Outbox>, Data { id, body }: Data) {
    let Some(call) = instance.way_to(id) else { return };
    let given_up = async {
        call.closed().await;
        sleep(SEND_LIMIT).await;
    };
    let refused = tokio::select! {
        posted = outbox.post(body) => match posted {
            Ok(()) => return,
            Err(refused) => refused,
        },
        () = given_up => return,
        () = instance.gone() => return,
    };
    let Refused { lost, forgotten } = refused;
    if forgotten {
        // Answers to other calls may still come on the stream.
        instance.drain(&lost.why);
    }
    instance.lose(id, lost);
}
