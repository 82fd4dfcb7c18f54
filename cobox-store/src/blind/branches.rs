//! Branches of logs that forked (`docs/format.md`, section 9.4): each is kept as a log of its own.
//!
//! Where a device signed two entries that follow the same one, its log ends before them, and each of the two
//! begins a *branch*, named by the log and that entry. So all who hold a branch call it alike, and it is told,
//! pulled, applied and proved like any log. Entries are never moved once they are in their branch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::batch::Batch;
use super::logs::{ENTRY_TABLES, HeadRow, entry_key};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::entry::{Entry, LogHead};
use crate::format::equivocation::Equivocation;
use crate::id::{EntryHash, FolderNo, LogId, derive};

/// Branches of one log. An honest device has two for each time that it was copied or set back; what a liar
/// makes beyond that is refused, so that nobody's table of logs can be filled by one device.
pub const BRANCHES_MAX: usize = 16;

/// One branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The log of the device that signed it.
    pub log: LogId,
    /// What it branches off: that log, or a branch of it.
    pub parent: LogId,
    /// The number of its first entry.
    pub from: u64,
    /// Its first entry.
    pub first: EntryHash,
}

/// All branches of a folder's logs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Branches {
    by_id: BTreeMap<LogId, Branch>,
    /// Proofs of forks behind entries that are not here yet.
    pub(super) waiting: Vec<Equivocation>,
}

/// The name of the branch of `log` that begins with `first`.
#[must_use]
pub fn branch_id(log: &LogId, first: &EntryHash) -> LogId {
    LogId(derive("branch", &[&log.0, &first.0]))
}

impl Branch {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.fixed(&self.log.0);
        writer.fixed(&self.parent.0);
        writer.u64(self.from);
        writer.fixed(&self.first.0);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "branch";
        let mut reader = Reader::new(bytes);
        let branch = Self {
            log: reader.log_id(field)?,
            parent: reader.log_id(field)?,
            from: reader.u64(field)?,
            first: reader.entry_hash(field)?,
        };
        reader.finish()?;
        Ok(branch)
    }
}

impl Branches {
    /// A branch by its name.
    #[must_use]
    pub fn get(&self, id: &LogId) -> Option<&Branch> {
        self.by_id.get(id)
    }

    /// All of them, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&LogId, &Branch)> {
        self.by_id.iter()
    }

    /// Whether no log forked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether a device's log forked.
    #[must_use]
    pub fn is_forked(&self, log: &LogId) -> bool {
        self.by_id.values().any(|branch| branch.log == *log)
    }

    /// The device's log that `id` is, or is a branch of.
    #[must_use]
    pub fn origin(&self, id: &LogId) -> LogId {
        self.by_id.get(id).map_or(*id, |branch| branch.log)
    }

    /// The number of the last entry of `id` before it forked, where it did.
    #[must_use]
    pub fn limit(&self, id: &LogId) -> Option<u64> {
        self.by_id.values().filter(|branch| branch.parent == *id).map(|branch| branch.from - 1).min()
    }

    /// Which of `id` and what it branches off has the entry numbered `seq` that `id` builds on.
    #[must_use]
    pub fn owner(&self, id: LogId, seq: u64) -> LogId {
        let mut id = id;
        while let Some(branch) = self.by_id.get(&id).filter(|branch| seq < branch.from) {
            id = branch.parent;
        }
        id
    }

    /// From `id` down to the device's log: each with the number that it begins at.
    pub fn line(&self, id: LogId) -> Vec<(LogId, u64)> {
        let mut line = Vec::new();
        let mut at = id;
        while let Some(branch) = self.by_id.get(&at) {
            line.push((at, branch.from));
            at = branch.parent;
        }
        line.push((at, 1));
        line
    }

    /// The log and its branches.
    fn family(&self, log: LogId) -> impl Iterator<Item = LogId> {
        std::iter::once(log).chain(self.by_id.iter().filter(move |(_, it)| it.log == log).map(|(id, _)| *id))
    }

    fn begins_at(&self, id: &LogId) -> u64 {
        self.by_id.get(id).map_or(1, |branch| branch.from)
    }
}

