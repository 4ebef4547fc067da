//! `mirror-*` → where copies of requests go; what is told of traces.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::routes::Ours;
use crate::model::copies::Mirror;
use crate::model::host::HostPattern;
use crate::model::network::{NEAR, names_near};
use crate::model::options::Options;
use crate::model::plan::{Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::upstream::{Protocol, Retry, TlsVersions, UpstreamTls};

/// Gives each route its mirror.
pub(super) fn add(ours: &[Ours<'_>], plan: &mut Plan, problems: &mut Vec<Problem>) {
    let mut mirrors = HashMap::new();
    for it in ours {
        let Some(mirror) = mirror(it) else { continue };
        let host = &mirror.address.0;
        if !plan.near && names_near(host) {
            let text = format!("annotation mirror-target: {host} {NEAR}: no copies are sent");
            problems.push(Problem::ingress(it.name, "ForbiddenAddress", text));
            continue;
        }
        mirrors.insert(it.name, mirror);
    }
    if mirrors.is_empty() {
        return;
    }
    for route in plan.hosts.values_mut().flat_map(|it| it.paths.values_mut()) {
        if let Some(mirror) = mirrors.get(&route.ingress) {
            Arc::make_mut(route).mirror = Some(mirror.clone());
        }
    }
}

/// Tells those whose requests have spans that nobody is told of.
pub(super) fn tell_untold(ours: &[Ours<'_>], plan: &Plan, problems: &mut Vec<Problem>) {
    let wanted = |options: &Options| options.spans.as_ref().is_some_and(|it| it.on);
    // Where the ConfigMap asks for them it is told, and everybody would be.
    if plan.settings.tracing.collector.is_some() || wanted(&plan.settings.options) {
        return;
    }
    for it in ours.iter().filter(|it| wanted(&it.options)) {
        let text = "annotation enable-opentelemetry: the ConfigMap names no otlp-collector-host: traceparent \
                    is sent to endpoints, and no spans are sent";
        problems.push(Problem::ingress(it.name, "NoCollector", text));
    }
}

fn mirror(ours: &Ours<'_>) -> Option<Arc<Mirror>> {
    let copies = ours.options.copies.as_deref()?;
    let wanted = copies.mirror.as_deref()?;
    let named = copies.mirror_host.as_ref().and_then(|it| it.parse().ok());
    let name = wanted.authority.host.trim_matches(['[', ']']);
    let options = Options {
        protocol: if wanted.https { Protocol::Https } else { Protocol::Http },
        // A copy is sent once, or not.
        retry: Retry { tries: Some(1), ..Retry::default() },
        body_limit: None,
        ..Options::default()
    };
    let target = Target::Nothing;
    let mut route =
        Route::new(ours.name.clone(), &HostPattern::Any, "/", target, Arc::new(options));
    // As with endpoints, nobody's certificate is looked at who is not told to be.
    if wanted.https {
        route.upstream_tls = Some(Arc::new(UpstreamTls {
            secret: None,
            authorities: None,
            client: None,
            name: ServerName::try_from(name.to_owned()).ok()?,
            server_name: true,
            versions: TlsVersions::default(),
        }));
    }
    Some(Arc::new(Mirror {
        target: wanted.target.clone(),
        host: named.unwrap_or_else(|| wanted.authority.clone()),
        body: !copies.without_body,
        route: Arc::new(route),
        address: (name.into(), wanted.port()),
    }))
}
