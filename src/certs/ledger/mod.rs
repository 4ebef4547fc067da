//! What was ordered and what came of it: the memory that no loop gets round.
//!
//! Kept in ConfigMaps of our own, so that it outlives the Secrets it is about, a crash, and the leader.
//! An order is written down before the CA hears of it; one that nobody saw the end of counts as issued.
//! Pure, with the time as an argument: seconds since 1970. [`Book`](super::book::Book) writes it down.

mod admit;
mod page;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::limit::Scope;
use super::trouble::Class;
use page::{DAYS, Page, Set, newest};

/// How many ConfigMaps it is spread over.
pub(super) const PAGES: usize = 16;
/// The page with what is not about one set of names.
const FRONT: usize = 0;

/// Most orders of an account in [`ORDERS_SPAN`] seconds: four fifths of Let's Encrypt's.
const ORDERS: u32 = 240;
const ORDERS_SPAN: i64 = 3 * 3600;
/// Most new sets of names under a registered domain in [`WEEK`]: four fifths of Let's Encrypt's.
const OF_DOMAIN: usize = 40;
const WEEK: i64 = 7 * 86_400;
/// Most failed validations of a name in an hour; Let's Encrypt's is 5.
const FAILURES: usize = 3;
const HOUR: i64 = 3600;
/// Most times that are remembered of a set.
const MOST_ISSUES: usize = 1_000;
/// Between two orders for a part of the names, for want of the whole.
const BETWEEN_SUBSETS: i64 = 86_400;
/// Between two registrations of an account that the CA does not know.
const BETWEEN_REGISTRATIONS: i64 = 86_400;

/// How often one set of names is issued at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// Certificates ...
    pub issues: u32,
    /// ... in any time of this length.
    pub span: Duration,
    /// Between two of them.
    pub gap: Duration,
    /// Whether the CA has limits of its own that are to be kept.
    pub public: bool,
}

impl Default for Budget {
    /// 3 in 7 days, an hour apart: Let's Encrypt's limit is 5 in 7 days.
    fn default() -> Self {
        let (span, gap) = (Duration::from_secs(604_800), Duration::from_secs(3_600));
        Self { issues: 3, span, gap, public: true }
    }
}

/// Why an order may not be placed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Spent {
    /// Which budget, for a person.
    pub(super) text: String,
    /// When there is some again.
    pub(super) until: i64,
    /// Whether something orders again and again what it has.
    pub(super) runaway: bool,
}

/// What is to be ordered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Which set of names, of which issuer: [`key`].
    pub(super) key: &'a str,
    /// The names.
    pub(super) names: &'a BTreeSet<String>,
    /// Whether there is no certificate for them yet.
    pub(super) first: bool,
    /// Whether a person asked for it past the budget: one more is allowed, at once.
    pub(super) forced: bool,
    /// Whether the CA asks for it before its time: the last of the budget is kept for what cannot wait.
    pub(super) early: bool,
}

/// What is known of a set's failures.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Backoff {
    /// In a row.
    pub(super) failures: u32,
    /// Of the last one.
    pub(super) class: Option<Class>,
    /// Until when nothing is tried.
    pub(super) until: i64,
    /// What it said.
    pub(super) error: String,
    /// The names it was about.
    pub(super) bad: Vec<String>,
}

/// A failure, as it is written down.
#[derive(Clone, Debug)]
pub(super) struct Failure<'a> {
    pub(super) class: Class,
    pub(super) attempt: bool,
    pub(super) until: i64,
    pub(super) error: &'a str,
    pub(super) bad: &'a [String],
    /// What was asked, so that another question is asked at once.
    pub(super) spec: &'a str,
}

/// The ledger; each part is on the page that its key leads to.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    budget: Budget,
    pages: Vec<Page>,
    dirty: [bool; PAGES],
    /// The time as it was last given.
    now: i64,
    /// When all pages were last pruned.
    pruned: i64,
}

