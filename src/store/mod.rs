//! Where objects live: a cluster or a directory.
//!
//! Floor 2. Both yield complete snapshots, [`Objects`], and take the few things this program writes:
//! Secrets, Events, addresses in `status`, the lease. `kube` and its types are used in this folder and
//! nowhere else.

mod cluster;
mod convert;
mod directory;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use crate::compile::objects::Objects;
use crate::model::name::{Kind, ObjectName};

pub use cluster::{Cluster, ClusterOptions};
pub use directory::Directory;
pub use selection::Selection;

/// The latest complete snapshot; `None` until every kind was listed.
pub type Snapshots = watch::Receiver<Option<Arc<Objects>>>;

/// Where objects live.
#[derive(Clone, Debug)]
pub enum Store {
    /// Behind a Kubernetes API server.
    Cluster(Cluster),
    /// In files.
    Directory(Directory),
}

/// A Secret as it is written.
#[derive(Clone, Default, PartialEq)]
pub struct StoredSecret {
    /// Where it is.
    pub name: ObjectName,
    /// `type`, as `kubernetes.io/tls`.
    pub kind: String,
    /// `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `resourceVersion` it was read at; `None` for one that must not exist yet.
    pub version: Option<String>,
    /// What others keep in the metadata, so that a write is one request.
    pub rest: Rest,
}

/// What others keep in an object's metadata, as it was read.
#[derive(Clone, Default, PartialEq)]
pub struct Rest(Option<Box<ObjectMeta>>);

impl std::fmt::Debug for StoredSecret {
    /// Never shows what it holds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A ConfigMap as it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredMap {
    /// Where it is.
    pub name: ObjectName,
    /// `data`
    pub data: BTreeMap<String, String>,
    /// `resourceVersion` it was read at; `None` for one that must not exist yet.
    pub version: Option<String>,
}

/// What is told about an object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Notice {
    /// Kind of the object.
    pub kind: Kind,
    /// The object.
    pub object: ObjectName,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub text: String,
    /// Whether somebody should do something.
    pub warning: bool,
}

/// Who holds a lease, as its object says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LeaseRecord {
    /// `holderIdentity`; empty for nobody.
    pub holder: String,
    /// `leaseDurationSeconds`
    pub seconds: i32,
    /// `acquireTime`, in microseconds since 1970.
    pub acquired: i64,
    /// `renewTime`, in microseconds since 1970.
    pub renewed: i64,
    /// `leaseTransitions`
    pub transitions: i32,
    /// `resourceVersion`; `None` for a lease that is not there yet.
    pub version: Option<String>,
}

/// Why something could not be read or written.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first: read again.
    #[error("somebody else changed {0} first")]
    Conflict(ObjectName),
    /// It is not there to be changed.
    #[error("{0} is not there")]
    Gone(ObjectName),
    /// RBAC or an admission rule says no: nothing but a person can help.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The store does not answer, or not in time: later.
    #[error("{0}")]
    Unavailable(String),
}

impl Store {
    /// Begins to watch; snapshots arrive as objects change.
    pub fn snapshots(&self) -> Snapshots {
        match self {
            Self::Cluster(it) => it.snapshots(),
            Self::Directory(it) => it.snapshots(),
        }
    }

    /// Has Secrets read by their names which the list of TLS Secrets does not hold, and ConfigMaps.
    pub fn read_also(&self, secrets: &BTreeSet<ObjectName>, maps: &BTreeSet<ObjectName>) {
        if let Self::Cluster(it) = self {
            it.read_also(secrets, maps);
        }
    }

    /// How many seconds ago the store last answered.
    pub fn age(&self) -> f64 {
        match self {
            Self::Cluster(it) => it.age(),
            Self::Directory(_) => 0.0,
        }
    }

    /// Reads a Secret as it is now.
    pub async fn secret(&self, name: &ObjectName) -> Result<Option<StoredSecret>, StoreError> {
        match self {
            Self::Cluster(it) => it.secret(name).await,
            Self::Directory(it) => it.secret(name).await,
        }
    }

