//! Ingress rules → hosts and paths, merged the way ingress-nginx merges them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::annotation::{self, Reading};
use super::objects::{Ingress, Objects, ServicePort};
use super::{Policy, class, locations};
use crate::model::host::HostPattern;
use crate::model::location::Location;
use crate::model::name::ObjectName;
use crate::model::options::Options;
use crate::model::path::PathPattern;
use crate::model::phrase::Phrase;
use crate::model::plan::{BackendId, Host, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::settings::Settings;
use crate::model::upstream::Balance;

/// An Ingress of ours with its annotations read.
pub(super) struct Ours<'a> {
    /// Its place by age, the oldest first.
    pub(super) place: usize,
    pub(super) name: &'a ObjectName,
    pub(super) ingress: &'a Ingress,
    pub(super) options: Arc<Options>,
    refusal: Option<Box<str>>,
    /// A `proxy-ssl-*` of it that could not be read.
    pub(super) unread_tls: Option<&'static str>,
}

/// Marks the Ingress by which kube-lego used to answer challenges; we answer them ourselves.
const LEGO_CHALLENGES: &str = "kubernetes.io/tls-acme-challenge-endpoints";
/// How many Ingresses are looked at for settings that are alike: those of one team, mostly.
const LATELY: usize = 8;
/// Services of kube-lego that such paths lead to.
const LEGO_SERVICES: [&str; 2] = ["kube-lego-nginx", "kube-lego-gce"];
/// Where challenges are answered.
pub(super) const CHALLENGES: &str = "/.well-known/acme-challenge";

/// Our Ingresses, oldest first, without those that are left out whole.
pub(super) fn read<'a>(
    objects: &'a Objects,
    policy: &Policy,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Vec<Ours<'a>> {
    let mut ours: Vec<Ours<'_>> = Vec::new();
    // Most Ingresses change nothing, or the same as one that is about as old: these have them in common.
    let usual = Arc::new(settings.options.clone());
    for (name, ingress) in class::ours(objects, policy) {
        let Reading { options, refusal, unread_tls, problems: found, .. } =
            annotation::read(ingress, policy, &settings.options);
        problems.extend(found.into_iter().map(|(why, text)| Problem::ingress(name, why, text)));
        if ingress.annotations.get(LEGO_CHALLENGES).is_some_and(|it| it == "true") {
            let text = "left over from kube-lego and left out: challenges are answered without it; \
                        delete it";
            problems.push(Problem::ingress(name, "KubeLego", text));
            continue;
        }
        if policy.no_catch_all && ingress.default_backend.is_some() {
            let text = "left out: it has a default backend, and --disable-catch-all is set";
            problems.push(Problem::ingress(name, "CatchAll", text));
            continue;
        }
        let refusal = refusal.or_else(|| settings.refusal.clone()).map(Into::into);
        let lately = ours.iter().rev().take(LATELY).map(|it| &it.options);
        let alike = std::iter::once(&usual).chain(lately).find(|it| ***it == options);
        let options = alike.cloned().unwrap_or_else(|| options.into());
        let place = ours.len();
        ours.push(Ours { place, name, ingress, options, refusal, unread_tls });
    }
    ours
}

/// Adds the hosts and paths of our Ingresses to the plan; the oldest rule of a kind wins.
pub(super) fn add(
    ours: &[Ours<'_>],
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let of_expressions = locations::hosts(ours, policy);
    for it in ours {
        add_rules(it, &of_expressions, policy, plan, problems);
    }
    // Whatever no rule of a host takes goes to the default backend of the oldest Ingress that has
    // one, else to everybody's, with the settings of the host's owner.
    for it in ours {
        if let Some(backend) = &it.ingress.default_backend {
            for host in it.ingress.rules.iter().filter_map(|rule| rule.host.parse().ok()) {
                if it.may_have(&host, policy, plan) {
                    let route = it.route(&host, "/", it.target(Some(backend)));
                    add_root(entry(plan, host, it.name), route);
                }
            }
        }
    }
    let root = PathPattern::Prefix("/".into());
    let mut rootless = plan
        .hosts
        .iter_mut()
        .filter(|(host, it)| **host != HostPattern::Any && !it.paths.contains_key(&root))
        .peekable();
    if rootless.peek().is_some() {
        let owners: HashMap<&ObjectName, &Ours<'_>> = ours.iter().map(|it| (it.name, it)).collect();
        for (host, entry) in rootless {
            if let Some(owner) = owners.get(&entry.owner) {
                add_root(entry, owner.route(host, "/", owner.target_fallback()));
            }
        }
    }
    locations::rank(plan);
}

/// A host of the plan, which is this Ingress's if it is new.
fn entry<'a>(plan: &'a mut Plan, host: HostPattern, owner: &ObjectName) -> &'a mut Host {
    plan.hosts.entry(host).or_insert_with(|| Host::new(owner.clone()))
}

