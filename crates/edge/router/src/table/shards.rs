//! A map that is cheap to copy, and of which a change copies little.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

/// Parts of which a change copies one: of 10,000 entries some eighty.
const SHARDS: usize = 128;

/// A hash map in parts that copies share until one of them changes.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    hasher: RandomState,
    parts: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), parts: vec![Arc::default(); SHARDS], len: 0 }
    }
}

impl<K: Hash + Eq, V> Shards<K, V> {
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts[self.part(key)].get(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.parts.iter().flat_map(|part| part.keys())
    }

    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        let part = self.part(&key);
        if Arc::make_mut(&mut self.parts[part]).insert(key, value).is_none() {
            self.len += 1;
        }
    }

    /// The value of a key, made when there is none.
    pub(super) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let part = self.part(&key);
        let part = Arc::make_mut(&mut self.parts[part]);
        if !part.contains_key(&key) {
            self.len += 1;
        }
        part.entry(key).or_default()
    }

    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let part = self.part(key);
        Arc::make_mut(&mut self.parts[part]).get_mut(key)
    }

    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let part = self.part(key);
        let removed = Arc::make_mut(&mut self.parts[part]).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_a_map_and_copies_stay_as_they_were(
            steps in proptest::collection::vec((0..40_u8, proptest::option::of(0..9_u32)), 0..200),
        ) {
            let (mut shards, mut model) = (Shards::<u8, u32>::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (key, value) in steps {
                copies.push((shards.clone(), model.clone()));
                match value {
                    Some(value) if value % 2 == 0 => {
                        *shards.entry(key) = value;
                        model.insert(key, value);
                    }
                    Some(value) => {
                        shards.insert(key, value);
                        model.insert(key, value);
                    }
                    None => proptest::prop_assert_eq!(shards.remove(&key), model.remove(&key)),
                }
            }
            copies.push((shards, model));
            for (shards, model) in copies {
                proptest::prop_assert_eq!((shards.len(), shards.is_empty()), (model.len(), model.is_empty()));
                let found: BTreeMap<u8, u32> = shards.keys().map(|key| (*key, *shards.get(key).unwrap())).collect();
                proptest::prop_assert_eq!(found, model);
            }
        }
    }
}
