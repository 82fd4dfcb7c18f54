//! What people see after two devices did something at the same time: the table of `docs/format.md`,
//! "Tree", line by line; then what one device sees alone.

use super::ops::{PosixError, Rename};
use super::oracle::picture;
use super::sim::{Dice, World};
use cobox_store::format::op::{AttrChange, Kind};

/// Two devices that share `paths` (directories end in `/`, files have their path as content).
fn shared(paths: &[&str]) -> World {
    let mut world = World::new(2);
    for path in paths {
        match path.strip_suffix('/') {
            Some(dir) => world.mkdir(0, dir),
            None => world.write(0, path, path),
        }
    }
    world.sync(&mut Dice(1));
    world
}

/// Brings both devices together; both must show `lines`, and so must the oracle.
fn both_show(world: &mut World, lines: &[&str]) {
    world.sync(&mut Dice(7));
    for on in 0..2 {
        world.devices[on].check_invariants();
        assert_eq!(world.tree(on), lines, "device {on}");
        let device = &world.devices[on];
        assert_eq!(device.picture(), picture(&world.all_ops(), device.policy.case), "device {on}");
    }
}

#[test]
fn edit_beside_edit_keeps_both() {
    let mut world = shared(&["f.txt"]);
    world.write(0, "f.txt", "zero");
    world.write(1, "f.txt", "one");
    both_show(&mut world, &["f (conflict dev0).txt=zero", "f.txt=one"]);
}

#[test]
fn edit_beside_edit_of_a_name_without_room_keeps_both_under_names_that_open() {
    for name in [format!("{}.odt", "l".repeat(251)), format!("a.{}", "x".repeat(253))] {
        let mut world = shared(&[&name]);
        world.write(0, &name, "zero");
        world.write(1, &name, "one");
        world.sync(&mut Dice(7));
        let shown = world.devices[0].names();
        assert_eq!(shown.len(), 2, "{name}");
        for (parent, shown) in shown {
            let found = world.devices[1].view(|view| view.lookup(parent, &shown.name)).expect("readable");
            assert_eq!(found, Some(shown));
        }
    }
}

#[test]
fn create_beside_create_with_different_content_keeps_both() {
    let mut world = shared(&[]);
    world.write(0, "f.tar.gz", "zero");
    world.write(1, "f.tar.gz", "one");
    both_show(&mut world, &["f (conflict dev0).tar.gz=zero", "f.tar.gz=one"]);
}

#[test]
fn create_beside_create_with_equal_content_is_one_file() {
    let mut world = shared(&[]);
    world.write(0, "f", "same");
    world.write(1, "f", "same");
    both_show(&mut world, &["f=same"]);
}

#[test]
fn symlink_beside_symlink_with_another_target_keeps_both() {
    let mut world = shared(&[]);
    world.try_make(0, "l", Kind::Symlink, "zero").expect("made");
    world.try_make(1, "l", Kind::Symlink, "one").expect("made");
    world.try_make(0, "same", Kind::Symlink, "target").expect("made");
    world.try_make(1, "same", Kind::Symlink, "target").expect("made");
    both_show(&mut world, &["l (conflict dev0)->zero", "l->one", "same->target"]);
}

#[test]
fn mkdir_beside_mkdir_is_one_directory() {
    let mut world = shared(&[]);
    world.mkdir(0, "d");
    world.write(0, "d/zero", "0");
    world.mkdir(1, "d");
    world.write(1, "d/one", "1");
    both_show(&mut world, &["d/", "d/one=1", "d/zero=0"]);
}

#[test]
fn mkdir_beside_create_gives_the_directory_the_clean_name() {
    let mut world = shared(&[]);
    world.mkdir(0, "x");
    world.write(1, "x", "file");
    both_show(&mut world, &["x (conflict dev1)=file", "x/"]);
}

#[test]
fn rename_beside_rename_ends_at_the_later_place() {
    let mut world = shared(&["f", "d/"]);
    world.rename(0, "f", "zero");
    world.rename(0, "d", "dzero");
    world.rename(1, "f", "one");
    world.rename(1, "d", "done");
    both_show(&mut world, &["done/", "one=f"]);
}

#[test]
fn two_directories_moved_into_each_other_skip_the_later_move() {
    let mut world = shared(&["a/", "b/"]);
    world.rename(0, "a", "b/a");
    world.rename(1, "b", "a/b");
    both_show(&mut world, &["b/", "b/a/"]);
    assert_eq!(world.devices[0].picture().skipped.len(), 1);
}

