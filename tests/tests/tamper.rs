//! One flipped, truncated, swapped or replayed byte in every stored and sent object: it is refused, or
//! it changes nothing that anybody reads. Never a wrong byte, never a panic.
//!
//! `COBOX_SOAK=N` multiplies the number of mutations, which is over 100,000 without it.

use std::path::Path;
use std::sync::Arc;

use cobox_store::format::Reader;
use cobox_store::format::access::UnverifiedRecord;
use cobox_store::format::entry::{Entry, UnverifiedEntry};
use cobox_store::format::locator::UnverifiedLocator;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::pack::ChunkType;
use cobox_store::format::proof::{LeafProof, Outboard, slice_count};
use cobox_store::format::{SLICE_BYTES, Writer};
use cobox_store::keyed::{Folder, Home, Unlock};
use cobox_tests::load::Rng;

const MUTATIONS_EACH: u64 = 13_000;

struct Sample {
    _dir: tempfile::TempDir,
    home: Arc<Home>,
    folder: Arc<Folder>,
    words: cobox_store::keyed::MemberSecret,
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let unlock = Unlock::KeyFile(dir.path().join("key"));
    let (home, words) = Home::init(&dir.path().join("home"), "sample", unlock).expect("a home");
    let folder = home.folder_create("sample").expect("a folder");
    Sample { _dir: dir, home, folder, words }
}

