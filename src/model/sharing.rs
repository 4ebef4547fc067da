//! Canaries and affinity: who of several gets a request.
//!
//! As in ingress-nginx all of it belongs to a Service's port, whoever names it: a canary takes its share of
//! everything that goes to the main Service's port, by whatever host and path.

use http::HeaderName;

use super::pattern::Pattern;
use super::plan::BackendId;

/// As the annotations of an Ingress have it.
#[expect(clippy::struct_excessive_bools, reason = "each is an annotation")]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sharing {
    /// `canary`: the Ingress has no paths of its own.
    pub canary: bool,
    /// `canary-*`
    pub split: Split,
    /// `affinity: cookie`
    pub affinity: bool,
    /// `affinity-mode`
    pub mode: Option<Mode>,
    /// `affinity-canary-behavior: legacy`, on a canary: clients are kept on no endpoint of it.
    pub legacy: bool,
    /// `session-cookie-*`
    pub cookie: SessionCookie,
    /// `service-upstream`
    pub service_upstream: bool,
    /// `upstream-hash-by-subset`
    pub subset: bool,
    /// `upstream-hash-by-subset-size`
    pub subset_size: Option<u32>,
}

/// Which requests a canary takes. Asked in this order: header, cookie, weight; what does not decide leaves
/// it to the next.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Split {
    /// `canary-by-header`: without value or pattern, `always` and `never` decide.
    pub header: Option<HeaderName>,
    /// `canary-by-header-value`: this very value decides for the canary.
    pub value: Option<Box<str>>,
    /// `canary-by-header-pattern`: where there is no value, a match decides for the canary.
    pub pattern: Option<HeaderPattern>,
    /// `canary-by-cookie`: `always` and `never` decide.
    pub cookie: Option<Box<str>>,
    /// `canary-weight`: so many of `total`.
    pub weight: u32,
    /// `canary-weight-total`, which only counts above [`Split::LEAST_TOTAL`].
    pub total: u32,
}

/// A pattern of a header's value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HeaderPattern {
    /// As it is written.
    Read(Pattern),
    /// One that cannot be read: requests that have the header stay with the main Service, as in
    /// ingress-nginx.
    Unreadable,
}

impl Split {
    /// The total that holds unless a larger one is set, as in ingress-nginx.
    pub const LEAST_TOTAL: u32 = 100;

    /// Whether anything is set that could make a request go to the canary.
    pub fn says_anything(&self) -> bool {
        *self != Self { total: self.total, ..Self::default() }
    }

    /// Out of how many.
    pub fn out_of(&self) -> u32 {
        self.total.max(Self::LEAST_TOTAL)
    }
}

/// The canary of a Service's port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Canary {
    /// Who takes the share.
    pub backend: BackendId,
    /// Which share.
    pub split: Split,
}

/// Keeps each client on one endpoint, by a cookie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Affinity {
    /// What happens when endpoints come and go.
    pub mode: Mode,
    /// How the client is told.
    pub cookie: SessionCookie,
}

/// `affinity-mode`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// New endpoints take over a share of the clients there are.
    #[default]
    Balanced,
    /// A client stays while its endpoint is there.
    Persistent,
}

/// `session-cookie-*`: the cookie that says on which endpoint a client is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SessionCookie {
    /// `session-cookie-name`; `None` for [`SessionCookie::NAME`].
    pub name: Option<Box<str>>,
    /// `session-cookie-path`; `None` for the path of the rule.
    pub path: Option<Box<str>>,
    /// `session-cookie-domain`
    pub domain: Option<Box<str>>,
    /// `session-cookie-samesite`
    pub same_site: Option<SameSite>,
    /// `session-cookie-conditional-samesite-none`: no `SameSite=None` to browsers that choke on it.
    pub conditional: bool,
    /// `session-cookie-secure`: always; else over TLS.
    pub secure: bool,
    /// `session-cookie-expires`: seconds from now.
    pub expires: Option<i64>,
    /// `session-cookie-max-age`: seconds.
    pub max_age: Option<i64>,
    /// `session-cookie-change-on-failure`: when its endpoint fails, a client is moved to another one.
    pub change_on_failure: bool,
}

impl SessionCookie {
    /// The name where none is set.
    pub const NAME: &str = "INGRESSCOOKIE";

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(Self::NAME)
    }
}

/// RFC 6265bis section 4.1.2.7.
#[expect(missing_docs, reason = "the names are the RFC's")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

impl SameSite {
    /// Reads it in either case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Strict, Self::Lax, Self::None]
            .into_iter()
            .find(|it| it.as_str().eq_ignore_ascii_case(text))
    }

    /// As browsers know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }

    /// Whether a browser takes `SameSite=None` for what it means: some of 2016 to 2019 take it for `Strict`
    /// or drop the cookie. ingress-nginx's list.
    pub fn none_is_known_to(agent: &str) -> bool {
        let has = |it: &str| agent.contains(it);
        let old_chrome = ["Chrome/4", "Chrome/5", "Chrome/6"].into_iter().any(has);
        let old_ios = has("CPU iPhone OS 12") || has("iPad; CPU OS 12");
        let old_safari =
            has("Macintosh") && has("Intel Mac OS X 10_14") && has("Safari") && !has("Chrome");
        !(old_chrome || old_ios || old_safari)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_below_a_hundred_does_not_count() {
        for (total, expected) in [(0, 100), (10, 100), (100, 100), (1000, 1000)] {
            assert_eq!(Split { total, ..Split::default() }.out_of(), expected, "{total}");
        }
    }

    #[test]
    fn same_site_is_read_in_either_case_and_sent_in_one() {
        for (text, expected) in
            [("none", Some("None")), ("LAX", Some("Lax")), ("Strict", Some("Strict")), ("no", None)]
        {
            assert_eq!(SameSite::parse(text).map(SameSite::as_str), expected, "{text}");
        }
    }

    #[test]
    fn browsers_that_choke_on_same_site_none_are_known() {
        for (agent, known) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36",
                true,
            ),
            ("Mozilla/5.0 (X11) AppleWebKit/537.36 Chrome/64.0.3282.140 Safari/537.36", false),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 12_0 like Mac OS X) Version/12.0 Safari/604.1",
                false,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 13_0 like Mac OS X) Version/13.0 Safari/604.1",
                true,
            ),
            ("Mozilla/5.0 (iPad; CPU OS 12_1 like Mac OS X) Version/12.0 Safari/604.1", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Version/12.1 Safari/605.1.15", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Chrome/91.0 Safari/537.36", true),
            ("", true),
        ] {
            assert_eq!(SameSite::none_is_known_to(agent), known, "{agent}");
        }
    }
}
