//! What another device does must show in this kernel, although it was told to remember the old state.
//! Two devices of one member, both mounted; the network between them is a loop that copies.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use cobox_fs::vfs::Cut;
use cobox_store::blind::PackState;
use cobox_store::format::pack::PackRef;
use cobox_store::keyed::Folder;

use crate::drive::{Drive, PATIENCE, noise};

/// Turns everything on both sides into entries and brings each to the other.
pub fn exchange(one: &Drive, two: &Drive) {
    for drive in [one, two] {
        drive.vfs().cut(Cut::Now).expect("cuts");
    }
    for (from, to) in [(one, two), (two, one)] {
        carry(from.vfs().folder(), to.vfs().folder());
    }
}

/// Copies access records, packs and entries that `to` lacks.
pub fn carry(from: &Folder, to: &Folder) {
    carry_packs(from, to);
    carry_entries(from, to);
}

fn packs(of: &Folder) -> Vec<PackRef> {
    let mut packs = Vec::new();
    let visit = &mut |pack, state| packs.extend((state == PackState::Complete).then_some(pack));
    of.store().packs_live(of.no(), visit).expect("packs");
    packs
}

fn carry_packs(from: &Folder, to: &Folder) {
    carry_these(&packs(from), from, to);
}

fn carry_these(packs: &[PackRef], from: &Folder, to: &Folder) {
    for pack in packs {
        let outboard = from.store().outboard(from.no(), pack.id).expect("reads").expect("complete");
        let len = usize::try_from(pack.size).expect("fits");
        let bytes = from.store().pack_range(from.no(), pack.id, 0, len).expect("reads").expect("complete");
        to.store().pack_put(to.no(), *pack, &outboard, &bytes).expect("stores");
    }
}

fn carry_entries(from: &Folder, to: &Folder) {
    for record in from.store().access_records(from.no()).expect("records") {
        to.store().access_add(to.no(), &record).expect("a record that parents precede");
    }
    to.refresh().expect("opens new epochs");
    for head in from.store().log_heads(from.no()).expect("heads") {
        for seq in 1..=head.seq {
            let entry = from.store().entry(from.no(), head.log, seq).expect("reads").expect("no gaps");
            to.store().entry_add(to.no(), &entry).expect("adds");
        }
    }
}

/// Waits until the kernel shows what it should.
pub fn shows(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not shown: {what}");
        std::thread::yield_now();
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("opendir")
        .map(|entry| entry.expect("readdir").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn names_made_moved_and_removed_elsewhere_show_here() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::create_dir(one.path("d")).expect("mkdir");
    fs::write(one.path("d/f"), b"text").expect("write");
    assert!(!two.path("d").exists(), "the kernel now remembers that there is none");
    exchange(&one, &two);
    shows("the new directory", || two.path("d").exists());
    assert_eq!(fs::read(two.path("d/f")).expect("read"), b"text");

    fs::rename(one.path("d"), one.path("e")).expect("rename");
    fs::rename(one.path("e/f"), one.path("e/g")).expect("rename");
    exchange(&one, &two);
    shows("the moved directory", || two.path("e").exists() && !two.path("d").exists());
    shows("the moved file", || two.path("e/g").exists() && !two.path("e/f").exists());
    assert_eq!(names(&two.path("e")), ["g"]);

    fs::remove_dir_all(two.path("e")).expect("rm -r");
    exchange(&two, &one);
    shows("that it is gone", || !one.path("e").exists());
    assert!(names(&one.at).is_empty());
}

#[test]
fn content_and_attributes_changed_elsewhere_show_through_an_open_file() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    let (old, new) = (noise(300_000, 1), noise(300_000, 2));
    fs::write(one.path("f"), &old).expect("write");
    exchange(&one, &two);
    shows("the file", || two.path("f").exists());
    assert!(fs::read(two.path("f")).expect("read") == old, "the kernel now has its pages");
    let open = File::open(two.path("f")).expect("open");
    fs::write(one.path("f"), &new).expect("write");
    exchange(&one, &two);
    let mut buffer = vec![0; 300_000];
    shows("the new bytes", || {
        open.read_exact_at(&mut buffer, 0).expect("read");
        buffer == new
    });
    File::options().write(true).open(one.path("f")).expect("open").set_len(10).expect("truncate");
    exchange(&one, &two);
    shows("the new length", || fs::metadata(two.path("f")).expect("stat").len() == 10);
}

#[test]
fn file_held_open_is_read_and_written_after_another_device_removed_its_name() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    let bytes = noise(300_000, 3);
    for name in ["removed", "replaced"] {
        fs::write(one.path(name), &bytes).expect("write");
    }
    exchange(&one, &two);
    shows("both files", || two.path("removed").exists() && two.path("replaced").exists());
    let removed = File::open(two.path("removed")).expect("open");
    let replaced = File::open(two.path("replaced")).expect("open");
    fs::remove_file(one.path("removed")).expect("rm");
    fs::write(one.path("beside"), b"new").expect("write");
    fs::rename(one.path("beside"), one.path("replaced")).expect("rename over");
    exchange(&one, &two);
    shows("that one is gone", || !two.path("removed").exists());
    shows("that one is another", || fs::read(two.path("replaced")).is_ok_and(|found| found == b"new"));
    let mut found = vec![0; 300_000];
    for open in [&removed, &replaced] {
        open.read_exact_at(&mut found, 0).expect("what is open stays");
        assert!(found == bytes);
    }
    drop((removed, replaced));
    exchange(&two, &one);
    assert_eq!(names(&one.at), ["replaced"]);
    assert_eq!(names(&two.at), ["replaced"]);
}

