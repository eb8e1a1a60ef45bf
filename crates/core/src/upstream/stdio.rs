//! Upstreams that are child processes.
//!
//! An instance is four tasks: the *owner* follows the pid and ends the child by the ladder; the *reader* routes what
//! the child says and never waits for anything but the child; the *writer* waits for the child to read; standard
//! error is drained into a ring. Between them are bounded queues: requests wait for room in theirs, within their
//! deadline; cancels and answers have a lane of their own that requests cannot fill; what a call is told (progress,
//! log) is dropped and counted when its queue is full, but room for its response is set aside beforehand.

use super::{Broadcast, Heard, Lost, Plan, Sent};
use crate::{
    config::{self, Kind},
    life::{Life, Task},
};
use bytes::{Bytes, BytesMut};
use seawall_proc::{Child, Command, Line, Lines, Process, Stdin, Tail};
use seawall_proto::{
    Ask, Message, Reply, ReplySlot, Request,
    era::{
        Spoken,
        opening::{self, Opening, Step},
        peer::{Incoming, Minted, Outgoing, Peer, Topic, answer_upstream},
    },
    event::Answer,
};
use std::{
    collections::HashMap,
    ffi::OsString,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Requests that may wait for the child to read its stdin.
const DATA_QUEUE: usize = 64;
/// Cancels, answers and notifications that may wait for it; beyond that they are dropped and counted.
const CONTROL_QUEUE: usize = 256;
/// Messages that may wait for one call to take them, besides its response.
const CALL_QUEUE: usize = 64;
/// Bytes of standard error that are kept.
const STDERR_RING: usize = 64 * 1024;
/// How long what an ended child has said before may still be read.
const DRAIN: Duration = Duration::from_millis(50);
/// How long a child may take to end after it closed its stdout by itself.
const AFTER_EOF: Duration = Duration::from_millis(250);
/// How long a request that was taken back is still counted as under way: the protocol wants no answer to it.
const CANCEL_GRACE: Duration = Duration::from_secs(1);

/// Makes instances of one command.
#[derive(Debug)]
pub struct Connector {
    config: Arc<config::Upstream>,
    message: usize,
}

/// A running child.
pub struct Instance {
    peer: Peer,
    pid: u32,
    data: mpsc::Sender<Bytes>,
    control: mpsc::Sender<Bytes>,
    calls: Mutex<Calls>,
    gone: CancellationToken,
    ending: CancellationToken,
    say: Arc<dyn Fn(Broadcast) + Send + Sync>,
    /// Whether messages about no call in particular have a conversation to go to.
    exclusive: bool,
    /// Whether it was opened for a caller that has no stream but those of its calls.
    calls_only: bool,
    pub(super) logs: AtomicBool,
}

#[derive(Debug, Default)]
struct Calls {
    next: u64,
    open: HashMap<u64, Pending>,
    /// Why no more calls are taken, once none are.
    closed: Option<String>,
}

/// A request whose answer the reader will route.
#[derive(Debug)]
struct Pending {
    heard: mpsc::Sender<Result<Heard, Lost>>,
    /// Room for the response, so that it is never dropped.
    room: Option<mpsc::OwnedPermit<Result<Heard, Lost>>>,
    /// Whether only the end of it is still of interest.
    recalled: bool,
}

/// One request at a child.
pub struct Exchange {
    instance: Arc<Instance>,
    id: u64,
    to_send: Option<Bytes>,
    sent: bool,
    heard: mpsc::Receiver<Result<Heard, Lost>>,
    finished: bool,
    recalled: bool,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(config: Arc<config::Upstream>, message: usize) -> Self {
        Self { config, message }
    }

    fn spawn(&self) -> Result<Child, Lost> {
        let Kind::Stdio { command, args, env, cwd } = &self.config.kind else {
            return Err(Lost::new(Sent::No, "it is no command"));
        };
        let mut environment = seawall_proc::inherited_environment();
        environment
            .extend(env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value.expose()))));
        let command = Command {
            program: command.into(),
            args: args.iter().map(OsString::from).collect(),
            environment,
            directory: cwd.clone(),
            max_line: self.message,
            stderr_ring: STDERR_RING,
        };
        seawall_proc::spawn(&command).map_err(|error| Lost::new(Sent::No, error.to_string()))
    }

    /// Starts a child and opens it. Whatever happens, no child is left behind.
    pub(super) async fn open(
        &self,
        plan: &Plan,
        life: &Life,
        tails: &(dyn Fn(u32, Tail) + Send + Sync),
    ) -> (Result<Arc<Instance>, Lost>, Spoken) {
        let mut opening = Opening::new(plan.pin, plan.spoken, &plan.wire, Arc::clone(&plan.face));
        let mut starting: Option<Starting> = None;
        loop {
            match opening.step() {
                Step::Send { body, fresh, probe, .. } => {
                    if fresh && let Some(used) = starting.take() {
                        used.end(life, self.config.stop_grace);
                    }
                    let child = match starting.take() {
                        Some(child) => child,
                        None => match self.spawn() {
                            Ok(child) => Starting::new(child, life, tails),
                            Err(lost) => return (Err(lost), opening.spoken()),
                        },
                    };
                    let mut guard =
                        EndIfDropped { starting: Some(child), life, grace: self.config.stop_grace };
                    let child = guard.starting.as_mut().expect("it was just put there");
                    let heard = if probe {
                        let waited = timeout(plan.probe_budget(), child.ask(&body)).await;
                        waited.unwrap_or(opening::Heard::Silence)
                    } else {
                        child.ask(&body).await
                    };
                    starting = guard.starting.take();
                    opening.heard(&heard);
                }
                Step::Open(peer) => {
                    let spoken = opening.spoken();
                    let Some(child) = starting.take() else {
                        return (Err(Lost::new(Sent::No, "it was opened without a process")), spoken);
                    };
                    return (Ok(child.run(*peer, plan, life, self.config.stop_grace)), spoken);
                }
                Step::Failed(reason) => {
                    let said = starting.as_ref().map_or_else(String::new, |child| last_words(&child.tail));
                    if let Some(child) = starting.take() {
                        child.end(life, self.config.stop_grace);
                    }
                    return (Err(Lost::new(Sent::No, format!("{reason}{said}"))), opening.spoken());
                }
            }
        }
    }
}

