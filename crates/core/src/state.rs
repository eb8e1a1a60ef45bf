//! What a daemon owns on its host: the state directory with its lock and store, and its own process.

pub use seawall_jobs::Holder;
use seawall_jobs::{StateLock, Store, StoreError};
pub use seawall_proc::{Detached, start_detached};
use std::{fs::Permissions, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path};
use tokio::fs;

/// The daemon that holds a state directory, if one does.
///
/// # Errors
/// When the directory cannot be read.
pub fn holder(directory: &Path) -> Result<Option<Holder>, String> {
    seawall_jobs::state::find(directory).map_err(|error| error.to_string())
}

/// Makes a directory for its owner alone, or closes an empty one to others, as the daemon does with its own: what is
/// put into a state directory before that must not open it.
///
/// # Errors
/// When it cannot be made or read.
pub async fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await?;
    if fs::read_dir(directory).await?.next_entry().await?.is_none() {
        fs::set_permissions(directory, Permissions::from_mode(0o700)).await?;
    }
    Ok(())
}

/// The state directory of a running daemon, locked for as long as this lives.
#[derive(Debug)]
pub struct State {
    lock: StateLock,
    store: Option<Store>,
}

impl State {
    /// Takes the directory, which no other daemon may hold, and opens the store. A store that cannot be opened for
    /// a reason that may pass is told in the log, and nothing is kept.
    ///
    /// # Errors
    /// Who holds the directory, or why the store must not be used.
    pub async fn take(directory: &Path) -> Result<Self, String> {
        let lock = StateLock::acquire(directory).map_err(|error| error.to_string())?;
        let store = match Store::open(&directory.join("store.db")).await {
            Ok(store) => Some(store),
            Err(error @ (StoreError::Newer { .. } | StoreError::Corrupt { .. })) => {
                return Err(error.to_string());
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be used; nothing will be remembered");
                None
            }
        };
        Ok(Self { lock, store })
    }

    /// The store, where there is one that works.
    pub fn store(&mut self) -> Option<Store> {
        self.store.take()
    }

    /// Tells others where the daemon is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self, address: SocketAddr) -> Result<(), String> {
        let holder = Holder::current(env!("CARGO_PKG_VERSION"), &address.to_string());
        holder.and_then(|holder| self.lock.publish(&holder)).map_err(|error| error.to_string())
    }

    /// Tells nobody any more.
    pub fn withdraw(&self) {
        self.lock.withdraw();
    }
}

/// The address of the daemon that holds a state directory, if one does.
///
/// # Errors
/// When the directory cannot be read.
pub fn find(directory: &Path) -> Result<Option<String>, String> {
    let holder = seawall_jobs::state::find(directory).map_err(|error| error.to_string())?;
    Ok(holder.map(|holder| holder.address))
}

/// Prepares the process for being a daemon: as many open files as the system allows, and processes that leave their
/// parent come to this one.
pub fn prepare_process() {
    if let Err(error) = seawall_proc::raise_open_files() {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    if let Err(error) = seawall_proc::become_subreaper() {
        tracing::warn!(%error, "processes that leave their parent will not be found");
    }
}
