//! The naive tree that the incremental one is compared with: sort all ops, recompute everything.
//!
//! It shares no code with the rest of the module but the functions that derive ids.

use super::names::{CaseRule, first_link, fork_of, hard_link, ino_of, name_key};
use cobox_store::format::content::Content;
use cobox_store::format::op::{Kind, Op};
use cobox_store::id::{Ino, LinkId, OpId};
use std::collections::{BTreeMap, BTreeSet};

/// All that two devices must agree on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Picture {
    /// Visible links: inode, directory, raw name, since when.
    pub links: BTreeMap<LinkId, (Ino, Ino, Vec<u8>, OpId)>,
    /// Who has the clean name of a slot.
    pub winners: BTreeMap<(Ino, Vec<u8>), LinkId>,
    /// Inodes, the dead ones included.
    pub nodes: BTreeMap<Ino, NodePicture>,
    /// Moves of directories that were skipped.
    pub skipped: BTreeSet<OpId>,
}

/// One inode of a [`Picture`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePicture {
    pub kind: Kind,
    pub attrs: (u32, i64, u32, u32),
    pub target: Vec<u8>,
    pub heads: Vec<OpId>,
    pub shown: Vec<OpId>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub names: usize,
    pub children: usize,
}

#[derive(Default)]
struct Name {
    ino: Option<Ino>,
    dots: BTreeSet<OpId>,
    places: Vec<(OpId, Ino, Vec<u8>)>,
}

struct Thing {
    kind: Kind,
    attrs: (u32, i64, u32, u32),
    target: Vec<u8>,
    heads: BTreeMap<OpId, (Content, bool, Option<OpId>)>,
    xattrs: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    last_unlink: Option<LinkId>,
    said_last: bool,
}

impl Thing {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            attrs: (0o755, 0, 0, 0),
            target: Vec::new(),
            heads: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            last_unlink: None,
            said_last: false,
        }
    }

    fn shown(&self) -> Vec<OpId> {
        let mut shown: Vec<OpId> = Vec::new();
        for (id, (content, _, settled)) in self.heads.iter().rev() {
            if settled.is_none() && !shown.iter().any(|other| self.heads[other].0 == *content) {
                shown.push(*id);
            }
        }
        if shown.is_empty() {
            let mut order: Vec<(Option<OpId>, OpId)> =
                self.heads.iter().map(|(id, head)| (head.2, *id)).collect();
            order.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            shown.extend(order.first().map(|(_, id)| *id));
        }
        shown
    }
}

#[derive(Default)]
struct State {
    things: BTreeMap<Ino, Thing>,
    names: BTreeMap<LinkId, Name>,
    dirs: BTreeMap<Ino, (OpId, Ino, Vec<u8>)>,
    skipped: BTreeSet<OpId>,
}

/// What the ops mean, in whatever order they are given.
pub fn picture(ops: &[(OpId, Op)], case: CaseRule) -> Picture {
    let sorted: BTreeMap<OpId, &Op> = ops.iter().map(|(id, op)| (*id, op)).collect();
    let mut state = State::default();
    state.things.insert(Ino::ROOT, Thing::new(Kind::Dir));
    for (id, op) in sorted {
        state.step(id, op, case);
    }
    state.picture(case)
}

impl State {
    fn is_dir(&self, ino: Ino) -> bool {
        self.things.get(&ino).is_some_and(|thing| thing.kind == Kind::Dir)
    }

    fn step(&mut self, id: OpId, op: &Op, case: CaseRule) {
        match op {
            Op::Make(make) => {
                let key = name_key(&make.name, case);
                let ino = ino_of(&make.parent, make.kind, make.generation, &key);
                let thing = self.things.entry(ino).or_insert_with(|| Thing::new(make.kind));
                thing.attrs = (make.mode, make.mtime_ns, make.uid, make.gid);
                thing.target.clone_from(&make.target);
                let name = self.names.entry(first_link(&ino, &make.parent, &key)).or_default();
                name.ino = Some(ino);
                name.dots.insert(id);
                name.places.push((id, make.parent, make.name.clone()));
                if make.kind == Kind::Dir {
                    self.dirs.entry(ino).or_insert((id, make.parent, make.name.clone()));
                }
            }
            Op::Link { ino, parent, name } => {
                let link =
                    Name { ino: Some(*ino), dots: [id].into(), places: vec![(id, *parent, name.clone())] };
                self.names.insert(hard_link(id), link);
            }
            Op::Move { link, parent, name, seen_dots } => {
                let Some(row) = self.names.get_mut(link) else { return };
                row.dots.retain(|dot| !seen_dots.contains(dot));
                row.dots.insert(id);
                row.places.push((id, *parent, name.clone()));
                let ino = row.ino.expect("every name has an inode");
                if self.is_dir(ino) {
                    self.move_dir(id, ino, *parent, name);
                }
            }
            Op::Unlink { link, seen_dots, seen_heads, last } => {
                let Some(row) = self.names.get_mut(link) else { return };
                row.dots.retain(|dot| !seen_dots.contains(dot));
                let Some(thing) = row.ino.and_then(|ino| self.things.get_mut(&ino)) else { return };
                thing.last_unlink = Some(*link);
                thing.said_last |= last;
                for (head, state) in &mut thing.heads {
                    state.1 |= *last && seen_heads.contains(head);
                }
            }
            Op::Revive { link } => {
                if let Some(row) = self.names.get_mut(link) {
                    row.dots.insert(id);
                }
            }
            _ => self.step_content(id, op),
        }
    }

