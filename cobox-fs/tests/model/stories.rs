//! Single promises: durability, files without a name, large files, two devices.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use cobox_fs::vfs::{Cut, Errno, FsyncKind, Harm, HurtSlices, Kind, ROOT, SetAttr, Vfs, Whence};
use cobox_store::format::pack::PackRef;
use cobox_store::id::PackId;

use crate::home::{Device, deliver, deliver_without};
use crate::tree::{READ, WRITE, list, read_all, resolve};
use crate::{BY, Dice};

pub fn write_file(vfs: &Vfs, name: &[u8], bytes: &[u8]) -> u64 {
    let (attr, fh) = vfs.create(ROOT, name, BY, WRITE).expect("created");
    for (at, part) in bytes.chunks(128 * 1024).enumerate() {
        vfs.write(fh, (at * 128 * 1024) as u64, part).expect("written");
    }
    vfs.flush(fh).expect("closed");
    vfs.release(fh).expect("closed");
    attr.ino
}

pub fn bytes_of(vfs: &Vfs, name: &[u8]) -> Vec<u8> {
    let attr = vfs.lookup(ROOT, name).expect("there");
    read_all(vfs, attr.ino, attr.size)
}

#[test]
fn files_streamed_beside_each_other_keep_every_byte() {
    let mut device = Device::new();
    let (first, second) = (Dice::new(11).bytes(70 << 20), Dice::new(12).bytes(30 << 20));
    let background = device.vfs().start_background();
    let write = |name: &[u8], bytes: &[u8], every: usize| {
        let vfs = device.vfs();
        let (_, fh) = vfs.create(ROOT, name, BY, WRITE).expect("created");
        for (nth, part) in bytes.chunks(100_000).enumerate() {
            let at = nth as u64 * 100_000;
            if nth % every != 50 {
                vfs.write(fh, at, part).expect("written");
                continue;
            }
            // What lies just behind is written twice: perhaps while it is sealed.
            let behind = at.saturating_sub(3_000_000);
            let again = bytes.get(behind as usize..behind as usize + 5000).expect("inside");
            vfs.write(fh, behind, &vec![0; again.len()]).expect("written");
            vfs.write(fh, at, part).expect("written");
            vfs.write(fh, behind, again).expect("written");
        }
        vfs.fsync(fh, FsyncKind::Data).expect("synced");
    };
    std::thread::scope(|scope| {
        // Once is still cut by content, often is cut into blocks.
        scope.spawn(|| write(b"first", &first, usize::MAX));
        write(b"second", &second, 51);
    });
    assert!(bytes_of(device.vfs(), b"first") == first && bytes_of(device.vfs(), b"second") == second);
    drop(background);
    // Never closed.
    device.restart();
    assert!(bytes_of(device.vfs(), b"first") == first && bytes_of(device.vfs(), b"second") == second);
}

#[test]
fn fsync_then_restart_without_goodbye_keeps_data() {
    let mut device = Device::new();
    let mut dice = Dice::new(3);
    for (name, len) in [(&b"small"[..], 700), (b"middle", 300_000), (b"large", 9_000_000)] {
        let bytes = dice.bytes(len);
        let (_, fh) = device.vfs().create(ROOT, name, BY, WRITE).expect("created");
        device.vfs().write(fh, 0, &bytes).expect("written");
        device.vfs().fsync(fh, FsyncKind::Data).expect("synced");
        let more = dice.bytes(5000);
        device.vfs().write(fh, 100, &more[..500]).expect("written");
        device.vfs().fsync(fh, FsyncKind::Data).expect("synced");
        // Never closed.
        device.restart();
        let mut wanted = bytes;
        wanted[100..600].copy_from_slice(&more[..500]);
        assert!(bytes_of(device.vfs(), name) == wanted, "{len}");
    }
    device.vfs().cut(Cut::Now).expect("cut");
    device.restart();
    assert_eq!(device.vfs().stats().dirty_files, 0);
    assert_eq!(list(device.vfs(), ROOT).len(), 3);
}

