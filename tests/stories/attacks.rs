//! Clients that want nothing but to be in the way: each attack ends by itself, and whoever comes with a
//! proper request meanwhile is served.
//!
//! Stories whose names begin with `long_` wait for patience to run out, a minute and more.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::cgroup::Cgroup;
use crate::harness::client::Call;
use crate::harness::load::Load;
use crate::harness::lockgate::{Lockgate, Start, backend, ingress, ingress_class, tls_secret};
use crate::harness::lockgate::{ingress_tls, pair};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::harness::raw::{Raw, RawH2, encode, literals, preface};

/// Attackers are gone by then, a slow machine's time included.
const GONE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
/// What a client can send before it learns of its end: mostly what the kernel holds on both sides.
const SENT: usize = 16 << 20;
/// `ENHANCE_YOUR_CALM`, RFC 9113 section 7.
const CALM: u32 = 11;
/// `CANCEL` of the same section.
const CANCEL: u32 = 8;

/// The host `a.test` with and without TLS, without a limit for bodies, and somebody who uses it.
struct Siege {
    lockgate: Lockgate,
    web: Backend,
    /// Where the user goes.
    _other: Backend,
    user: Load,
    memory: u64,
}

fn objects(web: SocketAddr, other: SocketAddr) -> String {
    let annotations = [
        ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
        ("nginx.ingress.kubernetes.io/proxy-body-size", "0"),
        // What is not taken whole first reaches an endpoint, which is worse.
        ("nginx.ingress.kubernetes.io/proxy-request-buffering", "off"),
    ];
    let paths = [("/", "Prefix", "web", 80)];
    let small = [("nginx.ingress.kubernetes.io/ssl-redirect", "false")];
    [
        ingress_class(),
        ingress_tls("web", "a.test", &paths, &annotations, "tls"),
        ingress("small", "small.test", &paths, &small),
        ingress("other", "b.test", &[("/", "Prefix", "other", 80)], &small),
        tls_secret("tls", &pair(&["a.test", "small.test"])),
        backend("web", 80, &[web]),
        backend("other", 80, &[other]),
    ]
    .concat()
}

fn house(web: SocketAddr, other: SocketAddr) -> Start {
    Lockgate::with_manifests(objects(web, other)).args(["--max-connections-per-address=0"])
}

impl Siege {
    async fn begin() -> Self {
        let web = Backend::start("web").await;
        let other = Backend::start("other").await;
        let lockgate = house(web.addr(), other.addr()).start().await;
        let user = Load::start(&lockgate.client(), "http://b.test/", 2).await;
        let memory = lockgate.memory();
        Self { lockgate, web, _other: other, user, memory }
    }

    async fn raw(&self) -> Raw {
        Raw::tls(self.lockgate.https, "a.test", &["h2"]).await.unwrap()
    }

    async fn h2(&self) -> RawH2 {
        RawH2::start(self.raw().await).await
    }

    async fn dropped(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.lockgate.metric("lockgate_connections_dropped_total", &[&label]).await
    }

    /// Everything is as before, and the user noticed nothing.
    async fn end(self) {
        let name = "nginx_ingress_controller_nginx_process_connections";
        eventually("only the user is left", SOON, async || {
            let open = self.lockgate.metric(name, &[]).await;
            if open <= 2.0 { Ok(()) } else { Err(open) }
        })
        .await;
        eventually("memory as before", SOON, async || {
            let more = self.lockgate.memory().saturating_sub(self.memory) / MIB;
            if more <= 32 { Ok(()) } else { Err(format!("{more} MiB more")) }
        })
        .await;
        self.user.stop().await.assert_clean();
    }
}

/// Pseudo-fields of a request.
fn pseudo<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", method), (":scheme", "https"), (":authority", "a.test"), (":path", path)]
}

fn head(stream: u32, method: &str, path: &str, end: bool) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    encode(HEADERS, flags, stream, &literals(&pseudo(method, path)))
}

