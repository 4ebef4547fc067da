//! What is served, as one worker sees it, and what it counts of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::Worker;
use crate::live::{Live, WayId};
use crate::metrics::{Kind, RequestMeters};

/// A [`Live`] as one worker sees it, with the meters of its routes.
///
/// Requests count references to this, not to the `Live`, whose counter all cores would share.
pub(in crate::proxy) struct Seen {
    pub(in crate::proxy) live: Arc<Live>,
    meters: RefCell<foldhash::HashMap<Counted, Arc<RequestMeters>>>,
}

/// The way, whether its canary took the request, and what else tells its kind.
type Counted = ((Option<WayId>, bool), Method, StatusCode);

impl Seen {
    pub(super) fn new(live: Arc<Live>) -> Rc<Self> {
        Rc::new(Self { live, meters: RefCell::default() })
    }

    /// Counts a request; finding its meters takes a lock the first time.
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
        count(meters.entry(key.clone()).or_insert_with(|| {
            worker.shared.metrics.request(worker.number, self.kind(way, &key.1, status))
        }));
    }

    fn kind(&self, way: (Option<WayId>, bool), method: &Method, status: StatusCode) -> Kind {
        let (way, canary) = (way.0.map(|it| self.live.way(it)), way.1);
        let canary = way.and_then(|it| it.canary.as_ref()).filter(|_| canary);
        let route = way.map(|it| &it.route);
        let service = way.and_then(|it| it.balancer.as_ref());
        let text = |it: Option<&str>| it.unwrap_or_default().to_owned();
        Kind {
            canary: text(canary.map(|it| &*it.name)),
            // What a client asked for in vain is no label.
            host: route.map_or("_unmatched", |it| &it.host).to_owned(),
            ingress: text(route.map(|it| &*it.ingress.name)),
            method: method.to_string(),
            namespace: text(route.map(|it| &*it.ingress.namespace)),
            path: text(route.map(|it| &*it.path)),
            service: text(service.map(|it| &*it.id.service.name)),
            status: status.as_str().to_owned(),
        }
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
