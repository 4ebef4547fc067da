//! Every flag: meaning, unit, default. The one file that knows `clap`.
//!
//! Flags that ingress-nginx has keep their names, meanings and Go's syntax (`--x`, `--x=false`, `-x`), so
//! that the `args` of an existing Deployment go on working. One that has no meaning here is accepted
//! and named in the log; one that nobody knows is an error.

mod cert;
mod explain;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::model::name::ObjectName;
use crate::model::value;

pub use cert::{Ask, Cert, CertCheck, CertCommand, Output, Place, Reason};
pub use explain::{Explain, Url};

/// An ingress proxy that keeps its own certificates.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the Ingresses of a cluster, or of a directory (the default).
    Serve(Box<Serve>),
    /// Say of each object what works, what differs from ingress-nginx, and what is refused.
    Check(Box<Check>),
    /// Say what becomes of one request, step by step, and why; the exit code is 1 where nobody serves it.
    Explain(Box<Explain>),
    /// Turn manifests of old clusters, kube-lego's too, into those of today.
    Convert(Convert),
    /// Show everything on this machine: sample objects, sample backends, local certificates.
    Demo(Demo),
    /// Certificates, as the running replica sees them.
    Cert(Cert),
}

/// A flag of Go's: `--x`, `--x=true`, `--x=false`.
fn boolean(text: &str) -> Result<bool, String> {
    value::boolean(text).ok_or_else(|| "true or false".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    value::duration(text).ok_or_else(|| "a time such as 30s, 5m or 1h30m".to_owned())
}

/// How many in what time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How many, 1 to 1000.
    pub count: u32,
    /// In any time of this length.
    pub span: Duration,
}

fn rate(text: &str) -> Result<Rate, String> {
    let parsed = text.split_once('/').and_then(|(count, span)| {
        let count = count.trim().parse().ok().filter(|it| (1..=1_000).contains(it))?;
        let span = value::duration(span.trim()).filter(|it| !it.is_zero())?;
        Some(Rate { count, span })
    });
    parsed.ok_or_else(|| "a number and a time such as 3/7d".to_owned())
}

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
    /// ConfigMap with settings for everything, as namespace/name.
    #[arg(
        long,
        env = "LOCKGATE_CONFIGMAP",
        value_name = "NS/NAME",
        alias = "nginx-configmap",
        help_heading = "Source"
    )]
    pub configmap: Option<ObjectName>,

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
    /// Longest time after that for requests under way, as ingress-nginx's worker-shutdown-timeout.
    #[arg(long, env = "LOCKGATE_DRAIN_TIMEOUT", value_name = "TIME", default_value = "240s", value_parser = duration, help_heading = "Serving")]
    pub drain_timeout: Duration,

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

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// Files or directories with objects, or - for standard input; the cluster when none is given.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// How to say it.
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "HOW")]
    pub output: Output,
    /// What `serve` is started with.
    #[command(flatten)]
    pub serve: Serve,
}

/// Flags of `convert`.
#[derive(Args, Clone, Debug)]
pub struct Convert {
    /// Files or directories with objects, or - for standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
}

/// Flags of `demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Port of plain HTTP on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Port of HTTPS on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// Port of health checks, metrics and the status page on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 10254)]
    pub healthz_port: u16,
}

/// `--host-ownership`
#[expect(missing_docs, reason = "the flag's help says it")]
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum HostOwnership {
    Merge,
    Namespace,
}

/// `--issuer`
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum IssuerFlag {
    /// A CA that speaks ACME.
    Acme,
    /// The small CA inside this program.
    Local,
    /// Nobody.
    None,
}

/// Let's Encrypt, as certificates are ordered there by default.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Flags of ingress-nginx that take a value and have no effect here.
const IGNORED: &[&str] = &[
    "alsologtostderrthreshold",
    "bucket-factor",
    "certificate-authority",
    "default-server-port",
    "dynamic-configuration-retries",
    "exclude-socket-metrics",
    "health-check-timeout",
    "internal-logger-address",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "max-buckets",
    "maxmind-edition-ids",
    "maxmind-license-key",
    "maxmind-mirror",
    "maxmind-retries-count",
    "maxmind-retries-timeout",
    "monitor-max-batch-size",
    "post-shutdown-grace-period",
    "profiler-address",
    "profiler-port",
    "size-buckets",
    "ssl-passthrough-proxy-port",
    "status-port",
    "stderrthreshold",
    "stream-port",
    "sync-period",
    "sync-rate-limit",
    "tcp-services-configmap",
    "udp-services-configmap",
    "v",
    "validating-webhook",
    "validating-webhook-certificate",
    "validating-webhook-key",
    "vmodule",
];

