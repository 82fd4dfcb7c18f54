//! How fast a device takes in what others did: figures for `docs/performance.md`, and that nothing is left out.
//!
//! `COBOX_FIGURES=1` takes the full counts and prints; otherwise it is a small run that asserts the result.

use std::time::Instant;

use cobox_fs::vfs::{Cut, Kind, ROOT, RenameFlags, Vfs};

use crate::BY;
use crate::home::{Device, deliver};
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
