//! The keeper as a whole, with the built-in CA and files instead of a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::record::{Claim, Record, place};
use super::standing::{Standing, Standings, State};
use super::*;
use crate::compile::{IssuerKind, Policy, compile};
use crate::metrics::Replica;
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

impl House {
    /// Begins with these manifests, and what `before` did.
    async fn new(manifests: &str, before: impl AsyncFnOnce(&Store)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("all.yaml"), manifests).expect("written");
        let read = [directory.path().to_owned()];
        let store = Store::Directory(Directory::new(read, directory.path().join("issued")));
        before(&store).await;
        let (options, standings, notices) = options(&store, Issuer::Local(local()));
        let metrics = options.metrics.clone();
        let (plan, plans) = watch::channel(Arc::<Plan>::default());
        let mut snapshots = store.snapshots();
        let mut tasks = JoinSet::new();
        tasks.spawn(Keeper::new(options).run(plans));
        tasks.spawn(async move {
            let policy = Policy { issuer: IssuerKind::Local, ..Policy::default() };
            while snapshots.changed().await.is_ok() {
                let objects = snapshots.borrow_and_update().clone().unwrap_or_default();
                plan.send_replace(Arc::new(compile(&objects, &policy).0));
            }
        });
        Self { directory, store, standings, notices, metrics, tasks }
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

#[tokio::test]
async fn r_vis_a_certificate_is_kept_and_told_of() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    let standing = house.standing(State::Ready).await;
    assert_eq!(standing.names, ["a.test"]);
    assert_eq!((standing.renew_source, &*standing.issuer), ("rule", "local"));
    assert_eq!(standing.ingresses, [ObjectName::new("shop", "web")]);
    assert!(standing.renew_at.is_some() && standing.renew_at < standing.not_after);
    let secret = house.secret().await.expect("a Secret");
    assert_eq!(mark(&secret, "managed"), Some("v1"));
    assert_eq!(mark(&secret, marks::NAMES), Some("a.test"));
    for name in [marks::CERT_ID, marks::NOT_AFTER, marks::RENEW_AT, "issued-at", "issuer"] {
        assert!(mark(&secret, name).is_some(), "{name}");
    }
    let record = house.store.secret(&place("lockgate", &tls())).await.expect("a store");
    assert_eq!(record, None, "its record is forgotten");
    let told = house.told();
    for reason in
        ["CertificateRequested", "CertificateIssued", "CertificateStored", "RenewalScheduled"]
    {
        assert_eq!(told.iter().filter(|it| *it == reason).count(), 1, "{reason}: {told:?}");
    }
    assert_eq!((house.issued(), house.tasks.len()), (1, 2));
}

#[tokio::test]
async fn r_sto_4_a_deleted_secret_is_made_again_without_an_order() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    let before = house.secret().await.expect("a Secret");
    std::fs::remove_file(house.file()).expect("deleted");
    let after = house.until("it comes back", |_| true).await;
    assert_eq!(after.data, before.data);
    assert_eq!(after.annotations, before.annotations);
    assert_eq!(house.issued(), 1);
}

#[tokio::test]
async fn r_sto_4_a_second_writer_ends_in_a_conflict_and_not_in_orders() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    let good = house.secret().await.expect("a Secret");
    let spoil = async |house: &House| {
        let mut secret = house.secret().await.expect("a Secret");
        secret.data.insert("tls.crt".to_owned(), b"broken".to_vec());
        house.store.write_secret(&secret, false).await.expect("written");
    };
    spoil(&house).await;
    house.until("it is put back", |it| it.data == good.data).await;
    // What was written is round when nothing is under way any more.
    house.standing(State::Ready).await;
    spoil(&house).await;
    let standing = house.standing(State::Conflict).await;
    assert!(standing.why.contains("TwoWriters"), "{}", standing.why);
    assert_eq!(house.secret().await.expect("it").data["tls.crt"], b"broken");
    assert_eq!(house.issued(), 1);
}

