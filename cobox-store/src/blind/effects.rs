//! What follows from a record of the access log, or from a log that forked, for logs and packs, also after a
//! crash in between: a row says that it is still to be done.

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

/// The same for logs that forked; it is a beginning of no other such key, for that has a record's hash.
fn fork_due_key(no: FolderNo) -> Vec<u8> {
    key(STORE, Table::BlindSetting, &[DUE, &no.0.to_be_bytes()].concat())
}

/// Adds to the rows of new branches what must be there together with them.
pub(super) fn stage_fork_effects(no: FolderNo, batch: &mut Batch) {
    batch.put(&fork_due_key(no), &[]);
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
        // What it names may be in a branch that was one too many.
        self.take_spare(no)?;
        let due = due_key(no, &record.hash());
        if self.db().contains(&due)? {
            let mut batch = Batch::default();
            batch.delete(&due);
            self.db().commit(batch, Durability::Unsynced)?;
        }
        Ok(())
    }

    /// Does what follows from new branches: releases may count no more (`docs/format.md`, section 4.9).
    pub(super) fn settle_fork(&self, no: FolderNo) -> Result<()> {
        self.settle_all_named(no)?;
        let mut batch = Batch::default();
        batch.delete(&fork_due_key(no));
        self.db().commit(batch, Durability::Unsynced)
    }

    /// Does what a crash left undone.
    pub(super) fn resume_effects(&self) -> Result<()> {
        let mut due: Vec<(FolderNo, RecordHash)> = Vec::new();
        let mut forked: Vec<FolderNo> = Vec::new();
        self.db().scan(&key(STORE, Table::BlindSetting, DUE), &[], &mut |rest, _| {
            if let Some((no, record)) = rest.split_first_chunk() {
                let no = FolderNo(u32::from_be_bytes(*no));
                match record.try_into() {
                    Ok(record) => due.push((no, RecordHash(record))),
                    Err(_) => forked.push(no),
                }
            }
            ControlFlow::Continue(())
        })?;
        forked.into_iter().try_for_each(|no| self.settle_fork(no))?;
        for (no, hash) in due {
            let records = self.access_records(no)?;
            if let Some(record) = records.iter().find(|record| record.hash() == hash) {
                self.settle_effects(no, record)?;
            }
        }
        Ok(())
    }
}
