//! Power cuts: the disk below a device or a seeder loses what was not flushed, at random moments. And disks that fail.
//!
//! `kill -9` leaves what a program wrote with the kernel; a power cut takes it, in any order. Each test works once on
//! a disk that keeps everything in order ([`cobox_tests::disk`]) and then looks at that disk as it would have been
//! after cuts at moments between: the programs start, everything that `fsync` or a confirmation promised by then
//! is there, and nothing is damaged. `COBOX_SOAK=N` multiplies the moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cobox_store::blind::{Store, StoreKind};
use cobox_store::id::LogId;
use cobox_store::keyed::{Home, Unlock};
use cobox_tests::disk::{Broken, Disk, Kept, Tape, can_cut_power};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Seeder};

const DISK_BYTES: u64 = 384 << 20;
const CUTS: u64 = 20;
const WORKERS: u64 = 2;
const STEPS: usize = 90;
const PAGE_BYTES: usize = 4096;
const PAGES: u64 = 400;
const KINDS: [Kept; 3] = [Kept::Nothing, Kept::ByChance, Kept::All];

fn times(count: u64) -> u64 {
    let soak: u64 = std::env::var("COBOX_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count * soak
}

fn rng() -> Rng {
    let seed = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_129);
    println!("COBOX_SEED={seed}");
    Rng::new(seed)
}

/// Positions to cut at, in order: most of them while something was done, some between.
fn moments(rng: &mut Rng, from: usize, to: usize, count: u64) -> BTreeSet<usize> {
    (0..count).map(|_| from + rng.below((to - from) as u64 + 1) as usize).collect()
}

/// What a path held; `None` where it was absent.
type Held = Option<Arc<Vec<u8>>>;

/// Something that was done to be durable: by what time, and what it changed.
struct Step {
    begun: usize,
    /// When `fsync` had returned.
    promised: usize,
    changes: Vec<(PathBuf, Held)>,
    /// Names that may be there in between.
    passing: Option<PathBuf>,
}

/// One program that writes in a directory of its own.
struct Worker<'a> {
    dir: PathBuf,
    disk: &'a Disk,
    rng: Rng,
    pages: Vec<u8>,
    journal: Vec<u8>,
    steps: Vec<Step>,
}

impl<'a> Worker<'a> {
    fn new(mount: &Path, number: u64, disk: &'a Disk, seed: u64) -> Self {
        let dir = mount.join(format!("worker-{number}"));
        fs::create_dir(&dir).expect("makes a directory");
        Self { dir, disk, rng: Rng::new(seed), pages: Vec::new(), journal: Vec::new(), steps: Vec::new() }
    }

    fn run(mut self, steps: usize) -> (PathBuf, Vec<Step>) {
        sync(&self.dir).and_then(|()| sync(self.dir.parent().expect("it lies in the mount"))).expect("syncs");
        for _ in 0..steps {
            let begun = self.disk.position();
            let (changes, passing) = match self.rng.below(8) {
                0..=2 => self.save_document(),
                3 | 4 => self.append_journal(),
                5 | 6 => self.write_page(),
                _ => self.remove_document(),
            }
            .expect("a disk with power and room takes everything");
            let promised = self.disk.position();
            self.steps.push(Step { begun, promised, changes, passing });
            self.make_noise().expect("a disk with power and room takes everything");
        }
        (self.dir, self.steps)
    }

