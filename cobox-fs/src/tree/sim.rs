//! Devices in memory: what the merge tests and the random histories are played on.

use super::conflicts::{self, Conflict, Keep};
use super::names::CaseRule;
use super::ops::{self, NewNode, PosixError, Rename};
use super::oracle::{NodePicture, Picture};
use super::row::{Listed, MoveEffect, Note, Row, RowKey};
use super::short::{Shorts, Unknown};
use super::{Policy, Shown, Tx, Version, View, apply};
use cobox_store::format::DecodeError;
use cobox_store::format::content::Content;
use cobox_store::format::op::{AttrChange, Kind, Op, OpGroup, is_legal_name};
use cobox_store::id::{Ino, OpId, derive};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Deterministic numbers (splitmix64), so that a seed is a history.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("small")
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// A group that a device wrote, and how many groups of each log it had applied.
pub struct Written {
    pub group: OpGroup,
    pub deps: Vec<usize>,
}

/// One device's rows, behind pointers: what the exhaustive model plays shares most of them.
#[derive(Clone)]
pub struct Device {
    pub rows: BTreeMap<RowKey, Arc<Row>>,
    pub applied: Vec<usize>,
    pub hlc: u64,
    pub policy: Policy,
}

pub fn name_hash(parent: &Ino, key: &[u8]) -> [u8; 16] {
    let full = derive("test name hash", &[&parent.0, key]);
    full[..16].try_into().expect("32 bytes hold 16")
}

fn label(log: u64) -> String {
    format!("dev{log}")
}

/// A row as it is after the process died: spelled in full, and with a table of all that it names.
fn read_again(key: &RowKey, row: &Row) -> Result<Row, DecodeError> {
    let (mut shorts, mut unknown) = (Shorts::default(), Unknown::default());
    let full = Row::decode(key, &row.encode(&shorts, &mut unknown), &shorts)?;
    (1..).zip(unknown).for_each(|(number, long)| shorts.insert(number, long));
    let mut none = Unknown::default();
    let short = Row::decode(key, &row.encode(&shorts, &mut none), &shorts)?;
    assert_eq!((&short, none.len()), (&full, 0));
    Ok(short)
}

impl Device {
    pub fn new(devices: usize, policy: Policy) -> Self {
        Self { rows: BTreeMap::new(), applied: vec![0; devices], hlc: 0, policy }
    }

    pub fn row(&self, key: &RowKey) -> Option<Row> {
        self.rows.get(key).map(|row| Row::clone(row))
    }

    pub fn view<T>(&self, ask: impl FnOnce(&View<'_>) -> T) -> T {
        let read = |key: &RowKey| Ok(self.row(key));
        let notes = || Ok(self.notes());
        ask(&View::new(&read, &name_hash, &label, &notes, self.policy))
    }

    pub fn apply_group(&mut self, log: usize, group: &OpGroup) {
        let read = |key: &RowKey| Ok(self.row(key));
        let mut tx = Tx::new(&read, &name_hash);
        for (id, op) in group.with_ids(log as u64) {
            apply(&mut tx, id, op, &self.policy).expect("memory can be read");
        }
        let changes: Vec<_> = tx.into_changes().collect();
        for (key, row) in changes {
            match row {
                Some(row) => drop(self.rows.insert(key, Arc::new(row))),
                None => drop(self.rows.remove(&key)),
            }
        }
        self.hlc = self.hlc.max(group.hlc_last());
    }

    /// What is stored as notes.
    pub fn notes(&self) -> Vec<Note> {
        let note = |key: &RowKey| if let RowKey::Note(note) = key { Some(*note) } else { None };
        self.rows.keys().filter_map(note).collect()
    }

    /// What people hear about.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let notes = self.notes();
        self.view(|view| conflicts::conflicts(view, &notes)).expect("memory can be read")
    }