/// The last line a child wrote to standard error, for a message.
fn last_words(tail: &Tail) -> String {
    let line = tail.lines(1).pop().unwrap_or_default();
    let line: String = line.trim().chars().take(200).collect();
    if line.is_empty() { line } else { format!("; it last wrote to stderr: {line}") }
}

/// A child that is being opened.
struct Starting {
    process: Process,
    stdin: Stdin,
    stdout: Lines,
    tail: Tail,
}

/// Ends a child whose opening is dropped half-way, by the ladder rather than by force.
struct EndIfDropped<'a> {
    starting: Option<Starting>,
    life: &'a Life,
    grace: Duration,
}

impl Drop for EndIfDropped<'_> {
    fn drop(&mut self) {
        if let Some(starting) = self.starting.take() {
            starting.end(self.life, self.grace);
        }
    }
}

impl Starting {
    fn new(child: Child, life: &Life, tails: &(dyn Fn(u32, Tail) + Send + Sync)) -> Self {
        let tail = child.stderr.tail();
        tails(child.process.id(), tail.clone());
        life.spawn(Task::Instance, child.stderr.drain());
        Self { process: child.process, stdin: child.stdin, stdout: child.stdout, tail }
    }

    /// Sends the opening request and waits for its answer, the child's end, or for ever.
    async fn ask(&mut self, body: &Bytes) -> opening::Heard {
        let Self { process, stdin, stdout, tail } = self;
        let mut line = BytesMut::from(&body[..]);
        line.extend_from_slice(b"\n");
        let answer = async {
            if let Err(error) = stdin.write(&line).await {
                return opening::Heard::Gone(format!("it does not read its stdin: {error}"));
            }
            loop {
                match stdout.next().await {
                    Ok(Some(Line::Text(text))) => {
                        let Ok(message) = Message::parse(text) else { continue };
                        if message.method().is_some() {
                            // Whatever it asks before it is open, nobody is there to answer.
                            if message.id().is_some() {
                                let refusal = (message.method() != Some("ping")).then_some("not open yet");
                                let mut refusal = BytesMut::from(&answer_upstream(&message, refusal)[..]);
                                refusal.extend_from_slice(b"\n");
                                let _ = stdin.write(&refusal).await;
                            }
                        } else if message.id().is_some_and(|id| id.as_str() == opening::OPENING_ID) {
                            return opening::Heard::Response(message);
                        }
                    }
                    Ok(Some(Line::TooLong { .. })) => {}
                    Ok(None) | Err(_) => return std::future::pending().await,
                }
            }
        };
        tokio::select! {
            heard = answer => heard,
            status = process.exited() => {
                opening::Heard::Gone(format!("{status}{}", last_words(tail)))
            }
        }
    }

