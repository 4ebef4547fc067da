use super::*;
use crate::certs::Vault;
use crate::certs::desk::tests::{NOW, keeper, keeper_of, pair, wanted};
use crate::lease::Leadership;
use crate::store::{Directory, Store, StoredSecret};

fn named(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

fn store_in(directory: &tempfile::TempDir) -> Store {
    Store::Directory(Directory::new([], directory.path().join("issued")))
}

/// An account's Secret that holds no key.
fn keyless() -> StoredSecret {
    let name = ObjectName::new("lockgate", "account");
    StoredSecret { name, kind: "Opaque".to_owned(), ..StoredSecret::default() }
}

/// What is next for everything that is wanted.
fn orders(office: &mut Office, plan: &Plan) -> Vec<(Priority, Box<Item>)> {
    let mut orders = Vec::new();
    for (name, wanted) in &plan.wanted {
        if let Step::Do(Task::Order(item, it)) = office.desk.step(&office.keeper, name, wanted, NOW)
        {
            orders.push((it, item));
        }
    }
    orders
}

fn names(orders: &[(Priority, Box<Item>)]) -> Vec<&str> {
    orders.iter().map(|(_, item)| &*item.name.name).collect()
}

/// A request that never goes well is no reason for others not to make theirs.
#[tokio::test]
async fn r_ca_whoever_met_a_ca_that_was_down_does_not_go_ahead() {
    let mut office = Office::new(keeper());
    let all = [("a", wanted(&["a.test"], None, &[])), ("b", wanted(&["b.test"], None, &[]))];
    let wanted = all.map(|(name, it)| (named(name), it)).into();
    let plan = Plan { wanted, ..Plan::default() };
    office.desk.take(&plan, Instant::now());
    let first = orders(&mut office, &plan);
    assert_eq!(names(&first), ["a", "b"]);
    let down = Trouble::Down { text: "403".to_owned(), wait: None };
    office.failed(&first[0].1, &down, NOW);
    assert!(orders(&mut office, &plan).is_empty(), "all wait for a probe");
    office.desk.breaker.half_close();
    assert_eq!(names(&orders(&mut office, &plan)), ["b"]);
    // However long either wait is.
    office.desk.paused.get_mut(&named("a")).expect("it waits").until = Instant::now();
    let both = orders(&mut office, &plan);
    assert_eq!(names(&both), ["a", "b"]);
    let standing = |(name, it)| (ObjectName::clone(name), office.keeper.standing(name, it, NOW));
    let mut standings = plan.wanted.iter().map(standing).collect();
    office.order(both, Duration::ZERO, &mut standings);
    let busy: Vec<&str> = office.busy.values().map(|(name, ..)| &*name.name).collect();
    assert_eq!(busy, ["b"]);
}

/// Whoever answers with the old key's thumbprint cannot answer for the new one.
#[tokio::test]
async fn r_tok_4_nothing_is_ordered_before_the_key_in_the_secret_is_answered_with() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store_in(&directory);
    let mut office = Office::new(keeper_of(&store));
    let vault = Vault::new(store.clone(), Leadership::sole());
    let Issuer::Acme(acme) = office.keeper.issuer.clone() else { panic!("another issuer") };
    let nobody = Plan::default();
    let mut last = nobody.clone();
    for round in ["a key", "another key"] {
        assert!(!office.ready(&last, NOW).await || round == "a key", "{round}: was replaced");
        assert!(!office.ready(&nobody, NOW).await, "{round}: nobody knows it");
        let thumbprint = acme.thumbprint(&vault).await.expect("a key");
        assert!(!office.ready(&last, NOW).await, "{round}: known is none or the last one");
        last.thumbprint = Some(thumbprint.into());
        assert!(office.ready(&last, NOW).await, "{round}");
        // Somebody deletes it, and every replica hears of that.
        let account = ObjectName::new("lockgate", "account");
        vault.delete(&account).await.expect("deleted");
        assert!(!office.ready(&nobody, NOW).await, "{round}: deleted");
    }
}

#[tokio::test]
async fn r_vis_why_nothing_at_all_is_ordered_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store_in(&directory);
    store.write_secret(&keyless(), false).await.expect("written");
    let mut office = Office::new(keeper_of(&store));
    let fine = wanted(&["b.test"], Some(pair(&["b.test"], NOW)), &[]);
    let wanted = [(named("a"), wanted(&["a.test"], None, &[])), (named("b"), fine)].into();
    let plan = Plan { wanted, ..Plan::default() };
    office.round(&plan).await;
    let state = |office: &Office, name: &str| {
        let standings = office.keeper.standing.borrow();
        let it = &standings[&named(name)];
        (it.state, it.why.clone())
    };
    assert_eq!(state(&office, "a").0, State::Checking, "that may pass");
    assert!(office.told.is_empty());
    office.unready.as_mut().expect("a reason").0 -= NOT_READY * 2;
    office.round(&plan).await;
    let (found, why) = state(&office, "a");
    assert!(found == State::Backoff && why.contains("holds no key.der"), "{found}: {why}");
    assert_eq!(state(&office, "b").0, State::Ready);
    assert!(office.told.contains_key(&(named("web"), "NotReady")), "{:?}", office.told);
    let blocked = office.keeper.health.borrow().blocked.clone();
    assert!(blocked.is_some_and(|it| it.contains("holds no key.der")));
}

#[tokio::test]
async fn r_pre_3_without_a_thumbprint_no_host_is_somebody_elses() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store_in(&directory);
    store.write_secret(&keyless(), false).await.expect("written");
    let looks = look(&keeper_of(&store), &wanted(&["a.test"], None, &[])).await;
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].1.seen, Seen::Inconclusive, "{}", looks[0].1.text);
}

/// What cannot be revoked is renewed all the same, and can be asked for again.
#[tokio::test]
async fn a_revocation_that_fails_holds_up_nothing_else() {
    let mut office = Office::new(keeper());
    let held = pair(&["a.test"], NOW);
    let asked = wanted(&["a.test"], Some(held.clone()), &[("revoke", "superseded")]);
    let plain = wanted(&["a.test"], Some(held), &[]);
    let plan = Plan { wanted: [(named("a"), plain.clone())].into(), ..Plan::default() };
    office.desk.take(&plan, Instant::now());
    let revokes = |office: &mut Office, wanted: &Wanted| match office.desk.step(
        &office.keeper,
        &named("a"),
        wanted,
        NOW,
    ) {
        Step::Do(Task::Revoke(..)) => true,
        Step::Do(Task::Window(_)) => false,
        other => panic!("{other:?}"),
    };
    assert!(revokes(&mut office, &asked));
    let refused = Trouble::Refused { text: "no".to_owned(), bad: Vec::new() };
    office.hold_revocation(&named("a"), &refused, NOW);
    assert!(!revokes(&mut office, &asked), "it waits");
    assert!(!revokes(&mut office, &plain), "the request was taken back");
    assert!(revokes(&mut office, &asked), "and made again");
}
