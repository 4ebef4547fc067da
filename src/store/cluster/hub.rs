//! What the watches have seen, gathered into complete snapshots.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::compile::objects::{ConfigMap, Objects, Secret};
use crate::model::by_name::ByName;
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
    pub(super) account: ByName<Secret>,
    /// Secrets read one by one.
    pub(super) named: ByName<Secret>,
    /// ConfigMaps read one by one.
    pub(super) named_maps: ByName<ConfigMap>,
    /// Namespaces that count, by their names; none where all do.
    pub(super) namespaces: ByName<()>,
    /// Whether they were read at all.
    pub(super) named_read: bool,
    /// All Secrets there are, listed or not, as snapshots have them.
    secrets: Joined<Secret, 3>,
    /// All ConfigMaps, likewise.
    config_maps: Joined<ConfigMap, 2>,
    pub(super) listed: BTreeSet<Kind>,
    pub(super) account_listed: bool,
    pub(super) answered: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: Objects::default(),
            account: ByName::default(),
            named: ByName::default(),
            named_maps: ByName::default(),
            secrets: Joined::default(),
            config_maps: Joined::default(),
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

/// Several maps as one, put together again only when one of them changed.
#[derive(Debug)]
struct Joined<T, const PARTS: usize> {
    parts: [ByName<T>; PARTS],
    all: ByName<T>,
}

impl<T, const PARTS: usize> Joined<T, PARTS> {
    /// All of `parts`; what the first of them has of a name wins.
    fn of(&mut self, parts: [&ByName<T>; PARTS]) -> ByName<T> {
        if !parts.iter().zip(&self.parts).all(|(now, before)| now.is(before)) {
            self.parts = parts.map(Clone::clone);
            self.all = parts[0].clone();
            for (name, object) in parts[1..].iter().copied().flatten() {
                if !self.all.contains_key(name) {
                    self.all.insert(name.clone(), object.clone());
                }
            }
        }
        self.all.clone()
    }
}

impl<T, const PARTS: usize> Default for Joined<T, PARTS> {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| ByName::default()), all: ByName::default() }
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
        let mut state = self.lock();
        let complete = state.account_listed
            && state.named_read
            && Kind::WATCHED.iter().all(|it| state.listed.contains(it));
        complete.then(|| {
            let State { objects, account, named, named_maps, secrets, config_maps, .. } =
                &mut *state;
            let mut objects = objects.clone();
            objects.secrets = secrets.of([&objects.secrets, named, account]);
            objects.config_maps = config_maps.of([&objects.config_maps, named_maps]);
            if let Some(selection) = selection {
                let namespaces = state.namespaces.keys().map(|it| it.name.clone());
                selection.narrow(&mut objects, &namespaces.collect());
            }
            objects
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn snapshots_share_what_did_not_change() {
        let hub = Hub::default();
        assert!(hub.snapshot(None).is_none(), "nothing was listed");
        let name = |it: &str| ObjectName::new("shop", it);
        let map = |value: &str| {
            let data = [("key".into(), value.into())].into();
            Arc::new(ConfigMap { data })
        };
        hub.update(|state| {
            state.listed = Kind::WATCHED.into();
            (state.account_listed, state.named_read) = (true, true);
            state.objects.config_maps.insert(name("both"), map("listed"));
            state.named_maps.insert(name("both"), map("named"));
            state.named_maps.insert(name("named"), map("named"));
        });
        let snapshot = || hub.snapshot(None).expect("all was listed");
        let first = snapshot();
        let data = |it: &str| first.config_maps[&name(it)].data["key"].clone();
        assert_eq!((&*data("both"), &*data("named")), ("listed", "named"));
        hub.update(|state| state.objects.ingresses.insert(name("web"), Arc::default()));
        let second = snapshot();
        assert!(first.config_maps.is(&second.config_maps) && first.secrets.is(&second.secrets));
        assert_eq!((first.ingresses.len(), second.ingresses.len()), (0, 1));
        hub.update(|state| state.named_maps.remove(&name("named")));
        let third = snapshot();
        assert!(second.ingresses.is(&third.ingresses));
        assert_eq!((second.config_maps.len(), third.config_maps.len()), (2, 1));
    }
}
