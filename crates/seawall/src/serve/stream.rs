//! Bodies that are streams of server-sent events.

use axum::body::{Body, Bytes};
use futures_core::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Frame;
use seawall_proto::sse::COMMENT;
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// How long a stream may be silent before it carries a comment.
const QUIET: Duration = Duration::from_secs(15);

type Step<S> = Pin<Box<dyn Future<Output = (S, Option<Bytes>)> + Send>>;

/// A stream made of a state and a function that gives the next piece; quiet times are filled with comments.
struct Events<S, F> {
    state: Option<S>,
    next: F,
    step: Option<Step<S>>,
    quiet: Pin<Box<Sleep>>,
    first: Option<Bytes>,
}

impl<S, F, R> Stream for Events<S, F>
where
    S: Send + Unpin + 'static,
    F: Fn(S) -> R + Unpin,
    R: Future<Output = (S, Option<Bytes>)> + Send + 'static,
{
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if this.step.is_none() {
            let Some(state) = this.state.take() else { return Poll::Ready(None) };
            this.step = Some(Box::pin((this.next)(state)));
        }
        let Some(step) = &mut this.step else { return Poll::Ready(None) };
        if let Poll::Ready((state, piece)) = step.as_mut().poll(context) {
            this.step = None;
            this.quiet.as_mut().reset(Instant::now() + QUIET);
            let Some(piece) = piece else { return Poll::Ready(None) };
            this.state = Some(state);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.quiet.as_mut().poll(context).is_ready() {
            this.quiet.as_mut().reset(Instant::now() + QUIET);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
        }
        Poll::Pending
    }
}

/// A response that streams what `next` gives, piece by piece, until it gives none. `first` leaves with the headers.
pub(super) fn response<S, F, R>(state: S, first: Option<Bytes>, next: F) -> Response<Body>
where
    S: Send + Unpin + 'static,
    F: Fn(S) -> R + Send + Unpin + 'static,
    R: Future<Output = (S, Option<Bytes>)> + Send + 'static,
{
    // Something must leave with the headers, or some clients wait for the first byte.
    let first = first.unwrap_or_else(|| Bytes::from_static(COMMENT));
    let events =
        Events { state: Some(state), next, step: None, quiet: Box::pin(sleep(QUIET)), first: Some(first) };
    let mut response = Response::new(Body::new(http_body_util::StreamBody::new(events)));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
