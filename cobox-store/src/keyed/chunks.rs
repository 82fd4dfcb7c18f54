//! Chunks of a folder: sealed, stowed in packs, read back.

use std::ops::Range;

use super::cache::Claim;
use super::chunker::Chunker;
use super::epoch::EpochKeys;
use super::folder::Folder;
use super::pack::{ClosedPack, open_pack, places};
use super::pages::FLAG_BYTES;
use super::plain::Plain;
use super::seal::{self, SealedChunk};
use crate::blind::{Batch, Durability, PackStatus};
use crate::error::{Error, Result};
use crate::format::content::ChunkRef;
use crate::format::device::{PendingRow, TagRow};
use crate::format::pack::{CHUNK_OVERHEAD_BYTES, ChunkType};
use crate::format::{PACK_BYTES_MAX, SLICE_BYTES};
use crate::id::PackId;

/// Packs that are read whole in search of one chunk: a reader waits for some 256 MiB at the most, however many packs
/// somebody says to hold what nobody can open.
const PACKS_ASKED_MAX: usize = 32;

/// How a file is read of which chunks are opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// From one end to the other.
    InOrder,
    /// A few bytes here and there: it may come back to a chunk that is no longer in memory.
    Scattered,
}

impl Folder {
    /// Where this folder's files are cut.
    #[must_use]
    pub fn chunker(&self) -> Chunker {
        self.chunker.clone()
    }

    /// Seals one chunk of 1 to [`crate::format::CHUNK_BYTES_MAX`] bytes; computes only, in the caller's thread.
    ///
    /// # Panics
    /// When `plain` is empty or too long.
    #[must_use]
    pub fn seal(&self, chunk_type: ChunkType, plain: &[u8]) -> SealedChunk {
        let keys = self.keyring.read().current.clone();
        seal::seal(&keys, chunk_type, plain)
    }

    /// Puts a sealed chunk into the open pack, unless it is stored already. It can be read at once, and is
    /// durable after [`Self::flush_packs`].
    ///
    /// # Errors
    /// When the store fails; what was stowed stays in memory and is stored by the next call that can.
    pub fn stow(&self, sealed: SealedChunk) -> Result<ChunkRef> {
        let chunk = sealed.chunk;
        let keys = self.epoch_keys(chunk.epoch)?;
        if !self.packer.holds(&chunk) && !self.index_holds(&chunk)? {
            self.packer.push(&keys, &sealed, &|closed, durability| self.store_pack(closed, durability))?;
        }
        Ok(chunk)
    }

    /// Closes the open pack; all stowed chunks are durable afterwards.
    ///
    /// # Errors
    /// When the store fails; nothing is lost and the call can be repeated.
    pub fn flush_packs(&self) -> Result<()> {
        let storer = |closed: &ClosedPack, durability| self.store_pack(closed, durability);
        self.packer.flush(&storer, &|| self.store().db().sync())
    }

    /// The pack first, then the rows that lead to it.
    pub(super) fn store_pack(&self, closed: &ClosedPack, durability: Durability) -> Result<PendingRow> {
        let pack = closed.outboard.pack();
        self.store().pack_put_made(self.no(), &closed.outboard, &closed.bytes)?;
        let row = PendingRow { pack, epoch: closed.keys.id(), directory: closed.rows.clone() };
        let mut batch = Batch::default();
        self.index_pack(row.epoch, pack.id, &row.directory, &mut batch)?;
        self.pending_put(&row, &mut batch);
        self.store().db().commit(batch, durability)?;
        tracing::debug!(folder = %self.id(), pack = %closed.id(), bytes = pack.size, "pack stored");
        Ok(row)
    }

    /// The plaintext of a chunk, from memory or the disk; never from the network.
    ///
    /// # Errors
    /// [`Error::Absent`] when its pack is not on this device, [`Error::PackDamaged`] when the disk changed
    /// it (it is fetched again), [`Error::Sealed`] when its author made it wrong.
    pub fn read_chunk(&self, chunk_type: ChunkType, chunk: ChunkRef) -> Result<Plain> {
        self.cache.get_or_open((chunk, chunk_type), || self.open_chunk(chunk_type, chunk, Reader::InOrder))
    }

    /// A part of the plaintext of a data chunk, like [`Self::read_chunk`]. Where the chunk is no longer in memory but
    /// was opened for this before, only the pages are read that hold the part. `None` where the chunk ends before it.
    ///
    /// # Errors
    /// See [`Self::read_chunk`].
    pub fn read_part(&self, chunk: ChunkRef, part: &Range<usize>) -> Result<Option<Plain>> {
        let key = (chunk, ChunkType::Data);
        if let Some(plain) = self.cache.get(&key) {
            return Ok(plain.part(part));
        }
        if let Some(plain) = self.read_pages(chunk, part)? {
            return Ok(Some(plain));
        }
        let plain =
            self.cache.get_or_open(key, || self.open_chunk(ChunkType::Data, chunk, Reader::Scattered))?;
        Ok(plain.part(part))
    }

