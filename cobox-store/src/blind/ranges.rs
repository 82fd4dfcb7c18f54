//! Bytes of packs, read across the borders of slices; not verified here.

use std::ops::{ControlFlow, Range};

use super::db::Checksum;
use super::pack_info::PackInfo;
use super::store::Store;
use crate::error::{Error, Result};
use crate::format::SLICE_BYTES;
use crate::id::{FolderNo, PackId};

/// What the database adds to a slice in its file (key, block index, checksum), generously.
const BLOCK_FRAME_BYTES: u64 = 128;
/// The most that one request to the disk reads beyond the first slice: bounds its buffer, and a larger
/// request is hardly faster.
const AHEAD_BYTES_MAX: u64 = 1024 * 1024;

impl Store {
    /// `len` bytes of a pack from `offset` on, not verified; `None` when a slice of them is not here,
    /// or they reach past the end.
    ///
    /// # Errors
    /// [`Error::PackDamaged`] when a slice should be here and is not.
    pub fn pack_range(&self, no: FolderNo, pack: PackId, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        Ok(self.pack_parts(no, pack, offset, &[len])?.and_then(|mut parts| parts.pop()))
    }

    /// Like [`Self::pack_range`], for adjoining ranges of these lengths: each comes in a buffer of its own,
    /// all of them with one request to the disk where they are not longer than a mebibyte.
    ///
    /// # Errors
    /// See [`Self::pack_range`].
    pub fn pack_parts(
        &self,
        no: FolderNo,
        pack: PackId,
        offset: u64,
        lens: &[usize],
    ) -> Result<Option<Vec<Vec<u8>>>> {
        self.pack_read(no, pack, offset, lens, Next::GoesOn)
    }

    /// Like [`Self::pack_range`], for a reader that goes on elsewhere and knows what it should find: the last slice is not
    /// kept for it, and the database's checksum, which is over all of a slice, is not looked at. What the disk changed may be
    /// in what it gets.
    ///
    /// # Errors
    /// See [`Self::pack_range`].
    pub fn pack_few(&self, no: FolderNo, pack: PackId, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        Ok(self.pack_read(no, pack, offset, &[len], Next::Elsewhere)?.and_then(|mut parts| parts.pop()))
    }

    fn pack_read(
        &self,
        no: FolderNo,
        pack: PackId,
        offset: u64,
        lens: &[usize],
        next_read: Next,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(info) = self.pack_info(no, pack)? else { return Ok(None) };
        let end = lens.iter().fold(offset, |end, len| end.saturating_add(*len as u64));
        if end > info.size {
            return Ok(None);
        }
        let slices = offset / SLICE_BYTES..end.div_ceil(SLICE_BYTES);
        if !slices.clone().all(|index| info.has(index)) {
            return Ok(None);
        }
        let mut reading = Reading {
            store: self,
            info: &info,
            range: offset..end,
            parts: Parts::new(lens),
            next: next_read,
        };
        let mut next = slices.start;
        while next < slices.end && reading.take_recent(next) {
            next += 1;
        }
        match (slices.end - next, next_read) {
            (0, _) => {}
            // An iterator over two takes longer than to look both up.
            (1, _) | (2, Next::Elsewhere) => (next..slices.end).try_for_each(|at| reading.take_stored(at))?,
            _ => reading.take_run(next..slices.end)?,
        }
        reading.parts.finish().map(Some).ok_or(Error::PackDamaged(pack))
    }
}

/// A range of a pack that is being read, slice after slice.
struct Reading<'a> {
    store: &'a Store,
    info: &'a PackInfo,
    range: Range<u64>,
    parts: Parts<'a>,
    next: Next,
}

/// What the reader of a range will read next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// What follows in the pack.
    GoesOn,
    /// Nobody knows; it finds out by itself whether what it gets is what it should be.
    Elsewhere,
}

