//! What the client says goes to the daemon, and what the daemon says comes back: requests, the session, its stream.

use super::{
    endpoint::{Events, Http, Lost, collect, header_value, is_stream},
    find::{Daemon, Known, PATIENCE, Renewed},
    tell,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use seawall_proto::{
    Code, Fault, Message, Raw, Request, Stage,
    era::{Face, Wire, serve},
    jsonrpc::{Kind, Malformed, Members},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

const SESSION: &str = "mcp-session-id";
const CONVERSATION: &str = "seawall-session";
const LAST_EVENT: &str = "last-event-id";
/// The `_meta` of a request that stands alone; its header repeats it.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// How long a message may take that nobody waits for.
const SEND: Duration = Duration::from_secs(5);
/// How long the end of a session may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often the daemon is asked, while a request is under way, whether it still answers.
const CHECK: Duration = Duration::from_secs(15);
/// How often in a row it may then say nothing before the request ends.
const SILENT: u32 = 2;
/// How often a stream may be taken up again without a single event in between.
const FRUITLESS: u32 = 3;
/// How long to wait before a session's own stream, or a session, is opened again.
const REST: Duration = Duration::from_millis(500);

/// A line for the client, and the place in flight that is free once it has been written.
pub(super) type Written = (Bytes, Option<OwnedSemaphorePermit>);

/// What the client said in one line.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request, and the version it names where it stands alone.
    Request(Box<Request>, Option<HeaderValue>),
    /// A notification, or an answer to a question; the version as above.
    Other(Message, Option<HeaderValue>),
}

/// A request of the client that has had no ending yet.
#[derive(Debug)]
pub(super) struct Asked {
    request: Request,
    id: Raw,
    /// The version it names where it stands alone; other requests belong to the session.
    alone: Option<HeaderValue>,
    began: Instant,
    taken_back: watch::Receiver<bool>,
}

impl Asked {
    /// A request that comes now; `taken_back` turns true when the client does not want it any more.
    pub(super) fn new(
        request: Request,
        alone: Option<HeaderValue>,
        taken_back: watch::Receiver<bool>,
    ) -> Self {
        Self { id: request.id(), request, alone, began: Instant::now(), taken_back }
    }

    /// The client's id for it.
    pub(super) fn id(&self) -> &Raw {
        &self.id
    }

    /// Whether it stands alone.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Whether it opens a stream that has no end of its own.
    pub(super) fn listens(&self) -> bool {
        serve::listens(&self.request)
    }

    fn opens(&self) -> bool {
        self.alone.is_none() && self.request.method() == "initialize"
    }

    fn is_taken_back(&self) -> bool {
        *self.taken_back.borrow()
    }

    async fn taken_back(&self) {
        let mut taken_back = self.taken_back.clone();
        // Its sender is kept until the request has ended.
        drop(taken_back.wait_for(|taken_back| *taken_back).await);
    }
}

/// Why a request is not over after all: what to do before it is sent again.
enum Missed {
    /// The daemon did not take it, and must be found.
    Daemon(String),
    /// The daemon does not know the session, and did nothing.
    Session,
    /// It is over.
    Over(Fault),
}

impl From<Lost> for Missed {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Unsent(why) => Self::Daemon(why),
            Lost::Broken(why) => Self::Over(broken(&why)),
        }
    }
}

/// How the client opened its session.
#[derive(Clone)]
struct Opening {
    /// Its `initialize`; none before it has sent one.
    body: Option<Bytes>,
    wire: Wire,
    face: Arc<Face>,
}

/// The two sides: the daemon, and the lines that the client gets.
pub(super) struct Bridge {
    daemon: Daemon,
    http: Http,
    /// What keeps requests that stand alone together.
    conversation: HeaderValue,
    /// The daemon's name for the client's session; none before the client has opened one.
    session: Renewed<Option<HeaderValue>>,
    opening: Mutex<Opening>,
    /// Whether the client has said that its opening is over.
    opened: watch::Sender<bool>,
    out: mpsc::Sender<Written>,
}

