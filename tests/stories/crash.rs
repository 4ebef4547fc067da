//! A leader is killed in the middle of an order, at each point where something is known to one side and
//! not to the other: whoever leads next takes it up from there.

use std::time::Duration;

use crate::harness::acme::AcmeCluster;
use crate::harness::ca_proxy::{Endpoint, When};
use crate::harness::pebble::PebbleOptions;
use crate::harness::process::{SOON, eventually};

/// How long a certificate may take: the CA may have been asking the very replica that died, and then what it
/// found invalid is tried again after a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where the leader is when it dies.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// At this request to the CA.
    Ca(Endpoint, When),
    /// At this request to the API server, which does not hear of it.
    Api(&'static str),
}

/// In the order in which an order passes them.
const POINTS: [(&str, Point); 9] = [
    ("registered, not told so", Point::Ca(Endpoint::NewAccount, When::After)),
    ("about to claim", Point::Api("P /namespaces/lockgate/secrets !dryRun")),
    ("claimed", Point::Ca(Endpoint::NewOrder, When::Before)),
    ("ordered, not told where", Point::Ca(Endpoint::NewOrder, When::After)),
    ("validating", Point::Ca(Endpoint::Challenge, When::After)),
    ("finalized", Point::Ca(Endpoint::Finalize, When::After)),
    ("downloading", Point::Ca(Endpoint::Certificate, When::After)),
    ("about to store", Point::Api("P /namespaces/demo/secrets !dryRun")),
    ("stored, not tidied up", Point::Api("DELETE /secrets/lockgate-order-")),
];

/// Who takes over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    /// The same replica, restarted: the lease is still its own.
    Itself,
    /// Another one, when the lease has run out.
    Other,
}

/// One account, one certificate for each, no order too many, and never half a pair.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_at_any_point_costs_no_certificate() {
    killed_everywhere(1, Next::Itself).await;
}

/// The same, again and again, with other replicas taking over.
#[tokio::test(flavor = "multi_thread")]
async fn long_leaders_killed_again_and_again_cost_no_certificate() {
    killed_everywhere(3, Next::Other).await;
}

async fn killed_everywhere(rounds: usize, next: Next) {
    let house = AcmeCluster::new(PebbleOptions::default()).await;
    let ca = &house.acme.ca;
    ca.be_boulder();
    let mut users = ["lockgate", "lockgate-b"];
    let mut leader = house.replica(users[0]).await;
    house.leads(&leader).await;
    let mut other = house.replica(users[1]).await;
    // There is one account to register, however often.
    let points = std::iter::repeat_n(&POINTS[1..], rounds).flatten();
    for (turn, (what, point)) in POINTS[..1].iter().chain(points).enumerate() {
        let (name, host) = (format!("one-{turn}"), format!("one-{turn}.test"));
        let (orders, issued) = (ca.orders(), ca.issued());
        let faults = house.cluster.faults_of(users[0]);
        match point {
            Point::Ca(at, when) => ca.hold(*at, *when),
            Point::Api(filter) => faults.stall(filter),
        }
        house.ask(&name, &[&host]).await;
        match point {
            Point::Ca(..) => ca.held().await,
            Point::Api(filter) => {
                eventually(what, SOON * 2, async || {
                    faults.matching(filter).last().is_some_and(|it| it.status == 0)
                })
                .await;
            }
        }
        leader.process().kill();
        ca.release();
        faults.heal();
        match next {
            Next::Itself => leader = house.replica(users[0]).await,
            Next::Other => {
                leader = other;
                house.leads(&leader).await;
                users.swap(0, 1);
                // One that is not ready yet must not be who the CA meets.
                house.acme.certified(&leader, &host, PATIENCE).await;
                other = house.replica(users[1]).await;
            }
        }

        house.acme.certified(&leader, &host, PATIENCE).await;
        house.acme.certified(&other, &host, SOON).await;
        house.no_order_left().await;
        assert_eq!(ca.issued() - issued, 1, "certificates of one who was {what}");
        assert!(ca.orders() - orders <= 2, "{} orders, {what}", ca.orders() - orders);
        assert_eq!(ca.accounts(), 1, "accounts, {what}");
        let held = house.held(&name).await;
        let shown = house.acme.certified(&leader, &host, SOON).await.serial();
        assert_eq!(shown, Some(held.serial()), "{what}");
    }
}
