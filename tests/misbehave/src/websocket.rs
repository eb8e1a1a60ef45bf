//! MCP over WebSocket (RFC 6455): one message per text frame, and frames that are broken on purpose.

use crate::http::{Reply, header, new_session, plain};
use crate::server::{Entry, Exchange, Part, Server};
use crate::stdio::{BYTE, announce};
use crate::wire::Era;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::future::pending;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Where connections are opened.
pub(crate) const PATH: &str = "/ws";
const PROTOCOL: &str = "mcp";
/// What the standard adds to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The largest payload that is read, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The bit of the last frame of a message.
const FINAL: u8 = 0x80;

type Stream = TokioIo<Upgraded>;

/// What the writer is told.
enum Frame {
    Part(Part),
    Pong(Vec<u8>),
}

/// Agrees to a connection and serves it once it is there.
pub(crate) fn open(server: &Arc<Server>, request: &mut Request<Incoming>) -> Reply {
    let headers = request.headers();
    let offered = header(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).unwrap_or_default();
    let speaks = offered.split(',').any(|protocol| protocol.trim() == PROTOCOL);
    let Some(key) = header(headers, "sec-websocket-key").filter(|_| speaks) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{KEY_SUFFIX}").as_bytes());
    let accept = HeaderValue::from_str(&STANDARD.encode(accept)).expect("Base64 fits a header");
    let mut reply = plain(StatusCode::SWITCHING_PROTOCOLS);
    let headers = reply.headers_mut();
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    tokio::spawn(serve(Arc::clone(server), hyper::upgrade::on(request)));
    reply
}

async fn serve(server: Arc<Server>, upgrade: OnUpgrade) {
    // An error is a caller that went away before it had its answer.
    let Ok(upgraded) = upgrade.await else { return };
    let (input, output) = split(TokioIo::new(upgraded));
    let session = new_session();
    let (frames, queue) = mpsc::unbounded_channel();
    let (outlet, mut parts) = mpsc::unbounded_channel();
    let announcer = tokio::spawn(announce(server.tools_changed.subscribe(), outlet.clone()));
    let forwarder = tokio::spawn({
        let frames = frames.clone();
        async move {
            while let Some(part) = parts.recv().await {
                // An error is a connection that is over, which the reader learns itself.
                let _ = frames.send(Frame::Part(part));
            }
        }
    });
    tokio::select! {
        // However either ends, the connection is over.
        _ = read(&server, &session, input, &outlet, &frames) => {}
        _ = write(output, queue) => {}
    }
    announcer.abort();
    forwarder.abort();
    server.forget(&session);
    server.record(&Entry { event: "session_closed", session: Some(&session), ..Entry::default() });
}

async fn read(
    server: &Arc<Server>,
    session: &str,
    mut input: ReadHalf<Stream>,
    outlet: &mpsc::UnboundedSender<Part>,
    frames: &mpsc::UnboundedSender<Frame>,
) -> io::Result<()> {
    let mut text = Vec::new();
    loop {
        let (first, payload) = read_frame(&mut input).await?;
        match first & 0x0F {
            TEXT | CONTINUATION => text.extend_from_slice(&payload),
            CLOSE => return Ok(()),
            PING => {
                // An error is a writer that is done, which ends this reader too.
                let _ = frames.send(Frame::Pong(payload));
                continue;
            }
            _ => continue,
        }
        if first & FINAL == 0 {
            continue;
        }
        let Some(mut message) = server.receive(&std::mem::take(&mut text), Some(session)) else { continue };
        let (server, session) = (Arc::clone(server), Some(session.to_owned()));
        match message.id.take_if(|_| message.method.is_some()) {
            Some(id) => {
                let outlet = outlet.clone();
                let exchange = Exchange { server, era: Era::Legacy, session, over_http: true, id, outlet };
                exchange.start(message);
            }
            None => server.notice(session, &message),
        }
    }
}

/// The first byte of a frame, and its payload without the mask.
async fn read_frame(input: &mut ReadHalf<Stream>) -> io::Result<(u8, Vec<u8>)> {
    let first = input.read_u8().await?;
    let second = input.read_u8().await?;
    let length = match second & 0x7F {
        126 => u64::from(input.read_u16().await?),
        127 => input.read_u64().await?,
        short => u64::from(short),
    };
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        input.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    input.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
    Ok((first, payload))
}

async fn write(mut output: WriteHalf<Stream>, mut queue: mpsc::UnboundedReceiver<Frame>) -> io::Result<()> {
    while let Some(next) = queue.recv().await {
        let part = match next {
            Frame::Part(part) => part,
            Frame::Pong(payload) => {
                send(&mut output, PONG, &payload).await?;
                continue;
            }
        };
        match part {
            Part::Event(text) | Part::Reply { text, .. } | Part::Garbage(text) => {
                send(&mut output, TEXT, text.as_bytes()).await?;
            }
            Part::Whole { body, .. } | Part::Line(body) => send(&mut output, TEXT, &body).await?,
            Part::Comment => send(&mut output, PING, b"x").await?,
            Part::Half(text) => {
                output.write_all(&head(TEXT, text.len())).await?;
                output.write_all(&text.as_bytes()[..text.len() / 2]).await?;
                output.flush().await?;
                // Whatever came next would complete the broken frame, so nothing does.
                return pending().await;
            }
            Part::Trickle(text) => {
                output.write_all(&head(TEXT, text.len())).await?;
                for byte in text.into_bytes() {
                    output.write_all(&[byte]).await?;
                    output.flush().await?;
                    sleep(BYTE).await;
                }
            }
            Part::Close => {
                send(&mut output, CLOSE, &[]).await?;
                return output.shutdown().await;
            }
            Part::Open => {}
        }
    }
    Ok(())
}

async fn send(output: &mut WriteHalf<Stream>, kind: u8, payload: &[u8]) -> io::Result<()> {
    output.write_all(&head(kind, payload.len())).await?;
    output.write_all(payload).await?;
    output.flush().await
}

/// What comes before a payload of this length in the one frame of a message.
fn head(kind: u8, length: usize) -> Vec<u8> {
    let mut head = vec![FINAL | kind];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => head.push(short),
        (_, Ok(middle)) => {
            head.push(126);
            head.extend_from_slice(&middle.to_be_bytes());
        }
        (_, Err(_)) => {
            head.push(127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}
