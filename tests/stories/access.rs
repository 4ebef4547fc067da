//! Who may ask: networks, passwords, and what the ConfigMap says for all.
//!
//! Each over HTTP/1.1 and HTTP/2; what nginx itself answers to the same requests stands beside it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::judge::Judge;
use crate::harness::lockgate::{Lockgate, backend, config_map, ingress, ingress_class, secret};
use crate::harness::nginx::Nginx;
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::{Raw, RawReply};

/// `ann:secret`, `ann:wrong` and `bob:secret`.
const ANN: &str = "Basic YW5uOnNlY3JldA==";
const WRONG: &str = "Basic YW5uOndyb25n";
const BOB: &str = "Basic Ym9iOnNlY3JldA==";
const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
/// This machine, and somebody beside it.
pub(super) const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

const BASIC: [(&str, &str); 3] =
    [("auth-type", "basic"), ("auth-secret", "passwords"), ("auth-realm", "Staff")];

/// An Ingress for a path of `a.test`, with annotations of ingress-nginx.
pub(super) fn guarded(name: &str, path: &str, annotations: &[(&str, &str)]) -> String {
    ingress(name, "a.test", &[(path, "Prefix", "web", 80)], annotations)
}

fn passwords() -> String {
    secret(
        "passwords",
        &[("auth", &format!("ann:{BCRYPT}\nbob:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"))],
    )
}

/// The product in front of `web`.
pub(super) async fn serving(objects: &str, web: &Backend) -> Lockgate {
    let objects = [&ingress_class(), objects, &backend("web", 80, &[web.addr()])].concat();
    let lockgate = Lockgate::with_manifests(objects);
    lockgate.args(["--configmap=demo/settings"]).start().await
}

