//! Makes connections to endpoints.

use std::cell::Cell;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::reply::Failure;
use super::upload::RequestBody;
use super::wire::Stream;
use crate::live::transport::Transport;

/// Most requests at once on one connection of HTTP/2; an endpoint may allow fewer.
pub(super) const MOST_STREAMS: u32 = 100;
/// How much of an answer an endpoint may send before its client takes it, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// After how long without a sign of life an endpoint's machine is asked for one.
const SILENT: Duration = Duration::from_secs(15);

/// What HTTP/1.1 can be spoken over.
pub(super) async fn h1(address: SocketAddr, transport: &Transport) -> Result<Stream, Failure> {
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

async fn connect_h1(address: SocketAddr, transport: &Transport) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = &transport.tls else { return Ok(Stream::Plain(stream)) };
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.name.clone(), stream).await?;
    Ok(Stream::Tls(Box::new(stream)))
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
