//! What is done to answers on their way to clients.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::backend::{Answer, Backend, RawBackend};
use crate::harness::client::{Call, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{
    Lockgate, Start, backend, config_map, ingress, ingress_class, secret, service,
};
use crate::harness::process::{SOON, eventually, free_port};

/// An Ingress for `NAME.test` that leads to a Service, and serves plain HTTP, too.
fn host(name: &str, service: &str, annotations: &[(&str, &str)]) -> String {
    let open = [("ssl-redirect", "false")];
    let open = open.iter().filter(|open| annotations.iter().all(|it| it.0 != open.0));
    let all: Vec<(&str, &str)> = open.chain(annotations).copied().collect();
    ingress(name, &format!("{name}.test"), &[("/", "Prefix", service, 80)], &all)
}

fn manifests(objects: &[String]) -> Start {
    let start = Lockgate::with_manifests(ingress_class() + &objects.concat());
    start.args(["--configmap=demo/settings", "--default-backend-service=demo/last"])
}

fn all(reply: &Reply, name: &str) -> Vec<String> {
    let values = reply.headers.get_all(name).iter();
    values.map(|it| it.to_str().unwrap().to_owned()).collect()
}

/// An endpoint that answers with these lines in its head and a short body.
async fn speaking(head: &'static str) -> RawBackend {
    let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 4\r\n\r\nmine");
    RawBackend::answering(Answer::keep(answer)).await
}

/// Browsers are answered before they are redirected or refused, whoever gives the answer, and an origin that
/// may not is the endpoint's business.
#[tokio::test(flavor = "multi_thread")]
async fn cross_origin_questions_are_answered_before_everything_else() {
    let web = Backend::start("web").await;
    let own = speaking(
        "200 OK\r\nAccess-Control-Allow-Origin: https://old.test\r\n\
         Access-Control-Allow-Headers: X-Old\r\nVary: Accept",
    )
    .await;
    let listed = "https://a.test, https://*.b.test, capacitor://localhost";
    let lockgate = manifests(&[
        config_map("settings", &[]),
        host("any", "web", &[("enable-cors", "true")]),
        host(
            "forced",
            "web",
            &[("enable-cors", "true"), ("force-ssl-redirect", "true"), ("proxy-body-size", "1")],
        ),
        host(
            "own",
            "own",
            &[
                ("enable-cors", "true"),
                ("cors-allow-origin", listed),
                ("cors-allow-methods", "GET, POST"),
                ("cors-allow-headers", "X-One"),
                ("cors-expose-headers", "X-Two"),
                ("cors-allow-credentials", "false"),
                ("cors-max-age", "60"),
            ],
        ),
        host("unset", "own", &[("cors-allow-origin", "*")]),
        backend("web", 80, &[web.addr()]),
        backend("own", 80, &[own.addr()]),
        backend("last", 80, &[web.addr()]),
    ])
    .start()
    .await;

    for (client, mut connection) in lockgate.connections("any").await {
        let before = web.requests();
        let call = Call::new("OPTIONS", "http://any.test/status/500");
        let reply = connection.send(call.header("origin", "https://x.test")).await.unwrap();
        assert_eq!((reply.status, web.requests()), (204, before), "{client}");
        for (name, expected) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT, POST, DELETE, PATCH, OPTIONS"),
            ("access-control-max-age", "1728000"),
            ("content-type", "text/plain charset=UTF-8"),
        ] {
            assert_eq!(reply.header(name), Some(expected), "{client}: {reply:?}");
        }
        assert_eq!(reply.header("access-control-expose-headers"), None, "{client}");
        for (path, status) in [("/", 200), ("/status/500", 500), ("/status/401", 401)] {
            let reply = connection.get(&format!("http://any.test{path}")).await.unwrap();
            let origin = reply.header("access-control-allow-origin");
            assert_eq!((reply.status, origin), (status, Some("*")), "{client} {path}");
        }
    }
    // Before the redirect, and on answers of ours.
    let call = |method| Call::new(method, "http://forced.test/").header("origin", "https://x.test");
    let reply = lockgate.client().request(call("OPTIONS")).await.unwrap();
    assert_eq!(reply.status, 204);
    let reply = lockgate.client().request(call("GET")).await.unwrap();
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (308, Some("*")));
    let mut secure = lockgate.connections("forced").await.into_iter().next_back().unwrap().1;
    let reply = secure.send(Call::post("https://forced.test/", "too much")).await.unwrap();
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (413, Some("*")));

    for (client, mut connection) in lockgate.connections("own").await {
        for (method, origin, status, expected) in [
            ("OPTIONS", "https://a.test", 204, Some("https://a.test")),
            ("OPTIONS", "https://x.b.test", 204, Some("https://x.b.test")),
            ("OPTIONS", "capacitor://localhost", 204, Some("capacitor://localhost")),
            ("OPTIONS", "https://b.test", 200, None),
            ("OPTIONS", "https://y.x.b.test", 200, None),
            ("OPTIONS", "https://a.test:444", 200, None),
            ("GET", "https://a.test", 200, Some("https://a.test")),
            ("GET", "http://a.test", 200, None),
        ] {
            let case = format!("{client}: {method} of {origin}");
            let call = Call::new(method, "http://own.test/").header("origin", origin);
            let reply = connection.send(call).await.unwrap();
            assert_eq!(reply.status, status, "{case}");
            // In place of what the endpoint says, or that alone.
            let (allowed, headers) = match expected {
                Some(origin) => (origin, "X-One"),
                None => ("https://old.test", "X-Old"),
            };
            assert_eq!(all(&reply, "access-control-allow-origin"), [allowed], "{case}");
            assert_eq!(all(&reply, "access-control-allow-headers"), [headers], "{case}");
            assert_eq!(reply.header("access-control-allow-credentials"), None, "{case}");
            let max_age = expected.map(|_| "60");
            assert_eq!(reply.header("access-control-max-age"), max_age, "{case}");
            let exposed = expected.map(|_| "X-Two");
            assert_eq!(reply.header("access-control-expose-headers"), exposed, "{case}");
            assert!(all(&reply, "vary").contains(&"Origin".to_owned()), "{case}: {reply:?}");
        }
    }
    let reply = lockgate.client().get("http://unset.test/").await.unwrap();
    assert_eq!(all(&reply, "access-control-allow-origin"), ["https://old.test"]);
    lockgate.no_problem().await;
}

