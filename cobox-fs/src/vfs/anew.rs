//! The tree made anew: after the store was set back and the device joined again under a fresh log, and where a
//! log forked of which entries had been applied (`branches.rs`).
//!
//! What the older store held is not lost: entries are replayed from the store (those that it had
//! forgotten come from peers, as another log's), and ops that no entry carries are made again as ops of
//! the fresh log. Until that is committed nothing of it is removed, so that a crash begins it again.

use std::collections::{HashMap, HashSet};

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Branches, Durability};
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::id::{LogId, OpId};

use super::branches::Renaming;
use super::{Errno, Vfs};

/// Rows that follow from entries.
const DERIVED: [Table; 7] =
    [Table::Node, Table::Link, Table::Dirent, Table::Xattr, Table::DirMove, Table::Note, Table::Applied];

/// How the tree is made anew.
pub(super) enum Anew {
    /// The log goes on: what waits to be written is applied again as it is.
    SameLog,
    /// The ops that wait were made for this log, and are made again for the fresh one.
    FreshLog(LogId, u64),
}

impl Vfs {
    fn anew_key(&self) -> Vec<u8> {
        key(self.folder.no(), Table::Misc, b"anew")
    }

    /// Where the store was set back, or holds ops of a log that forked as those of the log itself: removes
    /// what follows from entries. What waits to be written speaks of branches from then on.
    pub(super) fn forget_tree(&self) -> Result<Option<Anew>, Error> {
        let set_back = self.folder.set_back()?;
        let db = self.folder.store().db();
        if set_back.is_none() && !self.is_stale()? && !db.contains(&self.anew_key())? {
            return Ok(None);
        }
        let mut batch = Batch::default();
        batch.put(&self.anew_key(), &[]);
        self.stage_renamed(set_back.map(|(log, _)| log), &mut batch)?;
        if let Some((log, _)) = set_back {
            for group in self.folder.take_back(log, &mut batch)? {
                self.stage_pending(&group, &mut batch);
            }
        }
        for table in DERIVED {
            batch.delete_prefix(&key(self.folder.no(), table, b""));
        }
        batch.delete(&key(self.folder.no(), Table::Misc, b"newest dir move"));
        db.commit(batch, Durability::Synced)?;
        self.folder.packs_reload()?;
        self.applied.lock().begin_anew();
        self.drop_caches();
        Ok(Some(set_back.map_or(Anew::SameLog, |(log, seq)| Anew::FreshLog(log, seq))))
    }

    /// Calls ops of branches by their new names in what waits to be written and in files that are dirty.
    fn stage_renamed(&self, former: Option<LogId>, batch: &mut Batch) -> Result<(), Error> {
        let branches = self.folder.store().branches(self.folder.no())?;
        if branches.is_empty() {
            return Ok(());
        }
        let maker = former.unwrap_or(self.folder.log());
        let lines = self.lines_known(&branches, maker)?;
        let mut renaming = self.renaming(&branches, &lines)?;
        let waiting = self.pending(usize::MAX)?;
        // Those that no entry carries are in no branch.
        let ours: HashSet<OpId> =
            waiting.iter().flat_map(|group| group.with_ids(maker.number()).map(|(id, _)| id)).collect();
        renaming.keep = ours;
        for group in &waiting {
            let ops = group.ops.iter().map(|op| renaming.op(op)).collect();
            self.stage_pending(&OpGroup { hlc: group.hlc, ops }, batch);
        }
        self.stage_based_on(&|id| renaming.id(id), batch)?;
        self.stage_survives(&|id| renaming.id(id), batch)
    }

    /// Which branch each log that forked was taken for, here: what was applied of it, or written.
    fn lines_known(&self, branches: &Branches, maker: LogId) -> Result<Vec<(LogId, LogId)>, Error> {
        let mut heads = self.applied.lock().beyond_forks(branches);
        heads.extend(self.folder.written_under(maker)?);
        let mut lines = Vec::new();
        for head in heads {
            let within = self.folder.store().holder(self.folder.no(), &head)?;
            lines.extend(within.filter(|within| *within != head.log).map(|within| (head.log, within)));
        }
        Ok(lines)
    }

    /// Ends what [`Self::forget_tree`] began; the entries in the store were applied again meanwhile.
    pub(super) fn end_anew(&self, how: Anew) -> Result<(), Errno> {
        match how {
            Anew::FreshLog(log, seq) => self.reissue((log, seq))?,
            Anew::SameLog => self.apply_waiting()?,
        }
        Ok(())
    }