/// Adds a route for everything that no other takes, unless there is one.
fn add_root(host: &mut Host, route: Route) {
    let root = PathPattern::Prefix("/".into());
    if !host.paths.contains_key(&root) {
        if let Ok(all) = Location::parse("/") {
            host.try_location(&root, all.into());
        }
        host.paths.insert(root, Arc::new(route));
    }
}

fn add_rules(
    ours: &Ours<'_>,
    of_expressions: &BTreeSet<HostPattern>,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let mut report = |reason, text| problems.push(Problem::ingress(ours.name, reason, text));
    if let (Some(backend), true) = (&ours.ingress.default_backend, ours.ingress.rules.is_empty()) {
        // Like a rule for any host and path, but its redirects are ignored, as in ingress-nginx.
        let host = HostPattern::Any;
        if ours.may_have(&host, policy, plan) {
            let mut route = ours.route(&host, "/", ours.target(Some(backend)));
            let quiet = Options {
                ssl_redirect: false,
                force_ssl_redirect: false,
                routing: ours.options.routing.clone().map(|it| it.without_redirects().into()),
                ..Options::clone(&ours.options)
            };
            route.options = Arc::new(quiet);
            route.rewrite = None;
            add_root(entry(plan, host, ours.name), route);
        } else {
            report("HostTaken", "default backend ignored: somebody older has every host".into());
        }
    }
    for rule in &ours.ingress.rules {
        let host: HostPattern = match rule.host.parse() {
            Ok(host) => host,
            Err(error) => {
                report("BadRule", format!("rule for host {:?} ignored: {error}", rule.host));
                continue;
            }
        };
        let entry = entry(plan, host.clone(), ours.name);
        let expressions = of_expressions.contains(&host);
        if expressions {
            entry.locations.get_or_insert_default();
        }
        if entry.owner.namespace != ours.name.namespace && policy.strict_hosts {
            let text = format!("rule for {host} ignored: {} has the host", entry.owner);
            report("HostTaken", text);
            continue;
        }
        for it in rule.paths.iter().flatten() {
            let lego = it.backend.as_ref().is_some_and(|it| LEGO_SERVICES.contains(&&*it.service));
            if lego && is_challenge_path(&it.path) {
                let text = format!("path {} of kube-lego ignored: delete it", it.path);
                report("KubeLego", text);
                continue;
            }
            let raw = if it.path.is_empty() { Arc::from("/") } else { it.path.clone() };
            let text = match locations::text(&raw, expressions) {
                Ok(text) => text,
                Err(error) => {
                    report("BadRule", format!("path {raw:?} of {host} ignored: {error}"));
                    continue;
                }
            };
            let pattern =
                if it.exact { PathPattern::Exact(text) } else { PathPattern::Prefix(text) };
            if let Some(first) = entry.paths.get(&pattern) {
                let older = &first.ingress;
                let who = if older == ours.name {
                    "an earlier rule of it".to_owned()
                } else {
                    format!("{older}, which is older,")
                };
                report("PathTaken", format!("path {raw} of {host} ignored: {who} has it"));
                continue;
            }
            let target = ours.target(it.backend.as_ref());
            let mut route = ours.route(&host, raw, target);
            if let Err(text) = locations::place(ours.ingress, entry, &pattern, &mut route) {
                report("BadPattern", text);
            }
            entry.paths.insert(pattern, Arc::new(route));
        }
    }
}