#[tokio::test]
async fn a_person_who_asks_gets_a_new_one_once() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    let before = house.secret().await.expect("a Secret");
    house.annotate("lockgate.dev/renew", "now").await;
    let after = house.until("another one", |it| it.data["tls.crt"] != before.data["tls.crt"]).await;
    assert_eq!(mark(&after, marks::RENEW), None);
    // R-REN-7: with a key of its own.
    assert_ne!(after.data["tls.key"], before.data["tls.key"]);
    house.standing(State::Ready).await;
    assert_eq!(house.issued(), 2);
}

/// The built-in CA's budget knows no number, but a time between two.
#[tokio::test]
async fn r_led_who_asks_beyond_the_budget_is_told_and_not_served_later() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    let before = house.secret().await.expect("a Secret");
    let vault = Vault::new(house.store.clone(), Leadership::sole());
    let budget = Budget { gap: Duration::from_secs(3_600), public: false, ..Budget::default() };
    let (mut options, ..) = options(&house.store, Issuer::Local(local()));
    options.flags.budget = budget;
    let keeper = Keeper::new(options);
    keeper.book.read(wall().as_second()).await.expect("read");
    house.tasks.abort_all();
    house.annotate("lockgate.dev/renew", "now").await;
    let wanted = wanted_now(&house).await;
    let item = obtain::Item {
        name: tls(),
        names: wanted.names.clone(),
        wanted,
        due: due::Due::Asked,
        window: None,
        early: false,
        forced: false,
    };
    let doing = doing::Work::default().begin(&tls());
    let refused = keeper.obtain(&item, doing).await.expect_err("too soon");
    assert!(matches!(refused, Trouble::Budget { .. }), "{refused}");
    assert_eq!(item.next_try(&refused, 7), "ask again for another try");
    let due = due::Due::Revoked;
    let revoked = obtain::Item { due, ..item.clone() };
    assert_eq!(revoked.next_try(&refused, 7), "next try in 7 s", "it stays due");
    let after = vault.secret(&tls()).await.expect("a store").expect("a Secret");
    assert_eq!((after.data, mark_of(&after.annotations)), (before.data, None));
    let doing = doing::Work::default().begin(&tls());
    house.annotate("lockgate.dev/renew", "force").await;
    let forced = obtain::Item { forced: true, wanted: wanted_now(&house).await, ..item };
    assert!(matches!(keeper.obtain(&forced, doing).await, Ok(obtain::Got::Stored(_))));
}

/// Whatever comes of the first try: what is revoked is not what is to be shown.
#[tokio::test]
async fn what_was_revoked_stays_due_until_it_is_replaced() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    house.tasks.abort_all();
    let keeper = Keeper::new(options(&house.store, Issuer::Local(local())).0);
    keeper.book.read(wall().as_second()).await.expect("read");
    house.annotate("lockgate.dev/revoke", "keyCompromise").await;
    let held = wanted_now(&house).await.held.expect("a pair");
    keeper.revoke(&tls(), &held, "keyCompromise").await.expect("revoked");
    let secret = house.secret().await.expect("a Secret");
    assert_eq!(
        (mark(&secret, marks::REVOKE), mark(&secret, marks::REVOKED), mark(&secret, marks::RENEW)),
        (None, Some(&*held.id), None)
    );
    let item = async || {
        let wanted = wanted_now(&house).await;
        let due = due::due(&wanted, "local", None, wall().as_second()).expect("due");
        assert_eq!(due, due::Due::Revoked);
        let names = wanted.names.clone();
        obtain::Item { name: tls(), names, wanted, due, window: None, early: false, forced: true }
    };
    let nobody = Issuer::Local(Local { validity: Duration::ZERO, ..local() });
    let broken = Keeper::new(options(&house.store, nobody).0);
    broken.book.read(wall().as_second()).await.expect("read");
    let doing = doing::Work::default().begin(&tls());
    broken.obtain(&item().await, doing).await.expect_err("nothing of use");
    let doing = doing::Work::default().begin(&tls());
    keeper.book.read(wall().as_second()).await.expect("read");
    assert!(matches!(keeper.obtain(&item().await, doing).await, Ok(obtain::Got::Stored(_))));
    let after = house.secret().await.expect("a Secret");
    assert_eq!(mark(&after, marks::REVOKED), None);
    assert_ne!(after.data["tls.key"], secret.data["tls.key"]);
}

