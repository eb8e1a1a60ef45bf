//! `Idempotency-Key`: a call that names one runs at most once, however often its caller repeats it.
//!
//! The key is committed to the store before anything is sent, and the end of the call once there is one, so that both
//! outlive the daemon. A repeat is told the same end. Where none was kept, because the daemon was killed in between,
//! nobody knows whether the tool has acted: a repeat is told so, and never runs.

use super::{Call, Endpoint};
use bytes::Bytes;
use seawall_jobs::{Draft, Expect, Store, StoreError};
use seawall_proto::{Code, Fault, Raw, Reply, ReplyKind, Stage, era::cross};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const NAMESPACE: &str = "idempotency";
/// Version of the bytes of a record: a line of JSON, then the body of the reply where there is one. A record of another
/// version says that its call may have run, and nothing more.
const FORMAT: u64 = 1;
/// Most bytes of a key.
const LONGEST: usize = 255;
/// Most bytes of a reply that is kept.
const LARGEST: usize = 1 << 20;
const STAGES: [Stage; 7] = [
    Stage::Resolve,
    Stage::Authorise,
    Stage::Validate,
    Stage::Admit,
    Stage::Start,
    Stage::Send,
    Stage::Answer,
];

/// The keys that calls were made under.
#[derive(Clone, Debug)]
pub struct Keys {
    store: Option<Arc<Store>>,
    under_way: Arc<UnderWay>,
}

/// What each call asks for that is under way in this process, by the name of its record.
#[derive(Debug, Default)]
struct UnderWay(Mutex<HashMap<String, String>>);

/// What a key says of a call.
#[derive(Debug)]
pub enum Begun {
    /// It is the first under its key, which is committed now: it may be dispatched.
    First(Pending),
    /// It has ended before, and this is its end: a reply is addressed to the request that asks now.
    Ended(Result<Reply, Fault>),
    /// The key was given to a call for something else.
    Other,
    /// The call is under way, in this daemon.
    Running,
    /// The call was begun before, and its end is not known.
    Unknown,
}

/// A call that was begun under its key. Dropped without an end, it leaves the key as begun: whatever has happened, it is
/// not known.
#[derive(Debug)]
pub struct Pending {
    store: Arc<Store>,
    mine: Mine,
    caller: Arc<str>,
    asked: String,
    version: &'static str,
    keep: Duration,
}

/// A record's name while its call is under way; dropped, it is not any more.
#[derive(Debug)]
struct Mine {
    under_way: Arc<UnderWay>,
    name: String,
}

/// What a record says of its call.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    /// It began, and no end was kept.
    Begun,
    /// It ended with this reply, in the words of this version of the protocol.
    Reply { kind: ReplyKind, version: String, body: Bytes },
    /// It ended with a reply of so many bytes, which was not kept.
    TooLarge { size: u64 },
    /// It ended with this fault.
    Fault(Fault),
}

impl Keys {
    /// Keys that are kept in a store. Without one, no call can be made under a key.
    pub fn new(store: Option<Arc<Store>>) -> Self {
        Self { store, under_way: Arc::default() }
    }

