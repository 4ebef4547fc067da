//! How much one client may ask for.
//!
//! The rates are those of nginx's `limit_req` and `limit_conn`, with what ingress-nginx makes of its
//! annotations.

use super::network::Networks;

/// As the annotations of an Ingress have it; 0 stands for no limit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rates {
    /// `limit-rps`: requests a second.
    pub second: u32,
    /// `limit-rpm`: requests a minute.
    pub minute: u32,
    /// `limit-connections`: requests at a time.
    pub connections: u32,
    /// `limit-burst-multiplier`; `None` for [`Rates::BURST`].
    pub multiplier: Option<u32>,
    /// `limit-allowlist`: clients without these limits.
    pub exempt: Networks,
    /// `limit-rate`: bytes of an answer a second.
    pub bytes: u64,
    /// `limit-rate-after`: bytes that come before that counts.
    pub bytes_after: u64,
}

impl Rates {
    /// How many times the limit may come at once, where nothing is set.
    pub const BURST: u32 = 5;

    /// Whether clients are counted at all.
    pub fn counts_clients(&self) -> bool {
        self.second > 0 || self.minute > 0 || self.connections > 0
    }

    /// The limits of requests in time that are set: first that by the second.
    pub fn buckets(&self) -> [Option<Bucket>; 2] {
        let multiplier = self.multiplier.unwrap_or(Self::BURST);
        let bucket = |limit: u32, seconds: u32| {
            (limit > 0).then(|| Bucket {
                rate: u64::from(limit) * 1000 / u64::from(seconds),
                burst: limit.saturating_mul(multiplier).saturating_mul(1000),
            })
        };
        [bucket(self.second, 1), bucket(self.minute, 60)]
    }
}

/// A leaky bucket as nginx has it, in thousandths of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bucket {
    /// How much leaks in a second.
    pub rate: u64,
    /// How much it holds, beyond the one request that is always let in.
    pub burst: u32,
}

impl Bucket {
    /// What one more request makes of an excess that was noted so many milliseconds ago; `None` where it is
    /// one too many.
    pub fn after(self, excess: u32, millis: u64) -> Option<u32> {
        let leaked = self.rate.saturating_mul(millis) / 1000;
        let excess = (u64::from(excess) + 1000).saturating_sub(leaked);
        u32::try_from(excess).ok().filter(|it| *it <= self.burst)
    }
}

/// `limit-req-status-code` and `limit-conn-status-code`: what a client gets that asks for too much.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LimitStatuses {
    /// Too many requests.
    pub requests: u16,
    /// Too many at a time.
    pub connections: u16,
}

impl Default for LimitStatuses {
    fn default() -> Self {
        Self { requests: 503, connections: 503 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_make_nginxs_buckets() {
        for (second, minute, multiplier, expected) in [
            (0, 0, None, [None, None]),
            (5, 0, None, [Some((5000, 25_000)), None]),
            (5, 0, Some(1), [Some((5000, 5000)), None]),
            (5, 0, Some(0), [Some((5000, 0)), None]),
            // Whole thousandths, as in nginx.
            (0, 1, None, [None, Some((16, 5000))]),
            (10, 300, Some(3), [Some((10_000, 30_000)), Some((5000, 900_000))]),
            (u32::MAX, 0, None, [Some((u64::from(u32::MAX) * 1000, u32::MAX)), None]),
        ] {
            let rates = Rates { second, minute, multiplier, ..Rates::default() };
            let buckets = rates.buckets().map(|it| it.map(|it| (it.rate, it.burst)));
            assert_eq!(buckets, expected, "{second}/s {minute}/min {multiplier:?}");
        }
    }

    #[test]
    fn a_bucket_leaks_as_time_goes_by() {
        // Two a second, a burst of two.
        let bucket = Bucket { rate: 2000, burst: 2000 };
        for (excess, millis, expected) in [
            (0, 0, Some(1000)),
            (1000, 0, Some(2000)),
            (2000, 0, None),
            (2000, 499, None),
            (2000, 500, Some(2000)),
            (2000, 1000, Some(1000)),
            (2000, 60_000, Some(0)),
            (u32::MAX, 0, None),
            (2000, u64::MAX, Some(0)),
        ] {
            assert_eq!(bucket.after(excess, millis), expected, "{excess} {millis}");
        }
    }
}
