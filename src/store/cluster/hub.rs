//! What the watches have seen, gathered into complete snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::compile::objects::{ByName, ConfigMap, Objects, Secret};
use crate::model::name::{Kind, ObjectName};
use crate::store::Selection;

/// A burst is over after this long without a change.
const QUIET: Duration = Duration::from_millis(50);
/// After this long without any change the next one is likely alone, and waits only [`SHORT`].
const LONG: Duration = Duration::from_millis(200);
const SHORT: Duration = Duration::from_millis(5);
/// A burst that does not end is cut after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most Events whose counts are remembered.
const MOST_POSTED: usize = 4096;

/// What the watches have seen.
#[derive(Debug, Default)]
pub(super) struct Hub {
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
    /// Secrets and ConfigMaps to be read one by one.
    pub(super) unlisted: watch::Sender<[BTreeSet<ObjectName>; 2]>,
    /// One of those Secrets changed.
    pub(super) outdated: Notify,
    /// How often each Event was posted: reading them back would need one more right.
    pub(super) posted: Mutex<HashMap<String, i32>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: Objects,
    /// The account's Secret, which is not of the type that is listed.
    pub(super) account: BTreeMap<ObjectName, Arc<Secret>>,
    /// Secrets read one by one.
    pub(super) named: BTreeMap<ObjectName, Arc<Secret>>,
    /// ConfigMaps read one by one.
    pub(super) named_maps: BTreeMap<ObjectName, Arc<ConfigMap>>,
    /// Namespaces that count, by their names; none where all do.
    pub(super) namespaces: ByName<()>,
    /// Whether they were read at all.
    pub(super) named_read: bool,
    pub(super) listed: BTreeSet<Kind>,
    pub(super) account_listed: bool,
    pub(super) answered: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: Objects::default(),
            account: BTreeMap::new(),
            named: BTreeMap::new(),
            named_maps: BTreeMap::new(),
            namespaces: ByName::default(),
            named_read: false,
            listed: BTreeSet::new(),
            account_listed: false,
            answered: Instant::now(),
        }
    }
}

impl State {
    /// A kind may not be listed. What was listed before stays, as through any other error.
    pub(super) fn refused(&mut self, kind: Kind) {
        let seen = self.listed.contains(&kind) && !self.objects.unreadable.contains(&kind);
        if seen {
            self.objects.stale.insert(kind);
        } else {
            self.objects.unreadable.insert(kind);
            self.listed.insert(kind);
        }
    }
}

impl Hub {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.answered = Instant::now();
        change(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// How often an Event was posted, this time included, since the process began.
    pub(super) fn count(&self, event: &str) -> i32 {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        if posted.len() >= MOST_POSTED {
            posted.clear();
        }
        let count = posted.entry(event.to_owned()).or_insert(1);
        *count += 1;
        *count
    }

    /// Waits for a change, then until the burst it began is over. A change after a long calm is not kept
    /// waiting for others: what follows it closely makes the next snapshot.
    pub(super) async fn settled(&self) {
        let calm_since = Instant::now();
        self.changed.notified().await;
        let quiet = if calm_since.elapsed() < LONG { QUIET } else { SHORT };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let quiet = deadline.min(Instant::now() + quiet);
            if tokio::time::timeout_at(quiet, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Everything that counts, once every kind was listed.
    pub(super) fn snapshot(&self, selection: Option<&Selection>) -> Option<Objects> {
        let state = self.lock();
        let complete = state.account_listed
            && state.named_read
            && Kind::WATCHED.iter().all(|it| state.listed.contains(it));
        complete.then(|| {
            let mut objects = state.objects.clone();
            for (name, secret) in state.named.iter().chain(&state.account) {
                objects.secrets.entry(name.clone()).or_insert_with(|| secret.clone());
            }
            for (name, map) in &state.named_maps {
                objects.config_maps.entry(name.clone()).or_insert_with(|| map.clone());
            }
            if let Some(selection) = selection {
                let namespaces = state.namespaces.keys().map(|it| it.name.clone());
                selection.narrow(&mut objects, &namespaces.collect());
            }
            objects
        })
    }
}