    /// Begins a call under a key of its caller's, to be remembered for `keep`, at first from now and then from its end.
    /// Equal is what asks for the same by the same tool name on the same endpoint, with the same bytes of arguments.
    ///
    /// It may be dropped half-way, but that can leave the key as begun.
    ///
    /// # Errors
    /// INVALID_ARGUMENTS for a key that cannot be one. INTERNAL where the store cannot be used: then nothing may be
    /// sent, because nobody would know of it.
    pub async fn begin(&self, call: &Call, key: &str, keep: Duration) -> Result<Begun, Fault> {
        check(key)?;
        let Some(store) = &self.store else {
            return Err(unusable("there is no store, for a reason that the log has from Seawall's start"));
        };
        let name = digest(&[call.caller.name.as_bytes(), key.as_bytes()]);
        let asked = asked(call);
        let mine = match self.under_way.enter(&name, &asked) {
            Ok(mine) => mine,
            Err(other) => {
                // It may have ended just now. As long as the record does not say so, it is under way.
                return Ok(match found(store, &name, call, &asked, now()).await? {
                    Some(ended @ Begun::Ended(_)) => ended,
                    _ if other == asked => Begun::Running,
                    _ => Begun::Other,
                });
            }
        };
        let bytes = record(&asked, &Value::Null, &[]);
        loop {
            let now = now();
            let expires = Some(later(now, keep));
            let draft =
                Draft { namespace: NAMESPACE, key: &name, owner: &call.caller.name, bytes: &bytes, expires };
            match store.put(draft, Expect::Absent, now).await {
                Ok(_version) => {
                    return Ok(Begun::First(Pending {
                        store: Arc::clone(store),
                        mine,
                        caller: Arc::clone(&call.caller.name),
                        asked,
                        version: call.request.words(),
                        keep,
                    }));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(unusable(&error.to_string())),
            }
            if let Some(begun) = found(store, &name, call, &asked, now).await? {
                return Ok(begun);
            }
            // It expired and was swept between the two, so there is none now.
        }
    }
}

impl Begun {
    /// The fault of a call that its key keeps from running; `None` where it may run, or has its end.
    pub fn refusal(&self) -> Option<Fault> {
        match self {
            Self::First(_) | Self::Ended(_) => None,
            Self::Other => Some(other()),
            Self::Running => {
                let text = "the call with this Idempotency-Key is still under way, and nothing was sent again. Repeat \
                            it later to have its end.";
                Some(Fault::new(Code::Duplicate, Stage::Admit, text))
            }
            Self::Unknown => {
                let text = "a call with this Idempotency-Key was begun before, and how it ended is not known: Seawall \
                            was stopped in between, or could not keep it. It may have acted, and is not made again; \
                            look at what it did, then use another key.";
                let fault = Fault::new(Code::OutcomeUnknown, Stage::Admit, text);
                Some(Fault { may_have_run: true, ..fault })
            }
        }
    }
}

impl Pending {
    /// Keeps the end of the call for its repeats; to be awaited before the end is handed on. `end` is complete: where it
    /// is a fault, it says whether the call may have run.
    ///
    /// A call that has not run, and one that goes on with a question to its caller, leave nothing: it is made again
    /// under the same key. Where the end cannot be kept, the log says so, and repeats hear that it is not known.
    pub async fn ended(self, end: &Result<Reply, Fault>) {
        let name = &self.mine.name;
        let kept = match self.record(end) {
            Some(bytes) => {
                let now = now();
                let expires = Some(later(now, self.keep));
                let draft =
                    Draft { namespace: NAMESPACE, key: name, owner: &self.caller, bytes: &bytes, expires };
                // Whatever is there is this call's: nobody else begins one of this name while this lives.
                self.store.put(draft, Expect::Any, now).await.map(drop)
            }
            None => self.store.delete(NAMESPACE, name, Expect::Any).await.map(drop),
        };
        if let Err(error) = kept {
            tracing::error!(%error, "the end of a call with an Idempotency-Key could not be kept");
        }
    }

