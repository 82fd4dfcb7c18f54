//! Space is given back while everybody works: several devices that meet through one seeder only, which honours
//! every release at once. Whatever happens in whatever order, at the end each device, and one that begins with
//! nothing but the seeder, reads every byte of every file that can be seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use cobox_fs::vfs::release::Rule;
use cobox_fs::vfs::worn::Limits;
use cobox_fs::vfs::{
    Called, Copies, Creator, Cut, Errno, Kind, ROOT, ReadOutcome, Released, RenameFlags, Vfs,
};
use cobox_store::blind::{PackStatus, Store, StoreKind};
use cobox_store::id::{FolderNo, LogId};

use super::Dice;
use super::home::{Device, deliver, offer};
use super::tree::{READ, WRITE, list, resolve};

mod rest;
mod stories;

const BY: Creator = Creator { mode: 0o644, uid: 1000, gid: 1000 };
const SEEDS: u64 = 10;
/// With `COBOX_SOAK`.
const SEEDS_SOAK: u64 = 600;
const STEPS: u64 = 160;
/// Names are few, so that devices meet in them; so are contents, so that chunks are reused.
const NAMES: u64 = 7;
const CONTENTS: u64 = 5;
/// Nearly every pack of these histories is worn.
const LIMITS: Limits = Limits {
    small_bytes: 1 << 20,
    small_chunks: 512,
    small_packs_min: 2,
    rewrite_bytes_max: 6 << 20,
    chunks_max: 1 << 16,
};
/// A content of many chunks, so that a small change leaves most of them as they were.
const LARGE: u64 = 99;

struct World {
    devices: Vec<Device>,
    seeder: Arc<Store>,
    no: FolderNo,
    _dir: tempfile::TempDir,
    dice: Dice,
    /// Files that a device holds open, some of them unlinked.
    open: Vec<(usize, u64)>,
    broken: Option<Rule>,
    released: usize,
    merged: usize,
}

fn name(dice: &mut Dice) -> Vec<u8> {
    format!("f{}", dice.below(NAMES)).into_bytes()
}

