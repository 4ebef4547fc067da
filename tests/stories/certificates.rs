//! Certificates from a real ACME CA, in a cluster: asked for with an annotation, kept for ever.
//!
//! The CA checks each name at the replicas' common HTTP port, with nothing reused or waved through.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::acme::{AcmeCluster, Handshakes, ISSUED, UNCHECKED, asking};
use crate::harness::load::Load;
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually};

/// Applies an Ingress for `hosts` that asks for one certificate in the Secret of its name.
///
/// The names of these stories are the CA's alone: no look at them from here says anything.
async fn ask(house: &AcmeCluster, name: &str, hosts: &[&str]) {
    house.cluster.apply(&asking(name, hosts, &[UNCHECKED])).await;
}

/// One annotation is all it takes; whichever replica the CA asks knows the answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_gets_a_certificate_with_two_replicas() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let replicas = [house.replica("lockgate").await, house.replica("lockgate-b").await];
    let names = ["one", "two", "three", "four"];
    for name in names {
        ask(&house, name, &[&format!("{name}.test")]).await;
    }
    for name in names {
        let host = format!("{name}.test");
        for replica in &replicas {
            let connection = house.acme.certified(replica, &host, ISSUED).await;
            assert_eq!(connection.names(), [host.as_str()]);
        }
        let secret = house.secret(name).await.unwrap();
        assert_eq!(secret["type"], "kubernetes.io/tls");
        let annotations = &secret["metadata"]["annotations"];
        assert_eq!(annotations["lockgate.dev/managed"], "v1", "{annotations}");
        assert_eq!(annotations["lockgate.dev/issuer"], house.acme.ca.directory(), "{annotations}");
        assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "lockgate");
        let chain = STANDARD.decode(secret["data"]["tls.crt"].as_str().unwrap()).unwrap();
        let chain = String::from_utf8(chain).unwrap();
        assert!(chain.matches("BEGIN CERTIFICATE").count() >= 2, "the intermediate is missing");
        house.told(name, "CertificateIssued").await;
        assert_eq!(house.events(name, "CertificateIssued").await[0]["type"], "Normal");
    }
    let [mut challenges, mut issued] = [0.0; 2];
    for replica in &replicas {
        challenges += replica.metric("lockgate_challenges_total", &[]).await;
        issued += replica.metric("lockgate_certificate_orders_total", &["issued"]).await;
    }
    // The CA asks three times for each name and wants the right answer every time.
    assert!(challenges >= 12.0, "{challenges}");
    assert_eq!((issued.to_string().as_str(), house.acme.ca.orders()), ("4", 4), "one order each");
    // Records of orders are gone with the orders; accounts stay.
    house.no_order_left().await;

    // Another host in the same entry: one certificate for both takes its place.
    ask(&house, "one", &["one.test", "more.test"]).await;
    eventually("both names", ISSUED, async || {
        let connection = house.acme.certified(&replicas[1], "one.test", SOON).await;
        connection.names().len() == 2
    })
    .await;
    for it in house.cluster.faults().requests() {
        assert!(!matches!(it.status, 401 | 403), "{it:?}");
    }
}

/// When a third of its life is left there is another; nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_the_next_handshake() {
    let validity = Some(Duration::from_secs(80));
    let house = AcmeCluster::new(PebbleOptions { validity, ..PebbleOptions::default() }).await;
    // However often the CA wants it: three a week.
    let budget = ["--acme-min-reissue=1s"];
    let mut replicas = Vec::new();
    for user in ["lockgate", "lockgate-b"] {
        replicas.push(house.replica_with(user, &budget).await);
    }
    ask(&house, "one", &["one.test"]).await;
    let mut kept = house.acme.certified(&replicas[0], "one.test", ISSUED).await;
    let client = house.acme.client(&replicas[0]).await;
    let load = Load::start(&client, "https://one.test/", 4).await;
    let mut loops = Vec::new();
    for replica in &replicas {
        house.acme.certified(replica, "one.test", SOON).await;
        loops.push(Handshakes::start(house.acme.client(replica).await, "one.test"));
    }
    let first = kept.serial();
    for replica in &replicas {
        let client = house.acme.client(replica).await;
        eventually("another certificate", ISSUED, async || {
            assert_eq!(kept.get("/").await.unwrap().status, 200, "the connection from before");
            client.connect("https://one.test/").await.is_ok_and(|it| it.serial() != first)
        })
        .await;
    }
    load.stop().await.assert_clean();
    for handshakes in loops {
        handshakes.stop().await.assert_clean();
    }
    assert!(house.acme.ca.orders() <= 3, "{} orders in a minute", house.acme.ca.orders());
}

