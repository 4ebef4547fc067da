//! `lockgate explain`: what it says of a request is what the proxy does with it.

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Reply};
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{
    Lockgate, Rules, backend, config_map, ingress, ingress_class, pair, rules, secret, tls_secret,
    without_settings,
};

const FLAGS: [&str; 3] = ["--configmap=demo/settings", "--translate-snippets", "--issuer=none"];

fn explain(files: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    without_settings(&mut command);
    command.arg("explain").args(args).arg("-f").arg(files).args(FLAGS).output().unwrap()
}

/// The steps of a request, the answer last.
fn steps(files: &Path, args: &[&str]) -> Vec<Value> {
    let output = explain(files, &[args, &["--output", "json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let steps: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {stderr}"));
    let steps = steps.as_array().unwrap().clone();
    let served = steps.last().unwrap()["served"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!served)), "{args:?}: {stderr}");
    steps
}

fn text<'a>(steps: &'a [Value], name: &str) -> Option<&'a str> {
    steps.iter().find(|it| it["step"] == name)?["text"].as_str()
}

/// `STATUS LOCATION`, `SERVICE TARGET` or `STATUS`, of an explanation.
fn foreseen(steps: &[Value]) -> String {
    let answer = &steps.last().unwrap()["answer"];
    if let Some(service) = answer["service"].as_str() {
        let name = service.trim_start_matches("demo/");
        let sent = text(steps, "they get").and_then(|it| it.split_once(' '));
        let target = sent.and_then(|(_, rest)| rest.split(", host ").next());
        // In place of an error a Service is asked for `/`.
        let target = if answer["error"].is_null() { target.unwrap_or_default() } else { "/" };
        return format!("{name} {target}");
    }
    match answer["location"].as_str() {
        Some(location) => format!("{} {location}", answer["status"]),
        None => answer["status"].to_string(),
    }
}

/// The same of an answer.
fn seen(reply: &Reply) -> String {
    let echo = reply.json();
    match (echo["backend"].as_str(), reply.header("location")) {
        (Some(name), _) => format!("{name} {}", echo["target"].as_str().unwrap()),
        (None, Some(location)) => format!("{} {location}", reply.status),
        (None, None) => reply.status.to_string(),
    }
}

const RULES: &[Rules<'_>] = &[
    ("plain", "a.test", &[("/", "web"), ("=/exact", "api"), ("/slash/", "api")], &[], ""),
    ("wild", "*.w.test", &[("/", "api")], &[], ""),
    ("alias", "named.test", &[("/", "web")], &[("server-alias", r"other.test,~^x\d+\.test$")], ""),
    ("secure", "tls.test", &[("/", "web")], &[], "tls"),
    ("www", "bare.test", &[("/", "web")], &[("from-to-www-redirect", "true")], ""),
    ("force", "force.test", &[("/", "web")], &[("force-ssl-redirect", "true")], ""),
    ("rewriting", "r.test", &[("/in(/|$)(.*)", "api")], &[("rewrite-target", "/$2")], ""),
    ("out", "o.test", &[("/in(.*)", "api")], &[("rewrite-target", "/x/$1")], ""),
    ("root", "root.test", &[("/", "web")], &[("app-root", "/start?from=$host")], ""),
    (
        "gone",
        "gone.test",
        &[("/", "web")],
        &[("permanent-redirect", "https://new.test$request_uri")],
        "",
    ),
    ("closed", "closed.test", &[("/", "web")], &[("modsecurity-snippet", "SecRuleEngine On")], ""),
    ("nets", "nets.test", &[("/", "web")], &[("whitelist-source-range", "10.0.0.0/8")], ""),
    ("here", "here.test", &[("/", "web")], &[("whitelist-source-range", "127.0.0.0/8")], ""),
    (
        "instead",
        "instead.test",
        &[("/", "web")],
        &[
            ("denylist-source-range", "127.0.0.1"),
            ("custom-http-errors", "403"),
            ("default-backend", "api"),
        ],
        "",
    ),
    (
        "password",
        "password.test",
        &[("/", "web")],
        &[("auth-type", "basic"), ("auth-secret", "users")],
        "",
    ),
    ("cors", "cors.test", &[("/", "web")], &[("enable-cors", "true")], ""),
    (
        "canary-of",
        "a.test",
        &[("/", "new")],
        &[("canary", "true"), ("canary-by-header", "x-new")],
        "",
    ),
    ("empty", "empty.test", &[("/", "none")], &[], ""),
    (
        "shut",
        "shut.test",
        &[("/", "none")],
        &[("auth-type", "basic"), ("auth-secret", "users")],
        "",
    ),
    ("stand-in", "stand.test", &[("/", "none")], &[("default-backend", "api")], ""),
    (
        "snippets",
        "snippet.test",
        &[("/", "web")],
        &[("server-snippet", "location /secret { deny all; } more_set_headers \"x-a: b\";")],
        "",
    ),
    ("small", "small.test", &[("/", "web")], &[("proxy-body-size", "10")], ""),
    (
        "mutual",
        "mutual.test",
        &[("/", "web")],
        &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-client", "on")],
        "mutual",
    ),
    ("busy", "busy.test", &[("/", "web")], &[("limit-rps", "100")], ""),
];

