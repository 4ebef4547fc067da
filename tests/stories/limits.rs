//! How much one client may ask for: beside nginx where that can be had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client, Connection};
use crate::harness::lockgate::{Lockgate, backend, config_map, ingress, ingress_class};
use crate::harness::nginx::Nginx;
use crate::harness::process::{SOON, eventually};

/// An Ingress with these annotations for `NAME.test` and `also.NAME.test`, both of which lead to `web`.
fn host(name: &str, annotations: &[(&str, &str)]) -> String {
    let all = [&[("ssl-redirect", "false"), ("proxy-body-size", "0")], annotations].concat();
    let paths = [("/", "Prefix", "web", 80)];
    let yaml = ingress(name, &format!("{name}.test"), &paths, &all);
    let (head, rules) = yaml.split_once("  rules:\n").unwrap();
    let also = rules.replace(&format!("\"{name}.test\""), &format!("\"also.{name}.test\""));
    format!("{head}  rules:\n{rules}{also}")
}

fn settings(entries: &[(&str, &str)]) -> String {
    config_map("settings", &[&[("hsts", "false")], entries].concat())
}

async fn serving(objects: &[String], web: &Backend, entries: &[(&str, &str)]) -> Lockgate {
    Lockgate::with_manifests(yaml(objects, web, entries))
        .args(["--configmap=demo/settings"])
        .start()
        .await
}

fn yaml(objects: &[String], web: &Backend, entries: &[(&str, &str)]) -> String {
    let web = backend("web", 80, &[web.addr()]);
    ingress_class() + &settings(entries) + &web + &objects.concat()
}

/// Requests that are made one after the other; how many got which status.
async fn statuses(connection: &mut Connection, calls: Vec<Call>) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for call in calls {
        let reply = connection.send(call).await.unwrap();
        *statuses.entry(reply.status).or_default() += 1;
    }
    statuses
}

fn same(url: &str, count: usize) -> Vec<Call> {
    (0..count).map(|_| Call::get(url)).collect()
}

