//! What every tool's definition was when it was accepted.
//!
//! A server can change what a tool says of itself after a person has looked at it, and whoever writes a description
//! writes into the model's prompt. So definitions are kept as they were accepted, per configured server. Those of the
//! first list are accepted unseen. Where a server is pinned (`pin = true`), a tool that changes is listed as it was
//! and not called, and a new one is neither listed nor known, until somebody accepts them. Where it is not, changes
//! are accepted as they come, and what was there before is kept to be shown.

mod book;
mod text;

use super::{Catalog, Entry, Known, Listing, Tool};
use book::Verdict;
pub(super) use book::{Book, Hash, Seen, hash};
use seawall_proto::{Raw, era::Face, mcp};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, OnceLock, PoisonError},
};

/// Where accepted definitions are kept.
const NAMESPACE: &str = "pins";

/// Why a tool of a pinned server may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Its definition is not one that was accepted.
    Changed,
    /// No definition of it was accepted.
    New,
    /// What it is now is not known.
    Unlisted,
}

/// One tool as `seawall tools` shows it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its server.
    pub server: Arc<str>,
    /// Its name where every server's tools are listed together.
    pub public: Arc<str>,
    /// Its name at its server.
    pub own: Arc<str>,
    /// What a call may change.
    pub effects: mcp::Effects,
    /// `accepted`, `changed` or `new` at a pinned server; at another one `changed` or nothing.
    pub state: Option<&'static str>,
    /// Whether it is kept from being used.
    pub held: bool,
    /// The definition that is or was accepted, in lines; only where there is another one.
    pub before: Option<String>,
    /// The definitions that are there now, in lines; only those that differ from what is or was accepted.
    pub now: Vec<String>,
}

/// What came of accepting.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// The tools whose definitions were accepted, by their own names.
    pub tools: Vec<Arc<str>>,
    /// Whether that outlives the daemon.
    pub kept: bool,
}

/// Under which key a server's book is kept. Two servers of one command do not share it: one may be pinned only.
pub(super) fn book_key(key: &str, upstream: &str) -> String {
    format!("{key}:{upstream}")
}

impl Listing {
    /// Shows of what was declared only what the book has accepted, where the server is pinned.
    pub(super) fn judge(&mut self, upstream: &str, book: &Book) {
        self.tools.clear();
        self.by_name.clear();
        self.held.clear();
        for tool in &self.declared {
            let name = &tool.declared.name;
            let verdict = if self.pinned { book.verdict(tool) } else { Verdict::Accepted };
            let shown = match verdict {
                Verdict::Accepted => Some(Arc::clone(tool)),
                Verdict::Changed(accepted) => {
                    self.held.insert(Arc::clone(name), (Held::Changed, tool.declared.declaration.clone()));
                    accepted.tool().map(|accepted| Arc::new(tool.defined_as(accepted, upstream)))
                }
                Verdict::New => {
                    self.held.insert(Arc::clone(name), (Held::New, tool.declared.declaration.clone()));
                    None
                }
            };
            if let Some(shown) = shown {
                self.by_name.insert(Arc::clone(name), self.tools.len());
                self.tools.push(shown);
            }
        }
    }
}

impl Tool {
    /// The same tool with the definition that was accepted of it.
    fn defined_as(&self, accepted: mcp::Tool, upstream: &str) -> Self {
        // What is not configured comes from the definition.
        let effects = if self.effects == self.declared.effects { accepted.effects } else { self.effects };
        Self {
            listed: accepted.declared_as(&self.public, upstream),
            public: Arc::clone(&self.public),
            effects,
            validator: OnceLock::new(),
            hash: OnceLock::new(),
            declared: accepted,
        }
    }
}

impl Known {
    /// The book of a pinned server, once it has accepted something.
    fn book(&self, upstream: &str, key: &str) -> Option<&Book> {
        self.books.get(&book_key(key, upstream)).filter(|book| !book.tools.is_empty())
    }
}

