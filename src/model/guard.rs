//! Who may ask for a route, with everything looked up.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::access::{AuthUrl, CacheTimes};
use super::htpasswd::Users;
use super::network::Networks;
use super::phrase::Phrase;

/// The checks in front of a route.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Guard {
    /// Who may not ask; looked at first.
    pub deny: Option<Networks>,
    /// Who may: nobody else does.
    pub allow: Option<Networks>,
    /// One check that passes is enough.
    pub any: bool,
    /// Who gives a password.
    pub basic: Option<Basic>,
    /// Somebody else who decides.
    pub judge: Option<Arc<Judge>>,
}

/// Passwords by RFC 7617.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Basic {
    /// The value of `WWW-Authenticate`.
    pub challenge: HeaderValue,
    /// Who has one.
    pub users: Arc<Users>,
}

impl Basic {
    /// A challenge for a realm, which RFC 9110 section 11.5 has in quotes; `None` for one that fits no
    /// header field.
    pub fn challenge(realm: &str) -> Option<HeaderValue> {
        let mut quoted = String::new();
        for it in realm.chars() {
            if matches!(it, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(it);
        }
        HeaderValue::try_from(format!("Basic realm=\"{quoted}\"")).ok()
    }
}

/// An external judge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judge {
    /// Where it is asked.
    pub url: AuthUrl,
    /// With what; `None` for GET, of which it is told less.
    pub method: Option<Method>,
    /// Where those are sent that it does not know.
    pub signin: Option<Phrase>,
    /// What of its answer the endpoint gets, in place of what the client sent.
    pub response_headers: Vec<HeaderName>,
    /// What it is told to send people back to.
    pub request_redirect: Phrase,
    /// What else it is told.
    pub headers: Vec<(HeaderName, Phrase)>,
    /// Whether its cookies reach the client with every answer, whatever its status.
    pub always_set_cookie: bool,
    /// Whether and how its answers are remembered.
    pub cache: Option<Cache>,
}

/// How a judge's answers are remembered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cache {
    /// What requests have in common that get one answer.
    pub key: Phrase,
    /// For how long.
    pub times: CacheTimes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_stays_within_its_quotes() {
        for (realm, expected) in [
            ("", Some("Basic realm=\"\"")),
            ("Staff only", Some("Basic realm=\"Staff only\"")),
            ("a \"b\" \\", Some("Basic realm=\"a \\\"b\\\" \\\\\"")),
            ("a\nb", None),
        ] {
            let found = Basic::challenge(realm);
            assert_eq!(found, expected.map(HeaderValue::from_static), "{realm:?}");
        }
    }
}
