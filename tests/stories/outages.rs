//! When the API server is away, slow, forgetful or cross, clients do not notice; afterwards everything
//! is followed again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::load::Load;
use crate::harness::lockgate::{
    Lockgate, backend, endpoints, ingress, ingress_tls, pair, tls_secret,
};
use crate::harness::process::{SOON, eventually};

/// The whole of a host goes to `web`.
const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

/// What asks for Ingresses.
const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";

/// How soon after an outage its traces are gone.
const MINUTE: Duration = Duration::from_secs(60);

/// A cluster, the product beside it, and a route that has to go on working.
struct House {
    cluster: Cluster,
    web: Backend,
    lockgate: Lockgate,
    loads: Vec<Load>,
}

impl House {
    async fn new() -> Self {
        let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
        let objects = [backend("web", 80, &[web.addr()]), ingress("one", "one.test", &ROOT, &[])];
        cluster.apply(&objects.concat()).await;
        let lockgate = cluster.lockgate("lockgate").await.start().await;
        lockgate.answers("http://one.test/", 200).await;
        let loads = vec![
            Load::start(&lockgate.client(), "http://one.test/", 3).await,
            Load::start(&lockgate.tls_client().http2(), "https://one.test/", 3).await,
        ];
        Self { cluster, web, lockgate, loads }
    }

    /// Waits until this many more requests were served.
    async fn some_load(&self, count: usize) {
        let before = self.web.requests();
        eventually("load", SOON, async || self.web.requests() > before + count).await;
    }

    /// Applies one more Ingress, for a host of the same name.
    async fn add(&self, name: &str) {
        self.cluster.apply(&ingress(name, &format!("{name}.test"), &ROOT, &[])).await;
    }

    /// Waits until that is served.
    async fn served(&self, name: &str, limit: Duration) {
        let (client, url) = (self.lockgate.client(), format!("http://{name}.test/"));
        eventually(&url, limit, async || client.get(&url).await.is_ok_and(|it| it.status == 200))
            .await;
    }

    /// Seconds since the API server was last heard.
    async fn silent_for(&self, seconds: f64) {
        let what = format!("silence for {seconds} s");
        eventually(&what, MINUTE, async || {
            let age = self.lockgate.metric("lockgate_config_age_seconds", &[]).await;
            if age > seconds { Ok(()) } else { Err(age.to_string()) }
        })
        .await;
    }

    async fn assert_healthy(&self) {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(self.lockgate.admin(path).await.unwrap().status, 200, "{path}");
        }
    }

    /// No request failed, from first to last.
    async fn assert_clean(self) {
        for load in self.loads {
            let report = load.stop().await;
            report.assert_clean();
            assert_eq!(report.reconnects, 0, "{report:?}");
        }
    }
}

/// What is known is served without an API server, and what changed is followed when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_dies_is_not_missed() {
    let house = House::new().await;
    house.cluster.kill_apiserver();
    house.silent_for(12.0).await;
    house.assert_healthy().await;
    house.some_load(200).await;
    house.cluster.start_apiserver().await;
    house.add("two").await;
    house.served("two", MINUTE / 2).await;
    house.cluster.delete(&["ingress", "two", "--namespace=demo"]).await;
    house.lockgate.answers("http://two.test/", 404).await;
    house.assert_clean().await;
}

