//! Upstreams behind TLS with a certificate authority of one's own, and behind a proxy.
#![expect(
    clippy::disallowed_methods,
    reason = "the forwarder and the proxy are tasks of the test, and files its own"
)]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use seawall_tests::{Answer, Client, Daemon, Misbehave, note, quoted};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A host that is not this machine's own to the daemon; only the proxy of the test knows where it is.
const FAR: &str = "misbehave.test";
/// An address that leads to this machine without being a loopback one.
const NEAR: &str = "0.0.0.0";

/// A certificate authority that nobody knows.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("keys can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the parameters are sound");
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let authority = Self { issuer, directory };
        fs::write(authority.file(), authority.issuer.pem()).expect("a temporary directory can be written");
        authority
    }

    /// The file that holds its certificate.
    fn file(&self) -> String {
        let path = self.directory.path().join("ca.pem");
        path.into_os_string().into_string().expect("temporary paths are UTF-8")
    }

    /// What a server for these hosts needs.
    fn server(&self, hosts: &[&str]) -> Arc<ServerConfig> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let params = CertificateParams::new(hosts).expect("the names are sound");
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are sound");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key is the certificate's");
        Arc::new(config)
    }
}

/// A task that ends with the test.
#[derive(Debug)]
struct Background(JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves every connection to a free loopback port in a task of its own.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Background)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve(stream);
            tokio::spawn(async move {
                // What goes wrong on one connection is for its two ends to see.
                let _ = served.await;
            });
        }
    });
    (address, Background(task))
}

/// The port in a URL of a server of the test.
fn port_of(url: &str) -> u16 {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let address: Option<SocketAddr> = authority.and_then(|authority| authority.parse().ok());
    address.unwrap_or_else(|| panic!("{url} names no address")).port()
}

/// A server behind TLS.
struct Secure {
    port: u16,
    _forwarder: Background,
    _server: Misbehave,
}

impl Secure {
    /// A server whose certificate, for these hosts, is signed by `authority`.
    async fn start(authority: &Authority, hosts: &[&str]) -> Self {
        let server = Misbehave::http(&[]).await;
        let port = port_of(server.url());
        let acceptor = TlsAcceptor::from(authority.server(hosts));
        let (address, forwarder) = listen(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut inner = acceptor.accept(stream).await?;
                let mut outer = TcpStream::connect(("127.0.0.1", port)).await?;
                copy_bidirectional(&mut inner, &mut outer).await?;
                Ok(())
            }
        })
        .await;
        Self { port: address.port(), _forwarder: forwarder, _server: server }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/mcp", self.port)
    }
}

/// A proxy that takes every host for this machine, and notes what it is asked for.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _task: Background,
}

