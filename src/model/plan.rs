//! The plan: everything the proxy needs, as plain data.
//!
//! Equal plans serve alike, so a plan that equals the last one is not swapped in. Routes are shaped
//! like those of the Gateway API (matches, settings, a backend), so that another kind of object can
//! become a second reader into the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::guard::Guard;
use super::host::HostPattern;
use super::keypair::Keypair;
use super::name::ObjectName;
use super::options::Options;
use super::path::PathPattern;
use super::settings::Settings;
use super::upstream::{Balance, UpstreamTls};

/// What is to be served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Every host with rules.
    pub hosts: BTreeMap<HostPattern, Host>,
    /// Where requests go that match no host, and paths that match no rule of their host:
    /// `--default-backend-service`, or `None` for the built-in 404.
    pub fallback: Option<Arc<Route>>,
    /// Every backend a route names.
    pub backends: BTreeMap<BackendId, Backend>,
    /// The certificate of each host that has a `tls` entry.
    pub certificates: BTreeMap<HostPattern, Certificate>,
    /// `--default-ssl-certificate`; `None` for the self-signed one.
    pub default_certificate: Option<Certificate>,
    /// Secrets we are to fill, with the names they must cover.
    pub wanted: BTreeMap<ObjectName, Wanted>,
    /// RFC 7638 thumbprint of the ACME account's key; answers HTTP-01 challenges.
    pub thumbprint: Option<Box<str>>,
    /// What the ConfigMap sets.
    pub settings: Arc<Settings>,
    /// The Ingresses that are ours: their status is written.
    pub ours: BTreeSet<ObjectName>,
    /// Secrets that Ingresses name and no list of TLS Secrets held, or need hold: to be read one by one.
    pub unlisted: BTreeSet<ObjectName>,
    /// ConfigMaps that Ingresses name: to be read one by one.
    pub unlisted_maps: BTreeSet<ObjectName>,
}

impl Plan {
    /// Whether a certificate for a host is still to come into a Secret.
    pub fn awaits(&self, secret: &ObjectName, host: &HostPattern) -> bool {
        self.wanted.get(secret).is_some_and(|it| it.is_for(host))
    }
}

impl Wanted {
    /// Whether the certificate will be for a host.
    pub fn is_for(&self, host: &HostPattern) -> bool {
        let names = self.names.iter().filter_map(|it| it.parse::<HostPattern>().ok());
        names.into_iter().any(|it| it.covers_all(host))
    }
}

/// What is served for one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The oldest Ingress with a rule for it; settings of the whole host are its.
    pub owner: ObjectName,
    /// Whether one of its Ingresses asks us for a certificate.
    pub acme: bool,
    /// Whether it has a `tls` entry.
    pub tls: bool,
    /// Its rules; always holds one for `/`, unless the host is [`HostPattern::Any`].
    pub paths: BTreeMap<PathPattern, Arc<Route>>,
}

/// Where a matched request goes and what is done to it on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The Ingress it came from.
    pub ingress: ObjectName,
    /// The host of its rule, as metrics show it.
    pub host: Box<str>,
    /// The path of its rule, as metrics show it.
    pub path: Arc<str>,
    /// What answers.
    pub target: Target,
    /// Whether and how plain HTTP is sent to HTTPS.
    pub to_https: bool,
    /// What the annotations say.
    pub options: Arc<Options>,
    /// TLS towards endpoints, for a protocol that has it.
    pub upstream_tls: Option<Arc<UpstreamTls>>,
    /// Who may ask.
    pub guard: Option<Arc<Guard>>,
}

impl Route {
    /// A route that does nothing on the way but what `options` say by themselves.
    pub fn new(
        ingress: ObjectName,
        host: &HostPattern,
        path: impl Into<Arc<str>>,
        target: Target,
        options: Arc<Options>,
    ) -> Self {
        Self {
            ingress,
            host: match host {
                HostPattern::Any => "_".into(),
                named => named.to_string().into(),
            },
            path: path.into(),
            target,
            to_https: false,
            options,
            upstream_tls: None,
            guard: None,
        }
    }
}

/// What answers a matched request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// An endpoint of a Service.
    Backend(BackendId),
    /// The default backend, or the built-in 404.
    Fallback,
    /// 404: the rule names no Service.
    Nothing,
    /// 503 because of the reason given: a security setting that could not be honoured.
    Refused(Box<str>),
}

/// Identity of a backend; what balances load hangs on it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId {
    /// The Service.
    pub service: ObjectName,
    /// The port as the Ingress names it: a number or a name.
    pub port: Arc<str>,
}

impl fmt::Display for BackendId {
    /// As ingress-nginx's logs and metrics name it: `namespace-service-port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.service.namespace, self.service.name, self.port)
    }
}

/// A Service's port and who answers there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Backend {
    /// Ready endpoints, or the terminating ones that still serve when none is ready; sorted.
    pub addresses: Vec<SocketAddr>,
    /// An `ExternalName` Service's host and port, resolved when a connection is made.
    pub external: Option<(Box<str>, u16)>,
    /// How the next one is chosen.
    pub balance: Balance,
}

/// Which Secret a host's certificate is in, and what was found there.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// The Secret; `None` for an entry without `secretName`, which gets the default certificate.
    pub secret: Option<ObjectName>,
    /// Its content when it is good and for this host.
    pub keypair: Option<Arc<Keypair>>,
    /// Whether the last good pair stays where there is none: the Secret is broken or gone, not another's.
    pub keeps_last: bool,
}

/// A Secret we are to fill.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Names the certificate must cover, lower-cased.
    pub names: BTreeSet<String>,
    /// The Ingresses that ask for it; Events go to them.
    pub ingresses: BTreeSet<ObjectName>,
    /// Whether the Secret is there at all.
    pub exists: bool,
    /// What it holds, when that is readable.
    pub held: Option<Arc<Keypair>>,
    /// The directory URL, or `local`, that issued what it holds, from our annotation.
    pub issuer: Option<String>,
    /// When we stored what it holds, in seconds since 1970, from our annotation.
    pub issued_at: Option<i64>,
}
