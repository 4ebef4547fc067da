//! What is noted in the store: records of orders under way, and the ledger.

use super::*;

fn vault(directory: &tempfile::TempDir) -> Vault {
    Vault::new(store(directory), Leadership::sole())
}

/// A record that was left behind is of the certificate that is held: taken up again, it would bring the
/// same for ever.
#[tokio::test]
async fn r_fly_a_record_of_what_is_stored_is_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let vault = vault(&directory);
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let (mut first, _) = Record::claim(&vault, place.clone(), &claim(&names)).await.expect("it");
    first.note_url(&vault, "https://ca.test/1").await.expect("noted");
    let key = first.key().expect("a key").to_vec();
    let order = |url: &str| [(marks::full(marks::ORDER), url.to_owned())].into();
    let entry = |key: &[u8]| BTreeMap::from([("tls.key".to_owned(), key.to_vec())]);
    for (held, reused, expected) in [
        (StoredSecret::default(), false, false),
        (StoredSecret { data: entry(&key), ..StoredSecret::default() }, false, true),
        (StoredSecret { data: entry(&key), ..StoredSecret::default() }, true, false),
        (
            StoredSecret { annotations: order("https://ca.test/1"), ..StoredSecret::default() },
            true,
            true,
        ),
        (
            StoredSecret { annotations: order("https://ca.test/2"), ..StoredSecret::default() },
            true,
            false,
        ),
    ] {
        let found = vault.secret(&place).await.expect("a store").expect("a record");
        assert_eq!(record::is_over(&found, &held, reused), expected, "{held:?} {reused}");
    }
    let held = StoredSecret { data: entry(&key), ..StoredSecret::default() };
    let again = Claim { held: &held, ..claim(&names) };
    let (second, same) = Record::claim(&vault, place, &again).await.expect("claimed");
    assert!(!same && second.url().is_none() && second.key().expect("a key") != key);
}

/// Without its key it is of no use: what comes of its order could not be served.
#[tokio::test]
async fn r_fly_a_record_without_its_key_is_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let vault = vault(&directory);
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    for entry in ["key.pem", "csr.der"] {
        Record::claim(&vault, place.clone(), &claim(&names)).await.expect("claimed");
        let mut found = vault.secret(&place).await.expect("a store").expect("a record");
        found.data.remove(entry);
        vault.write(&mut found).await.expect("written");
        let (record, same) =
            Record::claim(&vault, place.clone(), &claim(&names)).await.expect("claimed");
        assert!(!same && record.key().is_ok() && record.csr().is_ok(), "{entry}");
    }
}

/// What a leader that was killed left behind is tidied up by the next, without anything being due.
#[tokio::test]
async fn r_fly_what_was_left_behind_is_tidied_up() {
    let house = House::ready().await;
    let held = house.secret().await.expect("a Secret");
    let vault = Vault::new(house.store.clone(), Leadership::sole());
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let (mut record, _) = Record::claim(&vault, place.clone(), &claim(&names)).await.expect("it");
    let chain = String::from_utf8(held.data["tls.crt"].clone()).expect("PEM");
    record.keep_chain(&vault, &chain).await.expect("kept");
    let (options, ..) = options(&house.store, Issuer::Local(local()));
    // Versions before the ledger named records otherwise.
    let earlier = ObjectName::new("lockgate", "lockgate-order-0011223344556677");
    let claim = Claim { holder: "an earlier version", ..claim(&names) };
    Record::claim(&vault, earlier.clone(), &claim).await.expect("it");
    let plan = Plan { wanted: [(tls(), house.wanted().await)].into(), ..Plan::default() };
    assert_eq!(Keeper::new(options).tidy(&plan).await, Ok(Vec::new()));
    for gone in [place, earlier] {
        assert_eq!(house.store.secret(&gone).await.expect("a store"), None, "{gone}");
    }
}

#[tokio::test]
async fn r_fly_of_two_who_claim_a_record_one_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let vault = vault(&directory);
    let names = ["a.test".to_owned()].into();
    let place = place("lockgate", &tls());
    let claimed = async || Record::claim(&vault, place.clone(), &claim(&names)).await;
    let (mut first, again) = claimed().await.expect("claimed");
    assert!(!again);
    let (mut second, again) = claimed().await.expect("claimed");
    assert!(again, "the same question");
    assert_eq!(first.key().expect("a key"), second.key().expect("a key"));
    let refused = first.note_url(&vault, "https://ca.test/1").await.expect_err("too late");
    assert!(matches!(refused, Trouble::Store(StoreError::Conflict(_))), "{refused}");
    second.note_url(&vault, "https://ca.test/2").await.expect("noted");
    let (third, again) = claimed().await.expect("claimed");
    assert_eq!((third.url(), again), (Some("https://ca.test/2"), true));
    let more = ["a.test".to_owned(), "b.test".to_owned()].into();
    let other = Record::claim(&vault, place.clone(), &claim(&more)).await.expect("claimed");
    assert!(!other.1 && other.0.url().is_none(), "another question");
}

#[tokio::test]
async fn r_led_the_ledger_outlives_its_writer_and_has_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let vault = vault(&directory);
    let names = ["a.test".to_owned()].into();
    let key = ledger::key("ca", &names);
    let now = 1_800_000_000;
    let open = async || {
        let book = book::Book::new(vault.clone(), "lockgate", Budget::default());
        book.read(now).await.expect("read");
        book
    };
    let (first, second) = (open().await, open().await);
    first.open().reserve(&key, now);
    first.flush().await.expect("written");
    assert_eq!(open().await.open().reserved(&key), Some(now));
    second.open().reserve(&key, now);
    assert!(second.flush().await.is_err(), "somebody else keeps it");
    assert!(!second.is_read(), "and nothing goes on before it was read anew");
    second.read(now).await.expect("read");
    second.flush().await.expect("nothing to write");
}

/// A page that cannot be written, whoever filled it, stops neither other orders nor what was issued.
#[tokio::test]
async fn r_led_a_page_that_cannot_be_written_stops_nobody_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let vault = vault(&directory);
    let book = book::Book::new(vault.clone(), "lockgate", Budget::default());
    let now = 1_800_000_000;
    book.read(now).await.expect("read");
    let keys = (0..).map(|it| ledger::key("ca", &[format!("{it}.test")].into()));
    let page = |it: &String| ledger::Ledger::pages_of(it)[1];
    let mut keys = keys.filter(|it| page(it) != 0);
    let broken = keys.next().expect("a key");
    let good = keys.find(|it| page(it) > page(&broken)).expect("another");
    let place = format!("issued/.lockgate.lockgate-acme-ledger-{}.configmap", page(&broken));
    let place = directory.path().join(place);
    std::fs::create_dir_all(&place).expect("made");
    book.open().reserve(&broken, now);
    book.open().reserve(&good, now);
    assert_eq!(book.flush_for(&good).await, Ok(()));
    assert!(
        book.flush_for(&broken).await.is_err() && book.flush().await.is_err() && book.is_read()
    );
    let next = book::Book::new(vault.clone(), "lockgate", Budget::default());
    std::fs::remove_dir(&place).expect("gone");
    next.read(now).await.expect("read");
    assert_eq!(next.open().reserved(&good), Some(now));
    assert_eq!(book.flush().await, Ok(()), "what was left is written");
    next.read(now).await.expect("read");
    assert_eq!(next.open().reserved(&broken), Some(now));
}
