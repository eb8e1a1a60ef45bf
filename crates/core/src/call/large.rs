//! Results that are larger than their limit: the caller gets the beginning and a link, and reads the rest behind it.
//!
//! What is behind a link is kept for whoever made the call, and for a while only. It is read with `resources/read`
//! on any endpoint, part by part, and answered here.

use super::{Answer, Call, resolve::Target};
use crate::{Gateway, config::LEAST_RESULT, conversation::random_id, life::Life, life::Task, time::Clock};
use bytes::Bytes;
use seawall_jobs::results::{Kept, LIFE, NewResult, Results};
use seawall_proto::{
    Code, Event, Fault, Message, Raw, Reply, ReplyKind, Request, Stage,
    era::{offer, serve},
    jsonrpc::Members,
};
use serde_json::{json, value::RawValue};
use std::{borrow::Cow, io, ops::Range, path::Path, sync::Arc};

/// What the URI of every kept result begins with; its name follows.
const ROOT: &str = "seawall://results/";
/// Where a part of a kept result says which URI has the next one.
const META_NEXT: &str = "seawall/next";
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
/// Bytes set aside in a cut result for what is said of the rest: the sentence, the link, and what JSON adds to both.
const NOTICE: usize = 768;
const _: () = assert!(NOTICE < LEAST_RESULT, "something of a result fits into the least limit");
/// Most bytes of a tool's name in a link.
const NAME: usize = 64;
/// What a part may have before and behind it that belongs to one character with it.
const SLACK: u64 = 3;

/// What becomes of a result that is over its limit.
#[derive(Debug)]
struct Plan<'a> {
    /// What is kept.
    kind: &'static str,
    bytes: Bytes,
    /// What is left of the result, unless a part of it is of no use to its caller.
    cut: Option<Cut<'a>>,
}

/// What is left of a result.
#[derive(Debug)]
struct Cut<'a> {
    members: Members<'a>,
    /// The beginning of its text.
    head: String,
    /// Whether what is kept is this text, and has more of it.
    goes_on: bool,
    drops_structured: bool,
}

/// What a URI of a kept result asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    id: &'a str,
    offset: u64,
    length: Option<u64>,
}

/// What is kept in a state directory; `None` where that cannot be.
pub(crate) async fn open(state: &Path, life: &Life) -> Option<Arc<Results>> {
    let directory = state.join("results");
    match life.blocking(move || Results::open(&directory, now_ms())).await? {
        Ok(results) => Some(Arc::new(results)),
        Err(error) => {
            tracing::error!(%error, "large results cannot be kept: they will be cut, and the rest is lost");
            None
        }
    }
}

/// Whether a request reads what was kept of a result.
pub(crate) fn reads(request: &Request) -> bool {
    request.method() == "resources/read" && request.subject().is_some_and(|uri| uri.starts_with(ROOT))
}

impl Target {
    /// The limit that a reply may be over; `None` for almost all of them, without a look at what they say.
    pub(super) fn exceeded(&self, reply: &Reply) -> Option<usize> {
        self.result_limit.filter(|limit| reply.kind == ReplyKind::Result && reply.body.len() > *limit)
    }

    /// Whether clients hold the tool's `structuredContent` against a schema, and refuse a result without it.
    fn declares_output(&self) -> bool {
        self.tool.as_ref().is_some_and(|tool| {
            Members::parse(tool.declared.declaration.as_str())
                .is_ok_and(|members| members.get("outputSchema").is_some())
        })
    }
}