/// Clients of either version.
pub(super) fn clients(lockgate: &Lockgate) -> [(&'static str, Client); 2] {
    [("HTTP/1.1", lockgate.client()), ("HTTP/2", lockgate.client().http2())]
}

pub(super) async fn get(client: &Client, path: &str, fields: &[(&str, &str)]) -> Reply {
    let call = Call::get(&format!("http://a.test{path}"));
    let call = fields.iter().fold(call, |call, (name, value)| call.header(name, value));
    client.request(call).await.unwrap()
}

/// What the backend was asked with in a field, in one line; empty for none.
pub(super) fn seen(reply: &Reply, name: &str) -> String {
    let echo = reply.json();
    let fields = echo["headers"].as_array().unwrap_or_else(|| panic!("no echo: {}", reply.text()));
    let values = fields.iter().filter(|it| it[0] == name).map(|it| it[1].as_str().unwrap());
    values.collect::<Vec<_>>().join(" | ")
}

pub(super) async fn from(
    lockgate: &Lockgate,
    address: [u8; 4],
    path: &str,
    lines: &str,
) -> RawReply {
    let mut raw = Raw::plain_from(address, lockgate.http).await;
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
    raw.reply().await
}

/// An Ingress's lists stand in place of the ConfigMap's; deny goes before allow; what cannot be read closes
/// the paths; each Ingress speaks for its own paths, however old.
#[tokio::test(flavor = "multi_thread")]
async fn lists_let_pass_and_keep_out() {
    let web = Backend::start("web").await;
    let lists = [
        ("usual", "/", &[][..]),
        ("here", "/here", &[("allowlist-source-range", "127.0.0.1")]),
        ("older", "/older", &[("whitelist-source-range", "127.0.0.1/32, ::1")]),
        (
            "deny",
            "/deny",
            &[("denylist-source-range", "127.0.0.1"), ("allowlist-source-range", "127.0.0.0/8")],
        ),
        ("bad", "/bad", &[("allowlist-source-range", "127.0.0.1/33")]),
    ];
    for reversed in [false, true] {
        let mut age = if reversed { 10 } else { 50 };
        let objects = lists.map(|(name, path, annotations)| {
            age = if reversed { age + 1 } else { age - 1 };
            let created = format!("  creationTimestamp: 2024-01-01T00:00:{age}Z\n  name: {name}\n");
            guarded(name, path, annotations).replace(&format!("  name: {name}\n"), &created)
        });
        let settings = config_map(
            "settings",
            &[
                ("whitelist-source-range", "127.0.0.2,203.0.113.0/24"),
                ("use-forwarded-headers", "true"),
                ("proxy-real-ip-cidr", "127.0.0.0/8"),
            ],
        );
        let lockgate = serving(&(settings + &objects.concat()), &web).await;
        for (address, client, path, expected) in [
            (HERE, "", "/", 403),
            (THERE, "", "/", 200),
            (HERE, "203.0.113.9", "/", 200),
            (THERE, "192.0.2.9", "/", 403),
            (HERE, "", "/here", 200),
            (THERE, "", "/here", 403),
            (HERE, "", "/older", 200),
            (THERE, "", "/older/x", 403),
            (HERE, "", "/deny", 403),
            (THERE, "", "/deny", 200),
            (HERE, "", "/bad", 503),
            (THERE, "", "/bad", 503),
            // The one form of a path decides.
            (THERE, "", "/deny/../here", 403),
            (THERE, "", "/%68ere", 403),
        ] {
            let line = format!("X-Forwarded-For: {client}\r\n");
            let line = if client.is_empty() { "" } else { &line };
            let reply = from(&lockgate, address, path, line).await;
            assert_eq!(reply.status, Some(expected), "{address:?} for {client:?}: {path}");
        }
        for (version, client) in clients(&lockgate) {
            assert_eq!(get(&client, "/here", &[]).await.status, 200, "{version}");
            let reply = get(&client, "/deny", &[]).await;
            assert_eq!(reply.status, 403, "{version}");
            assert!(reply.text().contains("403 Forbidden"), "{version}");
        }
    }
}

/// Whoever knows a password is let in and the backend learns only that; nobody else is. The log says who.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in() {
    let web = Backend::start("web").await;
    let map = secret("map", &[("ann", BCRYPT), ("bob", "{PLAIN}secret\n")]);
    let by_map =
        [("auth-type", "basic"), ("auth-secret", "demo/map"), ("auth-secret-type", "auth-map")];
    let objects = [
        passwords(),
        map,
        guarded("file", "/", &BASIC),
        guarded("map", "/map", &by_map),
        guarded("gone", "/gone", &[("auth-type", "basic"), ("auth-secret", "nowhere")]),
        guarded("digest", "/digest", &[("auth-type", "digest"), ("auth-secret", "passwords")]),
        guarded("open", "/open", &[]),
    ];
    let objects = objects.concat();
    let lockgate = serving(&objects, &web).await;
    for (version, client) in clients(&lockgate) {
        for (path, authorization, expected) in [
            ("/", "", 401),
            ("/", ANN, 200),
            ("/", ANN, 200),
            ("/", BOB, 200),
            ("/", WRONG, 401),
            ("/", "Bearer x", 401),
            ("/", "Basic !", 401),
            ("/map", ANN, 200),
            ("/map", BOB, 200),
            ("/map", WRONG, 401),
            ("/gone", ANN, 503),
            ("/digest", ANN, 503),
            ("/open", "", 200),
        ] {
            let fields = [("authorization", authorization)];
            let fields = if authorization.is_empty() { &[][..] } else { &fields };
            let reply = get(&client, path, fields).await;
            let case = format!("{version} {path} {authorization}");
            assert_eq!(reply.status, expected, "{case}");
            match expected {
                200 => assert_eq!(seen(&reply, "authorization"), "", "{case}"),
                401 => {
                    let realm = if path == "/map" { "" } else { "Staff" };
                    let challenge = format!("Basic realm=\"{realm}\"");
                    assert_eq!(reply.header("www-authenticate"), Some(&*challenge), "{case}");
                    assert!(
                        reply.text().contains("401 Authorization Required"),
                        "{}",
                        reply.text()
                    );
                }
                _ => assert_eq!(reply.header("www-authenticate"), None, "{case}"),
            }
        }
        // Where nobody asks for one, what the client says is the backend's.
        let reply = get(&client, "/open", &[("authorization", ANN)]).await;
        assert_eq!(seen(&reply, "authorization"), ANN, "{version}");
    }
    eventually("the user's name", SOON, async || {
        let log = lockgate.stdout();
        let named = log.lines().any(|it| it.contains(" - ann [") && it.contains("\" 200 "));
        (named && !log.contains("secret")).then_some(()).ok_or(log)
    })
    .await;
    assert!(!lockgate.stderr().contains("abcdefghijklmnopqrstuu"), "{}", lockgate.stderr());
    // A password that was taken away counts at once, remembered or not.
    let changed = secret("passwords", &[("auth", "cid:{PLAIN}secret\n")]);
    lockgate.write("passwords.yaml", changed);
    let client = lockgate.client();
    eventually("the new file", SOON, async || {
        let reply = get(&client, "/", &[("authorization", ANN)]).await;
        (reply.status == 401).then_some(()).ok_or(reply.status)
    })
    .await;
    assert_eq!(get(&client, "/map", &[("authorization", ANN)]).await.status, 200);
}