/// Bytes that no compression shortens and that are the same each time.
fn content(number: u64) -> Vec<u8> {
    let len =
        if number == LARGE { 2 << 20 } else { 6_000 + 70_000 * usize::try_from(number % 3).expect("small") };
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("giving").update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

impl World {
    fn new(seed: u64, devices: usize, broken: Option<Rule>) -> Self {
        let first = Device::new();
        let dir = tempfile::tempdir().expect("temporary folder");
        let seeder = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
        let from = first.vfs().folder();
        let records = from.store().access_records(from.no()).expect("reads");
        let no = seeder.folder_add(&records[0]).expect("a genesis");
        let mut world = Self {
            devices: vec![first],
            seeder,
            no,
            _dir: dir,
            dice: Dice::new(seed),
            open: Vec::new(),
            broken,
            released: 0,
            merged: 0,
        };
        while world.devices.len() < devices {
            let next = world.devices[0].recovered();
            world.devices.push(next);
            let last = world.devices.len() - 1;
            world.up(last);
            (0..last).for_each(|at| world.down(at));
        }
        (0..devices).for_each(|at| world.break_rule(at));
        world
    }

    fn vfs(&self, at: usize) -> &Arc<Vfs> {
        self.devices[at].vfs()
    }

    fn break_rule(&self, at: usize) {
        self.vfs(at).set_merge_limits(LIMITS);
        if let Some(rule) = self.broken {
            self.vfs(at).break_release_rule(rule);
        }
    }

    /// The seeder gets what a device has, and lets go of what was released.
    fn up(&self, at: usize) {
        let (from, to) = (self.vfs(at).folder(), &self.seeder);
        let source = from.store();
        for record in source.access_records(from.no()).expect("reads") {
            to.access_add(self.no, &record).expect("admitted");
        }
        for head in source.log_heads(from.no()).expect("reads") {
            let known = to.log_head(self.no, head.log).expect("reads").map_or(0, |head| head.seq);
            for seq in known + 1..=head.seq {
                let entry = source.entry(from.no(), head.log, seq).expect("reads").expect("is there");
                to.entry_add(self.no, &entry).expect("is taken");
            }
        }
        carry(source, from.no(), to, self.no);
        // Retention of no time at all.
        to.released_drop(self.no, &|_| false).expect("lets go");
    }

    /// A device gets what the seeder has.
    fn down(&self, at: usize) {
        let (to, from) = (self.vfs(at).folder(), &self.seeder);
        let target = to.store();
        for record in from.access_records(self.no).expect("reads") {
            target.access_add(to.no(), &record).expect("admitted");
        }
        to.refresh().expect("opens");
        for head in from.log_heads(self.no).expect("reads") {
            let known = target.log_head(to.no(), head.log).expect("reads").map_or(0, |head| head.seq);
            for seq in known + 1..=head.seq {
                let entry = from.entry(self.no, head.log, seq).expect("reads").expect("is there");
                target.entry_add(to.no(), &entry).expect("is taken");
            }
        }
        carry(from, self.no, target, to.no());
        self.vfs(at).catch_up().expect("applies");
    }

    fn step(&mut self) {
        let count = self.devices.len() as u64;
        let at = usize::try_from(self.dice.below(count)).expect("small");
        let vfs = Arc::clone(self.vfs(at));
        let (one, other) = (name(&mut self.dice), name(&mut self.dice));
        let what = self.dice.below(26);
        // A new device changes nothing before it has caught up.
        match if vfs.is_behind() && what < 14 { 17 } else { what } {
            0..=4 => self.write(at, &one),
            5 => self.edit(at, &one),
            6..=8 => drop(vfs.unlink(ROOT, &one)),
            9 => drop(vfs.rename(ROOT, &one, ROOT, &other, RenameFlags::Replace)),
            10 => {
                if let Ok(attr) = vfs.lookup(ROOT, &one) {
                    let _ = vfs.link(attr.ino, ROOT, &other);
                    vfs.forget(attr.ino, 1);
                }
            }
            11 => self.open_and_unlink(at, &one),
            12 => self.close_one(),
            13 => vfs.cut(Cut::Now).expect("cut"),
            14..=16 => {
                vfs.cut(Cut::Idle).expect("cut");
                self.up(at);
            }
            17..=18 => self.down(at),
            19 => drop(vfs.acknowledge().expect("answers")),
            20 => self.call(at),
            21 => self.release(at),
            22 => drop(vfs.drop_released().expect("lets go")),
            23..=24 => self.merge(at),
            _ => {
                drop(vfs);
                self.restart(at);
            }
        }
    }

    /// Whoever has changes that wait for others' entries cannot see a quiet moment.
    fn call(&self, at: usize) {
        self.up(at);
        let called = self.vfs(at).call_for_release(&self.copies());
        assert!(called.is_ok() || called == Err(Errno::EBUSY), "{called:?}");
    }

    /// Whether the seeder holds all that entries list there.
    fn copies(&self) -> Copies {
        let lacks = self.seeder.packs_missing(self.no, None, 1).expect("reads");
        if lacks.is_empty() { Copies::Proved(self.listed()) } else { Copies::Lacking }
    }

    /// The entries that the seeder has.
    fn listed(&self) -> Vec<(LogId, u64)> {
        let heads = self.seeder.log_heads(self.no).expect("reads");
        let mut listed: Vec<_> = heads.into_iter().map(|head| (head.log, head.seq)).collect();
        listed.sort_unstable();
        listed
    }

    fn merge(&mut self, at: usize) {
        match self.vfs(at).merge_worn(u64::MAX) {
            Ok((_, made)) => self.merged += made.len(),
            // A new device that has not caught up writes no entry.
            Err(errno) if self.vfs(at).is_behind() => assert_eq!(errno, Errno::EROFS),
            Err(errno) => assert_eq!(errno, Errno::EBUSY),
        }
    }

    fn release(&mut self, at: usize) {
        if let Released::Done(packs) = self.vfs(at).release_dead().expect("releases") {
            self.released += packs.len();
        }
    }

    fn write(&mut self, at: usize, name: &[u8]) {
        let vfs = Arc::clone(self.vfs(at));
        let number = self.dice.below(CONTENTS);
        let _ = vfs.mknod(ROOT, name, Kind::File, BY, 0);
        let Ok(attr) = vfs.lookup(ROOT, name) else { return };
        let fh = vfs.open_file(attr.ino, WRITE).expect("opens");
        vfs.write(fh, 0, &content(number)).expect("writes");
        if self.dice.below(4) == 0 {
            self.open.push((at, fh));
        } else {
            vfs.flush(fh).expect("closes");
            vfs.release(fh).expect("closes");
        }
        vfs.forget(attr.ino, 1);
    }

    fn edit(&mut self, at: usize, name: &[u8]) {
        let vfs = Arc::clone(self.vfs(at));
        let Ok(attr) = vfs.lookup(ROOT, name) else { return };
        let fh = vfs.open_file(attr.ino, WRITE).expect("opens");
        let offset = self.dice.below(attr.size + 1);
        vfs.write(fh, offset, &[7; 100]).expect("writes");
        self.open.push((at, fh));
        vfs.forget(attr.ino, 1);
    }

    fn open_and_unlink(&mut self, at: usize, name: &[u8]) {
        let vfs = Arc::clone(self.vfs(at));
        let Ok(attr) = vfs.lookup(ROOT, name) else { return };
        self.open.push((at, vfs.open_file(attr.ino, WRITE).expect("opens")));
        vfs.unlink(ROOT, name).expect("removes");
        vfs.forget(attr.ino, 1);
    }

    fn close_one(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let nth = usize::try_from(self.dice.below(self.open.len() as u64)).expect("small");
        let (at, fh) = self.open.swap_remove(nth);
        let vfs = self.vfs(at);
        // What is open can be read, whoever removed it.
        vfs.read(fh, 0, 1 << 20).expect("reads");
        vfs.flush(fh).expect("closes");
        vfs.release(fh).expect("closes");
    }

    fn restart(&mut self, at: usize) {
        while let Some(nth) = self.open.iter().position(|(device, _)| *device == at) {
            let (_, fh) = self.open.swap_remove(nth);
            self.vfs(at).flush(fh).expect("closes");
        }
        self.devices[at].restart();
        self.break_rule(at);
    }

    fn settle(&mut self) {
        while !self.open.is_empty() {
            self.close_one();
        }
        for _ in 0..3 {
            for at in 0..self.devices.len() {
                self.vfs(at).cut(Cut::Now).expect("cut");
                self.up(at);
            }
            (0..self.devices.len()).for_each(|at| self.down(at));
        }
    }

    /// A device, all of them, call, answer, release, and let go.
    fn give_back(&mut self) {
        for at in 0..self.devices.len() {
            drop(self.vfs(at).release_dead().expect("an earlier call ends"));
            self.merge(at);
            self.settle();
            if !matches!(self.vfs(at).call_for_release(&self.copies()), Ok(Called::Out(_))) {
                continue;
            }
            self.settle();
            for other in 0..self.devices.len() {
                self.vfs(other).acknowledge().expect("answers");
            }
            self.settle();
            self.release(at);
            self.settle();
            for other in 0..self.devices.len() {
                self.vfs(other).drop_released().expect("lets go");
            }
        }
    }

    /// Every file's bytes as a device has them, or which it has not.
    fn picture(vfs: &Vfs) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
        let mut seen = BTreeMap::new();
        for (name, _) in list(vfs, ROOT) {
            let fh = vfs.open_file(resolve(vfs, &name), READ).expect("opens");
            let (mut bytes, mut at) = (Vec::new(), 0);
            loop {
                match vfs.read_now(fh, at, 1 << 20) {
                    Ok(ReadOutcome::Ready(part)) if part.is_empty() => break,
                    Ok(ReadOutcome::Ready(part)) => {
                        at += part.len() as u64;
                        bytes.extend(part);
                    }
                    Err(errno) => {
                        return Err(format!("{} gives {errno:?}", String::from_utf8_lossy(&name)));
                    }
                    Ok(ReadOutcome::Waiting(packs)) => {
                        return Err(format!("{} needs {packs:?}", String::from_utf8_lossy(&name)));
                    }
                }
            }
            vfs.release(fh).expect("closes");
            seen.insert(name, bytes);
        }
        Ok(seen)
    }

    fn check(&mut self, seed: u64) {
        self.settle();
        let first = Self::picture(self.vfs(0)).expect("the first device has all");
        for at in 1..self.devices.len() {
            assert_eq!(Self::picture(self.vfs(at)).as_ref(), Ok(&first), "seed {seed}: device {at}");
        }
        // With nothing but what the seeder holds.
        let fresh = self.devices[0].alone();
        self.devices.push(fresh);
        let last = self.devices.len() - 1;
        self.up(last);
        self.down(last);
        let alone = Self::picture(self.vfs(last));
        assert_eq!(alone.as_ref(), Ok(&first), "seed {seed}: a device with the seeder alone");
        self.devices.pop();
    }
}

