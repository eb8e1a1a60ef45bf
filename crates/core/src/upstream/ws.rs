//! Upstreams over WebSocket: one connection, a message in each frame.
//!
//! An instance is a channel that lasts as long as its connection. The connection begins as a request of the HTTP
//! client, so that proxies, certificates, headers and logins are those of every other upstream that has a URL.

use super::{
    Lost, Plan, Sent,
    channel::{self, Early, Instance, Queues, Starting, early},
    http::{Endpoint, Head},
};
use crate::life::{Life, Task};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use seawall_proto::era::{
    Spoken,
    opening::{Heard, Opening},
    peer::Peer,
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message as Frame, Utf8Bytes,
        error::CapacityError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

/// How a connection that carries MCP is called.
const PROTOCOL: &str = "mcp";
/// What a server adds to a key to show that it has understood the request (RFC 6455, 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Room for one read of a connection, and for what is gathered for one write.
const BUFFER: usize = 64 * 1024;
/// How long the closing of a connection may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A connection.
type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Makes instances of one endpoint.
#[derive(Debug)]
pub struct Connector {
    pub(super) endpoint: Arc<Endpoint>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint) }
    }

    /// Opens a connection, and what is spoken on it.
    pub(super) async fn open(&self, plan: &Plan, life: &Life) -> (Result<Arc<Instance>, Lost>, Spoken) {
        let opening = Opening::new(plan.pin, plan.spoken, &plan.wire, Arc::clone(&plan.face));
        let (opened, spoken) = channel::open(opening, plan, || self.connect(life)).await;
        (opened.map(|(connection, peer)| Opened::run(connection, peer, plan)), spoken)
    }

    async fn connect(&self, life: &Life) -> Result<Opened, Lost> {
        let no = |why: String| Lost::new(Sent::No, why);
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the kernel gives random bytes");
        let key = STANDARD.encode(random);
        let headers = upgrade(self.endpoint.headers_for_get(None), &key);
        let response = self.endpoint.send(Method::GET, headers, Bytes::new()).await;
        let response = response.map_err(|lost| no(lost.why))?;
        if let Some(lost) = self.endpoint.wants_login(&response) {
            return Err(no(lost.why));
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let head = Head::of(&response);
            let body = self.endpoint.collect(response).await.unwrap_or_default();
            return Err(no(format!("{}, where a WebSocket was to open", head.instead(&body))));
        }
        check(response.headers(), &key).map_err(no)?;
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| no(format!("its connection broke: {error}")))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(self.endpoint.message))
            .max_frame_size(Some(self.endpoint.message));
        let socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        Ok(Opened { socket, place: self.endpoint.place(), life: life.clone() })
    }
}

/// The headers of the request that a WebSocket begins with.
fn upgrade(mut headers: HeaderMap, key: &str) -> HeaderMap {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    let key = HeaderValue::from_str(key).expect("base64 is visible ASCII");
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    headers
}

/// Whether a server that switched has switched to what was asked for. Servers that name no protocol are many.
fn check(headers: &HeaderMap, key: &str) -> Result<(), String> {
    let value = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    if value(header::UPGRADE).is_none_or(|to| !to.eq_ignore_ascii_case(b"websocket")) {
        return Err(String::from("it switched to something that is no WebSocket"));
    }
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()));
    if value(header::SEC_WEBSOCKET_ACCEPT) != Some(accept.as_bytes()) {
        return Err(String::from("its answer to the request for a WebSocket is that to another request"));
    }
    if value(header::SEC_WEBSOCKET_PROTOCOL).is_some_and(|protocol| protocol != PROTOCOL.as_bytes()) {
        return Err(format!("it speaks another protocol than {PROTOCOL:?} on its WebSocket"));
    }
    Ok(())
}

/// A connection that was opened.
struct Opened {
    socket: Socket,
    place: String,
    life: Life,
}

