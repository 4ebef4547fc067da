//! Objects behind a Kubernetes API server: one watch a kind, gathered into snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderValue;
use http::header::USER_AGENT;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{LeaseRecord, Notice, Snapshots, StoreError, StoredSecret, convert};
use crate::compile::objects::{MANAGER, Objects, Secret};
use crate::model::name::{Kind, ObjectName};

/// Longest wait for an ordinary call; kube itself would wait for ever.
const CALL: Duration = Duration::from_secs(10);
/// How long a watch lasts before it is renewed, in seconds: a dead one is noticed 5 s later.
const WATCH: u32 = 30;
/// How often the API server is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often Secrets that no list holds are read again.
const UNLISTED: Duration = Duration::from_secs(30);
/// A burst is over after this long without a change.
const QUIET: Duration = Duration::from_millis(50);
/// A burst that does not end is cut after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a mass deletion is held back that came with a new list after an error.
const HELD: Duration = Duration::from_secs(60);
/// From how many objects on a deletion can be a mass deletion; of Ingresses from one.
const MASS: usize = 10;

/// Most Events whose counts are remembered.
const MOST_POSTED: usize = 4096;

/// How to reach the API server, and what to read there.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// `--kubeconfig`
    pub kubeconfig: Option<String>,
    /// `--apiserver-host`
    pub host: Option<String>,
    /// `--watch-namespace`; `None` for all.
    pub namespace: Option<String>,
    /// `--configmap`
    pub config_map: Option<ObjectName>,
    /// Where the ACME account's Secret is.
    pub account: ObjectName,
    /// Our name in Events: the pod's.
    pub identity: String,
}

/// A connection to an API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    options: Arc<ClusterOptions>,
    hub: Arc<Hub>,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What the watches have seen.
#[derive(Debug)]
struct Hub {
    state: Mutex<State>,
    changed: Notify,
    unlisted: watch::Sender<BTreeSet<ObjectName>>,
    /// How often each Event was posted: reading them back would need one more right.
    posted: Mutex<HashMap<String, i32>>,
}

#[derive(Debug)]
struct State {
    objects: Objects,
    /// The account's Secret, which is not of the type that is listed.
    account: BTreeMap<ObjectName, Arc<Secret>>,
    /// Secrets read one by one.
    named: BTreeMap<ObjectName, Arc<Secret>>,
    listed: BTreeSet<Kind>,
    account_listed: bool,
    answered: Instant,
}