fn objects([web, api, new]: &[Backend; 3]) -> String {
    let mut yaml = ingress_class() + &rules(RULES);
    let certificate = pair(&["mutual.test"]);
    yaml.push_str(&tls_secret("tls", &pair(&["tls.test"])));
    yaml.push_str(&tls_secret("mutual", &certificate));
    yaml.push_str(&secret("ca", &[("ca.crt", &certificate.certificate)]));
    yaml.push_str(&secret("users", &[("auth", "me:{PLAIN}secret\n")]));
    yaml.push_str(&backend("web", 80, &[web.addr()]));
    yaml.push_str(&backend("api", 80, &[api.addr()]));
    yaml.push_str(&backend("new", 80, &[new.addr()]));
    yaml.push_str(&backend("none", 80, &[]));
    yaml.push_str(&config_map("settings", &[("block-user-agents", "badbot")]));
    yaml
}

async fn backends() -> [Backend; 3] {
    [Backend::start("web").await, Backend::start("api").await, Backend::start("new").await]
}

/// The same code decides, so that each request is answered as was foreseen.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_foreseen_is_what_is_answered() {
    let backends = backends().await;
    let lockgate = Lockgate::with_manifests(objects(&backends)).args(FLAGS).start().await;
    let files = lockgate.dir();
    let right = format!("Basic {}", STANDARD.encode("me:secret"));
    let wrong = format!("Basic {}", STANDARD.encode("me:other"));
    let long = "x".repeat(11);
    for (method, url, fields, body, expected) in [
        ("GET", "http://a.test/x?y=1", &[][..], "", "web /x?y=1"),
        ("GET", "http://A.TEST/exact", &[], "", "api /exact"),
        ("GET", "http://a.test/exact/", &[], "", "web /exact/"),
        ("GET", "http://a.test/slash?q", &[], "", "301 http://a.test/slash/?q"),
        ("GET", "http://a.test/slash/../x/%2e/y", &[], "", "web /x/y"),
        ("GET", "http://a.test/..;/x", &[], "", "400"),
        ("GET", "http://a.test/%00", &[], "", "400"),
        ("OPTIONS", "http://a.test/", &[], "", "web /"),
        ("GET", "http://nobody.test/", &[], "", "404"),
        ("GET", "http://a.test/", &[("host", "one.w.test")], "", "api /"),
        ("GET", "http://a.test/", &[("host", "two words")], "", "400"),
        ("GET", "http://one.w.test/", &[], "", "api /"),
        ("GET", "http://a.one.w.test/", &[], "", "404"),
        ("GET", "http://other.test/", &[], "", "web /"),
        ("GET", "http://x42.test/", &[], "", "web /"),
        ("GET", "https://tls.test/x/", &[], "", "web /x/"),
        ("GET", "http://tls.test/x/?y", &[], "", "308 https://tls.test/x/?y"),
        ("GET", "http://tls.test/x/", &[], "", "308 https://tls.test/x"),
        ("GET", "http://www.bare.test/x", &[], "", "308 http://bare.test:80/x"),
        ("GET", "http://force.test/", &[], "", "308 https://force.test"),
        ("GET", "http://r.test/in/v1?x", &[], "", "api /v1?x"),
        ("GET", "http://r.test/other", &[], "", "404"),
        ("GET", "http://o.test/in../y", &[], "", "400"),
        ("GET", "http://root.test/", &[], "", "302 http://root.test/start?from=root.test"),
        ("GET", "http://gone.test/a?b", &[], "", "301 https://new.test/a?b"),
        ("GET", "http://closed.test/", &[], "", "503"),
        ("GET", "http://nets.test/", &[], "", "403"),
        ("GET", "http://here.test/", &[], "", "web /"),
        ("GET", "http://instead.test/x", &[], "", "api /"),
        ("GET", "http://password.test/", &[], "", "401"),
        ("GET", "http://password.test/", &[("authorization", &*wrong)], "", "401"),
        ("GET", "http://password.test/", &[("authorization", &*right)], "", "web /"),
        ("OPTIONS", "http://cors.test/", &[("origin", "https://o.test")], "", "204"),
        ("GET", "http://cors.test/", &[("origin", "https://o.test")], "", "web /"),
        ("GET", "http://a.test/c", &[("x-new", "always")], "", "new /c"),
        ("GET", "http://a.test/c", &[("x-new", "never")], "", "web /c"),
        ("GET", "http://empty.test/", &[], "", "503"),
        ("GET", "http://shut.test/", &[], "", "503"),
        ("GET", "http://stand.test/x", &[], "", "api /x"),
        ("GET", "http://snippet.test/secret/x", &[], "", "403"),
        ("GET", "http://snippet.test/", &[], "", "web /"),
        ("POST", "http://small.test/", &[("content-length", "11")], &*long, "413"),
        ("GET", "http://mutual.test/", &[], "", "308 https://mutual.test"),
        ("GET", "https://mutual.test/", &[], "", "400"),
        ("GET", "https://tls.test/", &[("host", "mutual.test")], "", "421"),
        ("GET", "http://a.test/", &[("user-agent", "badbot")], "", "403"),
        ("GET", "http://busy.test/", &[], "", "web /"),
        ("GET", "http://a.test/", &[("expect", "gold")], "", "417"),
    ] {
        let mut args = vec![url, "--method", method, "--client", "127.0.0.1"];
        let fields_given: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        args.extend(fields_given.iter().flat_map(|it| ["--header", it.as_str()]));
        let steps = steps(&files, &args);
        let case = format!("{method} {url} {fields:?}: {steps:#?}");
        assert_eq!(foreseen(&steps), expected, "{case}");

        let secure = url.starts_with("https");
        let client = if secure { lockgate.tls_client() } else { lockgate.client() };
        let mut call = Call::new(method, url);
        for (name, value) in fields.iter().filter(|(name, _)| *name != "content-length") {
            call = call.header(name, value);
        }
        let reply = client.request(call.body(body.to_owned())).await;
        let reply = reply.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(seen(&reply), expected, "{case}");
    }
}

