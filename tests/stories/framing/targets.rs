//! Whom and what a request asks for: host, target and path have one reading.

use super::{House, answered, get, lossy, refused};
use crate::harness::raw::{Raw, frame, literals, preface};

/// RFC 9112 section 3.2: one valid `Host`, or `400`.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_valid_host() {
    let house = House::new().await;
    for lines in [
        "",
        "Host: a.test\r\nHost: a.test\r\n",
        "Host: a.test\r\nHost: b.test\r\n",
        "Host: u@a.test\r\n",
        "Host: a.test, b.test\r\n",
        "Host: a.test b.test\r\n",
        "Host: a.test/x\r\n",
        "Host: a.test?x\r\n",
        "Host: a.test#x\r\n",
        "Host: a.test\\x\r\n",
        "Host: a.test:x\r\n",
        "Host: a.test:80:80\r\n",
        "Host: http://a.test\r\n",
        "Host: [::1\r\n",
        "Host: a.\"test\r\n",
    ] {
        refused(&house.exchange(format!("GET / HTTP/1.1\r\n{lines}\r\n")).await, &[400], lines);
        house.none(lines);
    }
    for host in ["a.test", "A.Test", "a.test.", "a.test:8080", "A.TEST.:80"] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        answered(&house.exchange(bytes).await, "ok", host);
        let seen = house.only(host);
        let upstream = seen.one("host").unwrap().split(':').next().unwrap();
        assert_eq!(upstream.trim_end_matches('.').to_lowercase(), "a.test", "{host}");
    }
    // HTTP/1.0 knows no Host; nothing here serves nobody's host.
    let old = house.exchange("GET / HTTP/1.0\r\n\r\n").await;
    refused(&old, &[400, 404], "HTTP/1.0");
    house.none("HTTP/1.0");
}

/// RFC 9112 section 3.2.2: the target's authority replaces `Host`.
#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_beats_the_host_field() {
    let house = House::new().await;
    for (target, host, expected) in [
        ("http://b.test/x?y", "a.test", "/x?y"),
        ("http://b.test", "a.test", "/"),
        ("http://B.test:80/x", "a.test", "/x"),
        ("http://b.test/x", "b.test", "/x"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        answered(&house.exchange(head).await, "ok", target);
        let (a, b) = house.seen(target);
        assert_eq!((a.len(), b.len()), (0, 1), "{target}: {a:#?} {b:#?}");
        assert_eq!(b[0].target, expected, "{target}");
        let host = b[0].one("host").unwrap().to_lowercase();
        assert!(host == "b.test" || host == "b.test:80", "{target}: {host}");
        for (name, value) in &b[0].fields {
            assert!(!value.contains("a.test"), "{target}: {name}: {value}");
        }
    }
    for target in ["http://u@b.test/", "http:///x", "http://b.test:x/"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: b.test\r\n\r\n");
        refused(&house.exchange(head).await, &[400], target);
        house.none(target);
    }
    let no_host = "GET http://b.test/ HTTP/1.1\r\n\r\n";
    refused(&house.exchange(no_host).await, &[400], no_host);
    house.none(no_host);
}

/// RFC 9112 section 3.2: each form of target has its method; there is no tunnel to be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_has_the_form_its_method_asks_for() {
    let house = House::new().await;
    for (line, status) in [
        ("GET a.test:80", 400),
        ("GET a.test", 400),
        ("GET *", 400),
        ("POST *", 400),
        ("GET x/y", 400),
        ("GET ?x", 400),
        ("CONNECT a.test:443", 405),
        ("CONNECT a.test:80", 405),
    ] {
        let reply = house.ask(format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(reply.status, Some(status), "{line}: {reply:#?}");
        assert!(reply.complete, "{line}: {reply:#?}");
        house.none(line);
    }
    // A tunnel that was refused is no tunnel.
    let mut raw = Raw::plain(house.lockgate.http).await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n";
    raw.send(format!("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n{smuggled}")).await;
    assert_eq!(raw.reply().await.status, Some(405));
    let after = raw.reply().await;
    assert!(after.status.is_none_or(|it| it == 404), "{after:#?}");
    house.none("after CONNECT");

    let stars = "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let reply = house.exchange(stars).await;
    assert!(reply.status.is_some_and(|it| [200, 204, 404].contains(&it)), "{reply:#?}");
    house.seen(stars);

    let mut h2 = house.h2().await;
    let reply = h2.request(1, &[(":method", "CONNECT"), (":authority", "a.test:443")]).await;
    assert!(reply.status == Some(405) || reply.refused(), "{reply:?}");
    house.none("CONNECT over HTTP/2");
    let mut fields = get("a.test", &[]);
    fields[3].1 = "*";
    let reply = house.h2().await.request(1, &fields).await;
    assert!(reply.refused(), "{reply:?}");
    house.none("GET * over HTTP/2");
}

