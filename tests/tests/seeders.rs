//! Seeders among themselves, as real programs: with no member online they complete one another, and what a
//! disk changed beneath one of them is mended by another.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cobox_store::blind::{Freed, Store, StoreKind};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Said, Seeder, can_mount, until};

fn json(said: &Said) -> serde_json::Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// A number that a seeder's status says of its only folder; `None` while it holds none, or has just started.
fn number(seeder: &Seeder, name: &str) -> Option<u64> {
    let said = seeder.run(&["status", "--json"]);
    if said.code == 0 { json(&said)["folders"][0][name].as_u64() } else { None }
}

/// A mounted device with the folder "docs"; its words are in `words`.
fn device(dir: &Path) -> Device {
    let mut device = Device::new(dir, "device");
    let words = dir.join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "laptop", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    device
}

/// `count` files of `len` bytes that no compression shortens.
fn write_files(dir: &Path, seed: u64, count: usize, len: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|at| {
            let bytes = rng.bytes(len);
            let name = PathBuf::from(format!("file-{len}-{at}"));
            fs::write(dir.join(&name), &bytes).expect("writes");
            (name, bytes)
        })
        .collect()
}

#[test]
fn seeders_that_were_off_get_everything_from_one_another_and_a_member_recovers_from_the_last() {
    if !can_mount("seeders_that_were_off_get_everything_from_one_another_and_a_member_recovers_from_the_last")
    {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device(dir.path());
    let mut seeders = ["a", "b", "c"].map(|name| Seeder::new(dir.path(), name));
    seeders.iter_mut().for_each(Seeder::start);
    let addresses = seeders.each_ref().map(Seeder::address);
    let [a, b, c] = &mut seeders;
    // Two of them are off when they are granted, and as long as a member is there.
    b.kill();
    c.kill();
    let add = |address: &str| device.ctl(&["seeder", "add", "docs", address, "--quota", "1G"]);
    add(&addresses[0]).ok();
    // It waits a while for each, and then says that it was not reached.
    std::thread::scope(|scope| {
        for address in &addresses[1..] {
            scope.spawn(|| assert_eq!(add(address).code, 3));
        }
    });
    let mut files = write_files(&device.mount, 1, 3, 3 << 20);
    files.extend(write_files(&device.mount, 2, 20, 5_000));
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    device.stop();
    b.start();
    let whole = |seeder: &Seeder, like: &Seeder| {
        let packs = number(like, "packs");
        packs.is_some_and(|packs| packs > 0)
            && number(seeder, "packs") == packs
            && number(seeder, "packs_missing") == Some(0)
            && number(seeder, "entry_bytes") == number(like, "entry_bytes")
    };
    until("the second seeder has everything from the first", || whole(b, a));
    c.start();
    until("the third seeder has everything", || whole(c, a));
    a.kill();
    b.kill();
    // The member comes back and finds only the third, which it has never met: it proves all of it, and is told
    // where to look for what the words open.
    device.start();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    device.stop();
    let mut other = Device::new(dir.path(), "other");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    let recover =
        ["recover", "--words-file", words, "--seeder", &addresses[2], "--label", "new", "--no-passphrase"];
    let said = other.ctl(&recover);
    // The verb started a daemon, which is ended before anything can fail.
    other.ctl(&["daemon", "stop"]);
    said.ok();
    other.start();
    other.mount("docs");
    for (name, bytes) in &files {
        assert!(fs::read(other.mount.join(name)).is_ok_and(|found| found == *bytes), "{}", name.display());
    }
    other.stop();
}

/// The largest files of a seeder's database: packs, which lie in a file each.
fn largest(data: &Path, count: usize) -> Vec<PathBuf> {
    let mut files: Vec<(u64, PathBuf)> = fs::read_dir(data.join("db"))
        .expect("lists")
        .map(|file| file.expect("lists"))
        .filter(|file| file.path().extension().is_some_and(|ext| ext == "sst"))
        .map(|file| (file.metadata().expect("is there").len(), file.path()))
        .collect();
    files.sort();
    files.into_iter().rev().take(count).map(|(_, path)| path).collect()
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let middle = file.metadata().expect("is there").len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).and_then(|_| file.read_exact(&mut byte)).expect("reads");
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(middle)).and_then(|_| file.write_all(&byte)).expect("writes");
    file.sync_all().expect("syncs");
}

