//! What happens to an answer's body on its way: compressed as ingress-nginx would, and read ahead of a
//! client that is slow.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::{Call, Client};
use crate::harness::lockgate::{Lockgate, backend, config_map, ingress, ingress_class};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::{Raw, RawH2, frame, head_end};

/// Both codings with their defaults.
const BOTH: [(&str, &str); 2] = [("use-gzip", "true"), ("enable-brotli", "true")];

/// The product before one backend, `web` at `a.test`, with these settings and annotations.
async fn house(
    web: std::net::SocketAddr,
    settings: &[(&str, &str)],
    annotations: &[(&str, &str)],
) -> Lockgate {
    let objects = [
        config_map("settings", &[&[("proxy-read-timeout", "30")], settings].concat()),
        ingress_class(),
        ingress("one", "a.test", &[("/", "Prefix", "web", 80)], annotations),
        backend("web", 80, &[web]),
    ];
    let start = Lockgate::with_manifests(objects.concat()).args(["--configmap=demo/settings"]);
    let lockgate = start.start().await;
    lockgate.no_problem().await;
    lockgate
}

/// Text of this length that can be compressed, but not to nothing.
fn text(bytes: usize) -> String {
    let lines = (0_u32..).map(|it| format!("item {it} costs {}\n", it.wrapping_mul(2_654_435_761)));
    lines.flat_map(String::into_bytes).take(bytes).map(char::from).collect()
}

/// The first `bytes` of what was compressed, or all of it; as much as there is, if it is cut off.
fn decoded(coding: &str, coded: &[u8], bytes: usize) -> String {
    let mut reader: Box<dyn Read> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(coded)),
        "br" => Box::new(brotli::Decompressor::new(coded, 4096)),
        other => panic!("coding {other:?}"),
    };
    let (mut plain, mut piece) = (Vec::new(), [0; 1024]);
    while plain.len() < bytes {
        match reader.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => plain.extend(&piece[..count]),
        }
    }
    String::from_utf8(plain).unwrap()
}

/// The same for a body that must be whole.
fn decoded_whole(coding: &str, coded: &[u8]) -> String {
    let mut plain = String::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(coded).read_to_string(&mut plain).unwrap(),
        "br" => brotli::Decompressor::new(coded, 4096).read_to_string(&mut plain).unwrap(),
        other => panic!("coding {other:?}"),
    };
    plain
}

