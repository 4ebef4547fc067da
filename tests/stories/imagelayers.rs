//! Imagelayers: three Services, two hosts, and one certificate of their owner's for both.
//!
//! `/registry` is passed on as it is, and `/badge/…` to the badge Service as if that had been asked for by
//! its own name. In the beginning an nginx was built for that.

use serde_json::Value;

use crate::harness::backend::Backend;
use crate::harness::client::{Client, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::load::Load;
use crate::harness::lockgate::{Authority, Lockgate, NAMESPACE, Pair, backend, tls_secret};
use crate::harness::process::{SOON, eventually};

const HOSTS: [&str; 2] = ["imagelayers.io", "badge.imagelayers.io"];

/// Both hosts, and of the first one what is passed on as it is.
///
/// It stands in an Ingress of its own: `rewrite-target` would be for each of its paths.
const WHOLE: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: imagelayers
  namespace: staging
spec:
  ingressClassName: nginx
  tls:
  - hosts: [imagelayers.io, badge.imagelayers.io]
    secretName: imagelayers-tls
  rules:
  - host: imagelayers.io
    http:
      paths:
      - {path: REGISTRY, backend: {service: {name: imagelayers, port: {number: 80}}}, pathType: TYPE}
      - {path: /, pathType: Prefix, backend: {service: {name: imagelayers-web, port: {number: 80}}}}
  - host: badge.imagelayers.io
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: badger, port: {number: 80}}}}
";

/// What is rewritten.
const BADGES: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: imagelayers-badges
  namespace: staging
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$1
    nginx.ingress.kubernetes.io/upstream-vhost: badge.imagelayers.io
spec:
  ingressClassName: nginx
  tls:
  - hosts: [imagelayers.io]
    secretName: imagelayers-tls
  rules:
  - host: imagelayers.io
    http:
      paths:
      - path: /badge/(.*)
        pathType: ImplementationSpecific
        backend: {service: {name: badger, port: {number: 80}}}
";

/// A cluster with the three Services in the namespace `staging`, and one replica.
struct House {
    cluster: Cluster,
    lockgate: Lockgate,
    authority: Authority,
    _services: [Backend; 3],
}

impl House {
    async fn new() -> Self {
        let (cluster, api, web, badger) = tokio::join!(
            Cluster::installed(),
            Backend::outside("imagelayers"),
            Backend::outside("imagelayers-web"),
            Backend::outside("badger"),
        );
        cluster.kubectl(&["create", "namespace", "staging"]).await.unwrap();
        let services = [api, web, badger];
        for it in &services {
            cluster.apply(&staging(&backend(it.name(), 80, &[it.addr()]))).await;
        }
        let lockgate = cluster.lockgate("lockgate").await.start().await;
        let house = Self { cluster, lockgate, authority: Authority::new(), _services: services };
        house.keep(&house.authority.issue(&HOSTS)).await;
        house
    }

    /// Puts a certificate of the owner's where the Ingresses look for it.
    async fn keep(&self, pair: &Pair) {
        self.cluster.apply(&staging(&tls_secret("imagelayers-tls", pair))).await;
    }

    /// HTTP/1.1 and HTTP/2, trusting the owner's CA and nobody else.
    fn clients(&self) -> [(&'static str, Client); 2] {
        let client =
            Client::new().ca(self.authority.pem()).unresumed().connect_to(self.lockgate.https);
        [("HTTP/1.1", client.clone()), ("HTTP/2", client.http2())]
    }

    async fn ask(&self, client: &Client, host_and_path: &str) -> Result<Reply, String> {
        let reply = client.get(&format!("https://{host_and_path}")).await;
        reply.map_err(|error| format!("{host_and_path}: {error}"))
    }

    /// Waits until all are answered as they should be; then they are over both protocols.
    async fn expect(&self, cases: &[(&str, &str)]) {
        let [(_, h1), _] = self.clients();
        eventually("what was applied", SOON, async || {
            for (asked, expected) in cases {
                let found = told(&self.ask(&h1, asked).await?);
                if found != *expected {
                    return Err(format!("{asked}: {found}"));
                }
            }
            Ok(())
        })
        .await;
        for (version, client) in self.clients() {
            for (asked, expected) in cases {
                let reply = self.ask(&client, asked).await.unwrap();
                assert_eq!(told(&reply), *expected, "{version}: {asked}");
            }
        }
    }

    async fn delete(&self, ingress: &str) {
        self.cluster.delete(&["ingress", ingress, "--namespace=staging"]).await;
    }
}

fn staging(yaml: &str) -> String {
    yaml.replace(&format!("namespace: {NAMESPACE}"), "namespace: staging")
}

fn whole(registry: &str, kind: &str) -> String {
    WHOLE.replace("REGISTRY", registry).replace("TYPE", kind)
}

/// `200 SERVICE TARGET HOST`, or the status alone.
fn told(reply: &Reply) -> String {
    let echo = reply.json();
    let (Some(service), Some(target)) = (echo["backend"].as_str(), echo["target"].as_str()) else {
        return reply.status.to_string();
    };
    let fields = echo["headers"].as_array().into_iter().flatten();
    let host = fields.filter(|it| it[0] == "host").find_map(|it| it[1].as_str());
    format!("{} {service} {target} {}", reply.status, host.unwrap_or_default())
}

/// What a visitor of both hosts sees, with the rewrite beside everything else.
const SERVED: &[(&str, &str)] = &[
    ("imagelayers.io/badge/image/a.svg?x=1", "200 badger /image/a.svg?x=1 badge.imagelayers.io"),
    ("imagelayers.io/registry/analyze", "200 imagelayers /registry/analyze imagelayers.io"),
    (
        "imagelayers.io/registry/images/a%2Fb/?x=%20&y",
        "200 imagelayers /registry/images/a%2Fb/?x=%20&y imagelayers.io",
    ),
    ("imagelayers.io/registry", "200 imagelayers /registry imagelayers.io"),
    ("imagelayers.io/", "200 imagelayers-web / imagelayers.io"),
    ("imagelayers.io/app/badge/x", "200 imagelayers-web /app/badge/x imagelayers.io"),
    ("imagelayers.io/badge", "200 imagelayers-web /badge imagelayers.io"),
    ("imagelayers.io/badge/", "200 badger / badge.imagelayers.io"),
    ("imagelayers.io/badge/%2e%2e/registry", "200 imagelayers /registry imagelayers.io"),
    ("badge.imagelayers.io/image/a.svg", "200 badger /image/a.svg badge.imagelayers.io"),
    ("badge.imagelayers.io/badge/a.svg", "200 badger /badge/a.svg badge.imagelayers.io"),
];

/// Whichever Ingress came first, each path goes where it should and says what it should; both hosts show the
/// one certificate, and a new one is shown as soon as its owner puts it there.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_and_a_rewrite_live_beside_each_other() {
    let house = House::new().await;
    for [first, second] in [
        [whole("/registry", "Prefix"), BADGES.to_owned()],
        [BADGES.to_owned(), whole("/registry", "Prefix")],
    ] {
        house.cluster.apply(&first).await;
        house.cluster.apply(&second).await;
        house.expect(SERVED).await;
        // Plain HTTP leads to HTTPS, on every path of every Ingress.
        for (asked, _) in SERVED.iter().filter(|it| !it.0.ends_with('/')) {
            let reply = house.lockgate.client().get(&format!("http://{asked}")).await.unwrap();
            let to = reply.header("location").unwrap_or_default();
            // A target that is not plain is made so on the way.
            let same = to == format!("https://{asked}") || asked.contains("%2e");
            assert!(reply.status == 308 && same, "{asked}: {} {to}", reply.status);
        }
        house.lockgate.no_problem().await;
        house.delete("imagelayers").await;
        house.delete("imagelayers-badges").await;
        house.lockgate.answers("http://imagelayers.io/registry", 404).await;
    }