impl Gateway {
    /// Cuts a result that is over its limit and keeps all of it for its caller. Whatever happens to what is kept, the
    /// caller gets the beginning.
    ///
    /// # Errors
    /// TOO_LARGE where the beginning would be of no use.
    pub(super) async fn cut(
        &self,
        call: &Call,
        target: &Target,
        clock: &Clock,
        reply: Reply,
        limit: usize,
    ) -> Result<Reply, Fault> {
        let Ok(message) = Message::parse(reply.body.clone()) else { return Ok(reply) };
        let Some(result) = message.result() else { return Ok(reply) };
        // The limit is one of the result; so far the whole message was looked at.
        let size = result.bytes().len();
        if size <= limit {
            return Ok(reply);
        }
        let Plan { kind, bytes, cut } = plan(&result, limit, target.declares_output());
        let kept_size = bytes.len();
        let uri = self.keep_result(&call.caller.name, clock, kind, bytes, limit).await;
        let upstream = &**target.upstream.name();
        let tool = target.subject.as_deref().unwrap_or_default();
        let kept = uri.is_some();
        tracing::info!(upstream, tool, size, limit, kept, "a result was larger than `result_limit`");
        let Some(cut) = cut else {
            let rest = match &uri {
                Some(uri) => format!("all of it is at {uri}, {}.", readable()),
                None => String::from("it could not be kept, so ask for less."),
            };
            let text = format!(
                "server {upstream:?} gave a result of {size} bytes, of which {limit} are let through, and its schema \
                 does not allow a part of it. It has run; {rest}"
            );
            return Err(Fault::new(Code::TooLarge, Stage::Answer, text));
        };
        let mut content = vec![json!({"type": "text", "text": cut.text(size, limit, uri.as_deref())})];
        if let Some(uri) = uri.filter(|_| call.request.wire().links()) {
            content.push(json!({
                "type": "resource_link",
                "uri": uri,
                "name": beginning(tool, NAME),
                "description": format!("All of the result, {}", readable()),
                "mimeType": kind,
                "size": kept_size,
            }));
        }
        let body = message.answering(call.request.id().as_str(), Some(cut.written(content)));
        Ok(Reply { body, kind: reply.kind })
    }

    /// Keeps a result for a caller, within the time that its call has left; gives its URI.
    async fn keep_result(
        &self,
        owner: &Arc<str>,
        clock: &Clock,
        kind: &'static str,
        bytes: Bytes,
        part: usize,
    ) -> Option<String> {
        let results = Arc::clone(self.results.as_ref()?);
        let (id, owner) = (random_id(), Arc::clone(owner));
        let uri = format!("{ROOT}{id}");
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        let keeping = self.life.blocking(move || {
            let new = NewResult { id: &id, owner: &owner, kind, part, bytes: &bytes };
            results.keep(&new, now_ms())
        });
        let kept = tokio::select! {
            biased;
            kept = keeping => kept.unwrap_or_else(|| Err(io::Error::other("keeping it was broken off"))),
            () = clock.expired() => Err(io::ErrorKind::TimedOut.into()),
        };
        match kept {
            Ok(()) => Some(uri),
            Err(error) => {
                tracing::warn!(%error, "the rest of a large result could not be kept");
                None
            }
        }
    }

    /// Answers a request for a part of what was kept of a result.
    pub(super) fn read_result(self: &Arc<Self>, call: Call) -> Answer {
        let (answer, mut work) = Answer::own();
        let this = Arc::clone(self);
        self.life.spawn(Task::Attempt, async move {
            drop(work.end(Event::End(this.part_of_result(&call).await)));
        });
        answer
    }

