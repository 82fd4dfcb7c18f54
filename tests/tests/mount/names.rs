//! Names and directories: listing, renaming with every flag, long and odd names.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::drive::Drive;

fn names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).expect("opendir").map(|entry| entry.expect("readdir").file_name()).collect()
}

#[test]
fn exclusive_create_refuses_an_existing_name() {
    let Some(drive) = Drive::mounted() else { return };
    let create = || OpenOptions::new().write(true).create_new(true).open(drive.path("f"));
    create().expect("new");
    assert_eq!(create().expect_err("exists").kind(), ErrorKind::AlreadyExists);
}

#[test]
fn name_looked_up_before_it_exists_is_found_after() {
    let Some(drive) = Drive::mounted() else { return };
    for name in ["plain", "stra\u{df}e", "e\u{301}"] {
        assert!(!drive.path(name).exists());
        fs::write(drive.path(name), b"x").expect("write");
        assert!(drive.path(name).exists());
        fs::remove_file(drive.path(name)).expect("unlink");
        assert!(!drive.path(name).exists());
    }
}

#[test]
fn directory_of_five_thousand_lists_each_name_once() {
    let Some(mut drive) = Drive::mounted() else { return };
    const FILES: usize = 5_000;
    fs::create_dir(drive.path("d")).expect("mkdir");
    for index in 0..FILES {
        fs::write(drive.path(&format!("d/file number {index}")), b"").expect("create");
    }
    let check = |drive: &Drive| {
        let listed: Vec<_> = fs::read_dir(drive.path("d")).expect("opendir").collect();
        assert_eq!(listed.len(), FILES);
        assert_eq!(names(&drive.path("d")).len(), FILES);
    };
    check(&drive);
    drive.remount();
    check(&drive);
    // Removing while listing passes over none and shows none twice, as `rm -r` needs.
    let mut seen = 0;
    for entry in fs::read_dir(drive.path("d")).expect("opendir") {
        fs::remove_file(entry.expect("readdir").path()).expect("unlink");
        seen += 1;
    }
    assert_eq!(seen, FILES);
    fs::remove_dir(drive.path("d")).expect("rmdir");
}

#[test]
fn listing_tells_kinds_and_dots() {
    let Some(drive) = Drive::mounted() else { return };
    fs::create_dir(drive.path("d")).expect("mkdir");
    fs::write(drive.path("d/f"), b"").expect("write");
    fs::create_dir(drive.path("d/e")).expect("mkdir");
    let open = fs::File::open(drive.path("d")).expect("open");
    let mut dots = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(&open).expect("fdopendir") {
        let entry = entry.expect("readdir");
        if entry.file_name().to_bytes() == b"." {
            assert_eq!(entry.ino(), fs::metadata(drive.path("d")).expect("stat").ino());
        }
        dots.insert(entry.file_name().to_bytes().to_vec());
    }
    let expected: BTreeSet<_> = [&b"."[..], b"..", b"e", b"f"].into_iter().map(<[u8]>::to_vec).collect();
    assert_eq!(dots, expected);
    for entry in fs::read_dir(drive.path("d")).expect("opendir") {
        let entry = entry.expect("readdir");
        assert_eq!(entry.file_type().expect("kind").is_dir(), entry.file_name() == "e");
    }
}

#[test]
fn long_and_odd_names_survive() {
    let Some(mut drive) = Drive::mounted() else { return };
    let odd: Vec<OsString> = [
        &[b'n'; 255][..],
        b"\xff\xfe not UTF-8 \x80",
        b" leading and trailing ",
        b"new\nline",
        b"back\\slash:*?\"<>|",
        "gr\u{fc}\u{df}e \u{1f980} \u{65e5}\u{672c}".as_bytes(),
        b"-rf",
        b"...",
    ]
    .into_iter()
    .map(|name| OsStr::from_bytes(name).to_owned())
    .collect();
    for name in &odd {
        fs::write(drive.at.join(name), name.as_bytes()).expect("write");
    }
    let too_long = fs::write(drive.path(&"n".repeat(256)), b"x").expect_err("256 bytes");
    assert_eq!(Errno::from_io_error(&too_long), Some(Errno::NAMETOOLONG));
    let too_long = fs::metadata(drive.path(&"n".repeat(256))).expect_err("256 bytes");
    assert_eq!(Errno::from_io_error(&too_long), Some(Errno::NAMETOOLONG));
    drive.remount();
    assert_eq!(names(&drive.at), odd.iter().cloned().collect());
    for name in &odd {
        assert_eq!(fs::read(drive.at.join(name)).expect("read"), name.as_bytes());
    }
}

