//! Conflicts on real mounts: devices of different people and a seeder, each on a host of its own; a switch
//! that is divided parts them. What they are told, what settles it, and a random run that must end with equal trees
//! and without a lost write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cobox_tests::group::{FOLDER, Group};
use cobox_tests::hosts::Host;
use cobox_tests::process::{Device, until};

/// Calls of the random run; with `COBOX_SOAK` ten thousand.
const CALLS: u64 = 1_000;
const CALLS_SOAK: u64 = 10_000;
/// Its five divisions are all together or all apart. Where some are together and others are gone, a read may wait for
/// up to a minute for bytes that were asked of who is gone: that takes too long here, and is played by the long form.
const SEED: u64 = 1;
/// So long does a device of a divided room take at most to have what its mates wrote; see [`SEED`].
const SETTLE_LIMIT: Duration = Duration::from_secs(180);
/// Calls between two divisions.
const PHASE_CALLS: u64 = 200;
/// Names that the random run lets a tree grow to.
const LIVE_MAX: usize = 200;
/// The first of the random run's calls that remove something.
const REMOVE: u64 = 9;
/// The last of them.
const REMOVE_LAST: u64 = 11;
/// Places that the random run's devices are in: with the seeder, or in one of two others.
const ROOMS: usize = 3;
/// Calls that one device makes before it is another's turn.
const TURN_MAX: u64 = 40;

struct Scene(Group);

impl Scene {
    /// The first device's folder, joined by the others and mounted by all.
    fn new(test: &str, devices: usize) -> Option<Self> {
        Group::with_seeder(test, devices).map(Self)
    }

    fn devices(&self) -> &[Device] {
        &self.0.devices
    }

    fn at(&self, on: usize, name: &str) -> PathBuf {
        self.0.mount(on).join(name)
    }

    /// Parts all devices from one another and from the seeder.
    fn cut(&self) {
        let alone: Vec<[&Host; 1]> = self.0.hosts.iter().map(|host| [host]).collect();
        self.0.lan.partition(&alone.iter().map(|group| &group[..]).collect::<Vec<_>>());
    }

    /// Divides the devices: those of one room reach one another, and in room 0 the seeder.
    fn divide(&self, rooms: &[usize]) {
        let of = |room: usize| -> Vec<&Host> {
            self.0.hosts.iter().zip(rooms).filter(|(_, at)| **at == room).map(|(host, _)| host).collect()
        };
        let apart: Vec<Vec<&Host>> = (1..ROOMS).map(of).collect();
        self.0.lan.partition(&apart.iter().map(|group| &group[..]).collect::<Vec<_>>());
    }

