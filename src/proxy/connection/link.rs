//! What is known of a connection while it is open: its client, its requests, whether it is to end.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::budget::{HANDED, REQUEST};
use super::watch::STALLED;
use crate::live::policies::PolicyId;
use crate::model::connections::{Connections, Heads};
use crate::proxy::client_tls::Shown;
use crate::proxy::headers::Vouched;
use crate::proxy::io::Meter;
use crate::proxy::observe::Trace;
use crate::proxy::peer::Peer;
use crate::proxy::worker::Worker;

/// What the requests of one connection share.
pub(in crate::proxy) struct Link {
    pub(in crate::proxy) worker: Rc<Worker>,
    /// The connection's other end, by its PROXY header where it has to have one.
    pub(in crate::proxy) peer: Peer,
    pub(in crate::proxy) vouched: Vouched,
    pub(in crate::proxy) meter: Arc<Meter>,
    /// What its handshake was for, if it had one.
    pub(in crate::proxy) policy: Cell<PolicyId>,
    /// The certificate that the client showed in it.
    pub(super) shown: OnceCell<Box<Shown>>,
    /// Its place among the worker's connections.
    pub(in crate::proxy) place: Cell<usize>,
    /// Whether it speaks HTTP/2.
    pub(super) h2: Cell<bool>,
    /// Requests under way.
    pub(super) under_way: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    /// Whether there was any request yet.
    pub(super) used: Cell<bool>,
    /// Whether any answer began yet.
    pub(super) answered: Cell<bool>,
    /// Whether it is to end in favour of another.
    pub(super) shed: Cell<bool>,
    /// How many requests its client gave up before the head of an answer.
    pub(super) given_up: Cell<u32>,
    /// Whether it is to end after what is under way.
    pub(super) finishes: Cell<bool>,
    /// How long the heads of its requests may be, as it was when it began.
    pub(in crate::proxy) heads: Heads,
    /// How many requests it may still carry.
    left: Cell<u32>,
    /// The request that just came, until hyper has made a task of it; of HTTP/2.
    begun: RefCell<Option<Rc<Trace>>>,
    /// The streams of HTTP/2 under way and what ends each, all of which know their place here.
    pub(super) streams: RefCell<Vec<(Rc<Trace>, AbortHandle)>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    pub(super) fn new(worker: &Rc<Worker>, peer: Peer, meter: &Arc<Meter>) -> Rc<Self> {
        let Connections { requests: most, heads, .. } = worker.settings();
        Rc::new(Self {
            vouched: Vouched::new(&peer),
            worker: worker.clone(),
            peer,
            meter: meter.clone(),
            policy: Cell::default(),
            shown: OnceCell::new(),
            finishes: Cell::new(false),
            heads,
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
    pub(in crate::proxy) fn shown(&self) -> Option<&Shown> {
        self.shown.get().map(|it| &**it)
    }

    /// Has the connection end after what is under way.
    pub(in crate::proxy) fn finish(&self) {
        self.finishes.set(true);
        self.wake();
    }

    /// A request's head is complete.
    pub(in crate::proxy) fn begin_request(&self, trace: &Rc<Trace>) {
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
        self.meter.pay(REQUEST + u64::from(self.heads.whole()));
        self.worker.begin_request();
    }

    /// A piece of an answer was handed over.
    pub(in crate::proxy) fn hand_over(&self) {
        self.answered.set(true);
        self.meter.pay(HANDED);
    }

    /// The request that just came has a task, which `task` ends.
    pub(super) fn run(&self, task: AbortHandle) {
        if let Some(trace) = self.begun.take() {
            let mut streams = self.streams.borrow_mut();
            trace.place.set(Some(streams.len()));
            streams.push((trace, task));
        }
    }

    /// A request's stream is over, or in other hands.
    pub(in crate::proxy) fn release(&self, trace: &Trace) {
        let Some(place) = trace.place.take() else { return };
        let mut streams = self.streams.borrow_mut();
        streams.swap_remove(place);
        if let Some((moved, _)) = streams.get(place) {
            moved.place.set(Some(place));
        }
    }

    /// Since when the client has taken nothing of the answer that has waited for it longest.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.streams.borrow().iter().filter_map(|(it, _)| it.handed_since.get()).min()
    }

    /// Ends each stream whose client has taken nothing for too long; `false` when that is all there is under
    /// way.
    pub(super) fn end_stalled(&self, now: Instant) -> bool {
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

    /// A request is over; `given_up` when its client left before the head of an answer.
    pub(in crate::proxy) fn end_request(&self, now: Instant, given_up: bool) {
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
    pub(in crate::proxy) fn linger(&self) {
        self.meter.linger();
    }

    /// Whether it may give way to another: nothing is under way since `then`. After its first request not
    /// even the head of another one; before, the client is whoever it is.
    pub(in crate::proxy) fn is_idle(&self, then: Instant) -> bool {
        let head = self.used.get() && !self.h2.get() && self.meter.head_since().is_some();
        self.is_quiet() && !self.shed.get() && !head && self.idle_since.get() <= then
    }

    /// Whether no request is under way, nor the end of an answer: hyper is done with a body once its last
    /// piece is in its buffer, which a slow client may still have to take.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.get() == 0 && self.meter.stalled_since().is_none()
    }

    /// The least of several gives way first: one that never asked for anything, then the one that has been
    /// idle for longest.
    pub(in crate::proxy) fn rank(&self) -> impl Ord {
        (self.used.get(), self.idle_since.get())
    }

    /// Ends it in favour of another, if it is still idle by then.
    pub(in crate::proxy) fn shed(&self) {
        self.shed.set(true);
        self.wake();
    }

    /// Has `waker` woken when the connection is to look whether it is to end.
    pub(super) fn note(&self, waker: &Waker) {
        let mut noted = self.waker.borrow_mut();
        if !noted.as_ref().is_some_and(|it| it.will_wake(waker)) {
            *noted = Some(waker.clone());
        }
    }

    /// Has the connection look whether it is to end.
    pub(in crate::proxy) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}
