//! The tree made anew, after the store was set back and the device joined again under a fresh log.
//!
//! What the older store held is not lost: entries are replayed from the store (those that it had
//! forgotten come from peers, as another log's), and ops that no entry carries are made again as ops of
//! the fresh log. Until that is committed nothing of it is removed, so that a crash begins it again.

use std::collections::{HashMap, HashSet};

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Durability};
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::id::{LinkId, LogId, OpId};

use super::{Errno, Vfs};
use crate::tree::names::hard_link;

/// Rows that follow from entries.
const DERIVED: [Table; 7] =
    [Table::Node, Table::Link, Table::Dirent, Table::Xattr, Table::DirMove, Table::Note, Table::Applied];

impl Vfs {
    /// Where the store was set back: removes what follows from entries, and says which log the ops that
    /// wait were made for.
    pub(super) fn forget_tree(&self) -> Result<Option<(LogId, u64)>, Error> {
        let Some(log) = self.folder.set_back()? else { return Ok(None) };
        let mut batch = Batch::default();
        for table in DERIVED {
            batch.delete_prefix(&key(self.folder.no(), table, b""));
        }
        batch.delete(&key(self.folder.no(), Table::Misc, b"newest dir move"));
        self.folder.store().db().commit(batch, Durability::Unsynced)?;
        self.drop_caches();
        Ok(Some(log))
    }

    /// Makes the ops again that wait and that no entry of the log they were made for carries.
    ///
    /// The entries in the store are applied before.
    pub(super) fn reissue(&self, (old, seq): (LogId, u64)) -> Result<(), Errno> {
        let published = self.published(old, seq)?;
        let waiting = self.pending(usize::MAX)?;
        let mut sequencer = self.sequencer.lock();
        let mut fresh = Fresh::new(old, self.folder.log_number());
        let (mut batch, mut groups) = (Batch::default(), Vec::new());
        for group in &waiting {
            batch.delete(&self.pending_key(group.hlc));
            if !published.contains(&group.hlc) {
                groups.push(fresh.group(group, sequencer.take(group.ops.len())));
            }
        }
        let (changes, _) = self.apply_groups(self.folder.log_number(), &groups)?;
        self.rows.stage(&changes, &mut batch);
        for group in &groups {
            self.stage_pending(group, &mut batch);
        }
        self.owe_all(&groups, &mut batch)?;
        self.stage_based_on(&|id| fresh.id(id), &mut batch)?;
        self.folder.stage_made_anew(&mut batch);
        self.folder.store().db().commit(batch, Durability::Synced)?;
        self.rows.install(changes);
        drop(sequencer);
        tracing::warn!(
            folder = %self.folder.id(),
            groups = groups.len(),
            "the tree was made anew; what no entry carried is written under a fresh log"
        );
        Ok(())
    }

    /// Clocks of the groups that entries of `log` after `seq` carry.
    fn published(&self, log: LogId, seq: u64) -> Result<HashSet<u64>, Error> {
        let store = self.folder.store();
        let last = store.log_head(self.folder.no(), log)?.map_or(0, |head| head.seq);
        let mut clocks = HashSet::new();
        for seq in seq + 1..=last {
            let Some(entry) = store.entry(self.folder.no(), log, seq)? else { break };
            clocks.extend(self.folder.open_entry(&entry)?.groups.iter().map(|group| group.hlc));
        }
        Ok(clocks)
    }
}

/// The ids of ops that are made again.
struct Fresh {
    old: u64,
    new: u64,
    ids: HashMap<OpId, OpId>,
    /// Further names, whose ids follow from their ops'.
    links: HashMap<LinkId, LinkId>,
}

impl Fresh {
    fn new(old: LogId, new: u64) -> Self {
        Self { old: old.number(), new, ids: HashMap::new(), links: HashMap::new() }
    }

    fn id(&self, id: OpId) -> OpId {
        self.ids.get(&id).copied().unwrap_or(id)
    }

    /// A group with another clock, by another log; it refers to earlier ones by their new ids.
    fn group(&mut self, group: &OpGroup, hlc: u64) -> OpGroup {
        let mut ops = Vec::with_capacity(group.ops.len());
        for (at, (id, op)) in (hlc..).zip(group.with_ids(self.old)) {
            let new = OpId { hlc: at, log: self.new };
            ops.push(self.op(op));
            self.ids.insert(id, new);
            if matches!(op, Op::Link { .. }) {
                self.links.insert(hard_link(id), hard_link(new));
            }
        }
        OpGroup { hlc, ops }
    }

    fn op(&self, op: &Op) -> Op {
        let mut op = op.clone();
        let all = |ids: &mut Vec<OpId>| {
            ids.iter_mut().for_each(|id| *id = self.id(*id));
            ids.sort_unstable();
        };
        let renamed = |link: &mut LinkId| *link = self.links.get(link).copied().unwrap_or(*link);
        match &mut op {
            Op::Move { link, seen_dots, .. } => {
                renamed(link);
                all(seen_dots);
            }
            Op::Unlink { link, seen_dots, seen_heads, .. } => {
                renamed(link);
                all(seen_dots);
                all(seen_heads);
            }
            Op::Revive { link } => renamed(link),
            Op::Put { parents, .. } => all(parents),
            Op::Fork { head, .. } => *head = self.id(*head),
            Op::Keep { take, drop, .. } => {
                *take = self.id(*take);
                all(drop);
            }
            Op::Make(_)
            | Op::Link { .. }
            | Op::Attr { .. }
            | Op::Xattr { .. }
            | Op::Ack
            | Op::Snap { .. } => {}
        }
        op
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::id::Ino;

    use super::*;

    #[test]
    fn op_made_again_refers_to_the_new_ids_and_leaves_others() {
        let old = LogId([1; 32]);
        let mut fresh = Fresh::new(old, 9);
        let link = Op::Link { ino: Ino([1; 16]), parent: Ino::ROOT, name: b"n".to_vec() };
        let first = fresh.group(&OpGroup { hlc: 5, ops: vec![Op::Ack, link] }, 100);
        assert_eq!((first.hlc, first.ops.len()), (100, 2));
        let (before, after) = (OpId { hlc: 6, log: old.number() }, OpId { hlc: 101, log: 9 });
        let foreign = OpId { hlc: 6, log: 7 };
        let unlink = Op::Unlink {
            link: hard_link(before),
            seen_dots: vec![before],
            seen_heads: vec![foreign],
            last: false,
        };
        let second = fresh.group(&OpGroup { hlc: 8, ops: vec![unlink] }, 200);
        let expected = Op::Unlink {
            link: hard_link(after),
            seen_dots: vec![after],
            seen_heads: vec![foreign],
            last: false,
        };
        assert_eq!(second.ops, [expected]);
    }
}
