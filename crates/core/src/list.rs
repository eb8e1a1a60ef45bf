//! Lists: answered from the catalogue, which is filled through the call path.

use crate::{
    Gateway,
    call::{Call, Endpoint, auth::Caller},
    catalog::{self, Listing, Offer},
    conversation::Conversation,
    groups::View,
    life::Task,
    time::{Deadline, Passed},
    upstream::{Failure, Upstream, Wanted},
};
use seawall_proto::{
    Event, Fault, Message, Raw, Reply, Request,
    era::{
        Face, Wire, cross,
        offer::{self, List, Offered, Offering},
        peer::Peer,
        serve,
    },
    mcp::{Page, Tool},
};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// The conversation of Seawall's own calls; no caller can name it, for theirs have a `/` or are random.
pub(crate) const OWN: &str = "seawall";
/// How long a list waits for upstreams that have never been listed.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// How long a list that is known waits for a fresh one.
const FRESH: Duration = Duration::from_millis(250);
/// Most pages read of one list.
const PAGES: usize = 1000;
/// How long a modern client may keep a list; changes are told besides.
const TTL_MS: u64 = 60_000;

/// An upstream and what it offers.
type Known<'a> = (&'a Arc<Upstream>, Arc<Listing>);

/// A list of tools, and how it came.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The list.
    pub reply: Reply,
    /// Whether the upstream answered with a stream: so does a front door that can.
    pub streamed: bool,
}

impl From<Reply> for Listed {
    fn from(reply: Reply) -> Self {
        Self { reply, streamed: false }
    }
}

impl Gateway {
    /// Asks an upstream what it offers, in a task of its own, and goes on hearing of changes where it tells them.
    pub(crate) fn probe(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        let (this, upstream) = (Arc::clone(self), Arc::clone(upstream));
        self.life.spawn(Task::Follow, async move {
            this.refresh(upstream.name(), None, None).await;
            this.catalog.keep_eras(upstream.key(), upstream.spoken()).await;
            if let Some(instance) = upstream.ready(&this.own_wanted())
                && instance.peer().list_changes()
            {
                instance.follow();
            }
            this.end_own_process(upstream.name());
        });
    }

    /// Ends the process that was started for what Seawall itself asks: it is not kept waiting for a caller that may
    /// never share it.
    pub(crate) fn end_own_process(&self, upstream: &str) {
        if let Some(upstream) = self.upstream(upstream) {
            upstream.end_probe(&self.own_wanted());
        }
    }

