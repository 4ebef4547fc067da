//! Makes connections to endpoints.

use std::cell::Cell;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::reply::Failure;
use super::upload::RequestBody;
use crate::live::transport::Transport;

/// Most requests at once on one connection of HTTP/2; an endpoint may allow fewer.
pub(super) const MOST_STREAMS: u32 = 100;
/// How much of an answer an endpoint may send before its client takes it, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// After how long without a sign of life an endpoint's machine is asked for one.
const SILENT: Duration = Duration::from_secs(15);

/// A connection of HTTP/1.1: what takes requests, and what has to be driven for them to be answered.
pub(super) async fn h1(
    address: SocketAddr,
    transport: &Transport,
) -> Result<(http1::SendRequest<RequestBody>, LocalBoxFuture<'static, ()>), Failure> {
    connect_h1(address, transport).await.map_err(|error| failure(address, &error))
}

/// A connection of HTTP/2, which a task drives: what takes requests, and how many it takes at a time as far as
/// the endpoint has said.
pub(super) async fn h2(
    address: SocketAddr,
    transport: &Transport,
) -> Result<(http2::SendRequest<RequestBody>, Rc<Cell<usize>>), Failure> {
    connect_h2(address, transport).await.map_err(|error| failure(address, &error))
}

/// Whose fault it is that there is no connection.
fn failure(address: SocketAddr, error: &io::Error) -> Failure {
    /// Linux's numbers: too many open files of the process and of the machine, no local port, no memory.
    const SHORT: [i32; 4] = [24, 23, 99, 105];
    tracing::debug!(%address, %error, "no connection to an endpoint");
    match error.raw_os_error() {
        Some(number) if SHORT.contains(&number) => Failure::Overloaded,
        _ if error.kind() == io::ErrorKind::TimedOut => Failure::Slow,
        _ => Failure::Unreachable,
    }
}

async fn connect_h1(
    address: SocketAddr,
    transport: &Transport,
) -> io::Result<(http1::SendRequest<RequestBody>, LocalBoxFuture<'static, ()>)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = Heard { stream, deaf: false, ended: false };
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
    /// Whether there is nothing more to hear.
    ended: bool,
}

impl Heard {
    fn unless_deaf<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = written {
            tracing::debug!(%error, "an endpoint takes no more of a request");
            self.deaf = true;
            return self.nothing();
        }
        written
    }

    fn nothing<T>(&self) -> Poll<io::Result<T>> {
        if self.ended { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) } else { Poll::Pending }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.ended = read.is_err() || buf.filled().len() == before;
        Poll::Ready(read)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return self.nothing();
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
            return self.nothing();
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

async fn connect_h2(
    address: SocketAddr,
    transport: &Transport,
) -> io::Result<(http2::SendRequest<RequestBody>, Rc<Cell<usize>>)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // All calls wait for this one connection: a node that vanished is to be noticed. PING frames would do,
    // but servers of gRPC end connections that send them more often than every five minutes.
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENT).with_interval(SILENT / 3))?;
    socket.set_tcp_user_timeout(Some(SILENT * 2))?;
    match &transport.tls {
        None => handshake_h2(address, stream).await,
        Some(tls) => {
            let connector = TlsConnector::from(tls.config.clone());
            handshake_h2(address, connector.connect(tls.name.clone(), stream).await?).await
        }
    }
}

async fn handshake_h2<T>(
    address: SocketAddr,
    stream: T,
) -> io::Result<(http2::SendRequest<RequestBody>, Rc<Cell<usize>>)>
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
    Ok((sender, most))
}

/// hyper tells what it was doing; why that failed, such as an alert of TLS, is below.
fn tell_end(address: SocketAddr, error: &hyper::Error) {
    let cause = error.source().map(tracing::field::display);
    tracing::debug!(%address, %error, cause, "connection to an endpoint ended");
}

/// Runs what belongs to an HTTP/2 connection on the worker that has it.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
