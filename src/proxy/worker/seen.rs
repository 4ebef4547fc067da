//! What is served, as one worker sees it, and what it counts of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::Worker;
use crate::live::{Live, WayId};
use crate::metrics::RequestMeters;

/// A [`Live`] as one worker sees it, with the meters of its routes.
///
/// Requests count references to this, not to the `Live`, whose counter all cores would share.
pub(in crate::proxy) struct Seen {
    pub(in crate::proxy) live: Arc<Live>,
    meters: RefCell<foldhash::HashMap<Counted, Rc<Meters>>>,
    /// Which of them counted something since the last tick.
    counted: RefCell<Vec<Rc<Meters>>>,
}

/// The way, and whether its canary took the request.
type Counted = ((Option<WayId>, bool), Method, StatusCode);

/// The meters of one kind of request.
struct Meters {
    request: RequestMeters,
    /// Whether they counted something since the last tick.
    counted: Cell<bool>,
}

impl Seen {
    pub(super) fn new(live: Arc<Live>) -> Rc<Self> {
        Rc::new(Self { live, meters: RefCell::default(), counted: RefCell::default() })
    }

    /// Counts a request; making its meters, the first time, takes a lock.
    pub(in crate::proxy) fn count(
        &self,
        worker: &Worker,
        way: (Option<WayId>, bool),
        method: &Method,
        status: StatusCode,
        count: impl FnOnce(&RequestMeters),
    ) {
        let key = (way, known(method), status);
        let mut meters = self.meters.borrow_mut();
        let meters = meters.entry(key.clone()).or_insert_with(|| {
            let (way, canary) = (way.0.map(|it| self.live.way(it)), way.1);
            let canary = way.and_then(|it| it.canary.as_ref()).filter(|_| canary);
            let route = way.map(|it| &it.route);
            let service = way.and_then(|it| it.balancer.as_ref());
            let labels = [
                status.as_str(),
                key.1.as_str(),
                route.map_or("", |it| &it.path),
                route.map_or("", |it| &it.ingress.namespace),
                route.map_or("", |it| &it.ingress.name),
                service.map_or("", |it| &it.id.service.name),
                canary.map_or("", |it| &it.name),
                // What a client asked for in vain is no label.
                route.map_or("_unmatched", |it| &it.host),
            ];
            let ingress = route.map(|it| it.ingress.clone()).unwrap_or_default();
            let request = worker.shared.metrics.request(&ingress, labels.map(str::to_owned));
            Rc::new(Meters { request, counted: Cell::new(false) })
        });
        count(&meters.request);
        if !meters.counted.replace(true) {
            self.counted.borrow_mut().push(meters.clone());
        }
    }

    /// Adds up what was counted since the last tick.
    pub(super) fn flush(&self) {
        for meters in self.counted.borrow_mut().drain(..) {
            meters.counted.set(false);
            meters.request.flush();
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A method as a label: one that is not well known counts as `CONNECT`, for there is no bound to those that
/// requests may name.
fn known(method: &Method) -> Method {
    let known = matches!(
        *method,
        Method::GET
            | Method::POST
            | Method::HEAD
            | Method::PUT
            | Method::DELETE
            | Method::PATCH
            | Method::OPTIONS
            | Method::TRACE
    );
    if known { method.clone() } else { Method::CONNECT }
}
