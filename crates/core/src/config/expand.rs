//! Variables in the strings of servers: `${VAR}`, `${env:VAR}` and `${VAR:-default}`. `$${` stands for a
//! plain `${`.

/// A string after its variables were put in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// The result; what could not be expanded stands in it as it was written.
    pub(super) text: String,
    /// Variables that are unset and have no default.
    pub(super) needs: Vec<String>,
    /// What stands between `${` and `}` without being a variable, such as `input:token`.
    pub(super) strange: Vec<String>,
    /// Whether a `${` is never closed.
    pub(super) unclosed: bool,
}

impl Expanded {
    /// Whether nothing is left to be filled in.
    pub(super) fn complete(&self) -> bool {
        self.needs.is_empty() && self.strange.is_empty() && !self.unclosed
    }
}

/// Puts variables in. A default is used where the variable is unset or empty, as in a shell.
pub(super) fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Expanded {
    let mut expanded = Expanded::default();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            expanded.text.push_str(before);
            expanded.text.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.text.push_str(before);
        let Some(end) = reference.find('}') else {
            expanded.unclosed = true;
            rest = reference;
            break;
        };
        let (whole, after) = reference.split_at(end + 1);
        let inside = &reference[2..end];
        match variable(inside) {
            Some((name, default)) => match (environment(name), default) {
                (Some(value), None) => expanded.text.push_str(&value),
                (Some(value), Some(_)) if !value.is_empty() => expanded.text.push_str(&value),
                (_, Some(default)) => expanded.text.push_str(default),
                (None, None) => {
                    expanded.needs.push(name.to_owned());
                    expanded.text.push_str(whole);
                }
            },
            None => {
                expanded.strange.push(inside.to_owned());
                expanded.text.push_str(whole);
            }
        }
        rest = after;
    }
    expanded.text.push_str(rest);
    expanded
}

/// The name and the default in what stands between the braces.
fn variable(inside: &str) -> Option<(&str, Option<&str>)> {
    let plain = inside.strip_prefix("env:").unwrap_or(inside);
    let (name, default) = match plain.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (plain, None),
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let good = name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit());
    // A default with a variable of its own would end at the wrong brace.
    let nested = default.is_some_and(|default| default.contains("${"));
    (good && !nested).then_some((name, default))
}
