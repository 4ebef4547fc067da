//! `proxy-ssl-*` → TLS towards endpoints.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::objects::Objects;
use super::routes::Ours;
use crate::model::keypair::KeypairError;
use crate::model::name::ObjectName;
use crate::model::plan::{BackendId, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::upstream::{ProxySsl, UpstreamTls};

/// Looks up what each route needs that speaks TLS to its endpoints. Where that cannot be had, the route
/// answers 503: an endpoint that is to be checked is never spoken to unchecked.
pub(super) fn add(
    ours: &[Ours<'_>],
    objects: &Objects,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    // What the owner of a host says holds for all of the host, as in ingress-nginx, whether or not it
    // has a path there itself.
    let speaking =
        ours.iter().filter(|it| it.options.proxy_ssl.is_some() || it.unread_tls.is_some());
    let speaking: HashMap<_, _> = speaking.map(|it| (it.name, it)).collect();
    // Ingresses have many paths to few Services.
    let mut known = HashMap::new();
    let Plan { hosts, unlisted, .. } = plan;
    for host in hosts.values_mut() {
        let owner = speaking.get(&host.owner).copied();
        for route in host.paths.values_mut() {
            let Target::Backend(id) = &route.target else { continue };
            if !route.options.protocol.is_secure(true) {
                continue;
            }
            let found = chosen(route, owner).and_then(|ssl| {
                let made = known.entry((id.service.clone(), ssl)).or_insert_with_key(|(_, ssl)| {
                    look_up(ssl, id, objects, unlisted).map(Arc::new)
                });
                made.clone()
            });
            let refused = found.as_ref().err().map(|why| {
                let text = format!("{why}: its paths to {} answer 503", id.service);
                problems.push(Problem::ingress(&route.ingress, "UpstreamTls", text.clone()));
                Target::Refused(text.into())
            });
            let route = Arc::make_mut(route);
            route.upstream_tls = found.ok();
            if let Some(refused) = refused {
                route.target = refused;
            }
        }
    }
}

/// A route's own words, else those of its host's owner. There are none to go by where an owner of the
/// same namespace meant something that could not be read; one of another namespace closes nobody's paths
/// by a slip of the pen.
fn chosen(route: &Route, owner: Option<&Ours<'_>>) -> Result<ProxySsl, String> {
    if let Some(own) = &route.options.proxy_ssl {
        return Ok(ProxySsl::clone(own));
    }
    let Some(owner) = owner else { return Ok(ProxySsl::default()) };
    match owner.unread_tls {
        Some(annotation) if owner.name.namespace == route.ingress.namespace => {
            Err(format!("{annotation} of {}, which has the host, cannot be read", owner.name))
        }
        _ => Ok(owner.options.proxy_ssl.as_deref().cloned().unwrap_or_default()),
    }
}

/// A Secret that no list holds is noted, to be read by its name. The error is a text.
fn look_up(
    ssl: &ProxySsl,
    id: &BackendId,
    objects: &Objects,
    unlisted: &mut BTreeSet<ObjectName>,
) -> Result<UpstreamTls, String> {
    let ObjectName { namespace, name } = &id.service;
    let name = match &ssl.name {
        Some(name) => name.clone(),
        None => ServerName::try_from(format!("{name}.{namespace}.svc"))
            .map_err(|_| format!("{name}.{namespace}.svc is no name"))?,
    };
    let mut tls = UpstreamTls {
        secret: None,
        authorities: None,
        client: None,
        name,
        server_name: ssl.server_name,
        versions: ssl.versions,
    };
    let Some(text) = &ssl.secret else {
        if ssl.verify {
            let text = "proxy-ssl-verify is on, but no proxy-ssl-secret names a CA".to_owned();
            return Err(text);
        }
        return Ok(tls);
    };
    let secret = text.parse().unwrap_or_else(|_| ObjectName::new(namespace.clone(), text.clone()));
    if secret.namespace != *namespace {
        return Err(format!("proxy-ssl-secret {secret} is in another namespace"));
    }
    let found = objects.secrets.get(&secret);
    if found.is_none_or(|it| !it.is_listed()) {
        unlisted.insert(secret.clone());
    }
    let found = found.ok_or_else(|| format!("proxy-ssl-secret {secret} is not there"))?;
    let fail = |what: &dyn std::fmt::Display| format!("proxy-ssl-secret {secret}: {what}");
    tls.client = match &found.keypair {
        Ok(keypair) => Some(keypair.clone()),
        Err(KeypairError::Missing(_)) => None,
        Err(error) => return Err(fail(error)),
    };
    if ssl.verify {
        tls.authorities = match &found.authorities {
            Some(Ok(authorities)) => Some(authorities.clone()),
            Some(Err(error)) => return Err(fail(&format_args!("ca.crt {error}"))),
            None => return Err(fail(&"ca.crt is missing")),
        };
    }
    tls.secret = Some(secret);
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::objects::{Ingress, Path, Port, Rule, Secret, Service, ServicePort};
    use crate::compile::{Policy, compile};
    use crate::model::keypair::KeypairError;
    use crate::model::texts::Texts;
    use crate::model::upstream::Authorities;

    /// An Ingress of Service `web` and its namespace, with rules `HOST/PATH`; `HOST` alone has no `http`.
    fn ingress(created: i64, rules: &[&str], annotations: &[(&str, &str)]) -> Arc<Ingress> {
        let backend = ServicePort { service: "web".into(), port: "80".into() };
        let rule = |text: &str| {
            let (host, path) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
            let path = path.map(|it| Path {
                path: format!("/{it}").into(),
                exact: false,
                backend: Some(backend.clone()),
            });
            Rule { host: host.into(), paths: path.map(|it| [it].into()) }
        };
        Arc::new(Ingress {
            created: Some(created),
            rules: rules.iter().map(|it| rule(it)).collect(),
            annotations: annotations.iter().map(|(name, value)| (prefixed(name), *value)).collect(),
            ..Ingress::default()
        })
    }

    fn prefixed(name: &str) -> String {
        format!("nginx.ingress.kubernetes.io/{name}")
    }

    /// How the route of `HOST/PATH` is spoken to: whether it is checked, `None` for a 503.
    fn checks(plan: &Plan, host: &str, path: &str) -> Option<bool> {
        let host = host.parse().expect("a host");
        let mut routes = plan.hosts[&host].paths.values();
        let route = routes.find(|it| *it.path == *path).expect("a route");
        let refused = matches!(route.target, Target::Refused(_));
        assert_eq!(refused, route.upstream_tls.is_none(), "{route:?}");
        route.upstream_tls.as_ref().map(|it| it.authorities.is_some())
    }

    fn plan(ingresses: &[(&str, Arc<Ingress>)]) -> (Plan, Vec<Problem>) {
        let mut objects = Objects::default();
        for namespace in ["demo", "other"] {
            let port = Port { name: "".into(), port: 80, target: "8080".into(), udp: false };
            let service = Service { ports: [port].into(), ..Service::default() };
            objects.services.insert(ObjectName::new(namespace, "web"), Arc::new(service));
        }
        let ca = Secret {
            keypair: Err(KeypairError::Missing("tls.crt")),
            authorities: Some(Ok(Arc::new(Authorities(Vec::new())))),
            revocations: None,
            annotations: Texts::default(),
            htpasswd: None,
            users: None,
            thumbprint: None,
        };
        objects.secrets.insert(ObjectName::new("demo", "ca"), Arc::new(ca));
        for (name, ingress) in ingresses {
            let name = name.parse().expect("a name");
            objects.ingresses.insert(name, ingress.clone());
        }
        compile(&objects, &Policy { watch_without_class: true, ..Policy::default() })
    }

    const HTTPS: (&str, &str) = ("backend-protocol", "HTTPS");
    const CHECKED: [(&str, &str); 2] = [("proxy-ssl-secret", "ca"), ("proxy-ssl-verify", "on")];

    #[test]
    fn the_owner_speaks_for_hosts_on_which_it_has_no_path() {
        // The same pair of Ingresses on three hosts, of which the owner has a path on one.
        for owners in [["a.test", "b.test/x", "c.test"], ["a.test/x", "b.test", "c.test/\u{1}"]] {
            let (plan, _) = plan(&[
                ("demo/older", ingress(1, &owners, &CHECKED)),
                ("demo/younger", ingress(2, &["a.test/", "b.test/", "c.test/"], &[HTTPS])),
            ]);
            for host in ["a.test", "b.test", "c.test"] {
                assert_eq!(checks(&plan, host, "/"), Some(true), "{owners:?} {host}");
            }
        }
    }

    #[test]
    fn each_host_has_its_own_owner() {
        // The same Ingress goes to the same Service under both, and only one of them is checked.
        for (checked, unchecked) in [("a.test", "b.test"), ("b.test", "a.test")] {
            let (plan, _) = plan(&[
                ("demo/older", ingress(1, &[checked], &CHECKED)),
                ("demo/silent", ingress(1, &[unchecked], &[])),
                ("demo/younger", ingress(2, &["a.test/", "b.test/"], &[HTTPS])),
            ]);
            assert_eq!(checks(&plan, checked, "/"), Some(true), "{checked}");
            assert_eq!(checks(&plan, unchecked, "/"), Some(false), "{unchecked}");
        }
    }

    #[test]
    fn what_an_owner_says_unreadably_is_taken_over_as_a_refusal() {
        let free = [HTTPS, ("proxy-ssl-verify", "off")];
        for (annotation, value, expected) in [
            ("proxy-ssl-verify", "true", None),
            ("proxy-ssl-verify", "on", None),
            ("proxy-ssl-protocols", "SSLv3", None),
            ("proxy-ssl-name", "not a name", None),
            ("proxy-ssl-secret", "other/ca", None),
            ("proxy-ssl-secret", "gone", None),
            ("proxy-ssl-verify", "off", Some(false)),
            ("proxy-ssl-server-name", "perhaps", Some(false)),
            // It closes the owner's paths and is no word about TLS.
            ("backend-protocol", "FCGI", Some(false)),
            ("auth-type", "basic", Some(false)),
        ] {
            let (plan, problems) = plan(&[
                ("demo/older", ingress(1, &["a.test/old"], &[HTTPS, (annotation, value)])),
                ("demo/silent", ingress(2, &["a.test/"], &[HTTPS])),
                ("demo/free", ingress(3, &["a.test/free", "b.test/"], &free)),
            ]);
            assert_eq!(checks(&plan, "a.test", "/"), expected, "{annotation}: {value}");
            assert_eq!(checks(&plan, "a.test", "/free"), Some(false), "{annotation}: {value}");
            let told = |it: &Problem| it.reason == "UpstreamTls" && *it.object.name == *"silent";
            assert_eq!(problems.iter().any(told), expected.is_none(), "{annotation}: {value}");
        }
    }

    #[test]
    fn an_owner_of_another_namespace_closes_nothing_by_a_slip() {
        for (annotations, expected) in [
            ([("proxy-ssl-verify", "true")].as_slice(), Some(false)),
            // Its words hold all the same, and its Secret is out of reach.
            (&CHECKED, None),
            (&[("proxy-ssl-secret", "demo/ca")], None),
        ] {
            let (plan, _) = plan(&[
                ("demo/older", ingress(1, &["a.test"], annotations)),
                ("other/younger", ingress(2, &["a.test/"], &[HTTPS])),
            ]);
            assert_eq!(checks(&plan, "a.test", "/"), expected, "{annotations:?}");
        }
    }
}
