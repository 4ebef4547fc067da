//! Why a certificate could not be had, and when to try again.

use std::time::Duration;

use crate::store::StoreError;

/// Whose fault it is decides how patient we are. There is no state that lasts for ever.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Trouble {
    /// The CA does not answer, or not with what RFC 8555 says: it is overloaded or down.
    #[error("the CA does not answer: {0}")]
    Down(String),
    /// The CA asks to wait.
    #[error("the CA asks to wait: {text}")]
    Limited {
        /// What it says.
        text: String,
        /// For how long, where it says so.
        wait: Option<Duration>,
    },
    /// A name could not be validated: it does not point here, or something stands in the way.
    #[error("validation failed: {0}")]
    Invalid(String),
    /// The CA will not issue this until somebody changes something.
    #[error("the CA refuses: {0}")]
    Refused(String),
    /// What came is not what was ordered.
    #[error("the certificate that came cannot be used: {0}")]
    Unusable(String),
    /// Our own API server.
    #[error("the Secret cannot be written: {0}")]
    Store(#[from] StoreError),
    /// The Secret turned out to belong to somebody else.
    #[error("the Secret is somebody else's")]
    Foreign,
    /// Another replica leads by now.
    #[error("another replica leads by now")]
    Deposed,
}

impl Trouble {
    /// How long to wait after this many failures in a row.
    pub fn pause(&self, failures: u32) -> Duration {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3600);
        let doubled = |first: Duration, most: Duration| {
            first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most)
        };
        match self {
            Self::Down(_) => doubled(MINUTE / 2, MINUTE * 30),
            Self::Limited { wait, .. } => {
                wait.unwrap_or(HOUR).clamp(Duration::from_secs(5), HOUR * 24 * 7)
            }
            // Let's Encrypt's advice, and well within its five failures an hour.
            Self::Invalid(_) | Self::Unusable(_) => match failures {
                0 | 1 => MINUTE,
                2 => MINUTE * 10,
                3 => MINUTE * 100,
                _ => HOUR * 12,
            },
            Self::Refused(_) => HOUR * 24,
            Self::Store(_) | Self::Foreign | Self::Deposed => {
                doubled(Duration::from_secs(5), MINUTE * 5)
            }
        }
    }

    /// Whether it says anything about the names or the CA, so that its owner should hear of it.
    pub fn concerns_owner(&self) -> bool {
        !matches!(self, Self::Deposed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_has_an_end() {
        let invalid = Trouble::Invalid(String::new());
        let pauses: Vec<u64> = (1..6).map(|it| invalid.pause(it).as_secs() / 60).collect();
        assert_eq!(pauses, [1, 10, 100, 720, 720]);
        assert_eq!(Trouble::Down(String::new()).pause(40), Duration::from_secs(1800));
        for (seconds, expected) in [(0, 5), (7, 7), (u64::MAX, 604_800)] {
            let wait = Some(Duration::from_secs(seconds));
            let limited = Trouble::Limited { text: String::new(), wait };
            assert_eq!(limited.pause(9), Duration::from_secs(expected));
        }
    }
}
