//! Which endpoint is asked, and when it is given up for another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::upstreams::{Own, host, host_of, manifests};
use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::{Call, Reply};
use crate::harness::endpoint::{Authority, Endpoint, Speech};
use crate::harness::lockgate::{Lockgate, backend, endpoints as slices, ingress_class, service};
use crate::harness::process::{SOON, eventually, free_port};

/// Asks `count` times on one connection; gives how often each backend answered.
async fn shares(lockgate: &Lockgate, url: &str, count: usize) -> BTreeMap<String, usize> {
    let mut connection = lockgate.client().connect(url).await.unwrap();
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let reply = connection.get(url).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        *shares.entry(reply.backend().unwrap()).or_default() += 1;
    }
    shares
}

fn addrs(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(Backend::addr).collect()
}

/// By turns each gets the same; by speed the quick one gets nearly all.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_chosen_by_turns_or_by_speed() {
    let three = [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let quick = Backend::start("quick").await;
    let slow = RawBackend::start(|_| {
        std::thread::sleep(Duration::from_secs(2));
        Answer::ok(r#"{"backend":"slow"}"#)
    })
    .await;
    let objects = [
        host("turns", &[]),
        backend("turns", 80, &addrs(&three)),
        host("speed", &[("load-balance", "ewma")]),
        backend("speed", 80, &[quick.addr(), slow.addr()]),
    ];
    let lockgate = manifests(&objects).start().await;
    let even = shares(&lockgate, "http://turns.test/", 300).await;
    assert!(even.values().all(|it| *it == 100) && even.len() == 3, "{even:?}");
    let uneven = shares(&lockgate, "http://speed.test/", 200).await;
    assert!(uneven["quick"] > 190 && uneven["slow"] > 0, "{uneven:?}");
}

/// The same words, the same endpoint; when one comes or goes, only its share moves.
#[tokio::test(flavor = "multi_thread")]
async fn hashes_keep_to_their_endpoint() {
    let mut four = Vec::new();
    for name in ["a", "b", "c", "d"] {
        four.push(Backend::start(name).await);
    }
    let by = [
        ("uri", "$request_uri"),
        ("header", "$http_x_user"),
        ("cookie", "$cookie_user"),
        ("arg", "${arg_user}-$host"),
        ("addr", "$remote_addr"),
        ("bad", "$nobody_knows"),
    ];
    let hosts = by.map(|(name, by)| {
        let one = host_of(name, "web", "/", &[("upstream-hash-by", by)]);
        one.replace("name: web", &format!("name: {name}"))
    });
    let objects = |addrs: &[SocketAddr]| {
        let services = by.map(|(name, _)| backend(name, 80, addrs));
        ingress_class() + &hosts.concat() + &services.concat()
    };
    let all = addrs(&four);
    let lockgate = Lockgate::with_manifests(objects(&all[..3])).start().await;
    let problem = lockgate.problem("BadAnnotation").await;
    assert!(problem.contains("$nobody_knows"), "{problem}");

    let users = async |name: &str| -> Vec<String> {
        let url = format!("http://{name}.test/");
        let mut connection = lockgate.client().connect(&url).await.unwrap();
        let mut found = Vec::new();
        for user in 0..60 {
            let call = match name {
                "uri" => Call::get(&format!("{url}{user}?x")),
                "arg" => Call::get(&format!("{url}?user={user}")),
                // Other crumbs beside it do not count.
                "cookie" => Call::get(&url).header("cookie", &format!("q={user}; user={user}")),
                _ => Call::get(&url).header("x-user", &user.to_string()),
            };
            found.push(connection.send(call).await.unwrap().backend().unwrap());
        }
        found
    };
    let stage = async |names: &[&str], addrs: &[SocketAddr]| -> Vec<Vec<String>> {
        lockgate.edit(objects(addrs));
        eventually(&format!("{names:?}"), SOON, async || {
            let found = shares(&lockgate, "http://bad.test/", 8).await;
            found.keys().eq(names).then_some(()).ok_or(format!("{found:?}"))
        })
        .await;
        let mut found = Vec::new();
        for name in ["uri", "header", "cookie", "arg"] {
            let once = users(name).await;
            assert_eq!(once, users(name).await, "{name}");
            for backend in names {
                let share = once.iter().filter(|it| it == backend).count();
                assert!(share >= 1, "{name}: {backend} {share}");
            }
            found.push(once);
        }
        found
    };
    let three = stage(&["a", "b", "c"], &all[..3]).await;
    let four = stage(&["a", "b", "c", "d"], &all).await;
    let rest = stage(&["b", "c", "d"], &all[1..]).await;
    for (before, after) in three.concat().iter().zip(four.concat()) {
        assert!(*before == after || after == "d", "{before} became {after}");
    }
    for (before, after) in four.concat().iter().zip(rest.concat()) {
        assert!(*before == after || before == "a", "{before} became {after}");
    }
    let addr: BTreeSet<_> = users("addr").await.into_iter().collect();
    assert_eq!(addr.len(), 1, "one client, one endpoint");
    let bad: BTreeSet<_> = users("bad").await.into_iter().collect();
    assert_eq!(bad.len(), 3, "by turns");
}

/// A TCP server that ends each connection at once, counting them.
struct Slammed {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Slammed {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (addr, connections) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _as_reset = tcp.set_zero_linger();
            }
        });
        Self { addr, connections, task: task.abort_handle() }
    }
}