impl Catalog {
    /// Why a tool of a pinned upstream may not be used by clients like this one, if that is so.
    pub fn held(&self, upstream: &str, key: &str, face: &Face, tool: &str) -> Option<Held> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if !known.book(upstream, key)?.tools.contains_key(tool) {
            return Some(Held::New);
        }
        let entry = known.upstreams.get(upstream);
        let listing =
            entry.and_then(|entry| entry.listings.get(&super::fingerprint(face)).or(entry.common.as_ref()));
        match listing {
            None => Some(Held::Unlisted),
            Some(listing) => listing.held.get(tool).map(|(why, _)| *why),
        }
    }

    /// A declaration of a pinned upstream as it may be shown: itself, the one that was accepted in its place, or
    /// nothing.
    pub(crate) fn vetted(&self, upstream: &str, key: &str, declared: mcp::Tool) -> Option<Raw> {
        let tool = Tool::unlisted(declared);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(book) = known.book(upstream, key) else { return Some(tool.declared.declaration) };
        match book.verdict(&tool) {
            Verdict::Accepted => Some(tool.declared.declaration),
            Verdict::Changed(accepted) => Raw::parse(accepted.text.to_string().into()).ok(),
            Verdict::New => None,
        }
    }

    /// The tools of an upstream that are held back, by their own names.
    pub fn held_back(&self, upstream: &str) -> BTreeSet<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let listings = known.upstreams.get(upstream).into_iter().flat_map(|entry| entry.listings.values());
        listings.flat_map(|listing| listing.held.keys().cloned()).collect()
    }

    /// How every tool stands that an upstream declares to anybody, those held back included.
    pub fn standings(&self, upstream: &Arc<str>, key: &str) -> Vec<Standing> {
        // Texts are made when the lock is free.
        let (declared, book, pinned) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = known.upstreams.get(upstream) else { return Vec::new() };
            let listings = entry.common.iter().chain(entry.listings.values());
            let declared: Vec<Arc<Tool>> =
                listings.flat_map(|listing| listing.declared.iter().cloned()).collect();
            let pinned = entry.common.as_ref().is_some_and(|listing| listing.pinned);
            (declared, known.books.get(&book_key(key, upstream)).cloned().unwrap_or_default(), pinned)
        };
        let mut standings: Vec<Standing> = Vec::new();
        let mut at: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shown = HashSet::new();
        for tool in &declared {
            let own = &tool.declared.name;
            let index = *at.entry(own).or_insert_with(|| {
                standings.push(book.standing(upstream, tool, pinned));
                standings.len() - 1
            });
            let standing = &mut standings[index];
            if !pinned || !shown.insert((own, tool.hash())) {
                continue;
            }
            let verdict = book.verdict(tool);
            if let Verdict::Changed(accepted) = &verdict {
                standing.before = Some(text::pretty(&accepted.text));
            }
            if !matches!(verdict, Verdict::Accepted) {
                standing.held = true;
                standing.state = Some(if standing.before.is_some() { "changed" } else { "new" });
                standing.now.push(text::pretty(tool.declared.declaration.as_str()));
            }
        }
        standings
    }

    /// Accepts the tools of an upstream as they are declared now: those named, by their own names or public ones, or
    /// all where none is.
    ///
    /// # Errors
    /// The names that no tool has. Then nothing is accepted.
    pub async fn accept(
        &self,
        upstream: &Arc<str>,
        key: &str,
        names: &[String],
    ) -> Result<Accepted, Vec<String>> {
        let tools = self.accept_now(upstream, key, names)?;
        if tools.is_empty() {
            return Ok(Accepted { tools, kept: true });
        }
        // Those who listen find the new definitions in the list that they ask for then.
        let _ = self.changes.send(Arc::clone(upstream));
        tracing::info!(upstream = &**upstream, ?tools, "definitions of its tools were accepted");
        Ok(Accepted { tools, kept: self.keep_book(upstream, key).await })
    }

    fn accept_now(
        &self,
        upstream: &Arc<str>,
        key: &str,
        names: &[String],
    ) -> Result<Vec<Arc<str>>, Vec<String>> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        let Some(Entry { listings, common, .. }) = known.upstreams.get_mut(upstream) else {
            return if names.is_empty() { Ok(Vec::new()) } else { Err(names.to_vec()) };
        };
        let declared: Vec<Arc<Tool>> =
            listings.values().flat_map(|listing| listing.declared.iter().cloned()).collect();
        let is = |tool: &Tool, name: &str| *tool.declared.name == *name || *tool.public == *name;
        let strange = |name: &&String| !declared.iter().any(|tool| is(tool, name));
        let strangers: Vec<String> = names.iter().filter(strange).cloned().collect();
        if !strangers.is_empty() {
            return Err(strangers);
        }
        let unread = known.unread;
        let book = known.books.entry(book_key(key, upstream)).or_insert_with(|| Book::new(unread));
        let mut accepted = BTreeSet::new();
        for tool in declared.iter().filter(|tool| names.is_empty() || names.iter().any(|name| is(tool, name)))
        {
            if book.accept(tool) {
                accepted.insert(Arc::clone(&tool.declared.name));
            }
        }
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        book.revision += 1;
        let was_common = common.take();
        for listing in listings.values_mut() {
            let mut judged = Listing::clone(listing);
            judged.judge(upstream, book);
            let judged = Arc::new(judged);
            if was_common.as_ref().is_some_and(|common| Arc::ptr_eq(common, listing)) {
                *common = Some(Arc::clone(&judged));
            }
            *listing = judged;
        }
        if common.is_none() {
            *common = listings.values().next().cloned();
        }
        known.index();
        Ok(accepted.into_iter().collect())
    }

    /// Reads every book that was kept, also those of servers that are not configured now: one may come back.
    pub(super) async fn load_books(&self) {
        let Some(store) = &self.store else { return };
        let records = match store.list(NAMESPACE, jiff::Timestamp::now().as_millisecond()).await {
            Ok(records) => records,
            Err(fault) => {
                tracing::error!(%fault, "accepted definitions could not be read: what is listed first is accepted");
                self.known.write().unwrap_or_else(PoisonError::into_inner).unread = true;
                return;
            }
        };
        let mut books = Vec::with_capacity(records.len());
        for record in records {
            let book = Book::from_bytes(&record.bytes).unwrap_or_else(|| {
                let upstream = record.owner.as_str();
                tracing::error!(
                    upstream,
                    "its accepted definitions could not be read: what is listed first is accepted"
                );
                Book::new(true)
            });
            books.push((record.key, book));
        }
        self.known.write().unwrap_or_else(PoisonError::into_inner).books.extend(books);
    }

    /// Keeps an upstream's book; whether it outlives the daemon now.
    pub(super) async fn keep_book(&self, upstream: &str, key: &str) -> bool {
        let key = book_key(key, upstream);
        let book = || {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.books.get(&key).filter(|book| !book.unread).cloned()
        };
        let Some(mut current) = book() else { return false };
        loop {
            if !self.keep(NAMESPACE, &key, upstream, &current.to_bytes()).await {
                return false;
            }
            // Another change may have been written in between, and overwritten just now.
            match book() {
                Some(newer) if newer.revision != current.revision => current = newer,
                _ => return true,
            }
        }
    }

    /// Says what is to be known of a listing that was taken in.
    pub(super) fn report(&self, upstream: &str, seen: &Seen, held: &[(Arc<str>, Held)]) {
        if seen.first {
            tracing::info!(upstream, "it is pinned: its tools are accepted as they are listed first");
            if self.store.is_none() {
                tracing::warn!(
                    upstream,
                    "it is pinned, and there is no store: that is forgotten with the daemon"
                );
            }
        }
        for tool in &seen.noted {
            tracing::info!(
                upstream,
                tool = &**tool,
                "its definition changed: `seawall tools diff {upstream}`"
            );
        }
        for (tool, held) in held {
            let tool = &**tool;
            match held {
                Held::Changed => {
                    tracing::warn!(
                        upstream,
                        tool,
                        "its definition changed, and calls of it are refused: `seawall tools diff {upstream}`"
                    );
                }
                Held::New | Held::Unlisted => {
                    tracing::warn!(
                        upstream,
                        tool,
                        "it is new, and not shown: `seawall tools diff {upstream}`"
                    );
                }
            }
        }
    }
}

impl Standing {
    /// The whole of it as `seawall tools` reads it.
    pub fn to_json(&self) -> Value {
        let effects = match self.effects {
            mcp::Effects::None => "none",
            mcp::Effects::Idempotent => "idempotent",
            mcp::Effects::Writes => "writes",
        };
        json!({
            "name": &*self.public,
            "server": &*self.server,
            "tool": &*self.own,
            "effects": effects,
            "state": self.state,
            "held": self.held,
            "before": self.before,
            "now": self.now,
        })
    }
}

#[cfg(test)]
mod tests;
