//! Results of tools that are kept for a while, where `cache` says so.
//!
//! They take a bounded number of bytes. What has expired goes first, then what was not asked for the longest. What is
//! counted is what is held: bodies and arguments are copied out of the buffers they came in, which may be larger.

use crate::upstream::ShareKey;
use bytes::Bytes;
use seawall_proto::{Message, Raw, Reply, ReplyKind, Request, jsonrpc::Members};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// `_meta` of a result that was kept: how old it is.
pub const META_CACHED: &str = "seawall/cached";
/// More than an entry takes besides the bytes that are counted one by one: its places in three maps, the key's fixed
/// part, the message's spans.
const ENTRY: usize = 1024;

/// Which calls are equal: one's answer is as good as the other's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who else would have had the same instance.
    pub isolation: ShareKey,
    /// What identifies the upstream and its configuration.
    pub upstream: Arc<str>,
    /// The upstream's own name for the tool.
    pub tool: Arc<str>,
    /// The arguments, byte for byte.
    pub arguments: Option<Raw>,
    /// What its caller's client can do.
    pub client: Raw,
    /// The words that its result is written in, see [`Request::words`].
    pub words: &'static str,
}

/// The results that are kept.
pub struct Cache(Mutex<Bounded<Key, Arc<Kept>>>);

/// A result that is kept, in the words of whoever asked first.
#[derive(Debug)]
pub struct Kept {
    response: Message,
    since: Instant,
}

/// Whether a reply may be kept: it is a tool's success, and can be marked.
pub fn cacheable(reply: &Reply) -> bool {
    reply.kind == ReplyKind::Result && success(&reply.body).is_some()
}

impl Cache {
    /// An empty cache for at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Mutex::new(Bounded::new(limit)))
    }

    /// Sets how many bytes all results may take; what is over it leaves at once.
    pub fn set_limit(&self, limit: usize) {
        let gone = self.lock().set_limit(limit);
        drop(gone);
    }

    /// The result of an equal call, if there is one that has not expired.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Arc<Kept>> {
        self.lock().get(key, now)
    }

    /// Keeps the reply to a call for as long as `keep`, in the place of an earlier one. What is not [`cacheable`], or
    /// larger than all the room there is, is not kept.
    pub fn put(&self, key: Key, reply: &Reply, keep: Duration, now: Instant) {
        let Some(until) = now.checked_add(keep).filter(|_| reply.kind == ReplyKind::Result) else { return };
        let Some(response) = success(&Bytes::copy_from_slice(&reply.body)) else { return };
        let arguments = key.arguments.as_ref().map(copied);
        let client = copied(&key.client);
        let (isolation, isolated) = key.isolation.apart();
        let size = ENTRY
            + response.body().len()
            + arguments.as_ref().map_or(0, |arguments| arguments.bytes().len())
            + client.bytes().len()
            + isolated
            + key.upstream.len()
            + key.tool.len();
        let key = Key { isolation, arguments, client, ..key };
        let kept = Arc::new(Kept { response, since: now });
        let gone = self.lock().put(key, kept, size, until, now);
        drop(gone);
    }

    /// Lets go of what has expired.
    pub fn sweep(&self, now: Instant) {
        let gone = self.lock().sweep(now);
        drop(gone);
    }

    /// Bytes that all results take.
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    /// How many results there are.
    pub fn count(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Bounded<Key, Arc<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cache {
    /// Shows how much there is instead of what: results and arguments belong to their callers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, taken) = (self.count(), self.taken());
        f.debug_struct("Cache").field("count", &count).field("taken", &taken).finish_non_exhaustive()
    }
}

impl Kept {
    /// The answer to a request that speaks as the first did: the result with the request's id, and with a mark that
    /// says how old it is.
    pub fn answering(&self, request: &Request, now: Instant) -> Reply {
        let age_ms = now.saturating_duration_since(self.since).as_millis();
        let result = self.response.result();
        let result = result.as_ref().and_then(|result| marked(result.as_str(), age_ms));
        let body = self.response.answering(request.id().as_str(), result);
        Reply { body, kind: ReplyKind::Result }
    }
}

