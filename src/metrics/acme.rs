//! Metrics of certificates and of the CA.
//!
//! What is a state, not a count, is set anew for each scrape: series of what is gone go with it. All names
//! begin with `lockgate_`; times are seconds since 1970.

use std::collections::BTreeMap;

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

use super::Register;
use crate::model::name::ObjectName;

/// Where the certificate of one Secret stands.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    pub secret: &'a ObjectName,
    pub state: &'a str,
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    pub renew_at: Option<i64>,
    /// `ari`, `rule`, `backstop`.
    pub renew_source: &'a str,
}

/// What the CA is asked for, as far as it can be told without reading the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// Where everything else is.
    Directory,
    /// A nonce for the next signed request.
    Nonce,
    /// When a certificate should be renewed.
    RenewalInfo,
    /// All the rest: accounts, orders, challenges, certificates.
    Signed,
}

impl Endpoint {
    fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Nonce => "newNonce",
            Self::RenewalInfo => "renewalInfo",
            Self::Signed => "signed",
        }
    }
}

/// How the CA is, as the replica that speaks to it sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ca<'a> {
    /// The directory's URL.
    pub issuer: &'a str,
    /// Whether it answers.
    pub up: bool,
    /// Seconds by which our clock is ahead of its.
    pub skew: i64,
    /// Until when it asked to wait, by scope.
    pub limited: &'a BTreeMap<String, i64>,
    /// What may still be asked, by limit.
    pub budgets: &'a BTreeMap<&'static str, u64>,
}

/// What is measured of certificates and of the CA.
#[derive(Debug)]
pub struct AcmeMetrics {
    not_before: GaugeVec,
    not_after: GaugeVec,
    renew_at: GaugeVec,
    state: IntGaugeVec,
    served: GaugeVec,
    up: IntGaugeVec,
    limited: GaugeVec,
    budgets: IntGaugeVec,
    skew: Gauge,
    leads: IntGauge,
    failures: IntCounterVec,
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl AcmeMetrics {
    pub(super) fn new(to: &Register) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            to.add(GaugeVec::new(Opts::new(format!("lockgate_{name}"), help), labels)?)
        };
        let whole = |name: &str, help: &str, labels: &[&str]| {
            to.add(IntGaugeVec::new(Opts::new(format!("lockgate_{name}"), help), labels)?)
        };
        let secret = ["namespace", "secret"];
        Ok(Self {
            not_before: gauges(
                "acme_certificate_not_before_timestamp_seconds",
                "When the certificate in a managed Secret begins, seconds since 1970.",
                &secret,
            )?,
            not_after: gauges(
                "acme_certificate_not_after_timestamp_seconds",
                "When the certificate in a managed Secret ends, seconds since 1970.",
                &secret,
            )?,
            renew_at: gauges(
                "acme_certificate_renew_at_timestamp_seconds",
                "When it is renewed, seconds since 1970, and what says so: ari (the CA), rule, backstop.",
                &["namespace", "secret", "source"],
            )?,
            state: whole(
                "acme_certificate_state",
                "1 for the state a certificate is in; the other states have no series.",
                &["namespace", "secret", "state"],
            )?,
            served: gauges(
                "tls_certificate_not_after_timestamp_seconds",
                "When the certificate that a server name is shown ends, seconds since 1970.",
                &["sni"],
            )?,
            up: whole("acme_ca_up", "1 while the CA answers; the leader has it.", &["issuer"])?,
            limited: gauges(
                "acme_rate_limited_until_timestamp_seconds",
                "Until when the CA asked to wait, seconds since 1970.",
                &["issuer", "scope"],
            )?,
            budgets: whole(
                "acme_budget_remaining",
                "What we still allow ourselves to ask of the CA, by limit.",
                &["issuer", "limit"],
            )?,
            skew: to.float(Opts::new(
                "lockgate_acme_clock_skew_seconds",
                "Seconds by which our clock is ahead of the CA's.",
            ))?,
            leads: to.gauge(Opts::new(
                "lockgate_acme_is_leader",
                "1 for the replica that orders certificates.",
            ))?,
            failures: to.counters(
                Opts::new(
                    "lockgate_acme_validation_failures_total",
                    "Hosts that the CA could not validate, by the type of its problem.",
                ),
                &["issuer", "type"],
            )?,
            requests: to.counters(
                Opts::new(
                    "lockgate_acme_http_requests_total",
                    "Requests to the CA; status 0 for those without an answer.",
                ),
                &["issuer", "endpoint", "status"],
            )?,
            seconds: to.add(HistogramVec::new(
                HistogramOpts::new(
                    "lockgate_acme_http_request_duration_seconds",
                    "Seconds until the CA's answer was there.",
                ),
                &["issuer", "endpoint"],
            )?)?,
        })
    }

    /// Counts a host that the CA could not validate; `kind` is its problem's type, as `connection`.
    pub fn failed(&self, issuer: &str, kind: &str) {
        self.failures.with_label_values(&[issuer, known(kind, &VALIDATION)]).inc();
    }

    /// Counts a request to the CA; status 0 for one without an answer.
    pub fn asked(&self, issuer: &str, endpoint: Endpoint, status: u16, seconds: f64) {
        let endpoint = endpoint.as_str();
        let status = status.to_string();
        self.requests.with_label_values(&[issuer, endpoint, &status]).inc();
        self.seconds.with_label_values(&[issuer, endpoint]).observe(seconds);
    }

    /// Shows the present states. Only who speaks to the CA knows how it is.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn show<'a>(
        &self,
        leads: bool,
        certificates: impl IntoIterator<Item = Certificate<'a>>,
        ca: Option<Ca<'_>>,
    ) {
        for gone in [&self.not_before, &self.not_after, &self.renew_at, &self.limited] {
            gone.reset();
        }
        self.state.reset();
        for it in certificates {
            let labels = [&*it.secret.namespace, &*it.secret.name];
            self.state.with_label_values(&[labels[0], labels[1], it.state]).set(1);
            if let Some(begin) = it.not_before {
                self.not_before.with_label_values(&labels).set(begin as f64);
            }
            if let Some(end) = it.not_after {
                self.not_after.with_label_values(&labels).set(end as f64);
            }
            if let Some(at) = it.renew_at {
                let labels = [labels[0], labels[1], it.renew_source];
                self.renew_at.with_label_values(&labels).set(at as f64);
            }
        }
        self.leads.set(leads.into());
        self.up.reset();
        self.budgets.reset();
        self.skew.set(ca.map_or(0.0, |it| it.skew as f64));
        let Some(ca) = ca else { return };
        self.up.with_label_values(&[ca.issuer]).set(ca.up.into());
        for (scope, until) in ca.limited {
            self.limited.with_label_values(&[ca.issuer, scope]).set(*until as f64);
        }
        for (limit, left) in ca.budgets {
            let left = i64::try_from(*left).unwrap_or(i64::MAX);
            self.budgets.with_label_values(&[ca.issuer, limit]).set(left);
        }
    }

    /// Shows when what each server name is shown ends.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub(super) fn serve<'a>(&self, served: impl IntoIterator<Item = (&'a str, i64)>) {
        self.served.reset();
        for (name, end) in served {
            self.served.with_label_values(&[name]).set(end as f64);
        }
    }
}

