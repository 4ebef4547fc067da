//! What certificates need around them: a CA behind a proxy that can fail, DNS, a backend, and clients
//! that look at what they are shown.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::backend::Backend;
use super::ca_proxy::CaProxy;
use super::client::{self, Client, ClientError, Connection};
use super::cluster::Cluster;
use super::lockgate::{Lockgate, NAMESPACE, Start, backend, ingress_tls};
use super::pebble::{Pebble, PebbleOptions};
use super::process::{SOON, component, eventually, free_port};

/// The annotation that asks for a certificate.
pub const ASK: (&str, &str) = ("kubernetes.io/tls-acme", "true");

/// The annotation that spares its hosts the look at them before they are ordered.
pub const UNCHECKED: (&str, &str) = ("lockgate.dev/self-check", "off");

/// The whole of a host goes to `web`.
pub const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

/// Longest wait for a certificate.
///
/// The CA refuses one nonce in twenty, on purpose, and connections break on a busy machine: then it is left
/// alone for half a minute, and one order goes ahead of the others.
pub const ISSUED: Duration = Duration::from_secs(90);

/// Between two handshakes of [`Handshakes`]: its pace, as nothing is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// A CA, the proxy before it, and a backend.
pub struct Acme {
    pub pebble: Pebble,
    pub ca: CaProxy,
    pub web: Backend,
    /// Where the CA asks, and so every replica serves, HTTP.
    pub http: u16,
}

impl Acme {
    pub async fn new(options: PebbleOptions) -> Self {
        Self::asking_at(free_port(), options).await
    }

    /// One more that asks where another asks.
    pub async fn asking_at(http: u16, options: PebbleOptions) -> Self {
        let options = PebbleOptions { http_port: http, ..options };
        let (pebble, web) = tokio::join!(Pebble::start(options), Backend::outside("web"));
        let ca = CaProxy::start(&pebble).await;
        Self { pebble, ca, web, http }
    }

    /// With certificates that live so long.
    pub async fn with_validity(validity: Duration) -> Self {
        Self::new(PebbleOptions { validity: Some(validity), ..PebbleOptions::default() }).await
    }

    /// Makes a replica ask this CA, through the proxy, and resolve names as it does.
    ///
    /// It does not wait for names to settle as long as it does for people, and has a large budget.
    pub fn settle(&self, start: Start) -> Start {
        self.settle_with(start, &["--acme-max-issues=1000/7d", "--acme-min-reissue=1s"])
    }

    /// The same with flags for the budget.
    pub fn settle_with(&self, start: Start, budget: &[&str]) -> Start {
        let start = start.http_port(self.http).resolv_conf(&self.pebble.resolv_conf());
        let start = start.args(budget.iter().copied());
        let port = self.http.to_string();
        let ca_file = self.pebble.ca_file().display().to_string();
        start.args(["--acme-directory", &self.ca.directory(), "--acme-ca-file", &ca_file]).args([
            "--acme-http-port",
            &port,
            "--acme-settle",
            "200ms",
        ])
    }

    /// Makes the clock of a replica, and the CA's, run this many times as fast; timers, too.
    pub fn hasten(&self, start: Start, speed: u32) -> Start {
        let library = component("LOCKGATE_LIBFAKETIME").display().to_string();
        self.ca.set_clock(0.0, speed.into());
        start.env("LD_PRELOAD", &library).env("FAKETIME", &format!("+0 x{speed}"))
    }

    /// The product with these objects besides class and backend, in files.
    pub fn with_manifests(&self, yaml: &str) -> Start {
        self.settle(Lockgate::with_manifests(self.objects(yaml)))
    }

    /// The product with the objects of a directory that stays when the product ends.
    pub fn in_directory(&self, dir: &Path) -> Start {
        self.settle(Lockgate::with_args(["--manifests", &dir.display().to_string()]))
    }

    /// These objects, class and backend.
    pub fn objects(&self, yaml: &str) -> String {
        let class = super::lockgate::ingress_class();
        [&class, &backend("web", 80, &[self.web.addr()]), yaml].concat()
    }

    /// A client that trusts what the CA issues, connecting to this replica.
    pub async fn client(&self, replica: &Lockgate) -> Client {
        let root = self.pebble.root_pem().await;
        Client::new().ca(&root).unresumed().connect_to(replica.https)
    }

