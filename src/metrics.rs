//! Every metric: name, unit, labels, meaning.
//!
//! Names that ingress-nginx has are kept with their labels, so that dashboards, alerts and canary
//! tools go on working; ours begin with `lockgate_`. Labels come from objects, never from requests,
//! so the number of series is bounded by what is configured. Floor 0.

mod acme;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use prometheus::core::{AtomicU64, Collector, GenericLocalCounter};
use prometheus::local::LocalHistogram;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::model::name::ObjectName;
use crate::model::problem::Problem;

pub use acme::{AcmeMetrics, Ca, Certificate, Endpoint};

/// Labels of everything that is counted by request, as ingress-nginx has them.
const REQUEST: [&str; 8] =
    ["status", "method", "path", "namespace", "ingress", "service", "canary", "host"];
const LENGTHS: [f64; 7] = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];

const COPIES_LOST: &str =
    "Copies for mirrors that were not sent: too many under way, or too large.";

/// What is measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: prometheus::core::GenericCounterVec<AtomicU64>,
    request_seconds: HistogramVec,
    response_seconds: HistogramVec,
    request_bytes: HistogramVec,
    response_bytes: HistogramVec,
    /// Label values in use, by Ingress, so that those of a deleted one can go.
    used: Mutex<HashMap<ObjectName, BTreeSet<[String; 8]>>>,
    counting: Counting,
    /// Client connections that are open.
    pub connections: IntGauge,
    /// Client connections that were accepted.
    pub accepted: IntCounter,
    /// Client connections that we ended, by reason. Never begun: `accept` (it failed, mostly for want of
    /// files), `full`, `address` (too many of one), `memory`. No request yet: `handshake`,
    /// `handshake_timeout`, `handshakes` (too many at a time), `silent`, `passthrough` (no endpoint takes its TLS). Later: `slow_head`, `stalled` (the
    /// client takes nothing), `idle` (it was asked to go and did not), `resets` and `flood` (attacks over
    /// HTTP/2), `shed` (idle, and in the place of a new one), `memory` (idle while it is short).
    pub dropped: IntCounterVec,
    /// Requests answered 503 because there was too much, by reason: `overload` or `memory`.
    refused: IntCounterVec,
    /// Access-log lines that nobody took in time.
    pub log_lost: IntCounter,
    /// Copies for mirrors that were not sent: too many under way, or too large.
    pub copies_lost: IntCounter,
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

impl Counting {
    fn label(&self, labels: &mut [String; 8]) {
        let [status, .., host] = labels;
        if self.status_classes {
            status.truncate(1);
            status.push_str("xx");
        }
        if !self.per_host {
            // To Prometheus an empty label is none.
            host.clear();
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

/// What one kind of request is counted with, by one worker; written to the shared metrics by
/// [`RequestMeters::flush`], so that workers do not share a cache line for each request.
#[derive(Debug)]
pub struct RequestMeters {
    requests: GenericLocalCounter<AtomicU64>,
    request_seconds: LocalHistogram,
    response_seconds: LocalHistogram,
    request_bytes: LocalHistogram,
    response_bytes: LocalHistogram,
}

impl RequestMeters {
    /// Counts one request; times in seconds, lengths in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a histogram's sum is a float")]
    pub fn count(&self, seconds: f64, upstream: Option<f64>, received: u64, sent: u64) {
        self.requests.inc();
        self.request_seconds.observe(seconds);
        if let Some(upstream) = upstream {
            self.response_seconds.observe(upstream);
        }
        self.request_bytes.observe(received as f64);
        self.response_bytes.observe(sent as f64);
    }

    /// Adds what was counted to the shared metrics.
    pub fn flush(&self) {
        self.requests.flush();
        self.request_seconds.flush();
        self.response_seconds.flush();
        self.request_bytes.flush();
        self.response_bytes.flush();
    }
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
        let Counting { times, lengths, .. } = &replica.counting;
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
            requests: to.counters(
                to.nginx(Opts::new("requests", "Requests that were answered.")),
                &REQUEST,
            )?,
            request_seconds: to.histogram(
                "request_duration_seconds",
                "Seconds from the first byte of a request to the last of its answer.",
                times,
            )?,
            response_seconds: to.histogram(
                "response_duration_seconds",
                "Seconds an endpoint took for its answer.",
                times,
            )?,
            request_bytes: to.histogram("request_size", "Bytes of requests.", lengths)?,
            response_bytes: to.histogram("response_size", "Bytes of answers.", lengths)?,
            acme: AcmeMetrics::new(&to)?,
            scrape: Mutex::default(),
            used: Mutex::default(),
            counting: replica.counting.clone(),
            registry: to.registry,
        })
    }

