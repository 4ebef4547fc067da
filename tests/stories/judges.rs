//! External judges, such as oauth2-proxy: what they are asked, what comes of what they say, and for how long
//! it is remembered. Each over HTTP/1.1 and HTTP/2.

use super::access::{HERE, clients, from, get, guarded, seen, serving};
use crate::harness::backend::Backend;
use crate::harness::client::{Call, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::endpoint::{Authority, Speech};
use crate::harness::judge::{Judge, Question};
use crate::harness::lockgate::{Lockgate, backend, config_map, ingress, ingress_class};
use crate::harness::process::{SOON, eventually, free_port};
use crate::harness::raw::{Raw, RawH2};

/// The cookies that a judge renews.
const RENEWED: [&str; 2] = ["session=new; Path=/", "other=1"];

/// The judge is asked what ingress-nginx asks, and nothing that a client made up.
#[tokio::test(flavor = "multi_thread")]
async fn a_judge_is_asked_as_ingress_nginx_asks() {
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let url = judge.url("/oauth2/auth?for=$host");
    let objects = [
        config_map(
            "headers",
            &[("X-Team", "shop"), ("X-Method", "$request_method"), ("X-Spoofed", "$http_none")],
        ),
        guarded("one", "/", &[("auth-url", &url)]),
        guarded(
            "two",
            "/two",
            &[
                ("auth-url", &url),
                ("auth-method", "POST"),
                ("auth-request-redirect", "https://a.test/back"),
                ("auth-proxy-set-headers", "headers"),
            ],
        ),
    ];
    let lockgate = serving(&objects.concat(), &web).await;
    for (version, client) in clients(&lockgate) {
        let fields = [
            ("cookie", "session=ann"),
            ("accept", "text/html"),
            ("x-request-id", "0123"),
            ("x-spoofed", "1"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-original-url", "http://elsewhere/"),
            ("x-original-uri", "/elsewhere"),
            ("x-auth-request-redirect", "http://elsewhere/"),
            ("te", "trailers"),
        ];
        let call =
            fields.iter().fold(Call::post("http://a.test/a%20b?c=d&e", "hello"), |call, it| {
                call.header(it.0, it.1)
            });
        let reply = client.request(call.clone()).await.unwrap();
        assert_eq!(reply.status, 200, "{version}");
        assert_eq!(reply.json()["body"], "hello", "{version}: the body is the backend's");
        let question = judge.question();
        let asked = |question: &Question, expected: &[(&str, &str)]| {
            for (name, expected) in expected {
                assert_eq!(question.field(name), *expected, "{version}: {name}: {question:?}");
            }
        };
        assert_eq!(question.method, "GET", "{version}");
        assert_eq!(question.target, "/oauth2/auth?for=a.test", "{version}");
        let common = [
            ("host", judge.addr().to_string()),
            ("cookie", "session=ann".to_owned()),
            ("accept", "text/html".to_owned()),
            ("x-original-method", "POST".to_owned()),
            ("x-sent-from", "nginx-ingress-controller".to_owned()),
            ("x-real-ip", "127.0.0.1".to_owned()),
            ("x-forwarded-for", "127.0.0.1".to_owned()),
            ("x-request-id", "0123".to_owned()),
            ("x-forwarded-proto", String::new()),
            ("content-length", String::new()),
            ("transfer-encoding", String::new()),
            ("upgrade", String::new()),
        ];
        let common: Vec<(&str, &str)> = common.iter().map(|(name, it)| (*name, &**it)).collect();
        asked(&question, &common);
        asked(
            &question,
            &[
                ("x-original-url", "http://a.test/a%20b?c=d&e"),
                ("x-auth-request-redirect", "/a%20b?c=d&e"),
                ("x-original-uri", ""),
                ("x-spoofed", "1"),
            ],
        );
        assert_eq!(question.body, 0, "{version}");

        let call = fields
            .iter()
            .fold(Call::get("http://a.test/two?x"), |call, (name, value)| call.header(name, value));
        assert_eq!(client.request(call).await.unwrap().status, 200, "{version}");
        let question = judge.question();
        assert_eq!((&*question.method, question.body), ("POST", 0), "{version}");
        asked(
            &question,
            &[
                ("x-original-uri", "/two?x"),
                ("x-scheme", "http"),
                ("x-original-method", "GET"),
                ("x-auth-request-redirect", "https://a.test/back"),
                ("x-team", "shop"),
                ("x-method", "GET"),
                ("x-spoofed", ""),
            ],
        );
    }
    // It decides on what the backend would get.
    for (path, expected) in [("/x/../two/%2e%2e/y", "/y"), ("/x//y?z", "/x//y?z")] {
        assert_eq!(from(&lockgate, HERE, path, "Cookie: session=ann\r\n").await.status, Some(200));
        let url = format!("http://a.test{expected}");
        assert_eq!(judge.question().field("x-original-url"), url, "{path}");
    }
    assert!(judge.connections() <= 4, "{} for 4 questions of 2 workers", judge.connections());
}

/// As oauth2-proxy is set up: who it is goes to the backend, in place of what clients say; whoever is not
/// known is sent to sign in, with the way back; cookies it renews reach the client.
#[tokio::test(flavor = "multi_thread")]
async fn oauth2_proxy_works_as_it_is() {
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let (url, renewing) = (judge.url("/oauth2/auth"), judge.url("/oauth2/auth?renew"));
    let headers =
        ("auth-response-headers", "X-Auth-Request-User,X-Auth-Request-Email,Authorization");
    let signin = ("auth-signin", "https://auth.test/start");
    let objects = [
        guarded("one", "/", &[("auth-url", &url), signin, headers]),
        guarded("renewing", "/renewing", &[("auth-url", &renewing), signin]),
        guarded(
            "always",
            "/always",
            &[("auth-url", &renewing), ("auth-always-set-cookie", "true")],
        ),
        guarded(
            "param",
            "/param",
            &[
                ("auth-url", &url),
                ("auth-signin", "https://$host/start?a=b"),
                ("auth-signin-redirect-param", "back"),
            ],
        ),
        guarded(
            "own",
            "/own",
            &[
                ("auth-url", &url),
                ("auth-signin", "https://auth.test/start?rd=$escaped_request_uri"),
            ],
        ),
        guarded("bare", "/bare", &[("auth-url", &url)]),
    ];
    let lockgate = serving(&objects.concat(), &web).await;
    let cookies = |reply: &Reply| {
        let all = reply.headers.get_all("set-cookie").iter();
        all.map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (version, client) in clients(&lockgate) {
        let spoofed = [("x-auth-request-user", "root"), ("authorization", "Bearer mine")];
        let known = ("cookie", "session=ann");
        let reply = get(&client, "/", &[known, spoofed[0], spoofed[1]]).await;
        assert_eq!(reply.status, 200, "{version}");
        for (name, expected) in [
            ("x-auth-request-user", "ann"),
            ("x-auth-request-email", "ann@a.test"),
            ("authorization", "Bearer of-the-judge"),
            ("cookie", "session=ann"),
        ] {
            assert_eq!(seen(&reply, name), expected, "{version}: {name}");
        }
        for (path, location) in [
            ("/?a=b&c=d", "https://auth.test/start?rd=http://a.test%2F%3Fa%3Db%26c%3Dd"),
            ("/param", "https://a.test/start?a=b&back=http://a.test%2Fparam"),
            ("/own/x", "https://auth.test/start?rd=%2Fown%2Fx"),
        ] {
            let reply = get(&client, path, &[]).await;
            assert_eq!(reply.status, 302, "{version} {path}");
            assert_eq!(reply.header("location"), Some(location), "{version} {path}");
        }
        let reply = get(&client, "/bare", &[]).await;
        assert_eq!(reply.status, 401, "{version}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"judge\""), "{version}");
        for (path, fields, status, expected) in [
            ("/renewing", &[known][..], 200, &RENEWED[..]),
            ("/renewing/status/404", &[known], 404, &[]),
            ("/renewing", &[], 302, &RENEWED),
            ("/always/status/503", &[known], 503, &RENEWED),
            ("/always", &[], 401, &RENEWED),
            ("/", &[known], 200, &[]),
        ] {
            let reply = get(&client, path, fields).await;
            assert_eq!(reply.status, status, "{version} {path}");
            assert_eq!(cookies(&reply), expected, "{version} {path}");
        }
    }
}

/// The backend for errors hears the judge's word, too, and never the client's.
#[tokio::test(flavor = "multi_thread")]
async fn the_backend_for_errors_hears_the_judge() {
    let (web, errors) = (Backend::start("web").await, Backend::start("errors").await);
    let judge = Judge::start().await;
    let url = judge.url("/oauth2/auth");
    let annotations = [
        ("auth-url", &*url),
        ("auth-response-headers", "X-Name"),
        ("custom-http-errors", "503"),
        ("default-backend", "errors"),
    ];
    let objects = guarded("one", "/", &annotations) + &backend("errors", 80, &[errors.addr()]);
    let lockgate = serving(&objects, &web).await;
    for (version, client) in clients(&lockgate) {
        for (path, answering) in [("/", "web"), ("/status/503", "errors")] {
            let reply = get(&client, path, &[("cookie", "session=ann"), ("x-name", "root")]).await;
            assert_eq!(reply.backend().as_deref(), Some(answering), "{version} {path}");
            assert_eq!(seen(&reply, "x-name"), "ann", "{version} {path}");
        }
    }
}

/// Yes, no, or nothing: what is no judgement is 500, and no judge at all is no way in.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_judgement_lets_nobody_pass() {
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let gone = format!("http://127.0.0.1:{}/", free_port());
    let mut objects = String::new();
    let mut cases = Vec::new();
    for (name, url, expected) in [
        ("c200", judge.url("/status/200"), 200),
        ("c204", judge.url("/status/204"), 200),
        ("c299", judge.url("/status/299"), 200),
        ("c302", judge.url("/status/302"), 500),
        ("c304", judge.url("/status/304"), 500),
        ("c400", judge.url("/status/400"), 500),
        ("c401", judge.url("/status/401"), 401),
        ("c403", judge.url("/status/403"), 403),
        ("c404", judge.url("/status/404"), 500),
        ("c500", judge.url("/status/500"), 500),
        ("c503", judge.url("/status/503"), 500),
        ("chatty", judge.url("/chatty"), 401),
        ("gone", gone, 500),
        ("unknown", "http://judge.invalid/".to_owned(), 500),
        ("tls", format!("https://{}/", judge.addr()), 500),
        ("bad", "http://au..th/".to_owned(), 503),
        ("relative", "/oauth2/auth".to_owned(), 503),
        ("variable", "http://$nobody/".to_owned(), 503),
    ] {
        objects += &guarded(name, &format!("/{name}"), &[("auth-url", &url)]);
        cases.push((format!("/{name}"), expected));
    }
    let missing = [("auth-url", &*judge.url("/status/200")), ("auth-proxy-set-headers", "nowhere")];
    objects += &guarded("missing", "/missing", &missing);
    cases.push(("/missing".to_owned(), 503));
    let lockgate = serving(&objects, &web).await;
    for (version, client) in clients(&lockgate) {
        for (path, expected) in &cases {
            let passed = web.requests();
            let reply = get(&client, path, &[]).await;
            assert_eq!(reply.status, *expected, "{version} {path}");
            let asked = usize::from(*expected == 200);
            assert_eq!(web.requests() - passed, asked, "{version} {path}: the backend");
            assert!(!reply.text().contains("what the judge says"), "{version} {path}");
        }
    }
    let log = lockgate.stderr();
    let told = log.lines().filter(|it| it.contains("is answered 500")).count();
    assert!((1..20).contains(&told), "{log}");
}

/// A judge that is ourselves is asked a few times, not for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_judges_ends() {
    let web = Backend::start("web").await;
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let named = [("nginx.ingress.kubernetes.io/auth-url", &*url)];
    let objects = [
        ingress_class(),
        ingress("any", "", &[("/", "Prefix", "web", 80)], &named),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).http_port(port).start().await;
    for (version, client) in clients(&lockgate) {
        assert_eq!(get(&client, "/", &[]).await.status, 500, "{version}");
    }
    assert_eq!(web.requests(), 0);
    eventually("the lines", SOON, async || {
        let lines = lockgate.stdout().lines().count();
        (4..=14).contains(&lines).then_some(()).ok_or(lines)
    })
    .await;
}

