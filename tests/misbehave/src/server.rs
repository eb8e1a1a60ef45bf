//! What all transports share: the state of the process, and the life of one request.

use crate::loads::Loads;
use crate::tools;
use crate::wire::{self, Era, Failure, LEGACY, MODERN, Message};
use crate::{Eras, Options};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// The session of a message, which over WebSocket is its connection; none on stdio and in the modern era.
pub(crate) type Session = Option<String>;

/// One step of an answer, which each transport writes in its own way.
#[derive(Debug)]
pub(crate) enum Part {
    /// The headers of an event stream and nothing more; nothing on stdio.
    Open,
    /// An SSE comment; nothing on stdio.
    Comment,
    /// A message before the reply.
    Event(String),
    /// The reply, with its HTTP status.
    Reply { status: u16, text: String },
    /// Half of this reply; the transport stalls after it.
    Half(String),
    /// This reply, one byte a second; whatever shares its stream waits behind it.
    Trickle(String),
    /// A line of stdout with its own end.
    Line(Vec<u8>),
    /// Over HTTP a whole answer of any kind; elsewhere a message of these bytes.
    Whole { status: u16, kind: &'static str, body: Vec<u8> },
    /// Something that is no message.
    Garbage(String),
    /// The end without a reply: of the stream over HTTP, of the process on stdio.
    Close,
}

/// A line of the record. A test reads these to learn what reached the server.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry<'a> {
    pub(crate) event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a RawValue>,
    /// The tool of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    /// The request that a cancellation names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<&'a str>,
}

pub(crate) struct Server {
    pub(crate) options: Options,
    pub(crate) executions: Mutex<HashMap<String, u64>>,
    pub(crate) conversations: Mutex<HashMap<Session, u64>>,
    /// How many tools `add_tool` has added.
    pub(crate) added: AtomicUsize,
    pub(crate) tools_changed: broadcast::Sender<()>,
    /// How often the tools were listed.
    pub(crate) listed: AtomicUsize,
    /// Whether nobody is answered, because the one hand there is has something to do.
    pub(crate) busy: watch::Sender<bool>,
    /// Sessions that are to be forgotten at their next message.
    pub(crate) forgotten: Mutex<HashSet<String>>,
    /// What the tools of the tests under load remember.
    pub(crate) loads: Loads,
    record: Option<Mutex<File>>,
    /// The server's own requests that await an answer, by session and id.
    questions: Mutex<HashMap<(Session, String), oneshot::Sender<String>>>,
    asked: AtomicU64,
    /// The requests `notifications/cancelled` can name, by session and id.
    running: Mutex<HashMap<(Session, String), AbortHandle>>,
}

