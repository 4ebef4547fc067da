//! What the cluster is told: addresses in the status of our Ingresses, Events about problems and
//! certificates. Only the holder of the lease tells.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::compile::objects::Objects;
use crate::lease::Leadership;
use crate::model::name::{Kind, ObjectName};
use crate::model::plan::Plan;
use crate::model::problem::Problem;
use crate::store::{Notice, Store, StoreError};

/// When problems that could not be told are tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// When nodes are looked at again that had no pod ready: our own is, soon after we serve.
const SOON: Duration = Duration::from_secs(5);

/// What was compiled last, for everybody who tells of it.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The snapshot.
    pub objects: Arc<Objects>,
    /// What it came to.
    pub plan: Arc<Plan>,
    /// What was wrong with it.
    pub problems: Arc<Vec<Problem>>,
}

/// Where the addresses come from.
#[derive(Clone, Debug)]
pub enum Addresses {
    /// `--publish-status-address`
    Given(Vec<Box<str>>),
    /// `--publish-service`
    Service(ObjectName),
    /// Those of the nodes that run pods like ours.
    Nodes {
        /// Our own.
        pod: ObjectName,
        /// `--report-node-internal-ip-address`
        internal: bool,
    },
    /// Nothing is written.
    None,
}

/// The addresses of nodes, as they were seen last.
#[derive(Debug, Default)]
struct Seen {
    addresses: Option<Vec<Box<str>>>,
    /// When to look again.
    due: Option<Instant>,
    /// How long was waited after there was last nothing to see.
    pause: Duration,
}

impl Addresses {
    /// The addresses as they are now, sorted; `None` when they are not known or nothing is to be written.
    fn now(&self, objects: &Objects, seen: &Seen) -> Option<Vec<Box<str>>> {
        match self {
            Self::Given(addresses) => {
                let sorted: BTreeSet<_> = addresses.iter().cloned().collect();
                Some(sorted.into_iter().collect())
            }
            Self::Service(name) => Some(objects.services.get(name)?.addresses.to_vec()),
            Self::Nodes { .. } => seen.addresses.clone(),
            Self::None => None,
        }
    }

    /// Looks at pods and nodes where they decide and that is due, which is every `interval` at most, however
    /// often objects change. Nodes that cannot be seen, or none, leave everything as it is: when the last pod
    /// stops being ready for a while, or the first is not yet, nobody's DNS is to become empty.
    async fn look(&self, store: &Store, interval: Duration, seen: &mut Seen) {
        let Self::Nodes { pod, internal } = self else { return };
        let now = Instant::now();
        if seen.due.is_some_and(|it| now < it) {
            return;
        }
        let found = store.addresses_of_nodes(pod, *internal).await;
        seen.due = Some(now + interval);
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                (seen.addresses, seen.pause) = (Some(addresses), Duration::ZERO);
            }
            Ok(_) => {
                seen.pause = (seen.pause * 2).max(SOON).min(interval);
                seen.due = Some(now + seen.pause);
                tracing::debug!(%pod, "no pod like it is ready on a node with an address");
            }
            // Without a pod of that name we do not run in the cluster, and no node is ours.
            Err(StoreError::Gone(name)) => {
                tracing::debug!(%name, "not there: no addresses of nodes");
            }
            Err(error) => tracing::warn!(%error, "nodes not seen, status left as it is"),
        }
    }
}

/// Writes the status of every Ingress that is ours, whenever it is not what it should be, for ever.
///
/// Looks after each change and after `interval`, for those that somebody else overwrote.
pub async fn publish(
    store: Store,
    addresses: Addresses,
    interval: Duration,
    mut leadership: Leadership,
    mut compiled: watch::Receiver<Compiled>,
) {
    let mut seen = Seen::default();
    loop {
        let Compiled { objects, plan, .. } = compiled.borrow_and_update().clone();
        let leads = leadership.holds() && !plan.ours.is_empty();
        if leads {
            addresses.look(&store, interval, &mut seen).await;
        }
        if let Some(wanted) = addresses.now(&objects, &seen) {
            for name in &plan.ours {
                let written = objects.ingresses.get(name).is_some_and(|it| {
                    let mut held = it.addresses.clone();
                    held.sort_unstable();
                    *held == *wanted
                });
                if written {
                    continue;
                }
                if !leadership.holds() {
                    break;
                }
                match store.publish(name, &wanted).await {
                    // Gone, or changed under our hands: the next snapshot says more.
                    Ok(()) | Err(StoreError::Gone(_) | StoreError::Conflict(_)) => {}
                    Err(StoreError::Unavailable(error)) => {
                        tracing::warn!(error, "status not written, trying again later");
                        break;
                    }
                    Err(error) => tracing::warn!(%error, ingress = %name, "status not written"),
                }
            }
        }
        let now = Instant::now();
        let next = seen.due.filter(|_| leads).unwrap_or(now + interval);
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            () = leadership.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Tells of problems and milestones, for ever: each problem once, and again when it comes back.
pub async fn tell(
    store: Store,
    mut leadership: Leadership,
    mut compiled: watch::Receiver<Compiled>,
    mut notices: mpsc::Receiver<Notice>,
) {
    let mut told: HashSet<Notice> = HashSet::new();
    loop {
        let Compiled { objects, problems, .. } = compiled.borrow_and_update().clone();
        if leadership.holds() {
            let present: HashSet<Notice> = problems.iter().map(notice).collect();
            told.retain(|it| present.contains(it));
            for notice in present {
                if told.contains(&notice) || !leadership.holds() {
                    continue;
                }
                if let Err(StoreError::Unavailable(_)) = send(&store, &objects, &notice).await {
                    break;
                }
                told.insert(notice);
            }
        } else {
            told.clear();
        }
        tokio::select! {
            changed = compiled.changed() => if changed.is_err() { return },
            () = leadership.changed() => {}
            () = tokio::time::sleep(AGAIN) => {}
            Some(notice) = notices.recv() => {
                if leadership.holds() {
                    // What is told of may have come just now.
                    let objects = compiled.borrow().objects.clone();
                    let _ = send(&store, &objects, &notice).await;
                }
            }
        }
    }
}

fn notice(problem: &Problem) -> Notice {
    let Problem { kind, object, reason, text } = problem;
    Notice {
        kind: *kind,
        object: object.clone(),
        reason: (*reason).to_owned(),
        text: text.clone(),
        warning: true,
    }
}

async fn send(store: &Store, objects: &Objects, notice: &Notice) -> Result<(), StoreError> {
    if notice.object.name.is_empty() {
        // A problem of a whole kind has no object to hang an Event on.
        tracing::warn!(kind = %notice.kind, "{}", notice.text);
        return Ok(());
    }
    let uid = match notice.kind {
        Kind::Ingress => objects.ingresses.get(&notice.object).map(|it| it.uid.clone()),
        _ => None,
    };
    let sent = store.notify(notice, &uid.unwrap_or_default()).await;
    if let Err(error) = &sent {
        tracing::warn!(%error, kind = %notice.kind, object = %notice.object, "Event not written");
    }
    sent
}
