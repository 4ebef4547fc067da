//! Eleven hosts of one company, each with an Ingress and a Secret of its own, applied at once: with
//! kube-lego some of them never got a certificate.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use crate::harness::acme::{AcmeCluster, ISSUED, asking};
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::SOON;

/// Somewhere nobody listens.
const NOWHERE: &str = "127.0.0.9";

/// All get one, and the one whose name leads nowhere delays nobody: it gets its own once that is fixed.
#[tokio::test(flavor = "multi_thread")]
async fn eleven_ingresses_applied_at_once_get_eleven_certificates() {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let acme = &house.acme;
    let hosts: Vec<String> = (1..=11).map(|it| format!("app-{it}.pushtech.test")).collect();
    let name = |host: &String| host.split('.').next().unwrap_or_default().to_owned();
    let lost = hosts[6].clone();
    acme.pebble.set_address(&lost, NOWHERE).await;
    let replicas = [house.replica("lockgate").await, house.replica("lockgate-b").await];
    let yaml: Vec<String> = hosts.iter().map(|it| asking(&name(it), &[it], &[])).collect();
    house.cluster.apply(&yaml.concat()).await;

    let others: Vec<&String> = hosts.iter().filter(|it| **it != lost).collect();
    join_all(others.iter().map(|host| acme.certified(&replicas[0], host, ISSUED))).await;
    assert_eq!(acme.ca.issued(), 10);
    let told = house.told(&name(&lost), "WaitingForRoute").await;
    assert!(told.contains(&lost), "{told}");
    let url = format!("http://{lost}/");
    replicas[0].answers(&url, 200).await;

    acme.pebble.clear_address(&lost).await;
    // Within a minute; half of one more if a connection to the CA breaks just then.
    acme.certified(&replicas[0], &lost, ISSUED).await;
    let expected: BTreeSet<String> = hosts.iter().map(name).collect();
    assert_eq!(house.tls_secrets().await, expected);
    for host in &hosts {
        let held = house.held(&name(host)).await;
        for replica in &replicas {
            let connection = acme.certified(replica, host, SOON).await;
            assert_eq!(connection.names(), [host.as_str()]);
            assert_eq!(connection.serial(), Some(held.serial()), "{host}");
        }
    }
    assert_eq!(acme.ca.issued(), hosts.len());
    assert!(acme.ca.orders() <= hosts.len() + 2, "{} orders", acme.ca.orders());
    assert_eq!(acme.ca.accounts(), 1);
    house.no_order_left().await;
}
