//! One request in, one canonical request out: whatever a client or a backend does to framing,
//! authority, path or identity, the two sides never disagree about it.
//!
//! Each test sends bytes that proper clients would not send and checks both ends: status and fate
//! of the connection here, the exact bytes there.  [`Seen`] refuses anything upstream that is not
//! canonical, so every test asserts that too.

use hyper::header::HeaderValue;

use crate::harness::backend::{Answer, RawBackend};
use crate::harness::client::{Call, Client};
use crate::harness::lockgate::{
    Lockgate, Pair, backend, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::process::eventually;
use crate::harness::raw::{
    Length, PATIENCE, Raw, RawH2, RawReply, exchange, fields, frame, head_end, literals, preface,
};

/// The product before two hosts: `a.test` goes to `a`, `b.test` and `a.test/admin` to `b`.
struct House {
    lockgate: Lockgate,
    a: RawBackend,
    b: RawBackend,
    pair: Pair,
}

impl House {
    /// Both backends answer `200` with the body `ok`.
    async fn new() -> Self {
        Self::answering(|_| Answer::ok("ok")).await
    }

    /// Backend `a` answers by `script`.
    async fn answering(script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_args(script, &[]).await
    }

    async fn with_args(
        script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
        args: &[&str],
    ) -> Self {
        let a = RawBackend::start(script).await;
        let b = RawBackend::answering(Answer::ok("ok")).await;
        let pair = pair(&["a.test", "b.test"]);
        let plain = [
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
            // Small bodies would be taken whole and lose their chunks.
            ("nginx.ingress.kubernetes.io/proxy-request-buffering", "off"),
        ];
        let paths = [("/", "Prefix", "a", 80), ("/admin", "Prefix", "b", 80)];
        let manifests = [
            ingress_class(),
            ingress_tls("a", "a.test", &paths, &plain, "tls"),
            ingress_tls("b", "b.test", &[("/", "Prefix", "b", 80)], &plain, "tls"),
            tls_secret("tls", &pair),
            backend("a", 80, &[a.addr()]),
            backend("b", 80, &[b.addr()]),
        ];
        let lockgate = Lockgate::with_manifests(manifests.concat());
        let lockgate = lockgate.args(args.iter().copied()).start().await;
        Self { lockgate, a, b, pair }
    }

    /// Sends `bytes` without TLS.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> RawReply {
        exchange(self.lockgate.http, bytes).await
    }

    /// Sends a whole request to `a.test` that asks for the connection to be closed.
    async fn get(&self, target: &str, lines: &str) -> RawReply {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        self.exchange(format!("{head}{lines}\r\n")).await
    }

    /// An HTTP/2 connection on which anything can be sent.
    async fn h2(&self) -> RawH2 {
        let raw = Raw::tls(self.lockgate.https, "a.test", &["h2"]).await.unwrap();
        assert_eq!(raw.alpn(), Some("h2"));
        RawH2::start(raw).await
    }

    /// A well-behaved HTTP/2 client.
    fn h2_client(&self) -> Client {
        Client::new().ca(&self.pair.certificate).http2().connect_to(self.lockgate.https)
    }

    /// Sends `bytes` without waiting for what becomes of the connection.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> RawReply {
        let mut raw = Raw::plain(self.lockgate.http).await;
        raw.send(bytes).await;
        raw.reply().await
    }

    /// Waits until no connection to `a` is left.
    async fn idle(&self) {
        eventually("no connection to a", PATIENCE, async || self.a.open() == 0).await;
    }

    /// The one request that came to `a`, and none to `b`; forgets it.
    #[track_caller]
    fn only(&self, case: &str) -> Seen {
        let (mut a, b) = self.seen(case);
        assert_eq!((a.len(), b.len()), (1, 0), "requests upstream: {case}\n{a:#?}\n{b:#?}");
        a.remove(0)
    }

    /// Nothing came to any backend.
    #[track_caller]
    fn none(&self, case: &str) {
        let (a, b) = self.seen(case);
        assert!(a.is_empty() && b.is_empty(), "reached upstream: {case}\n{a:#?}\n{b:#?}");
    }

    /// What came to `a` and to `b` since the last look.
    #[track_caller]
    fn seen(&self, case: &str) -> (Vec<Seen>, Vec<Seen>) {
        let parse = |backend: &RawBackend| {
            let broken: Vec<_> = backend.broken().iter().map(|it| lossy(it)).collect();
            assert!(broken.is_empty(), "broken upstream: {case}\n{broken:#?}");
            let seen = backend.requests().iter().map(|it| Seen::parse(it)).collect();
            backend.forget();
            seen
        };
        (parse(&self.a), parse(&self.b))
    }
}

