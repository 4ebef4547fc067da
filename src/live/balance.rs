//! Which endpoint of a backend gets the next request.
//!
//! Workers share a balancer, so all of it is atomics; what they race for is a turn or an average, and
//! whoever loses the race does no harm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::ring::Ring;
use super::sticky::Sticky;
use crate::model::name::ObjectName;
use crate::model::plan::{Backend, BackendId};
use crate::model::upstream::Balance;

/// How long an endpoint rests that refused a connection, or was too slow to make one or to answer; twice as
/// long each time it happens again, up to the longest (nginx's `fail_timeout`). While all rest, all are asked.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// How fast the moving average forgets, as in ingress-nginx.
const DECAY: Duration = Duration::from_secs(10);

/// Chooses among a backend's endpoints.
#[derive(Debug)]
pub struct Balancer {
    /// Its name in logs and metrics: `namespace-service-port`.
    pub name: Box<str>,
    /// Service and port.
    pub id: BackendId,
    /// Who answers.
    pub backend: Backend,
    endpoints: Box<[Arc<Endpoint>]>,
    /// Of [`Balance::Hash`]: endpoints by their places. Of [`Balance::Subset`]: subsets by their numbers.
    ring: Ring,
    /// Where cookies keep clients on endpoints.
    sticky: Option<Box<Sticky>>,
    next: AtomicUsize,
    /// What its endpoints count time from.
    epoch: Instant,
}

/// An endpoint, with what is known of it. Kept while its address stays in the backend.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Until when it rests, in milliseconds of its balancer's time; 0 for not at all.
    rests_until: AtomicU64,
    /// How often in a row that happened.
    failures: AtomicU32,
    /// Moving average of its times to answer, in microseconds, and when it was last changed.
    average: AtomicU64,
    averaged_at: AtomicU64,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            rests_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            average: AtomicU64::new(0),
            averaged_at: AtomicU64::new(0),
        })
    }

    fn rests(&self, now: u64) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        until > now
    }
}

impl Balancer {
    /// The balancer of `backend`, which goes on where the one before it stood; the very same one when
    /// nothing changed.
    pub fn next(id: &BackendId, backend: &Backend, before: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(before) = before
            && before.backend == *backend
        {
            return before.clone();
        }
        let known = |address: &SocketAddr| {
            let endpoints = before.map(|it| &*it.endpoints).unwrap_or_default();
            // Addresses are sorted, and so are these.
            let place = endpoints.binary_search_by_key(address, |it| it.address).ok()?;
            Some(endpoints[place].clone())
        };
        let endpoints: Box<[_]> = backend
            .addresses
            .iter()
            .map(|it| known(it).unwrap_or_else(|| Endpoint::new(*it)))
            .collect();
        let name: Box<str> = id.to_string().into();
        let sticky = backend.affinity.as_ref();
        Arc::new(Self {
            ring: match backend.balance {
                Balance::Hash(_) => endpoints.iter().map(|it| it.address).collect(),
                Balance::Subset(_, size) => {
                    (0..endpoints.len().div_ceil(subset_size(size))).collect()
                }
                Balance::RoundRobin | Balance::Ewma => Ring::default(),
            },
            sticky: sticky.map(|it| Sticky::new(&name, it.mode, &endpoints).into()),
            name,
            id: id.clone(),
            backend: backend.clone(),
            endpoints,
            next: AtomicUsize::new(before.map_or(0, |it| it.next.load(Ordering::Relaxed))),
            epoch: before.map_or_else(Instant::now, |it| it.epoch),
        })
    }

    /// The balancer of a name and port that no Service has.
    pub(super) fn of(address: &(Box<str>, u16)) -> Arc<Self> {
        let (name, port) = address;
        let service = ObjectName::new("", &**name);
        let id = BackendId { service, port: port.to_string().into() };
        let backend = Backend { external: Some(address.clone()), ..Backend::default() };
        Self::next(&id, &backend, None)
    }

