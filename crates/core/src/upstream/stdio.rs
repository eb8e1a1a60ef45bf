//! Upstreams that are child processes.
//!
//! An instance is a channel over three tasks and the channel's own: the *owner* follows the pid and ends the child by
//! the ladder; the *reader* never waits for anything but the child; the *writer* waits for the child to read; standard
//! error is drained into a ring.

use super::{
    Lost, Plan, Sent,
    channel::{self, Early, Guard, Instance, Queues, Starting, early},
};
use crate::{
    Ground,
    config::{self, Kind, Limits},
    ledger::{Entry, Ledger},
    life::{Life, Task},
};
use bytes::{Bytes, BytesMut};
use seawall_proc::{Child, Command, Line, Lines, Process, SpawnErrorKind, Stdin, Tail};
use seawall_proto::era::{
    Spoken,
    opening::{Heard, Opening},
    peer::Peer,
};
use std::{
    ffi::OsString,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant as Moment, sleep, timeout},
};

/// Bytes of standard error that are kept.
const STDERR_RING: usize = 64 * 1024;
/// How long what an ended child has said before may still be read.
const DRAIN: Duration = Duration::from_millis(50);
/// How long a child may take to end after it closed its stdout by itself.
const AFTER_EOF: Duration = Duration::from_millis(250);
/// How often it is looked how much memory a child holds.
const WEIGH: Duration = Duration::from_secs(2);

/// Makes instances of one command.
#[derive(Debug)]
pub struct Connector {
    config: Arc<config::Upstream>,
    /// The longest line, in bytes.
    message: usize,
    /// Processes of all servers at once.
    processes: usize,
    ledger: Arc<Ledger>,
}

impl Connector {
    pub(super) fn new(config: Arc<config::Upstream>, limits: &Limits, ground: &Ground) -> Self {
        let ledger = Arc::clone(&ground.ledger);
        Self { config, message: limits.message, processes: limits.processes, ledger }
    }

    /// Starts a child that has been told nothing yet. Cancel-safe: a child that nobody waits for any more is ended.
    ///
    /// Whoever starts a process waits until it has become its program, milliseconds where it enters a control group.
    /// So a thread waits that is there for that, and a task that ends only with Seawall.
    async fn start(&self, life: &Life, tails: &(dyn Fn(u32, Tail) + Send + Sync)) -> Result<Opened, Lost> {
        let Kind::Stdio { command, args, .. } = &self.config.kind else {
            return Err(Lost::new(Sent::No, "it is no command"));
        };
        let stop = self.config.pool.stop.split_first().map(|(program, args)| self.command(program, args));
        let (command, processes) = (self.command(command, args), self.processes);
        let (config, ledger, tasks) = (Arc::clone(&self.config), Arc::clone(&self.ledger), life.clone());
        let (hand_over, handed_over) = oneshot::channel();
        life.spawn(Task::Instance, async move {
            let started = tasks.blocking(move || seawall_proc::spawn_within(&command, processes)).await;
            let opened = match started {
                Some(Ok(mut child)) => {
                    if let Some(stop) = stop {
                        child.process.stop_with(stop);
                    }
                    let entry = ledger.enter(&child.process.identity());
                    Ok(Guard::new(Opened::new(child, entry, config, tasks)))
                }
                Some(Err(error)) => {
                    let crowded = error.kind == SpawnErrorKind::Limit;
                    let hint = if crowded { " (`limits.processes`)" } else { "" };
                    Err(Lost { crowded, ..Lost::new(Sent::No, format!("{error}{hint}")) })
                }
                None => Err(Lost::new(Sent::No, "its start panicked")),
            };
            // What nobody takes is ended by its guard.
            drop(hand_over.send(opened));
        });
        let guard = handed_over.await.map_err(|_| Lost::new(Sent::No, "Seawall is stopping"))??;
        let opened = guard.release().expect("a guard holds what it was made with");
        tails(opened.process.id(), opened.tail.clone());
        Ok(opened)
    }

