//! How endpoints are spoken to; which of them, and what comes of those that fail, is in `choosing`.

use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::BodyExt;

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::Call;
use crate::harness::endpoint::{Authority, Endpoint, Speech};
use crate::harness::lockgate::{Lockgate, Start, backend, ingress, ingress_class, secret};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::{Length, Raw, RawH2, frame, head_end};

/// Annotations of every host here: tests ask without TLS, too, and for large bodies.
const OPEN: [(&str, &str); 2] = [("ssl-redirect", "false"), ("proxy-body-size", "0")];

/// Annotations without their prefix.
pub(super) type Own<'a> = &'a [(&'a str, &'a str)];

/// An Ingress for `NAME.test` that leads to the Service `NAME`.
pub(super) fn host(name: &str, annotations: &[(&str, &str)]) -> String {
    host_of(name, name, "/", annotations)
}

/// An Ingress for a path of `NAME.test` that leads to a Service.
pub(super) fn host_of(
    name: &str,
    service: &str,
    path: &str,
    annotations: &[(&str, &str)],
) -> String {
    let open = OPEN.iter().filter(|open| annotations.iter().all(|it| it.0 != open.0));
    let all: Vec<(&str, &str)> = open.chain(annotations).copied().collect();
    let ingress_name = if path == "/" { name.to_owned() } else { format!("{name}-{service}") };
    ingress(&ingress_name, &format!("{name}.test"), &[(path, "Prefix", service, 80)], &all)
}

pub(super) fn manifests(objects: &[String]) -> Start {
    Lockgate::with_manifests(ingress_class() + &objects.concat())
}

/// The four ways to speak to endpoints, with the annotation for each.
async fn endpoints() -> [(&'static str, &'static str, Endpoint); 4] {
    let pair = Authority::new("any").issue("web.demo.svc");
    [
        ("h1", "HTTP", Endpoint::start("h1", Speech::h1()).await),
        ("h1s", "HTTPS", Endpoint::start("h1s", Speech::h1().tls(&pair)).await),
        ("h2", "GRPC", Endpoint::start("h2", Speech::h2()).await),
        ("h2s", "GRPCS", Endpoint::start("h2s", Speech::h2().tls(&pair)).await),
    ]
}

/// Serves `NAME.test` for each of them.
async fn before(endpoints: &[(&str, &str, Endpoint)]) -> Lockgate {
    let objects = endpoints.iter().map(|(name, protocol, endpoint)| {
        host(name, &[("backend-protocol", protocol)]) + &backend(name, 80, &[endpoint.addr()])
    });
    manifests(&objects.collect::<Vec<_>>()).start().await
}

/// Whatever client and endpoint speak, requests and answers come through the same.
#[tokio::test(flavor = "multi_thread")]
async fn protocols_of_clients_and_endpoints_mix() {
    let endpoints = endpoints().await;
    let lockgate = before(&endpoints).await;
    for (name, _, endpoint) in &endpoints {
        let version = if name.starts_with("h2") { "HTTP/2.0" } else { "HTTP/1.1" };
        for (client, mut connection) in lockgate.connections(name).await {
            let case = format!("{client} to {name}");
            let url = |path: &str| format!("http://{name}.test{path}");
            let reply = connection.get(&url("/a%20b?c=d")).await.unwrap();
            let echo = reply.json();
            assert_eq!((reply.status, &echo["backend"]), (200, &(*name).into()), "{case}");
            assert_eq!(echo["version"], version, "{case}: {echo}");
            let target = echo["target"].as_str().unwrap();
            assert!(target.ends_with("/a%20b?c=d"), "{case}: {echo}");
            let host = [format!("{name}.test"), "host".to_owned()];
            let authority = target.contains(&host[0])
                || echo["headers"].as_array().unwrap().iter().any(|it| it[1] == host[0]);
            assert!(authority, "{case}: {echo}");

            let sized = Call::post(&url("/"), "hello");
            let chunked = Call::new("POST", &url("/")).chunks(&["hel", "lo"]);
            for call in [sized, chunked] {
                let echo = connection.send(call).await.unwrap().json();
                assert_eq!((&echo["body"], &echo["method"]), (&"hello".into(), &"POST".into()));
                assert_eq!(echo["body_error"], serde_json::Value::Null, "{case}");
            }
            let trailing = Call::new("POST", &url("/")).chunks(&["hello"]).trailer("x-sum", "1");
            let echo = connection.send(trailing.header("trailer", "x-sum")).await.unwrap().json();
            assert_eq!(echo["body"], "hello", "{case}");
            assert_eq!(echo["trailers"], serde_json::json!([["x-sum", "1"]]), "{case}");

            let head = connection.send(Call::new("HEAD", &url("/bytes/5000"))).await;
            let head = head.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!((head.status, head.body.len()), (200, 0), "{case}");
            assert_eq!(head.header("content-length"), Some("5000"), "{case}: {head:?}");
            for status in [204, 304, 404, 503] {
                let reply = connection.get(&url(&format!("/status/{status}"))).await.unwrap();
                assert_eq!(reply.status, status, "{case}");
                assert_eq!(reply.body.is_empty(), status < 400, "{case}: {status}");
            }

            let large = vec![b'y'; 4 << 20];
            let echo = connection.send(Call::post(&url("/"), large)).await.unwrap().json();
            assert_eq!(echo["body_bytes"], 4 << 20, "{case}");
            let reply = connection.get(&url("/bytes/5000000")).await.unwrap();
            assert_eq!(reply.body.len(), 5_000_000, "{case}");

            let call = Call::get(&url("/trailers")).header("te", "trailers");
            let reply = connection.send(call).await.unwrap();
            assert_eq!(reply.text(), "text", "{case}");
            assert_eq!(reply.trailers["x-sum"], "1", "{case}: {reply:?}");
        }
        assert!(endpoint.connections() <= 10, "{name}: {} connections", endpoint.connections());
    }
    lockgate.no_problem().await;
}

