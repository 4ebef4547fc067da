//! `--watch-namespace-selector`: objects of other namespaces are left out of snapshots.
//!
//! What flags and the settings name is read wherever it is, as in ingress-nginx: whoever gives the flags
//! has chosen it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::compile::config;
use crate::compile::objects::Objects;
use crate::model::name::{Kind, ObjectName};
use crate::model::problem::Problem;
use crate::model::selector::Selector;

/// Which namespaces count, and what counts in any.
#[expect(missing_docs, reason = "one field a kind")]
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What the labels of a namespace have to be like.
    pub selector: Selector,
    pub config_maps: BTreeSet<ObjectName>,
    /// With their endpoints.
    pub services: BTreeSet<ObjectName>,
    pub secrets: BTreeSet<ObjectName>,
}

impl Selection {
    /// Leaves out what is neither in one of these namespaces nor named by flags or settings.
    pub(super) fn narrow(&self, objects: &mut Objects, namespaces: &HashSet<Arc<str>>) {
        let counts = |it: &ObjectName| namespaces.contains(&*it.namespace);
        let mut maps = self.config_maps.clone();
        for settings in self.config_maps.iter().filter_map(|it| objects.config_maps.get(it)) {
            maps.extend(config::maps_named_by(settings));
        }
        objects.ingresses.retain(|it, _| counts(it));
        objects.services.retain(|it, _| counts(it) || self.services.contains(it));
        objects.slices.retain(|it, slice| {
            let service =
                || ObjectName { namespace: it.namespace.clone(), name: slice.service.clone() };
            counts(it) || !self.services.is_empty() && self.services.contains(&service())
        });
        objects.secrets.retain(|it, _| counts(it) || self.secrets.contains(it));
        objects.config_maps.retain(|it, _| counts(it) || maps.contains(it));
        if namespaces.is_empty() && !objects.unreadable.contains(&Kind::Namespace) {
            objects.problems.push(Problem {
                kind: Kind::Namespace,
                object: ObjectName::default(),
                reason: "NoNamespace",
                text: format!(
                    "no namespace has labels for --watch-namespace-selector={}: no Ingress is served",
                    self.selector
                ),
            });
        }
    }

    /// Of these namespaces, those that count; one without labels has only that of its name.
    pub(super) fn of<'a>(
        &self,
        namespaces: impl IntoIterator<Item = &'a Arc<str>>,
        labels: &BTreeMap<Arc<str>, BTreeMap<String, String>>,
    ) -> HashSet<Arc<str>> {
        /// Which no namespace lacks, and which nobody can set otherwise.
        const NAME: &str = "kubernetes.io/metadata.name";
        let namespaces: HashSet<&Arc<str>> = namespaces.into_iter().collect();
        let counts = |it: &&Arc<str>| {
            let mut labels = labels.get(&**it).cloned().unwrap_or_default();
            labels.insert(NAME.to_owned(), it.to_string());
            self.selector.matches(&labels)
        };
        namespaces.into_iter().filter(counts).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::objects::{ConfigMap, Slice};
    use crate::store::convert;
    use k8s_openapi::api::core::v1 as core;

    fn names(of: &[&str]) -> BTreeSet<ObjectName> {
        of.iter().map(|it| it.parse().expect("a name")).collect()
    }

    fn left<T>(of: &BTreeMap<ObjectName, T>) -> Vec<String> {
        of.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_flags_and_settings_name_counts_in_any_namespace() {
        let mut objects = Objects::default();
        let added = ConfigMap { data: [("add-headers".into(), " ops/headers".into())].into() };
        for name in names(&["in/a", "out/a", "ops/a", "ops/named", "ops/headers"]) {
            objects.ingresses.insert(name.clone(), Arc::default());
            objects.services.insert(name.clone(), Arc::default());
            let service = name.name.clone();
            let slice = Slice { service, ..Slice::default() };
            let slice_name = ObjectName::new(name.namespace.clone(), format!("{}-x", name.name));
            objects.slices.insert(slice_name, Arc::new(slice));
            let secret = Arc::new(convert::secret(core::Secret::default()));
            objects.secrets.insert(name.clone(), secret);
            let settings = &*name.name == "named";
            let map = if settings { added.clone() } else { ConfigMap::default() };
            objects.config_maps.insert(name, Arc::new(map));
        }
        objects.classes.insert(ObjectName::new("", "nginx"), Arc::default());
        let selection = Selection {
            selector: "a=b".parse().expect("a selector"),
            config_maps: names(&["ops/named"]),
            services: names(&["ops/named"]),
            secrets: names(&["ops/named"]),
        };
        let mut none = objects.clone();
        selection.narrow(&mut objects, &["in".into()].into());
        assert_eq!(left(&objects.ingresses), ["in/a"]);
        assert_eq!(left(&objects.classes), ["nginx"]);
        assert_eq!(left(&objects.services), ["in/a", "ops/named"]);
        assert_eq!(left(&objects.slices), ["in/a-x", "ops/named-x"]);
        assert_eq!(left(&objects.secrets), ["in/a", "ops/named"]);
        assert_eq!(left(&objects.config_maps), ["in/a", "ops/headers", "ops/named"]);
        assert_eq!(objects.problems, []);

        none.unreadable.insert(Kind::Namespace);
        selection.narrow(&mut none, &HashSet::new());
        assert_eq!((left(&none.ingresses), none.problems), (vec![], vec![]));
        none = Objects::default();
        selection.narrow(&mut none, &HashSet::new());
        assert_eq!(none.problems[0].reason, "NoNamespace");
    }

    #[test]
    fn a_namespace_without_labels_has_its_name() {
        let all: [Arc<str>; 3] = ["shop", "blog", "bare"].map(Into::into);
        let team = |it: &str| [("team".to_owned(), it.to_owned())].into();
        let labels = [(all[0].clone(), team("a")), (all[1].clone(), team("b"))].into();
        for (selector, expected) in [
            ("team=a", &["shop"][..]),
            ("team", &["blog", "shop"]),
            ("team!=a", &["bare", "blog"]),
            ("kubernetes.io/metadata.name in (bare,shop)", &["bare", "shop"]),
            ("team=c", &[]),
        ] {
            let selector = selector.parse().expect("a selector");
            let selection = Selection { selector, ..Selection::default() };
            let found = selection.of(&all, &labels);
            let found: BTreeSet<&str> = found.iter().map(|it| &**it).collect();
            assert_eq!(found, expected.iter().copied().collect(), "{}", selection.selector);
        }
    }
}
