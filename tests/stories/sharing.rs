//! Canaries, affinity, and whom a Service's port sends requests to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{
    Lockgate, Start, backend, endpoints, ingress, ingress_class, service,
};
use crate::harness::process::{SOON, eventually};

/// Annotations without their prefix.
type Own<'a> = &'a [(&'a str, &'a str)];

/// An Ingress for all of `HOST.test`, which leads to a Service. Those of names that come first in the
/// alphabet are the younger ones, as objects of files have no age.
fn host(name: &str, host: &str, service: &str, annotations: Own<'_>) -> String {
    let all = [&[("ssl-redirect", "false")], annotations].concat();
    ingress(name, &format!("{host}.test"), &[("/", "Prefix", service, 80)], &all)
}

/// A canary of `a.test`, younger than `main`.
fn canary(annotations: Own<'_>) -> String {
    host("canary", "a", "next", &[&[("canary", "true")], annotations].concat())
}

fn manifests(objects: &[String]) -> Start {
    Lockgate::with_manifests(ingress_class() + &objects.concat())
}

/// `main` leads `a.test` and `b.test` to `web`, a canary to `next`.
struct House {
    web: Backend,
    next: Backend,
    lockgate: Lockgate,
}

impl House {
    async fn new(main: Own<'_>, own: Own<'_>) -> Self {
        let (web, next) = tokio::join!(Backend::start("web"), Backend::start("next"));
        let objects = Self::objects(main, own, &web, &next);
        let lockgate = manifests(&objects).start().await;
        Self { web, next, lockgate }
    }

    fn objects(main: Own<'_>, own: Own<'_>, web: &Backend, next: &Backend) -> [String; 5] {
        [
            host("main", "a", "web", main),
            host("other", "b", "web", &[]),
            canary(own),
            backend("web", 80, &[web.addr()]),
            backend("next", 80, &[next.addr()]),
        ]
    }

    /// Says something else about the canary, and waits until that is served.
    async fn edit(&self, own: Own<'_>) {
        let swaps = self.lockgate.metric("nginx_ingress_controller_success", &[]).await;
        let objects = Self::objects(&[], own, &self.web, &self.next);
        self.lockgate.edit(ingress_class() + &objects.concat());
        eventually("the change", SOON, async || {
            self.lockgate.metric("nginx_ingress_controller_success", &[]).await > swaps
        })
        .await;
    }

    /// The two protocols of clients, each with a connection.
    /// How many of so many requests for a host the canary takes, half of them over each protocol.
    async fn share(&self, host: &str, requests: usize) -> usize {
        let mut taken = 0;
        for (client, mut connection) in self.lockgate.connections("a").await {
            for _ in 0..requests / 2 {
                let url = format!("http://{host}.test/");
                let reply = connection.get(&url).await.unwrap();
                assert_eq!(reply.status, 200, "{client} {host}");
                taken += usize::from(reply.backend().as_deref() == Some("next"));
            }
        }
        taken
    }
}

/// A canary takes its share of whatever goes to the main Service, by whatever host; and the share is what
/// it is said to be, at every step of a rollout.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_takes_the_share_it_is_given() {
    let house = House::new(&[], &[("canary-weight", "20")]).await;
    for (weight, own) in [
        (0.2, &[("canary-weight", "20")][..]),
        (0.0, &[("canary-weight", "0")]),
        (1.0, &[("canary-weight", "100")]),
        (0.0, &[]),
        (0.05, &[("canary-weight", "10"), ("canary-weight-total", "200")]),
        (0.5, &[("canary-weight", "50"), ("canary-weight-total", "10")]),
    ] {
        house.edit(&[own, &[("canary-by-header", "x-unused")]].concat()).await;
        for host in ["a", "b"] {
            const REQUESTS: u32 = 1500;
            let taken = house.share(host, REQUESTS as usize).await;
            let taken = f64::from(u32::try_from(taken).unwrap());
            let requests = f64::from(REQUESTS);
            // Five standard deviations: once in two million times chance goes further.
            let bound = 5.0 * (requests * weight * (1.0 - weight)).sqrt();
            let off = (taken - requests * weight).abs();
            assert!(off <= bound, "{host} {own:?}: {taken} of {requests}");
        }
    }
    house.lockgate.no_problem().await;
}