/// An endpoint that has answered before it read the request's body is heard.
#[tokio::test(flavor = "multi_thread")]
async fn early_answers_reach_who_still_sends() {
    let endpoints = endpoints().await;
    let lockgate = before(&endpoints).await;
    for (name, _, _) in &endpoints {
        for status in [401, 413] {
            for (client, mut connection) in lockgate.connections(name).await {
                let case = format!("{client} to {name}: {status}");
                let url = format!("http://{name}.test/early/{status}");
                for body in [1_000, 4_000_000] {
                    let call = Call::post(&url, vec![b'z'; body]);
                    let reply = connection.send(call).await;
                    let reply = reply.unwrap_or_else(|error| panic!("{case}, {body}: {error}"));
                    assert_eq!((reply.status, reply.text()), (status, "early".into()), "{case}");
                }
            }
        }
    }
}

/// A client never takes a part of an answer for the whole.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_off_are_seen_to() {
    let endpoints = endpoints().await;
    let lockgate = before(&endpoints).await;
    for (name, _, _) in &endpoints {
        for path in ["/cut", "/cut/sized"] {
            for (client, mut connection) in lockgate.connections(name).await {
                let url = format!("http://{name}.test{path}");
                let begun = connection.begin(Call::get(&url)).await.unwrap();
                assert_eq!(begun.status(), 200);
                let whole = begun.into_body().collect().await;
                assert!(whole.is_err(), "{client} to {name}{path}");
            }
        }
    }
}

/// Whoever leaves is not worked for any longer.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_notice_that_a_client_left() {
    let endpoints = endpoints().await;
    let lockgate = before(&endpoints).await;
    for (name, _, endpoint) in &endpoints {
        for path in ["/deaf", "/sleepy-body"] {
            for (client, mut connection) in lockgate.connections(name).await {
                let url = format!("http://{name}.test{path}");
                let asking = tokio::spawn(async move {
                    let begun = connection.begin(Call::get(&url)).await;
                    begun.unwrap().into_body().collect().await
                });
                endpoint.holds(1).await;
                asking.abort();
                endpoint.holds(0).await;
                let _ = client;
            }
            let mut connection = lockgate.connections(name).await.into_iter().next().unwrap().1;
            assert_eq!(connection.get("/").await.unwrap().status, 200, "{name} after {path}");
        }
    }
}

