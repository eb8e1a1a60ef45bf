//! The catalogue: what every upstream offers, as it last said, kept across restarts.
//!
//! Lists are answered from here, so that no upstream that is slow, stopped or gone can empty anybody's list. What is
//! known of an upstream is kept by what it is (its command or URL), and by what the client that asked can do:
//! servers show different tools to clients of different capabilities.

mod names;
mod offer;
mod pins;
mod validate;

use crate::config;
use names::{fold, hashed, public_name};
pub use offer::{Item, Offer};
pub use pins::{Accepted, Held, Standing};
use pins::{Book, Hash, Seen, book_key};
use seawall_jobs::{Draft, Expect, Store, StoreError};
use seawall_proto::{
    Raw,
    era::{
        Face, Spoken,
        offer::{List, Offered, Offering},
        peer::Peer,
    },
    mcp::{self, Effects},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};
use tokio::sync::broadcast;
use validate::Validator;

/// Version of the bytes kept in the store.
const FORMAT: u64 = 1;
/// Version of the bytes in which an upstream's eras are kept.
const ERAS_FORMAT: u8 = 1;
const NAMESPACE: &str = "catalogue";
const ERAS: &str = "eras";
/// Most listings kept per upstream, one per kind of client.
const LISTINGS: usize = 16;
/// Changes a listener may lag behind before it is told only that something changed.
const CHANGES: usize = 64;

/// One tool of one upstream.
#[derive(Debug)]
pub struct Tool {
    /// The upstream's own declaration.
    pub declared: mcp::Tool,
    /// Its name where every upstream's tools are listed together.
    pub public: Arc<str>,
    /// What a call may change, as configured or declared.
    pub effects: Effects,
    /// Its declaration under its public name.
    listed: String,
    validator: OnceLock<Option<Validator>>,
    /// What its declaration is compared by.
    hash: OnceLock<Hash>,
}

/// What one upstream offers to one kind of client.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What the upstream said of itself when it was opened.
    pub peer: Peer,
    /// What it says that it has.
    pub offered: Offered,
    /// Its tools as they are shown, in its order.
    pub tools: Vec<Arc<Tool>>,
    /// Its other lists.
    pub offer: Offer,
    /// Its tools as it declared them last.
    declared: Vec<Arc<Tool>>,
    /// Whether it shows only definitions that were accepted.
    pinned: bool,
    /// Tools that may not be used, because the definitions that are here were not accepted.
    held: HashMap<Arc<str>, (Held, Raw)>,
    by_name: HashMap<Arc<str>, usize>,
    /// Tools that are not shown, because no client of the modern era could call them.
    left_out: HashSet<Arc<str>>,
}

/// Everything known of all upstreams.
pub struct Catalog {
    known: RwLock<Known>,
    changes: broadcast::Sender<Arc<str>>,
    store: Option<Arc<Store>>,
}

#[derive(Debug, Default)]
struct Known {
    upstreams: HashMap<Arc<str>, Entry>,
    /// Public names of tools, as they stand and folded, to upstream and tool.
    names: HashMap<String, (Arc<str>, Arc<str>)>,
    /// Public names of prompts, likewise.
    prompts: HashMap<String, (Arc<str>, Arc<str>)>,
    /// The definitions that were accepted of each upstream.
    books: HashMap<String, Book>,
    /// Whether those that were kept could not be read, and must not be overwritten.
    unread: bool,
}

#[derive(Debug, Default)]
struct Entry {
    listings: HashMap<String, Arc<Listing>>,
    /// The listing for clients of no capabilities, or else the last one made.
    common: Option<Arc<Listing>>,
    /// When it was last read, in this run of the daemon.
    listed: Option<jiff::Timestamp>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Catalog")
    }
}

impl Tool {
    /// Checks arguments against the tool's schema. A schema that does not compile lets everything pass.
    ///
    /// # Errors
    /// One sentence that names each field at fault.
    pub fn validate(&self, arguments: Option<&Raw>) -> Result<(), String> {
        let validator = self.validator.get_or_init(|| {
            self.declared.input_schema.as_ref().and_then(|schema| match Validator::compile(schema) {
                Ok(validator) => Some(validator),
                Err(reason) => {
                    tracing::warn!(
                        tool = &*self.public,
                        reason,
                        "its schema does not compile; arguments pass unchecked"
                    );
                    None
                }
            })
        });
        validator.as_ref().map_or(Ok(()), |validator| validator.check(arguments))
    }