/// The path that a request asks for.
fn path(request: &[u8]) -> String {
    let line = String::from_utf8_lossy(request);
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// HTTP/1.1 and HTTP/2.
fn ways(lockgate: &Lockgate) -> [(&'static str, Client, &'static str); 2] {
    [
        ("HTTP/1.1", lockgate.client(), "http://a.test"),
        ("HTTP/2", lockgate.tls_client().http2(), "https://a.test"),
    ]
}

/// Sizes from one write to many, and one whose end only its chunks tell, with a trailer behind.
#[tokio::test(flavor = "multi_thread")]
async fn answers_arrive_compressed_and_whole() {
    let web = RawBackend::start(|request| {
        let json =
            "Content-Type: application/json; charset=utf-8\r\nETag: \"v1\"\r\nAccept-Ranges: bytes";
        let path = path(request);
        if let Some(length) = path.strip_prefix("/chunked/") {
            let body = text(length.parse().unwrap());
            let mut chunks = String::new();
            for chunk in body.as_bytes().chunks(5000) {
                let text = std::str::from_utf8(chunk).unwrap();
                write!(chunks, "{:x}\r\n{text}\r\n", text.len()).unwrap();
            }
            let framing = "Transfer-Encoding: chunked\r\nTrailer: x-sum";
            return Answer::keep(format!(
                "HTTP/1.1 200 OK\r\n{json}\r\n{framing}\r\n\r\n{chunks}0\r\nx-sum: 7\r\n\r\n"
            ));
        }
        let body = text(path.strip_prefix("/sized/").unwrap().parse().unwrap());
        let length = body.len();
        Answer::keep(format!("HTTP/1.1 200 OK\r\n{json}\r\nContent-Length: {length}\r\n\r\n{body}"))
    })
    .await;
    let lockgate = house(web.addr(), &BOTH, &[]).await;
    for (way, client, base) in ways(&lockgate) {
        let mut connection = client.connect(base).await.unwrap();
        for (accepted, coding) in
            [("gzip", "gzip"), ("gzip, deflate, br", "br"), ("br;q=0, gzip;q=0.5", "gzip")]
        {
            for (path, length) in [
                ("/sized/300", 300),
                ("/sized/16384", 16_384),
                ("/sized/400000", 400_000),
                ("/chunked/300", 300),
                ("/chunked/200000", 200_000),
            ] {
                let case = format!("{way}, {accepted}, {path}");
                let call = Call::get(&format!("{base}{path}")).header("accept-encoding", accepted);
                let reply = connection.send(call).await.unwrap();
                assert_eq!(reply.header("content-encoding"), Some(coding), "{case}: {reply:?}");
                assert_eq!(reply.header("content-length"), None, "{case}");
                assert_eq!(reply.header("accept-ranges"), None, "{case}");
                assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{case}");
                assert_eq!(reply.header("etag"), Some("W/\"v1\""), "{case}");
                assert!(reply.body.len() < length, "{case}: {}", reply.body.len());
                assert_eq!(decoded_whole(coding, &reply.body), text(length), "{case}");
                if way == "HTTP/2" && path.starts_with("/chunked") {
                    assert_eq!(
                        reply.trailers.get("x-sum").map(http::HeaderValue::as_bytes),
                        Some(&b"7"[..])
                    );
                }
            }
        }
    }
    // Each worker needs one connection, and each comes back.
    assert!(web.connections() <= 2, "{} connections to the endpoint", web.connections());
    // The log counts what was sent: 200 bytes of head at the most, and the body compressed.
    let line = eventually("a line of the log", SOON, async || {
        lockgate.stdout().lines().find(|it| it.contains("/sized/400000")).map(str::to_owned)
    })
    .await;
    let sent: usize =
        line.split("\" 200 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1000..300_000).contains(&sent), "{line}");
}

/// nginx's rules, one line each: what is asked and answered, and whether it comes compressed and with
/// `Vary`.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_nginx_would_compress_is() {
    const CASES: [(&str, &str, &str, &str, bool); 19] = [
        ("GET", "gzip", "200 OK", "Content-Type: text/html", true),
        ("GET", "gzip", "403 No", "Content-Type: text/html", true),
        ("GET", "gzip", "404 No", "Content-Type: text/html;charset=x", true),
        ("POST", "gzip", "200 OK", "Content-Type: text/css", true),
        ("GET", "gzip", "200 OK", "Content-Type: text/css\r\nVary: accept-encoding", true),
        // Not taken: said in Vary.
        ("GET", "identity", "200 OK", "Content-Type: text/html", false),
        ("GET", "gzip;q=0", "200 OK", "Content-Type: text/html", false),
        ("GET", "br", "200 OK", "Content-Type: text/html", false),
        // Left alone.
        ("HEAD", "gzip", "200 OK", "Content-Type: text/html", false),
        ("GET", "gzip", "201 Made", "Content-Type: text/html", false),
        (
            "GET",
            "gzip",
            "206 Part",
            "Content-Type: text/html\r\nContent-Range: bytes 0-599/900",
            false,
        ),
        ("GET", "gzip", "500 Bad", "Content-Type: text/html", false),
        ("GET", "gzip", "200 OK", "Content-Type: text/html\r\nContent-Encoding: br", false),
        ("GET", "gzip", "200 OK", "Content-Type: text/html\r\nCache-Control: no-transform", false),
        ("GET", "gzip", "200 OK", "Content-Type: image/png", false),
        ("GET", "gzip", "200 OK", "Content-Type: application/grpc", false),
        ("GET", "gzip", "200 OK", "X-No-Type: 1", false),
        ("GET", "gzip", "204 None", "Content-Type: text/html", false),
        ("GET", "gzip", "304 Same", "Content-Type: text/html", false),
    ];
    let web = RawBackend::start(|request| {
        let path = path(request);
        let (case, length) = path[1..].split_once('/').unwrap();
        let (method, _, status, fields, _) = CASES[case.parse::<usize>().unwrap()];
        let (length, body) = match status {
            "204 None" | "304 Same" => (String::new(), String::new()),
            _ => (format!("Content-Length: {length}\r\n"), text(length.parse().unwrap())),
        };
        let body = if method == "HEAD" { "" } else { &body };
        Answer::keep(format!("HTTP/1.1 {status}\r\n{fields}\r\nETag: \"v1\"\r\n{length}\r\n{body}"))
    })
    .await;
    let lockgate = house(web.addr(), &[("use-gzip", "1"), ("gzip-min-length", "500")], &[]).await;
    for (way, client, base) in ways(&lockgate) {
        for (number, (method, accepted, status, fields, compressed)) in CASES.iter().enumerate() {
            let case = format!("{way}: {method} {accepted} {status} {fields}");
            let ask = async |length: usize| {
                let url = format!("{base}/{number}/{length}");
                let call = Call::new(method, &url).header("accept-encoding", accepted);
                client.request(call).await.unwrap()
            };
            let reply = ask(600).await;
            let coding = reply.header("content-encoding").filter(|it| *it == "gzip");
            assert_eq!(coding.is_some(), *compressed, "{case}: {reply:?}");
            let varies = *compressed || (*method == "GET" && *accepted != "gzip");
            let vary: Vec<_> = reply.headers.get_all("vary").iter().collect();
            assert_eq!(vary.len(), usize::from(varies), "{case}: {vary:?}");
            let etag = if *compressed { "W/\"v1\"" } else { "\"v1\"" };
            assert_eq!(reply.header("etag"), Some(etag), "{case}");
            if !compressed && !["204 None", "304 Same"].contains(status) {
                assert_eq!(reply.header("content-length"), Some("600"), "{case}");
            }
            // Too short to be worth it.
            let short = ask(499).await;
            let coding = short.header("content-encoding").filter(|it| *it == "gzip");
            assert_eq!(
                (coding, short.header("vary").is_some()),
                (None, fields.contains("Vary")),
                "{case}"
            );
        }
    }
    // An answer to HTTP/1.0 keeps its length.
    let mut old = Raw::plain(lockgate.http).await;
    let head = "GET /0/600 HTTP/1.0\r\nHost: a.test\r\nAccept-Encoding: gzip\r\n\r\n";
    let reply = old.exchange(head).await;
    assert_eq!(reply.headers("content-encoding"), [""; 0], "{reply:#?}");
    assert_eq!((reply.headers("content-length"), reply.text()), (vec!["600"], text(600)));
    assert_eq!(reply.headers("vary"), ["Accept-Encoding"]);
}

/// Without the two keys nothing is touched.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_compressed_by_default() {
    let web = Backend::start("web").await;
    let lockgate = house(web.addr(), &[("gzip-level", "9"), ("brotli-level", "9")], &[]).await;
    let call = Call::get("http://a.test/").header("accept-encoding", "gzip, br");
    let reply = lockgate.client().request(call).await.unwrap();
    assert_eq!(reply.backend().as_deref(), Some("web"));
    for name in ["content-encoding", "vary"] {
        assert_eq!(reply.header(name), None, "{reply:?}");
    }
}

