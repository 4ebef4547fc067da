//! Who may ask: what annotations and the ConfigMap say of it.
//!
//! What this comes to for a route, with Secrets and ConfigMaps looked up, is a
//! [`Guard`](super::guard::Guard).

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::host::Authority;
use super::network::Networks;
use super::phrase::{Phrase, Word};
use super::value::entries_of;

/// Who may ask. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {
    /// `allowlist-source-range`
    pub allow: Option<Networks>,
    /// `whitelist-source-range`, its older name, which yields to it.
    pub allow_older: Option<Networks>,
    /// `denylist-source-range`
    pub deny: Option<Networks>,
    /// `satisfy: any`: one check that passes is enough.
    pub any: bool,
    /// `auth-type: basic`
    pub basic: bool,
    /// `auth-secret`: the Secret with the passwords, as it is written there.
    pub secret: Option<Box<str>>,
    /// `auth-secret-type: auth-map`: each entry is a user; else one entry is a file of them.
    pub map: Option<bool>,
    /// `auth-realm`
    pub realm: Option<Box<str>>,
    /// `auth-…`
    pub judge: External,
    /// `enable-global-auth: "false"`
    pub no_global: bool,
}

/// An external judge, as annotations or, for all Ingresses, the ConfigMap's `global-auth-…` have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct External {
    /// `auth-url`
    pub url: Option<AuthUrl>,
    /// `auth-method`
    pub method: Option<Method>,
    /// `auth-signin`
    pub signin: Option<Box<str>>,
    /// `auth-signin-redirect-param`
    pub signin_param: Option<Box<str>>,
    /// `auth-response-headers`
    pub response_headers: Vec<HeaderName>,
    /// `auth-request-redirect`
    pub request_redirect: Option<Phrase>,
    /// `auth-proxy-set-headers`: a ConfigMap, as it is written there.
    pub set_headers: Option<Box<str>>,
    /// `auth-always-set-cookie`
    pub always_set_cookie: Option<bool>,
    /// `auth-cache-key`
    pub cache_key: Option<Phrase>,
    /// `auth-cache-duration`
    pub cache_times: Option<CacheTimes>,
}

/// The URL a judge is asked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthUrl {
    /// Over TLS.
    pub https: bool,
    /// Host and perhaps port.
    pub authority: Phrase,
    /// Path and query.
    pub target: Phrase,
}

impl AuthUrl {
    /// Reads a URL with scheme and host; variables may stand anywhere but in the scheme.
    pub fn parse(text: &str) -> Option<Self> {
        let (https, rest) = match text.split_once("://")? {
            (it, rest) if it.eq_ignore_ascii_case("http") => (false, rest),
            (it, rest) if it.eq_ignore_ascii_case("https") => (true, rest),
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        if authority.contains("..") || !target.bytes().all(|it| it.is_ascii_graphic()) {
            return None;
        }
        let (authority, target) = (Phrase::parse(authority).ok()?, Phrase::parse(&target).ok()?);
        match &*authority.0 {
            [] => None,
            [Word::Text(it)] if it.parse::<Authority>().is_err() => None,
            _ => Some(Self { https, authority, target }),
        }
    }

    /// Its host, without a port, where no variable is in it.
    pub fn host(&self) -> Option<Box<str>> {
        let [Word::Text(text)] = &*self.authority.0 else { return None };
        text.parse::<Authority>().ok().map(|it| it.host)
    }
}

/// For how long answers of a judge are remembered, by their status.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheTimes(Box<[(u16, Duration)]>);

impl Default for CacheTimes {
    /// ingress-nginx's: `200 202 401 5m`.
    fn default() -> Self {
        Self([200, 202, 401].map(|it| (it, Duration::from_secs(300))).into())
    }
}

impl CacheTimes {
    /// What a time without statuses is for, as with nginx's `proxy_cache_valid`.
    const USUAL: [u16; 3] = [200, 301, 302];

