//! The stdio transport: a reader, a writer, and a task for each request.

use crate::descent;
use crate::server::{Exchange, Part, Server};
use crate::wire::{self, Era};
use std::future::pending;
use std::io;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Stdin};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};

/// How long calls that are about to answer may take to do so once stdin has ended.
const GRACE: Duration = Duration::from_millis(200);
/// How long each byte takes where one takes its time.
pub(crate) const BYTE: Duration = Duration::from_secs(1);
/// What servers print that do not know whose stdout is.
const BANNER: &str =
    "Server ready! {not json\n\n[1, 2, 3]\n{\"level\":\"info\",\"message\":\"listening on stdio\"}\n";

pub(crate) async fn serve(server: Arc<Server>) -> io::Result<()> {
    let (outlet, parts) = mpsc::unbounded_channel();
    let mut prelude = Vec::new();
    if server.options.bom {
        prelude.extend_from_slice("\u{FEFF}".as_bytes());
    }
    if server.options.banner {
        prelude.extend_from_slice(BANNER.as_bytes());
    }
    let writer = tokio::spawn(write(prelude, parts));
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    let mut era = None;
    let mut announcer = None;
    loop {
        line.clear();
        if !matches!(input.read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
            break;
        }
        let Some(mut message) = server.receive(&line, None) else {
            continue;
        };
        if era.is_none() && server.options.exit_on_discover && message.method() == "server/discover" {
            exit(1);
        }
        let era = *era.get_or_insert_with(|| server.era(&message, None));
        if era == Era::Legacy && message.method() == "initialize" && announcer.is_none() {
            announcer = Some(tokio::spawn(announce(server.tools_changed.subscribe(), outlet.clone())));
        }
        let Some(id) = message.id.take_if(|_| message.method.is_some()) else {
            server.notice(None, &message);
            continue;
        };
        let last = Last::of(message.tool());
        let tag = server.options.tag.clone();
        let (server, outlet) = (server.clone(), outlet.clone());
        Exchange { server, era, session: None, over_http: false, id, outlet }.start(message);
        if let Some(last) = last {
            return last.read(&mut input, tag.as_deref()).await;
        }
    }
    if server.options.ignore_eof {
        return pending().await;
    }
    if let Some(announcer) = announcer {
        announcer.abort();
    }
    drop(outlet);
    // The writer ends when the last call that can still answer has done so; the hung ones never will.
    let _ = timeout(GRACE, writer).await;
    exit(0)
}

/// How stdin is read after a call that was the last to be read in earnest.
#[derive(Clone, Copy)]
enum Last {
    Never,
    Slowly,
    ByAChild,
}

impl Last {
    fn of(tool: Option<&str>) -> Option<Self> {
        match tool? {
            "stop_reading" => Some(Self::Never),
            "read_slowly" => Some(Self::Slowly),
            "feed_a_child" => Some(Self::ByAChild),
            _ => None,
        }
    }

    async fn read(self, input: &mut BufReader<Stdin>, tag: Option<&str>) -> io::Result<()> {
        match self {
            Self::Never => pending().await,
            Self::Slowly => {
                while input.read_u8().await.is_ok() {
                    sleep(BYTE).await;
                }
                pending().await
            }
            Self::ByAChild => {
                descent::feed(tag)?;
                pending().await
            }
        }
    }
}

/// Tells a legacy client of changes to the list of tools, as far as this can keep up with them.
pub(crate) async fn announce(mut changes: broadcast::Receiver<()>, outlet: mpsc::UnboundedSender<Part>) {
    while !matches!(changes.recv().await, Err(broadcast::error::RecvError::Closed))
        && outlet.send(Part::Event(wire::tools_changed())).is_ok()
    {}
}

async fn write(prelude: Vec<u8>, mut parts: mpsc::UnboundedReceiver<Part>) -> io::Result<()> {
    let mut output = tokio::io::stdout();
    output.write_all(&prelude).await?;
    output.flush().await?;
    while let Some(part) = parts.recv().await {
        match part {
            Part::Event(text) | Part::Reply { text, .. } | Part::Garbage(text) => {
                output.write_all(format!("{text}\n").as_bytes()).await?;
                output.flush().await?;
            }
            Part::Half(text) => {
                output.write_all(&text.as_bytes()[..text.len() / 2]).await?;
                output.flush().await?;
                // Whatever came next would complete the broken line, so nothing does.
                return pending().await;
            }
            Part::Trickle(text) => {
                for byte in text.into_bytes() {
                    output.write_all(&[byte]).await?;
                    output.flush().await?;
                    sleep(BYTE).await;
                }
                output.write_all(b"\n").await?;
            }
            Part::Line(mut bytes) | Part::Whole { body: mut bytes, .. } => {
                if !bytes.ends_with(b"\n") {
                    bytes.push(b'\n');
                }
                output.write_all(&bytes).await?;
                output.flush().await?;
            }
            Part::Close => exit(0),
            Part::Open | Part::Comment => {}
        }
    }
    Ok(())
}
