//! `misbehave`: one MCP server that does bad things on request, over stdio or streamable HTTP, in either era.
//!
//! It is well-behaved until a tool or a flag says otherwise, so that a test sees one misdeed at a time.
#![expect(
    clippy::disallowed_methods,
    reason = "a fixture spawns its own tasks, and dying at once is one of its jobs"
)]
#![expect(clippy::print_stdout, reason = "the address goes to stdout")]

mod http;
mod server;
mod stdio;
mod tools;
mod wire;

use clap::Parser;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// An MCP server that does bad things on request.
#[derive(Debug, Parser)]
struct Options {
    /// Serve stdin and stdout
    #[arg(long, conflicts_with = "listen")]
    stdio: bool,
    /// Serve streamable HTTP at /mcp on this address; port 0 picks a free one, which is printed
    #[arg(long, required_unless_present = "stdio")]
    listen: Option<SocketAddr>,
    /// The eras to speak; on stdio, `both` follows the first message
    #[arg(long, value_enum, default_value = "both")]
    era: Eras,
    /// Never answer this method (repeatable); `initialize` covers server/discover too
    #[arg(long, value_name = "METHOD")]
    never: Vec<String>,
    /// Be a legacy server that never answers server/discover
    #[arg(long)]
    silent_discover: bool,
    /// Be a legacy server that exits when its first message is server/discover (stdio)
    #[arg(long)]
    exit_on_discover: bool,
    /// The server's name
    #[arg(long, default_value = "misbehave")]
    name: String,
    /// Ignored; marks the process for whoever started it
    #[arg(long = "tag", value_name = "TEXT")]
    _tag: Option<String>,
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
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::parse();
    if options.ignore_term {
        // Listening once replaces the default action for the life of the process.
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?);
    }
    let (stdio, listen) = (options.stdio, options.listen);
    let server = Arc::new(server::Server::new(options)?);
    if stdio {
        stdio::serve(server).await
    } else {
        http::serve(server, listen.expect("clap requires it without --stdio")).await
    }
}