/// A request as a backend got it, known to be canonical.
#[derive(Debug)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: String,
    trailers: Vec<String>,
}

impl Seen {
    /// Takes a request apart; fails the test when anything about it is open to interpretation.
    #[track_caller]
    fn parse(bytes: &[u8]) -> Self {
        let text = lossy(bytes);
        let end = head_end(bytes).unwrap();
        let head = lossy(&bytes[..end - 4]);
        let bare = head.replace("\r\n", "");
        assert!(!bare.contains(['\r', '\n', '\0']), "control characters in the head: {text:?}");
        let mut line = head.split("\r\n").next().unwrap().split(' ');
        let (method, target) = (line.next().unwrap(), line.next().unwrap());
        assert_eq!((line.next(), line.next()), (Some("HTTP/1.1"), None), "{text:?}");
        for line in head.split("\r\n").skip(1) {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
            let token = |it: char| it.is_ascii_alphanumeric() || "!#$%&'*+-.^`|~".contains(it);
            assert!(!name.is_empty() && name.chars().all(token), "name of {line:?}");
            let value = value.strip_prefix(' ').unwrap_or(value);
            assert_eq!(value, value.trim(), "spaces around the value of {line:?}");
        }
        let fields = fields(&head).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let mut seen = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: fields.collect(),
            body: String::new(),
            trailers: Vec::new(),
        };
        assert!(seen.one("host").is_some(), "no Host: {text:?}");
        let (chunked, size) = (seen.one("transfer-encoding"), seen.one("content-length"));
        assert!(chunked.is_none() || size.is_none(), "two framings: {text:?}");
        assert!(chunked.is_none_or(|it| it == "chunked"), "transfer coding: {text:?}");
        let canonical = |it: &str| it.parse::<u64>().is_ok_and(|number| number.to_string() == it);
        assert!(size.is_none_or(canonical), "content length: {text:?}");
        let length = Length::of(&head).unwrap_or(Length::Bytes(0));
        let cut = length.cut(&bytes[end..]).unwrap();
        assert_eq!((cut.whole, end + cut.used), (true, bytes.len()), "end of the body: {text:?}");
        (seen.body, seen.trailers) = (lossy(&cut.body), cut.trailers);
        seen
    }

    /// All values of a field, names in lower case.
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|it| it.0 == name).map(|it| it.1.as_str()).collect()
    }

    /// The value of a field that must not come twice.
    #[track_caller]
    fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} twice: {self:#?}");
        all.first().copied()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The request was answered with one of `statuses`, and the connection then closed.
#[track_caller]
fn refused(reply: &RawReply, statuses: &[u16], case: &str) {
    let status = reply.status.unwrap_or_default();
    assert!(statuses.contains(&status), "{case:?}: wanted {statuses:?}, got {reply:#?}");
    assert!(reply.closed, "{case:?}: still open after {reply:#?}");
}

#[track_caller]
fn answered(reply: &RawReply, body: &str, case: &str) {
    assert_eq!((reply.status, reply.text()), (Some(200), body.to_owned()), "{case:?}: {reply:#?}");
    assert!(reply.complete, "{case:?}: {reply:#?}");
}

/// Pseudo-fields of a GET over TLS, then `more`.
fn get<'a>(authority: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", "/")];
    fields.extend(more);
    fields
}

/// RFC 9112 section 6.1 and 6.3: chunks decide, `Content-Length` goes, and nothing that follows
/// on the connection is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_wins_over_content_length_and_the_connection_ends() {
    let house = House::new().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (fields, body, expected) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n", ""),
        ("Content-Length: 99\r\nTransfer-Encoding: Chunked", "2\r\nhi\r\n0\r\n\r\n", "hi"),
    ] {
        let head = format!("POST /first HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n");
        let mut raw = Raw::plain(house.lockgate.http).await;
        let reply = raw.exchange(format!("{head}{body}{smuggled}")).await;
        answered(&reply, "ok", fields);
        assert!(reply.closed, "{fields}: {reply:#?}");
        assert_eq!(lossy(&raw.rest().await.0), "", "a second answer: {fields}");
        let seen = house.only(fields);
        assert_eq!((seen.target.as_str(), seen.body.as_str()), ("/first", expected), "{fields}");
    }
}