    /// A program of this server, in its surroundings.
    fn command(&self, program: &str, args: &[String]) -> Command {
        let mut environment = seawall_proc::inherited_environment();
        let mut directory = None;
        if let Kind::Stdio { env, cwd, .. } = &self.config.kind {
            let declared = env.iter().map(|(name, value)| (name.into(), value.expose().into()));
            environment.extend(declared.map(|(name, value): (OsString, OsString)| (name, value)));
            directory.clone_from(cwd);
        }
        Command {
            program: program.into(),
            args: args.iter().map(OsString::from).collect(),
            environment,
            directory,
            max_line: self.message,
            stderr_ring: STDERR_RING,
        }
    }

    /// Starts a child for whoever will want one.
    pub(super) async fn spare(
        &self,
        life: &Life,
        tails: &(dyn Fn(u32, Tail) + Send + Sync),
    ) -> Result<Spare, Lost> {
        Ok(Spare(self.start(life, tails).await?))
    }

    /// Starts a child and opens it. Whatever happens, no child is left behind.
    pub(super) async fn open(
        &self,
        plan: &Plan,
        spare: Option<Spare>,
        life: &Life,
        tails: &(dyn Fn(u32, Tail) + Send + Sync),
    ) -> (Result<Arc<Instance>, Lost>, Spoken) {
        let opening = Opening::new(plan.pin, plan.spoken, &plan.wire, Arc::clone(&plan.face));
        let spare = Mutex::new(spare);
        let start = || {
            let spare = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                match spare {
                    Some(Spare(child)) => Ok(child),
                    None => self.start(life, tails).await,
                }
            }
        };
        let (opened, spoken) = channel::open(opening, plan, start).await;
        (opened.map(|(child, peer): (Opened, Peer)| child.run(peer, plan)), spoken)
    }
}

/// The last line a child wrote to standard error, for a message.
fn last_words(tail: &Tail) -> String {
    let line = tail.lines(1).pop().unwrap_or_default();
    let line: String = line.trim().chars().take(200).collect();
    if line.is_empty() { line } else { format!("; it last wrote to stderr: {line}") }
}

/// A child that was started.
struct Opened {
    process: Process,
    stdin: Stdin,
    stdout: Lines,
    tail: Tail,
    entry: Entry,
    since: Moment,
    config: Arc<config::Upstream>,
    life: Life,
}

/// A child that is started, and that nobody has wanted yet.
pub(super) struct Spare(Opened);

impl Spare {
    pub(super) fn pid(&self) -> u32 {
        self.0.process.id()
    }

    /// Since when it runs.
    pub(super) fn age(&self) -> Duration {
        self.0.since.elapsed()
    }

    pub(super) fn lives(&mut self) -> bool {
        self.0.process.lives()
    }

    /// Ends it, in a task of its own.
    pub(super) fn end(self) {
        Starting::end(self.0);
    }
}

impl Starting for Opened {
    async fn ask(&mut self, body: &Bytes) -> Heard {
        let Self { process, stdin, stdout, tail, .. } = self;
        let mut line = BytesMut::new();
        append_line(&mut line, body);
        let answer = async {
            if let Err(error) = stdin.write(&line).await {
                return Heard::Gone(format!("it does not read its stdin: {error}"));
            }
            loop {
                match stdout.next().await {
                    Ok(Some(Line::Text(text))) => match early(text) {
                        Early::Response(message) => return Heard::Response(message),
                        Early::Answer(answer) => {
                            let mut line = BytesMut::new();
                            append_line(&mut line, &answer);
                            let _ = stdin.write(&line).await;
                        }
                        Early::Nothing => {}
                    },
                    Ok(Some(Line::TooLong { .. })) => {}
                    // How it ended is learnt from its pid.
                    Ok(None) | Err(_) => return std::future::pending().await,
                }
            }
        };
        tokio::select! {
            heard = answer => heard,
            status = process.exited() => Heard::Gone(format!("{status}{}", last_words(tail))),
        }
    }

    fn last_words(&self) -> String {
        last_words(&self.tail)
    }

    /// Ends it by the ladder rather than by force.
    fn end(self) {
        let Self { process, stdin, entry, config, life, .. } = self;
        life.spawn(Task::Instance, async move {
            process.end(Some(stdin), config.stop_grace).await;
            drop(entry);
        });
    }
}

