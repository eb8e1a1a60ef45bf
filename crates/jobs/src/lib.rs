//! Everything of Seawall that outlives the process: the record store, results that are kept for a while, and the
//! state directory.
//!
//! This is the only crate that knows SQL and the only one that writes durable bytes. It knows nothing of MCP:
//! what a record holds is opaque to it. Every format it writes has a version ([`format`](mod@format)), and a
//! newer one than it can read is refused with an error that says what to do. Time is always a parameter.
#![expect(clippy::disallowed_methods, reason = "this crate owns durable bytes and may block")]

pub mod format;
pub mod results;
pub mod state;
pub mod store;

pub use results::Results;
pub use state::{Holder, StateError, StateLock};
pub use store::{Draft, Expect, Record, Store, StoreError};
