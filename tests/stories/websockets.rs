//! WebSockets over both protocols, from their switch to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::any_certificate;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class, ingress_tls};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::Raw;

const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];
/// `hi`, masked, and its echo.
const HI: &[u8] = b"\x81\x82\x01\x02\x03\x04ik";
const ECHO: &[u8] = b"\x81\x02hi";
/// Close with status 1001, towards a client and towards an endpoint.
const GOING_AWAY: &[u8] = b"\x88\x02\x03\xe9";
const GOING_AWAY_MASKED: &[u8] = b"\x88\x82\0\0\0\0\x03\xe9";
const HEAD: &str = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn house(web: std::net::SocketAddr) -> String {
    let plain = [("nginx.ingress.kubernetes.io/ssl-redirect", "false")];
    let rules = ingress("one", "a.test", &ROOT, &plain);
    [ingress_class(), rules, backend("web", 80, &[web])].concat()
}

/// An HTTP/2 connection that may ask for WebSockets.
async fn h2(lockgate: &Lockgate) -> SendRequest<Empty<Bytes>> {
    let mut config = any_certificate();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(lockgate.https).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect("a.test".try_into().unwrap(), stream).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, mut connection) = handshake.await.unwrap();
    let enabled = Arc::new(AtomicBool::new(false));
    let told = enabled.clone();
    tokio::spawn(std::future::poll_fn(move |cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        told.store(connection.is_extended_connect_protocol_enabled(), Ordering::Relaxed);
        polled
    }));
    // hyper looks at the server's settings when there is something to send.
    let get = Request::get("https://a.test/").body(Empty::new()).unwrap();
    eventually("the server's settings", SOON, async || {
        let _ = sender.send_request(get.clone()).await.unwrap();
        enabled.load(Ordering::Relaxed)
    })
    .await;
    sender
}

fn connect(protocol: &'static str) -> Request<Empty<Bytes>> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri("https://a.test/ws")
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static(protocol));
    request.body(Empty::new()).unwrap()
}

/// A WebSocket over HTTP/2.
async fn tunnel(sender: &mut SendRequest<Empty<Bytes>>) -> TokioIo<Upgraded> {
    let mut answer = sender.send_request(connect("websocket")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers().get("sec-websocket-accept"), None);
    TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap())
}

async fn echoes(io: &mut TokioIo<Upgraded>) {
    io.write_all(HI).await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, ECHO);
}

/// RFC 8441: a stream becomes a WebSocket while others of its connection go on; the endpoint sees the
/// upgrade it knows. Neither is disturbed by other rules.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http2_becomes_a_websocket() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house(web.addr())).start().await;
    let mut sender = h2(&lockgate).await;
    let mut one = tunnel(&mut sender).await;
    let mut two = tunnel(&mut sender).await;
    echoes(&mut one).await;
    let get = Request::get("https://a.test/").body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(get).await.unwrap().status(), 200);
    echoes(&mut two).await;

    lockgate.edit(ingress_class());
    lockgate.answers("http://a.test/", 404).await;
    for _ in 0..3 {
        echoes(&mut one).await;
        echoes(&mut two).await;
    }
    // The client's end reaches the endpoint, whose end comes back.
    one.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap();
    let mut rest = Vec::new();
    one.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x88\x02\x03\xe8");
    echoes(&mut two).await;
}

/// What a WebSocket carries is no flood, however much it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_websocket_is_no_flood() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house(web.addr())).start().await;
    let mut sender = h2(&lockgate).await;
    let mut one = tunnel(&mut sender).await;
    // 16 KiB of zeros behind a mask of zeros.
    let head = b"\x82\xfe\x40\0\0\0\0\0";
    let frame = [&head[..], &[0; 0x4000]].concat();
    let mut echo = vec![0; 4 + 0x4000];
    for _ in 0..512 {
        one.write_all(&frame).await.unwrap();
        one.read_exact(&mut echo).await.unwrap();
    }
    echoes(&mut one).await;
}