    /// Ends it in a task of its own.
    fn end(self, life: &Life, grace: Duration) {
        life.spawn(Task::Instance, async move {
            self.process.end(Some(self.stdin), grace).await;
        });
    }

    /// Hands it over to the tasks of an instance.
    fn run(self, peer: Peer, plan: &Plan, life: &Life, grace: Duration) -> Arc<Instance> {
        let (data, data_queue) = mpsc::channel(DATA_QUEUE);
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let has_session = peer.has_session();
        let instance = Arc::new(Instance {
            pid: self.process.id(),
            peer,
            data,
            control,
            calls: Mutex::default(),
            gone: CancellationToken::new(),
            ending: CancellationToken::new(),
            say: Arc::clone(&plan.say),
            exclusive: plan.exclusive(),
            calls_only: plan.exclusive() && plan.wire.close_cancels() && has_session,
            logs: AtomicBool::new(false),
        });
        if let Some(opened) = instance.peer.opened() {
            instance.notify(opened);
        }
        life.spawn(Task::Instance, write(self.stdin, data_queue, control_queue, instance.gone.clone()));
        let drained = Arc::new(Notify::new());
        life.spawn(Task::Instance, read(Arc::clone(&instance), self.stdout, Arc::clone(&drained)));
        life.spawn(
            Task::Instance,
            own(Arc::clone(&instance), self.process, self.tail, grace, drained, life.clone()),
        );
        instance
    }
}

