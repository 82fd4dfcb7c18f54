//! Chunks of a folder: sealed, stowed in packs, read back.

use super::cache::Claim;
use super::chunker::Chunker;
use super::folder::Folder;
use super::pack::{ClosedPack, open_pack, places};
use super::plain::Plain;
use super::seal::{self, SealedChunk};
use crate::blind::{Batch, Durability, PackStatus};
use crate::error::{Error, Result};
use crate::format::content::ChunkRef;
use crate::format::device::{PendingRow, TagRow};
use crate::format::pack::ChunkType;
use crate::format::{PACK_BYTES_MAX, SLICE_BYTES};
use crate::id::PackId;

/// Packs that are read whole in search of one chunk: a reader waits for some 256 MiB at the most, however many packs
/// somebody says to hold what nobody can open.
const PACKS_ASKED_MAX: usize = 32;

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
        self.cache.get_or_open((chunk, chunk_type), || self.open_chunk(chunk_type, chunk))
    }

    fn open_chunk(&self, chunk_type: ChunkType, chunk: ChunkRef) -> Result<Plain> {
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
                match seal::open(&keys, chunk_type, chunk.tag, sealed) {
                    Ok(plain) => Ok(plain),
                    Err(_) => match self.blame(&row)? {
                        Error::Sealed => self.open_where_it_is(chunk_type, chunk),
                        other => Err(other),
                    },
                }
            }
        }
    }

    /// Opens chunks that will be read soon, if they are on this device: they are in memory then, as far as
    /// the cache reaches. Neighbours in a pack are read with one request to the disk. What fails here fails
    /// again for its reader, who is told.
    pub fn read_ahead(&self, chunk_type: ChunkType, chunks: &[ChunkRef]) {
        let mut run: Vec<(Claim<'_>, TagRow)> = Vec::new();
        for chunk in chunks {
            let Some(claim) = self.cache.claim((*chunk, chunk_type)) else { continue };
            let Ok(Some(row)) = self.index_get(chunk) else { continue };
            let adjoins = run.last().is_some_and(|(_, last)| {
                last.pack == row.pack && u64::from(last.offset) + u64::from(last.len) == u64::from(row.offset)
            });
            if !adjoins {
                self.open_run(chunk_type, std::mem::take(&mut run));
            }
            run.push((claim, row));
        }
        self.open_run(chunk_type, run);
    }

    /// Opens chunks that lie side by side in one pack.
    fn open_run(&self, chunk_type: ChunkType, run: Vec<(Claim<'_>, TagRow)>) {
        let Some((_, first)) = run.first() else { return };
        let lens: Vec<usize> = run.iter().map(|(_, row)| row.len as usize).collect();
        let read = self.store().pack_parts(self.no(), first.pack, u64::from(first.offset), &lens);
        let Ok(Some(parts)) = read else { return };
        for ((claim, _), sealed) in run.into_iter().zip(parts) {
            let chunk = claim.chunk();
            let Ok(keys) = self.epoch_keys(chunk.epoch) else { continue };
            if let Ok(plain) = seal::open(&keys, chunk_type, chunk.tag, sealed) {
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
        let end = (u64::from(row.offset) + u64::from(row.len)).min(PACK_BYTES_MAX);
        for index in u64::from(row.offset) / SLICE_BYTES..end.div_ceil(SLICE_BYTES) {
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

    /// The pack a chunk would be fetched from; `None` while it is only in memory or nobody named it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn pack_of(&self, chunk: ChunkRef) -> Result<Option<PackId>> {
        Ok(self.index_get(&chunk)?.map(|row| row.pack))
    }
}
