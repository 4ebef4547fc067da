//! What is counted of every request.
//!
//! Each worker has cells of its own for each kind of request, which nobody else writes: counting is plain
//! additions in one place of memory, whatever the other cores do. A scrape reads all of them and adds up.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Counting, PREFIX};
use crate::model::name::ObjectName;

/// Labels of everything that is counted by request, as ingress-nginx has them, in the order of their names.
const LABELS: [&str; 8] =
    ["canary", "host", "ingress", "method", "namespace", "path", "service", "status"];

/// What tells one kind of request from another.
#[expect(missing_docs, reason = "the names are the labels'")]
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Kind {
    pub canary: String,
    pub host: String,
    pub ingress: String,
    pub method: String,
    pub namespace: String,
    pub path: String,
    pub service: String,
    pub status: String,
}

impl Kind {
    fn ingress(&self) -> ObjectName {
        ObjectName::new(&*self.namespace, &*self.ingress)
    }

    /// As the flags want it.
    fn counted(mut self, counting: &Counting) -> Self {
        if counting.status_classes {
            self.status.truncate(1);
            self.status.push_str("xx");
        }
        if !counting.per_host {
            // To Prometheus an empty label is none.
            self.host.clear();
        }
        self
    }

    fn values(&self) -> [&str; 8] {
        let Self { canary, host, ingress, method, namespace, path, service, status } = self;
        [canary, host, ingress, method, namespace, path, service, status].map(String::as_str)
    }
}

/// All kinds of requests there were.
#[derive(Debug)]
pub(super) struct Requests {
    counting: Arc<Counting>,
    /// On everything: the labels of this replica, by name.
    replica: BTreeMap<String, String>,
    kinds: Mutex<Kinds>,
}

#[derive(Debug, Default)]
struct Kinds {
    known: BTreeMap<Kind, Known>,
    /// The Ingresses that are ours; `None` before the first plan.
    ours: Option<BTreeSet<ObjectName>>,
}

impl Kinds {
    fn is_kept(&self, kind: &Kind) -> bool {
        kind.ingress.is_empty() || self.ours.as_ref().is_none_or(|it| it.contains(&kind.ingress()))
    }
}

/// What is known of one kind.
#[derive(Debug)]
struct Known {
    /// Its labels as text.
    labels: Arc<str>,
    parts: Vec<Part>,
}

/// What one worker counted of one kind.
#[derive(Debug)]
struct Part {
    worker: usize,
    meters: Arc<RequestMeters>,
}

impl Requests {
    pub(super) fn new(counting: &Counting, replica: BTreeMap<String, String>) -> Self {
        Self { counting: Arc::new(counting.clone()), replica, kinds: Mutex::default() }
    }

    /// The meters of one worker for requests of a kind; the same ones whenever it asks.
    pub(super) fn meters(&self, worker: usize, kind: Kind) -> Arc<RequestMeters> {
        let kind = kind.counted(&self.counting);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if !kinds.is_kept(&kind) {
            // The last requests of an Ingress that is gone bring no series back.
            return Arc::new(RequestMeters::new(&self.counting));
        }
        let known = match kinds.known.entry(kind) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let labels = self.labels(new.key()).into();
                new.insert(Known { labels, parts: Vec::new() })
            }
        };
        if let Some(part) = known.parts.iter().find(|it| it.worker == worker) {
            return part.meters.clone();
        }
        let meters = Arc::new(RequestMeters::new(&self.counting));
        known.parts.push(Part { worker, meters: meters.clone() });
        meters
    }

    /// Forgets kinds of Ingresses that are no longer ours.
    pub(super) fn keep(&self, ours: &BTreeSet<ObjectName>) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.ours = Some(ours.clone());
        let mut known = std::mem::take(&mut kinds.known);
        known.retain(|kind, _| kinds.is_kept(kind));
        kinds.known = known;
    }

    /// Writes them in Prometheus's text format.
    pub(super) fn write(&self, to: &mut String) {
        // Reading and writing take long where there are many: nobody waits for that.
        let all: Vec<_> = {
            let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            let parts = |it: &Known| it.parts.iter().map(|it| it.meters.clone()).collect();
            kinds.known.values().map(|it| (it.labels.clone(), parts(it))).collect()
        };
        // Nothing but memory is written to.
        let _ = self.write_all(&all, to);
    }

    fn write_all(
        &self,
        kinds: &[(Arc<str>, Vec<Arc<RequestMeters>>)],
        to: &mut String,
    ) -> fmt::Result {
        if kinds.is_empty() {
            return Ok(());
        }
        head("requests", "counter", "Requests that were answered.", to)?;
        for (labels, parts) in kinds {
            let all = Histogram::sum(parts, &self.counting.times, Measure::RequestSeconds);
            writeln!(to, "{PREFIX}requests{{{labels}}} {}", all.count())?;
        }
        for measure in Measure::ALL {
            head(measure.name(), "histogram", measure.help(), to)?;
            for (labels, parts) in kinds {
                let buckets = measure.buckets(&self.counting);
                Histogram::sum(parts, buckets, measure).write(
                    measure.name(),
                    labels,
                    buckets,
                    to,
                )?;
            }
        }
        Ok(())
    }

    /// The labels of a kind, in the order of their names.
    fn labels(&self, kind: &Kind) -> String {
        let mut all: Vec<_> = LABELS.into_iter().zip(kind.values()).collect();
        all.extend(self.replica.iter().map(|(name, value)| (&**name, &**value)));
        all.sort_unstable();
        let mut text = String::new();
        for (name, value) in all {
            let comma = if text.is_empty() { "" } else { "," };
            let value = value.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"");
            let _ = write!(text, "{comma}{name}=\"{value}\"");
        }
        text
    }
}