impl Cluster {
    /// Connects; fails only when the configuration cannot be read.
    pub async fn connect(options: ClusterOptions) -> anyhow::Result<Self> {
        let mut config = match (&options.kubeconfig, &options.host) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
            }
            (None, Some(host)) => Config::new(host.parse()?),
            (None, None) => Config::infer().await?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        // A watch speaks at least when it ends; whoever is silent for longer is gone.
        config.read_timeout = Some(Duration::from_secs(u64::from(WATCH) + 10));
        let agent = concat!("lockgate/", env!("CARGO_PKG_VERSION"));
        config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
        let (unlisted, _) = watch::channel(BTreeSet::new());
        Ok(Self {
            client: Client::try_from(config)?,
            options: Arc::new(options),
            hub: Arc::new(Hub {
                state: Mutex::new(State {
                    objects: Objects::default(),
                    account: BTreeMap::new(),
                    named: BTreeMap::new(),
                    listed: BTreeSet::new(),
                    account_listed: false,
                    answered: Instant::now(),
                }),
                changed: Notify::new(),
                unlisted,
                posted: Mutex::default(),
            }),
        })
    }

    pub(super) fn age(&self) -> f64 {
        self.hub.lock().answered.elapsed().as_secs_f64()
    }

    pub(super) fn read_also(&self, names: &BTreeSet<ObjectName>) {
        self.hub.unlisted.send_if_modified(|it| {
            let changed = it != names;
            if changed {
                it.clone_from(names);
            }
            changed
        });
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        let Self { client, options, hub } = self;
        let all = || watcher::Config::default().timeout(WATCH);
        self.follow(
            self.scoped::<networking::Ingress>(),
            all(),
            Shelf {
                kind: Kind::Ingress,
                convert: convert::ingress,
                of: |it| &mut it.objects.ingresses,
            },
        );
        self.follow(
            Api::all(client.clone()),
            all(),
            Shelf {
                kind: Kind::IngressClass,
                convert: convert::class,
                of: |it| &mut it.objects.classes,
            },
        );
        self.follow(
            self.scoped::<core::Service>(),
            all(),
            Shelf {
                kind: Kind::Service,
                convert: convert::service,
                of: |it| &mut it.objects.services,
            },
        );
        self.follow(
            self.scoped::<EndpointSlice>(),
            all(),
            Shelf {
                kind: Kind::EndpointSlice,
                convert: convert::slice,
                of: |it| &mut it.objects.slices,
            },
        );
        self.follow(
            self.scoped::<core::Secret>(),
            all().fields("type=kubernetes.io/tls"),
            Shelf {
                kind: Kind::Secret,
                convert: convert::secret,
                of: |it| &mut it.objects.secrets,
            },
        );
        match &options.config_map {
            None => drop(hub.lock().listed.insert(Kind::ConfigMap)),
            Some(name) => self.follow(
                Api::<core::ConfigMap>::namespaced(client.clone(), &name.namespace),
                all().fields(&format!("metadata.name={}", name.name)),
                Shelf {
                    kind: Kind::ConfigMap,
                    convert: convert::config_map,
                    of: |it| &mut it.objects.config_maps,
                },
            ),
        }
        let account = &options.account;
        let own = Api::<core::Secret>::namespaced(client.clone(), &account.namespace);
        let config = all().fields(&format!("metadata.name={}", account.name));
        keep("account", {
            let hub = hub.clone();
            move || follow_account(own.clone(), config.clone(), hub.clone())
        });
        keep("heartbeat", {
            let (client, hub) = (client.clone(), hub.clone());
            move || heartbeat(client.clone(), hub.clone())
        });
        keep("unlisted Secrets", {
            let cluster = self.clone();
            move || read_unlisted(cluster.clone())
        });

        let (sender, receiver) = watch::channel(None);
        let hub = hub.clone();
        tokio::spawn(async move {
            loop {
                hub.settled().await;
                if let Some(objects) = hub.snapshot() {
                    sender.send_replace(Some(Arc::new(objects)));
                }
                if sender.is_closed() {
                    return;
                }
            }
        });
        receiver
    }

    fn scoped<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.options.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn follow<K, T>(&self, api: Api<K>, config: watcher::Config, shelf: Shelf<K, T>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send + Sync + 'static,
    {
        let hub = self.hub.clone();
        keep(shelf.kind.as_str(), move || follow(api.clone(), config.clone(), shelf, hub.clone()));
    }
}

/// Runs a task for ever: one that panics is told of and begun again.
fn keep<F>(name: &'static str, task: impl Fn() -> F + Send + 'static)
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
struct Shelf<K, T> {
    kind: Kind,
    convert: fn(K) -> T,
    of: fn(&mut State) -> &mut BTreeMap<ObjectName, Arc<T>>,
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
async fn follow<K, T>(api: Api<K>, config: watcher::Config, shelf: Shelf<K, T>, hub: Arc<Hub>)
where
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
                    hub.update(|state| *of(state) = objects);
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
                let objects = std::mem::take(&mut listing);
                let before = of(&mut hub.lock()).len();
                let mass = if kind == Kind::Ingress { 1 } else { MASS };
                if failed && before >= mass && objects.len() * 10 < before {
                    tracing::error!(%kind, before, now = objects.len(),
                        "nearly everything is gone after an error: held for a minute");
                    let until = held.map_or_else(|| Instant::now() + HELD, |(until, _)| until);
                    held = Some((until, objects));
                } else {
                    held = None;
                    hub.update(|state| *of(state) = objects);
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
                hub.update(|state| drop(of(state).insert(name, object)));
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                let name = name_of(&object);
                match &mut held {
                    Some((_, objects)) => drop(objects.remove(&name)),
                    None => hub.update(|state| drop(of(state).remove(&name))),
                }
            }
            Some(Err(error)) => {
                failed = true;
                tracing::warn!(%kind, %error, "watching failed, trying again");
                if is_refusal(&error) {
                    hub.update(|state| state.refused(kind));
                }
                pause.after(&error).await;
            }
        }
    }
}

fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// Whether the API server answered that this may not be listed, or that it does not know it. A watch that
/// is refused although the list was not says nothing: an API server that just started refuses everything.
fn is_refusal(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status))
        if matches!(status.code, 401 | 403 | 404))
}

/// How long a watch waits before it is tried again.
///
/// From 0.8 s, doubling, to 5 s, so that a route is not late for long once an API server is back; to 20 s
/// where the answer was a refusal; spread, so that watches do not come all at once. Counted by hand:
/// kube's own backoff begins anew with every list that is tried.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    async fn after(&mut self, error: &watcher::Error) {
        const FIRST: Duration = Duration::from_millis(800);
        let most = Duration::from_secs(if is_refusal(error) { 20 } else { 5 });
        let pause = FIRST.saturating_mul(1 << self.failures.min(5)).min(most);
        self.failures += 1;
        sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

async fn follow_account(api: Api<core::Secret>, config: watcher::Config, hub: Arc<Hub>) {
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
                    state.account = account;
                    state.account_listed = true;
                });
            }
            Ok(watcher::Event::Apply(object)) => hub.update(|state| {
                state.account.insert(name_of(&object), Arc::new(convert::secret(object)));
            }),
            Ok(watcher::Event::Delete(object)) => {
                hub.update(|state| drop(state.account.remove(&name_of(&object))));
            }
            Err(error) => {
                if is_refusal(&error) {
                    hub.update(|state| state.account_listed = true);
                }
                pause.after(&error).await;
            }
        }
    }
}

/// Asks now and then whether the API server is there: watches only speak when something changes.
async fn heartbeat(client: Client, hub: Arc<Hub>) {
    loop {
        match timeout(CALL, client.apiserver_version()).await {
            Ok(Ok(_) | Err(kube::Error::Api(_))) => hub.lock().answered = Instant::now(),
            Ok(Err(error)) => tracing::warn!(%error, "the API server does not answer"),
            Err(_) => tracing::warn!("the API server does not answer in time"),
        }
        sleep(HEARTBEAT).await;
    }
}

/// Reads Secrets one by one that Ingresses name and that are not of the type which is listed.
async fn read_unlisted(cluster: Cluster) {
    let mut wanted = cluster.hub.unlisted.subscribe();
    loop {
        let names = wanted.borrow_and_update().clone();
        let mut found = BTreeMap::new();
        for name in names {
            let api = Api::<core::Secret>::namespaced(cluster.client.clone(), &name.namespace);
            match call(&name, api.get_opt(&name.name)).await {
                Ok(Some(secret)) if secret.type_.as_deref() != Some("kubernetes.io/tls") => {
                    found.insert(name, Arc::new(convert::secret(secret)));
                }
                Ok(_) => {}
                // Not answered is not the same as not there.
                Err(_) => {
                    if let Some(held) = cluster.hub.lock().named.get(&name).cloned() {
                        found.insert(name, held);
                    }
                }
            }
        }
        let names = |it: &BTreeMap<ObjectName, Arc<Secret>>| {
            it.iter().map(|(name, it)| (name.clone(), it.keypair.clone())).collect::<Vec<_>>()
        };
        let changed = names(&cluster.hub.lock().named) != names(&found);
        if changed {
            cluster.hub.update(|state| state.named = found);
        }
        let _ = timeout(UNLISTED, wanted.changed()).await;
    }
}

