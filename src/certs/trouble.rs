//! Why a certificate could not be had, and when to try again.
//!
//! Whose fault it is decides how patient we are: each [`Class`] has its schedule. There is no state that
//! lasts for ever. Pure: spread and remaining time are arguments.

use super::limit::{Limited, Scope};
use crate::store::StoreError;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

/// Whose fault it is.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
pub enum Class {
    /// The CA is overloaded or down; everybody waits for one probe.
    A,
    /// A name could not be validated.
    B,
    /// A rate limit; what it is about waits.
    C,
    /// The CA will not issue until somebody changes something.
    D,
    /// The certificate that an order was to replace is none for that.
    E,
    /// Our own API server.
    F,
    /// The CA does not know the account.
    G,
    /// Our own hard stops; no request was made.
    H,
}

/// Why a certificate could not be had.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Trouble {
    /// The CA does not answer, or not with what RFC 8555 says.
    #[error("the CA does not answer: {text}")]
    Down {
        /// What was seen.
        text: String,
        /// Seconds it asks to wait, where it does.
        wait: Option<i64>,
    },
    /// The order is taken up again later: the CA has not finished.
    #[error("the CA has not finished: {0}")]
    Unfinished(String),
    /// The CA took none of the nonces it gave (RFC 8555 section 6.5), though each was used once.
    #[error("the CA takes none of its own nonces: {0}")]
    Nonces(String),
    /// The CA asks to wait.
    #[error("the CA asks to wait: {}", .0.text)]
    Limited(Limited),
    /// A name could not be validated: it does not point here, or something stands in the way.
    #[error("validation failed: {text}")]
    Invalid {
        /// What the CA saw.
        text: String,
        /// The names it was about.
        bad: Vec<String>,
    },
    /// The CA will not issue this until somebody changes something.
    #[error("the CA refuses: {text}")]
    Refused {
        /// Its words.
        text: String,
        /// The names it was about, where it says so.
        bad: Vec<String>,
    },
    /// The order named a certificate that it was to replace, and the CA will not have it so.
    #[error("the CA takes no replacement: {0}")]
    Replaces(String),
    /// The CA does not know the account.
    #[error("the CA does not know the account: {0}")]
    Account(String),
    /// What came is not what was ordered.
    #[error("the certificate that came cannot be used: {0}")]
    Unusable(String),
    /// Our own API server.
    #[error("the Secret cannot be written: {0}")]
    Store(#[from] StoreError),
    /// The ACME account's key.
    #[error("the ACME account's key cannot be used: {0}")]
    Key(String),
    /// A budget of ours is spent.
    #[error("{text}")]
    Budget {
        /// Which, and how it can be got round.
        text: String,
        /// When there is some again, in seconds since 1970.
        until: i64,
    },
    /// Our clock and the CA's are more than a day apart.
    #[error("nothing is ordered: this machine's clock is {0} s ahead of the CA's")]
    Clock(i64),
    /// The Secret turned out to belong to somebody else.
    #[error("the Secret is somebody else's")]
    Foreign,
    /// Another replica leads by now.
    #[error("another replica leads by now")]
    Deposed,
}

impl Trouble {
    /// Whose fault it is.
    pub fn class(&self) -> Class {
        match self {
            Self::Down { .. } | Self::Unfinished(_) | Self::Nonces(_) => Class::A,
            Self::Invalid { .. } | Self::Unusable(_) => Class::B,
            Self::Limited(_) => Class::C,
            Self::Refused { .. } => Class::D,
            Self::Replaces(_) => Class::E,
            Self::Account(_) => Class::G,
            Self::Store(_) | Self::Key(_) | Self::Foreign | Self::Deposed => Class::F,
            Self::Budget { .. } | Self::Clock(_) => Class::H,
        }
    }

    /// Whether it is one more in a row: waiting for others is not.
    pub fn is_attempt(&self) -> bool {
        matches!(self.class(), Class::B | Class::D)
    }