impl Bridge {
    /// A bridge between a daemon and the client that reads `out`.
    pub(super) fn new(daemon: Daemon, http: Http, out: mpsc::Sender<Written>) -> Self {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).expect("the kernel gives random bytes");
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let conversation = HeaderValue::try_from(format!("bridge-{name}")).expect("hex fits a header");
        let nothing = Message::parse(Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":""}}"#,
        ))
        .expect("it is written here");
        let (wire, face) = serve::initialize(&nothing).expect("it names a version");
        Self {
            daemon,
            http,
            conversation,
            session: Renewed::new(1, None),
            opening: Mutex::new(Opening { body: None, wire, face: Arc::new(face) }),
            opened: watch::Sender::new(false),
            out,
        }
    }

    /// The daemon.
    pub(super) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Reads a line of the client.
    ///
    /// # Errors
    /// The JSON-RPC error that answers a line which is no message.
    pub(super) fn read(&self, line: Bytes) -> Result<Heard, Bytes> {
        let message = Message::parse(line).map_err(|malformed| {
            let code = if matches!(malformed, Malformed::Syntax(_)) { -32700 } else { -32600 };
            nameless(code, &malformed.to_string())
        })?;
        let version = version_of(&message);
        if message.kind() != Kind::Request {
            return Ok(Heard::Other(message, version));
        }
        let (wire, face) = match (&version, message.method()) {
            (Some(_), _) => (Wire::own(), Face::own()),
            (None, Some("initialize")) => match serve::initialize(&message) {
                Ok((wire, face)) => (wire, Arc::new(face)),
                Err(refusal) => return Err(refusal.body),
            },
            (None, _) => {
                let opening = self.opening();
                (opening.wire, Arc::clone(&opening.face))
            }
        };
        let request = serve::in_session(message, &wire, &face).map_err(|refusal| refusal.body)?;
        Ok(Heard::Request(Box::new(request), version))
    }

    /// Writes a line to the client, waiting while the client does not read.
    pub(super) async fn write(&self, line: Bytes, place: Option<OwnedSemaphorePermit>) {
        // A client that does not read any more has ended the bridge.
        drop(self.out.send((line, place)).await);
    }

    /// Carries a request to the daemon and gives the one message that ends it; none where the client took it back.
    pub(super) async fn ask(&self, asked: &Asked) -> Option<Bytes> {
        let carried = tokio::select! {
            carried = Box::pin(self.carry(asked)) => carried,
            // Closing the stream is how a request that stands alone is taken back over HTTP.
            () = asked.taken_back(), if asked.is_alone() => return None,
        };
        match carried {
            Ok(Some(end)) => Some(end),
            Ok(None) | Err(_) if asked.is_taken_back() => None,
            Ok(None) => Some(told(asked, broken("it gave no answer"))),
            Err(fault) => Some(told(asked, fault)),
        }
    }

    /// Sends a request as often as nothing was done about it, within [`PATIENCE`].
    async fn carry(&self, asked: &Asked) -> Result<Option<Bytes>, Fault> {
        if asked.opens() {
            let request = &asked.request;
            let body = Some(request.message().body().clone());
            *self.opening() = Opening { body, wire: *request.wire(), face: Arc::clone(request.face()) };
            self.opened.send_replace(false);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut bad = self.daemon.stale();
        loop {
            let Ok(place) = timeout_at(deadline, self.daemon.after(bad)).await else {
                return Err(unavailable("it has not answered yet"));
            };
            let address = place.value.map_err(|why| unavailable(&why))?;
            if asked.is_taken_back() {
                return Ok(None);
            }
            let session = self.session.now();
            let posted = tokio::select! {
                posted = Box::pin(self.post(asked, &address, &session)) => posted,
                () = self.asleep(&address) => Err(Missed::Over(broken("it does not answer any more"))),
            };
            let why = match posted {
                Ok(end) => return Ok(end),
                Err(Missed::Over(fault)) => {
                    if fault.code == Code::OutcomeUnknown {
                        self.daemon.doubt(place.round);
                    }
                    return Err(fault);
                }
                Err(Missed::Daemon(why)) => {
                    bad = place.round;
                    why
                }
                Err(Missed::Session) => {
                    // One that is not renewed in time shows below.
                    drop(timeout_at(deadline, self.session.after(session.round)).await);
                    "it does not know this session and opened no other".to_owned()
                }
            };
            if Instant::now() >= deadline {
                return Err(unavailable(&why));
            }
        }
    }

    /// Waits until the daemon at this address stands still.
    async fn asleep(&self, address: &str) {
        let mut silent = 0;
        while silent < SILENT {
            sleep(CHECK).await;
            silent = if self.http.is_awake(address).await { 0 } else { silent + 1 };
        }
    }

    /// Sends a request once, and reads its answer to the end.
    async fn post(
        &self,
        asked: &Asked,
        address: &str,
        session: &Known<Option<HeaderValue>>,
    ) -> Result<Option<Bytes>, Missed> {
        let session_id = session.value.as_ref().filter(|_| !asked.is_alone() && !asked.opens());
        let mut headers = self.headers(asked.alone.as_ref(), session_id);
        if asked.is_alone() {
            let request = &asked.request;
            headers.insert("mcp-method", header_value(request.method()));
            if let Some(subject) = request.subject() {
                headers.insert("mcp-name", header_value(subject));
            }
            // `Mcp-Param-*` is left out, for it needs the tool's schema: a tool that wants it refuses such a call.
            if request.conversation().is_some() {
                headers.remove(CONVERSATION);
            }
        }
        let body = asked.request.message().body().clone();
        let response = self.http.send(address, Method::POST, headers, body).await?;
        if asked.opens()
            && let Some(id) = response.headers().get(SESSION)
        {
            self.session.set(Some(id.clone()));
        }
        if is_stream(&response) {
            return self.follow(Events::of(response), asked, address, session).await;
        }
        let status = response.status();
        let body = collect(response).await.map_err(|why| Missed::Over(broken(&why)))?;
        match Message::parse(body.clone()).ok().filter(|message| message.kind() == Kind::Response) {
            Some(_) if status == StatusCode::NOT_FOUND && session_id.is_some() => Err(Missed::Session),
            Some(message) => Ok(Some(ending(&message, &asked.id))),
            None if status.is_success() && body.is_empty() => Ok(None),
            None if status == StatusCode::SERVICE_UNAVAILABLE => {
                Err(Missed::Daemon("it is stopping".to_owned()))
            }
            None => Err(Missed::Over(refused(status, &body))),
        }
    }

    /// Passes a stream on until the answer is there; takes it up again where that can be done.
    async fn follow(
        &self,
        mut events: Events,
        asked: &Asked,
        address: &str,
        session: &Known<Option<HeaderValue>>,
    ) -> Result<Option<Bytes>, Missed> {
        let mut fruitless = 0;
        loop {
            if let Some(data) = events.next().await {
                fruitless = 0;
                match Message::parse(data) {
                    Ok(message) if message.kind() == Kind::Response => {
                        return Ok(Some(ending(&message, &asked.id)));
                    }
                    Ok(message) => self.pass(&message, session.round).await,
                    Err(malformed) => tell(&format!("a message of the daemon was dropped: {malformed}")),
                }
                continue;
            }
            if asked.is_taken_back() {
                return Ok(None);
            }
            let last = events.last.take().filter(|_| !asked.is_alone() && fruitless < FRUITLESS);
            let (Some(last), Some(id)) = (last, &session.value) else {
                return Err(Missed::Over(broken(&events.why)));
            };
            fruitless += 1;
            sleep(events.retry).await;
            let mut headers = self.headers(None, Some(id));
            headers.insert(LAST_EVENT, last.clone());
            match self.http.send(address, Method::GET, headers, Bytes::new()).await {
                Ok(response) if is_stream(&response) => {
                    let retry = events.retry;
                    events = Events::of(response);
                    (events.last, events.retry) = (Some(last), retry);
                }
                // Nobody keeps what it would have said.
                Ok(_) | Err(_) => return Err(Missed::Over(broken(&events.why))),
            }
        }
    }

    /// Gives the client a message that ends no request: a notification, or a question.
    async fn pass(&self, message: &Message, round: u64) {
        let line = match (message.kind(), message.id()) {
            (Kind::Request, Some(id)) => message.with_id(question_id(round, &id).as_str()),
            (Kind::Response, _) => return,
            _ => message.body().clone(),
        };
        self.write(line, None).await;
    }

    /// Passes on a notification of the client, or its answer to a question. What does not arrive in time is dropped:
    /// nobody waits for it.
    pub(super) async fn deliver(&self, message: &Message, alone: Option<&HeaderValue>) {
        let delivering = timeout(SEND, self.try_deliver(message, alone));
        if delivering.await.is_err() {
            tell("a notification or an answer was dropped: the daemon did not take it");
        }
        if alone.is_none() && serve::opened(message) {
            self.opened.send_replace(true);
        }
    }

    async fn try_deliver(&self, message: &Message, alone: Option<&HeaderValue>) -> Option<()> {
        let session = self.session.now();
        if alone.is_none() {
            session.value.as_ref()?;
        }
        let body = match message.kind() {
            // An answer to a question of an earlier session would be taken for one to a question of this.
            Kind::Response => message.with_id(asked_id(session.round, &message.id()?)?.as_str()),
            Kind::Request | Kind::Notification => message.body().clone(),
        };
        let address = self.daemon.place().value.ok()?;
        let headers = self.headers(alone, session.value.as_ref().filter(|_| alone.is_none()));
        let response = self.http.send(&address, Method::POST, headers, body).await.ok()?;
        if response.status() == StatusCode::NOT_FOUND && alone.is_none() {
            self.session.after(session.round).await;
        }
        Some(())
    }

    fn headers(&self, alone: Option<&HeaderValue>, session: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(version) = alone {
            headers.insert("mcp-protocol-version", version.clone());
            headers.insert(CONVERSATION, self.conversation.clone());
        } else if let Some(id) = session {
            headers.insert(SESSION, id.clone());
        }
        headers
    }

    /// Opens the client's session anew whenever the daemon does not know it any more. Never returns.
    pub(super) async fn keep_session(&self) {
        loop {
            self.session.wanted().await;
            let old = self.session.now().value;
            let opened = timeout(PATIENCE, self.open_again()).await;
            let opened = opened.unwrap_or_else(|_| Err("the daemon did not answer".to_owned()));
            match opened {
                Ok(id) => self.session.set(Some(id)),
                Err(why) => {
                    tell(&format!("the session could not be opened anew: {why}"));
                    sleep(REST).await;
                    // Whoever still waits finds it unknown and asks again.
                    self.session.set(old);
                }
            }
        }
    }

    /// Says to the daemon what the client said when it opened its session.
    async fn open_again(&self) -> Result<HeaderValue, String> {
        let body = self.opening().body.clone().ok_or("the client has opened none")?;
        let place = self.daemon.after(self.daemon.stale()).await;
        let address = place.value.map_err(|why| why.to_string())?;
        let failed = |lost| match lost {
            Lost::Unsent(why) | Lost::Broken(why) => why,
        };
        let sent = self.http.send(&address, Method::POST, HeaderMap::new(), body).await;
        let response = sent.map_err(failed)?;
        let (status, id) = (response.status(), response.headers().get(SESSION).cloned());
        let answer = collect(response).await?;
        let Some(id) = id else {
            return Err(format!("HTTP {status}: {}", String::from_utf8_lossy(&answer).trim()));
        };
        if *self.opened.borrow() {
            let body = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
            let headers = self.headers(None, Some(&id));
            self.http.send(&address, Method::POST, headers, body).await.map_err(failed)?;
        }
        Ok(id)
    }

    /// Passes on what the daemon says in the session of its own accord. Starts no daemon for that, but follows one
    /// that somebody else has started. Returns where the daemon has no such stream.
    pub(super) async fn listen(&self) {
        let mut last: Option<(u64, HeaderValue)> = None;
        loop {
            drop(self.opened.subscribe().wait_for(|opened| *opened).await);
            let session = self.session.until(|session| session.value.is_some()).await;
            let place = self.daemon.place();
            let mut headers = self.headers(None, session.value.as_ref());
            let seen = last.take().filter(|(round, _)| *round == session.round);
            let resumes = seen.is_some();
            if let Some((_, id)) = seen {
                headers.insert(LAST_EVENT, id);
            }
            let answered = match &place.value {
                Ok(address) => self.http.send(address, Method::GET, headers, Bytes::new()).await.ok(),
                Err(_) => None,
            };
            match answered {
                Some(response) if is_stream(&response) => {
                    let mut events = Events::of(response);
                    while let Some(data) = events.next().await {
                        if let Ok(message) = Message::parse(data) {
                            self.pass(&message, session.round).await;
                        }
                    }
                    last = events.last.map(|id| (session.round, id));
                }
                Some(response) if response.status() == StatusCode::METHOD_NOT_ALLOWED => return,
                Some(response) if response.status() == StatusCode::NOT_FOUND && !resumes => {
                    self.session.after(session.round).await;
                }
                Some(_) => {}
                None if self.daemon.is_there() => drop(self.daemon.after(place.round).await),
                None => {}
            }
            sleep(REST).await;
        }
    }

    /// Ends the session.
    pub(super) async fn close(&self) {
        let (Some(id), Ok(address)) = (self.session.now().value, self.daemon.place().value) else { return };
        let headers = self.headers(None, Some(&id));
        // A daemon that does not hear it ends the session when it has been idle for long enough.
        drop(timeout(FAREWELL, self.http.send(&address, Method::DELETE, headers, Bytes::new())).await);
    }

    fn opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version that a message names in its `_meta`, as a header's value.
fn version_of(message: &Message) -> Option<HeaderValue> {
    let params = message.params()?;
    let members = Members::parse(params.as_str()).ok()?;
    let version = Members::parse(members.get("_meta")?).ok()?.string(META_VERSION)?;
    // What no header can hold is no version, which the daemon says.
    Some(HeaderValue::try_from(&*version).unwrap_or_else(|_| HeaderValue::from_static("")))
}

/// The id under which the client hears a question of the daemon: it names the session that the question belongs to.
fn question_id(round: u64, id: &Raw) -> Raw {
    Raw::of(&Value::from(format!("{round}/{}", id.as_str())))
}

/// The daemon's id of a question that the client answers; none where it belongs to another session.
fn asked_id(round: u64, id: &Raw) -> Option<Raw> {
    let text = id.string()?;
    let (of, id) = text.split_once('/')?;
    if of.parse::<u64>().ok() != Some(round) {
        return None;
    }
    Raw::parse(Bytes::copy_from_slice(id.as_bytes())).ok()
}

/// A response as the ending of the request with this id, which an error that could not be read to it lacks.
fn ending(message: &Message, id: &Raw) -> Bytes {
    if message.id().as_ref() == Some(id) {
        return message.body().clone();
    }
    message.answering(id.as_str(), None)
}

/// A JSON-RPC error for a line that is no request.
pub(super) fn nameless(code: i32, text: &str) -> Bytes {
    let error = json!({"code": code, "message": text});
    format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#).into()
}

/// A fault as the ending of a request, in the form in which the daemon would tell it.
fn told(asked: &Asked, fault: Fault) -> Bytes {
    let elapsed_ms = asked.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    let fault = Fault { elapsed_ms, ..fault };
    serve::fault(&asked.request, &fault).1.unwrap_or_else(|| {
        let error = json!({"code": fault.code.number(), "message": fault.text(), "data": fault.object()});
        format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, asked.id.as_str()).into()
    })
}

