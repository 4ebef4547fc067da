//! `serve --manifests`: objects in files are served like those of a cluster, edits are followed, and
//! what goes wrong stays where it is.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::acme::Handshakes;
use crate::harness::backend::{Backend, Deaf};
use crate::harness::client::{Call, Client};
use crate::harness::load::Load;
use crate::harness::lockgate::{
    Lockgate, Pair, backend, endpoints, ingress, ingress_class, ingress_tls, pair, service,
    tls_secret,
};
use crate::harness::process::{Process, SOON, command, component, eventually, free_port};
use crate::harness::raw::{Raw, RawH2, WebSocket};

/// The whole of a host goes to `web`.
const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

/// One host, one backend.
fn house(host: &str, web: &Backend) -> String {
    [ingress_class(), ingress("one", host, &ROOT, &[]), backend("web", 80, &[web.addr()])].concat()
}

/// A host whose certificate this program is to make, in the Secret `tls`.
fn asking(web: &Backend, annotations: &[(&str, &str)]) -> String {
    let asked = [&[("kubernetes.io/tls-acme", "true")], annotations].concat();
    let objects = [
        ingress_class(),
        ingress_tls("one", "a.test", &ROOT, &asked, "tls"),
        backend("web", 80, &[web.addr()]),
    ];
    objects.concat()
}

/// The three ways of asking: HTTP/1.1, the same over TLS, HTTP/2.
fn ways(lockgate: &Lockgate) -> [(&'static str, Client, &'static str); 3] {
    [
        ("HTTP/1.1", lockgate.client(), "http://a.test"),
        ("HTTP/1.1 over TLS", lockgate.tls_client(), "https://a.test"),
        ("HTTP/2", lockgate.tls_client().http2(), "https://a.test"),
    ]
}

/// The decoded entry of a Secret in a file that the product wrote.
fn entry(lockgate: &Lockgate, file: &str, name: &str) -> Option<String> {
    let secret: Value = serde_json::from_str(&lockgate.file(file)?).ok()?;
    String::from_utf8(STANDARD.decode(secret["data"][name].as_str()?).ok()?).ok()
}

/// A typing mistake in one file costs neither its own hosts nor those of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_what_it_held() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    lockgate.write("more.yaml", ingress("two", "b.test", &ROOT, &[]));
    lockgate.answers("http://b.test/", 200).await;

    lockgate.write("more.yaml", "kind: Ingress\nmetadata: {name: two\n");
    let told = lockgate.problem("BadFile").await;
    assert!(told.contains("kept"), "{told}");
    for host in ["a.test", "b.test"] {
        lockgate.answers(&format!("http://{host}/"), 200).await;
    }

    lockgate.write("more.yaml", ingress("two", "c.test", &ROOT, &[]));
    lockgate.answers("http://c.test/", 200).await;
    lockgate.answers("http://b.test/", 404).await;
    lockgate.no_problem().await;
}

/// What is gone is no longer served, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_an_ingress_ends_its_route() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    let client = lockgate.client();
    let mut kept = client.connect("http://a.test/").await.unwrap();
    assert_eq!(kept.get("/").await.unwrap().backend().as_deref(), Some("web"));
    lockgate.edit(ingress_class());
    lockgate.answers("http://a.test/", 404).await;
    assert_eq!(kept.get("/").await.unwrap().status, 404, "on the same connection");
    let routes = lockgate.admin_json("/api/routes").await;
    assert_eq!(routes["hosts"].as_array().map(Vec::len), Some(0), "{routes}");
}