/// Each event of a stream arrives before the next is sent.
#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_arrive_at_once() {
    let endpoints = endpoints().await;
    let lockgate = before(&endpoints).await;
    for (name, _, endpoint) in &endpoints {
        for (client, mut connection) in lockgate.connections(name).await {
            let call = Call::get(&format!("http://{name}.test/events"));
            let reply = connection.begin(call.header("accept", "text/event-stream")).await.unwrap();
            assert_eq!(reply.headers()["content-type"], "text/event-stream");
            let mut body = reply.into_body();
            let mut next = async || {
                let frame = tokio::time::timeout(SOON, body.frame());
                let frame = frame.await.unwrap_or_else(|_| panic!("{client} to {name}: no event"));
                frame.unwrap().unwrap().into_data().unwrap()
            };
            assert_eq!(next().await, "first chunk\n");
            for number in 0..20 {
                let event = format!("data: {number}\n\n");
                endpoint.emit(event.clone());
                assert_eq!(next().await, event, "{client} to {name}");
            }
        }
    }
}

/// Clients that take nothing hold up no other client of the same endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_hold_up_nobody_else() {
    const STREAMS: u32 = 60;
    let endpoint = Endpoint::start("h2", Speech::h2()).await;
    let objects =
        host("h2", &[("backend-protocol", "GRPC")]) + &backend("h2", 80, &[endpoint.addr()]);
    let lockgate = manifests(&[objects]).start().await;
    let mut stuck = Vec::new();
    // Each worker has its own connection to the endpoint: four connections meet both, most likely.
    for _ in 0..4 {
        let raw = Raw::tls(lockgate.https, "h2.test", &["h2"]).await.unwrap();
        let mut raw = RawH2::start(raw).await;
        // Windows of new streams have no room: RFC 9113 section 6.9.2.
        raw.frame(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        for stream in (1..2 * STREAMS).step_by(2) {
            let fields = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "h2.test"),
                (":path", "/bytes/1000000"),
            ];
            raw.headers(stream, &fields, true).await;
        }
        stuck.push(raw);
    }
    let all = stuck.len() * STREAMS as usize;
    eventually("all asked", SOON, async || {
        let asked = endpoint.requests();
        if asked >= all { Ok(()) } else { Err(asked) }
    })
    .await;
    let client = lockgate.tls_client().http2().timeout(Duration::from_secs(30));
    for _ in 0..8 {
        let reply = client.get("https://h2.test/bytes/1000000").await;
        assert_eq!(reply.map(|it| it.body.len()).map_err(|it| it.to_string()), Ok(1_000_000));
    }
}