    /// Applies what waits to be written over a tree that was made anew.
    fn apply_waiting(&self) -> Result<(), Errno> {
        let waiting = self.pending(usize::MAX)?;
        let own = self.folder.log();
        let sequencer = self.sequencer.lock();
        let (changes, _) = self.apply_groups(self.folder.log_number(), &waiting)?;
        let mut batch = Batch::default();
        self.rows.stage(&changes, &mut batch);
        // What they refer to was reached by the tree that they were made in, and need not be by this one.
        self.owe_all(&waiting, &changes, &mut batch)?;
        batch.delete(&self.anew_key());
        batch.delete(&key(self.folder.no(), Table::Applied, &own.0));
        self.folder.store().db().commit(batch, Durability::Synced)?;
        self.rows.install(changes);
        self.applied.lock().end_anew(&own);
        drop(sequencer);
        tracing::warn!(folder = %self.folder.id(), "a log had forked: the tree was made anew with its branches");
        Ok(())
    }

    /// Makes the ops again that wait and that no entry of the log they were made for carries.
    fn reissue(&self, (old, seq): (LogId, u64)) -> Result<(), Errno> {
        let published = self.published(old, seq)?;
        let waiting = self.pending(usize::MAX)?;
        let mut sequencer = self.sequencer.lock();
        let (mut fresh, own) = (Renaming::default(), self.folder.log());
        let (mut batch, mut groups) = (Batch::default(), Vec::new());
        for group in &waiting {
            batch.delete(&self.pending_key(group.hlc));
            // Another clone may have used the same clock for something else.
            let known = published
                .get(&group.hlc)
                .is_some_and(|ops| ops.iter().zip(&group.ops).any(|(there, here)| there == here));
            if !known {
                let hlc = sequencer.take(group.ops.len());
                groups.push(made_again(&mut fresh, group, old.number(), (hlc, own.number())));
            }
        }
        let (changes, _) = self.apply_groups(self.folder.log_number(), &groups)?;
        self.rows.stage(&changes, &mut batch);
        for group in &groups {
            self.stage_pending(group, &mut batch);
        }
        self.owe_all(&groups, &changes, &mut batch)?;
        self.stage_based_on(&|id| fresh.id(id), &mut batch)?;
        self.folder.stage_made_anew(&mut batch);
        batch.delete(&self.anew_key());
        self.folder.store().db().commit(batch, Durability::Synced)?;
        self.rows.install(changes);
        self.applied.lock().end_anew(&own);
        drop(sequencer);
        tracing::warn!(
            folder = %self.folder.id(),
            groups = groups.len(),
            "the tree was made anew; what no entry carried is written under a fresh log"
        );
        Ok(())
    }

    /// The groups, by their clocks, that entries of `log` after `seq` carry, in any of its branches.
    fn published(&self, log: LogId, seq: u64) -> Result<HashMap<u64, Vec<Op>>, Error> {
        let (store, no) = (self.folder.store(), self.folder.no());
        let branches = store.branches(no)?;
        let mut groups = HashMap::new();
        for head in store.log_heads(no)?.into_iter().filter(|head| branches.origin(&head.log) == log) {
            for seq in seq + 1..=head.seq {
                let Some(entry) = store.entry(no, head.log, seq)? else { break };
                groups.extend(
                    self.folder.open_entry(&entry)?.groups.into_iter().map(|group| (group.hlc, group.ops)),
                );
            }
        }
        Ok(groups)
    }
}

/// A group of log number `old` with another clock, by another log; it refers to earlier ones by their new ids.
fn made_again(fresh: &mut Renaming, group: &OpGroup, old: u64, (hlc, new): (u64, u64)) -> OpGroup {
    let mut ops = Vec::with_capacity(group.ops.len());
    for (at, (id, op)) in (hlc..).zip(group.with_ids(old)) {
        ops.push(fresh.op(op));
        fresh.rename(id, OpId { hlc: at, log: new }, op);
    }
    OpGroup { hlc, ops }
}

#[cfg(test)]
mod tests {
    use cobox_store::id::Ino;

    use super::*;
    use crate::tree::names::hard_link;

    #[test]
    fn op_made_again_refers_to_the_new_ids_and_leaves_others() {
        let old = LogId([1; 32]);
        let mut fresh = Renaming::default();
        let link = Op::Link { ino: Ino([1; 16]), parent: Ino::ROOT, name: b"n".to_vec() };
        let group = OpGroup { hlc: 5, ops: vec![Op::Ack, link] };
        let first = made_again(&mut fresh, &group, old.number(), (100, 9));
        assert_eq!((first.hlc, first.ops.len()), (100, 2));
        let (before, after) = (OpId { hlc: 6, log: old.number() }, OpId { hlc: 101, log: 9 });
        let foreign = OpId { hlc: 6, log: 7 };
        let unlink = Op::Unlink {
            link: hard_link(before),
            seen_dots: vec![before],
            seen_heads: vec![foreign],
            last: false,
        };
        let group = OpGroup { hlc: 8, ops: vec![unlink] };
        let second = made_again(&mut fresh, &group, old.number(), (200, 9));
        let expected = Op::Unlink {
            link: hard_link(after),
            seen_dots: vec![after],
            seen_heads: vec![foreign],
            last: false,
        };
        assert_eq!(second.ops, [expected]);
    }
}