#[test]
fn file_closed_then_restart_without_goodbye_keeps_data() {
    let mut device = Device::new();
    let bytes = Dice::new(4).bytes(12_000_000);
    write_file(device.vfs(), b"a", &bytes);
    write_file(device.vfs(), b"b", b"short");
    device.restart();
    assert!(bytes_of(device.vfs(), b"a") == bytes);
    assert_eq!(bytes_of(device.vfs(), b"b"), b"short");
}

#[test]
fn file_without_a_name_works_until_it_is_closed_and_stays_out_of_the_log() {
    let device = Device::new();
    let vfs = device.vfs();
    let (attr, fh) = vfs.create(ROOT, b"temporary", BY, WRITE).expect("created");
    vfs.write(fh, 0, &[7; 50_000]).expect("written");
    vfs.unlink(ROOT, b"temporary").expect("removed");
    vfs.cut(Cut::Now).expect("cut");
    vfs.write(fh, 50_000, &[8; 10]).expect("written");
    vfs.fsync(fh, FsyncKind::All).expect("synced");
    assert_eq!(vfs.read(fh, 49_999, 3).expect("reads"), [7, 8, 8]);
    let seen = vfs.getattr(attr.ino, Some(fh)).expect("there");
    assert_eq!((seen.size, seen.nlink), (50_010, 0));
    vfs.release(fh).expect("closed");
    vfs.forget(attr.ino, 1);
    vfs.cut(Cut::Now).expect("cut");
    assert_eq!(vfs.stats().dirty_bytes, 0);
    assert_eq!(vfs.folder().store().usage(vfs.folder().no()).expect("counted").packs, 0);
}

#[test]
fn file_made_and_removed_between_cuts_leaves_the_log_nearly_empty() {
    let device = Device::new();
    let vfs = device.vfs();
    for round in 0..200 {
        let ino = write_file(vfs, b"lock", &[round; 100]);
        vfs.unlink(ROOT, b"lock").expect("removed");
        vfs.forget(ino, 1);
    }
    write_file(vfs, b"kept", b"x");
    vfs.cut(Cut::Now).expect("cut");
    let head = vfs.folder().store().log_heads(vfs.folder().no()).expect("heads")[0];
    let entry =
        vfs.folder().store().entry(vfs.folder().no(), head.log, head.seq).expect("reads").expect("there");
    let body = vfs.folder().open_entry(&entry).expect("opens");
    assert!(body.groups.len() <= 4, "{} groups", body.groups.len());
    write_file(vfs, b"lock", b"again");
    vfs.cut(Cut::Now).expect("cut");
    let other = device.recovered();
    assert_eq!(bytes_of(other.vfs(), b"lock"), b"again");
    let mtime = |vfs: &Vfs| vfs.getattr(ROOT, None).expect("there").mtime_ns;
    assert_eq!(mtime(other.vfs()), mtime(vfs));
}

#[test]
fn random_overwrites_of_a_large_file_add_only_what_changed() {
    let device = Device::new();
    let vfs = device.vfs();
    let mut dice = Dice::new(9);
    let mut wanted = dice.bytes(40_000_000);
    write_file(vfs, b"disk.img", &wanted);
    vfs.cut(Cut::Now).expect("cut");
    let used = |vfs: &Vfs| vfs.folder().store().usage(vfs.folder().no()).expect("counted").pack_bytes;
    let before = used(vfs);
    let fh = vfs.open_file(resolve(vfs, b"disk.img"), WRITE).expect("opens");
    for _ in 0..40 {
        let at = usize::try_from(dice.below(9_000) * 4096).expect("fits");
        let page = dice.bytes(4096);
        vfs.write(fh, at as u64, &page).expect("written");
        wanted[at..at + 4096].copy_from_slice(&page);
    }
    vfs.cut(Cut::Now).expect("cut");
    let first = used(vfs) - before;
    for _ in 0..40 {
        let at = usize::try_from(dice.below(9_000) * 4096).expect("fits");
        let page = dice.bytes(4096);
        vfs.write(fh, at as u64, &page).expect("written");
        wanted[at..at + 4096].copy_from_slice(&page);
    }
    vfs.release(fh).expect("closed");
    vfs.cut(Cut::Now).expect("cut");
    assert!(first < 12_000_000, "40 pages cost {first} bytes");
    assert!(bytes_of(vfs, b"disk.img") == wanted);
    let other = device.recovered();
    assert!(bytes_of(other.vfs(), b"disk.img") == wanted);
}

