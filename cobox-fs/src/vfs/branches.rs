//! Ops in branches of a log that forked: each branch gives them a log number of its own, so that two ops which
//! one device signed with one clock are two (`docs/format.md`, section 9.4).
//!
//! Whoever wrote before the fork was known calls them by the device's number. What such an entry builds on says
//! which branch it means, so its ops are read with the branch's numbers, by everybody alike.

use std::collections::{HashMap, HashSet};

use cobox_store::Error;
use cobox_store::blind::Branches;
use cobox_store::format::entry::{Body, LogHead};
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::id::{Ino, LinkId, LogId, OpId};

use super::Vfs;
use crate::tree::names::{fork_of, hard_link};

/// Names that stand for others.
#[derive(Clone, Default)]
pub(super) struct Renaming {
    /// Ops that keep their names.
    pub(super) keep: HashSet<OpId>,
    /// Single ops.
    ids: HashMap<OpId, OpId>,
    /// Ops of a log number, by the clock from which on another number is meant; ascending.
    lines: HashMap<u64, Vec<(u64, u64)>>,
    /// Further names of files, whose ids follow from their ops'.
    links: HashMap<LinkId, LinkId>,
    /// Files that were versions of others.
    inos: HashMap<Ino, Ino>,
}

impl Renaming {
    pub(super) fn id(&self, id: OpId) -> OpId {
        if let Some(new) = self.ids.get(&id) {
            return *new;
        }
        if self.keep.contains(&id) {
            return id;
        }
        let line = self.lines.get(&id.log).map_or(&[][..], Vec::as_slice);
        let number =
            line.iter().rev().find(|(from, _)| *from <= id.hlc).map_or(id.log, |(_, number)| *number);
        OpId { log: number, ..id }
    }

    /// Notes that the op `old` is called `new` from here on.
    pub(super) fn rename(&mut self, old: OpId, new: OpId, op: &Op) {
        self.ids.insert(old, new);
        self.derive(old, new, op);
    }

    /// Notes names that follow from an op's.
    fn derive(&mut self, old: OpId, new: OpId, op: &Op) {
        match op {
            Op::Link { .. } => drop(self.links.insert(hard_link(old), hard_link(new))),
            Op::Fork { ino, head } => {
                let before = fork_of(ino, *head);
                let after = fork_of(&self.ino(*ino), self.id(*head));
                self.inos.insert(before.0, after.0);
                self.links.insert(before.1, after.1);
            }
            _ => {}
        }
    }

    fn ino(&self, ino: Ino) -> Ino {
        self.inos.get(&ino).copied().unwrap_or(ino)
    }

    fn link(&self, link: LinkId) -> LinkId {
        self.links.get(&link).copied().unwrap_or(link)
    }

    /// An op that calls everything by its new name.
    pub(super) fn op(&self, op: &Op) -> Op {
        let mut op = op.clone();
        let all = |ids: &mut Vec<OpId>| {
            ids.iter_mut().for_each(|id| *id = self.id(*id));
            ids.sort_unstable();
        };
        match &mut op {
            Op::Make(make) => make.parent = self.ino(make.parent),
            Op::Link { ino, parent, .. } => (*ino, *parent) = (self.ino(*ino), self.ino(*parent)),
            Op::Move { link, seen_dots, .. } => {
                *link = self.link(*link);
                all(seen_dots);
            }
            Op::Unlink { link, seen_dots, seen_heads, .. } => {
                *link = self.link(*link);
                all(seen_dots);
                all(seen_heads);
            }
            Op::Revive { link } => *link = self.link(*link),
            Op::Put { ino, parents, .. } => {
                *ino = self.ino(*ino);
                all(parents);
            }
            Op::Fork { ino, head } => (*ino, *head) = (self.ino(*ino), self.id(*head)),
            Op::Keep { ino, take, drop } => {
                (*ino, *take) = (self.ino(*ino), self.id(*take));
                all(drop);
            }
            Op::Attr { ino, .. } | Op::Xattr { ino, .. } => *ino = self.ino(*ino),
            Op::Ack | Op::Snap { .. } => {}
        }
        op
    }
}