    async fn part_of_result(&self, call: &Call) -> Result<Reply, Fault> {
        let request = &*call.request;
        let uri = request.subject().map_or("", |uri| &**uri);
        let missing = || offer::no_resource(request, uri);
        let Some(asked) = Asked::read(uri) else {
            let text =
                "a kept result takes `?offset=N&length=N`, both in bytes, either of which may be left out";
            return Ok(offer::invalid(request, text));
        };
        let Some(results) = &self.results else { return Ok(missing()) };
        // Another caller's is not there, in the same words as one that never was.
        let Some(kept) = results.find(asked.id, &call.caller.name, now_ms()) else { return Ok(missing()) };
        if asked.offset > kept.size {
            return Ok(offer::invalid(
                request,
                &format!("`offset` is behind the end: it has {} bytes", kept.size),
            ));
        }
        let length = asked.length.unwrap_or(kept.part).max(1);
        let (results, file, offset) = (Arc::clone(results), kept.clone(), asked.offset);
        let read =
            self.life.blocking(move || results.read(&file, offset, length.saturating_add(SLACK))).await;
        match read.unwrap_or_else(|| Err(io::Error::other("reading it was broken off"))) {
            Ok(bytes) => Ok(part(request, uri, &asked, &kept, &bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(missing()),
            Err(error) => {
                let text = format!("what was kept of the result cannot be read: {error}.");
                Err(Fault::new(Code::Internal, Stage::Answer, text))
            }
        }
    }

    /// Removes kept results whose time is over.
    pub(crate) async fn sweep_results(&self) {
        if let Some(results) = self.results.clone() {
            self.life.blocking(move || results.sweep(now_ms())).await;
        }
    }
}

/// Decides what is left of a result. `declared` says that its tool declares a schema for it.
fn plan(result: &Raw, limit: usize, declared: bool) -> Plan<'_> {
    let whole = |cut| Plan { kind: JSON, bytes: result.bytes().clone(), cut };
    let Ok(members) = Members::parse(result.as_str()) else { return whole(None) };
    let structured = members.get("structuredContent");
    let others: usize = members
        .iter()
        .filter(|(name, _)| !matches!(*name, "content" | "structuredContent"))
        .map(|(name, value)| name.len() + value.len() + 4)
        .sum();
    let room = limit.saturating_sub(others + NOTICE);
    // What failed needs no structured content, whatever was declared.
    let wanted = declared && structured.is_some() && members.get("isError") != Some("true");
    let fits = structured.filter(|text| text.len() <= if wanted { limit } else { room });
    if wanted && fits.is_none() {
        return whole(None);
    }
    let (text, nothing_else) = text_of(members.get("content").unwrap_or("[]"));
    let head = beginning(&text, room.saturating_sub(fits.map_or(0, str::len))).to_owned();
    let drops_structured = structured.is_some() && fits.is_none();
    // Nothing may be lost: what is dropped is in the text, or all of it is kept.
    let plain = nothing_else && structured.is_none_or(|json| !drops_structured || same_json(json, &text));
    let goes_on = plain && !head.is_empty() && head.len() < text.len();
    let cut = Cut { members, head, goes_on, drops_structured };
    if plain { Plan { kind: TEXT, bytes: text.into(), cut: Some(cut) } } else { whole(Some(cut)) }
}

impl Cut<'_> {
    /// The beginning, and a sentence about the rest, which is at `uri` if it could be kept.
    fn text(&self, size: usize, limit: usize, uri: Option<&str>) -> String {
        let without = if self.drops_structured { " without its structuredContent" } else { "" };
        let rest = match uri {
            Some(uri) if self.goes_on => {
                format!("the rest of the text is at {uri}?offset={}, {}", self.head.len(), readable())
            }
            Some(uri) => format!("all of it is at {uri}, {}", readable()),
            None => String::from("the rest could not be kept, so ask for less"),
        };
        let gap = if self.head.is_empty() { "" } else { "\n\n" };
        let head = &self.head;
        format!("{head}{gap}This result has {size} bytes, of which {limit} are let through{without}; {rest}.")
    }

    /// The result with this content in the place of its own.
    fn written(&self, content: Vec<serde_json::Value>) -> String {
        let content = serde_json::Value::Array(content).to_string();
        let mut edits = vec![("content", Some(content.as_str()))];
        if self.drops_structured {
            edits.push(("structuredContent", None));
        }
        self.members.edited(&edits)
    }
}

/// How and for how long a kept result can be read.
fn readable() -> String {
    format!("readable with resources/read for {} minutes", LIFE.as_secs() / 60)
}