    /// Whether [`Self::read_part`] answers from memory or a few pages, now or in a moment.
    #[must_use]
    pub fn reads_parts_of(&self, chunk: ChunkRef) -> bool {
        self.pages.has(&chunk) || self.cache.expects(&(chunk, ChunkType::Data))
    }

    /// The part from pages that are as they were when the chunk was opened; `None` leaves it to be opened whole,
    /// which finds out what else there is to say.
    fn read_pages(&self, chunk: ChunkRef, part: &Range<usize>) -> Result<Option<Plain>> {
        let Some(known) = self.pages.get(&chunk).filter(|known| self.pages.reads(known)) else {
            return Ok(None);
        };
        let Some(pages) = known.pages_of(part) else { return Ok(None) };
        let offset = u64::from(known.place.offset) + (FLAG_BYTES + pages.start) as u64;
        let read = self.store().pack_few(self.no(), known.place.pack, offset, pages.len());
        let Ok(Some(mut sealed)) = read else { return Ok(None) };
        if !self.pages.match_with(&known, &pages, &sealed) {
            return Ok(None);
        }
        let keys = self.epoch_keys(chunk.epoch)?;
        let start = part.start - pages.start;
        sealed.truncate(start + part.len());
        let mut bytes = sealed.split_off(start);
        seal::open_part(&keys, &chunk.tag, part.start, &mut bytes);
        Ok(Some(Plain::from(bytes)))
    }

    fn open_chunk(&self, chunk_type: ChunkType, chunk: ChunkRef, reader: Reader) -> Result<Plain> {
        let keys = self.epoch_keys(chunk.epoch)?;
        match self.packer.read(&chunk) {
            Some(sealed) => seal::open(&keys, chunk_type, chunk.tag, sealed),
            None => {
                let row = self.index_get(&chunk)?.ok_or(Error::Absent(chunk.tag))?;
                let len = row.len as usize;
                let sealed = match self.store().pack_range(self.no(), row.pack, u64::from(row.offset), len) {
                    Err(Error::PackDamaged(_)) => return Err(self.damaged(&row)?),
                    read => read?.ok_or(Error::Absent(chunk.tag))?,
                };
                match self.open_read(&keys, (chunk, chunk_type), row, sealed, reader) {
                    Ok(plain) => Ok(plain),
                    Err(_) => match self.blame(&row)? {
                        Error::Sealed => self.open_where_it_is(chunk_type, chunk),
                        other => Err(other),
                    },
                }
            }
        }
    }

    /// Opens what was read at `place`.
    fn open_read(
        &self,
        keys: &EpochKeys,
        (chunk, chunk_type): (ChunkRef, ChunkType),
        place: TagRow,
        sealed: Vec<u8>,
        reader: Reader,
    ) -> Result<Plain> {
        let is_kept = || self.pages.get(&chunk).is_some_and(|known| known.has_none() || known.place == place);
        if reader == Reader::InOrder || is_kept() {
            return seal::open(keys, chunk_type, chunk.tag, sealed);
        }
        let digests = self.pages.digests(&sealed);
        let plain = seal::open(keys, chunk_type, chunk.tag, sealed)?;
        // What is compressed has no pages, and is short.
        let is_raw = plain.len() + CHUNK_OVERHEAD_BYTES == place.len as usize;
        self.pages.keep(chunk, place, if is_raw { digests } else { Vec::new() });
        Ok(plain)
    }

