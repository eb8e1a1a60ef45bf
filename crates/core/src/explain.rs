//! What is known of one tool: where it comes from, what bounds a call of it, and who may make one.

mod terms;

use crate::{
    Gateway,
    catalog::Tool,
    config::{self, Chain, Kind, Limits, Sharing},
    upstream::Failure,
};
use seawall_proto::mcp::Effects;
use serde_json::{Value, json};
use std::{cmp::Ordering, num::NonZeroUsize, sync::Arc, time::Duration};
pub use terms::TermsInForce;

/// Names offered in the place of one that no tool has.
const NEAREST: usize = 3;

/// Everything `seawall explain` shows of one tool.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Its name where every server's tools are listed together.
    pub public: Arc<str>,
    /// The server it comes from.
    pub server: Arc<str>,
    /// `stdio` or `http`.
    pub kind: &'static str,
    /// Its name at that server.
    pub own: Arc<str>,
    /// Why its public name is not `SERVER__TOOL`, where it is not.
    pub renamed: Option<&'static str>,
    /// Bounds one call, the daemon's own limit included.
    pub timeout: Duration,
    /// Where that was set.
    pub timeout_from: TimeoutFrom,
    /// All time-outs around it.
    pub chain: Chain,
    /// On which terms its calls are taken.
    pub terms: TermsInForce,
    /// What a call may change.
    pub effects: Effects,
    /// Who says so.
    pub effects_from: EffectsFrom,
    /// Who shares one instance of the server.
    pub sharing: Sharing,
    /// Calls in flight that the server takes at once, where that is limited.
    pub limit: Option<NonZeroUsize>,
    /// Calls of the tool in flight at once, where that is limited.
    pub tool_limit: Option<NonZeroUsize>,
    /// The provider that its server's calls count against, and how many of those may be in flight, where that is
    /// limited.
    pub provider: Option<(String, Option<usize>)>,
    /// The largest result that is handed on whole, in bytes, where that is limited.
    pub result_limit: Option<usize>,
    /// What a call has to find a place in besides.
    pub limits: Limits,
    /// Who may see and call it, in configured order.
    pub callers: Vec<Arc<str>>,
    /// Whether its arguments are checked.
    pub schema: Schema,
    /// Whether its definition is one that was accepted, where its server is pinned.
    pub accepted: Option<bool>,
    /// When the daemon last read its server's list; absent while it only remembers one from an earlier run.
    pub listed: Option<jiff::Timestamp>,
    /// Why its server could last not be used, if it could not.
    pub failure: Option<Failure>,
}

/// Where a time-out was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutFrom {
    /// For the tool: `[servers.NAME.tools.TOOL]`.
    Tool,
    /// For its server.
    Server,
    /// Nowhere, or to what it is anyway.
    Default,
    /// Nowhere near the tool: the daemon's own limit is shorter, or the only one.
    Daemon,
    /// Nowhere: it leaves time for the attempt, whose time was set.
    Attempt,
}

/// Who says what a call may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectsFrom {
    /// The configuration: `[servers.NAME.tools.TOOL]`.
    Configuration,
    /// The tool's own annotations.
    Annotations,
    /// Nobody whom Seawall believes: the server's annotations are not trusted.
    Distrust,
    /// Nobody: the tool has no annotations that say so.
    Nobody,
}

/// Whether arguments are checked before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schema {
    /// They are.
    Compiles,
    /// There is none: everything passes.
    Absent,
    /// It does not compile, and why: everything passes.
    Broken(String),
}

