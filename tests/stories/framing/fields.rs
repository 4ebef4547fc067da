//! Heads: which lines make one, how large it may be, and what of it goes on.

use super::{House, Seen, answered, get, refused};
use crate::harness::backend::Answer;

/// RFC 9112 section 2.2 allows a bare LF as the end of a line; upstream gets CRLF.
#[tokio::test(flavor = "multi_thread")]
async fn bare_line_feeds_in_a_head_become_crlf() {
    let house = House::new().await;
    for bytes in [
        "GET /x HTTP/1.1\nHost: a.test\nX-Fine: yes\nConnection: close\n\n",
        "GET /x HTTP/1.1\r\nHost: a.test\nX-Fine: yes\r\nConnection: close\r\n\n",
    ] {
        answered(&house.exchange(bytes).await, "ok", bytes);
        let seen = house.only(bytes);
        assert_eq!((&*seen.target, seen.one("x-fine")), ("/x", Some("yes")), "{bytes:?}");
    }
}

/// RFC 9112 sections 2.2, 3 and 5: what is not a request is answered `400` and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_heads_are_refused() {
    let house = House::new().await;
    for lines in [
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\u{7f}b\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX : a\r\n",
        "GET / HTTP/1.1\r\n Host: a.test\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\n: a\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nX\r\n",
        "GET / HTTP/1.2\r\nHost: a.test\r\n",
        "GET / HTTP/2.0\r\nHost: a.test\r\n",
        "GET / http/1.1\r\nHost: a.test\r\n",
        "GET  / HTTP/1.1\r\nHost: a.test\r\n",
        "GET / HTTP/1.1 x\r\nHost: a.test\r\n",
        "G@T / HTTP/1.1\r\nHost: a.test\r\n",
    ] {
        refused(&house.exchange(format!("{lines}\r\n")).await, &[400, 505], lines);
        house.none(lines);
    }
}

/// A head has at most 32 KiB in lines of 8 KiB, and 100 fields, over either protocol.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_heads_are_refused() {
    let house = House::new().await;
    let field = |kib: usize| format!("X-Big: {}\r\n", "x".repeat(kib << 10));
    let fields =
        |count: usize| (0..count).map(|it| format!("X-{it}: 1\r\n")).collect::<Vec<_>>().concat();
    let request = |lines: &str| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");

    let several: String = (0..4).map(|it| field(7).replace("Big", &it.to_string())).collect();
    answered(&house.get("/", &several).await, "ok", "28 KiB");
    assert_eq!(house.only("28 KiB").one("x-3").map(str::len), Some(7 << 10));
    answered(&house.get("/", &fields(90)).await, "ok", "90 fields");
    assert_eq!(house.only("90 fields").one("x-89"), Some("1"));

    for (case, bytes) in [
        ("8 KiB in one field", request(&field(8))),
        ("40 KiB in one field", request(&field(40))),
        ("40 KiB in many fields", request(&field(1).replace("Big", "B").repeat(40))),
        ("500 KiB", request(&field(500))),
        ("101 fields", request(&fields(101))),
        (
            "a target of 40 KiB",
            format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "x".repeat(40 << 10)),
        ),
    ] {
        let reply = house.exchange(bytes).await;
        // The answer can be lost: closing while bytes are still coming resets the connection.
        let fitting = reply.status.is_none_or(|it| [400, 414, 431].contains(&it));
        assert!(fitting && reply.closed, "{case}: {:?} closed: {}", reply.status, reply.closed);
        house.none(case);
    }
    assert_eq!(house.exchange(request(&fields(101))).await.status, Some(431));

    let big = "x".repeat(7 << 10);
    let names = ["x-one", "x-two", "x-three", "x-four", "x-five", "x-six"];
    let big: Vec<_> = names.iter().map(|it| (*it, &*big)).collect();
    let mut h2 = house.h2().await;
    let reply = h2.request(1, &get("a.test", &big[..4])).await;
    assert_eq!(reply.status, Some(200), "28 KiB over HTTP/2: {reply:?}");
    assert_eq!(house.only("28 KiB over HTTP/2").one("x-four").map(str::len), Some(7 << 10));
    let reply = h2.request(3, &get("a.test", &big)).await;
    let refused = reply.status == Some(431) || reply.broken_off();
    assert!(refused, "42 KiB over HTTP/2: {reply:?}");
    house.none("42 KiB over HTTP/2");
}

