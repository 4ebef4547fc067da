//! The body of an answer on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::ahead::AheadBody;
use super::compress::CodedBody;
use super::headers::clean;
use super::patience::Patience;
use super::pool::Lease;
use super::rate::{Pace, PacedBody};
use super::wire::Torn;

/// Up to how many bytes an answer's body counts as small.
const SMALL: u64 = 16 << 10;
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
    /// Any of these, no faster than it may.
    Paced(Box<PacedBody>),
}

/// An answer's body as it comes from the upstream.
#[derive(Debug)]
pub(super) struct UpstreamBody {
    /// What came together with the head.
    first: Option<Result<Frame<Bytes>, CutOff>>,
    lease: Lease,
    ended: bool,
    /// How it broke off, which is told once what came before has left.
    cut: Option<CutOff>,
    patience: Patience,
}

/// Why an upstream's answer broke off after its head; the client sees it cut, never ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutOff {
    /// The connection broke or its framing did.
    #[error("the upstream's answer broke off: {0}")]
    Broken(hyper::Error),
    /// The same over HTTP/1.1.
    #[error("the upstream's answer broke off: {0}")]
    Torn(Torn),
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
    pub(super) fn upstream(mut lease: Lease, patience: Duration) -> Self {
        let mut first = None;
        if lease.size_hint().exact().is_some_and(|it| (1..=SMALL).contains(&it))
            && let Poll::Ready(frame) = lease.poll_frame(&mut Context::from_waker(Waker::noop()))
        {
            first = frame;
        }
        let ended = lease.is_end_stream();
        if ended && let Some(Ok(frame)) = first {
            lease.give_back();
            return Self::Own(frame.into_data().ok());
        }
        let body =
            UpstreamBody { first, lease, ended, cut: None, patience: Patience::new(patience) };
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

    /// Sends it no faster than it may, from now on.
    pub(super) fn paced(self, pace: Pace) -> Self {
        Self::Paced(Box::new(PacedBody::new(self, pace)))
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
            Self::Paced(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Upstream(body) => body.first.is_none() && body.lease.is_end_stream(),
            Self::Ahead(body) => body.is_end_stream(),
            Self::Coded(body) => body.is_end_stream(),
            Self::Paced(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |it| it.len() as u64)),
            Self::Ahead(body) => body.size_hint(),
            // Nobody knows how well it compresses.
            Self::Coded(_) => SizeHint::default(),
            Self::Paced(body) => body.size_hint(),
            Self::Upstream(body) => match &body.first {
                None => body.lease.size_hint(),
                // Asked before anything is sent: the length is still the whole one.
                Some(first) => {
                    let taken = first.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    let left = body.lease.size_hint().exact().unwrap_or_default();
                    SizeHint::with_exact(left + taken as u64)
                }
            },
        }
    }
}

impl UpstreamBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if let Some(first) = self.first.take() {
            return self.pass(cx, Some(first));
        }
        match self.lease.poll_frame(cx) {
            Poll::Pending => self.patience.poll(cx).map(|()| Some(Err(CutOff::Slow))),
            Poll::Ready(frame) => {
                self.patience.rest();
                // Trailers end it, too; nothing is asked for after them.
                self.ended = match &frame {
                    None => true,
                    Some(Ok(frame)) => frame.is_trailers() || self.lease.is_end_stream(),
                    Some(Err(_)) => false,
                };
                self.pass(cx, frame)
            }
        }
    }

    fn pass(
        &mut self,
        cx: &Context<'_>,
        frame: Option<Result<Frame<Bytes>, CutOff>>,
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

impl Drop for UpstreamBody {
    /// A connection whose answer was read to its end serves the next request.
    fn drop(&mut self) {
        if self.ended {
            self.lease.give_back();
        }
    }
}