impl Gateway {
    /// What is known of the tool with this public name; case, dashes and dots in it do not count. `None` where no
    /// server has listed such a tool.
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        let (server, own) = self.catalog.resolve(name)?;
        let upstream = self.upstream(&server)?;
        let tool = self.catalog.tool(&server, &own)?;
        let setup = self.setup();
        let config = upstream.config();
        let chain = config::chain(&setup.config, config, Some(&*own));
        let (timeout_from, effects_from) = (timeout_from(config, &tool, &chain), effects_from(config, &tool));
        let may_use = setup.callers.all().iter().filter(|caller| caller.may_use(&server, &own));
        Some(Explanation {
            public: Arc::clone(&tool.public),
            kind: match config.kind {
                Kind::Stdio { .. } => "stdio",
                Kind::Http { .. } => "http",
            },
            renamed: renamed(&server, &own, &tool.public),
            timeout: setup.config.timeout_of(config, Some(&*own)),
            timeout_from,
            chain,
            terms: TermsInForce::of(config, &own, tool.effects),
            effects: tool.effects,
            effects_from,
            sharing: config.sharing,
            limit: config.limit,
            tool_limit: config.tools.get(&*own).and_then(|tool| tool.limit),
            provider: config
                .provider
                .as_ref()
                .map(|provider| (provider.clone(), setup.config.limits.providers.get(provider).copied())),
            result_limit: config.result_limit_of(&own),
            limits: setup.config.limits.clone(),
            callers: may_use.map(|caller| Arc::clone(&caller.name)).collect(),
            schema: match (&tool.declared.input_schema, tool.schema_fault()) {
                (None, _) => Schema::Absent,
                (Some(_), None) => Schema::Compiles,
                (Some(_), Some(fault)) => Schema::Broken(fault),
            },
            accepted: config.pin.then(|| !self.catalog.held_back(&server).contains(&own)),
            listed: self.catalog.listed(&server),
            failure: upstream.failure(),
            server,
            own,
        })
    }

    /// The public names most like one that no tool has, the likest first; at most three.
    pub fn nearest(&self, name: &str) -> Vec<Arc<str>> {
        let wanted = fold(name);
        let like = |other: &str| strsim::normalized_damerau_levenshtein(&wanted, &fold(other));
        let mut found: Vec<(f64, Arc<str>)> = Vec::new();
        for upstream in self.upstreams() {
            let Some(listing) = self.catalog.listing(upstream.name(), "") else { continue };
            found.extend(listing.tools.iter().map(|tool| {
                // Whoever left the server out is understood, too.
                let likeness = like(&tool.public).max(like(&tool.declared.name));
                (likeness, Arc::clone(&tool.public))
            }));
        }
        found.sort_by(|a, b| match b.0.total_cmp(&a.0) {
            Ordering::Equal => a.1.cmp(&b.1),
            unequal => unequal,
        });
        found.into_iter().take(NEAREST).map(|(_, name)| name).collect()
    }
}

/// How a name is compared: as the catalogue folds it.
fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

fn timeout_from(config: &config::Upstream, tool: &Tool, chain: &Chain) -> TimeoutFrom {
    let configured = config.tools.get(&*tool.declared.name);
    let [_, link, ..] = &chain.links;
    if link.value.is_none() || &*link.from == "timeouts.daemon" {
        TimeoutFrom::Daemon
    } else if link.from.starts_with("1.5 ×") {
        TimeoutFrom::Attempt
    } else if configured.is_some_and(|tool| tool.timeout.is_some()) {
        TimeoutFrom::Tool
    } else if config.timeout == config::TIMEOUT {
        TimeoutFrom::Default
    } else {
        TimeoutFrom::Server
    }
}

fn effects_from(config: &config::Upstream, tool: &Tool) -> EffectsFrom {
    let configured = config.tools.get(&*tool.declared.name);
    if configured.is_some_and(|tool| tool.effects.is_some()) {
        return EffectsFrom::Configuration;
    }
    let declaration = tool.declared.declaration.value();
    let annotations = &declaration["annotations"];
    let says = ["readOnlyHint", "idempotentHint"].iter().any(|hint| annotations.get(hint).is_some());
    match (says, config.trust_hints) {
        (false, _) => EffectsFrom::Nobody,
        (true, true) => EffectsFrom::Annotations,
        (true, false) => EffectsFrom::Distrust,
    }
}

