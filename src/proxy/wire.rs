//! A connection of HTTP/1.1 to an endpoint: one request at a time, and its answer.
//!
//! Whoever waits for the answer drives both; a connection has no task of its own, and nothing stands between
//! it and the socket but two buffers. Answers are read strictly (RFC 9112): endpoints may be hostile, too.

mod chunked;
mod message;
mod stream;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Version, request};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::upload::{Fault, RequestBody};
use message::{Ending, Framing};

pub(super) use message::AnswerHead;
pub(super) use stream::Stream;

/// Longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// Most interim answers to a request (RFC 9110 section 15.2).
const MOST_INTERIM: u8 = 32;
/// Pieces of a request's body below this are gathered, in bytes, up to so many.
const SMALL: usize = 4 << 10;
const GATHERED: usize = 16 << 10;
/// How long an endpoint may take for the rest of a request that it has answered.
const LAST: Duration = Duration::from_secs(60);
/// Up to how much is read at once at first, and when there is much, in bytes.
const FIRST_READ: usize = 4 << 10;
const MOST_READ: usize = 64 << 10;

/// Why there is no answer, or no more of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Torn {
    /// The endpoint saw nothing of the request.
    #[error("the connection was closed before the request")]
    NotSent,
    /// The connection ended before the answer did.
    #[error("the connection ended too early")]
    Lost,
    /// What came is no HTTP.
    #[error("{0}")]
    Invalid(&'static str),
    /// The request's body broke off.
    #[error("{0}")]
    Upload(#[from] Fault),
}

impl Torn {
    fn of(error: &io::Error) -> Self {
        tracing::debug!(%error, "a connection to an endpoint broke");
        match error.kind() {
            // What TLS says of bytes that came is about those; all else is about the connection.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::Invalid("TLS broke"),
            _ => Self::Lost,
        }
    }
}

/// A connection; requests follow each other on it.
pub(super) struct Wire {
    stream: Stream,
    /// What came and nobody took yet.
    input: BytesMut,
    /// How much of a head that is not whole was looked through for its end.
    seen: usize,
    /// Up to how much is read next.
    room: usize,
    /// What is to be written: this, then a piece of the body, then what follows that.
    output: BytesMut,
    piece: Bytes,
    tail: &'static [u8],
    /// The request's body, until all of it is on its way.
    upload: Option<Upload>,
    sent: Sent,
    /// How the request's body broke off.
    fault: Option<Fault>,
    method: Method,
    answer: Answer,
    /// How many interim answers came before it.
    interim: u8,
    /// Whether the connection carries another request after this answer.
    lasts: bool,
    /// Whether a task of its own sends the request's body.
    detached: bool,
    /// Who waits for the answer then.
    reader: Option<Waker>,
}

struct Upload {
    body: RequestBody,
    framing: Framing,
    announced: Vec<HeaderName>,
    /// Whether all of it was taken.
    ended: bool,
}

/// How much of a request is on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    Nothing,
    Part,
    /// All there will be of it.
    Whole,
    /// Nothing, and the endpoint takes nothing any more.
    Never,
}

