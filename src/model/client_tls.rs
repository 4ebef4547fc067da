//! TLS towards clients: their certificates, what is agreed on, and what is handed on unread.

use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::ciphers::Ciphers;
use super::upstream::{Authorities, TlsVersions};

/// Client certificates, and TLS that is handed on. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientTls {
    /// `auth-tls-secret`: the Secret with `ca.crt` and perhaps `ca.crl`.
    pub secret: Option<Box<str>>,
    /// `auth-tls-verify-client`; [`Verify::On`] where there is a Secret and nothing is said.
    pub verify: Option<Verify>,
    /// `auth-tls-verify-depth`; 1 where nothing is said.
    pub depth: Option<u8>,
    /// `auth-tls-error-page`
    pub error_page: Option<Box<str>>,
    /// `auth-tls-pass-certificate-to-upstream`
    pub pass_certificate: bool,
    /// `auth-tls-match-cn`
    pub subject: Option<Subject>,
    /// An `auth-tls-…` that could not be read: nobody knows what was asked for.
    pub unread: bool,
    /// `ssl-passthrough`
    pub passthrough: bool,
}

impl ClientTls {
    /// Whether anything is said of client certificates.
    pub fn asks(&self) -> bool {
        let Self { secret, verify, subject, unread, .. } = self;
        let protects = subject.is_some() || verify.is_some_and(|it| it != Verify::Off);
        secret.is_some() || *unread || protects
    }
}

/// `auth-tls-verify-client`, the laxest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verify {
    /// No certificate is asked for.
    Off,
    /// One is asked for; who issued it does not matter.
    OptionalNoCa,
    /// One is asked for; if there is one it has to be good.
    Optional,
    /// There has to be a good one.
    On,
}

impl Verify {
    /// Reads the annotation.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "on" => Some(Self::On),
            "off" => Some(Self::Off),
            "optional" => Some(Self::Optional),
            "optional_no_ca" => Some(Self::OptionalNoCa),
            _ => None,
        }
    }
}

/// `auth-tls-match-cn`: what the subject of a client's certificate must hold.
#[derive(Clone, Debug)]
pub struct Subject(Regex);

impl Subject {
    /// Largest automaton, in bytes; a thousand names fit.
    const LARGEST: usize = 1 << 20;

    /// Reads `CN=` and a regular expression.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.starts_with("CN=") {
            return None;
        }
        let mut built = RegexBuilder::new(text);
        built.size_limit(Self::LARGEST).dfa_size_limit(Self::LARGEST);
        built.build().ok().map(Self)
    }

    /// Whether it is found in a distinguished name as RFC 2253 writes it.
    pub fn is_in(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Subject {}

/// What is asked of clients in a handshake. Hosts that ask for the same have one policy.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Demand {
    /// Who may issue certificates: `ca.crt`.
    pub authorities: Arc<Authorities>,
    /// Which certificates are no longer good: `ca.crl`.
    pub revocations: Option<Arc<Revocations>>,
    /// Whether there has to be one.
    pub verify: Verify,
    /// Most certificates between the client's and an authority's.
    pub depth: u8,
}

/// What a host asks of its clients, with everything looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostTls {
    /// Nothing can be asked for, though something should be: everything is answered 403.
    Denied,
    /// Its TLS is handed on to the endpoints as it is.
    Through,
    /// A certificate.
    Asks(Guard),
}

/// What a host does about client certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guard {
    /// What is asked for in the handshake; `None` for `auth-tls-verify-client: off`.
    pub demand: Option<Arc<Demand>>,
    /// Where clients without a good one are sent, instead of 400.
    pub error_page: Option<Box<str>>,
    /// Whether endpoints get the certificate itself.
    pub pass_certificate: bool,
    /// What its subject must hold, all of it.
    pub subjects: Vec<Subject>,
}

/// Certificates that are no longer good (RFC 5280 section 5): the entry `ca.crl` of a Secret.
#[derive(Debug, Eq, Hash, PartialEq)]
pub struct Revocations(pub Vec<CertificateRevocationListDer<'static>>);

impl Revocations {
    /// Largest `ca.crl` that is read, in bytes.
    const LARGEST: usize = 1 << 20;

    /// Reads lists in PEM (RFC 7468). The error completes "`ca.crl` ...".
    pub fn parse(pem: &[u8]) -> Result<Self, &'static str> {
        if pem.len() > Self::LARGEST {
            return Err("is larger than 1 MiB");
        }
        let found = CertificateRevocationListDer::pem_slice_iter(pem);
        let found = found.collect::<Result<Vec<_>, _>>().map_err(|_| "is not PEM")?;
        if found.is_empty() {
            return Err("holds no list of revoked certificates");
        }
        Ok(Self(found))
    }
}

/// Client certificates that are authorities themselves are found by this.
pub fn holds(authorities: &Authorities, certificate: &CertificateDer<'_>) -> bool {
    authorities.0.iter().any(|it| it == certificate)
}

/// TLS towards clients, for all hosts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsSettings {
    /// `ssl-protocols`
    pub versions: TlsVersions,
    /// `ssl-ciphers`: what is offered with TLS 1.2.
    pub ciphers: Ciphers,
    /// `use-http2`: offer HTTP/2.
    pub h2: bool,
    /// `ssl-session-tickets`, and for lack of tickets `ssl-session-cache`: how sessions are resumed.
    pub resumption: Resumption,
    /// `ssl-session-timeout`: for how long.
    pub session_timeout: Duration,
    /// `ssl-reject-handshake`: speak to nobody who names no host that there is.
    pub reject_unknown: bool,
    /// `proxy-stream-timeout`: how long nothing may move in TLS, or a port, that is handed on.
    pub stream_timeout: Duration,
}

/// How sessions are resumed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resumption {
    /// What is needed is in a ticket that the client keeps, sealed with a key that rotates.
    pub tickets: bool,
    /// Without tickets: it is in our memory.
    pub cache: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            versions: TlsVersions::default(),
            ciphers: Ciphers::default(),
            h2: true,
            resumption: Resumption { tickets: true, cache: true },
            session_timeout: Duration::from_secs(600),
            reject_unknown: false,
            stream_timeout: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_searched_as_nginx_does() {
        for (pattern, name, expected) in [
            ("CN=client", "CN=client", Some(true)),
            ("CN=client", "CN=clients,O=Acme", Some(true)),
            ("CN=client", "O=x,CN=client", Some(true)),
            ("CN=client$", "CN=clients", Some(false)),
            ("CN=(a|b)", "CN=b", Some(true)),
            ("CN=(a|b)", "CN=c", Some(false)),
            ("CN=client", "", Some(false)),
            ("CN=client", "cn=client", Some(false)),
            ("O=client", "O=client", None),
            ("CN=(", "", None),
            ("CN=(?=a)", "", None),
        ] {
            let subject = Subject::parse(pattern);
            assert_eq!(subject.map(|it| it.is_in(name)), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_strictest_word_is_the_greatest() {
        let words = ["off", "optional_no_ca", "optional", "on"].map(Verify::parse);
        assert!(words.is_sorted() && words.iter().all(Option::is_some));
        assert_eq!(["ON", "true", "", "required"].map(Verify::parse), [None; 4]);
    }

    #[test]
    fn only_lists_are_revocations() {
        for bad in [&b""[..], b"nonsense", &vec![b'A'; (1 << 20) + 1]] {
            assert!(Revocations::parse(bad).is_err(), "{}", bad.len());
        }
    }
}
