//! All objects of a kind.

use std::collections::{BTreeMap, btree_map};
use std::ops::Deref;
use std::sync::Arc;

use super::name::ObjectName;

/// All objects of a kind by their names. Clones share them until one is changed, which copies the names first.
#[derive(Debug)]
pub struct ByName<T>(Arc<BTreeMap<ObjectName, Arc<T>>>);

impl<T> ByName<T> {
    /// Whether they are the very same, and not only alike.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds an object, or replaces the one of this name.
    pub fn insert(&mut self, name: ObjectName, object: Arc<T>) {
        Arc::make_mut(&mut self.0).insert(name, object);
    }

    /// Takes an object out, if it is there.
    pub fn remove(&mut self, name: &ObjectName) {
        if self.contains_key(name) {
            Arc::make_mut(&mut self.0).remove(name);
        }
    }

    /// Takes out all that `keep` says no to.
    pub fn retain(&mut self, keep: impl Fn(&ObjectName, &T) -> bool) {
        if !self.iter().all(|(name, it)| keep(name, it)) {
            Arc::make_mut(&mut self.0).retain(|name, it| keep(name, it));
        }
    }

    /// Each object, to be changed.
    pub fn values_mut(&mut self) -> btree_map::ValuesMut<'_, ObjectName, Arc<T>> {
        Arc::make_mut(&mut self.0).values_mut()
    }
}

impl<T> Clone for ByName<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> From<BTreeMap<ObjectName, Arc<T>>> for ByName<T> {
    fn from(all: BTreeMap<ObjectName, Arc<T>>) -> Self {
        Self(Arc::new(all))
    }
}

impl<T> Deref for ByName<T> {
    type Target = BTreeMap<ObjectName, Arc<T>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a, T> IntoIterator for &'a ByName<T> {
    type Item = (&'a ObjectName, &'a Arc<T>);
    type IntoIter = btree_map::Iter<'a, ObjectName, Arc<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_the_same_until_one_is_changed() {
        let name = |it: &str| ObjectName::new("a", it);
        let mut first = ByName::from(BTreeMap::from([(name("x"), Arc::new(1))]));
        let before = first.clone();
        first.remove(&name("y"));
        first.retain(|_, it| *it == 1);
        assert!(first.is(&before), "nothing was changed");
        first.insert(name("y"), Arc::new(2));
        assert!(!first.is(&before));
        assert_eq!((first.len(), before.len()), (2, 1));
        first.retain(|_, it| *it == 2);
        assert_eq!(first.keys().collect::<Vec<_>>(), [&name("y")]);
        first.remove(&name("y"));
        assert!(first.is_empty() && !before.is_empty());
    }
}