    /// The process dies and reads its rows again.
    pub fn restart(&mut self) {
        let read = |(key, row): (&RowKey, &Arc<Row>)| {
            (key.clone(), Arc::new(read_again(key, row).expect("what was stored can be read")))
        };
        self.rows = self.rows.iter().map(read).collect();
    }

    /// Every name that any directory shows.
    pub fn names(&self) -> Vec<(Ino, Shown)> {
        self.view(|view| {
            let mut names = Vec::new();
            for (key, row) in &self.rows {
                if let (RowKey::Dirent(parent, _), Row::Dirent(slot)) = (key, &**row) {
                    let shown = view.visible_names(*parent, slot).expect("memory can be read");
                    names.extend(shown.into_iter().map(|shown| (*parent, shown)));
                }
            }
            names
        })
    }

    pub fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        picture.nodes.insert(Ino::ROOT, node_picture(self, Ino::ROOT, &super::row::NodeRow::root()));
        for (key, row) in &self.rows {
            match (key, &**row) {
                (RowKey::Node(ino), Row::Node(node)) => {
                    picture.nodes.insert(*ino, node_picture(self, *ino, node));
                }
                (RowKey::Dirent(parent, _), Row::Dirent(slot)) => {
                    for entry in &slot.entries {
                        let seen = (entry.ino, *parent, entry.name.clone(), entry.placed);
                        picture.links.insert(entry.link, seen);
                    }
                    let winner = self.view(|view| view.winner(slot).map(|entry| entry.link));
                    let key = super::names::name_key(&slot.entries[0].name, self.policy.case);
                    picture.winners.insert((*parent, key), winner.expect("a stored slot has entries"));
                }
                (RowKey::DirMove(id), Row::DirMove(row)) if row.effect == MoveEffect::Skipped => {
                    picture.skipped.insert(*id);
                }
                _ => {}
            }
        }
        picture
    }

    /// What must hold in any state, whatever the history.
    pub fn check_invariants(&self) {
        let mut children: BTreeMap<Ino, u64> = BTreeMap::new();
        let mut listed: BTreeMap<Ino, u64> = BTreeMap::new();
        for (key, row) in &self.rows {
            assert_eq!(read_again(key, row).as_ref(), Ok(&**row), "rows round-trip");
            let first = Row::decode(key, &row.encode_first(), &Shorts::default());
            assert_eq!(first.as_ref(), Ok(&**row), "rows of the first version are read");
            if let (RowKey::Dirent(parent, _), Row::Dirent(slot)) = (key, &**row) {
                assert!(!slot.entries.is_empty(), "no empty slot");
                *children.entry(*parent).or_default() += slot.entries.len() as u64;
                for entry in &slot.entries {
                    *listed.entry(entry.ino).or_default() += 1;
                }
            }
            if let (RowKey::Link(_), Row::Link(link)) = (key, &**row)
                && link.listed == Listed::Yes
            {
                self.check_way_to_root(link.place().expect("a listed link stands somewhere").parent);
            }
        }
        let rows = self.rows.iter().filter(|(key, _)| !matches!(key, RowKey::Note(_)));
        let noted: BTreeSet<Note> = rows.filter_map(|(key, row)| row.note(key)).collect();
        assert_eq!(self.notes(), noted.into_iter().collect::<Vec<_>>(), "notes are kept up");
        for (key, row) in &self.rows {
            let (RowKey::Node(ino), Row::Node(node)) = (key, &**row) else { continue };
            let names = listed.get(ino).copied().unwrap_or(0);
            assert_eq!(node.visible_children, children.get(ino).copied().unwrap_or(0), "children of {ino}");
            assert!(node.kind != Kind::Dir || names <= 1, "a directory has one parent");
            assert!(node.kind == Kind::Dir || node.attrs().nlink == names, "link count of {ino}");
            let dead = self.view(|view| view.is_dead(*ino)).expect("memory can be read");
            assert_eq!(dead, names == 0 && *ino != Ino::ROOT, "who has no name is dead");
        }
        let mut seen = BTreeSet::new();
        for (parent, shown) in self.names() {
            assert!(is_legal_name(&shown.name));
            let found = self.view(|view| view.lookup(parent, &shown.name)).expect("memory can be read");
            assert_eq!(found.as_ref(), Some(&shown), "what is listed can be looked up");
            assert!(seen.insert((parent, shown.name)), "names are unique");
        }
    }

    fn check_way_to_root(&self, mut dir: Ino) {
        for _ in 0..=self.rows.len() {
            if dir == Ino::ROOT {
                return;
            }
            let Some(Row::Node(node)) = self.rows.get(&RowKey::Node(dir)).map(|row| &**row) else {
                panic!("orphan")
            };
            let Some(Row::Link(link)) = self.rows.get(&RowKey::Link(node.links[0])).map(|row| &**row) else {
                panic!("orphan")
            };
            assert_eq!(link.listed, Listed::Yes, "who has a visible child is visible");
            dir = link.place().expect("a directory stands somewhere").parent;
        }
        panic!("cycle");
    }
}

