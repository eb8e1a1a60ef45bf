//! The names tools have where every upstream's are listed together: `server__tool`, in the letters and the length
//! that every client's own prefix leaves room for.

use sha2::{Digest, Sha256};

/// Longest name; clients put up to 14 characters in front and stop at 62 to 64.
const LONGEST: usize = 48;
/// What is kept of a name that gets a hash: with `_` and eight digits it is as long as may be.
const KEPT: usize = LONGEST - 9;

/// The public name of a tool. Where letters of the two names are lost, a hash of them keeps it unique.
pub(super) fn public_name(server: &str, tool: &str) -> String {
    let clean = clean(tool);
    let name = format!("{server}__{clean}");
    let name =
        if name.starts_with(|first: char| first.is_ascii_alphabetic()) { name } else { format!("t_{name}") };
    if clean == tool && name.len() <= LONGEST {
        return name;
    }
    hashed(&name, server, tool)
}

/// The name of a tool whose public name, folded, is another's already.
pub(super) fn hashed(name: &str, server: &str, tool: &str) -> String {
    let digest = Sha256::digest(format!("{server}\0{tool}"));
    let hash: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let kept: String = name.chars().take(KEPT).collect();
    format!("{kept}_{hash}")
}

/// Letters every client takes; each run of others becomes one `_`.
fn clean(tool: &str) -> String {
    let mut out = String::with_capacity(tool.len());
    for letter in tool.chars() {
        if letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-') {
            out.push(letter);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    out
}

/// A name as clients and models may spell it: case, dashes and dots do not count.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .map(|letter| if matches!(letter, '-' | '.') { '_' } else { letter.to_ascii_lowercase() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_every_client_and_lose_nothing_unseen() {
        assert_eq!(public_name("time", "get_current_time"), "time__get_current_time");
        assert_eq!(public_name("1st", "a"), "t_1st__a");
        let dotted = public_name("s", "a.b");
        assert_ne!(dotted, public_name("s", "a b"), "what is lost is told apart by the hash");
        assert!(dotted.starts_with("s__a_b_"), "{dotted}");
        let long = public_name("server", &"x".repeat(100));
        assert_eq!(long.len(), LONGEST);
        assert_ne!(long, public_name("server", &"x".repeat(101)));
    }

    #[test]
    fn a_model_may_spell_a_name_its_own_way() {
        assert_eq!(fold("Server__get-Time.now"), "server__get_time_now");
    }
}
