//! HTTP as the tests need it: each request on a connection of its own, so that dropping it closes the socket.

use crate::{PATIENCE, within};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The headers of an ordinary MCP message.
pub const JSON: [(&str, &str); 2] =
    [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];

/// A whole HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

impl Response {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        text_of(&self.headers, name)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Sends exactly these headers, with a fitting `Host` unless one is given, and reads the whole answer.
///
/// # Panics
/// When no answer comes within [`PATIENCE`](crate::PATIENCE).
pub async fn send(url: &str, verb: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
    match try_send(url, verb, headers, body.into()).await {
        Ok(response) => response,
        Err(error) => panic!("{verb} {url}: {error}"),
    }
}

pub(crate) async fn try_send(
    url: &str,
    verb: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Response, String> {
    let work = async {
        let mut exchange = Exchange::open(url, verb, headers, body).await?;
        let body = exchange.text().await?;
        Ok::<_, String>(Response {
            status: exchange.status.as_u16(),
            headers: exchange.headers.clone(),
            body,
        })
    };
    within(&format!("{verb} {url}"), PATIENCE, Box::pin(work)).await
}

/// A response whose body is still to be read. Dropped, it closes its connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    // Kept because the connection ends with its last sender.
    _sender: SendRequest<Full<Bytes>>,
    _connection: Connection,
}

/// The task that drives a connection; the socket closes with it.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Exchange {
    /// Sends a request and waits for the headers of its answer. Dropped, it closes the connection.
    pub(crate) async fn open(
        url: &str,
        verb: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Self, String> {
        let (authority, path) = parts(url);
        let mut request = Request::builder().method(verb).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(HOST.as_str())) {
            request = request.header(HOST, authority);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(async move {
            // What goes wrong shows in the response as well.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body,
            _sender: sender,
            _connection: connection,
        })
    }

    /// The next bytes of the body; nothing at its end or where it breaks off.
    pub(crate) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Ok(bytes) = self.body.frame().await?.ok()?.into_data() {
                return Some(bytes);
            }
        }
    }

    /// The rest of the body.
    pub(crate) async fn text(&mut self) -> Result<String, String> {
        let body = BodyExt::collect(&mut self.body).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }
}

/// The authority and the path of an `http://` URL.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url} is not an http:// URL"));
    rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash))
}