    /// The record of an end; `None` where the call is to be as if it had never been made.
    fn record(&self, end: &Result<Reply, Fault>) -> Option<Vec<u8>> {
        let reply = match end {
            Ok(reply) => reply,
            Err(fault) if fault.may_have_run || fault.code == Code::OutcomeUnknown => {
                return Some(record(&self.asked, &of_fault(fault), &[]));
            }
            Err(_) => return None,
        };
        let (kind, code) = match reply.kind {
            ReplyKind::Ask => return None,
            _ if reply.body.len() > LARGEST => {
                let end = json!({"kind": "too_large", "size": reply.body.len()});
                return Some(record(&self.asked, &end, &[]));
            }
            ReplyKind::Result => ("result", None),
            ReplyKind::Task => ("task", None),
            ReplyKind::Error(code) => ("error", Some(code)),
        };
        let end = json!({"kind": kind, "code": code, "version": self.version});
        Some(record(&self.asked, &end, &reply.body))
    }
}

impl Keys {
    /// Deletes records that have expired, of whatever kind.
    pub(crate) async fn sweep(&self) {
        if let Some(store) = &self.store
            && let Err(error) = store.purge_expired(now()).await
        {
            tracing::warn!(%error, "expired records could not be deleted");
        }
    }
}

impl UnderWay {
    /// Enters a call, or says what another of this name asks for.
    fn enter(self: &Arc<Self>, name: &str, asked: &str) -> Result<Mine, String> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.entry(name.to_owned()) {
            Entry::Occupied(other) => Err(other.get().clone()),
            Entry::Vacant(place) => {
                place.insert(asked.to_owned());
                Ok(Mine { under_way: Arc::clone(self), name: name.to_owned() })
            }
        }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// What the store has of a call; `None` where it has nothing.
async fn found(
    store: &Store,
    name: &str,
    call: &Call,
    asked: &str,
    now: i64,
) -> Result<Option<Begun>, Fault> {
    let record = store.get(NAMESPACE, name, now).await.map_err(|error| unusable(&error.to_string()))?;
    Ok(record.map(|record| match read(record.bytes) {
        Some((other, _)) if other != asked => Begun::Other,
        Some((_, kept)) => kept.begun(call),
        None => {
            tracing::error!("the record of an Idempotency-Key cannot be read; its call may have run");
            Begun::Unknown
        }
    }))
}

impl Kept {
    /// What it says to a repeat of the call.
    fn begun(self, call: &Call) -> Begun {
        let ran = |code: Code, text: String| {
            let fault = Fault::new(code, Stage::Answer, text);
            Begun::Ended(Err(Fault { may_have_run: true, ..fault }))
        };
        match self {
            Self::Begun => Begun::Unknown,
            Self::Reply { kind, version, body } if version == call.request.words() => {
                Begun::Ended(Ok(Reply { body: cross::readdressed(&call.request, &body), kind }))
            }
            Self::Reply { version, .. } => {
                let text = format!(
                    "the call with this Idempotency-Key has run, and its result is in the words of MCP {version}. It \
                     is not made again; repeat it with a client that speaks {version}."
                );
                ran(Code::InvalidArguments, text)
            }
            Self::TooLarge { size } => {
                let text = format!(
                    "the call with this Idempotency-Key has run, and its result of {size} bytes was too large to be \
                     kept for a repeat ({LARGEST} at most). It is not made again; look at what it did."
                );
                ran(Code::TooLarge, text)
            }
            // Only whoever took a call back needs no answer to it; who repeats it wants one.
            Self::Fault(fault) if fault.code == Code::Cancelled => {
                let text = "the call with this Idempotency-Key was taken back after it was sent, or its connection was \
                            lost. It may have acted, and is not made again; look at what it did, then use another key.";
                ran(Code::OutcomeUnknown, text.to_owned())
            }
            Self::Fault(fault) => Begun::Ended(Err(fault)),
        }
    }
}

/// Refuses what cannot be a key.
fn check(key: &str) -> Result<(), Fault> {
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=LONGEST).contains(&key.len()) {
        return Ok(());
    }
    let text = format!(
        "an Idempotency-Key has 1 to {LONGEST} visible ASCII characters, without spaces, and is given once. Nothing \
         was sent; correct it and call again."
    );
    Err(Fault::new(Code::InvalidArguments, Stage::Validate, text))
}

fn unusable(why: &str) -> Fault {
    let text = format!(
        "the Idempotency-Key could not be looked up and kept: {why}. Nothing was sent; without the key the call can be \
         made all the same."
    );
    Fault::new(Code::Internal, Stage::Admit, text)
}

/// The fault of a call whose key was given to another.
pub(super) fn other() -> Fault {
    let text = "this Idempotency-Key was given to another call before: to another tool or endpoint, or with other \
                arguments. Nothing was sent; use a new key for each call, and the same only to repeat one.";
    Fault::new(Code::InvalidArguments, Stage::Validate, text)
}

/// What a call asks for, as a digest.
pub(super) fn asked(call: &Call) -> String {
    let request = &call.request;
    let (kind, name) = match &call.endpoint {
        Endpoint::All => ("all", ""),
        Endpoint::Group(name) => ("group", &**name),
        Endpoint::One(name) => ("one", &**name),
    };
    let subject = request.subject().map_or("", |subject| &**subject);
    let arguments = request.arguments();
    let arguments = arguments.as_ref().map_or("", Raw::as_str);
    digest(&[kind, name, request.method(), subject, arguments].map(str::as_bytes))
}

/// A digest of parts, none of which can run into the next.
fn digest(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn record(asked: &str, end: &Value, body: &[u8]) -> Vec<u8> {
    let mut bytes = json!({"format": FORMAT, "asked": asked, "end": end}).to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes
}

/// What was asked for, and what became of it; `None` where the record cannot be read.
fn read(bytes: Vec<u8>) -> Option<(String, Kept)> {
    let bytes = Bytes::from(bytes);
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Value = serde_json::from_slice(&bytes[..line]).ok()?;
    if head["format"] != FORMAT {
        return None;
    }
    let end = &head["end"];
    let reply = |kind| {
        let version = end["version"].as_str()?.to_owned();
        Some(Kept::Reply { kind, version, body: bytes.slice(line + 1..) })
    };
    let kept = match end["kind"].as_str() {
        None if end.is_null() => Kept::Begun,
        Some("result") => reply(ReplyKind::Result)?,
        Some("task") => reply(ReplyKind::Task)?,
        Some("error") => reply(ReplyKind::Error(end["code"].as_i64()?))?,
        Some("too_large") => Kept::TooLarge { size: end["size"].as_u64()? },
        Some("fault") => Kept::Fault(to_fault(end)?),
        _ => return None,
    };
    Some((head["asked"].as_str()?.to_owned(), kept))
}

fn of_fault(fault: &Fault) -> Value {
    json!({
        "kind": "fault",
        "code": fault.code.code(),
        "message": fault.message,
        "upstream": fault.upstream.as_deref(),
        "stage": fault.stage.name(),
        "elapsed_ms": fault.elapsed_ms,
        "budget_ms": fault.budget_ms,
        "may_have_run": fault.may_have_run,
        "retry_after_ms": fault.retry_after_ms,
    })
}

fn to_fault(end: &Value) -> Option<Fault> {
    let (code, stage) = (end["code"].as_str()?, end["stage"].as_str()?);
    let code = Code::ALL.into_iter().find(|known| known.code() == code)?;
    let stage = STAGES.into_iter().find(|known| known.name() == stage)?;
    Some(Fault {
        upstream: end["upstream"].as_str().map(Arc::from),
        elapsed_ms: end["elapsed_ms"].as_u64()?,
        budget_ms: end["budget_ms"].as_u64()?,
        may_have_run: end["may_have_run"].as_bool()?,
        retry_after_ms: end["retry_after_ms"].as_u64(),
        ..Fault::new(code, stage, end["message"].as_str()?)
    })
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn later(now: i64, time: Duration) -> i64 {
    now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[path = "idempotency_tests.rs"]
mod tests;
