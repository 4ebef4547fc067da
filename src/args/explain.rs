//! Flags of `explain`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use http::{HeaderName, HeaderValue, Method};

use super::{Output, Serve};
use crate::model::host::Authority;

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// What is asked for, as http://HOST/PATH or https://HOST/PATH.
    #[arg(value_name = "URL", value_parser = Url::parse)]
    pub url: Url,
    /// Files or directories with objects, or - for standard input; the cluster when none is given.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Method of the request.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub method: Method,
    /// A header field of the request; may be given more than once.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Address that the request comes from; by default one that nobody has (RFC 5737).
    #[arg(long, value_name = "ADDRESS", default_value = "192.0.2.1")]
    pub client: IpAddr,
    /// How to say it.
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "HOW")]
    pub output: Output,
    /// What `serve` is started with.
    #[command(flatten)]
    pub serve: Serve,
}

/// A URL in the parts that a request has; path and query are as they were written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    /// Whether its scheme is https.
    pub https: bool,
    /// Its host, and its port if it names one.
    pub authority: Authority,
    /// Path and query.
    pub target: String,
}

impl Url {
    /// Reads a URL of scheme http or https; what follows a `#` never leaves a client.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "a URL such as https://shop.example.org/cart".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let authority = authority.parse().map_err(|_| wrong())?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { https, authority, target: format!("{slash}{target}") })
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = text.split_once(':').and_then(|(name, value)| {
        Some((name.trim().parse().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    parsed.ok_or_else(|| "a name and a value such as 'Accept: text/html'".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_and_a_host() {
        for (text, expected) in [
            ("http://a.test", Some((false, "a.test", "/"))),
            ("https://A.test:8443/x/../y?z=1#top", Some((true, "a.test:8443", "/x/../y?z=1"))),
            ("HTTPS://a.test?x", Some((true, "a.test", "/?x"))),
            ("http://[::1]:80/%zz", Some((false, "[::1]:80", "/%zz"))),
            ("a.test/x", None),
            ("ftp://a.test/", None),
            ("http:///x", None),
            ("http://u@a.test/", None),
        ] {
            let found = Url::parse(text).ok();
            let found = found.as_ref().map(|it| (it.https, it.authority.to_string(), &*it.target));
            let expected = expected.map(|(https, host, target)| (https, host.to_owned(), target));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        for (text, expected) in [
            ("X-Canary: always", Some(("x-canary", "always"))),
            ("x:", Some(("x", ""))),
            ("x: a:b ", Some(("x", "a:b"))),
            ("x", None),
            (": a", None),
            ("a b: c", None),
        ] {
            let found = header(text).ok();
            let found =
                found.as_ref().map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
            assert_eq!(found, expected, "{text}");
        }
    }
}
