//! `seawall serve`: the daemon.

use super::{ConfigArguments, Exit, Failure, LogFormat, sources};
use crate::serve::{self, Front};
use clap::Args;
use seawall_core::{
    Gateway,
    config::{self, Config},
    life::Life,
    state::{self, State},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

/// How often configuration files are looked at for changes.
const LOOK: Duration = Duration::from_secs(1);

/// Run the daemon.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// How log records are written to standard error: text on a terminal; JSON lines otherwise.
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

/// A daemon that accepts connections.
pub(super) struct Daemon {
    /// The engine.
    pub gateway: Arc<Gateway>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    state: State,
}

impl Daemon {
    /// Takes the state directory, opens the store, listens, and begins to accept.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub(super) async fn start(config: Config) -> Result<Self, Failure> {
        let failed = |text: String| Failure::new(Exit::Failed, text);
        let mut state = State::take(&config.state).await.map_err(failed)?;
        state::prepare_process();
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            failed(format!("cannot listen on {}: {error}; set `listen` to a free address", config.listen))
        })?;
        let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
        let gateway = Gateway::new(Arc::new(config), state.store(), Life::default())
            .await
            .map_err(|faults| Failure::new(Exit::BadConfiguration, faults.join("\n")))?;
        state.publish(address).map_err(failed)?;
        serve::accept(listener, Front::new(Arc::clone(&gateway), address));
        Ok(Self { gateway, address, state })
    }

    /// Drains and ends; a second signal ends at once.
    pub(crate) async fn end(self, signals: &mut Signals) {
        self.state.withdraw();
        let grace = self.gateway.config().grace;
        let ending = self.gateway.end(grace);
        tokio::select! {
            left = ending => {
                if left > 0 {
                    tracing::warn!(left, "some tasks did not end within the grace");
                }
            }
            () = signals.stop() => tracing::warn!("told to stop a second time: ending at once"),
        }
    }
}

/// The signals a daemon listens to, from before it does anything else.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("signals cannot be listened to: {error}"))
            })
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// Completes at SIGTERM or SIGINT. Cancel-safe.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let loaded = sources::load(&arguments.config).await?;
    let logging = serve::log::start(arguments.log_format, &loaded.config.state).await?;
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    log_chains(&loaded.config);
    let upstreams = loaded.config.upstreams.len();
    let daemon = Daemon::start(loaded.config).await?;
    logging.write_calls(&daemon.gateway);
    tracing::info!(address = %daemon.address, upstreams, "ready: http://{}/mcp", daemon.address);
    keep_up(&daemon, &arguments.config, loaded.files, &mut signals).await;
    tracing::info!("stopping");
    daemon.end(&mut signals).await;
    Ok(Exit::Done)
}

/// Tells the time-outs around the calls of each server that is used.
fn log_chains(config: &Config) {
    for server in config.upstreams.iter().filter(|server| server.enabled) {
        tracing::info!("time-outs of server {:?}: {}", server.name, config::chain(config, server, None));
    }
}

/// Takes a new configuration when its files change or at SIGHUP, whole or not at all, until told to stop.
async fn keep_up(
    daemon: &Daemon,
    arguments: &ConfigArguments,
    mut seen: Vec<sources::Seen>,
    signals: &mut Signals,
) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hang_up.recv() => {}
            () = sleep(LOOK) => {
                let now = again(&seen).await;
                if now == seen {
                    continue;
                }
                seen = now;
            }
        }
        match sources::load(arguments).await {
            Ok(loaded) => {
                let old = daemon.gateway.config();
                if old.listen != loaded.config.listen || old.state != loaded.config.state {
                    tracing::warn!("`listen` and `state` take effect at the next start");
                }
                let config = Config { listen: old.listen, state: old.state.clone(), ..loaded.config };
                match daemon.gateway.reload(&Arc::new(config)) {
                    Ok(()) => {
                        tracing::info!("the configuration was read anew");
                        log_chains(&daemon.gateway.config());
                    }
                    Err(faults) => tracing::error!("the old configuration stays: {}", faults.join("; ")),
                }
                seen = loaded.files;
            }
            Err(failure) => tracing::error!("the old configuration stays: {failure}"),
        }
    }
}

/// The files as they are now.
async fn again(files: &[sources::Seen]) -> Vec<sources::Seen> {
    let mut now = Vec::with_capacity(files.len());
    for file in files {
        now.push(file.again().await);
    }
    now
}