/// A WebSocket is judged before it is one, over either version; a judge may be asked over TLS, by its name.
#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_judged_and_judges_speak_tls() {
    let web = Backend::start("web").await;
    let pair = Authority::new("nobody knows it").issue("judge.test");
    let judge = Judge::speaking(Speech::h1().tls(&pair)).await;
    let url = format!("https://{}/oauth2/auth", judge.addr());
    let lockgate = serving(&guarded("one", "/", &[("auth-url", &url)]), &web).await;
    for (version, client) in clients(&lockgate) {
        assert_eq!(get(&client, "/", &[("cookie", "session=ann")]).await.status, 200, "{version}");
        assert_eq!(get(&client, "/", &[]).await.status, 401, "{version}");
    }
    judge.questions();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let refused = from(&lockgate, HERE, "/ws", upgrade).await;
    assert_eq!(refused.status, Some(401));
    let question = judge.question();
    assert_eq!((question.field("upgrade"), question.field("connection")), Default::default());
    let mut h2 = RawH2::start(Raw::plain(lockgate.http).await).await;
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/ws"),
        ("sec-websocket-version", "13"),
    ];
    h2.headers(1, &connect, false).await;
    assert_eq!(h2.reply(1).await.status, Some(401));
    assert_eq!(judge.question().field("x-original-method"), "GET");
    let known = format!("{upgrade}Cookie: session=ann\r\n");
    assert_eq!(from(&lockgate, HERE, "/ws", &known).await.status, Some(101));
}

