//! Who asks, behind load balancers: PROXY protocol and forwarded headers, from those who are trusted
//! with them and from those who are not.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::backend::Backend;
use crate::harness::lockgate::{
    Lockgate, backend, config_map, ingress, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::{PATIENCE, Raw, RawH2, RawReply, preface};

/// The load balancer, and somebody beside it.
const PROXY: [u8; 4] = [127, 0, 0, 1];
const STRANGER: [u8; 4] = [127, 0, 0, 2];

/// Trusts [`PROXY`] and hops in 10.0.0.0/8.
const TRUSTED: (&str, &str) = ("proxy-real-ip-cidr", "127.0.0.1, 10.0.0.0/8");
const PROXY_PROTOCOL: (&str, &str) = ("use-proxy-protocol", "true");
const FORWARDED: (&str, &str) = ("use-forwarded-headers", "true");

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8080\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 192.0.2.7:4711 to 198.51.100.1:8080.
const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x1f, 0x90];

/// `a.test` with TLS and redirects, `b.test` without; both go to `web`.
struct House {
    lockgate: Lockgate,
    web: Backend,
    objects: String,
}

impl House {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let web = Backend::start("web").await;
        let root = [("/", "Prefix", "web", 80)];
        let objects = [
            ingress_class(),
            ingress_tls("a", "a.test", &root, &[], "tls"),
            ingress("b", "b.test", &root, &[]),
            tls_secret("tls", &pair(&["a.test"])),
            backend("web", 80, &[web.addr()]),
        ];
        let objects = objects.concat();
        let lockgate =
            Lockgate::with_manifests(objects.clone() + &config_map("settings", settings));
        let lockgate = lockgate.args(["--configmap=demo/settings"]).start().await;
        Self { lockgate, web, objects }
    }

    async fn plain(&self, from: [u8; 4]) -> Raw {
        Raw::plain_from(from, self.lockgate.http).await
    }

    /// Sends `header` and a request for `b.test` with the fields `lines`, without TLS.
    async fn ask(&self, from: [u8; 4], header: &[u8], lines: &str) -> RawReply {
        let mut raw = self.plain(from).await;
        raw.send([header, request("b.test", lines).as_bytes()].concat()).await;
        raw.reply().await
    }

    /// How many connections were ended for want of a header.
    async fn without_header(&self) -> f64 {
        let labels = [r#"reason="proxy_header""#];
        self.lockgate.metric("lockgate_connections_dropped_total", &labels).await
    }
}

fn request(host: &str, lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// The values with which `web` was asked, by the names that follow `x-`; empty for none.
#[track_caller]
fn asked<const COUNT: usize>(body: &[u8], names: [&str; COUNT]) -> [String; COUNT] {
    let echo: Value = serde_json::from_slice(body)
        .unwrap_or_else(|_| panic!("no echo: {}", String::from_utf8_lossy(body)));
    let fields = echo["headers"].as_array().unwrap();
    names.map(|name| {
        let name = format!("x-{name}");
        let values = fields.iter().filter(|it| it[0] == *name);
        values.map(|it| it[1].as_str().unwrap()).collect::<Vec<_>>().join(" | ")
    })
}

/// Whoever the header names is the client, in both versions, before HTTP/1.1, HTTP/2 and TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_names_the_client() {
    const NAMES: [&str; 6] = [
        "real-ip",
        "forwarded-for",
        "forwarded-port",
        "forwarded-proto",
        "forwarded-scheme",
        "scheme",
    ];
    const EXTENSIONS: &[u8] = &[0x04, 0, 2, 0, 0, 0x02, 0, 6, b'a', b'.', b't', b'e', b's', b't'];
    let house = House::new(&[PROXY_PROTOCOL, TRUSTED]).await;
    let mut v6 = [0; 36];
    (v6[0], v6[1], v6[15], v6[34], v6[35]) = (0x20, 0x01, 7, 0x1f, 0x90);
    for (header, address, port) in [
        (V1.to_vec(), "192.0.2.7", Some("8080")),
        (b"PROXY TCP6 2001::7 ::1 1 8080\r\n".to_vec(), "2001::7", Some("8080")),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", None),
        (v2(0x21, 0x11, V4), "192.0.2.7", Some("8080")),
        (v2(0x21, 0x11, &[V4, EXTENSIONS].concat()), "192.0.2.7", Some("8080")),
        (v2(0x21, 0x21, &v6), "2001::7", Some("8080")),
        (v2(0x20, 0x00, b""), "127.0.0.1", None),
        (v2(0x20, 0x11, V4), "127.0.0.1", None),
    ] {
        let case = header.escape_ascii().to_string();
        let expected = |scheme: &'static str, own: &'static str| {
            [address, address, port.unwrap_or(own), scheme, scheme, scheme]
        };

        let reply = house.ask(PROXY, &header, "X-Forwarded-For: 203.0.113.1\r\n").await;
        assert_eq!(asked(&reply.body, NAMES), expected("http", "80"), "HTTP/1.1: {case}");

        let mut raw = house.plain(PROXY).await;
        raw.send(&header).await;
        let body = h2(raw, "http", "b.test").await.unwrap();
        assert_eq!(asked(&body, NAMES), expected("http", "80"), "HTTP/2: {case}");

        for alpn in ["http/1.1", "h2"] {
            let mut raw = Raw::plain_from(PROXY, house.lockgate.https).await;
            raw.send(&header).await;
            let mut raw = raw.secure("a.test", &[alpn]).await.unwrap();
            let body = if alpn == "h2" {
                h2(raw, "https", "a.test").await.unwrap()
            } else {
                raw.send(request("a.test", "")).await;
                raw.reply().await.body
            };
            assert_eq!(asked(&body, NAMES), expected("https", "443"), "TLS, {alpn}: {case}");
        }
    }
    assert!(house.without_header().await < 1.0);
}

