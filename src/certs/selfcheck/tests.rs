//! Hosts that answer in every way, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::*;

const OURS: &str = "thumbprint-of-ours";

/// Answers every request with what `reply` makes of its path, for as long as the test runs.
async fn server(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream, &reply).await;
        }
    });
    address
}

/// Answers one request.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: impl Fn(&str) -> String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let _ = stream.write_all(reply(path).as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn reply(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

fn answer(path: &str, thumbprint: &str) -> String {
    let token = path.rsplit('/').next().unwrap_or_default();
    assert_eq!(token.len(), 32, "{path}");
    reply(200, "", &format!("{token}.{thumbprint}\n"))
}

async fn seen(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> Look {
    let address = server(reply).await;
    look("127.0.0.1", address.port(), OURS).await
}

#[tokio::test]
async fn r_pre_3_each_answer_is_told_apart() {
    let ours = seen(|path| answer(path, OURS)).await;
    assert_eq!(ours.seen, Seen::Ok, "{}", ours.text);
    assert_eq!(ours.addresses, ["127.0.0.1".parse::<IpAddr>().expect("an address")]);

    let first = AtomicBool::new(true);
    let hop = move |path: &str| {
        if first.swap(false, Ordering::Relaxed) {
            return reply(302, &format!("location: {path}\r\n"), "");
        }
        answer(path, OURS)
    };
    let redirected = seen(hop).await;
    assert_eq!(redirected.seen, Seen::Ok, "{}", redirected.text);

    for (what, look, part) in [
        ("status", seen(|_| reply(404, "", "")).await, "status 404"),
        ("body", seen(|_| reply(200, "", "secret of somebody")).await, "something else"),
        ("account", seen(|path| answer(path, "other")).await, "another ACME account"),
        ("long", seen(|_| reply(200, "", &"x".repeat(2000))).await, "long"),
        (
            "loop",
            seen(|path| reply(301, &format!("location: {path}\r\n"), "")).await,
            "more than 10",
        ),
        // A tenant's server must not choose what is asked of somebody else's.
        (
            "inside",
            seen(|path| match path {
                "/delete" => panic!("asked for"),
                _ => reply(301, "location: /delete\r\n", ""),
            })
            .await,
            "inside this network",
        ),
        ("port", seen(|_| reply(301, "location: http://127.0.0.1:22/\r\n", "")).await, "port 22"),
        ("nowhere", seen(|_| reply(301, "location: ftp://a/\r\n", "")).await, "nowhere"),
    ] {
        assert_eq!(look.seen, Seen::Foreign, "{what}: {}", look.text);
        assert!(look.text.contains(part), "{what}: {}", look.text);
        assert!(!look.text.contains("secret"), "{what}: {}", look.text);
    }
    let silent = seen(|_| String::new()).await;
    assert_eq!(silent.seen, Seen::Unreachable, "{}", silent.text);
}

/// Inside this network a redirect chooses nothing of what is asked for.
#[tokio::test]
async fn r_pre_3_no_detour_leads_to_another_path_inside_this_network() {
    for detour in
        ["/../../latest", "/%2e%2e/x", "/..;/x", "?restart=1", "?", "x", "/", "/../y?z", "%20"]
    {
        let asked = Arc::new(AtomicBool::new(false));
        let again = asked.clone();
        let look = seen(move |path| {
            assert!(!again.swap(true, Ordering::Relaxed), "{path} is asked for");
            reply(302, &format!("location: {path}{detour}\r\n"), "")
        });
        let look = look.await;
        assert_eq!(look.seen, Seen::Foreign, "{detour}: {}", look.text);
        assert!(look.text.contains("inside this network"), "{detour}: {}", look.text);
    }
}

/// A host may be sent to HTTPS before it has a certificate that anybody trusts.
#[tokio::test]
async fn r_pre_3_a_redirect_to_https_is_followed_whatever_is_shown_there() {
    let made = rcgen::generate_simple_self_signed(["ingress.local".to_owned()]).expect("a pair");
    let key = made.signing_key.serialize_der();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.try_into().expect("a key"))
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (plain, _) = listener.accept().await.expect("a connection");
        let location = |path: &str| format!("location: https://{address}{path}\r\n");
        serve(plain, |path| reply(308, &location(path), "")).await;
        let (secure, _) = listener.accept().await.expect("a connection");
        let secure = acceptor.accept(secure).await.expect("a handshake");
        serve(secure, |path| answer(path, OURS)).await;
    });
    let look = look("127.0.0.1", address.port(), OURS).await;
    assert_eq!(look.seen, Seen::Ok, "{}", look.text);
}

#[tokio::test]
async fn r_pre_3_a_closed_port_is_unreachable() {
    // Ours, so that nobody else listens there.
    let held = TcpSocket::new_v4().expect("a socket");
    held.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let port = held.local_addr().expect("an address").port();
    let look = look("127.0.0.1", port, OURS).await;
    assert_eq!(look.seen, Seen::Unreachable, "{}", look.text);
    assert!(look.text.contains("refuses"), "{}", look.text);
}
