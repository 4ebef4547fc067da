//! What holds for a host as a whole: its other names, and where `/` leads.
//!
//! The oldest Ingress that says something decides, of those in the namespace that owns the host.

use std::collections::{BTreeMap, BTreeSet};

use super::Policy;
use super::routes::Ours;
use crate::model::host::HostPattern;
use crate::model::plan::{Certificate, Host, Plan};
use crate::model::problem::Problem;
use crate::model::routing::{Alias, Routing};

/// Adds what annotations say of whole hosts.
pub(super) fn add(
    ours: &[Ours<'_>],
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let mut speaking: Vec<(&Ours<'_>, &Routing, HostPattern)> = Vec::new();
    for it in ours {
        let Some(routing) = it.options.routing.as_deref() else { continue };
        let hosts: BTreeSet<_> =
            it.ingress.rules.iter().filter_map(|it| it.host.parse().ok()).collect();
        speaking.extend(hosts.into_iter().map(|host| (it, routing, host)));
    }
    // Names before redirects from names, which yield to them.
    let mut decided: BTreeMap<&HostPattern, &[Alias]> = BTreeMap::new();
    for (it, routing, host) in &speaking {
        let mut report = |text| problems.push(Problem::ingress(it.name, "HostTaken", text));
        let Some(known) = plan.hosts.get_mut(host) else { continue };
        let owns = known.owner.namespace == it.name.namespace;
        if let Some(phrase) = &routing.app_root {
            let is_root = known
                .paths
                .iter()
                .any(|(pattern, route)| pattern.as_str() == "/" && route.ingress == *it.name);
            if !owns && (policy.strict_hosts || !is_root) {
                report(format!("app-root ignored for {host}: {} has the host", known.owner));
            } else if known.app_root.as_deref().is_some_and(|it| it != phrase) {
                report(format!("app-root ignored for {host}: an older Ingress has another one"));
            } else {
                known.app_root = Some(phrase.clone().into());
            }
        }
        if !routing.aliases.is_empty() {
            if !owns {
                report(format!("server-alias ignored for {host}: {} has the host", known.owner));
            } else if *decided.entry(host).or_insert(&routing.aliases) != routing.aliases {
                report(format!("server-alias ignored for {host}: an older Ingress has its own"));
            } else if known.aliases.is_empty() {
                let added = aliases(&routing.aliases, host, policy, plan, &mut report);
                plan.hosts.entry(host.clone()).and_modify(|it| it.aliases = added);
            }
        }
    }
    for (it, _, host) in speaking.iter().filter(|(_, routing, _)| routing.www) {
        if let Err(text) = www(it, host, plan) {
            let text = format!("from-to-www-redirect ignored for {host}: {text}");
            problems.push(Problem::ingress(it.name, "HostTaken", text));
        }
    }
}

/// The aliases that a host may have, each with whether the host's certificate is for it, too.
fn aliases(
    wanted: &[Alias],
    host: &HostPattern,
    policy: &Policy,
    plan: &mut Plan,
    report: &mut impl FnMut(String),
) -> Vec<(Alias, bool)> {
    let mut added: Vec<(Alias, bool)> = Vec::new();
    for alias in wanted {
        let Alias::Host(name) = alias else {
            if policy.strict_hosts {
                let why = "with --host-ownership=namespace a host has names, no patterns";
                report(format!("alias {alias} of {host} ignored: {why}"));
            } else {
                added.push((alias.clone(), false));
            }
            continue;
        };
        if name == host || added.iter().any(|(it, _)| it == alias) {
            continue;
        }
        if let Some(rival) = plan.hosts.get(name) {
            report(format!("alias {name} of {host} ignored: {} has rules for it", rival.owner));
        } else if let Some(rival) = plan.hosts.values().find(|it| it.has_alias(name)) {
            let who = &rival.owner;
            report(format!("alias {name} of {host} ignored: a host of {who} has it already"));
        } else {
            added.push((alias.clone(), share(host, name, plan)));
        }
    }
    added
}

impl Host {
    fn has_alias(&self, name: &HostPattern) -> bool {
        self.aliases.iter().any(|(it, _)| matches!(it, Alias::Host(it) if it == name))
    }
}

/// Shows a host's certificate for another name of it, where it is for that; says whether it is.
fn share(host: &HostPattern, name: &HostPattern, plan: &mut Plan) -> bool {
    let Some(certificate) = plan.certificates.get(host) else { return false };
    let covers = certificate.keypair.as_ref().is_some_and(|it| it.covers(name));
    if covers || (certificate.keypair.is_none() && certificate.keeps_last) {
        plan.certificates.insert(name.clone(), Certificate::clone(certificate));
    }
    covers
}

/// Redirects the other of `example.org` and `www.example.org` to a host; the error is why not.
fn www(ours: &Ours<'_>, host: &HostPattern, plan: &mut Plan) -> Result<(), String> {
    let Some(known) = plan.hosts.get(host) else { return Ok(()) };
    if known.owner.namespace != ours.name.namespace {
        return Err(format!("{} has the host", known.owner));
    }
    let HostPattern::Exact(to) = host else { return Err("it needs a host by name".to_owned()) };
    let from = to.strip_prefix("www.").map_or_else(|| format!("www.{to}"), str::to_owned);
    let name: HostPattern = from.parse().map_err(|error| format!("{from}: {error}"))?;
    if known.www.as_deref() == Some(&*from) {
        return Ok(());
    }
    if plan.hosts.contains_key(&name) || plan.hosts.values().any(|it| it.has_alias(&name)) {
        return Err(format!("{from} has rules of its own"));
    }
    share(host, &name, plan);
    plan.hosts.entry(host.clone()).and_modify(|it| it.www = Some(from.into()));
    Ok(())
}