/// Asks over HTTP/2; the body where the answer was `200`, else its status.
async fn h2(raw: Raw, scheme: &str, host: &str) -> Result<Vec<u8>, Option<u16>> {
    let mut h2 = RawH2::start(raw).await;
    let fields = [(":method", "GET"), (":scheme", scheme), (":authority", host), (":path", "/")];
    h2.headers(1, &fields, true).await;
    let reply = h2.reply(1).await;
    if reply.status == Some(200) { Ok(reply.body) } else { Err(reply.status) }
}

/// A trusted proxy that sends no header, half of one, or something else gets the connection closed and
/// not a byte.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_header_a_trusted_connection_ends_in_silence() {
    let patience = ("proxy-protocol-header-timeout", "1s");
    let house = House::new(&[PROXY_PROTOCOL, TRUSTED, patience]).await;
    let web = request("b.test", "");
    let overrun = v2(0x21, 0x11, &[V4, &[0x04, 0, 9, 0]].concat());
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let large = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], V4].concat();
    let mut ended = 0.0;
    for bytes in [
        web.as_bytes(),
        &preface(),
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 08080\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8080\n",
        long.as_bytes(),
        &overrun,
        &large,
        &v2(0x31, 0x11, V4),
        &v2(0x21, 0x11, &V4[1..]),
    ] {
        for (door, addr) in [("plain", house.lockgate.http), ("TLS", house.lockgate.https)] {
            let mut raw = Raw::plain_from(PROXY, addr).await;
            raw.send([bytes, web.as_bytes()].concat()).await;
            let case = format!("{door}: {}", bytes.escape_ascii());
            assert_eq!(raw.rest().await, (vec![], true), "{case}");
            ended += 1.0;
            assert!((house.without_header().await - ended).abs() < 0.5, "{case}");
        }
    }
    // Half of one, or nothing, is waited for.
    for bytes in [&b""[..], b"PRO", &V1[..20], &SIGNATURE[..5], &v2(0x21, 0x11, V4)[..20]] {
        let case = bytes.escape_ascii();
        let began = Instant::now();
        let mut raw = house.plain(PROXY).await;
        raw.send(bytes).await;
        assert_eq!(raw.rest().await, (vec![], true), "{case}");
        let took = began.elapsed();
        assert!(took > Duration::from_millis(900) && took < PATIENCE / 2, "{case}: {took:?}");
        ended += 1.0;
        assert!((house.without_header().await - ended).abs() < 0.5, "{case}");
    }
    assert_eq!(house.web.requests(), 0);
    // Whoever only looks whether the port is open has done nothing wrong.
    let mut raw = house.plain(PROXY).await;
    raw.finish().await;
    assert_eq!(raw.rest().await, (vec![], true));
    assert!((house.without_header().await - ended).abs() < 0.5);
}

