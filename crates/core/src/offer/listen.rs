//! A modern client's stream of changes on an endpoint of several upstreams.

use super::watch::{Ear, SUBSCRIBE, WATCHES, Watch};
use crate::{Gateway, call::Call, time::Deadline};
use bytes::Bytes;
use seawall_proto::{
    Request,
    era::offer::{self, Filter, Offered, Offering},
};
use std::sync::Arc;
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc,
};

/// Changed resources that a stream may lag behind.
const UPDATES: usize = 64;

/// What one stream of changes is told. Dropped, nothing is watched for it any more.
#[derive(Debug)]
pub struct Listener {
    gateway: Arc<Gateway>,
    call: Call,
    granted: Filter,
    tools: Receiver<Arc<str>>,
    lists: Receiver<(Arc<str>, Offering)>,
    updates: mpsc::Receiver<Arc<str>>,
    /// What else it is to be told since it lagged behind.
    behind: Vec<Offering>,
    /// Keeps `updates` open where nothing is watched.
    _ear: mpsc::Sender<Arc<str>>,
    _watches: Vec<Watch>,
}

impl Gateway {
    /// Begins to listen for what a `subscriptions/listen` asks for. Of that is granted what some upstream has:
    /// changes of lists, and of those resources whose upstreams have said that they will tell.
    pub async fn listen(self: &Arc<Self>, call: Call) -> Listener {
        let asked = Filter::of(&call.request);
        // Before anything is looked up, so that nothing falls between.
        let (tools, lists) = (self.catalog.changes(), self.audience.changes());
        let (ear, updates) = mpsc::channel(UPDATES);
        let (mut watches, mut uris) = (Vec::new(), Vec::new());
        let until = Deadline::after(SUBSCRIBE);
        // What is over the bound is not granted.
        for uri in asked.uris.into_iter().take(WATCHES) {
            if uris.contains(&uri) {
                continue;
            }
            if let Some(watch) = self.watch_soon(&call, &uri, Ear::Stream(ear.clone()), until).await {
                watches.push(watch);
                uris.push(uri);
            }
        }
        let offered = self.offered(&call);
        let granted = Filter {
            tools: asked.tools,
            prompts: asked.prompts && offered.prompts,
            resources: asked.resources && offered.resources,
            uris,
        };
        let gateway = Arc::clone(self);
        Listener {
            gateway,
            call,
            granted,
            tools,
            lists,
            updates,
            behind: Vec::new(),
            _ear: ear,
            _watches: watches,
        }
    }

    /// What the upstreams that a caller sees have together. One that has not said yet may have anything, one that
    /// failed has nothing.
    pub(super) fn offered(&self, call: &Call) -> Offered {
        let fingerprint = crate::catalog::fingerprint(call.request.face());
        let view = self.view(&call.endpoint, &call.caller);
        view.upstreams().fold(Offered::default(), |offered, upstream| {
            offered.or(match self.catalog.listing(upstream.name(), &fingerprint) {
                Some(listing) => listing.offered,
                None if upstream.failure().is_none() => Offered::EVERYTHING,
                None => Offered::default(),
            })
        })
    }
}

impl Listener {
    /// The request that it listens for.
    pub fn request(&self) -> &Arc<Request> {
        &self.call.request
    }

    /// The first message of the stream: what will be told.
    pub fn acknowledged(&self) -> Bytes {
        offer::acknowledged(&self.call.request, &self.granted)
    }

    /// The next change, as a message. Cancel-safe.
    pub async fn next(&mut self) -> Bytes {
        loop {
            if let Some(changed) = self.behind.pop() {
                return offer::changed(Some(&self.call.request), changed);
            }
            let (upstream, changed) = tokio::select! {
                uri = self.updates.recv() => match uri {
                    Some(uri) => return offer::updated(Some(&self.call.request), &uri),
                    None => continue,
                },
                changed = self.tools.recv() => match changed {
                    Ok(upstream) => (upstream, Offering::Tools),
                    Err(RecvError::Lagged(_)) => {
                        self.lag(&[Offering::Tools]);
                        continue;
                    }
                    Err(RecvError::Closed) => return std::future::pending().await,
                },
                changed = self.lists.recv() => match changed {
                    Ok(told) => told,
                    Err(RecvError::Lagged(_)) => {
                        self.lag(&[Offering::Prompts, Offering::Resources]);
                        continue;
                    }
                    Err(RecvError::Closed) => return std::future::pending().await,
                },
            };
            let view = self.gateway.view(&self.call.endpoint, &self.call.caller);
            if self.granted.wants(changed) && view.reaches(&upstream) {
                return offer::changed(Some(&self.call.request), changed);
            }
        }
    }

    /// It lagged behind, so it is told that something changed: what, it asks for anyway.
    fn lag(&mut self, behind: &[Offering]) {
        self.behind.extend(behind.iter().filter(|offering| self.granted.wants(**offering)));
    }
}
