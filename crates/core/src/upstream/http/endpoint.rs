//! An endpoint over HTTP: where requests go, what goes with each, and what came instead of an answer.

use super::{
    client::Client,
    oauth::{Authorization, Challenge, Keep, Tokens},
};
use crate::{
    config::{self, Transport},
    life::Life,
    upstream::{Lost, Sent, response::excerpt},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use seawall_proto::{Message, sse::SseReader};
use std::{borrow::Cow, path::Path, sync::Arc, time::Duration};

/// What a stream of events calls itself.
pub(in crate::upstream) const STREAM: &str = "text/event-stream";
/// Most bytes of an answer that is no result which are read to find out what it says.
const ERROR_BODY: usize = 64 * 1024;

/// Where requests go, and what goes with each.
#[derive(Debug)]
pub(in crate::upstream) struct Endpoint {
    client: Client,
    pub(in crate::upstream) uri: Uri,
    pub(in crate::upstream) headers: HeaderMap,
    /// The logins at it, where its headers do not authorize already.
    pub(in crate::upstream) authorization: Option<Arc<Authorization>>,
    /// The largest message, in bytes.
    pub(in crate::upstream) message: usize,
}

/// Where an upstream is, as it is configured.
#[derive(Debug)]
pub(in crate::upstream) struct Address<'a> {
    pub(in crate::upstream) transport: Transport,
    pub(in crate::upstream) url: &'a str,
    pub(in crate::upstream) headers: &'a [(String, config::Secret)],
    pub(in crate::upstream) ca_file: Option<&'a Path>,
}

/// The head of an answer, as far as it tells what came.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Head {
    pub(in crate::upstream) status: StatusCode,
    /// When another try makes sense, where it says so in seconds.
    pub(in crate::upstream) retry_after: Option<Duration>,
    kind: Option<HeaderValue>,
    location: Option<HeaderValue>,
}

impl Head {
    pub(in crate::upstream) fn of(response: &Response<Incoming>) -> Self {
        let value = |name: HeaderName| response.headers().get(name).cloned();
        let seconds = value(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
        Self {
            status: response.status(),
            retry_after: seconds.map(Duration::from_secs),
            kind: value(header::CONTENT_TYPE),
            location: value(header::LOCATION).filter(|_| response.status().is_redirection()),
        }
    }

    /// What came instead of an answer, as a clause.
    pub(in crate::upstream) fn instead(&self, body: &[u8]) -> String {
        let status = self.status;
        if let Some(location) = &self.location {
            let location = excerpt(location.as_bytes());
            return format!(
                "it redirects to {location} (HTTP {status}), and redirects are not followed; correct `url`"
            );
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return format!("it refused with HTTP {status}; check `headers` of this server");
        }
        let body = body.trim_ascii();
        if body.is_empty() {
            return format!("it answered with HTTP {status} and an empty body");
        }
        let kind = self
            .kind
            .as_ref()
            .map_or_else(|| String::from("no content type"), |kind| excerpt(kind.as_bytes()));
        format!("it answered with HTTP {status}, {kind}: {}", excerpt(body))
    }

    /// Whether the answer leads elsewhere.
    pub(in crate::upstream) fn redirects(&self) -> bool {
        self.location.is_some()
    }
}

impl Endpoint {
    /// Where it is, for the log: a path or query may hold a key.
    pub(in crate::upstream) fn place(&self) -> String {
        self.uri.authority().map_or_else(String::new, ToString::to_string)
    }

    /// An endpoint of a configured upstream.
    ///
    /// # Errors
    /// When the address or its certificates cannot be used.
    pub(in crate::upstream) fn new(
        config: &config::Upstream,
        address: &Address<'_>,
        message: usize,
        keep: &Keep,
        life: &Life,
    ) -> Result<Self, String> {
        let Address { transport, url, headers, ca_file } = *address;
        // A WebSocket begins as a request over HTTP.
        let url = url.strip_prefix("ws").map_or(Cow::Borrowed(url), |rest| Cow::Owned(format!("http{rest}")));
        let uri: Uri = url.parse().map_err(|error| format!("`url`: {error}"))?;
        let uri = if transport == Transport::WebSocket { with_port(uri) } else { uri };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let bad = |what: &str| format!("`headers.{name}` is not a valid header {what}");
            let name = HeaderName::try_from(name.as_str()).map_err(|_| bad("name"))?;
            let mut value = HeaderValue::try_from(value.expose()).map_err(|_| bad("value"))?;
            value.set_sensitive(true);
            map.append(name, value);
        }
        map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let client = match transport {
            Transport::WebSocket => Client::for_upgrade(&uri, ca_file)?,
            Transport::Streamable | Transport::Sse => Client::new(&uri, ca_file)?,
        };
        let authorization = Authorization::of(config, &uri, &map, ca_file, keep, life);
        Ok(Self { client, uri, headers: map, authorization, message })
    }

    /// The headers of a request without a body, which wants `accept`, or an upgrade where that is none.
    pub(in crate::upstream) fn headers_for_get(&self, accept: Option<&'static str>) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.remove(header::CONTENT_TYPE);
        match accept {
            Some(accept) => drop(headers.insert(header::ACCEPT, HeaderValue::from_static(accept))),
            None => drop(headers.remove(header::ACCEPT)),
        }
        headers
    }

    /// Sends one HTTP request and waits for the head of its answer. What was refused with a token that could be
    /// replaced is sent once more.
    pub(in crate::upstream) async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Lost> {
        self.send_to(&self.uri, method, headers, body).await
    }

