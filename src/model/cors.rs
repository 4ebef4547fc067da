//! Which pages of other origins browsers let use an answer (the CORS protocol of Fetch), with
//! ingress-nginx's rules and defaults.

use super::value::entries_of;
use http::HeaderValue;

/// `enable-cors` and the settings beside it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cors {
    /// Whether anything is said at all.
    pub on: bool,
    /// Whose pages may.
    pub origins: Origins,
    /// Methods that they may use.
    pub methods: HeaderValue,
    /// Fields that they may send.
    pub headers: HeaderValue,
    /// Fields that they may see, besides the usual.
    pub expose: Option<HeaderValue>,
    /// Whether they may with cookies.
    pub credentials: bool,
    /// For how many seconds that holds.
    pub max_age: HeaderValue,
    /// What was listed as an origin and is none.
    pub unread: Vec<Box<str>>,
}

impl Default for Cors {
    fn default() -> Self {
        let headers = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,\
                       Content-Type,Range,Authorization";
        Self {
            on: false,
            origins: Origins::Any,
            methods: HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS"),
            headers: HeaderValue::from_static(headers),
            expose: None,
            credentials: true,
            max_age: HeaderValue::from_static("1728000"),
            unread: Vec::new(),
        }
    }
}

impl Cors {
    /// Reads `cors-allow-origin`. What is no origin is left out and noted: where nothing is left, no page may.
    pub fn read_origins(&mut self, text: &str) {
        let entries = || entries_of(text);
        self.unread.clear();
        if entries().any(|it| it == "*") {
            self.origins = Origins::Any;
            return;
        }
        let mut listed = Vec::new();
        for entry in entries() {
            match Origin::parse(entry) {
                Some(origin) => listed.push(origin),
                None => self.unread.push(entry.into()),
            }
        }
        self.origins = Origins::Listed(listed);
    }
}

/// Whose pages may use an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    /// Everybody's: `*`.
    Any,
    /// Those of these.
    Listed(Vec<Origin>),
}

/// An origin (RFC 6454), or all whose host has one more label.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    scheme: Box<str>,
    /// Whether it was written `scheme://*.host`.
    below: bool,
    /// Host and port.
    host: Box<str>,
}

impl Origin {
    /// Reads `scheme://host`, `scheme://*.host`, either with a port.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (below, host) = match rest.strip_prefix("*.") {
            Some(host) => (true, host),
            None => (false, rest),
        };
        let (name, port) = host.split_once(':').unwrap_or((host, "0"));
        let named = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.');
        let schemed = |it: u8| named(it) || it == b'+';
        let valid = scheme.starts_with(|it: char| it.is_ascii_alphabetic())
            && scheme.bytes().all(schemed)
            && !name.is_empty()
            && name.bytes().all(named)
            && port.parse::<u16>().is_ok();
        valid.then(|| Self { scheme: scheme.into(), below, host: host.into() })
    }

    /// Whether it is the origin that a browser names; letters count the same in either case.
    pub fn is(&self, text: &str) -> bool {
        let Some((scheme, host)) = text.split_once("://") else { return false };
        let host = if self.below {
            let Some((label, host)) = host.split_once('.') else { return false };
            let labelled = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
            if label.is_empty() || !label.bytes().all(labelled) {
                return false;
            }
            host
        } else {
            host
        };
        scheme.eq_ignore_ascii_case(&self.scheme) && host.eq_ignore_ascii_case(&self.host)
    }
}

/// A list of methods: letters, with commas or spaces between them.
pub fn methods(text: &str) -> Option<HeaderValue> {
    list(text, |it| it.is_ascii_alphabetic())
}

/// A list of field names: letters, digits, `-` and `_`.
pub fn names(text: &str) -> Option<HeaderValue> {
    list(text, |it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
}

/// Likewise, or `*`.
pub fn names_or_all(text: &str) -> Option<HeaderValue> {
    list(text, |it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'*'))
}

fn list(text: &str, allowed: impl Fn(u8) -> bool) -> Option<HeaderValue> {
    let valid = text.bytes().all(|it| allowed(it) || matches!(it, b',' | b' '));
    let named = text.bytes().any(allowed);
    (valid && named).then(|| HeaderValue::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether pages of an origin may, by a list.
    fn may(list: &str, origin: &str) -> bool {
        let mut cors = Cors::default();
        cors.read_origins(list);
        match cors.origins {
            Origins::Any => true,
            Origins::Listed(listed) => listed.iter().any(|it| it.is(origin)),
        }
    }

    #[test]
    fn origins_are_matched_whole_and_wildcards_cover_one_label() {
        for (list, origin, expected) in [
            ("*", "https://a.test", true),
            ("https://b.test, *", "https://a.test", true),
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "HTTPS://A.test", true),
            ("https://a.test", "http://a.test", false),
            ("https://a.test", "https://a.test:8443", false),
            ("https://a.test:8443", "https://a.test:8443", true),
            ("https://a.test:8443", "https://a.test", false),
            ("https://a.test", "https://evil.test/https://a.test", false),
            ("https://a.test", "https://a.test.evil.test", false),
            ("https://a.test", "evilhttps://a.test", false),
            ("https://aXtest", "https://a.test", false),
            // Blank and trailing entries.
            (" , https://a.test,,https://b.test, ", "https://b.test", true),
            ("https://*.a.test", "https://b.a.test", true),
            ("https://*.a.test", "https://a.test", false),
            ("https://*.a.test", "https://c.b.a.test", false),
            ("https://*.a.test", "https://.a.test", false),
            ("https://*.a.test", "https://b/.a.test", false),
            ("https://*.a.test:8443", "https://b.a.test:8443", true),
            ("https://*.a.test:8443", "https://b.a.test", false),
            // Any scheme, but with one.
            ("capacitor://localhost", "capacitor://localhost", true),
            ("a.test", "https://a.test", false),
            ("a.test", "a.test", false),
            ("https://a.test", "null", false),
            ("null", "null", false),
        ] {
            assert_eq!(may(list, origin), expected, "{list:?}: {origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_left_out_and_opens_nothing() {
        for (list, unread) in [
            ("a.test, https://b.test", &["a.test"][..]),
            ("https://a.test/path", &["https://a.test/path"]),
            ("https://a.*.test", &["https://a.*.test"]),
            ("https://a.test:http", &["https://a.test:http"]),
            ("https://, ://a.test", &["https://", "://a.test"]),
        ] {
            let mut cors = Cors::default();
            cors.read_origins(list);
            let found: Vec<&str> = cors.unread.iter().map(|it| &**it).collect();
            assert_eq!(found, unread, "{list}");
            assert!(matches!(cors.origins, Origins::Listed(_)), "{list}");
        }
    }

    #[test]
    fn lists_hold_names_and_nothing_else() {
        for (text, expected) in [
            ("X-One, X_Two,X3", [false, true, true]),
            ("GET, PUT", [true, true, true]),
            ("*", [false, false, true]),
            ("GET;", [false; 3]),
            ("$host", [false; 3]),
            (", ", [false; 3]),
        ] {
            let read = [methods(text), names(text), names_or_all(text)].map(|it| it.is_some());
            assert_eq!(read, expected, "{text:?}");
        }
    }
}