impl Drop for Slammed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An endpoint that refuses connections costs no client anything, is asked seldom, and is asked again
/// soon after it came back.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_rests() {
    let good = Backend::start("good").await;
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (secure_good, secure_bad) = (
        Endpoint::start("good", Speech::h1().tls(&Authority::new("x").issue("x"))).await,
        // Counts what was tried: no handshake with it comes to an end.
        Slammed::start().await,
    );
    let objects = [
        host("web", &[]),
        backend("web", 80, &[good.addr(), closed]),
        host("tls", &[("backend-protocol", "HTTPS")]),
        backend("tls", 80, &[secure_good.addr(), secure_bad.addr]),
        host("down", &[]),
        backend("down", 80, &[closed]),
    ];
    let lockgate = manifests(&objects).start().await;
    let found = shares(&lockgate, "http://web.test/", 200).await;
    assert_eq!(found, BTreeMap::from([("good".to_owned(), 200)]));
    let mut connection = lockgate.client().connect("http://web.test/").await.unwrap();
    for _ in 0..50 {
        let reply = connection.send(Call::post("http://web.test/", "x")).await.unwrap();
        assert_eq!(reply.status, 200);
    }
    let began = Instant::now();
    let found = shares(&lockgate, "http://tls.test/", 200).await;
    assert_eq!(found, BTreeMap::from([("good".to_owned(), 200)]));
    let tried = secure_bad.connections.load(Ordering::SeqCst);
    let most = 2 + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=most).contains(&tried), "tried {tried} times");
    for call in [Call::get("http://down.test/"), Call::post("http://down.test/", "x")] {
        assert_eq!(lockgate.client().request(call).await.unwrap().status, 502);
    }
    let back = Endpoint::start_on("back", Speech::h1(), closed).await;
    eventually("traffic", SOON / 2, async || {
        shares(&lockgate, "http://web.test/", 2).await;
        back.requests() > 0
    })
    .await;
    assert_eq!(shares(&lockgate, "http://web.test/", 100).await["back"], 50);
}

/// Endpoints that are about to go still serve while no other is there.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_endpoints_serve_while_no_other_does() {
    let (leaving, ready) = (Backend::start("leaving").await, Backend::start("ready").await);
    let going = slices("web", 80, &[leaving.addr()])
        .replace("ready: true", "ready: false\n    serving: true\n    terminating: true");
    let rest = ingress_class() + &host("web", &[]) + &service("web", 80);
    let lockgate = Lockgate::with_manifests(rest.clone() + &going).start().await;
    assert_eq!(shares(&lockgate, "http://web.test/", 4).await, [("leaving".to_owned(), 4)].into());
    lockgate.edit(rest + &going + &slices("web", 80, &[ready.addr()]));
    eventually("the ready one", SOON, async || {
        shares(&lockgate, "http://web.test/", 4).await.contains_key("ready")
    })
    .await;
    assert_eq!(shares(&lockgate, "http://web.test/", 4).await, [("ready".to_owned(), 4)].into());
}

