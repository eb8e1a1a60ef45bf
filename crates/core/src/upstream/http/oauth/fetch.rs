//! Requests to authorization servers: bounded in time and size, and never redirected.

use crate::upstream::http::client::Client;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use std::{path::Path, time::Duration};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);
const LARGEST: usize = 1024 * 1024;

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Makes one request. A redirect is an answer like any other: where it leads is not looked at.
///
/// # Errors
/// When there is no whole answer in time, or it is too large.
pub(super) async fn fetch(
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: String,
    ca_file: Option<&Path>,
) -> Result<Answer, String> {
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let client = Client::new(uri, ca_file)?;
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    let whole = async {
        let response = client.request(request).await.map_err(|lost| format!("{host}: {}", lost.why))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST).collect().await;
        let body = body.map_err(|error| format!("{host}: its answer could not be read: {error}"))?.to_bytes();
        Ok::<_, String>(Answer { status: head.status, headers: head.headers, body })
    };
    timeout(LIMIT, whole).await.map_err(|_| format!("{host} did not answer within {LIMIT:?}"))?
}

/// Whether a URL leads to this machine.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}