/// What a request says comes before its weight, over either protocol.
#[tokio::test(flavor = "multi_thread")]
async fn requests_can_ask_for_the_canary() {
    let by = [("canary-by-header", "X-Canary"), ("canary-by-cookie", "beta")];
    let house = House::new(&[], &[]).await;
    for (own, cases) in [
        (
            &[("canary-weight", "0")][..],
            &[
                ("always", "", "next"),
                ("never", "beta=always", "web"),
                ("other", "beta=always", "next"),
                ("", "a=b; beta=always", "next"),
                ("", "beta=never", "web"),
                ("", "beta=other", "web"),
                ("", "", "web"),
            ][..],
        ),
        (
            &[("canary-weight", "100")],
            &[("never", "", "web"), ("other", "beta=never", "web"), ("", "", "next")],
        ),
        (
            &[("canary-by-header-value", "eu")],
            &[("eu", "beta=never", "next"), ("always", "", "web"), ("us", "beta=always", "next")],
        ),
        (
            &[("canary-by-header-pattern", "^(eu|us)-"), ("canary-weight", "100")],
            &[("us-1", "beta=never", "next"), ("xus-1", "beta=never", "web"), ("x", "", "next")],
        ),
        (
            &[("canary-by-header-pattern", "(?!x)"), ("canary-weight", "100")],
            &[("eu", "beta=always", "web"), ("", "beta=always", "next"), ("", "", "next")],
        ),
    ] {
        house.edit(&[&by, own].concat()).await;
        for (client, mut connection) in house.lockgate.connections("a").await {
            for (header, cookie, expected) in cases {
                let mut call = Call::get("http://a.test/");
                if !header.is_empty() {
                    call = call.header("x-canary", header);
                }
                if !cookie.is_empty() {
                    call = call.header("cookie", cookie);
                }
                let reply = connection.send(call).await.unwrap();
                let case = format!("{client} {own:?}: {header} {cookie}");
                assert_eq!(reply.backend().as_deref(), Some(*expected), "{case}");
            }
        }
    }
}

/// Metrics and log say which requests a canary took, with the names that Flagger and dashboards know, and
/// count them with the main Ingress and Service.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_canary_took_is_told() {
    let house = House::new(&[], &[("canary-by-header", "x-canary")]).await;
    for (_, mut connection) in house.lockgate.connections("a").await {
        for header in ["always", "never", "always"] {
            let call = Call::get("http://a.test/").header("x-canary", header);
            assert_eq!(connection.send(call).await.unwrap().status, 200);
        }
    }
    let main = ["ingress=\"main\"", "service=\"web\"", "namespace=\"demo\"", "status=\"200\""];
    for (canary, expected) in [("canary=\"demo-next-80\"", 4.0), ("canary=\"\"", 2.0)] {
        let labels = [&main[..], &[canary]].concat();
        eventually("counts", SOON, async || {
            let name = "nginx_ingress_controller_requests";
            let found = house.lockgate.metric(name, &labels).await;
            if (found - expected).abs() < 0.5 { Ok(()) } else { Err(format!("{canary} {found}")) }
        })
        .await;
    }
    let name = "nginx_ingress_controller_response_duration_seconds_count";
    assert!(house.lockgate.metric(name, &["canary=\"demo-next-80\""]).await > 3.5);
    eventually("log lines", SOON, async || {
        let log = house.lockgate.stdout();
        let count = |text: &str| log.matches(text).count();
        let found = [count("[demo-web-80] [demo-next-80]"), count("[demo-web-80] []")];
        if found == [4, 2] { Ok(()) } else { Err(log) }
    })
    .await;
}