    /// Meters for requests of one kind: `[status, method, path, namespace, ingress, service, canary,
    /// host]`.
    pub fn request(&self, ingress: &ObjectName, mut labels: [String; 8]) -> RequestMeters {
        self.counting.label(&mut labels);
        let values = labels.each_ref().map(String::as_str);
        let meters = RequestMeters {
            requests: self.requests.with_label_values(&values).local(),
            request_seconds: self.request_seconds.with_label_values(&values).local(),
            response_seconds: self.response_seconds.with_label_values(&values).local(),
            request_bytes: self.request_bytes.with_label_values(&values).local(),
            response_bytes: self.response_bytes.with_label_values(&values).local(),
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.entry(ingress.clone()).or_default().insert(labels);
        meters
    }

    /// Counters of refused requests, to be kept: finding one takes a lock.
    pub fn refused(&self) -> Refused {
        let of = |reason| self.refused.with_label_values(&[reason]);
        Refused { memory: of("memory"), overload: of("overload") }
    }

    /// Forgets the series of Ingresses that are no longer ours.
    pub fn keep(&self, ours: &BTreeSet<ObjectName>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|ingress, series| {
            let kept = ingress.name.is_empty() || ours.contains(ingress);
            if !kept {
                for labels in &*series {
                    let values = labels.each_ref().map(String::as_str);
                    let _ = self.requests.remove_label_values(&values);
                    for it in [
                        &self.request_seconds,
                        &self.response_seconds,
                        &self.request_bytes,
                        &self.response_bytes,
                    ] {
                        let _ = it.remove_label_values(&values);
                    }
                }
            }
            kept
        });
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
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
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
        opts.name = format!("nginx_ingress_controller_{}", opts.name);
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

    /// A histogram by request.
    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let common_opts = self.nginx(Opts::new(name, help));
        self.add(HistogramVec::new(
            HistogramOpts { common_opts, buckets: buckets.to_vec() },
            &REQUEST,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ingress: &str) -> [String; 8] {
        ["200", "GET", "/", "shop", ingress, "web", "", "a.test"].map(str::to_owned)
    }

    #[test]
    fn series_of_a_deleted_ingress_go() {
        let metrics = Metrics::new(&Replica::default()).expect("names differ");
        for name in ["old", "new"] {
            let meters = metrics.request(&ObjectName::new("shop", name), labels(name));
            meters.count(0.1, None, 10, 10);
            meters.flush();
        }
        metrics.keep(&BTreeSet::from([ObjectName::new("shop", "new")]));
        let text = metrics.render();
        assert!(text.contains("ingress=\"new\""), "{text}");
        assert!(!text.contains("ingress=\"old\""), "{text}");
    }

    #[test]
    fn requests_are_counted_as_the_flags_say() {
        for (per_host, status_classes, expected) in [
            (true, false, ["host=\"a.test\"", "status=\"200\""]),
            (false, false, ["host=\"\"", "status=\"200\""]),
            (true, true, ["host=\"a.test\"", "status=\"2xx\""]),
        ] {
            let times = vec![0.5, 7.0];
            let counting = Counting { per_host, status_classes, times, ..Counting::default() };
            let replica = Replica { counting, ..Replica::default() };
            let metrics = Metrics::new(&replica).expect("names differ");
            let meters = metrics.request(&ObjectName::new("shop", "web"), labels("web"));
            meters.count(0.1, None, 10, 10);
            meters.flush();
            let text = metrics.render();
            for label in expected.into_iter().chain(["le=\"7\""]) {
                assert!(text.contains(label), "{per_host} {status_classes} {label}: {text}");
            }
        }
    }
}