#[test]
fn bits_flipped_on_a_seeders_disk_are_found_and_mended_by_its_twin() {
    if !can_mount("bits_flipped_on_a_seeders_disk_are_found_and_mended_by_its_twin") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device(dir.path());
    let mut seeders = ["a", "b"].map(|name| Seeder::new(dir.path(), name));
    let [a, b] = &mut seeders;
    a.options = vec!["--scrub-every", "1s", "--scrub-rate", "1024"];
    for seeder in [&mut *a, &mut *b] {
        seeder.start();
        device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    }
    let files = write_files(&device.mount, 3, 1, 20 << 20);
    device.ctl(&["wait", "docs", "--copies", "2", "--timeout", "60s"]).ok();
    device.stop();
    a.kill();
    largest(&a.data, 2).iter().for_each(|path| flip(path));
    a.start();
    until("the damage is found and mended", || {
        number(a, "packs_damaged") == Some(2)
            && number(a, "packs_unmended") == Some(0)
            && number(a, "packs_missing") == Some(0)
    });
    let status = a.run(&["status"]).ok();
    assert!(status.out.contains("damage was found in 2 packs, all of them mended"), "{}", status.out);
    let log = fs::read_to_string(a.data.with_extension("log")).expect("reads");
    assert!(log.contains("a pack is damaged on the disk"), "{log}");
    // Alone, it proves and serves all of it.
    b.kill();
    let said = a.run(&["scrub", "--json"]).ok();
    assert_eq!(json(&said)["damaged"].as_array().map(Vec::len), Some(0), "{said:?}");
    device.start();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let mut other = Device::new(dir.path(), "other");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    let address = a.address();
    let recover =
        ["recover", "--words-file", words, "--seeder", &address, "--label", "new", "--no-passphrase"];
    device.stop();
    let said = other.ctl(&recover);
    // The verb started a daemon, which is ended before anything can fail.
    other.ctl(&["daemon", "stop"]);
    said.ok();
    other.start();
    other.mount("docs");
    for (name, bytes) in &files {
        assert!(fs::read(other.mount.join(name)).is_ok_and(|found| found == *bytes), "{}", name.display());
    }
    other.stop();
}

/// Bytes of a database's tables below `dir`.
fn tables(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for file in fs::read_dir(dir).into_iter().flatten().flatten() {
            match file.metadata() {
                Ok(about) if about.is_dir() => left.push(file.path()),
                Ok(about) if file.path().extension().is_some_and(|ext| ext == "sst") => bytes += about.len(),
                _ => {}
            }
        }
    }
    bytes
}

#[test]
fn pruned_folder_gives_its_space_back_here_at_once_and_stays_whole_at_the_seeder() {
    if !can_mount("pruned_folder_gives_its_space_back_here_at_once_and_stays_whole_at_the_seeder") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    let gone = write_files(&device.mount, 5, 1, 24 << 20);
    let kept = write_files(&device.mount, 6, 3, 300_000);
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    fs::remove_file(device.mount.join(&gone[0].0)).expect("removes");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let before = tables(&device.home);
    let looked = json(&device.ctl(&["prune", "docs", "--dry-run", "--json"]).ok());
    assert_eq!(looked["state"], "looked", "{looked}");
    let dead = looked["dead_bytes"].as_u64().expect("a number");
    assert!(dead >= 16 << 20, "{looked}");
    assert_eq!(number(&seeder, "held_bytes"), Some(0));
    let pruned = json(&device.ctl(&["prune", "docs", "--json"]).ok());
    assert_eq!((&pruned["state"], pruned["released_bytes"].as_u64()), (&"released".into(), Some(dead)));
    until("the space is back on the device", || tables(&device.home) + dead <= before + (1 << 20));
    until("the seeder keeps what was released", || number(&seeder, "held_bytes") == Some(dead));
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    assert_eq!(json(&device.ctl(&["prune", "docs", "--json"]).ok())["state"], "nothing");
    for (name, bytes) in &kept {
        assert!(fs::read(device.mount.join(name)).is_ok_and(|found| found == *bytes), "{}", name.display());
    }
    // The same bytes written again are stored again: this device has let go of them.
    fs::write(device.mount.join("again"), &gone[0].1).expect("writes");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    assert!(fs::read(device.mount.join("again")).is_ok_and(|found| found == gone[0].1));
}

/// Files in a pack each: the next is written when the seeder has the one before.
fn write_packs(device: &Device, seeder: &Seeder, seed: u64, count: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let packs = || number(seeder, "packs").filter(|_| number(seeder, "packs_missing") == Some(0));
    let (mut rng, mut files, before) = (Rng::new(seed), Vec::new(), packs().expect("it holds the folder"));
    for at in 0..count {
        let (name, bytes) = (PathBuf::from(format!("small-{seed}-{at}")), rng.bytes(60_000));
        fs::write(device.mount.join(&name), &bytes).expect("writes");
        files.push((name, bytes));
        until("the seeder has one pack more", || packs() == Some(before + files.len() as u64));
    }
    files
}

/// The time passes for which a seeder keeps what was released, by its own clock: it counts ten minutes at the most of
/// what it is told.
fn keep_for_30_days(seeder: &Seeder) -> Freed {
    let store = Store::open(&seeder.data, StoreKind::Seeder).expect("opens");
    let mut freed = Freed::default();
    for _ in 0..30 * 24 * 6 {
        let step = store.retention_advance(u64::MAX).expect("goes on");
        freed.packs += step.packs;
        freed.bytes += step.bytes;
    }
    freed
}

