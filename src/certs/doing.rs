//! What is being done right now, as it is told to people.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::standing::State;
use crate::model::name::ObjectName;

/// Where each stands, and the URL of its order.
pub(super) type States = BTreeMap<ObjectName, (State, Option<String>)>;

/// All that is under way; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    states: Arc<Mutex<States>>,
    changed: Arc<Notify>,
}

/// One certificate under way; over when it is dropped.
#[derive(Debug)]
pub(super) struct Doing {
    work: Work,
    name: ObjectName,
}

impl Work {
    /// Begins something.
    pub(super) fn begin(&self, name: &ObjectName) -> Doing {
        self.lock().insert(name.clone(), (State::Checking, None));
        Doing { work: self.clone(), name: name.clone() }
    }

    /// Where each stands, and the URL of its order.
    pub(super) fn states(&self) -> States {
        self.lock().clone()
    }

    /// Waits until something got on.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doing {
    /// It got here.
    pub(super) fn at(&self, state: State) {
        if let Some(it) = self.work.lock().get_mut(&self.name) {
            it.0 = state;
        }
        self.work.changed.notify_one();
    }

    /// It has an order.
    pub(super) fn order(&self, url: &str) {
        if let Some(it) = self.work.lock().get_mut(&self.name) {
            it.1 = Some(url.to_owned());
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        self.work.lock().remove(&self.name);
    }
}
