//! Connections to endpoints, kept by each worker for itself.
//!
//! One of HTTP/1.1 serves one request at a time and waits in the pool between two; one of HTTP/2 is shared
//! by as many as the endpoint allows.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::body::CutOff;
use super::connect;
use super::reply::Failure;
use super::upload::{Progress, RequestBody};
use super::wire::{self, AnswerHead, Switched, Torn, Wire};
use crate::live::transport::Transport;
use crate::model::connections::Upstream;

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

/// A connection of HTTP/1.1 and where it waits between two requests.
pub(super) struct Line {
    wire: Rc<RefCell<Wire>>,
    /// Sends the rest of a request's body, for as long as somebody has the line.
    task: Option<AbortHandle>,
    shelf: Rc<Shelf>,
    keeping: Rc<Keeping>,
    made: Instant,
    /// Requests so far.
    used: u32,
}

impl Line {
    /// Begins a request; it is sent while its answer is waited for.
    pub(super) fn begin(&mut self, head: &request::Parts, body: RequestBody) {
        self.used = self.used.saturating_add(1);
        self.wire.borrow_mut().begin(head, body);
    }

    /// Waits for the head of the answer.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Torn>> {
        self.wire.borrow_mut().poll_head(cx)
    }

    /// Has a task send the rest of the request's body, whether or not anybody asks for more of the answer.
    fn detach(&mut self) {
        if !self.wire.borrow().is_sent() {
            self.task = Some(wire::detach(&self.wire));
        }
    }

    /// Whether another request can be sent, as far as one can see.
    fn is_ready(&mut self) -> bool {
        self.wire.borrow_mut().is_free()
    }

    /// Whether it is not too old, as of the last look at the clock.
    fn is_young(&self, age: Duration) -> bool {
        self.keeping.now.get().saturating_duration_since(self.made) < age
    }

    fn give_back(mut self) {
        if !self.wire.borrow().is_sent() {
            // An endpoint may answer before it has read everything, and read it nevertheless.
            if let Some(task) = self.task.take() {
                task.abort();
            }
            return wire::finish(self.wire.clone());
        }
        let shelf = self.shelf.clone();
        let mut idle = shelf.0.borrow_mut();
        let limits = self.keeping.limits.get();
        let fresh = self.used < limits.requests && self.is_young(limits.age);
        if idle.len() < limits.idle && fresh && self.wire.borrow().is_done() {
            self.wire.borrow_mut().rest();
            idle.push(Idle { line: self, since: None });
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
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

/// An endpoint's answer as it comes, and the connection it comes by, which goes back to the pool when it was
/// read to its end.
pub(super) struct Lease {
    sender: Option<Sender>,
    /// The body, of HTTP/2.
    incoming: Option<Incoming>,
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
            let wire = Wire::new(connect::h1(destination.address, transport).await?);
            let wire = Rc::new(RefCell::new(wire));
            let shelf = self.shelves.borrow_mut().entry(destination).or_default().clone();
            let (keeping, made) = (self.keeping.clone(), Instant::now());
            return Ok(Sender::H1(Line { wire, task: None, shelf, keeping, made, used: 0 }));
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
    pub(super) fn new(sender: Sender, incoming: Option<Incoming>, progress: Rc<Progress>) -> Self {
        Self { sender: Some(sender), incoming, progress }
    }

    /// The next piece of the answer; the request goes on meanwhile.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match (&mut self.sender, &mut self.incoming) {
            (Some(Sender::H1(line)), _) => {
                line.wire.borrow_mut().poll_piece(cx).map_err(CutOff::Torn)
            }
            (_, Some(incoming)) => Pin::new(incoming).poll_frame(cx).map_err(CutOff::Broken),
            _ => Poll::Ready(None),
        }
    }

    /// Whether all of the answer was taken.
    pub(super) fn is_end_stream(&self) -> bool {
        match (&self.sender, &self.incoming) {
            (Some(Sender::H1(line)), _) => line.wire.borrow().is_over(),
            (_, incoming) => incoming.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    /// How long what is to come is.
    pub(super) fn size_hint(&self) -> SizeHint {
        match (&self.sender, &self.incoming) {
            (Some(Sender::H1(line)), _) => {
                line.wire.borrow().left().map_or_else(SizeHint::new, SizeHint::with_exact)
            }
            (_, incoming) => incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint),
        }
    }

    /// Lets the request go on by itself until the answer is over.
    pub(super) fn detach(&mut self) {
        if let Some(Sender::H1(line)) = &mut self.sender {
            line.detach();
        }
    }

    /// The connection as what it became.
    pub(super) fn switched(self) -> Option<Switched> {
        match &self.sender {
            Some(Sender::H1(line)) => Some(Switched::new(line.wire.clone())),
            _ => None,
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