fn node_picture(device: &Device, ino: Ino, node: &super::row::NodeRow) -> NodePicture {
    let xattr = |key: &Vec<u8>| {
        let value = device.view(|view| view.xattr(ino, key)).expect("memory can be read");
        (key.clone(), value.expect("listed attributes are set"))
    };
    let names = match (node.kind, ino == Ino::ROOT) {
        (Kind::Dir, true) => 0,
        (Kind::Dir, false) => {
            usize::from(!device.view(|view| view.is_dead(ino)).expect("memory can be read"))
        }
        _ => usize::try_from(node.attrs().nlink).expect("small"),
    };
    NodePicture {
        kind: node.kind,
        attrs: (node.mode.value, node.mtime_ns.value, node.uid.value, node.gid.value),
        target: node.target.clone(),
        heads: node.heads.iter().map(|head| head.id).collect(),
        shown: node.shown_heads().iter().map(|head| head.id).collect(),
        xattrs: node.xattrs.iter().map(xattr).collect(),
        names,
        children: usize::try_from(node.visible_children).expect("small"),
    }
}

/// Devices and the logs between them.
pub struct World {
    pub devices: Vec<Device>,
    pub logs: Vec<Vec<Written>>,
    pub clock_ms: u64,
    /// How far each device's clock is ahead of the world's.
    pub ahead_ms: Vec<u64>,
    /// Devices that are no longer of the folder.
    pub removed: BTreeSet<usize>,
}

impl World {
    pub fn new(devices: usize) -> Self {
        let policy = Policy::new(CaseRule::Sensitive);
        Self {
            devices: vec![Device::new(devices, policy); devices],
            logs: (0..devices).map(|_| Vec::new()).collect(),
            clock_ms: 1_791_037_353_000,
            ahead_ms: vec![0; devices],
            removed: BTreeSet::new(),
        }
    }

    pub fn all_ops(&self) -> Vec<(OpId, Op)> {
        let with_ids = |(log, written): (usize, &Vec<Written>)| {
            let ids = |entry: &Written| -> Vec<(OpId, Op)> {
                entry.group.with_ids(log as u64).map(|(id, op)| (id, op.clone())).collect()
            };
            written.iter().flat_map(ids).collect::<Vec<_>>()
        };
        self.logs.iter().enumerate().flat_map(with_ids).collect()
    }

