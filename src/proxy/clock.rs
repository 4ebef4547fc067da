//! The time of day in the shapes of log lines, made once a tick rather than once a request.

use std::fmt::Write as _;

use jiff::Timestamp;

/// One moment, in UTC.
#[derive(Debug)]
pub(super) struct Clock {
    second: i64,
    /// `20/Nov/2026:10:00:00 +0000`
    pub(super) local: String,
    /// `2026-11-20T10:00:00+00:00`
    pub(super) iso8601: String,
    /// Seconds since 1970, with milliseconds.
    pub(super) seconds: String,
}

impl Clock {
    pub(super) fn at(now: Timestamp) -> Self {
        let mut clock = Self {
            second: i64::MIN,
            local: String::new(),
            iso8601: String::new(),
            seconds: String::new(),
        };
        clock.set(now);
        clock
    }

    /// Seconds since 1970.
    pub(super) fn unix(&self) -> i64 {
        self.second
    }

    pub(super) fn set(&mut self, now: Timestamp) {
        self.seconds.clear();
        let millis = now.as_millisecond();
        let _ = write!(self.seconds, "{}.{:03}", millis / 1000, millis % 1000);
        if self.second != now.as_second() {
            self.second = now.as_second();
            self.local = now.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            self.iso8601 = now.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_nginxs_shapes() {
        let clock = Clock::at(Timestamp::from_millisecond(1_795_168_800_007).expect("a time"));
        assert_eq!(clock.local, "20/Nov/2026:10:00:00 +0000");
        assert_eq!(clock.iso8601, "2026-11-20T10:00:00+00:00");
        assert_eq!(clock.seconds, "1795168800.007");
    }
}
