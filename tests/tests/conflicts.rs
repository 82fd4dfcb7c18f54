//! Conflicts on real mounts: devices of different people and a seeder, each on a host of its own; a switch
//! that is divided parts them. What they are told, what settles it, and a random run that must end with equal trees
//! and without a lost write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cobox_tests::group::{FOLDER, Group};
use cobox_tests::hosts::Host;
use cobox_tests::process::{Device, until};

/// Calls of the random run; with `COBOX_SOAK` ten thousand.
const CALLS: u64 = 1_000;
const CALLS_SOAK: u64 = 10_000;
/// Names that the random run lets a tree grow to.
const LIVE_MAX: usize = 200;
/// The first of the random run's calls that remove something.
const REMOVE: u64 = 9;

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

    /// One call on one mount; what is refused changes nothing.
    fn act(&mut self, mount: &Path) {
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
        let file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
        // Where much is there, more is removed: a run's end costs what its beginning did.
        let call = if crowded && self.dice.below(2) == 0 { REMOVE } else { self.dice.below(18) };
        match call {
            0..=2 if file => self.append(&path),
            3..=4 if file => self.overwrite(&path),
            5 if file => {
                self.seen.extend(shown(&path));
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(0))
                    .expect("truncates");
            }
            6..=8 => {
                // A rename that is refused has replaced nothing.
                let replaced = shown(&new);
                if fs::rename(&path, &new).is_ok() && path != new {
                    self.seen.extend(replaced);
                }
            }
            REMOVE..=11 if is_dir(&path) => drop(fs::remove_dir(&path)),
            REMOVE..=11 => {
                self.seen.extend(shown(&path));
                fs::remove_file(&path).expect("removes");
            }
            12 => drop(fs::hard_link(&path, &new)),
            13 if file => self.save(&path),
            14 if is_dir(&path) => drop(fs::create_dir_all(path.join("d/d"))),
            15 if file => {
                let value = [b'v', u8::try_from(self.dice.below(200)).expect("fits")];
                rustix::fs::setxattr(&path, "user.k", &value, rustix::fs::XattrFlags::empty()).expect("sets");
            }
            _ if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) => {
                let mode = 0o600 + u32::try_from(self.dice.below(64)).expect("fits");
                let mode = if file { mode } else { mode | 0o700 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changes");
            }
            _ => {}
        }
    }

    fn make(&mut self, new: &Path) {
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
                    file.write_all(&line).expect("writes");
                    drop(file);
                    self.written.insert(number);
                }
            }
        }
    }

    fn append(&mut self, path: &Path) {
        let (number, line) = self.line();
        let mut file = fs::File::options().append(true).open(path).expect("opens");
        file.write_all(&line).expect("writes");
        if self.dice.below(4) == 0 {
            file.sync_all().expect("syncs");
        }
        drop(file);
        self.written.insert(number);
    }

    fn overwrite(&mut self, path: &Path) {
        self.seen.extend(shown(path));
        let (number, line) = self.line();
        fs::write(path, line).expect("writes");
        self.written.insert(number);
    }

    /// What an editor does: a new file beside, then renamed over.
    fn save(&mut self, path: &Path) {
        let beside = path.with_file_name(".saving");
        let (number, line) = self.line();
        fs::write(&beside, line).expect("writes");
        self.written.insert(number);
        self.seen.extend(shown(path));
        fs::rename(&beside, path).expect("renames");
    }
}

#[test]
fn three_mounts_that_part_and_heal_end_equal_and_lose_no_write() {
    let seed = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let calls = if std::env::var("COBOX_SOAK").is_ok() { CALLS_SOAK } else { CALLS };
    println!("seed {seed}, {calls} calls");
    let test = "three_mounts_that_part_and_heal_end_equal_and_lose_no_write";
    let Some(scene) = Scene::new(test, 3) else { return };
    let mut drivers = Drivers { dice: Dice(seed), lines: 0, written: BTreeSet::new(), seen: BTreeSet::new() };
    let (mut done, mut told) = (0, 0);
    while done < calls {
        let parted = drivers.dice.below(3) > 0;
        if parted {
            scene.cut();
        }
        for _ in 0..(calls / 5).min(calls - done) {
            // Connected devices change each other's names under the driver's hands; parted ones do not.
            let on = if parted { usize::try_from(drivers.dice.below(3)).expect("fits") } else { 0 };
            drivers.act(scene.0.mount(on));
            done += 1;
        }
        if parted {
            scene.heal();
        } else {
            scene.await_entries();
        }
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
    println!("{} writes, up to {told} conflicts at a time", drivers.written.len());
    assert!(told > 0, "devices met");
}