    /// Waits until these devices have all of each other's changes, and show them.
    fn settle(&self, devices: &[usize]) {
        let all = || devices.iter().map(|on| &self.devices()[*on]);
        let same = || {
            let counts: BTreeSet<(u64, u64)> = all().map(entries).collect();
            let same = counts.len() == 1 && counts.iter().all(|(_, pending)| *pending == 0);
            // What has come is shown a moment later.
            same && all()
                .map(|device| look(&device.mount))
                .collect::<Vec<_>>()
                .windows(2)
                .all(|two| two[0] == two[1])
        };
        let start = Instant::now();
        while !same() {
            assert!(start.elapsed() < SETTLE_LIMIT, "the devices of a room do not have the same");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Lets them meet, and waits until each has every entry of the others.
    fn heal(&self) {
        self.0.lan.join();
        self.await_entries();
    }

    fn await_entries(&self) {
        until("every device has all entries", || {
            let counts: BTreeSet<(u64, u64)> = self.devices().iter().map(entries).collect();
            counts.len() == 1 && counts.iter().all(|(_, pending)| *pending == 0)
        });
    }

    /// What the others show as well, once they do.
    fn agreed(&self) -> BTreeMap<PathBuf, Seen> {
        until("all mounts show the same", || {
            let trees: Vec<_> = self.devices().iter().map(|device| look(&device.mount)).collect();
            trees.iter().all(|tree| *tree == trees[0])
        });
        look(self.0.mount(0))
    }

    fn names(&self, on: usize) -> Vec<String> {
        let entries = fs::read_dir(self.0.mount(on)).expect("lists");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("lists").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The other version of `f.txt`, as a device sees it.
    fn conflict_of_f(&self, on: usize) -> String {
        let names = self.names(on);
        names.into_iter().find(|name| name.starts_with("f (conflict ")).expect("a conflict entry")
    }

    /// Both first devices write `f.txt` while they are parted, the second one later.
    fn conflict(&self) {
        self.cut();
        fs::write(self.at(0, "f.txt"), "of ann").expect("writes");
        // A write has the time at which it is entered in the log, a moment after the close.
        until("ann's write is in her log", || entries(&self.devices()[0]).1 == 0);
        fs::write(self.at(1, "f.txt"), "of bob").expect("writes");
        self.heal();
        until("both see both", || (0..2).all(|on| self.names(on).len() == 2));
    }

    fn shows_only(&self, text: &str) {
        until(&format!("both show only {text:?}"), || {
            (0..2).all(|on| {
                self.names(on) == ["f.txt"]
                    && fs::read_to_string(self.at(on, "f.txt")).is_ok_and(|found| found == text)
            })
        });
        for device in self.devices() {
            let told = conflicts(device);
            assert_eq!(told["folders"][0]["conflicts"].as_array().map(Vec::len), Some(0), "{told}");
        }
    }
}

/// Entries that are here, and changes that are in none yet.
fn entries(device: &Device) -> (u64, u64) {
    let said = device.ctl(&["status", FOLDER, "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let local = &report["folders"][0]["local"];
    let number = |name: &str| local[name].as_u64().expect("a number");
    (number("entries"), number("pending_ops") + number("dirty_bytes"))
}

fn conflicts(device: &Device) -> serde_json::Value {
    serde_json::from_str(&device.ctl(&["conflicts", FOLDER, "--json"]).ok().out).expect("JSON")
}

/// One name of a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    mode: u32,
    size: u64,
    links: u64,
    mtime: Option<(i64, i64)>,
    xattr: Option<Vec<u8>>,
    bytes: Vec<u8>,
}

fn look(mount: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut tree = BTreeMap::new();
    look_in(mount, Path::new(""), &mut tree);
    tree
}

/// What goes while it is looked at is not there: the trees are looked at again until they agree.
fn look_in(mount: &Path, dir: &Path, tree: &mut BTreeMap<PathBuf, Seen>) {
    let Ok(names) = fs::read_dir(mount.join(dir)) else { return };
    for name in names.flatten() {
        let (path, full) = (dir.join(name.file_name()), name.path());
        let Ok(meta) = fs::symlink_metadata(&full) else { continue };
        let bytes = if meta.is_file() {
            fs::read(&full).unwrap_or_default()
        } else if meta.is_symlink() {
            fs::read_link(&full).map(|to| to.into_os_string().into_encoded_bytes()).unwrap_or_default()
        } else {
            Vec::new()
        };
        let mut value = [0; 64];
        let xattr = rustix::fs::lgetxattr(&full, "user.k", &mut value).ok();
        let seen = Seen {
            mode: meta.mode(),
            size: if meta.is_dir() { 0 } else { meta.size() },
            links: meta.nlink(),
            // A directory's changes with its entries, after races by each device's own account.
            mtime: (!meta.is_dir()).then(|| (meta.mtime(), meta.mtime_nsec())),
            xattr: xattr.map(|len| value[..len].to_vec()),
            bytes,
        };
        tree.insert(path.clone(), seen);
        if meta.is_dir() {
            look_in(mount, &path, tree);
        }
    }
}

#[test]
fn conflict_is_told_and_settled_in_the_file_manager_and_by_the_verb() {
    let test = "conflict_is_told_and_settled_in_the_file_manager_and_by_the_verb";
    let Some(scene) = Scene::new(test, 2) else { return };
    scene.conflict();

    // Told: the same on both, in words in the mount, with who and when.
    let told = conflicts(&scene.devices()[0]);
    assert_eq!(told, conflicts(&scene.devices()[1]));
    let one = &told["folders"][0]["conflicts"][0];
    assert_eq!((one["kind"].as_str(), one["path"].as_str()), (Some("versions"), Some("f.txt")), "{told}");
    assert_eq!(
        (one["acts"][0]["device"].as_str(), one["acts"][1]["device"].as_str()),
        (Some("device1"), Some("device0"))
    );
    assert_ne!(one["acts"][0]["member"], one["acts"][1]["member"], "two people");
    let words = fs::read_to_string(scene.at(0, ".cobox/conflicts")).expect("reads");
    assert!(words.contains("club: 1 to look at") && words.contains("device1 (member "), "{words}");
    let json = fs::read_to_string(scene.at(1, ".cobox/conflicts.json")).expect("reads");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["conflicts"], told["folders"][0]["conflicts"]);
    let status = scene.devices()[0].ctl(&["status", FOLDER]).ok();
    assert!(status.out.contains("settle   1: "), "{status:?}");
    let status = fs::read_to_string(scene.at(0, ".cobox/status.json")).expect("reads");
    assert!(status.contains("\"conflicts\": 1"), "{status}");

    // Renamed over the original: it is taken, and what is written then goes into the original.
    let loser = scene.conflict_of_f(1);
    assert_eq!(fs::read_to_string(scene.at(1, &loser)).expect("reads"), "of ann");
    fs::rename(scene.at(1, &loser), scene.at(1, "f.txt")).expect("renames");
    assert_eq!(fs::read_to_string(scene.at(1, "f.txt")).expect("reads"), "of ann");
    let mut file = fs::File::options().append(true).open(scene.at(1, "f.txt")).expect("opens");
    file.write_all(b", and on").expect("writes");
    drop(file);
    scene.shows_only("of ann, and on");

    // Removed: the other one stays.
    scene.conflict();
    fs::remove_file(scene.at(0, &scene.conflict_of_f(0))).expect("removes");
    scene.shows_only("of bob");

    // By the verb: one is kept, under whichever name; or both are.
    scene.conflict();
    let path = scene.at(0, &scene.conflict_of_f(0));
    let path = path.to_str().expect("text");
    let said = scene.devices()[0].ctl(&["conflicts", "keep", path]).ok();
    assert!(said.out.contains("is kept"), "{said:?}");
    scene.shows_only("of ann");
    let said =
        scene.devices()[0].ctl(&["conflicts", "keep", scene.at(0, "f.txt").to_str().expect("text")]).ok();
    assert!(said.out.contains("nothing to settle"), "{said:?}");
    assert_eq!(
        scene.devices()[0].ctl(&["conflicts", "keep", scene.at(0, "none").to_str().expect("text")]).code,
        1
    );
    assert_eq!(scene.devices()[0].ctl(&["conflicts", "keep", "/etc/passwd"]).code, 1);

    scene.conflict();
    let path = scene.at(1, "f.txt");
    scene.devices()[1].ctl(&["conflicts", "keep", path.to_str().expect("text"), "--both"]).ok();
    until("nobody is told of it any more", || {
        let none = |device: &Device| conflicts(device)["folders"][0]["conflicts"] == serde_json::json!([]);
        scene.devices().iter().all(none)
    });
    let loser = scene.conflict_of_f(0);
    assert_eq!(fs::read_to_string(scene.at(0, &loser)).expect("reads"), "of ann");
    fs::remove_file(scene.at(0, "f.txt")).expect("removes");
    until("the other one is a file of its own", || (0..2).all(|on| scene.names(on) == [loser.clone()]));
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("fits")]
    }
}

/// Who works on the mounts, and what was written: each write is a line that begins with its number.
struct Drivers {
    dice: Dice,
    lines: u64,
    written: BTreeSet<String>,
    /// What some call replaced or removed while its mount showed it.
    seen: BTreeSet<String>,
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = String> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| {
        String::from_utf8_lossy(line.split(|byte| *byte == b' ').next().unwrap_or(line)).into_owned()
    })
}