/// Order of starting does not matter: it waits, says so, and is ready soon after.
#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_an_api_server_that_is_not_there_yet() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let objects = [backend("web", 80, &[web.addr()]), ingress("one", "one.test", &ROOT, &[])];
    cluster.apply(&objects.concat()).await;
    let start = cluster.lockgate("lockgate").await;
    cluster.kill_apiserver();
    let lockgate = start.launch();
    eventually("health", SOON, async || {
        lockgate.admin("/healthz").await.is_ok_and(|it| it.status == 200)
    })
    .await;
    // Long enough for its patience to have grown.
    let asked = || cluster.faults().requests().len();
    eventually("some tries", SOON, async || asked() > 10).await;
    for _ in 0..3 {
        assert_eq!(lockgate.admin("/readyz").await.unwrap().status, 503);
        for (client, url) in
            [(lockgate.client(), "http://one.test/"), (lockgate.tls_client(), "https://one.test/")]
        {
            let status = client.get(url).await.unwrap().status;
            assert!(matches!(status, 404 | 503), "{url}: {status}");
        }
        let before = asked();
        eventually("one more try", SOON, async || asked() > before).await;
    }
    cluster.start_apiserver().await;
    eventually("ready", MINUTE, async || {
        let reply = lockgate.admin("/readyz").await.map_err(|error| error.to_string())?;
        if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    eventually("the route", MINUTE, async || {
        lockgate.client().get("http://one.test/").await.is_ok_and(|it| it.status == 200)
    })
    .await;
}

/// Versions that expired (410) are asked for anew, and what was deleted meanwhile is gone.
#[tokio::test(flavor = "multi_thread")]
async fn expired_watches_begin_anew() {
    let house = House::new().await;
    for name in ["two", "three", "four"] {
        house.add(name).await;
        house.served(name, SOON).await;
        house.cluster.faults().expire_watches("");
        house.cluster.delete(&["ingress", name, "--namespace=demo"]).await;
        house.lockgate.answers(&format!("http://{name}.test/"), 404).await;
    }
    house.assert_clean().await;
}

/// Watches that fell silent without ending, as behind a firewall that forgot them, do not stay so.
#[tokio::test(flavor = "multi_thread")]
async fn watches_that_fall_silent_are_noticed() {
    let house = House::new().await;
    house.cluster.faults().silence_watches("");
    house.add("two").await;
    house.served("two", MINUTE * 2).await;
    house.assert_clean().await;
}

/// An API server that takes requests and says nothing holds nobody up, and is believed again after.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_hangs_is_outlived() {
    let house = House::new().await;
    house.cluster.faults().stall("");
    house.add("two").await;
    house.silent_for(12.0).await;
    house.assert_healthy().await;
    house.some_load(200).await;
    house.cluster.faults().heal();
    house.served("two", MINUTE / 2).await;
    house.assert_clean().await;
}

/// An overloaded API server is not asked more and more.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_answered_with_patience() {
    let mut house = House::new().await;
    for load in house.loads.drain(..) {
        // So that all it does is ask.
        load.stop().await.assert_clean();
    }
    let faults = house.cluster.faults();
    let refusals = [(429, INGRESSES), (500, "/api/v1/services")];
    let before = faults.requests().len();
    let (begun, busy) = (Instant::now(), house.lockgate.cpu());
    for (code, path) in refusals {
        faults.status(path, code, &[("retry-after", "1")], usize::MAX);
        faults.expire_watches(path);
    }
    house.add("two").await;
    // The pulse that asks for the version every ten seconds is the clock here.
    for beat in ["a beat", "another beat"] {
        let before = faults.requests().len();
        eventually(beat, SOON, async || {
            faults.requests()[before..].iter().any(|it| it.path == "/version")
        })
        .await;
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8), "{took:?}");
    let busy = house.lockgate.cpu().saturating_sub(busy);
    let asked = faults.requests().split_off(before);
    for (code, path) in refusals {
        let asked = asked.iter().filter(|it| it.path.starts_with(path)).count();
        assert!(asked > 0 && asked as u64 <= took.as_secs(), "{code}: {asked} times in {took:?}");
    }
    assert!(busy < took / 5, "{busy:?} of CPU in {took:?}");
    house.assert_healthy().await;
    faults.heal();
    house.served("two", MINUTE / 2).await;
}