/// RFC 9112 section 6.1: a transfer coding that is not exactly `chunked` is not understood here.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_is_the_only_transfer_coding() {
    let house = House::new().await;
    let post = |fields: &str| {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\n";
        format!("{head}{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    };
    for fields in [
        // Lists that end in chunked.
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        // Lists that do not.
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        // Nearly chunked.
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;x=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding : chunked",
    ] {
        refused(&house.exchange(post(fields)).await, &[400, 501], fields);
        house.none(fields);
    }
    let old = "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&house.exchange(old).await, &[400], old);
    house.none(old);

    for fields in ["Transfer-Encoding: chunked", "Transfer-Encoding: CHUNKED"] {
        answered(&house.ask(post(fields)).await, "ok", fields);
        let seen = house.only(fields);
        assert_eq!((seen.one("transfer-encoding"), &*seen.body), (Some("chunked"), "abc"));
    }
}

/// RFC 9112 section 6.3: a length is one decimal number, and upstream gets its plainest spelling.
#[tokio::test(flavor = "multi_thread")]
async fn content_length_is_one_number() {
    let house = House::new().await;
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\nabc");
    for fields in [
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length: 3.0",
        "Content-Length:",
        "Content-Length: 3, 3",
        "Content-Length: 3, 4",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 18446744073709551619",
        "Content-Length : 3",
    ] {
        refused(&house.exchange(post(fields)).await, &[400], fields);
        house.none(fields);
    }
    for fields in
        ["Content-Length: 3", "Content-Length: 003", "Content-Length: 3\r\nContent-Length: 3"]
    {
        answered(&house.ask(post(fields)).await, "ok", fields);
        let seen = house.only(fields);
        assert_eq!((seen.one("content-length"), seen.body.as_str()), (Some("3"), "abc"));
    }
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

/// A response after which the backend closes.
const CLOSING: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// RFC 9112 section 7.1: the client is told `400`, and the request upstream is broken off, never
/// completed, its connection never used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_ends_both_connections() {
    // Connections that end after each response leave only those to be seen that should not be.
    let house = House::answering(|_| Answer::close(CLOSING)).await;
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    let mut good = 0;
    for body in [
        // The line of the size.
        "3\nabc\r\n0\r\n\r\n",
        "3;x\ry\r\nabc\r\n0\r\n\r\n",
        "3;x\ny\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0_3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        // The end of the data.
        "3\r\nabcXX0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        // A good chunk before the bad one.
        "3\r\nabc\r\n0x3\r\nabc\r\n0\r\n\r\n",
        // Extensions without measure.
        &long,
    ] {
        let head = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        refused(&house.exchange(format!("{head}{body}")).await, &[400], body);
        answered(&house.get("/good", "").await, "ok", body);
        good += 1;
        // What was broken off may come later still: it is never whole.
        house.idle().await;
        let whole: Vec<_> = house.a.requests().iter().map(|it| Seen::parse(it).target).collect();
        assert_eq!(whole, vec!["/good"; good], "completed upstream: {body:?}");
    }
}

/// What a lenient reader may accept in chunked framing never travels on.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_extensions_end_here() {
    let house = House::answering(|_| Answer::close(CLOSING)).await;
    for body in [
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3;a\0b\r\nabc\r\n0\r\n\r\n",
        "3;a\u{1}b\r\nabc\r\n0\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3\r\nabc\r\n0;a=b\r\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n";
        let reply = house.exchange(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
        if reply.status == Some(200) {
            // That it parses shows that nothing but sizes and data arrived.
            assert_eq!(house.only(body).body, "abc", "{body:?}");
        } else {
            refused(&reply, &[400], body);
            house.idle().await;
            assert_eq!(house.a.requests().len(), 0, "completed upstream: {body:?}");
            house.a.forget();
        }
    }
}

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

/// An early answer leaves a body behind; its bytes are skipped or the connection ends, but they
/// never become a request.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_body_is_never_taken_for_a_request() {
    let house = House::new().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let length = smuggled.len();
    let head = "POST /x HTTP/1.1\r\nHost: unknown.test\r\n";
    let after = "GET /after HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    for (case, bytes) in [
        ("sized", format!("{head}Content-Length: {length}\r\n\r\n{smuggled}")),
        (
            "chunked",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"
            ),
        ),
    ] {
        let mut raw = Raw::plain(house.lockgate.http).await;
        raw.send(format!("{bytes}{after}")).await;
        let first = raw.reply().await;
        assert_eq!(first.status, Some(404), "{case}: {first:#?}");
        let second = raw.reply().await;
        if second.status.is_some() {
            answered(&second, "ok", case);
            assert_eq!(house.only(case).target, "/after", "{case}");
        } else {
            assert!(second.closed, "{case}: {second:#?}");
            house.none(case);
        }
    }
    // A body that never comes whole holds nothing up.
    let bytes = format!("{head}Content-Length: 1000\r\n\r\n{smuggled}");
    refused(&house.exchange(bytes).await, &[404], "incomplete");
    house.none("incomplete");
}