/// Saved as rows, as chunks, cut short, published, removed and made again, with a restart after each.
#[test]
fn overwrites_of_all_sorts_survive_restarts_without_goodbye() {
    for seed in 0..3 {
        let mut device = Device::new();
        let mut dice = Dice::new(100 + seed);
        let mut wanted = dice.bytes(6_000_000);
        write_file(device.vfs(), b"disk.img", &wanted);
        for turn in 0..24 {
            let vfs = device.vfs();
            let fh = vfs.open_file(resolve(vfs, b"disk.img"), WRITE).expect("opens");
            let mut write = |at: usize, bytes: &[u8]| {
                vfs.write(fh, at as u64, bytes).expect("written");
                wanted.resize(wanted.len().max(at + bytes.len()), 0);
                wanted[at..at + bytes.len()].copy_from_slice(bytes);
            };
            match dice.below(5) {
                // More than becomes chunks where it lies together.
                0 | 1 => (0..600).for_each(|_| {
                    let at = usize::try_from(dice.below(1_400)).expect("fits") * 4096;
                    write(at, &dice.bytes(3000));
                }),
                2 => write(usize::try_from(dice.below(3_000_000)).expect("fits"), &dice.bytes(2_500_000)),
                3 => {
                    let size = 4_000_000 + dice.below(1_000_000);
                    let change = SetAttr { size: Some(size), fh: Some(fh), ..SetAttr::default() };
                    vfs.setattr(resolve(vfs, b"disk.img"), &change).expect("cut short");
                    wanted.resize(usize::try_from(size).expect("fits"), 0);
                }
                _ => vfs.cut(Cut::Now).expect("cut"),
            }
            vfs.fsync(fh, FsyncKind::Data).expect("synced");
            if turn == 12 {
                vfs.unlink(ROOT, b"disk.img").expect("removed");
                vfs.release(fh).expect("closed");
                wanted = dice.bytes(5_000_000);
                write_file(vfs, b"disk.img", &wanted);
            }
            if dice.below(2) == 0 {
                device.restart();
            }
            assert!(bytes_of(device.vfs(), b"disk.img") == wanted, "seed {seed}, turn {turn}");
        }
    }
}

#[test]
fn sparse_file_takes_no_space_and_shows_its_holes() {
    let device = Device::new();
    let vfs = device.vfs();
    let (attr, fh) = vfs.create(ROOT, b"sparse", BY, WRITE).expect("created");
    let (start, size) = (3 << 40, (3 << 40) + 100_000);
    vfs.write(fh, start, &[1; 100_000]).expect("written");
    for when in ["written", "cut"] {
        let seen = vfs.getattr(attr.ino, None).expect("there");
        assert_eq!(seen.size, size, "{when}");
        assert!(seen.blocks * 512 < 200_000, "{when}: {} blocks", seen.blocks);
        assert_eq!(vfs.lseek(fh, 0, Whence::Data), Ok(start), "{when}");
        assert_eq!(vfs.lseek(fh, 5, Whence::Hole), Ok(5), "{when}");
        assert_eq!(vfs.lseek(fh, start, Whence::Hole), Ok(size), "{when}");
        assert_eq!(vfs.lseek(fh, size, Whence::Data), Err(Errno::ENXIO), "{when}");
        vfs.cut(Cut::Now).expect("cut");
    }
    assert_eq!(vfs.read(fh, start - 2, 4).expect("reads"), [0, 0, 1, 1]);
    vfs.release(fh).expect("closed");
}

