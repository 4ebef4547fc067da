//! Certificates from a real ACME CA, in a cluster: asked for with an annotation, kept for ever.
//!
//! The CA checks each name at the replicas' common HTTP port, with nothing reused or waved through.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::acme::ISSUED;
use crate::harness::backend::Backend;
use crate::harness::client::{Client, Connection};
use crate::harness::cluster::Cluster;
use crate::harness::load::Load;
use crate::harness::lockgate::{Lockgate, backend, ingress_tls};
use crate::harness::pebble::{Pebble, PebbleOptions};
use crate::harness::process::{SOON, eventually, free_port};

/// The whole of a host goes to `web`.
const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

/// The annotation that asks for a certificate.
///
/// The names of these stories are the CA's alone: no look at them from here says anything.
const ASK: [(&str, &str); 2] =
    [("kubernetes.io/tls-acme", "true"), ("lockgate.dev/self-check", "off")];

/// A cluster with the Service `web`, and a CA; replicas are started by the test.
struct House {
    cluster: Cluster,
    pebble: Pebble,
    web: Backend,
    /// Where the CA asks, and so every replica serves, HTTP.
    http: u16,
}

impl House {
    async fn new(options: PebbleOptions) -> Self {
        let http = free_port();
        let options = PebbleOptions { http_port: http, ..options };
        let (cluster, pebble, web) =
            tokio::join!(Cluster::installed(), Pebble::start(options), Backend::outside("web"));
        cluster.apply(&backend("web", 80, &[web.addr()])).await;
        Self { cluster, pebble, web, http }
    }

    /// One more replica, called as the user whose proxy it goes through.
    async fn replica(&self, user: &str) -> Lockgate {
        let ca_file = self.pebble.ca_file().display().to_string();
        let args = ["--acme-directory", &self.pebble.directory(), "--acme-ca-file", &ca_file];
        let start = self.cluster.lockgate(user).await.http_port(self.http);
        let quick = ["--acme-min-reissue=1s", "--acme-settle=1s"];
        start.args(args).args(quick).start().await
    }

    /// Applies an Ingress for `hosts` that asks for one certificate in the Secret of its name.
    async fn ask(&self, name: &str, hosts: &[&str]) {
        let yaml = ingress_tls(name, hosts[0], &ROOT, &ASK, name);
        let [first, all] = [&hosts[..1], hosts].map(|it| json!(it).to_string());
        self.cluster.apply(&yaml.replacen(&first, &all, 1)).await;
    }

    /// A client that trusts what the CA issues, connecting to this replica.
    async fn client(&self, replica: &Lockgate) -> Client {
        Client::new().ca(&self.pebble.root_pem().await).connect_to(replica.https)
    }

    /// Waits for a certificate of the CA for `host`; gives a connection that was shown it.
    async fn certified(&self, replica: &Lockgate, host: &str, limit: Duration) -> Connection {
        let client = self.client(replica).await;
        let url = format!("https://{host}/");
        let what = format!("certificate of {host}");
        let mut connection = eventually(&what, limit, async || client.connect(&url).await).await;
        let reply = connection.get("/").await.unwrap();
        assert_eq!(reply.backend().as_deref(), Some(self.web.name()), "{host}: {}", reply.text());
        connection
    }

    async fn secret(&self, name: &str) -> Option<Value> {
        self.cluster.get_json(&format!("/api/v1/namespaces/demo/secrets/{name}")).await
    }

    /// The Events with this reason on an Ingress.
    async fn events(&self, ingress: &str, reason: &str) -> Vec<Value> {
        let list = self.cluster.get_json("/api/v1/namespaces/demo/events").await.unwrap();
        let mut events = list["items"].as_array().cloned().unwrap_or_default();
        events.retain(|it| it["reason"] == reason && it["involvedObject"]["name"] == ingress);
        events
    }

    /// How many orders the CA took.
    fn orders(&self) -> usize {
        self.pebble.process().log().matches("Added order").count()
    }
}

