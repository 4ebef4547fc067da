//! A ring on which keys lead to owners. When an owner comes or goes, only its own share of the keys changes
//! hands.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Points of each owner: shares then differ by about a tenth.
const POINTS: u64 = 100;

/// Owners by their points. The same in every replica that has the same owners.
#[derive(Debug, Default)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl<T: Hash> FromIterator<T> for Ring {
    fn from_iter<I: IntoIterator<Item = T>>(owners: I) -> Self {
        let owners = (0..).zip(owners);
        let mut points: Vec<(u64, u32)> = owners
            .flat_map(|(place, owner)| {
                (0..POINTS).map(move |number| (point(&owner, number), place))
            })
            .collect();
        points.sort_unstable();
        Self(points.into())
    }
}

impl Ring {
    /// The places of owners from a key on, each as often as it has points: the first is the key's.
    pub(super) fn owners(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < key);
        self.0[start..].iter().chain(&self.0[..start]).map(|(_, owner)| *owner as usize)
    }

    /// One of the keys that lead to the owner at a place, by chance.
    pub(super) fn key_of(&self, owner: &impl Hash, place: usize, random: u64) -> u64 {
        /// With up to some dozens of owners one of so many keys is theirs.
        const TRIES: u64 = 64;
        let tried = (0..TRIES).map(|it| hash(&(random, it)));
        let found = { tried }.find(|it| self.owners(*it).next() == Some(place));
        found.unwrap_or_else(|| point(owner, random % POINTS))
    }
}

fn point(owner: &impl Hash, number: u64) -> u64 {
    hash(&(owner, number))
}

/// A hash that is the same in every process of this build.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_owner_leads_to_it() {
        for many in [1_u32, 2, 7, 50] {
            let ring: Ring = (0..many).collect();
            for owner in 0..many {
                let place = usize::try_from(owner).expect("small");
                let keys = (0..200_u64).map(|it| ring.key_of(&owner, place, hash(&it)));
                let keys: std::collections::BTreeSet<u64> = keys.collect();
                assert!(keys.len() > 100, "{owner} of {many}: {} keys", keys.len());
                for key in keys {
                    assert_eq!(ring.owners(key).next(), Some(place), "{key} of {many}");
                }
            }
        }
    }

    #[test]
    fn a_new_owner_takes_its_share_of_all_keys() {
        let three: Ring = (0..3).collect();
        let four: Ring = (0..4).collect();
        let mut moved = 0;
        for number in 0..3000_u64 {
            let place = usize::try_from(number % 3).expect("small");
            let owner = i32::try_from(place).expect("small");
            let key = three.key_of(&owner, place, hash(&number));
            match four.owners(key).next() {
                Some(3) => moved += 1,
                other => assert_eq!(other, Some(place), "{key}"),
            }
        }
        assert!((500..1000).contains(&moved), "{moved} of 3000");
    }

    #[test]
    fn nobody_owns_an_empty_ring() {
        let ring = Ring::default();
        assert_eq!(ring.owners(7).next(), None);
        let _ = ring.key_of(&1, 0, 7);
    }
}