    /// As an editor saves: a new file, fsync, rename over the old one, fsync of the directory.
    fn save_document(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let len = [10, 900, 5_000, 70_000, 3_000_000][self.rng.below(5) as usize];
        let bytes = self.rng.bytes(len);
        let path = self.dir.join(format!("document-{}", self.rng.below(6)));
        let temporary = self.dir.join("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync(&self.dir)?;
        Ok((vec![(path, Some(Arc::new(bytes)))], Some(temporary)))
    }

    fn remove_document(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join(format!("document-{}", self.rng.below(6)));
        if path.exists() {
            fs::remove_file(&path)?;
        }
        sync(&self.dir)?;
        Ok((vec![(path, None)], None))
    }

    /// As a log grows. The first time the name is made durable, too.
    fn append_journal(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join("journal");
        let len = 1 + self.rng.below(3000) as usize;
        let bytes = self.rng.bytes(len);
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        if self.journal.is_empty() {
            sync(&self.dir)?;
        }
        self.journal.extend_from_slice(&bytes);
        Ok((vec![(path, Some(Arc::new(self.journal.clone())))], None))
    }

    /// As a database writes: a page in place, then fsync.
    fn write_page(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join("pages");
        let at = self.rng.below(PAGES) as usize * PAGE_BYTES;
        let bytes = self.rng.bytes(PAGE_BYTES);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        if self.pages.is_empty() {
            self.pages = self.rng.bytes(PAGES as usize * PAGE_BYTES);
            file.write_all_at(&self.pages, 0)?;
        }
        file.write_all_at(&bytes, at as u64)?;
        file.sync_all()?;
        sync(&self.dir)?;
        self.pages[at..at + PAGE_BYTES].copy_from_slice(&bytes);
        Ok((vec![(path, Some(Arc::new(self.pages.clone())))], None))
    }

    /// Changes that nobody asked to be durable: they may be lost, and what is there can be read.
    fn make_noise(&mut self) -> io::Result<()> {
        let path = self.dir.join(format!("noise-{}", self.rng.below(9)));
        let to = self.dir.join(format!("noise-{}", self.rng.below(9)));
        match self.rng.below(6) {
            0 | 1 => {
                let len = self.rng.below(200_000) as usize;
                fs::write(path, self.rng.bytes(len))
            }
            2 if path.exists() => fs::rename(path, to),
            3 if path.exists() => fs::remove_file(path),
            _ => Ok(()),
        }
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads all files of a directory.
fn read_all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("lists").path());
    paths
        .map(|path| {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, bytes)
        })
        .collect()
}

/// Compares a directory with what was promised at `position`.
fn check(dir: &Path, steps: &[Step], position: usize) -> Result<(), String> {
    if steps.first().is_none_or(|first| first.begun > position) {
        return Ok(());
    }
    let mut found = read_all(dir);
    let mut promised: BTreeMap<&Path, Held> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.promised <= position) {
        promised.extend(step.changes.iter().map(|(path, held)| (path.as_path(), held.clone())));
    }
    // What was under way may be done, or not.
    let under_way = steps.iter().find(|step| step.promised > position && step.begun <= position);
    for (path, after) in under_way.iter().flat_map(|step| &step.changes) {
        let bytes = found.remove(path);
        let before = promised.get(path.as_path()).cloned().flatten();
        let same = |held: &Held| held.as_deref() == bytes.as_ref();
        // A file that is just being made may have nothing in it yet, or less than it will have.
        let begun =
            before.is_none() && (path.ends_with("pages") || bytes.as_ref().is_some_and(Vec::is_empty));
        if !same(&before) && !same(after) && !begun {
            return Err(format!("{}: neither as before nor as after", path.display()));
        }
        promised.remove(path.as_path());
    }
    if let Some(passing) = under_way.and_then(|step| step.passing.as_ref()) {
        found.remove(passing);
    }
    for (path, held) in promised {
        let bytes = found.remove(path);
        if held.as_deref() != bytes.as_ref() {
            let len = |bytes: Option<&Vec<u8>>| bytes.map(Vec::len);
            let (found, due) = (len(bytes.as_ref()), len(held.as_deref()));
            return Err(format!("{}: {found:?} bytes, not the {due:?} promised", path.display()));
        }
    }
    match found.keys().find(|path| !path.to_string_lossy().contains("/noise-")) {
        Some(path) => Err(format!("{} is there and should not be", path.display())),
        None => Ok(()),
    }
}

/// A device whose home is on the disk; what it is mounted on is not.
fn device_on(at: &Path, dir: &Path) -> Device {
    let mut device = Device::new(dir, "device");
    device.home = at.join("home");
    device
}

fn unmount(device: &Device) {
    drop(Command::new("fusermount3").arg("-uz").arg(&device.mount).status());
}

fn init(device: &Device, words: &Path) {
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "power", "--no-passphrase", "--words-out", words]).ok();
}

