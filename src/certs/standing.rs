//! What people are told about certificates: where each one stands, and how the CA is.
//!
//! Plain data, published by the keeper of every replica. The leader knows what it is doing right now;
//! the others tell what the plan and the Secrets' annotations say.
//!
//! Times are seconds since 1970.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::name::ObjectName;

/// All certificates by their Secrets, the newest state first to come.
pub type Standings = watch::Receiver<Arc<BTreeMap<ObjectName, Standing>>>;

/// Where the certificate of one Secret stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// The Secret.
    pub secret: ObjectName,
    /// The names the certificate is to cover, sorted.
    pub names: Vec<String>,
    /// The Ingresses that want it.
    pub ingresses: Vec<ObjectName>,
    /// The directory's URL, or `local`.
    pub issuer: String,
    /// Where it stands.
    pub state: State,
    /// Why it stands there, for a person; empty where there is nothing to say.
    pub why: String,
    /// When the certificate held now begins.
    pub not_before: Option<i64>,
    /// When it ends.
    pub not_after: Option<i64>,
    /// When it is renewed.
    pub renew_at: Option<i64>,
    /// What says so: `ari`, `rule`, `backstop`, or nothing.
    pub renew_source: &'static str,
    /// Failures in a row.
    pub attempts: u32,
    /// What the last one said.
    pub last_error: Option<String>,
    /// When it is tried again.
    pub next_try: Option<i64>,
    /// The URL of the order under way.
    pub order: Option<String>,
}

/// The states of a certificate; each ends by itself or by somebody's change, none lasts for ever.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// The Secret is somebody else's: it is served, never written.
    Unmanaged,
    /// Two writers fight over the Secret, or two Ingresses over what it holds.
    Conflict,
    /// It cannot be had until somebody changes something.
    Blocked,
    /// A host does not lead here yet.
    WaitingForRoute,
    /// Looked at before the CA is asked.
    #[default]
    Checking,
    /// Key and request are on record.
    Claimed,
    /// The order is being placed.
    Ordering,
    /// The CA asks the hosts.
    Validating,
    /// The CA signs.
    Finalizing,
    /// The chain is being fetched.
    Downloading,
    /// The chain is being written.
    Storing,
    /// Nothing to do until `renew_at`.
    Ready,
    /// It failed and is tried again at `next_try`.
    Backoff,
}

impl State {
    /// All of them, for metrics.
    pub const ALL: [Self; 13] = [
        Self::Unmanaged,
        Self::Conflict,
        Self::Blocked,
        Self::WaitingForRoute,
        Self::Checking,
        Self::Claimed,
        Self::Ordering,
        Self::Validating,
        Self::Finalizing,
        Self::Downloading,
        Self::Storing,
        Self::Ready,
        Self::Backoff,
    ];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the CA and our dealings with it are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// The directory's URL, or `local`.
    pub issuer: String,
    /// Whether the CA answers.
    pub ca_up: bool,
    /// When a CA that does not is asked again.
    pub ca_retry_at: Option<i64>,
    /// What it said, or failed to say.
    pub ca_error: Option<String>,
    /// Seconds by which our clock is ahead of the CA's.
    pub skew: i64,
    /// Until when the CA asked to wait, by the scope: `account`, `domain:example.org`, `set:…`, `name:…`.
    pub limited: BTreeMap<String, i64>,
    /// What may still be asked, by the budget: `orders_3h`, `in_flight`.
    pub budgets: BTreeMap<&'static str, u64>,
    /// The account's URL, once it is known.
    pub account: Option<String>,
    /// Why nothing at all is ordered, where the fault is on our side: the account's key, the ledger.
    pub blocked: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            ca_up: true,
            ca_retry_at: None,
            ca_error: None,
            skew: 0,
            limited: BTreeMap::new(),
            budgets: BTreeMap::new(),
            account: None,
            blocked: None,
        }
    }
}

/// The CA's health as the keeper last saw it.
pub type Healths = watch::Receiver<Arc<Health>>;
