//! Routes by host and path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;

use super::WayId;
use super::policies::PolicyId;
use crate::model::client_tls::HostTls;
use crate::model::host::{HostPattern, parent};
use crate::model::location::Location;
use crate::model::path::PathPattern;
use crate::model::pattern::Pattern;
use crate::model::phrase::Phrase;
use crate::model::plan::{Host, Route};
use crate::model::routing::Alias;

/// All hosts. One look-up costs a hash of the host and one of each element of the path, however many
/// routes there are. The hash need not withstand chosen keys: objects give them, clients only ask.
///
/// Where paths are regular expressions it costs a comparison for each whose beginning is another one, and
/// the expressions that are left until one takes the path.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    wildcard: HashMap<Box<str>, Paths>,
    /// Hosts whose names are regular expressions, in the order of the hosts they are other names of.
    patterns: Vec<(Pattern, Paths)>,
    any: Option<Paths>,
    /// Whether TLS of any host is handed on.
    hands_on: bool,
}

/// The paths of one host.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Whether one of its Ingresses asks us for a certificate.
    pub acme: bool,
    /// Where `/` is redirected to.
    pub app_root: Option<Arc<Phrase>>,
    /// The host to which everything is redirected, of a name without rules of its own.
    pub moved: Option<Box<str>>,
    /// The policy of handshakes for it.
    pub policy: PolicyId,
    /// What it asks of clients in TLS.
    pub client_tls: Option<Arc<HostTls>>,
    /// Where its TLS is handed on to as it is.
    pub through: Option<WayId>,
    exact: HashMap<Box<str>, WayId>,
    /// In the order in which they are tried, where paths are regular expressions; then `prefix` is empty.
    locations: Option<Vec<(Arc<Location>, WayId)>>,
    /// By the path without its trailing slash: the rule written without one, and the one with.
    prefix: HashMap<Box<str>, Prefix>,
}

#[derive(Clone, Debug, Default)]
struct Prefix {
    bare: Option<WayId>,
    slashed: Option<WayId>,
}

/// What of a host's name its paths are found by.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// The whole name.
    Name,
    /// All but its first label.
    Wildcard(&'a str),
    /// A regular expression that finds something in it.
    Pattern(&'a Pattern),
    /// Nothing: they are for any host.
    Any,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match {
    /// A rule that names this very path.
    Exact(WayId),
    /// The longest prefix.
    Prefix(WayId),
    /// The first regular expression that takes it.
    Expression(WayId),
    /// Only `/a/` is there and `/a` was asked: nginx answers 301 with the slash added.
    Slash(WayId),
}

impl Table {
    pub(super) fn new(
        hosts: &BTreeMap<HostPattern, Host>,
        policy: &mut impl FnMut(&Host) -> PolicyId,
        way: &mut impl FnMut(&Arc<Route>) -> WayId,
    ) -> Self {
        let mut table = Self::default();
        for (pattern, host) in hosts {
            let policy = policy(host);
            let paths = Paths::new(host, policy, way);
            table.hands_on |= paths.through.is_some();
            for (alias, secure) in &host.aliases {
                // Without a certificate for it nobody is sent to HTTPS, unless by force.
                let paths =
                    if *secure { paths.clone() } else { Paths::new(&host.insecure(), policy, way) };
                match alias {
                    Alias::Host(name) => table.add(name, paths),
                    Alias::Pattern(name) => table.patterns.push((name.clone(), paths)),
                }
            }
            if let (Some(from), HostPattern::Exact(to)) = (&host.www, pattern) {
                table.exact.insert(from.clone(), Paths::moved(to, host.acme));
            }
            table.add(pattern, paths);
        }
        table
    }

    fn add(&mut self, pattern: &HostPattern, paths: Paths) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name.clone(), paths)),
            HostPattern::Wildcard(name) => drop(self.wildcard.insert(name.clone(), paths)),
            HostPattern::Any => self.any = Some(paths),
        }
    }

    /// The paths of a host, lower-cased and without its port: of the host itself, else of the wildcard
    /// above it, else of a pattern in which it is found, else of rules without a host.
    pub fn host(&self, name: &str) -> Option<&Paths> {
        self.named(name).or(self.any.as_ref())
    }

    /// The same, and by what they were found.
    pub fn found(&self, name: &str) -> Option<(By<'_>, &Paths)> {
        self.found_by(name).or_else(|| Some((By::Any, self.any.as_ref()?)))
    }

    /// Whether TLS of any host is handed on as it is.
    pub fn hands_on(&self) -> bool {
        self.hands_on
    }

    /// The paths of a host, without those of rules for any host.
    pub fn named(&self, name: &str) -> Option<&Paths> {
        self.found_by(name).map(|(_, it)| it)
    }

    fn found_by(&self, name: &str) -> Option<(By<'_>, &Paths)> {
        let wildcard = || {
            let (above, paths) = self.wildcard.get_key_value(parent(name)?)?;
            Some((By::Wildcard(above), paths))
        };
        let pattern = || {
            let (pattern, paths) = self.patterns.iter().find(|(it, _)| it.is_match(name))?;
            Some((By::Pattern(pattern), paths))
        };
        let exact = self.exact.get(name).map(|it| (By::Name, it));
        exact.or_else(wildcard).or_else(pattern)
    }
}

