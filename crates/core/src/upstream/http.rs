//! Upstreams over streamable HTTP, of both eras.
//!
//! Each request is a POST of its own. In the era with sessions an instance is one session: opened with
//! `initialize`, followed by a GET stream where somebody listens, ended with DELETE, opened anew when the upstream
//! has forgotten it (404, which says that nothing was done). In the other era an instance is no more than what the
//! upstream said of itself.

mod client;
mod endpoint;
mod exchange;
pub mod oauth;

use super::{Broadcast, Lost, Plan, Sent, Upstream};
use crate::life::{Life, Task};
use bytes::Bytes;
pub(super) use endpoint::{Address, Endpoint, Head, STREAM, extend, is_stream};
pub use exchange::Exchange;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use oauth::Authorization;
use seawall_proto::{
    Ask, Message, Reply, ReplySlot, Request,
    era::{
        Spoken,
        opening::{Heard as Opened, Opening, Step},
        peer::{Incoming as FromUpstream, Minted, Outgoing, Peer, answer_upstream},
    },
    event::Answer,
    sse::SseReader,
};
use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const SESSION: &str = "mcp-session-id";
const LAST_EVENT: &str = "last-event-id";
/// How long a message that nobody waits for may take.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How long a broken stream of an upstream's own messages waits before it is opened again, at first and at most.
const FOLLOW_AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// Makes instances of one endpoint.
#[derive(Debug)]
pub struct Connector {
    endpoint: Arc<Endpoint>,
}

/// One session, or an endpoint that has none.
pub struct Instance {
    endpoint: Arc<Endpoint>,
    peer: Peer,
    session: Option<HeaderValue>,
    /// What goes with every message of this instance.
    headers: HeaderMap,
    next: AtomicU64,
    in_flight: AtomicUsize,
    /// Messages under way that nobody waits for.
    sending: AtomicUsize,
    /// Told when an exchange or a message of an instance that ends is over.
    quiet: Notify,
    followed: AtomicBool,
    pub(super) logs: AtomicBool,
    /// No new calls although those under way go on; it ends after the last of them.
    draining: AtomicBool,
    /// No new calls.
    gone: CancellationToken,
    /// No calls at all: those under way end too.
    ended: CancellationToken,
    life: Life,
    say: Arc<dyn Fn(Broadcast) + Send + Sync>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("uri", &self.endpoint.uri).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint) }
    }

    /// Opens a session, or learns what the endpoint says of itself.
    pub(super) async fn open(&self, plan: &Plan, life: &Life) -> (Result<Arc<Instance>, Lost>, Spoken) {
        let mut opening = Opening::new(plan.pin, plan.spoken, &plan.wire, Arc::clone(&plan.face));
        let (mut session, mut refused) = (None, None);
        loop {
            match opening.step() {
                Step::Send { body, headers, probe, .. } => {
                    let headers =
                        headers.into_iter().map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
                    let headers = extend(self.endpoint.headers.clone(), headers);
                    let asked = self.ask(body, headers, &mut refused);
                    let heard = if probe {
                        timeout(plan.probe_budget(), asked).await.unwrap_or((Opened::Silence, None))
                    } else {
                        asked.await
                    };
                    session = heard.1;
                    opening.heard(&heard.0);
                }
                Step::Open(peer) => {
                    let instance = Instance::new(&self.endpoint, *peer, session, plan, life);
                    let spoken = opening.spoken();
                    if let Some(opened) = instance.peer.opened()
                        && let Err(lost) = instance.post_once(opened).await
                    {
                        instance.end("it could not be opened");
                        return (Err(lost), spoken);
                    }
                    return (Ok(instance), spoken);
                }
                Step::Failed(reason) => {
                    let reason = refused.unwrap_or(reason);
                    return (Err(Lost::new(Sent::No, reason)), opening.spoken());
                }
            }
        }
    }

    /// Sends an opening request and reads its answer; `refused` says so where a login is wanted or it is elsewhere,
    /// which tells nothing of the era.
    async fn ask(
        &self,
        body: Bytes,
        headers: HeaderMap,
        refused: &mut Option<String>,
    ) -> (Opened, Option<HeaderValue>) {
        let response = match self.endpoint.send(Method::POST, headers, body).await {
            Ok(response) => response,
            Err(lost) => return (Opened::Gone(lost.why), None),
        };
        if let Some(lost) = self.endpoint.wants_login(&response) {
            *refused = Some(lost.why.clone());
            return (Opened::Gone(lost.why), None);
        }
        let session = response.headers().get(SESSION).cloned();
        let head = Head::of(&response);
        if head.redirects() {
            *refused = Some(head.instead(&[]));
        }
        let heard = match self.endpoint.first_response(response).await {
            Ok(Some(message)) => Opened::Response(message),
            Ok(None) => Opened::Status(head.status.as_u16()),
            Err(lost) => Opened::Gone(lost.why),
        };
        (heard, session)
    }
}