/// Checking a password takes a core for a while; whoever asks for something else does not notice, and many
/// who come with the same wait for one check.
#[tokio::test(flavor = "multi_thread")]
async fn slow_hashes_hold_up_nobody() {
    let web = Backend::start("web").await;
    // Cost 10: a tenth of a second with optimisation, many without.
    let hash = bcrypt::hash("secret", 10).unwrap();
    let objects = [
        secret("passwords", &[("auth", &format!("ann:{hash}\n"))]),
        guarded("slow", "/slow-hash", &BASIC),
        guarded("open", "/", &[]),
    ];
    let lockgate = serving(&objects.concat(), &web).await;
    let client = lockgate.client();
    let checks = (0..40).map(|_| get(&client, "/slow-hash", &[("authorization", ANN)]));
    let checks = futures_util::future::join_all(checks);
    let checks = async {
        let began = std::time::Instant::now();
        (checks.await, began.elapsed())
    };
    let others = async {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let began = std::time::Instant::now();
            assert_eq!(get(&client, "/", &[]).await.status, 200);
            longest = longest.max(began.elapsed());
        }
        longest
    };
    let ((checked, took), longest) = tokio::join!(checks, others);
    assert!(checked.iter().all(|it| it.status == 200));
    assert!(longest < took / 2, "{longest:?} of {took:?}");
}

/// The ConfigMap's judge is everybody's who has none and does not opt out; what it blocks is 403 everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_config_map_speaks_for_all() {
    let web = Backend::start("web").await;
    let (judge, own) = (Judge::start().await, Judge::start().await);
    let settings = config_map(
        "settings",
        &[
            ("global-auth-url", &judge.url("/oauth2/auth")),
            ("global-auth-signin", "https://auth.test/start"),
            ("global-auth-response-headers", "X-Auth-Request-User"),
            ("no-auth-locations", "/health,/.well-known/acme-challenge"),
            ("block-cidrs", "127.0.0.2"),
            ("block-user-agents", "Evil/1, ~*scraper"),
            ("block-referers", "~^https?://spam\\."),
        ],
    );
    let objects = [
        settings,
        passwords(),
        guarded("one", "/", &[]),
        guarded("out", "/out", &[("enable-global-auth", "false")]),
        guarded("own", "/own", &[("auth-url", &own.url("/status/403"))]),
        guarded("health", "/health", &[]),
        guarded("healthy", "/healthy", &BASIC),
    ];
    let lockgate = serving(&objects.concat(), &web).await;
    for (version, client) in clients(&lockgate) {
        for (path, fields, expected) in [
            ("/", &[][..], 302),
            ("/", &[("cookie", "session=ann")], 200),
            ("/out", &[], 200),
            ("/own", &[("cookie", "session=ann")], 403),
            ("/health", &[], 200),
            // A beginning is no element: so it is in ingress-nginx.
            ("/healthy", &[], 200),
            ("/out", &[("user-agent", "evil/1")], 403),
            ("/out", &[("user-agent", "my Scraper")], 403),
            ("/out", &[("user-agent", "Evil/10")], 200),
            ("/out", &[("referer", "http://spam.test/")], 403),
            ("/out", &[("referer", "http://a.test/?http://spam.test")], 200),
        ] {
            let reply = get(&client, path, fields).await;
            assert_eq!(reply.status, expected, "{version} {path} {fields:?}");
        }
    }
    assert_eq!(from(&lockgate, THERE, "/out", "").await.status, Some(403));
    assert_eq!(from(&lockgate, THERE, "/nowhere", "").await.status, Some(403));
    // The CA comes from anywhere, and as anybody.
    let mut raw = Raw::plain_from(THERE, lockgate.http).await;
    let challenge = "GET /.well-known/acme-challenge/0123456789abcdefgh HTTP/1.1";
    raw.send(format!("{challenge}\r\nHost: new.test\r\nUser-Agent: evil/1\r\n\r\n")).await;
    assert_eq!(raw.reply().await.status, Some(200));
    // When it is deleted nothing becomes open.
    let rest = [ingress_class(), objects[1..].concat(), backend("web", 80, &[web.addr()])];
    lockgate.edit(rest.concat());
    let text = lockgate.problem("ConfigMap").await;
    assert!(text.contains("it is gone"), "{text}");
    assert_eq!(from(&lockgate, THERE, "/out", "").await.status, Some(403));
}

