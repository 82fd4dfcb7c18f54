//! `kill -9` of the daemon at random moments under a mixed load on a real mount.
//!
//! Every byte that `fsync` acknowledged is there afterwards, `cobox-ctl check` finds nothing, and no
//! two entries ever share a sequence number. `COBOX_SOAK=N` multiplies the rounds; 20 make 200.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cobox_store::blind::{Store, StoreKind};
use cobox_store::id::{EntryHash, LogId};
use cobox_tests::load::{Rng, Worker};
use cobox_tests::process::{Device, Seeder, can_mount};

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

/// Reads every entry's number and hash from the closed store and compares with what was there before.
fn note_entries(device: &Device, entries: &mut BTreeMap<(LogId, u64), EntryHash>) {
    let store = Store::open(&device.home.join("store/data"), StoreKind::Device)
        .expect("the store opens after a kill");
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