/// By what a set of names is found, whatever their order.
pub(super) fn key(issuer: &str, names: &BTreeSet<String>) -> String {
    let mut text = issuer.to_owned();
    for name in names {
        text.push('\n');
        text.push_str(name);
    }
    let mut key = String::with_capacity(32);
    for byte in &digest(&SHA256, text.as_bytes()).as_ref()[..16] {
        // Writing to a string does not fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

/// The registered domain of a name: what Let's Encrypt counts by.
pub(super) fn registered_domain(name: &str) -> &str {
    let name = name.strip_prefix("*.").unwrap_or(name);
    psl::domain_str(name).unwrap_or(name)
}

fn place(text: &str) -> usize {
    usize::from(digest(&SHA256, text.as_bytes()).as_ref()[0]) % PAGES
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

impl Ledger {
    pub(super) fn new(budget: Budget) -> Self {
        let pages = vec![Page::default(); PAGES];
        Self { budget, pages, dirty: [false; PAGES], now: 0, pruned: 0 }
    }

    /// Notes that an order is about to be placed.
    pub(super) fn reserve(&mut self, key: &str, now: i64) {
        let set = self.set_mut(key, now);
        set.open = Some(now);
        self.ordered(now);
    }

    /// Counts a request for an order.
    pub(super) fn ordered(&mut self, now: i64) {
        // In steps of five minutes, the last of which counts as a whole until it is over.
        *self.front().orders.entry(now - now.rem_euclid(300) + 300).or_default() += 1;
    }

    /// When the order under way was reserved, if there is one.
    pub(super) fn reserved(&self, key: &str) -> Option<i64> {
        self.set(key)?.open
    }

    /// Nobody saw the end of what was reserved: it counts as issued just now.
    pub(super) fn abandon(&mut self, key: &str, now: i64) {
        let most = self.remembered();
        let set = self.set_mut(key, now);
        if set.open.take().is_some() {
            newest(&mut set.issued, now, most);
        }
    }

    /// How many times of a set are worth remembering: those that its budget is reckoned by.
    fn remembered(&self) -> usize {
        match self.budget.issues {
            u32::MAX => 1,
            issues => usize::try_from(issues).unwrap_or(MOST_ISSUES).min(MOST_ISSUES) + 2,
        }
    }

    /// What was reserved came to nothing, and will not come to anything.
    pub(super) fn release(&mut self, key: &str, now: i64) {
        self.set_mut(key, now).open = None;
    }

    /// A certificate was issued. One that was fetched before, and not stored, was counted then.
    pub(super) fn issued(&mut self, ask: &Ask<'_>, again: bool, now: i64) {
        let most = self.remembered();
        let set = self.set_mut(ask.key, now);
        let counted = set.open.take().is_none() && again && !set.issued.is_empty();
        if counted {
            return;
        }
        newest(&mut set.issued, now, most);
        if ask.first {
            let domains: BTreeSet<&str> =
                ask.names.iter().map(|it| registered_domain(it)).collect();
            for domain in domains {
                let at = place(domain);
                newest(
                    self.pages[at].domains.entry(domain.to_owned()).or_default(),
                    now,
                    OF_DOMAIN,
                );
                self.dirty[at] = true;
            }
        }
    }

    /// All is well with a set: its failures are forgotten.
    pub(super) fn settled(&mut self, key: &str, now: i64) {
        let clean = |it: &Set| {
            it.failures == 0 && it.class.is_none() && it.until == 0 && it.error.is_empty()
        };
        if self.set(key).is_none_or(clean) {
            // Nothing is to be written for it.
            return;
        }
        let set = self.set_mut(key, now);
        (set.failures, set.class, set.until) = (0, None, 0);
        set.error.clear();
        set.bad.clear();
    }

    /// Something went wrong with a set.
    pub(super) fn failed(&mut self, key: &str, failure: &Failure<'_>, now: i64) {
        let set = self.set_mut(key, now);
        set.failures = set.failures.saturating_add(u32::from(failure.attempt));
        set.class = Some(failure.class);
        set.until = failure.until;
        set.error = shortened(failure.error);
        set.bad = few(failure.bad);
        failure.spec.clone_into(&mut set.spec);
        if failure.class == Class::B {
            for name in failure.bad {
                let at = place(name);
                newest(self.pages[at].names.entry(name.clone()).or_default(), now, FAILURES);
                self.dirty[at] = true;
            }
        }
    }

    /// Something changed for the better: a set that waits is tried at once, in its budgets.
    pub(super) fn hasten(&mut self, key: &str, now: i64) {
        self.set_mut(key, now).until = now;
    }

    /// What is known of a set's failures; of another question than `spec` nothing is.
    pub(super) fn backoff(&self, key: &str, spec: &str) -> Backoff {
        let Some(set) = self.set(key) else { return Backoff::default() };
        let same = set.spec == spec || set.class != Some(Class::D);
        Backoff {
            failures: set.failures,
            class: set.class,
            until: if same { set.until } else { 0 },
            error: set.error.clone(),
            bad: set.bad.clone(),
        }
    }

    /// Whether a part of these names may be ordered, for want of the whole; notes it.
    pub(super) fn subset(&mut self, key: &str, now: i64) {
        self.set_mut(key, now).subset = Some(now);
    }

    /// When a part of these names may be ordered.
    pub(super) fn subset_at(&self, key: &str) -> i64 {
        let last = self.set(key).and_then(|it| it.subset);
        last.map_or(0, |it| it + BETWEEN_SUBSETS)
    }

    /// A limit of the CA's that more than one set waits for.
    pub(super) fn limit(&mut self, scope: &Scope, until: i64) {
        self.front().limits.insert(scope.to_string(), until);
    }

    /// Until when something waits, if it does.
    pub(super) fn limited(&self, scope: &Scope, now: i64) -> Option<i64> {
        self.pages[FRONT].limits.get(&scope.to_string()).copied().filter(|it| *it > now)
    }

    /// All limits that hold at `now`.
    pub(super) fn limits(&self, now: i64) -> impl Iterator<Item = (&String, &i64)> {
        self.pages[FRONT].limits.iter().filter(move |(_, until)| **until > now)
    }

    /// How many orders may still be placed.
    pub(super) fn orders_left(&self, now: i64) -> u32 {
        let recent = self.pages[FRONT].orders.iter().filter(|(at, _)| now - **at < ORDERS_SPAN);
        ORDERS.saturating_sub(recent.map(|(_, count)| *count).sum())
    }

    /// Whether an account that the CA forgot may be registered anew; notes that it is.
    pub(super) fn register(&mut self, issuer: &str, now: i64) -> Result<(), i64> {
        let accounts = &mut self.front().accounts;
        let until = accounts.get(issuer).map_or(now, |it| it + BETWEEN_REGISTRATIONS);
        if until > now {
            return Err(until);
        }
        accounts.insert(issuer.to_owned(), now);
        Ok(())
    }

    /// Forgets what says nothing any more, and moves what lies in the future to `now`: a clock was ahead.
    pub(super) fn prune(&mut self, now: i64) {
        (self.now, self.pruned) = (now, now);
        let kept = self.kept();
        for (at, page) in self.pages.iter_mut().enumerate() {
            self.dirty[at] |= page.prune(now, kept);
        }
    }

    /// Prunes once a day what a leader keeps that never reads it anew.
    pub(super) fn prune_daily(&mut self) {
        if (self.now - self.pruned).abs() >= 86_400 {
            self.prune(self.now);
        }
    }

    /// How long what was issued is remembered, in seconds.
    fn kept(&self) -> i64 {
        DAYS.max(seconds(self.budget.span)).max(seconds(self.budget.gap))
    }

    /// The pages that an order of this set is reckoned by.
    pub(super) fn pages_of(key: &str) -> [usize; 2] {
        [FRONT, place(key)]
    }

    /// Which pages are to be written.
    pub(super) fn dirty(&self) -> impl Iterator<Item = usize> {
        (0..PAGES).filter(|it| self.dirty[*it])
    }

    /// A page as it is written down; it counts as written.
    pub(super) fn write(&mut self, at: usize) -> String {
        let kept = self.kept();
        if self.now != 0 {
            self.pages[at].prune(self.now, kept);
        }
        self.dirty[at] = false;
        self.pages[at].write()
    }

    /// A page was not written after all.
    pub(super) fn unwritten(&mut self, at: usize) {
        self.dirty[at] = true;
    }

    /// Takes a page as it was written down; one that cannot be read says nothing.
    pub(super) fn read(&mut self, at: usize, text: &str) {
        self.pages[at] = Page::read(text).unwrap_or_else(|error| {
            tracing::error!(%error, page = at, "a page of the ledger cannot be read and is begun anew");
            Page::default()
        });
        self.dirty[at] = false;
    }

    fn set(&self, key: &str) -> Option<&Set> {
        self.pages[place(key)].sets.get(key)
    }

    fn set_mut(&mut self, key: &str, now: i64) -> &mut Set {
        let at = place(key);
        self.dirty[at] = true;
        self.now = now;
        self.pages[at].make_room(key);
        let set = self.pages[at].sets.entry(key.to_owned()).or_default();
        set.seen = now;
        set
    }

    fn front(&mut self) -> &mut Page {
        self.dirty[FRONT] = true;
        &mut self.pages[FRONT]
    }
}

/// As much of a text as is kept.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    text.chars().take(MOST).collect()
}

/// As many names as are kept.
fn few(names: &[String]) -> Vec<String> {
    const MOST: usize = 10;
    // One is kept at least: no name of a host has more than 253.
    const BYTES: usize = 300;
    let mut left = BYTES;
    let mut kept = Vec::new();
    for name in names.iter().take(MOST) {
        let Some(rest) = left.checked_sub(name.len()) else { break };
        left = rest;
        kept.push(name.clone());
    }
    kept
}

fn duration(seconds: i64) -> String {
    match seconds {
        it if it % 86_400 == 0 => format!("{} d", it / 86_400),
        it if it % 3_600 == 0 => format!("{} h", it / 3_600),
        it => format!("{it} s"),
    }
}

#[cfg(test)]
mod tests;
