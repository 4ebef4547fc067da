//! Services and EndpointSlices → who answers.

use std::collections::{BTreeMap, BTreeSet};
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
    let slices = by_service(objects);
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
    let mut named: BTreeMap<&BackendId, BTreeSet<&ObjectName>> = BTreeMap::new();
    for route in routes.chain(&plan.fallback) {
        if let Target::Backend(id) = &route.target {
            named.entry(id).or_default().insert(&route.ingress);
        }
    }
    let none = BTreeSet::new();
    let usual = Share::default();
    let canaries = named.keys().filter_map(|it| shares.get(*it)?.canary.as_ref());
    let canaries: BTreeSet<&BackendId> = canaries.map(|it| &it.backend).collect();
    let all: BTreeSet<&BackendId> = named.keys().copied().chain(canaries).collect();
    for id in all {
        let share = shares.get(id).unwrap_or(&usual);
        let mut report = |text: &str, instead: [&str; 2]| {
            let mains = named.get(id).unwrap_or(&none).iter().map(|it| (*it, instead[0]));
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
                None => {
                    internal(service, slices.get(&id.service), id, None, policy).map(|endpoints| {
                        if !share.service_upstream {
                            return endpoints;
                        }
                        whole(service, id).unwrap_or_else(|| {
                            let text = format!("Service {} has no cluster IP", id.service);
                            report(&text, ["service-upstream has no effect"; 2]);
                            endpoints
                        })
                    })
                }
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
        plan.backends.insert(id.clone(), backend);
    }
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
    slices: &BTreeMap<ObjectName, Vec<&Slice>>,
    policy: &Policy,
) -> Result<Backend, String> {
    let service = objects.services.get(&id.service);
    let service = service.ok_or_else(|| format!("Service {} is not there", id.service))?;
    match &service.external_name {
        Some(name) => external(name, service, id, policy),
        None => internal(service, slices.get(&id.service), id, Some(transport), policy),
    }
}

pub(super) fn by_service(objects: &Objects) -> BTreeMap<ObjectName, Vec<&Slice>> {
    let mut slices: BTreeMap<ObjectName, Vec<&Slice>> = BTreeMap::new();
    for (name, slice) in &objects.slices {
        let service = ObjectName::new(name.namespace.clone(), slice.service.clone());
        slices.entry(service).or_default().push(slice);
    }
    slices
}

/// The first of the Service's ports whose number, target or name is what the Ingress says.
fn port<'a>(service: &'a Service, wanted: &str) -> Option<&'a Port> {
    service
        .ports
        .iter()
        .find(|it| it.port.to_string() == wanted || *it.target == *wanted || *it.name == *wanted)
}

/// The same of the ports of one transport, where a number is a port's own, as ingress-nginx reads streams.
fn port_of<'a>(service: &'a Service, wanted: &str, udp: bool) -> Option<&'a Port> {
    let mut ports = service.ports.iter().filter(|it| it.udp == udp);
    ports.find(|it| it.port.to_string() == wanted || *it.name == *wanted)
}

fn internal(
    service: &Service,
    slices: Option<&Vec<&Slice>>,
    id: &BackendId,
    transport: Option<Transport>,
    policy: &Policy,
) -> Result<Backend, String> {
    let port = match transport {
        None => port(service, &id.port),
        Some(transport) => port_of(service, &id.port, transport == Transport::Udp),
    };
    let kind = transport.map(|it| format!("{it} ")).unwrap_or_default();
    let port =
        port.ok_or_else(|| format!("Service {} has no {kind}port {}", id.service, id.port))?;
    let mut ready = BTreeSet::new();
    let mut lingering = BTreeSet::new();
    for slice in slices.into_iter().flatten() {
        let near = near(slice, policy.zone.as_deref());
        for number in numbers(slice, port) {
            for (place, endpoint) in slice.endpoints.iter().enumerate() {
                if near.is_some_and(|it| it.binary_search(&place).is_err()) {
                    continue;
                }
                let address = SocketAddr::new(endpoint.address, number);
                if endpoint.ready {
                    ready.insert(address);
                } else if endpoint.lingering {
                    lingering.insert(address);
                }
            }
        }
    }
    let used = if ready.is_empty() { lingering } else { ready };
    Ok(Backend { addresses: used.into_iter().collect(), ..Backend::default() })
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
            let mut slice = Slice::default();
            for (place, (zones, ready)) in endpoints.iter().enumerate() {
                let last = u8::try_from(place).expect("few");
                let address = [10, 0, 0, last].into();
                slice.endpoints.push(Endpoint { address, ready: *ready, lingering: false });
                for zone in *zones {
                    slice.zones.entry((*zone).into()).or_default().push(place);
                }
            }
            let policy = Policy { zone: zone.map(Into::into), ..Policy::default() };
            let port = Port { port: 80, target: "8080".into(), ..Port::default() };
            let service = Service { ports: vec![port], ..Service::default() };
            let id = BackendId { service: ObjectName::new("a", "web"), port: "80".into() };
            let found = internal(&service, Some(&vec![&slice]), &id, None, &policy);
            let found = found.expect("a port").addresses;
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            let expected: Vec<_> = expected.iter().map(|it| format!("10.0.0.{it}:8080")).collect();
            assert_eq!(found, expected, "{endpoints:?} {zone:?}");
        }
    }
}
