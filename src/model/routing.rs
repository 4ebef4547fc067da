//! Redirects other than to HTTPS, regular expressions, rewrites, and names.

use http::HeaderValue;

use super::host::{Authority, HostPattern};
use super::location::RewriteTarget;
use super::pattern::Pattern;
use super::phrase::{Phrase, Word};
use super::value::entries_of;

/// Redirects other than to HTTPS, regular expressions, rewrites, and names. As the annotations of an
/// Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an annotation")]
pub struct Routing {
    /// Every path of the host is a regular expression.
    pub use_regex: bool,
    /// What a path becomes; makes every path of the host a regular expression, too.
    pub rewrite: Option<RewriteTarget>,
    /// `X-Forwarded-Prefix` of what is rewritten.
    pub prefix: Option<HeaderValue>,
    /// The host that endpoints see.
    pub upstream_host: Option<Phrase>,
    /// More names of the host.
    pub aliases: Vec<Alias>,
    /// Where `/` of the host is redirected to.
    pub app_root: Option<Phrase>,
    /// Where requests are redirected to for good, and with which status.
    pub permanent: Option<Phrase>,
    /// 300 to 308; `None` for 301.
    pub permanent_code: Option<u16>,
    /// Where requests are redirected to for now; wins over the other.
    pub temporal: Option<Phrase>,
    /// 300 to 307; `None` for 302.
    pub temporal_code: Option<u16>,
    /// Redirect `www.` of the host to it, or the bare name to a host with it.
    pub www: bool,
    /// Redirects within the host do without scheme and host.
    pub relative: bool,
    /// Redirects to HTTPS keep a slash at the end.
    pub keep_slash: bool,
}

impl Routing {
    /// Where all requests are redirected to, and the status.
    pub fn redirect(&self) -> Option<(u16, &Phrase)> {
        let temporal = self.temporal.as_ref().map(|it| (self.temporal_code.unwrap_or(302), it));
        let permanent = || Some((self.permanent_code.unwrap_or(301), self.permanent.as_ref()?));
        temporal.or_else(permanent)
    }

    /// What is left for paths that nobody's rule has, as in ingress-nginx: no redirect, no rewrite.
    #[must_use]
    pub fn without_redirects(self) -> Self {
        let Self { prefix, upstream_host, relative, keep_slash, .. } = self;
        Self { prefix, upstream_host, relative, keep_slash, ..Self::default() }
    }
}

/// One more name of a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Alias {
    /// A name, or a wildcard for one label.
    Host(HostPattern),
    /// `~^www\d+\.example\.org$`: any name in which it is found.
    Pattern(Pattern),
}

impl Alias {
    /// Reads a list with commas between.
    pub fn list(text: &str) -> Option<Vec<Self>> {
        let names = entries_of(text);
        let name = |text: &str| match text.strip_prefix('~') {
            Some(pattern) => Pattern::parse(pattern, true).ok().map(Self::Pattern),
            None => text.parse().ok().map(Self::Host),
        };
        names.map(name).collect()
    }
}

impl std::fmt::Display for Alias {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(it) => write!(f, "{it}"),
            Self::Pattern(it) => write!(f, "~{it}"),
        }
    }
}

/// Reads where a redirect goes: a URL of HTTP or HTTPS, or a path of the same host.
pub fn location(text: &str) -> Option<Phrase> {
    let begins = ["http://", "https://", "$scheme://", "/"].iter().any(|it| text.starts_with(it));
    let fits = begins && is_visible(text);
    fits.then(|| Phrase::parse(text).ok()).flatten()
}

/// Reads a path of the same host.
pub fn path(text: &str) -> Option<Phrase> {
    let fits = text.starts_with('/') && is_visible(text);
    fits.then(|| Phrase::parse(text).ok()).flatten()
}

/// Reads a host with an optional port, or a text with variables that becomes one.
pub fn host(text: &str) -> Option<Phrase> {
    let phrase = Phrase::parse(text).ok()?;
    let of_host = |it: u8| it.is_ascii_alphanumeric() || b".-_:[]".contains(&it);
    let fits = match &*phrase.0 {
        [Word::Text(text)] => text.parse::<Authority>().is_ok(),
        words => words.iter().all(|it| match it {
            Word::Text(text) => text.bytes().all(of_host),
            _ => true,
        }),
    };
    fits.then_some(phrase)
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|it| it.is_ascii_graphic() && !b"\"<>\\^`|;".contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporal_redirect_wins() {
        let phrase = |text: &str| location(text).expect("a location");
        let both = Routing {
            permanent: Some(phrase("http://a.test")),
            permanent_code: Some(308),
            temporal: Some(phrase("/b")),
            ..Routing::default()
        };
        assert_eq!(both.redirect(), Some((302, &phrase("/b"))));
        let one = Routing { temporal: None, ..both };
        assert_eq!(one.redirect(), Some((308, &phrase("http://a.test"))));
        assert_eq!(Routing { permanent: None, ..one }.redirect(), None);
    }

    #[test]
    fn what_is_read_is_of_its_kind() {
        for (text, at, on, to) in [
            ("https://a.test$request_uri", true, false, false),
            ("$scheme://a.test/", true, false, false),
            ("/a", true, true, false),
            ("a.test", false, false, true),
            ("a.test:8080", false, false, true),
            ("$host", false, false, true),
            ("$service_name.$namespace", false, false, true),
            ("ftp://a.test", false, false, false),
            ("a b", false, false, false),
            ("a.test/$1", false, false, false),
            ("/$nope", false, false, false),
            ("/a\r\nb", false, false, false),
        ] {
            assert_eq!(location(text).is_some(), at, "{text:?}");
            assert_eq!(path(text).is_some(), on, "{text:?}");
            assert_eq!(host(text).is_some(), to, "{text:?}");
        }
    }

    #[test]
    fn aliases_are_names_wildcards_and_patterns() {
        let list = Alias::list(r"a.test, *.b.test,~^w\d+\.c$,").expect("a list");
        let texts: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a.test", "*.b.test", r"~^w\d+\.c$"]);
        for bad in ["a b", "a.test,~(", "a..b", "*"] {
            assert_eq!(Alias::list(bad), None, "{bad}");
        }
    }
}
