//! A copy of the workspace's source that can be broken: kept up to date file by file, so that what was built from
//! it stays of use.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::guards::Guard;
use crate::process::{cargo, run_captured};
use crate::rig::at;

#[derive(Debug)]
pub(super) struct SourceCopy {
    original: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

impl SourceCopy {
    /// Brings the copy in `directory` up to date with the files of `original` that git knows or would take.
    pub(super) fn synced(original: &Path, directory: &Path) -> Result<Self, String> {
        let copy = Self {
            original: original.to_owned(),
            source: directory.join("source"),
            target: directory.join("target"),
        };
        fs::create_dir_all(&copy.source).map_err(at(&copy.source))?;
        let mut list = Command::new("git");
        list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(original);
        let files = run_captured(&mut list)?;
        let mut wanted: BTreeSet<PathBuf> =
            files.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        // Git still knows what was deleted and not committed.
        wanted.retain(|file| original.join(file).is_file());
        for file in &wanted {
            copy.restore(file)?;
        }
        let mut there = Vec::new();
        files_below(&copy.source, &mut there)?;
        for file in there {
            let known = file.strip_prefix(&copy.source).is_ok_and(|name| wanted.contains(name));
            if !known {
                fs::remove_file(&file).map_err(at(&file))?;
            }
        }
        Ok(copy)
    }

    /// Makes one file of the copy like the original, and leaves it alone where it is.
    fn restore(&self, file: &Path) -> Result<(), String> {
        let (from, to) = (self.original.join(file), self.source.join(file));
        let original = fs::read(&from).map_err(at(&from))?;
        match fs::read(&to) {
            Ok(copy) if copy == original => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = to.parent().unwrap_or(&self.source);
                fs::create_dir_all(directory).map_err(at(directory))?;
            }
            Err(error) => return Err(at(&to)(error)),
        }
        fs::copy(&from, &to).map(drop).map_err(at(&to))
    }

    /// Takes a guard out, for as long as what is returned lives.
    pub(super) fn without(&self, guard: &'static Guard) -> Result<Broken<'_>, String> {
        let file = self.source.join(guard.file);
        let text = fs::read_to_string(&file).map_err(at(&file))?;
        let broken = without(&text, guard)?;
        let restored = Broken { copy: self, guard };
        fs::write(&file, broken).map_err(at(&file))?;
        Ok(restored)
    }

    /// A cargo command for the copy, which builds into a directory of its own.
    pub(super) fn cargo(&self, verb: &str) -> Command {
        let mut command = cargo();
        command.arg(verb).arg("--target-dir").arg(&self.target).current_dir(&self.source);
        command
    }

    /// The `seawall` that was last built from the copy.
    pub(super) fn seawall(&self) -> PathBuf {
        self.target.join("debug/seawall")
    }
}

/// A copy with a guard taken out. Dropped, it has the guard again.
#[derive(Debug)]
pub(super) struct Broken<'a> {
    copy: &'a SourceCopy,
    guard: &'static Guard,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        // What stays broken is found and made whole by the next run.
        if let Err(why) = self.copy.restore(Path::new(self.guard.file)) {
            eprintln!("xtask: {}: {why}", self.guard.name);
        }
    }
}

/// A file's text without the guard.
pub(super) fn without(text: &str, guard: &Guard) -> Result<String, String> {
    match text.matches(guard.before).count() {
        1 => Ok(text.replacen(guard.before, guard.after, 1)),
        count => Err(format!(
            "the text that makes the guard is {count} times in {}, not once; bring the list in \
             xtask/src/chaos/guards.rs up to date",
            guard.file
        )),
    }
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let entry = entry.map_err(at(directory))?;
        let path = entry.path();
        if entry.file_type().map_err(at(&path))?.is_dir() {
            files_below(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
