//! Starts every task, hands out every handle, stops everything: the one file that knows all floors.

mod compiler;
mod objects;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::args::{HostOwnership, IssuerFlag, Serve};
use crate::certs::{
    self, Acme, AcmeOptions, Binding, Budget, Issuer, Keeper, KeeperFlags, KeeperOptions, Local,
};
use crate::compile::{IssuerKind, Policy};
use crate::lease::{self, Election, Leadership};
use crate::live::{Current, Live, memory};
use crate::metrics::{Counting, Metrics, Replica};
use crate::model::name::ObjectName;
use crate::model::plan::Plan;
use crate::proxy::{Listening, Phase, Ports, Proxy};
use crate::spans;
use crate::status::{self, Addresses, Compiled};
use crate::store::{Cluster, ClusterOptions, Directory, Selection, Store};

use compiler::{Compiler, Workshop};

pub(crate) use objects::objects;

/// How long WebSockets have to end once they were told to; longer than each takes to say so.
const GOODBYE: Duration = Duration::from_secs(2);
/// Longest wait for our zone, before anything is served.
const ZONE_PATIENCE: Duration = Duration::from_secs(5);
/// How long tasks may take to end once nothing is served any more.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// The time of day. Everything that needs it gets this function handed down.
#[expect(clippy::disallowed_methods, reason = "this is the place that hands the clock down")]
pub(crate) fn wall() -> Timestamp {
    Timestamp::now()
}

/// Where `serve` reads its objects, for callers that have them elsewhere than the flags say.
#[derive(Debug)]
pub enum Source {
    /// As the flags say.
    Flags,
    /// Files: directories to read, and one to write to.
    Files {
        /// Read.
        read: Vec<PathBuf>,
        /// Read and written.
        write: PathBuf,
    },
}

/// Serves until a signal says to stop; `stop` may say so, too.
pub async fn serve(args: &Serve, source: Source, stop: CancellationToken) -> anyhow::Result<()> {
    for flag in &args.without_effect {
        tracing::info!("flag --{flag} has no effect here");
    }
    let identity = identity(args);
    let metrics = Arc::new(Metrics::new(&replica(args, &identity)?)?);
    let current = Current::new(Live::empty(certs::fake()?));
    let (phase, phases) = watch::channel(Phase::Serving);

    // Ports first: whoever waits for them sees 503 rather than refused connections.
    let admin_listener = admin::bind(admin_address(args)).await?;
    let (sink, exporter) = spans::queue(metrics.clone());
    let listening = listening(args);
    let proxy =
        Proxy::start(&listening, current.clone(), metrics.clone(), phases.clone(), wall, sink)?;
    let served = current.clone();
    tracing::info!(http = args.http_port, https = args.https_port, "listening");

    let mut signals = Signals::new()?;
    let mut policy = policy(args);
    let account = policy.account.clone();
    let store = store(args, source, &policy, &identity).await?;
    policy.near = matches!(store, Store::Directory(_));
    policy.zone = zone(args, &store).await;
    let elected = CancellationToken::new();
    let holder = identity.clone();
    let (leadership, election) = elect(args, &store, &metrics, identity, elected.clone());

    let (compiled, compilations) = watch::channel(Compiled::default());
    let (plan, plans) = watch::channel(Arc::<Plan>::default());
    let exporter = tokio::spawn(exporter.run(plans.clone()));
    let (ready, readiness) = watch::channel(false);
    let (notices, noticed) = mpsc::channel(1024);
    let compiler = Compiler {
        workshop: Workshop::open()?,
        policy,
        current: current.clone(),
        doors: proxy.doors(),
        metrics: metrics.clone(),
        store: store.clone(),
        compiled,
        plan,
        ready,
    };
    let mut tasks = tokio::task::JoinSet::new();
    let snapshots = store.snapshots();
    tasks.spawn(compiler.run(snapshots.clone()));
    let (standing, standings) = watch::channel(Arc::default());
    let (health, healths) = watch::channel(Arc::default());
    if let Some(issuer) = issuer(args, account, &leadership, &metrics)? {
        let keeper = Keeper::new(KeeperOptions {
            store: store.clone(),
            leadership: leadership.clone(),
            issuer,
            metrics: metrics.clone(),
            notices: notices.clone(),
            flags: keeper_flags(args, &holder),
            snapshots,
            standing,
            health,
            wall,
        });
        tasks.spawn(keeper.run(plans));
    }
    tasks.spawn(status::publish(
        store.clone(),
        addresses(args),
        Duration::from_secs(args.status_update_interval.max(5)),
        leadership.clone(),
        compilations.clone(),
    ));
    tasks.spawn(status::tell(store.clone(), leadership.clone(), compilations.clone(), noticed));
    let admin = Admin {
        current,
        compiled: compilations,
        metrics,
        phase: phases,
        ready: readiness,
        leadership,
        standings,
        healths,
        store,
        health_path: args.health_check_path.clone(),
        shows_metrics: args.enable_metrics,
        class: args.controller_class.clone(),
    };
    tasks.spawn(admin.run(admin_listener));
    tasks.spawn(memory::watch(proxy.limits()));

    let failed = tokio::select! {
        () = signals.next() => false,
        () = stop.cancelled() => false,
        Some(ended) = tasks.join_next() => {
            // None of them ever ends by itself: without it this replica would grow stale. Another one
            // starts while clients are asked to leave this one.
            tracing::error!(?ended, "a task of the control plane ended");
            true
        }
    };
    let grace = Duration::from_secs(args.shutdown_grace_period);
    let drain = args.drain_timeout.unwrap_or(served.load().plan.settings.connections.drain);
    shut_down(proxy, &phase, &mut signals, grace, drain, elected, election).await;
    tasks.shutdown().await;
    // It ends by itself once nobody makes spans any more, and has sent the last.
    let _ = tokio::time::timeout(LAST_SPANS, exporter).await;
    anyhow::ensure!(!failed, "a task of the control plane ended");
    Ok(())
}