/// What else stands on a route neither keeps browsers from asking nor hides from them why they may not.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_across_origins() {
    let (web, errors) = tokio::join!(Backend::start("web"), Backend::start("errors"));
    let cors = ("enable-cors", "true");
    let basic = [("auth-type", "basic"), ("auth-secret", "passwords")];
    let mirrored = ("mirror-target", "http://192.0.2.1:1$request_uri");
    let own = [("custom-http-errors", "401,404"), ("default-backend", "errors")];
    let lockgate = manifests(&[
        config_map("settings", &[]),
        secret("passwords", &[("auth", "me:{PLAIN}secret")]),
        host("locked", "web", &[&[cors, mirrored][..], &basic].concat()),
        host("listed", "web", &[cors, ("allowlist-source-range", "10.0.0.0/8")]),
        host("moved", "web", &[cors, ("permanent-redirect", "https://else.test/")]),
        host("errors", "web", &[&own[..], &basic].concat()),
        host("rewritten", "web", &[&own[..], &[("rewrite-target", "/status/404")]].concat()),
        backend("web", 80, &[web.addr()]),
        backend("errors", 80, &[errors.addr()]),
        backend("last", 80, &[web.addr()]),
    ])
    .start()
    .await;
    for (client, mut connection) in lockgate.connections("locked").await {
        let before = web.requests();
        for (name, status) in [("locked", 401), ("listed", 403), ("moved", 301)] {
            let call = |method| Call::new(method, &format!("http://{name}.test/x"));
            let reply = connection.send(call("OPTIONS")).await.unwrap();
            assert_eq!(reply.status, 204, "{client}: {name}");
            let reply = connection.send(call("GET")).await.unwrap();
            assert_eq!(reply.status, status, "{client}: {name}");
            assert_eq!(all(&reply, "access-control-allow-origin"), ["*"], "{client}: {name}");
        }
        assert_eq!(web.requests(), before, "{client}");
        let reply = connection.get("http://errors.test/x").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("errors")), "{client}");
        assert!(reply.header("www-authenticate").is_some(), "{client}: {reply:?}");
        // Whatever a path became, the default backend is asked for its own.
        let echo = connection.get("http://rewritten.test/x").await.unwrap().json();
        assert_eq!((&echo["backend"], &echo["target"]), (&"errors".into(), &"/".into()));
        assert_eq!(reply.told("x-original-uri").as_deref(), Some("/x"), "{client}: {echo}");
        assert_eq!(web.requests(), before + 1, "{client}");
    }
}