impl Host {
    /// The same for a name that its certificate is not for.
    fn insecure(&self) -> Self {
        let mut host = self.clone();
        for route in host.paths.values_mut().filter(|it| it.to_https) {
            if !route.options.force_ssl_redirect {
                Arc::make_mut(route).to_https = false;
            }
        }
        host
    }
}

impl Paths {
    fn new(host: &Host, policy: PolicyId, way: &mut impl FnMut(&Arc<Route>) -> WayId) -> Self {
        let client_tls = host.paths.values().next().and_then(|it| it.client_tls.clone());
        let mut paths = Self {
            acme: host.acme,
            policy,
            client_tls,
            through: None,
            app_root: host.app_root.clone(),
            moved: None,
            exact: HashMap::default(),
            locations: None,
            prefix: HashMap::default(),
        };
        if let Some(locations) = &host.locations {
            let ways: BTreeMap<_, _> =
                host.paths.iter().map(|(it, route)| (it, way(route))).collect();
            let found =
                |(it, pattern): &(Arc<Location>, _)| Some((it.clone(), *ways.get(pattern)?));
            let tried: BTreeSet<_> = locations.iter().map(|(_, pattern)| pattern).collect();
            paths.locations = Some(locations.iter().filter_map(found).collect());
            for (pattern, way) in ways {
                if let PathPattern::Exact(path) = pattern
                    && !tried.contains(pattern)
                {
                    paths.exact.insert(path.clone(), way);
                }
            }
            return paths;
        }
        for (pattern, route) in &host.paths {
            match pattern {
                PathPattern::Exact(path) => drop(paths.exact.insert(path.clone(), way(route))),
                PathPattern::Prefix(path) => {
                    let bare = path.strip_suffix('/');
                    let entry = paths.prefix.entry(bare.unwrap_or(path).into()).or_default();
                    let place = if bare.is_some() { &mut entry.slashed } else { &mut entry.bare };
                    *place = Some(way(route));
                }
            }
        }
        if paths.client_tls.as_deref() == Some(&HostTls::Through) {
            paths.through = paths.prefix.get("").and_then(|it| it.slashed);
        }
        paths
    }

    /// A name whose requests are redirected to a host.
    fn moved(to: &str, acme: bool) -> Self {
        Self {
            acme,
            policy: PolicyId::OPEN,
            client_tls: None,
            through: None,
            app_root: None,
            moved: Some(to.into()),
            exact: HashMap::default(),
            locations: None,
            prefix: HashMap::default(),
        }
    }

