//! What people are told of conflicts, and how those are settled; then settlements that cross.

use super::conflicts::{Keep, What};
use super::sim::{Dice, World};
use cobox_store::format::op::Kind;

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

/// What both devices are told, as `path: kind`.
fn told(world: &mut World) -> Vec<String> {
    world.sync(&mut Dice(4));
    let lists: Vec<_> = world.devices.iter().map(|device| device.conflicts()).collect();
    assert!(lists.iter().all(|list| *list == lists[0]), "everybody is told the same");
    let line = |conflict: &super::conflicts::Conflict| {
        let kind = match &conflict.what {
            What::Versions(versions) => format!("{} versions", versions.len()),
            What::Names(named) => format!("{} names", named.len()),
            What::MoveSkipped { wanted, .. } => format!("not at {}", String::from_utf8_lossy(wanted)),
            What::FileCameBack { changed, .. } => format!("came back, {} changes", changed.len()),
            What::DirReturned { .. } => "returned".to_owned(),
        };
        format!("{}: {kind}", String::from_utf8_lossy(&conflict.path))
    };
    lists[0].iter().map(line).collect()
}

fn tree(world: &mut World) -> Vec<String> {
    world.sync(&mut Dice(5));
    let trees = [world.tree(0), world.tree(1)];
    assert_eq!(trees[0], trees[1]);
    for device in &world.devices {
        device.check_invariants();
    }
    assert_eq!(world.lost_writes(0), []);
    trees[0].clone()
}

fn two_versions() -> World {
    let mut world = shared(&["d/", "d/f.txt"]);
    world.write(0, "d/f.txt", "zero");
    world.write(1, "d/f.txt", "one");
    assert_eq!(told(&mut world), ["d/f.txt: 2 versions"]);
    world
}

