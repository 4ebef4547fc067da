use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|it| (*it).to_owned()).collect()
}

fn ask<'a>(key: &'a str, names: &'a BTreeSet<String>) -> Ask<'a> {
    Ask { key, names, first: false, forced: false, early: false }
}

/// Written down and read again, as by the next leader.
fn reread(ledger: &mut Ledger) -> Ledger {
    let mut next = Ledger::new(ledger.budget);
    for at in 0..PAGES {
        next.read(at, &ledger.write(at));
    }
    next
}

/// Orders and gets a certificate, if that is allowed.
fn issue(ledger: &mut Ledger, ask: &Ask<'_>, now: i64) -> Result<(), Spent> {
    ledger.admits(ask, false, now)?;
    ledger.reserve(ask.key, now);
    ledger.issued(ask, false, now);
    Ok(())
}

#[test]
fn r_led_by_default_three_in_seven_days_an_hour_apart() {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let ask = ask(&key, &names);
    let mut ledger = Ledger::new(Budget::default());
    let mut issued = Vec::new();
    for minute in 0..30 * 24 * 60 {
        let now = 1_800_000_000 + minute * 60;
        if issue(&mut ledger, &ask, now).is_ok() {
            issued.push(minute);
        }
        if minute % 997 == 0 {
            ledger.prune(now);
            ledger = reread(&mut ledger);
        }
    }
    let week = 7 * 24 * 60;
    assert_eq!(issued[..6], [0, 60, 120, week, week + 60, week + 120]);
}

#[test]
fn r_led_a_person_may_have_one_more() {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let usual = ask(&key, &names);
    let forced = Ask { forced: true, ..usual };
    let mut ledger = Ledger::new(Budget::default());
    let now = 1_800_000_000;
    for hour in 0..3 {
        assert_eq!(issue(&mut ledger, &usual, now + hour * HOUR), Ok(()));
    }
    let spent = ledger.admits(&usual, false, now + 3 * HOUR).expect_err("spent");
    assert!(spent.runaway && spent.text.contains("--force"), "{spent:?}");
    assert_eq!(spent.until, now + 7 * DAY);
    assert_eq!(issue(&mut ledger, &forced, now + 2 * HOUR + 1), Ok(()), "at once");
    assert!(issue(&mut ledger, &forced, now + 2 * HOUR + 2).is_err(), "one");
    assert!(issue(&mut ledger, &usual, now + 7 * DAY).is_err(), "which counts");
}

#[test]
fn r_ord_6_an_account_orders_no_more_than_the_ca_takes() {
    let mut ledger = Ledger::new(Budget::default());
    let mut placed = 0;
    let now = 1_800_000_000;
    for at in 0..400 {
        let names = names(&[&format!("a{at}.test")]);
        let key = key("ca", &names);
        if issue(&mut ledger, &ask(&key, &names), now + at).is_ok() {
            placed += 1;
        }
    }
    assert_eq!((placed, ledger.orders_left(now + 400)), (240, 0));
    assert_eq!(ledger.orders_left(now + 4 * HOUR), 240);
}

#[test]
fn r_ord_6_new_names_of_a_domain_are_few_a_week() {
    let mut ledger = Ledger::new(Budget::default());
    let mut placed = 0;
    let now = 1_800_000_000;
    for at in 0..60 {
        let names = names(&[&format!("pr-{at}.preview.example.co.uk")]);
        let key = key("ca", &names);
        let ask = Ask { first: true, ..ask(&key, &names) };
        placed += u32::from(issue(&mut ledger, &ask, now + at * HOUR).is_ok());
        ledger = reread(&mut ledger);
    }
    assert_eq!(placed, 40);
    assert_eq!(registered_domain("pr-1.preview.example.co.uk"), "example.co.uk");
    let other = names(&["pr-0.preview.example.co.uk"]);
    let key = key("ca", &other);
    assert_eq!(
        issue(&mut ledger, &ask(&key, &other), now + 60 * HOUR),
        Ok(()),
        "a renewal is free"
    );
}

#[test]
fn r_pre_3_a_name_fails_three_times_an_hour_at_most() {
    let names = names(&["a.test", "b.test"]);
    let key = key("ca", &names);
    let mut ledger = Ledger::new(Budget::default());
    let now = 1_800_000_000;
    let failure = Failure {
        class: Class::B,
        attempt: true,
        until: 0,
        error: "no",
        bad: &["b.test".to_owned()],
        spec: "",
    };
    for at in 0..3 {
        assert_eq!(ledger.admits(&ask(&key, &names), false, now + at), Ok(()));
        ledger.failed(&key, &failure, now + at);
    }
    let spent = ledger.admits(&ask(&key, &names), false, now + 3).expect_err("spent");
    assert_eq!((spent.until, spent.runaway), (now + HOUR, false));
    assert_eq!(reread(&mut ledger).admits(&ask(&key, &names), false, now + HOUR), Ok(()));
}

