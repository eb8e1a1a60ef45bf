//! Endpoints that stand for several upstreams, and what a caller sees on them: all, or those of a group.

use crate::{
    Gateway, Setup,
    call::{
        Endpoint,
        auth::{Caller, matches},
    },
    config::Group,
    upstream::Upstream,
};
use std::sync::Arc;

/// What one caller sees on one endpoint, under the configuration in force.
pub(crate) struct View<'a> {
    setup: Arc<Setup>,
    endpoint: &'a Endpoint,
    caller: &'a Caller,
}

impl Gateway {
    /// What a caller sees on an endpoint.
    pub(crate) fn view<'a>(&self, endpoint: &'a Endpoint, caller: &'a Caller) -> View<'a> {
        View { setup: self.setup(), endpoint, caller }
    }

    /// Whether an endpoint is there for a caller: what none of its upstreams may be reached by does not exist.
    pub fn may_enter(&self, endpoint: &Endpoint, caller: &Caller) -> bool {
        match endpoint {
            Endpoint::All => true,
            Endpoint::One(name) => self.upstream(name).is_some() && caller.may_reach(name),
            Endpoint::Group(name) => self.setup().group(name).is_some_and(|group| {
                caller.sees_everything() || group.servers.iter().any(|server| caller.may_reach(server))
            }),
        }
    }

    /// Whether an upstream is one of those an endpoint stands for.
    pub fn includes(&self, endpoint: &Endpoint, upstream: &str) -> bool {
        self.setup().includes(endpoint, upstream)
    }
}

impl Setup {
    fn group(&self, name: &str) -> Option<&Group> {
        self.config.groups.iter().find(|group| group.name == name)
    }

    fn includes(&self, endpoint: &Endpoint, upstream: &str) -> bool {
        match endpoint {
            Endpoint::All => true,
            Endpoint::One(name) => **name == *upstream,
            Endpoint::Group(name) => {
                self.group(name).is_some_and(|group| group.servers.iter().any(|server| server == upstream))
            }
        }
    }
}

impl View<'_> {
    /// The upstreams in configured order.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.setup.upstreams.iter().filter(|upstream| self.reaches(upstream.name()))
    }

    /// Whether something of an upstream may be seen.
    pub(crate) fn reaches(&self, upstream: &str) -> bool {
        self.setup.includes(self.endpoint, upstream) && self.caller.may_reach(upstream)
    }

    /// Whether a tool is one of the endpoint's, whoever calls.
    pub(crate) fn has(&self, upstream: &str, tool: &str) -> bool {
        match self.endpoint {
            Endpoint::All => true,
            Endpoint::One(name) => **name == *upstream,
            Endpoint::Group(name) => self.setup.group(name).is_some_and(|group| {
                group.servers.iter().any(|server| server == upstream) && {
                    let public = [upstream, "__", tool].concat();
                    group.tools.iter().any(|pattern| pattern == "*" || matches(pattern, &public))
                }
            }),
        }
    }

    /// Whether a tool may be seen and called.
    pub(crate) fn shows(&self, upstream: &str, tool: &str) -> bool {
        self.has(upstream, tool) && self.caller.may_use(upstream, tool)
    }

    /// The upstreams that should be in use and are not, for want of variables: each with what it needs.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&str, String)> {
        let configured = self.setup.config.upstreams.iter();
        let waiting = configured.filter(|upstream| upstream.enabled && !upstream.needs.is_empty());
        waiting
            .filter(|upstream| self.reaches(&upstream.name))
            .map(|upstream| (upstream.name.as_str(), format!("needs {}", upstream.needs.join(", "))))
    }
}