/// Types of problems with a validation: RFC 8555 section 6.7.
const VALIDATION: [&str; 8] = [
    "caa",
    "connection",
    "dns",
    "incorrectResponse",
    "malformed",
    "rateLimited",
    "tls",
    "unauthorized",
];

/// A CA's word as a label: what it may make up is `other`.
fn known<'a>(word: &'a str, words: &[&'a str]) -> &'a str {
    if words.contains(&word) { word } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, Replica};
    use super::*;

    #[test]
    fn r_vis_states_are_those_of_now() {
        let metrics = Metrics::new(&Replica::default()).expect("names differ");
        let (a, b) = (ObjectName::new("shop", "a"), ObjectName::new("shop", "b"));
        let of = |secret, state| Certificate {
            secret,
            state,
            not_before: Some(1),
            not_after: Some(9),
            renew_at: Some(6),
            renew_source: "rule",
        };
        let limited = BTreeMap::from([("account".to_owned(), 7)]);
        let budgets = BTreeMap::from([("orders_3h", 240)]);
        let ca = Ca { issuer: "ca", up: false, skew: -3, limited: &limited, budgets: &budgets };
        metrics.acme.show(true, [of(&a, "Ready"), of(&b, "Backoff")], Some(ca));
        let text = metrics.render();
        for line in [
            "lockgate_acme_certificate_not_after_timestamp_seconds{namespace=\"shop\",secret=\"a\"} 9",
            "lockgate_acme_certificate_state{namespace=\"shop\",secret=\"b\",state=\"Backoff\"} 1",
            "lockgate_acme_certificate_renew_at_timestamp_seconds{namespace=\"shop\",secret=\"a\",source=\"rule\"} 6",
            "lockgate_acme_ca_up{issuer=\"ca\"} 0",
            "lockgate_acme_clock_skew_seconds -3",
            "lockgate_acme_budget_remaining{issuer=\"ca\",limit=\"orders_3h\"} 240",
            "lockgate_acme_rate_limited_until_timestamp_seconds{issuer=\"ca\",scope=\"account\"} 7",
            "lockgate_acme_is_leader 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
        metrics.acme.show(false, [of(&a, "Backoff")], None);
        let text = metrics.render();
        for gone in ["state=\"Ready\"", "secret=\"b\"", "acme_ca_up{", "orders_3h", "account"] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
    }

    #[test]
    fn r_vis_labels_are_ours_whatever_a_ca_says() {
        let metrics = Metrics::new(&Replica::default()).expect("names differ");
        for kind in ["dns", "made-up-1", "made-up-2"] {
            metrics.acme.failed("ca", kind);
        }
        metrics.acme.asked("ca", Endpoint::Signed, 429, 0.1);
        let text = metrics.render();
        let asked = "http_requests_total{endpoint=\"signed\",issuer=\"ca\",status=\"429\"} 1";
        assert!(text.contains(asked), "{text}");
        assert!(text.contains("failures_total{issuer=\"ca\",type=\"other\"} 2"), "{text}");
        assert!(text.contains("failures_total{issuer=\"ca\",type=\"dns\"} 1"), "{text}");
    }
}