/// Where the answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    Head,
    Body(Ending),
    Over,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            seen: 0,
            room: FIRST_READ,
            output: BytesMut::new(),
            piece: Bytes::new(),
            tail: b"",
            upload: None,
            sent: Sent::Whole,
            fault: None,
            method: Method::GET,
            answer: Answer::Over,
            interim: 0,
            lasts: true,
            detached: false,
            reader: None,
        }
    }

    /// Begins a request; nothing else may be under way. The head's fields are written as they are, and one
    /// that frames the body.
    pub(super) fn begin(&mut self, head: &request::Parts, body: RequestBody) {
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        message::write(head, framing, &mut self.output);
        self.upload = (framing != Framing::None).then(|| Upload {
            body,
            framing,
            announced: message::announced(&head.headers),
            ended: false,
        });
        self.method = head.method.clone();
        self.answer = Answer::Head;
        self.sent = Sent::Nothing;
        self.interim = 0;
        // RFC 9112 section 9.6: after a request that says `close` there is none.
        self.lasts &= message::lasts(&head.headers, Version::HTTP_11);
    }

    /// Goes on with the request and waits for its answer.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Torn>> {
        loop {
            self.go_on(cx)?;
            if let Some(end) = message::end(&self.input, self.seen) {
                let head = self.input.split_to(end).freeze();
                self.seen = 0;
                let Some((head, ending, lasts)) = message::read(&head, &self.method)? else {
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        return Poll::Ready(Err(Torn::Invalid("too many interim answers")));
                    }
                    continue;
                };
                self.lasts &= lasts;
                self.answer = match ending {
                    Ending::Length(0) => Answer::Over,
                    ending => Answer::Body(ending),
                };
                return Poll::Ready(Ok(head));
            }
            let begun =
                self.seen > 0 || self.input.is_empty() || message::is_beginning(&self.input);
            if !begun || self.input.len() >= LONGEST_HEAD {
                return Poll::Ready(Err(Torn::Invalid("no head of an answer")));
            }
            self.seen = self.input.len();
            match ready!(self.poll_more(cx)) {
                Ok(1..) => {}
                _ if matches!(self.sent, Sent::Nothing | Sent::Never) => {
                    return Poll::Ready(Err(Torn::NotSent));
                }
                Ok(0) => return Poll::Ready(Err(Torn::Lost)),
                Err(error) => return Poll::Ready(Err(Torn::of(&error))),
            }
        }
    }

    /// The next piece of the answer's body; goes on with the request meanwhile.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        loop {
            if let Err(torn) = self.go_on(cx) {
                return Poll::Ready(Some(Err(torn)));
            }
            match self.taken() {
                Ok(None) if self.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Err(torn) => return Poll::Ready(Some(Err(torn))),
            }
            let torn = match ready!(self.poll_more(cx)) {
                Ok(0) if self.answer == Answer::Body(Ending::Close) => {
                    self.answer = Answer::Over;
                    return Poll::Ready(None);
                }
                Ok(0) => Torn::Lost,
                Ok(_) => continue,
                Err(error) => Torn::of(&error),
            };
            self.lasts = false;
            return Poll::Ready(Some(Err(torn)));
        }
    }

    /// What there is of the answer's body.
    fn taken(&mut self) -> Result<Option<Frame<Bytes>>, Torn> {
        let frame = match &mut self.answer {
            Answer::Body(Ending::Length(left)) if !self.input.is_empty() => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= taken as u64;
                let frame = Frame::data(self.input.split_to(taken).freeze());
                if *left == 0 {
                    self.answer = Answer::Over;
                }
                Some(frame)
            }
            Answer::Body(Ending::Close) if !self.input.is_empty() => {
                Some(Frame::data(self.input.split().freeze()))
            }
            Answer::Body(Ending::Chunked(chunked)) => {
                let frame = chunked.next(&mut self.input).inspect_err(|_| self.lasts = false)?;
                if chunked.is_over(&mut self.input) {
                    self.answer = Answer::Over;
                }
                frame
            }
            _ => None,
        };
        Ok(frame)
    }

    /// Whether all of the answer was taken.
    pub(super) fn is_over(&self) -> bool {
        self.answer == Answer::Over
    }

    /// How much of the answer's body is to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.answer {
            Answer::Body(Ending::Length(left)) => Some(left),
            Answer::Over => Some(0),
            Answer::Head | Answer::Body(_) => None,
        }
    }

    /// Whether there is nothing left of the request to send.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.sent, Sent::Whole | Sent::Never)
    }

    /// Whether the exchange is over and another may follow on this connection.
    pub(super) fn is_done(&self) -> bool {
        self.is_over() && self.is_sent() && self.lasts && self.input.is_empty()
    }

    /// Whether it is done, and the endpoint has neither left nor said anything unasked since.
    pub(super) fn is_free(&mut self) -> bool {
        let mut byte = [0];
        let cx = &mut Context::from_waker(Waker::noop());
        self.is_done()
            && Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Frees what an idle connection does not need.
    pub(super) fn rest(&mut self) {
        (self.input, self.output, self.room) = (BytesMut::new(), BytesMut::new(), FIRST_READ);
        (self.detached, self.reader) = (false, None);
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Result<(), Torn> {
        if !self.is_sent() {
            if self.detached {
                self.reader = Some(cx.waker().clone());
            } else {
                let _pending = self.poll_upload(cx);
            }
        }
        self.fault.map_or(Ok(()), |it| Err(it.into()))
    }

    /// Sends what there is of the request; ready when that was all.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sent = ready!(self.poll_request(cx));
        // TLS may have sent some of what it says it could not.
        let never = self.sent == Sent::Nothing && matches!(self.stream, Stream::Plain(_));
        self.sent = Sent::Whole;
        match sent {
            Ok(()) => {}
            Err(Unsent::Deaf(error)) => {
                // What it says still counts: it may answer before it has read a body, and close at once.
                tracing::debug!(%error, "an endpoint takes no more of a request");
                self.lasts = false;
                if never {
                    self.sent = Sent::Never;
                }
            }
            Err(Unsent::Broken(fault)) => {
                (self.fault, self.lasts) = (Some(fault), false);
            }
        }
        self.upload = None;
        (self.output, self.piece, self.tail) = (BytesMut::new(), Bytes::new(), b"");
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(())
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            let waits = self.gather(cx)?;
            ready!(self.poll_write_out(cx))?;
            if waits {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                return Poll::Pending;
            }
            if self.upload.as_ref().is_none_or(|it| it.ended) {
                return Pin::new(&mut self.stream).poll_flush(cx).map_err(Unsent::Deaf);
            }
        }
    }

    /// Takes of the request's body what there is, until it is enough for a write; whether its client has to
    /// send more first.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        while self.piece.is_empty()
            && self.output.len() < GATHERED
            && let Some(upload) = self.upload.as_mut().filter(|it| !it.ended)
        {
            let Poll::Ready(frame) = Pin::new(&mut upload.body).poll_frame(cx) else {
                return Ok(true);
            };
            let trailers = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => {
                    self.take(data)?;
                    continue;
                }
                Some(Err(trailers)) => trailers.into_trailers().unwrap_or_default(),
                None => HeaderMap::new(),
            };
            match upload.framing {
                Framing::Chunked => {
                    message::write_end(&trailers, &upload.announced, &mut self.output);
                }
                Framing::Length(1..) => return Err(Fault::Broken),
                Framing::Length(0) | Framing::None => {}
            }
            upload.ended = true;
        }
        Ok(false)
    }

    /// Takes a piece of the request's body: a small one into what is written at once, a large one as it is.
    fn take(&mut self, data: Bytes) -> Result<(), Fault> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let mut tail: &'static [u8] = b"";
        match &mut upload.framing {
            Framing::Chunked => {
                message::write_chunk_size(data.len(), &mut self.output);
                tail = b"\r\n";
            }
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Fault::Broken)?;
            }
            Framing::None => return Err(Fault::Broken),
        }
        if data.len() < SMALL {
            self.output.extend_from_slice(&data);
            self.output.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stream = Pin::new(&mut self.stream);
            let written = match (&*self.output, &*self.piece) {
                ([], []) if self.tail.is_empty() => return Poll::Ready(Ok(())),
                (output, []) if self.tail.is_empty() => stream.poll_write(cx, output),
                (output, piece) => {
                    let parts = [output, piece, self.tail].map(IoSlice::new);
                    stream.poll_write_vectored(cx, &parts)
                }
            };
            let mut written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent = Sent::Part;
            if let Some(upload) = &self.upload {
                upload.body.moved();
            }
            let mut take = |length: usize| {
                let taken = written.min(length);
                written -= taken;
                taken
            };
            self.output.advance(take(self.output.len()));
            self.piece.advance(take(self.piece.len()));
            self.tail = &self.tail[take(self.tail.len())..];
        }
    }

    /// Reads what there is; how many bytes.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = match self.answer {
            // What follows nobody asked for.
            Answer::Body(Ending::Length(left)) => {
                usize::try_from(left).unwrap_or(MOST_READ).clamp(1, MOST_READ)
            }
            _ => self.room,
        };
        // Pieces that were taken may still hold the buffer: what is left of it is used up first.
        if self.input.capacity() - self.input.len() < room.min(FIRST_READ) {
            self.input.reserve(room);
        }
        let space = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        if read == space {
            self.room = (self.room * 4).min(MOST_READ);
        }
        Poll::Ready(Ok(read))
    }
}

