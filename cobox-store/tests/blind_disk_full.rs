//! A full disk refuses writes, keeps what was acknowledged readable, and heals without reopening.
//!
//! Needs root, for a small file system of its own; says so and passes where it cannot mount one.

mod folder;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::blind::{Batch, Durability, PackStatus, STORE, Store, StoreKind, Table, key};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::Outboard;
use cobox_store::id::FolderNo;

use folder::{Dice, Folder};

const DISK_MIB: u64 = 160;

/// A file system of its own; unmounted and removed when dropped.
struct SmallDisk {
    /// Where there is little room.
    dir: PathBuf,
    mount: PathBuf,
    /// What is in the image of a disk, where it has one.
    image: Option<tempfile::NamedTempFile>,
}

/// What keeps a disk small.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bound {
    /// Its own size: `ENOSPC`.
    Size,
    /// A quota of one folder, while the disk says that it has much room: `EDQUOT`.
    Quota,
}

fn done(program: &str, words: &[&str], at: &Path) -> bool {
    Command::new(program).args(words).arg(at).output().is_ok_and(|output| output.status.success())
}

impl SmallDisk {
    fn of(bound: Bound) -> Option<Self> {
        match bound {
            Bound::Size => Self::mount(),
            Bound::Quota => Self::mount_with_quota(),
        }
    }

    /// A btrfs in a file, with a subvolume that has a quota.
    fn mount_with_quota() -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("temporary file");
        image.as_file().set_len((4 * DISK_MIB) << 20).expect("makes a hole");
        let mount = tempfile::tempdir().expect("temporary folder").keep();
        let image_text = image.path().to_str().expect("a name").to_owned();
        let mounted = done("mkfs.btrfs", &["-q", "-m", "single", "-d", "single"], image.path())
            && done("mount", &["-o", "loop", &image_text], &mount);
        if !mounted {
            std::fs::remove_dir(&mount).expect("the folder is empty");
            println!("skipped: no disk with a quota could be mounted (this test needs root and btrfs-progs)");
            return None;
        }
        let disk = Self { dir: mount.join("ours"), mount, image: Some(image) };
        let limit = format!("{DISK_MIB}M");
        assert!(done("btrfs", &["quota", "enable"], &disk.mount));
        assert!(done("btrfs", &["subvolume", "create"], &disk.dir));
        assert!(done("btrfs", &["qgroup", "limit", &limit], &disk.dir));
        Some(disk)
    }

    /// Removes a file, and waits until its room counts as free.
    fn free(&self, file: &Path) {
        if file.exists() {
            std::fs::remove_file(file).expect("frees room");
        }
        if self.image.is_some() {
            assert!(done("btrfs", &["filesystem", "sync"], &self.mount));
        }
    }

    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary folder").keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "cobox-test"])
            .arg(&dir)
            .output()
            .is_ok_and(|output| output.status.success());
        if mounted {
            return Some(Self { dir: dir.clone(), mount: dir, image: None });
        }
        std::fs::remove_dir(&dir).expect("the folder is empty");
        println!("skipped: no small file system could be mounted (this test needs root)");
        None
    }

    fn fill(&self) -> PathBuf {
        let path = self.dir.join("ballast");
        // Where a quota is used up already, not even an empty file is made.
        if let Ok(mut file) = std::fs::File::create(&path) {
            let block = vec![1u8; 64 << 10];
            while std::io::Write::write_all(&mut file, &block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if done("umount", &[], &self.mount) {
            let _ = std::fs::remove_dir(&self.mount);
        }
    }
}

fn put_row(store: &Store, number: u64, value: &[u8]) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.put(&row(number), value);
    store.db().commit(batch, Durability::Synced)
}

/// A quota is not tried at every write, but at the first one after half a second.
fn put_row_once_there_is_room(store: &Store, number: u64, value: &[u8]) {
    let start = Instant::now();
    while let Err(error) = put_row(store, number, value) {
        assert!(matches!(error, Error::NoSpace), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "writes do not work again");
        std::thread::yield_now();
    }
}

