//! HTTP/1 and HTTP/2 on a connection, each to its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Layer, Service};

use super::budget::MOST_UNPAID;
use super::link::Link;
use super::watch::{Verdict, Watch};
use crate::model::connections::{Connections, Heads};
use crate::proxy;
use crate::proxy::canonical::MOST_FIELDS;
use crate::proxy::io::Readable;
use crate::proxy::observe::{ObserveLayer, ObservedBody, RequestIdLayer};

/// How long an HTTP/1.1 connection may wait for its next request (nginx's `keepalive_timeout`).
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// How long an HTTP/2 connection may be without a stream (nginx's `http2_idle_timeout`).
const IDLE_H2: Duration = Duration::from_secs(180);
/// A head of HTTP/1 that is longer than allowed by no more bytes than these gets nginx's answer, which tells
/// what is too long; a longer one gets hyper's 431.
const BEYOND: usize = 32 << 10;

/// What h2 lets through, so that our own look at a head decides as it does for HTTP/1. h2 counts 32 bytes more
/// for each field (RFC 9113 section 6.5.2), and ends the connection for four times as much.
fn list_size(heads: Heads) -> u32 {
    /// Of the pseudo-fields and all others.
    const MORE: usize = 32 * (5 + MOST_FIELDS);
    const LEAST: u32 = 16 << 10;
    let more = u32::try_from(MORE).unwrap_or(u32::MAX);
    heads.whole().saturating_add(more).max(LEAST)
}

/// Serves HTTP/1. A connection that waits for its next request for long holds no more than its socket and
/// TLS: what hyper needs for a request is made anew when one comes.
pub(super) async fn h1<T>(link: &Rc<Link>, mut stream: T)
where
    T: AsyncRead + AsyncWrite + Readable + Unpin + Send + 'static,
{
    let Connections { head, keep_alive, .. } = link.worker.settings();
    let last = keep_alive.is_some_and(|it| it.is_zero());
    // The first request is waited for in any case.
    let idle = keep_alive.filter(|_| !last).unwrap_or(IDLE);
    let buffer = link.heads.whole() as usize + BEYOND;
    let mut watch = Watch::new(link, Some(head), idle);
    let mut first = None;
    loop {
        let mut connection = Box::new(
            http1::Builder::new()
                .keep_alive(!last)
                .timer(TokioTimer::new())
                // Our own deadlines tell an idle connection from a slow head.
                .header_read_timeout(None)
                .max_header_size(buffer)
                .max_buf_size(buffer)
                .half_close(false)
                .serve_connection(TokioIo::new(stream), stack(link))
                .with_upgrades(),
        );
        let finish = http1::UpgradeableConnection::graceful_shutdown;
        let end = drive(link, &mut watch, first.take(), Pin::new(&mut *connection), finish).await;
        let (End::Rest, Some(parts)) = (end, connection.into_parts()) else { return };
        stream = let_go(parts);
        let resting = link.worker.rest();
        first = poll_fn(|cx| match watch.poll(cx) {
            Verdict::Go => stream.poll_readable(cx).map(|()| None),
            // Whatever it is, the connection has to hear of it.
            verdict => Poll::Ready(Some(verdict)),
        })
        .await;
        drop(resting);
        watch.rouse();
    }
}

/// Keeps the stream of a connection, and nothing else: not the buffer that its requests were read into.
fn let_go<T, S>(parts: http1::Parts<TokioIo<T>, S>) -> T {
    parts.io.into_inner()
}

/// Serves HTTP/2.
pub(super) async fn h2<T>(link: &Rc<Link>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Connections { streams, keep_alive, .. } = link.worker.settings();
    let connection = http2::Builder::new(Streams(link.clone()))
        .timer(TokioTimer::new())
        // RFC 8441: WebSockets.
        .enable_connect_protocol()
        .max_concurrent_streams(streams)
        .max_header_list_size(list_size(link.heads))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(200)
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), stack(link));
    link.h2.set(true);
    link.meter.limit_linger(MOST_UNPAID);
    let mut watch = Watch::new(link, None, keep_alive.unwrap_or(IDLE_H2));
    let finish = http2::Connection::graceful_shutdown;
    drive(link, &mut watch, None, pin!(connection), finish).await;
}

/// How it ended to drive a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// It is over.
    Over,
    /// It waits for the next request.
    Rest,
}

/// Drives a connection to its end, or to the one that its watch decides on; what that has said already comes
/// `first`.
async fn drive<C>(
    link: &Link,
    watch: &mut Watch<'_>,
    mut first: Option<Verdict>,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                if let Err(error) = result {
                    tracing::debug!(client = %link.peer.address, %error, "connection ended");
                }
                return Poll::Ready(End::Over);
            }
            match first.take().unwrap_or_else(|| watch.poll(cx)) {
                Verdict::Go => return Poll::Pending,
                Verdict::Rest => return Poll::Ready(End::Rest),
                Verdict::Finish => finish(connection.as_mut()),
                Verdict::Shed(reason) => {
                    // Leaves a GOAWAY in the socket, which fits or is not worth waiting for.
                    finish(connection.as_mut());
                    let _ = connection.as_mut().poll(cx);
                    link.worker.dropped(reason);
                    return Poll::Ready(End::Over);
                }
                Verdict::Cut(reason) => {
                    link.worker.dropped(reason);
                    return Poll::Ready(End::Over);
                }
            }
        }
    })
    .await
}

/// The layers that are the same for every request around the walk that is not.
fn stack(
    link: &Rc<Link>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<ObservedBody>,
    Error = Infallible,
    Future: 'static,
> + use<> {
    let walk = {
        let link = link.clone();
        tower::service_fn(move |traced| {
            let link = link.clone();
            async move { Ok(proxy::answer(&link, traced).await) }
        })
    };
    let observed = ObserveLayer { link: link.clone() }.layer(walk);
    Stack(RequestIdLayer { link: link.clone() }.layer(observed))
}

/// A tower service that is always ready, as hyper wants it.
struct Stack<S>(S);

impl<S> hyper::service::Service<Request<Incoming>> for Stack<S>
where
    S: Service<Request<Incoming>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.0.clone().call(request)
    }
}

/// Runs the streams of a client's HTTP/2 connection, each of which can be ended alone.
#[derive(Clone)]
struct Streams(Rc<Link>);

impl<F: Future<Output: 'static> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        self.0.run(tokio::task::spawn_local(future).abort_handle());
    }
}