    /// Waits for a certificate of the CA for `host`; gives a connection that was shown it.
    pub async fn certified(&self, replica: &Lockgate, host: &str, limit: Duration) -> Connection {
        let client = self.client(replica).await;
        let url = format!("https://{host}/");
        let what = format!("certificate of {host}");
        let (connection, reply) = eventually(&what, limit, async || {
            let mut connection = client.connect(&url).await?;
            // A replica whose clock runs fast is not patient with connections either.
            let reply = connection.get("/").await?;
            Ok::<_, ClientError>((connection, reply))
        })
        .await;
        assert_eq!(reply.backend().as_deref(), Some(self.web.name()), "{host}: {}", reply.text());
        connection
    }

    /// Waits until `host` shows another certificate than the one with this serial number.
    pub async fn renewed(
        &self,
        replica: &Lockgate,
        host: &str,
        serial: Option<&str>,
        limit: Duration,
    ) -> Connection {
        let client = self.client(replica).await;
        let url = format!("https://{host}/");
        eventually(&format!("another certificate of {host}"), limit, async || {
            let connection = client.connect(&url).await.map_err(|it| it.to_string())?;
            let another = connection.serial().as_deref() != serial;
            another.then_some(connection).ok_or_else(|| format!("still {serial:?}"))
        })
        .await
    }
}

/// An Ingress for `hosts` that asks for one certificate in the Secret of its name.
pub fn asking(name: &str, hosts: &[&str], annotations: &[(&str, &str)]) -> String {
    let annotations = [&[ASK], annotations].concat();
    let yaml = ingress_tls(name, hosts[0], &ROOT, &annotations, name);
    let [first, all] = [&hosts[..1], hosts].map(|it| json!(it).to_string());
    yaml.replacen(&first, &all, 1)
}

/// A certificate and its key, as a Secret holds them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    pub chain: String,
    pub key: String,
}

impl Held {
    /// The two entries of a Secret, which are there and belong together; else what is wrong with them.
    pub fn parse(secret: &Value) -> Result<Self, String> {
        let entry = |name: &str| {
            let text = secret["data"][name].as_str().ok_or_else(|| format!("no {name}"))?;
            let text = STANDARD.decode(text).map_err(|it| it.to_string())?;
            String::from_utf8(text).map_err(|it| it.to_string())
        };
        let held = Self { chain: entry("tls.crt")?, key: entry("tls.key")? };
        let pem = |it: rustls::pki_types::pem::Error| it.to_string();
        let leaf = CertificateDer::from_pem_slice(held.chain.as_bytes()).map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(held.key.as_bytes()).map_err(pem)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let pair = rustls::sign::CertifiedKey::from_der(vec![leaf], key, &provider);
        pair.map_err(|it| it.to_string())?;
        Ok(held)
    }

    /// The same.
    ///
    /// # Panics
    ///
    /// Unless there are two, and they belong together.
    pub fn of(secret: &Value) -> Self {
        Self::parse(secret).unwrap_or_else(|error| panic!("not a pair: {error}\n{secret:#}"))
    }

    /// The serial number of the leaf, as [`Connection::serial`] gives it.
    pub fn serial(&self) -> String {
        let leaf = CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap();
        client::serial(&leaf).unwrap()
    }
}

/// The same with a cluster, in which replicas are started by the test.
pub struct AcmeCluster {
    pub cluster: Cluster,
    pub acme: Acme,
}

impl AcmeCluster {
    pub async fn new(options: PebbleOptions) -> Self {
        let (cluster, acme) = tokio::join!(Cluster::installed(), Acme::new(options));
        cluster.apply(&backend("web", 80, &[acme.web.addr()])).await;
        Self { cluster, acme }
    }

    /// One more replica, called as the user whose proxy it goes through.
    pub async fn replica(&self, user: &str) -> Lockgate {
        self.acme.settle(self.cluster.lockgate(user).await).start().await
    }

    /// The same with flags for the budget.
    pub async fn replica_with(&self, user: &str, budget: &[&str]) -> Lockgate {
        self.acme.settle_with(self.cluster.lockgate(user).await, budget).start().await
    }

    /// Applies an Ingress for `hosts` that asks for one certificate in the Secret of its name.
    pub async fn ask(&self, name: &str, hosts: &[&str]) {
        self.cluster.apply(&asking(name, hosts, &[])).await;
    }