/// RFC 9113 section 8.3.1: two names for the host must be the same name.
#[tokio::test(flavor = "multi_thread")]
async fn authority_and_host_agree() {
    let house = House::new().await;
    for host in ["b.test", "a.test:81", "a.test.b.test", "u@a.test", ""] {
        let reply = house.h2().await.request(1, &get("a.test", &[("host", host)])).await;
        assert!(reply.refused(), "{host:?}: {reply:?}");
        house.none(host);
    }
    for host in ["a.test", "A.TEST", "a.test."] {
        let reply = house.h2().await.request(1, &get("a.test", &[("host", host)])).await;
        assert_eq!(reply.status, Some(200), "{host:?}: {reply:?}");
        assert_eq!(house.only(host).one("host"), Some("a.test"), "{host:?}");
    }
}

/// RFC 9113 sections 8.2.1 and 8.3.1: over HTTP/2 the same rules hold for the host as over
/// HTTP/1.1, and the scheme is that of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn pseudo_fields_are_validated() {
    let house = House::new().await;
    let method = (":method", "GET");
    let (scheme, path) = ((":scheme", "https"), (":path", "/"));
    let authority = (":authority", "a.test");
    for (case, fields) in [
        ("no host at all", vec![method, scheme, path]),
        ("two hosts", vec![method, scheme, path, ("host", "a.test"), ("host", "a.test")]),
        ("two authorities", vec![method, scheme, authority, authority, path]),
        ("user", vec![method, scheme, (":authority", "u@a.test"), path]),
        ("list", vec![method, scheme, (":authority", "a.test,b.test"), path]),
        ("path in the authority", vec![method, scheme, (":authority", "a.test/x"), path]),
        ("empty authority", vec![method, scheme, (":authority", ""), path]),
        ("bad port", vec![method, scheme, (":authority", "a.test:x"), path]),
        ("plain scheme", vec![method, (":scheme", "http"), authority, path]),
        ("unknown scheme", vec![method, (":scheme", "ftp"), authority, path]),
        ("no path", vec![method, scheme, authority]),
        ("empty path", vec![method, scheme, authority, (":path", "")]),
        ("no slash", vec![method, scheme, authority, (":path", "x")]),
        ("absolute path", vec![method, scheme, authority, (":path", "https://b.test/")]),
        ("connection field", vec![method, scheme, authority, path, ("connection", "close")]),
        ("chunked", vec![method, scheme, authority, path, ("transfer-encoding", "chunked")]),
        ("capital", vec![method, scheme, authority, path, ("X-Fine", "yes")]),
        ("late", vec![method, scheme, path, ("x-fine", "yes"), authority]),
        ("line feed", vec![method, scheme, authority, path, ("x-fine", "a\r\nb: c")]),
    ] {
        let reply = house.h2().await.request(1, &fields).await;
        assert!(reply.refused(), "{case}: {reply:?}");
        house.none(case);
    }
    // `host` alone will do.
    let reply = house.h2().await.request(1, &[method, scheme, path, ("host", "a.test")]).await;
    assert_eq!(reply.status, Some(200), "{reply:?}");
    assert_eq!(house.only("host alone").one("host"), Some("a.test"));
    // Spaces around a value are malformed; they may be dropped, not passed on.
    let reply = house.h2().await.request(1, &get("a.test", &[("x-fine", " yes ")])).await;
    if reply.status == Some(200) {
        assert_eq!(house.only("spaces").one("x-fine"), Some("yes"));
    } else {
        assert!(reply.refused(), "{reply:?}");
        house.none("spaces");
    }
}