/// The names below a directory, in the order of their bytes; nothing is opened.
fn list(dir: &Path, paths: &mut Vec<PathBuf>, dirs: &mut Vec<PathBuf>) {
    let Ok(names) = fs::read_dir(dir) else { return };
    let mut here: Vec<fs::DirEntry> = names.flatten().collect();
    here.sort_by_key(fs::DirEntry::file_name);
    for entry in here {
        paths.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            dirs.push(entry.path());
            list(&entry.path(), paths, dirs);
        }
    }
}

fn shown(path: &Path) -> Vec<String> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let to = fs::read_link(path).expect("reads").into_os_string().into_encoded_bytes();
            numbers(&to).collect()
        }
        Ok(meta) if meta.is_file() => numbers(&fs::read(path).expect("reads")).collect(),
        _ => Vec::new(),
    }
}

impl Drivers {
    fn line(&mut self) -> (String, Vec<u8>) {
        self.lines += 1;
        let number = self.lines.to_string();
        let filler = [0, 10, 40, 1_200, 90_000][usize::try_from(self.dice.below(5)).expect("fits")];
        let mut line = format!("{number} ").into_bytes();
        line.extend((0..filler).map(|_| b'a' + u8::try_from(self.dice.below(20)).expect("fits")));
        line.push(b'\n');
        (number, line)
    }