/// Flags of ingress-nginx that are true or false and have no effect here.
const IGNORED_BOOLEAN: &[&str] = &[
    "add_dir_header",
    "alsologtostderr",
    "deep-inspect",
    "disable-full-test",
    "disable-sync-events",
    "enable-annotation-validation",
    "enable-ssl-chain-completion",
    "enable-topology-aware-routing",
    "logtostderr",
    "metrics-per-undefined-host",
    "one_output",
    "profiling",
    "report-node-internal-ip-address",
    "skip_headers",
    "skip_log_headers",
    "update-status-on-shutdown",
];

/// Flags of ingress-nginx that narrow what is served, and are not built: ignoring them would serve more
/// than was asked for.
const REFUSED: &[&str] = &["watch-namespace-selector"];

/// What to tell somebody whose arguments are wrong, or who asked for help.
#[derive(Debug)]
pub struct Told {
    /// The text.
    pub text: String,
    /// 0 for help, 2 for a mistake.
    pub code: u8,
}

/// Reads the arguments, the program's name first.
pub fn parse(argv: impl IntoIterator<Item = String>) -> Result<Cli, Told> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let mut rest: Vec<String> = argv.collect();
    let is = |text: &str, name: &str| text.rsplit('/').next() == Some(name);
    // An ingress-nginx Deployment names its own program first.
    if rest.first().is_some_and(|it| is(it, "nginx-ingress-controller")) {
        rest.remove(0);
    }
    if is(&program, "wait-shutdown") || rest.first().is_some_and(|it| is(it, "wait-shutdown")) {
        // The signal that follows does all there is to do.
        return Err(Told { text: String::new(), code: 0 });
    }
    let refused = |it: &&String| {
        let name = it.trim_start_matches('-').split('=').next().unwrap_or_default();
        it.starts_with('-') && REFUSED.contains(&name)
    };
    if let Some(flag) = rest.iter().find(refused) {
        let name = flag.split('=').next().unwrap_or_default();
        let text = format!("lockgate: {name} is not supported yet; --watch-namespace is\n");
        return Err(Told { text, code: 2 });
    }
    let (rest, without_effect) = understood(rest);
    let flags_only = rest.first().is_none_or(|it| it.starts_with('-'));
    let asks = rest.first().is_some_and(|it| matches!(it.as_str(), "--help" | "-h" | "--version"));
    let serve = (flags_only && !asks).then(|| "serve".to_owned());
    let all = ["lockgate".to_owned()].into_iter().chain(serve).chain(rest);
    let matches = Cli::command().try_get_matches_from(all).map_err(|it| told(&it))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|it| told(&it))?;
    let serve = match &mut cli.command {
        Command::Serve(serve) => Some(&mut **serve),
        Command::Check(check) => Some(&mut check.serve),
        Command::Explain(explain) => Some(&mut explain.serve),
        Command::Cert(_) | Command::Convert(_) | Command::Demo(_) => None,
    };
    if let Some(serve) = serve {
        serve.without_effect = without_effect;
        serve.take_kube_legos_environment();
    }
    Ok(cli)
}

/// Brings Go's syntax into ours, and takes out what has no effect.
fn understood(argv: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut kept = Vec::new();
    let mut ignored = Vec::new();
    let mut argv = argv.into_iter().peekable();
    while let Some(it) = argv.next() {
        let body = it.trim_start_matches('-');
        let dashes = it.len() - body.len();
        let name = body.split('=').next().unwrap_or_default();
        if !(1..=2).contains(&dashes) || name.is_empty() {
            kept.push(it);
            continue;
        }
        if IGNORED_BOOLEAN.contains(&name) {
            ignored.push(name.to_owned());
        } else if IGNORED.contains(&name) {
            ignored.push(name.to_owned());
            if !body.contains('=') && argv.peek().is_some_and(|it| !it.starts_with('-')) {
                argv.next();
            }
        } else if dashes == 1 && name.len() > 1 {
            kept.push(format!("--{body}"));
        } else {
            kept.push(it);
        }
    }
    (kept, ignored)
}

