//! Objects behind a Kubernetes API server.
//!
//! `watch` keeps what is there, `hub` gathers it into snapshots, `write` changes what is ours, `nodes` looks
//! where we run.

mod hub;
mod nodes;
mod watch;
mod write;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch::channel;
use tokio::time::timeout;

use super::{Selection, Snapshots, StoreError, convert};
use crate::model::name::{Kind, ObjectName};

use hub::Hub;
use watch::{
    Shelf, follow, follow_account, heartbeat, keep, read_unlisted, watch_map, watch_unlisted,
};

/// Longest wait for an ordinary call; kube itself would wait for ever.
const CALL: Duration = Duration::from_secs(10);
/// How long a watch lasts before it is renewed, in seconds: a dead one is noticed 5 s later.
const WATCH: u32 = 30;

/// How to reach the API server, and what to read there.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// `--kubeconfig`
    pub kubeconfig: Option<String>,
    /// `--apiserver-host`
    pub host: Option<String>,
    /// `--watch-namespace`; `None` for all.
    pub namespace: Option<String>,
    /// `--watch-namespace-selector`; `None` for all.
    pub selection: Option<Selection>,
    /// `--configmap`
    pub config_map: Option<ObjectName>,
    /// `--tcp-services-configmap` and `--udp-services-configmap`
    pub streams: Vec<ObjectName>,
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
        Ok(Self {
            client: Client::try_from(config)?,
            options: Arc::new(options),
            hub: Arc::default(),
        })
    }

    pub(super) fn age(&self) -> f64 {
        self.hub.lock().answered.elapsed().as_secs_f64()
    }

    pub(super) fn read_also(&self, secrets: &BTreeSet<ObjectName>, maps: &BTreeSet<ObjectName>) {
        self.hub.unlisted.send_if_modified(|it| {
            let changed = it[0] != *secrets || it[1] != *maps;
            if changed {
                *it = [secrets.clone(), maps.clone()];
            }
            changed
        });
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        self.follow_kinds();
        self.follow_named();
        let (sender, receiver) = channel(None);
        let (hub, options) = (self.hub.clone(), self.options.clone());
        tokio::spawn(async move {
            loop {
                hub.settled().await;
                if let Some(objects) = hub.snapshot(options.selection.as_ref()) {
                    sender.send_replace(Some(Arc::new(objects)));
                }
                if sender.is_closed() {
                    return;
                }
            }
        });
        receiver
    }

    /// Watches each kind as a whole.
    fn follow_kinds(&self) {
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
        match &options.selection {
            None => drop(hub.lock().listed.insert(Kind::Namespace)),
            Some(selection) => self.follow(
                Api::<core::Namespace>::all(client.clone()),
                all().labels(&selection.selector.to_string()),
                Shelf { kind: Kind::Namespace, convert: |_| (), of: |it| &mut it.namespaces },
            ),
        }
    }

    /// Watches, or reads, what is named one by one.
    fn follow_named(&self) {
        let Self { client, options, hub } = self;
        let account = &options.account;
        let own = Api::<core::Secret>::namespaced(client.clone(), &account.namespace);
        let config = watcher::Config::default()
            .timeout(WATCH)
            .fields(&format!("metadata.name={}", account.name));
        keep("account", {
            let hub = hub.clone();
            move || follow_account(own.clone(), config.clone(), hub.clone())
        });
        keep("heartbeat", {
            let (client, hub) = (client.clone(), hub.clone());
            move || heartbeat(client.clone(), hub.clone())
        });
        // Read with the first snapshot already, so that no port is missing in it.
        hub.unlisted.send_replace([BTreeSet::new(), options.streams.iter().cloned().collect()]);
        for name in &options.streams {
            let (cluster, name) = (self.clone(), name.clone());
            keep("a ConfigMap of streams", move || watch_map(cluster.clone(), name.clone()));
        }
        keep("unlisted objects", {
            let cluster = self.clone();
            move || read_unlisted(cluster.clone())
        });
        keep("changes of unlisted Secrets", {
            let cluster = self.clone();
            move || watch_unlisted(cluster.clone())
        });
    }

    pub(super) fn scoped<K>(&self) -> Api<K>
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
