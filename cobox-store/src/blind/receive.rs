//! Takes a pack slice by slice, in any order, and remembers across crashes what it has.
//!
//! Every slice is verified against the outboard before it is kept. Slices are buffered, in the buffers they
//! came in, up to [`BUFFER_BYTES`], then stored: long runs as files that are written once, the rest with the
//! rows; the bits of what is here follow in a synced commit. The network drives it; nobody else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, Durability};
use super::have::Have;
use super::ordinals::Ordinal;
use super::pack_info::{PackInfo, State, info_key};
use super::packs::LARGE_BYTES_MIN;
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::SLICE_BYTES;
use crate::format::pack::{PackRef, is_size_class};
use crate::format::proof::Outboard;
use crate::id::FolderNo;

/// What a receiver holds in memory: a pack of the usual size, so that it is one file with one set of
/// fsyncs. Who runs several receivers bounds their number.
pub const BUFFER_BYTES: usize = 8 << 20;
/// Fewer slices in a row than this go with the rows: a file for each would cost more than writing
/// them twice.
const RUN_SLICES_MIN: usize = (LARGE_BYTES_MIN / SLICE_BYTES) as usize;

/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Slices are missing.
    More {
        /// How many.
        slices: u64,
    },
    /// The pack is complete and durable.
    Done,
}

/// A pack on its way in. Dropping it keeps what it has.
pub struct Receiver {
    store: Arc<Store>,
    no: FolderNo,
    outboard: Outboard,
    ordinal: Ordinal,
    /// Stored or buffered.
    have: Have,
    buffer: BTreeMap<u64, Place>,
    buffer_bytes: usize,
    frames: Vec<Vec<u8>>,
    /// Buffers whose slices are stored.
    spent: Vec<Vec<u8>>,
    done: bool,
}

/// Where in the receiver's frames a slice lies.
struct Place {
    frame: usize,
    bytes: Range<usize>,
}

impl Store {
    /// Begins or resumes the reception of a live pack.
    ///
    /// # Errors
    /// [`Error::PackUnknown`] when no entry refers to it; [`Error::PackDamaged`] when the outboard is of
    /// another pack; [`Error::NoSpace`].
    pub fn pack_receive(
        self: &Arc<Self>,
        no: FolderNo,
        pack: PackRef,
        outboard: Outboard,
    ) -> Result<Receiver> {
        if self.live_size(no, pack.id)? != Some(pack.size) || !is_size_class(pack.size) {
            return Err(Error::PackUnknown(pack.id));
        }
        if outboard.pack() != pack {
            return Err(Error::PackDamaged(pack.id));
        }
        let mut ordinals = self.ordinals.lock();
        let info = match self.pack_info(no, pack.id)? {
            Some(info) => info,
            None => {
                // Unsynced is enough: if power loss takes this row, it takes the counter with it, and
                // slices above the counter are removed at opening.
                let mut batch = Batch::default();
                let large = pack.size >= LARGE_BYTES_MIN;
                let ordinal =
                    if large { ordinals.take_large(&mut batch) } else { ordinals.take_small(&mut batch) };
                let state = State::Partial(Have::none(pack.size));
                let info = PackInfo { size: pack.size, ordinal, state };
                batch.put(&info_key(no, pack.id), &info.encode());
                batch.put(&key(no, Table::Outboard, &pack.id.0), &outboard.encode());
                self.db().commit(batch, Durability::Unsynced)?;
                info
            }
        };
        drop(ordinals);
        let (have, done) = match info.state {
            State::Partial(have) => (have, false),
            State::Complete => (Have::all(pack.size), true),
        };
        Ok(Receiver {
            store: Arc::clone(self),
            no,
            outboard,
            ordinal: info.ordinal,
            have,
            buffer: BTreeMap::new(),
            buffer_bytes: 0,
            frames: Vec::new(),
            spent: Vec::new(),
            done,
        })
    }
}

