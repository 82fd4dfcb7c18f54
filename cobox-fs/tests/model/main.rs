//! Random calls on the file system and on a model of a few maps; both must look the same, also after
//! restarts without warning, cuts, dropped caches, and on a second device that has only the log.

mod giving;
mod home;
mod merging;
mod order;
mod parted;
mod set_back;
mod stolen;
mod stories;
mod tree;

use cobox_fs::vfs::{
    Creator, Cut, Errno, Fallocate, FsyncKind, Kind, ROOT, RenameFlags, SetAttr, Vfs, XattrSet,
};

use home::Device;
use tree::{Model, WRITE, assert_same, join, look, resolve};

const SEEDS: u64 = 6;
const STEPS: u64 = 350;
const BY: Creator = Creator { mode: 0o644, uid: 1000, gid: 1000 };

pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&self.below(1 << 50).to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn pick<'a>(&mut self, of: &'a [Vec<u8>]) -> Option<&'a [u8]> {
        if of.is_empty() {
            None
        } else {
            Some(&of[usize::try_from(self.below(of.len() as u64)).expect("fits")])
        }
    }
}

fn name(dice: &mut Dice) -> Vec<u8> {
    match dice.below(20) {
        0 => "größe".as_bytes().to_vec(),
        1 => vec![0xff, b'x'],
        number => format!("n{number}").into_bytes(),
    }
}

struct Run {
    device: Device,
    model: Model,
    dice: Dice,
}

impl Run {
    fn vfs(&self) -> &Vfs {
        self.device.vfs()
    }

    fn make(&mut self, kind: Kind) {
        let (dirs, _) = self.model.paths();
        let parent = self.dice.pick(&dirs).expect("the root").to_vec();
        let name = name(&mut self.dice);
        let dir = resolve(self.vfs(), &parent);
        let made = match kind {
            Kind::Dir => self.vfs().mkdir(dir, &name, Creator { mode: 0o755, ..BY }),
            Kind::Symlink => self.vfs().symlink(dir, &name, b"else/where", BY),
            _ => self.vfs().mknod(dir, &name, kind, BY, 0),
        };
        let at = self.model.find(&parent).expect("there");
        if self.model.nodes[at].names.contains_key(&name) {
            assert_eq!(made, Err(Errno::EEXIST));
            return;
        }
        made.expect("made");
        let perm = match kind {
            Kind::Dir => 0o755,
            Kind::Symlink => 0o777,
            _ => 0o644,
        };
        let node = self.model.add(kind, perm);
        if kind == Kind::Symlink {
            self.model.nodes[node].bytes = b"else/where".to_vec();
        }
        self.model.nodes[at].names.insert(name, node);
    }

    fn some_file(&mut self) -> Option<(Vec<u8>, usize)> {
        let (_, others) = self.model.paths();
        let path = self.dice.pick(&others)?.to_vec();
        let node = self.model.find(&path).expect("there");
        (self.model.nodes[node].kind == Kind::File).then_some((path, node))
    }

