//! `seawall wrap`: one command that speaks MCP over its stdin and stdout, as an HTTP endpoint.

use super::{
    Exit, Failure,
    serve::{Daemon, Signals},
};
use crate::serve::log;
use clap::Args;
use seawall_core::config::{self, Config, Source, Sources, tame_name};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::net::TcpListener;

/// Where it listens when nothing else is asked for and nothing else does.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8079);
/// Programs that run a package, which says more than they do about what is wrapped.
const RUNNERS: [&str; 7] = ["bunx", "docker", "npx", "pipx", "pnpx", "podman", "uvx"];
/// Words that stand between such a program and the package.
const RUNNERS_VERBS: [&str; 2] = ["exec", "run"];

/// Serve a command that speaks MCP over stdin and stdout at an HTTP address, until Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The server's name; without it, one made from the command.
    #[arg(long)]
    name: Option<String>,
    /// Where to listen; without it, 127.0.0.1:8079, or another port where that is taken.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Who shares one process of the command.
    #[arg(long, value_parser = ["session", "caller", "everyone", "call"], default_value = "session")]
    sharing: String,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    // Its own, so that it stands in no daemon's way.
    let state = std::env::temp_dir().join(format!("seawall-wrap-{}", random()?));
    let done = Box::pin(serve(&arguments, &state, &mut signals)).await;
    // Where it cannot be removed it is the system's to clean, as all there is in that directory.
    drop(tokio::fs::remove_dir_all(&state).await);
    done
}

async fn serve(arguments: &Arguments, state: &Path, signals: &mut Signals) -> Result<Exit, Failure> {
    let name = arguments.name.clone().unwrap_or_else(|| name_of(&arguments.command));
    let listen = match arguments.listen {
        Some(listen) => listen,
        None => match TcpListener::bind(USUAL).await {
            Ok(_) => USUAL,
            Err(_) => SocketAddr::new(USUAL.ip(), 0),
        },
    };
    let config = configuration(arguments, &name, listen, state)?;
    let logging = log::start(None, &config.state).await?;
    let daemon = Daemon::start(config).await?;
    logging.write_calls(&daemon.gateway);
    say!("Point a client at http://{}/mcp/{name}; Ctrl-C ends it.", daemon.address);
    signals.stop().await;
    daemon.end(signals).await;
    Ok(Exit::Done)
}

/// The embedded defaults with one server.
fn configuration(
    arguments: &Arguments,
    name: &str,
    listen: SocketAddr,
    state: &Path,
) -> Result<Config, Failure> {
    // The shell has put in what variables there were: what is left of the form is meant as it stands.
    let words: Vec<String> = arguments.command.iter().map(|word| word.replace("${", "$${")).collect();
    let (command, args) =
        words.split_first().map_or(("", &[][..]), |(command, args)| (command.as_str(), args));
    // A JSON string is a TOML string, too.
    let text = format!(
        "listen = \"{listen}\"\ngrace = \"0s\"\n\n[servers.{}]\ncommand = {}\nargs = {}\nsharing = {}\n",
        json!(name),
        json!(command),
        json!(args),
        json!(arguments.sharing)
    );
    let sources = Sources {
        own: Some(Source { path: PathBuf::from("the configuration of `seawall wrap`"), text }),
        foreign: Vec::new(),
        environment: &|_| None,
        overrides: Vec::new(),
        state_default: state.to_path_buf(),
        base: PathBuf::new(),
    };
    let (config, _) = config::lower(&sources).map_err(|faults| {
        let details = faults.iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect();
        Failure { details, ..Failure::new(Exit::BadConfiguration, "this cannot be wrapped") }
    })?;
    Ok(config)
}

/// A name for what a command runs: that of the program, or of the package where the program only runs one.
fn name_of(command: &[String]) -> String {
    let stem = |word: &str| {
        let word = word.rsplit('/').next().unwrap_or_default();
        // A package's version, an image's tag, a script's extension.
        let end = word.find(['@', ':', '=']).unwrap_or(word.len());
        let word = &word[..end];
        word.strip_suffix(".py").or_else(|| word.strip_suffix(".js")).unwrap_or(word).to_owned()
    };
    let program = command.first().map(|program| stem(program)).unwrap_or_default();
    let package = command
        .iter()
        .skip(1)
        .filter(|_| RUNNERS.contains(&program.as_str()))
        .find(|word| !word.starts_with('-') && !RUNNERS_VERBS.contains(&word.as_str()));
    tame_name(&package.map_or(program, |package| stem(package)))
}

/// 128 random bits as hex.
fn random() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Failed, format!("the kernel gave no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_core::config::{Kind, Sharing};

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_server_is_named_after_what_is_run() {
        for (line, name) in [
            ("/usr/local/bin/mcp-time --utc", "mcp-time"),
            ("npx -y @modelcontextprotocol/server-everything@1.2.3", "server-everything"),
            ("uvx mcp-server-time==2.0", "mcp-server-time"),
            ("docker run -i --rm ghcr.io/acme/tool.kit:latest", "tool_kit"),
            ("./servers/weather.py", "weather"),
            ("npx", "npx"),
        ] {
            assert_eq!(name_of(&words(line)), name, "{line}");
        }
    }

    #[test]
    fn a_command_is_run_as_the_shell_left_it() {
        let arguments = Arguments {
            name: None,
            listen: None,
            sharing: String::from("everyone"),
            command: [r#"run"it"#, "${HOME}", "$${x", "a\\b\n"].map(String::from).to_vec(),
        };
        let config = configuration(&arguments, "it", USUAL, Path::new("/nowhere")).unwrap();
        let server = &config.upstreams[0];
        assert_eq!(server.sharing, Sharing::Everyone);
        let Kind::Stdio { command, args, .. } = &server.kind else { panic!("{server:?}") };
        assert_eq!((command.as_str(), args), (r#"run"it"#, &arguments.command[1..].to_vec()));
    }
}
