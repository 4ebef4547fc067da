//! Header fields on their way through: what ends at us goes, what we vouch for is added.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HOST, HeaderName, SERVER,
    STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Version};
use http_body::Frame;

use super::canonical::Asked;
use super::client_tls;
use super::peer::Peer;
use crate::model::settings::Settings;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
pub(super) const X_SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const X_ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const X_ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

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

/// How long a body is, where its message says so.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
    let said = [said(headers, &X_FORWARDED_FOR), said(headers, &X_FORWARDED_HOST)];
    // The length is written anew, from what was read.
    end_here(headers, |it| {
        is_strange(it, settings.underscores) || is_claim(it) || *it == CONTENT_LENGTH
    });
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    via(headers, version)?;
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
    if let Some(host) = host(headers, asked) {
        headers.insert(X_FORWARDED_HOST, vouched.host.clone().unwrap_or(host));
    }
    Ok(())
}

/// What [`to_upstream`] adds and an external judge does not get, as with ingress-nginx.
pub(super) const FOR_ENDPOINTS: [HeaderName; 7] = [
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PROTO,
    X_FORWARDED_SCHEME,
    X_SCHEME,
    X_ORIGINAL_FORWARDED_FOR,
    X_ORIGINAL_FORWARDED_HOST,
];

/// Gives fields to an endpoint that others than its client fill: `None` takes away what the client said. Where
/// names with an underscore pass, those that a CGI-like backend would take for one of them go, too.
pub(super) fn set_onward(
    headers: &mut HeaderMap,
    onward: &RefCell<Vec<(HeaderName, Option<HeaderValue>)>>,
    settings: &Settings,
) {
    // They are there still for whoever else is asked because of the request.
    for (name, value) in &*onward.borrow() {
        if let Some(value) = value {
            headers.append(name.clone(), value.clone());
            continue;
        }
        headers.remove(name);
        if settings.underscores {
            let alike = |it: &&HeaderName| it.as_str().replace('_', "-") == name.as_str();
            let alike: Vec<_> = headers.keys().filter(alike).cloned().collect();
            for name in alike {
                headers.remove(name);
            }
        }
    }
}

/// What a client said in a field, all of it.
pub(super) fn said(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    // Nearly nobody does; looking at the names costs less than a hash of this one.
    headers.keys().find(|it| *it == name)?;
    let said: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&said.join(&b", "[..])).ok()
}

/// Makes the host what the upstream shall see: what the client wrote where that is canonical.
fn host(headers: &mut HeaderMap, asked: &Asked) -> Option<HeaderValue> {
    let authority = asked.authority.as_ref()?;
    let text = match authority.port {
        None => Cow::Borrowed(&*authority.host),
        Some(_) => authority.to_string().into(),
    };
    if let Some(sent) = headers.get(HOST).filter(|it| it.as_bytes() == text.as_bytes()) {
        return Some(sent.clone());
    }
    let host = HeaderValue::from_str(&text).ok()?;
    headers.insert(HOST, host.clone());
    Some(host)
}