impl Opened {
    fn new(child: Child, entry: Entry, config: Arc<config::Upstream>, life: Life) -> Self {
        let Child { process, stdin, stdout, stderr } = child;
        let tail = stderr.tail();
        life.spawn(Task::Instance, stderr.drain());
        let since = Moment::now();
        Self { process, stdin, stdout, tail, entry, since, config, life }
    }

    /// Hands it over to the tasks of an instance.
    fn run(self, peer: Peer, plan: &Plan) -> Arc<Instance> {
        let Self { process, stdin, stdout, tail, entry, config, life, .. } = self;
        let pid = process.id();
        let (instance, queues) = Instance::new(peer, Some(pid), &format!("process {pid}"), plan);
        if let Some(opened) = instance.peer().opened() {
            instance.notify(opened);
        }
        instance.tend(&life);
        life.spawn(Task::Instance, write(Arc::clone(&instance), stdin, queues));
        let drained = Arc::new(Notify::new());
        life.spawn(Task::Instance, read(Arc::clone(&instance), stdout, Arc::clone(&drained)));
        life.spawn(Task::Instance, own(Arc::clone(&instance), process, tail, entry, config, drained));
        instance
    }
}

/// The owner: follows the pid, and ends the child when told to or when it has closed its stdout.
async fn own(
    instance: Arc<Instance>,
    mut process: Process,
    tail: Tail,
    entry: Entry,
    config: Arc<config::Upstream>,
    drained: Arc<Notify>,
) {
    let why = loop {
        tokio::select! {
            status = process.exited() => {
                // What it said last may still be in the pipe.
                let _ = timeout(DRAIN, drained.notified()).await;
                break format!("it ended ({status}){}", last_words(&tail));
            }
            () = instance.ending() => break String::from("it was ended"),
            () = drained.notified() => break match timeout(AFTER_EOF, process.exited()).await {
                Ok(status) => format!("it ended ({status}){}", last_words(&tail)),
                Err(_) => format!("it closed its stdout{}", last_words(&tail)),
            },
            () = sleep(WEIGH), if config.pool.max_rss.is_some() => {
                let bytes = process.resident_bytes().await;
                if let Some(most) = config.pool.max_rss.filter(|most| bytes > *most) {
                    instance.declare_unfit(format!("it holds {bytes} bytes of memory, and `max_rss` is {most}"));
                }
            }
        }
    };
    instance.close(&why);
    let ended = process.end(None, config.stop_grace).await;
    if ended.survivors > 0 {
        tracing::error!(place = instance.place(), survivors = ended.survivors, "processes survived SIGKILL");
    }
    if let Some(Err(failed)) = ended.stop {
        tracing::warn!(place = instance.place(), %failed, "its `stop` command did not do what it was to do");
    }
    drop(entry);
    instance.is_over();
}

/// The writer: the only one that waits for the child to read.
async fn write(instance: Arc<Instance>, mut stdin: Stdin, mut queues: Queues) {
    let mut batch = BytesMut::with_capacity(8 * 1024);
    loop {
        let first = tokio::select! {
            biased;
            () = instance.gone() => return,
            message = queues.next() => message,
        };
        let Some(first) = first else { return };
        append_line(&mut batch, &first);
        // Whatever else is ready goes with the same system call.
        while batch.len() < 64 * 1024 {
            let Some(message) = queues.ready() else { break };
            append_line(&mut batch, &message);
        }
        let written = tokio::select! {
            written = stdin.write(&batch) => written,
            () = instance.gone() => return,
        };
        if written.is_err() {
            // It may still answer what it has read.
            return instance.drain("it closed its stdin");
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

/// The reader: passes on what the child says, and waits for nothing but the child.
async fn read(instance: Arc<Instance>, mut stdout: Lines, drained: Arc<Notify>) {
    loop {
        let line = tokio::select! {
            line = stdout.next() => line,
            () = instance.gone() => break,
        };
        match line {
            Ok(Some(Line::Text(text))) => instance.hear(&text),
            Ok(Some(Line::TooLong { bytes })) => instance.too_long(bytes),
            Ok(None) | Err(_) => break,
        }
    }
    drained.notify_one();
}
