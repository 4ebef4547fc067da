//! How many bytes a client may send over HTTP/2 that come to nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE
//! and the like, of which hyper counts none and each costs a look.
//!
//! Bytes that are read are unpaid until something accounts for them: a request, a piece of an answer, time.
//! HTTP/1 needs no such budget: there every byte belongs to a head or a body, and both have their limits.

use tokio::time::Instant;

use crate::proxy::io::Meter;

/// How many bytes may be unpaid. The connection's window of 1 MiB can arrive before anybody takes it; as much
/// again is for its frames and TLS's records.
pub(super) const MOST_UNPAID: u64 = 2 << 20;
/// What a request accounts for beside its head, in bytes: a stream's window of 128 KiB, which may come after we
/// have answered, and the frames around it.
pub(super) const REQUEST: u64 = 160 << 10;
/// What a piece of an answer accounts for, in bytes: WINDOW_UPDATE frames, two for each of its frames.
pub(super) const HANDED: u64 = 4 << 10;
/// What a second accounts for, in bytes: some 25 PINGs.
const SECOND: u64 = 1 << 10;

/// The budget of one connection.
pub(super) struct Budget {
    /// Up to when time has paid for what was read.
    paid: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// Whether far more was read than anything came of. Time pays, too, but it is looked at only then.
    pub(super) fn is_spent(&mut self, meter: &Meter) -> bool {
        if meter.unpaid() <= MOST_UNPAID {
            return false;
        }
        let now = Instant::now();
        let passed = u64::try_from((now - self.paid).as_millis()).unwrap_or(u64::MAX);
        meter.pay(passed.saturating_mul(SECOND) / 1000);
        self.paid = now;
        meter.unpaid() > MOST_UNPAID
    }
}