#[test]
fn power_cut_of_a_device_keeps_what_fsync_promised() {
    if !can_cut_power("power_cut_of_a_device_keeps_what_fsync_promised") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let workers: Vec<Worker<'_>> =
        (0..WORKERS).map(|number| Worker::new(&device.mount, number, &disk, rng.draw())).collect();
    let begun = disk.position();
    let done: Vec<(PathBuf, Vec<Step>)> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            workers.into_iter().map(|worker| scope.spawn(move || worker.run(STEPS))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker")).collect()
    });
    let ended = disk.position();
    device.kill();
    unmount(&device);
    let mut tape = disk.end();
    println!("{} events while {} steps were done", ended - begun, WORKERS as usize * STEPS);

    for (number, position) in moments(&mut rng, begun, ended, times(CUTS)).into_iter().enumerate() {
        let kept = KINDS[number % KINDS.len()];
        let image = tape.cut(position, kept, &mut rng);
        let disk = Disk::again(&at, DISK_BYTES, image.clone());
        check_device(&mut device, &done, position, &format!("cut at {position}, kept {kept:?}"));
        let mut tape = disk.end();
        // Its power goes once more, while it was coming back.
        let position_again = rng.below(tape.len() as u64 + 1) as usize;
        let image = tape.cut(position_again, KINDS[(number + 1) % KINDS.len()], &mut rng);
        let disk = Disk::again(&at, DISK_BYTES, image);
        check_device(&mut device, &done, position, &format!("cut at {position}, then at {position_again}"));
        drop(disk);
    }
}

fn check_device(device: &mut Device, done: &[(PathBuf, Vec<Step>)], position: usize, what: &str) {
    device.start();
    device.await_mount();
    for (dir, steps) in done {
        check(dir, steps, position).unwrap_or_else(|broken| panic!("{what}: {broken}"));
    }
    let checked = device.ctl(&["check", "docs"]);
    assert_eq!(checked.code, 0, "{what}: {checked:?}");
    device.kill();
    unmount(device);
}

#[test]
fn power_cut_while_a_device_is_set_up_leaves_it_set_up_or_not() {
    if !can_cut_power("power_cut_while_a_device_is_set_up_leaves_it_set_up_or_not") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    let mut device = device_on(&at, dir.path());
    let words = dir.path().join("words");
    init(&device, &words);
    let set_up = disk.position();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    let made = disk.position();
    device.mount("docs");
    let mounted = disk.position();
    device.kill();
    unmount(&device);
    let mut tape = disk.end();

    let mut cuts = moments(&mut rng, 0, mounted, times(CUTS));
    cuts.extend([set_up, made, mounted]);
    for (number, position) in cuts.into_iter().enumerate() {
        let kept = KINDS[number % KINDS.len()];
        let what = format!("cut at {position} of {set_up}, {made}, {mounted}, kept {kept:?}");
        let disk = Disk::again(&at, DISK_BYTES, tape.cut(position, kept, &mut rng));
        if position < set_up {
            // The words of before may be those of a device that is there now, or of none.
            drop(fs::remove_file(&words));
            let words = words.to_str().expect("a temporary path is text");
            let said = device.ctl(&["init", "--label", "power", "--no-passphrase", "--words-out", words]);
            let is_set_up = said.code == 0 || device.ctl(&["daemon", "start"]).code == 0;
            assert!(is_set_up, "{what}: {said:?}");
            drop(device.ctl(&["daemon", "stop", "--force"]));
        }
        device.start();
        let folders = device.ctl(&["folder", "list"]).ok();
        assert!(position < made || folders.out.contains("docs"), "{what}: {folders:?}");
        if position < mounted {
            if !folders.out.contains("docs") {
                device.ctl(&["folder", "create", "docs"]).ok();
            }
            drop(device.ctl(&["mount", "docs", device.mount.to_str().expect("a temporary path is text")]));
        }
        device.await_mount();
        fs::write(device.mount.join("file"), b"works").unwrap_or_else(|error| panic!("{what}: {error}"));
        device.kill();
        unmount(&device);
        drop(disk);
    }
}