/// Nobody asks a Service without endpoints: where that is the main one its paths are unavailable, even to
/// who asks for the canary; where it is the canary the main one gets all.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_endpoints_takes_nothing() {
    let house =
        House::new(&[], &[("canary-by-header", "x-canary"), ("canary-weight", "100")]).await;
    let House { web, next, lockgate } = &house;
    let mut objects = House::objects(&[], &[("canary-by-header", "x-canary")], web, next);
    let ask = async |header: &'static str, expected: (u16, Option<&str>)| {
        for (client, connect) in [
            ("HTTP/1.1", lockgate.client().connect("http://a.test/").await),
            ("HTTP/2", lockgate.tls_client().http2().connect("https://a.test/").await),
        ] {
            let call = Call::get("http://a.test/").header("x-canary", header);
            let reply = connect.unwrap().send(call).await.unwrap();
            assert_eq!((reply.status, reply.backend().as_deref()), expected, "{client} {header}");
        }
    };
    ask("always", (200, Some("next"))).await;
    objects[4] = service("next", 80) + &endpoints("next", 80, &[]);
    lockgate.edit(ingress_class() + &objects.concat());
    eventually("no canary", SOON, async || {
        let call = Call::get("http://a.test/").header("x-canary", "always");
        let reply = lockgate.client().request(call).await.ok()?;
        (reply.backend().as_deref() == Some("web")).then_some(())
    })
    .await;
    ask("always", (200, Some("web"))).await;
    objects = House::objects(&[], &[("canary-by-header", "x-canary")], web, next);
    objects[3] = service("web", 80) + &endpoints("web", 80, &[]);
    lockgate.edit(ingress_class() + &objects.concat());
    lockgate.answers("http://a.test/", 503).await;
    ask("always", (503, None)).await;
    ask("never", (503, None)).await;
}

/// The cookie of an answer, by its name and its attributes.
fn cookie(reply: &Reply) -> Option<(String, Vec<String>)> {
    let text = reply.header("set-cookie")?;
    let mut parts = text.split("; ").map(str::to_owned);
    Some((parts.next()?, parts.collect()))
}

/// `count` endpoints of `web`.
async fn many(count: usize) -> Vec<Backend> {
    let mut many = Vec::new();
    for number in 0..count {
        many.push(Backend::start(&format!("web-{number}")).await);
    }
    many
}

fn addrs(many: &[Backend]) -> Vec<std::net::SocketAddr> {
    many.iter().map(Backend::addr).collect()
}

/// A client is told once where it is, and then stays there; only where an Ingress asks for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_a_client_on_its_endpoint() {
    for mode in ["balanced", "persistent"] {
        let web = many(3).await;
        let own = [
            ("affinity", "cookie"),
            ("affinity-mode", mode),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-samesite", "lax"),
        ];
        let lockgate = manifests(&[
            host("main", "a", "web", &own),
            host("other", "b", "web", &[]),
            backend("web", 80, &addrs(&web)),
        ]);
        let lockgate = lockgate.start().await;
        let h1 = lockgate.client().connect("http://a.test/").await.unwrap();
        let h2 = lockgate.tls_client().http2().connect("https://a.test/").await.unwrap();
        for (client, mut connection, secure) in [("HTTP/1.1", h1, false), ("HTTP/2", h2, true)] {
            let case = format!("{client} {mode}");
            let mut seen = BTreeSet::new();
            for _ in 0..6 {
                let first = connection.get("http://a.test/x").await.unwrap();
                let (pair, attributes) = cookie(&first).expect("a cookie");
                let value = pair.strip_prefix("route=").expect("its name");
                // `printf %s%s "$(printf demo-web-80 | md5sum | head -c32)" demo-web-80 | md5sum`
                assert!(value.ends_with("|4eccf85e3a373e847aa679b764930aaa"), "{case}: {value}");
                let mut expected = vec!["Max-Age=60", "Path=/", "HttpOnly", "SameSite=Lax"];
                if secure {
                    expected.insert(2, "Secure");
                }
                assert_eq!(attributes, expected, "{case}");
                for _ in 0..5 {
                    let call =
                        Call::get("http://a.test/y").header("cookie", &format!("a=b; {pair}"));
                    let again = connection.send(call).await.unwrap();
                    assert_eq!(again.backend(), first.backend(), "{case}");
                    assert_eq!(cookie(&again), None, "{case}");
                }
                seen.insert(first.backend());
            }
            assert_eq!(seen.len(), 3, "{case}: new clients go round");
            // By another Ingress a client is not told, but stays where it is.
            assert_eq!(cookie(&connection.get("http://b.test/").await.unwrap()), None, "{case}");
            let stale = Call::get("http://a.test/").header("cookie", "route=|nothing; other=1");
            let told = cookie(&connection.send(stale).await.unwrap());
            // To nginx's balancer any key is one; a persistent one has to be an endpoint's.
            assert_eq!(told.is_some(), mode == "persistent", "{case}");
        }
    }
}