/// The local issuer's certificates live in files nobody else may read; a new one is shown to the next
/// handshake, and connections with the old one go on.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_private_files_and_renewed_under_load() {
    let web = Backend::start("web").await;
    let args = ["--issuer=local", "--local-validity=40s", "--acme-min-reissue=1s"];
    let lockgate = Lockgate::with_manifests(asking(&web, &[])).args(args).start().await;
    let ca = "issued/lockgate.lockgate-local-ca.secret.json";
    let ca = eventually("a CA", SOON, async || entry(&lockgate, ca, "ca.crt")).await;
    let client = Client::new().ca(&ca).connect_to(lockgate.https);
    let mut kept =
        eventually("a certificate", SOON, async || client.connect("https://a.test/").await).await;
    let issued = lockgate.dir().join("issued");
    for file in std::fs::read_dir(&issued).unwrap().flatten() {
        // Drafts come and go.
        let Ok(metadata) = file.metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
    let first = kept.serial();
    assert_eq!(kept.names(), ["a.test"]);
    assert_eq!(kept.get("/").await.unwrap().status, 200);

    let load = Load::start(&client, "https://a.test/", 4).await;
    let handshakes = Handshakes::start(client.clone().unresumed(), "a.test");
    let second = eventually("another certificate", SOON, async || {
        let serial = client.connect("https://a.test/").await.map_err(|it| it.to_string())?.serial();
        if serial == first { Err("still the first".to_owned()) } else { Ok(serial) }
    })
    .await;
    assert_eq!(kept.get("/").await.unwrap().status, 200, "the connection from before");
    load.stop().await.assert_clean();
    handshakes.stop().await.assert_clean();
    let pem = entry(&lockgate, "issued/demo.tls.secret.json", "tls.crt").unwrap();
    assert!(second.is_some() && pem.contains("BEGIN CERTIFICATE"));
    assert!(!lockgate.stdout().contains(" 502 "), "{}", lockgate.stdout());
}

/// Only Secrets with our mark are ours to write, whatever the Ingress asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_else_is_never_written() {
    let web = Backend::start("web").await;
    // It does not even cover the host: reason enough to replace it, were it ours.
    let objects = asking(&web, &[]) + &tls_secret("tls", &pair(&["other.test"]));
    let lockgate = Lockgate::with_manifests(objects.clone()).args(["--issuer=local"]).start().await;
    let told = lockgate.problem("SecretNotManaged").await;
    assert!(told.contains("demo/tls") && told.contains("lockgate.dev/adopt"), "{told}");
    // Something that comes after it has been dealt with, too.
    let more = ingress("two", "b.test", &ROOT, &[]);
    lockgate.write("more.yaml", more);
    lockgate.answers("http://b.test/", 200).await;
    assert_eq!(lockgate.file("objects.yaml"), Some(objects));
    assert_eq!(lockgate.file("issued/demo.tls.secret.json"), None);
}

/// Tools write certificate and key in two steps; no handshake sees the state between.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_secret_keeps_the_last_good_certificate() {
    let web = Backend::start("web").await;
    let [old, new] = [pair(&["a.test"]), pair(&["a.test"])];
    let rest = [
        ingress_class(),
        ingress_tls("one", "a.test", &ROOT, &[], "tls"),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(rest.concat() + &tls_secret("tls", &old));
    let lockgate = lockgate.start().await;
    let trusting = |it: &Pair| Client::new().ca(&it.certificate).connect_to(lockgate.https);
    assert_eq!(trusting(&old).get("https://a.test/").await.unwrap().status, 200);

    let half = Pair { certificate: new.certificate.clone(), key: old.key.clone() };
    lockgate.edit(rest.concat() + &tls_secret("tls", &half));
    let told = lockgate.problem("Certificate").await;
    assert!(told.contains("tls.key does not belong"), "{told}");
    assert_eq!(trusting(&old).get("https://a.test/").await.unwrap().status, 200);

    lockgate.edit(rest.concat());
    lockgate.problem("Certificate").await;
    assert_eq!(trusting(&old).get("https://a.test/").await.unwrap().status, 200, "and deleted");

    lockgate.edit(rest.concat() + &tls_secret("tls", &new));
    let found = eventually("the new certificate", SOON, async || {
        trusting(&new).get("https://a.test/").await
    });
    assert_eq!(found.await.status, 200);
    lockgate.no_problem().await;
}

/// A setting that was to protect something and cannot be honoured never leaves it open.
#[tokio::test(flavor = "multi_thread")]
async fn what_protects_and_is_not_built_answers_503() {
    let web = Backend::start("web").await;
    let name = "nginx.ingress.kubernetes.io/enable-modsecurity";
    let guarded = ingress("guarded", "b.test", &ROOT, &[(name, "true")]);
    let lockgate = Lockgate::with_manifests(house("a.test", &web) + &guarded).start().await;
    lockgate.answers("http://a.test/", 200).await;
    let asked = web.requests();
    for path in ["/", "/anything"] {
        lockgate.answers(&format!("http://b.test{path}"), 503).await;
    }
    assert_eq!(web.requests(), asked, "the backend was asked nevertheless");
    let told = lockgate.problem("NotSupported").await;
    assert!(told.contains("enable-modsecurity") && told.contains("503"), "{told}");
}

