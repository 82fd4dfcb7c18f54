//! The kernel keeps listings: what it did not change itself must reach it all the same.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use cobox_fs::vfs::Cut;

use crate::drive::Drive;
use crate::remote::{carry, exchange, names, shows};

#[test]
fn listing_that_the_kernel_keeps_shows_what_another_device_changes() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::create_dir(one.path("d")).expect("mkdir");
    fs::write(one.path("d/a"), b"1").expect("write");
    exchange(&one, &two);
    shows("the directory", || two.path("d/a").exists());
    for _ in 0..2 {
        assert_eq!(names(&two.path("d")), ["a"], "kept");
    }
    fs::write(one.path("d/b"), b"2").expect("write");
    exchange(&one, &two);
    // Nobody asks for the name: the listing alone says that it is there.
    shows("one more", || names(&two.path("d")) == ["a", "b"]);
    fs::rename(one.path("d/a"), one.path("c")).expect("rename");
    exchange(&one, &two);
    shows("one less", || names(&two.path("d")) == ["b"] && names(&two.at) == ["c", "d"]);
    fs::write(two.path("d/own"), b"3").expect("write");
    assert_eq!(names(&two.path("d")), ["b", "own"], "what is made here shows at once");
}

/// Lets the readers end, also after a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Programs that list a directory all the time.
const READERS: usize = 8;
const ROUNDS: usize = 60;

#[test]
fn listing_read_while_another_device_writes_is_right_in_the_end() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::create_dir(one.path("d")).expect("mkdir");
    exchange(&one, &two);
    shows("the directory", || two.path("d").exists());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    names(&two.path("d"));
                }
            });
        }
        let _ends = Ends(&done);
        for round in 0..ROUNDS {
            fs::write(one.path("d").join(format!("{round}")), b"x").expect("write");
            if round % 3 == 0 {
                fs::remove_file(one.path("d").join(format!("{}", round / 2))).expect("unlink");
            }
            one.vfs().cut(Cut::Now).expect("cuts");
            carry(one.vfs().folder(), two.vfs().folder());
            let due = names(&one.path("d"));
            shows("the same files", || names(&two.path("d")) == due);
        }
    });
}

#[test]
fn versions_of_a_file_show_under_all_its_names_and_go_from_all() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    for dir in ["here", "there"] {
        fs::create_dir(one.path(dir)).expect("mkdir");
    }
    fs::write(one.path("here/f"), b"base").expect("write");
    fs::hard_link(one.path("here/f"), one.path("there/f")).expect("link");
    exchange(&one, &two);
    shows("both names", || two.path("here/f").exists() && two.path("there/f").exists());
    assert_eq!((names(&one.path("there")).len(), names(&two.path("there")).len()), (1, 1), "kept");
    fs::write(one.path("here/f"), b"edited on one").expect("write");
    fs::write(two.path("here/f"), b"edited on two").expect("write");
    exchange(&one, &two);
    exchange(&one, &two);
    for drive in [&one, &two] {
        for dir in ["here", "there"] {
            shows("both versions", || names(&drive.path(dir)).len() == 2);
        }
    }
    let other = names(&one.path("here")).into_iter().find(|name| name != "f").expect("two names");
    // Taken in one directory, it is settled in the other, which the kernel does not know to change.
    fs::rename(one.path("here").join(&other), one.path("here/f")).expect("rename");
    assert_eq!(names(&one.path("here")), ["f"]);
    shows("the other directory without it", || names(&one.path("there")) == ["f"]);
    exchange(&one, &two);
    for dir in ["here", "there"] {
        shows("the same on the other side", || names(&two.path(dir)) == ["f"]);
    }
}