#[test]
fn two_things_moved_to_one_name_are_both_there() {
    let mut world = shared(&["a", "b", "d/"]);
    world.rename(0, "a", "x");
    world.rename(1, "b", "x");
    both_show(&mut world, &["d/", "x (conflict dev0)=a", "x=b"]);
    world.rename(0, "d", "y");
    world.rename(1, "x", "y");
    both_show(&mut world, &["x=a", "y (conflict dev1)=b", "y/"]);
}

#[test]
fn rename_beside_edit_is_the_edited_file_at_its_new_name() {
    let mut world = shared(&["f"]);
    world.rename(0, "f", "g");
    world.write(1, "f", "edited");
    both_show(&mut world, &["g=edited"]);
}

#[test]
fn unlink_beside_edit_keeps_the_edit() {
    let mut world = shared(&["f"]);
    world.unlink(1, "f");
    world.write(0, "f", "edited");
    both_show(&mut world, &["f=edited"]);
    world.unlink(0, "f");
    both_show(&mut world, &[]);
}

#[test]
fn rename_save_beside_edit_in_place_keeps_the_edit() {
    let mut world = shared(&["f"]);
    world.write(0, "f.tmp", "saved");
    world.rename(0, "f.tmp", "f");
    world.write(1, "f", "edited");
    both_show(&mut world, &["f (conflict dev0)=edited", "f=saved"]);
}

#[test]
fn unlink_beside_rename_survives_at_the_new_name() {
    let mut world = shared(&["f"]);
    world.rename(0, "f", "g");
    world.unlink(1, "f");
    both_show(&mut world, &["g=f"]);
}

#[test]
fn unlink_beside_chmod_and_xattr_is_deleted() {
    let mut world = shared(&["f"]);
    let ino = world.ino(1, "f");
    world.unlink(0, "f");
    world.attr(1, "f", AttrChange { mode: Some(0o600), ..AttrChange::default() });
    let set =
        |view: &super::View<'_>| super::ops::set_xattr(view, ino, b"user.k", b"v", super::ops::XattrSet::Any);
    world.write_group(1, set).expect("setxattr");
    both_show(&mut world, &[]);
}

#[test]
fn rmdir_beside_create_returns_the_directory_with_that_child() {
    let mut world = shared(&["d/", "d/old", "f"]);
    world.unlink(0, "d/old");
    world.rmdir(0, "d");
    world.write(1, "d/new", "new");
    world.rename(1, "f", "d/f");
    both_show(&mut world, &["d/", "d/f=f", "d/new=new"]);
    // What happens below says that the directory is wanted: it stays when it becomes empty.
    world.unlink(0, "d/f");
    world.unlink(0, "d/new");
    both_show(&mut world, &["d/"]);
    world.rmdir(1, "d");
    both_show(&mut world, &[]);
}

#[test]
fn remove_all_beside_rename_of_the_directory_leaves_it_empty() {
    let mut world = shared(&["d/", "d/a", "d/s/", "d/s/b"]);
    for path in ["d/s/b", "d/a"] {
        world.unlink(0, path);
    }
    world.rmdir(0, "d/s");
    world.rmdir(0, "d");
    world.rename(1, "d", "e");
    both_show(&mut world, &["e/"]);
}

#[test]
fn attr_beside_attr_is_the_later_value_of_each_field() {
    let mut world = shared(&["f"]);
    world.attr(0, "f", AttrChange { mode: Some(0o600), uid: Some(5), ..AttrChange::default() });
    world.attr(1, "f", AttrChange { mode: Some(0o640), gid: Some(6), ..AttrChange::default() });
    both_show(&mut world, &["f=f"]);
    let ino = world.ino(0, "f");
    let attrs = world.devices[0].view(|view| view.attrs(ino)).expect("readable").expect("alive");
    assert_eq!((attrs.mode, attrs.uid, attrs.gid), (0o640, 5, 6));
}

#[test]
fn unlink_of_both_names_at_once_brings_one_back() {
    let mut world = shared(&["f"]);
    world.try_link(0, "f", "g").expect("link");
    world.sync(&mut Dice(2));
    world.unlink(0, "f");
    world.unlink(1, "g");
    both_show(&mut world, &["g=f"]);
}

#[test]
fn unlink_beside_link_survives_at_the_new_name() {
    let mut world = shared(&["f"]);
    world.try_link(0, "f", "g").expect("link");
    world.unlink(1, "f");
    both_show(&mut world, &["g=f"]);
}