#[test]
fn rename_replaces_and_refuses_as_posix_says() {
    let Some(mut drive) = Drive::mounted() else { return };
    let path = |name: &str| drive.path(name);
    fs::create_dir_all(path("full/inner")).expect("mkdir");
    fs::create_dir(path("empty")).expect("mkdir");
    fs::create_dir(path("dir")).expect("mkdir");
    fs::write(path("a"), b"a").expect("write");
    fs::write(path("b"), b"b").expect("write");
    let errno = |result: std::io::Result<()>| Errno::from_io_error(&result.expect_err("refused"));
    assert_eq!(errno(fs::rename(path("a"), path("dir"))), Some(Errno::ISDIR));
    assert_eq!(errno(fs::rename(path("dir"), path("a"))), Some(Errno::NOTDIR));
    assert_eq!(errno(fs::rename(path("dir"), path("full"))), Some(Errno::NOTEMPTY));
    assert_eq!(errno(fs::rename(path("full"), path("full/inner/x"))), Some(Errno::INVAL));
    assert_eq!(errno(fs::rename(path("none"), path("x"))), Some(Errno::NOENT));
    fs::rename(path("dir"), path("empty")).expect("onto an empty directory");
    fs::rename(path("a"), path("b")).expect("onto a file");
    fs::rename(path("full"), path("empty/moved")).expect("into another directory");
    fs::rename(path("b"), path("b")).expect("onto itself");
    drive.remount();
    let listed: Vec<_> = names(&drive.at).into_iter().collect();
    assert_eq!(listed, ["b", "empty"]);
    assert_eq!(fs::read(drive.path("b")).expect("read"), b"a");
    assert!(drive.path("empty/moved/inner").is_dir());
}

#[test]
fn rename_flags_are_obeyed() {
    let Some(mut drive) = Drive::mounted() else { return };
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, drive.path(from), CWD, drive.path(to), flags)
    };
    fs::write(drive.path("a"), b"a").expect("write");
    fs::write(drive.path("b"), b"b").expect("write");
    fs::create_dir(drive.path("d")).expect("mkdir");
    fs::write(drive.path("d/inner"), b"i").expect("write");
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("a", "c", RenameFlags::NOREPLACE).expect("the name is free");
    rename("c", "b", RenameFlags::EXCHANGE).expect("two files");
    assert_eq!(fs::read(drive.path("b")).expect("read"), b"a");
    rename("c", "d", RenameFlags::EXCHANGE).expect("a file and a directory");
    assert_eq!(rename("c", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(rename("c", "x", RenameFlags::WHITEOUT), Err(Errno::INVAL));
    drive.remount();
    assert_eq!(fs::read(drive.path("b")).expect("read"), b"a");
    assert_eq!(fs::read(drive.path("d")).expect("read"), b"b");
    assert_eq!(fs::read(drive.path("c/inner")).expect("read"), b"i");
}

#[test]
fn directories_are_removed_only_when_empty() {
    let Some(drive) = Drive::mounted() else { return };
    fs::create_dir(drive.path("d")).expect("mkdir");
    fs::write(drive.path("d/f"), b"").expect("write");
    let error = fs::remove_dir(drive.path("d")).expect_err("not empty");
    assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::metadata(&drive.at).expect("stat").nlink(), 3);
    fs::remove_file(drive.path("d/f")).expect("unlink");
    fs::remove_dir(drive.path("d")).expect("rmdir");
    assert_eq!(fs::metadata(&drive.at).expect("stat").nlink(), 2);
    assert_eq!(fs::remove_dir(drive.path("d")).expect_err("gone").kind(), ErrorKind::NotFound);
}

#[test]
fn deep_tree_is_made_and_removed() {
    let Some(mut drive) = Drive::mounted() else { return };
    let deep: String = (0..100).map(|level| format!("level {level}/")).collect();
    fs::create_dir_all(drive.path(&deep)).expect("mkdir -p");
    fs::write(drive.path(&deep).join("leaf"), b"leaf").expect("write");
    drive.remount();
    assert_eq!(fs::read(drive.path(&deep).join("leaf")).expect("read"), b"leaf");
    fs::remove_dir_all(drive.path("level 0")).expect("rm -r");
    assert!(names(&drive.at).is_empty());
}
