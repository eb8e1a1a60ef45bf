//! The chain of time-outs, each of which bounds the one before: an attempt at a call, the tool, the daemon, the bridge,
//! the client.
//!
//! What somebody wrote holds as it stands, or is refused where it cannot: an inner time that is not below an outer one.
//! What nobody wrote gives way. A tool's time grows with that of its attempts, the daemon's with the longest of any
//! tool, and so on outwards; it shrinks where something farther out was set lower.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::lower::{Given, Overrides};
use super::raw::{Faults, Place, Section, quoted};
use super::terms::Classes;
use super::{Config, ConfigFault, TIMEOUT, ToolConfig, Upstream, values};

/// What bounds calls from outside of their tools, table `[timeouts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// Bounds every call; key `daemon`, default 1.5 times the longest time-out of any tool, never zero.
    pub daemon: Option<Duration>,
    /// How long a bridge should wait for the daemon; key `bridge`, default 2 times the same. Zero: without limit.
    pub bridge: Option<Duration>,
    /// How long a client should wait for an answer; key `client`, default 2.5 times the same. Zero: without limit. It
    /// is advice, which `seawall check` prints.
    pub client: Option<Duration>,
    /// What bounds an attempt at a call, by the names to which `class` of a server or a tool refers; key `classes`,
    /// default none.
    pub classes: BTreeMap<String, Duration>,
    /// What bounds every call, as it was set or comes to by default.
    cap: Duration,
    /// The daemon, the bridge and the client.
    outer: [Link; 3],
}

/// One time-out of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of what: `attempt`, `tool`, `daemon`, `bridge` or `client`.
    pub name: &'static str,
    /// How long; none where it has no limit of its own.
    pub value: Option<Duration>,
    /// The key that it was set by, what it was computed from, or `default`.
    pub from: Arc<str>,
}

/// The time-outs around one tool, from the inside out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The attempt, the tool, the daemon, the bridge and the client. Each is below the next that has a limit; only
    /// a tool's that was not set by hand can be as long as what the daemon bounds it to.
    pub links: [Link; 5],
}

/// The chain of time-outs around the tools of an upstream, or around one of them.
pub fn chain(config: &Config, upstream: &Upstream, tool: Option<&str>) -> Chain {
    let own = Own::of(upstream, tool);
    let cap = config.timeouts.cap;
    let attempt = Link {
        name: "attempt",
        value: own.attempt(),
        from: own.attempt_from().unwrap_or_else(|| DEFAULT.into()),
    };
    let capped = own.timeout().is_some_and(|timeout| timeout > cap);
    let tool = Link {
        name: "tool",
        value: own.timeout().map(|timeout| timeout.min(cap)),
        from: if capped { "timeouts.daemon".into() } else { own.timeout_from() },
    };
    let [daemon, bridge, client] = config.timeouts.outer.clone();
    Chain { links: [attempt, tool, daemon, bridge, client] }
}

impl Config {
    /// Bounds one call of an upstream, of one of its tools where that is named: the tool's time-out, else the
    /// upstream's, and never more than the daemon's. Never zero.
    pub fn timeout_of(&self, upstream: &Upstream, tool: Option<&str>) -> Duration {
        let cap = self.timeouts.cap;
        Own::of(upstream, tool).timeout().map_or(cap, |timeout| timeout.min(cap))
    }
}

impl Config {
    /// Bounds the longest call of an upstream, whichever tool it is of.
    pub fn longest_of(&self, upstream: &Upstream) -> Duration {
        let tools = upstream.tools.keys().map(|tool| self.timeout_of(upstream, Some(tool)));
        tools.fold(self.timeout_of(upstream, None), Duration::max)
    }
}

impl Timeouts {
    /// The time-outs around every tool: the daemon's, the bridge's and the client's.
    pub fn outer(&self) -> &[Link; 3] {
        &self.outer
    }
}