impl Receiver {
    /// Of which pack.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        self.outboard.pack()
    }

    /// Slices that are neither stored nor buffered, ascending.
    #[must_use]
    pub fn needed(&self) -> Vec<u64> {
        self.have.missing().collect()
    }

    /// Takes slice `index`. It is durable once [`Self::flush`] returned or the pack is
    /// [`Progress::Done`]; one that is here already changes nothing.
    ///
    /// # Errors
    /// See [`Self::put_slices`].
    pub fn put_slice(&mut self, index: u64, bytes: &[u8]) -> Result<Progress> {
        self.put_slices(index, bytes.to_vec(), 0)
    }

    /// Takes the slices from `first` on that lie in `frame` after `offset` bytes of something else, without
    /// copying them. See [`Self::put_slice`]; all of them are taken or none.
    ///
    /// # Errors
    /// [`Error::PackDamaged`] when the bytes are not those slices: then the sender lies or its disk does,
    /// and the receiver can go on with another. [`Error::NoSpace`]: nothing buffered is lost.
    pub fn put_slices(&mut self, first: u64, frame: Vec<u8>, offset: usize) -> Result<Progress> {
        let slices = frame.get(offset..).unwrap_or_default();
        let mut fresh = Vec::new();
        let mut fresh_bytes = 0;
        let mut at = offset;
        if slices.is_empty() {
            return Err(Error::PackDamaged(self.pack().id));
        }
        for (number, slice) in (0..).zip(slices.chunks(SLICE_BYTES as usize)) {
            let index = first.saturating_add(number);
            if !self.have.contains(index) {
                if !self.outboard.slice_matches(index, slice) {
                    return Err(Error::PackDamaged(self.pack().id));
                }
                fresh.push((index, at..at + slice.len()));
                fresh_bytes += slice.len();
            }
            at += slice.len();
        }
        if fresh.is_empty() {
            self.spent.push(frame);
        } else {
            if self.buffer_bytes + fresh_bytes > BUFFER_BYTES {
                self.flush()?;
            }
            for (index, bytes) in fresh {
                self.buffer.insert(index, Place { frame: self.frames.len(), bytes });
                self.have.insert(index);
            }
            self.frames.push(frame);
            self.buffer_bytes += fresh_bytes;
        }
        if self.have.is_full() { self.flush() } else { Ok(self.progress()) }
    }

    /// Buffers that were given to [`Self::put_slices`] and are not needed any more.
    pub fn take_spent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.spent)
    }

    /// Stores what is buffered; durable on return.
    ///
    /// # Errors
    /// [`Error::NoSpace`]: the buffer is kept. [`Error::PackDamaged`] when the pack was found damaged
    /// meanwhile: begin anew.
    pub fn flush(&mut self) -> Result<Progress> {
        if self.done || self.buffer.is_empty() && !self.have.is_full() {
            return Ok(self.progress());
        }
        let mut batch = Batch::default();
        let large = self.pack().size >= LARGE_BYTES_MIN;
        for run in runs(&self.buffer, &self.frames) {
            if large && run.len() >= RUN_SLICES_MIN {
                let mut rows = run.iter().map(|(index, bytes)| (self.ordinal.slice_key(*index), *bytes));
                self.store.db().ingest(&mut rows)?;
            } else {
                for (index, bytes) in run {
                    batch.put_bulk(&self.ordinal.slice_key(index), bytes);
                }
            }
        }
        self.commit(batch)?;
        self.buffer.clear();
        self.buffer_bytes = 0;
        self.spent.append(&mut self.frames);
        if self.done {
            self.store.wants.forget(self.no, self.pack().id);
        }
        self.store.watch().bump(self.no);
        Ok(self.progress())
    }

    /// Persists the bits. Another receiver, or a whole pack, may have come in meanwhile: bits are joined.
    fn commit(&mut self, mut batch: Batch) -> Result<()> {
        let pack = self.pack();
        let _held = self.store.ordinals.lock();
        let info = self.store.pack_info(self.no, pack.id)?.ok_or(Error::PackDamaged(pack.id))?;
        let stored = match info.state {
            State::Complete => {
                self.have = Have::all(pack.size);
                self.done = true;
                return Ok(());
            }
            State::Partial(_) if info.ordinal != self.ordinal => return Err(Error::PackDamaged(pack.id)),
            State::Partial(have) => have,
        };
        let mut have = self.have.clone();
        have.join(&stored);
        let full = have.is_full();
        let state = if full { State::Complete } else { State::Partial(have.clone()) };
        let info = PackInfo { size: pack.size, ordinal: self.ordinal, state };
        batch.put(&info_key(self.no, pack.id), &info.encode());
        if full {
            batch.delete(&key(self.no, Table::Missing, &pack.id.0));
            self.store.stage_mended(self.no, pack.id, &mut batch)?;
        }
        self.store.db().commit(batch, Durability::Synced)?;
        self.have = have;
        self.done = full;
        Ok(())
    }

    fn progress(&self) -> Progress {
        if self.done {
            Progress::Done
        } else {
            Progress::More { slices: self.have.slices() - self.have.count() }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, pack = %self.pack().id, "slices in memory were lost and will be asked again");
        }
    }
}

