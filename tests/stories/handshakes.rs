//! What the ConfigMap says of handshakes and connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::backend::Backend;
use crate::harness::client::{any_certificate_by, any_certificate_of};
use crate::harness::lockgate::{
    Lockgate, backend, config_map, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::Raw;

/// Serves `a.test` with these settings.
async fn serve(web: &Backend, settings: &[(&str, &str)]) -> Lockgate {
    let lockgate = Lockgate::with_manifests(objects(web, settings));
    lockgate.args(["--configmap=demo/settings"]).start().await
}

fn objects(web: &Backend, settings: &[(&str, &str)]) -> String {
    let objects = [
        ingress_class(),
        ingress_tls("a", "a.test", &[("/", "Prefix", "web", 80)], &[], "tls"),
        tls_secret("tls", &pair(&["a.test"])),
        backend("web", 80, &[web.addr()]),
        config_map("settings", settings),
    ];
    objects.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_rejected_where_that_is_asked_for() {
    let web = Backend::start("web").await;
    for (value, expected) in [("false", true), ("true", false), ("perhaps", false)] {
        let lockgate = serve(&web, &[("ssl-reject-handshake", value)]).await;
        for client in [lockgate.tls_client(), lockgate.tls_client().http2()] {
            assert_eq!(client.get("https://a.test/").await.unwrap().status, 200, "{value}");
            for url in ["https://b.test/", "https://127.0.0.1/"] {
                match client.get(url).await {
                    Ok(reply) => assert_eq!((reply.status, expected), (404, true), "{value}"),
                    Err(error) => {
                        let told = error.to_string();
                        assert!(!expected && told.contains("UnrecognisedName"), "{value}: {told}");
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_http2_it_is_not_offered() {
    let web = Backend::start("web").await;
    let lockgate = serve(&web, &[("use-http2", "false")]).await;
    assert_eq!(lockgate.tls_client().get("https://a.test/").await.unwrap().status, 200);
    assert!(lockgate.tls_client().http2().get("https://a.test/").await.is_err());
}

/// Shakes hands once and again with one version of TLS: `None` where it is not spoken, else whether the second
/// time is a resumption.
async fn resumes(lockgate: &Lockgate, version: &'static SupportedProtocolVersion) -> Option<bool> {
    let mut config = any_certificate_of(None, &[version]);
    config.resumption = Resumption::in_memory_sessions(32);
    let config = Arc::new(config);
    let mut resumed = None;
    for _ in 0..2 {
        let name = ServerName::try_from("a.test").unwrap();
        let tcp = TcpStream::connect(lockgate.https).await.unwrap();
        let tls = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await;
        let mut tls = tls.ok()?;
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        tls.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        resumed = Some(tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
    }
    resumed
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_sessions_are_as_set() {
    let web = Backend::start("web").await;
    for (settings, old, new) in [
        (&[][..], Some(true), Some(true)),
        (&[("ssl-protocols", "TLSv1.3")], None, Some(true)),
        (&[("ssl-protocols", "TLSv1.2")], Some(true), None),
        (&[("ssl-session-tickets", "false")], Some(true), Some(true)),
        (
            &[("ssl-session-tickets", "false"), ("ssl-session-cache", "false")],
            Some(false),
            Some(false),
        ),
    ] {
        let lockgate = serve(&web, settings).await;
        lockgate.no_problem().await;
        let found = (resumes(&lockgate, &TLS12).await, resumes(&lockgate, &TLS13).await);
        assert_eq!(found, (old, new), "{settings:?}");
    }
}

/// Of TLS 1.2 only the suites that are listed are offered, and no session outlives a change of the list; of
/// TLS 1.3 all are.
#[tokio::test(flavor = "multi_thread")]
async fn ciphers_are_as_set() {
    const AES128: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    const AES256: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    const MODERN: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let web = Backend::start("web").await;
    let listed = |list| objects(&web, &[("ssl-ciphers", list)]);
    let lockgate = Lockgate::with_manifests(listed("DEFAULT")).args(["--configmap=demo/settings"]);
    let lockgate = lockgate.start().await;
    let clients = [(AES128, &TLS12), (AES256, &TLS12), (MODERN, &TLS13)];
    let [old128, old256, modern] = clients.map(|(suite, version)| {
        let mut config = any_certificate_by(suite, version);
        config.resumption = Resumption::in_memory_sessions(32);
        Arc::new(config)
    });
    let visit = async |client: &Arc<ClientConfig>| {
        let name = ServerName::try_from("a.test").unwrap();
        let tcp = TcpStream::connect(lockgate.https).await.unwrap();
        let tls = TlsConnector::from(Arc::clone(client)).connect(name, tcp).await.ok()?;
        tls.get_ref().1.handshake_kind().map(|it| it == HandshakeKind::Resumed)
    };
    for client in [&old128, &old256] {
        assert_eq!((visit(client).await, visit(client).await), (Some(false), Some(true)));
    }
    for (list, taken, refused) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", &old128, &old256),
        ("HIGH:!aNULL:!AES128:DHE-RSA-AES256-GCM-SHA384", &old256, &old128),
    ] {
        lockgate.edit(listed(list));
        eventually("the new list", SOON, async || visit(refused).await.is_none().then_some(()))
            .await;
        lockgate.no_problem().await;
        assert_eq!(visit(taken).await, Some(false), "{list}");
        assert_eq!(visit(taken).await, Some(true), "{list}");
        assert!(visit(&modern).await.is_some(), "{list}");
    }
    lockgate.edit(listed("DHE-RSA-AES256-GCM-SHA384"));
    lockgate.problem("BadSetting").await;
    for client in [&old128, &old256, &modern] {
        assert!(visit(client).await.is_some());
    }
}

/// A ticket is good for as long as the settings say, and not longer.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_end() {
    let web = Backend::start("web").await;
    let lockgate = serve(&web, &[("ssl-session-timeout", "2s")]).await;
    let mut config = any_certificate_of(None, &[&TLS12]);
    config.resumption = Resumption::in_memory_sessions(32);
    let config = Arc::new(config);
    let visit = async || {
        let name = ServerName::try_from("a.test").unwrap();
        let tcp = TcpStream::connect(lockgate.https).await.unwrap();
        let tls = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
        tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    };
    assert!(!visit().await);
    eventually("a resumption", SOON, visit).await;
    let begun = std::time::Instant::now();
    eventually("the session's end", SOON, async || begun.elapsed().as_secs() >= 3).await;
    assert!(!visit().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_as_many_requests_as_set() {
    let web = Backend::start("web").await;
    let lockgate = serve(&web, &[("keep-alive-requests", "3")]).await;
    for client in [lockgate.tls_client(), lockgate.tls_client().http2()] {
        let mut connection = client.connect("https://a.test/").await.unwrap();
        let h2 = connection.is_http2();
        for number in 1..=3 {
            let reply = connection.get("/").await.unwrap();
            assert_eq!(reply.status, 200);
            assert_eq!(reply.closes(), !h2 && number == 3, "{number}");
        }
        eventually("the end", SOON, async || !connection.ready().await).await;
    }
    let lockgate = serve(&web, &[("keep-alive", "0")]).await;
    let mut connection = lockgate.tls_client().connect("https://a.test/").await.unwrap();
    assert!(connection.get("/").await.unwrap().closes());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_endpoints_end_as_set() {
    for (settings, expected) in [
        (&[][..], 1),
        (&[("upstream-keepalive-requests", "2")], 3),
        (&[("upstream-keepalive-connections", "0")], 6),
    ] {
        let web = Backend::start("web").await;
        let lockgate = serve(&web, settings).await;
        lockgate.no_problem().await;
        // The settings reach a worker's connections with its next look at the clock.
        let mut connection = lockgate.tls_client().connect("https://a.test/").await.unwrap();
        eventually("as set", SOON, async || {
            let before = web.connections();
            let mut taken = Vec::new();
            for _ in 0..6 {
                taken.push(connection.get("/").await.unwrap().status);
            }
            assert_eq!(taken, [200; 6]);
            let found = web.connections() - before;
            // Of the first round one more may be new.
            (found == expected || found + 1 == expected).then_some(()).ok_or(found.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_have_as_long_as_set() {
    let web = Backend::start("web").await;
    let settings = [("client-header-timeout", "1"), ("client-body-timeout", "1")];
    let lockgate = serve(&web, &settings).await;
    lockgate.no_problem().await;
    let patience = std::time::Duration::from_secs(8);
    let mut raw = Raw::tls(lockgate.https, "a.test", &["http/1.1"]).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n").await;
    assert!(raw.closes(patience).await, "a head that does not end");
    let mut raw = Raw::tls(lockgate.https, "a.test", &["http/1.1"]).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert_eq!(raw.reply().await.status, Some(408));
}

/// What is under way at a shutdown is cut when the ConfigMap says so, as it is then, unless the flag says.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_takes_as_long_as_is_set() {
    let web = Backend::start("web").await;
    for (flags, at_first, in_the_end) in
        [(&[][..], "1s", "1s"), (&[], "240s", "1s"), (&["--drain-timeout=1s"], "240s", "240s")]
    {
        let case = format!("{flags:?}, {at_first}, {in_the_end}");
        let with = |time, hsts| objects(&web, &[("worker-shutdown-timeout", time), ("hsts", hsts)]);
        let args = ["--configmap=demo/settings", "--shutdown-grace-period=0"];
        let lockgate = Lockgate::with_manifests(with(at_first, "true"))
            .args(args.iter().chain(flags).copied())
            .start()
            .await;
        lockgate.edit(with(in_the_end, "false"));
        eventually("the new settings", SOON, async || {
            let reply = lockgate.tls_client().get("https://a.test/").await.unwrap();
            reply.header("strict-transport-security").is_none().then_some(())
        })
        .await;
        let mut raw = Raw::tls(lockgate.https, "a.test", &["http/1.1"]).await.unwrap();
        let asked = web.requests();
        raw.send("GET /slow/200000 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        eventually("a request under way", SOON, async || (web.requests() > asked).then_some(()))
            .await;
        let begun = Instant::now();
        lockgate.signal("TERM");
        assert_eq!(lockgate.wait(SOON).await, 0, "{case}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(1), "{case}: {took:?}");
        let (rest, closed) = raw.rest().await;
        assert!(rest.is_empty() && closed, "{case}: {rest:?}");
    }
}
