//! The way of spans to a collector.
//!
//! Floor 2. Workers hand them over in batches and never wait: what finds no room is dropped and counted.
//! One task sends them, by OTLP over gRPC.

mod export;
mod grpc;
mod otlp;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::model::trace::Span;

pub use export::Exporter;

/// Batches that may wait to be taken up.
const BATCHES: usize = 1024;

/// Where workers leave spans.
#[derive(Clone, Debug)]
pub struct Sink {
    batches: mpsc::Sender<Vec<Span>>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// A sink, and who takes what is left there.
pub fn queue(metrics: Arc<Metrics>) -> (Sink, Exporter) {
    let (sender, batches) = mpsc::channel(BATCHES);
    let waiting = Arc::<AtomicUsize>::default();
    let exporter = Exporter::new(batches, waiting.clone(), metrics.clone());
    (Sink { batches: sender, waiting, metrics }, exporter)
}

impl Sink {
    /// Hands spans over, as long as no more than `most` wait then; `spans` is empty after.
    pub fn hand_over(&self, spans: &mut Vec<Span>, most: usize) {
        let room = most.saturating_sub(self.waiting.load(Relaxed));
        let lost = spans.len().saturating_sub(room);
        spans.truncate(room);
        self.metrics.spans_lost.inc_by(lost as u64);
        if spans.is_empty() {
            return;
        }
        let batch = std::mem::take(spans);
        let many = batch.len();
        self.waiting.fetch_add(many, Relaxed);
        if self.batches.try_send(batch).is_err() {
            self.waiting.fetch_sub(many, Relaxed);
            self.metrics.spans_lost.inc_by(many as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Replica;
    use crate::model::trace::Context;

    fn span() -> Span {
        Span {
            context: Context { trace: [1; 16], span: [2; 8], sampled: true },
            parent: None,
            state: "".into(),
            name: "/".into(),
            began: 1,
            ended: 2,
            attributes: Vec::new(),
            failed: false,
        }
    }

    #[test]
    fn no_more_wait_than_may() {
        let metrics = Arc::new(Metrics::new(&Replica::default()).expect("metrics"));
        let (sink, exporter) = queue(metrics.clone());
        for (handed, most, lost) in [(3, 5, 0), (3, 5, 1), (1, 5, 2), (2, 7, 2), (1, 0, 3)] {
            let mut spans = vec![span(); handed];
            sink.hand_over(&mut spans, most);
            assert_eq!((spans.len(), metrics.spans_lost.get()), (0, lost), "{handed} of {most}");
        }
        drop(exporter);
        sink.hand_over(&mut vec![span(); 4], 100);
        assert_eq!(metrics.spans_lost.get(), 7);
    }
}
