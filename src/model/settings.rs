//! What the ConfigMap sets for everything at once.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;

use super::access::Shared;
use super::answering::Fields;
use super::client_tls::TlsSettings;
use super::connections::Connections;
use super::copies::Unlogged;
use super::network::Networks;
use super::options::Options;
use super::rate::LimitStatuses;
use super::stream::StreamSettings;
use super::template::Template;
use super::trace::Tracing;

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
    /// Requests that leave no line there.
    pub unlogged: Unlogged,
    /// How answers are compressed.
    pub compression: Compression,
    /// Who may ask for anything at all, and what of access all Ingresses share.
    pub access: Shared,
    /// Header fields of all requests and answers.
    pub fields: Fields,
    /// What clients get that ask for too much.
    pub limit_statuses: LimitStatuses,
    /// TLS towards clients.
    pub tls: TlsSettings,
    /// How long connections live, and what they carry.
    pub connections: Connections,
    /// How ports are handed on.
    pub streams: StreamSettings,
    /// Where spans go, and which.
    pub tracing: Tracing,
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

/// The content codings (RFC 9110 section 8.4.1) that answers are compressed with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compression {
    /// `use-gzip` and the settings beside it; `None` for off.
    pub gzip: Option<Coding>,
    /// `enable-brotli` and the settings beside it; `None` for off.
    pub brotli: Option<Coding>,
}

/// How and what one coding compresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coding {
    /// 1 to 9 for gzip, 0 to 11 for brotli.
    pub level: u8,
    /// Shorter answers are left alone; in bytes. Those of unknown length are not.
    pub min_length: u64,
    /// What is compressed.
    pub types: MediaTypes,
}

impl Coding {
    /// ingress-nginx's defaults of `gzip-*`.
    pub fn gzip() -> Self {
        Self { level: 1, min_length: 256, types: MediaTypes::default() }
    }

    /// ingress-nginx's defaults of `brotli-*`.
    pub fn brotli() -> Self {
        Self { level: 4, min_length: 20, types: MediaTypes::default() }
    }
}

/// The media types whose answers are compressed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MediaTypes {
    /// `*`: whatever an answer says or does not say of its type.
    All,
    /// These, and `text/html`, which always is.
    Listed(Vec<Box<str>>),
}

impl MediaTypes {
    /// Reads types with white space between them, or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let types: Vec<Box<str>> = text.split_whitespace().map(Into::into).collect();
        if types.iter().any(|it| **it == *"*") {
            return Some(Self::All);
        }
        let is_type = |it: &str| {
            it.split_once('/').is_some_and(|(kind, rest)| is_token(kind) && is_token(rest))
        };
        types.iter().all(|it| is_type(it)).then_some(Self::Listed(types))
    }

    /// Whether a type is among them; `None` for an answer without one. Parameters, such as `charset`, are
    /// to be left out.
    pub fn cover(&self, media_type: Option<&str>) -> bool {
        match (self, media_type) {
            (Self::All, _) => true,
            (Self::Listed(_), None) => false,
            (Self::Listed(types), Some(it)) => {
                it.eq_ignore_ascii_case("text/html")
                    || types.iter().any(|listed| listed.eq_ignore_ascii_case(it))
            }
        }
    }
}

impl Default for MediaTypes {
    /// ingress-nginx's list, for gzip and brotli alike.
    fn default() -> Self {
        let types = [
            "application/atom+xml",
            "application/javascript",
            "application/x-javascript",
            "application/json",
            "application/rss+xml",
            "application/vnd.ms-fontobject",
            "application/x-font-ttf",
            "application/x-web-app-manifest+json",
            "application/xhtml+xml",
            "application/xml",
            "font/opentype",
            "image/svg+xml",
            "image/x-icon",
            "text/css",
            "text/javascript",
            "text/plain",
            "text/x-component",
        ];
        Self::Listed(types.map(Into::into).to_vec())
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    !text.is_empty() && text.bytes().all(allowed)
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
            unlogged: Unlogged::default(),
            compression: Compression::default(),
            access: Shared::default(),
            fields: Fields::default(),
            limit_statuses: LimitStatuses::default(),
            tls: TlsSettings::default(),
            connections: Connections::default(),
            streams: StreamSettings::default(),
            tracing: Tracing::default(),
            refusal: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_listed_or_all() {
        for (text, media_type, expected) in [
            ("text/css", Some("text/css"), Some(true)),
            ("text/css\n  Application/JSON", Some("application/json"), Some(true)),
            ("text/css", Some("TEXT/HTML"), Some(true)),
            ("", Some("text/html"), Some(true)),
            ("text/css", Some("text/csv"), Some(false)),
            ("text/css", None, Some(false)),
            ("text/css *", Some("image/png"), Some(true)),
            ("*", None, Some(true)),
            ("text", None, None),
            ("text/*/x", None, None),
            ("text/css, text/plain", None, None),
        ] {
            let types = MediaTypes::parse(text);
            assert_eq!(types.map(|it| it.cover(media_type)), expected, "{text:?} {media_type:?}");
        }
    }
}
