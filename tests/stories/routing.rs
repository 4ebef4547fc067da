//! Regular expressions, rewrites, redirects and names of hosts, as the annotations of ingress-nginx
//! have them.

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client, Reply};
use crate::harness::lockgate::{
    Lockgate, Rules, backend, config_map, ingress_class, pair, rules, tls_secret,
};
use crate::harness::raw::Raw;

/// Two Services, and Ingresses whose annotations have the usual prefix.
struct House {
    lockgate: Lockgate,
    _backends: [Backend; 2],
}

impl House {
    async fn new(settings: &[(&str, &str)], ingresses: &[Rules<'_>]) -> Self {
        let [web, api] = [Backend::start("web").await, Backend::start("api").await];
        let mut yaml = ingress_class() + &rules(ingresses);
        yaml.push_str(&tls_secret("tls", &pair(&["a.test", "www.a.test", "covered.test"])));
        yaml.push_str(&backend("web", 80, &[web.addr()]));
        yaml.push_str(&backend("api", 80, &[api.addr()]));
        yaml.push_str(&config_map("settings", settings));
        let lockgate = Lockgate::with_manifests(yaml).args(["--configmap=demo/settings"]);
        Self { lockgate: lockgate.start().await, _backends: [web, api] }
    }

    /// The answers over plain HTTP/1.1, and over HTTP/2.
    async fn ask(&self, host_and_path: &str) -> [Reply; 2] {
        self.ask_with(host_and_path, &[]).await
    }

    async fn ask_with(&self, host_and_path: &str, fields: &[(&str, &str)]) -> [Reply; 2] {
        let ask = async |client: Client, scheme: &str| {
            let mut call = Call::get(&format!("{scheme}://{host_and_path}"));
            for (name, value) in fields {
                call = call.header(name, value);
            }
            client.request(call).await.unwrap_or_else(|error| panic!("{host_and_path}: {error}"))
        };
        let h1 = ask(self.lockgate.client(), "http").await;
        [h1, ask(self.lockgate.tls_client().http2(), "https").await]
    }

    /// Each request is answered alike over both, or leads to the same place but for the scheme.
    async fn expect(&self, cases: &[(&str, &str)]) {
        for (asked, expected) in cases {
            for (reply, scheme) in self.ask(asked).await.iter().zip(["http", "https"]) {
                let expected = expected.replace("SCHEME", scheme);
                assert_eq!(told(reply), expected, "{scheme} {asked}");
            }
        }
    }
}

/// `200 SERVICE TARGET`, `302 LOCATION`, or the status alone.
fn told(reply: &Reply) -> String {
    let echo = reply.json();
    match (reply.header("location"), echo["target"].as_str()) {
        (Some(location), _) => format!("{} {location}", reply.status),
        (None, Some(target)) => {
            format!("{} {} {target}", reply.status, echo["backend"].as_str().unwrap())
        }
        (None, None) => reply.status.to_string(),
    }
}

/// One rewrite makes all paths of its host expressions, whichever of the Ingresses is older.
#[tokio::test(flavor = "multi_thread")]
async fn one_rewrite_makes_every_path_of_its_host_an_expression() {
    let rewrite = [("rewrite-target", "/$2"), ("x-forwarded-prefix", "/api")];
    // Of two that are as old the later in the alphabet counts as older.
    for [plain, rewriting] in [["a", "b"], ["b", "a"]] {
        let house = House::new(
            &[],
            &[
                (plain, "a.test", &[("/", "web"), ("/Plain", "web"), ("=/exact", "web")], &[], ""),
                (rewriting, "a.test", &[("/api(/|$)(.*)", "api")], &rewrite, ""),
                ("c", "c.test", &[("/Plain", "web")], &[], ""),
            ],
        )
        .await;
        house
            .expect(&[
                ("a.test/api", "200 api /"),
                ("a.test/api/", "200 api /"),
                ("a.test/API/v1/x?y=1&z", "200 api /v1/x?y=1&z"),
                ("a.test/api/a%20b/%2F", "200 api /a%20b/%2F"),
                ("a.test/apis", "200 web /apis"),
                ("a.test/plainer", "200 web /plainer"),
                ("a.test/exact/not", "200 web /exact/not"),
                // What was not rewritten is as the client wrote it.
                ("a.test/x//%41?q", "200 web /x//%41?q"),
                // Another host is as it was.
                ("c.test/Plain", "200 web /Plain"),
                ("c.test/plain", "404"),
            ])
            .await;
        for reply in house.ask_with("a.test/api/x", &[("x-forwarded-prefix", "/evil")]).await {
            assert_eq!(reply.told("x-forwarded-prefix").as_deref(), Some("/api"));
        }
        for reply in house.ask_with("a.test/", &[("x-forwarded-prefix", "/evil")]).await {
            assert_eq!(reply.told("x-forwarded-prefix"), None);
        }
        house.lockgate.no_problem().await;
    }
}

/// What a group took cannot lead out of the target, however it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_cannot_be_escaped() {
    let house = House::new(
        &[],
        &[
            ("a", "a.test", &[("/api(.*)", "api")], &[("rewrite-target", "/in/$1")], ""),
            ("b", "b.test", &[("/api(.*)", "api")], &[("rewrite-target", "/in$1")], ""),
        ],
    )
    .await;
    house
        .expect(&[
            ("a.test/api/x", "200 api /in/x"),
            ("a.test/apix", "200 api /in/x"),
            // `/in/../admin` would be `/admin`.
            ("a.test/api../admin", "400"),
            ("a.test/api%2e%2e/admin", "400"),
            ("a.test/api.", "400"),
            ("a.test/api.x", "200 api /in/.x"),
            ("a.test/api..%2Fadmin", "400"),
            ("a.test/api..;/admin", "400"),
            ("a.test/api/../admin", "404"),
            ("b.test/api../admin", "200 api /in../admin"),
            ("b.test/api/%2e%2e/admin", "404"),
        ])
        .await;
}

