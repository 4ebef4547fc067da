//! What was found out about who asks, remembered for a while: passwords that were right, and what external
//! judges said.
//!
//! One for all workers, carried from each `Live` to the next. Places are fixed in number and each is one
//! pointer that is swapped: nobody waits for anybody. What is remembered is found by a keyed hash (HMAC with
//! SHA-256, RFC 2104) whose key is made by chance when the process starts, so neither a password nor a
//! cookie is held, and nobody can choose whose place to take.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;
use http::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::transport::{Tls, Transport};
use crate::model::guard::Judge;
use crate::model::name::ObjectName;
use crate::model::upstream::{TlsVersions, UpstreamTls};

/// Places for passwords and for answers of judges, each.
const PLACES: usize = 4096;
/// For how long a password is taken without looking at its hash again; a use in the second half of that begins
/// it anew. A hash that was changed or removed counts at once.
const PASSWORD: Duration = Duration::from_secs(60);
/// How often a judge's failures are told at most.
const PAUSE: Duration = Duration::from_secs(10);
/// Most requests that wait for a password to be checked: all, those for one namespace, those for one Ingress,
/// and of them those of one client. Whoever guesses passwords keeps few others from having theirs checked.
const MOST_WAITING: usize = 128;
const MOST_OF_NAMESPACE: usize = 64;
const MOST_OF_INGRESS: usize = 32;
const MOST_OF_CLIENT: usize = 16;
/// Most that come with one password at a time; they are checked one after the other, and counted above as one.
const MOST_OF_PASSWORD: usize = 128;
/// Places to count in, for each of these kinds; who shares one with somebody else shares its bound.
const COUNTED: usize = 4096;

/// What the checks of all routes have in common.
#[derive(Debug)]
pub struct Verdicts {
    /// Passwords that were right, each with when it is to be remembered anew.
    passwords: Cache<Instant>,
    /// What judges said.
    pub judged: Cache<Judged>,
    hashing: Arc<Semaphore>,
    waiting: Waiting,
    /// Passwords that are being checked, by their tags.
    alone: Box<[Semaphore]>,
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
            waiting: Waiting::default(),
            alone: std::iter::repeat_with(|| Semaphore::new(1)).take(COUNTED).collect(),
            tls: Tls::new(&tls, false),
            epoch: Instant::now(),
            told: AtomicU64::new(0),
        }
    }
}

impl Verdicts {
    /// Waits for others who come with the same password: they may find out that it is right. `None` when too
    /// many do.
    pub async fn alone(&self, password: Tag) -> Option<SemaphorePermit<'_>> {
        let _waiting = Place::take(self.waiting.passwords.of(&password), MOST_OF_PASSWORD)?;
        self.alone[password.place(COUNTED)].acquire().await.ok()
    }

    /// A turn to check a password, which may take seconds of a core; `None` when too many wait.
    pub async fn turn(&self, asker: Asker<'_>) -> Option<OwnedSemaphorePermit> {
        let [namespace, ingress, client] = asker.tags(&self.passwords);
        let Waiting { all, namespaces, ingresses, clients, .. } = &self.waiting;
        let _waiting = [
            Place::take(clients.of(&client), MOST_OF_CLIENT)?,
            Place::take(ingresses.of(&ingress), MOST_OF_INGRESS)?,
            Place::take(namespaces.of(&namespace), MOST_OF_NAMESPACE)?,
            Place::take(all, MOST_WAITING)?,
        ];
        self.hashing.clone().acquire_owned().await.ok()
    }

    /// What a password is found by, for a user with this hash.
    pub fn tag(&self, hash: &[u8], password: &[u8]) -> Tag {
        self.passwords.tag(&[hash, password])
    }

    /// Whether a password was found right lately. While it is used it stays so: all who use a busy one would
    /// wait for its check at once.
    pub fn knows(&self, password: Tag, now: Instant) -> bool {
        let Some(renewal) = self.passwords.find(&password, now) else { return false };
        if *renewal <= now {
            self.remember(password, now);
        }
        true
    }

    /// Remembers that a password is right.
    pub fn remember(&self, password: Tag, now: Instant) {
        self.passwords.put(password, now + PASSWORD, Arc::new(now + PASSWORD / 2));
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
        let tls = Tls { config: self.tls.config.clone(), name };
        Transport { id, h2: false, tls: Some(tls.into()) }
    }
}

/// Who wants a password checked.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The Ingress that asks for it.
    pub ingress: &'a ObjectName,
    /// Where it came from.
    pub client: IpAddr,
}

impl Asker<'_> {
    /// Its namespace, its Ingress and, of that, the client. A client has a whole network of IPv6 (RFC 6177).
    fn tags<T>(&self, cache: &Cache<T>) -> [Tag; 3] {
        let namespace = self.ingress.namespace.as_bytes();
        let name = self.ingress.name.as_bytes();
        let client = match self.client.to_canonical() {
            IpAddr::V4(it) => it.to_bits().into(),
            IpAddr::V6(it) => it.to_bits() >> 64,
        };
        [
            cache.tag(&[namespace]),
            cache.tag(&[namespace, name]),
            cache.tag(&[namespace, name, &client.to_ne_bytes()]),
        ]
    }
}