/// Each line names the object, annotation or setting that it is about.
#[tokio::test(flavor = "multi_thread")]
async fn the_reasons_are_told() {
    let backends = backends().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("objects.yaml");
    let stranger = ingress("stranger", "s.test", &[("/", "Prefix", "web", 80)], &[]);
    let stranger = stranger.replace("ingressClassName: nginx", "ingressClassName: traefik");
    std::fs::write(&file, objects(&backends) + &stranger).unwrap();
    for (args, step, part) in [
        (
            &["https://tls.test/"][..],
            "certificate",
            "that of Secret demo/tls, for tls.test, valid until ",
        ),
        (
            &["https://a.test/"],
            "certificate",
            "no Ingress with a rule for a.test has an entry under spec.tls",
        ),
        (&["https://a.test/"], "rule", "Ingress demo/plain, path / and what is below it"),
        (&["http://tls.test/"], "to HTTPS", "spec.tls"),
        (&["http://one.w.test/"], "host", "*.w.test"),
        (&["http://other.test/"], "host", "named.test"),
        (
            &["http://nets.test/"],
            "access",
            "client 192.0.2.1 is in none of the networks that may ask",
        ),
        (&["http://closed.test/"], "refused", "modsecurity-snippet"),
        (&["http://closed.test/"], "problem", "Ingress demo/closed: "),
        (&["http://empty.test/"], "endpoints", "no endpoint of Service demo/none is ready"),
        (&["http://stand.test/"], "backend", "in place of demo/none, port 80"),
        (&["http://s.test/"], "problem", "Ingress demo/stranger has a rule for s.test"),
        (
            &["http://a.test/"],
            "canary",
            "Service demo/new, port 80, does not take it: the request does not ask",
        ),
        (&["http://a.test/%2e/%2E/x"], "path", "/x, which is /%2e/%2E/x in canonical form"),
        (&["http://r.test/in/x"], "rewrite", "rewrite-target: /$2"),
        (&["http://busy.test/"], "limits", "100 requests a second (limit-rps), else 503"),
        (&["https://mutual.test/"], "TLS", "auth-tls-verify-client: on"),
        (&["http://a.test/"], "they get", "x-forwarded-for: 192.0.2.1"),
        (&["https://tls.test/", "-H", "Host: mutual.test"], "client certificate", "another host"),
    ] {
        let steps = steps(&file, args);
        let found: Vec<_> = steps.iter().filter(|it| it["step"] == step).collect();
        let has = |it: &&Value| it["text"].as_str().is_some_and(|it| it.contains(part));
        assert!(found.iter().any(has), "{args:?} {step}: {part}: {steps:#?}");
    }
    // What a client proves itself by stays with it.
    let secret = format!("Authorization: Basic {}", STANDARD.encode("me:secret"));
    let output = explain(&file, &["http://password.test/", "-H", &secret]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("it is right") && !said.contains("secret"), "{said}");
    assert!(
        said.ends_with(&format!(
            "Service demo/web, port 80, answers, at {}.\n",
            backends[0].addr()
        )),
        "{said}"
    );
}

