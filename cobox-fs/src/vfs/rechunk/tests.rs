//! Settling against a vector, with chunks in memory.

use std::collections::HashMap;

use cobox_store::id::{ChunkTag, EpochId, hash};
use cobox_store::keyed::SealedChunk;
use parking_lot::Mutex;

use super::*;

/// Chunks in memory, cut where a byte of the content says so.
#[derive(Default)]
struct Chunks {
    stored: Mutex<HashMap<ChunkTag, Vec<u8>>>,
    read_bytes: Mutex<u64>,
}

fn next_cut(data: &[u8], end: End) -> Option<usize> {
    const MIN: usize = 16 * 1024;
    const MAX: usize = 256 * 1024;
    let found = data.iter().skip(MIN).take(MAX - MIN).zip(data.iter().skip(MIN + 1));
    let cut = found.enumerate().find(|(_, (one, two))| **one == 7 && **two < 8).map(|(at, _)| MIN + at);
    match (cut, end) {
        (Some(at), _) => Some(at),
        (None, _) if data.len() >= MAX => Some(MAX),
        (None, End::Last) if !data.is_empty() => Some(data.len()),
        (None, _) => None,
    }
}

impl Chunks {
    fn with<R>(&self, work: impl FnOnce(ChunkIo<'_>) -> R) -> R {
        work(ChunkIo {
            read: &|_, chunk| {
                let bytes = self.stored.lock().get(&chunk.tag).cloned().ok_or(Error::Absent(chunk.tag))?;
                *self.read_bytes.lock() += bytes.len() as u64;
                Ok(bytes.into())
            },
            seal: &|chunk_type, plain| SealedChunk {
                chunk: ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag(hash(plain)) },
                chunk_type,
                bytes: plain.to_vec(),
                plain_len: u32::try_from(plain.len()).expect("small"),
            },
            stow: &|sealed| {
                self.stored.lock().insert(sealed.chunk.tag, sealed.bytes);
                Ok(sealed.chunk)
            },
            next_cut: &next_cut,
        })
    }

