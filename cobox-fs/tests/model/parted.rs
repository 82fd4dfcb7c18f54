//! Three devices that part, all change the same few names, and meet: every tree must be the same then, in
//! content and metadata, and every write that was acknowledged must be readable under some name, unless
//! an op that saw it replaced or removed it.
//!
//! `COBOX_SOAK=n` plays n times as many seeds; `COBOX_SEED=n` plays that one.

use std::collections::{BTreeMap, BTreeSet};

use cobox_fs::vfs::{Cut, Errno, Keep, Kind, ROOT, RenameFlags, SetAttr, Vfs, What, XattrSet};

use crate::home::{Device, deliver};
use crate::tree::{READ, WRITE, assert_same, list, look, read_all, resolve};
use crate::{BY, Dice};

/// A thousand calls in the short form: the long one plays ten seeds and more.
const CALLS: u64 = 1000;
const DEVICES: usize = 3;
/// Few names, so that devices meet. Lengths and bytes that make conflict names hard are among them.
const NAMES: [&[u8]; 7] =
    [b"a", b"b.txt", b"c.tar.gz", b"d", "e\u{301}".as_bytes(), &[0xff, b'x', b'.', b'y'], &LONG];
/// A conflict name of it is cut.
const LONG: [u8; 255] = [b'l'; 255];

/// What a write is known by wherever it is read: its text begins a line.
type Token = String;

