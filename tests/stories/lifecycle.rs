//! Certificates that never lapse: renewed in time, as the CA suggests, and moved from one CA to another.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};

use crate::harness::acme::{Acme, AcmeCluster, Handshakes, Held, ISSUED, UNCHECKED, asking};
use crate::harness::ca_proxy::{Asked, EXPLANATION, Endpoint, When};
use crate::harness::client::Client;
use crate::harness::endpoint::Authority;
use crate::harness::lockgate::{Lockgate, ingress, pair, tls_secret};
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually};

const MINUTE: Duration = Duration::from_secs(60);

/// The users whose proxies the replicas go through.
const REPLICAS: [&str; 3] = ["lockgate", "lockgate-b", "lockgate-c"];

/// Three replicas share the port at which the CA asks, and renew until each host was renewed so often.
async fn kept_alive(validity: Duration, renewals: usize, limit: Duration, reissue: &str) {
    const HOSTS: [&str; 3] = ["one.test", "two.test", "three.test"];
    // The old one suggests nothing, so that half the life of a certificate is what counts.
    let options = PebbleOptions { validity: Some(validity), old: true, ..PebbleOptions::default() };
    let house = AcmeCluster::new(options).await;
    let budget = ["--acme-max-issues=100/7d", reissue];
    let mut replicas = Vec::new();
    for user in REPLICAS {
        replicas.push(house.replica_with(user, &budget).await);
    }
    for host in HOSTS {
        house.ask(&host.replace(".test", ""), &[host]).await;
    }
    let asked = Instant::now();
    let mut loops = Vec::new();
    for replica in &replicas {
        for host in HOSTS {
            house.acme.certified(replica, host, ISSUED).await;
            loops.push(Handshakes::start(house.acme.client(replica).await, host));
        }
    }
    let issued = || {
        let count = |host: &str| {
            let orders = house.acme.ca.asked_for(Endpoint::NewOrder);
            let ours = |it: &&Asked| it.status == 201 && it.payload.to_string().contains(host);
            orders.iter().filter(ours).count()
        };
        HOSTS.map(count)
    };
    eventually("renewals", limit, async || {
        let issued = issued();
        if issued.iter().all(|it| *it > renewals) { Ok(()) } else { Err(format!("{issued:?}")) }
    })
    .await;
    // The last of them comes round to every replica, too; it may be replaced while one looks.
    for replica in &replicas {
        let client = house.acme.client(replica).await;
        for host in HOSTS {
            eventually("what is stored", SOON, async || {
                let shown = client.connect(&format!("https://{host}/")).await;
                let shown = shown.map_err(|it| it.to_string())?.serial();
                let stored = Some(house.held(&host.replace(".test", "")).await.serial());
                if shown == stored { Ok(()) } else { Err(format!("{shown:?}, not {stored:?}")) }
            })
            .await;
        }
    }
    for handshakes in loops {
        let report = handshakes.stop().await;
        report.assert_clean();
        // The first may be gone before it begins, or the last come after it ends.
        assert!(report.serials.len() >= renewals, "{:?}", report.serials);
    }
    let (orders, issued) = (house.acme.ca.orders(), house.acme.ca.issued());
    let halves = asked.elapsed().as_secs() / (validity.as_secs() / 2);
    let most = HOSTS.len() * (usize::try_from(halves).unwrap() + 2);
    assert!(issued <= most, "{issued} certificates, not {most}");
    assert!(orders <= issued + HOSTS.len(), "{orders} orders for {issued} certificates");
    assert_eq!(house.acme.ca.accounts(), 1);
}

/// Every replica shows each new certificate, and no handshake ever fails.
///
/// Half a minute is how long the CA is left alone after a connection to it broke: the other half of a life
/// has to last for that.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_nobody_notices() {
    kept_alive(Duration::from_secs(80), 2, MINUTE * 3, "--acme-min-reissue=10s").await;
}

/// Two minutes each, for ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn long_certificates_of_two_minutes_live_for_ten() {
    kept_alive(MINUTE * 2, 8, MINUTE * 11, "--acme-min-reissue=10s").await;
}

/// RFC 9773 section 4.1: the authority's key id and the serial number, each in base64url.
fn cert_id(der: &[u8]) -> String {
    let (_, leaf) = X509Certificate::from_der(der).unwrap();
    let mut extensions = leaf.extensions().iter().map(X509Extension::parsed_extension);
    let key = extensions.find_map(|it| match it {
        ParsedExtension::AuthorityKeyIdentifier(it) => it.key_identifier.as_ref(),
        _ => None,
    });
    let encode = |it: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(it);
    format!("{}.{}", encode(key.unwrap().0), encode(leaf.raw_serial()))
}

