//! Conversations: what keeps a legacy client's calls together between its requests.
//!
//! A conversation is bound to the caller that opened it, ends when it is told to or has been idle for too long, and
//! takes the instances that were its own with it. While a call or a stream of it is open it is not idle.

mod stream;

use crate::{
    call::{Endpoint, Interest, InterestHandle},
    config::Limits,
};
use bytes::Bytes;
use seawall_proto::{
    Ask, Message, Raw, ReplySlot,
    era::{Face, Wire},
    event::Answer,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
pub use stream::{Next, RESUME_WINDOW, Stream};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// Most of an upstream's own messages kept for a client that does not listen; the oldest are dropped.
const OUTBOX: usize = 256;
/// Most questions a client may leave open.
const ASKS: usize = 64;
/// Most streams kept for a client to take up again; the oldest are given up.
const STREAMS: usize = 64;

/// One open conversation.
pub struct Conversation {
    /// Its id: 128 random bits, never a credential.
    pub id: Arc<str>,
    /// Who opened it.
    pub caller: Arc<str>,
    /// Which upstreams it reaches.
    pub endpoint: Endpoint,
    /// What its client speaks.
    pub wire: Wire,
    /// Who its client is.
    pub face: Arc<Face>,
    state: Mutex<State>,
    wake: Notify,
    ended: CancellationToken,
}

struct State {
    used: Instant,
    open: usize,
    /// Which listener is the current one; an older one stops.
    listener: u64,
    listening: bool,
    calls: HashMap<Raw, InterestHandle>,
    asks: BTreeMap<u64, ReplySlot>,
    next: u64,
    outbox: VecDeque<Bytes>,
    streams: VecDeque<Arc<Stream>>,
    log_level: Option<Arc<str>>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// Holds a conversation open; dropped, its idle time begins.
#[derive(Debug)]
pub struct Open(Arc<Conversation>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open -= 1;
        state.used = Instant::now();
    }
}

/// A client that reads the conversation's own messages; a later one takes its place.
#[derive(Debug)]
pub struct Listening {
    conversation: Arc<Conversation>,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.conversation.lock();
        if state.listener == self.number {
            state.listening = false;
        }
    }
}

impl Listening {
    /// The next message; `None` once the conversation has ended or another listener came. Cancel-safe.
    pub async fn next(&self) -> Option<Bytes> {
        loop {
            let woken = self.conversation.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            {
                let mut state = self.conversation.lock();
                if state.listener != self.number {
                    return None;
                }
                if let Some(message) = state.outbox.pop_front() {
                    return Some(message);
                }
            }
            tokio::select! {
                () = woken => {}
                () = self.conversation.ended.cancelled() => return None,
            }
        }
    }
}

impl Conversation {
    /// Counts something of it as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> Open {
        self.lock().open += 1;
        Open(Arc::clone(self))
    }

    /// Notes that it was used just now.
    pub fn touch(&self) {
        self.lock().used = Instant::now();
    }

    /// Completes when the conversation has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Reads its own messages from now on, in the place of whoever did.
    pub fn listen(self: &Arc<Self>) -> Listening {
        let mut state = self.lock();
        state.listening = true;
        state.listener += 1;
        let number = state.listener;
        drop(state);
        self.wake.notify_waiters();
        Listening { conversation: Arc::clone(self), number }
    }

    /// Whether its client reads its own messages.
    pub fn is_followed(&self) -> bool {
        self.lock().listening
    }

    /// Puts a message on the conversation's own stream. Where nobody reads it, the oldest is dropped.
    pub fn say(&self, message: Bytes) {
        let mut state = self.lock();
        if state.outbox.len() == OUTBOX {
            state.outbox.pop_front();
        }
        state.outbox.push_back(message);
        drop(state);
        self.wake.notify_waiters();
    }

    /// Registers a question and gives its minted id and the message that asks it. Over the bound the oldest open
    /// question is refused.
    pub fn ask(&self, ask: Ask) -> (u64, Bytes) {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.asks.insert(id, ask.reply);
        let refused = if state.asks.len() > ASKS { state.asks.pop_first() } else { None };
        drop(state);
        drop(refused);
        (id, ask.message.with_id(&id.to_string()))
    }

    /// Refuses a question that is still open, because its call is over.
    pub fn withdraw(&self, question: u64) {
        let refused = self.lock().asks.remove(&question);
        drop(refused);
    }

    /// Gives a client's response to the question it answers; an answer to none is dropped.
    pub fn answer(&self, response: Message) {
        let slot = response.minted_id().and_then(|id| self.lock().asks.remove(&id));
        if let Some(slot) = slot {
            slot.answer(Answer::Response(response));
        }
    }

    /// Notes a call under its client's id, so that it can be taken back.
    pub fn started(self: &Arc<Self>, id: Raw, interest: InterestHandle) -> Started {
        self.lock().calls.insert(id.clone(), interest);
        Started { conversation: Arc::clone(self), id }
    }

    /// Takes back the call with this id; a call that is over or never was is not an error.
    pub fn cancel(&self, id: &Raw) {
        let call = self.lock().calls.get(id).cloned();
        if let Some(interest) = call {
            interest.lower(Interest::Cancelled);
        }
    }

    /// Remembers which log messages its client wants: the JSON text of the level.
    pub fn set_log_level(&self, level: &str) {
        self.lock().log_level = Some(Arc::from(level));
    }

    /// Which log messages its client wants, as the JSON text of the level.
    pub fn log_level(&self) -> Option<Arc<str>> {
        self.lock().log_level.clone()
    }

    /// A stream that its client can take up again.
    pub fn stream(&self) -> Arc<Stream> {
        let mut state = self.lock();
        state.next += 1;
        let stream = Arc::new(Stream::new(state.next));
        state.streams.push_back(Arc::clone(&stream));
        if state.streams.len() > STREAMS {
            state.streams.pop_front();
        }
        stream
    }

    /// The stream an event id belongs to, and the event's number in it.
    pub fn stream_of(&self, event: &str) -> Option<(Arc<Stream>, u64)> {
        let (stream, number) = event.split_once('-')?;
        let (stream, number) = (stream.parse::<u64>().ok()?, number.parse().ok()?);
        let found = self.lock().streams.iter().find(|kept| kept.number() == stream).cloned()?;
        Some((found, number))
    }

    /// Gives a stream up.
    pub fn drop_stream(&self, stream: &Stream) {
        self.lock().streams.retain(|kept| kept.number() != stream.number());
    }

    /// Ends it: its calls are left, its questions refused, its listener told.
    fn end(&self) {
        self.ended.cancel();
        let (calls, asks) = {
            let mut state = self.lock();
            state.streams.clear();
            state.outbox.clear();
            (std::mem::take(&mut state.calls), std::mem::take(&mut state.asks))
        };
        for interest in calls.into_values() {
            interest.lower(Interest::Left);
        }
        drop(asks);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call noted under its client's id; dropped, the id is free again.
#[derive(Debug)]
pub struct Started {
    conversation: Arc<Conversation>,
    id: Raw,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.conversation.lock().calls.remove(&self.id);
    }
}