    /// Seconds to wait after this many failures in a row, this one included.
    ///
    /// `spread` lies between -1 and 1; `left` is what remains of the certificate that is shown.
    pub fn pause(&self, failures: u32, spread: f64, left: Option<i64>, now: i64) -> i64 {
        match self {
            // The second that has begun is not over.
            Self::Down { wait: Some(wait), .. } => (*wait).clamp(5, DAY) + 1,
            Self::Down { .. } | Self::Unfinished(_) => outage(failures, spread),
            // It did nothing, and is there: mostly the next one is good.
            Self::Nonces(_) => doubled(2, failures).min(30 * MINUTE),
            Self::Invalid { .. } | Self::Unusable(_) => {
                // Let's Encrypt's advice, and well within its five failures an hour.
                let pause = match failures {
                    0 | 1 => MINUTE,
                    2 => 10 * MINUTE,
                    3 => 100 * MINUTE,
                    _ => 12 * HOUR,
                };
                let most = left.map_or(12 * HOUR, |it| (it / 8).clamp(HOUR, 12 * HOUR));
                spread_over(pause.min(most), 0.1, spread)
            }
            Self::Limited(limited) => limited.until.saturating_sub(now).clamp(5, 7 * DAY),
            Self::Refused { .. } | Self::Account(_) => DAY,
            Self::Replaces(_) => 5,
            Self::Budget { until, .. } => (until - now).clamp(1, 7 * DAY),
            Self::Clock(_) => MINUTE,
            Self::Store(_) | Self::Key(_) | Self::Foreign | Self::Deposed => {
                doubled(5, failures).min(5 * MINUTE)
            }
        }
    }

    /// What of it waits: more than this one set of names?
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Limited(limited) => Some(&limited.scope),
            _ => None,
        }
    }

    /// The names it was about.
    pub fn bad(&self) -> &[String] {
        match self {
            Self::Invalid { bad, .. } | Self::Refused { bad, .. } => bad,
            _ => &[],
        }
    }

    /// The reason of the Event that tells of it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Down { .. } | Self::Unfinished(_) | Self::Nonces(_) => "CaUnavailable",
            Self::Limited(it) if it.page.is_some() => "Paused",
            Self::Limited(_) => "RateLimited",
            Self::Invalid { .. } | Self::Unusable(_) => "ValidationFailed",
            Self::Key(_) => "NotReady",
            Self::Refused { .. } | Self::Account(_) | Self::Budget { .. } => "Blocked",
            Self::Replaces(_) => "ReplacementRefused",
            Self::Store(_) => "SecretNotWritten",
            Self::Foreign => "SecretNotManaged",
            Self::Clock(_) => "ClockSkew",
            Self::Deposed => "Deposed",
        }
    }

    /// Whether it says anything about the names or the CA, so that its owner should hear of it.
    pub fn concerns_owner(&self) -> bool {
        !matches!(self, Self::Deposed | Self::Store(StoreError::Conflict(_)))
    }
}

/// How long a CA that is down is left alone: 30 s, doubling, to half an hour, a fifth more or less.
fn outage(failures: u32, spread: f64) -> i64 {
    spread_over(doubled(30, failures).min(30 * MINUTE), 0.2, spread)
}

fn doubled(first: i64, failures: u32) -> i64 {
    first << failures.saturating_sub(1).min(20)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most days")]
fn spread_over(pause: i64, part: f64, spread: f64) -> i64 {
    (pause as f64 * (1.0 + part * spread.clamp(-1.0, 1.0))).round() as i64
}

/// The CA as a whole: while it is down, one probe for the process, and everybody waits. Once a probe was
/// answered one order goes ahead; the others follow when the CA took it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Breaker {
    failures: u32,
    until: Option<i64>,
    text: String,
}