/// The endpoints' certificates are looked at as annotations say, and what is wrong with them is told.
#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_endpoints_are_checked() {
    let (ours, other) = (Authority::new("ours"), Authority::new("others"));
    let clients = Authority::new("clients");
    let shown = clients.issue("lockgate");
    let good = ours.issue("good.demo.svc");
    let named = ours.issue("named.example");
    let old = Endpoint::start(
        "old",
        Speech::h1().tls_of(&ours.issue("old.demo.svc"), &rustls::version::TLS12),
    );
    let [itself, elsewhere] = ["itself.demo.svc", "other.demo.svc"].map(Authority::itself);
    let outlived = Authority::itself_until("outlived.demo.svc", 2021);
    let endpoints = [
        ("outlived", Endpoint::start("outlived", Speech::h1().tls(&outlived)).await),
        ("itself", Endpoint::start("itself", Speech::h1().tls(&itself)).await),
        ("elsewhere", Endpoint::start("elsewhere", Speech::h1().tls(&elsewhere)).await),
        ("good", Endpoint::start("good", Speech::h1().tls(&good)).await),
        (
            "foreign",
            Endpoint::start("foreign", Speech::h1().tls(&other.issue("foreign.demo.svc"))).await,
        ),
        ("named", Endpoint::start("named", Speech::h1().tls(&named)).await),
        ("expired", {
            let expired = ours.issue_expired("expired.demo.svc");
            Endpoint::start("expired", Speech::h1().tls(&expired)).await
        }),
        ("mutual", {
            let mutual = ours.issue("mutual.demo.svc");
            Endpoint::start("mutual", Speech::h1().tls_for(&mutual, &clients)).await
        }),
        ("old", old.await),
        ("grpcs", {
            let grpcs = ours.issue("grpcs.demo.svc");
            Endpoint::start("grpcs", Speech::h2().tls(&grpcs)).await
        }),
    ];
    let verified = [("proxy-ssl-secret", "demo/ours"), ("proxy-ssl-verify", "on")];
    let mut objects = vec![
        secret("ours", &[("ca.crt", &ours.pem())]),
        secret(
            "itself",
            &[(
                "ca.crt",
                &[&itself, &elsewhere, &outlived].map(|it| it.certificate.clone()).concat(),
            )],
        ),
        secret(
            "mine",
            &[("ca.crt", &ours.pem()), ("tls.crt", &shown.certificate), ("tls.key", &shown.key)],
        ),
    ];
    // Host, Service, its own annotations besides the protocol, and the status.
    let cases: [(&str, &str, Own<'_>, u16); 22] = [
        ("outlived", "outlived", &[("proxy-ssl-secret", "itself"), verified[1]], 502),
        ("elsewhere", "elsewhere", &[("proxy-ssl-secret", "itself"), verified[1]], 502),
        ("self-foreign", "itself", &verified, 502),
        ("itself", "itself", &[("proxy-ssl-secret", "itself"), verified[1]], 200),
        ("good", "good", &verified, 200),
        ("foreign", "foreign", &verified, 502),
        ("expired", "expired", &verified, 502),
        ("misnamed", "named", &verified, 502),
        ("named", "named", &[verified[0], verified[1], ("proxy-ssl-name", "named.example")], 200),
        ("grpcs", "grpcs", &[verified[0], verified[1], ("backend-protocol", "GRPCS")], 200),
        ("silent", "mutual", &verified, 502),
        ("mutual", "mutual", &[("proxy-ssl-secret", "demo/mine"), verified[1]], 200),
        ("mutual-unchecked", "mutual", &[("proxy-ssl-secret", "demo/mine")], 200),
        ("old", "old", &verified, 200),
        ("new-only", "old", &[verified[0], verified[1], ("proxy-ssl-protocols", "TLSv1.3")], 502),
        ("old-only", "good", &[verified[0], verified[1], ("proxy-ssl-protocols", "TLSv1.2")], 200),
        ("sni", "good", &[verified[0], verified[1], ("proxy-ssl-server-name", "on")], 200),
        ("unchecked-foreign", "foreign", &[], 200),
        ("unchecked-expired", "expired", &[("proxy-ssl-verify", "off")], 200),
        ("unchecked-misnamed", "named", &[], 200),
        ("unchecked-grpcs", "grpcs", &[("backend-protocol", "GRPCS")], 200),
        ("unchecked-secret", "foreign", &[verified[0]], 200),
    ];
    for (name, endpoint) in &endpoints {
        objects.push(backend(name, 80, &[endpoint.addr()]));
    }
    for (name, service, own, _) in &cases {
        let protocol = [("backend-protocol", "HTTPS")];
        let own = own
            .iter()
            .chain(protocol.iter().filter(|_| own.iter().all(|it| it.0 != "backend-protocol")));
        let own: Vec<_> = own.copied().collect();
        objects.push(host_of(name, service, "/", &own));
    }
    let lockgate = manifests(&objects).args(["--log=debug"]).start().await;
    for (name, service, _, status) in &cases {
        let reply = lockgate.client().get(&format!("http://{name}.test/")).await.unwrap();
        assert_eq!(reply.status, *status, "{name} to {service}: {}", lockgate.stderr());
    }
    lockgate.no_problem().await;

    let log = lockgate.stderr();
    for why in
        ["UnknownIssuer", "not valid for name", "expired", "CertificateRequired", "ProtocolVersion"]
    {
        let told = log.to_lowercase().contains(&why.to_lowercase());
        assert!(told, "{why} is not in the log:\n{log}");
    }
    let key: String = shown.key.lines().nth(1).unwrap().to_owned();
    assert!(!log.contains(&key) && !log.contains("PRIVATE KEY"), "{log}");
    let handshakes = |name: &str| endpoints.iter().find(|it| it.0 == name).unwrap().1.handshakes();
    let names: BTreeSet<_> = handshakes("good").into_iter().map(|it| it.server_name).collect();
    assert_eq!(names, BTreeSet::from([None, Some("good.demo.svc".to_owned())]));
    let versions: BTreeSet<_> = handshakes("good").into_iter().map(|it| it.version).collect();
    assert_eq!(versions, ["TLSv1_2", "TLSv1_3"].map(str::to_owned).into());
    assert!(handshakes("mutual").iter().all(|it| it.client));
    assert!(handshakes("named").iter().all(|it| it.server_name.is_none()));
}

