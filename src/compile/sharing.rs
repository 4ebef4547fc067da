//! Canaries, affinity and how endpoints are chosen: what holds for a Service's port, whoever names it.
//!
//! As in ingress-nginx the oldest Ingress that names the port decides; of affinity the oldest that speaks
//! of it, but the youngest for the words of its cookie. A canary stays within its namespace, where
//! ingress-nginx lets it take requests of any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::objects::{Path, ServicePort};
use super::routes::Ours;
use crate::model::host::HostPattern;
use crate::model::name::ObjectName;
use crate::model::path::{self, PathPattern};
use crate::model::plan::{BackendId, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::sharing::{Affinity, Canary, Sharing, Split};
use crate::model::upstream::Balance;

/// What holds for a Service's port.
#[derive(Debug, Default)]
pub(super) struct Share<'a> {
    pub(super) balance: Balance,
    pub(super) affinity: Option<Arc<Affinity>>,
    /// Who takes a share of its requests.
    pub(super) canary: Option<Arc<Canary>>,
    /// Whether its cluster IP stands for its endpoints.
    pub(super) service_upstream: bool,
    /// The canary Ingresses that have it take a share.
    pub(super) canary_of: BTreeSet<&'a ObjectName>,
}

/// What our Ingresses, those with paths and canaries, say about Services' ports. A port is left out of which
/// nobody says anything.
pub(super) fn shares<'a>(
    ours: &'a [Ours<'a>],
    canaries: &'a [Ours<'a>],
    plan: &Plan,
    problems: &mut Vec<Problem>,
) -> BTreeMap<BackendId, Share<'a>> {
    let mut all: Vec<&Ours<'_>> = ours.iter().chain(canaries).collect();
    if all.iter().all(|it| it.options.sharing.is_none() && it.balance() == Balance::RoundRobin) {
        return BTreeMap::new();
    }
    all.sort_unstable_by_key(|it| it.place);
    let mut named: BTreeMap<BackendId, Vec<&Ours<'_>>> = BTreeMap::new();
    for it in &all {
        for id in it.backends() {
            named.entry(id).or_default().push(it);
        }
    }
    let mut shares = named.iter().map(|(id, by)| (id.clone(), Share::of(by))).collect();
    for it in ours.iter().filter(|it| it.sharing().is_some_and(|it| it.split.says_anything())) {
        let text = "canary-* has no effect: the annotation canary is not \"true\"";
        problems.push(Problem::ingress(it.name, "NotCanary", text));
    }
    for canary in canaries {
        Merge { canary, plan, named: &named }.all(&mut shares, problems);
    }
    shares
}

impl<'a> Share<'a> {
    /// What those come to who name a port, oldest first.
    fn of(by: &[&'a Ours<'a>]) -> Self {
        let oldest = by.first();
        // A canary has no paths, and so nobody who comes to it with a cookie of its own.
        let mut said = by.iter().filter(|it| !it.is_canary()).filter_map(|it| it.sharing());
        let mut keeping = said.clone().filter(|it| it.affinity);
        let affinity = keeping.next_back().map(|youngest| {
            let mode = said.find_map(|it| it.mode).unwrap_or_default();
            Arc::new(Affinity { mode, cookie: youngest.cookie.clone() })
        });
        Self {
            balance: oldest.map(|it| it.balance()).unwrap_or_default(),
            affinity,
            service_upstream: oldest
                .and_then(|it| it.sharing())
                .is_some_and(|it| it.service_upstream),
            ..Self::default()
        }
    }
}

/// A canary on its way to the main Services' ports that it takes from.
struct Merge<'a, 'b> {
    canary: &'a Ours<'a>,
    plan: &'b Plan,
    named: &'b BTreeMap<BackendId, Vec<&'a Ours<'a>>>,
}