/// Without files the cluster is asked, with the rights that serving takes; Secrets that are not listed are
/// read, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_asked_where_no_files_are_given() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let guarded = [
        ("nginx.ingress.kubernetes.io/auth-type", "basic"),
        ("nginx.ingress.kubernetes.io/auth-secret", "users"),
    ];
    cluster.apply(&backend("web", 80, &[web.addr()])).await;
    cluster.apply(&secret("users", &[("auth", "me:{PLAIN}secret\n")])).await;
    cluster.apply(&ingress("one", "a.test", &[("/", "Prefix", "web", 80)], &guarded)).await;
    let kubeconfig = cluster.service_account("lockgate", "lockgate", "lockgate").await;
    let right = format!("Authorization: Basic {}", STANDARD.encode("me:secret"));
    for (header, status, expected) in [
        ("Accept: */*", 1, "Nobody serves it: the client gets 401.".to_owned()),
        (&*right, 0, format!("Service demo/web, port 80, answers, at {}.", web.addr())),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
        without_settings(&mut command);
        command.args(["explain", "http://a.test/", "--header", header, "--issuer=none"]);
        command.arg("--kubeconfig").arg(&kubeconfig);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&expected), "{said}{stderr}");
        assert_eq!(output.status.code(), Some(status), "{said}{stderr}");
    }
}

#[test]
fn what_is_no_url_is_a_mistake() {
    for args in [&["a.test/x"][..], &["http://"], &["http://a.test/", "--header", "x"], &[]] {
        let output = explain(Path::new("-"), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
