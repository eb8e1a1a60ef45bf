//! `seawall stdio`: the bridge between a client that starts a command and the daemon, which it finds or starts.
//!
//! A line that the client writes is one message, and so is a line that it reads. Requests are under way side by side;
//! each ends in exactly one line, unless the client takes it back. What the daemon did not get is sent again;
//! what it may have got is not, and ends as OUTCOME_UNKNOWN when the daemon is lost.

mod endpoint;
mod find;
mod forward;

use super::{ConfigArguments, DaemonArguments, Exit, Failure, serve::Signals, sources};
use bytes::{Bytes, BytesMut};
use clap::Args;
use endpoint::Http;
use find::{Daemon, Start};
use forward::{Asked, Bridge, Heard, Written, nameless};
use http::HeaderValue;
use seawall_core::life::{Life, Task};
use seawall_proto::{Message, Raw, Request, era::serve};
use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    path::absolute,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Stdin},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};

/// Requests that may be in flight; beyond that the client is not read.
const IN_FLIGHT: u32 = 256;
/// Lines that wait to be written; beyond that the daemon's streams are not read.
const LINES: usize = 64;
/// Notifications and answers that wait to be passed on; beyond that they are dropped.
const LANE: usize = 256;
/// How long requests may take once the client says no more.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that are read or written together.
const TOGETHER: usize = 64 * 1024;

/// Join a client that starts a command to the daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// Serve this server alone, its tools under their own names.
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    server: Option<String>,
    /// Serve this group of servers alone.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Start no daemon where none is running; wait for one.
    #[arg(long)]
    no_start: bool,
}

impl Arguments {
    /// The daemon's endpoint.
    fn path(&self) -> Result<String, Failure> {
        let (name, path) = match (&self.server, &self.group) {
            (Some(server), _) => (server, format!("/mcp/{server}")),
            (None, Some(group)) => (group, format!("/mcp/group/{group}")),
            (None, None) => return Ok("/mcp".to_owned()),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(is_name) {
            let text = format!("{name:?} is no name; `seawall status` shows those there are");
            return Err(Failure::new(Exit::BadConfiguration, text));
        }
        Ok(path)
    }
}

/// Says something on standard error, in one line. A client that does not listen is no fault.
fn tell(text: &str) {
    use std::io::Write;
    drop(writeln!(io::stderr(), "seawall: {}", text.replace('\n', "; ")));
}

/// The files as they are found from anywhere.
fn whole(mut files: ConfigArguments) -> Result<ConfigArguments, Failure> {
    for file in files.config.iter_mut().chain(&mut files.mcp_config) {
        *file = absolute(&*file).map_err(|error| {
            let text = format!("{} is no path to a file: {error}", file.display());
            Failure::new(Exit::BadConfiguration, text)
        })?;
    }
    Ok(files)
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let path = arguments.path()?;
    let files = whole(arguments.daemon.config)?;
    let config = sources::load_elsewhere(&files).await?.config;
    if config.state.is_relative() {
        let text = "SEAWALL_STATE must be an absolute path for a bridge, for it may be started anywhere";
        return Err(Failure::new(Exit::BadConfiguration, text));
    }
    let http = Http::new(&path, arguments.daemon.token.as_deref())?;
    let start = if arguments.no_start { None } else { Some(Start::new(&files)?) };
    let daemon = Daemon::new(config.state, start, http.clone());
    let (out, lines) = mpsc::channel(LINES);
    let (lane, delivered) = mpsc::channel(LANE);
    let client = Arc::new(Client {
        bridge: Bridge::new(daemon, http, out.clone()),
        life: Life::default(),
        room: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
        flights: Mutex::default(),
        lane,
    });
    client.spawn_tasks(lines, delivered);
    tokio::select! {
        read = client.read(config.limits.message) => {
            if let Err(error) = read {
                tell(&format!("standard input could not be read: {error}"));
            }
            tokio::select! {
                () = client.finish() => {}
                () = signals.stop() => {}
                () = out.closed() => {}
            }
        }
        () = signals.stop() => {}
        // Whoever does not read any more has gone.
        () = out.closed() => {}
    }
    client.bridge.close().await;
    client.life.end(Duration::ZERO).await;
    Ok(Exit::Done)
}

/// A request that has not ended, as far as the client can take it back.
#[derive(Debug)]
struct Flight {
    alone: bool,
    listens: bool,
    taken_back: watch::Sender<bool>,
}

/// The client: what it has asked and not been told yet.
struct Client {
    bridge: Bridge,
    life: Life,
    room: Arc<Semaphore>,
    flights: Mutex<HashMap<Raw, Flight>>,
    /// Notifications and answers on their way, in their order.
    lane: mpsc::Sender<(Message, Option<HeaderValue>)>,
}

impl Client {
    fn spawn_tasks(
        self: &Arc<Self>,
        lines: mpsc::Receiver<Written>,
        mut delivered: mpsc::Receiver<(Message, Option<HeaderValue>)>,
    ) {
        self.life.spawn(Task::Connection, write(lines));
        let client = Arc::clone(self);
        self.life.spawn(Task::Housekeeping, async move { client.bridge.daemon().keep().await });
        let client = Arc::clone(self);
        self.life.spawn(Task::Housekeeping, async move { client.bridge.keep_session().await });
        let client = Arc::clone(self);
        self.life.spawn(Task::Follow, async move { client.bridge.listen().await });
        let client = Arc::clone(self);
        self.life.spawn(Task::Send, async move {
            while let Some((message, alone)) = delivered.recv().await {
                client.bridge.deliver(&message, alone.as_ref()).await;
            }
        });
    }

