//! Flags of `serve`, which are all settings there are.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Told;
use super::values::{HostOwnership, IssuerFlag, LETS_ENCRYPT, Rate, boolean, duration, rate};
use crate::model::name::ObjectName;
use crate::model::selector::Selector;

/// Flags of `serve`.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of ingress-nginx")]
pub struct Serve {
    /// Read objects from YAML and JSON files under this directory instead of a cluster, and read them
    /// again when they change. Secrets that are issued are written to its folder `issued`.
    #[arg(long, env = "LOCKGATE_MANIFESTS", value_name = "DIR", help_heading = "Source")]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig file. Without it the pod's own service account is used.
    #[arg(long, env = "LOCKGATE_KUBECONFIG", value_name = "FILE", help_heading = "Source")]
    pub kubeconfig: Option<String>,
    /// URL of the API server, for one that asks for no credentials.
    #[arg(long, env = "LOCKGATE_APISERVER_HOST", value_name = "URL", help_heading = "Source")]
    pub apiserver_host: Option<String>,
    /// Watch this namespace only.
    #[arg(long, env = "LOCKGATE_WATCH_NAMESPACE", value_name = "NAME", help_heading = "Source")]
    pub watch_namespace: Option<String>,
    /// Watch only namespaces whose labels match, such as team=shop,stage in (test,live),!internal. Not
    /// together with --watch-namespace.
    #[arg(
        long,
        env = "LOCKGATE_WATCH_NAMESPACE_SELECTOR",
        value_name = "SELECTOR",
        help_heading = "Source"
    )]
    pub watch_namespace_selector: Option<Selector>,
    /// ConfigMap with settings for everything, as namespace/name.
    #[arg(
        long,
        env = "LOCKGATE_CONFIGMAP",
        value_name = "NS/NAME",
        alias = "nginx-configmap",
        help_heading = "Source"
    )]
    pub configmap: Option<ObjectName>,
    /// ConfigMap with TCP ports to open, as namespace/name. Its entries are PORT: NS/SERVICE:PORT, whose
    /// connections are handed on to the Service as they are; :PROXY after it for those that begin with a
    /// PROXY header, and ::PROXY where the endpoint is to get one.
    #[arg(
        long,
        env = "LOCKGATE_TCP_SERVICES_CONFIGMAP",
        value_name = "NS/NAME",
        help_heading = "Source"
    )]
    pub tcp_services_configmap: Option<ObjectName>,
    /// ConfigMap with UDP ports to open, likewise; without PROXY headers.
    #[arg(
        long,
        env = "LOCKGATE_UDP_SERVICES_CONFIGMAP",
        value_name = "NS/NAME",
        help_heading = "Source"
    )]
    pub udp_services_configmap: Option<ObjectName>,

    /// Value of the annotation kubernetes.io/ingress.class that makes an Ingress ours.
    #[arg(
        long,
        env = "LOCKGATE_INGRESS_CLASS",
        value_name = "NAME",
        default_value = "nginx",
        help_heading = "Which Ingresses"
    )]
    pub ingress_class: String,
    /// spec.controller of the IngressClasses that are ours.
    #[arg(
        long,
        env = "LOCKGATE_CONTROLLER_CLASS",
        value_name = "NAME",
        default_value = "k8s.io/ingress-nginx",
        help_heading = "Which Ingresses"
    )]
    pub controller_class: String,
    /// An IngressClass named like --ingress-class is ours whatever its controller.
    #[arg(long, env = "LOCKGATE_INGRESS_CLASS_BY_NAME", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Which Ingresses")]
    pub ingress_class_by_name: bool,
    /// Ingresses without any class are ours too.
    #[arg(long, env = "LOCKGATE_WATCH_INGRESS_WITHOUT_CLASS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Which Ingresses")]
    pub watch_ingress_without_class: bool,
    /// Leave out Ingresses with a default backend or a rule without a host.
    #[arg(long, env = "LOCKGATE_DISABLE_CATCH_ALL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Which Ingresses")]
    pub disable_catch_all: bool,
    /// Prefix of annotations.
    #[arg(
        long,
        env = "LOCKGATE_ANNOTATIONS_PREFIX",
        value_name = "PREFIX",
        default_value = "nginx.ingress.kubernetes.io",
        help_heading = "Which Ingresses"
    )]
    pub annotations_prefix: String,
    /// Read annotations under the prefix ingress.kubernetes.io too.
    #[arg(long, env = "LOCKGATE_LEGACY_ANNOTATIONS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Which Ingresses")]
    pub legacy_annotations: bool,
    /// Read snippets that only set header fields, return or deny; all others, and all without this flag,
    /// make the paths of their Ingress answer 503. No snippet is ever executed.
    #[arg(long, env = "LOCKGATE_TRANSLATE_SNIPPETS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Which Ingresses")]
    pub translate_snippets: bool,
    /// Whether namespaces share a host (merge, as in ingress-nginx) or the oldest has it alone.
    #[arg(
        long,
        env = "LOCKGATE_HOST_OWNERSHIP",
        value_enum,
        default_value = "merge",
        help_heading = "Which Ingresses"
    )]
    pub host_ownership: HostOwnership,

    /// Service for requests that no rule takes, as namespace/name; its first port.
    #[arg(
        long,
        env = "LOCKGATE_DEFAULT_BACKEND_SERVICE",
        value_name = "NS/NAME",
        help_heading = "Serving"
    )]
    pub default_backend_service: Option<ObjectName>,
    /// Secret with the certificate for hosts without one, as namespace/name.
    #[arg(
        long,
        env = "LOCKGATE_DEFAULT_SSL_CERTIFICATE",
        value_name = "NS/NAME",
        help_heading = "Serving"
    )]
    pub default_ssl_certificate: Option<ObjectName>,
    /// Do not serve Services of type ExternalName.
    #[arg(long, env = "LOCKGATE_DISABLE_SVC_EXTERNAL_NAME", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Serving")]
    pub disable_svc_external_name: bool,
    /// Follow EndpointSlices that say which endpoints are for our zone: the one of the node that the pod of
    /// --pod-name runs on, when we start.
    #[arg(long, env = "LOCKGATE_ENABLE_TOPOLOGY_AWARE_ROUTING", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Serving")]
    pub enable_topology_aware_routing: bool,
    /// Hand TLS for hosts with the annotation ssl-passthrough on to their endpoints as it is.
    #[arg(long, env = "LOCKGATE_ENABLE_SSL_PASSTHROUGH", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Serving")]
    pub enable_ssl_passthrough: bool,
    /// Port of plain HTTP.
    #[arg(
        long,
        env = "LOCKGATE_HTTP_PORT",
        value_name = "PORT",
        default_value_t = 80,
        help_heading = "Serving"
    )]
    pub http_port: u16,
    /// Port of HTTPS.
    #[arg(
        long,
        env = "LOCKGATE_HTTPS_PORT",
        value_name = "PORT",
        default_value_t = 443,
        help_heading = "Serving"
    )]
    pub https_port: u16,
    /// Port of plain HTTP as the world sees it, in X-Forwarded-Port.
    #[arg(
        long,
        env = "LOCKGATE_EXTERNAL_HTTP_PORT",
        value_name = "PORT",
        default_value_t = 80,
        help_heading = "Serving"
    )]
    pub external_http_port: u16,
    /// Port of HTTPS as the world sees it, in X-Forwarded-Port and redirects that keep the port.
    #[arg(
        long,
        env = "LOCKGATE_EXTERNAL_HTTPS_PORT",
        value_name = "PORT",
        default_value_t = 443,
        help_heading = "Serving"
    )]
    pub external_https_port: u16,
    /// Local address to listen on; all when it is not given.
    #[arg(long, env = "LOCKGATE_BIND", value_name = "ADDRESS", help_heading = "Serving")]
    pub bind: Option<IpAddr>,
    /// Most connections of one client address, an IPv6 one counted by its /64; 0 for no limit. Half of
    /// all connections there may be when it is not given, so that no client takes everything and a load
    /// balancer that hides addresses still passes.
    #[arg(
        long,
        env = "LOCKGATE_MAX_CONNECTIONS_PER_ADDRESS",
        value_name = "N",
        help_heading = "Serving"
    )]
    pub max_connections_per_address: Option<u32>,
    /// Threads that serve requests; as many as this process may use cores when it is not given.
    #[arg(long, env = "LOCKGATE_WORKERS", value_name = "N", help_heading = "Serving")]
    pub workers: Option<std::num::NonZeroUsize>,
    /// Seconds from the signal to stop until nothing new is accepted. Health and readiness fail at once,
    /// so that load balancers look elsewhere meanwhile.
    #[arg(
        long,
        env = "LOCKGATE_SHUTDOWN_GRACE_PERIOD",
        value_name = "SECONDS",
        default_value_t = 5,
        help_heading = "Serving"
    )]
    pub shutdown_grace_period: u64,
    /// Longest time after that for requests under way; what the ConfigMap's worker-shutdown-timeout says, or
    /// 240s, when it is not given.
    #[arg(long, env = "LOCKGATE_DRAIN_TIMEOUT", value_name = "TIME", value_parser = duration, help_heading = "Serving")]
    pub drain_timeout: Option<Duration>,

    /// Who issues certificates to Ingresses that ask for one.
    #[arg(
        long,
        env = "LOCKGATE_ISSUER",
        value_enum,
        default_value = "acme",
        help_heading = "Certificates"
    )]
    pub issuer: IssuerFlag,
    /// Directory of the ACME CA.
    #[arg(
        long,
        env = "LOCKGATE_ACME_DIRECTORY",
        value_name = "URL",
        help_heading = "Certificates"
    )]
    pub acme_directory: Option<String>,
    /// PEM file with the CAs to trust for the directory's own TLS; the system's when it is not given.
    #[arg(long, env = "LOCKGATE_ACME_CA_FILE", value_name = "FILE", help_heading = "Certificates")]
    pub acme_ca_file: Option<PathBuf>,
    /// E-mail address given to the CA.
    #[arg(
        long,
        env = "LOCKGATE_ACME_EMAIL",
        value_name = "ADDRESS",
        help_heading = "Certificates"
    )]
    pub acme_email: Option<String>,
    /// Id of the key by which the CA knows whose account ours is (External Account Binding).
    #[arg(
        long,
        env = "LOCKGATE_ACME_EAB_KID",
        value_name = "ID",
        requires = "acme_eab_hmac_file",
        help_heading = "Certificates"
    )]
    pub acme_eab_kid: Option<String>,
    /// File with that key, in base64url as CAs hand it out.
    #[arg(
        long,
        env = "LOCKGATE_ACME_EAB_HMAC_FILE",
        value_name = "FILE",
        requires = "acme_eab_kid",
        help_heading = "Certificates"
    )]
    pub acme_eab_hmac_file: Option<PathBuf>,
    /// Profile that certificates are ordered with.
    #[arg(long, env = "LOCKGATE_ACME_PROFILE", value_name = "NAME", help_heading = "Certificates")]
    pub acme_profile: Option<String>,
    /// Most certificates for one set of names in a time; more are a loop, not a need.
    #[arg(long, env = "LOCKGATE_ACME_MAX_ISSUES", value_name = "N/TIME", default_value = "3/7d", value_parser = rate, help_heading = "Certificates")]
    pub acme_max_issues: Rate,
    /// Port at which the CA asks for challenges, and so do we beforehand.
    #[arg(
        long,
        env = "LOCKGATE_ACME_HTTP_PORT",
        value_name = "PORT",
        default_value_t = 80,
        help_heading = "Certificates"
    )]
    pub acme_http_port: u16,
    /// How long names must stay the same before they are ordered; a sixth of it where there is no
    /// certificate at all.
    #[arg(long, env = "LOCKGATE_ACME_SETTLE", value_name = "TIME", default_value = "30s", value_parser = duration, hide = true)]
    pub acme_settle: Duration,
    /// Shortest time between two certificates for one set of names.
    #[arg(long, env = "LOCKGATE_ACME_MIN_REISSUE", value_name = "TIME", default_value = "1h", value_parser = duration, help_heading = "Certificates")]
    pub acme_min_reissue: Duration,
    /// How long certificates of the local issuer last.
    #[arg(long, env = "LOCKGATE_LOCAL_VALIDITY", value_name = "TIME", default_value = "2160h", value_parser = duration, help_heading = "Certificates")]
    pub local_validity: Duration,
    /// Keep certificates of Ingresses that ask cert-manager for one, too.
    #[arg(long, env = "LOCKGATE_ADOPT_CERT_MANAGER_ANNOTATIONS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Certificates")]
    pub adopt_cert_manager_annotations: bool,

    /// Service whose addresses are written to the status of Ingresses, as namespace/name.
    #[arg(
        long,
        env = "LOCKGATE_PUBLISH_SERVICE",
        value_name = "NS/NAME",
        help_heading = "Cluster"
    )]
    pub publish_service: Option<ObjectName>,
    /// Addresses that are written to the status of Ingresses, separated by commas.
    #[arg(
        long,
        env = "LOCKGATE_PUBLISH_STATUS_ADDRESS",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub publish_status_address: Vec<String>,
    /// Where neither is given, the external addresses of the nodes with a replica are written, if --pod-name
    /// says which is ours; with this flag, the internal ones.
    #[arg(long, env = "LOCKGATE_REPORT_NODE_INTERNAL_IP_ADDRESS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Cluster")]
    pub report_node_internal_ip_address: bool,
    /// Write the status of Ingresses at all.
    #[arg(long, env = "LOCKGATE_UPDATE_STATUS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Cluster")]
    pub update_status: bool,
    /// Seconds between two looks at the status of Ingresses.
    #[arg(
        long,
        env = "LOCKGATE_STATUS_UPDATE_INTERVAL",
        value_name = "SECONDS",
        default_value_t = 60,
        help_heading = "Cluster"
    )]
    pub status_update_interval: u64,
    /// Name of the Lease by which replicas agree on who writes, in our own namespace.
    #[arg(
        long,
        env = "LOCKGATE_ELECTION_ID",
        value_name = "NAME",
        default_value = "lockgate-leader",
        help_heading = "Cluster"
    )]
    pub election_id: String,
    /// How long the Lease is good without being renewed.
    #[arg(long, env = "LOCKGATE_ELECTION_TTL", value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Cluster")]
    pub election_ttl: Duration,
    /// There is only this replica: it writes without a Lease.
    #[arg(long, env = "LOCKGATE_DISABLE_LEADER_ELECTION", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Cluster")]
    pub disable_leader_election: bool,
    /// Our own namespace.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAME",
        default_value = "lockgate",
        help_heading = "Cluster"
    )]
    pub pod_namespace: String,
    /// Our own name; made up when it is not given.
    #[arg(long, env = "POD_NAME", value_name = "NAME", help_heading = "Cluster")]
    pub pod_name: Option<String>,

    /// Port of health checks, metrics and the status page.
    #[arg(
        long,
        env = "LOCKGATE_HEALTHZ_PORT",
        value_name = "PORT",
        default_value_t = 10254,
        help_heading = "Seen from outside"
    )]
    pub healthz_port: u16,
    /// Local address of that port; all when it is not given.
    #[arg(
        long,
        env = "LOCKGATE_HEALTHZ_HOST",
        value_name = "ADDRESS",
        help_heading = "Seen from outside"
    )]
    pub healthz_host: Option<IpAddr>,
    /// Path of the health check.
    #[arg(
        long,
        env = "LOCKGATE_HEALTH_CHECK_PATH",
        value_name = "PATH",
        default_value = "/healthz",
        help_heading = "Seen from outside"
    )]
    pub health_check_path: String,
    /// Show metrics at all.
    #[arg(long, env = "LOCKGATE_ENABLE_METRICS", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Seen from outside")]
    pub enable_metrics: bool,
    /// Count requests by host, too.
    #[arg(long, env = "LOCKGATE_METRICS_PER_HOST", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Seen from outside")]
    pub metrics_per_host: bool,
    /// Count requests by 2xx, 3xx, 4xx, 5xx instead of each status.
    #[arg(long, env = "LOCKGATE_REPORT_STATUS_CLASSES", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Seen from outside")]
    pub report_status_classes: bool,
    /// Bounds of the histograms of times, in seconds, separated by commas.
    #[arg(
        long,
        env = "LOCKGATE_TIME_BUCKETS",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Seen from outside"
    )]
    pub time_buckets: Vec<f64>,
    /// Bounds of the histograms of lengths, in bytes, separated by commas.
    #[arg(
        long,
        env = "LOCKGATE_LENGTH_BUCKETS",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Seen from outside"
    )]
    pub length_buckets: Vec<f64>,
    /// How much our own log tells, on standard error: error, warn, info, debug.
    #[arg(
        long,
        env = "LOCKGATE_LOG",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Seen from outside"
    )]
    pub log: String,
    /// Write our own log as JSON.
    #[arg(long, env = "LOCKGATE_LOG_JSON", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", help_heading = "Seen from outside")]
    pub log_json: bool,

    /// Flags of ingress-nginx that were given and have no effect here.
    #[arg(skip)]
    pub without_effect: Vec<String>,
}

impl Serve {
    /// Which namespaces are watched; `None` for all, or for the one of `--watch-namespace`.
    pub fn selector(&self) -> Option<&Selector> {
        self.watch_namespace_selector.as_ref().filter(|it| !it.is_empty())
    }

    /// The one namespace that is watched; `None` for all.
    pub fn namespace(&self) -> Option<&str> {
        self.watch_namespace.as_deref().filter(|it| !it.is_empty())
    }

    /// Flags that cannot be given together.
    pub(super) fn contradiction(&self) -> Option<Told> {
        let both = self.namespace().is_some() && self.selector().is_some();
        both.then(|| Told {
            text: "lockgate: --watch-namespace and --watch-namespace-selector exclude each other\n"
                .to_owned(),
            code: 2,
        })
    }

    /// The directory of the ACME CA.
    pub fn directory(&self) -> &str {
        self.acme_directory.as_deref().unwrap_or(LETS_ENCRYPT)
    }
}
