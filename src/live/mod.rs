//! What is served right now, and the one place where it changes.
//!
//! Floor 2. A [`Live`] is built from a plan and the `Live` before it, which hands on what must outlast
//! a change: what balancers know of endpoints, TLS towards them, sessions of TLS with clients, what those
//! have asked of Ingresses that limit them, the last good key of a Secret that became unreadable. It is
//! swapped in with one pointer; a request sees one `Live` from its start to its end. What clients take of
//! the process as a whole, [`limit`] and [`memory`] tell, whatever is served.

pub mod auth_cache;
pub mod balance;
pub mod judge;
pub mod keys;
pub mod limit;
pub mod memory;
pub mod policies;
pub mod rate;
mod ring;
mod sticky;
pub mod streams;
pub mod table;
mod tickets;
pub mod transport;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::sign::CertifiedKey;

use crate::model::name::ObjectName;
use crate::model::plan::{BackendId, Host, Plan, Route, Target};

use auth_cache::Verdicts;
use balance::Balancer;
use keys::Keys;
use policies::Policies;
use rate::Zone;
use streams::Streams;
use table::Table;
use transport::{Known, Transports};

/// What one request sees.
#[derive(Debug)]
pub struct Live {
    /// The plan it was built from.
    pub plan: Arc<Plan>,
    /// Routes by host and path.
    pub table: Table,
    /// Certificates by server name.
    pub keys: Keys,
    /// What the table leads to.
    ways: Box<[Way]>,
    /// Where requests go that no rule takes; `None` for the built-in 404.
    pub fallback: Option<WayId>,
    /// `Strict-Transport-Security` of answers over TLS.
    pub hsts: Option<HeaderValue>,
    /// What was found out about who asks.
    pub verdicts: Arc<Verdicts>,
    /// Whether no plan was there yet: nobody knows what is to be served.
    pub starting: bool,
    /// What is handed on as it is.
    pub streams: Streams,
    balancers: BTreeMap<BackendId, Arc<Balancer>>,
    zones: BTreeMap<ObjectName, Arc<Zone>>,
    transports: Known,
    /// What handshakes are done with.
    pub policies: Policies,
}

/// A way's place in its [`Live`]; means nothing in another.
///
/// A request keeps this instead of a counted pointer, so that cores do not share a counter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct WayId(u32);

/// A route with what serving it takes.
#[derive(Debug)]
pub struct Way {
    /// The route.
    pub route: Arc<Route>,
    /// Who answers, for a route to a backend.
    pub balancer: Option<Arc<Balancer>>,
    /// Who takes a share of its requests.
    pub canary: Option<Arc<Balancer>>,
    /// What clients have asked of its Ingress, where that is limited.
    pub zone: Option<Arc<Zone>>,
    /// What they are spoken to with.
    pub transports: Transports,
    /// The way to the default backend that the route's Ingress names.
    pub default: Option<Box<Self>>,
    /// The way of copies.
    pub mirror: Option<Box<Self>>,
}

impl Live {
    /// What is served before the first plan: nothing but the default certificate.
    pub fn empty(default: Arc<CertifiedKey>) -> Self {
        Self {
            plan: Arc::default(),
            table: Table::default(),
            keys: Keys::empty(default),
            ways: Box::default(),
            fallback: None,
            hsts: None,
            verdicts: Arc::default(),
            starting: true,
            streams: Streams::new(),
            balancers: BTreeMap::new(),
            zones: BTreeMap::new(),
            transports: Known::default(),
            policies: Policies::empty(),
        }
    }

    /// What `plan` comes to, taking over from `previous`.
    pub fn next(plan: Arc<Plan>, previous: &Self) -> Self {
        let balancers: BTreeMap<_, _> = plan
            .backends
            .iter()
            .map(|(id, backend)| {
                let before = previous.balancers.get(id);
                (id.clone(), Balancer::next(id, backend, before))
            })
            .collect();
        let mut zones = BTreeMap::new();
        let mut transports = Known::after(&previous.transports);
        let mut policies = Policies::after(&previous.policies, &plan.settings.tls);
        let mut of_host = |host: &Host| policies.add(host.client_tls(), &previous.policies);
        let mut ways = Vec::new();
        let mut straight = |route: &Arc<Route>| {
            let balancer = match &route.target {
                Target::Backend(id) => balancers.get(id).cloned(),
                _ => None,
            };
            // The default backend of everybody has no canary, as in ingress-nginx.
            let own = balancer.as_ref().filter(|_| !route.ingress.name.is_empty());
            let canary = own.and_then(|it| it.backend.canary.as_ref());
            let canary = canary.and_then(|it| balancers.get(&it.backend).cloned());
            let limited = route.options.rates.as_ref().filter(|it| it.counts_clients());
            let zone = limited.map(|_| {
                let known = || previous.zones.get(&route.ingress).cloned();
                let zone = zones.entry(route.ingress.clone());
                zone.or_insert_with(|| known().unwrap_or_else(Zone::new)).clone()
            });
            let transports = transports.of(route, &previous.transports);
            let route = route.clone();
            Way { route, balancer, canary, zone, transports, default: None, mirror: None }
        };
        let mut way = |route: &Arc<Route>| {
            let default = route.answers.as_ref().and_then(|it| it.default.as_ref());
            let default = default.map(|it| Box::new(straight(it)));
            let mirror = route.mirror.as_ref().map(|it| {
                let balancer = Some(Balancer::of(&it.address));
                Box::new(Way { balancer, ..straight(&it.route) })
            });
            // Fewer than 2^32 routes fit in memory.
            let id = WayId(u32::try_from(ways.len()).unwrap_or(u32::MAX));
            ways.push(Way { default, mirror, ..straight(route) });
            id
        };
        Self {
            table: Table::new(&plan.hosts, &mut of_host, &mut way),
            keys: Keys::next(&plan, &previous.keys),
            fallback: plan.fallback.as_ref().map(way),
            hsts: plan.settings.hsts.and_then(|it| it.to_string().try_into().ok()),
            ways: ways.into(),
            verdicts: previous.verdicts.clone(),
            starting: false,
            streams: streams::next(&plan, &previous.streams),
            balancers,
            zones,
            transports,
            policies,
            plan,
        }
    }

    /// The way of an id that this `Live` gave.
    pub fn way(&self, id: WayId) -> &Way {
        &self.ways[id.0 as usize]
    }
}
/// Where the proxy finds the present [`Live`]; cheap to clone, written by one task only.
#[derive(Clone, Debug)]
pub struct Current(Arc<ArcSwap<Live>>);

impl Current {
    /// Begins with `live`.
    pub fn new(live: Live) -> Self {
        let current = Arc::new(ArcSwap::from_pointee(live));
        current.load().policies.attach(&current);
        Self(current)
    }

    /// Serves `live` from now on; requests under way keep what they began with.
    pub fn replace(&self, live: Live) {
        self.0.store(Arc::new(live));
    }

    /// The present one, for the control plane and handshakes.
    pub fn load(&self) -> Arc<Live> {
        self.0.load_full()
    }

    /// Whether `seen` is still the present one; costs one load and shares nothing.
    pub fn is(&self, seen: &Arc<Live>) -> bool {
        Arc::ptr_eq(&self.0.load(), seen)
    }
}
