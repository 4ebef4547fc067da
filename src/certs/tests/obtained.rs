//! One certificate: when it is ordered, what is stored, and what is not.

use super::*;
use crate::model::texts::Texts;

async fn obtain(keeper: &Keeper, item: &obtain::Item) -> Result<obtain::Got, Trouble> {
    keeper.obtain(item, doing::Work::default().begin(&tls())).await
}

/// A first certificate for a.test.
fn absent() -> obtain::Item {
    let names = BTreeSet::from(["a.test".to_owned()]);
    obtain::Item {
        name: tls(),
        wanted: Wanted {
            names: names.clone(),
            ingresses: [ObjectName::new("shop", "web")].into(),
            exists: false,
            held: None,
            issuer: None,
            issued_at: None,
            marks: Texts::default(),
            marked: true,
            self_check: true,
            reuse_key: false,
        },
        names,
        due: due::Due::Absent,
        window: None,
        early: false,
        forced: false,
    }
}

/// The built-in CA's budget knows no number, but a time between two.
#[tokio::test]
async fn r_led_who_asks_beyond_the_budget_is_told_and_not_served_later() {
    let mut house = House::ready().await;
    let before = house.secret().await.expect("a Secret");
    let vault = Vault::new(house.store.clone(), Leadership::sole());
    let budget = Budget { gap: Duration::from_secs(3_600), public: false, ..Budget::default() };
    let (mut options, ..) = options(&house.store, Issuer::Local(local()));
    options.flags.budget = budget;
    let keeper = Keeper::new(options);
    keeper.book.read(wall().as_second()).await.expect("read");
    house.tasks.abort_all();
    house.annotate("lockgate.dev/renew", "now").await;
    let wanted = house.wanted().await;
    let item =
        obtain::Item { names: wanted.names.clone(), wanted, due: due::Due::Asked, ..absent() };
    let refused = obtain(&keeper, &item).await.expect_err("too soon");
    assert!(matches!(refused, Trouble::Budget { .. }), "{refused}");
    assert_eq!(item.next_try(&refused, 7), "ask again for another try");
    let due = due::Due::Revoked;
    let revoked = obtain::Item { due, ..item.clone() };
    assert_eq!(revoked.next_try(&refused, 7), "next try in 7 s", "it stays due");
    let after = vault.secret(&tls()).await.expect("a store").expect("a Secret");
    assert_eq!((&after.data, mark(&after, marks::RENEW)), (&before.data, None));
    house.annotate("lockgate.dev/renew", "force").await;
    let forced = obtain::Item { forced: true, wanted: house.wanted().await, ..item };
    assert!(matches!(obtain(&keeper, &forced).await, Ok(obtain::Got::Stored(_))));
}

/// Whatever comes of the first try: what is revoked is not what is to be shown.
#[tokio::test]
async fn what_was_revoked_stays_due_until_it_is_replaced() {
    let mut house = House::ready().await;
    house.tasks.abort_all();
    let keeper = house.keeper(local()).await;
    house.annotate("lockgate.dev/revoke", "keyCompromise").await;
    let held = house.wanted().await.held.expect("a pair");
    keeper.revoke(&tls(), &held, "keyCompromise").await.expect("revoked");
    let secret = house.secret().await.expect("a Secret");
    assert_eq!(
        (mark(&secret, marks::REVOKE), mark(&secret, marks::REVOKED), mark(&secret, marks::RENEW)),
        (None, Some(&*held.id), None)
    );
    let item = async || {
        let wanted = house.wanted().await;
        let due = due::due(&wanted, "local", None, wall().as_second()).expect("due");
        assert_eq!(due, due::Due::Revoked);
        let names = wanted.names.clone();
        obtain::Item { names, wanted, due, forced: true, ..absent() }
    };
    let broken = house.keeper(Local { validity: Duration::ZERO, ..local() }).await;
    obtain(&broken, &item().await).await.expect_err("nothing of use");
    keeper.book.read(wall().as_second()).await.expect("read");
    assert!(matches!(obtain(&keeper, &item().await).await, Ok(obtain::Got::Stored(_))));
    let after = house.secret().await.expect("a Secret");
    assert_eq!(mark(&after, marks::REVOKED), None);
    assert_ne!(after.data["tls.key"], secret.data["tls.key"]);
}

