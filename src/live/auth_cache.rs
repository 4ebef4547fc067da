//! What was found out about who asks, remembered for a while: passwords that were right, and what external
//! judges said.
//!
//! One for all workers, carried from each `Live` to the next. Places are fixed in number and each is one
//! pointer that is swapped: nobody waits for anybody. What is remembered is found by a keyed hash (HMAC with
//! SHA-256, RFC 2104) whose key is made by chance when the process starts, so neither a password nor a
//! cookie is held, and nobody can choose whose place to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;
use http::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::transport::{Tls, Transport};
use crate::model::guard::Judge;
use crate::model::upstream::{TlsVersions, UpstreamTls};

/// Places for passwords and for answers of judges, each.
const PLACES: usize = 4096;
/// For how long a password is taken without looking at its hash again. A hash that was changed or removed
/// counts at once.
const PASSWORD: Duration = Duration::from_secs(60);
/// How often a judge's failures are told at most.
const PAUSE: Duration = Duration::from_secs(10);
/// Most requests whose passwords are being checked or wait for it.
const MOST_WAITING: usize = 128;

/// What the checks of all routes have in common.
#[derive(Debug)]
pub struct Verdicts {
    /// Passwords that were right.
    pub passwords: Cache<()>,
    /// What judges said.
    pub judged: Cache<Judged>,
    hashing: Arc<Semaphore>,
    waiting: AtomicUsize,
    tls: Tls,
    epoch: Instant,
    /// In which [`PAUSE`] since then the last complaint was.
    told: AtomicU64,
}

/// What a judge said of a request.
#[derive(Debug)]
pub struct Judged {
    /// Whom we asked: what another one said, or the same asked otherwise, does not count.
    pub judge: Arc<Judge>,
    /// The status.
    pub status: u16,
    /// Of the fields that endpoints get, those that were there.
    pub granted: Vec<(HeaderName, HeaderValue)>,
    /// `WWW-Authenticate`
    pub challenges: Vec<HeaderValue>,
    /// `Set-Cookie`; what has any is not remembered.
    pub cookies: Vec<HeaderValue>,
}

impl Default for Verdicts {
    fn default() -> Self {
        // One password takes a core for a tenth of a second: some are left for requests.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A judge's certificate is looked at as little as nginx looks.
        let tls = UpstreamTls {
            secret: None,
            authorities: None,
            client: None,
            name: ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
            server_name: true,
            versions: TlsVersions::default(),
        };
        Self {
            passwords: Cache::default(),
            judged: Cache::default(),
            hashing: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: AtomicUsize::new(0),
            tls: Tls::new(&tls, false),
            epoch: Instant::now(),
            told: AtomicU64::new(0),
        }
    }
}

impl Verdicts {
    /// A turn to check a password, which may take seconds of a core; `None` when too many wait.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::new(&self.waiting)?;
        self.hashing.clone().acquire_owned().await.ok()
    }

    /// Until when a password that was found right counts.
    pub fn password_until(now: Instant) -> Instant {
        now + PASSWORD
    }

    /// Whether somebody may be told of a judge that fails: once in a while, however many requests fail.
    pub fn may_tell(&self, now: Instant) -> bool {
        let pauses = now.saturating_duration_since(self.epoch).as_secs() / PAUSE.as_secs() + 1;
        self.told.swap(pauses, Ordering::Relaxed) != pauses
    }

    /// The way to speak to a judge: over TLS with a server's name, else in clear.
    pub fn transport(&self, name: Option<ServerName<'static>>) -> Transport {
        let Some(name) = name else { return Transport { id: 0, h2: false, tls: None } };
        // Others are numbered from below; that two names meet would take 2^63 of them.
        let tag = self.judged.tag(&[name.to_str().as_bytes()]);
        let id = tag.number() | 1 << 63;
        Transport { id, h2: false, tls: Some(Tls { config: self.tls.config.clone(), name }) }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Things found by a keyed hash, for a while; what is new takes the place of what would end first.
#[derive(Debug)]
pub struct Cache<T> {
    key: hmac::Key,
    places: Box<[ArcSwapOption<Entry<T>>]>,
}

/// What a thing is found by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag([u8; 32]);

#[derive(Debug)]
struct Entry<T> {
    tag: Tag,
    until: Instant,
    value: Arc<T>,
}

impl Tag {
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_ne_bytes(bytes)
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()),
            places: std::iter::repeat_with(ArcSwapOption::empty).take(PLACES).collect(),
        }
    }
}