/// Three teams on one host, one of which rewrites: nobody breaks what is another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_stands_beside_paths_that_are_passed_on() {
    let badge = [("rewrite-target", "/$1"), ("upstream-vhost", "badge.layers.test")];
    for [whole, part] in [["a", "b"], ["b", "a"]] {
        let house = House::new(
            &[],
            &[
                (whole, "layers.test", &[("/registry", "api"), ("/", "web")], &[], ""),
                (part, "layers.test", &[("/badge/(.*)", "api")], &badge, ""),
                ("c", "badge.layers.test", &[("/", "api")], &[], ""),
            ],
        )
        .await;
        house
            .expect(&[
                ("layers.test/registry/v2/x?y", "200 api /registry/v2/x?y"),
                ("layers.test/badge/img/x.svg?z=1", "200 api /img/x.svg?z=1"),
                ("layers.test/badges", "200 web /badges"),
                ("layers.test/", "200 web /"),
                ("badge.layers.test/img", "200 api /img"),
            ])
            .await;
        for reply in house.ask("layers.test/badge/x").await {
            assert_eq!(reply.told("host").as_deref(), Some("badge.layers.test"));
            assert_eq!(reply.told("x-forwarded-host").as_deref(), Some("layers.test"));
        }
        for reply in house.ask("layers.test/registry").await {
            assert_eq!(reply.told("host").as_deref(), Some("layers.test"));
        }
    }
}

/// A pattern is found from the left and not anchored at its end; the longest text is tried first.
#[tokio::test(flavor = "multi_thread")]
async fn expressions_are_tried_by_their_length() {
    let regex = [("use-regex", "true")];
    let house = House::new(
        &[],
        &[
            (
                "a",
                "a.test",
                &[("/id/[0-9]+", "api"), ("/id/[a-z0-9]+/x$", "web"), ("/id", "web")],
                &regex,
                "",
            ),
            ("b", "b.test", &[("/a/(?!b)(.*)", "api")], &regex, ""),
            ("c", "b.test", &[("/", "web")], &[], ""),
            ("d", "d.test", &[("/", "web")], &[("use-regex", "yes")], ""),
        ],
    )
    .await;
    house
        .expect(&[
            ("a.test/id/123a", "200 api /id/123a"),
            ("a.test/ID/1/x", "200 web /ID/1/x"),
            ("a.test/id/1/xy", "200 api /id/1/xy"),
            ("a.test/id/abc", "200 web /id/abc"),
            ("a.test/other", "404"),
            // What cannot be read closes what it might take; nobody else's paths.
            ("b.test/a/x", "503"),
            ("b.test/x", "200 web /x"),
            ("d.test/", "503"),
        ])
        .await;
    let told = house.lockgate.problem("BadPattern").await;
    assert!(told.contains("look-around") && told.contains("/a/(?!b)(.*)"), "{told}");
    let told = house.lockgate.problem("BadAnnotation").await;
    assert!(told.contains("use-regex"), "{told}");
}