/// However it is cut into packets, a header is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_byte_by_byte() {
    let house = House::new(&[PROXY_PROTOCOL, TRUSTED]).await;
    for header in [V1, &v2(0x21, 0x11, &[V4, &[0x04, 0, 1, 0]].concat())] {
        let mut raw = house.plain(PROXY).await;
        for byte in [header, request("b.test", "").as_bytes()].concat() {
            raw.send([byte]).await;
        }
        let reply = raw.reply().await;
        assert_eq!(asked(&reply.body, ["real-ip"]), ["192.0.2.7"], "{}", header.escape_ascii());
    }
}

/// Whoever is not in the list speaks HTTP at once, and cannot name itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_of_a_stranger_is_a_bad_request() {
    for (settings, from) in [
        (&[PROXY_PROTOCOL, TRUSTED][..], STRANGER),
        (&[TRUSTED], PROXY),
        // With one bad entry nobody is in the list.
        (&[PROXY_PROTOCOL, ("proxy-real-ip-cidr", "127.0.0.1,all")], PROXY),
    ] {
        let house = House::new(settings).await;
        let address = from.map(|it| it.to_string()).join(".");
        let reply = house.ask(from, b"", "").await;
        assert_eq!(asked(&reply.body, ["real-ip"]), [address.as_str()], "{settings:?}");
        for header in [V1, &v2(0x21, 0x11, V4)] {
            let case = format!("{settings:?} {}", header.escape_ascii());
            let mut raw = house.plain(from).await;
            raw.send([header, request("b.test", "").as_bytes()].concat()).await;
            let reply = raw.reply().await;
            assert_eq!((reply.status, raw.closes(PATIENCE).await), (Some(400), true), "{case}");
        }
        assert_eq!(house.web.requests(), 1, "{settings:?}");
        assert!(house.without_header().await < 1.0, "{settings:?}");
    }
}

/// A change of the setting is for connections that come after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_can_be_switched_on_and_off() {
    let house = House::new(&[TRUSTED]).await;
    let mut kept = house.plain(PROXY).await;
    let mut kept_status = async || {
        kept.send(request("b.test", "")).await;
        kept.reply().await.status
    };
    assert_eq!(kept_status().await, Some(200));
    for (settings, header) in [(&[PROXY_PROTOCOL, TRUSTED][..], V1), (&[TRUSTED], b"")] {
        house.lockgate.edit(house.objects.clone() + &config_map("settings", settings));
        eventually("the change", SOON, async || {
            house.ask(PROXY, header, "").await.status == Some(200)
        })
        .await;
        assert_eq!(kept_status().await, Some(200), "{settings:?}");
    }
}

/// What came to port 443 of a proxy that decrypts came over HTTPS.
#[tokio::test(flavor = "multi_thread")]
async fn port_443_of_the_proxy_is_https() {
    let house = House::new(&[PROXY_PROTOCOL, TRUSTED]).await;
    for (port, status) in [(80, 308), (8443, 308), (443, 200)] {
        let header = format!("PROXY TCP4 192.0.2.7 198.51.100.1 4711 {port}\r\n");
        let mut raw = house.plain(PROXY).await;
        raw.send(header.clone() + &request("a.test", "")).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(status), "{port}");
        // The connection to us is not encrypted: that is for whoever did the encryption to say.
        assert_eq!(reply.headers("strict-transport-security"), [""; 0], "{port}");
        if status == 200 {
            let told = asked(&reply.body, ["forwarded-proto", "forwarded-port"]);
            assert_eq!(told, ["https", "443"]);
        }
        // HTTP/2 that was only decrypted says what it was asked for.
        for (scheme, expected) in [("http", status), ("https", if port == 443 { 200 } else { 400 })]
        {
            let mut raw = house.plain(PROXY).await;
            raw.send(&header).await;
            let status = h2(raw, scheme, "a.test").await.map_or_else(|it| it, |_| Some(200));
            assert_eq!(status, Some(expected), "{port} {scheme}");
        }
    }
}

