//! `seawall init`: a configuration to start from.

use super::{
    Exit, Failure,
    own_file::{OwnFile, location},
};
use clap::Args;
use seawall_core::config;
use serde_json::json;
use std::path::PathBuf;

/// What stands above the defaults.
const TITLE: &str = "# The configuration of Seawall. `seawall check` says what it comes to.\n#\n";

/// Write a configuration to start from, with every key and its default as comments.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file to write; without it, seawall.toml in $XDG_CONFIG_HOME/seawall.
    #[arg(long, value_name = "FILE", env = "SEAWALL_CONFIG")]
    config: Option<PathBuf>,
    /// Overwrite the file that is there.
    #[arg(long)]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let path = location(arguments.config.as_deref())?;
    let mut own = OwnFile::replace(&path).await?;
    if own.exists() && !arguments.force {
        let text = format!("{} is there already; --force overwrites it", path.display());
        return Err(Failure::new(Exit::Failed, text));
    }
    let replaced = own.exists();
    own.set_text(format!("{TITLE}{}", config::DEFAULT));
    own.save().await?;
    if arguments.json {
        say!("{}", json!({"file": path, "replaced": replaced}));
        return Ok(Exit::Done);
    }
    say!("Wrote {}.\n", path.display());
    // A file in an unusual place has to be named.
    let named = arguments.config.map(|path| format!(" --config {}", path.display())).unwrap_or_default();
    say!("Next:");
    say!("  seawall import{named}    use the servers of the clients on this machine");
    say!("  seawall serve{named}     run the daemon");
    Ok(Exit::Done)
}