fn unavailable(why: &str) -> Fault {
    let text = format!("the Seawall daemon is not available: {why}. Nothing was sent.");
    Fault { retry_after_ms: Some(1000), ..Fault::new(Code::UpstreamUnavailable, Stage::Send, text) }
}

fn broken(why: &str) -> Fault {
    let text = format!(
        "the Seawall daemon was lost after the request was sent: {why}. It may have acted; look before calling again."
    );
    Fault { may_have_run: true, ..Fault::new(Code::OutcomeUnknown, Stage::Answer, text) }
}

/// What a refusal without a JSON-RPC answer means.
fn refused(status: StatusCode, body: &[u8]) -> Fault {
    let code = match status {
        StatusCode::UNAUTHORIZED => Code::Unauthorized,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        _ => Code::UpstreamError,
    };
    let said = String::from_utf8_lossy(body);
    let advice =
        if code == Code::Unauthorized { "; set --token or SEAWALL_TOKEN of `seawall stdio`" } else { "" };
    let text = format!("the Seawall daemon answered HTTP {}: {}{advice}", status.as_u16(), said.trim());
    Fault::new(code, Stage::Authorise, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &'static str) -> Raw {
        Raw::parse(Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_question_comes_back_to_its_own_session_only() {
        for id in ["7", "\"a/b\"", "-1.5e3"] {
            let shown = question_id(3, &raw(id));
            assert_eq!(asked_id(3, &shown), Some(raw(id)), "{shown:?}");
            assert_eq!(asked_id(4, &shown), None);
        }
        for foreign in ["7", "\"7\"", "\"x/7\"", "\"3/\""] {
            assert_eq!(asked_id(3, &raw(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn a_message_stands_alone_when_it_names_its_version() {
        let version =
            |text: &'static str| version_of(&Message::parse(Bytes::from_static(text.as_bytes())).unwrap());
        let alone = r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"v"}}}"#;
        assert_eq!(version(alone).unwrap(), "v");
        assert_eq!(
            version(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"v"}}"#),
            None
        );
        assert_eq!(
            version(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":1}}}"#),
            None
        );
    }

    #[test]
    fn an_answer_ends_the_request_it_came_for() {
        let message = |text: &'static str| Message::parse(Bytes::from_static(text.as_bytes())).unwrap();
        let own = message(r#"{"jsonrpc":"2.0","id":7,"result":{ }}"#);
        assert_eq!(ending(&own, &raw("7")), own.body());
        let lost = message(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#);
        assert_eq!(ending(&lost, &raw("7")), r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}"#);
    }
}