    fn write(&mut self) {
        let Some((path, node)) = self.some_file() else { return };
        let fh = self.vfs().open_file(resolve(self.vfs(), &path), WRITE).expect("opens");
        for _ in 0..=self.dice.below(6) {
            let size = self.model.nodes[node].bytes.len() as u64;
            let len = match self.dice.below(6) {
                0 => self.dice.below(500),
                1 => self.dice.below(700_000),
                _ => self.dice.below(20_000),
            };
            let offset = match self.dice.below(4) {
                0 => size,
                1 => self.dice.below(3_000_000),
                _ => self.dice.below(size + 1),
            };
            let data = self.dice.bytes(usize::try_from(len).expect("fits"));
            assert_eq!(self.vfs().write(fh, offset, &data), Ok(u32::try_from(len).expect("fits")));
            let bytes = &mut self.model.nodes[node].bytes;
            let (from, to) =
                (usize::try_from(offset).expect("fits"), usize::try_from(offset + len).expect("fits"));
            if !data.is_empty() {
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].copy_from_slice(&data);
            }
            match self.dice.below(8) {
                0 => self.vfs().fsync(fh, FsyncKind::All).expect("synced"),
                1 => self.vfs().cut(Cut::Now).expect("cut"),
                2 => self.punch(fh, node),
                _ => {}
            }
        }
        self.model.nodes[node].mtime_ns = None;
        self.vfs().flush(fh).expect("closes");
        self.vfs().release(fh).expect("closes");
    }

    fn punch(&mut self, fh: u64, node: usize) {
        let (offset, len) = (self.dice.below(500_000), 1 + self.dice.below(200_000));
        self.vfs().fallocate(fh, Fallocate::PunchHole, offset, len).expect("punched");
        let bytes = &mut self.model.nodes[node].bytes;
        let to = usize::try_from(offset + len).expect("fits").min(bytes.len());
        if let Some(range) = bytes.get_mut(usize::try_from(offset).expect("fits")..to) {
            range.fill(0);
        }
    }

    fn truncate(&mut self) {
        let Some((path, node)) = self.some_file() else { return };
        let bound = self.model.nodes[node].bytes.len() as u64 * 2 + 2000;
        let size = self.dice.below(bound);
        let ino = resolve(self.vfs(), &path);
        self.vfs().setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() }).expect("truncated");
        self.model.nodes[node].bytes.resize(usize::try_from(size).expect("fits"), 0);
        self.model.nodes[node].mtime_ns = None;
    }

    fn attributes(&mut self) {
        let (_, others) = self.model.paths();
        let Some(path) = self.dice.pick(&others).map(<[u8]>::to_vec) else { return };
        let node = self.model.find(&path).expect("there");
        let mode = u32::try_from(self.dice.below(0o777)).expect("fits");
        let mtime_ns = i64::try_from(self.dice.below(1 << 60)).expect("fits");
        let change = SetAttr { mode: Some(mode), mtime_ns: Some(mtime_ns), ..SetAttr::default() };
        let attr = self.vfs().setattr(resolve(self.vfs(), &path), &change).expect("changed");
        assert_eq!((attr.perm, attr.mtime_ns), (mode, mtime_ns));
        self.model.nodes[node].perm = mode;
        self.model.nodes[node].mtime_ns = Some(mtime_ns);
    }

    fn xattr(&mut self) {
        let Some((path, node)) = self.some_file() else { return };
        let ino = resolve(self.vfs(), &path);
        let key = format!("user.{}", self.dice.below(4)).into_bytes();
        if self.dice.below(3) == 0 {
            let removed = self.vfs().removexattr(ino, &key);
            let known = self.model.nodes[node].xattrs.remove(&key);
            assert_eq!(removed, if known.is_some() { Ok(()) } else { Err(Errno::ENODATA) });
        } else {
            let value = self.dice.bytes(40);
            self.vfs().setxattr(ino, &key, &value, XattrSet::Any).expect("set");
            self.model.nodes[node].xattrs.insert(key, value);
        }
    }

    fn remove(&mut self) {
        let (dirs, others) = self.model.paths();
        let of = if self.dice.below(3) == 0 { dirs } else { others };
        let Some(path) = self.dice.pick(&of).map(<[u8]>::to_vec) else { return };
        if path.is_empty() {
            return;
        }
        let (parent, name) = split(&path);
        let (dir, node) = (self.model.find(&parent).expect("there"), self.model.find(&path).expect("there"));
        let at = resolve(self.vfs(), &parent);
        if self.model.nodes[node].kind == Kind::Dir {
            let removed = self.vfs().rmdir(at, &name);
            if !self.model.nodes[node].names.is_empty() {
                assert_eq!(removed, Err(Errno::ENOTEMPTY));
                return;
            }
            removed.expect("removed");
        } else {
            self.vfs().unlink(at, &name).expect("removed");
        }
        self.model.nodes[dir].names.remove(&name);
    }

    fn link(&mut self) {
        let Some((path, node)) = self.some_file() else { return };
        let (dirs, _) = self.model.paths();
        let parent = self.dice.pick(&dirs).expect("the root").to_vec();
        let name = name(&mut self.dice);
        let at = self.model.find(&parent).expect("there");
        let linked = self.vfs().link(resolve(self.vfs(), &path), resolve(self.vfs(), &parent), &name);
        if self.model.nodes[at].names.contains_key(&name) {
            assert_eq!(linked, Err(Errno::EEXIST));
            return;
        }
        linked.expect("linked");
        self.model.nodes[at].names.insert(name, node);
    }

    fn rename(&mut self) {
        let (dirs, others) = self.model.paths();
        let all = [dirs.clone(), others].concat();
        let from = self.dice.pick(&all).expect("the root").to_vec();
        let to_dir = self.dice.pick(&dirs).expect("the root").to_vec();
        let to_name = name(&mut self.dice);
        let inside = to_dir == from || to_dir.starts_with(&join(&from, b""));
        if from.is_empty() || inside {
            return;
        }
        let (from_dir, from_name) = split(&from);
        let moved = self.vfs().rename(
            resolve(self.vfs(), &from_dir),
            &from_name,
            resolve(self.vfs(), &to_dir),
            &to_name,
            RenameFlags::Replace,
        );
        let (source, target) =
            (self.model.find(&from_dir).expect("there"), self.model.find(&to_dir).expect("there"));
        let node = self.model.find(&from).expect("there");
        if let Some(old) = self.model.nodes[target].names.get(&to_name).copied() {
            let is_dir = |node: usize| self.model.nodes[node].kind == Kind::Dir;
            let refused = match (is_dir(node), is_dir(old)) {
                _ if old == node => return assert_eq!(moved, Ok(())),
                (true, false) => Some(Errno::ENOTDIR),
                (false, true) => Some(Errno::EISDIR),
                (true, true) if !self.model.nodes[old].names.is_empty() => Some(Errno::ENOTEMPTY),
                _ => None,
            };
            if let Some(error) = refused {
                assert_eq!(moved, Err(error));
                return;
            }
        }
        moved.expect("renamed");
        self.model.nodes[source].names.remove(&from_name);
        self.model.nodes[target].names.insert(to_name, node);
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0..=5 => self.make(Kind::File),
            6..=8 => self.make(Kind::Dir),
            9 => self.make(Kind::Symlink),
            10 => self.make(Kind::Fifo),
            11..=18 => self.write(),
            19..=20 => self.truncate(),
            21..=23 => self.attributes(),
            24..=25 => self.xattr(),
            26..=28 => self.remove(),
            29..=30 => self.link(),
            31..=34 => self.rename(),
            35 => self.unseen(|device| device.vfs().cut(Cut::Now).expect("cut")),
            36 => self.unseen(|device| device.vfs().drop_caches()),
            37 => self.unseen(|device| device.vfs().sync_all().expect("synced")),
            38 => self.unseen(Device::restart),
            _ => self.check("at a step"),
        }
    }

    /// What no program does and none may see: every time that `stat` shows stays.
    fn unseen(&mut self, work: impl FnOnce(&mut Device)) {
        let before = times(&self.model, self.vfs());
        work(&mut self.device);
        assert_eq!(times(&self.model, self.vfs()), before);
    }

    fn check(&self, when: &str) {
        let wanted = self.model.picture();
        assert_same(&look(self.vfs(), &wanted), &wanted, when);
    }
}