/// Another machine with the words and this seeder alone reads all of this.
fn recovered_reads(dir: &Path, seeder: &Seeder, files: &[(PathBuf, Vec<u8>)]) {
    let mut other = Device::new(dir, "other");
    let (words, address) = (dir.join("words"), seeder.address());
    let words = words.to_str().expect("a temporary path is text");
    let recover =
        ["recover", "--words-file", words, "--seeder", &address, "--label", "new", "--no-passphrase"];
    let said = other.ctl(&recover);
    // The verb started a daemon, which is ended before anything can fail.
    other.ctl(&["daemon", "stop"]);
    said.ok();
    other.start();
    other.mount("docs");
    for (name, bytes) in files {
        assert!(fs::read(other.mount.join(name)).is_ok_and(|found| found == *bytes), "{}", name.display());
    }
    assert_eq!(other.ctl(&["check", "docs"]).code, 0);
    other.stop();
}

#[test]
fn pruned_packs_are_merged_and_after_30_days_the_seeder_has_the_new_ones_alone_which_give_all_back() {
    let test =
        "pruned_packs_are_merged_and_after_30_days_the_seeder_has_the_new_ones_alone_which_give_all_back";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    let prune = |more: &[&str]| json(&device.ctl(&[&["prune", "docs", "--json"], more].concat()).ok());
    // Packs that are mostly dead: of twelve files two stay.
    let mut large = write_files(&device.mount, 7, 12, 1 << 20);
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let mut files = write_packs(&device, &seeder, 8, 20);
    for (name, _) in large.drain(1..11) {
        fs::remove_file(device.mount.join(name)).expect("removes");
    }
    files.append(&mut large);
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let (packs, on_disk) = (number(&seeder, "packs").expect("a number"), tables(&seeder.data));
    let of = |report: &serde_json::Value, name: &str| report[name].as_u64().expect("a number");
    let looked = prune(&["--dry-run"]);
    assert_eq!((&looked["state"], number(&seeder, "packs")), (&"looked".into(), Some(packs)), "{looked}");
    let (rewrite, copied) = (of(&looked, "rewrite_packs"), of(&looked, "copied_bytes"));
    assert!(rewrite >= 20 && (20 * 60_000..5 << 20).contains(&copied), "{looked}");
    assert!(
        of(&looked, "dead_packs") + rewrite == packs && of(&looked, "comes_back_bytes") >= 6 << 20,
        "{looked}"
    );
    let pruned = prune(&[]);
    let merged = of(&pruned, "merged_packs");
    assert_eq!((&pruned["state"], of(&pruned, "released_packs")), (&"released".into(), packs), "{pruned}");
    assert!(merged >= 1 && of(&pruned, "merged_bytes") < copied + (copied >> 3), "{pruned}");
    let released = of(&pruned, "released_bytes");
    until("the seeder keeps what was released", || number(&seeder, "held_bytes") == Some(released));
    assert_eq!(number(&seeder, "packs"), Some(merged));
    let again = prune(&[]);
    assert_eq!((&again["state"], of(&again, "merged_packs")), (&"nothing".into(), 0), "{again}");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    device.stop();
    seeder.kill();
    let freed = keep_for_30_days(&seeder);
    assert_eq!((freed.packs, freed.bytes), (packs, released));
    let after = tables(&seeder.data);
    assert!(after + (6 << 20) < on_disk, "{on_disk} bytes on the disk, {after} after");
    seeder.start();
    assert_eq!((number(&seeder, "packs"), number(&seeder, "held_bytes")), (Some(merged), Some(0)));
    recovered_reads(dir.path(), &seeder, &files);
}

#[test]
fn daemon_that_is_killed_while_it_prunes_loses_nothing_and_the_next_prune_goes_on() {
    if !can_mount("daemon_that_is_killed_while_it_prunes_loses_nothing_and_the_next_prune_goes_on") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    let mut files = write_files(&device.mount, 9, 3, 400_000);
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    files.extend(write_packs(&device, &seeder, 10, 18));
    // What holds is the same wherever it is cut off; where that is differs from run to run.
    for wait_ms in [2, 10, 40, 120, 400] {
        let mut prune = device.command(&["prune", "docs"]);
        let mut prune = prune.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::park_timeout(Duration::from_millis(wait_ms));
        device.kill();
        prune.wait().expect("ends");
        device.start();
        device.await_mount();
        for (name, bytes) in &files {
            assert!(fs::read(device.mount.join(name)).is_ok_and(|found| found == *bytes), "{wait_ms} ms");
        }
    }
    let mut left = None;
    until("nothing is left to be merged or released", || {
        let said = device.ctl(&["prune", "docs", "--json"]);
        let report = json(&said);
        let done = said.code == 0 && report["state"] == "nothing";
        left = Some(report);
        done
    });
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let report = left.expect("it said something");
    assert!(report["packs"].as_u64().is_some_and(|packs| packs < 16), "{report}");
    device.stop();
    seeder.kill();
    assert!(keep_for_30_days(&seeder).packs >= 18);
    seeder.start();
    recovered_reads(dir.path(), &seeder, &files);
}