/// One line that names the flag and what would be right.
fn told(error: &clap::Error) -> Told {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Told { text: error.to_string(), code: 0 };
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg).or_else(|| context(ContextKind::InvalidSubcommand));
    let near = context(ContextKind::SuggestedArg)
        .or_else(|| context(ContextKind::SuggestedSubcommand))
        .map(|it| format!("; did you mean {it}?"))
        .unwrap_or_default();
    let text = if let (ErrorKind::MissingRequiredArgument, Some(flag)) = (error.kind(), &flag) {
        format!("lockgate: {flag} is missing\n")
    } else if let (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, Some(flag)) =
        (error.kind(), flag)
    {
        format!("lockgate: {flag} is not known{near}\n")
    } else {
        let full = error.to_string();
        let first = full.lines().next().unwrap_or_default();
        format!("lockgate: {}\n", first.trim_start_matches("error: "))
    };
    Told { text, code: 2 }
}

impl Serve {
    /// The directory of the ACME CA.
    pub fn directory(&self) -> &str {
        self.acme_directory.as_deref().unwrap_or(LETS_ENCRYPT)
    }

    /// kube-lego's settings hold where ours are not given; its CA's first protocol is gone, so that its
    /// addresses mean those of the second.
    #[expect(clippy::disallowed_methods, reason = "kube-lego is configured by its environment")]
    fn take_kube_legos_environment(&mut self) {
        let lego = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
        if self.acme_email.is_none() {
            self.acme_email = lego("LEGO_EMAIL");
        }
        if self.acme_directory.is_none() {
            self.acme_directory = lego("LEGO_URL").map(|it| second_protocol(&it));
        }
    }
}

/// `acme-v01` → `acme-v02`.
fn second_protocol(url: &str) -> String {
    if url.contains("staging") && url.contains("acme-") && url.contains("v01") {
        return "https://acme-staging-v02.api.letsencrypt.org/directory".to_owned();
    }
    if url.contains("acme-staging.api.letsencrypt.org") {
        return "https://acme-staging-v02.api.letsencrypt.org/directory".to_owned();
    }
    url.replace("acme-v01", "acme-v02")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(argv: &[&str]) -> Result<Box<Serve>, Told> {
        let argv = ["lockgate"].iter().chain(argv).map(|it| (*it).to_owned());
        match parse(argv)?.command {
            Command::Serve(serve) => Ok(serve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_ingress_nginx_deployments_arguments_parse() {
        let serve = serve(&[
            "/nginx-ingress-controller",
            "--publish-service=ingress/controller",
            "--election-id=ingress-nginx-leader",
            "--controller-class=k8s.io/ingress-nginx",
            "-ingress-class=nginx",
            "--configmap=ingress/controller",
            "--validating-webhook=:8443",
            "--validating-webhook-certificate=/usr/local/certificates/cert",
            "--watch-ingress-without-class",
            "--update-status=false",
            "--v=2",
            "--tcp-services-configmap",
            "ingress/tcp",
        ])
        .expect("understood");
        assert_eq!(serve.configmap, Some(ObjectName::new("ingress", "controller")));
        assert!(serve.watch_ingress_without_class);
        assert!(!serve.update_status);
        assert_eq!(serve.without_effect.len(), 4);
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_flag() {
        for (argv, part) in [
            (&["--htp-port=80"][..], "--http-port"),
            (&["--http-port=eighty"], "--http-port"),
            (&["serf"], "serf"),
            (&["--configmap=nonamespace"], "--configmap"),
            (&["--watch-namespace-selector=a=b"], "--watch-namespace-selector"),
        ] {
            let told = serve(argv).expect_err("a mistake");
            assert_eq!(told.code, 2, "{argv:?}");
            assert!(told.text.contains(part), "{argv:?}: {}", told.text);
            assert_eq!(told.text.lines().count(), 1, "{}", told.text);
        }
    }

    #[test]
    fn a_budget_is_a_number_in_a_time() {
        for (text, expected) in [
            ("3/7d", Some((3, 7 * 86_400))),
            ("100/1h", Some((100, 3_600))),
            ("0/7d", None),
            ("3", None),
            ("3/0", None),
            ("1001/7d", None),
            ("x/7d", None),
        ] {
            let found = rate(text).ok().map(|it| (it.count, it.span.as_secs()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_first_acme_protocol_becomes_the_second() {
        assert_eq!(second_protocol("https://acme-v01.api.letsencrypt.org/directory"), LETS_ENCRYPT);
        assert_eq!(
            second_protocol("https://acme-staging.api.letsencrypt.org/directory"),
            "https://acme-staging-v02.api.letsencrypt.org/directory"
        );
    }
}
