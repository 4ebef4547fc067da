//! Turns snapshots into what is served.
//!
//! On a thread of its own: no other task waits for a large plan, and what is let go again is freed where it
//! was made, never by a worker that happened to hold it last.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::wall;
use crate::compile::config::LastSeen;
use crate::compile::objects::Objects;
use crate::compile::{IssuerKind, Policy, compile};
use crate::live::{Current, Live, memory};
use crate::metrics::Metrics;
use crate::model::name::Kind;
use crate::model::plan::Plan;
use crate::model::problem::Problem;
use crate::model::stream::Door;
use crate::proxy::Doors;
use crate::status::Compiled;
use crate::store::{Snapshots, Store};

/// How long readiness waits for the ACME account's key once everything else is there.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(30);
/// How often a port that is taken is tried again.
const KNOCK: Duration = Duration::from_secs(5);
/// How soon is looked whether what was replaced is still in use; doubled up to [`SELDOM`] while it is.
const LOOK: Duration = Duration::from_millis(100);
/// The longest pause between two such looks: a WebSocket may keep for hours what it began with.
const SELDOM: Duration = Duration::from_secs(2);
/// How long memory that was freed is kept while something is made again and again.
const BUSY: Duration = Duration::from_secs(1);

/// Turns snapshots into what is served.
pub(super) struct Compiler {
    pub(super) workshop: Workshop,
    pub(super) policy: Policy,
    pub(super) current: Current,
    pub(super) doors: Doors,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Store,
    pub(super) compiled: watch::Sender<Compiled>,
    pub(super) plan: watch::Sender<Arc<Plan>>,
    pub(super) ready: watch::Sender<bool>,
}

/// What a snapshot comes to.
struct Made {
    plan: Arc<Plan>,
    problems: Vec<Problem>,
    /// `None` where what is served already says the same.
    live: Option<Live>,
}

impl Compiler {
    /// Follows the snapshots to their end.
    pub(super) async fn run(self, mut snapshots: Snapshots) {
        let mut first = None;
        let mut last = LastSeen::new(self.policy.config_map.clone());
        let mut taken: Vec<Problem> = Vec::new();
        loop {
            let late = first.map(|it: Instant| it + ACCOUNT_PATIENCE);
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(late.unwrap_or_else(Instant::now)),
                    if late.is_some() && !*self.ready.borrow() =>
                {
                    tracing::warn!("no ACME account key yet: ready without, challenges are not answered");
                    self.ready.send_replace(true);
                    continue;
                }
                () = tokio::time::sleep(KNOCK), if !taken.is_empty() => {
                    taken = self.knock(&taken);
                    continue;
                }
            }
            let Some(objects) = snapshots.borrow_and_update().clone() else { continue };
            let objects = last.complete(objects);
            first.get_or_insert_with(Instant::now);
            let previous = self.current.load();
            let made = {
                let (objects, policy) = (objects.clone(), self.policy.clone());
                let previous = previous.clone();
                self.workshop.make(move || make(&objects, &policy, &previous))
            };
            let Some(Made { plan, mut problems, live }) = made.await else {
                tracing::error!("compiling panicked: what was served before is kept");
                continue;
            };
            self.store.read_also(&plan.unlisted, &plan.unlisted_maps);
            if let Some(live) = live {
                self.current.replace(live);
                self.metrics.keep(&plan.ours);
                self.metrics.swapped(wall().as_second());
                tracing::info!(
                    hosts = plan.hosts.len(),
                    backends = plan.backends.len(),
                    streams = plan.streams.len(),
                    problems = problems.len(),
                    "now serving"
                );
                self.workshop.retire(previous);
            }
            taken = self.open(&plan);
            problems.extend(taken.iter().cloned());
            problems.sort_unstable();
            self.metrics.problems(&problems);
            let answering = is_answering(&self.policy, &plan, &objects);
            let problems = Arc::new(problems);
            let compiled = Compiled { objects, plan: plan.clone(), problems };
            let Compiled { objects, .. } = self.compiled.send_replace(compiled);
            self.plan.send_if_modified(|it| {
                let changed = !Arc::ptr_eq(it, &plan);
                *it = plan;
                changed
            });
            // Last, so that whoever sees it can see all the rest.
            if answering {
                self.ready.send_replace(true);
            }
            self.workshop.retire(objects);
        }
    }

    /// Opens the ports of the plan's streams and closes all others; says which of them are taken.
    fn open(&self, plan: &Plan) -> Vec<Problem> {
        let failed = self.doors.set(plan.streams.keys());
        let problem = |(door, error): (Door, std::io::Error)| Problem {
            kind: Kind::ConfigMap,
            object: self.policy.streams(door.transport).cloned().unwrap_or_default(),
            reason: "PortTaken",
            text: format!("{}: {error}: it is not opened until it can be", door.port),
        };
        failed.into_iter().map(problem).collect()
    }

    /// Tries ports again that were taken.
    fn knock(&self, before: &[Problem]) -> Vec<Problem> {
        let now = self.open(&self.compiled.borrow().plan.clone());
        if now != before {
            self.compiled.send_modify(|it| {
                let others = it.problems.iter().filter(|it| !before.contains(it));
                let mut problems: Vec<_> = others.chain(&now).cloned().collect();
                problems.sort_unstable();
                self.metrics.problems(&problems);
                it.problems = Arc::new(problems);
            });
        }
        now
    }
}