impl<'a> Merge<'a, '_> {
    fn all(&self, shares: &mut BTreeMap<BackendId, Share<'a>>, problems: &mut Vec<Problem>) {
        let mut report = |text: String| {
            problems.push(Problem::ingress(self.canary.name, "Canary", text));
        };
        let ingress = self.canary.ingress;
        for rule in &ingress.rules {
            let host: HostPattern = match rule.host.parse() {
                Ok(host) => host,
                Err(error) => {
                    report(format!("rule for host {:?} ignored: {error}", rule.host));
                    continue;
                }
            };
            for it in rule.paths.iter().flatten() {
                let merged = match self.main(&host, it) {
                    None => Err("no other Ingress has it: it is not served".to_owned()),
                    Some(main) => self.one(main, it.backend.as_ref(), shares),
                };
                if let Err(why) = merged {
                    report(format!("path {} of {host} ignored: {why}", it.path));
                }
            }
        }
        // As in ingress-nginx: beside every path of rules without a host.
        if let Some(backend) = &ingress.default_backend {
            let any = self.plan.hosts.get(&HostPattern::Any);
            let mains = any.into_iter().flat_map(|it| it.paths.values());
            let merged = mains.map(|it| self.one(it, Some(backend), shares));
            if let Some(why) = merged.filter_map(Result::err).last() {
                report(format!("default backend ignored: {why}"));
            }
        }
    }

    /// The route of the same host, path and type.
    fn main(&self, host: &HostPattern, it: &Path) -> Option<&Arc<Route>> {
        let paths = &self.plan.hosts.get(host)?.paths;
        let raw = if it.path.is_empty() { "/" } else { &*it.path };
        let canonical = path::canonical(raw).ok().map(|it| it.path.into());
        let pattern = canonical.map(|path| {
            if it.exact { PathPattern::Exact(path) } else { PathPattern::Prefix(path) }
        });
        // A path without a canonical form is the same when it is written the same.
        let same = |(pattern, route): &(&PathPattern, &Arc<Route>)| {
            pattern.is_exact() == it.exact && *route.path == *raw
        };
        let found = pattern.and_then(|it| paths.get(&it));
        found.or_else(|| paths.iter().find(same).map(|(_, route)| route))
    }

    fn one(
        &self,
        main: &Route,
        backend: Option<&ServicePort>,
        shares: &mut BTreeMap<BackendId, Share<'a>>,
    ) -> Result<(), String> {
        let backend = backend.ok_or("it names no Service")?;
        let own = self.canary.backend(backend);
        let id = match &main.target {
            Target::Backend(id) => id,
            Target::Refused(_) => return Err(format!("{} answers 503 there", main.ingress)),
            Target::Fallback | Target::Nothing => {
                return Err("no other Ingress has a Service there".to_owned());
            }
        };
        if main.ingress.namespace != self.canary.name.namespace {
            return Err(format!("{} has it, which is of another namespace", main.ingress));
        }
        if own == *id {
            return Err(format!("{} sends it to the same Service and port", main.ingress));
        }
        let Some(main) = shares.get(id) else { return Ok(()) };
        let (split, told) = self.split(&own);
        match &main.canary {
            Some(it) if it.backend != own => {
                return Err(format!(
                    "Service {} has the canary {} already",
                    id.service, it.backend
                ));
            }
            Some(_) => {}
            None => {
                let affinity = main.affinity.clone();
                let canary = Arc::new(Canary { backend: own.clone(), split });
                shares.entry(id.clone()).or_default().canary = Some(canary);
                let legacy = self.canary.sharing().is_some_and(|it| it.legacy);
                let share = shares.entry(own.clone()).or_default();
                if !legacy {
                    share.affinity = affinity;
                }
            }
        }
        shares.entry(own).or_default().canary_of.insert(self.canary.name);
        told
    }

    /// What the oldest says that names the canary's port. Where that is no canary, nothing is sent there
    /// beyond what it has paths for.
    fn split(&self, own: &BackendId) -> (Split, Result<(), String>) {
        match self.named.get(own).and_then(|it| it.first()) {
            Some(oldest) if !oldest.is_canary() => {
                let text = format!(
                    "{}, which is older, has its Service as a main one: it takes no share",
                    oldest.name
                );
                (Split::default(), Err(text))
            }
            oldest => {
                let split = oldest.and_then(|it| it.sharing()).map(|it| it.split.clone());
                (split.unwrap_or_default(), Ok(()))
            }
        }
    }
}

impl Ours<'_> {
    /// Whether it takes its share of others' requests, and has no paths.
    pub(super) fn is_canary(&self) -> bool {
        self.sharing().is_some_and(|it| it.canary)
    }

    fn sharing(&self) -> Option<&Sharing> {
        self.options.sharing.as_deref()
    }

    /// The Services' ports it names, each once.
    fn backends(&self) -> BTreeSet<BackendId> {
        let paths = self.ingress.rules.iter().flat_map(|it| it.paths.iter().flatten());
        let named = paths.filter_map(|it| it.backend.as_ref()).chain(&self.ingress.default_backend);
        named.map(|it| self.backend(it)).collect()
    }
}
