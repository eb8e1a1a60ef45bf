//! Where a call goes: its upstream, its tool, and what both imply.

use super::{
    ASK_LIMIT, Call, Endpoint,
    admit::Claim,
    attempt::{Attempt, Ended},
    breaker::End,
    cache::Key,
    flight::FlightKey,
    journal::Journal,
};
use crate::{
    Gateway,
    catalog::{Held, Tool},
    config::{Config, Duplicates, Sharing, Terms},
    time::Clock,
    upstream::{Sent, Upstream, Wanted},
};
use seawall_proto::{Code, Fault, Reply, Request, Stage, era::serve, mcp::Effects};
use std::{sync::Arc, time::Duration};

/// How long a stream of changes may be open: it has no deadline.
const LISTENING: Duration = Duration::from_secs(365 * 24 * 3600);

/// After how many milliseconds to come back to a server that has as many instances or processes as may be: when one
/// of them ends nobody knows.
const CROWDED: u64 = 1000;

/// Where a call goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) upstream: Arc<Upstream>,
    /// What the catalogue knows of the tool; a tool it does not know goes to the upstream as it is.
    pub(super) tool: Option<Arc<Tool>>,
    /// The upstream's own name for what the request is about.
    pub(super) subject: Option<Arc<str>>,
    /// Bounds the work.
    pub(super) timeout: Duration,
    /// On which terms a call of the tool is taken.
    pub(super) terms: Terms,
    /// How long the clock may stand still for questions to the caller.
    pub(super) ask_limit: Duration,
    /// What makes another call equal to it, where that matters.
    pub(super) equal: Option<Key>,
    /// What the call may change.
    pub(super) effects: Effects,
    /// Whether it goes by the lane that never queues: lists and streams of changes.
    pub(super) control: bool,
    /// The largest result that is handed on whole, in bytes, where that is limited.
    pub(super) result_limit: Option<usize>,
    /// Why the tool may not be used, where its definition has to be an accepted one.
    held: Option<Held>,
    wanted: Wanted,
    /// The configuration that it was resolved under.
    pub(super) config: Arc<Config>,
}

impl Gateway {
    pub(super) fn resolve(&self, call: &Call) -> Result<Target, Fault> {
        let request = &call.request;
        let is_call = request.method() == "tools/call";
        let unknown = || {
            let name = request.subject().map_or("", |name| &**name);
            let text = format!("no tool is named {name:?}; list the tools to see those there are.");
            Fault::new(Code::ToolNotFound, Stage::Resolve, text)
        };
        let (upstream, subject) = match &call.endpoint {
            Endpoint::One(name) => (Arc::clone(name), request.subject().cloned()),
            Endpoint::All | Endpoint::Group(_) => self.place(call).ok_or_else(unknown)?,
        };
        let setup = self.setup();
        let upstream = setup.by_name.get(&upstream).cloned().ok_or_else(unknown)?;
        if is_call && subject.as_ref().is_some_and(|tool| self.catalog.leaves_out(upstream.name(), tool)) {
            return Err(unknown());
        }
        let held = subject
            .as_ref()
            .filter(|_| is_call && upstream.config().pin)
            .and_then(|tool| self.catalog.held(upstream.name(), upstream.key(), request.face(), tool));
        if held == Some(Held::New) {
            return Err(unknown());
        }
        let held = held.filter(|held| *held != Held::New);
        let tool =
            subject.as_ref().filter(|_| is_call).and_then(|name| self.catalog.tool(upstream.name(), name));
        let config = upstream.config();
        let listens = serve::listens(request);
        let lists = request.method().ends_with("/list");
        // What is configured of a tool holds also before its upstream has listed it.
        let named = subject.as_deref().filter(|_| is_call);
        let configured = named.and_then(|name| config.tools.get(name));
        let timeout = match (listens, lists) {
            (true, _) => LISTENING,
            (false, true) => config.list_timeout,
            (false, false) => setup.config.timeout_of(config, named),
        };
        let effects = match &tool {
            Some(tool) => tool.effects,
            None if is_call => configured.and_then(|tool| tool.effects).unwrap_or(Effects::Writes),
            None if request.method().starts_with("tasks/") => Effects::Writes,
            None => Effects::None,
        };
        let terms = named.map(|name| config.terms_with(name, effects)).unwrap_or_default();
        let result_limit = subject.as_ref().filter(|_| is_call).and_then(|name| config.result_limit_of(name));
        let wanted = Wanted::by(call).for_one_call(&upstream);
        let control = lists || listens;
        let mut target = Target {
            tool,
            subject,
            timeout,
            terms,
            ask_limit: terms.ask_limit.unwrap_or(ASK_LIMIT),
            equal: None,
            effects,
            control,
            result_limit,
            held,
            wanted,
            upstream,
            config: Arc::clone(&setup.config),
        };
        if target.terms.cache.is_some() || target.duplicates() != Duplicates::Run {
            target.equal = target.key(request);
        }
        Ok(target)
    }