impl Upstream {
    /// The logins at it, where it can have any.
    pub(crate) fn authorization(&self) -> Option<&Arc<Authorization>> {
        match &self.connector {
            super::Connector::Http(connector) => connector.endpoint.authorization.as_ref(),
            super::Connector::Sse(connector) => connector.endpoint.authorization.as_ref(),
            super::Connector::WebSocket(connector) => connector.endpoint.authorization.as_ref(),
            super::Connector::Stdio(_) => None,
            #[cfg(test)]
            super::Connector::Script(_) => None,
        }
    }
}

impl Instance {
    fn new(
        endpoint: &Arc<Endpoint>,
        peer: Peer,
        session: Option<HeaderValue>,
        plan: &Plan,
        life: &Life,
    ) -> Arc<Self> {
        let session = session.filter(|_| peer.has_session());
        let mut headers = extend(endpoint.headers.clone(), peer.standing_headers());
        if let Some(session) = &session {
            headers.insert(HeaderName::from_static(SESSION), session.clone());
        }
        Arc::new(Self {
            endpoint: Arc::clone(endpoint),
            peer,
            session,
            headers,
            next: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            quiet: Notify::new(),
            followed: AtomicBool::new(false),
            logs: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            gone: CancellationToken::new(),
            ended: CancellationToken::new(),
            life: life.clone(),
            say: Arc::clone(&plan.say),
        })
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.drains() || self.gone.is_cancelled()
    }

