//! Which of several annotations decides where each of them would: ingress-nginx's order of effects.
//!
//! In nginx's words: rewrite of the server, rewrite of the location, its Lua rewrite, preaccess, access.
//! Each over HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client, Reply};
use crate::harness::judge::Judge;
use crate::harness::lockgate::{
    Lockgate, backend, config_map, ingress, ingress_class, secret, service,
};

/// `ann:secret`
const ANN: &str = "Basic YW5uOnNlY3JldA==";
/// A list of whom to refuse, who is on it, and who is not.
const REFUSED: &str = "192.0.2.64/30";
const DENIED: &str = "192.0.2.65";
const KNOWN: &str = "192.0.2.1";

/// What decides, by these annotations, and what comes of it.
type Rung<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// The product with these objects, believing `X-Forwarded-For` and `X-Forwarded-Proto`: so each request is of
/// the client and the scheme that it says, over both protocols.
async fn serving(objects: &str, web: SocketAddr) -> Lockgate {
    let settings = config_map(
        "settings",
        &[("use-forwarded-headers", "true"), ("block-user-agents", "~*scraper")],
    );
    let objects = [
        ingress_class(),
        settings,
        backend("web", 80, &[web]),
        service("nobody", 80),
        secret("passwords", &[("auth", "ann:{PLAIN}secret")]),
        objects.to_owned(),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat());
    lockgate.args(["--configmap=demo/settings"]).start().await
}

fn clients(lockgate: &Lockgate) -> [(&'static str, Client); 2] {
    let client = lockgate.tls_client();
    [("HTTP/1.1", client.clone()), ("HTTP/2", client.http2())]
}

fn annotated(name: &str, path: &str, to: &str, annotations: &[(&str, &str)]) -> String {
    let paths = [(path, "ImplementationSpecific", to, 80)];
    ingress(name, &format!("{name}.test"), &paths, annotations)
}

/// The status, where a redirect leads, and whether something is said to other origins.
fn told(reply: &Reply) -> String {
    let location = reply.header("location").map(|it| format!(" {it}")).unwrap_or_default();
    let origin = reply.header("access-control-allow-origin").map(|_| " cors").unwrap_or_default();
    format!("{}{location}{origin}", reply.status)
}

/// One request for which everything would do something: what comes first decides, and without it the next.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_first_decides() {
    let (web, judge) = (Backend::start("web").await, Judge::start().await);
    let url = judge.url("/status/403");
    let ladder: &[Rung<'_>] = &[
        // Of the server: `/` goes to the application, whoever asks.
        ("app-root", &[("app-root", "/app")], "302 http://HOST/app"),
        // Of the location.
        ("preflight", &[("enable-cors", "true")], "204 cors"),
        ("redirect", &[("permanent-redirect", "http://x.test/")], "301 http://x.test/"),
        ("rewrite", &[("rewrite-target", "http://y.test/")], "302 http://y.test/"),
        // Of its Lua.
        ("ssl-redirect", &[("force-ssl-redirect", "true")], "308 https://HOST"),
        ("limits", &[("limit-rpm", "1"), ("limit-burst-multiplier", "1")], "503"),
        ("deny", &[("denylist-source-range", REFUSED)], "403"),
        (
            "password",
            &[("auth-type", "basic"), ("auth-secret", "passwords"), ("auth-realm", "Staff")],
            "401",
        ),
        ("judge", &[("auth-url", &url)], "403"),
        ("endpoint", &[], "200"),
    ];
    let mut objects = String::new();
    let annotations_of = |rung: usize| ladder[rung..].iter().flat_map(|it| it.1.iter().copied());
    for (rung, (name, ..)) in ladder.iter().enumerate() {
        let annotations: Vec<_> = annotations_of(rung).collect();
        objects += &annotated(name, "/", "web", &annotations);
    }
    let lockgate = serving(&objects, web.addr()).await;
    let own = [DENIED, "192.0.2.66"];
    for ((version, client), own) in clients(&lockgate).into_iter().zip(own) {
        for (rung, (name, _, expected)) in ladder.iter().enumerate() {
            let host = format!("{name}.test");
            let ask = async |agent: &str| {
                let call = Call::new("OPTIONS", &format!("https://{host}/"))
                    .header("user-agent", agent)
                    .header("origin", "https://other.test")
                    .header("x-forwarded-proto", "http")
                    .header("x-forwarded-for", own);
                client.request(call).await.unwrap()
            };
            // Whom the ConfigMap blocks, before everything.
            let reply = ask("a Scraper").await;
            assert_eq!(reply.status, 403, "{version}: {name}: {}", reply.text());
            let (before, _) = (web.requests(), judge.questions());
            let mut replies = Vec::new();
            for _ in 0..3 {
                replies.push(told(&ask("curl").await));
            }
            // Two may come at once; they are refused by what comes next.
            let next = if *name == "limits" { "403" } else { expected };
            let expected = [next, next, expected].map(|it| it.replace("HOST", &host));
            assert_eq!(replies, expected, "{version}: {name}");
            let asked = web.requests() - before + judge.questions().len();
            let wanted = if rung + 2 < ladder.len() { 0 } else { 3 };
            assert_eq!(asked, wanted, "{version}: {name}: nobody is asked who need not be");
        }
    }
    lockgate.no_problem().await;
}

