//! Certificates: ordered by whoever leads, stored in Secrets, never handed to the proxy.
//!
//! Floor 3: knows no proxy. What is stored comes back in a snapshot and is served from there, by every
//! replica alike. One work item is one Secret:
//!
//! 1. read it afresh, and make sure that it is ours and still due;
//! 2. rehearse the write, so that nothing is ordered that could not be stored;
//! 3. store key and request in a Secret of our own, so that nothing that is issued can be lost;
//! 4. order, and note the order's URL before doing anything with it;
//! 5. check what came, store it, and forget the record of step 3.
//!
//! After a crash at any point the next leader finds that record and goes on from there.

mod account;
mod client;
pub mod dns;
pub mod due;
mod eab;
mod fake;
mod local;
mod order;
pub mod selfcheck;
pub mod standing;
mod trouble;
mod vault;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use crate::compile::objects::{ISSUED_AT, ISSUER, MANAGED, MANAGER, TLS_ACME};
use crate::metrics::Metrics;
use crate::model::host::HostPattern;
use crate::model::keypair::Keypair;
use crate::model::name::{Kind, ObjectName};
use crate::model::plan::{Plan, Wanted};
use crate::store::{Notice, StoredSecret};

use due::{Due, due, next_look};
pub use eab::Binding;
pub use fake::fake;
pub use local::Local;
pub use order::{Acme, AcmeOptions};
pub use trouble::Trouble;
pub use vault::Vault;

/// Most orders under way at once.
const AT_ONCE: usize = 8;
/// Longest sleep: a clock that was set is noticed after this long.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long a certificate that was stored may take to come back in a snapshot.
const ROUND_TRIP: Duration = Duration::from_secs(5);

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

/// What the keeper of certificates needs.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Where Secrets are, as long as this replica leads.
    pub vault: Vault,
    /// Who signs.
    pub issuer: Issuer,
    /// Where orders are counted.
    pub metrics: Arc<Metrics>,
    /// Where milestones are told.
    pub notices: mpsc::Sender<Notice>,
    /// Our own namespace: records of orders are kept there.
    pub namespace: Box<str>,
    /// Shortest time between two certificates for one Secret (`--acme-min-reissue`).
    pub min_reissue: Duration,
    /// The time of day.
    pub wall: fn() -> jiff::Timestamp,
}

/// How an item failed, and when it is tried again.
#[derive(Debug)]
struct Waiting {
    failures: u32,
    until: Instant,
    /// The names that were wanted: other names are tried at once.
    names: BTreeSet<String>,
}

