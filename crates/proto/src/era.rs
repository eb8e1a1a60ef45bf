//! The two eras of the protocol, and the only place that can tell them apart.
//!
//! The *legacy* era (2024-11-05 to 2025-11-25) opens a session with `initialize`; in the *modern* era
//! (2026-07-28) each request stands alone and says in `_meta` what it needs. A caller's era is settled once, when
//! its bytes come in ([`serve::inbound`]); an upstream's when it is opened ([`opening::Opening`]). Between equal
//! eras messages cross with nothing changed but ids, progress tokens and names; `docs/design/eras.md` lists every
//! edit.

pub mod cross;
pub mod offer;
pub mod opening;
pub mod peer;
pub mod serve;

use crate::jsonrpc::{Members, Raw};
use serde_json::json;
use std::{borrow::Cow, str::FromStr, sync::Arc};

/// The version of the modern era.
pub(crate) const MODERN: &str = "2026-07-28";
/// The versions of the legacy era, newest first.
pub(crate) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Legacy,
    Modern,
}

/// What one side of a connection speaks. Opaque outside this crate: it can be kept, compared and handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wire {
    pub(crate) kind: Kind,
    pub(crate) version: &'static str,
}

impl Wire {
    /// What Seawall's own requests speak unless the upstream wants otherwise.
    pub const fn own() -> Self {
        Self { kind: Kind::Modern, version: MODERN }
    }

    /// Whether a closed response stream takes the call back (a MUST of the modern era), rather than only the
    /// interest in it.
    pub fn close_cancels(&self) -> bool {
        self.kind == Kind::Modern
    }

    /// The protocol version, for logs and status.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Whether streams to this caller carry event ids and can be taken up again after a break.
    pub fn resumable(&self) -> bool {
        self.kind == Kind::Legacy
    }

    /// Whether a tool's result may hold a link to a resource (since 2025-06-18).
    pub fn links(&self) -> bool {
        self.version >= LEGACY[1]
    }

    /// Whether a stream to this caller may be closed on purpose, to be polled (since 2025-11-25).
    pub fn polls(&self) -> bool {
        self.kind == Kind::Legacy && self.version >= LEGACY[0]
    }
}

/// Which eras an upstream is allowed to be spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// Whatever it answers to; the caller's own era where it has both.
    #[default]
    Auto,
    /// `initialize` only.
    Legacy,
    /// `server/discover` only.
    Modern,
}

impl FromStr for Pin {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "legacy" => Ok(Self::Legacy),
            "modern" => Ok(Self::Modern),
            _ => Err(()),
        }
    }
}

/// An era as a key: instances that are spoken to in different eras are never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EraKey(Kind);

impl EraKey {
    /// Whether it is another era than the caller's.
    pub fn crosses(self, caller: &Wire) -> bool {
        self.0 != caller.kind
    }
}

/// Which eras an upstream has been seen to speak, remembered so that no later opening has to guess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    pub(crate) legacy: Option<bool>,
    pub(crate) modern: Option<bool>,
}

impl Spoken {
    /// One byte to keep it in; [`Spoken::from_byte`] reads it back.
    pub fn to_byte(self) -> u8 {
        let code = |known: Option<bool>| known.map_or(0, |yes| if yes { 1 } else { 2 });
        code(self.legacy) * 3 + code(self.modern)
    }

    /// Reads what [`Spoken::to_byte`] wrote.
    pub fn from_byte(byte: u8) -> Self {
        let known = |code: u8| [None, Some(true), Some(false)].get(usize::from(code)).copied().flatten();
        Self { legacy: known(byte / 3), modern: known(byte % 3) }
    }

    /// The era an upstream will be spoken to in for a caller, as far as is known.
    pub fn towards(self, pin: Pin, caller: &Wire) -> EraKey {
        EraKey(match (pin, self.legacy, self.modern) {
            (Pin::Legacy, ..) | (Pin::Auto, Some(true), Some(false)) => Kind::Legacy,
            (Pin::Modern, ..) | (Pin::Auto, Some(false), Some(true)) => Kind::Modern,
            (Pin::Auto, ..) => caller.kind,
        })
    }

    /// Learns from an opening.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self { legacy: later.legacy.or(self.legacy), modern: later.modern.or(self.modern) }
    }
}

/// Who a client says it is and what it can do: from `initialize`, or from a modern request's `_meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    /// The parameters of `initialize` as the client sent them; a client of the other era sends none.
    initialize: Option<Raw>,
    pub(crate) info: Raw,
    pub(crate) capabilities: Raw,
}

impl Face {
    /// Seawall's own face: no capabilities, so that no upstream asks anything.
    pub fn own() -> Arc<Self> {
        let info = json!({"name": "seawall", "title": "seawall", "version": env!("CARGO_PKG_VERSION")});
        Arc::new(Self::of(Raw::of(&info), Raw::of(&json!({}))))
    }

    /// The face with which an instance shared between callers is opened: theirs by name, without capabilities.
    #[must_use]
    pub fn without_capabilities(&self) -> Arc<Self> {
        Arc::new(Self::of(self.info.clone(), Raw::of(&json!({}))))
    }

    pub(crate) fn of(info: Raw, capabilities: Raw) -> Self {
        Self { initialize: None, info, capabilities }
    }

    /// The parameters of `initialize`, as a legacy upstream gets them.
    pub(crate) fn initialize(&self) -> Cow<'_, str> {
        match &self.initialize {
            Some(own) => Cow::Borrowed(own.as_str()),
            None => Cow::Owned(format!(
                r#"{{"protocolVersion":"{}","capabilities":{},"clientInfo":{}}}"#,
                LEGACY[0],
                self.capabilities.as_str(),
                self.info.as_str()
            )),
        }
    }

    /// The face of a legacy client, from the parameters of its `initialize`.
    pub fn of_initialize(params: &Raw) -> Option<Self> {
        let members = Members::parse(params.as_str()).ok()?;
        members.string("protocolVersion")?;
        let part = |name: &str| members.get(name).and_then(|value| Raw::parse(value.to_owned().into()).ok());
        let info = part("clientInfo").unwrap_or_else(|| Raw::of(&json!({"name": "unknown", "version": "0"})));
        let capabilities = part("capabilities").unwrap_or_else(|| Raw::of(&json!({})));
        Some(Self { initialize: Some(params.clone()), info, capabilities })
    }

    /// The `_meta` that a request of this face carries in an era where each says who asks.
    pub(crate) fn meta_for(&self, wire: &Wire) -> Option<serde_json::Value> {
        (wire.kind == Kind::Modern)
            .then(|| serde_json::from_str(&opening::modern_meta(self)).expect("its parts are JSON"))
    }

    /// The client's name for itself; for logs and profiles, never for authority.
    pub fn name(&self) -> Option<String> {
        Some(Members::parse(self.info.as_str()).ok()?.string("name")?.into_owned())
    }

    /// What lists may depend on: equal faces see equal lists.
    pub fn fingerprint(&self) -> &Raw {
        &self.capabilities
    }
}
