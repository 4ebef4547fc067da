//! Challenges go before everything an Ingress asks for, and to nobody's but our own hosts.

use std::sync::{Arc, Mutex};

use instant_acme::{ChallengeType, Identifier, NewOrder, RetryPolicy};

use crate::harness::acme::{ASK, Acme, ISSUED, ROOT, asking};
use crate::harness::backend::{Answer, RawBackend};
use crate::harness::lockgate::{backend, ingress, ingress_tls};
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually, lock};

/// As a CA makes them: 43 characters of base64url.
const TOKEN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";

/// Redirects, passwords, lists of addresses and limits are for people.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_ingress_demands_it_gets_its_certificate() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let demands: [(&str, &[(&str, &str)]); 6] = [
        ("forced", &[("force-ssl-redirect", "true")]),
        ("private", &[("auth-type", "basic"), ("auth-secret", "nobody"), ("auth-realm", "x")]),
        ("asked", &[("auth-url", "http://127.0.0.9:9/")]),
        ("listed", &[("whitelist-source-range", "203.0.113.0/24")]),
        ("moved", &[("permanent-redirect", "https://elsewhere.test/")]),
        ("limited", &[("limit-rps", "1"), ("limit-connections", "1")]),
    ];
    let mut all = Vec::new();
    let mut yaml = String::new();
    for (name, annotations) in demands {
        all.extend_from_slice(annotations);
        yaml += &asking(name, &[&format!("{name}.test")], annotations);
    }
    yaml += &asking("everything", &["everything.test"], &all);
    let lockgate = acme.with_manifests(&yaml).start().await;
    let client = acme.client(&lockgate).await;
    for name in demands.map(|(name, _)| name).into_iter().chain(["everything"]) {
        let url = format!("https://{name}.test/");
        let what = format!("certificate of {name}");
        let shown = eventually(&what, SOON * 2, async || client.connect(&url).await);
        assert_eq!(shown.await.names(), [format!("{name}.test")]);
        let url = format!("http://{name}.test/.well-known/acme-challenge/{TOKEN}");
        let answer = lockgate.client().get(&url).await.unwrap();
        assert!(answer.status == 200 && answer.text().starts_with(&format!("{TOKEN}.")), "{name}");
        let people = lockgate.client().get(&format!("http://{name}.test/")).await.unwrap();
        assert_ne!(people.status, 200, "{name} lets anybody in");
    }
    assert_eq!(acme.ca.orders(), demands.len() + 1);
}

/// The rule about whose tokens are answered: ours, and those of hosts nobody here knows.
#[tokio::test(flavor = "multi_thread")]
async fn r_tok_2_a_host_that_asks_for_nothing_has_its_tokens_routed() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let yaml = asking("ours", &["ours.test"], &[]) + &ingress("theirs", "theirs.test", &ROOT, &[]);
    let lockgate = acme.with_manifests(&yaml).start().await;
    acme.certified(&lockgate, "ours.test", ISSUED).await;
    let client = lockgate.client();
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    for (host, ours) in [("ours.test", true), ("theirs.test", false), ("unknown.test", true)] {
        for secure in [false, true] {
            let (client, scheme) =
                if secure { (lockgate.tls_client(), "https") } else { (client.clone(), "http") };
            let answer = client.get(&format!("{scheme}://{host}{path}")).await.unwrap();
            let (text, what) = (answer.text(), format!("{scheme}://{host}"));
            assert_eq!(answer.status, 200, "{what}: {text}");
            if !ours {
                assert_eq!(answer.backend().as_deref(), Some(acme.web.name()), "{what}: {text}");
                continue;
            }
            let thumbprint = text.strip_prefix(&format!("{TOKEN}."));
            assert_eq!(thumbprint.map(str::len), Some(43), "{what}: {text}");
            for (field, value) in [
                ("content-type", "application/octet-stream"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(answer.header(field), Some(value), "{what}");
            }
        }
    }
    // What is no token is nobody's: it is routed like the rest.
    for odd in ["short", "with.dot-and-so-on-and-on", "a%2Fb-a%2Fb-a%2Fb-a%2Fb"] {
        let url = format!("http://ours.test/.well-known/acme-challenge/{odd}");
        let answer = client.get(&url).await.unwrap();
        assert!(!answer.text().starts_with(odd), "{odd}: {}", answer.text());
    }
}