/// Whether a rule's path is where challenges are answered, or below.
pub(super) fn is_challenge_path(path: &str) -> bool {
    path.strip_prefix(CHALLENGES).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Ours<'_> {
    /// Whether a host is free for it: nobody's, or shared, or its namespace's.
    fn may_have(&self, host: &HostPattern, policy: &Policy, plan: &Plan) -> bool {
        !policy.strict_hosts
            || plan.hosts.get(host).is_none_or(|it| it.owner.namespace == self.name.namespace)
    }

    fn route(&self, host: &HostPattern, path: impl Into<Arc<str>>, target: Target) -> Route {
        let route = Route::new(self.name.clone(), host, path, target, self.options.clone());
        Route { rewrite: locations::rewrite(self, &route.path), ..route }
    }

    fn target(&self, backend: Option<&ServicePort>) -> Target {
        if let Some(why) = &self.refusal {
            return Target::Refused(why.clone());
        }
        backend.map_or(Target::Nothing, |it| Target::Backend(self.backend(it)))
    }

    /// A Service's port of its namespace.
    pub(super) fn backend(&self, it: &ServicePort) -> BackendId {
        BackendId {
            service: ObjectName::new(self.name.namespace.clone(), it.service.clone()),
            port: it.port.clone(),
        }
    }

    /// How endpoints are to be chosen.
    pub(super) fn balance(&self) -> Balance {
        /// `upstream-hash-by-subset-size`
        const SUBSET: u32 = 3;
        let subset = self.options.sharing.as_ref().filter(|it| it.subset);
        match &self.options.hash_by {
            Some(phrase) => match subset {
                Some(it) => {
                    Balance::Subset(Phrase::clone(phrase), it.subset_size.unwrap_or(SUBSET))
                }
                None => Balance::Hash(Phrase::clone(phrase)),
            },
            None if self.options.ewma => Balance::Ewma,
            None => Balance::RoundRobin,
        }
    }

    fn target_fallback(&self) -> Target {
        match &self.refusal {
            Some(why) => Target::Refused(why.clone()),
            None => Target::Fallback,
        }
    }
}

/// The route of `--default-backend-service`.
pub(super) fn fallback(service: &ObjectName, port: u16, settings: &Settings) -> Arc<Route> {
    let target = match &settings.refusal {
        Some(why) => Target::Refused(why.as_str().into()),
        None => {
            Target::Backend(BackendId { service: service.clone(), port: port.to_string().into() })
        }
    };
    let options = Arc::new(settings.options.clone());
    Arc::new(Route::new(ObjectName::default(), &HostPattern::Any, "/", target, options))
}

/// Decides for each route whether plain HTTP is redirected, now that certificates are known.
///
/// A host with a `tls` entry is redirected, whatever its Secret holds, as in ingress-nginx; but while
/// we are still to obtain its first certificate it is not, unless `force-ssl-redirect` says so.
pub(super) fn decide_redirects(plan: &mut Plan) {
    // Few wait, and few are wildcards: most hosts are looked up in nothing.
    let waiting = plan.certificates.iter().filter(|(host, it)| {
        let awaited = || it.secret.as_ref().is_some_and(|secret| plan.awaits(secret, host));
        it.keypair.is_none() && awaited()
    });
    let waiting: BTreeSet<HostPattern> = waiting.map(|(host, _)| host.clone()).collect();
    // Rules without a host have no certificate.
    let is_secured = |host: &HostPattern, it: &Host| {
        it.tls && *host != HostPattern::Any && !waiting.contains(host)
    };
    // A certificate for a wildcard counts for the hosts below it.
    let wildcards = plan
        .hosts
        .iter()
        .filter(|(host, it)| matches!(host, HostPattern::Wildcard(_)) && is_secured(host, it));
    let wildcards: BTreeSet<HostPattern> = wildcards.map(|(host, _)| host.clone()).collect();
    for (host, it) in &mut plan.hosts {
        let above = !it.tls
            && !wildcards.is_empty()
            && host.above().is_some_and(|it| wildcards.contains(&it));
        let secure = above || is_secured(host, it);
        for route in it.paths.values_mut() {
            let Options { ssl_redirect, force_ssl_redirect, .. } = *route.options;
            let exempt = plan.settings.no_redirect.iter().any(|it| route.path.starts_with(&**it));
            let to_https = !exempt && (force_ssl_redirect || (ssl_redirect && secure));
            if to_https {
                Arc::make_mut(route).to_https = true;
            }
        }
    }
}

/// The hosts an Ingress has rules for, each once.
pub(super) fn hosts_of(ingress: &Ingress) -> BTreeSet<HostPattern> {
    let named = ingress.rules.iter().filter_map(|it| it.host.parse().ok());
    named.chain(ingress.rules.is_empty().then_some(HostPattern::Any)).collect()
}
