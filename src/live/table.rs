//! Routes by host and path.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;

use super::WayId;
use super::policies::PolicyId;
use crate::model::client_tls::HostTls;
use crate::model::host::{HostPattern, parent};
use crate::model::path::PathPattern;
use crate::model::plan::{Host, Route};

/// All hosts. One look-up costs a hash of the host and one of each element of the path, however many
/// routes there are. The hash need not withstand chosen keys: objects give them, clients only ask.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    wildcard: HashMap<Box<str>, Paths>,
    any: Option<Paths>,
    /// Whether TLS of any host is handed on.
    hands_on: bool,
}

/// The paths of one host.
#[derive(Debug)]
pub struct Paths {
    /// Whether one of its Ingresses asks us for a certificate.
    pub acme: bool,
    /// The policy of handshakes for it.
    pub policy: PolicyId,
    /// What it asks of clients in TLS.
    pub client_tls: Option<Arc<HostTls>>,
    /// Where its TLS is handed on to as it is.
    pub through: Option<WayId>,
    exact: HashMap<Box<str>, WayId>,
    /// By the path without its trailing slash: the rule written without one, and the one with.
    prefix: HashMap<Box<str>, Prefix>,
}

#[derive(Debug, Default)]
struct Prefix {
    bare: Option<WayId>,
    slashed: Option<WayId>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match {
    /// A rule that names this very path.
    Exact(WayId),
    /// The longest prefix.
    Prefix(WayId),
    /// Only `/a/` is there and `/a` was asked: nginx answers 301 with the slash added.
    Slash,
}

impl Table {
    pub(super) fn new(
        hosts: &BTreeMap<HostPattern, Host>,
        policy: &mut impl FnMut(&Host) -> PolicyId,
        way: &mut impl FnMut(&Arc<Route>) -> WayId,
    ) -> Self {
        let mut table = Self::default();
        for (pattern, host) in hosts {
            let paths = Paths::new(host, policy(host), way);
            table.hands_on |= paths.through.is_some();
            match pattern {
                HostPattern::Exact(name) => drop(table.exact.insert(name.clone(), paths)),
                HostPattern::Wildcard(name) => drop(table.wildcard.insert(name.clone(), paths)),
                HostPattern::Any => table.any = Some(paths),
            }
        }
        table
    }

    /// The paths of a host, lower-cased and without its port: of the host itself, else of the wildcard
    /// above it, else of rules without a host.
    pub fn host(&self, name: &str) -> Option<&Paths> {
        self.named(name).or(self.any.as_ref())
    }

    /// Whether TLS of any host is handed on as it is.
    pub fn hands_on(&self) -> bool {
        self.hands_on
    }

    /// The paths of a host, without those of rules for any host.
    pub fn named(&self, name: &str) -> Option<&Paths> {
        self.exact.get(name).or_else(|| self.wildcard.get(parent(name)?))
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
            exact: HashMap::default(),
            prefix: HashMap::default(),
        };
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

    /// What a canonical path leads to: an exact rule, else the longest prefix of whole elements, so
    /// that `/badge` covers `/badge` and `/badge/x` and not `/badges`.
    pub fn find(&self, path: &str) -> Option<Match> {
        if let Some(way) = self.exact.get(path) {
            return Some(Match::Exact(*way));
        }
        if !path.ends_with('/')
            && let Some(prefix) = self.prefix.get(path)
        {
            return Some(prefix.bare.map_or(Match::Slash, Match::Prefix));
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
    use crate::model::options::Options;
    use crate::model::plan::Target;

    /// Paths whose ways are numbered in the order of the patterns.
    struct Numbered(Paths, Vec<String>);

    fn paths(patterns: &[PathPattern]) -> Numbered {
        let route = |path: &str| {
            let options = Arc::new(Options::default());
            Arc::new(Route::new(
                ObjectName::default(),
                &HostPattern::Any,
                path,
                Target::Nothing,
                options,
            ))
        };
        let host = Host {
            owner: ObjectName::default(),
            acme: false,
            tls: false,
            paths: patterns.iter().map(|it| (it.clone(), route(&it.to_string()))).collect(),
        };
        let mut names = Vec::new();
        let paths = Paths::new(&host, PolicyId::OPEN, &mut |route| {
            names.push(route.path.to_string());
            WayId(u32::try_from(names.len() - 1).expect("few routes"))
        });
        Numbered(paths, names)
    }

    fn found<'a>(Numbered(paths, names): &'a Numbered, path: &str) -> Option<&'a str> {
        paths.find(path).map(|it| match it {
            Match::Exact(way) | Match::Prefix(way) => &*names[way.0 as usize],
            Match::Slash => "301",
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
    fn without_a_root_nothing_is_found() {
        let paths = paths(&[PathPattern::Prefix("/a".into())]);
        assert_eq!(found(&paths, "/b"), None);
        assert_eq!(found(&paths, "/"), None);
    }
}
