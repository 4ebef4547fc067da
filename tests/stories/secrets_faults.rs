//! Secrets that are deleted, broken, fought over or locked, rights that are taken away, and a leader that
//! falls asleep: the last good certificate is served, nothing that was issued is lost, and nothing is
//! ordered because of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::acme::{AcmeCluster, Handshakes, Held, ISSUED, UNCHECKED, asking, leads};
use crate::harness::ca_proxy::{Endpoint, When};
use crate::harness::client::Client;
use crate::harness::lockgate::{Lockgate, pair};
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually};

const MINUTE: Duration = Duration::from_secs(60);

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/lockgate";

/// Two replicas, the first of which leads, with certificates for hosts of these names.
async fn house(names: &[&str]) -> (AcmeCluster, Lockgate, Lockgate) {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let first = house.replica("lockgate").await;
    house.leads(&first).await;
    let second = house.replica("lockgate-b").await;
    for name in names {
        house.ask(name, &[&format!("{name}.test")]).await;
    }
    for name in names {
        for replica in [&first, &second] {
            house.acme.certified(replica, &format!("{name}.test"), ISSUED).await;
        }
    }
    house.no_order_left().await;
    (house, first, second)
}

/// Handshakes with both replicas, for all of these names.
async fn handshakes(
    house: &AcmeCluster,
    replicas: [&Lockgate; 2],
    names: &[&str],
) -> Vec<Handshakes> {
    let mut loops = Vec::new();
    for replica in replicas {
        for name in names {
            let client = house.acme.client(replica).await;
            loops.push(Handshakes::start(client, &format!("{name}.test")));
        }
    }
    loops
}

async fn assert_clean(loops: Vec<Handshakes>) {
    for it in loops {
        it.stop().await.assert_clean();
    }
}

/// Waits until a Secret holds a pair of which both replicas show the certificate.
async fn put_right(house: &AcmeCluster, replicas: [&Lockgate; 2], name: &str) -> Held {
    let held = eventually(&format!("a pair in {name}"), MINUTE, async || {
        Held::parse(&house.secret(name).await.unwrap_or_default())
    })
    .await;
    for replica in replicas {
        let client = house.acme.client(replica).await;
        let url = format!("https://{name}.test/");
        eventually("what is stored", SOON, async || {
            let shown = client.connect(&url).await.map_err(|it| it.to_string())?.serial();
            if shown == Some(held.serial()) { Ok(()) } else { Err(format!("{shown:?}")) }
        })
        .await;
    }
    held
}

fn data(entries: &[(&str, &str)]) -> Value {
    let entries =
        entries.iter().map(|(name, text)| ((*name).to_owned(), STANDARD.encode(text).into()));
    json!({ "data": entries.collect::<serde_json::Map<_, _>>() })
}

/// Writes to a Secret that were meant, by the replica of this user.
fn writes(house: &AcmeCluster, user: &str, name: &str) -> usize {
    let faults = house.cluster.faults_of(user);
    let by_name = faults.matching(&format!("P /namespaces/demo/secrets/{name} !dryRun"));
    by_name.iter().filter(|it| it.status < 300).count()
}

/// Deleted, half empty, with another's key, or garbage: the same pair is back soon, without an order.
#[tokio::test(flavor = "multi_thread")]
async fn r_sto_4_a_broken_secret_is_put_right_without_an_order() {
    let names = ["gone", "half", "mixed", "garbage"];
    let (house, first, second) = house(&names).await;
    let replicas = [&first, &second];
    let (orders, loops) = (house.acme.ca.orders(), handshakes(&house, replicas, &names).await);
    let stranger = pair(&["mixed.test"]);
    for name in names {
        let before = house.held(name).await;
        let path = AcmeCluster::secret_path(name);
        match name {
            "gone" => house.cluster.delete(&["secret", name, "--namespace=demo"]).await,
            "half" => drop(house.cluster.patch_json(&path, &data(&[("tls.key", "")])).await),
            "mixed" => {
                drop(house.cluster.patch_json(&path, &data(&[("tls.key", &stranger.key)])).await);
            }
            _ => drop(house.cluster.patch_json(&path, &data(&[("tls.crt", "nonsense")])).await),
        }
        let after = put_right(&house, replicas, name).await;
        assert!(before == after, "{name}: another pair");
        let secret = house.secret(name).await.unwrap();
        assert_eq!(secret["metadata"]["annotations"]["lockgate.dev/managed"], "v1", "{secret:#}");
    }
    assert_eq!(house.acme.ca.orders(), orders);
    assert_clean(loops).await;
}

