//! Hosts on which paths are regular expressions.
//!
//! One `use-regex` or `rewrite-target` makes all paths of a host such expressions, those of other
//! Ingresses as well, and tries them by length, as ingress-nginx does. A path that answers one ACME
//! challenge stays what it is, so that nobody's expression stands in the way of a certificate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use super::Policy;
use super::objects::Ingress;
use super::routes::{Ours, is_challenge_path};
use crate::model::host::HostPattern;
use crate::model::location::{Location, Rewrite, is_literal};
use crate::model::path::{self, PathPattern};
use crate::model::pattern::Pattern;
use crate::model::plan::{Host, Plan, Route, Target};

/// What the paths of an Ingress come to as regular expressions. Making one costs far more than all else
/// there is to compile, so it is kept with the Ingress for as long as that does not change.
#[derive(Clone, Debug, Default)]
pub struct Made(OnceLock<BTreeMap<Arc<str>, Expression>>);

#[derive(Clone, Debug)]
struct Expression {
    location: Result<Arc<Location>, Unfit>,
    /// For rewrites: found anywhere, not only where paths begin.
    loose: OnceLock<Option<Pattern>>,
}

/// A path that cannot be read as a regular expression.
#[derive(Clone, Debug)]
struct Unfit {
    /// What is wrong with it, and what to write instead.
    why: String,
    /// Takes at least what it would take, unless nobody knows what that is.
    location: Option<Arc<Location>>,
}

impl Made {
    fn expression(&self, ingress: &Ingress, path: &str) -> Option<&Expression> {
        let made = self.0.get_or_init(|| {
            let paths = ingress.rules.iter().flat_map(|it| it.paths.iter().flatten());
            let strange = paths.map(|it| &it.path).filter(|it| !is_literal(it));
            strange.map(|it| (it.clone(), Expression::new(it))).collect()
        });
        made.get(path)
    }
}

impl Expression {
    fn new(path: &str) -> Self {
        let location = Location::parse(path).map(Arc::new);
        let unfit = |why| Unfit { why, location: Location::widened(path).map(Arc::new) };
        Self { location: location.map_err(unfit), loose: OnceLock::new() }
    }
}

/// Adds a path to those that are tried, where they are regular expressions. The error says why it cannot
/// be one: its route answers 503 then.
pub(super) fn place(
    ingress: &Ingress,
    host: &mut Host,
    pattern: &PathPattern,
    route: &mut Route,
) -> Result<(), String> {
    if host.locations.is_none() {
        return Ok(());
    }
    let path = pattern.as_str();
    let made = ingress.made.expression(ingress, path).map(|it| it.location.clone());
    match made.unwrap_or_else(|| Expression::new(path).location) {
        Ok(location) => {
            host.try_location(pattern, location);
            Ok(())
        }
        Err(Unfit { why, location }) => {
            let what = if let Some(location) = location {
                host.try_location(pattern, location);
                "what it might take answers 503"
            } else {
                "it takes nothing"
            };
            let text = format!("path {path} of {}: {why}: {what}", route.host);
            route.target = Target::Refused(text.as_str().into());
            Err(text)
        }
    }
}

/// What becomes of the paths that a path of an Ingress takes.
pub(super) fn rewrite(ours: &Ours<'_>, path: &str) -> Option<Arc<Rewrite>> {
    let target = ours.options.routing.as_ref()?.rewrite.as_ref()?;
    if *target.text == *path {
        return None;
    }
    let made = ours.ingress.made.expression(ours.ingress, path);
    let pattern = made.and_then(|it| it.loose.get_or_init(|| Pattern::of_path(path).ok()).clone());
    Some(Arc::new(Rewrite { pattern, target: target.clone() }))
}

/// The text by which a path is told from others: canonical, unless it is an expression.
pub(super) fn text(path: &str, of_expressions: bool) -> Result<Box<str>, path::PathError> {
    if of_expressions && path.contains(['\\', '^', '$', '|', '?', '*', '+', '(', '[', '{']) {
        return if path.starts_with('/') {
            Ok(path.into())
        } else {
            Err(path::PathError::Relative)
        };
    }
    path::canonical(path).map(|it| it.path.into())
}

/// The hosts on which paths are regular expressions.
pub(super) fn hosts(ours: &[Ours<'_>], policy: &Policy) -> BTreeSet<HostPattern> {
    let mut hosts = BTreeSet::new();
    // No path is empty: whoever could make expressions is found.
    if !ours.iter().any(|it| switches(it, "")) {
        return hosts;
    }
    let mut owners: HashMap<HostPattern, &Ours<'_>> = HashMap::new();
    let mut rooted = BTreeSet::new();
    for it in ours {
        for rule in &it.ingress.rules {
            let Ok(host) = rule.host.parse::<HostPattern>() else { continue };
            let owner = *owners.entry(host.clone()).or_insert(it);
            if policy.strict_hosts && owner.name.namespace != it.name.namespace {
                continue;
            }
            for path in rule.paths.iter().flatten() {
                let path = if path.path.is_empty() { "/" } else { &*path.path };
                if path == "/" {
                    rooted.insert(host.clone());
                }
                if switches(it, path) {
                    hosts.insert(host.clone());
                }
            }
        }
    }
    // Where nobody has a rule for `/`, the owner of the host has.
    let implied =
        owners.into_iter().filter(|(host, it)| !rooted.contains(host) && switches(it, "/"));
    hosts.extend(implied.map(|(host, _)| host));
    hosts
}

/// Whether an Ingress makes the paths of a host expressions where it has this path. A target that is the
/// path itself rewrites nothing.
fn switches(ours: &Ours<'_>, path: &str) -> bool {
    ours.options.routing.as_ref().is_some_and(|it| {
        it.use_regex || it.rewrite.as_ref().is_some_and(|target| *target.text != *path)
    })
}

impl Host {
    /// Adds a path to those that are tried, where they are expressions.
    pub(super) fn try_location(&mut self, pattern: &PathPattern, location: Arc<Location>) {
        let one_challenge = pattern.is_exact() && is_challenge_path(pattern.as_str());
        if let Some(locations) = &mut self.locations
            && !one_challenge
        {
            locations.push((location, pattern.clone()));
        }
    }
}

/// Puts expressions in the order in which they are tried: the longest text first, of two as long the
/// later in the alphabet, of the same text the older.
pub(super) fn rank(plan: &mut Plan) {
    for host in plan.hosts.values_mut() {
        let Host { paths, locations: Some(locations), .. } = host else { continue };
        locations.sort_by(|(_, a), (_, b)| {
            let (a, b) = (a.as_str(), b.as_str());
            (b.len(), b).cmp(&(a.len(), a))
        });
        for (location, pattern) in locations {
            // Beside an exact path of the same text a plain prefix keeps what is below it.
            let PathPattern::Prefix(text) = &*pattern else { continue };
            let plain = paths.get(pattern).is_some_and(|it| {
                let regex = it.options.routing.as_ref().is_some_and(|it| it.use_regex);
                !regex && it.rewrite.is_none()
            });
            if plain && paths.contains_key(&PathPattern::Exact(text.clone())) {
                let below = format!("{}/", text.trim_end_matches('/'));
                *location = Location::parse(&below).map_or_else(|_| location.clone(), Arc::new);
            }
        }
    }
}