/// What came of a request that nginx and we are to agree on: the answer, its cookies, and what the backend
/// was told.
async fn outcome(client: &Client, path: &str, fields: &[(&str, &str)]) -> String {
    let reply = get(client, path, fields).await;
    let values = |name: &str| {
        let all = reply.headers.get_all(name).iter();
        let mut all: Vec<_> = all.map(|it| it.to_str().unwrap().to_owned()).collect();
        all.sort();
        all
    };
    // This nginx knows one cookie of an answer only.
    let cookies = values("set-cookie").into_iter().filter(|it| it.starts_with("session"));
    let passed = reply.backend().is_some();
    let told = |name: &str| if passed { seen(&reply, name) } else { String::new() };
    let answer = (reply.status, passed, values("www-authenticate"), values("location"));
    let upstream = (told("authorization"), told("x-name"));
    format!("{:?}", (answer, cookies.collect::<Vec<_>>(), upstream))
}

/// What asks the judge, in nginx's words; `always` hands its cookies on with errors, too.
fn asking(always: &str) -> String {
    format!(
        "auth_request /_auth; auth_request_set $c $upstream_http_set_cookie; \
         add_header Set-Cookie $c {always}; \
         auth_request_set $u $upstream_http_x_name; \
         proxy_set_header X-Name $u;"
    )
}

/// The same requests to nginx and to us get the same answers, and the backend sees the same of them.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_lets_the_same_pass() {
    const ALLOWED: &str = "allow 127.0.0.1; deny all;";
    const ELSEWHERE: &str = "allow 192.0.2.1; deny all;";
    let files = tempfile::tempdir().unwrap();
    let passwords = files.path().join("passwords");
    std::fs::write(&passwords, "ann:{PLAIN}secret\n").unwrap();
    let password = &*format!(
        "auth_basic \"Staff\"; auth_basic_user_file {}; proxy_set_header Authorization \"\";",
        passwords.display()
    );
    let allowed = ("allowlist-source-range", "127.0.0.1");
    let elsewhere = ("allowlist-source-range", "192.0.2.1");
    let any = ("satisfy", "any");
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let auth_url = judge.url("/oauth2/auth?renew");
    let url = ("auth-url", &*auth_url);
    let user = ("auth-response-headers", "X-Name");
    let signin = ("auth-signin", "http://auth.test/start?rd=here");
    let always = ("auth-always-set-cookie", "true");
    let (usual, with_errors) = (asking(""), asking("always"));
    let signs_in = "error_page 401 = @signin;";
    let mut servers = format!(
        "location = /_auth {{ internal; proxy_pass_request_body off; \
         proxy_set_header Content-Length \"\"; proxy_pass {auth_url}; }}\n\
         location @signin {{ add_header Set-Cookie $c; return 302 http://auth.test/start?rd=here; }}\n"
    );
    let mut objects = secret("passwords", &[("auth", "ann:{PLAIN}secret")]);
    let mut paths = Vec::new();
    for (name, directives, annotations) in [
        ("allowed", &[ALLOWED][..], &[allowed][..]),
        ("elsewhere", &[ELSEWHERE], &[elsewhere]),
        ("denied", &["deny 127.0.0.1;"], &[("denylist-source-range", "127.0.0.1")]),
        ("password", &[password], &BASIC),
        ("judge", &[&usual], &[url, user]),
        ("always", &[&with_errors], &[url, user, always]),
        ("signin", &[&usual, signs_in], &[url, user, signin]),
        ("all", &[ALLOWED, password, &usual], &[allowed, BASIC[0], BASIC[1], BASIC[2], url, user]),
        ("none", &[ELSEWHERE, password], &[elsewhere, BASIC[0], BASIC[1], BASIC[2]]),
        (
            "any-allowed",
            &["satisfy any;", ALLOWED, password],
            &[any, allowed, BASIC[0], BASIC[1], BASIC[2]],
        ),
        (
            "any-password",
            &["satisfy any;", ELSEWHERE, password],
            &[any, elsewhere, BASIC[0], BASIC[1], BASIC[2]],
        ),
        ("any-judge", &["satisfy any;", ELSEWHERE, &usual], &[any, elsewhere, url, user]),
        ("any-elsewhere", &["satisfy any;", ELSEWHERE], &[any, elsewhere]),
        (
            "any",
            &["satisfy any;", ELSEWHERE, password, &usual],
            &[any, elsewhere, BASIC[0], BASIC[1], BASIC[2], url, user],
        ),
        (
            "any-signin",
            &["satisfy any;", ELSEWHERE, password, &usual, signs_in],
            &[any, elsewhere, BASIC[0], BASIC[1], BASIC[2], url, user, signin],
        ),
    ] {
        let directives = directives.concat();
        writeln!(
            servers,
            "location /{name} {{ {directives} proxy_set_header Host $http_host; \
             proxy_pass http://{}; }}",
            web.addr()
        )
        .unwrap();
        objects += &guarded(name, &format!("/{name}"), annotations);
        paths.extend([format!("/{name}"), format!("/{name}/status/404")]);
    }
    let nginx = Nginx::start(|addr| {
        format!("server {{ listen {addr}; proxy_set_header Host $http_host;\n{servers}\n}}")
    })
    .await;
    let lockgate = serving(&objects, &web).await;
    let original = Client::new().connect_to(nginx.addr);
    for path in &paths {
        for fields in [
            &[][..],
            &[("authorization", ANN)],
            &[("authorization", WRONG)],
            &[("cookie", "session=ann")],
            &[("cookie", "session=ann"), ("authorization", ANN)],
            &[("cookie", "session=ann"), ("authorization", WRONG)],
            &[("x-name", "root"), ("authorization", ANN)],
        ] {
            let expected = outcome(&original, path, fields).await;
            for (version, client) in clients(&lockgate) {
                let found = outcome(&client, path, fields).await;
                assert_eq!(found, expected, "{version} {path} {fields:?}");
            }
        }
    }
}

