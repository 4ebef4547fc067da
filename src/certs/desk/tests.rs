use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::certs::ari::Told;
use crate::certs::selfcheck::{Look, Seen};
use crate::certs::tests::options;
use crate::certs::trouble::Trouble;
use crate::certs::{Acme, AcmeOptions, Budget, Keeper};
use crate::lease::Leadership;
use crate::metrics::{Metrics, Replica};
use crate::store::{Directory, Store};

const CA: &str = "https://ca.test/directory";
const DAY: i64 = 86_400;
pub(in crate::certs) const NOW: i64 = 1_800_000_000;

/// A keeper with a CA that is never asked.
pub(in crate::certs) fn keeper() -> Keeper {
    keeper_of(&Store::Directory(Directory::new([], "nowhere".into())))
}

/// Likewise, over this store.
pub(in crate::certs) fn keeper_of(store: &Store) -> Keeper {
    let acme = AcmeOptions {
        directory: CA.to_owned(),
        trust: Some(Vec::new()),
        email: None,
        profile: None,
        binding: None,
        account: ObjectName::new("lockgate", "account"),
    };
    let wall = || Timestamp::from_second(NOW).unwrap_or_default();
    let metrics = Arc::new(Metrics::new(&Replica::default()).expect("names differ"));
    let acme = Acme::new(acme, Leadership::sole(), metrics, wall).expect("a CA");
    let (mut options, ..) = options(store, Issuer::Acme(Box::new(acme)));
    options.flags.budget = Budget::default();
    options.flags.settle = Duration::ZERO;
    Keeper::new(options)
}

fn name() -> ObjectName {
    ObjectName::new("shop", "tls")
}