/// Compiles a snapshot, and builds what is served of it.
fn make(objects: &Objects, policy: &Policy, previous: &Live) -> Made {
    let (plan, problems) = compile(objects, policy);
    if *previous.plan == plan && !previous.starting {
        return Made { plan: previous.plan.clone(), problems, live: None };
    }
    let plan = Arc::new(plan);
    Made { plan: plan.clone(), problems, live: Some(Live::next(plan, previous)) }
}

/// Whether challenges are answered here, as far as they ever will be: no replica is ready before.
fn is_answering(policy: &Policy, plan: &Plan, objects: &Objects) -> bool {
    policy.issuer != IssuerKind::Acme
        || plan.thumbprint.is_some()
        || objects.unreadable.contains(&Kind::Secret)
}

/// The thread on which all that is made, and let go again when nobody uses it any more.
pub(super) struct Workshop(Sender<Job>);

type Old = Arc<dyn Any + Send + Sync>;

enum Job {
    Make(Box<dyn FnOnce() + Send>),
    Retire(Old),
}

impl Workshop {
    /// Fails when there can be no thread.
    pub(super) fn open() -> std::io::Result<Self> {
        let (sender, jobs) = channel();
        std::thread::Builder::new().name("compiler".to_owned()).spawn(move || work(&jobs))?;
        Ok(Self(sender))
    }

    /// Has something made; `None` when that panicked.
    async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, made) = oneshot::channel();
        let job = move || {
            // Nobody waits for it any more when the program ends.
            let _ = sender.send(make());
        };
        self.0.send(Job::Make(Box::new(job))).ok()?;
        made.await.ok()
    }

    /// Lets something go once nobody else has it.
    fn retire(&self, old: Old) {
        // The thread ends with us only.
        let _ = self.0.send(Job::Retire(old));
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut old: Vec<Old> = Vec::new();
    // Since when there is memory to be given back.
    let mut freed: Option<Instant> = None;
    let mut look = LOOK;
    loop {
        let job = if old.is_empty() && freed.is_none() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(look)
        };
        // Before anything new is made, which can then be where the old was.
        let before = old.len();
        old.retain(|it| Arc::strong_count(it) > 1);
        if old.len() < before {
            freed.get_or_insert_with(Instant::now);
        }
        let calm = matches!(job, Err(RecvTimeoutError::Timeout));
        look = if calm && freed.is_none() { SELDOM.min(look * 2) } else { LOOK };
        match job {
            Ok(Job::Make(make)) => {
                // Its sender goes with it, which tells of a panic.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
            }
            // Two of the same would keep each other.
            Ok(Job::Retire(it)) if old.iter().any(|other| Arc::ptr_eq(other, &it)) => {}
            Ok(Job::Retire(it)) => old.push(it),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Where something is made all the time, what was freed is needed again at once.
        if freed.is_some_and(|since| calm || since.elapsed() >= BUSY) {
            memory::give_back();
            freed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CA may ask any replica, so one that cannot answer gets no traffic.
    #[test]
    fn r_tok_4_a_replica_is_ready_once_it_answers_challenges() {
        use IssuerKind::{Acme, Local};
        for (issuer, thumbprint, unreadable, expected) in [
            (Acme, None, false, false),
            (Acme, Some("thumb"), false, true),
            // Nothing will come of waiting for what may not be read.
            (Acme, None, true, true),
            (Local, None, false, true),
            (IssuerKind::None, None, false, true),
        ] {
            let policy = Policy { issuer, ..Policy::default() };
            let plan = Plan { thumbprint: thumbprint.map(Into::into), ..Plan::default() };
            let kinds = unreadable.then_some(Kind::Secret);
            let objects = Objects { unreadable: kinds.into_iter().collect(), ..Objects::default() };
            let found = is_answering(&policy, &plan, &objects);
            assert_eq!(found, expected, "{issuer:?} {thumbprint:?} {unreadable}");
        }
    }

    #[tokio::test]
    async fn what_is_replaced_goes_once_nobody_has_it() {
        let workshop = Workshop::open().expect("a thread");
        assert_eq!(workshop.make(|| 1).await, Some(1));
        assert_eq!(workshop.make(|| -> u8 { panic!("on purpose") }).await, None);
        let [free, held] = [1, 2].map(Arc::new);
        let gone = [Arc::downgrade(&free), Arc::downgrade(&held)];
        workshop.retire(free.clone());
        workshop.retire(free);
        workshop.retire(held.clone());
        let is_gone = |it: usize| gone[it].upgrade().is_none();
        let until = Instant::now() + Duration::from_secs(20);
        while !is_gone(0) {
            assert!(Instant::now() < until, "still there");
            tokio::time::sleep(LOOK / 10).await;
        }
        assert!(!is_gone(1), "somebody has it");
        drop(held);
        while !is_gone(1) {
            assert!(Instant::now() < until, "still there, however often something is made");
            assert_eq!(workshop.make(|| 2).await, Some(2));
        }
        assert_eq!(workshop.make(|| 3).await, Some(3), "it goes on");
    }
}