/// The endpoint sends one line and then nothing: the client has it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_trickles_in_goes_on_at_once() {
    let web = Backend::start("web").await;
    let all = [("gzip-types", "*"), ("brotli-types", "text/event-stream *")];
    for buffering in ["off", "on"] {
        let lockgate =
            house(web.addr(), &[&BOTH[..], &all].concat(), &[("proxy-buffering", buffering)]).await;
        for coding in ["gzip", "br"] {
            let mut raw = Raw::plain(lockgate.http).await;
            let head = "GET /sleepy-body HTTP/1.1\r\nHost: a.test\r\nAccept-Encoding";
            raw.send(format!("{head}: {coding}\r\n\r\n")).await;
            let mut head = Vec::new();
            while head_end(&head).is_none() {
                let byte = raw.bytes(1).await;
                assert_eq!(byte.len(), 1, "the head: {}", String::from_utf8_lossy(&head));
                head.extend(byte);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            assert!(head.contains(&format!("content-encoding: {coding}\r\n")), "{head}");
            // Chunks of the transfer coding, until the line is there.
            let mut coded = Vec::new();
            while decoded(coding, &coded, 12) != "first chunk\n" {
                let mut size = String::new();
                while !size.ends_with("\r\n") {
                    size.push(char::from(raw.bytes(1).await[0]));
                }
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                assert!(size > 0, "it ended after {coded:?}");
                coded.extend(raw.bytes(size).await);
                raw.bytes(2).await;
            }
        }
    }
}

