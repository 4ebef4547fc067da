//! In a cluster: objects applied with `kubectl` are served, and what there is to tell stands on them.
//!
//! The program has the rights of `deploy/rbac.yaml` in all of these, and no others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, deploy};
use crate::harness::load::Load;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_tls, pair, tls_secret};
use crate::harness::process::{SOON, eventually};

/// The whole of a host goes to `web`.
const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/demo/ingresses";

/// A cluster with the Service `web`, the product beside it.
struct House {
    cluster: Cluster,
    web: Backend,
    lockgate: Lockgate,
}

impl House {
    async fn new() -> Self {
        Self::with_args(&[]).await
    }

    async fn with_args(args: &[&str]) -> Self {
        let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
        cluster.apply(&backend("web", 80, &[web.addr()])).await;
        let lockgate = cluster.lockgate("lockgate").await.args(args.iter().copied());
        let lockgate = lockgate.start().await;
        Self { cluster, web, lockgate }
    }

    /// The addresses in the status of the Ingress `one`, once they are these.
    async fn status(&self, expected: Value) {
        eventually(&format!("status {expected}"), SOON, async || {
            let object = self.cluster.get_json(&format!("{INGRESSES}/one")).await;
            let found = object.map(|it| it["status"]["loadBalancer"]["ingress"].clone());
            if found.as_ref() == Some(&expected) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

/// What `kubectl apply` makes is served, what `kubectl delete` takes away is not, and all of it is done
/// with the rights that are shipped.
#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rights_are_enough_to_serve() {
    let House { cluster, web, lockgate } = House::new().await;
    cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
    let reply = lockgate.answers("http://a.test/", 200).await;
    assert_eq!(reply.backend().as_deref(), Some(web.name()));
    let other = Backend::outside("other").await;
    cluster.apply(&backend("other", 80, &[other.addr()])).await;
    cluster.apply(&ingress("one", "a.test", &[("/", "Prefix", "other", 80)], &[])).await;
    eventually("the other backend", SOON, async || {
        let reply = lockgate.client().get("http://a.test/").await.ok()?;
        (reply.backend().as_deref() == Some("other")).then_some(())
    })
    .await;
    // A setting, with the ConfigMap that is shipped.
    let settings = json!({ "data": { "hsts-max-age": "7" } });
    cluster.patch_json("/api/v1/namespaces/lockgate/configmaps/lockgate", &settings).await;
    eventually("the setting", SOON, async || {
        let Ok(reply) = lockgate.tls_client().get("https://a.test/").await else { return false };
        let age = reply.header("strict-transport-security").map(|it| it.contains("max-age=7"));
        age == Some(true)
    })
    .await;
    cluster.delete(&["ingress", "one", "--namespace=demo"]).await;
    lockgate.answers("http://a.test/", 404).await;
    eventually("leadership", SOON, async || {
        lockgate.metric("nginx_ingress_controller_leader_election_status", &[]).await > 0.0
    })
    .await;
    for it in cluster.faults().requests() {
        assert!(!matches!(it.status, 401 | 403), "{it:?}");
    }
    assert!(!lockgate.stderr().contains("forbidden"), "{}", lockgate.stderr());
    lockgate.no_problem().await;
}

/// Owners read what is wrong where they look first: at their own object.
#[tokio::test(flavor = "multi_thread")]
async fn a_problem_becomes_an_event_on_the_object() {
    let House { cluster, web: _web, lockgate } = House::new().await;
    let paths = [("/", "Prefix", "web", 80), ("/x", "Prefix", "nowhere", 80)];
    let bad = [("nginx.ingress.kubernetes.io/proxy-body-size", "lots")];
    cluster.apply(&ingress("one", "a.test", &paths, &bad)).await;
    lockgate.answers("http://a.test/", 200).await;
    let args = ["get", "events", "--namespace=demo", "--output=json"];
    let events = eventually("two events", SOON, async || {
        let text = cluster.kubectl(&args).await?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        if events.len() >= 2 { Ok(events) } else { Err(text) }
    })
    .await;
    for (reason, part) in [("Backend", "demo/nowhere"), ("BadAnnotation", "\"lots\"")] {
        let event = events.iter().find(|it| it["reason"] == reason);
        let event = event.unwrap_or_else(|| panic!("{reason}: {events:#?}"));
        assert!(event["message"].as_str().is_some_and(|it| it.contains(part)), "{event:#}");
        assert_eq!(event["type"], "Warning");
        let object = &event["involvedObject"];
        assert_eq!([&object["kind"], &object["name"]], ["Ingress", "one"]);
        let stored = cluster.get_json(&format!("{INGRESSES}/one")).await.unwrap();
        assert_eq!(object["uid"], stored["metadata"]["uid"], "{event:#}");
    }
    // So that `kubectl describe` shows them.
    let described = cluster.kubectl(&["describe", "ingress", "one", "--namespace=demo"]).await;
    assert!(described.as_ref().is_ok_and(|it| it.contains("demo/nowhere")), "{described:?}");

    // Once for each problem, however often objects change.
    for round in 0..3 {
        let name = format!("more-{round}");
        cluster.apply(&ingress(&name, &format!("{name}.test"), &ROOT, &[])).await;
        lockgate.answers(&format!("http://{name}.test/"), 200).await;
    }
    let list: Value = serde_json::from_str(&cluster.kubectl(&args).await.unwrap()).unwrap();
    let events = list["items"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(events.iter().all(|it| it["count"] == 1), "{events:#?}");
}

/// People and DNS controllers read the address from the Ingress, whoever overwrites it.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_given_addresses() {
    let args =
        ["--publish-status-address=198.51.100.7,lb.example.org", "--status-update-interval=5"];
    let house = House::with_args(&args).await;
    house.cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
    let expected = json!([{ "ip": "198.51.100.7" }, { "hostname": "lb.example.org" }]);
    house.status(expected.clone()).await;
    let other = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.9" }] } } });
    house.cluster.patch_json(&format!("{INGRESSES}/one/status"), &other).await;
    house.status(expected).await;
    // It may be looked at once more before what was written has come back.
    let writes = || {
        let written = house.cluster.faults().writes().into_iter();
        written.filter(|it| it.path.contains("/ingresses/one/")).count()
    };
    let (mut settled, mut since) = (writes(), Instant::now());
    eventually("two looks without a write", SOON, async || {
        if writes() > settled {
            (settled, since) = (writes(), Instant::now());
        }
        since.elapsed() > Duration::from_secs(11)
    })
    .await;
    eventually("another Ingress", SOON, async || {
        house.cluster.apply(&ingress("two", "b.test", &ROOT, &[])).await;
        house.lockgate.client().get("http://b.test/").await.is_ok_and(|it| it.status == 200)
    })
    .await;
    assert_eq!(writes(), settled, "what is right already is not written again");
}

/// The load balancer of the shipped Service is what users connect to.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_addresses_of_the_service() {
    let house = House::with_args(&["--publish-service=lockgate/lockgate"]).await;
    house.cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
    house.lockgate.answers("http://a.test/", 200).await;
    house.cluster.apply(&deploy("service.yaml")).await;
    let service = "/api/v1/namespaces/lockgate/services/lockgate/status";
    let balanced = |ingress: Value| json!({ "status": { "loadBalancer": { "ingress": ingress } } });
    for addresses in [json!([{ "ip": "198.51.100.8" }]), json!([{ "hostname": "lb.example.org" }])]
    {
        house.cluster.patch_json(service, &balanced(addresses.clone())).await;
        house.status(addresses).await;
    }
}

/// Without a load balancer users connect to the nodes that replicas run on.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_addresses_of_nodes() {
    const PODS: &str = "/api/v1/namespaces/lockgate/pods";
    for (flags, both, one) in [
        (&[][..], json!([{ "ip": "10.0.0.2" }, { "ip": "198.51.100.1" }]), "198.51.100.1"),
        (
            &["--report-node-internal-ip-address"],
            json!([{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }]),
            "10.0.0.1",
        ),
    ] {
        let args = [&["--status-update-interval=5"], flags].concat();
        let House { cluster, web, lockgate } = House::with_args(&args).await;
        let address = |kind: &str, address: &str| json!({ "type": kind, "address": address });
        let outer = |it: &str| address("ExternalIP", it);
        let inner = |it: &str| address("InternalIP", it);
        for (name, addresses) in [
            ("one", json!([inner("10.0.0.1"), outer("198.51.100.1")])),
            ("two", json!([address("Hostname", "two"), inner("10.0.0.2")])),
            ("three", json!([inner("10.0.0.3"), outer("198.51.100.3")])),
        ] {
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
            cluster.post_json("/api/v1/nodes", &node).await;
            let status = json!({ "status": { "addresses": addresses } });
            cluster.patch_json(&format!("/api/v1/nodes/{name}/status"), &status).await;
        }
        let ready = |ready: &str| {
            let condition = json!({ "type": "Ready", "status": ready });
            json!({ "status": { "phase": "Running", "conditions": [condition] } })
        };
        // The first has the name that the product was given.
        for (name, node, app, hash) in [
            ("lockgate", "one", "lockgate", "old"),
            ("lockgate-2", "two", "lockgate", "new"),
            ("other", "three", "other", "old"),
        ] {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name,
                    "labels": { "app.kubernetes.io/name": app, "pod-template-hash": hash },
                },
                "spec": {
                    "nodeName": node, "serviceAccountName": "lockgate",
                    "containers": [{ "name": "it", "image": "it" }],
                },
            });
            cluster.post_json(PODS, &pod).await;
            cluster.patch_json(&format!("{PODS}/{name}/status"), &ready("True")).await;
        }
        cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
        let house = House { cluster, web, lockgate };
        house.status(both).await;
        house.cluster.patch_json(&format!("{PODS}/lockgate-2/status"), &ready("False")).await;
        house.status(json!([{ "ip": one }])).await;

        // Nobody is ready: what is written stays, and that is looked at again soon.
        house.cluster.patch_json(&format!("{PODS}/lockgate/status"), &ready("False")).await;
        let lists = || {
            let asked = house.cluster.faults().requests();
            asked.iter().filter(|it| it.path.starts_with(PODS) && it.path.contains('?')).count()
        };
        let before = lists();
        eventually("two looks", SOON, async || (lists() >= before + 2).then_some(())).await;
        house.status(json!([{ "ip": one }])).await;
        for it in house.cluster.faults().requests() {
            assert!(!matches!(it.status, 401 | 403), "{it:?}");
        }
    }
}

