//! Which entries of a device that may begin no branch (any more), or began too many, are taken all the same: those
//! that others stand on (`docs/format.md`, section 9.4).
//!
//! A removal and a vouch name entries that count, in clear; a member also reads in entries of others what they
//! build on. Where none of a log's branches that are here holds such an entry, branches are taken until it is
//! here, or else those who built on it and those who did not would wait for one another for ever.

use super::access::Access;
use super::batch::Batch;
use super::branches::{BRANCHES_MAX, Branches, branch_id};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::Result;
use crate::format::DEPS_MAX;
use crate::format::entry::LogHead;
use crate::id::{EntryHash, FolderNo, LogId};

/// Entries that others build on and that are not here, in memory: whoever waits for them names them again.
const NAMED_MAX: usize = 4096;
/// Branches of one log while an entry that counts is in none of them.
const SOUGHT_MAX: usize = 2 * BRANCHES_MAX;
/// Begins the names of settings that say of a branch that it waits to be named.
const APART: &[u8] = b"apart ";

fn apart_key(no: FolderNo, branch: &LogId) -> Vec<u8> {
    key(no, Table::BlindSetting, &[APART, &branch.0].concat())
}

impl Store {
    /// Notes that an entry which was taken builds on another that is not here, whatever became of that one's device.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn name_entry(&self, no: FolderNo, head: &LogHead) -> Result<()> {
        if self.holder(no, head)?.is_some() {
            return Ok(());
        }
        let mut named = self.logs.named.lock();
        let of_folder = named.entry(no).or_default();
        if of_folder.len() < NAMED_MAX && of_folder.insert(*head) {
            drop(named);
            tracing::debug!(log = %head.log, seq = head.seq, "others build on an entry that is not here");
            self.take_spare(no)?;
            self.watch().bump(no);
        }
        Ok(())
    }

    /// Entries of a log or its branches that count and are not here.
    fn sought(&self, no: FolderNo, access: &Access, branches: &Branches, log: LogId) -> Result<Vec<LogHead>> {
        let told = access.named.get(&log).into_iter().flatten();
        let mut heads: Vec<LogHead> =
            told.map(|(seq, hash)| LogHead { log, seq: *seq, hash: *hash }).collect();
        if let Some(named) = self.logs.named.lock().get(&no) {
            // A branch that is not known here is nobody's yet: its name says which one it is.
            let stranger = |log: &LogId| !access.has_listed(log) && branches.get(log).is_none();
            let ours = |head: &&LogHead| branches.origin(&head.log) == log || stranger(&head.log);
            heads.extend(named.iter().filter(ours));
        }
        let mut sought = Vec::new();
        for head in heads {
            if self.holder(no, &head)?.is_none() {
                sought.push(head);
            }
        }
        Ok(sought)
    }

    /// How many branches a log may have, were one to begin with `first`, whose number is `from`.
    pub(super) fn branches_max(
        &self,
        no: FolderNo,
        (log, from): (LogId, u64),
        firsts: &[EntryHash],
    ) -> Result<usize> {
        let (access, branches) = (self.access(no)?, self.branches(no)?);
        let mut most = BRANCHES_MAX;
        let leads_to = |head: &LogHead| leads_to(&branches, head, (log, from), firsts);
        for head in self.sought(no, &access, &branches, log)? {
            if firsts.iter().any(|first| branch_id(&log, first) == head.log) {
                return Ok(DEPS_MAX);
            }
            if leads_to(&head) {
                most = SOUGHT_MAX;
            }
        }
        Ok(most)
    }

    /// Whether entries of the branch that begins with `first` count though their device may not write any more.
    pub(super) fn is_named(
        &self,
        no: FolderNo,
        (log, from): (LogId, u64),
        first: &EntryHash,
    ) -> Result<bool> {
        let (access, branches) = (self.access(no)?, self.branches(no)?);
        let sought = self.sought(no, &access, &branches, log)?;
        Ok(sought.iter().any(|head| {
            branch_id(&log, first) == head.log
                || leads_to(&branches, head, (log, from), std::slice::from_ref(first))
        }))
    }

    /// Adds that branches begin of which nothing is taken before somebody names it.
    pub(super) fn stage_apart(&self, no: FolderNo, branch: &LogId, batch: &mut Batch) {
        batch.put(&apart_key(no, branch), &[]);
    }

    /// Whether nothing is taken of a branch before somebody names it.
    pub(super) fn is_apart(&self, no: FolderNo, branch: &LogId) -> Result<bool> {
        self.db().contains(&apart_key(no, branch))
    }
}

/// Whether a line that begins with one of `firsts` may hold an entry.
fn leads_to(branches: &Branches, head: &LogHead, (log, from): (LogId, u64), firsts: &[EntryHash]) -> bool {
    branches.origin(&head.log) == log && (head.seq > from || head.seq == from && firsts.contains(&head.hash))
}
