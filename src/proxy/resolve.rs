//! Addresses of judges, mirrors and `ExternalName` Services, by the system's resolver.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::model::network::is_near;

/// How long an answer counts as fresh, and a failure as one.
const FRESH: Duration = Duration::from_secs(5);
/// How long the last answer is used while the resolver fails.
const STALE: Duration = Duration::from_secs(300);
/// Longest wait for the resolver.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most names remembered; the oldest go.
const MOST_NAMES: usize = 1024;

/// What the resolver said lately, kept by each worker for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    known: Rc<RefCell<HashMap<Name, Known>>>,
}

/// Host and port, and whether it may be near.
type Name = (Box<str>, u16, bool);

#[derive(Clone, Debug)]
struct Known {
    /// Of the last answer; none for a name that never had one.
    addresses: Rc<[SocketAddr]>,
    answered: Instant,
    /// When the resolver was asked last, whatever came of it.
    asked: Instant,
}

impl Resolver {
    /// The addresses of a name; none when it has none. Those that are [near](is_near) are left out unless
    /// `near` lets them be, as the plan says.
    ///
    /// Waits for the resolver only for a name it knows nothing of; one that is known is refreshed beside
    /// the requests that use it.
    pub(super) async fn resolve(&self, name: &str, port: u16, near: bool) -> Rc<[SocketAddr]> {
        let key = (Box::from(name), port, near);
        let known = self.known.borrow().get(&key).cloned();
        match known {
            Some(known) if known.asked.elapsed() < FRESH => known.usable(),
            Some(known) if !known.usable().is_empty() => {
                self.note_asked(&key);
                let resolver = self.clone();
                tokio::task::spawn_local(async move { resolver.ask(key).await });
                known.addresses
            }
            _ => self.ask(key).await,
        }
    }

    fn note_asked(&self, key: &Name) {
        if let Some(known) = self.known.borrow_mut().get_mut(key) {
            known.asked = Instant::now();
        }
    }

    async fn ask(&self, key: Name) -> Rc<[SocketAddr]> {
        let (name, near) = ((key.0.to_string(), key.1), key.2);
        let asked = timeout(PATIENCE, tokio::net::lookup_host(name)).await;
        let found: Rc<[SocketAddr]> = match asked {
            Ok(Ok(found)) => found.filter(|it| near || !is_near(it.ip())).collect(),
            Ok(Err(_)) | Err(_) => Rc::default(),
        };
        let now = Instant::now();
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST_NAMES {
            known.retain(|_, it| it.asked.elapsed() < FRESH);
        }
        let fresh = || Known { addresses: Rc::default(), answered: now, asked: now };
        let known = known.entry(key).or_insert_with(fresh);
        known.asked = now;
        if !found.is_empty() {
            known.addresses = found;
            known.answered = now;
        }
        known.usable()
    }
}

impl Known {
    fn usable(&self) -> Rc<[SocketAddr]> {
        if self.answered.elapsed() < STALE { self.addresses.clone() } else { Rc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_near_is_found_only_where_it_may_be() {
        let resolver = Resolver::default();
        // The first by the ways of inet_aton(3), which resolvers take.
        for name in ["127.1", "2130706433", "127.0.0.1", "localhost", "169.254.169.254", "::1"] {
            let far = resolver.resolve(name, 80, false).await;
            assert!(far.is_empty(), "{name} {far:?}");
            let near = resolver.resolve(name, 80, true).await;
            assert!(!near.is_empty() && near.iter().all(|it| is_near(it.ip())), "{name} {near:?}");
            let far = resolver.resolve(name, 80, false).await;
            assert!(far.is_empty(), "{name} {far:?}");
        }
        assert_eq!(*resolver.resolve("192.0.2.1", 80, false).await, [([192, 0, 2, 1], 80).into()]);
    }
}