    fn drains(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Takes no new calls, and ends when the last of those under way has.
    pub(super) fn drain(self: &Arc<Self>, why: &str) {
        tracing::debug!(uri = %self.endpoint.uri, why, "a session takes no new calls");
        self.draining.store(true, Ordering::SeqCst);
        self.end_if_drained();
    }

    fn end_if_drained(self: &Arc<Self>) {
        if self.drains() && self.in_flight() == 0 {
            self.end("the last of its calls has ended");
        }
    }

    /// Ends the session; the upstream is told in a task of its own.
    pub(super) fn end(self: &Arc<Self>, why: &str) {
        if self.gone.is_cancelled() {
            return;
        }
        self.gone.cancel();
        self.ended.cancel();
        tracing::debug!(uri = %self.endpoint.uri, why, "a session ends");
        if self.session.is_some() {
            let this = Arc::clone(self);
            self.life.spawn(Task::Send, async move {
                // What takes its calls back has to arrive while the upstream still knows the session.
                let _ = timeout(SEND_LIMIT, this.until_quiet()).await;
                let deleted = this.endpoint.send(Method::DELETE, this.headers.clone(), Bytes::new());
                let _ = timeout(SEND_LIMIT, deleted).await;
            });
        }
    }

    /// Waits until no exchange is open and no message under way.
    async fn until_quiet(&self) {
        loop {
            let quiet = self.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            if self.in_flight() == 0 && self.sending.load(Ordering::Relaxed) == 0 {
                return;
            }
            quiet.await;
        }
    }

    /// The upstream has forgotten the session: the next call opens another.
    fn forgotten(&self) {
        self.gone.cancel();
    }

    pub(super) fn notify(self: &Arc<Self>, message: Outgoing) {
        let headers = extend(self.headers.clone(), message.headers);
        self.sending.fetch_add(1, Ordering::Relaxed);
        let this = Arc::clone(self);
        self.life.spawn(Task::Send, async move {
            let sent = async {
                let response = this.endpoint.send(Method::POST, headers, message.body).await?;
                // The connection can be used again only once the answer is read.
                this.endpoint.collect(response).await
            };
            if !matches!(timeout(SEND_LIMIT, sent).await, Ok(Ok(_))) {
                tracing::debug!(uri = %this.endpoint.uri, "a notification did not arrive");
            }
            this.sending.fetch_sub(1, Ordering::Relaxed);
            this.quiet.notify_waiters();
        });
    }

    /// Sends a notification and waits until it has arrived.
    async fn post_once(&self, message: Outgoing) -> Result<(), Lost> {
        let headers = extend(self.headers.clone(), message.headers);
        let response = self.endpoint.send(Method::POST, headers, message.body).await?;
        if let Some(lost) = self.endpoint.wants_login(&response) {
            return Err(Lost::new(Sent::No, lost.why));
        }
        let status = response.status();
        self.endpoint.collect(response).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(Lost::new(Sent::No, format!("it refused the end of its opening with HTTP {status}")))
    }

    pub(super) fn exchange(
        this: &Arc<Self>,
        request: &Request,
        subject: Option<&str>,
        parameters: Vec<(String, String)>,
    ) -> Result<Exchange, Reply> {
        // A session may be shared, so its ids are minted; a request that stands alone keeps its caller's.
        let minted =
            this.peer.has_session().then(|| Minted { id: this.next.fetch_add(1, Ordering::Relaxed) });
        let outgoing = this.peer.outgoing(request, subject, minted, parameters)?;
        Ok(Exchange::new(Arc::clone(this), minted, request.id(), outgoing))
    }

    /// Opens the stream of the upstream's own messages, once, where its era has one.
    pub(super) fn follow(this: &Arc<Self>) {
        if this.followed.swap(true, Ordering::Relaxed) {
            return;
        }
        let (method, message) = match this.peer.listen(this.next.fetch_add(1, Ordering::Relaxed)) {
            Some(listen) => (Method::POST, listen),
            None if this.session.is_some() => {
                (Method::GET, Outgoing { body: Bytes::new(), headers: Vec::new() })
            }
            None => return,
        };
        let this = Arc::clone(this);
        this.life.clone().spawn(Task::Follow, async move {
            tokio::select! {
                () = this.follow_on(method, message) => {}
                () = this.gone.cancelled() => {}
            }
        });
    }

    async fn follow_on(self: &Arc<Self>, method: Method, message: Outgoing) {
        let mut headers = extend(self.headers.clone(), message.headers);
        if method == Method::GET {
            headers.insert(header::ACCEPT, HeaderValue::from_static(STREAM));
        }
        let [mut pause, longest] = FOLLOW_AGAIN;
        loop {
            match self.endpoint.send(method.clone(), headers.clone(), message.body.clone()).await {
                Ok(response) if response.status() == 404 && self.session.is_some() => {
                    return self.forgotten();
                }
                // It has no such stream.
                Ok(response) if response.status().is_client_error() => return,
                Ok(response) if is_stream(&response) => {
                    pause = FOLLOW_AGAIN[0];
                    if let Some(last) = self.listen_to(response).await {
                        headers.insert(HeaderName::from_static(LAST_EVENT), last);
                    }
                }
                Ok(_) | Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Reads one stream to its end; gives the id of its last event.
    async fn listen_to(self: &Arc<Self>, response: Response<Incoming>) -> Option<HeaderValue> {
        let mut body = response.into_body();
        let mut reader = SseReader::new(self.endpoint.message);
        let mut last = None;
        while let Some(Ok(frame)) = body.frame().await {
            reader.feed(frame.data_ref().map_or(&[][..], |data| data));
            while let Ok(Some(event)) = reader.next_event() {
                last = event.id.and_then(|id| HeaderValue::try_from(id).ok()).or(last);
                let Ok(message) = Message::parse(event.data) else { continue };
                match self.peer.incoming(&message) {
                    FromUpstream::Broadcast(topic) | FromUpstream::About { topic, .. } => {
                        (self.say)(Broadcast::Notification(message, topic));
                    }
                    FromUpstream::Ask => (self.say)(Broadcast::Ask(self.ask(message))),
                    FromUpstream::Ping => self.answer(answer_upstream(&message, None)),
                    FromUpstream::Response { .. } => {}
                }
            }
        }
        last
    }

    /// A question of the upstream, with the way its answer goes back.
    fn ask(self: &Arc<Self>, message: Message) -> Ask {
        let this = Arc::clone(self);
        let question = message.clone();
        let reply = ReplySlot::new(move |answer| {
            let body = match answer {
                Answer::Response(response) => {
                    response.with_id(question.id().as_ref().map_or("null", |id| id.as_str()))
                }
                Answer::Refused(why) => answer_upstream(&question, Some(why)),
            };
            this.answer(body);
        });
        Ask { message, reply }
    }

    fn answer(self: &Arc<Self>, body: Bytes) {
        self.notify(Outgoing { body, headers: Vec::new() });
    }
}
