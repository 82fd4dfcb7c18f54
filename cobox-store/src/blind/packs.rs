//! Packs: their slices, outboards, and which of them the folder needs.
//!
//! A pack is *live* when an entry refers to it, *missing* when it is live and not wholly here. Slices lie
//! under local ordinals; large packs enter as files that are written once, small ones
//! with the rows. Nothing here opens a pack.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::have::Have;
use super::ordinals::Ordinal;
use super::pack_info::{PackInfo, State, info_key};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::SLICE_BYTES;
use crate::format::codec::DecodeError;
use crate::format::pack::{PackRef, is_size_class};
use crate::format::proof::{Challenge, LeafProof, Outboard};
use crate::id::{FolderNo, PackId};

/// From this size on a pack is a file of its own: below, the four fsyncs of an ingestion cost more than
/// writing the bytes a second time.
pub(super) const LARGE_BYTES_MIN: u64 = 256 * 1024;

/// Whether a live pack is wholly here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackState {
    /// Wholly.
    Complete,
    /// Not, or in part.
    Missing,
}

/// What is known of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PackStatus {
    /// Nobody refers to it, and nothing of it is here.
    Unknown,
    /// Entries refer to it; nothing of it is here.
    Missing(PackRef),
    /// Some slices are here.
    Partial(PackRef, Have),
    /// All slices are here.
    Complete(PackRef),
}

impl Store {
    /// Stores a whole pack; durable on return. No entry needs to refer to it yet.
    ///
    /// # Errors
    /// [`Error::PackDamaged`] when `bytes` do not match `outboard`, or that is not of `pack`;
    /// [`Error::NoSpace`].
    pub fn pack_put(&self, no: FolderNo, pack: PackRef, outboard: &Outboard, bytes: &[u8]) -> Result<()> {
        if outboard.pack() != pack {
            return Err(Error::PackDamaged(pack.id));
        }
        self.packs_put_ref(no, &[(outboard, bytes)])
    }

    /// Like [`Self::pack_put`], for a pack whose outboard was made of these very bytes: they are not hashed
    /// again. It is durable after the next synced commit.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or when the disk fails.
    pub fn pack_put_made(&self, no: FolderNo, outboard: &Outboard, bytes: &[u8]) -> Result<()> {
        self.put_all(no, &[(outboard, bytes)], Durability::Unsynced)
    }

    /// Stores several whole packs with one file and one commit; durable on return.
    ///
    /// # Errors
    /// See [`Self::pack_put`].
    pub fn packs_put(&self, no: FolderNo, packs: &[(Outboard, Vec<u8>)]) -> Result<()> {
        let packs: Vec<(&Outboard, &[u8])> =
            packs.iter().map(|(outboard, bytes)| (outboard, &bytes[..])).collect();
        self.packs_put_ref(no, &packs)
    }

    /// Like [`Self::packs_put`], for packs whose outboards were made of these very bytes.
    ///
    /// # Errors
    /// See [`Self::pack_put_made`].
    pub fn packs_put_made(&self, no: FolderNo, packs: &[(Outboard, Vec<u8>)]) -> Result<()> {
        let packs: Vec<(&Outboard, &[u8])> =
            packs.iter().map(|(outboard, bytes)| (outboard, &bytes[..])).collect();
        self.put_all(no, &packs, Durability::Synced)
    }

    fn packs_put_ref(&self, no: FolderNo, packs: &[(&Outboard, &[u8])]) -> Result<()> {
        let damaged = |(outboard, bytes): &&(&Outboard, &[u8])| !matches(outboard, bytes);
        if let Some((outboard, _)) = packs.iter().find(damaged) {
            return Err(Error::PackDamaged(outboard.pack().id));
        }
        self.put_all(no, packs, Durability::Synced)
    }

