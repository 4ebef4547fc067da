//! Counts what is asked of the CA.

use std::sync::Arc;

use http::{Method, Uri};
use tokio::time::Instant;

use crate::metrics::{Endpoint, Metrics};

/// Where requests to one CA are counted; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    metrics: Arc<Metrics>,
    issuer: Arc<str>,
}

/// A request under way, however often it had to be sent; it is counted when this is dropped, whatever became of it.
#[derive(Debug)]
pub(super) struct Asked {
    meter: Meter,
    endpoint: Endpoint,
    since: Instant,
    /// The answer's; 0 until there is one.
    pub(super) status: u16,
}

impl Meter {
    /// For the CA with this directory.
    pub(super) fn new(metrics: Arc<Metrics>, issuer: &str) -> Self {
        Self { metrics, issuer: issuer.into() }
    }

    /// A request begins.
    pub(super) fn begin(&self, method: &Method, uri: &Uri) -> Asked {
        let endpoint = match *method {
            Method::HEAD => Endpoint::Nonce,
            Method::POST => Endpoint::Signed,
            _ if *uri == *self.issuer => Endpoint::Directory,
            _ => Endpoint::RenewalInfo,
        };
        Asked { meter: self.clone(), endpoint, since: Instant::now(), status: 0 }
    }

    /// A host could not be validated; `kind` is the type of the CA's problem.
    pub(super) fn failed(&self, kind: &str) {
        self.metrics.acme.failed(&self.issuer, kind);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Self { meter: Meter { metrics, issuer }, endpoint, since, status } = self;
        metrics.acme.asked(issuer, *endpoint, *status, since.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Replica;

    #[test]
    fn r_vis_each_request_is_counted_even_one_that_is_given_up() {
        let metrics = Arc::new(Metrics::new(&Replica::default()).expect("names differ"));
        let meter = Meter::new(metrics.clone(), "https://ca.test/dir");
        for (method, url, status) in [
            (Method::GET, "https://ca.test/dir", 200),
            (Method::GET, "https://ca.test/renewal/a.b", 200),
            (Method::HEAD, "https://ca.test/nonce", 200),
            (Method::POST, "https://ca.test/order", 429),
            (Method::POST, "https://ca.test/order", 0),
        ] {
            meter.begin(&method, &Uri::from_static(url)).status = status;
        }
        let text = metrics.render();
        for (endpoint, status) in [
            ("directory", 200),
            ("renewalInfo", 200),
            ("newNonce", 200),
            ("signed", 429),
            ("signed", 0),
        ] {
            let labels = format!(
                "{{endpoint=\"{endpoint}\",issuer=\"https://ca.test/dir\",status=\"{status}\"}} 1"
            );
            assert!(text.contains(&labels), "{labels} in {text}");
        }
    }
}
