//! Rotisserie: what its people wrote for kube-lego and an ingress-nginx of 2017, in the API of today and
//! with not a word of ours.
//!
//! One host, two Services, a certificate that comes by itself; kube-lego's own Ingress is still there, and
//! leads the CA's questions to a Service without endpoints.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{Lockgate, NAMESPACE, backend};
use crate::harness::pebble::{Pebble, PebbleOptions};
use crate::harness::process::{SOON, eventually, free_port};

const HOST: &str = "rotisserie.tv";
const EMAIL: &str = "cook@rotisserie.tv";

/// Longer than a try that fails for want of routes would take.
const MINUTE: Duration = Duration::from_mins(1);

/// As it was: paths in no order, kube-lego's annotation and the prefix of old; only the API is today's.
const INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: rotisserie-ingress
  namespace: default
  annotations:
    kubernetes.io/tls-acme: "true"
    ingress.kubernetes.io/ssl-redirect: "true"
    kubernetes.io/ingress.class: nginx
spec:
  tls:
  - secretName: rotisserie-tls
    hosts: [rotisserie.tv]
  rules:
  - host: rotisserie.tv
    http:
      paths:
      - path: /current
        pathType: ImplementationSpecific
        backend: {service: {name: rotisserie-app, port: {number: 3000}}}
      - path: /
        pathType: ImplementationSpecific
        backend: {service: {name: rotisserie-static, port: {number: 8082}}}
      - path: /all
        pathType: ImplementationSpecific
        backend: {service: {name: rotisserie-app, port: {number: 3000}}}
"#;

/// What kube-lego left: settings, and the Ingress by which it had answered the CA.
const LEGO: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: kube-lego-nginx
  namespace: default
  annotations:
    ingress.kubernetes.io/ssl-redirect: "false"
    ingress.kubernetes.io/whitelist-source-range: 0.0.0.0/0
    kubernetes.io/ingress.class: nginx
    kubernetes.io/tls-acme-challenge-endpoints: "true"
spec:
  rules:
  - host: rotisserie.tv
    http:
      paths:
      - path: /.well-known/acme-challenge
        pathType: ImplementationSpecific
        backend: {service: {name: kube-lego-nginx, port: {number: 8080}}}
---
apiVersion: v1
kind: Service
metadata:
  name: kube-lego-nginx
  namespace: default
spec:
  selector: {app: kube-lego}
  ports: [{port: 8080, targetPort: 8080}]
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: kube-lego
  namespace: default
data:
  lego.email: EMAIL
  lego.url: URL
"#;

/// The settings of the nginx, and the right to read them where they are.
const NGINX: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: nginx
  namespace: default
data:
  hsts: "false"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: lockgate
  namespace: default
rules:
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: lockgate
  namespace: default
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: lockgate}
subjects: [{kind: ServiceAccount, name: lockgate, namespace: lockgate}]
"#;

/// All of it running, with nothing of kube-lego's but what it left.
struct House {
    cluster: Cluster,
    pebble: Pebble,
    lockgate: Lockgate,
    _app: Backend,
    _site: Backend,
    _rest: RawBackend,
}

impl House {
    async fn new() -> Self {
        let http = free_port();
        let (cluster, pebble, app, site, rest) = tokio::join!(
            Cluster::installed(),
            Pebble::start(PebbleOptions { http_port: http, ..PebbleOptions::default() }),
            Backend::outside("rotisserie-app"),
            Backend::outside("rotisserie-static"),
            RawBackend::outside(|_| {
                Answer::keep(
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 21\r\n\r\ndefault backend - 404",
                )
            }),
        );
        let services = [
            backend("rotisserie-app", 3000, &[app.addr()]),
            backend("rotisserie-static", 8082, &[site.addr()]),
            backend("default-http-backend", 80, &[rest.addr()]),
        ];
        let services = services.concat();
        let services = services.replace(&format!("namespace: {NAMESPACE}"), "namespace: default");
        let lego = LEGO.replace("EMAIL", EMAIL).replace("URL", &pebble.directory());
        for yaml in [&*lego, NGINX, &services, INGRESS] {
            cluster.apply(yaml).await;
        }
        let lockgate = start(&cluster, &pebble, http).await;
        Self { cluster, pebble, lockgate, _app: app, _site: site, _rest: rest }
    }