/// Rights that are taken away, or not known yet to an API server that just started, leave everything as
/// it was seen last.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_cost_nothing_that_is_served() {
    let house = House::new().await;
    let theirs = pair(&["two.test"]);
    let two = ingress_tls("two", "two.test", &ROOT, &[], "theirs");
    house.cluster.apply(&(two + &tls_secret("theirs", &theirs))).await;
    let trusting = Client::new().ca(&theirs.certificate).connect_to(house.lockgate.https);
    let url = "https://two.test/";
    eventually("their certificate", SOON, async || trusting.get(url).await).await;
    let load = Load::start(&trusting, url, 2).await;
    let faults = house.cluster.faults();
    let kinds = ["/ingressclasses", "/ingresses", "/services", "/endpointslices", "/secrets"];
    for kind in kinds {
        faults.status(&format!("GET {kind}?"), 403, &[], usize::MAX);
        faults.expire_watches(&format!("{kind}?"));
    }
    eventually("the problems", SOON, async || {
        let told = house.lockgate.admin_json("/api/problems").await.to_string();
        if told.matches("Unreadable").count() == kinds.len() { Ok(()) } else { Err(told) }
    })
    .await;
    house.some_load(200).await;
    assert_eq!(trusting.get(url).await.unwrap().status, 200, "in a new handshake");
    house.assert_healthy().await;
    faults.heal();
    house.lockgate.no_problem_within(MINUTE).await;
    house.add("three").await;
    house.served("three", SOON).await;
    load.stop().await.assert_clean();
    house.assert_clean().await;
}

/// An API server that comes back with nearly nothing is not believed at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_mass_deletion_that_follows_an_error_is_held() {
    let house = House::new().await;
    let names: Vec<String> = (0..12).map(|it| format!("mass-{it}")).collect();
    let objects: Vec<String> =
        names.iter().map(|it| ingress(it, &format!("{it}.test"), &ROOT, &[])).collect();
    house.cluster.apply(&objects.concat()).await;
    house.served("mass-11", SOON).await;
    house.cluster.faults().status(INGRESSES, 500, &[], usize::MAX);
    house.cluster.faults().expire_watches(INGRESSES);
    house.cluster.delete(&["ingress", "--all", "--namespace=demo"]).await;
    house.cluster.faults().heal();
    eventually("an alarm", MINUTE / 2, async || {
        house.lockgate.stderr().contains("nearly everything is gone")
    })
    .await;
    for name in &names {
        house.served(name, SOON).await;
    }
    // What comes meanwhile is followed nevertheless.
    house.cluster.apply(&objects[..2].concat()).await;
    house.add("two").await;
    house.served("two", SOON).await;
    let held = house.lockgate.client().get("http://mass-11.test/").await.unwrap();
    assert_eq!(held.status, 200, "nothing else is believed yet");
    house.assert_clean().await;
}

/// Pods come and go: requests go where somebody is.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_and_go_under_load() {
    let house = House::new().await;
    let other = Backend::outside("other").await;
    for _ in 0..5 {
        for (addrs, gains) in
            [(vec![house.web.addr(), other.addr()], &other), (vec![house.web.addr()], &house.web)]
        {
            let slices = "/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices";
            if addrs.len() == 1 {
                let name = format!("web-80-{}", other.addr().port());
                let ready = json!({ "endpoints": [{ "addresses": [other.addr().ip().to_string()],
                    "conditions": { "ready": false, "terminating": true } }] });
                house.cluster.patch_json(&format!("{slices}/{name}"), &ready).await;
                house.cluster.delete(&["endpointslice", &name, "--namespace=demo"]).await;
            } else {
                house.cluster.apply(&endpoints("web", 80, &addrs)).await;
            }
            let before = gains.requests();
            eventually("its share", SOON, async || gains.requests() > before + 50).await;
        }
    }
    let known = async || house.lockgate.admin_json("/api/endpoints").await.to_string();
    let gone = other.addr().to_string();
    eventually("one endpoint", SOON, async || !known().await.contains(&gone)).await;
    drop(other);
    house.some_load(100).await;
    house.assert_clean().await;
}
