//! The daemon's endpoint as an HTTP client sees it.

use crate::cli::{Exit, Failure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use seawall_proto::{era::peer, sse::SseReader};
use std::{error::Error, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Largest answer read, in bytes.
const LARGEST: usize = 64 << 20;
/// How long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(2);
/// How long the daemon may take to say that it is there.
const HEALTH: Duration = Duration::from_secs(5);
/// How long to wait before a stream is taken up again where the daemon does not say.
const RESUME_AFTER: Duration = Duration::from_millis(500);

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum Lost {
    /// It did not leave.
    Unsent(String),
    /// It may have arrived.
    Broken(String),
}

/// The way to the daemon's endpoint.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    path: Arc<str>,
    authorization: Option<HeaderValue>,
}

impl Http {
    /// A client of the endpoint at `path`, with a token where there is one.
    ///
    /// # Errors
    /// When the token cannot be one.
    pub(super) fn new(path: &str, token: Option<&str>) -> Result<Self, Failure> {
        let authorization = match token.filter(|token| !token.is_empty()) {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                    let text = "the token holds characters that no token has; set --token or SEAWALL_TOKEN";
                    Failure::new(Exit::BadConfiguration, text)
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Ok(Self { client: builder.build(tcp), path: path.into(), authorization })
    }

    /// Whether a daemon answers at this address.
    pub(super) async fn is_healthy(&self, address: &str) -> bool {
        let asking = self.send_to(address, "/healthz", Method::GET, HeaderMap::new(), Bytes::new());
        matches!(timeout(HEALTH, asking).await, Ok(Ok(response)) if response.status() == StatusCode::OK)
    }

    /// Whether something is heard from this address in time, be it a refusal: a daemon that drains refuses, and one
    /// that is gone shows in what is under way to it. Only one that stands still says nothing.
    pub(super) async fn is_awake(&self, address: &str) -> bool {
        let asking = self.send_to(address, "/healthz", Method::GET, HeaderMap::new(), Bytes::new());
        timeout(HEALTH, asking).await.is_ok()
    }

    /// Sends a request to the endpoint and waits for the head of the answer. Dropped, it closes the connection.
    pub(super) async fn send(
        &self,
        address: &str,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Lost> {
        self.send_to(address, &self.path, method, headers, body).await
    }

    async fn send_to(
        &self,
        address: &str,
        path: &str,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Lost> {
        let uri = format!("http://{address}{path}")
            .parse::<Uri>()
            .map_err(|error| Lost::Unsent(format!("{address:?} is no address: {error}")))?;
        let accept = if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            "application/json, text/event-stream"
        } else {
            "text/event-stream"
        };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.client.request(request).await.map_err(|error| {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<hyper::Error>());
            // A request that was cancelled in here found its connection closed before a byte of it was written.
            let unsent = error.is_connect() || cause.is_some_and(hyper::Error::is_canceled);
            let why = cause.map_or_else(|| error.to_string(), ToString::to_string);
            if unsent { Lost::Unsent(why) } else { Lost::Broken(why) }
        })
    }
}

/// The events of a response.
pub(super) struct Events {
    body: Incoming,
    reader: SseReader,
    /// The id of the last event that has one.
    pub last: Option<HeaderValue>,
    /// How long the daemon wants to be left alone after a break.
    pub retry: Duration,
    /// Why there are no more.
    pub why: String,
}

impl Events {
    /// Those of this response, from its beginning.
    pub(super) fn of(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body(),
            reader: SseReader::new(LARGEST),
            last: None,
            retry: RESUME_AFTER,
            why: String::new(),
        }
    }

    /// The data of the next event that has any; none when the stream is over or has broken.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.reader.next_event() {
                Ok(Some(event)) => {
                    if let Some(id) = event.id.and_then(|id| HeaderValue::try_from(id).ok()) {
                        self.last = Some(id);
                    }
                    self.retry = event.retry_ms.map_or(self.retry, Duration::from_millis);
                    if !event.data.is_empty() {
                        return Some(event.data);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(too_large) => {
                    // Taken up again, it would be as large again.
                    self.last = None;
                    self.why = too_large.to_string();
                    return None;
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.reader.feed(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => {
                    self.why = error.to_string();
                    return None;
                }
                None => {
                    "its stream ended without an answer".clone_into(&mut self.why);
                    return None;
                }
            }
        }
    }
}

/// Whether an answer is a stream of events.
pub(super) fn is_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    response.status() == StatusCode::OK && kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// The whole body of an answer.
///
/// # Errors
/// When it breaks off, or is larger than [`LARGEST`].
pub(super) async fn collect(response: Response<Incoming>) -> Result<Bytes, String> {
    let collected = Limited::new(response.into_body(), LARGEST).collect().await;
    collected.map(Collected::to_bytes).map_err(|error| error.to_string())
}

/// A text as a header's value, wrapped where it is no plain ASCII.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::try_from(peer::header_value(text)).expect("plain ASCII fits a header")
}
