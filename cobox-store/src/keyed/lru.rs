//! Values that were used lately, bounded by what they weigh.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What an entry takes beside its value, with keys as long as a chunk's name: the key twice, and the two maps.
pub(super) const ENTRY_BYTES: usize = 320;

/// Least recently used goes first.
pub(super) struct Lru<K, V> {
    values: HashMap<K, Entry<V>>,
    order: BTreeMap<u64, K>,
    weight: usize,
    weight_max: usize,
    next: u64,
}

struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    pub(super) fn new(weight_max: usize) -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), weight: 0, weight_max, next: 0 }
    }

    pub(super) fn has(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// The value, which counts as used now.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.values.get_mut(key)?;
        self.order.remove(&entry.used);
        entry.used = self.next;
        self.order.insert(self.next, *key);
        self.next += 1;
        Some(entry.value.clone())
    }

    /// Keeps a value; forgets others where all weigh too much.
    pub(super) fn put(&mut self, key: K, value: V, weight: usize) {
        let entry = Entry { value, weight, used: self.next };
        self.order.insert(self.next, key);
        self.next += 1;
        self.weight += weight;
        if let Some(old) = self.values.insert(key, entry) {
            self.order.remove(&old.used);
            self.weight -= old.weight;
        }
        while self.weight > self.weight_max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(old) = self.values.remove(&oldest) {
                self.weight -= old.weight;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_over_the_bound_forget_the_least_recently_used() {
        let mut lru = Lru::new(250);
        lru.put(1, "a", 100);
        lru.put(2, "b", 100);
        assert_eq!(lru.get(&1), Some("a"));
        lru.put(3, "c", 100);
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some("a"), None, Some("c")));
        lru.put(3, "d", 10);
        assert_eq!((lru.weight(), lru.get(&3)), (110, Some("d")));
        lru.put(4, "e", 300);
        assert_eq!((lru.weight(), lru.has(&1), lru.has(&4)), (0, false, false));
    }
}
