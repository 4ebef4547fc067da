//! The life of a client's connection: handshake, requests, deadlines, end.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tower::{Layer, Service};

use super::headers::Vouched;
use super::io::{Meter, Socket};
use super::observe::{ObserveLayer, RequestIdLayer};
use super::peer::Peer;
use super::proxy_protocol::Header;
use super::tls::{Protocol, Tls};
use super::worker::Worker;

/// Longest handshake, from the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest head of an HTTP/1.1 request, from its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 connection may wait for its next request (nginx's `keepalive_timeout`).
const IDLE: Duration = Duration::from_secs(75);
/// How long an HTTP/2 connection may be without a stream (nginx's `http2_idle_timeout`).
const IDLE_H2: Duration = Duration::from_secs(180);
/// How long a write may wait for the client.
const STALLED: Duration = Duration::from_secs(60);
/// How many answers of one HTTP/2 connection may be given up by the client before it is asked to make a
/// new one; twice as many are an attack (CVE-2023-44487, paced).
const MOST_GIVEN_UP: u32 = 100;
/// How long a connection without any request yet may wait for its first while we drain.
const FIRST_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// What the requests of one connection share.
pub(super) struct Link {
    pub(super) worker: Rc<Worker>,
    /// The connection's other end, by its PROXY header where it has to have one.
    pub(super) peer: Peer,
    pub(super) vouched: Vouched,
    meter: Arc<Meter>,
    /// Requests under way.
    under_way: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Whether there was any request yet.
    used: Cell<bool>,
    given_up: Cell<u32>,
    /// Answers under way whose last piece is in the client's hands: nobody asks us for the next.
    handed: Cell<u32>,
    /// Whether a piece of any answer was handed over since somebody looked.
    moved: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    fn new(worker: &Rc<Worker>, peer: Peer, meter: &Arc<Meter>) -> Rc<Self> {
        Rc::new(Self {
            vouched: Vouched::new(&peer),
            worker: worker.clone(),
            peer,
            meter: meter.clone(),
            under_way: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            used: Cell::new(false),
            given_up: Cell::new(0),
            handed: Cell::new(0),
            moved: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    pub(super) fn begin_request(&self) {
        self.under_way.set(self.under_way.get() + 1);
        self.used.set(true);
        self.moved.set(true);
        self.meter.begin_request();
    }

    /// A piece of an answer was handed over; `before` says whether the piece before it still counted so.
    pub(super) fn hand_over(&self, before: bool) {
        self.handed.set(self.handed.get() + u32::from(!before));
        self.moved.set(true);
    }

    /// An answer is asked for its next piece again, or is over.
    pub(super) fn take_back(&self) {
        self.handed.set(self.handed.get().saturating_sub(1));
    }

    pub(super) fn end_request(&self, now: Instant, given_up: bool) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        if self.under_way.get() == 0 {
            self.idle_since.set(now);
            self.meter.end_request();
        }
        if given_up {
            self.given_up.set(self.given_up.get() + 1);
        }
    }

    /// A request was answered although its body is still to come.
    pub(super) fn linger(&self) {
        self.meter.linger();
    }

    /// Has the connection look whether it is to end.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Serves one accepted connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: Peer) {
    // Fails on a socket that is gone already, which the first read will tell.
    let _ = stream.set_nodelay(true);
    let meter = Arc::new(Meter::new(Instant::now()));
    let mut socket = Socket::new(stream, meter.clone());
    let peer = match proxy_header_patience(&worker, &peer) {
        None => peer,
        Some(patience) => {
            // Counted and waited for as every connection, though nobody knows yet whose it is.
            let _registered = worker.register(&Link::new(&worker, peer, &meter));
            match named(&worker, &mut socket, peer, patience).await {
                Some(peer) => peer,
                None => return,
            }
        }
    };
    let link = Link::new(&worker, peer, &meter);
    let _registered = worker.register(&link);
    if peer.tls {
        match timeout(HANDSHAKE, worker.tls.accept(socket)).await {
            Ok(Ok(Tls { stream, protocol: Protocol::H1 })) => h1(&link, *stream).await,
            Ok(Ok(Tls { stream, protocol: Protocol::H2 })) => h2(&link, *stream).await,
            Ok(Err(error)) => {
                worker.dropped("handshake");
                tracing::debug!(client = %peer.address, %error, "no TLS handshake");
            }
            Err(_) => worker.dropped("handshake_timeout"),
        }
    } else {
        // Without TLS nothing says which protocol it is but the preface of HTTP/2 (RFC 9113 section 3.4).
        match timeout(HEAD, socket.begins_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).await {
            Ok(Ok(true)) => h2(&link, socket).await,
            Ok(Ok(false)) => h1(&link, socket).await,
            Ok(Err(_)) => {}
            Err(_) => worker.dropped("silent"),
        }
    }
}

/// How long the PROXY header may take that a connection must begin with; `None` where none is expected.
fn proxy_header_patience(worker: &Worker, peer: &Peer) -> Option<Duration> {
    let seen = worker.seen();
    let trust = &seen.live.plan.settings.trust;
    trust.expects_proxy_header(peer.address.ip()).then_some(trust.proxy_header_timeout)
}

/// The client whom the PROXY header names; `None` when there is no such header in time, which ends the
/// connection without a word, as HAProxy does.
async fn named(
    worker: &Worker,
    socket: &mut Socket,
    peer: Peer,
    patience: Duration,
) -> Option<Peer> {
    match timeout(patience, socket.proxy_header()).await {
        Ok(Ok(Some(Header { ends: Some(ends), .. }))) => return Some(peer.named(&ends)),
        Ok(Ok(Some(Header { ends: None, .. }))) => return Some(peer),
        // Load balancers try whether a port is open, and say nothing.
        Ok(Ok(None)) => return None,
        Ok(Err(error)) => tracing::debug!(proxy = %peer.address, %error, "no PROXY header"),
        Err(_) => tracing::debug!(proxy = %peer.address, "no PROXY header in time"),
    }
    worker.dropped("proxy_header");
    None
}

/// Serves HTTP/1.
async fn h1<T>(link: &Rc<Link>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Our own deadlines tell an idle connection from a slow head.
        .header_read_timeout(None)
        .max_header_size(32 << 10)
        .max_buf_size(64 << 10)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), stack(link))
        .with_upgrades();
    let watch = Watch::new(link, Some(HEAD), IDLE);
    drive(link, watch, pin!(connection), http1::UpgradeableConnection::graceful_shutdown).await;
}

