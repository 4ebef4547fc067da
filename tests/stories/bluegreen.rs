//! Blue-green switching, as those do it who keep both versions running and turn a Service, or an
//! Ingress, from one to the other: no request fails, and none that begins after the switch has settled
//! is answered by the old version.
//!
//! A switch *has settled* once any client has the first answer of the new version to a request that
//! began after the switch was written. From then on every request that begins must be answered by the
//! new version, on whatever connection it comes; those that began before may have gone either way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::backend::Backend;
use crate::harness::client::{Client, Connection};
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{Lockgate, backend, ingress};
use crate::harness::process::{SOON, eventually, lock};
use crate::harness::raw::{Raw, WebSocket};

/// How often each kind of switch is made.
const SWITCHES: usize = 50;

/// Between two requests of a witness, so that the API server gets its share of the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// What one request saw.
#[derive(Clone, Debug)]
struct Sighting {
    witness: usize,
    begun: Instant,
    ended: Instant,
    /// The version that answered, or what was wrong.
    answer: Result<String, String>,
}

/// From `begun` on the cluster was told to serve `version`.
#[derive(Clone, Debug)]
struct Era {
    begun: Instant,
    version: String,
}

/// Clients that ask all the time on connections they keep.
struct Witnesses {
    count: usize,
    seen: Arc<Mutex<Vec<Sighting>>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Witnesses {
    /// Over HTTP/1.1, the same over TLS, and HTTP/2.
    fn new(lockgate: &Lockgate) -> Self {
        let ways = [
            (lockgate.client(), "http://a.test/"),
            (lockgate.tls_client(), "https://a.test/"),
            (lockgate.tls_client().http2(), "https://a.test/"),
        ];
        let (seen, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let ways: Vec<_> = ways.iter().flat_map(|it| [it.clone(), it.clone()]).collect();
        let (count, mut tasks) = (ways.len(), JoinSet::new());
        for (witness, (client, url)) in ways.into_iter().enumerate() {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = ask(&client, url, &mut connection).await;
                    let ended = Instant::now();
                    lock(&seen).push(Sighting { witness, begun, ended, answer });
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { count, seen, stop, tasks }
    }

    /// Waits until each has begun a request and was answered by the version of `era`, twice.
    async fn agree(&self, era: &Era) {
        eventually(&format!("all see {}", era.version), SOON, async || {
            let mut counts = vec![0; self.count];
            let seen = lock(&self.seen);
            let late = seen.iter().rev().take_while(|it| it.ended >= era.begun);
            for it in late.filter(|it| it.begun >= era.begun && it.is(&era.version)) {
                counts[it.witness] += 1;
            }
            if counts.iter().all(|it| *it > 1) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
    }

    /// All they saw, in the order of the answers.
    async fn stop(self) -> Vec<Sighting> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        std::mem::take(&mut *lock(&self.seen))
    }
}

impl Sighting {
    fn is(&self, version: &str) -> bool {
        self.answer.as_ref().is_ok_and(|it| it == version)
    }
}

/// One request on the connection that is kept, or on a new one where the server ended that in order.
async fn ask(client: &Client, url: &str, kept: &mut Option<Connection>) -> Result<String, String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => client.connect(url).await.map_err(|error| error.to_string())?,
    };
    let reply = connection.get(url).await.map_err(|error| error.to_string())?;
    if !reply.closes() {
        *kept = Some(connection);
    }
    match reply.backend() {
        Some(version) if reply.status == 200 => Ok(version),
        _ => Err(format!("{} {}", reply.status, reply.text())),
    }
}

/// The requests that failed, or began after a switch had settled and were answered by another version
/// though they ended before the next switch.
fn wrong<'a>(eras: &[Era], seen: &'a [Sighting]) -> Vec<&'a Sighting> {
    let mut wrong: Vec<_> = seen.iter().filter(|it| it.answer.is_err()).collect();
    for (index, era) in eras.iter().enumerate() {
        let next = eras.get(index + 1).map(|it| it.begun);
        let answers = seen.iter().filter(|it| it.begun >= era.begun && it.is(&era.version));
        let Some(settled) = answers.map(|it| it.ended).min() else { continue };
        wrong.extend(seen.iter().filter(|it| {
            let within = it.begun >= settled && next.is_none_or(|next| it.ended < next);
            within && it.answer.is_ok() && !it.is(&era.version)
        }));
    }
    wrong
}

/// A cluster that serves `a.test` with Service `web`, whose endpoint is `blue`; `green` runs, too.
struct House {
    cluster: Cluster,
    lockgate: Lockgate,
    blue: Backend,
    green: Backend,
}

impl House {
    async fn new() -> Self {
        let (cluster, blue, green) =
            tokio::join!(Cluster::installed(), Backend::outside("blue"), Backend::outside("green"));
        let objects = [
            ingress("web", "a.test", &[("/", "Prefix", "web", 80)], &[]),
            backend("web", 80, &[blue.addr()]),
            backend("blue", 80, &[blue.addr()]),
            backend("green", 80, &[green.addr()]),
        ];
        cluster.apply(&objects.concat()).await;
        let lockgate = cluster.lockgate("lockgate").await.start().await;
        Self { cluster, lockgate, blue, green }
    }