/// Who starts in a zone knows it, and who cannot know serves all the same. (API servers of today keep the hints
/// that follow from it; the one here is too old.)
#[tokio::test(flavor = "multi_thread")]
async fn our_zone_is_that_of_our_node() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    cluster.apply(&backend("web", 80, &[web.addr()])).await;
    cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
    let labels = json!({ "topology.kubernetes.io/zone": "zone-7" });
    for metadata in [json!({ "name": "one", "labels": labels }), json!({ "name": "two" })] {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
        cluster.post_json("/api/v1/nodes", &node).await;
    }
    for (name, node) in [("lockgate", "one"), ("lockgate-b", "two")] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": {
                "nodeName": node, "serviceAccountName": "lockgate",
                "containers": [{ "name": "it", "image": "it" }],
            },
        });
        cluster.post_json("/api/v1/namespaces/lockgate/pods", &pod).await;
    }
    for (user, flag, told) in [
        ("lockgate", "--enable-topology-aware-routing", Some("zone-7")),
        ("lockgate", "--enable-topology-aware-routing=false", None),
        ("lockgate-b", "--enable-topology-aware-routing", Some("our zone is not known")),
        ("lockgate-c", "--enable-topology-aware-routing", Some("our zone is not known")),
    ] {
        let lockgate = cluster.lockgate(user).await.args([flag]).start().await;
        lockgate.answers("http://a.test/", 200).await;
        let log = lockgate.stderr();
        let zone = log.lines().find(|it| it.contains("zone"));
        assert_eq!(zone.is_some(), told.is_some(), "{user} {flag}: {log}");
        assert!(zone.is_none_or(|it| it.contains(told.unwrap())), "{user} {flag}: {log}");
    }
}

