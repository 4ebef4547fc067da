//! The ConfigMap of `--configmap` stays as it was last seen when it is deleted: what it protects would be
//! open at once. ingress-nginx, too, goes on with the last one.

use std::sync::Arc;

use crate::compile::objects::{ConfigMap, Objects};
use crate::model::name::ObjectName;

/// The ConfigMap as it was last seen, for as long as the process lives.
#[derive(Debug)]
pub struct LastSeen {
    name: Option<ObjectName>,
    map: Option<Arc<ConfigMap>>,
}

impl LastSeen {
    /// Nothing was seen yet; `name` is that of `--configmap`.
    pub fn new(name: Option<ObjectName>) -> Self {
        Self { name, map: None }
    }

    /// Puts the ConfigMap back into a snapshot from which it is gone.
    pub fn complete(&mut self, objects: Arc<Objects>) -> Arc<Objects> {
        let Some(name) = &self.name else { return objects };
        if let Some(map) = objects.config_maps.get(name) {
            self.map = Some(map.clone());
            return objects;
        }
        let Some(map) = &self.map else { return objects };
        let mut completed = Arc::unwrap_or_clone(objects);
        completed.config_maps.insert(name.clone(), map.clone());
        completed.settings_gone = true;
        completed.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Policy, compile};
    use crate::model::name::Kind;

    #[test]
    fn what_was_seen_holds_when_it_is_gone() {
        let name = ObjectName::new("lockgate", "lockgate");
        let policy = Policy { config_map: Some(name.clone()), ..Policy::default() };
        let mut last = LastSeen::new(policy.config_map.clone());
        let problem = Some("ConfigMap");
        for (case, range, blocks, told) in [
            ("never there", None, false, problem),
            ("there", Some("192.0.2.0/24"), true, None),
            ("gone", None, true, problem),
            ("still gone", None, true, problem),
            ("back and empty", Some(""), false, None),
            ("gone again", None, false, problem),
        ] {
            let mut objects = Objects::default();
            if let Some(range) = range {
                let data = [("block-cidrs".into(), range.into())].into();
                objects.config_maps.insert(name.clone(), ConfigMap { data }.into());
            }
            let (plan, problems) = compile(&last.complete(objects.into()), &policy);
            assert_eq!(plan.settings.access.blocked.is_some(), blocks, "{case}");
            let found = problems.iter().find(|it| it.kind == Kind::ConfigMap);
            assert_eq!(found.map(|it| it.reason), told, "{case}: {problems:?}");
        }
    }

    #[test]
    fn nothing_is_kept_that_no_flag_names() {
        let mut last = LastSeen::new(None);
        let mut objects = Objects::default();
        let name = ObjectName::new("lockgate", "lockgate");
        objects.config_maps.insert(name, Arc::default());
        last.complete(objects.into());
        assert!(last.complete(Arc::default()).config_maps.is_empty());
    }
}
