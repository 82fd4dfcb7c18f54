//! Writing chunks again into packs of the full size (`docs/decisions/0020-packs-are-merged-by-copying.md`).
//!
//! A chunk is copied as it is sealed, after it was opened: its name stays, and so does everything that refers to
//! it. What was copied lies in two packs; this never takes a chunk away from anywhere.

use super::folder::Folder;
use super::pack::{PackBuilder, places};
use super::seal::{self, SealedChunk};
use crate::blind::Durability;
use crate::error::{Error, Result};
use crate::format::content::ChunkRef;
use crate::format::device::PendingRow;
use crate::format::pack::{ChunkType, DirectoryRow, PackRef};
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
            let len = place.len as usize;
            let read = match self.store().pack_range(self.no(), pack, u64::from(place.offset), len) {
                Err(Error::PackDamaged(_)) => return Ok(false),
                read => read?,
            };
            let Some(sealed) = read else { return Ok(false) };
            if seal::open(&keys, place.chunk_type, tag, sealed).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the next entry say of a pack that it holds one chunk that nobody knows, for the tests.
    #[doc(hidden)]
    pub fn lie_about(&self, pack: PackRef) {
        let row = DirectoryRow { chunk_type: ChunkType::Data, tag: crate::id::ChunkTag([9; 32]), len: 100 };
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
            let chunk = ChunkRef { epoch, tag: row.tag };
            if open.find(&row.tag).is_some() {
                continue;
            }
            let Some(from) = self.index_get(&chunk)? else { continue };
            let len = from.len as usize;
            let sealed = match self.store().pack_range(self.no(), from.pack, u64::from(from.offset), len) {
                Err(Error::PackDamaged(_)) => None,
                read => read?,
            };
            let Some(bytes) = sealed else { continue };
            let Ok(plain) = seal::open(&keys, from.chunk_type, row.tag, bytes.clone()) else { continue };
            let plain_len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            if !open.has_room(bytes.len()) {
                let full = std::mem::replace(&mut open, PackBuilder::new(keys.clone()));
                made.push(self.store_copied(full)?);
            }
            open.push(&SealedChunk { chunk, chunk_type: from.chunk_type, bytes, plain_len });
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