    /// Endpoints in the order in which a request should try them; each once, those that rest last.
    ///
    /// `key` is what [`Balance::Hash`] goes by, `random` what [`Balance::Ewma`] does, and
    /// [`Balance::Subset`] by both. Costs one atomic addition and a look at the endpoint; empty while nobody
    /// answers.
    pub fn turns(&self, now: Instant, key: u64, random: u64) -> Turns<'_> {
        let now = self.time(now);
        let first = match (&self.backend.balance, self.endpoints.len()) {
            (_, 0 | 1) => 0,
            (Balance::RoundRobin, many) => self.in_turn(now, many),
            (Balance::Ewma, many) => self.quicker(now, random, many),
            (Balance::Hash(_), _) => self.on_ring(now, key),
            (Balance::Subset(_, size), many) => {
                let size = subset_size(*size);
                let subset = self.ring.owners(key).next().unwrap_or(0);
                // The last subset is filled up from the first.
                (subset * size + by_chance(random, size)) % many
            }
        };
        self.turns_from(now, first, false)
    }

    /// Endpoints in the order in which to try them for a client that its cookie keeps at a place: with
    /// `only`, no other; for a new client, in turn.
    pub fn turns_of(&self, now: Instant, held: Option<usize>, only: bool) -> Turns<'_> {
        let now = self.time(now);
        match held.filter(|it| *it < self.endpoints.len()) {
            Some(place) => self.turns_from(now, place, only),
            None if self.endpoints.len() < 2 => self.turns_from(now, 0, false),
            None => self.turns_from(now, self.in_turn(now, self.endpoints.len()), false),
        }
    }

    fn turns_from(&self, now: u64, first: usize, only: bool) -> Turns<'_> {
        Turns { balancer: self, now, first, only, step: 0, resting: Vec::new() }
    }

    /// Whether nobody answers, nor could by a name.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.backend.external.is_none()
    }

    /// What follows the bar in the cookies of affinity; `None` without it.
    pub fn mark(&self) -> Option<&str> {
        self.sticky.as_ref().map(|it| it.mark())
    }

    /// The place of the endpoint that the key in a cookie leads to; `None` where it is gone.
    pub fn place_of(&self, key: &str) -> Option<usize> {
        self.sticky.as_ref()?.place_of(key)
    }

    /// The address of the endpoint at a place.
    pub fn address_at(&self, place: usize) -> Option<SocketAddr> {
        self.endpoints.get(place).map(|it| it.address)
    }

    /// A cookie's key that leads to an endpoint of this backend.
    pub fn key_of(&self, address: SocketAddr, random: u64) -> Option<String> {
        let place = self.endpoints.binary_search_by_key(&address, |it| it.address).ok()?;
        Some(self.sticky.as_ref()?.key_of(&self.endpoints[place], place, random))
    }

    /// An endpoint could not be connected to, or did not answer in time: it rests. Requests that learn this
    /// together count once.
    pub fn failed(&self, endpoint: &Endpoint, now: Instant) {
        if endpoint.rests(self.time(now)) {
            return;
        }
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed).min(8);
        let rest = (REST * 2_u32.pow(failures)).min(LONGEST_REST);
        endpoint.rests_until.store(self.time(now + rest), Ordering::Relaxed);
    }

    /// An endpoint answered to what it was sent at `sent_at`.
    pub fn answered(&self, endpoint: &Endpoint, sent_at: Instant) {
        if endpoint.failures.load(Ordering::Relaxed) > 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
            endpoint.rests_until.store(0, Ordering::Relaxed);
        }
        if self.backend.balance == Balance::Ewma {
            self.took(endpoint, Instant::now(), sent_at.elapsed());
        }
    }

    fn took(&self, endpoint: &Endpoint, now: Instant, took: Duration) {
        let now = self.time(now);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let average = weigh(endpoint, now, took);
        endpoint.average.store(average, Ordering::Relaxed);
        endpoint.averaged_at.store(now, Ordering::Relaxed);
    }

    fn time(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// The next endpoint in turn. The turns of one that rests go to the others in turn, not all to the one
    /// after it; counting them is the only look at all endpoints.
    fn in_turn(&self, now: u64, many: usize) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let place = turn % many;
        if !self.endpoints[place].rests(now) {
            return place;
        }
        let awake = || (0..many).filter(|it| !self.endpoints[*it].rests(now));
        let nth = (turn / many).checked_rem(awake().count());
        nth.and_then(|it| awake().nth(it)).unwrap_or(place)
    }

    /// Of two random endpoints the one with the smaller average; one that was never asked has none, so it is.
    fn quicker(&self, now: u64, random: u64, many: usize) -> usize {
        let one = by_chance(random >> 32, many);
        let other = (one + 1 + by_chance(random & 0xffff_ffff, many - 1)) % many;
        let [a, b] = [one, other].map(|it| {
            let endpoint = &*self.endpoints[it];
            (endpoint.rests(now), weigh(endpoint, now, 0))
        });
        if b < a { other } else { one }
    }

    /// The first endpoint after the key's place on the ring that does not rest.
    fn on_ring(&self, now: u64, key: u64) -> usize {
        let mut owners = self.ring.owners(key);
        let first = owners.next().unwrap_or(0);
        if !self.endpoints[first].rests(now) {
            return first;
        }
        owners.find(|it| !self.endpoints[*it].rests(now)).unwrap_or(first)
    }
}