/// Packs that `to` lacks and `from` holds.
pub(super) fn carry(from: &Store, from_no: FolderNo, to: &Store, no: FolderNo) {
    for pack in to.packs_missing(no, None, usize::MAX).expect("reads") {
        if !matches!(from.pack_status(from_no, pack.id), Ok(PackStatus::Complete(_))) {
            continue;
        }
        let len = usize::try_from(pack.size).expect("fits");
        let bytes = from.pack_range(from_no, pack.id, 0, len).expect("reads").expect("is there");
        let outboard = from.outboard(from_no, pack.id).expect("reads").expect("is there");
        to.pack_put(no, pack, &outboard, &bytes).expect("stores");
    }
}

/// One history; how many packs were released in it, and how many were made by merging.
fn history(seed: u64, broken: Option<Rule>) -> (usize, usize) {
    let mut world = World::new(seed, 3, broken);
    for step in 0..STEPS {
        world.step();
        // In some histories a device joins late, and works before it has caught up.
        if step == STEPS / 2 && seed.is_multiple_of(3) {
            let late = world.devices[1].alone();
            world.devices.push(late);
            let last = world.devices.len() - 1;
            world.break_rule(last);
        }
    }
    world.settle();
    world.give_back();
    world.check(seed);
    (world.released, world.merged)
}

