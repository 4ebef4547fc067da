//! What clients have asked of an Ingress lately: `limit-rps`, `limit-rpm` and `limit-connections`.
//!
//! One [`Zone`] an Ingress, for all workers, kept over swaps while the Ingress is there. It is a table of
//! atomics whose memory is bounded: where there is no room for a client the one goes that asked longest
//! ago. The rates themselves are not in it, so that they can change.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::model::rate::{Bucket, Rates};

/// Clients of one set; each has its place in two, and takes one that is free.
const WAYS: usize = 8;
/// Sets that are made together, once a client has its place there.
const BLOCK: usize = 16;
/// Blocks: with them a zone holds 16,384 clients in 512 KiB at most.
const BLOCKS: usize = 128;
/// What the clock of a zone begins with, in milliseconds: whatever is 0 is long ago.
const BEGINNING: u64 = 1 << 30;

/// The clients of one Ingress.
#[derive(Debug)]
pub struct Zone {
    blocks: Box<[OnceLock<Box<[Set]>>]>,
    /// Nobody can choose whose place to share.
    seed: RandomState,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Set([Client; WAYS]);

/// One client, by a hash of its address.
#[derive(Debug, Default)]
struct Client {
    /// 0 for nobody.
    tag: AtomicU64,
    /// Excess and time of each of [`Rates::buckets`].
    buckets: [AtomicU64; 2],
    /// Requests under way.
    open: AtomicU32,
    /// When it asked last, in milliseconds of the zone's time.
    asked: AtomicU32,
}

/// What a client asked too much of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TooMuch {
    /// Requests in time.
    Requests,
    /// Requests at a time.
    Connections,
}

/// A client's request that is under way; no longer when this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    zone: Arc<Zone>,
    place: Place,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    set: usize,
    way: usize,
}

impl Zone {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            blocks: std::iter::repeat_with(OnceLock::new).take(BLOCKS).collect(),
            seed: RandomState::new(),
            epoch: Instant::now(),
        })
    }

    /// Counts a request of `address`, or says what is too much. As in nginx one that is refused fills no
    /// bucket, and the buckets are asked first.
    ///
    /// Costs a look at two sets, and an atomic exchange a bucket.
    pub fn count(
        self: &Arc<Self>,
        rates: &Rates,
        address: IpAddr,
        now: Instant,
    ) -> Result<Option<UnderWay>, TooMuch> {
        let now = self.time(now);
        let tag = self.seed.hash_one(address.to_canonical()).max(1);
        let Some((place, client)) = self.client(tag, now) else {
            // Each place is held by somebody's request. Where those are limited nginx refuses, too.
            return if rates.connections > 0 { Err(TooMuch::Connections) } else { Ok(None) };
        };
        client.asked.store(short(now), Ordering::Relaxed);
        match rates.buckets() {
            [None, None] => {}
            [Some(bucket), None] => client.pour(0, bucket, now)?,
            [None, Some(bucket)] => client.pour(1, bucket, now)?,
            [Some(second), Some(minute)] => {
                client.has_room(0, second, now)?;
                client.pour(1, minute, now)?;
                client.pour(0, second, now)?;
            }
        }
        if rates.connections == 0 {
            return Ok(None);
        }
        let before = client.open.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay { zone: self.clone(), place };
        if before < rates.connections { Ok(Some(under_way)) } else { Err(TooMuch::Connections) }
    }

    fn time(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(BEGINNING)
    }

    /// The client of a tag, who is given a place if need be; `None` where each is held by another's request.
    fn client(&self, tag: u64, now: u64) -> Option<(Place, &Client)> {
        let sets = [tag, tag.rotate_left(32)].map(|it| {
            let sets = u64::try_from(BLOCKS * BLOCK).unwrap_or(1);
            usize::try_from(it % sets).unwrap_or_default()
        });
        // Whoever loses a race for a place looks again; the winner may even be the same client.
        for _ in 0..WAYS {
            // A free place, else that of who asked longest ago; of several the first, whoever looks.
            let mut best: Option<(u32, u64, Place, &Client)> = None;
            for (place, client) in self.places(sets) {
                let old = client.tag.load(Ordering::Acquire);
                if old == tag {
                    return Some((place, client));
                }
                let age = match old {
                    0 => u32::MAX,
                    _ => client.silence(now).min(u32::MAX - 1),
                };
                let better = best.as_ref().is_none_or(|(most, ..)| age > *most);
                if better && client.open.load(Ordering::Relaxed) == 0 {
                    best = Some((age, old, place, client));
                }
            }
            let (_, old, place, client) = best?;
            if client.give(old, tag) {
                return Some((place, client));
            }
        }
        None
    }

    fn places(&self, sets: [usize; 2]) -> impl Iterator<Item = (Place, &Client)> {
        sets.into_iter().flat_map(move |set| {
            let clients = self.set(set).0.iter().enumerate();
            clients.map(move |(way, client)| (Place { set, way }, client))
        })
    }

    fn set(&self, set: usize) -> &Set {
        let fresh = || std::iter::repeat_with(Set::default).take(BLOCK).collect();
        &self.blocks[set / BLOCK].get_or_init(fresh)[set % BLOCK]
    }
}

