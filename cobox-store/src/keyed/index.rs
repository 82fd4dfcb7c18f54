//! Where chunks are: rows of the tag index, and packs that no entry names yet.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::folder::Folder;
use super::pack::{Place, places};
use crate::blind::{Batch, PackStatus, Table, key};
use crate::error::{Error, Result};
use crate::format::DecodeError;
use crate::format::content::ChunkRef;
use crate::format::device::{PendingRow, TagRow};
use crate::format::entry::{Body, Entry};
use crate::format::pack::DirectoryRow;
use crate::id::{ChunkTag, EpochId, PackId};

pub(super) fn row_at(pack: PackId, place: Place) -> TagRow {
    TagRow { pack, offset: place.offset, len: place.len, chunk_type: place.chunk_type }
}

impl Folder {
    /// Where a chunk can be read, or would be fetched from where it is not here. Of several places the one that
    /// is here counts, and of those the one whose pack is live: it stays.
    pub(super) fn index_get(&self, chunk: &ChunkRef) -> Result<Option<TagRow>> {
        match self.index_first(chunk)? {
            Some(row) if self.is_here(row.pack)? => Ok(Some(row)),
            Some(row) => Ok(Some(self.best_place(chunk, row)?)),
            None => Ok(None),
        }
    }

    /// Like [`Self::index_get`], but a pack that was released counts only where no other holds the chunk.
    pub(super) fn index_kept(&self, chunk: &ChunkRef) -> Result<Option<TagRow>> {
        self.index_first(chunk)?.map(|row| self.best_place(chunk, row)).transpose()
    }

    fn best_place(&self, chunk: &ChunkRef, first: TagRow) -> Result<TagRow> {
        let rank = |row: &TagRow| Ok::<_, Error>((self.is_here(row.pack)?, self.is_live(row.pack)?));
        let (mut best, mut best_rank) = (first, rank(&first)?);
        if best_rank == (true, true) {
            return Ok(best);
        }
        for row in self.other_places(chunk)? {
            let of_row = rank(&row)?;
            if of_row > best_rank {
                (best, best_rank) = (row, of_row);
            }
        }
        Ok(best)
    }

    /// The row that an index without [`Table::OtherPlace`] would have.
    fn index_first(&self, chunk: &ChunkRef) -> Result<Option<TagRow>> {
        let row_key = self.index_key(chunk);
        let Some(sealed) = self.store().db().get(&row_key)? else { return Ok(None) };
        Ok(Some(TagRow::decode(&self.local().open(&row_key, &sealed)?)?))
    }

    fn other_places(&self, chunk: &ChunkRef) -> Result<Vec<TagRow>> {
        let prefix = key(self.no(), Table::OtherPlace, &self.local().tag_hash(chunk));
        let mut rows = Vec::new();
        self.store().db().scan(&prefix, &[], &mut |rest, sealed| {
            let row_key = [prefix.as_slice(), rest].concat();
            rows.push(self.local().open(&row_key, sealed));
            ControlFlow::Continue(())
        })?;
        rows.into_iter().map(|row| Ok(TagRow::decode(&row?)?)).collect()
    }

    /// Packs that entries say to hold a chunk.
    pub(super) fn packs_said_to_hold(&self, chunk: &ChunkRef) -> Result<Vec<PackId>> {
        let others = self.other_places(chunk)?;
        Ok(self.index_first(chunk)?.into_iter().chain(others).map(|row| row.pack).collect())
    }

    /// Whether a chunk lies in a pack that is wholly here.
    pub(super) fn index_holds(&self, chunk: &ChunkRef) -> Result<bool> {
        match self.index_get(chunk)? {
            Some(row) => self.is_here(row.pack),
            None => Ok(false),
        }
    }

    /// Whether a pack is wholly here.
    pub(super) fn is_here(&self, pack: PackId) -> Result<bool> {
        Ok(matches!(self.store().pack_status(self.no(), pack)?, PackStatus::Complete(_)))
    }

    fn is_live(&self, pack: PackId) -> Result<bool> {
        self.store().db().contains(&key(self.no(), Table::Live, &pack.0))
    }

    fn index_key(&self, chunk: &ChunkRef) -> Vec<u8> {
        key(self.no(), Table::TagIndex, &self.local().tag_hash(chunk))
    }

