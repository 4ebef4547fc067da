//! Reads an answer ahead of its client (nginx's `proxy_buffering`), in memory only, so that a slow client
//! does not keep the endpoint's connection.
//!
//! A task on the worker reads the endpoint, the client's connection takes what it read; both run on one
//! thread. What is read goes on at once: nothing waits for a buffer to fill.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::AbortHandle;

use super::body::{CutOff, ReplyBody};

/// Pieces below this are copied, in bytes: each would keep the whole buffer that it was read into.
const SMALL: usize = 16 << 10;
/// What a piece costs beside its bytes, in bytes.
const OVERHEAD: usize = 128;

/// The client's end of an answer that is read ahead; dropped, reading ends.
#[derive(Debug)]
pub(super) struct AheadBody {
    queue: Rc<RefCell<Queue>>,
    task: AbortHandle,
}

/// What was read and not taken.
#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Frame<Bytes>>,
    /// What they take up, in bytes.
    held: usize,
    /// Nothing more is read while as much as this is held; one read may go beyond it.
    limit: usize,
    /// Bytes that the client has still to take, when the endpoint said how many.
    length: Option<u64>,
    /// How the answer ended, once it did.
    end: Option<Result<(), CutOff>>,
    /// Waits for something to take.
    client: Option<Waker>,
    /// Waits for room.
    reader: Option<Waker>,
}

impl AheadBody {
    /// Reads `body` on, up to `limit` bytes ahead and what one read brings beyond that.
    pub(super) fn new(body: ReplyBody, limit: usize) -> Self {
        let queue = Rc::new(RefCell::new(Queue {
            pieces: VecDeque::new(),
            held: 0,
            limit,
            length: body.size_hint().exact(),
            end: None,
            client: None,
            reader: None,
        }));
        let reader = Reader { queue: queue.clone() };
        let task = tokio::task::spawn_local(reader.read(body)).abort_handle();
        Self { queue, task }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        self.queue.borrow_mut().take(cx)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let queue = self.queue.borrow();
        queue.pieces.is_empty() && matches!(queue.end, Some(Ok(())))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.queue.borrow().length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Drop for AheadBody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The endpoint's end.
struct Reader {
    queue: Rc<RefCell<Queue>>,
}

impl Reader {
    async fn read(self, mut body: ReplyBody) {
        let end = loop {
            poll_fn(|cx| self.queue.borrow_mut().poll_room(cx)).await;
            match body.frame().await {
                Some(Ok(piece)) => self.queue.borrow_mut().put(piece),
                Some(Err(cut)) => break Err(cut),
                None => break Ok(()),
            }
            if body.is_end_stream() {
                break Ok(());
            }
        };
        // The connection is free from here on, however slow the client is.
        drop(body);
        self.queue.borrow_mut().close(end);
    }
}

impl Drop for Reader {
    /// Nobody waits for a reader that is gone.
    fn drop(&mut self) {
        let mut queue = self.queue.borrow_mut();
        if queue.end.is_none() {
            queue.close(Err(CutOff::Ours("nobody reads it any more")));
        }
    }
}

impl Queue {
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.held < self.limit {
            return Poll::Ready(());
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn put(&mut self, piece: Frame<Bytes>) {
        let piece = piece.map_data(|it| match it.len() {
            0..SMALL => Bytes::copy_from_slice(&it),
            _ => it,
        });
        self.held += size(&piece);
        self.pieces.push_back(piece);
        self.wake_client();
    }

    fn close(&mut self, end: Result<(), CutOff>) {
        self.end = Some(end);
        self.wake_client();
    }

    fn wake_client(&mut self) {
        if let Some(client) = self.client.take() {
            client.wake();
        }
    }

    fn take(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.held = self.held.saturating_sub(size(&piece));
            let bytes = piece.data_ref().map_or(0, Bytes::len) as u64;
            self.length = self.length.map(|it| it.saturating_sub(bytes));
            if let Some(reader) = self.reader.take_if(|_| self.held < self.limit) {
                reader.wake();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match &self.end {
            None => {
                self.client = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(_)) => {
                let again = Err(CutOff::Ours("it broke off before"));
                Poll::Ready(self.end.replace(again).and_then(Result::err).map(Err))
            }
        }
    }
}

/// What a piece takes up, in bytes.
fn size(piece: &Frame<Bytes>) -> usize {
    let text =
        |name: &http::HeaderName, value: &http::HeaderValue| name.as_str().len() + value.len();
    let trailers =
        piece.trailers_ref().into_iter().flatten().map(|(name, value)| text(name, value));
    OVERHEAD + piece.data_ref().map_or(0, Bytes::len) + trailers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(limit: usize) -> Queue {
        Queue {
            pieces: VecDeque::new(),
            held: 0,
            limit,
            length: None,
            end: None,
            client: None,
            reader: None,
        }
    }

    fn data(bytes: usize) -> Frame<Bytes> {
        Frame::data(vec![b'x'; bytes].into())
    }

    #[test]
    fn what_is_held_is_bounded_however_small_the_pieces_are() {
        let cx = Context::from_waker(Waker::noop());
        for piece in [0, 1, 1000, SMALL, 4 * SMALL] {
            let (mut queue, limit) = (queue(2 * SMALL), 2 * SMALL);
            while queue.poll_room(&cx).is_ready() {
                queue.put(data(piece));
            }
            assert!(queue.held < limit + piece + OVERHEAD, "{piece}: {}", queue.held);
            let pieces = queue.pieces.len();
            assert!(pieces <= limit / (piece + OVERHEAD) + 1, "{piece}: {pieces}");
            while queue.take(&cx).is_ready() {}
            assert_eq!(queue.held, 0, "{piece}");
        }
    }

    #[test]
    fn a_small_piece_keeps_no_large_buffer() {
        let whole = Bytes::from(vec![b'x'; 1 << 20]);
        let mut queue = queue(SMALL);
        queue.put(Frame::data(whole.slice(..10)));
        assert!(whole.is_unique());
    }

    #[test]
    fn an_answer_that_broke_off_never_ends() {
        let cx = Context::from_waker(Waker::noop());
        let mut queue = queue(SMALL);
        queue.put(data(1));
        queue.close(Err(CutOff::Slow));
        assert!(matches!(queue.take(&cx), Poll::Ready(Some(Ok(_)))));
        for _ in 0..2 {
            assert!(matches!(queue.take(&cx), Poll::Ready(Some(Err(_)))));
        }
    }
}