impl Keeper {
    /// Keeps certificates for ever: whenever this replica leads, whatever is due is ordered.
    pub async fn run(mut self, mut plans: watch::Receiver<Arc<Plan>>) {
        let mut jobs = JoinSet::new();
        let mut under_way = HashMap::new();
        let mut waiting: HashMap<ObjectName, Waiting> = HashMap::new();
        let mut prepared = false;
        loop {
            let plan = plans.borrow_and_update().clone();
            let mut sleep = LONGEST_SLEEP;
            if self.vault.is_open() {
                // Somebody may have deleted the account's Secret.
                prepared &= self.answerable(&plan);
                if !prepared {
                    prepared = self.prepare().await;
                    sleep = sleep.min(Duration::from_secs(5));
                }
                waiting.retain(|name, _| plan.wanted.contains_key(name));
                if prepared && self.answerable(&plan) {
                    sleep = sleep.min(self.start(&plan, &mut jobs, &mut under_way, &waiting));
                }
            }
            tokio::select! {
                changed = plans.changed() => if changed.is_err() { return },
                () = self.vault.changed() => {}
                Some(done) = jobs.join_next_with_id() => {
                    let (id, done) = match done {
                        Ok((id, result)) => (id, result),
                        Err(error) => (error.id(), Err(Trouble::Unusable(error.to_string()))),
                    };
                    if let Some((name, wanted)) = under_way.remove(&id) {
                        self.conclude(&mut waiting, name, wanted, done);
                    }
                }
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    async fn prepare(&self) -> bool {
        let Issuer::Acme(acme) = &self.issuer else { return true };
        match acme.prepare(&self.vault).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the ACME account's key is not ready");
                false
            }
        }
    }

    /// Whether a challenge would be answered: the thumbprint has come round to us.
    fn answerable(&self, plan: &Plan) -> bool {
        matches!(self.issuer, Issuer::Local(_)) || plan.thumbprint.is_some()
    }

    /// Starts what is due; says how long until something else may be.
    fn start(
        &self,
        plan: &Plan,
        jobs: &mut JoinSet<Result<bool, Trouble>>,
        under_way: &mut HashMap<task::Id, (ObjectName, Wanted)>,
        waiting: &HashMap<ObjectName, Waiting>,
    ) -> Duration {
        let now = (self.wall)().as_second();
        let mut sleep = LONGEST_SLEEP;
        for (name, wanted) in &plan.wanted {
            let Some(due) = due(wanted, self.issuer.name(), now) else {
                if let Some(look) = next_look(wanted) {
                    let left = Duration::from_secs(u64::try_from(look - now).unwrap_or(0));
                    sleep = sleep.min(left.max(Duration::from_millis(200)));
                }
                continue;
            };
            if let Some(it) = waiting.get(name).filter(|it| it.names == wanted.names) {
                let left = it.until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    sleep = sleep.min(left);
                    continue;
                }
            }
            if let Some(left) = self.too_soon(wanted, &due, now) {
                sleep = sleep.min(left);
                continue;
            }
            let begun = under_way.values().any(|(it, _)| it == name);
            if jobs.len() < AT_ONCE && !begun {
                let item = (name.clone(), wanted.clone());
                let (keeper, (name, wanted)) = (self.clone(), item.clone());
                let job = jobs.spawn(async move { keeper.obtain(&name, &wanted, &due).await });
                under_way.insert(job.id(), item);
            }
        }
        sleep
    }

    /// How long until the same names may be issued again; a runaway loop ends here.
    fn too_soon(&self, wanted: &Wanted, due: &Due, now: i64) -> Option<Duration> {
        if *due != Due::Expiring {
            return None;
        }
        let since = u64::try_from(now - wanted.issued_at?).unwrap_or(0);
        self.min_reissue.checked_sub(Duration::from_secs(since)).filter(|it| !it.is_zero())
    }

    fn conclude(
        &self,
        waiting: &mut HashMap<ObjectName, Waiting>,
        name: ObjectName,
        wanted: Wanted,
        result: Result<bool, Trouble>,
    ) {
        let trouble = match result {
            Err(trouble) => trouble,
            Ok(issued) => {
                if issued {
                    self.metrics.orders.with_label_values(&["issued"]).inc();
                }
                // What was stored is on its way round to us; until then it looks as if it was missing.
                let until = Instant::now() + ROUND_TRIP;
                waiting.insert(name, Waiting { failures: 0, until, names: wanted.names });
                return;
            }
        };
        let failures = waiting.get(&name).map_or(0, |it| it.failures) + 1;
        let pause = trouble.pause(failures);
        self.metrics.orders.with_label_values(&["failed"]).inc();
        tracing::warn!(secret = %name, %trouble, retry_in = ?pause, "no certificate");
        if trouble.concerns_owner() {
            let text =
                format!("no certificate for Secret {name}: {trouble}; next try in {pause:?}");
            self.tell(&wanted, "CertificateFailed", &text, true);
        }
        let until = Instant::now() + pause;
        waiting.insert(name, Waiting { failures, until, names: wanted.names });
    }

    fn tell(&self, wanted: &Wanted, reason: &str, text: &str, warning: bool) {
        for ingress in &wanted.ingresses {
            let notice = Notice {
                kind: Kind::Ingress,
                object: ingress.clone(),
                reason: reason.to_owned(),
                text: text.to_owned(),
                warning,
            };
            // Certificates do not wait for Events: what nobody takes in time stands in the log.
            if self.notices.try_send(notice).is_err() {
                tracing::warn!(%ingress, reason, "{text}");
            }
        }
    }