/// The head of a WebSocket handshake, RFC 6455 section 4.1.
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An answer that switches protocols.
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Until the backend answers `101`, bytes after the handshake are no tunnel.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_opens_only_after_101() {
    let house = House::answering(|_| Answer::tunnel(SWITCHING)).await;
    let mut raw = Raw::plain(house.lockgate.http).await;
    raw.send(format!("{HANDSHAKE}EARLY")).await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, Some(101), "{reply:#?}");
    assert_eq!(reply.headers("upgrade"), ["websocket"]);
    raw.send("LATER").await;
    assert_eq!(lossy(&raw.bytes(10).await), "EARLYLATER");
    assert_eq!(lossy(&house.a.tunnelled()), "EARLYLATER");
    let seen = house.only("tunnel");
    assert_eq!(seen.one("upgrade"), Some("websocket"));
    assert!(seen.one("connection").is_some_and(|it| it.eq_ignore_ascii_case("upgrade")));
    assert_eq!(seen.one("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
}

/// A backend that does not switch leaves an ordinary connection: what follows is a request like
/// any other, with all that is done to requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_opens_no_tunnel() {
    let house = House::new().await;
    let mut raw = Raw::plain(house.lockgate.http).await;
    let second = "GET /admin HTTP/1.1\r\nHost: a.test\r\nX_Spoof: 1\r\nConnection: close\r\n\r\n";
    raw.send(format!("{HANDSHAKE}{second}")).await;
    answered(&raw.reply().await, "ok", "refused upgrade");
    let reply = raw.reply().await;
    let (a, b) = house.seen("refused upgrade");
    assert_eq!(a.iter().map(|it| &*it.target).collect::<Vec<_>>(), ["/ws"]);
    assert_eq!(a[0].body, "");
    if reply.status.is_some() {
        answered(&reply, "ok", "second");
        assert_eq!(b.iter().map(|it| &*it.target).collect::<Vec<_>>(), ["/admin"]);
        assert_eq!(b[0].all("x_spoof").len(), 0);
    } else {
        assert!(reply.closed && b.is_empty(), "{reply:#?} {b:#?}");
    }
}

/// RFC 9113 section 3.1 retired the upgrade to HTTP/2: only `websocket` passes, and only when the
/// client asks for it properly.
#[tokio::test(flavor = "multi_thread")]
async fn only_websocket_upgrades_are_forwarded() {
    let house = House::new().await;
    let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA";
    for lines in [
        &format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}\r\n"),
        &format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{settings}\r\n"),
        &format!("{settings}\r\n"),
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\n",
    ] {
        let reply = house.ask(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        answered(&reply, "ok", lines);
        let seen = house.only(lines);
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(seen.one(name), None, "{lines:?}: {seen:#?}");
        }
        let connection = seen.all("connection").join(", ").to_lowercase();
        assert!(!connection.contains("upgrade"), "{lines:?}: {seen:#?}");
    }
    let more = [("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")];
    let reply = house.h2().await.request(1, &get("a.test", &more)).await;
    if reply.status == Some(200) {
        assert_eq!(house.only("over HTTP/2").one("http2-settings"), None);
    } else {
        assert!(reply.refused(), "{reply:?}");
        house.none("over HTTP/2");
    }
}