#[test]
fn both_versions_of_a_concurrent_edit_show_on_both_sides() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::write(one.path("f.txt"), b"base").expect("write");
    exchange(&one, &two);
    shows("the file", || two.path("f.txt").exists());
    fs::write(one.path("f.txt"), b"edited on one").expect("write");
    fs::write(two.path("f.txt"), b"edited on two").expect("write");
    exchange(&one, &two);
    exchange(&one, &two);
    for drive in [&one, &two] {
        shows("both versions", || names(&drive.at).len() == 2);
        let found = names(&drive.at);
        let texts = found.iter().map(|name| fs::read(drive.path(name)).expect("read"));
        let mut texts: Vec<_> = texts.collect();
        texts.sort();
        assert_eq!(texts, [&b"edited on one"[..], b"edited on two"]);
        assert!(found.iter().any(|name| name == "f.txt"));
        assert!(found.iter().any(|name| name.starts_with("f (conflict ") && name.ends_with(").txt")));
    }
    assert_eq!(names(&one.at), names(&two.at));

    // Taking the other version by renaming it over the original settles the conflict everywhere.
    let conflict = names(&one.at).into_iter().find(|name| name != "f.txt").expect("two names");
    let text = fs::read(one.path(&conflict)).expect("read");
    fs::rename(one.path(&conflict), one.path("f.txt")).expect("rename");
    assert_eq!(names(&one.at), ["f.txt"]);
    assert!(!one.path(&conflict).exists());
    assert_eq!(fs::read(one.path("f.txt")).expect("read"), text);
    exchange(&one, &two);
    shows("the settled file", || names(&two.at) == ["f.txt"] && !two.path(&conflict).exists());
    shows("its text", || fs::read(two.path("f.txt")).expect("read") == text);
}

#[test]
fn removing_the_shown_version_leaves_the_other_under_the_clean_name() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::write(one.path("f"), b"made on one").expect("write");
    fs::write(two.path("f"), b"made on two").expect("write");
    exchange(&one, &two);
    exchange(&one, &two);
    shows("both versions", || names(&one.at).len() == 2 && names(&two.at).len() == 2);
    let conflict = names(&one.at).into_iter().find(|name| name != "f").expect("two names");
    let other = fs::read(one.path(&conflict)).expect("read");
    assert!(one.path("f").exists() && one.path(&conflict).exists(), "the kernel knows both");
    fs::remove_file(one.path("f")).expect("unlink");
    let left = names(&one.at);
    assert_eq!(left.len(), 1);
    shows("that listing and lookup agree", || {
        one.path("f").exists() == left.iter().any(|name| name == "f")
            && one.path(&conflict).exists() == left.contains(&conflict)
    });
    let name = left.first().expect("one name");
    assert_eq!(fs::read(one.path(name)).expect("read"), other);
    exchange(&one, &two);
    shows("the same on the other side", || names(&two.at) == left);
}

#[test]
fn change_elsewhere_shows_while_a_file_that_changed_too_waits_for_bytes_that_nobody_has() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    let (from, to) = (one.vfs().folder(), two.vfs().folder());
    let write = |name: &str, seed: u64| {
        fs::write(one.path(name), noise(300_000, seed)).expect("write");
        one.vfs().cut(Cut::Now).expect("cuts");
    };
    write("beside", 4);
    carry(from, to);
    shows("the file", || two.path("beside").exists());
    let beside = File::open(two.path("beside")).expect("open");
    let mut buffer = vec![0; 300_000];
    beside.read_exact_at(&mut buffer, 0).expect("read");
    assert!(buffer == noise(300_000, 4), "the kernel now has its pages");
    write("waits", 5);
    carry_entries(from, to);
    shows("the other file", || two.path("waits").exists());
    let path = two.path("waits");
    let reader = std::thread::spawn(move || fs::read(path));
    shows("that it waits for its bytes", || !to.store().wants(to.no()).is_empty());

    // The kernel is to forget pages for which the reader waits, before it hears of the other file.
    write("waits", 6);
    carry_entries(from, to);
    let before = packs(from);
    write("beside", 7);
    let fresh: Vec<PackRef> = packs(from).into_iter().filter(|pack| !before.contains(pack)).collect();
    carry_these(&fresh, from, to);
    carry_entries(from, to);
    shows("the new bytes", || {
        beside.read_exact_at(&mut buffer, 0).expect("read");
        buffer == noise(300_000, 7)
    });
    assert!(!reader.is_finished(), "the other file still waits");
    carry_packs(from, to);
    let read = reader.join().expect("joins").expect("it is read");
    assert!(read == noise(300_000, 5) || read == noise(300_000, 6), "one state or the other");
    shows("its newest bytes", || fs::read(two.path("waits")).expect("read") == noise(300_000, 6));
}