#[test]
fn r_bak_a_limit_holds_up_what_it_is_about() {
    let (a, b) = (names(&["a.example.org"]), names(&["b.test"]));
    let (key_a, key_b) = (key("ca", &a), key("ca", &b));
    let now = 1_800_000_000;
    for (scope, of_a, of_b) in [
        (Scope::Account, true, true),
        (Scope::Domain("example.org".to_owned()), true, false),
        (Scope::Name("a.example.org".to_owned()), true, false),
        (Scope::Name("c.example.org".to_owned()), false, false),
    ] {
        let mut ledger = Ledger::new(Budget::default());
        ledger.limit(&scope, now + 100);
        let ledger = reread(&mut ledger);
        assert_eq!(ledger.admits(&ask(&key_a, &a), false, now).is_err(), of_a, "{scope}");
        assert_eq!(ledger.admits(&ask(&key_b, &b), false, now).is_err(), of_b, "{scope}");
        assert_eq!(ledger.admits(&ask(&key_a, &a), false, now + 100), Ok(()), "{scope}");
    }
}

#[test]
fn r_bak_another_question_is_asked_at_once() {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let now = 1_800_000_000;
    for (class, expected) in [(Class::D, 0), (Class::B, now + DAY)] {
        let mut ledger = Ledger::new(Budget::default());
        let failure =
            Failure { class, attempt: true, until: now + DAY, error: "no", bad: &[], spec: "old" };
        ledger.failed(&key, &failure, now);
        assert_eq!(ledger.backoff(&key, "old").until, now + DAY, "{class:?}");
        assert_eq!(ledger.backoff(&key, "new").until, expected, "{class:?}");
    }
}

#[test]
fn r_acc_an_account_is_registered_anew_once_a_day() {
    let mut ledger = Ledger::new(Budget::default());
    let now = 1_800_000_000;
    assert_eq!(ledger.register("ca", now), Ok(()));
    let mut ledger = reread(&mut ledger);
    assert_eq!(ledger.register("ca", now + DAY - 1), Err(now + DAY));
    assert_eq!(ledger.register("other", now), Ok(()));
    assert_eq!(ledger.register("ca", now + DAY), Ok(()));
}

#[test]
fn r_led_the_ledger_is_bounded() {
    let mut ledger = Ledger::new(Budget::default());
    let now = 1_800_000_000;
    let error = "x".repeat(5_000);
    for at in 0..20_000 {
        let bad = [format!("{at}.{}.test", "long".repeat(12))];
        let names = BTreeSet::from(bad.clone());
        let key = key("ca", &names);
        let ask = Ask { first: true, ..ask(&key, &names) };
        if ledger.admits(&ask, false, now + 1).is_err_and(|it| it.text.contains("room")) {
            continue;
        }
        ledger.issued(&ask, false, now);
        let spec = "";
        let class = Class::B;
        let failure = Failure { class, attempt: true, until: now, error: &error, bad: &bad, spec };
        ledger.failed(&key, &failure, now);
    }
    ledger.prune(now);
    for at in 0..PAGES {
        let length = ledger.write(at).len();
        assert!(length < 1 << 20, "page {at} has {length} bytes");
    }
    ledger.prune(now + 40 * DAY);
    assert!((0..PAGES).all(|at| ledger.write(at).len() < 100), "and forgets");
}

/// Whatever failures say, and however the sets were chosen: what was issued is not crowded out.
#[test]
fn r_led_a_page_never_outgrows_its_config_map() {
    let now = 1_800_000_000;
    let mut ledger = Ledger::new(Budget::default());
    let bad: Vec<String> = (0..10).map(|at| format!("{at}{}.test", "x".repeat(240))).collect();
    // Each of these takes six bytes in JSON.
    let error = "\u{1}".repeat(5_000);
    let class = Class::B;
    let failure = Failure { class, attempt: true, until: now, error: &error, bad: &bad, spec: "" };
    let good = names(&["good.test"]);
    let good = (key("ca", &good), good);
    assert_eq!(issue(&mut ledger, &ask(&good.0, &good.1), now), Ok(()));
    let at = place(&good.0);
    let keys = (0..).map(|it| key("ca", &names(&[&format!("{it}.test")])));
    let keys: Vec<String> = keys.filter(|it| place(it) == at).take(1_200).collect();
    for (key, second) in keys.iter().zip(0..) {
        ledger.failed(key, &failure, now + second);
        assert!(ledger.pages[at].sets.len() <= 1_000);
    }
    let text = ledger.write(at);
    assert!((600_000..=900_000).contains(&text.len()), "{} bytes", text.len());
    let last = &keys[keys.len() - 1];
    for ledger in [&ledger, &reread(&mut ledger.clone())] {
        assert_eq!(ledger.backoff(&keys[0], "").class, None, "the oldest failure goes first");
        assert_eq!(ledger.backoff(last, "").bad.len(), 1);
        let ask = ask(&good.0, &good.1);
        assert!(ledger.admits(&ask, false, now + 60).is_err(), "issued is issued");
    }
}