/// Changing rules costs nobody a request.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_edits_under_load_fail_no_request() {
    let House { cluster, web: _web, lockgate } = House::new().await;
    cluster.apply(&ingress("one", "a.test", &ROOT, &[])).await;
    lockgate.answers("http://a.test/", 200).await;
    let plain = Load::start(&lockgate.client(), "http://a.test/", 4).await;
    let h2 = Load::start(&lockgate.tls_client().http2(), "https://a.test/", 4).await;
    for edit in 1..=50 {
        let paths = json!([
            { "path": "/", "pathType": "Prefix",
              "backend": { "service": { "name": "web", "port": { "number": 80 } } } },
            { "path": format!("/edit-{edit}"), "pathType": "Exact",
              "backend": { "service": { "name": "web", "port": { "number": 80 } } } },
        ]);
        let size = format!("{edit}m");
        let patch = json!({
            "metadata": { "annotations": { "nginx.ingress.kubernetes.io/proxy-body-size": size } },
            "spec": { "rules": [{ "host": "a.test", "http": { "paths": paths } }] },
        });
        cluster.patch_json(&format!("{INGRESSES}/one"), &patch).await;
    }
    eventually("the last edit", SOON, async || {
        lockgate.admin_json("/api/routes").await.to_string().contains("/edit-50\"")
    })
    .await;
    for load in [plain, h2] {
        let report = load.stop().await;
        report.assert_clean();
        assert!(report.ok > 50, "{report:?}");
        assert_eq!(report.reconnects, 0, "{report:?}");
    }
}

