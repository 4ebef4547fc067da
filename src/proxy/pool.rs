//! Connections to endpoints, kept by each worker for itself.
//!
//! One of HTTP/1.1 serves one request at a time and waits in the pool between two; one of HTTP/2 is shared
//! by as many as the endpoint allows.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::body::{Progress, RequestBody};
use super::connection::Local;
use super::reply::Failure;
use crate::live::transport::Transport;

/// Most idle connections to one endpoint, for each worker. ingress-nginx keeps 320 to all; with HTTP/2 one
/// client alone may have a hundred requests under way, and dropping what the next burst needs costs more
/// than keeping it for a minute.
const MOST_IDLE: usize = 1024;
/// How long an idle connection is kept (ingress-nginx's `upstream-keepalive-timeout`).
const LONGEST_IDLE: Duration = Duration::from_secs(60);
/// Most requests at once on one connection of HTTP/2; an endpoint may allow fewer.
const MOST_STREAMS: u32 = 100;
/// Most connections of HTTP/2 that one request waits for, each of which others may take or the endpoint close.
const MOST_OPENED: usize = 5;
/// How much of an answer an endpoint may send before its client takes it, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;

/// Connections by where they lead.
#[derive(Default)]
pub(super) struct Pool {
    shelves: RefCell<foldhash::HashMap<Destination, Rc<Shelf>>>,
    shared: RefCell<foldhash::HashMap<Destination, Vec<Rc<Shared>>>>,
    /// Connections of HTTP/2 that are being made, for all who wait for one.
    opening: RefCell<foldhash::HashMap<Destination, Opening>>,
}

/// The idle connections of HTTP/1.1 to one endpoint; the last is the one used last.
#[derive(Default)]
struct Shelf(RefCell<Vec<Idle>>);

type Opening = futures_util::future::Shared<LocalBoxFuture<'static, Result<(), Failure>>>;

/// An endpoint and what is spoken there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Destination {
    pub(super) address: SocketAddr,
    /// [`Transport::id`]
    pub(super) transport: u64,
}

struct Idle {
    line: Line,
    /// When it was first seen to be idle.
    since: Option<Instant>,
}

/// A connection of HTTP/1.1. Whoever uses it drives it: it has no task of its own to wake, and between two
/// requests nobody does.
pub(super) struct Line {
    sender: http1::SendRequest<RequestBody>,
    /// `None` once it has ended, or a task drives it.
    connection: Option<LocalBoxFuture<'static, ()>>,
    shelf: Rc<Shelf>,
}

impl Line {
    /// Hands a request over; it is sent, and answered, while the line is driven.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Goes on with whatever there is to write and to read.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.poll_unpin(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Has a task of its own drive it from now on: a request's body, or what was switched to, goes on
    /// whether or not anybody asks for more of the answer.
    pub(super) fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::task::spawn_local(connection);
        }
    }

    /// Whether another request can be sent, as far as one can see.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    fn give_back(self) {
        let shelf = self.shelf.clone();
        let mut idle = shelf.0.borrow_mut();
        if self.connection.is_some() && idle.len() < MOST_IDLE {
            idle.push(Idle { line: self, since: None });
        }
    }
}

/// A connection of HTTP/2.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    /// Requests under way.
    streams: Cell<usize>,
    /// How many the endpoint allows.
    most: Rc<Cell<usize>>,
    /// It disappointed somebody: nobody else begins on it.
    retired: Cell<bool>,
    used: Cell<Instant>,
}

/// A connection that one request may be sent on.
pub(super) enum Sender {
    H1(Line),
    H2(Stream),
}

/// A place on a shared connection.
pub(super) struct Stream {
    pub(super) sender: http2::SendRequest<RequestBody>,
    shared: Rc<Shared>,
}

impl Stream {
    fn on(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self { sender: shared.sender.clone(), shared: shared.clone() }
    }

