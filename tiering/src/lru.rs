//! A map with a budget: what was not used for longest leaves first.
//!
//! Owns: order and weight. Does not own: locking, what a value is.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    values: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
    weight: u64,
    budget: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    weight: u64,
    used: u64,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    pub(crate) fn new(budget: u64) -> Lru<K, V> {
        Lru { values: HashMap::new(), by_use: BTreeMap::new(), uses: 0, weight: 0, budget }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.values.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.by_use.insert(slot.used, *key);
        Some(&mut slot.value)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// Returns what had to leave, the value that had the key before included. The newest value always stays.
    pub(crate) fn insert(&mut self, key: K, value: V, weight: u64) -> Vec<(K, V)> {
        let mut left: Vec<(K, V)> = self.remove(&key).map(|old| (key, old)).into_iter().collect();
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.values.insert(key, Slot { value, weight, used: self.uses });
        self.weight += weight;
        while self.weight > self.budget && self.values.len() > 1 {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = *oldest;
            left.extend(self.remove(&oldest).map(|value| (oldest, value)));
        }
        left
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.values.remove(key)?;
        self.by_use.remove(&slot.used);
        self.weight -= slot.weight;
        Some(slot.value)
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut lru = Lru::new(3);
        for key in 0..3 {
            assert!(lru.insert(key, key, 1).is_empty());
        }
        assert_eq!(lru.get(&0), Some(&mut 0));
        assert_eq!(lru.insert(3, 3, 1), vec![(1, 1)]);
        assert_eq!(lru.insert(9, 9, 10).len(), 3, "one too heavy for the budget stays alone");
        assert!(lru.contains(&9));
        assert_eq!(lru.weight(), 10);
    }
}