/// Who writes again what was put right wins, and is told so; who takes our mark away owns the Secret.
#[tokio::test(flavor = "multi_thread")]
async fn r_sto_4_two_writers_do_not_fight() {
    let names = ["rival", "handed"];
    let (house, first, second) = house(&names).await;
    let replicas = [&first, &second];
    let loops = handshakes(&house, replicas, &names[..1]).await;
    let (orders, before) = (house.acme.ca.orders(), writes(&house, "lockgate", "rival"));
    let path = AcmeCluster::secret_path("rival");
    let theirs = data(&[("tls.crt", "theirs"), ("tls.key", "theirs")]);
    house.cluster.patch_json(&path, &theirs).await;
    put_right(&house, replicas, "rival").await;
    house.cluster.patch_json(&path, &theirs).await;
    let told = house.told("rival", "Conflict").await;
    assert!(told.contains("rival"), "{told}");
    // Whatever it had planned it would have done by the time that another certificate is there.
    house.ask("third", &["third.test"]).await;
    house.acme.certified(&first, "third.test", ISSUED).await;
    let secret = house.secret("rival").await.unwrap();
    assert_eq!(secret["data"], theirs["data"], "written again");
    assert!(writes(&house, "lockgate", "rival") <= before + 1);
    assert_eq!(house.acme.ca.orders(), orders + 1, "ordered for the rival");
    assert_clean(loops).await;

    let own = pair(&["handed.test"]);
    let mut theirs = data(&[("tls.crt", &own.certificate), ("tls.key", &own.key)]);
    theirs["metadata"] = json!({ "annotations": { "lockgate.dev/managed": null } });
    house.cluster.patch_json(&AcmeCluster::secret_path("handed"), &theirs).await;
    for replica in replicas {
        let client = Client::new().ca(&own.certificate).unresumed();
        let client = client.connect_to(replica.https);
        eventually("their certificate", SOON, async || {
            client.connect("https://handed.test/").await
        })
        .await;
    }
    house.ask("fourth", &["fourth.test"]).await;
    house.acme.certified(&first, "fourth.test", ISSUED).await;
    let secret = house.secret("handed").await.unwrap();
    assert_eq!(secret["data"], theirs["data"], "written again");
    assert_eq!(house.acme.ca.orders(), orders + 2);
}

/// Nothing is ordered that could not be stored; once it can be, it is.
#[tokio::test(flavor = "multi_thread")]
async fn r_pre_1_a_secret_that_cannot_be_written_costs_no_order() {
    let (house, first, second) = house(&["fixed"]).await;
    let orders = house.acme.ca.orders();
    let loops = handshakes(&house, [&first, &second], &["fixed"]).await;
    let path = AcmeCluster::secret_path("fixed");
    house.cluster.patch_json(&path, &json!({ "immutable": true })).await;
    house.ask("fixed", &["fixed.test", "more.test"]).await;
    let faults = house.cluster.faults_of("lockgate");
    let refusals = || {
        let rehearsals = faults.matching("P /namespaces/demo/secrets/fixed");
        rehearsals.iter().filter(|it| it.status >= 400).count()
    };
    eventually("two refusals", MINUTE, async || refusals() >= 2).await;
    assert_eq!(house.acme.ca.orders(), orders);
    assert_clean(loops).await;
    house.cluster.delete(&["secret", "fixed", "--namespace=demo"]).await;
    let shown = eventually("both names", MINUTE, async || {
        let shown = house.acme.certified(&first, "fixed.test", MINUTE).await;
        (shown.names().len() == 2).then_some(shown)
    })
    .await;
    assert_eq!(shown.serial(), Some(house.held("fixed").await.serial()));
    assert_eq!(house.acme.ca.orders(), orders + 1);
}