    /// HTTP/1.1 and HTTP/2, trusting the CA and nobody else.
    async fn clients(&self) -> [(&'static str, Client); 2] {
        let root = self.pebble.root_pem().await;
        let client = Client::new().ca(&root).unresumed().connect_to(self.lockgate.https);
        [("HTTP/1.1", client.clone()), ("HTTP/2", client.http2())]
    }

    /// The certificate comes, though kube-lego's Ingress takes the path that the CA asks for; the account is
    /// that of kube-lego's settings.
    async fn gets_its_certificate(&self) {
        let [(_, client), _] = self.clients().await;
        let url = format!("https://{HOST}/");
        let connection =
            eventually("a certificate", MINUTE, async || client.connect(&url).await).await;
        assert_eq!(connection.names(), [HOST]);
        assert_eq!(self.pebble.process().log().matches("Added order").count(), 1);
        let secret = "/api/v1/namespaces/default/secrets/rotisserie-tls";
        let secret = self.cluster.get_json(secret).await.unwrap();
        assert_eq!(secret["type"], "kubernetes.io/tls");
        let account = eventually("the account", SOON, async || {
            let list = self.cluster.get_json("/api/v1/namespaces/lockgate/secrets").await?;
            let all = list["items"].as_array()?.clone();
            all.into_iter().find(|it| it["data"]["contact"].is_string())
        })
        .await;
        let entry = |name: &str| STANDARD.decode(account["data"][name].as_str().unwrap()).unwrap();
        assert_eq!(entry("contact"), EMAIL.as_bytes());
        assert_eq!(entry("directory"), self.pebble.directory().as_bytes());
    }

    /// The longest path decides, whatever the order; `ssl-redirect` holds by the prefix of old.
    async fn serves_each_path(&self) {
        for (version, client) in self.clients().await {
            for (path, service) in [
                ("/", "rotisserie-static"),
                ("/css/site.css", "rotisserie-static"),
                ("/current", "rotisserie-app"),
                ("/current/pubg?x=1", "rotisserie-app"),
                ("/all", "rotisserie-app"),
                ("/all/", "rotisserie-app"),
                ("/allies", "rotisserie-static"),
                ("/Current", "rotisserie-static"),
            ] {
                let reply = client.get(&format!("https://{HOST}{path}")).await.unwrap();
                assert_eq!(reply.status, 200, "{version}: {path}");
                let echo = reply.json();
                let found = (&echo["backend"], &echo["target"]);
                assert_eq!(found, (&service.into(), &path.into()), "{version}");
                let proto = json!(["x-forwarded-proto", "https"]);
                assert!(echo["headers"].as_array().unwrap().contains(&proto), "{version}: {echo}");
                // By the settings of the nginx.
                assert_eq!(reply.header("strict-transport-security"), None, "{version}: {path}");
            }
        }
        for path in ["/current", "/all/x?y=1"] {
            let reply = self.lockgate.answers(&format!("http://{HOST}{path}"), 308).await;
            assert_eq!(reply.header("location"), Some(&*format!("https://{HOST}{path}")));
        }
    }

    /// Nobody's name, and no name at all.
    async fn sends_the_rest_to_the_default_backend(&self) {
        for host in [&*format!("127.0.0.1:{}", self.lockgate.http.port()), "other.test"] {
            let reply = self.lockgate.client().get(&format!("http://{host}/")).await.unwrap();
            assert_eq!((reply.status, &*reply.text()), (404, "default backend - 404"), "{host}");
            let secure = self.lockgate.tls_client().header("host", host);
            let reply = secure.get(&format!("https://{HOST}/")).await.unwrap();
            assert_eq!((reply.status, &*reply.text()), (404, "default backend - 404"), "{host}");
        }
    }
}

/// The arguments and the environment of old.
async fn start(cluster: &Cluster, pebble: &Pebble, http: u16) -> Lockgate {
    let lego = "/api/v1/namespaces/default/configmaps/kube-lego";
    let settings = cluster.get_json(lego).await.unwrap();
    // As the kubelet does for `configMapKeyRef`.
    let setting = |key: &str| settings["data"][key].as_str().unwrap().to_owned();
    let kubeconfig = cluster.service_account("lockgate", "lockgate", "lockgate").await;
    let (kubeconfig, port) = (kubeconfig.display().to_string(), http.to_string());
    let ca_file = pebble.ca_file().display().to_string();
    let start = Lockgate::with_args([
        "--default-backend-service=default/default-http-backend",
        "--nginx-configmap=default/nginx",
    ])
    .env("LEGO_EMAIL", &setting("lego.email"))
    .env("LEGO_URL", &setting("lego.url"))
    .env("LEGO_POD_IP", "127.0.0.1");
    // What only a test needs: where API, CA and names are, and ports of its own.
    start
        .args(["--kubeconfig", &kubeconfig, "--pod-name=lockgate", "--shutdown-grace-period=0"])
        .args(["--acme-ca-file", &ca_file, "--acme-http-port", &port, "--acme-settle=200ms"])
        .http_port(http)
        .resolv_conf(&pebble.resolv_conf())
        .start()
        .await
}

/// The objects stay as they are, the arguments too; kube-lego, its nginx and all that was in between is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_for_kube_lego_goes_on_working() {
    let house = House::new().await;
    let House { cluster, lockgate, .. } = &house;
    house.gets_its_certificate().await;
    house.serves_each_path().await;
    house.sends_the_rest_to_the_default_backend().await;
    assert_eq!(lockgate.admin("/healthz").await.unwrap().status, 200);
    let told = lockgate.problem("KubeLego").await;
    assert!(told.contains("delete it"), "{told}");

    // The settings are live, as they were; without a reload.
    let on = json!({ "data": { "hsts": "true" } });
    cluster.patch_json("/api/v1/namespaces/default/configmaps/nginx", &on).await;
    let [(_, client), _] = house.clients().await;
    let url = format!("https://{HOST}/");
    eventually("the new setting", SOON, async || {
        let reply = client.get(&url).await.ok()?;
        reply.header("strict-transport-security").map(|_| ())
    })
    .await;

    // And the leftover may go whenever somebody finds the time.
    cluster.delete(&["ingress", "kube-lego-nginx", "--namespace=default"]).await;
    lockgate.no_problem().await;
    assert_eq!(client.get(&url).await.unwrap().status, 200);
    let requests = cluster.faults().requests();
    let refused: Vec<_> = requests.iter().filter(|it| matches!(it.status, 401 | 403)).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