/// A pair for these names, begun at `begin`, for 90 days.
pub(in crate::certs) fn pair(names: &[&str], begin: i64) -> Arc<Keypair> {
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    let since = |second| Duration::from_secs(u64::try_from(second).unwrap_or(0));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(begin);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since(begin + 90 * DAY - 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let crt = params.self_signed(&key).expect("a certificate").pem();
    let key = key.serialize_pem();
    Arc::new(Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair"))
}

pub(in crate::certs) fn wanted(
    names: &[&str],
    held: Option<Arc<Keypair>>,
    marks: &[(&str, &str)],
) -> Wanted {
    let id = held.as_ref().map(|it| (marks::CERT_ID, it.id.as_str()));
    let all = marks.iter().copied().chain(id).collect();
    Wanted {
        names: names.iter().map(|it| (*it).to_owned()).collect(),
        ingresses: BTreeSet::from([ObjectName::new("shop", "web")]),
        exists: held.is_some(),
        issued_at: held.as_ref().map(|it| it.not_before),
        issuer: held.as_ref().map(|_| CA.to_owned()),
        held,
        marks: all,
        marked: true,
        self_check: false,
        reuse_key: false,
    }
}

fn desk(wanted: &Wanted) -> Desk {
    let mut desk = Desk::default();
    let plan = Plan { wanted: [(name(), wanted.clone())].into(), ..Plan::default() };
    desk.take(&plan, Instant::now());
    desk
}

/// A step in few words.
fn word(step: &Step) -> String {
    match step {
        Step::Rest(until) => format!("rest {}", until.map_or(0, |it| it - NOW)),
        Step::Wait { state, .. } => state.to_string(),
        Step::Do(Task::Order(item, priority)) => {
            let names: Vec<&str> = item.names.iter().map(String::as_str).collect();
            format!("order {} {priority:?}", names.join(","))
        }
        Step::Do(Task::Restore(_)) => "restore".to_owned(),
        Step::Do(Task::Adopt) => "adopt".to_owned(),
        Step::Do(Task::Revoke(..)) => "revoke".to_owned(),
        Step::Do(Task::Window(_)) => "window".to_owned(),
        Step::Do(Task::Look(state, _)) => format!("look, {state}"),
    }
}

fn step(desk: &mut Desk, keeper: &Keeper, wanted: &Wanted, now: i64) -> String {
    word(&desk.step(keeper, &name(), wanted, now))
}

/// Takes in a window as if the CA had been asked at `now`.
fn inform(desk: &mut Desk, wanted: &Wanted, window: Option<(i64, i64)>, now: i64) {
    let id = wanted.held.as_ref().expect("a certificate").id.clone();
    let mut ari = Ari { tried: Some(now), ..Ari::default() };
    let told = window.map(|(start, end)| Told {
        window: Window { id: id.clone(), start, end },
        notice: None,
        wait: None,
    });
    ari.take(told.ok_or(None), now);
    desk.windows.insert(name(), (id, ari));
}

fn look(seen: Seen) -> Vec<(String, Look)> {
    vec![("a.test".to_owned(), Look { seen, text: "seen".to_owned(), addresses: Vec::new() })]
}

#[test]
fn what_is_next_is_what_the_secret_calls_for() {
    let keeper = keeper();
    let (young, old) = (pair(&["a.test"], NOW), pair(&["a.test"], NOW - 80 * DAY));
    let fine = wanted(&["a.test"], Some(young.clone()), &[]);
    let expired = pair(&["a.test"], NOW - 100 * DAY);
    for (wanted, expected) in [
        (wanted(&["a.test"], None, &[]), "order a.test First"),
        (fine.clone(), "window"),
        (wanted(&["a.test"], Some(old), &[]), "window"),
        (wanted(&["a.test"], Some(young.clone()), &[("renew", "now")]), "order a.test Renewal"),
        (wanted(&["a.test", "b.test"], Some(young.clone()), &[]), "order a.test,b.test First"),
        (Wanted { issuer: Some("old".into()), ..fine.clone() }, "order a.test Renewal"),
        (
            Wanted { issuer: Some("old".into()), ..wanted(&["a.test"], Some(expired), &[]) },
            "order a.test Expired",
        ),
        (Wanted { marked: false, ..fine.clone() }, "adopt"),
        (wanted(&["a.test"], Some(young.clone()), &[("adopt", "true")]), "adopt"),
        (
            wanted(&["a.test"], Some(young.clone()), &[("revoked", young.id.as_str())]),
            "order a.test Renewal",
        ),
        (wanted(&["a.test"], Some(young), &[("revoke", "superseded")]), "revoke"),
    ] {
        assert_eq!(step(&mut desk(&wanted), &keeper, &wanted, NOW), expected, "{wanted:?}");
    }
}

#[test]
fn r_ord_1_names_settle_before_they_are_ordered() {
    let mut keeper = keeper();
    keeper.settle = Duration::from_secs(30);
    let held = pair(&["a.test"], NOW);
    for (wanted, most) in
        [(wanted(&["a.test"], None, &[]), 5), (wanted(&["a.test", "b.test"], Some(held), &[]), 30)]
    {
        let most = Duration::from_secs(most);
        let began = Instant::now();
        let mut desk = desk(&wanted);
        let Step::Wait { state, time: Some(time), .. } = desk.step(&keeper, &name(), &wanted, NOW)
        else {
            panic!("it does not wait: {wanted:?}");
        };
        assert_eq!(state, State::Checking);
        assert!(time <= most && time + began.elapsed() >= most);
        let (_, since) = desk.settled.get_mut(&name()).expect("it");
        *since = since.checked_sub(most).expect("a moment");
        assert!(step(&mut desk, &keeper, &wanted, NOW).starts_with("order"));
    }
}

#[test]
fn r_ca_nothing_is_asked_of_a_ca_that_is_down() {
    let keeper = keeper();
    let (young, old) = (pair(&["a.test"], NOW), pair(&["a.test"], NOW - 80 * DAY));
    for (wanted, expected) in [
        (wanted(&["a.test"], None, &[]), "Backoff"),
        (wanted(&["a.test"], Some(old), &[]), "Backoff"),
        (wanted(&["a.test"], Some(young.clone()), &[("renew", "force")]), "Backoff"),
        (wanted(&["a.test"], Some(young), &[("revoke", "superseded")]), "Backoff"),
    ] {
        let mut desk = desk(&wanted);
        desk.breaker.trip(&Trouble::Down { text: "gone".to_owned(), wait: None }, 0.0, NOW);
        assert_eq!(step(&mut desk, &keeper, &wanted, NOW), expected, "{wanted:?}");
    }
}

#[test]
fn r_ren_2_the_window_is_asked_for_at_once_and_then_now_and_then() {
    let keeper = keeper();
    let wanted = wanted(&["a.test"], Some(pair(&["a.test"], NOW)), &[]);
    let mut desk = desk(&wanted);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "window");
    inform(&mut desk, &wanted, Some((NOW + 60 * DAY, NOW + 62 * DAY)), NOW);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "rest 21600", "until it is asked again");
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW + 21_600), "window");
}