    fn step_content(&mut self, id: OpId, op: &Op) {
        match op {
            Op::Put { ino, parents, content, mtime_ns } => {
                let Some(thing) = self.things.get_mut(ino) else { return };
                thing.heads.retain(|head, _| !parents.contains(head));
                thing.heads.insert(id, (content.clone(), false, None));
                thing.attrs.1 = *mtime_ns;
            }
            Op::Attr { ino, change } => {
                let Some(thing) = self.things.get_mut(ino) else { return };
                let old = thing.attrs;
                thing.attrs = (
                    change.mode.unwrap_or(old.0),
                    change.mtime_ns.unwrap_or(old.1),
                    change.uid.unwrap_or(old.2),
                    change.gid.unwrap_or(old.3),
                );
            }
            Op::Xattr { ino, key, value } => {
                if let Some(thing) = self.things.get_mut(ino) {
                    thing.xattrs.insert(key.clone(), value.clone());
                }
            }
            Op::Fork { ino, head } => {
                self.settle(id, *ino, &[*head]);
                let (fork, link) = fork_of(ino, *head);
                self.things.entry(fork).or_insert_with(|| Thing::new(Kind::File));
                let name = self.names.entry(link).or_default();
                name.ino = Some(fork);
                name.dots.insert(id);
            }
            Op::Keep { ino, drop, .. } => self.settle(id, *ino, drop),
            _ => {}
        }
    }

    fn settle(&mut self, id: OpId, ino: Ino, heads: &[OpId]) {
        for (head, state) in &mut self.things.get_mut(&ino).expect("known").heads {
            if heads.contains(head) {
                state.2 = Some(id);
            }
        }
    }

    fn move_dir(&mut self, id: OpId, ino: Ino, parent: Ino, name: &[u8]) {
        let mut above = parent;
        while above != Ino::ROOT {
            if above == ino {
                self.skipped.insert(id);
                return;
            }
            above = self.dirs[&above].1;
        }
        self.dirs.insert(ino, (id, parent, name.to_vec()));
    }

    /// Where a name stands, if it stands anywhere.
    fn place(&self, name: &Name) -> Option<(OpId, Ino, Vec<u8>)> {
        let ino = name.ino?;
        if let Some(place) = self.dirs.get(&ino) {
            return Some(place.clone());
        }
        let live = name.places.iter().filter(|place| name.dots.contains(&place.0)).max();
        live.or(name.places.iter().max()).cloned()
    }

    fn visible(&self) -> BTreeSet<LinkId> {
        let mut visible: BTreeSet<LinkId> = BTreeSet::new();
        let mut live: BTreeSet<Ino> = BTreeSet::new();
        for (link, name) in &self.names {
            let ino = name.ino.expect("every name has an inode");
            if !name.dots.is_empty() {
                live.insert(ino);
                if self.place(name).is_some() {
                    visible.insert(*link);
                }
            }
        }
        for (ino, thing) in
            self.things.iter().filter(|(ino, thing)| thing.kind != Kind::Dir && !live.contains(ino))
        {
            let dead = thing.said_last && thing.heads.values().all(|head| head.1);
            if let Some(link) = thing.last_unlink.filter(|_| !dead) {
                assert_eq!(self.names[&link].ino, Some(*ino));
                visible.insert(link);
            }
        }
        loop {
            let parents: BTreeSet<Ino> = visible
                .iter()
                .filter_map(|link| self.place(&self.names[link]))
                .map(|place| place.1)
                .collect();
            let before = visible.len();
            for (link, name) in &self.names {
                let ino = name.ino.expect("every name has an inode");
                if self.is_dir(ino) && parents.contains(&ino) {
                    visible.insert(*link);
                }
            }
            if visible.len() == before {
                return visible;
            }
        }
    }

    fn picture(&self, case: CaseRule) -> Picture {
        let mut picture = Picture { skipped: self.skipped.clone(), ..Picture::default() };
        for (ino, thing) in &self.things {
            let xattrs = thing.xattrs.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            let node = NodePicture {
                kind: thing.kind,
                attrs: thing.attrs,
                target: thing.target.clone(),
                heads: thing.heads.keys().copied().collect(),
                shown: thing.shown(),
                xattrs: xattrs.collect(),
                names: 0,
                children: 0,
            };
            picture.nodes.insert(*ino, node);
        }
        let mut slots: BTreeMap<(Ino, Vec<u8>), Vec<(Kind, OpId, LinkId)>> = BTreeMap::new();
        for link in self.visible() {
            let name = &self.names[&link];
            let ino = name.ino.expect("every name has an inode");
            let (since, parent, raw) = self.place(name).expect("what is visible stands somewhere");
            picture.nodes.get_mut(&ino).expect("known").names += 1;
            picture.nodes.get_mut(&parent).expect("known").children += 1;
            let slot = slots.entry((parent, name_key(&raw, case))).or_default();
            slot.push((self.things[&ino].kind, since, link));
            picture.links.insert(link, (ino, parent, raw, since));
        }
        for (slot, mut names) in slots {
            names.sort_by_key(|(_, since, link)| (*since, *link));
            let oldest_dir = names.iter().find(|(kind, ..)| *kind == Kind::Dir);
            let winner = oldest_dir.or(names.last()).expect("a slot has a name");
            picture.winners.insert(slot, winner.2);
        }
        picture
    }
}
