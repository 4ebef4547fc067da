//! Header fields on their way through: what ends at us goes, what we vouch for is added.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, STRICT_TRANSPORT_SECURITY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Version};

use super::canonical::Asked;
use super::peer::Peer;
use crate::model::settings::Settings;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY: HeaderName = HeaderName::from_static("proxy");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const X_ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const X_ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Fields of one connection (RFC 9110 section 7.6.1), and those that would let a client speak for us.
const ENDING_HERE: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    PROXY,
    EXPECT,
];
/// Our name in `Via`.
const PSEUDONYM: &str = "lockgate";
/// More often than this no sane chain of proxies passes us.
const MOST_PASSES: usize = 4;

/// What the requests of one client are vouched for with.
#[derive(Clone, Debug)]
pub(super) struct Vouched {
    address: HeaderValue,
    /// The client's address, or the list of hops that ends with the connection's.
    pub(super) forwarded_for: HeaderValue,
    /// The host that the client asked a proxy in front of us for, where it is told.
    pub(super) host: Option<HeaderValue>,
    scheme: HeaderValue,
    port: HeaderValue,
}

impl Vouched {
    pub(super) fn new(peer: &Peer) -> Self {
        let text = |it: String| HeaderValue::try_from(it).unwrap_or(HeaderValue::from_static(""));
        let address = text(peer.address.ip().to_canonical().to_string());
        Self {
            forwarded_for: address.clone(),
            address,
            host: None,
            scheme: HeaderValue::from_static(peer.scheme()),
            port: HeaderValue::from(peer.port),
        }
    }
}

/// Whether a request asks for a WebSocket (RFC 6455 section 4.1), the one upgrade that is passed on.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let websocket =
        upgrades.next().is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && upgrades.next().is_none();
    websocket && connection_tokens(headers).any(|it| it.eq_ignore_ascii_case("upgrade"))
}

/// The request has passed us too often (RFC 9110 section 7.6.3): it runs in a circle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Loops;

/// Turns a client's header fields into those an endpoint gets.
pub(super) fn to_upstream(
    headers: &mut HeaderMap,
    asked: &Asked,
    version: Version,
    vouched: &Vouched,
    settings: &Settings,
) -> Result<(), Loops> {
    end_here(headers);
    let said = [said(headers, &X_FORWARDED_FOR), said(headers, &X_FORWARDED_HOST)];
    drop_names(headers, |it| is_strange(it, settings.underscores) || is_claim(it));
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    via(headers, version)?;
    let host = host(headers, asked);
    // What the client claimed stays readable, under names that nobody trusts.
    for (name, said) in [X_ORIGINAL_FORWARDED_FOR, X_ORIGINAL_FORWARDED_HOST].into_iter().zip(said)
    {
        if let Some(said) = said {
            headers.insert(name, said);
        }
    }
    headers.insert(X_REAL_IP, vouched.address.clone());
    headers.insert(X_FORWARDED_FOR, vouched.forwarded_for.clone());
    headers.insert(X_FORWARDED_PORT, vouched.port.clone());
    headers.insert(X_FORWARDED_PROTO, vouched.scheme.clone());
    headers.insert(X_FORWARDED_SCHEME, vouched.scheme.clone());
    headers.insert(X_SCHEME, vouched.scheme.clone());
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, vouched.host.as_ref().unwrap_or(&host).clone());
        headers.insert(HOST, host);
    }
    // hyper writes the length anew, from what it read.
    headers.remove(CONTENT_LENGTH);
    Ok(())
}

/// What a client said in a field, all of it.
pub(super) fn said(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    headers.get(name)?;
    let said: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&said.join(&b", "[..])).ok()
}

/// The host as the upstream sees it: what the client wrote where that is canonical.
fn host(headers: &HeaderMap, asked: &Asked) -> Option<HeaderValue> {
    let text = asked.authority.as_ref()?.to_string();
    match headers.get(HOST) {
        Some(sent) if sent.as_bytes() == text.as_bytes() => Some(sent.clone()),
        _ => HeaderValue::try_from(text).ok(),
    }
}

/// Removes what concerns one connection only, in either direction.
fn end_here(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> =
            connection_tokens(headers).filter_map(|it| it.parse().ok()).collect();
        for name in listed.iter().filter(|it| !is_end_to_end(it)) {
            headers.remove(name);
        }
    }
    for name in ENDING_HERE {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers
            .get_all(TE)
            .iter()
            .any(|it| it.to_str().is_ok_and(|it| it.split(',').any(|it| it.trim() == "trailers")));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

/// Fields that `Connection` may not list: a client could strip what we or others vouch for.
fn is_end_to_end(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, AUTHORIZATION, FORWARDED, COOKIE, VIA, TE, TRAILER].contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || [X_REAL_IP, X_REQUEST_ID, X_SCHEME].contains(name)
}

fn drop_names(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&unwanted) {
        let names: Vec<HeaderName> = headers.keys().filter(|it| unwanted(it)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether a name holds anything but letters, digits and hyphens. nginx drops those: to a CGI-like
/// backend `x_user` and `x-user` are one.
fn is_strange(name: &HeaderName, underscores: bool) -> bool {
    let plain = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || (underscores && it == b'_');
    !name.as_str().bytes().all(plain)
}

/// Whether a field is one in which proxies, not clients, say who asks for what.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.strip_prefix("x-").is_some_and(|it| {
        ["forwarded-", "original-", "auth-request-"].iter().any(|prefix| it.starts_with(prefix))
    }) || name == "forwarded"
}

