//! Files that belong to somebody else: read whole, and replaced in one step only while they are what was read.

use sha2::{Digest as _, Sha256};
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};

/// The mode of a file that did not exist before.
pub(crate) const PRIVATE: u32 = 0o600;
/// How long to wait for another program's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A file as it was when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The file itself: what symbolic links lead to.
    pub path: PathBuf,
    /// What it holds; `None` where there is no such file.
    pub bytes: Option<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
    owner: Option<(u32, u32)>,
}

impl Snapshot {
    /// A file that is not there; a new one is its owner's alone.
    pub(crate) fn missing(path: PathBuf) -> Self {
        Self { path, bytes: None, mode: PRIVATE, owner: None }
    }

    /// Its text; empty where there is no such file.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub(crate) fn text(&self) -> Result<&str, String> {
        std::str::from_utf8(self.bytes.as_deref().unwrap_or_default())
            .map_err(|_| format!("{} is not UTF-8 text; it is left as it is", self.path.display()))
    }

    /// The same file, holding something else.
    pub(crate) fn holding(&self, bytes: Option<Vec<u8>>) -> Self {
        Self { bytes, ..self.clone() }
    }
}

/// The SHA-256 of what a file holds, in hex; `None` for no file.
pub(crate) fn digest(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a file, or notes that there is none.
///
/// # Errors
/// When it cannot be read, or is no file.
pub(crate) async fn read(path: &Path) -> Result<Snapshot, String> {
    let wrong = |text: String| format!("{} {text}", path.display());
    let target = match fs::canonicalize(path).await {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).await.is_ok() {
                return Err(wrong("is a symbolic link to a file that does not exist".to_owned()));
            }
            let path = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
            return Ok(Snapshot::missing(path));
        }
        Err(error) => return Err(wrong(format!("could not be read: {error}"))),
    };
    let metadata =
        fs::metadata(&target).await.map_err(|error| wrong(format!("could not be read: {error}")))?;
    if !metadata.is_file() {
        return Err(wrong("is no file".to_owned()));
    }
    let bytes = fs::read(&target).await.map_err(|error| wrong(format!("could not be read: {error}")))?;
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, Some((metadata.uid(), metadata.gid())));
    Ok(Snapshot { path: target, bytes: Some(bytes), mode, owner })
}

/// Puts other bytes in the place of a file, or none, in one step. Owner and links stay.
///
/// # Errors
/// When the file is not what was read any more, or cannot be written. Nothing is changed then.
pub(crate) async fn replace(before: &Snapshot, bytes: Option<&[u8]>, mode: u32) -> Result<(), String> {
    let path = &before.path;
    let wrong = |error: std::io::Error| format!("{} could not be written: {error}", path.display());
    let Some(bytes) = bytes else {
        unchanged(before).await?;
        return match fs::remove_file(path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(wrong(error)),
            _ => Ok(()),
        };
    };
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(directory).await.map_err(wrong)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // No client reads a name that ends like this.
    let temporary = directory.join(format!(".{name}.{}.seawall-new", std::process::id()));
    let written = async {
        write_new(&temporary, bytes, mode, before.owner).await.map_err(wrong)?;
        unchanged(before).await?;
        fs::rename(&temporary, path).await.map_err(wrong)
    }
    .await;
    if written.is_err() {
        // Where it was never made there is nothing to remove.
        let _ = fs::remove_file(&temporary).await;
        return written;
    }
    // The rename is done; that it outlives a power cut is all that is left to ask for.
    if let Ok(directory) = fs::File::open(directory).await {
        let _ = directory.sync_all().await;
    }
    Ok(())
}

async fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path).await?;
    file.write_all(bytes).await?;
    // What the write itself met is told here, and only here.
    file.flush().await?;
    if let Some((user, group)) = owner {
        let metadata = file.metadata().await?;
        if (metadata.uid(), metadata.gid()) != (user, group) {
            std::os::unix::fs::chown(path, Some(user), Some(group))?;
        }
    }
    // After the owner: a change of owner takes some of the bits away.
    file.set_permissions(Permissions::from_mode(mode)).await?;
    file.sync_all().await
}

async fn unchanged(before: &Snapshot) -> Result<(), String> {
    let now = match fs::read(&before.path).await {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{} could not be read: {error}", before.path.display())),
    };
    if digest(now.as_deref()) == digest(before.bytes.as_deref()) {
        return Ok(());
    }
    Err(format!("{} was changed in the meantime; nothing was written, try again", before.path.display()))
}

/// A lock directory beside a file, as some clients take it. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Lock {
    directory: PathBuf,
}

impl Lock {
    /// Takes the lock of a file.
    ///
    /// # Errors
    /// When another program holds it for too long.
    pub(crate) async fn take(file: &Path) -> Result<Self, String> {
        let mut directory = file.as_os_str().to_owned();
        directory.push(".lock");
        let directory = PathBuf::from(directory);
        if let Some(parent) = file.parent() {
            let made = fs::create_dir_all(parent).await;
            made.map_err(|error| format!("{} could not be made: {error}", parent.display()))?;
        }
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match fs::create_dir(&directory).await {
                Ok(()) => return Ok(Self { directory }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{} could not be made: {error}", directory.display())),
            }
            if Instant::now() >= deadline {
                let text = "is held by another program; close it, or remove the directory if none runs";
                return Err(format!("{} {text}", directory.display()));
            }
            sleep(LOCK_PAUSE).await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever removed it in the meantime did what was to be done.
        let _ = std::fs::remove_dir(&self.directory);
    }
}
