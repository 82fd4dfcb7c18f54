//! A disk that fills up, under a device and under a seeder: nothing acknowledged is lost, callers get
//! ENOSPC, and everything goes on when there is room again.
//!
//! The disk is a small tmpfs, which only root can mount; elsewhere these tests say that they are skipped.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Seeder, can_mount, run, until};

const ENOSPC: i32 = 28;

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, mebibytes: u64) -> Option<Self> {
        fs::create_dir_all(dir).expect("makes a folder");
        let size = format!("size={mebibytes}m");
        let said = run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir));
        (said.code == 0).then(|| Self(dir.to_owned()))
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
    let same = |saved: &[(PathBuf, Vec<u8>)]| {
        for (path, bytes) in saved {
            assert!(fs::read(path).expect("reads") == *bytes, "{} differs", path.display());
        }
    };
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

#[test]
fn seeder_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let test = "seeder_on_a_full_disk_says_so_and_goes_on_when_there_is_room";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 200) else {
        println!("skipped: {test}: only root can mount a small disk");
        return;
    };
    let mut seeder = Seeder::new(&disk.0, "seeder");
    seeder.start();
    let mut device = device_on(dir.path(), dir.path());
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "10G"]).ok();
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
