//! The few things we write: Secrets, Events, addresses, the lease. And reading what is to be written.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};

use super::{Cluster, call, convert};
use crate::compile::objects::MANAGER;
use crate::model::name::ObjectName;
use crate::store::{LeaseRecord, Notice, Rest, StoreError, StoredMap, StoredSecret};

impl Cluster {
    fn secrets(&self, name: &ObjectName) -> Api<core::Secret> {
        Api::namespaced(self.client.clone(), &name.namespace)
    }

    pub(in crate::store) async fn secret(
        &self,
        name: &ObjectName,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let found = call(name, self.secrets(name).get_opt(&name.name)).await?;
        Ok(found.map(|secret| stored(name.clone(), secret)))
    }

    pub(in crate::store) async fn secrets_like(
        &self,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<StoredSecret>, StoreError> {
        let whole = ObjectName::new(namespace, "");
        let label = format!("app.kubernetes.io/managed-by={MANAGER}");
        let params = ListParams::default().labels(&label);
        let found = call(&whole, self.secrets(&whole).list(&params)).await?;
        let named = found.items.into_iter().map(|it| (convert::name(&it.metadata), it));
        let ours = named.filter(|(name, _)| name.name.starts_with(prefix));
        Ok(ours.map(|(name, it)| stored(name, it)).collect())
    }

    pub(in crate::store) async fn write_secret(
        &self,
        secret: &StoredSecret,
        rehearse: bool,
    ) -> Result<Option<String>, StoreError> {
        let StoredSecret { name, kind, data, annotations, labels, version, rest } = secret;
        let data = data.iter().map(|(name, value)| (name.clone(), ByteString(value.clone())));
        let params = PostParams { dry_run: rehearse, field_manager: Some(MANAGER.to_owned()) };
        let api = self.secrets(name);
        let object = core::Secret {
            // What others keep in the metadata stays. It is not read again: between asking whether this
            // replica leads and the write there is nothing to wait for.
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                annotations: Some(annotations.clone()),
                labels: Some(labels.clone()),
                resource_version: version.clone(),
                ..rest.0.as_deref().cloned().unwrap_or_default()
            },
            type_: Some(kind.clone()),
            data: Some(data.collect()),
            ..core::Secret::default()
        };
        let written = match version {
            None => call(name, api.create(&params, &object)).await?,
            Some(_) => call(name, api.replace(&name.name, &params, &object)).await?,
        };
        Ok(written.metadata.resource_version)
    }

    pub(in crate::store) async fn config_map(
        &self,
        name: &ObjectName,
    ) -> Result<Option<StoredMap>, StoreError> {
        let api = Api::<core::ConfigMap>::namespaced(self.client.clone(), &name.namespace);
        let found = call(name, api.get_opt(&name.name)).await?;
        Ok(found.map(|map| StoredMap {
            name: name.clone(),
            data: map.data.unwrap_or_default(),
            version: map.metadata.resource_version,
        }))
    }

    pub(in crate::store) async fn write_config_map(
        &self,
        map: &StoredMap,
    ) -> Result<Option<String>, StoreError> {
        let StoredMap { name, data, version } = map;
        let api = Api::<core::ConfigMap>::namespaced(self.client.clone(), &name.namespace);
        let params = PostParams { dry_run: false, field_manager: Some(MANAGER.to_owned()) };
        let managed = ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
        let object = core::ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                labels: Some([managed].into()),
                resource_version: version.clone(),
                ..ObjectMeta::default()
            },
            data: Some(data.clone()),
            ..core::ConfigMap::default()
        };
        let written = match version {
            None => call(name, api.create(&params, &object)).await?,
            Some(_) => call(name, api.replace(&name.name, &params, &object)).await?,
        };
        Ok(written.metadata.resource_version)
    }

    pub(in crate::store) async fn delete_secret(
        &self,
        secret: &StoredSecret,
    ) -> Result<(), StoreError> {
        let StoredSecret { name, version, .. } = secret;
        let preconditions = Preconditions { resource_version: version.clone(), uid: None };
        let params = DeleteParams::default().preconditions(preconditions);
        match call(name, self.secrets(name).delete(&name.name, &params)).await {
            Ok(_) | Err(StoreError::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Posts an Event; the same one again counts up.
    pub(in crate::store) async fn notify(
        &self,
        notice: &Notice,
        uid: &str,
    ) -> Result<(), StoreError> {
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

    pub(in crate::store) async fn publish(
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

    pub(in crate::store) async fn lease(
        &self,
        name: &ObjectName,
    ) -> Result<LeaseRecord, StoreError> {
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

    pub(in crate::store) async fn write_lease(
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

fn stored(name: ObjectName, secret: core::Secret) -> StoredSecret {
    let mut metadata = secret.metadata;
    metadata.managed_fields = None;
    StoredSecret {
        name,
        kind: secret.type_.unwrap_or_default(),
        data: secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
        annotations: metadata.annotations.take().unwrap_or_default(),
        labels: metadata.labels.take().unwrap_or_default(),
        version: metadata.resource_version.take(),
        rest: Rest(Some(Box::new(metadata))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written back says of the metadata what was read, without asking again.
    #[test]
    fn what_others_keep_in_the_metadata_is_kept() {
        let metadata = ObjectMeta {
            name: Some("tls".to_owned()),
            finalizers: Some(vec!["theirs".to_owned()]),
            annotations: Some([("team".to_owned(), "shop".to_owned())].into()),
            managed_fields: Some(Vec::new()),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let name = ObjectName::new("shop", "tls");
        let found = stored(name, core::Secret { metadata, ..core::Secret::default() });
        assert_eq!((found.version.as_deref(), found.annotations.len()), (Some("7"), 1));
        let rest = found.rest.0.expect("metadata");
        assert_eq!(rest.finalizers, Some(vec!["theirs".to_owned()]));
        assert_eq!(
            (rest.annotations, rest.managed_fields, rest.resource_version),
            (None, None, None)
        );
    }
}