#[test]
fn versions_are_told_with_who_and_when_until_one_is_kept() {
    let mut world = two_versions();
    let conflict = world.devices[1].conflicts().remove(0);
    let What::Versions(versions) = conflict.what else { panic!("versions") };
    assert_eq!(versions.iter().map(|version| version.by.log).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(versions.iter().map(|version| version.bytes).collect::<Vec<_>>(), [3, 4]);
    assert!(versions[0].by > versions[1].by, "the later one has the name");
    let loser = world.conflict_name(1, "f (conflict dev0).txt");
    assert_eq!(versions[1].name, loser.as_bytes());
    world.settle(1, &format!("d/{loser}"), Keep::This).expect("kept");
    assert_eq!(told(&mut world), Vec::<String>::new());
    assert_eq!(tree(&mut world), ["d/", "d/f.txt=zero"]);
}

#[test]
fn version_under_the_name_that_is_kept_drops_the_others() {
    let mut world = two_versions();
    world.settle(0, "d/f.txt", Keep::This).expect("kept");
    assert_eq!(tree(&mut world), ["d/", "d/f.txt=one"]);
    assert_eq!(told(&mut world), Vec::<String>::new());
}

#[test]
fn both_versions_that_are_kept_are_two_files() {
    let mut world = two_versions();
    world.settle(0, "d/f.txt", Keep::Both).expect("kept");
    assert_eq!(told(&mut world), Vec::<String>::new());
    assert_eq!(tree(&mut world), ["d/", "d/f (conflict dev0).txt=zero", "d/f.txt=one"]);
    let name = world.conflict_name(0, "f (conflict dev0).txt");
    world.unlink(1, "d/f.txt");
    assert_eq!(tree(&mut world), [String::from("d/"), format!("d/{}=zero", "f (conflict dev0).txt")]);
    assert_ne!(world.ino(0, &format!("d/{name}")), cobox_store::id::Ino::ROOT);
}

#[test]
fn different_versions_kept_at_the_same_time_leave_the_one_kept_later() {
    let mut world = two_versions();
    let loser = world.conflict_name(0, "f (conflict dev0).txt");
    world.settle(0, "d/f.txt", Keep::This).expect("kept");
    world.settle(1, &format!("d/{loser}"), Keep::This).expect("kept");
    assert_eq!(tree(&mut world), ["d/", "d/f.txt=zero"]);
    assert_eq!(told(&mut world), Vec::<String>::new());
}

#[test]
fn version_kept_while_another_device_changes_it_keeps_the_change() {
    let mut world = two_versions();
    world.settle(0, "d/f.txt", Keep::This).expect("kept");
    world.write(1, "d/f.txt", "one, changed");
    assert_eq!(tree(&mut world), ["d/", "d/f.txt=one, changed"]);
    let mut world = two_versions();
    let loser = world.conflict_name(0, "f (conflict dev0).txt");
    world.settle(0, &format!("d/{loser}"), Keep::This).expect("kept");
    world.write(1, "d/f.txt", "one, changed");
    assert_eq!(tree(&mut world), ["d/", "d/f (conflict dev0).txt=zero", "d/f.txt=one, changed"]);
}

#[test]
fn version_kept_beside_both_kept_loses_nothing() {
    let mut world = two_versions();
    world.settle(0, "d/f.txt", Keep::This).expect("kept");
    world.settle(1, "d/f.txt", Keep::Both).expect("kept");
    assert_eq!(tree(&mut world), ["d/", "d/f (conflict dev0).txt=zero", "d/f.txt=one"]);
    assert_eq!(told(&mut world), Vec::<String>::new());
}

#[test]
fn names_that_met_are_told_until_one_has_another_name() {
    let mut world = shared(&["a", "b"]);
    world.rename(0, "a", "x");
    world.rename(1, "b", "x");
    assert_eq!(told(&mut world), ["x: 2 names"]);
    world.settle(0, "x", Keep::Both).expect("kept");
    assert_eq!(told(&mut world), Vec::<String>::new());
    assert_eq!(tree(&mut world), ["x (conflict dev0)=a", "x=b"]);
    let mut world = shared(&["a", "b", "d/"]);
    world.rename(0, "a", "x");
    world.rename(1, "b", "x");
    assert_eq!(told(&mut world).len(), 1);
    world.settle(1, "x", Keep::This).expect("kept");
    assert_eq!(tree(&mut world), ["d/", "x=b"]);
    world.rename(0, "x", "y");
    world.rename(1, "d", "y");
    assert_eq!(told(&mut world), ["y: 2 names"]);
    let file = world.conflict_name(1, "y (conflict dev0)");
    assert!(world.settle(1, &file, Keep::This).is_err(), "a directory is not removed to settle a conflict");
    world.settle(1, "y", Keep::Both).expect("kept");
    assert_eq!(told(&mut world), Vec::<String>::new());
    assert_eq!(tree(&mut world), ["y (conflict dev0)=b", "y/"]);
}

#[test]
fn move_that_was_skipped_is_told_until_the_directory_is_moved_or_kept() {
    for settle_by_keeping in [true, false] {
        let mut world = shared(&["a/", "b/"]);
        world.rename(0, "a", "b/a");
        world.rename(1, "b", "a/b");
        assert_eq!(told(&mut world), ["b: not at b/a/b"]);
        if settle_by_keeping {
            world.settle(0, "b", Keep::This).expect("kept");
            assert_eq!(tree(&mut world), ["b/", "b/a/"]);
        } else {
            world.rename(1, "b", "c");
            assert_eq!(tree(&mut world), ["c/", "c/a/"]);
        }
        assert_eq!(told(&mut world), Vec::<String>::new());
    }
}

#[test]
fn file_that_came_back_is_told_until_it_is_kept_or_removed() {
    for keep in [true, false] {
        let mut world = shared(&["f"]);
        world.unlink(1, "f");
        world.write(0, "f", "edited");
        assert_eq!(told(&mut world), ["f: came back, 1 changes"]);
        if keep {
            world.settle(1, "f", Keep::This).expect("kept");
            assert_eq!(tree(&mut world), ["f=edited"]);
        } else {
            world.unlink(1, "f");
            assert_eq!(tree(&mut world), Vec::<String>::new());
        }
        assert_eq!(told(&mut world), Vec::<String>::new());
    }
}

#[test]
fn directory_that_returned_is_told_until_it_is_kept_or_used() {
    for keep in [true, false] {
        let mut world = shared(&["d/"]);
        world.rmdir(0, "d");
        world.write(1, "d/new", "new");
        assert_eq!(told(&mut world), ["d: returned"]);
        if keep {
            world.settle(0, "d", Keep::This).expect("kept");
        } else {
            world.try_make(1, "d/more", Kind::Dir, "").expect("made");
        }
        assert_eq!(told(&mut world), Vec::<String>::new());
        assert!(tree(&mut world).contains(&"d/new=new".to_owned()));
    }
}

#[test]
fn nothing_to_settle_changes_nothing() {
    let mut world = shared(&["f", "d/"]);
    let before = world.all_ops().len();
    world.settle(0, "f", Keep::This).expect("nothing to do");
    world.settle(0, "d", Keep::Both).expect("nothing to do");
    assert!(world.settle(0, "none", Keep::This).is_err());
    assert_eq!(world.all_ops().len(), before);
}