/// A refusal is told in the CA's own words and not tried again at once; others are not held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_name_is_told_and_does_not_loop() {
    let domain_blocklist = vec!["blocked.test".to_owned()];
    let options = PebbleOptions { domain_blocklist, nonce_reject: 0, ..PebbleOptions::default() };
    let house = AcmeCluster::new(options).await;
    let lockgate = house.replica("lockgate").await;
    ask(&house, "bad", &["blocked.test"]).await;
    let told = house.told("bad", "Blocked").await;
    assert!(told.contains("rejectedIdentifier") && told.contains("blocked.test"), "{told}");
    assert_eq!(house.events("bad", "Blocked").await[0]["type"], "Warning");
    for round in 0..3 {
        // Each changes the plan, which is when a careless program would look again.
        let name = format!("fine-{round}");
        let host = format!("{name}.test");
        ask(&house, &name, &[&host]).await;
        house.acme.certified(&lockgate, &host, SOON).await;
    }
    assert_eq!(house.acme.ca.orders(), 3, "those that were not refused");
    let failed = lockgate.metric("lockgate_certificate_orders_total", &["failed"]).await;
    assert_eq!(failed.to_string(), "1");
    lockgate.answers("http://blocked.test/", 200).await;
    // Other names are another question.
    ask(&house, "bad", &["allowed.test"]).await;
    house.acme.certified(&lockgate, "allowed.test", SOON).await;
}

/// Where a name leads to somebody else, its owner reads what the CA saw; nobody else waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_told() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    house.acme.pebble.set_address("lost.test", "127.0.0.9").await;
    house.acme.pebble.servfail("nameless.test").await;
    let lockgate = house.replica("lockgate").await;
    for (name, host) in [("lost", "lost.test"), ("nameless", "nameless.test"), ("one", "one.test")]
    {
        ask(&house, name, &[host]).await;
    }
    house.acme.certified(&lockgate, "one.test", SOON).await;
    for (name, seen) in [("lost", "connection refused"), ("nameless", "could not resolve")] {
        let told = house.told(name, "ValidationFailed").await;
        for part in [&*format!("{name}.test"), seen, "next try in "] {
            assert!(told.contains(part), "{told}");
        }
    }
    assert_eq!(house.acme.ca.orders(), 3, "one each");
}

/// A leader that dies between finalizing an order and storing the certificate takes nothing with it: the
/// next one picks up the same order, with the same key.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_outlives_the_leader_that_ordered_it() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let first = house.replica("lockgate").await;
    // The rehearsal says `dryRun` before it says who writes.
    let faults = house.cluster.faults_of("lockgate");
    faults.stall("POST /namespaces/demo/secrets?&fieldManager");
    ask(&house, "one", &["one.test"]).await;
    eventually("the write", SOON, async || {
        faults.writes().iter().any(|it| it.path.contains("/demo/secrets?&fieldManager"))
    })
    .await;
    first.process().kill();
    assert!(house.secret("one").await.is_none(), "the test came too late");
    let records = house.records("secrets", "lockgate-order-").await;
    assert_eq!(records.len(), 1, "{records:#?}");

    let second = house.replica("lockgate-b").await;
    house.acme.certified(&second, "one.test", SOON).await;
    let secret = house.secret("one").await.unwrap();
    assert_eq!(secret["data"]["tls.key"], records[0]["data"]["key.pem"], "another key");
    assert_eq!(house.acme.ca.orders(), 1, "another order");
}

/// Everything is served without a CA, over plain HTTP where there was never a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_down_at_the_start_is_waited_for() {
    let mut house = AcmeCluster::new(PebbleOptions::default()).await;
    house.acme.pebble.process().kill();
    let lockgate = house.replica("lockgate").await;
    ask(&house, "one", &["one.test"]).await;
    lockgate.answers("http://one.test/", 200).await;
    let told = house.told("one", "CaUnavailable").await;
    assert!(told.contains("next try in"), "{told}");
    house.acme.pebble.restart().await;
    house.acme.certified(&lockgate, "one.test", ISSUED).await;
    lockgate.answers("http://one.test/", 308).await;
}

/// A CA that lost its memory is registered with anew; what was issued before goes on being served.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_forgot_the_account_is_registered_with_again() {
    let mut house = AcmeCluster::new(PebbleOptions::default()).await;
    let lockgate = house.replica("lockgate").await;
    ask(&house, "one", &["one.test"]).await;
    house.acme.certified(&lockgate, "one.test", SOON).await;
    let before = house.acme.client(&lockgate).await;
    house.acme.pebble.restart().await;
    ask(&house, "two", &["two.test"]).await;
    house.acme.certified(&lockgate, "two.test", ISSUED).await;
    assert_eq!(before.get("https://one.test/").await.unwrap().status, 200);
}