#[test]
fn power_cut_of_a_seeder_keeps_what_it_confirmed() {
    if !can_cut_power("power_cut_of_a_seeder_keeps_what_it_confirmed") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.data = at.join("data");
    seeder.start();
    let device = Device::set_up(dir.path(), "device");
    let (mut confirmed, mut device) = (Vec::new(), device);
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.mount("docs");
    for number in 0..8u64 {
        let len = [100, 6_000, 300_000, 9_000_000][(number % 4) as usize];
        let bytes = rng.bytes(len);
        fs::write(device.mount.join(number.to_string()), &bytes).expect("writes");
        device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
        confirmed.push((disk.position(), bytes));
    }
    device.stop();
    let address = seeder.address();
    seeder.kill();
    let mut tape = disk.end();
    let (first, last) = (confirmed[0].0, confirmed[confirmed.len() - 1].0);
    let mut cuts = moments(&mut rng, first, last, times(CUTS / 2));
    cuts.extend(confirmed.iter().map(|(position, _)| *position));
    for (number, position) in cuts.into_iter().enumerate() {
        let kept = KINDS[number % KINDS.len()];
        let disk = Disk::again(&at, DISK_BYTES, tape.cut(position, kept, &mut rng));
        seeder.start();
        let found = recovered(dir.path(), number, &address);
        for (name, (_, bytes)) in confirmed.iter().enumerate().filter(|(_, (at, _))| *at <= position) {
            let held = fs::read(found.mount.join(name.to_string()));
            let same = held.as_ref().is_ok_and(|held| held == bytes);
            assert!(same, "cut at {position}, kept {kept:?}: file {name}: {:?}", held.map(|held| held.len()));
        }
        drop(found.ctl(&["daemon", "stop", "--force"]));
        drop(found);
        seeder.kill();
        drop(disk);
    }
}

/// A new device, from the words and what the seeder holds.
fn recovered(dir: &Path, number: usize, address: &str) -> Device {
    let device = Device::new(dir, &format!("recovered-{number}"));
    let words = dir.join("device-words");
    let words = words.to_str().expect("a temporary path is text");
    let label = format!("recovered {number}");
    device
        .ctl(&["recover", "--words-file", words, "--seeder", address, "--label", &label, "--no-passphrase"])
        .ok();
    device.mount("docs");
    device
}

#[test]
fn power_cut_of_a_device_takes_no_entry_that_others_have() {
    if !can_cut_power("power_cut_of_a_device_takes_no_entry_that_others_have") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut disk = Disk::new(&at, DISK_BYTES);
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.mount("docs");
    let mut known = 0;
    for round in 0..times(6) {
        // They are connected again.
        device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
        for number in 0..30 {
            let len = rng.below(20_000) as usize;
            fs::write(device.mount.join(format!("{number}")), rng.bytes(len)).expect("writes");
            std::thread::park_timeout(std::time::Duration::from_millis(rng.below(60)));
        }
        // All that the seeder has, it got before this moment; what the device is syncing is not durable yet.
        seeder.kill();
        let position = disk.position();
        device.kill();
        unmount(&device);
        let mut tape: Tape = disk.end();
        disk = Disk::again(&at, DISK_BYTES, tape.cut(position, Kept::Nothing, &mut rng));
        let theirs = heads(&seeder.data, None);
        let ours = heads(&at.join("home/store"), Some(&at.join("home/key")));
        let entries = theirs.values().sum();
        assert!(entries > known, "round {round}: the seeder got nothing");
        known = entries;
        for (log, seq) in theirs {
            let own = ours.get(&log).copied().unwrap_or_default();
            assert!(own >= seq, "round {round}: the seeder has entry {seq} of {log}, the device {own}");
        }
        seeder.start();
        device.start();
        device.await_mount();
    }
    let waited = device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    let status = device.ctl(&["status"]).ok();
    assert!(!status.out.contains("WRONG"), "{status:?}");
    device.stop();
}

/// Has the kernel forget what it read, so that the next reads reach the disks.
fn forget_pages() {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}