impl Link {
    /// The link as `seawall check --json` has it.
    pub fn to_json(&self) -> Value {
        let ms = self.value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        json!({"link": self.name, "ms": ms, "from": &*self.from})
    }
}

impl Chain {
    /// A list of the links, as `seawall check --json` and `seawall explain --json` have it.
    pub fn to_json(&self) -> Value {
        self.links.iter().map(Link::to_json).collect()
    }
}

/// Without the attempt where nothing bounds it: "tool 50s < daemon 75s < bridge 100s < client 125s".
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for link in self.links.iter().filter(|link| link.name != "attempt" || link.value.is_some()) {
            f.write_str(if first { "" } else { " < " })?;
            first = false;
            match link.value {
                Some(value) => write!(f, "{} {value:?}", link.name)?,
                None => write!(f, "{} without limit", link.name)?,
            }
        }
        Ok(())
    }
}

/// What nobody set.
const DEFAULT: &str = "default";

/// What a tool, or a server for its tools, has of time-outs.
struct Own<'u> {
    upstream: &'u Upstream,
    tool: Option<(&'u str, &'u ToolConfig)>,
}

impl<'u> Own<'u> {
    fn of(upstream: &'u Upstream, tool: Option<&str>) -> Self {
        let tool = tool.and_then(|tool| upstream.tools.get_key_value(tool));
        Self { upstream, tool: tool.map(|(name, tool)| (name.as_str(), tool)) }
    }

    fn attempt(&self) -> Option<Duration> {
        let own = self.tool.and_then(|(_, tool)| tool.terms.attempt_timeout);
        own.or(self.upstream.terms.attempt_timeout).filter(|attempt| !attempt.is_zero())
    }

    /// Bounds a call but for the daemon; none where it has no limit of its own.
    fn timeout(&self) -> Option<Duration> {
        let timeout = self.tool.and_then(|(_, tool)| tool.timeout).unwrap_or(self.upstream.timeout);
        match self.attempt() {
            _ if timeout.is_zero() => None,
            // One that was set is above: it is the default that leaves no room.
            Some(attempt) if attempt >= timeout => Some(scaled(attempt, 3, 2)),
            _ => Some(timeout),
        }
    }

    fn key(&self, own: bool, name: &str) -> String {
        let server = quoted(&self.upstream.name);
        match self.tool {
            Some((tool, _)) if own => format!("servers.{server}.tools.{}.{name}", quoted(tool)),
            _ => format!("servers.{server}.{name}"),
        }
    }

    /// Where the time-out of an attempt was set, if it was.
    fn attempt_from(&self) -> Option<Arc<str>> {
        let tool = self.tool.filter(|(_, tool)| tool.terms.attempt_timeout.is_some());
        let class = match tool {
            Some((_, tool)) => &tool.class,
            None => {
                self.upstream.terms.attempt_timeout?;
                &self.upstream.class
            }
        };
        Some(match class {
            Some(class) => format!("timeouts.classes.{}", quoted(class)).into(),
            None => self.key(tool.is_some(), "attempt_timeout").into(),
        })
    }

    fn timeout_from(&self) -> Arc<str> {
        let set = self.tool.and_then(|(_, tool)| tool.timeout);
        let timeout = set.unwrap_or(self.upstream.timeout);
        match self.attempt_from().filter(|_| self.timeout().is_some_and(|grown| grown > timeout)) {
            Some(attempt) => format!("1.5 × {attempt}").into(),
            None if set.is_some() || self.upstream.timeout != TIMEOUT => {
                self.key(set.is_some(), "timeout").into()
            }
            None => DEFAULT.into(),
        }
    }

    /// What the daemon has to leave time for, if anything.
    fn reach(&self) -> Option<(Duration, Arc<str>)> {
        match self.timeout() {
            Some(timeout) => Some((timeout, self.timeout_from())),
            None => Some((self.attempt()?, self.attempt_from()?)),
        }
    }
}