/// Where an entry belongs.
pub(super) enum Place {
    /// It is here.
    Known,
    /// It comes next in this log or branch.
    Next(LogId),
    /// It begins a branch off this log or branch.
    Fork(LogId, Equivocation),
}

impl Store {
    /// The branches of a folder's logs.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn branches(&self, no: FolderNo) -> Result<Arc<Branches>> {
        if let Some(known) = self.logs.branches.lock().get(&no) {
            return Ok(Arc::clone(known));
        }
        let mut branches = Branches::default();
        let mut wrong = Ok(());
        self.db().scan(&key(no, Table::Branch, &[]), &[], &mut |id, value| {
            match (id.try_into(), Branch::decode(value)) {
                (Ok(id), Ok(branch)) => drop(branches.by_id.insert(LogId(id), branch)),
                (_, Err(error)) => wrong = Err(error),
                (Err(_), _) => wrong = Err(DecodeError::Invalid { field: "branch" }),
            }
            if wrong.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        wrong?;
        branches.waiting = self.proofs(no)?;
        branches.waiting.retain(|proof| {
            proof.entries().iter().any(|first| !branches.by_id.contains_key(&branch_id(&proof.log(), first)))
        });
        let branches = Arc::new(branches);
        self.logs.branches.lock().insert(no, Arc::clone(&branches));
        Ok(branches)
    }

    /// The log or branch that holds this very entry itself.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn holder(&self, no: FolderNo, head: &LogHead) -> Result<Option<LogId>> {
        let branches = self.branches(no)?;
        for id in branches.family(branches.origin(&head.log)) {
            if self.own_hash(no, &branches, &id, head.seq)? == Some(head.hash) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The entry numbered `seq` that lies in `id` itself.
    fn own_hash(&self, no: FolderNo, branches: &Branches, id: &LogId, seq: u64) -> Result<Option<EntryHash>> {
        let head = self.head_row(no, *id)?;
        if seq < branches.begins_at(id) || seq > head.seq {
            return Ok(None);
        }
        if seq == head.seq { Ok(Some(head.hash)) } else { self.stored_hash(no, *id, seq) }
    }

    /// Says where an entry belongs.
    ///
    /// # Errors
    /// [`Error::Premature`] and [`Error::Chain`] where what it follows is not here.
    pub(super) fn place(&self, no: FolderNo, entry: &Entry) -> Result<Place> {
        let header = entry.header();
        let (log, seq, name) = (header.log, header.seq, header.hash());
        let branches = self.branches(no)?;
        let (mut reached, mut follows) = (0, None);
        for id in branches.family(log) {
            reached = reached.max(self.head_row(no, id)?.seq);
            if self.own_hash(no, &branches, &id, seq)? == Some(name) {
                return Ok(Place::Known);
            }
            let before = if seq == 1 {
                id == log
            } else {
                self.own_hash(no, &branches, &id, seq - 1)? == Some(header.prev)
            };
            follows = follows.or(before.then_some(id));
        }
        let named = branch_id(&log, &name);
        if branches.get(&named).is_some() {
            return Ok(Place::Next(named));
        }
        let Some(within) = follows else {
            return Err(if seq > reached + 1 { Error::Premature } else { Error::Chain { log, seq } });
        };
        if self.own_hash(no, &branches, &within, seq)?.is_some() {
            let ours = self.entry(no, within, seq)?.ok_or(Error::Chain { log, seq })?;
            let proof = Equivocation::of(&ours, entry).ok_or(Error::Chain { log, seq })?;
            return Ok(Place::Fork(within, proof));
        }
        if branches.limit(&within) != Some(seq - 1) {
            return Ok(Place::Next(within));
        }
        // Others have branched off here before.
        let proofs = self.proofs(no)?;
        let mut beside = proofs.iter().filter(|proof| proof.log() == log && proof.seq() == seq);
        let proof = beside.find_map(|proof| proof.beside(entry)).ok_or(Error::Chain { log, seq })?;
        Ok(Place::Fork(within, proof))
    }

    /// What `proof` forks, where what its entries follow is here.
    pub(super) fn forks_within(&self, no: FolderNo, proof: &Equivocation) -> Result<Option<LogId>> {
        let branches = self.branches(no)?;
        if proof.seq() == 1 {
            return Ok(Some(proof.log()));
        }
        for id in branches.family(proof.log()) {
            if self.own_hash(no, &branches, &id, proof.seq() - 1)? == Some(proof.prev()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Adds the rows of the branches that a proof begins off `within`; what lies there from that number on
    /// becomes a branch too.
    pub(super) fn stage_branches(
        &self,
        no: FolderNo,
        within: LogId,
        proof: &Equivocation,
        batch: &mut Batch,
    ) -> Result<()> {
        let branches = self.branches(no)?;
        let (log, from) = (proof.log(), proof.seq());
        let ours = self.own_hash(no, &branches, &within, from)?;
        let mut firsts = proof.entries().to_vec();
        firsts.extend(ours);
        firsts.sort_unstable();
        firsts.dedup();
        firsts.retain(|first| branches.get(&branch_id(&log, first)).is_none());
        let count = branches.family(log).count() - 1 + firsts.len();
        if count > BRANCHES_MAX && count > self.branches_max(no, (log, from), &firsts)? {
            return Err(Error::Equivocation { log, seq: from });
        }
        let apart = !self.access(no)?.may_write(&log);
        for first in &firsts {
            let id = branch_id(&log, first);
            let branch = Branch { log, parent: within, from, first: *first };
            batch.put(&key(no, Table::Branch, &id.0), &branch.encode());
            if apart && Some(*first) != ours {
                self.stage_apart(no, &id, batch);
            }
            if Some(*first) == ours {
                self.stage_move(no, &branches, (within, from, proof.prev()), id, batch)?;
            } else if from > 1 {
                let row = HeadRow { seq: from - 1, hash: proof.prev(), bytes: 0 };
                batch.put(&key(no, Table::LogHead, &id.0), &row.encode());
            }
        }
        Ok(())
    }

    /// Moves what lies in `within` from a number on into the branch `to`.
    fn stage_move(
        &self,
        no: FolderNo,
        branches: &Branches,
        (within, from, prev): (LogId, u64, EntryHash),
        to: LogId,
        batch: &mut Batch,
    ) -> Result<()> {
        let head = self.head_row(no, within)?;
        let (mut bytes, mut packs) = (0, BTreeSet::new());
        for seq in from..=head.seq {
            for pack in self.entry(no, within, seq)?.iter().flat_map(|entry| &entry.header().packs) {
                packs.insert(pack.id);
                self.stage_listed(no, (to, seq), *pack, batch);
            }
            let gone = || Error::Chain { log: within, seq };
            let header = self.db().get(&entry_key(no, Table::EntryHeader, within, seq))?.ok_or_else(gone)?;
            let body = self.body_bytes(no, within, seq, &header)?.ok_or_else(gone)?;
            bytes += (header.len() + body.len()) as u64;
            ENTRY_TABLES.iter().for_each(|table| batch.delete(&entry_key(no, *table, within, seq)));
            batch.put_owned(entry_key(no, Table::EntryHeader, to, seq), header);
            batch.put_owned(entry_key(no, Table::EntryBody, to, seq), body);
        }
        self.stage_unlisted(no, (within, from - 1), &packs, batch)?;
        let moved = HeadRow { seq: head.seq, hash: head.hash, bytes };
        batch.put(&key(no, Table::LogHead, &to.0), &moved.encode());
        let stays = key(no, Table::LogHead, &within.0);
        if from == 1 {
            batch.delete(&stays);
        } else {
            let row = HeadRow { seq: from - 1, hash: prev, bytes: head.bytes.saturating_sub(bytes) };
            batch.put(&stays, &row.encode());
        }
        for (id, branch) in branches.iter().filter(|(_, it)| it.parent == within && it.from > from) {
            batch.put(&key(no, Table::Branch, &id.0), &Branch { parent: to, ..*branch }.encode());
        }
        Ok(())
    }
}
