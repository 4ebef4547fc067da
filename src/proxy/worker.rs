//! A worker: one thread, one runtime, and everything requests on it share.
//!
//! Workers share nothing with each other on the way of a request but [`Current`], which they read, and
//! atomics. Each has its own listening sockets (`SO_REUSEPORT`), its own connections to endpoints, its
//! own log buffer and its own meters.

mod seen;

use std::cell::{Cell, Ref, RefCell};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::clock::Clock;
use super::compress::Room;
use super::connection::{self, Link};
use super::log::LogSink;
use super::mirror::Taken;
use super::peer::Peer;
use super::pool::Pool;
use super::resolve::Resolver;
use super::{Phase, Ports, doors};
use crate::live::Current;
use crate::live::limit::{Limits, Open};
use crate::live::memory;
use crate::metrics::{Metrics, Refused};
use crate::model::connections::Connections;
use crate::model::trace::Span;
use crate::spans;

pub(super) use seen::Seen;

/// How often the log is handed on and old connections are let go.
const TICK: Duration = Duration::from_millis(100);
/// How much of the log is gathered before it is handed on, in bytes.
const LOG_BATCH: usize = 16 << 10;
/// How many spans are gathered before they are handed on.
const SPAN_BATCH: usize = 64;
/// Longest wait after an accept failed, which mostly means that there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After how many connections that let go of memory it is given back: some MiB.
const MANY_RESTED: usize = 512;
/// Most requests under way on one worker, as many as ingress-nginx allows connections
/// (`max-worker-connections`). More wait for something that does not come.
const MOST_REQUESTS: usize = 16_384;
/// Among how many connections at most one is looked for that may end in favour of another.
const SHED_AMONG: usize = 64;
/// How long that one has been idle at least: longer than a client in use pauses, or a handshake takes.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// How many idle connections end when there are no files left.
const SHED_FOR_FILES: usize = 8;
/// Too many open files, of this process and of the system: errno(3), as Linux numbers them.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// What workers are started with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) current: Current,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sink: LogSink,
    pub(super) spans: spans::Sink,
    pub(super) ports: Ports,
    pub(super) limits: Arc<Limits>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) wall: fn() -> jiff::Timestamp,
}

/// What the requests of one worker share.
pub(super) struct Worker {
    pub(super) pool: Rc<Pool>,
    pub(super) resolver: Resolver,
    /// Memory for compressing answers.
    pub(super) room: Rc<Room>,
    /// What copies for mirrors take.
    pub(super) mirrored: Taken,
    pub(super) ports: Ports,
    /// Which of all workers it is.
    number: usize,
    shared: Arc<Shared>,
    seen: RefCell<Rc<Seen>>,
    random: RefCell<SmallRng>,
    lines: RefCell<String>,
    spans: RefCell<Vec<Span>>,
    pub(super) clock: RefCell<Clock>,
    phase: Cell<Phase>,
    /// Open connections, each of which knows its place here.
    links: RefCell<Vec<Rc<Link>>>,
    /// Requests under way.
    under_way: Cell<usize>,
    /// Whether memory was short at the last tick.
    short: Cell<bool>,
    tunnels: Cell<usize>,
    /// Connections that let go of memory since it was last given back.
    rested: Cell<usize>,
    refused: Refused,
}

/// Runs a worker on this thread until every connection has ended after the phase became
/// [`Phase::Draining`], or the phase became [`Phase::Over`].
pub(super) fn run(
    number: usize,
    shared: Arc<Shared>,
    plain: Vec<TcpListener>,
    secure: Vec<TcpListener>,
    open: watch::Receiver<Arc<doors::Open>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker could not start"),
    };
    LocalSet::new().block_on(&runtime, async move {
        let worker = Worker::new(number, shared);
        let ports = worker.ports;
        let tick = spawn_local(tick(worker.clone()));
        let mut doors = Vec::new();
        for (listeners, secure, port) in [(plain, false, ports.http), (secure, true, ports.https)] {
            for listener in listeners {
                let worker = worker.clone();
                doors.push(spawn_local(async move {
                    let serve = |stream, address, open| {
                        let peer = Peer::new(address, secure, port);
                        spawn_local(connection::serve(worker.clone(), stream, open, peer));
                    };
                    accept(&worker, listener, serve).await;
                }));
            }
        }
        doors.push(spawn_local(doors::attend(worker.clone(), number, open)));
        worker.follow_phase().await;
        for door in &doors {
            door.abort();
        }
        worker.drained().await;
        tick.abort();
        worker.flush();
    });
}

/// Accepts connections, for ever.
pub(super) async fn accept(
    worker: &Worker,
    listener: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr, Open),
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener could not start"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                worker.shared.metrics.accepted.inc();
                match worker.admit() {
                    Ok(open) => serve(stream, address, open),
                    Err(reason) => worker.dropped(reason),
                }
            }
            Err(error) => {
                worker.dropped("accept");
                tracing::debug!(%error, "no connection accepted");
                if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
                    for _ in 0..SHED_FOR_FILES {
                        worker.shed();
                    }
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn tick(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        worker.flush();
    }
}