fn conflicted() -> World {
    let mut world = shared(&["f.txt"]);
    world.write(0, "f.txt", "zero");
    world.write(1, "f.txt", "one");
    world.sync(&mut Dice(3));
    world
}

#[test]
fn conflict_entry_that_is_removed_keeps_the_other() {
    let mut world = conflicted();
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.unlink(0, &name);
    both_show(&mut world, &["f.txt=one"]);
}

#[test]
fn conflict_entry_that_is_renamed_over_the_file_is_taken() {
    let mut world = conflicted();
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.rename(0, &name, "f.txt");
    both_show(&mut world, &["f.txt=zero"]);
    world.write(1, "f.txt", "next");
    both_show(&mut world, &["f.txt=next"]);
}

#[test]
fn conflict_entry_that_is_changed_is_a_file_of_its_own() {
    let mut world = conflicted();
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.write(0, &name, "changed");
    world.write(1, &name, "changed too");
    world.write(1, "f.txt", "more");
    both_show(
        &mut world,
        &["f (conflict dev0) (conflict dev0).txt=changed", "f (conflict dev0).txt=changed too", "f.txt=more"],
    );
}

#[test]
fn conflict_entry_that_is_renamed_away_is_a_file_of_its_own() {
    let mut world = conflicted();
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.rename(0, &name, "other");
    both_show(&mut world, &["f.txt=one", "other=zero"]);
}

#[test]
fn file_that_is_removed_leaves_its_conflict_entry() {
    let mut world = conflicted();
    world.unlink(0, "f.txt");
    both_show(&mut world, &["f (conflict dev0).txt=zero"]);
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.unlink(1, &name);
    both_show(&mut world, &[]);
}

#[test]
fn settlements_that_cross_lose_nothing() {
    let mut world = conflicted();
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.unlink(0, &name);
    world.rename(1, &name, "f.txt");
    // The later settlement took device 0's version.
    both_show(&mut world, &["f.txt=zero"]);
}

#[test]
fn calls_that_posix_refuses_are_refused() {
    let mut world = shared(&["d/", "d/s/", "d/f", "e/", "f"]);
    let fails = |result: Result<(), PosixError>, with: &str| {
        assert_eq!(format!("{:?}", result.expect_err(with)), with);
    };
    fails(world.try_make(0, "f", Kind::File, ""), "Exists");
    fails(world.try_make(0, ".cobox", Kind::Dir, ""), "NotPermitted");
    fails(world.try_rmdir(0, ".cobox"), "Busy");
    fails(world.try_make(0, &"x".repeat(256), Kind::File, ""), "NameTooLong");
    fails(world.try_make(0, "..", Kind::File, ""), "Invalid");
    fails(world.try_make(0, "l", Kind::Symlink, ""), "NoEntry");
    fails(world.try_unlink(0, "d"), "IsDir");
    fails(world.try_unlink(0, "none"), "NoEntry");
    fails(world.try_unlink(0, "f/x"), "NotDir");
    fails(world.try_rmdir(0, "d"), "NotEmpty");
    fails(world.try_rmdir(0, "f"), "NotDir");
    fails(world.try_link(0, "d", "x"), "NotPermitted");
    fails(world.try_rename(0, "d", "d/s/x", Rename::Replace), "Invalid");
    fails(world.try_rename(0, "d", "f", Rename::Replace), "NotDir");
    fails(world.try_rename(0, "f", "d", Rename::Replace), "IsDir");
    fails(world.try_rename(0, "e", "d", Rename::Replace), "NotEmpty");
    fails(world.try_rename(0, "f", "d/f", Rename::NoReplace), "Exists");
    fails(world.try_rename(0, "f", "none", Rename::Exchange), "NoEntry");
    fails(world.try_rename(0, "d/s", "d", Rename::Exchange), "Invalid");
    fails(world.try_rename(0, "d", "d/s", Rename::Exchange), "Invalid");
}

#[test]
fn renames_that_posix_allows_have_their_effect() {
    let mut world = shared(&["a/", "a/x", "b/", "f", "g"]);
    world.try_rename(0, "a", "f", Rename::Exchange).expect("exchange");
    both_show(&mut world, &["a=f", "b/", "f/", "f/x=a/x", "g=g"]);
    world.rename(0, "f", "b");
    world.rename(0, "g", "a");
    both_show(&mut world, &["a=g", "b/", "b/x=a/x"]);
    world.try_link(0, "a", "c").expect("link");
    world.rename(0, "a", "c");
    both_show(&mut world, &["a=g", "b/", "b/x=a/x", "c=g"]);
    let ino = world.ino(0, "a");
    let nlink =
        |world: &World| world.devices[0].view(|view| view.attrs(ino)).expect("readable").map(|a| a.nlink);
    assert_eq!(nlink(&world), Some(2));
    world.unlink(0, "a");
    assert_eq!(nlink(&world), Some(1));
    let root = world.devices[0].view(|view| view.attrs(cobox_store::id::Ino::ROOT)).expect("readable");
    assert_eq!(root.map(|attrs| attrs.nlink), Some(3));
}