#[test]
fn two_devices_see_each_others_changes_and_keep_both_edits() {
    let one = Device::new();
    write_file(one.vfs(), b"text", b"first");
    one.vfs().mkdir(ROOT, b"dir", BY).expect("made");
    one.vfs().cut(Cut::Now).expect("cut");
    let two = one.recovered();
    assert_eq!(bytes_of(two.vfs(), b"text"), b"first");

    let exchange = || {
        one.vfs().cut(Cut::Now).expect("cut");
        two.vfs().cut(Cut::Now).expect("cut");
        deliver(one.vfs().folder(), two.vfs().folder());
        deliver(two.vfs().folder(), one.vfs().folder());
        one.vfs().catch_up().expect("caught up");
        two.vfs().catch_up().expect("caught up");
    };
    let edit = |vfs: &Vfs, bytes: &[u8]| {
        let ino = resolve(vfs, b"text");
        vfs.setattr(ino, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("emptied");
        let fh = vfs.open_file(ino, WRITE).expect("opens");
        vfs.write(fh, 0, bytes).expect("written");
        vfs.release(fh).expect("closed");
    };
    edit(one.vfs(), b"by one");
    exchange();
    assert_eq!(bytes_of(two.vfs(), b"text"), b"by one");

    edit(one.vfs(), b"again by one");
    edit(two.vfs(), b"at the same time by two");
    exchange();
    let names = |vfs: &Vfs| list(vfs, ROOT).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(one.vfs()), names(two.vfs()));
    let conflict =
        names(one.vfs()).into_iter().find(|name| name.starts_with(b"text (conflict")).expect("both stay");
    let mut both = [bytes_of(one.vfs(), b"text"), bytes_of(one.vfs(), &conflict)];
    both.sort();
    assert_eq!(both, [b"again by one".to_vec(), b"at the same time by two".to_vec()]);

    // Writing to the conflict makes it a file of its own, under its name.
    let fh = one.vfs().open_file(resolve(one.vfs(), &conflict), WRITE).expect("opens");
    one.vfs().write(fh, 0, b"SETTLED").expect("written");
    one.vfs().release(fh).expect("closed");
    exchange();
    assert_eq!(names(one.vfs()), names(two.vfs()));
    assert!(bytes_of(two.vfs(), &conflict).starts_with(b"SETTLED"));
}

/// One writes and syncs, the other removes the file before that is cut.
fn edit_here_removed_there(restart: bool) {
    let mut one = Device::new();
    let ino = write_file(one.vfs(), b"text", b"first");
    one.vfs().cut(Cut::Now).expect("cut");
    let two = one.recovered();
    let fh = one.vfs().open_file(ino, WRITE).expect("opens");
    one.vfs().write(fh, 0, b"SECOND").expect("written");
    one.vfs().fsync(fh, FsyncKind::Data).expect("synced");
    two.vfs().unlink(ROOT, b"text").expect("removed");
    two.vfs().cut(Cut::Now).expect("cut");
    deliver(two.vfs().folder(), one.vfs().folder());
    one.vfs().catch_up().expect("caught up");
    assert!(list(one.vfs(), ROOT).is_empty(), "removed for now");
    if restart {
        one.restart();
    } else {
        one.vfs().write(fh, 6, b" more").expect("written");
        one.vfs().fsync(fh, FsyncKind::Data).expect("synced");
        one.vfs().release(fh).expect("closed");
    }
    one.vfs().cut(Cut::Now).expect("cut");
    deliver(one.vfs().folder(), two.vfs().folder());
    two.vfs().catch_up().expect("caught up");
    let wanted: &[u8] = if restart { b"SECOND" } else { b"SECOND more" };
    assert_eq!(bytes_of(one.vfs(), b"text"), wanted);
    assert_eq!(bytes_of(two.vfs(), b"text"), wanted);

    // Removed here while open and dirty, it stays away, also after a restart.
    let fh = one.vfs().open_file(resolve(one.vfs(), b"text"), WRITE).expect("opens");
    one.vfs().write(fh, 0, b"GONE").expect("written");
    one.vfs().fsync(fh, FsyncKind::Data).expect("synced");
    one.vfs().unlink(ROOT, b"text").expect("removed");
    one.vfs().cut(Cut::Now).expect("cut");
    one.restart();
    one.vfs().cut(Cut::Now).expect("cut");
    deliver(one.vfs().folder(), two.vfs().folder());
    two.vfs().catch_up().expect("caught up");
    assert!(list(one.vfs(), ROOT).is_empty() && list(two.vfs(), ROOT).is_empty());
}

