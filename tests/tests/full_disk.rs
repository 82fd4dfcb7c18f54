//! A disk that fills up or becomes read-only, under a device and under a seeder: nothing acknowledged is
//! lost, callers get ENOSPC or EROFS, and everything goes on when the cause is gone, without a restart. Also
//! bytes that are elsewhere, and what `df` says.
//!
//! The causes are real: a small tmpfs, a mount that is made read-only over the store's folder. Only root can
//! make them; elsewhere these tests say that they are skipped. A block device that fails is not tested.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cobox_store::blind::{Store, StoreKind};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Seeder, can_mount, run, until};

const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EIO: i32 = 5;
/// What a read waits while a peer may still answer (`ABSENT_WAIT_MS`).
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mebibytes: u64) -> Option<Self> {
        fs::create_dir_all(dir).expect("makes a folder");
        let size = format!("size={mebibytes}m");
        let said = run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir));
        (said.code == 0).then(|| Self(dir.to_owned()))
    }

    /// Takes all that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = File::create(&path).expect("creates");
        for block in [vec![1; 64 << 10], vec![1; 1 << 10]] {
            while file.write_all(&block).is_ok() {}
        }
        path
    }

    fn grow(&self, mebibytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={mebibytes}m")]).arg(&self.0)).ok();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// A device that is initialised and has the folder `docs` mounted.
fn device_on(dir: &Path, words_dir: &Path) -> Device {
    let mut device = Device::new(dir, "device");
    let words = words_dir.join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "full", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    device
}

/// A mount of a folder on itself that refuses writes through every path below it. Files that are open
/// already are written on, as Linux allows no file system with such files to become read-only as a whole.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn over(dir: &Path) -> Option<Self> {
        let bound = run(Command::new("mount").arg("--bind").arg(dir).arg(dir));
        if bound.code != 0 {
            return None;
        }
        let mount = Self(dir.to_owned());
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(dir)).ok();
        Some(mount)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

/// Ends the daemon that a verb started by itself.
struct Autostarted<'a>(&'a Device);

impl Drop for Autostarted<'_> {
    fn drop(&mut self) {
        drop(self.0.ctl(&["daemon", "stop", "--force"]));
    }
}

fn same(saved: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in saved {
        assert!(fs::read(path).expect("reads") == *bytes, "{} differs", path.display());
    }
}

fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[test]
fn device_on_a_full_disk_says_so_and_loses_nothing() {
    let test = "device_on_a_full_disk_says_so_and_loses_nothing";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 320) else {
        println!("skipped: {test}: only root can mount a small disk");
        return;
    };
    let mut device = device_on(&disk.0, dir.path());
    let mut rng = Rng::new(3);
    let mut saved: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    let refused = loop {
        assert!(saved.len() < 200, "320 MiB never filled up");
        let path = device.mount.join(format!("file-{}", saved.len()));
        let bytes = rng.bytes(5_000_000);
        match save(&path, &bytes) {
            Ok(()) => saved.push((path, bytes)),
            Err(error) => break error,
        }
    };
    println!("{} files of 5 MB before: {refused}", saved.len());
    assert_eq!(refused.raw_os_error(), Some(ENOSPC), "{refused}");
    assert!(saved.len() > 10, "hardly anything fitted");
    same(&saved);
    disk.grow(800);
    let path = device.mount.join("after");
    let bytes = rng.bytes(5_000_000);
    until("writes work again once there is room", || save(&path, &bytes).is_ok());
    saved.push((path, bytes));
    same(&saved);
    device.kill();
    device.start();
    device.await_mount();
    same(&saved);
    assert_eq!(device.ctl(&["check", "docs"]).code, 0);
    device.stop();
}

/// After the cause has gone: writes work again without a restart, and all that was saved is there before and
/// after one.
fn goes_on(device: &mut Device, mut saved: Vec<(PathBuf, Vec<u8>)>, rng: &mut Rng) {
    same(&saved);
    let path = device.mount.join("after");
    let bytes = rng.bytes(5_000_000);
    until("writes work again", || save(&path, &bytes).is_ok());
    saved.push((path, bytes));
    same(&saved);
    device.kill();
    device.start();
    device.await_mount();
    same(&saved);
    assert_eq!(device.ctl(&["check", "docs"]).code, 0);
    device.stop();
}

