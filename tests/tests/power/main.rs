//! Power cuts: the disk below a device or a seeder loses what was not flushed, at random moments. And disks that fail.
//!
//! `kill -9` leaves what a program wrote with the kernel; a power cut takes it, in any order. Each test works once on
//! a disk that keeps everything in order ([`cobox_tests::disk`]) and then looks at that disk as it would have been
//! after cuts at moments between: the programs start, everything that `fsync` or a confirmation promised by then
//! is there, and nothing is damaged. `COBOX_SOAK=N` multiplies the moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cobox_store::blind::{Store, StoreKind};
use cobox_store::id::LogId;
use cobox_store::keyed::{Home, Unlock};
use cobox_tests::disk::{Broken, Disk, Kept, Tape, can_cut_power};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Seeder};

mod promises;

use promises::{Step, Worker, check, sync};

const DISK_BYTES: u64 = 384 << 20;
const CUTS: u64 = 20;
const WORKERS: u64 = 2;
const STEPS: usize = 90;
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

/// A device whose home is on the disk; what it is mounted on is not.
fn device_on(at: &Path, dir: &Path) -> Device {
    let mut device = Device::new(dir, "device");
    device.home = at.join("home");
    device
}

/// Where the disk is mounted, and the disk.
fn disk_in(dir: &Path) -> (PathBuf, Disk) {
    let at = dir.join("disk");
    let disk = Disk::new(&at, DISK_BYTES);
    (at, disk)
}

/// A seeder whose data are on the disk, started.
fn seeder_on(at: &Path, dir: &Path) -> Seeder {
    let mut seeder = Seeder::new(dir, "seeder");
    seeder.data = at.join("data");
    seeder.start();
    seeder
}

/// Starts a device that is set up, with a folder that is mounted and kept by `seeder`.
fn bring_up(device: &mut Device, seeder: Option<&Seeder>) {
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    if let Some(seeder) = seeder {
        device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    }
    device.mount("docs");
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
    let (at, disk) = disk_in(dir.path());
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    bring_up(&mut device, None);
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
    let (at, disk) = disk_in(dir.path());
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
    let (at, disk) = disk_in(dir.path());
    let mut seeder = seeder_on(&at, dir.path());
    let mut device = Device::set_up(dir.path(), "device");
    let mut confirmed = Vec::new();
    bring_up(&mut device, Some(&seeder));
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
    let (at, mut disk) = disk_in(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    bring_up(&mut device, Some(&seeder));
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

/// The disk as it is when its machine is started anew.
fn started_anew(at: &Path, disk: Disk, kept: Kept, rng: &mut Rng) -> Disk {
    let mut tape = disk.end();
    let end = tape.len();
    Disk::again(at, DISK_BYTES, tape.cut(end, kept, rng))
}

/// Has the kernel forget what it holds of the disk at `at`, so that the next reads reach it. It keeps what is still to be
/// written, so that is written first.
fn forget_pages(at: &Path) {
    let disk = File::open(at).expect("the disk is mounted");
    rustix::fs::syncfs(&disk).expect("a disk that works takes it");
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}

#[test]
fn disk_that_fails_is_told_and_takes_nothing_that_was_promised() {
    if !can_cut_power("disk_that_fails_is_told_and_takes_nothing_that_was_promised") {
        return;
    }
    let mut rng = rng();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (at, disk) = disk_in(dir.path());
    let mut device = device_on(&at, dir.path());
    init(&device, &dir.path().join("words"));
    bring_up(&mut device, None);
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

    forget_pages(&at);
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
    let disk = started_anew(&at, disk, Kept::All, &mut rng);
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
    let (at, disk) = disk_in(dir.path());
    let mut seeder = seeder_on(&at, dir.path());
    let mut device = Device::set_up(dir.path(), "device");
    bring_up(&mut device, Some(&seeder));
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
    let disk = started_anew(&at, disk, Kept::Nothing, &mut rng);
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