impl Server {
    pub(crate) fn new(options: Options) -> std::io::Result<Self> {
        let record = match &options.record {
            Some(path) => Some(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)),
            None => None,
        };
        Ok(Self {
            options,
            executions: Mutex::default(),
            conversations: Mutex::default(),
            added: AtomicUsize::new(0),
            tools_changed: broadcast::channel(64).0,
            listed: AtomicUsize::new(0),
            busy: watch::channel(false).0,
            forgotten: Mutex::default(),
            loads: Loads::default(),
            record,
            questions: Mutex::default(),
            asked: AtomicU64::new(0),
            running: Mutex::default(),
        })
    }

    pub(crate) fn record(&self, entry: &Entry<'_>) {
        if let Some(file) = &self.record {
            let mut line = serde_json::to_vec(entry).expect("an entry is plain JSON");
            line.push(b'\n');
            // One write per line, so that a reader sees whole lines only.
            lock(file).write_all(&line).expect("a test's record file can be written");
        }
    }

    /// The message in `bytes`, recorded; nothing if there is none.
    pub(crate) fn receive(&self, bytes: &[u8], session: Option<&str>) -> Option<Message> {
        let message = Message::parse(bytes);
        match &message {
            Some(message) => self.record(&Entry {
                event: "message",
                method: message.method.as_deref(),
                id: message.id.as_deref(),
                name: message.tool(),
                request_id: message.params.request_id.as_deref(),
                session,
            }),
            None => self.record(&Entry { event: "malformed", session, ..Entry::default() }),
        }
        if let Some(method) = message.as_ref().and_then(|message| message.method.as_deref())
            && self.options.exits_on(method)
        {
            eprintln!("misbehave: ending, because {method} came");
            std::process::exit(3);
        }
        message
    }

    /// The era of a message, given the version its HTTP header names.
    pub(crate) fn era(&self, message: &Message, header: Option<&str>) -> Era {
        let modern = match self.options.eras() {
            Eras::Legacy => false,
            Eras::Modern => true,
            Eras::Both => match message.method() {
                "initialize" => false,
                "server/discover" => true,
                _ => message.version().is_some() || header.is_some_and(|version| version >= MODERN),
            },
        };
        if modern { Era::Modern } else { Era::Legacy }
    }

    fn versions(&self) -> Vec<&'static str> {
        let legacy = (self.options.eras() != Eras::Modern).then_some(LEGACY);
        std::iter::once(MODERN).chain(legacy.into_iter().flatten()).collect()
    }

    /// Refuses a modern request that lacks what each must carry.
    fn check(&self, message: &Message) -> Result<(), Failure> {
        let meta = &message.params.meta;
        match message.version() {
            _ if message.method() == "initialize" => {
                let asked = message.params.protocol_version.as_deref();
                Err(Failure::unsupported_version(&self.versions(), asked))
            }
            None => Err(Failure::meta("_meta names no protocol version")),
            Some(version) if version != MODERN => {
                Err(Failure::unsupported_version(&self.versions(), Some(version)))
            }
            Some(_) if meta.capabilities.is_none() => Err(Failure::meta("_meta has no client capabilities")),
            Some(_) => Ok(()),
        }
    }

    /// Takes a notification or an answer to a question of the server's own.
    pub(crate) fn notice(&self, session: Session, message: &Message) {
        if let Some(id) = &message.id {
            let answer = match (&message.result, &message.error) {
                (Some(result), _) => result.get().to_owned(),
                (None, Some(error)) => format!(r#"{{"error":{error}}}"#),
                (None, None) => "null".to_owned(),
            };
            if let Some(question) = lock(&self.questions).remove(&(session, id.get().to_owned())) {
                // The call that asked may have been cancelled since.
                let _ = question.send(answer);
            }
        } else if message.method() == "notifications/cancelled"
            && let Some(id) = message.params.request_id.as_deref()
        {
            let call = lock(&self.running).remove(&(session, id.get().to_owned()));
            if let Some(call) = call {
                call.abort();
                self.record(&Entry { event: "cancelled", id: Some(id), ..Entry::default() });
            }
        }
    }

    /// Forgets what a session left running.
    pub(crate) fn forget(&self, session: &str) {
        lock(&self.running).retain(|(owner, _), call| {
            let theirs = owner.as_deref() == Some(session);
            if theirs {
                call.abort();
            }
            !theirs
        });
    }
}

/// One request and the way back to whoever sent it.
pub(crate) struct Exchange {
    pub(crate) server: Arc<Server>,
    pub(crate) era: Era,
    pub(crate) session: Session,
    pub(crate) over_http: bool,
    pub(crate) id: Box<RawValue>,
    pub(crate) outlet: mpsc::UnboundedSender<Part>,
}

impl Exchange {
    /// Answers `message` in a task of its own, so that nothing waits for anything.
    pub(crate) fn start(self, message: Message) -> AbortHandle {
        let server = self.server.clone();
        // In the modern era over HTTP a cancel is a closed stream, and ids of different callers may collide.
        // `late` answers even a caller that gave up, and who is busy hears of nothing.
        let deaf = matches!(message.tool(), Some("late" | "busy"));
        let cancellable = !(deaf || self.over_http && self.era == Era::Modern);
        let key = cancellable.then(|| (self.session.clone(), self.id.get().to_owned()));
        // Held until the entry is in, so that a task that ends at once still finds it.
        let mut running = lock(&server.running);
        let task = tokio::spawn({
            let (server, key) = (server.clone(), key.clone());
            async move {
                self.answer(&message).await;
                if let Some(key) = key {
                    lock(&server.running).remove(&key);
                }
            }
        })
        .abort_handle();
        if let Some(key) = key {
            running.insert(key, task.clone());
        }
        task
    }