#[test]
fn file_synced_here_and_removed_there_survives() {
    edit_here_removed_there(false);
}

#[test]
fn file_synced_here_and_removed_there_survives_a_restart() {
    edit_here_removed_there(true);
}

#[test]
fn file_open_and_clean_shows_what_the_other_device_wrote() {
    let one = Device::new();
    let ino = write_file(one.vfs(), b"f", b"old");
    one.vfs().cut(Cut::Now).expect("cut");
    let two = one.recovered();
    let fh = one.vfs().open_file(ino, READ).expect("opens");
    write_file(two.vfs(), b"f", b"newer");
    two.vfs().cut(Cut::Now).expect("cut");
    deliver(two.vfs().folder(), one.vfs().folder());
    let touched = one.vfs().catch_up().expect("caught up");
    assert!(!touched.is_empty());
    assert_eq!(one.vfs().read(fh, 0, 10).expect("reads"), b"newer");
}

#[test]
fn special_names_and_foreign_attributes_are_refused() {
    let device = Device::new();
    let vfs = device.vfs();
    assert!(vfs.mkdir(ROOT, b".cobox", BY).is_err());
    let magic = vfs.lookup(ROOT, b".cobox").expect("answers");
    assert_eq!(magic.kind, Kind::Dir);
    let status = vfs.lookup(magic.ino, b"status.json").expect("answers");
    assert_eq!(read_all(vfs, status.ino, status.size), b"{}\n");
    assert!(list(vfs, ROOT).is_empty(), "it is not listed");
    let ino = write_file(vfs, b"f", b"x");
    let set = |name: &[u8]| vfs.setxattr(ino, name, b"v", cobox_fs::vfs::XattrSet::Any);
    assert_eq!(set(b"security.capability"), Err(Errno::EOPNOTSUPP));
    assert!(set(b"user.cobox.state").is_err());
    assert_eq!(set(b"user.mine"), Ok(()));
    assert_eq!(vfs.listxattr(ino), Ok(vec![b"user.mine".to_vec()]));
}

