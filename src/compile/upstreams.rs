//! `proxy-ssl-*` → TLS towards endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::objects::Objects;
use crate::model::keypair::KeypairError;
use crate::model::name::ObjectName;
use crate::model::options::Options;
use crate::model::plan::{BackendId, Host, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::upstream::{ProxySsl, UpstreamTls};

/// Looks up what each route needs that speaks TLS to its endpoints. Where that cannot be had, the route
/// answers 503: an endpoint that is to be checked is never spoken to unchecked.
pub(super) fn add(objects: &Objects, plan: &mut Plan, problems: &mut Vec<Problem>) {
    // Ingresses have many paths to few Services.
    let mut known = BTreeMap::new();
    let Plan { hosts, unlisted, .. } = plan;
    for host in hosts.values_mut() {
        let shared = of_owner(host);
        for route in host.paths.values_mut() {
            let Target::Backend(id) = &route.target else { continue };
            if !route.options.protocol.is_secure(true) {
                continue;
            }
            let ssl = chosen(route, shared.as_ref());
            let found = known
                .entry((route.ingress.clone(), id.service.clone(), host.owner.clone()))
                .or_insert_with(|| {
                    let found = look_up(&ssl, id, objects);
                    if let Err((Some(missing), _)) = &found {
                        unlisted.insert(missing.clone());
                    }
                    found.map(Arc::new).map_err(|(_, text)| text)
                });
            let refused = found.as_ref().err().map(|why| {
                let text = format!("{why}: its paths to {} answer 503", id.service);
                problems.push(Problem::ingress(&route.ingress, "UpstreamTls", text.clone()));
                Target::Refused(text.into())
            });
            let route = Arc::make_mut(route);
            route.upstream_tls = found.as_ref().ok().cloned();
            if let Some(refused) = refused {
                route.target = refused;
            }
        }
    }
}

/// What the owner of a host says, which holds for all of the host, as in ingress-nginx.
fn of_owner(host: &Host) -> Option<Arc<Options>> {
    let mut routes = host.paths.values().filter(|it| it.ingress == host.owner);
    routes.next().map(|it| it.options.clone()).filter(|it| it.proxy_ssl.is_some())
}

/// A route's own words, else those of its host.
fn chosen(route: &Route, shared: Option<&Arc<Options>>) -> ProxySsl {
    let own = route.options.proxy_ssl.as_ref();
    let said = own.or_else(|| shared?.proxy_ssl.as_ref());
    said.map(|it| ProxySsl::clone(it)).unwrap_or_default()
}

/// The error is a Secret that was not there, if that is why, and a text.
fn look_up(
    ssl: &ProxySsl,
    id: &BackendId,
    objects: &Objects,
) -> Result<UpstreamTls, (Option<ObjectName>, String)> {
    let ObjectName { namespace, name } = &id.service;
    let name = match &ssl.name {
        Some(name) => name.clone(),
        None => ServerName::try_from(format!("{name}.{namespace}.svc"))
            .map_err(|_| (None, format!("{name}.{namespace}.svc is no name")))?,
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
            return Err((None, text));
        }
        return Ok(tls);
    };
    let secret = text.parse().unwrap_or_else(|_| ObjectName::new(namespace.clone(), text.clone()));
    if secret.namespace != *namespace {
        return Err((None, format!("proxy-ssl-secret {secret} is in another namespace")));
    }
    let Some(found) = objects.secrets.get(&secret) else {
        return Err((Some(secret.clone()), format!("proxy-ssl-secret {secret} is not there")));
    };
    let fail = |what: &dyn std::fmt::Display| (None, format!("proxy-ssl-secret {secret}: {what}"));
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