/// Rights that go away in the middle of an order: what was issued waits, and is stored when they are back.
#[tokio::test(flavor = "multi_thread")]
async fn r_sto_3_what_cannot_be_stored_is_kept_and_never_ordered_again() {
    let (house, first, _second) = house(&["zero"]).await;
    let (orders, issued) = (house.acme.ca.orders(), house.acme.ca.issued());
    house.acme.ca.hold(Endpoint::Finalize, When::After);
    house.ask("one", &["one.test"]).await;
    house.acme.ca.held().await;
    let role = house.cluster.get_json(ROLE).await.unwrap();
    let mut less = role.clone();
    for rule in less["rules"].as_array_mut().unwrap() {
        if rule["resources"] == json!(["secrets"]) {
            rule["verbs"] = json!(["get", "list", "watch"]);
        }
    }
    house.cluster.patch_json(ROLE, &json!({ "rules": less["rules"] })).await;
    eventually("the right is gone", SOON, async || {
        !house.cluster.may("create", "", "secrets", "demo").await
    })
    .await;
    house.acme.ca.release();
    let faults = house.cluster.faults_of("lockgate");
    let refusals = || {
        let writes = faults.matching("P /namespaces/demo/secrets");
        writes.iter().filter(|it| it.status == 403).count()
    };
    eventually("refusals", MINUTE, async || refusals() >= 2).await;
    first.answers("http://one.test/", 200).await;
    house.acme.certified(&first, "zero.test", SOON).await;
    assert!(house.secret("one").await.is_none());
    house.cluster.patch_json(ROLE, &json!({ "rules": role["rules"] })).await;
    house.acme.certified(&first, "one.test", MINUTE).await;
    house.held("one").await;
    assert_eq!(house.acme.ca.issued(), issued + 1);
    assert_eq!(house.acme.ca.orders(), orders + 1);
    house.no_order_left().await;
}

/// A leader that sleeps through its lease in the middle of an order: the next one ends that order, and
/// the sleeper wakes up to do nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sleeps_in_the_middle_of_an_order_writes_nothing_afterwards() {
    let (house, first, second) = house(&["zero"]).await;
    let (orders, issued) = (house.acme.ca.orders(), house.acme.ca.issued());
    house.acme.ca.hold(Endpoint::Finalize, When::After);
    // The sleeper's socket still takes its share of connections, which a load balancer would see to.
    house.cluster.apply(&asking("one", &["one.test"], &[UNCHECKED])).await;
    house.acme.ca.held().await;
    first.signal("STOP");
    house.leads(&second).await;
    // Only the sleeper's answer was held.
    house.acme.certified(&second, "one.test", ISSUED).await;
    let stored = house.secret("one").await.unwrap();
    Held::of(&stored);
    let faults = house.cluster.faults_of("lockgate");
    let before = faults.writes().len();
    house.acme.ca.release();
    first.signal("CONT");
    house.ask("two", &["two.test"]).await;
    house.acme.certified(&second, "two.test", ISSUED).await;
    for name in ["one", "two"] {
        house.acme.certified(&first, &format!("{name}.test"), SOON).await;
    }
    eventually("the end of its leadership", SOON, async || !leads(&first).await).await;
    let mut written = faults.writes().split_off(before);
    // It may still ask for the lease, in vain.
    written.retain(|it| it.status < 300 || !it.path.contains("/leases"));
    assert!(written.is_empty(), "{written:#?}");
    assert_eq!(house.secret("one").await.unwrap(), stored);
    assert_eq!(house.acme.ca.issued(), issued + 2);
    assert_eq!(house.acme.ca.orders(), orders + 2);
}

/// Whoever deletes a Secret again and again burns no more of the CA's quota than the budget has, also if
/// nobody remembers but the ledger; then the owner is told.
#[tokio::test(flavor = "multi_thread")]
async fn r_led_the_ledger_outlives_secret_and_leader() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let budget = ["--acme-max-issues=2/7d", "--acme-min-reissue=1s"];
    let mut replica = house.replica_with("lockgate", &budget).await;
    house.ask("one", &["one.test"]).await;
    for issued in [1, 2] {
        house.acme.certified(&replica, "one.test", ISSUED).await;
        house.no_order_left().await;
        assert_eq!(house.acme.ca.issued(), issued);
        replica.process().kill();
        house.cluster.delete(&["secret", "one", "--namespace=demo"]).await;
        replica = house.replica_with("lockgate", &budget).await;
    }
    let told = house.told("one", "Blocked").await;
    assert!(told.contains("2 certificates for these names in 7 d were issued"), "{told}");
    // Others have a budget of their own.
    house.ask("two", &["two.test"]).await;
    house.acme.certified(&replica, "two.test", ISSUED).await;
    assert_eq!(house.acme.ca.issued(), 3);
    assert!(house.secret("one").await.is_none());
    replica.answers("http://one.test/", 200).await;
}
