//! The API's types → ours: one function a kind, and the only place that knows both.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::compile::locations::Made;
use crate::compile::objects::{
    ConfigMap, Endpoint, Ingress, IngressClass, Path, Port, Rule, Secret, Service, ServicePort,
    Slice, Tls, keeps_annotation,
};
use crate::model::client_tls::Revocations;
use crate::model::htpasswd::Users;
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::texts::Texts;
use crate::model::upstream::Authorities;

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn name(meta: &ObjectMeta) -> ObjectName {
    ObjectName::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}

fn annotations(meta: &ObjectMeta) -> Texts {
    let all = meta.annotations.iter().flatten();
    all.filter(|(name, _)| keeps_annotation(name))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn port_text(port: &IntOrString) -> Box<str> {
    match port {
        IntOrString::Int(number) => number.to_string().into(),
        IntOrString::String(name) => name.as_str().into(),
    }
}

pub(super) fn ingress(it: networking::Ingress) -> Ingress {
    let created = it.metadata.creation_timestamp.as_ref().map(|it| it.0.as_second());
    let spec = it.spec.unwrap_or_default();
    let status = it.status.and_then(|it| it.load_balancer).and_then(|it| it.ingress);
    Ingress {
        uid: it.metadata.uid.as_deref().unwrap_or("").into(),
        created,
        annotations: annotations(&it.metadata),
        class: spec.ingress_class_name.map(Into::into),
        default_backend: spec.default_backend.and_then(backend),
        tls: spec.tls.unwrap_or_default().into_iter().map(tls).collect(),
        rules: spec.rules.unwrap_or_default().into_iter().map(rule).collect(),
        addresses: status
            .unwrap_or_default()
            .into_iter()
            .filter_map(|it| it.ip.or(it.hostname))
            .map(Into::into)
            .collect(),
        made: Made::default(),
    }
}

fn backend(it: networking::IngressBackend) -> Option<ServicePort> {
    let service = it.service?;
    let port = service.port.unwrap_or_default();
    let port = match (port.number, port.name) {
        (Some(number), _) => number.to_string(),
        (None, name) => name.unwrap_or_default(),
    };
    Some(ServicePort { service: service.name.into(), port: port.into() })
}

fn tls(it: networking::IngressTLS) -> Tls {
    Tls {
        hosts: it.hosts.unwrap_or_default().into_iter().map(Into::into).collect(),
        secret: it.secret_name.filter(|it| !it.is_empty()).map(Into::into),
    }
}

fn rule(it: networking::IngressRule) -> Rule {
    let path = |it: networking::HTTPIngressPath| Path {
        path: it.path.unwrap_or_default().into(),
        exact: it.path_type == "Exact",
        backend: backend(it.backend),
    };
    Rule {
        host: it.host.unwrap_or_default().into(),
        paths: it.http.map(|it| it.paths.into_iter().map(path).collect()),
    }
}

pub(super) fn class(it: networking::IngressClass) -> IngressClass {
    let controller = it.spec.and_then(|it| it.controller).unwrap_or_default();
    IngressClass { controller: controller.into() }
}

pub(super) fn service(it: core::Service) -> Service {
    let spec = it.spec.unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let port = |it: core::ServicePort| {
        Some(Port {
            name: it.name.unwrap_or_default().into(),
            port: u16::try_from(it.port).ok()?,
            target: match &it.target_port {
                Some(target) => port_text(target),
                None => it.port.to_string().into(),
            },
            udp: it.protocol.as_deref() == Some("UDP"),
        })
    };
    let balancer = it.status.and_then(|it| it.load_balancer).and_then(|it| it.ingress);
    let balancer = balancer.unwrap_or_default().into_iter().filter_map(|it| it.ip.or(it.hostname));
    let mut addresses: Vec<Box<str>> = match kind {
        "LoadBalancer" => balancer.map(Into::into).collect(),
        _ => Vec::new(),
    };
    addresses.extend(spec.external_ips.iter().flatten().map(|it| it.as_str().into()));
    if addresses.is_empty() && kind != "LoadBalancer" {
        let own = spec.cluster_ip.as_deref().filter(|it| !it.is_empty() && *it != "None");
        addresses.extend(own.or(spec.external_name.as_deref()).map(Into::into));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Service {
        ports: spec.ports.unwrap_or_default().into_iter().filter_map(port).collect(),
        external_name: spec
            .external_name
            .filter(|it| kind == "ExternalName" && !it.is_empty())
            .map(Into::into),
        // A headless Service says `None` there.
        cluster_ip: spec.cluster_ip.as_deref().and_then(|it| it.parse().ok()),
        addresses: addresses.into(),
    }
}

pub(super) fn slice(it: EndpointSlice) -> Slice {
    let service = it.metadata.labels.as_ref().and_then(|it| it.get(SERVICE_NAME));
    let listed = it.ports.filter(|it| !it.is_empty());
    let of = |wanted: &str| {
        let ports = listed.iter().flatten().filter_map(|it| {
            let protocol = it.protocol.as_deref().unwrap_or("TCP");
            let number = u16::try_from(it.port?).ok().filter(|_| protocol == wanted)?;
            Some((it.name.as_deref().unwrap_or_default().into(), number))
        });
        ports.collect()
    };
    let ports = listed.as_ref().map(|_| of("TCP"));
    let udp = of("UDP");
    let mut endpoints = Vec::new();
    let mut zones: BTreeMap<Box<str>, Vec<usize>> = BTreeMap::new();
    let mut all_hinted = true;
    for it in it.endpoints {
        let conditions = it.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let lingering = conditions.serving == Some(true) && conditions.terminating == Some(true);
        let hints: Vec<_> = it.hints.and_then(|it| it.for_zones).unwrap_or_default();
        all_hinted &= !hints.is_empty();
        for address in it.addresses.iter().filter_map(|it| it.parse().ok()) {
            for hint in &hints {
                zones.entry(hint.name.as_str().into()).or_default().push(endpoints.len());
            }
            endpoints.push(Endpoint { address, ready, lingering });
        }
    }
    if !all_hinted {
        zones.clear();
    }
    Slice {
        service: service.map(|it| it.as_str().into()).unwrap_or_default(),
        ports,
        udp,
        endpoints: endpoints.into(),
        zones,
    }
}

pub(super) fn secret(it: core::Secret) -> Secret {
    let data = it.data.unwrap_or_default();
    let entry = |name: &str| data.get(name).map(|it| it.0.as_slice());
    let is_tls = it.type_.as_deref() == Some("kubernetes.io/tls");
    let entries = || data.iter().map(|(name, value)| (name.as_str(), value.0.as_slice()));
    let thumbprint = entry("thumbprint").and_then(|it| std::str::from_utf8(it).ok());
    Secret {
        keypair: Keypair::parse(entry("tls.crt"), entry("tls.key")).map(Arc::new),
        // cert-manager leaves an empty one in every Secret.
        authorities: entry("ca.crt")
            .filter(|it| !it.is_empty())
            .map(|it| Authorities::parse(it).map(Arc::new)),
        revocations: entry("ca.crl")
            .filter(|it| !it.is_empty())
            .map(|it| Revocations::parse(it).map(Arc::new)),
        annotations: annotations(&it.metadata),
        htpasswd: entry("auth").map(|it| Arc::new(Users::file(it))),
        users: (!is_tls).then(|| Arc::new(Users::map(entries()))),
        thumbprint: thumbprint.map(Into::into),
    }
}

pub(super) fn config_map(it: core::ConfigMap) -> ConfigMap {
    let data = it.data.unwrap_or_default();
    ConfigMap { data: data.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn hints_of_zones_count_where_each_endpoint_has_one() {
        let for_zones = |zones: &[&str]| {
            let zones: Vec<_> = zones.iter().map(|it| json!({ "name": it })).collect();
            json!({ "forZones": zones })
        };
        for (hints, expected) in [
            (
                vec![for_zones(&["a"]), for_zones(&["b", "a"])],
                &[("a", &[0, 1, 2][..]), ("b", &[2])][..],
            ),
            (vec![for_zones(&["a"]), for_zones(&[])], &[]),
            (vec![for_zones(&["a"]), Value::Null], &[]),
            (vec![Value::Null, Value::Null], &[]),
        ] {
            // The first endpoint has two addresses.
            let addresses = [json!(["10.0.0.1", "10.0.0.2"]), json!(["10.0.0.3"])];
            let endpoints = addresses.iter().zip(&hints);
            let endpoints: Vec<_> =
                endpoints.map(|(it, hints)| json!({ "addresses": it, "hints": hints })).collect();
            let object = json!({
                "metadata": {}, "addressType": "IPv4", "endpoints": endpoints,
            });
            let slice = slice(serde_json::from_value(object).expect("a slice"));
            let zones: Vec<_> = slice.zones.iter().map(|(zone, it)| (&**zone, &**it)).collect();
            assert_eq!(zones, expected, "{hints:?}");
        }
    }
}