/// Why the rest of a request is not sent.
enum Unsent {
    Deaf(io::Error),
    Broken(Fault),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Self {
        Self::Deaf(error)
    }
}

impl From<Fault> for Unsent {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

/// A connection that became something else, both ways.
pub(super) struct Switched(Rc<RefCell<Wire>>);

impl Switched {
    /// After an answer with status 101.
    pub(super) fn new(wire: Rc<RefCell<Wire>>) -> Self {
        let mut this = wire.borrow_mut();
        // What is idle holds no buffers.
        (this.upload, this.output) = (None, BytesMut::new());
        if this.input.is_empty() {
            this.input = BytesMut::new();
        }
        drop(this);
        Self(wire)
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.input.is_empty() {
            return Pin::new(&mut wire.stream).poll_read(cx, buf);
        }
        // What came together with the answer.
        let taken = wire.input.len().min(buf.remaining());
        buf.put_slice(&wire.input.split_to(taken));
        if wire.input.is_empty() {
            wire.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}

/// Sends the rest of a request that was answered already, and then lets the connection go.
pub(super) fn finish(wire: Rc<RefCell<Wire>>) {
    let sent = poll_fn(move |cx| wire.borrow_mut().poll_upload(cx));
    tokio::task::spawn_local(timeout(LAST, sent));
}

/// Sends the rest of a request's body beside whoever reads the answer.
pub(super) fn detach(wire: &Rc<RefCell<Wire>>) -> AbortHandle {
    wire.borrow_mut().detached = true;
    let wire = wire.clone();
    let sent = poll_fn(move |cx| wire.borrow_mut().poll_upload(cx));
    tokio::task::spawn_local(sent).abort_handle()
}
