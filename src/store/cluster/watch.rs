//! One watch a kind: keeps what was seen through every error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::hub::{Hub, State};
use super::{CALL, Cluster, WATCH, call, convert};
use crate::model::by_name::ByName;
use crate::model::common::Common;
use crate::model::name::{Kind, ObjectName};

/// How often the API server is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often what no list holds is read again.
const UNLISTED: Duration = Duration::from_secs(30);
/// How soon it is read again where something was not answered; doubled until all is.
const UNANSWERED: Duration = Duration::from_secs(5);
/// From which refusal on a kind counts as refused: an API server that just started refuses everything, for
/// a moment.
const REFUSALS: u32 = 3;
/// How long a mass deletion is held back that came with a new list after an error.
const HELD: Duration = Duration::from_secs(60);
/// From how many objects on a deletion can be a mass deletion; of Ingresses and namespaces from one.
const MASS: usize = 10;

/// Runs a task for ever: one that panics is told of and begun again.
pub(super) fn keep<F>(name: &'static str, task: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    const PAUSE: Duration = Duration::from_secs(5);
    tokio::spawn(async move {
        while let Err(error) = tokio::spawn(task()).await {
            tracing::error!(task = name, %error, "a task failed and is begun again");
            sleep(PAUSE).await;
        }
    });
}

/// Where the objects of a kind are kept.
pub(super) struct Shelf<K, T> {
    pub(super) kind: Kind,
    pub(super) convert: fn(K) -> T,
    pub(super) of: fn(&mut State) -> &mut ByName<T>,
}

impl<K, T> Clone for Shelf<K, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, T> Copy for Shelf<K, T> {}

/// Keeps a shelf like the API server has it, for ever.
///
/// What was seen stays through every error. After one, a list that lacks nearly everything is
/// believed only after [`HELD`].
pub(super) async fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    shelf: Shelf<K, T>,
    hub: Arc<Hub>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + Sync + 'static,
{
    let Shelf { kind, convert, of } = shelf;
    let mut events = pin!(watcher(api, config));
    let mut pause = Pause::default();
    let mut listing = BTreeMap::new();
    let mut failed = false;
    let mut held: Option<(Instant, BTreeMap<ObjectName, Arc<T>>)> = None;
    loop {
        let until = held.as_ref().map(|(until, _)| *until);
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                if let Some((_, objects)) = held.take() {
                    tracing::error!(%kind, "the mass deletion still stands: it is followed");
                    hub.update(|state| *of(state) = objects.into());
                }
                continue;
            }
        };
        if matches!(&event, Some(Ok(it)) if !matches!(it, watcher::Event::Init)) {
            pause.reset();
        }
        match event {
            None => return,
            Some(Ok(watcher::Event::Init)) => listing = BTreeMap::new(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                let name = name_of(&object);
                listing.insert(name, Arc::new(convert(object)));
            }
            Some(Ok(watcher::Event::InitDone)) => {
                // Collected from what is in order its nodes are full; filled one by one they are half empty.
                let objects: BTreeMap<_, _> = std::mem::take(&mut listing).into_iter().collect();
                let before = of(&mut hub.lock()).len();
                let mass = match kind {
                    Kind::Ingress | Kind::Namespace => 1,
                    _ => MASS,
                };
                if failed && before >= mass && objects.len() * 10 < before {
                    tracing::error!(%kind, before, now = objects.len(),
                        "nearly everything is gone after an error: held for a minute");
                    let until = held.map_or_else(|| Instant::now() + HELD, |(until, _)| until);
                    held = Some((until, objects));
                } else {
                    held = None;
                    hub.update(|state| *of(state) = objects.into());
                }
                hub.update(|state| {
                    state.listed.insert(kind);
                    state.objects.unreadable.remove(&kind);
                    state.objects.stale.remove(&kind);
                });
                failed = false;
            }
            Some(Ok(watcher::Event::Apply(object))) => {
                let name = name_of(&object);
                let object = Arc::new(convert(object));
                if let Some((_, objects)) = &mut held {
                    objects.insert(name.clone(), object.clone());
                }
                hub.update(|state| of(state).insert(name, object));
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                let name = name_of(&object);
                match &mut held {
                    Some((_, objects)) => drop(objects.remove(&name)),
                    None => hub.update(|state| of(state).remove(&name)),
                }
            }
            Some(Err(error)) => {
                failed = true;
                tracing::warn!(%kind, %error, "watching failed, trying again");
                pause.failed(&error);
                if pause.is_refused() {
                    hub.update(|state| state.refused(kind));
                }
                pause.pass().await;
            }
        }
    }
}

fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectName {
    static NAMESPACES: LazyLock<Common<str>> = LazyLock::new(Common::default);
    ObjectName::new(NAMESPACES.of(object.namespace().unwrap_or_default()), object.name_any())
}

/// Whether the API server answered that this may not be listed, or that it does not know it. A watch that
/// is refused although the list was not says nothing.
fn is_refusal(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status))
        if matches!(status.code, 401 | 403 | 404))
}

/// How long a watch waits before it is tried again.
///
/// From 0.8 s, doubling, to 5 s, so that a route is not late for long once an API server is back; to 20 s
/// where the answer is a refusal, again and again; spread, so that watches do not come all at once. Counted by hand:
/// kube's own backoff begins anew with every list that is tried.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    /// How many of them were refusals.
    refusals: u32,
}

impl Pause {
    fn failed(&mut self, error: &watcher::Error) {
        self.failures += 1;
        self.refusals += u32::from(is_refusal(error));
    }

    fn is_refused(&self) -> bool {
        self.refusals >= REFUSALS
    }

    async fn pass(&self) {
        sleep(self.length().mul_f64(rand::random_range(0.8..1.2))).await;
    }

    fn length(&self) -> Duration {
        const FIRST: Duration = Duration::from_millis(800);
        let most = Duration::from_secs(if self.is_refused() { 20 } else { 5 });
        FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(5)).min(most)
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

pub(super) async fn follow_account(api: Api<core::Secret>, config: watcher::Config, hub: Arc<Hub>) {
    let mut events = pin!(watcher(api, config));
    let mut pause = Pause::default();
    let mut listing = BTreeMap::new();
    while let Some(event) = events.next().await {
        if matches!(&event, Ok(it) if !matches!(it, watcher::Event::Init)) {
            pause.reset();
        }
        match event {
            Ok(watcher::Event::Init) => listing = BTreeMap::new(),
            Ok(watcher::Event::InitApply(object)) => {
                listing.insert(name_of(&object), Arc::new(convert::secret(object)));
            }
            Ok(watcher::Event::InitDone) => {
                let account = std::mem::take(&mut listing);
                hub.update(|state| {
                    state.account = account.into();
                    state.account_listed = true;
                });
            }
            Ok(watcher::Event::Apply(object)) => hub.update(|state| {
                state.account.insert(name_of(&object), Arc::new(convert::secret(object)));
            }),
            Ok(watcher::Event::Delete(object)) => {
                hub.update(|state| state.account.remove(&name_of(&object)));
            }
            Err(error) => {
                pause.failed(&error);
                if pause.is_refused() {
                    hub.update(|state| state.account_listed = true);
                }
                pause.pass().await;
            }
        }
    }
}

/// Asks now and then whether the API server is there: watches only speak when something changes.
pub(super) async fn heartbeat(client: Client, hub: Arc<Hub>) {
    loop {
        match timeout(CALL, client.apiserver_version()).await {
            Ok(Ok(_) | Err(kube::Error::Api(_))) => hub.lock().answered = Instant::now(),
            Ok(Err(error)) => tracing::warn!(%error, "the API server does not answer"),
            Err(_) => tracing::warn!("the API server does not answer in time"),
        }
        sleep(HEARTBEAT).await;
    }
}

/// Reads Secrets one by one that Ingresses name and that are not of the type which is listed, and ConfigMaps.
pub(super) async fn read_unlisted(cluster: Cluster) {
    let mut wanted = cluster.hub.unlisted.subscribe();
    let named = |it: core::Secret| {
        (it.type_.as_deref() != Some("kubernetes.io/tls")).then(|| convert::secret(it))
    };
    let mut soon = UNANSWERED;
    loop {
        let [secrets, maps] = wanted.borrow_and_update().clone();
        let held = cluster.hub.lock().named.clone();
        let (secrets, all) = read(&cluster, secrets, &held, named).await;
        let held = cluster.hub.lock().named_maps.clone();
        let (maps, also) = read(&cluster, maps, &held, |it| Some(convert::config_map(it))).await;
        let changed = {
            let state = cluster.hub.lock();
            !state.named_read || *state.named != secrets || *state.named_maps != maps
        };
        if changed {
            cluster.hub.update(|state| {
                (state.named, state.named_maps) = (secrets.into(), maps.into());
                state.named_read = true;
            });
        }
        let pause = if all && also { UNLISTED } else { soon };
        soon = if all && also { UNANSWERED } else { (soon * 2).min(UNLISTED) };
        tokio::select! {
            _ = wanted.changed() => {}
            () = cluster.hub.outdated.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Notices when Secrets change that are read one by one. Looks at names alone, and at none while nobody needs
/// such a Secret.
pub(super) async fn watch_unlisted(cluster: Cluster) {
    let hub = &cluster.hub;
    let mut wanted = hub.unlisted.subscribe();
    if wanted.wait_for(|[secrets, _]| !secrets.is_empty()).await.is_err() {
        return;
    }
    let config = watcher::Config::default().timeout(WATCH).fields("type!=kubernetes.io/tls");
    let mut events = pin!(watcher(cluster.scoped::<PartialObjectMeta<core::Secret>>(), config));
    let mut pause = Pause::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(it) | watcher::Event::Delete(it)) => {
                pause.reset();
                if hub.unlisted.borrow()[0].contains(&name_of(&it)) {
                    hub.outdated.notify_one();
                }
            }
            Ok(watcher::Event::InitDone) => {
                pause.reset();
                hub.outdated.notify_one();
            }
            Ok(_) => {}
            Err(error) => {
                pause.failed(&error);
                pause.pass().await;
            }
        }
    }
}

/// Notices when a ConfigMap changes that is read by its name. Where it may not be watched, it is read again now
/// and then all the same.
pub(super) async fn watch_map(cluster: Cluster, name: ObjectName) {
    type Map = PartialObjectMeta<core::ConfigMap>;
    let api = Api::<Map>::namespaced(cluster.client.clone(), &name.namespace);
    let only = format!("metadata.name={}", name.name);
    let mut events = pin!(watcher(api, watcher::Config::default().timeout(WATCH).fields(&only)));
    let mut pause = Pause::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => {
                pause.reset();
                cluster.hub.outdated.notify_one();
            }
            Err(error) => {
                pause.failed(&error);
                pause.pass().await;
            }
        }
    }
}

