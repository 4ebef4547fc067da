//! Copies of requests for a mirror.

use std::time::{Duration, Instant};

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::Call;
use crate::harness::endpoint::{Authority, Endpoint, Speech};
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::fields;

/// An Ingress for `NAME.test`, whose requests are copied as the annotations say.
fn host(name: &str, annotations: &[(&str, &str)]) -> String {
    let open = [("ssl-redirect", "false"), ("proxy-body-size", "0")];
    let all = [&open, annotations].concat();
    ingress(name, &format!("{name}.test"), &[("/", "Prefix", "web", 80)], &all)
}

/// The copy that a mirror gets next, as its head and its body.
async fn next(mirror: &RawBackend) -> (String, String) {
    let copy = eventually("a copy", SOON, async || mirror.requests().pop()).await;
    mirror.forget();
    let copy = String::from_utf8(copy).unwrap();
    let (head, body) = copy.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn told<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    fields(head).find(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1.trim())
}

/// A mirror gets each request as it came, with its body or without.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_hears_of_every_request() {
    let web = Backend::start("web").await;
    let mirror = RawBackend::outside(|_| Answer::ok("ignored")).await;
    let target = format!("http://{}/$request_uri", mirror.addr());
    let fixed = format!("http://{}/copy?of=$uri", mirror.addr());
    let objects = [
        host("all", &[("mirror-target", &target)]),
        host(
            "heads",
            &[
                ("mirror-target", &fixed),
                ("mirror-request-body", "off"),
                ("mirror-host", "mirror.test"),
            ],
        ),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(ingress_class() + &objects.concat()).start().await;
    for (client, mut connection) in lockgate.connections("all").await {
        let call = Call::get("http://all.test/a/../b?c=d").header("x-own", "1");
        assert_eq!(connection.send(call).await.unwrap().json()["target"], "/b?c=d", "{client}");
        let (head, body) = next(&mirror).await;
        // What the endpoint gets: nobody decides on another path than its.
        assert!(head.starts_with("GET /b?c=d HTTP/1.1\r\n"), "{client}: {head}");
        assert_eq!((told(&head, "x-own"), &*body), (Some("1"), ""), "{client}: {head}");
        assert_eq!(told(&head, "host"), Some(&*mirror.addr().to_string()), "{client}");
        assert_eq!(told(&head, "x-forwarded-host"), Some("all.test"), "{client}: {head}");

        let large = "y".repeat(200_000);
        for call in [
            Call::post("http://all.test/", "hello"),
            Call::new("PUT", "http://all.test/").chunks(&["hel", "lo"]),
            Call::post("http://all.test/", large.clone()),
        ] {
            let echo = connection.send(call).await.unwrap().json();
            let length = echo["body_bytes"].as_u64().unwrap();
            let (head, body) = next(&mirror).await;
            assert_eq!(
                told(&head, "content-length"),
                Some(&*length.to_string()),
                "{client}: {head}"
            );
            assert!(body == "hello" || body == large, "{client}: {} bytes", body.len());
        }
    }
    for (client, mut connection) in lockgate.connections("heads").await {
        let call = Call::post("http://heads.test/x", "hello");
        assert_eq!(connection.send(call).await.unwrap().json()["body"], "hello", "{client}");
        let (head, body) = next(&mirror).await;
        assert!(head.starts_with("POST /copy?of=/x HTTP/1.1\r\n"), "{client}: {head}");
        assert_eq!((told(&head, "host"), &*body), (Some("mirror.test"), ""), "{client}: {head}");
        assert_eq!(told(&head, "content-length"), Some("0"), "{client}: {head}");
    }
    assert!(mirror.connections() < 10, "{} connections", mirror.connections());
    lockgate.no_problem().await;
}

/// A mirror over TLS is taken at its word, as endpoints are.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_may_speak_tls() {
    let web = Backend::outside("web").await;
    let pair = Authority::new("any").issue("mirror.test");
    let speech = Speech::h1().tls(&pair);
    let mirror = Endpoint::start_on("mirror", speech, (web.addr().ip(), 0).into()).await;
    let target = format!("https://{}$request_uri", mirror.addr());
    let objects = [host("all", &[("mirror-target", &target)]), backend("web", 80, &[web.addr()])];
    let lockgate = Lockgate::with_manifests(ingress_class() + &objects.concat()).start().await;
    for (client, mut connection) in lockgate.connections("all").await {
        let before = mirror.requests();
        assert_eq!(connection.get("http://all.test/").await.unwrap().status, 200, "{client}");
        eventually("a copy", SOON, async || mirror.requests() == before + 1).await;
    }
    lockgate.no_problem().await;
}

/// Whatever becomes of copies, requests do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_holds_up_nobody() {
    let (web, slow) = tokio::join!(Backend::start("web"), Backend::outside("slow"));
    let hanging = format!("http://{}/slow/60000", slow.addr());
    let objects = [
        host("slow", &[("mirror-target", &hanging)]),
        host("dead", &[("mirror-target", "http://192.0.2.1:1$request_uri")]),
        host("nobody", &[("mirror-target", "http://nobody.invalid/")]),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(ingress_class() + &objects.concat()).start().await;
    let began = Instant::now();
    for name in ["slow", "dead", "nobody"] {
        for (client, mut connection) in lockgate.connections(name).await {
            for _ in 0..300 {
                let reply = connection.get(&format!("http://{name}.test/")).await.unwrap();
                assert_eq!(reply.status, 200, "{client}: {name}");
            }
        }
    }
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    // Each worker has so many copies under way and no more.
    assert!(slow.requests() <= 512, "{} copies", slow.requests());
    let lost = lockgate.metric("lockgate_mirror_lost_total", &[]).await;
    assert!(lost > 0.0, "{lost}");
    // What is too large for a copy goes all the same.
    let before = lockgate.metric("lockgate_mirror_lost_total", &[]).await;
    for (client, mut connection) in lockgate.connections("dead").await {
        for call in [
            Call::post("http://dead.test/", vec![b'z'; 2 << 20]),
            Call::new("PUT", "http://dead.test/").chunks(&[&"z".repeat(2 << 20)]),
        ] {
            let echo = connection.send(call).await.unwrap().json();
            assert_eq!(echo["body_bytes"], 2 << 20, "{client}");
        }
    }
    let after = lockgate.metric("lockgate_mirror_lost_total", &[]).await;
    assert!(after - before >= 4.0, "{before} {after}");
}