impl Client {
    /// For how long it has not asked, in milliseconds.
    fn silence(&self, now: u64) -> u32 {
        short(now).wrapping_sub(self.asked.load(Ordering::Relaxed))
    }

    /// Gives the place of one client to another; `false` when somebody was quicker.
    fn give(&self, old: u64, tag: u64) -> bool {
        if self.tag.compare_exchange(old, tag, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // A place that was free is as it should be, and may be in use by now.
        if old != 0 {
            self.buckets.iter().for_each(|it| it.store(0, Ordering::Relaxed));
        }
        true
    }

    /// Whether a bucket has room for a request.
    fn has_room(&self, number: usize, bucket: Bucket, now: u64) -> Result<(), TooMuch> {
        let held = self.buckets[number].load(Ordering::Relaxed);
        after(held, bucket, now).map(|_| ())
    }

    /// Puts a request into a bucket, unless it has no room.
    fn pour(&self, number: usize, bucket: Bucket, now: u64) -> Result<(), TooMuch> {
        let cell = &self.buckets[number];
        let mut held = cell.load(Ordering::Relaxed);
        loop {
            let next = after(held, bucket, now)?;
            match cell.compare_exchange_weak(held, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => held = other,
            }
        }
    }
}

/// What one more request makes of a bucket: its excess in the upper half, the time in the lower.
fn after(held: u64, bucket: Bucket, now: u64) -> Result<u64, TooMuch> {
    /// Milliseconds, as in nginx.
    const AHEAD: u32 = 60_000;
    let [excess, then] = [held >> 32, held & u64::from(u32::MAX)];
    let [excess, then] = [excess, then].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
    // Another worker may have been here with a time that is ahead of this one's, though not by much.
    let millis = short(now).wrapping_sub(then);
    let (millis, then) = if millis > u32::MAX - AHEAD { (0, then) } else { (millis, short(now)) };
    let excess = bucket.after(excess, millis.into()).ok_or(TooMuch::Requests)?;
    Ok(u64::from(excess) << 32 | u64::from(then))
}

/// Milliseconds that begin anew after 49 days; who was silent for so long may be taken for somebody who
/// asked just now, once.
fn short(millis: u64) -> u32 {
    u32::try_from(millis & u64::from(u32::MAX)).unwrap_or_default()
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Place { set, way } = self.place;
        self.zone.set(set).0[way].open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn rates(second: u32, minute: u32, connections: u32, multiplier: u32) -> Rates {
        let multiplier = Some(multiplier);
        Rates { second, minute, connections, multiplier, ..Rates::default() }
    }

    /// How many of so many requests at a moment are let in.
    fn passed(zone: &Arc<Zone>, rates: &Rates, client: u32, now: Instant, many: usize) -> usize {
        (0..many).filter(|_| zone.count(rates, address(client), now).is_ok()).count()
    }

    #[test]
    fn a_burst_and_one_more_pass_at_once_and_then_the_rate() {
        for (case, rates, steps) in [
            (
                "5 a second",
                rates(5, 0, 0, 5),
                &[(0, 26), (100, 0), (200, 1), (400, 1), (60_000, 26)][..],
            ),
            ("no burst", rates(2, 0, 0, 0), &[(0, 1), (499, 0), (500, 1), (1000, 1), (9000, 1)]),
            ("6 a minute", rates(0, 6, 0, 1), &[(0, 7), (9_000, 0), (10_001, 1), (20_002, 1)]),
            ("both", rates(2, 6, 0, 1), &[(0, 3), (1000, 2), (2000, 2), (3000, 0), (10_100, 1)]),
        ] {
            let zone = Zone::new();
            let at = |millis: u64| zone.epoch + Duration::from_millis(millis);
            for (millis, expected) in steps {
                assert_eq!(
                    passed(&zone, &rates, 1, at(*millis), 100),
                    *expected,
                    "{case} at {millis}"
                );
            }
            assert!(passed(&zone, &rates, 2, at(0), 1) == 1, "{case}: another client");
        }
    }

    #[test]
    fn requests_under_way_are_counted_until_they_end() {
        let zone = Zone::new();
        let now = Instant::now();
        let limit = rates(0, 0, 8, 5);
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..20 {
            match zone.count(&limit, address(1), now) {
                Ok(it) => held.push(it),
                Err(TooMuch::Connections) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!((held.len(), refused), (8, 12));
        assert!(zone.count(&limit, address(2), now).is_ok());
        held.pop();
        let again = zone.count(&limit, address(1), now);
        assert!(again.is_ok() && zone.count(&limit, address(1), now).is_err());
        drop((held, again));
        assert_eq!(
            zone.client(zone.seed.hash_one(address(1)).max(1), 0)
                .map(|it| it.1.open.load(Ordering::Relaxed)),
            Some(0)
        );
    }

    #[test]
    fn workers_that_ask_together_let_no_more_in() {
        for round in 0..200 {
            let zone = Zone::new();
            let rates = rates(5, 0, 0, 2);
            let now = Instant::now();
            let passed: usize = std::thread::scope(|scope| {
                let ask = || scope.spawn(|| passed(&zone, &rates, round, now, 10));
                let workers = [ask(), ask(), ask(), ask()];
                workers.into_iter().map(|it| it.join().unwrap_or_default()).sum()
            });
            assert_eq!(passed, 11, "round {round}");
        }
    }

    #[test]
    fn memory_is_bounded_and_whoever_asked_longest_ago_is_forgotten() {
        let zone = Zone::new();
        let start = Instant::now();
        let once = rates(1, 0, 0, 0);
        for client in 0..25_000 {
            let now = start + Duration::from_micros(client.into());
            assert_eq!(passed(&zone, &once, client, now, 2), 1, "{client}");
        }
        let later = start + Duration::from_millis(25);
        // Half as many as there are places are hardly ever without one.
        let known = (24_000..25_000).filter(|it| passed(&zone, &once, *it, later, 1) == 0).count();
        assert!(known > 900, "{known} of 1000 are still known");
    }

    #[test]
    fn a_client_with_a_request_under_way_keeps_its_place() {
        let zone = Zone::new();
        let now = Instant::now();
        let limit = rates(0, 0, 1, 5);
        let held = zone.count(&limit, address(0), now);
        for client in 1..20_000 {
            assert!(zone.count(&limit, address(client), now).is_ok(), "{client}");
        }
        assert!(zone.count(&limit, address(0), now).is_err());
        drop(held);
        assert!(zone.count(&limit, address(0), now).is_ok());
        // A zone full of them takes no more.
        let all: Vec<_> = (0..20_000).map(|it| zone.count(&limit, address(it), now)).collect();
        let places = BLOCKS * BLOCK * WAYS;
        let let_in = all.iter().filter(|it| it.is_ok()).count();
        assert!((places * 8 / 10..=places).contains(&let_in), "{let_in} of {places}");
    }

    #[test]
    fn addresses_are_whole() {
        let zone = Zone::new();
        let now = Instant::now();
        let once = rates(1, 0, 0, 0);
        let ask = |text: &str| {
            let address: IpAddr = text.parse().expect("an address");
            zone.count(&once, address, now).is_ok()
        };
        for (address, expected) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(ask(address), expected, "{address}");
        }
    }
}