/// What is said to other origins stands on every answer, also where an earlier or later step gives it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_read_refusals() {
    let web = Backend::start("web").await;
    let cors = ("enable-cors", "true");
    let password = [("auth-type", "basic"), ("auth-secret", "passwords")];
    let hosts: &[Rung<'_>] = &[
        ("root", &[cors, ("app-root", "/app")], "302 http://root.test/app"),
        ("redirect", &[cors, ("permanent-redirect", "http://x.test")], "301 http://x.test cors"),
        ("ssl", &[cors, ("force-ssl-redirect", "true")], "308 https://ssl.test cors"),
        ("deny", &[cors, ("denylist-source-range", REFUSED)], "403 cors"),
        ("password", &[cors, password[0], password[1]], "401 cors"),
    ];
    let mut objects = annotated("gone", "/", "nobody", &[cors]);
    for (name, annotations, _) in hosts {
        objects += &annotated(name, "/", "web", annotations);
    }
    let lockgate = serving(&objects, web.addr()).await;
    for (version, client) in clients(&lockgate) {
        for (name, expected) in hosts.iter().map(|it| (it.0, it.2)).chain([("gone", "503 cors")]) {
            let call = Call::get(&format!("https://{name}.test/"))
                .header("x-forwarded-proto", "http")
                .header("x-forwarded-for", DENIED);
            let reply = client.request(call).await.unwrap();
            assert_eq!(told(&reply), expected, "{version}: {name}");
        }
    }
}

/// A Service without endpoints is a 503 for everybody, also for those who would not be let in; what is before
/// it in the order goes before it still.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_not_guarded() {
    let web = Backend::start("web").await;
    let guarded = [
        ("auth-type", "basic"),
        ("auth-secret", "passwords"),
        ("denylist-source-range", REFUSED),
        ("limit-rpm", "1"),
        ("limit-burst-multiplier", "1"),
    ];
    let with = |more: (&'static str, &'static str)| [&guarded[..], &[more]].concat();
    let objects = [
        annotated("gone", "/", "nobody", &guarded),
        annotated("never", "/", "unheard-of", &guarded),
        annotated("ssl", "/", "nobody", &with(("force-ssl-redirect", "true"))),
        annotated("moved", "/", "nobody", &with(("permanent-redirect", "http://x.test"))),
        annotated("stand-in", "/", "nobody", &with(("default-backend", "web"))),
    ];
    let lockgate = serving(&objects.concat(), web.addr()).await;
    for (version, client) in clients(&lockgate) {
        for (name, from, authorization, expected) in [
            ("gone", DENIED, "", "503"),
            ("gone", KNOWN, "", "503"),
            ("gone", KNOWN, ANN, "503"),
            ("never", DENIED, "", "503"),
            ("ssl", KNOWN, ANN, "308 https://ssl.test"),
            ("moved", DENIED, "", "301 http://x.test"),
            // Somebody answers, and is guarded as the Service was.
            ("stand-in", DENIED, ANN, "403"),
        ] {
            let case = format!("{version}: {name} for {from}");
            let call = Call::get(&format!("https://{name}.test/"))
                .header("x-forwarded-proto", "http")
                .header("x-forwarded-for", from);
            let call = if authorization.is_empty() {
                call
            } else {
                call.header("authorization", authorization)
            };
            // None of them uses up what its client may ask for.
            for _ in 0..if name == "stand-in" { 1 } else { 4 } {
                let reply = client.request(call.clone()).await.unwrap();
                assert_eq!(told(&reply), expected, "{case}");
            }
        }
    }
}

/// Lists and passwords: all of them must agree, or one is enough; 401 invites, 403 does not.
#[tokio::test(flavor = "multi_thread")]
async fn lists_and_passwords_agree_or_one_is_enough() {
    let web = Backend::start("web").await;
    let password = [("auth-type", "basic"), ("auth-secret", "passwords")];
    let (any, allow, deny) =
        (("satisfy", "any"), ("allowlist-source-range", KNOWN), ("denylist-source-range", REFUSED));
    let objects = [
        annotated("all", "/", "web", &[&password[..], &[allow]].concat()),
        annotated("any", "/", "web", &[&password[..], &[allow, any]].concat()),
        annotated("deny", "/", "web", &[&password[..], &[deny]].concat()),
        annotated("any-deny", "/", "web", &[&password[..], &[deny, any]].concat()),
    ];
    let lockgate = serving(&objects.concat(), web.addr()).await;
    for (version, client) in clients(&lockgate) {
        for (name, known, known_ann, denied, denied_ann) in [
            ("all", 401, 200, 403, 403),
            ("any", 200, 200, 401, 200),
            ("deny", 401, 200, 403, 403),
            // Not to be on the list of the denied is nothing to be let in for.
            ("any-deny", 401, 200, 401, 200),
        ] {
            let mut found = Vec::new();
            for from in [KNOWN, DENIED] {
                for authorization in ["", ANN] {
                    let call = Call::get(&format!("https://{name}.test/"));
                    let call = call.header("x-forwarded-for", from);
                    let call = call.header("authorization", authorization);
                    found.push(client.request(call).await.unwrap().status);
                }
            }
            assert_eq!(found, [known, known_ann, denied, denied_ann], "{version}: {name}");
        }
    }
}
