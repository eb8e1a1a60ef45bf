//! The stdio transport: a reader, a writer, and a task for each request.

use crate::server::{Exchange, Part, Server};
use crate::wire::{self, Era};
use std::future::pending;
use std::io;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

/// How long calls that are about to answer may take to do so once stdin has ended.
const GRACE: Duration = Duration::from_millis(200);

pub(crate) async fn serve(server: Arc<Server>) -> io::Result<()> {
    let (outlet, parts) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write(parts));
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
        let stop = message.tool() == Some("stop_reading");
        let (server, outlet) = (server.clone(), outlet.clone());
        Exchange { server, era, session: None, over_http: false, id, outlet }.start(message);
        if stop {
            return pending().await;
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

/// Tells a legacy client of changes to the list of tools.
async fn announce(mut changes: broadcast::Receiver<()>, outlet: mpsc::UnboundedSender<Part>) {
    while changes.recv().await.is_ok() && outlet.send(Part::Event(wire::tools_changed())).is_ok() {}
}

async fn write(mut parts: mpsc::UnboundedReceiver<Part>) -> io::Result<()> {
    let mut output = tokio::io::stdout();
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
            Part::Close => exit(0),
            Part::Open | Part::Comment => {}
        }
    }
    Ok(())
}
