//! Who is asking, and what they may see.

use crate::config::{self, Rate};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Somebody who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The configured name, or `local`.
    pub name: Arc<str>,
    /// How many calls it may make, where it has a rate of its own.
    pub rate: Option<Rate>,
    tools: Vec<String>,
    token_sha256: Option<[u8; 32]>,
}

/// Everybody who may call.
#[derive(Clone, Debug)]
pub struct Callers(Vec<Arc<Caller>>);

impl Caller {
    /// Somebody who may call every tool: loopback where no callers are configured, or Seawall itself.
    pub fn unlimited(name: &str) -> Self {
        Self { name: Arc::from(name), rate: None, tools: vec![String::from("*")], token_sha256: None }
    }

    /// Whether there is no tool the caller may not use.
    pub fn sees_everything(&self) -> bool {
        self.tools.iter().any(|pattern| pattern == "*")
    }

    /// Whether there may be a tool of an upstream that the caller may use; else the upstream is none of its business.
    pub fn may_reach(&self, upstream: &str) -> bool {
        let prefix = format!("{upstream}__");
        self.tools.iter().any(|pattern| {
            let literal = pattern.split('*').next().unwrap_or_default();
            let open = literal.len() < pattern.len();
            literal.starts_with(&prefix) || (open && prefix.starts_with(literal))
        })
    }

    /// Whether the caller may see and call a tool, by the name it has among all upstreams' tools.
    pub fn may_use(&self, upstream: &str, tool: &str) -> bool {
        if self.sees_everything() {
            return true;
        }
        let name = [upstream, "__", tool].concat();
        self.tools.iter().any(|pattern| matches(pattern, &name))
    }
}

impl Callers {
    /// The configured callers, or `local` where there are none.
    pub fn new(configured: &[config::Caller]) -> Self {
        if configured.is_empty() {
            return Self(vec![Arc::new(Caller::unlimited("local"))]);
        }
        let callers = configured.iter().map(|caller| {
            Arc::new(Caller {
                name: Arc::from(caller.name.as_str()),
                rate: caller.rate,
                tools: caller.tools.clone(),
                token_sha256: Some(caller.token_sha256),
            })
        });
        Self(callers.collect())
    }

    /// All of them, in configured order.
    pub fn all(&self) -> &[Arc<Caller>] {
        &self.0
    }

    /// Whether a token is needed at all.
    pub fn need_tokens(&self) -> bool {
        self.0.iter().any(|caller| caller.token_sha256.is_some())
    }

    /// Who presents this token, or `local` where none is needed. Compares in constant time.
    pub fn find(&self, token: Option<&str>) -> Option<&Arc<Caller>> {
        if !self.need_tokens() {
            return self.0.first();
        }
        let presented: [u8; 32] = Sha256::digest(token?).into();
        let mut found = None;
        for caller in &self.0 {
            let differs = caller
                .token_sha256
                .is_none_or(|known| known.iter().zip(&presented).fold(0, |acc, (a, b)| acc | (a ^ b)) != 0);
            if !differs {
                found = Some(caller);
            }
        }
        found
    }
}

/// Whether a name fits a pattern in which `*` stands for anything, also nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let Some(last) = parts.pop() else { return true };
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_over_the_whole_name() {
        for (pattern, name, fits) in [
            ("time__now", "time__now", true),
            ("time__now", "time__nowhere", false),
            ("time__*", "time__now", true),
            ("*__now", "time__now", true),
            ("t*m*w", "time__now", true),
            ("t*x*w", "time__now", false),
            ("time__*w*w", "time__now", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_token_names_its_caller_and_nothing_else_does() {
        let digest = |token: &str| <[u8; 32]>::from(Sha256::digest(token));
        let configured = ["a", "b"].map(|name| config::Caller {
            name: name.into(),
            token_sha256: digest(name),
            rate: None,
            tools: vec!["*".into()],
        });
        let callers = Callers::new(&configured);
        assert_eq!(callers.find(Some("b")).map(|caller| &*caller.name), Some("b"));
        assert!(callers.find(Some("c")).is_none() && callers.find(None).is_none());
        assert_eq!(Callers::new(&[]).find(None).map(|caller| &*caller.name), Some("local"));
    }
}
