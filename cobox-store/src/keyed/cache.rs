//! Opened chunks that were read lately, bounded in bytes. A chunk that two readers want at once is opened
//! by one of them, and the other waits for it.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use super::lru::{ENTRY_BYTES, Lru};
use super::plain::Plain;
use crate::error::Result;
use crate::format::content::ChunkRef;
use crate::format::pack::ChunkType;

/// Opened chunks kept per folder: a few seconds of sequential reading, small beside a browser tab.
pub(super) const CACHE_BYTES_MAX: usize = 60 * 1024 * 1024;

type Key = (ChunkRef, ChunkType);

/// Least recently used goes first.
pub(super) struct ChunkCache {
    state: Mutex<State>,
    opened: Condvar,
}

struct State {
    chunks: Lru<Key, Plain>,
    opening: HashSet<Key>,
}

impl ChunkCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        let state = State { chunks: Lru::new(bytes_max), opening: HashSet::new() };
        Self { state: Mutex::new(state), opened: Condvar::new() }
    }

    /// The chunk, where it is in the cache.
    pub(super) fn get(&self, key: &Key) -> Option<Plain> {
        self.state.lock().chunks.get(key)
    }

    /// Whether the chunk is in the cache, or somebody opens it.
    pub(super) fn expects(&self, key: &Key) -> bool {
        let state = self.state.lock();
        state.chunks.has(key) || state.opening.contains(key)
    }

    /// The chunk from the cache, or what `open` makes of it. Nothing is kept of a failure: who waited
    /// tries again.
    pub(super) fn get_or_open(&self, key: Key, open: impl FnOnce() -> Result<Plain>) -> Result<Plain> {
        {
            let mut state = self.state.lock();
            loop {
                if let Some(plain) = state.chunks.get(&key) {
                    return Ok(plain);
                }
                if state.opening.insert(key) {
                    break;
                }
                self.opened.wait(&mut state);
            }
        }
        let claim = Claim { cache: self, key };
        let plain = open()?;
        claim.keep(&plain);
        Ok(plain)
    }

    /// The right to open a chunk, unless it is open already or somebody else opens it. Others wait until
    /// the claim is dropped.
    pub(super) fn claim(&self, key: Key) -> Option<Claim<'_>> {
        let mut state = self.state.lock();
        if state.chunks.has(&key) || !state.opening.insert(key) {
            return None;
        }
        Some(Claim { cache: self, key })
    }
}

/// The right to open a chunk. It ends when it is dropped, also by a panic, which would otherwise leave
/// others waiting.
pub(super) struct Claim<'a> {
    cache: &'a ChunkCache,
    key: Key,
}

impl Claim<'_> {
    /// Which chunk.
    pub(super) fn chunk(&self) -> ChunkRef {
        self.key.0
    }

    /// Puts the opened chunk into the cache.
    pub(super) fn keep(self, plain: &Plain) {
        self.cache.state.lock().chunks.put(self.key, plain.clone(), plain.len() + ENTRY_BYTES);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.cache.state.lock().opening.remove(&self.key);
        self.cache.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;
    use crate::id::{ChunkTag, EpochId};

    fn key(at: u8) -> Key {
        (ChunkRef { epoch: EpochId([0; 32]), tag: ChunkTag([at; 32]) }, ChunkType::Data)
    }

    #[test]
    fn cache_over_its_bound_forgets_the_least_recently_used() {
        let cache = ChunkCache::new(2 * (100 + ENTRY_BYTES) + 50);
        let opened = AtomicUsize::new(0);
        let read = |at| {
            let open = || {
                opened.fetch_add(1, Ordering::Relaxed);
                Ok(Plain::from(vec![at; 100]))
            };
            assert_eq!(*cache.get_or_open(key(at), open).expect("opens"), [at; 100]);
        };
        [1, 2, 1, 3, 1, 3].into_iter().for_each(read);
        assert_eq!(opened.load(Ordering::Relaxed), 3);
        read(2);
        assert_eq!(opened.load(Ordering::Relaxed), 4);
        assert_eq!(cache.state.lock().chunks.weight(), 2 * (100 + ENTRY_BYTES));
    }

    #[test]
    fn chunk_that_many_want_is_opened_once() {
        let cache = ChunkCache::new(10_000);
        let (opened, start) = (AtomicUsize::new(0), Barrier::new(4));
        let read = || {
            start.wait();
            let open = || {
                opened.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
                Ok(Plain::from(vec![7; 100]))
            };
            assert_eq!(*cache.get_or_open(key(7), open).expect("opens"), [7; 100]);
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(read))));
        assert_eq!(opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn chunk_that_is_claimed_waits_for_who_claimed_it() {
        let cache = ChunkCache::new(10_000);
        let claim = cache.claim(key(1)).expect("is free");
        assert!(cache.claim(key(1)).is_none());
        std::thread::scope(|scope| {
            let read = || cache.get_or_open(key(1), || Ok(Plain::from(vec![2])));
            let reader = scope.spawn(read);
            claim.keep(&Plain::from(vec![1]));
            assert_eq!(*reader.join().expect("ends").expect("opens"), [1]);
        });
        assert!(cache.claim(key(1)).is_none());
        drop(cache.claim(key(2)));
        assert_eq!(*cache.get_or_open(key(2), || Ok(Plain::from(vec![2]))).expect("opens"), [2]);
    }

    #[test]
    fn chunk_that_failed_to_open_is_tried_again() {
        let cache = ChunkCache::new(10_000);
        assert!(cache.get_or_open(key(1), || Err(Error::Sealed)).is_err());
        assert_eq!(*cache.get_or_open(key(1), || Ok(Plain::from(vec![1]))).expect("opens"), [1]);
        assert!(cache.state.lock().opening.is_empty());
    }
}
