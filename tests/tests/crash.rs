//! `kill -9` of the daemon at random moments under a mixed load on a real mount.
//!
//! Every byte that `fsync` acknowledged is there afterwards, `cobox-ctl check` finds nothing, and no
//! two entries ever share a sequence number. `COBOX_SOAK=N` multiplies the rounds; 20 make 200.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cobox_store::id::{EntryHash, LogId};
use cobox_store::keyed::{Home, Unlock};
use cobox_tests::load::{Rng, Worker};
use cobox_tests::process::{Device, Seeder, can_mount, until};

const ROUNDS: u64 = 10;
const WORKERS: u64 = 3;

#[test]
fn kill_under_load_keeps_every_acknowledged_byte() {
    if !can_mount("kill_under_load_keeps_every_acknowledged_byte") {
        return;
    }
    let seed: u64 = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    let soak: u64 = std::env::var("COBOX_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("seed {seed}, {} rounds", ROUNDS * soak);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "crash", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "20G"]).ok();
    device.mount("docs");

    let mut rng = Rng::new(seed);
    let mut workers: Vec<Worker> =
        (0..WORKERS).map(|at| Worker::new(&device.mount, &format!("worker-{at}"), seed + at)).collect();
    let mut entries = BTreeMap::new();
    for round in 0..ROUNDS * soak {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in &mut workers {
                let stop = &stop;
                scope.spawn(move || worker.run(stop));
            }
            // The moment is what is random here; nothing waits for it to be enough.
            std::thread::park_timeout(Duration::from_millis(100 + rng.below(1500)));
            device.kill();
            stop.store(true, Ordering::Relaxed);
        });
        note_entries(&device, &mut entries);
        device.start();
        device.await_mount();
        for worker in &mut workers {
            if let Err(broken) = worker.check() {
                panic!("round {round} of seed {seed}: {broken}");
            }
        }
    }
    let check = device.ctl(&["check", "docs"]);
    assert_eq!(check.code, 0, "{check:?}");
    device.stop();
    note_entries(&device, &mut entries);
    let acknowledged: u64 = workers.iter().map(|worker| worker.acknowledged).sum();
    assert!(acknowledged > 0, "no fsync was acknowledged in any round");
    println!("{acknowledged} acknowledged fsyncs, {} entries, one hash for each number", entries.len());
}

/// Reads every entry of the closed store, whole, and compares its number and hash with what was there before.
fn note_entries(device: &Device, entries: &mut BTreeMap<(LogId, u64), EntryHash>) {
    let unlock = Unlock::KeyFile(device.home.join("key"));
    let home = Home::open(&device.home.join("store"), unlock).expect("the store opens after a kill");
    let store = home.store();
    for (no, _) in store.folders().expect("folders") {
        for head in store.log_heads(no).expect("heads") {
            for seq in 1..=head.seq {
                let entry = store.entry(no, head.log, seq).expect("reads").expect("the chain has no gap");
                let hash = entry.header().hash();
                let before = entries.insert((head.log, seq), hash);
                assert!(before.is_none_or(|before| before == hash), "two entries share the number {seq}");
            }
        }
    }
}

/// Ends the daemon that a verb started by itself.
struct Autostarted<'a>(&'a Device);

impl Drop for Autostarted<'_> {
    fn drop(&mut self) {
        drop(self.0.ctl(&["daemon", "stop", "--force"]));
    }
}

/// Copies a folder with everything in it.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("makes a folder");
    for entry in fs::read_dir(from).expect("lists").map(|entry| entry.expect("lists")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[test]
fn device_whose_disk_is_set_back_gets_everything_back_and_goes_on() {
    if !can_mount("device_whose_disk_is_set_back_gets_everything_back_and_goes_on") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "back", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.mount("docs");
    let wait = ["wait", "docs", "--copies", "1", "--timeout", "60s"];
    let file = |device: &Device, name: &str| device.mount.join(name);
    fs::write(file(&device, "before"), b"in the copy").expect("writes");
    device.ctl(&wait).ok();
    device.stop();
    let (data, copy) = (device.home.join("store/data"), dir.path().join("copy"));
    copy_dir(&data, &copy);
    device.start();
    device.await_mount();
    let forgotten = Rng::new(1).bytes(700_000);
    fs::write(file(&device, "forgotten"), &forgotten).expect("writes");
    fs::rename(file(&device, "before"), file(&device, "renamed")).expect("renames");
    device.ctl(&wait).ok();
    device.stop();

    fs::remove_dir_all(&data).expect("removes");
    copy_dir(&copy, &data);
    device.start();
    device.await_mount();
    fs::write(file(&device, "after"), b"written on").expect("writes");
    until("what the copy had forgotten is back", || file(&device, "forgotten").exists());
    assert!(fs::read(file(&device, "forgotten")).expect("reads") == forgotten);
    assert_eq!(fs::read(file(&device, "renamed")).expect("reads"), b"in the copy");
    device.ctl(&wait).ok();
    let status = device.ctl(&["status"]).ok();
    assert!(!status.out.contains("WRONG"), "{status:?}");
    device.stop();

    // With the words in the same home: there is nothing to do, and nothing is harmed.
    let _stop_device = Autostarted(&device);
    let address = seeder.address();
    let again =
        ["recover", "--words-file", words, "--seeder", &address, "--label", "back", "--no-passphrase"];
    device.ctl(&again).ok();
    until("the mount is there", || file(&device, "after").exists());
    assert!(fs::read(file(&device, "forgotten")).expect("reads") == forgotten);

    // And from nothing: both logs are one folder.
    let second = Device::new(dir.path(), "second");
    let _stop_second = Autostarted(&second);
    second.ctl(&again).ok();
    second.mount("docs");
    for (name, bytes) in
        [("renamed", &b"in the copy"[..]), ("after", b"written on"), ("forgotten", &forgotten)]
    {
        assert!(fs::read(file(&second, name)).expect("reads") == bytes, "{name}");
    }
}

#[test]
fn recovery_from_two_seeders_takes_what_either_knows() {
    if !can_mount("recovery_from_two_seeders_takes_what_either_knows") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut ahead, mut behind) = (Seeder::new(dir.path(), "ahead"), Seeder::new(dir.path(), "behind"));
    ahead.start();
    behind.start();
    let (ahead_at, behind_at) = (ahead.address(), behind.address());
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "two", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    for address in [&ahead_at, &behind_at] {
        device.ctl(&["seeder", "add", "docs", address, "--quota", "1G"]).ok();
    }
    device.mount("docs");
    fs::write(device.mount.join("both"), b"at both").expect("writes");
    device.ctl(&["wait", "docs", "--copies", "2", "--timeout", "60s"]).ok();
    behind.kill();
    fs::write(device.mount.join("one"), b"at one only").expect("writes");
    device.ctl(&["seeder", "add", "docs", &ahead_at, "--quota", "2G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    device.stop();
    behind.start();

    let second = Device::new(dir.path(), "second");
    let _stop = Autostarted(&second);
    let mut recover = vec!["recover", "--words-file", words, "--label", "second", "--no-passphrase"];
    recover.extend(["--seeder", &behind_at, "--seeder", &ahead_at]);
    let said = second.ctl(&recover).ok();
    println!("{}{}", said.out, said.err);
    assert!(!said.out.contains("unverified"), "two seeders were asked: {said:?}");
    second.mount("docs");
    assert_eq!(fs::read(second.mount.join("one")).expect("reads"), b"at one only");
    assert_eq!(fs::read(second.mount.join("both")).expect("reads"), b"at both");
}