impl Breaker {
    /// The CA did not answer at `now`; further failures while it is open change nothing.
    pub(super) fn trip(&mut self, trouble: &Trouble, spread: f64, now: i64) {
        if self.until.is_some_and(|it| now < it) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + trouble.pause(self.failures, spread, None, now));
        self.text = trouble.to_string();
    }

    /// A probe was answered.
    pub(super) fn half_close(&mut self) {
        self.until = None;
    }

    /// The CA took an order, or refused it.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// How many orders may be under way.
    pub(super) fn room(&self, usual: usize) -> usize {
        match (self.until, self.failures) {
            (Some(_), _) => 0,
            (None, 0) => usual,
            (None, _) => 1,
        }
    }

    /// When it is probed next, where it is down.
    pub(super) fn until(&self) -> Option<i64> {
        self.until
    }

    /// Whether to probe it at `now`; a clock that was set back must not put that off.
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.until.is_some_and(|it| now >= it || it - now > DAY + 1)
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.until.map(|_| &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::name::ObjectName;

    fn down(wait: Option<i64>) -> Trouble {
        Trouble::Down { text: "gone".to_owned(), wait }
    }

    fn invalid() -> Trouble {
        Trouble::Invalid { text: String::new(), bad: Vec::new() }
    }

    #[test]
    fn r_bak_each_class_has_its_schedule() {
        let refused = Trouble::Refused { text: String::new(), bad: Vec::new() };
        let store = Trouble::Store(StoreError::Gone(ObjectName::default()));
        let limited = |until| {
            let page = None;
            Trouble::Limited(Limited { text: String::new(), scope: Scope::Set, until, page })
        };
        for (trouble, expected) in [
            (down(None), [30, 60, 120, 240, 480]),
            (down(Some(7)), [8; 5]),
            (down(Some(i64::MAX)), [DAY + 1; 5]),
            (Trouble::Nonces(String::new()), [2, 4, 8, 16, 32]),
            (invalid(), [60, 600, 6_000, 43_200, 43_200]),
            (limited(1_007), [7; 5]),
            (limited(i64::MAX), [7 * DAY; 5]),
            (refused, [DAY; 5]),
            (Trouble::Account(String::new()), [DAY; 5]),
            (store, [5, 10, 20, 40, 80]),
            (Trouble::Key(String::new()), [5, 10, 20, 40, 80]),
            (Trouble::Foreign, [5, 10, 20, 40, 80]),
        ] {
            let pauses = [1, 2, 3, 4, 5].map(|it| trouble.pause(it, 0.0, None, 1_000));
            assert_eq!(pauses, expected, "{trouble:?}");
        }
        for patient in [down(None), Trouble::Nonces(String::new())] {
            assert_eq!(patient.pause(u32::MAX, 0.0, None, 0), 1_800);
        }
        assert_eq!(Trouble::Foreign.pause(u32::MAX, 0.0, None, 0), 300);
    }

    #[test]
    fn r_bak_near_the_end_patience_is_shorter_but_never_less_than_an_hour() {
        for (left, expected) in
            [(None, 43_200), (Some(30 * DAY), 43_200), (Some(2 * DAY), 21_600), (Some(-5), 3_600)]
        {
            assert_eq!(invalid().pause(9, 0.0, left, 0), expected, "{left:?}");
        }
    }

    #[test]
    fn r_bak_waiting_for_others_is_no_attempt() {
        for (trouble, expected) in [
            (invalid(), true),
            (Trouble::Refused { text: String::new(), bad: Vec::new() }, true),
            (down(None), false),
            (Trouble::Foreign, false),
            (Trouble::Account(String::new()), false),
        ] {
            assert_eq!(trouble.is_attempt(), expected, "{trouble:?}");
        }
    }

    #[test]
    fn r_bak_one_probe_for_everybody_while_the_ca_is_down() {
        let mut breaker = Breaker::default();
        assert!(!breaker.is_due(0));
        for _ in 0..1_000 {
            breaker.trip(&down(None), 0.0, 100);
        }
        assert_eq!(breaker.until(), Some(130), "a thousand items failed, and it counts once");
        assert!(!breaker.is_due(129) && breaker.is_due(130));
        breaker.trip(&down(None), 0.0, 130);
        assert_eq!(breaker.until(), Some(190));
        assert!(breaker.is_due(190 - 2 * DAY), "the clock was set back");
        assert_eq!(breaker.room(8), 0);
        breaker.half_close();
        assert_eq!((breaker.until(), breaker.room(8)), (None, 1), "one goes ahead");
        breaker.trip(&down(None), 0.0, 200);
        assert_eq!(breaker.until(), Some(320), "a directory alone is no CA");
        breaker.close();
        assert_eq!((breaker.until(), breaker.text(), breaker.room(8)), (None, None, 8));
    }

    proptest! {
        /// At most two requests a minute in an outage, however many failures there are.
        #[test]
        fn r_bak_an_outage_costs_few_requests(failures: u32, spread in -1.0..1.0_f64) {
            let pause = outage(failures, spread);
            prop_assert!((24..=2_160).contains(&pause), "{}", pause);
        }

        /// Within the first hour at most three validations fail, with whatever luck.
        #[test]
        fn r_bak_few_validations_fail_in_an_hour(spread in -1.0..1.0_f64, left in -DAY..90 * DAY) {
            let (mut at, mut failures) = (0, 0);
            while at <= HOUR {
                failures += 1;
                at += invalid().pause(failures, spread, Some(left), at);
            }
            prop_assert!(failures <= 3, "{}", failures);
        }
    }
}