/// RFC 9110 section 15.2.2: nobody asked, so the backend is broken.
#[tokio::test(flavor = "multi_thread")]
async fn an_unasked_101_is_a_bad_gateway() {
    let house = House::answering(|request| {
        if request.starts_with(b"GET /good") { Answer::ok("ok") } else { Answer::keep(SWITCHING) }
    })
    .await;
    for lines in ["", "Upgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let reply = house.ask(format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        assert_eq!((reply.status, reply.complete), (Some(502), true), "{lines:?}: {reply:#?}");
        house.idle().await;
    }
    let reply = house.h2().await.request(1, &get("a.test", &[])).await;
    assert_eq!((reply.status, reply.ended), (Some(502), true), "{reply:?}");
    house.idle().await;
    answered(&house.get("/good", "").await, "ok", "afterwards");
}

/// Answers `GET /N` with the Nth of `answers`, anything else with its target.
fn by_number(answers: Vec<Answer>) -> impl Fn(&[u8]) -> Answer + Send + Sync + 'static {
    move |request| {
        let seen = Seen::parse(request);
        let number = seen.target.trim_start_matches('/').parse::<usize>().ok();
        let answer = number.and_then(|it| answers.get(it)).cloned();
        answer.unwrap_or_else(|| Answer::ok(&seen.target))
    }
}

/// RFC 9112 section 6.3: the client gets one framing, whatever the backend mixed.
#[tokio::test(flavor = "multi_thread")]
async fn two_framings_from_a_backend_become_one() {
    let fields = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: Chunked\r\nContent-Length: 0",
    ];
    let ok =
        |it: &&str| Answer::keep(format!("HTTP/1.1 200 OK\r\n{it}\r\n\r\n2\r\nok\r\n0\r\n\r\n"));
    let house = House::answering(by_number(fields.iter().map(ok).collect())).await;
    for (number, fields) in fields.iter().enumerate() {
        let reply = house.get(&format!("/{number}"), "").await;
        answered(&reply, "ok", fields);
        let framings = [reply.headers("content-length"), reply.headers("transfer-encoding")];
        assert_eq!(framings.concat().len(), 1, "{fields:?}: {reply:#?}");
        let reply = house.h2_client().get(&format!("https://a.test/{number}")).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()), "{fields:?}");
    }
}

/// RFC 9112 section 6.3: a backend whose framing is invalid gives `502`, never an empty reply, and
/// its connection is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_response_is_a_bad_gateway() {
    let many = (0..101).map(|it| format!("X-{it}: 1\r\n")).collect::<Vec<_>>().concat();
    let heads = [
        // Transfer codings other than chunked.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        // Lengths.
        "HTTP/1.1 200 OK\r\nContent-Length: abc",
        "HTTP/1.1 200 OK\r\nContent-Length: +2",
        "HTTP/1.1 200 OK\r\nContent-Length: -2",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618",
        // Heads.
        "hello world",
        "HTTP/1.1 099 Low\r\nContent-Length: 2",
        "HTTP/2.0 200 OK\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2",
        &format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2"),
        &format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2", "x".repeat(600_000)),
    ];
    let body = "2\r\nok\r\n0\r\n\r\n";
    let mut answers: Vec<_> =
        heads.iter().map(|it| Answer::close(format!("{it}\r\n\r\n{body}"))).collect();
    answers.push(Answer::close(""));
    answers.push(Answer::close("HTTP/1.1 200"));
    answers.push(Answer::reset("HTTP/1.1 200 OK\r\nContent-Le"));
    let count = answers.len();
    let house = House::answering(by_number(answers)).await;
    for number in 0..count {
        let case = heads.get(number).map_or("cut short", |it| &it[..it.len().min(80)]);
        let reply = house.get(&format!("/{number}"), "").await;
        assert_eq!((reply.status, reply.complete), (Some(502), true), "{case:?}: {reply:#?}");
        answered(&house.get("/good", "").await, "/good", case);
    }
}

