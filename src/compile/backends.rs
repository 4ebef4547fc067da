//! Services and EndpointSlices → who answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Policy;
use super::objects::{Objects, Port, Service, Slice};
use super::sharing::Share;
use crate::model::name::{Kind, ObjectName};
use crate::model::network::{NEAR, names_near};
use crate::model::plan::{Backend, BackendId, Plan, Target};
use crate::model::problem::Problem;
use crate::model::stream::Transport;

/// Looks up every backend that a route of the plan names, and their canaries.
pub(super) fn add(
    shares: &BTreeMap<BackendId, Share<'_>>,
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let slices = Slices::of(objects, policy);
    if let Some(name) = &policy.default_backend {
        let port = objects.services.get(name).and_then(|it| it.ports.first());
        match port {
            Some(port) => {
                plan.fallback = Some(super::routes::fallback(name, port.port, &plan.settings));
            }
            None => problems.push(Problem {
                kind: Kind::Service,
                object: name.clone(),
                reason: "DefaultBackend",
                text: "--default-backend-service names it, but it is not there or has no port: \
                       the built-in 404 answers"
                    .to_owned(),
            }),
        }
    }
    let routes = plan.hosts.values().flat_map(|it| it.paths.values());
    let defaults = routes.clone().filter_map(|it| it.answers.as_ref()?.default.as_ref());
    let routes = routes.chain(defaults);
    // Who names what: mostly in order already, as a host is often called what its Service is.
    let named = routes.chain(&plan.fallback).filter_map(|route| match &route.target {
        Target::Backend(id) => Some((id, Some(&route.ingress))),
        _ => None,
    });
    let mut named: Vec<(&BackendId, Option<&ObjectName>)> = named.collect();
    let canaries = named.iter().filter_map(|(id, _)| shares.get(*id)?.canary.as_ref());
    let canaries: Vec<_> = canaries.map(|it| (&it.backend, None)).collect();
    named.extend(canaries);
    named.sort();
    named.dedup();
    let usual = Share::default();
    let mut backends = Vec::with_capacity(named.len());
    for by in named.chunk_by(|(a, _), (b, _)| a == b) {
        let id = by[0].0;
        let share = shares.get(id).unwrap_or(&usual);
        let mut report = |text: &str, instead: [&str; 2]| {
            let mains = by.iter().filter_map(|(_, it)| Some(((*it)?, instead[0])));
            let canaries = share.canary_of.iter().map(|it| (*it, instead[1]));
            problems.extend(mains.chain(canaries).map(|(it, instead)| {
                let text = format!("{text}: {instead}");
                if !it.name.is_empty() {
                    return Problem::ingress(it, "Backend", text);
                }
                // The default backend belongs to no Ingress.
                Problem {
                    kind: Kind::Service,
                    object: id.service.clone(),
                    reason: "DefaultBackend",
                    text,
                }
            }));
        };
        let found = match objects.services.get(&id.service) {
            None => Err(format!("Service {} is not there", id.service)),
            Some(service) => match &service.external_name {
                Some(name) => external(name, service, id, policy),
                None => internal(service, &slices, id, None).map(|endpoints| {
                    if !share.service_upstream {
                        return endpoints;
                    }
                    whole(service, id).unwrap_or_else(|| {
                        let text = format!("Service {} has no cluster IP", id.service);
                        report(&text, ["service-upstream has no effect"; 2]);
                        endpoints
                    })
                }),
            },
        };
        let backend = found.unwrap_or_else(|text| {
            report(&text, ["its paths answer 503", "the main Service gets its share"]);
            Backend::default()
        });
        if backend.external.is_some() && share.affinity.is_some() {
            let text = format!("Service {} has a name in place of endpoints", id.service);
            report(&text, ["affinity has no effect"; 2]);
        }
        let backend = Backend {
            balance: share.balance.clone(),
            affinity: share.affinity.clone(),
            canary: share.canary.clone(),
            ..backend
        };
        backends.push((id.clone(), backend));
    }
    plan.backends.append(&mut backends.into_iter().collect());
}