/// Somebody took our mark away, or put another pair there, after the plan was made.
#[tokio::test]
async fn r_own_1_what_is_no_longer_ours_is_neither_revoked_nor_written() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    house.tasks.abort_all();
    let keeper = Keeper::new(options(&house.store, Issuer::Local(local())).0);
    house.annotate("lockgate.dev/revoke", "superseded").await;
    let held = wanted_now(&house).await.held.expect("a pair");
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a pair");
    let other = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
    let mut theirs = house.secret().await.expect("a Secret");
    theirs.data.extend(other.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    for (managed, expected) in [(true, "somebody else changed"), (false, "")] {
        if !managed {
            theirs.annotations.remove("lockgate.dev/managed");
        }
        house.store.write_secret(&theirs, false).await.expect("written");
        theirs = house.secret().await.expect("a Secret");
        let refused = keeper.revoke(&tls(), &held, "superseded").await.expect_err("not ours");
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(managed || refused == Trouble::Foreign, "{refused}");
        if !managed {
            keeper.take_mark_off(&tls(), marks::REVOKE).await;
        }
        assert_eq!(house.secret().await.as_ref(), Some(&theirs), "not written");
    }
}

/// What a CA gave and will not do is not stored; that it was issued counts, and its key is not used again.
#[tokio::test]
async fn r_sto_2_what_will_not_do_is_counted_and_not_stored() {
    let house = House::new("", async |_| {}).await;
    let nobody = Issuer::Local(Local { validity: Duration::ZERO, ..local() });
    let mut keeper = Keeper::new(options(&house.store, nobody).0);
    let now = wall().as_second();
    keeper.book = book::Book::new(keeper.vault.clone(), "lockgate", Budget::default());
    keeper.book.read(now).await.expect("read");
    let item = absent();
    let doing = doing::Work::default().begin(&tls());
    let refused = keeper.obtain(&item, doing).await.expect_err("it is over");
    assert!(matches!(refused, Trouble::Unusable(_)), "{refused}");
    assert_eq!(refused.class(), trouble::Class::B);
    assert_eq!(house.secret().await, None, "not stored");
    let place = place("lockgate", &tls());
    assert_eq!(house.store.secret(&place).await.expect("a store"), None, "no key is left");
    let key = ledger::key("local", &item.names);
    let ledger = keeper.book.open();
    let backoff = ledger.backoff(&key, "");
    assert_eq!((backoff.class, backoff.failures), (Some(trouble::Class::B), 1));
    assert!(ledger.admits(&item.ask(&key), false, now + 60).is_err(), "it counts as issued");
}

/// Whose a Secret is, is looked at once more before anything is asked or noted.
#[tokio::test]
async fn r_pre_2_a_secret_that_became_somebody_elses_costs_no_order() {
    let house = House::new("", async |_| {}).await;
    let theirs = StoredSecret {
        name: tls(),
        kind: "kubernetes.io/tls".to_owned(),
        annotations: [("team".to_owned(), "shop".to_owned())].into(),
        ..StoredSecret::default()
    };
    house.store.write_secret(&theirs, false).await.expect("written");
    let before = house.secret().await;
    let keeper = Keeper::new(options(&house.store, Issuer::Local(local())).0);
    keeper.book.read(wall().as_second()).await.expect("read");
    let item = absent();
    let doing = doing::Work::default().begin(&tls());
    let refused = keeper.obtain(&item, doing).await.expect_err("not ours");
    assert_eq!(refused, Trouble::Foreign);
    assert_eq!(house.secret().await, before, "not written");
    let record = house.store.secret(&place("lockgate", &tls())).await.expect("a store");
    assert_eq!(record, None);
    let key = ledger::key("local", &item.names);
    assert_eq!(keeper.book.open().reserved(&key), None);
}

