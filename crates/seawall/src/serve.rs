//! The front doors: one listener, and what each path leads to.

mod admin;
mod explain;
mod guard;
pub(crate) mod log;
mod login;
mod mcp;
mod rest;
mod sse;
mod stream;
mod tools;

use axum::{
    Router,
    body::Body,
    http::Request,
    response::Response,
    routing::{get, post},
};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use seawall_core::{Gateway, call::Endpoint, life::Task};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// How long the listener rests when the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every front door needs.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    sse: sse::Sessions,
}

impl Front {
    /// The front of a gateway that listens at `address`.
    pub(crate) fn new(gateway: Arc<Gateway>, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { gateway, address, sse: sse::Sessions::default() })
    }
}

/// Accepts connections until the daemon drains, in a task of its own.
pub(crate) fn accept(listener: TcpListener, front: Arc<Front>) {
    let life = front.gateway.life().clone();
    let router = router(Arc::clone(&front));
    life.clone().spawn(Task::Listener, async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (router, front) = (router.clone(), Arc::clone(&front));
                    life.spawn(Task::Connection, connection(stream, router, front));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

async fn connection(stream: TcpStream, router: Router, front: Arc<Front>) {
    // Header and chunk leave in two writes; without this the second waits for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let late = front.gateway.life().is_draining();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).half_close(false).keep_alive(!late);
    let service = Doors { router: TowerToHyperService::new(router), front: Arc::clone(&front) };
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        // Who comes while the daemon drains gets one answer, which says so.
        () = front.gateway.life().draining(), if !late => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Where a request goes: MCP straight to its endpoint, everything else through the router.
struct Doors {
    router: TowerToHyperService<Router>,
    front: Arc<Front>,
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for Doors {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, request: Request<Incoming>) -> Answered {
        let path = request.uri().path();
        let endpoint = match path.strip_prefix("/mcp") {
            Some("") => Some(Endpoint::All),
            Some(rest) => match rest.strip_prefix("/group/") {
                Some(name) => is_name(name).then(|| Endpoint::Group(name.into())),
                None => {
                    rest.strip_prefix('/').filter(|name| is_name(name)).map(|name| Endpoint::One(name.into()))
                }
            },
            None => None,
        };
        match endpoint {
            Some(endpoint) => {
                let front = Arc::clone(&self.front);
                Box::pin(async move { Ok(mcp::handle(&front, endpoint, request.map(Body::new)).await) })
            }
            None => Box::pin(self.router.call(request)),
        }
    }
}

/// Whether a part of a path can be a server's name; those need no decoding.
fn is_name(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .route("/sse", get(sse::open))
        .route("/sse/message", post(sse::message))
        .route("/api/v1/execute", post(rest::execute))
        .route("/api/v1/openapi.json", get(rest::description))
        .route("/api/v1/status", get(admin::status))
        .route("/api/v1/calls", get(admin::calls))
        .route("/api/v1/explain/{tool}", get(explain::explain))
        .route("/api/v1/tools", get(tools::standings))
        .route("/api/v1/upstreams/{name}/accept", post(tools::accept))
        .route("/api/v1/upstreams/{name}/logs", get(admin::logs))
        .route("/api/v1/upstreams/{name}/restart", post(admin::restart))
        .route("/api/v1/upstreams/{name}/enable", post(admin::enable))
        .route("/api/v1/upstreams/{name}/disable", post(admin::disable))
        .route("/api/v1/upstreams/{name}/login", post(login::begin))
        .route("/api/v1/upstreams/{name}/login/{state}", get(login::outcome))
        .route("/api/v1/upstreams/{name}/logout", post(login::forget))
        .route(login::CALLBACK, get(login::callback))
        .fallback(admin::nothing_here)
        .with_state(front)
}