/// The Service as its own single endpoint.
fn whole(service: &Service, id: &BackendId) -> Option<Backend> {
    let address = SocketAddr::new(service.cluster_ip?, port(service, &id.port)?.port);
    Some(Backend { addresses: vec![address], ..Backend::default() })
}

/// Who takes the streams that are handed on to a Service's port.
pub(super) fn find(
    id: &BackendId,
    transport: Transport,
    objects: &Objects,
    slices: &Slices<'_>,
    policy: &Policy,
) -> Result<Backend, String> {
    let service = objects.services.get(&id.service);
    let service = service.ok_or_else(|| format!("Service {} is not there", id.service))?;
    match &service.external_name {
        Some(name) => external(name, service, id, policy),
        None => internal(service, slices, id, Some(transport)),
    }
}

/// All EndpointSlices, by the namespace and name of their Service.
pub(super) struct Slices<'a> {
    all: Vec<(&'a str, &'a str, &'a Slice)>,
    /// Ours, where endpoints in it are to be preferred.
    zone: Option<&'a str>,
}

impl<'a> Slices<'a> {
    pub(super) fn of(objects: &'a Objects, policy: &'a Policy) -> Self {
        let all = objects.slices.iter();
        let mut all: Vec<_> =
            all.map(|(name, it)| (&*name.namespace, &*it.service, &**it)).collect();
        // They begin with their Service's name, so this finds little to do.
        all.sort_by_key(|(namespace, service, _)| (*namespace, *service));
        Self { all, zone: policy.zone.as_deref() }
    }

    /// Those of a Service, in the order of their names.
    fn of_service(&self, name: &ObjectName) -> impl Iterator<Item = &'a Slice> {
        let wanted = (&*name.namespace, &*name.name);
        let first = self.all.partition_point(|(namespace, it, _)| (*namespace, *it) < wanted);
        let rest = self.all.get(first..).unwrap_or_default().iter();
        rest.take_while(move |(namespace, it, _)| (*namespace, *it) == wanted).map(|it| it.2)
    }
}

/// The first of the Service's ports whose number, target or name is what the Ingress says.
fn port<'a>(service: &'a Service, wanted: &str) -> Option<&'a Port> {
    let number = number(wanted);
    let is_meant =
        |it: &&Port| number == Some(it.port) || *it.target == *wanted || *it.name == *wanted;
    service.ports.iter().find(is_meant)
}

/// The same of the ports of one transport, where a number is a port's own, as ingress-nginx reads streams.
fn port_of<'a>(service: &'a Service, wanted: &str, udp: bool) -> Option<&'a Port> {
    let number = number(wanted);
    let mut ports = service.ports.iter().filter(|it| it.udp == udp);
    ports.find(|it| number == Some(it.port) || *it.name == *wanted)
}

/// A port as a number is written; `+80` and `080` are names that no port has.
fn number(wanted: &str) -> Option<u16> {
    wanted.parse().ok().filter(|_| !wanted.starts_with(['+', '0']))
}

fn internal(
    service: &Service,
    slices: &Slices<'_>,
    id: &BackendId,
    transport: Option<Transport>,
) -> Result<Backend, String> {
    let port = match transport {
        None => port(service, &id.port),
        Some(transport) => port_of(service, &id.port, transport == Transport::Udp),
    };
    let kind = transport.map(|it| format!("{it} ")).unwrap_or_default();
    let port =
        port.ok_or_else(|| format!("Service {} has no {kind}port {}", id.service, id.port))?;
    let (mut ready, mut lingering) = (Vec::new(), Vec::new());
    for slice in slices.of_service(&id.service) {
        let near = near(slice, slices.zone);
        for number in numbers(slice, port) {
            for (place, endpoint) in slice.endpoints.iter().enumerate() {
                if near.is_some_and(|it| it.binary_search(&place).is_err()) {
                    continue;
                }
                let address = SocketAddr::new(endpoint.address, number);
                if endpoint.ready {
                    ready.push(address);
                } else if endpoint.lingering {
                    lingering.push(address);
                }
            }
        }
    }
    let mut addresses = if ready.is_empty() { lingering } else { ready };
    addresses.sort_unstable();
    addresses.dedup();
    addresses.shrink_to_fit();
    Ok(Backend { addresses, ..Backend::default() })
}

