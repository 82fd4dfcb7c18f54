//! What one audit finds, counted: 1 % loss, hashes without bytes, an honest store, and what it costs.
//!
//! The full counts (1,000 audits of a loss, 10,000 of an honest store) take `COBOX_SOAK`.
//! What is asked, answered and verified is what an audit over the network is made of.

mod folder;

use std::ops::ControlFlow;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cobox_store::blind::{Batch, Durability, Table, key};
use cobox_store::format::Writer;
use cobox_store::format::entry::UnverifiedEntry;
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Challenge, LeafProof, Outboard};
use cobox_store::id::hash;

use folder::{Dice, Folder};

fn soak() -> bool {
    std::env::var_os("COBOX_SOAK").is_some()
}

fn entropy(round: u64) -> [u8; 32] {
    hash(&[&b"audit"[..], &round.to_le_bytes()].concat())
}

/// Whether every leaf that was asked for is proved, as whoever holds the list of packs sees it.
fn is_whole(challenge: &Challenge, proofs: &[Option<LeafProof>]) -> bool {
    let holds = |(sample, proof): (&cobox_store::format::proof::Sample, &Option<LeafProof>)| {
        proof.as_ref().is_some_and(|proof| proof.proves(sample.pack, sample.leaf))
    };
    proofs.len() == challenge.samples.len() && challenge.samples.iter().zip(proofs).all(holds)
}

#[test]
fn loss_of_one_percent_is_found_in_one_audit_with_98_percent() {
    const PACKS: usize = 1_000;
    const AUDITS_OF_A_LOSS: u64 = 10;
    let audits = if soak() { 1_000 } else { 100 };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::open(&dir.path().join("store"));
    let mut dice = Dice::new(5, 0);
    let bytes: Vec<Vec<u8>> = (0..PACKS).map(|_| dice.bytes(4096)).collect();
    let packs: Vec<PackRef> = bytes.chunks(50).flat_map(|part| folder.add(part)).collect();
    let mut found = 0;
    for round in 0..audits {
        if round % AUDITS_OF_A_LOSS == 0 {
            // What was lost before is brought back, and other packs are lost: one of each hundred, anywhere in it.
            folder.store.packs_put(folder.no, &whole(&bytes)).expect("stored");
            for part in packs.chunks(100) {
                let at = usize::try_from(dice.below(part.len() as u64)).expect("small");
                lose(&folder, part[at]);
            }
        }
        let challenge = Challenge::draw(&packs, &[], &entropy(round));
        let proofs = folder.store.answer(folder.no, &challenge).expect("reads");
        found += u64::from(!is_whole(&challenge, &proofs));
    }
    println!("{found} of {audits} audits found a loss of 1 %");
    assert!(found * 100 >= audits * 98, "{found} of {audits}");
    folder.store.packs_put(folder.no, &whole(&bytes)).expect("stored");
    let challenge = Challenge::draw(&packs, &[], &entropy(0));
    assert!(is_whole(&challenge, &folder.store.answer(folder.no, &challenge).expect("reads")), "all is back");
}

fn whole(packs: &[Vec<u8>]) -> Vec<(Outboard, Vec<u8>)> {
    packs.iter().map(|bytes| (Outboard::of(bytes), bytes.clone())).collect()
}

/// The disk loses a pack: its rows are gone, and the entry that lists it is not.
fn lose(folder: &Folder, pack: PackRef) {
    let mut batch = Batch::default();
    for table in [Table::PackInfo, Table::Outboard] {
        batch.delete(&key(folder.no, table, &pack.id.0));
    }
    folder.store.db().commit(batch, Durability::Unsynced).expect("writes");
}

#[test]
fn audit_costs_less_than_a_megabyte() {
    let mut dice = Dice::new(3, 0);
    let bytes = dice.bytes(8 << 20);
    let outboard = Outboard::of(&bytes);
    let packs = vec![outboard.pack(); 1000];
    let challenge = Challenge::draw(&packs, &[], &entropy(1));
    let mut writer = Writer::new();
    challenge.encode(&mut writer);
    for sample in &challenge.samples {
        let slice = usize::try_from(sample.leaf / 64).expect("small") << 16;
        let proof = outboard.prove_leaf(sample.leaf, &bytes[slice..slice + (64 << 10)]).expect("it is there");
        assert!(proof.proves(sample.pack, sample.leaf));
        proof.encode(&mut writer);
    }
    let cost = writer.into_bytes().len();
    println!("an audit of 8 MiB packs is {cost} bytes");
    assert!(cost < 1_000_000, "{cost} bytes");
}