/// Streams that a client may open, in order.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// CVE-2023-44487: requests that are given up at once cost the client nothing and the backend everything.
#[tokio::test(flavor = "multi_thread")]
async fn requests_given_up_are_counted() {
    let siege = Siege::begin().await;
    let reset = |stream| encode(RST_STREAM, 0, stream, &8_u32.to_be_bytes());

    // All at once.
    let mut h2 = siege.h2().await;
    let all =
        streams().take(500).map(|it| [head(it, "GET", "/slow/9000", true), reset(it)].concat());
    h2.bytes(&all.collect::<Vec<_>>().concat()).await;
    assert!(h2.ends(SOON).await, "a batch of resets");
    assert_eq!(h2.goaway(), Some(CALM));

    // One after the other, each when the backend has it.
    let mut h2 = siege.h2().await;
    let mut given_up = 0;
    for stream in streams().take(1000) {
        let before = siege.web.requests();
        h2.bytes(&head(stream, "GET", "/slow/9000", true)).await;
        let mut gone = false;
        while siege.web.requests() == before && !gone {
            gone = h2.ends(Duration::from_millis(1)).await;
        }
        if gone {
            break;
        }
        h2.bytes(&reset(stream)).await;
        given_up += 1;
    }
    assert!(h2.ends(SOON).await, "resets at a pace, {given_up} of them");
    assert!((100..=151).contains(&given_up), "{given_up}");
    siege.end().await;
}