/// The orders for a host that the CA was asked for, whatever it said.
fn orders(acme: &Acme, host: &str) -> Vec<(Timestamp, u16, Value)> {
    let age = |it: std::time::Instant| SignedDuration::try_from(it.elapsed()).unwrap();
    let mut orders = acme.ca.asked_for(Endpoint::NewOrder);
    // Those with a nonce that was refused were none.
    orders.retain(|it| it.payload.to_string().contains(host) && it.status != 400);
    orders.iter().map(|it| (Timestamp::now() - age(it.at), it.status, it.payload.clone())).collect()
}

/// Within the window the CA suggests, and as a replacement; if it will not have that, without.
#[tokio::test(flavor = "multi_thread")]
async fn r_ren_3_a_certificate_is_replaced_within_the_suggested_window() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let lockgate = acme.with_manifests("").start().await;
    for refused in [false, true] {
        let (name, host) = (format!("one-{refused}"), format!("one-{refused}.test"));
        // However long the first one takes: the window begins once it is asked for.
        acme.ca.hold(Endpoint::RenewalInfo, When::Before);
        lockgate.write(&format!("{name}.yaml"), asking(&name, &[&host], &[]));
        let first = acme.certified(&lockgate, &host, ISSUED).await;
        acme.ca.held().await;
        if refused {
            acme.ca.refuse(Endpoint::NewOrder, 1, 409, "alreadyReplaced", "it has been", &[]);
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let window = [2, 22].map(|it| now + SignedDuration::from_secs(it));
        acme.ca.suggest(1, window, "21600");
        acme.ca.release();
        let second = acme.renewed(&lockgate, &host, first.serial().as_deref(), ISSUED).await;
        assert_eq!(second.names(), [host.as_str()]);
        let orders = orders(&acme, &host);
        assert_eq!(orders[0].2["replaces"], Value::Null);
        let replaced = cert_id(first.peer_certificate().unwrap());
        let (at, status, order) = &orders[1];
        assert_eq!(order["replaces"], replaced, "{orders:#?}");
        assert!(*at >= window[0] && *at <= window[1], "{at} is not in {window:?}");
        assert_eq!(*status, if refused { 409 } else { 201 });
        if refused {
            let (again, status, order) = &orders[2];
            assert_eq!((*status, &order["replaces"]), (201, &Value::Null), "{orders:#?}");
            assert!(again.duration_since(*at).as_secs() < 5, "at once: {orders:#?}");
        }
        assert_eq!(orders.len(), if refused { 3 } else { 2 }, "{orders:#?}");
        assert!(lockgate.stderr().contains(EXPLANATION), "nobody is told why");
        // The next window is for another certificate.
        let next = cert_id(second.peer_certificate().unwrap());
        eventually("the window of the new one", SOON, async || {
            let looks = acme.ca.asked_for(Endpoint::RenewalInfo);
            looks.iter().any(|it| it.status == 200 && it.path.ends_with(&next))
        })
        .await;
    }
}

/// A window that moves into the past means now: that is how a CA recalls certificates.
#[tokio::test(flavor = "multi_thread")]
async fn r_ren_8_a_recalled_certificate_is_replaced_at_once() {
    const SPEED: u32 = 5;
    let acme = Acme::new(PebbleOptions::default()).await;
    let yaml = asking("one", &["one.test"], &[]);
    let start = acme.hasten(acme.with_manifests(&yaml), SPEED);
    let day = |it: i64| acme.ca.now() + SignedDuration::from_hours(24 * it);
    // What a CA says before any wish of ours to be asked again; a minute is the least that is believed.
    acme.ca.suggest(usize::MAX, [day(60), day(61)], "1");
    let lockgate = start.start().await;
    let first = acme.certified(&lockgate, "one.test", ISSUED).await;
    eventually("a second look", MINUTE, async || acme.ca.count(Endpoint::RenewalInfo, 200) > 1)
        .await;
    let looks = acme.ca.asked_for(Endpoint::RenewalInfo);
    let pause = (looks[1].at - looks[0].at) * SPEED;
    assert!(pause >= Duration::from_secs(50), "asked again after {pause:?}");
    assert_eq!(acme.ca.orders(), 1);
    acme.ca.heal();
    let second = |it: i64| acme.ca.now() + SignedDuration::from_secs(it);
    acme.ca.suggest(1, [second(-20), second(-10)], "21600");
    acme.renewed(&lockgate, "one.test", first.serial().as_deref(), MINUTE).await;
    let orders = orders(&acme, "one.test");
    assert_eq!(orders.len(), 2, "{orders:#?}");
    let replaced = cert_id(first.peer_certificate().unwrap());
    assert_eq!(orders[1].2["replaces"], replaced, "{orders:#?}");
}

