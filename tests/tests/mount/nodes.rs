//! Attributes and kinds of nodes: modes, owners, times, extended attributes, links, FIFOs, `statfs`.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use cobox_fs::mount::MountOptions;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use crate::drive::Drive;

fn mode_of(path: &std::path::Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

#[test]
fn modes_and_owners_are_kept() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), b"x").expect("write");
    fs::create_dir(drive.path("d")).expect("mkdir");
    fs::set_permissions(drive.path("f"), fs::Permissions::from_mode(0o640)).expect("chmod");
    fs::set_permissions(drive.path("d"), fs::Permissions::from_mode(0o1750)).expect("chmod");
    let root = rustix::process::getuid().is_root();
    if root {
        std::os::unix::fs::chown(drive.path("f"), Some(1234), Some(5678)).expect("chown");
    }
    drive.remount();
    assert_eq!(mode_of(&drive.path("f")), 0o640);
    assert_eq!(mode_of(&drive.path("d")), 0o1750);
    if root {
        let stat = fs::metadata(drive.path("f")).expect("stat");
        assert_eq!((stat.uid(), stat.gid()), (1234, 5678));
    }
}

#[test]
fn change_of_owner_takes_the_set_id_bits() {
    let Some(drive) = Drive::mounted() else { return };
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root changes owners");
        return;
    }
    fs::write(drive.path("f"), b"x").expect("write");
    fs::set_permissions(drive.path("f"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    assert_eq!(mode_of(&drive.path("f")), 0o6755);
    std::os::unix::fs::chown(drive.path("f"), Some(1234), None).expect("chown");
    assert_eq!(mode_of(&drive.path("f")), 0o755);
}

#[test]
fn write_and_truncation_by_others_than_root_take_the_set_id_bits() {
    let Some(mut drive) = Drive::mounted() else { return };
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    drive.unmount();
    drive.mount(MountOptions { allow_other: true, read_only: false }).expect("mounts");
    fs::set_permissions(drive.at.parent().expect("a parent"), fs::Permissions::from_mode(0o755))
        .expect("chmod");
    let path = drive.path("f");
    for change in ["printf x >> \"$0\"", "printf x > \"$0\"", "truncate -s 1 \"$0\""] {
        fs::write(&path, b"text").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
        let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", change];
        let status = Command::new("setpriv").args(words).arg(&path).status();
        let Ok(status) = status else { return println!("skipped: no setpriv on this machine") };
        assert!(status.success(), "{change}");
        assert_eq!(mode_of(&path), 0o777, "{change}");
    }
    // Root may write without that effect.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
    fs::write(&path, b"by root").expect("write");
    assert_eq!(mode_of(&path), 0o6777);
}

#[test]
fn set_group_id_directory_hands_its_group_down() {
    let Some(drive) = Drive::mounted() else { return };
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root changes groups freely");
        return;
    }
    fs::create_dir(drive.path("d")).expect("mkdir");
    std::os::unix::fs::chown(drive.path("d"), None, Some(4321)).expect("chown");
    fs::set_permissions(drive.path("d"), fs::Permissions::from_mode(0o2775)).expect("chmod");
    fs::write(drive.path("d/f"), b"x").expect("write");
    fs::create_dir(drive.path("d/e")).expect("mkdir");
    assert_eq!(fs::metadata(drive.path("d/f")).expect("stat").gid(), 4321);
    assert_eq!(fs::metadata(drive.path("d/e")).expect("stat").gid(), 4321);
    assert_eq!(mode_of(&drive.path("d/e")) & 0o2000, 0o2000);
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let Some(mut drive) = Drive::mounted() else { return };
    let file = File::create(drive.path("f")).expect("create");
    let time = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    file.set_modified(time).expect("utimensat");
    drop(file);
    let before_1970 = Timespec { tv_sec: -86_400, tv_nsec: 7 };
    fs::write(drive.path("old"), b"x").expect("write");
    let times = Timestamps { last_access: before_1970, last_modification: before_1970 };
    rustix::fs::utimensat(CWD, drive.path("old"), &times, AtFlags::empty()).expect("utimensat");
    drive.remount();
    assert_eq!(fs::metadata(drive.path("f")).expect("stat").modified().expect("mtime"), time);
    let stat = fs::metadata(drive.path("old")).expect("stat");
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (-86_400, 7));
}

#[test]
fn time_now_and_omitted_time_are_told_apart() {
    let Some(drive) = Drive::mounted() else { return };
    let path = drive.path("f");
    let file = File::create(&path).expect("create");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(5)).expect("utimensat");
    let special = |nsec| Timespec { tv_sec: 0, tv_nsec: nsec };
    let times = Timestamps { last_access: special(UTIME_NOW), last_modification: special(UTIME_OMIT) };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimensat");
    let stat = fs::metadata(&path).expect("stat");
    assert_eq!(stat.mtime(), 5);
    assert!(stat.atime() > 1_000_000_000);
    let times = Timestamps { last_access: special(UTIME_OMIT), last_modification: special(UTIME_NOW) };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).expect("utimensat");
    assert!(fs::metadata(&path).expect("stat").mtime() > 1_000_000_000);
}

#[test]
fn write_moves_the_times_of_file_and_directory() {
    let Some(drive) = Drive::mounted() else { return };
    fs::create_dir(drive.path("d")).expect("mkdir");
    let old = UNIX_EPOCH + Duration::from_secs(5);
    File::create(drive.path("d/f")).expect("create").set_modified(old).expect("utimensat");
    File::open(drive.path("d")).expect("open").set_modified(old).expect("utimensat");
    fs::write(drive.path("d/f"), b"x").expect("write");
    assert!(fs::metadata(drive.path("d/f")).expect("stat").mtime() > 5);
    assert_eq!(fs::metadata(drive.path("d")).expect("stat").mtime(), 5);
    fs::write(drive.path("d/g"), b"x").expect("write");
    assert!(fs::metadata(drive.path("d")).expect("stat").mtime() > 5);
}