    /// Opens chunks that will be read soon, if they are on this device: they are in memory then, as far as
    /// the cache reaches. Neighbours in a pack are read with one request to the disk. What fails here fails
    /// again for its reader, who is told.
    pub fn read_ahead(&self, chunk_type: ChunkType, chunks: &[ChunkRef], reader: Reader) {
        let mut run: Vec<(Claim<'_>, TagRow)> = Vec::new();
        for chunk in chunks {
            let Some(claim) = self.cache.claim((*chunk, chunk_type)) else { continue };
            let Ok(Some(row)) = self.index_get(chunk) else { continue };
            let adjoins = run.last().is_some_and(|(_, last)| {
                last.pack == row.pack && u64::from(last.offset) + u64::from(last.len) == u64::from(row.offset)
            });
            if !adjoins {
                self.open_run(chunk_type, std::mem::take(&mut run), reader);
            }
            run.push((claim, row));
        }
        self.open_run(chunk_type, run, reader);
    }

    /// Opens chunks that lie side by side in one pack.
    fn open_run(&self, chunk_type: ChunkType, run: Vec<(Claim<'_>, TagRow)>, reader: Reader) {
        let Some((_, first)) = run.first() else { return };
        let lens: Vec<usize> = run.iter().map(|(_, row)| row.len as usize).collect();
        let read = self.store().pack_parts(self.no(), first.pack, u64::from(first.offset), &lens);
        let Ok(Some(parts)) = read else { return };
        for ((claim, row), sealed) in run.into_iter().zip(parts) {
            let chunk = claim.chunk();
            let Ok(keys) = self.epoch_keys(chunk.epoch) else { continue };
            if let Ok(plain) = self.open_read(&keys, (chunk, chunk_type), row, sealed, reader) {
                claim.keep(&plain);
            }
        }
    }

    /// Opens a chunk that is not where an entry says: whoever may write can say anything of any pack. What a pack says
    /// of itself is sealed by who made it; the index is put right by it.
    fn open_where_it_is(&self, chunk_type: ChunkType, chunk: ChunkRef) -> Result<Plain> {
        let keys = self.epoch_keys(chunk.epoch)?;
        for pack in self.packs_said_to_hold(&chunk)?.into_iter().take(PACKS_ASKED_MAX) {
            let PackStatus::Complete(known) = self.store().pack_status(self.no(), pack)? else { continue };
            let len = usize::try_from(known.size.min(PACK_BYTES_MAX)).unwrap_or(usize::MAX);
            let bytes = match self.store().pack_range(self.no(), pack, 0, len) {
                Ok(Some(bytes)) => bytes,
                Ok(None) | Err(Error::PackDamaged(_)) => continue,
                Err(error) => return Err(error),
            };
            let Ok(directory) = open_pack(&keys, &bytes) else { continue };
            let Some((_, place)) = places(&directory).find(|(tag, _)| *tag == chunk.tag) else { continue };
            let start = place.offset as usize;
            let sealed = bytes.get(start..start + place.len as usize).ok_or(Error::Sealed)?.to_vec();
            let plain = seal::open(&keys, chunk_type, chunk.tag, sealed)?;
            let mut batch = Batch::default();
            self.index_pack(chunk.epoch, pack, &directory, &mut batch)?;
            self.store().db().commit(batch, Durability::Unsynced)?;
            tracing::warn!(folder = %self.id(), %pack, "an entry says wrongly what is in a pack");
            return Ok(plain);
        }
        Err(Error::Sealed)
    }

    /// Why a chunk that was read does not open: the disk's fault, or its author's.
    fn blame(&self, row: &TagRow) -> Result<Error> {
        let outboard = match self.store().outboard(self.no(), row.pack) {
            Ok(Some(outboard)) => outboard,
            Ok(None) => return Ok(Error::PackDamaged(row.pack)),
            Err(Error::PackDamaged(_)) => return self.damaged(row),
            Err(error) => return Err(error),
        };
        for index in slices(row) {
            match self.store().slice(self.no(), row.pack, index) {
                Ok(Some(slice)) if outboard.slice_matches(index, &slice) => {}
                Ok(_) | Err(Error::PackDamaged(_)) => return self.damaged(row),
                Err(error) => return Err(error),
            }
        }
        Ok(Error::Sealed)
    }

    /// Has the damaged slices of a pack fetched again.
    fn damaged(&self, row: &TagRow) -> Result<Error> {
        self.store().pack_mark_damaged(self.no(), row.pack)?;
        tracing::warn!(folder = %self.id(), pack = %row.pack, "a pack is damaged and will be fetched again");
        Ok(Error::PackDamaged(row.pack))
    }

    /// Whether a chunk's bytes lie on this device, in memory or in slices that were found sound.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_whole_here(&self, chunk: ChunkRef) -> Result<bool> {
        if self.packer.read(&chunk).is_some() {
            return Ok(true);
        }
        let Some(row) = self.index_get(&chunk)? else { return Ok(false) };
        match self.store().pack_range(self.no(), row.pack, u64::from(row.offset), row.len as usize) {
            Ok(found) => Ok(found.is_some()),
            Err(Error::PackDamaged(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a chunk lies: the pack that it would be fetched from, and which of its slices it needs; `None` while it is
    /// only in memory or nobody named it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn slices_of(&self, chunk: ChunkRef) -> Result<Option<(PackId, Range<u64>)>> {
        Ok(self.index_get(&chunk)?.map(|row| (row.pack, slices(&row))))
    }

    /// The pack a chunk would be fetched from; `None` while it is only in memory or nobody named it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn pack_of(&self, chunk: ChunkRef) -> Result<Option<PackId>> {
        Ok(self.index_get(&chunk)?.map(|row| row.pack))
    }
}

/// The slices of its pack that a chunk needs.
fn slices(row: &TagRow) -> Range<u64> {
    let end = (u64::from(row.offset) + u64::from(row.len)).min(PACK_BYTES_MAX);
    u64::from(row.offset) / SLICE_BYTES..end.div_ceil(SLICE_BYTES)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::cache::CACHE_BYTES_MAX;
    use super::super::seal::tests::noise;
    use super::super::{Home, MemberSecret, PassphraseCost, Unlock};
    use super::*;
    use crate::format::CHUNK_BYTES_MAX;

    fn folder(dir: &Path) -> Arc<Folder> {
        let unlock = Unlock::Passphrase(zeroize::Zeroizing::new("pass".into()));
        let secret = MemberSecret::generate().expect("random");
        let cost = PassphraseCost::cheapest_for_tests();
        let home = Home::init_at_cost(dir, "laptop", &unlock, &secret, cost).expect("a home");
        home.folder_create("photos").expect("a folder")
    }

    /// Stows the chunks and closes their packs, so that they are read from the disk.
    fn stored(folder: &Folder, plains: &[Vec<u8>]) -> Vec<ChunkRef> {
        let stow = |plain: &Vec<u8>| folder.stow(folder.seal(ChunkType::Data, plain)).expect("stowed");
        let chunks = plains.iter().map(stow).collect();
        folder.flush_packs().expect("flushed");
        chunks
    }

    /// Pushes all that was opened before out of memory.
    fn forget(folder: &Folder) {
        let others: Vec<Vec<u8>> =
            (0..=CACHE_BYTES_MAX / CHUNK_BYTES_MAX).map(|at| noise(CHUNK_BYTES_MAX - at, 9)).collect();
        for chunk in stored(folder, &others) {
            folder.read_chunk(ChunkType::Data, chunk).expect("opens");
        }
    }

    fn is_in_memory(folder: &Folder, chunk: ChunkRef) -> bool {
        folder.cache.expects(&(chunk, ChunkType::Data))
    }

    fn parts(len: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = [0, 1, 4095, 16_382, 16_383, 16_384, 70_000, len / 2, len - 1, len];
        starts.into_iter().map(move |start| start.min(len)..(start + 4096).min(len))
    }

    #[test]
    fn part_of_a_chunk_that_left_memory_is_read_without_the_rest() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = folder(dir.path());
        let plains = [noise(CHUNK_BYTES_MAX, 1), noise(90_001, 2), vec![7; 100_000], noise(5_000, 3)];
        let chunks = stored(&folder, &plains);
        let check = |chunk: &ChunkRef, plain: &[u8]| {
            for part in parts(plain.len()) {
                let read = folder.read_part(*chunk, &part).expect("reads").expect("is there");
                assert_eq!(*read, plain[part]);
            }
            assert_eq!(folder.read_part(*chunk, &(plain.len()..plain.len() + 1)).expect("reads"), None);
        };
        chunks.iter().zip(&plains).for_each(|(chunk, plain)| check(chunk, plain));
        assert!(chunks.iter().all(|chunk| is_in_memory(&folder, *chunk)));
        forget(&folder);
        let part = 1000..5000;
        for (chunk, plain) in chunks.iter().zip(&plains) {
            assert!(!is_in_memory(&folder, *chunk));
            let read = folder.read_part(*chunk, &part).expect("reads").expect("is there");
            assert_eq!(*read, plain[part.clone()]);
        }
        // What is compressed has no pages.
        let whole: Vec<bool> = chunks.iter().map(|chunk| is_in_memory(&folder, *chunk)).collect();
        assert_eq!(whole, [false, false, true, false]);
        chunks.iter().zip(&plains).for_each(|(chunk, plain)| check(chunk, plain));
    }

    #[test]
    fn part_of_a_page_that_the_disk_changed_is_never_handed_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = folder(dir.path());
        let plain = noise(CHUNK_BYTES_MAX, 1);
        let chunk = stored(&folder, std::slice::from_ref(&plain))[0];
        let part = 100_000..104_096;
        assert!(folder.read_part(chunk, &part).expect("reads").is_some());
        forget(&folder);
        let place = folder.index_get(&chunk).expect("reads").expect("is there");
        let slice = (u64::from(place.offset) + 100_000) / SLICE_BYTES;
        folder.store().bend(folder.no(), place.pack, slice);
        assert!(
            matches!(folder.read_part(chunk, &part), Err(Error::PackDamaged(pack)) if pack == place.pack)
        );
        assert!(!is_in_memory(&folder, chunk));
    }
}