    /// What a canonical path leads to: an exact rule, else the longest prefix of whole elements, so
    /// that `/badge` covers `/badge` and `/badge/x` and not `/badges`. Where paths are regular
    /// expressions: the first that takes it.
    pub fn find(&self, path: &str) -> Option<Match> {
        if let Some(way) = self.exact.get(path) {
            return Some(Match::Exact(*way));
        }
        if let Some(locations) = &self.locations {
            if path.len() > Pattern::LONGEST_PATH {
                return None;
            }
            let (_, way) = locations.iter().find(|(it, _)| it.takes(path))?;
            return Some(Match::Expression(*way));
        }
        if !path.ends_with('/')
            && let Some(Prefix { bare, slashed }) = self.prefix.get(path)
        {
            return bare.map(Match::Prefix).or(slashed.map(Match::Slash));
        }
        let mut rest = path;
        while let Some(slash) = rest.rfind('/') {
            rest = &rest[..slash];
            if let Some(prefix) = self.prefix.get(rest) {
                return prefix.slashed.or(prefix.bare).map(Match::Prefix);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::ObjectName;
    use crate::model::plan::Target;

    /// Paths whose ways are numbered in the order of the patterns.
    struct Numbered(Paths, Vec<String>);

    impl Numbered {
        fn new(host: &Host) -> Self {
            let mut names = Vec::new();
            let paths = Paths::new(host, PolicyId::OPEN, &mut |route| {
                names.push(route.path.to_string());
                WayId(u32::try_from(names.len() - 1).expect("few routes"))
            });
            Self(paths, names)
        }
    }

    fn paths(patterns: &[PathPattern]) -> Numbered {
        Numbered::new(&host(patterns))
    }

    fn host(patterns: &[PathPattern]) -> Host {
        let mut host = Host::new(ObjectName::default());
        host.paths = patterns.iter().map(|it| (it.clone(), route(&it.to_string()))).collect();
        host
    }

    fn route(path: &str) -> Arc<Route> {
        let (name, options) = (ObjectName::default(), Arc::default());
        Arc::new(Route::new(name, &HostPattern::Any, path, Target::Nothing, options))
    }

    fn found<'a>(Numbered(paths, names): &'a Numbered, path: &str) -> Option<&'a str> {
        paths.find(path).map(|it| match it {
            Match::Exact(way) | Match::Prefix(way) | Match::Expression(way) => {
                &*names[way.0 as usize]
            }
            Match::Slash(_) => "301",
        })
    }

    #[test]
    fn longest_prefix_of_whole_elements_wins() {
        let paths = paths(&[
            PathPattern::Prefix("/".into()),
            PathPattern::Prefix("/badge".into()),
            PathPattern::Prefix("/registry/v2".into()),
            PathPattern::Exact("/current".into()),
        ]);
        for (path, expected) in [
            ("/", "/"),
            ("/badge", "/badge"),
            ("/badge/", "/badge"),
            ("/badge/build.svg", "/badge"),
            ("/badges", "/"),
            ("/registry/v2/library", "/registry/v2"),
            ("/registry/v3", "/"),
            ("/current", "=/current"),
            ("/current/", "/"),
        ] {
            assert_eq!(found(&paths, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_missing_slash_is_added_as_nginx_does() {
        let paths = paths(&[
            PathPattern::Prefix("/".into()),
            PathPattern::Prefix("/a/".into()),
            PathPattern::Exact("/e/".into()),
            PathPattern::Prefix("/b/".into()),
            PathPattern::Exact("/b".into()),
        ]);
        for (path, expected) in
            [("/a", "301"), ("/a/", "/a/"), ("/a/x", "/a/"), ("/e", "/"), ("/b", "=/b")]
        {
            assert_eq!(found(&paths, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn the_first_expression_that_takes_a_path_has_it() {
        let patterns =
            ["/id/[0-9]+", "/a.c", "/", "/never"].map(|it| PathPattern::Prefix(it.into()));
        let token = "/.well-known/acme-challenge/token";
        let mut host = host(&patterns);
        let solver = PathPattern::Exact(token.into());
        host.paths.insert(solver, route("solver"));
        let location = |it: &PathPattern| Location::parse(it.as_str()).expect("a location").into();
        host.locations = Some(patterns.iter().map(|it| (location(it), it.clone())).collect());
        let paths = Numbered::new(&host);
        for (path, expected) in [
            ("/ID/1x", "/id/[0-9]+"),
            ("/id/x", "/"),
            ("/abcd", "/a.c"),
            ("/never", "/"),
            (token, "solver"),
            ("/.well-known/acme-challenge/token2", "/"),
        ] {
            assert_eq!(found(&paths, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn without_a_root_nothing_is_found() {
        let paths = paths(&[PathPattern::Prefix("/a".into())]);
        assert_eq!(found(&paths, "/b"), None);
        assert_eq!(found(&paths, "/"), None);
    }
}