#[test]
fn releases_in_any_history_leave_every_visible_byte_readable() {
    let seeds = if std::env::var_os("COBOX_SOAK").is_some() { SEEDS_SOAK } else { SEEDS };
    let first = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok());
    let (mut released, mut merged) = (0, 0);
    for seed in first.map_or(1..seeds + 1, |seed| seed..seed + 1) {
        println!("seed {seed}");
        let (gone, made) = history(seed, None);
        (released, merged) = (released + gone, merged + made);
    }
    println!("{released} packs were released, {merged} made by merging");
    assert!(released > 0 && merged > 0, "nothing was ever released, or merged");
}

#[test]
fn fresh_device_is_not_stopped_by_a_call_for_what_nobody_can_have() {
    let ann = Device::new();
    ann.vfs().mknod(ROOT, b"anns", Kind::File, BY, 0).expect("makes");
    ann.vfs().cut(Cut::Now).expect("cut");
    let gone = ann.recovered();
    deliver(gone.vfs().folder(), ann.vfs().folder());
    let (folder, log) = (ann.vfs().folder(), gone.vfs().folder().log());
    folder.remove_device(log).expect("removed");
    // Its author held more of that log than counts, or made it up.
    folder.call(vec![(log, 1 << 40)]).expect("calls");
    let fresh = ann.recovered();
    fresh.vfs().catch_up().expect("applies");
    assert!(!fresh.vfs().is_behind(), "it has all that counts");
    assert!(fresh.vfs().mknod(ROOT, b"f", Kind::File, BY, 0).is_ok());
    assert!(fresh.vfs().acknowledge().expect("answers"), "and can answer");
    // Of a log that goes on it waits for what is said to be there, until the call is over.
    folder.call(vec![(folder.log(), 1 << 40)]).expect("calls");
    let late = ann.recovered();
    late.vfs().catch_up().expect("applies");
    assert!(late.vfs().is_behind());
    folder.call(vec![(folder.log(), 1)]).expect("calls");
    deliver(folder, late.vfs().folder());
    late.vfs().catch_up().expect("applies");
    assert!(!late.vfs().is_behind());
}

#[test]
fn call_waits_for_entries_of_a_removed_device_that_others_had_and_says_so() {
    let ann = Device::new();
    let (leaver, bob) = (ann.recovered(), ann.recovered());
    for device in [&leaver, &bob] {
        offer(device.vfs().folder(), ann.vfs().folder());
        offer(ann.vfs().folder(), bob.vfs().folder());
        offer(ann.vfs().folder(), leaver.vfs().folder());
    }
    let put = |device: &Device, name: &[u8], number: u64| {
        let vfs = device.vfs();
        let _ = vfs.mknod(ROOT, name, Kind::File, BY, 0);
        let fh = vfs.open_file(resolve(vfs, name), WRITE).expect("opens");
        vfs.write(fh, 0, &content(number)).expect("writes");
        vfs.flush(fh).expect("closes");
        vfs.release(fh).expect("closes");
        vfs.cut(Cut::Now).expect("cut");
    };
    put(&ann, b"dead", 1);
    ann.vfs().unlink(ROOT, b"dead").expect("removes");
    put(&leaver, b"left", 2);
    offer(leaver.vfs().folder(), bob.vfs().folder());
    let log = leaver.vfs().folder().log();
    ann.vfs().folder().remove_device(log).expect("removed");
    // Bob vouches; his records are here before what he vouches for.
    let to = bob.vfs().folder();
    for record in ann.vfs().folder().store().access_records(ann.vfs().folder().no()).expect("records") {
        to.store().access_add(to.no(), &record).expect("admitted");
    }
    assert_eq!(to.tend().expect("tends").vouches, 1);
    for record in to.store().access_records(to.no()).expect("records") {
        ann.vfs().folder().store().access_add(ann.vfs().folder().no(), &record).expect("admitted");
    }
    ann.vfs().folder().refresh().expect("opens");
    for _ in 0..2 {
        assert_eq!(ann.vfs().call_for_release(&Copies::Lacking), Ok(Called::Lacking(vec![log])));
    }
    offer(to, ann.vfs().folder());
    ann.vfs().catch_up().expect("applies");
    assert!(matches!(ann.vfs().call_for_release(&Copies::Lacking), Ok(Called::Out(_))));
}
