//! Writing chunks again into packs of the full size (`docs/decisions/0020-packs-are-merged-by-copying.md`).
//!
//! A chunk is copied as it is sealed, after it was opened: its name stays, and so does everything that refers to
//! it. What was copied lies in two packs; this never takes a chunk away from anywhere.

use super::epoch::EpochKeys;
use super::folder::Folder;
use super::index::row_at;
use super::pack::{PackBuilder, places};
use super::seal::{self, SealedChunk};
use crate::blind::Durability;
use crate::error::{Error, Result};
use crate::format::content::ChunkRef;
use crate::format::device::{PendingRow, TagRow};
use crate::format::pack::{DirectoryRow, PackRef};
use crate::id::{EpochId, PackId};

impl Folder {
    /// The epoch under which chunks may be written again: the one that is sealed with, which nobody knows who is not
    /// in the folder. `None` until somebody begins one after a removal.
    ///
    /// # Errors
    /// When the store fails.
    pub fn merging_epoch(&self) -> Result<Option<EpochId>> {
        let current = self.keyring.read().current.id();
        Ok(self.store().access(self.no())?.sealing.contains(&current).then_some(current))
    }

    /// Whether a pack is wholly on this device and every row of `directory` opens where it says: what an entry's
    /// author says of a pack is not taken for true where others' packs are let go of because of it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_sound(&self, epoch: EpochId, pack: PackId, directory: &[DirectoryRow]) -> Result<bool> {
        if !self.is_here(pack)? {
            return Ok(false);
        }
        let keys = self.epoch_keys(epoch)?;
        for (tag, place) in places(directory) {
            let Some(sealed) = self.sealed_at(&row_at(pack, place))? else { return Ok(false) };
            if seal::open(&keys, place.chunk_type, tag, sealed).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all these chunks are on this device and open. What is damaged is fetched again.
    ///
    /// # Errors
    /// When the store fails.
    pub fn can_copy(&self, epoch: EpochId, rows: &[DirectoryRow]) -> Result<bool> {
        let keys = self.epoch_keys(epoch)?;
        for row in rows {
            if self.opened_to_copy(&keys, row)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether packs are stored here that no entry lists yet.
    #[must_use]
    pub fn has_unlisted(&self) -> bool {
        !self.packer.stored().is_empty()
    }

    /// A chunk as it is sealed, if it is here and opens.
    fn opened_to_copy(&self, keys: &EpochKeys, row: &DirectoryRow) -> Result<Option<SealedChunk>> {
        let chunk = ChunkRef { epoch: keys.id(), tag: row.tag };
        let Some(from) = self.index_get(&chunk)? else { return Ok(None) };
        let Some(bytes) = self.sealed_at(&from)? else { return Ok(None) };
        let Ok(plain) = seal::open(keys, from.chunk_type, row.tag, bytes.clone()) else { return Ok(None) };
        let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        Ok(Some(SealedChunk { chunk, chunk_type: from.chunk_type, bytes, plain_len }))
    }

    /// The bytes at a place, if they are here as they were written; damage is noted.
    fn sealed_at(&self, from: &TagRow) -> Result<Option<Vec<u8>>> {
        match self.store().pack_range(self.no(), from.pack, u64::from(from.offset), from.len as usize) {
            Err(Error::PackDamaged(_)) => {
                self.store().pack_mark_damaged(self.no(), from.pack)?;
                tracing::warn!(folder = %self.id(), pack = %from.pack, "a pack is damaged and will be fetched again");
                Ok(None)
            }
            read => read,
        }
    }

    /// Has the next entry say of a pack that it holds one chunk and nothing else, for the tests.
    #[doc(hidden)]
    pub fn lie_about(&self, pack: PackRef, row: DirectoryRow) {
        let epoch = self.keyring.read().current.id();
        self.packer.adopt(PendingRow { pack, epoch, directory: vec![row] });
    }

    /// Copies rows of a pack's directory that `wanted` names, from what is here, into packs of the full size, which
    /// the next entry lists. What is not here, or does not open, is passed over: it stays where it is.
    ///
    /// # Errors
    /// When the store fails; what was copied until then is whole.
    pub fn copy_chunks(
        &self,
        epoch: EpochId,
        wanted: &mut dyn Iterator<Item = DirectoryRow>,
    ) -> Result<Vec<PackRef>> {
        let keys = self.epoch_keys(epoch)?;
        let (mut open, mut made) = (PackBuilder::new(keys.clone()), Vec::new());
        for row in wanted {
            if open.find(&row.tag).is_some() {
                continue;
            }
            let Some(sealed) = self.opened_to_copy(&keys, &row)? else { continue };
            if !open.has_room(sealed.bytes.len()) {
                let full = std::mem::replace(&mut open, PackBuilder::new(keys.clone()));
                made.push(self.store_copied(full)?);
            }
            open.push(&sealed);
        }
        if !open.is_empty() {
            made.push(self.store_copied(open)?);
        }
        Ok(made)
    }

    fn store_copied(&self, full: PackBuilder) -> Result<PackRef> {
        let row = self.store_pack(&full.close()?, Durability::Synced)?;
        let pack = row.pack;
        self.packer.adopt(row);
        Ok(pack)
    }
}
