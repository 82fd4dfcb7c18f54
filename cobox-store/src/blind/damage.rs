//! What the disk changed: damaged slices leave their pack, sound ones stay readable.

use super::batch::{Batch, Durability};
use super::have::Have;
use super::ordinals::Ordinals;
use super::pack_info::{PackInfo, State, info_key};
use super::packs::{LARGE_BYTES_MIN, size_row};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::pack::PackRef;
use crate::id::{FolderNo, PackId};

/// The setting that counts packs in which damage was found.
const FOUND: &[u8] = b"damaged packs";

impl Store {
    /// Packs of a folder in which damage was found, ever.
    pub(super) fn damage_found(&self, no: FolderNo) -> Result<u64> {
        let row = self.db().get(&key(no, Table::BlindSetting, FOUND))?;
        Ok(row.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Notes that a pack is whole: whatever damage was found in it has been mended.
    pub(super) fn stage_mended(&self, no: FolderNo, pack: PackId, batch: &mut Batch) -> Result<()> {
        let row = key(no, Table::Damaged, &pack.0);
        if self.db().contains(&row)? {
            batch.delete(&row);
        }
        Ok(())
    }

    /// Takes slices that do not match out of a pack, and keeps the others readable: this may be their
    /// only copy. A live pack is missing again, and only what it lacks is fetched. A pack of which no
    /// slice is sound, or whose outboard is not, is forgotten; one that is sound after all stays.
    ///
    /// # Errors
    /// See [`super::Db::commit`]; then nothing has changed.
    pub fn pack_mark_damaged(&self, no: FolderNo, pack: PackId) -> Result<()> {
        let mut taken = self.ordinals.lock();
        let Some(info) = self.pack_info(no, pack)? else { return Ok(()) };
        let sound = self.sound_slices(no, pack, &info)?;
        let claimed = (0..Have::none(info.size).slices()).filter(|index| info.has(*index)).count();
        if !sound.is_empty() && sound.len() == claimed {
            return Ok(());
        }
        let mut batch = Batch::default();
        if sound.is_empty() {
            batch.delete(&info_key(no, pack));
            batch.delete(&key(no, Table::Outboard, &pack.0));
        } else {
            let moved = self.move_slices(&info, &sound, &mut taken, &mut batch)?;
            batch.put(&info_key(no, pack), &moved.encode());
        }
        info.ordinal.stage_garbage(&mut batch);
        if let Some(size) = self.live_size(no, pack)? {
            let size = size_row(PackRef { id: pack, size });
            batch.put(&key(no, Table::Missing, &pack.0), &size);
            batch.put(&key(no, Table::Damaged, &pack.0), &size);
        }
        let found = self.damage_found(no)?.saturating_add(1);
        batch.put(&key(no, Table::BlindSetting, FOUND), &found.to_le_bytes());
        self.db().commit(batch, Durability::Synced)?;
        drop(taken);
        tracing::warn!(%pack, kept = sound.len(), lost = claimed - sound.len(), "slices of a pack are damaged");
        self.remove_ordinals(&[info.ordinal]);
        self.watch().bump(no);
        Ok(())
    }

    /// Those slices of a pack that match its outboard; none without a sound outboard.
    fn sound_slices(&self, no: FolderNo, pack: PackId, info: &PackInfo) -> Result<Vec<(u64, Vec<u8>)>> {
        let outboard = match self.outboard(no, pack) {
            Ok(Some(outboard)) => outboard,
            Ok(None) | Err(Error::PackDamaged(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut sound = Vec::new();
        for index in 0..Have::none(info.size).slices() {
            match self.slice_of(info, pack, index) {
                Ok(Some(slice)) if outboard.slice_matches(index, &slice) => sound.push((index, slice)),
                Ok(_) | Err(Error::PackDamaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sound)
    }

    /// Writes the sound slices of a damaged pack under a new ordinal: the file with the damaged block can
    /// go, so that no compaction trips over it, and a receiver that still counts on the old slices fails.
    fn move_slices(
        &self,
        info: &PackInfo,
        sound: &[(u64, Vec<u8>)],
        ordinals: &mut Ordinals,
        batch: &mut Batch,
    ) -> Result<PackInfo> {
        let mut have = Have::none(info.size);
        sound.iter().for_each(|(index, _)| have.insert(*index));
        let ordinal = if info.size >= LARGE_BYTES_MIN {
            let mut first = Batch::default();
            let ordinal = ordinals.take_large(&mut first);
            ordinal.stage_garbage(&mut first);
            self.db().commit(first, Durability::Unsynced)?;
            let mut rows = sound.iter().map(|(index, slice)| (ordinal.slice_key(*index), &slice[..]));
            self.db().ingest(&mut rows)?;
            ordinal
        } else {
            let ordinal = ordinals.take_small(batch);
            sound.iter().for_each(|(index, slice)| batch.put_bulk(&ordinal.slice_key(*index), slice));
            ordinal
        };
        ordinal.stage_used(batch);
        Ok(PackInfo { size: info.size, ordinal, state: State::Partial(have) })
    }
}

/// Writes other bytes under the slice of a stored pack, as a failing disk would.
#[cfg(test)]
pub(super) fn bend(db: &super::db::Db, ordinal: super::ordinals::Ordinal, index: u64) {
    let mut batch = Batch::default();
    batch.put_bulk(&ordinal.slice_key(index), &[1; crate::format::SLICE_BYTES as usize]);
    db.commit(batch, Durability::Synced).expect("commits");
}

#[cfg(test)]
impl Store {
    /// The same for a pack by its name.
    pub(crate) fn bend(&self, no: FolderNo, pack: PackId, index: u64) {
        let info = self.pack_info(no, pack).expect("reads").expect("is here");
        bend(self.db(), info.ordinal, index);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::packs::PackStatus;
    use super::super::receive::Progress;
    use super::super::scrub::PackHealth;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;
    use crate::format::SLICE_BYTES;
    use crate::format::proof::Outboard;

    fn packs(sizes: &[usize]) -> Vec<(Outboard, Vec<u8>)> {
        let packs = (0..).zip(sizes).map(|(seed, size)| pack_bytes(seed, *size));
        packs.map(|bytes| (Outboard::of(&bytes), bytes)).collect()
    }

    #[test]
    fn damaged_pack_is_found_by_check_and_fetched_again() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let packs = packs(&[1 << 20, 1 << 20, 4096]);
        let refs: Vec<PackRef> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        store.packs_put(no, &packs).expect("puts");
        store.entry_add(no, &author.write(&refs, b"")).expect("adds");
        let ordinal = store.pack_info(no, refs[1].id).expect("reads").expect("is there").ordinal;
        bend(store.db(), ordinal, 5);
        let mut damaged = Vec::new();
        let report = store.check_packs(no, &mut |pack, health| {
            if health == PackHealth::Damaged {
                damaged.push(pack);
            }
            ControlFlow::Continue(())
        });
        let report = report.expect("checks");
        assert_eq!((&report.damaged[..], &report.slices[&refs[1].id][..]), (&[refs[1].id][..], &[5][..]));
        assert_eq!(damaged, [refs[1]]);
        assert_eq!(store.packs_missing(no, None, 9).expect("scans"), [refs[1]]);
        assert_eq!(store.db().bulk_get(&ordinal.slice_key(0)).expect("reads"), None);
        store.packs_put(no, &packs).expect("puts again");
        assert!(store.packs_missing(no, None, 9).expect("scans").is_empty());
        assert!(
            store.check_packs(no, &mut |_, _| ControlFlow::Continue(())).expect("checks").damaged.is_empty()
        );
    }

    #[test]
    fn damaged_slice_is_dropped_alone_and_alone_received_again() {
        for size in [128 << 10, 8 << 20] {
            let founder = Founder::new(1);
            let (dir, store, no) = new_store(&founder);
            let mut author = Author::new(&founder, &store, no);
            let (outboard, bytes) = packs(&[size]).remove(0);
            let pack = outboard.pack();
            store.pack_put(no, pack, &outboard, &bytes).expect("puts");
            store.entry_add(no, &author.write(&[pack], b"")).expect("adds");
            store.pack_mark_damaged(no, pack.id).expect("finds it sound");
            assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(pack));
            let old = store.pack_info(no, pack.id).expect("reads").expect("is there").ordinal;
            bend(store.db(), old, 1);
            store.pack_mark_damaged(no, pack.id).expect("marks");
            drop(store);
            let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
            let slice = SLICE_BYTES as usize;
            let first = store.pack_range(no, pack.id, 0, slice).expect("reads");
            assert_eq!(first.as_deref(), Some(&bytes[..slice]));
            assert_eq!(store.pack_range(no, pack.id, SLICE_BYTES - 1, 2).expect("reads"), None);
            let rest = store.pack_range(no, pack.id, 2 * SLICE_BYTES, size - 2 * slice).expect("reads");
            assert_eq!(rest.as_deref(), Some(&bytes[2 * slice..]));
            assert_eq!(store.db().bulk_get(&old.slice_key(0)).expect("reads"), None);
            assert_eq!(store.packs_missing(no, None, 9).expect("scans"), [pack]);
            let mut receiver = store.pack_receive(no, pack, outboard).expect("resumes");
            assert_eq!(receiver.needed(), [1]);
            let done = receiver.put_slice(1, &bytes[slice..2 * slice]).expect("takes");
            assert_eq!(done, Progress::Done);
            assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(pack));
            assert!(store.packs_missing(no, None, 9).expect("scans").is_empty());
            let all = store.pack_range(no, pack.id, 0, size).expect("reads");
            assert_eq!(all.as_deref(), Some(&bytes[..]));
        }
    }

    #[test]
    fn receiver_of_a_pack_that_is_found_damaged_begins_anew() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let (outboard, bytes) = packs(&[1 << 20]).remove(0);
        let pack = outboard.pack();
        store.entry_add(no, &author.write(&[pack], b"")).expect("adds");
        let slices: Vec<&[u8]> = bytes.chunks(SLICE_BYTES as usize).collect();
        let mut receiver = store.pack_receive(no, pack, outboard.clone()).expect("begins");
        for index in 0..8u64 {
            receiver.put_slice(index, slices[index as usize]).expect("takes");
        }
        receiver.flush().expect("flushes");
        let ordinal = store.pack_info(no, pack.id).expect("reads").expect("is there").ordinal;
        bend(store.db(), ordinal, 3);
        store.pack_mark_damaged(no, pack.id).expect("marks");
        receiver.put_slice(8, slices[8]).expect("buffers");
        assert!(matches!(receiver.flush(), Err(Error::PackDamaged(_))));
        let again = store.pack_receive(no, pack, outboard).expect("begins anew");
        assert_eq!(again.needed(), [3, 8, 9, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn pack_with_a_damaged_outboard_is_forgotten_whole() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let (outboard, bytes) = packs(&[1 << 20]).remove(0);
        let pack = outboard.pack();
        store.pack_put(no, pack, &outboard, &bytes).expect("puts");
        let mut batch = Batch::default();
        batch.put(&key(no, Table::Outboard, &pack.id.0), b"bent");
        store.db().commit(batch, Durability::Synced).expect("commits");
        store.pack_mark_damaged(no, pack.id).expect("marks");
        assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Unknown);
    }
}
