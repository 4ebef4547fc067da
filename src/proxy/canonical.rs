//! What a request asks for, read once; every later decision uses only this.
//!
//! hyper parses framing; what it lets pass and RFC 9110, 9112 and 9113 do not is refused here, before
//! anything is decided. Whatever leaves towards an endpoint is written from the canonical request, so
//! nobody behind us can read it differently.

use std::cell::OnceCell;

use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, request};

use super::peer::Peer;
use super::upgrade::is_extended;
use crate::model::connections::Heads;
use crate::model::host::Authority;
use crate::model::path;

/// Most header fields of a request; of HTTP/2 each cookie crumb counts.
pub(super) const MOST_FIELDS: usize = 100;

/// A request in canonical form, beside its head.
#[derive(Debug)]
pub(super) struct Asked {
    /// The host asked for; only an HTTP/1.0 request may have none.
    pub(super) authority: Option<Authority>,
    /// The canonical path, where it is not what the request line has.
    path: Option<Box<str>>,
    /// Whether the upstream gets the canonical path because a dot segment was resolved.
    pub(super) resolved: bool,
    /// `OPTIONS *`, which asks about us and not about any path.
    pub(super) asterisk: bool,
    /// What the upstream gets in place of path and query.
    pub(super) rewritten: OnceCell<Box<PathAndQuery>>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    /// The status of the rule that is broken.
    pub(super) status: StatusCode,
    /// Which rule, for the answer's body.
    pub(super) why: &'static str,
}

fn refuse<T>(status: StatusCode, why: &'static str) -> Result<T, Refused> {
    Err(Refused { status, why })
}

fn bad<T>(why: &'static str) -> Result<T, Refused> {
    refuse(StatusCode::BAD_REQUEST, why)
}

/// Refuses a head that is longer than allowed, with nginx's statuses: 414 for the request line, 400 for the
/// rest. Lines are counted as HTTP/1.1 writes them, ends included.
pub(super) fn check_length(head: &request::Parts, allowed: Heads) -> Result<(), Refused> {
    /// Spaces, version and end of the request line; what is between and after name and value.
    const AROUND_TARGET: usize = "  HTTP/1.1\r\n".len();
    const AROUND_VALUE: usize = ": \r\n".len();
    let (longest, most) = (allowed.line() as usize, allowed.whole() as usize);
    let mut whole = head.method.as_str().len() + length(head) + AROUND_TARGET;
    if whole > longest {
        return refuse(StatusCode::URI_TOO_LONG, "the request line is too long");
    }
    for (name, value) in &head.headers {
        let line = name.as_str().len() + value.len() + AROUND_VALUE;
        if line > longest {
            return bad("a header field is too long");
        }
        whole += line;
    }
    if whole > most { bad("the header fields are too long together") } else { Ok(()) }
}

/// How long the target is as it was written; of HTTP/2, path and query.
fn length(head: &request::Parts) -> usize {
    let uri = &head.uri;
    let before = match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) if head.version != Version::HTTP_2 => {
            scheme.len() + "://".len() + authority.as_str().len()
        }
        _ => 0,
    };
    before + uri.path_and_query().map_or(0, |it| it.as_str().len())
}

