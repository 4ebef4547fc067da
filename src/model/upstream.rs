//! How endpoints are spoken to, chosen, and given up for another.
//!
//! Names, values and defaults are those of ingress-nginx's annotations.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::keypair::Keypair;
use super::name::ObjectName;
use super::phrase::Phrase;

/// `backend-protocol`: what the endpoints of a route speak.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 with prior knowledge (RFC 9113 section 3.3), for gRPC.
    Grpc,
    /// HTTP/2 over TLS.
    Grpcs,
    /// HTTP/1.1, over TLS for clients that came over TLS.
    Auto,
}

impl Protocol {
    /// Reads the annotation, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        const NAMES: [(&str, Protocol); 5] = [
            ("HTTP", Protocol::Http),
            ("HTTPS", Protocol::Https),
            ("GRPC", Protocol::Grpc),
            ("GRPCS", Protocol::Grpcs),
            ("AUTO_HTTP", Protocol::Auto),
        ];
        let found = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, protocol)| *protocol)
    }

    /// Whether requests leave as HTTP/2.
    pub fn is_h2(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }

    /// Whether a request leaves over TLS, given whether it came over TLS.
    pub fn is_secure(self, came_secure: bool) -> bool {
        match self {
            Self::Http | Self::Grpc => false,
            Self::Https | Self::Grpcs => true,
            Self::Auto => came_secure,
        }
    }
}

/// `proxy-ssl-*`, as the annotations say them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ProxySsl {
    /// `proxy-ssl-secret`: the Secret with `ca.crt` and perhaps `tls.crt` and `tls.key`.
    pub secret: Option<Box<str>>,
    /// `proxy-ssl-verify`
    pub verify: bool,
    /// `proxy-ssl-name`: the name in the endpoint's certificate.
    pub name: Option<ServerName<'static>>,
    /// `proxy-ssl-server-name`: send that name in the handshake.
    pub server_name: bool,
    /// `proxy-ssl-protocols`; all there are where it says nothing.
    pub versions: TlsVersions,
}

/// Versions of TLS that may be spoken.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TlsVersions {
    pub tls12: bool,
    pub tls13: bool,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

impl TlsVersions {
    /// Reads a list such as `TLSv1.2 TLSv1.3`; older versions in it are not spoken, and a list of
    /// nothing else is none.
    pub fn parse(text: &str) -> Option<Self> {
        let has = |name: &str| text.split_whitespace().any(|it| it == name);
        let versions = Self { tls12: has("TLSv1.2"), tls13: has("TLSv1.3") };
        (versions.tls12 || versions.tls13).then_some(versions)
    }
}

/// TLS towards the endpoints of a route, with everything looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamTls {
    /// Where certificates come from.
    pub secret: Option<ObjectName>,
    /// Who may sign the endpoint's certificate; `None`: it is not looked at.
    pub authorities: Option<Arc<Authorities>>,
    /// What we show when we are asked.
    pub client: Option<Arc<Keypair>>,
    /// The name its certificate must have.
    pub name: ServerName<'static>,
    /// Whether the name is sent in the handshake.
    pub server_name: bool,
    /// What is spoken.
    pub versions: TlsVersions,
}

impl Hash for UpstreamTls {
    /// The Secret stands for what it holds.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.secret, &self.name, self.server_name, self.versions).hash(state);
    }
}

/// Certificates of authorities: the entry `ca.crt` of a Secret.
#[derive(Debug, Eq, Hash, PartialEq)]
pub struct Authorities(pub Vec<CertificateDer<'static>>);

impl Authorities {
    /// Largest `ca.crt` that is read, in bytes; the bundles of whole operating systems have a fourth.
    const LARGEST: usize = 1 << 20;

    /// Reads certificates in PEM (RFC 7468). The error completes "`ca.crt` ...".
    pub fn parse(pem: &[u8]) -> Result<Self, &'static str> {
        if pem.len() > Self::LARGEST {
            return Err("is larger than 1 MiB");
        }
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|_| "is not PEM")?;
        let mut roots = rustls::RootCertStore::empty();
        if found.is_empty() || found.iter().any(|it| roots.add(it.clone()).is_err()) {
            return Err("does not hold X.509 certificates and nothing else");
        }
        Ok(Self(found))
    }
}