/// A host whose first certificate is still to come would be unreachable if it were redirected.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_stays_open_until_the_first_certificate() {
    let web = Backend::start("web").await;
    let force = [
        ("kubernetes.io/tls-acme", "true"),
        ("nginx.ingress.kubernetes.io/force-ssl-redirect", "true"),
    ];
    let objects = [
        asking(&web, &[]),
        ingress_tls("forced", "forced.test", &ROOT, &force, "forced"),
        ingress_tls("theirs", "theirs.test", &ROOT, &[], "theirs"),
    ];
    let directory = format!("https://127.0.0.1:{}/dir", free_port());
    let lockgate = Lockgate::with_manifests(objects.concat());
    let lockgate = lockgate.args(["--acme-directory", &directory]).start().await;
    lockgate.answers("http://a.test/", 200).await;
    lockgate.answers("http://forced.test/", 308).await;
    lockgate.answers("http://theirs.test/", 308).await;

    let issued = tls_secret("tls", &pair(&["a.test"]));
    let mark = "metadata:\n  annotations:\n    lockgate.dev/managed: v1\n";
    lockgate.write("issued.yaml", issued.replacen("metadata:\n", mark, 1));
    let reply = lockgate.answers("http://a.test/x?y", 308).await;
    assert_eq!(reply.header("location"), Some("https://a.test/x?y"));
}

/// Load balancers are told at once, clients are asked to leave, nobody is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_fails_no_request() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web));
    let lockgate = lockgate.args(["--shutdown-grace-period=20"]).start().await;
    let mut loads = Vec::new();
    for (_, client, url) in ways(&lockgate) {
        loads.push(Load::start(&client, url, 4).await);
    }
    let client = lockgate.client().timeout(SOON + SOON);
    let slow = tokio::spawn(async move { client.get("http://a.test/slow/23000").await });
    let before = web.requests();
    eventually("load", SOON, async || web.requests() > before + 100).await;

    lockgate.signal("TERM");
    let leaving = Instant::now();
    for (path, status) in [("/healthz", 500), ("/readyz", 503)] {
        let what = format!("{path} says {status}");
        eventually(&what, SOON, async || {
            lockgate.admin(path).await.is_ok_and(|it| it.status == status)
        })
        .await;
    }
    assert!(leaving.elapsed() < Duration::from_secs(10), "health said so late");
    // Balancers take some time to send nothing more: all of it is served.
    let during = web.requests();
    eventually("load while leaving", SOON, async || web.requests() > during + 100).await;
    let mut reconnects = 0;
    for load in loads {
        let report = load.stop().await;
        report.assert_clean();
        reconnects += report.reconnects;
    }
    assert!(leaving.elapsed() < Duration::from_secs(20), "the machine is too slow for this test");
    assert!(reconnects > 0, "nobody was asked to leave");
    assert_eq!(slow.await.unwrap().unwrap().status, 200, "a request that takes longer");
    assert_eq!(lockgate.wait(SOON).await, 0, "{}", lockgate.stderr());
}

/// HTTP/1.1 says so with each answer, HTTP/2 at once: long before nothing new is accepted, and without
/// failing what is under way.
#[tokio::test(flavor = "multi_thread")]
async fn http2_is_asked_to_leave_as_soon_as_shutdown_begins() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web));
    let lockgate = lockgate.args(["--shutdown-grace-period=60"]).start().await;
    let connect =
        async || RawH2::start(Raw::tls(lockgate.https, "a.test", &["h2"]).await.unwrap()).await;
    let get = |path| {
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path)]
    };
    let (mut idle, mut busy, mut fresh) = (connect().await, connect().await, connect().await);
    for h2 in [&mut idle, &mut busy] {
        assert_eq!(h2.request(1, &get("/")).await.status, Some(200));
    }
    busy.headers(3, &get("/slow/2000"), true).await;
    lockgate.signal("TERM");
    assert!(idle.ends(SOON).await, "one without a request");
    assert_eq!(idle.goaway(), Some(0));
    let reply = busy.reply(3).await;
    assert_eq!((reply.status, reply.ended), (Some(200), true), "{reply:?}");
    assert!(busy.ends(SOON).await, "one with a request");
    assert_eq!(fresh.request(1, &get("/")).await.status, Some(200), "one without any yet");
    assert!(fresh.ends(SOON).await);
    // Still nobody is refused.
    assert_eq!(connect().await.request(1, &get("/")).await.status, Some(200));
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0, "{}", lockgate.stderr());
}