/// A WebSocket's line is written when it ends, with what it carried; until then its connection counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_logged_at_its_end() {
    const ACTIVE: &str = "nginx_ingress_controller_nginx_process_connections";
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house(web.addr())).start().await;
    let mut raw = Raw::plain(lockgate.http).await;
    raw.send(HEAD).await;
    assert_eq!(raw.reply().await.status, Some(101));
    raw.send(HI).await;
    assert_eq!(raw.bytes(4).await, ECHO);
    assert!(!lockgate.stdout().contains("/ws"), "{}", lockgate.stdout());
    assert!(lockgate.metric(ACTIVE, &["active"]).await >= 1.0);
    raw.send(b"\x88\x80\0\0\0\0").await;
    assert_eq!(raw.rest().await.0, b"\x88\0");
    let line = eventually("its line", SOON, async || {
        let lines = lockgate.stdout();
        lines.lines().find(|it| it.contains("/ws")).map(str::to_owned).ok_or(lines)
    })
    .await;
    // Four bytes of echo and two of the close.
    assert!(line.contains("\"GET /ws HTTP/1.1\" 101 6 "), "{line}");
    eventually("no connection", SOON, async || lockgate.metric(ACTIVE, &["active"]).await == 0.0)
        .await;
}

/// At the end of a shutdown both sides of each WebSocket are told so, and the process ends in time.
#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_told_when_we_end() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let web = RawBackend::answering(Answer::tunnel(answer)).await;
    let lockgate = Lockgate::with_manifests(house(web.addr()))
        .args(["--shutdown-grace-period", "0", "--drain-timeout", "1s"])
        .start()
        .await;
    let mut raw = Raw::plain(lockgate.http).await;
    raw.send(HEAD).await;
    assert_eq!(raw.reply().await.status, Some(101));
    raw.send(HI).await;
    assert_eq!(raw.bytes(HI.len()).await, HI);
    lockgate.signal("TERM");
    assert_eq!(raw.rest().await.0, GOING_AWAY);
    assert_eq!(lockgate.wait(SOON).await, 0);
    let told = [HI, GOING_AWAY_MASKED].concat();
    eventually("the farewell", SOON, async || web.tunnelled() == told).await;
}

/// The same over HTTP/2, whose connection ends with its streams.
#[tokio::test(flavor = "multi_thread")]
async fn websockets_over_http2_are_told_when_we_end() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house(web.addr()))
        .args(["--shutdown-grace-period", "0", "--drain-timeout", "1s"])
        .start()
        .await;
    let mut sender = h2(&lockgate).await;
    let mut one = tunnel(&mut sender).await;
    echoes(&mut one).await;
    lockgate.signal("TERM");
    let mut rest = [0; 4];
    one.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, GOING_AWAY);
    assert_eq!(lockgate.wait(SOON).await, 0);
}

/// In the middle of a frame nothing is put: the client sees the frame cut, with nothing of ours in it.
#[tokio::test(flavor = "multi_thread")]
async fn no_farewell_inside_a_frame() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\
                  \u{2}\u{64}half";
    let web = RawBackend::answering(Answer::tunnel(answer)).await;
    let lockgate = Lockgate::with_manifests(house(web.addr()))
        .args(["--shutdown-grace-period", "0", "--drain-timeout", "1s"])
        .start()
        .await;
    let mut raw = Raw::plain(lockgate.http).await;
    raw.send(HEAD).await;
    assert_eq!(raw.reply().await.status, Some(101));
    assert_eq!(raw.bytes(6).await, b"\x02\x64half");
    lockgate.signal("TERM");
    // The endpoint repeats its own farewell, which still belongs to the frame.
    assert_eq!(raw.rest().await.0, GOING_AWAY_MASKED);
    assert_eq!(lockgate.wait(SOON).await, 0);
}

/// Only WebSockets become tunnels, and only where the endpoint says so in the right way.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_becomes_a_tunnel() {
    for (case, answer, status) in [
        ("refused", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("not switched", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        (
            "another key's answer",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
        ),
    ] {
        let web = RawBackend::answering(Answer::keep(answer)).await;
        let lockgate = Lockgate::with_manifests(house(web.addr())).start().await;
        let mut sender = h2(&lockgate).await;
        let answer = sender.send_request(connect("websocket")).await.unwrap();
        assert_eq!(answer.status(), status, "{case}");
        let answer = sender.send_request(connect("connect-udp")).await.unwrap();
        assert_eq!(answer.status(), 405, "{case}");
    }
}

/// An endpoint that is spoken to with HTTP/2 takes no WebSocket, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_endpoints_take_no_websocket() {
    let web = Backend::start("web").await;
    let grpc = [("nginx.ingress.kubernetes.io/backend-protocol", "GRPC")];
    let objects = [
        ingress_class(),
        ingress_tls("one", "a.test", &ROOT, &grpc, "tls"),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    let mut sender = h2(&lockgate).await;
    let answer = sender.send_request(connect("websocket")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
}
