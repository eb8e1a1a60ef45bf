//! What answers a call: a stream of events that ends in exactly one reply or fault.

use crate::{fault::Fault, jsonrpc::Message};
use bytes::Bytes;
use std::fmt;

/// One thing that happens to a call, in order. [`Event::End`] is always the last.
#[derive(Debug)]
pub enum Event {
    /// The upstream answers with a stream: so does a front door that can.
    Streaming,
    /// The upstream says how far it is; carries the caller's own progress token.
    Progress(Bytes),
    /// The upstream logs something for this call.
    Log(Bytes),
    /// Another notification that belongs to this call, passed on as it is.
    Notification(Bytes),
    /// The upstream asks the caller something and waits for the answer.
    Ask(Ask),
    /// The upstream closed its stream on purpose and wants to be polled after so many milliseconds; the call
    /// goes on. A front door whose client can resume does the same to its client, others hold theirs open.
    Pause {
        /// Milliseconds the upstream asked to wait, when it did.
        retry_ms: Option<u64>,
    },
    /// The call is over.
    End(Result<Reply, Fault>),
}

/// A question to the caller in mid-call: elicitation, sampling or roots.
///
/// What the modern era calls `input_required` ends a call instead and is a [`Reply`] of kind
/// [`ReplyKind::Ask`].
#[derive(Debug)]
pub struct Ask {
    /// The request as the upstream sent it; its id is the upstream's and must be replaced.
    pub message: Message,
    /// Where the answer goes.
    pub reply: ReplySlot,
}

/// An answer to an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// The caller's JSON-RPC response; its id is the caller's and must be replaced.
    Response(Message),
    /// Nobody can answer, and why.
    Refused(&'static str),
}

/// Takes the one answer to an ask. Dropped without one, it refuses.
pub struct ReplySlot(Option<Box<dyn FnOnce(Answer) + Send + Sync>>);

impl ReplySlot {
    /// A slot that hands the answer to `take`, which must not block.
    pub fn new(take: impl FnOnce(Answer) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    /// Gives the answer.
    pub fn answer(mut self, answer: Answer) {
        if let Some(take) = self.0.take() {
            take(answer);
        }
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(Answer::Refused("the caller left without answering"));
        }
    }
}

impl fmt::Debug for ReplySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplySlot")
    }
}

/// An upstream's response, ready for the caller: its id is the caller's, its shape the caller's era's.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The whole JSON-RPC response.
    pub body: Bytes,
    /// What it says.
    pub kind: ReplyKind,
}

/// What a reply says, as far as anything here acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The result the caller asked for; a tool's own `isError` is one too.
    Result,
    /// A question to the caller, which will call again with the answer.
    Ask,
    /// A handle to work that goes on.
    Task,
    /// The upstream's own JSON-RPC error, with its code.
    Error(i64),
}