fn head(name: &str, of: &str, help: &str, to: &mut String) -> fmt::Result {
    writeln!(to, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {of}")
}

/// What is measured of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Measure {
    RequestSeconds,
    ResponseSeconds,
    RequestBytes,
    ResponseBytes,
}

impl Measure {
    const ALL: [Self; 4] =
        [Self::RequestSeconds, Self::ResponseSeconds, Self::RequestBytes, Self::ResponseBytes];

    fn name(self) -> &'static str {
        match self {
            Self::RequestSeconds => "request_duration_seconds",
            Self::ResponseSeconds => "response_duration_seconds",
            Self::RequestBytes => "request_size",
            Self::ResponseBytes => "response_size",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::RequestSeconds => {
                "Seconds from the first byte of a request to the last of its answer."
            }
            Self::ResponseSeconds => "Seconds an endpoint took for its answer.",
            Self::RequestBytes => "Bytes of requests.",
            Self::ResponseBytes => "Bytes of answers.",
        }
    }

    fn buckets(self, counting: &Counting) -> &[f64] {
        match self {
            Self::RequestSeconds | Self::ResponseSeconds => &counting.times,
            Self::RequestBytes | Self::ResponseBytes => &counting.lengths,
        }
    }

    /// Where its cells are: one for each bucket, one for what is above all of them, and the sum.
    fn cells(self, counting: &Counting) -> std::ops::Range<usize> {
        let (times, lengths) = (counting.times.len() + 2, counting.lengths.len() + 2);
        let (begin, length) = match self {
            Self::RequestSeconds => (0, times),
            Self::ResponseSeconds => (times, times),
            Self::RequestBytes => (2 * times, lengths),
            Self::ResponseBytes => (2 * times + lengths, lengths),
        };
        begin..begin + length
    }
}

/// What one worker counts of one kind of request. Only that worker writes.
#[derive(Debug)]
pub struct RequestMeters {
    counting: Arc<Counting>,
    cells: Box<[AtomicU64]>,
}

impl RequestMeters {
    fn new(counting: &Arc<Counting>) -> Self {
        let cells = Measure::ResponseBytes.cells(counting).end;
        let cells = (0..cells).map(|_| AtomicU64::new(0)).collect();
        Self { counting: counting.clone(), cells }
    }

    /// Counts one request; times in seconds, lengths in bytes. No two threads do so at once.
    #[expect(clippy::cast_precision_loss, reason = "a histogram's sum is a float")]
    pub fn count(&self, seconds: f64, upstream: Option<f64>, received: u64, sent: u64) {
        self.observe(Measure::RequestSeconds, seconds);
        if let Some(upstream) = upstream {
            self.observe(Measure::ResponseSeconds, upstream);
        }
        self.observe(Measure::RequestBytes, received as f64);
        self.observe(Measure::ResponseBytes, sent as f64);
    }

    fn observe(&self, measure: Measure, value: f64) {
        let bucket = measure.buckets(&self.counting).partition_point(|it| *it < value);
        let cells = &self.cells[measure.cells(&self.counting)];
        if let (Some(bucket), Some(sum)) = (cells.get(bucket), cells.last()) {
            bucket.store(bucket.load(Relaxed) + 1, Relaxed);
            sum.store((f64::from_bits(sum.load(Relaxed)) + value).to_bits(), Relaxed);
        }
    }
}