#[test]
fn disk_that_fails_is_told_and_takes_nothing_that_was_promised() {
    if !can_cut_power("disk_that_fails_is_told_and_takes_nothing_that_was_promised") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let promised: BTreeMap<PathBuf, Vec<u8>> = [100, 9_000, 2_000_000]
        .into_iter()
        .map(|len| (device.mount.join(len.to_string()), rng.bytes(len)))
        .collect();
    let put = |path: &Path, bytes: &[u8]| {
        File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
    };
    for (path, bytes) in &promised {
        put(path, bytes).expect("a disk that works takes it");
    }
    sync(&device.mount).expect("a disk that works takes it");
    // In entries and out of memory.
    device.stop();
    device.start();
    device.await_mount();

    forget_pages();
    disk.set_broken(Broken::Reads);
    let mut failed = 0;
    for (path, bytes) in &promised {
        match fs::read(path) {
            Ok(read) => assert!(read == *bytes, "{}: other bytes than were written", path.display()),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0, "nothing was read from the disk");
    disk.set_broken(Broken::No);
    for (path, bytes) in &promised {
        let read = fs::read(path).unwrap_or_else(|error| panic!("{} again: {error}", path.display()));
        assert!(read == *bytes, "{} again", path.display());
    }

    disk.set_broken(Broken::Writes);
    let late = device.mount.join("late");
    let error = put(&late, &rng.bytes(5_000)).expect_err("a disk that takes nothing promises nothing");
    println!("fsync said: {error}");
    for (path, bytes) in &promised {
        assert!(fs::read(path).is_ok_and(|read| read == *bytes), "{} while writes fail", path.display());
    }
    disk.set_broken(Broken::No);
    // ext4 takes no more writes after an error in its journal: the machine is started anew.
    device.kill();
    unmount(&device);
    let mut tape = disk.end();
    let all = tape.len();
    let disk = Disk::again(&at, DISK_BYTES, tape.cut(all, Kept::All, &mut rng));
    device.start();
    device.await_mount();
    for (path, bytes) in &promised {
        assert!(fs::read(path).is_ok_and(|read| read == *bytes), "{} after a restart", path.display());
    }
    put(&late, b"works again").expect("the disk works again");
    assert_eq!(device.ctl(&["check", "docs"]).code, 0);
    device.kill();
    unmount(&device);
    drop(disk);
}

#[test]
fn seeder_whose_disk_fails_confirms_nothing_and_goes_on_when_it_works() {
    if !can_cut_power("seeder_whose_disk_fails_confirms_nothing_and_goes_on_when_it_works") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = dir.path().join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.data = at.join("data");
    seeder.start();
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.mount("docs");
    let confirmed = |timeout| device.ctl(&["wait", "docs", "--copies", "1", "--timeout", timeout]);
    let files: Vec<Vec<u8>> = [5_000, 700_000].into_iter().map(|len| rng.bytes(len)).collect();
    fs::write(device.mount.join("0"), &files[0]).expect("writes");
    confirmed("60s").ok();

    disk.set_broken(Broken::Writes);
    fs::write(device.mount.join("1"), &files[1]).expect("the device's own disk works");
    let said = confirmed("5s");
    assert_eq!(said.code, 3, "a copy was counted that is on no disk: {said:?}");
    assert_eq!(seeder.run(&["address"]).code, 0, "it runs");
    disk.set_broken(Broken::No);
    // ext4 takes no more writes after an error in its journal: the machine is started anew.
    seeder.kill();
    let mut tape = disk.end();
    let all = tape.len();
    let disk = Disk::again(&at, DISK_BYTES, tape.cut(all, Kept::Nothing, &mut rng));
    seeder.start();
    confirmed("60s").ok();
    let address = seeder.address();
    device.stop();

    let found = recovered(dir.path(), 0, &address);
    for (name, bytes) in files.iter().enumerate() {
        assert!(fs::read(found.mount.join(name.to_string())).expect("reads") == *bytes, "file {name}");
    }
    drop(found.ctl(&["daemon", "stop", "--force"]));
    seeder.kill();
    drop(disk);
}

/// The length of each log that a closed store holds.
fn heads(store: &Path, key: Option<&Path>) -> BTreeMap<LogId, u64> {
    let home = key.map(|key| {
        Home::open(store, Unlock::KeyFile(key.to_owned())).expect("the store opens after a power cut")
    });
    let store = match &home {
        Some(home) => Arc::clone(home.store()),
        None => Store::open(store, StoreKind::Seeder).expect("the store opens"),
    };
    let folders = store.folders().expect("folders");
    let heads = folders.into_iter().flat_map(|(no, _)| store.log_heads(no).expect("heads"));
    heads.map(|head| (head.log, head.seq)).collect()
}
