//! One request over HTTP: the POST, and the body or stream that answers it.

use super::{Head, Instance, LAST_EVENT, extend, is_stream};
use crate::upstream::{Heard, Lost, Sent};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use seawall_proto::{
    Message, Raw,
    era::peer::{Incoming as FromUpstream, Minted, Outgoing, Topic},
    sse::SseReader,
};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// How long to wait before taking a stream up again where the upstream does not say.
const RESUME_AFTER: Duration = Duration::from_millis(500);
/// How often a stream may be taken up again without a single event in between.
const FRUITLESS: u32 = 3;

/// One request over HTTP.
pub struct Exchange {
    instance: Arc<Instance>,
    minted: Option<Minted>,
    caller_id: Raw,
    to_send: Option<Outgoing>,
    sent: Sent,
    stream: Option<Stream>,
    last_event: Option<HeaderValue>,
    retry: Option<Duration>,
    step: Option<Step>,
    fruitless: u32,
    finished: bool,
}

/// What is under way between two events.
enum Step {
    /// The request is on its way, or its answer has not begun.
    Sending(Pin<Box<dyn Future<Output = Result<Response<Incoming>, Lost>> + Send>>),
    /// An answer that is one body is being read.
    Collecting(Head, Pin<Box<dyn Future<Output = Result<Bytes, Lost>> + Send>>),
    /// A stream that ended early is being taken up again.
    Resuming(Pin<Box<dyn Future<Output = Result<Response<Incoming>, Lost>> + Send>>),
}

/// An answer that is one body.
fn plain(head: &Head, body: &Bytes) -> Result<Heard, Lost> {
    match Message::parse(body.clone()) {
        Ok(message)
            if message.method().is_none() && (message.id().is_some() || message.error().is_some()) =>
        {
            Ok(Heard::Response(message))
        }
        Ok(_) => Err(Lost::nonsense("it answered with a message that is no response")),
        Err(malformed) if head.status.is_success() && !body.trim_ascii().is_empty() => {
            Err(Lost::nonsense(format!("{} ({malformed})", head.instead(body))))
        }
        Err(_) => Err(Lost::nonsense(head.instead(body))),
    }
}