struct World {
    devices: Vec<Device>,
    dice: Dice,
    next: u64,
    /// Everything that was written and acknowledged.
    written: BTreeSet<Token>,
    /// What some op replaced or removed while its device showed it.
    seen: BTreeSet<Token>,
    calls: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let first = Device::new();
        let mut devices = vec![first];
        while devices.len() < DEVICES {
            let next = devices[0].recovered();
            // So that the next one knows of this one, and its epoch is for all.
            devices.iter().for_each(|device| deliver(next.vfs().folder(), device.vfs().folder()));
            devices.push(next);
        }
        let (written, seen) = (BTreeSet::new(), BTreeSet::new());
        Self { devices, dice: Dice::new(seed), next: 0, written, seen, calls: 0 }
    }

    fn vfs(&self, on: usize) -> &Vfs {
        self.devices[on].vfs()
    }

    /// Every directory and every other name of a device.
    fn paths(&self, on: usize) -> (Vec<u64>, Vec<(u64, Vec<u8>, Kind)>) {
        let (mut dirs, mut names) = (vec![ROOT], Vec::new());
        let mut at = 0;
        while let Some(dir) = dirs.get(at).copied() {
            at += 1;
            for (name, attr) in list(self.vfs(on), dir) {
                names.push((dir, name, attr.kind));
                if attr.kind == Kind::Dir {
                    dirs.push(attr.ino);
                }
            }
        }
        (dirs, names)
    }

    fn tokens(&self, on: usize, dir: u64, name: &[u8]) -> Vec<Token> {
        let Ok(attr) = self.vfs(on).lookup(dir, name) else { return Vec::new() };
        match attr.kind {
            Kind::File => tokens_in(&read_all(self.vfs(on), attr.ino, attr.size)),
            Kind::Symlink => vec![text(&self.vfs(on).readlink(attr.ino).expect("reads"))],
            _ => Vec::new(),
        }
    }

    /// A line that no other write has, long enough for chunks now and then.
    fn line(&mut self, on: usize) -> (Token, Vec<u8>) {
        self.next += 1;
        let token = format!("{on}.{}", self.next);
        let filler = match self.dice.below(12) {
            0 => 300_000,
            1 => 20_000,
            2 => 1_100,
            _ => self.dice.below(60),
        };
        let mut line = format!("{token} ").into_bytes();
        let fill = self.dice.bytes(usize::try_from(filler).expect("fits"));
        line.extend(fill.into_iter().map(|byte| b'a' + byte % 20));
        line.push(b'\n');
        (token, line)
    }

    /// One call; what the file system refuses changes nothing.
    fn act(&mut self, on: usize) {
        self.calls += 1;
        let (dirs, names) = self.paths(on);
        let dir = dirs[usize::try_from(self.dice.below(dirs.len() as u64)).expect("fits")];
        let new = NAMES[usize::try_from(self.dice.below(NAMES.len() as u64)).expect("fits")].to_vec();
        if names.is_empty() || self.dice.below(3) == 0 {
            self.make(on, dir, &new);
            return;
        }
        let pick = usize::try_from(self.dice.below(names.len() as u64)).expect("fits");
        let (parent, name, kind) = names[pick].clone();
        match self.dice.below(16) {
            0..=4 if kind == Kind::File => self.write(on, parent, &name),
            5 if kind == Kind::File => self.truncate(on, parent, &name),
            0..=2 => self.attributes(on, parent, &name),
            3..=6 => self.remove(on, parent, &name, kind),
            7..=10 => self.rename(on, (parent, &name), (dir, &new)),
            11 => self.save_by_rename(on, parent, &name),
            12 => {
                let ino = self.vfs(on).lookup(parent, &name).expect("there").ino;
                let _ = self.vfs(on).link(ino, dir, &new);
            }
            13 => self.settle(on),
            _ => self.attributes(on, parent, &name),
        }
    }

    fn make(&mut self, on: usize, dir: u64, name: &[u8]) {
        match self.dice.below(6) {
            0 | 1 => drop(self.vfs(on).mkdir(dir, name, crate::Creator { mode: 0o755, ..BY })),
            2 => {
                let (token, _) = self.line(on);
                if self.vfs(on).symlink(dir, name, token.as_bytes(), BY).is_ok() {
                    self.written.insert(token);
                }
            }
            _ => {
                // Where the file was there, it is opened, and what is written lies over its beginning.
                let before = self.tokens(on, dir, name);
                let Ok((attr, fh)) = self.vfs(on).create(dir, name, BY, WRITE) else { return };
                self.put(on, fh, 0);
                self.seen.extend(before);
                self.vfs(on).forget(attr.ino, 1);
            }
        }
    }

    /// Writes a line through an open file and closes it.
    fn put(&mut self, on: usize, fh: u64, at: u64) {
        let (token, line) = self.line(on);
        self.vfs(on).write(fh, at, &line).expect("written");
        self.vfs(on).flush(fh).expect("closes");
        self.vfs(on).release(fh).expect("closes");
        self.written.insert(token);
    }

    fn write(&mut self, on: usize, dir: u64, name: &[u8]) {
        let before = self.tokens(on, dir, name);
        let attr = self.vfs(on).lookup(dir, name).expect("there");
        let fh = self.vfs(on).open_file(attr.ino, WRITE).expect("opens");
        if self.dice.below(2) == 0 {
            // Appended to: what was there stays readable.
            self.put(on, fh, attr.size);
            return;
        }
        let ino = self.vfs(on).lookup(dir, name).expect("there").ino;
        self.vfs(on).setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("truncated");
        self.seen.extend(before);
        self.put(on, fh, 0);
    }

    fn truncate(&mut self, on: usize, dir: u64, name: &[u8]) {
        let before = self.tokens(on, dir, name);
        let ino = self.vfs(on).lookup(dir, name).expect("there").ino;
        self.vfs(on).setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("truncated");
        self.seen.extend(before);
    }

    fn attributes(&mut self, on: usize, dir: u64, name: &[u8]) {
        let attr = self.vfs(on).lookup(dir, name).expect("there");
        let mode = 0o600 + u32::try_from(self.dice.below(64)).expect("fits");
        let mtime_ns = i64::try_from(self.dice.below(1 << 60)).expect("fits");
        let change = SetAttr { mode: Some(mode), mtime_ns: Some(mtime_ns), ..SetAttr::default() };
        self.vfs(on).setattr(attr.ino, &change).expect("changed");
        if attr.kind == Kind::File {
            let value = self.dice.bytes(12);
            // A conflict entry that changed its mode is a file of its own now.
            let ino = self.vfs(on).lookup(dir, name).expect("there").ino;
            self.vfs(on).setxattr(ino, b"user.k", &value, XattrSet::Any).expect("set");
        }
    }

    fn remove(&mut self, on: usize, dir: u64, name: &[u8], kind: Kind) {
        if kind == Kind::Dir {
            let removed = self.vfs(on).rmdir(dir, name);
            assert!(matches!(removed, Ok(()) | Err(Errno::ENOTEMPTY)), "{removed:?}");
            return;
        }
        let before = self.tokens(on, dir, name);
        self.vfs(on).unlink(dir, name).expect("removed");
        self.seen.extend(before);
    }

    fn rename(&mut self, on: usize, from: (u64, &[u8]), to: (u64, &[u8])) {
        let target = self.tokens(on, to.0, to.1);
        if self.vfs(on).rename(from.0, from.1, to.0, to.1, RenameFlags::Replace).is_ok() {
            self.seen.extend(target);
        }
    }

    /// What an editor does: a new file beside, then renamed over.
    fn save_by_rename(&mut self, on: usize, dir: u64, name: &[u8]) {
        // One is left where the rename was refused.
        let left = self.tokens(on, dir, b".save.tmp");
        let Ok((_, fh)) = self.vfs(on).create(dir, b".save.tmp", BY, WRITE) else { return };
        self.put(on, fh, 0);
        self.seen.extend(left);
        self.rename(on, (dir, b".save.tmp"), (dir, name));
    }

    /// Settles one of the open conflicts, one way or the other.
    fn settle(&mut self, on: usize) {
        let open = self.vfs(on).conflicts().expect("lists");
        if open.is_empty() {
            return;
        }
        let pick = usize::try_from(self.dice.below(open.len() as u64)).expect("fits");
        let dir: Vec<u8> = match open[pick].path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => open[pick].path[..at].to_vec(),
            None => Vec::new(),
        };
        let names: Vec<Vec<u8>> = match &open[pick].what {
            What::Versions(versions) => versions.iter().map(|version| version.name.clone()).collect(),
            What::Names(named) => named.iter().map(|named| named.name.clone()).collect(),
            _ => Vec::new(),
        };
        let chosen = usize::try_from(self.dice.below(names.len().max(1) as u64)).expect("fits");
        let path = match names.get(chosen) {
            Some(name) => crate::tree::join(&dir, name),
            None => open[pick].path.clone(),
        };
        let how = if self.dice.below(2) == 0 { Keep::This } else { Keep::Both };
        let at = resolve(self.vfs(on), &dir);
        let before: Vec<Token> =
            list(self.vfs(on), at).iter().flat_map(|(name, _)| self.tokens(on, at, name)).collect();
        match self.vfs(on).keep_conflict(&path, how) {
            Ok(_) => {
                let after: BTreeSet<Token> =
                    list(self.vfs(on), at).iter().flat_map(|(name, _)| self.tokens(on, at, name)).collect();
                let dropped = before.into_iter().filter(|token| !after.contains(token));
                let dropped: Vec<Token> = dropped.collect();
                assert!(how == Keep::This || dropped.is_empty(), "keeping both drops {dropped:?}");
                self.seen.extend(dropped);
            }
            Err(error) => assert!(matches!(error, Errno::EISDIR | Errno::ENOTEMPTY), "{error:?}"),
        }
    }

    /// Two devices hear from each other, in both directions or in one.
    fn meet(&mut self, one: usize, other: usize) {
        self.vfs(one).cut(Cut::Now).expect("cut");
        deliver(self.vfs(one).folder(), self.vfs(other).folder());
        self.vfs(other).catch_up().expect("applied");
    }

    fn meet_all(&mut self) {
        for _ in 0..2 {
            for one in 0..DEVICES {
                for other in (0..DEVICES).filter(|other| *other != one) {
                    self.meet(one, other);
                }
            }
        }
    }

    /// What must hold once all have met.
    fn check(&self, when: &str) {
        let wanted = look(self.vfs(0), &BTreeMap::new());
        let told = self.vfs(0).conflicts().expect("lists");
        for on in 1..DEVICES {
            assert_same(&look(self.vfs(on), &BTreeMap::new()), &wanted, &format!("{when}, device {on}"));
            assert_eq!(self.vfs(on).conflicts().expect("lists"), told, "{when}, device {on}: conflicts");
        }
        let mtimes = |on: usize| -> Vec<(Vec<u8>, i64)> {
            let files = wanted.iter().filter(|(_, seen)| seen.kind != Kind::Dir);
            let mtime = |path: &Vec<u8>| {
                let ino = resolve(self.vfs(on), path);
                self.vfs(on).getattr(ino, None).expect("there").mtime_ns
            };
            files.map(|(path, _)| (path.clone(), mtime(path))).collect()
        };
        for on in 1..DEVICES {
            assert_eq!(mtimes(on), mtimes(0), "{when}, device {on}: times");
        }
        let readable: BTreeSet<Token> = wanted
            .values()
            .flat_map(|seen| match seen.kind {
                Kind::File => tokens_in(&seen.bytes),
                Kind::Symlink => vec![text(&seen.bytes)],
                _ => Vec::new(),
            })
            .collect();
        let lost: Vec<&Token> = self
            .written
            .iter()
            .filter(|token| !self.seen.contains(*token) && !readable.contains(*token))
            .collect();
        assert!(lost.is_empty(), "{when}: writes that nobody replaced and no name shows: {lost:?}");
        for path in wanted.keys() {
            assert!(path.split(|byte| *byte == b'/').all(|name| name.len() <= 255), "names fit");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tokens_in(bytes: &[u8]) -> Vec<Token> {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').next());
    lines.filter(|token| !token.is_empty()).map(text).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn three_devices_that_part_and_meet_agree_and_lose_no_write() {
    let seeds = match number("COBOX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("COBOX_SOAK").unwrap_or(1) * 2,
    };
    let (mut kinds, mut calls) = (std::collections::HashSet::new(), 0);
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        while world.calls < CALLS {
            // A partition: each works alone, now and then one hears from another.
            for _ in 0..10 + world.dice.below(120) {
                let on = usize::try_from(world.dice.below(DEVICES as u64)).expect("fits");
                match world.dice.below(40) {
                    0 => {
                        let other = (on + 1 + usize::try_from(world.dice.below(2)).expect("fits")) % DEVICES;
                        world.meet(on, other);
                    }
                    1 => world.devices[on].restart(),
                    _ => world.act(on),
                }
            }
            world.meet_all();
            world.check(&format!("seed {seed} after {} calls", world.calls));
            let told = world.vfs(0).conflicts().expect("lists");
            kinds.extend(told.iter().map(|conflict| std::mem::discriminant(&conflict.what)));
        }
        calls += world.calls;
    }
    println!("{calls} calls, {} kinds of conflicts", kinds.len());
    assert!(kinds.len() >= 3 || number("COBOX_SEED").is_some(), "conflicts were met");
}

#[test]
fn file_held_open_while_another_device_saves_it_keeps_both() {
    let one = Device::new();
    crate::stories::write_file(one.vfs(), b"f.txt", b"first");
    one.vfs().cut(Cut::Now).expect("cut");
    let other = one.recovered();
    let ino = one.vfs().lookup(ROOT, b"f.txt").expect("there").ino;
    let fh = one.vfs().open_file(ino, WRITE).expect("opens");
    one.vfs().write(fh, 0, b"here!").expect("written");
    let there = other.vfs().lookup(ROOT, b"f.txt").expect("there").ino;
    let fh_there = other.vfs().open_file(there, WRITE).expect("opens");
    other.vfs().write(fh_there, 0, b"there").expect("written");
    other.vfs().flush(fh_there).expect("closes");
    other.vfs().cut(Cut::Now).expect("cut");
    deliver(other.vfs().folder(), one.vfs().folder());
    one.vfs().catch_up().expect("applied");
    assert_eq!(one.vfs().read(fh, 0, 10).expect("reads"), b"here!", "what was written here stays");
    one.vfs().flush(fh).expect("closes");
    one.vfs().release(fh).expect("closes");
    one.vfs().cut(Cut::Now).expect("cut");
    let shown: Vec<Vec<u8>> = list(one.vfs(), ROOT).into_iter().map(|(name, _)| name).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    let conflict = shown.iter().find(|name| *name != b"f.txt").expect("a conflict entry");
    // A reader of the conflict entry sees the other device's bytes.
    let ino = one.vfs().lookup(ROOT, conflict).expect("there").ino;
    let fh = one.vfs().open_file(ino, READ).expect("opens");
    assert_eq!(one.vfs().read(fh, 0, 10).expect("reads"), b"there");
    one.vfs().release(fh).expect("closes");
}