/// One exact token is a solver's of somebody else, and wins; a whole prefix contradicts what we are asked
/// to do, and whose it is has to be said.
#[tokio::test(flavor = "multi_thread")]
async fn r_tok_3_a_route_of_challenges_is_a_solvers_or_a_contradiction() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let solver = format!("/.well-known/acme-challenge/{TOKEN}");
    let paths = |path, kind| [(path, kind, "web", 80), ("/", "Prefix", "web", 80)];
    let taken = |name: &str, annotations: &[(&str, &str)]| {
        let host = format!("{name}.test");
        let annotations = [&[ASK], annotations].concat();
        ingress_tls(
            name,
            &host,
            &paths("/.well-known/acme-challenge", "Prefix"),
            &annotations,
            name,
        )
    };
    let yaml = [
        asking("solved", &["solved.test"], &[]),
        ingress("cm-acme-http-solver", "solved.test", &paths(&solver, "Exact"), &[]),
        taken("ours", &[("lockgate.dev/challenge-path", "ours")]),
        taken("taken", &[]),
    ];
    let lockgate = acme.with_manifests(&yaml.concat()).start().await;
    acme.certified(&lockgate, "solved.test", ISSUED).await;
    acme.certified(&lockgate, "ours.test", ISSUED).await;
    let told = lockgate.problem("ChallengePathTaken").await;
    assert!(told.contains("taken.test"), "{told}");
    let routed = lockgate.client().get(&format!("http://solved.test{solver}")).await.unwrap();
    assert_eq!(routed.backend().as_deref(), Some(acme.web.name()), "{}", routed.text());
    let other = solver.replace('L', "M");
    let answer = lockgate.client().get(&format!("http://solved.test{other}")).await.unwrap();
    assert!(answer.text().starts_with(&TOKEN.replace('L', "M")), "{}", answer.text());
    assert_eq!(acme.ca.orders(), 2, "for the one that is taken, too");
}

/// Somebody with an ACME client and an account of their own, behind a host that asks us for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_acme_client_still_works() {
    // That client has no patience with nonces.
    let acme = Acme::new(PebbleOptions { nonce_reject: 0, ..PebbleOptions::default() }).await;
    let authorizations: Arc<Mutex<Vec<String>>> = Arc::default();
    let script = Arc::clone(&authorizations);
    let app = RawBackend::start(move |request| {
        let request = String::from_utf8_lossy(request).into_owned();
        let token = request.split_whitespace().nth(1).and_then(|it| it.rsplit('/').next());
        let all = lock(&script);
        let found = all.iter().find(|it| it.split('.').next() == token);
        Answer::ok(found.map_or("nothing", String::as_str))
    });
    let app = app.await;
    let paths = [("/", "Prefix", "app", 80)];
    let yaml = asking("ours", &["ours.test"], &[])
        + &ingress("theirs", "theirs.test", &paths, &[])
        + &backend("app", 80, &[app.addr()]);
    let lockgate = acme.with_manifests(&yaml).start().await;
    acme.certified(&lockgate, "ours.test", ISSUED).await;

    let account = acme.pebble.stranger(&acme.pebble.directory()).await;
    let names = [Identifier::Dns("theirs.test".to_owned())];
    let mut order = account.new_order(&NewOrder::new(&names)).await.unwrap();
    let mut pending = order.authorizations();
    while let Some(authorization) = pending.next().await {
        let mut authorization = authorization.unwrap();
        let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
        lock(&authorizations).push(challenge.key_authorization().as_str().to_owned());
        challenge.set_ready().await.unwrap();
    }
    order.poll_ready(&RetryPolicy::default()).await.unwrap();
    order.finalize().await.unwrap();
    let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
    assert!(chain.contains("BEGIN CERTIFICATE"));
    assert!(app.requests().len() >= 3, "the CA asks three times");
}