impl Asked {
    /// Reads a request's head.
    pub(super) fn read(head: &request::Parts, peer: &Peer) -> Result<Self, Refused> {
        if head.method == Method::CONNECT && !is_extended(head) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not for a reverse proxy");
        }
        if head.headers.len() > MOST_FIELDS {
            return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields");
        }
        check_transfer_encoding(head)?;
        check_expect(&head.headers)?;
        let authority = match head.version {
            Version::HTTP_2 => Some(authority_h2(head, peer)?),
            version => authority_h1(head, version)?,
        };
        let mut asked = Self {
            authority,
            path: None,
            resolved: false,
            asterisk: false,
            rewritten: OnceCell::new(),
        };
        match head.uri.path() {
            "*" if head.method == Method::OPTIONS => asked.asterisk = true,
            "" if head.uri.scheme().is_some() => asked.path = Some("/".into()),
            raw => match path::canonical(raw) {
                Ok(it) => {
                    asked.resolved = it.resolved;
                    if it.path != raw {
                        asked.path = Some(it.path.into());
                    }
                }
                Err(_) => return bad("the path is not a path"),
            },
        }
        Ok(asked)
    }

    /// Asks a host for what is written in the request's head.
    pub(super) fn of(host: Authority) -> Self {
        Self {
            authority: Some(host),
            path: None,
            rewritten: OnceCell::new(),
            resolved: false,
            asterisk: false,
        }
    }

    /// Asks the same host for `/`, with the same query.
    pub(super) fn at_root(self) -> Self {
        Self { path: Some("/".into()), resolved: true, asterisk: false, ..self }
    }

    /// The host, lower-cased and without its port; empty for an HTTP/1.0 request without one.
    pub(super) fn host(&self) -> &str {
        self.authority.as_ref().map_or("", |it| &it.host)
    }

    /// The canonical path.
    pub(super) fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        self.path.as_deref().unwrap_or_else(|| uri.path())
    }

    /// nginx's `$uri`: the canonical path, or what a rewrite has made of it by now.
    pub(super) fn uri<'a>(&'a self, uri: &'a Uri) -> &'a str {
        self.rewritten.get().map_or_else(|| self.path(uri), |it| it.path())
    }

    /// Path and query that the upstream is asked for.
    pub(super) fn outbound(&self, uri: &Uri) -> PathAndQuery {
        match self.rewritten.get() {
            Some(rewritten) => PathAndQuery::clone(rewritten),
            None => self.target(uri),
        }
    }

    /// Path and query that were asked for: as the client wrote them, unless a dot segment was resolved.
    pub(super) fn target(&self, uri: &Uri) -> PathAndQuery {
        match uri.path_and_query() {
            Some(raw) if !self.resolved && raw.as_str().starts_with('/') => raw.clone(),
            _ => {
                let query = uri.query().map(|it| format!("?{it}")).unwrap_or_default();
                let target = format!("{}{query}", self.path(uri)).parse();
                target.unwrap_or_else(|_| PathAndQuery::from_static("/"))
            }
        }
    }
}

/// RFC 9112 section 6.1: the one coding we know is `chunked`, once. hyper has refused codings after
/// which the length is unknown.
fn check_transfer_encoding(head: &request::Parts) -> Result<(), Refused> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => refuse(StatusCode::NOT_IMPLEMENTED, "the only transfer coding known is chunked"),
    }
}

/// RFC 9110 section 10.1.1.
fn check_expect(headers: &HeaderMap) -> Result<(), Refused> {
    let mut values = headers.get_all(EXPECT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => refuse(StatusCode::EXPECTATION_FAILED, "the only expectation known is 100-continue"),
    }
}

/// RFC 9112 section 3.2: exactly one `Host`; the absolute form replaces it.
fn authority_h1(head: &request::Parts, version: Version) -> Result<Option<Authority>, Refused> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("more than one Host");
    }
    let host = match host {
        None if version == Version::HTTP_10 => None,
        None => return bad("no Host"),
        Some(value) => match value.to_str().map(str::parse::<Authority>) {
            Ok(Ok(authority)) => Some(authority),
            _ => return bad("Host is not a host"),
        },
    };
    match (head.uri.scheme_str(), head.uri.authority()) {
        (None, None) => Ok(host),
        (Some("http" | "https"), Some(authority)) => match authority.as_str().parse() {
            Ok(authority) => Ok(Some(authority)),
            Err(_) => bad("the request target's host is not a host"),
        },
        _ => bad("the request target is not for a reverse proxy"),
    }
}