/// What was written of the times around a tool, or around those of a server that have none of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    pub(super) attempt: Option<Given<Duration>>,
    pub(super) timeout: Option<Given<Duration>>,
}

impl Bounds {
    /// These, and where there is nothing of them, those of the server.
    pub(super) fn or(self, server: &Self) -> Self {
        Self {
            attempt: self.attempt.or_else(|| server.attempt.clone()),
            timeout: self.timeout.or_else(|| server.timeout.clone()),
        }
    }
}

/// The table `[timeouts]` as it was written.
#[derive(Debug)]
pub(super) struct Written {
    daemon: Option<Given<Duration>>,
    bridge: Option<Given<Duration>>,
    client: Option<Given<Duration>>,
    pub(super) classes: Classes,
}

/// Reads the table and the variables that override it.
pub(super) fn read<'a>(
    mut section: Section<'a>,
    overrides: &mut Overrides<'a>,
    faults: &mut Faults,
) -> Written {
    let daemon = overrides.given(&mut section, "daemon", faults, values::some_time);
    let bridge = overrides.given(&mut section, "bridge", faults, values::duration);
    let client = overrides.given(&mut section, "client", faults, values::duration);
    let mut classes = Classes::new();
    for (name, item) in section.take_section("classes", faults).named() {
        let value = values::some_time(&item, faults);
        classes.insert(name.to_owned(), value.map(|value| Given { value, place: item.place }));
    }
    section.finish(&[], faults);
    Written { daemon, bridge, client, classes }
}

/// Checks what was written against all that it bounds, unless the file was not `readable` and so what that is is not
/// known, and computes what was not. `bounds` are those of the upstreams that are used.
pub(super) fn settle(
    written: Written,
    upstreams: &[Upstream],
    bounds: &[Bounds],
    readable: bool,
    faults: &mut Faults,
) -> Timeouts {
    let outer = [&written.daemon, &written.bridge, &written.client].map(Option::as_ref);
    let mut misfits = Vec::new();
    in_order(outer, &mut misfits);
    for Bounds { attempt, timeout } in bounds {
        let [daemon, bridge, client] = outer;
        in_order([attempt.as_ref(), timeout.as_ref(), daemon, bridge, client], &mut misfits);
    }
    if readable {
        faults.append(&mut misfits);
    }

    let [daemon, bridge, client] = outer.map(limit);
    let longest = longest(upstreams);
    let set = bounds.iter().flat_map(|Bounds { attempt, timeout }| [attempt, timeout]).flatten();
    let longest_set = set.map(|given| given.value).max().unwrap_or_default();
    // A default is above what it bounds where there is room for that, and anyway above what was set.
    let cap: (Duration, Arc<str>) = match (daemon, bridge.or(client)) {
        (Some((value, key)), _) => (value, key.into()),
        (None, Some((next, key))) if scaled(longest.0, 3, 2) >= next => {
            let inner = if longest.0 < next { longest.0 } else { longest_set };
            (halfway(inner, next), format!("below {key}").into())
        }
        (None, _) => multiple(3, &longest),
    };
    let waits: Option<(Duration, Arc<str>)> = match bridge {
        None if written.bridge.is_some() => None,
        Some((value, key)) => Some((value, key.into())),
        None => Some(default(4, &longest, (3, "daemon", cap.0), client)),
    };
    let advised: Option<(Duration, Arc<str>)> = match client {
        None if written.client.is_some() => None,
        Some((value, key)) => Some((value, key.into())),
        None => {
            let inner = waits.as_ref().map_or((3, "daemon", cap.0), |waits| (4, "bridge", waits.0));
            Some(default(5, &longest, inner, None))
        }
    };
    let link = |name: &'static str, known: Option<(Duration, Arc<str>)>| match known {
        Some((value, from)) => Link { name, value: Some(value), from },
        None => Link { name, value: None, from: format!("timeouts.{name}").into() },
    };
    Timeouts {
        cap: cap.0,
        outer: [link("daemon", Some(cap)), link("bridge", waits), link("client", advised)],
        daemon: written.daemon.map(|given| given.value),
        bridge: written.bridge.map(|given| given.value),
        client: written.client.map(|given| given.value),
        classes: written.classes.into_iter().filter_map(|(name, time)| Some((name, time?.value))).collect(),
    }
}