/// Of 20 requests at a time a limit of 8 lets 8 through, on connections of their own or on one; when those
/// have ended others may come.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_requests_under_way() {
    let web = Backend::start("web").await;
    let objects = [host("a", &[("limit-connections", "8")])];
    let lockgate = serving(&objects, &web, &[("limit-conn-status-code", "429")]).await;
    for (client, http2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
        for _ in 0..2 {
            // Each waits for all to have been asked, as the endpoint takes its time.
            let mut tasks = JoinSet::new();
            let connected = Arc::new(Barrier::new(20));
            for number in 0..20 {
                let connected = Arc::clone(&connected);
                let client = if http2 { lockgate.tls_client().http2() } else { lockgate.client() };
                let host = if number % 2 == 0 { "a.test" } else { "also.a.test" };
                let url = format!("http://{host}/slow/4000");
                tasks.spawn(async move {
                    let connect = if http2 { url.replace("http:", "https:") } else { url.clone() };
                    let mut connection = client.connect(&connect).await.unwrap();
                    connected.wait().await;
                    connection.get(&url).await.unwrap().status
                });
            }
            let all = tasks.join_all().await;
            let passed = all.iter().filter(|it| **it == 200).count();
            let refused = all.iter().filter(|it| **it == 429).count();
            assert_eq!((passed, refused), (8, 12), "{client}: {all:?}");
        }
    }
    // The streams of one connection count each for itself.
    let client = lockgate.tls_client().http2();
    let mut h2 = client.connect("https://a.test/").await.unwrap();
    let mut begun = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        let head = h2.begin(Call::get("https://a.test/sleepy-body")).await.unwrap();
        match head.status().as_u16() {
            200 => begun.push(head),
            status => {
                assert_eq!(status, 429);
                refused += 1;
            }
        }
    }
    assert_eq!((begun.len(), refused), (8, 12), "streams of one connection");
    // Whoever leaves makes room, though the answer never ended.
    drop((begun, h2));
    eventually("room", SOON, async || {
        let reply = lockgate.client().get("http://a.test/").await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
}

/// A burst and one request more pass at once, by whatever host of the Ingress; each client has its own, and
/// each Ingress. A change of objects forgets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_so_often() {
    let web = Backend::start("web").await;
    let objects = [
        host("a", &[("limit-rpm", "1"), ("limit-burst-multiplier", "7")]),
        host("b", &[("limit-rpm", "1")]),
        host("c", &[("limit-rpm", "1"), ("limit-allowlist", "192.0.2.0/24,127.0.0.0/8")]),
        host("d", &[("limit-rpm", "1"), ("limit-whitelist", "192.0.2.9")]),
        host("e", &[]),
    ];
    let trusting = [("use-forwarded-headers", "true")];
    let lockgate = serving(&objects, &web, &trusting).await;
    let mut h1 = lockgate.client().connect("http://a.test/").await.unwrap();
    let h2 = lockgate.tls_client().http2().connect("https://a.test/").await;
    let mut h2 = h2.unwrap();
    // Eight in all: five here, three there.
    let some = [same("http://a.test/", 3), same("http://also.a.test/x", 2)].concat();
    assert_eq!(statuses(&mut h1, some).await, BTreeMap::from([(200, 5)]));
    let rest = statuses(&mut h2, same("https://a.test/", 10)).await;
    assert_eq!(rest, BTreeMap::from([(200, 3), (503, 7)]));
    let own = [(200, 6), (503, 4)];
    assert_eq!(statuses(&mut h1, same("http://b.test/", 10)).await, BTreeMap::from(own));
    for host in ["c", "e"] {
        let free = statuses(&mut h1, same(&format!("http://{host}.test/"), 30)).await;
        assert_eq!(free, BTreeMap::from([(200, 30)]), "{host}");
    }
    // A client is who a trusted proxy says it is, the whole of its address.
    for (host, client, expected) in [
        ("a", "203.0.113.7", [(200, 8), (503, 2)].as_slice()),
        ("a", "203.0.113.8", &[(200, 8), (503, 2)]),
        ("a", "2001:db8::1", &[(200, 8), (503, 2)]),
        ("a", "2001:db8::2", &[(200, 8), (503, 2)]),
        ("a", "2001:db8::2", &[(503, 10)]),
        ("c", "203.0.113.7", &[(200, 6), (503, 4)]),
        ("c", "192.0.2.200", &[(200, 10)]),
        ("d", "192.0.2.9", &[(200, 10)]),
        ("d", "192.0.2.8", &[(200, 6), (503, 4)]),
    ] {
        let call = || Call::get(&format!("http://{host}.test/")).header("x-forwarded-for", client);
        let found = statuses(&mut h1, (0..10).map(|_| call()).collect()).await;
        assert_eq!(found, expected.iter().copied().collect(), "{host} {client}");
    }
    // A change of something else, and of the status.
    let more = [&objects[..], &[host("f", &[])]].concat();
    let settings = [&trusting[..], &[("limit-req-status-code", "429")]].concat();
    lockgate.edit(yaml(&more, &web, &settings));
    lockgate.answers("http://f.test/", 200).await;
    let after = statuses(&mut h1, same("http://a.test/", 5)).await;
    assert_eq!(after, BTreeMap::from([(429, 5)]));
    // With its Ingress what it asked is forgotten.
    lockgate.edit(yaml(&more[1..], &web, &settings));
    lockgate.answers("http://a.test/", 404).await;
    lockgate.edit(yaml(&more, &web, &settings));
    lockgate.answers("http://a.test/", 200).await;
}