/// Secrets of any type and ConfigMaps beside an Ingress are read by their names, with the rights that are
/// shipped; so are their changes.
#[tokio::test(flavor = "multi_thread")]
async fn what_annotations_name_is_read_from_the_api_server() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let judge = Judge::outside().await;
    let url = judge.url("/oauth2/auth");
    let named = [("auth-url", &*url), ("auth-proxy-set-headers", "headers")];
    let objects = [
        backend("web", 80, &[web.addr()]),
        guarded("one", "/", &BASIC),
        guarded("two", "/two", &named),
    ];
    cluster.apply(&objects.concat()).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    for path in ["", "two"] {
        lockgate.answers(&format!("http://a.test/{path}"), 503).await;
    }
    cluster.apply(&(passwords() + &config_map("headers", &[("X-Team", "shop")]))).await;
    let client = lockgate.client();
    let patience = Duration::from_secs(60);
    eventually("the Secret and the ConfigMap", patience, async || {
        let fields = [("authorization", ANN), ("cookie", "session=ann")];
        let password = get(&client, "/", &fields).await.status;
        let judged = get(&client, "/two", &fields).await.status;
        ((password, judged) == (200, 200)).then_some(()).ok_or(format!("{password} {judged}"))
    })
    .await;
    assert_eq!(judge.questions().pop().map(|it| it.field("x-team")).as_deref(), Some("shop"));
    for _ in 0..30 {
        assert_eq!(get(&client, "/", &[("authorization", ANN)]).await.status, 200);
        assert_eq!(get(&client, "/", &[]).await.status, 401);
    }
    // Long before it would be looked at again, even if the API server cannot answer at first.
    cluster.faults().status("GET /secrets/passwords", 500, &[], 1);
    cluster.apply(&secret("passwords", &[("auth", "bob:{PLAIN}secret")])).await;
    let began = std::time::Instant::now();
    eventually("the new passwords", SOON, async || {
        let ann = get(&client, "/", &[("authorization", ANN)]).await.status;
        let bob = get(&client, "/", &[("authorization", BOB)]).await.status;
        ((ann, bob) == (401, 200)).then_some(()).ok_or(format!("{ann} {bob}"))
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let reads = cluster.faults().matching("GET /secrets/passwords");
    assert!(reads.iter().any(|it| it.status == 500), "{reads:#?}");
    cluster.delete(&["secret", "passwords", "--namespace=demo"]).await;
    lockgate.answers("http://a.test/", 503).await;
    cluster.apply(&passwords()).await;
    lockgate.answers("http://a.test/", 401).await;
    assert!(!lockgate.stderr().contains("forbidden"), "{}", lockgate.stderr());
    lockgate.no_problem().await;
}
