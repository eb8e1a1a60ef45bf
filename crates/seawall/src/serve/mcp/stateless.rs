//! Requests that stand alone: each answer is a body or a stream of its own, and closing it takes the call back.

use super::{CONVERSATION, Door, first_event, last, plain};
use crate::serve::{guard::Refusal, stream};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use seawall_core::call::{Answer, Endpoint};
use seawall_proto::{Event, Request, era::serve, sse::write_event};
use std::sync::Arc;
use tokio::sync::broadcast::{Receiver, error::RecvError};

pub(super) async fn answer(door: Door, request: Arc<Request>) -> Result<Response<Body>, Refusal> {
    // A conversation's name is its caller's own: nobody else can mean the same one.
    let named = door.header(CONVERSATION).map(Arc::from).or_else(|| request.conversation().cloned());
    let conversation = named.map(|name| Arc::from(format!("{}/{name}", door.caller.name)));
    if serve::listens(&request) && door.endpoint == Endpoint::All {
        return Ok(listen(&door, request));
    }
    let call = door.call(request, conversation, false);
    if let Some(end) = door.own_answer(&call).await {
        return Ok(door.own_response(&call.request, end));
    }
    let request = call.request.clone();
    let mut answer = door.front.gateway.call(call);
    Ok(match first_event(&door, &mut answer).await {
        Some(Event::End(end)) => plain(&request, &end),
        first => stream_of(request, answer, first),
    })
}

/// The answer as a stream; dropped with it, the call is taken back.
fn stream_of(request: Arc<Request>, answer: Answer, first: Option<Event>) -> Response<Body> {
    let first = first.and_then(|event| message(&request, event)).map(|message| write_event(None, &message));
    stream::response((Some(answer), request), first, |(answer, request)| async move {
        let Some(mut answer) = answer else { return ((None, request), None) };
        loop {
            let event = answer.next().await;
            let ended = matches!(event, Event::End(_));
            let piece = message(&request, event).map(|message| write_event(None, &message));
            if ended {
                return ((None, request), piece);
            }
            if piece.is_some() {
                return ((Some(answer), request), piece);
            }
        }
    })
}

/// An event as a message on the stream of its request; a question is refused by being dropped, for this era asks
/// in results only.
fn message(request: &Request, event: Event) -> Option<Bytes> {
    match event {
        Event::Progress(message) | Event::Log(message) | Event::Notification(message) => Some(message),
        Event::End(end) => last(request, &end),
        Event::Streaming | Event::Ask(_) | Event::Pause { .. } => None,
    }
}

struct Listening {
    request: Arc<Request>,
    changes: Receiver<Arc<str>>,
    door: Arc<crate::serve::Front>,
    ended: bool,
}

/// A stream of changes of every upstream's tools.
fn listen(door: &Door, request: Arc<Request>) -> Response<Body> {
    let changes = door.front.gateway.catalog().changes();
    let first = write_event(None, &serve::acknowledged(&request));
    let state = Listening { request, changes, door: Arc::clone(&door.front), ended: false };
    stream::response(state, Some(first), |mut state| async move {
        if state.ended {
            return (state, None);
        }
        let wanted = serve::wants_tool_changes(&state.request);
        let changed = async {
            match state.changes.recv().await {
                // Whoever lagged behind is told that something changed: what, it asks for anyway.
                Ok(_) | Err(RecvError::Lagged(_)) if wanted => {}
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = state.door.gateway.life().draining() => state.ended = true,
        }
        let message = if state.ended {
            serve::listening_ended(&state.request)
        } else {
            serve::tools_changed(Some(&state.request))
        };
        (state, Some(write_event(None, &message)))
    })
}