    /// Has later requests take another connection.
    pub(super) fn retire(&self) {
        self.shared.retired.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        self.shared.used.set(Instant::now());
    }
}

impl Shared {
    fn is_usable(&self) -> bool {
        !self.retired.get() && !self.sender.is_closed()
    }

    fn has_room(&self) -> bool {
        self.is_usable() && self.streams.get() < self.most.get().min(MOST_STREAMS as usize)
    }
}

/// A connection that is answering; goes back to the pool when the answer was read to its end.
pub(super) struct Lease {
    sender: Option<Sender>,
    progress: Rc<Progress>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Pool {
    /// A connection that lives already: of HTTP/1.1 the idle one used last, so that the others can age and
    /// go; of HTTP/2 one with room.
    pub(super) fn take(&self, destination: Destination, h2: bool) -> Option<Sender> {
        if h2 {
            return self.room(destination).map(Sender::H2);
        }
        let shelves = self.shelves.borrow();
        let mut idle = shelves.get(&destination)?.0.borrow_mut();
        loop {
            let mut line = idle.pop()?.line;
            if line.is_ready() {
                return Some(Sender::H1(line));
            }
        }
    }

    fn room(&self, destination: Destination) -> Option<Stream> {
        let shared = self.shared.borrow();
        shared.get(&destination)?.iter().find(|it| it.has_room()).map(Stream::on)
    }

    /// Opens a connection, within `patience`.
    pub(super) async fn open(
        self: &Rc<Self>,
        destination: Destination,
        transport: &Transport,
        patience: Duration,
    ) -> Result<Sender, Failure> {
        if !transport.h2 {
            let opened = timeout(patience, connect_h1(destination.address, transport)).await;
            let (sender, connection) = settle(opened, destination.address)?;
            let shelf = self.shelves.borrow_mut().entry(destination).or_default().clone();
            return Ok(Sender::H1(Line { sender, connection: Some(connection), shelf }));
        }
        // Whoever comes while one is made waits for that one; it may turn out to be full or closed.
        for _ in 0..MOST_OPENED {
            let opening = self.opening.borrow().get(&destination).cloned();
            let opening = opening.unwrap_or_else(|| {
                let (pool, transport) = (self.clone(), transport.clone());
                let made = async move {
                    let opened =
                        timeout(patience, connect_h2(destination.address, &transport)).await;
                    pool.opening.borrow_mut().remove(&destination);
                    let shared = Rc::new(settle(opened, destination.address)?);
                    pool.shared.borrow_mut().entry(destination).or_default().push(shared);
                    Ok(())
                };
                let made = made.boxed_local().shared();
                self.opening.borrow_mut().insert(destination, made.clone());
                // Goes on when who asked for it leaves.
                tokio::task::spawn_local(made.clone());
                made
            });
            opening.await?;
            if let Some(stream) = self.room(destination) {
                return Ok(Sender::H2(stream));
            }
        }
        Err(Failure::Unreachable)
    }

    /// Drops connections that were idle for long or have closed.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        self.shelves.borrow_mut().retain(|_, shelf| {
            shelf.0.borrow_mut().retain_mut(|it| {
                let since = *it.since.get_or_insert(now);
                now - since < LONGEST_IDLE && it.line.is_ready()
            });
            Rc::strong_count(shelf) > 1 || !shelf.0.borrow().is_empty()
        });
        self.shared.borrow_mut().retain(|_, shared| {
            shared.retain(|it| {
                let fresh = it.streams.get() > 0 || it.used.get().elapsed() < LONGEST_IDLE;
                it.is_usable() && fresh
            });
            !shared.is_empty()
        });
    }
}

/// What came of opening a connection, told as a failure.
fn settle<T>(
    opened: Result<io::Result<T>, tokio::time::error::Elapsed>,
    address: SocketAddr,
) -> Result<T, Failure> {
    match opened {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Failure::Slow),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no connection to an endpoint");
            Err(Failure::Unreachable)
        }
        Err(_) => Err(Failure::Slow),
    }
}

