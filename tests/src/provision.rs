//! What `cargo xtask provision` has fetched for the tests.

use std::path::{Path, PathBuf};

/// The path of something below the provisioned programs.
///
/// # Panics
/// When it is not there.
pub fn provisioned(below: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it lies in the workspace");
    let root = std::env::var_os("SEAWALL_PROVISION").map(PathBuf::from);
    let path = root.unwrap_or_else(|| workspace.join("target/provision")).join(below);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`, which provisions the servers and clients",
        path.display()
    );
    path.into_os_string().into_string().expect("paths of builds are UTF-8")
}