/// CVE-2025-8671: errors that make the server reset its own streams.
#[tokio::test(flavor = "multi_thread")]
async fn resets_that_the_client_provokes_are_counted() {
    let siege = Siege::begin().await;
    for (case, provocation) in [
        ("a window update of zero", encode(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("more data than said", encode(DATA, END_STREAM, 0, b"abcdef")),
    ] {
        let mut h2 = siege.h2().await;
        for stream in streams().take(1000) {
            let mut fields = pseudo("POST", "/slow/9000").to_vec();
            fields.push(("content-length", "1"));
            let mut bytes = encode(HEADERS, END_HEADERS, stream, &literals(&fields));
            let mut frame = provocation.clone();
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
            bytes.extend(frame);
            h2.bytes(&bytes).await;
            if h2.ends(Duration::ZERO).await {
                break;
            }
        }
        assert!(h2.ends(SOON).await, "{case}");
    }
    siege.end().await;
}

/// CVE-2024-27316 and the older bombs of compressed heads.
#[tokio::test(flavor = "multi_thread")]
async fn heads_have_an_end_however_they_come() {
    let siege = Siege::begin().await;
    let begun = encode(HEADERS, 0, 1, &literals(&pseudo("GET", "/")));
    let long = literals(&[("x-long", &*"x".repeat(4000))]);
    let mut bomb = literals(&pseudo("GET", "/"));
    // A field of 4000 bytes put into the table, and named again by a byte each.
    bomb.push(0x40);
    bomb.extend(&literals(&[("x-bomb", &*"x".repeat(4000))])[1..]);
    bomb.extend([0xbe; 4000]);
    for (case, first, more) in [
        ("empty continuations", &begun, encode(CONTINUATION, 0, 1, b"")),
        ("long continuations", &begun, encode(CONTINUATION, 0, 1, &long)),
        ("a bomb", &encode(HEADERS, END_HEADERS | END_STREAM, 1, &bomb), Vec::new()),
    ] {
        let mut h2 = siege.h2().await;
        h2.bytes(first).await;
        if more.is_empty() {
            let reply = h2.reply(1).await;
            assert!(reply.status == Some(431) || reply.broken_off(), "{case}: {reply:?}");
            continue;
        }
        let sent = h2.raw().flood(&more, SOON).await;
        assert!(sent.is_some_and(|it| it < SENT), "{case}: {sent:?}");
    }
    siege.end().await;
}

/// CVE-2019-9511 to 9518: frames that cost a look each and ask for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_to_nothing_end_the_connection() {
    let siege = Siege::begin().await;
    let open = head(1, "POST", "/", false);
    let mut dropped = siege.dropped("flood").await;
    for (case, first, frame) in [
        ("PING", &[][..], encode(PING, 0, 0, &[7; 8])),
        ("PING acknowledgements", &[], encode(PING, 1, 0, &[7; 8])),
        ("SETTINGS", &[], encode(SETTINGS, 0, 0, b"")),
        ("PRIORITY", &[], encode(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", &[], encode(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("an unknown type", &[], encode(0x42, 0, 0, &[0; 16])),
        ("empty DATA", &open, encode(DATA, 0, 1, b"")),
        ("DATA of padding", &open, encode(DATA, 8, 1, &[[7_u8; 1], [0; 1]].concat().repeat(4))),
    ] {
        let mut h2 = siege.h2().await;
        h2.bytes(first).await;
        let begun = Instant::now();
        let sent = h2.raw().flood(&frame.repeat(1000), SOON).await;
        let now = siege.dropped("flood").await;
        eprintln!("{case}: {sent:?} in {:?}, metered {}", begun.elapsed(), now - dropped);
        assert!(sent.is_some_and(|it| it < SENT), "{case}: {sent:?}");
        dropped = now;
    }
    assert!(dropped >= 5.0, "{dropped}");
    let told = siege.lockgate.stderr().lines().count();
    assert!(told < 50, "{told} lines in the log");
    siege.end().await;
}

/// What is far from small but proper meets no meter.
#[tokio::test(flavor = "multi_thread")]
async fn honest_clients_are_no_flood() {
    let siege = Siege::begin().await;
    let client = siege.lockgate.tls_client().http2();
    let mut connection = client.connect("https://a.test/").await.unwrap();
    let body = vec![b'x'; 24 << 20];
    let reply = connection.send(Call::post("https://a.test/", body.clone())).await.unwrap();
    assert_eq!(reply.json()["body_bytes"], 24 * MIB);
    // Messages of ten bytes; far more at a time, and h2 itself takes them for an attack.
    let reply =
        connection.send(Call::post("https://a.test/", "").chunks(&vec!["0123456789"; 1500]));
    assert_eq!(reply.await.unwrap().json()["body_bytes"], 15_000);
    let reply = connection.get("https://a.test/bytes/25000000").await.unwrap();
    assert_eq!(reply.body.len(), 25_000_000);
    // Bodies that nobody takes, because they are refused.
    for at in 0..40 {
        let call = Call::post("https://small.test/", body[..4 << 20].to_vec());
        match connection.send(call).await {
            Ok(reply) => assert_eq!(reply.status, 413, "{at}"),
            Err(error) => panic!("{at}: {error}"),
        }
    }
    assert!(siege.dropped("flood").await < 1.0);
    drop(connection);
    siege.end().await;
}

/// CVE-2026-49975: many small fields in many streams that are never finished, nor their answers taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_streams_stays_small() {
    let siege = Siege::begin().await;
    // A table entry of a byte, and 90 fields that name it; the client takes no answer.
    let mut few = literals(&pseudo("POST", "/"));
    few.extend([0x40, 1, b'a', 0]);
    few.extend([0xbe; 90]);
    let mut many = few.clone();
    many.extend([0xbe; 800]);
    let closed = encode(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut attackers = Vec::new();
    for at in 0..20 {
        let mut h2 = siege.h2().await;
        h2.bytes(&closed).await;
        let block = if at % 2 == 0 { &few } else { &many };
        for stream in streams().take(100) {
            h2.bytes(&encode(HEADERS, END_HEADERS, stream, block)).await;
        }
        attackers.push(h2);
    }
    eventually("the bomb is there", SOON, async || siege.web.connections() >= 900).await;
    let reply = siege.lockgate.tls_client().get("https://a.test/").await.unwrap();
    assert_eq!(reply.status, 200);
    let grown = siege.lockgate.memory().saturating_sub(siege.memory) / MIB;
    eprintln!("20 connections: {grown} MiB");
    assert!(grown <= 150, "{grown} MiB");
    drop(attackers);
    siege.end().await;
}

/// A request that its client resets, before its body or an answer is there, is logged as nginx logs it.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_over_http2_is_logged_so() {
    let siege = Siege::begin().await;
    let mut h2 = siege.h2().await;
    h2.headers(1, &pseudo("POST", "/left"), false).await;
    // By the time of this answer the first request is there.
    h2.request(3, &pseudo("GET", "/")).await;
    h2.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    eventually("the line", SOON, async || {
        let log = siege.lockgate.stdout();
        let left = log.lines().any(|it| it.contains("\"POST /left HTTP/2.0\" 499 "));
        if left { Ok(()) } else { Err(log) }
    })
    .await;
    drop(h2);
    siege.end().await;
}

/// RFC 9113 section 6.5.2: what a client may take is said at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_http2_are_announced() {
    let siege = Siege::begin().await;
    let mut raw = siege.raw().await;
    raw.send(preface()).await;
    let frame = raw.bytes(9).await;
    assert_eq!(frame[3], SETTINGS);
    let settings = raw.bytes(usize::from(frame[2])).await;
    let settings =
        settings.chunks(6).map(|it| (it[1], u32::from_be_bytes([it[2], it[3], it[4], it[5]])));
    let settings: Vec<_> = settings.collect();
    // Streams, window of a stream, length of a head: 32 bytes more are counted for each field.
    for expected in [(3, 100), (4, 128 << 10), (6, (33 << 10) + 32 * 105)] {
        assert!(settings.contains(&expected), "{expected:?}: {settings:?}");
    }
    drop(raw);
    siege.end().await;
}

/// RFC 9113 section 8.2.1: a name in upper case; only its connection may suffer.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_fields_harm_nobody_else() {
    let siege = Siege::begin().await;
    for name in ["X-Upper", "x\r\ny", "x y", ""] {
        let mut h2 = siege.h2().await;
        let fields = [&pseudo("GET", "/")[..], &[(name, "1")]].concat();
        let reply = h2.request(1, &fields).await;
        assert!(reply.refused(), "{name:?}: {reply:?}");
    }
    siege.end().await;
}

