//! What the ConfigMap sets for everything at once.

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
    /// The access log's line.
    pub log: Option<Template>,
    /// Why nothing may be served, when a security setting for everything is not built.
    pub refusal: Option<String>,
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
            log: Some(Template::default()),
            refusal: None,
        }
    }
}
