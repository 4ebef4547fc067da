//! Where we run: addresses of the nodes with pods like our own, and the zone of our own node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::ListParams;
use tokio::time::timeout;

use super::{Cluster, call};
use crate::model::name::ObjectName;
use crate::store::StoreError;

/// Longest look at pods and nodes, all calls of it together.
const LOOK: Duration = Duration::from_secs(30);
/// Most pods that are looked at.
const MOST_PODS: u32 = 500;
/// Most nodes that are asked for at once.
const AT_ONCE: usize = 8;
/// Labels of a pod that tell it from others of its Deployment, DaemonSet or StatefulSet, or one version of
/// those from the next.
const OWN: [&str; 7] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "apps.kubernetes.io/pod-index",
    "statefulset.kubernetes.io/pod-name",
    "app.kubernetes.io/version",
    "helm.sh/chart",
];
/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

impl Cluster {
    /// The addresses of the nodes on which pods are ready that have the labels of `pod`, sorted: as in
    /// ingress-nginx the external one of each, and the internal one where there is no other, or `internal`
    /// asks for it.
    pub(in crate::store) async fn addresses_of_nodes(
        &self,
        pod: &ObjectName,
        internal: bool,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let look = async {
            let api = self.pods(pod);
            let own = call(pod, api.get(&pod.name)).await?;
            let labels = alike(own.metadata.labels.as_ref());
            let pods = if labels.is_empty() {
                vec![own]
            } else {
                let like_it = ListParams::default().labels(&labels).limit(MOST_PODS);
                let found = call(pod, api.list(&like_it)).await?;
                if found.metadata.continue_.is_some_and(|it| !it.is_empty()) {
                    tracing::warn!(
                        most = MOST_PODS,
                        "more pods like ours: not all nodes are in status"
                    );
                }
                found.items
            };
            let names: BTreeSet<String> = pods.into_iter().filter_map(ready_on).collect();
            let mut addresses = BTreeSet::new();
            let mut nodes = stream::iter(names).map(|it| self.node(it)).buffered(AT_ONCE);
            while let Some(node) = nodes.next().await {
                match node {
                    Ok(node) => addresses.extend(address(&node, internal)),
                    // Gone since, with its pods.
                    Err(StoreError::Gone(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(addresses.into_iter().collect())
        };
        let late = || StoreError::Unavailable("pods and nodes are not told in time".to_owned());
        timeout(LOOK, look).await.unwrap_or_else(|_| Err(late()))
    }

    /// The zone of the node that `pod` runs on, where it has one: two calls.
    pub(in crate::store) async fn zone(
        &self,
        pod: &ObjectName,
    ) -> Result<Option<Box<str>>, StoreError> {
        let own = call(pod, self.pods(pod).get(&pod.name)).await?;
        let Some(name) = own.spec.and_then(|it| it.node_name) else { return Ok(None) };
        let labels = self.node(name).await?.metadata.labels.unwrap_or_default();
        Ok(labels.get(ZONE).filter(|it| !it.is_empty()).map(|it| it.as_str().into()))
    }

    /// The pods beside this one.
    fn pods(&self, pod: &ObjectName) -> Api<core::Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    async fn node(&self, name: String) -> Result<core::Node, StoreError> {
        let api = Api::<core::Node>::all(self.client.clone());
        call(&ObjectName::new("", name.as_str()), api.get(&name)).await
    }
}

/// What selects the pods that do the same work; empty where the labels do not say.
fn alike(labels: Option<&BTreeMap<String, String>>) -> String {
    let labels = labels.into_iter().flatten().filter(|it| !OWN.contains(&it.0.as_str()));
    labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// The node of a pod that is ready.
fn ready_on(pod: core::Pod) -> Option<String> {
    let status = pod.status?;
    let is_ready = |it: &core::PodCondition| it.type_ == "Ready" && it.status == "True";
    let ready = status.conditions.iter().flatten().any(is_ready);
    let node = pod.spec?.node_name.filter(|it| !it.is_empty())?;
    (ready && status.phase.as_deref() == Some("Running")).then_some(node)
}

/// The address of a node.
fn address(node: &core::Node, internal: bool) -> Option<Box<str>> {
    let all = node.status.as_ref()?.addresses.as_deref()?;
    let first = |kind: &str| {
        let mut of_kind = all.iter().filter(|it| it.type_ == kind && !it.address.is_empty());
        of_kind.next().map(|it| it.address.as_str().into())
    };
    let external = if internal { None } else { first("ExternalIP") };
    external.or_else(|| first("InternalIP"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_node_is_known_by_its_outer_address() {
        let both = json!([
            { "type": "Hostname", "address": "one" },
            { "type": "InternalIP", "address": "10.0.0.1" },
            { "type": "InternalIP", "address": "fd00::1" },
            { "type": "ExternalIP", "address": "198.51.100.1" },
        ]);
        let inner = json!([{ "type": "InternalIP", "address": "10.0.0.1" }]);
        let none = json!([
            { "type": "ExternalIP", "address": "" },
            { "type": "Hostname", "address": "one" },
        ]);
        for (addresses, internal, expected) in [
            (&both, false, Some("198.51.100.1")),
            (&both, true, Some("10.0.0.1")),
            (&inner, false, Some("10.0.0.1")),
            (&inner, true, Some("10.0.0.1")),
            (&none, false, None),
            (&Value::Null, false, None),
        ] {
            let node = json!({ "metadata": {}, "status": { "addresses": addresses } });
            let node: core::Node = serde_json::from_value(node).expect("a node");
            assert_eq!(address(&node, internal).as_deref(), expected, "{addresses} {internal}");
        }
    }

    #[test]
    fn pods_count_that_are_ready() {
        let condition = |kind: &str, status: &str| json!([{ "type": kind, "status": status }]);
        for (phase, conditions, expected) in [
            ("Running", condition("Ready", "True"), Some("one")),
            ("Running", condition("Ready", "False"), None),
            ("Running", condition("Initialized", "True"), None),
            ("Running", json!([]), None),
            ("Pending", condition("Ready", "True"), None),
        ] {
            let pod = json!({
                "metadata": {},
                "spec": { "nodeName": "one", "containers": [] },
                "status": { "phase": phase, "conditions": conditions },
            });
            let pod: core::Pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(ready_on(pod).as_deref(), expected, "{phase} {conditions}");
        }
    }

    #[test]
    fn pods_are_alike_by_the_labels_that_last() {
        for (labels, expected) in [
            (&[("app", "lockgate"), ("pod-template-hash", "5d")][..], "app=lockgate"),
            (&[("app", "a"), ("tier", "")], "app=a,tier="),
            (&[("pod-template-hash", "5d")], ""),
            (&[], ""),
        ] {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(alike(Some(&labels)), expected, "{labels:?}");
        }
        assert_eq!(alike(None), "");
    }
}