/// Prints what the calls cost without a kernel; `COBOX_SOAK=1`, run by name, on a quiet machine.
#[test]
fn measure_calls_without_a_kernel() {
    if std::env::var_os("COBOX_SOAK").is_none() {
        println!("skipped: measure_calls_without_a_kernel is a measurement");
        return;
    }
    let device = Device::new();
    let vfs = device.vfs();
    let timed = |what: &str, work: &mut dyn FnMut() -> f64| {
        let start = std::time::Instant::now();
        let amount = work();
        println!("{what}: {:.1} per second", amount / start.elapsed().as_secs_f64());
    };
    timed("small files made, written, closed", &mut || {
        for number in 0..20_000u32 {
            let ino = write_file(vfs, format!("file{number}").as_bytes(), b"a few bytes");
            vfs.forget(ino, 1);
        }
        20_000.0
    });
    timed("small files cut", &mut || {
        vfs.cut(Cut::Now).expect("cut");
        20_000.0
    });
    let bytes = Dice::new(1).bytes(512 << 20);
    let mut ino = 0;
    timed("MiB written in order", &mut || {
        let _background = vfs.start_background();
        ino = write_file(vfs, b"big", &bytes);
        512.0
    });
    timed("MiB read in order", &mut || {
        let fh = vfs.open_file(ino, READ).expect("opens");
        for at in 0..4096u64 {
            assert_eq!(vfs.read(fh, at << 17, 1 << 17).expect("reads").len(), 1 << 17);
        }
        vfs.release(fh).expect("closed");
        512.0
    });
}

#[test]
fn files_that_damage_is_in_are_named_and_no_others_also_once_it_is_mended() {
    let (device, mut dice) = (Device::new(), Dice::new(5));
    let (vfs, other) = (device.vfs(), device.recovered());
    let dir = vfs.mkdir(ROOT, b"below", BY).expect("made").ino;
    let (mut packs, mut all) = (Vec::new(), BTreeSet::new());
    for (parent, name) in [(ROOT, &b"first"[..]), (dir, b"second"), (ROOT, b"third")] {
        let (_, fh) = vfs.create(parent, name, BY, WRITE).expect("created");
        vfs.write(fh, 0, &dice.bytes(300_000)).expect("written");
        vfs.flush(fh).expect("closed");
        vfs.release(fh).expect("closed");
        vfs.cut(Cut::Now).expect("cut");
        let mut new = Vec::new();
        let folder = vfs.folder();
        let mut visit = |pack: PackRef, _| new.extend(all.insert(pack.id).then_some(pack.id));
        folder.store().packs_live(folder.no(), &mut visit).expect("lists");
        packs.push(new);
    }
    deliver_without(vfs.folder(), other.vfs().folder(), &packs[1]);
    other.vfs().catch_up().expect("catches up");
    let named = |vfs: &Vfs, of: &[PackId], slices: &[u64]| {
        let mut paths = Vec::new();
        let mut visit = |path: &[u8], harm: Harm| {
            paths.push((String::from_utf8_lossy(path).into_owned(), harm));
            ControlFlow::Continue(())
        };
        let hurt: HurtSlices = of.iter().map(|pack| (*pack, slices.to_vec())).collect();
        vfs.files_hurt(&hurt, &mut visit).expect("walks");
        paths.sort();
        paths
    };
    let all: Vec<PackId> = all.into_iter().collect();
    let second = |harm| vec![("below/second".to_owned(), harm)];
    // No file needs what lies past the end of its pack.
    assert!(named(vfs, &all, &[1 << 20]).is_empty(), "all is on the device that wrote it");
    assert_eq!(named(other.vfs(), &all, &[1 << 20]), second(Harm::Damaged));
    assert_eq!(named(other.vfs(), &packs[1], &[1]), second(Harm::Damaged));
    assert_eq!(named(other.vfs(), &packs[0], &[1]), [("first".to_owned(), Harm::Mended)]);
    // Once it is here again: it was damaged, and is not any more.
    let (from, to) = (vfs.folder(), other.vfs().folder());
    for id in &packs[1] {
        let outboard = from.store().outboard(from.no(), *id).expect("reads").expect("there");
        let len = usize::try_from(outboard.pack().size).expect("fits");
        let bytes = from.store().pack_range(from.no(), *id, 0, len).expect("reads").expect("there");
        to.store().pack_put(to.no(), outboard.pack(), &outboard, &bytes).expect("stored");
    }
    assert_eq!(named(other.vfs(), &packs[1], &[1]), second(Harm::Mended));
    assert!(named(other.vfs(), &packs[1], &[1 << 20]).is_empty());
}