/// One address may have its share and no more; others do not suffer.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_share_of_connections() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(objects(web.addr(), web.addr()));
    let lockgate = lockgate.args(["--max-connections-per-address", "5"]).start().await;
    let from = async |ip: [u8; 4]| -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        socket.connect(lockgate.http).await.unwrap()
    };
    let ask = async |stream: &mut TcpStream| -> bool {
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let mut reply = [0; 12];
        asked.is_ok() && stream.read_exact(&mut reply).await.is_ok() && &reply == b"HTTP/1.1 200"
    };
    let mut kept = Vec::new();
    for at in 0..5 {
        let mut stream = from([127, 0, 0, 2]).await;
        assert!(ask(&mut stream).await, "connection {at}");
        kept.push(stream);
    }
    assert!(!ask(&mut from([127, 0, 0, 2]).await).await, "one too many");
    assert!(ask(&mut from([127, 0, 0, 3]).await).await, "somebody else");
    let label = ["reason=\"address\""];
    let refused = lockgate.metric("lockgate_connections_dropped_total", &label).await;
    assert!((refused - 1.0).abs() < 0.1, "{refused}");

    // A WebSocket counts until it ends, which is after HTTP has.
    let stream = &mut kept[0];
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut rest = vec![0; 64 << 10];
    let _body = timeout(Duration::from_millis(500), stream.read(&mut rest)).await;
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 101");
    assert!(!ask(&mut from([127, 0, 0, 2]).await).await, "one beside a WebSocket");

    drop(kept);
    eventually("room again", SOON, async || ask(&mut from([127, 0, 0, 2]).await).await).await;
}

/// With hardly any files to open, who is being served goes on being served, health is told, silence gives
/// way to others, and all is well as soon as there is room.
#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_files_hurts_only_who_comes_too_much() {
    let (web, other) = (Backend::start("web").await, Backend::start("other").await);
    let lockgate = house(web.addr(), other.addr()).first("ulimit -n 256").start().await;
    let user = Load::start(&lockgate.client(), "http://a.test/", 4).await;
    let client = lockgate.client();
    let slow = tokio::spawn(async move { client.get("http://b.test/slow/9000").await });
    eventually("the slow request", SOON, async || other.requests() > 0).await;
    let mut attackers = Vec::new();
    for _ in 0..300 {
        attackers.push(TcpStream::connect(lockgate.http).await.unwrap());
    }
    let cpu = lockgate.cpu();
    let begun = Instant::now();
    let full = ["reason=\"full\""];
    let dropped = "lockgate_connections_dropped_total";
    eventually("somebody is refused", SOON, async || lockgate.metric(dropped, &full).await > 0.0)
        .await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(lockgate.admin(path).await.unwrap().status, 200, "{path}");
    }
    // Who says nothing makes room for who does, once free places have run out.
    let mut newcomers = Vec::new();
    eventually("a new client takes the place of a silent one", SOON, async || {
        let client = lockgate.client();
        let mut newcomer = client.connect("http://a.test/").await.map_err(|it| it.to_string())?;
        newcomer.get("/").await.map_err(|it| it.to_string())?;
        newcomers.push(newcomer);
        let shed = lockgate.metric(dropped, &["reason=\"shed\""]).await > 0.0;
        if shed { Ok(()) } else { Err("nobody had to go".to_owned()) }
    })
    .await;
    assert_eq!(slow.await.unwrap().unwrap().status, 200, "what was under way");
    user.stop().await.assert_clean();
    let busy = lockgate.cpu().saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    eprintln!("{busy:.2} of a core");
    drop((attackers, newcomers));
    let free = Instant::now();
    eventually("everybody is served", SOON, async || {
        let all: Vec<_> = (0..20).map(|_| lockgate.client()).collect();
        let all: JoinSet<_> =
            all.into_iter().map(|it| async move { it.get("http://a.test/").await }).collect();
        all.join_all().await.iter().all(Result::is_ok)
    })
    .await;
    eprintln!("served after {:?}", free.elapsed());
}