/// When endpoints come, `persistent` leaves every client where it is and `balanced` moves some; when a
/// client's endpoint goes, it gets another one and is told.
#[tokio::test(flavor = "multi_thread")]
async fn clients_move_as_their_mode_says() {
    for mode in ["balanced", "persistent"] {
        let web = many(6).await;
        let own = [("affinity", "cookie"), ("affinity-mode", mode)];
        let objects = |these: &[Backend]| {
            let main = host("main", "a", "web", &own);
            ingress_class() + &main + &backend("web", 80, &addrs(these))
        };
        let lockgate = Lockgate::with_manifests(objects(&web[..2])).start().await;
        let swapped = async |these: &[Backend]| {
            let name = "nginx_ingress_controller_success";
            let swaps = lockgate.metric(name, &[]).await;
            lockgate.edit(objects(these));
            eventually("a swap", SOON, async || lockgate.metric(name, &[]).await > swaps).await;
        };
        let mut connection = lockgate.client().connect("http://a.test/").await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..60 {
            let reply = connection.get("http://a.test/").await.unwrap();
            clients.push((cookie(&reply).expect("a cookie").0, reply.backend()));
        }
        swapped(&web).await;
        let mut moved = 0;
        for (pair, at) in &clients {
            let call = Call::get("http://a.test/").header("cookie", pair);
            let reply = connection.send(call).await.unwrap();
            assert_eq!(cookie(&reply), None, "{mode}");
            moved += usize::from(reply.backend() != *at);
        }
        // Two of six stay with a third of the keys.
        let expected = if mode == "balanced" { 20..55 } else { 0..1 };
        assert!(expected.contains(&moved), "{mode}: {moved} of 60 moved");
        swapped(&web[2..]).await;
        let (pair, _) = &clients[0];
        let reply =
            connection.send(Call::get("http://a.test/").header("cookie", pair)).await.unwrap();
        assert_eq!(reply.status, 200, "{mode}");
        assert_eq!(cookie(&reply).is_some(), mode == "persistent", "{mode}");
    }
}

/// Who is on the canary stays there, whatever its weight becomes, and so does who is not; unless the canary
/// says legacy, which tells nobody.
#[tokio::test(flavor = "multi_thread")]
async fn affinity_comes_before_weights() {
    let main = [("affinity", "cookie")];
    for (behavior, own) in
        [("sticky", &[][..]), ("legacy", &[("affinity-canary-behavior", "legacy")])]
    {
        let by = [("canary-by-header", "x-canary")];
        let house = House::new(&main, &[own, &by].concat()).await;
        for (client, mut connection) in house.lockgate.connections("a").await {
            let case = format!("{client} {behavior}");
            let always = |call: Call| call.header("x-canary", "always");
            let never = |call: Call| call.header("x-canary", "never");
            let get = || Call::get("http://a.test/");
            let on = connection.send(always(get())).await.unwrap();
            assert_eq!(on.backend().as_deref(), Some("next"), "{case}");
            let off = connection.send(never(get())).await.unwrap();
            let (held, _) = cookie(&off).expect("a cookie");
            let call = always(get()).header("cookie", &held);
            let kept = connection.send(call).await.unwrap();
            assert_eq!(kept.backend().as_deref(), Some("web"), "{case}");
            match cookie(&on) {
                Some((held, _)) => {
                    assert_eq!(behavior, "sticky", "{case}");
                    let call = never(get()).header("cookie", &held);
                    let kept = connection.send(call).await.unwrap();
                    assert_eq!(kept.backend().as_deref(), Some("next"), "{case}");
                    assert_eq!(cookie(&kept), None, "{case}");
                }
                None => assert_eq!(behavior, "legacy", "{case}"),
            }
        }
    }
}