impl State {
    /// A kind may not be listed. What was listed before stays, as through any other error.
    fn refused(&mut self, kind: Kind) {
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.answered = Instant::now();
        change(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// How often an Event was posted, this time included, since the process began.
    fn count(&self, event: &str) -> i32 {
        let mut posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        if posted.len() >= MOST_POSTED {
            posted.clear();
        }
        let count = posted.entry(event.to_owned()).or_insert(1);
        *count += 1;
        *count
    }

    /// Waits for a change, then until the burst it began is over.
    async fn settled(&self) {
        self.changed.notified().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let quiet = deadline.min(Instant::now() + QUIET);
            if tokio::time::timeout_at(quiet, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Everything, once every kind was listed.
    fn snapshot(&self) -> Option<Objects> {
        let state = self.lock();
        let complete =
            state.account_listed && Kind::WATCHED.iter().all(|it| state.listed.contains(it));
        complete.then(|| {
            let mut objects = state.objects.clone();
            for (name, secret) in state.named.iter().chain(&state.account) {
                objects.secrets.entry(name.clone()).or_insert_with(|| secret.clone());
            }
            objects
        })
    }
}

/// Bounds a call, and sorts its error.
async fn call<T>(
    name: &ObjectName,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, StoreError> {
    match timeout(CALL, call).await {
        Ok(Ok(it)) => Ok(it),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => StoreError::Gone(name.clone()),
            409 => StoreError::Conflict(name.clone()),
            400 | 401 | 403 | 422 => StoreError::Forbidden(status.message.clone()),
            code => StoreError::Unavailable(format!("{code}: {}", status.message)),
        }),
        Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
        Err(_) => Err(StoreError::Unavailable("the API server does not answer in time".into())),
    }
}

impl Cluster {
    fn secrets(&self, name: &ObjectName) -> Api<core::Secret> {
        Api::namespaced(self.client.clone(), &name.namespace)
    }

    pub(super) async fn secret(
        &self,
        name: &ObjectName,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let found = call(name, self.secrets(name).get_opt(&name.name)).await?;
        Ok(found.map(|secret| StoredSecret {
            name: name.clone(),
            kind: secret.type_.unwrap_or_default(),
            data: secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
            annotations: secret.metadata.annotations.unwrap_or_default(),
            labels: secret.metadata.labels.unwrap_or_default(),
            version: secret.metadata.resource_version,
        }))
    }

    pub(super) async fn write_secret(
        &self,
        secret: &StoredSecret,
        rehearse: bool,
    ) -> Result<(), StoreError> {
        let StoredSecret { name, kind, data, annotations, labels, version } = secret;
        let data = data.iter().map(|(name, value)| (name.clone(), ByteString(value.clone())));
        let params = PostParams { dry_run: rehearse, field_manager: Some(MANAGER.to_owned()) };
        let api = self.secrets(name);
        let mut object = core::Secret {
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                annotations: Some(annotations.clone()),
                labels: Some(labels.clone()),
                ..ObjectMeta::default()
            },
            type_: Some(kind.clone()),
            data: Some(data.collect()),
            ..core::Secret::default()
        };
        match version {
            None => call(name, api.create(&params, &object)).await?,
            Some(version) => {
                // What others keep in the metadata stays.
                let held = call(name, api.get(&name.name)).await?;
                object.metadata = ObjectMeta {
                    managed_fields: None,
                    annotations: Some(annotations.clone()),
                    labels: Some(labels.clone()),
                    resource_version: Some(version.clone()),
                    ..held.metadata
                };
                call(name, api.replace(&name.name, &params, &object)).await?
            }
        };
        Ok(())
    }

    pub(super) async fn delete_secret(&self, name: &ObjectName) -> Result<(), StoreError> {
        let api = self.secrets(name);
        match call(name, api.delete(&name.name, &kube::api::DeleteParams::default())).await {
            Ok(_) | Err(StoreError::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Posts an Event; the same one again counts up.
    pub(super) async fn notify(&self, notice: &Notice, uid: &str) -> Result<(), StoreError> {
        let Notice { kind, object, reason, text, warning } = notice;
        let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
        let mut hasher = DefaultHasher::new();
        notice.hash(&mut hasher);
        let event_name = format!("{}.{:016x}", object.name, hasher.finish());
        let full = ObjectName::new(namespace, event_name.as_str());
        let api = Api::<core::Event>::namespaced(self.client.clone(), namespace);
        let now = Some(Time(now()));
        let event = core::Event {
            metadata: ObjectMeta {
                name: Some(event_name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: core::ObjectReference {
                api_version: Some(kind.api_version().to_owned()),
                kind: Some(kind.as_str().to_owned()),
                name: Some(object.name.to_string()),
                namespace: (!object.namespace.is_empty()).then(|| object.namespace.to_string()),
                uid: (!uid.is_empty()).then(|| uid.to_owned()),
                ..core::ObjectReference::default()
            },
            reason: Some(reason.clone()),
            message: Some(shortened(text)),
            type_: Some(if *warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(core::EventSource { component: Some(MANAGER.to_owned()), host: None }),
            reporting_component: Some(MANAGER.to_owned()),
            reporting_instance: Some(self.options.identity.clone()),
            first_timestamp: now.clone(),
            last_timestamp: now.clone(),
            count: Some(1),
            ..core::Event::default()
        };
        match call(&full, api.create(&PostParams::default(), &event)).await {
            Err(StoreError::Conflict(_)) => {
                let count = self.hub.count(&event_name);
                let again = serde_json::json!({"count": count, "lastTimestamp": now});
                let params = PatchParams::default();
                call(&full, api.patch(&event_name, &params, &Patch::Merge(again))).await?;
                Ok(())
            }
            other => other.map(drop),
        }
    }

    pub(super) async fn publish(
        &self,
        ingress: &ObjectName,
        addresses: &[Box<str>],
    ) -> Result<(), StoreError> {
        let api = Api::<networking::Ingress>::namespaced(self.client.clone(), &ingress.namespace);
        let mut object = call(ingress, api.get(&ingress.name)).await?;
        let entry = |it: &str| {
            let ip = it.parse::<std::net::IpAddr>().is_ok();
            networking::IngressLoadBalancerIngress {
                ip: ip.then(|| it.to_owned()),
                hostname: (!ip).then(|| it.to_owned()),
                ports: None,
            }
        };
        let status = object.status.get_or_insert_default();
        status.load_balancer = Some(networking::IngressLoadBalancerStatus {
            ingress: Some(addresses.iter().map(|it| entry(it)).collect()),
        });
        call(ingress, api.replace_status(&ingress.name, &PostParams::default(), &object)).await?;
        Ok(())
    }

    pub(super) async fn lease(&self, name: &ObjectName) -> Result<LeaseRecord, StoreError> {
        let api = Api::<Lease>::namespaced(self.client.clone(), &name.namespace);
        let Some(lease) = call(name, api.get_opt(&name.name)).await? else {
            return Ok(LeaseRecord::default());
        };
        let spec = lease.spec.unwrap_or_default();
        let micros = |it: Option<MicroTime>| it.map_or(0, |it| it.0.as_microsecond());
        Ok(LeaseRecord {
            holder: spec.holder_identity.unwrap_or_default(),
            seconds: spec.lease_duration_seconds.unwrap_or_default(),
            acquired: micros(spec.acquire_time),
            renewed: micros(spec.renew_time),
            transitions: spec.lease_transitions.unwrap_or_default(),
            version: lease.metadata.resource_version,
        })
    }

    pub(super) async fn write_lease(
        &self,
        name: &ObjectName,
        record: &LeaseRecord,
    ) -> Result<(), StoreError> {
        let api = Api::<Lease>::namespaced(self.client.clone(), &name.namespace);
        let micros = |it| Timestamp::from_microsecond(it).ok().map(MicroTime);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                resource_version: record.version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder.clone()),
                lease_duration_seconds: Some(record.seconds),
                acquire_time: micros(record.acquired),
                renew_time: micros(record.renewed),
                lease_transitions: Some(record.transitions),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams::default();
        match &record.version {
            None => call(name, api.create(&params, &lease)).await?,
            Some(_) => call(name, api.replace(&name.name, &params, &lease)).await?,
        };
        Ok(())
    }
}

/// Events hold 1024 bytes of text.
fn shortened(text: &str) -> String {
    let end = (0..=1000.min(text.len())).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0);
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

#[expect(clippy::disallowed_methods, reason = "an Event's time is read by people only")]
fn now() -> Timestamp {
    Timestamp::now()
}
