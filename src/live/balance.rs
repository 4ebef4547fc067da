//! Which endpoint of a backend gets the next request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::plan::{Backend, BackendId};

/// Round robin over a backend's endpoints.
#[derive(Debug)]
pub struct Balancer {
    /// Its name in logs and metrics: `namespace-service-port`.
    pub name: Box<str>,
    /// Service and port.
    pub id: BackendId,
    /// Who answers.
    pub backend: Backend,
    next: AtomicUsize,
}

impl Balancer {
    /// The balancer of `backend`, which goes on where the one before it stood; the very same one when
    /// nothing changed.
    pub(super) fn next(id: &BackendId, backend: &Backend, before: Option<&Arc<Self>>) -> Arc<Self> {
        let place = match before {
            Some(it) if it.backend == *backend => return it.clone(),
            Some(it) => it.next.load(Ordering::Relaxed),
            None => 0,
        };
        Arc::new(Self {
            name: id.to_string().into(),
            id: id.clone(),
            backend: backend.clone(),
            next: AtomicUsize::new(place),
        })
    }

    /// Endpoints in the order in which a request should try them; each once.
    ///
    /// Costs one atomic addition; empty while nobody answers.
    pub fn order(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let addresses = &*self.backend.addresses;
        let start = match addresses.len() {
            0 | 1 => 0,
            many => self.next.fetch_add(1, Ordering::Relaxed) % many,
        };
        addresses[start..].iter().chain(&addresses[..start]).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::ObjectName;

    fn balancer(count: u16, before: Option<&Arc<Balancer>>) -> Arc<Balancer> {
        let id = BackendId { service: ObjectName::new("a", "b"), port: "80".into() };
        let addresses = (1..=count).map(|it| SocketAddr::from(([10, 0, 0, 1], it))).collect();
        Balancer::next(&id, &Backend { addresses, external: None }, before)
    }

    #[test]
    fn each_endpoint_gets_its_turn() {
        let three = balancer(3, None);
        let mut first: Vec<u16> =
            (0..6).filter_map(|_| three.order().next()).map(|it| it.port()).collect();
        first.sort_unstable();
        assert_eq!(first, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn every_endpoint_is_tried_once() {
        let three = balancer(3, None);
        three.order().count();
        let mut all: Vec<u16> = three.order().map(|it| it.port()).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(balancer(0, None).order().count(), 0);
    }

    #[test]
    fn an_unchanged_backend_keeps_its_balancer() {
        let three = balancer(3, None);
        assert!(Arc::ptr_eq(&three, &balancer(3, Some(&three))));
        assert!(!Arc::ptr_eq(&three, &balancer(2, Some(&three))));
    }
}