/// Runs of neighbouring slices.
fn runs<'a>(buffer: &BTreeMap<u64, Place>, frames: &'a [Vec<u8>]) -> Vec<Vec<(u64, &'a [u8])>> {
    let mut runs: Vec<Vec<(u64, &[u8])>> = Vec::new();
    for (index, place) in buffer {
        let frame = frames.get(place.frame).and_then(|frame| frame.get(place.bytes.clone()));
        let bytes = frame.expect("a buffered slice lies in a frame that is kept with it");
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|(last, _)| last + 1 == *index) => run.push((*index, bytes)),
            _ => runs.push(vec![(*index, bytes)]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::packs::PackStatus;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;

    const SLICES: u64 = 128;

    struct Case {
        dir: tempfile::TempDir,
        store: Arc<Store>,
        no: FolderNo,
        bytes: Vec<u8>,
        outboard: Outboard,
    }

    fn case(size: usize) -> Case {
        let founder = Founder::new(1);
        let (dir, store, no) = new_store(&founder);
        let bytes = pack_bytes(1, size);
        let outboard = Outboard::of(&bytes);
        let mut author = Author::new(&founder, &store, no);
        store.entry_add(no, &author.write(&[outboard.pack()], b"")).expect("adds");
        Case { dir, store, no, bytes, outboard }
    }

    impl Case {
        fn receiver(&self) -> Receiver {
            self.store.pack_receive(self.no, self.outboard.pack(), self.outboard.clone()).expect("begins")
        }

        fn slice(&self, index: u64) -> &[u8] {
            let start = usize::try_from(index * SLICE_BYTES).expect("small");
            &self.bytes[start..self.bytes.len().min(start + SLICE_BYTES as usize)]
        }

        fn assert_whole(&self) {
            let id = self.outboard.pack().id;
            assert_eq!(
                self.store.pack_status(self.no, id).expect("reads"),
                PackStatus::Complete(self.outboard.pack())
            );
            assert!(self.store.packs_missing(self.no, None, 1).expect("scans").is_empty());
            let all = self.store.pack_range(self.no, id, 0, self.bytes.len()).expect("reads");
            assert_eq!(all.as_deref(), Some(&self.bytes[..]));
        }
    }

    #[test]
    fn slices_in_any_order_make_the_pack_complete() {
        for (size, step) in [(8 << 20, 1), (8 << 20, 37), (4096, 1), (20480, 1), (1 << 20, 5)] {
            let case = case(size);
            let slices = (size as u64).div_ceil(SLICE_BYTES);
            let mut receiver = case.receiver();
            let mut progress = Progress::More { slices };
            for at in 0..slices {
                let index = (at * step + 3) % slices;
                assert_eq!(progress, Progress::More { slices: slices - at });
                progress = receiver.put_slice(index, case.slice(index)).expect("takes");
                assert!(receiver.buffer_bytes <= BUFFER_BYTES);
            }
            assert_eq!(progress, Progress::Done);
            case.assert_whole();
        }
    }

    #[test]
    fn tampered_slice_is_refused_and_the_right_one_still_taken() {
        let case = case(1 << 20);
        let mut receiver = case.receiver();
        let mut bent = case.slice(2).to_vec();
        bent[77] ^= 1;
        for (index, bytes) in [(2, &bent[..]), (3, case.slice(2)), (16, case.slice(0)), (u64::MAX, &[])] {
            assert!(matches!(receiver.put_slice(index, bytes), Err(Error::PackDamaged(_))));
        }
        assert_eq!(receiver.needed().len(), 16);
        for index in 0..16 {
            receiver.put_slice(index, case.slice(index)).expect("takes");
        }
        case.assert_whole();
    }

    #[test]
    fn frames_are_taken_whole_and_given_back_when_their_slices_are_stored() {
        let case = case(8 << 20);
        let mut receiver = case.receiver();
        let frame = |first: u64, count: u64| {
            let slices = (first..first + count).flat_map(|index| case.slice(index).to_vec());
            [1, 2, 3].into_iter().chain(slices).collect::<Vec<u8>>()
        };
        receiver.put_slices(5, frame(5, 1), 3).expect("takes");
        assert!(receiver.take_spent().is_empty());
        receiver.put_slices(5, frame(5, 1), 3).expect("is here");
        assert_eq!(receiver.take_spent().len(), 1, "nothing of it is needed");
        let mut bent = frame(8, 4);
        bent[3 + 3 * SLICE_BYTES as usize] ^= 1;
        assert!(matches!(receiver.put_slices(8, bent, 3), Err(Error::PackDamaged(_))));
        assert_eq!(receiver.needed().len(), 127, "none of a frame with a wrong slice is taken");
        let mut progress = Progress::More { slices: 127 };
        for first in (0..SLICES).step_by(4) {
            progress = receiver.put_slices(first, frame(first, 4), 3).expect("takes");
        }
        assert_eq!(progress, Progress::Done);
        assert_eq!(receiver.take_spent().len(), 33);
        case.assert_whole();
    }

    #[test]
    fn reception_resumes_with_what_was_flushed_before_reopening() {
        let mut case = case(8 << 20);
        let mut receiver = case.receiver();
        for index in (0..70).chain([90, 92]) {
            receiver.put_slice(index, case.slice(index)).expect("takes");
        }
        let id = case.outboard.pack().id;
        drop(receiver);
        let Case { dir, store, .. } = case;
        drop(store);
        case = Case { store: Store::open(dir.path(), StoreKind::Seeder).expect("opens"), dir, ..case };
        let status = case.store.pack_status(case.no, id).expect("reads");
        assert!(matches!(status, PackStatus::Partial(_, have) if have.count() == 72));
        assert_eq!(case.store.slice(case.no, id, 90).expect("reads").as_deref(), Some(case.slice(90)));
        assert_eq!(case.store.slice(case.no, id, 91).expect("reads"), None);
        let mut receiver = case.receiver();
        for index in receiver.needed() {
            receiver.put_slice(index, case.slice(index)).expect("takes");
        }
        case.assert_whole();
        let mut again = case.receiver();
        assert_eq!(again.flush().expect("nothing to do"), Progress::Done);
        assert!(again.needed().is_empty());
    }

    #[test]
    fn two_receivers_of_one_pack_join_what_they_have() {
        let case = case(8 << 20);
        let (mut even, mut odd) = (case.receiver(), case.receiver());
        for index in 0..SLICES {
            let receiver = if index % 2 == 0 { &mut even } else { &mut odd };
            receiver.put_slice(index, case.slice(index)).expect("takes");
        }
        even.flush().expect("flushes");
        assert_eq!(odd.flush().expect("flushes"), Progress::Done);
        case.assert_whole();
    }

    #[test]
    fn pack_that_no_entry_names_is_not_received() {
        let case = case(4096);
        let stray = Outboard::of(&pack_bytes(9, 4096));
        let begun = case.store.pack_receive(case.no, stray.pack(), stray.clone());
        assert!(matches!(begun, Err(Error::PackUnknown(_))));
        let begun = case.store.pack_receive(case.no, case.outboard.pack(), stray);
        assert!(matches!(begun, Err(Error::PackDamaged(_))));
        drop(case.dir);
    }
}