/// A result with the mark in its `_meta`; every other value as it was.
fn marked(result: &str, age_ms: u128) -> Option<String> {
    let members = Members::parse(result).ok()?;
    let meta = Members::parse(members.get("_meta").unwrap_or("{}")).ok()?;
    let meta = meta.edited(&[(META_CACHED, Some(&format!(r#"{{"age_ms":{age_ms}}}"#)))]);
    Some(members.edited(&[("_meta", Some(&meta))]))
}

/// The response that says a tool's success; `None` for any other, and for one that could not be marked.
fn success(body: &Bytes) -> Option<Message> {
    let response = Message::parse(body.clone()).ok()?;
    response.id()?;
    let result = response.result()?;
    let members = Members::parse(result.as_str()).ok()?;
    let failed = members.get("isError").is_some_and(|says| says != "false");
    let markable = members.get("_meta").is_none_or(|meta| Members::parse(meta).is_ok());
    (markable && !failed).then_some(response)
}

/// A value apart from the message it came in, which would be held with it.
pub(crate) fn copied(value: &Raw) -> Raw {
    let bytes = Bytes::copy_from_slice(value.as_str().as_bytes());
    let text = std::str::from_utf8(&bytes).expect("it was copied from a text");
    Raw::part(&bytes, text)
}

/// Values that take a bounded number of bytes, each with its time. Every operation costs the logarithm of their
/// number, and as much again for each value that leaves. What leaves is handed out, to be dropped without the lock.
#[derive(Debug)]
struct Bounded<K, V> {
    limit: usize,
    taken: usize,
    entries: HashMap<Arc<K>, Entry<V>>,
    by_use: BTreeMap<u64, Arc<K>>,
    by_end: BTreeMap<(Instant, u64), Arc<K>>,
    /// Counts uses; none has the number of another.
    next: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    size: usize,
    used: u64,
    /// When it expires, and the number of the use that put it there, which tells it from others of that moment.
    ends: (Instant, u64),
}

impl<K: Eq + Hash, V: Clone> Bounded<K, V> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            by_end: BTreeMap::new(),
            next: 0,
        }
    }

    fn get(&mut self, key: &K, now: Instant) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        if entry.ends.0 <= now {
            drop(self.remove(key));
            return None;
        }
        if let Some(key) = self.by_use.remove(&entry.used) {
            entry.used = self.next;
            self.next += 1;
            self.by_use.insert(entry.used, key);
        }
        Some(entry.value.clone())
    }

    fn put(&mut self, key: K, value: V, size: usize, until: Instant, now: Instant) -> Vec<V> {
        // What was there goes in any case: it is older than what may not fit.
        let mut gone: Vec<V> = self.remove(&key).into_iter().collect();
        gone.extend(self.sweep(now));
        if size > self.limit || until <= now {
            return gone;
        }
        gone.extend(self.shrink(self.limit - size));
        let (key, used) = (Arc::new(key), self.next);
        self.next += 1;
        let ends = (until, used);
        self.by_use.insert(used, Arc::clone(&key));
        self.by_end.insert(ends, Arc::clone(&key));
        self.entries.insert(key, Entry { value, size, used, ends });
        self.taken += size;
        gone
    }

    fn sweep(&mut self, now: Instant) -> Vec<V> {
        let mut gone = Vec::new();
        while let Some((&(until, _), key)) = self.by_end.first_key_value() {
            if until > now {
                break;
            }
            let key = Arc::clone(key);
            gone.extend(self.remove(&key));
        }
        gone
    }

    fn set_limit(&mut self, limit: usize) -> Vec<V> {
        self.limit = limit;
        self.shrink(limit)
    }

    /// Lets the least recently used go until all others take no more than `room`.
    fn shrink(&mut self, room: usize) -> Vec<V> {
        let mut gone = Vec::new();
        while self.taken > room {
            let Some((_, key)) = self.by_use.pop_first() else { break };
            gone.extend(self.remove(&key));
        }
        gone
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.by_use.remove(&entry.used);
        self.by_end.remove(&entry.ends);
        self.taken -= entry.size;
        Some(entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use seawall_proto::era::{Face, Wire};

    fn reply(body: &str) -> Reply {
        Reply { body: Bytes::copy_from_slice(body.as_bytes()), kind: ReplyKind::Result }
    }

    fn result(result: &str) -> Reply {
        reply(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#))
    }

    #[test]
    fn only_successes_are_kept() {
        for (body, may) in [
            (r#"{"content":[]}"#, true),
            (r#"{"content":[],"isError":false,"_meta":{"k":1}}"#, true),
            (r#"{"content":[],"isError":true}"#, false),
            (r#"{"content":[],"isError":"true"}"#, false),
            (r#"{"content":[],"_meta":7}"#, false),
            ("[]", false),
        ] {
            assert_eq!(cacheable(&result(body)), may, "{body}");
        }
        assert!(!cacheable(&reply(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#)));
        for kind in [ReplyKind::Ask, ReplyKind::Task, ReplyKind::Error(1)] {
            assert!(!cacheable(&Reply { kind, ..result("{}") }), "{kind:?}");
        }
    }

    #[test]
    fn a_hit_has_the_id_of_who_asks_and_a_mark_and_is_the_same_otherwise() {
        let text = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#;
        let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        let request = Request::read(message, Wire::own(), Face::own()).unwrap();
        let now = Instant::now();
        let hit = |body: &str| {
            let response = success(&result(body).body).unwrap();
            let hit = Kept { response, since: now }.answering(&request, now + Duration::from_millis(1500));
            assert_eq!(hit.kind, ReplyKind::Result);
            String::from_utf8(hit.body.to_vec()).unwrap()
        };
        assert_eq!(
            hit(r#"{"content":[ 1.10],"n":123456789012345678901234567890}"#),
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[ 1.10],"n":123456789012345678901234567890,"_meta":{"seawall/cached":{"age_ms":1500}}}}"#
        );
        assert_eq!(
            hit(r#"{"_meta":{"k":1.50,"seawall/cached":{"age_ms":9}},"content":[]}"#),
            r#"{"jsonrpc":"2.0","id":7,"result":{"_meta":{"k":1.50,"seawall/cached":{"age_ms":1500}},"content":[]}}"#
        );
    }

    #[test]
    fn a_copied_value_holds_nothing_else() {
        let whole = Bytes::from(format!(r#"{{"a":1,"b":"{}"}}"#, "x".repeat(1000)));
        let value = Raw::part(&whole, std::str::from_utf8(&whole[5..6]).unwrap());
        let copy = copied(&value);
        drop(value);
        assert!(whole.is_unique(), "nothing but `whole` holds its bytes");
        assert_eq!(copy.as_str(), "1");
    }

    /// What happens to a cache.
    #[derive(Clone, Debug)]
    enum Step {
        Put { key: u8, size: usize, keep: u64 },
        Get(u8),
        Wait(u64),
        Sweep,
        Limit(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let put = (0_u8..12, 0_usize..120, 0_u64..40);
        prop_oneof![
            4 => put.prop_map(|(key, size, keep)| Step::Put { key, size, keep }),
            4 => (0_u8..12).prop_map(Step::Get),
            2 => (0_u64..10).prop_map(Step::Wait),
            1 => Just(Step::Sweep),
            1 => (0_usize..300).prop_map(Step::Limit),
        ]
    }

    /// A cache that is slow and plain: a list in the order of use, the least recent first.
    #[derive(Debug, Default)]
    struct Model {
        limit: usize,
        entries: Vec<Remembered>,
    }

    #[derive(Clone, Copy, Debug)]
    struct Remembered {
        key: u8,
        value: usize,
        size: usize,
        until: Instant,
    }

    impl Model {
        fn taken(&self) -> usize {
            self.entries.iter().map(|entry| entry.size).sum()
        }

        fn sweep(&mut self, now: Instant) {
            self.entries.retain(|entry| entry.until > now);
        }

        fn put(&mut self, new: Remembered, now: Instant) {
            self.entries.retain(|entry| entry.key != new.key);
            self.sweep(now);
            if new.size <= self.limit && new.until > now {
                while self.taken() + new.size > self.limit {
                    self.entries.remove(0);
                }
                self.entries.push(new);
            }
        }

        fn get(&mut self, key: u8, now: Instant) -> Option<usize> {
            let at = self.entries.iter().position(|entry| entry.key == key)?;
            let entry = self.entries.remove(at);
            if entry.until <= now {
                return None;
            }
            self.entries.push(entry);
            Some(entry.value)
        }

        fn set_limit(&mut self, limit: usize) {
            self.limit = limit;
            while self.taken() > limit {
                self.entries.remove(0);
            }
        }
    }

    proptest! {
        #[test]
        fn it_keeps_what_the_model_keeps_and_never_more_than_its_limit(steps in vec(step(), 0..200)) {
            let mut now = Instant::now();
            let (mut cache, mut model) = (Bounded::new(200), Model { limit: 200, ..Model::default() });
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put { key, size, keep } => {
                        let until = now + Duration::from_millis(keep);
                        drop(cache.put(key, value, size, until, now));
                        model.put(Remembered { key, value, size, until }, now);
                    }
                    Step::Get(key) => prop_assert_eq!(cache.get(&key, now), model.get(key, now)),
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Sweep => {
                        drop(cache.sweep(now));
                        model.sweep(now);
                    }
                    Step::Limit(limit) => {
                        drop(cache.set_limit(limit));
                        model.set_limit(limit);
                    }
                }
                prop_assert!(cache.taken <= cache.limit);
                prop_assert_eq!(cache.taken, model.taken());
                let count = model.entries.len();
                let counts = [cache.entries.len(), cache.by_use.len(), cache.by_end.len()];
                prop_assert_eq!(counts, [count; 3]);
                let order: Vec<u8> = cache.by_use.values().map(|key| **key).collect();
                prop_assert_eq!(order, model.entries.iter().map(|entry| entry.key).collect::<Vec<_>>());
            }
        }
    }
}