    /// Reads the Secrets of ours in a namespace whose names begin like this.
    pub async fn secrets(
        &self,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<StoredSecret>, StoreError> {
        match self {
            Self::Cluster(it) => it.secrets_like(namespace, prefix).await,
            Self::Directory(it) => it.secrets_like(namespace, prefix).await,
        }
    }

    /// Writes a Secret, if nobody did since it was read; gives its new version. `rehearse` checks
    /// everything and writes nothing.
    pub async fn write_secret(
        &self,
        secret: &StoredSecret,
        rehearse: bool,
    ) -> Result<Option<String>, StoreError> {
        match self {
            Self::Cluster(it) => it.write_secret(secret, rehearse).await,
            Self::Directory(it) => it.write_secret(secret, rehearse).await,
        }
    }

    /// Reads a ConfigMap as it is now.
    pub async fn config_map(&self, name: &ObjectName) -> Result<Option<StoredMap>, StoreError> {
        match self {
            Self::Cluster(it) => it.config_map(name).await,
            Self::Directory(it) => it.config_map(name).await,
        }
    }

    /// Writes a ConfigMap, if nobody did since it was read; gives its new version.
    pub async fn write_config_map(&self, map: &StoredMap) -> Result<Option<String>, StoreError> {
        match self {
            Self::Cluster(it) => it.write_config_map(map).await,
            Self::Directory(it) => it.write_config_map(map).await,
        }
    }

    /// Deletes a Secret, if nobody wrote it since this was read; one that is gone already is fine.
    pub async fn delete_secret(&self, secret: &StoredSecret) -> Result<(), StoreError> {
        match self {
            Self::Cluster(it) => it.delete_secret(secret).await,
            Self::Directory(it) => it.delete_secret(secret).await,
        }
    }

    /// Tells the owner of an object something: an Event, or a line in our log.
    pub async fn notify(&self, notice: &Notice, uid: &str) -> Result<(), StoreError> {
        match self {
            Self::Cluster(it) => it.notify(notice, uid).await,
            Self::Directory(_) => {
                let Notice { kind, object, reason, text, warning } = notice;
                if *warning {
                    tracing::warn!(%kind, %object, reason, "{text}");
                } else {
                    tracing::info!(%kind, %object, reason, "{text}");
                }
                Ok(())
            }
        }
    }

    /// Writes the addresses of an Ingress's status, each an IP address or a host name.
    pub async fn publish(
        &self,
        ingress: &ObjectName,
        addresses: &[Box<str>],
    ) -> Result<(), StoreError> {
        match self {
            Self::Cluster(it) => it.publish(ingress, addresses).await,
            Self::Directory(_) => Ok(()),
        }
    }

    /// Reads the addresses of the nodes on which pods like this one are ready, sorted; `internal` has a node's
    /// inner address wanted. None are known of files.
    pub async fn addresses_of_nodes(
        &self,
        pod: &ObjectName,
        internal: bool,
    ) -> Result<Vec<Box<str>>, StoreError> {
        match self {
            Self::Cluster(it) => it.addresses_of_nodes(pod, internal).await,
            Self::Directory(_) => Ok(Vec::new()),
        }
    }

    /// Reads the zone of the node that a pod runs on. None is known of files.
    pub async fn zone(&self, pod: &ObjectName) -> Result<Option<Box<str>>, StoreError> {
        match self {
            Self::Cluster(it) => it.zone(pod).await,
            Self::Directory(_) => Ok(None),
        }
    }

    /// Reads a lease; nobody holds one that is not there.
    pub async fn lease(&self, name: &ObjectName) -> Result<LeaseRecord, StoreError> {
        match self {
            Self::Cluster(it) => it.lease(name).await,
            Self::Directory(_) => Ok(LeaseRecord::default()),
        }
    }

    /// Writes a lease, if nobody did since it was read.
    pub async fn write_lease(
        &self,
        name: &ObjectName,
        record: &LeaseRecord,
    ) -> Result<(), StoreError> {
        match self {
            Self::Cluster(it) => it.write_lease(name, record).await,
            Self::Directory(_) => Ok(()),
        }
    }
}