    /// Reads `200 202 401 5m, 403 10s`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut times = Vec::new();
        for entry in text.split(',') {
            let mut words: Vec<&str> = entry.split_whitespace().collect();
            let time = nginx_time(words.pop()?)?;
            let status = |it: &&str| it.parse().ok().filter(|it| (100..600).contains(it));
            let statuses = words.iter().map(status).collect::<Option<Vec<u16>>>()?;
            let statuses = if words.is_empty() { Self::USUAL.to_vec() } else { statuses };
            times.extend(statuses.into_iter().map(|it| (it, time)));
        }
        Some(Self(times.into()))
    }

    /// For how long an answer with this status is remembered.
    pub fn of(&self, status: u16) -> Option<Duration> {
        self.0.iter().find(|(it, _)| *it == status).map(|(_, time)| *time)
    }
}

/// One number and one of nginx's units.
fn nginx_time(text: &str) -> Option<Duration> {
    const DAY: u64 = 86_400;
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let seconds = match &text[digits.len()..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        "w" => 7 * DAY,
        "M" => 30 * DAY,
        "y" => 365 * DAY,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

/// Reads names of header fields between commas; those that frame or route a request are none that a judge
/// may set.
pub fn header_names(text: &str) -> Option<Vec<HeaderName>> {
    let names = entries_of(text);
    names.map(|it| it.parse().ok().filter(is_settable)).collect()
}

/// Whether a field of a request may be set by somebody else's word.
pub fn is_settable(name: &HeaderName) -> bool {
    const OURS: [&str; 12] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    !OURS.contains(&name.as_str())
}

/// Methods as ingress-nginx takes them for `auth-method`.
pub fn auth_method(text: &str) -> Option<Method> {
    const KNOWN: [Method; 8] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ];
    KNOWN.into_iter().find(|it| it.as_str() == text)
}

/// What the ConfigMap says of access for all Ingresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Who gets 403 for everything.
    pub blocked: Option<Box<Blocked>>,
    /// `no-auth-locations`: Ingress paths that begin with one of these ask nobody for a password or a judge.
    pub open: Vec<String>,
    /// `global-auth-…`
    pub judge: External,
    /// `allow-cross-namespace-resources`
    pub cross_namespace: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            blocked: None,
            open: vec!["/.well-known/acme-challenge".to_owned()],
            judge: External::default(),
            cross_namespace: false,
        }
    }
}

/// `block-cidrs`, `block-user-agents` and `block-referers`.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blocked {
    pub networks: Networks,
    pub agents: Texts,
    pub referers: Texts,
}

/// Texts as the keys of nginx's `map` have them: exact in either case, `~` before a regular expression, `~*`
/// before one that ignores case.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    listed: Box<[Box<str>]>,
    patterns: Option<RegexSet>,
}

impl PartialEq for Texts {
    fn eq(&self, other: &Self) -> bool {
        self.listed == other.listed
    }
}

impl Texts {
    /// Most memory for the regular expressions of a list, in bytes.
    const MOST: usize = 4 << 20;

    /// Reads a list between commas.
    pub fn parse(text: &str) -> Option<Self> {
        let listed = entries_of(text);
        let listed: Box<[Box<str>]> = listed.map(Into::into).collect();
        let patterns: Vec<String> = listed
            .iter()
            .filter_map(|it| match it.strip_prefix("~*") {
                Some(pattern) => Some(format!("(?i){}", pattern.trim())),
                None => it.strip_prefix('~').map(|it| it.trim().to_owned()),
            })
            .collect();
        let patterns = if patterns.is_empty() {
            None
        } else {
            let mut builder = RegexSetBuilder::new(patterns);
            let builder = builder.unicode(false).size_limit(Self::MOST).dfa_size_limit(Self::MOST);
            Some(builder.build().ok()?)
        };
        Some(Self { listed, patterns })
    }

