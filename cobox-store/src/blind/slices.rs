//! Slices that were read lately, bounded in number: chunks are about as long as slices and lie across
//! their borders, so that a reader who goes on needs the last slice once more.
//!
//! What is here was read as it is, and is verified by who opens it. An ordinal is never used again and
//! its slices never change, so nothing here becomes wrong.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ordinals::Ordinal;

/// Slices in memory: 4 MiB, one for each of some sixty sequential readers, or a thousand small files.
const SLICES_MAX: usize = 64;

type Key = (Ordinal, u64);

/// Least recently used goes first.
#[derive(Default)]
pub(super) struct Slices {
    recent: Mutex<VecDeque<(Key, Arc<[u8]>)>>,
}

impl Slices {
    pub(super) fn get(&self, ordinal: Ordinal, index: u64) -> Option<Arc<[u8]>> {
        let mut recent = self.recent.lock();
        let at = recent.iter().rposition(|(key, _)| *key == (ordinal, index))?;
        let found = recent.remove(at)?;
        let slice = Arc::clone(&found.1);
        recent.push_back(found);
        Some(slice)
    }

    pub(super) fn put(&self, ordinal: Ordinal, index: u64, slice: &[u8]) {
        let key = (ordinal, index);
        let slice = Arc::from(slice);
        let mut recent = self.recent.lock();
        recent.retain(|(known, _)| *known != key);
        if recent.len() >= SLICES_MAX {
            recent.pop_front();
        }
        recent.push_back((key, slice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_over_their_bound_forget_the_least_recently_used() {
        let slices = Slices::default();
        let put = |index| slices.put(Ordinal(1), index, &[1]);
        (0..SLICES_MAX as u64).for_each(put);
        put(3);
        assert!(slices.get(Ordinal(1), 0).is_some());
        put(SLICES_MAX as u64);
        assert!(slices.get(Ordinal(1), 1).is_none());
        assert!(slices.get(Ordinal(2), 0).is_none());
        assert!(slices.get(Ordinal(1), 0).is_some() && slices.get(Ordinal(1), 3).is_some());
        assert_eq!(slices.recent.lock().len(), SLICES_MAX);
    }
}