/// Takes part in the election, where there is anybody to compete with.
fn elect(
    args: &Serve,
    store: &Store,
    metrics: &Arc<Metrics>,
    identity: String,
    stop: CancellationToken,
) -> (Leadership, Option<JoinHandle<()>>) {
    if matches!(store, Store::Directory(_)) || args.disable_leader_election {
        metrics.leader.set(1);
        return (Leadership::sole(), None);
    }
    let election = Election {
        name: ObjectName::new(args.pod_namespace.as_str(), args.election_id.as_str()),
        identity,
        duration: args.election_ttl,
    };
    let (leadership, task) = lease::run(store.clone(), election, metrics.clone(), wall, stop);
    (leadership, Some(task))
}

/// Ends in order: ask clients to go elsewhere, accept nothing new, finish, cut what is left.
async fn shut_down(
    proxy: Proxy,
    phase: &watch::Sender<Phase>,
    signals: &mut Signals,
    grace: Duration,
    drain: Duration,
    elected: CancellationToken,
    election: Option<JoinHandle<()>>,
) {
    tracing::info!(?grace, "shutting down");
    phase.send_replace(Phase::Leaving);
    elected.cancel();
    let told_again = tokio::select! {
        () = tokio::time::sleep(grace) => false,
        () = signals.next() => true,
    };
    phase.send_replace(Phase::Draining);
    let mut workers = tokio::task::spawn_blocking(move || proxy.join());
    tokio::select! {
        _ = &mut workers => {}
        () = tokio::time::sleep(if told_again { Duration::ZERO } else { drain }) => {
            tracing::warn!("requests under way are cut");
        }
        () = signals.next() => tracing::warn!("told again to stop: requests under way are cut"),
    }
    phase.send_replace(Phase::Closing);
    if !workers.is_finished() {
        let _ = tokio::time::timeout(GOODBYE, &mut workers).await;
    }
    phase.send_replace(Phase::Over);
    if !workers.is_finished() {
        let _ = tokio::time::timeout(FAREWELL, workers).await;
    }
    if let Some(election) = election {
        let _ = tokio::time::timeout(FAREWELL, election).await;
    }
    tracing::info!("stopped");
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn replica(args: &Serve, identity: &str) -> anyhow::Result<Replica> {
    Ok(Replica {
        namespace: args.pod_namespace.clone(),
        pod: identity.to_owned(),
        class: args.controller_class.clone(),
        election: args.election_id.clone(),
        counting: counting(args)?,
    })
}

/// How requests are counted; the bounds of a histogram have to grow.
fn counting(args: &Serve) -> anyhow::Result<Counting> {
    let mut counting = Counting {
        per_host: args.metrics_per_host,
        status_classes: args.report_status_classes,
        ..Counting::default()
    };
    for (name, given, bounds) in [
        ("--time-buckets", &args.time_buckets, &mut counting.times),
        ("--length-buckets", &args.length_buckets, &mut counting.lengths),
    ] {
        if !given.is_empty() {
            let grow = given.windows(2).all(|it| it[0] < it[1]);
            anyhow::ensure!(grow && given.iter().all(|it| it.is_finite()), "{name} has to grow");
            bounds.clone_from(given);
        }
    }
    Ok(counting)
}

/// Writes to standard output. That whoever reads it has gone, as `head` does, is no mistake.
pub fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The pod's name, or one made up.
fn identity(args: &Serve) -> String {
    args.pod_name.clone().unwrap_or_else(|| {
        let random: u64 = rand::random();
        format!("lockgate-{random:016x}")
    })
}

/// The pod that we run in, as far as we were told.
fn own_pod(args: &Serve) -> Option<ObjectName> {
    let name = args.pod_name.as_deref().filter(|it| !it.is_empty())?;
    Some(ObjectName::new(args.pod_namespace.as_str(), name))
}

/// Our zone, where it counts, as far as the API server tells it in [`ZONE_PATIENCE`]. Without it hints are not
/// followed, which costs no request.
async fn zone(args: &Serve, store: &Store) -> Option<Box<str>> {
    if !args.enable_topology_aware_routing {
        return None;
    }
    let why = match own_pod(args) {
        None => "--pod-name does not say which pod is ours".to_owned(),
        Some(pod) => match tokio::time::timeout(ZONE_PATIENCE, store.zone(&pod)).await {
            Ok(Ok(Some(zone))) => {
                tracing::info!(zone, "endpoints for our zone are used where there are some");
                return Some(zone);
            }
            Ok(Ok(None)) => "our node has no label topology.kubernetes.io/zone".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer in {ZONE_PATIENCE:?}"),
        },
    };
    tracing::warn!(why, "our zone is not known: hints of zones are not followed until a restart");
    None
}

/// All addresses of this machine, by IPv6 where there is any.
fn everywhere() -> IpAddr {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match TcpListener::bind((any, 0)) {
        Ok(_) => any,
        Err(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn admin_address(args: &Serve) -> SocketAddr {
    SocketAddr::new(args.healthz_host.unwrap_or_else(everywhere), args.healthz_port)
}

fn listening(args: &Serve) -> Listening {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Listening {
        bind: args.bind.unwrap_or_else(everywhere),
        http: args.http_port,
        https: args.https_port,
        external: Ports { http: args.external_http_port, https: args.external_https_port },
        workers: args.workers.map_or(cores, usize::from),
        most_of_address: args.max_connections_per_address,
    }
}

/// How objects are read that come from where the flags say.
pub(crate) fn policy(args: &Serve) -> Policy {
    Policy {
        ingress_class: args.ingress_class.clone(),
        controller_class: args.controller_class.clone(),
        class_by_name: args.ingress_class_by_name,
        watch_without_class: args.watch_ingress_without_class,
        prefix: args.annotations_prefix.clone(),
        legacy_annotations: args.legacy_annotations,
        config_map: args.configmap.clone(),
        tcp_services: args.tcp_services_configmap.clone(),
        udp_services: args.udp_services_configmap.clone(),
        own_ports: [args.http_port, args.https_port, args.healthz_port].into(),
        default_backend: args.default_backend_service.clone(),
        default_certificate: args.default_ssl_certificate.clone(),
        no_catch_all: args.disable_catch_all,
        no_external_name: args.disable_svc_external_name,
        passthrough: args.enable_ssl_passthrough,
        zone: None,
        strict_hosts: args.host_ownership == HostOwnership::Namespace,
        issuer: match args.issuer {
            IssuerFlag::Acme => IssuerKind::Acme,
            IssuerFlag::Local => IssuerKind::Local,
            IssuerFlag::None => IssuerKind::None,
        },
        account: ObjectName::new(args.pod_namespace.as_str(), "lockgate-acme-account"),
        adopt_cert_manager: args.adopt_cert_manager_annotations,
        translate_snippets: args.translate_snippets,
        near: args.manifests.is_some(),
        most_names: certs::most_names(args.acme_profile.as_deref()),
    }
}

/// Which namespaces count; what the flags name counts in any.
pub(crate) fn selection(args: &Serve, policy: &Policy) -> Option<Selection> {
    fn some<'a>(names: impl IntoIterator<Item = &'a Option<ObjectName>>) -> BTreeSet<ObjectName> {
        names.into_iter().flatten().cloned().collect()
    }
    let account = Some(policy.account.clone());
    Some(Selection {
        selector: args.selector()?.clone(),
        config_maps: some([
            &args.configmap,
            &args.tcp_services_configmap,
            &args.udp_services_configmap,
        ]),
        services: some([&args.publish_service, &args.default_backend_service]),
        secrets: some([&args.default_ssl_certificate, &account]),
    })
}

pub(crate) async fn store(
    args: &Serve,
    source: Source,
    policy: &Policy,
    identity: &str,
) -> anyhow::Result<Store> {
    match (source, &args.manifests) {
        (Source::Files { read, write }, _) => Ok(Store::Directory(Directory::new(read, write))),
        (Source::Flags, Some(directory)) => {
            anyhow::ensure!(
                directory.is_dir(),
                "--manifests: {} is no directory",
                directory.display()
            );
            let issued = directory.join("issued");
            let directory = Directory::new([directory.clone()], issued);
            Ok(Store::Directory(directory.selecting(selection(args, policy))))
        }
        (Source::Flags, None) => {
            let options = ClusterOptions {
                kubeconfig: args.kubeconfig.clone(),
                host: args.apiserver_host.clone(),
                namespace: args.namespace().map(str::to_owned),
                selection: selection(args, policy),
                config_map: args.configmap.clone(),
                streams: [&args.tcp_services_configmap, &args.udp_services_configmap]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect(),
                account: policy.account.clone(),
                identity: identity.to_owned(),
            };
            let cluster = Cluster::connect(options).await;
            Ok(Store::Cluster(cluster.context("no way to the API server is configured")?))
        }
    }
}

fn issuer(
    args: &Serve,
    account: ObjectName,
    leadership: &Leadership,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<Issuer>> {
    match args.issuer {
        IssuerFlag::None => Ok(None),
        IssuerFlag::Local => Ok(Some(Issuer::Local(Local {
            secret: ObjectName::new(args.pod_namespace.as_str(), "lockgate-local-ca"),
            validity: args.local_validity,
        }))),
        IssuerFlag::Acme => {
            let trust = match &args.acme_ca_file {
                None => None,
                Some(file) => Some(
                    std::fs::read(file)
                        .with_context(|| format!("--acme-ca-file {}", file.display()))?,
                ),
            };
            let options = AcmeOptions {
                directory: args.directory().to_owned(),
                trust,
                email: args.acme_email.clone(),
                profile: args.acme_profile.clone(),
                binding: binding(args)?,
                account,
            };
            let acme = Acme::new(options, leadership.clone(), metrics.clone(), wall)?;
            Ok(Some(Issuer::Acme(Box::new(acme))))
        }
    }
}

/// What the CA handed out for our account, where the flags name it.
fn binding(args: &Serve) -> anyhow::Result<Option<Binding>> {
    let (Some(kid), Some(file)) = (&args.acme_eab_kid, &args.acme_eab_hmac_file) else {
        return Ok(None);
    };
    let flag = || format!("--acme-eab-hmac-file {}", file.display());
    let text = std::fs::read_to_string(file).with_context(flag)?;
    let binding = Binding::read(kid, &text).context("it holds no base64url");
    binding.with_context(flag).map(Some)
}

fn keeper_flags(args: &Serve, holder: &str) -> KeeperFlags {
    let (issues, span) = (args.acme_max_issues.count, args.acme_max_issues.span);
    KeeperFlags {
        namespace: args.pod_namespace.as_str().into(),
        holder: holder.into(),
        budget: Budget { issues, span, gap: args.acme_min_reissue, public: true },
        settle: args.acme_settle,
        http_port: args.acme_http_port,
    }
}

fn addresses(args: &Serve) -> Addresses {
    let given = args.publish_status_address.iter().map(|it| it.trim()).filter(|it| !it.is_empty());
    let given: Vec<Box<str>> = given.map(Into::into).collect();
    match &args.publish_service {
        _ if !args.update_status => Addresses::None,
        _ if !given.is_empty() => Addresses::Given(given),
        Some(service) => Addresses::Service(service.clone()),
        None => match own_pod(args) {
            Some(pod) => Addresses::Nodes { pod, internal: args.report_node_internal_ip_address },
            None => Addresses::None,
        },
    }
}
