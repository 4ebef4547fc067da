//! What a trusted proxy in front of us says of its client, request by request.
//!
//! Fields and their meaning are ingress-nginx's, but for three things. Whoever is not in
//! `proxy-real-ip-cidr` is believed in nothing, where ingress-nginx checks that for the address only.
//! `X-Forwarded-Host` goes to endpoints as that and decides nothing, where ingress-nginx makes it their
//! `Host` as well: the host that was routed on is the one an endpoint sees. And a scheme told without a
//! port means that scheme's own port.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Ports;
use super::headers::{
    Vouched, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, said,
};
use super::peer::Peer;
use crate::model::host::Authority;
use crate::model::network::Networks;
use crate::model::settings::Trust;

/// A client that a trusted proxy speaks for, and what its request is vouched for with.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) peer: Peer,
    pub(super) vouched: Vouched,
}

/// What a request says of its client; `None` where that is not read, or the other end of its connection
/// is not trusted with it: then that end is the client.
pub(super) fn told(
    trust: &Trust,
    connection: &Peer,
    ports: Ports,
    headers: &HeaderMap,
) -> Option<Box<Told>> {
    if !trust.reads_requests() || !trust.proxies.contains(connection.address.ip()) {
        return None;
    }
    let mut peer = *connection;
    if let Some(name) = &trust.forwarded_for {
        peer.address = client(headers, name, &trust.proxies, connection.address);
    }
    if !trust.forwarded_headers {
        return Some(Box::new(Told { vouched: Vouched::new(&peer), peer }));
    }
    match only(headers, &X_FORWARDED_PROTO) {
        Some("https") if !peer.https => (peer.https, peer.port) = (true, ports.https),
        Some("http") if peer.https => (peer.https, peer.port) = (false, ports.http),
        _ => {}
    }
    let port = only(headers, &X_FORWARDED_PORT).and_then(|it| it.parse().ok());
    peer.port = port.filter(|it| *it > 0).unwrap_or(peer.port);
    let mut vouched = Vouched::new(&peer);
    vouched.host = host(headers);
    if trust.full_forwarded_for
        && let Some(list) = said(headers, &X_FORWARDED_FOR)
        && let Some(list) = with(&list, connection.address.ip())
    {
        vouched.forwarded_for = list;
    }
    Some(Box::new(Told { peer, vouched }))
}

