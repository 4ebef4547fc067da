//! TLS that is handed on: only the endpoint can read it, and everybody else is served as ever.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::backend::Backend;
use crate::harness::client::any_certificate;
use crate::harness::endpoint::{Authority, Endpoint, Speech};
use crate::harness::lockgate::{
    Lockgate, Start, backend, config_map, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::Raw;

const PASS: (&str, &str) = ("nginx.ingress.kubernetes.io/ssl-passthrough", "true");

/// Host `pass.test` is handed on to `inner`, `a.test` is served.
fn objects(inner: &Endpoint, web: &Backend) -> String {
    let objects = [
        ingress_class(),
        ingress_tls("pass", "pass.test", &[("/", "Prefix", "inner", 443)], &[PASS], ""),
        ingress_tls("wild", "*.wild.test", &[("/", "Prefix", "inner", 443)], &[PASS], ""),
        ingress_tls("web", "a.test", &[("/", "Prefix", "web", 80)], &[], "tls"),
        backend("inner", 443, &[inner.addr()]),
        backend("web", 80, &[web.addr()]),
        tls_secret("tls", &pair(&["a.test"])),
    ];
    objects.concat()
}

fn passing(yaml: String) -> Start {
    Lockgate::with_manifests(yaml).args(["--enable-ssl-passthrough"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_shakes_hands_itself() {
    let ca = Authority::new("inner");
    for (h2, speech) in [(false, Speech::h1()), (true, Speech::h2())] {
        let inner = Endpoint::start("inner", speech.tls(&ca.issue("pass.test"))).await;
        let web = Backend::start("web").await;
        let lockgate = passing(objects(&inner, &web)).start().await;
        lockgate.no_problem().await;
        let client = lockgate.tls_client();
        let client = if h2 { client.http2() } else { client };
        for name in ["pass.test", "PASS.test", "x.wild.test"] {
            let mut connection = client.connect(&format!("https://{name}/")).await.unwrap();
            assert_eq!(connection.names(), ["pass.test"], "{name}: the endpoint's certificate");
            let reply = connection.get("/x").await.unwrap();
            assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("inner")), "{name}");
        }
        // Others are served as ever.
        for client in [lockgate.tls_client(), lockgate.tls_client().http2()] {
            let mut connection = client.connect("https://a.test/").await.unwrap();
            assert_eq!(connection.names(), ["a.test"]);
            assert_eq!(connection.get("/").await.unwrap().backend().as_deref(), Some("web"));
            // On a connection of ours nobody gets to where TLS is handed on to.
            let reply = connection.get("https://pass.test/").await.unwrap();
            assert_eq!(reply.status, 421);
            let reply = client.get("https://unknown.test/").await.unwrap();
            assert_eq!(reply.status, 404);
        }
        assert!(inner.handshakes().iter().all(|it| it.server_name.is_some()));
    }
}

/// A ClientHello may come in as many records and segments as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_pieces_is_given_back_whole() {
    let ca = Authority::new("inner");
    let inner = Endpoint::start("inner", Speech::h1().tls(&ca.issue("pass.test"))).await;
    let web = Backend::start("web").await;
    let lockgate = passing(objects(&inner, &web)).start().await;
    for (name, expected) in [("pass.test", "inner"), ("a.test", "web")] {
        let mut config = any_certificate();
        config.max_fragment_size = Some(40);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(lockgate.https).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let server = ServerName::try_from(name).unwrap();
        let mut tls = TlsConnector::from(Arc::new(config)).connect(server, tcp).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(expected), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_is_not_for_the_endpoint() {
    let ca = Authority::new("inner");
    let inner = Endpoint::start("inner", Speech::h1().tls(&ca.issue("pass.test"))).await;
    let web = Backend::start("web").await;
    let settings = config_map("settings", &[("use-proxy-protocol", "true")]);
    let lockgate = passing(objects(&inner, &web) + &settings).args(["--configmap=demo/settings"]);
    let lockgate = lockgate.start().await;
    let mut raw = Raw::plain(lockgate.https).await;
    raw.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n").await;
    let mut raw = raw.secure("pass.test", &["http/1.1"]).await.unwrap();
    let reply = raw.exchange("GET /x HTTP/1.1\r\nHost: pass.test\r\n\r\n").await;
    assert_eq!(reply.status, Some(200));
    assert_eq!(inner.connections(), 1);
}

/// Without endpoints, without the flag, and where it is not for its Ingress to say.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_handed_on_is_closed() {
    let ca = Authority::new("inner");
    let inner = Endpoint::start("inner", Speech::h1().tls(&ca.issue("pass.test"))).await;
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(objects(&inner, &web)).start().await;
    let text = lockgate.problem("ClientTls").await;
    assert!(text.contains("--enable-ssl-passthrough"), "{text}");
    let reply = lockgate.tls_client().get("https://pass.test/").await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(inner.connections(), 0);

    let lockgate = passing(objects(&inner, &web)).start().await;
    lockgate.tls_client().get("https://pass.test/").await.unwrap();
    let at = inner.addr();
    drop(inner);
    eventually("nobody listens", SOON, async || TcpStream::connect(at).await.is_err()).await;
    let begun = lockgate.tls_client().timeout(SOON).get("https://pass.test/").await;
    assert!(begun.is_err(), "nobody is there to shake hands");
    let dropped = lockgate.metric("lockgate_connections_dropped_total", &["passthrough"]).await;
    assert!(dropped > 0.0, "{}", lockgate.metrics().await);
    let reply = lockgate.tls_client().get("https://a.test/").await.unwrap();
    assert_eq!(reply.status, 200);
}

/// Nobody reads what is handed on, but whose it is shows all the same.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_is_cut_off() {
    const LIST: &str = "nginx.ingress.kubernetes.io/whitelist-source-range";
    let ca = Authority::new("inner");
    let inner = Endpoint::start("inner", Speech::h1().tls(&ca.issue("pass.test"))).await;
    let web = Backend::start("web").await;
    let settings = |blocked| config_map("settings", &[("block-cidrs", blocked)]);
    let root = [("/", "Prefix", "inner", 443)];
    let listed =
        |name, list| ingress_tls(name, &format!("{name}.test"), &root, &[PASS, (LIST, list)], "");
    let lists = listed("here", "127.0.0.0/8") + &listed("there", "203.0.113.0/24");
    let objects = objects(&inner, &web) + &lists;
    let lockgate = passing(objects.clone() + &settings("")).args(["--configmap=demo/settings"]);
    let lockgate = lockgate.start().await;
    lockgate.no_problem().await;
    let client = lockgate.tls_client().timeout(SOON);
    assert_eq!(client.get("https://here.test/").await.unwrap().status, 200);
    let begun = inner.connections();
    assert!(client.get("https://there.test/").await.is_err());
    assert_eq!(inner.connections(), begun, "the endpoint is not told");
    let denied = lockgate.metric("lockgate_connections_dropped_total", &["denied"]).await;
    assert!(denied > 0.0, "{}", lockgate.metrics().await);
    lockgate.edit(objects + &settings("127.0.0.0/8"));
    eventually("the block", SOON, async || client.get("https://here.test/").await.is_err()).await;
    let begun = inner.connections();
    assert!(client.get("https://pass.test/").await.is_err());
    assert_eq!(inner.connections(), begun);
}

/// It counts while it lasts, outlives what is served, and ends with the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lasts_until_the_end() {
    let ca = Authority::new("inner");
    let inner = Endpoint::start("inner", Speech::h1().tls(&ca.issue("pass.test"))).await;
    let web = Backend::start("web").await;
    let start = passing(objects(&inner, &web));
    let lockgate = start.args(["--shutdown-grace-period=0", "--drain-timeout=1s"]).start().await;
    let mut raw = Raw::tls(lockgate.https, "pass.test", &["http/1.1"]).await.unwrap();
    let request = "GET /x HTTP/1.1\r\nHost: pass.test\r\n\r\n";
    assert_eq!(raw.exchange(request).await.status, Some(200));
    let open = async || {
        lockgate.metric("nginx_ingress_controller_nginx_process_connections", &["active"]).await
    };
    eventually("it is counted", SOON, async || open().await >= 1.0).await;
    // The host is gone for others.
    lockgate.edit(ingress_class());
    eventually("the change is served", SOON, async || {
        let reply = lockgate.tls_client().get("https://pass.test/").await;
        reply.is_ok_and(|it| it.status == 404)
    })
    .await;
    assert_eq!(raw.exchange(request).await.status, Some(200));
    lockgate.signal("TERM");
    assert!(raw.closes(Duration::from_secs(10)).await);
    assert_eq!(lockgate.wait(SOON).await, 0);
}