/// A profile is asked for by name; one the CA does not have is told and costs no order.
#[tokio::test(flavor = "multi_thread")]
async fn r_ord_5_a_profile_is_ordered_or_nothing_is() {
    let profiles = vec![("week".to_owned(), MINUTE * 60 * 24 * 7)];
    let acme = Acme::new(PebbleOptions { profiles, ..PebbleOptions::default() }).await;
    let yaml = asking("one", &["one.test"], &[]);
    let lockgate = acme.with_manifests(&yaml).args(["--acme-profile=fortnight"]).start().await;
    eventually("the reason", SOON, async || lockgate.stderr().contains("fortnight")).await;
    lockgate.answers("http://one.test/", 200).await;
    assert_eq!(acme.ca.orders(), 0);
    drop(lockgate);
    let lockgate = acme.with_manifests(&yaml).args(["--acme-profile=week"]).start().await;
    let shown = acme.certified(&lockgate, "one.test", ISSUED).await;
    let (_, leaf) = X509Certificate::from_der(shown.peer_certificate().unwrap()).unwrap();
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((life - 604_800).abs() < 100, "{life} s");
    assert_eq!(orders(&acme, "one.test")[0].2["profile"], "week");
}

/// Several names in one Secret, one of which leads nowhere: the others get theirs, and all of them theirs
/// when it is put right.
#[tokio::test(flavor = "multi_thread")]
async fn r_ord_4_one_bad_name_does_not_cost_the_others_theirs() {
    let acme = Acme::new(PebbleOptions::default()).await;
    acme.pebble.set_address("lost.test", "127.0.0.9").await;
    let yaml = asking("one", &["one.test", "lost.test"], &[]);
    let lockgate = acme.hasten(acme.with_manifests(&yaml), 20).start().await;
    let shown = acme.certified(&lockgate, "one.test", MINUTE).await;
    assert_eq!(shown.names(), ["one.test"]);
    let issued = acme.ca.issued();
    acme.pebble.clear_address("lost.test").await;
    let serial = shown.serial();
    let shown = acme.renewed(&lockgate, "one.test", serial.as_deref(), MINUTE).await;
    assert_eq!(shown.names().len(), 2);
    assert_eq!((issued, acme.ca.issued()), (1, 2));
}

/// From the CA's rehearsal to the real one by another URL: the old certificate is shown until the new one
/// is there, and does not count as something to be replaced.
#[tokio::test(flavor = "multi_thread")]
async fn moving_to_another_ca_leaves_no_gap() {
    let staging = Acme::new(PebbleOptions::default()).await;
    let production = Acme::asking_at(staging.http, PebbleOptions::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let yaml = staging.objects(&asking("one", &["one.test"], &[]));
    std::fs::write(dir.path().join("a.yaml"), yaml).unwrap();
    let lockgate = staging.in_directory(dir.path()).start().await;
    staging.certified(&lockgate, "one.test", ISSUED).await;
    drop(lockgate);
    production.ca.hold(Endpoint::NewOrder, When::Before);
    let lockgate = production.in_directory(dir.path()).start().await;
    production.ca.held().await;
    let handshakes = {
        let both = staging.pebble.root_pem().await + &production.pebble.root_pem().await;
        Handshakes::start(
            Client::new().ca(&both).unresumed().connect_to(lockgate.https),
            "one.test",
        )
    };
    staging.certified(&lockgate, "one.test", SOON).await;
    production.ca.release();
    production.certified(&lockgate, "one.test", ISSUED).await;
    handshakes.stop().await.assert_clean();
    assert_eq!(orders(&production, "one.test")[0].2["replaces"], Value::Null);
    assert_eq!((staging.ca.orders(), production.ca.orders()), (1, 1));
}

/// The Secret of a kube-lego that is long gone: its certificate, years old, is shown until there is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_kube_lego_filled_is_taken_over() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let old = Authority::new("Fake LE Intermediate X1").issue_expired("one.test");
    let lego = tls_secret("one", &old)
        .replace("metadata:\n", "metadata:\n  annotations: {kubernetes.io/tls-acme: \"true\"}\n");
    let paths = [("/.well-known/acme-challenge", "Prefix", "kube-lego-nginx", 8080)];
    let leftover = ingress("kube-lego-nginx", "one.test", &paths, &[]);
    let yaml = [lego, leftover, asking("one", &["one.test"], &[])].concat();
    acme.ca.hold(Endpoint::NewOrder, When::Before);
    let lockgate = acme.with_manifests(&yaml).start().await;
    acme.ca.held().await;
    let any = lockgate.tls_client().connect("https://one.test/").await.unwrap();
    assert_eq!(any.names(), ["one.test"]);
    acme.ca.release();
    acme.certified(&lockgate, "one.test", ISSUED).await;
    let stored: Value =
        serde_json::from_str(&lockgate.file("issued/demo.one.secret.json").unwrap()).unwrap();
    assert_eq!(stored["metadata"]["annotations"]["lockgate.dev/managed"], "v1", "{stored:#}");
    Held::of(&stored);
}

