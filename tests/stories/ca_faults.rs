//! A CA that is down, busy, slow, forgetful or strict: what is served does not suffer, it is not asked
//! more than it wants to be, and afterwards everything goes on by itself.

use std::time::{Duration, Instant};

use crate::harness::acme::{Acme, Handshakes, ISSUED, UNCHECKED, asking};
use crate::harness::ca_proxy::{Asked, CaProxy, Endpoint};
use crate::harness::lockgate::Lockgate;
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually};

const MINUTE: Duration = Duration::from_secs(60);

/// Somewhere nobody listens.
const NOWHERE: &str = "127.0.0.9";

/// A way to lose the answers to so many requests.
type Loss = fn(&CaProxy, Endpoint, usize);

/// Seconds between the first requests of each burst, as a clock of this speed counts them.
fn gaps(asked: &[Asked], speed: u32) -> Vec<f64> {
    let mut begins: Vec<Instant> = Vec::new();
    let mut last: Option<Instant> = None;
    for it in asked {
        // What follows soon belongs to the same try.
        let pause = last.map(|last| (it.at - last).as_secs_f64() * f64::from(speed));
        if pause.is_none_or(|it| it > 15.0) {
            begins.push(it.at);
        }
        last = Some(it.at);
    }
    begins.windows(2).map(|it| (it[1] - it[0]).as_secs_f64() * f64::from(speed)).collect()
}