    /// Turns the Service's selector, and does what the controller of endpoints would do then: in one
    /// update of the slice, the endpoints of one version make room for those of the other.
    async fn turn_service(&self, version: &Backend) {
        let selector = json!({ "spec": { "selector": { "version": version.name() } } });
        self.cluster.patch_json("/api/v1/namespaces/demo/services/web", &selector).await;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices";
        let slice = format!("{slices}/web-80-{}", self.blue.addr().port());
        let (ip, port) = (version.addr().ip(), version.addr().port());
        let update = json!({
            "ports": [{ "name": "p80", "port": port, "protocol": "TCP" }],
            "endpoints": [{ "addresses": [ip], "conditions": { "ready": true } }],
        });
        self.cluster.patch_json(&slice, &update).await;
    }

    /// Turns the Ingress to the Service of a version.
    async fn turn_ingress(&self, version: &Backend) {
        let service = json!({ "name": version.name(), "port": { "number": 80 } });
        let path = json!({ "path": "/", "pathType": "Prefix", "backend": { "service": service } });
        let update: Value =
            json!({ "spec": { "rules": [{ "host": "a.test", "http": { "paths": [path] } }] } });
        let ingress = "/apis/networking.k8s.io/v1/namespaces/demo/ingresses/web";
        self.cluster.patch_json(ingress, &update).await;
    }

    async fn socket(&self) -> WebSocket {
        WebSocket::open(Raw::plain(self.lockgate.http).await, "a.test").await
    }

    /// Turns from blue to green and back, and ends with green alone.
    async fn switch_often(self, turn: impl AsyncFn(&Self, &Backend)) {
        let witnesses = Witnesses::new(&self.lockgate);
        let mut eras = vec![Era { begun: Instant::now(), version: "blue".to_owned() }];
        witnesses.agree(&eras[0]).await;
        let mut old = self.socket().await;
        let mut new = None;
        // One more, so that green is the last.
        for round in 0..=SWITCHES {
            let version = if round % 2 == 0 { &self.green } else { &self.blue };
            let era = Era { begun: Instant::now(), version: version.name().to_owned() };
            turn(&self, version).await;
            witnesses.agree(&era).await;
            eras.push(era);
            assert!(old.echoes("still here").await, "the socket to blue, switch {round}");
            if new.is_none() {
                new = Some(self.socket().await);
            }
        }
        drop(self.blue);
        assert!(old.ends().await, "the socket to blue ends with blue");
        assert!(new.unwrap().echoes("still here").await, "the socket to green");
        witnesses.agree(&Era { begun: Instant::now(), version: "green".to_owned() }).await;
        let seen = witnesses.stop().await;
        let wrong = wrong(&eras, &seen);
        assert!(
            wrong.is_empty(),
            "{} of {}: {:#?}",
            wrong.len(),
            seen.len(),
            &wrong[..wrong.len().min(5)]
        );
        assert!(seen.len() > 20 * SWITCHES, "{} requests are too few to tell", seen.len());
        assert!(!self.lockgate.stdout().contains("\" 50"), "{}", self.lockgate.stdout());
    }
}

/// The same Service, other Pods.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_switched_fifty_times_under_load() {
    House::new().await.switch_often(House::turn_service).await;
}

/// The same Ingress, another Service.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_is_switched_fifty_times_under_load() {
    House::new().await.switch_often(House::turn_ingress).await;
}

/// What these stories judge by.
#[test]
fn answers_of_the_old_version_are_wrong_once_the_new_one_was_seen() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let era = |ms, version: &str| Era { begun: at(ms), version: version.to_owned() };
    let eras = [era(0, "blue"), era(100, "green"), era(200, "blue")];
    let good = [(1, 2, "blue"), (110, 120, "green"), (205, 210, "blue")];
    for (case, expected) in [
        ((101, 119, "blue"), 0), // Not settled yet.
        ((119, 150, "blue"), 0), // Began before it had settled.
        ((120, 130, "blue"), 1),
        ((150, 250, "blue"), 0), // The next switch may have been the faster one.
        ((150, 199, "blue"), 1),
        ((211, 220, "green"), 1),
        ((211, 9_999, "green"), 1),
        ((101, 102, ""), 1),
    ] {
        let seen: Vec<_> = good.into_iter().chain([case]).collect();
        let seen: Vec<_> = seen
            .into_iter()
            .map(|(begun, ended, version)| Sighting {
                witness: 0,
                begun: at(begun),
                ended: at(ended),
                answer: if version.is_empty() { Err("502".into()) } else { Ok(version.into()) },
            })
            .collect();
        assert_eq!(wrong(&eras, &seen).len(), expected, "{case:?}");
    }
}