/// One annotation is all it takes; whichever replica the CA asks knows the answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_gets_a_certificate_with_two_replicas() {
    let house = House::new(PebbleOptions::default()).await;
    let replicas = [house.replica("lockgate").await, house.replica("lockgate-b").await];
    let names = ["one", "two", "three", "four"];
    for name in names {
        house.ask(name, &[&format!("{name}.test")]).await;
    }
    for name in names {
        let host = format!("{name}.test");
        for replica in &replicas {
            let connection = house.certified(replica, &host, ISSUED).await;
            assert_eq!(connection.names(), [host.as_str()]);
        }
        let secret = house.secret(name).await.unwrap();
        assert_eq!(secret["type"], "kubernetes.io/tls");
        let annotations = &secret["metadata"]["annotations"];
        assert_eq!(annotations["lockgate.dev/managed"], "v1", "{annotations}");
        assert_eq!(annotations["lockgate.dev/issuer"], house.pebble.directory(), "{annotations}");
        assert_eq!(secret["metadata"]["labels"]["app.kubernetes.io/managed-by"], "lockgate");
        let chain = STANDARD.decode(secret["data"]["tls.crt"].as_str().unwrap()).unwrap();
        let chain = String::from_utf8(chain).unwrap();
        assert!(chain.matches("BEGIN CERTIFICATE").count() >= 2, "the intermediate is missing");
        let event = eventually("an Event", SOON, async || {
            house.events(name, "CertificateIssued").await.pop()
        })
        .await;
        assert_eq!(event["type"], "Normal", "{event:#}");
    }
    let [mut challenges, mut issued] = [0.0; 2];
    for replica in &replicas {
        challenges += replica.metric("lockgate_challenges_total", &[]).await;
        issued += replica.metric("lockgate_certificate_orders_total", &["issued"]).await;
    }
    // The CA asks three times for each name and wants the right answer every time.
    assert!(challenges >= 12.0, "{challenges}");
    assert_eq!((issued.to_string().as_str(), house.orders()), ("4", 4), "one order each");
    // Records of orders are gone with the orders; accounts stay.
    let own = house.cluster.get_json("/api/v1/namespaces/lockgate/secrets").await.unwrap();
    assert!(!own.to_string().contains("lockgate-order-"), "{own:#}");

    // Another host in the same entry: one certificate for both takes its place.
    house.ask("one", &["one.test", "more.test"]).await;
    eventually("both names", ISSUED, async || {
        let connection = house.certified(&replicas[1], "one.test", SOON).await;
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
    let house = House::new(PebbleOptions { validity, ..PebbleOptions::default() }).await;
    let replicas = [house.replica("lockgate").await, house.replica("lockgate-b").await];
    house.ask("one", &["one.test"]).await;
    let mut kept = house.certified(&replicas[0], "one.test", SOON).await;
    let client = house.client(&replicas[0]).await;
    let load = Load::start(&client, "https://one.test/", 4).await;
    let first = kept.serial();
    for replica in &replicas {
        let client = house.client(replica).await;
        eventually("another certificate", ISSUED, async || {
            assert_eq!(kept.get("/").await.unwrap().status, 200, "the connection from before");
            let fresh = client.connect("https://one.test/").await.unwrap();
            fresh.serial() != first
        })
        .await;
    }
    load.stop().await.assert_clean();
    assert!(house.orders() <= 3, "{} orders in a minute", house.orders());
}

/// A refusal is told in the CA's own words and not tried again at once; others are not held up.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_name_is_told_and_does_not_loop() {
    let domain_blocklist = vec!["blocked.test".to_owned()];
    let options = PebbleOptions { domain_blocklist, nonce_reject: 0, ..PebbleOptions::default() };
    let house = House::new(options).await;
    let lockgate = house.replica("lockgate").await;
    house.ask("bad", &["blocked.test"]).await;
    let event =
        eventually("an Event", SOON, async || house.events("bad", "Blocked").await.pop()).await;
    let message = event["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("rejectedIdentifier") && message.contains("blocked.test"),
        "{message}"
    );
    assert_eq!(event["type"], "Warning");
    for round in 0..3 {
        // Each changes the plan, which is when a careless program would look again.
        let name = format!("fine-{round}");
        let host = format!("{name}.test");
        house.ask(&name, &[&host]).await;
        house.certified(&lockgate, &host, SOON).await;
    }
    assert_eq!(house.orders(), 3, "those that were not refused");
    let failed = lockgate.metric("lockgate_certificate_orders_total", &["failed"]).await;
    assert_eq!(failed.to_string(), "1");
    lockgate.answers("http://blocked.test/", 200).await;
    // Other names are another question.
    house.ask("bad", &["allowed.test"]).await;
    house.certified(&lockgate, "allowed.test", SOON).await;
}

