//! Chunk + compress + seal + pack on one core and on two, beside what its primitives allow alone.
//!
//! The bound is the harmonic sum of the primitives measured in the same run: FastCDC, keyed BLAKE3
//! (the tag), ChaCha20-Poly1305, and plain BLAKE3 of the pack.

use std::hint::black_box;
use std::thread;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use cobox_benches::{load, megabytes_per_second, print_rate, random_bytes};
use cobox_store::format::pack::ChunkType;
use cobox_store::format::proof::Outboard;
use cobox_store::keyed::{End, Folder, Home, Unlock};

const DATA_BYTES: usize = 256 << 20;
const RUNS: usize = 5;
const PIECE_BYTES: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (home, _words) = Home::init(dir.path(), "bench", Unlock::KeyFile(dir.path().join("key")))?;
    let folder = home.folder_create("bench")?;
    let data = random_bytes(1, DATA_BYTES);
    println!(
        "load {}; {} MiB of incompressible data; smallest, median, largest of {RUNS}",
        load(),
        DATA_BYTES >> 20
    );

    let cut = rate("FastCDC 16/64/256 KiB, seeded", &data, |data| {
        let mut at = 0;
        while let Some(len) = folder.chunker().next_cut(&data[at..], End::Last) {
            at += len;
        }
        black_box(at);
    });
    let tag = rate("keyed BLAKE3, 64 KiB", &data, |data| {
        for piece in data.chunks(PIECE_BYTES) {
            black_box(blake3::keyed_hash(&[1; 32], piece));
        }
    });
    let aead = rate("ChaCha20-Poly1305, 64 KiB", &data, |data| {
        let cipher = ChaCha20Poly1305::new(&Key::from([2; 32]));
        let mut piece = vec![0; PIECE_BYTES];
        for source in data.chunks(PIECE_BYTES) {
            piece[..source.len()].copy_from_slice(source);
            let sealed = cipher.encrypt_inout_detached(&Nonce::default(), b"", piece.as_mut_slice().into());
            black_box(sealed.is_ok());
        }
    });
    let hash = rate("BLAKE3 outboard, 8 MiB", &data, |data| {
        for pack in data.chunks(8 << 20) {
            black_box(Outboard::of(pack));
        }
    });
    let bound = 1.0 / (1.0 / cut + 1.0 / tag + 1.0 / aead + 1.0 / hash);
    println!("{:<44} {:>8} {bound:>8.0}          MB/s", "bound: one after the other", "");

    let one = rate("chunk + compress + seal, one core", &data, |data| {
        black_box(seal_all(&folder, data));
    });
    let with_hash = 1.0 / (1.0 / one + 1.0 / hash);
    println!("  with the pack's hash {with_hash:.0} MB/s, {:.0} % of the bound", 100.0 * with_hash / bound);
    let two = rate("chunk + compress + seal, two cores", &data, |data| {
        let (left, right) = data.split_at(data.len() / 2);
        thread::scope(|scope| {
            scope.spawn(|| black_box(seal_all(&folder, left)));
            black_box(seal_all(&folder, right));
        });
    });
    println!("  two cores are {:.2} times one", two / one);
    Ok(())
}

fn rate(name: &str, data: &[u8], mut work: impl FnMut(&[u8])) -> f64 {
    let rates = megabytes_per_second(RUNS, data.len(), || work(data));
    print_rate(name, rates);
    rates[1]
}

fn seal_all(folder: &Folder, data: &[u8]) -> usize {
    let (mut at, mut sealed_bytes) = (0, 0);
    while let Some(len) = folder.chunker().next_cut(&data[at..], End::Last) {
        sealed_bytes += folder.seal(ChunkType::Data, &data[at..at + len]).bytes.len();
        at += len;
    }
    sealed_bytes
}