    /// The same, to another place of the same origin.
    pub(in crate::upstream) async fn send_to(
        &self,
        uri: &Uri,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Lost> {
        let Some(authorization) = &self.authorization else {
            return self.send_once(uri, method, headers, body, None).await;
        };
        let Some(tokens) = authorization.to_send().await else {
            let response = self.send_once(uri, method, headers, body, None).await?;
            if let Some(challenge) = Challenge::of(response.status(), response.headers()) {
                authorization.note(None, challenge);
            }
            return Ok(response);
        };
        let sending = self.send_once(uri, method.clone(), headers.clone(), body.clone(), Some(&tokens));
        let response = sending.await?;
        let Some(challenge) = Challenge::of(response.status(), response.headers()) else {
            return Ok(response);
        };
        let Some(newer) = authorization.instead(&tokens, challenge).await else { return Ok(response) };
        let response = self.send_once(uri, method, headers, body, Some(&newer)).await?;
        if let Some(challenge) = Challenge::of(response.status(), response.headers()) {
            authorization.note(Some(&newer), challenge);
        }
        Ok(response)
    }

    /// What an answer says that wants a login.
    pub(in crate::upstream) fn wants_login(&self, response: &Response<Incoming>) -> Option<Lost> {
        let authorization = self.authorization.as_ref()?;
        let challenge = Challenge::of(response.status(), response.headers())?;
        Some(Lost::nonsense(authorization.wanted(&challenge)))
    }

    async fn send_once(
        &self,
        uri: &Uri,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        tokens: Option<&Tokens>,
    ) -> Result<Response<Incoming>, Lost> {
        let mut request = HttpRequest::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        if let Some(bearer) = tokens.and_then(Tokens::bearer) {
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        self.client.request(request).await
    }

    /// The first JSON-RPC response in an HTTP answer, be it a body or a stream; `None` where there is none.
    pub(super) async fn first_response(&self, response: Response<Incoming>) -> Result<Option<Message>, Lost> {
        if !is_stream(&response) {
            let body = self.collect(response).await?;
            return Ok(Message::parse(body).ok().filter(|message| message.method().is_none()));
        }
        let mut body = response.into_body();
        let mut reader = SseReader::new(self.message);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Lost::new(Sent::Maybe, format!("its stream broke: {error}")))?;
            reader.feed(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(event) = reader.next_event().map_err(|error| Lost::nonsense(error.to_string()))? {
                if let Ok(message) = Message::parse(event.data)
                    && message.method().is_none()
                {
                    return Ok(Some(message));
                }
            }
        }
        Ok(None)
    }

    /// The whole body of an answer, within the limit.
    pub(in crate::upstream) async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, Lost> {
        let limit = if response.status().is_success() { self.message } else { self.message.min(ERROR_BODY) };
        let body = Limited::new(response.into_body(), limit).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                let why = format!("its answer was larger than the limit ({limit} bytes)");
                Lost { too_large: true, ..Lost::nonsense(why) }
            } else {
                Lost::new(Sent::Maybe, format!("its answer broke off: {error}"))
            }
        })
    }
}

/// The same with the port of plain HTTP written out: a tunnel is told one, and takes a missing one for that of TLS.
fn with_port(uri: Uri) -> Uri {
    if uri.port().is_some() || uri.scheme_str() != Some("http") {
        return uri;
    }
    let authority = uri.authority().and_then(|authority| format!("{authority}:80").parse().ok());
    let mut parts = uri.clone().into_parts();
    parts.authority = authority;
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Whether an answer is a stream of events.
pub(in crate::upstream) fn is_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with(STREAM))
}

/// Adds headers whose names and values can be ones.
pub(in crate::upstream) fn extend(
    mut map: HeaderMap,
    headers: impl IntoIterator<Item = (Cow<'static, str>, Cow<'static, str>)>,
) -> HeaderMap {
    for (name, value) in headers {
        let name = match name {
            Cow::Borrowed(name) => HeaderName::from_static(name),
            Cow::Owned(name) => match HeaderName::try_from(name) {
                Ok(name) => name,
                Err(_) => continue,
            },
        };
        let value = match value {
            Cow::Borrowed(value) => HeaderValue::from_static(value),
            Cow::Owned(value) => match HeaderValue::try_from(value) {
                Ok(value) => value,
                Err(_) => continue,
            },
        };
        map.insert(name, value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, kind: Option<&'static str>, location: Option<&'static str>) -> Head {
        Head {
            retry_after: None,
            status: StatusCode::from_u16(status).unwrap(),
            kind: kind.map(HeaderValue::from_static),
            location: location.map(HeaderValue::from_static),
        }
    }

    #[test]
    fn what_came_instead_of_an_answer_is_told() {
        let html = Some("text/html");
        for (head, body, told) in [
            (head(200, html, None), "<html>\n", "it answered with HTTP 200 OK, text/html: <html>"),
            (head(202, None, None), " ", "it answered with HTTP 202 Accepted and an empty body"),
            (head(502, None, None), "down", "it answered with HTTP 502 Bad Gateway, no content type: down"),
            (head(307, html, Some("/mcp/")), "x", "it redirects to /mcp/ (HTTP 307 Temporary Redirect)"),
            (head(403, html, None), "x", "it refused with HTTP 403 Forbidden"),
        ] {
            let said = head.instead(body.as_bytes());
            assert!(said.starts_with(told), "{said}");
        }
    }

    #[test]
    fn a_tunnel_is_told_the_port() {
        for (given, told) in [
            ("http://a/x?y", "http://a:80/x?y"),
            ("http://a:8080/x", "http://a:8080/x"),
            ("https://a/x", "https://a/x"),
        ] {
            assert_eq!(with_port(given.parse().unwrap()).to_string(), told);
        }
    }
}
