//! `misbehave`: one MCP server that does bad things on request, over stdio, streamable HTTP, the older HTTP with
//! server-sent events, and WebSocket; in either era, but for the last two, which have the legacy one alone.
//!
//! It is well-behaved until a tool or a flag says otherwise, so that a test sees one misdeed at a time.
#![expect(
    clippy::disallowed_methods,
    reason = "a fixture spawns its own tasks, and dying at once is one of its jobs"
)]
#![expect(clippy::print_stdout, reason = "the address goes to stdout")]
#![expect(clippy::print_stderr, reason = "a server's last words go to stderr")]

mod descent;
mod http;
mod loads;
mod misdeeds;
mod server;
mod sse;
mod stdio;
mod tools;
mod websocket;
mod wire;

use clap::Parser;
use std::future::pending;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// An MCP server that does bad things on request.
#[derive(Debug, Parser)]
struct Options {
    /// Serve stdin and stdout
    #[arg(long, conflicts_with = "listen")]
    stdio: bool,
    /// Serve streamable HTTP at /mcp on this address, events at /sse, WebSocket at /ws; port 0 picks a free one,
    /// which is printed
    #[arg(long, required_unless_present_any = ["stdio", "linger"])]
    listen: Option<SocketAddr>,
    /// The eras to speak; on stdio, `both` follows the first message
    #[arg(long, value_enum, default_value = "both")]
    era: Eras,
    /// Never answer this method (repeatable); `initialize` covers server/discover too
    #[arg(long, value_name = "METHOD")]
    never: Vec<String>,
    /// Refuse this method with -32601 (repeatable)
    #[arg(long, value_name = "METHOD")]
    refuse: Vec<String>,
    /// Answer this method with the headers of a stream and no more (HTTP; elsewhere, never) (repeatable)
    #[arg(long, value_name = "METHOD")]
    stall: Vec<String>,
    /// Exit with 3 when this method comes (repeatable); `initialize` covers server/discover too
    #[arg(long, value_name = "METHOD")]
    exit_on: Vec<String>,
    /// Exit right after the answer to initialize or server/discover
    #[arg(long)]
    exit_once_open: bool,
    /// Read nothing for so many milliseconds at the start (stdio)
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow_start: u64,
    /// Answer tools/list after so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow_list: u64,
    /// Print a banner and a stray JSON value to stdout before anything else (stdio)
    #[arg(long)]
    banner: bool,
    /// Begin stdout with a byte order mark (stdio)
    #[arg(long)]
    bom: bool,
    /// Describe `echo` differently in each list of tools
    #[arg(long)]
    changing: bool,
    /// List the tools of the chaos suite and of the tests under load too; they can be called in any case
    #[arg(long)]
    all: bool,
    /// Be so many shells deep below the process that was started
    #[arg(long, value_name = "N", default_value_t = 0)]
    wrapped: u32,
    /// Have a child that leaves the session and heeds no signal that can be ignored
    #[arg(long)]
    escapee: bool,
    /// Be such a child: serve nothing, and stay
    #[arg(long, conflicts_with_all = ["stdio", "listen"])]
    linger: bool,
    /// Be a legacy server that never answers server/discover
    #[arg(long)]
    silent_discover: bool,
    /// Be a legacy server that exits when its first message is server/discover (stdio)
    #[arg(long)]
    exit_on_discover: bool,
    /// The server's name
    #[arg(long, default_value = "misbehave")]
    name: String,
    /// Marks the process, and those it leaves behind, for whoever started it
    #[arg(long, value_name = "TEXT")]
    tag: Option<String>,
    /// Append a JSON line to this file for each message received and each stream closed early
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Give tools/list in pages of this many tools
    #[arg(long, value_name = "N")]
    pages: Option<NonZeroUsize>,
    /// Offer so many tools more, with names that clients cannot take as they are; each returns its name
    #[arg(long, value_name = "N", default_value_t = 0)]
    many: usize,
    /// Survive the end of stdin (stdio)
    #[arg(long)]
    ignore_eof: bool,
    /// Survive SIGTERM
    #[arg(long)]
    ignore_term: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Eras {
    Legacy,
    Modern,
    Both,
}

impl Options {
    /// The eras spoken, once the flags that make a legacy server are heeded.
    fn eras(&self) -> Eras {
        if self.silent_discover || self.exit_on_discover { Eras::Legacy } else { self.era }
    }

    /// Whether requests of this method are never answered.
    fn silences(&self, method: &str) -> bool {
        let never = |name: &str| self.never.iter().any(|silenced| silenced == name);
        never(method) || method == "server/discover" && (self.silent_discover || never("initialize"))
    }

    /// Whether the process ends when a message of this method comes.
    fn exits_on(&self, method: &str) -> bool {
        let named = |name: &str| self.exit_on.iter().any(|ending| ending == name);
        named(method) || method == "server/discover" && named("initialize")
    }

    fn refuses(&self, method: &str) -> bool {
        self.refuse.iter().any(|refused| refused == method)
    }

    fn stalls(&self, method: &str) -> bool {
        self.stall.iter().any(|stalled| stalled == method)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    if options.wrapped > 0 {
        return Err(descent::wrap(options.wrapped));
    }
    if options.ignore_term || options.linger {
        // Listening once replaces the default action for the life of the process.
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?);
    }
    if options.linger {
        descent::leave()?;
        return pending().await;
    }
    if options.escapee {
        descent::escape(options.tag.as_deref(), false)?;
    }
    tokio::time::sleep(Duration::from_millis(options.slow_start)).await;
    let (stdio, listen) = (options.stdio, options.listen);
    let server = Arc::new(server::Server::new(options)?);
    if stdio {
        stdio::serve(server).await
    } else {
        http::serve(server, listen.expect("clap requires it without --stdio")).await
    }
}