    /// Why its schema does not compile, where it has one that does not.
    pub fn schema_fault(&self) -> Option<String> {
        Validator::compile(self.declared.input_schema.as_ref()?).err()
    }

    /// Its declaration under its public name, as JSON text.
    pub fn listed(&self) -> &str {
        &self.listed
    }

    /// A tool of which only the declaration matters.
    fn unlisted(declared: mcp::Tool) -> Self {
        Self {
            public: Arc::clone(&declared.name),
            effects: declared.effects,
            listed: String::new(),
            validator: OnceLock::new(),
            hash: OnceLock::new(),
            declared,
        }
    }

    fn hash(&self) -> &Hash {
        self.hash.get_or_init(|| pins::hash(self.declared.declaration.as_str()))
    }
}

impl Listing {
    /// A listing of what `upstream` declared, all of it as it stands.
    pub fn new(upstream: &config::Upstream, peer: Peer, declarations: Vec<Raw>) -> Self {
        let mut tools = Vec::with_capacity(declarations.len());
        let mut by_name = HashMap::new();
        let mut folded = HashSet::new();
        let mut left_out = HashSet::new();
        for declared in declarations.into_iter().filter_map(mcp::Tool::read) {
            if by_name.contains_key(&declared.name) {
                continue;
            }
            if let Some(fault) = declared.header_fault.as_ref().filter(|_| !peer.has_session()) {
                tracing::warn!(upstream = upstream.name, tool = &*declared.name, fault, "a tool is left out");
                left_out.insert(Arc::clone(&declared.name));
                continue;
            }
            by_name.insert(Arc::clone(&declared.name), tools.len());
            let configured = upstream.tools.get(&*declared.name);
            let believed = if upstream.trust_hints { declared.effects } else { Effects::Writes };
            let mut public = public_name(&upstream.name, &declared.name);
            if !folded.insert(fold(&public)) {
                public = hashed(&public, &upstream.name, &declared.name);
            }
            let public: Arc<str> = public.into();
            tools.push(Arc::new(Tool {
                listed: declared.declared_as(&public, &upstream.name),
                effects: configured.and_then(|tool| tool.effects).unwrap_or(believed),
                validator: OnceLock::new(),
                hash: OnceLock::new(),
                public,
                declared,
            }));
        }
        Self {
            offered: Offered::of(&peer),
            peer,
            declared: tools.clone(),
            tools,
            offer: Offer::default(),
            pinned: upstream.pin,
            held: HashMap::new(),
            by_name,
            left_out,
        }
    }

    /// Whether no tool is left out because no client of the modern era could call it.
    pub fn shows_all(&self) -> bool {
        self.left_out.is_empty()
    }

    /// The same with other lists besides the tools.
    fn with_offer(&self, offer: Offer) -> Self {
        Self { offer, ..self.clone() }
    }

    /// A tool by its own name.
    pub fn tool(&self, name: &str) -> Option<&Arc<Tool>> {
        self.by_name.get(name).map(|at| &self.tools[*at])
    }

    /// Whether the upstream said the same of itself and its tools, and is judged by the same rule.
    fn equals(&self, other: &Self) -> bool {
        self.pinned == other.pinned
            && self.peer.opening() == other.peer.opening()
            && same(&self.declared, &other.declared)
    }

    /// Whether clients see the same in another listing.
    fn looks_like(&self, other: &Self) -> bool {
        self.peer.opening() == other.peer.opening() && same(&self.tools, &other.tools)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let tools: Vec<&str> = self.declared.iter().map(|tool| tool.declared.declaration.as_str()).collect();
        // Declarations are kept as strings: a tree would lose the digits of big numbers.
        json!({
            "format": FORMAT,
            "version": self.peer.wire().version(),
            "opening": self.peer.opening().as_str(),
            "tools": tools,
            "offer": self.offer.to_value(),
        })
        .to_string()
        .into_bytes()
    }