/// Fields of ConfigMaps: on one Ingress's answers, on all, on all requests; those of endpoints that are hidden.
#[tokio::test(flavor = "multi_thread")]
async fn config_maps_give_header_fields() {
    let web = Backend::start("web").await;
    let own =
        speaking("200 OK\r\nX-Frame-Options: ALLOW\r\nX-Powered-By: me\r\nX-All: theirs").await;
    let objects = |frame: &str| {
        [
            config_map(
                "settings",
                &[
                    ("add-headers", "demo/added"),
                    ("proxy-set-headers", "demo/sent"),
                    ("hide-headers", "X-Powered-By"),
                    ("global-allowed-response-headers", "X-Frame-Options,X-Price"),
                    ("proxy-add-original-uri-header", "true"),
                ],
            ),
            config_map("added", &[("X-All", "ours"), ("X-Uri", "${request_uri}!")]),
            config_map(
                "sent",
                &[
                    ("X-Start", "t=${msec}"),
                    ("X-Via", "$scheme of $namespace/$ingress_name"),
                    ("X-Forwarded-Port", "1"),
                    ("Accept-Language", ""),
                    ("Host", "$host.internal"),
                ],
            ),
            config_map("frame", &[("X-Frame-Options", frame), ("X-Price", "$remote_addr")]),
            host("own", "own", &[("custom-headers", "demo/frame")]),
            host("bad", "own", &[("custom-headers", "added")]),
            host("web", "web", &[]),
            backend("web", 80, &[web.addr()]),
            backend("own", 80, &[own.addr()]),
            backend("last", 80, &[web.addr()]),
        ]
    };
    let lockgate = manifests(&objects("DENY")).start().await;
    for (client, mut connection) in lockgate.connections("own").await {
        let reply = connection.get("http://own.test/a?b").await.unwrap();
        for (name, expected) in [
            ("x-frame-options", &["DENY"][..]),
            ("x-price", &["$remote_addr"]),
            ("x-powered-by", &[]),
            ("x-all", &["ours"]),
            ("x-uri", &["/a?b!"]),
        ] {
            assert_eq!(all(&reply, name), expected, "{client}: {name}");
        }
        // What is not allowed is not served without it.
        assert_eq!(connection.get("http://bad.test/").await.unwrap().status, 503, "{client}");
    }
    for (client, mut connection) in lockgate.connections("web").await {
        let call = Call::get("http://web.test/a/../b?c").header("accept-language", "de");
        let reply = connection.send(call).await.unwrap();
        let scheme = if client == "HTTP/2" { "https" } else { "http" };
        let via = format!("{scheme} of demo/web");
        for (name, expected) in [
            ("x-via", Some(&*via)),
            ("x-forwarded-port", Some("1")),
            ("accept-language", None),
            ("host", Some("web.test.internal")),
            ("x-original-uri", Some("/a/../b?c")),
        ] {
            assert_eq!(reply.told(name).as_deref(), expected, "{client}: {}", reply.text());
        }
        let start = reply.told("x-start").unwrap();
        let seconds = start.strip_prefix("t=").and_then(|it| it.parse::<f64>().ok());
        assert!(seconds.is_some_and(|it| it > 1.7e9), "{client}: {start}");
    }
    // Every answer, also where no rule takes the request and where it is none.
    let reply = lockgate.client().get("http://unknown.test/").await.unwrap();
    assert_eq!(all(&reply, "x-all"), ["ours"]);
    let reply = lockgate.client().get("http://own.test/%").await.unwrap();
    assert_eq!((reply.status, all(&reply, "x-all")), (400, vec!["ours".to_owned()]));
    let told = lockgate.problem("CustomHeaders").await;
    assert!(told.contains("X-All"), "{told}");

    lockgate.edit(ingress_class() + &objects("SAMEORIGIN").concat());
    eventually("the new value", SOON, async || {
        let reply = lockgate.client().get("http://own.test/").await.ok()?;
        (all(&reply, "x-frame-options") == ["SAMEORIGIN"]).then_some(())
    })
    .await;
}

