//! A store that is set back to an older copy, or copied: nothing that was written is lost.

use std::path::Path;

use cobox_fs::vfs::{Cut, Errno, ROOT, RenameFlags, Vfs};

use crate::home::{Device, deliver, deliver_all};
use crate::stories::{bytes_of, write_file};

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn names(vfs: &Vfs) -> Vec<String> {
    let mut names: Vec<String> = crate::tree::list(vfs, ROOT)
        .into_iter()
        .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn store_set_back_goes_on_under_a_fresh_log_and_loses_nothing() {
    let mut device = Device::new();
    write_file(device.vfs(), b"old", b"in an entry before the copy");
    device.vfs().cut(Cut::Now).expect("cut");
    write_file(device.vfs(), b"waiting", b"in no entry when the copy was made");
    device.vfs().rename(ROOT, b"waiting", ROOT, b"waited", RenameFlags::Replace).expect("renamed");
    device.stop();
    let (data, copy) = (device.dir.path().join("data"), tempfile::tempdir().expect("a folder"));
    copy_dir(&data, copy.path());
    device.restart();
    write_file(device.vfs(), b"lost", &vec![7; 300_000]);
    device.vfs().cut(Cut::Now).expect("cut");
    let log = device.vfs().folder().log();
    let peer = device.recovered();
    assert_eq!(names(peer.vfs()), ["lost", "old", "waited"]);

    device.stop();
    std::fs::remove_dir_all(&data).expect("removed");
    copy_dir(copy.path(), &data);
    device.restart();
    assert_ne!(device.vfs().folder().log(), log, "a fresh log");
    assert_eq!(names(device.vfs()), ["old", "waited"]);
    write_file(device.vfs(), b"late", b"written before the peer was met again");
    device.vfs().cut(Cut::Now).expect("cut");
    deliver(peer.vfs().folder(), device.vfs().folder());
    device.vfs().catch_up().expect("applied");
    deliver(device.vfs().folder(), peer.vfs().folder());
    peer.vfs().catch_up().expect("applied");
    for vfs in [device.vfs(), peer.vfs()] {
        assert_eq!(names(vfs), ["late", "lost", "old", "waited"]);
        assert_eq!(bytes_of(vfs, b"lost"), vec![7; 300_000]);
        assert_eq!(bytes_of(vfs, b"waited"), b"in no entry when the copy was made");
        assert_eq!(bytes_of(vfs, b"late"), b"written before the peer was met again");
    }
    device.restart();
    assert_eq!(names(device.vfs()), ["late", "lost", "old", "waited"]);
}

#[test]
fn log_continued_by_a_copy_is_applied_and_left() {
    let mut device = Device::new();
    write_file(device.vfs(), b"both", b"before the copy");
    device.vfs().cut(Cut::Now).expect("cut");
    write_file(device.vfs(), b"waiting", b"in no entry of this one yet");
    device.stop();
    let mut copy = Device { dir: tempfile::tempdir().expect("a folder"), ..device.alike() };
    copy_dir(device.dir.path(), copy.dir.path());
    device.restart();
    copy.restart();
    write_file(copy.vfs(), b"theirs", b"by the copy");
    copy.vfs().cut(Cut::Now).expect("cut");
    write_file(device.vfs(), b"ours", b"by the original");
    deliver_all(copy.vfs().folder(), device.vfs().folder());
    device.vfs().catch_up().expect("applied");
    assert_eq!(names(device.vfs()), ["both", "ours", "theirs", "waiting"]);
    assert_eq!(bytes_of(device.vfs(), b"theirs"), b"by the copy");
    assert_eq!(device.vfs().cut(Cut::Now), Err(Errno::EROFS), "it signs nothing more under that log");
    let log = device.vfs().folder().log();
    device.restart();
    assert_ne!(device.vfs().folder().log(), log);
    device.vfs().cut(Cut::Now).expect("cut");
    deliver(device.vfs().folder(), copy.vfs().folder());
    copy.vfs().catch_up().expect("applied");
    for vfs in [device.vfs(), copy.vfs()] {
        assert_eq!(names(vfs), ["both", "ours", "theirs", "waiting"]);
        assert_eq!(bytes_of(vfs, b"ours"), b"by the original");
        assert_eq!(bytes_of(vfs, b"waiting"), b"in no entry of this one yet");
    }
}
