//! A keeper at its work, seen from outside.

use super::*;

#[tokio::test]
async fn r_vis_a_certificate_is_kept_and_told_of() {
    let mut house = House::new(INGRESS, async |_| {}).await;
    let standing = house.standing(State::Ready).await;
    assert_eq!(standing.names, ["a.test"]);
    assert_eq!((standing.renew_source, &*standing.issuer), ("rule", "local"));
    assert_eq!(standing.ingresses, [ObjectName::new("shop", "web")]);
    assert!(standing.renew_at.is_some() && standing.renew_at < standing.not_after);
    let secret = house.secret().await.expect("a Secret");
    assert_eq!(mark(&secret, "managed"), Some("v1"));
    assert_eq!(mark(&secret, marks::NAMES), Some("a.test"));
    for name in [marks::CERT_ID, marks::NOT_AFTER, marks::RENEW_AT, "issued-at", "issuer"] {
        assert!(mark(&secret, name).is_some(), "{name}");
    }
    let record = house.store.secret(&place("lockgate", &tls())).await.expect("a store");
    assert_eq!(record, None, "its record is forgotten");
    let told = house.told();
    for reason in
        ["CertificateRequested", "CertificateIssued", "CertificateStored", "RenewalScheduled"]
    {
        assert_eq!(told.iter().filter(|it| *it == reason).count(), 1, "{reason}: {told:?}");
    }
    assert_eq!((house.issued(), house.tasks.len()), (1, 2));
}

#[tokio::test]
async fn r_sto_4_a_deleted_secret_is_made_again_without_an_order() {
    let house = House::ready().await;
    let before = house.secret().await.expect("a Secret");
    std::fs::remove_file(house.file()).expect("deleted");
    let after = house.until("it comes back", |_| true).await;
    assert_eq!(after.data, before.data);
    assert_eq!(after.annotations, before.annotations);
    assert_eq!(house.issued(), 1);
}

#[tokio::test]
async fn r_sto_4_a_second_writer_ends_in_a_conflict_and_not_in_orders() {
    let mut house = House::ready().await;
    let good = house.secret().await.expect("a Secret");
    let spoil = async |house: &House| {
        let mut secret = house.secret().await.expect("a Secret");
        secret.data.insert("tls.crt".to_owned(), b"broken".to_vec());
        house.store.write_secret(&secret, false).await.expect("written");
    };
    spoil(&house).await;
    house.until("it is put back", |it| it.data == good.data).await;
    // What was written is round when nothing is under way any more.
    house.standing(State::Ready).await;
    spoil(&house).await;
    let standing = house.standing(State::Conflict).await;
    assert!(standing.why.contains("TwoWriters"), "{}", standing.why);
    assert_eq!(house.secret().await.expect("it").data["tls.crt"], b"broken");
    assert_eq!(house.issued(), 1);
}

#[tokio::test]
async fn a_person_who_asks_gets_a_new_one_once() {
    let mut house = House::ready().await;
    let before = house.secret().await.expect("a Secret");
    house.annotate("lockgate.dev/renew", "now").await;
    let after = house.until("another one", |it| it.data["tls.crt"] != before.data["tls.crt"]).await;
    assert_eq!(mark(&after, marks::RENEW), None);
    // R-REN-7: with a key of its own.
    assert_ne!(after.data["tls.key"], before.data["tls.key"]);
    house.standing(State::Ready).await;
    assert_eq!(house.issued(), 2);
}

#[tokio::test]
async fn r_ren_7_a_pinned_key_is_kept() {
    let pinned = INGRESS.replace("\"true\"}", "\"true\", lockgate.dev/reuse-key: \"true\"}");
    let mut house = House::new(&pinned, async |_| {}).await;
    house.standing(State::Ready).await;
    let before = house.secret().await.expect("a Secret");
    house.annotate("lockgate.dev/renew", "now").await;
    let after = house.until("another one", |it| it.data["tls.crt"] != before.data["tls.crt"]).await;
    assert_eq!(after.data["tls.key"], before.data["tls.key"]);
}

#[tokio::test]
async fn r_own_1_a_secret_is_adopted_on_request_with_its_pair() {
    let annotations = [("cert-manager.io/certificate-name", "web"), ("team", "shop")];
    let theirs = StoredSecret {
        name: tls(),
        kind: "kubernetes.io/tls".to_owned(),
        data: pair(),
        annotations: annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..StoredSecret::default()
    };
    let before = async |store: &Store| {
        store.write_secret(&theirs, false).await.expect("written");
    };
    let mut house = House::new(INGRESS, before).await;
    let standing = house.standing(State::Unmanaged).await;
    assert!(standing.why.contains("cert-manager"), "{}", standing.why);
    house.annotate("lockgate.dev/adopt", "true").await;
    let ours = house.until("our mark", |it| mark(it, "managed").is_some()).await;
    assert_eq!(ours.data, theirs.data);
    let left: Vec<&str> = ours.annotations.keys().map(String::as_str).collect();
    assert_eq!(left, ["lockgate.dev/managed", "team"]);
    house.standing(State::Ready).await;
    assert_eq!(house.issued(), 0);
}

#[tokio::test]
async fn r_sto_3_what_was_issued_and_not_written_is_written_and_not_ordered() {
    let names = ["a.test".to_owned()].into();
    let before = async |store: &Store| {
        let vault = Vault::new(store.clone(), Leadership::sole());
        let claim = claim(&names);
        let place = place("lockgate", &tls());
        let (mut record, _) = Record::claim(&vault, place, &claim).await.expect("claimed");
        let csr = record.csr().expect("a request").to_vec();
        let chain = local().issue(&vault, &csr, wall().as_second()).await.expect("issued");
        record.keep_chain(&vault, &chain).await.expect("kept");
    };
    let mut house = House::new(INGRESS, before).await;
    let secret = house.until("it", |_| true).await;
    house.standing(State::Ready).await;
    assert!(secret.data["tls.crt"].starts_with(b"-----BEGIN CERTIFICATE-----"));
    let book = book::Book::new(
        Vault::new(house.store.clone(), Leadership::sole()),
        "lockgate",
        Budget { gap: Duration::from_secs(60), ..Budget::default() },
    );
    book.read(wall().as_second()).await.expect("read");
    let key = ledger::key("local", &names);
    let ask = ledger::Ask { key: &key, names: &names, first: false, forced: false, early: false };
    assert_eq!(book.open().admits(&ask, false, wall().as_second()), Ok(()), "nothing was issued");
}