/// Reads objects by their names, and says whether each was answered for; what cannot be asked for just now
/// is as it was `held`.
async fn read<K, T>(
    cluster: &Cluster,
    names: BTreeSet<ObjectName>,
    held: &BTreeMap<ObjectName, Arc<T>>,
    convert: impl Fn(K) -> Option<T>,
) -> (BTreeMap<ObjectName, Arc<T>>, bool)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let (mut found, mut answered) = (BTreeMap::new(), true);
    for name in names {
        let api = Api::<K>::namespaced(cluster.client.clone(), &name.namespace);
        match call(&name, api.get_opt(&name.name)).await {
            Ok(Some(object)) => {
                found.extend(convert(object).map(|it| (name, Arc::new(it))));
            }
            Ok(None) => {}
            // Not answered is not the same as not there.
            Err(_) => {
                answered = false;
                if let Some(held) = held.get(&name) {
                    found.insert(name, held.clone());
                }
            }
        }
    }
    (found, answered)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16) -> watcher::Error {
        let status = Status { code, ..Status::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    /// What an API server says in its first moments is not believed at once, and costs no long pause.
    #[test]
    fn refusals_count_when_they_are_repeated() {
        for (case, codes, refused, length) in [
            ("one", &[403][..], false, 800),
            ("two", &[403, 403], false, 1600),
            ("three", &[403, 401, 404], true, 3200),
            ("many", &[403; 9], true, 20_000),
            ("an outage", &[503; 9], false, 5000),
            ("after an outage", &[503, 503, 503, 503, 503, 403, 403], false, 5000),
            ("and on", &[503, 503, 503, 503, 503, 403, 403, 403], true, 20_000),
            ("between others", &[403, 503, 403], false, 3200),
            ("with others", &[403, 503, 403, 503, 403], true, 12_800),
        ] {
            let mut pause = Pause::default();
            for code in codes {
                pause.failed(&answer(*code));
            }
            assert_eq!(pause.is_refused(), refused, "{case}");
            assert_eq!(pause.length(), Duration::from_millis(length), "{case}");
            pause.reset();
            assert!(!pause.is_refused(), "{case}");
        }
    }
}