/// Answers are remembered for a host and path, as the judge allows; a verdict of one path is none of another.
#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_remembered_by_their_key() {
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let (url, renewing) = (judge.url("/oauth2/auth"), judge.url("/oauth2/auth?renew"));
    let key = ("auth-cache-key", "$cookie_session");
    let objects = [
        guarded(
            "one",
            "/one",
            &[("auth-url", &url), key, ("auth-response-headers", "X-Auth-Request-User")],
        ),
        guarded("two", "/two", &[("auth-url", &url), key]),
        guarded("brief", "/brief", &[("auth-url", &url), key, ("auth-cache-duration", "202 1ms")]),
        guarded("renewing", "/renewing", &[("auth-url", &renewing), key]),
        guarded("none", "/none", &[("auth-url", &url)]),
    ];
    let objects = objects.concat();
    let lockgate = serving(&objects, &web).await;
    for (path, cookie, status, asked) in [
        ("/one", "session=ann", 200, 1),
        ("/one", "session=ann", 200, 0),
        ("/one/more", "session=ann", 200, 0),
        ("/one", "session=bob", 200, 1),
        ("/one", "session=bob", 200, 0),
        ("/two", "session=ann", 200, 1),
        ("/one", "", 401, 1),
        ("/one", "", 401, 0),
        // What sets a cookie is for one client only.
        ("/renewing", "session=ann", 200, 1),
        ("/renewing", "session=ann", 200, 1),
        ("/none", "session=ann", 200, 1),
        ("/none", "session=ann", 200, 1),
    ] {
        let client = lockgate.client();
        let fields = [("cookie", cookie), ("x-auth-request-user", "root")];
        let fields = if cookie.is_empty() { &fields[1..] } else { &fields };
        let reply = get(&client, path, fields).await;
        assert_eq!((reply.status, judge.questions().len()), (status, asked), "{path} {cookie}");
        if status == 200 && path.starts_with("/one") {
            assert_eq!(seen(&reply, "x-auth-request-user"), cookie[8..], "{path} {cookie}");
        }
    }
    // Time passes.
    let client = lockgate.client();
    get(&client, "/brief", &[("cookie", "session=ann")]).await;
    eventually("it is asked again", SOON, async || {
        get(&client, "/brief", &[("cookie", "session=ann")]).await;
        judge.questions().len() == 1
    })
    .await;
    // With the judge gone what is remembered holds, and survives a change of something else.
    drop(judge);
    lockgate.edit(
        [
            &ingress_class(),
            &*objects,
            &guarded("new", "/new", &[]),
            &backend("web", 80, &[web.addr()]),
        ]
        .concat(),
    );
    eventually("the change", SOON, async || get(&client, "/new", &[]).await.status == 200).await;
    assert_eq!(get(&client, "/one", &[("cookie", "session=ann")]).await.status, 200);
    assert_eq!(get(&client, "/one", &[("cookie", "session=cid")]).await.status, 500);
    // Another judge has not said so.
    let other = Judge::start().await;
    let others = objects.replace(&url, &other.url("/status/403"));
    lockgate.edit([&ingress_class(), &*others, &backend("web", 80, &[web.addr()])].concat());
    eventually("the other judge", SOON, async || {
        get(&client, "/one", &[("cookie", "session=ann")]).await.status == 403
    })
    .await;
}