    /// Reads the client until it says no more.
    async fn read(self: &Arc<Self>, largest: usize) -> io::Result<()> {
        let mut lines = Lines::new(largest);
        while let Some(line) = lines.next().await? {
            let line = match line {
                Line::Text(line) if line.trim_ascii().is_empty() => continue,
                Line::Text(line) => line,
                Line::TooLong => {
                    let text = format!("TOO_LARGE: a message may have {largest} bytes (`limits.message`)");
                    self.refuse(nameless(-32600, &text)).await;
                    continue;
                }
            };
            match self.bridge.read(line) {
                Ok(Heard::Request(request, alone)) => self.start(*request, alone).await,
                Ok(Heard::Other(message, alone)) => self.hear(message, alone),
                Err(refusal) => self.refuse(refusal).await,
            }
        }
        Ok(())
    }

    /// Answers a line that is no message.
    async fn refuse(&self, refusal: Bytes) {
        let place = self.place().await;
        self.bridge.write(refusal, Some(place)).await;
    }

    /// A place in flight, as soon as one is free.
    async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.room).acquire_owned().await.expect("nobody closes it")
    }

    /// Sets a request going as soon as there is room for it.
    async fn start(self: &Arc<Self>, request: Request, alone: Option<HeaderValue>) {
        let place = self.place().await;
        let (taken_back, receiver) = watch::channel(false);
        let asked = Asked::new(request, alone, receiver);
        let flight = Flight { alone: asked.is_alone(), listens: asked.listens(), taken_back };
        let is_new = match self.flights().entry(asked.id().clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(flight);
                true
            }
        };
        if !is_new {
            let text = format!("the id {} belongs to a request that has not ended", asked.id().as_str());
            return self.bridge.write(nameless(-32600, &text), Some(place)).await;
        }
        let client = Arc::clone(self);
        self.life.spawn(Task::Attempt, async move {
            let end = client.bridge.ask(&asked).await;
            drop(client.flights().remove(asked.id()));
            if let Some(line) = end {
                client.bridge.write(line, Some(place)).await;
            }
        });
    }

    /// Passes on what is no request.
    fn hear(&self, message: Message, alone: Option<HeaderValue>) {
        if let Some(id) = serve::cancelled(&message) {
            let flights = self.flights();
            // Some clients take back what has ended already.
            let Some(flight) = flights.get(&id) else { return };
            flight.taken_back.send_replace(true);
            if flight.alone {
                return;
            }
        }
        if self.lane.try_send((message, alone)).is_err() {
            tell("a notification or an answer was dropped: too many wait for the daemon");
        }
    }

    /// Waits for the requests that have not ended, for a while; streams without an end are closed.
    async fn finish(&self) {
        for flight in self.flights().values().filter(|flight| flight.listens) {
            flight.taken_back.send_replace(true);
        }
        drop(timeout(GRACE, self.room.acquire_many(IN_FLIGHT)).await);
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Raw, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines to standard output until nobody reads them. Nothing else writes there.
async fn write(mut lines: mpsc::Receiver<Written>) {
    let mut out = tokio::io::stdout();
    while let Some(first) = lines.recv().await {
        let (mut batch, mut places, mut next) = (Vec::new(), Vec::new(), Some(first));
        while let Some((line, place)) = next.take() {
            // Between the tokens of JSON a line's end means nothing, and inside them there is none.
            batch.extend(line.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
            batch.push(b'\n');
            places.extend(place);
            if batch.len() < TOGETHER {
                next = lines.try_recv().ok();
            }
        }
        if out.write_all(&batch).await.is_err() || out.flush().await.is_err() {
            return;
        }
    }
}

/// A line of the client.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The line without its end.
    Text(Bytes),
    /// One over the limit, which was thrown away.
    TooLong,
}

/// Standard input, or what stands for it, line by line.
struct Lines<R = Stdin> {
    input: R,
    buffer: BytesMut,
    /// How much of `buffer` holds no line's end.
    scanned: usize,
    /// Whether the beginning of the present line was thrown away.
    too_long: bool,
    largest: usize,
}

impl Lines {
    fn new(largest: usize) -> Self {
        Self::of(tokio::io::stdin(), largest)
    }
}

impl<R: AsyncReadExt + Unpin> Lines<R> {
    fn of(input: R, largest: usize) -> Self {
        Self { input, buffer: BytesMut::new(), scanned: 0, too_long: false, largest }
    }

    /// The next line; what stands after the last line's end counts as one. `None` when the client says no more.
    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.scanned + end + 1);
                line.truncate(self.scanned + end);
                self.scanned = 0;
                return Ok(Some(self.whole(line)));
            }
            self.scanned = self.buffer.len();
            if self.scanned > self.largest {
                self.too_long = true;
                self.buffer.clear();
                self.scanned = 0;
            }
            self.buffer.reserve(TOGETHER);
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                let rest = std::mem::take(&mut self.buffer);
                self.scanned = 0;
                return Ok((!rest.is_empty() || self.too_long).then(|| self.whole(rest)));
            }
        }
    }

    fn whole(&mut self, line: BytesMut) -> Line {
        let too_long = std::mem::take(&mut self.too_long) || line.len() > self.largest;
        if too_long { Line::TooLong } else { Line::Text(line.freeze()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(input: &[u8], largest: usize) -> Vec<Line> {
        let mut lines = Lines::of(input, largest);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_are_whole_or_thrown_away() {
        let text = |line: &'static str| Line::Text(Bytes::from_static(line.as_bytes()));
        assert_eq!(lines_of(b"one\n\ntwo", 3).await, [text("one"), text(""), text("two")]);
        assert_eq!(lines_of(b"four\none\nlong", 3).await, [Line::TooLong, text("one"), Line::TooLong]);
        let mut flood = vec![b'x'; 3 * TOGETHER];
        flood.extend_from_slice(b"\none\n");
        assert_eq!(lines_of(&flood, 100).await, [Line::TooLong, text("one")]);
        assert!(lines_of(b"", 3).await.is_empty());
    }
}
