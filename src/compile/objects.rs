//! A snapshot: every object as last seen, in types of our own.
//!
//! They hold what serving needs and nothing else; with ten thousand Ingresses, ten thousand TLS
//! Secrets and fifty thousand endpoints that is far less than the API's own types take. Texts that
//! plans hold, too, are shared with them, and lists have no room to grow. The one conversion per kind
//! stands in `store`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::locations::Made;
use crate::model::by_name::ByName;
use crate::model::client_tls::Revocations;
use crate::model::htpasswd::Users;
use crate::model::keypair::{Keypair, KeypairError};
use crate::model::name::Kind;
use crate::model::problem::Problem;
use crate::model::texts::Texts;
use crate::model::upstream::Authorities;

/// Everything that was seen.
#[expect(missing_docs, reason = "one field a kind")]
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub ingresses: ByName<Ingress>,
    pub classes: ByName<IngressClass>,
    pub services: ByName<Service>,
    /// By their own names; a Service's slices are found by their label.
    pub slices: ByName<Slice>,
    pub secrets: ByName<Secret>,
    pub config_maps: ByName<ConfigMap>,
    /// The ConfigMap of `--configmap` is gone: it is here as it was last seen.
    pub settings_gone: bool,
    /// Kinds that could never be listed (403, 404): what needs them is degraded, and only that.
    pub unreadable: BTreeSet<Kind>,
    /// Kinds that could be listed once and no longer can: what was seen then is still believed.
    pub stale: BTreeSet<Kind>,
    /// What was wrong with objects that could not be converted at all.
    pub problems: Vec<Problem>,
}

/// `networking.k8s.io/v1` Ingress.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Default)]
pub struct Ingress {
    pub uid: Box<str>,
    /// Seconds since 1970; absent counts as oldest.
    pub created: Option<i64>,
    /// Those that [`keeps_annotation`] keeps.
    pub annotations: Texts,
    pub class: Option<Box<str>>,
    pub default_backend: Option<ServicePort>,
    pub tls: Box<[Tls]>,
    pub rules: Box<[Rule]>,
    /// Addresses in `status.loadBalancer.ingress`, to write them only when they differ.
    pub addresses: Box<[Box<str>]>,
    /// What its paths come to where they are regular expressions: made when it is first asked for.
    pub made: Made,
}

/// `service.name` and `service.port` of a backend, the port as text.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    pub service: Arc<str>,
    pub port: Arc<str>,
}

/// An element of `spec.tls`.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub hosts: Box<[Box<str>]>,
    pub secret: Option<Arc<str>>,
}

/// An element of `spec.rules`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Empty for any host.
    pub host: Box<str>,
    /// `None` where the rule has no `http` at all.
    pub paths: Option<Box<[Path]>>,
}

/// An element of `http.paths`.
#[derive(Clone, Debug)]
pub struct Path {
    /// Empty counts as `/`.
    pub path: Arc<str>,
    /// `pathType: Exact`; everything else is a prefix, as in ingress-nginx.
    pub exact: bool,
    /// `None` for a `resource` backend.
    pub backend: Option<ServicePort>,
}

/// `networking.k8s.io/v1` IngressClass.
#[expect(missing_docs, reason = "the field is the API's own")]
#[derive(Clone, Debug, Default)]
pub struct IngressClass {
    pub controller: Box<str>,
}

/// `v1` Service.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Default)]
pub struct Service {
    pub ports: Box<[Port]>,
    /// Of an `ExternalName` Service.
    pub external_name: Option<Box<str>>,
    /// Its own address; none for a headless one.
    pub cluster_ip: Option<IpAddr>,
    /// Addresses the world reaches it by: those of its load balancer, its external IPs, or for lack of
    /// both its cluster IP. For `--publish-service`.
    pub addresses: Box<[Box<str>]>,
}

/// An element of a Service's `ports`.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Default)]
pub struct Port {
    pub name: Box<str>,
    pub port: u16,
    /// A number or the name of a container port; empty where it is not set.
    pub target: Box<str>,
    /// Whether its protocol is UDP.
    pub udp: bool,
}

/// `discovery.k8s.io/v1` EndpointSlice, of address types IPv4 and IPv6.
#[expect(missing_docs, reason = "the fields are the API's own")]
#[derive(Clone, Debug, Default)]
pub struct Slice {
    pub service: Arc<str>,
    /// TCP ports; `None` where the slice lists no ports at all.
    pub ports: Option<Ports>,
    /// UDP ports, likewise.
    pub udp: Ports,
    pub endpoints: Box<[Endpoint]>,
    /// By zone the places of the endpoints that its clients should use (`hints.forZones`), in order; nothing
    /// unless every endpoint is for a zone.
    pub zones: BTreeMap<Box<str>, Vec<usize>>,
}

/// Names, empty for none, and numbers.
pub type Ports = Box<[(Box<str>, u16)]>;

/// An address and what may be sent there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Its IP address.
    pub address: IpAddr,
    /// `conditions.ready`, absent counts as true.
    pub ready: bool,
    /// `serving && terminating`: used only while no endpoint is ready.
    pub lingering: bool,
}

/// `v1` Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    /// `tls.crt` and `tls.key`, read when the Secret arrived.
    pub keypair: Result<Arc<Keypair>, KeypairError>,
    /// `ca.crt`, where it is there; the error completes "`ca.crt` ...".
    pub authorities: Option<Result<Arc<Authorities>, &'static str>>,
    /// `ca.crl`, likewise.
    pub revocations: Option<Result<Arc<Revocations>, &'static str>>,
    /// Those that [`keeps_annotation`] keeps.
    pub annotations: Texts,
    /// The entry `auth`, where it is there, as an htpasswd file.
    pub htpasswd: Option<Arc<Users>>,
    /// Its entries as users with their passwords' hashes; `None` for a Secret of the type for TLS.
    pub users: Option<Arc<Users>>,
    /// The entry `thumbprint` of our account Secret.
    pub thumbprint: Option<Box<str>>,
}

impl Secret {
    /// Whether it is of the type whose Secrets are listed; others are read by their names, as long as
    /// somebody names them.
    pub fn is_listed(&self) -> bool {
        self.users.is_none()
    }
}

/// `v1` ConfigMap.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigMap {
    /// Its entries.
    pub data: BTreeMap<Box<str>, Box<str>>,
}

/// Which annotations are kept: all but the copies of the object that `kubectl` leaves in it.
pub fn keeps_annotation(name: &str) -> bool {
    !name.starts_with("kubectl.kubernetes.io/")
}

/// Marks a Secret that we wrote; one without it is never written.
pub const MANAGED: &str = "lockgate.dev/managed";
/// Who issued what a managed Secret holds: the directory's URL, or `local`.
pub const ISSUER: &str = "lockgate.dev/issuer";
/// When we stored what a managed Secret holds, in seconds since 1970.
pub const ISSUED_AT: &str = "lockgate.dev/issued-at";
/// What our annotations begin with.
pub const PREFIX: &str = "lockgate.dev/";
/// kube-lego's request for a certificate, on an Ingress, and its mark, on a Secret.
pub const TLS_ACME: &str = "kubernetes.io/tls-acme";
/// Our name as field manager, as component in Events and in `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "lockgate";