/// Targets may be URLs, and hold variables and a query.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_may_be_a_url() {
    let house = House::new(
        &[],
        &[
            (
                "a",
                "a.test",
                &[("/old/(.*)", "web")],
                &[("rewrite-target", "https://b.test/$1")],
                "tls",
            ),
            ("c", "c.test", &[("/q/(.*)", "web")], &[("rewrite-target", "/s?id=$1&h=$host")], ""),
            ("d", "d.test", &[("/", "web")], &[("rewrite-target", "/a b")], ""),
        ],
    )
    .await;
    house
        .expect(&[
            // Before plain HTTP is sent to HTTPS, as in nginx.
            ("a.test/old/x?y=1", "302 https://b.test/x?y=1"),
            ("c.test/q/1?x=2", "200 web /s?id=1&h=c.test&x=2"),
            ("d.test/", "503"),
        ])
        .await;
}

/// Redirects come before HTTPS; a path becomes a URL of the host.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_go_where_they_say() {
    let root = [("/", "web")];
    let house = House::new(
        &[],
        &[
            ("a", "a.test", &root, &[("permanent-redirect", "https://x.test$request_uri")], "tls"),
            (
                "b",
                "b.test",
                &root,
                &[
                    ("permanent-redirect", "https://x.test"),
                    ("temporal-redirect", "/new?$args"),
                    ("temporal-redirect-code", "307"),
                ],
                "",
            ),
            (
                "c",
                "c.test",
                &root,
                &[
                    ("permanent-redirect", "/new"),
                    ("permanent-redirect-code", "308"),
                    ("relative-redirects", "true"),
                ],
                "",
            ),
            (
                "d",
                "d.test",
                &root,
                &[("permanent-redirect", "/d"), ("permanent-redirect-code", "200")],
                "",
            ),
            ("e", "e.test", &root, &[("permanent-redirect", "gopher://x.test")], ""),
            (
                "j",
                "j.test",
                &root,
                &[("permanent-redirect", "/j"), ("permanent-redirect-code", "304")],
                "",
            ),
            ("f", "f.test", &[("/a/", "web")], &[("relative-redirects", "true")], ""),
            ("g", "g.test", &[("/a/", "web")], &[], ""),
            ("h", "h.test", &root, &[("app-root", "/app"), ("force-ssl-redirect", "true")], ""),
            ("i", "i.test", &root, &[("app-root", "https://x.test/")], ""),
        ],
    )
    .await;
    house
        .expect(&[
            ("a.test/x?y=1", "301 https://x.test/x?y=1"),
            ("b.test/x?y=1", "307 SCHEME://b.test/new?y=1"),
            ("c.test/x", "308 /new"),
            ("d.test/x", "301 SCHEME://d.test/d"),
            ("j.test/x", "304 SCHEME://j.test/j"),
            // What is not understood redirects nobody.
            ("e.test/x", "200 web /x"),
            ("f.test/a?x", "301 /a/?x"),
            ("g.test/a?x", "301 SCHEME://g.test/a/?x"),
            // Nothing comes before app-root, and it is for `/` alone.
            ("h.test/", "302 SCHEME://h.test/app"),
            ("i.test/", "200 web /"),
        ])
        .await;
    let [plain, _] = house.ask("h.test/x").await;
    assert_eq!(told(&plain), "308 https://h.test/x");
    let mut raw = Raw::plain(house.lockgate.http).await;
    let reply = raw.exchange("GET / HTTP/1.1\r\nHost: h.test:8080\r\n\r\n").await;
    assert_eq!(reply.headers("location"), ["http://h.test:8080/app"]);
}

/// A slash at the end is kept where that is asked for, and everywhere by a setting.
#[tokio::test(flavor = "multi_thread")]
async fn redirects_to_https_drop_one_slash() {
    let root = [("/", "web")];
    let ingresses: [Rules<'_>; 2] = [
        ("a", "a.test", &root, &[], "tls"),
        ("b", "b.test", &root, &[("preserve-trailing-slash", "true")], "tls"),
    ];
    for (settings, expected) in [
        (&[][..], ["308 https://a.test/x", "308 https://b.test/x/"]),
        (
            &[("preserve-trailing-slash", "true")],
            ["308 https://a.test/x/", "308 https://b.test/x/"],
        ),
    ] {
        let house = House::new(settings, &ingresses).await;
        for (host, expected) in ["a.test", "b.test"].into_iter().zip(expected) {
            let [plain, _] = house.ask(&format!("{host}/x/")).await;
            assert_eq!(told(&plain), expected);
        }
    }
}

