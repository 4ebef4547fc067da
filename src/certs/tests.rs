//! The keeper as a whole, with the built-in CA and files instead of a cluster.

mod kept;
mod noted;
mod obtained;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::record::{Claim, Record, place};
use super::standing::{Standing, Standings, State};
use super::*;
use crate::compile::objects::Objects;
use crate::compile::{IssuerKind, Policy, compile};
use crate::metrics::Replica;
use crate::model::plan::Wanted;
use crate::store::{Directory, StoreError, StoredSecret};

const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: shop, annotations: {kubernetes.io/tls-acme: "true"}}
spec:
  ingressClassName: nginx
  tls: [{hosts: [a.test], secretName: tls}]
  rules: [{host: a.test}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
"#;

#[expect(clippy::disallowed_methods, reason = "tests have a clock")]
fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A keeper over a directory of manifests; ends when it is dropped.
struct House {
    directory: tempfile::TempDir,
    store: Store,
    standings: Standings,
    notices: mpsc::Receiver<Notice>,
    metrics: Arc<Metrics>,
    tasks: JoinSet<()>,
}

pub(super) fn options(
    store: &Store,
    issuer: Issuer,
) -> (KeeperOptions, Standings, mpsc::Receiver<Notice>) {
    let (standing, standings) = watch::channel(Arc::default());
    let (health, _) = watch::channel(Arc::default());
    let (_, snapshots) = watch::channel(None);
    let (notices, told) = mpsc::channel(1_024);
    let replica = Replica::default();
    let options = KeeperOptions {
        store: store.clone(),
        leadership: Leadership::sole(),
        issuer,
        metrics: Arc::new(Metrics::new(&replica).expect("metrics")),
        notices,
        flags: KeeperFlags {
            namespace: "lockgate".into(),
            holder: "me".into(),
            budget: Budget { gap: Duration::ZERO, ..Budget::default() },
            settle: Duration::from_secs(30),
            http_port: 80,
        },
        snapshots,
        standing,
        health,
        wall,
    };
    (options, standings, told)
}

fn local() -> Local {
    let secret = ObjectName::new("lockgate", "ca");
    Local { secret, validity: Duration::from_secs(90 * 86_400) }
}

fn tls() -> ObjectName {
    ObjectName::new("shop", "tls")
}

fn store(directory: &tempfile::TempDir) -> Store {
    let directory = directory.path().to_owned();
    Store::Directory(Directory::new([directory.clone()], directory.join("issued")))
}

fn compiled(objects: &Objects) -> Plan {
    let policy = Policy { issuer: IssuerKind::Local, ..Policy::default() };
    compile(objects, &policy).0
}

impl House {
    /// Begins with these manifests, and what `before` did.
    async fn new(manifests: &str, before: impl AsyncFnOnce(&Store)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("all.yaml"), manifests).expect("written");
        let store = store(&directory);
        before(&store).await;
        let (options, standings, notices) = options(&store, Issuer::Local(local()));
        let metrics = options.metrics.clone();
        let (plan, plans) = watch::channel(Arc::<Plan>::default());
        let mut snapshots = store.snapshots();
        let mut tasks = JoinSet::new();
        tasks.spawn(Keeper::new(options).run(plans));
        tasks.spawn(async move {
            while snapshots.changed().await.is_ok() {
                let objects = snapshots.borrow_and_update().clone().unwrap_or_default();
                plan.send_replace(Arc::new(compiled(&objects)));
            }
        });
        Self { directory, store, standings, notices, metrics, tasks }
    }

    /// The certificate that an Ingress asks for is there.
    async fn ready() -> Self {
        let mut house = Self::new(INGRESS, async |_| {}).await;
        house.standing(State::Ready).await;
        house
    }

    /// Another keeper of the same, which has read the ledger.
    async fn keeper(&self, local: Local) -> Keeper {
        let keeper = Keeper::new(options(&self.store, Issuer::Local(local)).0);
        keeper.book.read(wall().as_second()).await.expect("read");
        keeper
    }

    /// What the plan asks for now.
    async fn wanted(&self) -> Wanted {
        let snapshot = self.store.snapshots().wait_for(Option::is_some).await.expect("one").clone();
        compiled(&snapshot.expect("objects")).wanted.get(&tls()).cloned().expect("it")
    }

    async fn secret(&self) -> Option<StoredSecret> {
        self.store.secret(&tls()).await.expect("a store")
    }

    /// Waits for a state of the certificate.
    async fn standing(&mut self, state: State) -> Standing {
        let wait = self.standings.wait_for(|it| it.get(&tls()).is_some_and(|it| it.state == state));
        let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
        let found = found.unwrap_or_else(|_| panic!("{state} does not come")).expect("a keeper");
        found.get(&tls()).cloned().expect("it")
    }

    /// Waits until the Secret is as it should be.
    async fn until(&self, what: &str, good: impl Fn(&StoredSecret) -> bool) -> StoredSecret {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(secret) = self.secret().await.filter(&good) {
                return secret;
            }
            assert!(Instant::now() < end, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Writes annotations onto the Secret, as a person would.
    async fn annotate(&self, name: &str, value: &str) {
        let mut secret = self.secret().await.expect("a Secret");
        secret.annotations.insert(name.to_owned(), value.to_owned());
        self.store.write_secret(&secret, false).await.expect("written");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("issued/shop.tls.secret.json")
    }

    fn issued(&self) -> u64 {
        self.metrics.orders.with_label_values(&["issued"]).get()
    }

    fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).map(|it| it.reason).collect()
    }
}

fn mark<'a>(secret: &'a StoredSecret, name: &str) -> Option<&'a str> {
    secret.annotations.get(&marks::full(name)).map(String::as_str)
}

/// A pair that somebody else made, as a Secret holds it.
fn pair() -> BTreeMap<String, Vec<u8>> {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a pair");
    let data = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
    data.map(|(name, text)| (name.to_owned(), text.into_bytes())).into()
}

fn claim(names: &BTreeSet<String>) -> Claim<'_> {
    static TLS: std::sync::LazyLock<ObjectName> = std::sync::LazyLock::new(tls);
    static NOTHING: std::sync::LazyLock<StoredSecret> =
        std::sync::LazyLock::new(StoredSecret::default);
    let (secret, held) = (&*TLS, &*NOTHING);
    Claim { secret, names, issuer: "local", profile: "", holder: "me", key: None, held }
}

#[test]
fn r_ord_2_newer_profiles_take_fewer_names() {
    for (profile, expected) in [
        (None, 100),
        (Some("classic"), 100),
        (Some("tlsserver"), 25),
        (Some("shortlived"), 25),
        (Some("custom"), 100),
    ] {
        assert_eq!(most_names(profile), expected, "{profile:?}");
    }
}

#[test]
fn r_clk_a_clock_that_is_nearly_right_is_right() {
    for (known, expected) in
        [(None, 0), (Some(300), 0), (Some(-300), 0), (Some(301), 301), (Some(-90_000), -90_000)]
    {
        assert_eq!(skew(known), expected, "{known:?}");
    }
}

#[test]
fn r_bak_the_spread_is_stable_and_bounded() {
    for failures in 0..100 {
        let found = spread("key", failures);
        assert!(
            (-1.0..=1.0).contains(&found) && found.to_bits() == spread("key", failures).to_bits()
        );
    }
}
