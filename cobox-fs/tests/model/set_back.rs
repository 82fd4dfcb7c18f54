//! A store that is set back to an older copy, or copied: nothing that was written is lost.

use std::path::Path;

use cobox_fs::vfs::{Called, Copies, Cut, Errno, ROOT, Released, RenameFlags, Vfs};
use cobox_store::format::access::Role;
use cobox_store::keyed::Standing;

use crate::home::{Device, deliver, deliver_all, offer};
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

/// A name of a file that a device wrote, with what it wrote.
type Written = (&'static [u8], &'static [u8]);

fn write_and_cut(device: &Device, files: &[Written]) {
    for (name, content) in files {
        write_file(device.vfs(), name, content);
        device.vfs().cut(Cut::Now).expect("cut");
    }
}

#[test]
fn two_copies_of_a_device_that_both_worked_offline_end_with_one_tree() {
    for seed in 0..4 {
        two_copies(seed);
    }
}

/// Who meets whom first depends on the seed.
fn two_copies(seed: u64) {
    let mut one = Device::new();
    write_and_cut(&one, &[(b"both", b"before the copy"), (b"gone", b"removed by one of them")]);
    let third = one.recovered();
    write_file(one.vfs(), b"waiting", b"in no entry when the copy was made");
    one.stop();
    let mut two = Device { dir: tempfile::tempdir().expect("a folder"), ..one.alike() };
    copy_dir(one.dir.path(), two.dir.path());
    one.restart();
    two.restart();
    // The third has written, so that both know its log, and builds on the first copy alone.
    write_and_cut(&one, &[(b"ones", b"by the first"), (b"both", b"changed by the first")]);
    write_and_cut(&two, &[(b"twos", b"by the second"), (b"two more", b"by the second, too")]);
    two.vfs().unlink(ROOT, b"gone").expect("removed");
    two.vfs().cut(Cut::Now).expect("cut");
    if seed.is_multiple_of(2) {
        deliver_all(one.vfs().folder(), third.vfs().folder());
        third.vfs().catch_up().expect("applied");
        write_file(third.vfs(), b"ones", b"changed by the third");
        third.vfs().cut(Cut::Now).expect("cut");
    }
    // What is written and waits when the fork becomes known is of neither branch.
    write_file(one.vfs(), b"late one", b"in no entry of the first");
    let log = one.vfs().folder().log();
    let (mut one, mut two, mut third) = (one, two, third);
    for round in 0..4 {
        for (from, to) in [(&two, &third), (&third, &one), (&one, &two), (&third, &two), (&two, &one)] {
            deliver_all(from.vfs().folder(), to.vfs().folder());
            if seed >= 2 {
                to.vfs().catch_up().expect("applied");
            }
        }
        for device in [&mut one, &mut two, &mut third] {
            if device.vfs().is_stale().expect("reads") {
                device.restart();
            }
            device.vfs().catch_up().expect("applied");
            if round > 0 {
                device.vfs().cut(Cut::Now).expect("cut");
            }
        }
    }
    let mut expected = vec!["both", "late one", "ones", "two more", "twos", "waiting"];
    expected.sort_unstable();
    let ones: &[u8] = if seed.is_multiple_of(2) { b"changed by the third" } else { b"by the first" };
    for (who, device) in [("one", &one), ("two", &two), ("third", &third)] {
        let vfs = device.vfs();
        let found: Vec<String> = names(vfs).into_iter().filter(|name| !name.contains("(conflict")).collect();
        assert_eq!(found, expected, "seed {seed}: {who}");
        assert_eq!(bytes_of(vfs, b"both"), b"changed by the first");
        assert_eq!(bytes_of(vfs, b"ones"), ones);
        assert_eq!(bytes_of(vfs, b"twos"), b"by the second");
        assert_eq!(bytes_of(vfs, b"late one"), b"in no entry of the first");
        assert_eq!(bytes_of(vfs, b"waiting"), b"in no entry when the copy was made");
        assert_eq!(names(vfs), names(third.vfs()), "seed {seed}: {who}");
    }
    for device in [&one, &two] {
        assert_ne!(device.vfs().folder().log(), log, "a fresh log");
    }
    assert_ne!(one.vfs().folder().log(), two.vfs().folder().log());
    // One copy may have answered for both, so nothing is released any more.
    assert_eq!(third.vfs().call_for_release(&Copies::Lacking), Ok(Called::Forked));
    assert_eq!(third.vfs().release_dead(), Ok(Released::Forked));
    // It stays so after a restart, and all go on writing.
    write_and_cut(&two, &[(b"after", b"under the fresh log")]);
    deliver_all(two.vfs().folder(), one.vfs().folder());
    one.restart();
    assert_eq!(bytes_of(one.vfs(), b"after"), b"under the fresh log");
    assert_eq!(names(one.vfs()), names(two.vfs()));
}