#[test]
fn r_ren_5_it_is_looked_at_again_exactly_when_it_is_due() {
    let keeper = keeper();
    let wanted = wanted(&["a.test"], Some(pair(&["a.test"], NOW - 60 * DAY)), &[]);
    let mut desk = desk(&wanted);
    let (start, end) = (NOW + 1_000, NOW + 2_000);
    inform(&mut desk, &wanted, Some((start, end)), NOW);
    let Step::Rest(Some(at)) = desk.step(&keeper, &name(), &wanted, NOW) else {
        panic!("it does not rest");
    };
    assert!((start..start + 750).contains(&at), "in the first three quarters of the window");
    assert_eq!(step(&mut desk, &keeper, &wanted, at - 1), format!("rest {}", at - NOW));
    assert_eq!(step(&mut desk, &keeper, &wanted, at), "order a.test Renewal");
}

#[test]
fn r_ren_3_an_old_window_is_asked_for_before_it_is_acted_upon() {
    let keeper = keeper();
    let wanted = wanted(&["a.test"], Some(pair(&["a.test"], NOW - 70 * DAY)), &[]);
    let mut desk = desk(&wanted);
    inform(&mut desk, &wanted, Some((NOW - 4 * DAY, NOW + DAY)), NOW - 3_601);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "window");
    inform(&mut desk, &wanted, None, NOW);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "order a.test Renewal", "no news is none");
}

#[test]
fn r_led_a_loop_ends_in_a_guard_and_is_told() {
    let keeper = keeper();
    let wanted = wanted(&["a.test"], None, &[]);
    let key = ledger::key(CA, &wanted.names);
    let ask = Ask { key: &key, names: &wanted.names, first: true, forced: false, early: false };
    for hour in 1..=3 {
        keeper.book.open().issued(&ask, false, NOW - hour * 3_600);
    }
    let Step::Wait { state, why, until, .. } = desk(&wanted).step(&keeper, &name(), &wanted, NOW)
    else {
        panic!("it does not wait");
    };
    assert_eq!((state, until), (State::Blocked, Some(NOW - 3 * 3_600 + 7 * DAY)));
    assert!(why.starts_with("RunawayGuard"), "{why}");
    // Who asks is told so by the order that is not placed.
    let asked = Wanted {
        marks: [("renew", "now")].into(),
        held: Some(pair(&["a.test"], NOW)),
        exists: true,
        ..wanted
    };
    assert_eq!(step(&mut desk(&asked), &keeper, &asked, NOW), "order a.test Renewal");
}

#[test]
fn r_led_what_the_ca_wants_early_leaves_something_for_what_cannot_wait() {
    let keeper = keeper();
    let wanted = wanted(&["a.test"], Some(pair(&["a.test"], NOW - 20 * DAY)), &[]);
    let key = ledger::key(CA, &wanted.names);
    let ask = Ask { key: &key, names: &wanted.names, first: false, forced: false, early: false };
    let mut desk = desk(&wanted);
    inform(&mut desk, &wanted, Some((NOW - DAY, NOW - 10)), NOW);
    keeper.book.open().issued(&ask, false, NOW - 5 * DAY);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "order a.test Renewal");
    keeper.book.open().issued(&ask, false, NOW - 4 * DAY);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "Backoff", "the third is kept");
}

