//! Certificates: ordered by whoever leads, stored in Secrets, never handed to the proxy.
//!
//! Floor 4: knows no proxy. What is stored comes back in a snapshot and is served from there, by every
//! replica alike. One work item is one Secret:
//!
//! 1. decide what is next for it ([`due`], `desk`): claims, budgets, back-off, a look at the hosts;
//! 2. read it afresh, make sure that it is ours and still due, and rehearse the write, so that nothing is
//!    ordered that could not be stored (`obtain`);
//! 3. store key and request in a Secret of our own, so that nothing that is issued can be lost (`record`);
//! 4. write the order into the ledger, place it, and note its URL before doing anything with it;
//! 5. check what came (`chain`), store it, and forget the record of step 3.
//!
//! After a crash at any point the next leader finds that record and goes on from there. What the ledger
//! says is the last word: however things go wrong, no set of names is issued more often than it allows.

mod account;
mod acme;
mod ari;
mod book;
mod chain;
mod claims;
mod client;
mod desk;
pub mod dns;
mod doing;
pub mod due;
mod eab;
mod fake;
mod issue;
mod ledger;
mod limit;
mod local;
mod marks;
mod meter;
mod obtain;
mod order;
mod outcome;
mod record;
mod refusal;
mod route;
pub mod selfcheck;
pub mod standing;
mod tell;
mod tidying;
mod trouble;
mod upkeep;
mod vault;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::model::name::ObjectName;
use crate::model::plan::Plan;
use crate::store::{Notice, Snapshots, Store};

use book::Book;
use standing::{Health, Standing};

pub use acme::{Acme, AcmeOptions};
pub use eab::Binding;
pub use fake::fake;
pub use ledger::Budget;
pub use local::Local;
pub use trouble::Trouble;
pub use vault::Vault;

/// Most orders under way at once.
const AT_ONCE: usize = 8;
/// A clock that differs less from the CA's is as good, in seconds.
const NEARLY: i64 = 300;

/// Who signs.
#[derive(Clone, Debug)]
pub enum Issuer {
    /// A CA that speaks ACME.
    Acme(Box<Acme>),
    /// The built-in one.
    Local(Local),
}

impl Issuer {
    fn name(&self) -> &str {
        match self {
            Self::Acme(acme) => acme.name(),
            Self::Local(_) => "local",
        }
    }
}

/// What the keeper of certificates is made from.
#[derive(Debug)]
pub struct KeeperOptions {
    /// Where Secrets are.
    pub store: Store,
    /// Whether this replica may write them.
    pub leadership: Leadership,
    /// Who signs.
    pub issuer: Issuer,
    /// Where orders are counted.
    pub metrics: Arc<Metrics>,
    /// Where milestones are told.
    pub notices: mpsc::Sender<Notice>,
    /// What the flags say.
    pub flags: KeeperFlags,
    /// Where Ingresses have the addresses they were given.
    pub snapshots: Snapshots,
    /// Where it is told how each certificate stands.
    pub standing: watch::Sender<Arc<BTreeMap<ObjectName, Standing>>>,
    /// Where it is told how the CA is.
    pub health: watch::Sender<Arc<Health>>,
    /// The time of day.
    pub wall: fn() -> jiff::Timestamp,
}

/// What the flags say of keeping certificates.
#[derive(Clone, Debug)]
pub struct KeeperFlags {
    /// Our own namespace: records of orders and the ledger are kept there.
    pub namespace: Box<str>,
    /// Who we are, in records.
    pub holder: Arc<str>,
    /// How often one set of names is issued at most.
    pub budget: Budget,
    /// How long names must have been the same before they are ordered (`--acme-settle`).
    pub settle: Duration,
    /// Where the CA asks for challenges, and so do we beforehand (`--acme-http-port`).
    pub http_port: u16,
}

/// The keeper of certificates; cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper {
    vault: Vault,
    issuer: Issuer,
    metrics: Arc<Metrics>,
    notices: mpsc::Sender<Notice>,
    namespace: Box<str>,
    holder: Arc<str>,
    book: Book,
    settle: Duration,
    http_port: u16,
    snapshots: Snapshots,
    standing: watch::Sender<Arc<BTreeMap<ObjectName, Standing>>>,
    health: watch::Sender<Arc<Health>>,
    wall: fn() -> jiff::Timestamp,
}

impl Keeper {
    /// A keeper that has not begun.
    pub fn new(options: KeeperOptions) -> Self {
        let vault = Vault::new(options.store, options.leadership);
        let KeeperFlags { namespace, holder, mut budget, mut settle, http_port } = options.flags;
        if let Issuer::Local(local) = &options.issuer {
            // Nobody counts what it issues, and nothing is lost by it: only loops are bounded.
            settle = Duration::ZERO;
            budget.issues = u32::MAX;
            budget.gap = budget.gap.min(local.validity / 10);
            budget.public = false;
        }
        Self {
            book: Book::new(vault.clone(), &namespace, budget),
            vault,
            issuer: options.issuer,
            metrics: options.metrics,
            notices: options.notices,
            namespace,
            holder,
            settle,
            http_port,
            snapshots: options.snapshots,
            standing: options.standing,
            health: options.health,
            wall: options.wall,
        }
    }

    /// Keeps certificates for ever: whenever this replica leads, whatever is due is ordered.
    pub async fn run(self, plans: watch::Receiver<Arc<Plan>>) {
        work::run(self, plans).await;
    }

    /// Seconds since 1970: by the CA's clock where ours differs from it by more than five minutes.
    fn now(&self) -> i64 {
        (self.wall)().as_second() - skew(self.known_skew())
    }

    /// Seconds by which our clock is ahead of the CA's.
    fn skew(&self) -> i64 {
        self.known_skew().unwrap_or(0)
    }

    fn known_skew(&self) -> Option<i64> {
        match &self.issuer {
            Issuer::Acme(acme) => acme.skew(),
            Issuer::Local(_) => None,
        }
    }

    /// Whether a challenge would be answered: the thumbprint of the account's key has come round to us.
    fn answerable(&self, plan: &Plan) -> bool {
        match &self.issuer {
            Issuer::Acme(acme) => acme.is_known_by(plan.thumbprint.as_deref()),
            Issuer::Local(_) => true,
        }
    }
}

/// Most names in one certificate of this profile: Let's Encrypt's newer ones take 25.
pub fn most_names(profile: Option<&str>) -> usize {
    match profile {
        Some("tlsserver" | "shortlived") => 25,
        _ => 100,
    }
}

/// What of a clock's difference matters.
fn skew(known: Option<i64>) -> i64 {
    known.filter(|it| it.abs() > NEARLY).unwrap_or(0)
}

/// Between -1 and 1, the same for the same set and number of failures.
#[expect(clippy::cast_precision_loss, reason = "at most two thousand")]
fn spread(key: &str, failures: u32) -> f64 {
    due::share(&format!("{key}{failures}"), 2_000) as f64 / 1_000.0 - 1.0
}

#[cfg(test)]
mod tests;
