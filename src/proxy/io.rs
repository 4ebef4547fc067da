//! The socket under a client's connection: notes progress, and lingers when it closes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::proxy_protocol::{self, Header};
use crate::live::limit::{OfAddress, Open};

/// How long a closing connection is read on, so that the answer to a request whose body nobody read
/// reaches the client before a reset does: in all, and between two reads (nginx's `lingering_time` and
/// `lingering_timeout`).
const LINGER: Duration = Duration::from_secs(30);
const LINGER_QUIET: Duration = Duration::from_secs(5);
/// How much is read then, in bytes; of HTTP/2, whose windows bound what is on its way, less.
const LINGER_BYTES: u64 = 256 << 20;

/// What a socket did lately. Written by the socket, read by the task that watches the connection;
/// both run on one thread, the atomics only make it `Send`.
#[derive(Debug)]
pub(super) struct Meter {
    base: Instant,
    /// When the first byte came that no request has accounted for; 0 for none. In nanoseconds.
    head_since: AtomicU64,
    /// Since when a write waits for the client; 0 for not. In nanoseconds.
    stalled_since: AtomicU64,
    /// Whether a first byte would begin a new request.
    between: AtomicBool,
    /// Whether to read on for a while when closing.
    linger: AtomicBool,
    /// How many bytes are read then.
    linger_bytes: AtomicU64,
    /// Bytes read that nothing has accounted for: see [`Meter::pay`].
    unpaid: AtomicU64,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            head_since: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            between: AtomicBool::new(true),
            linger: AtomicBool::new(false),
            linger_bytes: AtomicU64::new(LINGER_BYTES),
            unpaid: AtomicU64::new(0),
        }
    }

    /// A request's head is complete.
    pub(super) fn begin_request(&self) {
        self.between.store(false, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// No request is under way any more.
    pub(super) fn end_request(&self) {
        self.between.store(true, Ordering::Relaxed);
    }

    /// A request was answered without reading its body.
    pub(super) fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Reads no more than `bytes` on when closing.
    pub(super) fn limit_linger(&self, bytes: u64) {
        self.linger_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Accounts for `bytes` of those that were read: something came of them, or time has passed.
    pub(super) fn pay(&self, bytes: u64) {
        let unpaid = self.unpaid.load(Ordering::Relaxed);
        self.unpaid.store(unpaid.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// How many bytes were read that nothing has accounted for.
    pub(super) fn unpaid(&self) -> u64 {
        self.unpaid.load(Ordering::Relaxed)
    }

    pub(super) fn head_since(&self) -> Option<Instant> {
        self.instant(&self.head_since)
    }

    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.instant(&self.stalled_since)
    }

    fn instant(&self, at: &AtomicU64) -> Option<Instant> {
        let nanos = at.load(Ordering::Relaxed);
        (nanos > 0).then(|| self.base + Duration::from_nanos(nanos))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn was_read(&self, bytes: usize) {
        let unpaid = self.unpaid.load(Ordering::Relaxed);
        self.unpaid.store(unpaid.saturating_add(bytes as u64), Ordering::Relaxed);
        if bytes > 0
            && self.between.load(Ordering::Relaxed)
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn was_written<T>(&self, result: &Poll<T>) {
        if result.is_ready() {
            self.stalled_since.store(0, Ordering::Relaxed);
        } else if self.stalled_since.load(Ordering::Relaxed) == 0 {
            self.stalled_since.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// A client's socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    meter: Arc<Meter>,
    closing: Closing,
    /// Bytes that were looked at before the protocol was known, to be read again.
    seen: Vec<u8>,
    /// What was read since it was to be kept.
    kept: Option<Vec<u8>>,
    /// What the connection counts as until it is closed, which for a WebSocket is after HTTP.
    _open: Open,
    of_address: Option<OfAddress>,
}

#[derive(Debug)]
enum Closing {
    Open,
    Lingering { left: u64, until: Instant, quiet: Pin<Box<Sleep>> },
    Closed,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, meter: Arc<Meter>, open: Open) -> Self {
        let (closing, seen) = (Closing::Open, Vec::new());
        Self { stream, meter, closing, seen, kept: None, _open: open, of_address: None }
    }

    /// Counts the connection with its client's address.
    pub(super) fn count(&mut self, of_address: OfAddress) {
        self.of_address = Some(of_address);
    }

    /// Keeps what is read from now on, until it is given back or forgotten.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// Has what was kept read again.
    pub(super) fn give_back(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.append(&mut self.seen);
            self.seen = kept;
        }
    }

    /// Keeps nothing any more.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Whether the next bytes are `expected`, which are looked at without being taken. Waits for no more of
    /// them than it takes to tell.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        use tokio::io::AsyncReadExt;
        while self.seen.len() < expected.len() && expected.starts_with(&self.seen) {
            let mut buffer = [0; 64];
            let room = expected.len() - self.seen.len();
            let read = self.stream.read(&mut buffer[..room.min(64)]).await?;
            if read == 0 {
                break;
            }
            self.meter.was_read(read);
            self.seen.extend_from_slice(&buffer[..read]);
        }
        Ok(self.seen.starts_with(expected))
    }

    /// Takes the PROXY header that the connection begins with; `None` when it ended without a byte. What is
    /// no header is an error of the kind `InvalidData`.
    pub(super) async fn proxy_header(&mut self) -> io::Result<Option<Header>> {
        use tokio::io::AsyncReadExt;
        loop {
            match proxy_protocol::read(&self.seen) {
                Ok(Some(header)) => {
                    self.seen.drain(..header.length);
                    self.meter.was_read(self.seen.len());
                    return Ok(Some(header));
                }
                Ok(None) => {}
                Err(broken) => return Err(io::Error::new(io::ErrorKind::InvalidData, broken)),
            }
            if self.stream.read_buf(&mut self.seen).await? == 0 {
                return if self.seen.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

/// What tells when there is something to read, without reading it.
pub(super) trait Readable {
    /// Ready when a read would not wait: there are bytes, or there will never be any.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Readable for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.seen.is_empty() {
            return Poll::Ready(());
        }
        self.stream.poll_read_ready(cx).map(|_| ())
    }
}

impl Readable for Box<TlsStream<Socket>> {
    /// Of a stream whose last read waited: nothing of TLS is unread then.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_readable(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let Self { seen, kept, .. } = &mut *self;
            let count = seen.len().min(buf.remaining());
            buf.put_slice(&seen[..count]);
            let taken = seen.drain(..count);
            if let Some(kept) = kept {
                kept.extend(taken);
            } else {
                drop(taken);
            }
            if seen.is_empty() {
                *seen = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(read);
        }
        self.meter.was_read(read.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.meter.was_written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let result = match bufs {
            // What TLS writes mostly: send(2) costs less than writev(2).
            [only] => stream.poll_write(cx, only),
            _ => stream.poll_write_vectored(cx, bufs),
        };
        self.meter.was_written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Self { stream, meter, closing, .. } = &mut *self;
            match closing {
                Closing::Open => {
                    ready!(Pin::new(stream).poll_shutdown(cx))?;
                    // Bytes of a head that was never complete may be on their way still, too.
                    let unread = meter.head_since().is_some();
                    *closing = if unread || meter.linger.load(Ordering::Relaxed) {
                        let quiet = Box::pin(tokio::time::sleep(LINGER_QUIET));
                        Closing::Lingering {
                            left: meter.linger_bytes.load(Ordering::Relaxed),
                            until: Instant::now() + LINGER,
                            quiet,
                        }
                    } else {
                        Closing::Closed
                    };
                }
                Closing::Lingering { left, until, quiet } => {
                    let mut scrap = [0; 16 << 10];
                    let mut buffer = ReadBuf::new(&mut scrap);
                    match Pin::new(stream).poll_read(cx, &mut buffer) {
                        Poll::Ready(Ok(()))
                            if !buffer.filled().is_empty()
                                && *left > 0
                                && Instant::now() < *until =>
                        {
                            *left = left.saturating_sub(buffer.filled().len() as u64);
                            quiet.as_mut().reset((Instant::now() + LINGER_QUIET).min(*until));
                        }
                        Poll::Ready(_) => *closing = Closing::Closed,
                        Poll::Pending => {
                            ready!(quiet.as_mut().poll(cx));
                            *closing = Closing::Closed;
                        }
                    }
                }
                Closing::Closed => return Poll::Ready(Ok(())),
            }
        }
    }
}
