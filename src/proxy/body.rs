//! Bodies on their way through: counted, timed, never gathered.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::io::Meter;
use super::pool::Lease;

/// Up to how many bytes an answer's body counts as small.
const SMALL: u64 = 16 << 10;
/// How long a client may keep us waiting for its request's body: between two reads (nginx's
/// `client_body_timeout`), and, until the answer begins, beyond what its bytes have earned.
const CLIENT_BODY: Duration = Duration::from_secs(60);
/// How much of that each byte earns back: below 10 bytes a second patience runs out, after a minute at the
/// earliest. The slowest of honest links are a hundred times faster; who sends a byte now and then only
/// holds an endpoint's connection.
const EARNED: Duration = Duration::from_millis(100);
/// What a piece of a body accounts for beside its own length: its frame, padding (RFC 9113 section 6.1),
/// and TLS's record.
const PIECE: u64 = 512;

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
    /// Whether the answer has begun: then client and endpoint may talk for as long as they like.
    pub(super) answered: Cell<bool>,
    meter: Arc<Meter>,
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
    /// Nothing came for a minute, or too little.
    #[error("the request's body came too slowly")]
    Slow,
}

impl Progress {
    pub(super) fn new(now: Instant, meter: Arc<Meter>) -> Rc<Self> {
        Rc::new(Self {
            moved: Cell::new(now),
            done: Cell::new(false),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            received: Cell::new(0),
            answered: Cell::new(false),
            meter,
        })
    }
}

/// How long somebody may keep us waiting. Runs only while we wait: not while nobody asks for more.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    /// How much of it is left.
    left: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, left: limit, timer: None, waiting: false }
    }

    /// Ready when it is at its end. The timer is made when it is first needed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + left);
        }
        timer.as_mut().poll(cx)
    }

    /// Something came: all patience is there again.
    fn rest(&mut self) {
        self.waiting = false;
        self.left = self.limit;
    }

    /// Something came at `now` that gives back only so much.
    fn earn(&mut self, now: Instant, earned: Duration) {
        if std::mem::take(&mut self.waiting)
            && let Some(timer) = &self.timer
        {
            self.left = timer.deadline().saturating_duration_since(now);
        }
        self.left = self.left.saturating_add(earned).min(self.limit);
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

/// How much patience so many bytes earn.
fn earned(bytes: usize) -> Duration {
    EARNED.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
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
                let now = Instant::now();
                self.progress.waiting.set(false);
                self.progress.moved.set(now);
                let length = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
                let length = length.map_or(0, Bytes::len);
                // An empty frame is no progress: it could be repeated for ever.
                if length > 0 {
                    self.progress.meter.pay(length as u64 + PIECE);
                }
                if self.progress.answered.get() {
                    self.patience.rest();
                } else {
                    self.patience.earn(now, earned(length));
                }
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Upstream(body) => body.first.is_none() && body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |it| it.len() as u64)),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits, and then so many bytes come; gives how long it took until patience ran out.
    async fn held(trickle: impl IntoIterator<Item = (u64, usize)>) -> Option<u64> {
        let begun = Instant::now();
        let mut patience = Patience::new(CLIENT_BODY);
        for (seconds, bytes) in trickle {
            let pause = tokio::time::sleep(Duration::from_secs(seconds));
            tokio::select! {
                biased;
                () = std::future::poll_fn(|cx| patience.poll(cx)) => {
                    return Some(begun.elapsed().as_secs());
                }
                () = pause => patience.earn(Instant::now(), earned(bytes)),
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_ends() {
        for (case, pause, bytes, expected) in [
            ("a byte each 50 seconds", 50, 1, Some(60)),
            ("a byte a second", 1, 1, Some(66)),
            ("nine bytes a second", 1, 9, Some(591)),
            ("ten bytes a second", 1, 10, None),
            ("a little each 59 seconds", 59, 590, None),
            ("nothing for 61 seconds", 61, 1 << 20, Some(60)),
        ] {
            let found = held(std::iter::repeat_n((pause, bytes), 1000)).await;
            assert_eq!(found, expected, "{case}");
        }
        // What came quickly is no provision for later.
        let later = std::iter::repeat_n((50, 1), 10);
        assert_eq!(held([(1, 1 << 30)].into_iter().chain(later)).await, Some(61));
    }
}