/// Who insists is obeyed: the second signal cuts what is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    let client = lockgate.client().timeout(SOON + SOON);
    let slow = tokio::spawn(async move { client.get("http://a.test/slow/100000").await });
    eventually("the request", SOON, async || web.requests() > 0).await;
    lockgate.signal("TERM");
    eventually("the first signal", SOON, async || {
        lockgate.admin("/healthz").await.is_ok_and(|it| it.status == 500)
    })
    .await;
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0, "{}", lockgate.stderr());
    assert!(slow.await.unwrap().is_err());
}

/// What cannot work is said at the start, with what would be right, and by the exit code.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_at_the_start_are_said_plainly() {
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let missing = tempfile::tempdir().unwrap().path().join("missing").display().to_string();
    for (args, code, part) in [
        (vec!["--manifests", &missing], 1, missing.as_str()),
        (vec!["--manifests", ".", "--external-http-port", "eighty"], 2, "--external-http-port"),
        (vec!["--manifest", "."], 2, "--manifests"),
        (
            vec![
                "--apiserver-host",
                &format!("http://127.0.0.1:{port}"),
                "--acme-ca-file",
                &missing,
            ],
            1,
            &missing,
        ),
    ] {
        let lockgate = Lockgate::with_args(args.iter().copied()).launch();
        let ended = lockgate.wait(SOON).await;
        let said = lockgate.stderr();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(ended, code, "{args:?}: {said}");
        assert!(last.starts_with("lockgate: ") && last.contains(part), "{args:?}: {said}");
        assert_eq!(said.matches("lockgate: ").count(), 1, "{args:?}: {said}");
    }
}

/// A bad part of an object costs that part; a bad object costs that object.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_rule_costs_only_itself() {
    let web = Backend::start("web").await;
    let rule = |host: &str, path: &str| {
        format!(
            "  - host: {host:?}\n    http: {{paths: [{{path: {path:?}, pathType: Prefix, \
             backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n"
        )
    };
    let one = [
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n",
        "metadata: {namespace: demo, name: mixed}\n",
        "spec:\n  ingressClassName: nginx\n  rules:\n",
        &rule("fine.test", "/"),
        &rule("not a host", "/"),
        &rule("a.*.test", "/"),
        &rule("fine.test", "/%zz"),
        &rule("also.test", "/"),
    ];
    let no_ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
                      metadata: {namespace: demo, name: broken}\nspec: {rules: 5}\n";
    let objects = [house("a.test", &web), one.concat(), no_ingress.to_owned()];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    for host in ["a.test", "fine.test", "also.test"] {
        lockgate.answers(&format!("http://{host}/"), 200).await;
    }
    let all = lockgate.admin_json("/api/problems").await;
    let problems = all["problems"].as_array().unwrap();
    let told = |reason: &str, part: &str| {
        let text = |it: &Value| it["text"].as_str().is_some_and(|it| it.contains(part));
        problems.iter().any(|it| it["reason"] == reason && text(it))
    };
    for (reason, part) in [
        ("BadRule", "not a host"),
        ("BadRule", "a.*.test"),
        ("BadRule", "/%zz"),
        ("BadObject", "\"broken\""),
    ] {
        assert!(told(reason, part), "{part}: {all:#}");
    }
    assert_eq!(problems.len(), 4, "{all:#}");
}