#[test]
fn device_whose_disk_becomes_read_only_says_so_and_loses_nothing() {
    let test = "device_whose_disk_becomes_read_only_says_so_and_loses_nothing";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device_on(dir.path(), dir.path());
    let mut rng = Rng::new(7);
    let mut saved = Vec::new();
    for at in 0..5 {
        let (path, bytes) = (device.mount.join(format!("file-{at}")), rng.bytes(3_000_000));
        save(&path, &bytes).expect("saves");
        saved.push((path, bytes));
    }
    let Some(read_only) = ReadOnly::over(&device.home) else {
        println!("skipped: {test}: only root can make a mount read-only");
        return;
    };
    let mut refused = 0;
    for at in 0..12 {
        let (path, bytes) = (device.mount.join(format!("refused-{at}")), rng.bytes(5_000_000));
        match save(&path, &bytes) {
            Ok(()) => saved.push((path, bytes)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EROFS), "{error}");
                refused += 1;
            }
        }
    }
    println!("{refused} of 12 files refused");
    assert!(refused > 6, "large files need new files of the store");
    same(&saved);
    assert!(fs::read_dir(&device.mount).expect("lists").count() >= saved.len());
    drop(read_only);
    goes_on(&mut device, saved, &mut rng);
}

/// How a disk became full before a daemon of this version started on it for the first time.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Full {
    /// By writing to the mount.
    Here,
    /// By others, to the last byte.
    Elsewhere,
    /// The same, and the room that the store had kept back was gone already.
    WithoutReserve,
}

fn starts_on_a_full_disk(test: &str, full: Full) {
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 320) else {
        println!("skipped: {test}: only root can mount a small disk");
        return;
    };
    let mut device = device_on(&disk.0, dir.path());
    let mut rng = Rng::new(11);
    let mut saved = Vec::new();
    let files = if full == Full::Here { 200 } else { 4 };
    for at in 0..files {
        let (path, bytes) = (device.mount.join(format!("file-{at}")), rng.bytes(5_000_000));
        if save(&path, &bytes).is_err() {
            break;
        }
        saved.push((path, bytes));
    }
    assert!((4..100).contains(&saved.len()), "{} files", saved.len());
    device.stop();
    let store = device.home.join("store/data");
    let format = store.join("FORMAT");
    let new = fs::read_to_string(&format).expect("reads");
    fs::write(&format, "cobox-store 1 device\n").expect("writes");
    if full == Full::WithoutReserve {
        fs::remove_file(store.join("reserve")).expect("there is one");
    }
    let ballast = (full != Full::Here).then(|| disk.fill());
    device.start();
    device.await_mount();
    same(&saved);
    let refused = save(&device.mount.join("more"), &rng.bytes(5_000_000)).expect_err("the disk is full");
    assert_eq!(refused.raw_os_error(), Some(ENOSPC), "{refused}");
    let removed = fs::remove_file(&saved[0].0);
    println!("{full:?}: removing a file while it is full: {removed:?}");
    match ballast {
        Some(ballast) => fs::remove_file(ballast).expect("frees room"),
        None => removed.expect("what the mount keeps free is enough to remove files"),
    }
    until("files are removed again", || !saved[0].0.exists() || fs::remove_file(&saved[0].0).is_ok());
    saved.remove(0);
    assert_eq!(fs::read_to_string(&format).expect("reads"), new, "rows of the new format were written");
    disk.grow(800);
    goes_on(&mut device, saved, &mut rng);
}

#[test]
fn device_with_a_store_of_before_starts_on_a_disk_that_it_filled_and_removes_files() {
    let test = "device_with_a_store_of_before_starts_on_a_disk_that_it_filled_and_removes_files";
    starts_on_a_full_disk(test, Full::Here);
}

#[test]
fn device_with_a_store_of_before_starts_on_a_disk_without_a_byte_left() {
    let test = "device_with_a_store_of_before_starts_on_a_disk_without_a_byte_left";
    starts_on_a_full_disk(test, Full::Elsewhere);
    starts_on_a_full_disk(test, Full::WithoutReserve);
}

/// The size that `df` says.
fn df_size(path: &Path) -> u64 {
    let said = rustix::fs::statvfs(path).expect("statvfs");
    said.f_blocks * said.f_frsize
}

