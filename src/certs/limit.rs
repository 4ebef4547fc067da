//! What a CA's rate limit is about, and until when: RFC 8555 section 6.6 gives both as prose.
//!
//! The sentences are those of Boulder, which runs Let's Encrypt; of others only the header is understood.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Where nothing says how long, in seconds.
const UNSAID: i64 = 3600;
/// Where a person has to lift it.
const PAUSED: i64 = 86_400;
/// No limit is believed to last longer.
const MOST: i64 = 7 * 86_400;

/// A limit that was hit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limited {
    /// The CA's words.
    pub text: String,
    /// What waits.
    pub scope: Scope,
    /// Until when, in seconds since 1970.
    pub until: i64,
    /// The page on which a person lifts it.
    pub page: Option<String>,
}

/// What a limit is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// Everything the account orders.
    Account,
    /// All names under a registered domain.
    Domain(String),
    /// This set of names.
    Set,
    /// All sets with this name.
    Name(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account => f.write_str("account"),
            Self::Domain(name) => write!(f, "domain:{name}"),
            Self::Set => f.write_str("set"),
            Self::Name(name) => write!(f, "name:{name}"),
        }
    }
}

/// Reads a refusal at `now`; `wait` is what its `Retry-After` says, in seconds.
pub(super) fn read(text: String, wait: Option<i64>, now: i64) -> Limited {
    let page = page(&text).filter(|_| wait.is_none());
    let until = match wait {
        // The second that has begun is not over.
        Some(wait) => now.saturating_add(wait.max(0)).saturating_add(1),
        None if page.is_some() => now + PAUSED,
        None => date(&text).unwrap_or(now + UNSAID),
    };
    let until = until.clamp(now + 1, now + MOST);
    Limited { scope: scope(&text), until, page, text }
}

fn scope(text: &str) -> Scope {
    let lower = text.to_ascii_lowercase();
    let name = || text.split('"').nth(1).map(str::to_ascii_lowercase);
    let holds = |it: &str| lower.contains(it);
    if holds("exact set") || holds("duplicate certificate") {
        return Scope::Set;
    }
    if holds("failed authorizations") || holds("authorization failures") {
        return name().map_or(Scope::Set, Scope::Name);
    }
    if holds("certificates") && holds("already issued for") {
        return name().map_or(Scope::Set, Scope::Domain);
    }
    if page(text).is_some() {
        // What is paused is some of the names, and the next set may have none of them.
        return Scope::Set;
    }
    Scope::Account
}

/// The address of a page that lifts a pause.
fn page(text: &str) -> Option<String> {
    let begin = text.find("https://")?;
    let address = text[begin..].split([' ', '"', '\'', '<', '>', ')', ',']).next()?;
    let address = address.trim_end_matches('.');
    address.contains("unpause").then(|| address.to_owned())
}

/// `retry after 2026-01-02 03:04:05 UTC`
fn date(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once("retry after ")?;
    let moment: DateTime = rest.get(..19)?.replacen(' ', "T", 1).parse().ok()?;
    Some(moment.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_323_045;

    #[test]
    fn r_bak_a_limit_says_what_waits() {
        for (text, expected) in [
            ("too many new orders (300) from this account in the last 3h0m0s", Scope::Account),
            (
                "too many new registrations (10) from this IP address in the last 3h0m0s",
                Scope::Account,
            ),
            (
                "too many certificates (50) already issued for \"example.org\" in the last 168h0m0s",
                Scope::Domain("example.org".to_owned()),
            ),
            (
                "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
                Scope::Set,
            ),
            (
                "too many failed authorizations (5) for \"a.Example.org\" in the last 1h0m0s",
                Scope::Name("a.example.org".to_owned()),
            ),
            ("slow down", Scope::Account),
            ("too many failed authorizations recently", Scope::Set),
        ] {
            assert_eq!(read(text.to_owned(), None, NOW).scope, expected, "{text}");
        }
    }

    #[test]
    fn r_bak_a_limit_lasts_as_long_as_the_ca_says() {
        let dated = "too many new orders, retry after 2026-01-02 04:04:05 UTC: see https://ca.test";
        for (text, wait, expected) in [
            (dated, Some(7), 8),
            (dated, None, 3_600),
            ("slow down", None, 3_600),
            ("slow down", Some(i64::MAX), MOST),
            ("slow down", Some(-5), 1),
            ("retry after 1970-01-01 00:18:15 UTC", None, 1),
            ("retry after é2026-01-02 04:04:05", None, 3_600),
        ] {
            assert_eq!(read(text.to_owned(), wait, NOW).until - NOW, expected, "{text} {wait:?}");
        }
    }

    #[test]
    fn r_bak_a_pause_gives_the_page_that_lifts_it() {
        let text = "Your account is temporarily prevented from requesting certificates for a.test and \
                    possibly others. Please visit: https://portal.ca.test/sfe/v1/unpause?jwt=abc.def";
        let limited = read(text.to_owned(), None, NOW);
        assert_eq!(
            limited.page.as_deref(),
            Some("https://portal.ca.test/sfe/v1/unpause?jwt=abc.def")
        );
        assert_eq!(limited.until - NOW, PAUSED);
        assert_eq!(read("see https://ca.test/limits".to_owned(), None, NOW).page, None);
    }
}