/// Whoever may write an Ingress is not to reach what listens on loopback beside us, such as our admin port: not
/// as a judge, by whichever name, nor as a mirror.
#[tokio::test(flavor = "multi_thread")]
async fn a_clusters_judge_is_never_this_machine() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let (near, far) = (Judge::start().await, Judge::outside().await);
    let (near_port, far_url) = (near.addr().port(), far.url("/oauth2/auth"));
    let hosts = ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "127.1", "$arg_host"];
    let url = |host: &str| format!("http://{host}:{near_port}/oauth2/auth");
    let mirror = format!("http://127.0.0.1:{near_port}$request_uri");
    let mut objects = vec![
        backend("web", 80, &[web.addr()]),
        guarded("far", "/far", &[("auth-url", &far_url), ("mirror-target", &mirror)]),
    ];
    for (number, host) in hosts.iter().enumerate() {
        let (name, path) = (format!("near-{number}"), format!("/{number}"));
        objects.push(guarded(&name, &path, &[("auth-url", &url(host))]));
    }
    cluster.apply(&objects.concat()).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    let known = ("cookie", "session=ann");
    for (version, client) in clients(&lockgate) {
        eventually("the judge elsewhere", SOON, async || {
            get(&client, "/far", &[known]).await.status == 200
        })
        .await;
        for (number, host) in hosts.iter().enumerate() {
            let path = format!("/{number}?host=127.0.0.1");
            let reply = get(&client, &path, &[known]).await;
            assert_eq!(reply.status, 500, "{version} {host}");
        }
    }
    assert!(!far.questions().is_empty());
    assert_eq!(near.connections(), 0, "{:?}", near.questions());
    for (ingress, part) in
        [("near-0", "auth-url: 127.0.0.1 is this machine"), ("far", "mirror-target")]
    {
        eventually(&format!("a problem of {ingress}"), SOON, async || {
            let found =
                cluster.kubectl(&["describe", "ingress", ingress, "--namespace=demo"]).await;
            found.as_ref().is_ok_and(|it| it.contains(part))
        })
        .await;
    }
    // Files may name it.
    let files = serving(&objects[1..].concat(), &web).await;
    for path in ["/far", "/0", "/1", "/2", "/4?host=127.0.0.1"] {
        assert_eq!(get(&files.client(), path, &[known]).await.status, 200, "{path}");
    }
}
