//! The task that sends spans.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::grpc::{Client, Failure};
use super::otlp;
use crate::metrics::Metrics;
use crate::model::plan::Plan;
use crate::model::trace::{Span, Tracing};

/// How often a batch is tried before it is dropped.
const TRIES: u32 = 5;
/// How long is waited after the first failure; twice as long after each that follows.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Takes up spans and sends them.
#[derive(Debug)]
pub struct Exporter {
    batches: mpsc::Receiver<Vec<Span>>,
    /// Spans of all batches that were handed over and are neither sent nor dropped.
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    spans: Vec<Span>,
    client: Client,
    /// Failures since the collector last took something.
    failures: u32,
}

impl Exporter {
    pub(super) fn new(
        batches: mpsc::Receiver<Vec<Span>>,
        waiting: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (spans, client) = (Vec::new(), Client::new());
        Self { batches, waiting, metrics, spans, client, failures: 0 }
    }

    /// Sends what comes, as the plan says, until nobody can hand over any more.
    pub async fn run(mut self, plans: watch::Receiver<Arc<Plan>>) {
        loop {
            let tracing = tracing(&plans);
            let most = tracing.batch.min(tracing.queue);
            let open = self.gather(most, tracing.delay).await;
            while !self.spans.is_empty() {
                let rest = self.spans.split_off(most.min(self.spans.len()));
                let batch = std::mem::replace(&mut self.spans, rest);
                self.send(&batch, &plans, open).await;
                self.waiting.fetch_sub(batch.len(), Relaxed);
                if open && self.spans.len() < most {
                    break;
                }
            }
            if !open {
                return;
            }
        }
    }

    /// Waits until there are enough for a message, or for long enough; `false` when no more will come.
    async fn gather(&mut self, most: usize, delay: Duration) -> bool {
        let mut until = (!self.spans.is_empty()).then(|| Instant::now() + delay);
        while self.spans.len() < most {
            tokio::select! {
                batch = self.batches.recv() => match batch {
                    Some(batch) => {
                        self.spans.extend(batch);
                        until.get_or_insert_with(|| Instant::now() + delay);
                    }
                    None => return false,
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        true
    }

    /// Sends a message, several times where that may help; at the end of everything once.
    async fn send(&mut self, batch: &[Span], plans: &watch::Receiver<Arc<Plan>>, open: bool) {
        let mut message: Option<(Arc<str>, Bytes)> = None;
        for tried in 1.. {
            let tracing = tracing(plans);
            let Some(host) = &tracing.collector else { break };
            // It may have another name by now.
            let message = match &mut message {
                Some((service, message)) if **service == *tracing.service => message.clone(),
                other => {
                    let fresh = Bytes::from(otlp::request(&tracing.service, batch));
                    *other = Some((tracing.service.as_ref().into(), fresh.clone()));
                    fresh
                }
            };
            match self.client.export(host, tracing.port, message).await {
                Ok(refused) => {
                    if std::mem::take(&mut self.failures) > 0 {
                        tracing::info!(%host, "the collector takes spans again");
                    }
                    self.metrics.spans_lost.inc_by(refused.min(batch.len() as u64));
                    return;
                }
                Err(Failure { text, again }) => {
                    if self.failures == 0 {
                        tracing::warn!(%host, port = tracing.port, error = %text, "no spans are sent");
                    }
                    self.failures = self.failures.saturating_add(1);
                    if !again || !open || tried >= TRIES {
                        break;
                    }
                    sleep(pause(self.failures)).await;
                }
            }
        }
        self.metrics.spans_lost.inc_by(batch.len() as u64);
    }
}

fn tracing(plans: &watch::Receiver<Arc<Plan>>) -> Tracing {
    plans.borrow().settings.tracing.clone()
}

/// How long is waited after so many failures in a row; a tenth more or less by chance, so that replicas do not
/// all come at once.
fn pause(failures: u32) -> Duration {
    let pause = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    pause.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        for (failures, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (u32::MAX, 30.0)] {
            let found = pause(failures).as_secs_f64() / seconds;
            assert!((0.89..=1.11).contains(&found), "{failures}: {found}");
        }
    }
}