    /// One call on one mount; what is refused changes nothing. Where it replaces or removes something, `settle` comes
    /// first: what a call takes away must be what its mount showed just before, or it cannot be told from a loss.
    fn act(&mut self, mount: &Path, settle: &mut dyn FnMut()) -> io::Result<()> {
        let mut paths = Vec::new();
        let mut dirs = vec![mount.to_owned()];
        list(mount, &mut paths, &mut dirs);
        let is_dir = |path: &PathBuf| dirs.contains(path);
        let crowded = paths.len() > LIVE_MAX;
        let name = *self.dice.pick(&["a", "b.txt", "c.tar.gz", "d", "größe"]);
        let new = self.dice.pick(&dirs).join(name);
        if paths.is_empty() || (!crowded && self.dice.below(4) == 0) {
            return self.make(&new);
        }
        let path = self.dice.pick(&paths).clone();
        // Where much is there, more is removed: a run's end costs what its beginning did.
        let call = if crowded && self.dice.below(2) == 0 { REMOVE } else { self.dice.below(18) };
        if matches!(call, 3..=REMOVE_LAST | 13) {
            settle();
        }
        let file = fs::symlink_metadata(&path)?.is_file();
        match call {
            0..=2 if file => self.append(&path),
            3..=4 if file => self.overwrite(&path),
            5 if file => {
                self.seen.extend(shown(&path));
                fs::File::options().write(true).open(&path)?.set_len(0)
            }
            6..=8 => {
                // A rename that is refused has replaced nothing.
                let replaced = shown(&new);
                if fs::rename(&path, &new).is_ok() && path != new {
                    self.seen.extend(replaced);
                }
                Ok(())
            }
            REMOVE..=REMOVE_LAST if is_dir(&path) => {
                drop(fs::remove_dir(&path));
                Ok(())
            }
            REMOVE..=REMOVE_LAST => {
                self.seen.extend(shown(&path));
                fs::remove_file(&path)
            }
            12 => {
                drop(fs::hard_link(&path, &new));
                Ok(())
            }
            13 if file => self.save(&path),
            _ => self.describe(&path, call),
        }
    }

