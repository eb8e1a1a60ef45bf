//! The HTTP client: a pool of connections to one upstream, through TLS and a proxy where there is one.

use crate::upstream::{Lost, Sent};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::{
        legacy::{
            Client as Pool,
            connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

/// How long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(2);

/// Connections to one upstream.
#[derive(Debug)]
pub(super) enum Client {
    Direct(Pool<HttpsConnector<HttpConnector>, Full<Bytes>>),
    /// Through a proxy's CONNECT.
    Tunnel(Pool<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
    /// Plain HTTP through a proxy, which wants the whole URL in the request line.
    Forward(Pool<ForwardConnector, Full<Bytes>>, Option<HeaderValue>),
}

impl Client {
    /// A client for `uri`; `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured, but never for
    /// loopback.
    pub(super) fn new(uri: &Uri, ca_file: Option<&Path>) -> Result<Self, String> {
        Self::connecting(uri, ca_file, uri.scheme_str() == Some("https"))
    }

    /// A client whose connections become something else: a proxy has to tunnel them, since it knows HTTP only.
    pub(super) fn for_upgrade(uri: &Uri, ca_file: Option<&Path>) -> Result<Self, String> {
        Self::connecting(uri, ca_file, true)
    }

    fn connecting(uri: &Uri, ca_file: Option<&Path>, tunnelled: bool) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(10)));
        let secure = uri.scheme_str() == Some("https");
        let proxy = if is_loopback(uri) { None } else { Matcher::from_env().intercept(uri) };
        let Some(proxy) = proxy else {
            return Ok(Self::Direct(pool().build(tls(tcp, secure, ca_file)?)));
        };
        if tunnelled {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(credentials) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(credentials.clone());
            }
            return Ok(Self::Tunnel(pool().build(tls(tunnel, secure, ca_file)?)));
        }
        let connector = ForwardConnector { proxy: proxy.uri().clone(), tcp };
        Ok(Self::Forward(pool().build(connector), proxy.basic_auth().cloned()))
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Lost> {
        let answered = match self {
            Self::Direct(pool) => pool.request(request).await,
            Self::Tunnel(pool) => pool.request(request).await,
            Self::Forward(pool, credentials) => {
                if let Some(credentials) = credentials {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
                }
                pool.request(request).await
            }
        };
        answered.map_err(|error| {
            let sent = if error.is_connect() { Sent::No } else { Sent::Maybe };
            let mut why = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                why = format!("{why}: {cause}");
                source = cause.source();
            }
            Lost::new(sent, why)
        })
    }
}

fn pool() -> hyper_util::client::legacy::Builder {
    let mut builder = Pool::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
    builder
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls<C>(connector: C, secure: bool, ca_file: Option<&Path>) -> Result<HttpsConnector<C>, String> {
    // A plain upstream needs no roots, and reading them takes milliseconds.
    let roots = if secure { roots(ca_file)? } else { RootCertStore::empty() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector))
}

/// The system's certificates, and those of `ca_file` besides.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        let fault = |error: &dyn std::fmt::Display| format!("`ca_file` {}: {error}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fault(&error))?;
            roots.add(certificate).map_err(|error| fault(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(
            "the system has no certificates to check the server's against; install ca-certificates or \
                    set `ca_file`"
                .to_owned(),
        );
    }
    Ok(roots)
}

/// Connects to a proxy whatever the request's own host is.
#[derive(Clone, Debug)]
pub(super) struct ForwardConnector {
    proxy: Uri,
    tcp: HttpConnector,
}

impl tower_service::Service<Uri> for ForwardConnector {
    type Response = TokioIo<Forwarded>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.tcp.call(self.proxy.clone());
        Box::pin(async move { Ok(TokioIo::new(Forwarded(connecting.await?.into_inner()))) })
    }
}

/// A connection to a proxy.
#[derive(Debug)]
pub(super) struct Forwarded(TcpStream);

impl Connection for Forwarded {
    fn connected(&self) -> Connected {
        Connected::new().proxy(true)
    }
}

impl tokio::io::AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Forwarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
