//! A request's body on its way to an endpoint: counted, timed, kept while it is small and may be sent again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::headers::clean;
use super::io::Meter;
use super::mirror::Waiting;
use super::patience::Patience;

/// How long a client may keep us waiting for its request's body: between two reads (nginx's
/// `client_body_timeout`), and, until the answer begins, beyond what its bytes have earned.
#[cfg(test)]
const CLIENT_BODY: Duration = Duration::from_secs(60);
/// How much of that each byte earns back: below 10 bytes a second patience runs out, after a minute at the
/// earliest. The slowest of honest links are a hundred times faster; who sends a byte now and then only
/// holds an endpoint's connection.
const EARNED: Duration = Duration::from_millis(100);
/// What a piece of a body accounts for beside its own length: its frame, padding (RFC 9113 section 6.1),
/// and TLS's record.
pub(super) const PIECE: u64 = 512;

/// A request's body and how far it has got; shared between [`RequestBody`], which whoever sends it drives,
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
    /// A copy that waits for it.
    waiting: Option<Box<Waiting>>,
}

impl Source {
    /// All has come.
    fn end(&mut self) {
        self.incoming = None;
        if let Some(waiting) = self.waiting.take() {
            waiting.send();
        }
    }
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
    /// Nothing came for too long, or too little.
    #[error("the request's body came too slowly")]
    Slow,
}

impl Progress {
    /// Of a request with the body `incoming`, of which `limit` bytes are taken at most.
    pub(super) fn new(
        now: Instant,
        incoming: Incoming,
        limit: Option<u64>,
        patience: Duration,
        meter: &Arc<Meter>,
    ) -> Rc<Self> {
        let incoming = Some(incoming).filter(|it| !it.is_end_stream());
        let done = Cell::new(incoming.is_none());
        let patience = Patience::new(patience);
        let meter = meter.clone();
        let (kept, trailers, passed, waiting) = (None, None, false, None);
        let source = Source { incoming, meter, kept, trailers, passed, limit, patience, waiting };
        Rc::new(Self::of(now, done, source))
    }

    /// Of a request of ours, whose body is there whole, or which has none.
    pub(super) fn held(now: Instant, kept: Option<Bytes>, meter: &Arc<Meter>) -> Rc<Self> {
        let done = Cell::new(kept.is_none());
        // Nobody waits for what is there.
        let patience = Patience::new(Duration::from_secs(60));
        let meter = meter.clone();
        let (incoming, trailers, passed, limit, waiting) = (None, None, false, None, None);
        let source = Source { incoming, meter, kept, trailers, passed, limit, patience, waiting };
        Rc::new(Self::of(now, done, source))
    }

    fn of(now: Instant, done: Cell<bool>, source: Source) -> Self {
        Self {
            moved: Cell::new(now),
            done,
            waiting: Cell::new(false),
            fault: Cell::new(None),
            received: Cell::new(0),
            answered: Cell::new(false),
            turn: Cell::new(0),
            source: RefCell::new(source),
        }
    }

    /// Has a copy wait for it.
    pub(super) fn copy_for(&self, waiting: Box<Waiting>) {
        self.source.borrow_mut().waiting = Some(waiting);
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
                source.end();
                return Poll::Ready(None);
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(self.fail(Fault::Broken)))),
            Some(Ok(frame)) => frame,
        };
        let ends = incoming.is_end_stream();
        let frame = clean(frame);
        if let Some(data) = frame.data_ref() {
            let received = self.received.get() + data.len() as u64;
            self.received.set(received);
            if source.limit.is_some_and(|limit| received > limit) {
                return Poll::Ready(Some(Err(self.fail(Fault::Large))));
            }
            if source.waiting.as_mut().is_some_and(|it| !it.take(data)) {
                source.waiting = None;
            }
        }
        if ends {
            source.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.fault.set(Some(fault));
        fault
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

    /// The upstream took something.
    pub(super) fn moved(&self) {
        self.progress.moved.set(Instant::now());
    }

    /// Gives back what it was made from, for another try.
    pub(super) fn into_progress(self) -> Rc<Progress> {
        self.progress
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
