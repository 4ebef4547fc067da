//! Bodies on their way through: counted, timed, never gathered.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::ahead::AheadBody;
use super::compress::CodedBody;
use super::pool::Lease;

/// Up to how many bytes an answer's body counts as small.
const SMALL: u64 = 16 << 10;
/// Longest pause between two reads of a request's body (nginx's `client_body_timeout`).
const CLIENT_BODY: Duration = Duration::from_secs(60);

/// How far a request's body has got; shared between the body, which hyper's client drives, and the
/// request, which waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the upstream last took something, or the body ended.
    pub(super) moved: Cell<Instant>,
    /// Whether the body is on its way to the upstream whole.
    pub(super) done: Cell<bool>,
    /// Whether the client is who keeps us waiting.
    pub(super) waiting: Cell<bool>,
    /// Why the body broke off.
    pub(super) fault: Cell<Option<Fault>>,
    /// Bytes that came.
    pub(super) received: Cell<u64>,
}

/// Whose fault it is that a request's body broke off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    /// Larger than the route allows.
    #[error("the request's body is larger than allowed")]
    Large,
    /// Framing that RFC 9112 section 7 forbids, or the client went away.
    #[error("the request's body is broken")]
    Broken,
    /// Nothing came for a minute.
    #[error("the request's body came too slowly")]
    Slow,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            moved: Cell::new(now),
            done: Cell::new(false),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            received: Cell::new(0),
        })
    }
}

/// How long somebody may keep us waiting. Runs only while we wait: not while nobody asks for more.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, waiting: false }
    }

    /// Ready when it is at its end. The timer is made when it is first needed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx)
    }

    /// Something came.
    fn rest(&mut self) {
        self.waiting = false;
    }
}

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` for none at all.
    incoming: Option<Incoming>,
    progress: Rc<Progress>,
    limit: Option<u64>,
    patience: Patience,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, progress: Rc<Progress>, limit: Option<u64>) -> Self {
        progress.done.set(incoming.is_end_stream());
        Self { incoming: Some(incoming), progress, limit, patience: Patience::new(CLIENT_BODY) }
    }

    /// The body of a request that has none.
    pub(super) fn nothing(progress: Rc<Progress>) -> Self {
        progress.done.set(true);
        Self { incoming: None, progress, limit: None, patience: Patience::new(CLIENT_BODY) }
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => {
                self.progress.waiting.set(true);
                match self.patience.poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => self.fail(Fault::Slow),
                }
            }
            Poll::Ready(frame) => {
                self.progress.waiting.set(false);
                self.progress.moved.set(Instant::now());
                self.patience.rest();
                match frame {
                    None => {
                        self.progress.done.set(true);
                        Poll::Ready(None)
                    }
                    Some(Err(_)) => self.fail(Fault::Broken),
                    Some(Ok(frame)) => self.pass(frame),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl RequestBody {
    fn pass(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = match frame.into_trailers() {
            Ok(mut trailers) => {
                super::headers::clean_trailers(&mut trailers);
                self.progress.done.set(true);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Err(frame) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let received = self.progress.received.get() + data.len() as u64;
            self.progress.received.set(received);
            if self.limit.is_some_and(|limit| received > limit) {
                return self.fail(Fault::Large);
            }
        }
        if self.is_end_stream() {
            self.progress.done.set(true);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum ReplyBody {
    /// Our own words, or none.
    Own(Option<Bytes>),
    /// What the upstream sends.
    Upstream(Box<UpstreamBody>),
    /// What the upstream sent, read ahead of the client.
    Ahead(Box<AheadBody>),
    /// Any of these, compressed.
    Coded(Box<CodedBody>),
}

/// An answer's body as it comes from the upstream.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    /// What came together with the head.
    first: Option<hyper::Result<Frame<Bytes>>>,
    incoming: Incoming,
    lease: Lease,
    ended: bool,
    patience: Patience,
}

/// Why an upstream's answer broke off after its head; the client sees it cut, never ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutOff {
    /// The connection broke or its framing did.
    #[error("the upstream's answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// Nothing came for `proxy-read-timeout`.
    #[error("the upstream's answer came too slowly")]
    Slow,
    /// Something here went wrong with it.
    #[error("the upstream's answer was given up: {0}")]
    Ours(&'static str),
}

impl ReplyBody {
    pub(super) fn empty() -> Self {
        Self::Own(None)
    }

    /// The body of an endpoint's answer. A small one that came together with its head is taken at once:
    /// head and body then leave in one write, and the connection is free for the next request.
    pub(super) fn upstream(mut incoming: Incoming, mut lease: Lease, patience: Duration) -> Self {
        let mut first = None;
        if incoming.size_hint().exact().is_some_and(|it| (1..=SMALL).contains(&it)) {
            first = incoming.frame().now_or_never().flatten();
        }
        let ended = incoming.is_end_stream();
        if ended && let Some(Ok(frame)) = first {
            lease.give_back();
            return Self::Own(frame.into_data().ok());
        }
        let body =
            UpstreamBody { first, incoming, lease, ended, patience: Patience::new(patience) };
        Self::Upstream(Box::new(body))
    }

    /// Reads an endpoint's answer ahead of the client, by so many bytes, from now on.
    pub(super) fn ahead(self, bytes: usize) -> Self {
        match self {
            Self::Upstream(body) if !body.ended => {
                Self::Ahead(Box::new(AheadBody::new(Self::Upstream(body), bytes)))
            }
            other => other,
        }
    }
}

impl<T: Into<Bytes>> From<T> for ReplyBody {
    fn from(text: T) -> Self {
        Self::Own(Some(text.into()).filter(|it| !it.is_empty()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut *self {
            Self::Own(text) => Poll::Ready(text.take().map(|it| Ok(Frame::data(it)))),
            Self::Upstream(body) => body.poll(cx),
            Self::Ahead(body) => body.poll(cx),
            Self::Coded(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Upstream(body) => body.first.is_none() && body.incoming.is_end_stream(),
            Self::Ahead(body) => body.is_end_stream(),
            Self::Coded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |it| it.len() as u64)),
            Self::Ahead(body) => body.size_hint(),
            // Nobody knows how well it compresses.
            Self::Coded(_) => SizeHint::default(),
            Self::Upstream(body) => match &body.first {
                None => body.incoming.size_hint(),
                // Asked before anything is sent: the length is still the whole one.
                Some(first) => {
                    let taken = first.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    let left = body.incoming.size_hint().exact().unwrap_or_default();
                    SizeHint::with_exact(left + taken as u64)
                }
            },
        }
    }
}

impl UpstreamBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first.map(clean)?)));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => self.patience.poll(cx).map(|()| Some(Err(CutOff::Slow))),
            Poll::Ready(frame) => {
                self.patience.rest();
                self.ended = frame.is_none() || self.incoming.is_end_stream();
                Poll::Ready(frame.map(|it| Ok(it.map(clean)?)))
            }
        }
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            super::headers::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

impl Drop for UpstreamBody {
    /// A connection whose answer was read to its end serves the next request.
    fn drop(&mut self) {
        if self.ended {
            self.lease.give_back();
        }
    }
}

/// Whether a message says it has a body whose end only its framing tells.
pub(super) fn has_unknown_length(headers: &HeaderMap, body: &impl Body) -> bool {
    !headers.contains_key(http::header::CONTENT_LENGTH)
        && !body.is_end_stream()
        && body.size_hint().exact().is_none()
}
