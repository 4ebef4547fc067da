//! Connections to endpoints, kept by each worker for itself.
//!
//! One of HTTP/1.1 serves one request at a time and waits in the pool between two; one of HTTP/2 is shared
//! by as many as the endpoint allows.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::connect;
use super::reply::Failure;
use super::upload::{Progress, RequestBody};
use crate::live::transport::Transport;
use crate::model::client_tls::Upstream;

/// How often that is looked at, and at connections that have closed.
const TIDIED: Duration = Duration::from_secs(1);

/// Connections by where they lead.
#[derive(Default)]
pub(super) struct Pool {
    shelves: RefCell<foldhash::HashMap<Destination, Rc<Shelf>>>,
    shared: RefCell<foldhash::HashMap<Destination, Vec<Rc<Shared>>>>,
    /// Connections of HTTP/2 that are being made, for all who wait for one.
    opening: RefCell<foldhash::HashMap<Destination, Opening>>,
    tidied: Cell<Option<Instant>>,
    keeping: Rc<Keeping>,
}

/// What is kept, as the settings have it.
struct Keeping {
    limits: Cell<Upstream>,
    /// The time of the last look.
    now: Cell<Instant>,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { limits: Cell::default(), now: Cell::new(Instant::now()) }
    }
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
    connection: Driven,
    shelf: Rc<Shelf>,
    keeping: Rc<Keeping>,
    made: Instant,
    /// Requests so far.
    used: u32,
}

/// Who drives a connection.
enum Driven {
    /// Whoever has the line.
    Here(LocalBoxFuture<'static, ()>),
    /// A task, for as long as somebody has the line.
    There(AbortHandle),
    /// Nobody: it has ended, or goes on without the line.
    Gone,
}

impl Line {
    /// Hands a request over; it is sent, and answered, while the line is driven.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.used = self.used.saturating_add(1);
        self.sender.try_send_request(request)
    }