    pub(super) fn authorise(&self, call: &Call, target: Target) -> Result<Target, Fault> {
        let Some(tool) = target.subject.as_ref().filter(|_| call.request.method() == "tools/call") else {
            return Ok(target);
        };
        let server = target.upstream.name();
        if call.caller.may_use(server, tool) {
            return match target.held {
                Some(why) => Err(held_back(why, server, tool)),
                None => Ok(target),
            };
        }
        let text = format!("the caller {} may not use {server}__{tool}.", call.caller.name);
        Err(Fault::new(Code::Forbidden, Stage::Authorise, text))
    }
}

/// The fault of a tool whose definition is not one that was accepted, or not known. Whoever may not use the tool does
/// not hear of it.
fn held_back(why: Held, server: &Arc<str>, tool: &str) -> Fault {
    let text = if why == Held::Unlisted {
        format!(
            "server {server:?} has not listed its tools yet, and only accepted definitions of them may be used, so \
             nothing was sent. Try again."
        )
    } else {
        format!(
            "the definition of {tool:?} of server {server:?} changed since it was accepted, so nothing was sent. \
             Whoever runs Seawall sees what changed with `seawall tools diff {server}`, and accepts it with `seawall \
             tools accept {server}`."
        )
    };
    let fault = Fault::new(Code::UpstreamUnavailable, Stage::Resolve, text);
    Fault { upstream: Some(Arc::clone(server)), ..fault }
}

/// The record of a call that found no target.
pub(super) fn unresolved(call: &Call, clock: Clock) -> Journal {
    let nothing = || Arc::from("");
    let tool = call.request.subject().cloned().unwrap_or_else(nothing);
    let request = Arc::clone(&call.request);
    Journal::new(Arc::clone(&call.caller.name), nothing(), tool, request, false, clock)
}

impl Target {
    /// Checks the arguments, and the headers that repeat them. The error is the call's end.
    pub(super) fn validate(&self, request: &Request) -> Result<(), Result<Reply, Fault>> {
        let Some(tool) = &self.tool else { return Ok(()) };
        if let Some(refusal) = serve::check_parameters(request, &tool.declared.header_parameters) {
            return Err(Ok(refusal));
        }
        tool.validate(request.arguments().as_ref()).map_err(|faults| {
            let text = format!("{faults}. Nothing was sent; correct the arguments and call again.");
            let upstream = Some(Arc::clone(self.upstream.name()));
            Err(Fault { upstream, ..Fault::new(Code::InvalidArguments, Stage::Validate, text) })
        })
    }

    pub(super) fn journal(&self, call: &Call, clock: Clock) -> Journal {
        Journal::new(
            Arc::clone(&call.caller.name),
            Arc::clone(self.upstream.name()),
            self.about(&call.request),
            Arc::clone(&call.request),
            self.tool.is_some(),
            clock,
        )
    }

    /// What makes another call of the tool equal to this one. Nothing does where each call has its own instance, nor
    /// where a request says more than which tool is called with what.
    fn key(&self, request: &Request) -> Option<Key> {
        let tool =
            self.subject.as_ref().filter(|_| request.method() == "tools/call" && request.is_plain())?;
        Some(Key {
            isolation: self.upstream.share_key(&self.wanted)?,
            upstream: Arc::clone(self.upstream.key()),
            tool: Arc::clone(tool),
            arguments: request.arguments(),
            client: request.face().fingerprint().clone(),
            words: request.words(),
        })
    }

