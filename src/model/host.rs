//! Hosts: the pattern in an Ingress rule, and the name a request asks for.
//!
//! A rule's text is parsed once, here; everything after holds a [`HostPattern`]. Matching follows
//! the Ingress API: a wildcard covers exactly one label, so `*.example.org` matches `a.example.org`
//! but neither `example.org` nor `a.b.example.org`. The same code matches the `Host` of a request
//! and the server name of a TLS handshake.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A host as a rule names it, lower-cased; the order of the variants is that of precedence.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HostPattern {
    /// `shop.example.org`
    Exact(Box<str>),
    /// `*.example.org`, kept as `example.org`.
    Wildcard(Box<str>),
    /// A rule without a host.
    Any,
}

impl HostPattern {
    /// Whether a name, lower-cased and without a port, is covered.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exact(it) => **it == *name,
            Self::Wildcard(it) => parent(name) == Some(it),
            Self::Any => true,
        }
    }
}

impl HostPattern {
    /// Whether everything another pattern matches is covered.
    pub fn covers_all(&self, other: &Self) -> bool {
        match other {
            Self::Exact(name) => self.covers(name),
            other => self == other,
        }
    }

    /// The wildcard that covers a name, whether or not there is a rule for it.
    pub fn above(&self) -> Option<Self> {
        match self {
            Self::Exact(name) => parent(name).map(|it| Self::Wildcard(it.into())),
            Self::Wildcard(_) | Self::Any => None,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, &*text),
        };
        if name.len() > 253 {
            return Err(HostError::Long(name.len()));
        }
        if name.contains('*') {
            return Err(HostError::Wildcard);
        }
        if let Some(bad) = name.split('.').find(|it| !is_label(it.as_bytes())) {
            return Err(HostError::Label(bad.to_owned()));
        }
        Ok(if wildcard { Self::Wildcard(name.into()) } else { Self::Exact(name.into()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(it) => f.write_str(it),
            Self::Wildcard(it) => write!(f, "*.{it}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Why a text is not a host pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostError {
    /// RFC 1035 section 2.3.4: a label has 1 to 63 octets.
    #[error("label {0:?} must have 1 to 63 characters out of a-z, 0-9, - and _")]
    Label(String),
    /// RFC 1035 section 2.3.4: a name has at most 255 octets on the wire, 253 in text.
    #[error("name has {0} characters, DNS allows 253")]
    Long(usize),
    /// The Ingress API allows `*` only as the whole first label.
    #[error("\"*\" must be the whole first label, as in \"*.example.org\"")]
    Wildcard,
}

/// What stands behind the first dot: `b.c` of `a.b.c`.
pub fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

fn is_label(label: &[u8]) -> bool {
    (1..=63).contains(&label.len())
        && label.iter().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
}

/// The host a request asks for, out of `Host` or `:authority`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// Lower-cased, without a trailing dot; an IPv6 address keeps its brackets.
    pub host: Box<str>,
    /// The port behind the colon, if there was one.
    pub port: Option<u16>,
}

/// Why a text is not an authority (RFC 9112 section 3.2: answered with 400).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a host with an optional port")]
pub struct AuthorityError;

impl FromStr for Authority {
    type Err = AuthorityError;

    /// Takes `uri-host [ ":" port ]` (RFC 9110 section 7.2) and nothing else: no user information, no
    /// list, no path, no percent-encoding.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(AuthorityError)?;
                address.parse::<Ipv6Addr>().map_err(|_| AuthorityError)?;
                let port = match rest {
                    "" => None,
                    rest => Some(rest.strip_prefix(':').ok_or(AuthorityError)?),
                };
                (&text[..address.len() + 2], port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| AuthorityError)?)
            }
            Some(_) => return Err(AuthorityError),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let named = host.starts_with('[') || host.as_bytes().split(|it| *it == b'.').all(is_label);
        if host.is_empty() || host.len() > 253 || !named {
            return Err(AuthorityError);
        }
        Ok(Self { host: host.to_ascii_lowercase().into(), port })
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_a_wildcard_or_anything() {
        for (text, expected) in [
            ("", Ok(HostPattern::Any)),
            ("Shop.Example.org.", Ok(HostPattern::Exact("shop.example.org".into()))),
            ("*.example.org", Ok(HostPattern::Wildcard("example.org".into()))),
            ("a.*.org", Err(HostError::Wildcard)),
            ("*", Err(HostError::Wildcard)),
            ("a..b", Err(HostError::Label(String::new()))),
            ("a b", Err(HostError::Label("a b".into()))),
        ] {
            assert_eq!(text.parse(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let pattern: HostPattern = "*.example.org".parse().expect("a pattern");
        for (name, expected) in
            [("a.example.org", true), ("example.org", false), ("a.b.example.org", false)]
        {
            assert_eq!(pattern.covers(name), expected, "{name}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            ("a.test", Some(("a.test", None))),
            ("A.Test.:80", Some(("a.test", Some(80)))),
            ("a.test:", Some(("a.test", None))),
            ("[::1]:8443", Some(("[::1]", Some(8443)))),
            ("10.0.0.1", Some(("10.0.0.1", None))),
            ("", None),
            ("a b", None),
            ("a,b", None),
            ("u@a.test", None),
            ("a.test/x", None),
            ("a.test:80:80", None),
            ("a.test:+80", None),
            ("a.test:65536", None),
            ("[::1", None),
            ("a%2etest", None),
        ] {
            let parsed = text.parse::<Authority>().ok();
            let parsed = parsed.as_ref().map(|it| (&*it.host, it.port));
            assert_eq!(parsed, expected, "{text:?}");
        }
    }
}