/// A backend that turns `-` into `_`, as CGI does, could not tell them from the real fields.
#[tokio::test(flavor = "multi_thread")]
async fn names_with_underscores_are_dropped() {
    let house = House::new().await;
    let lines = "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: 192.0.2.66\r\n\
                 Remote_User: root\r\nX-Fine: yes\r\n";
    answered(&house.get("/", lines).await, "ok", lines);
    let over_h1 = house.only("HTTP/1.1");

    let more = [("remote_user", "root"), ("x_forwarded_for", "192.0.2.66"), ("x-fine", "yes")];
    let reply = house.h2().await.request(1, &get("a.test", &more)).await;
    assert_eq!(reply.status, Some(200), "{reply:?}");
    let over_h2 = house.only("HTTP/2");

    for seen in [over_h1, over_h2] {
        assert_eq!(seen.one("x-fine"), Some("yes"));
        let values = seen.fields.iter().filter(|it| ["root", "192.0.2.66"].contains(&&*it.1));
        assert_eq!(values.count(), 0, "{seen:#?}");
        assert!(!seen.fields.iter().any(|it| it.0.contains('_')), "{seen:#?}");
    }
}

/// RFC 9110 section 7.6.1: what belongs to one connection stays there, and what is ours to say
/// cannot be taken out by listing it.
#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_here() {
    let response = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Fine: yes\r\n\
                    Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                    Upgrade: h2c\r\nContent-Length: 2\r\n\r\nok";
    let house = House::answering(move |_| Answer::keep(response)).await;
    let lines = "Connection: close, X-Hop, Host, Content-Length, X-Forwarded-For, X-Real-IP\r\n\
                 Connection: Authorization, X-Request-ID, Forwarded, Via, X-Forwarded-Proto\r\n\
                 X-Hop: 1\r\nX-Fine: yes\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\n\
                 Proxy-Authenticate: Basic\r\nAuthorization: Basic eDp5\r\nContent-Length: 3\r\n";
    let reply = house.exchange(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\nabc")).await;
    answered(&reply, "ok", "hop by hop");
    for name in ["x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(reply.headers(name).is_empty(), "{name}: {reply:#?}");
    }
    assert_eq!(reply.headers("x-fine"), ["yes"]);

    let seen = house.only("hop by hop");
    let gone = ["x-hop", "keep-alive", "proxy-connection", "proxy-authorization"];
    for name in gone.into_iter().chain(["proxy-authenticate", "upgrade"]) {
        assert_eq!(seen.one(name), None, "{name}: {seen:#?}");
    }
    assert!(seen.one("te").is_none_or(|it| it == "trailers"), "{seen:#?}");
    let options = seen.one("connection").unwrap_or_default().split(", ");
    let options = options.filter(|it| !["", "keep-alive", "te"].contains(it));
    assert_eq!(options.count(), 0, "{seen:#?}");
    for (name, value) in [
        ("host", "a.test"),
        ("content-length", "3"),
        ("x-fine", "yes"),
        ("authorization", "Basic eDp5"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(seen.one(name), Some(value), "{name}: {seen:#?}");
    }
    assert!(seen.one("x-request-id").is_some() && seen.one("via").is_some(), "{seen:#?}");
    assert_eq!(seen.body, "abc");
}

/// Who asked, and for what, is said by this proxy alone; what the client claimed is kept aside, as
/// ingress-nginx does.
#[tokio::test(flavor = "multi_thread")]
async fn identity_cannot_be_claimed() {
    let args = ["--external-http-port", "80", "--external-https-port", "443"];
    let house = House::with_args(|_| Answer::ok("ok"), &args).await;
    let check = |seen: &Seen, scheme: &str, port: &str| {
        for (name, value) in [
            ("host", "a.test"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-forwarded-host", "a.test"),
            ("x-forwarded-port", port),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-scheme", scheme),
            ("x-scheme", scheme),
        ] {
            assert_eq!(seen.one(name), Some(value), "{name}: {seen:#?}");
        }
        assert_eq!(seen.one("proxy"), None, "{seen:#?}");
        assert!(seen.one("forwarded").is_none_or(|it| !it.contains("192.0.2.66")), "{seen:#?}");
    };

    // Nothing claimed.
    answered(&house.get("/", "").await, "ok", "nothing claimed");
    let seen = house.only("nothing claimed");
    check(&seen, "http", "80");
    assert_eq!(seen.one("x-original-forwarded-for"), None);
    assert_eq!(seen.one("x-original-forwarded-host"), None);
    let id = seen.one("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit()), "{id}");

    // Everything claimed.
    let lines = "X-Forwarded-For: 192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\n\
                 X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\n\
                 X-Forwarded-Proto: https\r\nX-Forwarded-Scheme: https\r\nX-Scheme: https\r\n\
                 Forwarded: for=192.0.2.66\r\nProxy: http://evil.test\r\nX-Request-ID: abc-123\r\n";
    answered(&house.get("/", lines).await, "ok", lines);
    let seen = house.only(lines);
    check(&seen, "http", "80");
    assert_eq!(seen.one("x-original-forwarded-for"), Some("192.0.2.66"));
    assert_eq!(seen.one("x-original-forwarded-host"), Some("evil.test"));
    assert_eq!(seen.one("x-request-id"), Some("abc-123"));

    // Claimed twice, and claimed to have been claimed.
    let lines = "X-Real-IP: 192.0.2.66\r\nX-Real-IP: 192.0.2.66\r\nX-Forwarded-For: 192.0.2.66\r\n\
                 X-Forwarded-For: 192.0.2.67\r\n";
    answered(&house.get("/", lines).await, "ok", lines);
    check(&house.only(lines), "http", "80");
    let lines = "X-Original-Forwarded-For: 192.0.2.66\r\nX-Original-Forwarded-Host: evil.test\r\n";
    answered(&house.get("/", lines).await, "ok", lines);
    let seen = house.only(lines);
    check(&seen, "http", "80");
    assert_eq!(seen.one("x-original-forwarded-for"), None);
    assert_eq!(seen.one("x-original-forwarded-host"), None);

    // Over TLS.
    let more = [("x-forwarded-proto", "http"), ("x-forwarded-for", "192.0.2.66")];
    let reply = house.h2().await.request(1, &get("a.test", &more)).await;
    assert_eq!(reply.status, Some(200), "{reply:?}");
    check(&house.only("over TLS"), "https", "443");
}

/// RFC 9113 section 8.2.3: HTTP/2 may split cookies into several fields, HTTP/1.1 may not.
#[tokio::test(flavor = "multi_thread")]
async fn cookie_crumbs_become_one_field() {
    let house = House::new().await;
    let more = [("cookie", "a=1"), ("x-fine", "yes"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
    let reply = house.h2().await.request(1, &get("a.test", &more)).await;
    assert_eq!(reply.status, Some(200), "{reply:?}");
    assert_eq!(house.only("crumbs").one("cookie"), Some("a=1; b=2; c=3; d=4"));
}

/// RFC 9110 section 7.6.3: every proxy signs; one that meets its own name again and again is in a
/// loop.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_noticed_by_its_via() {
    let house = House::new().await;
    let via = |seen: Seen| seen.all("via").join(", ");
    answered(&house.get("/", "").await, "ok", "first hop");
    assert_eq!(via(house.only("first hop")), "1.1 lockgate");
    answered(&house.get("/", "Via: 1.0 fred, 1.1 p.example\r\n").await, "ok", "third hop");
    assert_eq!(via(house.only("third hop")), "1.0 fred, 1.1 p.example, 1.1 lockgate");
    let reply = house.h2().await.request(1, &get("a.test", &[])).await;
    assert_eq!(reply.status, Some(200), "{reply:?}");
    assert_eq!(via(house.only("over HTTP/2")), "2.0 lockgate");

    for (lines, looping) in [
        ("Via: 1.1 lockgate, 1.1 lockgate, 2.0 lockgate, 1.1 lockgate\r\n", false),
        ("Via: 1.1 lockgate, 1.1 lockgate, 2.0 lockgate, 1.1 lockgate, 1.1 lockgate\r\n", true),
        (&"Via: 1.1 lockgate\r\n".repeat(4), false),
        (&"Via: 1.1 lockgate\r\n".repeat(5), true),
        (&"Via: 1.1 other\r\n".repeat(10), false),
    ] {
        let reply = house.get("/", lines).await;
        if looping {
            assert_eq!(reply.status, Some(508), "{lines:?}: {reply:#?}");
            house.none(lines);
        } else {
            answered(&reply, "ok", lines);
            assert!(via(house.only(lines)).ends_with("1.1 lockgate"), "{lines:?}");
        }
    }
}