/// The default backend is asked in place of an endpoint's error: told of it, once, without the body.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_backend_answers_for_errors() {
    let (web, errors, last) =
        tokio::join!(Backend::start("web"), Backend::start("errors"), Backend::start("last"));
    let own = ("default-backend", "errors");
    let lockgate = manifests(&[
        config_map("settings", &[("custom-http-errors", "503")]),
        host("own", "web", &[("custom-http-errors", "404,413,500"), own, ("proxy-body-size", "9")]),
        host("usual", "web", &[]),
        host(
            "left",
            "web",
            &[
                ("custom-http-errors", "404,413"),
                ("disable-proxy-intercept-errors", "true"),
                ("proxy-body-size", "9"),
                own,
            ],
        ),
        backend("web", 80, &[web.addr()]),
        backend("errors", 80, &[errors.addr()]),
        backend("last", 80, &[last.addr()]),
    ])
    .start()
    .await;
    for (client, mut connection) in lockgate.connections("own").await {
        for method in ["GET", "POST", "DELETE"] {
            let case = format!("{client}: {method}");
            let call = Call::new(method, "http://own.test/x/status/404?y=1");
            let call = call.header("accept", "text/html").header("x-code", "200");
            let call = if method == "POST" { call.body("body") } else { call };
            let reply = connection.send(call.header("x-request-id", "seven")).await.unwrap();
            let echo = reply.json();
            assert_eq!((reply.status, &echo["backend"]), (200, &"errors".into()), "{case}");
            assert_eq!((&echo["target"], &echo["method"]), (&"/?y=1".into(), &method.into()));
            assert_eq!((&echo["body_bytes"], &echo["body_error"]), (&0.into(), &Value::Null));
            for (name, expected) in [
                ("x-code", Some("404")),
                ("x-format", Some("text/html")),
                ("x-original-uri", Some("/x/status/404?y=1")),
                ("x-namespace", Some("demo")),
                ("x-ingress-name", Some("own")),
                ("x-service-name", Some("web")),
                ("x-service-port", Some("80")),
                ("x-request-id", Some("seven")),
                ("host", Some("own.test")),
                ("transfer-encoding", None),
            ] {
                assert_eq!(reply.told(name).as_deref(), expected, "{case}: {echo}");
            }
        }
        let head = connection.send(Call::new("HEAD", "http://own.test/status/500")).await.unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0), "{client}");
        // Other statuses pass.
        for (path, status, from) in
            [("/status/403", 403, "web"), ("/status/503", 503, "web"), ("/", 200, "web")]
        {
            let reply = connection.get(&format!("http://own.test{path}")).await.unwrap();
            let from = Some(from.to_owned());
            assert_eq!((reply.status, reply.backend()), (status, from), "{client} {path}");
        }
    }
    // Errors of ours, too.
    for (client, mut connection) in lockgate.connections("own").await {
        let reply = connection.send(Call::post("http://own.test/", "much too much")).await.unwrap();
        let code = reply.told("x-code");
        assert_eq!((reply.status, code.as_deref()), (200, Some("413")), "{client}");
    }
    for (client, mut connection) in lockgate.connections("left").await {
        let reply = connection.get("http://left.test/status/404").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (404, Some("web")), "{client}");
    }
    let mut plain = lockgate.client().connect("http://left.test/").await.unwrap();
    let reply = plain.send(Call::post("http://left.test/", "much too much")).await.unwrap();
    assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("errors")));

    for (client, mut connection) in lockgate.connections("usual").await {
        let reply = connection.get("http://usual.test/status/503").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("last")), "{client}");
        let reply = connection.get("http://usual.test/status/404").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (404, Some("web")), "{client}");
    }
    lockgate.no_problem().await;
}

