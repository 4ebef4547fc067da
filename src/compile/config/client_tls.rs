//! Keys about TLS towards clients.

use std::time::Duration;

use super::{Key, key, truth};
use crate::model::ciphers::{Ciphers, CiphersError};
use crate::model::upstream::TlsVersions;
use crate::model::value::{duration, positive_seconds};

const UNREAD_CIPHERS: &str =
    "a list without @SECLEVEL and SUITEB, which have no effect; the rest holds";
const NO_CIPHERS: &str = "a list with a suite of ours, which are ECDHE with AES-GCM and CHACHA20-POLY1305; \
                          all of them are offered";
const TIME: &str = "a time such as 10m or 1h";
/// Longest life of a session; the keys of tickets live twice as long.
const LONGEST_SESSION: Duration = Duration::from_secs(12 * 3600);

pub(super) const KEYS: &[Key] = &[
    key("ssl-protocols", "Versions of TLS: TLSv1.2 and TLSv1.3.", |value, it| {
        let versions = TlsVersions::parse(value);
        it.tls.versions = versions.ok_or("a list with TLSv1.2 or TLSv1.3; both are spoken")?;
        let known = |it: &str| matches!(it, "TLSv1.2" | "TLSv1.3");
        let all = value.split_whitespace().all(known);
        all.then_some(()).ok_or("a list of TLSv1.2 and TLSv1.3 alone; no other one is spoken")
    }),
    key(
        "ssl-ciphers",
        "Suites of TLS 1.2, as OpenSSL lists them; the order is ours.",
        |value, it| {
            if value.is_empty() {
                return Ok(());
            }
            match Ciphers::parse(value) {
                Ok(ciphers) => it.tls.ciphers = ciphers,
                Err(CiphersError::Partly(ciphers)) => {
                    it.tls.ciphers = ciphers;
                    return Err(UNREAD_CIPHERS);
                }
                Err(CiphersError::None) => return Err(NO_CIPHERS),
            }
            Ok(())
        },
    ),
    key(
        "ssl-session-tickets",
        "Let clients keep sealed sessions; without, we keep them.",
        |value, it| {
            it.tls.resumption.tickets = truth(value)?;
            Ok(())
        },
    ),
    key("ssl-session-cache", "Keep sessions for clients without tickets.", |value, it| {
        it.tls.resumption.cache = truth(value)?;
        Ok(())
    }),
    key("ssl-session-timeout", "How long a session can be resumed, at most 12h.", |value, it| {
        let time = duration(value).or_else(|| positive_seconds(value));
        let time = time.filter(|it| *it >= Duration::from_secs(1)).ok_or(TIME)?;
        it.tls.session_timeout = time.min(LONGEST_SESSION);
        let fits = time <= LONGEST_SESSION;
        fits.then_some(()).ok_or("at most 12h, which holds")
    }),
    key("ssl-reject-handshake", "Shake hands for names of hosts alone.", |value, it| {
        // Who means it and cannot write it is better served by nobody than by everybody.
        it.tls.reject_unknown = truth(value).unwrap_or(true);
        truth(value).map(|_| ()).map_err(|_| "true or false; true holds")
    }),
    key(
        "proxy-stream-timeout",
        "How long nothing may move in TLS, or a port, that is handed on.",
        |value, it| {
            let time = duration(value).or_else(|| positive_seconds(value));
            it.tls.stream_timeout = time.filter(|it| !it.is_zero()).ok_or(TIME)?;
            Ok(())
        },
    ),
    key("use-http2", "Offer HTTP/2 on HTTPS.", |value, it| {
        it.tls.h2 = truth(value)?;
        Ok(())
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::client_tls::{Resumption, TlsSettings};
    use crate::model::settings::Settings;

    fn read(key: &str, value: &str) -> (Settings, bool) {
        let mut settings = Settings::default();
        let key = KEYS.iter().find(|it| it.name == key).expect("a key");
        let read = key.read(value, &mut settings);
        (settings, read.is_ok())
    }

    #[test]
    fn keys_of_handshakes_are_read() {
        let usual = TlsSettings::default;
        let ciphers = |list| {
            let ciphers = Ciphers::parse(list).expect("a list");
            TlsSettings { ciphers, ..usual() }
        };
        let versions = |tls12, tls13| TlsVersions { tls12, tls13 };
        let resumption = |tickets, cache| Resumption { tickets, cache };
        let seconds = Duration::from_secs;
        for (key, value, good, expected) in [
            (
                "ssl-protocols",
                "TLSv1.3",
                true,
                TlsSettings { versions: versions(false, true), ..usual() },
            ),
            (
                "ssl-protocols",
                "TLSv1.2",
                true,
                TlsSettings { versions: versions(true, false), ..usual() },
            ),
            (
                "ssl-protocols",
                "TLSv1 TLSv1.3",
                false,
                TlsSettings { versions: versions(false, true), ..usual() },
            ),
            ("ssl-protocols", "TLSv1.1", false, usual()),
            ("ssl-ciphers", "", true, usual()),
            ("ssl-ciphers", "HIGH:!aNULL:!MD5", true, usual()),
            ("ssl-ciphers", "ECDHE+AESGCM:DHE+AESGCM", true, ciphers("ECDHE+AESGCM")),
            ("ssl-ciphers", "AESGCM@SECLEVEL=1", false, ciphers("ECDHE+AESGCM")),
            ("ssl-ciphers", "AES128-SHA", false, usual()),
            ("ssl-session-tickets", "true", true, usual()),
            (
                "ssl-session-tickets",
                "false",
                true,
                TlsSettings { resumption: resumption(false, true), ..usual() },
            ),
            (
                "ssl-session-cache",
                "false",
                true,
                TlsSettings { resumption: resumption(true, false), ..usual() },
            ),
            ("ssl-session-tickets", "no", false, usual()),
            (
                "ssl-session-timeout",
                "1h",
                true,
                TlsSettings { session_timeout: seconds(3600), ..usual() },
            ),
            (
                "ssl-session-timeout",
                "1d",
                false,
                TlsSettings { session_timeout: seconds(43_200), ..usual() },
            ),
            ("ssl-session-timeout", "0", false, usual()),
            ("ssl-reject-handshake", "true", true, TlsSettings { reject_unknown: true, ..usual() }),
            ("ssl-reject-handshake", "yes", false, TlsSettings { reject_unknown: true, ..usual() }),
            ("ssl-reject-handshake", "false", true, usual()),
            ("use-http2", "false", true, TlsSettings { h2: false, ..usual() }),
            ("use-http2", "off", false, usual()),
            (
                "proxy-stream-timeout",
                "1h",
                true,
                TlsSettings { stream_timeout: seconds(3600), ..usual() },
            ),
            ("proxy-stream-timeout", "0s", false, usual()),
        ] {
            let (settings, read) = read(key, value);
            assert_eq!((settings.tls, read), (expected, good), "{key}: {value}");
        }
    }
}
