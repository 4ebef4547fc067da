//! What the annotations of an Ingress ask for, as typed values.

use std::time::Duration;

use super::phrase::Phrase;
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
        }
    }
}