/// An answer takes as long as its rate says, whole and over either protocol, and whoever waits costs
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_faster_than_its_rate() {
    let web = Backend::start("web").await;
    let objects = [
        host("a", &[("limit-rate", "100")]),
        host("b", &[("limit-rate", "30"), ("limit-rate-after", "280")]),
        host("c", &[("limit-rate", "0")]),
        host("d", &[]),
    ];
    let lockgate = serving(&objects, &web, &[("limit-rate", "50")]).await;
    let cpu = lockgate.cpu();
    let mut tasks = JoinSet::new();
    for (host, seconds) in [("a", 2), ("b", 0), ("c", 0), ("d", 5)] {
        for (name, client, scheme) in [
            ("HTTP/1.1", lockgate.client(), "http"),
            ("HTTP/2", lockgate.tls_client().http2(), "https"),
        ] {
            tasks.spawn(async move {
                let case = format!("{name} {host}");
                // 300 KiB: the first second's worth comes at once.
                let url = format!("{scheme}://{host}.test/bytes/{}", 300 << 10);
                let began = Instant::now();
                let reply = client.get(&url).await.unwrap();
                assert_eq!(reply.body.len(), 300 << 10, "{case}");
                let took = began.elapsed();
                assert!(
                    took >= Duration::from_millis(seconds * 1000 - seconds.min(1) * 50),
                    "{case}: {took:?}"
                );
                // By the rate of b it would be 9 s, by that of all 5 s.
                if seconds == 0 {
                    assert!(took < Duration::from_secs(4), "{case}: {took:?}");
                }
            });
        }
    }
    tasks.join_all().await;
    let cpu = lockgate.cpu().saturating_sub(cpu);
    assert!(cpu < Duration::from_secs(3), "{cpu:?}");
}

/// What nginx itself, configured as ingress-nginx does it, lets through, request by request, so do we.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_nginx() {
    let web = Backend::start("web").await;
    for (case, annotations, zone, limit) in [
        (
            "burst",
            &[("limit-rps", "2"), ("limit-burst-multiplier", "3")][..],
            "limit_req_zone $binary_remote_addr zone=one:5m rate=2r/s;",
            "limit_req zone=one burst=6 nodelay;",
        ),
        (
            "no burst",
            &[("limit-rps", "1"), ("limit-burst-multiplier", "0")],
            "limit_req_zone $binary_remote_addr zone=one:5m rate=1r/s;",
            "limit_req zone=one nodelay;",
        ),
        (
            "by the minute",
            &[("limit-rpm", "60")],
            "limit_req_zone $binary_remote_addr zone=one:5m rate=60r/m;",
            "limit_req zone=one burst=300 nodelay;",
        ),
        (
            "both",
            &[("limit-rps", "10"), ("limit-rpm", "4"), ("limit-burst-multiplier", "2")],
            "limit_req_zone $binary_remote_addr zone=one:5m rate=10r/s;\n\
             limit_req_zone $binary_remote_addr zone=two:5m rate=4r/m;",
            "limit_req zone=one burst=20 nodelay; limit_req zone=two burst=8 nodelay;",
        ),
    ] {
        let lockgate = serving(&[host("a", annotations)], &web, &[]).await;
        let nginx = Nginx::start(|addr| {
            format!(
                "keepalive_requests 100000; limit_req_status 503;\n{zone}\n\
                 server {{ listen {addr}; location / {{ {limit} proxy_pass http://{}; }} }}",
                web.addr()
            )
        })
        .await;
        let mut ours = lockgate.client().connect("http://a.test/").await.unwrap();
        let client = Client::new().connect_to(nginx.addr);
        let mut theirs = client.connect("http://a.test/").await.unwrap();
        let (mut both, mut differing) = ([0, 0], 0);
        let began = Instant::now();
        let mut asked = 0;
        while asked < 2000 && (began.elapsed() < Duration::from_secs(4) || both[0] == asked) {
            let one = ours.get("http://a.test/").await.unwrap().status;
            let other = theirs.get("http://a.test/").await.unwrap().status;
            assert!([200, 503].contains(&one), "{case}: {one}");
            differing += usize::from(one != other);
            both[0] += usize::from(one == 200);
            both[1] += usize::from(other == 200);
            asked += 1;
        }
        // A request on the edge of a moment may fall on one side of it here and on the other there.
        assert!(both[0].abs_diff(both[1]) <= 1, "{case}: {both:?} of {asked}");
        assert!(differing <= 20, "{case}: {differing} of {asked}");
        assert!(both[0] < asked, "{case}: nothing was refused of {asked}");
    }
}