/// How the endpoint of the next request is chosen. Belongs to the backend: where Ingresses disagree the
/// oldest that names it decides, as in ingress-nginx.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The quicker of two random ones, by a moving average of their times to answer.
    Ewma,
    /// The same one for the same words, wherever endpoints are the same (`upstream-hash-by`).
    Hash(Phrase),
    /// A random one of as many, which are the same for the same words (`upstream-hash-by-subset`).
    Subset(Phrase, u32),
}

/// When another endpoint is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    /// `proxy-next-upstream`
    pub on: RetryOn,
    /// `proxy-next-upstream-tries`: most endpoints that are asked, the first included; `None` for all.
    pub tries: Option<u32>,
    /// `proxy-next-upstream-timeout`: for how long another one may still be asked; `None` for ever.
    pub timeout: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { on: RetryOn::default(), tries: Some(3), timeout: None }
    }
}

/// `proxy-next-upstream`: what makes us ask another endpoint.
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the annotation")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryOn {
    /// No connection, or it broke before the head of the answer was there.
    pub error: bool,
    /// No connection, or no head of an answer, in time.
    pub timeout: bool,
    /// An answer that is not HTTP.
    pub invalid_header: bool,
    /// Also requests whose method is not idempotent, once they were sent.
    pub non_idempotent: bool,
    /// Statuses, as bits in the order of [`RetryOn::STATUSES`].
    statuses: u8,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self { error: true, timeout: true, ..Self::NEVER }
    }
}

impl RetryOn {
    const NEVER: Self = Self {
        error: false,
        timeout: false,
        invalid_header: false,
        non_idempotent: false,
        statuses: 0,
    };
    /// Those that it may name.
    pub const STATUSES: [u16; 7] = [500, 502, 503, 504, 403, 404, 429];

    /// Reads the annotation: words between spaces, `off` for never.
    pub fn parse(text: &str) -> Option<Self> {
        let mut on = Self::NEVER;
        for word in text.split_whitespace() {
            match word {
                "error" => on.error = true,
                "timeout" => on.timeout = true,
                "invalid_header" => on.invalid_header = true,
                "non_idempotent" => on.non_idempotent = true,
                "off" => return Some(Self::NEVER),
                other => {
                    let status: u16 = other.strip_prefix("http_")?.parse().ok()?;
                    on.statuses |= 1 << Self::STATUSES.iter().position(|it| *it == status)?;
                }
            }
        }
        (on != Self::NEVER).then_some(on)
    }

    /// Whether an answer with this status is not passed on while there is another endpoint to ask.
    pub fn status(&self, status: u16) -> bool {
        self.statuses != 0
            && Self::STATUSES
                .iter()
                .position(|it| *it == status)
                .is_some_and(|place| self.statuses & (1 << place) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_in_either_case() {
        for (text, expected) in [
            ("HTTP", Some(Protocol::Http)),
            ("https", Some(Protocol::Https)),
            ("Grpc", Some(Protocol::Grpc)),
            ("GRPCS", Some(Protocol::Grpcs)),
            ("auto_http", Some(Protocol::Auto)),
            ("FCGI", None),
            ("h2", None),
        ] {
            assert_eq!(Protocol::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn retries_are_nginxs_words() {
        for (text, expected) in [
            ("error timeout", Some(RetryOn::default())),
            ("off", Some(RetryOn::NEVER)),
            ("error off", Some(RetryOn::NEVER)),
            ("http_502", Some(RetryOn { statuses: 2, ..RetryOn::NEVER })),
            ("error http_418", None),
            ("always", None),
            ("", None),
        ] {
            assert_eq!(RetryOn::parse(text), expected, "{text:?}");
        }
        let on = RetryOn::parse("http_503 http_429").expect("words");
        for (status, expected) in [(503, true), (429, true), (500, false), (200, false)] {
            assert_eq!(on.status(status), expected, "{status}");
        }
    }

    #[test]
    fn old_versions_of_tls_are_not_spoken() {
        for (text, expected) in [
            ("TLSv1.2 TLSv1.3", Some((true, true))),
            ("TLSv1 TLSv1.1 TLSv1.2", Some((true, false))),
            ("TLSv1.3", Some((false, true))),
            ("SSLv3", None),
            ("", None),
        ] {
            let read = TlsVersions::parse(text).map(|it| (it.tls12, it.tls13));
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn only_certificates_are_authorities() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("made");
        let pem = made.cert.pem();
        assert_eq!(Authorities::parse(pem.as_bytes()).map(|it| it.0.len()), Ok(1));
        for bad in
            ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            assert!(Authorities::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
