//! Finding and reading configuration files.

use super::{ConfigArguments, Exit, Failure};
use seawall_core::config::{self, Config, Note, Source, Sources};
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};
use tokio::fs;

/// A configuration, and the files it was made from.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Remarks that refuse nothing.
    pub notes: Vec<Note>,
    /// Every file that was read, as it was before it was read: what is written meanwhile is another.
    pub files: Vec<Seen>,
}

/// A file, and how it was when it was looked at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    path: PathBuf,
    /// When it was last written, and how long it is; `None` where it is not there.
    stamp: Option<(SystemTime, u64)>,
}

impl Seen {
    async fn look(path: &Path) -> Self {
        let stamp = fs::metadata(path).await.ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        Self { path: path.to_path_buf(), stamp }
    }

    /// The same file as it is now.
    pub(super) async fn again(&self) -> Self {
        Self::look(&self.path).await
    }
}

/// Finds, reads and checks the configuration.
///
/// # Errors
/// Every fault there is, a line each.
pub(super) async fn load(arguments: &ConfigArguments) -> Result<Loaded, Failure> {
    load_from(arguments, Some(PathBuf::from("."))).await
}

/// The same without a look into the working directory: where another program chose it, what lies there may be
/// anybody's.
///
/// # Errors
/// Every fault there is, a line each.
pub(super) async fn load_elsewhere(arguments: &ConfigArguments) -> Result<Loaded, Failure> {
    load_from(arguments, None).await
}

async fn load_from(arguments: &ConfigArguments, here: Option<PathBuf>) -> Result<Loaded, Failure> {
    let own = match &arguments.config {
        Some(path) => Some(read(path).await?),
        None => find(here).await?,
    };
    let (own, mut files) = match own {
        Some((own, seen)) => (Some(own), vec![seen]),
        None => (None, Vec::new()),
    };
    let base = own.as_ref().and_then(|own| own.path.parent()).map_or_else(PathBuf::new, Path::to_path_buf);
    let imports = own.as_ref().map_or_else(Vec::new, |own| config::imports(own, &base));
    let mut foreign = Vec::new();
    for path in arguments.mcp_config.iter().chain(&imports) {
        let (source, seen) = read(path).await?;
        foreign.push(source);
        files.push(seen);
    }
    let sources = Sources {
        own,
        foreign,
        environment: &|name| std::env::var(name).ok(),
        overrides: overrides(),
        state_default: state_directory()?,
        base,
    };
    let (config, notes) = config::lower(&sources).map_err(|faults| {
        let details: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let count =
            if details.len() == 1 { "one fault".to_owned() } else { format!("{} faults", details.len()) };
        let message = format!("the configuration has {count}");
        Failure { details, ..Failure::new(Exit::BadConfiguration, message) }
    })?;
    Ok(Loaded { config, notes, files })
}

async fn find(here: Option<PathBuf>) -> Result<Option<(Source, Seen)>, Failure> {
    let home = directory("XDG_CONFIG_HOME", ".config").map(|config| config.join("seawall"));
    for directory in [here, home].into_iter().flatten() {
        let path = directory.join("seawall.toml");
        if fs::try_exists(&path).await.unwrap_or(false) {
            return read(&path).await.map(Some);
        }
    }
    Ok(None)
}

async fn read(path: &Path) -> Result<(Source, Seen), Failure> {
    let seen = Seen::look(path).await;
    let text = fs::read_to_string(path).await.map_err(|error| {
        Failure::new(Exit::BadConfiguration, format!("{} could not be read: {error}", path.display()))
    })?;
    Ok((Source { path: path.to_path_buf(), text }, seen))
}

fn overrides() -> Vec<(String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with("SEAWALL_")).collect()
}

/// Where state is kept when nothing says otherwise.
pub(super) fn state_directory() -> Result<PathBuf, Failure> {
    directory("XDG_STATE_HOME", ".local/state").map(|state| state.join("seawall")).ok_or_else(|| {
        let text = "there is no home directory to keep state in; set HOME or XDG_STATE_HOME, or `state` in seawall.toml";
        Failure::new(Exit::BadConfiguration, text)
    })
}

/// An XDG base directory: the variable where it holds an absolute path, else its default under the home.
fn directory(variable: &str, under_home: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(under_home)))
}
