//! A bare MCP proxy: the least that a gateway which reads and renames calls can do.
//!
//! It parses each envelope once, takes the upstream's name off a called tool, pools connections, and has no
//! policy at all. What Seawall costs is measured as a multiple of what this costs.

#![expect(clippy::disallowed_methods, reason = "a bench proxy starts a task per connection")]

use clap::Parser;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, Uri, server::conn::http1, service::service_fn};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{error::Error, net::SocketAddr, num::NonZeroUsize, sync::Arc};
use tokio::{net::TcpListener, runtime::Builder};

const PREFIX: &str = "alpha__";

type Failure = Box<dyn Error + Send + Sync>;
type Body = Either<Full<Bytes>, Incoming>;

/// Renames the tools of one upstream and passes everything else through.
#[derive(Parser)]
struct Options {
    /// The address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// The upstream's MCP endpoint, http only.
    #[arg(long)]
    upstream: Uri,
    /// Threads of the runtime; 1 runs everything on the main thread.
    #[arg(long, default_value = "1")]
    threads: NonZeroUsize,
}

/// A request or its answer; what is not looked into stays as it came.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

struct Proxy {
    upstream: Uri,
    pool: Client<HttpConnector, Full<Bytes>>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let threads = options.threads.get();
    let mut runtime = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    runtime.worker_threads(threads).enable_all().build()?.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Failure> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool = Client::builder(TokioExecutor::new()).build(connector);
    let proxy = Arc::new(Proxy { upstream: options.upstream, pool });
    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let service = service_fn(move |request| Arc::clone(&proxy).forward(request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Proxy {
    /// Answers one request; a failure ends its connection.
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if head.method != Method::POST {
            return Ok(self.send(head, body).await?.map(Either::Right));
        }
        let asked: Envelope<'_> = serde_json::from_slice(&body)?;
        let method = asked.method.map_or("", RawValue::get);
        let name = asked.params.as_ref().and_then(|params| params.name).map_or("", RawValue::get);
        let outgoing: Bytes = match name.strip_prefix('"').and_then(|name| name.strip_prefix(PREFIX)) {
            Some(plain) if method == r#""tools/call""# => {
                if let Some(mirrored) = head.headers.get_mut("mcp-name") {
                    *mirrored = HeaderValue::from_str(plain.trim_end_matches('"'))?;
                }
                let at = plain.as_ptr() as usize - body.as_ptr() as usize;
                [&body[..at - PREFIX.len()], &body[at..]].concat().into()
            }
            _ => body.clone(),
        };
        let (head, answer) = self.send(head, outgoing).await?.into_parts();
        if head.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
            return Ok(Response::from_parts(head, Either::Right(answer)));
        }
        let bytes = answer.collect().await?.to_bytes();
        let answer: Envelope<'_> = serde_json::from_slice(&bytes)?;
        let ours = answer.id.map(RawValue::get) == asked.id.map(RawValue::get);
        if answer.error.is_some() == answer.result.is_some() || (answer.result.is_some() && !ours) {
            return Err("the upstream's answer is to another request".into());
        }
        let bytes = if method == r#""tools/list""# { with_prefix(&bytes)? } else { bytes };
        Ok(Response::from_parts(head, Either::Left(Full::new(bytes))))
    }

    async fn send(&self, head: Parts, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::from_parts(head, Full::new(body));
        *request.uri_mut() = self.upstream.clone();
        drop_hop(request.headers_mut());
        let mut response = self.pool.request(request).await?;
        drop_hop(response.headers_mut());
        Ok(response)
    }
}

/// Drops what belongs to one connection, or is set anew for the other side.
fn drop_hop(headers: &mut HeaderMap) {
    for name in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
}

/// A `tools/list` answer with the upstream's name put before each tool's.
fn with_prefix(answer: &[u8]) -> Result<Bytes, Failure> {
    let mut answer: Value = serde_json::from_slice(answer)?;
    for tool in answer["result"]["tools"].as_array_mut().into_iter().flatten() {
        tool["name"] = format!("{PREFIX}{}", tool["name"].as_str().unwrap_or_default()).into();
    }
    Ok(serde_json::to_vec(&answer)?.into())
}