/// What several workers measured, added up.
struct Histogram {
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn sum(parts: &[Arc<RequestMeters>], buckets: &[f64], measure: Measure) -> Self {
        let mut all = Self { counts: vec![0; buckets.len() + 1], sum: 0.0 };
        for part in parts {
            let cells = &part.cells[measure.cells(&part.counting)];
            let Some((sum, counts)) = cells.split_last() else { continue };
            all.sum += f64::from_bits(sum.load(Relaxed));
            for (all, one) in all.counts.iter_mut().zip(counts) {
                *all += one.load(Relaxed);
            }
        }
        all
    }

    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn write(&self, name: &str, labels: &str, buckets: &[f64], to: &mut String) -> fmt::Result {
        let mut below = 0;
        for (bucket, count) in buckets.iter().zip(&self.counts) {
            below += count;
            writeln!(to, "{PREFIX}{name}_bucket{{{labels},le=\"{bucket}\"}} {below}")?;
        }
        let count = self.count();
        writeln!(to, "{PREFIX}{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        writeln!(to, "{PREFIX}{name}_sum{{{labels}}} {}", self.sum)?;
        writeln!(to, "{PREFIX}{name}_count{{{labels}}} {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(ingress: &str) -> Kind {
        let [namespace, ingress, host] = ["shop", ingress, "a.test"].map(str::to_owned);
        let [method, path, status] = ["GET", "/", "200"].map(str::to_owned);
        Kind { host, ingress, method, namespace, path, status, ..Kind::default() }
    }

    fn text(requests: &Requests) -> String {
        let mut text = String::new();
        requests.write(&mut text);
        text
    }

    fn requests(counting: &Counting) -> Requests {
        Requests::new(counting, BTreeMap::from([("controller_pod".to_owned(), "p".to_owned())]))
    }

    #[test]
    fn what_workers_count_is_added_up() {
        let counting =
            Counting { times: vec![0.5, 7.0], lengths: vec![10.0], ..Counting::default() };
        let requests = requests(&counting);
        assert_eq!(text(&requests), "");
        requests.meters(0, kind("a\"b")).count(0.5, None, 10, 11);
        requests.meters(0, kind("a\"b")).count(0.6, Some(8.0), 10, 11);
        requests.meters(1, kind("a\"b")).count(9.0, Some(0.25), 5, 0);
        let labels = "canary=\"\",controller_pod=\"p\",host=\"a.test\",ingress=\"a\\\"b\",method=\"GET\",\
                      namespace=\"shop\",path=\"/\",service=\"\",status=\"200\"";
        let text = text(&requests);
        for (line, value) in [
            ("requests{L}", "3"),
            ("request_duration_seconds_bucket{L,le=\"0.5\"}", "1"),
            ("request_duration_seconds_bucket{L,le=\"7\"}", "2"),
            ("request_duration_seconds_bucket{L,le=\"+Inf\"}", "3"),
            ("request_duration_seconds_sum{L}", "10.1"),
            ("request_duration_seconds_count{L}", "3"),
            ("response_duration_seconds_bucket{L,le=\"7\"}", "1"),
            ("response_duration_seconds_sum{L}", "8.25"),
            ("response_duration_seconds_count{L}", "2"),
            ("request_size_bucket{L,le=\"10\"}", "3"),
            ("request_size_sum{L}", "25"),
            ("response_size_bucket{L,le=\"10\"}", "1"),
            ("response_size_count{L}", "3"),
        ] {
            let line = format!("{PREFIX}{} {value}\n", line.replace('L', labels));
            assert!(text.contains(&line), "{line}{text}");
        }
        assert_eq!(text.matches("# TYPE").count(), 5, "{text}");
    }

    #[test]
    fn series_of_a_deleted_ingress_go() {
        let requests = requests(&Counting::default());
        for name in ["old", "new", ""] {
            requests.meters(0, kind(name)).count(0.1, None, 10, 10);
        }
        requests.keep(&BTreeSet::from([ObjectName::new("shop", "new")]));
        let text = text(&requests);
        assert!(text.contains("ingress=\"new\"") && text.contains("ingress=\"\""), "{text}");
        assert!(!text.contains("ingress=\"old\""), "{text}");
        requests.meters(0, kind("old")).count(0.1, None, 10, 10);
        assert!(!self::text(&requests).contains("ingress=\"old\""), "it is gone");
    }

    #[test]
    fn requests_are_counted_as_the_flags_say() {
        for (per_host, status_classes, expected) in [
            (true, false, ["host=\"a.test\"", "status=\"200\""]),
            (false, false, ["host=\"\"", "status=\"200\""]),
            (true, true, ["host=\"a.test\"", "status=\"2xx\""]),
        ] {
            let counting = Counting { per_host, status_classes, ..Counting::default() };
            let requests = requests(&counting);
            requests.meters(0, kind("web")).count(0.1, None, 10, 10);
            let text = text(&requests);
            for label in expected {
                assert!(text.contains(label), "{per_host} {status_classes} {label}: {text}");
            }
        }
    }
}