/// The texts of a result's content with blank lines between them, and whether there is nothing else in it.
fn text_of(content: &str) -> (String, bool) {
    let items: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
    let texts: Vec<Cow<'_, str>> = items
        .iter()
        .filter_map(|item| {
            let members = Members::parse(item.get()).ok()?;
            if members.string("type")? == "text" { members.string("text") } else { None }
        })
        .collect();
    (texts.join("\n\n"), !items.is_empty() && texts.len() == items.len())
}

/// As much of a text as `room` bytes of JSON hold.
fn beginning(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (at, letter) in text.char_indices() {
        used += match letter {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            letter => letter.len_utf8(),
        };
        if used > room {
            return &text[..at];
        }
    }
    text
}

/// Whether two texts are the same JSON but for the space between its parts.
fn same_json(one: &str, other: &str) -> bool {
    dense(one).eq(dense(other))
}

fn dense(json: &str) -> impl Iterator<Item = u8> {
    let (mut inside, mut escaped) = (false, false);
    json.bytes().filter(move |byte| {
        if inside {
            (inside, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            return true;
        }
        inside = *byte == b'"';
        inside || !byte.is_ascii_whitespace()
    })
}

impl<'a> Asked<'a> {
    fn read(uri: &'a str) -> Option<Self> {
        let rest = uri.strip_prefix(ROOT)?;
        let (id, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut asked = Self { id, offset: 0, length: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("offset", bytes) => asked.offset = bytes.parse().ok()?,
                ("length", bytes) => asked.length = Some(bytes.parse().ok()?),
                _ => return None,
            }
        }
        Some(asked)
    }

    /// The URI of what comes after it.
    fn next(&self, offset: u64) -> String {
        let length = self.length.map_or_else(String::new, |length| format!("&length={length}"));
        format!("{ROOT}{}?offset={offset}{length}", self.id)
    }
}

/// A part of a kept result as the answer to a request. `bytes` are those from the offset on, with some to spare.
fn part(request: &Request, uri: &str, asked: &Asked<'_>, kept: &Kept, bytes: &[u8]) -> Reply {
    let characters = whole_characters(bytes, asked.length.unwrap_or(kept.part));
    let end = asked.offset + u64::try_from(characters.end).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&bytes[characters]).into_owned();
    let mut meta = json!({});
    if end < kept.size {
        let next = asked.next(end);
        text.push_str(&format!("\nThe next part is at {next}"));
        meta[META_NEXT] = json!(next);
    }
    let contents = json!([{"uri": uri, "mimeType": kept.kind, "text": text}]);
    serve::result(request, &json!({"contents": contents, "_meta": meta}).to_string(), 0)
}

