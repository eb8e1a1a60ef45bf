//! Several upstreams as one: what Seawall answers itself where an endpoint stands for all of them or for a group,
//! and where the rest goes.

pub(crate) mod audience;
mod listen;
mod watch;

use crate::{
    Gateway,
    call::{Call, Endpoint, large},
    catalog,
    config::Sharing,
    life::Task,
    list::Listed,
    upstream::{Upstream, Wanted},
};
pub use listen::Listener;
use seawall_proto::{
    Fault, Reply,
    era::{
        offer::{self, Completing, List, Offered},
        serve,
    },
};
use std::{sync::Arc, time::Duration};

/// How long a greeting waits for upstreams that have never said what they have.
const FIRST_WORD: Duration = Duration::from_millis(250);
const SET_LEVEL: &str = "logging/setLevel";

impl Gateway {
    /// Answers what is not passed on as it came from an endpoint of several upstreams; `None` for what goes to one
    /// of them by [`Gateway::call`].
    pub async fn answer_for_many(self: &Arc<Self>, call: &Call) -> Option<Result<Listed, Fault>> {
        let request = &call.request;
        let subject = request.subject().map(|subject| &**subject);
        let end = match (request.method(), subject) {
            ("tools/call", _) => return None,
            // What was kept of a result is on every endpoint.
            ("resources/read", Some(_)) if large::reads(request) => return None,
            ("prompts/get", Some(name)) => match self.find_prompt(call, name) {
                Some(_) => return None,
                None => Ok(unknown_prompt(call, name)),
            },
            ("resources/read", Some(uri)) => match self.find_resource(call, uri) {
                Some(_) => return None,
                None => Ok(offer::no_resource(request, uri)),
            },
            ("resources/subscribe", Some(uri)) => self.subscribe(call, uri).await,
            ("resources/unsubscribe", Some(uri)) => Ok(self.unsubscribe(call, uri)),
            ("prompts/get" | "resources/read" | "resources/subscribe" | "resources/unsubscribe", None) => {
                Ok(offer::invalid(request, "the parameters do not say what it is about"))
            }
            ("initialize" | "server/discover", _) => Ok(self.greet(call).await),
            ("completion/complete", _) => return Some(self.complete(call).await),
            (SET_LEVEL, _) => Ok(self.set_level(call)),
            (method, _) => match List::of(method) {
                Some(list) => Ok(self.list_offers(call, list).await),
                None => Ok(serve::method_not_found(request)),
            },
        };
        Some(end.map(Listed::from))
    }

    /// Whether a request to one upstream is of another era than that upstream: then what a session or a stream of
    /// changes wants to hear is Seawall's to arrange, as for several upstreams.
    pub fn arranges(&self, call: &Call) -> bool {
        let Endpoint::One(name) = &call.endpoint else { return true };
        self.upstream(name).is_some_and(|upstream| upstream.crosses(call.request.wire()))
    }

    /// Notes a session that is being opened, so that it can be told of what it will ask for.
    fn attend(&self, call: &Call) {
        if let Some(conversation) = &call.conversation
            && self.conversations.find(conversation).is_some()
        {
            self.audience.open(conversation, &call.caller);
        }
    }

    /// The answer to `initialize` or `server/discover` of one upstream.
    ///
    /// # Errors
    /// Why it could not be opened in the time there is.
    pub async fn greet_for_one(
        self: &Arc<Self>,
        call: &Call,
        upstream: &Arc<Upstream>,
    ) -> Result<Reply, Fault> {
        let peer = self.introduction(call, upstream).await?;
        self.attend(call);
        Ok(serve::greeting_of(&call.request, &peer))
    }

    /// The answer to `initialize` or `server/discover`: what the upstreams have together. Where results may be cut,
    /// what is behind their links is a resource too.
    async fn greet(self: &Arc<Self>, call: &Call) -> Reply {
        self.until_known(call, FIRST_WORD, |_| true).await;
        self.attend(call);
        let mut offered = self.offered(call);
        let view = self.view(&call.endpoint, &call.caller);
        offered.resources |= view.upstreams().any(|upstream| upstream.config().limits_results());
        offer::greeting(&call.request, None, offered)
    }

