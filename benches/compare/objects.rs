//! What a cluster holds: many Ingresses, each with a host, a Secret, a Service and five endpoints of its own.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Shelves};
use crate::site::HOST;

/// Where Ingresses are listed.
const INGRESSES: &str = "/apis/networking.k8s.io/v1/ingresses";
/// A path that an Ingress has once it was changed.
pub(crate) const NEW: &str = "/new";

/// Starts an API server with so many Ingresses.
///
/// The first one is of [`HOST`] and proxies everything to `backend`, a port of this machine. The others are
/// of [`host`], and proxy `/api` to endpoints that nobody asks.
pub(crate) fn serve(count: usize, backend: u16) -> Result<Api> {
    let issuer = Authority::new()?;
    let mut shelves: Shelves = [INGRESSES, "/apis/networking.k8s.io/v1/ingressclasses"]
        .into_iter()
        .chain(["/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/secrets"])
        .map(|path| (path, Vec::new()))
        .collect();
    let mut put = |path: &'static str, object| shelves.entry(path).or_default().push(object);
    put("/apis/networking.k8s.io/v1/ingressclasses", class());
    for number in 0..count {
        let host = host(number);
        put(INGRESSES, ingress(number, false));
        put("/api/v1/secrets", secret(number, &issuer.chain(&host)?));
        put("/api/v1/services", service(number));
        put("/apis/discovery.k8s.io/v1/endpointslices", slice(number, backend));
    }
    Api::start(shelves)
}

/// The host of an Ingress.
pub(crate) fn host(number: usize) -> String {
    if number == 0 { HOST.to_owned() } else { format!("h{number}.test") }
}

/// Changes an Ingress: [`NEW`] goes to the machine's backend from now on, or no longer.
pub(crate) fn change(api: &Api, number: usize, new: bool) -> Result<()> {
    api.replace(INGRESSES, number, ingress(number, new))
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "namespace": "bench", "uid": format!("00000000-0000-4000-8000-{name:0>12}"),
        "resourceVersion": "1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
    })
}

fn class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": { "name": "nginx", "uid": "class", "resourceVersion": "1" },
        "spec": { "controller": "k8s.io/ingress-nginx" },
    })
}

fn ingress(number: usize, new: bool) -> Value {
    let name = format!("web-{number}");
    let path = |path: &str, service: &str| {
        json!({
            "path": path, "pathType": "Prefix",
            "backend": { "service": { "name": service, "port": { "number": 80 } } },
        })
    };
    let mut paths = vec![path(if number == 0 { "/" } else { "/api" }, &name)];
    if new {
        paths.push(path(NEW, "web-0"));
    }
    let mut metadata = metadata(&name);
    metadata["annotations"] = json!({ "nginx.ingress.kubernetes.io/ssl-redirect": "false" });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
        "spec": {
            "ingressClassName": "nginx",
            "tls": [{ "hosts": [host(number)], "secretName": name }],
            "rules": [{ "host": host(number), "http": { "paths": paths } }],
        },
    })
}

fn service(number: usize) -> Value {
    let name = format!("web-{number}");
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(&name),
        "spec": {
            "type": "ClusterIP", "selector": { "app": name },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }],
        },
    })
}

/// Five endpoints; one that is there for the first Ingress.
fn slice(number: usize, backend: u16) -> Value {
    let name = format!("web-{number}");
    let address = |it: usize| format!("10.{}.{}.{it}", number / 250, number % 250);
    let (addresses, port) = match number {
        0 => (vec!["127.0.0.1".to_owned()], backend),
        _ => ((1..=5).map(address).collect(), 8080),
    };
    let ready = json!({ "ready": true, "serving": true, "terminating": false });
    let endpoint = |address: String| {
        json!({
            "addresses": [address], "conditions": ready, "nodeName": "node",
            "targetRef": { "kind": "Pod", "namespace": "bench", "name": format!("{name}-{address}") },
        })
    };
    let mut metadata = metadata(&name);
    metadata["labels"] = json!({ "kubernetes.io/service-name": name });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": metadata,
        "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
        "endpoints": addresses.into_iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn secret(number: usize, (chain, key): &(String, String)) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": metadata(&format!("web-{number}")),
        "data": { "tls.crt": BASE64_STANDARD.encode(chain), "tls.key": BASE64_STANDARD.encode(key) },
    })
}

/// Signs the certificates; each is stored with its own, as a public CA has it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "bench intermediate");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Chain and key of a host, as PEM.
    fn chain(&self, host: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new([host.to_owned()])?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf.pem() + &self.pem, key.serialize_pem()))
    }
}