/// Two namespaces want one host: the older has what both want and decides on the certificate, whatever
/// order they are read in; with strict ownership it has everything.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_ingress_owns_the_host() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let pairs = [pair(&["a.test"]), pair(&["a.test"])];
    let tenant = |namespace: &str, year: &str, web: &Backend, pair: &Pair, path: &str| {
        let paths = [("/", "Prefix", "web", 80), (path, "Prefix", "web", 80)];
        let objects = [
            ingress_tls("one", "a.test", &paths, &[], "tls"),
            backend("web", 80, &[web.addr()]),
            tls_secret("tls", pair),
        ];
        let created =
            format!("namespace: {namespace}\n  creationTimestamp: {year}-01-01T00:00:00Z");
        objects.concat().replace("namespace: demo", &created)
    };
    let older = tenant("zebra", "2020", &old, &pairs[0], "/old");
    let newer = tenant("ant", "2021", &new, &pairs[1], "/new");
    for (strict, reads_newer_first, at_new) in
        [(false, false, "new"), (false, true, "new"), (true, false, "old"), (true, true, "old")]
    {
        let (first, second) = if reads_newer_first { (&newer, &older) } else { (&older, &newer) };
        let args = strict.then_some("--host-ownership=namespace");
        let lockgate = Lockgate::with_manifests(ingress_class() + first + second).args(args);
        let lockgate = lockgate.start().await;
        let client = Client::new().ca(&pairs[0].certificate).connect_to(lockgate.https);
        for (path, expected) in [("/", "old"), ("/old", "old"), ("/new", at_new)] {
            let reply = client.get(&format!("https://a.test{path}")).await.unwrap();
            assert_eq!(reply.backend().as_deref(), Some(expected), "{path}, strict: {strict}");
        }
        let told = lockgate.problem(if strict { "HostTaken" } else { "PathTaken" }).await;
        assert!(told.contains("zebra/one"), "{told}");
    }
}