    /// Whether a field's value is among them; an absent one is empty.
    pub fn have(&self, value: Option<&HeaderValue>) -> bool {
        let value = value.map_or(&b""[..], HeaderValue::as_bytes);
        self.listed.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(value))
            || self.patterns.as_ref().is_some_and(|it| it.is_match(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_has_scheme_and_host() {
        for (text, expected) in [
            ("http://auth.test", Some((false, "/"))),
            ("https://auth.test:8443/oauth2/auth", Some((true, "/oauth2/auth"))),
            ("http://auth.test?x=1", Some((false, "/?x=1"))),
            ("HTTP://10.0.0.1/a#b", Some((false, "/a"))),
            ("http://[::1]:80/a", Some((false, "/a"))),
            ("http://foo..bar.baz/", None),
            ("http:///a", None),
            ("/oauth2/auth", None),
            ("auth.test/oauth2", None),
            ("ftp://auth.test/", None),
            ("$scheme://auth.test/", None),
            ("http://user@auth.test/", None),
            ("http://auth.test:99999/", None),
            ("http://auth.test/a b", None),
            ("http://auth.test/$nope", None),
        ] {
            let found = AuthUrl::parse(text).map(|it| (it.https, it.target));
            let expected =
                expected.map(|(https, target)| (https, Phrase::parse(target).expect("a phrase")));
            assert_eq!(found, expected, "{text}");
        }
        let varying = AuthUrl::parse("https://$host/oauth2/auth?x=$arg_y").expect("a URL");
        assert_eq!(*varying.authority.0, [Word::Host]);
    }

    #[test]
    fn answers_are_remembered_by_their_status() {
        for (text, expected) in [
            ("200 202 401 5m", [Some(300), None, Some(300)]),
            ("200 202 10m, 403 30s", [Some(600), Some(30), None]),
            ("1h", [Some(3600), None, None]),
            ("200 1500ms,401 1s", [Some(1), None, Some(1)]),
        ] {
            let times = CacheTimes::parse(text).unwrap_or_else(|| panic!("{text}"));
            let seconds = [200, 403, 401].map(|it| times.of(it).map(|it| it.as_secs()));
            assert_eq!(seconds, expected, "{text}");
        }
        assert_eq!(CacheTimes::parse("200 202 401 5m"), Some(CacheTimes::default()));
        for text in ["", "200", "200 5", "200 5x", "ok 5m", "200 5m,", "99999 5m", "200 -5m"] {
            assert_eq!(CacheTimes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_judge_sets_nothing_that_frames() {
        for (text, expected) in [
            ("X-Auth-Request-User, x-email ,", Some(2)),
            ("Authorization", Some(1)),
            ("", Some(0)),
            ("X User", None),
            ("Content-Length", None),
            ("x-user,transfer-encoding", None),
            ("Host", None),
        ] {
            assert_eq!(header_names(text).map(|it| it.len()), expected, "{text}");
        }
        for (text, expected) in [("POST", true), ("GET", true), ("post", false), ("CONNECT", false)]
        {
            assert_eq!(auth_method(text).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn blocked_texts_are_nginxs() {
        const LIST: &str = "curl/7, ~*bad.?bot, ~^Case";
        let texts = Texts::parse(LIST).expect("a list");
        for (value, expected) in [
            (Some("curl/7"), true),
            (Some("CURL/7"), true),
            (Some("curl/7.1"), false),
            (Some("a BadBot b"), true),
            (Some("Case x"), true),
            (Some("case x"), false),
            (Some(""), false),
            (None, false),
        ] {
            let value = value.map(HeaderValue::from_static);
            assert_eq!(texts.have(value.as_ref()), expected, "{value:?}");
        }
        assert!(Texts::parse("~*(?=a)").is_none());
        assert!(Texts::parse("~*[").is_none());
        assert!(!Texts::parse("").expect("a list").have(None));
    }
}