/// Serves HTTP/2.
async fn h2<T>(link: &Rc<Link>, stream: T)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        // RFC 8441: WebSockets.
        .enable_connect_protocol()
        .max_concurrent_streams(100)
        .max_header_list_size(32 << 10)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(200)
        .initial_stream_window_size(128 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(stream), stack(link));
    let watch = Watch::new(link, None, IDLE_H2);
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
    Response = http::Response<super::observe::ObservedBody>,
    Error = std::convert::Infallible,
    Future: 'static,
> + use<> {
    let walk = {
        let link = link.clone();
        tower::service_fn(move |traced| {
            let link = link.clone();
            async move { Ok(super::answer(&link, traced).await) }
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

/// Runs the streams of an HTTP/2 connection on the worker it belongs to.
#[derive(Clone, Copy)]
pub(super) struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Watches a connection's deadlines and the worker's end.
struct Watch<'a> {
    link: &'a Link,
    head: Option<Duration>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    finishing: bool,
    /// Since when we drain.
    draining: Option<Instant>,
    /// Since when every answer of an HTTP/2 connection waits for the client.
    stuck: Option<Instant>,
}

enum Verdict {
    Go,
    /// Serve what is under way, then close.
    Finish,
    /// Close now.
    Cut(&'static str),
}

impl<'a> Watch<'a> {
    fn new(link: &'a Link, head: Option<Duration>, idle: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(idle));
        Self { link, head, idle, timer, finishing: false, draining: None, stuck: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Verdict {
        let mut waker = self.link.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        if self.link.worker.is_draining() && !self.finishing {
            self.draining.get_or_insert_with(Instant::now);
            // Who has just come gets an answer first, which says that the connection ends.
            if self.link.used.get() {
                self.finishing = true;
                return Verdict::Finish;
            }
        }
        if self.head.is_none() && self.link.given_up.get() > MOST_GIVEN_UP {
            if self.link.given_up.get() > 2 * MOST_GIVEN_UP {
                return Verdict::Cut("resets");
            }
            if !self.finishing {
                self.finishing = true;
                return Verdict::Finish;
            }
        }
        loop {
            let Some((deadline, verdict)) = self.deadline() else { return Verdict::Go };
            if deadline < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Verdict::Go;
            }
            if deadline <= Instant::now() {
                if matches!(verdict, Verdict::Finish) && self.finishing {
                    return Verdict::Cut("idle");
                }
                self.finishing |= matches!(verdict, Verdict::Finish);
                return verdict;
            }
        }
    }

    /// The next deadline and what happens then.
    fn deadline(&mut self) -> Option<(Instant, Verdict)> {
        let Link { meter, under_way, idle_since, handed, moved, .. } = self.link;
        if let Some(since) = meter.stalled_since() {
            return Some((since + STALLED, Verdict::Cut("stalled")));
        }
        if under_way.get() > 0 {
            // Of HTTP/1.1 the socket tells; of HTTP/2 a window may be closed while the socket is not.
            if self.head.is_some() || handed.get() < under_way.get() {
                self.stuck = None;
                return None;
            }
            if moved.take() {
                self.stuck = None;
            }
            let since = *self.stuck.get_or_insert_with(Instant::now);
            return Some((since + STALLED, Verdict::Cut("stalled")));
        }
        self.stuck = None;
        if let Some(since) = self.draining
            && !self.finishing
        {
            return Some((since + FIRST_WHILE_DRAINING, Verdict::Finish));
        }
        if let (Some(patience), Some(since)) = (self.head, meter.head_since()) {
            return Some((since + patience, Verdict::Cut("slow_head")));
        }
        let since = idle_since.get();
        let grace = if self.finishing { Duration::from_secs(5) } else { Duration::ZERO };
        Some((since + self.idle + grace, Verdict::Finish))
    }
}
