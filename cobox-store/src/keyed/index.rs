//! Where chunks are: rows of the tag index, and packs that no entry names yet.

use std::ops::ControlFlow;

use super::folder::Folder;
use super::pack::{Place, places};
use crate::blind::{Batch, PackStatus, Table, key};
use crate::error::Result;
use crate::format::DecodeError;
use crate::format::content::ChunkRef;
use crate::format::device::{PendingRow, TagRow};
use crate::format::entry::{Body, Entry};
use crate::format::pack::DirectoryRow;
use crate::id::{EpochId, PackId};

impl Folder {
    /// The row of a chunk.
    pub(super) fn index_get(&self, chunk: &ChunkRef) -> Result<Option<TagRow>> {
        let row_key = self.index_key(chunk);
        let Some(sealed) = self.store().db().get(&row_key)? else { return Ok(None) };
        Ok(Some(TagRow::decode(&self.local().open(&row_key, &sealed)?)?))
    }

    /// Whether a chunk lies in a pack that is wholly here.
    pub(super) fn index_holds(&self, chunk: &ChunkRef) -> Result<bool> {
        match self.index_get(chunk)? {
            Some(row) => self.is_here(row.pack),
            None => Ok(false),
        }
    }

    fn is_here(&self, pack: PackId) -> Result<bool> {
        Ok(matches!(self.store().pack_status(self.no(), pack)?, PackStatus::Complete(_)))
    }

    fn index_key(&self, chunk: &ChunkRef) -> Vec<u8> {
        key(self.no(), Table::TagIndex, &self.local().tag_hash(chunk))
    }

    /// Puts rows for all chunks of a pack.
    pub(super) fn index_pack(
        &self,
        epoch: EpochId,
        pack: PackId,
        directory: &[DirectoryRow],
        batch: &mut Batch,
    ) {
        for (tag, place) in places(directory) {
            self.index_put(&ChunkRef { epoch, tag }, pack, place, batch);
        }
    }

    fn index_put(&self, chunk: &ChunkRef, pack: PackId, place: Place, batch: &mut Batch) {
        let row_key = self.index_key(chunk);
        let row = TagRow { pack, offset: place.offset, len: place.len, chunk_type: place.chunk_type };
        let sealed = self.local().seal(&row_key, &row.encode());
        batch.put_owned(row_key, sealed);
    }

    /// Adds the index rows of an opened entry's packs to `batch`; a chunk that is here already keeps the
    /// row that leads to it.
    ///
    /// # Errors
    /// When header and body disagree about the packs, or the store fails.
    pub fn index_entry(&self, entry: &Entry, body: &Body, batch: &mut Batch) -> Result<()> {
        let header = entry.header();
        if body.directories.len() != header.packs.len() {
            return Err(DecodeError::Invalid { field: "directories" }.into());
        }
        for (pack, directory) in header.packs.iter().zip(&body.directories) {
            let Some(directory) = directory else { continue };
            if directory.iter().map(|row| u64::from(row.len)).sum::<u64>() > pack.size {
                return Err(DecodeError::Invalid { field: "directories" }.into());
            }
            for (tag, place) in places(directory) {
                let chunk = ChunkRef { epoch: header.epoch, tag };
                if !self.index_holds(&chunk)? {
                    self.index_put(&chunk, pack.id, place, batch);
                }
            }
        }
        Ok(())
    }

    fn pending_key(&self, pack: PackId) -> Vec<u8> {
        key(self.no(), Table::PendingPack, &pack.0)
    }

    pub(super) fn pending_put(&self, row: &PendingRow, batch: &mut Batch) {
        let row_key = self.pending_key(row.pack.id);
        batch.put(&row_key, &self.local().seal(&row_key, &row.encode()));
    }

    pub(super) fn pending_delete(&self, pack: PackId, batch: &mut Batch) {
        batch.delete(&self.pending_key(pack));
    }

    /// All packs that no entry names yet.
    pub(super) fn pending_load(&self) -> Result<Vec<PendingRow>> {
        let prefix = key(self.no(), Table::PendingPack, &[]);
        let mut rows = Vec::new();
        self.store().db().scan(&prefix, &[], &mut |rest, sealed| {
            let row_key = [prefix.as_slice(), rest].concat();
            rows.push(self.local().open(&row_key, sealed));
            ControlFlow::Continue(())
        })?;
        rows.into_iter().map(|row| Ok(PendingRow::decode(&row?)?)).collect()
    }
}
