//! The transport of 2024-11-05: requests by POST, and everything that comes back on one stream of events.

use crate::http::{Endpoint, Events, Reply, new_session, plain};
use crate::server::{Entry, Exchange, Part, lock};
use crate::stdio::announce;
use crate::wire::Era;
use hyper::StatusCode;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where the stream is.
pub(crate) const PATH: &str = "/sse";
/// Where messages go, with the session in the query.
pub(crate) const MESSAGES: &str = "/messages";

/// Opens a stream, which is a session; its first event says where messages go.
pub(crate) fn open(endpoint: &Arc<Endpoint>) -> Reply {
    let session = new_session();
    let (outlet, parts) = mpsc::unbounded_channel();
    let first = format!("event: endpoint\ndata: {MESSAGES}?session={session}\n\n");
    outlet.send(Part::Line(first.into_bytes())).expect("the receiver is still here");
    lock(&endpoint.streams).insert(session.clone(), outlet.clone());
    let announcer = tokio::spawn(announce(endpoint.server.tools_changed.subscribe(), outlet.clone()));
    let endpoint = Arc::clone(endpoint);
    tokio::spawn(async move {
        outlet.closed().await;
        announcer.abort();
        lock(&endpoint.streams).remove(&session);
        endpoint.server.forget(&session);
        endpoint.server.record(&Entry {
            event: "session_closed",
            session: Some(&session),
            ..Entry::default()
        });
    });
    Events::of(parts).into_reply()
}

/// Takes a message of the session that the query names; its answer comes on the stream.
pub(crate) fn take(endpoint: &Endpoint, query: Option<&str>, body: &[u8]) -> Reply {
    let Some(session) = query.and_then(|query| query.strip_prefix("session=")) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let forgotten = lock(&endpoint.server.forgotten).remove(session);
    let mut streams = lock(&endpoint.streams);
    if forgotten {
        // The stream stays open: only the next message learns of it.
        streams.remove(session);
    }
    let Some(outlet) = streams.get(session).cloned() else {
        return plain(StatusCode::NOT_FOUND);
    };
    drop(streams);
    let Some(mut message) = endpoint.server.receive(body, Some(session)) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let (server, session) = (Arc::clone(&endpoint.server), Some(session.to_owned()));
    match message.id.take_if(|_| message.method.is_some()) {
        Some(id) => {
            let exchange = Exchange { server, era: Era::Legacy, session, over_http: true, id, outlet };
            exchange.start(message);
        }
        None => server.notice(session, &message),
    }
    plain(StatusCode::ACCEPTED)
}