fn bytes_below(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("reads").map(|entry| entry.expect("reads"));
    entries
        .filter(|entry| entry.file_name() != "reserve")
        .map(|entry| match entry.metadata().expect("reads") {
            meta if meta.is_dir() => bytes_below(&entry.path()),
            meta => meta.len(),
        })
        .sum()
}

/// What is written small waits in the journal until it is sealed; then that room comes back.
#[test]
fn small_files_take_their_room_once() {
    const FILES: u64 = 4000;
    const BYTES: u64 = 16 * 1024;
    let mut device = Device::new();
    let noise = Dice::new(5).bytes(usize::try_from(FILES + BYTES).expect("fits"));
    for nth in 0..FILES {
        let at = usize::try_from(nth).expect("fits");
        let mut bytes = noise[at..at + usize::try_from(BYTES).expect("fits")].to_vec();
        bytes[..8].copy_from_slice(&nth.to_le_bytes());
        // Every page is another one, so that nothing is found twice.
        bytes.iter_mut().zip(Dice::new(nth).bytes(BYTES as usize)).for_each(|(byte, more)| *byte ^= more);
        write_file(device.vfs(), format!("{nth}").as_bytes(), &bytes);
        if nth % 1000 == 999 {
            device.vfs().cut(Cut::Now).expect("cut");
        }
    }
    device.vfs().shutdown().expect("everything is sealed");
    device.stop();
    let (taken, written) = (bytes_below(device.dir.path()), FILES * BYTES);
    assert!(taken < written + written / 5, "{taken} bytes for {written}");
    device.restart();
    assert_eq!(list(device.vfs(), ROOT).len() as u64, FILES);
}

/// Milliseconds since 1970, later ones than at the call before.
fn next_ms() -> i64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let begin = now();
    while now() == begin {
        std::thread::yield_now();
    }
    i64::try_from(now()).expect("fits")
}

#[test]
fn file_that_becomes_an_entry_after_its_close_shows_no_other_change() {
    let mut device = Device::new();
    let ino = write_file(device.vfs(), b"f", b"written");
    // After a restart it has to be asked for by its name.
    let shown = |device: &Device| device.vfs().lookup(ROOT, b"f").expect("there");
    let closed = shown(&device);
    next_ms();
    device.vfs().cut(Cut::Now).expect("cut");
    assert_eq!(shown(&device), closed);
    // Written again, given a time of its own and other permissions, all of it before the next cut.
    let fh = device.vfs().open_file(ino, WRITE).expect("opens");
    let begin_ms = next_ms();
    device.vfs().write(fh, 0, b"again").expect("written");
    let written = shown(&device);
    assert!(written.ctime_ns >= begin_ms * 1_000_000, "{written:?}");
    device.vfs().flush(fh).expect("closes");
    device.vfs().release(fh).expect("closes");
    for change in [
        SetAttr { mtime_ns: Some(5), ..SetAttr::default() },
        SetAttr { mtime_ns: Some(i64::MAX / 2), ..SetAttr::default() },
        SetAttr { mode: Some(0o600), ..SetAttr::default() },
    ] {
        let begin_ms = next_ms();
        let changed = device.vfs().setattr(ino, &change).expect("changed");
        let end_ns = (next_ms() + 1) * 1_000_000;
        assert!((begin_ms * 1_000_000..end_ns).contains(&changed.ctime_ns), "{change:?}: {changed:?}");
    }
    // Cut to the length that it has, which changes its times alone.
    let same = SetAttr { size: Some(closed.size), ..SetAttr::default() };
    device.vfs().setattr(ino, &same).expect("changed");
    let closed = shown(&device);
    device.restart();
    assert_eq!(shown(&device), closed);
    next_ms();
    device.vfs().cut(Cut::Now).expect("cut");
    assert_eq!(shown(&device), closed);
    device.restart();
    assert_eq!(shown(&device), closed);
}
