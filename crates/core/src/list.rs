//! Lists of tools: answered from the catalogue, which is filled through the call path.

use crate::{
    Gateway,
    call::{Call, Endpoint, auth::Caller},
    catalog::{self, Listing},
    conversation::Conversation,
    life::Task,
    time::Deadline,
    upstream::{Failure, Upstream, Wanted},
};
use seawall_proto::{
    Event, Fault, Message, Reply, Request,
    era::{Face, Wire, peer::Peer, serve},
    mcp::Page,
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
            this.refresh(upstream.name(), None).await;
            this.catalog.keep_eras(upstream.key(), upstream.spoken()).await;
            let wanted = this.own_wanted();
            if let Some(instance) = upstream.ready(&wanted) {
                if instance.peer().list_changes() {
                    instance.follow();
                }
                // A process is not kept waiting for a caller that may never share it.
                upstream.end_probe(&wanted);
            }
        });
    }

    /// Reads an upstream's whole list into the catalogue: as the conversation's client sees it, or as a client
    /// without capabilities does. Returns what went wrong.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        upstream: &Arc<str>,
        conversation: Option<&Arc<Conversation>>,
    ) -> Option<Fault> {
        let upstream = self.upstream(upstream)?;
        let template = match conversation {
            Some(conversation) => self.call_of(conversation, upstream.name()),
            None => self.own_call(upstream.name()),
        };
        match self.read_list(&upstream, &template).await {
            Ok(listing) => {
                let fingerprint = catalog::fingerprint(template.request.face());
                self.catalog.learn(upstream.name(), upstream.key(), &fingerprint, listing).await;
                upstream.noted(None);
                None
            }
            Err(fault) => {
                let stage = fault.stage.name();
                tracing::warn!(
                    upstream = &**upstream.name(),
                    stage,
                    reason = fault.message,
                    "its tools could not be listed"
                );
                upstream.noted(Some(Failure { stage, message: fault.message.clone() }));
                Some(fault)
            }
        }
    }

    /// Every page of an upstream's list of tools.
    async fn read_list(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        template: &Call,
    ) -> Result<Listing, Fault> {
        let budget = Deadline::after(upstream.config().start_timeout + upstream.config().list_timeout);
        let (mut declarations, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let params = cursor.take().map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
            let wire = *template.request.wire();
            let request = Request::own("tools/list", &params, wire, Arc::clone(template.request.face()));
            let request = Arc::new(request);
            let reply = match budget.bound(self.whole(Call { request, ..template.clone() })).await {
                Ok(listed) => listed?.reply,
                Err(_) => break,
            };
            let Some(page) = page_of(&reply) else { return Err(no_list(upstream, &reply)) };
            declarations.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let peer = self.peer(upstream, template).await?;
        Ok(Listing::new(upstream.config(), peer, declarations))
    }

    /// What the upstream says of itself, from an instance that is open.
    async fn peer(&self, upstream: &Arc<Upstream>, template: &Call) -> Result<Peer, Fault> {
        let wanted = Wanted::by(template).for_one_call(upstream);
        let instance = upstream.instance(&wanted).await.map_err(|lost| {
            Fault::new(seawall_proto::Code::UpstreamUnavailable, seawall_proto::Stage::Start, lost.why)
        })?;
        upstream.end_call(&wanted);
        Ok(instance.peer().clone())
    }

    /// A call's end, its events unheard.
    async fn whole(self: &Arc<Self>, call: Call) -> Result<Listed, Fault> {
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
        let budget = Deadline::after(upstream.config().timeout.min(upstream.config().start_timeout));
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
            Endpoint::All => Ok(self.list_all(&call).await.into()),
            Endpoint::One(upstream) => self.list_one(call, &upstream).await,
        }
    }

    async fn list_all(self: &Arc<Self>, call: &Call) -> Reply {
        let mut changes = self.catalog.changes();
        let known =
            |gateway: &Self, upstream: &Arc<Upstream>| gateway.catalog.listing(upstream.name(), "").is_some();
        let patience = Deadline::after(call.limit.unwrap_or(FIRST_LIST).min(FIRST_LIST));
        let wanted: Vec<_> = self.upstreams().into_iter().filter(|upstream| !known(self, upstream)).collect();
        if !wanted.is_empty() {
            for upstream in &wanted {
                // A failed upstream is tried again by whoever asks for it.
                if upstream.failure().is_some() {
                    self.probe(upstream);
                }
            }
            let all_known = async {
                while wanted.iter().any(|upstream| !known(self, upstream)) {
                    let _ = changes.recv().await;
                }
            };
            let _ = patience.bound(all_known).await;
        }
        let fingerprint = catalog::fingerprint(call.request.face());
        let mut tools = String::from("[");
        let mut missing = BTreeMap::new();
        for upstream in self.upstreams() {
            let Some(listing) = self.catalog.listing(upstream.name(), &fingerprint) else {
                missing.insert(upstream.name().to_string(), self.why_missing(&upstream));
                continue;
            };
            for tool in &listing.tools {
                if call.caller.may_use(upstream.name(), &tool.declared.name) {
                    if tools.len() > 1 {
                        tools.push(',');
                    }
                    tools.push_str(tool.listed());
                }
            }
        }
        for configured in &self.config().upstreams {
            if configured.enabled && !configured.needs.is_empty() {
                missing.insert(configured.name.clone(), format!("needs {}", configured.needs.join(", ")));
            }
        }
        tools.push(']');
        let meta = if missing.is_empty() {
            String::new()
        } else {
            format!(r#","_meta":{}"#, json!({"seawall/missing": missing}))
        };
        serve::result(&call.request, &format!(r#"{{"tools":{tools}{meta}}}"#), TTL_MS)
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
        let restricted = !self.sees_all(&call.caller, upstream, known.as_deref());
        if let Some(known) = known.filter(|_| !paged) {
            let live = self.whole(call.clone());
            if !restricted && let Ok(Ok(reply)) = Deadline::after(FRESH).bound(live).await {
                self.learn_from(&reply.reply, &call, upstream).await;
                return Ok(reply);
            }
            let tools: Vec<&str> = known
                .tools
                .iter()
                .filter(|tool| call.caller.may_use(upstream, &tool.declared.name))
                .map(|tool| tool.declared.declaration.as_str())
                .collect();
            let stale = if restricted { "" } else { r#","_meta":{"seawall/stale":true}"# };
            let members = format!(r#"{{"tools":[{}]{stale}}}"#, tools.join(","));
            return Ok(serve::result(&call.request, &members, 0).into());
        }
        let listed = self.whole(call.clone()).await?;
        if !paged {
            self.learn_from(&listed.reply, &call, upstream).await;
        }
        if !restricted {
            return Ok(listed);
        }
        Ok(self.filtered(&call, upstream, &listed.reply).into())
    }

    /// A page with only the tools its caller may see.
    fn filtered(&self, call: &Call, upstream: &str, reply: &Reply) -> Reply {
        let Some(page) = page_of(reply) else { return reply.clone() };
        let seen: Vec<&str> = page
            .items
            .iter()
            .filter(|item| {
                seawall_proto::mcp::Tool::read((*item).clone())
                    .is_some_and(|tool| call.caller.may_use(upstream, &tool.name))
            })
            .map(|item| item.as_str())
            .collect();
        let next = page.next.map_or_else(String::new, |next| format!(r#","nextCursor":{}"#, json!(next)));
        serve::result(&call.request, &format!(r#"{{"tools":[{}]{next}}}"#, seen.join(",")), 0)
    }

    fn sees_all(&self, caller: &Caller, upstream: &str, known: Option<&Listing>) -> bool {
        caller.sees_everything()
            || known.is_some_and(|listing| {
                listing.tools.iter().all(|tool| caller.may_use(upstream, &tool.declared.name))
            })
    }

    /// Takes in a list that passed by, if it is whole.
    async fn learn_from(self: &Arc<Self>, reply: &Reply, call: &Call, upstream: &Arc<str>) {
        let Some(page) = page_of(reply).filter(|page| page.next.is_none()) else { return };
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
        }
    }
}

/// The fault of an upstream that answered a request for its tools with something else.
fn no_list(upstream: &Upstream, reply: &Reply) -> Fault {
    let said: String = String::from_utf8_lossy(&reply.body).chars().take(300).collect();
    let text = format!("server {:?} answered tools/list with no list: {said}", upstream.name());
    Fault::new(seawall_proto::Code::UpstreamError, seawall_proto::Stage::Answer, text)
}

fn page_of(reply: &Reply) -> Option<Page> {
    Page::read(&Message::parse(reply.body.clone()).ok()?.result()?, "tools")
}