/// The default backend's answer is the answer, and one that does not answer makes no other error.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_backend_has_the_last_word() {
    let (web, errors) = tokio::join!(Backend::start("web"), Backend::start("errors"));
    let gone = speaking("410 Gone\r\nX-Own: 1").await;
    let locked = speaking("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"").await;
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let own = ("default-backend", "errors");
    let lockgate = manifests(&[
        config_map("settings", &[]),
        host("gone", "web", &[("custom-http-errors", "404"), ("default-backend", "gone")]),
        host("dead", "web", &[("custom-http-errors", "404"), ("default-backend", "closed")]),
        host("cors", "web", &[("custom-http-errors", "404"), ("enable-cors", "true"), own]),
        host("locked", "locked", &[("custom-http-errors", "401"), own]),
        backend("web", 80, &[web.addr()]),
        backend("errors", 80, &[errors.addr()]),
        backend("gone", 80, &[gone.addr()]),
        backend("locked", 80, &[locked.addr()]),
        backend("closed", 80, &[closed]),
        backend("last", 80, &[errors.addr()]),
    ])
    .start()
    .await;
    for (client, mut connection) in lockgate.connections("gone").await {
        // What the default backend answers is the answer, whatever its status.
        let before = gone.requests().len();
        let reply = connection.get("http://gone.test/status/404").await.unwrap();
        assert_eq!((reply.status, reply.header("x-own")), (410, Some("1")), "{client}");
        assert_eq!(gone.requests().len(), before + 1, "{client}");
        // One that does not answer makes no other error.
        let reply = connection.get("http://dead.test/status/404").await.unwrap();
        assert_eq!((reply.status, reply.backend()), (404, None), "{client}");
        assert!(reply.text().contains("404 Not Found"), "{client}: {}", reply.text());
        let reply = connection.get("http://locked.test/").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("errors")), "{client}");
        assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"a\""), "{client}");
        let reply = connection.get("http://cors.test/status/404").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("errors")), "{client}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{client}");
    }
    lockgate.no_problem().await;
}

