//! Every metric: name, unit, labels, meaning.
//!
//! Names that ingress-nginx has are kept with their labels, so that dashboards, alerts and canary
//! tools go on working; ours begin with `lockgate_`. Labels come from objects, never from requests,
//! so the number of series is bounded by what is configured. Floor 0.

mod acme;
mod requests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::model::name::ObjectName;
use crate::model::problem::Problem;

use requests::Requests;

pub use acme::{AcmeMetrics, Ca, Certificate, Endpoint};
pub use requests::{Kind, RequestMeters};

/// Of the names that ingress-nginx has, too.
const PREFIX: &str = "nginx_ingress_controller_";
/// ingress-nginx's buckets for lengths, in bytes.
const LENGTHS: [f64; 7] = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];

const COPIES_LOST: &str =
    "Copies for mirrors that were not sent: too many under way, or too large.";

const SPANS_LOST: &str =
    "Spans that no collector was told of: it took none in time, or refused them.";

/// What is measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    /// Client connections that are open.
    pub connections: IntGauge,
    /// Those of HTTP/1 that have waited for their next request so long that they hold little memory.
    pub resting: IntGauge,
    /// Client connections that were accepted.
    pub accepted: IntCounter,
    /// Client connections that we ended, by reason. Never begun: `accept` (it failed, mostly for want of
    /// files), `full`, `address` (too many of one), `memory`. No request yet: `handshake`,
    /// `handshake_timeout`, `handshakes` (too many at a time), `silent`, `passthrough` (no endpoint takes its
    /// TLS), `stream` (no endpoint takes what came to a port that is handed on, datagrams too). Later:
    /// `slow_head`, `stalled` (the client takes nothing), `idle` (it was asked to go and did not), `resets`
    /// and `flood` (attacks over HTTP/2), `shed` (idle, and in the place of a new one), `memory` (idle while
    /// it is short).
    pub dropped: IntCounterVec,
    /// Requests answered 503 because there was too much, by reason: `overload` or `memory`.
    refused: IntCounterVec,
    /// Access-log lines that nobody took in time.
    pub log_lost: IntCounter,
    /// Copies for mirrors that were not sent: too many under way, or too large.
    pub copies_lost: IntCounter,
    /// Spans that no collector was told of.
    pub spans_lost: IntCounter,
    /// HTTP-01 challenges that were answered.
    pub challenges: IntCounter,
    /// Orders for certificates, by result: `issued` or `failed`.
    pub orders: IntCounterVec,
    /// 1 while this replica holds the lease.
    pub leader: IntGauge,
    /// Seconds since the source of objects last answered.
    pub config_age: Gauge,
    /// Certificates and the CA.
    pub acme: AcmeMetrics,
    /// Held while states are set anew and read: two scrapes at once would see each other's gaps.
    scrape: Mutex<()>,
    problems: IntGaugeVec,
    expiry: GaugeVec,
    swaps: IntCounter,
    swapped_at: Gauge,
    hash: Gauge,
}

/// Who this replica is, for the labels that ingress-nginx puts on everything.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// `$POD_NAMESPACE`
    pub namespace: String,
    /// `$POD_NAME`
    pub pod: String,
    /// `--controller-class`
    pub class: String,
    /// `--election-id`
    pub election: String,
    /// How requests are counted.
    pub counting: Counting,
}

/// How requests are counted.
#[derive(Clone, Debug)]
pub struct Counting {
    /// `--metrics-per-host`: by host, too.
    pub per_host: bool,
    /// `--report-status-classes`: by `2xx` rather than `200`.
    pub status_classes: bool,
    /// `--time-buckets`, in seconds.
    pub times: Vec<f64>,
    /// `--length-buckets`, in bytes.
    pub lengths: Vec<f64>,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            per_host: true,
            status_classes: false,
            times: prometheus::DEFAULT_BUCKETS.to_vec(),
            lengths: LENGTHS.to_vec(),
        }
    }
}

/// A certificate that is served, for [`Metrics::certificates`].
#[derive(Clone, Debug)]
pub struct Served {
    /// The host that shows it.
    pub host: String,
    /// The Secret it is in.
    pub secret: ObjectName,
    /// Its serial number.
    pub serial: String,
    /// Its end, in seconds since 1970.
    pub not_after: i64,
}

/// Requests that were answered 503 for lack of room, by what there was too little of.
#[expect(missing_docs, reason = "the names are the reasons")]
#[derive(Clone, Debug)]
pub struct Refused {
    pub memory: IntCounter,
    pub overload: IntCounter,
}