/// A first certificate for a.test.
fn absent() -> obtain::Item {
    let names = std::collections::BTreeSet::from(["a.test".to_owned()]);
    obtain::Item {
        name: tls(),
        wanted: crate::model::plan::Wanted {
            names: names.clone(),
            ingresses: [ObjectName::new("shop", "web")].into(),
            exists: false,
            held: None,
            issuer: None,
            issued_at: None,
            marks: BTreeMap::new(),
            marked: true,
            self_check: true,
            reuse_key: false,
        },
        names,
        due: due::Due::Absent,
        window: None,
        early: false,
        forced: false,
    }
}

fn mark_of(annotations: &BTreeMap<String, String>) -> Option<&String> {
    annotations.get("lockgate.dev/renew")
}

#[tokio::test]
async fn r_ren_7_a_pinned_key_is_kept() {
    let pinned = INGRESS.replace("\"true\"}", "\"true\", lockgate.dev/reuse-key: \"true\"}");
    let mut house = House::new(&pinned, async |_| {}).await;
    house.standing(State::Ready).await;
    let before = house.secret().await.expect("a Secret");
    house.annotate("lockgate.dev/renew", "now").await;
    let after = house.until("another one", |it| it.data["tls.crt"] != before.data["tls.crt"]).await;
    assert_eq!(after.data["tls.key"], before.data["tls.key"]);
}

#[tokio::test]
async fn r_own_1_a_secret_is_adopted_on_request_with_its_pair() {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a pair");
    let data = [("tls.crt", made.cert.pem()), ("tls.key", made.signing_key.serialize_pem())];
    let data = data.map(|(name, text)| (name.to_owned(), text.into_bytes()));
    let annotations = [("cert-manager.io/certificate-name", "web"), ("team", "shop")];
    let theirs = StoredSecret {
        name: tls(),
        kind: "kubernetes.io/tls".to_owned(),
        data: BTreeMap::from(data),
        annotations: annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..StoredSecret::default()
    };
    let before = async |store: &Store| {
        store.write_secret(&theirs, false).await.expect("written");
    };
    let mut house = House::new(INGRESS, before).await;
    let standing = house.standing(State::Unmanaged).await;
    assert!(standing.why.contains("cert-manager"), "{}", standing.why);
    house.annotate("lockgate.dev/adopt", "true").await;
    let ours = house.until("our mark", |it| mark(it, "managed").is_some()).await;
    assert_eq!(ours.data, theirs.data);
    let left: Vec<&str> = ours.annotations.keys().map(String::as_str).collect();
    assert_eq!(left, ["lockgate.dev/managed", "team"]);
    house.standing(State::Ready).await;
    assert_eq!(house.issued(), 0);
}

#[tokio::test]
async fn r_sto_3_what_was_issued_and_not_written_is_written_and_not_ordered() {
    let names = ["a.test".to_owned()].into();
    let before = async |store: &Store| {
        let vault = Vault::new(store.clone(), Leadership::sole());
        let claim = claim(&names);
        let place = place("lockgate", &tls());
        let (mut record, _) = Record::claim(&vault, place, &claim).await.expect("claimed");
        let csr = record.csr().expect("a request").to_vec();
        let chain = local().issue(&vault, &csr, wall().as_second()).await.expect("issued");
        record.keep_chain(&vault, &chain).await.expect("kept");
    };
    let mut house = House::new(INGRESS, before).await;
    let secret = house.until("it", |_| true).await;
    house.standing(State::Ready).await;
    assert!(secret.data["tls.crt"].starts_with(b"-----BEGIN CERTIFICATE-----"));
    let book = book::Book::new(
        Vault::new(house.store.clone(), Leadership::sole()),
        "lockgate",
        Budget { gap: Duration::from_secs(60), ..Budget::default() },
    );
    book.read(wall().as_second()).await.expect("read");
    let key = ledger::key("local", &names);
    let ask = ledger::Ask { key: &key, names: &names, first: false, forced: false, early: false };
    assert_eq!(book.open().admits(&ask, false, wall().as_second()), Ok(()), "nothing was issued");
}

fn claim(names: &std::collections::BTreeSet<String>) -> Claim<'_> {
    static TLS: std::sync::LazyLock<ObjectName> = std::sync::LazyLock::new(tls);
    static NOTHING: std::sync::LazyLock<StoredSecret> =
        std::sync::LazyLock::new(StoredSecret::default);
    let (secret, held) = (&*TLS, &*NOTHING);
    Claim { secret, names, issuer: "local", profile: "", holder: "me", key: None, held }
}