/// The owner: follows the pid, and ends the child when told to or when it has closed its stdout.
async fn own(
    instance: Arc<Instance>,
    mut process: Process,
    tail: Tail,
    grace: Duration,
    drained: Arc<Notify>,
    life: Life,
) {
    let why = tokio::select! {
        status = process.exited() => {
            // What it said last may still be in the pipe.
            let _ = timeout(DRAIN, drained.notified()).await;
            format!("it ended ({status}){}", last_words(&tail))
        }
        () = instance.ending.cancelled() => String::from("it was ended"),
        () = drained.notified() => match timeout(AFTER_EOF, process.exited()).await {
            Ok(status) => format!("it ended ({status}){}", last_words(&tail)),
            Err(_) => format!("it closed its stdout{}", last_words(&tail)),
        },
        () = life.draining() => {
            // Calls under way may finish; whoever drains ends this task when the grace is over.
            while instance.in_flight() > 0 {
                tokio::select! {
                    _ = process.exited() => break,
                    () = instance.ending.cancelled() => break,
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
            String::from("Seawall is stopping")
        }
    };
    instance.close(&why);
    let ended = process.end(None, grace).await;
    if ended.survivors > 0 {
        tracing::error!(pid = instance.pid, survivors = ended.survivors, "processes survived SIGKILL");
    }
}

/// The writer: the only one that waits for the child to read.
async fn write(
    mut stdin: Stdin,
    mut data: mpsc::Receiver<Bytes>,
    mut control: mpsc::Receiver<Bytes>,
    gone: CancellationToken,
) {
    let mut batch = BytesMut::with_capacity(8 * 1024);
    loop {
        let first = tokio::select! {
            biased;
            () = gone.cancelled() => return,
            message = control.recv() => message,
            message = data.recv() => message,
        };
        let Some(first) = first else { return };
        append_line(&mut batch, &first);
        // Whatever else is ready goes with the same system call.
        while batch.len() < 64 * 1024 {
            let Ok(message) = control.try_recv().or_else(|_| data.try_recv()) else { break };
            append_line(&mut batch, &message);
        }
        let written = tokio::select! {
            written = stdin.write(&batch) => written,
            () = gone.cancelled() => return,
        };
        if written.is_err() {
            return;
        }
        batch.clear();
    }
}

/// A message as one line: JSON has line ends only between tokens, where they mean nothing.
fn append_line(batch: &mut BytesMut, message: &[u8]) {
    if message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        batch.extend(message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    } else {
        batch.extend_from_slice(message);
    }
    batch.extend_from_slice(b"\n");
}

/// The reader: routes what the child says, and waits for nothing but the child.
async fn read(instance: Arc<Instance>, mut stdout: Lines, drained: Arc<Notify>) {
    let mut skipped = 0_u64;
    loop {
        let line = tokio::select! {
            line = stdout.next() => line,
            () = instance.gone.cancelled() => break,
        };
        match line {
            Ok(Some(Line::Text(text))) => match Message::parse(text) {
                Ok(message) => instance.route(message),
                Err(malformed) => {
                    skipped += 1;
                    if skipped.is_power_of_two() {
                        tracing::debug!(pid = instance.pid, %malformed, skipped, "a line that is no message was skipped");
                    }
                }
            },
            Ok(Some(Line::TooLong { bytes })) => instance.too_long(bytes),
            Ok(None) | Err(_) => break,
        }
    }
    drained.notify_one();
}

impl Instance {
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().open.values().filter(|pending| !pending.recalled).count()
    }

    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled() || self.ending.is_cancelled()
    }

    pub(super) fn end(&self, why: &str) {
        self.close(why);
        self.ending.cancel();
    }

    pub(super) fn notify(&self, message: Outgoing) {
        if self.control.try_send(message.body).is_err() {
            tracing::debug!(pid = self.pid, "a notification was dropped: the child does not read");
        }
    }

    pub(super) fn exchange(
        this: &Arc<Self>,
        request: &Request,
        subject: Option<&str>,
    ) -> Result<Exchange, Reply> {
        let id = {
            let mut calls = this.lock();
            calls.next += 1;
            calls.next
        };
        let outgoing = this.peer.outgoing(request, subject, Some(Minted { id }), Vec::new())?;
        let (heard, queue) = mpsc::channel(CALL_QUEUE + 1);
        let room = heard.clone().try_reserve_owned().ok();
        let pending = Pending { heard, room, recalled: false };
        {
            let mut calls = this.lock();
            match calls.closed.clone() {
                None => drop(calls.open.insert(id, pending)),
                Some(why) => {
                    drop(calls);
                    pending.lose(Lost::new(Sent::No, why));
                }
            }
        }
        Ok(Exchange {
            instance: Arc::clone(this),
            id,
            to_send: Some(outgoing.body),
            sent: false,
            heard: queue,
            finished: false,
            recalled: false,
        })
    }

    /// Takes no more calls and ends those under way.
    fn close(&self, why: &str) {
        let open = {
            let mut calls = self.lock();
            calls.closed.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut calls.open)
        };
        for pending in open.into_values() {
            pending.lose(Lost::new(Sent::Maybe, why));
        }
        self.gone.cancel();
    }

    fn route(&self, message: Message) {
        match self.peer.incoming(&message) {
            Incoming::Response { id } => {
                let Some(pending) = id.and_then(|id| self.lock().open.remove(&id)) else {
                    tracing::debug!(pid = self.pid, "a response that nobody waits for was dropped");
                    return;
                };
                pending.finish(Ok(Heard::Response(message)));
            }
            Incoming::About { id, topic } => {
                let heard = self
                    .lock()
                    .open
                    .get(&id)
                    .filter(|pending| !pending.recalled)
                    .map(|pending| pending.heard.clone());
                if let Some(heard) = heard
                    && heard.try_send(Ok(Heard::Notification(message, topic))).is_err()
                {
                    tracing::debug!(pid = self.pid, "a notification was dropped: its caller does not read");
                }
            }
            Incoming::Broadcast(Topic::Log) if self.calls_only => {
                // It names no call; only where there is one alone is it that one's.
                if let Some(heard) = self.only_call() {
                    drop(heard.try_send(Ok(Heard::Notification(message, Topic::Log))));
                }
            }
            Incoming::Broadcast(topic) => (self.say)(Broadcast::Notification(message, topic)),
            Incoming::Ping => drop(self.control.try_send(answer_upstream(&message, None))),
            Incoming::Ask => self.ask(message),
        }
    }

    /// A question: it belongs to the one call under way, or to the conversation; with several conversations on one
    /// child nobody can tell whose it is.
    fn ask(&self, message: Message) {
        let control = self.control.clone();
        let id = message.id();
        let question = message.clone();
        let reply = ReplySlot::new(move |answer| {
            let body = match answer {
                Answer::Response(response) => response.with_id(id.as_ref().map_or("null", |id| id.as_str())),
                Answer::Refused(why) => answer_upstream(&question, Some(why)),
            };
            let _ = control.try_send(body);
        });
        if !self.exclusive {
            reply.answer(Answer::Refused(
                "this server is shared between clients, so it can ask none of them; set sharing = \"session\"",
            ));
            return;
        }
        let ask = Ask { message, reply };
        match self.only_call() {
            // A full queue drops the ask, which refuses it.
            Some(heard) => drop(heard.try_send(Ok(Heard::Ask(ask)))),
            None => (self.say)(Broadcast::Ask(ask)),
        }
    }

    /// The way to the one call that is under way, where there is exactly one.
    fn only_call(&self) -> Option<mpsc::Sender<Result<Heard, Lost>>> {
        let calls = self.lock();
        let mut open = calls.open.values().filter(|pending| !pending.recalled);
        match (open.next(), open.next()) {
            (Some(pending), None) => Some(pending.heard.clone()),
            _ => None,
        }
    }

    /// A line over the limit: nobody can tell whose answer it was, so it is the only call's, or nobody's.
    fn too_long(&self, bytes: usize) {
        tracing::warn!(pid = self.pid, bytes, "a line over the limit was dropped");
        let only = {
            let mut calls = self.lock();
            let id = if calls.open.len() == 1 { calls.open.keys().next().copied() } else { None };
            id.and_then(|id| calls.open.remove(&id))
        };
        if let Some(pending) = only {
            let why = format!("its answer was larger than the limit ({bytes} bytes)");
            pending.lose(Lost { too_large: true, ..Lost::nonsense(why) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn finish(mut self, end: Result<Heard, Lost>) {
        match self.room.take() {
            Some(room) => drop(room.send(end)),
            None => drop(self.heard.try_send(end)),
        }
    }

    fn lose(self, lost: Lost) {
        self.finish(Err(lost));
    }
}

impl Exchange {
    pub(super) async fn next(&mut self) -> Result<Heard, Lost> {
        if self.to_send.is_some() {
            let room = tokio::select! {
                room = self.instance.data.reserve() => room.ok(),
                () = self.instance.gone.cancelled() => None,
            };
            match (room, self.to_send.take()) {
                (Some(room), Some(body)) => {
                    // From here on the child may read it at any time.
                    self.sent = true;
                    room.send(body);
                }
                _ => self.sent = false,
            }
        }
        let heard = self.heard.recv().await.unwrap_or_else(|| Err(Lost::new(self.sent(), "it is gone")));
        match heard {
            Err(lost) => {
                self.finished = true;
                Err(Lost { sent: self.sent(), ..lost })
            }
            Ok(heard) => {
                self.finished = matches!(heard, Heard::Response(_));
                Ok(heard)
            }
        }
    }

    pub(super) fn sent(&self) -> Sent {
        if self.sent { Sent::Maybe } else { Sent::No }
    }

    pub(super) fn cancel(&mut self, reason: &str) {
        self.to_send = None;
        if self.finished || !self.sent {
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

    pub(super) async fn over(&mut self) {
        let ended = async {
            while let Some(Ok(heard)) = self.heard.recv().await {
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
        self.instance.lock().open.remove(&self.id);
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
