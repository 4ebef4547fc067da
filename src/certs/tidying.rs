//! When the records of orders are looked through for what earlier leaders left behind.

use std::time::Duration;

use tokio::time::Instant;

/// Before it is tried again for the first time; doubled with each failure.
const FIRST: Duration = Duration::from_secs(5);
/// Longest time before it is tried again.
const LONGEST: Duration = Duration::from_secs(640);

/// Once while this replica leads, and again until it went well.
#[derive(Debug)]
pub(super) struct Tidying {
    /// From when on it is to be done, while it was not.
    from: Option<Instant>,
    pause: Duration,
}

impl Tidying {
    /// To be done from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        Self { from: Some(now), pause: FIRST }
    }

    /// Whether to begin now; then it counts as done until it [failed](Self::failed).
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.from.take_if(|from| *from <= now).is_some()
    }

    /// It did not go well: says how long until it is tried again.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let pause = self.pause;
        self.from = Some(now + pause);
        self.pause = (pause * 2).min(LONGEST);
        pause
    }

    /// How long until it is to be done, if it is.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.from.map(|from| from.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_once_and_again_after_failures() {
        let mut now = Instant::now();
        let mut tidying = Tidying::new(now);
        for seconds in [5, 10, 20, 40, 80, 160, 320, 640, 640] {
            assert!(tidying.begin(now) && !tidying.begin(now), "once");
            assert_eq!(tidying.left(now), None);
            assert_eq!(tidying.failed(now), Duration::from_secs(seconds));
            assert!(!tidying.begin(now));
            assert_eq!(tidying.left(now), Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert!(tidying.begin(now));
    }
}