/// A record that was left behind is of the certificate that is held: taken up again, it would bring the
/// same for ever.
#[tokio::test]
async fn r_fly_a_record_of_what_is_stored_is_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = directory.path().join("issued");
    let store = Store::Directory(Directory::new([directory.path().to_owned()], write));
    let vault = Vault::new(store, Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let (mut first, _) = Record::claim(&vault, place.clone(), &claim(&names)).await.expect("it");
    first.note_url(&vault, "https://ca.test/1").await.expect("noted");
    let key = first.key().expect("a key").to_vec();
    let order = |url: &str| [(marks::full(marks::ORDER), url.to_owned())].into();
    let entry = |key: &[u8]| BTreeMap::from([("tls.key".to_owned(), key.to_vec())]);
    for (held, reused, expected) in [
        (StoredSecret::default(), false, false),
        (StoredSecret { data: entry(&key), ..StoredSecret::default() }, false, true),
        (StoredSecret { data: entry(&key), ..StoredSecret::default() }, true, false),
        (
            StoredSecret { annotations: order("https://ca.test/1"), ..StoredSecret::default() },
            true,
            true,
        ),
        (
            StoredSecret { annotations: order("https://ca.test/2"), ..StoredSecret::default() },
            true,
            false,
        ),
    ] {
        let found = vault.secret(&place).await.expect("a store").expect("a record");
        assert_eq!(record::is_over(&found, &held, reused), expected, "{held:?} {reused}");
    }
    let held = StoredSecret { data: entry(&key), ..StoredSecret::default() };
    let again = Claim { held: &held, ..claim(&names) };
    let (second, same) = Record::claim(&vault, place, &again).await.expect("claimed");
    assert!(!same && second.url().is_none() && second.key().expect("a key") != key);
}

/// Without its key it is of no use: what comes of its order could not be served.
#[tokio::test]
async fn r_fly_a_record_without_its_key_is_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = directory.path().join("issued");
    let store = Store::Directory(Directory::new([directory.path().to_owned()], write));
    let vault = Vault::new(store, Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    for entry in ["key.pem", "csr.der"] {
        Record::claim(&vault, place.clone(), &claim(&names)).await.expect("claimed");
        let mut found = vault.secret(&place).await.expect("a store").expect("a record");
        found.data.remove(entry);
        vault.write(&mut found).await.expect("written");
        let (record, same) =
            Record::claim(&vault, place.clone(), &claim(&names)).await.expect("claimed");
        assert!(!same && record.key().is_ok() && record.csr().is_ok(), "{entry}");
    }
}

/// What a leader that was killed left behind is tidied up by the next, without anything being due.
#[tokio::test]
async fn r_fly_what_was_left_behind_is_tidied_up() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    house.standing(State::Ready).await;
    let held = house.secret().await.expect("a Secret");
    let vault = Vault::new(house.store.clone(), Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let (mut record, _) = Record::claim(&vault, place.clone(), &claim(&names)).await.expect("it");
    let chain = String::from_utf8(held.data["tls.crt"].clone()).expect("PEM");
    record.keep_chain(&vault, &chain).await.expect("kept");
    let (options, ..) = options(&house.store, Issuer::Local(local()));
    // Versions before the ledger named records otherwise.
    let earlier = ObjectName::new("lockgate", "lockgate-order-0011223344556677");
    let claim = Claim { holder: "an earlier version", ..claim(&names) };
    Record::claim(&vault, earlier.clone(), &claim).await.expect("it");
    let plan = Plan { wanted: [(tls(), wanted_now(&house).await)].into(), ..Plan::default() };
    assert_eq!(Keeper::new(options).tidy(&plan).await, Ok(Vec::new()));
    for gone in [place, earlier] {
        assert_eq!(house.store.secret(&gone).await.expect("a store"), None, "{gone}");
    }
}

