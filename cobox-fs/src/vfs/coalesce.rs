//! What need not leave this device: files made and removed between two cuts, and attributes that were
//! set again. What is left has the same effect; the ids of the other ops do not change.

use std::collections::{HashMap, HashSet};

use cobox_store::format::op::{AttrChange, Kind, Op, OpGroup};
use cobox_store::id::{Ino, LinkId, OpId};

use crate::tree::CaseRule;
use crate::tree::names::{first_link, ino_of, name_key};

/// A file that pending ops made, that never had a second name and never moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MadeFile {
    /// Which inode.
    pub ino: Ino,
    /// Clock of its `Make`.
    pub hlc: u64,
    /// Where it was made.
    parent: Ino,
    link: LinkId,
}

/// The files (no directories) that `groups` of log number `log` make and leave where they are.
#[must_use]
pub fn made_files(groups: &[OpGroup], log: u64, case: CaseRule) -> Vec<MadeFile> {
    let mut made: Vec<MadeFile> = Vec::new();
    let mut elsewhere: HashSet<LinkId> = HashSet::new();
    let mut linked: HashSet<Ino> = HashSet::new();
    for (id, op) in groups.iter().flat_map(|group| group.with_ids(log)) {
        match op {
            Op::Make(make) if make.kind != Kind::Dir => {
                let key = name_key(&make.name, case);
                let ino = ino_of(&make.parent, make.kind, make.generation, &key);
                let link = first_link(&ino, &make.parent, &key);
                made.push(MadeFile { ino, hlc: id.hlc, parent: make.parent, link });
            }
            Op::Move { link, .. } => {
                elsewhere.insert(*link);
            }
            Op::Link { ino, .. } => {
                linked.insert(*ino);
            }
            _ => {}
        }
    }
    made.retain(|file| !elsewhere.contains(&file.link) && !linked.contains(&file.ino));
    made
}

/// `groups` without the ops that concern the files in `gone`, and without attribute changes that later
/// ones overwrite.
///
/// That a directory's entries changed stays, as its time. An op inside a group that stays becomes
/// [`Op::Ack`], so that the ids of the others stay.
#[must_use]
pub fn without(groups: &[OpGroup], log: u64, gone: &[MadeFile]) -> Vec<OpGroup> {
    let files: HashMap<Ino, &MadeFile> = gone.iter().map(|file| (file.ino, file)).collect();
    let links: HashMap<LinkId, &MadeFile> = gone.iter().map(|file| (file.link, file)).collect();
    let makes: HashMap<u64, &MadeFile> = gone.iter().map(|file| (file.hlc, file)).collect();
    let mut kept: Vec<OpGroup> = Vec::with_capacity(groups.len());
    for group in groups {
        let ops = group.with_ids(log).map(|(id, op)| match op {
            Op::Make(_) => makes.get(&id.hlc).map_or_else(|| op.clone(), |file| entries_changed(file, id)),
            Op::Unlink { link, .. } => {
                links.get(link).map_or_else(|| op.clone(), |file| entries_changed(file, id))
            }
            Op::Put { ino, .. } | Op::Attr { ino, .. } | Op::Xattr { ino, .. } if files.contains_key(ino) => {
                Op::Ack
            }
            _ => op.clone(),
        });
        kept.push(OpGroup { hlc: group.hlc, ops: ops.collect() });
    }
    let overwritten = overwritten_attrs(&kept, log);
    for group in &mut kept {
        for (hlc, op) in (group.hlc..).zip(&mut group.ops) {
            if overwritten.contains(&hlc) {
                *op = Op::Ack;
            }
        }
    }
    // A group that was nothing but acknowledgements from the start says something; others do not.
    let was_ack: HashSet<u64> = groups
        .iter()
        .filter(|group| group.ops.iter().all(|op| *op == Op::Ack))
        .map(|group| group.hlc)
        .collect();
    kept.retain(|group| was_ack.contains(&group.hlc) || group.ops.iter().any(|op| *op != Op::Ack));
    kept
}

/// The time of a directory in which something was made or removed.
fn entries_changed(file: &MadeFile, id: OpId) -> Op {
    let mtime_ns = i64::try_from(id.unix_ms().saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    Op::Attr { ino: file.parent, change: AttrChange { mtime_ns: Some(mtime_ns), ..AttrChange::default() } }
}

/// Clocks of the `Attr` ops of which every field is set again by later ones.
fn overwritten_attrs(groups: &[OpGroup], log: u64) -> HashSet<u64> {
    let mut later: HashMap<Ino, AttrChange> = HashMap::new();
    let mut overwritten = HashSet::new();
    let all: Vec<_> = groups.iter().flat_map(|group| group.with_ids(log)).collect();
    for (id, op) in all.into_iter().rev() {
        let Op::Attr { ino, change } = op else { continue };
        let set = later.entry(*ino).or_default();
        let covered = (change.mode.is_none() || set.mode.is_some())
            && (change.mtime_ns.is_none() || set.mtime_ns.is_some())
            && (change.uid.is_none() || set.uid.is_some())
            && (change.gid.is_none() || set.gid.is_some());
        if covered {
            overwritten.insert(id.hlc);
        }
        set.mode = set.mode.or(change.mode);
        set.mtime_ns = set.mtime_ns.or(change.mtime_ns);
        set.uid = set.uid.or(change.uid);
        set.gid = set.gid.or(change.gid);
    }
    overwritten
}

#[cfg(test)]
mod tests {
    use cobox_store::format::op::Make;

    use super::*;

    fn make(name: &[u8]) -> Op {
        Op::Make(Make {
            parent: Ino::ROOT,
            name: name.to_vec(),
            kind: Kind::File,
            generation: 0,
            mode: 0o644,
            mtime_ns: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        })
    }

    fn attr(ino: Ino, mode: Option<u32>, mtime_ns: Option<i64>) -> Op {
        Op::Attr { ino, change: AttrChange { mode, mtime_ns, uid: None, gid: None } }
    }

    #[test]
    fn file_made_and_removed_leaves_only_its_directorys_time() {
        let groups =
            vec![OpGroup { hlc: 10, ops: vec![make(b"a")] }, OpGroup { hlc: 20, ops: vec![make(b"b")] }];
        let made = made_files(&groups, 1, CaseRule::Sensitive);
        let first = made.first().expect("a was made").clone();
        let unlink =
            Op::Unlink { link: first.link, seen_dots: Vec::new(), seen_heads: Vec::new(), last: true };
        let more = [groups, vec![OpGroup { hlc: 30, ops: vec![Op::Ack, unlink] }]].concat();
        let kept = without(&more, 1, std::slice::from_ref(&first));
        let time = entries_changed(&first, OpId { hlc: 31, log: 1 });
        assert_eq!(
            kept,
            vec![OpGroup { hlc: 20, ops: vec![make(b"b")] }, OpGroup { hlc: 30, ops: vec![Op::Ack, time] }]
        );
    }

    #[test]
    fn attributes_set_again_go_only_when_every_field_is() {
        let ino = Ino([7; 16]);
        let groups = vec![
            OpGroup { hlc: 1, ops: vec![attr(ino, Some(1), None)] },
            OpGroup { hlc: 2, ops: vec![attr(ino, Some(2), Some(2))] },
            OpGroup { hlc: 3, ops: vec![attr(ino, Some(3), None)] },
        ];
        let kept: Vec<u64> = without(&groups, 1, &[]).iter().map(|group| group.hlc).collect();
        assert_eq!(kept, vec![2, 3]);
    }
}
