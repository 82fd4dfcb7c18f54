//! How fast a device takes in what others did: figures for `docs/performance.md`, and that nothing is left out.
//!
//! `COBOX_FIGURES=1` takes the full counts and prints; otherwise it is a small run that asserts the result.

use std::time::Instant;

use cobox_fs::vfs::{Cut, Kind, ROOT, RenameFlags, Vfs};

use crate::BY;
use crate::home::{Device, deliver, deliver_log, offer};
use crate::tree::list;

const FILES_PER_DIR: u64 = 1000;

/// `ops` changes of a tree: three of five make files, one renames one, one removes one.
fn work(vfs: &Vfs, ops: u64, label: &str) {
    let mut dir = ROOT;
    for nth in 0..ops {
        if nth % FILES_PER_DIR == 0 {
            dir = vfs.mkdir(ROOT, format!("{label}{nth}").as_bytes(), BY).expect("made").ino;
            continue;
        }
        let name = |nth: u64| format!("file {nth}").into_bytes();
        match nth % 5 {
            3 if nth % FILES_PER_DIR > 5 => {
                vfs.rename(dir, &name(nth - 1), dir, &name(nth), RenameFlags::Replace).expect("renamed");
            }
            4 if nth % FILES_PER_DIR > 5 => vfs.unlink(dir, &name(nth - 3)).expect("removed"),
            _ => {
                let made = vfs.mknod(dir, &name(nth), Kind::File, BY, 0).expect("made");
                vfs.forget(made.ino, 1);
            }
        }
    }
}

fn per_second(count: u64, start: Instant) -> u64 {
    (count as f64 / start.elapsed().as_secs_f64()) as u64
}

#[test]
fn bundle_and_single_ops_of_another_device_are_all_taken_in() {
    let full = std::env::var("COBOX_FIGURES").is_ok();
    let (bundle, singles) = if full { (100_000, 2_000) } else { (5_000, 40) };
    let one = Device::new();
    let other = one.recovered();
    // Both work apart: what comes in meets what was made here in the meantime.
    let start = Instant::now();
    work(one.vfs(), bundle, "d");
    println!("{} ops a second made", per_second(bundle, start));
    work(other.vfs(), bundle / 10, "d");
    one.vfs().cut(Cut::Now).expect("cut");
    other.vfs().cut(Cut::Now).expect("cut");
    deliver(one.vfs().folder(), other.vfs().folder());
    let start = Instant::now();
    other.vfs().catch_up().expect("applied");
    println!("{} ops a second merged from a bundle of {bundle}", per_second(bundle, start));
    deliver(other.vfs().folder(), one.vfs().folder());
    one.vfs().catch_up().expect("applied");
    assert_eq!(list(one.vfs(), ROOT).len() as u64, bundle / FILES_PER_DIR);
    let (mut spent, mut entries) = (std::time::Duration::ZERO, 0);
    for nth in 0..singles {
        one.vfs().mkdir(ROOT, format!("single {nth}").as_bytes(), BY).expect("made");
        one.vfs().cut(Cut::Now).expect("cut");
        deliver(one.vfs().folder(), other.vfs().folder());
        let start = Instant::now();
        let touched = other.vfs().catch_up().expect("applied");
        spent += start.elapsed();
        entries += u64::from(!touched.is_empty());
    }
    assert_eq!(entries, singles);
    println!("{} entries of one op a second merged", (singles as f64 / spent.as_secs_f64()) as u64);
    for dir in list(one.vfs(), ROOT) {
        let there = other.vfs().lookup(ROOT, &dir.0).expect("there").ino;
        let names = |vfs: &Vfs, dir: u64| list(vfs, dir).into_iter().map(|name| name.0).collect::<Vec<_>>();
        if !full {
            assert_eq!(names(one.vfs(), dir.1.ino), names(other.vfs(), there));
        }
    }
    assert_eq!(list(other.vfs(), ROOT).len(), list(one.vfs(), ROOT).len());
}

/// What each entry builds on is in another log, which comes later or not yet.
#[test]
fn entries_that_come_out_of_order_and_twice_show_nothing_early() {
    let ann = Device::new();
    let folder = |device: &Device| std::sync::Arc::clone(device.vfs().folder());
    // All know of all, so that keys are made for all.
    let bob = ann.recovered();
    deliver(&folder(&bob), &folder(&ann));
    let cat = ann.recovered();
    deliver(&folder(&cat), &folder(&ann));
    deliver(&folder(&cat), &folder(&bob));
    let pass_on = |from: &Device, to: &Device| {
        from.vfs().cut(Cut::Now).expect("cut");
        deliver(&folder(from), &folder(to));
        to.vfs().catch_up().expect("applied");
    };
    let dir = ann.vfs().mkdir(ROOT, b"d", BY).expect("made").ino;
    pass_on(&ann, &bob);
    bob.vfs().mknod(bob.vfs().lookup(ROOT, b"d").expect("there").ino, b"f", Kind::File, BY, 0).expect("made");
    pass_on(&bob, &ann);
    ann.vfs().rename(dir, b"f", ROOT, b"g", RenameFlags::Replace).expect("moved");
    ann.vfs().rename(ROOT, b"d", ROOT, b"e", RenameFlags::Replace).expect("renamed");
    ann.vfs().cut(Cut::Now).expect("cut");

    let names = |device: &Device| list(device.vfs(), ROOT).into_iter().map(|name| name.0).collect::<Vec<_>>();
    let (anns, bobs) = (folder(&ann).log(), folder(&bob).log());
    for _ in 0..2 {
        deliver_log(&folder(&bob), &folder(&cat), bobs);
        assert!(cat.vfs().catch_up().expect("runs").is_empty(), "nothing is applied");
        assert!(names(&cat).is_empty(), "the directory that Bob's file is in is not known");
    }
    let first = folder(&ann).store().entry(folder(&ann).no(), anns, 1).expect("reads").expect("there");
    for _ in 0..2 {
        let _ = folder(&cat).store().entry_add(folder(&cat).no(), &first).expect("taken or known");
        cat.vfs().catch_up().expect("applied");
        assert_eq!(names(&cat), [b"d"], "what Ann did later has not come");
        let there = cat.vfs().lookup(ROOT, b"d").expect("there").ino;
        assert_eq!(list(cat.vfs(), there).len(), 1, "now Bob's file is there");
    }
    for from in [&bob, &ann, &bob, &ann] {
        offer(&folder(from), &folder(&cat));
        cat.vfs().catch_up().expect("applied");
    }
    assert_eq!(names(&cat), names(&ann));
    assert_eq!(names(&cat), [b"e", b"g"]);
}