/// An answer that nobody gets costs the endpoint no connection.
#[tokio::test(flavor = "multi_thread")]
async fn connections_outlast_the_errors_on_them() {
    let body = "x".repeat(40_000);
    let answer = format!("HTTP/1.1 500 Oh\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let web = RawBackend::answering(Answer::keep(answer)).await;
    let errors = Backend::start("errors").await;
    let lockgate = manifests(&[
        config_map("settings", &[]),
        host("own", "web", &[("custom-http-errors", "500"), ("default-backend", "errors")]),
        backend("web", 80, &[web.addr()]),
        backend("errors", 80, &[errors.addr()]),
        backend("last", 80, &[errors.addr()]),
    ])
    .start()
    .await;
    let mut connection = lockgate.client().connect("http://own.test/").await.unwrap();
    for _ in 0..50 {
        let reply = connection.get("http://own.test/").await.unwrap();
        assert_eq!((reply.status, reply.backend().as_deref()), (200, Some("errors")));
    }
    assert_eq!(web.requests().len(), 50);
    // While the last answer is still being read the next request takes another.
    assert!(web.connections() < 10, "{} connections", web.connections());
    assert!(errors.connections() < 5, "{} connections", errors.connections());
}

/// While a Service has no endpoints the default backend gets the requests as they are.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_backend_stands_in_for_a_service_without_endpoints() {
    let (web, errors, last) =
        tokio::join!(Backend::start("web"), Backend::start("errors"), Backend::start("last"));
    let objects = |addrs: &[SocketAddr]| {
        [
            config_map("settings", &[]),
            host("own", "web", &[("default-backend", "errors")]),
            host("gone", "nope", &[("default-backend", "errors")]),
            host("errors", "web", &[("custom-http-errors", "503")]),
            host("none", "web", &[]),
            host("typo", "web", &[("default-backend", "nope")]),
            service("web", 80),
            if addrs.is_empty() { String::new() } else { backend("web", 80, addrs) },
            backend("errors", 80, &[errors.addr()]),
            backend("last", 80, &[last.addr()]),
        ]
    };
    let lockgate = manifests(&objects(&[])).start().await;
    for (client, mut connection) in lockgate.connections("own").await {
        for (name, of) in [("own", "web"), ("gone", "nope")] {
            let case = format!("{client}: {name}");
            let call = Call::post(&format!("http://{name}.test/x/status/418?y"), "hello");
            let reply = connection.send(call).await.unwrap();
            let echo = reply.json();
            assert_eq!((reply.status, &echo["backend"]), (418, &"errors".into()), "{case}");
            assert_eq!(
                (&echo["target"], &echo["body"]),
                (&"/x/status/418?y".into(), &"hello".into())
            );
            for (field, expected) in [
                ("x-code", Some("503")),
                ("x-service-name", Some(of)),
                ("x-ingress-name", Some(name)),
                ("x-namespace", Some("demo")),
                ("x-original-uri", None),
            ] {
                assert_eq!(reply.told(field).as_deref(), expected, "{case}: {echo}");
            }
        }
        for (name, status, from) in
            [("errors", 200, Some("last")), ("none", 503, None), ("typo", 503, None)]
        {
            let reply = connection.get(&format!("http://{name}.test/x")).await.unwrap();
            assert_eq!(
                (reply.status, reply.backend().as_deref()),
                (status, from),
                "{client}: {name}"
            );
        }
    }
    // It comes and goes with the endpoints.
    lockgate.edit(ingress_class() + &objects(&[web.addr()]).concat());
    eventually("the Service itself", SOON, async || {
        let reply = lockgate.client().get("http://own.test/").await.ok()?;
        (reply.backend().as_deref() == Some("web")).then_some(())
    })
    .await;
    let reply = lockgate.client().get("http://own.test/").await.unwrap();
    assert_eq!(reply.told("x-code"), None);
}

