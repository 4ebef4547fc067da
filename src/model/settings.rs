//! What the ConfigMap sets for everything at once.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;

use super::network::Networks;
use super::options::Options;
use super::template::Template;

/// Settings that no annotation changes, and the defaults for those that annotations do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What an Ingress without annotations gets.
    pub options: Options,
    /// Status of redirects to HTTPS: 301, 302, 307 or 308.
    pub redirect_code: u16,
    /// Ingress paths that begin with one of these are never redirected to HTTPS.
    pub no_redirect: Vec<String>,
    /// Value of `Strict-Transport-Security` on HTTPS answers.
    pub hsts: Option<Hsts>,
    /// Pass request headers whose names hold an underscore.
    pub underscores: bool,
    /// Send requests without `X-Request-ID` on with a fresh one.
    pub request_id: bool,
    /// Leave the upstream's `Server` header in place.
    pub server_header: bool,
    /// Whom to believe about who asks.
    pub trust: Trust,
    /// The access log's line.
    pub log: Option<Template>,
    /// Why nothing may be served, when a security setting for everything is not built.
    pub refusal: Option<String>,
}

/// Whom to believe about who asks, and in what.
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trust {
    /// The proxies in front of us; nobody else is believed in anything.
    pub proxies: Networks,
    /// Each connection of theirs begins with a PROXY header.
    pub proxy_protocol: bool,
    /// How long that header may take.
    pub proxy_header_timeout: Duration,
    /// Their requests say in `X-Forwarded-…` who asks, over what, and for what.
    pub forwarded_headers: bool,
    /// Their requests say who asks, and nothing else.
    pub real_ip: bool,
    /// The field that lists whom a request came from and through; `None` where what was set is no name,
    /// and nothing is read.
    pub forwarded_for: Option<HeaderName>,
    /// Endpoints get the `X-Forwarded-For` that came with one more address, instead of the client's alone.
    pub full_forwarded_for: bool,
}

impl Trust {
    /// Whether a connection from `address` has to begin with a PROXY header.
    pub fn expects_proxy_header(&self, address: IpAddr) -> bool {
        self.proxy_protocol && self.proxies.contains(address)
    }

    /// Whether requests are read for who asks.
    ///
    /// As in ingress-nginx the PROXY protocol stands above `enable-real-ip`: clients whose addresses come
    /// by it could otherwise name themselves in a field.
    pub fn reads_requests(&self) -> bool {
        self.forwarded_headers || (self.real_ip && !self.proxy_protocol)
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            proxies: Networks::all(),
            proxy_protocol: false,
            proxy_header_timeout: Duration::from_secs(5),
            forwarded_headers: false,
            real_ip: false,
            forwarded_for: Some(HeaderName::from_static("x-forwarded-for")),
            full_forwarded_for: false,
        }
    }
}

/// RFC 6797 section 6.1.
#[expect(missing_docs, reason = "the names are the RFC's")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hsts {
    /// Seconds.
    pub max_age: u64,
    pub include_subdomains: bool,
    pub preload: bool,
}

impl Default for Hsts {
    fn default() -> Self {
        Self { max_age: 31_536_000, include_subdomains: true, preload: false }
    }
}

impl std::fmt::Display for Hsts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "max-age={}", self.max_age)?;
        if self.include_subdomains {
            f.write_str("; includeSubDomains")?;
        }
        if self.preload {
            f.write_str("; preload")?;
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            options: Options::default(),
            redirect_code: 308,
            no_redirect: vec!["/.well-known/acme-challenge".to_owned()],
            hsts: Some(Hsts::default()),
            underscores: false,
            request_id: true,
            server_header: false,
            trust: Trust::default(),
            log: Some(Template::default()),
            refusal: None,
        }
    }
}