/// RFC 9113 section 8.3.1: `:authority`, which a `Host` beside it may only repeat.
fn authority_h2(head: &request::Parts, peer: &Peer) -> Result<Authority, Refused> {
    if head.uri.scheme_str().is_some_and(|it| !peer.may_ask_for(it)) {
        return bad(":scheme is not that of the connection");
    }
    // Section 8.2.1; HTTP/1.1 readers trim such a value and would see another one.
    let padded =
        |it: &HeaderValue| matches!(it.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if head.headers.values().any(padded) {
        return bad("a field's value begins or ends with a space");
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("more than one Host");
    }
    let host = match host {
        None => None,
        Some(value) => match value.to_str().map(str::parse::<Authority>) {
            Ok(Ok(authority)) => Some(authority),
            _ => return bad("Host is not a host"),
        },
    };
    let authority = match head.uri.authority() {
        None => None,
        Some(authority) => match authority.as_str().parse::<Authority>() {
            Ok(authority) => Some(authority),
            Err(_) => return bad(":authority is not a host"),
        },
    };
    match (authority, host) {
        (Some(authority), Some(host)) if authority != host => bad("Host is not :authority"),
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => bad("no :authority"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        version: Version,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Asked, u16> {
        let mut request = http::Request::builder().version(version).method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let peer = Peer::new(([192, 0, 2, 1], 1).into(), true, 443);
        Asked::read(&head, &peer).map_err(|it| it.status.as_u16())
    }

    #[test]
    fn one_host_names_what_is_asked() {
        const H1: Version = Version::HTTP_11;
        for (target, headers, expected) in [
            ("/", &[("host", "A.test:80")][..], Ok("a.test")),
            ("/", &[], Err(400)),
            ("/", &[("host", "a.test"), ("host", "a.test")], Err(400)),
            ("/", &[("host", "a,b")], Err(400)),
            ("/", &[("host", "")], Err(400)),
            ("http://b.test/x", &[("host", "a.test")], Ok("b.test")),
            ("ftp://b.test/x", &[("host", "a.test")], Err(400)),
            ("http://u@b.test/x", &[("host", "a.test")], Err(400)),
            ("a.test:80", &[("host", "a.test")], Err(400)),
            ("*", &[("host", "a.test")], Err(400)),
        ] {
            let asked = read(H1, "GET", target, headers);
            assert_eq!(
                asked.as_ref().map(Asked::host).map_err(|it| *it),
                expected,
                "{target} {headers:?}"
            );
        }
        assert_eq!(read(Version::HTTP_10, "GET", "/", &[]).map(|it| it.authority), Ok(None));
        assert!(read(H1, "OPTIONS", "*", &[("host", "a.test")]).is_ok_and(|it| it.asterisk));
        assert_eq!(read(H1, "CONNECT", "a.test:80", &[("host", "a.test")]).err(), Some(405));
    }

    #[test]
    fn authority_and_host_may_not_differ() {
        const H2: Version = Version::HTTP_2;
        for (target, headers, expected) in [
            ("https://a.test/", &[][..], Ok("a.test")),
            ("https://a.test/", &[("host", "A.test")], Ok("a.test")),
            ("https://a.test/", &[("host", "b.test")], Err(400)),
            ("http://a.test/", &[], Err(400)),
            ("https://u@a.test/", &[], Err(400)),
            ("/", &[("host", "a.test")], Ok("a.test")),
            ("/", &[], Err(400)),
        ] {
            let asked = read(H2, "GET", target, headers);
            assert_eq!(
                asked.as_ref().map(Asked::host).map_err(|it| *it),
                expected,
                "{target} {headers:?}"
            );
        }
    }

    #[test]
    fn codings_and_expectations_are_the_known_ones() {
        for (name, value, expected) in [
            ("transfer-encoding", "chunked", None),
            ("transfer-encoding", "Chunked", None),
            ("transfer-encoding", "gzip, chunked", Some(501)),
            ("transfer-encoding", "identity, chunked", Some(501)),
            ("expect", "100-continue", None),
            ("expect", "x", Some(417)),
        ] {
            let asked = read(Version::HTTP_11, "POST", "/", &[("host", "a.test"), (name, value)]);
            assert_eq!(asked.err(), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_head_is_as_long_as_is_allowed() {
        let allowed = Heads { first: 1, number: 2, size: 100 };
        // Around the target stand 15 bytes, around a value with its name 5.
        for (target, fields, expected) in [
            (85, &[][..], None),
            (86, &[], Some(414)),
            (1, &[95], None),
            (1, &[96], Some(400)),
            (85, &[95], None),
            (85, &[40, 50], None),
            (85, &[40, 51], None),
            (85, &[40, 52], Some(400)),
            (86, &[96], Some(414)),
        ] {
            let target = format!("/{}", "a".repeat(target - 1));
            let mut request = http::Request::builder().uri(target.as_str());
            for count in fields {
                request = request.header("x", "b".repeat(*count));
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            let refused = check_length(&head, allowed).err().map(|it| it.status.as_u16());
            assert_eq!(refused, expected, "{target} {fields:?}");
        }
        for (version, target, expected) in [
            (Version::HTTP_11, "/a?b", 4),
            (Version::HTTP_11, "http://a.test/b", 15),
            (Version::HTTP_11, "*", 1),
            (Version::HTTP_2, "http://a.test/b", 2),
        ] {
            let request = http::Request::builder().version(version).uri(target);
            let (head, ()) = request.body(()).expect("a request").into_parts();
            assert_eq!(length(&head), expected, "{target}");
        }
    }

    #[test]
    fn the_upstream_gets_what_the_client_wrote_unless_dots_were_resolved() {
        for (target, expected) in [
            ("/a//b?x=1", "/a//b?x=1"),
            ("/%61?x", "/%61?x"),
            ("/a/../b?x=1", "/b?x=1"),
            ("http://a.test?x=1", "/?x=1"),
        ] {
            let uri: Uri = target.parse().expect("a target");
            let asked = read(Version::HTTP_11, "GET", target, &[("host", "a.test")]);
            assert_eq!(asked.expect("read").target(&uri).as_str(), expected, "{target}");
        }
    }
}
