//! The access log's way out: never blocks a worker.

use std::io::Write;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use crate::metrics::Metrics;

/// Batches that may wait for standard output; beyond them lines are dropped and counted.
const WAITING: usize = 256;

/// Takes batches of lines and writes them from one thread of its own.
#[derive(Clone, Debug)]
pub(super) struct LogSink(SyncSender<String>);

impl LogSink {
    /// Starts the thread, which ends when the last sink is gone.
    pub(super) fn start() -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (sender, batches) = sync_channel::<String>(WAITING);
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
                let mut out = std::io::stdout();
                for batch in batches {
                    // A reader that went away is nobody's fault here; the next may come.
                    let _ = out.write_all(batch.as_bytes()).and_then(|()| out.flush());
                }
            })?;
        Ok((Self(sender), thread))
    }

    /// Hands lines on, or drops and counts them when nobody takes them; `lines` is empty after.
    pub(super) fn write(&self, lines: &mut String, metrics: &Metrics) {
        let batch = std::mem::replace(lines, String::with_capacity(lines.capacity()));
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            self.0.try_send(batch)
        {
            metrics.log_lost.inc_by(batch.lines().count() as u64);
        }
    }
}