    /// What the flight is known by that the call would share, or refuse to share, if any.
    pub(super) fn flight(&self, call: &Call) -> Option<FlightKey> {
        if let Some(key) = &call.idempotency {
            return Some(FlightKey::Named { caller: Arc::clone(&call.caller.name), key: Arc::clone(key) });
        }
        let of = self.equal.as_ref().filter(|_| self.duplicates() != Duplicates::Run)?.clone();
        // The rest of a large result can be read by its own caller only.
        let caller = self.result_limit.map(|_| Arc::clone(&call.caller.name));
        Some(FlightKey::Equal { of, caller })
    }

    /// Whether its upstream has listed a tool of this name, or it is configured.
    pub(super) fn knows(&self, tool: &str) -> bool {
        self.tool.is_some() || self.upstream.config().tools.contains_key(tool)
    }

    /// What becomes of a call that equals one under way.
    pub(super) fn duplicates(&self) -> Duplicates {
        self.terms.duplicates_of(self.effects)
    }

    /// How long one attempt may take, where it has a time of its own, and whether that was learned.
    pub(super) fn attempt_time(&self) -> Option<(Duration, bool)> {
        // Of a tool: a prompt may have the same name.
        let tool = self.subject.as_ref().filter(|_| self.terms.learn.is_some());
        let learned = tool.and_then(|tool| self.upstream.track().learned(tool));
        learned.map(|time| (time, true)).or_else(|| self.terms.attempt_timeout.map(|time| (time, false)))
    }

    pub(super) fn claim(&self, call: &Call) -> Claim {
        let (config, limits) = (self.upstream.config(), &self.config.limits);
        let is_call = call.request.method() == "tools/call";
        let configured = self.subject.as_ref().filter(|_| is_call).and_then(|tool| config.tools.get(&**tool));
        let provider = config
            .provider
            .as_ref()
            .and_then(|name| limits.providers.get(name).map(|limit| (Arc::from(name.as_str()), *limit)));
        // Where each call has an instance of its own, there are no more calls than instances.
        let instances = config.pool.max.filter(|_| config.sharing == Sharing::Call);
        Claim {
            caller: Arc::clone(&call.caller.name),
            conversation: call.conversation.clone(),
            upstream: Arc::clone(self.upstream.name()),
            upstream_limit: config.limit.into_iter().chain(instances).map(usize::from).min(),
            tool: self.about(&call.request),
            tool_limit: configured.and_then(|tool| tool.limit).map(usize::from),
            provider,
        }
    }

    /// The tool, or what else the request is about.
    fn about(&self, request: &Request) -> Arc<str> {
        self.subject.clone().unwrap_or_else(|| request.method().into())
    }

    /// Whom an instance for it must be for.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// How long to wait before the call is tried once more, if it may be: where nothing was sent, or doing it twice is
    /// as good as once; after its own time ran out only where it has no effects at all. `failed` is how many attempts
    /// have. See `docs/design/retries.md`.
    pub(super) fn again(&self, ended: &Ended, failed: u32, attempt: &Attempt) -> Option<Duration> {
        let retries = &self.upstream.config().retries;
        let (track, unsent) = (self.upstream.track(), !attempt.may_have_run());
        let safe = match ended {
            // Nobody waits for it, and what is done anew so late may undo what its caller has done since.
            _ if attempt.is_left() => false,
            Ended::TimedOut | Ended::Cancelled => false,
            Ended::RanOut { .. } => unsent || self.effects == Effects::None,
            Ended::Lost(lost) if lost.timed_out || lost.crowded || lost.too_large => false,
            // What answered with nonsense would do so again; who is busy says when not to.
            Ended::Lost(lost) if lost.answered && !lost.busy => false,
            // Left alone: whoever comes is told when it is tried next.
            Ended::Lost(lost) if !lost.busy && lost.retry_after.is_some() => false,
            Ended::Lost(lost) => lost.sent == Sent::No || self.effects != Effects::Writes,
        };
        if !safe || failed > retries.max {
            return None;
        }
        let pause = match ended {
            Ended::Lost(lost) if lost.busy => lost.retry_after.unwrap_or_else(|| track.backoff(failed)),
            // The instance was gone before the call came to it: another one is no worse for being asked at once.
            Ended::Lost(lost) if lost.sent == Sent::No && failed == 1 => Duration::ZERO,
            _ => track.backoff(failed),
        };
        (pause < attempt.clock().left()).then_some(pause)
    }

