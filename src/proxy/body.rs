//! Bodies on their way through: counted, timed, never gathered.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::ahead::AheadBody;
use super::compress::CodedBody;
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
pub(super) const PIECE: u64 = 512;

/// A request's body and how far it has got; shared between [`RequestBody`], which hyper's client drives,
/// and the request, which waits for the answer and may have to send it again.
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
    /// How often it was begun to be sent: what was made for an earlier try takes nothing from a later one.
    turn: Cell<u32>,
    source: RefCell<Source>,
}

/// Where the pieces of a body come from.
#[derive(Debug)]
struct Source {
    /// `None` once it came whole, and for a request without a body.
    incoming: Option<Incoming>,
    /// Of the socket it comes from.
    meter: Arc<Meter>,
    /// What came before anybody took it.
    kept: Option<Bytes>,
    /// What came after `kept`.
    trailers: Option<HeaderMap>,
    /// Whether something was handed on that is not kept: the body cannot be sent again.
    passed: bool,
    limit: Option<u64>,
    patience: Patience,
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
    /// Of a request with the body `incoming`, of which `limit` bytes are taken at most.
    pub(super) fn new(
        now: Instant,
        incoming: Incoming,
        limit: Option<u64>,
        meter: &Arc<Meter>,
    ) -> Rc<Self> {
        let incoming = Some(incoming).filter(|it| !it.is_end_stream());
        Rc::new(Self {
            moved: Cell::new(now),
            done: Cell::new(incoming.is_none()),
            waiting: Cell::new(false),
            fault: Cell::new(None),
            received: Cell::new(0),
            answered: Cell::new(false),
            turn: Cell::new(0),
            source: RefCell::new(Source {
                incoming,
                meter: meter.clone(),
                kept: None,
                trailers: None,
                passed: false,
                limit,
                patience: Patience::new(CLIENT_BODY),
            }),
        })
    }

    /// Whether there is a body at all that is still to come.
    pub(super) fn has_body(&self) -> bool {
        self.source.borrow().incoming.is_some()
    }

    /// Takes up to `most` bytes of the body before anything is sent; what comes after them is handed on as
    /// it comes.
    pub(super) async fn gather(&self, most: usize) -> Result<(), Fault> {
        // A piece keeps alive the buffer it was read into, however small it is: many become one.
        let mut gathered = BytesMut::new();
        while gathered.len() < most {
            let Some(frame) = poll_fn(|cx| self.poll_piece(cx)).await.transpose()? else { break };
            let mut source = self.source.borrow_mut();
            match frame.into_data() {
                Ok(whole) if source.incoming.is_none() && gathered.is_empty() => {
                    source.kept = Some(whole);
                    return Ok(());
                }
                Ok(data) => gathered.extend_from_slice(&data),
                Err(frame) => {
                    source.trailers = frame.into_trailers().ok();
                    source.incoming = None;
                }
            }
        }
        self.source.borrow_mut().kept = Some(gathered.freeze()).filter(|it| !it.is_empty());
        Ok(())
    }

