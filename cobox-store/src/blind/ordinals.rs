//! Local numbers of packs: bulk keys begin with them.
//!
//! Ordinals only grow, so files of slices never overlap and no compaction rewrites them. Small packs,
//! which go through the write-ahead log, count in a range of their own above all large ones: their
//! flushed files would otherwise straddle those of large packs. An ordinal is listed as garbage before
//! the first slice is written under it, and taken off that list by the commit that refers to it; what
//! is still listed at opening, or lies above the counter, is removed.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::db::Db;
use super::tables::{STORE, Table, key};
use crate::error::Result;

/// Ordinals of small packs begin here.
const SMALL_FIRST: u64 = 1 << 63;
const NEXT_LARGE: &[u8] = b"next large";
const NEXT_SMALL: &[u8] = b"next small";

/// The local number of a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ordinal(pub(super) u64);

impl Ordinal {
    /// The bulk key of a slice.
    pub(super) fn slice_key(self, index: u64) -> Vec<u8> {
        let index = u32::try_from(index).expect("a pack has at most 256 slices");
        [&self.0.to_be_bytes()[..], &index.to_be_bytes()].concat()
    }

    /// Whether it is a small pack's.
    pub(super) fn is_small(self) -> bool {
        self.0 >= SMALL_FIRST
    }

    fn garbage_key(self) -> Vec<u8> {
        key(STORE, Table::Garbage, &self.0.to_be_bytes())
    }

    /// Notes that nothing refers to the slices of this ordinal.
    pub(super) fn stage_garbage(self, batch: &mut Batch) {
        batch.put(&self.garbage_key(), &[]);
    }

    /// Notes that a row of this batch refers to them.
    pub(super) fn stage_used(self, batch: &mut Batch) {
        batch.delete(&self.garbage_key());
    }

    /// Removes the slices of an ordinal that is listed as garbage.
    pub(super) fn remove(self, db: &Db) -> Result<()> {
        db.bulk_remove(&self.0.to_be_bytes(), &(self.0.saturating_add(1)).to_be_bytes())?;
        let mut batch = Batch::default();
        self.stage_used(&mut batch);
        db.commit(batch, Durability::Unsynced)
    }
}

/// The next ordinals.
pub(super) struct Ordinals {
    large: u64,
    small: u64,
}

impl Ordinals {
    /// Reads the counters and removes what an interrupted program left.
    pub(super) fn load(db: &Db) -> Result<Self> {
        let counter = |name: &[u8], first: u64| -> Result<u64> {
            let value = db.get(&key(STORE, Table::Counter, name))?;
            Ok(value.and_then(|bytes| bytes.try_into().ok()).map_or(first, u64::from_le_bytes))
        };
        let mut ordinals = Self { large: counter(NEXT_LARGE, 0)?, small: counter(NEXT_SMALL, SMALL_FIRST)? };
        let mut garbage = Vec::new();
        db.scan(&key(STORE, Table::Garbage, &[]), &[], &mut |ordinal, _| {
            garbage.extend(ordinal.try_into().map(|bytes| Ordinal(u64::from_be_bytes(bytes))));
            ControlFlow::Continue(())
        })?;
        for ordinal in garbage {
            ordinal.remove(db)?;
        }
        ordinals.remove_above(db)?;
        Ok(ordinals)
    }

    /// After power loss, slices may have outlived the counter: their ordinals are skipped, because a
    /// tombstone over future ordinals would slow down every later ingestion.
    fn remove_above(&mut self, db: &Db) -> Result<()> {
        let last = db.bulk_last_below(&SMALL_FIRST.to_be_bytes())?;
        let last = last.and_then(|key| key.first_chunk().copied()).map(u64::from_be_bytes);
        if let Some(last) = last.filter(|last| *last >= self.large) {
            let next = last + 1;
            db.bulk_remove(&self.large.to_be_bytes(), &next.to_be_bytes())?;
            self.large = next;
            let mut batch = Batch::default();
            batch.put(&key(STORE, Table::Counter, NEXT_LARGE), &next.to_le_bytes());
            db.commit(batch, Durability::Synced)?;
        }
        Ok(())
    }

    /// The next ordinal for a large pack.
    pub(super) fn take_large(&mut self, batch: &mut Batch) -> Ordinal {
        let ordinal = Ordinal(self.large);
        self.large += 1;
        batch.put(&key(STORE, Table::Counter, NEXT_LARGE), &self.large.to_le_bytes());
        ordinal
    }

    /// The next ordinal for a small pack.
    pub(super) fn take_small(&mut self, batch: &mut Batch) -> Ordinal {
        let ordinal = Ordinal(self.small);
        self.small += 1;
        batch.put(&key(STORE, Table::Counter, NEXT_SMALL), &self.small.to_le_bytes());
        ordinal
    }
}
