//! A small MCP client of either era.

use crate::answer::{Answer, Listing};
use crate::http::{Exchange, Response, send, text_of};
use crate::sse::Events;
use crate::{PATIENCE, within};
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const LEGACY_VERSION: &str = "2025-11-25";
const MODERN_VERSION: &str = "2026-07-28";

/// The two eras of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Sessions that `initialize` opens.
    Legacy,
    /// Requests that stand alone.
    Modern,
}

/// A client of one endpoint. Copies share nothing but the session and the ids they count up.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    token: Option<String>,
    /// The session of the legacy era; in the modern one there is none.
    session: Option<String>,
    era: Era,
    /// The conversation a modern client names.
    conversation: Option<String>,
    /// What it says it can do: an object.
    capabilities: Value,
    /// The level of log messages that a modern client asks for.
    log_level: Option<String>,
    /// Its responses to questions, by their method and without an id.
    responses: Vec<(String, Value)>,
    /// How long it thinks before each of them.
    thinks: Duration,
    ids: Arc<AtomicU64>,
}

impl Client {
    /// A client of the given era.
    ///
    /// # Panics
    /// When a legacy session is refused.
    pub async fn open(era: Era, url: &str, token: Option<&str>) -> Self {
        match era {
            Era::Legacy => Self::legacy(url, token).await,
            Era::Modern => Self::modern(url, token),
        }
    }

    /// A client with a new session.
    ///
    /// # Panics
    /// When the session is refused.
    pub async fn legacy(url: &str, token: Option<&str>) -> Self {
        Self::legacy_able(url, token, &json!({})).await
    }

    /// A client with a new session that says it can do these things: an object of capabilities.
    ///
    /// # Panics
    /// When the session is refused.
    pub async fn legacy_able(url: &str, token: Option<&str>, capabilities: &Value) -> Self {
        match Self::try_legacy_able(url, token, capabilities).await {
            Ok(client) => client,
            Err(answer) => panic!("no session at {url}: {answer:#?}"),
        }
    }

    /// A client with a new session, or the answer that refused it.
    ///
    /// # Errors
    /// What came instead of a session.
    pub async fn try_legacy(url: &str, token: Option<&str>) -> Result<Self, Box<Answer>> {
        Self::try_legacy_able(url, token, &json!({})).await
    }

    async fn try_legacy_able(
        url: &str,
        token: Option<&str>,
        capabilities: &Value,
    ) -> Result<Self, Box<Answer>> {
        let mut client = Self { era: Era::Legacy, ..Self::modern(url, token) };
        let params = json!({
            "protocolVersion": LEGACY_VERSION,
            "capabilities": capabilities,
            "clientInfo": {"name": "seawall-tests", "version": env!("CARGO_PKG_VERSION")},
        });
        let answer = client.request("initialize", &params).await;
        let session = answer.header("mcp-session-id");
        if answer.status != 200 || answer.value["result"].is_null() || session.is_empty() {
            return Err(Box::new(answer));
        }
        client.session = Some(session.to_owned());
        client.notify("notifications/initialized", &json!({})).await;
        Ok(client)
    }