    /// Whether the body can be sent from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        !self.source.borrow().passed
    }

    /// The next piece that is not kept, cleaned and counted.
    fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut source = self.source.borrow_mut();
        let source = &mut *source;
        let Some(incoming) = &mut source.incoming else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            self.waiting.set(true);
            if self.answered.get() {
                // Client and endpoint talk to each other; whether that goes on is the answer's to tell.
                return Poll::Pending;
            }
            return source.patience.poll(cx).map(|()| Some(Err(self.fail(Fault::Slow))));
        };
        let now = Instant::now();
        self.waiting.set(false);
        self.moved.set(now);
        let length = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
        let length = length.map_or(0, Bytes::len);
        // An empty frame is no progress: it could be repeated for ever.
        if length > 0 {
            source.meter.pay(length as u64 + PIECE);
        }
        if self.answered.get() {
            source.patience.rest();
        } else {
            source.patience.earn(now, earned(length));
        }
        let frame = match frame {
            None => {
                source.incoming = None;
                return Poll::Ready(None);
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(self.fail(Fault::Broken)))),
            Some(Ok(frame)) => frame,
        };
        if incoming.is_end_stream() {
            source.incoming = None;
        }
        let frame = clean(frame);
        if let Some(data) = frame.data_ref() {
            let received = self.received.get() + data.len() as u64;
            self.received.set(received);
            if source.limit.is_some_and(|limit| received > limit) {
                return Poll::Ready(Some(Err(self.fail(Fault::Large))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.fault.set(Some(fault));
        fault
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

/// A request's body on its way to the upstream, from its beginning.
#[derive(Debug)]
pub(super) struct RequestBody {
    progress: Rc<Progress>,
    turn: u32,
    /// Whether what was kept was handed on, and then the trailers.
    sent: [bool; 2],
}

impl RequestBody {
    pub(super) fn new(progress: Rc<Progress>) -> Self {
        let turn = progress.turn.get().wrapping_add(1);
        progress.turn.set(turn);
        let source = progress.source.borrow();
        let sent = [source.kept.is_none(), source.trailers.is_none()];
        drop(source);
        let body = Self { progress, turn, sent };
        body.progress.done.set(body.is_end_stream());
        body
    }

    /// Gives back what it was made from, for another try.
    pub(super) fn into_progress(self) -> Rc<Progress> {
        self.progress
    }

    /// Whether its end is known only when it is there.
    pub(super) fn has_unknown_length(&self) -> bool {
        !self.is_end_stream() && self.size_hint().exact().is_none()
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
        let this = &mut *self;
        let progress = &*this.progress;
        if this.turn != progress.turn.get() {
            // Another endpoint has been asked since.
            return Poll::Ready(Some(Err(Fault::Broken)));
        }
        let mut source = progress.source.borrow_mut();
        let [sent, closed] = &mut this.sent;
        let frame = if !std::mem::replace(sent, true) {
            progress.moved.set(Instant::now());
            source.kept.clone().map(|it| Ok(Frame::data(it)))
        } else if !std::mem::replace(closed, true) {
            source.trailers.clone().map(|it| Ok(Frame::trailers(it)))
        } else {
            drop(source);
            let frame = ready!(progress.poll_piece(cx));
            source = progress.source.borrow_mut();
            source.passed |= frame.is_some();
            frame
        };
        drop(source);
        if frame.is_none() || this.is_end_stream() {
            this.progress.done.set(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.sent == [true; 2] && self.progress.source.borrow().incoming.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.progress.source.borrow();
        let kept = source.kept.as_ref().filter(|_| !self.sent[0]).map_or(0, |it| it.len() as u64);
        let coming = source.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        match coming.exact() {
            // With trailers to come its end must be said in the body.
            Some(coming) if source.trailers.is_none() => SizeHint::with_exact(kept + coming),
            _ => SizeHint::default(),
        }
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
    /// How it broke off, which is told once what came before has left.
    cut: Option<hyper::Error>,
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
        let body = UpstreamBody {
            first,
            incoming,
            lease,
            ended,
            cut: None,
            patience: Patience::new(patience),
        };
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
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut.into())));
        }
        if let Some(first) = self.first.take() {
            return self.pass(cx, Some(first));
        }
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending() {
            // Now the connection knows that more is wanted.
            self.lease.drive(cx);
            polled = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Pending => self.patience.poll(cx).map(|()| Some(Err(CutOff::Slow))),
            Poll::Ready(frame) => {
                self.patience.rest();
                // Trailers end it, too; hyper asks for nothing after them.
                self.ended = match &frame {
                    None => true,
                    Some(Ok(frame)) => frame.is_trailers() || self.incoming.is_end_stream(),
                    Some(Err(_)) => false,
                };
                self.pass(cx, frame)
            }
        }
    }

    fn pass(
        &mut self,
        cx: &Context<'_>,
        frame: Option<hyper::Result<Frame<Bytes>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match frame {
            None => Poll::Ready(None),
            Some(Ok(frame)) => Poll::Ready(Some(Ok(clean(frame)))),
            Some(Err(cut)) => {
                self.cut = Some(cut);
                cx.waker().wake_by_ref();
                Poll::Pending
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
