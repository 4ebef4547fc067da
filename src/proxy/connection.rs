//! The life of a client's connection: handshake, requests, deadlines, end.

mod watch;

use std::cell::{Cell, OnceCell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tower::{Layer, Service};

use super::client_tls::Shown;
use super::headers::Vouched;
use super::io::{Meter, Socket};
use super::observe::{ObserveLayer, RequestIdLayer, Trace};
use super::passthrough;
use super::peer::Peer;
use super::proxy_protocol::Header;
use super::tls::{self, Begun, Protocol, Tls};
use super::worker::{Registered, Worker};
use crate::live::limit::Open;
use crate::live::policies::PolicyId;
use crate::model::client_tls::Connections;
use watch::{Verdict, Watch};

/// Longest handshake, from the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 connection may wait for its next request (nginx's `keepalive_timeout`).
const IDLE: Duration = Duration::from_secs(75);
/// How long an HTTP/2 connection may be without a stream (nginx's `http2_idle_timeout`).
const IDLE_H2: Duration = Duration::from_secs(180);
/// How long an HTTP/2 connection may be without its first stream, or even its preface (nginx's
/// `client_header_timeout`).
const FIRST_H2: Duration = Duration::from_secs(60);
/// How old an HTTP/2 connection gets, give or take a tenth, so that clients find new replicas (nginx's
/// `keepalive_time`). Those made together do not end together.
const AGE_H2: Duration = Duration::from_secs(3600);
/// How long an HTTP/2 connection without a stream may stay once it was asked to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a write may wait for the client.
const STALLED: Duration = Duration::from_secs(60);
/// How many answers of one HTTP/2 connection may be given up by the client before it is asked to make a
/// new one; half as many again are an attack (CVE-2023-44487, paced).
const MOST_GIVEN_UP: u32 = 100;
/// How many bytes a client may send over HTTP/2 that come to nothing: PING, SETTINGS, PRIORITY,
/// WINDOW_UPDATE and the like, of which hyper counts none and each costs a look. The connection's window
/// of 1 MiB can arrive before anybody takes it; as much again is for its frames and TLS's records.
///
/// HTTP/1 needs no such meter: there every byte belongs to a head or a body, and both have their limits.
const FLOOD: u64 = 2 << 20;
/// What a request accounts for: its head of 32 KiB, and a stream's window of 128 KiB, which may come after
/// we have answered.
const REQUEST: u64 = 192 << 10;
/// What a piece of an answer accounts for: WINDOW_UPDATE frames, two for each of its frames.
const HANDED: u64 = 4 << 10;
/// What a second accounts for: some 25 PINGs.
const SECOND: u64 = 1 << 10;
/// How long a connection without any request yet may wait for its first while we drain.
const FIRST_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// What the requests of one connection share.
pub(super) struct Link {
    pub(super) worker: Rc<Worker>,
    /// The connection's other end, by its PROXY header where it has to have one.
    pub(super) peer: Peer,
    pub(super) vouched: Vouched,
    pub(super) meter: Arc<Meter>,
    /// What its handshake was for, if it had one.
    pub(super) policy: Cell<PolicyId>,
    /// The certificate that the client showed in it.
    shown: OnceCell<Box<Shown>>,
    /// Its place among the worker's connections.
    pub(super) place: Cell<usize>,
    h2: Cell<bool>,
    /// Requests under way.
    under_way: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Whether there was any request yet.
    used: Cell<bool>,
    /// Whether any answer began yet.
    answered: Cell<bool>,
    /// Whether it is to end in favour of another.
    shed: Cell<bool>,
    given_up: Cell<u32>,
    /// Whether it is to end after what is under way.
    finishes: Cell<bool>,
    /// How many requests it may still carry.
    left: Cell<u32>,
    /// The request that just came, until hyper has made a task of it; of HTTP/2.
    begun: RefCell<Option<Rc<Trace>>>,
    /// The streams of HTTP/2 under way and what ends each, all of which know their place here.
    streams: RefCell<Vec<(Rc<Trace>, AbortHandle)>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    fn new(worker: &Rc<Worker>, peer: Peer, meter: &Arc<Meter>) -> Rc<Self> {
        let most = worker.settings().requests;
        Rc::new(Self {
            vouched: Vouched::new(&peer),
            worker: worker.clone(),
            peer,
            meter: meter.clone(),
            policy: Cell::default(),
            shown: OnceCell::new(),
            finishes: Cell::new(false),
            left: Cell::new(most.unwrap_or(u32::MAX)),
            place: Cell::new(0),
            h2: Cell::new(false),
            under_way: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            used: Cell::new(false),
            answered: Cell::new(false),
            shed: Cell::new(false),
            given_up: Cell::new(0),
            begun: RefCell::default(),
            streams: RefCell::default(),
            waker: RefCell::new(None),
        })
    }

    /// The certificate that the client showed in its handshake.
    pub(super) fn shown(&self) -> Option<&Shown> {
        self.shown.get().map(|it| &**it)
    }

    /// Has the connection end after what is under way.
    pub(super) fn finish(&self) {
        self.finishes.set(true);
        self.wake();
    }

    pub(super) fn begin_request(&self, trace: &Rc<Trace>) {
        if self.h2.get() {
            *self.begun.borrow_mut() = Some(trace.clone());
        }
        self.under_way.set(self.under_way.get() + 1);
        self.used.set(true);
        match self.left.get() {
            u32::MAX => {}
            0 | 1 => self.finish(),
            many => self.left.set(many - 1),
        }
        self.meter.begin_request();
        self.meter.pay(REQUEST);
        self.worker.begin_request();
    }

    /// A piece of an answer was handed over.
    pub(super) fn hand_over(&self) {
        self.answered.set(true);
        self.meter.pay(HANDED);
    }

    /// The request that just came has a task, which `task` ends.
    fn run(&self, task: AbortHandle) {
        if let Some(trace) = self.begun.take() {
            let mut streams = self.streams.borrow_mut();
            trace.place.set(Some(streams.len()));
            streams.push((trace, task));
        }
    }

    /// A request's stream is over, or in other hands.
    pub(super) fn release(&self, trace: &Trace) {
        let Some(place) = trace.place.take() else { return };
        let mut streams = self.streams.borrow_mut();
        streams.swap_remove(place);
        if let Some((moved, _)) = streams.get(place) {
            moved.place.set(Some(place));
        }
    }

    /// Since when the client has taken nothing of the answer that has waited for it longest.
    fn waiting_since(&self) -> Option<Instant> {
        self.streams.borrow().iter().filter_map(|(it, _)| it.handed_since.get()).min()
    }

    /// Ends each stream whose client has taken nothing for too long; `false` when that is all there is under
    /// way.
    fn end_stalled(&self, now: Instant) -> bool {
        let streams = self.streams.borrow();
        let is_stalled = |it: &Trace| it.handed_since.get().is_some_and(|it| it + STALLED <= now);
        let stalled = || streams.iter().filter(|(trace, _)| is_stalled(trace));
        if stalled().count() == self.under_way.get() as usize {
            return false;
        }
        for (trace, task) in stalled() {
            tracing::debug!(client = %self.peer.address, "a stream's client takes nothing");
            trace.handed_since.set(None);
            // hyper asks for the next piece only when there is room for it, so that no error of ours would
            // reach the stream. Without its task h2 resets it, and all that it holds is let go.
            task.abort();
        }
        true
    }

    pub(super) fn end_request(&self, now: Instant, given_up: bool) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        self.worker.end_request();
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

    /// Whether it may give way to another: nothing is under way since `then`. After its first request not
    /// even the head of another one; before, the client is whoever it is.
    pub(super) fn is_idle(&self, then: Instant) -> bool {
        let head = self.used.get() && !self.h2.get() && self.meter.head_since().is_some();
        self.is_quiet() && !self.shed.get() && !head && self.idle_since.get() <= then
    }

    /// Whether no request is under way, nor the end of an answer: hyper is done with a body once its last
    /// piece is in its buffer, which a slow client may still have to take.
    fn is_quiet(&self) -> bool {
        self.under_way.get() == 0 && self.meter.stalled_since().is_none()
    }

    /// The least of several gives way first: one that never asked for anything, then the one that has been
    /// idle for longest.
    pub(super) fn rank(&self) -> impl Ord {
        (self.used.get(), self.idle_since.get())
    }

    /// Ends it in favour of another, if it is still idle by then.
    pub(super) fn shed(&self) {
        self.shed.set(true);
        self.wake();
    }

    fn note(&self, waker: &Waker) {
        let mut noted = self.waker.borrow_mut();
        if !noted.as_ref().is_some_and(|it| it.will_wake(waker)) {
            *noted = Some(waker.clone());
        }
    }

    /// Has the connection look whether it is to end.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// Serves one accepted connection to its end. Each phase is an allocation of its own that ends with it: most
/// of a connection's life it waits for the next request, and there are many of them.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, open: Open, peer: Peer) {
    let begun = Box::pin(begin(worker, stream, open, peer)).await;
    let Some((registered, stream, protocol)) = begun else { return };
    let link = &registered.link;
    match (stream, protocol) {
        (Stream::Tls(stream), Protocol::H1) => Box::pin(h1(link, stream)).await,
        (Stream::Tls(stream), Protocol::H2) => Box::pin(h2(link, stream)).await,
        (Stream::Plain(stream), Protocol::H1) => Box::pin(h1(link, stream)).await,
        (Stream::Plain(stream), Protocol::H2) => Box::pin(h2(link, stream)).await,
    }
}

/// What HTTP is spoken over.
enum Stream {
    Tls(Box<TlsStream<Socket>>),
    Plain(Socket),
}

/// Brings a connection to where HTTP begins; `None` when it ends before.
async fn begin(
    worker: Rc<Worker>,
    stream: TcpStream,
    open: Open,
    peer: Peer,
) -> Option<(Registered, Stream, Protocol)> {
    // Fails on a socket that is gone already, which the first read will tell.
    let _ = stream.set_nodelay(true);
    let meter = Arc::new(Meter::new(Instant::now()));
    let mut socket = Socket::new(stream, meter.clone(), open);
    let dropped = |reason| {
        worker.dropped(reason);
        None
    };
    let peer = match proxy_header_patience(&worker, &peer) {
        None => peer,
        Some(patience) => {
            // Counted and waited for as every connection, though nobody knows yet whose it is.
            let link = Link::new(&worker, peer, &meter);
            let _registered = worker.register(&link);
            match greeted(&link, named(&worker, &mut socket, peer, patience)).await {
                None => return dropped("shed"),
                Some(named) => named?,
            }
        }
    };
    let Some(of_address) = worker.limits().of_address(peer.address.ip()) else {
        return dropped("address");
    };
    socket.count(of_address);
    let link = Link::new(&worker, peer, &meter);
    let registered = worker.register(&link);
    if peer.tls {
        let Some(handshake) = worker.limits().handshake() else {
            return dropped("handshakes");
        };
        let accepted = greeted(&link, timeout(HANDSHAKE, tls::accept(&worker, socket))).await;
        drop(handshake);
        let Some(accepted) = accepted else { return dropped("shed") };
        match accepted {
            Ok(Ok(Begun::Ours(Tls { stream, protocol, policy, shown }))) => {
                link.policy.set(policy);
                if let Some(shown) = shown {
                    // The link is new: nothing is there yet.
                    let _ = link.shown.set(shown);
                }
                Some((registered, Stream::Tls(stream), protocol))
            }
            Ok(Ok(Begun::Through(socket, seen, way))) => {
                passthrough::hand_on(&link, socket, seen, way);
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(client = %peer.address, %error, "no TLS handshake");
                dropped("handshake")
            }
            Err(_) => dropped("handshake_timeout"),
        }
    } else {
        // Without TLS nothing says which protocol it is but the preface of HTTP/2 (RFC 9113 section 3.4).
        let first = socket.begins_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let Some(first) = greeted(&link, timeout(worker.settings().head, first)).await else {
            return dropped("shed");
        };
        match first {
            Ok(Ok(true)) => Some((registered, Stream::Plain(socket), Protocol::H2)),
            Ok(Ok(false)) => Some((registered, Stream::Plain(socket), Protocol::H1)),
            Ok(Err(_)) => None,
            Err(_) => dropped("silent"),
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

/// Waits for a client to begin; `None` when the connection is to give way before.
async fn greeted<T>(link: &Link, begins: impl Future<Output = T>) -> Option<T> {
    let mut begins = pin!(begins);
    std::future::poll_fn(|cx| {
        link.note(cx.waker());
        if link.shed.take() {
            return Poll::Ready(None);
        }
        begins.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Serves HTTP/1.
async fn h1<T>(link: &Rc<Link>, stream: T)
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
async fn h2<T>(link: &Rc<Link>, stream: T)
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
    link.meter.limit_linger(FLOOD);
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

/// Runs the streams of a client's HTTP/2 connection, each of which can be ended alone.
#[derive(Clone)]
struct Streams(Rc<Link>);

impl<F: Future<Output: 'static> + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        self.0.run(tokio::task::spawn_local(future).abort_handle());
    }
}

/// Runs what belongs to an HTTP/2 connection on the worker that has it.
#[derive(Clone, Copy)]
pub(super) struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
mod tests {
    //! Time stands still while anybody has something to do and jumps to the next deadline else, so that
    //! hours pass in a moment.

    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::watch;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::live::limit::Limits;
    use crate::live::{Current, Live};
    use crate::metrics::{Metrics, Replica};
    use crate::model::plan::Plan;
    use crate::model::settings::Settings;
    use crate::proxy::log::LogSink;
    use crate::proxy::worker::Shared;
    use crate::proxy::{Phase, Ports};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";

    /// A link of a worker that serves nothing yet and answers everything 503.
    fn link() -> Rc<Link> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
        let key = Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key));
        let mut live = Live::empty(key);
        let settings = Settings { log: None, ..Settings::default() };
        live.plan = Arc::new(Plan { settings: settings.into(), ..Plan::default() });
        let current = Current::new(live);
        let worker = Worker::new(Arc::new(Shared {
            current,
            metrics: Arc::new(Metrics::new(&Replica::default()).expect("metrics")),
            sink: LogSink::start().expect("a thread").0,
            ports: Ports { http: 80, https: 443 },
            limits: Limits::new(10, None),
            phase: watch::channel(Phase::Serving).1,
            wall: || jiff::Timestamp::UNIX_EPOCH,
        }));
        let address = ([192, 0, 2, 1], 1).into();
        let peer = Peer::new(address, true, 443);
        Link::new(&worker, peer, &Arc::new(Meter::new(Instant::now())))
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_has_its_answer_gives_way() {
        let link = link();
        tokio::time::advance(Duration::from_secs(1)).await;
        for (case, under_way, written, expected) in [
            ("nothing to do", 0, Poll::Ready(()), true),
            ("a request under way", 1, Poll::Ready(()), false),
            ("the end of an answer that the client does not take", 0, Poll::Pending, false),
        ] {
            link.under_way.set(under_way);
            link.meter.was_written(&written);
            assert_eq!(link.is_idle(Instant::now()), expected, "{case}");
            link.shed();
            let reason = Watch::new(&link, Some(IDLE), IDLE).shed();
            assert_eq!(reason.is_some(), expected, "{case}");
        }
    }

    /// A client over HTTP/2 that acknowledges what has to be.
    struct Client {
        stream: DuplexStream,
        link: Rc<Link>,
        begun: Instant,
        read: Vec<u8>,
        stream_id: u32,
    }

    impl Client {
        /// One that has sent nothing but `bytes`.
        async fn silent(bytes: &[u8]) -> Self {
            let (stream, other) = duplex(64 << 10);
            let link = link();
            let served = link.clone();
            spawn_local(async move { h2(&served, other).await });
            let (begun, read) = (Instant::now(), Vec::new());
            let mut client = Self { stream, link, begun, read, stream_id: 1 };
            client.send(bytes).await;
            client
        }

        async fn start() -> Self {
            Self::silent(PREFACE).await
        }

        /// Sends bytes as the socket would note them; `false` when nobody takes them.
        async fn send(&mut self, bytes: &[u8]) -> bool {
            self.link.meter.was_read(bytes.len());
            self.stream.write_all(bytes).await.is_ok()
        }

        async fn request(&mut self) -> bool {
            let block = b"\x82\x87\x84\x01\x06a.test";
            let mut frame = vec![0, 0, 11, 1, 5];
            frame.extend(self.stream_id.to_be_bytes());
            frame.extend(block);
            self.stream_id += 2;
            self.send(&frame).await
        }

        /// The next frame that is not an acknowledgement: its type; `None` at the end.
        async fn frame(&mut self) -> Option<u8> {
            loop {
                while self.read.len() < 9 || self.read.len() < 9 + usize::from(self.read[2]) {
                    if matches!(self.stream.read_buf(&mut self.read).await, Ok(0) | Err(_)) {
                        return None;
                    }
                }
                let rest = self.read.split_off(9 + usize::from(self.read[2]));
                let mut frame = std::mem::replace(&mut self.read, rest);
                let (kind, ack) = (frame[3], frame[4] & 1 != 0);
                match (kind, ack) {
                    (4, false) => drop(self.send(b"\0\0\0\x04\x01\0\0\0\0").await),
                    (6, false) => {
                        frame[4] = 1;
                        self.send(&frame).await;
                    }
                    (4 | 6, true) => {}
                    _ => return Some(kind),
                }
            }
        }

        /// Seconds until the connection ends while nothing more is sent than has to be.
        async fn end(mut self) -> u64 {
            while self.frame().await.is_some() {}
            self.begun.elapsed().as_secs()
        }

        /// The same while not even that is sent.
        async fn silent_end(mut self) -> u64 {
            let mut rest = Vec::new();
            let _ = self.stream.read_to_end(&mut rest).await;
            self.begun.elapsed().as_secs()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_over_http2_ends() {
        let test = async {
            for (case, bytes, expected) in [
                ("nothing", &b""[..], 65),
                ("half a preface", &PREFACE[..10], 65),
                ("a preface, and no answer to a ping", PREFACE, 40),
                // RFC 9113 section 6.10: nothing may come between HEADERS and its end, no answer to a
                // ping either.
                (
                    "a head that never ends",
                    &[PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat(),
                    40,
                ),
            ] {
                let client = Client::silent(bytes).await;
                assert_eq!(client.silent_end().await, expected, "{case}");
            }
            assert_eq!(Client::start().await.end().await, 60, "no first stream");
            let mut client = Client::start().await;
            client.request().await;
            assert_eq!(client.end().await, 180, "no second stream");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_alone() {
        const RST_STREAM: u8 = 3;
        // Windows of 0 bytes for all streams.
        const CLOSED: &[u8] =
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
        let test = async {
            let mut client = Client::silent(CLOSED).await;
            let mut ended = Vec::new();
            for at in 0..20 {
                client.request().await;
                let until = client.begun + Duration::from_secs(10) * (at + 1);
                while let Ok(Some(frame)) = tokio::time::timeout_at(until, client.frame()).await {
                    if frame == RST_STREAM {
                        ended.push(client.begun.elapsed().as_secs());
                    }
                }
                assert!(client.link.under_way.get() <= 6, "{}", client.link.under_way.get());
                assert_eq!(
                    client.link.streams.borrow().len(),
                    client.link.under_way.get() as usize
                );
            }
            assert_eq!(ended, (6..20).map(|it| it * 10).collect::<Vec<_>>());
            assert_eq!(client.end().await, 250, "nothing else is under way at last");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_over_http2_is_asked_to_go() {
        const GOAWAY: u8 = 7;
        let test = async {
            let mut client = Client::start().await;
            while client.request().await {
                // The head of the answer, or what else there is to be said.
                match client.frame().await {
                    Some(GOAWAY) | None => break,
                    Some(_) => tokio::time::sleep(Duration::from_secs(10)).await,
                }
            }
            let age = client.begun.elapsed();
            assert!(age > AGE_H2.mul_f64(0.89) && age < AGE_H2.mul_f64(1.11), "{age:?}");
            assert!(client.end().await < age.as_secs() + 60);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn more_requests_than_can_be_served_are_refused() {
        let link = link();
        while !link.worker.is_overloaded() {
            link.worker.begin_request();
        }
        link.worker.end_request();
        assert!(!link.worker.is_overloaded());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_to_nothing_is_metered() {
        let test = async {
            // As fast as it goes.
            let mut client = Client::start().await;
            client.request().await;
            let mut sent = 0;
            while client.send(PING).await {
                sent += PING.len() as u64;
                assert!(sent < 2 * FLOOD);
                let _ = timeout(Duration::from_micros(1), client.frame()).await;
            }
            assert!(sent > FLOOD, "{sent}");

            // Twenty in a second, until the connection is old.
            let mut client = Client::start().await;
            for at in 0.. {
                if at % 1000 == 0 {
                    client.request().await;
                }
                if !client.send(PING).await {
                    break;
                }
                let _ = timeout(Duration::from_millis(50), client.frame()).await;
            }
            assert!(client.begun.elapsed() > AGE_H2.mul_f64(0.89), "{:?}", client.begun.elapsed());
        };
        LocalSet::new().run_until(test).await;
    }
}
