//! Several replicas: all serve, one writes; when that one is gone another does, and never two.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::backend::Backend;
use crate::harness::cluster::Cluster;
use crate::harness::load::Load;
use crate::harness::lockgate::{Lockgate, backend, ingress_tls};
use crate::harness::process::{SOON, eventually};

/// The replicas' names, which are those of the proxies they go through.
const FIRST: &str = "lockgate";
const SECOND: &str = "lockgate-b";

/// How long the lease is good in these tests.
const LEASE: Duration = Duration::from_secs(12);

/// A cluster with two replicas that issue certificates themselves; the first leads.
struct House {
    cluster: Cluster,
    first: Lockgate,
    second: Lockgate,
    _web: Backend,
}

impl House {
    async fn new() -> Self {
        let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
        cluster.apply(&backend("web", 80, &[web.addr()])).await;
        let args = ["--issuer=local", "--publish-status-address=198.51.100.7"];
        let first = cluster.lockgate(FIRST).await.args(args).start().await;
        eventually("a leader", SOON, async || leads(&first).await).await;
        let second = cluster.lockgate(SECOND).await.args(args).start().await;
        let house = Self { cluster, first, second, _web: web };
        house.ask("zero").await;
        house.cared_for("zero", SOON).await;
        assert_eq!(house.holder().await, FIRST);
        house
    }

    /// Applies an Ingress that gives a leader something to do: a certificate, an address, Events.
    async fn ask(&self, name: &str) {
        let paths = [("/", "Prefix", "web", 80)];
        let ask = [("kubernetes.io/tls-acme", "true")];
        self.cluster.apply(&ingress_tls(name, &format!("{name}.test"), &paths, &ask, name)).await;
    }

    /// Waits until somebody has done it.
    async fn cared_for(&self, name: &str, limit: Duration) {
        let secret = format!("/api/v1/namespaces/demo/secrets/{name}");
        let ingress = format!("/apis/networking.k8s.io/v1/namespaces/demo/ingresses/{name}");
        eventually(&format!("certificate and address of {name}"), limit, async || {
            let secret = self.cluster.get_json(&secret).await.is_some();
            let ingress = self.cluster.get_json(&ingress).await.unwrap_or_default();
            let address = &ingress["status"]["loadBalancer"]["ingress"][0]["ip"];
            if secret && address == "198.51.100.7" {
                Ok(())
            } else {
                Err(format!("certificate: {secret}, address: {address}"))
            }
        })
        .await;
    }

    /// Whom the Lease names.
    async fn holder(&self) -> Value {
        let path = "/apis/coordination.k8s.io/v1/namespaces/lockgate/leases/lockgate-leader";
        self.cluster.get_json(path).await.unwrap_or_default()["spec"]["holderIdentity"].clone()
    }
}

async fn leads(replica: &Lockgate) -> bool {
    replica.metric("nginx_ingress_controller_leader_election_status", &[]).await > 0.0
}

/// What a killed leader leaves undone, another does after the lease ran out.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_by_the_other() {
    let house = House::new().await;
    let client = house.second.tls_client();
    let load = Load::start(&client, "https://zero.test/", 4).await;
    house.first.process().kill();
    let begun = Instant::now();
    house.ask("one").await;
    house.cared_for("one", SOON).await;
    assert!(begun.elapsed() < LEASE * 2, "{:?}", begun.elapsed());
    assert!(leads(&house.second).await);
    assert_eq!(house.holder().await, SECOND);
    load.stop().await.assert_clean();
}

/// A leader that was asleep for longer than its lease wakes up and leaves everything alone, also what
/// it was in the middle of.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_through_its_lease_writes_nothing() {
    let house = House::new().await;
    let faults = house.cluster.faults_of(FIRST);
    faults.stall("POST /namespaces/demo/secrets");
    house.ask("one").await;
    eventually("work begun", SOON, async || {
        let mut writes = faults.writes().into_iter();
        writes.any(|it| it.path.contains("/namespaces/demo/secrets") && it.status == 0)
    })
    .await;
    house.first.signal("STOP");
    house.cared_for("one", SOON).await;
    assert_eq!(house.holder().await, SECOND);
    house.ask("two").await;
    house.cared_for("two", SOON).await;
    let stored = house.cluster.get_json("/api/v1/namespaces/demo/secrets/one").await;

    let before = faults.writes().len();
    faults.heal();
    house.first.signal("CONT");
    // It has seen what happened meanwhile, and whatever it had planned it would have tried by now.
    house.ask("three").await;
    house.cared_for("three", SOON).await;
    for name in ["two", "three"] {
        let url = format!("https://{name}.test/");
        eventually("a route", SOON, async || {
            house.first.tls_client().get(&url).await.is_ok_and(|it| it.status == 200)
        })
        .await;
    }
    eventually("the end of its leadership", SOON, async || !leads(&house.first).await).await;
    // What else it was in the middle of may still be sent, for a version that is no more.
    let mut written = faults.writes().split_off(before);
    written.retain(|it| it.status != 409 || it.path.contains("/secrets"));
    assert!(written.is_empty(), "{written:#?}");
    assert_eq!(house.cluster.get_json("/api/v1/namespaces/demo/secrets/one").await, stored);
}

/// Nobody waits for the lease of a leader that was told to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_at_once() {
    let house = House::new().await;
    house.first.signal("TERM");
    let begun = Instant::now();
    eventually("the other leads", SOON, async || leads(&house.second).await).await;
    assert!(begun.elapsed() < LEASE / 2, "{:?}", begun.elapsed());
    assert_eq!(house.first.wait(SOON).await, 0);
    house.ask("one").await;
    house.cared_for("one", SOON).await;
    assert_eq!(house.holder().await, SECOND);
}

/// A leader that cannot renew its lease stops writing before anybody else may begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_gives_up_in_time() {
    let house = House::new().await;
    let faults = house.cluster.faults_of(FIRST);
    faults.status("/leases/", 500, &[], usize::MAX);
    eventually("one of them leads no longer", SOON, async || {
        // In this order: it may change hands between the two looks.
        let (second, first) = (leads(&house.second).await, leads(&house.first).await);
        assert!(!(first && second), "both lead");
        !first
    })
    .await;
    let before = faults.writes().len();
    eventually("the other leads", SOON, async || leads(&house.second).await).await;
    house.ask("one").await;
    house.cared_for("one", SOON).await;
    let mut written = faults.writes().split_off(before);
    written.retain(|it| !it.path.contains("/leases"));
    assert!(written.is_empty(), "{written:#?}");
    // And the other way round, once it can.
    faults.heal();
    house.second.signal("TERM");
    eventually("the first leads again", SOON, async || leads(&house.first).await).await;
    assert_eq!(house.holder().await, json!(FIRST));
}
