//! HTTP with server-sent events, the oldest transport (2024-11-05): one stream that carries all a client is told, and
//! a path that it posts its messages to.
//!
//! A session begins and ends with its stream. The first event names the path; each message posted there is answered
//! with 202, and what answers it comes on the stream. Nothing is taken up again after a break.

use super::{
    Front,
    guard::{self, Refusal},
    mcp::{Door, accepted, last, read, refused, session::notified},
    stream,
};
use axum::{
    body::Body,
    extract::{Query, Request, State},
    response::Response,
};
use bytes::Bytes;
use http::StatusCode;
use seawall_core::{
    call::{Answer, Call, Endpoint},
    conversation::{Conversation, Listening, Open, Started},
    life::Task,
};
use seawall_proto::{
    Event, Message, Request as McpRequest,
    era::serve::{self, Head, Inbound},
    jsonrpc::Kind,
    sse::write_event,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    broadcast::{Receiver, error::RecvError},
    mpsc,
};

/// Most requests of a session under way at once; a further one is refused.
const UNDER_WAY: u32 = 256;
/// Messages that wait for the client to read its stream; whoever brings one more waits.
const WAITING: usize = 64;

/// Every session of this transport, by its id.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<String, Arc<Session>>>>);

/// One client: its stream, and the conversation that its `initialize` opened.
#[derive(Debug)]
struct Session {
    caller: Arc<str>,
    outbox: mpsc::Sender<Bytes>,
    /// A place for each request under way.
    places: Arc<Semaphore>,
    conversation: OnceLock<Arc<Conversation>>,
}

impl Sessions {
    /// Adds a session and gives its id; `None` when there are as many as may be.
    fn add(&self, session: &Arc<Session>, most: usize) -> Option<String> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut open = self.lock();
        if open.len() >= most {
            return None;
        }
        open.insert(id.clone(), Arc::clone(session));
        Some(id)
    }

    /// The session with this id, if it is this caller's.
    fn get(&self, id: &str, caller: &str) -> Option<Arc<Session>> {
        self.lock().get(id).filter(|session| *session.caller == *caller).cloned()
    }

    fn remove(&self, id: &str) {
        let removed = self.lock().remove(id);
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Puts a message on the stream, and waits while it is full; false once nobody reads it any more.
    async fn say(&self, conversation: &Conversation, message: Bytes) -> bool {
        tokio::select! {
            biased;
            sent = self.outbox.send(message) => sent.is_ok(),
            () = conversation.ended() => false,
        }
    }
}

/// GET: opens a session, whose stream begins with the path of its messages.
pub(super) async fn open(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    begin(&front, &request).unwrap_or_else(|refusal| *refusal)
}

fn begin(front: &Arc<Front>, request: &Request) -> Result<Response<Body>, Refusal> {
    let caller = front.check(request.headers(), request.uri())?;
    if front.gateway.life().is_draining() {
        return Err(stopping());
    }
    let (outbox, inbox) = mpsc::channel(WAITING);
    let session = Arc::new(Session {
        caller: Arc::clone(&caller.name),
        outbox,
        places: Arc::new(Semaphore::new(UNDER_WAY as usize)),
        conversation: OnceLock::new(),
    });
    let Some(id) = front.sse.add(&session, front.gateway.config().limits.sessions) else {
        return Err(guard::refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "OVER_CAPACITY: as many sessions are open as may be (`limits.sessions`); try again later",
        ));
    };
    let first = format!("event: endpoint\ndata: /sse/message?session={id}\n\n");
    let reading = Reading { inbox, session, front: Arc::clone(front), id };
    Ok(stream::response(reading, Some(first.into()), |mut reading| async move {
        let message = reading.next().await;
        (reading, message.map(|message| write_event(None, &message)))
    }))
}

/// The client's end of the stream; dropped with it, the session ends.
struct Reading {
    inbox: mpsc::Receiver<Bytes>,
    session: Arc<Session>,
    front: Arc<Front>,
    id: String,
}