/// Cookies and redirects say where things are from outside; what endpoints are told of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_redirects_are_rewritten() {
    let own = speaking(
        "302 Found\r\nSet-Cookie: a=1; Domain=in.test; Path=/app/x\r\nSet-Cookie: b=2; Path=/\r\n\
         Location: http://in.test:8080/app/y\r\nRefresh: 5; url=http://in.test:8080/z",
    )
    .await;
    let lockgate = manifests(&[
        config_map("settings", &[("proxy-cookie-domain", "in.test out.test")]),
        host(
            "own",
            "own",
            &[
                ("proxy-cookie-path", "/app/ /"),
                ("proxy-redirect-from", "http://in.test:8080/"),
                ("proxy-redirect-to", "https://own.test/"),
                ("connection-proxy-header", "close"),
            ],
        ),
        host(
            "unset",
            "own",
            &[
                ("proxy-cookie-domain", "off"),
                ("proxy-redirect-from", "default"),
                ("proxy-redirect-to", "https://own.test/"),
            ],
        ),
        backend("own", 80, &[own.addr()]),
        backend("last", 80, &[own.addr()]),
    ])
    .start()
    .await;
    for (client, mut connection) in lockgate.connections("own").await {
        let reply = connection.get("http://own.test/").await.unwrap();
        let cookies = ["a=1; Domain=out.test; Path=/x", "b=2; Path=/"];
        assert_eq!(all(&reply, "set-cookie"), cookies, "{client}");
        assert_eq!(reply.header("location"), Some("https://own.test/app/y"), "{client}");
        assert_eq!(reply.header("refresh"), Some("5; url=https://own.test/z"), "{client}");
        let asked = own.requests().pop().unwrap();
        let asked = String::from_utf8(asked).unwrap().to_ascii_lowercase();
        assert!(asked.contains("\r\nconnection: close\r\n"), "{client}: {asked}");
        let reply = connection.get("http://unset.test/").await.unwrap();
        let cookies = ["a=1; Domain=in.test; Path=/app/x", "b=2; Path=/"];
        assert_eq!(all(&reply, "set-cookie"), cookies, "{client}");
        assert_eq!(reply.header("location"), Some("http://in.test:8080/app/y"), "{client}");
        let asked = own.requests().pop().unwrap();
        let asked = String::from_utf8(asked).unwrap().to_ascii_lowercase();
        assert!(!asked.contains("\r\nconnection:"), "{client}: {asked}");
    }
    lockgate.no_problem().await;
}

/// Requests that are to leave no line in the access log leave none, and all others do.
#[tokio::test(flavor = "multi_thread")]
async fn some_requests_leave_no_line() {
    let web = Backend::start("web").await;
    let lockgate = manifests(&[
        config_map(
            "settings",
            &[
                ("skip-access-log-urls", "/healthz,~^/quiet/"),
                ("enable-access-log-for-default-backend", "false"),
            ],
        ),
        host("own", "web", &[]),
        host("unlogged", "web", &[("enable-access-log", "false")]),
        backend("web", 80, &[web.addr()]),
        backend("last", 80, &[web.addr()]),
    ])
    .start()
    .await;
    for (client, mut connection) in lockgate.connections("own").await {
        for (host, path) in [
            ("unlogged", "/one"),
            ("own", "/healthz"),
            ("own", "/quiet/two"),
            ("unknown", "/three"),
            ("own", "/healthz?loud"),
            ("own", "/end"),
        ] {
            let reply = connection.get(&format!("http://{host}.test{path}")).await.unwrap();
            assert_eq!(reply.status, 200, "{client}: {host}{path}");
        }
    }
    eventually("the last line", SOON, async || lockgate.stdout().matches("GET /end ").count() == 2)
        .await;
    let log = lockgate.stdout();
    let lines = ["/one", "/healthz ", "/quiet", "/three", "/healthz?loud "].map(|it| {
        let path = format!("GET {it}");
        log.matches(&*path).count()
    });
    assert_eq!(lines, [0, 0, 0, 0, 2], "{log}");
}

/// A ConfigMap that only an Ingress names is read by its name, with the rights that are shipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_that_is_named_is_read_in_a_cluster() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let settings = json!({ "data": { "global-allowed-response-headers": "X-Price" } });
    cluster.patch_json("/api/v1/namespaces/lockgate/configmaps/lockgate", &settings).await;
    let objects = [
        host("own", "web", &[("custom-headers", "demo/priced")]),
        config_map("priced", &[("X-Price", "7")]),
        backend("web", 80, &[web.addr()]),
    ];
    cluster.apply(&objects.concat()).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    let reply = lockgate.answers("http://own.test/", 200).await;
    assert_eq!(reply.header("x-price"), Some("7"));
    lockgate.no_problem().await;
}