/// A client whose endpoint fails gets the failure, or another endpoint where it is to be moved.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_broken_endpoint_are_moved_if_they_may_be() {
    for (change, status) in [("false", 502), ("true", 200)] {
        let mut web = many(2).await;
        let own = [("affinity", "cookie"), ("session-cookie-change-on-failure", change)];
        let lockgate =
            manifests(&[host("main", "a", "web", &own), backend("web", 80, &addrs(&web))]);
        let lockgate = lockgate.start().await;
        let mut held = BTreeMap::new();
        while held.len() < 2 {
            let reply = lockgate.client().get("http://a.test/").await.unwrap();
            held.insert(reply.backend().expect("a name"), cookie(&reply).expect("a cookie").0);
        }
        let at = web[0].addr();
        drop(web.remove(0));
        eventually("nobody listens", SOON, async || TcpStream::connect(at).await.is_err()).await;
        for (client, connect) in [
            ("HTTP/1.1", lockgate.client().connect("http://a.test/").await),
            ("HTTP/2", lockgate.tls_client().http2().connect("https://a.test/").await),
        ] {
            let mut connection = connect.unwrap();
            let case = format!("{client} {change}");
            let call = Call::get("http://a.test/").header("cookie", &held["web-0"]);
            let reply = connection.send(call).await.unwrap();
            assert_eq!(reply.status, status, "{case}");
            if let Some((moved, _)) = cookie(&reply) {
                assert_eq!(change, "true", "{case}");
                let call = Call::get("http://a.test/").header("cookie", &moved);
                let again = connection.send(call).await.unwrap();
                assert_eq!(again.backend().as_deref(), Some("web-1"), "{case}");
                assert_eq!(cookie(&again), None, "{case}");
            } else {
                assert_eq!(change, "false", "{case}");
            }
            // Who is new goes elsewhere in either case.
            let new = connection.get("http://a.test/").await.unwrap();
            assert_eq!((new.status, cookie(&new).is_some()), (200, true), "{case}");
        }
    }
}

/// `service-upstream` leaves the choice of endpoints to whoever stands behind the Service's own address.
#[tokio::test(flavor = "multi_thread")]
async fn requests_can_go_to_the_service_itself() {
    let (mesh, pod) = tokio::join!(Backend::start("mesh"), Backend::start("pod"));
    let port = mesh.addr().port();
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: demo, name: web}}\n\
         spec: {{clusterIP: 127.0.0.1, ports: [{{name: p80, port: {port}}}]}}\n"
    );
    let main = host("main", "a", "web", &[("service-upstream", "true")]);
    let main = main.replace("number: 80", "name: p80");
    let lockgate = manifests(&[main, service, endpoints("web", 80, &[pod.addr()])]).start().await;
    for (client, connect) in [
        ("HTTP/1.1", lockgate.client().connect("http://a.test/").await),
        ("HTTP/2", lockgate.tls_client().http2().connect("https://a.test/").await),
    ] {
        let reply = connect.unwrap().get("http://a.test/").await.unwrap();
        assert_eq!(reply.backend().as_deref(), Some("mesh"), "{client}");
    }
    lockgate.no_problem().await;
}

/// With `upstream-hash-by-subset` the same words lead to the same few endpoints, and to each of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_words_lead_to_the_same_few() {
    let web = many(6).await;
    let own = [
        ("upstream-hash-by", "$http_x_key"),
        ("upstream-hash-by-subset", "true"),
        ("upstream-hash-by-subset-size", "2"),
    ];
    let lockgate = manifests(&[host("main", "a", "web", &own), backend("web", 80, &addrs(&web))]);
    let lockgate = lockgate.start().await;
    let mut connection = lockgate.client().connect("http://a.test/").await.unwrap();
    let mut all = BTreeSet::new();
    for key in 0..12 {
        let mut few = BTreeSet::new();
        for _ in 0..30 {
            let call = Call::get("http://a.test/").header("x-key", &key.to_string());
            few.insert(connection.send(call).await.unwrap().backend());
        }
        assert_eq!(few.len(), 2, "{key}");
        all.insert(few);
    }
    assert_eq!(all.len(), 3, "{all:?}");
}

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/demo/ingresses";

/// Annotations as the API has them.
fn prefixed(own: Own<'_>) -> Value {
    let named = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    Value::Object(own.iter().map(|(name, value)| (named(name), Value::from(*value))).collect())
}

/// An Ingress that leads `a.test` to a Service.
fn object(name: &str, service: &str, annotations: Own<'_>) -> Value {
    let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "name": name, "annotations": prefixed(annotations) },
        "spec": {
            "ingressClassName": "nginx",
            "rules": [{ "host": "a.test", "http": { "paths": [path] } }],
        },
    })
}

/// A cluster in which something is rolled out.
struct Rollout {
    cluster: Cluster,
    lockgate: Lockgate,
}