impl Worker {
    pub(super) fn new(number: usize, shared: Arc<Shared>) -> Rc<Self> {
        let now = (shared.wall)();
        Rc::new(Self {
            pool: Rc::default(),
            resolver: Resolver::default(),
            room: Rc::default(),
            mirrored: Taken::default(),
            ports: shared.ports,
            number,
            seen: RefCell::new(Seen::new(shared.current.load())),
            random: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            lines: RefCell::new(String::with_capacity(LOG_BATCH * 2)),
            spans: RefCell::default(),
            clock: RefCell::new(Clock::at(now)),
            phase: Cell::new(Phase::Serving),
            links: RefCell::default(),
            under_way: Cell::new(0),
            short: Cell::new(false),
            tunnels: Cell::new(0),
            rested: Cell::new(0),
            refused: shared.metrics.refused(),
            shared,
        })
    }

    /// What is served now. Costs one load of a shared pointer.
    pub(super) fn seen(&self) -> Rc<Seen> {
        let seen = self.seen.borrow();
        if self.shared.current.is(&seen.live) {
            return seen.clone();
        }
        drop(seen);
        let fresh = Seen::new(self.shared.current.load());
        self.seen.replace(fresh.clone());
        fresh
    }

    /// 16 random bytes in hexadecimal.
    pub(super) fn fresh_id(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [0; 16];
        self.random.borrow_mut().fill_bytes(&mut bytes);
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }

    /// A fresh id of a trace: at random, and not 0.
    pub(super) fn fresh_trace(&self) -> [u8; 16] {
        let random = u128::from(self.random()) << 64 | u128::from(self.random());
        random.max(1).to_be_bytes()
    }

    /// A random number, for choosing among endpoints.
    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// `time`, give or take a tenth by chance.
    pub(super) fn jitter(&self, time: Duration) -> Duration {
        let chance = f64::from(self.random.borrow_mut().next_u32()) / f64::from(u32::MAX);
        time.mul_f64(0.9 + 0.2 * chance)
    }