/// RFC 9113 section 8.2.3: crumbs become one field before they reach HTTP/1.1.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// RFC 9110 section 7.6.3.
fn via(headers: &mut HeaderMap, version: Version) -> Result<(), Loops> {
    let protocol = match version {
        Version::HTTP_2 => "2.0 lockgate",
        Version::HTTP_10 => "1.0 lockgate",
        _ => "1.1 lockgate",
    };
    if headers.contains_key(VIA) {
        let hops = headers.get_all(VIA).iter().filter_map(|it| it.to_str().ok());
        let passes = hops
            .flat_map(|it| it.split(','))
            .filter(|it| it.split_whitespace().nth(1) == Some(PSEUDONYM))
            .count();
        if passes > MOST_PASSES {
            return Err(Loops);
        }
    }
    headers.append(VIA, HeaderValue::from_static(protocol));
    Ok(())
}

/// An answer whose framing we do not pass on; it becomes 502.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BadFraming;

/// Turns an endpoint's header fields into those the client gets.
pub(super) fn to_client(headers: &mut HeaderMap, settings: &Settings) -> Result<(), BadFraming> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        // RFC 9112 section 6.3: the coding wins over a length beside it.
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            headers.remove(CONTENT_LENGTH);
        }
        _ => return Err(BadFraming),
    }
    end_here(headers);
    if !settings.server_header {
        headers.remove(SERVER);
    }
    Ok(())
}

/// What an endpoint tells its proxy rather than the client: whether its answer is to be read ahead
/// (nginx's `X-Accel-Buffering`). Removes all such fields, as nginx does.
pub(super) fn take_accel(headers: &mut HeaderMap) -> Option<bool> {
    let is_accel = |it: &HeaderName| it.as_str().starts_with("x-accel-");
    if !headers.keys().any(is_accel) {
        return None;
    }
    let said = headers.get(X_ACCEL_BUFFERING).and_then(|it| match it.as_bytes() {
        it if it.eq_ignore_ascii_case(b"yes") => Some(true),
        it if it.eq_ignore_ascii_case(b"no") => Some(false),
        _ => None,
    });
    drop_names(headers, is_accel);
    said
}

/// RFC 6797: on answers over TLS, in place of what the endpoint says.
pub(super) fn add_hsts(headers: &mut HeaderMap, hsts: Option<&HeaderValue>, peer: &Peer) {
    if peer.tls
        && let Some(value) = hsts
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
    }
}

/// RFC 9110 section 6.5.1: nothing that frames, routes or vouches may come in a trailer.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let refused: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            ENDING_HERE.contains(name) || is_end_to_end(name) || name.as_str().contains('_')
        })
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_concerns_one_connection_ends_here() {
        let mut headers = map(&[
            ("connection", "close, x-secret, X-Forwarded-For, host, authorization"),
            ("x-secret", "1"),
            ("host", "a.test"),
            ("authorization", "Basic x"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("proxy", "http://evil"),
        ]);
        end_here(&mut headers);
        assert_eq!(
            headers,
            map(&[("host", "a.test"), ("authorization", "Basic x"), ("te", "trailers")])
        );
    }

    #[test]
    fn strange_names_are_dropped() {
        let mut headers = map(&[("x_user", "root"), ("x-user", "me"), ("x.y", "z")]);
        drop_names(&mut headers, |it| is_strange(it, true));
        assert_eq!(headers, map(&[("x_user", "root"), ("x-user", "me")]));
        drop_names(&mut headers, |it| is_strange(it, false));
        assert_eq!(headers, map(&[("x-user", "me")]));
    }

    #[test]
    fn a_circle_is_noticed() {
        let mut headers = HeaderMap::new();
        let passes = (0..10).take_while(|_| via(&mut headers, Version::HTTP_11).is_ok()).count();
        assert_eq!(passes, MOST_PASSES + 1);
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        for (fields, expected) in [
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")][..], true),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], false),
            (&[("connection", "close"), ("upgrade", "websocket")], false),
        ] {
            assert_eq!(wants_websocket(&map(fields)), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_for_us_ends_here() {
        for (value, said) in [("yes", Some(true)), ("No", Some(false)), ("off", None)] {
            let mut headers = map(&[
                ("x-accel-buffering", value),
                ("x-accel-redirect", "/internal"),
                ("x-acceleration", "9.81"),
            ]);
            assert_eq!(take_accel(&mut headers), said, "{value}");
            assert_eq!(headers, map(&[("x-acceleration", "9.81")]));
        }
    }

    #[test]
    fn an_answers_framing_is_ours_or_it_is_refused() {
        let settings = Settings::default();
        let mut both = map(&[("transfer-encoding", "chunked"), ("content-length", "3")]);
        assert_eq!(to_client(&mut both, &settings), Ok(()));
        assert!(both.is_empty());
        let mut strange = map(&[("transfer-encoding", "gzip, chunked")]);
        assert_eq!(to_client(&mut strange, &settings), Err(BadFraming));
    }
}