/// A request on a connection of its own.
async fn ask(lockgate: &Lockgate, call: Call) -> Reply {
    lockgate.client().request(call).await.unwrap()
}

/// Another endpoint is asked by nginx's rules: GET after anything, POST only when it was not sent.
#[tokio::test(flavor = "multi_thread")]
async fn other_endpoints_are_asked_by_nginxs_rules() {
    let reset = RawBackend::answering(Answer::reset("")).await;
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let busy = RawBackend::answering(Answer::keep(busy)).await;
    let strange = RawBackend::answering(Answer::close("SSH-2.0-x\r\n\r\n")).await;
    let good = RawBackend::answering(Answer::ok("good")).await;
    let (get, post) = ("GET", "POST");
    let next = "proxy-next-upstream";
    let tries = "proxy-next-upstream-tries";
    // Who is asked beside the good one, its annotations, the method, and how requests are answered that
    // met the bad one first.
    let cases: [(&RawBackend, Own<'_>, &str, u16); 17] = [
        (&reset, &[], get, 200),
        (&reset, &[], "PUT", 200),
        (&reset, &[], "DELETE", 200),
        (&reset, &[], post, 502),
        (&reset, &[], "PATCH", 502),
        (&reset, &[(next, "error non_idempotent")], post, 200),
        (&reset, &[(next, "off")], get, 502),
        (&reset, &[(next, "timeout")], get, 502),
        (&reset, &[(tries, "1")], get, 502),
        (&reset, &[(tries, "0")], get, 200),
        (&busy, &[], get, 503),
        (&busy, &[(next, "error http_503")], get, 200),
        (&busy, &[(next, "http_503")], post, 503),
        (&busy, &[(next, "http_503 non_idempotent")], post, 200),
        (&busy, &[(next, "http_502")], get, 503),
        (&strange, &[], get, 502),
        (&strange, &[(next, "invalid_header")], get, 200),
    ];
    let mut objects = Vec::new();
    for (number, (bad, annotations, _, _)) in cases.iter().enumerate() {
        let name = format!("case-{number}");
        objects.push(host(&name, annotations) + &backend(&name, 80, &[bad.addr(), good.addr()]));
    }
    let both = [busy.addr(), reset.addr()];
    objects.push(host("last", &[(next, "error http_503")]) + &backend("last", 80, &both));
    let lockgate = manifests(&objects).start().await;
    for (number, (bad, annotations, method, expected)) in cases.iter().enumerate() {
        let case = format!("{method} with {annotations:?}");
        bad.forget();
        good.forget();
        let mut found = BTreeMap::<u16, usize>::new();
        for _ in 0..10 {
            let url = format!("http://case-{number}.test/");
            let call = Call::new(method, &url);
            let call = if *method == get { call } else { call.body("body") };
            *found.entry(ask(&lockgate, call).await.status).or_default() += 1;
        }
        let half = if *expected == 200 {
            BTreeMap::from([(200, 10)])
        } else {
            [(*expected, 5), (200, 5)].into()
        };
        assert_eq!(found, half, "{case}");
        assert_eq!(bad.requests().len(), 5, "{case}: each came once");
        assert_eq!(good.requests().len(), found[&200], "{case}: each came once");
        assert_eq!(bad.broken().len() + good.broken().len(), 0, "{case}");
    }
    // While another one is asked a status is passed over; that of the last is passed on.
    let mut found = BTreeSet::new();
    for _ in 0..4 {
        found.insert(ask(&lockgate, Call::get("http://last.test/")).await.status);
    }
    assert_eq!(found, BTreeSet::from([502, 503]));
}

/// How many endpoints are asked, and until when.
#[tokio::test(flavor = "multi_thread")]
async fn tries_and_their_time_are_limited() {
    let mut bad = Vec::new();
    for _ in 0..5 {
        bad.push(RawBackend::answering(Answer::reset("")).await);
    }
    let all: Vec<_> = bad.iter().map(RawBackend::addr).collect();
    let deaf =
        [Endpoint::start("deaf", Speech::h1()).await, Endpoint::start("deaf", Speech::h1()).await];
    let silent: Vec<_> = deaf.iter().map(Endpoint::addr).collect();
    let good = Backend::start("good").await;
    let tries = "proxy-next-upstream-tries";
    let read = ("proxy-read-timeout", "1");
    let objects = [
        host("three", &[]) + &backend("three", 80, &all),
        host("two", &[(tries, "2")]) + &backend("two", 80, &all),
        host("all", &[(tries, "0")]) + &backend("all", 80, &all),
        host("late", &[read, ("proxy-next-upstream-timeout", "1")]) + &backend("late", 80, &silent),
        host("heard", &[read]) + &backend("heard", 80, &[silent[0], good.addr()]),
    ];
    let lockgate = manifests(&objects).start().await;
    for (name, count) in [("three", 3), ("two", 2), ("all", 5)] {
        bad.iter().for_each(RawBackend::forget);
        assert_eq!(ask(&lockgate, Call::get(&format!("http://{name}.test/"))).await.status, 502);
        assert_eq!(bad.iter().map(|it| it.requests().len()).sum::<usize>(), count, "{name}");
    }
    // What takes longer than the time for all is not followed by another.
    assert_eq!(ask(&lockgate, Call::get("http://late.test/deaf")).await.status, 504);
    assert_eq!(deaf.iter().map(Endpoint::requests).sum::<usize>(), 1);
    // A deaf endpoint costs a GET its patience once, a second; then it rests for a second, then for more.
    let (before, began) = (deaf[0].requests(), Instant::now());
    for _ in 0..6 {
        assert_eq!(ask(&lockgate, Call::get("http://heard.test/deaf")).await.status, 200);
    }
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 2).unwrap();
    let asked = deaf[0].requests() - before;
    assert!(asked <= most, "asked {asked} times");
}