    /// Gets one certificate into its Secret; says whether that took an order.
    async fn obtain(&self, name: &ObjectName, wanted: &Wanted, due: &Due) -> Result<bool, Trouble> {
        let found = self.vault.secret(name).await?;
        let mut secret = match found {
            None => fresh(name),
            Some(found) if is_ours(&found) => found,
            Some(_) => return Err(Trouble::Foreign),
        };
        if self.is_settled(&secret, wanted) {
            // Whoever stored it may have stopped before forgetting the record, which would spoil the next.
            self.vault.delete(&self.place(name)).await?;
            return Ok(false);
        }
        tracing::info!(secret = %name, reason = %due, names = ?wanted.names, "ordering a certificate");
        let text = format!("certificate for Secret {name} is ordered: {due}");
        self.tell(wanted, "CertificateOrdered", &text, false);
        let mut record = self.record(name, wanted).await?;
        self.rehearse(&secret, &record).await?;
        let chain = match &self.issuer {
            Issuer::Local(local) => {
                local.issue(&self.vault, record.csr()?, (self.wall)().as_second()).await?
            }
            Issuer::Acme(acme) => {
                let placed = acme.place(&self.vault, &wanted.names, record.url()).await?;
                record.note(&self.vault, placed.url()).await?;
                acme.complete(placed, record.csr()?).await?
            }
        };
        let keypair = match self.check(&chain, record.key()?, wanted) {
            Ok(keypair) => keypair,
            Err(trouble) => {
                // The same order would bring the same again.
                self.vault.delete(&record.0.name).await?;
                return Err(trouble);
            }
        };
        secret.data.insert("tls.crt".to_owned(), chain.into_bytes());
        secret.data.insert("tls.key".to_owned(), record.key()?.to_vec());
        self.mark(&mut secret);
        self.vault.write(&secret).await?;
        self.vault.delete(&record.0.name).await?;
        let until = jiff::Timestamp::from_second(keypair.not_after).unwrap_or_default();
        tracing::info!(secret = %name, %until, "certificate stored");
        let text = format!("certificate for Secret {name} is stored and good until {until}");
        self.tell(wanted, "CertificateIssued", &text, false);
        Ok(true)
    }

    /// Whether somebody already did what is to be done.
    fn is_settled(&self, secret: &StoredSecret, wanted: &Wanted) -> bool {
        let entry = |name: &str| secret.data.get(name).map(Vec::as_slice);
        let held = Keypair::parse(entry("tls.crt"), entry("tls.key")).ok().map(Arc::new);
        let now = Wanted {
            exists: secret.version.is_some(),
            held,
            issuer: secret.annotations.get(ISSUER).cloned(),
            ..wanted.clone()
        };
        due(&now, self.issuer.name(), (self.wall)().as_second()).is_none()
    }

    /// Where the record of an order for a Secret is.
    fn place(&self, name: &ObjectName) -> ObjectName {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let record = format!("lockgate-order-{:016x}", hasher.finish());
        ObjectName::new(self.namespace.clone(), record)
    }

    /// The record of an order for these names: found, or made with a new key and stored.
    async fn record(&self, name: &ObjectName, wanted: &Wanted) -> Result<Record, Trouble> {
        let place = self.place(name);
        let names = due::key(&wanted.names);
        let found = self.vault.secret(&place).await?;
        let version = match found {
            Some(found) => {
                let same = |entry: &str, text: &str| {
                    found.data.get(entry).is_some_and(|it| it == text.as_bytes())
                };
                if same("names", &names) && same("issuer", self.issuer.name()) {
                    return Ok(Record(found));
                }
                found.version
            }
            None => None,
        };
        let made = |it: rcgen::Error| Trouble::Unusable(it.to_string());
        let key = KeyPair::generate().map_err(made)?;
        let params = CertificateParams::new(wanted.names.iter().cloned().collect::<Vec<_>>())
            .map_err(made)?;
        let csr = params.serialize_request(&key).map_err(made)?;
        let data = [
            ("key.pem", key.serialize_pem().into_bytes()),
            ("csr.der", csr.der().to_vec()),
            ("names", names.into_bytes()),
            ("issuer", self.issuer.name().as_bytes().to_vec()),
            ("secret", name.to_string().into_bytes()),
        ];
        let secret = StoredSecret {
            kind: "Opaque".to_owned(),
            data: BTreeMap::from(data.map(|(name, value)| (name.to_owned(), value))),
            version,
            ..fresh(&place)
        };
        self.vault.write(&secret).await?;
        // Read again for the version that a later write needs.
        let stored = self.vault.secret(&place).await?;
        stored.map(Record).ok_or(Trouble::Deposed)
    }