    /// A client without a session.
    pub fn modern(url: &str, token: Option<&str>) -> Self {
        Self {
            url: url.to_owned(),
            token: token.map(str::to_owned),
            session: None,
            era: Era::Modern,
            conversation: None,
            capabilities: json!({}),
            log_level: None,
            responses: Vec::new(),
            thinks: Duration::ZERO,
            ids: Arc::default(),
        }
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same client with another session id.
    #[must_use]
    pub fn with_session(&self, session: &str) -> Self {
        Self { session: Some(session.to_owned()), ..self.clone() }
    }

    /// The same client naming a conversation.
    #[must_use]
    pub fn in_conversation(&self, name: &str) -> Self {
        Self { conversation: Some(name.to_owned()), ..self.clone() }
    }

    /// The same modern client, saying in each request that it can do these things: an object of
    /// capabilities.
    #[must_use]
    pub fn able_to(&self, capabilities: Value) -> Self {
        Self { capabilities, ..self.clone() }
    }

    /// The same modern client, asking in each request for log messages of this level and above.
    #[must_use]
    pub fn wanting_logs(&self, level: &str) -> Self {
        Self { log_level: Some(level.to_owned()), ..self.clone() }
    }

    /// The same legacy client, which responds to questions of this method on the streams of its requests.
    /// `response` is an object with `result` or `error`; other questions stay open.
    #[must_use]
    pub fn responding(&self, method: &str, response: Value) -> Self {
        let mut responses = self.responses.clone();
        responses.push((method.to_owned(), response));
        Self { responses, ..self.clone() }
    }

    /// The same client, which thinks for so long before each response to a question.
    #[must_use]
    pub fn thinking_for(&self, time: Duration) -> Self {
        Self { thinks: time, ..self.clone() }
    }

    /// The id of its session; none in the modern era.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// All tools, page after page.
    ///
    /// # Panics
    /// When the list is refused or has no end.
    pub async fn list(&self) -> Listing {
        let began = Instant::now();
        let mut listing = Listing { names: Vec::new(), pages: Vec::new(), elapsed: Duration::ZERO };
        let mut params = json!({});
        loop {
            let answer = self.request("tools/list", &params).await;
            let tools = answer.value["result"]["tools"].as_array();
            let tools = tools.unwrap_or_else(|| panic!("no list came: {answer:#?}"));
            let names = tools.iter().filter_map(|tool| tool["name"].as_str());
            listing.names.extend(names.map(str::to_owned));
            let next = answer.value["result"]["nextCursor"].clone();
            listing.pages.push(answer.value);
            if next.is_null() {
                listing.elapsed = began.elapsed();
                return listing;
            }
            assert!(listing.pages.len() < 100, "the list has no end");
            params = json!({"cursor": next});
        }
    }

    /// Calls a tool with these arguments, which are sent as they are written.
    pub async fn call(&self, tool: &str, arguments: &(impl Display + ?Sized)) -> Answer {
        self.start_call(tool, arguments).answer().await
    }

    /// Makes any request.
    pub async fn request(&self, method: &str, params: &(impl Display + ?Sized)) -> Answer {
        self.start(method, params).answer().await
    }

    /// Starts a call and leaves it under way.
    pub fn start_call(&self, tool: &str, arguments: &(impl Display + ?Sized)) -> Call {
        let params = format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#);
        self.begin("tools/call", Some(tool), &params, false)
    }

    /// Starts a call that asks for progress.
    pub fn start_call_with_progress(&self, tool: &str, arguments: &(impl Display + ?Sized)) -> Call {
        self.start_with_progress("tools/call", &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#))
    }

    /// Starts any request that asks for progress.
    pub fn start_with_progress(&self, method: &str, params: &(impl Display + ?Sized)) -> Call {
        let params = params.to_string();
        self.begin(method, subject(method, &params).as_deref(), &params, true)
    }

    /// Starts any request and leaves it under way. Nothing is sent before the test awaits something.
    pub fn start(&self, method: &str, params: &(impl Display + ?Sized)) -> Call {
        let params = params.to_string();
        self.begin(method, subject(method, &params).as_deref(), &params, false)
    }

    fn begin(&self, method: &str, subject: Option<&str>, params: &str, progress: bool) -> Call {
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        let capabilities = self.capabilities.to_string();
        let meta = meta_members(self.era, id, progress, &capabilities, self.log_level.as_deref());
        let body = text_with_meta(id, method, params, &meta);
        self.follow(id, method, self.headers(method, subject), "POST", body)
    }

    /// Takes up a broken stream after the event of this id and waits for the answer to a request of this
    /// client.
    pub async fn resume(&self, last_event_id: &str, request_id: u64) -> Answer {
        let mut headers = self.standing();
        headers.push(("accept", "text/event-stream".to_owned()));
        headers.push(("last-event-id", last_event_id.to_owned()));
        self.follow(request_id, "GET", headers, "GET", String::new()).answer().await
    }

    fn follow(
        &self,
        id: u64,
        what: &str,
        headers: Vec<(&'static str, String)>,
        verb: &'static str,
        body: String,
    ) -> Call {
        let last_event_id = Arc::default();
        let work = exchange(self.clone(), verb, headers, body.into(), id, Arc::clone(&last_event_id));
        Call {
            id,
            what: format!("the answer to {what} {id} at {}", self.url),
            client: self.clone(),
            last_event_id,
            task: tokio::spawn(work),
        }
    }

    /// Sends a notification.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn notify(&self, method: &str, params: &(impl Display + ?Sized)) {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        let headers = self.headers(method, None);
        let response = send(&self.url, "POST", &borrowed(&headers), body).await;
        assert_eq!(response.status, 202, "{method}: {response:?}");
    }

    /// Responds to a question of the server's, where a response to its method is known.
    async fn respond(&self, question: &Value) {
        let known = |(method, _): &&(String, Value)| question["method"] == **method;
        let Some((method, response)) = self.responses.iter().find(known) else { return };
        tokio::time::sleep(self.thinks).await;
        let mut response = response.clone();
        response["jsonrpc"] = json!("2.0");
        response["id"] = question["id"].clone();
        let headers = self.headers(method, None);
        let accepted = send(&self.url, "POST", &borrowed(&headers), response.to_string()).await;
        assert_eq!(accepted.status, 202, "the response to {question}: {accepted:?}");
    }

    /// Ends the session.
    pub async fn delete(&self) -> Response {
        self.raw("DELETE", &[], "").await
    }

    /// Sends any body with the client's token and session and these headers, which take precedence.
    pub async fn raw(&self, verb: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
        let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let standing = self.standing();
        let mut all = borrowed(&standing);
        all.retain(|(name, _)| !given(name));
        all.extend_from_slice(headers);
        send(&self.url, verb, &all, body).await
    }

    /// The headers of whatever this client sends.
    fn standing(&self) -> Vec<(&'static str, String)> {
        let version = match self.era {
            Era::Legacy => LEGACY_VERSION,
            Era::Modern => MODERN_VERSION,
        };
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let optional = [
            ("authorization", bearer),
            ("mcp-session-id", self.session.clone()),
            ("seawall-session", self.conversation.clone()),
        ];
        let given = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.chain([("mcp-protocol-version", version.to_owned())]).collect()
    }

    /// The headers of a message of this client.
    fn headers(&self, method: &str, subject: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = self.standing();
        headers.extend(crate::JSON.map(|(name, value)| (name, value.to_owned())));
        match self.era {
            // The version is what `initialize` is there to settle.
            Era::Legacy if method == "initialize" => {
                headers.retain(|(name, _)| *name != "mcp-protocol-version")
            }
            Era::Legacy => {}
            Era::Modern => {
                headers.push(("mcp-method", method.to_owned()));
                headers.extend(subject.map(|subject| ("mcp-name", subject.to_owned())));
            }
        }
        headers
    }
}

/// A request as a client of this era writes it: `params` is the text of a JSON object, which is sent as it is
/// but for the `_meta` added at its end.
///
/// # Panics
/// When `params` is no object.
pub fn request_text(era: Era, id: u64, method: &str, params: &str, progress: bool) -> String {
    text_with_meta(id, method, params, &meta_members(era, id, progress, "{}", None))
}

/// The members of a request's `_meta`.
fn meta_members(
    era: Era,
    id: u64,
    progress: bool,
    capabilities: &str,
    log_level: Option<&str>,
) -> Vec<String> {
    let mut meta = Vec::new();
    if progress {
        meta.push(format!(r#""progressToken":{id}"#));
    }
    if era == Era::Modern {
        let version = env!("CARGO_PKG_VERSION");
        meta.push(format!(r#""io.modelcontextprotocol/protocolVersion":"{MODERN_VERSION}""#));
        meta.push(format!(
            r#""io.modelcontextprotocol/clientInfo":{{"name":"seawall-tests","version":"{version}"}}"#
        ));
        meta.push(format!(r#""io.modelcontextprotocol/clientCapabilities":{capabilities}"#));
        meta.extend(log_level.map(|level| format!(r#""io.modelcontextprotocol/logLevel":"{level}""#)));
    }
    meta
}

fn text_with_meta(id: u64, method: &str, params: &str, meta: &[String]) -> String {
    let inside = params.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let mut members = vec![inside.expect("parameters are a JSON object").to_owned()];
    if !meta.is_empty() {
        members.push(format!(r#""_meta":{{{}}}"#, meta.join(",")));
    }
    members.retain(|member| !member.is_empty());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{}}}}}"#, members.join(","))
}

/// What a request is about, which a modern client repeats in a header.
fn subject(method: &str, params: &str) -> Option<String> {
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return None,
    };
    let params: Value = serde_json::from_str(params).ok()?;
    params[member].as_str().map(str::to_owned)
}

/// A request under way. Dropped, it closes its connection, which a legacy server must not take for a cancel
/// and a modern one must.
#[derive(Debug)]
pub struct Call {
    id: u64,
    what: String,
    client: Client,
    last_event_id: Arc<Mutex<Option<String>>>,
    task: JoinHandle<Answer>,
}

impl Call {
    /// The id of the request.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the answer is there.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// The id of the last event that came on its stream.
    pub fn last_event_id(&self) -> Option<String> {
        self.last_event_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the answer.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`](crate::PATIENCE).
    pub async fn answer(mut self) -> Answer {
        let what = std::mem::take(&mut self.what);
        match within(&what, PATIENCE, &mut self.task).await {
            Ok(answer) => answer,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Takes the request back in the way of the client's era: a notification, or a closed stream.
    pub async fn cancel(self) {
        self.tell().await;
    }

    /// Takes the request back like [`cancel`](Self::cancel), and where the stream stays open, which it does in the
    /// legacy era, reads on for so long. Gives what came in spite of it; a stream that just ends is nothing.
    pub async fn cancel_and_read_on(mut self, time: Duration) -> Option<Answer> {
        self.tell().await;
        if self.client.era == Era::Modern {
            return None;
        }
        match timeout(time, &mut self.task).await {
            Err(_) => None,
            Ok(Ok(answer)) => (!answer.text.is_empty()).then_some(answer),
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Says that the request is taken back, where its era has words for that.
    async fn tell(&self) {
        if self.client.era == Era::Legacy {
            let params = json!({"requestId": self.id, "reason": "the test says so"});
            self.client.notify("notifications/cancelled", &params).await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends a message and reads on until the response to the request `id`, or until the end without one.
async fn exchange(
    client: Client,
    verb: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    id: u64,
    last_event_id: Arc<Mutex<Option<String>>>,
) -> Answer {
    let began = Instant::now();
    let url = &client.url;
    let opened = Exchange::open(url, verb, &borrowed(&headers), body).await;
    let mut exchange = opened.unwrap_or_else(|error| panic!("{verb} {url}: {error}"));
    let mut answer = Answer {
        status: exchange.status.as_u16(),
        headers: exchange.headers.clone(),
        value: Value::Null,
        text: String::new(),
        events: Vec::new(),
        elapsed: Duration::ZERO,
    };
    if text_of(&exchange.headers, "content-type").starts_with("text/event-stream") {
        let mut events = Events::new(exchange);
        while let Some(event) = events.next().await {
            if event.id.is_some() {
                *last_event_id.lock().unwrap_or_else(PoisonError::into_inner) = event.id;
            }
            if event.data.is_empty() {
                continue;
            }
            let value: Value = serde_json::from_str(&event.data)
                .unwrap_or_else(|error| panic!("{error} in the event {:?}", event.data));
            if value["id"] == id && value.get("method").is_none() {
                answer.value = value;
                answer.text = event.data;
                break;
            }
            if !value["id"].is_null() {
                client.respond(&value).await;
            }
            answer.events.push(value);
        }
    } else {
        answer.text = exchange.text().await.unwrap_or_else(|error| panic!("{verb} {url}: {error}"));
        // What is not JSON stays a text.
        answer.value = serde_json::from_str(&answer.text).unwrap_or_default();
    }
    answer.elapsed = began.elapsed();
    answer
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