/// What `df` says of a mount: bytes that are used, and bytes that can be written.
fn df(path: &Path) -> (u64, u64) {
    let said = rustix::fs::statvfs(path).expect("statvfs");
    ((said.f_blocks - said.f_bfree) * said.f_frsize, said.f_bavail * said.f_frsize)
}

#[test]
fn df_shows_what_the_folder_occupies_and_what_is_left_of_the_disk() {
    let test = "df_shows_what_the_folder_occupies_and_what_is_left_of_the_disk";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 900) else {
        println!("skipped: {test}: only root can mount a small disk");
        return;
    };
    let mut device = device_on(&disk.0, dir.path());
    let before = df(&device.mount);
    let (_, below) = df(&disk.0);
    assert_eq!(df_size(&device.mount), df_size(&disk.0));
    let fill = disk.0.join("fill");
    fs::write(&fill, vec![0; usize::try_from(below - (20 << 20)).expect("small")]).expect("fills");
    let full = df(&device.mount);
    assert_eq!((df_size(&device.mount), full.1), (df_size(&disk.0), 0), "a full disk has a size");
    assert!(full.0 < 8 << 20, "{full:?} of an empty folder");
    fs::remove_file(&fill).expect("removed");
    assert!(before.0 < 8 << 20, "{before:?} of an empty folder");
    assert!(before.1 < below && before.1 + (128 << 20) > below, "{before:?} of {below}");
    let bytes = Rng::new(9).bytes(100 << 20);
    save(&device.mount.join("file"), &bytes).expect("saves");
    let close = |bytes: u64| (95 << 20..130 << 20).contains(&bytes);
    device.ctl(&["umount", device.mount.to_str().expect("text")]).ok();
    device.mount("docs");
    until("100 MiB more are used", || close(df(&device.mount).0 - before.0));
    until("100 MiB less are left", || close(before.1 - df(&device.mount).1));
    save(&device.mount.join("copy"), &bytes).expect("saves");
    device.ctl(&["umount", device.mount.to_str().expect("text")]).ok();
    device.mount("docs");
    let after = df(&device.mount);
    assert!(close(after.0 - before.0), "equal bytes are stored once: {before:?} {after:?}");
    device.stop();
}

#[test]
fn bytes_that_nobody_holds_fail_before_the_longest_wait_and_come_with_the_seeder() {
    let test = "bytes_that_nobody_holds_fail_before_the_longest_wait_and_come_with_the_seeder";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut first = device_on(dir.path(), dir.path());
    first.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "10G"]).ok();
    let bytes = Rng::new(10).bytes(200 << 20);
    save(&first.mount.join("large"), &bytes).expect("saves");
    first.ctl(&["wait", "docs", "--copies", "1", "--timeout", "100s"]).ok();
    first.stop();
    let second = Device::new(dir.path(), "second");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    let address = seeder.address();
    let arguments = ["recover", "--words-file", words, "--seeder", &address, "--label", "second"];
    second.ctl(&[&arguments[..], &["--no-passphrase"]].concat()).ok();
    seeder.kill();
    let _stop = Autostarted(&second);
    second.mount("docs");
    let path = second.mount.join("large");
    let size = fs::metadata(&path).expect("stat").len();
    assert_eq!(size, bytes.len() as u64);
    let blocks = fs::metadata(&path).expect("stat").blocks();
    assert_eq!(blocks * 512, size.next_multiple_of(512), "du counts bytes that are elsewhere");
    let start = std::time::Instant::now();
    let read = fs::read(&path);
    let waited = start.elapsed();
    if let Err(error) = read {
        println!("refused after {waited:?}: {error}");
        assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
        assert!(waited < LONGEST_WAIT, "nobody may answer, and it waited {waited:?}");
        assert!(df(&second.mount).0 < size, "df counts what is here");
    } else {
        println!("all came before the seeder was stopped");
    }
    seeder.start();
    until("the bytes come with the seeder", || fs::read(&path).is_ok_and(|found| found == bytes));
}

/// A seeder on a small disk of its own, and a device that lets it hold "docs". Taken apart in the order `_dir`, disk,
/// seeder, device: what is bound last goes first.
struct Boxed {
    seeder: Seeder,
    device: Device,
    disk: SmallDisk,
    _dir: tempfile::TempDir,
}