/// Of each path when its content, and when anything about it was changed.
fn times(model: &Model, vfs: &Vfs) -> Vec<(Vec<u8>, i64, i64)> {
    let (dirs, others) = model.paths();
    let of = |path: Vec<u8>| {
        let attr = vfs.getattr(resolve(vfs, &path), None).expect("there");
        (path, attr.mtime_ns, attr.ctime_ns)
    };
    [dirs, others].concat().into_iter().map(of).collect()
}

fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path[..at].to_vec(), path[at + 1..].to_vec()),
        None => (Vec::new(), path.to_vec()),
    }
}

#[test]
fn random_calls_look_as_in_the_model_also_after_restart_and_recovery() {
    let first = std::env::var("COBOX_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
    let seeds = std::env::var("COBOX_TEST_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut run = Run { device: Device::new(), model: Model::new(), dice: Dice::new(seed) };
        for _ in 0..STEPS {
            run.step();
        }
        run.check("at the end");
        run.device.restart();
        run.check("after a restart");
        run.vfs().cut(Cut::Unmount).expect("cut");
        run.check("after a cut");
        assert_eq!(run.vfs().stats().pending_ops, 0);
        assert_eq!(run.vfs().stats().dirty_bytes, 0);
        let other = run.device.recovered();
        let wanted = run.model.picture();
        assert_same(&look(other.vfs(), &wanted), &wanted, "on a recovered device");
        let of_content = |vfs: &Vfs| {
            let times = times(&run.model, vfs).into_iter();
            times.map(|(path, mtime_ns, _)| (path, mtime_ns)).collect::<Vec<_>>()
        };
        assert_eq!(of_content(other.vfs()), of_content(run.vfs()), "seed {seed}: times after recovery");
        assert_eq!(ROOT, 1);
    }
}
