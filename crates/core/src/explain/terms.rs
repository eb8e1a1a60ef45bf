//! The terms on which calls of one tool are taken, and who set each.

use crate::{
    call::ASK_LIMIT,
    config::{self, Breaker, Duplicates, Learn, Retries, Terms},
};
use seawall_proto::mcp::Effects;
use serde_json::{Value, json};
use std::time::Duration;

/// The terms in force for one tool.
#[derive(Clone, Debug)]
pub struct TermsInForce {
    /// Those of calls, where anybody set them.
    pub terms: Terms,
    /// What becomes of a call that equals one under way.
    pub duplicates: Duplicates,
    /// When calls are made again.
    pub retries: Retries,
    /// When calls are not made because so many failed.
    pub breaker: Breaker,
    /// What was set for the tool itself, under which key.
    own: (Terms, String),
    /// What was set for its server, under which key.
    outer: (Terms, String),
}

impl TermsInForce {
    /// Those of an upstream's tool that has these effects.
    pub(super) fn of(upstream: &config::Upstream, tool: &str, effects: Effects) -> Self {
        let terms = upstream.terms_with(tool, effects);
        let server = format!("servers.{}", config::quoted(&upstream.name));
        let own = upstream.tools.get(tool).map(|tool| tool.terms).unwrap_or_default();
        Self {
            duplicates: terms.duplicates_of(effects),
            terms,
            retries: upstream.retries,
            breaker: upstream.breaker,
            own: (own, format!("{server}.tools.{}", config::quoted(tool))),
            outer: (upstream.terms, server),
        }
    }

    /// Each with its value and where that is from.
    pub(super) fn to_json(&self) -> Value {
        let Terms { ask_limit, heartbeat, cache, rate, learn, .. } = self.terms;
        let Retries { max, backoff, budget, floor } = self.retries;
        let Breaker { window, failures, least, open } = self.breaker;
        let duplicates = match self.duplicates {
            Duplicates::Share => "share",
            Duplicates::Reject => "reject",
            Duplicates::Run => "run",
        };
        let learn = learn.map(|Learn { floor, ceiling, factor }| {
            json!({"floor_ms": ms(floor), "ceiling_ms": ms(ceiling), "factor": factor})
        });
        let of_server = |set: bool, key: &str| {
            if set { format!("{}.{key}", self.outer.1) } else { "default".to_owned() }
        };
        json!({
            "ask_limit": {
                "ms": ms(ask_limit.unwrap_or(ASK_LIMIT)),
                "from": self.set_by("ask_limit", |terms| terms.ask_limit.is_some(), "default"),
            },
            "heartbeat": {
                "ms": heartbeat.map(ms),
                "from": self.set_by("heartbeat", |terms| terms.heartbeat.is_some(), "client"),
            },
            "duplicates": {
                "value": duplicates,
                "from": self.set_by("duplicates", |terms| terms.duplicates.is_some(), "effects"),
            },
            "cache": {
                "ms": cache.map(ms),
                "from": self.set_by("cache", |terms| terms.cache.is_some(), "default"),
            },
            "rate": {
                "value": rate.map(|rate| rate.to_string()),
                "from": self.set_by("rate", |terms| terms.rate.is_some(), "default"),
            },
            "learn": {
                "value": learn,
                "from": self.set_by("learn", |terms| terms.learn.is_some(), "default"),
            },
            "retries": {
                "value": {"max": max, "backoff_ms": ms(backoff), "budget": budget, "floor": floor},
                "from": of_server(self.retries != Retries::default(), "retries"),
            },
            "breaker": {
                "value": {
                    "window_ms": ms(window), "failures": failures, "least": least, "open_ms": ms(open),
                },
                "from": of_server(self.breaker != Breaker::default(), "breaker"),
            },
        })
    }

    /// The key that a term was set by, or what it follows where nobody set it.
    fn set_by(&self, key: &str, is_set: impl Fn(&Terms) -> bool, otherwise: &str) -> String {
        let set = [&self.own, &self.outer].into_iter().find(|(terms, _)| is_set(terms));
        set.map_or_else(|| otherwise.to_owned(), |(_, table)| format!("{table}.{key}"))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
