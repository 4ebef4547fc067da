//! Who of the replicas writes: leader election by a Lease, compatible with client-go's.
//!
//! Every replica serves; only the holder orders certificates and writes status and Events. A lease is
//! taken over when it has not changed for its whole duration *as seen here, by the monotonic clock*;
//! the times written in it are never compared with the local one. The holder stops to be one when it
//! could not renew for two thirds of the duration, so before anybody else may begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::model::name::ObjectName;
use crate::store::{LeaseRecord, Store, StoreError};

/// How an election is run.
#[derive(Clone, Debug)]
pub struct Election {
    /// The Lease.
    pub name: ObjectName,
    /// Who we are: the pod.
    pub identity: String,
    /// `--election-ttl`
    pub duration: Duration,
}

/// Whether this replica leads; cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// Nanoseconds after `base` until which it does; 0 for not at all.
    until: Arc<AtomicU64>,
    base: Instant,
    changes: watch::Receiver<bool>,
}

impl Leadership {
    /// Leads for ever: there is nobody else.
    pub fn sole() -> Self {
        let (_, changes) = watch::channel(true);
        Self { until: Arc::new(AtomicU64::new(u64::MAX)), base: Instant::now(), changes }
    }

    /// Whether it leads at this moment; asked before every write.
    ///
    /// A process that was stopped for long finds out here, without anybody telling it.
    pub fn holds(&self) -> bool {
        let now = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX);
        now < self.until.load(Ordering::Acquire)
    }

    /// Waits until leadership is won or lost; for ever where it cannot be.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What to do with a lease.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    /// Write this: it is ours, or free.
    Write(LeaseRecord),
    /// Somebody else holds it.
    Wait,
}

/// Decides from a lease as it was read, and how long ago it was first seen like this.
fn step(
    lease: &LeaseRecord,
    unchanged: Duration,
    identity: &str,
    duration: Duration,
    now: i64,
) -> Step {
    let held = Duration::from_secs(u64::try_from(lease.seconds).unwrap_or(0));
    let ours = lease.holder == identity;
    if !ours && !lease.holder.is_empty() && unchanged < held {
        return Step::Wait;
    }
    let first = lease.version.is_none();
    Step::Write(LeaseRecord {
        holder: identity.to_owned(),
        seconds: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX),
        acquired: if ours { lease.acquired } else { now },
        renewed: now,
        transitions: lease.transitions + i32::from(!ours && !first),
        version: lease.version.clone(),
    })
}

/// Takes part in the election until `stop`, then gives the lease back.
pub fn run(
    store: Store,
    election: Election,
    metrics: Arc<Metrics>,
    wall: fn() -> jiff::Timestamp,
    stop: CancellationToken,
) -> (Leadership, tokio::task::JoinHandle<()>) {
    let (sender, changes) = watch::channel(false);
    let leadership = Leadership { until: Arc::default(), base: Instant::now(), changes };
    let candidate = Candidate {
        leadership: leadership.clone(),
        sender,
        store,
        election,
        metrics,
        wall,
        seen: None,
    };
    (leadership, tokio::spawn(candidate.run(stop)))
}

struct Candidate {
    leadership: Leadership,
    sender: watch::Sender<bool>,
    store: Store,
    election: Election,
    metrics: Arc<Metrics>,
    wall: fn() -> jiff::Timestamp,
    /// The lease as last read, and when it was first seen like that.
    seen: Option<(LeaseRecord, Instant)>,
}

impl Candidate {
    async fn run(mut self, stop: CancellationToken) {
        let renew = self.election.duration / 3;
        // Who waits looks more often than who holds, so that a free lease does not stay free.
        let retry = self.election.duration / 12;
        loop {
            let begun = Instant::now();
            let attempt = tokio::time::timeout(renew, self.attempt()).await;
            let renewed = matches!(attempt, Ok(Ok(true)));
            match attempt {
                Ok(Ok(true)) => self.hold(begun + self.election.duration * 2 / 3),
                Ok(Ok(false)) => self.lose(),
                Ok(Err(StoreError::Conflict(_))) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.election.name, "lease not renewed");
                }
                Err(_) => tracing::warn!(lease = %self.election.name, "lease not renewed in time"),
            }
            if !self.leadership.holds() {
                self.lose();
            }
            let pause = if renewed { renew } else { retry };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        let led = self.leadership.holds();
        // First stop, then let others begin.
        self.lose();
        if led {
            self.give_back().await;
        }
    }

    /// Reads the lease and writes it where it is ours to write; says whether we hold it now.
    async fn attempt(&mut self) -> Result<bool, StoreError> {
        let lease = self.store.lease(&self.election.name).await?;
        let since = match &self.seen {
            Some((seen, since)) if *seen == lease => *since,
            _ => Instant::now(),
        };
        self.seen = Some((lease.clone(), since));
        let now = (self.wall)().as_microsecond();
        let Election { identity, duration, name } = &self.election;
        match step(&lease, since.elapsed(), identity, *duration, now) {
            Step::Wait => Ok(false),
            Step::Write(record) => {
                self.store.write_lease(name, &record).await?;
                Ok(true)
            }
        }
    }

    fn hold(&self, until: Instant) {
        let nanos = (until - self.leadership.base).as_nanos();
        self.leadership.until.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
        self.tell(true);
    }

    fn lose(&self) {
        self.leadership.until.store(0, Ordering::Release);
        self.tell(false);
    }

    fn tell(&self, leads: bool) {
        self.metrics.leader.set(i64::from(leads));
        let changed = self.sender.send_if_modified(|it| std::mem::replace(it, leads) != leads);
        if changed && leads {
            tracing::info!(lease = %self.election.name, "this replica leads");
        } else if changed {
            tracing::info!(lease = %self.election.name, "this replica no longer leads");
        }
    }

    /// Leaves the lease free, so that nobody waits for it to expire.
    async fn give_back(&mut self) {
        let Ok(lease) = self.store.lease(&self.election.name).await else { return };
        if lease.holder == self.election.identity {
            let free = LeaseRecord { holder: String::new(), seconds: 1, ..lease };
            if let Err(error) = self.store.write_lease(&self.election.name, &free).await {
                tracing::warn!(%error, "the lease was not given back: it expires");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> LeaseRecord {
        LeaseRecord {
            holder: holder.to_owned(),
            seconds: 30,
            acquired: 5,
            renewed: 6,
            transitions: 2,
            version: Some("7".to_owned()),
        }
    }

    const DURATION: Duration = Duration::from_secs(30);

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_did_not_change_for_its_duration() {
        let secs = Duration::from_secs;
        for (lease, unchanged, expected) in [
            (LeaseRecord::default(), secs(0), Some((0, 9))),
            (lease(""), secs(0), Some((3, 9))),
            (lease("me"), secs(0), Some((2, 5))),
            (lease("other"), secs(29), None),
            (lease("other"), secs(30), Some((3, 9))),
        ] {
            let got = match step(&lease, unchanged, "me", DURATION, 9) {
                Step::Wait => None,
                Step::Write(it) => {
                    assert_eq!((it.holder.as_str(), it.renewed), ("me", 9));
                    assert_eq!(it.version, lease.version, "written where it was read");
                    Some((it.transitions, it.acquired))
                }
            };
            assert_eq!(got, expected, "{lease:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_by_itself() {
        let (_, changes) = watch::channel(true);
        let base = Instant::now();
        let until = Arc::new(AtomicU64::new(20_000_000_000));
        let leadership = Leadership { until, base, changes };
        assert!(leadership.holds());
        tokio::time::advance(Duration::from_secs(21)).await;
        assert!(!leadership.holds());
    }
}