/// Removes what concerns one connection only, in either direction, and what else is unwanted.
fn end_here(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let ending = |it: &&HeaderName| ends_here(it) || unwanted(it);
    let mut ending: Vec<HeaderName> = headers.keys().filter(ending).cloned().collect();
    if ending.contains(&CONNECTION) {
        // What nearly all say says nothing about other fields.
        let telling = connection_tokens(headers)
            .filter(|it| !["keep-alive", "close"].iter().any(|word| it.eq_ignore_ascii_case(word)));
        ending.extend(telling.filter_map(|it| it.parse().ok()).filter(|it| !is_end_to_end(it)));
    }
    let trailers = ending.contains(&TE)
        && headers
            .get_all(TE)
            .iter()
            .any(|it| it.to_str().is_ok_and(|it| it.split(',').any(|it| it.trim() == "trailers")));
    for name in ending {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Fields of one connection (RFC 9110 section 7.6.1), and those that would let a client speak for us.
fn ends_here(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "proxy"
            | "expect"
    )
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

/// Fields that `Connection` may not list: a client could strip what we or others vouch for.
fn is_end_to_end(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, AUTHORIZATION, FORWARDED, COOKIE, VIA, TE, TRAILER].contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with(client_tls::PREFIX)
        || [X_REAL_IP, X_REQUEST_ID, X_SCHEME].contains(name)
}

/// Whether a name holds anything but letters, digits and hyphens. nginx drops those: to a CGI-like
/// backend `x_user` and `x-user` are one.
fn is_strange(name: &HeaderName, underscores: bool) -> bool {
    let plain = |it| matches!(it, b'a'..=b'z' | b'-' | b'0'..=b'9') || (underscores && it == b'_');
    !name.as_str().bytes().all(plain)
}

/// Whether a field is one in which proxies, not clients, say who asks for what.
///
/// To a CGI-like backend an underscore is a hyphen: so it is here.
fn is_claim(name: &HeaderName) -> bool {
    const OURS: [&str; 5] = ["x-real-ip", "x-scheme", "x-request-id", "proxy", "host"];
    let name = name.as_str();
    if name.contains('_') {
        let name = name.replace('_', "-");
        return OURS.contains(&name.as_str()) || claims(&name);
    }
    claims(name)
}

fn claims(name: &str) -> bool {
    name.strip_prefix("x-").is_some_and(|it| {
        ["forwarded-", "original-", "auth-request-"].iter().any(|prefix| it.starts_with(prefix))
    }) || name == "forwarded"
        || name.starts_with(client_tls::PREFIX)
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
    let protocol = HeaderValue::from_static(protocol);
    match headers.entry(VIA) {
        Entry::Vacant(none) => drop(none.insert(protocol)),
        Entry::Occupied(mut hops) => {
            let passes = hops
                .iter()
                .filter_map(|it| it.to_str().ok())
                .flat_map(|it| it.split(','))
                .filter(|it| it.split_whitespace().nth(1) == Some(PSEUDONYM))
                .count();
            if passes > MOST_PASSES {
                return Err(Loops);
            }
            hops.append(protocol);
        }
    }
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
    let hidden = &settings.fields.hidden;
    end_here(headers, |it| (*it == SERVER && !settings.server_header) || hidden.contains(it));
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
    end_here(headers, is_accel);
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
fn clean_trailers(trailers: &mut HeaderMap) {
    let refused: Vec<HeaderName> = trailers
        .keys()
        .filter(|it| {
            ends_here(it) || is_end_to_end(it) || is_claim(it) || it.as_str().contains('_')
        })
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
}

/// A piece of a body whose trailers may be passed on.
pub(super) fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
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
        end_here(&mut headers, |_| false);
        assert_eq!(
            headers,
            map(&[("host", "a.test"), ("authorization", "Basic x"), ("te", "trailers")])
        );
    }

    #[test]
    fn strange_names_are_dropped() {
        let mut headers = map(&[("x_user", "root"), ("x-user", "me"), ("x.y", "z")]);
        end_here(&mut headers, |it| is_strange(it, true));
        assert_eq!(headers, map(&[("x_user", "root"), ("x-user", "me")]));
        end_here(&mut headers, |it| is_strange(it, false));
        assert_eq!(headers, map(&[("x-user", "me")]));
    }

    #[test]
    fn what_others_fill_no_client_fills() {
        let name = |it| HeaderName::from_static(it);
        let onward = RefCell::new(vec![
            (name("x-user"), None),
            (name("x-mail"), None),
            (name("x-user"), Some(HeaderValue::from_static("ann"))),
        ]);
        for underscores in [false, true] {
            let settings = Settings { underscores, ..Settings::default() };
            // Everybody who is asked gets the same.
            for _ in 0..2 {
                let mut headers = map(&[("x-user", "root"), ("x-mail", "root"), ("x-b", "c")]);
                if underscores {
                    headers.insert("x_user", HeaderValue::from_static("root"));
                }
                set_onward(&mut headers, &onward, &settings);
                assert_eq!(headers, map(&[("x-b", "c"), ("x-user", "ann")]), "{underscores}");
            }
        }
    }

    #[test]
    fn claims_are_claims_with_underscores_too() {
        for (name, claim) in [
            ("x-forwarded-for", true),
            ("ssl-client-verify", true),
            ("ssl_client_verify", true),
            ("x_auth_request_user", true),
            ("x_real_ip", true),
            ("x-user", false),
            ("x_user", false),
        ] {
            assert_eq!(is_claim(&HeaderName::from_static(name)), claim, "{name}");
        }
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