    /// Asks the upstream whose prompt or resource it is for completions.
    async fn complete(self: &Arc<Self>, call: &Call) -> Result<Listed, Fault> {
        let request = &call.request;
        let (upstream, request) = match offer::completing(request) {
            Some(Completing::Prompt(name)) => {
                let Some((upstream, own)) = self.find_prompt(call, &name) else {
                    return Ok(unknown_prompt(call, &name).into());
                };
                let renamed = offer::completing_as(request, &own);
                (upstream, renamed.map_or_else(|| Arc::clone(request), Arc::new))
            }
            Some(Completing::Resource(uri)) => match self.find_resource(call, &uri) {
                Some(upstream) => (upstream, Arc::clone(request)),
                None => return Ok(offer::no_resource(request, &uri).into()),
            },
            None => return Ok(offer::invalid(request, "`ref` names neither a prompt nor a resource").into()),
        };
        self.whole(Call { endpoint: Endpoint::One(upstream), request, ..call.clone() }).await
    }

    /// The upstream a request goes to on an endpoint of several, and its name there for what the request is about.
    pub(crate) fn place(&self, call: &Call) -> Option<(Arc<str>, Option<Arc<str>>)> {
        let subject = call.request.subject()?;
        let (upstream, own) = match call.request.method() {
            "tools/call" => self.find_tool(call, subject)?,
            "prompts/get" => self.find_prompt(call, subject)?,
            "resources/read" => (self.find_resource(call, subject)?, Arc::clone(subject)),
            _ => return None,
        };
        Some((upstream, Some(own)))
    }

    /// The upstream and tool that a name stands for on an endpoint of several upstreams: a public name, however it
    /// is folded, `server.tool`, the name of a tool that is not listed yet, or a plain one that only one upstream has.
    fn find_tool(&self, call: &Call, name: &str) -> Option<(Arc<str>, Arc<str>)> {
        let view = self.view(&call.endpoint, &call.caller);
        let dotted = || {
            let (server, tool) = name.split_once('.')?;
            let plain = self.catalog.tool(server, tool).and_then(|tool| {
                let upstream = self.upstream(server)?;
                Some((Arc::clone(upstream.name()), Arc::clone(&tool.declared.name)))
            });
            plain.or_else(|| self.catalog.resolve(&format!("{server}__{tool}")))
        };
        let public = self.catalog.resolve(name).or_else(dotted).or_else(|| self.not_listed_yet(name));
        public.filter(|(upstream, tool)| view.has(upstream, tool)).or_else(|| {
            the_only(view.upstreams().filter_map(|upstream| {
                let tool = self.catalog.tool(upstream.name(), name)?;
                let own = &tool.declared.name;
                view.shows(upstream.name(), own).then(|| (Arc::clone(upstream.name()), Arc::clone(own)))
            }))
        })
    }

    /// The upstream and prompt that a name stands for, likewise.
    fn find_prompt(&self, call: &Call, name: &str) -> Option<(Arc<str>, Arc<str>)> {
        let view = self.view(&call.endpoint, &call.caller);
        let fingerprint = catalog::fingerprint(call.request.face());
        let own = |upstream: &Arc<Upstream>, name: &str| {
            let listing = self.catalog.listing(upstream.name(), &fingerprint)?;
            let prompt = listing.offer.items(List::Prompts)?.iter().find(|prompt| *prompt.own == *name)?;
            Some((Arc::clone(upstream.name()), Arc::clone(&prompt.own)))
        };
        let dotted = || {
            let (server, prompt) = name.split_once('.')?;
            let plain = self.upstream(server).and_then(|upstream| own(&upstream, prompt));
            plain.or_else(|| self.catalog.prompt(&format!("{server}__{prompt}")))
        };
        let public = self.catalog.prompt(name).or_else(dotted).or_else(|| self.not_listed_yet(name));
        public
            .filter(|(upstream, _)| view.reaches(upstream))
            .or_else(|| the_only(view.upstreams().filter_map(|upstream| own(upstream, name))))
    }

