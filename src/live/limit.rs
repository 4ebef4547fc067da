//! What clients may take of this process: connections in all, connections of one address, handshakes at a
//! time, memory.
//!
//! One for all workers, so that an uneven spread over them refuses nobody early; atomics only. What
//! was taken is given back when its guard is dropped.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// Most handshakes at a time. A worker does some thousands a second; whoever waits behind this many is
/// told at once rather than after the handshake's patience.
const MOST_HANDSHAKES: usize = 2_000;
/// Places in the table of addresses; each takes four bytes.
const PLACES: usize = 65_536;

/// What clients have taken, and what they may.
#[derive(Debug)]
pub struct Limits {
    open: AtomicUsize,
    most_open: usize,
    handshakes: AtomicUsize,
    most_of_address: u32,
    /// Connections by a hash of the address. Two addresses on one place are counted together: that only
    /// ever counts too many, and nobody can choose whom to meet, because the hash is seeded by chance.
    addresses: Box<[AtomicU32]>,
    seed: RandomState,
    short: AtomicBool,
}

impl Limits {
    /// Limits of `most_open` connections in all and `most_of_address` of one address: half of all
    /// unless given, none for 0.
    pub fn new(most_open: usize, most_of_address: Option<u32>) -> Arc<Self> {
        let half = u32::try_from(most_open / 2).unwrap_or(u32::MAX).max(1);
        let most_of_address = match most_of_address {
            None => half,
            Some(0) => u32::MAX,
            Some(most) => most,
        };
        Arc::new(Self {
            open: AtomicUsize::new(0),
            most_open,
            handshakes: AtomicUsize::new(0),
            most_of_address,
            addresses: std::iter::repeat_with(AtomicU32::default).take(PLACES).collect(),
            seed: RandomState::new(),
            short: AtomicBool::new(false),
        })
    }

    /// Counts a connection; `None` when there are as many as may be.
    pub fn open(self: &Arc<Self>) -> Option<Open> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(self.clone());
        (before < self.most_open).then_some(open)
    }

    /// Counts a connection that takes the place of one that is about to end.
    pub fn replace(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// Counts a connection of `address`; `None` when it has as many as one may have.
    pub fn of_address(self: &Arc<Self>, address: IpAddr) -> Option<OfAddress> {
        let place = self.place(address);
        let before = self.addresses[place].fetch_add(1, Ordering::Relaxed);
        let taken = OfAddress { limits: self.clone(), place };
        (before < self.most_of_address).then_some(taken)
    }

    /// Counts a handshake; `None` when there are as many as may be.
    pub fn handshake(self: &Arc<Self>) -> Option<Handshake> {
        let before = self.handshakes.fetch_add(1, Ordering::Relaxed);
        let handshake = Handshake(self.clone());
        (before < MOST_HANDSHAKES).then_some(handshake)
    }

    /// Whether memory is so short that clients have to give some back.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Notes whether memory is short.
    pub(super) fn set_short(&self, short: bool) {
        self.short.store(short, Ordering::Relaxed);
    }

    fn place(&self, address: IpAddr) -> usize {
        let key = match address.to_canonical() {
            IpAddr::V4(it) => u64::from(it.to_bits()),
            // Whoever has one address of a /64 has all of them (RFC 6177). No such prefix is below 2^32:
            // those addresses belong to nobody (RFC 4291 section 4).
            IpAddr::V6(it) => u64::try_from(it.to_bits() >> 64).unwrap_or_default(),
        };
        let hash = self.seed.hash_one(key) % self.addresses.len() as u64;
        usize::try_from(hash).unwrap_or_default()
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Open(Arc<Limits>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's connection, counted with its address.
#[derive(Debug)]
pub struct OfAddress {
    limits: Arc<Limits>,
    place: usize,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        self.limits.addresses[self.place].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake(Arc<Limits>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let limits = Limits::new(2, None);
        let one = limits.open();
        let two = limits.open();
        assert!(one.is_some() && two.is_some() && limits.open().is_none());
        let instead = limits.replace();
        drop((one, two));
        let again = limits.open();
        assert!(again.is_some() && limits.open().is_none());
        drop((again, instead));
        assert_eq!(limits.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_address_has_its_share() {
        for (case, most_open, given, expected) in [
            ("half by default", 10, None, 5),
            ("half of little", 1, None, 1),
            ("as given", 10, Some(3), 3),
            ("0 lifts it", 10, Some(0), 200),
        ] {
            let limits = Limits::new(most_open, given);
            let mut taken = Vec::new();
            while let Some(one) = limits.of_address(address("192.0.2.1"))
                && taken.len() < 200
            {
                taken.push(one);
            }
            assert_eq!(taken.len(), expected, "{case}");
            drop(taken);
            assert!(limits.of_address(address("192.0.2.1")).is_some(), "{case}: given back");
        }
    }

    #[test]
    fn addresses_of_one_client_are_one() {
        let limits = Limits::new(10, None);
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            // Different ones share a place once in 65,536 times.
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            let alike = (0..3).all(|_| {
                let limits = Limits::new(10, None);
                limits.place(address(one)) == limits.place(address(other))
            });
            assert_eq!(alike, same, "{one} {other}");
        }
        let places: Vec<_> = (0..100).map(|_| limits.place(address("192.0.2.1"))).collect();
        assert!(places.iter().all(|it| *it == places[0]));
    }
}
