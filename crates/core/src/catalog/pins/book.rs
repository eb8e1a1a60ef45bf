//! What is kept of one server's tools: the definitions that were accepted.

use super::{Standing, text};
use crate::catalog::Tool;
use seawall_proto::{Raw, mcp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, OnceLock},
};

/// Version of the bytes kept in the store.
const FORMAT: u64 = 1;
/// Definitions of one tool that are accepted at the same time: clients of other capabilities may be shown others.
pub(super) const DEFINITIONS: usize = 8;

/// A hash of what equal definitions have in common.
pub(in crate::catalog) type Hash = [u8; 32];

/// One definition that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) text: Arc<str>,
    hash: OnceLock<Hash>,
}

/// What is kept of one tool.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    /// The definitions that were accepted and may come, the newest last; at least one.
    accepted: Vec<Definition>,
    /// The one before the newest, where that came when nothing had to be accepted.
    before: Option<Definition>,
}

/// What is kept of one server's tools.
#[derive(Clone, Debug, Default)]
pub(in crate::catalog) struct Book {
    pub(super) tools: BTreeMap<Arc<str>, Pin>,
    /// Counts the changes, so that what is written last is the newest.
    pub(super) revision: u64,
    /// Whether it must not be written: what is in the store could not be read.
    pub(super) unread: bool,
}

/// What a listing made of a book.
#[derive(Debug, Default)]
pub(in crate::catalog) struct Seen {
    /// Whether the book has changed.
    pub(in crate::catalog) changed: bool,
    /// Whether these are the first tools of a pinned server.
    pub(super) first: bool,
    /// Tools whose definitions changed and were accepted as they came.
    pub(super) noted: Vec<Arc<str>>,
}

/// What a book says of a tool as it is declared now.
pub(super) enum Verdict<'a> {
    Accepted,
    /// Another definition was accepted.
    Changed(&'a Definition),
    New,
}

/// The hash of a declaration, which is JSON that a parser has accepted.
pub(in crate::catalog) fn hash(declaration: &str) -> Hash {
    Sha256::digest(text::canonical(declaration)).into()
}

impl Definition {
    fn of(tool: &Tool) -> Self {
        // A copy: the declaration may be part of a long list, which would be kept with it.
        Self { text: tool.declared.declaration.as_str().into(), hash: OnceLock::from(*tool.hash()) }
    }

    fn read(text: &Value) -> Option<Self> {
        let text = text.as_str()?;
        Raw::parse(text.to_owned().into()).ok()?;
        Some(Self { text: text.into(), hash: OnceLock::new() })
    }

    fn hash(&self) -> &Hash {
        self.hash.get_or_init(|| hash(&self.text))
    }

    /// The tool that it defines.
    pub(super) fn tool(&self) -> Option<mcp::Tool> {
        mcp::Tool::read(Raw::parse(self.text.to_string().into()).ok()?)
    }
}

impl Pin {
    fn new(tool: &Tool) -> Self {
        Self { accepted: vec![Definition::of(tool)], before: None }
    }

    fn newest(&self) -> &Definition {
        self.accepted.last().expect("a tool is kept with a definition")
    }

    /// Whether a tool's definition is one of those accepted.
    fn has(&self, tool: &Tool) -> bool {
        let declaration = tool.declared.declaration.as_str();
        self.accepted.iter().any(|known| *known.text == *declaration)
            || self.accepted.iter().any(|known| known.hash() == tool.hash())
    }

    fn accept(&mut self, tool: &Tool) {
        if self.accepted.len() >= DEFINITIONS {
            self.accepted.remove(0);
        }
        self.accepted.push(Definition::of(tool));
    }
}

impl Book {
    /// A book without entries, which must not be written where what is kept is `unread`.
    pub(in crate::catalog) fn new(unread: bool) -> Self {
        Self { unread, ..Self::default() }
    }