#[test]
fn honest_store_raises_no_alarm_also_while_it_is_scrubbed() {
    let audits = if soak() { 10_000 } else { 100 };
    let (_dir, folder) = store(7);
    let packs = live(&folder);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let scrubbed = folder.store.check_packs(folder.no, &mut |_, _| ControlFlow::Continue(()));
                assert!(scrubbed.expect("reads").damaged.is_empty());
            }
        });
        for round in 0..audits {
            let heads = folder.store.log_heads(folder.no).expect("heads");
            let mut challenge = Challenge::draw(&packs, &heads, &entropy(round));
            let proofs = folder.store.answer(folder.no, &challenge).expect("reads");
            let entries = folder.store.challenge_entries(folder.no, &mut challenge).expect("reads");
            let answer = folder.store.answer_entries(folder.no, &challenge).expect("reads");
            if !is_whole(&challenge, &proofs) || entries != answer {
                ended.store(true, Ordering::SeqCst);
                panic!("a false alarm in audit {round}");
            }
        }
        ended.store(true, Ordering::SeqCst);
    });
}

#[test]
fn honest_store_raises_no_alarm_while_packs_are_released_merged_and_freed_and_it_is_scrubbed() {
    let audits = if soak() { 10_000 } else { 150 };
    let (_dir, folder) = store(9);
    // Audits take no 30 days: of what was live when one began nothing is freed before it has ended.
    let (gate, ended, cycles) = (RwLock::new(()), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _end = ends(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let scrubbed = folder.store.check_packs(folder.no, &mut |_, _| ControlFlow::Continue(()));
                assert!(scrubbed.expect("reads").damaged.is_empty());
            }
        });
        scope.spawn(|| {
            let mut dice = Dice::new(9, 1);
            let mut before: Vec<PackRef> = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                // Small packs come, are written again as a large one, and go: so do those of the last turn.
                let small = folder.add(&[dice.bytes(4096), dice.bytes(20_480), dice.bytes(64 << 10)]);
                let merged = folder.add(&[dice.bytes(256 << 10)]);
                folder.release(&[&small[..], &before].concat());
                drop(gate.write().expect("no audit panicked"));
                let mut freed = 0;
                for _ in 0..30 * 24 * 6 + 1 {
                    freed += folder.store.retention_advance(u64::MAX).expect("goes on").packs;
                }
                assert_eq!(freed, (small.len() + before.len()) as u64);
                before = merged;
                cycles.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut round = 0;
        while round < audits || cycles.load(Ordering::SeqCst) < 3 {
            let turn = gate.read().expect("nobody panicked with it");
            let heads = folder.store.log_heads(folder.no).expect("heads");
            let mut challenge = Challenge::draw(&live(&folder), &heads, &entropy(round));
            let entries = folder.store.challenge_entries(folder.no, &mut challenge).expect("reads");
            let proofs = folder.store.answer(folder.no, &challenge).expect("reads");
            let answer = folder.store.answer_entries(folder.no, &challenge).expect("reads");
            drop(turn);
            assert!(is_whole(&challenge, &proofs) && entries == answer, "a false alarm in audit {round}");
            round += 1;
        }
        println!("{round} audits beside {} releases", cycles.load(Ordering::SeqCst));
    });
}

/// Ends the other threads also where this one panics.
fn ends(ended: &AtomicBool) -> impl Drop {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    End(ended)
}

#[test]
fn seeder_that_kept_only_hashes_is_caught_in_the_first_audit() {
    let (dir, honest) = store(8);
    let packs = live(&honest);
    // The other one has every entry, and so every pack's id and size, and none of the packs.
    let hashes = Folder::open(&dir.path().join("hashes"));
    for seq in 1..=honest.store.log_head(honest.no, honest.log()).expect("reads").expect("it wrote").seq {
        let bytes =
            honest.store.entry_bytes(honest.no, honest.log(), seq).expect("reads").expect("it is there");
        let entry = UnverifiedEntry::decode(&bytes).expect("decodes").verify().expect("verifies");
        hashes.store.entry_add(hashes.no, &entry).expect("taken");
    }
    assert_eq!(live(&hashes), packs);
    for round in 0..50 {
        let challenge = Challenge::draw(&packs, &[], &entropy(round));
        let proofs = hashes.store.answer(hashes.no, &challenge).expect("reads");
        assert!(proofs.iter().all(Option::is_none), "bytes out of nothing");
        assert!(!is_whole(&challenge, &proofs), "audit {round} did not notice");
    }
}

/// A store with packs of several sizes and an entry for each.
fn store(seed: u64) -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut dice = Dice::new(seed, 0);
    let folder = Folder::open(&dir.path().join("store"));
    for size in [4096, 4096, 20_480, 64 << 10, 256 << 10, 1 << 20] {
        let bytes = dice.bytes(size);
        let outboard = Outboard::of(&bytes);
        let pack = outboard.pack();
        folder.store.packs_put(folder.no, &[(outboard, bytes)]).expect("stored");
        let entry = folder.next_entry(&[pack], &dice.bytes(100));
        folder.store.entry_add(folder.no, &entry).expect("taken");
    }
    (dir, folder)
}

fn live(folder: &Folder) -> Vec<PackRef> {
    let mut packs = Vec::new();
    folder.store.packs_live(folder.no, &mut |pack, _| packs.push(pack)).expect("reads");
    packs
}