/// RFC 7301 section 3.2: the protocol is what was agreed on, not what the first bytes look like.
#[tokio::test(flavor = "multi_thread")]
async fn alpn_decides_the_protocol() {
    let house = House::new().await;
    let mut raw = Raw::tls(house.lockgate.https, "a.test", &["http/1.1"]).await.unwrap();
    assert_eq!(raw.alpn(), Some("http/1.1"));
    let block = literals(&get("a.test", &[]));
    let mut bytes = preface();
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), frame::HEADERS, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    raw.send(bytes).await;
    let (answer, closed) = raw.rest().await;
    assert!(closed, "{:?}", lossy(&answer));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", lossy(&answer));
    house.none("HTTP/2 where HTTP/1.1 was agreed on");

    let mut raw = Raw::tls(house.lockgate.https, "a.test", &["h2"]).await.unwrap();
    assert_eq!(raw.alpn(), Some("h2"));
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let (answer, closed) = raw.rest().await;
    assert!(closed, "{:?}", lossy(&answer));
    assert!(!lossy(&answer).contains("HTTP/1.1"), "{:?}", lossy(&answer));
    house.none("HTTP/1.1 where HTTP/2 was agreed on");
}

/// One form of the path decides and is forwarded: what reaches a backend lies within the rule that
/// chose it.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_has_one_reading() {
    let house = House::new().await;
    for (target, expected) in [
        // As it is.
        ("/x", Some(("a", "/x"))),
        ("/x/", Some(("a", "/x/"))),
        ("/x?a=../..&b=%zz&c=//", Some(("a", "/x?a=../..&b=%zz&c=//"))),
        ("/x;v=1/y", Some(("a", "/x;v=1/y"))),
        ("/%C3%BC", Some(("a", "/%C3%BC"))),
        ("/...", Some(("a", "/..."))),
        ("/x..y", Some(("a", "/x..y"))),
        // Dot segments, in any spelling.
        ("/x/../y", Some(("a", "/y"))),
        ("/x/./y", Some(("a", "/x/y"))),
        ("/x/%2e%2e/y?q", Some(("a", "/y?q"))),
        ("/x/%2E./y", Some(("a", "/y"))),
        ("/x/..", Some(("a", "/"))),
        ("/..", Some(("a", "/"))),
        ("/x/../admin/y", Some(("b", "/admin/y"))),
        ("/x/.%2E/admin", Some(("b", "/admin"))),
        ("/admin/../x", Some(("a", "/x"))),
        ("/admin/%2e%2e/x", Some(("a", "/x"))),
        // Matching sees through these; they are forwarded as they are.
        ("/x//y", Some(("a", "/x//y"))),
        ("//admin/y", Some(("b", "//admin/y"))),
        ("/%61dmin/y", Some(("b", "/%61dmin/y"))),
        // Encoded separators are data, and so is what is encoded twice.
        ("/x%2Fy", Some(("a", "/x%2Fy"))),
        ("/admin%2Fy", Some(("a", "/admin%2Fy"))),
        ("/x%5Cy", Some(("a", "/x%5Cy"))),
        ("/%252e%252e/admin", Some(("a", "/%252e%252e/admin"))),
        // Dots that only some would see.
        ("/x%2f..%2fadmin", None),
        ("/x%2F%2e%2e%2Fadmin", None),
        ("/x%5c..%5cadmin", None),
        ("/x/..%2fadmin", None),
        ("/..;/admin", None),
        ("/x/..;a=b/admin", None),
        ("/x/%2e%2e;/admin", None),
        ("/.;/admin", None),
        // Not paths.
        ("/x\\y", None),
        ("/..\\admin", None),
        ("/x%00", None),
        ("/x%0a", None),
        ("/x%0D%0AX:y", None),
        ("/x%1f", None),
        ("/%zz", None),
        ("/%", None),
        ("/x%2", None),
        // A fragment is cut.
        ("/x#y", Some(("a", "/x"))),
    ] {
        let reply = house.get(target, "").await;
        let Some((backend, upstream)) = expected else {
            refused(&reply, &[400], target);
            house.none(target);
            continue;
        };
        answered(&reply, "ok", target);
        let (a, b) = house.seen(target);
        let seen = a.iter().map(|it| ("a", &*it.target));
        let seen: Vec<_> = seen.chain(b.iter().map(|it| ("b", &*it.target))).collect();
        assert_eq!(seen, [(backend, upstream)], "{target}");
    }
}