    /// Reads an upstream's lists into the catalogue: as the conversation's client sees them, or as a client without
    /// capabilities does. Then tells who has to know: of what is news, and of what the upstream itself `said` where
    /// no conversation's own instance did, whose client has it from there.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        upstream: &Arc<str>,
        conversation: Option<&Arc<Conversation>>,
        said: Option<Offering>,
    ) {
        let Some(upstream) = self.upstream(upstream) else { return };
        let template = match conversation {
            Some(conversation) => self.call_of(conversation, upstream.name()),
            None => self.own_call(upstream.name()),
        };
        let fingerprint = catalog::fingerprint(template.request.face());
        match self.read_tools(&upstream, &template).await {
            Ok(listing) => {
                self.catalog.learn(upstream.name(), upstream.key(), &fingerprint, listing).await;
                upstream.noted(None);
            }
            Err(fault) => {
                let stage = fault.stage.name();
                tracing::warn!(
                    upstream = &**upstream.name(),
                    stage,
                    reason = fault.message,
                    "its tools could not be listed"
                );
                upstream.noted(Some(Failure::now(stage, fault.message)));
                self.unlisted.notify_waiters();
                return;
            }
        }
        // The tools are there for everybody before the other lists are asked for.
        let offer = self.read_offer(&upstream, &template, &fingerprint).await;
        let mut news = match offer {
            Some(offer) => {
                self.catalog.learn_offer(upstream.name(), upstream.key(), &fingerprint, offer).await
            }
            None => Vec::new(),
        };
        if let Some(said) = said
            && conversation.is_none()
            && said != Offering::Tools
            && !news.contains(&said)
        {
            news.push(said);
        }
        for offering in news {
            self.tell(upstream.name(), offering, conversation.map(|conversation| &conversation.id));
        }
    }

    /// An upstream's whole list of tools; an empty one where it says that it has none.
    async fn read_tools(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        template: &Call,
    ) -> Result<Listing, Fault> {
        let budget = Deadline::after(upstream.config().start_timeout + upstream.config().list_timeout);
        let read = self.read_pages(upstream, template, "tools/list", "tools", budget).await?;
        let peer = match budget.bound(self.peer(upstream, template)).await {
            Ok(peer) => peer?,
            Err(Passed) => {
                let text = format!("server {:?} was not ready in time.", upstream.name());
                return Err(Fault::new(seawall_proto::Code::Timeout, seawall_proto::Stage::Start, text));
            }
        };
        let declarations = match read {
            Ok(declarations) => declarations,
            Err(_) if !Offered::of(&peer).tools => Vec::new(),
            Err(no_list) => return Err(no_list),
        };
        Ok(Listing::new(upstream.config(), peer, declarations))
    }

    /// An upstream's other lists, those that it says it has; `None` where it has none and never had.
    async fn read_offer(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        template: &Call,
        fingerprint: &str,
    ) -> Option<Offer> {
        let known = self.catalog.exact(upstream.name(), fingerprint)?;
        let mut offer = known.offer.clone();
        for list in List::ALL {
            if !list.is_offered(known.offered) {
                offer.clear(list);
                continue;
            }
            let budget = Deadline::after(upstream.config().start_timeout + upstream.config().list_timeout);
            let read = self.read_pages(upstream, template, list.method(), list.member(), budget).await;
            match read.flatten() {
                Ok(items) => offer.set(list, upstream.name(), items),
                // Not every server with resources knows of templates.
                Err(_) if list == List::Templates => offer.set(list, upstream.name(), Vec::new()),
                Err(fault) => {
                    tracing::warn!(
                        upstream = &**upstream.name(),
                        list = list.method(),
                        reason = fault.message,
                        "it did not give a list that it says it has"
                    );
                    offer.fail(list, &fault.message);
                }
            }
        }
        Some(offer)
    }

    /// Every page of one list of an upstream. The inner error is that it answered with something else.
    async fn read_pages(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        template: &Call,
        method: &str,
        member: &str,
        budget: Deadline,
    ) -> Result<Result<Vec<Raw>, Fault>, Fault> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let params = cursor.take().map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
            let wire = *template.request.wire();
            let request = Request::own(method, &params, wire, Arc::clone(template.request.face()));
            let request = Arc::new(request);
            let reply = match budget.bound(self.whole(Call { request, ..template.clone() })).await {
                Ok(listed) => listed?.reply,
                Err(_) => break,
            };
            let Some(page) = page_of(&reply, member) else {
                return Ok(Err(no_list(upstream, method, &reply)));
            };
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(Ok(items))
    }

    /// What the upstream says of itself, from an instance that is open.
    pub(crate) async fn peer(&self, upstream: &Arc<Upstream>, template: &Call) -> Result<Peer, Fault> {
        let wanted = Wanted::by(template).for_one_call(upstream);
        let instance = upstream.instance(&wanted).await.map_err(|lost| {
            Fault::new(seawall_proto::Code::UpstreamUnavailable, seawall_proto::Stage::Start, lost.why)
        })?;
        upstream.end_call(&wanted);
        Ok(instance.peer().clone())
    }

    /// A call's end, its events unheard.
    pub(crate) async fn whole(self: &Arc<Self>, call: Call) -> Result<Listed, Fault> {
        let mut answer = self.call(call);
        let mut streamed = false;
        loop {
            match answer.next().await {
                Event::End(end) => return end.map(|reply| Listed { reply, streamed }),
                Event::Streaming => streamed = true,
                _ => {}
            }
        }
    }

    /// What an upstream says of itself: what is known, or what an instance says that is opened now.
    ///
    /// # Errors
    /// Why it could not be opened in the time there is.
    pub async fn introduction(
        self: &Arc<Self>,
        call: &Call,
        upstream: &Arc<Upstream>,
    ) -> Result<Peer, Fault> {
        let fingerprint = catalog::fingerprint(call.request.face());
        let era = |peer: &Peer| peer.wire() == call.request.wire();
        if let Some(known) =
            self.catalog.exact(upstream.name(), &fingerprint).filter(|listing| era(&listing.peer))
        {
            return Ok(known.peer.clone());
        }
        let timeout = self.config().timeout_of(upstream.config(), None);
        let budget = Deadline::after(timeout.min(upstream.config().start_timeout));
        match budget.bound(self.peer(upstream, call)).await {
            Ok(peer) => peer,
            Err(_) => Err(Fault {
                upstream: Some(Arc::clone(upstream.name())),
                ..Fault::new(
                    seawall_proto::Code::Timeout,
                    seawall_proto::Stage::Start,
                    format!(
                        "server {:?} was not ready within {:?}; try again.",
                        upstream.name(),
                        budget.budget()
                    ),
                )
            }),
        }
    }

    /// Whether a request comes back: a list of every upstream's tools as they are known now.
    pub async fn answers(self: &Arc<Self>) -> bool {
        let call =
            Call { endpoint: Endpoint::All, limit: Some(Duration::ZERO), ..self.own_call(&Arc::from("")) };
        Deadline::after(FIRST_LIST).bound(self.list_tools(call)).await.is_ok_and(|listed| listed.is_ok())
    }

    /// The tools a caller may see on an endpoint, answered at once from what is known.
    pub async fn list_tools(self: &Arc<Self>, call: Call) -> Result<Listed, Fault> {
        match call.endpoint.clone() {
            Endpoint::All | Endpoint::Group(_) => Ok(self.list_all(&call).await.into()),
            Endpoint::One(upstream) => self.list_one(call, &upstream).await,
        }
    }

    async fn list_all(self: &Arc<Self>, call: &Call) -> Reply {
        self.until_known(call, FIRST_LIST, |_| true).await;
        let view = self.view(&call.endpoint, &call.caller);
        let (listings, missing) = self.listings(call, &view);
        let mut tools = String::new();
        for (upstream, listing) in listings {
            for tool in &listing.tools {
                if view.shows(upstream.name(), &tool.declared.name) {
                    push_item(&mut tools, &cross::fitting(call.request.wire(), tool.listed()));
                }
            }
        }
        offer::list(&call.request, "tools", &tools, missing_meta(&missing).as_ref(), TTL_MS)
    }

    /// The prompts, resources or templates a caller may see on an endpoint of several upstreams. A resource that
    /// several have is listed once, as that of the first: it is also the one that is read.
    pub(crate) async fn list_offers(self: &Arc<Self>, call: &Call, list: List) -> Reply {
        let known = |listing: &Listing| {
            !list.is_offered(listing.offered)
                || listing.offer.items(list).is_some()
                || listing.offer.fault(list).is_some()
        };
        self.until_known(call, FIRST_LIST, known).await;
        let view = self.view(&call.endpoint, &call.caller);
        let (listings, mut missing) = self.listings(call, &view);
        let (mut items, mut seen) = (String::new(), HashSet::new());
        for (upstream, listing) in listings {
            match listing.offer.items(list) {
                Some(offered) => {
                    for item in offered.iter().filter(|item| seen.insert(Arc::clone(&item.public))) {
                        push_item(&mut items, item.listed());
                    }
                }
                None if list.is_offered(listing.offered) => {
                    let why = listing.offer.fault(list).unwrap_or("it has not answered yet");
                    missing.insert(upstream.name().to_string(), why.to_owned());
                }
                None => {}
            }
        }
        offer::list(&call.request, list.member(), &items, missing_meta(&missing).as_ref(), TTL_MS)
    }

    /// Waits until as much is known of every upstream that a caller sees as `known` wants, for `longest` at most
    /// and no longer than the caller does.
    pub(crate) async fn until_known(
        self: &Arc<Self>,
        call: &Call,
        longest: Duration,
        known: impl Fn(&Listing) -> bool,
    ) {
        let (mut tools, mut offers) = (self.catalog.changes(), self.audience.changes());
        let is_known = |upstream: &Arc<Upstream>| {
            self.catalog.listing(upstream.name(), "").is_some_and(|listing| known(&listing))
        };
        let wanted: Vec<Arc<Upstream>> = {
            let view = self.view(&call.endpoint, &call.caller);
            view.upstreams().filter(|upstream| !is_known(upstream)).cloned().collect()
        };
        if wanted.is_empty() {
            return;
        }
        for upstream in &wanted {
            // A failed upstream is tried again by whoever asks for it.
            if upstream.failure().is_some() {
                // Whoever asks meanwhile waits for the same try.
                upstream.noted(None);
                self.probe(upstream);
            }
        }
        let all_known = async {
            loop {
                let unlisted = self.unlisted.notified();
                tokio::pin!(unlisted);
                unlisted.as_mut().enable();
                if !wanted.iter().any(|upstream| !is_known(upstream) && upstream.failure().is_none()) {
                    return;
                }
                tokio::select! {
                    _ = tools.recv() => {}
                    _ = offers.recv() => {}
                    () = unlisted => {}
                }
            }
        };
        let patience = Deadline::after(call.limit.unwrap_or(longest).min(longest));
        let _ = patience.bound(all_known).await;
    }

    /// What is known of the upstreams that a caller sees, in their order, and why nothing is of the others.
    fn listings<'a>(&self, call: &Call, view: &'a View<'_>) -> (Vec<Known<'a>>, BTreeMap<String, String>) {
        let fingerprint = catalog::fingerprint(call.request.face());
        let mut missing: BTreeMap<String, String> =
            view.waiting().map(|(name, why)| (name.to_owned(), why)).collect();
        let mut listings = Vec::new();
        for upstream in view.upstreams() {
            match self.catalog.listing(upstream.name(), &fingerprint) {
                Some(listing) => listings.push((upstream, listing)),
                None => drop(missing.insert(upstream.name().to_string(), self.why_missing(upstream))),
            }
        }
        (listings, missing)
    }

    fn why_missing(&self, upstream: &Upstream) -> String {
        match upstream.failure() {
            Some(failure) => format!("{}: {}", failure.stage, failure.message),
            None => String::from("it has not answered yet"),
        }
    }

    /// The tools of one upstream: its own answer where it comes soon, else what is known.
    async fn list_one(self: &Arc<Self>, call: Call, upstream: &Arc<str>) -> Result<Listed, Fault> {
        let fingerprint = catalog::fingerprint(call.request.face());
        let known = self.catalog.exact(upstream, &fingerprint);
        let paged =
            call.request.message().params().is_some_and(|params| params.as_str().contains("\"cursor\""));
        let wire = call.request.wire();
        let restricted = !self.sees_all(&call.caller, upstream, known.as_deref());
        if let Some(known) = known.filter(|_| !paged) {
            let live = self.whole(call.clone());
            if !restricted && let Ok(Ok(reply)) = Deadline::after(FRESH).bound(live).await {
                self.learn_from(&reply.reply, &call, upstream).await;
                if self.is_pinned(upstream) {
                    return Ok(self.filtered(&call, upstream, &reply.reply).into());
                }
                return Ok(reply);
            }
            let tools: Vec<Cow<'_, str>> = known
                .tools
                .iter()
                .filter(|tool| call.caller.may_use(upstream, &tool.declared.name))
                .map(|tool| cross::fitting(wire, tool.declared.declaration.as_str()))
                .collect();
            let stale = if restricted { "" } else { r#","_meta":{"seawall/stale":true}"# };
            let members = format!(r#"{{"tools":[{}]{stale}}}"#, tools.join(","));
            return Ok(serve::result(&call.request, &members, 0).into());
        }
        let listed = self.whole(call.clone()).await?;
        if !paged {
            self.learn_from(&listed.reply, &call, upstream).await;
        }
        // What was learnt just now may be a tool that is not to be shown.
        let known = self.catalog.exact(upstream, &fingerprint);
        if !restricted && !self.is_pinned(upstream) && known.is_none_or(|known| known.shows_all()) {
            return Ok(listed);
        }
        Ok(self.filtered(&call, upstream, &listed.reply).into())
    }

    /// Whether definitions of an upstream's tools have to be accepted before they are shown.
    fn is_pinned(&self, upstream: &str) -> bool {
        self.upstream(upstream).is_some_and(|upstream| upstream.config().pin)
    }

    /// A page with only the tools its caller may see, and of a pinned upstream only definitions that were accepted.
    fn filtered(&self, call: &Call, upstream: &str, reply: &Reply) -> Reply {
        let Some(page) = page_of(reply, "tools") else { return reply.clone() };
        let pinned = self.upstream(upstream).filter(|upstream| upstream.config().pin);
        let wire = call.request.wire();
        let seen: Vec<String> = page
            .items
            .into_iter()
            .filter_map(|item| {
                let tool = Tool::read(item.clone())?;
                let seen = call.caller.may_use(upstream, &tool.name)
                    && !self.catalog.leaves_out(upstream, &tool.name);
                match &pinned {
                    Some(pinned) if seen => {
                        let shown = self.catalog.vetted(upstream, pinned.key(), tool)?;
                        Some(cross::fitting(wire, shown.as_str()).into_owned())
                    }
                    _ => seen.then(|| item.as_str().to_owned()),
                }
            })
            .collect();
        let next = page.next.map_or_else(String::new, |next| format!(r#","nextCursor":{}"#, json!(next)));
        serve::result(&call.request, &format!(r#"{{"tools":[{}]{next}}}"#, seen.join(",")), 0)
    }

    fn sees_all(&self, caller: &Caller, upstream: &str, known: Option<&Listing>) -> bool {
        if known.is_some_and(|listing| !listing.shows_all()) {
            return false;
        }
        caller.sees_everything()
            || known.is_some_and(|listing| {
                listing.tools.iter().all(|tool| caller.may_use(upstream, &tool.declared.name))
            })
    }

    /// Takes in a list that passed by, if it is whole.
    async fn learn_from(self: &Arc<Self>, reply: &Reply, call: &Call, upstream: &Arc<str>) {
        let Some(page) = page_of(reply, "tools").filter(|page| page.next.is_none()) else { return };
        let Some(upstream) = self.upstream(upstream) else { return };
        let Some(instance) = upstream.ready(&Wanted::by(call)) else { return };
        let listing = Listing::new(upstream.config(), instance.peer().clone(), page.items);
        let fingerprint = catalog::fingerprint(call.request.face());
        self.catalog.learn(upstream.name(), upstream.key(), &fingerprint, listing).await;
    }

    /// A call of Seawall's own.
    fn own_call(&self, upstream: &Arc<str>) -> Call {
        Call {
            caller: Arc::clone(&self.own),
            conversation: Some(Arc::from(OWN)),
            endpoint: Endpoint::One(Arc::clone(upstream)),
            request: Arc::new(Request::own("tools/list", &json!({}), Wire::own(), Face::own())),
            limit: None,
            heartbeat: None,
            followed: false,
            idempotency: None,
        }
    }

    fn own_wanted(&self) -> Wanted {
        Wanted::by(&self.own_call(&Arc::from("")))
    }

    /// A call as the conversation's client would make it.
    fn call_of(&self, conversation: &Arc<Conversation>, upstream: &Arc<str>) -> Call {
        Call {
            caller: Arc::clone(&self.own),
            conversation: Some(Arc::clone(&conversation.id)),
            endpoint: Endpoint::One(Arc::clone(upstream)),
            request: Arc::new(Request::own(
                "tools/list",
                &json!({}),
                conversation.wire,
                Arc::clone(&conversation.face),
            )),
            limit: None,
            heartbeat: None,
            followed: conversation.is_followed(),
            idempotency: None,
        }
    }
}

/// The fault of an upstream that answered a request for a list with something else.
fn no_list(upstream: &Upstream, method: &str, reply: &Reply) -> Fault {
    let said: String = String::from_utf8_lossy(&reply.body).chars().take(300).collect();
    let text = format!("server {:?} answered {method} with no list: {said}", upstream.name());
    Fault::new(seawall_proto::Code::UpstreamError, seawall_proto::Stage::Answer, text)
}

fn page_of(reply: &Reply, member: &str) -> Option<Page> {
    Page::read(&Message::parse(reply.body.clone()).ok()?.result()?, member)
}

fn push_item(items: &mut String, item: &str) {
    if !items.is_empty() {
        items.push(',');
    }
    items.push_str(item);
}

/// Which upstreams are missing, for `_meta`; nothing where none is.
fn missing_meta(missing: &BTreeMap<String, String>) -> Option<Value> {
    (!missing.is_empty()).then(|| json!(missing))
}
