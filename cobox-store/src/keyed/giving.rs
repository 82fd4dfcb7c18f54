//! Giving space back, as far as keys are needed: which packs this device still has to list again, what it has
//! acknowledged, and signing the records (`docs/format.md`, "Giving space back").
//!
//! A device that acknowledges promises: whatever it refers to from then on is reachable in the tree as it
//! knows it, or lies in a pack that an entry of it behind the acknowledgement lists. Packs that it owes a
//! listing for are rows that are written with the op, and go with the entry that lists them.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::folder::Folder;
use crate::blind::{Batch, Table, key};
use crate::error::Result;
use crate::format::access::{Act, Record};
use crate::format::codec::DecodeError;
use crate::format::content::ChunkRef;
use crate::format::pack::PackRef;
use crate::format::release::{Call, Cut, Release};
use crate::id::{LogId, PackId, RecordHash};

const ACKNOWLEDGED: &[u8] = b"acknowledged";

impl Folder {
    /// Whether somebody ever called for acknowledgements: before that nothing is released, and nothing is owed.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_called(&self) -> Result<bool> {
        Ok(!self.store().access(self.no())?.calls.is_empty())
    }

    /// Notes, together with the op that refers to a chunk, that its pack is to be listed with it; nothing where
    /// this device lists it already since it acknowledged last.
    ///
    /// # Errors
    /// When the store fails.
    pub fn owe(&self, chunk: &ChunkRef, batch: &mut Batch) -> Result<()> {
        // What is in memory only is stored as a pack of its own, which is listed as new.
        let Some(row) = self.index_kept(chunk)? else { return Ok(()) };
        if self.store().db().contains(&key(self.no(), Table::PendingPack, &row.pack.0))? {
            return Ok(());
        }
        let Some((size, own)) = self.store().listed(self.no(), row.pack, self.log())? else { return Ok(()) };
        if own > self.acknowledged()? {
            return Ok(());
        }
        batch.put(&key(self.no(), Table::Owed, &row.pack.0), &size.to_le_bytes());
        Ok(())
    }

    /// The entry with which this device acknowledged last; 0 for none.
    pub(super) fn acknowledged(&self) -> Result<u64> {
        let row = self.store().db().get(&self.acknowledged_key())?;
        Ok(row.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    fn acknowledged_key(&self) -> Vec<u8> {
        key(self.no(), Table::Setting, &[ACKNOWLEDGED, &self.log().0].concat())
    }

    /// Adds that the entry with this number acknowledges.
    pub(super) fn stage_acknowledged(&self, seq: u64, batch: &mut Batch) {
        batch.put(&self.acknowledged_key(), &seq.to_le_bytes());
    }

    /// Packs that the next entries list again.
    pub(super) fn owed(&self) -> Result<Vec<PackRef>> {
        let (mut owed, mut wrong) = (Vec::new(), Ok(()));
        self.store().db().scan(&key(self.no(), Table::Owed, &[]), &[], &mut |id, size| {
            match (id.try_into(), size.try_into()) {
                (Ok(id), Ok(size)) => {
                    owed.push(PackRef { id: PackId(id), size: u64::from_le_bytes(size) });
                }
                _ => wrong = Err(DecodeError::Invalid { field: "owed pack" }),
            }
            ControlFlow::Continue(())
        })?;
        wrong?;
        Ok(owed)
    }

    /// Adds that a pack is listed.
    pub(super) fn stage_listed(&self, pack: PackId, batch: &mut Batch) {
        batch.delete(&key(self.no(), Table::Owed, &pack.0));
    }

    /// Asks all devices to acknowledge the entries up to `cut`, which is ascending by log.
    ///
    /// # Errors
    /// [`crate::Error::Access`] when the device is no admin; or when the store fails.
    pub fn call(&self, cut: Cut) -> Result<Record> {
        self.add_record(Act::Call(Call { cut }))
    }

    /// Lets packs go. What it names has to be ascending.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn release(&self, release: Release) -> Result<Record> {
        self.add_record(Act::Release(release))
    }

    /// Who signed a record; `None` where it is not here.
    ///
    /// # Errors
    /// When the store fails.
    pub fn author_of(&self, record: &RecordHash) -> Result<Option<LogId>> {
        let records = self.store().access_records(self.no())?;
        Ok(records.iter().find(|known| known.hash() == *record).map(|known| LogId(known.content().author)))
    }

    /// Whether records build on another.
    ///
    /// # Errors
    /// When the store fails.
    pub fn builds_on(&self, heads: &[RecordHash], past: &RecordHash) -> Result<bool> {
        let records = self.store().access_records(self.no())?;
        let parents: HashMap<RecordHash, &[RecordHash]> =
            records.iter().map(|record| (record.hash(), &record.content().parents[..])).collect();
        let (mut way, mut seen) = (heads.to_vec(), HashSet::new());
        while let Some(record) = way.pop() {
            if record == *past {
                return Ok(true);
            }
            if seen.insert(record) {
                way.extend(parents.get(&record).copied().unwrap_or_default());
            }
        }
        Ok(false)
    }
}