/// Somebody took our mark away, or put another pair there, after the plan was made.
#[tokio::test]
async fn r_own_1_what_is_no_longer_ours_is_neither_revoked_nor_written() {
    let mut house = House::ready().await;
    house.tasks.abort_all();
    let keeper = house.keeper(local()).await;
    house.annotate("lockgate.dev/revoke", "superseded").await;
    let held = house.wanted().await.held.expect("a pair");
    let mut theirs = house.secret().await.expect("a Secret");
    theirs.data.extend(pair());
    for (managed, expected) in [(true, "somebody else changed"), (false, "")] {
        if !managed {
            theirs.annotations.remove("lockgate.dev/managed");
        }
        house.store.write_secret(&theirs, false).await.expect("written");
        theirs = house.secret().await.expect("a Secret");
        let refused = keeper.revoke(&tls(), &held, "superseded").await.expect_err("not ours");
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(managed || refused == Trouble::Foreign, "{refused}");
        if !managed {
            keeper.take_mark_off(&tls(), marks::REVOKE).await;
        }
        assert_eq!(house.secret().await.as_ref(), Some(&theirs), "not written");
    }
}

/// What a CA gave and will not do is not stored; that it was issued counts, and its key is not used again.
#[tokio::test]
async fn r_sto_2_what_will_not_do_is_counted_and_not_stored() {
    let house = House::new("", async |_| {}).await;
    let nobody = Issuer::Local(Local { validity: Duration::ZERO, ..local() });
    let mut keeper = Keeper::new(options(&house.store, nobody).0);
    let now = wall().as_second();
    keeper.book = book::Book::new(keeper.vault.clone(), "lockgate", Budget::default());
    keeper.book.read(now).await.expect("read");
    let item = absent();
    let refused = obtain(&keeper, &item).await.expect_err("it is over");
    assert!(matches!(refused, Trouble::Unusable(_)), "{refused}");
    assert_eq!(refused.class(), trouble::Class::B);
    assert_eq!(house.secret().await, None, "not stored");
    let place = place("lockgate", &tls());
    assert_eq!(house.store.secret(&place).await.expect("a store"), None, "no key is left");
    let key = ledger::key("local", &item.names);
    let ledger = keeper.book.open();
    let backoff = ledger.backoff(&key, "");
    assert_eq!((backoff.class, backoff.failures), (Some(trouble::Class::B), 1));
    assert!(ledger.admits(&item.ask(&key), false, now + 60).is_err(), "it counts as issued");
}

/// Whose a Secret is, is looked at once more before anything is asked or noted.
#[tokio::test]
async fn r_pre_2_a_secret_that_became_somebody_elses_costs_no_order() {
    let house = House::new("", async |_| {}).await;
    let theirs = StoredSecret {
        name: tls(),
        kind: "kubernetes.io/tls".to_owned(),
        annotations: [("team".to_owned(), "shop".to_owned())].into(),
        ..StoredSecret::default()
    };
    house.store.write_secret(&theirs, false).await.expect("written");
    let before = house.secret().await;
    let keeper = house.keeper(local()).await;
    let item = absent();
    let refused = obtain(&keeper, &item).await.expect_err("not ours");
    assert_eq!(refused, Trouble::Foreign);
    assert_eq!(house.secret().await, before, "not written");
    let record = house.store.secret(&place("lockgate", &tls())).await.expect("a store");
    assert_eq!(record, None);
    let key = ledger::key("local", &item.names);
    assert_eq!(keeper.book.open().reserved(&key), None);
}
