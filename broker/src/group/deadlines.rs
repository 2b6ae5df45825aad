//! Deadlines in order, one per key.
//!
//! Owns the order only; whoever asks says what time it is. Used within a group (sessions, join phase, sync phase) and
//! across groups (each group's earliest).

use std::collections::{BTreeMap, BTreeSet};

/// One deadline per key, in ms since the epoch, the earliest first. Equal deadlines come in the order of the keys.
#[derive(Debug, Clone)]
pub struct Deadlines<K> {
    by_key: BTreeMap<K, i64>,
    ordered: BTreeSet<(i64, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { by_key: BTreeMap::new(), ordered: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at_ms: i64) {
        if let Some(old) = self.by_key.insert(key.clone(), at_ms) {
            self.ordered.remove(&(old, key.clone()));
        }
        self.ordered.insert((at_ms, key));
    }

    /// Forgets the deadline of `key`, if there is one.
    pub fn cancel(&mut self, key: &K) {
        if let Some(old) = self.by_key.remove(key) {
            self.ordered.remove(&(old, key.clone()));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<i64> {
        self.ordered.first().map(|(at, _)| *at)
    }

    /// Takes the earliest deadline that is not after `now_ms`.
    pub fn pop_due(&mut self, now_ms: i64) -> Option<K> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, key) = self.ordered.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// Forgets every key that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.by_key.retain(|key, _| keep(key));
        self.ordered.retain(|(_, key)| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_deadline_and_the_earliest_comes_first() {
        let mut deadlines = Deadlines::default();
        deadlines.set("a", 10);
        deadlines.set("b", 5);
        deadlines.set("a", 3);
        deadlines.set("c", 4);
        deadlines.cancel(&"c");
        assert_eq!(deadlines.next(), Some(3));
        assert_eq!(deadlines.pop_due(4), Some("a"));
        assert_eq!(deadlines.pop_due(4), None, "b is due at 5");
        assert_eq!(deadlines.pop_due(5), Some("b"));
        assert_eq!(deadlines.next(), None);
        deadlines.set("a", 1);
        deadlines.set("b", 2);
        deadlines.retain(|key| *key == "b");
        assert_eq!((deadlines.next(), deadlines.pop_due(9), deadlines.pop_due(9)), (Some(2), Some("b"), None));
    }
}