#[test]
fn hard_links_share_content_and_count() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::create_dir(drive.path("d")).expect("mkdir");
    fs::write(drive.path("a"), b"one").expect("write");
    fs::hard_link(drive.path("a"), drive.path("d/b")).expect("link");
    let (a, b) =
        (fs::metadata(drive.path("a")).expect("stat"), fs::metadata(drive.path("d/b")).expect("stat"));
    assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
    fs::write(drive.path("d/b"), b"changed").expect("write");
    assert_eq!(fs::read(drive.path("a")).expect("read"), b"changed");
    drive.remount();
    assert_eq!(fs::metadata(drive.path("a")).expect("stat").nlink(), 2);
    fs::remove_file(drive.path("a")).expect("unlink");
    assert_eq!(fs::metadata(drive.path("d/b")).expect("stat").nlink(), 1);
    assert_eq!(fs::read(drive.path("d/b")).expect("read"), b"changed");
    let error = fs::hard_link(drive.path("d"), drive.path("e")).expect_err("a directory");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn symlinks_are_kept_verbatim() {
    let Some(mut drive) = Drive::mounted() else { return };
    let long = "x/".repeat(2000);
    for (name, target) in
        [("dangling", "no/such//place"), ("absolute", "/etc/hostname"), ("long", long.as_str())]
    {
        symlink(target, drive.path(name)).expect("symlink");
    }
    fs::write(drive.path("f"), b"through").expect("write");
    symlink("f", drive.path("to-f")).expect("symlink");
    drive.remount();
    assert_eq!(fs::read_link(drive.path("dangling")).expect("readlink").to_str(), Some("no/such//place"));
    assert_eq!(fs::read_link(drive.path("long")).expect("readlink").to_str(), Some(long.as_str()));
    assert_eq!(fs::symlink_metadata(drive.path("long")).expect("stat").len(), 4000);
    assert_eq!(fs::read(drive.path("to-f")).expect("read"), b"through");
}

#[test]
fn fifos_sockets_and_devices_are_nodes() {
    let Some(mut drive) = Drive::mounted() else { return };
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, drive.path(name), kind, Mode::from(0o640), device)
    };
    make("fifo", FileType::Fifo, 0).expect("mkfifo");
    drop(std::os::unix::net::UnixListener::bind(drive.path("socket")).expect("bind"));
    let root = rustix::process::getuid().is_root();
    if root {
        make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)).expect("mknod");
    }
    drive.remount();
    let kind = |name: &str| fs::symlink_metadata(drive.path(name)).expect("stat");
    assert!(kind("fifo").file_type().is_fifo());
    assert!(kind("socket").file_type().is_socket());
    if root {
        assert!(kind("null").file_type().is_char_device());
        assert_eq!(kind("null").rdev(), rustix::fs::makedev(1, 3));
        let error = File::open(drive.path("null")).expect_err("nodev");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    let path = drive.path("fifo");
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&path, b"through the pipe").expect("write"));
        assert_eq!(fs::read(&path).expect("read"), b"through the pipe");
    });
}

#[test]
fn extended_attributes_are_set_listed_and_removed() {
    let Some(mut drive) = Drive::mounted() else { return };
    let path = drive.path("f");
    fs::write(&path, b"x").expect("write");
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    set("user.colour", b"blue", XattrFlags::empty()).expect("set");
    set("user.empty", b"", XattrFlags::CREATE).expect("create");
    assert_eq!(set("user.colour", b"red", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.none", b"red", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set("trusted.x", b"red", XattrFlags::empty()), Err(Errno::NOTSUP));
    drive.remount();
    let mut value = [0u8; 64];
    assert_eq!(rustix::fs::getxattr_query(&path, "user.colour"), Ok(4));
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..2]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut value[..]), Ok(4));
    assert_eq!(&value[..4], b"blue");
    assert_eq!(rustix::fs::getxattr(&path, "user.none", &mut value[..]), Err(Errno::NODATA));
    let len = rustix::fs::listxattr(&path, &mut value[..]).expect("list");
    let mut names: Vec<_> = value[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.colour"[..], b"user.empty"]);
    assert_eq!(rustix::fs::listxattr(&path, &mut value[..3]), Err(Errno::RANGE));
    rustix::fs::removexattr(&path, "user.colour").expect("remove");
    assert_eq!(rustix::fs::removexattr(&path, "user.colour"), Err(Errno::NODATA));
}

#[test]
fn statfs_tells_the_disk_and_the_longest_name() {
    let Some(drive) = Drive::mounted() else { return };
    let stat = rustix::fs::statvfs(&drive.at).expect("statvfs");
    assert_eq!(stat.f_namemax, 255);
    assert!(stat.f_blocks >= stat.f_bfree && stat.f_bavail > 0);
    assert!(stat.f_blocks * stat.f_frsize > 1 << 20, "the size of the disk in bytes");
}

#[test]
fn locks_hold_between_descriptors() {
    let Some(drive) = Drive::mounted() else { return };
    let open =
        || OpenOptions::new().write(true).create(true).truncate(false).open(drive.path("f")).expect("open");
    let (one, two) = (open(), open());
    rustix::fs::flock(&one, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    let second = rustix::fs::flock(&two, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(second, Err(Errno::WOULDBLOCK));
    drop(one);
    rustix::fs::flock(&two, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free now");
}