/// What a trusted proxy says of its client is passed on; what anybody else says is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_headers_are_believed_of_trusted_proxies_only() {
    const NAMES: [&str; 5] =
        ["real-ip", "forwarded-for", "forwarded-proto", "forwarded-port", "forwarded-host"];
    const HOPS: &str = "X-Forwarded-For: 203.0.113.1, 192.0.2.7\r\nX-Forwarded-For: 10.0.0.9\r\n";
    const REST: &str = "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443\r\n\
                        X-Forwarded-Host: Shop.test, b.test\r\n";
    const FULL: (&str, &str) = ("compute-full-forwarded-for", "true");
    const REAL_IP: (&str, &str) = ("enable-real-ip", "true");
    const CUSTOM: (&str, &str) = ("forwarded-for-header", "CF-Connecting-IP");
    const CDN: &str = "CF-Connecting-IP: 192.0.2.8\r\n";
    let all = format!("{HOPS}{REST}{CDN}");
    let stranger = ["127.0.0.2", "127.0.0.2", "http", "80", "b.test"];
    let proxy = ["127.0.0.1", "127.0.0.1", "http", "80", "b.test"];
    let client = ["192.0.2.7", "192.0.2.7", "https", "8443", "shop.test"];
    let whole = "203.0.113.1, 192.0.2.7, 10.0.0.9, 127.0.0.1";
    for (settings, cases) in [
        (&[TRUSTED][..], &[(PROXY, &*all, proxy)][..]),
        (
            &[TRUSTED, FORWARDED],
            &[
                (STRANGER, &*all, stranger),
                (PROXY, &all, client),
                (PROXY, "", proxy),
                (
                    PROXY,
                    "X-Forwarded-Proto: https\r\n",
                    ["127.0.0.1", "127.0.0.1", "https", "443", "b.test"],
                ),
                (
                    PROXY,
                    "X-Forwarded-For: [2001:db8::7]:80\r\n",
                    ["2001:db8::7", "2001:db8::7", "http", "80", "b.test"],
                ),
                (PROXY, "X-Forwarded-For: 192.0.2.7, nobody\r\n", proxy),
                (
                    PROXY,
                    "X-Forwarded-Host: a b\r\nX-Forwarded-Proto: ftp\r\nX-Forwarded-Port: x\r\n",
                    proxy,
                ),
                // A client may not strip what the proxy adds.
                (PROXY, &format!("Connection: x-forwarded-for, cf-connecting-ip\r\n{all}"), client),
            ],
        ),
        (
            &[TRUSTED, FORWARDED, FULL],
            &[
                (STRANGER, &all, stranger),
                (PROXY, &all, ["192.0.2.7", whole, "https", "8443", "shop.test"]),
                (PROXY, "", proxy),
            ],
        ),
        (
            &[TRUSTED, REAL_IP, FULL],
            &[
                (STRANGER, &all, stranger),
                (PROXY, &all, ["192.0.2.7", "192.0.2.7", "http", "80", "b.test"]),
            ],
        ),
        (
            &[TRUSTED, FORWARDED, CUSTOM],
            &[
                (STRANGER, &all, stranger),
                (PROXY, &all, ["192.0.2.8", "192.0.2.8", "https", "8443", "shop.test"]),
                (PROXY, HOPS, proxy),
            ],
        ),
        (&[("proxy-real-ip-cidr", "127.0.0.1,all"), FORWARDED], &[(PROXY, &all, proxy)]),
    ] {
        let house = House::new(settings).await;
        for (from, lines, expected) in cases {
            let case = format!("{settings:?} {from:?}\n{lines}");
            let reply = house.ask(*from, b"", lines).await;
            assert_eq!(asked(&reply.body, NAMES), *expected, "{case}");
            // What was said stays readable, under a name that nobody trusts.
            if lines.contains(HOPS) {
                let said = ["203.0.113.1, 192.0.2.7, 10.0.0.9"];
                assert_eq!(asked(&reply.body, ["original-forwarded-for"]), said, "{case}");
            }
            let echo: Value = serde_json::from_slice(&reply.body).unwrap();
            let host = echo["headers"].as_array().unwrap().iter().find(|it| it[0] == "host");
            assert_eq!(host.unwrap()[1], "b.test", "{case}");
        }
    }
}