async fn wanted_now(house: &House) -> crate::model::plan::Wanted {
    let snapshot = house.store.snapshots().wait_for(Option::is_some).await.expect("one").clone();
    let policy = Policy { issuer: IssuerKind::Local, ..Policy::default() };
    let (plan, _) = compile(&snapshot.expect("objects"), &policy);
    plan.wanted.get(&tls()).cloned().expect("it")
}

#[tokio::test]
async fn r_fly_of_two_who_claim_a_record_one_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = directory.path().join("issued");
    let store = Store::Directory(Directory::new([directory.path().to_owned()], write));
    let vault = Vault::new(store, Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let claimed = async || Record::claim(&vault, place.clone(), &claim(&names)).await;
    let (mut first, again) = claimed().await.expect("claimed");
    assert!(!again);
    let (mut second, again) = claimed().await.expect("claimed");
    assert!(again, "the same question");
    assert_eq!(first.key().expect("a key"), second.key().expect("a key"));
    let refused = first.note_url(&vault, "https://ca.test/1").await.expect_err("too late");
    assert!(matches!(refused, Trouble::Store(StoreError::Conflict(_))), "{refused}");
    second.note_url(&vault, "https://ca.test/2").await.expect("noted");
    let (third, again) = claimed().await.expect("claimed");
    assert_eq!((third.url(), again), (Some("https://ca.test/2"), true));
    let more = ["a.test".to_owned(), "b.test".to_owned()].into();
    let other = Record::claim(&vault, place.clone(), &claim(&more)).await.expect("claimed");
    assert!(!other.1 && other.0.url().is_none(), "another question");
}

#[tokio::test]
async fn r_led_the_ledger_outlives_its_writer_and_has_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = directory.path().join("issued");
    let store = Store::Directory(Directory::new([directory.path().to_owned()], write));
    let vault = Vault::new(store, Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let key = ledger::key("ca", &names);
    let now = 1_800_000_000;
    let open = async || {
        let book = book::Book::new(vault.clone(), "lockgate", Budget::default());
        book.read(now).await.expect("read");
        book
    };
    let (first, second) = (open().await, open().await);
    first.open().reserve(&key, now);
    first.flush().await.expect("written");
    assert_eq!(open().await.open().reserved(&key), Some(now));
    second.open().reserve(&key, now);
    assert!(second.flush().await.is_err(), "somebody else keeps it");
    assert!(!second.is_read(), "and nothing goes on before it was read anew");
    second.read(now).await.expect("read");
    second.flush().await.expect("nothing to write");
}

/// A page that cannot be written, whoever filled it, stops neither other orders nor what was issued.
#[tokio::test]
async fn r_led_a_page_that_cannot_be_written_stops_nobody_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = directory.path().join("issued");
    let store = Store::Directory(Directory::new([directory.path().to_owned()], write.clone()));
    let vault = Vault::new(store, Leadership::sole());
    let book = book::Book::new(vault.clone(), "lockgate", Budget::default());
    let now = 1_800_000_000;
    book.read(now).await.expect("read");
    let keys = (0..).map(|it| ledger::key("ca", &[format!("{it}.test")].into()));
    let page = |it: &String| ledger::Ledger::pages_of(it)[1];
    let mut keys = keys.filter(|it| page(it) != 0);
    let broken = keys.next().expect("a key");
    let good = keys.find(|it| page(it) > page(&broken)).expect("another");
    let place = write.join(format!(".lockgate.lockgate-acme-ledger-{}.configmap", page(&broken)));
    std::fs::create_dir_all(&place).expect("made");
    book.open().reserve(&broken, now);
    book.open().reserve(&good, now);
    assert_eq!(book.flush_for(&good).await, Ok(()));
    assert!(
        book.flush_for(&broken).await.is_err() && book.flush().await.is_err() && book.is_read()
    );
    let next = book::Book::new(vault.clone(), "lockgate", Budget::default());
    std::fs::remove_dir(&place).expect("gone");
    next.read(now).await.expect("read");
    assert_eq!(next.open().reserved(&good), Some(now));
    assert_eq!(book.flush().await, Ok(()), "what was left is written");
    next.read(now).await.expect("read");
    assert_eq!(next.open().reserved(&broken), Some(now));
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