/// The places of the endpoints that are for our zone, where a slice has ready ones; `None` for all of them.
fn near<'a>(slice: &'a Slice, zone: Option<&str>) -> Option<&'a [usize]> {
    let near = slice.zones.get(zone?)?;
    let ready = |place: &usize| slice.endpoints.get(*place).is_some_and(|it| it.ready);
    near.iter().any(ready).then_some(near)
}

/// A slice's port is found by name, else it is the Service's numeric target.
fn numbers(slice: &Slice, port: &Port) -> Vec<u16> {
    let target = || port.target.parse().into_iter().collect();
    let Some(ports) = &slice.ports else { return target() };
    let ports = if port.udp { &slice.udp } else { ports };
    let named = ports.iter().filter(|(name, _)| port.name.is_empty() || *name == port.name);
    let found: Vec<u16> = named.map(|(_, number)| *number).collect();
    if found.is_empty() && !ports.is_empty() { target() } else { found }
}

fn external(
    name: &str,
    service: &Service,
    id: &BackendId,
    policy: &Policy,
) -> Result<Backend, String> {
    let refuse = |why: &str| Err(format!("Service {}: {why}", id.service));
    if policy.no_external_name {
        return refuse("ExternalName is switched off by --disable-svc-external-name");
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if !policy.near && names_near(&name) {
        return refuse(&format!("its ExternalName {name} {NEAR}"));
    }
    let number = match port(service, &id.port) {
        Some(port) => port.target.parse().unwrap_or(port.port),
        None => match id.port.parse() {
            Ok(number) => number,
            Err(_) => return refuse("an ExternalName needs a port number"),
        },
    };
    Ok(Backend { external: Some((name.into(), number)), ..Backend::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::objects::Endpoint;

    #[test]
    fn a_slice_says_which_endpoints_are_for_a_zone() {
        // Zones that each endpoint is for, and whether it is ready; the last digits of those that are used.
        let a = |ready| (&["a"][..], ready);
        let b = |ready| (&["b"][..], ready);
        let both = (&["a", "b"][..], true);
        for (endpoints, zone, expected) in [
            (&[a(true), b(true), both][..], Some("a"), &[0, 2][..]),
            (&[a(true), b(true), both], Some("b"), &[1, 2]),
            (&[a(true), b(true)], None, &[0, 1]),
            (&[a(true), b(true)], Some("c"), &[0, 1]),
            (&[a(false), b(true)], Some("a"), &[1]),
            (&[a(false), a(true), b(true)], Some("a"), &[1]),
        ] {
            let mut slice = Slice { service: "web".into(), ..Slice::default() };
            let mut all = Vec::new();
            for (place, (zones, ready)) in endpoints.iter().enumerate() {
                let last = u8::try_from(place).expect("few");
                let address = [10, 0, 0, last].into();
                all.push(Endpoint { address, ready: *ready, lingering: false });
                for zone in *zones {
                    slice.zones.entry((*zone).into()).or_default().push(place);
                }
            }
            slice.endpoints = all.into();
            let policy = Policy { zone: zone.map(Into::into), ..Policy::default() };
            let port = Port { port: 80, target: "8080".into(), ..Port::default() };
            let service = Service { ports: [port].into(), ..Service::default() };
            let id = BackendId { service: ObjectName::new("a", "web"), port: "80".into() };
            let mut objects = Objects::default();
            objects.slices.insert(ObjectName::new("a", "web-1"), slice.into());
            let found = internal(&service, &Slices::of(&objects, &policy), &id, None);
            let found = found.expect("a port").addresses;
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            let expected: Vec<_> = expected.iter().map(|it| format!("10.0.0.{it}:8080")).collect();
            assert_eq!(found, expected, "{endpoints:?} {zone:?}");
        }
    }
}