    /// Has the API server check the write before anything is ordered.
    async fn rehearse(&self, secret: &StoredSecret, record: &Record) -> Result<(), Trouble> {
        let mut draft = secret.clone();
        draft.data.insert("tls.crt".to_owned(), b"rehearsal".to_vec());
        draft.data.insert("tls.key".to_owned(), record.key()?.to_vec());
        self.mark(&mut draft);
        self.vault.rehearse(&draft).await
    }

    fn mark(&self, secret: &mut StoredSecret) {
        let now = (self.wall)().as_second().to_string();
        let issuer = self.issuer.name().to_owned();
        for (name, value) in [(MANAGED, "v1".to_owned()), (ISSUER, issuer), (ISSUED_AT, now)] {
            secret.annotations.insert(name.to_owned(), value);
        }
    }

    /// Whether what came may be stored.
    fn check(&self, chain: &str, key: &[u8], wanted: &Wanted) -> Result<Keypair, Trouble> {
        let unusable = |it: String| Trouble::Unusable(it);
        let keypair = Keypair::parse(Some(chain.as_bytes()), Some(key))
            .map_err(|it| unusable(it.to_string()))?;
        for name in &wanted.names {
            let host: Result<HostPattern, _> = name.parse();
            if !host.is_ok_and(|it| keypair.covers(&it)) {
                return Err(unusable(format!("it does not cover {name}")));
            }
        }
        let now = (self.wall)().as_second();
        if keypair.not_before > now + 300
            || due::renew_at(keypair.not_before, keypair.not_after) <= now
        {
            return Err(unusable("it is not valid yet, or due again at once".to_owned()));
        }
        Ok(keypair)
    }
}

/// What is remembered of an order, in a Secret of our own.
#[derive(Debug)]
struct Record(StoredSecret);

impl Record {
    fn entry(&self, name: &str) -> Result<&[u8], Trouble> {
        let missing = || Trouble::Unusable(format!("Secret {} holds no {name}", self.0.name));
        self.0.data.get(name).map(Vec::as_slice).ok_or_else(missing)
    }

    fn key(&self) -> Result<&[u8], Trouble> {
        self.entry("key.pem")
    }

    fn csr(&self) -> Result<&[u8], Trouble> {
        self.entry("csr.der")
    }

    fn url(&self) -> Option<&str> {
        self.entry("url").ok().and_then(|it| std::str::from_utf8(it).ok())
    }

    /// Notes the order's URL; two leaders cannot both succeed.
    async fn note(&mut self, vault: &Vault, url: &str) -> Result<(), Trouble> {
        if self.url() != Some(url) {
            self.0.data.insert("url".to_owned(), url.as_bytes().to_vec());
            vault.write(&self.0).await?;
        }
        Ok(())
    }
}

fn fresh(name: &ObjectName) -> StoredSecret {
    StoredSecret {
        name: name.clone(),
        kind: "kubernetes.io/tls".to_owned(),
        labels: BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())]),
        ..StoredSecret::default()
    }
}

/// Whether a Secret is ours to write: it bears our mark, or kube-lego's.
fn is_ours(secret: &StoredSecret) -> bool {
    let lego = secret.annotations.get(TLS_ACME).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    secret.annotations.contains_key(MANAGED) || lego
}