/// Revoked within the hour, with all of the budget spent but what a person may have, and then refused.
#[test]
fn what_was_revoked_is_replaced_past_the_budget_but_not_past_its_back_off() {
    let keeper = keeper();
    let held = pair(&["a.test"], NOW);
    let revoked = wanted(&["a.test"], Some(held.clone()), &[("revoked", held.id.as_str())]);
    let key = ledger::key(CA, &revoked.names);
    let ask = Ask { key: &key, names: &revoked.names, first: false, forced: false, early: false };
    for _ in 0..3 {
        keeper.book.open().issued(&ask, false, NOW - 60);
    }
    let mut desk = desk(&revoked);
    assert_eq!(step(&mut desk, &keeper, &revoked, NOW), "order a.test Renewal");
    failed(&keeper, &revoked, Class::B, &["a.test"], NOW + 600);
    assert_eq!(step(&mut desk, &keeper, &revoked, NOW), "Backoff");
    assert_eq!(step(&mut desk, &keeper, &revoked, NOW + 600), "order a.test Renewal", "still");
    keeper.book.open().issued(&ask, false, NOW);
    assert_eq!(step(&mut desk, &keeper, &revoked, NOW + 600), "Blocked", "one more, not two");
}

fn failed(keeper: &Keeper, wanted: &Wanted, class: Class, bad: &[&str], until: i64) {
    let bad: Vec<String> = bad.iter().map(|it| (*it).to_owned()).collect();
    let failure = ledger::Failure { class, attempt: true, until, error: "no", bad: &bad, spec: "" };
    let key = ledger::key(CA, &wanted.names);
    keeper.book.open().failed(&key, &failure, NOW);
}

#[test]
fn r_ord_4_for_want_of_the_whole_a_part_once_a_day() {
    let (young, old) = (pair(&["a.test"], NOW), pair(&["a.test", "b.test"], NOW - 80 * DAY));
    let nearly = pair(&["a.test", "b.test"], NOW - 60 * DAY - 10);
    for (held, class, bad, expected) in [
        (None, Class::B, &["b.test"][..], "order a.test Subset"),
        (None, Class::D, &["b.test"], "order a.test Subset"),
        (None, Class::B, &[], "Backoff"),
        (None, Class::B, &["a.test", "b.test"], "Backoff"),
        (None, Class::C, &["b.test"], "Backoff"),
        // What is shown covers the rest, and is good for long.
        (Some(young), Class::B, &["b.test"], "Backoff"),
        (Some(old), Class::B, &["b.test"], "order a.test Subset"),
        (Some(nearly), Class::B, &["b.test"], "Backoff"),
    ] {
        let keeper = keeper();
        let wanted = wanted(&["a.test", "b.test"], held, &[]);
        let mut desk = desk(&wanted);
        if wanted.held.is_some() {
            inform(&mut desk, &wanted, None, NOW);
        }
        failed(&keeper, &wanted, class, bad, NOW + 43_200);
        assert_eq!(
            step(&mut desk, &keeper, &wanted, NOW),
            expected,
            "{class:?} {bad:?} {wanted:?}"
        );
        keeper.book.open().subset(&ledger::key(CA, &wanted.names), NOW - DAY + 1);
        let state = if class == Class::D { "Blocked" } else { "Backoff" };
        assert_eq!(step(&mut desk, &keeper, &wanted, NOW), state, "once a day");
    }
}