impl Reading<'_> {
    /// Takes what the range wants of a slice; of a slice that is too short, nothing.
    fn take(&mut self, index: u64, slice: &[u8]) {
        let start = index * SLICE_BYTES;
        let within =
            |at: u64| usize::try_from(at.saturating_sub(start).min(SLICE_BYTES)).expect("in a slice");
        if let Some(wanted) = slice.get(within(self.range.start)..within(self.range.end)) {
            self.parts.append(wanted);
        }
    }

    /// A slice from memory; says whether it was there.
    fn take_recent(&mut self, index: u64) -> bool {
        let recent = self.store.slices.get(self.info.ordinal, index);
        if let Some(slice) = &recent {
            self.take(index, slice);
        }
        recent.is_some()
    }

    fn take_new(&mut self, index: u64, slice: &[u8]) {
        // Where the range ends inside a slice, the next chunk of the pack begins in it.
        if self.next == Next::GoesOn && self.range.end < (index + 1) * SLICE_BYTES {
            self.store.slices.put(self.info.ordinal, index, slice);
        }
        self.take(index, slice);
    }

    fn take_stored(&mut self, index: u64) -> Result<()> {
        let store = self.store;
        let checksum = match self.next {
            Next::GoesOn => Checksum::Checked,
            Next::Elsewhere => Checksum::Ignored,
        };
        let key = self.info.ordinal.slice_key(index);
        store.db().bulk_with(&key, checksum, |slice| self.take_new(index, slice))?;
        Ok(())
    }

    fn take_run(&mut self, slices: Range<u64>) -> Result<()> {
        let (store, ordinal) = (self.store, self.info.ordinal);
        let beyond = (slices.end - slices.start - 1) * (SLICE_BYTES + BLOCK_FRAME_BYTES);
        let mut next = slices.start;
        store.db().bulk_run(
            &ordinal.slice_key(slices.start),
            &ordinal.slice_key(slices.end),
            usize::try_from(beyond.min(AHEAD_BYTES_MAX)).expect("a mebibyte fits memory"),
            &mut |key, slice| {
                if *key != *ordinal.slice_key(next) {
                    return ControlFlow::Break(());
                }
                self.take_new(next, slice);
                next += 1;
                ControlFlow::Continue(())
            },
        )
    }
}

/// Buffers of given lengths that are filled one after the other.
struct Parts<'a> {
    lens: &'a [usize],
    full: Vec<Vec<u8>>,
    filling: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn new(lens: &'a [usize]) -> Self {
        let filling = Vec::with_capacity(lens.first().copied().unwrap_or(0));
        Self { lens, full: Vec::with_capacity(lens.len()), filling }
    }

    fn append(&mut self, mut bytes: &[u8]) {
        while let Some(len) = self.lens.get(self.full.len()) {
            let (now, later) = bytes.split_at(bytes.len().min(len - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = later;
            if self.filling.len() < *len {
                return;
            }
            let next = self.lens.get(self.full.len() + 1).copied().unwrap_or(0);
            self.full.push(std::mem::replace(&mut self.filling, Vec::with_capacity(next)));
        }
    }

    /// The buffers, if all are full.
    fn finish(mut self) -> Option<Vec<Vec<u8>>> {
        // Empty buffers at the end need no bytes.
        self.append(&[]);
        (self.full.len() == self.lens.len()).then_some(self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::super::damage::bend;
    use super::super::testing::{Founder, new_store, pack_bytes};
    use super::*;
    use crate::format::proof::Outboard;

    #[test]
    fn parts_of_any_lengths_are_what_was_stored() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let bytes = pack_bytes(1, 8 << 20);
        let outboard = Outboard::of(&bytes);
        let pack = outboard.pack();
        store.pack_put(no, pack, &outboard, &bytes).expect("puts");
        let slice = SLICE_BYTES as usize;
        let cases: [(usize, &[usize]); 7] = [
            (0, &[1, slice, 5]),
            (slice - 1, &[2, 0, 3 * slice]),
            (slice - 1, &[2, 0, 3 * slice]),
            (5 * slice, &[slice]),
            (100, &[0]),
            (100, &[]),
            (70_000, &[60_000, 70_000, 262_161, 17, 2 << 20, 0]),
        ];
        for (offset, lens) in cases {
            let parts = store.pack_parts(no, pack.id, offset as u64, lens).expect("reads").expect("is here");
            assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), lens);
            assert_eq!(parts.concat(), bytes[offset..offset + lens.iter().sum::<usize>()]);
        }
        assert!(store.pack_parts(no, pack.id, pack.size - 5, &[5, 1]).expect("reads").is_none());
    }

    #[test]
    fn parts_over_a_short_slice_are_damaged() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let bytes = pack_bytes(1, 1 << 20);
        let outboard = Outboard::of(&bytes);
        let pack = outboard.pack();
        store.pack_put(no, pack, &outboard, &bytes).expect("puts");
        let info = store.pack_info(no, pack.id).expect("reads").expect("is here");
        let gone = info.ordinal.slice_key(3);
        store.db().bulk_remove(&gone, &info.ordinal.slice_key(4)).expect("removes");
        bend(store.db(), info.ordinal, 5);
        let slice = SLICE_BYTES as usize;
        for (offset, len) in
            [(3 * SLICE_BYTES, 1), (3 * SLICE_BYTES, 2 * slice), (2 * SLICE_BYTES, 2 * slice)]
        {
            let read = store.pack_range(no, pack.id, offset, len);
            assert!(matches!(read, Err(Error::PackDamaged(_))), "{offset}");
        }
        assert!(store.pack_range(no, pack.id, 4 * SLICE_BYTES, 2 * slice).expect("reads").is_some());
    }
}
