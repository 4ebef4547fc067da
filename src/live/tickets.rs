//! Session tickets: what a client needs to resume, sealed with a key that rotates.
//!
//! RFC 8446 section 4.6.1 and RFC 5077. A ticket is good for exactly its lifetime; a key seals for that long
//! and opens for as long again, so that a stolen key tells little. Keys are this process's own and die with
//! it: other replicas cannot open its tickets, nor can other policies.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

/// Bytes of a key's name, which a ticket begins with.
const NAME: usize = 16;
/// Bytes of the nonce that follows.
const NONCE: usize = 12;
/// Bytes of the time of issue, which is sealed before the session.
const ISSUED: usize = 8;
/// Largest session that gets a ticket, in bytes: with a client's chain of certificates a few thousand.
const LARGEST: usize = 16 << 10;

/// Seals and opens the tickets of one policy.
pub(super) struct Tickets {
    lifetime: Duration,
    /// What its times are counted from.
    epoch: Instant,
    keys: ArcSwap<Keys>,
}

struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    /// When `current` began.
    since: Duration,
}

struct Key {
    name: [u8; NAME],
    key: RandomizedNonceKey,
}

/// No randomness is to be had.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoRandomness;

impl Tickets {
    /// Tickets that are good for `lifetime`, from `now` on.
    pub(super) fn new(lifetime: Duration, now: Instant) -> Result<Self, NoRandomness> {
        let keys = Keys { current: Key::new()?.into(), previous: None, since: Duration::ZERO };
        Ok(Self { lifetime, epoch: now, keys: ArcSwap::from_pointee(keys) })
    }

    /// Seals a session. `None` leaves the client without a ticket.
    fn seal(&self, session: &[u8], now: Instant) -> Option<Vec<u8>> {
        if session.len() > LARGEST {
            return None;
        }
        let now = now.saturating_duration_since(self.epoch);
        self.rotate(now);
        let keys = self.keys.load();
        let Key { name, key } = &*keys.current;
        let issued = u64::try_from(now.as_millis()).ok()?;
        let mut sealed = [&issued.to_be_bytes()[..], session].concat();
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    /// Opens what [`Tickets::seal`] sealed, if it is still good.
    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let now = now.saturating_duration_since(self.epoch);
        self.rotate(now);
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE)?;
        let keys = self.keys.load();
        let known = [Some(&keys.current), keys.previous.as_ref()];
        let key = known.into_iter().flatten().find(|it| it.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = key.key.open_in_place(nonce, Aad::from(&key.name), &mut sealed).ok()?;
        let (issued, session) = opened.split_at_checked(ISSUED)?;
        let issued = Duration::from_millis(u64::from_be_bytes(issued.try_into().ok()?));
        (now.saturating_sub(issued) <= self.lifetime).then(|| session.to_vec())
    }

    /// Takes a new key once the present one has sealed for a lifetime. Two that do so at once differ in
    /// whose key stays; tickets of the other one are not good, and cost a handshake.
    fn rotate(&self, now: Duration) {
        let keys = self.keys.load();
        let used = now.saturating_sub(keys.since);
        if used < self.lifetime {
            return;
        }
        // Without randomness there is nothing better than the old key.
        let Ok(fresh) = Key::new() else { return };
        // Whatever an older one sealed is not good any more.
        let previous = (used < self.lifetime * 2).then(|| keys.current.clone());
        let next = Keys { current: fresh.into(), previous, since: now };
        self.keys.compare_and_swap(&keys, Arc::new(next));
    }
}

impl Key {
    fn new() -> Result<Self, NoRandomness> {
        let mut name = [0; NAME];
        let mut secret = [0; 32];
        rand::fill(&mut name).map_err(|_| NoRandomness)?;
        rand::fill(&mut secret).map_err(|_| NoRandomness)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, &secret).map_err(|_| NoRandomness)?;
        Ok(Self { name, key })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, Instant::now())
    }
}

impl fmt::Debug for Tickets {
    /// Never shows a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_ticket_is_good_for_its_lifetime_across_a_rotation() {
        let epoch = Instant::now();
        for (issued, shown, expected) in [
            (0, 0, true),
            (0, 599, true),
            (0, 600, true),
            (0, 601, false),
            (1, 600, true),
            (599, 1199, true),
            (599, 1200, false),
            (700, 1300, true),
            (700, 1301, false),
            (0, 100_000, false),
        ] {
            let tickets = Tickets::new(LIFETIME, epoch).expect("randomness");
            let ticket = tickets.seal(b"session", epoch + seconds(issued)).expect("a ticket");
            // Others come and go in between.
            for at in (issued..shown).step_by(60) {
                tickets.seal(b"another", epoch + seconds(at)).expect("a ticket");
            }
            let opened = tickets.open(&ticket, epoch + seconds(shown));
            assert_eq!(opened.as_deref() == Some(b"session"), expected, "{issued} {shown}");
        }
    }

    #[test]
    fn keys_rotate() {
        let epoch = Instant::now();
        let tickets = Tickets::new(LIFETIME, epoch).expect("randomness");
        let names = [0, 599, 600, 1199, 1200, 5000].map(|at| {
            let ticket = tickets.seal(b"", epoch + seconds(at)).expect("a ticket");
            ticket[..NAME].to_vec()
        });
        assert_eq!(names[0], names[1]);
        assert_ne!(names[1], names[2]);
        assert_eq!(names[2], names[3]);
        assert_ne!(names[3], names[4]);
        assert_ne!(names[4], names[5]);
        assert!(tickets.keys.load().previous.is_none(), "nothing that is still good was sealed");
    }

    #[test]
    fn what_was_not_sealed_here_is_not_opened() {
        let now = Instant::now();
        let [one, other] = [(); 2].map(|()| Tickets::new(LIFETIME, now).expect("randomness"));
        assert_eq!(one.seal(&vec![0; LARGEST + 1], now), None);
        let ticket = one.seal(b"session", now).expect("a ticket");
        assert_eq!(other.open(&ticket, now), None, "another policy's");
        for length in 0..ticket.len() {
            assert_eq!(one.open(&ticket[..length], now), None, "cut at {length}");
        }
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(one.open(&changed, now), None, "changed at {at}");
        }
    }
}
