//! The wire of MCP, both eras, as pure functions between bytes and one domain language.
//!
//! Everything inside Seawall speaks of a [`Request`] and the [`Event`]s that answer it. Only this crate knows
//! that two eras of the protocol exist: [`era`] settles which one a caller or an upstream speaks, once, and what
//! crosses between equal eras is passed on byte for byte. No clock, no sockets, no runtime.

pub mod era;
pub mod event;
pub mod fault;
pub mod jsonrpc;
pub mod mcp;
pub mod request;
pub mod rest;
pub mod sse;

pub use event::{Ask, Event, Reply, ReplyKind, ReplySlot};
pub use fault::{Code, Fault, Stage};
pub use jsonrpc::{Message, Raw};
pub use request::Request;