async fn connect_h1(
    address: SocketAddr,
    transport: &Transport,
) -> io::Result<(http1::SendRequest<RequestBody>, LocalBoxFuture<'static, ()>)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = Heard { stream, deaf: false };
    match &transport.tls {
        None => handshake_h1(address, stream).await,
        Some(tls) => {
            let connector = TlsConnector::from(tls.config.clone());
            handshake_h1(address, connector.connect(tls.name.clone(), stream).await?).await
        }
    }
}

async fn handshake_h1<T>(
    address: SocketAddr,
    stream: T,
) -> io::Result<(http1::SendRequest<RequestBody>, LocalBoxFuture<'static, ()>)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let ended = async move {
        if let Err(error) = connection.with_upgrades().await {
            tell_end(address, &error);
        }
    };
    Ok((sender, ended.boxed_local()))
}

/// A connection to an endpoint whose answer counts even when the request cannot be written any more: an
/// endpoint that answers before it has read a body may close at once, and hyper would see the failed write
/// before the answer that came first. After a failed write nothing is written, and reading says how it ends;
/// it always does, because such a socket is dead.
struct Heard {
    stream: TcpStream,
    /// Whether the endpoint takes no more.
    deaf: bool,
}

impl Heard {
    fn unless_deaf<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = written {
            tracing::debug!(%error, "an endpoint takes no more of a request");
            self.deaf = true;
            return Poll::Pending;
        }
        written
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.unless_deaf(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.unless_deaf(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn connect_h2(address: SocketAddr, transport: &Transport) -> io::Result<Shared> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match &transport.tls {
        None => handshake_h2(address, stream).await,
        Some(tls) => {
            let connector = TlsConnector::from(tls.config.clone());
            handshake_h2(address, connector.connect(tls.name.clone(), stream).await?).await
        }
    }
}

async fn handshake_h2<T>(address: SocketAddr, stream: T) -> io::Result<Shared>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        // Room for all: clients that take nothing must not hold up the answers to others.
        .initial_connection_window_size(STREAM_WINDOW * MOST_STREAMS)
        .max_header_list_size(64 << 10)
        .max_send_buf_size(64 << 10)
        // A client that gives up many calls must not end the connection for the calls of others.
        .max_concurrent_reset_streams(1024)
        .max_local_error_reset_streams(100_000)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let most = Rc::new(Cell::new(MOST_STREAMS as usize));
    let allowed = most.clone();
    tokio::task::spawn_local(async move {
        let mut connection = pin!(connection);
        let ended = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            allowed.set(connection.current_max_send_streams().max(1));
            polled
        });
        if let Err(error) = ended.await {
            tell_end(address, &error);
        }
    });
    Ok(Shared {
        sender,
        streams: Cell::new(0),
        most,
        retired: Cell::new(false),
        used: Cell::new(Instant::now()),
    })
}

/// hyper tells what it was doing; why that failed, such as an alert of TLS, is below.
fn tell_end(address: SocketAddr, error: &hyper::Error) {
    let cause = error.source().map(tracing::field::display);
    tracing::debug!(%address, %error, cause, "connection to an endpoint ended");
}

impl Lease {
    pub(super) fn new(sender: Sender, progress: Rc<Progress>) -> Self {
        Self { sender: Some(sender), progress }
    }

    /// Goes on with the answer.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(Sender::H1(line)) = &mut self.sender {
            line.drive(cx);
        }
    }

    /// Lets the connection go on by itself.
    pub(super) fn detach(&mut self) {
        if let Some(Sender::H1(line)) = &mut self.sender {
            line.detach();
        }
    }

    /// Makes the connection available again, if its request was sent whole.
    pub(super) fn give_back(&mut self) {
        if let Some(Sender::H1(line)) = self.sender.take()
            && self.progress.done.get()
        {
            line.give_back();
        }
    }
}
