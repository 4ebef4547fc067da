//! The objects that a command looks at once: out of files, or the cluster's as they are now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{Source, selection, store};
use crate::args::Serve;
use crate::compile::objects::{IngressClass, Objects};
use crate::compile::{Policy, compile};
use crate::model::name::ObjectName;
use crate::store::{Directory, Snapshots, Store};

/// How long a cluster may take to list everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to give the Secrets and ConfigMaps that are read one by one; those that are not
/// there never come.
const MORE: Duration = Duration::from_secs(3);

/// What is in `files`, or without any in the cluster that the flags name.
pub(crate) async fn objects(
    files: &[PathBuf],
    args: &Serve,
    policy: &Policy,
    identity: &str,
) -> anyhow::Result<Arc<Objects>> {
    if files.is_empty() {
        let store = store(args, Source::Flags, policy, identity).await?;
        let mut snapshots = store.snapshots();
        let listed = tokio::time::timeout(PATIENCE, snapshots.wait_for(Option::is_some));
        drop(listed.await.context("the API server takes too long")??);
        return Ok(with_unlisted(&store, snapshots, policy).await);
    }
    let mut objects = Directory::once(files, selection(args, policy).as_ref())?;
    if objects.classes.is_empty() {
        // Files rarely hold the class that their Ingresses name.
        let class = IngressClass { controller: policy.controller_class.as_str().into() };
        let name = ObjectName::new("", policy.ingress_class.as_str());
        objects.classes.insert(name, Arc::new(class));
    }
    Ok(Arc::new(objects))
}

/// Has the Secrets and ConfigMaps read that Ingresses name and no list holds. What these name in turn takes
/// a second look.
async fn with_unlisted(store: &Store, mut snapshots: Snapshots, policy: &Policy) -> Arc<Objects> {
    let mut objects = snapshots.borrow_and_update().clone().unwrap_or_default();
    let Store::Cluster(_) = store else { return objects };
    let mut known = Default::default();
    loop {
        let (plan, _) = compile(&objects, policy);
        let wanted = (plan.unlisted, plan.unlisted_maps);
        if wanted == known {
            return objects;
        }
        store.read_also(&wanted.0, &wanted.1);
        known = wanted;
        if !matches!(tokio::time::timeout(MORE, snapshots.changed()).await, Ok(Ok(()))) {
            return objects;
        }
        objects = snapshots.borrow_and_update().clone().unwrap_or_default();
    }
}