/// An endpoint that is to be checked is never spoken to unchecked.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_not_spoken_to() {
    let ours = Authority::new("ours");
    let endpoint = Endpoint::start("web", Speech::h1().tls(&ours.issue("web.demo.svc"))).await;
    let verify = ("proxy-ssl-verify", "on");
    let key = ours.issue("x").key;
    let cases: [(&str, Own<'_>, &str); 8] = [
        ("nameless", &[verify], "names a CA"),
        ("missing", &[verify, ("proxy-ssl-secret", "demo/none")], "is not there"),
        ("empty", &[verify, ("proxy-ssl-secret", "demo/empty")], "ca.crt is missing"),
        ("garbage", &[verify, ("proxy-ssl-secret", "demo/garbage")], "ca.crt"),
        ("halved", &[("proxy-ssl-secret", "demo/halved")], "demo/halved"),
        ("abroad", &[verify, ("proxy-ssl-secret", "elsewhere/ours")], "another namespace"),
        ("misspelt", &[("proxy-ssl-verify", "yes")], "proxy-ssl-verify"),
        ("ancient", &[("proxy-ssl-protocols", "TLSv1")], "proxy-ssl-protocols"),
    ];
    let mut objects = vec![
        backend("web", 80, &[endpoint.addr()]),
        secret("empty", &[("other", "x")]),
        secret("garbage", &[("ca.crt", "x")]),
        secret("halved", &[("ca.crt", &ours.pem()), ("tls.crt", &ours.pem()), ("tls.key", &key)]),
        secret("ours", &[("ca.crt", &ours.pem())])
            .replace("namespace: demo", "namespace: elsewhere"),
        // Such a Secret matters only to who speaks TLS.
        host_of("clear", "plain", "/", &[verify, ("proxy-ssl-secret", "demo/none")]),
    ];
    let plain = Backend::start("plain").await;
    objects.push(backend("plain", 80, &[plain.addr()]));
    for (name, own, _) in &cases {
        let own: Vec<_> = own.iter().copied().chain([("backend-protocol", "HTTPS")]).collect();
        objects.push(host_of(name, "web", "/", &own));
    }
    let lockgate = manifests(&objects).start().await;
    let problems = lockgate.admin_json("/api/problems").await.to_string();
    for (name, _, why) in &cases {
        let reply = lockgate.client().get(&format!("http://{name}.test/")).await.unwrap();
        assert_eq!(reply.status, 503, "{name}");
        assert!(problems.contains(why), "{name}: {why} is not told: {problems}");
    }
    assert_eq!(endpoint.connections(), 0);
    lockgate.answers("http://clear.test/", 200).await;
}

/// Trust follows its Secret: who is trusted no more is not spoken to, whom it names now is.
#[tokio::test(flavor = "multi_thread")]
async fn trust_in_endpoints_follows_its_secret() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (one, two) = (
        Endpoint::start("one", Speech::h1().tls(&old.issue("one.demo.svc"))).await,
        Endpoint::start("two", Speech::h2().tls(&new.issue("two.demo.svc"))).await,
    );
    let verified = |protocol| {
        [("proxy-ssl-secret", "ca"), ("proxy-ssl-verify", "on"), ("backend-protocol", protocol)]
    };
    let objects = [
        backend("one", 80, &[one.addr()]),
        backend("two", 80, &[two.addr()]),
        host("one", &verified("HTTPS")),
        host("two", &verified("GRPCS")),
    ];
    let lockgate = manifests(&objects).launch();
    lockgate.answers("http://one.test/", 503).await;
    lockgate.write("ca.yaml", secret("ca", &[("ca.crt", &old.pem())]));
    lockgate.answers("http://one.test/", 200).await;
    lockgate.answers("http://two.test/", 502).await;
    lockgate.write("ca.yaml", secret("ca", &[("ca.crt", &new.pem())]));
    lockgate.answers("http://one.test/", 502).await;
    lockgate.answers("http://two.test/", 200).await;
    let both = old.pem() + &new.pem();
    lockgate.write("ca.yaml", secret("ca", &[("ca.crt", &both)]));
    lockgate.answers("http://one.test/", 200).await;
    lockgate.answers("http://two.test/", 200).await;
    lockgate.no_problem().await;
}