    fn from_bytes(upstream: &config::Upstream, bytes: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        if value["format"] != FORMAT {
            return None;
        }
        let raw = |text: &str| Raw::parse(text.to_owned().into()).ok();
        let peer = Peer::recall(value["version"].as_str()?, raw(value["opening"].as_str()?)?)?;
        let tools = value["tools"].as_array()?.iter().filter_map(|tool| raw(tool.as_str()?)).collect();
        let offer = Offer::from_value(&upstream.name, &value["offer"]);
        Some(Self { offer, ..Self::new(upstream, peer, tools) })
    }
}

fn same(some: &[Arc<Tool>], others: &[Arc<Tool>]) -> bool {
    some.len() == others.len()
        && some.iter().zip(others).all(|(a, b)| a.declared.declaration == b.declared.declaration)
}

/// The key of what is shown to clients like this one.
pub fn fingerprint(face: &Face) -> String {
    let digest = Sha256::digest(face.fingerprint().as_str());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Catalog {
    /// An empty catalogue. Without a store it is not kept.
    pub fn new(store: Option<Arc<Store>>) -> Self {
        Self { known: RwLock::default(), changes: broadcast::channel(CHANGES).0, store }
    }

    /// Reads what was kept of these upstreams: their eras come back by name. What cannot be read is left out.
    pub async fn load(&self, upstreams: &[Arc<config::Upstream>]) -> HashMap<String, Spoken> {
        let Some(store) = &self.store else { return HashMap::new() };
        let by_key: HashMap<String, &Arc<config::Upstream>> =
            upstreams.iter().map(|upstream| (upstream.key(), upstream)).collect();
        let now = jiff::Timestamp::now().as_millisecond();
        self.load_books().await;
        match store.list(NAMESPACE, now).await {
            Ok(records) => {
                for record in records {
                    let Some((key, fingerprint)) = record.key.split_once(':') else { continue };
                    let Some(upstream) = by_key.get(key) else { continue };
                    let Some(listing) = Listing::from_bytes(upstream, &record.bytes) else { continue };
                    let put = self.put(&Arc::from(upstream.name.as_str()), key, fingerprint, listing);
                    if put.seen.changed {
                        self.keep_book(&upstream.name, key).await;
                    }
                    self.report(&upstream.name, &put.seen, &put.held);
                }
            }
            Err(fault) => tracing::error!(%fault, "the catalogue could not be read"),
        }
        match store.list(ERAS, now).await {
            Ok(records) => records
                .into_iter()
                .filter_map(|record| {
                    let upstream = by_key.get(&record.key)?;
                    match record.bytes[..] {
                        [ERAS_FORMAT, byte] => Some((upstream.name.clone(), Spoken::from_byte(byte))),
                        _ => None,
                    }
                })
                .collect(),
            Err(fault) => {
                tracing::error!(%fault, "the upstreams' eras could not be read");
                HashMap::new()
            }
        }
    }

    /// Keeps which eras an upstream speaks.
    pub async fn keep_eras(&self, key: &str, spoken: Spoken) {
        self.keep(ERAS, key, "", &[ERAS_FORMAT, spoken.to_byte()]).await;
    }

    /// Takes in the tools that an upstream offers to clients of one fingerprint, keeps them, and tells whether they
    /// are news. What is known of its other lists stays.
    pub async fn learn(
        &self,
        upstream: &Arc<str>,
        key: &str,
        fingerprint: &str,
        mut listing: Listing,
    ) -> bool {
        if let Some(known) = self.listing(upstream, fingerprint) {
            listing.offer = known.offer.clone();
        }
        if self.exact(upstream, fingerprint).is_none_or(|known| !known.equals(&listing)) {
            // Definitions are compared under the lock, where nothing should take long.
            for tool in &listing.declared {
                tool.hash();
            }
        }
        let bytes = listing.to_bytes();
        let put = self.put(upstream, key, fingerprint, listing);
        self.note_listed(upstream);
        // What was accepted is kept before the list that it was accepted from.
        if put.seen.changed {
            self.keep_book(upstream, key).await;
        }
        if put.changed {
            self.keep(NAMESPACE, &format!("{key}:{fingerprint}"), "", &bytes).await;
        }
        self.report(upstream, &put.seen, &put.held);
        if let (Some(dropped), Some(store)) = (put.dropped, &self.store)
            && let Err(fault) = store.delete(NAMESPACE, &format!("{key}:{dropped}"), Expect::Any).await
        {
            tracing::warn!(%fault, "what an upstream offered once could not be forgotten");
        }
        if put.news {
            let _ = self.changes.send(Arc::clone(upstream));
        }
        put.news
    }

    /// Takes in an upstream's other lists for clients of a fingerprint whose tools are known, keeps them, and tells
    /// which of them are news.
    pub async fn learn_offer(
        &self,
        upstream: &Arc<str>,
        key: &str,
        fingerprint: &str,
        offer: Offer,
    ) -> Vec<Offering> {
        let Some((bytes, news)) = self.put_offer(upstream, fingerprint, offer) else { return Vec::new() };
        self.keep(NAMESPACE, &format!("{key}:{fingerprint}"), "", &bytes).await;
        news
    }

    /// Writes a record; whether it is kept.
    async fn keep(&self, namespace: &str, key: &str, owner: &str, bytes: &[u8]) -> bool {
        let Some(store) = &self.store else { return false };
        let draft = Draft { namespace, key, owner, bytes, expires: None };
        // A store that cannot be written is a visible fault, never a stopped call path.
        let put = store.put(draft, Expect::Any, jiff::Timestamp::now().as_millisecond()).await;
        match &put {
            Ok(_) => {}
            Err(fault @ (StoreError::Full { .. } | StoreError::ReadOnly { .. })) => {
                tracing::error!(namespace, %fault, "what is known of an upstream could not be kept");
            }
            Err(fault) => {
                tracing::warn!(namespace, %fault, "what is known of an upstream could not be kept");
            }
        }
        put.is_ok()
    }

    /// Forgets upstreams that are configured no more.
    pub fn retain(&self, upstreams: &[Arc<str>]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.upstreams.retain(|name, _| upstreams.contains(name));
        known.index();
    }

    /// Forgets one upstream, whose configuration changed.
    pub fn forget(&self, upstream: &Arc<str>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.upstreams.remove(upstream);
        known.index();
    }

    /// Hears of each upstream whose tools change, by name.
    pub fn changes(&self) -> broadcast::Receiver<Arc<str>> {
        self.changes.subscribe()
    }

    /// What an upstream offers to clients of this fingerprint, or to any.
    pub fn listing(&self, upstream: &str, fingerprint: &str) -> Option<Arc<Listing>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let entry = known.upstreams.get(upstream)?;
        entry.listings.get(fingerprint).or(entry.common.as_ref()).cloned()
    }

    /// What an upstream offers to clients of exactly this fingerprint.
    pub fn exact(&self, upstream: &str, fingerprint: &str) -> Option<Arc<Listing>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.upstreams.get(upstream)?.listings.get(fingerprint).cloned()
    }

    /// A tool of an upstream by its own name, in whichever listing has it.
    pub fn tool(&self, upstream: &str, name: &str) -> Option<Arc<Tool>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let entry = known.upstreams.get(upstream)?;
        let common = entry.common.iter().find_map(|listing| listing.tool(name));
        common.or_else(|| entry.listings.values().find_map(|listing| listing.tool(name))).cloned()
    }

    /// The upstream and tool that a public name stands for; models change case and dashes, so folded names do too.
    pub fn resolve(&self, public: &str) -> Option<(Arc<str>, Arc<str>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.names.get(public).or_else(|| known.names.get(&fold(public))).cloned()
    }

    /// The upstream and prompt that a public name stands for.
    pub fn prompt(&self, public: &str) -> Option<(Arc<str>, Arc<str>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.prompts.get(public).or_else(|| known.prompts.get(&fold(public))).cloned()
    }

    fn put_offer(&self, upstream: &str, fingerprint: &str, offer: Offer) -> Option<(Vec<u8>, Vec<Offering>)> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let entry = known.upstreams.get_mut(upstream)?;
        let old = entry.listings.get_mut(fingerprint)?;
        let news = old.offer.differences(&offer);
        if news.is_empty() {
            return None;
        }
        let listing = Arc::new(old.with_offer(offer));
        if entry.common.as_ref().is_some_and(|common| Arc::ptr_eq(common, old)) {
            entry.common = Some(Arc::clone(&listing));
        }
        *old = Arc::clone(&listing);
        known.index();
        drop(known);
        Some((listing.to_bytes(), news))
    }

    /// Whether a tool is not shown, because no client of the modern era could call it.
    pub fn leaves_out(&self, upstream: &str, tool: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let listing = known.upstreams.get(upstream).and_then(|entry| entry.common.as_ref());
        listing.is_some_and(|listing| listing.left_out.contains(tool))
    }

    /// When an upstream's list was last read; `None` where it is only remembered from an earlier run.
    pub fn listed(&self, upstream: &str) -> Option<jiff::Timestamp> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).upstreams.get(upstream)?.listed
    }

    fn note_listed(&self, upstream: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.upstreams.get_mut(upstream) {
            entry.listed = Some(jiff::Timestamp::now());
        }
    }

    fn put(&self, upstream: &Arc<str>, key: &str, fingerprint: &str, mut listing: Listing) -> Put {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        let entry = known.upstreams.entry(Arc::clone(upstream)).or_default();
        let old = entry.listings.get(fingerprint);
        if old.is_some_and(|old| old.equals(&listing)) {
            return Put::default();
        }
        let unread = known.unread;
        let book = known.books.entry(book_key(key, upstream)).or_insert_with(|| Book::new(unread));
        let mut seen = book.see(&listing.declared, listing.pinned);
        listing.judge(upstream, book);
        let mut held = Vec::new();
        for (name, why) in &listing.held {
            if !entry.listings.values().any(|other| other.held.get(name) == Some(why)) {
                held.push((Arc::clone(name), why.0));
            }
        }
        // What a new kind of client sees is no news where it is what the others see.
        let news = old.or(entry.common.as_ref()).is_none_or(|old| !old.looks_like(&listing));
        let listing = Arc::new(listing);
        let own = self::fingerprint(&Face::own());
        let mut dropped = None;
        if entry.listings.len() >= LISTINGS && old.is_none() {
            dropped = entry.listings.keys().find(|key| **key != own).cloned();
            if let Some(dropped) = &dropped {
                entry.listings.remove(dropped);
            }
        }
        entry.listings.insert(fingerprint.to_owned(), Arc::clone(&listing));
        if !listing.pinned {
            let there = entry.listings.values().flat_map(|listing| &listing.declared);
            seen.changed |= book.retain(&there.map(|tool| &tool.declared.name).collect());
        }
        if fingerprint == own || !entry.listings.contains_key(&own) {
            entry.common = Some(listing);
        }
        if news || dropped.is_some() {
            known.index();
        }
        Put { changed: true, news, dropped, seen, held }
    }
}

/// What taking in a listing came to.
#[derive(Debug, Default)]
struct Put {
    /// It was not there just so.
    changed: bool,
    /// It says something that was not known of the upstream.
    news: bool,
    /// The fingerprint whose listing had to go for it.
    dropped: Option<String>,
    /// What it made of the definitions that are accepted.
    seen: Seen,
    /// The tools that are held back because of it.
    held: Vec<(Arc<str>, Held)>,
}

impl Known {
    fn index(&mut self) {
        let (mut names, mut prompts) = (HashMap::new(), HashMap::new());
        for (upstream, entry) in &self.upstreams {
            for tool in entry.listings.values().flat_map(|listing| &listing.tools) {
                let target = (Arc::clone(upstream), Arc::clone(&tool.declared.name));
                names.insert(fold(&tool.public), target.clone());
                names.insert(tool.public.to_string(), target);
            }
            let offers = entry.listings.values().filter_map(|listing| listing.offer.items(List::Prompts));
            for prompt in offers.flatten() {
                let target = (Arc::clone(upstream), Arc::clone(&prompt.own));
                prompts.insert(fold(&prompt.public), target.clone());
                prompts.insert(prompt.public.to_string(), target);
            }
        }
        (self.names, self.prompts) = (names, prompts);
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