impl<T> Cache<T> {
    /// The tag of a thing that is told from others by these parts.
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            // So that nobody can shift a byte from one part to the next.
            context.update(&part.len().to_ne_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        Tag(tag)
    }

    /// What is remembered under a tag. Takes two looks.
    pub fn find(&self, tag: &Tag, now: Instant) -> Option<Arc<T>> {
        self.places(tag).into_iter().find_map(|it| {
            let entry = it.load();
            let entry = entry.as_ref()?;
            (entry.tag == *tag && now < entry.until).then(|| entry.value.clone())
        })
    }

    /// Remembers something until then.
    pub fn put(&self, tag: Tag, until: Instant, value: Arc<T>) {
        let [one, other] = self.places(&tag);
        // What is there already goes first, then what is free, then what ends first.
        let rank = |it: &ArcSwapOption<Entry<T>>| {
            it.load().as_ref().map(|it| (it.tag != tag, it.until)).map_or(
                (1, None),
                |(kept, until)| {
                    if kept { (2, Some(until)) } else { (0, None) }
                },
            )
        };
        let place = if rank(other) < rank(one) { other } else { one };
        place.store(Some(Arc::new(Entry { tag, until, value })));
    }

    fn places(&self, tag: &Tag) -> [&ArcSwapOption<Entry<T>>; 2] {
        let place = usize::try_from(tag.number() % PLACES as u64).unwrap_or_default();
        [&self.places[place], &self.places[place ^ 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_found_until_it_ends() {
        let cache = Cache::default();
        let now = Instant::now();
        let tag = cache.tag(&[b"a", b"b"]);
        assert_eq!(cache.find(&tag, now), None);
        cache.put(tag, now + Duration::from_secs(5), Arc::new(1));
        for (case, parts, after, expected) in [
            ("at once", [&b"a"[..], b"b"], 0, Some(1)),
            ("in time", [b"a", b"b"], 4, Some(1)),
            ("too late", [b"a", b"b"], 5, None),
            ("something else", [b"a", b"c"], 0, None),
            ("parts shifted", [b"ab", b""], 0, None),
        ] {
            let found = cache.find(&cache.tag(&parts), now + Duration::from_secs(after));
            assert_eq!(found.as_deref().copied(), expected, "{case}");
        }
        cache.put(tag, now + Duration::from_secs(9), Arc::new(2));
        let later = now + Duration::from_secs(6);
        assert_eq!(cache.find(&tag, later).as_deref(), Some(&2));
        assert_eq!(Cache::<u8>::default().find(&tag, now), None);
    }

    #[test]
    fn memory_is_bounded_and_what_ends_first_goes_first() {
        let cache = Cache::default();
        let now = Instant::now();
        for number in 0..3 * PLACES as u64 {
            let tag = cache.tag(&[&number.to_ne_bytes()]);
            cache.put(tag, now + Duration::from_secs(number + 1), Arc::new(number));
            assert_eq!(cache.find(&tag, now).as_deref(), Some(&number), "the newest is there");
        }
        let held = cache.places.iter().filter(|it| it.load().is_some()).count();
        assert!(held > PLACES / 2 && held <= PLACES, "{held}");
    }

    #[tokio::test]
    async fn too_many_passwords_at_a_time_are_refused() {
        let verdicts = Verdicts::default();
        let mut turns = Vec::new();
        for _ in 0..verdicts.hashing.available_permits() {
            turns.push(verdicts.turn().await.expect("a turn"));
        }
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(verdicts.turn())).collect();
        for it in &mut waiting {
            assert!(futures_util::poll!(it).is_pending());
        }
        assert!(verdicts.turn().await.is_none());
        turns.clear();
        drop(waiting);
        assert!(verdicts.turn().await.is_some());
    }

    #[test]
    fn failures_are_told_once_in_a_while() {
        let verdicts = Verdicts::default();
        let told = [0, 0, 9, 10, 19, 20, 60, 61].map(|it| {
            let now = verdicts.epoch + Duration::from_secs(it);
            verdicts.may_tell(now)
        });
        assert_eq!(told, [true, false, false, true, false, true, true, false]);
    }

    #[test]
    fn judges_with_other_names_share_no_connection() {
        let verdicts = Verdicts::default();
        let id = |name: &str| {
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            verdicts.transport(Some(name)).id
        };
        assert_eq!(id("a.test"), id("a.test"));
        assert_ne!(id("a.test"), id("b.test"));
        assert!(id("a.test") > 1 << 62);
        assert_eq!(verdicts.transport(None).id, 0);
    }
}