    /// What an attempt's end says of its upstream. A server that does not come up is left alone by its pool, which says
    /// why; the breaker is about those that do.
    pub(super) fn says(ended: &Ended, stage: Stage) -> End {
        match ended {
            Ended::Lost(_) if stage == Stage::Start => End::Neither,
            Ended::TimedOut | Ended::RanOut { .. } => End::Failure,
            Ended::Lost(lost) if lost.crowded || lost.too_large => End::Neither,
            Ended::Lost(_) => End::Failure,
            Ended::Cancelled => End::Neither,
        }
    }

    /// Ends an instance that was made for this call alone.
    pub(super) fn release(&self) {
        self.upstream.end_call(&self.wanted);
    }

    /// The fault of a call that ended without a reply.
    pub(super) fn fault(&self, ended: Ended, attempt: &Attempt) -> Fault {
        let name = self.upstream.name();
        let stage = attempt.stage();
        let lost = match ended {
            Ended::TimedOut => {
                let text = if attempt.may_have_run() {
                    format!(
                        "server {name:?} gave no answer in {:?}; it may still be running. Look at what it did before \
                         calling again.",
                        self.timeout
                    )
                } else {
                    format!(
                        "server {name:?} was not ready within {:?}; nothing was sent. Try again.",
                        self.timeout
                    )
                };
                return Fault::new(Code::Timeout, stage, text);
            }
            Ended::RanOut { .. } => {
                let time = attempt
                    .time()
                    .map_or_else(String::new, |time| format!(" in the {time:?} that it may take"));
                let text = if attempt.may_have_run() {
                    format!(
                        "server {name:?} gave no answer to an attempt{time}; it may still be running. Look at what it \
                         did before calling again."
                    )
                } else {
                    format!(
                        "server {name:?} was not ready for an attempt{time}; nothing was sent. Try again."
                    )
                };
                return Fault::new(Code::Timeout, stage, text);
            }
            Ended::Cancelled => return Fault::new(Code::Cancelled, stage, "the caller took the call back."),
            Ended::Lost(lost) => lost,
        };
        let why = &lost.why;
        let ran = if attempt.may_have_run() { "An attempt before may have run" } else { "Nothing was sent" };
        let (code, text) = if lost.crowded {
            (Code::OverCapacity, format!("server {name:?} takes no more: {why}. {ran}; try again."))
        } else if lost.timed_out {
            (Code::Timeout, format!("server {name:?} could not be started: {why}. {ran}."))
        } else if lost.sent == Sent::No {
            (Code::UpstreamUnavailable, format!("server {name:?} is not available: {why}. Nothing was sent."))
        } else if lost.too_large {
            (Code::TooLarge, format!("server {name:?}: {why}. It has run; ask it for less."))
        } else if lost.answered {
            (Code::UpstreamError, format!("server {name:?} gave no proper answer: {why}."))
        } else if self.effects == Effects::None {
            let text =
                format!("server {name:?} was lost: {why}. The tool only reads, so it can be called again.");
            (Code::UpstreamUnavailable, text)
        } else {
            let text = format!(
                "server {name:?} was lost after the call was sent: {why}. It may have acted; look before calling again."
            );
            (Code::OutcomeUnknown, text)
        };
        let retry_after_ms = lost.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let retry_after_ms = retry_after_ms.or_else(|| lost.crowded.then_some(CROWDED));
        Fault { retry_after_ms, ..Fault::new(code, stage, text) }
    }
}
