//! Requests that stand alone: each answer is a body or a stream of its own, and closing it takes the call back.

use super::{CONVERSATION, Door, first_event, last, plain};
use crate::serve::{guard::Refusal, stream};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use seawall_core::call::{Answer, Endpoint, park::Resumed};
use seawall_proto::{
    Event, Request,
    era::{cross, serve},
    sse::write_event,
};
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
    let request = Arc::clone(&call.request);
    let gateway = Arc::clone(&door.front.gateway);
    let resumed = cross::given(&request).map(|given| gateway.resume(&door.caller, &request, given));
    let mut answer = match resumed {
        None | Some(Resumed::Foreign) => gateway.call(call),
        Some(Resumed::Going(answer)) => answer,
        Some(Resumed::Ended(end)) => return Ok(plain(&request, &end)),
    };
    Ok(match first_event(&door, &mut answer, true).await {
        Some(Event::End(end)) => plain(&request, &end),
        Some(Event::Ask(ask)) => plain(&request, &Ok(gateway.park(&door.caller, &request, answer, ask))),
        first => {
            let first = first.and_then(|event| message(&request, event));
            let first = first.map(|message| write_event(None, &message));
            let streaming = Streaming { request, door, answer: Some(answer) };
            stream::response(streaming, first, Streaming::next)
        }
    })
}

/// An answer as a stream; dropped with it, the call is taken back.
struct Streaming {
    request: Arc<Request>,
    door: Door,
    /// None once the stream has had its last message.
    answer: Option<Answer>,
}

impl Streaming {
    async fn next(mut self) -> (Self, Option<Bytes>) {
        let Some(mut answer) = self.answer.take() else { return (self, None) };
        loop {
            let message = match answer.next().await {
                Event::Ask(ask) => {
                    // The stream ends with the question, and the call waits for its caller to come back.
                    let reply = self.door.front.gateway.park(&self.door.caller, &self.request, answer, ask);
                    return (self, Some(write_event(None, &reply.body)));
                }
                Event::End(end) => {
                    let piece = last(&self.request, &end).map(|message| write_event(None, &message));
                    return (self, piece);
                }
                event => message(&self.request, event),
            };
            if let Some(message) = message {
                self.answer = Some(answer);
                return (self, Some(write_event(None, &message)));
            }
        }
    }
}

/// An event as a message on the stream of its request.
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