/// Why a public name is not simply the server's and the tool's own, if it is not.
fn renamed(server: &str, own: &str, public: &str) -> Option<&'static str> {
    let plain = format!("{server}__{own}");
    if public == plain {
        return None;
    }
    let front = if server.starts_with(|first: char| first.is_ascii_alphabetic()) { "" } else { "t_" };
    let plain = format!("{front}{plain}");
    let foreign = |letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '_' | '-');
    Some(if own.contains(foreign) {
        "its own name has letters that clients refuse: each became `_`, and a hash keeps it apart from others"
    } else if public == plain {
        "a name has to begin with a letter for some clients, so `t_` stands in front"
    } else if plain.len() > public.len() {
        "it was longer than clients take: it was cut, and a hash keeps it apart from others"
    } else {
        "the server has another tool whose name differs in case, dashes or dots only: a hash tells them apart"
    })
}

impl Explanation {
    /// The whole of it as `seawall explain --json` prints it.
    pub fn to_json(&self) -> Value {
        let timeout_from = match self.timeout_from {
            TimeoutFrom::Tool => "tool",
            TimeoutFrom::Server => "server",
            TimeoutFrom::Default => "default",
            TimeoutFrom::Daemon => "daemon",
            TimeoutFrom::Attempt => "attempt",
        };
        let effects = match self.effects {
            Effects::None => "none",
            Effects::Idempotent => "idempotent",
            Effects::Writes => "writes",
        };
        let effects_from = match self.effects_from {
            EffectsFrom::Configuration => "configuration",
            EffectsFrom::Annotations => "annotations",
            EffectsFrom::Distrust => "distrust",
            EffectsFrom::Nobody => "nobody",
        };
        let sharing = match self.sharing {
            Sharing::Session => "session",
            Sharing::Caller => "caller",
            Sharing::Everyone => "everyone",
            Sharing::Call => "call",
        };
        let (schema, fault) = match &self.schema {
            Schema::Compiles => ("compiles", None),
            Schema::Absent => ("absent", None),
            Schema::Broken(fault) => ("broken", Some(fault)),
        };
        let Limits { total, caller, conversation, queue, share, conversation_share, .. } = self.limits;
        let failure = self.failure.as_ref();
        let mut known = json!({
            "name": &*self.public,
            "server": &*self.server,
            "kind": self.kind,
            "tool": &*self.own,
            "renamed": self.renamed,
            "timeout": {
                "ms": u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
                "from": timeout_from,
            },
            "chain": self.chain.to_json(),
            "terms": self.terms.to_json(),
            "effects": {"value": effects, "from": effects_from},
            "sharing": sharing,
            "limit": self.limit,
            "tool_limit": self.tool_limit,
            "provider": self.provider.as_ref().map(|(name, limit)| json!({"name": name, "limit": limit})),
            "result_limit": self.result_limit,
            "limits": {
                "total": total, "caller": caller, "conversation": conversation, "queue": queue, "share": share,
                "conversation_share": conversation_share,
            },
            "callers": self.callers.iter().map(|caller| &**caller).collect::<Vec<_>>(),
            "schema": {"state": schema, "fault": fault},
            "listed": self.listed.map(|listed| listed.to_string()),
            "failure": failure.map(|failure| json!({"stage": failure.stage, "message": failure.message})),
        });
        if let Some(accepted) = self.accepted {
            known["pinned"] = json!(if accepted { "accepted" } else { "changed" });
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_name_says_why() {
        assert_eq!(renamed("time", "now", "time__now"), None);
        let reason = |server: &str, own: &str, public: &str| renamed(server, own, public).unwrap();
        assert!(reason("s", "a.b", "s__a_b_12345678").contains("refuse"));
        assert!(reason("1st", "a", "t_1st__a").contains("`t_`"));
        let long = "x".repeat(100);
        let cut = format!("s__{}_12345678", "x".repeat(36));
        assert!(reason("s", &long, &cut).contains("longer"));
        assert!(reason("s", "A-b", "s__A-b_12345678").contains("differs"));
        // One letter more than a hashed name keeps, and still short enough for a name without a hash.
        let own = "x".repeat(42);
        let hashed = format!("s__{}_12345678", "x".repeat(36));
        assert!(reason("s", &own, &hashed).contains("differs"));
    }
}
