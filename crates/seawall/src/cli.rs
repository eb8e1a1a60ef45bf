//! The command line: what can be typed, and how it exits.

/// Prints a line on standard output. A reader that has gone, as in `seawall tools | head`, is no fault.
macro_rules! say {
    ($($piece:tt)*) => {{
        use std::io::Write;
        drop(writeln!(std::io::stdout(), $($piece)*));
    }};
}

mod add;
mod call;
mod calls;
mod check;
mod completions;
mod connect;
mod daemon;
pub(crate) mod demo;
mod doctor;
mod explain;
mod import;
mod init;
mod login;
mod logout;
mod logs;
mod own_file;
mod restart;
mod serve;
mod sources;
mod status;
mod stdio;
mod switch;
mod token;
mod tools;
mod top;
mod try_out;
mod wrap;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

/// A gateway through which agents reach every tool, and every call comes back.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `seawall` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Serve(serve::Arguments),
    /// See it work: a daemon with a small built-in server, and three calls through it.
    Try(try_out::Arguments),
    /// Make a token for a caller.
    Token(token::Arguments),
    /// Check the configuration and print what it comes to.
    Check(check::Arguments),
    /// List the tools of the running daemon, see what changed of their definitions, and accept that.
    Tools(tools::Arguments),
    /// Call a tool of the running daemon.
    Call(call::Arguments),
    /// Write a configuration to start from.
    Init(init::Arguments),
    /// Take over the servers of other clients' configurations.
    Import(import::Arguments),
    /// Add a server, once it has been seen to work.
    Add(add::Arguments),
    /// Point a client at Seawall, or undo it.
    Connect(connect::Arguments),
    /// Serve MCP over stdin and stdout by the running daemon, started if there is none.
    Stdio(stdio::Arguments),
    /// Show upstreams, instances and calls of the running daemon.
    Status(status::Arguments),
    /// Watch servers, scopes and calls of the running daemon.
    Top(top::Arguments),
    /// Show what an upstream's processes wrote to standard error.
    Logs(logs::Arguments),
    /// End an upstream's instances; the next call starts new ones.
    Restart(OneServer),
    /// Switch a server off, until it is enabled again; its calls end.
    Disable(OneServer),
    /// Switch a server on again that was disabled.
    Enable(OneServer),
    /// Log in at an upstream that wants it.
    Login(login::Arguments),
    /// Forget the login at an upstream.
    Logout(OneServer),
    /// Show where a tool comes from, what bounds a call of it, and who may make one.
    Explain(explain::Arguments),
    /// Check what a working daemon needs, and say what mends what is missing.
    Doctor(doctor::Arguments),
    /// Serve a command that speaks MCP over stdin and stdout at an HTTP address; `seawall -- COMMAND` for short.
    Wrap(wrap::Arguments),
    /// Print the script that lets a shell complete this program's command line.
    Completions(completions::Arguments),
    /// The built-in server of `seawall try`, over stdin and stdout.
    #[command(hide = true)]
    DemoServer,
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigArguments {
    /// The configuration file; without it, seawall.toml here or in $XDG_CONFIG_HOME/seawall.
    #[arg(long, value_name = "FILE", env = "SEAWALL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Another client's configuration with `mcpServers`, used as it is; may be given more than once.
    #[arg(long, value_name = "FILE")]
    pub mcp_config: Vec<PathBuf>,
}

/// How to reach the running daemon.
#[derive(Clone, Debug, Args)]
pub(crate) struct DaemonArguments {
    /// Where the configuration is, which says where the daemon's state is.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The token to call with.
    #[arg(long, env = "SEAWALL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A server of the running daemon, and how what was done to it is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct OneServer {
    #[command(flatten)]
    pub daemon: DaemonArguments,
    /// The server.
    pub name: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// How log records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the program ends; documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// It could not, and said why.
    Failed = 1,
    /// The configuration or the command line is wrong.
    BadConfiguration = 2,
    /// No daemon is running, or it cannot be reached.
    NoDaemon = 3,
    /// The call was made and ended in a fault or in the tool's own error.
    CallFailed = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what it was asked: how to exit, and what to say.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How to exit.
    pub exit: Exit,
    /// What to say on standard error, without the program's name.
    pub message: String,
    /// What to say besides, a line each.
    pub details: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.details.iter().try_for_each(|detail| write!(f, "\n{detail}"))
    }
}

impl Failure {
    /// A failure of this kind.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new() }
    }
}

/// Runs a command to its end.
pub(crate) async fn run(cli: Cli) -> Exit {
    let done = match cli.command {
        Command::Serve(arguments) => Box::pin(serve::run(arguments)).await,
        Command::Try(arguments) => Box::pin(try_out::run(arguments)).await,
        Command::Token(arguments) => token::run(&arguments),
        Command::Check(arguments) => check::run(arguments).await,
        Command::Tools(arguments) => tools::run(arguments).await,
        Command::Call(arguments) => call::run(arguments).await,
        Command::Init(arguments) => init::run(arguments).await,
        Command::Import(arguments) => Box::pin(import::run(arguments)).await,
        Command::Add(arguments) => Box::pin(add::run(arguments)).await,
        Command::Connect(arguments) => Box::pin(connect::run(arguments)).await,
        Command::Stdio(arguments) => Box::pin(stdio::run(arguments)).await,
        Command::Status(arguments) => status::run(arguments).await,
        Command::Top(arguments) => Box::pin(top::run(arguments)).await,
        Command::Logs(arguments) => logs::run(arguments).await,
        Command::Restart(arguments) => restart::run(arguments).await,
        Command::Disable(arguments) => switch::run(arguments, false).await,
        Command::Enable(arguments) => switch::run(arguments, true).await,
        Command::Login(arguments) => login::run(arguments).await,
        Command::Logout(arguments) => logout::run(arguments).await,
        Command::Explain(arguments) => explain::run(arguments).await,
        Command::Doctor(arguments) => Box::pin(doctor::run(arguments)).await,
        Command::Wrap(arguments) => Box::pin(wrap::run(arguments)).await,
        Command::Completions(arguments) => completions::run(&arguments),
        Command::DemoServer => Ok(Exit::Done),
    };
    match done {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("seawall: {failure}");
            failure.exit
        }
    }
}
