//! Values that many objects have alike, each kept once.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Hands out one copy of equal values, as long as anybody has it.
///
/// Ten thousand Secrets of one CA repeat its certificates, and objects the name of their namespace. What a
/// value holds goes with the last who has it; its place here when there are twice as many as were in use at the
/// last look.
#[derive(Debug)]
pub struct Common<T: ?Sized> {
    known: Mutex<Known<T>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Known<T: ?Sized> {
    /// By their hashes; of two with one hash the newer.
    values: HashMap<u64, Weak<T>>,
    /// How many there may be before they are looked through.
    most: usize,
}

impl<T: ?Sized + Eq + Hash> Common<T> {
    /// Fewer are not looked through.
    const FEW: usize = 64;

    /// The copy that all have.
    pub fn of(&self, value: impl Into<Arc<T>>) -> Arc<T> {
        let value = value.into();
        let hash = self.hasher.hash_one(&*value);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.values.get(&hash).and_then(Weak::upgrade);
        if let Some(found) = found.filter(|it| *it == value) {
            return found;
        }
        if known.values.len() >= known.most {
            known.values.retain(|_, it| it.strong_count() > 0);
            known.most = Self::FEW.max(2 * known.values.len());
        }
        known.values.insert(hash, Arc::downgrade(&value));
        value
    }
}

impl<T: ?Sized> Default for Common<T> {
    fn default() -> Self {
        let known = Known { values: HashMap::new(), most: 0 };
        Self { known: Mutex::new(known), hasher: RandomState::new() }
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
        let common = Common::<Vec<u8>>::default();
        let kept: Vec<_> = (0..100_u8).map(|it| common.of(vec![it])).collect();
        for number in 0..10_000_u32 {
            let value = common.of(number.to_be_bytes().to_vec());
            let gone = Arc::downgrade(&value);
            drop(value);
            assert!(gone.upgrade().is_none(), "{number} is kept");
            let known = common.known.lock().expect("no panic").values.len();
            assert!(known <= 2 * kept.len(), "{known} after {number}");
        }
        assert!(kept.iter().all(|it| Arc::ptr_eq(it, &common.of(it.clone()))));
    }
}