impl Starting for Opened {
    async fn ask(&mut self, body: &Bytes) -> Heard {
        let broke = |error: Error| Heard::Gone(format!("its connection broke: {error}"));
        if let Err(error) = self.socket.send(frame(body.clone())).await {
            return broke(error);
        }
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Frame::Text(text))) => Bytes::from(text),
                Some(Ok(Frame::Binary(bytes))) => bytes,
                Some(Ok(Frame::Close(said))) => return Heard::Gone(closed(said.as_ref())),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => continue,
                Some(Err(error)) => return broke(error),
                None => return Heard::Gone(closed(None)),
            };
            match early(text) {
                Early::Response(message) => return Heard::Response(message),
                Early::Answer(answer) => {
                    if let Err(error) = self.socket.send(frame(answer)).await {
                        return broke(error);
                    }
                }
                Early::Nothing => {}
            }
        }
    }

    fn last_words(&self) -> String {
        String::new()
    }

    fn end(self) {
        let Self { mut socket, life, .. } = self;
        life.spawn(Task::Send, async move {
            let _ = timeout(CLOSE_LIMIT, socket.close(None)).await;
        });
    }
}

impl Opened {
    /// Hands it over to the tasks of an instance.
    fn run(self, peer: Peer, plan: &Plan) -> Arc<Instance> {
        let Self { socket, place, life } = self;
        let (sink, frames) = socket.split();
        let (instance, queues) = Instance::new(peer, None, &place, plan);
        if let Some(opened) = instance.peer().opened() {
            instance.notify(opened);
        }
        instance.tend(&life);
        life.spawn(Task::Instance, write(Arc::clone(&instance), sink, queues));
        life.spawn(Task::Instance, read(Arc::clone(&instance), frames));
        instance
    }
}

/// A message as a frame: of text, unless it is none.
fn frame(message: Bytes) -> Frame {
    Utf8Bytes::try_from(message.clone()).map_or_else(|_| Frame::Binary(message), Frame::Text)
}

/// What a server that closes its connection says.
fn closed(said: Option<&CloseFrame>) -> String {
    said.map_or_else(
        || String::from("it closed the connection"),
        |said| {
            format!(
                "it closed the connection ({}: {})",
                said.code,
                said.reason.chars().take(200).collect::<String>()
            )
        },
    )
}

/// The reader: passes on what the server says, and waits for nothing but the server. The instance ends with the
/// connection.
async fn read(instance: Arc<Instance>, mut frames: SplitStream<Socket>) {
    let why = loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = instance.gone() => return,
        };
        match frame {
            Some(Ok(Frame::Text(text))) => instance.hear(&Bytes::from(text)),
            Some(Ok(Frame::Binary(bytes))) => instance.hear(&bytes),
            // Pings are answered below; whoever sends them need not be the server, so they are no sign of life.
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
            Some(Ok(Frame::Close(said))) => break closed(said.as_ref()),
            Some(Err(Error::Capacity(CapacityError::MessageTooLong { size, .. }))) => {
                // The rest of it is still to come, and where it ends is not looked for.
                instance.too_long(size);
                break format!("it sent a message over the limit ({size} bytes)");
            }
            Some(Err(error)) => break format!("its connection broke: {error}"),
            None => break closed(None),
        }
    };
    instance.end(&why);
}

/// The writer: the only one that waits for the server to read.
async fn write(instance: Arc<Instance>, mut sink: SplitSink<Socket, Frame>, mut queues: Queues) {
    loop {
        let first = tokio::select! {
            biased;
            () = instance.gone() => break,
            message = queues.next() => message,
        };
        let Some(first) = first else { break };
        let sent = tokio::select! {
            sent = send(&mut sink, first, &mut queues) => sent,
            () = instance.gone() => break,
        };
        if let Err(error) = sent {
            return instance.end(&format!("its connection broke: {error}"));
        }
    }
    let _ = timeout(CLOSE_LIMIT, sink.close()).await;
}

/// Sends a message, and with it whatever else is ready.
async fn send(sink: &mut SplitSink<Socket, Frame>, first: Bytes, queues: &mut Queues) -> Result<(), Error> {
    let mut gathered = first.len();
    sink.feed(frame(first)).await?;
    while gathered < BUFFER {
        let Some(message) = queues.ready() else { break };
        gathered += message.len();
        sink.feed(frame(message)).await?;
    }
    sink.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn answer(protocol: Option<&'static str>, accept: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(accept));
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        headers
    }

    #[test]
    fn a_server_must_have_understood_what_was_asked_for() {
        assert_eq!(check(&answer(Some("mcp"), ACCEPT), KEY), Ok(()));
        assert_eq!(check(&answer(None, ACCEPT), KEY), Ok(()));
        assert!(check(&answer(Some("chat"), ACCEPT), KEY).is_err());
        assert!(check(&answer(None, KEY), KEY).is_err());
        assert!(check(&HeaderMap::new(), KEY).is_err());
    }
}