/// The average with a new time weighed in: what is old counts less. The new time's weight is what the old
/// lost; with 0 that is plain decay.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate of microseconds"
)]
fn weigh(endpoint: &Endpoint, now: u64, took: u64) -> u64 {
    let old = endpoint.average.load(Ordering::Relaxed);
    let since = now.saturating_sub(endpoint.averaged_at.load(Ordering::Relaxed));
    let weight = (-(since as f64) / DECAY.as_millis() as f64).exp();
    if old == 0 {
        return took;
    }
    (old as f64 * weight + took as f64 * (1.0 - weight)) as u64
}

/// A number below `among`, which is not 0.
fn by_chance(random: u64, among: usize) -> usize {
    usize::try_from(random % u64::try_from(among).unwrap_or(u64::MAX)).unwrap_or(0)
}

fn subset_size(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).max(1)
}

/// Endpoints in the order to try them.
#[derive(Debug)]
pub struct Turns<'a> {
    balancer: &'a Balancer,
    now: u64,
    first: usize,
    /// Whether no other one is asked.
    only: bool,
    step: usize,
    /// Those that were passed over because they rest; they come at the end.
    resting: Vec<u32>,
}

impl<'a> Iterator for Turns<'a> {
    type Item = &'a Arc<Endpoint>;

