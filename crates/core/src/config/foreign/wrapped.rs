//! Programs that only start another one, or only speak to a URL.

use std::path::Path;

/// A URL that a program of its own bridges to.
#[derive(Debug)]
pub(super) struct Bridged {
    pub(super) url: String,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
}

/// Takes `cmd /c` away from the front of a command.
pub(super) fn without_shell(command: String, mut args: Vec<String>) -> (String, Vec<String>) {
    let shell = matches!(command.to_ascii_lowercase().as_str(), "cmd" | "cmd.exe");
    if shell && args.len() > 1 && args[0].eq_ignore_ascii_case("/c") {
        args.remove(0);
        let command = args.remove(0);
        return (command, args);
    }
    (command, args)
}

/// What `npx mcp-remote URL` connects to.
pub(super) fn bridged(command: &str, args: &[String]) -> Option<Bridged> {
    const BRIDGE: &str = "mcp-remote";
    let program = Path::new(command).file_stem()?.to_str()?;
    let is_bridge = |word: &str| word == BRIDGE || word.starts_with("mcp-remote@");
    let mut words = args.iter().map(String::as_str);
    if program != BRIDGE {
        let starts_packages = matches!(program, "npx" | "bunx" | "pnpx");
        if !starts_packages || !is_bridge(words.find(|word| !word.starts_with('-'))?) {
            return None;
        }
    }
    let (mut url, mut headers) = (None, Vec::new());
    while let Some(word) = words.next() {
        if word == "--header" {
            let (name, value) = words.next()?.split_once(':')?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        } else if url.is_none() && (word.starts_with("http://") || word.starts_with("https://")) {
            url = Some(word.to_owned());
        }
    }
    Some(Bridged { url: url?, headers })
}
