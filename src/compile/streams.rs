//! The ConfigMaps of `--tcp-services-configmap` and `--udp-services-configmap` → ports, and where what comes
//! in there goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Policy;
use super::backends::{self, Slices};
use super::objects::Objects;
use crate::model::name::Kind;
use crate::model::plan::{Backend, BackendId, Plan};
use crate::model::problem::Problem;
use crate::model::stream::{Door, Entry, Stream, Transport, port};

/// Most ports of one ConfigMap: each takes a socket a worker.
const MOST: usize = 1000;

/// Adds what these ConfigMaps list; a bad entry costs nobody but its owner.
pub(super) fn add(
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    for transport in [Transport::Tcp, Transport::Udp] {
        let Some(name) = policy.streams(transport) else { continue };
        plan.unlisted_maps.insert(name.clone());
        let mut report = |reason, text| {
            problems.push(Problem { kind: Kind::ConfigMap, object: name.clone(), reason, text });
        };
        let Some(map) = objects.config_maps.get(name) else {
            let text = format!(
                "--{}-services-configmap names it, but it is not there: no port is opened for it",
                if transport == Transport::Tcp { "tcp" } else { "udp" }
            );
            report("ConfigMap", text);
            continue;
        };
        if is_settings_unread(objects, policy) {
            let text =
                "--configmap may not be read, which could say whom to block: its ports are closed";
            report("BadStream", text.to_owned());
            continue;
        }
        let slices = Slices::of(objects, policy);
        let mut ports = BTreeMap::new();
        for (key, value) in &map.data {
            match number(key, transport, policy) {
                Ok(port) => drop(ports.insert(port, value)),
                Err(why) => report("BadStream", format!("{key}: {why}: it is not opened")),
            }
        }
        for (place, (port, value)) in ports.into_iter().enumerate() {
            if place >= MOST {
                let text = format!("{port}: more than {MOST} ports: it is not opened");
                report("BadStream", text);
                continue;
            }
            let told = |reason, text| report(reason, format!("{port}: {text}"));
            if let Some(stream) = stream(value, transport, objects, &slices, policy, told) {
                plan.streams.insert(Door { transport, port }, Arc::new(stream));
            }
        }
    }
}

/// Whether nobody knows what the settings say.
fn is_settings_unread(objects: &Objects, policy: &Policy) -> bool {
    let missing = |it| !objects.config_maps.contains_key(it);
    policy.config_map.as_ref().is_some_and(missing) && objects.unreadable.contains(&Kind::ConfigMap)
}

fn number(key: &str, transport: Transport, policy: &Policy) -> Result<u16, &'static str> {
    let port = port(key).ok_or("a port is a number from 1 to 65535")?;
    if transport == Transport::Tcp && policy.own_ports.contains(&port) {
        return Err("Lockgate itself listens there");
    }
    Ok(port)
}

fn stream(
    value: &str,
    transport: Transport,
    objects: &Objects,
    slices: &Slices<'_>,
    policy: &Policy,
    mut told: impl FnMut(&'static str, String),
) -> Option<Stream> {
    let entry: Entry = match value.parse() {
        Ok(entry) => entry,
        Err(form) => {
            told("BadStream", format!("{value:?} is not {form}: it is not opened"));
            return None;
        }
    };
    let is_udp = transport == Transport::Udp;
    if is_udp && (entry.from_proxy || entry.to_proxy) {
        told("BadSetting", "UDP has no PROXY header: datagrams are handed on without".to_owned());
    }
    let Entry { service, port, from_proxy, to_proxy } = entry;
    let id = BackendId { service, port };
    let backend = backends::find(&id, transport, objects, slices, policy);
    let backend = backend.unwrap_or_else(|text| {
        let instead = match transport {
            Transport::Tcp => "connections are closed",
            Transport::Udp => "datagrams are dropped",
        };
        told("Backend", format!("{text}: {instead}"));
        Backend::default()
    });
    let [from_proxy, to_proxy] = [from_proxy, to_proxy].map(|it| it && !is_udp);
    Some(Stream { id, backend, from_proxy, to_proxy })
}