/// Where a name leads to somebody else, its owner reads what the CA saw; nobody else waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_told() {
    let house = House::new(PebbleOptions::default()).await;
    house.pebble.set_address("lost.test", "127.0.0.9").await;
    house.pebble.servfail("nameless.test").await;
    let lockgate = house.replica("lockgate").await;
    for (name, host) in [("lost", "lost.test"), ("nameless", "nameless.test"), ("one", "one.test")]
    {
        house.ask(name, &[host]).await;
    }
    house.certified(&lockgate, "one.test", SOON).await;
    for (name, seen) in [("lost", "connection refused"), ("nameless", "could not resolve")] {
        let event = eventually("an Event", SOON, async || {
            house.events(name, "ValidationFailed").await.pop()
        })
        .await;
        let message = event["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("{name}.test")), "{message}");
        assert!(message.contains(seen), "{message}");
        assert!(message.contains("next try in "), "{message}");
    }
    assert_eq!(house.orders(), 3, "one each");
}

/// A leader that dies between finalizing an order and storing the certificate takes nothing with it: the
/// next one picks up the same order, with the same key.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_outlives_the_leader_that_ordered_it() {
    let house = House::new(PebbleOptions::default()).await;
    let first = house.replica("lockgate").await;
    // The rehearsal says `dryRun` before it says who writes.
    let faults = house.cluster.faults_of("lockgate");
    faults.stall("POST /namespaces/demo/secrets?&fieldManager");
    house.ask("one", &["one.test"]).await;
    eventually("the write", SOON, async || {
        faults.writes().iter().any(|it| it.path.contains("/demo/secrets?&fieldManager"))
    })
    .await;
    first.process().kill();
    assert!(house.secret("one").await.is_none(), "the test came too late");
    let records = house.cluster.get_json("/api/v1/namespaces/lockgate/secrets").await.unwrap();
    let mut records = records["items"].as_array().cloned().unwrap_or_default();
    records.retain(|it| it["metadata"]["name"].to_string().contains("lockgate-order-"));
    assert_eq!(records.len(), 1, "{records:#?}");

    let second = house.replica("lockgate-b").await;
    house.certified(&second, "one.test", SOON).await;
    let secret = house.secret("one").await.unwrap();
    assert_eq!(secret["data"]["tls.key"], records[0]["data"]["key.pem"], "another key");
    assert_eq!(house.orders(), 1, "another order");
}

/// Everything is served without a CA, over plain HTTP where there was never a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_down_at_the_start_is_waited_for() {
    let mut house = House::new(PebbleOptions::default()).await;
    house.pebble.process().kill();
    let lockgate = house.replica("lockgate").await;
    house.ask("one", &["one.test"]).await;
    lockgate.answers("http://one.test/", 200).await;
    let event =
        eventually("an Event", SOON, async || house.events("one", "CaUnavailable").await.pop())
            .await;
    let message = event["message"].as_str().unwrap_or_default();
    assert!(message.contains("next try in"), "{message}");
    house.pebble.restart().await;
    house.certified(&lockgate, "one.test", ISSUED).await;
    lockgate.answers("http://one.test/", 308).await;
}

/// A CA that lost its memory is registered with anew; what was issued before goes on being served.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_forgot_the_account_is_registered_with_again() {
    let mut house = House::new(PebbleOptions::default()).await;
    let lockgate = house.replica("lockgate").await;
    house.ask("one", &["one.test"]).await;
    house.certified(&lockgate, "one.test", SOON).await;
    let before = house.client(&lockgate).await;
    house.pebble.restart().await;
    house.ask("two", &["two.test"]).await;
    house.certified(&lockgate, "two.test", ISSUED).await;
    assert_eq!(before.get("https://one.test/").await.unwrap().status, 200);
}