    /// A call that changes no file's bytes.
    fn describe(&mut self, path: &Path, call: u64) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        match call {
            14 if meta.is_dir() => {
                drop(fs::create_dir_all(path.join("d/d")));
            }
            15 if meta.is_file() => {
                let value = [b'v', u8::try_from(self.dice.below(200)).expect("fits")];
                rustix::fs::setxattr(path, "user.k", &value, rustix::fs::XattrFlags::empty())?;
            }
            _ if !meta.is_symlink() => {
                let mode = 0o600 + u32::try_from(self.dice.below(64)).expect("fits");
                let mode = if meta.is_file() { mode } else { mode | 0o700 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn make(&mut self, new: &Path) -> io::Result<()> {
        match self.dice.below(6) {
            0 | 1 => drop(fs::create_dir(new)),
            2 => {
                let (number, _) = self.line();
                if std::os::unix::fs::symlink(&number, new).is_ok() {
                    self.written.insert(number);
                }
            }
            _ => {
                if let Ok(mut file) = fs::File::create_new(new) {
                    let (number, line) = self.line();
                    file.write_all(&line)?;
                    drop(file);
                    self.written.insert(number);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, path: &Path) -> io::Result<()> {
        let (number, line) = self.line();
        let mut file = fs::File::options().append(true).open(path)?;
        file.write_all(&line)?;
        if self.dice.below(4) == 0 {
            file.sync_all()?;
        }
        drop(file);
        self.written.insert(number);
        Ok(())
    }

    fn overwrite(&mut self, path: &Path) -> io::Result<()> {
        self.seen.extend(shown(path));
        let (number, line) = self.line();
        fs::write(path, line)?;
        self.written.insert(number);
        Ok(())
    }

    /// What an editor does: a new file beside, then renamed over.
    fn save(&mut self, path: &Path) -> io::Result<()> {
        let beside = path.with_file_name(".saving");
        let (number, line) = self.line();
        self.seen.extend(shown(&beside));
        fs::write(&beside, line)?;
        self.written.insert(number);
        self.seen.extend(shown(path));
        fs::rename(&beside, path)
    }

    /// So many calls. Devices take turns; those of one room hear of one another's changes while they work.
    fn work(&mut self, scene: &Scene, rooms: &[usize], calls: u64) -> u64 {
        let mut done = 0;
        // Per room: who changed something that its others may not show yet.
        let mut unsettled: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); ROOMS];
        while done < calls {
            let on = usize::try_from(self.dice.below(rooms.len() as u64)).expect("fits");
            let turn = (1 + self.dice.below(TURN_MAX)).min(calls - done);
            let mates: Vec<usize> = (0..rooms.len()).filter(|mate| rooms[*mate] == rooms[on]).collect();
            for _ in 0..turn {
                let fresh = &mut unsettled[rooms[on]];
                let mut settle = || {
                    if fresh.iter().any(|mate| *mate != on) {
                        scene.settle(&mates);
                        fresh.clear();
                    }
                };
                match self.act(scene.0.mount(on), &mut settle) {
                    // A mate's change took away what was listed a moment ago.
                    Err(error) if mates.len() > 1 && is_gone(&error) => {}
                    result => result.expect("the call works"),
                }
                unsettled[rooms[on]].insert(on);
            }
            done += turn;
        }
        done
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::StaleNetworkFileHandle
    )
}

#[test]
fn three_mounts_that_part_and_heal_end_equal_and_lose_no_write() {
    let seed = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let calls = if std::env::var("COBOX_SOAK").is_ok() { CALLS_SOAK } else { CALLS };
    println!("seed {seed}, {calls} calls");
    let test = "three_mounts_that_part_and_heal_end_equal_and_lose_no_write";
    let Some(scene) = Scene::new(test, 3) else { return };
    let started = Instant::now();
    let mut drivers = Drivers { dice: Dice(seed), lines: 0, written: BTreeSet::new(), seen: BTreeSet::new() };
    // Of their own, for what is drawn while several devices work depends on what has come.
    let mut places = Dice(seed);
    let (mut done, mut told, mut shapes) = (0, 0, BTreeSet::new());
    while done < calls {
        let rooms = rooms(&mut places);
        println!("after {done} calls and {} s: rooms {rooms:?}", started.elapsed().as_secs());
        shapes.insert(shape(&rooms));
        scene.divide(&rooms);
        done += drivers.work(&scene, &rooms, PHASE_CALLS.min(calls - done));
        println!("healed after {} s", started.elapsed().as_secs());
        scene.heal();
        let tree = scene.agreed();
        let list = conflicts(&scene.devices()[0]);
        assert!(scene.devices().iter().all(|device| conflicts(device) == list), "everybody is told the same");
        told = told.max(list["folders"][0]["conflicts"].as_array().map_or(0, Vec::len));
        let readable: BTreeSet<String> = tree.values().flat_map(|seen| numbers(&seen.bytes)).collect();
        let lost: Vec<_> = drivers
            .written
            .iter()
            .filter(|number| !drivers.seen.contains(*number) && !readable.contains(*number))
            .collect();
        assert!(lost.is_empty(), "seed {seed} after {done} calls: nothing shows {lost:?}");
    }
    println!("{calls} calls in {} s", started.elapsed().as_secs());
    println!("{} writes, up to {told} conflicts at a time", drivers.written.len());
    assert!(told > 0, "devices met");
    assert!(shapes.len() >= 2, "only {shapes:?} was played");
}

/// Where each of three devices is: all together, or apart in any way.
fn rooms(dice: &mut Dice) -> Vec<usize> {
    let mut room = || usize::try_from(dice.below(ROOMS as u64)).expect("fits");
    if room() == 0 { vec![0; 3] } else { (0..3).map(|_| room()).collect() }
}

/// Which devices are together, and whether one is with the seeder: rooms by the order in which they are met.
fn shape(rooms: &[usize]) -> (Vec<usize>, bool) {
    let first = |room: &usize| rooms.iter().position(|other| other == room).expect("it is in there");
    (rooms.iter().map(first).collect(), rooms.contains(&0))
}
