//! The variables of each client, put into our own notation: `${VAR}` and `${VAR:-default}`, and `$${` for a
//! plain `${`. Only what the client itself would put in becomes a variable; the rest stays as it is written.

use std::path::Path;

/// A way to write a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `${VAR}`
    Plain,
    /// `${VAR:-default}`
    Fallback,
    /// `${env:VAR}`
    Env,
    /// `$VAR`
    Bare,
    /// `{env:VAR}` and `{file:PATH}`
    Braced,
    /// `${{ secrets.VAR }}`
    Secrets,
    /// `${workspaceFolder}`, `${userHome}` and the like.
    Places,
    /// `${input:ID}`
    Inputs,
    /// Whatever our own file takes.
    Ours,
}

/// The forms that a client knows.
pub(super) type Dialect = &'static [Form];

/// A value that a client asks its user for.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// What `${input:ID}` names.
    pub(super) id: String,
    /// What it is without an answer.
    pub(super) default: Option<String>,
}

impl Input {
    /// The variable that holds the answer for us, who have nobody to ask: the id in capitals.
    pub(super) fn variable(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = self.id.chars().map(plain).collect();
        if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
    }
}

/// What the words of a dialect stand for in one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// The project the file belongs to.
    pub(super) workspace: Option<&'a Path>,
    /// The answers that the file declares.
    pub(super) inputs: &'a [Input],
}

impl Words<'_> {
    /// A string of a client in our own notation.
    pub(super) fn translate(&self, text: &str, dialect: Dialect) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['$', '{']) {
            let (before, here) = rest.split_at(at);
            result.push_str(before);
            let (piece, used) = self.reference(here, dialect);
            result.push_str(&piece);
            rest = &here[used..];
        }
        result.push_str(rest);
        result
    }

    /// What stands for the beginning of this text, and how much of it that was.
    fn reference(&self, here: &str, dialect: Dialect) -> (String, usize) {
        let ours = dialect.contains(&Form::Ours);
        if ours && here.starts_with("$${") {
            return (String::from("$${"), 3);
        }
        if dialect.contains(&Form::Secrets)
            && let Some(inside) = here.strip_prefix("${{")
            && let Some((inside, _)) = inside.split_once("}}")
            && let Some(name) = inside.trim().strip_prefix("secrets.").filter(|name| is_name(name))
        {
            return (format!("${{{name}}}"), "${{".len() + inside.len() + "}}".len());
        }
        if let Some(inside) = here.strip_prefix("${") {
            let inside = inside.split_once('}').map(|(inside, _)| inside);
            return match inside.and_then(|inside| Some((self.braces(inside, dialect)?, inside.len() + 3))) {
                Some(known) => known,
                // Ours says itself what it makes of the rest.
                None if ours => (String::from("${"), 2),
                None => (String::from("$${"), 2),
            };
        }
        if let Some(inside) = here.strip_prefix('{')
            && dialect.contains(&Form::Braced)
            && let Some((inside, _)) = inside.split_once('}')
        {
            if let Some(name) = inside.strip_prefix("env:").filter(|name| is_name(name)) {
                return (format!("${{{name}}}"), inside.len() + 2);
            }
            if inside.starts_with("file:") {
                return (format!("${{{inside}}}"), inside.len() + 2);
            }
        }
        if let Some(after) = here.strip_prefix('$')
            && dialect.contains(&Form::Bare)
        {
            let name = &after[..after.find(|c| !of_name(c)).unwrap_or(after.len())];
            if is_name(name) {
                return (format!("${{{name}}}"), name.len() + 1);
            }
        }
        (here[..1].to_owned(), 1)
    }

    /// What stands for `${inside}`; `None` where the client leaves it as it is.
    fn braces(&self, inside: &str, dialect: Dialect) -> Option<String> {
        let knows = |form| dialect.contains(&form);
        let kept = || Some(format!("${{{inside}}}"));
        if let Some(name) = inside.strip_prefix("env:").filter(|name| is_name(name))
            && knows(Form::Env)
        {
            return Some(format!("${{{name}}}"));
        }
        if let Some(id) = inside.strip_prefix("input:")
            && knows(Form::Inputs)
        {
            // One that is not declared cannot be filled in, and is told.
            let Some(input) = self.inputs.iter().find(|input| input.id == id) else { return kept() };
            let fallback = input.default.as_ref().filter(|text| !text.contains(['}', '$']));
            let fallback = fallback.map(|text| format!(":-{text}")).unwrap_or_default();
            return Some(format!("${{{}{fallback}}}", input.variable()));
        }
        if knows(Form::Places) {
            let workspace = |part: fn(&Path) -> Option<String>| self.workspace.and_then(part).or_else(kept);
            match inside {
                "workspaceFolder" | "workspaceRoot" => {
                    return workspace(|path| Some(path.to_string_lossy().into_owned()));
                }
                "workspaceFolderBasename" => {
                    return workspace(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
                }
                "userHome" => return Some(String::from("${HOME}")),
                "pathSeparator" | "/" => return Some(String::from(std::path::MAIN_SEPARATOR_STR)),
                // The editor's own words, such as `command:`, which nothing here could fill in.
                _ if inside.contains(':') && !knows(Form::Ours) => return kept(),
                _ => {}
            }
        }
        let known = match inside.split_once(":-") {
            Some((name, _)) => knows(Form::Fallback) && is_name(name),
            None => knows(Form::Plain) && is_name(inside),
        };
        if known { kept() } else { None }
    }
}

/// Puts values that an entry itself declares in the place of their variables. A plain `${` becomes a variable,
/// for this is for strings that somebody reads who comes after the client.
pub(super) fn put_in(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let text = text.replace("$${", "${");
    let mut result = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, reference)) = rest.split_once("${") {
        result.push_str(before);
        let Some((name, after)) = reference.split_once('}') else {
            result.push_str("$${");
            rest = reference;
            continue;
        };
        match value(name) {
            Some(value) => result.push_str(&value),
            None => result.push_str(&format!("${{{name}}}")),
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

fn of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a variable can have this name.
fn is_name(name: &str) -> bool {
    name.chars().all(of_name) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}