/// Without the flag, or with kube-lego's variable, the CA is the one that is meant.
#[tokio::test(flavor = "multi_thread")]
async fn kube_legos_settings_are_understood() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let yaml = acme.objects(&asking("one", &["one.test"], &[]));
    let ca_file = acme.pebble.ca_file().display().to_string();
    let port = acme.http.to_string();
    let lockgate = Lockgate::with_manifests(yaml)
        .args(["--acme-ca-file", &ca_file, "--acme-http-port", &port, "--acme-settle=200ms"])
        .http_port(acme.http)
        .resolv_conf(&acme.pebble.resolv_conf())
        .env("LEGO_URL", &acme.ca.directory())
        .env("LEGO_EMAIL", "somebody@one.test");
    let lockgate = lockgate.start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    let accounts = acme.ca.asked();
    let told =
        accounts.iter().any(|it| it.payload["contact"] == json!(["mailto:somebody@one.test"]));
    assert!(told, "the CA was not told the address");
}

/// Each milestone and each obstacle is told to the owner of the Ingress it concerns, in words that say what
/// is wrong; a Secret that is somebody else's is left as it is.
#[tokio::test(flavor = "multi_thread")]
async fn r_vis_owners_are_told_what_happens() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let ca = &house.acme.ca;
    house.acme.pebble.set_address("lost.test", "127.0.0.9").await;
    let own = tls_secret("foreign", &pair(&["foreign.test"]));
    house.cluster.apply(&own).await;
    let before = house.secret("foreign").await;
    let replica = house.replica("lockgate").await;
    house.ask("good", &["good.test"]).await;
    house.ask("foreign", &["foreign.test"]).await;
    house.acme.certified(&replica, "good.test", ISSUED).await;
    let milestones = [
        "CertificateRequested",
        "OrderCreated",
        "CertificateIssued",
        "CertificateStored",
        "RenewalScheduled",
    ];
    for reason in milestones {
        house.told("good", reason).await;
        assert_eq!(house.events("good", reason).await[0]["type"], "Normal", "{reason}");
    }
    house.cluster.apply(&asking("lost", &["lost.test"], &[UNCHECKED])).await;
    let told = house.told("lost", "ValidationFailed").await;
    for part in ["lost.test", "connection refused"] {
        assert!(told.contains(part), "{told}");
    }
    let told = house.told("foreign", "SecretNotManaged").await;
    assert!(told.contains("foreign"), "{told}");
    assert_eq!(house.secret("foreign").await, before, "somebody else's Secret was written");

    let detail = "too many certificates (5) already issued for this exact set of identifiers";
    ca.limit(Endpoint::NewOrder, 1, Some("3600"), detail);
    house.ask("often", &["often.test"]).await;
    let told = house.told("often", "RateLimited").await;
    assert!(told.contains(detail), "{told}");
    ca.busy(&[]);
    house.ask("late", &["late.test"]).await;
    house.told("late", "CaUnavailable").await;
    for (name, reason) in [("lost", "ValidationFailed"), ("often", "RateLimited")] {
        let events = house.events(name, reason).await;
        assert_eq!((events.len(), &events[0]["type"]), (1, &json!("Warning")), "{events:#?}");
    }
    for (name, state) in [("good", "Ready"), ("lost", "Backoff"), ("often", "Backoff")] {
        eventually("its state is shown", SOON, async || {
            let told = replica.admin_json("/api/certificates").await;
            let managed = told["managed"].as_array().into_iter().flatten();
            let found = managed.into_iter().find(|it| it["secret"] == format!("demo/{name}"));
            let shown = found.map(|it| it["state"].clone());
            (shown == Some(json!(state))).then_some(()).ok_or(format!("{name}: {shown:?}"))
        })
        .await;
    }
}