/// Whose fault it is shows in the status, and no sooner or later than the settings say.
#[tokio::test(flavor = "multi_thread")]
async fn failing_backends_have_their_statuses() {
    let (web, deaf) = (Backend::start("web").await, Deaf::start().await);
    let nobody = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let paths = [
        ("/", "Prefix", "web", 80),
        ("/refused", "Prefix", "refused", 80),
        ("/unready", "Prefix", "unready", 80),
        ("/missing", "Prefix", "missing", 80),
        ("/deaf", "Prefix", "deaf", 80),
    ];
    let timeouts = [
        ("nginx.ingress.kubernetes.io/proxy-connect-timeout", "1"),
        ("nginx.ingress.kubernetes.io/proxy-read-timeout", "2"),
    ];
    let objects = [
        ingress_class(),
        ingress("one", "a.test", &paths, &timeouts),
        backend("web", 80, &[web.addr()]),
        backend("refused", 80, &[nobody]),
        backend("unready", 80, &[]),
        backend("deaf", 80, &[deaf.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    let told = lockgate.problem("Backend").await;
    assert!(told.contains("demo/missing"), "{told}");
    for (way, client, url) in ways(&lockgate) {
        for (path, status, seconds) in [
            ("/refused", 502, 0),
            ("/unready", 503, 0),
            ("/missing", 503, 0),
            ("/deaf", 504, 1),
            ("/slow/9000", 504, 2),
        ] {
            // Never too soon; in time once, whatever else this machine does meanwhile.
            let mut late = true;
            for _ in 0..5 {
                let begun = Instant::now();
                let reply = client.get(&format!("{url}{path}")).await.unwrap();
                assert_eq!(reply.status, status, "{way} {path}: {}", reply.text());
                let took = begun.elapsed().as_secs();
                assert!(took >= seconds, "{way} {path}: after {took} s");
                late = took > seconds + 1;
                if !late {
                    break;
                }
            }
            assert!(!late, "{way} {path}: late five times");
        }
        // A body that stops in the middle is not passed off as a whole one.
        let broken = client.get(&format!("{url}/sleepy-body")).await;
        assert!(broken.is_err(), "{way}: {broken:?}");
        // At once, unless this machine stands still for longer than the endpoint may.
        let fine = eventually(way, SOON, async || {
            let reply = client.get(&format!("{url}/status/200")).await.unwrap();
            (reply.status != 504).then_some(reply)
        })
        .await;
        assert_eq!(fine.backend().as_deref(), Some("web"), "{way}");
    }
}

/// One endpoint of three is down: everybody is served by the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_goes_to_the_next_endpoint() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let down = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let objects = [
        ingress_class(),
        ingress("one", "a.test", &ROOT, &[]),
        backend("web", 80, &[a.addr(), down, b.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    let mut connection = lockgate.client().connect("http://a.test/").await.unwrap();
    for _ in 0..30 {
        let call = Call::post("http://a.test/", "once");
        let reply = connection.send(call).await.unwrap();
        assert_eq!((reply.status, &reply.json()["body"]), (200, &Value::from("once")));
    }
    assert_eq!(a.requests() + b.requests(), 30, "each request once");
    assert!(a.requests() >= 10 && b.requests() >= 10);
}

/// A body that is too large is refused by what it says and by what it is.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit_are_refused() {
    let web = Backend::start("web").await;
    let size = |value| [("nginx.ingress.kubernetes.io/proxy-body-size", value)];
    let objects = [
        house("other.test", &web),
        ingress("small", "a.test", &ROOT, &size("1k")),
        ingress("any", "any.test", &ROOT, &size("0")),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    let [fits, over, large] = [1024, 1025, 3 << 20].map(|it| "x".repeat(it));
    for (way, client, url) in ways(&lockgate) {
        let any = url.replace("a.test", "any.test");
        let other = url.replace("a.test", "other.test");
        for (case, url, body, status) in [
            ("fits", url, &fits, 200),
            ("is over", url, &over, 413),
            ("is far over", url, &large, 413),
            ("has no limit", &any, &large, 200),
            ("is over the default", &other, &large, 413),
        ] {
            let sized = Call::post(url, body.clone());
            let counted = Call::new("POST", url).chunks(&[body]);
            for (kind, call) in [("by its length", sized), ("by count", counted)] {
                let reply = client.request(call).await;
                let reply = reply.unwrap_or_else(|error| panic!("{way}: {case} {kind}: {error}"));
                assert_eq!(reply.status, status, "{way}: {case} {kind}");
            }
        }
    }
}

/// A client that stops sending in the middle is told so after a minute, as nginx does.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_a_408_after_a_minute() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    let begun = Instant::now();
    let mut raw = Raw::plain(lockgate.http).await;
    raw.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nabc").await;
    let tls = Raw::tls(lockgate.https, "a.test", &["h2"]).await.unwrap();
    let mut h2 = RawH2::start(tls).await;
    let pseudo =
        [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")];
    h2.headers(1, &pseudo, false).await;
    h2.data(1, b"abc", false).await;
    let minute = Duration::from_secs(60);
    let [mut over_h1, mut over_h2] = [None, None];
    while begun.elapsed() < minute * 5 / 4 && (over_h1.is_none() || over_h2.is_none()) {
        let (h1, h2) = tokio::join!(raw.reply(), h2.reply(1));
        over_h1 = over_h1.or(h1.status);
        over_h2 = over_h2.or(h2.status);
    }
    assert_eq!((over_h1, over_h2), (Some(408), Some(408)));
    assert!(begun.elapsed() > minute * 9 / 10, "{:?}", begun.elapsed());
}

/// Log pipelines read ingress-nginx's own line, one for each request, whatever became of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_one_line_per_request() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web));
    let lockgate = lockgate.args(["--shutdown-grace-period=0"]).start().await;
    let agent = "curl/8 \"quoted\"";
    let client = lockgate.client().header("user-agent", agent);
    let mut asked = 0;
    for (path, status) in [("/first?x=1", 200), ("/status/500", 500), ("/%zz", 400)] {
        assert_eq!(client.get(&format!("http://a.test{path}")).await.unwrap().status, status);
        asked += 1;
    }
    assert_eq!(client.get("http://nobody.test/").await.unwrap().status, 404);
    let large = Call::post("http://a.test/large", "x".repeat(2 << 20));
    assert_eq!(client.request(large).await.unwrap().status, 413);
    let h2 = lockgate.tls_client().http2();
    let mut h2 = h2.connect("https://a.test/").await.unwrap();
    for _ in 0..20 {
        assert_eq!(h2.get("/over-h2").await.unwrap().status, 200);
    }
    asked += 22;
    eventually("all lines", SOON, async || {
        let lines = lockgate.stdout().lines().count();
        if lines >= asked { Ok(()) } else { Err(format!("{lines} of {asked}")) }
    })
    .await;
    // A second line of any request would be written by the end at the latest.
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0);
    let log = lockgate.stdout();
    assert_eq!(log.lines().count(), asked, "{log}");

    let first = log.lines().find(|it| it.contains("/first")).unwrap();
    let fields: Vec<&str> = first.split('"').collect();
    assert!(fields[0].starts_with("127.0.0.1 - - ["), "{first}");
    assert!(fields[0].ends_with(" +0000] "), "{first}");
    assert_eq!(fields[1], "GET /first?x=1 HTTP/1.1", "{first}");
    assert_eq!((fields[3], fields[5]), ("-", r"curl/8 \x22quoted\x22"), "{first}");
    let [status, sent]: [&str; 2] = words(fields[2]);
    assert_eq!(status, "200");
    let rest: [&str; 9] = words(fields[6]);
    let [length, time, upstream, alternative, addr, got, response, answered, id] = rest;
    assert!(length.parse::<u64>().is_ok_and(|it| it > 40), "{first}");
    assert!(time.parse::<f64>().is_ok() && response.parse::<f64>().is_ok(), "{first}");
    let addr_wanted = web.addr().to_string();
    assert_eq!([upstream, alternative, addr], ["[demo-web-80]", "[]", &addr_wanted]);
    assert_eq!((got, answered), (sent, "200"), "{first}");
    assert!(id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit()), "{first}");

    let over_h2 = log.lines().filter(|it| it.contains("\"GET /over-h2 HTTP/2.0\" 200")).count();
    assert_eq!(over_h2, 20, "{log}");
}

fn words<const N: usize>(text: &str) -> [&str; N] {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.try_into().unwrap_or_else(|it| panic!("{N} fields wanted: {it:?}"))
}

/// Long-lived connections do not notice that rules change.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_outlives_an_edit() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    let mut socket = WebSocket::open(Raw::plain(lockgate.http).await, "a.test").await;
    assert!(socket.echoes("hi").await);

    // The host goes to another backend, then away altogether.
    let other = Backend::start("other").await;
    lockgate.edit(house("a.test", &other));
    eventually("the other backend", SOON, async || {
        let reply = lockgate.client().get("http://a.test/").await?;
        Ok::<_, crate::harness::client::ClientError>(reply.backend().as_deref() == Some("other"))
    })
    .await;
    lockgate.edit(ingress_class());
    lockgate.answers("http://a.test/", 404).await;
    for _ in 0..3 {
        assert!(socket.echoes("hi").await);
    }
}