impl Rollout {
    /// What a tool writes for a step.
    async fn step(&self, canary: &str, annotations: Own<'_>) {
        let step = json!({ "metadata": { "annotations": prefixed(annotations) } });
        self.cluster.patch_json(&format!("{INGRESSES}/{canary}"), &step).await;
    }

    /// How many of so many requests the canary takes; none fails.
    async fn taken(&self, requests: u32) -> u32 {
        let mut connection = self.lockgate.client().connect("http://a.test/").await.unwrap();
        let mut taken = 0;
        for _ in 0..requests {
            let reply = connection.get("http://a.test/").await.unwrap();
            assert_eq!(reply.status, 200);
            taken += u32::from(reply.backend().as_deref() == Some("next"));
        }
        taken
    }

    /// Waits until insiders and others are answered by these.
    async fn answered_by(&self, insider: &str, other: &str) {
        eventually(&format!("{insider} and {other}"), SOON, async || {
            let call = Call::get("http://a.test/").header("x-user", "insider");
            let one = self.lockgate.client().request(call).await.ok()?.backend()?;
            let two = self.lockgate.client().get("http://a.test/").await.ok()?.backend()?;
            (one == insider && two == other).then_some(())
        })
        .await;
    }
}

/// What Argo Rollouts and Flagger write, in their order, against the API server: a canary that begins with
/// nothing, takes more step by step, and is gone at the end.
#[tokio::test(flavor = "multi_thread")]
async fn rollouts_by_argo_and_flagger_are_followed() {
    let (cluster, web, next) =
        tokio::join!(Cluster::installed(), Backend::outside("web"), Backend::outside("next"));
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    let rollout = Rollout { cluster, lockgate };
    let Rollout { cluster, lockgate } = &rollout;
    let main = [("proxy-body-size", "8m"), ("ssl-redirect", "false")];
    let first = [("canary", "true"), ("canary-weight", "0")];
    let copied = [&main[..], &first].concat();
    // Argo names the canary after Rollout and stable Ingress. Flagger copies the Ingress, annotations and all.
    for (stable, latest, canary, first) in [
        ("shop-stable", "shop-latest", "shop-main-canary", &first[..]),
        ("app", "app-canary", "main-canary", &copied),
    ] {
        let services = [backend(stable, 80, &[web.addr()]), backend(latest, 80, &[next.addr()])];
        cluster.apply(&services.concat()).await;
        cluster.post_json(INGRESSES, &object("main", stable, &main)).await;
        lockgate.answers("http://a.test/", 200).await;
        cluster.post_json(INGRESSES, &object(canary, latest, first)).await;
        eventually("the canary is known", SOON, async || {
            let all = lockgate.admin_json("/api/endpoints").await;
            let id = format!("demo-{latest}-80");
            all["backends"].as_array()?.iter().find(|it| it["backend"] == *id).map(|_| ())
        })
        .await;
        assert_eq!(rollout.taken(300).await, 0, "{canary}: a weight of 0 sends nothing");
        for (weight, wanted) in [("30", 30.0), ("60", 60.0), ("100", 100.0_f64)] {
            rollout.step(canary, &[("canary-weight", weight)]).await;
            // Until the step has come; five standard deviations to either side.
            eventually(&format!("{canary}: {weight} %"), SOON, async || {
                let taken = rollout.taken(400).await;
                let off = (f64::from(taken) / 4.0 - wanted).abs();
                let bound = 5.0 * (wanted * (100.0 - wanted) / 400.0).sqrt() + 0.01;
                if off <= bound { Ok(()) } else { Err(format!("{taken} of 400")) }
            })
            .await;
        }
        // Flagger's A/B test, and what Argo's `additionalIngressAnnotations` can add.
        let insiders = [("canary-by-header", "x-user"), ("canary-by-header-value", "insider")];
        rollout.step(canary, &[&insiders[..], &[("canary-weight", "0")]].concat()).await;
        rollout.answered_by("next", "web").await;
        // Done: both leave the stable Service behind, and take the canary away.
        cluster.delete(&["ingress", canary, "--namespace=demo"]).await;
        rollout.answered_by("web", "web").await;
        cluster.delete(&["ingress", "main", "--namespace=demo"]).await;
        lockgate.answers("http://a.test/", 404).await;
    }
    lockgate.no_problem().await;
}
