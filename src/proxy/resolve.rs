//! Addresses of `ExternalName` Services, by the system's resolver.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

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

type Name = (Box<str>, u16);

#[derive(Clone, Debug)]
struct Known {
    /// Of the last answer; none for a name that never had one.
    addresses: Rc<[SocketAddr]>,
    answered: Instant,
    /// When the resolver was asked last, whatever came of it.
    asked: Instant,
}

impl Resolver {
    /// The addresses of a name; none when it has none. This machine's own are left out.
    ///
    /// Waits for the resolver only for a name it knows nothing of; one that is known is refreshed beside
    /// the requests that use it.
    pub(super) async fn resolve(&self, name: &str, port: u16) -> Rc<[SocketAddr]> {
        let key = (Box::from(name), port);
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
        let name = (key.0.to_string(), key.1);
        let asked = timeout(PATIENCE, tokio::net::lookup_host(name)).await;
        let found: Rc<[SocketAddr]> = match asked {
            Ok(Ok(found)) => found.filter(|it| !is_ours(it)).collect(),
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

fn is_ours(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}
