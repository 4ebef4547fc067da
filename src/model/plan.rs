//! The plan: everything the proxy needs, as plain data.
//!
//! Equal plans serve alike, so a plan that equals the last one is not swapped in. Routes are shaped
//! like those of the Gateway API (matches, settings, a backend), so that another kind of object can
//! become a second reader into the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::answering::Answers;
use super::client_tls::HostTls;
use super::copies::Mirror;
use super::guard::Guard;
use super::host::HostPattern;
use super::keypair::Keypair;
use super::location::{Location, Rewrite};
use super::name::ObjectName;
use super::options::Options;
use super::path::PathPattern;
use super::phrase::Phrase;
use super::routing::Alias;
use super::settings::Settings;
use super::sharing::{Affinity, Canary};
use super::snippet::Translated;
use super::stream::{Door, Stream};
use super::texts::Texts;
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
    /// Ports whose connections are handed on as they are.
    pub streams: BTreeMap<Door, Arc<Stream>>,
    /// The certificate of each host that has a `tls` entry.
    pub certificates: BTreeMap<HostPattern, Certificate>,
    /// `--default-ssl-certificate`; `None` for the self-signed one.
    pub default_certificate: Option<Certificate>,
    /// Secrets we are to fill, with the names they must cover.
    pub wanted: BTreeMap<ObjectName, Wanted>,
    /// Secrets somebody asked us to fill, and why we do not.
    pub declined: BTreeMap<ObjectName, Declined>,
    /// RFC 7638 thumbprint of the ACME account's key; answers HTTP-01 challenges.
    pub thumbprint: Option<Box<str>>,
    /// What the ConfigMap sets.
    pub settings: Arc<Settings>,
    /// Whether judges, mirrors and hosts of `ExternalName` Services may be [near](super::network::is_near).
    pub near: bool,
    /// The Ingresses that are ours: their status is written.
    pub ours: BTreeSet<ObjectName>,
    /// Secrets that Ingresses name and no list of TLS Secrets held, or need hold: to be read one by one.
    pub unlisted: BTreeSet<ObjectName>,
    /// ConfigMaps that Ingresses and settings name, found or not: to be read one by one.
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
    /// The same as regular expressions, in the order in which they are tried; `None` where paths are
    /// what they look like. A path that answers one challenge is not among them.
    pub locations: Option<Vec<(Arc<Location>, PathPattern)>>,
    /// Where `/` is redirected to.
    pub app_root: Option<Arc<Phrase>>,
    /// More names of it, each with whether its certificate is for that name, too.
    pub aliases: Vec<(Alias, bool)>,
    /// The name, with or without `www.`, whose requests are redirected to this one.
    pub www: Option<Box<str>>,
}

impl Host {
    /// A host without rules.
    pub fn new(owner: ObjectName) -> Self {
        Self {
            owner,
            acme: false,
            tls: false,
            paths: BTreeMap::new(),
            locations: None,
            app_root: None,
            aliases: Vec::new(),
            www: None,
        }
    }
}

impl Host {
    /// What it asks of clients in TLS, which is the same for all of its routes.
    pub fn client_tls(&self) -> Option<&HostTls> {
        self.paths.values().next()?.client_tls.as_deref()
    }
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
    /// What becomes of the path.
    pub rewrite: Option<Arc<Rewrite>>,
    /// Who may ask.
    pub guard: Option<Arc<Guard>>,
    /// What snippets come to.
    pub snippet: Option<Arc<Translated>>,
    /// What is done to its answers.
    pub answers: Option<Arc<Answers>>,
    /// Where copies of its requests go.
    pub mirror: Option<Arc<Mirror>>,
    /// What its host asks of clients in TLS; the same for all routes of one host.
    pub client_tls: Option<Arc<HostTls>>,
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
            rewrite: None,
            guard: None,
            snippet: None,
            answers: None,
            mirror: None,
            client_tls: None,
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
    /// What keeps a client on one of them.
    pub affinity: Option<Arc<Affinity>>,
    /// Who takes a share of its requests.
    pub canary: Option<Arc<Canary>>,
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
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
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
    /// All our annotations on the Secret, without the `lockgate.dev/` they begin with.
    pub marks: Texts,
    /// Whether the Secret bears our mark: one that does not is somebody's who handed it over.
    pub marked: bool,
    /// Whether the names are asked for a challenge's answer before the CA is.
    pub self_check: bool,
    /// Whether a renewal keeps the private key, for those who pinned it.
    pub reuse_key: bool,
}

/// A Secret that is asked for and not filled by us.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Declined {
    /// The names it was to cover, as far as they are names.
    pub names: BTreeSet<String>,
    /// The Ingresses that ask for it.
    pub ingresses: BTreeSet<ObjectName>,
    /// The reason of the problem that was told.
    pub reason: &'static str,
    /// What it says.
    pub text: String,
    /// What it holds, when that is readable.
    pub held: Option<Arc<Keypair>>,
}
