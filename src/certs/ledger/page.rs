//! A page of the ledger: what is written into one ConfigMap, bounded in every direction.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::certs::trouble::Class;

/// How long what was issued is remembered at least, in seconds: twice Let's Encrypt's week.
pub(super) const DAYS: i64 = 14 * 86_400;
/// Most of each on a page: together less than the megabyte that a ConfigMap holds.
const SETS: usize = 1_000;
const NAMES: usize = 600;
const DOMAINS: usize = 300;
const LIMITS: usize = 300;
const ACCOUNTS: usize = 10;

/// Largest page that is written, in bytes: a ConfigMap holds 1 MiB, names and the rest included.
const LARGEST: usize = 900_000;

/// One ConfigMap's worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Page {
    /// By [`key`](super::key).
    pub(super) sets: BTreeMap<String, Set>,
    /// When each name failed to validate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) names: BTreeMap<String, Vec<i64>>,
    /// When a new set under each registered domain was issued.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) domains: BTreeMap<String, Vec<i64>>,
    /// How many orders were placed until a time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) orders: BTreeMap<i64, u32>,
    /// Until when the CA asked to wait, by scope.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) limits: BTreeMap<String, i64>,
    /// When an account that was lost was registered anew, by issuer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) accounts: BTreeMap<String, i64>,
}

/// What is remembered of one set of names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Set {
    /// When certificates were issued.
    pub(super) issued: Vec<i64>,
    /// When an order was reserved whose end nobody saw yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<i64>,
    /// In a row.
    pub(super) failures: u32,
    /// Of the last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<Class>,
    /// Until when nothing is tried.
    pub(super) until: i64,
    /// What the last failure said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) error: String,
    /// What was asked for when it failed, beside the names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) spec: String,
    /// The names the last failure was about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) bad: Vec<String>,
    /// When a part of the names was last ordered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subset: Option<i64>,
    /// When anything was last noted.
    pub(super) seen: i64,
}

/// Adds a time, and keeps the newest.
pub(super) fn newest(times: &mut Vec<i64>, now: i64, most: usize) {
    times.push(now);
    times.sort_unstable();
    let surplus = times.len().saturating_sub(most);
    times.drain(..surplus);
}

impl Set {
    /// Whether nothing was ever issued: to forget it costs a wait, and no certificate.
    fn only_failed(&self) -> bool {
        self.issued.is_empty() && self.open.is_none()
    }

    fn read(value: Value) -> Self {
        let Value::Object(mut parts) = value else { return Self::default() };
        let issued: Vec<Value> = part(&mut parts, "issued");
        Self {
            issued: issued.iter().filter_map(Value::as_i64).collect(),
            open: part(&mut parts, "open"),
            failures: part(&mut parts, "failures"),
            class: part(&mut parts, "class"),
            until: part(&mut parts, "until"),
            error: part(&mut parts, "error"),
            spec: part(&mut parts, "spec"),
            bad: part(&mut parts, "bad"),
            subset: part(&mut parts, "subset"),
            seen: part(&mut parts, "seen"),
        }
    }
}

/// A part of what was written down; one that this version cannot read says nothing.
fn part<T: DeserializeOwned + Default>(parts: &mut Map<String, Value>, name: &str) -> T {
    let found = parts.remove(name).and_then(|it| serde_json::from_value(it).ok());
    found.unwrap_or_default()
}

impl Page {
    /// Reads a page part by part: what another version wrote must not cost what everybody understands.
    pub(super) fn read(text: &str) -> Result<Self, serde_json::Error> {
        let mut parts: Map<String, Value> = serde_json::from_str(text)?;
        let sets: Map<String, Value> = part(&mut parts, "sets");
        Ok(Self {
            sets: sets.into_iter().map(|(key, it)| (key, Set::read(it))).collect(),
            names: part(&mut parts, "names"),
            domains: part(&mut parts, "domains"),
            orders: part(&mut parts, "orders"),
            limits: part(&mut parts, "limits"),
            accounts: part(&mut parts, "accounts"),
        })
    }