/// RFC 9112 section 8: what the backend did not finish, the client never takes for whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_response_never_ends_cleanly() {
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("short of its length", Answer::close(sized)),
        ("reset", Answer::reset(sized)),
        ("nothing of its length", Answer::close("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")),
        ("inside a chunk", Answer::close(format!("{chunked}7\r\npart"))),
        ("between chunks", Answer::close(format!("{chunked}7\r\npartial\r\n"))),
        ("without the last CRLF", Answer::close(format!("{chunked}7\r\npartial\r\n0\r\n"))),
        ("a bad chunk size", Answer::close(format!("{chunked}7\r\npartial\r\nxyz\r\n"))),
        ("reset between chunks", Answer::reset(format!("{chunked}7\r\npartial\r\n"))),
    ];
    let answers = cases.iter().map(|it| it.1.clone()).collect();
    let house = House::answering(by_number(answers)).await;
    let mut h2 = house.h2().await;
    for (number, (case, _)) in cases.iter().enumerate() {
        let head = format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let reply = house.exchange(head).await;
        // A head that could not be sent before may still become 502.
        assert!(reply.status == Some(502) || !reply.complete, "{case}: {reply:#?}");
        assert!(reply.status == Some(502) || reply.closed, "{case}: {reply:#?}");

        let stream = u32::try_from(2 * number + 1).unwrap();
        let path = format!("/{number}");
        let mut fields = get("a.test", &[]);
        fields[3].1 = &path;
        let reply = h2.request(stream, &fields).await;
        let broken = !reply.ended && reply.broken_off();
        assert!(reply.status == Some(502) || broken, "{case}: {reply:?}");
        assert!(!reply.closed && reply.goaway.is_none(), "other streams suffer: {case}: {reply:?}");
    }
}

/// What a backend sends beyond its response is nobody's response.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_response_answer_nobody() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let answers = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{more}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{more}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{more}"),
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n{more}"),
    ];
    let house = House::answering(by_number(answers.iter().map(Answer::keep).collect())).await;
    for round in 0..5 {
        for number in 0..answers.len() {
            // One connection stays with one worker, and so with its connections upstream.
            let mut raw = Raw::plain(house.lockgate.http).await;
            for target in [format!("/{number}"), format!("/next-{round}-{number}")] {
                raw.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
                let reply = raw.reply().await;
                assert!(reply.complete, "{target}: {reply:#?}");
                let expected = if target.contains("next") { target.as_str() } else { "ok" };
                assert!([expected, ""].contains(&&*reply.text()), "{target}: {reply:#?}");
                assert!(!target.contains("next") || reply.text() == target, "{reply:#?}");
            }
        }
    }
}

/// RFC 9110 section 6.5.1: fields that frame, route or authenticate mean nothing after the body.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_carry_no_framing_routing_or_identity() {
    let bad = [
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("host", "b.test"),
        ("authorization", "Basic eDp5"),
        ("x-forwarded-for", "192.0.2.66"),
        ("connection", "close"),
    ];
    let response = "HTTP/1.1 200 OK\r\nTrailer: grpc-status, content-length, host\r\n\
                    Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
                    grpc-status: 0\r\ncontent-length: 9\r\nhost: b.test\r\n\r\n";
    let house = House::answering(move |_| Answer::keep(response)).await;

    let names: Vec<_> = bad.iter().map(|it| it.0).collect();
    let lines: Vec<_> = bad.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let bytes = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-checksum, {}\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n\
         3\r\nabc\r\n0\r\nx-checksum: 123\r\n{}\r\n",
        names.join(", "),
        lines.concat()
    );
    let reply = house.exchange(bytes).await;
    answered(&reply, "ok", "over HTTP/1.1");
    for trailer in &reply.trailers {
        assert!(trailer.starts_with("grpc-status"), "{reply:#?}");
    }
    let seen = house.only("over HTTP/1.1");
    assert_eq!((seen.body.as_str(), seen.trailers), ("abc", vec!["x-checksum: 123".to_owned()]));

    let call = Call::new("POST", "https://a.test/").chunks(&["abc"]);
    let call = call.header("te", "trailers").header("trailer", "x-checksum, host, authorization");
    let call = call.trailer("x-checksum", "123").trailer("host", "b.test");
    let call = call.trailer("authorization", "Basic eDp5").trailer("content-length", "9");
    let reply = house.h2_client().request(call).await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()));
    assert_eq!(reply.trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(&b"0"[..]));
    assert_eq!(reply.trailers.len(), 1, "{reply:?}");
    let seen = house.only("over HTTP/2");
    assert_eq!((seen.body.as_str(), seen.trailers), ("abc", vec!["x-checksum: 123".to_owned()]));
}