impl Proxy {
    async fn start() -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&asked);
        let (address, task) = listen(move |stream| pass_on(stream, Arc::clone(&noted))).await;
        Self { address, asked, _task: task }
    }

    /// As the variables name it.
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The method and target of each connection's first request.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves one connection to the proxy: a tunnel, or requests that name the whole URL.
async fn pass_on(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {target}"));
    let authority = target.strip_prefix("http://").unwrap_or(target).split('/').next();
    let port = authority.and_then(|authority| authority.rsplit(':').next()?.parse().ok());
    let port: u16 = port.unwrap_or_else(|| panic!("{target} names no port"));
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        // A server takes the whole URL where it expects a path, so nothing is rewritten.
        server.write_all(&head).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The table of a server called `it`.
fn table(url: &str, keys: &str) -> String {
    format!("[servers.it]\nurl = {}\nstart_timeout = \"5s\"\n{keys}\n", quoted(url))
}

fn ca_file(authority: &Authority) -> String {
    format!("ca_file = {}", quoted(&authority.file()))
}

/// Calls the echo of the server `it`.
async fn echo(daemon: &Daemon) -> Answer {
    Client::modern(&daemon.url("/mcp/it"), None).call("echo", r#"{"text":"hi"}"#).await
}

/// Asserts that the server could not be reached because of its certificate.
fn assert_refused_certificate(answer: &Answer) {
    let fault = answer.fault();
    assert_eq!(
        (answer.code(), &fault["may_have_run"]),
        ("UPSTREAM_UNAVAILABLE", &false.into()),
        "{answer:#?}"
    );
    assert!(answer.complaint().contains("certificate"), "it does not say why: {answer:#?}");
    note(answer.complaint());
}

#[tokio::test]
async fn a_server_with_a_certificate_of_ones_own_authority_needs_its_ca_file() {
    let (authority, stranger) = (Authority::new("Seawall tests"), Authority::new("Stranger"));
    let secure = Secure::start(&authority, &["127.0.0.1", "localhost"]).await;
    // So that the test does not depend on what this machine trusts, nor on whether it trusts any.
    let system = [("SSL_CERT_FILE", stranger.file())];
    let system = system.each_ref().map(|(name, file)| (*name, file.as_str()));

    for host in ["127.0.0.1", "localhost"] {
        let daemon = Daemon::start_with(&table(&secure.url(host), &ca_file(&authority)), &system).await;
        assert_eq!(echo(&daemon).await.said(), "hi", "{host}");
        daemon.until_idle().await;
    }
    for keys in [String::new(), ca_file(&stranger)] {
        let daemon = Daemon::start_with(&table(&secure.url("127.0.0.1"), &keys), &system).await;
        assert_refused_certificate(&echo(&daemon).await);
        daemon.until_idle().await;
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new("Seawall tests");
    let secure = Secure::start(&authority, &[FAR]).await;
    let daemon = Daemon::start(&table(&secure.url("127.0.0.1"), &ca_file(&authority))).await;
    assert_refused_certificate(&echo(&daemon).await);
}

#[tokio::test]
async fn a_plain_server_is_reached_through_http_proxy() {
    let (proxy, server) = (Proxy::start().await, Misbehave::http(&[]).await);
    let url = format!("http://{FAR}:{}/mcp", port_of(server.url()));
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let before = proxy.asked().len();
        let daemon = Daemon::start_with(&table(&url, ""), &[(variable, &proxy.url())]).await;
        assert_eq!(echo(&daemon).await.said(), "hi", "{variable}");
        let asked = proxy.asked().split_off(before);
        assert!(!asked.is_empty(), "{variable} was not used");
        assert!(asked.iter().all(|request| *request == format!("POST {url}")), "{variable}: {asked:?}");
    }
}

#[tokio::test]
async fn a_tls_server_is_reached_through_a_tunnel_of_https_proxy() {
    let authority = Authority::new("Seawall tests");
    let (proxy, secure) = (Proxy::start().await, Secure::start(&authority, &[FAR]).await);
    let table = table(&secure.url(FAR), &ca_file(&authority));
    let daemon = Daemon::start_with(&table, &[("HTTPS_PROXY", &proxy.url())]).await;
    assert_eq!(echo(&daemon).await.said(), "hi");
    let asked = proxy.asked();
    assert!(!asked.is_empty(), "the proxy was not used");
    let tunnel = format!("CONNECT {FAR}:{}", secure.port);
    assert!(asked.iter().all(|request| *request == tunnel), "{asked:?}");
}

#[tokio::test]
async fn no_proxy_names_what_is_reached_without_one() {
    let (proxy, server) = (Proxy::start().await, Misbehave::http(&[]).await);
    let near = table(&format!("http://{NEAR}:{}/mcp", port_of(server.url())), "");
    let through = [("HTTP_PROXY", proxy.url())];
    let through = through.each_ref().map(|(name, url)| (*name, url.as_str()));

    let daemon = Daemon::start_with(&near, &through).await;
    assert_eq!(echo(&daemon).await.said(), "hi");
    let with = proxy.asked().len();
    assert!(with > 0, "without NO_PROXY the proxy was not used");
    drop(daemon);

    let daemon = Daemon::start_with(&near, &[&through[..], &[("NO_PROXY", NEAR)]].concat()).await;
    assert_eq!(echo(&daemon).await.said(), "hi");
    assert_eq!(proxy.asked().len(), with, "NO_PROXY was not heeded: {:?}", proxy.asked());
    drop(daemon);

    // A name can be told from a proxy's only by what the proxy is not asked: nobody else can find it.
    let far = table(&format!("http://{FAR}:{}/mcp", port_of(server.url())), "");
    let daemon =
        Daemon::start_with(&far, &[&through[..], &[("NO_PROXY", "other.test, .misbehave.test")]].concat())
            .await;
    let answer = echo(&daemon).await;
    assert!(["UPSTREAM_UNAVAILABLE", "TIMEOUT"].contains(&answer.code()), "{answer:#?}");
    assert_eq!(proxy.asked().len(), with, "NO_PROXY was not heeded: {:?}", proxy.asked());
}

#[tokio::test]
async fn a_server_on_loopback_is_never_reached_through_a_proxy() {
    let (proxy, server) = (Proxy::start().await, Misbehave::http(&[]).await);
    let port = port_of(server.url());
    for host in ["127.0.0.1", "localhost"] {
        let table = table(&format!("http://{host}:{port}/mcp"), "");
        let daemon = Daemon::start_with(&table, &[("ALL_PROXY", &proxy.url())]).await;
        assert_eq!(echo(&daemon).await.said(), "hi", "{host}");
    }
    assert_eq!(proxy.asked(), [""; 0], "the proxy was used");
}