    /// Goes on with whatever there is to write and to read.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driven::Here(connection) = &mut self.connection
            && connection.poll_unpin(cx).is_ready()
        {
            self.connection = Driven::Gone;
        }
    }

    /// Has a task drive it, so that a request's body goes on whether or not anybody asks for more of the
    /// answer; it ends with the answer.
    fn detach(&mut self) {
        if let Driven::Here(connection) = std::mem::replace(&mut self.connection, Driven::Gone) {
            let task = tokio::task::spawn_local(connection);
            self.connection = Driven::There(task.abort_handle());
        }
    }

    /// Has a task drive it to its end: it became something else.
    fn release(&mut self) {
        if let Driven::Here(connection) = std::mem::replace(&mut self.connection, Driven::Gone) {
            tokio::task::spawn_local(connection);
        }
    }

    /// Whether another request can be sent, as far as one can see.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        matches!(self.connection, Driven::Here(_)) && self.sender.is_ready()
    }

    /// Whether it is not too old, as of the last look at the clock.
    fn is_young(&self, age: Duration) -> bool {
        self.keeping.now.get().saturating_duration_since(self.made) < age
    }

    fn give_back(self) {
        let shelf = self.shelf.clone();
        let mut idle = shelf.0.borrow_mut();
        let limits = self.keeping.limits.get();
        let fresh = self.used < limits.requests && self.is_young(limits.age);
        if matches!(self.connection, Driven::Here(_)) && idle.len() < limits.idle && fresh {
            idle.push(Idle { line: self, since: None });
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Driven::There(task) = &self.connection {
            task.abort();
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
        self.is_usable() && self.streams.get() < self.most.get().min(connect::MOST_STREAMS as usize)
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

    /// Opens a connection, within `patience`. What this machine lacks for it is taken from idle ones first.
    pub(super) async fn open(
        self: &Rc<Self>,
        destination: Destination,
        transport: &Transport,
        patience: Duration,
    ) -> Result<Sender, Failure> {
        let opened = timeout(patience, self.opened(destination, transport, patience));
        match opened.await.unwrap_or(Err(Failure::Slow)) {
            Err(Failure::Overloaded) => {
                self.shelves.borrow_mut().clear();
                let opened = timeout(patience, self.opened(destination, transport, patience));
                opened.await.unwrap_or(Err(Failure::Slow))
            }
            opened => opened,
        }
    }

    async fn opened(
        self: &Rc<Self>,
        destination: Destination,
        transport: &Transport,
        patience: Duration,
    ) -> Result<Sender, Failure> {
        if !transport.h2 {
            let (sender, connection) = connect::h1(destination.address, transport).await?;
            let shelf = self.shelves.borrow_mut().entry(destination).or_default().clone();
            let connection = Driven::Here(connection);
            let (keeping, made) = (self.keeping.clone(), Instant::now());
            return Ok(Sender::H1(Line { sender, connection, shelf, keeping, made, used: 0 }));
        }
        // Whoever comes while one is made waits for that one; it may turn out to be full.
        loop {
            let opening = self.opening.borrow().get(&destination).cloned();
            let opening =
                opening.unwrap_or_else(|| self.begin(destination, transport.clone(), patience));
            opening.await?;
            if let Some(stream) = self.room(destination) {
                return Ok(Sender::H2(stream));
            }
            // Others may wait for their turn to take a place, or the endpoint to close.
            tokio::task::yield_now().await;
        }
    }

    /// Begins to make a connection of HTTP/2, for all who need one.
    fn begin(
        self: &Rc<Self>,
        destination: Destination,
        transport: Transport,
        patience: Duration,
    ) -> Opening {
        let pool = self.clone();
        let made = async move {
            let opened = timeout(patience, connect::h2(destination.address, &transport)).await;
            pool.opening.borrow_mut().remove(&destination);
            let (sender, most) = opened.unwrap_or(Err(Failure::Slow))?;
            let shared = Rc::new(Shared {
                sender,
                streams: Cell::new(0),
                most,
                retired: Cell::new(false),
                used: Cell::new(Instant::now()),
            });
            pool.shared.borrow_mut().entry(destination).or_default().push(shared);
            Ok(())
        };
        let made = made.boxed_local().shared();
        self.opening.borrow_mut().insert(destination, made.clone());
        // Goes on when who asked for it leaves.
        tokio::task::spawn_local(made.clone());
        made
    }

    /// Keeps what `limits` allow from now on.
    pub(super) fn limit(&self, limits: Upstream) {
        self.keeping.limits.set(limits);
    }

    /// Drops connections that were idle for long or have closed.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        if self.tidied.get().is_some_and(|it| now - it < TIDIED) {
            return;
        }
        self.tidied.set(Some(now));
        self.keeping.now.set(now);
        let Upstream { timeout: longest, age, .. } = self.keeping.limits.get();
        self.shelves.borrow_mut().retain(|_, shelf| {
            shelf.0.borrow_mut().retain_mut(|it| {
                let since = *it.since.get_or_insert(now);
                now - since < longest && it.line.is_young(age) && it.line.is_ready()
            });
            Rc::strong_count(shelf) > 1 || !shelf.0.borrow().is_empty()
        });
        self.shared.borrow_mut().retain(|_, shared| {
            shared.retain(|it| {
                let fresh = it.streams.get() > 0 || it.used.get().elapsed() < longest;
                it.is_usable() && fresh
            });
            !shared.is_empty()
        });
    }
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

    /// Lets the connection go on by itself until the answer is over.
    pub(super) fn detach(&mut self) {
        if let Some(Sender::H1(line)) = &mut self.sender {
            line.detach();
        }
    }

    /// Lets the connection go on by itself for good.
    pub(super) fn release(mut self) {
        if let Some(Sender::H1(line)) = &mut self.sender {
            line.release();
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