/// RFC 9110 section 10.1.1: `100-continue` is answered here and goes no further.
#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_answered_here() {
    let house = House::new().await;
    for value in ["100-continue", "100-Continue"] {
        let mut raw = Raw::plain(house.lockgate.http).await;
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nConnection: close\r\n";
        raw.send(format!("{head}Expect: {value}\r\n\r\n")).await;
        assert_eq!(lossy(&raw.bytes(25).await), "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send("abc").await;
        answered(&raw.reply().await, "ok", value);
        let seen = house.only(value);
        assert_eq!((seen.one("expect"), seen.body.as_str()), (None, "abc"));
    }
}

/// RFC 9110 section 10.1.1: what is not understood is said to be so.
#[tokio::test(flavor = "multi_thread")]
async fn other_expectations_fail() {
    let house = House::new().await;
    for value in ["x", "x 100-continue", "x, 100-continue", "100-continue, x", "200-ok"] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n";
        let reply = house.ask(format!("{head}Expect: {value}\r\n\r\nabc")).await;
        assert_eq!((reply.status, reply.complete), (Some(417), true), "{value}: {reply:#?}");
        assert!(reply.interim.is_empty(), "{value}: {reply:#?}");
        house.none(value);
    }
    let reply = house.h2().await.request(1, &get("a.test", &[("expect", "x")])).await;
    assert_eq!(reply.status, Some(417), "{reply:?}");
    house.none("over HTTP/2");
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

/// RFC 9110 section 9.3.1: such a body means nothing, but losing it would shift the framing.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_arrives_whatever_the_method() {
    let house = House::new().await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "PATCH"] {
        let call = Call::new(method, "https://a.test/x").chunks(&["hel", "lo"]);
        let reply = house.h2_client().request(call).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()), "{method}");
        let seen = house.only(method);
        assert_eq!((&*seen.method, &*seen.body), (method, "hello"), "{seen:#?}");
        assert_eq!(seen.one("transfer-encoding"), Some("chunked"), "{seen:#?}");

        let head = format!("{method} /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        let body = "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        answered(&house.exchange(format!("{head}{body}")).await, "ok", method);
        let seen = house.only(method);
        assert_eq!((&*seen.method, &*seen.body), (method, "hello"), "{seen:#?}");
    }
    // Without a body there is none upstream either.
    let reply = house.h2_client().get("https://a.test/x").await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = house.only("no body");
    assert_eq!((seen.one("transfer-encoding"), seen.body.as_str()), (None, ""));
}

/// RFC 9110 section 9.3.2: `Content-Length` of a HEAD response tells about the GET response.
#[tokio::test(flavor = "multi_thread")]
async fn head_keeps_content_length() {
    let head = |status: &str| Answer::keep(format!("{status}\r\nContent-Length: 1234\r\n\r\n"));
    let answers = vec![head("HTTP/1.1 200 OK"), head("HTTP/1.1 304 Not Modified")];
    let house = House::answering(by_number(answers)).await;
    for (number, status) in [200, 304].into_iter().enumerate() {
        let mut raw = Raw::plain(house.lockgate.http).await;
        raw.send(format!("HEAD /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let reply = raw.reply_to_head().await;
        assert_eq!(reply.status, Some(status), "{reply:#?}");
        assert_eq!(reply.headers("content-length"), ["1234"], "{reply:#?}");
        // The connection is where it should be.
        raw.send("GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        answered(&raw.reply().await, "/next", "after HEAD");

        let call = Call::new("HEAD", &format!("https://a.test/{number}"));
        let reply = house.h2_client().request(call).await.unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (status, Some("1234")));
        let methods: Vec<_> = house.seen("HEAD").0.into_iter().map(|it| it.method).collect();
        assert_eq!(methods, ["HEAD", "GET", "HEAD"]);
    }
}

/// Our own pages, too: over HTTP/2 a body after HEAD would break the stream.
#[tokio::test(flavor = "multi_thread")]
async fn head_of_our_own_pages_has_no_body() {
    let house = House::new().await;
    for client in [house.lockgate.tls_client().http2(), house.lockgate.tls_client()] {
        let [get, head] = ["GET", "HEAD"].map(|it| Call::new(it, "https://nobody.test/"));
        let (get, head) = tokio::join!(client.request(get), client.request(head));
        let (get, head) = (get.unwrap(), head.unwrap());
        assert_eq!((get.status, head.status), (404, 404));
        assert!(head.body.is_empty());
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
    }
}

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