    /// Writes a group on a device; an error or an empty group leaves everything as it was.
    pub fn write_group(
        &mut self,
        on: usize,
        build: impl FnOnce(&View<'_>) -> Result<Vec<Op>, PosixError>,
    ) -> Result<(), PosixError> {
        let ops = self.devices[on].view(build)?;
        if ops.is_empty() {
            return Ok(());
        }
        self.clock_ms += 1;
        let device = &mut self.devices[on];
        let now_ms = self.clock_ms + self.ahead_ms.get(on).copied().unwrap_or(0);
        let group = OpGroup { hlc: (now_ms << 16).max(device.hlc + 1), ops };
        device.apply_group(on, &group);
        self.logs[on].push(Written { group, deps: device.applied.clone() });
        device.applied[on] += 1;
        Ok(())
    }

    /// Writes that no visible name of device `on` shows, though no op that saw them replaced, settled or
    /// removed them.
    pub fn lost_writes(&self, on: usize) -> Vec<OpId> {
        let ops = self.all_ops();
        let mut seen: BTreeSet<OpId> = BTreeSet::new();
        for (_, op) in &ops {
            match op {
                Op::Put { parents, .. } => seen.extend(parents),
                Op::Keep { take, drop, .. } => seen.extend(drop.iter().filter(|head| *head != take)),
                // The fork's own first write stands for it.
                Op::Fork { head, .. } => seen.extend([*head]),
                Op::Unlink { seen_heads, last: true, .. } => seen.extend(seen_heads),
                _ => {}
            }
        }
        let visible: BTreeSet<(Ino, Vec<u8>)> = self.contents(on);
        let lost = ops.iter().filter_map(|(id, op)| match op {
            Op::Put { ino, content: Content::Inline(bytes), .. } if !seen.contains(id) => {
                (!visible.contains(&(*ino, bytes.clone()))).then_some(*id)
            }
            _ => None,
        });
        lost.collect()
    }

    /// The bytes that names show, and of which file.
    fn contents(&self, on: usize) -> BTreeSet<(Ino, Vec<u8>)> {
        let device = &self.devices[on];
        let shown = |(_, shown): (Ino, Shown)| {
            let head = device.view(|view| match shown.version {
                Version::Winner => view.content(shown.ino),
                Version::Conflict(id) => view.head(shown.ino, id),
            });
            match head.expect("memory can be read")?.content {
                Content::Inline(bytes) => Some((shown.ino, bytes)),
                _ => None,
            }
        };
        device.names().into_iter().filter_map(shown).collect()
    }

    /// Removes a device: of its log counts what another device has applied.
    pub fn remove(&mut self, gone: usize) {
        let others = self.devices.iter().enumerate().filter(|(on, _)| *on != gone);
        let end = others.map(|(_, device)| device.applied[gone]).max().unwrap_or(0);
        self.logs[gone].truncate(end);
        self.removed.insert(gone);
    }

    /// Puts a device back to an earlier state of its disk, unless another one knows of something newer.
    pub fn crash_back_to(&mut self, on: usize, earlier: &Device) {
        let others = self.devices.iter().enumerate().filter(|(other, _)| *other != on);
        let told = others.map(|(_, device)| device.applied[on]).max().unwrap_or(0);
        if told <= earlier.applied[on] {
            self.logs[on].truncate(earlier.applied[on]);
            self.devices[on] = earlier.clone();
        }
        self.devices[on].restart();
    }

    /// The logs whose next entry `device` may apply.
    pub fn ready(&self, device: &Device) -> Vec<usize> {
        let is_ready = |log: &usize| {
            let next = self.logs[*log].get(device.applied[*log]);
            next.is_some_and(|entry| entry.deps.iter().zip(&device.applied).all(|(need, have)| need <= have))
        };
        (0..self.logs.len()).filter(is_ready).collect()
    }

    pub fn deliver(&self, device: &mut Device, log: usize, number: usize) {
        if device.applied[log] == number {
            device.apply_group(log, &self.logs[log][number].group);
            device.applied[log] += 1;
        }
    }

    /// Brings every device everything, in an order that `dice` decides.
    pub fn sync(&mut self, dice: &mut Dice) {
        for on in 0..self.devices.len() {
            if self.removed.contains(&on) {
                continue;
            }
            let mut device = self.devices[on].clone();
            self.catch_up(&mut device, dice);
            self.devices[on] = device;
        }
    }

    pub fn catch_up(&self, device: &mut Device, dice: &mut Dice) {
        loop {
            let ready = self.ready(device);
            if ready.is_empty() {
                return;
            }
            let log = *dice.pick(&ready);
            let number = device.applied[log];
            self.deliver(device, log, number);
            // A duplicate of something that came before.
            self.deliver(device, log, dice.roll(number + 1));
        }
    }
}

/// Calls by path, for tests that read like a shell.
impl World {
    fn find(&self, on: usize, path: &str) -> Option<(Ino, Version)> {
        self.devices[on].view(|view| {
            let mut found = (Ino::ROOT, Version::Winner);
            for name in path.split('/').filter(|name| !name.is_empty()) {
                let shown = view.lookup(found.0, name.as_bytes()).expect("memory can be read")?;
                found = (shown.ino, shown.version);
            }
            Some(found)
        })
    }