/// A right that is missing costs what it is for, is named, and is not missed for long once it is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_may_not_be_read_degrades_only_that() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let rights = deploy("rbac.yaml");
    let fewer = rights.replace("resources: [ingresses, ingressclasses]", "resources: [ingresses]");
    assert_ne!(fewer, rights);
    cluster.apply(&fewer).await;
    eventually("the right is gone", SOON, async || {
        !cluster.may("list", "networking.k8s.io", "ingressclasses", "").await
    })
    .await;
    // Without classes there is still the annotation that came before them.
    let by_annotation =
        ingress("one", "a.test", &ROOT, &[("kubernetes.io/ingress.class", "nginx")]);
    let objects = [
        backend("web", 80, &[web.addr()]),
        by_annotation.replace("  ingressClassName: nginx\n", ""),
        ingress("two", "b.test", &ROOT, &[]),
    ];
    cluster.apply(&objects.concat()).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    lockgate.answers("http://a.test/", 200).await;
    lockgate.answers("http://b.test/", 404).await;
    let told = lockgate.problem("Unreadable").await;
    assert!(told.contains("IngressClass"), "{told}");
    let problems = lockgate.metric("lockgate_problems", &["IngressClass", "Unreadable"]).await;
    assert_eq!(problems.to_string(), "1");

    cluster.apply(&rights).await;
    eventually("the class", Duration::from_secs(60), async || {
        lockgate.client().get("http://b.test/").await.is_ok_and(|it| it.status == 200)
    })
    .await;
    lockgate.no_problem().await;
}

/// Without Secrets and Leases there are no certificates and nobody who writes, but what can be served is.
#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_and_leases_the_rest_is_served() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let rights = deploy("rbac.yaml");
    let fewer = rights
        .replace("resources: [secrets]", "resources: [nothing]")
        .replace("resources: [leases]", "resources: [nothing]");
    cluster.apply(&fewer).await;
    eventually("the rights are gone", SOON, async || {
        !cluster.may("list", "", "secrets", "").await
            && !cluster.may("create", "coordination.k8s.io", "leases", "lockgate").await
    })
    .await;
    let theirs = pair(&["b.test"]);
    let objects = [
        backend("web", 80, &[web.addr()]),
        ingress("one", "a.test", &ROOT, &[]),
        ingress_tls("two", "b.test", &ROOT, &[], "theirs"),
        tls_secret("theirs", &theirs),
    ];
    cluster.apply(&objects.concat()).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    lockgate.answers("http://a.test/", 200).await;
    let told = lockgate.problem("Unreadable").await;
    assert!(told.contains("Secret"), "{told}");
    let reply = lockgate.tls_client().get("https://b.test/").await.unwrap();
    assert_eq!(reply.status, 200, "with a certificate nobody trusts");
    let trusting = Client::new().ca(&theirs.certificate).connect_to(lockgate.https);
    assert!(trusting.get("https://b.test/").await.is_err());

    cluster.apply(&rights).await;
    let limit = Duration::from_secs(60);
    eventually("the certificate", limit, async || trusting.get("https://b.test/").await).await;
    eventually("leadership", limit, async || {
        lockgate.metric("nginx_ingress_controller_leader_election_status", &[]).await > 0.0
    })
    .await;
    lockgate.no_problem().await;
}

/// A Secret that was made by hand is followed at once and never written, whatever an Ingress asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_made_by_hand_is_followed_and_never_written() {
    let House { cluster, web: _web, lockgate } = House::with_args(&["--issuer=local"]).await;
    let ask = [("kubernetes.io/tls-acme", "true")];
    let pairs = [pair(&["a.test"]), pair(&["a.test"])];
    let path = "/api/v1/namespaces/demo/secrets/theirs";
    cluster.apply(&tls_secret("theirs", &pairs[0])).await;
    cluster.apply(&ingress_tls("one", "a.test", &ROOT, &ask, "theirs")).await;
    for theirs in &pairs {
        cluster.apply(&tls_secret("theirs", theirs)).await;
        let stored = cluster.get_json(path).await;
        let trusting = Client::new().ca(&theirs.certificate).connect_to(lockgate.https);
        eventually("their certificate", SOON, async || trusting.get("https://a.test/").await).await;
        lockgate.problem("SecretNotManaged").await;
        assert_eq!(cluster.get_json(path).await, stored);
    }
    let written = cluster.faults().writes().into_iter();
    let written: Vec<_> = written.filter(|it| it.path.contains("/demo/secrets")).collect();
    assert!(written.is_empty(), "{written:#?}");

    // Handed over by its owner, it is replaced by one of ours.
    let mark = json!({ "metadata": { "annotations": { "lockgate.dev/managed": "v1" } },
        "data": { "tls.crt": "", "tls.key": "" } });
    cluster.patch_json(path, &mark).await;
    eventually("a certificate of ours", SOON, async || {
        let secret = cluster.get_json(path).await.unwrap_or_default();
        secret["metadata"]["annotations"]["lockgate.dev/issuer"] == "local"
    })
    .await;
}