/// What the endpoint cut off arrives cut off, compressed or read ahead or both.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_never_looks_whole() {
    let web = RawBackend::start(|request| {
        let (path, body) = (path(request), text(30_000));
        let framing = match &*path {
            "/sized" => format!("Content-Length: 40000\r\n\r\n{body}"),
            "/chunked" => format!("Transfer-Encoding: chunked\r\n\r\n7530\r\n{body}\r\n"),
            _ => format!("Transfer-Encoding: chunked\r\n\r\n8000\r\n{body}"),
        };
        Answer::close(format!("HTTP/1.1 200 OK\r\nContent-Type: text/css\r\n{framing}"))
    })
    .await;
    for buffering in ["off", "on"] {
        let lockgate = house(web.addr(), &BOTH, &[("proxy-buffering", buffering)]).await;
        for path in ["/sized", "/chunked", "/within"] {
            for coding in ["gzip", "br", "identity"] {
                let case = format!("buffering {buffering}, {path}, {coding}");
                let fields = format!("Host: a.test\r\nAccept-Encoding: {coding}");
                let mut raw = Raw::plain(lockgate.http).await;
                let reply = raw.exchange(format!("GET {path} HTTP/1.1\r\n{fields}\r\n\r\n")).await;
                assert_eq!(
                    (reply.status, reply.complete, reply.closed),
                    (Some(200), false, true),
                    "{case}"
                );
                if coding != "identity" {
                    assert_eq!(reply.headers("content-encoding"), [coding], "{case}");
                    let came = decoded(coding, &reply.body, usize::MAX);
                    assert!(text(30_000).starts_with(&came), "{case}");
                }

                let mut h2 = RawH2::start(Raw::plain(lockgate.http).await).await;
                let mut fields = get(path).to_vec();
                fields.push(("accept-encoding", coding));
                let reply = h2.request(1, &fields).await;
                assert_eq!(reply.status, Some(200), "{case}");
                assert!(!reply.ended && reply.broken_off(), "{case}: {reply:?}");
            }
        }
    }
}

/// Pseudo-fields of a GET.
fn get(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path)]
}

/// The window of new streams and of those that are open.
fn window(bytes: u32) -> Vec<u8> {
    [&[0, 4][..], &bytes.to_be_bytes()].concat()
}

/// A client that asks and then takes nothing at all: its windows are closed.
async fn stalled(lockgate: &Lockgate, path: &str) -> RawH2 {
    let mut h2 = RawH2::start(Raw::plain(lockgate.http).await).await;
    h2.frame(frame::SETTINGS, 0, 0, &window(0)).await;
    h2.headers(1, &get(path), true).await;
    h2
}

