//! Requests that stand alone: each answer is a body or a stream of its own, and closing it takes the call back.

use super::{Door, LONGEST_NAME, first_event, last, plain};
use crate::serve::{
    Front,
    guard::{self, Refusal},
    stream,
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::StatusCode;
use seawall_core::{
    call::{Answer, Call, park::Resumed},
    offer::Listener,
};
use seawall_proto::{
    Event, Request,
    era::{cross, serve},
    sse::write_event,
};
use std::sync::Arc;

pub(super) async fn answer(door: Door, request: Arc<Request>) -> Result<Response<Body>, Refusal> {
    // A conversation's name is its caller's own: nobody else can mean the same one.
    let named = door.conversation.clone().or_else(|| request.conversation().cloned());
    if named.as_ref().is_some_and(|name| name.len() > LONGEST_NAME) {
        let text = format!("the name of a conversation may have {LONGEST_NAME} bytes");
        return Err(guard::refuse(StatusCode::BAD_REQUEST, &text));
    }
    let conversation = named.map(|name| Arc::from(format!("{}/{name}", door.caller.name)));
    let call = door.call(request, conversation, false);
    if serve::listens(&call.request) && door.front.gateway.arranges(&call) {
        return Ok(Box::pin(listen(&door, call)).await);
    }
    if let Some(end) = door.own_answer(&call).await {
        return Ok(door.own_response(&call.request, end));
    }
    let request = Arc::clone(&call.request);
    let gateway = Arc::clone(&door.front.gateway);
    let resumed = cross::given(&request).map(|given| gateway.resume(&call, given));
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
    listener: Listener,
    front: Arc<Front>,
    ended: bool,
}

/// A stream of changes of what several upstreams offer.
async fn listen(door: &Door, call: Call) -> Response<Body> {
    let listener = door.front.gateway.listen(call).await;
    let first = write_event(None, &listener.acknowledged());
    let state = Listening { listener, front: Arc::clone(&door.front), ended: false };
    stream::response(state, Some(first), |mut state| async move {
        if state.ended {
            return (state, None);
        }
        let message = tokio::select! {
            message = state.listener.next() => message,
            () = state.front.gateway.life().draining() => {
                state.ended = true;
                serve::listening_ended(state.listener.request())
            }
        };
        (state, Some(write_event(None, &message)))
    })
}