    /// Takes in the tools that a server declares: the first ones as they are, and later ones, too, where nothing has
    /// to be accepted.
    pub(in crate::catalog) fn see(&mut self, tools: &[Arc<Tool>], pinned: bool) -> Seen {
        let mut seen =
            Seen { first: pinned && self.tools.is_empty() && !tools.is_empty(), ..Seen::default() };
        let accepts = !pinned || seen.first;
        for tool in tools.iter().filter(|_| accepts) {
            match self.tools.get_mut(&tool.declared.name) {
                None => drop(self.tools.insert(Arc::clone(&tool.declared.name), Pin::new(tool))),
                Some(pin) if pin.has(tool) => continue,
                Some(pin) => {
                    pin.before = Some(pin.newest().clone());
                    pin.accept(tool);
                    seen.noted.push(Arc::clone(&tool.declared.name));
                }
            }
            seen.changed = true;
        }
        self.revision += u64::from(seen.changed);
        seen
    }

    /// Forgets the tools of an unpinned server that it has no more, and says whether there were any: a
    /// server may make up as many as it likes.
    pub(in crate::catalog) fn retain(&mut self, there: &HashSet<&Arc<str>>) -> bool {
        let before = self.tools.len();
        self.tools.retain(|name, _| there.contains(name));
        let changed = self.tools.len() < before;
        self.revision += u64::from(changed);
        changed
    }

    /// Accepts a tool as it is declared now; whether that was to be done.
    pub(super) fn accept(&mut self, tool: &Tool) -> bool {
        let Some(pin) = self.tools.get_mut(&tool.declared.name) else {
            self.tools.insert(Arc::clone(&tool.declared.name), Pin::new(tool));
            return true;
        };
        let noted = pin.before.take().is_some();
        let unknown = !pin.has(tool);
        if unknown {
            pin.accept(tool);
        }
        noted || unknown
    }

    pub(super) fn verdict(&self, tool: &Tool) -> Verdict<'_> {
        match self.tools.get(&tool.declared.name) {
            None => Verdict::New,
            Some(pin) if pin.has(tool) => Verdict::Accepted,
            Some(pin) => Verdict::Changed(pin.newest()),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let text = |definition: &Definition| Value::from(&*definition.text);
        let tools: serde_json::Map<String, Value> = self
            .tools
            .iter()
            .map(|(name, pin)| {
                let accepted: Vec<Value> = pin.accepted.iter().map(text).collect();
                (name.to_string(), json!({"accepted": accepted, "before": pin.before.as_ref().map(text)}))
            })
            .collect();
        json!({"format": FORMAT, "tools": tools}).to_string().into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        if value["format"] != FORMAT {
            return None;
        }
        let mut tools = BTreeMap::new();
        for (name, kept) in value["tools"].as_object()? {
            let accepted: Vec<Definition> =
                kept["accepted"].as_array()?.iter().map(Definition::read).collect::<Option<_>>()?;
            let before = Definition::read(&kept["before"]);
            if !accepted.is_empty() {
                tools.insert(Arc::from(name.as_str()), Pin { accepted, before });
            }
        }
        Some(Self { tools, ..Self::default() })
    }

    /// How a tool stands before its definitions are compared; at an unpinned server that is all there is.
    pub(super) fn standing(&self, server: &Arc<str>, tool: &Tool, pinned: bool) -> Standing {
        let noted = self.tools.get(&tool.declared.name).filter(|_| !pinned);
        let noted = noted.and_then(|pin| Some((pin.before.as_ref()?, pin.newest())));
        Standing {
            server: Arc::clone(server),
            public: Arc::clone(&tool.public),
            own: Arc::clone(&tool.declared.name),
            effects: tool.effects,
            state: if pinned { Some("accepted") } else { noted.map(|_| "changed") },
            held: false,
            before: noted.map(|(before, _)| text::pretty(&before.text)),
            now: noted.map(|(_, now)| text::pretty(&now.text)).into_iter().collect(),
        }
    }
}