    house.cluster.apply(&whole("/registry", "Prefix")).await;
    house.cluster.apply(BADGES).await;
    house.expect(SERVED).await;
    let shown = async |host: &str| {
        let [(_, client), _] = house.clients();
        let connection = client.connect(&format!("https://{host}/")).await.unwrap();
        assert_eq!(connection.names(), HOSTS, "{host}");
        connection.serial()
    };
    let before = shown(HOSTS[0]).await;
    assert_eq!(shown(HOSTS[1]).await, before);
    house.keep(&house.authority.issue(&HOSTS)).await;
    for host in HOSTS {
        eventually("the new certificate", SOON, async || shown(host).await != before).await;
    }
    let secret = house.cluster.get_json("/api/v1/namespaces/staging/secrets/imagelayers-tls").await;
    let annotations = &secret.unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["lockgate.dev/managed"], Value::Null, "it is the owner's");
}

/// While the rewrite comes and goes, nothing else of the host is disturbed; that its paths are expressions
/// meanwhile shows where one begins like another, and can be helped.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_comes_and_goes_beside_what_is_passed_on() {
    let house = House::new().await;
    house.cluster.apply(&whole("/registry", "Prefix")).await;
    let plain = ("imagelayers.io/registryx", "200 imagelayers-web /registryx imagelayers.io");
    house
        .expect(&[("imagelayers.io/badge/x", "200 imagelayers-web /badge/x imagelayers.io"), plain])
        .await;
    let [(_, h1), (_, h2)] = house.clients();
    let url = "https://imagelayers.io/registry/analyze?x=1";
    let (over_h1, over_h2) = (Load::start(&h1, url, 2).await, Load::start(&h2, url, 2).await);
    for _ in 0..3 {
        house.cluster.apply(BADGES).await;
        // As in ingress-nginx: an expression fits whatever begins so, in any case.
        house
            .expect(&[
                ("imagelayers.io/badge/x", "200 badger /x badge.imagelayers.io"),
                ("imagelayers.io/registryx", "200 imagelayers /registryx imagelayers.io"),
                ("imagelayers.io/Registry/x", "200 imagelayers /Registry/x imagelayers.io"),
            ])
            .await;
        house.delete("imagelayers-badges").await;
        house
            .expect(&[
                ("imagelayers.io/badge/x", "200 imagelayers-web /badge/x imagelayers.io"),
                plain,
            ])
            .await;
    }
    // Who says where the path ends has it as before, with the rewrite and without.
    house.cluster.apply(BADGES).await;
    house.cluster.apply(&whole("/registry(/|$)", "ImplementationSpecific")).await;
    house
        .expect(&[
            plain,
            ("imagelayers.io/registry", "200 imagelayers /registry imagelayers.io"),
            ("imagelayers.io/registry/a?b", "200 imagelayers /registry/a?b imagelayers.io"),
            ("imagelayers.io/badge/x", "200 badger /x badge.imagelayers.io"),
        ])
        .await;
    for load in [over_h1, over_h2] {
        let report = load.stop().await;
        report.assert_clean();
        let strangers: Vec<_> = report.by_body.keys().filter(|it| *it != "imagelayers").collect();
        assert!(strangers.is_empty(), "{report:?}");
    }
}