    /// As it is written down, and no larger than a ConfigMap holds.
    pub(super) fn write(&mut self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        let surplus = text.len().saturating_sub(LARGEST);
        if surplus == 0 {
            return text;
        }
        self.shed(surplus);
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Gives up so many bytes: sets that only failed, the oldest first, and then all texts.
    fn shed(&mut self, mut surplus: usize) {
        let failed = self.sets.iter().filter(|(_, it)| it.only_failed());
        let mut failed: Vec<(i64, String)> =
            failed.map(|(key, it)| (it.seen, key.clone())).collect();
        failed.sort_unstable();
        for (_, key) in failed {
            if surplus == 0 {
                return;
            }
            let gone = self.sets.remove(&key);
            let text = serde_json::to_string(&gone).unwrap_or_default();
            surplus = surplus.saturating_sub(text.len() + key.len());
        }
        if surplus > 0 {
            for set in self.sets.values_mut() {
                set.error.clear();
                set.bad.clear();
            }
        }
    }

    /// Whether it has no room for another set.
    pub(super) fn is_full(&self, key: &str) -> bool {
        self.is_crowded(key) && !self.sets.values().any(Set::only_failed)
    }

    /// Makes room for a set, if one that only failed can go for it.
    pub(super) fn make_room(&mut self, key: &str) {
        if !self.is_crowded(key) {
            return;
        }
        let failed = self.sets.iter().filter(|(_, it)| it.only_failed());
        let oldest = failed.min_by_key(|(_, it)| it.seen).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.sets.remove(&oldest);
        }
    }

    fn is_crowded(&self, key: &str) -> bool {
        self.sets.len() >= SETS && !self.sets.contains_key(key)
    }

    /// Forgets what is older than `kept` seconds; says whether anything changed.
    pub(super) fn prune(&mut self, now: i64, kept: i64) -> bool {
        let before = self.clone();
        let past = |times: &mut Vec<i64>, kept: i64| {
            for time in times.iter_mut() {
                *time = (*time).min(now);
            }
            times.retain(|it| now - it < kept);
        };
        for set in self.sets.values_mut() {
            past(&mut set.issued, kept);
            set.seen = set.seen.min(now);
            set.open = set.open.map(|it| it.min(now));
            set.subset = set.subset.map(|it| it.min(now));
            // No pause is longer; a clock was ahead.
            set.until = set.until.min(now + 7 * 86_400);
        }
        self.sets.retain(|_, it| {
            !it.issued.is_empty()
                || it.open.is_some_and(|it| now - it < kept)
                || now - it.seen < DAYS
        });
        for times in self.names.values_mut() {
            past(times, 3_600);
        }
        self.names.retain(|_, it| !it.is_empty());
        for times in self.domains.values_mut() {
            past(times, 7 * 86_400);
        }
        self.domains.retain(|_, it| !it.is_empty());
        self.orders.retain(|at, _| (-300..3 * 3_600).contains(&(now - at)));
        self.limits.retain(|_, until| (now..=now + 7 * 86_400).contains(until));
        self.accounts.retain(|_, at| (0..2 * 86_400).contains(&(now - *at)));
        bound(&mut self.names, NAMES, |it| it.last().copied().unwrap_or(0));
        bound(&mut self.domains, DOMAINS, |it| it.last().copied().unwrap_or(0));
        bound(&mut self.limits, LIMITS, |it| *it);
        bound(&mut self.accounts, ACCOUNTS, |it| *it);
        *self != before
    }
}

/// Drops the oldest until there are no more than `most`.
fn bound<V>(map: &mut BTreeMap<String, V>, most: usize, age: impl Fn(&V) -> i64) {
    let surplus = map.len().saturating_sub(most);
    if surplus == 0 {
        return;
    }
    let mut all: Vec<(i64, String)> = map.iter().map(|(key, it)| (age(it), key.clone())).collect();
    all.sort_unstable();
    for (_, key) in &all[..surplus] {
        map.remove(key);
    }
}