    fn bytes_of(&self, map: &FileMap) -> Vec<u8> {
        self.with(|io| {
            let mut bytes = Vec::new();
            for span in resolve(io, map, &(0..map.size())).expect("resolves") {
                assert_eq!(span.start, bytes.len() as u64);
                append(io, &span, &mut bytes).expect("reads");
            }
            bytes
        })
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(len)];
        blake3::Hasher::new().update(&self.below(1 << 50).to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
}

fn change(map: &mut FileMap, model: &mut Vec<u8>, dice: &mut Dice) {
    let offset = if dice.below(3) == 0 { model.len() as u64 } else { dice.below(6_000_000) };
    let len = if dice.below(4) == 0 { dice.below(2_000_000) } else { dice.below(9000) };
    let (from, to) = (usize_of(offset), usize_of(offset + len));
    match dice.below(12) {
        0 => {
            map.truncate(offset);
            model.resize(from, 0);
        }
        1 => {
            map.punch(offset..offset + len);
            let to = to.min(model.len());
            if from < to {
                model[from..to].fill(0);
            }
        }
        _ if len == 0 => {}
        _ => {
            let data = dice.bytes(len);
            map.write(offset, &data);
            if model.len() < to {
                model.resize(to, 0);
            }
            model[from..to].copy_from_slice(&data);
        }
    }
}

#[test]
fn content_after_random_changes_equals_a_vector() {
    for seed in 1..=12u64 {
        let chunks = Chunks::default();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut map = FileMap::new(Arc::new(Content::empty()));
        let mut model = Vec::new();
        for step in 0..40 {
            for _ in 0..=dice.below(5) {
                change(&mut map, &mut model, &mut dice);
            }
            let alignment = match (seed % 3, dice.below(2)) {
                (0, _) | (1, 0) => Alignment::ByContent,
                _ => Alignment::Fixed(16 * 1024),
            };
            let tail = if dice.below(2) == 0 { Tail::Take } else { Tail::Leave };
            let (content, settled) = chunks
                .with(|io| settle(io, &map, alignment, tail))
                .unwrap_or_else(|e| panic!("{seed} {step}: {e}"));
            assert_eq!(content.size(), settled, "seed {seed} step {step}");
            assert!(tail == Tail::Leave || settled == map.size(), "seed {seed} step {step}");
            if settled > 0 || map.size() == 0 {
                let stamp = map.stamp();
                map.rebase(Arc::new(content), stamp, settled);
            }
            assert!(chunks.bytes_of(&map) == model, "seed {seed} step {step}");
        }
    }
}

#[test]
fn one_overwrite_of_a_large_file_reads_and_stores_little() {
    for alignment in [Alignment::ByContent, Alignment::Fixed(16 * 1024)] {
        let chunks = Chunks::default();
        let mut dice = Dice(99);
        let mut map = FileMap::new(Arc::new(Content::empty()));
        map.write(0, &dice.bytes(40_000_000));
        let (content, settled) =
            chunks.with(|io| settle(io, &map, Alignment::ByContent, Tail::Take)).expect("settles");
        assert!(matches!(content, Content::Tree { .. }));
        map.rebase(Arc::new(content), map.stamp(), settled);
        let (stored, _) = (chunks.stored.lock().len(), *chunks.read_bytes.lock());
        *chunks.read_bytes.lock() = 0;
        map.write(20_000_001, &[1; 4096]);
        chunks.with(|io| settle(io, &map, alignment, Tail::Take)).expect("settles");
        let new = chunks.stored.lock().len() - stored;
        assert!(new <= 24, "{alignment:?}: {new} new chunks");
        let read = *chunks.read_bytes.lock();
        assert!(read < 2_000_000, "{alignment:?}: {read} bytes read");
    }
}

#[test]
fn file_written_in_parts_has_the_chunks_of_one_written_at_once() {
    let chunks = Chunks::default();
    let bytes = Dice(5).bytes(20_000_000);
    let mut whole = FileMap::new(Arc::new(Content::empty()));
    whole.write(0, &bytes);
    let list = |content: &Content| {
        let mut extents = Vec::new();
        chunks
            .with(|io| {
                extents_in(io, content, 0..content.size(), &mut |at, extent| extents.push((at, extent)))
            })
            .expect("reads");
        extents
    };
    let (at_once, _) =
        chunks.with(|io| settle(io, &whole, Alignment::ByContent, Tail::Take)).expect("settles");
    let mut parts = FileMap::new(Arc::new(Content::empty()));
    for part in bytes.chunks(3_333_333) {
        parts.write(parts.size(), part);
        let (content, settled) =
            chunks.with(|io| settle(io, &parts, Alignment::ByContent, Tail::Leave)).expect("settles");
        parts.rebase(Arc::new(content), parts.stamp(), settled);
    }
    let (in_parts, _) =
        chunks.with(|io| settle(io, &parts, Alignment::ByContent, Tail::Take)).expect("settles");
    assert_eq!(list(&in_parts), list(&at_once));
}

#[test]
fn hole_of_terabytes_between_data_costs_no_chunks() {
    let chunks = Chunks::default();
    let mut map = FileMap::new(Arc::new(Content::empty()));
    for at in 0..100u64 {
        map.write(at << 40, &[9; 5000]);
    }
    for alignment in [Alignment::ByContent, Alignment::Fixed(65536)] {
        let (content, settled) = chunks.with(|io| settle(io, &map, alignment, Tail::Take)).expect("settles");
        assert_eq!(settled, (99 << 40) + 5000);
        let allocated =
            chunks.with(|io| crate::vfs::content::allocated_bytes(io, &content, 512)).expect("counts");
        assert_eq!(allocated, 500_000);
    }
}

#[test]
fn extent_tree_whose_nodes_cover_other_sizes_than_said_is_refused() {
    use cobox_store::format::content::Node;

    use super::super::content::{Edit, allocated_bytes, extents_in, splice};
    let chunks = Chunks::default();
    let node = |node: &Node| chunks.with(|io| (io.stow)((io.seal)(ChunkType::Node, &node.encode())));
    let leaf = |len: u64| node(&Node::Leaf(vec![Extent::Hole { len }])).expect("stowed");
    let honest = node(&Node::Inner(vec![(100, leaf(100)), (50, leaf(50))])).expect("stowed");
    let shifted = node(&Node::Inner(vec![(90, leaf(100)), (60, leaf(50))])).expect("stowed");
    let tree = |root, size| Content::Tree { root, height: 2, size };
    let walk = |content: &Content| {
        let mut visited = Vec::new();
        let walked = chunks.with(|io| {
            extents_in(io, content, 0..content.size(), &mut |at, extent| visited.push((at, extent.len())))
        });
        walked.map(|()| visited)
    };
    assert_eq!(walk(&tree(honest, 150)).expect("is right"), [(0, 100), (100, 50)]);
    for wrong in [tree(honest, 149), tree(honest, 1 << 40), tree(shifted, 150)] {
        assert!(matches!(walk(&wrong), Err(Error::Decode(_))), "{wrong:?}");
        let edit = Edit { range: 0..1, extents: vec![Extent::Hole { len: 1 }] };
        let spliced = chunks.with(|io| splice(io, &wrong, &[edit], wrong.size()));
        assert!(matches!(spliced, Err(Error::Decode(_))), "{wrong:?}");
        assert!(chunks.with(|io| allocated_bytes(io, &wrong, 64)).is_err(), "{wrong:?}");
    }
}