    /// The API's path of a Secret of the test's.
    pub fn secret_path(name: &str) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    }

    pub async fn secret(&self, name: &str) -> Option<Value> {
        self.cluster.get_json(&Self::secret_path(name)).await
    }

    /// What a Secret holds, which has to be a pair.
    pub async fn held(&self, name: &str) -> Held {
        Held::of(&self.secret(name).await.unwrap_or_else(|| panic!("there is no Secret {name}")))
    }

    /// The names of the TLS Secrets there are.
    pub async fn tls_secrets(&self) -> BTreeSet<String> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        let list = self.cluster.get_json(&path).await.unwrap_or_default();
        let all = list["items"].as_array().into_iter().flatten();
        let tls = all.filter(|it| it["type"] == "kubernetes.io/tls");
        tls.filter_map(|it| it["metadata"]["name"].as_str()).map(str::to_owned).collect()
    }

    /// The names of our own Secrets and ConfigMaps that begin so.
    pub async fn records(&self, kind: &str, start: &str) -> Vec<Value> {
        let list = self.cluster.get_json(&format!("/api/v1/namespaces/lockgate/{kind}")).await;
        let mut records = list.unwrap_or_default()["items"].as_array().cloned().unwrap_or_default();
        let named =
            |it: &Value| it["metadata"]["name"].as_str().is_some_and(|it| it.starts_with(start));
        records.retain(named);
        records
    }

    /// Waits until nothing is left of orders.
    pub async fn no_order_left(&self) {
        eventually("no record of an order", SOON, async || {
            let left = self.records("secrets", "lockgate-order-").await;
            let names: Vec<_> = left.iter().map(|it| it["metadata"]["name"].to_string()).collect();
            if left.is_empty() { Ok(()) } else { Err(names.join(", ")) }
        })
        .await;
    }

    /// The Events with this reason on an Ingress.
    pub async fn events(&self, ingress: &str, reason: &str) -> Vec<Value> {
        let list = self.cluster.get_json(&format!("/api/v1/namespaces/{NAMESPACE}/events")).await;
        let mut events = list.unwrap_or_default()["items"].as_array().cloned().unwrap_or_default();
        events.retain(|it| it["reason"] == reason && it["involvedObject"]["name"] == ingress);
        events
    }

    /// Waits for an Event with this reason on an Ingress; gives its text.
    pub async fn told(&self, ingress: &str, reason: &str) -> String {
        let what = format!("Event {reason} on {ingress}");
        let event = eventually(&what, SOON * 2, async || {
            if let Some(event) = self.events(ingress, reason).await.pop() {
                return Ok(event);
            }
            Err(self.all_events().await)
        })
        .await;
        event["message"].as_str().unwrap_or_default().to_owned()
    }

    /// What was told to anybody, one line each.
    async fn all_events(&self) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/events");
        let all = self.cluster.get_json(&path).await.unwrap_or_default();
        let line = |it: &Value| {
            format!("{} {} {}\n", it["involvedObject"]["name"], it["reason"], it["message"])
        };
        all["items"].as_array().into_iter().flatten().map(line).collect()
    }

    /// Waits until this replica leads.
    pub async fn leads(&self, replica: &Lockgate) {
        eventually("leadership", SOON * 2, async || leads(replica).await).await;
    }
}

/// Whether this replica leads.
pub async fn leads(replica: &Lockgate) -> bool {
    replica.metric("nginx_ingress_controller_leader_election_status", &[]).await > 0.0
}

/// One handshake after another, each a new connection that verifies what it is shown.
pub struct Handshakes {
    stop: Arc<AtomicBool>,
    task: JoinHandle<HandshakeReport>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct HandshakeReport {
    pub ok: usize,
    pub failed: Vec<String>,
    /// The serial numbers that were shown.
    pub serials: BTreeSet<String>,
}

impl Handshakes {
    pub fn start(client: Client, host: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url) = (Arc::clone(&stop), format!("https://{host}/"));
        let task = tokio::spawn(async move {
            let mut report = HandshakeReport::default();
            while !stopped.load(Ordering::Relaxed) {
                let begun = jiff::Timestamp::now();
                match shown(&client, &url).await {
                    Ok(serial) => {
                        report.ok += 1;
                        report.serials.extend(serial);
                    }
                    Err(error) => report.failed.push(format!("{begun}: {error}")),
                }
                tokio::time::sleep(PAUSE).await;
            }
            report
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> HandshakeReport {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the loop does not panic")
    }
}

impl HandshakeReport {
    /// Fails the test unless every handshake was fine.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.ok > 0 && self.failed.is_empty(), "{} ok, {:#?}", self.ok, self.failed);
    }
}

async fn shown(client: &Client, url: &str) -> Result<Option<String>, String> {
    let mut connection = client.connect(url).await.map_err(|it| it.to_string())?;
    let reply = connection.get("/").await.map_err(|it| it.to_string())?;
    if reply.status == 200 { Ok(connection.serial()) } else { Err(reply.status.to_string()) }
}
