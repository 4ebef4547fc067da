//! What the annotations of an Ingress ask for, as typed values.

use std::time::Duration;

use super::access::Access;
use super::answering::Answering;
use super::client_tls::ClientTls;
use super::copies::Copies;
use super::phrase::Phrase;
use super::rate::Rates;
use super::routing::Routing;
use super::sharing::Sharing;
use super::snippet::Snippets;
use super::trace::Spans;
use super::upstream::{Protocol, ProxySsl, Retry};

/// The settings of one route; defaults are ingress-nginx's, which its ConfigMap changes for all and
/// annotations for one Ingress.
#[expect(clippy::struct_excessive_bools, reason = "each is an annotation")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Redirect plain HTTP to HTTPS where the host has a `tls` entry.
    pub ssl_redirect: bool,
    /// Redirect plain HTTP to HTTPS whether or not the host has one.
    pub force_ssl_redirect: bool,
    /// Keep our HTTPS port in redirects.
    pub port_in_redirects: bool,
    /// Largest request body in bytes; `None` lifts the limit.
    pub body_limit: Option<u64>,
    /// Longest wait for a connection to an endpoint.
    pub connect_timeout: Duration,
    /// Longest pause between two reads from an endpoint.
    pub read_timeout: Duration,
    /// Longest pause between two writes to an endpoint.
    pub send_timeout: Duration,
    /// Take a small request body whole before an endpoint is asked.
    pub request_buffering: bool,
    /// When another endpoint is asked.
    pub retry: Retry,
    /// What endpoints speak.
    pub protocol: Protocol,
    /// TLS towards endpoints; `None` where no annotation speaks of it.
    pub proxy_ssl: Option<Box<ProxySsl>>,
    /// `load-balance: ewma`
    pub ewma: bool,
    /// `upstream-hash-by`
    pub hash_by: Option<Box<Phrase>>,
    /// Whether and how far answers are read ahead of the client.
    pub buffers: Buffers,
    /// Redirects other than to HTTPS, regular expressions and rewrites.
    pub routing: Option<Box<Routing>>,
    /// Who may ask.
    pub access: Option<Box<Access>>,
    /// What is done to answers.
    pub answering: Option<Box<Answering>>,
    /// Canaries and affinity.
    pub sharing: Option<Box<Sharing>>,
    /// Client certificates, and TLS that is handed on.
    pub client_tls: Option<Box<ClientTls>>,
    /// How much one client may ask for.
    pub rates: Option<Box<Rates>>,
    /// Mirrors and the access log.
    pub copies: Option<Box<Copies>>,
    /// Whether and how a collector is told of requests.
    pub spans: Option<Box<Spans>>,
    /// Snippets, where they are translated.
    pub snippets: Option<Box<Snippets>>,
}

/// How far an answer is read ahead of a slow client: `proxy-buffering`, `proxy-buffers-number` and
/// `proxy-buffer-size`, with ingress-nginx's defaults.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Buffers {
    /// Whether answers are read ahead at all, when the endpoint does not say.
    pub on: bool,
    /// How many times `size`.
    pub number: u32,
    /// Bytes.
    pub size: u32,
}

impl Buffers {
    /// Less than this is not worth the trouble.
    const LEAST: u64 = 16 << 10;
    /// What one answer may hold in memory at most; nginx would go on in a file.
    const MOST: u64 = 1 << 20;

    /// How many bytes are read ahead: 16 KiB to 1 MiB.
    pub fn bytes(self) -> usize {
        usize::try_from(self.wanted().clamp(Self::LEAST, Self::MOST)).unwrap_or_default()
    }

    /// What its owner is told when answers are read ahead less far than they should be.
    pub fn shortened(self) -> Option<String> {
        let Self { on, number, size } = self;
        (on && self.wanted() > Self::MOST).then(|| {
            format!(
                "proxy-buffers-number and proxy-buffer-size ask for {number} times {size} bytes: \
                 answers are read ahead by 1 MiB at most"
            )
        })
    }

    fn wanted(self) -> u64 {
        u64::from(self.number) * u64::from(self.size)
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self { on: false, number: 4, size: 4 << 10 }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ssl_redirect: true,
            force_ssl_redirect: false,
            port_in_redirects: false,
            body_limit: Some(1 << 20),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            request_buffering: true,
            retry: Retry::default(),
            protocol: Protocol::default(),
            proxy_ssl: None,
            ewma: false,
            hash_by: None,
            buffers: Buffers::default(),
            routing: None,
            access: None,
            answering: None,
            sharing: None,
            client_tls: None,
            rates: None,
            copies: None,
            spans: None,
            snippets: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_ahead_within_bounds() {
        for (number, size, bytes, told) in [
            (4, 4 << 10, 16 << 10, false),
            (1, 4 << 10, 16 << 10, false),
            (8, 16 << 10, 128 << 10, false),
            (8, 128 << 10, 1 << 20, false),
            (16, 128 << 10, 1 << 20, true),
            (u32::MAX, u32::MAX, 1 << 20, true),
        ] {
            let buffers = Buffers { on: true, number, size };
            assert_eq!(buffers.bytes(), bytes, "{number} {size}");
            assert_eq!(buffers.shortened().is_some(), told, "{number} {size}");
            assert_eq!(Buffers { on: false, ..buffers }.shortened(), None, "{number} {size}");
        }
    }
}