fn row(number: u64) -> Vec<u8> {
    key(STORE, Table::Misc, &number.to_be_bytes())
}

fn assert_rows(store: &Store, count: u64) {
    for number in 0..count {
        assert!(store.db().contains(&row(number)).expect("reads go on"), "row {number}");
    }
}

fn assert_packs(store: &Store, no: FolderNo, packs: &[PackRef]) {
    for pack in packs {
        assert_eq!(store.pack_status(no, pack.id).expect("reads go on"), PackStatus::Complete(*pack));
    }
    let report = store.check_packs(no, &mut |_, _| ControlFlow::Continue(())).expect("checks");
    assert!(report.damaged.is_empty());
}

/// Writes packs until the disk is full.
fn packs_until_full(folder: &Folder, dice: &mut Dice, size: usize) -> Vec<PackRef> {
    let mut packs = Vec::new();
    loop {
        let bytes = dice.bytes(size);
        let outboard = Outboard::of(&bytes);
        match folder.store.pack_put(folder.no, outboard.pack(), &outboard, &bytes) {
            Ok(()) => packs.push(outboard.pack()),
            Err(Error::NoSpace) => return packs,
            Err(error) => panic!("another error than a full disk: {error:?}"),
        }
        assert!(packs.len() < 100_000, "the disk never fills up");
    }
}

fn assert_survives_full_disk(disk: &SmallDisk, folder: &Folder) {
    let (store, no) = (&folder.store, folder.no);
    let mut dice = Dice::new(1, 1);
    let value = vec![7u8; 32 << 10];
    let mut rows = 100;
    (0..rows).for_each(|number| put_row(store, number, &value).expect("there is room"));
    let mut packs = packs_until_full(folder, &mut dice, 1 << 20);
    assert!(packs.len() > 20, "{} packs", packs.len());
    packs.extend(packs_until_full(folder, &mut dice, 4096));
    let filler = disk.fill();
    // A flush that ends meanwhile gives a log's room back, and a few more rows fit: they count as well.
    for _ in 0..4 {
        while rows < 100_000 {
            match put_row(store, rows, &value) {
                Ok(()) => rows += 1,
                Err(Error::NoSpace) => break,
                Err(error) => panic!("another error than a full disk: {error:?}"),
            }
        }
        assert!(rows < 100_000, "the disk never fills up");
        assert_rows(store, rows);
    }
    assert_packs(store, no, &packs);

    disk.free(&filler);
    disk.free(&disk.dir.join("first ballast"));
    put_row_once_there_is_room(store, rows, &value);
    assert_rows(store, rows + 1);
    let bytes = dice.bytes(1 << 20);
    let outboard = Outboard::of(&bytes);
    store.pack_put(no, outboard.pack(), &outboard, &bytes).expect("packs are stored again");
    packs.push(outboard.pack());
    let entry = folder.next_entry(&packs[..60], b"after");
    store.entry_add(no, &entry).expect("entries are stored again");
    assert_packs(store, no, &packs);
    println!("{} packs, {rows} rows", packs.len());
}

#[test]
fn full_disk_refuses_writes_and_heals_when_there_is_room() {
    refuses_writes_and_heals(Bound::Size);
}

#[test]
fn used_up_quota_refuses_writes_and_heals_when_there_is_room() {
    refuses_writes_and_heals(Bound::Quota);
}

fn refuses_writes_and_heals(bound: Bound) {
    let Some(disk) = SmallDisk::of(bound) else { return };
    std::fs::write(disk.dir.join("first ballast"), vec![0; 40 << 20]).expect("there is room");
    let dir = disk.dir.join("store");
    let folder = Folder::open(&dir);
    assert_survives_full_disk(&disk, &folder);
    // And a program that starts afterwards sees the same.
    drop(folder);
    let folder = Folder::open(&dir);
    let report = folder.store.check_packs(folder.no, &mut |_, _| ControlFlow::Continue(())).expect("checks");
    assert!(report.packs > 20 && report.damaged.is_empty());
}