/// What the oldest Ingress of a host says about TLS to endpoints holds for the younger ones without
/// own words, and a wrong certificate is still refused there.
#[tokio::test(flavor = "multi_thread")]
async fn a_hosts_owner_speaks_for_the_younger() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let speak = async |name: &'static str, by: &Authority| {
        let pair = by.issue(&format!("{name}.demo.svc"));
        Endpoint::start(name, Speech::h1().tls(&pair)).await
    };
    let owner = speak("owner", &ours).await;
    let (silent, foreign, free) =
        (speak("silent", &ours).await, speak("foreign", &other).await, speak("free", &other).await);
    let https = ("backend-protocol", "HTTPS");
    let aged = |yaml: String, year: u32| {
        let time = format!("  creationTimestamp: \"{year}-01-01T00:00:00Z\"\n  annotations:");
        yaml.replace("  annotations:", &time)
    };
    let owners = [https, ("proxy-ssl-secret", "demo/ours"), ("proxy-ssl-verify", "on")];
    let objects = [
        secret("ours", &[("ca.crt", &ours.pem())]),
        backend("owner", 80, &[owner.addr()]),
        backend("silent", 80, &[silent.addr()]),
        backend("foreign", 80, &[foreign.addr()]),
        backend("free", 80, &[free.addr()]),
        aged(host_of("a", "owner", "/", &owners), 2020),
        aged(host_of("a", "silent", "/silent", &[https]), 2021),
        aged(host_of("a", "foreign", "/foreign", &[https]), 2022),
        aged(host_of("a", "free", "/free", &[https, ("proxy-ssl-verify", "off")]), 2023),
    ];
    let lockgate = manifests(&objects).start().await;
    for (path, status) in [("/", 200), ("/silent", 200), ("/foreign", 502), ("/free", 200)] {
        let reply = lockgate.client().get(&format!("http://a.test{path}")).await.unwrap();
        assert_eq!(reply.status, status, "{path}");
    }
    assert!(foreign.handshakes().is_empty());
}

/// `AUTO_HTTP` goes on with the scheme a client came with; WebSockets work over TLS, too.
#[tokio::test(flavor = "multi_thread")]
async fn automatic_endpoints_are_spoken_to_as_clients_speak() {
    let pair = Authority::new("any").issue("auto.demo.svc");
    let plain = Endpoint::start("plain", Speech::h1()).await;
    let secure = Endpoint::start("secure", Speech::h1().tls(&pair)).await;
    for (endpoint, http, https) in [(&plain, 200, 502), (&secure, 502, 200)] {
        let auto = [("backend-protocol", "AUTO_HTTP")];
        let objects = [host("auto", &auto), backend("auto", 80, &[endpoint.addr()])];
        let lockgate = manifests(&objects).start().await;
        let reply = lockgate.client().get("http://auto.test/").await.unwrap();
        assert_eq!(reply.status, http);
        for client in [lockgate.tls_client(), lockgate.tls_client().http2()] {
            assert_eq!(client.get("https://auto.test/").await.unwrap().status, https);
        }
        let mut raw = Raw::tls(lockgate.https, "auto.test", &["http/1.1"]).await.unwrap();
        raw.send(
            "GET /ws HTTP/1.1\r\nHost: auto.test\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\n\r\nhello",
        )
        .await;
        let status = if https == 200 { 101 } else { 502 };
        assert_eq!(raw.reply().await.status, Some(status));
        if status == 101 {
            assert_eq!(raw.bytes(5).await, b"hello");
        }
    }
}