    /// The upstream that has a resource: the first that lists it, else the first one of whose templates it begins
    /// like, else the only one that has resources.
    fn find_resource(&self, call: &Call, uri: &str) -> Option<Arc<str>> {
        let view = self.view(&call.endpoint, &call.caller);
        let fingerprint = catalog::fingerprint(call.request.face());
        let listings: Vec<_> = view
            .upstreams()
            .filter_map(|upstream| {
                Some((upstream.name(), self.catalog.listing(upstream.name(), &fingerprint)?))
            })
            .collect();
        let named = |which: &dyn Fn(&catalog::Listing) -> bool| {
            listings.iter().find(|(_, listing)| which(listing)).map(|(name, _)| Arc::clone(name))
        };
        named(&|listing| listing.offer.lists(uri))
            .or_else(|| named(&|listing| listing.offer.fits(uri)))
            .or_else(|| {
                let having = listings.iter().filter(|(_, listing)| listing.offered.resources);
                the_only(having.map(|(name, _)| Arc::clone(name)))
            })
    }

    /// A tool or prompt of an upstream that has not been listed yet: whoever knows its name from before may ask for
    /// it.
    fn not_listed_yet(&self, public: &str) -> Option<(Arc<str>, Arc<str>)> {
        let (server, own) = public.split_once("__")?;
        let upstream = self.upstream(server)?;
        self.catalog.listing(server, "").is_none().then(|| (Arc::clone(upstream.name()), Arc::from(own)))
    }

    /// Lets the instances of a session log from a level on: those that are open now, and by
    /// [`Gateway::keep_level`] those that come. The session itself remembers the level.
    fn set_level(self: &Arc<Self>, call: &Call) -> Reply {
        let level = serve::log_level(&call.request);
        let Some(level) = level.filter(|level| offer::is_log_level(level)) else {
            return offer::invalid(&call.request, "`level` is no level of log messages");
        };
        if let Some(conversation) = &call.conversation {
            self.audience.set_level(conversation, &level);
            let view = self.view(&call.endpoint, &call.caller);
            for upstream in view.upstreams() {
                if !upstream.instances_of(conversation).is_empty() {
                    self.keep_level(call, upstream);
                }
            }
        }
        offer::done(&call.request)
    }

    /// Sees to it that the instance a call of a session goes to logs from the session's level on.
    pub(crate) fn keep_level(&self, call: &Call, upstream: &Arc<Upstream>) {
        let Some(conversation) = &call.conversation else { return };
        // This is how the level gets there.
        if call.request.method() == SET_LEVEL && matches!(call.endpoint, Endpoint::One(_)) {
            return;
        }
        // What several sessions share has the level of none of them.
        if upstream.config().sharing != Sharing::Session || !self.audience.has_level(conversation) {
            return;
        }
        let wanted = Wanted::by(call);
        let ready = upstream.ready(&wanted);
        if ready.is_some_and(|ready| self.audience.knows_level(conversation, upstream.name(), &ready)) {
            return;
        }
        let Some(this) = self.this.upgrade() else { return };
        let (call, upstream) = (call.clone(), Arc::clone(upstream));
        self.life.spawn(Task::Send, async move {
            let Ok(instance) = upstream.instance(&wanted).await else { return };
            let Some(conversation) = &call.conversation else { return };
            let Some(level) = this.audience.level_for(conversation, upstream.name(), &instance) else {
                return;
            };
            // Where every request says the level itself, there is nobody to be told.
            if !instance.peer().has_session() || !Offered::of(instance.peer()).logging {
                return;
            }
            let request = Arc::new(offer::log_from(&level, &call.request));
            let endpoint = Endpoint::One(Arc::clone(upstream.name()));
            let _ = this.whole(Call { endpoint, request, ..call }).await;
        });
    }
}

fn unknown_prompt(call: &Call, name: &str) -> Reply {
    offer::invalid(&call.request, &format!("Unknown prompt: {name:?}"))
}

/// What there is one of.
fn the_only<T>(mut candidates: impl Iterator<Item = T>) -> Option<T> {
    let first = candidates.next()?;
    candidates.next().is_none().then_some(first)
}