struct Stream {
    body: Incoming,
    reader: SseReader,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Exchange {
    pub(super) fn new(
        instance: Arc<Instance>,
        minted: Option<Minted>,
        caller_id: Raw,
        outgoing: Outgoing,
    ) -> Self {
        instance.in_flight.fetch_add(1, Ordering::SeqCst);
        Self {
            instance,
            minted,
            caller_id,
            to_send: Some(outgoing),
            sent: Sent::No,
            stream: None,
            last_event: None,
            retry: None,
            step: None,
            fruitless: 0,
            finished: false,
        }
    }

    pub(in crate::upstream) async fn next(&mut self) -> Result<Heard, Lost> {
        let instance = Arc::clone(&self.instance);
        let heard = tokio::select! {
            biased;
            heard = self.next_unmarked() => Some(heard),
            () = instance.ended.cancelled() => None,
        };
        let heard = heard.unwrap_or_else(|| {
            self.cancel("the session was ended");
            Err(Lost::new(self.sent, "its session was ended"))
        });
        if matches!(heard, Ok(Heard::Response(_)) | Err(_)) {
            self.finished = true;
            self.stream = None;
        }
        heard
    }

    pub(in crate::upstream) fn sent(&self) -> Sent {
        self.sent
    }

    /// Takes the request back: by a notification where the era has one, else by closing the stream.
    pub(in crate::upstream) fn cancel(&mut self, reason: &str) {
        self.stream = None;
        self.step = None;
        self.to_send = None;
        if self.finished || self.sent == Sent::No {
            return;
        }
        self.finished = true;
        let id = self.minted.map_or(0, |minted| minted.id);
        if let Some(cancel) = self.instance.peer.cancel(id, true, reason) {
            self.instance.notify(cancel);
        }
    }

    /// Cancel-safe: what is under way is kept in `step` and gone on with at the next call.
    async fn next_unmarked(&mut self) -> Result<Heard, Lost> {
        if let Some(outgoing) = self.to_send.take() {
            if self.instance.is_gone() {
                return Err(Lost::new(Sent::No, "it takes no new calls"));
            }
            let headers = extend(self.instance.headers.clone(), outgoing.headers);
            let endpoint = Arc::clone(&self.instance.endpoint);
            self.sent = Sent::Maybe;
            let sending = async move { endpoint.send(Method::POST, headers, outgoing.body).await };
            self.step = Some(Step::Sending(Box::pin(sending)));
        }
        loop {
            match &mut self.step {
                Some(Step::Sending(sending)) => {
                    let answered = sending.await;
                    self.step = None;
                    let response = answered.inspect_err(|lost| self.sent = lost.sent)?;
                    if let Some(lost) = self.instance.endpoint.wants_login(&response) {
                        return Err(lost);
                    }
                    if response.status() == StatusCode::NOT_FOUND && self.instance.session.is_some() {
                        return Err(self.forgotten("its session had expired"));
                    }
                    if is_stream(&response) {
                        self.read(response);
                        return Ok(Heard::Streaming);
                    }
                    let (head, endpoint) = (Head::of(&response), Arc::clone(&self.instance.endpoint));
                    let collecting = async move { endpoint.collect(response).await };
                    self.step = Some(Step::Collecting(head, Box::pin(collecting)));
                }
                Some(Step::Collecting(head, collecting)) => {
                    let (head, body) = (head.clone(), collecting.await);
                    self.step = None;
                    let heard = plain(&head, &body?).map_err(|lost| self.busy(&head, lost));
                    if let Ok(Heard::Response(message)) = &heard
                        && head.status == StatusCode::BAD_REQUEST
                        && self.instance.session.is_some()
                        && message.id().is_none()
                    {
                        // Servers that forgot a session say so in this way too; nothing was done.
                        let error = message.error();
                        let error = error.as_ref().map_or("", |error| error.as_str());
                        return Err(self.forgotten(format!("it refused the session with HTTP 400: {error}")));
                    }
                    return heard.and_then(|heard| self.own(heard));
                }
                Some(Step::Resuming(resuming)) => {
                    let answered = resuming.await;
                    self.step = None;
                    let response = answered.map_err(|lost| Lost::new(Sent::Maybe, lost.why))?;
                    if !is_stream(&response) {
                        let why =
                            format!("its stream could not be taken up again (HTTP {})", response.status());
                        return Err(Lost::new(Sent::Maybe, why));
                    }
                    self.read(response);
                }
                None => match self.event().await? {
                    Some(heard) => return Ok(heard),
                    None if self.last_event.is_some() && self.fruitless < FRUITLESS => {
                        self.fruitless += 1;
                        self.step = Some(Step::Resuming(Box::pin(self.resume())));
                        let retry = self.retry.map(|retry| retry.as_millis().try_into().unwrap_or(u64::MAX));
                        return Ok(Heard::Pause(retry));
                    }
                    None => return Err(Lost::new(Sent::Maybe, "its stream ended without an answer")),
                },
            }
        }
    }

    /// Notes whether the upstream takes no calls now, and until when: 429 says that it has not done this one, 503 does not.
    fn busy(&mut self, head: &Head, lost: Lost) -> Lost {
        let busy = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if head.status == StatusCode::TOO_MANY_REQUESTS {
            self.sent = Sent::No;
        }
        Lost { busy, retry_after: head.retry_after.filter(|_| busy), sent: self.sent, ..lost }
    }

    /// The upstream does not know the session any more, so it did nothing; the next call opens another.
    fn forgotten(&mut self, why: impl Into<String>) -> Lost {
        self.instance.forgotten();
        self.sent = Sent::No;
        Lost::new(Sent::No, why)
    }

    fn read(&mut self, response: Response<Incoming>) {
        let reader = SseReader::new(self.instance.endpoint.message);
        self.stream = Some(Stream { body: response.into_body(), reader });
    }

    /// Takes a stream up where it broke off.
    fn resume(&self) -> impl Future<Output = Result<Response<Incoming>, Lost>> + Send + 'static {
        let endpoint = Arc::clone(&self.instance.endpoint);
        let mut headers = self.instance.headers.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static(super::STREAM));
        if let Some(last) = &self.last_event {
            headers.insert(HeaderName::from_static(LAST_EVENT), last.clone());
        }
        let pause = self.retry.unwrap_or(RESUME_AFTER);
        async move {
            sleep(pause).await;
            endpoint.send(Method::GET, headers, Bytes::new()).await
        }
    }

    /// The next event of the stream that means something to the call; `None` at the stream's end.
    async fn event(&mut self) -> Result<Option<Heard>, Lost> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let next = stream
                .reader
                .next_event()
                .map_err(|error| Lost { too_large: true, ..Lost::nonsense(error.to_string()) })?;
            if let Some(event) = next {
                self.fruitless = 0;
                if let Some(id) = event.id.and_then(|id| HeaderValue::try_from(id).ok()) {
                    self.last_event = Some(id);
                }
                self.retry = event.retry_ms.map(Duration::from_millis).or(self.retry);
                if event.data.is_empty() {
                    continue;
                }
                let message = Message::parse(event.data)
                    .map_err(|malformed| Lost::nonsense(format!("an event of its stream is {malformed}")))?;
                if let Some(heard) = self.sort(message) {
                    return Ok(Some(heard));
                }
                continue;
            }
            match stream.body.frame().await {
                Some(Ok(frame)) => stream.reader.feed(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) if self.last_event.is_none() => {
                    return Err(Lost::new(Sent::Maybe, format!("its stream broke: {error}")));
                }
                Some(Err(_)) | None => {
                    self.stream = None;
                    return Ok(None);
                }
            }
        }
    }

    fn sort(&self, message: Message) -> Option<Heard> {
        match self.instance.peer.incoming(&message) {
            FromUpstream::Response { id } => {
                // An error may come without an id: nothing else was asked on this stream.
                (self.is_mine(&message, id) || (message.id().is_none() && message.error().is_some()))
                    .then_some(Heard::Response(message))
            }
            FromUpstream::About { topic, .. } | FromUpstream::Broadcast(topic) => {
                // Everything on this stream is about this call, whatever token it carries; progress of another is not.
                let foreign = topic == Topic::Progress && self.foreign(&message);
                (!foreign).then_some(Heard::Notification(message, topic))
            }
            FromUpstream::Ask => Some(Heard::Ask(self.instance.ask(message))),
            FromUpstream::Ping => {
                self.instance.answer(seawall_proto::era::peer::answer_upstream(&message, None));
                None
            }
        }
    }

    /// Whether a response is to this request. `minted` is its id as one of ours.
    fn is_mine(&self, response: &Message, minted: Option<u64>) -> bool {
        match self.minted {
            Some(mine) => minted == Some(mine.id),
            None => response.id().as_ref() == Some(&self.caller_id),
        }
    }

    /// Refuses a body that is the result of another request: whose it is, nobody can tell. Errors are known to come
    /// with ids of all kinds.
    fn own(&self, heard: Heard) -> Result<Heard, Lost> {
        if let Heard::Response(message) = &heard
            && message.result().is_some()
            && let FromUpstream::Response { id } = self.instance.peer.incoming(message)
            && !self.is_mine(message, id)
        {
            let id = message.id();
            let id = id.as_ref().map_or("null", |id| id.as_str());
            return Err(Lost::nonsense(format!(
                "it answered with the result of another request, of the id {id}"
            )));
        }
        Ok(heard)
    }

    fn foreign(&self, message: &Message) -> bool {
        match (self.minted, self.instance.peer.incoming(message)) {
            (Some(minted), FromUpstream::About { id, .. }) => id != minted.id,
            _ => false,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            self.cancel("the call was dropped");
        }
        self.instance.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.instance.quiet.notify_waiters();
        self.instance.end_if_drained();
    }
}