/// A limit that was set, and by which key.
fn limit(given: Option<&Given<Duration>>) -> Option<(Duration, &str)> {
    given.filter(|given| !given.value.is_zero()).map(|given| (given.value, given.place.key.as_str()))
}

/// The longest time-out of any tool of the upstreams that are used.
fn longest(upstreams: &[Upstream]) -> (Duration, Arc<str>) {
    let mut longest: Option<(Duration, Arc<str>)> = None;
    for upstream in upstreams.iter().filter(|upstream| upstream.enabled) {
        let tools = upstream.tools.keys().map(|tool| Some(tool.as_str()));
        for reach in [None].into_iter().chain(tools).filter_map(|tool| Own::of(upstream, tool).reach()) {
            if longest.as_ref().is_none_or(|longest| longest.0 < reach.0) {
                longest = Some(reach);
            }
        }
    }
    longest.unwrap_or_else(|| (TIMEOUT, DEFAULT.into()))
}

/// So many halves of the longest time-out of a tool.
fn multiple(halves: u32, longest: &(Duration, Arc<str>)) -> (Duration, Arc<str>) {
    let from = format!("{:.1} × {}", f64::from(halves) / 2.0, longest.1);
    (scaled(longest.0, halves, 2), from.into())
}

/// So many halves of the longest time-out of a tool; in proportion to what it bounds where that was set farther out,
/// and halfway to what bounds it where that was set farther in.
fn default(
    halves: u32,
    longest: &(Duration, Arc<str>),
    (inner_halves, inner_name, inner): (u32, &str, Duration),
    outer: Option<(Duration, &str)>,
) -> (Duration, Arc<str>) {
    let mut default = multiple(halves, longest);
    if default.0 <= inner {
        let from = format!("{halves}/{inner_halves} × timeouts.{inner_name}");
        default = (scaled(inner, halves, inner_halves), from.into());
    }
    match outer {
        Some((outer, key)) if default.0 >= outer => (halfway(inner, outer), format!("below {key}").into()),
        _ => default,
    }
}

/// A multiple of a time, rounded up to whole milliseconds, so that it is above the time where the factor is above 1.
fn scaled(time: Duration, times: u32, parts: u32) -> Duration {
    const MILLISECOND: u128 = 1_000_000;
    let milliseconds = (time.as_nanos() * u128::from(times)).div_ceil(u128::from(parts) * MILLISECOND);
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

fn halfway(inner: Duration, outer: Duration) -> Duration {
    (inner + outer) / 2
}

/// Refuses each time that is not below the next one that was set outside of it.
fn in_order<'g>(
    links: impl IntoIterator<Item = Option<&'g Given<Duration>>>,
    misfits: &mut Vec<ConfigFault>,
) {
    let mut inner: Option<&Given<Duration>> = None;
    for outer in links.into_iter().flatten().filter(|given| !given.value.is_zero()) {
        if let Some(inner) = inner.filter(|inner| inner.value >= outer.value) {
            let Place { key, .. } = &inner.place;
            let (lower, upper) = (inner.value, outer.value);
            let message = format!(
                "`{key}` = {lower:?} is not below `{}` = {upper:?}, {}: lower the one or raise the other",
                outer.place.key,
                standing(&outer.place),
            );
            let fault = inner.place.fault(message);
            if !misfits.contains(&fault) {
                misfits.push(fault);
            }
        }
        inner = Some(outer);
    }
}

/// Where a key stands, besides its file.
fn standing(place: &Place) -> String {
    if place.line == 0 { "a variable".to_owned() } else { format!("line {}", place.line) }
}