/// Answers that nobody takes fill the memory of a small container until new requests are refused; it is
/// never killed, and serves as before once the attackers are gone.
#[tokio::test(flavor = "multi_thread")]
async fn little_memory_is_never_too_little() {
    const LIMIT: u64 = 128 * MIB;
    let Some(group) = Cgroup::memory(LIMIT) else {
        eprintln!("skipped: no group with a limit of memory can be made here");
        return;
    };
    let body = "x".repeat(256 << 10);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let web = RawBackend::start(move |request| match request {
        [b'G', b'E', b'T', b' ', b'/', b'b', ..] => Answer::keep(&answer),
        _ => Answer::ok("ok"),
    })
    .await;
    let lockgate = house(web.addr(), web.addr()).first(&group.enter()).start().await;
    let closed = encode(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut attackers = Vec::new();
    let (mut most, mut refused) = (0, 0.0);
    for _ in 0..120 {
        let Ok(raw) = Raw::tls(lockgate.https, "a.test", &["h2"]).await else { continue };
        let mut h2 = RawH2::start(raw).await;
        h2.bytes(&closed).await;
        let all: Vec<_> = streams().take(100).map(|it| head(it, "GET", "/b", true)).collect();
        h2.bytes(&all.concat()).await;
        attackers.push(h2);
        assert_eq!(lockgate.process().exit_code(), None, "killed");
        most = most.max(lockgate.memory());
        refused = lockgate.metric("lockgate_requests_refused_total", &["reason=\"memory\""]).await;
        if refused > 0.0 && attackers.len() > 60 {
            break;
        }
    }
    let log = lockgate.stderr();
    eprintln!("{} attackers, at most {} MiB, {refused} refused", attackers.len(), most / MIB);
    assert!(log.contains("memory is short"), "{log}");
    assert!(most < LIMIT * 95 / 100, "{} MiB", most / MIB);
    assert_eq!(lockgate.admin("/healthz").await.unwrap().status, 200);
    drop(attackers);
    eventually("served as before", SOON, async || {
        let all: JoinSet<_> = (0..50)
            .map(|_| lockgate.client())
            .map(|it| async move { it.get("http://a.test/").await })
            .collect();
        let all = all.join_all().await;
        let served = all.iter().filter(|it| it.as_ref().is_ok_and(|it| it.status == 200)).count();
        (served == all.len()).then_some(()).ok_or_else(|| {
            format!("{served} of {} served, {} MiB", all.len(), lockgate.memory() / MIB)
        })
    })
    .await;
    eventually("enough memory again", SOON, async || {
        let used = lockgate.memory() / MIB;
        let open = lockgate.metric("nginx_ingress_controller_nginx_process_connections", &[]).await;
        let told = lockgate.stderr().contains("memory is enough again");
        let left = format!("{used} MiB, {open} connections, {} to the backend", web.open());
        told.then_some(()).ok_or(left)
    })
    .await;
    drop(lockgate);
}

/// Who holds a connection by doing next to nothing loses it, whatever stage it is in.
#[tokio::test(flavor = "multi_thread")]
async fn long_slow_clients_are_gone_in_time() {
    let siege = Siege::begin().await;
    let Lockgate { http, https, .. } = siege.lockgate;
    let mut attackers = JoinSet::new();
    let seconds = Duration::from_secs;
    let limit = seconds(150);

    // Bytes at once, then nothing, or at a pace; over TCP.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 100]].concat();
    let post = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9999\r\n\r\n";
    let mut slow_head = String::from("GET / HTTP/1.1\r\nHost: a.test\r\n");
    for at in 0..100 {
        let _ = write!(slow_head, "X-{at}: slow\r\n");
    }
    for (case, addr, bytes, pause, most) in [
        ("nothing", http, &b""[..], 0, 12),
        ("half a preface", http, b"PRI * HT", 0, 12),
        ("a head, byte by byte", http, slow_head.as_bytes(), 3, 17),
        ("nothing to shake", https, b"", 0, 12),
        ("half a ClientHello", https, &hello, 0, 12),
        ("a ClientHello, byte by byte", https, &hello, 2, 17),
        ("a body of a byte in 20 seconds", http, b"", 20, 75),
    ] {
        let mut raw = Raw::plain(addr).await;
        if most == 75 {
            raw.send(post).await;
        }
        let bytes = if most == 75 { b"x".repeat(100) } else { bytes.to_vec() };
        attackers.spawn(async move {
            let gone = raw.trickle(&bytes, seconds(pause), limit).await;
            (case, gone, most)
        });
    }

    // Over HTTP/1.1: answers that are not taken, a connection that is not used.
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(b"GET /bytes/50000000 HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    attackers.spawn(async move {
        let begun = Instant::now();
        // Nothing is read; writing fails once the other end is gone.
        let gone = timeout(limit, async {
            while stream.write_all(b"\r\n").await.is_ok() {
                tokio::time::sleep(seconds(1)).await;
            }
        })
        .await;
        ("an answer that is not taken", gone.is_ok().then(|| begun.elapsed()), 75)
    });
    let mut raw = Raw::plain(http).await;
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    attackers
        .spawn(async move { ("a kept connection", raw.trickle(b"", seconds(0), limit).await, 85) });

    // Over HTTP/2.
    let closed = encode(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let block = literals(&pseudo("GET", "/"));
    for (case, first, acknowledges, most) in [
        ("nothing over HTTP/2", Vec::new(), false, 72),
        ("half a preface over HTTP/2", preface()[..10].to_vec(), false, 72),
        ("no first stream", preface(), true, 72),
        ("no acknowledgements", preface(), false, 50),
        ("a head without an end", [preface(), encode(HEADERS, 0, 1, &block)].concat(), false, 50),
        ("a body without data", [preface(), head(1, "POST", "/", false)].concat(), true, 75),
        (
            "a closed window",
            [preface(), closed.clone(), head(1, "GET", "/bytes/50000000", true)].concat(),
            true,
            75,
        ),
    ] {
        let mut raw = siege.raw().await;
        attackers.spawn(async move {
            let begun = Instant::now();
            raw.send(&first).await;
            let gone = if acknowledges {
                let mut h2 = RawH2::resume(raw);
                if case == "a body without data" {
                    let reply = timeout(limit, async {
                        loop {
                            let reply = h2.reply(1).await;
                            if reply.status.is_some() || reply.closed {
                                break reply;
                            }
                        }
                    });
                    assert_eq!(reply.await.unwrap().status, Some(408), "{case}");
                    return (case, Some(begun.elapsed()), most);
                }
                h2.ends(limit).await
            } else {
                raw.closes(limit).await
            };
            (case, gone.then(|| begun.elapsed()), most)
        });
    }
    let mut late = Vec::new();
    while let Some(done) = attackers.join_next().await {
        let (case, gone, most) = done.unwrap();
        eprintln!("{case}: {gone:?}");
        if gone.is_none_or(|it| it > seconds(most + 20)) {
            late.push((case, gone, most));
        }
    }
    assert!(late.is_empty(), "{late:#?}");
    siege.end().await;
}

/// The same in numbers: thousands of slow clients take nothing from one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn long_thousands_of_slow_clients_are_gone_in_time() {
    let siege = Siege::begin().await;
    let mut attackers = JoinSet::new();
    for at in 0..2000 {
        let addr = if at % 4 == 0 { siege.lockgate.https } else { siege.lockgate.http };
        let mut raw = Raw::plain(addr).await;
        raw.send(match at % 4 {
            0 => "",
            1 => "GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: ",
            2 => "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9999\r\n\r\nx",
            _ => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        })
        .await;
        let slow = b"x".repeat(100);
        attackers.spawn(async move { raw.trickle(&slow, Duration::from_secs(9), GONE).await });
    }
    let gone = attackers.join_all().await;
    let left = gone.iter().filter(|it| it.is_none()).count();
    assert_eq!(left, 0, "of {}", gone.len());
    siege.end().await;
}