/// Who asks by a list of hops: the last that is no proxy of ours, else the first (nginx's
/// `real_ip_recursive`). What is no address ends the list.
fn client(
    headers: &HeaderMap,
    name: &HeaderName,
    proxies: &Networks,
    connection: SocketAddr,
) -> SocketAddr {
    let lines = headers.get_all(name).iter().rev();
    let hops = lines.flat_map(|it| it.as_bytes().rsplit(|it| matches!(it, b',' | b' ' | b'\t')));
    let mut client = connection;
    for hop in hops.filter(|it| !it.is_empty()) {
        let Some(address) = address(hop) else { break };
        client = address;
        if !proxies.contains(client.ip()) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; without a port it is 0.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The first host of `X-Forwarded-Host`, in the form that our own hosts have.
fn host(headers: &HeaderMap) -> Option<HeaderValue> {
    let list = headers.get(X_FORWARDED_HOST)?.to_str().ok()?;
    let host: Authority = list.split(',').next()?.trim().parse().ok()?;
    HeaderValue::try_from(host.to_string()).ok()
}

/// The value of a field that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

/// A list of hops with one more.
fn with(list: &HeaderValue, address: IpAddr) -> Option<HeaderValue> {
    let address = address.to_canonical().to_string();
    HeaderValue::from_bytes(&[list.as_bytes(), address.as_bytes()].join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { http: 80, https: 443 };

    fn trust() -> Trust {
        let proxies = "10.0.0.0/8, 2001:db8::/32".parse().expect("a list");
        Trust { proxies, forwarded_headers: true, ..Trust::default() }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// A proxy's connection without TLS.
    fn proxy() -> Peer {
        Peer::new(([10, 0, 0, 1], 5).into(), false, 80)
    }

    #[test]
    fn nobody_is_asked_unless_the_settings_say_so() {
        let headers = map(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]);
        let stranger = Peer::new(([192, 0, 2, 9], 5).into(), false, 80);
        let usual = Trust::default();
        let real_ip = Trust { forwarded_headers: false, real_ip: true, ..trust() };
        for (case, trust, peer, expected) in [
            ("by default", usual.clone(), proxy(), None),
            ("PROXY protocol alone", Trust { proxy_protocol: true, ..usual }, proxy(), None),
            ("a stranger", trust(), stranger, None),
            ("nobody trusted", Trust { proxies: Networks::default(), ..trust() }, proxy(), None),
            ("a proxy", trust(), proxy(), Some(("192.0.2.1", "https", 443))),
            ("only the address", real_ip.clone(), proxy(), Some(("192.0.2.1", "http", 80))),
            (
                "no field's name",
                Trust { forwarded_for: None, ..real_ip.clone() },
                proxy(),
                Some(("10.0.0.1", "http", 80)),
            ),
            // The PROXY protocol stands above it.
            ("both", Trust { proxy_protocol: true, ..real_ip }, proxy(), None),
        ] {
            let told = told(&trust, &peer, PORTS, &headers);
            let told =
                told.map(|it| (it.peer.address.ip().to_string(), it.peer.scheme(), it.peer.port));
            let expected =
                expected.map(|(address, scheme, port)| (address.to_owned(), scheme, port));
            assert_eq!(told, expected, "{case}");
        }
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_proxy() {
        for (lines, expected) in [
            (&[][..], "10.0.0.1:5"),
            (&[""], "10.0.0.1:5"),
            (&["192.0.2.1"], "192.0.2.1:0"),
            (&["192.0.2.1:4711"], "192.0.2.1:4711"),
            (&["[2001:db9::1]:4711"], "[2001:db9::1]:4711"),
            (&["2001:db9::1"], "[2001:db9::1]:0"),
            (&["::ffff:192.0.2.1"], "192.0.2.1:0"),
            // What a client wrote itself stands before what the proxies saw.
            (&["1.1.1.1, 192.0.2.1"], "192.0.2.1:0"),
            (&["1.1.1.1, 192.0.2.1, 10.0.0.7, 10.0.0.8:80"], "192.0.2.1:0"),
            (&["1.1.1.1", "192.0.2.1", "10.0.0.7"], "192.0.2.1:0"),
            (&["1.1.1.1 192.0.2.1,,10.0.0.7 ,"], "192.0.2.1:0"),
            (&["192.0.2.1, ::ffff:10.0.0.7, 2001:db8::7"], "192.0.2.1:0"),
            (&["10.0.0.7, 10.0.0.8"], "10.0.0.7:0"),
            // What is no address ends the list.
            (&["unknown"], "10.0.0.1:5"),
            (&["192.0.2.1, unknown"], "10.0.0.1:5"),
            (&["192.0.2.1, unknown, 10.0.0.7"], "10.0.0.7:0"),
            (&["192.0.2.1, 10.0.0.7:x, 10.0.0.8"], "10.0.0.8:0"),
            (&["192.0.2.1, \"10.0.0.7\""], "10.0.0.1:5"),
            (&["192.0.2.1, 10.0.0.07"], "10.0.0.1:5"),
        ] {
            for name in ["x-forwarded-for", "cf-connecting-ip"] {
                let mut headers = map(&[("x-forwarded-for", "203.0.113.1")]);
                headers.remove(name);
                for line in lines {
                    headers.append(name, HeaderValue::from_static(line));
                }
                let trust = Trust { forwarded_for: name.parse().ok(), ..trust() };
                let told = told(&trust, &proxy(), PORTS, &headers).expect("a trusted proxy");
                assert_eq!(told.peer.address.to_string(), expected, "{name}: {lines:?}");
            }
        }
    }

    #[test]
    fn scheme_and_port_are_believed_where_they_are_one() {
        let over_tls = Peer::new(([10, 0, 0, 1], 5).into(), true, 443);
        for (peer, fields, expected) in [
            (proxy(), &[][..], ("http", 80)),
            (proxy(), &[("x-forwarded-proto", "https")], ("https", 443)),
            (proxy(), &[("x-forwarded-proto", "http")], ("http", 80)),
            (proxy(), &[("x-forwarded-proto", "HTTPS")], ("http", 80)),
            (proxy(), &[("x-forwarded-proto", "https, http")], ("http", 80)),
            (
                proxy(),
                &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")],
                ("http", 80),
            ),
            (proxy(), &[("x-forwarded-scheme", "https"), ("x-scheme", "https")], ("http", 80)),
            (
                proxy(),
                &[("x-forwarded-proto", "https"), ("x-forwarded-port", "8443")],
                ("https", 8443),
            ),
            (proxy(), &[("x-forwarded-port", "8080")], ("http", 8080)),
            (proxy(), &[("x-forwarded-port", "0")], ("http", 80)),
            (proxy(), &[("x-forwarded-port", "65536")], ("http", 80)),
            (proxy(), &[("x-forwarded-port", "80, 81")], ("http", 80)),
            (over_tls, &[], ("https", 443)),
            (over_tls, &[("x-forwarded-proto", "http")], ("http", 80)),
            (over_tls, &[("x-forwarded-proto", "wss")], ("https", 443)),
        ] {
            let told = told(&trust(), &peer, PORTS, &map(fields)).expect("a trusted proxy").peer;
            assert_eq!((told.scheme(), told.port), expected, "{fields:?}");
            assert_eq!(told.tls, peer.tls, "{fields:?}");
        }
    }

    #[test]
    fn the_host_told_is_a_host() {
        for (value, expected) in [
            ("shop.test", Some("shop.test")),
            ("Shop.test.:8080", Some("shop.test:8080")),
            ("shop.test, other.test", Some("shop.test")),
            ("shop.test other.test", None),
            (",shop.test", None),
            ("shop.test/path", None),
            ("", None),
        ] {
            let headers = map(&[("x-forwarded-host", value)]);
            let told = told(&trust(), &proxy(), PORTS, &headers).expect("a trusted proxy");
            let host = told.vouched.host.as_ref().map(|it| it.to_str().expect("a host"));
            assert_eq!(host, expected, "{value:?}");
        }
    }

    #[test]
    fn the_list_of_hops_is_replaced_or_grows() {
        let lines = &[("x-forwarded-for", "1.1.1.1, 192.0.2.1"), ("x-forwarded-for", "10.0.0.7")];
        for (full, fields, expected) in [
            (false, &lines[..], "192.0.2.1"),
            (false, &[], "10.0.0.1"),
            (true, lines, "1.1.1.1, 192.0.2.1, 10.0.0.7, 10.0.0.1"),
            (true, &[], "10.0.0.1"),
        ] {
            let trust = Trust { full_forwarded_for: full, ..trust() };
            let told = told(&trust, &proxy(), PORTS, &map(fields)).expect("a trusted proxy");
            assert_eq!(told.vouched.forwarded_for, expected, "{full} {fields:?}");
        }
    }
}