/// Requests are spread evenly, whatever connection and protocol they come over.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_get_equal_shares() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let (a, b, c) = tokio::join!(a, b, c);
    let objects = [
        ingress_class(),
        ingress("one", "a.test", &ROOT, &[]),
        backend("web", 80, &[a.addr(), b.addr(), c.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    for (_, client, url) in ways(&lockgate) {
        let mut kept = client.connect(url).await.unwrap();
        for _ in 0..6 {
            assert_eq!(kept.get(url).await.unwrap().status, 200);
            assert_eq!(client.get(url).await.unwrap().status, 200);
        }
    }
    assert_eq!([&a, &b, &c].map(Backend::requests), [12; 3]);
}

/// Which rule takes a request: the host before its wildcard, Exact before Prefix, the longer before the
/// shorter, whole elements only; and what is left goes to the default backend.
#[tokio::test(flavor = "multi_thread")]
async fn the_closest_rule_takes_the_request() {
    let web = Backend::start("web").await;
    let names = ["root", "exact", "prefix", "slash", "wild", "catch", "default"];
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    let paths = [
        ("/", "Prefix", "root", 80),
        ("/x", "Exact", "exact", 80),
        ("/x", "Prefix", "prefix", 80),
        ("/a/", "Prefix", "slash", 80),
        ("/impl", "ImplementationSpecific", "prefix", 80),
    ];
    let mut objects = vec![
        house("other.test", &web),
        ingress("paths", "www.a.test", &paths, &[]),
        ingress("wild", "*.a.test", &[("/", "Prefix", "wild", 80)], &[]),
        ingress("part", "part.test", &[("/only", "Prefix", "root", 80)], &[]),
        ingress("slash", "slash.test", &[("/a/", "Prefix", "slash", 80)], &[]),
    ];
    objects.extend(names.iter().zip(&backends).map(|(name, it)| backend(name, 80, &[it.addr()])));
    let objects = objects.concat();
    let args = ["--default-backend-service=demo/default"];
    let lockgate = Lockgate::with_manifests(objects.as_str()).args(args).start().await;
    let client = lockgate.client();
    let ask = async |url: &str| {
        let reply = client.get(&format!("http://{url}")).await.unwrap();
        let location = reply.header("location").map(str::to_owned);
        reply.backend().or(location).unwrap_or_else(|| format!("{}", reply.status))
    };
    for (url, expected) in [
        ("www.a.test/", "root"),
        ("www.a.test/x", "exact"),
        ("www.a.test/x/", "prefix"),
        ("www.a.test/x/y", "prefix"),
        ("www.a.test/xy", "root"),
        ("www.a.test/impl/x", "prefix"),
        ("WWW.A.TEST/x", "exact"),
        ("www.a.test:8080/x", "exact"),
        ("b.a.test/x", "wild"),
        ("a.test/", "default"),
        ("c.b.a.test/", "default"),
        ("part.test/only/this", "root"),
        ("part.test/else", "default"),
        ("nobody.test/", "default"),
        ("slash.test/a/b", "slash"),
        ("slash.test/a", "http://slash.test/a/"),
        ("slash.test/a?q=1", "http://slash.test/a/?q=1"),
    ] {
        assert_eq!(ask(url).await, expected, "{url}");
    }
    let slash = client.get("http://slash.test/a").await.unwrap();
    assert_eq!(slash.status, 301);

    // An Ingress without rules takes what nobody else does.
    let catch = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
                 metadata: {namespace: demo, name: catch}\n\
                 spec: {ingressClassName: nginx, defaultBackend: \
                 {service: {name: catch, port: {number: 80}}}}\n";
    lockgate.edit(objects.clone() + catch);
    eventually("the catch-all", SOON, async || ask("nobody.test/").await == "catch").await;
    assert_eq!(ask("www.a.test/x").await, "exact");
}

/// Dashboards and alerts find ingress-nginx's names in what a real Prometheus scrapes.
#[tokio::test(flavor = "multi_thread")]
async fn prometheus_understands_the_metrics() {
    let web = Backend::start("web").await;
    let lockgate = Lockgate::with_manifests(house("a.test", &web)).start().await;
    for _ in 0..5 {
        lockgate.answers("http://a.test/", 200).await;
    }
    eventually("the count", SOON, async || {
        let count =
            lockgate.metric("nginx_ingress_controller_requests", &["host=\"a.test\""]).await;
        if count >= 5.0 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;

    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("metrics");
    std::fs::write(&page, lockgate.metrics().await).unwrap();
    let mut promtool = Command::new(component("LOCKGATE_PROMTOOL"));
    promtool.args(["check", "metrics"]).stdin(std::fs::File::open(page).unwrap());
    let output = promtool.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 3 is its opinion of names, which are ingress-nginx's; 1 is that it cannot read them.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    assert!(!said.contains("error while linting"), "{said}");

    let config = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs:\n- job_name: lockgate\n  static_configs:\n  - targets: ['{}']\n",
        lockgate.admin
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let port = free_port();
    let mut prometheus = command(component("LOCKGATE_PROMETHEUS"));
    prometheus.arg("--config.file").arg(dir.path().join("prometheus.yml"));
    prometheus.arg("--storage.tsdb.path").arg(dir.path().join("data"));
    prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Process::spawn(prometheus);
    let query = "nginx_ingress_controller_requests%7Bingress%3D%22one%22%7D";
    let url = format!("http://127.0.0.1:{port}/api/v1/query?query={query}");
    let series = eventually("a scrape", SOON, async || {
        let found = Client::new().get(&url).await.map_err(|error| error.to_string())?.json();
        let series = found["data"]["result"].get(0).cloned();
        series.ok_or_else(|| found.to_string())
    })
    .await;
    for (label, value) in [
        ("host", "a.test"),
        ("namespace", "demo"),
        ("service", "web"),
        ("path", "/"),
        ("method", "GET"),
        ("status", "200"),
        ("controller_class", "k8s.io/ingress-nginx"),
    ] {
        let labels = &series["metric"];
        let found = &labels[label];
        let exported = &labels[format!("exported_{label}")];
        assert!(found == value || exported == value, "{label}: {labels}");
    }
}

/// Endpoints come and go while requests run: nobody is sent where nobody is.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_change_under_load() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let rest = [ingress_class(), ingress("one", "a.test", &ROOT, &[]), service("web", 80)].concat();
    let with = |addrs: &[&Backend]| {
        let addrs: Vec<_> = addrs.iter().map(|it| it.addr()).collect();
        rest.clone() + &endpoints("web", 80, &addrs)
    };
    let lockgate = Lockgate::with_manifests(with(&[&a])).start().await;
    let load = Load::start(&lockgate.client(), "http://a.test/", 8).await;
    for (addrs, gains) in [(&[&a, &b][..], &b), (&[&b], &b), (&[&a], &a), (&[&a, &b], &b)] {
        let before = gains.requests();
        lockgate.edit(with(addrs));
        eventually("its share", SOON, async || gains.requests() > before + 20).await;
    }
    let report = load.stop().await;
    report.assert_clean();
    assert_eq!(report.by_body.len(), 2, "{report:?}");
}