    fn put_all(&self, no: FolderNo, packs: &[(&Outboard, &[u8])], durability: Durability) -> Result<()> {
        let mut wanted = Vec::new();
        let mut seen = HashSet::new();
        for (outboard, bytes) in packs {
            let id = outboard.pack().id;
            if !is_size_class(outboard.pack().size) {
                return Err(Error::PackDamaged(id));
            }
            let complete = self.pack_info(no, id)?.is_some_and(|info| info.state == State::Complete);
            if !complete && seen.insert(id) {
                wanted.push((*outboard, *bytes));
            }
        }
        let is_large = |pack: &&(&Outboard, &[u8])| pack.0.pack().size >= LARGE_BYTES_MIN;
        let large: Vec<(&Outboard, &[u8])> = wanted.iter().filter(is_large).copied().collect();
        let small: Vec<(&Outboard, &[u8])> = wanted.iter().filter(|pack| !is_large(pack)).copied().collect();
        let ordinals = self.ingest_large(&large)?;
        let mut batch = Batch::default();
        let mut unused = Vec::new();
        let mut taken = self.ordinals.lock();
        for ((outboard, _), ordinal) in large.iter().zip(ordinals) {
            unused.extend(self.stage_complete(no, outboard, ordinal, &mut batch)?);
        }
        for (outboard, bytes) in &small {
            let ordinal = taken.take_small(&mut batch);
            for (index, slice) in (0..).zip(bytes.chunks(SLICE_BYTES as usize)) {
                batch.put_bulk(&ordinal.slice_key(index), slice);
            }
            unused.extend(self.stage_complete(no, outboard, ordinal, &mut batch)?);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.db().commit(batch, durability)?;
        drop(taken);
        for (outboard, _) in &wanted {
            self.wants.forget(no, outboard.pack().id);
        }
        self.watch().bump(no);
        self.remove_ordinals(&unused);
        Ok(())
    }

    /// Writes large packs under new ordinals; until [`Self::stage_complete`] they count as garbage.
    fn ingest_large(&self, packs: &[(&Outboard, &[u8])]) -> Result<Vec<Ordinal>> {
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let ordinals: Vec<Ordinal> = {
            let mut next = self.ordinals.lock();
            let mut batch = Batch::default();
            let ordinals: Vec<Ordinal> = packs.iter().map(|_| next.take_large(&mut batch)).collect();
            ordinals.iter().for_each(|ordinal| ordinal.stage_garbage(&mut batch));
            self.db().commit(batch, Durability::Unsynced)?;
            ordinals
        };
        let mut rows = ordinals.iter().zip(packs).flat_map(|(ordinal, (_, bytes))| {
            let slices = (0..).zip(bytes.chunks(SLICE_BYTES as usize));
            slices.map(|(index, slice)| (ordinal.slice_key(index), slice))
        });
        self.db().ingest(&mut rows)?;
        Ok(ordinals)
    }

    /// Adds the rows that make a pack complete. The caller holds the lock of the ordinals, so that nobody
    /// changes the pack's row in between. Returns the ordinal that is no longer used, if any.
    fn stage_complete(
        &self,
        no: FolderNo,
        outboard: &Outboard,
        ordinal: Ordinal,
        batch: &mut Batch,
    ) -> Result<Option<Ordinal>> {
        let pack = outboard.pack();
        let unused = match self.pack_info(no, pack.id)? {
            Some(info) if info.state == State::Complete => {
                ordinal.stage_garbage(batch);
                return Ok(Some(ordinal));
            }
            Some(info) => Some(info.ordinal),
            None => None,
        };
        if let Some(unused) = unused {
            unused.stage_garbage(batch);
        }
        ordinal.stage_used(batch);
        let info = PackInfo { size: pack.size, ordinal, state: State::Complete };
        batch.put(&info_key(no, pack.id), &info.encode());
        batch.put(&key(no, Table::Outboard, &pack.id.0), &outboard.encode());
        batch.delete(&key(no, Table::Missing, &pack.id.0));
        self.stage_mended(no, pack.id, batch)?;
        Ok(unused)
    }

    /// Removes slices that a commit listed as garbage; where it fails, the next opening does it.
    pub(super) fn remove_ordinals(&self, ordinals: &[Ordinal]) {
        for ordinal in ordinals {
            if let Err(error) = ordinal.remove(self.db()) {
                tracing::warn!(%error, "slices without a pack stay until the store is opened again");
            }
        }
    }

    /// What is known of a pack.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn pack_status(&self, no: FolderNo, pack: PackId) -> Result<PackStatus> {
        if let Some(info) = self.pack_info(no, pack)? {
            let known = PackRef { id: pack, size: info.size };
            return Ok(match info.state {
                State::Complete => PackStatus::Complete(known),
                State::Partial(have) => PackStatus::Partial(known, have),
            });
        }
        let live = self.live_size(no, pack)?;
        Ok(live.map_or(PackStatus::Unknown, |size| PackStatus::Missing(PackRef { id: pack, size })))
    }