#[test]
fn directory_that_was_removed_here_and_comes_back_shows_what_is_in_it() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    for name in ["removed", "replaced", "beside"] {
        fs::create_dir(one.path(name)).expect("mkdir");
    }
    exchange(&one, &two);
    shows("the directories", || names(&two.at) == ["beside", "removed", "replaced"]);
    // The kernel takes both for dead as long as somebody has them open.
    let held = ["removed", "replaced"].map(|name| File::open(two.path(name)).expect("opens"));
    fs::remove_dir(two.path("removed")).expect("rmdir");
    fs::rename(two.path("beside"), two.path("replaced")).expect("renames over");
    for name in ["removed", "replaced"] {
        fs::write(one.path(name).join("new"), b"put here meanwhile").expect("writes");
    }
    exchange(&one, &two);
    exchange(&one, &two);
    let found = |name: &str| two.path(name).join("new").exists() && names(&two.path(name)) == ["new"];
    shows("the removed one with what is in it", || found("removed"));
    shows("the same tree", || names(&two.at) == names(&one.at));
    for name in names(&two.at) {
        assert_eq!(names(&two.path(&name)), names(&one.path(&name)), "{name}");
    }
    drop(held);
    shows("it also afterwards", || found("removed"));
    fs::write(two.path("removed/more"), b"and here").expect("writes");
    assert_eq!(names(&two.path("removed")), ["more", "new"]);
}

#[test]
fn names_after_a_device_that_was_removed_stay_as_they_were_listed() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::write(one.path("f"), b"base").expect("write");
    exchange(&one, &two);
    fs::write(one.path("f"), b"edited on one").expect("write");
    fs::write(two.path("f"), b"edited on two").expect("write");
    exchange(&one, &two);
    exchange(&one, &two);
    shows("both versions", || names(&one.at).len() == 2);
    let before = names(&one.at);
    let folder = one.vfs().folder();
    folder.remove_device(two.vfs().folder().log()).expect("the first device is an admin's");
    folder.refresh().expect("reads the access log");
    one.vfs().drop_caches();
    assert_eq!(names(&one.at), before);
    for name in &before {
        assert!(fs::metadata(one.path(name)).is_ok(), "{name} is listed and not there");
    }
}

#[test]
fn moved_directory_lists_the_directory_above_it() {
    let Some(one) = Drive::mounted() else { return };
    for dir in ["from", "to", "from/d"] {
        fs::create_dir(one.path(dir)).expect("mkdir");
    }
    fs::write(one.path("from/d/inner"), b"x").expect("write");
    let above = |dir: &str| {
        let opened = File::open(one.path(dir)).expect("opens");
        let listed = rustix::fs::Dir::read_from(&opened).expect("lists");
        let mut listed = listed.map(|entry| entry.expect("lists"));
        listed.find(|entry| entry.file_name().to_bytes() == b"..").expect("lists the directory above").ino()
    };
    for _ in 0..2 {
        assert_eq!(above("from/d"), fs::metadata(one.path("from")).expect("stat").ino(), "kept");
    }
    fs::rename(one.path("from/d"), one.path("to/d")).expect("rename");
    let due = fs::metadata(one.path("to")).expect("stat").ino();
    shows("the new directory above", || above("to/d") == due);
}

#[test]
fn file_that_outlives_its_removal_elsewhere_shows_again_with_its_directory() {
    let Some(one) = Drive::mounted() else { return };
    let two = one.second();
    fs::create_dir(one.path("d")).expect("mkdir");
    fs::write(one.path("d/f"), b"base").expect("write");
    exchange(&one, &two);
    shows("the file", || two.path("d/f").exists());
    let mut open = File::options().append(true).open(two.path("d/f")).expect("open");
    open.write_all(b" and more").expect("write");
    fs::remove_dir_all(one.path("d")).expect("rm -r");
    one.vfs().cut(Cut::Now).expect("cuts");
    carry(one.vfs().folder(), two.vfs().folder());
    shows("that it is gone", || !two.path("d").exists() && names(&two.at).is_empty());
    // What was written meanwhile brings it back; no program made it here.
    two.vfs().cut(Cut::Now).expect("cuts");
    shows("the directory in its listing", || names(&two.at) == ["d"]);
    shows("the directory by its name", || fs::metadata(two.path("d")).is_ok_and(|meta| meta.is_dir()));
    shows("the file", || fs::read(two.path("d/f")).is_ok_and(|text| text == b"base and more"));
    assert_eq!(names(&two.path("d")), ["f"]);
    assert_eq!(open.metadata().expect("stat").nlink(), 1);
    drop(open);
    exchange(&two, &one);
    shows("the same on the other side", || one.path("d/f").exists() && names(&one.at) == ["d"]);
}
