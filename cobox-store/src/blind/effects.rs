//! What follows from a record of the access log for logs and packs, also after a crash in between: a row says
//! that it is still to be done.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::store::Store;
use super::tables::{STORE, Table, key};
use crate::error::Result;
use crate::format::access::{Act, Record};
use crate::id::{FolderNo, RecordHash};

/// Begins the names of settings that say which effects are still to be done.
const DUE: &[u8] = b"effects of ";

fn due_key(no: FolderNo, record: &RecordHash) -> Vec<u8> {
    key(STORE, Table::BlindSetting, &[DUE, &no.0.to_be_bytes(), &record.0].concat())
}

/// Adds that nothing is to be done any more for a folder that leaves.
pub(super) fn stage_no_effects(no: FolderNo, batch: &mut Batch) {
    batch.delete_prefix(&key(STORE, Table::BlindSetting, &[DUE, &no.0.to_be_bytes()].concat()));
}

/// Adds to a record's rows what must be there together with it.
pub(super) fn stage_effects(no: FolderNo, record: &Record, batch: &mut Batch) {
    let act = &record.content().act;
    if let Act::Release(release) = act {
        for pack in release.packs.iter().chain(&release.young) {
            batch.put(&key(no, Table::Named, &[&pack.0[..], &record.hash().0].concat()), &[]);
        }
    }
    if matches!(
        act,
        Act::Release(_)
            | Act::RemoveDevice { .. }
            | Act::RemoveMember { .. }
            | Act::SetRole { .. }
            | Act::Vouch { .. }
    ) {
        batch.put(&due_key(no, &record.hash()), &[]);
    }
}

impl Store {
    /// Does what follows from a record that was stored.
    pub(super) fn settle_effects(&self, no: FolderNo, record: &Record) -> Result<()> {
        self.settle_ends(no, record)?;
        self.settle_releases(no, record)?;
        let due = due_key(no, &record.hash());
        if self.db().contains(&due)? {
            let mut batch = Batch::default();
            batch.delete(&due);
            self.db().commit(batch, Durability::Unsynced)?;
        }
        Ok(())
    }

    /// Does what a crash left undone.
    pub(super) fn resume_effects(&self) -> Result<()> {
        let mut due: Vec<(FolderNo, RecordHash)> = Vec::new();
        self.db().scan(&key(STORE, Table::BlindSetting, DUE), &[], &mut |rest, _| {
            if let Some((no, record)) = rest.split_first_chunk()
                && let Ok(record) = record.try_into()
            {
                due.push((FolderNo(u32::from_be_bytes(*no)), RecordHash(record)));
            }
            ControlFlow::Continue(())
        })?;
        for (no, hash) in due {
            let records = self.access_records(no)?;
            if let Some(record) = records.iter().find(|record| record.hash() == hash) {
                self.settle_effects(no, record)?;
            }
        }
        Ok(())
    }
}