#[test]
fn home_set_back_with_its_mark_that_signed_before_it_met_anybody_loses_nothing() {
    let mut device = Device::new();
    write_and_cut(&device, &[(b"old", b"before the image")]);
    device.stop();
    let image = tempfile::tempdir().expect("a folder");
    copy_dir(device.dir.path(), image.path());
    device.restart();
    write_and_cut(&device, &[(b"lost", b"after the image"), (b"old", b"changed after the image")]);
    let peer = device.recovered();
    device.stop();
    std::fs::remove_dir_all(device.dir.path()).expect("removed");
    copy_dir(image.path(), device.dir.path());
    device.restart();
    assert_eq!(names(device.vfs()), ["old"]);
    write_and_cut(&device, &[(b"new", b"by the restored one")]);
    let mut peer = peer;
    for _ in 0..3 {
        deliver_all(peer.vfs().folder(), device.vfs().folder());
        deliver_all(device.vfs().folder(), peer.vfs().folder());
        for one in [&mut device, &mut peer] {
            if one.vfs().is_stale().expect("reads") {
                one.restart();
            }
            one.vfs().catch_up().expect("applied");
        }
    }
    for vfs in [device.vfs(), peer.vfs()] {
        assert_eq!(names(vfs), ["lost", "new", "old"]);
        assert_eq!(bytes_of(vfs, b"old"), b"changed after the image");
        assert_eq!(bytes_of(vfs, b"new"), b"by the restored one");
    }
    assert_eq!(device.vfs().folder().standing(), Standing::Good);
}

#[test]
fn device_removed_while_it_was_away_comes_back_with_the_words_and_its_unpublished_work() {
    let mut away = Device::new();
    write_and_cut(&away, &[(b"known", b"before it was away")]);
    let stays = away.recovered();
    // What it writes meanwhile is signed and sealed, and nobody gets it; some of it is in no entry yet.
    write_and_cut(&away, &[(b"signed", b"while it was away"), (b"known", b"changed while it was away")]);
    write_file(away.vfs(), b"large", &vec![9; 300_000]);
    away.vfs().rename(ROOT, b"signed", ROOT, b"renamed", RenameFlags::Replace).expect("renamed");
    away.vfs().cut(Cut::Now).expect("cut");
    write_file(away.vfs(), b"waiting", b"in no entry");
    let log = away.vfs().folder().log();
    stays.vfs().folder().remove_device(log).expect("removed");
    write_and_cut(&stays, &[(b"meanwhile", b"by the one that stays")]);
    deliver(stays.vfs().folder(), away.vfs().folder());
    let (folder, secret) = (stays.vfs().folder(), away.secret.clone());
    let records = folder.store().access_records(folder.no()).expect("records");
    let index = folder.index();
    away.vfs = None;
    let home = away.home.clone().expect("running");
    let again = home.folder_recover(&secret, index, "model", records).expect("joined again");
    assert_ne!(again.log(), log, "under a fresh log");
    drop((again, home));
    away.restart();
    away.vfs().catch_up().expect("applied");
    away.vfs().cut(Cut::Now).expect("cut");
    deliver(away.vfs().folder(), stays.vfs().folder());
    stays.vfs().catch_up().expect("applied");
    for (who, vfs) in [("away", away.vfs()), ("stays", stays.vfs())] {
        assert_eq!(names(vfs), ["known", "large", "meanwhile", "renamed", "waiting"], "{who}");
        assert_eq!(bytes_of(vfs, b"known"), b"changed while it was away", "{who}");
        assert_eq!(bytes_of(vfs, b"renamed"), b"while it was away", "{who}");
        assert_eq!(bytes_of(vfs, b"large"), vec![9; 300_000], "{who}");
        assert_eq!(bytes_of(vfs, b"waiting"), b"in no entry", "{who}");
    }
    assert!(stays.vfs().folder().store().log_heads(stays.vfs().folder().no()).expect("reads").len() >= 2);
}