/// A backend whose answers to `/large…` keep their connections and all others close theirs: a request
/// to the latter tells whether a connection of the former was free for it.
async fn answering(large: usize) -> RawBackend {
    RawBackend::start(move |request| match &*path(request) {
        it if it.starts_with("/large") => {
            let said = it.split('=').nth(1).unwrap_or("perhaps");
            let fields = format!("Content-Length: {large}\r\nX-Accel-Buffering: {said}");
            Answer::keep(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{}", text(large)))
        }
        _ => Answer::close("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    })
    .await
}

/// Whether, while a client takes nothing of a large answer, the endpoint's connection serves others. Asks
/// on the same connection, as that has the same worker.
async fn is_free(h2: &mut RawH2, web: &RawBackend, stream: u32) -> bool {
    let before = web.connections();
    let reply = h2.request(stream, &get("/small")).await;
    assert_eq!((reply.status, reply.ended), (Some(200), true), "{reply:?}");
    web.connections() == before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_does_not_keep_the_endpoints_connection() {
    const LARGE: usize = 200_000;
    let web = answering(LARGE).await;
    let buffers = [("proxy-buffers-number", "16"), ("proxy-buffer-size", "16k")];
    for (buffering, path, free) in [
        ("on", "/large", true),
        ("off", "/large", false),
        ("on", "/large?=no", false),
        ("off", "/large?=yes", true),
    ] {
        let case = format!("{buffering} {path}");
        let annotations = [&buffers[..], &[("proxy-buffering", buffering)]].concat();
        let lockgate = house(web.addr(), &[], &annotations).await;
        let seen = web.requests().len();
        let mut h2 = stalled(&lockgate, path).await;
        eventually("the request", SOON, async || web.requests().len() > seen).await;
        if free {
            let mut stream = 1;
            eventually(&format!("a free connection: {case}"), SOON, async || {
                stream += 2;
                is_free(&mut h2, &web, stream).await
            })
            .await;
        } else {
            for stream in (3..23).step_by(2) {
                assert!(!is_free(&mut h2, &web, stream).await, "{case}");
            }
        }
        // In the end the client has it all.
        h2.frame(frame::SETTINGS, 0, 0, &window(1 << 30)).await;
        let reply = h2.reply(1).await;
        assert_eq!((reply.status, reply.ended), (Some(200), true), "{case}");
        assert!(reply.body == text(LARGE).as_bytes(), "{case}: {} bytes", reply.body.len());
        // What the endpoint said to us is not said to clients.
        let reply = lockgate.client().get(&format!("http://a.test{path}")).await.unwrap();
        assert_eq!(reply.header("x-accel-buffering"), None, "{case}");
        assert_eq!(reply.header("content-length"), Some("200000"), "{case}");
    }
}

/// Of a large answer only so much is read ahead, and nothing more once the client is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_ahead_is_bounded() {
    const WHOLE: usize = 64 << 20;
    /// What sockets on both sides may hold.
    const SOCKETS: usize = 16 << 20;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (written, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, over) = (Arc::clone(&written), Arc::clone(&ended));
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while head_end(&head).is_none() {
            tcp.read_buf(&mut head).await.unwrap();
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 64 << 10];
        while tcp.write_all(&piece).await.is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
        over.store(1, Ordering::SeqCst);
    });
    let lockgate = house(addr, &[("proxy-buffering", "on")], &[]).await;
    let before = resident(&lockgate);
    let mut h2 = stalled(&lockgate, "/").await;
    let (mut last, mut looks) = (0, 0);
    eventually("the endpoint to wait", SOON, async || {
        let now = written.load(Ordering::SeqCst);
        looks = if now > 0 && now == last { looks + 1 } else { 0 };
        last = now;
        looks == 20
    })
    .await;
    assert!(last < SOCKETS, "{last} bytes taken");
    let grown = resident(&lockgate).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    h2.frame(frame::RST_STREAM, 0, 1, &8_u32.to_be_bytes()).await;
    eventually("the end of the endpoint's connection", SOON, async || {
        ended.load(Ordering::SeqCst) == 1
    })
    .await;
    assert!(written.load(Ordering::SeqCst) < SOCKETS);
    server.await.unwrap();
}

/// Memory of the process, in bytes.
fn resident(lockgate: &Lockgate) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lockgate.pid())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