/// What a client sends slowly holds no connection to an endpoint, and comes with its length; what is
/// large, or is not to be gathered, goes as it comes.
#[tokio::test(flavor = "multi_thread")]
async fn small_bodies_are_taken_first() {
    let web = RawBackend::answering(Answer::ok("ok")).await;
    let told = Endpoint::start("told", Speech::h1()).await;
    let objects = [
        host("web", &[("proxy-body-size", "100k")]) + &backend("web", 80, &[web.addr()]),
        host("large", &[]) + &backend("large", 80, &[told.addr()]),
        host("stream", &[("proxy-request-buffering", "off"), ("proxy-body-size", "100k")]),
        backend("stream", 80, &[told.addr()]),
    ];
    let lockgate = manifests(&objects).start().await;
    let begin = async |host: &str, lines: &str| {
        let mut raw = Raw::plain(lockgate.http).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: {host}.test\r\n{lines}\r\n")).await;
        raw
    };
    // By length and in chunks: nothing is begun before all is there.
    for (lines, pieces) in [
        ("Content-Length: 10\r\n", ["01234", "56789"]),
        ("Transfer-Encoding: chunked\r\n", ["5\r\n01234\r\n", "5\r\n56789\r\n0\r\n\r\n"]),
    ] {
        let (before, open) = (web.requests().len(), web.open());
        let mut raw = begin("web", lines).await;
        raw.send(pieces[0]).await;
        // The worker has seen that piece when it has served somebody who came after it, twice: there
        // are two workers.
        for _ in 0..8 {
            assert_eq!(lockgate.client().get("http://nobody.test/").await.unwrap().status, 404);
        }
        assert_eq!((web.requests().len(), web.open()), (before, open), "{lines}");
        raw.send(pieces[1]).await;
        assert_eq!(raw.reply().await.status, Some(200), "{lines}");
        let request = web.requests().pop().unwrap();
        let head = head_end(&request).unwrap();
        let text = String::from_utf8_lossy(&request[..head]).into_owned();
        assert_eq!(Length::of(&text[..head - 4]), Some(Length::Bytes(10)), "{text}");
        assert_eq!(&request[head..], b"0123456789");
    }
    // Larger ones, and those of the other host, begin at once.
    for (host, length, first, whole) in [
        ("large", Some(70_000), 10, 70_000),
        ("large", None, 66_000, 70_000),
        ("stream", Some(10), 5, 10),
        ("stream", None, 5, 10),
    ] {
        let case = format!("{host} {length:?}");
        let before = told.requests();
        let lines = length.map_or("Transfer-Encoding: chunked\r\n".to_owned(), |it| {
            format!("Content-Length: {it}\r\n")
        });
        let mut raw = begin(host, &lines).await;
        let piece = |count: usize| match length {
            Some(_) => "x".repeat(count),
            None => format!("{count:x}\r\n{}\r\n", "x".repeat(count)),
        };
        raw.send(piece(first)).await;
        eventually(&case, SOON, async || told.requests() > before).await;
        raw.send(piece(whole - first)).await;
        raw.send(if length.is_none() { "0\r\n\r\n" } else { "" }).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(200), "{case}: {reply:?}");
        let echo: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(echo["body_bytes"], whole, "{case}");
        let framing = match length {
            Some(length) => serde_json::json!(["content-length", length.to_string()]),
            None => serde_json::json!(["transfer-encoding", "chunked"]),
        };
        assert!(echo["headers"].as_array().unwrap().contains(&framing), "{case}: {echo}");
    }
    // Bytes are counted where no length is said.
    for host in ["web", "stream"] {
        let mut raw = begin(host, "Transfer-Encoding: chunked\r\n").await;
        let chunk = format!("{:x}\r\n{}\r\n", 60_000, "y".repeat(60_000));
        raw.send(chunk.clone() + &chunk).await;
        assert_eq!(raw.reply().await.status, Some(413), "{host}");
    }
    // Who waits to be told to go on is told.
    for host in ["web", "stream"] {
        let mut raw = begin(host, "Content-Length: 5\r\nExpect: 100-continue\r\n").await;
        assert_eq!(raw.bytes(25).await, b"HTTP/1.1 100 Continue\r\n\r\n", "{host}");
        raw.send("hello").await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(200), "{host}: {reply:?}");
    }
}

/// A body that comes in tiny pieces costs about its size, not a buffer for each piece.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_tiny_pieces_cost_little() {
    const CLIENTS: usize = 10;
    const PIECES: usize = 20_000;
    let web = Backend::start("web").await;
    let objects = [host("web", &[]), backend("web", 80, &[web.addr()])];
    let lockgate = manifests(&objects).start().await;
    let before = memory(&lockgate);
    let mut raws = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::plain(lockgate.http).await;
        raw.send("POST / HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        raw.send("1\r\nx\r\n".repeat(PIECES)).await;
        raws.push(raw);
    }
    // All is read when nothing is worked at any longer.
    let mut worked = Duration::MAX;
    eventually("quiet", SOON, async || {
        lockgate.cpu() == std::mem::replace(&mut worked, lockgate.cpu())
    })
    .await;
    let grown = memory(&lockgate).saturating_sub(before);
    for raw in &mut raws {
        raw.send("0\r\n\r\n").await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(200));
        assert!(reply.text().contains(&format!("\"body_bytes\":{PIECES}")), "{}", reply.text());
    }
    assert!(grown < 7 << 10, "{grown} KiB more for {CLIENTS} bodies of {PIECES} bytes");
}

/// Memory it has in use for itself, in KiB: without the pages of its program.
fn memory(lockgate: &Lockgate) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lockgate.pid())).unwrap();
    let line = status.lines().find(|it| it.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