/// One who leads for a year never reads the ledger anew.
#[test]
fn r_led_the_ledger_is_bounded_while_one_leads() {
    let mut ledger = Ledger::new(Budget::default());
    let begin = 1_800_000_000;
    ledger.prune(begin);
    for day in 0..60 {
        let now = begin + day * DAY;
        for at in 0..50 {
            let bad = [format!("{at}.{day}.test")];
            let key = key("ca", &names(&[&bad[0]]));
            let class = Class::B;
            let failure =
                Failure { class, attempt: true, until: 0, error: "", bad: &bad, spec: "" };
            ledger.failed(&key, &failure, now);
            ledger.limit(&Scope::Name(bad[0].clone()), now + HOUR);
        }
        ledger.prune_daily();
        let dirty: Vec<usize> = ledger.dirty().collect();
        for at in dirty {
            ledger.write(at);
        }
    }
    let count = |of: fn(&Page) -> usize| ledger.pages.iter().map(of).sum::<usize>();
    assert_eq!(count(|it| it.sets.len()), 14 * 50, "two weeks");
    assert_eq!((count(|it| it.names.len()), count(|it| it.limits.len())), (50, 50), "an hour");
}

/// What another version wrote, or somebody by hand, costs that part, and no budget.
#[test]
fn r_led_what_cannot_be_read_says_nothing_of_the_rest() {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let now = 1_800_000_000;
    for (part, admitted) in [
        (r#""issued":[NOW],"class":"B""#, false),
        (r#""issued":[NOW],"class":"Z","until":"never""#, false),
        (r#""issued":["x",NOW],"bad":7,"added":{}"#, false),
        (r#""open":NOW,"error":null"#, false),
        (r#""issued":[],"class":"Z""#, true),
    ] {
        let set = part.replace("NOW", &now.to_string());
        let text = format!(r#"{{"sets":{{"x":7,"{key}":{{{set}}}}},"orders":[],"later":1}}"#);
        let mut ledger = Ledger::new(Budget::default());
        ledger.read(place(&key), &text);
        let found = ledger.admits(&ask(&key, &names), false, now + 60).is_ok();
        assert_eq!(found, admitted, "{text}");
    }
}

#[test]
fn r_led_nothing_is_written_for_what_is_well() {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let mut ledger = Ledger::new(Budget::default());
    let now = 1_800_000_000;
    ledger.settled(&key, now);
    assert_eq!(ledger.dirty().count(), 0, "never heard of");
    let bad = ["a.test".to_owned()];
    let class = Class::B;
    let failure = Failure { class, attempt: true, until: now, error: "no", bad: &bad, spec: "" };
    ledger.failed(&key, &failure, now);
    let mut ledger = reread(&mut ledger);
    ledger.settled(&key, now);
    assert_eq!(ledger.dirty().collect::<Vec<_>>(), [place(&key)]);
    assert_eq!(ledger.backoff(&key, ""), Backoff::default());
    let mut ledger = reread(&mut ledger);
    ledger.settled(&key, now);
    assert_eq!(ledger.dirty().count(), 0, "well already");
}

/// What can happen to one set of names.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes by.
    Wait(i64),
    /// Somebody wants a certificate; how it ends.
    Order { end: End, forced: bool },
    /// Another leader reads what was written.
    Lead,
    /// A round of cleaning.
    Prune,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Issued,
    Refused,
    /// A crash, after which the record of the order is there; the order ends well.
    Resumed,
    /// A crash after the CA issued, after which nothing of the order is left.
    Lost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![
        4 => Just(End::Issued), 1 => Just(End::Refused), 1 => Just(End::Resumed), 1 => Just(End::Lost),
    ];
    let order =
        (end, prop::bool::weighted(0.05)).prop_map(|(end, forced)| Step::Order { end, forced });
    let step = prop_oneof![
        3 => (0..40_000_i64).prop_map(Step::Wait),
        6 => order,
        1 => Just(Step::Lead),
        1 => Just(Step::Prune),
    ];
    prop::collection::vec(step, 1..150)
}

/// When the CA issued, if `steps` happen; whether a person had one more.
fn history(budget: Budget, steps: Vec<Step>) -> Vec<(i64, bool)> {
    let names = names(&["a.test"]);
    let key = key("ca", &names);
    let mut ledger = Ledger::new(budget);
    // Whether there is a record of an order, and whether that was forced.
    let (mut now, mut issued, mut record) = (1_800_000_000, Vec::new(), None);
    for step in steps {
        match step {
            Step::Wait(time) => now += time,
            Step::Lead => ledger = reread(&mut ledger),
            Step::Prune => ledger.prune(now),
            Step::Order { end, forced } => {
                let ask = Ask { key: &key, names: &names, first: false, forced, early: false };
                if record.is_none() {
                    ledger.abandon(&key, now);
                    if ledger.admits(&ask, false, now).is_err() {
                        continue;
                    }
                    ledger.reserve(&key, now);
                }
                let again = record.is_some();
                let forced = record.take().unwrap_or(forced);
                match end {
                    End::Issued => {
                        issued.push((now, forced));
                        ledger.issued(&ask, again, now);
                    }
                    End::Refused => {
                        ledger.release(&key, now);
                    }
                    End::Resumed => {
                        ledger = reread(&mut ledger);
                        record = Some(forced);
                    }
                    End::Lost => {
                        issued.push((now, forced));
                        ledger = reread(&mut ledger);
                    }
                }
            }
        }
    }
    issued
}

proptest! {
    /// Whatever happens: no more certificates in any time than the budget allows, and none too soon.
    #[test]
    fn r_led_never_more_than_the_budget_allows(
        issues in 1..6_u32, span in 1..400_u64, gap in 0..20_u64, steps in steps(),
    ) {
        let hours = |it: u64| Duration::from_secs(it * 3_600);
        let budget = Budget { issues, span: hours(span), gap: hours(gap), public: true };
        let issued = history(budget, steps);
        let forced = usize::from(issued.iter().any(|(_, forced)| *forced));
        let most = usize::try_from(issues).unwrap_or_default() + forced;
        for (at, (time, by_force)) in issued.iter().enumerate() {
            let window = issued[..=at].iter().filter(|(it, _)| time - it < seconds(budget.span));
            prop_assert!(window.count() <= most, "{:?}", issued);
            let before = at.checked_sub(1).map(|it| issued[it].0);
            if let Some(before) = before.filter(|_| !by_force) {
                prop_assert!(time - before >= seconds(budget.gap), "{:?}", issued);
            }
        }
    }

    /// With a healthy CA that renews by itself, nothing is ever over: for each life of a public
    /// certificate, wherever in time the renewals fall, whatever the CA's windows say.
    #[test]
    fn r_led_never_idle_past_the_end_while_the_ca_is_healthy(
        life in prop_oneof![Just(160 * 3_600), Just(45 * DAY), Just(64 * DAY), Just(90 * DAY)],
        windows in prop::collection::vec(prop::option::of((-100..200_i64, -20..40_i64)), 40),
        late in prop::collection::vec(0..7_200_i64, 40),
        id: String,
    ) {
        use crate::certs::ari::Window;
        use crate::certs::due::renewal;
        let names = names(&["a.test"]);
        let key = key("ca", &names);
        let ask = ask(&key, &names);
        let mut ledger = Ledger::new(Budget::default());
        let mut now = 1_800_000_000;
        prop_assert_eq!(issue(&mut ledger, &ask, now), Ok(()));
        for (window, late) in windows.into_iter().zip(late) {
            // Let's Encrypt begins certificates an hour in the past.
            let (begin, issued) = (now - 3_600, now);
            let end = begin + life - 1;
            let window = window.map(|(at, width)| Window {
                id: id.clone(),
                start: begin + life / 100 * at,
                end: begin + life / 100 * (at + width),
            });
            let due = renewal(begin, end, &id, window.as_ref(), Some(issued)).at;
            let rule = renewal(begin, end, &id, None, Some(issued)).at;
            now = due.max(issued) + late;
            loop {
                let early = now < rule;
                match issue(&mut ledger, &Ask { early, ..ask }, now) {
                    Ok(()) => break,
                    Err(spent) => {
                        prop_assert!(spent.until > now);
                        now = if early { spent.until.min(rule) } else { spent.until };
                    }
                }
                prop_assert!(now < end, "idle past the end: {} > {}", now, end);
            }
            prop_assert!(now < end);
        }
    }
}

#[test]
fn a_set_is_the_same_in_any_order() {
    let mut seen = BTreeMap::new();
    for (issuer, all) in [
        ("ca", ["a.test", "b.test"]),
        ("ca", ["b.test", "a.test"]),
        ("other", ["a.test", "b.test"]),
    ] {
        *seen.entry(key(issuer, &names(&all))).or_insert(0) += 1;
    }
    assert_eq!(seen.values().copied().max(), Some(2));
    assert_eq!(seen.len(), 2);
}
