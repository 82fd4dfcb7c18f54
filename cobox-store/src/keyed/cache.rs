//! Opened chunks that were read lately, bounded in bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::content::ChunkRef;
use crate::format::pack::ChunkType;

/// Opened chunks kept per folder: a few seconds of sequential reading, small beside a browser tab.
pub(super) const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

type Key = (ChunkRef, ChunkType);

/// Least recently used goes first.
pub(super) struct ChunkCache {
    state: Mutex<State>,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    chunks: HashMap<Key, (Arc<[u8]>, u64)>,
    order: BTreeMap<u64, Key>,
    bytes: usize,
    next: u64,
}

impl ChunkCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), bytes_max }
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<[u8]>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (plain, used) = state.chunks.get_mut(&key)?;
        state.order.remove(used);
        *used = state.next;
        state.order.insert(state.next, key);
        state.next += 1;
        Some(plain.clone())
    }

    pub(super) fn put(&self, key: Key, plain: &Arc<[u8]>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let used = state.next;
        state.next += 1;
        if let Some((old, was)) = state.chunks.insert(key, (plain.clone(), used)) {
            state.order.remove(&was);
            state.bytes -= old.len();
        }
        state.order.insert(used, key);
        state.bytes += plain.len();
        while state.bytes > self.bytes_max {
            let Some((_, oldest)) = state.order.pop_first() else { break };
            if let Some((old, _)) = state.chunks.remove(&oldest) {
                state.bytes -= old.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChunkTag, EpochId};

    fn key(at: u8) -> Key {
        (ChunkRef { epoch: EpochId([0; 32]), tag: ChunkTag([at; 32]) }, ChunkType::Data)
    }

    #[test]
    fn cache_over_its_bound_forgets_the_least_recently_used() {
        let cache = ChunkCache::new(250);
        let plain: Arc<[u8]> = vec![0; 100].into();
        cache.put(key(1), &plain);
        cache.put(key(2), &plain);
        assert!(cache.get(key(1)).is_some());
        cache.put(key(3), &plain);
        assert!(cache.get(key(2)).is_none());
        assert!(cache.get(key(1)).is_some() && cache.get(key(3)).is_some());
        cache.put(key(3), &plain);
        assert_eq!(cache.state.lock().bytes, 200);
    }
}