#[test]
fn r_ord_4_a_part_is_no_reason_to_order_before_the_whole_may_be_tried_again() {
    let keeper = keeper();
    let wanted = wanted(&["a.test", "b.test"], Some(pair(&["a.test"], NOW)), &[]);
    failed(&keeper, &wanted, Class::B, &["b.test"], NOW + 43_200);
    let mut desk = desk(&wanted);
    assert_eq!(step(&mut desk, &keeper, &wanted, NOW), "Backoff");
    // The failure in the last hour does not stand in the way any more then, either.
    let later = step(&mut desk, &keeper, &wanted, NOW + 43_200);
    assert_eq!(later, "order a.test,b.test First");
}

#[test]
fn r_bak_what_failed_waits_and_says_why() {
    for (class, expected) in
        [(Class::B, "Backoff"), (Class::C, "Backoff"), (Class::D, "Blocked"), (Class::G, "Blocked")]
    {
        let keeper = keeper();
        let wanted = wanted(&["a.test"], None, &[]);
        failed(&keeper, &wanted, class, &["a.test"], NOW + 60);
        let mut desk = desk(&wanted);
        assert_eq!(step(&mut desk, &keeper, &wanted, NOW + 59), expected, "{class:?}");
        assert_eq!(step(&mut desk, &keeper, &wanted, NOW + 60), "order a.test First", "{class:?}");
    }
}

#[test]
fn a_person_is_not_kept_waiting_but_by_the_cas_limits() {
    for (class, expected) in [(Class::B, "order a.test Renewal"), (Class::C, "Backoff")] {
        let keeper = keeper();
        let wanted = wanted(&["a.test"], Some(pair(&["a.test"], NOW)), &[("renew", "now")]);
        failed(&keeper, &wanted, class, &[], NOW + 60);
        assert_eq!(step(&mut desk(&wanted), &keeper, &wanted, NOW), expected, "{class:?}");
    }
}

#[test]
fn r_pre_3_the_hosts_are_looked_at_first_unless_somebody_says_otherwise() {
    let keeper = keeper();
    let checked = Wanted { self_check: true, ..wanted(&["a.test"], None, &[]) };
    let mut desk = desk(&checked);
    assert_eq!(step(&mut desk, &keeper, &checked, NOW), "look, Checking");
    for (seen, at, expected) in [
        (Seen::NoDns, NOW, "WaitingForRoute"),
        (Seen::NoDns, NOW + 3_600, "order a.test First"),
        (Seen::Ok, NOW, "order a.test First"),
    ] {
        let mut sight = Sight::default();
        sight.take(look(seen), NOW);
        desk.sights.insert(name(), (checked.names.clone(), sight));
        assert_eq!(step(&mut desk, &keeper, &checked, at), expected, "{seen:?}");
    }
    let mut sight = Sight::default();
    sight.take(look(Seen::NoDns), NOW);
    desk.sights.insert(name(), (checked.names.clone(), sight));
    assert_eq!(step(&mut desk, &keeper, &checked, NOW + 10), "look, WaitingForRoute");
    let off = Wanted { self_check: false, ..checked };
    assert_eq!(step(&mut desk, &keeper, &off, NOW), "order a.test First");
}

#[test]
fn r_pre_3_while_it_waits_a_host_that_did_not_lead_here_is_looked_at() {
    let keeper = keeper();
    let checked = Wanted { self_check: true, ..wanted(&["a.test"], None, &[]) };
    failed(&keeper, &checked, Class::B, &["a.test"], NOW + 6_000);
    let mut desk = desk(&checked);
    let mut sight = Sight::default();
    sight.take(look(Seen::Foreign), NOW);
    desk.sights.insert(name(), (checked.names.clone(), sight.clone()));
    assert_eq!(step(&mut desk, &keeper, &checked, NOW + 9), "Backoff");
    assert_eq!(step(&mut desk, &keeper, &checked, NOW + 10), "look, Backoff");
    assert!(sight.take(look(Seen::Ok), NOW + 10), "which is news");
    desk.sights.insert(name(), (checked.names.clone(), sight));
    keeper.book.open().hasten(&ledger::key(CA, &checked.names), NOW + 10);
    assert_eq!(step(&mut desk, &keeper, &checked, NOW + 10), "order a.test First");
}