#[test]
fn store_on_a_full_disk_opens_and_reads() {
    opens_and_reads(Bound::Size);
}

#[test]
fn store_whose_quota_is_used_up_opens_and_reads() {
    opens_and_reads(Bound::Quota);
}

fn opens_and_reads(bound: Bound) {
    let Some(disk) = SmallDisk::of(bound) else { return };
    let dir = disk.dir.join("store");
    let folder = Folder::open(&dir);
    for number in 0..200 {
        put_row(&folder.store, number, &[3; 32 << 10]).expect("there is room");
    }
    drop(folder);
    let ballast = disk.fill();
    let folder = Folder::open(&dir);
    assert_rows(&folder.store, 200);
    disk.free(&ballast);
    put_row_once_there_is_room(&folder.store, 200, b"again");
}

/// A device's store of format 1 with 200 rows, in `dir`.
fn store_of_format_1(dir: &Path) {
    let store = Store::create(dir, StoreKind::Device).expect("creates");
    for number in 0..200 {
        put_row(&store, number, &[3; 32 << 10]).expect("there is room");
    }
    drop(store);
    std::fs::write(dir.join("FORMAT"), "cobox-store 1 device\n").expect("writes");
}

fn format(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("FORMAT")).expect("reads")
}

#[test]
fn store_of_format_1_on_a_full_disk_becomes_one_of_format_2_and_gives_room_back() {
    becomes_one_of_format_2(Bound::Size);
}

#[test]
fn store_of_format_1_whose_quota_is_used_up_becomes_one_of_format_2_and_gives_room_back() {
    becomes_one_of_format_2(Bound::Quota);
}

fn becomes_one_of_format_2(bound: Bound) {
    let Some(disk) = SmallDisk::of(bound) else { return };
    let dir = disk.dir.join("store");
    store_of_format_1(&dir);
    disk.fill();
    let store = Store::open(&dir, StoreKind::Device).expect("opens on a full disk");
    assert_eq!(format(&dir), "cobox-store 2 device\n");
    assert_rows(&store, 200);
    store.db().make_room().expect("the reserve gives room");
    let mut batch = Batch::default();
    (100..200).for_each(|number| batch.delete(&row(number)));
    store.db().commit(batch, Durability::Synced).expect("deletes on a full disk");
    store.db().keep_room();
    drop(store);
    let store = Store::open(&dir, StoreKind::Device).expect("opens again");
    assert_rows(&store, 100);
    assert!(!store.db().contains(&row(100)).expect("reads"));
}

#[test]
fn store_of_format_1_on_a_disk_without_even_a_reserve_is_read_and_written_once_there_is_room() {
    is_read_without_a_reserve(Bound::Size);
}

#[test]
fn store_of_format_1_without_even_a_reserve_of_its_quota_is_read_and_written_once_there_is_room() {
    is_read_without_a_reserve(Bound::Quota);
}

fn is_read_without_a_reserve(bound: Bound) {
    let Some(disk) = SmallDisk::of(bound) else { return };
    let dir = disk.dir.join("store");
    store_of_format_1(&dir);
    std::fs::remove_file(dir.join("reserve")).expect("there was one");
    let ballast = disk.fill();
    let store = Store::open(&dir, StoreKind::Device).expect("opens on a full disk");
    assert_rows(&store, 200);
    assert!(matches!(put_row(&store, 200, b"row of format 2"), Err(Error::NoSpace)));
    assert_eq!(format(&dir), "cobox-store 1 device\n", "nothing was written that format 1 has not");
    disk.free(&ballast);
    put_row_once_there_is_room(&store, 200, b"row of format 2");
    assert_eq!(format(&dir), "cobox-store 2 device\n");
    drop(store);
    let store = Store::open(&dir, StoreKind::Device).expect("opens again");
    assert_rows(&store, 201);
}