impl Reading {
    /// The next message; `None` when the daemon drains and all that was under way has been answered.
    async fn next(&mut self) -> Option<Bytes> {
        let Self { inbox, session, front, .. } = self;
        let done = async {
            front.gateway.life().draining().await;
            // Nothing closes it, and every place is free when nothing is under way.
            drop(session.places.acquire_many(UNDER_WAY).await);
        };
        tokio::select! {
            biased;
            message = inbox.recv() => message,
            () = done => None,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Before the conversation is looked for: whoever opens it later finds that nobody reads.
        self.inbox.close();
        self.front.sse.remove(&self.id);
        if let Some(conversation) = self.session.conversation.get() {
            self.front.gateway.end_conversation(&conversation.id);
        }
    }
}

/// POST: takes a message of a session; what answers it comes on the session's stream.
pub(super) async fn message(
    State(front): State<Arc<Front>>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response<Body> {
    take(&front, &query, request).await.unwrap_or_else(|refusal| *refusal)
}

async fn take(
    front: &Arc<Front>,
    query: &HashMap<String, String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let caller = front.check(request.headers(), request.uri())?;
    guard::check_json(&request)?;
    let session = query.get("session").and_then(|id| front.sse.get(id, &caller.name)).ok_or_else(|| {
        guard::refuse(StatusCode::NOT_FOUND, "Session not found; GET /sse opens another, and names its path")
    })?;
    let (head, body) = request.into_parts();
    let body = read(front, body).await?;
    // No header says anything in this version of the protocol.
    let message = match serve::inbound(&body, &Head::default()).map_err(|refusal| refused(&refusal))? {
        Inbound::InSession(message) => message,
        Inbound::Alone(_) | Inbound::AloneNotification(_) => {
            return Err(guard::refuse(StatusCode::BAD_REQUEST, "messages that stand alone go to /mcp"));
        }
    };
    let kind = message.kind();
    if kind == Kind::Request && front.gateway.life().is_draining() {
        return Err(stopping());
    }
    let door = Door::new(front, Endpoint::All, caller, &head.headers);
    let opens = kind == Kind::Request && message.method() == Some("initialize");
    let conversation = match (session.conversation.get(), opens) {
        (Some(conversation), false) => Arc::clone(conversation),
        (None, true) => {
            initialize(door, &session, message)?;
            return Ok(accepted());
        }
        (Some(_), true) => return Err(unfit(&message, "the session is open already")),
        (None, false) => return Err(unfit(&message, "the session has to be opened with `initialize` first")),
    };
    match kind {
        Kind::Response => conversation.answer(message),
        Kind::Notification => notified(&door, &conversation, &message),
        Kind::Request => {
            let request = serve::in_session(message, &conversation.wire, &conversation.face)
                .map_err(|refusal| refused(&refusal))?;
            let life = front.gateway.life();
            life.spawn(Task::Stream, Work::new(door, &session, &conversation, request)?.run());
        }
    }
    Ok(accepted())
}

/// Opens the session's conversation. The answer is the first message on the stream, and what the conversation says
/// of its own accord comes after it.
fn initialize(door: Door, session: &Arc<Session>, message: Message) -> Result<(), Refusal> {
    let (wire, face) = serve::initialize(&message).map_err(|refusal| refused(&refusal))?;
    let face = Arc::new(face);
    let request = serve::in_session(message, &wire, &face).map_err(|refusal| refused(&refusal))?;
    let front = Arc::clone(&door.front);
    let limits = front.gateway.config().limits.clone();
    let opened = front.gateway.conversations().open(&session.caller, Endpoint::All, wire, face, &limits);
    let Some(conversation) = opened else {
        let text = format!(
            "OVER_CAPACITY: as many sessions are open as may be ({}, `limits.sessions`); close one, or try again later",
            limits.sessions
        );
        return Err(refused(&serve::refuse(503, request.message(), 1003, &text)));
    };
    let another = session.conversation.set(Arc::clone(&conversation)).is_err();
    // The stream may have ended just before.
    if another || session.outbox.is_closed() {
        front.gateway.end_conversation(&conversation.id);
        return Err(unfit(request.message(), "the session is open already, or has ended"));
    }
    let own = Own {
        listening: conversation.listen(),
        changes: front.gateway.catalog().changes(),
        _open: conversation.open(),
    };
    let work = Work::new(door, session, &conversation, request)?;
    let session = Arc::clone(session);
    front.gateway.life().spawn(Task::Stream, async move {
        work.run().await;
        own.pass_on(&session, &conversation).await;
    });
    Ok(())
}

/// What a conversation says of its own accord, changed lists among it.
struct Own {
    listening: Listening,
    changes: Receiver<Arc<str>>,
    _open: Open,
}

impl Own {
    /// Puts it on the stream, until the conversation has ended.
    async fn pass_on(mut self, session: &Session, conversation: &Conversation) {
        loop {
            let message = tokio::select! {
                message = self.listening.next() => message,
                () = changed(&mut self.changes) => Some(serve::tools_changed(None)),
            };
            let Some(message) = message else { return };
            if !session.say(conversation, message).await {
                return;
            }
        }
    }
}

/// Completes when the tools of some server have changed. Cancel-safe.
async fn changed(changes: &mut Receiver<Arc<str>>) {
    // Whoever lagged behind is told that something changed: what, it asks for anyway.
    if let Err(RecvError::Closed) = changes.recv().await {
        std::future::pending().await
    }
}

/// One request of a session, and all that answering it takes.
struct Work {
    door: Door,
    session: Arc<Session>,
    conversation: Arc<Conversation>,
    call: Call,
    /// What goes to a server; everything else is answered here.
    called: Option<(Answer, Started)>,
    _open: Open,
    _place: OwnedSemaphorePermit,
}

impl Work {
    /// Begins with a request. A call is on its way when this returns, so that a cancel that comes next finds it.
    fn new(
        door: Door,
        session: &Arc<Session>,
        conversation: &Arc<Conversation>,
        request: McpRequest,
    ) -> Result<Self, Refusal> {
        let Ok(place) = Arc::clone(&session.places).try_acquire_owned() else {
            let text =
                format!("OVER_CAPACITY: {UNDER_WAY} requests of this session are under way; read its stream");
            return Err(refused(&serve::refuse(503, request.message(), 1003, &text)));
        };
        if let Some(level) = serve::log_level(&request) {
            conversation.set_log_level(&level);
        }
        let request = Arc::new(request.with_log_level(conversation.log_level()));
        let id = Arc::clone(&conversation.id);
        let call = door.call(request, Some(id), conversation.is_followed());
        let called = (call.request.method() == "tools/call").then(|| door.front.gateway.call(call.clone()));
        let called = called.map(|answer| {
            let started = conversation.started(call.request.id(), answer.interest());
            (answer, started)
        });
        Ok(Self {
            door,
            session: Arc::clone(session),
            conversation: Arc::clone(conversation),
            call,
            called,
            _open: conversation.open(),
            _place: place,
        })
    }

    /// Answers it on the stream; the place is free once the answer is on its way.
    async fn run(mut self) {
        let request = Arc::clone(&self.call.request);
        if let Some((answer, _started)) = self.called.take() {
            return self.pump(&request, answer).await;
        }
        let end = if request.method() == "ping" {
            Ok(serve::pong(&request))
        } else {
            match Box::pin(self.door.own_answer(&self.call)).await {
                Some(end) => end.map(|listed| listed.reply),
                None => Ok(serve::method_not_found(&request)),
            }
        };
        if let Some(message) = last(&request, &end) {
            self.session.say(&self.conversation, message).await;
        }
    }

    /// Puts a call's events on the stream, until its end or the session's.
    async fn pump(&self, request: &McpRequest, mut answer: Answer) {
        let mut asked = Vec::new();
        loop {
            let event = tokio::select! {
                biased;
                event = answer.next() => event,
                () = self.conversation.ended() => break,
            };
            let over = matches!(event, Event::End(_));
            let message = match event {
                Event::Progress(message) | Event::Log(message) | Event::Notification(message) => {
                    Some(message)
                }
                Event::Ask(ask) => {
                    let (question, message) = self.conversation.ask(ask);
                    asked.push(question);
                    Some(message)
                }
                Event::End(end) => last(request, &end),
                Event::Streaming | Event::Pause { .. } => None,
            };
            let gone = match message {
                Some(message) => !self.session.say(&self.conversation, message).await,
                None => false,
            };
            if over || gone {
                break;
            }
        }
        asked.into_iter().for_each(|question| self.conversation.withdraw(question));
    }
}

fn stopping() -> Refusal {
    guard::refuse(StatusCode::SERVICE_UNAVAILABLE, "Seawall is stopping; try again shortly")
}

/// A message that does not fit what the session is at.
fn unfit(message: &Message, text: &str) -> Refusal {
    refused(&serve::refuse(400, message, -32600, text))
}