    pub(super) fn live_size(&self, no: FolderNo, pack: PackId) -> Result<Option<u64>> {
        let row = self.db().get(&key(no, Table::Live, &pack.0))?;
        Ok(row.map(|size| decode_size(&size)).transpose()?)
    }

    /// Visits every pack that entries refer to, ascending by id.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn packs_live(&self, no: FolderNo, visit: &mut dyn FnMut(PackRef, PackState)) -> Result<()> {
        let mut missing = HashSet::new();
        self.scan_packs(no, Table::Missing, None, &mut |pack| {
            missing.insert(pack.id);
            ControlFlow::Continue(())
        })?;
        self.scan_packs(no, Table::Live, None, &mut |pack| {
            let state = if missing.contains(&pack.id) { PackState::Missing } else { PackState::Complete };
            visit(pack, state);
            ControlFlow::Continue(())
        })
    }

    /// Up to `max` live packs that are not wholly here, ascending by id, after `after`.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn packs_missing(&self, no: FolderNo, after: Option<PackId>, max: usize) -> Result<Vec<PackRef>> {
        let mut missing = Vec::new();
        self.scan_packs(no, Table::Missing, after, &mut |pack| {
            if missing.len() < max && Some(pack.id) != after {
                missing.push(pack);
            }
            if missing.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(missing)
    }

    fn scan_packs(
        &self,
        no: FolderNo,
        table: Table,
        from: Option<PackId>,
        visit: &mut dyn FnMut(PackRef) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut wrong = Ok(());
        let from = from.map_or(Vec::new(), |id| id.0.to_vec());
        self.db().scan(
            &key(no, table, &[]),
            &from,
            &mut |id, size| match (id.try_into(), decode_size(size)) {
                (Ok(id), Ok(size)) => visit(PackRef { id: PackId(id), size }),
                _ => {
                    wrong = Err(DecodeError::Invalid { field: "pack row" });
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(wrong?)
    }

    /// A slice, not verified; `None` when it is not here.
    ///
    /// # Errors
    /// [`Error::PackDamaged`] when it should be here and is not.
    pub fn slice(&self, no: FolderNo, pack: PackId, index: u64) -> Result<Option<Vec<u8>>> {
        match self.pack_info(no, pack)? {
            Some(info) => self.slice_of(&info, pack, index),
            None => Ok(None),
        }
    }

    pub(super) fn slice_of(&self, info: &PackInfo, pack: PackId, index: u64) -> Result<Option<Vec<u8>>> {
        if index >= Have::none(info.size).slices() || !info.has(index) {
            return Ok(None);
        }
        let bytes = self.db().bulk_get(&info.ordinal.slice_key(index))?;
        bytes.map(Some).ok_or(Error::PackDamaged(pack))
    }

    /// The outboard of a pack that is here, wholly or in part.
    ///
    /// # Errors
    /// [`Error::PackDamaged`] when the disk changed it.
    pub fn outboard(&self, no: FolderNo, pack: PackId) -> Result<Option<Outboard>> {
        let Some(info) = self.pack_info(no, pack)? else { return Ok(None) };
        let row = self.db().get(&key(no, Table::Outboard, &pack.0))?.ok_or(Error::PackDamaged(pack))?;
        let outboard = Outboard::decode(PackRef { id: pack, size: info.size }, &row);
        outboard.map(Some).map_err(|_| Error::PackDamaged(pack))
    }

    /// Answers an audit: a proof for each sample whose slice is here and sound. A pack that is found
    /// damaged loses the slices that are, and is missing again.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn answer(&self, no: FolderNo, challenge: &Challenge) -> Result<Vec<Option<LeafProof>>> {
        let mut proofs = Vec::with_capacity(challenge.samples.len());
        for sample in &challenge.samples {
            let index = sample.leaf / (SLICE_BYTES / crate::format::proof::LEAF_BYTES);
            match self.sound_slice(no, sample.pack.id, index) {
                Ok(Some((outboard, slice))) => proofs.push(outboard.prove_leaf(sample.leaf, &slice)),
                Ok(None) => proofs.push(None),
                Err(Error::PackDamaged(pack)) => {
                    self.pack_mark_damaged(no, pack)?;
                    proofs.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(proofs)
    }

    fn sound_slice(&self, no: FolderNo, pack: PackId, index: u64) -> Result<Option<(Outboard, Vec<u8>)>> {
        let Some(outboard) = self.outboard(no, pack)? else { return Ok(None) };
        let Some(slice) = self.slice(no, pack, index)? else { return Ok(None) };
        if outboard.slice_matches(index, &slice) {
            Ok(Some((outboard, slice)))
        } else {
            Err(Error::PackDamaged(pack))
        }
    }
}

fn matches(outboard: &Outboard, bytes: &[u8]) -> bool {
    bytes.len() as u64 == outboard.pack().size
        && (0..)
            .zip(bytes.chunks(SLICE_BYTES as usize))
            .all(|(index, slice)| outboard.slice_matches(index, slice))
}

/// The value of a row that names a pack's size.
pub(super) fn size_row(pack: PackRef) -> [u8; 8] {
    pack.size.to_le_bytes()
}

/// Reads what [`size_row`] wrote.
pub(super) fn decode_size(bytes: &[u8]) -> Result<u64, DecodeError> {
    let size = bytes.try_into().map_err(|_| DecodeError::Invalid { field: "pack size" })?;
    Ok(u64::from_le_bytes(size))
}

#[cfg(test)]
mod tests {
    use super::super::damage::bend;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;

    fn packs(sizes: &[usize]) -> Vec<(Outboard, Vec<u8>)> {
        let packs = (0..).zip(sizes).map(|(seed, size)| pack_bytes(seed, *size));
        packs.map(|bytes| (Outboard::of(&bytes), bytes)).collect()
    }

    #[test]
    fn packs_of_every_size_are_read_back_after_reopening() {
        let (dir, store, no) = new_store(&Founder::new(1));
        let packs = packs(&[4096, 256 << 10, 8 << 20, 20480, 1 << 20, 16 << 20]);
        store.packs_put(no, &packs[..4]).expect("puts");
        for (outboard, bytes) in &packs[2..] {
            store.pack_put(no, outboard.pack(), outboard, bytes).expect("puts");
        }
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        for (outboard, bytes) in &packs {
            let pack = outboard.pack();
            assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(pack));
            assert_eq!(store.outboard(no, pack.id).expect("reads").as_ref(), Some(outboard));
            let all = store.pack_range(no, pack.id, 0, bytes.len()).expect("reads");
            assert_eq!(all.as_deref(), Some(&bytes[..]));
            let end = store.pack_range(no, pack.id, pack.size - 100, 100).expect("reads");
            assert_eq!(end.as_deref(), Some(&bytes[bytes.len() - 100..]));
            assert_eq!(store.pack_range(no, pack.id, pack.size - 100, 101).expect("reads"), None);
        }
        let across = store.pack_range(no, packs[2].0.pack().id, SLICE_BYTES - 10, 20).expect("reads");
        assert_eq!(across.as_deref(), packs[2].1.get(65526..65546));
        assert_eq!(store.check_packs(no, &mut |_, _| ControlFlow::Continue(())).expect("checks").packs, 6);
    }

    #[test]
    fn pack_that_does_not_match_its_outboard_is_refused() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let mut packs = packs(&[1 << 20, 4096]);
        let stray = packs[1].0.pack();
        assert!(store.pack_put(no, stray, &packs[0].0, &packs[0].1).is_err());
        packs[0].1[99] ^= 1;
        assert!(matches!(store.packs_put(no, &packs), Err(Error::PackDamaged(_))));
        assert_eq!(store.pack_status(no, stray.id).expect("reads"), PackStatus::Unknown);
    }

    #[test]
    fn missing_packs_are_listed_page_by_page() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let mut refs: Vec<PackRef> = packs(&[4096; 10]).iter().map(|(outboard, _)| outboard.pack()).collect();
        store.entry_add(no, &author.write(&refs, b"")).expect("adds");
        refs.sort_unstable();
        assert_eq!(store.packs_missing(no, None, 4).expect("scans"), refs[..4]);
        assert_eq!(store.packs_missing(no, Some(refs[3].id), 4).expect("scans"), refs[4..8]);
        assert_eq!(store.packs_missing(no, Some(refs[7].id), 4).expect("scans"), refs[8..]);
        assert!(store.packs_missing(no, Some(refs[9].id), 4).expect("scans").is_empty());
    }

    #[test]
    fn audit_proves_what_is_here_and_nothing_else() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let packs = packs(&[1 << 20, 4096, 1 << 20]);
        let refs: Vec<PackRef> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        store.packs_put(no, &packs[..2]).expect("puts");
        let challenge = Challenge::draw(&refs, &[], &[7; 32]);
        let proofs = store.answer(no, &challenge).expect("answers");
        for (sample, proof) in challenge.samples.iter().zip(&proofs) {
            let proved = proof.as_ref().is_some_and(|proof| proof.proves(sample.pack, sample.leaf));
            assert_eq!(proved, sample.pack != refs[2]);
        }
        let ordinal = store.pack_info(no, refs[0].id).expect("reads").expect("is there").ordinal;
        (0..16).for_each(|index| bend(store.db(), ordinal, index));
        let proofs = store.answer(no, &challenge).expect("answers");
        let proved = |(sample, proof): &(&crate::format::proof::Sample, &Option<LeafProof>)| {
            proof.is_some() && sample.pack != refs[1]
        };
        assert!(!challenge.samples.iter().zip(&proofs).any(|pair| proved(&pair)));
        assert_eq!(store.pack_status(no, refs[0].id).expect("reads"), PackStatus::Unknown);
    }

    #[test]
    fn slices_without_a_pack_are_removed_at_opening() {
        let (dir, store, no) = new_store(&Founder::new(1));
        let packs = packs(&[1 << 20]);
        let lost = store.ingest_large(&[(&packs[0].0, &packs[0].1)]).expect("ingests")[0];
        // As if power loss had taken the counter, but not the file.
        let above = Ordinal(lost.0 + 5);
        store.db().ingest(&mut std::iter::once((above.slice_key(0), &packs[0].1[..9]))).expect("ingests");
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        for ordinal in [lost, above] {
            assert_eq!(store.db().bulk_get(&ordinal.slice_key(0)).expect("reads"), None);
        }
        store.packs_put(no, &packs).expect("puts");
        let info = store.pack_info(no, packs[0].0.pack().id).expect("reads").expect("is there");
        assert_eq!(info.ordinal, Ordinal(above.0 + 1));
    }
}