impl Boxed {
    /// `None` where the test cannot run here.
    fn new(test: &str, mib: u64) -> Option<Self> {
        if !can_mount(test) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), mib) else {
            println!("skipped: {test}: only root can mount a small disk");
            return None;
        };
        let mut seeder = Seeder::new(&disk.0, "seeder");
        seeder.start();
        let device = device_on(dir.path(), dir.path());
        device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "10G"]).ok();
        Some(Self { seeder, device, disk, _dir: dir })
    }
}

#[test]
fn seeder_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let test = "seeder_on_a_full_disk_says_so_and_goes_on_when_there_is_room";
    let Some(Boxed { _dir, disk, seeder, mut device }) = Boxed::new(test, 200) else { return };
    let mut rng = Rng::new(4);
    save(&device.mount.join("first"), &rng.bytes(5_000_000)).expect("saves");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    save(&device.mount.join("second"), &rng.bytes(300_000_000)).expect("saves");
    let said = device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "20s"]);
    assert_eq!(said.code, 3, "300 MB on a disk of 200 MiB: {said:?}");
    println!("while it is full: {}{}", said.out, said.err);
    assert_eq!(seeder.run(&["status"]).code, 0, "the full seeder still answers");
    disk.grow(900);
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "100s"]).ok();
    device.stop();
}

/// Bytes that the disk below `dir` has left for everybody.
fn free_bytes(dir: &Path) -> u64 {
    let about = rustix::fs::statvfs(dir).expect("asks the disk");
    about.f_bavail * about.f_frsize
}

/// The number that a seeder's status says of its only folder.
fn number(seeder: &Seeder, name: &str) -> Option<u64> {
    let said = seeder.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(said.out.lines().last()?).ok()?;
    status["folders"][0][name].as_u64()
}

#[test]
fn release_is_taken_on_a_disk_without_a_byte_left_and_after_30_days_its_bytes_are_back() {
    let test = "release_is_taken_on_a_disk_without_a_byte_left_and_after_30_days_its_bytes_are_back";
    let Some(Boxed { _dir, disk, mut seeder, mut device }) = Boxed::new(test, 260) else { return };
    let mut rng = Rng::new(5);
    let kept = (device.mount.join("kept"), rng.bytes(3_000_000));
    save(&device.mount.join("large"), &rng.bytes(60 << 20)).expect("saves");
    save(&device.mount.join("small"), &rng.bytes(200_000)).expect("saves");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    save(&kept.0, &kept.1).expect("saves");
    fs::remove_file(device.mount.join("large")).expect("removes");
    fs::remove_file(device.mount.join("small")).expect("removes");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    disk.fill();
    assert_eq!(free_bytes(&disk.0), 0);
    let pruned = device.ctl(&["prune", "docs", "--json"]).ok();
    let pruned: serde_json::Value = serde_json::from_str(pruned.out.trim()).expect("JSON");
    let released = pruned["released_bytes"].as_u64().expect("a number");
    assert!(pruned["state"] == "released" && released >= 56 << 20, "{pruned}");
    until("the seeder keeps what was released", || number(&seeder, "held_bytes") == Some(released));
    device.stop();
    seeder.kill();
    // Opened, it keeps some room for itself where there is any; here there is none.
    let store = Store::open(&seeder.data, StoreKind::Seeder).expect("opens on a full disk");
    let before = free_bytes(&disk.0);
    let mut freed = 0;
    for _ in 0..30 * 24 * 6 {
        freed += store.retention_advance(u64::MAX).expect("goes on").bytes;
    }
    drop(store);
    assert_eq!(freed, released);
    let back = free_bytes(&disk.0).saturating_sub(before);
    println!(
        "{} MiB were released, {} MiB came back, {} were free",
        released >> 20,
        back >> 20,
        before >> 20
    );
    assert!(back + (4 << 20) >= released - (48 << 20), "{back} of {released} bytes came back");
    // It holds the rest, and takes new bytes where the old ones were.
    seeder.start();
    device.start();
    device.await_mount();
    save(&device.mount.join("new"), &rng.bytes(2_000_000)).expect("saves");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    same(&[kept]);
    device.stop();
}