    pub fn ino(&self, on: usize, path: &str) -> Ino {
        self.find(on, path).unwrap_or_else(|| panic!("no {path}")).0
    }

    fn split<'p>(&self, on: usize, path: &'p str) -> (Ino, &'p [u8]) {
        self.try_split(on, path).unwrap_or_else(|_| panic!("no directory for {path}"))
    }

    fn try_split<'p>(&self, on: usize, path: &'p str) -> Result<(Ino, &'p [u8]), PosixError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(on, dir).ok_or(PosixError::NoEntry)?.0, name.as_bytes()))
    }

    pub fn try_make(&mut self, on: usize, path: &str, kind: Kind, target: &str) -> Result<(), PosixError> {
        let (parent, name) = self.try_split(on, path)?;
        let mode = if kind == Kind::Dir { 0o755 } else { 0o644 };
        let target = target.as_bytes().to_vec();
        let node = NewNode { kind, mode, mtime_ns: 1, uid: 0, gid: 0, rdev: 0, target };
        self.write_group(on, |view| ops::make(view, parent, name, node, &|_| false).map(|made| made.0))
    }

    pub fn mkdir(&mut self, on: usize, path: &str) {
        self.try_make(on, path, Kind::Dir, "").expect("mkdir");
    }

    /// Creates or overwrites; a conflict entry becomes a file of its own.
    pub fn write(&mut self, on: usize, path: &str, text: &str) {
        self.try_write(on, path, text).expect("write");
    }

    pub fn try_keep(&mut self, on: usize, path: &str) -> Result<(), PosixError> {
        self.settle(on, path, Keep::This)
    }

    pub fn settle(&mut self, on: usize, path: &str, how: Keep) -> Result<(), PosixError> {
        let place = self.try_split(on, path)?;
        let notes = self.devices[on].notes();
        self.write_group(on, |view| conflicts::keep(view, place, &notes, how))
    }

    pub fn try_write(&mut self, on: usize, path: &str, text: &str) -> Result<(), PosixError> {
        match self.find(on, path) {
            None => self.try_make(on, path, Kind::File, "")?,
            Some((ino, _)) => {
                let node = self.devices[on].view(|view| view.node(ino))?;
                if node.is_some_and(|node| node.kind != Kind::File) {
                    return Err(PosixError::IsDir);
                }
            }
        }
        let (parent, name) = self.split(on, path);
        let content = Content::Inline(text.as_bytes().to_vec());
        let shown = self.devices[on].view(|view| view.lookup(parent, name)).expect("readable").expect("made");
        let mut ino = shown.ino;
        if shown.version != Version::Winner {
            self.write_group(on, |view| {
                let (ops, fork) = ops::fork(view, &shown, parent)?;
                ino = fork;
                Ok(ops)
            })?;
        }
        self.write_group(on, |view| {
            let base: Vec<OpId> = view.content(ino)?.iter().map(|head| head.id).collect();
            ops::put(view, ino, &base, content, 2)
        })
    }

    pub fn try_rename(&mut self, on: usize, from: &str, to: &str, how: Rename) -> Result<(), PosixError> {
        let (from, to) = (self.try_split(on, from)?, self.try_split(on, to)?);
        self.write_group(on, |view| ops::rename(view, from, to, how))
    }

    pub fn rename(&mut self, on: usize, from: &str, to: &str) {
        self.try_rename(on, from, to, Rename::Replace).expect("rename");
    }

    pub fn try_unlink(&mut self, on: usize, path: &str) -> Result<(), PosixError> {
        let (parent, name) = self.try_split(on, path)?;
        self.write_group(on, |view| ops::unlink(view, parent, name))
    }

    pub fn unlink(&mut self, on: usize, path: &str) {
        self.try_unlink(on, path).expect("unlink");
    }

    pub fn try_rmdir(&mut self, on: usize, path: &str) -> Result<(), PosixError> {
        let (parent, name) = self.try_split(on, path)?;
        self.write_group(on, |view| ops::rmdir(view, parent, name))
    }

    pub fn rmdir(&mut self, on: usize, path: &str) {
        self.try_rmdir(on, path).expect("rmdir");
    }

    pub fn try_link(&mut self, on: usize, old: &str, new: &str) -> Result<(), PosixError> {
        let ino = self.find(on, old).ok_or(PosixError::NoEntry)?.0;
        let (parent, name) = self.try_split(on, new)?;
        self.write_group(on, |view| ops::link(view, ino, parent, name))
    }

    pub fn attr(&mut self, on: usize, path: &str, change: AttrChange) {
        self.try_attr(on, path, change).expect("attr");
    }

    pub fn try_attr(&mut self, on: usize, path: &str, change: AttrChange) -> Result<(), PosixError> {
        let ino = self.find(on, path).ok_or(PosixError::NoEntry)?.0;
        self.write_group(on, |view| ops::attr(view, ino, change))
    }

    /// Every path with its content, conflict names without time and digits.
    pub fn tree(&self, on: usize) -> Vec<String> {
        let names = self.devices[on].names();
        let mut lines = Vec::new();
        self.walk(on, &names, Ino::ROOT, "", &mut lines);
        lines.sort();
        lines
    }

    fn walk(&self, on: usize, names: &[(Ino, Shown)], dir: Ino, path: &str, lines: &mut Vec<String>) {
        for (_, shown) in names.iter().filter(|(parent, _)| *parent == dir) {
            let path = format!("{path}{}", plain(&String::from_utf8_lossy(&shown.name)));
            if shown.kind == Kind::Dir {
                lines.push(format!("{path}/"));
                self.walk(on, names, shown.ino, &format!("{path}/"), lines);
                continue;
            }
            if shown.kind == Kind::Symlink {
                let node = self.devices[on].view(|view| view.node(shown.ino)).expect("readable");
                let target = node.expect("a name has an inode").target;
                lines.push(format!("{path}->{}", String::from_utf8_lossy(&target)));
                continue;
            }
            let content = self.devices[on].view(|view| match shown.version {
                Version::Winner => view.content(shown.ino),
                Version::Conflict(id) => view.head(shown.ino, id),
            });
            let content = content.expect("readable").map_or_else(Content::empty, |head| head.content);
            let Content::Inline(bytes) = content else { panic!("tests write little") };
            lines.push(format!("{path}={}", String::from_utf8_lossy(&bytes)));
        }
    }

    /// The full name of the one conflict entry whose plain form is `plain_name`.
    pub fn conflict_name(&self, on: usize, plain_name: &str) -> String {
        let names = self.devices[on].names();
        let full = names.iter().map(|(_, shown)| String::from_utf8_lossy(&shown.name).into_owned());
        full.into_iter().find(|name| plain(name) == plain_name).unwrap_or_else(|| panic!("no {plain_name}"))
    }
}

fn plain(name: &str) -> String {
    let Some((stem, rest)) = name.split_once(" (conflict ") else { return name.to_owned() };
    let (inside, extension) = rest.split_once(')').expect("conflict names close");
    let label = inside.split(' ').next().expect("a label");
    format!("{stem} (conflict {label}){}", plain(extension))
}