    async fn answer(&self, message: &Message) {
        let options = &self.server.options;
        // The sender is this server's own, so there is always one.
        let _ = self.server.busy.subscribe().wait_for(|busy| !busy).await;
        if options.silences(message.method()) {
            return pending().await;
        }
        if options.stalls(message.method()) {
            self.send(Part::Open);
            return pending().await;
        }
        if options.refuses(message.method()) {
            return self.refuse(&Failure::method_not_found());
        }
        if self.era == Era::Modern
            && let Err(failure) = self.server.check(message)
        {
            return self.refuse(&failure);
        }
        if message.method() == "tools/list" && options.slow_list > 0 {
            sleep(Duration::from_millis(options.slow_list)).await;
        }
        let identity = json!({"name": options.name, "version": env!("CARGO_PKG_VERSION")});
        let capabilities = json!({"tools": {"listChanged": true}, "logging": {}});
        match (self.era, message.method()) {
            (_, "tools/call") => tools::call(self, &message.params).await,
            (_, "tools/list") => tools::list(self, message.params.cursor.as_deref()),
            (Era::Modern, "server/discover") => self.reply(json!({
                "supportedVersions": self.server.versions(), "capabilities": capabilities,
                "_meta": {"io.modelcontextprotocol/serverInfo": identity},
                "ttlMs": 60_000, "cacheScope": "public",
            })),
            (Era::Modern, "subscriptions/listen") => {
                self.listen(message.params.notifications.tools_list_changed).await;
            }
            (Era::Legacy, "initialize") => {
                let asked = message.params.protocol_version.as_deref();
                let version = LEGACY.iter().find(|version| Some(**version) == asked).unwrap_or(&LEGACY[0]);
                self.reply(json!({
                    "protocolVersion": version, "capabilities": capabilities, "serverInfo": identity,
                }));
            }
            (Era::Legacy, "ping" | "logging/setLevel") => self.reply(json!({})),
            _ => self.refuse(&Failure::method_not_found()),
        }
        if options.exit_once_open && matches!(message.method(), "initialize" | "server/discover") {
            self.send(Part::Close);
        }
    }

    /// Tells of changes, if `wanted`, until the subscriber goes away.
    async fn listen(&self, wanted: bool) {
        let mut changes = self.server.tools_changed.subscribe();
        let meta = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}"#, self.id);
        let granted = if wanted { r#"{"toolsListChanged":true}"# } else { "{}" };
        let ack = format!(r#"{{{meta},"notifications":{granted}}}"#);
        self.send(Part::Event(wire::notification("notifications/subscriptions/acknowledged", &ack)));
        let change = wire::notification("notifications/tools/list_changed", &format!("{{{meta}}}"));
        while !matches!(changes.recv().await, Err(broadcast::error::RecvError::Closed)) {
            if wanted {
                self.send(Part::Event(change.clone()));
            }
        }
    }

    /// Sends the legacy client a request on the stream of this call and returns its answer's JSON.
    pub(crate) async fn ask(&self, method: &str, params: &Value) -> String {
        let id = self.server.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.ask_as(id.to_string(), method, params).await
    }

    /// The same with this id, which is the text of a JSON value.
    pub(crate) async fn ask_as(&self, id: String, method: &str, params: &Value) -> String {
        let (sender, answer) = oneshot::channel();
        let question = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        lock(&self.server.questions).insert((self.session.clone(), id), sender);
        self.send(Part::Event(question));
        answer.await.expect("a question leaves the table only with its answer")
    }

    pub(crate) fn send(&self, part: Part) {
        // An error means that the caller is gone, which the transport has noticed itself.
        let _ = self.outlet.send(part);
    }

    /// The reply that carries `result`.
    pub(crate) fn result(&self, mut result: Value) -> String {
        if self.era == Era::Modern && result.get("resultType").is_none() {
            result["resultType"] = "complete".into();
        }
        wire::result(self.id.get(), &result.to_string())
    }

    pub(crate) fn reply(&self, result: Value) {
        self.send(Part::Reply { status: 200, text: self.result(result) });
    }

    pub(crate) fn refuse(&self, failure: &Failure) {
        let status = if self.era == Era::Modern { failure.status } else { 200 };
        self.send(Part::Reply { status, text: wire::error(self.id.get(), failure) });
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of a lock panics")
}
