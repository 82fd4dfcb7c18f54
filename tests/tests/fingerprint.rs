//! What pack sizes tell about known files: of 1,000 files that somebody suspects, half are stored. Whoever sees
//! the packs, as a seeder does, guesses no better than from the total size.
//!
//! The same guess against files that were cut one by one shows that it works where it can (section 2 of
//! `docs/threat-model.md` says so).

use std::collections::BTreeMap;

use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::pack::{ChunkType, size_class};
use cobox_store::keyed::{End, Folder, Home, Unlock};
use cobox_tests::load::Rng;

const FILES: usize = 1000;
/// Between the smallest and the largest file lie seven doublings.
const SMALLEST: usize = 4096;
const DOUBLINGS: u64 = 7;
/// What a sealed chunk, the directory and the footer add, roughly; the guess gains nothing from the last byte.
const SEALING_BYTES: u64 = 300;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// As people copy files in: one cut takes many.
    Together,
    /// A cut after each file, as when files are saved one by one with pauses.
    Each,
}

/// Stores files, and returns what a seeder sees: the sizes of the packs.
fn packs(files: &[&[u8]], cut: Cut) -> Vec<u64> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let unlock = Unlock::KeyFile(dir.path().join("key"));
    let (home, _) = Home::init(&dir.path().join("home"), "device", unlock).expect("a home");
    let folder = home.folder_create("files").expect("a folder");
    for (number, file) in files.iter().enumerate() {
        let mut at = 0;
        while let Some(len) = folder.chunker().next_cut(&file[at..], End::Last) {
            folder.stow(folder.seal(ChunkType::Data, &file[at..at + len])).expect("stows");
            at += len;
        }
        if cut == Cut::Each || number + 1 == files.len() {
            enter(&folder, number as u64 + 1);
        }
    }
    let mut sizes = Vec::new();
    folder.store().packs_live(folder.no(), &mut |pack, _| sizes.push(pack.size)).expect("packs");
    sizes
}

fn enter(folder: &Folder, hlc: u64) {
    let groups = vec![OpGroup { hlc, ops: vec![Op::Ack] }];
    folder.write_entries(hlc, groups, Vec::new(), Default::default()).expect("an entry");
}

/// How many of the files are guessed right: of each size class, as many as there are packs of it are taken to be
/// stored, and the likelier half of the class decides.
fn right_guesses(files: &[Vec<u8>], stored: &[bool], packs: &[u64]) -> usize {
    let class = |file: &Vec<u8>| size_class(file.len() as u64 + SEALING_BYTES);
    let mut classes: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for (file, is_stored) in files.iter().zip(stored) {
        let (all, here) = classes.entry(class(file)).or_default();
        *all += 1;
        *here += usize::from(*is_stored);
    }
    let guess = |(size, (all, here)): (&u64, &(usize, usize))| {
        let seen = packs.iter().filter(|pack| *pack == size).count().min(*all);
        if seen * 2 > *all { *here } else { all - here }
    };
    classes.iter().map(guess).sum()
}

#[test]
fn known_files_are_matched_by_pack_sizes_no_better_than_by_total_size() {
    let seed = 17;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let files: Vec<Vec<u8>> = (0..FILES)
        .map(|_| {
            let size = SMALLEST << rng.below(DOUBLINGS);
            let more = usize::try_from(rng.below(size as u64)).expect("small");
            rng.bytes(size + more)
        })
        .collect();
    let mut stored: Vec<bool> = (0..FILES).map(|number| number % 2 == 0).collect();
    for at in (1..FILES).rev() {
        stored.swap(at, usize::try_from(rng.below(at as u64 + 1)).expect("small"));
    }
    let chosen: Vec<&[u8]> =
        files.iter().zip(&stored).filter(|(_, stored)| **stored).map(|(file, _)| file.as_slice()).collect();
    let right = |cut| right_guesses(&files, &stored, &packs(&chosen, cut));
    let (together, each) = (right(Cut::Together), right(Cut::Each));
    println!(
        "{together} of {FILES} guessed right from packs, {each} where each file was cut alone; 500 by chance"
    );
    // The total size says that half of them are there, and not which.
    assert!(together <= FILES / 2 + FILES / 20, "pack sizes tell which files are stored");
    assert!(each > FILES / 2 + FILES / 20, "the guess does not work even where it can");
}
