//! A client of the running daemon, over the same endpoint that agents use.

use super::{DaemonArguments, Exit, Failure, sources};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use seawall_proto::{Message, era::serve::client_request, sse::SseReader};
use serde_json::Value;

/// Largest message read, in bytes.
const LARGEST: usize = 64 * 1024 * 1024;

/// A daemon that can be asked.
#[derive(Debug)]
pub(super) struct DaemonClient {
    address: String,
    token: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl DaemonClient {
    /// Finds the daemon whose state the configuration names.
    ///
    /// # Errors
    /// When none is running.
    pub(super) async fn find(arguments: &DaemonArguments) -> Result<Self, Failure> {
        let state = sources::load(&arguments.config).await?.config.state;
        let address = seawall_core::state::find(&state).map_err(|text| Failure::new(Exit::NoDaemon, text))?;
        let Some(address) = address else {
            let text = format!(
                "no daemon is running with its state in {}; start one with `seawall serve`",
                state.display()
            );
            return Err(Failure::new(Exit::NoDaemon, text));
        };
        Ok(Self::at(&address, arguments.token.clone()))
    }

    /// The daemon at this address.
    pub(super) fn at(address: &str, token: Option<String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address: address.to_owned(), token, client }
    }

    /// Makes a request of the protocol and gives its whole response; notifications before it go to `heard`.
    ///
    /// # Errors
    /// When the daemon cannot be reached, refuses, or breaks off.
    pub(super) async fn ask(
        &self,
        method: &str,
        params: &Value,
        mut heard: impl FnMut(&Value),
    ) -> Result<Value, Failure> {
        let (body, headers) = client_request(method, params);
        let mut request = self.request(Method::POST, "/mcp", body);
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::try_from(&*name), http::HeaderValue::try_from(value))
            {
                request.headers_mut().insert(name, value);
            }
        }
        let accept = http::HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, accept);
        let response = self.send(request).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return self.json(response).await;
        }
        let mut body = response.into_body();
        let mut reader = SseReader::new(LARGEST);
        loop {
            while let Ok(Some(event)) = reader.next_event() {
                let Ok(message) = Message::parse(event.data) else { continue };
                let value: Value = serde_json::from_slice(message.body()).unwrap_or_default();
                if message.method().is_none() {
                    return Ok(value);
                }
                heard(&value);
            }
            match body.frame().await {
                Some(Ok(frame)) => reader.feed(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(_)) | None => return Err(self.gone(&"it broke off before the answer")),
            }
        }
    }

    /// GETs something of the daemon's own.
    ///
    /// # Errors
    /// As [`DaemonClient::ask`].
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let response = self.send(self.request(Method::GET, path, Bytes::new())).await?;
        self.json(response).await
    }

    /// GETs text of the daemon's own.
    ///
    /// # Errors
    /// As [`DaemonClient::ask`], and when it is refused.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.send(self.request(Method::GET, path, Bytes::new())).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.gone(&error))?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            let text = format!("the daemon answered HTTP {status}: {}", text.trim());
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(text.into_owned())
    }

    /// Has the daemon do something, and gives what came of it.
    ///
    /// # Errors
    /// As [`DaemonClient::ask`], and the daemon's own error.
    pub(super) async fn post(&self, path: &str) -> Result<Value, Failure> {
        let response = self.send(self.request(Method::POST, path, Bytes::from_static(b"{}"))).await?;
        let answer = self.json(response).await?;
        match answer["error"].as_str() {
            Some(error) => Err(Failure::new(Exit::Failed, error)),
            None => Ok(answer),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().unwrap_or_default();
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        if let Some(Ok(bearer)) =
            self.token.as_ref().map(|token| http::HeaderValue::try_from(format!("Bearer {token}")))
        {
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        request
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let response = self.client.request(request).await.map_err(|error| self.gone(&error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let text = "the daemon wants a token; give one with --token or SEAWALL_TOKEN (`seawall token NAME` makes one)";
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(response)
    }

    async fn json(&self, response: Response<Incoming>) -> Result<Value, Failure> {
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.gone(&error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| {
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            Failure::new(Exit::Failed, format!("the daemon answered HTTP {status}: {text}"))
        })
    }

    fn gone(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::new(Exit::NoDaemon, format!("the daemon at {} cannot be reached: {error}", self.address))
    }
}
