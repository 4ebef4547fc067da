//! Tunnels: only WebSockets, and only where both sides said so.

use super::{House, answered, get, lossy};
use crate::harness::backend::Answer;
use crate::harness::raw::Raw;

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
