//! More requests than can be served: as many as before are, the rest are told so at once, and all is
//! well as soon as the rush is over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::harness::backend::Backend;
use crate::harness::cgroup::Cgroup;
use crate::harness::client::{Client, Connection};
use crate::harness::load::Load;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class};
use crate::harness::process::{SOON, eventually, lock};

const URL: &str = "http://a.test/";

/// Requests that come at their own pace, whatever became of those before.
struct Rush {
    served: usize,
    refused: Vec<Duration>,
    /// Given up by a client that waits no longer.
    given_up: usize,
}

/// Asks `rate` times a second for as long as `time`; each request takes a connection that is free, or a
/// new one.
async fn rush(client: &Client, rate: f64, time: Duration) -> Rush {
    const PATIENCE: Duration = Duration::from_secs(10);
    let free: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let result = Arc::new(Mutex::new(Rush { served: 0, refused: Vec::new(), given_up: 0 }));
    let mut tick = interval(Duration::from_secs_f64(1.0 / rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asked = JoinSet::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        tick.tick().await;
        let (client, free, result) = (client.clone(), free.clone(), result.clone());
        asked.spawn(async move {
            let begun = Instant::now();
            let held = lock(&free).pop();
            let ask = async {
                let mut connection = match held {
                    Some(connection) => connection,
                    None => client.connect(URL).await.ok()?,
                };
                let reply = connection.get(URL).await.ok()?;
                (reply.status == 200).then_some((connection, reply.closes()))
            };
            match timeout(PATIENCE, ask).await {
                Ok(Some((connection, closes))) => {
                    lock(&result).served += 1;
                    if !closes {
                        lock(&free).push(connection);
                    }
                }
                Ok(None) => lock(&result).refused.push(begun.elapsed()),
                Err(_) => lock(&result).given_up += 1,
            }
        });
        while asked.try_join_next().is_some() {}
    }
    while asked.join_next().await.is_some() {}
    Arc::into_inner(result).map(|it| it.into_inner().unwrap()).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
#[tokio::test(flavor = "multi_thread")]
async fn long_three_times_what_can_be_served() {
    const USUAL: Duration = Duration::from_secs(10);
    const RUSH: Duration = Duration::from_secs(60);
    let Some(share) = Cgroup::cpu(20) else {
        eprintln!("skipped: no group with a share of a core can be made here");
        return;
    };
    let web = Backend::start("web").await;
    let objects = [
        ingress_class(),
        ingress("web", "a.test", &[("/", "Prefix", "web", 80)], &[]),
        backend("web", 80, &[web.addr()]),
    ];
    let first = format!("{}; ulimit -n 640", share.enter());
    let lockgate = Lockgate::with_manifests(objects.concat())
        .first(&first)
        .args(["--max-connections-per-address=0"])
        .start()
        .await;
    lockgate.ready().await;
    let client = lockgate.client();
    let usual = async || {
        let begun = Instant::now();
        let load = Load::start(&client, URL, 64).await;
        let enough = Duration::from_secs(60);
        eventually("enough load", enough, async || begun.elapsed() > USUAL).await;
        let report = load.stop().await;
        report.assert_clean();
        report.ok as f64 / begun.elapsed().as_secs_f64()
    };
    let most = usual().await;
    let memory = lockgate.memory();
    let rush = rush(&client, most * 3.0, RUSH).await;
    let goodput = rush.served as f64 / RUSH.as_secs_f64();
    let mut refused = rush.refused;
    refused.sort_unstable();
    let median = refused.get(refused.len() / 2).copied().unwrap_or_default();
    eprintln!(
        "{most:.0} a second at most; of three times as many {goodput:.0} were served, {} refused \
         after {median:?}, {} given up; {} KiB more",
        refused.len() as f64 / RUSH.as_secs_f64(),
        rush.given_up,
        lockgate.memory().saturating_sub(memory) >> 10
    );
    // Taking and closing the connections of those who are refused costs, too.
    assert!(goodput > most * 0.75, "{goodput} of {most}");
    // They wait in the kernel for a process that may run one fifth of the time.
    assert!(median < Duration::from_secs(4), "{median:?}");
    let over = Instant::now();
    eventually("served as before", SOON, async || {
        let reply = client.get(URL).await.map_err(|error| error.to_string())?;
        (reply.status == 200 && over.elapsed() < Duration::from_secs(5))
            .then_some(())
            .ok_or(format!("{} after {:?}", reply.status, over.elapsed()))
    })
    .await;
    // What the clients left in the kernel's queues is worked off first.
    let mut after = 0.0;
    for _ in 0..6 {
        after = usual().await;
        if after > most * 0.75 {
            break;
        }
    }
    assert!(after > most * 0.75, "{after} of {most} afterwards");
    drop(lockgate);
}