    /// The time of day, as of the last tick.
    pub(super) fn clock(&self) -> Ref<'_, Clock> {
        self.clock.borrow()
    }

    /// What the settings say of connections now.
    pub(super) fn settings(&self) -> Connections {
        self.seen().live.plan.settings.connections
    }

    /// The time of day now.
    pub(super) fn wall(&self) -> jiff::Timestamp {
        (self.shared.wall)()
    }

    /// Adds a line to the access log.
    pub(super) fn log(&self, write: impl FnOnce(&mut String)) {
        let mut lines = self.lines.borrow_mut();
        write(&mut lines);
        if lines.len() >= LOG_BATCH {
            self.shared.sink.write(&mut lines, &self.shared.metrics);
        }
    }

    /// Hands on what there is of the access log.
    fn flush_log(&self) {
        let mut lines = self.lines.borrow_mut();
        if !lines.is_empty() {
            self.shared.sink.write(&mut lines, &self.shared.metrics);
        }
    }

    /// Adds a span to those that a collector is told of.
    pub(super) fn tell(&self, span: Span) {
        let many = {
            let mut spans = self.spans.borrow_mut();
            spans.push(span);
            spans.len()
        };
        if many >= SPAN_BATCH {
            self.flush_spans();
        }
    }

    /// Hands on what spans there are.
    fn flush_spans(&self) {
        let mut spans = self.spans.borrow_mut();
        if !spans.is_empty() {
            let most = self.seen.borrow().live.plan.settings.tracing.queue;
            self.shared.spans.hand_over(&mut spans, most);
        }
    }

    /// Counts a connection that we ended.
    pub(super) fn dropped(&self, reason: &str) {
        self.shared.metrics.dropped.with_label_values(&[reason]).inc();
    }

    /// Counts a flow of datagrams as a connection that was accepted.
    pub(super) fn accepted(&self) {
        self.shared.metrics.accepted.inc();
    }

    /// Counts a copy for a mirror that is not sent.
    pub(super) fn lost_copy(&self) {
        self.shared.metrics.copies_lost.inc();
    }

    /// Counts an answered challenge.
    pub(super) fn challenged(&self) {
        self.shared.metrics.challenges.inc();
    }

    /// Whether no new request is wanted on open connections.
    pub(super) fn is_draining(&self) -> bool {
        self.phase.get() >= Phase::Draining
    }

    /// Whether HTTP/1.1 answers are to say that the connection ends: from the moment shutdown begins.
    pub(super) fn is_leaving(&self) -> bool {
        self.phase.get() >= Phase::Leaving
    }

    /// Waits until what has no end of its own is to end.
    pub(super) async fn closing(&self) {
        let mut phase = self.shared.phase.clone();
        // Without a sender everything ends by itself.
        let _ = phase.wait_for(|it| *it >= Phase::Closing).await;
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// Whether idle connections are to end, because memory is short.
    pub(super) fn is_short(&self) -> bool {
        self.shared.limits.is_short()
    }

    /// Whether a new request is more than can be served; counts it if so.
    pub(super) fn is_overloaded(&self) -> bool {
        let refused = if self.is_short() {
            &self.refused.memory
        } else if self.under_way.get() > MOST_REQUESTS {
            &self.refused.overload
        } else {
            return false;
        };
        refused.inc();
        true
    }

    /// A connection lets go of memory, until the guard is dropped.
    pub(super) fn rest(&self) -> Resting<'_> {
        self.rested.set(self.rested.get() + 1);
        self.shared.metrics.resting.inc();
        Resting(self)
    }

    pub(super) fn begin_request(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    pub(super) fn end_request(&self) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
    }

    /// Lets a new connection in, or says why not. Where there are as many as may be, it takes the place of
    /// one that nobody is using: files are kept for endpoints, the API server and whoever asks for health.
    fn admit(&self) -> Result<Open, &'static str> {
        if self.is_short() {
            return Err("memory");
        }
        match self.shared.limits.open() {
            Some(open) => Ok(open),
            None if self.shed() => Ok(self.shared.limits.replace()),
            None => Err("full"),
        }
    }

    /// Ends the most idle connection among some; `false` when none of them is idle.
    fn shed(&self) -> bool {
        let links = self.links.borrow();
        let start = match links.len() {
            0 => return false,
            many => usize::try_from(self.random.borrow_mut().next_u32()).unwrap_or_default() % many,
        };
        let some = links[start..].iter().chain(&links[..start]).take(SHED_AMONG);
        let Some(then) = Instant::now().checked_sub(SHED_AFTER) else { return false };
        let idle = some.filter(|it| it.is_idle(then)).min_by_key(|it| it.rank());
        idle.inspect(|it| it.shed()).is_some()
    }

    /// Has every connection look whether it is to end.
    fn wake_all(&self) {
        for link in &*self.links.borrow() {
            link.wake();
        }
    }

    /// Carries a WebSocket in a task of its own; `own` when it has a connection to itself, which counts on
    /// though no request can come over it.
    pub(super) fn tunnel(self: &Rc<Self>, own: bool, tunnel: impl Future<Output = ()> + 'static) {
        self.tunnels.set(self.tunnels.get() + 1);
        self.shared.metrics.connections.add(own.into());
        let worker = self.clone();
        spawn_local(async move {
            tunnel.await;
            worker.shared.metrics.connections.sub(own.into());
            worker.tunnels.set(worker.tunnels.get() - 1);
        });
    }

    /// Notes a connection until the guard is dropped.
    pub(super) fn register(&self, link: &Rc<Link>) -> Registered {
        let mut links = self.links.borrow_mut();
        link.place.set(links.len());
        links.push(link.clone());
        self.shared.metrics.connections.inc();
        Registered { link: link.clone() }
    }

    /// Follows the phase until it is time to close.
    async fn follow_phase(&self) {
        let mut phase = self.shared.phase.clone();
        loop {
            let now = *phase.borrow_and_update();
            self.phase.set(now);
            self.wake_all();
            if now >= Phase::Draining || phase.changed().await.is_err() {
                break;
            }
        }
        self.phase.set(self.phase.get().max(Phase::Draining));
        self.wake_all();
    }

    /// Waits until every connection has ended, or waiting is over.
    async fn drained(&self) {
        let mut phase = self.shared.phase.clone();
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        while !self.links.borrow().is_empty() || self.tunnels.get() > 0 {
            tokio::select! {
                _ = interval.tick() => {}
                _ = phase.wait_for(|it| *it == Phase::Over) => break,
            }
        }
    }

    /// What each tick does.
    fn flush(&self) {
        self.clock.borrow_mut().set((self.shared.wall)());
        // Lets an old `Live` go even when no request asks for the new one.
        self.pool.limit(self.seen().live.plan.settings.connections.upstream);
        self.pool.tidy();
        let short = self.is_short();
        if !self.short.replace(short) && short {
            self.wake_all();
        }
        if short || self.rested.get() >= MANY_RESTED {
            self.rested.set(0);
            memory::give_back();
        }
        self.flush_log();
        self.flush_spans();
    }
}

impl Drop for Worker {
    /// Requests that were cut at the very end have written their lines by now.
    fn drop(&mut self) {
        self.flush_log();
        self.flush_spans();
    }
}

/// Keeps a connection noted that rests.
pub(super) struct Resting<'a>(&'a Worker);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.shared.metrics.resting.dec();
    }
}

/// Keeps a connection noted.
pub(super) struct Registered {
    pub(super) link: Rc<Link>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Link { worker, place, .. } = &*self.link;
        let (mut links, place) = (worker.links.borrow_mut(), place.get());
        links.swap_remove(place);
        if let Some(moved) = links.get(place) {
            moved.place.set(place);
        }
        worker.shared.metrics.connections.dec();
    }
}