/// The name with `www.`, or without, leads to the other, unless it has rules of its own.
#[tokio::test(flavor = "multi_thread")]
async fn www_and_the_bare_name_lead_to_one() {
    let (root, www) = ([("/", "web")], [("from-to-www-redirect", "true")]);
    let house = House::new(
        &[("http-redirect-code", "301")],
        &[
            ("a", "a.test", &root, &www, "tls"),
            ("b", "www.b.test", &root, &www, ""),
            ("c", "c.test", &root, &www, ""),
            ("d", "www.c.test", &[("/", "api")], &[], ""),
            ("e", "*.a.test", &[("/", "api")], &[], ""),
        ],
    )
    .await;
    // As the world sees them.
    let ports = [80, 443];
    for (asked, to) in [("www.a.test/x/?y=1", "a.test"), ("b.test/x/?y=1", "www.b.test")] {
        let replies = house.ask(asked).await;
        for ((reply, scheme), port) in replies.iter().zip(["http", "https"]).zip(ports) {
            let expected = format!("301 {scheme}://{to}:{port}/x/?y=1");
            assert_eq!(told(reply), expected, "{asked}");
        }
    }
    let [plain, _] = house.ask("b.test/x/").await;
    assert_eq!(told(&plain), "301 http://www.b.test:80/x");
    house.expect(&[("www.c.test/x", "200 api /x"), ("x.a.test/x", "200 api /x")]).await;

    let mut connection = house.lockgate.tls_client().connect("https://www.a.test/").await.unwrap();
    connection.get("https://www.a.test/").await.unwrap();
    assert!(connection.names().contains(&"www.a.test".to_owned()));
}

/// More names of a host lead to all of its paths, with its certificate where that is for them.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_a_name_like_the_host_itself() {
    let aliases = r"covered.test, bare.test, taken.test, *.wild.test, ~^w[0-9]\.test$";
    let house = House::new(
        &[],
        &[
            ("a", "a.test", &[("/", "web")], &[("server-alias", aliases)], "tls"),
            ("b", "a.test", &[("/api", "api")], &[], ""),
            ("c", "taken.test", &[("/", "api")], &[], ""),
        ],
    )
    .await;
    for (host, redirected, certified) in [
        ("a.test", true, true),
        ("covered.test", true, true),
        // Without a certificate for it nobody is sent to HTTPS.
        ("bare.test", false, false),
        ("x.wild.test", false, false),
        ("w7.test", false, false),
    ] {
        let [plain, secure] = house.ask(&format!("{host}/api/x")).await;
        assert_eq!(told(&secure), "200 api /api/x", "{host}");
        let expected = if redirected {
            format!("308 https://{host}/api/x")
        } else {
            "200 api /api/x".to_owned()
        };
        assert_eq!(told(&plain), expected, "{host}");
        let url = format!("https://{host}/");
        let mut connection = house.lockgate.tls_client().connect(&url).await.unwrap();
        assert_eq!(connection.get(&url).await.unwrap().backend().as_deref(), Some("web"));
        let shown = connection.names().contains(&"a.test".to_owned());
        assert_eq!(shown, certified, "{host}");
    }
    house.expect(&[("taken.test/x", "200 api /x"), ("wild.test/", "404")]).await;
    assert!(house.lockgate.problem("HostTaken").await.contains("taken.test"));
}

/// Endpoints see the host that `upstream-vhost` says; what the client asked for stays readable.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_see_another_host() {
    let root = [("/", "web")];
    let house = House::new(
        &[],
        &[
            ("a", "a.test", &root, &[("upstream-vhost", "inner.test:8080")], ""),
            ("b", "b.test", &root, &[("upstream-vhost", "$http_x_tenant.$namespace.svc")], ""),
            ("c", "c.test", &root, &[("upstream-vhost", "not a host")], ""),
        ],
    )
    .await;
    for (host, tenant, expected) in [
        ("a.test", "x", Some("inner.test:8080")),
        ("b.test", "one", Some("one.demo.svc")),
        ("b.test", "a/b", None),
        ("b.test", "", None),
        ("c.test", "x", Some("c.test")),
    ] {
        for reply in house.ask_with(&format!("{host}/"), &[("x-tenant", tenant)]).await {
            assert_eq!(reply.status, if expected.is_some() { 200 } else { 400 }, "{host}");
            assert_eq!(reply.told("host").as_deref(), expected, "{host} {tenant}");
            if expected.is_some() {
                assert_eq!(reply.told("x-forwarded-host").as_deref(), Some(host));
            }
        }
    }
    let mut raw = Raw::plain(house.lockgate.http).await;
    let reply = raw.exchange("GET http://a.test/ HTTP/1.0\r\n\r\n").await;
    assert!(reply.text().contains("inner.test:8080"), "{}", reply.text());
}
