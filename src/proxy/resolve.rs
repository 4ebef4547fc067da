//! Addresses of `ExternalName` Services, by the system's resolver.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long an answer counts as fresh.
const FRESH: Duration = Duration::from_secs(5);
/// How long the last answer is used while the resolver fails.
const STALE: Duration = Duration::from_secs(300);
/// Longest wait for the resolver.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most names remembered; the oldest go.
const MOST_NAMES: usize = 1024;

/// What the resolver said lately, kept by each worker for itself.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: RefCell<HashMap<(Box<str>, u16), Known>>,
}

#[derive(Debug)]
struct Known {
    addresses: Rc<[SocketAddr]>,
    at: Instant,
}

impl Resolver {
    /// The addresses of a name; none when it has none. This machine's own are left out.
    pub(super) async fn resolve(&self, name: &str, port: u16) -> Rc<[SocketAddr]> {
        let key = (Box::from(name), port);
        let known = self.known.borrow().get(&key).map(|it| (it.addresses.clone(), it.at));
        if let Some((addresses, at)) = &known
            && at.elapsed() < FRESH
        {
            return addresses.clone();
        }
        let asked = timeout(PATIENCE, tokio::net::lookup_host((name, port))).await;
        let found: Rc<[SocketAddr]> = match asked {
            Ok(Ok(found)) => found.filter(|it| !is_ours(it)).collect(),
            Ok(Err(_)) | Err(_) => Rc::default(),
        };
        if found.is_empty() {
            let stale = known.filter(|(_, at)| at.elapsed() < STALE);
            return stale.map(|(addresses, _)| addresses).unwrap_or_default();
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST_NAMES {
            known.retain(|_, it| it.at.elapsed() < FRESH);
        }
        known.insert(key, Known { addresses: found.clone(), at: Instant::now() });
        found
    }
}

fn is_ours(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}