    /// The pack in which a chunk stays on this device when what was released goes, if it is known at all. Adds to
    /// `batch` that the index leads there.
    ///
    /// # Errors
    /// When the store fails.
    pub fn lead_to_kept(&self, chunk: ChunkRef, batch: &mut Batch) -> Result<Option<PackId>> {
        let Some(first) = self.index_first(&chunk)? else { return Ok(None) };
        let kept = self.best_place(&chunk, first)?;
        if kept.pack != first.pack {
            self.index_put(&chunk, &kept, batch);
            self.other_put(&chunk, &first, batch);
        }
        Ok(Some(kept.pack))
    }

    /// Puts rows for all chunks of a pack that is here.
    pub(super) fn index_pack(
        &self,
        epoch: EpochId,
        pack: PackId,
        directory: &[DirectoryRow],
        batch: &mut Batch,
    ) -> Result<()> {
        for (tag, place) in places(directory) {
            let chunk = ChunkRef { epoch, tag };
            if let Some(before) = self.index_first(&chunk)?.filter(|row| row.pack != pack) {
                self.other_put(&chunk, &before, batch);
            }
            self.index_put(&chunk, &row_at(pack, place), batch);
        }
        Ok(())
    }

    fn index_put(&self, chunk: &ChunkRef, row: &TagRow, batch: &mut Batch) {
        let row_key = self.index_key(chunk);
        let sealed = self.local().seal(&row_key, &row.encode());
        batch.put_owned(row_key, sealed);
    }

    fn other_key(&self, chunk: &ChunkRef, pack: PackId) -> Vec<u8> {
        let rest = [&self.local().tag_hash(chunk)[..], &pack.0].concat();
        key(self.no(), Table::OtherPlace, &rest)
    }

    fn other_get(&self, chunk: &ChunkRef, pack: PackId) -> Result<Option<TagRow>> {
        let row_key = self.other_key(chunk, pack);
        let Some(sealed) = self.store().db().get(&row_key)? else { return Ok(None) };
        Ok(Some(TagRow::decode(&self.local().open(&row_key, &sealed)?)?))
    }

    fn other_add(&self, chunk: &ChunkRef, row: &TagRow, batch: &mut Batch) -> Result<()> {
        if !self.store().db().contains(&self.other_key(chunk, row.pack))? {
            self.other_put(chunk, row, batch);
        }
        Ok(())
    }

    fn other_put(&self, chunk: &ChunkRef, row: &TagRow, batch: &mut Batch) {
        let row_key = self.other_key(chunk, row.pack);
        let sealed = self.local().seal(&row_key, &row.encode());
        batch.put_owned(row_key, sealed);
    }

    /// Adds the index rows of an opened entry's packs to `batch`; a chunk that is here already keeps the
    /// row that leads to it. Where a chunk lies in several packs all are known: any of them may be released. Where in a
    /// pack it lies, the first who says so is believed.
    ///
    /// # Errors
    /// When header and body disagree about the packs, or the store fails.
    pub fn index_entry(&self, entry: &Entry, body: &Body, batch: &mut Batch) -> Result<()> {
        let header = entry.header();
        if body.directories.len() != header.packs.len() {
            return Err(DecodeError::Invalid { field: "directories" }.into());
        }
        // What this very entry put is in no row yet.
        let mut put: HashMap<ChunkTag, TagRow> = HashMap::new();
        for (pack, directory) in header.packs.iter().zip(&body.directories) {
            let Some(directory) = directory else { continue };
            if directory.iter().map(|row| u64::from(row.len)).sum::<u64>() > pack.size {
                return Err(DecodeError::Invalid { field: "directories" }.into());
            }
            for (tag, place) in places(directory) {
                let chunk = ChunkRef { epoch: header.epoch, tag };
                let row = row_at(pack.id, place);
                let before = match put.get(&tag) {
                    Some(row) => Some(*row),
                    None => self.index_first(&chunk)?,
                };
                match before {
                    Some(before) if before.pack == pack.id => {}
                    Some(before) if self.is_here(before.pack)? => self.other_add(&chunk, &row, batch)?,
                    before => {
                        if let Some(before) = before {
                            self.other_put(&chunk, &before, batch);
                        }
                        let row = self.other_get(&chunk, pack.id)?.unwrap_or(row);
                        self.index_put(&chunk, &row, batch);
                        put.insert(tag, row);
                    }
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
