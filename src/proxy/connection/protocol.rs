//! HTTP/1 and HTTP/2 on a connection, each to its end.

use std::convert::Infallible;
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
use crate::model::client_tls::Connections;
use crate::proxy;
use crate::proxy::observe::{ObserveLayer, ObservedBody, RequestIdLayer};

/// How long an HTTP/1.1 connection may wait for its next request (nginx's `keepalive_timeout`).
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// How long an HTTP/2 connection may be without a stream (nginx's `http2_idle_timeout`).
const IDLE_H2: Duration = Duration::from_secs(180);

/// Serves HTTP/1.
pub(super) async fn h1<T>(link: &Rc<Link>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connections { head, keep_alive, .. } = link.worker.settings();
    let last = keep_alive.is_some_and(|it| it.is_zero());
    let connection = http1::Builder::new()
        .keep_alive(!last)
        .timer(TokioTimer::new())
        // Our own deadlines tell an idle connection from a slow head.
        .header_read_timeout(None)
        .max_header_size(32 << 10)
        .max_buf_size(64 << 10)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), stack(link))
        .with_upgrades();
    // The first request is waited for in any case.
    let idle = keep_alive.filter(|_| !last).unwrap_or(IDLE);
    let watch = Watch::new(link, Some(head), idle);
    drive(link, watch, pin!(connection), http1::UpgradeableConnection::graceful_shutdown).await;
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
        .max_header_list_size(32 << 10)
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
    let watch = Watch::new(link, None, keep_alive.unwrap_or(IDLE_H2));
    drive(link, watch, pin!(connection), http2::Connection::graceful_shutdown).await;
}

/// Drives a connection to its end, or to the end that its watch decides on.
async fn drive<C>(
    link: &Link,
    mut watch: Watch<'_>,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                if let Err(error) = result {
                    tracing::debug!(client = %link.peer.address, %error, "connection ended");
                }
                return Poll::Ready(());
            }
            match watch.poll(cx) {
                Verdict::Go => return Poll::Pending,
                Verdict::Finish => finish(connection.as_mut()),
                Verdict::Shed(reason) => {
                    // Leaves a GOAWAY in the socket, which fits or is not worth waiting for.
                    finish(connection.as_mut());
                    let _ = connection.as_mut().poll(cx);
                    link.worker.dropped(reason);
                    return Poll::Ready(());
                }
                Verdict::Cut(reason) => {
                    link.worker.dropped(reason);
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
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