/// How many requests wait for a password to be checked.
#[derive(Debug, Default)]
struct Waiting {
    all: AtomicUsize,
    namespaces: Counts,
    ingresses: Counts,
    clients: Counts,
    passwords: Counts,
}

/// Counts, each found by a tag.
#[derive(Debug)]
struct Counts(Box<[AtomicUsize]>);

impl Default for Counts {
    fn default() -> Self {
        Self(std::iter::repeat_with(AtomicUsize::default).take(COUNTED).collect())
    }
}

impl Counts {
    fn of(&self, tag: &Tag) -> &AtomicUsize {
        &self.0[tag.place(COUNTED)]
    }
}

/// One of those that are counted, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
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
    /// One of so many places.
    fn place(&self, places: usize) -> usize {
        usize::try_from(self.number() % places as u64).unwrap_or_default()
    }

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
        let place = tag.place(PLACES);
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
    async fn whoever_guesses_leaves_room_for_others() {
        let name = |text: &str| text.parse::<ObjectName>().expect("a name");
        let evil: Vec<_> = (0..3).map(|it| name(&format!("evil/{it}"))).collect();
        let (own, other, third) = (name("shop/web"), name("shop/api"), name("team/web"));
        let client = |number: u32| IpAddr::from(number.to_be_bytes());
        let six = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut verdicts = Verdicts::default();
        // So that no two of them share a place by chance.
        verdicts.passwords.key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let mut turns = Vec::new();
        for number in 0..verdicts.hashing.available_permits() {
            let number = u32::try_from(number).expect("few");
            let asker = Asker { ingress: &own, client: client(number) };
            turns.push(verdicts.turn(asker).await.expect("a turn"));
        }
        let mut waiting = Vec::new();
        // How many of 200 requests wait, of so many clients each.
        for (case, ingress, clients, expected) in [
            ("one client", &own, &[client(1)][..], MOST_OF_CLIENT),
            ("the same written otherwise", &own, &[six("::ffff:0.0.0.1")], 0),
            ("one network", &own, &[six("2001:db8::1"), six("2001:db8::2")], MOST_OF_CLIENT),
            (
                "many clients of one Ingress",
                &evil[0],
                &(100..300).map(client).collect::<Vec<_>>(),
                MOST_OF_INGRESS,
            ),
            (
                "many of another",
                &evil[1],
                &(300..500).map(client).collect::<Vec<_>>(),
                MOST_OF_INGRESS,
            ),
            ("many of a third in one namespace", &evil[2], &[client(1)], 0),
            ("somebody else there", &own, &[client(2)], 0),
            ("in another Ingress", &other, &[client(1)], MOST_OF_CLIENT),
            ("as many as are left", &third, &(500..700).map(client).collect::<Vec<_>>(), 16),
        ] {
            let mut found = 0;
            for turn in 0..200 {
                let asker = Asker { ingress, client: clients[turn % clients.len()] };
                let mut it = Box::pin(verdicts.turn(asker));
                if futures_util::poll!(&mut it).is_pending() {
                    found += 1;
                    waiting.push(it);
                }
            }
            assert_eq!(found, expected, "{case}");
        }
        assert_eq!(waiting.len(), MOST_WAITING);
        let late = Asker { ingress: &name("last/web"), client: client(9) };
        assert!(verdicts.turn(late).await.is_none(), "all together");
        turns.clear();
        drop(waiting);
        assert!(verdicts.turn(late).await.is_some());
    }

    #[tokio::test]
    async fn those_with_one_password_come_one_by_one() {
        let verdicts = Verdicts::default();
        let tag = verdicts.tag(b"hash", b"secret");
        let first = verdicts.alone(tag).await.expect("the first");
        let mut waiting: Vec<_> =
            (0..MOST_OF_PASSWORD).map(|_| Box::pin(verdicts.alone(tag))).collect();
        for it in &mut waiting {
            assert!(futures_util::poll!(it).is_pending());
        }
        assert!(verdicts.alone(tag).await.is_none());
        drop(first);
        assert!(futures_util::poll!(&mut waiting[0]).is_ready());
        assert!(futures_util::poll!(&mut waiting[1]).is_ready());
    }

    #[test]
    fn a_password_in_use_stays_known() {
        let verdicts = Verdicts::default();
        let (tag, begin) = (verdicts.tag(b"hash", b"secret"), Instant::now());
        verdicts.remember(tag, begin);
        for (seconds, expected) in
            [(0, true), (29, true), (59, true), (118, true), (177, true), (237, false)]
        {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(verdicts.knows(tag, now), expected, "after {seconds} s");
        }
        assert!(!verdicts.knows(verdicts.tag(b"other", b"secret"), begin));
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