fn soak() -> u64 {
    std::env::var("COBOX_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// One random change: a flipped bit, a cut, an insertion, or two swapped pieces.
fn mutate(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bent = bytes.to_vec();
    let at = rng.below(bytes.len() as u64) as usize;
    match rng.below(8) {
        0 => bent.truncate(at),
        1 => bent.insert(at, rng.draw() as u8),
        2 => {
            let other = rng.below(bytes.len() as u64) as usize;
            bent.swap(at, other);
        }
        3 => {
            let len = (1 + rng.below(32) as usize).min(bytes.len() - at);
            bent[at..at + len].fill(0);
        }
        _ => bent[at] ^= 1 << rng.below(8),
    }
    bent
}

/// Runs `survives` on mutations of `bytes` that differ from them; it says whether the mutation was
/// taken for genuine.
fn assault(name: &str, seed: u64, bytes: &[u8], mut survives: impl FnMut(&[u8]) -> bool) {
    let mut rng = Rng::new(seed);
    let mut tried = 0;
    while tried < MUTATIONS_EACH * soak() {
        let bent = mutate(&mut rng, bytes);
        if bent != bytes {
            tried += 1;
            assert!(!survives(&bent), "{name}: mutation {tried} of seed {seed} was taken for genuine");
        }
    }
    println!("{name}: {tried} mutations of {} bytes refused (seed {seed})", bytes.len());
}

fn write_entry(folder: &Folder, text: &[u8]) -> Entry {
    let sealed = folder.seal(ChunkType::Data, text);
    folder.stow(sealed).expect("stows");
    let hlc = 1 + folder.store().log_heads(folder.no()).expect("heads").len() as u64;
    let groups = vec![OpGroup { hlc, ops: vec![Op::Ack] }];
    let head = folder.write_entries(hlc, groups, Vec::new(), Default::default()).expect("an entry");
    folder.store().entry(folder.no(), head.log, head.seq).expect("reads").expect("is there")
}

#[test]
fn entry_tampered_is_refused() {
    let sample = sample();
    let entry = write_entry(&sample.folder, b"entry text");
    let body = sample.folder.open_entry(&entry).expect("opens");
    assert_eq!(body.groups.len(), 1);
    assault("entry", 1, &entry.encode(), |bytes| {
        UnverifiedEntry::decode(bytes).is_ok_and(|entry| entry.verify().is_ok())
    });
}

#[test]
fn entry_body_tampered_after_its_signature_is_not_opened() {
    let sample = sample();
    let entry = write_entry(&sample.folder, b"body text");
    assault("sealed body", 2, entry.body(), |bytes| {
        let forged = Entry::new(entry.header().clone(), [0; 64], bytes.to_vec());
        sample.folder.open_entry(&forged).is_ok()
    });
}

#[test]
fn entry_of_another_folder_or_replayed_is_refused() {
    let (one, two) = (sample(), sample());
    let entry = write_entry(&one.folder, b"first");
    write_entry(&one.folder, b"second");
    assert!(two.folder.store().entry_add(two.folder.no(), &entry).is_err(), "another folder's entry");
    assert!(two.folder.open_entry(&entry).is_err(), "another folder's body");
    let heads = one.folder.store().log_heads(one.folder.no()).expect("heads");
    one.folder.store().entry_add(one.folder.no(), &entry).expect("a replay is known already");
    assert_eq!(one.folder.store().log_heads(one.folder.no()).expect("heads"), heads);
}

#[test]
fn access_record_tampered_is_refused() {
    let sample = sample();
    for (at, record) in (0..).zip(sample.folder.store().access_records(sample.folder.no()).expect("records"))
    {
        assault("access record", 30 + at, &record.encode(), |bytes| {
            UnverifiedRecord::decode(bytes).is_ok_and(|record| record.verify().is_ok())
        });
    }
}

#[test]
fn locator_tampered_is_refused() {
    let sample = sample();
    let locator = sample.home.locator_make().expect("a locator");
    assert!(Home::locator_open(&sample.words, &locator).is_ok());
    assault("locator", 4, &locator.encode(), |bytes| {
        let genuine = UnverifiedLocator::decode(bytes).ok().and_then(|locator| locator.verify().ok());
        genuine.is_some_and(|locator| Home::locator_open(&sample.words, &locator).is_ok())
    });
}

fn pack_of(sample: &Sample) -> (Outboard, Vec<u8>) {
    let mut rng = Rng::new(5);
    let store = sample.folder.store();
    for _ in 0..5 {
        let text = rng.bytes(60_000);
        sample.folder.stow(sample.folder.seal(ChunkType::Data, &text)).expect("stows");
    }
    write_entry(&sample.folder, b"carries the pack");
    let mut packs = Vec::new();
    store.packs_live(sample.folder.no(), &mut |pack, _| packs.push(pack)).expect("packs");
    let pack = packs.into_iter().max_by_key(|pack| pack.size).expect("one pack");
    let outboard = store.outboard(sample.folder.no(), pack.id).expect("reads").expect("is there");
    let len = usize::try_from(pack.size).expect("fits");
    (outboard, store.pack_range(sample.folder.no(), pack.id, 0, len).expect("reads").expect("is there"))
}

#[test]
fn pack_slice_outboard_and_proof_tampered_are_refused() {
    let sample = sample();
    let (outboard, bytes) = pack_of(&sample);
    assert!(slice_count(bytes.len() as u64) > 1, "the sample has several slices");
    let slice = &bytes[..SLICE_BYTES as usize];
    assault("slice", 6, slice, |bent| outboard.slice_matches(0, bent));
    assault("outboard", 7, &outboard.encode(), |bent| Outboard::decode(outboard.pack(), bent).is_ok());
    let proof = outboard.prove_leaf(3, slice).expect("there is a leaf");
    let mut writer = Writer::new();
    proof.encode(&mut writer);
    assault("proof", 8, &writer.into_bytes(), |bent| {
        let mut reader = Reader::new(bent);
        let read = LeafProof::decode(&mut reader);
        reader.finish().is_ok() && read.is_ok_and(|proof| proof.proves(outboard.pack(), 3))
    });
}

#[test]
fn local_row_tampered_or_moved_to_another_key_is_not_opened() {
    let sample = sample();
    let local = sample.folder.local();
    let sealed = local.seal(b"key", b"a name and its attributes");
    assert_eq!(local.open(b"key", &sealed).expect("opens"), b"a name and its attributes");
    assert!(local.open(b"other key", &sealed).is_err());
    assault("local row", 9, &sealed, |bent| local.open(b"key", bent).is_ok());
}

/// Flips bytes in the files under a closed store: what is read afterwards is right or an error.
#[test]
fn store_files_tampered_never_give_a_wrong_byte() {
    let sample = sample();
    let mut rng = Rng::new(10);
    let mut chunks = Vec::new();
    for _ in 0..40 {
        let len = 1 + rng.below(200_000) as usize;
        let text = rng.bytes(len);
        let chunk = sample.folder.stow(sample.folder.seal(ChunkType::Data, &text)).expect("stows");
        chunks.push((chunk, text));
        if rng.below(4) == 0 {
            write_entry(&sample.folder, &rng.bytes(50));
        }
    }
    sample.folder.flush_packs().expect("flushes");
    let (dir, unlock) = (sample._dir.path().join("home"), sample._dir.path().join("key"));
    let Sample { _dir: keep, home, folder, .. } = sample;
    drop((home, folder));
    let (mut right, mut refused) = (0u64, 0u64);
    for round in 0..12 * soak() {
        let copy = keep.path().join(format!("copy-{round}"));
        copy_dir(&dir, &copy);
        damage(&mut rng, &copy);
        let opened = Home::open(&copy, Unlock::KeyFile(unlock.clone()));
        let folder = opened.ok().and_then(|home| home.folder_by_name("sample").ok());
        for (chunk, text) in &chunks {
            match folder.as_ref().map(|folder| folder.read_chunk(ChunkType::Data, *chunk)) {
                Some(Ok(read)) => {
                    assert_eq!(&read[..], &text[..], "round {round}: a wrong byte");
                    right += 1;
                }
                _ => refused += 1,
            }
        }
        drop(folder);
        std::fs::remove_dir_all(&copy).expect("removes the copy");
    }
    println!("store files: {right} reads right, {refused} refused");
    assert!(right > 0, "no damaged store could be read at all");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("has a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// Flips three bytes in one file that holds data.
fn damage(rng: &mut Rng, dir: &Path) {
    let mut files = Vec::new();
    collect(dir, &mut files);
    let file = &files[rng.below(files.len() as u64) as usize];
    let mut bytes = std::fs::read(file).expect("reads");
    for _ in 0..3 {
        let at = rng.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
    }
    std::fs::write(file, bytes).expect("writes");
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.metadata().is_ok_and(|data| data.len() > 0)
            && path.extension().is_some_and(|ending| ending == "sst" || ending == "log")
        {
            files.push(path);
        }
    }
    files.sort();
}