/// What the ops of one branch are called, as far as its entries were read.
#[derive(Default)]
struct Read {
    upto: u64,
    first_hlc: Option<u64>,
    ops: Vec<(OpId, Op)>,
}

/// All branches that were read.
#[derive(Default)]
pub(super) struct BranchOps(HashMap<LogId, Read>);

impl Vfs {
    /// In which log or branch the entry lies that `dep` names; `None` while it is not here.
    pub(super) fn dep_log(&self, branches: &Branches, dep: &LogHead) -> Result<Option<LogId>, Error> {
        let (store, no) = (self.folder.store(), self.folder.no());
        if branches.limit(&dep.log).is_some_and(|limit| dep.seq > limit) {
            return store.holder(no, dep);
        }
        let other = store.entry_hash(no, dep.log, dep.seq)?.is_some_and(|ours| ours != dep.hash);
        Ok((!other).then_some(dep.log))
    }

    /// The groups of an entry of `log` as they are meant; `None` where nothing that they speak of forked.
    pub(super) fn meant(&self, log: LogId, body: &Body) -> Result<Option<Vec<OpGroup>>, Error> {
        let branches = self.folder.store().branches(self.folder.no())?;
        if branches.is_empty() {
            return Ok(None);
        }
        let mut lines: Vec<(LogId, LogId)> = Vec::new();
        if let Some(branch) = branches.get(&log) {
            lines.push((branch.log, log));
        }
        for dep in &body.deps {
            if let Some(within) = self.dep_log(&branches, dep)?.filter(|within| *within != dep.log) {
                lines.push((dep.log, within));
            }
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let renaming = self.renaming(&branches, &lines)?;
        let mut groups = body.groups.clone();
        groups.iter_mut().flat_map(|group| &mut group.ops).for_each(|op| *op = renaming.op(op));
        Ok(Some(groups))
    }

    /// What ops are called that were known as those of the first log of each pair, and lie in the second.
    pub(super) fn renaming(&self, branches: &Branches, lines: &[(LogId, LogId)]) -> Result<Renaming, Error> {
        let mut renaming = Renaming::default();
        let mut read = self.branch_ops.lock();
        for (known_as, within) in lines {
            let mut line: Vec<LogId> = branches.line(*within).into_iter().map(|(id, _)| id).collect();
            line.truncate(line.iter().position(|id| id == known_as).unwrap_or(line.len()));
            for id in line.into_iter().rev() {
                self.read_branch(branches, id, &mut read)?;
                let Some(read) = read.0.get(&id) else { continue };
                let Some(first_hlc) = read.first_hlc else { continue };
                let number = id.number();
                renaming.lines.entry(known_as.number()).or_default().push((first_hlc, number));
                for (old, op) in &read.ops {
                    let old = OpId { log: known_as.number(), ..*old };
                    renaming.derive(old, OpId { log: number, ..old }, op);
                }
            }
        }
        Ok(renaming)
    }

    /// Reads the entries of a branch that were not read yet, for names that follow from their ops.
    fn read_branch(&self, branches: &Branches, id: LogId, read: &mut BranchOps) -> Result<(), Error> {
        let (store, no) = (self.folder.store(), self.folder.no());
        let Some(branch) = branches.get(&id) else { return Ok(()) };
        let read = read.0.entry(id).or_default();
        let from = branch.from.max(read.upto + 1);
        let last = store.log_head(no, id)?.map_or(0, |head| head.seq);
        for seq in from..=last {
            let Some(entry) = store.entry(no, id, seq)? else { break };
            // Its key comes with a record that is on its way; nothing that builds on it is applied before.
            let Ok(body) = self.folder.open_entry(&entry) else { break };
            read.first_hlc = read.first_hlc.or(body.groups.first().map(|group| group.hlc));
            let ops = body.groups.iter().flat_map(|group| group.with_ids(branch.log.number()));
            let named = ops.filter(|(_, op)| matches!(op, Op::Link { .. } | Op::Fork { .. }));
            read.ops.extend(named.map(|(id, op)| (id, op.clone())));
            read.upto = seq;
        }
        Ok(())
    }
}
