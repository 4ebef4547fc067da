//! Values that many objects have alike, each kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Hands out one copy of equal values, as long as anybody has it.
///
/// Ten thousand Secrets of one CA repeat its certificates, and objects the name of their namespace. What
/// nobody has any more goes when there are twice as many as were in use at the last look.
#[derive(Debug)]
pub struct Common<T: ?Sized>(Mutex<Known<T>>);

#[derive(Debug)]
struct Known<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// How many there may be before they are looked through.
    most: usize,
}

impl<T: ?Sized + Eq + Hash> Common<T> {
    /// Fewer are not looked through.
    const FEW: usize = 64;

    /// The copy that all have.
    pub fn of(&self, value: impl Into<Arc<T>>) -> Arc<T> {
        let value = value.into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.values.get(&value) {
            return found.clone();
        }
        if known.values.len() >= known.most {
            known.values.retain(|it| Arc::strong_count(it) > 1);
            known.most = Self::FEW.max(2 * known.values.len());
        }
        known.values.insert(value.clone());
        value
    }
}

impl<T: ?Sized + Eq + Hash> Default for Common<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { values: HashSet::new(), most: Self::FEW }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let common = Common::<str>::default();
        let [first, again, other] = ["a", "a", "b"].map(|it| common.of(it));
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
        assert_eq!((&*first, &*other), ("a", "b"));
    }

    #[test]
    fn what_nobody_has_goes() {
        let common = Common::<str>::default();
        let kept: Vec<_> = (0..100).map(|it| common.of(it.to_string())).collect();
        for number in 0..10_000 {
            let _ = common.of(number.to_string());
            let known = common.0.lock().expect("no panic").values.len();
            assert!(known <= 2 * (kept.len() + 1), "{known} after {number}");
        }
        assert!(kept.iter().all(|it| Arc::ptr_eq(it, &common.of(it.clone()))));
    }
}