#[test]
fn member_who_was_removed_comes_back_with_an_invite_and_its_unpublished_work() {
    let stays = Device::new();
    write_and_cut(&stays, &[(b"first", b"by the one that stays")]);
    let mut away = stays.invited(Role::Write);
    offer(stays.vfs().folder(), away.vfs().folder());
    away.vfs().catch_up().expect("applied");
    write_and_cut(&away, &[(b"known", b"before it was away")]);
    offer(away.vfs().folder(), stays.vfs().folder());
    stays.vfs().catch_up().expect("applied");
    // Signed and sealed, and in no entry: nobody else gets either.
    write_and_cut(&away, &[(b"signed", b"while it was away"), (b"known", b"changed while it was away")]);
    write_file(away.vfs(), b"waiting", b"in no entry");
    let log = away.vfs().folder().log();
    let folder = stays.vfs().folder();
    let member = folder.store().access(folder.no()).expect("reads").devices[&log].member;
    folder.remove_member(member).expect("removed");
    write_and_cut(&stays, &[(b"meanwhile", b"by the one that stays")]);
    let home = away.home.clone().expect("running");
    let code = folder.invite(Role::Write, u64::MAX >> 1).expect("invites");
    let request = home.join_request(&code).expect("asks");
    folder.admit(&request).expect("lets in");
    let records = folder.store().access_records(folder.no()).expect("records");
    away.vfs = None;
    let again = home.join_finish(&code, None, &records).expect("joins").expect("has keys");
    assert_eq!((again.log(), again.name()), (request.log, String::from("model")));
    assert_eq!(home.folders().expect("reads").len(), 1, "it is the same folder");
    let same = home.join_finish(&code, None, &records).expect("joins").expect("has keys");
    assert_eq!(same.log(), again.log(), "once more changes nothing");
    drop((again, same, home));
    away.restart();
    for _ in 0..2 {
        offer(stays.vfs().folder(), away.vfs().folder());
        away.vfs().catch_up().expect("applied");
        away.vfs().cut(Cut::Now).expect("cut");
        offer(away.vfs().folder(), stays.vfs().folder());
        stays.vfs().catch_up().expect("applied");
    }
    for (who, vfs) in [("away", away.vfs()), ("stays", stays.vfs())] {
        assert_eq!(names(vfs), ["first", "known", "meanwhile", "signed", "waiting"], "{who}");
        assert_eq!(bytes_of(vfs, b"known"), b"changed while it was away", "{who}");
        assert_eq!(bytes_of(vfs, b"signed"), b"while it was away", "{who}");
        assert_eq!(bytes_of(vfs, b"waiting"), b"in no entry", "{who}");
        assert_eq!(bytes_of(vfs, b"meanwhile"), b"by the one that stays", "{who}");
    }
}

#[test]
fn devices_that_built_on_two_copies_of_one_that_was_removed_since_end_with_one_tree() {
    let mut one = Device::new();
    write_and_cut(&one, &[(b"both", b"before the copy")]);
    let mut ann = one.recovered();
    let mut bob = ann.recovered();
    for (from, to) in [(&ann, &one), (&bob, &ann), (&bob, &one), (&ann, &bob)] {
        offer(from.vfs().folder(), to.vfs().folder());
    }
    one.vfs().cut(Cut::Now).expect("cut");
    one.stop();
    let mut two = Device { dir: tempfile::tempdir().expect("a folder"), ..one.alike() };
    copy_dir(one.dir.path(), two.dir.path());
    one.restart();
    two.restart();
    // Each of the two who stay met one of the copies, and wrote on.
    write_and_cut(&one, &[(b"ones", b"by the first"), (b"more", b"by the first")]);
    write_and_cut(&two, &[(b"twos", b"by the second")]);
    for (copy, device, file) in [(&one, &ann, &b"ones"[..]), (&two, &bob, &b"twos"[..])] {
        offer(copy.vfs().folder(), device.vfs().folder());
        device.vfs().catch_up().expect("applied");
        write_file(device.vfs(), file, b"changed since");
        device.vfs().cut(Cut::Now).expect("cut");
    }
    // Nobody knows of the fork when the device is removed, and Ann's copy of it is the longer one.
    ann.vfs().folder().remove_device(one.vfs().folder().log()).expect("removed");
    for _ in 0..4 {
        for (from, to) in [(&ann, &bob), (&bob, &ann)] {
            offer(from.vfs().folder(), to.vfs().folder());
            to.vfs().folder().tend().expect("tends");
        }
        for device in [&mut ann, &mut bob] {
            if device.vfs().is_stale().expect("reads") {
                device.restart();
            }
            device.vfs().catch_up().expect("applied");
            device.vfs().cut(Cut::Now).expect("cut");
        }
    }
    for (who, vfs) in [("Ann", ann.vfs()), ("Bob", bob.vfs())] {
        assert_eq!(names(vfs), ["both", "more", "ones", "twos"], "{who}");
        assert_eq!(bytes_of(vfs, b"ones"), b"changed since", "{who}");
        assert_eq!(bytes_of(vfs, b"twos"), b"changed since", "{who}");
    }
    // Who was removed and does not join again makes its tree anew once, and is not stale for ever.
    offer(bob.vfs().folder(), one.vfs().folder());
    assert!(one.vfs().is_stale().expect("reads"));
    one.restart();
    assert!(!one.vfs().is_stale().expect("reads"));
}