async fn waits(lockgate: &Lockgate, what: &str, limit: Duration) {
    eventually(what, limit, async || {
        let log = lockgate.stderr();
        if log.contains(what) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// For an hour the CA answers with a page about being busy; the more patient we get, the fewer hosts wait.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_a_ca_costs_eight_questions() {
    const SPEED: u32 = 80;
    let acme = Acme::new(PebbleOptions::default()).await;
    // At this speed even an answer in time may be too late for us.
    acme.ca.be_boulder();
    let start = acme.with_manifests(&asking("one", &["one.test"], &[]));
    let lockgate = acme.hasten(start, SPEED).start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    acme.ca.busy(&[]);
    let before = acme.ca.asked().len();
    let hosts = ["two.test", "three.test", "four.test"];
    let more: Vec<_> =
        hosts.iter().map(|it| asking(&it.replace(".test", ""), &[it], &[])).collect();
    lockgate.write("more.yaml", more.concat());
    // The first pause, of half a minute, begins with three tries.
    let expected = [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0];
    let seen = || gaps(&acme.ca.asked()[before..], SPEED);
    let long = expected[expected.len() - 1] * 0.75;
    eventually("an hour", MINUTE * 2, async || {
        let seen = seen();
        let over = seen.len() >= expected.len() && seen.last().is_some_and(|it| *it > long);
        if over { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let seen = seen();
    // What comes before are the first tries themselves.
    let last = &seen[seen.len().saturating_sub(expected.len())..];
    assert_eq!(last.len(), expected.len(), "{seen:?}");
    for (gap, expected) in last.iter().zip(expected) {
        // A fifth of jitter, and three seconds of this machine's.
        let fits = (expected * 0.75..expected * 1.25 + 3.0 * f64::from(SPEED)).contains(gap);
        assert!(fits, "{gap} instead of {expected}: {seen:?}");
    }
    // Each host may try once until it is known; then one asks for all of them.
    let asked = acme.ca.asked().len() - before;
    assert!(asked <= 2 * (hosts.len() + expected.len() + 1), "{asked} requests in an hour");
    acme.certified(&lockgate, "one.test", SOON).await;
    for host in hosts {
        lockgate.answers(&format!("http://{host}/"), 200).await;
    }
    acme.ca.heal();
    // Half an hour at the most, and a fifth; once more if the first that asks then is too slow.
    for host in hosts {
        acme.certified(&lockgate, host, MINUTE * 3).await;
    }
    assert_eq!((acme.ca.issued(), acme.ca.accounts()), (4, 1));
}

/// Nothing that is served waits for a CA that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn r_ca_what_is_served_does_not_need_the_ca() {
    let acme = Acme::new(PebbleOptions::default()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yaml"), acme.objects(&asking("one", &["one.test"], &[])))
        .unwrap();
    let lockgate = acme.in_directory(dir.path()).start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    drop(lockgate);
    // It starts, is ready and serves with nobody there, and with somebody who says nothing.
    for nobody in [true, false] {
        if nobody {
            acme.ca.busy(&[]);
        } else {
            acme.ca.heal();
            acme.ca.hang(Endpoint::Directory, usize::MAX);
        }
        let (begun, before) = (Instant::now(), acme.ca.asked().len());
        let lockgate = acme.in_directory(dir.path()).start().await;
        let name = format!("more-{nobody}");
        let host = format!("{name}.test");
        std::fs::write(dir.path().join(&name).with_extension("yaml"), asking(&name, &[&host], &[]))
            .unwrap();
        let handshakes = Handshakes::start(acme.client(&lockgate).await, "one.test");
        eventually("a question", SOON, async || acme.ca.asked().len() > before).await;
        lockgate.answers(&format!("http://{host}/"), 200).await;
        let report = handshakes.stop().await;
        report.assert_clean();
        // Whoever waited for the CA would have waited for so long.
        assert!(begun.elapsed() < MINUTE / 2, "{:?}", begun.elapsed());
    }
}

/// However the CA says how long to wait, it is not asked before; whom that does not concern goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_for_to_the_second() {
    const WAIT: u64 = 7;
    let acme = Acme::new(PebbleOptions::default()).await;
    let lockgate = acme.with_manifests(&asking("zero", &["zero.test"], &[])).start().await;
    acme.certified(&lockgate, "zero.test", ISSUED).await;
    for (turn, way) in ["seconds", "date", "text"].into_iter().enumerate() {
        let (fixed, now) = (Instant::now(), jiff::Timestamp::now());
        let until = now + Duration::from_secs(WAIT);
        let seconds = WAIT.to_string();
        let date = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let text = until.strftime("%Y-%m-%d %H:%M:%S UTC");
        let detail = "too many new orders (300) from this account in the last 3h0m0s";
        let with_text = format!("{detail}, retry after {text}");
        let (retry_after, detail) = match way {
            "seconds" => (Some(seconds.as_str()), detail),
            "date" => (Some(date.as_str()), detail),
            _ => (None, with_text.as_str()),
        };
        acme.ca.limit(Endpoint::NewOrder, 1, retry_after, detail);
        let before = acme.ca.asked_for(Endpoint::NewOrder).len();
        let names = [format!("first-{turn}"), format!("second-{turn}")];
        let hosts = names.each_ref().map(|it| format!("{it}.test"));
        lockgate.write(&format!("{}.yaml", names[0]), asking(&names[0], &[&hosts[0]], &[]));
        let orders = || acme.ca.asked_for(Endpoint::NewOrder).split_off(before);
        eventually("a refusal", SOON, async || orders().first().is_some_and(|it| it.status == 429))
            .await;
        // It is the account that has to wait.
        lockgate.write(&format!("{}.yaml", names[1]), asking(&names[1], &[&hosts[1]], &[]));
        for host in &hosts {
            acme.certified(&lockgate, host, ISSUED).await;
        }
        let orders = orders();
        // Seconds run from the refusal; a moment was fixed before, in whole seconds.
        let (since, least) = match way {
            "seconds" => (orders[0].at, WAIT),
            _ => (fixed, WAIT - 1),
        };
        let waited = orders[1].at - since;
        assert!(waited >= Duration::from_secs(least), "{way}: asked again after {waited:?}");
    }
    // What concerns one name or set is no business of the others.
    for (turn, detail) in [
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
        "too many failed authorizations (5) for \"stuck-1.test\" in the last 1h0m0s",
    ]
    .into_iter()
    .enumerate()
    {
        acme.ca.limit(Endpoint::NewOrder, 1, Some("3600"), detail);
        let before = acme.ca.asked_for(Endpoint::NewOrder).len();
        let [stuck, free] = [format!("stuck-{turn}"), format!("free-{turn}")];
        let host = format!("{stuck}.test");
        lockgate.write(&format!("{stuck}.yaml"), asking(&stuck, &[&host], &[]));
        eventually("a refusal", SOON, async || {
            acme.ca.asked_for(Endpoint::NewOrder).len() > before
        })
        .await;
        let host = format!("{free}.test");
        lockgate.write(&format!("{free}.yaml"), asking(&free, &[&host], &[]));
        acme.certified(&lockgate, &host, ISSUED).await;
        // A nonce that is refused on purpose makes no order.
        let mut asked = acme.ca.asked_for(Endpoint::NewOrder).split_off(before);
        asked.retain(|it| it.status != 400);
        assert_eq!(asked.len(), 2, "{detail}");
    }
}

/// Answers that never come, or break off, or are no JSON: the same order is gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_cost_no_certificate() {
    const SPEED: u32 = 20;
    let acme = Acme::new(PebbleOptions::default()).await;
    acme.ca.be_boulder();
    let lockgate = acme.with_manifests(&asking("zero", &["zero.test"], &[]));
    let lockgate = acme.hasten(lockgate, SPEED).start().await;
    acme.certified(&lockgate, "zero.test", ISSUED).await;
    let places = [
        Endpoint::Nonce,
        Endpoint::NewOrder,
        Endpoint::Authorization,
        Endpoint::Challenge,
        Endpoint::Finalize,
        Endpoint::Certificate,
    ];
    let ways: [(&str, Loss); 2] = [("hang", CaProxy::hang), ("cut", CaProxy::truncate)];
    for (turn, place) in places.into_iter().enumerate() {
        // An answer with a nonce has no body to cut.
        let ways = if place == Endpoint::Nonce { &ways[..1] } else { &ways };
        for (way, lose) in ways {
            let (orders, issued) = (acme.ca.orders(), acme.ca.issued());
            lose(&acme.ca, place, 1);
            let name = format!("{way}-{turn}");
            let host = format!("{name}.test");
            lockgate.write(&format!("{name}.yaml"), asking(&name, &[&host], &[]));
            acme.certified(&lockgate, &host, MINUTE * 2).await;
            assert_eq!(acme.ca.issued() - issued, 1, "certificates, {way} at {place:?}");
            assert!(acme.ca.orders() - orders <= 2, "orders, {way} at {place:?}");
            // A connection for nonces may be needed later only.
            acme.ca.heal();
        }
    }
    assert_eq!(acme.ca.accounts(), 1);
}

/// Half of all good nonces are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_bad_nonces_is_sat_out() {
    let options = PebbleOptions { nonce_reject: 50, ..PebbleOptions::default() };
    let acme = Acme::new(options).await;
    let hosts = ["one.test", "two.test", "three.test"];
    let yaml: Vec<_> =
        hosts.iter().map(|it| asking(&it.replace(".test", ""), &[it], &[])).collect();
    let lockgate = acme.hasten(acme.with_manifests(&yaml.concat()), 30).start().await;
    for host in hosts {
        acme.certified(&lockgate, host, MINUTE * 2).await;
    }
    assert_eq!((acme.ca.issued(), acme.ca.accounts()), (3, 1));
}

/// A name that leads elsewhere is tried after a minute, ten minutes, and so on; its owner reads the CA's
/// words, which Let's Encrypt has in another place than Pebble.
#[tokio::test(flavor = "multi_thread")]
async fn failed_validations_are_tried_less_and_less() {
    const SPEED: u32 = 20;
    let acme = Acme::new(PebbleOptions::default()).await;
    acme.ca.be_boulder();
    acme.pebble.set_address("lost.test", NOWHERE).await;
    let yaml = asking("lost", &["lost.test"], &[UNCHECKED]) + &asking("one", &["one.test"], &[]);
    let lockgate = acme.hasten(acme.with_manifests(&yaml), SPEED).start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    waits(&lockgate, "connection refused", SOON).await;
    let tries = || {
        let mut orders = acme.ca.asked_for(Endpoint::NewOrder);
        orders.retain(|it| it.payload.to_string().contains("lost.test") && it.status == 201);
        orders
    };
    eventually("three tries", MINUTE * 2, async || tries().len() == 3).await;
    let tries = tries();
    for (pair, expected) in tries.windows(2).zip([60.0, 600.0]) {
        let gap = (pair[1].at - pair[0].at).as_secs_f64() * f64::from(SPEED);
        let fits = (expected * 0.85..expected * 1.15 + 60.0).contains(&gap);
        assert!(fits, "{gap} instead of {expected}");
    }
    acme.certified(&lockgate, "one.test", SOON).await;
}

/// A clock that differs by days from the CA's is told of, and nothing is ordered by it.
#[tokio::test(flavor = "multi_thread")]
async fn r_clk_nothing_is_ordered_by_a_clock_that_is_days_off() {
    const SPEED: u32 = 20;
    let acme = Acme::new(PebbleOptions::default()).await;
    let start = acme.hasten(acme.with_manifests(&asking("one", &["one.test"], &[])), SPEED);
    acme.ca.set_clock(-3.0 * 86_400.0, SPEED.into());
    let lockgate = start.start().await;
    waits(&lockgate, "clock", SOON * 2).await;
    lockgate.answers("http://one.test/", 200).await;
    assert_eq!(acme.ca.orders(), 0);
    acme.ca.set_clock(0.0, SPEED.into());
    acme.certified(&lockgate, "one.test", MINUTE).await;
}

/// One that differs by minutes is told of, and worked with.
#[tokio::test(flavor = "multi_thread")]
async fn r_clk_a_clock_that_is_minutes_off_is_told() {
    let acme = Acme::new(PebbleOptions::default()).await;
    acme.ca.set_clock(600.0, 1.0);
    let lockgate = acme.with_manifests(&asking("one", &["one.test"], &[])).start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    // Before the first answer nothing is known of the CA's clock.
    lockgate.write("two.yaml", asking("two", &["two.test"], &[]));
    acme.certified(&lockgate, "two.test", ISSUED).await;
    waits(&lockgate, "clock", SOON).await;
}

/// After a restart of the CA nobody knows our account: the same key is registered again, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_lost_its_accounts_gets_the_same_key_again() {
    let mut acme = Acme::new(PebbleOptions::default()).await;
    let lockgate = acme.with_manifests(&asking("one", &["one.test"], &[]));
    let lockgate = acme.hasten(lockgate, 10).start().await;
    acme.certified(&lockgate, "one.test", ISSUED).await;
    let token = "http://one.test/.well-known/acme-challenge/0123456789abcdef";
    let thumbprint = lockgate.client().get(token).await.unwrap().text();
    let old = acme.client(&lockgate).await;
    acme.pebble.restart().await;
    lockgate.write("two.yaml", asking("two", &["two.test"], &[]));
    acme.certified(&lockgate, "two.test", MINUTE).await;
    assert_eq!(old.get("https://one.test/").await.unwrap().status, 200);
    assert_eq!(lockgate.client().get(token).await.unwrap().text(), thumbprint);
    assert_eq!(acme.ca.accounts(), 2, "one at each of the two CAs");
}