/// Behind both kinds of load balancers, the one that speaks HTTP is asked only where the address that
/// the PROXY header names is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn headers_behind_a_proxy_header_are_its_clients() {
    const HOP: &[u8] = b"PROXY TCP4 10.0.0.9 198.51.100.1 4711 80\r\n";
    const LINES: &str = "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: https\r\n";
    const NAMES: [&str; 3] = ["real-ip", "forwarded-for", "forwarded-proto"];
    const FULL: (&str, &str) = ("compute-full-forwarded-for", "true");
    for (settings, header, expected) in [
        (&[PROXY_PROTOCOL, FORWARDED, TRUSTED][..], V1, ["192.0.2.7", "192.0.2.7", "http"]),
        (&[PROXY_PROTOCOL, FORWARDED, TRUSTED], HOP, ["203.0.113.1", "203.0.113.1", "https"]),
        (
            &[PROXY_PROTOCOL, FORWARDED, TRUSTED, FULL],
            HOP,
            ["203.0.113.1", "203.0.113.1, 10.0.0.9", "https"],
        ),
        // By default everybody is trusted, and yet no client names itself.
        (&[PROXY_PROTOCOL, ("enable-real-ip", "true")], V1, ["192.0.2.7", "192.0.2.7", "http"]),
    ] {
        let house = House::new(settings).await;
        let reply = house.ask(PROXY, header, LINES).await;
        assert_eq!(asked(&reply.body, NAMES), expected, "{settings:?} {}", header.escape_ascii());
    }
}

/// Who came over HTTPS to a trusted proxy is not sent there again; who did not is.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_whether_it_was_https() {
    const HTTP: &str = "X-Forwarded-Proto: http\r\n";
    const HTTPS: &str = "X-Forwarded-Proto: https\r\n";
    let house = House::new(&[FORWARDED, TRUSTED]).await;
    for (from, lines, expected) in [
        (PROXY, "", 308),
        (PROXY, HTTP, 308),
        (PROXY, HTTPS, 200),
        (PROXY, "X-Forwarded-Proto: HTTPS\r\n", 308),
        (PROXY, "X-Forwarded-Scheme: https\r\nX-Scheme: https\r\n", 308),
        (STRANGER, HTTPS, 308),
    ] {
        let mut raw = house.plain(from).await;
        raw.send(request("a.test", lines)).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(expected), "{from:?} {lines}");
        assert_eq!(reply.headers("strict-transport-security"), [""; 0], "{from:?} {lines}");
        if expected == 308 {
            assert_eq!(reply.headers("location"), ["https://a.test"], "{from:?} {lines}");
        }
    }
    // A proxy that encrypts anew speaks for a client that did not.
    for (from, lines, expected) in [(PROXY, HTTP, 308), (PROXY, HTTPS, 200), (STRANGER, HTTP, 200)]
    {
        let raw = Raw::plain_from(from, house.lockgate.https).await;
        let mut raw = raw.secure("a.test", &["http/1.1"]).await.unwrap();
        raw.send(request("a.test", lines)).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(expected), "over TLS: {from:?} {lines}");
        assert_eq!(reply.headers("strict-transport-security").len(), 1, "{from:?} {lines}");
    }
}

/// The access log has the client that was decided on, for refused requests, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_shows_who_asked() {
    let format = ("log-format-upstream", "$request_uri $remote_addr $remote_port $scheme $status");
    let logged = async |house: &House, expected: &str| {
        eventually("the line", SOON, async || {
            let log = house.lockgate.stdout();
            if log.lines().any(|it| it == expected) { Ok(()) } else { Err(log) }
        })
        .await;
    };
    let house = House::new(&[PROXY_PROTOCOL, TRUSTED, format]).await;
    house.ask(PROXY, b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", "").await;
    logged(&house, "/ 192.0.2.7 4711 https 200").await;
    house.ask(PROXY, V1, "Host: twice.test\r\n").await;
    logged(&house, "/ 192.0.2.7 4711 http 400").await;

    let house = House::new(&[FORWARDED, TRUSTED, format]).await;
    let lines = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    house.ask(PROXY, b"", lines).await;
    logged(&house, "/ 192.0.2.7 - https 200").await;
    house.ask(PROXY, b"", &format!("Host: twice.test\r\n{lines}")).await;
    logged(&house, "/ 192.0.2.7 - https 400").await;
    house.ask(PROXY, b"", "X-Forwarded-For: 192.0.2.7:81\r\n").await;
    logged(&house, "/ 192.0.2.7 81 http 200").await;
    let log = house.lockgate.stdout();
    assert!(!log.contains("127.0.0.1"), "{log}");
}