impl Metrics {
    /// Registers everything. Fails only when two metrics have one name.
    pub fn new(replica: &Replica) -> Result<Self, prometheus::Error> {
        let to = Register {
            registry: Registry::new(),
            labels: HashMap::from([
                ("controller_namespace".to_owned(), replica.namespace.clone()),
                ("controller_class".to_owned(), replica.class.clone()),
                ("controller_pod".to_owned(), replica.pod.clone()),
            ]),
        };
        to.constants()?;
        let state = |name: &str, help: &str, state: &str| {
            to.nginx(Opts::new(name, help).const_label("state", state))
        };
        Ok(Self {
            connections: to.gauge(state(
                "nginx_process_connections",
                "Client connections that are open.",
                "active",
            ))?,
            resting: to.gauge(Opts::new(
                "lockgate_connections_resting",
                "Client connections of HTTP/1 that have waited for their next request for seconds.",
            ))?,
            accepted: to.counter(state(
                "nginx_process_connections_total",
                "Client connections that were accepted.",
                "accepted",
            ))?,
            dropped: to.by(
                "reason",
                "lockgate_connections_dropped_total",
                "Client connections that we ended, by reason.",
            )?,
            refused: to.by(
                "reason",
                "lockgate_requests_refused_total",
                "Requests answered 503 because there was too much, by reason.",
            )?,
            log_lost: to.counter(Opts::new(
                "lockgate_access_log_lost_total",
                "Access-log lines dropped because standard output took none.",
            ))?,
            copies_lost: to.counter(Opts::new("lockgate_mirror_lost_total", COPIES_LOST))?,
            spans_lost: to.counter(Opts::new("lockgate_spans_lost_total", SPANS_LOST))?,
            challenges: to.counter(Opts::new(
                "lockgate_challenges_total",
                "HTTP-01 challenges that were answered.",
            ))?,
            orders: to.by(
                "result",
                "lockgate_certificate_orders_total",
                "Orders for certificates, by result.",
            )?,
            leader: to.gauge(
                to.nginx(
                    Opts::new("leader_election_status", "1 while this replica holds the lease.")
                        .const_label("name", replica.election.clone()),
                ),
            )?,
            config_age: to.float(Opts::new(
                "lockgate_config_age_seconds",
                "Seconds since the source of objects last answered.",
            ))?,
            swaps: to
                .counter(to.nginx(Opts::new("success", "Plans that were put into service.")))?,
            swapped_at: to.float(to.nginx(Opts::new(
                "config_last_reload_successful_timestamp_seconds",
                "When the present plan was put into service, seconds since 1970.",
            )))?,
            hash: to
                .float(to.nginx(Opts::new("config_hash", "Changes whenever the plan does.")))?,
            problems: to.add(IntGaugeVec::new(
                Opts::new("lockgate_problems", "What is wrong with objects, by object and reason."),
                &["kind", "namespace", "name", "reason"],
            )?)?,
            expiry: to.add(GaugeVec::new(
                to.nginx(Opts::new(
                    "ssl_expire_time_seconds",
                    "End of each served certificate, seconds since 1970.",
                )),
                &["namespace", "class", "host", "secret_name", "identifier"],
            )?)?,
            requests: Requests::new(&replica.counting, to.labels.clone().into_iter().collect()),
            acme: AcmeMetrics::new(&to)?,
            scrape: Mutex::default(),
            registry: to.registry,
        })
    }

    /// The meters of one worker for requests of a kind, to be kept: finding them takes a lock.
    pub fn request(&self, worker: usize, kind: Kind) -> Arc<RequestMeters> {
        self.requests.meters(worker, kind)
    }

    /// Counters of refused requests, to be kept: finding one takes a lock.
    pub fn refused(&self) -> Refused {
        let of = |reason| self.refused.with_label_values(&[reason]);
        Refused { memory: of("memory"), overload: of("overload") }
    }

    /// Forgets the series of Ingresses that are no longer ours.
    pub fn keep(&self, ours: &BTreeSet<ObjectName>) {
        self.requests.keep(ours);
    }

    /// Notes that a plan was put into service at `now`, in seconds since 1970.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn swapped(&self, now: i64) {
        self.swaps.inc();
        self.swapped_at.set(now as f64);
        self.hash.set(self.swaps.get() as f64);
    }

    /// Shows the present problems.
    pub fn problems(&self, problems: &[Problem]) {
        self.problems.reset();
        for it in problems {
            let labels = [it.kind.as_str(), &it.object.namespace, &it.object.name, it.reason];
            self.problems.with_label_values(&labels).inc();
        }
    }

    /// Shows the certificates that are served.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn certificates(&self, class: &str, served: impl IntoIterator<Item = Served>) {
        let served: Vec<Served> = served.into_iter().collect();
        self.acme.serve(served.iter().map(|it| (&*it.host, it.not_after)));
        self.expiry.reset();
        for it in served {
            let labels = [&*it.secret.namespace, class, &it.host, &it.secret.name, &it.serial];
            self.expiry.with_label_values(&labels).set(it.not_after as f64);
        }
    }

    /// Everything in Prometheus's text format, once `refresh` has brought the states up to date.
    pub fn page(&self, refresh: impl FnOnce()) -> String {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        refresh();
        self.render()
    }

    /// Everything in Prometheus's text format.
    pub fn render(&self) -> String {
        let families = self.registry.gather();
        let mut text = TextEncoder::new().encode_to_string(&families).unwrap_or_default();
        self.requests.write(&mut text);
        text
    }
}

/// Makes metrics and registers them.
struct Register {
    registry: Registry,
    /// On everything that ingress-nginx has.
    labels: HashMap<String, String>,
}

impl Register {
    /// Gives ingress-nginx's prefix and labels.
    fn nginx(&self, mut opts: Opts) -> Opts {
        opts.name = format!("{PREFIX}{}", opts.name);
        opts.const_labels.extend(self.labels.clone());
        opts
    }

    /// What is always 1.
    fn constants(&self) -> Result<(), prometheus::Error> {
        let build = Opts::new("build_info", "1; the labels say what was built.")
            .const_label("release", env!("CARGO_PKG_VERSION"))
            .const_label("build", "release")
            .const_label("repository", "lockgate");
        self.gauge(self.nginx(build))?.set(1);
        let good = "1: a plan that cannot be served never replaces one that can.";
        self.gauge(self.nginx(Opts::new("config_last_reload_successful", good)))?.set(1);
        Ok(())
    }

    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, opts: Opts) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(opts)?)
    }

    fn float(&self, opts: Opts) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::with_opts(opts)?)
    }

    fn counter(&self, opts: Opts) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::with_opts(opts)?)
    }

    /// A counter by one label.
    fn by(&self, label: &str, name: &str, help: &str) -> Result<IntCounterVec, prometheus::Error> {
        self.counters(Opts::new(name, help), &[label])
    }

    fn counters(&self, opts: Opts, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(opts, labels)?)
    }
}