    fn next(&mut self) -> Option<Self::Item> {
        let endpoints = &*self.balancer.endpoints;
        if self.only {
            self.step += 1;
            return endpoints.get(self.first).filter(|_| self.step == 1);
        }
        while self.step < endpoints.len() {
            let place = (self.first + self.step) % endpoints.len();
            self.step += 1;
            if !endpoints[place].rests(self.now) {
                return Some(&endpoints[place]);
            }
            self.resting.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
        let place = self.step - endpoints.len();
        self.step += 1;
        endpoints.get(*self.resting.get(place)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::live::ring::hash;
    use crate::model::name::ObjectName;
    use crate::model::phrase::Phrase;
    use crate::model::sharing::{Affinity, Mode, SessionCookie};

    fn balancer(count: u16, balance: Balance, before: Option<&Arc<Balancer>>) -> Arc<Balancer> {
        let id = BackendId { service: ObjectName::new("a", "b"), port: "80".into() };
        let addresses = (1..=count).map(|it| SocketAddr::from(([10, 0, 0, 1], it))).collect();
        Balancer::next(&id, &Backend { addresses, balance, ..Backend::default() }, before)
    }

    fn round_robin(count: u16, before: Option<&Arc<Balancer>>) -> Arc<Balancer> {
        balancer(count, Balance::RoundRobin, before)
    }

    fn by_uri() -> Balance {
        Balance::Hash(Phrase::parse("$request_uri").expect("a phrase"))
    }

    fn ports(balancer: &Balancer, now: Instant, key: u64) -> Vec<u16> {
        balancer.turns(now, key, key).map(|it| it.address.port()).collect()
    }

    #[test]
    fn each_endpoint_gets_its_turn() {
        let three = round_robin(3, None);
        let now = Instant::now();
        let mut first: Vec<u16> = (0..6).map(|_| ports(&three, now, 0)[0]).collect();
        first.sort_unstable();
        assert_eq!(first, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn every_endpoint_is_tried_once() {
        let now = Instant::now();
        for balance in [Balance::RoundRobin, Balance::Ewma, by_uri()] {
            let three = balancer(3, balance.clone(), None);
            for key in 0..20_u64 {
                let mut all = ports(&three, now, key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                all.sort_unstable();
                assert_eq!(all, [1, 2, 3], "{balance:?}");
            }
            assert_eq!(ports(&balancer(0, balance, None), now, 7), [0; 0]);
        }
    }

    #[test]
    fn an_unchanged_backend_keeps_its_balancer() {
        let three = round_robin(3, None);
        assert!(Arc::ptr_eq(&three, &round_robin(3, Some(&three))));
        assert!(!Arc::ptr_eq(&three, &round_robin(2, Some(&three))));
    }

    #[test]
    fn who_refused_rests_longer_each_time_and_is_asked_last() {
        let three = round_robin(3, None);
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let one = three.endpoints[0].clone();
        three.failed(&one, at(0.0));
        for now in [0.0, 0.9] {
            for _ in 0..3 {
                assert_eq!(ports(&three, at(now), 0)[2], 1, "after {now} s");
            }
        }
        assert!((0..3).any(|_| ports(&three, at(1.1), 0)[0] == 1));
        three.failed(&one, at(2.0));
        assert!((0..3).all(|_| ports(&three, at(3.9), 0)[2] == 1));
        // An endpoint keeps its rest when others come and go, and loses it when it answers.
        let more = round_robin(4, Some(&three));
        assert!((0..4).all(|_| ports(&more, at(3.9), 0)[3] == 1));
        more.answered(&one, at(3.9));
        assert!((0..4).any(|_| ports(&more, at(3.9), 0)[0] == 1));
    }

    #[test]
    fn who_rests_leaves_its_turns_to_all_others() {
        let four = round_robin(4, None);
        let now = Instant::now();
        four.failed(&four.endpoints[1], now);
        let mut turns = HashMap::<u16, usize>::new();
        for _ in 0..120 {
            *turns.entry(ports(&four, now, 0)[0]).or_default() += 1;
        }
        assert_eq!(turns, HashMap::from([(1, 40), (3, 40), (4, 40)]));
    }

    #[test]
    fn requests_that_fail_together_count_once() {
        let two = round_robin(2, None);
        let now = Instant::now();
        for _ in 0..50 {
            two.failed(&two.endpoints[0], now);
        }
        let later = now + REST + Duration::from_millis(1);
        assert!((0..2).any(|_| ports(&two, later, 0)[0] == 1));
    }

    #[test]
    fn while_all_rest_all_are_asked() {
        let two = round_robin(2, None);
        let now = Instant::now();
        for endpoint in &two.endpoints {
            two.failed(endpoint, now);
        }
        assert_eq!(ports(&two, now, 0).len(), 2);
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint_while_it_is_there() {
        let now = Instant::now();
        let ten = balancer(10, by_uri(), None);
        let nine = balancer(9, by_uri(), Some(&ten));
        let same = balancer(10, by_uri(), None);
        let (mut shares, mut moved) = (HashMap::<u16, usize>::new(), 0);
        for key in 0..10_000_u64 {
            let key = hash(&key);
            let before = ports(&ten, now, key)[0];
            assert_eq!(before, ports(&same, now, key)[0]);
            *shares.entry(before).or_default() += 1;
            let after = ports(&nine, now, key)[0];
            if before != after {
                assert_eq!(before, 10, "only the keys of the endpoint that went are moved");
                moved += 1;
            }
        }
        assert_eq!(moved, shares[&10]);
        assert!(shares.values().all(|it| (500..2_000).contains(it)), "{shares:?}");
    }

    #[test]
    fn the_same_key_goes_to_the_same_few() {
        let now = Instant::now();
        let phrase = Phrase::parse("$uri").expect("a phrase");
        for (many, size, subsets) in [(7, 3, 3), (6, 3, 2), (2, 3, 1), (1, 3, 1), (5, 1, 5)] {
            let balancer = balancer(many, Balance::Subset(phrase.clone(), size), None);
            let mut seen = std::collections::BTreeSet::new();
            for key in 0..100_u64 {
                let key = hash(&key);
                let firsts = (0..200_u64).map(|it| balancer.turns(now, key, hash(&it)).next());
                let firsts = firsts.flatten().map(|it| it.address.port());
                let few: std::collections::BTreeSet<u16> = firsts.collect();
                let expected = usize::try_from(size).expect("small").min(many.into());
                assert_eq!(few.len(), expected, "{many} by {size}");
                seen.insert(few);
            }
            assert_eq!(seen.len(), subsets, "{many} by {size}: {seen:?}");
        }
    }

    #[test]
    fn a_client_is_kept_or_gets_its_turn() {
        let now = Instant::now();
        for mode in [Mode::Balanced, Mode::Persistent] {
            let id = BackendId { service: ObjectName::new("a", "b"), port: "80".into() };
            let addresses = (1..=3).map(|it| SocketAddr::from(([10, 0, 0, 1], it))).collect();
            let affinity = Affinity { mode, cookie: SessionCookie::default() };
            let affinity = Some(Arc::new(affinity));
            let backend = Backend { addresses, affinity, ..Backend::default() };
            let three = Balancer::next(&id, &backend, None);
            let ports = |held, only| -> Vec<u16> {
                three.turns_of(now, held, only).map(|it| it.address.port()).collect()
            };
            let mut new: Vec<u16> = (0..6).map(|_| ports(None, false)[0]).collect();
            new.sort_unstable();
            assert_eq!(new, [1, 1, 2, 2, 3, 3], "{mode:?}");
            for place in 0..3 {
                let endpoint = &three.endpoints[place];
                let key = three.key_of(endpoint.address, 7).expect("a key");
                assert_eq!(three.place_of(&key), Some(place), "{mode:?}");
                assert_eq!(ports(Some(place), true), [endpoint.address.port()], "{mode:?}");
                assert_eq!(ports(Some(place), false).len(), 3, "{mode:?}");
                // Who is told to stay stays, even while its endpoint rests.
                three.failed(endpoint, now);
                assert_eq!(ports(Some(place), true), [endpoint.address.port()], "{mode:?}");
            }
            assert_eq!(three.key_of(([10, 0, 0, 2], 1).into(), 7), None);
        }
        let plain = round_robin(2, None);
        assert_eq!((plain.mark(), plain.place_of("x")), (None, None));
    }

    #[test]
    fn the_quicker_of_two_is_asked() {
        let two = balancer(2, Balance::Ewma, None);
        let now = Instant::now();
        two.took(&two.endpoints[0], now, Duration::from_millis(50));
        two.took(&two.endpoints[1], now, Duration::from_millis(5));
        for random in 0..100_u64 {
            assert_eq!(ports(&two, now, hash(&random))[0], 2);
        }
        // What is long ago is forgotten.
        let later = now + Duration::from_secs(100);
        two.took(&two.endpoints[1], later, Duration::from_millis(20));
        assert_eq!(ports(&two, later, 3)[0], 1);
    }
}