#[test]
fn name_that_is_made_again_and_again_gets_a_new_inode_each_time() {
    let mut world = World::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        world.write(0, "index.lock", "x");
        assert!(seen.insert(world.ino(0, "index.lock")));
        world.unlink(0, "index.lock");
    }
    world.devices[0].check_invariants();
}

#[test]
fn tree_of_depth_one_thousand_moves_and_vanishes() {
    let mut world = World::new(2);
    let mut path = String::from("top");
    world.mkdir(0, &path);
    for _ in 0..1000 {
        path.push_str("/d");
        world.mkdir(0, &path);
    }
    world.sync(&mut Dice(1));
    // Device 0 removes it from the bottom, device 1 adds a file at the bottom and moves the top.
    world.write(1, &format!("{path}/f"), "f");
    world.rename(1, "top", "moved");
    let mut rest = path.clone();
    loop {
        world.rmdir(0, &rest);
        let Some(at) = rest.rfind('/') else { break };
        rest.truncate(at);
    }
    world.sync(&mut Dice(5));
    let moved = path.replacen("top", "moved", 1);
    assert_eq!(world.ino(0, &format!("{moved}/f")), world.ino(1, &format!("{moved}/f")));
    assert_eq!(world.devices[0].picture(), world.devices[1].picture());
}

#[test]
fn inode_that_nobody_heard_of_is_forgotten_and_made_again() {
    let mut world = World::new(1);
    world.write(0, "tmp", "x");
    let ino = world.ino(0, "tmp");
    world.unlink(0, "tmp");
    let device = &mut world.devices[0];
    let before = device.clone();
    let read = |key: &super::RowKey| Ok(before.row(key));
    let mut tx = super::Tx::new(&read, &super::sim::name_hash);
    super::forget_unpublished(&mut tx, ino).expect("memory can be read");
    for (key, row) in tx.into_changes() {
        assert!(row.is_none());
        device.rows.remove(&key);
    }
    device.check_invariants();
    assert!(
        device
            .rows
            .keys()
            .all(|key| matches!(key, super::RowKey::Node(ino) if *ino == cobox_store::id::Ino::ROOT))
    );
    world.write(0, "tmp", "y");
    assert_eq!(world.ino(0, "tmp"), ino);
}

#[test]
fn create_and_unlink_touch_as_few_rows_in_a_large_directory_as_in_a_small() {
    use super::ops::NewNode;
    use cobox_store::format::op::OpGroup;
    use cobox_store::id::Ino;
    use std::cell::Cell;
    let mut world = World::new(1);
    let device = &mut world.devices[0];
    let make = |device: &super::sim::Device, number: u32| {
        let name = format!("file {number}");
        let node = NewNode {
            kind: Kind::File,
            mode: 0o644,
            mtime_ns: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        };
        let made = device.view(|view| super::ops::make(view, Ino::ROOT, name.as_bytes(), node, &|_| false));
        OpGroup { hlc: u64::from(number + 1) << 16, ops: made.expect("create").0 }
    };
    for number in 0..20_000 {
        let group = make(device, number);
        device.apply_group(0, &group);
    }
    let group = make(device, 20_000);
    let (reads, before) = (Cell::new(0), device.clone());
    let read = |key: &super::RowKey| {
        reads.set(reads.get() + 1);
        Ok(before.row(key))
    };
    let mut tx = super::Tx::new(&read, &super::sim::name_hash);
    for (id, op) in group.with_ids(0) {
        super::apply(&mut tx, id, op, &device.policy).expect("memory can be read");
    }
    let shorts = super::short::Shorts::default();
    let bytes: usize = tx
        .into_changes()
        .map(|(_, row)| row.map_or(0, |row| row.encode(&shorts, &mut Default::default()).len()))
        .sum();
    assert_eq!(reads.get(), 4, "the directory, the inode, the link and the slot");
    assert!(bytes <= 300, "{bytes} bytes of rows");
}