/// An endpoint that ends each connection after its answer, without having said so, costs no client a
/// request, and none comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_hang_up_cost_no_request() {
    let hangs_up =
        RawBackend::start(|_| Answer::close("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
            .await;
    let objects = [host("web", &[]), backend("web", 80, &[hangs_up.addr()])];
    let lockgate = manifests(&objects).start().await;
    let mut failed = BTreeMap::<String, usize>::new();
    for method in ["GET", "POST"] {
        hangs_up.forget();
        let mut asking = JoinSet::new();
        for client in 0..4 {
            let mut connection = lockgate.client().connect("http://web.test/").await.unwrap();
            asking.spawn(async move {
                let mut failed = Vec::new();
                for number in 0..500 {
                    let call = Call::new(method, &format!("http://web.test/{client}/{number}"));
                    let call = if method == "GET" { call } else { call.body("body") };
                    match connection.send(call).await {
                        Ok(reply) if reply.status == 200 => {}
                        Ok(reply) => failed.push(format!("{method}: {}", reply.status)),
                        Err(error) => panic!("{method}: {error}"),
                    }
                }
                failed
            });
        }
        for failure in asking.join_all().await.concat() {
            *failed.entry(failure).or_default() += 1;
        }
        let came = hangs_up.requests();
        let lines: BTreeSet<_> =
            came.iter().map(|it| it.split(|it| *it == b' ').nth(1).unwrap()).collect();
        assert_eq!(lines.len(), came.len(), "{method}: none came twice");
    }
    // nginx loses such a POST, too: nobody knows whether it was seen.
    assert!(failed.keys().all(|it| it == "POST: 502"), "{failed:?}");
    // Of 2000; without a look at idle lines it would be half of them.
    assert!(failed.values().sum::<usize>() < 500, "{failed:?}");
}