/// The characters that begin within the first `length` bytes of a piece of a text, at least one byte being asked for.
fn whole_characters(bytes: &[u8], length: u64) -> Range<usize> {
    let begins = |at: &usize| bytes.get(*at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let start = (0..bytes.len()).find(begins).unwrap_or(bytes.len());
    let length = usize::try_from(length.max(1)).unwrap_or(usize::MAX).min(bytes.len());
    let end = (length..bytes.len()).find(begins).unwrap_or(bytes.len());
    start..end.max(start)
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use std::path::PathBuf;

    const LIMIT: usize = 2048;
    const URI: &str = "seawall://results/0123456789abcdef0123456789abcdef";

    fn raw(value: &serde_json::Value) -> Raw {
        Raw::of(value)
    }

    fn texts(texts: &[&str]) -> serde_json::Value {
        texts.iter().map(|text| json!({"type": "text", "text": text})).collect()
    }

    /// What a cut result says, and its length without what tells of the rest but for the sentence.
    fn written(plan: &Plan<'_>, size: usize) -> (serde_json::Value, usize) {
        let cut = plan.cut.as_ref().expect("it can be cut");
        let text = cut.written(vec![json!({"type": "text", "text": cut.text(size, LIMIT, Some(URI))})]);
        (serde_json::from_str(&text).unwrap(), text.len())
    }

    #[test]
    fn text_is_cut_between_characters_and_the_rest_of_the_result_stays() {
        let long = "\"\u{e4}\n".repeat(1000);
        let result = raw(&json!({"content": texts(&["first", &long]), "isError": true, "_meta": {"k": 1.5}}));
        let plan = plan(&result, LIMIT, false);
        let whole = format!("first\n\n{long}");
        assert_eq!((plan.kind, &plan.bytes[..]), (TEXT, whole.as_bytes()));
        let (cut, length) = written(&plan, result.as_str().len());
        assert_eq!((&cut["isError"], &cut["_meta"]), (&json!(true), &json!({"k": 1.5})));
        let (head, sentence) = cut["content"][0]["text"].as_str().unwrap().rsplit_once("\n\n").unwrap();
        assert!(whole.starts_with(head) && head.len() > 500, "{head:?}");
        assert!(sentence.contains(&format!("{URI}?offset={}", head.len())), "{sentence}");
        assert!(length <= LIMIT - 256, "{length}: there is no room for the link");
    }

    #[test]
    fn structured_content_stays_where_it_fits_and_is_never_lost() {
        let small = json!({"n": "x".repeat(600)});
        let result = raw(&json!({"content": texts(&[&"y".repeat(3000)]), "structuredContent": small}));
        let (cut, length) = written(&plan(&result, LIMIT, false), 3000);
        assert_eq!(cut["structuredContent"], small);
        assert!(length <= LIMIT, "{length}");

        let large = json!({"n": "x".repeat(3000)});
        let spaced = large.to_string().replace(':', ": ");
        for (text, kind) in [(spaced.as_str(), TEXT), ("a summary", JSON)] {
            let result = raw(&json!({"content": texts(&[text]), "structuredContent": large}));
            let plan = plan(&result, LIMIT, false);
            assert_eq!(plan.kind, kind, "{text:.20}");
            let (cut, _) = written(&plan, 3000);
            assert!(cut.get("structuredContent").is_none());
            let said = cut["content"][0]["text"].as_str().unwrap();
            assert!(said.contains("without its structuredContent"), "{said}");
        }
    }

    #[test]
    fn what_a_schema_promises_is_whole_or_the_call_fails() {
        let with = |structured: usize, failed: bool| {
            raw(&json!({
                "content": texts(&[&"y".repeat(3000)]),
                "structuredContent": {"n": "x".repeat(structured)},
                "isError": failed,
            }))
        };
        let (fits, over, failed) = (with(2000, false), with(2100, false), with(2100, true));
        let kept = plan(&fits, LIMIT, true).cut.expect("it can be cut");
        assert!(!kept.drops_structured && kept.head.is_empty());
        let refused = plan(&over, LIMIT, true);
        assert!(refused.cut.is_none());
        assert_eq!((refused.kind, &refused.bytes[..]), (JSON, over.as_str().as_bytes()));
        assert!(plan(&failed, LIMIT, true).cut.is_some_and(|cut| cut.drops_structured));
        assert!(plan(&over, LIMIT, false).cut.is_some_and(|cut| cut.drops_structured));
    }

    #[test]
    fn what_is_not_text_is_kept_as_json() {
        let image = json!({"type": "image", "data": "x".repeat(3000), "mimeType": "image/png"});
        let result = raw(&json!({"content": [{"type": "text", "text": "a picture"}, image]}));
        let plan = plan(&result, LIMIT, false);
        assert_eq!((plan.kind, &plan.bytes[..]), (JSON, result.as_str().as_bytes()));
        let (cut, _) = written(&plan, 3100);
        let said = cut["content"][0]["text"].as_str().unwrap();
        assert!(
            said.starts_with("a picture\n\n") && said.contains(&format!("all of it is at {URI},")),
            "{said}"
        );
        let strange = raw(&json!({"content": "x".repeat(3000)}));
        assert_eq!(super::plan(&strange, LIMIT, false).kind, JSON);
    }

    #[test]
    fn a_beginning_is_measured_as_json_writes_it() {
        let text = "a\"\\\n\u{1}\u{8}\u{7f}\u{e4}\u{1f600}";
        for room in 0..40 {
            let head = beginning(text, room);
            let length = json!(head).to_string().len() - 2;
            assert!(length <= room, "{head:?} in {room}");
            let next = text[head.len()..]
                .chars()
                .next()
                .map_or(usize::MAX, |next| json!(next.to_string()).to_string().len() - 2);
            assert!(next > room - length, "{head:?} is not all that fits in {room}");
        }
    }

    #[test]
    fn json_is_the_same_however_it_is_spaced() {
        assert!(same_json(r#"{"a":[1,"b c\\"]}"#, "{ \"a\" : [1,\n \"b c\\\\\"] }"));
        assert!(!same_json(r#"{"a":"b c"}"#, r#"{"a":"bc"}"#));
        assert!(!same_json(r#"{"a":"\" 1"}"#, r#"{"a":"\"1"}"#));
    }

    #[test]
    fn a_part_has_whole_characters_and_parts_join_without_a_gap() {
        let whole = "a\u{e4}\u{20ac}\u{1f600}z".as_bytes();
        assert_eq!(&whole[whole_characters(&whole[..5], 2)], "a\u{e4}".as_bytes());
        for length in 1..=whole.len() {
            let (mut at, mut joined) = (0, Vec::new());
            while at < whole.len() {
                let piece = &whole[at..(at + length + 3).min(whole.len())];
                let characters = whole_characters(piece, u64::try_from(length).unwrap());
                assert!(characters.start == 0 && characters.end > 0, "{length} at {at}");
                joined.extend_from_slice(&piece[..characters.end]);
                at += characters.end;
            }
            assert_eq!(joined, whole, "{length}");
        }
        // From within a character.
        assert_eq!(whole_characters(&whole[2..], 1), 1..1);
        assert_eq!(whole_characters(&whole[2..], 2), 1..4);
        assert_eq!(whole_characters(b"", 1), 0..0);
    }

    #[test]
    fn a_uri_asks_for_a_part() {
        let asked = |query: &str| Asked::read(&format!("{URI}{query}")).map(|it| (it.offset, it.length));
        assert_eq!(asked(""), Some((0, None)));
        assert_eq!(asked("?offset=3&length=4"), Some((3, Some(4))));
        for wrong in ["?offset", "?offset=x", "?length=-1", "?page=2"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
        let uri = format!("{URI}?length=4");
        assert_eq!(Asked::read(&uri).unwrap().next(9), format!("{URI}?offset=9&length=4"));
    }

    fn configured(keys: &str) -> Result<Config, String> {
        let text = format!("[servers.s]\ncommand = \"c\"\n{keys}");
        let sources = config::Sources {
            own: Some(config::Source { path: PathBuf::from("test.toml"), text }),
            foreign: Vec::new(),
            environment: &|_| None,
            overrides: Vec::new(),
            state_default: PathBuf::from("/nowhere"),
            base: PathBuf::new(),
        };
        config::lower(&sources).map(|(config, _)| config).map_err(|faults| faults[0].to_string())
    }

    #[test]
    fn a_limit_is_the_tools_own_or_its_servers_and_never_too_small_to_say_so() {
        let keys = "result_limit = \"4KiB\"\n[servers.s.tools.wide]\nresult_limit = 65536";
        let config = configured(keys).unwrap();
        let server = &config.upstreams[0];
        assert_eq!(["wide", "other"].map(|tool| server.result_limit_of(tool)), [Some(65_536), Some(4096)]);
        assert!(server.limits_results());
        let none = configured("").unwrap();
        assert!(none.upstreams[0].result_limit_of("wide").is_none() && !none.upstreams[0].limits_results());
        for keys in ["result_limit = 1023", "[servers.s.tools.t]\nresult_limit = \"100B\""] {
            let fault = configured(keys).unwrap_err();
            assert!(fault.contains("result_limit") && fault.contains("1KiB"), "{fault}");
        }
    }
}