/// Every open conversation.
#[derive(Debug, Default)]
pub struct Conversations(RwLock<HashMap<Arc<str>, Arc<Conversation>>>);

impl Conversations {
    /// Opens a conversation; `None` when there are as many as may be.
    pub fn open(
        &self,
        caller: &Arc<str>,
        endpoint: Endpoint,
        wire: Wire,
        face: Arc<Face>,
        limits: &Limits,
    ) -> Option<Arc<Conversation>> {
        let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= limits.sessions {
            return None;
        }
        let conversation = Arc::new(Conversation {
            id: random_id().into(),
            caller: Arc::clone(caller),
            endpoint,
            wire,
            face,
            state: Mutex::new(State {
                used: Instant::now(),
                open: 0,
                listener: 0,
                listening: false,
                calls: HashMap::new(),
                asks: BTreeMap::new(),
                next: 0,
                outbox: VecDeque::new(),
                streams: VecDeque::new(),
                log_level: None,
            }),
            wake: Notify::new(),
            ended: CancellationToken::new(),
        });
        open.insert(Arc::clone(&conversation.id), Arc::clone(&conversation));
        Some(conversation)
    }

    /// The conversation with this id, if it is this caller's.
    pub fn get(&self, id: &str, caller: &str) -> Option<Arc<Conversation>> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.get(id).filter(|conversation| *conversation.caller == *caller).cloned()
    }

    /// A conversation by its id, whoever opened it.
    pub fn find(&self, id: &str) -> Option<Arc<Conversation>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Every open conversation.
    pub fn all(&self) -> Vec<Arc<Conversation>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends one.
    pub fn end(&self, id: &str) -> Option<Arc<Conversation>> {
        let ended = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        ended.end();
        Some(ended)
    }

    /// Ends those that have been idle for `idle`, and gives them.
    pub fn expire(&self, idle: Duration) -> Vec<Arc<Conversation>> {
        let expired: Vec<_> = {
            let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let expired: Vec<_> =
                open.values().filter(|conversation| conversation.idle_for(idle)).cloned().collect();
            for conversation in &expired {
                open.remove(&conversation.id);
            }
            if open.len() * 4 < open.capacity() {
                open.shrink_to_fit();
            }
            expired
        };
        expired.iter().for_each(|conversation| conversation.end());
        expired
    }
}

impl Conversation {
    fn idle_for(&self, idle: Duration) -> bool {
        let state = self.lock();
        state.open == 0 && state.used.elapsed() >= idle
    }
}

/// A random byte.
pub(crate) fn random_byte() -> u8 {
    let mut byte = [0_u8; 1];
    getrandom::fill(&mut byte).expect("the kernel gives random bytes");
    byte[0]
}

/// 128 random bits as hex.
pub(crate) fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
